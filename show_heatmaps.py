"""Show saved maps: the photo, every class's map in one colour scale, and one class's map laid over the photo.

    python show_heatmaps.py                                       # outputs/cam, in a window
    python show_heatmaps.py outputs/gradcam --photo val/cat/cat_001
    python show_heatmaps.py outputs/cam --class cat --save figure.png       # no window, no display needed
    python show_heatmaps.py outputs/cam --html page.html                    # all photos in one file, for a browser
    python show_heatmaps.py outputs/cam --sheet sheet.png                   # twelve photos, their maps, one picture
    python show_heatmaps.py outputs/cam/val/cat/cat_001/heatmap_for_cat.npy     # one map alone

A store, as --store writes it, is shown like outputs/cam.

Shows what make_cam_maps.py and gradcam_vgg16.py wrote; the window opens within two seconds, whatever the number of
photos. Arrow keys or the slider go through the photos, up and down through the classes, `h` lists the keys.
"""

from pathlib import Path

from camlib.console import EXIT_SOME_FAILED, ArgumentParser, Progress, UserError, first_line, run_script
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
        "place",
        type=Path,
        nargs="?",
        default=DEFAULT_PLACE,
        metavar="FOLDER_OR_FILE",
        help="saved maps: a run's folder, of files or a store, or one .npy",
    )
    instead = parser.add_argument_group("instead of a window")
    instead.add_argument("--save", type=Path, metavar="FILE", help="write the figure of one photo: png, jpg, pdf, svg")
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
    """Show the window until it is closed."""
    from camlib.viewer.window import Controls, prepare_toolkit

    prepare_toolkit()
    import matplotlib.pyplot as plt  # here, since --save needs no window and must not look for one

    try:
        figure = plt.figure(figsize=(WIDTH, SAVED_HEIGHTS[0]))
    except Exception as error:  # each toolkit has its own way to say that there is no display
        raise UserError(f"no window can be opened ({first_line(error)}); {TOOLKIT}") from error
    if not hasattr(figure.canvas.manager, "window"):
        raise UserError(f"no window can be opened (no display, or no toolkit for Matplotlib); {TOOLKIT}")
    figure.canvas.manager.set_window_title(f"maps in {args.place}")
    controls = Controls(figure, photos, index, class_name=args.class_name, style=style)
    print(f"{len(photos):,} photos in {args.place}; h lists the keys, q closes the window", flush=True)
    plt.show()
    return controls and 0  # kept until here: Matplotlib holds its widgets weakly


def save_figure(photos, index, args, style):
    """Write the figure of one photo to a file, without a display."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    from camlib.files import write_whole
    from camlib.viewer.album import Album
    from camlib.viewer.figure import Viewer
    from camlib.viewer.window import SAVED_DPI

    kinds, kind = Figure().canvas.get_supported_filetypes(), args.save.suffix.lower().removeprefix(".")
    if kind not in kinds:
        raise UserError(f"--save {args.save}: expected a name that ends in one of {', '.join(kinds)}")
    album = Album(photos, index)
    for height in SAVED_HEIGHTS:
        figure = Figure(figsize=(WIDTH, height), dpi=PRINTED_DPI if kind in FOR_PAPERS else SAVED_DPI)
        if Viewer(figure, album, args.class_name, style).is_roomy:
            break
    args.save.parent.mkdir(parents=True, exist_ok=True)
    with rc_context(TEXT_IS_TEXT):
        write_whole(args.save, lambda file: figure.savefig(file, format=kind))
    print(f"wrote {args.save}")
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
    from camlib.plots.page import write_page
    from camlib.viewer.gallery import entries_of_run

    entries, damaged = entries_of_run(photos, style)
    if not entries:
        raise UserError(f"no photo of {args.place} can be shown, the first since {damaged[0]}")
    args.html.parent.mkdir(parents=True, exist_ok=True)
    write_page(args.html, f"Maps in {args.place}", entries, style=style)
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
    raise UserError(f"--photo {name}: not among the {len(photos):,} photos; expected a name like {photos[0].name}")


def main(arguments=None):
    args = parse_arguments(arguments)
    from camlib.runs.maps import all_maps, attempt, class_names_in, find_saved, read_map

    style = style_of(args, args.opacity)
    photos = find_saved(args.place, args.most_pixels)
    if args.html:
        return write_html(photos, args, style)
    index = index_of(photos, args.photo) if args.photo else 0
    names = class_names_in(all_maps(photos[index]))
    if args.class_name and args.class_name not in names:
        raise UserError(
            f"--class {args.class_name}: {photos[index].name} has no map of it; expected one of {', '.join(names)}"
        )
    if photos[index].only:
        error = attempt(read_map, args.place)
        if isinstance(error, Exception):
            raise UserError(f"{error}; expected a saved map or a folder of them")
    if args.sheet:
        return write_contact_sheet(photos, args, style)
    return (save_figure if args.save else open_window)(photos, index, args, style)


if __name__ == "__main__":
    run_script(main)
