"""Model files: saving a network together with what it means, and loading one as data from a stranger."""

import json
import os
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np

from camlib.applications import IMAGENET, application_named, application_of_file, load_application, unknown_network
from camlib.backend import usual_settings
from camlib.class_folders import ORIGINAL_CLASSES
from camlib.console import UserError, first_line
from camlib.files import file_sha256
from camlib.meaning import Meaning
from camlib.networks import original_network

MODELS = Path(__file__).parent.parent / "models"
GAP_NETWORK, VGG_NETWORK = MODELS / "cam_4class.h5", MODELS / "vgg16_4class.h5"  # the networks shipped

# Grey values 0..255 and OpenCV's bicubic: what the original's weights score best with.
ORIGINAL_MEANING = Meaning(list(ORIGINAL_CLASSES), 64, 64, 1, scale=1.0, interpolation="cubic")
MEANING_ATTRIBUTE = "meaning"
# Layers of Keras that run code or open files named in the configuration.
UNSAFE_LAYERS = {"Lambda", "TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer", "__lambda__", "function"}


# ---------------------------------------------------------------- saving


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


# ---------------------------------------------------------------- loading, as data from a stranger


def identity_of(source):
    """What tells a network from others in run.json: its file's SHA-256, or its name in Keras."""
    name = application_named(str(source))
    return f"keras {IMAGENET if name == 'VGG16' else name}" if name else file_sha256(source)


@usual_settings()
def load_network(source, trust=False):
    """Rebuild a network from a file: ours, any .keras or .h5, the original's of TensorFlow 2.0 or its weights only.

    A name of keras.applications is that network with Keras's weights of ImageNet. A file is treated as data from a
    stranger: only Keras's own layer classes are rebuilt and no code in it is run.
    The spatial input size is left open where the network allows it.

    Args:
        source: Path of an HDF5 or .keras file, or a name of keras.applications; "imagenet" is VGG-16.
        trust: bool, hand the file to `keras.models.load_model` with its safety off.

    Returns:
        (keras.Model, Meaning or None): None for a file that does not say what it means.

    Raises:
        UserError: the file is missing, of another kind, holds layers that run code, or does not describe a network.
    """
    if name := application_named(str(source)):
        return load_application(name)
    path = Path(source)
    if not path.is_file():
        raise unknown_network(path)
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
    if config is None and (name := application_of_file(path, names)):
        return load_application(name, path)
    is_original = shapes == sorted(tuple(weight.shape) for weight in original_network(4).weights)
    meaning = meaning or (ORIGINAL_MEANING if is_original else None)
    # a file that does not say which size it was trained with keeps the size that its network has
    network = (
        original_network(4) if config is None else network_from_config(config, path, open_size=meaning is not None)
    )
    if config is None and not is_original:
        raise UserError(
            f"{path} holds weights alone, of a network unknown here; expected the original's, a file by the name that "
            "Keras gives it (resnet50v2_weights_tf_dim_ordering_tf_kernels.h5), or one with its network's configuration"
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
    image = x = keras.Input(stack.input_shape[1:], dtype=stack.inputs[0].dtype)
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
