"""Show saved maps: the photo, every class's map in one colour scale, and one class's map laid over the photo.

    python show_heatmaps.py                                       # outputs/cam, in a window
    python show_heatmaps.py outputs/gradcam --photo val/cat/cat_001
    python show_heatmaps.py outputs/cam --class cat --save figure.png       # no window, no display needed
    python show_heatmaps.py outputs/cam --html page.html                    # all photos in one file, for a browser
    python show_heatmaps.py outputs/cam --sheet sheet.png                   # twelve photos, their maps, one picture
    python show_heatmaps.py outputs/cam/val/cat/cat_001/heatmap_for_cat.npy     # one map alone

A store, outputs/mine.h5, or a folder of stores is shown like outputs/cam.

Shows what make_cam_maps.py and gradcam_vgg16.py wrote; the window opens within two seconds, whatever the number of
photos. Arrow keys or the slider go through the photos, up and down through the classes, `h` lists the keys.
"""

import camlib  # noqa: F401 - before what takes a while, see camlib.beginning

# isort: split
import ctypes
import os
import sys
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from camlib.console import EXIT_SOME_FAILED, ArgumentParser, Progress, UserError, first_line, run_script
from camlib.files import write_whole
from camlib.options import add_style_options
from camlib.photos import PhotoError, name_without_suffix
from camlib.pixel_budget import PIXELS, add_pixel_option
from camlib.plots.colours import (
    EVIDENCE_ENDS,
    GRADIENTS,
    USUAL,
    encode_photo,
    map_for_page,
    scale_of,
    style_of,
    superposition_scale_of,
)
from camlib.plots.page import write_page
from camlib.runs.maps import MapError, all_maps, attempt, class_names_in, find_maps, find_saved, read_map
from camlib.viewer.figure import Viewer
from camlib.viewer.sheet import format_of, spread_over, write_sheet
from camlib.viewer.window import SAVED_DPI, Controls, freed_keys

# ---------------------------------------------------------------- settings

DEFAULT_PLACE = Path("outputs/cam")
WIDTH, SAVED_HEIGHTS = 10.5, (7, 9, 11, 14, 18)  # inches of the figure, the taller the more maps
SHEET_PHOTOS = 12
# Variables by which Qt draws in another way, or with parts from elsewhere
OTHER_QT = ("WAYLAND_DISPLAY", "QT_QPA_PLATFORM", "QT_QPA_PLATFORM_PLUGIN_PATH", "QT_PLUGIN_PATH")
TOOLKIT = (
    "expected a display and a toolkit: pip install PySide6, or apt install python3-tk; without a window --save FILE "
    "writes a picture and --html FILE a page"
)


# ---------------------------------------------------------------- the script


def check_qt():
    """Refuse a Qt that lacks libraries of the system's: it would end the process in the middle, with a core dump.

    Only where Qt is to draw on an X display with its own parts.

    Raises:
        UserError: the part of Qt that does so does not load.
    """
    if sys.platform != "linux" or not os.environ.get("DISPLAY") or any(map(os.environ.get, OTHER_QT)):
        return
    if matplotlib.get_backend().lower() != "qtagg":
        return
    from matplotlib.backends.qt_compat import QtCore

    qt = QtCore.QLibraryInfo
    plugins = qt.path(qt.LibraryPath.PluginsPath) if hasattr(qt, "path") else qt.location(qt.PluginsPath)  # Qt 5
    try:
        ctypes.CDLL(str(Path(plugins) / "platforms" / "libqxcb.so"))
    except OSError as error:
        raise UserError(
            f"no window can be opened: Qt needs a library that this system lacks ({first_line(error)}); expected it "
            "installed, or Tk instead: apt install python3-tk and MPLBACKEND=TkAgg"
        ) from error


