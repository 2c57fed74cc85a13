"""Where the cells of a layer's output lie in the photo: followed from layer to layer, without running the network.

A window (convolution, pooling) has its cell in its middle, what is resized keeps its edges, what has other rows and
columns than before without a window is called once with coordinates in the place of pixels. What has the same rows and
columns stays where it is.
"""

import contextlib
from typing import NamedTuple

import keras
import numpy as np
from keras import layers, ops
from keras.src.layers.preprocessing.data_layer import DataLayer

from camlib.attribution.tracing import passes_on
from camlib.backend import usual_settings

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
WINDOWS = (
    layers.Conv2D,
    layers.DepthwiseConv2D,
    layers.SeparableConv2D,
    layers.Conv2DTranspose,
    layers.MaxPooling2D,
    layers.AveragePooling2D,
)
WINDOW_OPERATIONS = set("AveragePool Conv ConvTranspose DepthwiseConv ExtractPatches MaxPool SeparableConv".split())
RESIZES = set(
    "Resize Resizing UpSampling2D CenterCrop AdaptiveAveragePool AdaptiveAveragePooling2D AdaptiveMaxPool "
    "AdaptiveMaxPooling2D".split()
)
LEAST_SHIFT = 1e-6  # of a photo's side: what is nearer to its edge lies at it


class Place(NamedTuple):
    """Where cells lie in the network's input, in pixels: float (2,) each, of rows and of columns.

    Attributes:
        first: the middle of the first cell; the input's own first pixel lies at 0.5.
        step: from one cell to the next.
    """

    first: np.ndarray
    step: np.ndarray

    def moved(self, cells, stride=1.0):
        """Of cells that begin so many further on, with every `stride`-th of them."""
        return Place(self.first + self.step * cells, self.step * stride)

    def stretched(self, before, after):
        """Of `after` cells (rows, columns) in the place of `before`, from edge to edge."""
        stride = np.divide(before, after)
        return self.moved((stride - 1) / 2, stride)

    def extent(self, size, shape):
        """(top, left, bottom, right) of (rows, columns) in shares of an input (height, width); None for all of it."""
        edges = self.moved(-0.5).first / shape, self.moved(np.subtract(size, 0.5)).first / shape
        found = np.concatenate(edges)
        return None if np.abs(found - (0, 0, 1, 1)).max() < LEAST_SHIFT else tuple(found.tolist())


PIXELS = Place(np.full(2, 0.5), np.ones(2))  # of the network's input
UNKNOWN, NOWHERE = "unknown", "nowhere"  # made by code that is not followed; known to lie in no rectangle


def grid_of_tensor(tensor):
    """(rows, columns) of what has some, else None."""
    shape = tuple(getattr(tensor, "shape", ()))
    return shape[1:3] if len(shape) == 4 and None not in shape[1:3] and shape[1] * shape[2] > 1 else None


