"""Score maps: do they point at the animal, does the network use what they show, do they depend on the network at all?

    python evaluate_maps.py                                   # both shipped networks on the demo set, 15 minutes
    python evaluate_maps.py --annotations my_set --maps cam grad-cam grad-cam@block4_conv3
    python evaluate_maps.py --annotations my_set --maps my_network.h5:cam --only localisation
    python evaluate_maps.py my_photos/val --only network      # class folders, without annotations

Writes tables (CSV and Markdown), figures and one HTML page to the output folder. Every score stands beside what maps
that know no network reach, and has a 95 % interval by resampling photos. The same command again does only what is
missing.
"""

import contextlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple
from zlib import crc32

from camlib.backend import device_name

# isort: split
import cv2
import numpy as np
from keras import ops

from camlib import metrics
from camlib.annotations import Annotation, read_annotations
from camlib.cam_family import METHODS
from camlib.console import EXIT_SOME_FAILED, ArgumentParser, Progress, UserError, run_script
from camlib.maps import (
    FAILED_FILE,
    capped_scale_of,
    claim_folder,
    encode_overlay,
    encode_photo,
    probabilities_of,
    resize_map,
    write_failed,
    write_whole,
)
from camlib.networks import IMAGENET_GROUPS, file_sha256, imagenet_names, input_shape_of, load_network, set_dtype
from camlib.perturbation import FILLS, deletion_insertion_function, probability_function
from camlib.photos import PhotoError, find_photos, read_batches
from camlib.report import NO_NETWORK, print_table, report
from camlib.watching import survey
from data.draw_demo import demo_folder
from gradcam_vgg16 import check_guided, check_layer, check_outputs, complete_meaning, joint_explainer, targets_of
from make_cam_maps import cam_function

# ---------------------------------------------------------------- settings

OUTPUT = Path("outputs/evaluation")
RESULTS_FILE = "results.jsonl"
MODELS = Path(__file__).parent / "models"
GAP_NETWORK, VGG_NETWORK = MODELS / "cam_4class.h5", MODELS / "vgg16_4class.h5"
DEFAULT_MAPS = (
    "cam", "grad-cam", "grad-cam@block4_conv3", "grad-cam@block3_conv3", "guided-backprop", "guided-grad-cam",
    "grad-cam++", "hires-cam", "layer-cam", "xgrad-cam", "element-wise", "eigen-cam", "ablation-cam", "score-cam",
)  # fmt: skip
GUIDED = ("guided-backprop", "guided-grad-cam")
PARTS = ("localisation", "faithfulness", "sanity", "network")
MOST_STAGES = 15  # of the cascading randomisation; networks with more layers change several at a time
CONVENTIONS = (
    "results.jsonl: one line for each photo, class and part of the evaluation; the tables are made from it. Maps are "
    "enlarged bilinearly to the photo. Values below zero are cut for energy, boxes, masks and precision."
)

# ---------------------------------------------------------------- what is evaluated


@dataclass(frozen=True)
class MapKind:
    """A kind of map of a network.

    Attributes:
        name: str, as tables show it.
        network: Path.
        method: a key of METHODS, "cam", or one of GUIDED.
        layer: str or None for the network's own target layer.
    """

    name: str
    network: Path
    method: str
    layer: str | None

    @property
    def is_signed(self):
        """Whether it has values below zero."""
        return self.method == "cam" or (self.method in METHODS and METHODS[self.method].signed)

    @property
    def is_slow(self):
        """Whether it runs the network once for each feature."""
        return self.method in METHODS and METHODS[self.method].needs not in ("gradients", "nothing")


def parse_map(text):
    """'FILE:METHOD@LAYER' -> MapKind; without a file it is of a shipped network.

    Raises:
        UserError: the method is unknown.
    """
    file, _, what = text.rpartition(":")
    method, _, layer = what.partition("@")
    known = ("cam", *GUIDED, *METHODS)
    if method not in known:
        raise UserError(
            f"--maps {text}: no method {method!r}; expected [FILE:]METHOD[@LAYER], METHOD {', '.join(known)}"
        )
    if layer and method in ("cam", "guided-backprop"):
        raise UserError(f"--maps {text}: {method} has no layer to choose")
    network = Path(file) if file else GAP_NETWORK if method == "cam" else VGG_NETWORK
    return MapKind(f"{network.stem} {what}", network, method, layer or None)


