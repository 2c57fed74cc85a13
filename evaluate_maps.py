"""Score maps: do they point at the animal, does the network use what they show, do they depend on the network at all?

    python evaluate_maps.py                                   # both shipped networks on the demo set, 15 minutes
    python evaluate_maps.py --annotations my_set --maps cam grad-cam grad-cam@block4_conv3
    python evaluate_maps.py --annotations my_set --maps my_network.h5:cam --only localisation
    python evaluate_maps.py my_photos/val --only network      # class folders, without annotations
    python evaluate_maps.py --annotations my_set --maps outputs/cam maps.h5         # maps that were saved

Writes tables (CSV and Markdown), figures and one HTML page to the output folder. Every score stands beside what maps
that know no network reach, and has a 95 % interval by resampling photos. The same command again does only what is
missing.
"""

from dataclasses import replace
from pathlib import Path

from camlib.attribution.methods import GUIDED, METHODS
from camlib.console import (
    EXIT_SOME_FAILED,
    ArgumentParser,
    Progress,
    UserError,
    counted,
    print_table,
    run_script,
)
from camlib.options import FILLS, add_network_options, add_output_options
from camlib.pixel_budget import PIXELS, add_pixel_option

# ---------------------------------------------------------------- settings

OUTPUT = Path("outputs/evaluation")
RESULTS_FILE = "results.jsonl"
DEFAULT_MAPS = (
    "cam", "grad-cam", "grad-cam@block4_conv3", "grad-cam@block3_conv3", "guided-backprop", "guided-grad-cam",
    "grad-cam++", "hires-cam", "layer-cam", "xgrad-cam", "element-wise", "eigen-cam", "ablation-cam", "score-cam",
)  # fmt: skip
PARTS = ("localisation", "faithfulness", "sanity", "network")
CONVENTIONS = (
    "results.jsonl: one line for each photo, class and part of the evaluation; the tables are made from it. Maps are "
    "enlarged bilinearly to the photo. Values below zero are cut for energy, boxes, masks and precision."
)

# ---------------------------------------------------------------- options


def parse_arguments(arguments=None):
    parser = ArgumentParser(__doc__)
    photos = parser.add_argument_group("photos")
    photos.add_argument("places", type=Path, nargs="*", metavar="PHOTO_OR_FOLDER",
                        help="which photos; default: all annotated ones, or the demo set's val and both")  # fmt: skip
    photos.add_argument("--annotations", type=Path, metavar="FILE_OR_FOLDER",
                        help="annotations.json, PASCAL VOC's XML files, or a folder with masks/")  # fmt: skip
    add_pixel_option(photos)
    maps = parser.add_argument_group("maps")
    maps.add_argument("--maps", nargs="+", default=list(DEFAULT_MAPS), metavar="[FILE:]METHOD[@LAYER]|PLACE",
                      help="PLACE: saved maps, a folder or a store (.h5), of which localisation and the network's "
                      "answers are scored; FILE: .h5, .keras, or a name of keras.applications; "
                      f"METHOD: cam, {', '.join(GUIDED)}, {', '.join(METHODS)}")  # fmt: skip
    maps.add_argument("--only", nargs="+", default=list(PARTS), choices=PARTS, help="parts of the evaluation")
    maps.add_argument("--sample", type=int, default=8, metavar="N",
                      help="photos for what is slow: faithfulness, sanity, score-cam and ablation-cam")  # fmt: skip
    maps.add_argument("--steps", type=int, default=20, metavar="N",
                      help="steps of the deletion and insertion curves")  # fmt: skip
    maps.add_argument("--fill", nargs="+", default=["blur"], choices=FILLS, help="what replaces deleted pixels")
    add_network_options(parser.add_argument_group("network"))
    output = parser.add_argument_group("output")
    add_output_options(output, OUTPUT, "results", batch_size=8)
    output.add_argument("--html", type=Path, metavar="FILE", help="the page; default: report.html among the results")
    settings = parser.parse_args(arguments)
    parser.require(settings, sample=1, steps=2, batch_size=1)
    PIXELS.most = settings.most_pixels
    return settings


