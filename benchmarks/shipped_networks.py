"""What the shipped networks score: puts it into README, the card, docs/results.md and the experiments.

    python benchmarks/shipped_networks.py --photos photos/val --several two_animals --outside data/photos my_set \
        --original model_weight.h5

To be run after weights have changed, together with `benchmarks/original_claims.py`, whose sentences are copied by hand.
The whole evaluations are beside each other in --output, and the same command again does only what is missing.
"""

import csv
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "tools"))

import camlib.backend  # noqa: F401  # isort: skip  # sets the backend up
import evaluate_maps  # isort: skip

from tables import put, rows

from benchmarks.negatives import as_inputs, squares_outside, told_apart
from camlib.console import ArgumentParser, UserError, run_script
from camlib.demo.scenes import demo_folder
from camlib.files import open_csv
from camlib.networks import GAP_NETWORK, VGG_NETWORK
from camlib.photos import SHIPPED_PHOTOS

ROOT = Path(__file__).resolve().parent.parent
README, CARD, RESULTS = ROOT / "README.md", ROOT / "models" / "README.md", ROOT / "docs" / "results.md"
EXPERIMENTS = ROOT / "models" / "experiments.md"
NAMES = {"cam_4class": "`cam_4class.h5`", "vgg16_4class": "`vgg16_4class.h5`"}
BASELINE, EVEN = "centred Gaussian", "whole picture"  # in README, and in the card
MAPS = {
    "cam_4class cam": "CAM of the network without pooling",
    "vgg16_4class grad-cam": "Grad-CAM of VGG-16",
    "vgg16_4class guided-backprop": "guided backpropagation",
    "vgg16_4class guided-grad-cam": "guided Grad-CAM",
    BASELINE: "a centred Gaussian, which knows no network",
    EVEN: "an even map",
}
IN_README = [name for name in MAPS if name != EVEN]
SEVERAL = "Which class's objects the maps show"


def parse_arguments(arguments):
    parser = ArgumentParser(__doc__)
    parser.add_argument("--photos", type=Path, required=True, metavar="DIR", help="class folders of photos, the card's")
    several = "annotated photos of several animals, see data/README.md"
    parser.add_argument("--several", type=Path, required=True, metavar="PLACE", help=several)
    outside = "annotated sets: what lies beside their animals is a photo of none of the classes"
    parser.add_argument("--outside", type=Path, nargs="+", required=True, metavar="PLACE", help=outside)
    parser.add_argument("--original", type=Path, required=True, metavar="FILE", help="the original's weights")
    parser.add_argument("--output", type=Path, default=Path("outputs/shipped_networks"), metavar="DIR")
    return parser.parse_args(arguments)


def evaluated(output, *words):
    """(lines of scores.csv, lines of networks.csv), lists of dicts, of an evaluation with these words.

    Raises:
        UserError: photos cannot be read.
    """
    if evaluate_maps.main([*map(str, words), "--output", str(output)]):
        raise UserError(f"photos could not be read: see {output}; expected all of them")
    found = []
    for name in ("scores.csv", "networks.csv"):
        lines = []
        if (output / name).is_file():
            with open_csv(output / name, "r") as file:
                lines = list(csv.DictReader(file))
        found.append(lines)
    return found


def interval(line, digits=3, scale=1, unit=""):
    """A line's value with its interval, as text."""
    value, low, high = (f"{scale * float(line[name]):.{digits}f}" for name in ("value", "low", "high"))
    return f"{value}{unit} ({low} to {high})"


def of_networks(lines):
    """Lines of networks.csv as {photos: {network: line}}, each with its top-1 as `value`."""
    found = {}
    for line in lines:
        found.setdefault(line["photos"], {})[line["network"]] = line | {"value": line["top1"]}
    return found


def of_maps(lines):
    """Lines of scores.csv as {map: {score: line}}."""
    found = {}
    for line in lines:
        found.setdefault(line["map"], {})[line["score"]] = line
    return found


def rounded(line, name):
    return f"{float(line[name]):.3f}"


def number_of(line):
    return f"{int(line['number']):,}"


def main(arguments=None):
    settings = parse_arguments(arguments)
    output, names = settings.output, NAMES | {settings.original.stem: "the original's file"}
    maps = ["--maps", f"{settings.original}:cam", "cam", "grad-cam"]
    _, lines = evaluated(output / "photos", settings.photos, *maps, "--only", "network")
    photos = of_networks(lines)
    _, lines = evaluated(output / "demo", demo_folder() / "val", *maps, "--only", "network")
    drawn = of_networks(lines)
    lines, _ = evaluated(output / "several", "--annotations", settings.several, *maps, "--only", "localisation")
    several = of_maps(line for line in lines if line["table"] == SEVERAL)
    guided = ["guided-backprop", "guided-grad-cam"]
    parts = ["localisation", "network"]
    lines, of_shipped = evaluated(output / "shipped", "--maps", "cam", "grad-cam", *guided, "--only", *parts)
    shipped = of_maps(line for line in lines if line["table"].startswith("Where the maps lie"))

    header, both = ["map", "largest value on the animal", "share of positive values on it"], ("pointing", "energy")
    of_readme = [[MAPS[name], *(interval(shipped[name][score], 0, 100, " %") for score in both)] for name in IN_README]
    put(README, "scores", rows(header, of_readme))
    sets = ("demo val", drawn["all"]), ("photos val", photos["all"])
    accuracies = [
        [title, name, *(rounded(found[network], column) for column in ("top1", "binary_accuracy", "ece"))]
        for network, title in names.items()
        for name, found in sets
    ]
    put(CARD, "scores", rows(["file", "photos", "top-1", "binary accuracy", "calibration error"], accuracies))
    by_class = [
        [group, number_of(found[settings.original.stem]), *(interval(found[network]) for network in names)]
        for group, found in photos.items()
    ]
    header = ["photos", "number", *names.values()]
    put(CARD, "classes", rows(header, [row for row in by_class if not row[0].startswith("collection")]))
    put(EXPERIMENTS, "collections", rows(header, [row for row in by_class if row[0].startswith("collection")]))
    header = ["map", "peak on own animal", "all of a photo", "peak on another", "energy, own of both"]
    of_several = [
        [
            title,
            *(interval(several[name][score]) for score in ("own_peak", "all_peaks")),
            *(rounded(several[name][score], "value") for score in ("other_peak", "told_apart")),
        ]
        for name, title in (MAPS | {f"{settings.original.stem} cam": "CAM of the original's file"}).items()
        if name in several and name != BASELINE
    ]
    put(CARD, "several animals", rows(header, of_several))
    squares, of_none = as_inputs(squares_outside(settings.outside)), []
    for path in (GAP_NETWORK, VGG_NETWORK):
        _, numbers, count, _ = told_apart(path, squares, settings.photos)
        of_none.append([NAMES[path.stem], *(f"{number:.3f}" for number in numbers)])
    header = ["network", "median", "of photos val", "0.5 or more", "0.9 or more", "AUROC", "FPR95"]
    put(CARD, "none of them", [*rows(header, of_none), "", f"({count} squares.)"])
    claimed = [[names[name], number_of(line), interval(line), rounded(line, "binary_accuracy")]
               for name, line in photos["all"].items()]  # fmt: skip
    put(RESULTS, "networks", rows(["network", "photos", "top-1", "binary accuracy"], claimed))
    for name, line in of_networks(of_shipped)["all"].items():
        print(f"{names[name]} is right on {line['top1']} of {number_of(line)} photos of {SHIPPED_PHOTOS.name}")
    return 0


if __name__ == "__main__":
    run_script(main)
