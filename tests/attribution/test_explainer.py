"""The compiled explainer: many classes in portions, batches with filling, half precision."""

import itertools

import keras
import numpy as np
import oracle
import pytest
from keras import layers, ops
from small_networks import GENERATOR, IMAGES, SHAPE, explained, functional, steps, with_weights

from camlib import explain
from camlib.attribution.classifier import Classifier
from camlib.attribution.gradcam import CLASSES_AT_ONCE, GradCAM, compiled_map
from camlib.attribution.inspection import inspect_network
from camlib.backend import fast_half_precision, has_float64, usual_settings
from camlib.console import UserError
from camlib.demo.scenes import demo_folder
from camlib.networks import GAP_NETWORK, VGG_NETWORK
from camlib.networks.checkpoint import load_network
from camlib.photos import find_photos, read_batches
from camlib.precision import own_dtype, set_dtype
from camlib.preprocessing import PREDICTED


def test_many_classes_are_explained_in_portions():
    network = with_weights(functional())
    plan = inspect_network(network, SHAPE)
    rows = np.arange(2 * CLASSES_AT_ONCE + 3) % 4
    many, few = explained(network, plan, classes=rows), explained(network, plan)
    for name in ("cams", "guided", "products"):
        np.testing.assert_allclose(getattr(many, name), getattr(few, name)[rows], atol=1e-6)
    assert many.chosen[:, 0].tolist() == rows.tolist()


def test_grouped_convolutions_are_explained():
    """TensorFlow's kernels for the CPU lack their gradients. Against one convolution, zero across the groups."""
    keras.utils.set_random_seed(0)
    image = keras.Input(SHAPE)
    x = layers.Conv2D(6, 3, activation="relu", name="conv1")(image)
    grouped, whole = (
        keras.Model(image, layers.Dense(4)(layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3, groups=groups)(x))))
        for groups in (2, 1)
    )
    kernel, bias = grouped.layers[2].get_weights()
    wide = np.zeros((3, 3, 6, 4), np.float32)
    wide[:, :, :3, :2], wide[:, :, 3:, 2:] = kernel[..., :2], kernel[..., 2:]
    whole.layers[2].set_weights([wide, bias + 0.1])
    grouped.layers[2].set_weights([kernel, bias + 0.1])
    whole.layers[-1].set_weights(grouped.layers[-1].get_weights())
    ours, expected = (explained(network, method="hires-cam") for network in (grouped, whole))
    for name in ("logits", "cams", "guided", "products"):
        values = getattr(expected, name)
        np.testing.assert_allclose(getattr(ours, name), values, atol=1e-5 * np.abs(values).max())


def test_slow_methods_skip_what_fills_up_a_batch():
    network = with_weights(functional())
    plan = inspect_network(network, SHAPE)
    classes = ops.convert_to_tensor(np.zeros((1, len(IMAGES)), np.int32))
    explain = compiled_map(network, plan, method="ablation-cam")
    whole, some = (
        ops.convert_to_numpy(explain(ops.convert_to_tensor(IMAGES), classes, count).cams) for count in (2, 1)
    )
    np.testing.assert_allclose(some[:, :1], whole[:, :1], atol=1e-6)
    assert whole[:, 1].any() and not some[:, 1].any()


def test_small_gradients_survive_float16():
    """The mean over 100x100 pixels and small weights: gradients of 1e-8, below what float16 holds."""
    image = keras.Input((100, 100, 3))
    x = layers.Conv2D(4, 3, activation="relu", name="conv", padding="same")(image)
    network = keras.Model(image, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))
    network.layers[-1].set_weights([1e-3 * GENERATOR.normal(size=(4, 2)), np.zeros(2)])
    images, found = np.random.default_rng(0).random((1, 100, 100, 3)), []
    for dtype in ("float32", "float16"):
        set_dtype(network, dtype)
        found.append(explained(network, None, images, range(2), method="hires-cam"))
    for name in ("guided", "cams"):
        full, half = (getattr(one, name) for one in found)
        assert full.any()
        assert np.corrcoef(full.ravel(), half.ravel())[0, 1] > 0.999  # some ReLUs change sides
        assert np.abs(half).max() == pytest.approx(np.abs(full).max(), rel=0.05)


@pytest.fixture
def kept_in(request):
    """The oracle's network, built and kept in another dtype by the user's settings of Keras."""
    with usual_settings():
        if request.param in ("float16", "float64"):
            keras.config.set_floatx(request.param)
        keras.config.set_dtype_policy(request.param)
        yield with_weights(functional())


PIXELS = GENERATOR.integers(0, 256, (2, *SHAPE), np.uint8)
SCALED = 0.01, -1.0  # what becomes of a pixel


def float64_enlarged(cam, height, width):
    """Bilinear, half-pixel centres, in float64 NumPy."""
    for axis, size in ((0, height), (1, width)):
        places = (np.arange(size) + 0.5) * cam.shape[axis] / size - 0.5
        cam = np.apply_along_axis(lambda row, at=places: np.interp(at, np.arange(len(row)), row), axis, cam)
    return cam


