"""The class project's claims about maps: is a pooling-free CAM finer than Grad-CAM, and is it better placed?

    python benchmarks/original_claims.py                        # the shipped networks on the demo set
    python benchmarks/original_claims.py --original model_weight.h5 --annotations data/demo my_set

Compares CAM of the pooling-free network with Grad-CAM, guided backpropagation and guided Grad-CAM of VGG-16 and, with
--original, with CAM of the project's own weights, on each annotated set (see data/README.md).
Every difference is of the same photos, with its 95 % interval by resampling them. Writes claims.md and one picture of
each set; the whole evaluations are beside them, and the same command again does only what is missing.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import camlib.backend  # noqa: F401  # isort: skip  # sets the backend up
import evaluate_maps  # isort: skip

import numpy as np

from camlib.console import ArgumentParser, UserError, counted, run_script, whole_number
from camlib.demo.scenes import demo_folder
from camlib.evaluation import metrics, parse_map
from camlib.evaluation.annotations import Item, find_items, spread
from camlib.evaluation.metrics import bootstrap
from camlib.evaluation.parts import batches
from camlib.evaluation.report import markdown_of
from camlib.evaluation.results import Results, merged
from camlib.evaluation.score_tables import BASELINES, NO_NETWORK, Score, cell_text
from camlib.evaluation.scored_networks import ScoredNetwork
from camlib.files import write_whole
from camlib.networks import GAP_NETWORK
from camlib.plots.colours import resize_map
from camlib.plots.figures import draw_side_by_side

OURS = "cam_4class cam"
MAPS = ("cam", "grad-cam", "guided-backprop", "guided-grad-cam")
EVEN = "centred Gaussian", "Sobel edges"  # maps that know no network
FRAME = 1 / 8  # of each side, for what lies at the photo's frame
PICTURED = 6  # photos of a set
# (score, 1 where more is better or else -1, what CAM then is, what it is otherwise)
COLUMNS = (
    (Score("pointing", "pointing ↑", "pointing"), 1, "better", "worse"),
    (Score("energy", "energy ↑", "energy"), 1, "better", "worse"),
    (Score("border", "energy at the border ↑", "border", truth="masks"), 1, "finer", "coarser"),
    (Score("edge", "steepest edge ↓", "edge"), -1, "finer", "coarser"),
)


# ---------------------------------------------------------------- differences


def values_of(items, score, truth):
    """{item: (value, photo)} of a map's score, for photos with that kind of truth."""
    return {
        item: (float(score.of(scores[score.source], about)), about["photo"])
        for item, (scores, about) in items.items()
        if about["truth"] == truth and scores.get(score.source) is not None
    }


def verdict(ours, other, sign, better, worse):
    """What the paired difference of two maps' scores says about the first, in words: '0.3 better (0.2 to 0.4)'.

    Args:
        ours, other: dict of item -> (value, photo).
        sign: 1 where more is better, or -1.
        better, worse: words for it.
    """
    items = [item for item in ours if item in other]
    gaps = [sign * (ours[item][0] - other[item][0]) for item in items]
    gap, low, high, _ = bootstrap(gaps, [ours[item][1] for item in items])
    if np.isnan(low):  # of a single photo, or none
        return "cannot be told"
    if low <= 0 <= high:
        return f"cannot be told ({low:.3f} to {high:.3f})"
    word, *ends = (better, low, high) if gap > 0 else (worse, -high, -low)
    return f"{abs(gap):.3f} {word} ({ends[0]:.3f} to {ends[1]:.3f})"


def comparison(maps, truth):
    """(header, rows) of text: each map's scores, and how the pooling-free CAM differs from it.

    Args:
        maps: dict of map's name -> dict of item -> (scores, record), as `merged` makes them.
        truth: "masks" or "boxes".
    """
    columns = [column for column in COLUMNS if column[0].truth in (None, truth)]
    header, rows = ["map", "cells"], []
    for score, *_ in columns:
        header += [score.title, "CAM is"]
    for name, items in maps.items():
        height, width = next(scores["grid"] for scores, _ in items.values())
        row = [name, "the photo's" if name in BASELINES else f"{height}x{width}"]
        for score, *words in columns:
            ours, other = (values_of(one, score, truth) for one in (maps[OURS], items))
            values, photos = [value for value, _ in other.values()], [photo for _, photo in other.values()]
            row += [cell_text(bootstrap(values, photos)), "" if name == OURS else verdict(ours, other, *words)]
        rows.append([*row, f"{len(values):,}"])
    return [*header, "items"], rows


# ---------------------------------------------------------------- what a network looks at


def looks(values, picture):
    """What a map follows: its share at the frame for the frame's area, and its likeness to brightness and to edges.

    Args:
        values: float32 (h, w).
        picture: uint8 (H, W, 3).

    Returns:
        list of three numbers: 1 for an even map's frame; rank correlations of either sign, since a map that follows
        the dark follows brightness too.
    """
    height, width = picture.shape[:2]
    large, frame = resize_map(values, height, width), np.ones((height, width), bool)
    y, x = round(height * FRAME), round(width * FRAME)
    frame[y : height - y, x : width - x] = False
    followed = picture.mean(axis=2, dtype=np.float32), metrics.baseline_maps(picture)["Sobel edges"]
    likeness = [abs(metrics.rank_correlation(large, one)) for one in followed]
    return [metrics.energy(large, frame) / float(frame.mean()), *likeness]


def maps_of(scored, items, batch_size):
    """Yield (items, pictures, {map's name: float (N, h, w) of the items' own classes}) of a ScoredNetwork."""
    for chosen, pictures, pixels in batches(scored, items, batch_size, {}):
        _, maps = scored.fast_maps(scored.prepare(pixels), scored.labels_of(chosen, len(pixels))[None])
        yield chosen, pictures, {name: values[0, : len(chosen)] for name, values in maps.items()}


