"""Explain a network that takes photos and scores classes: Grad-CAM and its family, guided backpropagation, and both.

    python gradcam_vgg16.py                                   # the photos of data/photos, half a minute
    python gradcam_vgg16.py my_photos --classes all --output outputs/mine
    python gradcam_vgg16.py my_photos --weights imagenet      # Keras's own VGG-16, 553 MB once
    python gradcam_vgg16.py my_photos --weights ResNet50V2    # or any other network of keras.applications
    python gradcam_vgg16.py my_photos --weights resnet.keras --preprocess tf --method layer-cam

For each photo and class it writes, below the output folder, gradcam_for_<class>, guided_backprop_for_<class> and
guided_gradcam_for_<class> as .npy, unscaled, and as .jpg, spp_for_<class>.jpg (superposition: the map over the photo),
panel_for_<class>.jpg with all of them, and a row of predictions.csv. The same command again does only what is missing.
A file of weights may hold any network of Keras's own layers: Sequential, functional or nested, ending in softmax,
sigmoid or neither, a vision transformer, or a segmentation.

Grad-CAM is L = ReLU(sum_k alpha_k A_k), alpha_k = mean over y, x of dY_c/dA_k (Selvaraju et al. 2017, eq. 1 and 2):
camlib/attribution/gradcam.py, the other methods in methods.py. Guided backpropagation (Springenberg et al. 2015) and
its product with Grad-CAM: guided.py.
"""

import contextlib
from functools import partial
from pathlib import Path

from camlib.attribution import METHODS
from camlib.console import ArgumentParser, Progress, command, counted, run_script
from camlib.files import file_sha256, parse_place
from camlib.options import (
    add_head_options,
    add_network_options,
    add_pixel_option,
    add_run_options,
    check_run_options,
    network_options,
    style_of_run,
    style_settings,
)

# ---------------------------------------------------------------- settings

OUTPUT = Path("outputs/gradcam")

# ---------------------------------------------------------------- options


def parse_arguments(arguments=None):
    parser = ArgumentParser(__doc__)
    parser.add_argument("places", type=parse_place, nargs="*", metavar="PHOTO_OR_FOLDER", help="default: data/photos")
    add_pixel_option(parser)
    maps = parser.add_argument_group("maps")
    maps.add_argument("--method", default="grad-cam", choices=METHODS, help="the kind of map")
    maps.add_argument(
        "--classes",
        nargs="+",
        default=["predicted"],
        metavar="predicted|all|NAME|INDEX",
        help="which classes to explain; with ImageNet's also dog, cat, bird, horse",
    )
    maps.add_argument(
        "--layer",
        metavar="NAME",
        help="whose output the method weighs, nested/layer in a nested network; default: the last that computes "
        "features with a spatial output",
    )
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
    if args.counterfactual and METHODS[args.method].needs != "gradients":
        parser.error(f"--counterfactual negates gradients, which {args.method} does without; expected another --method")
    if args.architecture and args.weights in ("4class", "imagenet"):
        parser.error(f"--weights {args.weights} needs no --architecture; expected a file of weights alone")
    return args


# ---------------------------------------------------------------- the script


def run_settings(args, source, gradcam, places):
    """What decides the files of a run, for run.json: dict."""
    from camlib.networks.checkpoint import identity_of

    classifier = gradcam.classifier
    return {
        "script": "gradcam_vgg16.py",
        "photos": [str(place.resolve()) for place in places],
        "weights": args.weights,
        **identity_of(source, args.architecture),
        "layer": gradcam.layer,
        "classes": args.classes,
        "method": args.method,
        "signed": METHODS[args.method].signed,
        "counterfactual": args.counterfactual,
        "guided": not args.no_guided,
        "head": classifier.structure.signature.head,
        "region": args.region and file_sha256(args.region),
        "other_inputs": args.other_inputs and file_sha256(args.other_inputs),
        "preprocessing": classifier.input_spec.preprocessing,
        "dtype": classifier.dtype,
        "groups": gradcam.groups or None,
        **style_settings(args),
    }


def main(arguments=None):
    args = parse_arguments(arguments)
    style = style_of_run(args)
    import camlib.backend  # noqa: I001 - first of all: it starts Keras without its start-up lines
    from camlib.attribution.classifier import announce_guided, check_guided
    from camlib.attribution.gradcam import CLASSES_AT_ONCE, GradCAM
    from camlib.memory import check_batch
    from camlib.networks.checkpoint import VGG_NETWORK
    from camlib.photos import SHIPPED_PHOTOS, find_photos
    from camlib.runs.ray import explain_on_ray
    from camlib.runs.run import explain_photos, open_run

    on_ray = args.engine == "ray"
    if on_ray:
        camlib.backend.leave_gpus()
    source = VGG_NETWORK if args.weights == "4class" else args.weights
    load = partial(  # what a worker of Ray does too
        GradCAM.load,
        source,
        network_options(args) | {"name": args.weights},
        layer=args.layer,
        method=args.method,
        guided=not args.no_guided,
        counterfactual=args.counterfactual,
        classes=args.classes,
    )
    gradcam = load()
    structure = gradcam.classifier.structure
    places = args.places or [SHIPPED_PHOTOS]
    photos = find_photos(places, args.most_pixels)
    # of many classes the maps of a batch would fill the memory
    batch_size = max(1, min(args.batch_size, len(photos)) // -(-len(gradcam.chosen) // CLASSES_AT_ONCE))
    check_batch(gradcam.classifier, batch_size, with_gradients=True)
    print(gradcam.description)
    if not args.no_guided:
        if not args.guided_anyway:
            check_guided(structure, "--no-guided leaves it out, --guided-anyway takes the true gradient there")
        announce_guided(structure)
    with open_run(args, gradcam, run_settings(args, source, gradcam, places), photos, batch_size, style) as run:
        if not on_ray:
            print(f"{counted(len(photos), 'photo')} on {camlib.backend.device_name()}")
        run.resume(photos)
        if on_ray:
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