@pytest.mark.parametrize("kept_in", ["float64"], indirect=True)
def test_a_float64_network_is_explained_in_float64(kept_in):
    """Against float64 NumPy, to 1e-10 of the largest value: what single precision cannot."""
    if not has_float64():
        with pytest.raises(UserError, match="computed in float64, which Keras does on TensorFlow only"):
            explain(kept_in, PIXELS, [0], preprocess="0.01,-1")
        return
    arguments = {"classes": [0, 3], "preprocess": "0.01,-1"}
    found = explain(kept_in, PIXELS, **arguments)
    ablation = explain(kept_in, PIXELS, method="ablation-cam", guided=False, **arguments)
    for photo, (row, index) in itertools.product(range(2), enumerate((0, 3))):
        network, image = steps(), PIXELS[photo] * SCALED[0] + SCALED[1]
        logits, cam, guided = oracle.maps(network, image, index, target=3)
        product = guided * np.pad(cam, 2)[..., None]  # convolutions without padding
        features = oracle.run(network, image)[4]
        without = np.array([oracle.run(network[4:], features * (np.arange(5) != k))[-1][index] for k in range(5)])
        weights = (logits[index] - without) / np.abs(logits[index])
        for ours, expected in (
            (found.logits[photo], logits),
            (found.cams[row, photo], cam),
            (found.guided[row, photo], guided),
            (found.products[row, photo], product),
            (ablation.cams[row, photo], np.maximum(features @ weights, 0)),
        ):
            assert ours.dtype == np.float64
            np.testing.assert_allclose(ours, expected, atol=1e-10 * np.abs(expected).max(), rtol=0)


@pytest.mark.any_backend
@pytest.mark.parametrize("kept_in", ["float64"], indirect=True)
@pytest.mark.parametrize("kind", ["keras", "h5"])
def test_files_keep_float64(kept_in, tmp_path, kind):
    kept_in.save(tmp_path / f"net.{kind}")
    network, _ = load_network(tmp_path / f"net.{kind}")
    assert own_dtype(network) == "float64"
    for ours, expected in zip(network.get_weights(), kept_in.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize("kept_in", ["float16"], indirect=True)
def test_a_float16_network_is_explained_in_float16(kept_in):
    """Its features are numbers that float16 holds; asked for float32, they are not."""
    for dtype, is_half in ((None, True), ("float32", False)):
        classifier = Classifier(kept_in, None, "net", preprocess="0.01,-1", dtype=dtype)
        assert classifier.dtype == (dtype or "float16")
        found = GradCAM(classifier, classes=[0, 1])(PIXELS)
        assert found.features.dtype == found.cams.dtype == np.float32
        assert np.array_equal(found.features, found.features.astype(np.float16)) == is_half
        _, cam, guided = oracle.maps(steps(), PIXELS[0] * SCALED[0] + SCALED[1], 0, target=3)
        np.testing.assert_allclose(found.cams[0, 0], cam, atol=0.02 * cam.max())


@pytest.mark.parametrize("kept_in", ["mixed_float16"], indirect=True)
def test_mixed_precision_is_for_training(kept_in):
    """The weights are float32, and so are the maps; afterwards training goes on as it was."""
    found = explain(kept_in, PIXELS, [0], preprocess="0.01,-1")
    _, cam, _ = oracle.maps(steps(), PIXELS[0] * SCALED[0] + SCALED[1], 0, target=3)
    np.testing.assert_allclose(found.cams[0, 0], cam, atol=1e-5 * cam.max())
    assert {layer.dtype_policy.name for layer in kept_in._flatten_layers()} == {"mixed_float16"}
    assert keras.backend.standardize_dtype(kept_in(PIXELS / 255).dtype) == "float16"


PARTS, DRAWINGS = ("features", "cams", "guided", "products"), 5


@pytest.fixture(scope="module")
def drawings():
    """Of drawings: the network's input, and the Explanation by the shipped network in float32."""
    network, input_spec = load_network(VGG_NETWORK)
    _, images, _ = next(read_batches(find_photos([demo_folder() / "both"])[:DRAWINGS], input_spec, DRAWINGS))
    images = input_spec.prepare(images)
    return images, explained(network, None, images, [PREDICTED])


@pytest.mark.any_backend
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_network_in_half_precision_can_be_cloned(dtype):
    """As other tools do with a network that they are given; the clone computes in the same precision."""
    network, _ = load_network(GAP_NETWORK)
    set_dtype(network, dtype)
    clone = keras.models.clone_model(network)
    clone.set_weights(network.get_weights())
    assert {str(weight.dtype) for weight in clone.weights} == {"float32"}
    images = np.random.default_rng(0).random((2, 32, 32, 3), np.float32)
    np.testing.assert_array_equal(*(ops.convert_to_numpy(one(images)) for one in (network, clone)))


@pytest.mark.thorough
@pytest.mark.parametrize("dtype", [pytest.param("bfloat16", marks=pytest.mark.slow), "float16"])
def test_half_precision_maps_are_float32_and_close(drawings, dtype):
    """The shipped network on drawings: maps of single photos may jump where a ReLU or a maximum changes sides."""
    images, full = drawings
    network, _ = load_network(VGG_NETWORK)
    set_dtype(network, dtype)
    assert {str(weight.dtype) for weight in network.weights} == {"float32"}
    half = explained(network, None, images, [PREDICTED])
    for name in PARTS:
        one, other = getattr(full, name), getattr(half, name)
        assert other.dtype == np.float32 and (other != one).any()
        pairs = zip(one.reshape(DRAWINGS, -1), other.reshape(DRAWINGS, -1), strict=True)
        # where the processor has no half precision, TensorFlow adds float16 up in float16
        least = 0.99 if dtype == "bfloat16" or fast_half_precision() else 0.98
        assert np.median([np.corrcoef(pair)[0, 1] for pair in pairs]) > least
