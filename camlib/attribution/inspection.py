"""What a network is made of, as far as maps are concerned. It is found by tracing the network once, without running it.

A network is called through one `Signature`: how photos are fed to it, which of its outputs is explained, and over which
region where that output has a score for each pixel.
"""

import math
from collections import Counter
from dataclasses import dataclass, field

import keras
import numpy as np
from keras import layers, ops
from keras.src.layers.preprocessing.data_layer import DataLayer

from camlib.attribution.guided import KNOWN_ACTIVATION, guided_rule
from camlib.attribution.heads import Signature, head_named, heads_of, region_at
from camlib.attribution.tracing import ATTENTION, SOFTMAXES, passes_on, tapped_run, trace_calls
from camlib.backend import activation_operations, compiled, differentiate, sizes_in, traced
from camlib.console import UserError, first_line
from camlib.memory import check_memory

POOLING = (layers.MaxPooling2D, layers.AveragePooling2D)
POOLING_OPERATIONS = {"MaxPool", "AveragePool", "AdaptiveMaxPool", "AdaptiveAveragePool"}
# What moves values about
REARRANGING = (layers.Permute, layers.Reshape, layers.Flatten)
REARRANGING_OPERATIONS = set(
    "DepthToSpace Einsum Flip Fliplr Flipud Moveaxis Ravel Reshape Roll Rot90 SpaceToDepth Stack Swapaxes Tensordot "
    "Transpose".split()
)
# What else gives no new features: other sizes of the same ones, noise of training, pixels as the network wants them
PASSING = (
    layers.Cropping2D,
    layers.ZeroPadding2D,
    layers.UpSampling2D,
    layers.SpatialDropout2D,
    layers.GaussianDropout,
    layers.GaussianNoise,
    layers.ActivityRegularization,
    DataLayer,
)
PASSING_OPERATIONS = set(
    "BroadcastTo Cast ConvertToTensor Copy CropImages ExpandDims GetItem Pad PadImages Repeat Resize SaturateCast "
    "Slice Split Squeeze StopGradient Tile".split()
)
# Activations that squeeze a score into a range: behind the last weights they hide it
SQUEEZING = {*"sigmoid hard_sigmoid sparse_sigmoid log_sigmoid tanh hard_tanh softsign".split(), *SOFTMAXES}

# ---------------------------------------------------------------- what a network is made of


