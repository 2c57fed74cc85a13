"""Grad-CAM and guided backpropagation against hand-computed values, float64 NumPy, and the CAM identity."""

import json

import cv2
import keras
import numpy as np
import oracle
import pytest
from conftest import ROOT, SHARED, read_csv
from keras import layers, ops
from PIL import Image
from small_networks import explained

from camlib import explain
from camlib.attribution.cam import cam_function, pooled_classifier
from camlib.attribution.classifier import Classifier
from camlib.attribution.gradcam import GradCAM
from camlib.attribution.guided import guided_grad_cam, guided_rule, rectify
from camlib.attribution.inspection import inspect_network
from camlib.backend import differentiate
from camlib.console import UserError
from camlib.networks.architectures import modern_network, vgg16_network
from camlib.networks.checkpoint import load_network, save_network
from camlib.photos import read_photo
from camlib.preprocessing import PREDICTED, InputSpec, chosen_classes
from camlib.runs.maps import find_saved
from gradcam_vgg16 import main

CLASSES = ["dog", "cat", "horse", "bird"]


def numpy(parts):
    return [ops.convert_to_numpy(part) for part in parts]


def random_network(build, seed=0):
    """A network whose weights, biases included, are random and of ordinary size."""
    keras.utils.set_random_seed(seed)
    network = build()
    generator = np.random.default_rng(seed)
    for weight in network.trainable_weights:
        if len(weight.shape) == 1:
            weight.assign(weight + generator.normal(size=weight.shape) * 0.1)
    return network


def small_network():
    """A photo of 64x64, two convolutions with names, and the four classes."""
    image = keras.Input((64, 64, 3))
    x = layers.Conv2D(16, 3, strides=4, padding="same", activation="relu", name="first")(image)
    x = layers.Conv2D(16, 3, strides=4, padding="same", activation="relu", name="second")(x)
    return keras.Model(image, layers.Dense(4, activation="softmax", name="class")(layers.GlobalAveragePooling2D()(x)))


def test_grad_cam_of_the_gap_network_is_its_cam_over_its_area():
    """Before its ReLU, sum_k alpha_k A_k = M_c / (H W); the counterfactual has the other sign: both show it whole."""
    network = random_network(lambda: modern_network(4))
    images = np.random.default_rng(1).random((2, 12, 10, 3), np.float32)
    maps, _, _ = numpy(cam_function(network)(images))
    assert (maps < 0).any()
    found, against = (explained(network, None, images, counterfactual=negate) for negate in (False, True))
    expected = maps.transpose(1, 0, 2, 3) / (12 * 10)
    np.testing.assert_allclose(found.cams - against.cams, expected, atol=1e-5 * np.abs(expected).max())
    np.testing.assert_array_equal(found.cams * against.cams, 0)


def gradients_of(function, x, u):
    """(value, true gradient, guided gradient) of a function of one tensor, for the gradient u of its value."""
    y, _, _, _, pullback = differentiate(lambda x, tap: (function(tap("x", x)), ()), ops.convert_to_tensor(x))
    u = ops.convert_to_tensor(u)
    true = pullback(u)
    with guided_rule():
        return numpy((y, true, pullback(u)))


@pytest.mark.parametrize(
    ("settings", "value", "derivative"),
    [
        ({}, [0, 0, 2, 3, 7], [0, 0, 1, 1, 1]),
        ({"max_value": 6.0}, [0, 0, 2, 3, 6], [0, 0, 1, 1, 0]),
        ({"negative_slope": 0.5}, [-0.5, 0, 2, 3, 7], [0.5, 0.5, 1, 1, 1]),
        ({"threshold": 2.5}, [0, 0, 0, 3, 7], [0, 0, 0, 1, 1]),
    ],
)
def test_rules_of_a_relu(settings, value, derivative):
    """True: the derivative times the gradient; guided: times its positive part."""
    x = np.array([-1, 0, 2, 3, 7], np.float32)
    for u in (np.array([5, 6, -7, 8, 9], np.float32), np.array([-5, -6, 7, -8, -9], np.float32)):
        found, true, guided = gradients_of(lambda x: rectify(x, **settings), x, u)
        np.testing.assert_allclose(found, value)
        np.testing.assert_allclose(true, derivative * u)
        np.testing.assert_allclose(guided, derivative * np.maximum(u, 0))


