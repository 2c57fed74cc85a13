"""What speed.py times: the kinds of map and the tools that make them. Imports no framework."""

import importlib.util
from typing import NamedTuple


class Case(NamedTuple):
    """A kind of map, or the forward pass alone.

    Attributes:
        title: str, for the table.
        maps: "forward", "cam", "map", "guided" or "all three".
        classes: int, how many classes' maps are made of each photo.
        method: str, a key of METHODS, of "map" and "all three".
        size: int, height and width of the photos; the methods that take hundreds of passes a photo get smaller ones.
        batches: tuple of int, photos at once.
    """

    title: str
    maps: str
    classes: int = 1
    method: str = "grad-cam"
    size: int = 224
    batches: tuple = (1, 8, 32)


FAMILY = ("grad-cam++", "hires-cam", "layer-cam", "xgrad-cam", "element-wise", "eigen-grad-cam", "eigen-cam")
CHANGING = ("score-cam", "ablation-cam")  # run the network, or its end, again for each feature
CASES = {
    "forward": Case("plain forward pass", "forward"),
    "cam": Case("CAM, all classes (pooling-free network, 96x96)", "cam", 4, size=96),
    "grad-cam": Case("Grad-CAM, one class", "map"),
    "grad-cam-4": Case("Grad-CAM, four classes", "map", 4),
    "guided": Case("guided backpropagation", "guided"),
    "all-three": Case("Grad-CAM, guided backpropagation and guided Grad-CAM", "all three"),
    **{name: Case(f"{name}, one class", "map", method=name, batches=(8,)) for name in FAMILY},
    **{name: Case(f"{name}, one class (96x96)", "map", method=name, size=96, batches=(1,)) for name in CHANGING},
}


class Setup(NamedTuple):
    """What a process is told.

    Attributes:
        tool: str, a key of TOOLS.
        case: str, a key of CASES.
        dtype: "float32" or "bfloat16".
        images: str, file of the photos, float32 (N, H, W, 3) as the network takes them.
        maps: str, file that the first call's maps go to.
        quick: bool, a small network instead of the real one.
    """

    tool: str
    case: str
    dtype: str
    images: str
    maps: str
    quick: bool


class Tool(NamedTuple):
    """A tool.

    Attributes:
        title: str, for the table.
        backend: str, what it runs on.
        package, module: str, its distribution's name and what is imported of it; None for ours.
        cases: tuple of str, what it makes.
    """

    title: str
    backend: str
    package: str | None
    module: str | None
    cases: tuple


BOTH = ("forward", "grad-cam", "grad-cam-4", "guided", "all-three")
TOOLS = {
    "ours-tensorflow": Tool("ours, TensorFlow", "tensorflow", None, "tensorflow", tuple(CASES)),
    "ours-jax": Tool("ours, JAX", "jax", None, "jax", tuple(CASES)),
    "tf-keras-vis": Tool(
        "tf-keras-vis",
        "tensorflow",
        "tf-keras-vis",
        "tf_keras_vis",
        (*BOTH[1:], "grad-cam++", "layer-cam", "score-cam"),
    ),
    "tf-explain": Tool("tf-explain", "tensorflow", "tf-explain", "tf_explain", ("grad-cam", "grad-cam-4")),
    "xplique": Tool("Xplique", "tensorflow", "xplique", "xplique", (*BOTH[1:], "grad-cam++")),
    "pytorch-grad-cam": Tool(
        "pytorch-grad-cam", "torch", "grad-cam", "pytorch_grad_cam", (*BOTH[1:], *FAMILY, *CHANGING)
    ),
    "captum": Tool("Captum", "torch", "captum", "captum", BOTH),
}
OURS = ("ours-tensorflow", "ours-jax")


def installed(tool):
    """Whether a tool and its framework are installed; nothing is imported."""
    return all(importlib.util.find_spec(name) for name in (TOOLS[tool].module, TOOLS[tool].backend))
