"""Model files: what they carry, and what of a stranger's is refused."""

import json
import os

import h5py
import keras
import numpy as np
import pytest
from conftest import SHARED
from keras import layers
from small_networks import with_random_weights

from camlib.console import UserError
from camlib.networks.architectures import modern_network, original_network
from camlib.networks.checkpoint import ORIGINAL_INPUT_SPEC, load_network, save_network
from camlib.preprocessing import InputSpec

INPUT_SPEC = InputSpec(["a", "ü", "c"], 32, 48, 3, 0.5, -1.0)


@pytest.mark.parametrize("name", ["network.h5", "network.weights.h5"])
@pytest.mark.parametrize("half", [False, True])
def test_saved_network_comes_back_with_its_meaning(tmp_path, name, half):
    network = with_random_weights(modern_network(3))
    save_network(network, tmp_path / "new folder" / name, INPUT_SPEC, half)
    loaded, input_spec = load_network(tmp_path / "new folder" / name)
    assert input_spec == INPUT_SPEC
    images = np.random.default_rng(1).random((2, 20, 30, 3), np.float32)
    tolerance = 0.01 if half else 0
    np.testing.assert_allclose(loaded.predict(images, verbose=0), network.predict(images, verbose=0), atol=tolerance)
    assert [path.name for path in (tmp_path / "new folder").iterdir()] == [name]


def test_keras_itself_reads_our_files(tmp_path):
    network = with_random_weights(modern_network(3))
    save_network(network, tmp_path / "network.h5", INPUT_SPEC)
    images = np.random.default_rng(1).random((1, 16, 16, 3), np.float32)
    loaded = keras.models.load_model(tmp_path / "network.h5", compile=False)
    np.testing.assert_array_equal(loaded.predict(images, verbose=0), network.predict(images, verbose=0))


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ("{", "description of the network cannot be read"),
        ('{"height": 3}', "description of the network cannot be read"),
        ('{"class_names": ["a"], "height": 8, "width": 8, "channels": 3}', "names 1 classes for 2 outputs"),
        ('{"class_names": ["a", "../../b"], "height": 8, "width": 8, "channels": 3}', "text without slashes"),
    ],
)
def test_meaning_that_makes_no_sense_is_refused(tmp_path, description, message):
    save_network(original_network(2), tmp_path / "n.h5", InputSpec(["a", "b"], 8, 8, 1))
    with h5py.File(tmp_path / "n.h5", "r+") as file:
        file.attrs["meaning"] = description
    with pytest.raises(UserError, match=message):
        load_network(tmp_path / "n.h5")


def lambda_file(path, marker):
    """A .h5 model whose Lambda layer writes a file when it is called, as an attacker would make it."""
    image, marker = keras.Input((4, 4, 1)), str(marker)
    x = layers.Lambda(lambda x: __import__("os").system(f"touch {marker}") or x, output_shape=(4, 4, 1))(image)
    keras.Model(image, x).save(path)


def test_lambda_layer_is_refused_by_name_and_not_run(tmp_path):
    marker = tmp_path / "ran"
    lambda_file(tmp_path / "bad.h5", marker)
    marker.unlink(missing_ok=True)
    with pytest.raises(UserError, match=r"bad.h5 holds the layer or function 'Lambda'.*--trust-model"):
        load_network(tmp_path / "bad.h5")
    assert not marker.exists()


@pytest.mark.parametrize(
    "change",
    [
        {"class_name": "TFSMLayer"},
        {"class_name": "TorchModuleWrapper"},
        {"module": "os", "class_name": "system"},
        {"module": "my_package.layers", "class_name": "Custom"},
        {"registered_name": "mine>Custom"},
        {"class_name": "Unheard"},
    ],
)
def test_foreign_classes_are_refused(tmp_path, change):
    path = tmp_path / "network.h5"
    save_network(original_network(2), path, INPUT_SPEC)
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        config["config"]["layers"][2].update(change)
        file.attrs["model_config"] = json.dumps(config)
    with pytest.raises(UserError, match=r"network.h5"):
        load_network(path)


def test_lambda_hidden_deep_in_a_nested_network_is_refused(tmp_path):
    marker = str(tmp_path / "ran")
    image = keras.Input((4, 4, 1))
    inner = keras.Sequential(
        [layers.Lambda(lambda x: __import__("os").system(f"touch {marker}") or x, output_shape=(4, 4, 1))]
    )
    keras.Model(image, layers.GlobalAveragePooling2D()(inner(image))).save(tmp_path / "bad.h5")
    (tmp_path / "ran").unlink(missing_ok=True)
    with pytest.raises(UserError, match="Lambda"):
        load_network(tmp_path / "bad.h5")
    assert not (tmp_path / "ran").exists()


def test_trusted_file_may_run_its_code(tmp_path):
    lambda_file(tmp_path / "bad.h5", tmp_path / "ran")
    (tmp_path / "ran").unlink(missing_ok=True)
    network, input_spec = load_network(tmp_path / "bad.h5", trust=True)
    network.predict(np.zeros((1, 4, 4, 1)), verbose=0)
    assert input_spec is None and os.path.exists(tmp_path / "ran")


def test_damaged_and_unknown_files(tmp_path):
    with pytest.raises(UserError, match="gone.h5 does not exist"):
        load_network(tmp_path / "gone.h5")
    (tmp_path / "text.h5").write_text("no network")
    with pytest.raises(UserError, match="text.h5 is neither an HDF5 nor a .keras file"):
        load_network(tmp_path / "text.h5")
    with h5py.File(tmp_path / "weights.h5", "w") as file:
        file["kernel"] = np.zeros((3, 3))
    with pytest.raises(UserError, match=r"weights.h5 holds weights alone, of a network unknown here"):
        load_network(tmp_path / "weights.h5")
    save_network(original_network(2), tmp_path / "cut.h5", INPUT_SPEC)
    with h5py.File(tmp_path / "cut.h5", "r+") as file:
        del file["model_weights"]["class"]
    with pytest.raises(UserError, match="weights do not fit its network"):
        load_network(tmp_path / "cut.h5")


@pytest.mark.skipif(not SHARED.exists(), reason="development data is not here")
def test_originals_weights_alone_are_recognised(tmp_path):
    """A weights-only file in the layout of TensorFlow 2.0, cut from the original's, gives the same network."""
    whole, input_spec = load_network(SHARED / "seed" / "model_weight.h5")
    assert input_spec == ORIGINAL_INPUT_SPEC
    with h5py.File(SHARED / "seed" / "model_weight.h5") as source, h5py.File(tmp_path / "w.h5", "w") as target:
        for name in source["model_weights"]:
            source.copy(f"model_weights/{name}", target)
        for key, value in source["model_weights"].attrs.items():
            target.attrs[key] = value
    alone, input_spec = load_network(tmp_path / "w.h5")
    assert input_spec == ORIGINAL_INPUT_SPEC
    image = np.random.default_rng(0).random((1, 64, 64, 1), np.float32) * 255
    np.testing.assert_allclose(alone.predict(image, verbose=0), whole.predict(image, verbose=0), atol=1e-6)