@dataclass(frozen=True)
class Structure:
    """What a network is made of, as far as maps are concerned.

    Attributes:
        spatial: dict of path -> (h, w, K), what has more than one pixel, in the order of the last calls.
        tokens: dict of path -> (h, w, K), outputs (N, T, K) whose last h w tokens are the patches of a photo.
        target: path of the default: the last of `spatial` that computes anything new, pooling aside (VGG-16's
            block5_conv3); of a vision transformer the normalisation before the last attention; of a segmentation the
            last of the coarsest.
        calls: dict of path -> int, how often each of them is called; more than once for a shared layer.
        in_doubt: set of the paths whose axes may not be the photo's, since something that moves values about, or code
            of the network's own, ran before.
        rescaling: path of the Rescaling or Normalization layer that the network begins with, or None.
        pixels: (scale (C,), offset (C,)), what this and those right behind it make of a pixel; (1, 0) without.
        relus: list of (path, kind).
        others: list of (path, kind), activations through which guided backpropagation is not defined or not to be had;
            the network's last softmax or sigmoid is none of them.
        output_activation: "softmax", "sigmoid" or "linear".
        units: int, of the output.
        two_sided: bool, the one unit there is stands for two classes, see `both_sides`.
        segments: bool, there is a score for each pixel.
        largest: float, bytes that the largest operation takes for each photo, of maps with guided backpropagation.
        signature: Signature, with its head by name.
    """

    spatial: dict
    tokens: dict
    target: str | None
    calls: dict
    in_doubt: set
    rescaling: str | None
    pixels: tuple
    relus: list
    others: list
    output_activation: str
    units: int
    two_sided: bool
    segments: bool
    largest: float
    signature: Signature = field(default_factory=Signature)

    @property
    def class_count(self):
        return 2 if self.two_sided else self.units

    @property
    def sizes(self):
        """dict of path -> (h, w, K) of all that can be mapped."""
        return self.spatial | self.tokens

    @property
    def score(self):
        """What is explained, in words."""
        logits = (
            "its output" if self.output_activation == "linear" else f"the input of its last {self.output_activation}"
        )
        if not self.segments:
            return logits
        where = "the pixels that it gives to the class" if self.signature.region is None else "the region"
        return f"{logits}, added up over {where}"

    def as_picture(self, path, values):
        """What a layer puts out as (N, h, w, K): tokens in the places of their patches, leading ones left out."""
        if path not in self.tokens:
            return values
        height, width, _ = self.tokens[path]
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
            inside = ops.cast(
                ops.convert_to_tensor(self.signature.region[None, ..., None]), logits.dtype
            )  # (1, h, w, 1)
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
    seen = []  # (Trace, all outputs) of each trace

    def asked_of(outputs):
        heads = heads_of(network, outputs)
        return outputs if heads is None else heads[head_named(network, outputs, signature.head)]

    def logits_of(images):
        with trace_calls() as trace:
            outputs = network(signature.feed(images), training=False)
        seen.append((trace, outputs))
        try:
            output = asked_of(outputs)
            if not is_scores(output):
                return images
            last = trace.output_activation(output)
        except UserError:  # told below, where nothing else can have gone wrong
            return images
        return output if last is None else last.logits

    def take_guided_gradient(images):
        logits, _, _, _, pull_to_images = differentiate(lambda x, tap: (logits_of(x), ()), images)
        u = ops.ones_like(logits)
        pull_to_images(u)  # first, as for maps: some operations keep the gradient that was taken first
        with guided_rule():
            return pull_to_images(u)

    try:
        batch = (2, *shape)  # of one photo, loops over photos would be another program
        operations = activation_operations(logits_of, batch, KNOWN_ACTIVATION)
        program = traced(take_guided_gradient, batch)
    except Exception as error:  # whatever a network's own code, Keras or the backend raises
        size = "x".join(map(str, shape))
        raise UserError(
            f"the network {network.name!r} does not run on photos of {size} ({first_line(error)})"
        ) from error
    largest = max(sum(sizes) for sizes in sizes_in(program)) / batch[0]
    check_memory(largest, 1, max(shape[:2]))
    trace, all_outputs = seen[-1]
    head = head_named(network, all_outputs, signature.head)
    outputs = asked_of(all_outputs)
    if not is_scores(outputs):
        raise UserError(
            f"the network {network.name!r} returns {describe_outputs(outputs)}; expected scores of shape (N, classes), "
            "or (N, h, w, classes) of a segmentation"
        )
    last = trace.output_activation(outputs)
    refuse_hidden_logits(network, trace, outputs, last)
    segments = len(outputs.shape) == 4
    region = region_at(signature.region, network, outputs) if signature.region is not None else None
    spatial, tokens, calls, in_doubt = spatial_outputs(network, trace)
    rescaling, pixels = rescaling_of(trace, shape[-1])
    kind = last.kind if last else "linear"
    return Structure(
        spatial,
        tokens,
        target_of(trace, spatial, tokens, segments),
        calls,
        in_doubt,
        rescaling,
        pixels,
        relus=trace.relus,
        others=activations_in_the_way(trace, last, operations),
        output_activation=kind,
        units=outputs.shape[-1],
        two_sided=kind == "sigmoid" and outputs.shape[-1] == 1,
        segments=segments,
        largest=largest,
        signature=Signature(signature.feed, head, region),
    )


def is_scores(outputs):
    """Whether outputs are one tensor of scores of each photo, or of each of its pixels."""
    return not isinstance(outputs, (dict, list, tuple)) and len(getattr(outputs, "shape", ())) in (2, 4)


