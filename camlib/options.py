"""The options that several scripts share, and of a teacher and a locator. Imports neither Keras nor TensorFlow."""

import re
from pathlib import Path

from camlib.console import UserError
from camlib.preprocessing import OWN_PREPROCESSING, PREPROCESSING, WHAT_PREPROCESSING_MEANS
from camlib.runs.shards import parse_shard

FLOAT_TYPES = ("float32", "float64", "bfloat16", "float16")  # what a network may compute in
STORE_TYPES = ("float32", "float16")  # what maps may be kept in
FILLS = ("blur", "mean")  # what replaces deleted pixels
OWN_COLOURS = "evidence"  # the name of our own colour map
LEAST_SIDE, MOST_SIDE = 8, 99_999  # pixels of a network's input; what fits into memory is seen later
LARGEST_MODEL = 4.0  # GB of a model file
TEACHING = ("teacher_sees", "temperature", "label_share")  # settings that decide what is learnt from a teacher

# ---------------------------------------------------------------- a network that is asked


def add_network_options(group):
    """Add the options that say what a network's numbers mean and what it computes in."""
    group.add_argument("--preprocess", metavar="|".join([*PREPROCESSING, *OWN_PREPROCESSING]),
                       help="what a pixel of 0..255 becomes; default: what the file says. "
                       + WHAT_PREPROCESSING_MEANS)  # fmt: skip
    group.add_argument("--class-names", type=Path, metavar="FILE",
                       help="one class a line; default: what the file says")  # fmt: skip
    group.add_argument("--size", type=parse_size, metavar="N|HxW",
                       help="the network's input in pixels, N x N or height x width; default: as trained")  # fmt: skip
    group.add_argument("--dtype", choices=FLOAT_TYPES,
                       help="what the network computes in; default: what its weights are kept in")  # fmt: skip
    group.add_argument("--architecture", type=Path, metavar="FILE.json",
                       help="of a file of weights alone: what model.to_json() wrote")  # fmt: skip
    group.add_argument("--trust-model", action="store_true", help="let the model file run code")
    group.add_argument("--largest-model", type=parse_gigabytes, default=LARGEST_MODEL, metavar="GB",
                       help="larger model files are refused")  # fmt: skip


def add_port_options(group):
    """Add the options that say how a network is fed and which of its outputs is explained."""
    group.add_argument("--head", metavar="NAME|INDEX", help="the output to explain, of a network with several")
    group.add_argument("--region", type=Path, metavar="MASK",
                       help="a picture, bright where the scores of a segmentation are added up; default: the pixels "
                       "that the network gives to the class")  # fmt: skip
    group.add_argument("--image-input", metavar="NAME", help="the input that takes photos, of a network with several")
    group.add_argument("--other-inputs", type=Path, metavar="FILE.npz",
                       help="the values of the others, an array for each by its name")  # fmt: skip


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


def add_map_run_options(group, folder, batch_size):
    """Add the options that say where a run writes its maps, a folder or one file; see `add_output_options`."""
    add_output_options(group, folder, "maps", batch_size)
    group.add_argument("--store", type=Path, metavar="FILE.h5",
                       help="put the maps into one HDF5 file, without pictures, instead of into --output")  # fmt: skip
    group.add_argument("--store-dtype", choices=STORE_TYPES, default=STORE_TYPES[0],
                       help="what maps are kept in there; float16 takes less than half, and is off by up to 1/2048 of "
                       "a map's largest value")  # fmt: skip


def check_store_options(parser, settings):
    """End with an error where the options of a store do not fit one another."""
    given = [name for name in ("output", "store_dtype") if getattr(settings, name) != parser.get_default(name)]
    if settings.store is None and "store_dtype" in given:
        parser.error(f"--store-dtype {settings.store_dtype} without --store; expected --store FILE.h5 with it")
    if settings.store is None:
        return
    if settings.store.suffix.lower() != ".h5":
        parser.error(f"--store {settings.store}: expected a name that ends in .h5")
    if "output" in given:
        parser.error(f"--store {settings.store} with --output {settings.output}; expected one of the two")


def add_machine_options(group):
    """Add the options of a run on several GPUs or machines."""
    group.add_argument("--shard", type=parse_shard, metavar="K/N|slurm",
                        help="do the K-th of N parts alone, in a folder that all share, slurm: that of this task of a "
                        "job array; python join_shards.py makes one run of them")  # fmt: skip
    group.add_argument("--engine", choices=("process", "ray"), default="process",
                       help="who does the work: this process, or workers of Ray, one for each GPU, or without any each "
                       "core")  # fmt: skip
    group.add_argument("--address", metavar="HOST:PORT", help="of a cluster of Ray; default: this machine")
    group.add_argument("--workers", type=int, metavar="N", help="how many; default: as many as there can be")


def add_style_options(group, writes=True):
    """Add the options of how maps are drawn to a parser or a group of its options.

    Args:
        group: what has `add_argument`.
        writes: bool, the script writes the pictures of a run, whose size can be chosen.
    """
    group.add_argument("--colours", default=OWN_COLOURS, metavar="NAME",
                       help="evidence, red to yellow for a class and blue to cyan against it, or a colour map of "
                       "Matplotlib (turbo, jet, RdBu_r); one whose middle is not made for zero shows no evidence "
                       "against a class over the photo")  # fmt: skip
    group.add_argument("--photo-in-colour", action="store_true", help="below a map; default: grey")
    if writes:
        group.add_argument("--full-size", action="store_true",
                           help="pictures of the photo's own size; default: a longer side of 512 pixels")  # fmt: skip
        group.add_argument("--no-pictures", action="store_true",
                           help="write the arrays alone: for each photo several times less work and space")  # fmt: skip