def test_nan_passes_a_relu():
    found, _, _ = gradients_of(rectify, np.array([np.nan, 1], np.float32), np.ones(2, np.float32))
    np.testing.assert_array_equal(found, [np.nan, 1])


def two_convolutions():
    """1x1 convolutions on one channel and a Dense layer: guided gradients can be worked out by hand."""
    image = keras.Input((1, 2, 1))
    x = layers.Conv2D(2, 1, activation="relu", name="first")(image)
    x = layers.Conv2D(2, 1, activation="relu", name="second")(x)
    network = keras.Model(image, layers.Dense(2, activation="softmax", name="class")(layers.Flatten()(x)))
    network.get_layer("first").set_weights([np.array([[[[1.0, -1.0]]]]), np.array([0.0, 3.0])])
    network.get_layer("second").set_weights([np.array([[[[1.0, -2.0], [1.0, 1.0]]]]), np.array([0.0, 1.0])])
    network.get_layer("class").set_weights([np.array([[1.0, 0], [2.0, 0], [-1.0, 0], [3.0, 1.0]]), np.zeros(2)])
    return network


def test_guided_backpropagation_by_hand():
    """Pixels 2 and 4.

    first:  pixel 2 -> relu(2, -2 + 3) = (2, 1);  pixel 4 -> relu(4, -4 + 3) = (4, 0)
    second: pixel 2 -> relu(2 + 1, -4 + 1 + 1) = (3, 0);  pixel 4 -> relu(4, -8 + 0 + 1) = (4, 0)
    score:  weights (1, 2) for pixel 2 and (-1, 3) for pixel 4; the score is 3 - 4 = -1
    true gradient: pixel 2: (1, 0) -> first (1, 1) -> 1 * 1 + 1 * -1 = 0;  pixel 4: (-1, 0) -> (-1, 0) -> -1
    guided: the negative -1 stops at pixel 4, so 0. Pixel 2: (1, 0) -> (1, 1) -> both pass -> 1 - 1 = 0.
    With the pixel 2 at 3.5 the second filter of `first` is off, relu(-0.5): guided and true gradient are both 1.
    """
    images = np.array([2.0, 4.0, 3.5, 4.0]).reshape(2, 1, 2, 1)
    found = explained(two_convolutions(), None, images, [0], layer="second")
    np.testing.assert_allclose(found.logits[:, 0], [3 - 4, 3.5 - 4])  # logits, although the network ends in softmax
    np.testing.assert_array_equal(found.guided[0, :, 0, :, 0], [[0, 0], [1, 0]])
    # Grad-CAM with true gradients (1, 2) and (-1, 3): alpha = (0, 2.5); A = (3, 0), (4, 0): the map is zero
    np.testing.assert_array_equal(found.cams[0], np.zeros((2, 1, 2)))
    np.testing.assert_array_equal(found.products, np.zeros_like(found.products))


def steps_of(network):
    """A VGG of 3x3 'same' convolutions as steps of the oracle; each ReLU is a step of its own."""
    for layer in network.layers:
        if isinstance(layer, layers.Conv2D):
            yield oracle.Convolution(*layer.get_weights(), padding=1)
        elif isinstance(layer, layers.Dense):
            yield oracle.Dense(*layer.get_weights())
        elif isinstance(layer, layers.MaxPooling2D):
            yield oracle.MaxPooling()
        elif isinstance(layer, layers.GlobalAveragePooling2D):
            yield oracle.Mean()
        if getattr(layer, "activation", None) is keras.activations.relu:
            yield oracle.Rectifier()


@pytest.mark.any_backend
def test_vgg16_against_float64_numpy():
    network = random_network(lambda: vgg16_network(4))
    images = np.random.default_rng(3).random((1, 32, 64, 3), np.float32)
    plan = inspect_network(network, (32, 64, 3))
    assert plan.target == "block5_conv3" and len(plan.relus) == 14 and plan.output_activation == "softmax"
    found = explained(network, plan, images, [1, PREDICTED, PREDICTED - 1, PREDICTED - 3])
    ranked = np.argsort(-found.logits[0])
    np.testing.assert_array_equal(found.chosen[:, 0], [1, ranked[0], ranked[1], ranked[3]])
    assert found.products.shape == (4, 1, 32, 64, 3)
    steps = list(steps_of(network))
    for row in range(2):
        _, _, guided = oracle.maps(steps, images[0], found.chosen[row, 0], target=0)
        assert np.abs(guided).max() > 0
        np.testing.assert_allclose(found.guided[row, 0], guided, atol=1e-5 * np.abs(guided).max())


