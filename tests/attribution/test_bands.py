"""Photos of more than three bands: all go to the network in their own numbers, three are shown."""

import keras
import numpy as np
import pytest
from conftest import read_csv
from keras import layers, ops

from camlib import Classifier, explain
from camlib.console import UserError
from camlib.networks.checkpoint import load_network, save_network
from camlib.photos.decoding import PhotoError, read_bands, shown_bands
from camlib.photos.resizing import resize_photo
from camlib.preprocessing import InputSpec
from evaluate_maps import main as evaluate_maps
from gradcam_vgg16 import main as gradcam
from make_cam_maps import main as make_cam_maps

tifffile = pytest.importorskip("tifffile")
SIZE = 24, 30
PHOTO = np.random.default_rng(0).integers(0, 10_000, (*SIZE, 5)).astype(np.uint16)
PHOTO[6:12, 18:24, 4] = 40_000  # what band 5 alone shows


def network_of(channels=5):
    """A network whose class "bright" is what the last band shows."""
    image = keras.Input((*SIZE, channels))
    kernel = np.zeros((1, 1, channels, 2), np.float32)
    kernel[..., -1, 0] = 1
    x = layers.Conv2D(2, 1, activation="relu", name="last", kernel_initializer=keras.initializers.Constant(kernel))(
        image
    )
    scores = layers.Dense(2, kernel_initializer=keras.initializers.Constant([[1.0, -1.0], [0.0, 0.0]]))
    return keras.Model(image, scores(layers.GlobalAveragePooling2D()(x)))


