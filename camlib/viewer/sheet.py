"""The contact sheet of a run: photos in rows, the maps of their classes or kinds in columns."""

import cv2
import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont

from camlib.console import UserError
from camlib.files import write_whole
from camlib.photos import resize_photo, size_within
from camlib.plots import UNSURE, WRONG
from camlib.plots.colours import USUAL, superposition_of
from camlib.plots.panels import MARGIN, TICK, TITLE, Row, bar_over_photo, sheet_of
from camlib.plots.text import FONT, PER_INCH, displayable, shortened, wrapped
from camlib.runs.maps import CLASSES_SHOWN, all_maps, base_kind, class_names_in
from camlib.viewer.album import overlaid, predictions_of, read_content

SHEET_FORMATS = {
    ".png": ("PNG", 65_000),
    ".jpg": ("JPEG", 65_000),
    ".jpeg": ("JPEG", 65_000),
    ".webp": ("WEBP", 16_383),
}
SIDE = 200  # pixels of a picture's longer side
TITLE_POINTS, WIDEST = TITLE * 72 / PER_INCH, 280  # letters of a title as Matplotlib's points; pixels it may take
RIM = 6  # pixels of the frame around a photo


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


def only_kind(photos, columns):
    """The kind of map that a sheet shows; None where it shows several."""
    kinds = list(dict.fromkeys(kind for saved in photos for kind in all_maps(saved)))
    return kinds[0] if kinds and (columns is not None or len(kinds) == 1) else None


def row_of(saved, columns, class_name, style, with_kinds=False):
    """The Row of one photo, itself first, and what of it cannot be read: list of str.

    Args:
        saved: SavedPhoto.
        columns: see `columns_of`.
        class_name: str or None, see `write_sheet`.
        style: Style.
        with_kinds: bool, titles name kinds of map, which differ, instead of classes.
    """
    content = read_content(saved, class_name)
    names, kinds, photo = class_names_in(content.maps), list(content.maps), content.photo
    if columns is None:
        wanted = [(kind, own_class(saved.run_of(kind), class_name, names), True) for kind in kinds if names]
    else:
        shown = columns if isinstance(columns, list) else names[:columns]
        wanted = [(kind, name, name == shown[-1]) for kind in kinds[:1] for name in shown]  # a scale, so a bar, a row
    if not isinstance(photo, Exception):
        photo = resize_photo(photo, *size_within(SIDE, *photo.shape[:2]))
    cells = [("photo", framed(photo, saved), None)]
    for kind, name, with_bar in wanted:
        title = shortened(name, TITLE_POINTS, WIDEST, percent_of(saved.run_of(kind), name))
        if with_kinds:
            of_all = len(saved.answers) == 1 and name == saved.predicted  # then the row's heading names it
            title = saved.title_of(kind) + ("" if of_all else f": {title}")
        extent = None if isinstance(photo, Exception) else saved.extent_of(kind, photo.shape[:2])
        picture, bar = over_photo(photo, kind, content.map_of(kind, name), content.over_photo[kind], style, extent)
        cells.append((title, picture, bar if with_bar else None))
    damaged = [f"{saved.name}: {picture}" for _, picture, _ in cells if isinstance(picture, Exception)]
    cells = [
        (title, picture_of_reason(picture) if isinstance(picture, Exception) else picture, bar)
        for title, picture, bar in cells
    ]
    return Row([f"{displayable(saved.name)}   {answer_of(saved)}".rstrip()], cells), damaged


def own_class(saved, asked, names):
    """The class whose map is shown of a run: the one asked for, else what the network predicts, else the first."""
    return next((name for name in (asked, saved.predicted) if name in names), names[0])


def percent_of(saved, name):
    """A class's probability as it stands behind its name: " 94 %", or nothing where it is unknown."""
    return f" {100 * saved.probabilities[name]:.0f} %" if name in saved.probabilities else ""


def answer_of(saved):
    """What the network takes a photo for, and whether it is right: "✗ predicted: horse 86 %, is dog"; "" if unknown."""
    said = "".join(predictions_of(saved, percent_of))
    mark, truth = {True: ("✓ ", ""), False: ("✗ ", f", is {saved.truth}"), None: ("", "")}[saved.is_right]
    return f"{mark}{said}{truth}" if said else ""


def framed(photo, saved):
    """The photo, in a frame where its answer is wrong or the network is unsure; an error in its place as it is."""
    colour = WRONG if saved.is_right is False else UNSURE if saved.is_unsure else None
    if colour is None or isinstance(photo, Exception):
        return photo
    height, width = photo.shape[:2]
    corners = (0, 0), (width - 1, height - 1)
    return cv2.rectangle(photo.copy(), *corners, ImageColor.getrgb(colour), 2 * RIM)  # half of it is outside


def over_photo(photo, kind, values, scale, style, extent=None):
    """(picture, colour bar) of a map over its photo, or (the error of either, None)."""
    if isinstance(values, Exception) or isinstance(photo, Exception):
        return (values if isinstance(values, Exception) else photo), None
    tall = max(min(photo.shape[0], SIDE // 2), 2 * TICK)  # a panorama's is no higher than its numbers need
    return superposition_of(photo, overlaid(kind, values), scale, style, extent), bar_over_photo(scale, tall, style)


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
    only = only_kind(photos, columns)
    for saved in photos:
        row, bad = row_of(saved, columns, class_name, style, with_kinds=only is None)
        if only and not rows:
            row.heading.insert(0, f"{saved.title_of(only)} over the photo")
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
