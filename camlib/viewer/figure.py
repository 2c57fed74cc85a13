"""The figure of one photo's maps: photo and overlay, every kind and class of map, and their colour bars."""

import itertools

import numpy as np
from matplotlib.patches import Rectangle
from matplotlib.patheffects import Normal, Stroke

from camlib.photos import resize_photo
from camlib.plots import CHOSEN, RIGHT, UNSURE, WRONG, is_gradient
from camlib.plots.colours import USUAL, overlaid, picture_of, superposition_of
from camlib.plots.panels import mid_grey
from camlib.plots.text import PER_INCH, displayable, length, line_height, shortened, wrapped
from camlib.runs.maps import MapError, base_kind, class_names_in
from camlib.viewer.album import predictions_of, share_of
from camlib.viewer.artists import Label, Picture
from camlib.viewer.layout import (
    BAR_HEIGHT,
    EDGE,
    HEADING_POINTS,
    LABEL_POINTS,
    SIZES,
    TICKS,
    Box,
    Title,
    grid_in,
    points_for,
    ticks_in,
)

EASY_TO_SEE = 100  # pixels of a map's longer side
EDGED = [Stroke(linewidth=2.8, foreground="black"), Normal()]  # seen on any photo
SPACE = "   "  # between the parts of the heading
FRAME = 3  # pixels: width of a frame
# What is said of values under the cursor and of a colour bar; other methods' maps have no unit of their own
UNITS = {
    "heatmap": "logit units",
    "guided_backprop": "logit per input unit",
    "guided_gradcam": "logit per input unit × map",
}


