"""Which kinds of map point at the animal, are faithful, depend on the network, and what they cost: docs/results.md.

    python benchmarks/kinds_of_map.py                           # data/photos and the demo set; hours of a processor
    python benchmarks/kinds_of_map.py --annotations data/photos data/demo my_set --docs docs/results.md

Scores every kind of map on each annotated set (see data/README.md), and times each beside a plain forward pass of its
network. On the sets after the first only the place is scored, of the kinds that run it many times on half the sample.
The whole evaluations are beside kinds_of_map.csv, and the same command again does only what is missing.
"""

import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "tools"))

import camlib.backend  # noqa: F401  # isort: skip  # sets the backend up
import evaluate_maps  # isort: skip

import numpy as np
from tables import put, rows

from benchmarks.original_claims import places_of
from benchmarks.shipped_networks import evaluated
from benchmarks.timing import hardware, ratios, seconds_of
from camlib.attribution import GUIDED, METHODS
from camlib.console import ArgumentParser, Progress, run_script
from camlib.demo.scenes import demo_folder
from camlib.evaluation import parse_map
from camlib.evaluation.annotations import find_items
from camlib.evaluation.results import Results
from camlib.evaluation.score_tables import BASELINES
from camlib.evaluation.scored_networks import PHOTOS_AT_ONCE, ScoredNetwork
from camlib.files import write_csv
from camlib.photos import SHIPPED_PHOTOS

MAPS = ("cam", "grad-cam@block4_conv3", *GUIDED, *METHODS)
LIE, SANITY = "Where the maps lie", "Whether the maps depend on the network and the class"
COLUMNS = (  # of the first set, whose tables begin so: (table, score, title)
    ("Whether ", "insertion_blur", "insertion ↑"),
    ("Whether ", "road", "ROAD ↑"),
    (SANITY, "rank_mean", "randomised ↓"),
    (SANITY, "other_class", "other class ↓"),
)
PARTS, ROUNDS = evaluate_maps.PARTS, 5


def parse_arguments(arguments):
    parser = ArgumentParser(__doc__)
    sets = "annotated sets, see data/README.md; default: data/photos and the demo set"
    default = [SHIPPED_PHOTOS, demo_folder()]
    parser.add_argument("--annotations", type=Path, nargs="+", metavar="PLACE", default=default, help=sets)
    parser.add_argument("--sample", type=int, default=8, metavar="N", help="as of evaluate_maps.py")
    parser.add_argument("--output", type=Path, default=Path("outputs/kinds_of_map"), metavar="DIR")
    parser.add_argument("--docs", type=Path, metavar="PAGE", help="put the table there")
    return parser.parse_args(arguments)


