"""Make class activation maps: where each class's score comes from, at the size of the network's last features.

    python make_cam_maps.py                                   # the photos of data/photos, half a minute
    python make_cam_maps.py my_photos --output outputs/mine
    python make_cam_maps.py my_photos --model outputs/training/mine.h5 --size 128
    python make_cam_maps.py my_photos --model densenet.keras --preprocess torch --class-names names.txt
    python make_cam_maps.py my_photos --store outputs/mine   # a few files of many maps, without pictures

Works for every network whose scores come from one Dense layer right behind global average pooling: those of
train_cam_4class.py, the original's model_weight.h5, and any .keras or .h5 file of Keras's own layers, nested ones too.
For each photo it writes, below the output folder, for each class heatmap_for_<class>.npy (the map in logit units) and
.jpg, spp_for_<class>.jpg (superposition: the map over the photo), and a row of predictions.csv. The same command again
does only what is missing.

The equation is M_c(y, x) = sum_k w_kc f_k(y, x) (Zhou et al. 2016, eq. 2): camlib/attribution/cam.py.
"""

import contextlib
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # which python -I and -P leave out

from camlib.console import ArgumentParser, Progress, command, counted, run_script
from camlib.files import parse_place
from camlib.networks import GAP_NETWORK, identity_of, identity_of_architecture
from camlib.options import (
    add_network_options,
    add_pixel_option,
    add_run_options,
    check_network,
    check_run_options,
    network_options,
    style_of_run,
    style_settings,
)
from camlib.photos import SHIPPED_PHOTOS, find_photos
from camlib.preprocessing import size_name
from camlib.runs.shards import check_output

# ---------------------------------------------------------------- settings

OUTPUT = Path("outputs/cam")

# ---------------------------------------------------------------- options


def parse_arguments(arguments=None):
    parser = ArgumentParser(__doc__)
    parser.add_argument("places", type=parse_place, nargs="*", metavar="PHOTO_OR_FOLDER", help="default: data/photos")
    add_pixel_option(parser)
    network = parser.add_argument_group("network")
    network.add_argument(
        "--model",
        type=Path,
        metavar="FILE|NAME",
        help="the network: .h5, .keras, or one of keras.applications (DenseNet121); default: the shipped "
        "models/cam_4class.h5",
    )
    add_network_options(network)
    add_run_options(parser, OUTPUT, batch_size=32)
    args = parser.parse_args(arguments)
    check_run_options(parser, args)
    return args


# ---------------------------------------------------------------- the script


def known_settings(args, source):
    """What decides the files of a run, for run.json, and is known before the network is: dict."""
    return {
        "script": "make_cam_maps.py",
        "model": str(source),
        **identity_of(source),
        "preprocess": args.preprocess,
        "interpolation": args.interpolation,
        "fit": args.fit,
        "bands": args.bands,
        "dtype": args.dtype,
        **style_settings(args),
    }


def run_settings(args, known, input_spec, places):
    """What decides the files of a run, for run.json: dict."""
    size = input_spec.height if input_spec.height == input_spec.width else size_name(*input_spec.shape[:2])
    photos = [str(place.resolve()) for place in places]
    return known | {"photos": photos, "size": size, **identity_of_architecture(args.architecture)}


def main(arguments=None):
    args = parse_arguments(arguments)
    source = args.model or GAP_NETWORK
    check_network(args, source)
    places = args.places or [SHIPPED_PHOTOS]
    photos = find_photos(places, args.most_pixels)
    known = known_settings(args, source)
    check_output(args.store or args.output, None if args.overwrite or args.shard else known)
    style = style_of_run(args)
    import camlib.backend  # noqa: I001 - first of all: it starts Keras without its start-up lines
    from camlib.attribution.cam import CAM
    from camlib.memory import check_batch
    from camlib.runs.ray import explain_on_ray
    from camlib.runs.run import explain_photos, open_run

    on_ray = args.engine == "ray"
    if on_ray:
        camlib.backend.leave_gpus()
    load = partial(CAM.load, source, network_options(args))  # what a worker of Ray does too
    cam = load()
    batch_size = min(args.batch_size, len(photos))
    check_batch(cam.classifier, batch_size, with_gradients=False)
    with open_run(args, cam, run_settings(args, known, cam.input_spec, places), photos, batch_size, style) as run:
        print(cam.classifier.description)
        if not on_ray:
            print(f"{counted(len(photos), 'photo')} on {camlib.backend.device_name()}")
        run.resume(photos)
        if on_ray:
            batches = explain_on_ray(load, run, batch_size, args.address, args.workers)
        else:
            batches = explain_photos(cam, run.writer, run.pending, batch_size)
        with contextlib.closing(batches), Progress("photos", len(run.pending)) as progress:
            for batch in batches:  # read, mapped and written
                run.add(batch)
                progress.advance(batch.count)
        return run.finish(command("show_heatmaps.py", run.output))


if __name__ == "__main__":
    run_script(main)
