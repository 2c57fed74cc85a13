"""A strip: one photo with all its maps over it, classes in rows, kinds of map and runs in columns."""

from matplotlib.figure import Figure

from camlib.plots import is_gradient
from camlib.plots.colours import USUAL
from camlib.plots.text import PER_INCH, displayable, line_height, shortened
from camlib.runs.maps import class_names_in
from camlib.viewer.album import predictions_of
from camlib.viewer.figure import SPACE, Viewer, draw_outlines
from camlib.viewer.layout import BAR_ROOM, EDGE, GAP, HEADING_POINTS, TITLE_ROOM, Title, cells_in, points_for

SIDE_SHOWN, STRIP_DPI = 220, 200  # pixels of a picture's longer side at 100 dots per inch; dots per inch


class Strip(Viewer):
    """Where a Viewer has one large photo and one large overlay, each row of a strip begins with the photo.

    Maps lie over it; gradients, which would hide it, stand beside it.
    """

    heading_lines = 1

    def show(self):
        kinds, names = [None, *self.content.maps], class_names_in(self.content.maps)
        boxes, bars = cells_in(self.room(), max(len(names), 1), len(kinds))
        self.cells = [(kind, name) for name in names for kind in kinds]
        titles = {cell: self.title_of(*cell) if cell[0] else Title("photo") for cell in self.cells}
        points = points_for(titles.values(), boxes[0].width)
        self.show_heading()
        self.panels = [self.new_axes() for _ in self.cells]
        for axes, box, (kind, name) in zip(self.panels, boxes, self.cells, strict=False):
            if kind is None or not is_gradient(kind):
                picture = self.laid_over_photo(kind, name, box) if kind else self.photo_in(box)
                self.draw_picture(axes, box, titles[kind, name], points, picture)
            else:
                self.draw_map(axes, box, (kind, name), titles[kind, name], points)
            for class_name, outlines in self.content.outlines:
                if kind is None and class_name == name:
                    draw_outlines(axes, outlines, "-")
        for kind, box in list(zip(kinds, bars, strict=True))[1:]:
            if is_gradient(kind):
                self.draw_colour_bar(self.new_axes(), kind, box)
            else:
                self.draw_bar_over_photo(self.new_axes(), kind, box, self.bar_labels(kind))

    def show_heading(self):
        width, height = self.figure.get_size_inches() * PER_INCH
        words = SPACE.join([displayable(self.saved.name), *predictions_of(self.saved)])
        self.heading.set_text(shortened(words, HEADING_POINTS, width - 2 * EDGE))
        self.heading.set_position((EDGE / width, 1 - 6 / height))


def strip_of(album, class_name=None, style=USUAL):
    """A Figure as large as its Strip needs."""
    content = album.content(class_name)
    rows, columns, aspect = (
        len(class_names_in(content.maps)),
        1 + len(content.maps),
        content.shape[1] / content.shape[0],
    )
    width = 2 * EDGE + columns * (SIDE_SHOWN * min(1, aspect) + GAP) - GAP
    height = rows * (SIDE_SHOWN * min(1, 1 / aspect) + GAP + TITLE_ROOM) - GAP + BAR_ROOM
    height += 10 + line_height(HEADING_POINTS) + EDGE
    figure = Figure(figsize=(width / PER_INCH, height / PER_INCH), dpi=STRIP_DPI)
    Strip(figure, album, class_name, style)
    return figure