def scores_of(annotations, settings, is_first):
    """Evaluate a set: list of dicts, the lines of scores.csv."""
    parts, sample = (PARTS, settings.sample) if is_first else (["localisation"], max(1, settings.sample // 2))
    words = [*places_of(annotations), "--annotations", annotations, "--maps", *MAPS, "--only", *parts]
    scores, _ = evaluated(settings.output / annotations.stem, *words, "--sample", sample)
    return scores


def of_sample(output):
    """Where all maps lie on the photos of the sample, which are few: dict of map -> (mean pointing, mean energy)."""
    records, found = Results(output / evaluate_maps.RESULTS_FILE).records, {}
    items = {record["item"] for record in records if record["part"] == "sample"}
    for record in records:
        if record["item"] in items:
            for name, scores in record["maps"].items():
                if "pointing" in scores:
                    found.setdefault(name, []).append((scores["pointing"], scores["energy"]))
    return {name: np.array(values, float).mean(axis=0) for name, values in found.items()}


def cost_of(name):
    """The time of a photo's map of one class for that of a plain forward pass of its network: (median, least, largest).

    Of methods that run the network many times one photo is explained, once; of others many together, in ROUNDS.
    """
    kind = parse_map(name)
    scored = ScoredNetwork(kind.network, [kind], steps=2)
    count = 1 if kind.is_slow else PHOTOS_AT_ONCE
    pixels = np.random.default_rng(0).integers(0, 256, (PHOTOS_AT_ONCE, *scored.input_spec.shape), np.uint8)
    images, labels = scored.prepare(pixels), np.zeros((1, count), np.int32)
    targets = np.ones((PHOTOS_AT_ONCE, scored.structure.class_count), bool)

    def maps():
        if kind.is_slow:
            scored.slow_maps({kind.name: images[:1]}, labels)
        else:
            scored.fast_maps(images, labels)

    def forward():
        scored.probability(images, targets)

    maps(), forward()  # compiled
    rounds = range(1 if kind.is_slow else ROUNDS)
    times = [(seconds_of(maps)[0] / count, seconds_of(forward)[0] / PHOTOS_AT_ONCE) for _ in rounds]
    return ratios(*zip(*times, strict=True))


def table(of_sets, sample, costs):
    """Markdown of all maps, and of those that know no network: list of lines.

    Args:
        of_sets: dict of a set's name -> what `scores_of` found.
        sample: what `of_sample` found of the first set.
        costs: dict of map's name -> what `cost_of` found.
    """
    parts = ("value", "low", "high", "items")
    of_sets = {
        name: {(line["table"], line["map"], line["score"]): [float(line[part]) for part in parts] for line in lines}
        for name, lines in of_sets.items()
    }
    (first, *_) = of_sets.values()
    most = {}  # of (set, table): how many objects the maps were scored on that were scored on all
    for name, found in of_sets.items():
        for (title, *_), (*_, count) in found.items():
            if title.startswith(LIE):
                most[name, title] = max(count, most.get((name, title), 0))
    header = ["map", *(f"pointing, {name}{title.removeprefix(LIE)} ↑" for name, title in most)]
    cells = []
    for name in dict.fromkeys(name for _, name, _ in first):
        row = [name.removeprefix("vgg16_4class ")]
        for of_set, title in most:
            value, low, high, count = of_sets[of_set].get((title, name, "pointing"), [np.nan] * 4)
            number = f" of {count:g}" if count < most[of_set, title] else ""
            row.append("-" if np.isnan(value) else f"{value:.2f} ({low:.2f}–{high:.2f}){number}")
        row += [f"{value:.2f}" for value in sample.get(name, ())] or ["-", "-"]
        for title, score, _ in COLUMNS:
            found = [value[0] for key, value in first.items() if key[0].startswith(title) and key[1:] == (name, score)]
            row.append(f"{found[0]:.2f}" if found and np.isfinite(found[0]) else "-")
        if name in costs or name in BASELINES:
            cost, *_ = costs.get(name, [np.nan])
            cells.append([*row, "-" if np.isnan(cost) else f"{cost:,.0f}" if cost >= 100 else f"{cost:.3g}"])
    header += ["pointing, sample ↑", "energy, sample ↑", *(title for *_, title in COLUMNS), "cost"]
    return rows(header, cells)


def main(arguments=None):
    settings = parse_arguments(arguments)
    places, costs = settings.annotations, {}
    for place in places:  # what is wrong is said before the first hour
        find_items(places_of(place), place)
    of_sets = {place.stem: scores_of(place, settings, is_first=place is places[0]) for place in places}
    with Progress("costs", len(MAPS)) as progress:
        for name in MAPS:
            costs[parse_map(name).name] = cost_of(name)
            progress.advance()
    sample, path = of_sample(settings.output / places[0].stem), settings.output / "kinds_of_map.csv"
    lines = [*table(of_sets, sample, costs), "", f"{hardware()}."]
    header = ["set", *next(iter(of_sets.values()))[0]]
    cells = [(name, *line.values()) for name, of_set in of_sets.items() for line in of_set]
    write_csv(path, [header, *cells, *(("costs", "", name, "cost", *cost, "") for name, cost in costs.items())])
    if settings.docs:
        put(settings.docs, "kinds of map", lines)
        shutil.copy(path, settings.docs.parent)
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    run_script(main)
