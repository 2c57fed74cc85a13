"""Grad-CAM (Selvaraju et al. 2017) and its family, compiled: one forward pass of a network, and many maps from it."""

from collections.abc import Sequence
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from camlib.attribution import METHODS, ExplainedBatch, MapOptions, Outputs, kind_of, titles_of
from camlib.attribution.classifier import Classifier, check_guided
from camlib.attribution.guided import guided_backpropagation, guided_grad_cam
from camlib.attribution.methods import (
    CLASSES_AT_ONCE,
    ExplainedScore,
    ablated_run,
    gradient_maps,
    logits_through_masks,
    logits_without_features,
    score_map,
    weighed,
)
from camlib.attribution.sampling import Sampler, Smoothed, options_for
from camlib.attribution.tracing import ForwardPass, tapped_run
from camlib.backend import compiled
from camlib.console import UserError, did_you_mean
from camlib.memory import halving
from camlib.plots import PIXEL_KINDS
from camlib.preprocessing import PREDICTED, chosen_classes, classes_of_photos, listed


class Explanation(NamedTuple):
    """What is found of R classes of each of N photos; float64 for float32 where the network computes so.

    Attributes:
        logits: float32 (N, C).
        outputs: float32 (N, C), the network's own.
        chosen: int32 (R, N), the classes explained.
        features: float32 (N, h, w, K), the layer's output A; None of methods of the photo.
        cams: float32 (R, N, h, w); (R, N, H, W, channels) of gradients with respect to the network's input.
        guided: float32 (R, N, H, W, channels), guided gradients of the score with respect to the network's input.
        products: float32 like guided, guided Grad-CAM. Both None where they are not asked for.
        extent: float64 (N, 4), the part of each photo that its maps `cams` cover: top, left, bottom, right in pixels of
            the photo as it was given; nothing is claimed outside it, and what is outside the photo was padded.
        gaps: float32 (R, N), completeness gaps, see `camlib.attribution.sampling.integrated_gradients`, or None.
    """

    logits: np.ndarray
    outputs: np.ndarray
    chosen: np.ndarray
    features: np.ndarray
    cams: np.ndarray
    guided: np.ndarray | None
    products: np.ndarray | None
    extent: np.ndarray | None = None
    gaps: np.ndarray | None = None


PHOTO_AXES = Explanation(0, 0, 1, 0, 1, 1, 1, 0, 1)  # which axis of each is that of the photos
WHY_ZERO = {  # kind of map -> why one may be zero everywhere
    "gradcam": "its weighted features are nowhere positive (--counterfactual maps what speaks against the class), or "
    "its score does not depend on the layer",
    "guided_backprop": "no positive gradient reaches the photo",
    **dict.fromkeys(PIXEL_KINDS, "its score does not change with the photo's pixels, or is contrasted with itself"),
}

# ---------------------------------------------------------------- the equations


def grad_cam_before_relu(features, gradients):
    """Weigh the features by their mean gradients (Selvaraju et al. 2017, eq. 1 and 2 without its ReLU).

    alpha_k = mean over y, x of g_k; sum_k alpha_k A_k. Behind global average pooling and one Dense layer this is the
    class activation map over H * W.
    """
    alpha = ops.mean(gradients, axis=(1, 2))  # (N, K)
    return weighed(features, alpha)


def grad_cam(features, gradients):
    """Grad-CAM: ReLU(sum_k alpha_k A_k), alpha_k = mean of g_k (Selvaraju et al. 2017, eq. 1 and 2)."""
    return ops.relu(grad_cam_before_relu(features, gradients))


# ---------------------------------------------------------------- Grad-CAM of a classifier


