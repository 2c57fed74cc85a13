"""Networks and their files: read as data from a stranger, rebuilt, saved. Here stands what does without Keras."""

import ast
import functools
import importlib.util
from pathlib import Path

from camlib.console import CLONE, ROOT, UserError, did_you_mean
from camlib.files import file_sha256
from camlib.preprocessing import IMAGENET_GROUPS, ORIGINAL_CLASSES, imagenet_names, read_class_names

GAP_NETWORK = ROOT / "models" / "cam_4class.h5"  # the networks shipped; the second, of 30 MB, with the clone alone
VGG_NETWORK = CLONE / "models" / "vgg16_4class.h5"
IMAGENET = "imagenet"  # what --weights calls VGG-16


@functools.cache
def application_names():
    """The names of the networks of keras.applications, as its source has them: to import it takes many seconds."""
    found = importlib.util.find_spec("keras")
    if found is None:  # `camlib.backend` says so
        return []
    source = Path(found.origin).parent / "applications" / "__init__.py"
    imports = (node for node in ast.walk(ast.parse(source.read_text("utf-8"))) if isinstance(node, ast.ImportFrom))
    return [alias.name for node in imports for alias in node.names if alias.name[0].isupper()]


def application_named(text):
    """The name of a network of keras.applications for what the user wrote, or None."""
    return "VGG16" if text == IMAGENET else text if text in application_names() else None


def unknown_network(text):
    """The UserError for what is neither a file nor a network's name."""
    if Path(text) == VGG_NETWORK:  # an installed package is without it
        return UserError(f"{text} does not exist; expected to run where it is, the clone, or its path, or imagenet")
    near = did_you_mean(str(text), (IMAGENET, *application_names()))
    return UserError(
        f"{text} does not exist{near} expected a .h5 or .keras file, imagenet, or a network of keras.applications by "
        "its name, VGG16, ResNet50V2, EfficientNetB0 ..."
    )


def identity_of(source, architecture=None):
    """What tells a network from others in run.json: its file's SHA-256 and its architecture's, or its name in Keras."""
    name = application_named(str(source))
    identity = f"keras {IMAGENET if name == 'VGG16' else name}" if name else file_sha256(source)
    return {"model_sha256": identity, **identity_of_architecture(architecture)}


def identity_of_architecture(path):
    """The part of `identity_of` that is of what `model.to_json()` wrote; empty for None."""
    return {"architecture_sha256": file_sha256(path)} if path else {}


def names_told(source, class_names=None):
    """The classes of a network as far as they are known before it is loaded.

    Args:
        source: Path of its file, or a name of keras.applications.
        class_names: Path of the user's list of them, or None.

    Returns:
        (list of str, dict of group -> list of class indices); (None, {}) where only the network's file says them.

    Raises:
        UserError: the user's list cannot be read.
    """
    if class_names:
        names = read_class_names(class_names)
    elif application_named(str(source)):
        names = imagenet_names()
    else:
        names = list(ORIGINAL_CLASSES) if Path(source).resolve() in (GAP_NETWORK, VGG_NETWORK) else None
    return names, IMAGENET_GROUPS if names == imagenet_names() else {}