if __name__ == "__main__":
    parse_arguments()  # before Keras is imported, which takes seconds

from camlib.backend import device_name

# isort: split
import cv2
import numpy as np
from keras import ops

from camlib.attribution.classifier import Subject, check_guided, check_layer
from camlib.attribution.gradcam import targets_of
from camlib.evaluation import metrics
from camlib.evaluation.annotations import find_items, items_sha256, spread, truth_kind
from camlib.evaluation.perturbation import deletion_insertion_function, probability_function
from camlib.evaluation.report import report
from camlib.evaluation.saved_maps import SavedMaps, evaluate_saved, saved_place
from camlib.evaluation.scoring import (
    add_scores,
    batches,
    cascade,
    check_finite,
    faithfulness,
    fill_up,
    listed,
    of_gradients,
    parse_map,
    scores_of_map,
    truth_of,
)
from camlib.memory import check_subject, halving
from camlib.networks.checkpoint import identity_of, load_network
from camlib.runs.run import FAILED_FILE, Results, claim_folder, say_failed, write_failed
from gradcam_vgg16 import joint_explainer
from make_cam_maps import cam_of_subject

# ---------------------------------------------------------------- what is evaluated


class ScoredNetwork(Subject):
    """A network whose maps are scored, with everything of it compiled once.

    Args:
        path: Path of its file.
        kinds: list of its MapKind.
        settings: the user's.
    """

    def __init__(self, path, kinds, settings):
        self.path, self.name, self.kinds = path, path.stem, kinds
        self.signed = {kind.name: kind.is_signed for kind in kinds}
        network, meaning = load_network(path, settings.trust_model, settings.architecture, settings.largest_model)
        self.identity = "/".join(identity_of(path, settings.architecture).values())
        super().__init__(network, meaning, path, None, settings.preprocess, settings.class_names, settings.size,
                         settings.dtype)  # fmt: skip
        if not self.has_probabilities:
            raise UserError(
                f"{path} gives scores without probabilities, which an evaluation needs; expected a classifier (a "
                "single linear unit is one with two --class-names)"
            )
        groups, plan = list(self.groups.values()), self.plan
        self.targets = targets_of(plan.class_count, groups)  # (classes and groups, C)
        for kind in kinds:
            if kind.method != "cam":
                check_layer(plan, kind.layer)
        self.guided = any(kind.method in GUIDED for kind in kinds)
        if self.guided:
            check_guided(plan, f"leave {' and '.join(GUIDED)} of {path} out of --maps")
        self.pairs = list(dict.fromkeys(map(self.pair_of, self.with_explainer(slow=False))))
        self.explain_cam = cam_of_subject(self) if any(kind.method == "cam" for kind in kinds) else None
        self.explain_fast = (
            joint_explainer(network, plan, self.pairs, with_guided=self.guided, groups=groups)
            if self.pairs or not self.explain_cam  # the network's answers are needed in any case
            else None
        )
        self.explain_slow = {
            kind.name: joint_explainer(network, plan, [self.pair_of(kind)], with_guided=False, groups=groups)
            for kind in self.with_explainer(slow=True)
        }
        self.fast_kinds = [kind for kind in kinds if kind.method == "cam" or not kind.is_slow]
        self.in_portions = halving(self.maps_at_once, axes=(0, *[1 for _ in self.fast_kinds]))
        self.probability = probability_function(network, plan.ending)
        self.curves = deletion_insertion_function(network, plan.ending, settings.steps)

    def with_explainer(self, slow):
        return [kind for kind in self.kinds if kind.method != "cam" and kind.is_slow == slow]

    def pair_of(self, kind):
        """(layer, method) whose map the kind is, or is made from."""
        return kind.layer or self.layer, "grad-cam" if kind.method in GUIDED else kind.method

    def labels_of(self, items):
        return np.array([self.class_names.index(item.class_name) for item in items], np.int32)

    def fast_maps(self, images, labels):
        """All maps that need no more than a forward and a backward pass.

        Args:
            images: float32 (N, H, W, channels), prepared.
            labels: int32 (R, N), the classes to explain.

        Returns:
            (probabilities float (N, C), NaN where the network's numbers are not finite, dict of name -> float32
            (R, N, h, w)).
        """
        probabilities, *maps = self.in_portions(np.arange(len(images)), len(images), images, labels)
        return probabilities, {kind.name: values for kind, values in zip(self.fast_kinds, maps, strict=True)}

    def maps_at_once(self, chosen, _, images, labels):
        """What `fast_maps` finds for the chosen photos, int (n,), as a tuple."""
        images, labels = images[chosen], labels[:, chosen]
        maps, photos = {}, np.arange(len(images))
        if self.explain_cam:
            of_classes, logits, outputs = map(ops.convert_to_numpy, self.explain_cam(ops.convert_to_tensor(images)))
            logits = self.checked_logits(outputs, logits)
            for kind in self.kinds:
                if kind.method == "cam":
                    maps[kind.name] = np.stack([of_classes[photos, classes] for classes in labels])
        if self.explain_fast:
            found = self.explain_fast(ops.convert_to_tensor(images), ops.convert_to_tensor(labels))
            logits = self.checked_logits(ops.convert_to_numpy(found.outputs), ops.convert_to_numpy(found.logits))
            guided = ops.convert_to_numpy(found.guided) if self.guided else None
            for kind in self.with_explainer(slow=False):
                cam = ops.convert_to_numpy(found.cams[self.pairs.index(self.pair_of(kind))])
                maps[kind.name] = of_gradients(kind.method, guided, cam) if kind.method in GUIDED else cam
        return self.probabilities_of(logits), *[maps[kind.name] for kind in self.fast_kinds]

    def slow_maps(self, images, labels):
        """The maps that run the network once for each feature: dict of name -> float32 (R, N, h, w)."""
        images, labels = ops.convert_to_tensor(images), ops.convert_to_tensor(labels)
        return {
            name: ops.convert_to_numpy(explain(images, labels).cams[0]) for name, explain in self.explain_slow.items()
        }


