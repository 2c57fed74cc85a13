"""Files of earlier Keras versions and of all kinds: what is brought up to date, and what is refused in one line."""

import json
import pickle
import runpy
import shutil
import warnings
import zipfile

import h5py
import keras
import numpy as np
import pytest
from conftest import SHARED
from keras import layers, ops
from keras.src.applications.convnext import LayerScale
from old_files import old_config, photos, write_archive, write_h5

import gradcam_vgg16
import make_cam_maps
from camlib import explain
from camlib.backend import BACKEND
from camlib.console import LONGEST_REASON, UserError, first_line
from camlib.networks import keras2_config
from camlib.networks.checkpoint import load_network
from camlib.networks.keras2_config import REPAIRS
from camlib.networks.keras2_operations import COUNTERPARTS, operation_of_tensorflow

pytestmark = pytest.mark.thorough
SHAPE = (12, 12, 3)
LONGEST = 300  # characters of a refusal
LONG_NAME = f"{'long' * 40}.h5"


def image():
    return keras.Input(SHAPE)


def filled(network, seed=0):
    """Random weights everywhere, with positive variances."""
    generator = np.random.default_rng(seed)
    for weight in network.weights:
        values = generator.normal(size=weight.shape) * 0.3
        weight.assign(np.abs(values) + 0.5 if "variance" in weight.path else values)
    for layer in network._flatten_layers():
        if isinstance(layer, layers.Normalization):
            layer.finalize_state()
    return network


def base(*middle, name="trunk"):
    """Convolution, the layers in the middle, ReLU6: a network as those that classifiers are built on."""
    start = x = image()
    for layer in (layers.Conv2D(6, 3, padding="same", activation="relu"), *middle, layers.ReLU(6.0)):
        x = layer(x)
    return keras.Model(start, x, name=name)


def head(x):
    return layers.Dense(3, activation="softmax")(layers.GlobalAveragePooling2D()(x))


def functional(*middle):
    trunk = base(*middle)
    return keras.Model(trunk.input, head(trunk.output))


def around(*networks):
    """Networks one behind the other as layers of a functional one."""
    start = x = image()
    for network in networks:
        x = network(x)
    return keras.Model(start, head(x))


def as_h5(path, network, config=None, seed=0, **settings):
    """Write a network's file with a configuration of Keras 2; the network."""
    write_h5(path, filled(network, seed), config or old_config(network), **settings)
    return network


# ---------------------------------------------------------------- what loads


def old_layers(path):
    """Names and arguments that Keras 3 has no more, and a layer of keras.applications."""
    middle = [layers.DepthwiseConv2D(3), layers.SeparableConv2D(8, 3), layers.Conv2DTranspose(8, 3)]
    middle += [layers.SpatialDropout2D(0.5), layers.BatchNormalization(), layers.ReLU(threshold=0.1, name="old")]
    middle += [layers.LeakyReLU(0.2), LayerScale(0.5, 8), layers.RandomRotation(0.1), layers.RandomContrast(0.2)]
    network = functional(*middle)
    old = old_config(network)
    (layer,) = (layer for layer in old["config"]["layers"] if layer["name"] == "old")
    layer |= {"class_name": "ThresholdedReLU", "config": {"name": "old", "trainable": True, "theta": 0.1}}
    text = json.dumps(old).replace('"Functional"', '"Model"')
    text = text.replace('"BatchNormalization"', '"BatchNormalizationV1"')  # of TensorFlow 1.13
    return as_h5(path, network, json.loads(text), seed=3)


def mixed(path):
    network = functional()
    for layer in network.layers[1:-1]:
        layer.dtype_policy = "mixed_float16"
    return as_h5(path, network)


def without_input_layer(config):
    """A Sequential of Keras 2 had no input layer: its first layer says the shape, if that has none itself."""
    stack = config["config"]["layers"]
    if config["class_name"] == "Sequential" and stack[0]["class_name"] == "InputLayer":
        shape = stack.pop(0)["config"]["batch_input_shape"]
        config["config"].pop("build_input_shape", None)
        if "layers" not in stack[0]["config"]:
            stack[0]["config"]["batch_input_shape"] = shape
    for layer in stack:
        if "layers" in layer["config"]:
            without_input_layer(layer)
    return config


