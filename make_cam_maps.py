"""Make class activation maps: where each class's score comes from, at the size of the network's last features.

    python make_cam_maps.py                                   # the demo pictures, about twenty seconds
    python make_cam_maps.py my_photos --output outputs/mine
    python make_cam_maps.py my_photos --model outputs/training/mine.h5 --size 128
    python make_cam_maps.py my_photos --model densenet.keras --preprocess torch --class-names names.txt
    python make_cam_maps.py my_photos --store outputs/mine.h5   # one file of maps instead of a folder

Works for every network whose scores come from one Dense layer right behind global average pooling: those of
train_cam_4class.py, the original's model_weight.h5, and any .keras or .h5 file of Keras's own layers, nested ones too.
For each photo it writes, below the output folder, for each class heatmap_for_<class>.npy (the map in logit units) and
.jpg, spp_for_<class>.jpg (superposition: the map over the photo), and a row of predictions.csv. The same command again
does only what is missing.
"""

from pathlib import Path

from camlib.console import ArgumentParser, UserError, command, counted, run_script
from camlib.files import parse_place
from camlib.options import (
    add_machine_options,
    add_map_run_options,
    add_network_options,
    add_style_options,
    check_store_options,
    size_name,
)
from camlib.pixel_budget import PIXELS, add_pixel_option
from camlib.runs.ray import check_machine_options, engine_of

# ---------------------------------------------------------------- settings

OUTPUT = Path("outputs/cam")
CONVENTIONS = (
    "heatmap_for_<class>.npy: float32 (H, W) of the last features, M_c(y, x) = sum_k w_kc f_k(y, x), signed, in logit "
    "units: its mean plus the class's bias is logit_<class>. Pictures: one colour scale per photo, blue below zero, "
    "black at zero, red to yellow above; over the photo its end is the photo's largest positive value."
)

# ---------------------------------------------------------------- options


def parse_arguments(arguments=None):
    parser = ArgumentParser(__doc__)
    parser.add_argument("places", type=parse_place, nargs="*", metavar="PHOTO_OR_FOLDER",
                        help="default: the demo set's val and both")  # fmt: skip
    add_pixel_option(parser)
    network = parser.add_argument_group("network")
    network.add_argument("--model", type=Path, metavar="FILE|NAME",
                         help="the network: .h5, .keras, or one of keras.applications (DenseNet121); default: the "
                         "shipped models/cam_4class.h5")  # fmt: skip
    add_network_options(network)
    add_style_options(parser.add_argument_group("pictures"))
    add_map_run_options(parser.add_argument_group("output"), OUTPUT, batch_size=32)
    add_machine_options(parser.add_argument_group("several machines"))
    settings = parser.parse_args(arguments)
    parser.require(settings, batch_size=1)
    check_store_options(parser, settings)
    check_machine_options(parser, settings)
    return settings


if __name__ == "__main__":
    parse_arguments()  # before Keras is imported, which takes seconds

from camlib.backend import compiled, device_name, leave_gpus, traced

# isort: split
from keras import activations, layers, ops

from camlib.attribution.axes import check_axes
from camlib.attribution.classifier import Subject
from camlib.attribution.gradcam import widened
from camlib.attribution.inspection import both_sides
from camlib.attribution.tracing import watched
from camlib.demo.scenes import demo_folder
from camlib.memory import check_subject, halving
from camlib.networks.checkpoint import GAP_NETWORK, identity_of, load_network
from camlib.photos import find_photos
from camlib.plots.colours import style_of_run, style_settings
from camlib.runs.maps import write_maps
from camlib.runs.run import Work
from camlib.runs.shards import Part
from camlib.runs.store_run import run_of

# ---------------------------------------------------------------- mathematics

ENDINGS = (activations.linear, activations.softmax, activations.sigmoid)  # of the Dense layer
ANY_SIDE = 224  # pixels, to look at networks that take every size; nothing is computed then


def class_activation_maps(features, class_weights):
    """Weigh the last features into one signed map per class (Zhou et al. 2016, eq. 2).

    M_c(y, x) = sum_k w_kc f_k(y, x). No ReLU and no scaling: mean(M_c) plus the Dense bias is the class's logit.

    Args:
        features: float (N, H, W, K), the last convolution after its ReLU.
        class_weights: float (K, C), kernel of the Dense layer behind global average pooling.

    Returns:
        float (N, C, H, W), logit units; float32, or float64 as the features.

    Raises:
        ValueError: the two K differ; the message gives both shapes.
    """
    if features.shape[-1] != class_weights.shape[0]:
        raise ValueError(f"features {tuple(features.shape)} and weights {tuple(class_weights.shape)} differ in K")
    features = widened(features)
    class_weights = ops.cast(class_weights, features.dtype)
    return ops.einsum("nhwk,kc->nchw", features, class_weights)


def pooled_classifier(network):
    """Find the global average pooling and the Dense layer that a network's scores come from.

    Args:
        network: keras.Model.

    Returns:
        (pooling, dense, place): keras layers, and the path of what the first pools; None where no layer made that.

    Raises:
        UserError: there are none, so that CAM does not apply.
    """
    seen = []

    def look(images):
        seen.append(pooled_scores(network, images))
        return seen[-1][0]

    height, width, channels = network.input_shape[1:]
    traced(look, (1, height or ANY_SIDE, width or ANY_SIDE, channels))
    _, pooling, dense, before, place = seen[-1]
    if pooling is None:
        where = f"layer {dense.path!r} makes them from {before!r}" if dense else "no Dense layer makes them"
        raise UserError(
            f"the network {network.name!r} has no Dense layer right behind global average pooling that makes its "
            f"scores ({where}), so CAM does not apply; use python gradcam_vgg16.py"
        )
    return pooling.layer, dense.layer, place


