"""The options that several scripts share. It is imported by scripts alone, and does without Keras."""

import importlib.util
import re
from argparse import ArgumentTypeError
from pathlib import Path

from camlib.attribution import BASELINE_NAMES, MapOptions
from camlib.console import UserError, did_you_mean, whole_number
from camlib.files import LARGEST_MODEL, MOST_PIXELS, parse_place
from camlib.networks import names_told
from camlib.networks.reader import check_source
from camlib.photos import find_photos
from camlib.plots import OWN_COLOURS, PIXEL_KINDS, REDUCTIONS
from camlib.preprocessing import (
    FITS,
    FLOAT_TYPES,
    INTERPOLATIONS,
    LEAST_INPUT_SIDE,
    MOST_CHANNELS,
    OWN_PREPROCESSING,
    PREPROCESSING,
    PREPROCESSING_HELP,
    fit_share,
    parse_preprocessing,
    parse_size,
)
from camlib.runs import STORE_TYPES
from camlib.runs.shards import parse_shard
from camlib.training import TEACHING

# ---------------------------------------------------------------- a network that is asked


def add_pixel_option(group):
    """Add the option that raises the limit of pixels decoded of one picture."""
    group.add_argument(
        "--most-pixels",
        type=whole_number(1, 9_999_999_999),
        default=MOST_PIXELS,
        metavar="N",
        help="pixels to decode of one picture; a large JPEG is decoded smaller",
    )


def parse_fit(text):
    """A fit, see FITS."""
    try:
        fit_share(text)
    except ValueError as error:
        raise ArgumentTypeError(str(error).removeprefix("fit ")) from error
    return text


def add_network_options(group):
    """Add the options that say what a network's numbers mean and what it computes in."""
    group.add_argument(
        "--preprocess",
        metavar="|".join([*PREPROCESSING, *OWN_PREPROCESSING]),
        help="what a pixel of 0..255 becomes; default: what the file says. " + PREPROCESSING_HELP,
    )
    group.add_argument(
        "--interpolation",
        choices=INTERPOLATIONS,
        help="how photos are brought to the network's size; default: what the file says, or area. "
        + "; ".join(f"{name}: {who}" for name, who in INTERPOLATIONS.items()),
    )
    group.add_argument(
        "--fit",
        type=parse_fit,
        metavar="|".join(FITS),
        help="how photos are brought to the network's proportions; default: what the file says, or whole. "
        + "; ".join(f"{name}: {who}" for name, who in FITS.items()),
    )
    group.add_argument(
        "--bands",
        type=whole_number(1, MOST_CHANNELS),
        nargs=3,
        metavar=("R", "G", "B"),
        help="of TIFF photos with more than three bands, which are shown; all go to the network, in the numbers "
        "of the file; default: 1 2 3",
    )
    group.add_argument("--class-names", type=Path, metavar="FILE", help="one class a line; default: what the file says")
    group.add_argument(
        "--size",
        type=parse_size,
        metavar="N|HxW",
        help="the network's input in pixels, N x N or height x width; default: as trained",
    )
    group.add_argument(
        "--dtype", choices=FLOAT_TYPES, help="what the network computes in; default: what its weights are kept in"
    )
    group.add_argument(
        "--architecture", type=Path, metavar="FILE.json", help="of a file of weights alone: what model.to_json() wrote"
    )
    group.add_argument("--trust-model", action="store_true", help="let the model file run code")
    group.add_argument(
        "--largest-model",
        type=parse_gigabytes,
        default=LARGEST_MODEL,
        metavar="GB",
        help="larger model files are refused",
    )


def add_changed_photo_options(group):
    """Add the options of MapOptions, what of maps is beside their method, and how maps of pixels are shown."""
    group.add_argument("--contrast", metavar="CLASS", help="explain the score less this class's: dog rather than cat")
    group.add_argument(
        "--smooth", type=int, default=1, metavar="N", help="average the maps of N versions, mirrored and moved a little"
    )
    group.add_argument(
        "--samples", type=int, metavar="N", help="how many changed photos a method looks at; default: its own number"
    )
    group.add_argument(
        "--noise", type=float, metavar="SHARE", help="of smooth-grad and var-grad, of the photo's range; default: 0.15"
    )
    group.add_argument("--baseline", choices=BASELINE_NAMES, help="what stands for no photo; default: the method's own")
    group.add_argument(
        "--backgrounds",
        type=parse_place,
        nargs="+",
        metavar="PHOTO_OR_FOLDER",
        help="photos that stand for no photo at expected-gradients; default: data/photos",
    )
    group.add_argument("--seed", type=int, metavar="N", help="of what is random; default: 0")
    group.add_argument(
        "--reduce",
        choices=REDUCTIONS,
        help="what pictures show of a pixel's channels: the sum of their magnitudes, the default, their sum, or the "
        "largest magnitude",
    )