def three_deep(path):
    """Teachable Machine's keras_model.h5: two Sequentials in one, the first around a functional network."""
    trunk = base(layers.DepthwiseConv2D(3), layers.BatchNormalization(), name="model1")
    first = keras.Sequential([image(), trunk, layers.GlobalAveragePooling2D()])
    dense = layers.Dense(20, activation="relu"), layers.Dense(3, "softmax", use_bias=False)
    network = keras.Sequential([image(), first, keras.Sequential([keras.Input((6,)), *dense])])
    return as_h5(path, network, without_input_layer(old_config(network)), seed=1)


def called_twice(path):
    trunk, start = base(), image()
    smooth = layers.AveragePooling2D(3, 1, padding="same")
    return as_h5(path, keras.Model(start, head(layers.Add()([trunk(start), trunk(smooth(start))]))))


def ends_in_network(path):
    start = image()
    classes = keras.Sequential([keras.Input((6,)), layers.Dense(3, activation="softmax")])
    return as_h5(path, keras.Model(start, classes(layers.GlobalMaxPooling2D()(base()(start)))))


def ends_in_functional(path):
    start, features = image(), keras.Input((12, 12, 6))
    return as_h5(path, keras.Model(start, keras.Model(features, head(features))(base()(start))))


def deferred(path):
    """A Sequential without a shape of its own, as tutorials have it for augmentation: its calls counted from zero."""
    flips, start = keras.Sequential([layers.RandomFlip()], name="flips"), image()
    network = keras.Model(start, head(base()(flips(start))))
    old = old_config(network)
    (inner,) = (layer for layer in old["config"]["layers"] if layer["name"] == "flips")
    without_input_layer(inner)
    inner["config"]["layers"][0]["config"].pop("batch_input_shape")
    return as_h5(path, network, json.loads(json.dumps(old).replace('["flips", 1,', '["flips", 0,')))


def bare_list(path):
    network = keras.Sequential([image(), layers.Conv2D(4, 3), layers.Flatten(), layers.Dense(3, activation="softmax")])
    stack = without_input_layer(old_config(network))["config"]["layers"]
    return as_h5(path, network, {"class_name": "Sequential", "config": stack}, version="2.1.6")


def slashes(path):
    """DenseNet's layers had names like conv1/bn; here the lists of names are long, and in another order.

    Names that are too many for one attribute of HDF5 go into several. What was trained decides the order.
    """
    network = around(base(layers.BatchNormalization(name="conv1_bn"), layers.Conv2D(6, 3, name="conv1_conv")))
    as_h5(path, network, json.loads(json.dumps(old_config(network)).replace("conv1_", "conv1/")))
    with h5py.File(path, "r+") as file:
        trunk = file["model_weights/trunk"]
        for name in ("conv1_bn", "conv1_conv"):
            trunk.move(name, name.replace("_", "/"))
        labels = [label.replace("conv1_", "conv1/") for label in trunk.attrs["weight_names"]]
        own = list(file["model_weights"].attrs["layer_names"])
        for group, name, names in ((trunk, "weight_names", labels[::-1]), (file["model_weights"], "layer_names", own)):
            del group.attrs[name]
            group.attrs[f"{name}0"], group.attrs[f"{name}1"] = names[:2], names[2:]
    return network


def preprocessed(path):
    """keras.applications' preprocess_input was arithmetic of TensorFlow: that of MobileNetV2, then that of VGG-16."""
    start = image()
    x = (start / 127.5 - 1.0)[..., ::-1]
    return as_h5(path, keras.Model(start, head(base()(x))))


def operations(path):
    start = image()
    a, b = (layers.Conv2D(4, 3)(start) for _ in range(2))
    x = ops.concatenate([ops.relu(a * 0.5 + 0.1), ops.relu6(b * a), ops.silu(b)], axis=-1)
    x = ops.image.resize(x, (5, 5), interpolation="bilinear")
    x = ops.mean(x, axis=[1, 2])
    return as_h5(path, keras.Model(start, ops.softmax(layers.Dense(3)(ops.reshape(x, (-1, 12))))))


def graph_operations(path):
    start = image()
    network = keras.Model(start, head(ops.relu(layers.Conv2D(4, 3)(start) * 0.5 + 0.1)))
    return as_h5(path, network, old_config(network, graph_operations=True), version="2.3.0-tf")


def normalised(path):
    """EfficientNet begins with a Normalization; in a nested network Keras reads its mean and computes with 0."""
    start = image()
    x = layers.Conv2D(6, 3)(layers.Normalization()(start))
    return as_h5(path, around(keras.Model(start, x, name="trunk")))


