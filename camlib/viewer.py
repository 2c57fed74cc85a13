"""The figure of one photo's maps, and its controls in a window."""

import math

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.widgets import Slider

from camlib.maps import PHOTO_FILE, MapError, attempt, find_maps, read_map
from camlib.page import displayable
from camlib.photos import read_photo
from camlib.pictures import (
    PANEL_TITLES,
    USUAL,
    magnitude,
    scale_of,
    scaled,
    superposition_of,
    superposition_scale_of,
)

KEYS = """\
left, right           previous, next photo
page up, page down    ten photos back, on
home, end             first, last photo
up, down              class of the overlay
h                     this list
s                     save the picture
q                     close the window"""
# Matplotlib's own meanings of these keys (its history of zooms) would get in the way
FREED_KEYS = {
    "keymap.back": ["backspace", "MouseButton.BACK"],
    "keymap.forward": ["v", "MouseButton.FORWARD"],
    "keymap.home": ["r"],
}


class Viewer:
    """One photo's maps in a Matplotlib figure: photo and overlay on the left, kinds and classes of map on the right.

    Args:
        figure: matplotlib Figure.
        photos: list of SavedPhoto.
        index: int, the photo to begin with.
        class_name: str, the overlay's class, or None for the class predicted.
        style: Style.
    """

    def __init__(self, figure, photos, index=0, class_name=None, style=USUAL):
        self.figure, self.photos, self.index = figure, photos, index
        self.wanted_class, self.style = class_name, style
        self.panels, self.bars, self.grid = [], [], None
        self.read()
        self.show()

    def read(self):
        """Read the photo and its maps from their files."""
        self.saved = self.photos[self.index]
        self.photo = attempt(read_photo, self.saved.folder / PHOTO_FILE)
        self.maps = {
            kind: {name: attempt(read_map, path) for name, path in paths.items()}
            for kind, paths in find_maps(self.saved).items()
        }
        readable = {
            kind: [values for values in maps.values() if not isinstance(values, Exception)]
            for kind, maps in self.maps.items()
        }
        self.scales = {kind: scale_of(self.saved.is_signed(kind), maps) for kind, maps in readable.items()}
        if isinstance(self.photo, Exception):  # panels then have the shape of the first map
            self.shape = next((values.shape[:2] for maps in readable.values() for values in maps), (1, 1))
        else:
            self.shape = self.photo.shape[:2]

    @property
    def class_names(self):
        return list(dict.fromkeys(name for maps in self.maps.values() for name in maps))

    @property
    def overlay_class(self):
        """The class the user chose, else the class predicted, else the first there is."""
        names = self.class_names
        return next((name for name in (self.wanted_class, self.saved.predicted) if name in names), (names or [None])[0])

    def show(self):
        """Draw everything anew."""
        names, kinds = self.class_names, list(self.maps)
        columns = math.ceil(math.sqrt(len(names)))  # of one kind of map; of several, a row for each class
        grid = (len(names), len(kinds)) if len(kinds) > 1 else (-(-len(names) // max(columns, 1)), columns)
        if grid != self.grid:
            self.lay_out(*grid)
        self.figure.suptitle(self.title(), fontsize=11, parse_math=False)
        self.draw_picture(self.panels[0], "photo", self.photo)
        cells = [(kind, name) for name in names for kind in kinds]
        for axes, (kind, name) in zip(self.panels[2:], cells, strict=False):
            self.draw_map(axes, kind, name)
        for axes in self.panels[2 + len(cells) :]:
            axes.set_visible(False)
        for axes, kind in zip(self.bars, kinds, strict=True):
            self.draw_colour_bar(axes, kind)
        self.show_overlay()

    def lay_out(self, rows, columns):
        """Make empty axes: photo, overlay and rows x columns maps, and a colour bar for each kind of map."""
        for axes in [*self.panels, *self.bars]:
            axes.remove()
        self.grid = rows, columns
        rows, columns = max(rows, 1), max(columns, 1)
        whole = self.figure.add_gridspec(
            2, 2, width_ratios=(1, 2 * columns / max(rows, 2)), height_ratios=(1, 0.03),
            left=0.02, right=0.98, top=0.88, bottom=0.15, wspace=0.06, hspace=0.06,
        )  # fmt: skip
        left = whole[0, 0].subgridspec(2, 1, hspace=0.15)
        right = whole[0, 1].subgridspec(rows, columns, hspace=0.15 if rows < 3 else 0.3, wspace=0.06)
        places = [left[0], left[1], *(right[row, column] for row in range(rows) for column in range(columns))]
        self.panels = [self.figure.add_subplot(place) for place in places]
        bars = whole[1, 1].subgridspec(1, max(len(self.maps), 1), wspace=0.5)
        self.bars = [self.figure.add_subplot(bars[0, number]) for number in range(len(self.maps))]

    def title(self):
        """The photo's name, its place in the run, and the class predicted."""
        text = f"{displayable(self.saved.name)}   ({self.index + 1:,} of {len(self.photos):,})"
        if self.saved.predicted:
            text += f"   predicted: {self.saved.predicted}"
        return text

    def draw_picture(self, axes, title, picture, **settings):
        """Show an array in the photo's shape, or the reason why there is none."""
        axes.clear()
        axes.set_axis_off()
        axes.set_visible(True)
        axes.set_title(title, fontsize=9, parse_math=False)
        height, width = self.shape
        if isinstance(picture, Exception):
            axes.text(
                0.5,
                0.5,
                str(picture),
                ha="center",
                va="center",
                wrap=True,
                fontsize=8,
                parse_math=False,
                transform=axes.transAxes,
            )
            return None
        return axes.imshow(picture, extent=(0, width, height, 0), **settings)

    def draw_map(self, axes, kind, name):
        values, scale = self.maps[kind].get(name, MapError(f"no {kind}_for_{name}.npy")), self.scales[kind]
        title = f"{name}  {self.saved.probabilities[name]:.3f}" if name in self.saved.probabilities else name
        if isinstance(values, np.ndarray) and not values.any():
            title += " (all zero)"
        if isinstance(values, np.ndarray) and values.ndim == 3:
            values = np.clip(
                0.5 + 0.5 * scaled(values, scale.limit), 0, 1
            )  # gradients of RGB, as colours around mid-grey
        self.draw_picture(
            axes, title, values, cmap=self.style.colour_map(scale.signed), norm=self.norm(kind), interpolation="nearest"
        )

    def norm(self, kind):
        """The colour scale of a kind of map: common to all classes."""
        scale = self.scales[kind]
        return Normalize(scale.lowest, scale.limit) if scale.limit else Normalize(-1.0 if scale.signed else 0.0, 1.0)

    def draw_colour_bar(self, axes, kind):
        axes.clear()
        gradients = kind in ("guided_backprop", "guided_gradcam")
        colours = "gray" if gradients else self.style.colour_map(self.scales[kind].signed)
        norm = self.norm(kind)
        ticks = sorted({norm.vmin, 0.0, norm.vmax})
        bar = self.figure.colorbar(ScalarMappable(norm, colours), cax=axes, orientation="horizontal", ticks=ticks)
        bar.set_ticklabels([f"{tick:.3g}" for tick in ticks])
        axes.tick_params(labelsize=8)
        axes.set_xlabel(PANEL_TITLES[kind] + (", logit units" if kind == "heatmap" else ""), fontsize=8)

    def show_overlay(self):
        """Lay the chosen class's CAM or Grad-CAM over the photo."""
        name, kind = self.overlay_class, next(iter(self.maps), None)
        values = self.maps[kind].get(name) if kind else MapError("no maps: was the run stopped here?")
        picture = self.photo
        if isinstance(values, np.ndarray) and values.ndim == 2 and isinstance(picture, np.ndarray):
            maps = [magnitude(values) for values in self.maps[kind].values() if isinstance(values, np.ndarray)]
            whole = superposition_scale_of(self.saved.is_signed(kind), maps)
            picture = superposition_of(picture, values, whole, self.style)
        elif isinstance(values, Exception):
            picture = values
        self.draw_picture(self.panels[1], f"{name} over the photo", picture)


class Controls:
    """Sliders and keys of a viewer in a window."""

    def __init__(self, viewer):
        self.viewer, figure = viewer, viewer.figure
        count = len(viewer.photos)
        self.photo_slider = Slider(
            figure.add_axes((0.08, 0.03, 0.38, 0.03)), "photo", 1, max(count, 2), valinit=viewer.index + 1, valstep=1,
            valfmt=f"%d of {count:,}",
        )  # fmt: skip
        self.opacity_slider = Slider(
            figure.add_axes((0.64, 0.03, 0.2, 0.03)), "opacity", 0, 1, valinit=viewer.style.opacity, valfmt="%.2f"
        )
        figure.text(0.99, 0.03, "h: keys", ha="right", fontsize=9)
        self.help = figure.text(
            0.5, 0.5, KEYS, ha="center", va="center", multialignment="left", family="monospace", visible=False,
            zorder=10, bbox={"facecolor": "white", "boxstyle": "round,pad=1"},
        )  # fmt: skip
        self.photo_slider.on_changed(lambda number: self.go_to(int(number) - 1))
        self.opacity_slider.on_changed(self.set_opacity)
        figure.canvas.mpl_connect("key_press_event", self.on_key)

    def go_to(self, index):
        """Show another photo; beyond the ends, the last one there is."""
        viewer = self.viewer
        index = min(max(index, 0), len(viewer.photos) - 1)
        if index != viewer.index:
            viewer.index = index
            viewer.read()
            viewer.show()
        if self.photo_slider.val != index + 1:
            self.photo_slider.set_val(index + 1)  # calls this again, with the same index
        viewer.figure.canvas.draw_idle()

    def set_opacity(self, opacity):
        self.viewer.style = self.viewer.style._replace(opacity=opacity)
        self.viewer.show_overlay()
        self.viewer.figure.canvas.draw_idle()

    def on_key(self, event):
        viewer, last = self.viewer, len(self.viewer.photos) - 1
        steps = {"left": -1, "right": 1, "pageup": -10, "pagedown": 10, "home": -last, "end": last}
        if event.key in steps:
            self.go_to(viewer.index + steps[event.key])
        elif event.key in ("up", "down") and viewer.class_names:
            names = viewer.class_names
            step = 1 if event.key == "down" else -1
            viewer.wanted_class = names[(names.index(viewer.overlay_class) + step) % len(names)]
            viewer.show_overlay()
        elif event.key == "h":
            self.help.set_visible(not self.help.get_visible())
        viewer.figure.canvas.draw_idle()