def activations_in_the_way(trace, last, operations):
    """`Structure.others`."""
    at_the_end = last.activations if last else []
    others = [
        (activation.path, activation.kind)
        for activation in trace.activations
        if not any(activation is one for one in at_the_end) and activation.kind not in SOFTMAXES
    ]
    unreachable = [
        (path, f"{kind} whose gradient is out of reach")
        for index, (path, kind) in enumerate(trace.relus)
        if index not in trace.guided
    ]
    return [*others, *operations, *unreachable]


def refuse_hidden_logits(network, trace, outputs, last):
    """Raise UserError where the outputs are made from a softmax or the like, but not by it alone."""
    if last is not None:
        return
    for activation in trace.activations:
        shape = activation.output.shape
        over_classes = (
            activation.kind in SOFTMAXES and len(shape) == len(outputs.shape) and shape[-1] == outputs.shape[-1]
        )
        behind = activation.kind in SQUEEZING and len(shape) == len(outputs.shape) and trace.behind_weights(activation)
        if over_classes or behind:
            raise UserError(
                f"the network {network.name!r} makes its output from a {activation.kind} in "
                f"{activation.path or 'its own code'}, so that its logits cannot be told; expected a network that ends "
                "in softmax, sigmoid or neither"
            )


# ---------------------------------------------------------------- what can be mapped


def is_one_of(layer, kinds, operations):
    """Whether a layer or operation is one of the kinds."""
    return isinstance(layer, kinds) or (
        type(layer).__module__.startswith("keras.src.ops") and type(layer).__name__ in operations
    )


def rearranges(layer):
    return is_one_of(layer, REARRANGING, REARRANGING_OPERATIONS)


def computes(layer):
    """Whether a layer computes new features, rather than passing its input on in another order, size or range."""
    return not (
        rearranges(layer)
        or passes_on(layer)
        or is_one_of(layer, POOLING, POOLING_OPERATIONS)
        or is_one_of(layer, PASSING, PASSING_OPERATIONS)
    )


def is_own_code(layer):
    """Whether a layer or network runs code that is not Keras's; a functional network runs its layers alone."""
    return layer is not None and not type(layer).__module__.startswith("keras.")


def spatial_outputs(network, trace):
    """(spatial, tokens, calls, in_doubt) for Structure.

    Raises:
        UserError: a layer's output is (N, K, h, w).
    """
    spatial, tokens, calls, in_doubt = {}, {}, Counter(), set()
    grids, doubt = [], is_own_code(network)
    transforms = any(isinstance(call.layer, ATTENTION) for call in trace.calls)
    for path, layer, _, output in trace.calls:
        size = tuple(getattr(output, "shape", ()))[1:]
        # one number per channel has no place: squeeze-and-excitation reshapes such
        moved = rearranges(layer) and any(side != 1 for side in size[:-1])
        doubt = doubt or moved or is_own_code(layer)
        if len(size) == 3 and size[0] * size[1] > 1:
            if getattr(layer, "data_format", None) == "channels_first":
                raise UserError(
                    f"layer {path!r} of the network {network.name!r} has its channels first; expected (N, h, w, K)"
                )
            spatial.pop(path, None)
            spatial[path] = size
            if computes(layer):
                grids.append(size[:2])
        elif len(size) == 2 and (grid := grid_of(size[0], grids, transforms)):
            tokens.pop(path, None)
            tokens[path] = (*grid, size[1])
        else:
            continue
        calls[path] += 1
        in_doubt.discard(path)
        if doubt or path in tokens:
            in_doubt.add(path)
    return spatial, tokens, dict(calls), in_doubt


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


def target_of(trace, spatial, tokens, segments):
    """`Structure.target`."""
    attention = [call for call in trace.calls if isinstance(call.layer, ATTENTION)]
    if attention:
        before = attention[-1].input
        normalised = [call for call in trace.calls if call.output is before and call.path in tokens]
        if normalised and isinstance(normalised[-1].layer, layers.LayerNormalization):
            return normalised[-1].path
    seen, found = set(), []
    for path, layer, _, output in trace.calls:
        # a nested network repeats its last layer
        if path in spatial and id(output) not in seen and computes(layer):
            found.append(path)
        seen.add(id(output))
    if segments and found:  # what is behind the bottleneck has ever less to tell than the output itself
        coarsest = min(spatial[path][0] * spatial[path][1] for path in found)
        found = [path for path in found if spatial[path][0] * spatial[path][1] == coarsest]
    return found[-1] if found else None