class Viewer:
    """One photo's maps in a Matplotlib figure: photo and overlay, and beside or below them kinds and classes of map.

    Args:
        figure: matplotlib Figure.
        album: Album.
        class_name: str, the overlay's class, or None for the class predicted.
        style: Style.
        kind: str, the kind of map of the overlay, or None for the first there is.
        footer: float, pixels at 100 dots per inch that are kept free below, for controls.

    Attributes:
        panels: list of Axes: photo, overlay, and those of the maps; some of the latter may be hidden.
        bars: list of Axes, a colour bar for each kind; overlay_bar is that of the overlay.
        grid: (rows, columns) of the maps.
        cells: list of (kind, class name), what `panels[2:]` show.
        notes: list of str, added to the heading.
    """

    heading_lines = 2  # with room for them on each photo, so that nothing moves from one to the next

    def __init__(self, figure, album, class_name=None, style=USUAL, kind=None, footer=0.0):
        self.figure, self.album, self.footer = figure, album, footer
        self.wanted_class, self.wanted_kind, self.style = class_name, kind, style
        self.panels, self.bars, self.cells, self.notes, self.with_truth = [], [], [], [], True
        self.heading = figure.add_artist(Label(fontsize=HEADING_POINTS, va="top", transform=figure.transFigure))
        self.overlay_bar = self.new_axes()
        self.frames = [
            figure.add_artist(Rectangle((0, 0), 0, 0, fill=False, linewidth=FRAME * 72 / PER_INCH, visible=False))
            for _ in range(2)  # of the photo, and of the map that is laid over it
        ]
        self.read()
        self.show()

    # ------------------------------------------------------------ what is shown

    @property
    def saved(self):
        return self.album.saved

    def read(self):
        """Read the photo and its maps from their files."""
        self.content = self.album.content(self.wanted_class)

    @property
    def overlay_class(self):
        """The class the user chose, else the class predicted, else the first there is."""
        names = self.content.names
        return next((name for name in (self.wanted_class, self.saved.predicted) if name in names), (names or [None])[0])

    @property
    def overlay_kind(self):
        """The kind of map the user chose, else the first there is."""
        kinds = list(self.content.maps)
        return self.wanted_kind if self.wanted_kind in kinds else (kinds or [None])[0]

    @property
    def is_roomy(self):
        """Whether there is room for all classes that have been read, in maps that are easy to see."""
        side = max(self.places.maps[0].picture(self.aspect)[2:])
        return side >= EASY_TO_SEE and len({name for _, name in self.cells}) == len(class_names_in(self.content.maps))

    def choose(self, kind=None, class_name=None):
        """Lay another kind or class of map over the photo."""
        self.wanted_kind, before = kind or self.wanted_kind, self.wanted_class
        self.wanted_class = class_name or self.wanted_class
        if self.wanted_class != before and not any(self.wanted_class in maps for maps in self.content.maps.values()):
            self.read()
        self.show()

    def title_of(self, kind, name):
        """Title of a map: "Grad-CAM: horse 0.452"."""
        values = self.content.map_of(kind, name)
        zero = isinstance(values, np.ndarray) and not values.any()
        return Title(
            self.saved.title_of(kind), name, share_of(self.saved.run_of(kind), name), " (all zero)" if zero else ""
        )

    # ------------------------------------------------------------ drawing

    def new_axes(self):
        """Axes without anything, outside the figure until they are placed."""
        axes = self.figure.add_axes((0, 0, 0.01, 0.01))
        axes.set_axis_off()
        axes.autoscale(False)
        return axes

    def show(self):
        """Draw everything anew."""
        kinds = list(self.content.maps)
        names = class_names_in(self.content.maps)
        titles = {(kind, name): self.title_of(kind, name) for name in names for kind in kinds}
        self.places = grid_in(self.room(), max(len(kinds), 1), len(names))
        self.grid = rows, columns = self.places.shape
        names = self.most_probable(names, rows if len(kinds) > 1 else rows * columns)
        many = len(names) < len(self.content.names)
        self.show_heading(*([f"{len(names):,} of {len(self.content.names):,} classes"] if many else []))
        self.cells = [(kind, name) for name in names for kind in kinds]
        while len(self.panels) < 2 + len(self.cells):
            self.panels.append(self.new_axes())
        while len(self.bars) < len(kinds):
            self.bars.append(self.new_axes())
        verdict, colour = verdict_on(self.saved)
        photo = self.photo_in(self.places.photo)
        self.draw_picture(self.panels[0], self.places.photo, Title(verdict), SIZES[0], photo)
        self.panels[0].texts[0].set_color(colour or "black")
        self.frames[0].set_visible(bool(colour))
        self.draw_frame(self.frames[0], self.places.photo, colour)
        points = points_for(titles.values(), self.places.maps[0].width)
        for number, (kind, name) in enumerate(self.cells):
            self.draw_map(self.panels[2 + number], self.places.maps[number], (kind, name), titles[kind, name], points)
        for axes in [*self.panels[2 + len(self.cells) :], *self.bars[len(kinds) :]]:
            axes.set_visible(False)
        for axes, kind, box in zip(self.bars, kinds, self.places.bars, strict=False):
            self.draw_colour_bar(axes, kind, box)
        self.show_overlay()

    def most_probable(self, names, count):
        """So many of the classes: the most probable, and that over the photo, in their order."""
        if len(names) <= count:
            return names
        scores = self.saved.probabilities or self.saved.logits
        kept = sorted(names, key=lambda name: (name != self.overlay_class, -scores.get(name, 0.0)))[:count]
        return [name for name in names if name in kept]

    def photo_in(self, cell):
        """The photo as large as a cell, or why there is none."""
        photo = self.content.photo
        return photo if isinstance(photo, Exception) else resize_photo(photo, *self.pixels(cell))

    @property
    def aspect(self):
        """The photo's width over its height."""
        return self.content.shape[1] / self.content.shape[0]

    def room(self):
        """The Box of the figure without heading and controls."""
        width, height = self.figure.get_size_inches() * PER_INCH
        top = 6 + self.heading_lines * line_height(HEADING_POINTS) + 4
        return Box(EDGE, top, width - 2 * EDGE, max(height - top - self.footer - EDGE, 1))

    def show_heading(self, *remarks):
        """Write the heading; what has no room in its lines is left out of the last one's middle."""
        width, height = self.figure.get_size_inches() * PER_INCH
        room = width - 2 * EDGE
        first, *rest = wrapped([*self.heading_parts(), *remarks], HEADING_POINTS, room, SPACE)
        self.heading.set_text(f"{first}\n{shortened(SPACE.join(rest), HEADING_POINTS, room)}")
        self.heading.set_position((EDGE / width, 1 - 6 / height))

    def heading_parts(self):
        """The photo's name, its place in the run, the class predicted, the truth, and notes."""
        saved, album = self.saved, self.album
        parts = [displayable(saved.name), f"({album.position + 1:,} of {len(album):,})"]
        parts += predictions_of(saved)
        if saved.is_right is False:
            parts.append(f"truth: {saved.truth}")
        return [part for part in [*parts, *self.notes] if part]

    def place(self, axes, box):
        """Put axes into a box of pixels."""
        width, height = self.figure.get_size_inches() * PER_INCH
        bounds = box.left / width, 1 - (box.top + box.height) / height, box.width / width, box.height / height
        if axes.get_position().bounds != bounds:
            axes.set_position(bounds)

    def pixels(self, cell):
        """(height, width) of the photo's shape in a cell, in dots of the figure: pictures are drawn at that size."""
        return self.dots(cell.picture(self.aspect))

    def dots(self, box):
        """(height, width) of a box in dots of the figure."""
        return tuple(max(1, round(side * self.figure.dpi / PER_INCH)) for side in (box.height, box.width))

    def draw_picture(self, axes, cell, title, points, picture):
        """Show an array in the photo's shape at the upper edge of a cell, or the reason why there is none.

        Args:
            axes: Axes.
            cell: Box.
            title: Title.
            points: of its letters.
            picture: uint8 (h, w, 3), or an error.
        """
        box = cell.picture(self.aspect)
        self.place(axes, box)
        axes.set_visible(True)
        height, width = self.content.shape
        error = isinstance(picture, Exception)
        if not axes.images:
            axes.add_image(Picture(axes, interpolation="nearest")).mouseover = False
            axes.add_artist(Label(ha="center", va="bottom", transform=axes.transAxes))
            axes.add_artist(Label(x=0.5, y=0.5, ha="center", va="center", fontsize=8, transform=axes.transAxes))
        image, (above, text) = axes.images[0], axes.texts
        above.set(text="\n".join(title.lines(points, cell.width)), x=0.5, y=1 + 3 / box.height, fontsize=points)
        image.set_visible(not error)
        text.set_text("\n".join(wrapped(str(picture).split(), 8, cell.width)) if error else "")
        if not error:
            image.set_data(picture)
            if tuple(image.get_extent()) != (0, width, height, 0):  # setting what is so already takes long
                image.set_extent((0, width, height, 0))
        if (*axes.get_xlim(), *axes.get_ylim()) != (0, width, height, 0):
            axes.set_xlim(0, width)
            axes.set_ylim(height, 0)
        axes.format_coord = self.value_at(picture if axes is self.panels[0] else None)

    def draw_map(self, axes, cell, which, title, points):
        """Show the map of a (kind, class name), see `draw_picture`."""
        picture = values = self.content.map_of(*which)
        if isinstance(values, np.ndarray):
            extent = self.saved.extent_of(which[0], self.content.shape)
            picture = picture_of(values, self.content.scales[which[0]], *self.pixels(cell), self.style, extent)
        self.draw_picture(axes, cell, title, points, picture)
        axes.format_coord = self.value_at(values, *which)

    def value_at(self, values, kind=None, name=None):
        """A function of x and y, in pixels of the photo, that says what is there."""
        height, width = self.content.shape
        top, left, bottom, right = (kind and self.saved.extent_of(kind, self.content.shape)) or (0.0, 0.0, 1.0, 1.0)

        def say(x, y):
            down, across = (y / height - top) / (bottom - top), (x / width - left) / (right - left)
            within = 0 <= x < width and 0 <= y < height and 0 <= down < 1 and 0 <= across < 1
            if not isinstance(values, np.ndarray) or not within:
                return ""
            found = values[int(down * values.shape[0]), int(across * values.shape[1])]
            if kind is None:
                return f"{int(x)}, {int(y)}: RGB {' '.join(map(str, found))}"
            numbers = "RGB " + " ".join(f"{value:.3g}" for value in found) if np.ndim(found) else f"{found:.4g}"
            return f"{int(x)}, {int(y)}: {name} {numbers} {UNITS.get(base_kind(kind or ''), '')}".rstrip()

        return say

    def draw_colour_bar(self, axes, kind, box):
        """Draw the colour bar of a kind of map, common to all classes."""
        scale = self.content.scales[kind]
        coloured = is_gradient(kind) and any(np.ndim(values) == 3 for values in self.content.maps[kind].values())

        def picture(values):
            return picture_of(
                np.repeat(values[..., None], 3, axis=2) if coloured else values, scale, *values.shape, self.style
            )

        self.draw_bar(axes, box, scale, picture, self.bar_labels(kind))

    def bar_labels(self, kind):
        """What a colour bar's numbers are, the longer first."""
        title, unit = self.saved.title_of(kind), UNITS.get(base_kind(kind), "")
        return [f"{title}, {unit}", unit] if unit else [title]

    def draw_bar(self, axes, box, scale, picture_of_values, labels):
        """Draw a colour bar with its numbers below it, and what they are in the first of the labels that fits."""
        self.place(axes, box)
        axes.set_visible(True)
        height, width = self.dots(box)
        values = np.linspace(scale.lowest, scale.limit, width, dtype=np.float32)
        picture = picture_of_values(np.tile(values, (height, 1)))
        if not axes.images:
            axes.add_image(Picture(axes, interpolation="nearest", origin="lower")).mouseover = False
            for _ in range(4):  # three numbers and the label
                axes.add_artist(Label(va="top", fontsize=LABEL_POINTS, transform=axes.transAxes))
        axes.images[0].set_data(picture)
        ends = (scale.lowest, scale.limit) if scale.limit else (-1.0, 1.0) if scale.signed else (0.0, 1.0)
        axes.images[0].set_extent((*ends, 0, 1))
        axes.set_xlim(*ends)
        points, ticks = ticks_in(scale.ticks(), box.width)
        *numbers, text = axes.texts
        for number, tick in itertools.zip_longest(numbers, ticks):
            value, words = tick or (ends[0], "")
            number.set(
                text=words,
                x=(value - ends[0]) / (ends[1] - ends[0]),
                y=-3 / BAR_HEIGHT,
                fontsize=points,
                ha="left" if value == ends[0] else "right" if value == ends[1] else "center",
            )
        # of no label that fits, the title above has to do
        label = next((label for label in labels if length(label, LABEL_POINTS) <= box.width), "")
        text.set(text=label, x=0.5, y=-(3 + TICKS) / BAR_HEIGHT, ha="center")
        axes.format_coord = lambda x, y: f"{x:.4g}"

    # ------------------------------------------------------------ the map over the photo

    def laid_over_photo(self, kind, name, cell):
        """The picture of a map over the photo, or the photo where it cannot be read, in a cell."""
        values, content = self.content.map_of(kind, name), self.content
        if not isinstance(values, np.ndarray) or not isinstance(content.photo, np.ndarray):
            return content.photo if isinstance(values, np.ndarray) else values
        scale, extent = content.over_photo[kind], self.saved.extent_of(kind, content.shape)
        return superposition_of(self.photo_in(cell), overlaid(kind, values), scale, self.style, extent)

    def draw_bar_over_photo(self, axes, kind, box, labels):
        """Draw the colour bar of a kind of map over the photo."""
        whole = self.content.over_photo[kind]
        self.draw_bar(axes, box, whole, lambda bar: superposition_of(mid_grey(bar), bar, whole, self.style), labels)

    def show_overlay(self):
        """Lay the chosen kind and class of map over the photo, and frame that map."""
        name, kind, cell = self.overlay_class, self.overlay_kind, self.places.overlay
        for artist in (self.overlay_bar, self.frames[1]):
            artist.set_visible(bool(kind))
        if kind:
            picture, title = self.laid_over_photo(kind, name, cell), self.title_of(kind, name)._replace(remark="")
            self.draw_picture(self.panels[1], cell, title, points_for([title], cell.width), picture)
            self.panels[1].format_coord = self.value_at(self.content.map_of(kind, name), kind, name)
            labels = ["over the photo: magnitude, smoothed", "magnitude"] if is_gradient(kind) else ["over the photo"]
            self.draw_bar_over_photo(self.overlay_bar, kind, self.places.overlay_bar, labels)
            number = self.cells.index((kind, name))
            self.draw_frame(self.frames[1], self.places.maps[number], CHOSEN)
            for axes in self.panels[2:]:
                axes.texts[0].set_color(CHOSEN if axes is self.panels[2 + number] else "black")
        else:
            reason = MapError("no maps: was the run stopped here?")
            self.draw_picture(self.panels[1], cell, Title("no maps"), SIZES[0], reason)
        self.show_truth()

    def draw_frame(self, frame, cell, colour):
        """Put a frame around the picture of a cell."""
        width, height = self.figure.get_size_inches() * PER_INCH
        left, top, wide, high = cell.picture(self.aspect)
        out = FRAME / 2 - 0.5  # the frame covers the picture's rim, so that rounding leaves no gap
        bounds = left - out, height - top - high - out, wide + 2 * out, high + 2 * out
        frame.set_bounds(*np.array(bounds) / (width, height, width, height))
        frame.set_edgecolor(colour)

    def show_truth(self):
        """Outline what is annotated on photo and overlay: in full what is of the overlay's class, else dotted."""
        for axes in self.panels[:2]:
            for line in list(axes.lines):
                line.remove()
            for class_name, outlines in self.content.outlines if self.with_truth else ():
                draw_outlines(axes, outlines, "-" if class_name == self.overlay_class else ":")


def draw_outlines(axes, outlines, line):
    for points in outlines:
        axes.plot(*points.T, line, color="white", linewidth=1.3, path_effects=EDGED)


def verdict_on(saved):
    """(what stands above a photo, its colour): whether the answer to it is right and sure; None for black."""
    right, unsure = saved.is_right, saved.is_unsure
    words, colour = {
        True: (["✓ right"], RIGHT),
        False: ([f"✗ wrong: it is {saved.truth}"], WRONG),
        None: ([], UNSURE if unsure else None),
    }[right]
    return SPACE.join([*(words or ["photo"]), *["? unsure"] * unsure]), colour
