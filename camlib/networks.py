"""The networks, and the .h5 files that carry them together with what they mean.

Network code uses `keras` only, so that it runs on every backend.
"""

import hashlib
import json
import os
import zipfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import h5py
import keras
import numpy as np
from keras import layers

from camlib.console import UserError, first_line
from camlib.photos import ORIGINAL_CLASSES

# ---------------------------------------------------------------- architectures


def original_network(class_count, channels=1):
    """The original's five convolutions without pooling (2019): 16 to 256 filters, 3x3, 'same', ReLU.

    Any input size; the last features have the input's size. (N, H, W, channels) -> (N, class_count), softmax.
    """
    image = x = keras.Input((None, None, channels))
    for filters in (16, 32, 64, 128, 256):
        x = layers.Conv2D(filters, 3, padding="same", activation="relu")(x)  # (N, H, W, filters)
    x = layers.GlobalAveragePooling2D(name="gap")(x)  # (N, 256)
    return keras.Model(image, layers.Dense(class_count, activation="softmax", name="class")(x), name="original")


# (filters, dilation) of each 3x3 convolution. The dilations add up to a view of 43 pixels: wide enough for a head or a
# body at 96x96, narrow enough that the evidence stays where the animal is. No dilation is smaller than the one before
# it, which is what training on a grid needs.
MODERN_CONVOLUTIONS = ((32, 1), (48, 2), (64, 2), (96, 4), (96, 4), (96, 4), (96, 4))


def modern_network(class_count, channels=3, for_training=False):
    """Seven pooling-free 3x3 'same' convolutions with dilation, batch normalisation and residual sums.

    Any input size; the last features have the input's size and follow a ReLU.

    Args:
        class_count: int.
        channels: int.
        for_training: bool, build the form that is trained; `fold` copies its weights into the plain one. It differs
            three times. It computes the features at every fourth pixel only, in a sixth of the time: a convolution of
            dilation d reads pixels d apart, so on the grid of every d-th pixel it is a plain convolution with the same
            weights (the a trous algorithm, Holschneider et al. 1989), and the mean over the grid stands for the mean
            over all. And it normalises the pooled features over the batch: the mean of a feature over thousands of
            pixels differs little from photo to photo, and is learnt from many times faster once normalised. And it
            does without `across_grids`, which changes the mean at the photo's border only.

    Returns:
        keras.Model, (N, H, W, channels) -> (N, class_count), softmax.
    """
    image = x = keras.Input((None, None, channels))
    dilations = [dilation for _, dilation in MODERN_CONVOLUTIONS]
    for (filters, dilation), following in zip(MODERN_CONVOLUTIONS, [*dilations[1:], dilations[-1]], strict=True):
        steps = {"strides": following // dilation} if for_training else {"dilation_rate": dilation}
        y = layers.Conv2D(filters, 3, padding="same", use_bias=False, **steps)(x)
        y = layers.BatchNormalization(momentum=0.9)(y)
        x = layers.ReLU()(layers.Add()([x, y]) if x.shape[-1] == filters else y)  # (N, H, W, filters)
    x = x if for_training else across_grids(x, dilations[-1])
    x = layers.GlobalAveragePooling2D(keepdims=for_training, name="gap")(x)  # (N, 96), for training (N, 1, 1, 96)
    if for_training:
        x = layers.BatchNormalization(momentum=0.9, name="class_bn")(x)
    x = layers.Dense(class_count, name="class")(x)
    # float32, whatever the rest runs in: a softmax in half precision loses small probabilities
    x = layers.Softmax(dtype="float32", name="probability")(x)
    return keras.Model(image, layers.Flatten()(x) if for_training else x, name="modern")


def across_grids(x, period):
    """Smooth features across the grids that dilated convolutions leave apart (gridding, Yu et al. 2017, figure 4).

    With dilation d a pixel is computed from the pixels d apart alone, so that d x d grids lie in each other and differ
    where they should not. A mean over d pixels, twice along each axis, is zero at the grids' frequencies; it is fixed,
    linear and keeps the size.

    Args:
        x: features (N, H, W, K).
        period: int, d.

    Returns:
        Features (N, H, W, K).
    """
    kernel = np.convolve(np.ones(period), np.ones(period)) / period**2  # a triangle of 2 d - 1 pixels
    for name, shape in (("across_rows", (len(kernel), 1)), ("across_columns", (1, len(kernel)))):
        smooth = layers.DepthwiseConv2D(shape, padding="same", use_bias=False, trainable=False, name=name)
        x = smooth(x)
        smooth.set_weights([np.broadcast_to(kernel.reshape(*shape, 1, 1), smooth.weights[0].shape)])
    return x


VGG16_BLOCKS = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))  # (convolutions, filters) before each 2x2 pooling


