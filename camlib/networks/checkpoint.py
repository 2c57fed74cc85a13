"""Model files: loading a network together with what it means, as data from a stranger."""

import contextlib
import warnings
from pathlib import Path
from typing import NamedTuple

import keras
from keras import ops

from camlib.backend import usual_settings
from camlib.console import ROOT, UserError, first_line
from camlib.files import file_sha256, read_text
from camlib.networks.allowlist import give_memory, parsed, refuse_many_calls, refuse_unsafe, without_memory
from camlib.networks.applications import (
    IMAGENET,
    application_named,
    application_of_file,
    load_application,
    unknown_network,
)
from camlib.networks.architectures import original_network
from camlib.networks.file_kinds import shown
from camlib.networks.keras2_config import network_inputs, up_to_date
from camlib.networks.keras2_operations import CannotRepair
from camlib.networks.keras2_weights import load_weights
from camlib.networks.reader import read_contents
from camlib.preprocessing import Meaning, meaning_of
from camlib.training.class_folders import ORIGINAL_CLASSES

MODELS = ROOT / "models"
GAP_NETWORK, VGG_NETWORK = MODELS / "cam_4class.h5", MODELS / "vgg16_4class.h5"  # the networks shipped

# Grey values 0..255 and OpenCV's bicubic: what the original's weights score best with.
ORIGINAL_MEANING = Meaning(list(ORIGINAL_CLASSES), 64, 64, 1, scale=1.0, interpolation="cubic")
MEANING_ATTRIBUTE = "meaning"

# ---------------------------------------------------------------- loading, as data from a stranger


class Description(NamedTuple):
    """What a file says of its network.

    Attributes:
        config: dict, as its version of Keras wrote it.
        keras: int or None, the first number of that version, None where the file does not say.
    """

    config: dict
    keras: int | None


@usual_settings()
def load_network(source, trust=False, architecture=None, largest=None):
    """Rebuild a network from a file: ours, any .keras or .h5 of Keras 2 or 3, or weights alone with an architecture.

    A name of keras.applications is that network with Keras's weights of ImageNet. The content decides what a file is,
    not its name. It is treated as data from a stranger: it is read in a process of its own (`camlib.networks.reader`), only
    what `camlib.networks.allowlist` lists is rebuilt, none of its code is run, and what it describes takes no memory before that
    is compared with what it holds. What earlier versions wrote otherwise is brought up to date, see
    `camlib.networks.keras2_config`; the file is not changed. The spatial input size is left open where the file says which
    size it was trained with and the network allows it.

    Args:
        source: Path of a file, or a name of keras.applications; "imagenet" is VGG-16.
        trust: bool, let the file run code: rebuild layers that hold some.
        architecture: Path of what `model.to_json()` wrote, for a file of weights alone, or None.
        largest: float, GB of file at most; default: LARGEST_MODEL of `camlib.options`.

    Returns:
        (keras.Model, Meaning or None): None for a file that does not say what it means.

    Raises:
        UserError: the file is missing, of another kind, holds layers that run code, or does not describe a network of
            photos.
    """
    if name := application_named(str(source)):
        return load_application(name)
    path = Path(source)
    if not path.exists():
        raise unknown_network(path)
    contents = read_contents(path, largest)
    description, meaning = described(contents, path)
    if description and architecture:
        raise UserError(f"{shown(path)} describes its network itself; expected no --architecture")
    if description is None:
        refuse_without_weights(contents, path)
    if description is None and not architecture and (name := application_of_file(path, contents.names)):
        with contents.as_hdf5(path.name if path.name.endswith(".h5") else "network.h5") as weights:
            return load_application(name, path, weights)
    shapes = sorted(shape for place, shape in contents.shapes.items() if "optimizer" not in place)
    is_original = shapes == sorted(tuple(weight.shape) for weight in original_network(4).weights)
    if architecture:
        description = read_architecture(architecture)
    elif description is None and not is_original:
        raise UserError(
            f"{shown(path)} holds weights alone, of a network unknown here; expected the network too: --architecture "
            "FILE, which model.to_json() writes. Or in Python: build it, model.load_weights, model.save('x.keras')"
        )
    meaning = meaning or (ORIGINAL_MEANING if is_original else None)
    # a file that does not say which size it was trained with keeps the size that its network has
    open_size = meaning is not None
    network = rebuilt(description, architecture or path, trust, open_size) if description else original_network(4)
    refuse_without_weights(contents, path)
    if description and not trust:
        give_memory(network, list(contents.shapes.values()), path)
    fill(network, path, contents)
    if meaning:
        refuse_other_count(network, meaning, path)
    return network, meaning


def refuse_other_count(network, meaning, path):
    """Raise UserError unless a file names one class for each score of its network."""
    shape = getattr(network, "output_shape", None)  # a list or dict where there are several outputs, or none at all
    count = shape[-1] if isinstance(shape, tuple) and len(shape) > 1 else "several"
    if len(meaning.class_names) != count:
        raise UserError(
            f"{shown(path)} names {len(meaning.class_names)} classes for {count} outputs; expected one each"
        )