def bare_operations_of_keras_3(path):
    """Keras 3 writes operations to .h5 by their bare names and does not find them again."""
    start = image()
    x = layers.Concatenate()([start / 127.5, start - 1.0, ops.relu(start)])
    network = filled(keras.Model(start, head(layers.Conv2D(4, 3)(x))))
    network.save(path)
    return network


def archive_of_2_13(path):
    network = filled(around(base(layers.BatchNormalization(), layers.Conv2D(6, 3), layers.Conv2D(6, 3))))
    write_archive(path, network, old_config(network, modules=True), places="_layer_checkpoint_dependencies")
    return network


def archive_of_2_15(path):
    """With activations that are functions of TensorFlow."""
    network = filled(around(base(layers.SeparableConv2D(6, 3))))
    relu = {"module": "builtins", "class_name": "function", "config": "relu", "registered_name": "function"}
    text = json.dumps(old_config(network, modules=True))
    config = json.loads(text.replace('"activation": "relu"', f'"activation": {json.dumps(relu)}'))
    write_archive(path, network, config, version="2.15.0")
    return network


CASES = {
    case.__name__: case
    for case in (
        old_layers, mixed, three_deep, called_twice, ends_in_network, ends_in_functional, deferred, bare_list, slashes,
        preprocessed, operations, graph_operations, normalised, bare_operations_of_keras_3, archive_of_2_13,
        archive_of_2_15,
    )
}  # fmt: skip
# Without the repair the case does not load, or computes something else
NEEDED = {
    "policy_by_name": "mixed", "activation_by_name": "archive_of_2_15", "layers_in_dict": "bare_list",
    "nodes_in_dicts": "preprocessed", "operation_of_tensorflow": "operations", "class_by_name": "old_layers",
    "input_shape_apart": "three_deep", "axis_as_number": "old_layers", "without_leftovers": "old_layers",
    "names_without_slashes": "slashes", "calls_from_zero": "called_twice", "single_ends": "three_deep",
    "with_input_layer": "bare_list",
}  # fmt: skip


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """written(name) -> (path, network): a case's file, made once."""
    made = {}

    def write(name):
        if name not in made:
            keras.utils.set_random_seed(1)
            path = tmp_path_factory.mktemp("old") / "old_file"  # without an ending: the content decides
            path = path.with_suffix(".h5" if name == "bare_operations_of_keras_3" else "")
            made[name] = path, CASES[name](path)
        return made[name]

    return write


def predictions(network):
    return ops.convert_to_numpy(network(photos(network), training=False))


@pytest.mark.parametrize("name", CASES)
def test_old_file_computes_what_its_network_does(written, name):
    path, network = written(name)
    before = path.read_bytes()
    with warnings.catch_warnings(action="error", category=UserWarning):  # as Keras's about input_shape
        loaded, input_spec = load_network(path)
    assert input_spec is None and loaded.input_shape == network.input_shape and path.read_bytes() == before
    expected = predictions(network)
    assert np.ptp(expected, axis=0).max() > 1e-4  # between the photos
    np.testing.assert_array_equal(predictions(loaded), expected)


def test_each_repair_is_needed_and_has_its_case():
    assert {repair.__name__ for repair in REPAIRS} == {*NEEDED, "refuse_keras_1"}


@pytest.mark.parametrize("repair", NEEDED)
def test_without_a_repair_its_case_fails(written, monkeypatch, repair):
    path, network = written(NEEDED[repair])
    others = tuple(other for other in REPAIRS if other.__name__ != repair)
    monkeypatch.setattr(keras2_config, "REPAIRS", others)
    try:
        loaded, _ = load_network(path)
        same = np.array_equal(predictions(loaded), predictions(network))
    except (UserError, AttributeError):  # a network that puts out a list of one has no output_shape
        same = False
    assert not same


@pytest.mark.parametrize("name", ["three_deep", "preprocessed"])
def test_maps_of_a_repaired_file_are_those_of_its_network(written, name):
    path, network = written(name)
    images = np.random.default_rng(3).integers(0, 256, (2, 20, 16, 3), np.uint8)
    expected, found = (explain(one, images, ["all"], preprocess="tf") for one in (network, path))
    assert expected.cams.any() and expected.guided.any()
    for part in ("logits", "cams", "guided", "products"):
        np.testing.assert_allclose(getattr(found, part), getattr(expected, part), rtol=1e-5, atol=1e-7)


