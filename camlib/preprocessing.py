"""What a network's numbers mean: pixels in, class names and probabilities out. Does without Keras."""

import math
import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from camlib.console import ROOT, UNPRINTABLE, UserError, did_you_mean
from camlib.files import read_text

# ---------------------------------------------------------------- pixels in

FLOAT_TYPES = ("float32", "float64", "bfloat16", "float16")  # what a network may compute in
# What a pixel becomes, by the names that Keras's applications use; torch: mean and standard deviation of ImageNet
PREPROCESSING = {
    "none": {"scale": 1.0, "offset": 0.0, "bgr": False},
    "tf": {"scale": 1 / 127.5, "offset": -1.0, "bgr": False},
    "torch": {
        "scale": [1 / (255 * 0.229), 1 / (255 * 0.224), 1 / (255 * 0.225)],
        "offset": [-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225],
        "bgr": False,
    },
    "caffe": {"scale": 1.0, "offset": [-103.939, -116.779, -123.68], "bgr": True},
}
PREPROCESSING["vgg"] = PREPROCESSING["caffe"]
SLASHES = set("/\\\0")  # which the name of a file cannot have
ORIGINAL_CLASSES = ("dog", "cat", "horse", "bird")  # 0..3, the original's order


@dataclass(frozen=True)
class InputSpec:
    """What a network takes, and what its outputs are called; it travels as an HDF5 attribute in the .h5 file.

    Attributes:
        class_names: list of str, one per output.
        height, width, channels: int, the input the network was trained with.
        scale, offset: float, or list of one float per channel: the network's input is pixel * scale + offset, pixel in
            0..255.
        bgr: bool, the channels are turned to blue, green, red first.
        interpolation: "area" or "cubic", how photos are resized; see `camlib.photos.resize_photo`.
    """

    class_names: list
    height: int
    width: int
    channels: int
    scale: float | list = 1 / 255
    offset: float | list = 0.0
    interpolation: str = "area"
    bgr: bool = False

    def __post_init__(self):
        """Class names become parts of file names, and may come from a stranger's file."""
        for name in self.class_names:
            if not isinstance(name, str) or not name or set(name) & SLASHES:
                raise ValueError(f"class name {name!r}; expected text without slashes")

    @property
    def shape(self):
        """(height, width, channels)."""
        return self.height, self.width, self.channels

    def prepare(self, images, dtype=np.float32):
        """Turn uint8 (N, H, W, C), RGB or grey, into the network's input, float32 or float64."""
        images = images[..., ::-1] if self.bgr else images
        return images.astype(dtype) * np.asarray(self.scale, dtype) + np.asarray(self.offset, dtype)

    @property
    def preprocessing(self):
        """What `prepare` does, in words."""
        order = {1: "grey", 3: "RGB"}.get(self.channels, f"{self.channels} channels") if not self.bgr else "BGR"
        return f"{self.height}x{self.width} {order}, pixel * {numbers(self.scale)} + {numbers(self.offset)}"


LARGEST_FACTOR = 1e30  # of a pixel, float32
LARGEST_SIDE = 8192  # pixels of a photo as a network takes it
MOST_CLASS_NAMES = 100_000
LONGEST_CLASS_NAME = 200  # bytes of a class's name; file systems take 255 of a file's


def is_plain_name(name):
    """Whether a text can be a class's name: part of a line on a terminal, and of a file's name."""
    try:
        return 0 < len(os.fsencode(name)) <= LONGEST_CLASS_NAME and not UNPRINTABLE.search(name)
    except UnicodeEncodeError:  # half of a pair of surrogates
        return False


