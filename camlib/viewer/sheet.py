"""The contact sheet of a run: photos in rows, the maps of their classes or kinds in columns."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from camlib.console import UserError
from camlib.files import write_whole
from camlib.photos import resize_photo, size_within
from camlib.plots.colours import USUAL, superposition_of
from camlib.plots.panels import MARGIN, TICK, TITLE, Row, colour_bar, mid_grey, sheet_of
from camlib.plots.text import FONT, PER_INCH, displayable, shortened, wrapped
from camlib.runs.maps import CLASSES_SHOWN, all_maps, base_kind, class_names_in
from camlib.viewer.album import overlaid, predictions_of, read_content, share_of

SHEET_FORMATS = {
    ".png": ("PNG", 65_000),
    ".jpg": ("JPEG", 65_000),
    ".jpeg": ("JPEG", 65_000),
    ".webp": ("WEBP", 16_383),
}
SIDE = 200  # pixels of a picture's longer side
TITLE_POINTS, WIDEST = TITLE * 72 / PER_INCH, 280  # letters of a title as Matplotlib's points; pixels it may take


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
        list of class names; a number where each photo has classes of its own, so many; None for kinds; of several runs
        always so.
    """
    found = [all_maps(saved) for saved in photos]
    several_kinds = any(len(maps) > 1 for maps in found)
    several_runs = any(kind != base_kind(kind) for maps in found for kind in maps)
    most = max((len(class_names_in(maps)) for maps in found), default=0)
    if most <= 1 or (several_kinds and class_name) or several_runs:
        return None
    names = list(dict.fromkeys(name for maps in found for name in class_names_in(maps)))
    return names if len(names) <= CLASSES_SHOWN else min(most, CLASSES_SHOWN)


def row_of(saved, columns, class_name, style):
    """The Row of one photo, itself first, and what of it cannot be read: list of str."""
    content = read_content(saved, class_name)
    names, kinds, photo = class_names_in(content.maps), list(content.maps), content.photo
    if columns is None:
        own = next((name for name in (class_name, saved.predicted) if name in names), (names or [None])[0])
        wanted = [(kind, own, True) for kind in kinds if own]
    else:
        shown = columns if isinstance(columns, list) else names[:columns]
        wanted = [(kind, name, name == shown[-1]) for kind in kinds[:1] for name in shown]  # a scale, so a bar, a row
    if not isinstance(photo, Exception):
        photo = resize_photo(photo, *size_within(SIDE, *photo.shape[:2]))
    cells = [("photo", photo, None)]
    for kind, name, with_bar in wanted:
        title = shortened(f"{saved.title_of(kind)}: {name}", TITLE_POINTS, WIDEST, share_of(saved.run_of(kind), name))
        picture, bar = over_photo(photo, kind, content.map_of(kind, name), content.over_photo[kind], style)
        cells.append((title, picture, bar if with_bar else None))
    damaged = [f"{saved.name}: {picture}" for _, picture, _ in cells if isinstance(picture, Exception)]
    cells = [
        (title, picture_of_reason(picture) if isinstance(picture, Exception) else picture, bar)
        for title, picture, bar in cells
    ]
    return Row(["   ".join([displayable(saved.name), *predictions_of(saved)])], cells), damaged


def over_photo(photo, kind, values, scale, style):
    """(picture, colour bar) of a map over its photo, or (the error of either, None)."""
    if isinstance(values, Exception) or isinstance(photo, Exception):
        return (values if isinstance(values, Exception) else photo), None
    tall = max(min(photo.shape[0], SIDE // 2), 2 * TICK)  # a panorama's is no higher than its numbers need
    bar = colour_bar(scale, tall, lambda values: superposition_of(mid_grey(values), values, scale, style))
    return superposition_of(photo, overlaid(kind, values), scale, style), bar


def picture_of_reason(reason):
    """A picture of the reason why there is none: uint8 (SIDE // 2, SIDE, 3)."""
    picture = Image.new("RGB", (SIDE, SIDE // 2), "white")
    lines = wrapped(str(reason).split(), TICK * 72 / PER_INCH, SIDE)
    ImageDraw.Draw(picture).multiline_text((0, 0), "\n".join(lines), "black", ImageFont.truetype(FONT, TICK))
    return np.asarray(picture)


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
    columns, rows, damaged = columns_of(photos, class_name), [], []
    for saved in photos:
        row, bad = row_of(saved, columns, class_name, style)
        rows.append(row)
        damaged += bad
        advance()
    height = sum(row.height for row in rows)
    if height + MARGIN // 2 > most:
        raise UserError(
            f"--photos {len(photos)} would make a sheet of {height:,} pixels; expected at most {most:,} in a "
            f"{path.suffix} file: fewer photos"
        )
    sheet = Image.fromarray(sheet_of(rows))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda file: sheet.save(file, kind))
    return damaged
