"""Model files: a network loaded, as data from a stranger, or saved, together with what its numbers mean."""

import contextlib
import io
import json
import warnings
from pathlib import Path

import h5py
import keras
import numpy as np
from keras import ops
from keras.src.legacy.saving.legacy_h5_format import save_model_to_hdf5
from keras.src.saving import saving_lib

from camlib.backend import usual_settings
from camlib.console import UserError, first_line, shown_path, shown_shape
from camlib.files import read_text, write_whole
from camlib.networks import application_named
from camlib.networks.allowlist import DO_NOT_FIT, give_memory, parsed, refuse_many_calls, refuse_unsafe, without_memory
from camlib.networks.applications import application_of_file, load_application
from camlib.networks.architectures import original_network
from camlib.networks.keras2_config import network_inputs, up_to_date
from camlib.networks.keras2_operations import Refused
from camlib.networks.keras2_weights import load_weights
from camlib.networks.reader import MODEL_EXPECTED, read_contents
from camlib.preprocessing import ORIGINAL_CLASSES, InputSpec, are_channels, checked_input_spec

# Grey values 0..255 and OpenCV's bicubic: what the original's weights score best with.
ORIGINAL_INPUT_SPEC = InputSpec(list(ORIGINAL_CLASSES), 64, 64, 1, scale=1.0, interpolation="cubic")
INPUT_SPEC_ATTRIBUTE = "meaning"  # as files that exist already call it

# ---------------------------------------------------------------- loading, as data from a stranger


@usual_settings()
def load_network(source, trust=False, architecture=None, largest=None):
    """Rebuild a network from a file: ours, any .keras or .h5 of Keras 2 or 3, or weights alone with an architecture.

    A name of keras.applications is that network with Keras's weights of ImageNet. The content decides what a file is,
    not its name. A file is data from a stranger. It is read in a process of its own (reader.py). Only what allowlist.py
    lists is rebuilt, and none of its code is run. What it describes takes no memory before that is compared with what
    it holds. What earlier versions wrote otherwise is brought up to date (keras2_config.py); the file is not changed.
    The spatial input size is left open where the file says which size it was trained with and the network allows it.

    Args:
        source: Path of a file, or a name of keras.applications; "imagenet" is VGG-16.
        trust: bool, let the file run code: rebuild layers that hold some.
        architecture: Path of what `model.to_json()` wrote, for a file of weights alone, or None.
        largest: float, GB of file at most; default: LARGEST_MODEL of `camlib.files`.

    Returns:
        (keras.Model, InputSpec or None): None for a file that does not say what it means.

    Raises:
        UserError: the file is missing, of another kind, holds layers that run code, or does not describe a network of
            photos.
    """
    if name := application_named(str(source)):
        return load_application(name)
    path = Path(source)
    contents = read_contents(path, largest)
    config, input_spec = describe_contents(contents, path)
    if config and architecture:
        raise UserError(f"{shown_path(path)} describes its network itself; expected no --architecture")
    with named_refusals(path):
        if contents.weights_refused:
            found = "its weights cannot be read" if config else "it is no file of Keras's"
            raise Refused(f"{found} ({first_line(contents.weights_refused)}); {MODEL_EXPECTED}")
    if config is None and not architecture and (name := application_of_file(path, contents.names)):
        with contents.as_hdf5(path.name if path.name.endswith(".h5") else "network.h5") as weights:
            return load_application(name, path, weights)
    if input_spec is None and holds_original(contents):
        input_spec = ORIGINAL_INPUT_SPEC
        config = config or json.loads(original_network(4).to_json())
    config = read_architecture(architecture) if architecture else config
    if config is None:
        raise UserError(
            f"{shown_path(path)} holds weights alone, of a network unknown here; expected the network too: "
            "--architecture FILE, which model.to_json() writes. Or in Python: build it, model.load_weights, "
            "model.save('x.keras')"
        )
    # a file that does not say which size it was trained with keeps the size that its network has
    with named_refusals(architecture or path):
        network = rebuilt(config, trust, open_size=input_spec is not None)
    with named_refusals(path):
        if not trust:
            give_memory(network, list(contents.shapes.values()))
        fill(network, contents)
        if input_spec:
            refuse_other_count(network, input_spec)
    return network, input_spec


def holds_original(contents):
    """Whether the arrays of a file have the shapes of the original's network."""
    shapes = sorted(shape for place, shape in contents.shapes.items() if "optimizer" not in place)
    return shapes == sorted(tuple(weight.shape) for weight in original_network(4).weights)


