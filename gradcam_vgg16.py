"""Explain VGG-16: Grad-CAM, guided backpropagation and guided Grad-CAM, from one shared forward pass.

    python gradcam_vgg16.py                                   # the demo pictures, about half a minute
    python gradcam_vgg16.py my_photos --classes all --output outputs/mine
    python gradcam_vgg16.py my_photos --weights imagenet      # Keras's own weights, 553 MB once

For each photo and class it writes, below the output folder, gradcam_for_<class>, guided_backprop_for_<class> and
guided_gradcam_for_<class> as .npy, unscaled, and as .jpg, panel_for_<class>.jpg with the photo and all three, and a
row of predictions.csv. The same command again does only what is missing.
"""

import contextlib
from pathlib import Path

from camlib.backend import compiled, device_name, value_and_pullback

# isort: split
import keras
import numpy as np
from keras import ops

from camlib.console import ArgumentParser, UserError, run_script
from camlib.images import find_photos
from camlib.maps import MapRun, limit_of, photo_folder, write_map, write_panel
from camlib.networks import file_sha256, imagenet_vgg16, load_network, logit_of
from data.draw_demo import demo_folder

# ---------------------------------------------------------------- settings

MODEL = Path(__file__).parent / "models" / "vgg16_4class.h5"
OUTPUT = Path("outputs/gradcam")
LAYER = "block5_conv3"
CONVENTIONS = (
    "gradcam_for_<class>.npy: float32 (h, w), ReLU(sum_k alpha_k A_k) of the layer at its own size, alpha_k = mean of "
    "dY_c/dA_k, Y_c the logit. guided_backprop_for_<class>.npy: float32 (H, W, 3), signed gradient of Y_c with respect "
    "to the network's input, RGB. guided_gradcam_for_<class>.npy: the latter times the former, enlarged bilinearly. "
    "None is scaled; the pictures are, to the largest value among the photo's classes."
)
PREDICTED = -1  # stands for "the class the network predicts" among class indices

# ---------------------------------------------------------------- mathematics


def grad_cam_before_relu(features, gradients):
    """Weigh the features by their mean gradients (Selvaraju et al. 2017, eq. 1 and 2 without its ReLU).

    alpha_k = mean over y, x of dY_c/dA_k; sum_k alpha_k A_k. Behind global average pooling and one Dense layer this is
    the class activation map over H * W.

    Args:
        features: float (N, h, w, K), A, a convolution after its ReLU.
        gradients: float (N, h, w, K), dY_c/dA, of the logit Y_c.

    Returns:
        float32 (N, h, w).
    """
    features, gradients = ops.cast(features, "float32"), ops.cast(gradients, "float32")
    alpha = ops.mean(gradients, axis=(1, 2))  # (N, K)
    return ops.einsum("nhwk,nk->nhw", features, alpha)


def grad_cam(features, gradients):
    """Grad-CAM, L = ReLU(sum_k alpha_k A_k): float32 (N, h, w), never negative. See `grad_cam_before_relu`."""
    return ops.relu(grad_cam_before_relu(features, gradients))


@ops.custom_gradient
def guided_relu(x):
    """ReLU whose gradient passes where its input and the incoming gradient are positive (Springenberg et al. 2015)."""

    def gradient(*arguments, upstream=None):
        upstream = arguments[0] if upstream is None else upstream  # Keras's backends differ in how they pass it
        return ops.where(ops.logical_and(x > 0, upstream > 0), upstream, ops.zeros_like(upstream))

    return ops.relu(x), gradient


def guided_grad_cam(guided_gradients, cam):
    """Multiply guided gradients (N, H, W, C) by the Grad-CAM (N, h, w), enlarged bilinearly with half-pixel centres."""
    size = tuple(guided_gradients.shape[1:3])
    return guided_gradients * ops.image.resize(cam[..., None], size, interpolation="bilinear")


