"""Explain a network that takes photos and scores classes: Grad-CAM and its family, guided backpropagation, and both.

    python gradcam_vgg16.py                                   # the photos of data/photos, half a minute
    python gradcam_vgg16.py my_photos --classes all --output outputs/mine
    python gradcam_vgg16.py my_photos --weights imagenet      # Keras's own VGG-16, 553 MB once
    python gradcam_vgg16.py my_photos --weights ResNet50V2    # or any other network of keras.applications
    python gradcam_vgg16.py my_photos --weights resnet.keras --preprocess tf --method layer-cam
    python gradcam_vgg16.py my_photos --layer block4_conv3 block5_conv3     # each in a subfolder; --layers lists them

For each photo and class it writes, below the output folder, gradcam_for_<class>, guided_backprop_for_<class> and
guided_gradcam_for_<class> as .npy, unscaled, and as .jpg, spp_for_<class>.jpg (superposition: the map over the photo),
panel_for_<class>.jpg with all of them, and a row of predictions.csv. The same command again does only what is missing.
A file of weights may hold any network of Keras's own layers: Sequential, functional or nested, ending in softmax,
sigmoid or neither, a vision transformer, or a segmentation.

Grad-CAM is L = ReLU(sum_k alpha_k A_k), alpha_k = mean over y, x of dY_c/dA_k (Selvaraju et al. 2017, eq. 1 and 2):
camlib/attribution/gradcam.py, the other methods in methods.py. Guided backpropagation (Springenberg et al. 2015) and
its product with Grad-CAM: guided.py.
"""

import argparse
import contextlib
import sys
from functools import partial
from itertools import product
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # which python -I and -P leave out

from camlib.attribution import METHODS, kind_of
from camlib.console import ArgumentParser, Progress, UserError, command, counted, print_table, run_script
from camlib.files import RUN_FILE, file_sha256, parse_place
from camlib.networks import VGG_NETWORK, identity_of, identity_of_architecture
from camlib.options import (
    add_changed_photo_options,
    add_head_options,
    add_network_options,
    add_pixel_option,
    add_run_options,
    changed_photo_options,
    check_changed_photo_options,
    check_network,
    check_run_options,
    network_options,
    style_of_run,
    style_settings,
)
from camlib.photos import SHIPPED_PHOTOS, find_photos
from camlib.preprocessing import chosen_classes
from camlib.runs.shards import check_output

# ---------------------------------------------------------------- settings

OUTPUT = Path("outputs/gradcam")

# ---------------------------------------------------------------- options


def parse_arguments(arguments=None):
    parser = ArgumentParser(__doc__)
    parser.add_argument("places", type=parse_place, nargs="*", metavar="PHOTO_OR_FOLDER", help="default: data/photos")
    add_pixel_option(parser)
    maps = parser.add_argument_group("maps")
    maps.add_argument(
        "--method",
        nargs="+",
        default=["grad-cam"],
        choices=METHODS,
        help="the kind of map; of several, and of several layers, each goes to a subfolder, METHOD@LAYER",
    )
    maps.add_argument(
        "--classes",
        nargs="+",
        default=["predicted"],
        metavar="predicted|all|topN|NAME|INDEX",
        help="which classes to explain; top5: the five most probable of each photo; with ImageNet's also dog, cat, "
        "bird, horse",
    )
    maps.add_argument(
        "--layer",
        nargs="+",
        metavar="NAME",
        help="whose output the method weighs, nested/layer in a nested network; default: the last that computes "
        "features with a spatial output",
    )
    maps.add_argument("--layers", action="store_true", help="list the layers that can be mapped, and end")
    add_changed_photo_options(maps)
    maps.add_argument("--counterfactual", action="store_true", help="map what speaks against the class")
    maps.add_argument("--no-guided", action="store_true", help="leave guided backpropagation out")
    maps.add_argument(
        "--guided-anyway", action="store_true", help="use the true gradient at activations that are no ReLU"
    )
    network = parser.add_argument_group("network")
    network.add_argument(
        "--weights",
        default="4class",
        metavar="4class|imagenet|NAME|FILE",
        help="the network: the shipped one, Keras's VGG-16 of ImageNet, another of keras.applications (ResNet50V2), or "
        "a .h5 or .keras file",
    )
    add_network_options(network)
    add_head_options(parser.add_argument_group("networks with several inputs or outputs"))
    add_run_options(parser, OUTPUT, batch_size=8)
    args = parser.parse_args(arguments)
    check_run_options(parser, args)
    check_changed_photo_options(parser, args)
    without = next((method for method in args.method if METHODS[method].needs != "gradients"), None)
    if args.counterfactual and without:
        parser.error(f"--counterfactual negates gradients, which {without} does without; expected another --method")
    if args.architecture and args.weights in ("4class", "imagenet"):
        parser.error(f"--weights {args.weights} needs no --architecture; expected a file of weights alone")
    return args


# ---------------------------------------------------------------- the script


def runs_of(args):
    """The user's settings for each run, one method of one layer, of which most commands have one: list of Namespace."""
    pairs = product(args.layer or [None], args.method)
    pairs = dict.fromkeys((layer if METHODS[method].of_layer else None, method) for layer, method in pairs)
    return [argparse.Namespace(**vars(args) | {"layer": layer, "method": method}) for layer, method in pairs]


def known_settings(args, identity):
    """What decides the files of a run, for run.json, and is known before the network is: dict.

    Args:
        args: Namespace, see `runs_of`.
        identity: dict, the network's, see `identity_of`.
    """
    return {
        "script": "gradcam_vgg16.py",
        "weights": args.weights,
        **identity,
        "classes": args.classes,
        "method": args.method,
        "signed": METHODS[args.method].signed,
        "counterfactual": args.counterfactual,
        "guided": not args.no_guided,
        **({"reduce": args.reduce} if args.reduce and kind_of(args.method) == args.method else {}),
        **style_settings(args),
    }


