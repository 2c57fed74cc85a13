"""What a network is made of, as far as maps are concerned: found by watching it run once.

A network is asked through one `Port`: how photos are fed to it, which of its outputs is explained, and over which
region where that output has a score for each pixel.
"""

import math
from collections import Counter
from dataclasses import dataclass, field

import keras
import numpy as np
from keras import layers, ops
from keras.src.layers.preprocessing.data_layer import DataLayer

from camlib.attribution.heads import Port, head_named, heads_of, region_at
from camlib.attribution.tracing import ATTENTION, SOFTMAXES, WATCHED, guided_rule, passes_on, watched
from camlib.backend import activation_operations, differentiate, sizes_in, traced
from camlib.console import UserError, first_line
from camlib.memory import check_memory

POOLING = (layers.MaxPooling2D, layers.AveragePooling2D)
POOLING_OPERATIONS = {"MaxPool", "AveragePool", "AdaptiveMaxPool", "AdaptiveAveragePool"}
# What moves values about
REARRANGING = (layers.Permute, layers.Reshape, layers.Flatten)
REARRANGING_OPERATIONS = {
    "DepthToSpace", "Einsum", "Flip", "Fliplr", "Flipud", "Moveaxis", "Ravel", "Reshape", "Roll", "Rot90",
    "SpaceToDepth", "Stack", "Swapaxes", "Tensordot", "Transpose",
}  # fmt: skip
# What else gives no new features: other sizes of the same ones, noise of training, pixels as the network wants them
PASSING = (
    layers.Cropping2D, layers.ZeroPadding2D, layers.UpSampling2D, layers.SpatialDropout2D, layers.GaussianDropout,
    layers.GaussianNoise, layers.ActivityRegularization, DataLayer,
)  # fmt: skip
PASSING_OPERATIONS = {
    "BroadcastTo", "Cast", "ConvertToTensor", "Copy", "CropImages", "ExpandDims", "GetItem", "Pad", "PadImages",
    "Repeat", "Resize", "SaturateCast", "Slice", "Split", "Squeeze", "StopGradient", "Tile",
}  # fmt: skip
# Activations that squeeze a score into a range: behind the last weights they hide it
SQUEEZING = {
    "sigmoid", "hard_sigmoid", "sparse_sigmoid", "log_sigmoid", "tanh", "hard_tanh", "softsign", *SOFTMAXES,
}  # fmt: skip

# ---------------------------------------------------------------- how a network is asked


# ---------------------------------------------------------------- what a network is made of


@dataclass(frozen=True)
class Survey:
    """What a network is made of, as far as maps are concerned.

    Attributes:
        spatial: dict of path -> (h, w, K), what has more than one pixel, in the order of the last runs.
        tokens: dict of path -> (h, w, K), outputs (N, T, K) whose last h w tokens are the patches of a photo.
        target: path of the default: the last of `spatial` that computes anything new, pooling aside (VGG-16's
            block5_conv3); of a vision transformer the normalisation before the last attention; of a segmentation the
            last of the coarsest.
        runs: dict of path -> int, how often each of them runs; it is more than 1 for a shared layer.
        in_doubt: set of the paths whose axes may not be the photo's, since something that moves values about, or code
            of the network's own, ran before.
        rescaling: path of the Rescaling or Normalization layer that the network begins with, or None.
        pixels: (scale (C,), offset (C,)), what this and those right behind it make of a pixel; (1, 0) without.
        relus: list of (path, kind).
        others: list of (path, kind), activations through which guided backpropagation is not defined or not to be had;
            the network's last softmax or sigmoid is none of them.
        ending: "softmax", "sigmoid" or "linear".
        units: int, of the output.
        two_sided: bool, the one unit there is stands for two classes, see `both_sides`.
        segments: bool, there is a score for each pixel.
        largest: float, bytes that the largest operation takes for each photo, of maps with guided backpropagation.
        port: Port, with its head by name.
    """

    spatial: dict
    tokens: dict
    target: str | None
    runs: dict
    in_doubt: set
    rescaling: str | None
    pixels: tuple
    relus: list
    others: list
    ending: str
    units: int
    two_sided: bool
    segments: bool
    largest: float
    port: Port = field(default_factory=Port)

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
        logits = "its output" if self.ending == "linear" else f"the input of its last {self.ending}"
        if not self.segments:
            return logits
        where = "the pixels that it gives to the class" if self.port.region is None else "the region"
        return f"{logits}, added up over {where}"

    def as_picture(self, path, values):
        """What a layer puts out as (N, h, w, K): tokens in the places of their patches, leading ones left out."""
        if path not in self.tokens:
            return values
        height, width, _ = self.tokens[path]
        return ops.reshape(values[:, -height * width :], (-1, height, width, values.shape[-1]))

    def scores_of(self, record, outputs):
        """(logits (N, C), outputs (N, C)) of the output asked for.

        The score of a class of a segmentation is the sum of its logits over the pixels that the network gives to it, or
        over the region asked for (Vinogradova et al. 2020, eq. 2); its output the mean over all pixels.
        """
        ending = record.ending_of(outputs)
        logits = outputs if ending is None else ending.logits
        logits = both_sides(logits) if self.two_sided else logits
        if not self.segments:
            return logits, outputs
        if self.port.region is None:
            inside = ops.one_hot(ops.argmax(logits, axis=-1), logits.shape[-1], dtype=logits.dtype)  # (N, h, w, C)
        else:
            inside = ops.cast(ops.convert_to_tensor(self.port.region), logits.dtype)[None, ..., None]  # (1, h, w, 1)
        return ops.sum(logits * ops.stop_gradient(inside), axis=(1, 2)), ops.mean(outputs, axis=(1, 2))


