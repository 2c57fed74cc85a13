"""Photos brought to another size, as the library did it with which a network was trained."""

from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from camlib.console import UserError
from camlib.files import RUN_FILE
from camlib.preprocessing import LARGEST_SIDE, fit_share

PILLOW_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear-antialiased": Image.Resampling.BILINEAR,
    "bicubic-antialiased": Image.Resampling.BICUBIC,
    "lanczos-antialiased": Image.Resampling.LANCZOS,
}
# Of TensorFlow's filters: (pixels to each side, weight of a pixel x pixels away)
KERNELS = {
    "bilinear": (1, lambda x: np.maximum(1 - x, 0)),
    "bicubic": (2, lambda x: np.where(x < 1, (1.5 * x - 2.5) * x**2 + 1, ((2.5 - 0.5 * x) * x - 4) * x + 2)),  # Keys
    "lanczos": (3, lambda x: np.sinc(x) * np.sinc(x / 3)),
}


def resize_photo(image, height, width, interpolation="area"):
    """Resize a photo.

    Args:
        image: uint8 (H, W) or (H, W, C), or float32 in numbers of any range.
        height, width: int, pixels.
        interpolation: a key of INTERPOLATIONS. Those that are not antialiased skip pixels where the photo shrinks;
            "cubic" is how the original resized.

    Returns:
        (height, width) or (height, width, C) of the same dtype.
    """
    if image.dtype != np.uint8 and image.ndim == 3:  # bands, of which there may be more than OpenCV and Pillow know
        planes = [np.ascontiguousarray(plane) for plane in np.moveaxis(image, -1, 0)]
        return np.stack([resize_photo(plane, height, width, interpolation) for plane in planes], axis=-1)
    if interpolation in KERNELS:
        return interpolated(image, height, width, *KERNELS[interpolation])
    if interpolation in PILLOW_FILTERS:
        return np.asarray(Image.fromarray(image).resize((width, height), PILLOW_FILTERS[interpolation]))
    if interpolation == "cubic":
        return cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)
    smaller = min(width, image.shape[1]), min(height, image.shape[0])
    return cv2.resize(
        cv2.resize(image, smaller, interpolation=cv2.INTER_AREA), (width, height), interpolation=cv2.INTER_LINEAR
    )


class Cover(NamedTuple):
    """What part of a photo a map covers.

    Attributes:
        extent: (top, left, bottom, right) in shares of the network's input that it covers, beyond 0 and 1 where that
            was padded; None for all of it.
        size: (height, width) of that input.
        fit: how photos are brought to its proportions, see `camlib.preprocessing.FITS`.
    """

    extent: tuple | None = None
    size: tuple = (1, 1)
    fit: str = "whole"

    def of(self, shape, gradients=False):
        """The extent in shares of a photo of (height, width); of gradients, which are of all of the input's pixels.

        Raises:
            UserError: it is so large that drawing it would fill the memory.
        """
        found = None if gradients else self.extent
        if self.fit != "whole":
            shape = np.array(shape, float)
            ends = np.array(part_taken(shape, *self.size, self.fit), float).reshape(2, 2)  # rows and columns
            shares = np.array(found or (0, 0, 1, 1), float).reshape(2, 2)
            shares = (ends[0] + shares * (ends[1] - ends[0])) / shape
            found = None if np.array_equal(shares, [[0, 0], [1, 1]]) else tuple(shares.ravel().tolist())
        if found and (found[2] - found[0]) * (found[3] - found[1]) > LARGEST_COVER:
            raise UserError(f"maps cover more than {LARGEST_COVER} times their photo; expected a whole {RUN_FILE}")
        return found


def cover_settings(cover):
    """What a run's file says of a Cover, dict: nothing of that of whole photos."""
    fitted_in = {"fit": cover.fit, "input_size": list(cover.size)} if cover.fit != "whole" else {}
    return fitted_in | ({"extent": list(cover.extent)} if cover.extent else {})


def cover_in(settings):
    """The Cover that a run's file says, of which COVER_SETTINGS has let pass what is of the right kind."""
    if "input_size" not in settings:  # of a whole photo
        return Cover(settings.get("extent"))
    return Cover(settings.get("extent"), settings["input_size"], settings.get("fit", "whole"))


LARGEST_COVER = 64  # areas of a photo, that a map covers with the border of a network's input
FARTHEST = 16  # of a photo's side: what a map may cover beyond it


def is_extent(value):
    """Whether a run's file says (top, left, bottom, right) of what its maps cover, in shares of the photo."""
    if not isinstance(value, list) or len(value) != 4 or not all(type(one) in (int, float) for one in value):
        return False
    top, left, bottom, right = value
    return -FARTHEST <= top < bottom <= FARTHEST and -FARTHEST <= left < right <= FARTHEST


def is_size(value):
    """Whether it is the (height, width) of a network's input."""
    whole = isinstance(value, list) and len(value) == 2 and all(type(side) is int for side in value)
    return whole and all(1 <= side <= LARGEST_SIDE for side in value)


def is_fit(value):
    """Whether it is one of FITS."""
    try:
        return fit_share(value) > 0
    except ValueError:
        return False


COVER_SETTINGS = {"extent": is_extent, "fit": is_fit, "input_size": is_size}


def part_taken(shape, height, width, fit):
    """(top, left, bottom, right), int, what a network's input of (height, width) shows of a photo of that shape.

    As Keras rounds: Resizing, smart_resize.
    """
    sides = np.array(shape, int)
    if fit == "whole":
        return 0, 0, *sides.tolist()
    proportions = sides[::-1] * (height, width) // (width, height)  # each side, if the other stays as it is
    if fit == "letterbox":
        border = np.maximum(proportions - sides, 0) // 2  # on both sides alike
        return *(-border).tolist(), *(sides + border).tolist()
    taken = np.maximum(np.rint(np.minimum(sides, proportions) * fit_share(fit)).astype(int), 1)
    before = (sides - taken) // 2
    return *before.tolist(), *(before + taken).tolist()


def fitted(image, input_spec):
    """A photo uint8 (H, W) or (H, W, C) at a network's size, by the interpolation and the fit of its InputSpec."""
    size, shape = (input_spec.height, input_spec.width), image.shape[:2]
    top, left, bottom, right = part_taken(shape, *size, input_spec.fit)
    border = ((max(0, -top), max(0, bottom - shape[0])), (max(0, -left), max(0, right - shape[1])))
    image = image[max(0, top) : bottom, max(0, left) : right]
    if np.any(border):
        image = np.pad(image, (*border, (0, 0))[: image.ndim])
    return resize_photo(np.ascontiguousarray(image), *size, input_spec.interpolation)


def interpolated(image, height, width, radius, kernel):
    """A photo at another size by a filter of KERNELS, with half-pixel centres; the weights inside it add up to 1."""
    values = image.astype(np.float32)
    for axis, size in ((0, height), (1, width)):
        side = values.shape[axis]
        places = (np.arange(size) + 0.5) * side / size - 0.5
        taps = np.floor(places).astype(int) + np.arange(1 - radius, radius + 1)[:, None]  # (2 radius, size)
        weights = kernel(np.abs(places - taps)) * ((taps >= 0) & (taps < side))
        weights = (weights / weights.sum(axis=0)).astype(np.float32)
        along = [size if one == axis else 1 for one in range(values.ndim)]
        pairs = zip(weights, np.clip(taps, 0, side - 1), strict=True)
        values = sum(weight.reshape(along) * values.take(tap, axis=axis) for weight, tap in pairs)
    return values if image.dtype != np.uint8 else np.clip(np.rint(values), 0, 255).astype(np.uint8)
