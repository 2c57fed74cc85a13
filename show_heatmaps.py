"""Show saved maps: the photo, every class's map in one colour scale, and one class's map laid over the photo.

    python show_heatmaps.py                                       # outputs/cam, in a window
    python show_heatmaps.py outputs/gradcam --photo cat/cat_001
    python show_heatmaps.py outputs/cam --class cat --save figure.png       # no window, no display needed
    python show_heatmaps.py outputs/cam --html page.html                    # all photos in one file, for a browser
    python show_heatmaps.py outputs/cam/cat/cat_001/heatmap_for_cat.npy     # one map alone

Shows what make_cam_maps.py and gradcam_vgg16.py wrote; the window opens within two seconds, whatever the number of
photos. Arrow keys or the slider go through the photos, up and down through the classes, `h` lists the keys.
"""

import csv
import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.widgets import Slider

from camlib.console import EXIT_SOME_FAILED, ArgumentParser, Progress, UserError, first_line, run_script
from camlib.maps import (
    PANEL_TITLES,
    PHOTO_FILE,
    PREDICTIONS_FILE,
    SIGNED,
    colour_name,
    encode_overlay,
    encode_photo,
    open_csv,
    resize_map,
    scale_of,
    scaled,
    superposition,
    write_whole,
)
from camlib.page import displayable, write_page
from camlib.photos import RUN_FILE, PhotoError, name_without_suffix, read_photo

# ---------------------------------------------------------------- settings

DEFAULT_PLACE = Path("outputs/cam")
OPACITY = 0.7  # of the overlay where the map is largest
MOST_CLASSES = 8  # shown at once; of more, the most probable
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

# ---------------------------------------------------------------- finding and reading saved maps


class MapError(Exception):
    """A map that cannot be shown; the message is the reason."""


@dataclass(frozen=True)
class SavedPhoto:
    """A photo whose maps are saved; they are read when it is shown.

    Attributes:
        name: str, the photo's path as in predictions.csv, or its folder.
        folders: list of Path; the first that holds its photo.jpg has its maps.
        predicted: str, class name, or None if unknown.
        probabilities: dict of class name -> float, in the run's order of classes; empty if unknown.
        only: Path of the one .npy to show, or None for all in the folder.
        signed: bool, whether the run's method of Grad-CAM's kind has two signs.
    """

    name: str
    folders: list
    predicted: str | None = None
    probabilities: dict = field(default_factory=dict)
    only: Path | None = None
    signed: bool = False

    def is_signed(self, kind):
        """Whether maps of a kind have two signs, as this run made them."""
        return SIGNED[kind] or (kind == "gradcam" and self.signed)

    @property
    def folder(self):
        return next((folder for folder in self.folders if (folder / PHOTO_FILE).exists()), self.folders[-1])


def find_saved(place):
    """List the photos with saved maps.

    Args:
        place: Path of a run's output folder, a folder in it, or one .npy file.

    Returns:
        list of SavedPhoto, never empty, in the order of predictions.csv where there is one.

    Raises:
        UserError: nothing there.
    """
    if place.is_file():
        return [SavedPhoto(place.name, [place.parent], only=place, signed=signed_run(place.resolve().parent))]
    if not place.is_dir():
        raise UserError(f"{place} does not exist; expected a folder of maps: run python make_cam_maps.py first")
    for run in (place.resolve(), *place.resolve().parents):
        if (run / PREDICTIONS_FILE).is_file():
            saved = [photo for photo in read_predictions(run) if photo.folder.is_relative_to(place.resolve())]
            break
    else:
        parents = sorted(parent for parent, _, files in os.walk(place) if any(map(parse_map_name, files)))
        signed = signed_run(place.resolve())
        saved = [SavedPhoto(os.path.relpath(parent, place), [Path(parent)], signed=signed) for parent in parents]
    if not saved:
        raise UserError(f"no maps in {place}; expected files like heatmap_for_dog.npy: run python make_cam_maps.py")
    return saved


def read_predictions(run):
    """The photos of a run's predictions.csv; a last line that is being written is left out."""
    with open_csv(run / PREDICTIONS_FILE, "r") as file:
        header, *rows = list(csv.reader(file)) or [[]]
    probability, signed = "probability_", signed_run(run)
    columns = [number for number, name in enumerate(header) if name.startswith(probability)]
    saved = []
    for row in rows:
        if len(row) == len(header):
            # photos that differ in suffix alone have folders with it, see camlib.photos.find_photos
            folders = [run / row[0], run / name_without_suffix(row[0])]
            shares = {header[number].removeprefix(probability): float(row[number]) for number in columns}
            saved.append(SavedPhoto(row[0], folders, row[1], shares, signed=signed))
    return saved


def signed_run(folder):
    """Whether the method of the run that wrote the folder, or one around it, has two signs."""
    for run in (folder, *folder.parents):
        if (run / RUN_FILE).is_file():
            try:
                return bool(json.loads((run / RUN_FILE).read_text("utf-8", "surrogateescape"))["settings"]["signed"])
            except (OSError, ValueError, KeyError, TypeError):
                return False  # run.json is not needed to look at maps
    return False