@dataclass(frozen=True)
class Item:
    """A photo and the class whose map is scored.

    Attributes:
        path: Path of the photo.
        name: str, of the photo.
        class_name: str.
        annotation: Annotation or None.
    """

    path: Path
    name: str
    class_name: str
    annotation: Annotation | None

    @property
    def key(self):
        return f"{self.name}#{self.class_name}"

    @property
    def seed(self):
        """Of random maps; the same in every run."""
        return crc32(self.key.encode("utf-8", "surrogateescape"))


def find_items(settings):
    """What to evaluate: the annotated photos among those that the user named, or class folders without annotations."""
    places = settings.places
    annotations = settings.annotations
    if not places and not annotations:
        annotations, places = demo_folder(), [demo_folder() / "val", demo_folder() / "both"]
    if not annotations:
        return [Item(photo.path, photo.name, photo.path.parent.name, None) for photo in find_photos(places)]
    found = read_annotations(annotations)
    if places:
        wanted = {photo.path.resolve() for photo in find_photos(places)}
        found = [annotation for annotation in found if annotation.path.resolve() in wanted]
    root = annotations if annotations.is_dir() else annotations.parent
    items = [
        Item(one.path, one.path.relative_to(root).as_posix() if one.path.is_relative_to(root) else one.path.name,
             one.class_name, one)
        for one in found
    ]  # fmt: skip
    if not items:
        raise UserError(f"none of the photos in {', '.join(map(str, places))} has an annotation in {annotations}")
    return items