def test_hard_sigmoid_is_that_of_the_version(tmp_path):
    """0.2 x + 0.5 up to Keras 2, x / 6 + 0.5 from Keras 3 on, each between 0 and 1."""
    start = image()
    features = layers.Conv2D(3, 3, activation="hard_sigmoid", name="gate")(start)
    network = filled(keras.Model(start, layers.GlobalAveragePooling2D()(features)))
    network.get_layer("gate").bias.assign([0.0, 1.0, -3.0])
    linear = keras.Model(start, features)
    write_h5(tmp_path / "old.h5", network, old_config(network))
    network.save(tmp_path / "new.h5")
    new = predictions(load_network(tmp_path / "new.h5")[0])
    np.testing.assert_array_equal(new, predictions(network))
    network.get_layer("gate").activation = keras.activations.linear
    sums = ops.convert_to_numpy(linear(photos(network))).astype(np.float64)
    assert sums.min() < -2.5 and sums.max() > 0.5
    expected = np.clip(0.2 * sums + 0.5, 0, 1).mean((1, 2))
    np.testing.assert_allclose(predictions(load_network(tmp_path / "old.h5")[0]), expected, atol=1e-6)
    assert np.abs(new - expected).max() > 0.01


# Arguments of TensorFlow's functions behind the first, as a configuration holds them
CALLS = {
    "nn.leaky_relu": {"alpha": 0.3}, "nn.gelu": {}, "nn.softmax": {"axis": 1}, "nn.log_softmax": {"axis": -1},
    "math.add": {"y": [0.5, -1.0, 2.0]}, "math.subtract": {"y": 0.3}, "math.multiply": {"y": -2.0},
    "math.truediv": {"y": 127.5}, "math.divide": {"y": [0.2, 0.3, 0.4]}, "math.maximum": {"y": 0.1},
    "math.minimum": {"y": 0.1}, "math.pow": {"y": 2.0}, "nn.bias_add": {"bias": [1.0, 2.0, 3.0]},
    "clip_by_value": {"clip_value_min": -0.3, "clip_value_max": 0.2}, "linalg.matmul": {"b": [[1.0, 2.0, 3.0]] * 3},
    "math.reduce_mean": {"axis": [1, 2]}, "math.reduce_sum": {"axis": -1, "keepdims": True},
    "math.reduce_max": {"axis": [1, 2]}, "math.reduce_min": {}, "concat": {"axis": -1}, "reshape": {"shape": [-1, 9]},
    "transpose": {"perm": [0, 2, 1, 3]}, "expand_dims": {"axis": 1}, "cast": {"dtype": "float16"},
    "pad": {"paddings": [[0, 0], [1, 2], [0, 1], [0, 0]]}, "squeeze": {"axis": None},
    "image.resize": {"size": [7, 5], "method": "bilinear"},
    "__operators__.getitem": {"slice_spec": [{"class_name": "__ellipsis__"}, {"start": None, "stop": 0, "step": -1}]},
}  # fmt: skip
POSITIVE = ("math.sqrt", "math.rsqrt", "math.log", "math.pow")


@pytest.mark.skipif(BACKEND != "tensorflow", reason="compares with TensorFlow's functions")
@pytest.mark.parametrize("function", COUNTERPARTS)
def test_operations_compute_what_tensorflows_functions_do(function):
    import tensorflow as tf

    keywords = CALLS.get(function, {})
    values = np.random.default_rng(0).normal(size=(2, 3, 3, 3)).astype(np.float32)
    values = np.abs(values) + 0.1 if function in POSITIVE else values
    tensors, inputs = ({"tensor": 1}, values) if function != "concat" else ([{"tensor": 1}] * 2, [values] * 2)
    node = {"args": [tensors], "kwargs": keywords | {"name": None}}
    config = {"name": "old", "function": function}
    entry = operation_of_tensorflow(
        {"class_name": "TFOpLambda", "config": config, "name": "old", "inbound_nodes": [node]}
    )
    operation = keras.saving.deserialize_keras_object(json.loads(json.dumps(entry)))
    others = keras.saving.deserialize_keras_object(entry["inbound_nodes"][0]["args"][1:])
    found = operation(*[ops.convert_to_tensor(inputs) if function != "concat" else inputs, *others])
    if function == "__operators__.getitem":
        expected = values[..., :0:-1]
    else:
        of_tensorflow = tf
        for part in function.split("."):
            of_tensorflow = getattr(of_tensorflow, part)
        expected = of_tensorflow(inputs, **keywords).numpy()
    found = ops.convert_to_numpy(found)
    assert found.dtype == expected.dtype and found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.skipif(not SHARED.exists(), reason="development data is not here")
