"""What a network is made of, as far as maps are concerned. It is found by tracing the network once, without running it.

A network is called through one `Signature`: how photos are fed to it, which of its outputs is explained, and over which
region where that output has a score for each pixel.
"""

import math
from collections import Counter
from dataclasses import dataclass, field

import keras
import numpy as np
from keras import Model, layers, ops
from keras.src.layers.preprocessing.data_layer import DataLayer
from keras.src.models.functional import Functional

from camlib.attribution.geometry import NOWHERE, UNKNOWN, Place, PlaceFinder, computes, rearranges
from camlib.attribution.guided import KNOWN_ACTIVATION, guided_rule
from camlib.attribution.heads import Signature, output_named, region_at
from camlib.attribution.tracing import ATTENTION, SOFTMAXES, ForwardPass, tapped_run, trace_calls
from camlib.backend import activation_operations, compiled, depends_on, differentiate, traced
from camlib.console import UserError, first_line, shown_shape
from camlib.memory import check_memory, photo_memory

# Activations that squeeze a score into a range: behind the last weights they hide it
SQUEEZING = {*"sigmoid hard_sigmoid sparse_sigmoid log_sigmoid tanh hard_tanh softsign".split(), *SOFTMAXES}

# ---------------------------------------------------------------- what a network is made of


@dataclass(frozen=True)
class Structure:
    """What a network is made of, as far as maps are concerned.

    Attributes:
        sizes: dict of path -> (h, w, K), what can be mapped, in the order of the last calls.
        tokens: set of the paths among them whose output is (N, T, K); its last h w tokens are the patches of a photo.
        target: path of the default: the last that computes anything new, tokens and pooling aside (VGG-16's
            block5_conv3); of a vision transformer the normalisation before the last attention; of a segmentation the
            last of the coarsest.
        extents: dict of path -> (top, left, bottom, right), the part of the photo that each of them covers, in shares
            of its height and width; None for all of it; UNKNOWN or NOWHERE of `camlib.attribution.geometry`.
        calls: dict of path -> int, how often each of them is called; more than once for a shared layer.
        runs: dict of path -> int, which of these calls is mapped, from 1: the last that saw the photo.
        in_doubt: set of the paths whose axes may not be the photo's, since something that moves values about, or code
            of the network's own, ran before.
        rescaling: dict of path -> layer, the Rescaling and Normalization layers that the network begins with.
        relus: list of (path, kind).
        others: list of (path, kind), activations through which guided backpropagation is not defined or not to be had;
            the network's last softmax or sigmoid is none of them.
        output_activation: "softmax", "sigmoid" or "linear".
        units: int, of the output.
        two_sided: bool, the one unit there is stands for two classes, see `both_sides`.
        segments: bool, there is a score for each pixel.
        memory: (float, float), bytes that each photo of a batch takes, without gradients and with them.
        signature: Signature, with its head by name.
    """

    sizes: dict
    tokens: set
    target: str | None
    extents: dict
    calls: dict
    runs: dict
    in_doubt: set
    rescaling: dict
    relus: list
    others: list
    output_activation: str
    units: int
    two_sided: bool
    segments: bool
    memory: tuple
    signature: Signature = field(default_factory=Signature)

    @property
    def class_count(self):
        return 2 if self.two_sided else self.units

    @property
    def score(self):
        """What is explained, in words."""
        kind = self.output_activation
        logits = "its output" if kind == "linear" else f"the input of its last {kind}"
        if not self.segments:
            return logits
        where = "the pixels that it gives to the class" if self.signature.region is None else "the region"
        return f"{logits}, added up over {where}"

    def extent_of(self, path):
        """(top, left, bottom, right), the part of the photo that a layer's map covers, in shares; None for all of it.

        What is beyond 0 and 1 was padded. See `check_place` for what is not known.
        """
        extent = self.extents[path]
        return None if isinstance(extent, str) else extent

    def as_picture(self, path, values):
        """What a layer puts out as (N, h, w, K): tokens in the places of their patches, leading ones left out."""
        if path not in self.tokens:
            return values
        height, width, _ = self.sizes[path]
        return ops.reshape(values[:, -height * width :], (-1, height, width, values.shape[-1]))

    def scores(self, trace, outputs):
        """(logits (N, C), outputs (N, C)) of the output asked for.

        The score of a class of a segmentation is the sum of its logits over the pixels that the network gives to it, or
        over the region asked for (Vinogradova et al. 2020, eq. 2); its output the mean over all pixels.
        """
        last = trace.output_activation(outputs)
        logits = outputs if last is None else last.logits
        logits = both_sides(logits) if self.two_sided else logits
        if not self.segments:
            return logits, outputs
        if self.signature.region is None:
            inside = ops.one_hot(ops.argmax(logits, axis=-1), logits.shape[-1], dtype=logits.dtype)  # (N, h, w, C)
        else:
            inside = ops.cast(self.signature.region[None, ..., None], logits.dtype)  # (1, h, w, 1)
        return ops.sum(logits * ops.stop_gradient(inside), axis=(1, 2)), ops.mean(outputs, axis=(1, 2))


