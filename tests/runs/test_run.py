"""A run's folder: rows of killed runs, what is done again, what is left alone."""

import csv
import io
import json
import os
import threading
import time
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from made_up_maps import WRITER, MadeUpMaps, make_maps
from PIL import Image

import evaluate_maps
import gradcam_vgg16
import make_cam_maps
import show_heatmaps
from camlib.attribution import Outputs
from camlib.console import UserError
from camlib.networks.checkpoint import save_network
from camlib.photos import Photo, find_photos, read_photo
from camlib.preprocessing import InputSpec
from camlib.runs.claim import NOT_FINITE
from camlib.runs.folder_run import FolderRun
from camlib.runs.maps import find_saved
from camlib.runs.run import Finished
from camlib.runs.writers import FolderWriter
from camlib.viewer.album import read_content

pytestmark = pytest.mark.any_backend


CLASSES = ["a", "b"]
NO_PROBABILITIES = Outputs(CLASSES, with_probabilities=False)


def photo_file(tmp_path, name):
    path = tmp_path / name
    Image.new("RGB", (4, 4)).save(path)
    return Photo(path, name, path.stem)


def finish(run, photo):
    (run.output / photo.folder).mkdir(exist_ok=True)
    (run.output / photo.folder / "photo.jpg").write_bytes(b"x")
    run.add(Finished([photo], np.array([[0.5, 0.5]]), np.array([[0.5, 0.5]]), [], {}))


def test_rows_of_a_killed_run_are_kept_and_half_a_row_is_not(tmp_path):
    photos = [photo_file(tmp_path, "one.png"), photo_file(tmp_path, "two, \n and more.png")]
    run = FolderRun(tmp_path / "out", {"size": 3}, "", Outputs(CLASSES), writer=WRITER)
    assert run.begin(photos) == photos
    finish(run, photos[1])
    with open(tmp_path / "out" / "predictions.csv", "a", newline="") as file:
        file.write("one.png,a,0.")
    run.close()
    again = FolderRun(tmp_path / "out", {"size": 3}, "", Outputs(CLASSES), writer=WRITER)
    assert again.begin(photos) == photos[:1]
    assert (tmp_path / "out" / "predictions.csv").read_bytes().endswith(b'"two, \n and more.png",a,0.5,0.5,0.5,0.5\r\n')


def test_changed_photo_and_lost_maps_are_done_again(tmp_path):
    photos = [photo_file(tmp_path, name) for name in ("same.png", "newer.png", "lost.png")]
    run = FolderRun(tmp_path / "out", {}, "", Outputs(CLASSES), writer=WRITER)
    run.begin(photos)
    for photo in photos:
        finish(run, photo)
    os.utime(photos[1].path, (time.time() + 9,) * 2)
    (tmp_path / "out" / "lost" / "photo.jpg").unlink()
    run.close()
    assert FolderRun(tmp_path / "out", {}, "", Outputs(CLASSES), writer=WRITER).begin(photos) == photos[1:]


def test_other_settings_are_named(tmp_path):
    FolderRun(tmp_path / "out", {"size": 3, "model": "a"}, "", Outputs(CLASSES), writer=WRITER).close()
    with pytest.raises(UserError, match=r"out holds results of other settings \(model, size\); expected another"):
        FolderRun(tmp_path / "out", {"size": 4, "model": "b"}, "", Outputs(CLASSES), writer=WRITER)
    assert json.loads((tmp_path / "out" / "run.json").read_text())["settings"] == {
        "size": 3,
        "model": "a",
        "class_names": CLASSES,
    }


def test_foreign_folder_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="holds files of another kind"):
        FolderRun(tmp_path, {}, "", Outputs(CLASSES), overwrite=True, writer=WRITER)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_overwriting_removes_an_earlier_runs_maps_and_nothing_else(tmp_path):
    photo = photo_file(tmp_path, "one.png")
    run = FolderRun(tmp_path / "out", {"size": 3}, "", Outputs(CLASSES), writer=WRITER)
    run.begin([photo])
    finish(run, photo)
    for name in ("heatmap_for_a.npy", "spp_for_a.jpg"):
        (tmp_path / "out" / "one" / name).write_bytes(b"x")
    (tmp_path / "out" / "mine").mkdir()
    (tmp_path / "out" / "mine" / "notes.txt").write_text("mine")
    (tmp_path / "out" / "mine" / "my_photo.jpg").write_text("mine")
    run.close()
    run = FolderRun(tmp_path / "out", {"size": 4}, "", Outputs(CLASSES), overwrite=True, writer=WRITER)
    left = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*"))
    assert left == [".lock", ".writer.json", "mine", "mine/my_photo.jpg", "mine/notes.txt", "run.json"]
    assert run.begin([photo]) == [photo]


