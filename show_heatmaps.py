"""Show saved maps: the photo, every class's map in one colour scale, and one class's map laid over the photo.

    python show_heatmaps.py                                       # outputs/cam, in a window
    python show_heatmaps.py outputs/gradcam --photo val/cat/cat_001
    python show_heatmaps.py outputs/cam --class cat --save figure.png       # no window, no display needed
    python show_heatmaps.py outputs/cam --html page.html                    # all photos in one file, for a browser
    python show_heatmaps.py outputs/cam --sheet sheet.png                   # twelve photos, their maps, one picture
    python show_heatmaps.py outputs/cam/val/cat/cat_001/heatmap_for_cat.npy     # one map alone
    python show_heatmaps.py outputs/cam outputs/gradcam                     # two runs of the same photos side by side
    python show_heatmaps.py outputs/cam outputs/gradcam --strip strip.png   # one photo of both in one picture

A store, as --store writes it, is shown like outputs/cam.

Shows what make_cam_maps.py and gradcam_vgg16.py wrote; the window opens within two seconds, whatever the number of
photos. Arrow keys or the slider go through the photos, up and down through the classes, `h` lists the keys.
"""

import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # which python -I and -P leave out

from camlib.attribution import KIND_TITLES
from camlib.console import (
    EXIT_OF_SIGNALS,
    EXIT_SOME_FAILED,
    ArgumentParser,
    Progress,
    UserError,
    did_you_mean,
    first_line,
    run_script,
)
from camlib.options import add_pixel_option, add_style_options, style_of
from camlib.plots import OPACITY

# ---------------------------------------------------------------- settings

DEFAULT_PLACE = Path("outputs/cam")
WIDTH, SAVED_HEIGHTS = 10.5, (7, 9, 11, 14, 18)  # inches of the figure, the taller the more maps
FOR_PAPERS, PRINTED_DPI = ("pdf", "svg", "eps", "ps"), 300  # dots an inch of the pictures in them
TEXT_IS_TEXT = {"svg.fonttype": "none", "pdf.fonttype": 42, "ps.fonttype": 42}  # to be edited and searched
SHEET_PHOTOS = 12
TOOLKIT = (
    "expected a display and a toolkit: pip install PySide6, or apt install python3-tk; without a window --save FILE "
    "writes a picture and --html FILE a page"
)

# ---------------------------------------------------------------- options


def parse_arguments(arguments=None):
    parser = ArgumentParser(__doc__)
    parser.add_argument(
        "places",
        type=Path,
        nargs="*",
        default=[DEFAULT_PLACE],
        metavar="FOLDER_OR_FILE",
        help="saved maps: a run's folder, of files or a store, or one .npy; several runs of the same photos are shown "
        "side by side",
    )
    instead = parser.add_argument_group("instead of a window")
    instead.add_argument("--save", type=Path, metavar="FILE", help="write the figure of one photo: png, jpg, pdf, svg")
    instead.add_argument(
        "--strip",
        type=Path,
        metavar="FILE",
        help="write one photo with all its maps over it: classes in rows, kinds and runs in columns",
    )
    instead.add_argument("--html", type=Path, metavar="FILE", help="write all photos as one HTML page")
    instead.add_argument(
        "--sheet",
        type=Path,
        metavar="FILE",
        help="write a contact sheet (png, jpg, webp): photos in rows, classes in columns, kinds with --class or one "
        "class a photo",
    )
    instead.add_argument(
        "--photos", type=int, default=SHEET_PHOTOS, metavar="N", help="of the contact sheet, spread evenly over the run"
    )
    shown = parser.add_argument_group("what is shown")
    shown.add_argument("--photo", metavar="NAME", help="photo to begin with; default: the first")
    shown.add_argument(
        "--class", dest="class_name", metavar="NAME", help="of the map over the photo; default: the class predicted"
    )
    shown.add_argument("--classes", nargs="+", default=[], metavar="NAME", help="to show; default: all")
    shown.add_argument(
        "--maps",
        nargs="+",
        choices=KIND_TITLES,
        default=[],
        metavar="KIND",
        help=f"to show, as their files are called: {', '.join(KIND_TITLES)}; default: all",
    )
    pictures = parser.add_argument_group("pictures")
    pictures.add_argument(
        "--opacity", type=float, default=OPACITY, metavar="0..1", help="of a map's largest value over the photo"
    )
    add_style_options(pictures, writes=False)
    add_pixel_option(pictures)
    args = parser.parse_args(arguments)
    if not 0 <= args.opacity <= 1:
        parser.error(f"--opacity {args.opacity}: expected a number from 0 to 1")
    parser.require(args, photos=1)
    return args


# ---------------------------------------------------------------- the script


def open_window(photos, index, args, style):
    """Show the window until it is closed, or the process is asked to end."""
    from camlib.viewer.window import Controls, drop_idle_buttons, prepare_toolkit

    prepare_toolkit()
    import matplotlib.pyplot as plt  # here, since --save needs no window and must not look for one

    try:
        plt.switch_backend(plt.get_backend())  # whose toolbar is made with the figure
        drop_idle_buttons()
        figure = plt.figure(figsize=(WIDTH, SAVED_HEIGHTS[0]))
    except Exception as error:  # each toolkit has its own way to say that there is no display
        raise UserError(f"no window can be opened ({first_line(error)}); {TOOLKIT}") from error
    if not hasattr(figure.canvas.manager, "window"):
        raise UserError(f"no window can be opened (no display, or no toolkit for Matplotlib); {TOOLKIT}")
    figure.canvas.manager.set_window_title(f"maps in {args.place}")
    controls = Controls(figure, photos, index, class_name=args.class_name, style=style)
    controls.heed_signals()
    print(f"{len(photos):,} photos in {args.place}; h lists the keys, q closes the window", flush=True)
    plt.show()
    return EXIT_OF_SIGNALS + controls.asked[0] if controls.asked else 0