def vgg16_network(class_count, channels=3, for_training=False):
    """VGG-16's thirteen convolutions (Simonyan and Zisserman 2015), then GAP, a hidden Dense layer and the classes.

    The hidden layer makes the score a nonlinear function of the features: CAM does not apply, Grad-CAM does. Layers
    are named as in Keras, block1_conv1 to block5_pool. Any input size from 32 up.

    Args:
        class_count: int.
        channels: int.
        for_training: bool, build the form that is trained from scratch, with batch normalisation between each
            convolution and its ReLU; `fold` turns it into the plain network.

    Returns:
        keras.Model, (N, H, W, channels) -> (N, class_count), softmax.
    """
    image = x = keras.Input((None, None, channels))
    for block, (count, filters) in enumerate(VGG16_BLOCKS, start=1):
        for number in range(1, count + 1):
            name = f"block{block}_conv{number}"
            if for_training:
                x = layers.Conv2D(filters, 3, padding="same", use_bias=False, name=name)(x)
                x = layers.ReLU(name=f"{name}_relu")(layers.BatchNormalization(momentum=0.9, name=f"{name}_bn")(x))
            else:
                x = layers.Conv2D(filters, 3, padding="same", activation="relu", name=name)(x)
        x = layers.MaxPooling2D(name=f"block{block}_pool")(x)  # (N, H / 2^block, W / 2^block, filters)
    x = layers.GlobalAveragePooling2D(name="gap")(x)  # (N, 512)
    x = layers.Dense(256, activation="relu", name="hidden")(x)
    x = layers.Dense(class_count, name="class")(x)
    return keras.Model(image, layers.Softmax(dtype="float32", name="probability")(x), name="vgg16")


def fold(network, plain):
    """Copy the weights of a network's training form into the plain form, which does without the `<layer>_bn` layers.

    With s = gamma / sqrt(variance + epsilon) and t = beta - mean * s, behind a convolution: kernel' = kernel * s and
    bias' = t; in front of a Dense layer: kernel' = s * kernel and bias' = bias + t kernel.

    Args:
        network: keras.Model built with `for_training=True`.
        plain: keras.Model built without; its weights are overwritten.

    Returns:
        `plain`.
    """
    names = {layer.name for layer in network.layers}
    kinds = (layers.Conv2D, layers.BatchNormalization, layers.Dense)
    sources = [layer for layer in network.layers if isinstance(layer, kinds) and layer.name[-3:] != "_bn"]
    targets = [layer for layer in plain.layers if isinstance(layer, kinds)]
    for source, target in zip(sources, targets, strict=True):
        weights = source.get_weights()
        if f"{source.name}_bn" in names:
            norm = network.get_layer(f"{source.name}_bn")
            gamma, beta, mean, variance = norm.get_weights()
            scale = gamma / np.sqrt(variance + norm.epsilon)
            shift = beta - mean * scale
            if isinstance(source, layers.Dense):
                weights = [scale[:, None] * weights[0], weights[1] + shift @ weights[0]]
            else:
                weights = [weights[0] * scale, shift]
        target.set_weights(weights)
    return plain


