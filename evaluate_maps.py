"""Score maps: do they point at the animal, does the network use what they show, do they depend on the network at all?

    python evaluate_maps.py                                   # both shipped networks on data/photos
    python evaluate_maps.py --annotations my_set --maps cam grad-cam grad-cam@block4_conv3
    python evaluate_maps.py --annotations my_set --maps my_network.h5:cam --only localisation
    python evaluate_maps.py my_photos/val --only network      # class folders, without annotations
    python evaluate_maps.py --annotations my_set --maps outputs/cam outputs/mine    # maps that were saved

Writes tables (CSV and Markdown), figures and one HTML page to the output folder. Every score stands beside what maps
that know no network reach, and has a 95 % interval by resampling photos. The same command again does only what is
missing.
"""

import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # which python -I and -P leave out

from camlib.attribution import GUIDED, METHODS
from camlib.console import EXIT_SOME_FAILED, ArgumentParser, UserError, counted, print_table, run_script
from camlib.evaluation import FILLS, parse_map, saved_place
from camlib.evaluation.annotations import find_items
from camlib.options import (
    add_network_options,
    add_output_options,
    add_pixel_option,
    check_network,
    network_options,
)
from camlib.photos import SHIPPED_PHOTOS
from camlib.runs.shards import FAILED_FILE, check_output

# ---------------------------------------------------------------- settings

OUTPUT = Path("outputs/evaluation")
RESULTS_FILE = "results.jsonl"
DEFAULT_MAPS = (
    "cam grad-cam grad-cam@block4_conv3 grad-cam@block3_conv3 guided-backprop guided-grad-cam grad-cam++ hires-cam "
    "layer-cam xgrad-cam element-wise eigen-cam ablation-cam score-cam"
).split()
MEASURES = 3  # which form of the measures results.jsonl holds; results of another are not gone on with
PARTS = ("localisation", "faithfulness", "sanity", "network")
CONVENTIONS = (
    "results.jsonl: one line for each photo, class and part of the evaluation; the tables are made from it. Maps are "
    "enlarged bilinearly to the photo. Values below zero are cut for energy, boxes, masks, precision and ADCC."
)

# ---------------------------------------------------------------- options


def parse_arguments(arguments=None):
    parser = ArgumentParser(__doc__)
    photos, maps = parser.add_argument_group("photos"), parser.add_argument_group("maps")
    places = "which photos; default: all annotated ones, of data/photos where nothing is named"
    photos.add_argument("places", type=Path, nargs="*", metavar="PHOTO_OR_FOLDER", help=places)
    annotations = "annotations.json, PASCAL VOC's XML files, or a folder with masks/"
    photos.add_argument("--annotations", type=Path, metavar="FILE_OR_FOLDER", help=annotations)
    add_pixel_option(photos)
    maps.add_argument(
        "--maps",
        nargs="+",
        default=list(DEFAULT_MAPS),
        metavar="[FILE:]METHOD[@LAYER]|PLACE",
        help="PLACE: saved maps, a folder or a store, of which localisation and the network's "
        "answers are scored; FILE: .h5, .keras, or a name of keras.applications; "
        f"METHOD: cam, {', '.join(GUIDED)}, {', '.join(METHODS)}",
    )
    maps.add_argument("--only", nargs="+", default=list(PARTS), choices=PARTS, help="parts of the evaluation")
    sample = "photos for what is slow: faithfulness, sanity, score-cam and ablation-cam"
    maps.add_argument("--sample", type=int, default=8, metavar="N", help=sample)
    maps.add_argument("--steps", type=int, default=20, metavar="N", help="steps of the deletion and insertion curves")
    maps.add_argument("--fill", nargs="+", default=["blur"], choices=FILLS, help="what replaces deleted pixels")
    add_network_options(parser.add_argument_group("network"))
    output = parser.add_argument_group("output")
    add_output_options(output, OUTPUT, "results", batch_size=8)
    output.add_argument("--html", type=Path, metavar="FILE", help="the page; default: report.html among the results")
    args = parser.parse_args(arguments)
    parser.require(args, sample=1, steps=2, batch_size=1)
    return args


# ---------------------------------------------------------------- the script


def parse_maps(args):
    """What --maps names: (dict of a network's file -> list of its MapKind, list of Path of saved maps).

    Raises:
        UserError: there is no such method, network or file, or two have the same name.
    """
    texts = list(dict.fromkeys(args.maps))
    places = [place for place in map(saved_place, texts) if place]
    kinds = [parse_map(text) for text in texts if not saved_place(text)]
    files = list(dict.fromkeys(kind.network for kind in kinds))
    if len({file.stem for file in (*files, *places)}) < len(files) + len(places):
        raise UserError("--maps names two files with the same name; expected different ones, as tables go by them")
    return {file: [kind for kind in kinds if kind.network == file] for file in files}, places


def load_scored(args, kinds, places):
    """Load each network that --maps names, and find the saved maps: list of ScoredNetwork and SavedMaps.

    Args:
        args: the user's.
        kinds, places: see `parse_maps`.

    Raises:
        UserError: one cannot be scored.
    """
    from camlib.evaluation.saved_maps import SavedMaps
    from camlib.evaluation.scored_networks import ScoredNetwork

    options = network_options(args)
    networks = [ScoredNetwork(file, of_file, args.steps, **options) for file, of_file in kinds.items()]
    return [*networks, *map(SavedMaps, places)]