NAMES = [
    "a\rb.png", "a\x0cb.png", "a\x1cb.png", "a\x85b.png", "a\u2028b.png", "two\nlines.png", '"quoted".png', "a,b.png",
    "predictions.csv.png", "run.json.png", "failed.csv.png", "photo.jpg.png", "heatmap_for_a.npy.png",
    "=1+1.png", "+1.png", "-1.png", "@x.png", "'=1.png", "''@x.png", "'plain.png",
]  # fmt: skip


def test_whatever_photos_are_called_each_is_done_once(tmp_path):
    photos_of(tmp_path, 0)
    for name in NAMES:
        photo_file(tmp_path / "photos", name)
    photos = find_photos([tmp_path / "photos"])
    assert sorted(photo.name for photo in photos) == sorted(NAMES)
    run = FolderRun(tmp_path / "out", {}, "", NO_PROBABILITIES, writer=WRITER)
    assert make(run, photos, 4) == 0
    again = FolderRun(tmp_path / "out", {}, "", NO_PROBABILITIES, writer=WRITER)
    before = (tmp_path / "out" / "predictions.csv").read_bytes()
    assert sorted(again.rows) == sorted(NAMES) and again.begin(photos) == []
    assert (tmp_path / "out" / "predictions.csv").read_bytes() == before
    saved = find_saved(tmp_path / "out")
    assert [photo.name for photo in saved] == [photo.name for photo in photos]
    assert all(is_whole(photo.folder) for photo in saved)
    cells = [row[0] for row in csv.reader(io.StringIO((tmp_path / "out" / "predictions.csv").read_text(), newline=""))]
    assert not [cell for cell in cells if cell[0] in "=+-@"]  # what a spreadsheet would run


def test_a_photo_whose_folder_cannot_be_had_is_one_row_of_failed(tmp_path):
    """Its folder would be predictions.csv, or its name is longer than a name of a folder may be."""
    places = ["predictions.csv/a.png", "b.png", f"{'c' * 120}/{'d' * 120}.png"]
    for place in places:
        (tmp_path / "photos" / place).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / "photos" / place)
    photos = find_photos([tmp_path / "photos"])
    photos = [replace(one, folder=one.folder + "e" * 200 * (one.name[0] == "c")) for one in photos]
    run = FolderRun(tmp_path / "out", {}, "", NO_PROBABILITIES, writer=WRITER)
    assert make(run, photos) == 1
    assert rows_of(run) == ["b.png"]
    with open(tmp_path / "out" / "failed.csv", newline="") as file:
        failed = {row["path"]: row["reason"] for row in csv.DictReader(file)}
    assert set(failed) == {str(tmp_path / "photos" / place) for place in (places[0], places[2])}
    assert all("its maps cannot be written" in reason for reason in failed.values())


def test_photos_that_were_replaced_or_are_gone_are_not_done(tmp_path):
    """An older file counts as another; one dated in the future, which stays as it is, does not."""
    photos = photos_of(tmp_path, 4)
    os.utime(photos[2].path, (time.time() + 10_000,) * 2)
    run = FolderRun(tmp_path / "out", {}, "", NO_PROBABILITIES, writer=WRITER)
    assert make(run, photos) == 0
    os.utime(photos[0].path, (time.time() - 10_000,) * 2)
    photos[3].path.unlink()
    photos[3].path.symlink_to(tmp_path / "nowhere")
    again = FolderRun(tmp_path / "out", {}, "", NO_PROBABILITIES, writer=WRITER)
    assert make(again, photos) == 1
    with open(tmp_path / "out" / "failed.csv", newline="") as file:
        assert [row["reason"] for row in csv.DictReader(file)] == ["no such file"]
    assert rows_of(run) == ["1.png", "2.png", "0.png"]


def test_two_runs_in_one_folder(tmp_path):
    """The second is told who is there; the first's rows and files stay as they are, and after it the folder is free."""
    photos = photos_of(tmp_path, 3)
    run, told = FolderRun(tmp_path / "out", {}, "", NO_PROBABILITIES, writer=WRITER), []

    def before(photo):
        with pytest.raises(UserError, match="out is being written by .*, process .* on .* since .*; expected another"):
            FolderRun(tmp_path / "out", {}, "", NO_PROBABILITIES, overwrite=True, writer=WRITER)
        told.append(photo.name)

    assert make(run, photos, before=before) == 0 and len(told) == 3
    assert rows_of(run) == [photo.name for photo in photos] and all(is_whole(run.output / one.folder) for one in photos)
    again = FolderRun(tmp_path / "out", {}, "", NO_PROBABILITIES, writer=WRITER)
    assert make(again, photos) == 0 and rows_of(run) == [photo.name for photo in photos]