@contextlib.contextmanager
def named_refusals(path):
    """Put a file's name in front of what is refused in this context."""
    try:
        yield
    except Refused as error:
        raise UserError(f"{shown_path(path)}: {error}") from error


def refuse_other_count(network, input_spec):
    """Raise Refused unless a file names one class for each score of its network."""
    shape = getattr(network, "output_shape", None)  # a list or dict where there are several outputs, or none at all
    count = shape[-1] if isinstance(shape, tuple) and len(shape) > 1 else "several"
    if len(input_spec.class_names) != count:
        raise Refused(f"it names {len(input_spec.class_names)} classes for {count} outputs; expected one each")


def load_known_network(path):
    """As `load_network`, of a file that says what its network makes of a pixel, which is not guessed.

    Args:
        path: Path, or "imagenet" for Keras's VGG-16.

    Returns:
        (keras.Model, InputSpec).

    Raises:
        UserError: there is no such network, or the file does not say it.
    """
    network, input_spec = load_network(path)
    if input_spec is None:
        raise UserError(
            f"{path} does not say what it makes of a pixel; expected a .h5 file that train_cam_4class.py wrote, the "
            "original's, Keras's file of VGG-16, or imagenet"
        )
    return network, input_spec


def describe_contents(contents, path):
    """What a file says of its network: (its configuration with the version of Keras or None, InputSpec or None).

    Raises:
        UserError: it cannot be read.
    """
    try:
        config, input_spec = parsed(contents.config), parsed(contents.input_spec)
        return config and config | {"keras_version": contents.keras_version}, input_spec and checked_input_spec(
            input_spec
        )
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(
            f"{shown_path(path)}: its description of the network cannot be read ({first_line(error)}); expected a "
            "whole file"
        ) from error


def read_architecture(path):
    """The configuration in what `model.to_json()` wrote, a dict.

    Raises:
        UserError: it cannot be read.
    """
    try:
        return dict(parsed(read_text(path)))
    except (OSError, TypeError, ValueError, RecursionError) as error:
        raise UserError(
            f"--architecture {shown_path(path)} cannot be read ({first_line(error)}); expected what model.to_json() "
            "wrote"
        ) from error


# ---------------------------------------------------------------- rebuilding


def rebuilt(config, trust, open_size):
    """The network that a file describes, without its weights, after checking that this runs none of the file's code.

    It has no memory for them either, until `give_memory`, unless the file is trusted.

    Args:
        config: dict, as its version of Keras wrote it.
        trust: bool, skip that check.
        open_size: bool, let the network take photos of any size where it can.

    Raises:
        Refused: as `load_network` says.
    """
    try:
        of_keras_2 = str(config.get("keras_version")).startswith(("1.", "2."))
        config = up_to_date(config)
        if not trust:
            refuse_unsafe(config)
            refuse_many_calls(config)
        refuse_other_inputs(network_inputs(config), json.dumps(config))
        config = open_input_size(config) if open_size else config
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError) as error:
        raise Refused(f"its description of the network cannot be read ({first_line(error)})") from error
    try:
        memory = contextlib.nullcontext() if trust else without_memory()
        with warnings.catch_warnings(action="ignore"), memory:  # about arguments, to whoever built the network
            network = keras.saving.deserialize_keras_object(config, safe_mode=not trust)
            network = functional(network) if isinstance(network, keras.Sequential) and not trust else network
    except Exception as error:  # Keras raises various classes
        raise Refused(f"Keras cannot rebuild its network ({first_line(error)})") from error
    if not isinstance(network, keras.Model):
        raise Refused(f"it describes a {type(network).__name__}; expected a network")
    if of_keras_2:
        restore_activations(network)
    return network


def functional(stack):
    """A Sequential network as a functional one, so that each layer knows its one input and output."""
    image = x = keras.Input(stack.input_shape[1:], dtype=stack.inputs[0].dtype)
    for layer in stack.layers:
        x = type(layer).from_config(layer.get_config())(x)
    return keras.Model(image, x, name=stack.name)


def hard_sigmoid_of_keras_2(x):
    """0.2 x + 0.5, at least 0 and at most 1; that of Keras 3 rises by a sixth."""
    return ops.clip(0.2 * x + 0.5, 0, 1)


def restore_activations(network):
    """Give a network of Keras 2 the activations that Keras 3 has under the same name, but computes otherwise."""
    for layer in network._flatten_layers():
        for name in ("activation", "recurrent_activation"):
            if getattr(layer, name, None) is keras.activations.hard_sigmoid:
                setattr(layer, name, hard_sigmoid_of_keras_2)