class GradCAM:
    """Maps of a classifier by Grad-CAM or another method, and guided backpropagation; compiled once.

    Attributes:
        classifier: Classifier.
        input_spec: InputSpec of its input.
        layer: str, path of the layer whose output is A; None of a method that has none.
        options: MapOptions.
        cover: Cover of each photo by the maps.
        chosen: list of class indices, those explained.

    Args:
        classifier: Classifier.
        layer: str, path of the layer; default: the last with a spatial output, pooling aside.
        method: str, a key of METHODS.
        guided: bool, do guided backpropagation and guided Grad-CAM too, where the method is one of a layer.
        counterfactual: bool, map what speaks against the class.
        classes: list of names (str) or indices (int), or words as after --classes, each explained for every photo.
        options: as for MapOptions.

    Raises:
        UserError: there is no such layer or class, the axes of the layer's output are not the photo's, or an option
            does not fit.
    """

    conventions = (
        "gradcam_for_<class>.npy: float32 (h, w), the map of `method` of the layer at its own size, Y_c the logit; "
        "grad-cam is ReLU(sum_k alpha_k A_k), alpha_k = mean of dY_c/dA_k. guided_backprop_for_<class>.npy: float32 "
        "(H, W, 3), signed gradient of Y_c with respect to the network's input, RGB. guided_gradcam_for_<class>.npy: "
        "the latter times the former, enlarged bilinearly. None is scaled; the pictures are, to the largest value "
        "among the photo's classes, gradients to the 99.5th percentile. Of a network that computes in float64 all are "
        "float64. Other gradients, smooth-grad_for_<class>.npy and the like, are as guided ones; pictures show one "
        "number of a pixel's channels, see `reduce`, by default the sum of magnitudes. occlusion and rise are gradcam "
        "maps of the input's size."
    )

    def __init__(
        self,
        classifier: Classifier,
        layer: str | None = None,
        method: str = "grad-cam",
        guided: bool = True,
        counterfactual: bool = False,
        classes: Sequence[str | int] = ("predicted",),
        **options: Any,
    ) -> None:
        self.classifier, self.input_spec = classifier, classifier.input_spec
        if method not in METHODS:
            raise UserError(
                f"method {method!r} is unknown{did_you_mean(str(method), METHODS)} expected {', '.join(METHODS)}"
            )
        self.layer = classifier.layer_to_map(layer) if METHODS[method].of_layer else None
        if layer and not self.layer:
            raise UserError(f"--layer {layer}: {method} is of the photo; expected no layer with it")
        self.cover = classifier.cover_of(self.layer)
        self.method, self.guided, self.counterfactual = method, bool(guided and self.layer), counterfactual
        self.options = options_for(MapOptions(**options), classifier, method)
        self.chosen = chosen_classes(listed(classes), self.input_spec.class_names, classifier.groups)
        if self.chosen == [self.options.contrast]:
            raise UserError(f"--contrast {self.options.contrast_name} is the class of --classes; expected another")
        self.groups = classifier.groups_among(self.chosen)
        self.run = compiled_map(
            classifier.network,
            classifier.structure,
            self.layer,
            method,
            counterfactual=counterfactual,
            with_guided=self.guided,
            groups=list(classifier.groups.values()),
            options=self.options,
        )
        self.run_batch = halving(self.run_portion, PHOTO_AXES)

    @classmethod
    def load(cls, source: str | PathLike, options: dict, **settings: Any) -> "GradCAM":
        """The GradCAM of a network in a file, see `Classifier.load`; options is a dict, settings are of the class."""
        return cls(Classifier.load(source, **options), **settings)

    def __call__(self, photos: Sequence | np.ndarray, labels: Sequence | None = None) -> Explanation:
        """Explain photos.

        Args:
            photos: N photos, see `camlib.photos.as_photos`.
            labels: R rows of N names or indices, the classes of each photo; default: the object's, for every photo.

        Returns:
            Explanation of NumPy arrays. Guided gradients are in RGB, whatever the network's order of channels. A photo
            with a number that is not finite has NaN for logits.

        Raises:
            UserError: the logits found in the network are not those behind its outputs; or what was handed over is no
                photo or class.
        """
        photos, chosen = self.classifier.photos(photos), None
        if labels is not None:
            chosen = classes_of_photos(labels, len(photos), self.input_spec.class_names, self.classifier.groups)
        return self.placed(self.explanation(self.classifier.at_size(photos), len(photos), chosen), photos)

    def placed(self, found, photos):
        """An Explanation with the `extent` in its photos, a list of arrays (H, W, ...)."""
        shares = [self.cover.of(photo.shape[:2]) or (0, 0, 1, 1) for photo in photos]
        return found._replace(extent=np.array([photo.shape[:2] * 2 for photo in photos]) * np.array(shares, float))

    def explain(self, images, count, chosen=None):
        """The maps of a batch, for a run.

        Args:
            images: uint8 (N, H, W, channels), of the network's input size.
            count: int, how many of them matter.
            chosen: list of class indices, or int (R, N), of each photo; default: those of the object.

        Returns:
            ExplainedBatch.
        """
        found = self.explanation(images, count, chosen)
        probabilities = self.classifier.with_groups(self.classifier.probabilities(found.logits), self.groups)
        kind, names = kind_of(self.method), self.classifier.class_names
        maps = [maps_of_photo(found, index, names, kind) for index in range(count)]
        zero = [zero_maps(of_photo) for of_photo in maps]
        return ExplainedBatch(found.logits, probabilities, maps, zero, largest_gaps(found))

    def check_guided(self, way_out):
        """Raise UserError where guided gradients, or the deconvnet, are made and not defined, see `check_guided`.

        Args:
            way_out: str, how guided gradients are left out.
        """
        if self.guided or self.method == "deconvnet":
            way_out = way_out if self.guided else "expected another method"
            check_guided(self.classifier.structure, way_out, self.method)

    @property
    def outputs(self):
        """The Outputs that a run has of each photo."""
        names = self.classifier.class_names
        with_probabilities = self.classifier.has_probabilities
        with_gaps = self.method == "integrated-gradients"
        return Outputs(self.input_spec.class_names, with_probabilities, self.groups, names, len(self.chosen), with_gaps)

    @property
    def kinds(self):
        """Kind of map -> whether it has two signs."""
        of_method = {kind_of(self.method): METHODS[self.method].signed}
        return of_method | {"guided_backprop": True, "guided_gradcam": True} if self.guided else of_method

    @property
    def titles(self):
        """Kind of map -> its title above a panel."""
        return titles_of(self.method, self.counterfactual, self.options.contrast_name)

    @property
    def made(self):
        """How the maps were made, for the heading of a panel."""
        against = "against the class, " if self.counterfactual else ""
        what = f"of layer {self.layer}" if self.layer else self.options.words(self.method)
        return f"{METHODS[self.method].title} {against}{what}, {Path(self.classifier.source).name}"

    @property
    def description(self):
        """What is about to be computed of what, for the user."""
        structure, layer = self.classifier.structure, self.layer
        fed, *known = self.classifier.description.splitlines()
        what = f"{self.method} {self.options.words(self.method)}"
        if layer:
            run, runs = structure.runs[layer], structure.calls[layer]
            which = "the last" if run == runs else f"number {run}, which sees the photo,"
            shared = f", {which} of its {runs} runs" if runs > 1 else ""
            what = f"{self.method} of layer {layer}, {'x'.join(map(str, structure.sizes[layer]))}{shared}"
        return "\n".join([f"{fed}; the score is {structure.score}{self.options.against}", *known, what])

    def explanation(self, images, count, chosen=None):
        """The Explanation of a batch; the arguments as for `explain`."""
        classes = np.array(self.chosen if chosen is None else chosen, np.int32)
        if classes.ndim == 1:
            classes = np.repeat(classes[:, None], len(images), axis=1)  # (R, N)
        return Explanation(*self.run_batch(np.arange(len(images)), count, images, classes))

    def run_portion(self, portion, count, images, classes):
        """The Explanation of some photos of a batch, `portion` int (n,), as NumPy arrays."""
        inputs = ops.convert_to_tensor(self.classifier.prepare(images[portion]))
        found = as_arrays(self.run(inputs, ops.convert_to_tensor(classes[:, portion]), count))
        logits = self.classifier.checked_logits(found.outputs, found.logits, found.cams, found.guided)
        found = found._replace(logits=logits)
        if self.input_spec.bgr and found.guided is not None:
            found = found._replace(guided=found.guided[..., ::-1], products=found.products[..., ::-1])
        if self.input_spec.bgr and self.method in PIXEL_KINDS:
            found = found._replace(cams=found.cams[..., ::-1])
        return found


