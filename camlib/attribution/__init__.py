"""Photos to maps: the equations, and what has to be found out about a network to apply them.

cam.py, gradcam.py, guided.py and methods.py hold one equation a function. Here stands what does without Keras: the
table of methods, and the records in which maps are handed on.
"""

import importlib
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class Method:
    """A member of the CAM family.

    Attributes:
        title: str, its name in pictures.
        equation: str, the file of this folder, and in it the function that turns features, and what else it needs,
            into maps.
        needs: "gradients", "nothing", "masked scores" or "ablated scores".
        signed: bool, whether maps have negative values.
    """

    title: str
    equation: str
    needs: str
    signed: bool

    @property
    def function(self):
        """The equation as a function; Keras is imported for it."""
        file, name = self.equation.split(".")
        return getattr(importlib.import_module(f"camlib.attribution.{file}"), name)


METHODS = {
    "grad-cam": Method("Grad-CAM", "gradcam.grad_cam", "gradients", False),
    "grad-cam++": Method("Grad-CAM++", "methods.grad_cam_plus_plus", "gradients", False),
    "hires-cam": Method("HiResCAM", "methods.hires_cam", "gradients", True),
    "layer-cam": Method("LayerCAM", "methods.layer_cam", "gradients", False),
    "xgrad-cam": Method("XGrad-CAM", "methods.xgrad_cam", "gradients", False),
    "element-wise": Method("element-wise", "methods.element_wise", "gradients", False),
    "eigen-grad-cam": Method("Eigen-Grad-CAM", "methods.eigen_grad_cam", "gradients", True),
    "eigen-cam": Method("Eigen-CAM", "methods.eigen_cam", "nothing", True),
    "score-cam": Method("Score-CAM", "methods.score_cam", "masked scores", False),
    "ablation-cam": Method("Ablation-CAM", "methods.ablation_cam", "ablated scores", False),
}
GUIDED = ("guided-backprop", "guided-grad-cam")  # what evaluate_maps.py knows beside these


# Kinds of map as files are called, and their titles; a gradcam goes by the title of its method
KIND_TITLES = {
    "heatmap": "CAM",
    "gradcam": "Grad-CAM",
    "guided_backprop": "guided backpropagation",
    "guided_gradcam": "guided Grad-CAM",
}


def titles_of(method, counterfactual=False):
    """The title of each kind of map of a run: dict of kind -> str.

    Args:
        method: str, a key of METHODS; another's maps are called Grad-CAM.
        counterfactual: bool, its maps show what speaks against the class.
    """
    title = METHODS[method].title if method in METHODS else KIND_TITLES["gradcam"]
    if counterfactual:
        title = f"counterfactual {title}"
    return KIND_TITLES | {"gradcam": title, "guided_gradcam": f"guided {title}"}


class Outputs(NamedTuple):
    """What is kept of each photo beside its maps, and the classes that there may be maps of.

    Attributes:
        class_names: list of C str, one for each logit.
        with_probabilities: bool, the logits have probabilities.
        groups: list of str, groups of classes whose probability is a column of its own.
        explained: list of str, the classes and groups that there may be maps of; None for the classes.
        most: int, of how many of them a photo has maps at most; None for all.
    """

    class_names: list
    with_probabilities: bool = True
    groups: list = []
    explained: list | None = None
    most: int | None = None


class ExplainedBatch(NamedTuple):
    """The maps of a batch of N photos.

    Attributes:
        logits: float (N, C), NaN for a photo with a number that is not finite.
        probabilities: float (N, C + groups), or None where scores have none.
        maps: list of N dicts: kind of map -> class name -> float (h, w), or (H, W, channels) for gradients.
        zero: list of N dicts: name of a map that is zero everywhere -> why.
    """

    logits: object
    probabilities: object
    maps: list
    zero: list