def spread(items, count):
    """About `count` items, as many of each class, at even distances in their order."""
    classes = {}
    for item in items:
        classes.setdefault(item.class_name, []).append(item)
    share = -(-count // len(classes))
    chosen = {
        of_class[index].key
        for of_class in classes.values()
        for index in np.linspace(0, len(of_class) - 1, min(share, len(of_class))).round().astype(int)
    }
    return [item for item in items if item.key in chosen]


class Subject:
    """A network under test, with everything of it compiled once.

    Args:
        path: Path of its file.
        kinds: list of its MapKind.
        settings: the user's.
    """

    def __init__(self, path, kinds, settings):
        self.path, self.name, self.kinds = path, path.stem, kinds
        self.signed = {kind.name: kind.is_signed for kind in kinds}
        self.network, meaning = load_network(path, settings.trust_model)
        set_dtype(self.network, settings.dtype)
        shape = input_shape_of(self.network, meaning)
        self.plan = survey(self.network, shape)
        asked = SimpleNamespace(weights=path, preprocess=settings.preprocess, class_names=settings.class_names)
        self.meaning, _ = complete_meaning(meaning, asked, self.plan, shape)
        groups = IMAGENET_GROUPS if self.meaning.class_names == imagenet_names() else {}
        self.class_names = [*self.meaning.class_names, *groups]
        self.targets = targets_of(self.plan.class_count, groups.values())  # (classes and groups, C)
        for kind in kinds:
            if kind.method != "cam":
                check_layer(self.plan, kind.layer)
        self.guided = any(kind.method in GUIDED for kind in kinds)
        if self.guided:
            check_guided(self.plan, f"leave {' and '.join(GUIDED)} of {path} out of --maps")
        self.pairs = list(dict.fromkeys(map(self.pair_of, self.with_explainer(slow=False))))
        self.explain_cam = cam_function(self.network) if any(kind.method == "cam" for kind in kinds) else None
        self.explain_fast = (
            joint_explainer(self.network, self.plan, self.pairs, with_guided=self.guided, groups=list(groups.values()))
            if self.pairs or not self.explain_cam  # the network's answers are needed in any case
            else None
        )
        self.explain_slow = {
            kind.name: joint_explainer(self.network, self.plan, [self.pair_of(kind)], with_guided=False,
                                 groups=list(groups.values()))
            for kind in self.with_explainer(slow=True)
        }  # fmt: skip
        self.probability = probability_function(self.network, self.plan.ending)
        self.curves = deletion_insertion_function(self.network, self.plan.ending, settings.steps)

    def with_explainer(self, slow):
        return [kind for kind in self.kinds if kind.method != "cam" and kind.is_slow == slow]

    def pair_of(self, kind):
        """(layer, method) whose map the kind is, or is made from."""
        return kind.layer or self.plan.target, "grad-cam" if kind.method in GUIDED else kind.method

    def labels_of(self, items):
        return np.array([self.class_names.index(item.class_name) for item in items], np.int32)

    def fast_maps(self, images, labels):
        """All maps that need no more than a forward and a backward pass.

        Args:
            images: float32 (N, H, W, channels), prepared.
            labels: int32 (R, N), the classes to explain.

        Returns:
            (probabilities float (N, C), dict of name -> float32 (R, N, h, w)).
        """
        maps, photos = {}, np.arange(len(images))
        if self.explain_cam:
            of_classes, logits, outputs = map(ops.convert_to_numpy, self.explain_cam(ops.convert_to_tensor(images)))
            check_outputs(outputs, logits, self.plan.ending)
            if self.plan.units == 1:
                of_classes, logits = (np.concatenate((-part, part), axis=1) for part in (of_classes, logits))
            for kind in self.kinds:
                if kind.method == "cam":
                    maps[kind.name] = np.stack([of_classes[photos, chosen] for chosen in labels])
        if self.explain_fast:
            found = self.explain_fast(ops.convert_to_tensor(images), ops.convert_to_tensor(labels))
            outputs, logits = ops.convert_to_numpy(found.outputs), ops.convert_to_numpy(found.logits)
            check_outputs(outputs, logits, self.plan.ending)
            guided = ops.convert_to_numpy(found.guided) if self.guided else None
            for kind in self.with_explainer(slow=False):
                cam = ops.convert_to_numpy(found.cams[self.pairs.index(self.pair_of(kind))])
                maps[kind.name] = of_gradients(kind.method, guided, cam) if kind.method in GUIDED else cam
        return probabilities_of(logits, "sigmoid" if self.plan.units == 1 else self.plan.ending), maps

    def slow_maps(self, images, labels):
        """The maps that run the network once for each feature: dict of name -> float32 (R, N, h, w)."""
        images, labels = ops.convert_to_tensor(images), ops.convert_to_tensor(labels)
        return {
            name: ops.convert_to_numpy(explain(images, labels).cams[0]) for name, explain in self.explain_slow.items()
        }


def of_gradients(method, guided, cam):
    """One value a pixel of guided gradients: their largest magnitude among the channels (Simonyan et al. 2014).

    Args:
        method: one of GUIDED.
        guided: float32 (R, N, H, W, channels).
        cam: float32 (R, N, h, w), which guided Grad-CAM multiplies them by.

    Returns:
        float32 (R, N, H, W).
    """
    values = np.abs(guided).max(axis=-1)
    if method == "guided-backprop":
        return values
    size = values.shape[2:]
    return values * np.stack([[resize_map(one, *size) for one in of_class] for of_class in cam])


# ---------------------------------------------------------------- scores of one map


class Truth(NamedTuple):
    """Where an item's animal is, at the size of its picture.

    Attributes:
        inside: bool (H, W).
        near: bool (H, W), the same and what lies within the pointing game's tolerance.
        boxes: list of (left, top, right, bottom).
    """

    inside: np.ndarray
    near: np.ndarray
    boxes: list


def truth_of(item, shape):
    """The Truth of an item with an annotation at the size (H, W) of a picture; None without."""
    if not item.annotation:
        return None
    inside = item.annotation.inside(*shape)
    boxes = item.annotation.boxes_in(*shape)
    if not boxes and inside.any():
        y, x = np.nonzero(inside)
        boxes = [(x.min(), y.min(), x.max() + 1, y.max() + 1)]
    tolerance = metrics.MOST_TOLERANCE * shape[1] / item.annotation.width
    return Truth(inside, metrics.grown(inside, tolerance), boxes)


def localise(values, truth):
    """Where a map float32 (h, w) lies: dict of score -> number, list or None."""
    inside = truth.inside
    large = resize_map(values, *inside.shape)
    return {
        "pointing": metrics.pointing(large, inside),
        "pointing_15": metrics.pointing(large, truth.near),
        "energy": metrics.energy(large, inside),
        "boxes": metrics.box_overlaps(large, truth.boxes).tolist(),
        "counts": metrics.pixel_counts(large, inside).tolist(),
        "border": metrics.border_energy(large, inside),
        "edge": metrics.edge_width(large),
        "grid": list(values.shape),
    }


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


def faithfulness(subject, pixels, maps, label, settings):
    """Whether a network uses what maps show, for one photo and class.

    Args:
        subject: Subject.
        pixels: uint8 (H, W, channels), the network's input before it is prepared.
        maps: dict of name -> float32 (h, w), baselines among them.
        label: int, the class.
        settings: the user's.

    Returns:
        dict of name -> dict of score -> number or list.
    """
    prepare, size, target = subject.meaning.prepare, pixels.shape[:2], subject.targets[label]
    image, black = prepare(pixels[None])[0], prepare(np.zeros_like(pixels)[None])[0]
    fills = {name: prepare(fill[None])[0] for name, fill in fills_of(pixels, settings.fill).items()}
    large = {name: resize_map(values, *size) for name, values in maps.items()}
    orders = {name: metrics.pixel_order(values) for name, values in large.items()}
    masked = {name: black + (image - black) * metrics.normalised(values)[..., None] for name, values in large.items()}
    without = {name: prepare(255 * metrics.road_images(pixels / 255, order)) for name, order in orders.items()}
    everything = np.concatenate([image[None], np.stack(list(masked.values())), *without.values()])
    probabilities = subject.probability(everything, np.broadcast_to(target, (len(everything), len(target))))
    whole, of_masked, of_without = np.split(probabilities, [1, 1 + len(maps)])
    again = maps_again(subject, masked, label)
    scores = {}
    for index, name in enumerate(maps):
        drop = metrics.average_drop(whole[0], of_masked[index])
        scores[name] = {
            "drop": drop,
            "increase": float(of_masked[index] > whole[0]),
            "road": metrics.road(of_without[8 * index : 8 * index + 8]),
        }
        if name in again:
            coherent = metrics.coherency(maps[name], again[name])
            scores[name]["adcc"] = metrics.adcc(drop, coherent, float(metrics.normalised(large[name]).mean()))
        for fill, values in fills.items():
            deletion, insertion = subject.curves(image, values, orders[name], target)
            scores[name] |= {f"deletion_{fill}": deletion.tolist(), f"insertion_{fill}": insertion.tolist()}
    return scores


def maps_again(subject, masked, label):
    """Each kind of map of the photo as seen through that map, for coherency.

    Args:
        subject: Subject.
        masked: dict of name -> float32 (H, W, channels), prepared; baselines are left out.
        label: int.

    Returns:
        dict of name -> float32 (h, w).
    """
    found, fast = {}, [kind.name for kind in subject.kinds if not kind.is_slow]
    if fast:
        images = np.stack([masked[name] for name in fast])
        _, maps = subject.fast_maps(images, np.full((1, len(images)), label, np.int32))
        found = {name: maps[name][0, index] for index, name in enumerate(fast)}
    for name, explain in subject.explain_slow.items():
        image = ops.convert_to_tensor(masked[name][None])
        classes = ops.convert_to_tensor(np.full((1, 1), label, np.int32))
        found[name] = ops.convert_to_numpy(explain(image, classes).cams[0])[0, 0]
    return found


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
    values = [ops.convert_to_numpy(variable) for variable in network.weights]
    try:
        yield
    finally:
        for variable, value in zip(network.weights, values, strict=True):
            variable.assign(value)


def randomise(layers, generator):
    """Shuffle the values of each of the layers' weights: what was learnt is gone, their distribution stays."""
    for layer in layers:
        for variable in layer.weights:
            values = ops.convert_to_numpy(variable)
            variable.assign(generator.permutation(values.ravel()).reshape(values.shape))


def cascade(subject, images, labels, seed=0):
    """Cascading randomisation (Adebayo et al. 2018, section 3.1): layers are randomised from the output down.

    Args:
        subject: Subject.
        images: float32 (N, H, W, channels), prepared.
        labels: int32 (N,).
        seed: int.

    Returns:
        (stages, scores): names of the last layer of each stage, and for each photo a dict of map -> dict of
        "rank_correlation" and "ssim" -> list with one number a stage, of the map against the trained network's.
    """
    size, generator = images.shape[1:3], np.random.default_rng(seed)
    _, trained = subject.fast_maps(images, labels[None])
    scores = [{name: {"rank_correlation": [], "ssim": []} for name in trained} for _ in images]
    stages = stages_of(subject.network)
    with kept_weights(subject.network):
        for layers in stages:
            randomise(layers, generator)
            _, maps = subject.fast_maps(images, labels[None])
            for name in trained:
                for photo, (before, after) in enumerate(zip(trained[name][0], maps[name][0], strict=True)):
                    found = scores[photo][name]
                    found["rank_correlation"].append(metrics.rank_correlation(before, after))
                    large = resize_map(before, *size), resize_map(after, *size)
                    found["ssim"].append(metrics.structural_similarity(*large))
    return [layers[-1].name for layers in stages], scores


# ---------------------------------------------------------------- results, kept from run to run


class Results:
    """Scores of photos as they come: one JSON line for each (network, part, photo and class).

    Args:
        path: Path; lines of an earlier run are read, a last one cut off by a kill is left out.
    """

    def __init__(self, path):
        self.path, self.records = path, []
        text = path.read_text("utf-8", "surrogateescape") if path.exists() else ""
        whole = text[: text.rfind("\n") + 1]
        if whole != text:
            write_whole(path, lambda file: file.write(whole.encode("utf-8", "surrogateescape")))
        self.records = [json.loads(line) for line in whole.splitlines()]
        self.done = {(record["network"], record["part"], record["item"]) for record in self.records}

    def left(self, network, part, items):
        """The items that have no such record yet."""
        return [item for item in items if (network, part, item.key) not in self.done]

    def add(self, network, part, item, **values):
        record = {"network": network, "part": part, "item": item.key, "photo": item.name,
                  "class": item.class_name} | rounded(values)  # fmt: skip
        with open(self.path, "a", encoding="utf-8", errors="surrogateescape") as file:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
        self.records.append(record)

    def of(self, network, part):
        return [record for record in self.records if (record["network"], record["part"]) == (network, part)]


def rounded(values):
    """Numbers in nested dicts and lists with six digits, NaN as None."""
    if isinstance(values, dict):
        return {name: rounded(value) for name, value in values.items()}
    if isinstance(values, (list, tuple)):
        return [rounded(value) for value in values]
    if isinstance(values, (float, np.floating)):
        return float(f"{values:.6g}") if np.isfinite(values) else None
    return values.item() if isinstance(values, np.generic) else values


def batches(subject, items, batch_size, failed):
    """Decode items in batches: (items, pictures, pixels uint8 (batch_size, H, W, channels)), the last filled up."""
    for done, pixels, unreadable in read_batches(items, subject.meaning, batch_size):
        failed.update(unreadable)
        if done:
            yield [item for item, _ in done], [picture for _, picture in done], pixels


@contextlib.contextmanager
def listed(item, failed):
    """List an item whose truth cannot be read among the failed ones, and go on."""
    try:
        yield
    except PhotoError as error:
        failed[str(item.path)] = str(error)


def fill_up(labels, batch_size):
    """Labels of a batch, its last repeated up to batch_size."""
    return np.concatenate((labels, np.repeat(labels[-1:], batch_size - len(labels))))


def scores_of_map(values, other, truth, picture, signed):
    """What is kept of one map: where it lies, how much it changes with the class, and its picture for the page."""
    scores = localise(values, truth) if truth else {}
    return scores | {
        "zero": float(not values.any()),
        "other_class": metrics.rank_correlation(values, other),
        "picture": encode_overlay(values, capped_scale_of(signed, values), picture.shape[:2]),
    }


def evaluate_fast(subject, items, settings, results, failed, with_baselines):
    """Localisation of all maps that need one pass, the network's answers, and the baselines."""
    left = results.left(subject.name, "maps", items)
    with Progress(f"{subject.name}: maps", len(left)) as progress:
        for chosen, pictures, pixels in batches(subject, left, settings.batch_size, failed):
            labels = fill_up(subject.labels_of(chosen), len(pixels))
            others = (labels + 1) % subject.plan.class_count
            outputs, maps = subject.fast_maps(subject.meaning.prepare(pixels), np.stack((labels, others)))
            for index, (item, picture) in enumerate(zip(chosen, pictures, strict=True)):
                right = bool(subject.targets[labels[index], outputs[index].argmax()])
                with listed(item, failed):
                    truth = truth_of(item, picture.shape[:2])
                    of_item = {
                        name: scores_of_map(values[0, index], values[1, index], truth, picture, subject.signed[name])
                        for name, values in maps.items()
                    }
                    if with_baselines and truth:
                        baselines = metrics.baseline_maps(picture, item.seed)
                        lie = {name: localise(values, truth) for name, values in baselines.items()}
                        results.add(NO_NETWORK, "maps", item, truth=truth_kind(item), maps=lie)
                    results.add(subject.name, "maps", item, label=int(labels[index]), outputs=outputs[index].tolist(),
                                right=right, truth=truth_kind(item), picture=encode_photo(picture),
                                maps=of_item)  # fmt: skip
            progress.advance(len(chosen))


def evaluate_sample(subject, sample, settings, results, failed):
    """Faithfulness of all maps, and localisation of those that run the network once for each feature."""
    left = results.left(subject.name, "sample", sample)
    with Progress(f"{subject.name}: perturbed photos", len(left)) as progress:
        for (item,), (picture,), pixels in batches(subject, left, 1, failed):
            prepared, labels = subject.meaning.prepare(pixels), subject.labels_of([item])
            other = (labels + 1) % subject.plan.class_count
            _, fast = subject.fast_maps(prepared, labels[None])
            slow = subject.slow_maps(prepared, np.stack((labels, other)))
            with listed(item, failed):
                truth = truth_of(item, picture.shape[:2])
                scores = {
                    name: scores_of_map(values[0, 0], values[1, 0], truth, picture, subject.signed[name])
                    for name, values in slow.items()
                }
                if "faithfulness" in settings.only:
                    maps = {name: values[0, 0] for name, values in (fast | slow).items()}
                    shown = cv2.resize(picture, pixels.shape[2:0:-1], interpolation=cv2.INTER_AREA)
                    maps |= metrics.baseline_maps(shown, item.seed)
                    for name, found in faithfulness(subject, pixels[0], maps, int(labels[0]), settings).items():
                        scores[name] = scores.get(name, {}) | found
                results.add(subject.name, "sample", item, maps=scores, truth=truth_kind(item))
            progress.advance()


def evaluate_sanity(subject, sample, settings, results, failed):
    """Cascading randomisation, for all maps that need one pass; all photos of the sample at once."""
    left = results.left(subject.name, "sanity", sample)
    # copies: a batch is overwritten by the next
    found = [(item, pixels[0].copy()) for (item,), _, pixels in batches(subject, left, 1, failed)]
    if not found:
        return
    print(f"{subject.name}: randomising its layers", flush=True)
    images = subject.meaning.prepare(np.stack([pixels for _, pixels in found]))
    stages, scores = cascade(subject, images, subject.labels_of([item for item, _ in found]))
    for (item, _), of_item in zip(found, scores, strict=True):
        results.add(subject.name, "sanity", item, stages=stages, maps=of_item)


def truth_kind(item):
    """What the item's truth is: "masks", "boxes" or None."""
    return item.annotation and ("masks" if item.annotation.mask else "boxes")


# ---------------------------------------------------------------- the script


def parse_arguments(arguments):
    parser = ArgumentParser(__doc__)
    parser.add_argument("places", type=Path, nargs="*", metavar="PHOTO_OR_FOLDER",
                        help="which photos; default: all annotated ones, or the demo set's val and both")  # fmt: skip
    parser.add_argument("--annotations", type=Path, metavar="FILE_OR_FOLDER",
                        help="annotations.json, PASCAL VOC's XML files, or a folder with masks/")  # fmt: skip
    parser.add_argument("--maps", nargs="+", default=list(DEFAULT_MAPS), metavar="[FILE:]METHOD[@LAYER]",
                        help=f"METHOD: cam, {', '.join(GUIDED)}, {', '.join(METHODS)}")  # fmt: skip
    parser.add_argument("--only", nargs="+", default=list(PARTS), choices=PARTS, help="parts of the evaluation")
    parser.add_argument("--sample", type=int, default=8, metavar="N",
                        help="photos for what is slow: faithfulness, sanity, score-cam and ablation-cam")  # fmt: skip
    parser.add_argument("--steps", type=int, default=20, metavar="N", help="of the deletion and insertion curves")
    parser.add_argument("--fill", nargs="+", default=["blur"], choices=FILLS, help="what replaces deleted pixels")
    parser.add_argument("--preprocess", metavar="NAME|SCALE,OFFSET", help="as in gradcam_vgg16.py")
    parser.add_argument("--class-names", type=Path, metavar="FILE", help="as in gradcam_vgg16.py")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"),
                        help="what the networks compute in")  # fmt: skip
    parser.add_argument("--output", type=Path, default=OUTPUT, metavar="DIR", help="where the results go")
    parser.add_argument("--html", type=Path, metavar="FILE", help="the page; default: report.html among the results")
    parser.add_argument("--batch-size", type=int, default=8, metavar="N", help="photos per forward pass")
    parser.add_argument("--overwrite", action="store_true", help="replace results obtained with other settings")
    parser.add_argument("--trust-model", action="store_true", help="let the model files run code")
    settings = parser.parse_args(arguments)
    parser.require(settings, sample=1, steps=2, batch_size=1)
    return settings