def both_sides(logits):
    """Of the logits (..., 1) of a single unit, z, those of both classes, (-z, z): their sigmoids add up to 1."""
    return ops.concatenate((-logits, logits), axis=-1)


def inspect_network(network, shape, signature=None):
    """Trace a network, without running it.

    Args:
        network: keras.Model.
        shape: (H, W, channels) of its input.
        signature: Signature; its head may be an index.

    Raises:
        UserError: the network does not take such photos; it has several outputs and none was asked for; its output is
            no scores (N, classes) or (N, h, w, classes); its logits cannot be told; or a single photo does not fit into
            memory.
    """
    signature = signature or Signature()
    trace, all_outputs, program, memory = trace_network(network, shape, signature)
    check_memory(memory[0], 1, max(shape[:2]))
    head, outputs = output_named(network, all_outputs, signature.head)
    if not is_scores(outputs):
        raise UserError(
            f"the network {network.name!r} returns shape {shown_shape(outputs.shape)}; expected scores of shape "
            "(N, classes), or (N, h, w, classes) of a segmentation"
        )
    last, beside = trace.output_activation(outputs), layers_beside(network, head)
    if last is None:
        refuse_hidden_logits(network, trace, outputs, beside)
    segments, kind = len(outputs.shape) == 4, last.kind if last else "linear"
    region = region_at(signature.region, network, outputs) if signature.region is not None else None
    sizes, tokens, in_doubt, runs, places = outputs_to_map(network, trace, beside)
    return Structure(
        sizes,
        tokens,
        target=target_of(trace, sizes, tokens, segments),
        extents={
            path: place.extent(sizes[path][:2], shape[:2]) if isinstance(place, Place) else place
            for path, place in places.items()
        },
        calls=Counter(call.path for call in trace.calls),
        runs=runs,
        in_doubt=in_doubt,
        rescaling=rescaling_of(trace),
        relus=trace.relus,
        others=activations_in_the_way(trace, last, program, beside),
        output_activation=kind,
        units=outputs.shape[-1],
        two_sided=kind == "sigmoid" and outputs.shape[-1] == 1,
        segments=segments,
        memory=memory,
        signature=Signature(signature.feed, head, region),
    )


def trace_network(network, shape, signature):
    """Trace a network and its guided gradients; the arguments as for `inspect_network`.

    Returns:
        (Trace, all outputs, the traced program, what of Structure is called memory).
    """
    seen = []  # (Trace, all outputs) of each trace

    def logits_of(images):
        with trace_calls() as trace:
            outputs = network(signature.feed(images), training=False)
        trace.photo, trace.sees_photo = images, depends_on(images)
        seen.append((trace, outputs))
        try:
            _, output = output_named(network, outputs, signature.head)
            last = trace.output_activation(output)
        except UserError:  # told by `inspect_network`, where nothing else can have gone wrong
            return images
        return last.logits if last else output if is_scores(output) else images

    def take_guided_gradient(images):
        logits, _, _, _, pull_to_images = differentiate(lambda x, tap: (logits_of(x), ()), images)
        u = ops.ones_like(logits)
        pull_to_images(u)  # first, as for maps: some operations keep the gradient that was taken first
        with guided_rule():
            return pull_to_images(u)

    try:
        batch = (2, *shape)  # of one photo, loops over photos would be another program
        program = traced(logits_of, batch)
        traced(take_guided_gradient, batch)
    except Exception as error:  # whatever a network's own code, Keras or the backend raises
        size = "x".join(map(str, shape))
        raise UserError(
            f"the network {network.name!r} does not run on photos of {size} ({first_line(error)})"
        ) from error
    return *seen[-1], program, photo_memory(program, batch[0])