def test_every_file_of_the_shared_cases(tmp_path):
    runpy.run_path(str(SHARED / "cases" / "old_keras_files.py"))["main"](tmp_path)
    predicted = sorted(path for path in tmp_path.glob("*.npy") if path.stem != "lstm")  # which takes no photos
    assert len(predicted) > 10
    for path in predicted:
        (file,) = (other for other in tmp_path.glob(f"{path.stem}.*") if other != path)
        values = np.linspace(-1, 1, 32 * 32 * 3, dtype=np.float32).reshape(1, 32, 32, 3)
        np.testing.assert_array_equal(load_network(file)[0].predict(values, verbose=0), np.load(path), path.name)


# ---------------------------------------------------------------- weights alone


def test_weights_alone_take_an_architecture(tmp_path):
    network = filled(around(base(layers.DepthwiseConv2D(3), layers.BatchNormalization())))
    write_h5(tmp_path / "by_layers.h5", network, None)
    network.save_weights(tmp_path / "by_places.weights.h5")
    shutil.copy(tmp_path / "by_places.weights.h5", tmp_path / "any_name.bin")
    (tmp_path / "new.json").write_text(network.to_json())
    (tmp_path / "old.json").write_text(json.dumps(old_config(network) | {"keras_version": "2.9.0"}))
    expected = predictions(network)
    for weights in ("by_layers.h5", "by_places.weights.h5", "any_name.bin"):
        for architecture in ("new.json", "old.json"):
            loaded, input_spec = load_network(tmp_path / weights, architecture=tmp_path / architecture)
            assert input_spec is None
            np.testing.assert_array_equal(predictions(loaded), expected)
        with pytest.raises(
            UserError, match=r"--architecture FILE, which model.to_json\(\) writes.* build it, model.load"
        ):
            load_network(tmp_path / weights)


def test_architecture_that_does_not_fit_is_refused(tmp_path, written):
    network = filled(functional())
    write_h5(tmp_path / "weights.h5", network, None)
    marker, command = tmp_path / "ran", f"touch {tmp_path / 'ran'}"
    unsafe = layers.Lambda(lambda x: __import__("os").system(command) or x, output_shape=(12, 12, 6))
    (tmp_path / "unsafe.json").write_text(functional(unsafe).to_json())
    marker.unlink(missing_ok=True)
    (tmp_path / "other.json").write_text(functional(layers.Conv2D(7, 3)).to_json())
    (tmp_path / "text.json").write_text("no JSON")
    for name, message in (
        ("unsafe.json", "unsafe.json: its layer or function 'Lambda'"),
        ("other.json", "weights.h5: its weights do not fit its network .weights of 2 layers were found; expected"),
        ("text.json", "text.json cannot be read .*expected what model.to_json.. wrote"),
        ("gone.json", "gone.json cannot be read .*No such file"),
    ):
        refused(tmp_path / "weights.h5", message, architecture=tmp_path / name)
    assert not marker.exists()
    path, _ = written("old_layers")
    refused(path, "describes its network itself; expected no --architecture", architecture=tmp_path / "other.json")


def test_scripts_take_an_architecture(tmp_path, photo_folder, end_of):
    network = filled(functional(layers.DepthwiseConv2D(3)))
    write_h5(tmp_path / "weights.h5", network, None)
    (tmp_path / "model.json").write_text(json.dumps(old_config(network)))
    folder = photo_folder({"a.png": (200, 100, 50)})
    arguments = [folder, "--weights", tmp_path / "weights.h5", "--architecture", tmp_path / "model.json",
                 "--preprocess", "tf", "--classes", "1", "--output", tmp_path / "out"]  # fmt: skip
    assert gradcam_vgg16.main([str(argument) for argument in arguments]) == 0
    assert np.load(tmp_path / "out" / "a" / "gradcam_for_class_1.npy").shape == (10, 10)
    settings = json.loads((tmp_path / "out" / "run.json").read_text())["settings"]
    assert len(settings["architecture_sha256"]) == len(settings["model_sha256"]) == 64
    code, said = end_of(gradcam_vgg16.main, ["--architecture", "a.json"])
    assert code == 2 and "--weights 4class needs no --architecture" in said
    model = ["--model", tmp_path / "weights.h5", "--architecture", tmp_path / "model.json"]
    code, said = end_of(make_cam_maps.main, [folder, *model])
    assert code == 2 and "weights.h5 makes of a pixel; expected --preprocess" in said


