"""The compiled explainer: one forward pass of a network, and many maps from it.

What is computed from a pass is the caller's: here is how it is compiled, shared out among classes, and how the photos
that Score-CAM and Ablation-CAM change go through the network.
"""

from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from camlib.attribution.methods import score_cam_masks
from camlib.attribution.tracing import watched
from camlib.backend import compiled, differentiate

CHUNK = 32  # changed photos per forward pass of Score-CAM and Ablation-CAM
CLASSES_AT_ONCE = 8  # per forward pass: each takes its own part of the compiled program
FLOAT16_SCALE = 4096.0  # of gradients, which float16 holds down to 6e-8 only
PREDICTED = -1  # stands for "the class the network predicts" among class indices


class Explanation(NamedTuple):
    """What an explainer returns, for R classes of each of N photos; float64 for float32 where the network computes so.

    Attributes:
        logits: float32 (N, C).
        outputs: float32 (N, C), the network's own.
        chosen: int32 (R, N), the classes explained.
        features: float32 (N, h, w, K), the layer's output A.
        cams: float32 (R, N, h, w).
        strengths: float32 (R, N), the largest magnitude of dY/dA; None for methods that take no gradients.
        guided: float32 (R, N, H, W, channels), guided gradients of the score with respect to the network's input.
        products: float32 like guided, guided Grad-CAM. Both None where they are not asked for.
    """

    logits: object
    outputs: object
    chosen: object
    features: object
    cams: object
    strengths: object
    guided: object
    products: object


PHOTO_AXES = Explanation(0, 0, 1, 0, 1, 1, 1, 1)  # which axis of each is that of the photos


def widened(values):
    """A tensor in float32 at least: half precision is widened, float64 stays what it is."""
    return ops.cast(values, "float64" if keras.backend.standardize_dtype(values.dtype) == "float64" else "float32")


def as_arrays(found):
    """An Explanation of tensors as one of NumPy arrays."""
    return Explanation(*(None if part is None else ops.convert_to_numpy(part) for part in found))


def targets_of(class_count, groups=()):
    """Which classes each class, and each group of classes, stands for: bool (C + groups, C)."""
    targets = np.eye(class_count + len(groups), class_count, dtype=bool)
    for row, group in enumerate(groups, start=class_count):
        targets[row, list(group)] = True
    return targets


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


# ---------------------------------------------------------------- one forward pass


class ForwardPass:
    """What one forward pass shows, and the gradients that can be had of it, in float32, or float64 as the network.

    Attributes:
        logits: float32 (N, C).
        outputs: float32 (N, C), the network's own.
        features: dict of layer's path -> float32 (N, h, w, K).

    Args:
        run: as `runner` makes it.
        plan: Survey of the network.
        images: float32 (N, H, W, channels).
    """

    def __init__(self, run, plan, images):
        self.plan = plan
        logits, outputs, features, self.pull_to_features, self.pull_to_images = differentiate(run, images)
        self.logits, self.outputs = widened(logits), widened(outputs)
        self.features = self.pictures(features)
        self.dtype = keras.backend.standardize_dtype(logits.dtype)
        # in float16 small gradients would vanish; they are linear in u, so that it may be large
        self.scale = FLOAT16_SCALE if self.dtype == "float16" else 1.0

    def gradients_at_features(self, u):
        """u^T dlogits/dA for u float32 (N, C): dict of layer's path -> float32 (N, h, w, K)."""
        found = self.pull_to_features(ops.cast(u * self.scale, self.dtype))
        return {layer: values / self.scale for layer, values in self.pictures(found).items()}

    def gradients_at_images(self, u):
        """u^T dlogits/dimages for u float32 (N, C): float32 (N, H, W, channels)."""
        return widened(self.pull_to_images(ops.cast(u * self.scale, self.dtype))) / self.scale

    def pictures(self, found):
        """What layers put out, or gradients like it, as (N, h, w, K)."""
        return {layer: self.plan.as_picture(layer, widened(values)) for layer, values in found.items()}


def runner(network, plan, layers):
    """The function (images, tap) -> (logits, outputs) of a network.

    `tap(layer, features)` is handed what the last run of each of the layers puts out, and returns what to go on with.
    """

    def run(images, tap):
        runs_left = {layer: plan.runs[layer] for layer in layers}

        def tap_last_run(path, output):
            if path in runs_left:
                runs_left[path] -= 1
                return output if runs_left[path] else tap(path, output)
            return output

        with watched(tap_last_run) as record:
            outputs = plan.port.run(network, images)
        return plan.scores_of(record, outputs)

    return run


