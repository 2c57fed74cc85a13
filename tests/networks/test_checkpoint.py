"""Model files: what they carry, and what of a stranger's is refused."""

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


@pytest.mark.parametrize(("name", "half"), [("network.h5", False), ("network.h5", True), ("network.weights.h5", False)])
def test_saved_network_comes_back_with_its_meaning(tmp_path, name, half):
    network = with_random_weights(modern_network(3, depth=2))
    save_network(network, tmp_path / "new folder" / name, INPUT_SPEC, half)
    loaded, input_spec = load_network(tmp_path / "new folder" / name)
    assert input_spec == INPUT_SPEC
    images = np.random.default_rng(1).random((2, 20, 30, 3), np.float32)
    tolerance = 0.01 if half else 0
    np.testing.assert_allclose(loaded.predict(images, verbose=0), network.predict(images, verbose=0), atol=tolerance)
    assert [path.name for path in (tmp_path / "new folder").iterdir()] == [name]


@pytest.mark.any_backend
def test_keras_itself_reads_our_files(tmp_path):
    network = with_random_weights(modern_network(3, depth=2))
    save_network(network, tmp_path / "network.h5", INPUT_SPEC)
    images = np.random.default_rng(1).random((1, 16, 16, 3), np.float32)
    loaded = keras.models.load_model(tmp_path / "network.h5", compile=False)
    np.testing.assert_array_equal(loaded.predict(images, verbose=0), network.predict(images, verbose=0))


@pytest.fixture(params=[("bad.h5", False), ("bad.keras", False), ("bad.h5", True)], ids=["h5", "keras", "nested"])
def lambda_file(request, tmp_path):
    """(file of a network with a Lambda layer that writes a file when it is called, that file)."""
    (name, is_nested), marker = request.param, tmp_path / "ran"
    image, command = keras.Input((4, 4, 1)), f"touch {marker}"
    layer = layers.Lambda(lambda x: __import__("os").system(command) or x, output_shape=(4, 4, 1))
    layer = keras.Sequential([layer]) if is_nested else layer
    keras.Model(image, layers.GlobalAveragePooling2D()(layer(image))).save(tmp_path / name)
    marker.unlink(missing_ok=True)
    return tmp_path / name, marker


@pytest.mark.any_backend
def test_lambda_layer_is_refused_by_name_and_not_run(lambda_file):
    path, marker = lambda_file
    with pytest.raises(UserError, match=rf"{path.name}: its layer or function 'Lambda'.*--trust-model"):
        load_network(path)
    assert not marker.exists()


@pytest.mark.any_backend
def test_trusted_file_may_run_its_code(lambda_file):
    path, marker = lambda_file
    network, input_spec = load_network(path, trust=True)
    network.predict(np.zeros((1, 4, 4, 1)), verbose=0)
    assert input_spec is None and marker.exists()


@pytest.mark.any_backend
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


@pytest.mark.any_backend
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
    image = np.random.default_rng(0).random((1, 16, 16, 1), np.float32) * 255
    np.testing.assert_allclose(alone.predict(image, verbose=0), whole.predict(image, verbose=0), atol=1e-6)