# ---------------------------------------------------------------- what is refused


def refused(path, message, **settings):
    """Make sure that a file is refused in one line, and return it."""
    with pytest.raises(UserError, match=message) as error:
        load_network(path, **settings)
    said = str(error.value)
    assert len(said) <= LONGEST and "\n" not in said
    return said


def write_config(path, config, version="2.9.0"):
    with h5py.File(path, "w") as file:
        file.attrs["model_config"], file.attrs["keras_version"] = json.dumps(config), version
    return path


def changed(network, kind, values):
    """The old configuration of a network with other values in the entries of a class, or in their arguments."""
    config = old_config(network)
    for layer in config["config"]["layers"]:
        if layer["class_name"] == kind:
            for name, value in values.items():
                (layer if name in layer else layer["config"])[name] = value
            layer["config"]["name"] += "_" * LONGEST
    return config


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("layer", "values", "message"),
    [
        (layers.DepthwiseConv2D(3), {"groups": 2}, r"'depthwise_conv2d\w*' \(DepthwiseConv2D\) has groups=2, which"),
        (layers.BatchNormalization(), {"virtual_batch_size": 8}, "has virtual_batch_size=8"),
        (layers.Dropout(0.1), {"unheard": [1] * 500}, "Unrecognized keyword arguments passed to Dropout: {'unheard'"),
        (layers.MaxPooling2D(), {"border_mode": "valid", "dim_ordering": "tf"}, "is of Keras 1; .*keras==2.2.4"),
        (layers.Dropout(0.1), {"class_name": "LocallyConnected2D"}, "'LocallyConnected2D' .*none of Keras's own"),
        (layers.Dropout(0.1), {"class_name": "MyLayer"}, "its layer or function 'MyLayer' .*call explain of camlib"),
        (layers.Dropout(0.1), {"class_name": "Lambda", "config": {"name": "x", "function": ["4wEA", None, None]}},
         "'Lambda' .*code of another Python.* Or build it in Python and call explain of camlib"),
        (layers.ReLU(), {"class_name": "TFOpLambda", "config": {"name": "x", "function": "os.system"}},
         "calls TensorFlow's os.system, for which no operation of Keras 3 is known here; build"),
        (layers.ReLU(), {"class_name": "TensorFlowOpLayer", "config": {"name": "x", "node_def": {"op": "PyFunc"}}},
         "TensorFlow's operation PyFunc"),
        (layers.ReLU(), {"class_name": "TFOpLambda", "config": {"name": "x", "function": "nn.relu"},
         "inbound_nodes": [["input", 0, 0, {"unheard": 3}]]}, "call of TensorFlow's nn.relu has unheard=3"),
    ],
)  # fmt: skip
def test_what_has_no_counterpart_is_refused(tmp_path, layer, values, message):
    network = functional(layer)
    path = write_config(tmp_path / LONG_NAME, changed(network, type(layer).__name__, values))
    assert "--trust-model" not in refused(path, message)


