"""What a network's numbers mean: pixels in, class names and probabilities out. Does without Keras."""

import math
import os
import re
from collections import Counter
from dataclasses import dataclass, field
from numbers import Integral
from pathlib import Path

import numpy as np

from camlib.console import ROOT, UNPRINTABLE, UserError, did_you_mean
from camlib.files import read_text

# ---------------------------------------------------------------- pixels in

# How photos are brought to a network's size: name -> who resizes so
INTERPOLATIONS = {
    "area": "averages over areas where a photo shrinks, bilinear where it grows",
    "nearest": "load_img, flow_from_directory and tf.image.resize",
    "bilinear": "image_dataset_from_directory, tf.image.resize and cv2.resize",
    "bicubic": "tf.image.resize",
    "lanczos": "lanczos3 of tf.image.resize",
    "bilinear-antialiased": "Pillow, load_img and torchvision",
    "bicubic-antialiased": "Pillow, load_img and torchvision",
    "lanczos-antialiased": "Pillow, load_img and torchvision",
    "cubic": "cv2.resize with INTER_CUBIC",
}
FITS = {  # how a photo is brought to the proportions of a network's input -> by whom
    "whole": "stretched",
    "letterbox": "in the middle of black, as pad_to_aspect_ratio of Keras's Resizing",
    "crop": "the largest part in its middle, as crop_to_aspect_ratio and smart_resize",
    "crop:SHARE": "so much of that, as 0.875 of Resize(256) and CenterCrop(224) in torchvision",
}
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
LEAST_INPUT_SIDE, MOST_INPUT_SIDE = 8, 99_999  # pixels of a network's input; what fits into memory is seen later
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
        interpolation: a key of INTERPOLATIONS, how photos are resized.
        fit: a key of FITS, a number in the place of SHARE, how they are brought to its proportions before.
        bands: three int, counted from 1, which of more than three channels are shown as red, green and blue. Of such
            photos the network gets the numbers as they are in the file.
    """

    class_names: list
    height: int
    width: int
    channels: int
    scale: float | list = 1 / 255
    offset: float | list = 0.0
    interpolation: str = "area"
    bgr: bool = False
    fit: str = "whole"
    bands: list = field(default_factory=lambda: [1, 2, 3])

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
        order = {1: "grey", 3: "RGB"}.get(self.channels, f"{self.channels} bands") if not self.bgr else "BGR"
        resized = f", resized {self.interpolation}" if self.interpolation != "area" else ""
        if self.fit != "whole":
            resized = f", {self.fit}{resized}"
        if self.channels > 3:
            resized = f" (shown: {' '.join(map(str, self.bands))}){resized}"
        return f"{self.height}x{self.width} {order}{resized}, pixel * {numbers(self.scale)} + {numbers(self.offset)}"


LARGEST_FACTOR = 1e30  # of a pixel, float32
MOST_CHANNELS = 16  # of a photo
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
    for name, greatest in (("height", LARGEST_SIDE), ("width", LARGEST_SIDE), ("channels", MOST_CHANNELS)):
        value = getattr(input_spec, name)
        if type(value) is not int or not 1 <= value <= greatest or (name == "channels" and not are_channels(value)):
            raise ValueError(f"{name} {str(value)[:20]}; expected a whole number from 1 to {greatest}")
    for name in ("scale", "offset"):
        value = getattr(input_spec, name)
        values = value if isinstance(value, list) else [value] * input_spec.channels
        if len(values) != input_spec.channels or not all(
            type(one) in (int, float) and math.isfinite(one) and abs(one) <= LARGEST_FACTOR for one in values
        ):
            raise ValueError(f"{name} {str(value)[:20]}; expected a number, or one per channel")
    if type(input_spec.bgr) is not bool or input_spec.interpolation not in list(INTERPOLATIONS):
        expected = ", ".join(INTERPOLATIONS)
        raise ValueError(f"interpolation {str(input_spec.interpolation)[:20]}; expected {expected}, and bgr or not")
    fit_share(input_spec.fit)
    bands = input_spec.bands
    if type(bands) is not list or len(bands) != 3 or not set(bands) <= set(range(1, MOST_CHANNELS + 1)):
        raise ValueError(f"bands {str(bands)[:20]}; expected three numbers from 1 to {MOST_CHANNELS}")
    names = input_spec.class_names
    if type(names) is not list or not 1 <= len(names) <= MOST_CLASS_NAMES or len(set(names)) < len(names):
        raise ValueError("class names that are no list of different ones")
    for name in names:
        if not is_plain_name(name):
            raise ValueError(f"class name {name[:20]!r}; expected up to {LONGEST_CLASS_NAME} bytes of text")
    return input_spec


def are_channels(count):
    """Whether a network whose input has so many channels may take photos: grey, RGB or bands."""
    return count in (1, 3) or (count is not None and 3 < count <= MOST_CHANNELS)


def fit_share(fit):
    """The share of the largest part in a photo's middle that a fit takes, 0..1.

    Raises:
        ValueError: it is none of FITS.
    """
    if fit in ("whole", "letterbox", "crop"):
        return 1.0
    found = re.fullmatch(r"crop:(0?\.[0-9]{1,9}|1)", fit) if isinstance(fit, str) else None
    if not found or not float(found[1]):
        raise ValueError(f"fit {str(fit)[:20]}; expected {', '.join(FITS)}, as crop:0.875")
    return float(found[1])


# ---------------------------------------------------------------- what the numbers of a picture mean

DEPTHS = (8, 10, 12, 14, 16)  # bits that cameras and scanners keep in 16
LITTLE = 1e-3  # beyond 0..1, by rounding
LEAST_WHITE = 16  # of floats of 0..255: the largest of what a network is fed with, or of 0..1 sharpened, is below


def eight_bits(values):
    """Whole numbers of 8 to 16 bits as uint8: white is the largest number of the fewest bits that hold them all.

    Args:
        values: int (...), of 0..65535.

    Returns:
        (uint8 (...), bits): 8, 10, 12, 14 or 16.
    """
    largest = int(values.max(initial=0))
    in_steps = largest > 255 and not (values % 257).any()  # 8 bits, each doubled to fill 16
    bits = 16 if in_steps else next(bits for bits in DEPTHS if largest < 2**bits)
    white = 2**bits - 1
    return ((values.astype(np.int64) * 510 + white) // (2 * white)).astype(np.uint8), bits


def unit_of(arrays):
    """What the largest number of float pixels stands for: 255 for those of 0..1, and 1 for those of 0..255.

    Args:
        arrays: list of float arrays, of photos that belong together.

    Raises:
        ValueError: they are neither; the message says what was found.
    """
    expected = "expected photos of 0..255 or of 0..1, before what becomes of a pixel"
    if not all(np.isfinite(values).all() for values in arrays):
        raise ValueError(f"a number that is not finite; {expected}")
    ends = [(float(values.min(initial=np.inf)), float(values.max(initial=0))) for values in arrays]
    lowest, largest = min((low for low, _ in ends), default=0), max((high for _, high in ends), default=0)
    if lowest < -LITTLE or 1 + LITTLE < largest < LEAST_WHITE or largest > 255.5:
        raise ValueError(f"numbers of {lowest:.4g}..{largest:.4g}; {expected}")
    if largest > 1 + LITTLE and any(0 < high <= 1 + LITTLE for _, high in ends):
        raise ValueError(f"photos of 0..1 beside others of up to {largest:.4g}; expected all of one kind")
    return 1 if largest > 1 + LITTLE else 255


def pixels_of_array(given, channels):
    """The pixels of a photo that is an array, RGB: uint8 (H, W, 3), or floats whose range is not yet known.

    Args:
        given: array (H, W, 3) or (3, H, W), for a network of grey photos also (H, W) or with 1 channel; a fourth
            channel that is opaque is left out.
        channels: int, that the network takes.

    Raises:
        ValueError: it is no photo; the message says what was found.
    """
    values = np.asarray(given)
    if values.dtype.kind not in "uif":
        raise ValueError(
            f"a {type(given).__name__} of {values.dtype}; expected an array of numbers, a picture or a path"
        )
    if values.ndim == 2:
        values = values[..., None]
    if values.ndim == 3 and values.shape[2] not in (1, 3, 4) and values.shape[0] in (1, 3, 4):
        values = np.moveaxis(values, 0, 2)  # (H, W, channels) of (channels, H, W)
    if values.ndim == 3 and values.size and values.shape[2] == 4 and values[..., 3].min() == values[..., 3].max():
        values = values[..., :3]
    if values.ndim != 3 or values.shape[2] not in ((1, 3) if channels == 1 else (3,)) or not values.size:
        kinds = {1: ", grey", 4: ", of which the fourth channel may be transparency"}
        kind = kinds.get(values.shape[2], "") if values.ndim == 3 else ""
        expected = "(H, W, 3), RGB" if channels == 3 else "(H, W) or (H, W, 3)"
        raise ValueError(f"an array of shape {np.shape(given)}{kind}; expected {expected}")
    if values.dtype.kind in "ui" and values.dtype != np.uint8:
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(f"whole numbers of {values.min()}..{values.max()}; expected 0..255, or up to 65535")
        values, _ = eight_bits(values)
    return values if values.shape[2] == 3 else np.repeat(values, 3, axis=2)


def bands_of_array(given, channels):
    """The bands of a photo that is an array (H, W, channels) or (channels, H, W): float32 (H, W, channels).

    Raises:
        ValueError: it is none; the message says what was found.
    """
    values = np.asarray(given)
    if values.ndim == 3 and values.shape[2] != channels == values.shape[0]:
        values = np.moveaxis(values, 0, 2)
    if values.dtype.kind not in "uif" or values.ndim != 3 or values.shape[2] != channels or not values.size:
        raise ValueError(f"an array of shape {np.shape(given)}, {values.dtype}; expected numbers (H, W, {channels})")
    if not np.isfinite(values).all():
        raise ValueError("numbers that are not finite")
    return values.astype(np.float32)


def size_name(height, width):
    """A size as after --size."""
    return str(height) if height == width else f"{height}x{width}"


def parse_size(text):
    """(height, width) for what the user wrote after --size: "64" or "64x96".

    Raises:
        UserError: it is something else, below LEAST_INPUT_SIDE or above MOST_INPUT_SIDE.
    """
    sides = [int(side) if re.fullmatch("[0-9]{1,9}", side) else -1 for side in text.lower().split("x")]
    if len(sides) > 2 or not all(LEAST_INPUT_SIDE <= side <= MOST_INPUT_SIDE for side in sides):
        raise UserError(f"--size {text}: expected {LEAST_INPUT_SIDE} to {MOST_INPUT_SIDE:,} pixels, N or HEIGHTxWIDTH")
    return sides[0], sides[-1]


def numbers(value):
    """One number, or one per channel, for a message."""
    return f"({', '.join(f'{one:.6g}' for one in value)})" if isinstance(value, list) else f"{value:.6g}"


OWN_PREPROCESSING = ("[bgr,]SCALE,OFFSET", "[bgr,]mean=R,G,B,std=R,G,B")  # what the user may write instead of a name
PREPROCESSING_HELP = (
    "SCALE,OFFSET: pixel * SCALE + OFFSET; mean=R,G,B,std=R,G,B: (pixel / 255 - mean) / std, as in PyTorch, or "
    "(pixel - mean) / std where a number above 1 shows that they are of pixels of 0..255; one number is for all "
    "channels; bgr, before it: of pixels as cv2.imread has them, with the numbers in this order too"
)


def parse_preprocessing(text, of_bands=False):
    """The `scale`, `offset` and `bgr` of an InputSpec for what the user wrote after --preprocess.

    Args:
        text: str.
        of_bands: bool, photos have more than three channels, whose numbers are as they are in the file.

    Raises:
        UserError: it is neither a key of PREPROCESSING nor one of OWN_PREPROCESSING.
    """
    if text in PREPROCESSING:
        return PREPROCESSING[text]
    words = text.removeprefix("bgr,")
    if words in PREPROCESSING and not isinstance(PREPROCESSING[words]["offset"], list):
        return PREPROCESSING[words] | {"bgr": True}
    try:
        if statistics := re.fullmatch("mean=(.+),std=(.+)", words):
            mean, std = (channel_numbers(part) for part in statistics.groups())
            scale, offset = standardising(mean, std, text, of_bands)
        else:
            scale, offset = (channel_numbers(part) for part in words.split(","))
    except ValueError as error:
        known = ", ".join(PREPROCESSING)
        raise UserError(
            f"--preprocess {text} is unknown; expected {known}, or two numbers {' or '.join(OWN_PREPROCESSING)}"
        ) from error
    return {"scale": scale, "offset": offset, "bgr": words != text}


def channel_numbers(text):
    """One number, float, or one per channel of RGB or of bands, list; ValueError for everything else."""
    values = [float(part) for part in text.split(",")]
    if not are_channels(len(values)) or not all(map(math.isfinite, values)):
        raise ValueError(f"{len(values)} numbers")
    return values if len(values) > 1 else values[0]


def standardising(mean, std, text, of_bands=False):
    """Scale and offset, each a float or a list, of (pixel - mean) / std; see PREPROCESSING_HELP.

    Args:
        mean, std: float or list.
        text: str, what the user wrote.
        of_bands: bool, they are of the numbers in the file, whatever these are.

    Raises:
        UserError: the numbers are no mean and no standard deviation of pixels of 0..1, nor of 0..255.
    """
    several = isinstance(mean, list) or isinstance(std, list)
    mean, std = np.broadcast_arrays(np.atleast_1d(mean), np.atleast_1d(std))
    if std.min() <= 0:
        raise UserError(f"--preprocess {text} divides by {std.min():g}; expected standard deviations above 0")
    unit = 255 if not of_bands and max(mean.max(), std.max()) <= 1 else 1  # of pixels of 0..1 neither can be above 1
    least = 0 if unit == 255 else 1
    if not of_bands and (std.min() < least or not ((mean == 0) | ((mean >= least) & (mean <= 255))).all()):
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
        lines = read_text(given, MOST_CLASS_NAMES * LONGEST_CLASS_NAME).splitlines() if in_file else map(str, given)
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


def listed(classes):
    """Classes as a list, one name or index as a list of one; what is an array, as its values."""
    values = np.asarray(classes).tolist() if hasattr(classes, "__array__") else classes
    return list(values) if isinstance(values, (list, tuple)) else [values]


def chosen_classes(wanted, class_names, groups=()):
    """Class indices, negative ones and groups among them, for what the user wrote after --classes.

    Args:
        wanted: list of str, or of int, which are indices whatever the classes' names.
        class_names: list of C str.
        groups: names of groups of classes, numbered from C on.

    Returns:
        list of int: PREDICTED, and below it one for each of a photo's next most probable classes.

    Raises:
        UserError: one of them is no class, or there is none.
    """
    if wanted == ["all"]:
        return list(range(len(class_names)))
    count, known = len(class_names), [*class_names, *groups]
    indices = {str(index): [index] for index in range(count)} | {name: [index] for index, name in enumerate(known)}
    indices |= {"predicted": [PREDICTED]} | {index: [index] for index in range(count)}
    if not wanted:
        raise UserError("classes is empty; expected names or indices, or predicted")
    found = []
    for name in wanted:
        if isinstance(name, bool) or not isinstance(name, (str, Integral)):
            raise UserError(f"classes has {name!r}, a {type(name).__name__}; expected names or whole numbers")
        top = re.fullmatch("top([1-9][0-9]{0,5})", str(name))
        if name in indices:
            found += indices[name]
        elif top and int(top[1]) <= count:
            found += range(PREDICTED, PREDICTED - int(top[1]), -1)
        else:
            some = ", ".join([*groups, *class_names][:10]) + (", ..." if len(known) > 10 else "")
            near = did_you_mean(str(name), ["predicted", "all", *known])
            named = "; --class-names FILE names them" if class_names == numbered_names(count) else ""
            raise UserError(
                f"--classes {name} is not a class{near} expected predicted, all, top1 to top{count}, an index below "
                f"{count}, or one of {some}{named}"
            )
    return list(dict.fromkeys(found))


def classes_of_photos(labels, count, class_names, groups=()):
    """Class indices of each photo: int32 (R, N).

    Args:
        labels: R rows of N names or indices, as for `chosen_classes`, one for each photo.
        count: int, N.
        class_names, groups: as for `chosen_classes`.

    Raises:
        UserError: one is no class, or stands for several; or there is not one for each photo.
    """
    rows = [[chosen_classes([label], class_names, groups) for label in listed(row)] for row in listed(labels)]
    lengths = {len(row) for row in rows}
    if lengths != {count} or any(len(label) != 1 for row in rows for label in row):
        found = " or ".join(map(str, sorted(lengths)))
        raise UserError(
            f"classes has rows of {found} labels for {count} photos; expected one class for each photo in every row, "
            "or no rows: a list of classes, each of them explained for all photos"
        )
    return np.array(rows, np.int32)[..., 0]


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
