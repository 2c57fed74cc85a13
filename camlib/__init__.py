"""CAM, Grad-CAM and guided backpropagation of Keras networks.

    from camlib import explain, read_photo

    found = explain("models/vgg16_4class.h5", [read_photo("photo.jpg")], classes=["dog", "cat"])

METHODS, read_photo and UserError do without Keras; the other names import it when they are first asked for.
"""

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"
WHERE = {
    "CAM": "attribution.cam",
    "Classifier": "attribution.classifier",
    "GradCAM": "attribution.gradcam",
    "METHODS": "attribution",
    "UserError": "console",
    "WatchedMaps": "training.results",
    "explain": "runs.explained",
    "read_photo": "photos",
}
__all__ = ["CAM", "METHODS", "Classifier", "GradCAM", "UserError", "WatchedMaps", "explain", "read_photo"]


if TYPE_CHECKING:
    from camlib.attribution import METHODS
    from camlib.attribution.cam import CAM
    from camlib.attribution.classifier import Classifier
    from camlib.attribution.gradcam import GradCAM
    from camlib.console import UserError
    from camlib.photos import read_photo
    from camlib.runs.explained import explain
    from camlib.training.results import WatchedMaps
else:

    def __getattr__(name):
        if name not in WHERE:
            raise AttributeError(f"module 'camlib' has no attribute {name!r}")
        if name in ("CAM", "Classifier", "GradCAM", "WatchedMaps", "explain"):
            importlib.import_module("camlib.backend")  # first of all: it starts Keras without its start-up lines
        return getattr(importlib.import_module(f"camlib.{WHERE[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
