"""What every run promises, of files or a store, alone or as a shard: what is done again, what is left alone, kills."""

import contextlib
import csv
import io
import json
import os
import shutil
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import ended_within, full_after, read_csv
from made_up_maps import (
    CLASSES,
    FORMS,
    arrays_of,
    assert_same,
    assert_whole,
    do,
    made_up,
    make,
    noise_photos,
    open_run,
)
from PIL import Image

import evaluate_maps
import gradcam_vgg16
import make_cam_maps
import show_heatmaps
from camlib.console import UserError
from camlib.files import open_csv
from camlib.networks.checkpoint import save_network
from camlib.photos import find_photos, read_photo
from camlib.preprocessing import InputSpec
from camlib.runs.claim import NOT_FINITE
from camlib.runs.maps import find_saved
from camlib.runs.writers import FolderWriter
from camlib.viewer.album import read_content

pytestmark = pytest.mark.any_backend
ALONE = ["files", "store"]
every_form = pytest.mark.parametrize("form", FORMS)


@pytest.fixture
def photos(tmp_path):
    """Six photos, two batches."""
    return noise_photos(tmp_path / "photos", 6)


def names_in(run):
    """The photos in a run's list, in its order."""
    return [row["path"] for row in read_csv(run.list)]


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ---------------------------------------------------------------- what is done again


@every_form
def test_rows_of_a_killed_run_are_kept_and_half_a_row_is_not(form, photos, tmp_path):
    run = open_run(tmp_path / "out", form, photos)
    do(run, photos)
    run.list.write_bytes(run.list.read_bytes()[:-9])
    again = open_run(tmp_path / "out", form, photos)
    again.resume(photos)
    assert again.pending == photos[-1:] and names_in(again) == [photo.name for photo in photos[:-1]]
    do(again, photos)
    assert assert_whole(tmp_path / "out", photos) == 6 and names_in(again) == [photo.name for photo in photos]


@every_form
def test_photos_that_were_changed_replaced_or_are_gone_are_done_again(form, photos, tmp_path, capsys):
    """An older file counts as another; one dated in the future, which stays as it is, does not."""
    os.utime(photos[5].path, (time.time() + 10_000,) * 2)
    make(photos, tmp_path / "out", form)
    for photo, seconds in ((photos[0], 10), (photos[1], -10_000)):
        os.utime(photo.path, (photo.path.stat().st_mtime + seconds,) * 2)
    photos[2].path.unlink()
    photos[2].path.symlink_to(tmp_path / "nowhere")
    if "store" not in form:
        shutil.rmtree(tmp_path / "out" / "003")  # maps that are lost
    run = open_run(tmp_path / "out", form, photos)
    capsys.readouterr()
    assert do(run, photos) == 1
    done = 3 if "store" in form else 2
    assert run.pending == photos[: 6 - done] and f"{done} of 6 photos are done already" in capsys.readouterr().out
    assert [row["reason"] for row in read_csv(run.failed_list)] == ["no such file"]
    assert sorted(names_in(run)) == [photo.name for photo in photos if photo != photos[2]]


@every_form
def test_other_settings_are_named_and_replaced_when_asked_to(form, photos, tmp_path):
    place = tmp_path / "out"
    make(photos, place, form, settings={"size": 3, "model": "a"})
    before = contents(place)
    held = "shards of another run .other" if "shard" in form else "results of other settings ."
    with pytest.raises(UserError, match=rf"out holds {held} model, size\); expected".replace(". ", ".")):
        open_run(place, form, photos, settings={"size": 4, "model": "b"})
    assert contents(place) == before
    assert json.loads((place / "run.json").read_text())["settings"] == {"size": 3, "model": "a", "class_names": CLASSES}
    (place / "mine").mkdir()
    (place / "mine" / "my_photo.jpg").write_text("mine")
    with open_run(place, "store" if form == "files" else "files", settings={"size": 4}, overwrite=True):
        left = sorted(path.relative_to(place).as_posix() for path in place.rglob("*"))
    assert left == [".lock", ".writer.json", "mine", "mine/my_photo.jpg", "run.json"]


