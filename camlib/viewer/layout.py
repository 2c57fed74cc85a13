"""Where the pictures of a photo's maps stand in a figure of any size, and texts that fit into the room they have.

Lengths are in pixels of a figure of 100 dots per inch, whatever its own; points of letters are Matplotlib's.
"""

import functools
import math
from typing import NamedTuple

from camlib.plots.text import length, line_height, shortened, wrapped

EDGE, GAP = 10, 12  # around the figure, and between pictures
BAR_HEIGHT, TICKS = 9, 15  # height of a colour bar and of a line of numbers below it
SIZES = (9, 8, 7)  # points of a title's letters, the larger the better
HEADING_POINTS = 10  # points
NARROWEST = 60  # pixels of a column, for its title and its numbers
SMALLEST_MAP = 56  # pixels of its longer side; of more classes than have that much room, some are shown

SHORTER = {"backpropagation:": "backprop.:", "counterfactual": "counterf."}  # where the whole word does not fit


class Title(NamedTuple):
    """What stands above a map: kind, class, a number and a remark; all but the first may be empty."""

    kind: str
    name: str = ""
    number: str = ""
    remark: str = ""

    @property
    def whole(self):
        return f"{self.kind}: {self.name}{self.number}{self.remark}" if self.name else self.kind

    def lines(self, points, room):
        """The title in lines that fit; of a name that does not, the middle is left out."""
        if not self.name or length(self.whole, points) <= room:
            return [shortened(self.whole, points, room)]
        words = [word if length(word, points) <= room else SHORTER.get(word, word) for word in f"{self.kind}:".split()]
        lines = wrapped(words, points, room)
        if length(self.name + self.number + self.remark, points) <= room:
            return [*lines, self.name + self.number + self.remark]
        lines.append(shortened(self.name, points, room, self.number))
        return [*lines, self.remark.strip()] if self.remark else lines


def letters_for(titles, room):
    """(points, lines, whether nothing is left out) of all titles, letters as large and lines as few as may be."""
    for most in (1, 2):
        for points in SIZES:
            lines = [title.lines(points, room) for title in titles]
            if max(map(len, lines), default=1) <= most and not left_out(lines):
                return points, most, True
    lines = [title.lines(SIZES[-1], room) for title in titles]
    return SIZES[-1], max(map(len, lines)), not left_out(lines)


def left_out(lines):
    return any("…" in line for of_title in lines for line in of_title)


# ---------------------------------------------------------------- boxes


class Box(NamedTuple):
    """A rectangle: pixels from the figure's left and upper edge."""

    left: float
    top: float
    width: float
    height: float


class Arrangement(NamedTuple):
    """Where everything stands.

    Attributes:
        photo, overlay, overlay_bar: Box.
        maps: list of Box, row by row, as many columns as the grid has.
        bars: list of Box, one for each kind.
        grid: (rows, columns) of the maps.
        letters: (points, lines, whether nothing is left out) of the maps' titles.
        pitch: width that a map's title may take.
        large_letters: the same of the titles of photo and overlay.
        large_pitch: width that these may take.
    """

    photo: Box
    overlay: Box
    overlay_bar: Box
    maps: list
    bars: list
    grid: tuple
    letters: tuple
    pitch: float
    large_letters: tuple
    large_pitch: float


class Pane(NamedTuple):
    """Pictures of one size in rows and columns, with titles above and colour bars below.

    Attributes:
        rows, columns: int.
        width, height: of a picture.
        pitch: width of a column.
        letters: as in Arrangement.
    """

    rows: int
    columns: int
    width: float
    height: float
    pitch: float
    letters: tuple

    @property
    def row(self):
        """Height of a row with its title."""
        return title_height(self.letters) + self.height

    @property
    def size(self):
        """(width, height) with everything."""
        return self.columns * (self.pitch + GAP) - GAP, self.rows * (self.row + GAP) - GAP + BAR_ROOM

    def boxes(self, left, top):
        """The pictures' places, row by row."""
        return [
            Box(
                left + column * (self.pitch + GAP) + (self.pitch - self.width) / 2,
                top + row * (self.row + GAP) + title_height(self.letters),
                self.width,
                self.height,
            )
            for row in range(self.rows)
            for column in range(self.columns)
        ]


BAR_ROOM = 5 + BAR_HEIGHT + 3 + 2 * TICKS  # bar, its numbers, and their unit


def title_height(letters):
    points, lines, _ = letters
    return lines * line_height(points) + 3


@functools.lru_cache(maxsize=4096)
def pane_in(width, height, rows, columns, aspect, titles):
    """The Pane of rows x columns that fits, or None.

    Args:
        width, height: of the room.
        rows, columns: int.
        aspect: float, a picture's width over its height.
        titles: tuple of Title.
    """
    pitch = (width + GAP) / columns - GAP
    if pitch < NARROWEST:
        return None
    letters = letters_for(titles, pitch)
    tallest = (height - BAR_ROOM + GAP) / rows - GAP - title_height(letters)
    of_height = min(tallest, pitch / aspect)
    if of_height < 8 or of_height * aspect < 8:
        return None
    needed = max((length(line, letters[0]) for title in titles for line in title.lines(letters[0], pitch)), default=0)
    return Pane(rows, columns, of_height * aspect, of_height, max(of_height * aspect, min(pitch, needed)), letters)