def as_arrays(found):
    """An Explanation of tensors as one of NumPy arrays."""
    return keras.tree.map_structure(lambda part: part if part is None else ops.convert_to_numpy(part), found)


def largest_gaps(found):
    """The largest completeness gap of each photo of an Explanation, float (N,), or None."""
    return None if found.gaps is None else np.abs(found.gaps).max(axis=0)


def maps_of_photo(found, index, names, kind):
    """One photo's maps: dict of kind -> dict of class name -> float (h, w), or (H, W, channels).

    Args:
        found: Explanation of a batch, NumPy arrays.
        index: int, of the photo in the batch.
        names: list of str, classes and groups of classes.
        kind: str, of its `cams`.
    """
    chosen = [names[row[index]] for row in found.chosen]
    maps = {kind: [values[index] for values in found.cams]}
    if found.guided is not None:
        maps["guided_backprop"] = [values[index] for values in found.guided]
        maps["guided_gradcam"] = [values[index] for values in found.products]
    return {kind: dict(zip(chosen, of_kind, strict=True)) for kind, of_kind in maps.items()}


def zero_maps(maps):
    """Which of a photo's maps are zero everywhere, and why: dict of the map's name -> str.

    Args:
        maps: dict of kind -> dict of class name -> array.
    """
    of_kinds = ((kind, name, values) for kind in WHY_ZERO for name, values in maps.get(kind, {}).items())
    return {f"{kind}_for_{name}": WHY_ZERO[kind] for kind, name, values in of_kinds if not values.any()}