def known_items(items, class_names):
    """The items whose class a network knows, one of `class_names`; says how many are left out.

    Raises:
        UserError: there is none.
    """
    known = [item for item in items if item.class_name in class_names]
    if not known:
        shown = sorted({item.class_name for item in items})
        raise UserError(f"the photos show {', '.join(shown[:10])}; the networks know {', '.join(class_names[:10])}")
    if len(known) < len(items):
        left = len(items) - len(known)
        print(f"{left:,} of {len(items):,} items are of classes that a network does not know: left out")
    return known


def known_settings(args):
    """What decides the results and is known before anything is loaded: dict."""
    names = ("maps", "only", "sample", "steps", "fill", "preprocess", "interpolation", "fit", "size")
    return {"script": "evaluate_maps.py", "measures": MEASURES, **{name: getattr(args, name) for name in names}}


def run_settings(args, items, all_scored):
    """What decides the results, for run.json: dict."""
    from camlib.evaluation.annotations import items_sha256

    return {
        **known_settings(args),
        "photos": [str(place.resolve()) for place in args.places],
        "annotations": str(args.annotations and args.annotations.resolve()),
        "class_names": args.class_names and [scored.class_names for scored in all_scored],
        "items": len(items),
        "networks": {scored.name: scored.identity for scored in all_scored},
        **items_sha256(items),
        "dtype": ", ".join(dict.fromkeys(scored.dtype for scored in all_scored)),
    }


def evaluate(scored, items, args, results, failed, with_baselines):
    """All parts of the evaluation of one network, in their order."""
    from camlib.evaluation.annotations import spread
    from camlib.evaluation.parts import evaluate_fast, evaluate_sample, evaluate_sanity
    from camlib.evaluation.saved_maps import SavedMaps, evaluate_saved

    parts, sample = args.only, spread(items, args.sample)
    if isinstance(scored, SavedMaps):
        if left_out := [part for part in parts if part in ("faithfulness", "sanity")]:
            print(f"{scored.name}: {' and '.join(left_out)} ask the network, which saved maps are without: left out")
        evaluate_saved(scored, items, results, failed, with_baselines)
        return
    if "localisation" in parts or "network" in parts:
        evaluate_fast(scored, items, results, failed, with_baselines, min(args.batch_size, len(items)))
    if "faithfulness" in parts or ("localisation" in parts and scored.explain_slow):
        evaluate_sample(scored, sample, results, failed, args.fill if "faithfulness" in parts else [])
    if "sanity" in parts and scored.fast_kinds:
        evaluate_sanity(scored, sample, results, failed)


def main(arguments=None):
    args = parse_arguments(arguments)
    annotations = args.annotations or (None if args.places else SHIPPED_PHOTOS)
    items = find_items(args.places, annotations, args.most_pixels)
    kinds, places = parse_maps(args)
    for file in kinds:
        names, groups = check_network(args, file)
        items = known_items(items, [*names, *groups]) if names else items
    check_output(args.output, None if args.overwrite else known_settings(args))
    import camlib.backend  # noqa: I001 - first of all: it starts Keras without its start-up lines
    from camlib.evaluation.report import write_report
    from camlib.evaluation.results import Results
    from camlib.evaluation.saved_maps import SavedMaps
    from camlib.memory import check_batch
    from camlib.runs.claim import claim_folder, say_failed, write_failed

    all_scored = load_scored(args, kinds, places)
    for scored in all_scored:
        items = known_items(items, scored.class_names)
    for scored in all_scored:
        if not isinstance(scored, SavedMaps):
            check_batch(scored, min(args.batch_size, len(items)), with_gradients=scored.explain_fast is not None)
    if "localisation" not in args.only:
        items = [replace(item, annotation=None, of_photo=()) for item in items]
    if "localisation" in args.only and not any(item.annotation for item in items):
        print("no annotations: localisation and sharpness are left out; --annotations names them")
    settings = run_settings(args, items, all_scored)
    with claim_folder(args.output, settings, CONVENTIONS, args.overwrite, remove_results):
        results, failed = Results(args.output / RESULTS_FILE), {}
        photos = len({item.name for item in items})
        objects, maps = counted(len(items), "object"), counted(len(args.maps), "kind of map", "kinds of map")
        print(f"{counted(photos, 'photo')}, {objects}, {maps} on {camlib.backend.device_name()}")
        for scored in all_scored:
            evaluate(scored, items, args, results, failed, with_baselines=scored is all_scored[0])
        grids, sentences = write_report(all_scored, args, results)
        for grid in grids:
            print_table(*grid)
        print(*sentences, sep="\n")
        write_failed(args.output / FAILED_FILE, list(failed.items()))
        print(f"wrote tables, figures and {args.html or args.output / 'report.html'}")
        if failed:
            say_failed(list(failed.items()), args.output / FAILED_FILE)
    return EXIT_SOME_FAILED if failed else 0


def remove_results(output):
    (output / RESULTS_FILE).unlink(missing_ok=True)


if __name__ == "__main__":
    run_script(main)