def changed_photo_options(args, method):
    """Those of the options of maps that a method has, as MapOptions takes them: dict of what was given."""
    names = MapOptions.apply_to(method, args.smooth)
    given = {name: getattr(args, name) for name in MapOptions.names() if name in names}
    if given.get("backgrounds"):
        given["backgrounds"] = [photo.path for photo in find_photos(given["backgrounds"], args.most_pixels)]
    return {name: value for name, value in given.items() if value is not None}


def check_changed_photo_options(parser, args):
    """End with an error where an option of maps is out of range, or of none of the methods asked for."""
    known = set().union(*(MapOptions.apply_to(method, args.smooth) for method in args.method))
    known |= {"reduce"} & {"reduce" for method in args.method if method in PIXEL_KINDS}
    for name in (*MapOptions.names(), "reduce"):
        if getattr(args, name) != parser.get_default(name) and name not in known:
            parser.error(f"--{name} is of no --method that is asked for ({', '.join(args.method)}); expected another")
    for method in args.method:
        MapOptions(**changed_photo_options(args, method)).check(method)


def add_head_options(group):
    """Add the options that say how a network is fed and which of its outputs (heads) is explained."""
    group.add_argument("--head", metavar="NAME|INDEX", help="the output to explain, of a network with several")
    group.add_argument(
        "--region",
        type=Path,
        metavar="MASK",
        help="a picture, bright where the scores of a segmentation are added up; default: the pixels "
        "that the network gives to the class",
    )
    group.add_argument("--image-input", metavar="NAME", help="the input that takes photos, of a network with several")
    group.add_argument(
        "--other-inputs", type=Path, metavar="FILE.npz", help="the values of the others, an array for each by its name"
    )


def network_options(args):
    """What the user says of a network, as `Classifier.load` takes it: dict."""
    names = {"trust_model": "trust", "largest_model": "largest"}
    given = ("preprocess", "interpolation", "fit", "bands", "class_names", "size", "dtype", "architecture", *names)
    heads = ("head", "region", "image_input", "other_inputs", "most_pixels") if hasattr(args, "head") else ()
    return {names.get(name, name): getattr(args, name) for name in (*given, *heads)}


def check_network(args, source):
    """What the user says of a network is looked at as far as needs no Keras, which takes many seconds to begin.

    Args:
        args: the user's, with the options of `add_network_options`.
        source: Path of its file, or a name of keras.applications.

    Returns:
        (class names, groups), see `names_told`.

    Raises:
        UserError: there is no such network, or an option is none.
    """
    check_source(source, args.largest_model)
    if args.preprocess:
        parse_preprocessing(args.preprocess)
    return names_told(source, args.class_names)


def add_output_options(group, folder, what, batch_size):
    """Add the options that say where a run writes, and in which portions it works.

    Args:
        group: of an ArgumentParser.
        folder: Path, the default.
        what: str, what goes there, in the plural.
        batch_size: int, the default.
    """
    group.add_argument("--output", type=Path, default=folder, metavar="DIR", help=f"folder where the {what} go")
    group.add_argument("--batch-size", type=int, default=batch_size, metavar="N", help="photos per forward pass")
    group.add_argument("--overwrite", action="store_true", help=f"replace {what} made with other settings")


def add_run_options(parser, folder, batch_size):
    """Add the options of a run that writes maps: what its pictures look like, where it writes, who does the work.

    Args:
        parser: ArgumentParser.
        folder, batch_size: the defaults, see `add_output_options`.
    """
    add_style_options(parser.add_argument_group("pictures"))
    output = parser.add_argument_group("output")
    add_output_options(output, folder, "maps", batch_size)
    output.add_argument(
        "--store",
        type=Path,
        metavar="DIR",
        help="put the maps of many photos into each file (HDF5) of this folder, without pictures, instead of into "
        "--output",
    )
    output.add_argument(
        "--store-dtype",
        choices=STORE_TYPES,
        default=STORE_TYPES[0],
        help="what maps are kept in there; float16 takes less than half, and is off by up to 1/2048 of "
        "a map's largest value",
    )
    add_machine_options(parser.add_argument_group("several machines"))