def both_sides(logits):
    """Of the logits (..., 1) of a single unit, z, those of both classes, (-z, z): their sigmoids add up to 1."""
    return ops.concatenate((-logits, logits), axis=-1)


def survey(network, shape, port=None):
    """Trace a network, without running it.

    Args:
        network: keras.Model.
        shape: (H, W, channels) of its input.
        port: Port; its head may be an index.

    Raises:
        UserError: the network does not take such photos, has several outputs of which none was asked for, or one that
            is no scores (N, classes) or (N, h, w, classes), or from which no logits can be had; or a single photo does
            not fit into memory.
    """
    port = port or Port()
    seen = []  # (Record, all outputs) of each trace

    def asked_of(outputs):
        heads = heads_of(network, outputs)
        return outputs if heads is None else heads[head_named(network, outputs, port.head)]

    def logits_of(images):
        with watched() as record:
            outputs = network(port.feed(images), training=False)
        seen.append((record, outputs))
        try:
            output = asked_of(outputs)
            if not is_scores(output):
                return images
            ending = record.ending_of(output)
        except UserError:  # told below, where nothing else can have gone wrong
            return images
        return output if ending is None else ending.logits

    def take_guided_gradient(images):
        logits, _, _, _, pull_to_images = differentiate(lambda x, tap: (logits_of(x), ()), images)
        u = ops.ones_like(logits)
        pull_to_images(u)  # first, as for maps: some operations keep the gradient that was taken first
        with guided_rule():
            return pull_to_images(u)

    try:
        batch = (2, *shape)  # of one photo, loops over photos would be another program
        operations = activation_operations(logits_of, batch, WATCHED)
        program = traced(take_guided_gradient, batch)
    except Exception as error:  # whatever a network's own code, Keras or the backend raises
        size = "x".join(map(str, shape))
        raise UserError(
            f"the network {network.name!r} does not run on photos of {size} ({first_line(error)})"
        ) from error
    largest = max(sum(sizes) for sizes in sizes_in(program)) / batch[0]
    check_memory(largest, 1, max(shape[:2]))
    record, all_outputs = seen[-1]
    head = head_named(network, all_outputs, port.head)
    outputs = asked_of(all_outputs)
    if not is_scores(outputs):
        raise UserError(
            f"the network {network.name!r} returns {describe(outputs)}; expected scores of shape (N, classes), or "
            "(N, h, w, classes) of a segmentation"
        )
    ending = record.ending_of(outputs)
    refuse_hidden_logits(network, record, outputs, ending)
    segments = len(outputs.shape) == 4
    region = region_at(port.region, network, outputs) if port.region is not None else None
    spatial, tokens, runs, in_doubt = spatial_outputs(network, record)
    rescaling, pixels = rescaling_of(record, shape[-1])
    kind = ending.kind if ending else "linear"
    return Survey(
        spatial, tokens, target_of(record, spatial, tokens, segments), runs, in_doubt, rescaling, pixels, record.relus,
        activations_in_the_way(record, ending, operations), kind, outputs.shape[-1],
        two_sided=kind == "sigmoid" and outputs.shape[-1] == 1, segments=segments,
        largest=largest, port=Port(port.feed, head, region),
    )  # fmt: skip


def is_scores(outputs):
    """Whether outputs are one tensor of scores of each photo, or of each of its pixels."""
    return not isinstance(outputs, (dict, list, tuple)) and len(getattr(outputs, "shape", ())) in (2, 4)


def activations_in_the_way(record, ending, operations):
    """`Survey.others`."""
    last = ending.activations if ending else []
    others = [
        (activation.path, activation.kind)
        for activation in record.activations
        if not any(activation is one for one in last) and activation.kind not in SOFTMAXES
    ]
    unreachable = [
        (path, f"{kind} whose gradient is out of reach")
        for index, (path, kind) in enumerate(record.relus)
        if index not in record.guided
    ]
    return [*others, *operations, *unreachable]