def save_figure(photos, index, args, style):
    """Write the figure of one photo, or a strip of it, to a file, without a display."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    from camlib.files import write_whole
    from camlib.viewer.album import Album
    from camlib.viewer.figure import Viewer
    from camlib.viewer.strip import strip_of
    from camlib.viewer.window import SAVED_DPI

    path, option = (args.strip, "--strip") if args.strip else (args.save, "--save")
    kinds, kind = Figure().canvas.get_supported_filetypes(), path.suffix.lower().removeprefix(".")
    if kind not in kinds:
        raise UserError(f"{option} {path}: expected a name that ends in one of {', '.join(kinds)}")
    album = Album(photos, index)
    if args.strip:
        figure = strip_of(album, args.class_name, style)
    for height in SAVED_HEIGHTS if args.save else ():
        figure = Figure(figsize=(WIDTH, height), dpi=PRINTED_DPI if kind in FOR_PAPERS else SAVED_DPI)
        if Viewer(figure, album, args.class_name, style).is_roomy:
            break
    path.parent.mkdir(parents=True, exist_ok=True)
    with rc_context(TEXT_IS_TEXT):
        write_whole(path, lambda file: figure.savefig(file, format=kind, dpi="figure"))
    print(f"wrote {path}")
    return 0


def write_contact_sheet(photos, args, style):
    """Write a picture with one row a photo, spread over the run."""
    from camlib.viewer.sheet import spread_over, write_sheet

    chosen = spread_over(photos, args.photos)
    with Progress("photos", len(chosen)) as progress:
        damaged = write_sheet(args.sheet, chosen, args.class_name, style, progress.advance)
    print(f"wrote {args.sheet}: {len(chosen):,} of {len(photos):,} photos")
    if damaged:
        print(f"{len(damaged):,} pictures are left out, the first since {damaged[0]}")
    return EXIT_SOME_FAILED if damaged else 0


def write_html(photos, args, style):
    """Write all photos and maps as one HTML page."""
    from camlib.plots.page import Report, write_page
    from camlib.viewer.gallery import entries_of_run, what_is_known

    entries, damaged = entries_of_run(photos, style)
    if not entries:
        raise UserError(f"no photo of {args.place} can be shown, the first since {damaged[0]}")
    args.html.parent.mkdir(parents=True, exist_ok=True)
    write_page(args.html, f"Maps in {args.place}", entries, style=style, report=Report(what_is_known(photos[0])))
    print(f"wrote {args.html}: {len(entries):,} photos, {args.html.stat().st_size / 1e6:.1f} MB")
    if damaged:
        print(f"{len(damaged):,} photos are left out, the first since {damaged[0]}")
    return EXIT_SOME_FAILED if damaged else 0


def index_of(photos, name):
    """Where the photo is that the user named, with or without its suffix.

    Raises:
        UserError: there is none.
    """
    from camlib.photos import name_without_suffix

    for known in ([photo.name for photo in photos], [name_without_suffix(photo.name) for photo in photos]):
        if name in known:
            return known.index(name)
    near = did_you_mean(name, [photo.name for photo in photos])
    raise UserError(f"--photo {name}: not among the {len(photos):,} photos{near} expected a name like {photos[0].name}")


def check_choice(photo, args):
    """Refuse a class or a kind that the photo has no map of.

    Raises:
        UserError: there is one.
    """
    from camlib.runs.maps import all_maps, base_kind, class_names_in
    from camlib.viewer.compare import ComparedPhoto

    maps = all_maps(photo)
    everything = all_maps(replace(photo, kinds=(), classes=())) if isinstance(photo, ComparedPhoto) else maps
    names, kinds = class_names_in(everything), [base_kind(kind) for kind in everything]
    for option, wanted, known in (
        ("--classes", args.classes, names),
        ("--maps", args.maps, kinds),
        ("--class", [args.class_name] if args.class_name else [], class_names_in(maps)),
    ):
        for name in wanted:
            if name not in known:
                expected = ", ".join(dict.fromkeys(known))
                raise UserError(f"{option} {name}: {photo.name} has no map of it; expected one of {expected}")


def main(arguments=None):
    args = parse_arguments(arguments)
    from camlib.runs.maps import attempt, read_map
    from camlib.viewer.compare import find_compared

    style, args.place = style_of(args, args.opacity), " and ".join(map(str, args.places))
    photos, lacking = find_compared(args.places, args.most_pixels, args.maps, args.classes)
    for line in lacking:
        print(line)
    if args.html:
        return write_html(photos, args, style)
    index = index_of(photos, args.photo) if args.photo else 0
    check_choice(photos[index], args)
    if photos[index].only and len(args.places) == 1:
        error = attempt(read_map, args.places[0])
        if isinstance(error, Exception):
            raise UserError(f"{error}; expected a saved map or a folder of them")
    if args.sheet:
        return write_contact_sheet(photos, args, style)
    return (save_figure if args.save or args.strip else open_window)(photos, index, args, style)


if __name__ == "__main__":
    run_script(main)