# ---------------------------------------------------------------- compiled


class CompiledMaps:
    """Several kinds of map of a network, and guided backpropagation, compiled together.

    True and guided gradients of all maps come from the same forward pass, one for every CLASSES_AT_ONCE classes.
    Score-CAM runs the network again for each feature, Ablation-CAM what of it lies behind the layer, and a Sampler runs
    it on changed photos.

    Args:
        network: keras.Model, images to logits or probabilities.
        structure: Structure of the network.
        maps: list of (layer, method): the path of the layer whose output is A, of its last call if it is shared, or
            None for a method that has none; and a key of METHODS.
        counterfactual: bool, as for `gradient_maps`.
        with_guided: bool, do guided backpropagation too.
        groups: list of lists of class indices, each explained as one class and numbered after the network's own.
        options: MapOptions, from `options_for` the classifier.
    """

    def __init__(
        self,
        network,
        structure,
        maps,
        counterfactual=False,
        with_guided=True,
        groups=(),
        options=MapOptions(),  # noqa: B008
    ):
        self.maps = [(layer, METHODS[method]) for layer, method in maps]
        self.structure, self.counterfactual, self.with_guided = structure, counterfactual, with_guided
        self.score = ExplainedScore(structure.class_count, groups, options.contrast)
        layers = [layer for layer, method in self.maps if method.of_layer]
        self.run = tapped_run(network, structure, list(dict.fromkeys(layers)))
        self.sampler = Sampler(network, structure, self.score, options)
        self.explain_at_once = compiled(self.from_one_pass, network)
        if any(method.needs == "masked scores" for _, method in self.maps):
            self.logits_of = compiled(lambda images: self.run(images, lambda path, a: a)[0], network)
        ablated = [layer for layer, method in self.maps if method.needs == "ablated scores"]
        self.logits_behind = {layer: compiled(ablated_run(self.run, structure, layer), network) for layer in ablated}

    def __call__(self, images, classes, count=None):
        """Explain classes of photos.

        Args:
            images: float32 (N, H, W, channels), a tensor.
            classes: int32 (R, N), a tensor; PREDICTED, and below it, where the network is to choose.
            count: int, how many of the images matter, default all. Where a method takes long, the maps of the others
                are zero.

        Returns:
            Explanation of tensors without products; its `features` are a dict by layer, its `cams` are a list in
            the order of the maps.
        """
        count = len(images) if count is None else count
        parts = [self.explain_at_once(images, rows) for rows in portions(classes)]
        found = parts[0]
        if len(parts) > 1:
            join = partial(joined, ops.concatenate, rows=len(classes))
            of_classes = [(part.chosen, part.cams, part.guided) for part in parts]
            chosen, cams, guided = keras.tree.map_structure(join, *of_classes)
            found = found._replace(chosen=chosen, cams=cams, guided=guided)
        cams = list(found.cams)
        for number, (layer, method) in enumerate(self.maps):
            if method.needs == "samples":
                cams[number], gaps = self.sampler(method, images, found.chosen, count)
                found = found._replace(gaps=gaps)
            if method.needs in ("masked scores", "ablated scores"):
                features, logits = found.features[layer][:count], found.logits[:count]
                pairs = zip(images[:count], features, strict=True)
                changed = ops.stack([self.changed_logits(method, layer, *pair) for pair in pairs])  # (count, K, C)
                some = [
                    score_map(method, features, changed, logits, lambda y, c=chosen[:count]: self.score(y, c)[0])
                    for chosen in found.chosen
                ]
                cams[number] = ops.pad(ops.stack(some), ((0, 0), (0, len(images) - count), (0, 0), (0, 0)))
        return found._replace(cams=cams)

    def from_one_pass(self, images, classes):
        """The maps of one class after the other from one forward pass; what is compiled."""
        seen = ForwardPass(self.run, self.structure, images)
        _, ranked = ops.top_k(seen.logits, self.structure.class_count)  # (N, C), the most probable first
        found = []
        for wanted in ops.unstack(classes, axis=0):
            rank = ops.maximum(PREDICTED - wanted, 0)[:, None]  # (N, 1)
            of_rank = ops.take_along_axis(ops.cast(ranked, "int32"), rank, axis=1)[:, 0]
            chosen = ops.where(wanted < 0, of_rank, wanted)  # (N,)
            _, u = self.score(seen.logits, chosen)  # (N, C)
            guided = guided_backpropagation(seen, u) if self.with_guided else None
            found.append((chosen, gradient_maps(seen, u, images, self.maps, self.counterfactual), guided))
        chosen, cams, guided = keras.tree.map_structure(partial(joined, ops.stack), *found)
        return Explanation(seen.logits, seen.outputs, chosen, seen.features, cams, guided, None)

    def changed_logits(self, method, layer, image, features):
        """The logits float32 (K, C) of a photo changed feature by feature, as a method needs them.

        Args:
            method: Method.
            layer: str, path of the layer of the features.
            image: float32 (H, W, channels), the network's input.
            features: float32 (h, w, K).
        """
        if method.needs == "masked scores":
            return logits_through_masks(self.logits_of, image, features, self.structure.extent_of(layer))
        return logits_without_features(self.logits_behind[layer], image, features)


