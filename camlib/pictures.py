"""What maps look like: colours, overlays, panels, thumbnails. Imports neither Keras nor TensorFlow."""

import base64
import io
from typing import NamedTuple

import cv2
import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from camlib.files import write_whole
from camlib.photos import resize_photo

# ---------------------------------------------------------------- colours


class Scale(NamedTuple):
    """The common colour scale of all maps of one kind of a photo.

    Attributes:
        limit: float, its upper end, the largest magnitude where nothing is capped.
        signed: bool, from -limit, else from 0.
    """

    limit: float
    signed: bool

    @property
    def lowest(self):
        return -self.limit if self.signed else 0.0


def scale_of(signed, maps):
    """The Scale of maps (arrays of any shapes): signed if maps of their kind are, or any value is negative."""
    limit = max((float(np.max(np.abs(values))) for values in maps), default=0.0)
    return Scale(limit, signed or any((values < 0).any() for values in maps))


def capped_scale_of(signed, values):
    """The Scale of one map whose largest hundredth is drawn alike (Smilkov et al. 2017, section 3.1).

    Single pixels of a gradient are many times larger than the rest, and would leave nothing else to see.
    """
    scale = scale_of(signed, [values])
    return scale._replace(limit=float(np.percentile(np.abs(values), 99)) or scale.limit)


def scaled(values, limit):
    """Divide by the limit for display; a map that is zero everywhere stays zero."""
    return values / limit if limit > 0 else values


def colour_name(signed):
    """Matplotlib's name of the colours: diverging around zero for signed maps, sequential for the others."""
    return "RdBu_r" if signed else "inferno"


def colours(values, signed):
    """Colour a scaled map.

    Args:
        values: float (H, W), in -1..1 if signed, else in 0..1.
        signed: bool.

    Returns:
        uint8 (H, W, 3), RGB. Signed: blue below zero, white at zero, red above.
    """
    position = (values + 1) / 2 if signed else values
    return matplotlib.colormaps[colour_name(signed)](position, bytes=True)[..., :3]


def resize_map(values, height, width):
    """Enlarge or shrink a map (h, w) to (height, width): bilinear, half-pixel centres."""
    return cv2.resize(values.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)


def superposition(photo, values, signed, opacity=0.7):
    """Lay a scaled map over a photo, the more opaque the larger its magnitude; where it is zero the photo stays.

    Args:
        photo: uint8 (H, W, 3), RGB.
        values: float (H, W), in -1..1 if signed, else in 0..1.
        signed: bool.
        opacity: float, of the largest magnitude.

    Returns:
        uint8 (H, W, 3), RGB.
    """
    weight = opacity * np.abs(values)[..., None]  # (H, W, 1)
    return np.rint(photo * (1 - weight) + overlay_colours(values, signed) * weight).astype(np.uint8)


def overlay_colours(values, signed):
    """The colours, uint8 (H, W, 3), of a scaled map over a photo, where it is the more opaque the larger its magnitude.

    The ends of a diverging scale are dark: their hue alone, at full strength, reads better over a photo.
    """
    return colours(np.sign(values) * 0.8, signed) if signed else colours(values, signed)


def picture_of(values, scale, height, width):
    """Draw a map for display.

    Args:
        values: float (h, w) or (h, w, 1), or (h, w, 3) for gradients of RGB, shown as colours around mid-grey.
        scale: Scale.
        height, width: int, of the picture.

    Returns:
        uint8 (height, width, 3), RGB.
    """
    values = resize_map(scaled(values, scale.limit), height, width)
    if values.ndim == 3:
        return np.rint(127.5 + 127.5 * values).astype(np.uint8)
    return colours(values, scale.signed)


# ---------------------------------------------------------------- panels

PANEL_TITLES = {
    "heatmap": "CAM",
    "gradcam": "Grad-CAM",
    "guided_backprop": "guided backpropagation",
    "guided_gradcam": "guided Grad-CAM",
}
PANEL_SIDE, MARGIN, BAR = 256, 28, 12  # pixels: a picture's longer side, space around it, width of a colour bar


def colour_bar(scale, of_colours, height):
    """A colour bar: (uint8 (height, BAR, 3), list of (text, y) to write beside it); grey for maps of three colours."""
    values = np.repeat(np.linspace(scale.limit, scale.lowest, height)[:, None], BAR, axis=1)  # (height, BAR)
    if of_colours:
        values = np.repeat(values[..., None], 3, axis=2)
    ticks = [(f"{scale.limit:.3g}", 0), (f"{scale.lowest:.3g}", height - 1)]
    return picture_of(values, scale, height, BAR), ticks + ([("0", height // 2)] if scale.signed else [])


def write_panel(path, photo, maps):
    """Write the photo and its maps side by side, each under its name and with a colour bar of its values.

    Args:
        path: Path of a JPEG file.
        photo: uint8 (H, W, 3), RGB.
        maps: list of (title, values, Scale).
    """
    factor = PANEL_SIDE / max(photo.shape[:2])
    height, width = (max(1, round(side * factor)) for side in photo.shape[:2])
    step = max(width, 160) + BAR + 3 * MARGIN
    sheet = Image.new("RGB", (step * (1 + len(maps)), height + 2 * MARGIN), "white")
    pen = ImageDraw.Draw(sheet)
    title_font, tick_font = ImageFont.load_default(14), ImageFont.load_default(11)
    pen.text((MARGIN // 2, MARGIN // 4), "photo", "black", font=title_font)
    sheet.paste(Image.fromarray(photo).resize((width, height)), (MARGIN // 2, MARGIN))
    for number, (title, values, scale) in enumerate(maps, start=1):
        left = number * step + MARGIN // 2
        title += "" if values.any() else " (all zero)"
        pen.text((left, MARGIN // 4), title, "black", font=title_font)
        sheet.paste(Image.fromarray(picture_of(values, scale, height, width)), (left, MARGIN))
        bar, ticks = colour_bar(scale, values.shape[2:] == (3,), height)
        sheet.paste(Image.fromarray(bar), (left + width + 6, MARGIN))
        for text, y in ticks:
            pen.text((left + width + 10 + BAR, MARGIN + y), text, "black", font=tick_font, anchor="lm")
    write_jpeg(path, np.asarray(sheet))


# ---------------------------------------------------------------- small pictures for a page

THUMB_SIDE = 144  # pixels of the longer side


def thumb_size(height, width):
    """(height, width) of a small picture."""
    factor = THUMB_SIDE / max(height, width)
    return max(1, round(height * factor)), max(1, round(width * factor))


def data_uri(image):
    """A picture, uint8 (H, W, 3) or with an alpha channel (H, W, 4), as WebP in a data: address."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "WEBP", quality=70)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"


def encode_photo(photo):
    """A small photo as data: address."""
    return data_uri(resize_photo(photo, *thumb_size(*photo.shape[:2])))


def encode_overlay(values, scale, shape):
    """A map to be laid over a photo of that (height, width), as data: address; gradients of RGB hide it.

    Values beyond the scale are drawn as its ends.
    """
    size = thumb_size(*shape)
    if values.ndim == 3:
        return data_uri(picture_of(values, scale, *size))
    values = np.clip(resize_map(scaled(values, scale.limit), *size), -1, 1)
    opacity = np.rint(255 * np.abs(values)).astype(np.uint8)
    return data_uri(np.dstack((overlay_colours(values, scale.signed), opacity)))


def write_jpeg(path, image):
    """Save uint8 (H, W, 3), RGB, as JPEG."""
    write_whole(path, lambda file: Image.fromarray(image).save(file, "JPEG", quality=90))