def test_the_list_stays_in_the_order_in_which_photos_were_done(photos, tmp_path):
    """So that a run that was killed, and went on, ends with the bytes of one that goes on once more."""
    out = tmp_path / "out"
    make(photos, out, "files")
    shutil.rmtree(out / "002")
    make(photos, out, "files")
    names = [row["path"] for row in read_csv(out / "predictions.csv")]
    assert names == ["000.png", "001.png", "003.png", "004.png", "005.png", "002.png"]
    before = (out / "predictions.csv").read_bytes()
    make(photos, out, "files")
    assert (out / "predictions.csv").read_bytes() == before


@pytest.mark.parametrize("form", ALONE)
def test_other_photos_go_on_in_the_same_folder(form, photos, tmp_path, capsys):
    """Their rows come behind the earlier ones, 000.jpg takes no folder of 000.png's, and what failed stays listed."""
    first, later, out = tmp_path / "photos", tmp_path / "later", tmp_path / "out"
    (first / "broken.png").write_bytes(b"no picture")
    later.mkdir()
    Image.fromarray(np.random.default_rng(9).integers(0, 256, (20, 24, 3), np.uint8)).save(later / "000.jpg")
    shutil.copy(first / "001.png", later / "another.png")
    assert make(find_photos([first]), out, form, settings={"size": 16, "photos": [str(first)]}) == 1
    before = contents(out)
    assert make(find_photos([later]), out, form, settings={"size": 16, "photos": [str(later)]}) == 0
    everything = [*photos, *find_photos([later])]
    assert assert_whole(out, everything) == 8
    assert [row["path"] for row in read_csv(out / "predictions.csv")] == [photo.name for photo in everything]
    assert [Path(row["path"]).name for row in read_csv(out / "failed.csv")] == ["broken.png"]
    assert json.loads((out / "run.json").read_text())["settings"]["photos"] == [str(first), str(later)]
    after = contents(out)
    assert {name: after[name] for name in before if name not in ("run.json", "predictions.csv")} == {
        name: held for name, held in before.items() if name not in ("run.json", "predictions.csv")
    }
    capsys.readouterr()
    make(find_photos([first]), out, form, settings={"size": 16, "photos": [str(first)]})
    assert "6 of 7 photos are done already" in capsys.readouterr().out and assert_whole(out, everything) == 8


@pytest.mark.parametrize("form", ALONE)
def test_another_photo_of_the_same_name_is_refused(form, photos, tmp_path):
    out, other = tmp_path / "out", noise_photos(tmp_path / "other", 1)
    make(photos, out, form, settings={"size": 16, "photos": [str(tmp_path / "photos")]})
    before = contents(out)
    for _ in range(2):
        with pytest.raises(UserError, match="out holds maps of another photo called 000.png than .*other.*; expected"):
            make(other, out, form, settings={"size": 16, "photos": [str(tmp_path / "other")]})
    after = contents(out)
    assert after.pop("run.json") and before.pop("run.json") and after == before
    # the very photo by another way is done already
    make(photos[:1], out, form, settings={"size": 16, "photos": [str(photos[0].path)]})
    assert assert_whole(out, photos) == 6
    # a folder that was added gets a photo of a name that is taken
    (tmp_path / "other" / "000.png").rename(tmp_path / "other" / "new.png")
    settings = {"size": 16, "photos": [str(tmp_path / "other")]}
    make(find_photos([tmp_path / "other"]), out, form, settings=settings)
    with pytest.raises(UserError, match="out holds maps of another photo called 003.png than .*other"):
        make(noise_photos(tmp_path / "other", 4)[3:], out, form, settings=settings)


