"""Colours, overlays, panels and the record of a run, against values worked out by hand."""

import base64
import io
import json
import os
import time

import numpy as np
import pytest
from PIL import Image

from camlib.console import UserError
from camlib.meaning import probabilities_of
from camlib.photos import Photo
from camlib.pictures import (
    Scale,
    capped_scale_of,
    colours,
    encode_overlay,
    picture_of,
    resize_map,
    scale_of,
    scaled,
    superposition,
    write_panel,
)
from camlib.runs import MapRun

pytestmark = pytest.mark.any_backend

CLASSES = ["a", "b"]


def test_resize_has_half_pixel_centres():
    enlarged = resize_map(np.array([[0.0, 4.0]]), 1, 4)
    np.testing.assert_allclose(enlarged, [[0, 1, 3, 4]])  # corner-aligned geometry would give 0, 4/3, 8/3, 4


def test_map_of_zeros_stays_zero():
    zeros = np.zeros((2, 2), np.float32)
    np.testing.assert_array_equal(scaled(zeros, scale_of(True, [zeros]).limit), zeros)
    assert len(np.unique(colours(zeros, signed=True).reshape(-1, 3), axis=0)) == 1


def test_scale_is_the_largest_magnitude_of_all_maps():
    positive, negative = np.array([[2.0, 3.0]]), np.array([[1.0, -7.0]])
    assert scale_of(False, [positive]) == (3.0, False)
    assert scale_of(True, [positive]) == (3.0, True)  # a kind with two signs
    assert scale_of(False, [positive, negative]) == (7.0, True)  # a method with two signs
    assert Scale(7.0, True).lowest == -7.0 and Scale(7.0, False).lowest == 0.0


def test_a_few_large_gradients_hide_nothing_in_the_page():
    """In the scale of the largest the rest would be drawn at an opacity of 2 of 255."""
    values = np.full((40, 40), 0.5, np.float32)
    values[:2, :4] = 60.0
    assert capped_scale_of(True, values) == (0.5, True)
    uri = encode_overlay(values, capped_scale_of(True, values), values.shape)
    overlay = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).convert("RGBA"))
    assert (overlay[..., 3] == 255).all()  # drawn like the scale's end, never wrapped around
    sparse = np.zeros((40, 40), np.float32)
    sparse[3, 3] = 2.0
    assert capped_scale_of(False, sparse) == (2.0, False)


def test_probabilities_of_each_ending():
    logits = np.array([[1.0, 3.0]], np.float32)
    np.testing.assert_allclose(probabilities_of(logits), [[1 / (1 + np.e**2), 1 / (1 + np.e**-2)]], rtol=1e-6)
    expected = 1 / (1 + np.exp(-np.array([[1.0, 3.0]])))
    np.testing.assert_allclose(probabilities_of(logits, "sigmoid"), expected, rtol=1e-6)
    np.testing.assert_allclose(probabilities_of(logits[:, :1], "linear"), expected[:, :1], rtol=1e-6)


def test_superposition_keeps_the_photo_where_the_map_is_zero():
    photo = np.full((1, 3, 3), (10, 200, 90), np.uint8)
    laid = superposition(photo, np.array([[-1.0, 0.0, 1.0]]), signed=True, opacity=0.5).astype(int)
    np.testing.assert_array_equal(laid[0, 1], photo[0, 1])
    assert laid[0, 0, 2] > photo[0, 0, 2] and laid[0, 2, 0] > photo[0, 2, 0]  # blue below zero, red above
    end = colours(np.array([[0.8]]), signed=True)[0, 0]
    np.testing.assert_allclose(laid[0, 2], np.rint(0.5 * photo[0, 2] + 0.5 * end), atol=1)


def test_gradients_are_shown_around_mid_grey():
    values = np.zeros((2, 2, 3))
    values[0, 0], values[1, 1] = (2, 0, 0), (0, -2, 0)
    picture = picture_of(values, Scale(2.0, True), 2, 2)
    np.testing.assert_array_equal(picture[0, 0], [255, 128, 128])
    np.testing.assert_array_equal(picture[1, 1], [128, 0, 128])