def test_product_uses_half_pixel_bilinear_enlargement():
    generator = np.random.default_rng(0)
    guided, cam = generator.normal(size=(1, 28, 42, 3)).astype(np.float32), generator.random((1, 7, 9), np.float32)
    expected = guided[0] * cv2.resize(cam[0], (42, 28), interpolation=cv2.INTER_LINEAR)[..., None]
    np.testing.assert_allclose(ops.convert_to_numpy(guided_grad_cam(guided, cam))[0], expected, atol=1e-5)


@pytest.mark.any_backend
def test_class_choices():
    assert chosen_classes(["predicted", "cat", "3", "1"], CLASSES) == [PREDICTED, 1, 3]
    assert chosen_classes(["all"], CLASSES) == [0, 1, 2, 3]
    assert chosen_classes(["bird", "herd"], CLASSES, ["herd"]) == [3, 4]
    assert chosen_classes(["top3", "cat", "predicted"], CLASSES) == [PREDICTED, PREDICTED - 1, PREDICTED - 2, 1]
    for word in ("4", "top5", "top0", "top"):
        with pytest.raises(UserError, match=f"--classes {word} is not a class; expected predicted, all, top1 to top4"):
            chosen_classes([word], CLASSES)
    with pytest.raises(UserError, match="or one of class_0, class_1; --class-names FILE names them"):
        chosen_classes(["dog"], ["class_0", "class_1"])


@pytest.mark.any_backend
def test_files_of_a_run(run_here, photo_folder, tmp_path):
    model = tmp_path / "net.h5"
    save_network(random_network(small_network), model, InputSpec(CLASSES, 64, 64, 3))
    photos = photo_folder({"wide.jpg": (200, 100, 50), "b/tall.png": (50, 100, 200)}, size=(80, 40))
    arguments = (photos, "--weights", model, "--classes", "cat", "bird", "--output", tmp_path / "g")
    result = run_here("gradcam_vgg16.py", *arguments)
    assert result.returncode == 0, result.stderr
    assert sorted(row["path"] for row in read_csv(tmp_path / "g" / "predictions.csv")) == ["b/tall.png", "wide.jpg"]
    for folder in ("wide", "b/tall"):
        for name in ("cat", "bird"):
            cam, guided, product = (
                np.load(tmp_path / "g" / folder / f"{kind}_for_{name}.npy")
                for kind in ("gradcam", "guided_backprop", "guided_gradcam")
            )
            assert cam.shape == (4, 4) and guided.shape == product.shape == (64, 64, 3)
            assert cam.min() >= 0 and guided.min() < 0 and cam.dtype == guided.dtype == np.float32
            # cells of 16 pixels, the first in the middle of its windows of 3 and 3 x 4 pixels, without padding before
            weights = np.stack([np.interp((np.arange(64) - 5) / 16, np.arange(4), one) for one in np.eye(4)], axis=1)
            cam = weights @ cam @ weights.T
            inside = (np.arange(64) + 0.5 <= 61.5).astype(np.float32)
            np.testing.assert_allclose(product, guided * (cam * inside[:, None] * inside)[..., None], atol=1e-6)
            with Image.open(tmp_path / "g" / folder / f"gradcam_for_{name}.jpg") as picture:
                assert picture.size == (80, 40)
            with Image.open(tmp_path / "g" / folder / f"panel_for_{name}.jpg") as picture:
                assert picture.width > 4 * 256 and picture.height > 128
        assert not (tmp_path / "g" / folder / "gradcam_for_dog.npy").exists()
    assert "2 of 2 photos are done already" in run_here("gradcam_vgg16.py", *arguments).stdout


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--layer", "block9"], "--layer block9 is not a layer with a spatial output; expected one of"),
        (["--classes", "cow"], "--classes cow is not a class"),
    ],
)
def test_bad_usage_is_one_line_and_exit_2(end_of, of_imagenet, tmp_path, arguments, message):
    code, said = end_of(main, ["--weights", of_imagenet, "--preprocess", "tf", *arguments, "--output", tmp_path / "g"])
    assert code == 2 and said.startswith("error: ") and message in said and said.count("\n") == 1


