"""Photos to maps: the equations, and what has to be found out about a network to apply them.

cam.py, gradcam.py, guided.py, methods.py and sampling.py hold one equation a function. Here stands what does without
Keras: the table of methods, and the records in which maps are handed on.
"""

import hashlib
import importlib
from dataclasses import dataclass, fields
from typing import NamedTuple

from camlib.console import UserError
from camlib.plots import PIXEL_KINDS


@dataclass(frozen=True)
class Method:
    """A way to explain a score: a member of the CAM family, a gradient with respect to the photo, or changed photos.

    Attributes:
        title: str, its name in pictures.
        equation: str, the file of this folder, and in it the function that makes maps from what it needs.
        needs: of a layer's features beside these "gradients", "nothing", "masked scores" or "ablated scores"; of the
            photo its "photo gradients", or those or the scores of changed photos, "samples".
        signed: bool, whether maps have negative values.
        samples: int, how many changed photos it looks at unless told otherwise; None where it needs none.
        baseline: str, of BASELINE_NAMES, what stands for no photo unless told otherwise; None where nothing does.
    """

    title: str
    equation: str
    needs: str
    signed: bool
    samples: int | None = None
    baseline: str | None = None

    @property
    def of_layer(self):
        """Whether it weighs a layer's features, which has to be chosen."""
        return self.needs not in ("photo gradients", "samples")

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
    "gradient": Method("gradient", "guided.photo_gradient", "photo gradients", True),
    "gradient-x-input": Method("gradient × input", "guided.gradient_x_input", "photo gradients", True),
    "deconvnet": Method("deconvnet", "guided.deconvnet", "photo gradients", True),
    "smooth-grad": Method("SmoothGrad", "sampling.smooth_grad", "samples", True, 25),
    "var-grad": Method("VarGrad", "sampling.var_grad", "samples", False, 25),
    "integrated-gradients": Method(
        "integrated gradients", "sampling.integrated_gradients", "samples", True, 50, "black"
    ),
    "expected-gradients": Method("expected gradients", "sampling.expected_gradients", "samples", True, 100),
    "occlusion": Method("occlusion", "sampling.occlusion", "samples", True, 196, "mean"),
    "rise": Method("RISE", "sampling.rise", "samples", True, 1000, "black"),
}
BASELINE_NAMES = ("black", "mean", "blur", "white")  # the photo's mean colour; a Gaussian of a tenth of the longer side
GUIDED = ("guided-backprop", "guided-grad-cam")  # what evaluate_maps.py knows beside these


# Kinds of map as files are called, and their titles; a gradcam goes by the title of its method, pixels' by its key
KIND_TITLES = {
    "heatmap": "CAM",
    "gradcam": "Grad-CAM",
    "guided_backprop": "guided backpropagation",
    "guided_gradcam": "guided Grad-CAM",
    **{kind: METHODS[kind].title for kind in PIXEL_KINDS},
}


def kind_of(method):
    """The kind of map, a key of KIND_TITLES, that a method makes."""
    return method if method in PIXEL_KINDS else "gradcam"


def titles_of(method, counterfactual=False, contrast=None):
    """The title of each kind of map of a run: dict of kind -> str.

    Args:
        method: str, a key of METHODS; another's maps are called Grad-CAM.
        counterfactual: bool, its maps show what speaks against the class.
        contrast: str, the class whose score is subtracted; None for none.
    """
    title = METHODS[method].title if method in METHODS else KIND_TITLES["gradcam"]
    if counterfactual:
        title = f"counterfactual {title}"
    titles = KIND_TITLES | {kind_of(method): title, "guided_gradcam": f"guided {title}"}
    return {kind: f"{title} against {contrast}" for kind, title in titles.items()} if contrast else titles


WINDOW = 0.2  # share of each side that is hidden at a time by occlusion