def is_scores(outputs):
    """Whether an output holds scores of each photo, or of each of its pixels."""
    return len(outputs.shape) in (2, 4)


def layers_beside(network, head):
    """The names of the layers of a functional network that have no part in one of its several outputs: set."""
    if head is None or not isinstance(network, Functional):
        return set()
    _, output = output_named(network, network.output, head)
    with_part = {layer.name for layer in keras.Model(network.input, output).layers}
    return {layer.name for layer in network.layers} - with_part


def activations_in_the_way(trace, last, program, beside):
    """`Structure.others`; those in the layers `beside` the output are none."""
    at_the_end = [id(activation) for activation in last.activations] if last else []
    others = [one for one in trace.activations if id(one) not in at_the_end and one.kind not in SOFTMAXES]
    others = [one for one in others if one.path.split("/")[0] not in beside]
    unreachable = [relu for index, relu in enumerate(trace.relus) if index not in trace.guided]
    unreachable = [(path, kind) for path, kind in unreachable if path.split("/")[0] not in beside]
    return [
        *((one.path, one.kind) for one in others),
        *activation_operations(program, KNOWN_ACTIVATION),
        *((path, f"{kind} whose gradient is out of reach") for path, kind in unreachable),
    ]


def refuse_hidden_logits(network, trace, outputs, beside):
    """Raise UserError where the outputs are made from a softmax or the like, but not by it alone."""
    for activation in [one for one in trace.activations if one.path.split("/")[0] not in beside]:
        shape = activation.output.shape
        over_classes = activation.kind in SOFTMAXES and shape[-1] == outputs.shape[-1]
        behind = activation.kind in SQUEEZING and trace.behind_weights(activation)
        if len(shape) == len(outputs.shape) and (over_classes or behind):
            raise UserError(
                f"the network {network.name!r} makes its output from a {activation.kind} in "
                f"{activation.path or 'its own code'}, so that its logits cannot be told; expected a network that ends "
                "in softmax, sigmoid or neither"
            )


# ---------------------------------------------------------------- what can be mapped


def is_own_code(layer):
    """Whether a layer or network runs code that is not Keras's; a functional network runs its layers alone."""
    return layer is not None and not type(layer).__module__.startswith("keras.")


def outputs_to_map(network, trace, beside=()):
    """(sizes, tokens, in_doubt, runs) for Structure, and dict of path -> Place, UNKNOWN or NOWHERE.

    Calls that did not see the photo, as of a twin network's other one, and layers `beside` the output are left out.

    Raises:
        UserError: a layer's output is (N, K, h, w).
    """
    sizes, tokens, in_doubt, runs, found = {}, set(), set(), {}, {}
    grids, doubt, count, places = [], is_own_code(network), Counter(), PlaceFinder(trace)
    transforms = any(isinstance(call.layer, ATTENTION) for call in trace.calls)
    for call in trace.calls:
        path, layer, output = call.path, call.layer, call.output
        count[path] += 1
        if path.split("/")[0] in beside or not any(trace.sees_photo(one) for one in keras.tree.flatten(output)):
            continue
        size, place = tuple(getattr(output, "shape", ()))[1:], places.of_call(call)
        # one number per channel has no place: squeeze-and-excitation reshapes such
        moved = rearranges(layer) and any(side != 1 for side in size[:-1]) and id(output) not in places.in_order
        doubt = doubt or moved or is_own_code(layer)
        if len(size) == 3 and size[0] * size[1] > 1:
            if getattr(layer, "data_format", None) == "channels_first":
                raise UserError(
                    f"layer {path!r} of the network {network.name!r} has its channels first; expected (N, h, w, K)"
                )
            if computes(layer):
                grids.append(size[:2])
        elif len(size) == 2 and (grid := grid_of(size[0], grids, transforms)):
            size, place = (*grid, size[1]), places.latest.get(grid, UNKNOWN)
            tokens.add(path)
        else:
            continue
        sizes.pop(path, None)  # what is called again moves to the end
        sizes[path], runs[path], found[path] = size, count[path], place
        in_doubt.discard(path)
        if doubt or path in tokens:
            in_doubt.add(path)
    return sizes, tokens, in_doubt, runs, found