@contextlib.contextmanager
def guided_relus(network):
    """Let every ReLU of a network be a guided one while it is traced; the network itself is left as it was.

    Raises:
        UserError: a layer's activation is not a ReLU, so that guided backpropagation is not defined; it is named.
    """
    allowed = (keras.activations.relu, keras.activations.linear, keras.activations.softmax)
    activated = [layer for layer in network.layers if hasattr(layer, "activation")]
    for layer in activated:
        if layer.activation not in allowed:
            raise UserError(
                f"layer {layer.name!r} has the activation {layer.activation.__name__!r}; guided backpropagation is "
                "defined for ReLU only"
            )
    relus = [layer for layer in activated if layer.activation is keras.activations.relu]
    try:
        for layer in relus:
            layer.activation = guided_relu
        yield
    finally:
        for layer in relus:
            layer.activation = keras.activations.relu


def explainer(network, layer_name):
    """Compile Grad-CAM, guided backpropagation and guided Grad-CAM of a network.

    The trunk, up to the layer, runs once, whatever the number of classes; guided ReLUs give the same values forward.
    The head runs twice, since the Grad-CAM weights use the true gradient and never the guided one.

    Args:
        network: keras.Model, images to logits or probabilities.
        layer_name: str, whose output is A.

    Returns:
        function of (images float32 (N, H, W, C), classes int32 (R, N), PREDICTED where the network is to choose) ->
        (logits (N, classes), chosen int (R, N), cams (R, N, h, w), guided gradients (R, N, H, W, C), products of the
        last two (R, N, H, W, C)).
    """
    features_of = network.get_layer(layer_name).output
    trunk = keras.Model(network.inputs[0], features_of)
    head = keras.Model(features_of, logit_of(network))

    def guided_trunk(images):
        with guided_relus(trunk):
            return trunk(images, training=False)

    def guided_head(features):
        with guided_relus(head):
            return head(features, training=False)

    @compiled
    def explain(images, classes):
        features, pull_to_images = value_and_pullback(guided_trunk, images)
        logits, pull_to_features = value_and_pullback(lambda x: head(x, training=False), features)
        _, guided_pull_to_features = value_and_pullback(guided_head, features)
        predicted = ops.cast(ops.argmax(logits, axis=1), "int32")
        results = []
        for wanted in ops.unstack(classes, axis=0):
            chosen = ops.where(wanted == PREDICTED, predicted, wanted)  # (N,)
            score = ops.one_hot(chosen, logits.shape[1], dtype=logits.dtype)  # dY_c/dlogits
            cam = grad_cam(features, pull_to_features(score))
            guided = pull_to_images(guided_pull_to_features(score))
            results.append((chosen, cam, guided, guided_grad_cam(guided, cam)))
        return logits, *(ops.stack(parts) for parts in zip(*results, strict=True))

    return explain


# ---------------------------------------------------------------- the script


def parse_arguments(arguments):
    parser = ArgumentParser(__doc__)
    parser.add_argument("places", type=Path, nargs="*", metavar="PHOTO_OR_FOLDER",
                        help="default: the demo set's val and both")  # fmt: skip
    parser.add_argument("--weights", default="4class", metavar="4class|imagenet|FILE", help="the network")
    parser.add_argument("--layer", default=LAYER, metavar="NAME", help="whose output Grad-CAM weighs")
    parser.add_argument("--classes", nargs="+", default=["predicted"], metavar="predicted|all|NAME|INDEX",
                        help="which classes to explain")  # fmt: skip
    parser.add_argument("--output", type=Path, default=OUTPUT, metavar="DIR", help="where the maps go")
    parser.add_argument("--batch-size", type=int, default=8, metavar="N", help="photos per forward pass")
    parser.add_argument("--overwrite", action="store_true", help="replace maps made with other settings")
    parser.add_argument("--trust-model", action="store_true", help="let the model file run code")
    settings = parser.parse_args(arguments)
    if settings.batch_size < 1:
        parser.error(f"--batch-size {settings.batch_size}: expected 1 or more")
    return settings


