"""keras.applications: every network by its name and from Keras's own file, and what is said where there is none."""

import gc
import urllib.request

import keras
import numpy as np
import pytest
from conftest import read_csv, write_weights_file
from keras.src.backend import config as keras_config
from PIL import Image

import evaluate_maps
import gradcam_vgg16
import make_cam_maps
from camlib.attribution.cam import cam_function, pooled_classifier
from camlib.attribution.classifier import Classifier, check_guided
from camlib.attribution.gradcam import GradCAM
from camlib.console import UserError
from camlib.demo.scenes import draw_demo
from camlib.networks.applications import APPLICATIONS, OPEN_SIZE, application_of_file, preprocessing_of
from camlib.networks.checkpoint import load_network
from camlib.preprocessing import PREPROCESSING, InputSpec, imagenet_names

pytestmark = [pytest.mark.any_backend, pytest.mark.thorough]

KERNELS = "weights_tf_dim_ordering_tf_kernels"
# Keras's module -> name of the network -> the file that Keras downloads, as Keras's documentation and source have them
FILES = {
    "vgg16": {"VGG16": f"vgg16_{KERNELS}.h5"},
    "vgg19": {"VGG19": f"vgg19_{KERNELS}.h5"},
    "xception": {"Xception": f"xception_{KERNELS}.h5"},
    "inception_v3": {"InceptionV3": f"inception_v3_{KERNELS}.h5"},
    "inception_resnet_v2": {"InceptionResNetV2": f"inception_resnet_v2_{KERNELS}.h5"},
    "resnet": {f"ResNet{depth}": f"resnet{depth}_{KERNELS}.h5" for depth in (50, 101, 152)},
    "resnet_v2": {f"ResNet{depth}V2": f"resnet{depth}v2_{KERNELS}.h5" for depth in (50, 101, 152)},
    "densenet": {f"DenseNet{depth}": f"densenet{depth}_{KERNELS}.h5" for depth in (121, 169, 201)},
    "mobilenet": {"MobileNet": "mobilenet_1_0_224_tf.h5"},
    "mobilenet_v2": {"MobileNetV2": f"mobilenet_v2_{KERNELS}_1.0_224.h5"},
    "mobilenet_v3": {
        f"MobileNetV3{size}": f"weights_mobilenet_v3_{size.lower()}_224_1.0_float.h5" for size in ("Small", "Large")
    },
    "nasnet": {f"NASNet{size}": f"nasnet_{size.lower()}.h5" for size in ("Mobile", "Large")},
    "efficientnet": {f"EfficientNetB{number}": f"efficientnetb{number}.h5" for number in range(8)},
    "efficientnet_v2": {
        f"EfficientNetV2{size}": f"efficientnetv2-{size.lower()}.h5" for size in ("B0", "B1", "B2", "B3", "S", "M", "L")
    },
    "convnext": {
        f"ConvNeXt{size}": f"convnext_{size.lower()}.h5" for size in ("Tiny", "Small", "Base", "Large", "XLarge")
    },
}
NETWORKS = [(module, name, file) for module, files in FILES.items() for name, file in files.items()]


def test_every_network_of_keras_is_known():
    assert sorted(APPLICATIONS) == sorted(name for _, name, _ in NETWORKS)


@pytest.mark.parametrize(("module", "name", "file"), NETWORKS)
def test_pixels_are_prepared_as_keras_prepares_them(module, name, file):
    pixels = np.random.default_rng(1).integers(0, 256, (2, 7, 6, 3), np.uint8)
    expected = getattr(keras.applications, module).preprocess_input(pixels.astype(np.float32))
    ours = InputSpec(["a"], 7, 6, 3, **PREPROCESSING[preprocessing_of(name)]).prepare(pixels)
    np.testing.assert_allclose(ours, expected, atol=1e-4)


def test_files_are_recognised_by_the_names_that_keras_gives_them(tmp_path):
    for _, name, file in NETWORKS:
        assert application_of_file(tmp_path / file, []) == name
    for file in ("mobilenet_1_0_128_tf.h5", "mobilenet_0_75_224_tf.h5", "my_resnet50.h5", "resnet50.weights.h5"):
        assert application_of_file(tmp_path / file, ["conv1"]) is None  # another size, width or network: not guessed
    for file in (f"resnet50v2_{KERNELS}_notop.h5", "mobilenet_1_0_224_tf_no_top.h5", "convnext_tiny_notop.h5"):
        with pytest.raises(UserError, match="without its classes; expected Keras's file without notop in its name"):
            application_of_file(tmp_path / file, [])