# ---------------------------------------------------------------- parts of the evaluation


def evaluate_fast(subject, items, settings, results, failed, with_baselines):
    """Localisation of all maps that need one pass, the network's answers, and the baselines."""
    left = results.left(subject.name, "maps", items)
    with Progress(f"{subject.name}: maps", len(left)) as progress:
        for chosen, pictures, pixels in batches(subject, left, settings.batch_size, failed):
            labels = fill_up(subject.labels_of(chosen), len(pixels))
            others = (labels + 1) % subject.plan.class_count
            outputs, maps = subject.fast_maps(subject.prepare(pixels), np.stack((labels, others)))
            for index, (item, picture) in enumerate(zip(chosen, pictures, strict=True)):
                with listed(item, failed):
                    of_item = {name: (values[0, index], values[1, index]) for name, values in maps.items()}
                    add_scores(results, subject, item, picture, outputs[index], of_item, with_baselines)
            progress.advance(len(chosen))


def evaluate_sample(subject, sample, settings, results, failed):
    """Faithfulness of all maps, and localisation of those that run the network once for each feature."""
    left = results.left(subject.name, "sample", sample)
    with Progress(f"{subject.name}: perturbed photos", len(left)) as progress:
        for (item,), (picture,), pixels in batches(subject, left, 1, failed):
            prepared, labels = subject.prepare(pixels), subject.labels_of([item])
            other = (labels + 1) % subject.plan.class_count
            outputs, fast = subject.fast_maps(prepared, labels[None])
            slow = subject.slow_maps(prepared, np.stack((labels, other)))
            with listed(item, failed):
                check_finite(outputs[0])
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
    images = subject.prepare(np.stack([pixels for _, pixels in found]))
    labels = subject.labels_of([item for item, _ in found])
    outputs, _ = subject.fast_maps(images, labels[None])
    stages, scores = cascade(subject, images, labels)
    for (item, _), of_item, numbers in zip(found, scores, outputs, strict=True):
        with listed(item, failed):
            check_finite(numbers)
            results.add(subject.name, "sanity", item, stages=stages, maps=of_item)