def parse_map_name(name):
    """'heatmap_for_dog.npy' -> ('heatmap', 'dog'); None for other names."""
    kind, _, class_name = name.removesuffix(".npy").partition("_for_")
    return (kind, class_name) if name.endswith(".npy") and kind in SIGNED and class_name else None


def find_maps(saved):
    """The .npy files of a photo's maps: dict of kind -> dict of class name -> Path, kinds and classes in order."""
    if saved.only:
        kind, class_name = parse_map_name(saved.only.name) or ("heatmap", saved.only.stem)
        return {kind: {class_name: saved.only}}
    found = {}
    for path in sorted(saved.folder.glob("*.npy")) if saved.folder.is_dir() else []:
        if parse_map_name(path.name):
            kind, class_name = parse_map_name(path.name)
            found.setdefault(kind, {})[class_name] = path
    order = list(saved.probabilities)
    if len(order) > MOST_CLASSES:
        order = sorted(order, key=saved.probabilities.get, reverse=True)
    return {
        kind: dict(
            sorted(found[kind].items(), key=lambda item: order.index(item[0]) if item[0] in order else -1)[
                :MOST_CLASSES
            ]
        )
        for kind in SIGNED
        if kind in found
    }


def read_map(path):
    """Read a saved map: float32 (H, W) or (H, W, 3).

    Raises:
        MapError: the file is missing, damaged, or holds something else.
    """
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise MapError(f"{path.name} cannot be read ({first_line(error)})") from error
    of_maps_shape = values.ndim == 2 or (values.ndim == 3 and values.shape[2] == 3)
    if not of_maps_shape or not values.size or values.dtype.kind not in "fiu" or not np.isfinite(values).all():
        raise MapError(f"{path.name} holds {values.dtype} {values.shape}; expected finite numbers (H, W) or (H, W, 3)")
    return values.astype(np.float32)


def attempt(read, path):
    """What `read(path)` returns, or the error that says why there is nothing to show."""
    try:
        return read(path)
    except (MapError, PhotoError) as error:
        return error


# ---------------------------------------------------------------- the figure


class Viewer:
    """One photo's maps in a Matplotlib figure: photo and overlay on the left, kinds and classes of map on the right.

    Args:
        figure: matplotlib Figure.
        photos: list of SavedPhoto.
        index: int, the photo to begin with.
        class_name: str, the overlay's class, or None for the class predicted.
        opacity: float, 0 to 1, of the overlay.
    """

    def __init__(self, figure, photos, index=0, class_name=None, opacity=OPACITY):
        self.figure, self.photos, self.index = figure, photos, index
        self.wanted_class, self.opacity = class_name, opacity
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
            values = 0.5 + 0.5 * scaled(values, scale.limit)  # gradients of RGB, as colours around mid-grey
        self.draw_picture(
            axes, title, values, cmap=colour_name(scale.signed), norm=self.norm(kind), interpolation="nearest"
        )

    def norm(self, kind):
        """The colour scale of a kind of map: common to all classes."""
        scale = self.scales[kind]
        return Normalize(scale.lowest, scale.limit) if scale.limit else Normalize(-1.0 if scale.signed else 0.0, 1.0)

    def draw_colour_bar(self, axes, kind):
        axes.clear()
        gradients = kind in ("guided_backprop", "guided_gradcam")
        colours = "gray" if gradients else colour_name(self.scales[kind].signed)
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
            limit, signed = self.scales[kind]
            picture = superposition(picture, resize_map(scaled(values, limit), *self.shape), signed, self.opacity)
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
            figure.add_axes((0.64, 0.03, 0.2, 0.03)), "opacity", 0, 1, valinit=viewer.opacity, valfmt="%.2f"
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
        self.viewer.opacity = opacity
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


# ---------------------------------------------------------------- the script


def open_window(photos, index, settings):
    """Show the window until it is closed."""
    if "cv2" in os.environ.get("QT_QPA_PLATFORM_PLUGIN_PATH", ""):
        del os.environ["QT_QPA_PLATFORM_PLUGIN_PATH"]  # set by OpenCV for a Qt of its own; another Qt would abort
    matplotlib.rcParams.update(FREED_KEYS)
    import matplotlib.pyplot as plt  # here, since --save needs no window and must not look for one

    try:
        figure = plt.figure(figsize=(10.5, 7))
    except Exception as error:  # each toolkit has its own way to say that there is no display
        raise UserError(f"no window can be opened ({first_line(error)}); expected --save FILE") from error
    if not hasattr(figure.canvas.manager, "window"):
        raise UserError(
            f"no window can be opened (Matplotlib found no display or no toolkit and fell back to "
            f"{matplotlib.get_backend()}); expected a display and tkinter or PySide6, or --save FILE"
        )
    figure.canvas.manager.set_window_title(f"maps in {settings.place}")
    controls = Controls(Viewer(figure, photos, index, settings.class_name, settings.opacity))
    print(f"{len(photos):,} photos in {settings.place}; h lists the keys, q closes the window", flush=True)
    plt.show()
    return controls and 0  # kept until here: Matplotlib holds its widgets weakly