def refuse_hidden_logits(network, record, outputs, ending):
    """Raise UserError where the outputs are made from a softmax or the like, but not by it alone."""
    if ending is not None:
        return
    for activation in record.activations:
        shape = activation.output.shape
        over_classes = (
            activation.kind in SOFTMAXES and len(shape) == len(outputs.shape) and shape[-1] == outputs.shape[-1]
        )
        behind = activation.kind in SQUEEZING and len(shape) == len(outputs.shape) and record.behind_weights(activation)
        if over_classes or behind:
            raise UserError(
                f"the network {network.name!r} makes its output from a {activation.kind} in "
                f"{activation.path or 'its own code'}, so that its logits cannot be told; expected a network that ends "
                "in softmax, sigmoid or neither"
            )


# ---------------------------------------------------------------- what can be mapped


def kind_of(layer, kinds, operations):
    """Whether a layer or operation is one of the kinds."""
    return isinstance(layer, kinds) or (
        type(layer).__module__.startswith("keras.src.ops") and type(layer).__name__ in operations
    )


def rearranges(layer):
    return kind_of(layer, REARRANGING, REARRANGING_OPERATIONS)


def computes(layer):
    """Whether a layer's output is features of its own, not its input's in another order, size or range."""
    return not (
        rearranges(layer)
        or passes_on(layer)
        or kind_of(layer, POOLING, POOLING_OPERATIONS)
        or kind_of(layer, PASSING, PASSING_OPERATIONS)
    )


def is_own_code(layer):
    """Whether a layer or network runs code that is not Keras's; a functional network runs its layers alone."""
    return layer is not None and not type(layer).__module__.startswith("keras.")


def spatial_outputs(network, record):
    """(spatial, tokens, runs, in_doubt) for Survey.

    Raises:
        UserError: a layer's output is (N, K, h, w).
    """
    spatial, tokens, runs, in_doubt = {}, {}, Counter(), set()
    grids, doubt = [], is_own_code(network)
    transforms = any(isinstance(run.layer, ATTENTION) for run in record.runs)
    for path, layer, _, output in record.runs:
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
        runs[path] += 1
        in_doubt.discard(path)
        if doubt or path in tokens:
            in_doubt.add(path)
    return spatial, tokens, dict(runs), in_doubt


def grid_of(count, grids, transforms):
    """The (h, w) of so many tokens, or of one less beside a class token; None where they are no patches.

    Args:
        count: int.
        grids: list of (h, w), of what was computed before; the last that fits is taken.
        transforms: bool, the network has attention: where its own code cut the patches a square grid is supposed, which
            `camlib.attribution.classifier.check_axes` puts to the test.
    """
    for height, width in reversed(grids):
        if height * width in (count, count - 1):
            return height, width
    sides = [side for side in (math.isqrt(count), math.isqrt(count - 1)) if side > 1 and side**2 in (count, count - 1)]
    return (sides[0], sides[0]) if transforms and sides else None


def target_of(record, spatial, tokens, segments):
    """`Survey.target`."""
    attention = [run for run in record.runs if isinstance(run.layer, ATTENTION)]
    if attention:
        before = attention[-1].input
        normalised = [run for run in record.runs if run.output is before and run.path in tokens]
        if normalised and isinstance(normalised[-1].layer, layers.LayerNormalization):
            return normalised[-1].path
    seen, found = set(), []
    for path, layer, _, output in record.runs:
        # a nested network repeats its last layer
        if path in spatial and id(output) not in seen and computes(layer):
            found.append(path)
        seen.add(id(output))
    if segments and found:  # what is behind the bottleneck has ever less to tell than the output itself
        coarsest = min(spatial[path][0] * spatial[path][1] for path in found)
        found = [path for path in found if spatial[path][0] * spatial[path][1] == coarsest]
    return found[-1] if found else None


# ---------------------------------------------------------------- what a pixel becomes


def rescaling_of(record, channels):
    """(path, (scale, offset)) of the layers that rescale pixels before anything else, augmentation aside.

    What comes behind weights does not rescale pixels. The path is the first one's, None if there is none.
    """
    first, scale, offset = None, np.ones(channels), np.zeros(channels)
    for path, layer, *_ in record.runs:
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


def describe(outputs):
    """The shapes of a network's outputs, for a message."""
    shapes = ", ".join(str(tuple(output.shape)) for output in keras.tree.flatten(outputs))
    kind = type(outputs).__name__
    return f"a {kind} of shapes {shapes}" if isinstance(outputs, (dict, list, tuple)) else f"shape {shapes}"