@pytest.mark.slow
@pytest.mark.parametrize(("module", "name", "file"), NETWORKS)
def test_files_are_those_that_keras_asks_for(module, name, file, monkeypatch):
    asked = []

    def stop(file_name, *origin, **settings):
        asked.append(file_name)
        raise InterruptedError

    monkeypatch.setattr(keras.src.utils.file_utils, "get_file", stop)
    with pytest.raises(InterruptedError):
        getattr(keras.applications, name)()
    assert asked == [file]
    keras.backend.clear_session()


# ---------------------------------------------------------------- networks from files


def random_weights(network):
    generator = np.random.default_rng(0)
    for weight in network.weights:
        if len(weight.shape) == 1:
            weight.assign(generator.uniform(0.5, 1.5, weight.shape))
    return network


@pytest.fixture(scope="module")
def mobilenet(tmp_path_factory):
    """(path of Keras's file, the network that it was written from)."""
    keras.utils.set_random_seed(6)
    reference = random_weights(keras.applications.MobileNet(weights=None))
    path = tmp_path_factory.mktemp("keras") / "mobilenet_1_0_224_tf.h5"
    write_weights_file(path, reference)
    return path, reference


def test_a_file_of_keras_is_explained_as_it_is(mobilenet, photo_folder, tmp_path, capsys):
    path, reference = mobilenet
    photos = photo_folder({"a.png": (200, 100, 50)}, size=(224, 224))
    arguments = [str(photos), "--weights", str(path), "--no-guided", "--output", str(tmp_path / "g")]
    assert gradcam_vgg16.main(arguments) == 0
    printed = capsys.readouterr().out
    assert (
        "224x224 RGB, pixel * 0.00784314 + -1, as it was trained; the score is the input of its last softmax" in printed
    )
    (row,) = read_csv(tmp_path / "g" / "predictions.csv")
    pixels = np.asarray(Image.open(photos / "a.png"))[None].astype(np.float32)
    expected = reference.predict(keras.applications.mobilenet.preprocess_input(pixels), verbose=0)[0]
    found = [float(row[f"probability_{name}"]) for name in imagenet_names()]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert row["predicted"] == imagenet_names()[expected.argmax()] and expected.max() > 2 / 1000
    assert (tmp_path / "g" / "a" / f"gradcam_for_{row['predicted']}.npy").exists()


def test_networks_scaled_differently_for_imagenet_are_built_so(tmp_path):
    """EfficientNet's weights of ImageNet want pixels divided once more, which Keras does for its own download alone."""
    reference = random_weights(keras.applications.EfficientNetB0(weights=None))
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    (normalization,) = (layer for layer in reference.layers if isinstance(layer, keras.layers.Normalization))
    normalization.set_weights([mean, std, np.array(0)])  # as in Keras's file: std for variance
    write_weights_file(tmp_path / "efficientnetb0.h5", reference)
    network, input_spec = load_network(tmp_path / "efficientnetb0.h5")
    assert (input_spec.height, input_spec.width) == (224, 224) and len(input_spec.class_names) == 1000
    pixels = np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3), np.uint8)
    # what reaches the first convolution is (pixel / 255 - mean) / std, with ImageNet's mean and standard deviation
    stem = keras.Model(reference.get_layer("stem_conv_pad").input, reference.output)
    expected = keras.ops.convert_to_numpy(stem(((pixels / 255 - mean) / std).astype(np.float32)))
    assert np.ptp(expected) > 1e-3
    found = keras.ops.convert_to_numpy(network(input_spec.prepare(pixels)))
    np.testing.assert_allclose(found, expected, atol=1e-4 * expected.max())


def test_a_file_of_another_network_is_one_line(mobilenet, tmp_path):
    path = tmp_path / f"mobilenet_v2_{KERNELS}_1.0_224.h5"
    path.write_bytes(mobilenet[0].read_bytes())
    with pytest.raises(UserError, match="its weights do not fit Keras's MobileNetV2") as refused:
        load_network(path)
    assert "\n" not in str(refused.value)


def test_cam_does_not_apply_to_a_convolution_of_the_means(mobilenet):
    with pytest.raises(UserError, match="no Dense layer makes them.*use python gradcam_vgg16.py"):
        pooled_classifier(mobilenet[1])


# ---------------------------------------------------------------- every architecture


# What docs/usage.md says: guided backpropagation all but these, and CAM
WITHOUT_GUIDED = ("MobileNetV3", "EfficientNet", "ConvNeXt")
WITHOUT_CAM = ("VGG", "MobileNetV3", "ConvNeXt")  # and MobileNet itself


def is_refused(function, *arguments):
    try:
        function(*arguments)
    except UserError:
        return True
    return False