def open_window(photos, index, settings):
    """Show the window until it is closed."""
    if "cv2" in os.environ.get("QT_QPA_PLATFORM_PLUGIN_PATH", ""):
        del os.environ["QT_QPA_PLATFORM_PLUGIN_PATH"]  # set by OpenCV for a Qt of its own; another Qt would abort
    matplotlib.rcParams.update(freed_keys())
    check_qt()
    import matplotlib.pyplot as plt  # here, since --save needs no window and must not look for one

    try:
        figure = plt.figure(figsize=(WIDTH, SAVED_HEIGHTS[0]))
    except Exception as error:  # each toolkit has its own way to say that there is no display
        raise UserError(f"no window can be opened ({first_line(error)}); {TOOLKIT}") from error
    if not hasattr(figure.canvas.manager, "window"):
        raise UserError(f"no window can be opened (no display, or no toolkit for Matplotlib); {TOOLKIT}")
    figure.canvas.manager.set_window_title(f"maps in {settings.place}")
    controls = Controls(figure, photos, index, class_name=settings.class_name, style=settings.style)
    print(f"{len(photos):,} photos in {settings.place}; h lists the keys, q closes the window", flush=True)
    plt.show()
    return controls and 0  # kept until here: Matplotlib holds its widgets weakly


def save_figure(photos, index, settings):
    """Write the figure of one photo to a file, without a display."""
    kinds, kind = Figure().canvas.get_supported_filetypes(), settings.save.suffix.lower().removeprefix(".")
    if kind not in kinds:
        raise UserError(f"--save {settings.save}: expected a name that ends in one of {', '.join(kinds)}")
    for height in SAVED_HEIGHTS:
        figure = Figure(figsize=(WIDTH, height), dpi=SAVED_DPI)
        if Viewer(figure, photos, index, settings.class_name, settings.style).is_roomy:
            break
    settings.save.parent.mkdir(parents=True, exist_ok=True)
    write_whole(settings.save, lambda file: figure.savefig(file, format=kind))
    print(f"wrote {settings.save}")
    return 0


def write_contact_sheet(photos, settings):
    """Write a picture with one row a photo, spread over the run."""
    format_of(settings.sheet)
    chosen = spread_over(photos, settings.photos)
    with Progress("photos", len(chosen)) as progress:
        damaged = write_sheet(settings.sheet, chosen, settings.class_name, settings.style, progress.advance)
    print(f"wrote {settings.sheet}: {len(chosen):,} of {len(photos):,} photos")
    if damaged:
        print(f"{len(damaged):,} pictures are left out, the first since {damaged[0]}")
    return EXIT_SOME_FAILED if damaged else 0


def write_html(photos, settings):
    """Write all photos and maps as one HTML page."""
    entries, damaged = [], []
    with Progress("photos", len(photos)) as progress:
        for saved in photos:
            try:
                entries.append(entry_of(saved, settings.style._replace(opacity=1.0)))  # the page has a slider for it
            except (MapError, PhotoError) as error:
                damaged.append(f"{saved.name}: {error}")
            progress.advance()
    if not entries:
        raise UserError(f"no photo of {settings.place} can be shown, the first since {damaged[0]}")
    settings.html.parent.mkdir(parents=True, exist_ok=True)
    write_page(settings.html, f"Maps in {settings.place}", entries, style=settings.style)
    print(f"wrote {settings.html}: {len(entries):,} photos, {settings.html.stat().st_size / 1e6:.1f} MB")
    if damaged:
        print(f"{len(damaged):,} photos are left out, the first since {damaged[0]}")
    return EXIT_SOME_FAILED if damaged else 0


def entry_of(saved, style=USUAL):
    """What the page shows of a photo, see `camlib.plots.page.write_page`.

    Raises:
        MapError, PhotoError: the photo or a map cannot be read.
    """
    photo, kinds = saved.read_photo(), {}
    for kind, paths in find_maps(saved).items():
        maps = {name: read_map(path) for name, path in paths.items()}
        scale = scale_on_page(saved, kind, maps.values())
        kinds[saved.title_of(kind)] = {
            name: map_for_page(values, scale, photo.shape[:2], ends_of(saved, kind), style)
            | {"scores": {"probability": saved.probabilities[name]} if name in saved.probabilities else {}}
            for name, values in maps.items()
        }
    names = [name for of_classes in kinds.values() for name in of_classes]
    own = saved.predicted if saved.predicted in names else next(iter(names), "")
    known = bool(saved.predicted and saved.truth)
    wrong = known and saved.predicted != saved.truth
    note = f"predicted {saved.predicted}" + (f", is {saved.truth}" if wrong else "") if saved.predicted else ""
    return {"name": saved.name, "class": own, "note": note, "picture": encode_photo(photo), "maps": kinds,
            "truth": saved.truth, "predicted": saved.predicted, "right": not wrong if known else None}  # fmt: skip


