"""Scores of maps: where one lies, whether its network uses it, whether it depends on the network."""

import contextlib
from typing import NamedTuple

import cv2
import numpy as np

from camlib.evaluation import metrics
from camlib.evaluation.annotations import truth_kind
from camlib.evaluation.score_tables import NO_NETWORK
from camlib.photos import PhotoError
from camlib.plots.colours import resize_map, smoothed_magnitude, superposition_scale_of
from camlib.plots.page import encode_overlay, encode_photo
from camlib.runs.claim import NOT_FINITE

OUTLINE_ERROR = 0.003  # of the longer side: how far a drawn border may lie from the mask's
MOST_STAGES = 15  # of the cascading randomisation; networks with more layers change several at a time


# ---------------------------------------------------------------- where a map lies


class Truth(NamedTuple):
    """Where an item's animal is, at the size of its picture.

    Attributes:
        inside: bool (H, W).
        near: bool (H, W), the same and what lies within the pointing game's tolerance.
        boxes: list of (left, top, right, bottom).
        elsewhere: bool (H, W), objects of other classes where they are none of this one, or None without such.
        classes: int, that the photo has annotations of.
    """

    inside: np.ndarray
    near: np.ndarray
    boxes: list
    elsewhere: np.ndarray | None = None
    classes: int = 1


def truth_of(item, shape):
    """The Truth of an item with an annotation at the size (H, W) of a picture; None without.

    Raises:
        PhotoError: its mask cannot be read, or marks nothing, as boxes beside the photo do.
    """
    if not item.annotation:
        return None
    inside = item.annotation.inside(*shape, item.most_pixels)
    if not inside.any():
        raise PhotoError(f"its annotation marks no pixel as {item.class_name}; expected a mask or boxes that do")
    boxes = item.annotation.boxes_in(*shape)
    if not boxes:
        y, x = np.nonzero(inside)
        boxes = [(x.min(), y.min(), x.max() + 1, y.max() + 1)]
    tolerance = metrics.MOST_TOLERANCE * shape[1] / item.annotation.width
    others = [one for one in item.of_photo if one.class_name != item.class_name]
    elsewhere = [one.inside(*shape, item.most_pixels) & ~inside for one in others]
    return Truth(inside, metrics.grown(inside, tolerance), boxes,
                 np.logical_or.reduce(elsewhere) if others else None,
                 1 + len({one.class_name for one in others}))  # fmt: skip