def compiled_map(network, structure, layer=None, method="grad-cam", **settings):
    """Compile one kind of map, guided backpropagation and guided Grad-CAM.

    Args:
        network: keras.Model, images to logits or probabilities.
        structure: Structure of the network.
        layer: str, path of the layer whose output is A; default: structure.target.
        method: str, a key of METHODS.
        settings: as for `CompiledMaps`; `options.smooth` of them is done here.

    Returns:
        function with the arguments of a CompiledMaps. Its Explanation has `features` and `cams` of the one
        map, and in `products` its guided Grad-CAM.
    """
    layer = (layer or structure.target) if METHODS[method].of_layer else None
    extent = structure.extent_of(layer) if layer else None
    explain_all = CompiledMaps(network, structure, [(layer, method)], **settings)
    options = settings.get("options", MapOptions())
    if options.smooth > 1:
        explain_all = Smoothed(explain_all, extent, options)

    def explain_one(images, classes, count=None):
        found = explain_all(images, classes, count)
        cams, products = found.cams[0], None
        if found.guided is not None:
            products = ops.stack([guided_grad_cam(*pair, extent) for pair in zip(found.guided, cams, strict=True)])
        return found._replace(features=found.features.get(layer), cams=cams, products=products)

    return explain_one


def portions(classes):
    """Split classes (R, N) into rows of CLASSES_AT_ONCE; the last is filled up, so that all have one shape."""
    rows = len(classes)
    if rows <= CLASSES_AT_ONCE:
        return [classes]
    every = np.minimum(np.arange(-(-rows // CLASSES_AT_ONCE) * CLASSES_AT_ONCE), rows - 1)
    return [ops.take(classes, indices, axis=0) for indices in every.reshape(-1, CLASSES_AT_ONCE)]


def joined(join, *parts, rows=None):
    """The first rows of what `join` makes of a list of tensors; None of None."""
    return None if parts[0] is None else join(parts)[:rows]