@pytest.mark.parametrize("form", ["shard of files", "shard of a store"])
def test_other_photos_are_not_added_to_what_shards_made(form, photos, tmp_path):
    make(photos, tmp_path / "out", form, settings={"size": 16, "photos": ["a"]})
    for later, held in ((form, "shards of another run"), (form.split()[-1], "results of other settings")):
        with pytest.raises(UserError, match=f"out holds {held}.*photos"):
            open_run(tmp_path / "out", later, photos, settings={"size": 16, "photos": ["b"]})


@every_form
def test_foreign_files_are_left_alone(form, photos, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="holds files of another kind"):
        open_run(tmp_path / "out", form, photos, overwrite=True)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.txt"]


@every_form
def test_a_damaged_list_is_one_line(form, photos, tmp_path):
    run = open_run(tmp_path / "out", form, photos)
    do(run, photos)
    run.list.write_text(run.list.read_text() + "x" * 200_000 + ",\n")
    for again in (form, form.split()[-1]):  # of a shard also a run alone
        with pytest.raises(UserError, match=f"{run.list.name} is damaged .no table: field larger than field limit"):
            open_run(tmp_path / "out", again, photos)


DAMAGED_LISTS = {"blank lines": "\n\n\n", "a long cell": "path,reason\n" + "x" * 200_000 + ",y\n",
                 "a long name": "path,reason\n" + "x" * 5000 + ",y\n", "one column": "path\n/etc/passwd\n"}  # fmt: skip


@pytest.mark.parametrize("name", [*DAMAGED_LISTS, "a pipe"])
def test_a_damaged_list_of_failed_photos_loses_no_maps(photos, tmp_path, name):
    """It is written anew when the maps are there."""
    make(photos[:2], tmp_path / "out")
    failed = tmp_path / "out" / "failed.csv"
    os.mkfifo(failed) if name == "a pipe" else failed.write_text(DAMAGED_LISTS[name])
    assert make(photos, tmp_path / "out") == 0
    assert assert_whole(tmp_path / "out", photos) == len(photos) and not failed.exists()


def test_a_row_without_a_name_is_left_out(photos, tmp_path):
    make(photos, tmp_path / "out")
    with open_csv(tmp_path / "out" / "predictions.csv", "a") as file:
        file.write("".join(f"{name},dog,1,2,0.5,0.5\n" for name in ("", "/", ".")))
    assert make(photos, tmp_path / "out") == 0
    assert len(read_csv(tmp_path / "out" / "predictions.csv")) == len(photos)


