"""A run's folder: rows of killed runs, what is done again, what is left alone."""

import json
import os
import time

import numpy as np
import pytest
from PIL import Image

from camlib.console import UserError
from camlib.photos import Photo
from camlib.runs import MapRun

pytestmark = pytest.mark.any_backend


CLASSES = ["a", "b"]


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
