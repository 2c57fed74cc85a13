"""The identities of docs/mathematics.md: which maps are the same on which networks, and where they are not."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from oracle import gradient_of

from camlib.attribution.gradcam import CompiledMaps
from camlib.attribution.inspection import inspect_network

SHAPE, CLASS_COUNT = (6, 5, 3), 3
METHODS = ("grad-cam", "hires-cam", "xgrad-cam", "layer-cam", "element-wise", "ablation-cam")
IMAGES = np.random.default_rng(1).normal(size=(2, *SHAPE)).astype(np.float32)


def relu(x):
    return np.maximum(x, 0)


def close(found, expected, tolerance=1e-5):
    expected = np.asarray(expected, np.float64)
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(found, expected, atol=tolerance * np.abs(expected).max(), rtol=0)


def build(head, activation="relu", seed=0):
    """A convolution of ReLU (or what is asked for) and a head, with random weights and biases."""
    keras.utils.set_random_seed(seed)
    image = keras.Input(SHAPE)
    x = layers.Conv2D(7, 3, padding="same", activation=activation, name="conv")(image)
    for layer in head:
        x = layer(x)
    network = keras.Model(image, layers.Dense(CLASS_COUNT, name="scores")(x))
    generator = np.random.default_rng(seed)
    for weight in network.trainable_weights:
        if len(weight.shape) == 1:
            weight.assign(generator.normal(size=weight.shape) * 0.3)
    return network


def explained(network, methods=METHODS, images=IMAGES):
    """(logits (N, C), features (N, H, W, K), {method: maps (C, N, H, W)}, guided (C, N, H, W, 3)) of every class."""
    explain = CompiledMaps(network, inspect_network(network, SHAPE), [("conv", method) for method in methods])
    classes = np.repeat(np.arange(CLASS_COUNT, dtype=np.int32)[:, None], len(images), axis=1)
    found = explain(ops.convert_to_tensor(images), ops.convert_to_tensor(classes))
    maps = {method: ops.convert_to_numpy(cam) for method, cam in zip(methods, found.cams, strict=True)}
    features = np.asarray(ops.convert_to_numpy(found.features["conv"]), np.float64)
    return ops.convert_to_numpy(found.logits), features, maps, ops.convert_to_numpy(found.guided)


@pytest.fixture(scope="module")
def pooled():
    """What `explained` gives of convolution, global average pooling, Dense; its weights and bias."""
    network = build([layers.GlobalAveragePooling2D()])
    weights, bias = (values.astype(np.float64) for values in network.get_layer("scores").get_weights())
    return *explained(network)[:3], weights, bias


def test_behind_pooling_and_dense_four_methods_are_cam(pooled):
    """M_c = sum_k w_kc A_k; Grad-CAM and XGrad-CAM are ReLU(M_c / (H W)), HiResCAM M_c / (H W); mean(M_c) + b = Y."""
    logits, features, maps, weights, bias = pooled
    area = features.shape[1] * features.shape[2]
    cam = np.einsum("nhwk,kc->cnhw", features, weights)
    assert (cam < 0).any() and (cam > 0).any()
    close(cam.mean(axis=(2, 3)).T + bias, logits)
    close(maps["hires-cam"], cam / area)
    close(maps["grad-cam"], relu(cam) / area)
    close(maps["xgrad-cam"], relu(cam) / area)


def test_behind_pooling_and_dense_the_others_are_parts_of_cam(pooled):
    """LayerCAM and element-wise Grad-CAM keep the positive weights' part; Ablation-CAM weighs by w_kc mean(A_k)."""
    logits, features, maps, weights, _ = pooled
    area = features.shape[1] * features.shape[2]
    positive = np.einsum("nhwk,kc->cnhw", features, relu(weights)) / area
    close(maps["layer-cam"], positive)
    close(maps["element-wise"], positive)
    fall = features.mean(axis=(1, 2))[:, :, None] * weights / np.abs(logits)[:, None]  # (N, K, C)
    close(maps["ablation-cam"], relu(np.einsum("nhwk,nkc->cnhw", features, fall)), 1e-4)


def test_behind_pooling_and_hidden_layers_grad_cam_is_hires_cam():
    """The gradient is the same everywhere, whatever follows the pooling; the map is no CAM of the network."""
    network = build([layers.GlobalAveragePooling2D(), layers.Dense(8, activation="relu")])
    _, _, maps, _ = explained(network, ("grad-cam", "hires-cam", "xgrad-cam"))
    assert (maps["hires-cam"] < 0).any()
    close(maps["grad-cam"], relu(maps["hires-cam"]))
    close(maps["xgrad-cam"], relu(maps["hires-cam"]))


def test_behind_flattening_hires_cam_adds_up_to_the_logit_and_grad_cam_does_not():
    network = build([layers.Flatten()])
    logits, features, maps, _ = explained(network, ("grad-cam", "hires-cam"))
    kernel, bias = (values.astype(np.float64) for values in network.get_layer("scores").get_weights())
    close(maps["hires-cam"].sum(axis=(2, 3), dtype=np.float64).T + bias, logits)
    kernel = kernel.reshape(6, 5, 7, CLASS_COUNT)  # the gradient at each place
    close(maps["hires-cam"], np.einsum("nhwk,hwkc->cnhw", features, kernel))
    close(maps["grad-cam"], relu(np.einsum("nhwk,kc->cnhw", features, kernel.mean(axis=(0, 1)))))
    assert np.abs(maps["grad-cam"] - relu(maps["hires-cam"])).max() > 0.3 * maps["hires-cam"].max()


@pytest.mark.parametrize("case", ["no ReLU", "nothing negative", "ReLU"])
def test_guided_backpropagation_is_the_gradient_where_no_relu_stops_anything(case):
    """Without a ReLU, and where all weights and pixels are positive; elsewhere it is not."""
    network = build([layers.GlobalAveragePooling2D()], "linear" if case == "no ReLU" else "relu")
    images = np.abs(IMAGES)
    if case == "nothing negative":
        network.set_weights([np.abs(values) for values in network.get_weights()])
    *_, guided = explained(network, ("grad-cam",), images)
    gradient = np.stack(
        [
            gradient_of(lambda x, c=c: ops.sum(network(x)[:, c]), ops.convert_to_tensor(images))
            for c in range(CLASS_COUNT)
        ]
    )
    if case == "ReLU":
        assert np.abs(guided - gradient).max() > 0.3 * np.abs(gradient).max()
    else:
        close(guided, gradient)
