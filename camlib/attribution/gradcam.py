"""Grad-CAM (Selvaraju et al. 2017) and its family, compiled: one forward pass of a network, and many maps from it."""

from collections.abc import Sequence
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from camlib.attribution import METHODS, ExplainedBatch, Outputs, titles_of
from camlib.attribution.classifier import Classifier
from camlib.attribution.guided import guided_backpropagation, guided_grad_cam
from camlib.attribution.methods import ablated_run, logits_through_masks, logits_without_features, weighed
from camlib.attribution.tracing import ForwardPass, tapped_run
from camlib.backend import compiled
from camlib.console import UserError, did_you_mean
from camlib.memory import halving
from camlib.preprocessing import PREDICTED, chosen_classes, classes_of_photos, listed

CLASSES_AT_ONCE = 8  # per forward pass: each takes its own part of the compiled program


class Explanation(NamedTuple):
    """What is found of R classes of each of N photos; float64 for float32 where the network computes so.

    Attributes:
        logits: float32 (N, C).
        outputs: float32 (N, C), the network's own.
        chosen: int32 (R, N), the classes explained.
        features: float32 (N, h, w, K), the layer's output A.
        cams: float32 (R, N, h, w).
        guided: float32 (R, N, H, W, channels), guided gradients of the score with respect to the network's input.
        products: float32 like guided, guided Grad-CAM. Both None where they are not asked for.
        extent: float64 (N, 4), the part of each photo that its maps `cams` cover: top, left, bottom, right in pixels of
            the photo as it was given; nothing is claimed outside it, and what is outside the photo was padded.
    """

    logits: np.ndarray
    outputs: np.ndarray
    chosen: np.ndarray
    features: np.ndarray
    cams: np.ndarray
    guided: np.ndarray | None
    products: np.ndarray | None
    extent: np.ndarray | None = None