@pytest.mark.any_backend
@pytest.mark.parametrize("layout", ["contig", "separate"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_a_tiff_of_five_bands_is_read_as_it_is(layout, dtype, tmp_path):
    values = (PHOTO // 200).astype(dtype)
    path = tmp_path / "a.tif"
    given = values if layout == "contig" else np.moveaxis(values, 2, 0)
    tifffile.imwrite(path, given, photometric="minisblack", planarconfig=layout)
    assert np.array_equal(read_bands(path, 5, 10**6), values.astype(np.float32))


@pytest.mark.any_backend
def test_other_files_are_refused_with_what_they_hold(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", PHOTO, photometric="minisblack", planarconfig="contig")
    (tmp_path / "damaged.tif").write_bytes((tmp_path / "a.tif").read_bytes()[:200])
    (tmp_path / "text.tif").write_text("no picture")
    tifffile.imwrite(
        tmp_path / "nan.tif", np.full((4, 4, 5), np.nan, np.float32), photometric="minisblack", planarconfig="contig"
    )
    for name, count, pixels, why in (
        ("a.tif", 4, 10**6, "5 bands; expected a TIFF of the network's 4"),
        ("a.tif", 5, 1000, "720 pixels of 5 bands; expected --most-pixels 1200"),
        ("damaged.tif", 5, 10**6, "no TIFF picture of one page"),
        ("text.tif", 5, 10**6, "no TIFF picture of one page"),
        ("nan.tif", 5, 10**6, "not finite"),
    ):
        with pytest.raises(PhotoError, match=why):
            read_bands(tmp_path / name, count, pixels)


@pytest.mark.any_backend
def test_each_band_is_resized_and_shown_by_itself():
    values = PHOTO.astype(np.float32)
    for name in ("area", "nearest", "bilinear", "bicubic-antialiased"):
        found = resize_photo(values, 12, 15, name)
        assert found.shape == (12, 15, 5) and found.dtype == np.float32
        assert np.array_equal(found[..., 2], resize_photo(np.ascontiguousarray(values[..., 2]), 12, 15, name))
    np.testing.assert_allclose(
        resize_photo(values, 12, 15), values.reshape(12, 2, 15, 2, 5).mean(axis=(1, 3)), rtol=1e-5
    )
    low, high = np.percentile(values[..., 3], (2, 98))
    expected = np.rint(255 * np.clip((values[..., 3] - low) / (high - low), 0, 1))
    assert np.array_equal(shown_bands(values, (4, 1, 5))[..., 0], expected)


@pytest.mark.parametrize("form", ["array", "channels first", "path"])
def test_the_network_gets_the_numbers_of_the_file(form, tmp_path):
    network = network_of()
    tifffile.imwrite(tmp_path / "a.tif", PHOTO, photometric="minisblack", planarconfig="contig")
    given = {"array": PHOTO, "channels first": np.moveaxis(PHOTO, 2, 0), "path": str(tmp_path / "a.tif")}[form]
    found = explain(network, [given], classes=[0], preprocess="mean=1000,std=2000")
    scaled = (PHOTO[None].astype(np.float64) - 1000) / 2000
    np.testing.assert_allclose(found.logits, ops.convert_to_numpy(network(scaled.astype(np.float32))), rtol=1e-4)
    np.testing.assert_allclose(found.cams[0, 0], np.maximum(scaled[0, ..., 4], 0) / np.prod(SIZE), rtol=1e-3)
    assert found.guided.shape == (1, 1, *SIZE, 5) and not found.guided[..., :4].any() and found.guided[..., 4].any()


def test_the_scripts_map_them_and_show_three_bands(tmp_path, end_of, run_here):
    save_network(
        network_of(), tmp_path / "net.h5", InputSpec(["bright", "dark"], *SIZE, 5, scale=1e-4, bands=[5, 2, 1])
    )
    assert load_network(tmp_path / "net.h5")[1].bands == [5, 2, 1]
    photos = tmp_path / "photos"
    photos.mkdir()
    tifffile.imwrite(photos / "a.tif", PHOTO, photometric="minisblack", planarconfig="contig")
    tifffile.imwrite(photos / "b.tif", PHOTO[..., :3].astype(np.uint8), photometric="rgb")
    words = [photos, "--model", tmp_path / "net.h5"]
    assert make_cam_maps([str(word) for word in [*words, "--output", tmp_path / "cam"]]) == 1
    values = np.load(tmp_path / "cam" / "a" / "heatmap_for_bright.npy")
    y, x = np.unravel_index(values.argmax(), values.shape)
    assert 6 <= y < 12 and 18 <= x < 24
    assert read_csv(tmp_path / "cam" / "failed.csv")[0]["reason"] == "3 bands; expected a TIFF of the network's 5"
    code, said = end_of(make_cam_maps, [*words, "--bands", "6", "2", "1", "--output", tmp_path / "o"])
    assert code == 2 and "--bands 6 2 1: the network takes 5 channel(s)" in said
    words[1] = "--weights"
    code, said = end_of(gradcam, [*words, "--output", tmp_path / "o"])
    assert code == 2 and "more than three bands are no picture; expected --no-guided" in said
    assert gradcam([str(word) for word in [*words, "--no-guided", "--output", tmp_path / "grad"]]) == 1
    assert (tmp_path / "grad" / "a" / "gradcam_for_bright.npy").exists()
    code, said = end_of(evaluate_maps, [photos, "--maps", f"{tmp_path / 'net.h5'}:cam", "--output", tmp_path / "e"])
    assert code == 2


@pytest.mark.any_backend
def test_bands_that_are_none_are_refused():
    with pytest.raises(UserError, match=r"photos\[0\]: an array of shape \(24, 30, 4\)"):
        explain(network_of(), [PHOTO[..., :4]], preprocess="1,0")
    with pytest.raises(UserError, match="--bands 1 2 3: the network takes 3 channel"):
        Classifier(network_of(3), preprocess="1,0", bands=[1, 2, 3])
    for given, bands in (({}, [1, 2, 3]), ({"bands": [4, 2, 1]}, [4, 2, 1])):
        assert Classifier(network_of(4), preprocess="1,0", **given).input_spec.bands == bands
    with pytest.raises(UserError, match="of a pixel.* is for RGB; the network takes 5"):
        Classifier(network_of(), preprocess="torch")