def load_known_network(path):
    """As `load_network`, of a file that says what its network makes of a pixel, which is not guessed.

    Args:
        path: Path, or "imagenet" for Keras's VGG-16.

    Returns:
        (keras.Model, Meaning).

    Raises:
        UserError: there is no such network, or the file does not say it.
    """
    network, meaning = load_network(path)
    if meaning is None:
        raise UserError(
            f"{path} does not say what it makes of a pixel; expected a .h5 file that train_cam_4class.py wrote, the "
            "original's, Keras's file of VGG-16, or imagenet"
        )
    return network, meaning


def described(contents, path):
    """What a file says of its network: (Description or None, Meaning or None).

    Raises:
        UserError: it cannot be read.
    """
    try:
        config, meaning = parsed(contents.config), parsed(contents.meaning)
        description = config and Description(config, first_number(contents.keras_version))
        return description, meaning and meaning_of(meaning)
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(
            f"{shown(path)}: its description of the network cannot be read ({first_line(error)}); expected a whole file"
        ) from error


def read_architecture(path):
    """The Description in what `model.to_json()` wrote.

    Raises:
        UserError: it cannot be read.
    """
    try:
        config = parsed(read_text(path))
        return Description(config, first_number(config.get("keras_version")))
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise UserError(
            f"--architecture {shown(path)} cannot be read ({first_line(error)}); expected what model.to_json() wrote"
        ) from error


def identity_of(source, architecture=None):
    """What tells a network from others in run.json: its file's SHA-256 and its architecture's, or its name in Keras."""
    architectures = {"architecture_sha256": file_sha256(architecture)} if architecture else {}
    name = application_named(str(source))
    identity = f"keras {IMAGENET if name == 'VGG16' else name}" if name else file_sha256(source)
    return {"model_sha256": identity, **architectures}


def first_number(version):
    """2 of "2.15.0", None of what is no version."""
    start = str(version.decode() if isinstance(version, bytes) else version).split(".")[0]
    return int(start) if start.isdecimal() else None


# ---------------------------------------------------------------- rebuilding


def rebuilt(description, path, trust, open_size):
    """The network that a file describes, without its weights, after checking that this runs none of the file's code.

    It has no memory for them either, until `give_memory`, unless the file is trusted.

    Args:
        description: Description.
        path: Path of what describes it, for messages.
        trust: bool, skip that check.
        open_size: bool, let the network take photos of any size where it can.

    Raises:
        UserError: as `load_network`.
    """
    try:
        config = up_to_date(description.config)
        if not trust:
            refuse_unsafe(config, path)
            refuse_many_calls(config, path)
        refuse_other_inputs(network_inputs(config), path)
        config = open_input_size(config) if open_size else config
    except CannotRepair as error:
        raise UserError(f"{shown(path)}: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError) as error:
        reason = first_line(error)
        raise UserError(f"{shown(path)}: its description of the network cannot be read ({reason})") from error
    try:
        memory = contextlib.nullcontext() if trust else without_memory()
        with warnings.catch_warnings(action="ignore"), memory:  # about arguments, to whoever built the network
            network = keras.saving.deserialize_keras_object(config, safe_mode=not trust)
            network = functional(network) if isinstance(network, keras.Sequential) and not trust else network
    except Exception as error:  # Keras raises various classes
        raise UserError(f"{shown(path)}: Keras cannot rebuild its network ({first_line(error)})") from error
    if not isinstance(network, keras.Model):
        raise UserError(f"{shown(path)} describes a {type(network).__name__}; expected a network")
    if description.keras is not None and description.keras < 3:
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


def refuse_without_weights(contents, path):
    """Raise UserError where a file's arrays were not read."""
    if contents.weights_refused:
        raise UserError(f"{shown(path)}: its weights do not fit its network ({first_line(contents.weights_refused)})")


def fill(network, path, contents):
    """Give a network the weights of a file.

    Raises:
        UserError: they do not fit.
    """
    try:
        with warnings.catch_warnings(action="ignore"), contents.as_hdf5() as weights:
            load_weights(network, weights)  # warns about places in which no layer of photos keeps anything
    except Exception as error:  # Keras and h5py raise various classes for arrays that are missing or of another shape
        raise UserError(f"{shown(path)}: its weights do not fit its network ({first_line(error)})") from error


# ---------------------------------------------------------------- refusing


def refuse_other_inputs(inputs, path):
    """Raise UserError unless a network takes photos; what else it takes, `camlib.attribution.heads` asks for.

    Args:
        inputs: dict of name -> shape, as `network_inputs` reads them from the configuration.
        path: Path of the file, for the message.
    """
    expected = "expected one input of photos, (N, H, W, 1 or 3)"
    shapes = {name: tuple(shape) for name, shape in inputs.items() if shape}
    if len(shapes) > 1:
        if any(len(shape) == 4 and shape[3] in (1, 3) for shape in shapes.values()):
            return
        some = ", ".join(f"{name[:12]} {shape}" for name, shape in list(shapes.items())[:2])
        raise UserError(
            f"{shown(path)}: its network takes {len(shapes)} inputs ({some}), none of them photos; {expected}"
        )
    for shape in shapes.values():
        if len(shape) != 4 or shape[3] not in (1, 3):
            kind = {2: "numbers", 3: "sequences", 5: "volumes or films"}.get(len(shape), "images of other channels")
            raise UserError(
                f"{shown(path)}: its network takes {shape}; {expected}, not {kind}. In Python, cut out the part that "
                "takes photos with keras.Model and call explain of gradcam_vgg16.py"
            )
