"""What becomes of a pixel: found through nested networks, said with --preprocess and --interpolation, kept in files."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from PIL import Image

from camlib import CAM, Classifier, explain
from camlib.console import UserError
from camlib.networks.checkpoint import load_network, save_network
from camlib.photos import resize_photo
from camlib.preprocessing import InputSpec, parse_preprocessing

PHOTO = np.random.default_rng(0).integers(0, 256, (16, 20, 3)).astype(np.uint8)


def one_quick(names, quick):
    """Names as parameters, all but one of them thorough."""
    return [pytest.param(name, marks=() if name == quick else pytest.mark.thorough) for name in names]


def network_behind(*first, shape=(16, 20, 3)):
    """A small network behind other layers, each a layer or an operation."""
    image = x = keras.Input(shape)
    for layer in first:
        x = layer(x)
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3, activation="relu", name="conv")(x))
    return keras.Model(image, layers.Dense(3)(x))


def nested(*inner):
    """The layers as a functional network."""
    image = x = keras.Input((16, 20, 3))
    for layer in inner:
        x = layer(x)
    return keras.Model(image, x)


def augmentation():
    return [layers.RandomFlip(), layers.RandomRotation(0.1), layers.GaussianNoise(0.1)]


def normalization():
    return layers.Normalization(mean=[100.0, 110.0, 120.0], variance=[50.0**2] * 3)


BEGINNINGS = {
    "Sequential": lambda: [keras.Sequential(augmentation()), layers.Rescaling(1 / 255)],
    "functional": lambda: [nested(*augmentation()), layers.Rescaling(1 / 127.5, -1)],
    "Normalization": lambda: [keras.Sequential(augmentation()), normalization()],
    "two deep": lambda: [nested(keras.Sequential(augmentation()), layers.Resizing(16, 20)), layers.Rescaling(1 / 255)],
    "rescaled inside": lambda: [nested(keras.Sequential([*augmentation(), layers.Rescaling(1 / 255)]))],
    "both": lambda: [keras.Sequential([layers.RandomFlip(), layers.Rescaling(1.0)]), normalization()],
    "Pipeline": lambda: [layers.Pipeline(augmentation()), layers.Rescaling(1 / 255)],
}


@pytest.mark.parametrize("name", one_quick(BEGINNINGS, "two deep"))
def test_a_network_that_augments_says_what_becomes_of_a_pixel(name, tmp_path):
    network, given = network_behind(*BEGINNINGS[name]()), []
    network.save(tmp_path / "a.keras")
    for source in (network, tmp_path / "a.keras") if name != "Pipeline" else (network,):
        given.append(Classifier(source) if source is network else Classifier.load(source))
    expected = ops.convert_to_numpy(network(PHOTO[None].astype(np.float32), training=False))
    for classifier in given:
        assert classifier.origin.startswith("since its layer") and len(classifier.structure.rescaling) == 1 + (
            name == "both"
        )
        found = ops.convert_to_numpy(classifier.network(classifier.prepare(classifier.inputs([PHOTO])), training=False))
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("order", ["preprocess_input", "a stack of channels", "there and back"])
def test_channels_in_another_order_are_no_rows_and_columns(order):
    """resnet50's own preprocessing in front of a network, as its guides write it: CAM is what --preprocess gives."""
    change = {
        "preprocess_input": keras.applications.resnet50.preprocess_input,
        "a stack of channels": lambda x: ops.stack([x[..., index] for index in (2, 1, 0)], axis=3),
        "there and back": lambda x: ops.transpose(ops.transpose(x, (0, 3, 2, 1)), (0, 3, 2, 1)),
    }[order]
    network = network_behind(change)
    image = keras.Input((16, 20, 3))
    plain = keras.Model(image, network.layers[-1](network.layers[-2](network.get_layer("conv")(image))))
    behind, by_option = {
        "preprocess_input": ("1,0", "caffe"),
        "a stack of channels": ("1,0", "bgr,1,0"),
        "there and back": ("1,0", "1,0"),
    }[order]
    found, logits = CAM(Classifier(network, preprocess=behind))([PHOTO])
    expected, expected_logits = CAM(Classifier(plain, preprocess=by_option))([PHOTO])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(logits, expected_logits, rtol=1e-4, atol=1e-3)


