"""Photos that a network sees letterboxed or cropped: pixels as Keras makes them, maps where the evidence is."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from PIL import Image

from camlib import Classifier, GradCAM
from camlib.console import UserError
from camlib.networks.checkpoint import load_network, save_network
from camlib.photos import network_input
from camlib.photos.resizing import Cover, part_taken
from camlib.preprocessing import InputSpec
from camlib.runs.maps import find_saved
from make_cam_maps import main as make_cam_maps

SIDE = 32
EXTENTS = {  # by hand: what a square shows of (40, 100), (90, 40) and (64, 64)
    ("letterbox", "wide"): (-0.75, 0, 1.75, 1), ("crop", "wide"): (0, 0.3, 1, 0.7),
    ("letterbox", "tall"): (0, -0.625, 1, 1.625), ("crop", "tall"): (25 / 90, 0, 65 / 90, 1),
    ("letterbox", "square"): (0, 0, 1, 1), ("crop", "square"): (0, 0, 1, 1),
}  # fmt: skip
SPOTS = {"wide": ((40, 100), (20, 44)), "tall": ((90, 40), (50, 20)), "square": ((64, 64), (30, 36))}


def network_and_spec(fit):
    """A network whose map glows where a photo is bright, and its InputSpec."""
    image = keras.Input((SIDE, SIDE, 3))
    ones = keras.initializers.Ones()
    x = layers.Conv2D(1, 1, activation="relu", kernel_initializer=ones, name="last")(image)
    x = layers.Dense(2, kernel_initializer=keras.initializers.Constant([[1, -1]]))(layers.GlobalAveragePooling2D()(x))
    return keras.Model(image, x), InputSpec(["bright", "dark"], SIDE, SIDE, 3, fit=fit)


def photo_of(name):
    """A black photo with a white spot, and the spot's middle (row, column)."""
    shape, (y, x) = SPOTS[name]
    photo = np.zeros((*shape, 3), np.uint8)
    photo[y - 4 : y + 4, x - 4 : x + 4] = 255
    return photo, (y, x)


@pytest.mark.any_backend
@pytest.mark.parametrize("shape", [(40, 100), (90, 41), (64, 64), (7, 300), (33, 32)])
@pytest.mark.parametrize(("fit", "keras_name"), [("letterbox", "pad"), ("crop", "crop")])
def test_pixels_are_those_of_keras(fit, keras_name, shape):
    photo = np.random.default_rng(1).integers(0, 256, (*shape, 3)).astype(np.uint8)
    for size in ((32, 32), (24, 40)):
        resizing = layers.Resizing(*size, interpolation="bilinear", **{f"{keras_name}_to_aspect_ratio": True})
        expected = ops.convert_to_numpy(resizing(photo[None].astype(np.float32)))[0]
        found = network_input(photo, InputSpec(["a"], *size, 3, fit=fit, interpolation="bilinear"))
        assert np.abs(found - expected).max() < 0.51


@pytest.mark.any_backend
def test_a_share_of_the_crop_is_what_torchvision_leaves():
    """Resize(256) and CenterCrop(224) leave 224 / 256 of the shorter side, in the middle."""
    assert part_taken((256, 512), 224, 224, "crop:0.875") == (16, 144, 240, 368)
    assert part_taken((512, 256), 224, 224, "crop:0.875") == (144, 16, 368, 240)
    assert part_taken((300, 200), 30, 20, "crop:.5") == (75, 50, 225, 150)


@pytest.mark.any_backend
def test_covers_of_a_photo():
    """By hand: (100, 200) in a square, a map of the input's middle half."""
    half = (0.25, 0.25, 0.75, 0.75)
    assert Cover(half, (8, 8), "whole").of((100, 200)) == half
    assert Cover(None, (8, 8), "letterbox").of((100, 200)) == (-0.5, 0, 1.5, 1)
    assert Cover(half, (8, 8), "letterbox").of((100, 200)) == (0, 0.25, 1, 0.75)
    assert Cover(half, (8, 8), "letterbox").of((100, 200), gradients=True) == (-0.5, 0, 1.5, 1)
    assert Cover(None, (8, 8), "crop").of((100, 200)) == (0, 0.25, 1, 0.75)
    assert Cover(half, (8, 8), "crop").of((100, 200)) == (0.25, 0.375, 0.75, 0.625)
    assert Cover(None, (8, 16), "crop").of((100, 200)) is None


@pytest.mark.parametrize("name", ["wide", "tall", pytest.param("square", marks=pytest.mark.thorough)])
@pytest.mark.parametrize("fit", [pytest.param("whole", marks=pytest.mark.thorough), "letterbox", "crop", "crop:0.8"])
def test_the_map_of_a_spot_lies_at_the_spot(fit, name):
    network, input_spec = network_and_spec(fit)
    photo, spot = photo_of(name)
    found = GradCAM(Classifier(network, input_spec), classes=["bright"])([photo])
    top, left, bottom, right = found.extent[0]
    for values in (found.cams[0, 0], found.products[0, 0].sum(axis=-1)):
        rows, columns = (np.arange(side) + 0.5 for side in values.shape)
        middle = (
            top + (bottom - top) * (values.sum(axis=1) @ rows) / values.sum() / values.shape[0],
            left + (right - left) * (values.sum(axis=0) @ columns) / values.sum() / values.shape[1],
        )
        np.testing.assert_allclose(middle, spot, atol=1.5)


@pytest.mark.parametrize("fit", ["letterbox", "crop"])
def test_files_of_ours_keep_it_and_pictures_lie_where_the_spot_is(fit, tmp_path):
    network, input_spec = network_and_spec(fit)
    save_network(network, tmp_path / "network.h5", input_spec)
    assert load_network(tmp_path / "network.h5")[1].fit == fit
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in SPOTS:
        photo, _ = photo_of(name)
        Image.fromarray(photo).save(photos / f"{name}.png")
    output = tmp_path / "maps"
    assert make_cam_maps([str(photos), "--model", str(tmp_path / "network.h5"), "--output", str(output)]) in (0, None)
    for saved in find_saved(output):
        name = saved.name.removesuffix(".png")
        _, (y, x) = photo_of(name)
        shape = SPOTS[name][0]
        assert (saved.extent_of("heatmap", shape) or (0, 0, 1, 1)) == pytest.approx(EXTENTS[fit, name])  # for readers
        with Image.open(saved.folder / "heatmap_for_bright.jpg") as picture:
            shown = np.asarray(picture.convert("RGB")).astype(float)
        background = np.median(shown.reshape(-1, 3), axis=0)
        glow = np.abs(shown - background).sum(axis=2)
        glow[glow < glow.max() / 2] = 0
        rows, columns = (np.arange(side) + 0.5 for side in glow.shape)
        middle = (glow.sum(axis=1) @ rows / glow.sum(), glow.sum(axis=0) @ columns / glow.sum())
        scale = glow.shape[0] / shape[0]
        np.testing.assert_allclose(np.array(middle) / scale, (y, x), atol=2)


@pytest.mark.any_backend
@pytest.mark.parametrize("fit", ["croped", "crop:0", "crop:1.5", "crop:nan", "crop:-1", ""])
def test_what_is_no_fit_is_refused(fit, tmp_path, end_of):
    code, message = end_of(make_cam_maps, ["--fit", fit, "--output", str(tmp_path / "maps")])
    assert code == 2 and "--fit" in message and "whole, letterbox, crop" in message
    network, input_spec = network_and_spec("whole")
    if fit:
        with pytest.raises(UserError, match="--fit .*expected whole, letterbox, crop"):
            Classifier(network, input_spec, fit=fit)