def scale_on_page(saved, kind, maps):
    """The Scale of a kind's maps of all classes: over the photo, or alone for gradients of RGB, which hide it."""
    maps = list(maps)
    if any(values.ndim == 3 for values in maps):
        return scale_of(saved.is_signed(kind), maps, gradients=True)
    return superposition_scale_of(saved.is_signed(kind), maps, capped=kind in GRADIENTS)


def ends_of(saved, kind):
    """What the ends of the colour bar of a kind of map stand for, see `camlib.plots.colours.legend_of`."""
    if kind in GRADIENTS:
        return "darker raises the score of {class}", "brighter raises it"
    if kind == "heatmap":
        return EVIDENCE_ENDS[0], EVIDENCE_ENDS[1] + ", logit units"
    return EVIDENCE_ENDS[::-1] if saved.settings.get("counterfactual") else EVIDENCE_ENDS


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
        "place",
        type=Path,
        nargs="?",
        default=DEFAULT_PLACE,
        metavar="FOLDER_OR_FILE",
        help="saved maps: a folder, a store of maps (.h5), a folder of stores, or one .npy",
    )
    instead = parser.add_argument_group("instead of a window")
    instead.add_argument("--save", type=Path, metavar="FILE", help="write the figure of one photo: png, jpg, pdf, svg")
    instead.add_argument("--html", type=Path, metavar="FILE", help="write all photos as one HTML page")
    instead.add_argument("--sheet", type=Path, metavar="FILE", help="write a contact sheet (png, jpg, webp): photos in "
                         "rows, classes in columns, kinds with --class or one class a photo")  # fmt: skip
    instead.add_argument("--photos", type=int, default=SHEET_PHOTOS, metavar="N",
                         help="photos of the contact sheet, spread evenly over the run")  # fmt: skip
    shown = parser.add_argument_group("what is shown")
    shown.add_argument("--photo", metavar="NAME", help="photo to begin with; default: the first")
    shown.add_argument("--class", dest="class_name", metavar="NAME",
                       help="class of the map over the photo; default: the class predicted")  # fmt: skip
    pictures = parser.add_argument_group("pictures")
    pictures.add_argument("--opacity", type=float, default=USUAL.opacity, metavar="0..1",
                          help="of a map's largest value over the photo")  # fmt: skip
    add_style_options(pictures, writes=False)
    add_pixel_option(pictures)
    settings = parser.parse_args(arguments)
    if not 0 <= settings.opacity <= 1:
        parser.error(f"--opacity {settings.opacity}: expected a number from 0 to 1")
    parser.require(settings, photos=1)
    PIXELS.most = settings.most_pixels
    settings.style = style_of(settings, settings.opacity)
    return settings


def main(arguments=None):
    settings = parse_arguments(arguments)
    photos = find_saved(settings.place)
    if settings.html:
        return write_html(photos, settings)
    index = index_of(photos, settings.photo) if settings.photo else 0
    names = class_names_in(all_maps(photos[index]))
    if settings.class_name and settings.class_name not in names:
        raise UserError(
            f"--class {settings.class_name}: {photos[index].name} has no map of it; expected one of {', '.join(names)}"
        )
    if photos[index].only:
        error = attempt(read_map, settings.place)
        if isinstance(error, Exception):
            raise UserError(f"{error}; expected a saved map or a folder of them")
    if settings.sheet:
        return write_contact_sheet(photos, settings)
    return (save_figure if settings.save else open_window)(photos, index, settings)


if __name__ == "__main__":
    run_script(main)