# ---------------------------------------------------------------- the script


def subjects_of(settings):
    """Load each network that --maps names, and find the saved maps."""
    texts = list(dict.fromkeys(settings.maps))
    places = [place for place in map(saved_place, texts) if place]
    kinds = [parse_map(text) for text in texts if not saved_place(text)]
    files = list(dict.fromkeys(kind.network for kind in kinds))
    if len({file.stem for file in (*files, *places)}) < len(files) + len(places):
        raise UserError("--maps names two files with the same name; expected different ones, as tables go by them")
    networks = [ScoredNetwork(file, [kind for kind in kinds if kind.network == file], settings) for file in files]
    return [*networks, *map(SavedMaps, places)]


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
    if isinstance(subject, SavedMaps):
        if left_out := [part for part in parts if part in ("faithfulness", "sanity")]:
            print(f"{subject.name}: {' and '.join(left_out)} ask the network, which saved maps are without: left out")
        evaluate_saved(subject, items, results, failed, with_baselines)
        return
    if "localisation" in parts or "network" in parts:
        evaluate_fast(subject, items, settings, results, failed, with_baselines)
    if "faithfulness" in parts or ("localisation" in parts and subject.explain_slow):
        evaluate_sample(subject, sample, settings, results, failed)
    if "sanity" in parts and any(not kind.is_slow for kind in subject.kinds):
        evaluate_sanity(subject, sample, settings, results, failed)


def evaluate_all(subjects, items, settings):
    """Score the maps of all networks and saved maps, and write what came of it; returns the exit code."""
    results, failed = Results(settings.output / RESULTS_FILE), {}
    photos = len({item.name for item in items})
    objects, maps = counted(len(items), "object"), counted(len(settings.maps), "kind of map", "kinds of map")
    print(f"{counted(photos, 'photo')}, {objects}, {maps} on {device_name()}")
    for subject in subjects:
        evaluate(subject, items, settings, results, failed, with_baselines=subject is subjects[0])
    grids, sentences = report(subjects, settings, results)
    for grid in grids:
        print_table(*grid)
    print(*sentences, sep="\n")
    write_failed(settings.output / FAILED_FILE, list(failed.items()))
    print(f"wrote tables, figures and {settings.html or settings.output / 'report.html'}")
    if failed:
        say_failed(list(failed.items()), settings.output / FAILED_FILE)
    return EXIT_SOME_FAILED if failed else 0


def main(arguments=None):
    settings = parse_arguments(arguments)
    items = find_items(settings.places, settings.annotations)
    subjects = subjects_of(settings)
    items = known_items(items, subjects)
    settings.batch_size = min(settings.batch_size, len(items))
    for subject in subjects:
        if not isinstance(subject, SavedMaps):
            check_subject(subject, settings.batch_size, with_gradients=subject.explain_fast is not None)
    if "localisation" not in settings.only:
        items = [replace(item, annotation=None) for item in items]
    if "localisation" in settings.only and not any(item.annotation for item in items):
        print("no annotations: localisation and sharpness are left out; --annotations names them")
    decisive = {
        name: getattr(settings, name) for name in ("maps", "only", "sample", "steps", "fill", "preprocess", "size")
    } | {"dtype": ", ".join(dict.fromkeys(subject.dtype for subject in subjects))}
    identities = {subject.name: subject.identity for subject in subjects}
    with claim_folder(
        settings.output,
        {"script": "evaluate_maps.py", "photos": [str(place.resolve()) for place in settings.places],
         "annotations": str(settings.annotations and settings.annotations.resolve()),
         "class_names": settings.class_names and [subject.class_names for subject in subjects],
         "items": len(items), "networks": identities} | items_sha256(items) | decisive,
        CONVENTIONS,
        settings.overwrite,
        lambda output: (output / RESULTS_FILE).unlink(missing_ok=True),
    ):  # fmt: skip
        return evaluate_all(subjects, items, settings)


if __name__ == "__main__":
    run_script(main)