def grid_of(count, grids, transforms):
    """The (h, w) of so many tokens, or of one less beside a class token; None where they are no patches.

    Args:
        count: int.
        grids: list of (h, w), of what was computed before; the last that fits is taken.
        transforms: bool, the network has attention: where its own code cut the patches a square grid is supposed, which
            `check_axes` puts to the test.
    """
    for height, width in reversed(grids):
        if height * width in (count, count - 1):
            return height, width
    sides = [side for side in (math.isqrt(count), math.isqrt(count - 1)) if side > 1 and side**2 in (count, count - 1)]
    return (sides[0], sides[0]) if transforms and sides else None


def target_of(trace, sizes, tokens, segments):
    """`Structure.target`."""
    attention = [call.input for call in trace.calls if isinstance(call.layer, ATTENTION)]
    normalised = [call for call in trace.calls if attention and call.output is attention[-1] and call.path in tokens]
    if normalised and isinstance(normalised[-1].layer, layers.LayerNormalization):
        return normalised[-1].path
    seen, found = set(), []
    for path, layer, _, output, *_ in trace.calls:
        # a nested network repeats its last layer
        if path in sizes and path not in tokens and id(output) not in seen and computes(layer):
            found.append(path)
        seen.add(id(output))
    if segments and found:  # what is behind the bottleneck has ever less to tell than the output itself
        pixels = {path: math.prod(sizes[path][:2]) for path in found}
        found = [path for path in found if pixels[path] == min(pixels.values())]
    return found[-1] if found else None


# ---------------------------------------------------------------- what a pixel becomes


def rescaling_of(trace):
    """`Structure.rescaling`: the layers that rescale pixels before anything else, augmentation aside.

    What comes behind weights does not rescale pixels. Layers of a nested network stand before it in the trace.
    """
    found = {}
    for path, layer, *_ in trace.calls:
        nested = isinstance(layer, (Model, layers.Pipeline)) and not is_own_code(layer)
        if isinstance(layer, (layers.Rescaling, layers.Normalization)):
            found[path] = layer
        elif not isinstance(layer, DataLayer) and not nested and (computes(layer) or getattr(layer, "weights", None)):
            break
    return found


# ---------------------------------------------------------------- are the axes of a layer the photo's?

SOME = 8  # names of layers in a message
LEAST_MOVE = 0.03  # shares of an axis: what moves less is not told from no move


def some_of(names):
    """The last names of layers, for a message."""
    names = list(names)
    return ", ".join(["..."] * (len(names) > SOME) + names[-SOME:])


def check_axes(network, structure, layer, input_spec, asked):
    """Make sure that the rows and columns of what a layer puts out are the photo's.

    Where nothing but Keras's own layers without rearrangement ran before, they are. Else four photos that differ from a
    fifth in one half are run: what changes at the left of the photo has to change further left in the map than what
    changes at its right, and the same upwards, by more than it moves along the other axis.

    Args:
        network: keras.Model.
        structure: Structure of the network.
        layer: str, its path.
        input_spec: InputSpec.
        asked: bool, the user named the layer: then it is refused only if the axes are known to be others.

    Raises:
        UserError: the axes are not the photo's, or cannot be known.
    """
    if layer not in structure.in_doubt:
        return
    along, across = axes_moved(network, structure, layer, input_spec)
    height, width, _ = structure.sizes[layer]
    if min(height, width) > 1 and (along > np.maximum(LEAST_MOVE, 2 * np.abs(across))).all():
        return
    turned = (along < -LEAST_MOVE) | (np.abs(across) > np.maximum(LEAST_MOVE, 2 * np.abs(along)))
    others = turned.any() or height > input_spec.height or width > input_spec.width
    if others or not asked:
        found = "are not the photo's" if others else "cannot be told to be the photo's"
        earlier = some_of([name for name in structure.sizes if name != layer])
        raise UserError(
            f"the rows and columns of layer {layer!r} {found}: something before it moves values about; expected "
            f"--layer with one of {earlier}"
        )