def check_run_options(parser, args):
    """End with an error where options of `add_run_options` do not fit one another, or Ray is not installed."""
    parser.require(args, batch_size=1)
    given = {name for name in vars(args) if getattr(args, name) != parser.get_default(name)}
    if not args.store and "store_dtype" in given:
        parser.error(f"--store-dtype {args.store_dtype} without --store; expected --store DIR with it")
    if args.store and (args.store.suffix.lower() == ".h5" or args.store.is_file()):
        parser.error(f"--store {args.store}: expected a folder, new or of the same run; a store is no single file now")
    if args.store and "output" in given:
        parser.error(f"--store {args.store} with --output {args.output}; expected one of the two")
    if args.shard and args.overwrite:
        parser.error("--overwrite with --shard would remove what other shards wrote; expected another folder")
    if args.shard and args.engine == "ray":
        parser.error("--shard with --engine ray, which deals the photos itself; expected one of the two")
    for name in ("address", "workers"):
        if name in given and args.engine != "ray":
            parser.error(f"--{name} without --engine ray; expected both, or neither")
    parser.require(args, workers=1)
    if args.engine == "ray" and importlib.util.find_spec("ray") is None:
        parser.error("Ray is not installed; expected what pip install -r requirements-cluster.txt installs")


def add_machine_options(group):
    """Add the options of a run on several GPUs or machines."""
    group.add_argument(
        "--shard",
        type=parse_shard,
        metavar="K/N|slurm",
        help="do the K-th of N parts alone, in a folder that all share, slurm: that of this task of a job array",
    )
    group.add_argument(
        "--engine",
        choices=("process", "ray"),
        default="process",
        help="who does the work: this process, or workers of Ray, one for each GPU, or without any each core",
    )
    group.add_argument("--address", metavar="HOST:PORT", help="of a cluster of Ray; default: this machine")
    group.add_argument("--workers", type=int, metavar="N", help="how many; default: as many as there can be")


def add_style_options(group, writes=True):
    """Add the options of how maps are drawn to a parser or a group of its options.

    Args:
        group: what has `add_argument`.
        writes: bool, the script writes the pictures of a run, whose size can be chosen.
    """
    group.add_argument(
        "--colours",
        default=OWN_COLOURS,
        metavar="NAME",
        help="evidence, red to yellow for a class and blue to cyan against it, or a colour map of "
        "Matplotlib (turbo, jet, RdBu_r); one whose middle is not made for zero shows no evidence "
        "against a class over the photo",
    )
    group.add_argument("--photo-in-colour", action="store_true", help="below a map; default: grey")
    if writes:
        group.add_argument(
            "--overlay",
            choices=["png"],
            help="write overlay_for_<class>.png too: what lies over the photo, transparent, for other programs",
        )
        group.add_argument(
            "--full-size",
            action="store_true",
            help="pictures of the photo's own size; default: a longer side of 512 pixels",
        )
        group.add_argument(
            "--no-pictures",
            action="store_true",
            help="write the arrays alone: for each photo several times less work and space",
        )


def style_of(args, opacity=None):
    """The Style that the user asked for.

    Raises:
        UserError: Matplotlib has no such colour map.
    """
    import matplotlib  # here, since --help needs none of it

    from camlib.plots.colours import USUAL, Style

    names = [OWN_COLOURS, *matplotlib.colormaps]
    if args.colours not in names:
        near = did_you_mean(args.colours, names)
        raise UserError(f"--colours {args.colours}{near} expected a colour map of Matplotlib, or evidence")
    return Style(args.colours, args.photo_in_colour, USUAL.opacity if opacity is None else opacity)


def style_of_run(args):
    """The Style of a run's pictures, see `style_of`; None with --no-pictures and --store.

    Raises:
        UserError: the user says how pictures look, too.
    """
    if not args.no_pictures and not args.store:
        return style_of(args)
    without = "--no-pictures" if args.no_pictures else "--store"
    for option, given in (
        ("--colours", args.colours != OWN_COLOURS),
        ("--photo-in-colour", args.photo_in_colour),
        ("--overlay", args.overlay),
        ("--full-size", args.full_size and args.no_pictures),
    ):
        if given:
            raise UserError(f"{without} with {option}, which is about pictures; expected one of the two")
    return None