def explained_at_once(network, plan, run, maps_of_class):
    """Compile one forward pass, and the maps of one class after the other from it.

    Args:
        network: keras.Model.
        plan: Survey of the network.
        run: as `runner` makes it.
        maps_of_class: function of (ForwardPass, chosen int32 (N,)) -> (list of maps (N, h, w) or None, list of
            strengths (N,) or None, guided gradients (N, H, W, channels) or None).

    Returns:
        function of (images float32 (N, H, W, channels), classes int32 (R, N), PREDICTED where the network is to choose)
        -> Explanation without products, its `features` a dict by layer, its `cams` and `strengths` lists. There is one
        forward pass for every CLASSES_AT_ONCE classes.
    """

    def explain(images, classes):
        seen = ForwardPass(run, plan, images)
        predicted = ops.cast(ops.argmax(seen.logits, axis=1), "int32")
        found = []
        for wanted in ops.unstack(classes, axis=0):
            chosen = ops.where(wanted == PREDICTED, predicted, wanted)  # (N,)
            cams, strengths, guided = maps_of_class(seen, chosen)
            found.append((chosen, guided, *cams, *strengths))
        parts = [None if part[0] is None else ops.stack(part) for part in zip(*found, strict=True)]
        chosen, guided, *maps = parts
        cams, strengths = maps[: len(maps) // 2], maps[len(maps) // 2 :]
        return Explanation(seen.logits, seen.outputs, chosen, seen.features, cams, strengths, guided, None)

    explain_some = compiled(explain, network)

    def explain_all(images, classes):
        return joined([explain_some(images, rows) for rows in portions(classes)], len(classes))

    return explain_all


def portions(classes):
    """Split classes (R, N) into rows of CLASSES_AT_ONCE; the last is filled up, so that all have one shape."""
    rows = len(classes)
    if rows <= CLASSES_AT_ONCE:
        return [classes]
    chosen = [
        np.minimum(np.arange(start, start + CLASSES_AT_ONCE), rows - 1) for start in range(0, rows, CLASSES_AT_ONCE)
    ]
    return [ops.take(classes, indices, axis=0) for indices in chosen]


def joined(parts, rows):
    """The Explanations of `portions` as one of so many rows."""
    if len(parts) == 1:
        return parts[0]

    def join(values):
        return None if values[0] is None else ops.concatenate(values)[:rows]

    cams, strengths = (
        [join(values) for values in zip(*(getattr(part, name) for part in parts), strict=True)]
        for name in ("cams", "strengths")
    )
    chosen, guided = join([part.chosen for part in parts]), join([part.guided for part in parts])
    return parts[0]._replace(chosen=chosen, cams=cams, strengths=strengths, guided=guided)


# ---------------------------------------------------------------- photos and features that are changed


def changer_of(method, layer, network, plan, run):
    """What gives the logits (K, C) of a photo changed feature by feature, or None where a method does without."""
    if method.needs == "masked scores":
        logits_of = compiled(lambda images: run(images, lambda path, a: a)[0], network)
        return lambda image, features: logits_through_masks(logits_of, image, features)
    if method.needs == "ablated scores":

        def logits_behind(images, features, kept):
            def without(path, a):
                if path != layer:
                    return a
                if path in plan.tokens:  # whose class token is no part of the features
                    return a * ops.cast(kept[:, 0], a.dtype)
                return ops.cast(features * kept, a.dtype)

            return run(images, without)[0]

        logits_behind = compiled(logits_behind, network)
        return lambda image, features: logits_without_features(logits_behind, image, features)
    return None


def logits_through_masks(logits_of, image, features):
    """The logits of a photo seen through one feature at a time, for Score-CAM.

    Args:
        logits_of: function, (N, H, W, channels) -> (N, C).
        image: float32 (H, W, channels), the network's input; zero is what a mask hides.
        features: float32 (h, w, K).

    Returns:
        float32 (K, C).
    """
    masks = score_cam_masks(features[None], *image.shape[:2])[0]  # (H, W, K)
    masks = ops.moveaxis(masks, -1, 0)[..., None]  # (K, H, W, 1)
    return in_chunks(lambda chosen: logits_of(image * ops.take(masks, chosen, axis=0)), len(masks))


def logits_without_features(logits_behind, image, features):
    """The logits of a photo with one feature set to zero at a time, for Ablation-CAM.

    Args:
        logits_behind: function of (images (N, H, W, channels), features (1, h, w, K), kept (N, 1, 1, K)) -> (N, C).
        image: float32 (H, W, channels), the network's input.
        features: float32 (h, w, K).

    Returns:
        float32 (K, C).
    """
    channels = features.shape[-1]
    images, features = ops.repeat(image[None], CHUNK, axis=0), features[None]

    def logits_without(chosen):
        kept = 1 - ops.one_hot(chosen, channels, dtype=features.dtype)[:, None, None]  # (CHUNK, 1, 1, K)
        return logits_behind(images, features, kept)

    return in_chunks(logits_without, channels)


def in_chunks(function, count):
    """Apply function((CHUNK,) indices) -> (CHUNK, C) to 0 .. count - 1: float32 (count, C)."""
    chosen = [np.minimum(np.arange(start, start + CHUNK), count - 1) for start in range(0, count, CHUNK)]
    return widened(ops.concatenate([function(indices) for indices in chosen])[:count])


def explained_with_changes(explain_at_once, maps, network, plan, run, targets, map_of_scores):
    """Add the maps of methods that take the scores of changed photos to those of one forward pass.

    Args:
        explain_at_once: as `explained_at_once` makes it.
        maps: list of (layer, Method).
        network: keras.Model.
        plan: Survey of the network.
        run: as `runner` makes it.
        targets: bool (classes and groups, C), as `targets_of` makes them.
        map_of_scores: function of (Method, features (N, h, w, K), logits of changed photos (N, K, C), logits (N, C),
            targets bool (N, C)) -> (N, h, w).

    Returns:
        function of (images, classes, count: how many of the images matter, default all) -> Explanation; maps of changed
        photos are zero for images that do not matter, since they take long.
    """
    changers = [changer_of(method, layer, network, plan, run) for layer, method in maps]

    def explain(images, classes, count=None):
        count = len(images) if count is None else count
        found = explain_at_once(images, classes)
        cams = list(found.cams)
        for number, ((layer, method), logits_of_changes) in enumerate(zip(maps, changers, strict=True)):
            if logits_of_changes:
                features, logits = found.features[layer][:count], found.logits[:count]
                changed = ops.stack([logits_of_changes(*pair) for pair in zip(images[:count], features, strict=True)])
                some = [
                    map_of_scores(method, features, changed, logits, ops.take(targets, chosen[:count], axis=0))
                    for chosen in found.chosen
                ]
                cams[number] = ops.pad(ops.stack(some), ((0, 0), (0, len(images) - count), (0, 0), (0, 0)))
        return found._replace(cams=cams)

    return explain