# ---------------------------------------------------------------- files written by several threads

INPUT_SPEC = InputSpec(CLASSES, 16, 16, 3)
FULL_DISK = Path("/dev/full")  # whatever is written there fails as on a full disk


def photos_of(tmp_path, count):
    (tmp_path / "photos").mkdir(exist_ok=True)
    return [photo_file(tmp_path / "photos", f"{number}.png") for number in range(count)]


class Watched(FolderWriter):
    """A writer that tells a function of each photo before it is written."""

    def write(self, photo, *arguments):
        self.drawing.made(photo)
        return super().write(photo, *arguments)


def make(run, photos, batch_size=2, explained=lambda: None, before=lambda photo: None):
    """Make a run with maps of zeros; `explained` is called for each batch, `before` for each photo as it is written."""

    def explain(images, count):
        explained()
        of_photo = {"heatmap": {name: np.zeros((3, 4), np.float32) for name in CLASSES}}
        return np.zeros((batch_size, 2)), None, [of_photo] * batch_size

    writer = run.writer
    run.writer = Watched(writer.output, replace(writer.drawing, made=before), columns=writer.columns)
    return make_maps(run, photos, MadeUpMaps(INPUT_SPEC, explain), batch_size)


def rows_of(run):
    return [row[0] for row in csv.reader((run.output / "predictions.csv").read_text().splitlines())][1:]


def is_whole(folder):
    kinds = ("heatmap_for_{}.npy", "heatmap_for_{}.jpg", "spp_for_{}.jpg")
    return {path.name for path in folder.iterdir()} == {
        "photo.jpg",
        *(kind.format(name) for kind in kinds for name in CLASSES),
    }


def test_rows_come_after_files_in_order_and_two_batches_at_most_wait(tmp_path):
    photos, written, rows_seen, behind = photos_of(tmp_path, 12), [], [], []
    run = FolderRun(tmp_path / "out", {}, "", NO_PROBABILITIES, writer=WRITER)

    def before(photo):
        time.sleep(0.03 * (photo.name[0] in "048"))  # the first of a batch takes longest
        rows_seen.append((photo.name, rows_of(run)))
        written.append(photo.name)

    def explained():
        behind.append(4 * len(behind) - len(written))  # photos explained before that are not written yet

    assert make(run, photos, 4, explained, before) == 0
    assert rows_of(run) == [photo.name for photo in photos]
    assert not [name for name, rows in rows_seen if name in rows]
    assert len(behind) == 3 and max(behind) <= 4
    assert all(is_whole(run.output / photo.folder) for photo in photos)


def test_photos_that_failed_are_listed_in_the_order_of_photos(tmp_path):
    """Whatever the reason, and whichever was seen first: in a batch the unreadable is, before any is explained."""
    photos = photos_of(tmp_path, 5)
    for number in (0, 3):
        photos[number].path.write_text("no photo")

    def explain(images, count):
        logits = np.zeros((len(images), 2))
        logits[0] = np.nan  # 1.png and 4.png
        return logits, None, [{"heatmap": {"a": np.zeros((3, 4), np.float32)}}] * len(images)

    run = FolderRun(tmp_path / "out", {}, "", NO_PROBABILITIES, writer=WRITER)
    assert make_maps(run, photos, MadeUpMaps(INPUT_SPEC, explain), 3) == 1
    with open(tmp_path / "out" / "failed.csv", newline="") as file:
        listed = [Path(row["path"]).name for row in csv.DictReader(file)]
    assert listed == ["0.png", "1.png", "3.png", "4.png"] and rows_of(run) == ["2.png"]


@pytest.mark.skipif(not FULL_DISK.exists(), reason="Linux has a disk that is always full")
def test_a_full_disk_ends_the_run_and_the_same_command_goes_on(tmp_path):
    photos, threads = photos_of(tmp_path, 12), threading.active_count()
    run = FolderRun(tmp_path / "out", {}, "", NO_PROBABILITIES, writer=WRITER)
    (run.output / "5").mkdir()
    (run.output / "5" / ".heatmap_for_b.npy.partial").symlink_to(FULL_DISK)
    with pytest.raises(OSError, match="No space left on device"):
        make(run, photos)
    assert threading.active_count() == threads
    rows = rows_of(run)
    assert rows == [photo.name for photo in photos[: len(rows)]] and len(rows) <= 4
    assert all(is_whole(run.output / row.removesuffix(".png")) for row in rows)
    assert not list(run.output.rglob(".*")) and not (run.output / "11").exists()
    again = FolderRun(tmp_path / "out", {}, "", NO_PROBABILITIES, writer=WRITER)
    assert make(again, photos) == 0 and rows_of(again) == [photo.name for photo in photos]
    assert all(is_whole(run.output / photo.folder) for photo in photos)


