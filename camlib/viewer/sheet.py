"""The contact sheet of a run: photos in rows, the maps of their classes or kinds in columns."""

from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from camlib.console import UserError
from camlib.files import write_whole
from camlib.photos import resize_photo
from camlib.plots.colours import USUAL, superposition_of
from camlib.plots.panels import BAR, HEADING, LINE, MARGIN, TICK, TITLE, colour_bar, mid_grey
from camlib.plots.text import FONT, PER_INCH, displayable, shortened
from camlib.runs.maps import CLASSES_SHOWN, MapError, all_maps, class_names_in
from camlib.viewer.album import overlaid, read_content

SHEET_FORMATS = {
    ".png": ("PNG", 65_000),
    ".jpg": ("JPEG", 65_000),
    ".jpeg": ("JPEG", 65_000),
    ".webp": ("WEBP", 16_383),
}
SIDE = 200  # pixels of a picture's longer side
TEXT = round(LINE * TITLE)  # pixels: height of a line
TITLE_POINTS, WIDEST = TITLE * 72 / PER_INCH, 280  # letters of a title as Matplotlib's points; pixels it may take


class Cell(NamedTuple):
    """One picture of a row.

    Attributes:
        title: str.
        picture: uint8 (h, w, 3), or the error that says why there is none.
        bar: (colours, ticks) as of `camlib.plots.panels.colour_bar`, or None.
    """

    title: str
    picture: object
    bar: object = None


def format_of(path):
    """(Pillow's name of the format, most pixels of height) that a file's suffix stands for.

    Raises:
        UserError: none.
    """
    if path.suffix.lower() not in SHEET_FORMATS:
        raise UserError(f"--sheet {path}: expected a name that ends in one of {', '.join(SHEET_FORMATS)}")
    return SHEET_FORMATS[path.suffix.lower()]


def spread_over(photos, count):
    """At most `count` photos at even distances in their order, the first and the last among them."""
    places = np.linspace(0, len(photos) - 1, min(count, len(photos))).round().astype(int)
    return [photos[place] for place in places]


def columns_of(photos, class_name=None):
    """What the columns show: classes of the first kind of map, or kinds of one class a photo.

    Args:
        photos: list of SavedPhoto.
        class_name: str, the class whose kinds are shown, or None.

    Returns:
        list of class names; a number where each photo has classes of its own, so many; None for kinds.
    """
    found = [all_maps(saved) for saved in photos]
    several_kinds = any(len(maps) > 1 for maps in found)
    most = max((len(class_names_in(maps)) for maps in found), default=0)
    if most <= 1 or (several_kinds and class_name):
        return None
    names = list(dict.fromkeys(name for maps in found for name in class_names_in(maps)))
    return names if len(names) <= CLASSES_SHOWN else min(most, CLASSES_SHOWN)


def row_of(saved, columns, class_name, style):
    """The Cells of one photo, its own first."""
    content = read_content(saved, class_name)
    names, kinds = class_names_in(content.maps), list(content.maps)
    if columns is None:
        own = next((name for name in (class_name, saved.predicted) if name in names), (names or [None])[0])
        wanted = [(kind, own, True) for kind in kinds if own]
    else:
        shown = columns if isinstance(columns, list) else names[:columns]
        wanted = [(kind, name, name == shown[-1]) for kind in kinds[:1] for name in shown]  # a scale, so a bar, a row
    cells = [Cell("photo", content.photo)]
    for kind, name, with_bar in wanted:
        share = saved.probabilities.get(name)
        number = "" if share is None else f" {share:.3f}"
        title = shortened(f"{saved.title_of(kind)}: {name}", TITLE_POINTS, WIDEST, number)
        values = content.maps[kind].get(name, MapError(f"no {kind}_for_{name}.npy"))
        cells.append(map_cell(content, kind, title, values, with_bar, style))
    return cells