def arrange(room, aspect, rows, kinds, titles, large_titles):
    """Find the places that give photo, overlay and maps the most room.

    Args:
        room: Box of the figure without its heading and its controls.
        aspect: float, a picture's width over its height.
        rows: int, classes.
        kinds: int, of map: with several each has a column, with one the maps stand in any grid.
        titles: list of Title of the maps, all classes of all kinds.
        large_titles: the titles of photo and overlay.

    Returns:
        Arrangement; where there is no room for all classes its grid has fewer rows (with one kind: fewer places).
    """
    titles, large_titles = tuple(titles), tuple(large_titles)
    for shown in range(max(rows, 1), 0, -1):
        grids = [(shown, kinds)] if kinds > 1 else [(-(-shown // columns), columns) for columns in range(1, shown + 1)]
        best = max(candidates(room, aspect, sorted(set(grids)), titles, large_titles), key=worth, default=None)
        if best and (shown == 1 or max(best[1].width, best[1].height) >= SMALLEST_MAP):
            return placed(room, kinds, *best)
    side = max(min(room.width, room.height) / 4, 8)  # no figure is too small to draw something
    pane = Pane(1, kinds, side, side, side, (SIZES[-1], 1, True))
    return placed(room, kinds, Pane(1, 2, side, side, side, (SIZES[-1], 1, True)), pane, True)


def candidates(room, aspect, grids, titles, large_titles):
    """Yield (Pane of photo and overlay, Pane of maps, beside each other or else below)."""
    for share in range(15, 80, 5):
        for beside in (True, False):
            along = room.width if beside else room.height
            first = round(along * share / 100)
            second = along - first - 2 * GAP
            sizes = (
                [(first, room.height), (second, room.height)] if beside else [(room.width, first), (room.width, second)]
            )
            for pair in ((2, 1), (1, 2)):
                large = pane_in(*sizes[0], *pair, aspect, large_titles)
                for grid in grids if large else ():
                    small = pane_in(*sizes[1], *grid, aspect, titles)
                    if small and small.width <= large.width:
                        yield large, small, beside


def worth(candidate):
    """The areas of a large and a small picture, multiplied: neither grows at the other's cost alone.

    Half of that where a title does not fit.
    """
    large, small, _ = candidate
    whole = large.letters[2] + small.letters[2]
    return math.log(large.width * large.height) + math.log(small.width * small.height) + math.log(2) * whole


def placed(room, kinds, large, small, beside):
    """The Arrangement of two panes in the middle of their room."""
    (width, height), small_width = large.size, small.size[0]
    if beside:
        spare = max(room.width - width - small_width, 0)
        between = min(max(spare / 3, 2 * GAP), 4 * GAP)
        left = room.left + max((spare - between) / 2, 0)
        starts = (left, room.top), (left + width + between, room.top)
    else:
        left = room.left + max((room.width - width) / 2, 0), room.left + max((room.width - small_width) / 2, 0)
        starts = (left[0], room.top), (left[1], room.top + height + GAP)
    photo, overlay = large.boxes(*starts[0])
    maps = small.boxes(*starts[1])
    last = maps[-small.columns :]
    bars = [bar_below(box, box, small.pitch) for box in last] if kinds > 1 else [bar_below(last[0], last[-1])]
    return Arrangement(photo, overlay, bar_below(overlay, overlay, large.pitch), maps, bars,
                       (small.rows, small.columns), small.letters, small.pitch, large.letters, large.pitch)  # fmt: skip


def bar_below(first, last, pitch=0):
    """The Box of a colour bar below pictures from the first to the last of a row; no narrower than its numbers."""
    width = last.left + last.width - first.left
    wide = max(width, min(pitch, 120))
    return Box(first.left + (width - wide) / 2, last.top + last.height + 5, wide, BAR_HEIGHT)


def ticks_in(ticks, room):
    """(points, ticks) of those numbers of a colour bar that fit below it side by side, from the lowest."""
    for points in (8, 7, 6):
        for kept in (ticks, [ticks[0], ticks[-1]]) if len(ticks) > 1 else (ticks,):
            widths = [length(text, points) + 4 for _, text in kept]
            # the ends are written inwards, the middle has what is left
            if sum(widths) <= room and (len(kept) < 3 or widths[1] / 2 + max(widths[0], widths[2]) <= room / 2):
                return points, kept
    return 6, ticks[-1:]


def label_in(labels, room):
    """(points, text) of the first label that fits; none, where the title above has to do."""
    for label in labels:
        for points in (8, 7):
            if length(label, points) <= room:
                return points, label
    return 7, ""
