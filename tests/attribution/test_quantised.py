"""Quantised networks: their own outputs, and the map of what they compute."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from camlib import Classifier, explain
from camlib.console import UserError

pytestmark = pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method")
PHOTO = np.random.default_rng(0).integers(0, 256, (24, 24, 3)).astype(np.uint8)


def quantised(mode):
    """A small network whose two Dense layers are quantised, and the layer of its maps alone."""
    keras.utils.set_random_seed(0)
    image = keras.Input((24, 24, 3))
    features = layers.Conv2D(16, 3, activation="relu", name="last")(image)
    hidden = layers.Dense(16, name="hidden")(layers.GlobalAveragePooling2D()(features))
    network = keras.Model(image, layers.Dense(3, name="scores", activation="softmax")(hidden))
    network.quantize(mode)
    return network, keras.Model(image, network.get_layer("last").output)


def weights_in_use(layer):
    """What a quantised Dense layer multiplies by, found by what it makes of unit vectors: float (inputs, outputs)."""
    inner = keras.Sequential([keras.Input((layer.kernel.shape[0],)), layer])
    activation, layer.activation = layer.activation, keras.activations.linear
    units = np.eye(16, dtype=np.float32)
    found = ops.convert_to_numpy(inner(units)) - ops.convert_to_numpy(inner(np.zeros_like(units)))
    layer.activation = activation
    return found


@pytest.mark.parametrize("mode", ["int8", "int4", "float8"])
@pytest.mark.parametrize("from_file", [False, True], ids=["as it is", "file"])
def test_a_quantised_network_is_explained_as_it_computes(mode, from_file, tmp_path):
    """Outputs equal the network's own; Grad-CAM is that of float64 NumPy with the weights that it multiplies by."""
    network, before = quantised(mode)
    scaled = PHOTO[None] / np.float32(127.5) - 1
    own = ops.convert_to_numpy(network(scaled, training=False))
    features = ops.convert_to_numpy(before(scaled))[0].astype(np.float64)
    weights = weights_in_use(network.get_layer("hidden")) @ weights_in_use(network.get_layer("scores"))
    expected = np.maximum(features @ weights[:, 1] / np.prod(features.shape[:2]), 0)
    policies = [layer.dtype_policy.name for layer in network.layers]
    network.save(tmp_path / "a.keras")
    source = tmp_path / "a.keras" if from_file else network
    found = explain(source, [PHOTO], classes=[1], preprocess="tf", guided=False, layer="last")
    np.testing.assert_allclose(found.outputs, own, atol=1e-5)
    assert expected.max() > 0
    rounding = 0.3 if mode == "float8" else 0.1  # Keras rounds gradients to two bits behind the first
    np.testing.assert_allclose(found.cams[0, 0], expected, atol=rounding * expected.max())
    assert np.corrcoef(found.cams[0, 0].ravel(), expected.ravel())[0, 1] > 1 - rounding / 10
    assert [layer.dtype_policy.name for layer in network.layers] == policies


class Doubles(layers.Layer):
    """Puts out something else in the precision that its policy names."""

    def call(self, x):
        return x * (2.0 if self.compute_dtype == "float32" else 1.0)


def test_what_depends_on_the_precision_is_refused():
    image = keras.Input((24, 24, 3))
    x = layers.Conv2D(4, 3, activation="relu", name="last")(image)
    x = Doubles(dtype="mixed_bfloat16")(layers.GlobalAveragePooling2D()(x))
    network = keras.Model(image, layers.Dense(3)(ops.cast(x, "float32")))
    with pytest.raises(UserError, match="puts out .* in float32 where it puts out .* --dtype .*bfloat16"):
        Classifier(network, preprocess="tf")


def test_gptq_is_explained_in_python_and_refused_as_a_file(tmp_path):
    network, _ = quantised("int8")
    network = keras.Model(network.input, layers.Dense(3, name="other")(network.get_layer("last").output[:, 0, 0]))
    config = keras.quantizers.GPTQConfig(dataset=["a"], tokenizer=str, weight_bits=4, group_size=-1)
    network.get_layer("other").quantize("gptq", config=config)
    own = ops.convert_to_numpy(network(PHOTO[None] / np.float32(127.5) - 1, training=False))
    found = explain(network, [PHOTO], classes=[1], preprocess="tf", guided=False, layer="last")
    np.testing.assert_allclose(found.outputs, own, atol=1e-5)
    assert network.get_layer("other").dtype_policy.name.startswith("gptq/4/-1")
    network.save(tmp_path / "a.keras")
    with pytest.raises(UserError, match=r"quantised by gptq/4/-1, which is not read from files; expected int8"):
        Classifier.load(tmp_path / "a.keras", preprocess="tf")