def run_settings(args, identity, gradcam, places):
    """What decides the files of a run, for run.json: dict."""
    classifier = gradcam.classifier
    return known_settings(args, identity) | {
        "photos": [str(place.resolve()) for place in places],
        **identity_of_architecture(args.architecture),
        "layer": gradcam.layer,
        "region": args.region and file_sha256(args.region),
        "other_inputs": args.other_inputs and file_sha256(args.other_inputs),
        "head": classifier.structure.signature.head,
        "preprocessing": classifier.input_spec.preprocessing,
        "dtype": classifier.dtype,
        "groups": gradcam.groups or None,
        **gradcam.options.settings(gradcam.method),
    }


def check_outputs(runs, identity):
    """Refuse folders that hold something else, as far as that is known before the network is.

    Args:
        runs: list of Namespace, see `runs_of`.
        identity: dict, see `known_settings`.

    Raises:
        UserError: one does.
    """
    first, *others = runs
    place = first.store or first.output
    if others and (place / RUN_FILE).exists():
        raise UserError(
            f"{place} holds one run; expected another folder, in which each method and layer has a subfolder"
        )
    if not others:
        check_output(place, None if first.overwrite or first.shard else known_settings(first, identity))


def print_layers(structure):
    """Print the layers that can be mapped, with the size of their maps."""
    rows = [
        [path, f"{height}x{width}", f"{features:,}", "default" if path == structure.target else ""]
        for path, (height, width, features) in structure.sizes.items()
    ]
    print_table("layers that can be mapped", ["--layer", "map", "features", ""], rows)


def main(arguments=None):
    args = parse_arguments(arguments)
    source = VGG_NETWORK if args.weights == "4class" else args.weights
    names, groups = check_network(args, source)
    if names:
        chosen_classes(args.classes, names, groups)
    places, runs = args.places or [SHIPPED_PHOTOS], runs_of(args)
    if not args.layers:
        photos = find_photos(places, args.most_pixels)
        identity = identity_of(source)
        check_outputs(runs, identity)
        style = style_of_run(args)
    import camlib.backend  # noqa: I001 - first of all: it starts Keras without its start-up lines
    from camlib.attribution.classifier import Classifier
    from camlib.attribution.gradcam import GradCAM

    if args.engine == "ray":
        camlib.backend.leave_gpus()
    options = network_options(args) | {"name": args.weights}
    classifier = Classifier.load(source, **options)
    if args.layers:
        print(classifier.description)
        print_layers(classifier.structure)
        return 0
    settings = {"guided": not args.no_guided, "counterfactual": args.counterfactual, "classes": args.classes}
    loads = [  # what a worker of Ray does too
        {"layer": run.layer, "method": run.method, **settings, **changed_photo_options(run, run.method)} for run in runs
    ]
    gradcams = [GradCAM(classifier, **load) for load in loads]
    if classifier.input_spec.channels > 3 and any(one.guided or kind_of(one.method) == one.method for one in gradcams):
        raise UserError("gradients of more than three bands are no picture; expected --no-guided and another --method")
    if not args.guided_anyway:
        for one in gradcams:
            one.check_guided("--no-guided leaves it out, --guided-anyway takes the true gradient there")
    codes = []
    for run, gradcam, of_run in zip(runs, gradcams, loads, strict=True):
        if len(runs) > 1:
            name = f"{run.method}@{(gradcam.layer or 'input').replace('/', '.')}"
            run.output, run.store = run.output / name, run.store and run.store / name
        load = partial(GradCAM.load, source, options, **of_run)
        codes.append(write_explained(run, gradcam, load, run_settings(run, identity, gradcam, places), photos, style))
    return max(codes)


def write_explained(args, gradcam, load, settings, photos, style):
    """Explain photos with one method of one layer, and write the maps; returns the exit code.

    Args:
        args: Namespace, see `runs_of`.
        gradcam: GradCAM.
        load: function that loads it in a worker of Ray.
        settings: dict for run.json.
        photos: list of Photo.
        style: Style of the pictures, or None.
    """
    import camlib.backend
    from camlib.attribution.classifier import announce_guided
    from camlib.memory import check_batch
    from camlib.runs.explained import photos_at_once
    from camlib.runs.ray import explain_on_ray
    from camlib.runs.run import explain_photos, open_run

    batch_size = photos_at_once(args.batch_size, len(photos), gradcam)
    check_batch(gradcam.classifier, batch_size, with_gradients=True)
    print(gradcam.description)
    if gradcam.guided:
        announce_guided(gradcam.classifier.structure)
    with open_run(args, gradcam, settings, photos, batch_size, style) as run:
        if args.engine == "process":
            print(f"{counted(len(photos), 'photo')} on {camlib.backend.device_name()}")
        run.resume(photos)
        if args.engine == "ray":
            batches = explain_on_ray(load, run, batch_size, args.address, args.workers)
        else:
            batches = explain_photos(gradcam, run.writer, run.pending, batch_size)
        with contextlib.closing(batches), Progress("photos", len(run.pending)) as progress:
            for batch in batches:  # read, mapped and written
                run.add(batch)
                progress.advance(batch.count)
        code = run.finish(command("show_heatmaps.py", run.output))
        # in the photos' order, whichever was written first
        zero = [one for photo in photos for one in run.notes.get(photo.name, [])]
        if zero:
            print(
                f"{counted(len(zero), 'map')} {'is' if len(zero) == 1 else 'are'} zero everywhere, the first {zero[0]}"
            )
        return code


if __name__ == "__main__":
    run_script(main)