def test_ctrl_c_waits_for_the_files_begun_and_no_others(tmp_path):
    photos, begun = photos_of(tmp_path, 200), []

    def before(photo):
        begun.append(photo.name)
        time.sleep(0.05)

    def explained():
        if begun:
            raise KeyboardInterrupt

    run = FolderRun(tmp_path / "out", {}, "", NO_PROBABILITIES, writer=WRITER)
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        make(run, photos, 100, explained, before)
    assert time.monotonic() - start < 2  # 100 photos would take 5 s of one thread
    assert len(begun) < 50 and all(is_whole(run.output / Path(name).stem) for name in begun)
    assert not list(run.output.rglob(".*"))


# ---------------------------------------------------------------- arrays alone


@pytest.mark.parametrize("script", ["make_cam_maps", "gradcam_vgg16"])
def test_arrays_alone_are_those_that_come_with_pictures(standardising, script, tmp_path, capsys):
    file, photos = standardising
    main, option = {
        "make_cam_maps": (make_cam_maps.main, "--model"),
        "gradcam_vgg16": (gradcam_vgg16.main, "--weights"),
    }[script]

    def run(name, *more):
        return main([str(photos), option, str(file), "--output", str(tmp_path / name), *more])

    assert run("both") == 1 and run("arrays", "--no-pictures") == 1  # one photo's numbers are not finite
    with_pictures, alone = (
        {
            path.relative_to(tmp_path / name).as_posix(): path.read_bytes()
            for path in (tmp_path / name).rglob("*.*")
            if path.name not in ("run.json", "failed.csv")
        }
        for name in ("both", "arrays")
    )
    assert alone == {name: data for name, data in with_pictures.items() if not name.endswith(".jpg")}
    assert {"dog/a", "dog/c"} == {name.rpartition("/")[0] for name in alone if name.endswith(".npy")}
    capsys.readouterr()
    assert run("arrays", "--no-pictures") == 1
    assert "2 of 3 photos are done already" in capsys.readouterr().out
    os.utime(photos / "dog" / "a.png", (time.time() + 9,) * 2)
    for path in (tmp_path / "arrays" / "dog" / "c").iterdir():
        path.unlink()
    run("arrays", "--no-pictures")
    assert "are done already" not in capsys.readouterr().out  # a photo that has changed, one whose maps are lost
    with pytest.raises(UserError, match=r"results of other settings \(no_pictures\)"):
        run("arrays")
    with pytest.raises(UserError, match="--no-pictures with --full-size, which is about pictures; expected one of"):
        run("other", "--no-pictures", "--full-size")
    assert not (tmp_path / "other").exists()


def test_of_arrays_alone_the_viewer_shows_the_photo_itself(standardising, tmp_path):
    file, photos = standardising
    Image.open(photos / "dog" / "c.png").save(photos / "dog" / "c.bmp")
    output = tmp_path / "out"
    make_cam_maps.main([str(photos), "--model", str(file), "--output", str(output), "--no-pictures"])
    saved = find_saved(output)
    assert [photo.folder for photo in saved] == [output / "dog" / name for name in ("a", "c.bmp", "c.png")]
    np.testing.assert_array_equal(read_content(saved[0]).photo, read_photo(photos / "dog" / "a.png"))
    assert show_heatmaps.main([str(output), "--html", str(tmp_path / "page.html")]) == 0
    assert (tmp_path / "page.html").stat().st_size > 1000
    (photos / "dog" / "a.png").unlink()
    assert str(read_content(saved[0]).photo) == "no such file" and read_content(saved[0]).maps["heatmap"]


# ---------------------------------------------------------------- numbers that are not finite


@pytest.fixture
def standardising(tmp_path, photo_folder):
    """(a network's file, photos of which one is black): standardising divides zero by zero there."""
    image = x = keras.Input((16, 16, 3))
    x = keras.layers.LayerNormalization(axis=[1, 2, 3], epsilon=0, center=False, scale=False)(x)
    x = keras.layers.GlobalAveragePooling2D(name="gap")(keras.layers.Conv2D(4, 3, activation="relu")(x))
    network = keras.Model(image, keras.layers.Dense(2, activation="softmax", name="class")(x))
    save_network(network, tmp_path / "net.h5", InputSpec(["dog", "cat"], 16, 16, 3))
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