def attention(all_scored, items, batch_size):
    """Rows of text: for each map of a list of ScoredNetwork, what it follows."""
    rows = []
    for scored in all_scored:
        found, photos = {}, []
        for chosen, pictures, maps in maps_of(scored, items, batch_size):
            photos += [item.name for item in chosen]
            for name, values in maps.items():
                found.setdefault(name, []).extend(map(looks, values, pictures))
        for name, values in found.items():
            columns = np.array(values, np.float64).T
            rows.append([name, *(cell_text(bootstrap(column, photos)) for column in columns), f"{len(photos):,}"])
    return rows


def proportionality(items, batch_size):
    """Largest difference of H W times Grad-CAM from the positive part of CAM, in units of CAM's largest value."""
    kinds = [parse_map(f"{GAP_NETWORK}:{method}") for method in ("cam", "grad-cam")]
    largest = 0.0
    for _, _, maps in maps_of(ScoredNetwork(GAP_NETWORK, kinds, steps=20), items, batch_size):
        cams, grad_cams = (maps[kind.name] for kind in kinds)
        error = np.abs(grad_cams * cams[0].size - np.maximum(cams, 0)).max(axis=(1, 2))
        largest = max(largest, float((error / np.abs(cams).max(axis=(1, 2))).max()))
    return largest


# ---------------------------------------------------------------- the script


def parse_arguments(arguments):
    parser = ArgumentParser(__doc__)
    annotations = "annotated sets, see data/README.md; default: the demo set"
    parser.add_argument("--annotations", type=Path, nargs="+", metavar="PLACE", default=[], help=annotations)
    parser.add_argument("--original", type=Path, metavar="FILE.h5", help="the class project's weights")
    parser.add_argument("--output", type=Path, default=Path("outputs/claims"), metavar="DIR")
    parser.add_argument("--batch-size", type=whole_number(1, 10**6), default=8, metavar="N", help="photos at once")
    settings = parser.parse_args(arguments)
    if len({path.stem for path in settings.annotations}) < len(settings.annotations):
        parser.error("--annotations names two sets alike; expected different names, as results go by them")
    return settings


def places_of(annotations):
    """The folders of a set that no network learnt from, list of Path; none where that is all of it."""
    return [annotations / "val", annotations / "both"] if annotations.resolve() == demo_folder().resolve() else []


def compare(annotations, settings):
    """Evaluate one set: its tables as text, (title, header, rows), the path of its picture, and its items."""
    name, output = annotations.stem, settings.output / annotations.stem
    maps = [*MAPS, *([f"{settings.original}:cam"] if settings.original else [])]
    words = [*places_of(annotations), "--annotations", annotations, "--maps", *maps, "--output", output]
    words += ["--only", "localisation", "network", "--batch-size", settings.batch_size]
    arguments = list(map(str, words))
    if evaluate_maps.main(arguments):
        raise UserError(f"some photos of {annotations} could not be read: see {output}; expected all, for a comparison")
    chosen = evaluate_maps.parse_arguments(arguments)
    all_scored = evaluate_maps.load_scored(chosen, *evaluate_maps.parse_maps(chosen))
    items = find_items(chosen.places, chosen.annotations)
    for scored in all_scored:
        items = evaluate_maps.known_items(items, scored.class_names)
    results, grids = Results(output / evaluate_maps.RESULTS_FILE), []
    found = {map_name: of for scored in all_scored for map_name, of in merged(scored.name, results).items()}
    found |= {name: of for name, of in merged(NO_NETWORK, results).items() if name in EVEN}
    for truth in ("masks", "boxes"):
        if any(about["truth"] == truth for _, about in found[OURS].values()):
            grids.append((f"{name}, against {truth}", *comparison(found, truth)))
    header = ["map", "at the frame, 1 if even", "likeness to brightness", "likeness to edges", "items"]
    grids.append((f"{name}: what the maps follow", header, attention(all_scored, items, settings.batch_size)))
    return grids, draw_side_by_side(output / "side_by_side.png", pictures_of(all_scored, results)), items


def pictures_of(all_scored, results):
    """[(class, {map's name: (photo, overlay)})] of a few photos, evenly spread over the classes."""
    records = results.of(all_scored[0].name, "maps")
    items = spread([Item(Path(one["photo"]), one["photo"], one["class"], None) for one in records], PICTURED)
    pictures = {item.key: {} for item in items}
    for record in [record for scored in all_scored for record in results.of(scored.name, "maps")]:
        of_item = {name: (record["picture"], scores["picture"]) for name, scores in record["maps"].items()}
        pictures.setdefault(record["item"], {}).update(of_item)
    return [(item.class_name, pictures[item.key]) for item in items]


def main(arguments=None):
    settings = parse_arguments(arguments)
    grids, paths, items = [], [settings.output / "claims.md"], []
    for annotations in settings.annotations or [demo_folder()]:
        tables, picture, of_set = compare(annotations, settings)
        grids, items, paths = [*grids, *tables], [*items, *of_set], [*paths, picture]
    sentence = (
        "Grad-CAM of the pooling-free network is the positive part of its CAM over H W, to "
        f"{proportionality(items, settings.batch_size):.1e} of CAM's largest value ({counted(len(items), 'object')})."
    )
    text = markdown_of("The original's claims about maps", grids, [sentence])
    write_whole(paths[0], lambda file: file.write(text.encode()))
    print(f"{text}\nwrote {', '.join(map(str, paths))}")
    return 0


if __name__ == "__main__":
    run_script(main)