# ---------------------------------------------------------------- what a pixel becomes


def rescaling_of(trace, channels):
    """(path, (scale, offset)) of the layers that rescale pixels before anything else, augmentation aside.

    What comes behind weights does not rescale pixels. The path is the first one's, None if there is none.
    """
    first, scale, offset = None, np.ones(channels), np.zeros(channels)
    for path, layer, *_ in trace.calls:
        if isinstance(layer, layers.Rescaling):
            factor, shift = np.asarray(layer.scale, np.float64), np.asarray(layer.offset, np.float64)
        elif isinstance(layer, layers.Normalization):
            mean, variance = (
                np.asarray(ops.convert_to_numpy(values), np.float64).reshape(-1)
                for values in (layer.mean, layer.variance)
            )
            deviation = np.maximum(np.sqrt(variance), keras.backend.epsilon())
            factor, shift = (deviation, mean) if layer.invert else (1 / deviation, -mean / deviation)
        elif isinstance(layer, DataLayer) or not getattr(layer, "weights", None) and not computes(layer):
            continue
        else:
            break
        if factor.size not in (1, channels):  # a value of its own for each pixel: the mean tells the range
            factor, shift = factor.mean(), shift.mean()
        first = first or path
        scale, offset = scale * factor, offset * factor + shift
    return first, (scale, offset)


def describe_outputs(outputs):
    """The shapes of a network's outputs, for a message."""
    shapes = ", ".join(str(tuple(output.shape)) for output in keras.tree.flatten(outputs))
    kind = type(outputs).__name__
    return f"a {kind} of shapes {shapes}" if isinstance(outputs, (dict, list, tuple)) else f"shape {shapes}"


# ---------------------------------------------------------------- are the axes of a layer the photo's?

LEAST_MOVE = 0.03  # shares of an axis: what moves less is not told from no move


def some_of(names, most=150):
    """The last names of layers, as many as fit into a message."""
    names = list(names)
    while len(", ".join(names)) > most and len(names) > 1:
        names = names[2:] if names[0] == "..." else names[1:]
        names.insert(0, "...")
    return ", ".join(names)


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
    generator = np.random.default_rng(0)
    photos = generator.integers(0, 256, (5, input_spec.height, input_spec.width, input_spec.channels)).astype(np.uint8)
    photos[1:] = photos[0]
    middle_row, middle_column = input_spec.height // 2, input_spec.width // 2
    halves = (np.s_[:middle_row], np.s_[middle_row:], np.s_[:, :middle_column], np.s_[:, middle_column:])
    for photo, half in zip(photos[1:], halves, strict=True):
        photo[half] = 255 - photo[half]
    values = features_of(network, structure, layer, input_spec.prepare(photos)).astype(np.float64)
    changes = np.abs(values[1:] - values[0]).sum(axis=-1)  # (4, h, w)
    total = changes.sum(axis=(1, 2))
    if not (np.isfinite(total).all() and (total > 0).all()):
        return np.zeros(2), np.zeros(2)
    shares = changes / total[:, None, None]
    height, width = shares.shape[1:]
    row = shares.sum(axis=2) @ ((np.arange(height) + 0.5) / height)  # (4,), centres of the changes
    column = shares.sum(axis=1) @ ((np.arange(width) + 0.5) / width)
    return np.array([row[1] - row[0], column[3] - column[2]]), np.array([row[3] - row[2], column[1] - column[0]])


def features_of(network, structure, layer, inputs):
    """What a layer puts out in its last run, as (N, h, w, K): a NumPy array."""
    run = tapped_run(network, structure, [layer])

    def features(inputs):
        kept = {}
        run(inputs, lambda path, output: kept.setdefault(path, output))
        return structure.as_picture(layer, kept[layer])

    # compiled, since what every layer puts out at once would fill the memory
    return ops.convert_to_numpy(compiled(features, network)(ops.convert_to_tensor(inputs)))