def outlines_of(item, truth):
    """Borders of what an item's annotation marks, its mask and its boxes, for drawing.

    Args:
        item: Item.
        truth: its Truth, or None.

    Returns:
        list of polygons, each a list of (x, y) in shares of the picture's width and height.
    """
    if not truth:
        return []
    height, width = truth.inside.shape
    polygons = [np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)]) for x0, y0, x1, y1 in truth.boxes]
    if item.annotation.mask:
        found, _ = cv2.findContours(truth.inside.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        # centres of pixels, and no more corners than a picture shows
        polygons += [cv2.approxPolyDP(one, OUTLINE_ERROR * max(height, width), True)[:, 0] + 0.5 for one in found]
    return [np.clip(one / (width, height), 0, 1).round(4).tolist() for one in polygons if len(one) > 2]


def localise(values, truth, extent=None):
    """Where a map float32 (h, w) of a part of the photo lies: dict of score -> number, list or None."""
    inside = truth.inside
    large = resize_map(values, *inside.shape, extent)
    places = () if truth.elsewhere is None else (inside, truth.elsewhere)
    apart = {
        "peaks": [metrics.pointing(large, where) for where in places],
        "energies": [metrics.energy(large, where) for where in places],
        "classes": truth.classes,
    }
    return (apart if places else {}) | {
        "pointing": metrics.pointing(large, inside),
        "pointing_15": metrics.pointing(large, truth.near),
        "energy": metrics.energy(large, inside),
        "boxes": metrics.box_overlaps(large, truth.boxes).tolist(),
        "counts": metrics.pixel_counts(large, inside).tolist(),
        "border": metrics.border_energy(large, inside),
        "edge": metrics.edge_width(large),
        "grid": list(values.shape),
    }


def scores_of_map(values, other, truth, picture, kind):
    """What is kept of one map: where it lies, how much it changes with the class, and its picture and Scale
    for the page."""
    gradients = kind.of_pixels
    scores = localise(values, truth, kind.cover.of(truth.inside.shape, gradients)) if truth else {}
    shown = smoothed_magnitude(values) if gradients else values
    scale = superposition_scale_of(kind.is_signed, [shown], capped=True)
    return scores | {
        "zero": float(not values.any()),
        "other_class": None if other is None else metrics.rank_correlation(values, other),
        "picture": encode_overlay(shown, scale, picture.shape[:2], extent=kind.cover.of(picture.shape[:2], gradients)),
        "scale": list(scale),
    }


def add_scores(results, scored, item, picture, outputs, maps, with_baselines):
    """Score an item's maps, and add what is kept of them and of its network's answer to the results.

    Args:
        results: Results.
        scored: ScoredNetwork or SavedMaps, with its name, class_names, targets_of and kinds.
        item: Item.
        picture: uint8 (H, W, 3), its photo.
        outputs: float (C,), the network's probabilities.
        maps: dict of name -> (map of the item's class float (h, w), that of another class or None).
        with_baselines: bool, score maps that know no network, too.

    Raises:
        PhotoError: its truth cannot be read, or the outputs are not finite.
    """
    check_finite(outputs)
    label, truth = scored.class_names.index(item.class_name), truth_of(item, picture.shape[:2])
    of_item = {name: scores_of_map(*pair, truth, picture, scored.kinds[name]) for name, pair in maps.items()}
    if with_baselines and truth:
        lie = {name: localise(values, truth) for name, values in metrics.baseline_maps(picture, item.seed).items()}
        results.add(NO_NETWORK, "maps", item, truth=truth_kind(item), maps=lie)
    results.add(scored.name, "maps", item, label=label, outputs=outputs.tolist(),
                right=bool(scored.targets_of(np.array([label]))[0, outputs.argmax()]), truth=truth_kind(item),
                picture=encode_photo(picture), outlines=outlines_of(item, truth), maps=of_item)  # fmt: skip


# ---------------------------------------------------------------- whether the network uses what the map shows


def fills_of(pixels, names):
    """What takes the place of a photo's pixels: dict of name -> float32 like pixels.

    Args:
        pixels: uint8 (H, W, channels).
        names: of FILLS: "blur", a Gaussian of a tenth of the longer side; "mean", the photo's mean colour.
    """
    pixels = pixels.astype(np.float32)
    fills = {
        "blur": cv2.GaussianBlur(pixels, (0, 0), max(pixels.shape) / 10).reshape(pixels.shape),
        "mean": np.broadcast_to(pixels.mean(axis=(0, 1)), pixels.shape),
    }
    return {name: fills[name] for name in names}


def faithfulness(scored, pixels, maps, label, fill_names):
    """Whether a network uses what maps show, for one photo and class.

    Args:
        scored: ScoredNetwork.
        pixels: uint8 (H, W, channels), the network's input before it is prepared.
        maps: dict of name -> float32 (h, w), baselines among them.
        label: int, the class.
        fill_names: list of str, of FILLS.

    Returns:
        dict of name -> dict of score -> number or list.
    """
    prepare, size, (target,) = scored.prepare, pixels.shape[:2], scored.targets_of(np.array([label]))
    image, black = prepare(pixels[None])[0], prepare(np.zeros_like(pixels)[None])[0]
    fills = {name: prepare(fill[None])[0] for name, fill in fills_of(pixels, fill_names).items()}
    extents = {  # of the network's input; baselines cover all of it
        name: None if kind.of_pixels else kind.cover.extent for name, kind in scored.kinds.items()
    }
    large = {name: resize_map(values, *size, extents.get(name)) for name, values in maps.items()}
    orders = {name: metrics.pixel_order(values) for name, values in large.items()}
    shown = {name: metrics.normalised(values) for name, values in large.items()}
    masked = {name: black + (image - black) * values[..., None] for name, values in shown.items()}
    without = {name: prepare(255 * metrics.road_images(pixels / 255, order)) for name, order in orders.items()}
    everything = np.concatenate([image[None], np.stack(list(masked.values())), *without.values()])
    probabilities = scored.probability(everything, np.broadcast_to(target, (len(everything), len(target))))
    whole, of_masked, of_without = np.split(probabilities, [1, 1 + len(maps)])
    again = maps_again(scored, masked, label)
    check_finite(probabilities, *again.values())
    scores = {}
    for index, name in enumerate(maps):
        drop = metrics.average_drop(whole[0], of_masked[index])
        scores[name] = {
            "drop": drop,
            "increase": float(of_masked[index] > whole[0]),
            "road": metrics.road(of_without[8 * index : 8 * index + 8]),
        }
        if name in again:
            coherent = metrics.coherency(shown[name], metrics.normalised(resize_map(again[name], *size)))
            scores[name]["adcc"] = metrics.adcc(drop, coherent, float(shown[name].mean()))
        for fill, values in fills.items():
            deletion, insertion = scored.curves(image, values, orders[name], target)
            check_finite(deletion, insertion)
            scores[name] |= {f"deletion_{fill}": deletion.tolist(), f"insertion_{fill}": insertion.tolist()}
    return scores


def maps_again(scored, masked, label):
    """Each kind of map of the photo as seen through that map, for coherency.

    Args:
        scored: ScoredNetwork.
        masked: dict of name -> float32 (H, W, channels), prepared; baselines are left out.
        label: int.

    Returns:
        dict of name -> float32 (h, w).
    """
    fast, maps = [kind.name for kind in scored.fast_kinds], {}
    if fast:
        images = np.stack([masked[name] for name in fast])
        _, maps = scored.fast_maps(images, np.full((1, len(images)), label, np.int32))
    of_each = {name: masked[name][None] for name in scored.explain_slow}
    slow = scored.slow_maps(of_each, np.full((1, 1), label, np.int32))
    return {name: maps[name][0, index] for index, name in enumerate(fast)} | {name: slow[name][0, 0] for name in slow}


# ---------------------------------------------------------------- randomised networks


def stages_of(network):
    """The layers with weights in groups, from the output down: list of lists of keras layers."""
    owners = [
        layer
        for layer in network._flatten_layers(include_self=False)
        if layer.weights and not any(inner.weights for inner in layer._flatten_layers(include_self=False))
    ]
    return [list(group) for group in np.array_split(np.array(owners[::-1], object), min(len(owners), MOST_STAGES))]


@contextlib.contextmanager
def kept_weights(network):
    """Give a network its weights back at the end."""
    values = network.get_weights()
    try:
        yield
    finally:
        network.set_weights(values)


def randomise(layers, generator):
    """Shuffle the values of each of the layers' weights: what was learnt is gone, their distribution stays."""
    for layer in layers:
        values = layer.get_weights()
        layer.set_weights([generator.permutation(one.ravel()).reshape(one.shape) for one in values])


def cascade(scored, images, labels, seed=0):
    """Cascading randomisation (Adebayo et al. 2018, section 3.1): layers are randomised from the output down.

    Args:
        scored: ScoredNetwork.
        images: float32 (N, H, W, channels), prepared.
        labels: int32 (N,).
        seed: int.

    Returns:
        (stages, scores): names of the last layer of each stage, and for each photo a dict of map -> dict of
        "rank_correlation" and "ssim" -> list with one number a stage, of the map against the trained network's.
    """
    size, generator = images.shape[1:3], np.random.default_rng(seed)
    _, trained = scored.fast_maps(images, labels[None])
    scores = [{name: {"rank_correlation": [], "ssim": []} for name in trained} for _ in images]
    stages = stages_of(scored.network)
    with kept_weights(scored.network):
        for layers in stages:
            randomise(layers, generator)
            _, maps = scored.fast_maps(images, labels[None])
            for name in trained:
                for photo, (before, after) in enumerate(zip(trained[name][0], maps[name][0], strict=True)):
                    found = scores[photo][name]
                    found["rank_correlation"].append(metrics.rank_correlation(before, after))
                    large = resize_map(before, *size), resize_map(after, *size)
                    found["ssim"].append(metrics.structural_similarity(*large))
    return [layers[-1].name for layers in stages], scores


@contextlib.contextmanager
def listed_if_unreadable(item, failed):
    """List an item whose truth cannot be read among the failed ones, and go on."""
    try:
        yield
    except PhotoError as error:
        failed[str(item.path)] = str(error)


def check_finite(*numbers):
    """Raise PhotoError where a network's numbers for a photo, float arrays, are not finite."""
    if not all(np.isfinite(some).all() for some in numbers):
        raise PhotoError(NOT_FINITE)
