"""What is handed over in Python: photos of every form, classes, methods; what is none is refused with its kind."""

import tracemalloc

import keras
import numpy as np
import pytest
from keras import layers
from PIL import Image

from camlib.attribution.methods import targets_of
from camlib.console import UserError
from camlib.photos import as_photos

PHOTO = np.random.default_rng(0).integers(0, 256, (9, 12, 3)).astype(np.uint8)
GREY = PHOTO[..., 0]


def linear_network(classes=3, channels=3):
    """Its logits are means over the photo of pixels / 255, weighed: those of the oracle below."""
    image = keras.Input((9, 12, channels))
    x = layers.Conv2D(3, 1, activation="relu", name="conv")(image)
    network = keras.Model(image, layers.Dense(classes, name="scores")(layers.GlobalAveragePooling2D()(x)))
    generator = np.random.default_rng(1)
    network.get_layer("conv").set_weights([generator.random((1, 1, channels, 3)), np.zeros(3)])
    network.get_layer("scores").set_weights([generator.normal(size=(3, classes)), np.zeros(classes)])
    return network


def logits_of(network, photo):
    """In float64: relu does nothing to what is positive, and the mean passes through."""
    (kernel, _), (dense, _) = (network.get_layer(name).get_weights() for name in ("conv", "scores"))
    return (photo / 255).mean(axis=(0, 1)) @ kernel[0, 0].astype(np.float64) @ dense


@pytest.fixture(scope="module")
def network():
    return linear_network()


def explained(network, photos, preprocess="0.00392156862745098,0", **settings):
    from camlib import explain

    return explain(network, photos, preprocess=preprocess, guided=False, **settings)


FORMS = {
    "floats of 0..1": lambda: PHOTO / np.float32(255),
    "float64 of 0..1": lambda: PHOTO / 255,
    "floats of 0..255": lambda: PHOTO.astype(np.float32),
    "float16 of 0..255": lambda: PHOTO.astype(np.float16),
    "whole numbers": lambda: PHOTO.astype(np.int64),
    "16 bits": lambda: PHOTO.astype(np.uint16) * 257,
    "channels first": lambda: np.moveaxis(PHOTO, 2, 0),
    "channels first, floats": lambda: np.moveaxis(PHOTO / 255, 2, 0),
    "opaque": lambda: np.dstack([PHOTO, np.full((9, 12), 255, np.uint8)]),
    "nested lists": lambda: PHOTO.tolist(),
    "tensor": lambda: keras.ops.convert_to_tensor(PHOTO),
    "picture": lambda: Image.fromarray(PHOTO),
    "picture, opaque": lambda: Image.fromarray(PHOTO).convert("RGBA"),
}


@pytest.mark.parametrize("form", FORMS)
def test_photos_of_every_form_are_the_same_photo(form):
    assert as_photos([FORMS[form](), PHOTO])[0].tolist() == PHOTO.tolist()


def test_photos_of_several_forms_have_the_networks_own_logits(network):
    found = explained(network, [PHOTO / 255, np.moveaxis(PHOTO, 2, 0), Image.fromarray(PHOTO)])
    np.testing.assert_allclose(found.logits, [logits_of(network, PHOTO)] * 3, atol=1e-4)