@pytest.mark.parametrize("places", [5, [7]])
def test_what_is_no_list_of_places_is_said_in_one_line(photos, tmp_path, monkeypatch, places):
    monkeypatch.setattr("camlib.runs.shards.SECONDS_TO_WRITE", 0.1)
    make(photos, tmp_path / "out", settings={"photos": ["photos"]})
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    record["settings"]["photos"] = places
    (tmp_path / "out" / "run.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="run.json is damaged; expected what a script wrote"):
        make(photos, tmp_path / "out", settings={"photos": ["photos"]})


def test_photos_given_one_by_one_are_gone_on_with_in_time_with_their_number(tmp_path):
    """Thousands, as by my_photos/*.jpg, are compared with what is done in seconds, not in millions of looks."""
    (tmp_path / "photos").mkdir()
    places = [tmp_path / "photos" / f"{number}.jpg" for number in range(5000)]
    for place in places:
        place.touch()
    found = find_photos(places)
    settings = {"photos": list(map(str, places))}
    with open_run(tmp_path / "out", "arrays", found, settings) as run, open_csv(run.list, "w") as file:
        file.write(",".join(run.columns) + "\n" + "".join(f"{photo.name},dog,1,2,0.5,0.5\n" for photo in found))
    with ended_within(60), open_run(tmp_path / "out", "arrays", found, settings) as run:
        run.resume(found)
        assert len(run.pending) == 5000  # without maps


# ---------------------------------------------------------------- whatever photos are called

NAMES = [
    "a\rb.png", "a\x0cb.png", "a\x1cb.png", "a\x85b.png", "a\u2028b.png", "two\nlines.png", '"quoted".png', "a,b.png",
    "predictions.csv.png", "run.json.png", "failed.csv.png", "photo.jpg.png", "heatmap_for_a.npy.png",
    "=1+1.png", "+1.png", "-1.png", "@x.png", "'=1.png", "''@x.png", "'plain.png",
]  # fmt: skip


@pytest.mark.parametrize("form", ALONE)
def test_whatever_photos_are_called_each_is_done_once(form, tmp_path):
    (tmp_path / "photos").mkdir()
    for number, name in enumerate(NAMES):
        Image.new("RGB", (4, 4), (number, 9, 9)).save(tmp_path / "photos" / name)
    photos, output = find_photos([tmp_path / "photos"]), tmp_path / "out"
    assert sorted(photo.name for photo in photos) == sorted(NAMES)
    assert make(photos, output, form) == 0
    before = (output / "predictions.csv").read_bytes()
    again = open_run(output, form)
    again.resume(photos)
    assert again.pending == [] and (output / "predictions.csv").read_bytes() == before
    assert [photo.name for photo in find_saved(output)] == [photo.name for photo in photos]
    assert assert_whole(output, photos) == len(NAMES)
    cells = [row[0] for row in csv.reader(io.StringIO(before.decode(), newline=""))]
    assert not [cell for cell in cells if cell[0] in "=+-@"]  # what a spreadsheet would run


def test_a_photo_whose_folder_cannot_be_had_is_one_row_of_failed(tmp_path):
    """Its folder would be predictions.csv, or its name is longer than a name of a folder may be."""
    places = ["predictions.csv/a.png", "b.png", f"{'c' * 120}/{'d' * 120}.png"]
    for place in places:
        (tmp_path / "photos" / place).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / "photos" / place)
    photos = find_photos([tmp_path / "photos"])
    photos = [replace(one, folder=one.folder + "e" * 200 * (one.name[0] == "c")) for one in photos]
    run = open_run(tmp_path / "out")
    assert do(run, photos) == 1
    assert names_in(run) == ["b.png"]
    failed = {row["path"]: row["reason"] for row in read_csv(run.failed_list)}
    assert set(failed) == {str(tmp_path / "photos" / place) for place in (places[0], places[2])}
    assert all("its maps cannot be written" in reason for reason in failed.values())


# ---------------------------------------------------------------- one at a time, stopped, killed, without room


@pytest.mark.parametrize(
    ("first", "second"),
    [*((form, form) for form in FORMS), ("shard of files", "files"), ("files", "shard of files")],
)
def test_a_second_process_is_told_who_writes_and_readers_are_not_in_the_way(first, second, tmp_path, monkeypatch):
    photos, output, told = noise_photos(tmp_path / "photos", 9), tmp_path / "out", []
    monkeypatch.setattr("camlib.runs.writers.PART_PHOTOS", 3)

    def explain(images, count):
        with pytest.raises(UserError, match="out.* is being written by .*, process .* on .* since .*; expected anoth"):
            open_run(output, second, photos, overwrite=True)
        told.append(len(told) == 2 and assert_whole(output, photos))
        return made_up(images, count)

    assert do(open_run(output, first, photos), photos, explain) == 0
    assert told == [False, False, 3] and assert_whole(output, photos) == 9


@every_form
def test_a_stopped_run_keeps_the_maps_that_it_has(form, tmp_path):
    """Ctrl-C at the fourth batch, long before a part of a store is full."""
    photos, calls = noise_photos(tmp_path / "photos", 12), []

    def explain(images, count):
        calls.append(count)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return made_up(images, count)

    with pytest.raises(KeyboardInterrupt):
        do(open_run(tmp_path / "out", form, photos), photos, explain)
    assert assert_whole(tmp_path / "out", photos) == 6 and not list((tmp_path / "out").rglob(".*"))


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def die_after(function, times):
    """A function that does what `function` does, so often, and then ends the process."""
    left = [times]

    def instead(*arguments, **more):
        left[0] -= 1
        return function(*arguments, **more) if left[0] >= 0 else die()

    return instead


