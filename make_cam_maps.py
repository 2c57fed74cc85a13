"""Make class activation maps: where each class's score comes from, at the size of the network's input.

    python make_cam_maps.py                                   # the demo pictures, about twenty seconds
    python make_cam_maps.py my_photos --output outputs/mine
    python make_cam_maps.py my_photos --model outputs/training/mine.h5 --size 128

Works for every network that ends in global average pooling and one Dense layer, as train_cam_4class.py makes them;
the original's model_weight.h5 too. For each photo it writes, below the output folder, for each class
heatmap_for_<class>.npy (the map in logit units) and .jpg, spp_for_<class>.jpg (superposition: the map over the
photo), and a row of predictions.csv. The same command again does only what is missing.
"""

from dataclasses import replace
from pathlib import Path

from camlib.backend import compiled, device_name

# isort: split
import keras
import numpy as np
from keras import layers, ops

from camlib.console import ArgumentParser, UserError, run_script
from camlib.demo.scenes import demo_folder
from camlib.maps import photo_folder, write_map, write_superposition
from camlib.meaning import probabilities_of
from camlib.model_files import GAP_NETWORK, identity_of, load_network
from camlib.photos import find_photos
from camlib.pictures import scale_of
from camlib.runs import MapRun

# ---------------------------------------------------------------- settings

OUTPUT = Path("outputs/cam")
CONVENTIONS = (
    "heatmap_for_<class>.npy: float32 (H, W), M_c(y, x) = sum_k w_kc f_k(y, x), signed, in logit units: its mean plus "
    "the class's bias is logit_<class>. Pictures: one colour scale per photo, blue below zero, red above."
)

# ---------------------------------------------------------------- mathematics


def class_activation_maps(features, class_weights):
    """Weigh the last features into one signed map per class (Zhou et al. 2016, eq. 2).

    M_c(y, x) = sum_k w_kc f_k(y, x). No ReLU and no scaling: mean(M_c) plus the Dense bias is the class's logit.

    Args:
        features: float (N, H, W, K), the last convolution after its ReLU.
        class_weights: float (K, C), kernel of the Dense layer behind global average pooling.

    Returns:
        float32 (N, C, H, W), logit units.

    Raises:
        ValueError: the two K differ; the message gives both shapes.
    """
    if features.shape[-1] != class_weights.shape[0]:
        raise ValueError(f"features {tuple(features.shape)} and weights {tuple(class_weights.shape)} differ in K")
    features, class_weights = ops.cast(features, "float32"), ops.cast(class_weights, "float32")
    return ops.einsum("nhwk,kc->nchw", features, class_weights)


def pooled_classifier(network):
    """Find the global average pooling that feeds a Dense layer, and that Dense layer.

    Raises:
        UserError: there is none, so that CAM does not apply.
    """
    for pooling in network.layers:
        if isinstance(pooling, layers.GlobalAveragePooling2D):
            for dense in network.layers:
                if isinstance(dense, layers.Dense) and dense.input is pooling.output:
                    return pooling, dense
    raise UserError(
        f"the network {network.name!r} has no Dense layer right behind global average pooling, so CAM does not apply; "
        "expected a network of train_cam_4class.py. For others use gradcam_vgg16.py"
    )


def cam_function(network):
    """Compile one forward pass that gives every class's map.

    Args:
        network: keras.Model ending in global average pooling, one Dense layer and, maybe, softmax.

    Returns:
        function of float32 (N, H, W, channels) -> (maps (N, C, H, W), logits (N, C), outputs (N, C)), where outputs
        are the network's own, to be checked against the logits.
    """
    pooling, dense = pooled_classifier(network)
    trunk = keras.Model(network.inputs[0], [pooling.input, network.outputs[0]])

    def maps_of(images):
        features, outputs = trunk(images, training=False)
        maps = class_activation_maps(features, dense.kernel)
        logits = ops.mean(maps, axis=(2, 3))  # (N, C)
        return maps, logits + dense.bias if dense.use_bias else logits, outputs

    return compiled(maps_of, network)


def check_outputs(logits, outputs):
    """Make sure that the logits rebuilt from the maps are the network's: as they are, or behind its softmax.

    Raises:
        UserError: the network computes something else from its features than CAM assumes.
    """
    scale = max(1.0, np.abs(logits).max())
    if not (
        np.allclose(outputs, probabilities_of(logits), atol=1e-4) or np.allclose(outputs, logits, atol=1e-5 * scale)
    ):
        raise UserError(
            "the network's output is neither the maps' mean plus bias nor its softmax; expected only Dense and softmax "
            "behind global average pooling"
        )


# ---------------------------------------------------------------- the script


def parse_arguments(arguments):
    parser = ArgumentParser(__doc__)
    parser.add_argument("places", type=Path, nargs="*", metavar="PHOTO_OR_FOLDER",
                        help="default: the demo set's val and both")  # fmt: skip
    parser.add_argument("--model", type=Path, default=GAP_NETWORK, metavar="FILE.h5", help="the network")
    parser.add_argument("--architecture", type=Path, metavar="FILE.json",
                        help="of weights alone: what model.to_json() wrote")  # fmt: skip
    parser.add_argument("--output", type=Path, default=OUTPUT, metavar="DIR", help="where the maps go")
    parser.add_argument("--size", type=int, metavar="N", help="network input, N x N pixels; default: as trained")
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="photos per forward pass")
    parser.add_argument("--overwrite", action="store_true", help="replace maps made with other settings")
    parser.add_argument("--trust-model", action="store_true", help="let the model file run code")
    settings = parser.parse_args(arguments)
    parser.require(settings, size=8, batch_size=1)
    return settings


def main(arguments=None):
    settings = parse_arguments(arguments)
    network, meaning = load_network(settings.model, settings.trust_model, settings.architecture)
    if meaning is None:
        raise UserError(f"{settings.model} names no classes and no input; expected a file of train_cam_4class.py")
    if settings.size:
        meaning = replace(meaning, height=settings.size, width=settings.size)
    maps_of = cam_function(network)
    places = settings.places or [demo_folder() / "val", demo_folder() / "both"]
    photos = find_photos(places)
    class_names = meaning.class_names
    run = MapRun(
        settings.output,
        {"script": "make_cam_maps.py", "photos": [str(place.resolve()) for place in places],
         "model": str(settings.model), **identity_of(settings.model, settings.architecture), "size": meaning.height},
        CONVENTIONS,
        class_names,
        settings.overwrite,
    )  # fmt: skip

    def explain(images, done):
        maps, logits, outputs = (ops.convert_to_numpy(part) for part in maps_of(meaning.prepare(images)))
        check_outputs(logits, outputs)
        for (photo, picture), photo_maps in zip(done, maps, strict=False):  # the batch may end in filling
            folder, scale = photo_folder(run.output, photo), scale_of(True, photo_maps)
            for name, values in zip(class_names, photo_maps, strict=True):
                write_map(folder, "heatmap", name, values, picture, scale)
                write_superposition(folder, name, values, picture, scale)
        return logits, probabilities_of(logits)

    print(f"{len(photos):,} photos, {settings.model} on {device_name()}")
    return run.make(photos, meaning, settings.batch_size, explain, f"python show_heatmaps.py {run.output}")


if __name__ == "__main__":
    run_script(main)
