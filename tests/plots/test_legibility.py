"""The measure of how well superpositions show where the evidence is, against scikit-image and by hand."""

import csv

import numpy as np
import pytest
from conftest import make_run
from skimage.color import rgb2lab

from benchmarks.legibility import colour_difference, kept_lightness, lightness_of_animal, main, off_the_legend

pytestmark = pytest.mark.any_backend


def test_difference_is_cie76_of_the_two_regions():
    picture = np.random.default_rng(0).integers(0, 256, (6, 8, 3)).astype(np.uint8)
    values = np.full((6, 8), 0.2)
    values[:3], values[4:] = 1.0, 0.05
    values[0, 0] = 0.5  # half of the maximum belongs to the region
    coloured = rgb2lab(picture)
    expected = np.linalg.norm(coloured[:3].mean(axis=(0, 1)) - coloured[4:].mean(axis=(0, 1)))
    assert expected > 1
    np.testing.assert_allclose(colour_difference(picture, values), expected, rtol=5e-3)  # OpenCV rounds the matrix
    assert colour_difference(picture, np.zeros((6, 8))) is None and colour_difference(picture, np.ones((6, 8))) is None


def test_kept_lightness_is_one_for_the_photo_and_minus_one_for_its_negative():
    photo = np.repeat(np.arange(0, 240, 5, np.uint8)[None, :, None], 3, axis=2)
    assert kept_lightness(photo, photo) == pytest.approx(1)
    assert kept_lightness(255 - photo, photo) < -0.95
    assert kept_lightness(photo, np.zeros_like(photo)) is None


def test_off_the_legend_is_cie76_of_the_means_where_the_map_is_middling():
    picture, legend = np.random.default_rng(0).integers(0, 256, (2, 4, 8, 3)).astype(np.uint8)
    values = np.repeat([1.0, 0.75, 0.25, 0.2], 8).reshape(4, 8)
    means = [rgb2lab(one)[1:3].mean(axis=(0, 1)) for one in (picture, legend)]
    np.testing.assert_allclose(off_the_legend(picture, legend, values), np.linalg.norm(np.subtract(*means)), rtol=5e-3)
    assert off_the_legend(legend, legend, values) == 0
    assert off_the_legend(picture, legend, np.zeros((4, 8))) is None


def test_an_animal_is_as_light_as_the_photos_central_half():
    photo = np.full((8, 12, 3), 250, np.uint8)
    photo[2:6, 3:9] = 7
    assert lightness_of_animal(photo) == 7 and lightness_of_animal(255 - photo) == 248


def test_the_table_of_a_run(tmp_path, capsys):
    run = make_run(tmp_path / "run", ["a/x.png", "a/y.png"])
    values = np.zeros((6, 8), np.float32)
    values[2:4, 3:6] = 2.0
    with open(run / "predictions.csv", newline="") as file:
        predicted = {row["path"]: row["predicted"] for row in csv.DictReader(file)}
    for name, class_name in predicted.items():
        np.save(run / name.removesuffix(".png") / f"heatmap_for_{class_name}.npy", values)
    assert main([str(run)]) == 0
    printed = capsys.readouterr().out
    titles = [line.split(",")[0] for line in printed.splitlines() if "of 255" in line]
    assert titles == ["all: 2 photos", "dark: 1 photo", "white: 1 photo"]
    lines = [line.split() for line in printed.splitlines() if "half opaque" in line]
    assert len(lines) == 6 and all(float(line[-5]) > 20 for line in lines)