PHOTO_AXES = Explanation(0, 0, 1, 0, 1, 1, 1, 0)  # which axis of each is that of the photos
WHY_ZERO = {  # kind of map -> why one may be zero everywhere
    "gradcam": "its weighted features are nowhere positive (--counterfactual maps what speaks against the class), or "
    "its score does not depend on the layer",
    "guided_backprop": "no positive gradient reaches the photo",
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


def score_of_targets(logits, targets):
    """The score Y of a class, or of several taken together, and its gradient with respect to the logits.

    Y = log sum over the target's classes of exp(logit_c). Of one class that is its logit. Of several ("dog" for the
    breeds of ImageNet) it is the logit that belongs to the sum of their probabilities.

    Args:
        logits: float32 (..., C).
        targets: bool (..., C), the target's classes.

    Returns:
        (Y (...), dY/dlogits (..., C)), float32.
    """
    logits = ops.where(targets, logits, -np.inf)
    return ops.logsumexp(logits, axis=-1), ops.softmax(logits, axis=-1)


def gradient_maps(seen, u, maps, counterfactual=False):
    """The maps of several layers and methods: the features A of a layer, weighed by the score's gradients.

    The counterfactual map takes the gradients with the other sign (Selvaraju et al. 2017, section 3.3).

    Args:
        seen: ForwardPass.
        u: float32 (N, C), dY/dlogits.
        maps: list of (layer, Method).
        counterfactual: bool, map what speaks against the class.

    Returns:
        list of maps float32 (N, h, w); None for methods that take the scores of changed photos.
    """
    sign = -1.0 if counterfactual else 1.0
    gradients = seen.gradients_at_features(u) if any(method.needs == "gradients" for _, method in maps) else {}
    cams = []
    for layer, method in maps:
        features = seen.features[layer]  # A (N, h, w, K)
        if method.needs == "gradients":
            cams.append(method.function(features, sign * gradients[layer]))  # (N, h, w)
        else:
            cams.append(method.function(features) if method.needs == "nothing" else None)
    return cams


def score_map(method, features, changed, logits, targets):
    """Score-CAM and Ablation-CAM: the features weighed by how the score changes with each of them.

    Args:
        method: Method.
        features: float32 (N, h, w, K).
        changed: float32 (N, K, C), the logits of the photo seen through, or without, the k-th feature.
        logits: float32 (N, C), of the photos.
        targets: bool (N, C).

    Returns:
        float32 (N, h, w).
    """
    scores, _ = score_of_targets(changed, targets[:, None])  # (N, K)
    score, _ = score_of_targets(logits, targets)  # (N,)
    return method.function(features, scores, score)


def targets_of(chosen, class_count, groups=()):
    """Which of the C classes are meant by a class, or by a group of classes: int (N,) -> bool (N, C).

    Args:
        chosen: int (N,), groups numbered from C on.
        class_count: int, C.
        groups: list of lists of class indices.
    """
    targets = chosen[:, None] == np.arange(class_count, dtype=np.int32)
    for number, group in enumerate(groups, start=class_count):
        targets = targets | ((chosen[:, None] == number) & np.isin(np.arange(class_count), group))
    return targets


# ---------------------------------------------------------------- Grad-CAM of a classifier


class GradCAM:
    """Maps of one layer of a classifier by Grad-CAM or another method, and guided backpropagation; compiled once.

    Attributes:
        classifier: Classifier.
        input_spec: InputSpec of its input.
        layer: str, path of the layer whose output is A.
        cover: Cover of each photo by the maps.
        chosen: list of class indices, those explained.

    Args:
        classifier: Classifier.
        layer: str, path of the layer; default: the last with a spatial output, pooling aside.
        method: str, a key of METHODS.
        guided: bool, do guided backpropagation and guided Grad-CAM too.
        counterfactual: bool, map what speaks against the class.
        classes: list of names (str) or indices (int), or words as after --classes, each explained for every photo.

    Raises:
        UserError: there is no such layer or class, or the axes of the layer's output are not the photo's.
    """

    conventions = (
        "gradcam_for_<class>.npy: float32 (h, w), the map of `method` of the layer at its own size, Y_c the logit; "
        "grad-cam is ReLU(sum_k alpha_k A_k), alpha_k = mean of dY_c/dA_k. guided_backprop_for_<class>.npy: float32 "
        "(H, W, 3), signed gradient of Y_c with respect to the network's input, RGB. guided_gradcam_for_<class>.npy: "
        "the latter times the former, enlarged bilinearly. None is scaled; the pictures are, to the largest value "
        "among the photo's classes, gradients to the 99.5th percentile. Of a network that computes in float64 all are "
        "float64."
    )

    def __init__(
        self,
        classifier: Classifier,
        layer: str | None = None,
        method: str = "grad-cam",
        guided: bool = True,
        counterfactual: bool = False,
        classes: Sequence[str | int] = ("predicted",),
    ) -> None:
        self.classifier, self.input_spec = classifier, classifier.input_spec
        self.layer = classifier.layer_to_map(layer)
        if method not in METHODS:
            raise UserError(
                f"method {method!r} is unknown{did_you_mean(str(method), METHODS)} expected {', '.join(METHODS)}"
            )
        self.cover = classifier.cover_of(self.layer)
        self.method, self.guided, self.counterfactual = method, guided, counterfactual
        self.chosen = chosen_classes(listed(classes), self.input_spec.class_names, classifier.groups)
        self.groups = classifier.groups_among(self.chosen)
        self.run = compiled_map(
            classifier.network,
            classifier.structure,
            self.layer,
            method,
            counterfactual=counterfactual,
            with_guided=guided,
            groups=list(classifier.groups.values()),
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
        maps = [maps_of_photo(found, index, self.classifier.class_names) for index in range(count)]
        zero = [zero_maps(of_photo) for of_photo in maps]
        return ExplainedBatch(found.logits, probabilities, maps, zero)

    @property
    def outputs(self):
        """The Outputs that a run has of each photo."""
        names = self.classifier.class_names
        with_probabilities = self.classifier.has_probabilities
        return Outputs(self.input_spec.class_names, with_probabilities, self.groups, names, len(self.chosen))

    @property
    def kinds(self):
        """Kind of map -> whether it has two signs."""
        return {"gradcam": METHODS[self.method].signed, "guided_backprop": True, "guided_gradcam": True}

    @property
    def titles(self):
        """Kind of map -> its title above a panel."""
        return titles_of(self.method, self.counterfactual)

    @property
    def made(self):
        """How the maps were made, for the heading of a panel."""
        against = "against the class, " if self.counterfactual else ""
        source = Path(self.classifier.source).name
        return f"{METHODS[self.method].title} {against}of layer {self.layer}, {source}"

    @property
    def description(self):
        """What is about to be computed of what, for the user."""
        structure, layer = self.classifier.structure, self.layer
        run, runs = structure.runs[layer], structure.calls[layer]
        which = "the last" if run == runs else f"number {run}, which sees the photo,"
        shared = f", {which} of its {runs} runs" if runs > 1 else ""
        size = "x".join(map(str, structure.sizes[layer]))
        fed, *known = self.classifier.description.splitlines()
        of_layer = f"{self.method} of layer {layer}, {size}{shared}"
        return "\n".join([f"{fed}; the score is {structure.score}", *known, of_layer])

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
        return found


def as_arrays(found):
    """An Explanation of tensors as one of NumPy arrays."""
    return keras.tree.map_structure(lambda part: part if part is None else ops.convert_to_numpy(part), found)


def maps_of_photo(found, index, names):
    """One photo's maps: dict of kind -> dict of class name -> float (h, w), or (H, W, channels).

    Args:
        found: Explanation of a batch, NumPy arrays.
        index: int, of the photo in the batch.
        names: list of str, classes and groups of classes.
    """
    chosen = [names[row[index]] for row in found.chosen]
    maps = {"gradcam": [values[index] for values in found.cams]}
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
    Score-CAM runs the network again for each feature, Ablation-CAM what of it lies behind the layer.

    Args:
        network: keras.Model, images to logits or probabilities.
        structure: Structure of the network.
        maps: list of (layer, method): the path of the layer whose output is A, of its last call if it is shared, and a
            key of METHODS.
        counterfactual: bool, as for `gradient_maps`.
        with_guided: bool, do guided backpropagation too.
        groups: list of lists of class indices, each explained as one class and numbered after the network's own.
    """

    def __init__(self, network, structure, maps, counterfactual=False, with_guided=True, groups=()):
        self.maps = [(layer, METHODS[method]) for layer, method in maps]
        self.structure, self.counterfactual, self.with_guided = structure, counterfactual, with_guided
        self.targets_of = partial(targets_of, class_count=structure.class_count, groups=groups)
        self.run = tapped_run(network, structure, list(dict.fromkeys(layer for layer, _ in maps)))
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
            if method.needs in ("masked scores", "ablated scores"):
                features, logits = found.features[layer][:count], found.logits[:count]
                pairs = zip(images[:count], features, strict=True)
                changed = ops.stack([self.changed_logits(method, layer, *pair) for pair in pairs])  # (count, K, C)
                some = [
                    score_map(method, features, changed, logits, self.targets_of(chosen[:count]))
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
            _, u = score_of_targets(seen.logits, self.targets_of(chosen))  # (N, C)
            guided = guided_backpropagation(seen, u) if self.with_guided else None
            found.append((chosen, gradient_maps(seen, u, self.maps, self.counterfactual), guided))
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
        settings: as for `CompiledMaps`.

    Returns:
        function with the arguments of a CompiledMaps. Its Explanation has `features` and `cams` of the one
        map, and in `products` its guided Grad-CAM.
    """
    layer = layer or structure.target
    explain_all = CompiledMaps(network, structure, [(layer, method)], **settings)

    def explain_one(images, classes, count=None):
        found = explain_all(images, classes, count)
        cams, products = found.cams[0], None
        if found.guided is not None:
            extent = structure.extent_of(layer)
            products = ops.stack([guided_grad_cam(*pair, extent) for pair in zip(found.guided, cams, strict=True)])
        return found._replace(features=found.features[layer], cams=cams, products=products)

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
