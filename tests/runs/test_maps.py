"""Saved maps: what is found in a folder, and in which order."""

import csv
import json
import os

import pytest
from conftest import CLASSES, make_run

from camlib.photos import find_photos
from camlib.runs.maps import find_maps, find_saved

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


def test_the_truth_is_the_folder_that_a_class_is_named_for(tmp_path):
    def truths(photos, names):
        settings = {"photos": [str(tmp_path / place) for place in photos], "class_names": CLASSES}
        return [photo.truth for photo in find_saved(make_run(tmp_path / "-".join(photos), names, settings=settings))]

    assert truths(["val"], ["dog/a.jpg", "cat/b.jpg", "both/c.jpg", "d.jpg"]) == ["dog", "cat", None, None]
    assert truths(["dog"], ["a.jpg"]) == ["dog"]  # the folder that was given
    assert truths(["e.jpg"], ["e.jpg"]) == [None]
    assert truths(["val", "other"], ["val/dog/a.jpg", "other/x.jpg"]) == ["dog", None]
    for name in ("dog/f.jpg", "cat/g.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert truths(["dog", "cat"], ["f.jpg", "g.jpg"]) == ["dog", "cat"]  # the second folder was added


def test_where_a_photo_lies(tmp_path):
    for name in ("one/a.jpg", "two/dog/b.jpg", "c.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for number, places in enumerate((["one", "two", "c.jpg"], ["two", "c.jpg"], ["one"])):
        places = [tmp_path / place for place in places]
        found = find_photos(places)
        settings = {"photos": [str(place) for place in places]}
        run = make_run(tmp_path / f"run{number}", [photo.name for photo in found], settings=settings)
        for photo, saved in zip(found, find_saved(run), strict=True):
            assert next(path for path in saved.sources if path.exists()) == photo.path


def test_a_damaged_run_json_is_no_error(run_folder):
    for text in ("[]", '{"settings": []}', '{"settings": {"photos": [3], "method": 7, "class_names": null}}', "{"):
        (run_folder / "run.json").write_text(text)
        saved = find_saved(run_folder)[0]
        assert (saved.title_of("gradcam"), saved.truth, saved.places) == ("Grad-CAM", None, [])
