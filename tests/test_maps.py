"""Saved maps: what is found in a folder, and in which order."""

import csv
import json
import os

import pytest
from conftest import CLASSES, make_run

from camlib.maps import find_maps, find_saved

pytestmark = pytest.mark.any_backend


def test_photos_come_in_the_order_of_predictions(run_folder):
    saved = find_saved(run_folder)
    assert [photo.name for photo in saved] == ["b/x.jpg", "a/y.jpg", "a/z z.png"]
    assert [photo.predicted for photo in saved] == ["dog", "cat", "dog"]
    assert saved[0].probabilities == pytest.approx({"dog": 0.75, "cat": 0.25})
    assert list(find_maps(saved[0])["heatmap"]) == CLASSES
    assert [photo.name for photo in find_saved(run_folder / "a")] == ["a/y.jpg", "a/z z.png"]
    assert [photo.name for photo in find_saved(run_folder / "a" / "y")] == ["a/y.jpg"]


def test_maps_without_a_run_are_found(run_folder):
    os.unlink(run_folder / "predictions.csv")
    assert [photo.name for photo in find_saved(run_folder)] == ["a/y", "a/z z", "b/x"]


def test_photos_that_differ_in_suffix_have_their_own_maps(tmp_path):
    run = make_run(tmp_path / "cam", ["a.jpg.jpg", "a.png.png", "c.jpg"])  # folders a.jpg, a.png, c
    rows = list(csv.reader((run / "predictions.csv").read_text().splitlines()))
    with open(run / "predictions.csv", "w", newline="") as file:
        csv.writer(file).writerows(
            [[row[0].replace(".jpg.jpg", ".jpg").replace(".png.png", ".png"), *row[1:]] for row in rows]
        )
    assert [photo.folder.name for photo in find_saved(run)] == ["a.jpg", "a.png", "c"]


def test_unfinished_last_row_is_left_out(run_folder):
    with open(run_folder / "predictions.csv", "a") as file:
        file.write("a/new.jpg,dog,1.0")
    assert len(find_saved(run_folder)) == 3


def test_run_json_is_not_needed(run_folder):
    (run_folder / "run.json").write_text(json.dumps({}))
    assert len(find_saved(run_folder)) == 3