def is_one_of(layer, kinds, operations):
    """Whether a layer or operation is one of the kinds."""
    return isinstance(layer, kinds) or (
        type(layer).__module__.startswith("keras.src.") and type(layer).__name__ in operations
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


class PlaceFinder:
    """Follows a Trace from the photo on.

    Attributes:
        latest: dict of (rows, columns) -> the Place of what was made last with so many.
        in_order: set of the ids of tensors whose rows and columns were moved about and are the photo's all the same.

    Args:
        trace: Trace.
    """

    def __init__(self, trace):
        self.trace = trace
        self.known = {id(trace.photo): PIXELS}
        self.latest, self.in_order = {grid_of_tensor(trace.photo): PIXELS}, set()

    def of_call(self, call):
        """The Place of what a call puts out, or UNKNOWN or NOWHERE; calls are asked for in their order."""
        outputs = keras.tree.flatten(call.output)
        if not all(id(output) in self.known for output in outputs):
            found = self.follow(call, outputs)
            for output, place in zip(outputs, found, strict=True):
                self.known[id(output)] = place
                if isinstance(place, Place) and grid_of_tensor(output):
                    self.latest[grid_of_tensor(output)] = place
        place = self.known[id(outputs[0])]
        return NOWHERE if isinstance(place, np.ndarray) else place

    def of_tensor(self, tensor):
        """The Place of a tensor; of what code in between made, that of what had as many rows and columns last."""
        tensor = self.trace.uncast(tensor)
        if id(tensor) in self.known:
            return self.known[id(tensor)]
        if (*getattr(tensor, "shape", ()), 1) == tuple(self.trace.photo.shape):
            return PIXELS  # grey photos, from which Keras drops the axis of channels
        return self.latest.get(grid_of_tensor(tensor), UNKNOWN)

    def follow(self, call, outputs):
        """The places of what a call puts out: list of Place, UNKNOWN, NOWHERE, or coordinates as of `coordinates`."""
        given = keras.tree.flatten((call.arguments, call.keywords))
        seen = [one for one in given if hasattr(one, "shape") and self.trace.sees_photo(self.trace.uncast(one))]
        placed, grid = [(self.of_tensor(one), grid_of_tensor(one)) for one in seen], grid_of_tensor(outputs[0])
        if not placed:
            return [UNKNOWN] * len(outputs)
        place, before = placed[0]
        if isinstance(place, Place) and before and grid:
            if is_one_of(call.layer, WINDOWS, WINDOW_OPERATIONS):
                return [of_window(place, call, before, grid)]
            if is_one_of(call.layer, (), RESIZES):
                return [of_resize(place, call.layer, before, grid)]
            if is_one_of(call.layer, (), {"Pad"}):  # whose border may be the photo's own, mirrored
                return [place.moved(-np.array([side[0] for side in pads_of(call.layer)]))]
        of_maps = [one for one, of_input in placed if of_input]
        alike = grid and of_maps and all(of_input in (grid, None) for _, of_input in placed)
        if alike and not rearranges(call.layer):
            return [agreed(of_maps)] * len(outputs)
        moves = call.layer is not None and not getattr(call.layer, "weights", None)
        if not moves or any(isinstance(one, str) for one, _ in placed) or not (of_maps or rearranges(call.layer)):
            nowhere = of_maps and all(one is NOWHERE for one in of_maps)
            return [NOWHERE if nowhere else self.latest.get(grid, UNKNOWN)] * len(outputs)
        return self.called_with_coordinates(call, outputs)

    def called_with_coordinates(self, call, outputs):
        """The places of what a layer without weights puts out, from what it does with coordinates."""

        def replaced(one):
            if not hasattr(one, "shape") or "int" in str(one.dtype):
                return one
            if not self.trace.sees_photo(self.trace.uncast(one)):
                return np.zeros((4, *one.shape[1:]), np.float32)
            return coordinates(self.of_tensor(one), tuple(one.shape[1:]))

        found = None
        with contextlib.suppress(Exception):  # whatever a layer's own code raises for numbers that are no photo
            arguments, keywords = keras.tree.map_structure(replaced, (call.arguments, call.keywords))
            found = usual_settings()(call.layer.call)(*arguments, **keywords)
            found = [ops.convert_to_numpy(one).astype(np.float64) for one in keras.tree.flatten(found)]
        if not found or [one.shape for one in found] != [(4, *output.shape[1:]) for output in outputs]:
            return [self.latest.get(grid_of_tensor(output), UNKNOWN) for output in outputs]
        found = [one - one[3] for one in found]
        found = [one if (place := of_coordinates(one)) is None else place for one in found]
        self.in_order |= {id(output) for output, one in zip(outputs, found, strict=True) if isinstance(one, Place)}
        return found


def agreed(places):
    """The Place of what is added up, multiplied or joined from several: their middle, if they lie within a cell."""
    if any(not isinstance(place, Place) for place in places):
        return UNKNOWN if all(place is UNKNOWN for place in places) else NOWHERE
    firsts, steps = (np.stack(values) for values in zip(*places, strict=True))
    if not np.allclose(steps, steps[0]) or (np.ptp(firsts, axis=0) > steps[0]).any():
        return NOWHERE
    return Place(firsts.mean(axis=0), steps[0])


def of_window(place, call, before, after):
    """The Place of a convolution, a pooling or patches: the middle of each window."""
    layer, transposed = call.layer, is_one_of(call.layer, layers.Conv2DTranspose, {"ConvTranspose"})
    kernel = getattr(layer, "kernel_size", None) or getattr(layer, "pool_size", None) or getattr(layer, "size", None)
    kernel = np.broadcast_to(kernel if kernel is not None else tuple(call.arguments[1].shape[:2]), 2)
    strides = getattr(layer, "strides", None)
    strides = np.broadcast_to(kernel if strides is None else strides, 2)
    dilation = getattr(layer, "dilation_rate", None)
    reach = (kernel - 1) * np.broadcast_to(1 if dilation is None else dilation, 2)  # from its first to its last cell
    small, large = (before, after) if transposed else (after, before)
    padded = np.maximum((np.array(small) - 1) * strides + reach + 1 - large, 0) // 2
    middle = reach / 2 - (padded if layer.padding == "same" else 0)  # of the first window, in cells of the larger side
    return place.moved(-middle / strides, 1 / strides) if transposed else place.moved(middle, strides)


def of_resize(place, layer, before, after):
    """The Place of what is resized, cropped or padded to its target's proportions first where the layer does so."""
    before, after = np.array(before), np.array(after)
    name = type(layer).__name__
    if name == "CenterCrop" and (before >= after).all():
        return place.moved((before - after) // 2)
    whole = np.maximum(before[::-1] * after // after[::-1], 1)  # of the target's proportions, one side as it is
    if getattr(layer, "crop_to_aspect_ratio", False) or name == "CenterCrop":
        taken = np.minimum(before, whole)
        return place.moved((before - taken) // 2).stretched(taken, after)
    if getattr(layer, "pad_to_aspect_ratio", False):
        border = np.maximum(whole - before, 0) // 2  # on both sides alike
        return place.moved(-border).stretched(before + 2 * border, after)
    return place.stretched(before, after)


def pads_of(layer):
    """((above, below), (left, right)) of the operation that pads."""
    pads = layer.pad_width
    return [pads[0]] * 2 if len(pads) == 1 else pads[1:3]


# ---------------------------------------------------------------- coordinates in the place of pixels


def coordinates(place, shape):
    """What a layer is called with to see where it takes its cells from: float32 (4, h, w, K), or (4, h, w) of no K.

    Ones, the rows' and the columns' places, and zeros: what is padded stays zero in all, what is filled is in the last.
    """
    if isinstance(place, np.ndarray):
        return place.astype(np.float32)
    height, width, *channels = shape
    rows, columns = (first + step * np.arange(side) for first, step, side in zip(*place, (height, width), strict=True))
    planes = np.broadcast_arrays(np.ones((1, 1)), rows[:, None], columns[None], np.zeros((height, width)))
    found = np.stack(planes).astype(np.float32)
    return np.repeat(found[..., None], channels[0], axis=-1) if channels else found


def of_coordinates(found):
    """The Place of cells from the coordinates (4, h, w, K) that came out; None where it is no rectangle."""
    if found.ndim != 4 or 0 in found.shape:
        return None
    ones, rows, columns, _ = found.mean(axis=-1)  # (h, w): the middle of what the channels show
    inside = ones > 1 - 1e-3
    if not inside.any() or not np.allclose(ones[~inside], 0, atol=1e-3):
        return None
    axes = []
    for values, axis in ((rows, 1), (columns, 0)):
        some = inside.any(axis=axis)
        line = np.where(inside, values, 0).sum(axis=axis)[some] / inside.sum(axis=axis)[some]
        even = np.expand_dims(np.where(some, np.interp(np.arange(len(some)), np.flatnonzero(some), line), 0), axis)
        jumps = np.diff(line)
        steps = jumps[np.abs(jumps) > 1e-3]
        if np.abs(values - even)[inside].max() > 1e-2 or (len(some) > 1 and not len(steps)):
            return None
        if len(steps) and (steps.min() <= 0 or np.ptp(steps) > 1e-2 * steps.max()):
            return None
        repeats = len(line) / (len(steps) + 1)
        step = steps.mean() / repeats if len(steps) else 1.0
        axes.append((line.mean() - step * np.flatnonzero(some).mean(), step))
    return Place(*np.array(axes).T)