MOMENTS = {
    "before a file has its name": ("camlib.files.os.replace", lambda: die_after(os.replace, 3)),
    "before the rows of a batch": ("camlib.runs.folder_run.open_csv", lambda: die_after(open_csv, 1)),
    "while the list is begun": ("camlib.runs.folder_run.write_csv", lambda: die),
    "when old parts are removed": ("camlib.runs.writers.os.listdir", lambda: die),
}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.parametrize(
    ("form", "moment"),
    [(form, moment) for form in FORMS for moment in MOMENTS if "parts" not in moment or "store" in form],
)
def test_a_killed_run_goes_on_and_ends_as_an_undisturbed_one(form, moment, tmp_path, monkeypatch):
    """Whatever has a row is there in between. Files are the same byte for byte, of a store the maps."""
    photos, output = noise_photos(tmp_path / "photos", 12), tmp_path / "out"
    monkeypatch.setattr("camlib.runs.writers.PART_PHOTOS", 6)
    rows = 0
    for attempt in range(3):
        child = os.fork()
        if child == 0:
            try:
                where, made = MOMENTS[moment]
                monkeypatch.setattr(where, made())
                os._exit(make(photos, output, form))
            finally:  # else what is raised would let it go on with the tests behind this one
                os._exit(99)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) in ((-9,) if attempt == 0 else (-9, 0))
        with contextlib.suppress(UserError):  # there is nothing yet
            now = assert_whole(output, photos)
            assert now >= rows
            rows = now
    assert make(photos, output, form) == 0 and make(photos, tmp_path / "undisturbed", form) == 0
    assert_same(arrays_of(output), arrays_of(tmp_path / "undisturbed"))
    if "store" in form:
        listed = {row["part"] for path in output.glob("predictions*.csv") for row in read_csv(path)}
        assert listed == {path.name for path in output.glob("*maps-*")}
    else:
        assert contents(output) == contents(tmp_path / "undisturbed")
    assert not list(output.rglob(".*"))


@pytest.mark.parametrize("form", ALONE)
@pytest.mark.parametrize("step", ["write_csv", "remove_lists_of_shards"])
def test_a_run_alone_that_is_stopped_as_it_takes_over_from_shards_loses_nothing(
    form, step, photos, tmp_path, monkeypatch
):
    def stopped(*_):
        raise KeyboardInterrupt

    make(photos, tmp_path / "out", "shard of files" if form == "files" else "shard of a store")
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(f"camlib.runs.folder_run.{step}", stopped)
        make(photos, tmp_path / "out", form)
    assert assert_whole(tmp_path / "out", photos) == 6
    assert [photo.name for photo in find_saved(tmp_path / "out")] == [photo.name for photo in photos]  # each once
    make(photos, tmp_path / "out", form)
    make(photos, tmp_path / "single", form)
    assert contents(tmp_path / "out") == contents(tmp_path / "single")


@pytest.mark.parametrize(("form", "size"), [("files", 4_000), ("store", 60_000)])
def test_a_full_disk_is_one_line_and_the_same_command_goes_on(form, size, tmp_path, end_of):
    """Three photos fit, then the list, or the next part, has no room; no thread is left at work, and no half file."""
    photos, output, threads = noise_photos(tmp_path / "photos", 60), tmp_path / "out", threading.active_count()
    make(photos[:3], output, form)
    before = assert_whole(output, photos)
    with full_after(size):
        code, said = end_of(lambda _: make(photos, output, form), [])
    assert code == 2 and said.count("\n") == 1 and "could not be written (File too large); expected room for" in said
    assert said.startswith("error: ") and threading.active_count() == threads
    assert before <= assert_whole(output, photos) < 60 and not list(output.rglob(".*"))
    assert make(photos, output, form) == 0 and assert_whole(output, photos) == 60