def save_figure(photos, index, settings):
    """Write the figure of one photo to a file, without a display."""
    figure = Figure(figsize=(10.5, 7))
    kinds, kind = figure.canvas.get_supported_filetypes(), settings.save.suffix.lower().removeprefix(".")
    if kind not in kinds:
        raise UserError(f"--save {settings.save}: expected a name that ends in one of {', '.join(kinds)}")
    Viewer(figure, photos, index, settings.class_name, settings.opacity)
    settings.save.parent.mkdir(parents=True, exist_ok=True)
    write_whole(settings.save, lambda file: figure.savefig(file, format=kind, dpi=150))
    print(f"wrote {settings.save}")
    return 0


def write_html(photos, settings):
    """Write all photos and maps as one HTML page."""
    entries, damaged = [], []
    with Progress("photos", len(photos)) as progress:
        for saved in photos:
            try:
                entries.append(entry_of(saved))
            except (MapError, PhotoError) as error:
                damaged.append(f"{saved.name}: {error}")
            progress.advance()
    if not entries:
        raise UserError(f"no photo of {settings.place} can be shown, the first since {damaged[0]}")
    settings.html.parent.mkdir(parents=True, exist_ok=True)
    write_page(settings.html, f"Maps in {settings.place}", entries)
    print(f"wrote {settings.html}: {len(entries):,} photos, {settings.html.stat().st_size / 1e6:.1f} MB")
    if damaged:
        print(f"{len(damaged):,} photos are left out, the first since {damaged[0]}")
    return EXIT_SOME_FAILED if damaged else 0


def entry_of(saved):
    """What the page shows of a photo, see `camlib.page.write_page`.

    Raises:
        MapError, PhotoError: the photo or a map cannot be read.
    """
    photo, kinds = read_photo(saved.folder / PHOTO_FILE), {}
    for kind, paths in find_maps(saved).items():
        maps = {name: read_map(path) for name, path in paths.items()}
        scale = scale_of(saved.is_signed(kind), maps.values())
        kinds[PANEL_TITLES[kind]] = {
            name: {"picture": encode_overlay(values, scale, photo.shape[:2]),
                   "scores": {"probability": saved.probabilities[name]} if name in saved.probabilities else {}}
            for name, values in maps.items()
        }  # fmt: skip
    names = [name for of_classes in kinds.values() for name in of_classes]
    own = saved.predicted if saved.predicted in names else next(iter(names), "")
    note = f"predicted {saved.predicted}" if saved.predicted else ""
    return {"name": saved.name, "class": own, "note": note, "picture": encode_photo(photo), "maps": kinds}


def index_of(photos, name):
    """Where the photo is that the user named, with or without its suffix.

    Raises:
        UserError: there is none.
    """
    for known in ([photo.name for photo in photos], [name_without_suffix(photo.name) for photo in photos]):
        if name in known:
            return known.index(name)
    raise UserError(f"--photo {name}: not among the {len(photos):,} photos; expected a name like {photos[0].name}")


def parse_arguments(arguments):
    parser = ArgumentParser(__doc__)
    parser.add_argument(
        "place", type=Path, nargs="?", default=DEFAULT_PLACE, metavar="FOLDER_OR_NPY", help="saved maps"
    )
    parser.add_argument("--save", type=Path, metavar="FILE", help="write the figure (png, jpg, pdf, svg); no window")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write all photos as one HTML page; no window")
    parser.add_argument("--photo", metavar="NAME", help="photo to begin with; default: the first")
    parser.add_argument("--class", dest="class_name", metavar="NAME", help="overlay; default: the class predicted")
    parser.add_argument("--opacity", type=float, default=OPACITY, metavar="0..1", help="of the overlay")
    settings = parser.parse_args(arguments)
    if not 0 <= settings.opacity <= 1:
        parser.error(f"--opacity {settings.opacity}: expected a number from 0 to 1")
    return settings


def main(arguments=None):
    settings = parse_arguments(arguments)
    photos = find_saved(settings.place)
    if settings.html:
        return write_html(photos, settings)
    index = index_of(photos, settings.photo) if settings.photo else 0
    found = find_maps(photos[index])
    names = list(dict.fromkeys(name for paths in found.values() for name in paths))
    if settings.class_name and settings.class_name not in names:
        raise UserError(
            f"--class {settings.class_name}: {photos[index].name} has no map of it; expected one of {', '.join(names)}"
        )
    if settings.place.is_file():
        error = attempt(read_map, settings.place)
        if isinstance(error, Exception):
            raise UserError(f"{error}; expected a saved map or a folder of them")
    return (save_figure if settings.save else open_window)(photos, index, settings)


if __name__ == "__main__":
    run_script(main)