def random_classifier(name, side=None):
    """The Classifier of an architecture with random weights, at its own size or another, and what is fed to it."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(0)
    network = APPLICATIONS[name](weights=None, input_shape=side and (side, side, 3))
    size = tuple(side or OPEN_SIZE for side in network.input_shape[1:3])
    input_spec = InputSpec(imagenet_names(), *size, 3, **PREPROCESSING[preprocessing_of(name)])
    pixels = np.random.default_rng(0).integers(0, 256, (1, *size, 3), np.uint8)
    return Classifier(network, input_spec, name), pixels


MOST_SIDE, SMALLER = 300, 128  # pixels: beyond the former, gradients of the largest networks fill 20 GB


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(APPLICATIONS))
def test_every_architecture_is_explained_as_the_docs_say(name):
    gc.collect()
    classifier, pixels = random_classifier(name)
    structure, layer = classifier.structure, classifier.layer_to_map()
    with_guided = not name.startswith(WITHOUT_GUIDED)
    with_cam = not (name.startswith(WITHOUT_CAM) or name == "MobileNet")
    assert structure.output_activation == "softmax"
    assert is_refused(check_guided, structure, "") != with_guided
    assert is_refused(pooled_classifier, classifier.network) != with_cam
    if classifier.input_spec.height > MOST_SIDE:  # inspected at its own size, mapped at a smaller one
        classifier, pixels = random_classifier(name, SMALLER)
        assert classifier.layer_to_map() == layer
    found = GradCAM(classifier, method="hires-cam", guided=with_guided, classes=[7, 207])(pixels)
    h, w, _ = classifier.structure.sizes[layer]
    assert found.cams.shape == (2, 1, h, w) and np.isfinite(found.cams).all() and found.cams.any()
    if with_guided:
        assert found.guided.shape == (2, *pixels.shape)
        assert found.guided.any() and np.isfinite(found.guided).all()
    if with_cam:  # all biases are 0 here: HiResCAM adds up to the logit, and CAM is HiResCAM times the number of pixels
        np.testing.assert_allclose(found.cams.sum(axis=(2, 3))[:, 0], found.logits[0, [7, 207]], rtol=1e-3)
        maps = cam_function(classifier.network)(classifier.prepare(pixels))[0]
        expected = found.cams[:, 0] * h * w
        atol = 1e-3 * np.abs(expected).max()
        np.testing.assert_allclose(keras.ops.convert_to_numpy(maps)[0, [7, 207]], expected, atol=atol)


# ---------------------------------------------------------------- networks by their names


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No connection, and a folder of Keras's own that holds nothing."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(urllib.request, "_opener", None)
    monkeypatch.setattr(keras_config, "_KERAS_DIR", str(tmp_path / "keras"))
    (tmp_path / "keras").mkdir()
    return tmp_path / "keras"


@pytest.mark.parametrize(
    ("main", "arguments", "file"),
    [
        (gradcam_vgg16.main, ["--weights", "imagenet"], "vgg16_weights_tf_dim_ordering"),
        (make_cam_maps.main, ["--model", "MobileNetV3Small"], "weights_mobilenet_v3_small_"),
        (evaluate_maps.main, ["DRAWN", "--maps", "MobileNetV3Small:layer-cam"], "weights_mobilenet_v3_"),
    ],
)
def test_without_a_connection_it_says_which_file_to_bring_where(offline, tmp_path, main, arguments, file):
    draw_demo(tmp_path / "drawn", train=0, val=1, both=1, size=32)
    arguments = [argument.replace("DRAWN", str(tmp_path / "drawn")) for argument in arguments]
    with pytest.raises(UserError) as refused:
        main([*arguments, "--output", str(tmp_path / "out")])
    message = str(refused.value)
    assert message.startswith(f"the ImageNet weights could not be had (URL fetch failure on {file}")
    assert f"bring that file to {offline / 'models'}, where Keras looks for it, or give it as --weights FILE" in message
    assert "\n" not in message and len(message) <= 300 + len(str(offline))


def test_the_file_where_keras_looks_for_it_needs_no_connection(offline, mobilenet):
    path, reference = mobilenet
    (offline / "models").mkdir()
    (offline / "models" / path.name).write_bytes(path.read_bytes())
    network, input_spec = load_network("MobileNet")
    assert input_spec.preprocessing == "224x224 RGB, pixel * 0.00784314 + -1"
    for found, expected in zip(network.get_weights(), reference.get_weights(), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("imagenett", "imagenett does not exist; did you mean imagenet? expected a .h5 or .keras file, imagenet, or a"),
        ("resnet50v2", "did you mean ResNet50V2 or "),
        ("EfficentNetB0", "did you mean EfficientNetB0 or "),
        ("vgg17", "did you mean VGG1"),
        ("nowhere.h5", "nowhere.h5 does not exist; expected a .h5 or .keras file"),
    ],
)
def test_misspelt_names_are_answered_with_those_there_are(end_of, name, message, tmp_path):
    code, said = end_of(gradcam_vgg16.main, ["--weights", name, "--output", tmp_path / "g"])
    assert code == 2 and message in said and said.count("\n") == 1 and len(said) <= 300
