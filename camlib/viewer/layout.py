"""Where the pictures of a photo's maps stand in a figure: one grid for each size, whatever the photo's shape.

Lengths are in pixels of a figure of 100 dots per inch, whatever its own; points of letters are Matplotlib's.
"""

import itertools
from typing import NamedTuple

from camlib.plots.text import length, line_height, shortened

EDGE, GAP = 10, 12  # around the figure, and between pictures
BAR_HEIGHT, TICKS = 9, 15  # height of a colour bar and of a line of numbers below it
BAR_ROOM = 5 + BAR_HEIGHT + 3 + 2 * TICKS  # bar, its numbers, and their unit
SIZES = (9, 8, 7)  # points of a title's letters, the larger the better
HEADING_POINTS, LABEL_POINTS = 10, 8  # of the heading, and of what stands below a colour bar
TITLE_ROOM = 2 * line_height(SIZES[0]) + 3  # a title has two lines at most
LARGE_SHARE = 0.4  # of the figure's longer side, for photo and overlay
SMALLEST_MAP = 56  # pixels of a cell's shorter side; of more classes than have that much room, some are shown


class Title(NamedTuple):
    """What stands above a map: kind, class, a number and a remark; all but the first may be empty."""

    kind: str
    name: str = ""
    number: str = ""
    remark: str = ""

    def lines(self, points, room):
        """The title in one line or two that fit; of what does not, the middle is left out."""
        whole = f"{self.kind}: {self.name}{self.number}{self.remark}" if self.name else self.kind
        if not self.name or length(whole, points) <= room:
            return [shortened(whole, points, room)]
        names = (shortened(self.name, points, room, end) for end in (self.number + self.remark, self.number, ""))
        name = next((one for one in names if length(one, points) <= room), "…")
        return [shortened(f"{self.kind}:", points, room), name]


def points_for(titles, room):
    """The points of letters, as large as may be, in which nothing of the titles is left out."""
    fitting = (
        points for points in SIZES if not any("…" in line for title in titles for line in title.lines(points, room))
    )
    return next(fitting, SIZES[-1])


class Box(NamedTuple):
    """A rectangle: pixels from the figure's left and upper edge."""

    left: float
    top: float
    width: float
    height: float

    def picture(self, aspect):
        """The largest Box in it whose width is `aspect` times its height: at its upper edge, in the middle."""
        width = min(self.width, self.height * aspect)
        return Box(self.left + (self.width - width) / 2, self.top, width, width / aspect)


class Grid(NamedTuple):
    """Where everything stands.

    Attributes:
        photo, overlay, overlay_bar: Box.
        maps: list of Box, row by row.
        bars: list of Box, one for each kind.
        shape: (rows, columns) of the maps.
    """

    photo: Box
    overlay: Box
    overlay_bar: Box
    maps: list
    bars: list
    shape: tuple


def cells_in(room, rows, columns):
    """Cells of one size, row by row, with room for titles above, and bars below the last row: two lists of Box."""
    width = max((room.width + GAP) / columns - GAP, 8)
    height = max((room.height - BAR_ROOM + GAP) / rows - GAP - TITLE_ROOM, 8)
    cells = [
        Box(
            room.left + column * (width + GAP),
            room.top + row * (height + GAP + TITLE_ROOM) + TITLE_ROOM,
            width,
            height,
        )
        for row in range(rows)
        for column in range(columns)
    ]
    return cells, [Box(cell.left, cell.top + height + 5, width, BAR_HEIGHT) for cell in cells[-columns:]]


def grid_in(room, kinds, classes):
    """The places of photo, overlay and maps, which depend on nothing else.

    Args:
        room: Box of the figure without its heading and its controls.
        kinds: int, of map: with several each has a column, with one the maps stand in the squarest cells.
        classes: int.

    Returns:
        Grid; where there is no room for all classes it has fewer rows (with one kind: fewer places).
    """
    left, top, width, height = room
    if width >= height:
        first = width * LARGE_SHARE
        large, bars = cells_in(Box(left, top, first, height), 2, 1)
        rest = Box(left + first + 2 * GAP, top, width - first - 2 * GAP, height)
    else:
        first = height * LARGE_SHARE
        large, bars = cells_in(Box(left, top, width, first), 1, 2)
        rest = Box(left, top + first + GAP, width, height - first - GAP)
    for shown in range(max(classes, 1), 0, -1):
        shapes = [(shown, kinds)] if kinds > 1 else [(-(-shown // some), some) for some in range(1, shown + 1)]
        maps, map_bars, shape = max(((*cells_in(rest, *shape), shape) for shape in shapes), key=shorter_side)
        if shorter_side((maps,)) >= SMALLEST_MAP:
            break
    if kinds == 1:  # one bar for the whole row
        one, other = map_bars[0], map_bars[-1]
        map_bars = [one._replace(width=other.left + other.width - one.left)]
    return Grid(*large, bars[-1], maps, map_bars, shape)


def shorter_side(candidate):
    """Of a cell, the first entry's."""
    return min(candidate[0][0][2:])


def ticks_in(ticks, room):
    """(points, ticks) of those numbers of a colour bar that fit below it side by side, from the lowest."""
    for points, kept in itertools.product((8, 7, 6), (ticks, [ticks[0], ticks[-1]])):
        widths = [length(text, points) + 4 for _, text in kept]
        # the ends are written inwards, the middle has what is left
        if sum(widths) <= room and (len(kept) < 3 or widths[1] / 2 + max(widths[0], widths[2]) <= room / 2):
            return points, kept
    return points, ticks[-1:]