def subjects_of(settings):
    """Load each network that --maps names."""
    kinds = [parse_map(text) for text in dict.fromkeys(settings.maps)]
    files = dict.fromkeys(kind.network for kind in kinds)
    if len({file.stem for file in files}) < len(files):
        raise UserError("--maps names two files with the same name; expected different ones, as tables go by them")
    return [Subject(file, [kind for kind in kinds if kind.network == file], settings) for file in files]


def known_items(items, subjects):
    """The items whose class all networks know; says how many are left out."""
    known = [item for item in items if all(item.class_name in subject.class_names for subject in subjects)]
    if not known:
        names = sorted({item.class_name for item in items})
        raise UserError(
            f"the photos show {', '.join(names[:10])}; the networks know {', '.join(subjects[0].class_names[:10])}"
        )
    if len(known) < len(items):
        print(
            f"{len(items) - len(known):,} of {len(items):,} items are of classes that a network does not know: left out"
        )
    return known


def evaluate(subject, items, settings, results, failed, with_baselines):
    """All parts of the evaluation of one network."""
    parts, sample = settings.only, spread(items, settings.sample)
    if "localisation" in parts or "network" in parts:
        evaluate_fast(subject, items, settings, results, failed, with_baselines)
    if "faithfulness" in parts or ("localisation" in parts and subject.explain_slow):
        evaluate_sample(subject, sample, settings, results, failed)
    if "sanity" in parts and any(not kind.is_slow for kind in subject.kinds):
        evaluate_sanity(subject, sample, settings, results, failed)