@pytest.mark.any_backend
def test_names_that_hide_a_class_are_refused(tmp_path):
    """Keras joins module and name, so that `keras` and `layers.Lambda` are keras.layers.Lambda."""
    config = keras.saving.serialize_keras_object(functional(layers.Dropout(0.1, name="hidden")))
    entry = next(layer for layer in config["config"]["layers"] if layer["name"] == "hidden")
    entry |= {"module": "keras", "class_name": "layers.TFSMLayer", "config": {"filepath": "/", "name": "hidden"}}
    refused(write_config(tmp_path / "a.h5", config, "3.15.0"), "'layers.TFSMLayer'")


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: keras.Sequential([keras.Input((10, 4)), layers.LSTM(3), layers.Dense(2)]),
         r"takes \(N, 10, 4\); expected one input of photos, \(N, H, W, 1 or 3, or bands\), not sequences.*cut out"),
        (lambda: keras.Sequential([keras.Input((10,)), layers.Dense(2)]), r"takes \(N, 10\); .*not numbers"),
        (lambda: keras.Sequential([keras.Input((4, 8, 8, 3)), layers.Conv3D(2, 3), layers.Flatten(), layers.Dense(2)]),
         r"takes \(N, 4, 8, 8, 3\); .*not volumes or films"),
        (lambda: keras.Sequential([keras.Input((8, 8, 2)), layers.Conv2D(2, 3), layers.Flatten(), layers.Dense(2)]),
         "not images of other channels"),
        (lambda: keras.Model([first := keras.Input((8, 3), name="track"), other := keras.Input((4,), name="age")],
                             layers.Dense(2)(layers.Concatenate()([layers.Flatten()(first), other]))),
         r"takes 2 inputs \(track \(N, 8, 3\), age \(N, 4\)\), none of them photos; expected one input"),
    ],
)  # fmt: skip
def test_inputs_that_are_no_photos_are_told_before_anything_is_rebuilt(tmp_path, monkeypatch, build, message):
    path = write_config(tmp_path / LONG_NAME, old_config(build()))

    def rebuild(*arguments, **settings):
        raise AssertionError("the network was rebuilt")

    monkeypatch.setattr(keras.saving, "deserialize_keras_object", rebuild)
    refused(path, message)


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9\n", "pointer of Git LFS.*git lfs pull"),
        (pickle.dumps({"loss": [1.0]}), "is a pickle, of a history"),
        (b'{"loss": [1.0, 0.5]}', "is JSON without weights: a history, or an architecture.*--architecture"),
        (b"[1, 2]", "is JSON without weights"),
        (b"\n<!DOCTYPE html><html>", "is a web page, maybe a download that failed"),
        (b"\x1f\x8b\x08\x00", "is packed with gzip"),
        (b"\x1c\x00\x00\x00TFL3", "is a TensorFlow Lite file"),
        (b"", "is empty; expected"),
        (b"epoch,loss\n1,0.5\n", "is neither an HDF5 nor a .keras file"),
        (b"PK\x03\x04broken", "is an archive without a network"),
        (b"\x89HDF\r\n\x1a\nbroken", "cannot be read .*expected a whole file"),
    ],
)
def test_files_of_other_kinds_are_named(tmp_path, content, message):
    (tmp_path / "model.h5").write_bytes(content)
    refused(tmp_path / "model.h5", f"model.h5.* {message}")


@pytest.mark.any_backend
def test_folders_and_files_known_by_their_names(tmp_path):
    for name, message in (("saved_model.pb", "is a SavedModel"), ("config.json", "is an unpacked .keras file")):
        (tmp_path / name[:5]).mkdir()
        (tmp_path / name[:5] / name).write_bytes(b"{}")
        refused(tmp_path / name[:5], message)
    refused(tmp_path, "is a folder; expected a .keras or .h5 file")
    for name, message in (("a.pb", "a program of TensorFlow"), ("a.index", "a checkpoint"), ("a.onnx", "an ONNX file")):
        (tmp_path / name).write_bytes(b"\x08\x08")
        refused(tmp_path / name, message)


def test_content_decides_and_not_the_name(tmp_path):
    network = filled(functional())
    network.save(tmp_path / "a.h5")
    network.save(tmp_path / "b.keras")
    for source, names in (("a.h5", ("a.model", "A.H5", "c.keras", "a")), ("b.keras", ("d.h5", "b.zip", "b"))):
        for name in names:
            shutil.copy(tmp_path / source, tmp_path / name)
            loaded, _ = load_network(tmp_path / name)
            np.testing.assert_array_equal(predictions(loaded), predictions(network))


@pytest.mark.any_backend
def test_archives_that_lack_weights_or_hold_too_much(tmp_path):
    path, config = tmp_path / "a.keras", json.dumps(keras.saving.serialize_keras_object(functional()))
    for names, message in (((), "model.weights.h5"), (("assets/words.txt", "model.weights.h5"), "layers of text")):
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("config.json", config)
            for name in names:
                file.writestr(name, b"")
        refused(path, f"its weights cannot be read .*{message}")


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("error", "reason"),
    [
        ("could not be\n\nconfig={...}\n\nException encountered: outer\n\nException encountered: that\nx", "that"),
        ("A total of 2 objects could not be loaded. Example error message for object <Conv2D>:\n\nthat", "that"),
        ("a" * 500, "a" * (LONGEST_REASON - 3) + "..."),
        ("", "ValueError"),
    ],
)
def test_the_reason_is_the_innermost_one(error, reason):
    assert first_line(ValueError(*filter(None, [error]))) == reason