def open_input_size(config):
    """Let the input have any height and width, where a global pooling makes the rest independent of them."""
    kinds = {layer["class_name"] for layer in config["config"]["layers"]}
    is_plain = kinds.isdisjoint(("Flatten", "Reshape", "Normalization", "Functional", "Model", "Sequential"))
    if is_plain and any(kind.startswith("Global") for kind in kinds):
        for layer in config["config"]["layers"]:
            if layer["class_name"] == "InputLayer" and len(layer["config"]["batch_shape"]) == 4:
                layer["config"]["batch_shape"][1:3] = [None, None]
    return config


def fill(network, contents):
    """Give a network the weights of a file.

    Raises:
        Refused: they do not fit.
    """
    try:
        with warnings.catch_warnings(action="ignore"), contents.as_hdf5() as weights:
            load_weights(network, weights)  # warns about places in which no layer of photos keeps anything
    except Exception as error:  # Keras and h5py raise various classes for arrays that are missing or of another shape
        raise Refused(f"{DO_NOT_FIT} ({first_line(error)})") from error


# ---------------------------------------------------------------- refusing


def refuse_other_inputs(inputs, text):
    """Raise Refused unless a network takes photos; what else it takes, `camlib.attribution.heads` asks for.

    Args:
        inputs: dict of name -> shape, as `network_inputs` reads them from the configuration.
        text: str, the configuration.
    """
    expected = "expected one input of photos, (N, H, W, 1 or 3, or bands)"
    shapes = {name: tuple(shape) for name, shape in inputs.items() if shape}
    if not shapes or any(len(shape) == 4 and are_channels(shape[3]) for shape in shapes.values()):
        return
    if len(shapes) > 1:
        some = ", ".join(f"{name[:12]} {shown_shape(shape)}" for name, shape in list(shapes.items())[:2])
        raise Refused(f"its network takes {len(shapes)} inputs ({some}), none of them photos; {expected}")
    (shape,) = shapes.values()
    if len(shape) == 3 and (f'"target_shape": {json.dumps([*shape[1:], 1])}' in text or '"ExpandDims"' in text):
        return  # grey photos, if that comes first
    kind = {2: "numbers", 3: "sequences", 5: "volumes or films"}.get(len(shape), "images of other channels")
    raise Refused(
        f"its network takes {shown_shape(shape)}; {expected}, not {kind}. In Python, cut out the part that takes "
        "photos with keras.Model and call explain of camlib"
    )


# ---------------------------------------------------------------- saving: in memory, then whole or not at all


def save_network(network, path, input_spec, half=False):
    """Write a network, its weights and its InputSpec to one .h5 file, under its name only when whole.

    The file is Keras's own HDF5 format; `keras.models.load_model` reads it too. Where a disk is full, Keras's own way
    there ends in a segmentation fault of HDF5.

    Args:
        network: keras.Model.
        path: Path ending in .h5; ending in .weights.h5 it gets Keras's weights-only format.
        input_spec: InputSpec.
        half: bool, store the weights as float16, half the size.

    Raises:
        OSError: the disk is full, for example; what stood under the name stands there still.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()
    if path.name.endswith(".weights.h5"):
        weights = saving_lib.H5IOStore(content, mode="w")
        saving_lib._save_state(network, weights, assets_store=None, inner_path="", visited_saveables=set())
        weights.close()
        with h5py.File(content, "r+") as file:
            config = {"class_name": type(network).__name__, "config": network.get_config()}
            file.attrs["model_config"] = json.dumps(config)
    else:
        with h5py.File(content, "w", libver="latest") as file:  # attributes may have more than 64 KB, then
            save_model_to_hdf5(network, file, include_optimizer=False)
    with h5py.File(content, "r+") as file:
        file.attrs[INPUT_SPEC_ATTRIBUTE] = json.dumps(vars(input_spec))
    if half:
        content = in_float16(content)
    write_whole(path, lambda file: file.write(content.getbuffer()))


def in_float16(content):
    """An HDF5 file in memory with its float32 arrays as float16; a new one, since HDF5 does not give space back."""
    halved = io.BytesIO()
    with h5py.File(content, "r") as source, h5py.File(halved, "w", libver="latest") as target:
        target.attrs.update(source.attrs)

        def copy(name, item):
            if isinstance(item, h5py.Dataset):
                target[name] = item[()].astype(np.float16) if item.dtype == np.float32 else item[()]
            else:
                target.require_group(name)
            target[name].attrs.update(item.attrs)

        source.visititems(copy)
    return halved