def style_settings(args):
    """What of the user's options decides how a run's pictures look, and whether it has any, for run.json."""
    names = ("colours", "photo_in_colour", "full_size")
    more = {"overlay": args.overlay, "no_pictures": args.no_pictures or None}
    return {name: getattr(args, name) for name in names} | more


def parse_gigabytes(text):
    """GB, float, for what the user wrote after --largest-model.

    Raises:
        UserError: it is no number above 0.
    """
    if not re.fullmatch(r"[0-9]{1,4}(\.[0-9]{1,3})?", text) or float(text) == 0:
        raise UserError(f"--largest-model {text}: expected a number of GB above 0, at most 9999")
    return float(text)


# ---------------------------------------------------------------- several hosts


def add_host_options(group):
    """Add the options of a training on several hosts."""
    group.add_argument(
        "--host",
        type=parse_host,
        metavar="K/N",
        help="be the K-th of N hosts, from 0, each with the same command but for this; needs KERAS_BACKEND=jax",
    )
    group.add_argument("--coordinator", metavar="ADDRESS:PORT", help="of host 0, a port that is free there")


def parse_host(text):
    """(number, hosts) for what the user wrote after --host: "0/2"."""
    found = re.fullmatch("([0-9]{1,5})/([0-9]{1,5})", text)
    number, hosts = map(int, found.groups()) if found else (0, 0)
    if hosts < 2 or number >= hosts:
        raise UserError(f"--host {text}: expected its number, from 0, and how many there are, two or more: 0/2")
    return number, hosts


def check_host_options(parser, args):
    """End with an error where the options of several hosts do not fit one another."""
    if (args.host is None) != (args.coordinator is None):
        parser.error("--host and --coordinator go together; expected both, or neither")
    if args.coordinator and not re.fullmatch(r"[^\s,]+:[0-9]{1,5}", args.coordinator):
        parser.error(f"--coordinator {args.coordinator}: expected the address of host 0 and a port, 10.0.0.1:12345")


# ---------------------------------------------------------------- a teacher and a locator


def add_teacher_options(group):
    """Add the options of training with other networks: a teacher, a locator."""
    group.add_argument("--teacher", type=Path, metavar="FILE", help="learn from this network's answers too")
    group.add_argument(
        "--teacher-sees",
        choices=("photos", "views"),
        default="photos",
        help="each photo once, or in each epoch the very cut-outs that the network sees",
    )
    group.add_argument(
        "--teacher-size",
        type=int,
        metavar="PIXELS",
        help="height and width the teacher sees; default: as its file says",
    )
    group.add_argument(
        "--temperature",
        type=float,
        default=2.0,
        metavar="T",
        help="the logits of both are divided by it, which softens the answers",
    )
    group.add_argument(
        "--label-share",
        type=float,
        default=0.2,
        metavar="0..1",
        help="share of the true labels in the loss; the rest is the teacher's",
    )
    group.add_argument(
        "--locator",
        type=Path,
        metavar="FILE",
        help="unlearn evidence where this network's Grad-CAM has none; for --recipe vgg16",
    )
    group.add_argument(
        "--locator-size",
        type=int,
        metavar="PIXELS",
        help="height and width the locator sees; default: as its file says",
    )


def check_teacher_options(parser, args, loss):
    """End with an error where the options of teacher and locator do not fit one another or the recipe."""
    names = ("teacher_size", *TEACHING)
    given = [name for name in names if getattr(args, name) != parser.get_default(name)]
    if args.teacher is None and given:
        parser.error(f"--{given[0].replace('_', '-')} without --teacher; expected --teacher FILE with it")
    if args.teacher and loss != "categorical_crossentropy":
        parser.error(
            f"--teacher softens a softmax, and --recipe {args.recipe} is trained with {loss}; expected "
            "--recipe modern or vgg16"
        )
    parser.require(args, teacher_size=1)
    if not 0 < args.temperature <= 100:
        parser.error(f"--temperature {args.temperature}: expected a number above 0, at most 100")
    if not 0 <= args.label_share <= 1:
        parser.error(f"--label-share {args.label_share}: expected a number from 0 to 1")
    parser.require(args, locator_size=LEAST_INPUT_SIDE)
    if args.locator_size and not args.locator:
        parser.error("--locator-size without --locator; expected --locator FILE with it")
    if args.locator and args.recipe != "vgg16":
        parser.error(f"--locator {args.locator}: found --recipe {args.recipe}; expected --recipe vgg16 with it")