def pooled_scores(network, images):
    """Run a network, and see what makes its scores.

    Args:
        network: keras.Model.
        images: float32 (N, H, W, channels).

    Returns:
        (outputs, pooling, dense, before, place): the network's own output (N, C), the Run of the global average pooling
        whose means the scores are made from, that of the Dense layer which does so, the path of the layer in front of
        it, and of that in front of the pooling. Dropout or Flatten, which compute nothing, may stand between the two.
        What is missing is None.
    """
    with watched() as record:
        outputs = network(images, training=False)
    ending = record.ending_of(outputs)
    # behind Dense(activation="softmax") there is one of the two only
    scores = [ending.activations[0].input, outputs] if ending and len(ending.activations) == 1 else [outputs]
    dense = next(filter(None, (record.maker_of(tensor, layers.Dense) for tensor in scores)), None)
    if dense is None or dense.layer.activation not in ENDINGS:
        return outputs, None, None, None, None
    before = next((run.path for run in record.runs if run.output is dense.input), "the photo")
    pooling = record.maker_of(dense.input, layers.GlobalAveragePooling2D)
    place = pooling and next((run.path for run in record.runs if run.output is pooling.input), None)
    return outputs, pooling, dense, before, place


def cam_function(network, two_sided=False):
    """Compile one forward pass that gives every class's map.

    Args:
        network: keras.Model whose scores come from global average pooling and one Dense layer.
        two_sided: bool, its single unit stands for two classes, as for `both_sides`.

    Returns:
        function of float32 (N, H, W, channels) -> (maps (N, C, H, W), logits (N, C), outputs), where outputs are the
        network's own, to be checked against the logits.

    Raises:
        UserError: CAM does not apply.
    """
    pooled_classifier(network)
    sides = both_sides if two_sided else lambda weights: weights

    def maps_of(images):
        outputs, pooling, dense, *_ = pooled_scores(network, images)
        maps = class_activation_maps(pooling.input, sides(dense.layer.kernel))
        logits = ops.mean(maps, axis=(2, 3))  # (N, C)
        return maps, logits + sides(dense.layer.bias) if dense.layer.use_bias else logits, outputs

    return compiled(maps_of, network)


def cam_of_subject(subject):
    """The `cam_function` of a Subject, whose last features have to lie on the photo's own axes.

    Raises:
        UserError: CAM does not apply, or the axes are others.
    """
    _, _, place = pooled_classifier(subject.network)
    check_axes(subject.network, subject.plan, place, subject.meaning, asked=False)
    return cam_function(subject.network, subject.plan.two_sided)


# ---------------------------------------------------------------- the script


def prepared(settings, worker=False):
    """Load the network and claim the folder of a run.

    Args:
        settings: Namespace, see `parse_arguments`.
        worker: bool, for another process, which did so before, see `camlib.runs.ray`.

    Returns:
        Work.
    """
    PIXELS.most, style = settings.most_pixels, style_of_run(settings)
    source = settings.model or GAP_NETWORK
    network, meaning = load_network(source, settings.trust_model, settings.architecture, settings.largest_model)
    subject = Subject(network, meaning, source, None, settings.preprocess, settings.class_names, settings.size,
                      settings.dtype)  # fmt: skip
    maps_of, meaning = cam_of_subject(subject), subject.meaning
    places = settings.places or [demo_folder() / "val", demo_folder() / "both"]
    photos = [] if worker else find_photos(places)
    if not worker:  # whose photos are dealt in batches of this size
        settings.batch_size = min(settings.batch_size, len(photos))
        check_subject(subject, settings.batch_size, with_gradients=False)
    run = run_of(
        settings,
        {"script": "make_cam_maps.py", "photos": [str(place.resolve()) for place in places],
         "model": str(source), **identity_of(source, settings.architecture),
         "size": meaning.height if meaning.height == meaning.width else size_name(meaning.height, meaning.width),
         "preprocess": settings.preprocess, "dtype": settings.dtype, **style_settings(settings)},
        CONVENTIONS,
        meaning.class_names,
        with_probabilities=subject.has_probabilities,
        part=settings.shard and Part(settings.shard, photos, settings.batch_size),
        worker=worker,
    )  # fmt: skip

    def maps_of_batch(images, count):
        return tuple(ops.convert_to_numpy(part) for part in maps_of(subject.prepare(images)))

    run_batch = halving(maps_of_batch, axes=(0, 0, 0))

    def explain(images, count):
        maps, logits, outputs = run_batch(images, count)
        logits = subject.checked_logits(outputs, logits)

        def write(index, photo, folder, picture):
            of_classes = dict(zip(meaning.class_names, maps[index], strict=True))
            write_maps(folder, "heatmap", of_classes, True, picture, style, over_photo=True)

        return logits, subject.probabilities_of(logits), write

    print(f"network {source}: {meaning.preprocessing}, {subject.whose}")
    return Work(run, photos, meaning, settings.batch_size, explain, settings.full_size)


def main(arguments=None):
    settings = parse_arguments(arguments)
    if settings.engine == "ray":
        leave_gpus()
    work = prepared(settings)
    if settings.engine == "process":
        print(f"{counted(len(work.photos), 'photo')} on {device_name()}")
    return work.make(command("show_heatmaps.py", work.run.output), engine_of("make_cam_maps", settings, work))


if __name__ == "__main__":
    run_script(main)