def checked_input_spec(record):
    """The InputSpec that a stranger's file holds.

    Args:
        record: what its JSON says.

    Raises:
        TypeError, ValueError: it is none; the message says what.
    """
    input_spec = InputSpec(**record)
    for name, least, greatest in (("height", 1, LARGEST_SIDE), ("width", 1, LARGEST_SIDE), ("channels", 1, 3)):
        value = getattr(input_spec, name)
        if type(value) is not int or not least <= value <= greatest or (name == "channels" and value == 2):
            raise ValueError(f"{name} {str(value)[:20]}; expected a whole number from {least} to {greatest}")
    for name in ("scale", "offset"):
        value = getattr(input_spec, name)
        values = value if isinstance(value, list) else [value] * input_spec.channels
        if len(values) != input_spec.channels or not all(
            type(one) in (int, float) and math.isfinite(one) and abs(one) <= LARGEST_FACTOR for one in values
        ):
            raise ValueError(f"{name} {str(value)[:20]}; expected a number, or one per channel")
    if type(input_spec.bgr) is not bool or input_spec.interpolation not in ("area", "cubic"):
        raise ValueError(f"interpolation {str(input_spec.interpolation)[:20]}; expected area or cubic, and bgr or not")
    names = input_spec.class_names
    if type(names) is not list or not 1 <= len(names) <= MOST_CLASS_NAMES or len(set(names)) < len(names):
        raise ValueError("class names that are no list of different ones")
    for name in names:
        if not is_plain_name(name):
            raise ValueError(f"class name {name[:20]!r}; expected up to {LONGEST_CLASS_NAME} bytes of text")
    return input_spec


def size_name(height, width):
    """A size as after --size."""
    return str(height) if height == width else f"{height}x{width}"


def numbers(value):
    """One number, or one per channel, for a message."""
    return f"({', '.join(f'{one:.6g}' for one in value)})" if isinstance(value, list) else f"{value:.6g}"


OWN_PREPROCESSING = ("SCALE,OFFSET", "mean=R,G,B,std=R,G,B")  # what the user may write instead of a name
PREPROCESSING_HELP = (
    "SCALE,OFFSET: pixel * SCALE + OFFSET; mean=R,G,B,std=R,G,B: (pixel / 255 - mean) / std, as in PyTorch, or "
    "(pixel - mean) / std where a number above 1 shows that they are of pixels of 0..255; one number is for all "
    "channels"
)


def parse_preprocessing(text):
    """The `scale`, `offset` and `bgr` of an InputSpec for what the user wrote after --preprocess.

    Raises:
        UserError: it is neither a key of PREPROCESSING nor one of OWN_PREPROCESSING.
    """
    if text in PREPROCESSING:
        return PREPROCESSING[text]
    try:
        if statistics := re.fullmatch("mean=(.+),std=(.+)", text):
            scale, offset = standardising(*(channel_numbers(part) for part in statistics.groups()), text)
        else:
            scale, offset = (channel_numbers(part) for part in text.split(","))
    except ValueError as error:
        known = ", ".join(PREPROCESSING)
        raise UserError(
            f"--preprocess {text} is unknown; expected {known}, or two numbers {' or '.join(OWN_PREPROCESSING)}"
        ) from error
    return {"scale": scale, "offset": offset, "bgr": False}


def channel_numbers(text):
    """One number, float, or one per channel of RGB, list; ValueError for everything else."""
    values = [float(part) for part in text.split(",")]
    if len(values) not in (1, 3) or not all(map(math.isfinite, values)):
        raise ValueError(f"{len(values)} numbers")
    return values if len(values) == 3 else values[0]


def standardising(mean, std, text):
    """Scale and offset, each a float or a list of three, of (pixel - mean) / std; see PREPROCESSING_HELP.

    Raises:
        UserError: the numbers are no mean and no standard deviation of pixels of 0..1, nor of 0..255.
    """
    several = isinstance(mean, list) or isinstance(std, list)
    mean, std = np.broadcast_arrays(np.atleast_1d(mean), np.atleast_1d(std))
    if std.min() <= 0:
        raise UserError(f"--preprocess {text} divides by {std.min():g}; expected standard deviations above 0")
    unit = 255 if max(mean.max(), std.max()) <= 1 else 1  # of pixels of 0..1 neither can be above 1
    least = 0 if unit == 255 else 1
    if std.min() < least or not ((mean == 0) | ((mean >= least) & (mean <= 255))).all():
        raise UserError(
            f"--preprocess {text} mixes numbers of several sizes; expected mean and standard deviation both of pixels "
            "of 0..1, as in PyTorch, or both of pixels of 0..255"
        )
    scale, offset = (1 / (unit * std)).tolist(), (0 - mean / std).tolist()
    return (scale, offset) if several else (scale[0], offset[0])