def windows_of(size, samples):
    """The windows of `occlusion`, about `samples` of them: list of (slice, slice), every pixel in one at least.

    A window is WINDOW of each side; the last of a row or column may be cut off at the photo's edge.
    """
    places = max(1, round(samples**0.5))
    along = []
    for side in size:
        window = max(1, round(WINDOW * side))
        stride = max(1, min(window, -(-(side - window) // max(1, places - 1))))
        starts = range(0, side - window + stride, stride)
        along.append([slice(start, min(start + window, side)) for start in starts])
    return [(rows, columns) for rows in along[0] for columns in along[1]]


@dataclass(frozen=True)
class MapOptions:
    """What the user says of maps beside their method; None leaves it to the method.

    Attributes:
        contrast: name or index of a class or group, whose score is subtracted: evidence for dog rather than cat.
        smooth: int, over how many versions of a photo, mirrored and moved a little, its maps are averaged.
        samples: int, how many changed photos a method looks at.
        noise: float, sigma of SmoothGrad's noise, as a share of the photo's largest less its least value.
        baseline: one of BASELINE_NAMES, what stands for no photo.
        seed: int, of what is random.
        backgrounds: photos, see `camlib.photos.as_photos`, that stand for no photo at expected gradients, of many some
            by the seed; default: those of data/photos.
        black, white: float (1, 1, channels), what the network is fed for such a pixel.
        contrast_name: str; these three are set by `sampling.options_for`.
    """

    contrast: str | int | None = None
    smooth: int = 1
    samples: int | None = None
    noise: float | None = None
    baseline: str | None = None
    seed: int | None = None
    backgrounds: object = None
    black: object = 0.0
    white: object = 1.0
    contrast_name: str | None = None

    @classmethod
    def among(cls, options):
        """Those of a dict of options that are of maps, a dict; they are taken out of it."""
        return {name: options.pop(name) for name in cls.names() if name in options}

    @classmethod
    def names(cls):
        """Those that the user gives: list of str."""
        return [field.name for field in fields(cls) if field.name not in ("black", "white", "contrast_name")]

    @staticmethod
    def apply_to(method, smooth=1):
        """The names of the options that a method has, a key of METHODS, with the smoothing asked for: set."""
        of_method = METHODS[method]
        is_random = of_method.samples is not None and method not in ("integrated-gradients", "occlusion")
        known = {
            "contrast": of_method.needs != "nothing",  # Eigen-CAM knows no class
            "samples": of_method.samples is not None,
            "noise": method in ("smooth-grad", "var-grad"),
            "baseline": of_method.baseline is not None,
            "seed": is_random or smooth > 1,
            "backgrounds": method == "expected-gradients",
        }
        return {"smooth", *(name for name, applies in known.items() if applies)}

    def check(self, method):
        """Raise UserError unless each option is in its range, and of the method."""
        for name, most in (("smooth", 1000), ("samples", 1_000_000), ("seed", 2**63)):
            value, least = getattr(self, name), 0 if name == "seed" else 1
            if value is not None and not (type(value) is int and least <= value <= most):
                raise UserError(f"--{name} {value}: expected a whole number from {least} to {most:,}")
        if self.noise is not None and not 0 <= self.noise <= 10:
            raise UserError(f"--noise {self.noise}: expected a share of the photo's range, from 0 to 10")
        if self.baseline is not None and self.baseline not in BASELINE_NAMES:
            raise UserError(f"--baseline {self.baseline}: expected {', '.join(BASELINE_NAMES)}")
        given = {name for name in self.names() if getattr(self, name) is not getattr(MapOptions, name)}
        for name in sorted(given - self.apply_to(method, self.smooth)):
            raise UserError(f"--{name} is not of {method}; expected another --method with it, or none")

    def settings(self, method):
        """What of the options decides the files of a run, for run.json: dict, empty where nothing was asked for."""
        names = self.apply_to(method, self.smooth) & {"samples", "noise", "baseline", "seed"}
        found = {name: getattr(self, name) for name in sorted(names)}
        if self.backgrounds is not None:
            found["backgrounds"] = hashlib.sha256(self.backgrounds.tobytes()).hexdigest()
        given = {"contrast": self.contrast_name, "smooth": self.smooth if self.smooth > 1 else None}
        return found | {name: value for name, value in given.items() if value is not None}

    @property
    def against(self):
        """Words for the contrast."""
        return f" less that of {self.contrast_name}" if self.contrast_name else ""

    def words(self, method):
        """How a method of the photo is applied, in words."""
        applied = [name for name in ("samples", "noise", "baseline", "seed") if name in self.apply_to(method)]
        return ", ".join(["of the photo", *(f"{name} {getattr(self, name)}" for name in applied)])


class Outputs(NamedTuple):
    """What is kept of each photo beside its maps, and the classes that there may be maps of.

    Attributes:
        class_names: list of C str, one for each logit.
        with_probabilities: bool, the logits have probabilities.
        groups: list of str, groups of classes whose probability is a column of its own.
        explained: list of str, the classes and groups that there may be maps of; None for the classes.
        most: int, of how many of them a photo has maps at most; None for all.
        with_gaps: bool, there is a completeness gap.
    """

    class_names: list
    with_probabilities: bool = True
    groups: list = []
    explained: list | None = None
    most: int | None = None
    with_gaps: bool = False


class ExplainedBatch(NamedTuple):
    """The maps of a batch of N photos.

    Attributes:
        logits: float (N, C), NaN for a photo with a number that is not finite.
        probabilities: float (N, C + groups), or None where scores have none.
        maps: list of N dicts: kind of map -> class name -> float (h, w), or (H, W, channels) for gradients.
        zero: list of N dicts: name of a map that is zero everywhere -> why.
        gaps: float (N,), the largest completeness gap of a photo's maps, see `sampling.integrated_gradients`; None of
            methods that have none.
    """

    logits: object
    probabilities: object
    maps: list
    zero: list
    gaps: object = None