def main(arguments=None):
    settings = parse_arguments(arguments)
    items = find_items(settings)
    subjects = subjects_of(settings)
    items = known_items(items, subjects)
    if "localisation" not in settings.only:
        items = [replace(item, annotation=None) for item in items]
    if "localisation" in settings.only and not any(item.annotation for item in items):
        print("no annotations: localisation and sharpness are left out; --annotations names them")
    decisive = {
        name: getattr(settings, name) for name in ("maps", "only", "sample", "steps", "fill", "dtype", "preprocess")
    }
    claim_folder(
        settings.output,
        {"script": "evaluate_maps.py", "photos": [str(place.resolve()) for place in settings.places],
         "annotations": str(settings.annotations and settings.annotations.resolve()),
         "class_names": settings.class_names and [subject.class_names for subject in subjects],
         "items": len(items), "networks": {subject.name: file_sha256(subject.path) for subject in subjects}} | decisive,
        CONVENTIONS,
        settings.overwrite,
        lambda output: (output / RESULTS_FILE).unlink(missing_ok=True),
    )  # fmt: skip
    results, failed = Results(settings.output / RESULTS_FILE), {}
    photos = len({item.name for item in items})
    print(f"{photos:,} photos, {len(items):,} objects, maps {len(settings.maps)} on {device_name()}")
    for subject in subjects:
        evaluate(subject, items, settings, results, failed, with_baselines=subject is subjects[0])
    tables, sentences = report(subjects, settings, results)
    for table in tables:
        print_table(table)
    print(*sentences, sep="\n")
    write_failed(settings.output / FAILED_FILE, list(failed.items()))
    print(f"wrote tables, figures and {settings.html or settings.output / 'report.html'}")
    if failed:
        print(f"{len(failed):,} photos could not be read: see {settings.output / FAILED_FILE}")
    return EXIT_SOME_FAILED if failed else 0


if __name__ == "__main__":
    run_script(main)