def parse_size(text):
    """(height, width) for what the user wrote after --size: "64" or "64x96".

    Raises:
        UserError: it is something else, below LEAST_SIDE or above MOST_SIDE.
    """
    sides = [int(side) if re.fullmatch("[0-9]{1,9}", side) else -1 for side in text.lower().split("x")]
    if len(sides) > 2 or not all(LEAST_SIDE <= side <= MOST_SIDE for side in sides):
        raise UserError(f"--size {text}: expected {LEAST_SIDE} to {MOST_SIDE:,} pixels, N or HEIGHTxWIDTH")
    return sides[0], sides[-1]


def parse_gigabytes(text):
    """GB, float, for what the user wrote after --largest-model.

    Raises:
        UserError: it is no number above 0.
    """
    if not re.fullmatch(r"[0-9]{1,4}(\.[0-9]{1,3})?", text) or float(text) == 0:
        raise UserError(f"--largest-model {text}: expected a number of GB above 0, at most 9999")
    return float(text)


def size_name(height, width):
    """A size as after --size."""
    return str(height) if height == width else f"{height}x{width}"


# ---------------------------------------------------------------- several hosts


def add_host_options(group):
    """Add the options of a training on several hosts."""
    group.add_argument("--host", type=parse_host, metavar="K/N",
                       help="be the K-th of N hosts, from 0, each with the same command but for this; needs "
                       "KERAS_BACKEND=jax")  # fmt: skip
    group.add_argument("--coordinator", metavar="ADDRESS:PORT", help="of host 0, a port that is free there")


def parse_host(text):
    """(number, hosts) for what the user wrote after --host: "0/2"."""
    found = re.fullmatch("([0-9]{1,5})/([0-9]{1,5})", text)
    number, hosts = map(int, found.groups()) if found else (0, 0)
    if hosts < 2 or number >= hosts:
        raise UserError(f"--host {text}: expected its number, from 0, and how many there are, two or more: 0/2")
    return number, hosts


def check_host_options(parser, settings):
    """End with an error where the options of several hosts do not fit one another."""
    if (settings.host is None) != (settings.coordinator is None):
        parser.error("--host and --coordinator go together; expected both, or neither")
    if settings.coordinator and not re.fullmatch(r"[^\s,]+:[0-9]{1,5}", settings.coordinator):
        parser.error(f"--coordinator {settings.coordinator}: expected the address of host 0 and a port, 10.0.0.1:12345")


# ---------------------------------------------------------------- a teacher and a locator


def add_teacher_options(group):
    """Add the options of training with other networks: a teacher, a locator."""
    group.add_argument("--teacher", type=Path, metavar="FILE", help="learn from this network's answers too")
    group.add_argument("--teacher-sees", choices=("photos", "views"), default="photos",
                       help="each photo once, or in each epoch the very cut-outs that the network sees")  # fmt: skip
    group.add_argument("--teacher-size", type=int, metavar="PIXELS",
                       help="height and width the teacher sees; default: as its file says")  # fmt: skip
    group.add_argument("--temperature", type=float, default=2.0, metavar="T",
                       help="the logits of both are divided by it, which softens the answers")  # fmt: skip
    group.add_argument("--label-share", type=float, default=0.2, metavar="0..1",
                       help="share of the true labels in the loss; the rest is the teacher's")  # fmt: skip
    group.add_argument("--locator", type=Path, metavar="FILE",
                       help="unlearn evidence where this network's Grad-CAM has none; for --recipe vgg16")  # fmt: skip
    group.add_argument("--locator-size", type=int, metavar="PIXELS",
                       help="height and width the locator sees; default: as its file says")  # fmt: skip


def check_teacher_options(parser, settings, loss):
    """End with an error where the options of teacher and locator do not fit one another or the recipe."""
    names = ("teacher_size", *TEACHING)
    given = [name for name in names if getattr(settings, name) != parser.get_default(name)]
    if settings.teacher is None and given:
        parser.error(f"--{given[0].replace('_', '-')} without --teacher; expected --teacher FILE with it")
    if settings.teacher and loss != "categorical_crossentropy":
        parser.error(
            f"--teacher softens a softmax, and --recipe {settings.recipe} is trained with {loss}; expected "
            "--recipe modern or vgg16"
        )
    parser.require(settings, teacher_size=1)
    if not 0 < settings.temperature <= 100:
        parser.error(f"--temperature {settings.temperature}: expected a number above 0, at most 100")
    if not 0 <= settings.label_share <= 1:
        parser.error(f"--label-share {settings.label_share}: expected a number from 0 to 1")
    parser.require(settings, locator_size=LEAST_SIDE)
    if settings.locator_size and not settings.locator:
        parser.error("--locator-size without --locator; expected --locator FILE with it")
    if settings.locator and settings.recipe != "vgg16":
        parser.error(f"--locator {settings.locator}: found --recipe {settings.recipe}; expected --recipe vgg16 with it")
