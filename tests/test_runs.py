"""A run's folder: rows of killed runs, what is done again, what is left alone."""

import csv
import json
import os
import time

import keras
import numpy as np
import pytest
from PIL import Image

import evaluate_maps
import gradcam_vgg16
import make_cam_maps
from camlib.console import UserError
from camlib.meaning import Meaning
from camlib.model_files import save_network
from camlib.photos import Photo
from camlib.runs import NOT_FINITE, MapRun

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


# ---------------------------------------------------------------- numbers that are not finite


@pytest.fixture
def standardising(tmp_path, photo_folder):
    """(a network's file, photos of which one is black): standardising divides zero by zero there."""
    image = x = keras.Input((16, 16, 3))
    x = keras.layers.LayerNormalization(axis=[1, 2, 3], epsilon=0, center=False, scale=False)(x)
    x = keras.layers.GlobalAveragePooling2D(name="gap")(keras.layers.Conv2D(4, 3, activation="relu")(x))
    network = keras.Model(image, keras.layers.Dense(2, activation="softmax", name="class")(x))
    save_network(network, tmp_path / "net.h5", Meaning(["dog", "cat"], 16, 16, 3))
    photos = photo_folder({"dog/a.png": (200, 100, 50), "dog/c.png": (50, 100, 200)})
    Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(photos / "dog" / "b.png")
    return tmp_path / "net.h5", photos


@pytest.mark.parametrize("script", ["make_cam_maps", "gradcam_vgg16", "evaluate_maps"])
def test_a_photo_whose_numbers_are_not_finite_is_listed_and_the_others_done(standardising, script, tmp_path, capsys):
    file, photos = standardising
    output = tmp_path / "out"
    main, arguments = {
        "make_cam_maps": (make_cam_maps.main, ["--model", str(file), "--batch-size", "4"]),
        "gradcam_vgg16": (gradcam_vgg16.main, ["--weights", str(file), "--batch-size", "4"]),
        "evaluate_maps": (
            evaluate_maps.main,
            ["--maps", f"{file}:cam", f"{file}:grad-cam", "--sample", "2", "--only", "network", "sanity"],
        ),
    }[script]
    assert main([str(photos), *arguments, "--output", str(output)]) == 1
    with open(output / "failed.csv", newline="") as listed:
        assert list(csv.reader(listed)) == [["path", "reason"], [str(photos / "dog" / "b.png"), NOT_FINITE]]
    assert "1 photo left out: the network's numbers for it are not finite" in capsys.readouterr().out
    if script == "evaluate_maps":
        records = [json.loads(line) for line in (output / "results.jsonl").read_text().splitlines()]
        assert sorted(record["photo"] for record in records if record["part"] == "maps") == ["dog/a.png", "dog/c.png"]
    else:
        rows = (output / "predictions.csv").read_text().splitlines()[1:]
        assert [row.split(",")[0] for row in rows] == ["dog/a.png", "dog/c.png"] and "nan" not in "".join(rows)
        assert (output / "dog" / "a").is_dir() and not (output / "dog" / "b" / "photo.jpg").exists()