# ---------------------------------------------------------------- files written by several threads


class Watched(FolderWriter):
    """A writer that tells a function of each photo before it is written."""

    def write(self, photo, *arguments):
        self.drawing.made(photo)
        return super().write(photo, *arguments)


def watched(run, before):
    """The run, with a function that is called for each photo as it is written."""
    run.writer = Watched(run.output, replace(run.writer.drawing, made=before), columns=run.writer.columns)
    return run


def is_whole(folder):
    kinds = ("heatmap_for_{}.npy", "heatmap_for_{}.jpg", "spp_for_{}.jpg")
    return {path.name for path in folder.iterdir()} == {
        "photo.jpg",
        *(kind.format(name) for kind in kinds for name in CLASSES),
    }


def test_rows_come_after_files_in_order_and_two_batches_at_most_wait(tmp_path):
    photos, written, rows_seen, behind = noise_photos(tmp_path / "photos", 9), [], [], []
    run = open_run(tmp_path / "out")

    def before(photo):
        time.sleep(0.03 * (photo.name[2] in "036"))  # the first of a batch takes longest
        rows_seen.append((photo.name, names_in(run)))
        written.append(photo.name)

    def explain(images, count):
        behind.append(3 * len(behind) - len(written))  # photos explained before that are not written yet
        return made_up(images, count)

    assert do(watched(run, before), photos, explain) == 0
    assert names_in(run) == [photo.name for photo in photos]
    assert not [name for name, rows in rows_seen if name in rows]
    assert len(behind) == 3 and max(behind) <= 3
    assert all(is_whole(run.output / photo.folder) for photo in photos)


@every_form
def test_photos_that_failed_are_listed_in_the_order_of_photos(form, photos, tmp_path):
    """Whatever the reason, and whichever was seen first: in a batch the unreadable is, before any is explained."""
    for number in (0, 3):
        photos[number].path.write_text("no photo")

    def explain(images, count):
        logits, *more = made_up(images, count)
        logits[0] = np.nan  # 001.png and 004.png
        return logits, *more

    run = open_run(tmp_path / "out", form, photos)
    assert do(run, photos, explain) == 1
    assert [Path(row["path"]).stem for row in read_csv(run.failed_list)] == ["000", "001", "003", "004"]
    assert names_in(run) == ["002.png", "005.png"]


def test_ctrl_c_waits_for_the_files_begun_and_no_others(tmp_path):
    photos, begun = noise_photos(tmp_path / "photos", 80), []

    def before(photo):
        begun.append(photo.name)
        time.sleep(0.1)

    def explain(images, count):
        if begun:
            raise KeyboardInterrupt
        return made_up(images, count)

    run, start = open_run(tmp_path / "out"), time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        do(watched(run, before), photos, explain, batch_size=40)
    assert time.monotonic() - start < 2  # 40 photos would take 4 s of one thread
    assert len(begun) < 40 and all(is_whole(run.output / Path(name).stem) for name in begun)
    assert not list(run.output.rglob(".*"))


# ---------------------------------------------------------------- arrays alone


@pytest.mark.parametrize("script", ["make_cam_maps", "gradcam_vgg16"])
def test_arrays_alone_are_those_that_come_with_pictures(standardising, script, tmp_path):
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
    with pytest.raises(UserError, match=r"results of other settings \(no_pictures\)"):
        run("arrays")
    with pytest.raises(UserError, match="--no-pictures with --full-size, which is about pictures; expected one of"):
        run("other", "--no-pictures", "--full-size")
    with pytest.raises(UserError, match="--no-pictures with --overlay, which is about pictures; expected one of"):
        run("other", "--no-pictures", "--overlay", "png")
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