def axes_moved(network, structure, layer, input_spec):
    """How far what changes in a layer's output moves with what changes in the photo, in shares of each axis.

    Returns:
        (along (2,), across (2,)): from a change of the photo's upper to one of its lower half along the map's rows,
        from left to right along its columns; and along its rows from left to right, its columns from up to down.
    """
    rows, columns = input_spec.height // 2, input_spec.width // 2
    halves = (np.s_[:rows], np.s_[rows:], np.s_[:, :columns], np.s_[:, columns:])
    changes = changes_in(network, structure, layer, input_spec, halves)  # (4, h, w)
    total = changes.sum(axis=(1, 2))
    if not (np.isfinite(total).all() and (total > 0).all()):
        return np.zeros(2), np.zeros(2)
    shares = changes / total[:, None, None]
    height, width = shares.shape[1:]
    row = shares.sum(axis=2) @ (np.arange(height) / height)  # (4,), centres of the changes
    column = shares.sum(axis=1) @ (np.arange(width) / width)
    return np.array([row[1] - row[0], column[3] - column[2]]), np.array([row[3] - row[2], column[1] - column[0]])


def check_place(network, structure, layer, input_spec):
    """Make sure that a layer's map lies in a rectangle of the photo that is known.

    Where code that cannot be followed made it, it is supposed to cover the whole photo, and that is put to the test.

    Raises:
        UserError: it lies in none, or not over the whole photo.
    """
    place = structure.extents[layer]
    if place is NOWHERE or (place is UNKNOWN and not reaches_edges(network, structure, layer, input_spec)):
        found = "is no rectangle" if place is NOWHERE else "is not known"
        known = some_of([name for name, one in structure.extents.items() if not isinstance(one, str)])
        raise UserError(
            f"the part of the photo that layer {layer!r} covers {found}, so that its map cannot be laid over the "
            f"photo; expected --layer with one of {known}"
        )


EDGE_SHARES = 16, 8  # what share of the photo is changed at an edge; of the map's, where that has to be seen


def reaches_edges(network, structure, layer, input_spec):
    """Whether what changes at each edge of the photo changes a layer's output most at the same edge."""
    height, width, _ = structure.sizes[layer]
    of_photo, of_map = [
        (np.s_[:rows], np.s_[-rows:], np.s_[:, :columns], np.s_[:, -columns:])
        for rows, columns in (
            (max(1, input_spec.height // EDGE_SHARES[0]), max(1, input_spec.width // EDGE_SHARES[0])),
            (max(1, height // EDGE_SHARES[1]), max(1, width // EDGE_SHARES[1])),
        )
    ]
    changes = changes_in(network, structure, layer, input_spec, of_photo)
    return all(change[edge].mean() > change.mean() for change, edge in zip(changes, of_map, strict=True))


def changes_in(network, structure, layer, input_spec, regions):
    """How much each cell of a layer's output changes with the negative of a region of a photo: float (R, h, w).

    Args:
        network, structure, layer, input_spec: as for `check_axes`.
        regions: list of R slices of the photo.
    """
    shape = (1 + len(regions), input_spec.height, input_spec.width, input_spec.channels)
    photos = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    photos[1:] = photos[0]
    for photo, region in zip(photos[1:], regions, strict=True):
        photo[region] = 255 - photo[region]
    values = features_of(network, structure, layer, input_spec.prepare(photos)).astype(np.float64)
    return np.abs(values[1:] - values[0]).sum(axis=-1)


def features_of(network, structure, layer, inputs):
    """What a layer puts out in the run that is mapped, as (N, h, w, K): a NumPy array."""
    run = tapped_run(network, structure, [layer])
    # compiled, since what every layer puts out at once would fill the memory
    features = compiled(lambda images: ForwardPass(run, structure, images).features[layer], network)
    return ops.convert_to_numpy(features(ops.convert_to_tensor(inputs)))
