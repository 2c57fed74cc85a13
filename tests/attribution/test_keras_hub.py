"""Keras Hub's vision transformer, whose layers are its own: the package is in requirements-parity.txt, else skipped."""

import keras
import numpy as np
import pytest
from keras import ops
from oracle import cam_of, gradient_of

keras_hub = pytest.importorskip("keras_hub", reason="requirements-parity.txt is not installed")

from camlib.attribution.classifier import Classifier  # noqa: E402
from camlib.attribution.gradcam import GradCAM  # noqa: E402

PHOTOS = np.random.default_rng(0).integers(0, 256, (2, 32, 48, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def classifier():
    keras.utils.set_random_seed(3)
    backbone = keras_hub.models.ViTBackbone(
        image_shape=(32, 48, 3), patch_size=8, num_layers=3, num_heads=2, hidden_dim=12, mlp_dim=24
    )
    network = keras_hub.models.ViTImageClassifier(backbone=backbone, num_classes=3)
    generator = np.random.default_rng(1)
    for weight in network.weights:  # a class token and biases that are not zero
        if weight.path.endswith(("bias", "class_token")):
            weight.assign(generator.normal(0, 0.3, weight.shape))
    return Classifier(network, None, "vit", preprocess="tf")


def test_the_default_is_the_last_blocks_first_normalisation(classifier):
    assert classifier.layer_to_map().endswith("/vit_encoder/transformer_block_3/ln_1")
    assert classifier.structure.sizes[classifier.layer_to_map()] == (4, 6, 12)


@pytest.mark.parametrize("method", ["grad-cam", "hires-cam", "layer-cam"])
def test_maps_are_those_of_its_own_layers(classifier, method):
    network = classifier.network
    embed, encoder = (network.backbone.get_layer(name) for name in ("vit_patching_and_embedding", "vit_encoder"))
    *first, last = encoder.encoder_layers
    x = embed(PHOTOS.astype(np.float32) / 127.5 - 1)
    for block in first:
        x = block(x)
    tokens = last.layer_norm_1(x)

    def logits(tokens):
        attended = last.mha(tokens, tokens) + x
        out = encoder.layer_norm(attended + last.mlp(last.layer_norm_2(attended)))
        return network.output_dense(out[:, 0])

    found = GradCAM(classifier, method=method, guided=False, classes=[0, 1, 2])(PHOTOS)
    np.testing.assert_allclose(found.logits, ops.convert_to_numpy(logits(tokens)), rtol=1e-4, atol=1e-5)
    a = ops.convert_to_numpy(tokens).astype(np.float64)[:, 1:].reshape(2, 4, 6, 12)
    for index in range(3):
        g = gradient_of(lambda tokens, index=index: ops.sum(logits(tokens)[:, index]), tokens)
        g = g[:, 1:].reshape(a.shape)
        expected = cam_of(method, a, g)
        np.testing.assert_allclose(found.cams[index], expected, atol=2e-5 * np.abs(expected).max())
    assert found.cams.any()