def start_from(network, source, images):
    """Copy the convolutions of an earlier network, so that training goes on from what they see.

    The layers behind the global pooling start anew. Where `network` has batch normalisation behind a convolution and
    `source` has none, mean and variance of the convolution's outputs on `images` become the normalisation's statistics
    and its gamma and beta: it then changes nothing at first.

    Args:
        network: keras.Model to be trained; its weights are overwritten.
        source: keras.Model with the same convolutions in the same order.
        images: float32 (N, H, W, channels), a sample of photos, prepared for `source`.

    Raises:
        UserError: the convolutions differ.
    """
    names = {layer.name for layer in network.layers}
    targets, sources = (
        [layer for layer in one._flatten_layers() if isinstance(layer, (layers.Conv2D, layers.BatchNormalization))]
        for one in (network, source)
    )
    targets = [layer for layer in targets if layer.name[-3:] != "_bn"]
    found, expected = ([tuple(layer.weights[0].shape) for layer in one] for one in (sources, targets))
    if found != expected:
        raise UserError(
            f"the network {source.name!r} to start from has convolutions of other shapes than {network.name!r}; "
            "expected the same ones"
        )
    for target, origin in zip(targets, sources, strict=True):
        weights = origin.get_weights()
        target.set_weights(weights[: len(target.weights)])  # without the bias in front of a normalisation
        if f"{target.name}_bn" in names:
            norm = network.get_layer(f"{target.name}_bn")
            mean, variance = channel_statistics(keras.Model(network.inputs[0], target.output), images)
            norm.set_weights([np.sqrt(variance + norm.epsilon), mean + weights[1], mean, variance])


def channel_statistics(network, images, batch_size=16):
    """Mean and variance (K,) of each channel of a network's output (N, h, w, K)."""
    starts = range(0, len(images), batch_size)
    outputs = (keras.ops.convert_to_numpy(network(images[start : start + batch_size])) for start in starts)
    sums = sum(np.stack(((values := output.astype(np.float64)).mean((1, 2)), (values**2).mean((1, 2)))).sum(1)
               for output in outputs)  # fmt: skip
    mean, square = sums / len(images)
    return mean, square - mean**2


def imagenet_vgg16(weights="imagenet"):
    """Keras's VGG-16 with its weights of ImageNet, and their meaning.

    Args:
        weights: str or Path; "imagenet" downloads 553 MB once, a path is Keras's file of that name.

    Raises:
        UserError: the download failed; the message says how to get the file otherwise.
    """
    try:
        network = keras.applications.VGG16(weights=str(weights))
    except Exception as error:  # a refused connection, a proxy's page, a checksum: urllib and Keras raise various ones
        raise UserError(
            f"the ImageNet weights could not be had ({first_line(error)}); with a connection Keras downloads "
            "vgg16_weights_tf_dim_ordering_tf_kernels.h5 once; without, bring that file and give --weights FILE"
        ) from error
    return network, Meaning(imagenet_names(), 224, 224, 3, **PREPROCESSING["vgg"])


# ---------------------------------------------------------------- files


# What a pixel becomes, by the names that Keras's applications use; torch: mean and standard deviation of ImageNet
PREPROCESSING = {
    "none": {"scale": 1.0, "offset": 0.0, "bgr": False},
    "tf": {"scale": 1 / 127.5, "offset": -1.0, "bgr": False},
    "torch": {"scale": [1 / (255 * 0.229), 1 / (255 * 0.224), 1 / (255 * 0.225)],
              "offset": [-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225], "bgr": False},
    "caffe": {"scale": 1.0, "offset": [-103.939, -116.779, -123.68], "bgr": True},
}  # fmt: skip
PREPROCESSING["vgg"] = PREPROCESSING["caffe"]


@dataclass(frozen=True)
class Meaning:
    """What a network's numbers mean; it travels as HDF5 attributes in the .h5 file.

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
            if not isinstance(name, str) or not name or set(name) & set("/\\\0"):
                raise ValueError(f"class name {name!r}; expected text without slashes")

    def prepare(self, images):
        """Turn uint8 (N, H, W, C), RGB or grey, into the network's float32 input."""
        images = images[..., ::-1] if self.bgr else images
        return images.astype(np.float32) * np.float32(self.scale) + np.float32(self.offset)

    @property
    def preprocessing(self):
        """What `prepare` does, in words."""
        order = {1: "grey", 3: "RGB"}.get(self.channels, f"{self.channels} channels") if not self.bgr else "BGR"
        return f"{self.height}x{self.width} {order}, pixel * {numbers(self.scale)} + {numbers(self.offset)}"