def map_cell(content, kind, title, values, with_bar, style):
    """The Cell of one map over its photo."""
    if isinstance(values, Exception) or isinstance(content.photo, Exception):
        return Cell(title, values if isinstance(values, Exception) else content.photo)
    scale = content.over_photo[kind]
    photo = resize_photo(content.photo, *size_in_cell(content.photo))
    picture = superposition_of(photo, overlaid(kind, values), scale, style)
    tall = max(min(photo.shape[0], SIDE // 2), 2 * TICK)  # a panorama's is no higher than its numbers need
    bar = colour_bar(scale, tall, lambda values: superposition_of(mid_grey(values), values, scale, style))
    return Cell(title, picture, bar if with_bar else None)


def size_in_cell(photo):
    """(height, width) of a photo whose longer side is SIDE."""
    factor = SIDE / max(photo.shape[:2])
    return max(1, round(photo.shape[0] * factor)), max(1, round(photo.shape[1] * factor))


def write_sheet(path, photos, class_name=None, style=USUAL, advance=lambda: None):
    """Write the contact sheet.

    Args:
        path: Path, see `format_of`.
        photos: list of SavedPhoto, one a row.
        class_name: str, the class whose kinds are shown where there are several kinds; None for the classes of one.
        style: Style.
        advance: function that is called after each photo.

    Returns:
        list of str, what could not be read.

    Raises:
        UserError: the file's suffix stands for no picture, or there are more photos than fit into one.
    """
    kind, most = format_of(path)
    columns, rows = columns_of(photos, class_name), []
    for saved in photos:
        rows.append(row_of(saved, columns, class_name, style))
        advance()
    headings = [heading_of(saved) for saved in photos]
    fonts = [ImageFont.truetype(FONT, size) for size in (HEADING, TITLE, TICK)]
    heights = [round(LINE * HEADING) + TEXT + max(height_of(cell) for cell in row) + MARGIN for row in rows]
    if sum(heights) + MARGIN > most:
        raise UserError(
            f"--photos {len(photos)} would make a sheet of {sum(heights):,} pixels; expected at most {most:,} in a "
            f"{path.suffix} file: fewer photos"
        )
    widths = widths_of(rows, fonts)
    longest = max(round(fonts[0].getlength(heading)) for heading in headings)
    sheet = Image.new("RGB", (2 * MARGIN + max(sum(widths), longest), MARGIN + sum(heights)), "white")
    top = MARGIN
    for heading, row, height in zip(headings, rows, heights, strict=True):
        ImageDraw.Draw(sheet).text((MARGIN, top), heading, "black", font=fonts[0])
        draw_row(sheet, row, widths, top + round(LINE * HEADING), fonts)
        top += height
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda file: sheet.save(file, kind))
    return [
        f"{saved.name}: {cell.picture}"
        for saved, row in zip(photos, rows, strict=True)
        for cell in row
        if isinstance(cell.picture, Exception)
    ]


def heading_of(saved):
    """A row's name: the photo's, and the class predicted with its probability."""
    share = saved.probabilities.get(saved.predicted)
    number = "" if share is None else f" {share:.3f}"
    return displayable(saved.name) + (f"   predicted: {saved.predicted}{number}" if saved.predicted else "")


def height_of(cell):
    """Pixels of a cell's picture or its bar, whichever is higher; a reason takes half as much as a square photo."""
    if isinstance(cell.picture, Exception):
        return SIDE // 2
    return max(size_in_cell(cell.picture)[0], cell.bar[0].shape[0] if cell.bar else 0)


def widths_of(rows, fonts):
    """The widths of the columns: of the widest picture with its bar, or title."""
    widths = [0] * max(map(len, rows))
    for row in rows:
        for number, cell in enumerate(row):
            beside = BAR + 10 + max(round(fonts[2].getlength(text)) for text, _ in cell.bar[1]) if cell.bar else 0
            width = SIDE if isinstance(cell.picture, Exception) else size_in_cell(cell.picture)[1]
            widths[number] = max(
                widths[number], width + beside + MARGIN, round(fonts[1].getlength(cell.title)) + MARGIN
            )
    return widths


def draw_row(sheet, row, widths, top, fonts):
    """Draw the Cells of one photo from the given height on."""
    pen, left = ImageDraw.Draw(sheet), MARGIN
    for cell, width in zip(row, widths, strict=False):
        pen.text((left, top), cell.title, "black", font=fonts[1])
        below = top + TEXT
        if isinstance(cell.picture, Exception):
            pen.multiline_text(
                (left, below), wrapped_lines(str(cell.picture), fonts[2], width - MARGIN), "black", font=fonts[2]
            )
        else:
            height, across = size_in_cell(cell.picture)
            sheet.paste(Image.fromarray(resize_photo(cell.picture, height, across)), (left, below))
            if cell.bar:
                bar, ticks = cell.bar
                sheet.paste(Image.fromarray(bar), (left + across + 5, below))
                for text, y in ticks:
                    place = (left + across + 10 + BAR, below + min(max(y, TICK // 2), bar.shape[0] - TICK // 2))
                    pen.text(place, text, "black", font=fonts[2], anchor="lm")
        left += width


def wrapped_lines(text, font, room):
    """A text in lines that fit."""
    lines = [""]
    for word in text.split():
        if lines[-1] and font.getlength(f"{lines[-1]} {word}") > room:
            lines.append("")
        lines[-1] += f" {word}" if lines[-1] else word
    return "\n".join(lines)