# ---------------------------------------------------------------- names out

PREDICTED = -1  # stands for the most probable class among class indices, -2 for the next, and so on
IMAGENET_FILE = ROOT / "data" / "imagenet_classes.txt"
# Indices of ImageNet's classes below WordNet's dog, domestic cat, horse and bird
IMAGENET_GROUPS = {
    "dog": [*range(151, 269)],
    "cat": [*range(281, 286)],
    "horse": [339],
    "bird": [*range(7, 25), *range(80, 101), *range(127, 147)],
}


def imagenet_names():
    """Names of ImageNet's 1000 classes (ILSVRC 2012) in the order of all networks of Keras."""
    return [line.split(" ", 1)[1] for line in IMAGENET_FILE.read_text().splitlines()]


def numbered_names(count):
    """What classes are called that nobody names."""
    return [f"class_{index}" for index in range(count)]


def read_class_names(given):
    """Class names from a text file, one a line.

    Args:
        given: Path of the file, or the names themselves.

    Raises:
        UserError: the file cannot be read, is empty, or repeats a name.
    """
    in_file = isinstance(given, (str, Path))
    option = f"--class-names {given}" if in_file else "class_names"
    try:
        lines = read_text(given).splitlines() if in_file else map(str, given)
    except (OSError, ValueError) as error:
        raise UserError(f"{option} cannot be read ({error}); expected a text file, one class a line") from error
    names = [line.strip() for line in lines if line.strip()]
    repeated = [name for name, count in Counter(name.casefold() for name in names).items() if count > 1]
    odd = [name for name in names if set(name) & SLASHES or not is_plain_name(name)]
    if odd or repeated or not names:
        found = f"names {odd[0][:40]!r}" if odd else f"repeats {repeated[0][:40]!r}" if repeated else "is empty"
        raise UserError(
            f"{option} {found}; expected one class a line, each once, up to {LONGEST_CLASS_NAME} bytes without slashes"
        )
    return names


def chosen_classes(wanted, class_names, groups=()):
    """Class indices, negative ones and groups among them, for what the user wrote after --classes.

    Args:
        wanted: list of str.
        class_names: list of C str.
        groups: names of groups of classes, numbered from C on.

    Returns:
        list of int: PREDICTED, and below it one for each of a photo's next most probable classes.
    """
    if wanted == ["all"]:
        return list(range(len(class_names)))
    count, known = len(class_names), [*class_names, *groups]
    indices = {str(index): [index] for index in range(count)} | {name: [index] for index, name in enumerate(known)}
    indices["predicted"] = [PREDICTED]
    found = []
    for name in wanted:
        top = re.fullmatch("top([1-9][0-9]{0,5})", name)
        if name in indices:
            found += indices[name]
        elif top and int(top[1]) <= count:
            found += range(PREDICTED, PREDICTED - int(top[1]), -1)
        else:
            some = ", ".join([*groups, *class_names][:10]) + (", ..." if len(known) > 10 else "")
            near = did_you_mean(name, ["predicted", "all", *known])
            named = "; --class-names FILE names them" if class_names == numbered_names(count) else ""
            raise UserError(
                f"--classes {name} is not a class{near} expected predicted, all, top1 to top{count}, an index below "
                f"{count}, or one of {some}{named}"
            )
    return list(dict.fromkeys(found))


def probabilities_of(logits, output_activation="softmax"):
    """What a network makes of its logits, float (N, C) -> (N, C).

    Args:
        logits: float (N, C).
        output_activation: "softmax" or "sigmoid"; "linear" where the network leaves it to us: softmax, or sigmoid of
            one output.
    """
    if output_activation == "sigmoid" or (output_activation == "linear" and logits.shape[1] == 1):
        return np.exp(-np.logaddexp(0, -logits.astype(np.float64)))  # 1 / (1 + exp(-logit)), without overflow
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)