@pytest.mark.thorough
def test_imagenet_file_of_keras_applications(imagenet_file):
    """Keras's own weights file gives Keras's own VGG-16 and its preprocessing."""
    path, reference = imagenet_file
    network, input_spec = load_network(path)
    photos = np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3), np.uint8)
    expected = reference.predict(keras.applications.vgg16.preprocess_input(photos.astype(np.float32)), verbose=0)
    np.testing.assert_allclose(network.predict(input_spec.prepare(photos), verbose=0), expected, atol=1e-6)
    assert len(input_spec.class_names) == 1000


@pytest.mark.any_backend
@pytest.mark.skipif(not SHARED.exists(), reason="development data is not here")
def test_file_of_2019_has_one_map_by_both_scripts(run_here, tmp_path):
    """model_weight.h5 of TensorFlow 2.0: a map's mean plus the bias is the logit, Grad-CAM is ReLU(CAM) / (H W)."""
    model = SHARED / "seed" / "model_weight.h5"
    photo = sorted((SHARED / "photos4" / "val" / "dog").glob("*.jpg"))[0]
    arguments = (photo, "--weights", model, "--layer", "conv2d_4", "--classes", "all", "--output", tmp_path / "g")
    result = run_here("gradcam_vgg16.py", *arguments, "--no-guided")
    assert result.returncode == 0, result.stderr
    assert run_here("make_cam_maps.py", photo, "--model", model, "--output", tmp_path / "m").returncode == 0
    (row,) = read_csv(tmp_path / "m" / "predictions.csv")
    bias = ops.convert_to_numpy(pooled_classifier(load_network(model)[0])[1].bias)
    for index, name in enumerate(CLASSES):
        cam = np.load(tmp_path / "m" / photo.stem / f"heatmap_for_{name}.npy")
        assert abs(cam.mean(dtype=np.float64) + bias[index] - float(row[f"logit_{name}"])) < 1e-4
        grad_cam_map = np.load(tmp_path / "g" / photo.stem / f"gradcam_for_{name}.npy")
        expected = np.maximum(cam, 0) / cam.size
        np.testing.assert_allclose(grad_cam_map, expected, atol=1e-5 * expected.max())


def test_explaining_in_one_call_equals_the_scripts_files(photo_folder, tmp_path):
    """Photos of two sizes, from a file and from the network itself, whose channels are blue, green, red."""
    network = random_network(small_network)
    input_spec = InputSpec(CLASSES, 64, 64, 3, offset=[-0.1, -0.2, -0.3], bgr=True)
    save_network(network, tmp_path / "net.h5", input_spec)
    photos = photo_folder({"a.png": (200, 100, 50)}, size=(80, 40)), photo_folder({"b.png": (9, 99, 9)}, size=(30, 70))
    images = [read_photo(photos[0] / "a.png"), read_photo(photos[0] / "b.png")]
    found = explain(tmp_path / "net.h5", images, classes=["cat", 3], layer="first", method="hires-cam")
    assert found.cams.shape == (2, 2, 16, 16) and found.guided.shape == found.products.shape == (2, 2, 64, 64, 3)
    arguments = ["--classes", "cat", "bird", "--layer", "first", "--method", "hires-cam"]
    arguments += ["--weights", str(tmp_path / "net.h5"), "--output", str(tmp_path / "g")]
    assert main([str(photos[0]), *arguments]) == 0
    for row, name in enumerate(("cat", "bird")):
        for photo, folder in enumerate("ab"):
            for kind, values in (("gradcam", found.cams), ("guided_backprop", found.guided)):
                saved = np.load(tmp_path / "g" / folder / f"{kind}_for_{name}.npy")
                np.testing.assert_allclose(values[row, photo], saved, atol=1e-5 * np.abs(saved).max())
    predicted = explain(network, np.stack([images[0], images[0]]), preprocess="none", guided=False)
    assert predicted.guided is None and predicted.chosen[0].tolist() == predicted.logits.argmax(axis=1).tolist()


