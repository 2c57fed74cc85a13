"""Pictures side by side with colour bars, and pictures in files. Does without Keras."""

from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from camlib.console import UserError
from camlib.files import write_whole
from camlib.photos import resize_photo, size_within
from camlib.plots.colours import USUAL, magnitude, picture_of, superposition_of, superposition_scale_of
from camlib.plots.text import FONT

PANEL_SIDE, MARGIN, BAR = 320, 16, 14  # pixels: a picture's longer side, space around it, width of a colour bar
HEADING, TITLE, TICK = 18, 15, 13  # pixels: sizes of letters
LINE = 1.5  # of a letter's size


class Row(NamedTuple):
    """Pictures side by side under a heading.

    Attributes:
        heading: list of str, the lines above.
        cells: list of (title, picture uint8 (h, w, 3), None or (colour bar, its ticks)), see `colour_bar`.
    """

    heading: list
    cells: list

    @property
    def above(self):
        """Pixels above the pictures, for heading and titles."""
        return MARGIN + round(LINE * (HEADING * len(self.heading) + TITLE))

    @property
    def height(self):
        """Pixels with a little room below."""
        pictures = [picture for _, picture, _ in self.cells] + [bar[0] for _, _, bar in self.cells if bar]
        return self.above + max(picture.shape[0] for picture in pictures) + MARGIN // 2


def colour_bar(scale, height, drawn):
    """A colour bar: (uint8 (height, BAR, 3), list of (text, y) to write beside it).

    Args:
        scale: Scale.
        height: int, pixels.
        drawn: function of values (height, BAR) -> picture.
    """
    values = np.repeat(np.linspace(scale.limit, scale.lowest, height)[:, None], BAR, axis=1)  # (height, BAR)
    extent = (scale.limit - scale.lowest) or 1.0
    ticks = [(text, round((scale.limit - value) / extent * (height - 1))) for value, text in scale.ticks()]
    return drawn(values), ticks


def bar_over_photo(scale, height, style):
    """The colour bar of maps over a photo that is grey everywhere; as `colour_bar`."""
    return colour_bar(scale, height, lambda values: superposition_of(mid_grey(values), values, scale, style))


def write_panel(path, heading, photo, maps, style=USUAL, over_photo=None):
    """Write the photo, the first map laid over it, and all maps side by side, each with a colour bar of its values.

    Args:
        path: Path of a JPEG file.
        heading: list of str, the lines above.
        photo: uint8 (H, W, 3), RGB.
        maps: list of (title, values, Scale, extent), see `camlib.plots.colours.over_extent`.
        style: Style.
        over_photo: (what lies over the photo, its Scale); default: the first map alone.
    """
    size = height, width = size_within(PANEL_SIDE, *photo.shape[:2])
    photo = resize_photo(photo, height, width)
    title, values, scale, extent = maps[0]
    if over_photo:
        values, whole = over_photo
    else:
        whole = superposition_scale_of(scale.signed, [magnitude(values)])
    laid = superposition_of(photo, values, whole, style, extent)
    above = f"{title} over the photo", laid, bar_over_photo(whole, height, style)
    shown = [("photo", photo, None), above]
    for title, values, scale, extent in maps:

        def drawn(bar, scale=scale, of_colours=values.shape[2:] == (3,)):
            return picture_of(np.repeat(bar[..., None], 3, axis=2) if of_colours else bar, scale, *bar.shape, style)

        title += "" if values.any() else " (all zero)"
        shown.append((title, picture_of(values, scale, *size, style, extent), colour_bar(scale, height, drawn)))
    write_jpeg(path, sheet_of([Row(heading, shown)]))


def mid_grey(values):
    """A photo of the shape of a map that is grey everywhere, for the colour bar of a superposition."""
    return np.full((*values.shape, 3), 128, np.uint8)


def sheet_of(rows):
    """Pictures in rows and columns: uint8 (H, W, 3).

    Args:
        rows: list of Row.
    """
    fonts = heading_font, title_font, tick_font = [ImageFont.truetype(FONT, size) for size in (HEADING, TITLE, TICK)]
    widths = [0] * max(len(row.cells) for row in rows)
    for row in rows:
        for number, (title, picture, bar) in enumerate(row.cells):
            beside = BAR + 10 + max(round(tick_font.getlength(text)) for text, _ in bar[1]) if bar else 0
            width = max(picture.shape[1] + beside, round(title_font.getlength(title))) + MARGIN
            widths[number] = max(widths[number], width)
    longest = max(round(heading_font.getlength(line)) for row in rows for line in row.heading)
    width, height = MARGIN + max(sum(widths), longest + MARGIN), MARGIN // 2 + sum(row.height for row in rows)
    sheet, top = Image.new("RGB", (width, height), "white"), 0
    for row in rows:
        draw_row(sheet, row, widths, top, fonts)
        top += row.height
    return np.asarray(sheet)


def draw_row(sheet, row, widths, top, fonts):
    """Draw a Row from the given height on, its pictures in columns of the given widths."""
    pen, left, (heading_font, title_font, tick_font) = ImageDraw.Draw(sheet), MARGIN, fonts
    for number, line in enumerate(row.heading):
        pen.text((MARGIN, top + MARGIN // 2 + round(LINE * HEADING * number)), line, "black", font=heading_font)
    top += row.above
    for (title, picture, bar), width in zip(row.cells, widths, strict=False):
        pen.text((left, top - 6), title, "black", font=title_font, anchor="ls")
        sheet.paste(Image.fromarray(picture), (left, top))
        if bar:
            colours_of_bar, ticks = bar
            right = left + picture.shape[1]
            sheet.paste(Image.fromarray(colours_of_bar), (right + 5, top))
            for text, y in ticks:
                inside = min(max(y, TICK // 2), colours_of_bar.shape[0] - TICK // 2)
                pen.text((right + 10 + BAR, top + inside), text, "black", font=tick_font, anchor="lm")
        left += width


# ---------------------------------------------------------------- pictures in files

JPEG_QUALITY, JPEG_SIDE = 90, 65_500  # percent; pixels, at most


def write_jpeg(path, image):
    """Save uint8 (H, W, 3), RGB, as JPEG, see `encoded_jpeg`."""
    encoded = encoded_jpeg(image, path)
    write_whole(path, lambda file: file.write(encoded))


def write_png(path, image):
    """Save uint8 (H, W, 3 or 4) as PNG, see `encoded_png`."""
    encoded = encoded_png(image)
    write_whole(path, lambda file: file.write(encoded))


def encoded_png(image):
    """The bytes of a PNG file of uint8 (H, W, 3), RGB, or (H, W, 4), RGB and opacity."""
    order = cv2.COLOR_RGBA2BGRA if image.shape[2] == 4 else cv2.COLOR_RGB2BGR
    return cv2.imencode(".png", cv2.cvtColor(image, order))[1]


def encoded_jpeg(image, what="a picture"):
    """The bytes of a JPEG file of uint8 (H, W, 3), RGB. OpenCV writes the same as Pillow, in half the time.

    Args:
        image: the array.
        what: what it is, for the error.

    Raises:
        UserError: it is larger than a JPEG can be.
    """
    height, width = image.shape[:2]
    if max(height, width) > JPEG_SIDE:
        raise UserError(
            f"{what} would have {width:,} x {height:,} pixels; a JPEG has at most {JPEG_SIDE:,} a side: expected a "
            "smaller photo, or no --full-size"
        )
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1]
