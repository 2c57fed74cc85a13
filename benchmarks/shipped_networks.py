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


# ---------------------------------------------------------------- the tables


def write_readme(shipped):
    """Of `of_maps` on data/photos."""
    header, scores = ["map", "largest value on the animal", "share of positive values on it"], ("pointing", "energy")
    cells = [[MAPS[name], *(interval(shipped[name][score], 0, 100, " %") for score in scores)] for name in IN_README]
    put(README, "scores", rows(header, cells))


def write_answers(names, photos, drawn):
    """Of `of_networks` on photos and on drawings; `names` are those of the networks' files."""
    sets = ("demo val", drawn["all"]), ("photos val", photos["all"])
    accuracies = [
        [title, name, *(rounded(found[network], column) for column in ("top1", "binary_accuracy", "ece"))]
        for network, title in names.items()
        for name, found in sets
    ]
    put(CARD, "scores", rows(["file", "photos", "top-1", "binary accuracy", "calibration error"], accuracies))
    header, of_original = ["photos", "number", *names.values()], [*names][-1]
    groups = [
        [group, number_of(found[of_original]), *(interval(found[network]) for network in names)]
        for group, found in photos.items()
    ]
    put(CARD, "classes", rows(header, [row for row in groups if not row[0].startswith("collection")]))
    put(EXPERIMENTS, "collections", rows(header, [row for row in groups if row[0].startswith("collection")]))
    claimed = [
        [names[name], number_of(line), interval(line), rounded(line, "binary_accuracy")]
        for name, line in photos["all"].items()
    ]
    put(RESULTS, "networks", rows(["network", "photos", "top-1", "binary accuracy"], claimed))


def write_several(several, original):
    """Of `of_maps` on photos of several animals; `original` is the name of the original's file."""
    titles = MAPS | {f"{original} cam": "CAM of the original's file"}
    cells = [
        [
            title,
            *(interval(several[name][score]) for score in ("own_peak", "all_peaks")),
            *(rounded(several[name][score], "value") for score in ("other_peak", "told_apart")),
        ]
        for name, title in titles.items()
        if name in several and name != BASELINE
    ]
    header = ["map", "peak on own animal", "all of a photo", "peak on another", "energy, own of both"]
    put(CARD, "several animals", rows(header, cells))


def write_none(outside, positives):
    """Of what lies beside the animals of annotated sets, beside photos of the classes."""
    squares, cells = as_inputs(squares_outside(outside)), []
    for path in (GAP_NETWORK, VGG_NETWORK):
        _, numbers, count, _ = told_apart(path, squares, positives)
        cells.append([NAMES[path.stem], *(f"{number:.3f}" for number in numbers)])
    header = ["network", "median", "of photos val", "0.5 or more", "0.9 or more", "AUROC", "FPR95"]
    put(CARD, "none of them", [*rows(header, cells), "", f"({count} squares.)"])


def main(arguments=None):
    settings = parse_arguments(arguments)
    output, original = settings.output, settings.original.stem
    maps = ["--maps", f"{settings.original}:cam", "cam", "grad-cam"]
    _, photos = evaluated(output / "photos", settings.photos, *maps, "--only", "network")
    _, drawn = evaluated(output / "demo", demo_folder() / "val", *maps, "--only", "network")
    several, _ = evaluated(output / "several", "--annotations", settings.several, *maps, "--only", "localisation")
    maps = ["--maps", "cam", "grad-cam", "guided-backprop", "guided-grad-cam"]
    shipped, answers = evaluated(output / "shipped", *maps, "--only", "localisation", "network")
    write_readme(of_maps(line for line in shipped if line["table"].startswith("Where the maps lie")))
    write_answers(NAMES | {original: "the original's file"}, of_networks(photos), of_networks(drawn))
    write_several(of_maps(line for line in several if line["table"] == SEVERAL), original)
    write_none(settings.outside, settings.photos)
    for name, line in of_networks(answers)["all"].items():
        print(f"{NAMES[name]} is right on {rounded(line, 'top1')} of {number_of(line)} photos of {SHIPPED_PHOTOS}")
    return 0


if __name__ == "__main__":
    run_script(main)