def numbers(value):
    """One number, or one per channel, for a message."""
    return f"({', '.join(f'{one:.6g}' for one in value)})" if isinstance(value, list) else f"{value:.6g}"


def parse_preprocessing(text):
    """The `scale`, `offset` and `bgr` of a Meaning for what the user wrote after --preprocess.

    Raises:
        UserError: it is neither a key of PREPROCESSING nor two numbers.
    """
    if text in PREPROCESSING:
        return PREPROCESSING[text]
    try:
        scale, offset = map(float, text.split(","))
    except ValueError as error:
        known = ", ".join(PREPROCESSING)
        raise UserError(f"--preprocess {text} is unknown; expected {known}, or two numbers SCALE,OFFSET") from error
    return {"scale": scale, "offset": offset, "bgr": False}


IMAGENET_FILE = Path(__file__).parent.parent / "data" / "imagenet_classes.txt"
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


def read_class_names(path):
    """Class names from a text file, one a line.

    Raises:
        UserError: the file cannot be read, is empty, or repeats a name.
    """
    try:
        names = [line.strip() for line in path.read_text("utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"--class-names {path} cannot be read ({error}); expected a text file, one class a line"
        ) from error
    repeated = [name for name, count in Counter(name.casefold() for name in names).items() if count > 1]
    slashes = [name for name in names if set(name) & set("/\\\0")]
    if slashes:
        raise UserError(
            f"--class-names {path} names {slashes[0]!r}; expected names without slashes, since they become files"
        )
    if not names or repeated:
        found = f"repeats {repeated[0]!r}" if names else "is empty"
        raise UserError(f"--class-names {path} {found}; expected one class a line, each once")
    return names


def input_shape_of(network, meaning, size=None):
    """(H, W, channels) of the photos to feed a network.

    Args:
        network: keras.Model with one input.
        meaning: Meaning or None.
        size: int or None, the height and width that the user asked for.

    Raises:
        UserError: the network takes no photos, its size is open and nobody names one, or is not the one asked for.
    """
    shape = getattr(network, "input_shape", None)
    if not isinstance(shape, tuple) or len(shape) != 4 or shape[3] not in (1, 3):
        raise UserError(f"the network {network.name!r} takes {shape}; expected one input of photos, (N, H, W, 1 or 3)")
    own = (meaning.height, meaning.width) if meaning else (None, None)
    height, width = (fixed or size or trained for fixed, trained in zip(shape[1:3], own, strict=True))
    if height is None or width is None:
        raise UserError(
            f"the network {network.name!r} takes photos of any size and its file names none; expected --size N"
        )
    if size and (height, width) != (size, size):
        raise UserError(f"--size {size}: the network {network.name!r} takes {height}x{width} only")
    return height, width, shape[3]


def set_dtype(network, dtype):
    """Let a network compute in another dtype; its weights stay float32.

    Args:
        network: keras.Model.
        dtype: "float32", "bfloat16" or "float16".
    """
    policy = dtype if dtype == "float32" else f"mixed_{dtype}"
    for layer in [network, *network._flatten_layers(include_self=False)]:
        if not isinstance(layer, layers.Softmax):  # in half precision it would lose small probabilities
            layer.dtype_policy = policy


# Grey values 0..255 and OpenCV's bicubic: what the original's weights score best with.
ORIGINAL_MEANING = Meaning(list(ORIGINAL_CLASSES), 64, 64, 1, scale=1.0, interpolation="cubic")
MEANING_ATTRIBUTE = "meaning"
# Layers of Keras that run code or open files named in the configuration.
UNSAFE_LAYERS = {"Lambda", "TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer", "__lambda__", "function"}


def save_network(network, path, meaning, half=False):
    """Write a network, its weights and its meaning to one .h5 file, under its name only when whole.

    The file is Keras's own HDF5 format; `keras.models.load_model` reads it too.

    Args:
        network: keras.Model.
        path: Path ending in .h5; ending in .weights.h5 it gets Keras's weights-only format.
        meaning: Meaning.
        half: bool, store the weights as float16, half the size.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    weights_only = path.name.endswith(".weights.h5")
    partial = path.with_name(f"partial_{path.name}")  # Keras goes by the end of the name
    if weights_only:
        network.save_weights(partial, overwrite=True)
    else:
        network.save(partial, overwrite=True, include_optimizer=False)
    with h5py.File(partial, "r+") as file:
        file.attrs[MEANING_ATTRIBUTE] = json.dumps(vars(meaning))
        if weights_only:
            config = {"class_name": type(network).__name__, "config": network.get_config()}
            file.attrs["model_config"] = json.dumps(config)
    if half:
        copy_as_float16(partial)
    os.replace(partial, path)


def copy_as_float16(path):
    """Rewrite an HDF5 file with its float32 arrays as float16; a new file, since HDF5 does not give space back."""
    halved = path.with_name(f"half_{path.name}")
    with h5py.File(path, "r") as source, h5py.File(halved, "w") as target:
        target.attrs.update(source.attrs)

        def copy(name, item):
            if isinstance(item, h5py.Dataset):
                target[name] = item[()].astype(np.float16) if item.dtype == np.float32 else item[()]
            else:
                target.require_group(name)
            target[name].attrs.update(item.attrs)

        source.visititems(copy)
    os.replace(halved, path)


def load_network(path, trust=False):
    """Rebuild a network from a file: ours, any .keras or .h5, the original's of TensorFlow 2.0 or its weights only.

    The file is treated as data from a stranger: only Keras's own layer classes are rebuilt and no code in it is run.
    The spatial input size is left open where the network allows it.

    Args:
        path: Path of an HDF5 or .keras file.
        trust: bool, hand the file to `keras.models.load_model` with its safety off.

    Returns:
        (keras.Model, Meaning or None): None for a file that does not say what it means.

    Raises:
        UserError: the file is missing, of another kind, holds layers that run code, or does not describe a network.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist; expected a .h5 file as written by train_cam_4class.py")
    if zipfile.is_zipfile(path):
        return load_keras_archive(path, trust), None
    if not h5py.is_hdf5(path):
        raise UserError(f"{path} is neither an HDF5 nor a .keras file; expected one, as train_cam_4class.py writes it")
    with h5py.File(path, "r") as file:
        try:
            config = json.loads(file.attrs.get("model_config", "null"))
            meaning = json.loads(file.attrs.get(MEANING_ATTRIBUTE, "null"))
            meaning = meaning and Meaning(**meaning)
        except (TypeError, ValueError) as error:
            raise UserError(f"{path}: its description of the network cannot be read ({error})") from error
        shapes, names = weight_shapes(file), list(file)
    if trust and config is not None:
        return rebuilt_by_keras(path, safe=False), meaning
    if config is None and any("block5_conv3" in name for name in names):
        return imagenet_vgg16(path)
    is_original = shapes == sorted(tuple(weight.shape) for weight in original_network(4).weights)
    meaning = meaning or (ORIGINAL_MEANING if is_original else None)
    # a file that does not say which size it was trained with keeps the size that its network has
    network = (
        original_network(4) if config is None else network_from_config(config, path, open_size=meaning is not None)
    )
    if config is None and not is_original:
        raise UserError(
            f"{path} holds weights alone, of a network unknown here; expected the original's, or a file with its "
            "network's configuration as train_cam_4class.py writes it"
        )
    try:
        network.load_weights(path)
    except Exception as error:  # Keras raises various classes for arrays that are missing or of another shape
        raise UserError(f"{path}: its weights do not fit its network ({first_line(error)})") from error
    if meaning and len(meaning.class_names) != network.output_shape[-1]:
        raise UserError(
            f"{path} names {len(meaning.class_names)} classes for {network.output_shape[-1]} outputs; expected one each"
        )
    return network, meaning


def rebuilt_by_keras(path, safe):
    """The network of a file as Keras's own loader makes it; unsafe, it may run code from the file.

    Raises:
        UserError: Keras does not know a layer, or the weights do not fit.
    """
    try:
        return keras.models.load_model(path, compile=False, safe_mode=safe)
    except Exception as error:  # Keras raises various classes
        raise UserError(f"{path}: Keras cannot rebuild its network ({first_line(error)})") from error


def load_keras_archive(path, trust):
    """The network of a .keras file, a zip of its configuration and its weights.

    Raises:
        UserError: as `load_network`.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            config = json.loads(archive.read("config.json"))
    except (KeyError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is an archive without a network ({error}); expected a .h5 or .keras file") from error
    if not trust:
        refuse_unsafe(config, path)
    return rebuilt_by_keras(path, safe=not trust)


def weight_shapes(file):
    """Sorted shapes of a file's weights, without those of an optimizer."""
    shapes = []

    def visit(name, item):
        if isinstance(item, h5py.Dataset) and "optimizer" not in name:
            shapes.append(tuple(item.shape))

    file.visititems(visit)
    return sorted(shapes)


def network_from_config(config, path, open_size):
    """Build the network that a file describes, after checking that this runs none of the file's code."""
    refuse_unsafe(config, path)
    try:
        config = with_input_layer(without_training_entries(config))
        config = open_input_size(config) if open_size else config
        if config["class_name"] != "Sequential":
            return keras.Model.from_config(config["config"])
        return functional(keras.Sequential.from_config(config["config"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: Keras cannot rebuild its network ({first_line(error)})") from error


def functional(stack):
    """A Sequential network as a functional one, so that each layer knows its one input and output."""
    image = x = keras.Input(stack.input_shape[1:])
    for layer in stack.layers:
        x = type(layer).from_config(layer.get_config())(x)
    return keras.Model(image, x, name=stack.name)


def refuse_unsafe(entry, path):
    """Raise UserError for any class in a configuration that is not Keras's own, or that runs code (CVE-2025-9905)."""
    if isinstance(entry, dict):
        name, module = entry.get("class_name"), str(entry.get("module") or "keras")
        if name in UNSAFE_LAYERS or module.split(".")[0] != "keras" or ">" in (entry.get("registered_name") or ""):
            raise UserError(
                f"{path} holds the layer or function {name!r} ({module}), which may run code; expected Keras's own "
                "layers only. If you trust whoever made the file, use --trust-model"
            )
    for value in entry.values() if isinstance(entry, dict) else entry if isinstance(entry, list) else ():
        refuse_unsafe(value, path)


def without_training_entries(entry):
    """A configuration without initializers, regularizers and constraints.

    They matter to training only, and those of TensorFlow 2.0 are what current Keras cannot read.
    """
    if isinstance(entry, dict):
        endings = ("_initializer", "_regularizer", "_constraint")
        return {key: without_training_entries(value) for key, value in entry.items() if not key.endswith(endings)}
    return [without_training_entries(value) for value in entry] if isinstance(entry, list) else entry


def with_input_layer(config):
    """Give a Sequential network of Keras 2 the input layer that Keras 3 expects instead of `batch_input_shape`."""
    stack = config["config"]["layers"]
    shape = stack[0]["config"].pop("batch_input_shape", None)
    if shape and stack[0]["class_name"] == "InputLayer":
        stack[0]["config"]["batch_shape"] = shape
    elif shape:
        stack.insert(0, {"class_name": "InputLayer", "config": {"batch_shape": shape, "name": "image"}})
    return config


def open_input_size(config):
    """Let the input have any height and width, where a global pooling makes the rest independent of them."""
    kinds = {layer["class_name"] for layer in config["config"]["layers"]}
    is_plain = kinds.isdisjoint(("Flatten", "Reshape", "Normalization", "Functional", "Model", "Sequential"))
    if is_plain and any(kind.startswith("Global") for kind in kinds):
        for layer in config["config"]["layers"]:
            if layer["class_name"] == "InputLayer" and len(layer["config"]["batch_shape"]) == 4:
                layer["config"]["batch_shape"][1:3] = [None, None]
    return config


def file_sha256(path):
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