@pytest.mark.any_backend
def test_paths_and_arrays_of_several_photos(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(PHOTO).save(path)
    turned = Image.fromarray(PHOTO)
    turned.getexif()[0x0112] = 3  # upside down
    for given in ([path, str(path)], np.stack([PHOTO, PHOTO]), (PHOTO, PHOTO), np.stack([PHOTO, PHOTO]) / 255):
        assert [photo.tolist() for photo in as_photos(given)] == [PHOTO.tolist()] * 2
    assert as_photos([turned])[0].tolist() == PHOTO[::-1, ::-1].tolist()
    for grey in (GREY, GREY[..., None], GREY[None], GREY / 255):
        assert as_photos([grey], channels=1)[0].tolist() == np.dstack([GREY] * 3).tolist()
    dark = PHOTO // 100  # beside a bright one, floats of one kind
    assert as_photos([dark])[0].tolist() == dark.tolist()
    assert as_photos([np.zeros((9, 12, 3)), PHOTO * 1.0])[1].tolist() == PHOTO.tolist()


NO_PHOTOS = {
    "transparent": ([np.dstack([PHOTO, GREY])], r"photos\[0\]: an array of shape \(9, 12, 4\), of which the fourth"),
    "grey": ([GREY], r"photos\[0\]: an array of shape \(9, 12\), grey; expected \(H, W, 3\), RGB"),
    "one photo": (PHOTO, r"photos are an array of shape \(9, 12, 3\); expected a list"),
    "one path": ("a.jpg", "photos are one str; expected a list"),
    "no path": (["a.jpg"], r"photos\[0\]: a.jpg: no such file"),
    "none": ([], "photos is empty"),
    "truth values": ([PHOTO > 9], r"photos\[0\]: a ndarray of bool"),
    "complex": ([PHOTO * 1j], "of complex128"),
    "text": ([None], r"photos\[0\]: a NoneType of object"),
    "-1..1": ([PHOTO, PHOTO / 127.5 - 1], "photos hold numbers of -1..1; expected photos of 0..255 or of 0..1"),
    "caffe": ([PHOTO - np.array([103.939, 116.779, 123.68])], "photos hold numbers of -1"),
    "sharpened": ([PHOTO / 200], "photos hold numbers of 0.*..1.275; expected"),
    "not finite": ([np.where(PHOTO > 9, PHOTO, np.nan)], "photos hold a number that is not finite"),
    "too large": ([PHOTO * 100.0], "photos hold numbers of 0"),
    "negative": ([PHOTO.astype(int) - 9], r"photos\[0\]: whole numbers of -9..246"),
    "two kinds": ([PHOTO / 255, PHOTO * 1.0], "photos of 0..1 beside others of up to 255"),
    "a batch inside": ([PHOTO[None]], r"photos\[0\]: an array of shape \(1, 9, 12, 3\)"),
    "five bands": ([np.zeros((9, 12, 5))], r"an array of shape \(9, 12, 5\); expected"),
    "empty": ([np.zeros((0, 12, 3))], r"an array of shape \(0, 12, 3\); expected"),
    "a dictionary": ({"a": PHOTO}, "photos are one dict"),
}


@pytest.mark.any_backend
@pytest.mark.parametrize("name", NO_PHOTOS)
def test_what_is_no_photo_is_refused_with_what_was_found(name):
    given, why = NO_PHOTOS[name]
    with pytest.raises(UserError, match=why):
        as_photos(given)


@pytest.mark.any_backend
def test_floats_of_0_to_1_are_refused_where_a_pixel_stays_as_it_is(network):
    """Nobody knows then whether the network was trained on 0..1 or on 0..255."""
    with pytest.raises(UserError, match="photos hold numbers of 0..1, and nothing becomes of a pixel; expected prepr"):
        explained(network, [PHOTO / 255], preprocess="none")
    np.testing.assert_allclose(
        explained(network, [PHOTO], preprocess="none").logits[0], 255 * logits_of(network, PHOTO), rtol=1e-4
    )


# ---------------------------------------------------------------- classes and methods

DIGITS = ["2", "0", "1"]  # whose names are others' indices


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("classes", "chosen"),
    [
        (2, [2]),
        ("2", [0]),
        ([0, "0"], [0, 1]),
        (np.array([2, 0]), [2, 0]),
        (np.int64(1), [1]),
        ([np.int64(1)], [1]),
        (("1", 1), [2, 1]),
        (keras.ops.array([2]), [2]),
        (0, [0]),
    ],
)
def test_a_whole_number_is_an_index_and_text_is_a_name(network, classes, chosen):
    found = explained(network, [PHOTO, PHOTO], classes=classes, class_names=np.array(DIGITS))
    assert found.chosen.tolist() == [[index] * 2 for index in chosen]


def test_each_photo_has_a_class_of_its_own(network):
    photos = [PHOTO, PHOTO[::-1], PHOTO[:, ::-1] // 2]
    every = explained(network, photos, classes="all", method="hires-cam").cams
    for labels in (np.array([[2, 0, 1], [0, 0, 0]]), [["1", "2", 1], ["2", 0, "2"]]):
        found = explained(network, photos, classes=labels, class_names=DIGITS, method="hires-cam")
        assert found.chosen.tolist() == [[2, 0, 1], [0, 0, 0]]
        for row, photo in np.ndindex(2, 3):
            np.testing.assert_allclose(found.cams[row, photo], every[found.chosen[row, photo], photo], atol=1e-6)


@pytest.mark.any_backend
def test_what_is_no_class_or_method_is_refused(network):
    for classes, why in (
        (3, "--classes 3 is not a class"),
        (-1, "--classes -1 is not a class"),
        (1.0, "classes has 1.0, a float"),
        (np.eye(3)[:2], "classes has 1.0, a float"),
        ([True], "classes has True, a bool"),
        ([None], "classes has None, a NoneType"),
        ([], "classes is empty"),
        ({"ant": 1}, "a dict"),
        ([[0, 1]], "classes has rows of 2 labels for 1 photos"),
        ([["top2"]], "classes has rows of 1 labels for 1 photos"),
    ):
        with pytest.raises(UserError, match=why):
            explained(network, [PHOTO], classes=classes)
    with pytest.raises(UserError, match="method 'gradcam' is unknown; did you mean grad-cam.* expected grad-cam, "):
        explained(network, [PHOTO], method="gradcam")


# ---------------------------------------------------------------- many classes


def test_20_000_classes_take_no_square_of_memory():
    """One byte for each pair of classes would be 400 MB."""
    network = linear_network(20_000)
    tracemalloc.start()
    try:
        found = explained(network, [PHOTO], classes=[19_999, "predicted"], method="hires-cam")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    expected = logits_of(network, PHOTO)
    np.testing.assert_allclose(found.logits[0], expected, atol=1e-4)
    assert found.chosen[:, 0].tolist() == [19_999, expected.argmax()] and peak < 100e6


def test_a_group_stands_for_its_classes_and_no_other():
    targets = keras.ops.convert_to_numpy(targets_of(keras.ops.array([1, 4, 5], "int32"), 4, [[0, 2], [3]]))
    assert targets.tolist() == [[0, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 1]]
    assert targets_of(np.array([4]), 4, [[0, 2]]).tolist() == [[1, 0, 1, 0]]