def test_guided_maps_of_a_bgr_network_are_in_rgb():
    """Those of the same network that takes red first."""
    network, swapped = random_network(small_network), random_network(small_network)
    kernel, bias = network.get_layer("first").get_weights()
    swapped.get_layer("first").set_weights([kernel[:, :, ::-1], bias])
    photos = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    found, of_swapped = (
        GradCAM(Classifier(one, InputSpec(CLASSES, 64, 64, 3, bgr=bgr)), classes=["all"])(photos)
        for one, bgr in ((network, False), (swapped, True))
    )
    for kind in ("logits", "cams", "guided", "products"):
        expected = getattr(found, kind)
        largest = np.abs(expected).max()
        assert largest > 0
        np.testing.assert_allclose(getattr(of_swapped, kind), expected, atol=1e-5 * largest)


@pytest.mark.any_backend
def test_explaining_in_one_call_asks_for_what_nobody_says():
    image = keras.Input((None, None, 3))
    network = keras.Model(image, layers.Dense(4)(layers.GlobalAveragePooling2D()(image)))
    with pytest.raises(UserError, match="takes photos of any size"):
        explain(network, [np.zeros((64, 64, 3), np.uint8)])
    fixed = keras.Model(image := keras.Input((64, 64, 3)), network(image))
    with pytest.raises(UserError, match="nothing says what the network 'functional.*' makes of a pixel"):
        explain(fixed, [np.zeros((64, 64, 3), np.uint8)])


# ---------------------------------------------------------------- groups of classes, and many classes


@pytest.fixture(scope="module")
def of_imagenet(tmp_path_factory):
    """A small network with ImageNet's 1,000 classes."""
    keras.utils.set_random_seed(3)
    image = keras.Input((24, 24, 3))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(6, 3, activation="relu")(image))
    path = tmp_path_factory.mktemp("imagenet") / "net.keras"
    keras.Model(image, keras.layers.Dense(1000, activation="softmax", kernel_initializer="normal")(x)).save(path)
    return path


def test_a_group_has_the_sum_of_its_classes_probabilities(of_imagenet, photo_folder, tmp_path):
    photos = photo_folder({"a.png": (200, 100, 50), "b.png": (20, 100, 250)})
    arguments = [str(photos), "--weights", str(of_imagenet), "--preprocess", "tf", "--output", str(tmp_path / "out")]
    assert main([*arguments, "--classes", "dog", "tench", "bird", "--no-guided"]) == 0
    names = [line.split(" ", 1)[1] for line in (ROOT / "data" / "imagenet_classes.txt").read_text().splitlines()]
    birds = [*range(7, 25), *range(80, 101), *range(127, 147)]
    rows = read_csv(tmp_path / "out" / "predictions.csv")
    assert len(rows) == 2 and list(rows[0])[-2:] == ["probability_dog", "probability_bird"]
    for row in rows:
        alone = np.array([float(row[f"probability_{name}"]) for name in names])
        assert alone.sum() == pytest.approx(1, abs=1e-5) and row["predicted"] == names[alone.argmax()]
        assert float(row["probability_dog"]) == pytest.approx(alone[151:269].sum(), rel=1e-5)
        assert float(row["probability_bird"]) == pytest.approx(alone[birds].sum(), rel=1e-5)
    shown = find_saved(tmp_path / "out")[0]
    assert shown.probabilities["dog"] == float(rows[0]["probability_dog"])
    assert json.loads((tmp_path / "out" / "run.json").read_text())["settings"]["groups"] == ["dog", "bird"]


@pytest.mark.any_backend
def test_with_nothing_written_there_is_no_next_command(of_imagenet, photo_folder, tmp_path, capsys):
    photos = photo_folder({"good.png": (1, 2, 3)})
    (photos / "good.png").write_bytes(b"no photo")
    output = tmp_path / "my maps"
    arguments = [str(photos), "--weights", str(of_imagenet), "--preprocess", "tf", "--output", str(output)]
    assert main([*arguments, "--no-guided"]) == 1
    said = capsys.readouterr().out
    assert "next:" not in said and "1 photo could not be read: see " in said
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(photos / "good.png")
    assert main([*arguments, "--no-guided"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[-2:] == [
        f"wrote the maps of 1 photo to {output}",
        f"next: python show_heatmaps.py '{output}'",
    ]