def load_weights(settings):
    """The network to explain, its Meaning, and what identifies it in run.json."""
    if settings.weights == "imagenet":
        network, meaning = imagenet_vgg16()
        return network, meaning, "keras imagenet"
    path = MODEL if settings.weights == "4class" else Path(settings.weights)
    network, meaning = load_network(path, settings.trust_model)
    if meaning is None:
        raise UserError(f"{path} names no classes and no input; expected a file of train_cam_4class.py")
    return network, meaning, file_sha256(path)


def check_layer(network, name):
    """Raise UserError, with the names to choose from, unless the layer exists and its output is (N, h, w, K)."""
    spatial = [layer.name for layer in network.layers if len(layer.output.shape) == 4]
    if name not in spatial:
        raise UserError(f"--layer {name} is not a layer with a spatial output; expected one of {', '.join(spatial)}")


def chosen_classes(wanted, class_names):
    """Class indices, PREDICTED among them, for what the user wrote after --classes."""
    if wanted == ["all"]:
        return list(range(len(class_names)))
    chosen = []
    for name in wanted:
        if name == "predicted":
            chosen.append(PREDICTED)
        elif name in class_names:
            chosen.append(class_names.index(name))
        elif name.isdigit() and int(name) < len(class_names):
            chosen.append(int(name))
        else:
            known = ", ".join(class_names[:10]) + (", ..." if len(class_names) > 10 else "")
            raise UserError(
                f"--classes {name} is not a class; expected predicted, all, an index below {len(class_names)}, or "
                f"one of {known}"
            )
    return list(dict.fromkeys(chosen))


def write_explanations(folder, photo, explanations):
    """Write one photo's maps and panels.

    Args:
        folder: Path.
        photo: uint8 (H, W, 3), for display.
        explanations: dict of class name -> (cam (h, w), guided (H, W, 3), product (H, W, 3)).
    """
    kinds = ("gradcam", "guided_backprop", "guided_gradcam")
    limits = [limit_of([maps[i] for maps in explanations.values()]) for i in range(3)]
    for name, maps in explanations.items():
        for kind, values, limit in zip(kinds, maps, limits, strict=True):
            write_map(folder, kind, name, values, photo, limit)
        write_panel(folder / f"panel_for_{name}.jpg", photo, zip(kinds, maps, limits, strict=True))


def main(arguments=None):
    settings = parse_arguments(arguments)
    network, meaning, identity = load_weights(settings)
    check_layer(network, settings.layer)
    class_names = meaning.class_names
    chosen = chosen_classes(settings.classes, class_names)
    places = settings.places or [demo_folder() / "val", demo_folder() / "both"]
    photos = find_photos(places)
    run = MapRun(
        settings.output,
        {"script": "gradcam_vgg16.py", "photos": [str(place.resolve()) for place in places],
         "weights": settings.weights, "model_sha256": identity, "layer": settings.layer,
         "classes": settings.classes},
        CONVENTIONS,
        class_names,
        settings.overwrite,
    )  # fmt: skip
    explain_batch = explainer(network, settings.layer)

    def explain(images, done):
        classes = np.repeat(np.array(chosen, np.int32)[:, None], len(images), axis=1)  # (R, N)
        parts = explain_batch(ops.convert_to_tensor(meaning.prepare(images)), ops.convert_to_tensor(classes))
        logits, *parts = (ops.convert_to_numpy(part) for part in parts)
        indices, cams, guided, products = parts
        if meaning.bgr:
            guided, products = guided[..., ::-1], products[..., ::-1]
        for index, (photo, picture) in enumerate(done):
            explanations = {
                class_names[indices[r, index]]: (cams[r, index], guided[r, index], products[r, index])
                for r in range(len(chosen))
            }
            write_explanations(photo_folder(run.output, photo), picture, explanations)
        return logits

    print(f"{len(photos):,} photos, weights {settings.weights}, layer {settings.layer}, on {device_name()}")
    return run.make(photos, meaning, settings.batch_size, explain, f"python show_heatmaps.py {run.output}")


if __name__ == "__main__":
    run_script(main)