def test_what_computes_before_rescaling_says_nothing():
    """A convolution, weights or an operation on pixels, in a nested network or not."""
    for first in (
        [nested(layers.Conv2D(3, 1)), layers.Rescaling(1 / 255)],
        [nested(layers.BatchNormalization()), layers.Rescaling(1 / 255)],
        [lambda x: x / 2.0, keras.Sequential(augmentation()), layers.Rescaling(1 / 255)],
    ):
        with pytest.raises(UserError, match="nothing says what"):
            Classifier(network_behind(*first))


# ---------------------------------------------------------------- blue, green, red


@pytest.mark.any_backend
def test_bgr_goes_with_every_scaling():
    assert parse_preprocessing("bgr,0.5,-1") == {"scale": 0.5, "offset": -1.0, "bgr": True}
    assert parse_preprocessing("bgr,tf") == {"scale": 1 / 127.5, "offset": -1.0, "bgr": True}
    assert parse_preprocessing("bgr,none") == {"scale": 1.0, "offset": 0.0, "bgr": True}
    known = parse_preprocessing("bgr,mean=103.53,116.28,123.675,std=57.375,57.12,58.395")
    seen = InputSpec(["a"], 1, 1, 3, **known).prepare(np.array([[[[200, 100, 50]]]], np.uint8))  # RGB
    np.testing.assert_allclose(
        seen[0, 0, 0], [(50 - 103.53) / 57.375, (100 - 116.28) / 57.12, (200 - 123.675) / 58.395], rtol=1e-5
    )
    for text in ("bgr,torch", "bgr,caffe", "bgr", "bgr,", "bgr,bgr,tf", "tf,bgr", "BGR,tf"):
        with pytest.raises(UserError, match=f"--preprocess {text} is unknown; expected none, tf, "):
            parse_preprocessing(text)


# ---------------------------------------------------------------- how photos are resized


def by_kernel(image, size, radius, kernel):
    """In float64, by one matrix for each axis: weights of every pixel of the photo for every pixel of the result."""
    matrices = []
    for side, wanted in zip(image.shape, size, strict=False):
        places = (np.arange(wanted) + 0.5) * side / wanted - 0.5
        distances = np.abs(places[:, None] - np.arange(side))
        weights = np.where(distances < radius, kernel(distances), 0.0)
        matrices.append(weights / weights.sum(axis=1, keepdims=True))
    return np.einsum("yh,xw,hwc->yxc", *matrices, image.astype(np.float64))


def keys(x):
    """Keys 1981, a = -1/2."""
    return np.where(x <= 1, 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2)


FILTERS = {
    "bilinear": (1, lambda x: 1 - x),
    "bicubic": (2, keys),
    "lanczos": (3, lambda x: np.sinc(x) * np.sinc(x / 3)),
}


@pytest.mark.any_backend
@pytest.mark.parametrize("size", [(7, 9), (33, 41), (16, 5)])
def test_photos_are_resized_as_the_network_was_trained(size):
    for name, filter_of in FILTERS.items():
        expected = np.clip(by_kernel(PHOTO, size, *filter_of), 0, 255)
        assert np.abs(resize_photo(PHOTO, *size, name) - expected).max() < 0.51, name
        assert np.array_equal(resize_photo(PHOTO[..., 0], *size, name), resize_photo(PHOTO, *size, name)[..., 0])
    for name in ("bilinear", "bicubic", "lanczos"):
        expected = Image.fromarray(PHOTO).resize(size[::-1], getattr(Image.Resampling, name.upper()))
        assert np.array_equal(resize_photo(PHOTO, *size, f"{name}-antialiased"), expected)


@pytest.mark.any_backend
@pytest.mark.parametrize("size", [(4, 8), (32, 64)])  # at which no pixel lies on a border
def test_the_nearest_pixel_is_that_at_the_centre(size):
    photo = PHOTO[:15, :19]
    rows, columns = (((np.arange(n) + 0.5) * side / n).astype(int) for n, side in zip(size, photo.shape, strict=False))
    assert np.array_equal(resize_photo(photo, *size, "nearest"), photo[rows][:, columns])