def test_panel_keeps_red_red_and_the_photos_shape(tmp_path):
    photo = np.full((50, 100, 3), (250, 5, 5), np.uint8)
    cam, gradients = np.zeros((4, 4)), np.ones((8, 8, 3))
    write_panel(
        tmp_path / "p.jpg", photo, [("map", cam, Scale(0.0, False)), ("gradients", gradients, Scale(1.0, True))]
    )
    panel = np.asarray(Image.open(tmp_path / "p.jpg")).astype(int)
    red = (panel[..., 0] > 200) & (panel[..., 1] < 60) & (panel[..., 2] < 60)
    rows, columns = np.nonzero(red)
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    assert abs(width - 256) < 4 and abs(height - 128) < 4


def photo_file(tmp_path, name):
    path = tmp_path / name
    Image.new("RGB", (4, 4)).save(path)
    return Photo(path, name, path.stem)


def finish(run, photo):
    (run.output / photo.folder).mkdir(exist_ok=True)
    (run.output / photo.folder / "photo.jpg").write_bytes(b"x")
    run.add_rows([photo], np.array([[0.5, 0.5]]), np.array([[0.5, 0.5]]))


def test_rows_of_a_killed_run_are_kept_and_half_a_row_is_not(tmp_path):
    photos = [photo_file(tmp_path, "one.png"), photo_file(tmp_path, "two, \n and more.png")]
    run = MapRun(tmp_path / "out", {"size": 3}, "", CLASSES)
    assert run.begin(photos) == photos
    finish(run, photos[1])
    with open(tmp_path / "out" / "predictions.csv", "a", newline="") as file:
        file.write("one.png,a,0.")
    again = MapRun(tmp_path / "out", {"size": 3}, "", CLASSES)
    assert again.begin(photos) == photos[:1]
    assert (tmp_path / "out" / "predictions.csv").read_bytes().endswith(b'"two, \n and more.png",a,0.5,0.5,0.5,0.5\r\n')


def test_changed_photo_and_lost_maps_are_done_again(tmp_path):
    photos = [photo_file(tmp_path, name) for name in ("same.png", "newer.png", "lost.png")]
    run = MapRun(tmp_path / "out", {}, "", CLASSES)
    run.begin(photos)
    for photo in photos:
        finish(run, photo)
    os.utime(photos[1].path, (time.time() + 9,) * 2)
    (tmp_path / "out" / "lost" / "photo.jpg").unlink()
    assert MapRun(tmp_path / "out", {}, "", CLASSES).begin(photos) == photos[1:]


def test_other_settings_are_named(tmp_path):
    MapRun(tmp_path / "out", {"size": 3, "model": "a"}, "", CLASSES)
    with pytest.raises(UserError, match=r"out holds results of other settings \(model, size\); expected another"):
        MapRun(tmp_path / "out", {"size": 4, "model": "b"}, "", CLASSES)
    assert json.loads((tmp_path / "out" / "run.json").read_text())["settings"] == {
        "size": 3,
        "model": "a",
        "class_names": CLASSES,
    }


def test_foreign_folder_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="holds files of another kind"):
        MapRun(tmp_path, {}, "", CLASSES, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_overwriting_removes_an_earlier_runs_maps_and_nothing_else(tmp_path):
    photo = photo_file(tmp_path, "one.png")
    run = MapRun(tmp_path / "out", {"size": 3}, "", CLASSES)
    run.begin([photo])
    finish(run, photo)
    for name in ("heatmap_for_a.npy", "spp_for_a.jpg"):
        (tmp_path / "out" / "one" / name).write_bytes(b"x")
    (tmp_path / "out" / "mine").mkdir()
    (tmp_path / "out" / "mine" / "notes.txt").write_text("mine")
    (tmp_path / "out" / "mine" / "my_photo.jpg").write_text("mine")
    run = MapRun(tmp_path / "out", {"size": 4}, "", CLASSES, overwrite=True)
    left = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*"))
    assert left == ["mine", "mine/my_photo.jpg", "mine/notes.txt", "run.json"]
    assert run.begin([photo]) == [photo]
