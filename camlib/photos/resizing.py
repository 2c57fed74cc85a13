"""Photos brought to another size, as the library did it with which a network was trained."""

import cv2
import numpy as np
from PIL import Image

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
        image: uint8 (H, W) or (H, W, C).
        height, width: int, pixels.
        interpolation: a key of INTERPOLATIONS. Those that are not antialiased skip pixels where the photo shrinks;
            "cubic" is how the original resized.

    Returns:
        uint8 (height, width) or (height, width, C).
    """
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
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