@pytest.mark.any_backend
def test_the_filter_is_what_was_asked_for_or_what_the_file_says(tmp_path):
    network, larger = network_behind(shape=(16, 20, 3)), np.kron(PHOTO, np.ones((3, 2, 1), np.uint8)) + PHOTO[0, 0]
    save_network(network, tmp_path / "a.h5", InputSpec(["a", "b", "c"], 16, 20, 3, interpolation="lanczos"))
    for options, name in (({}, "lanczos"), ({"interpolation": "nearest"}, "nearest")):
        classifier = Classifier.load(tmp_path / "a.h5", **options)
        assert np.array_equal(classifier.inputs([larger])[0], resize_photo(larger, 16, 20, name))
        assert f"16x20 RGB, resized {name}, pixel * " in classifier.description
    with pytest.raises(
        UserError, match="--interpolation bilinea; did you mean bilinear.* expected one of area, nearest"
    ):
        Classifier(network, preprocess="tf", interpolation="bilinea")


# ---------------------------------------------------------------- grey photos without an axis of channels


def sequential(*first):
    behind = [layers.Conv2D(4, 3, activation="relu", name="conv"), layers.GlobalAveragePooling2D(), layers.Dense(3)]
    return keras.Sequential([keras.Input((16, 20)), *first, *behind])


GREY = {
    "Reshape": lambda: sequential(layers.Reshape((16, 20, 1))),
    "functional": lambda: network_behind(layers.Reshape((16, 20, 1)), shape=(16, 20)),
    "rescaled before": lambda: sequential(layers.Rescaling(1 / 255), layers.Reshape((16, 20, 1))),
    "expand_dims": lambda: network_behind(lambda x: ops.expand_dims(x, -1), shape=(16, 20)),
}


@pytest.mark.parametrize("name", one_quick(GREY, "rescaled before"))
def test_an_input_without_channels_that_becomes_grey_photos_is_one(name, tmp_path):
    network, photo = GREY[name](), np.zeros((16, 20), np.uint8)
    photo[3:6, 12:15] = 255
    network.save(tmp_path / "a.keras")
    preprocess = None if name == "rescaled before" else "0.00392156862745098,0"
    pixels = photo[None].astype(np.float32) / (1 if name == "rescaled before" else 255)
    expected = ops.convert_to_numpy(network(pixels, training=False))
    for source in (network, tmp_path / "a.keras"):
        found = explain(
            source, [photo], classes=[0], method="hires-cam", preprocess=preprocess, guided=name == "Reshape"
        )
        np.testing.assert_allclose(found.logits, expected, atol=1e-5)
        assert found.cams.shape == (1, 1, 14, 18)
        assert name != "Reshape" or found.guided.shape == (1, 1, 16, 20, 1)
    maps, _ = CAM(Classifier.load(tmp_path / "a.keras", preprocess=preprocess))([photo])
    np.testing.assert_allclose(maps[:, 0] / (14 * 18), found.cams[0], atol=1e-6)  # HiResCAM is CAM over the area


@pytest.mark.any_backend
def test_sequences_are_still_refused(tmp_path):
    image = keras.Input((16, 20))
    for number, x in enumerate(
        (image, layers.Reshape((4, 80, 1))(image), layers.Reshape((16, 20, 1))(layers.Dense(20)(image)))
    ):
        scores = layers.Dense(3)(layers.Flatten()(x))
        keras.Model(image, scores).save(tmp_path / f"{number}.keras")
        with pytest.raises(
            UserError, match="takes .*16, 20.*; expected one input of photos|nothing to map|nothing says"
        ):
            Classifier(load_network(tmp_path / f"{number}.keras")[0], preprocess=None)


def test_a_reshape_that_adds_the_channel_alone_moves_nothing_about():
    """Spectrograms whose map has one column, of which no test of the axes could tell that they are the photo's."""
    network = keras.Sequential([keras.Input((16, 20)), layers.Reshape((16, 20, 1))])
    network.add(layers.Conv2D(4, (3, 20), activation="relu", name="column"))
    network.add(layers.GlobalAveragePooling2D())
    network.add(layers.Dense(2))
    classifier = Classifier(network, preprocess="none")
    assert classifier.layer_to_map() == "column" and classifier.structure.sizes["column"] == (14, 1, 4)
