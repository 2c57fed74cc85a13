"""A store of maps: what files hold too, its parts, files of strangers. What every run promises is in test_run.py."""

import json
import os
import re
import shutil
import tracemalloc
import zlib

import h5py
import numpy as np
import pytest
from conftest import ROOT, read_csv
from made_up_maps import (
    CLASSES,
    arrays_of,
    assert_same,
    assert_whole,
    do,
    make,
    noise_photos,
    open_run,
)
from PIL import Image

import evaluate_maps
import gradcam_vgg16
import make_cam_maps
import show_heatmaps
from camlib.attribution import Outputs
from camlib.files import csv_text
from camlib.runs.maps import all_maps, find_saved, read_map
from camlib.viewer.album import read_content

pytestmark = pytest.mark.any_backend
MAPS_OF = {"make_cam_maps": (make_cam_maps.main, "--model"), "gradcam_vgg16": (gradcam_vgg16.main, "--weights")}


@pytest.fixture
def photos(photo_folder):
    """Five photos, one of which cannot be read, and two that differ in their suffix alone."""
    folder = photo_folder({"dog/a.png": (200, 90, 50), "dog/b é.png": (50, 90, 200), "cat/c.png": (9, 200, 9)})
    Image.open(folder / "dog" / "a.png").rotate(90).save(folder / "dog" / "a.bmp")
    (folder / "cat" / "bad.jpg").write_bytes(b"\xff\xd8\xff no more")
    return folder


def run_both(script, network, photos, tmp_path, *more):
    """Make files and a store with the same settings: (folder, store)."""
    main, option = MAPS_OF[script]
    for place in (["--output", tmp_path / "files"], ["--store", tmp_path / "store"]):
        assert main([str(word) for word in (photos, option, network, *place, *more)]) == 1  # one photo is bad
    return tmp_path / "files", tmp_path / "store"


def assert_same_lists(store, files):
    """The list of a store says what that of the files does, and in which of its parts the maps are."""
    rows, stored = (read_csv(place / "predictions.csv") for place in (files, store))
    assert [{name: row[name] for name in rows[0]} for row in stored] == rows
    assert {row["part"] for row in stored} == {path.name for path in store.glob("maps-*")}
    assert (store / "failed.csv").read_text() == (files / "failed.csv").read_text()


# ---------------------------------------------------------------- the same as files


@pytest.mark.parametrize(
    ("script", "more"),
    [("make_cam_maps", ()), ("gradcam_vgg16", ("--classes", "predicted", "dog")), ("gradcam_vgg16", ("--no-guided",))],
)
def test_a_store_holds_what_the_files_hold(script, more, small_network, photos, tmp_path):
    files, store = run_both(script, small_network, photos, tmp_path, *more)
    assert_same(arrays_of(store), arrays_of(files))
    for ours, other in zip(find_saved(store), find_saved(files), strict=True):
        assert (ours.name, ours.predicted, ours.truth) == (other.name, other.predicted, other.truth)
        assert ours.probabilities == other.probabilities and ours.logits == other.logits
        np.testing.assert_array_equal(ours.read_photo(), other.read_photo())
        assert [ours.title_of(kind) for kind in all_maps(ours)] == [other.title_of(kind) for kind in all_maps(other)]
    names = ["failed.csv", "maps-0000001.h5", "predictions.csv", "run.json"]
    assert sorted(path.name for path in store.iterdir()) == names
    assert_same_lists(store, files)
    for number, row in enumerate(read_csv(store / "predictions.csv")):
        assert (row["part"], row["row"]) == ("maps-0000001.h5", str(number))
        assert float(row["modified"]) == (photos / row["path"]).stat().st_mtime


@pytest.mark.parametrize(
    "more", [["--shard", "3/3"], pytest.param(["--engine", "ray", "--workers", "2"], marks=pytest.mark.thorough)]
)
def test_shards_and_workers_of_ray_write_parts_of_one_store(more, small_network, photos, tmp_path, capsys):
    """With batches of one photo; a run alone goes on with a shard of two photos."""
    if "ray" in more:
        pytest.importorskip("ray", reason="pip install -r requirements-cluster.txt brings Ray")
    command, store = [str(photos), "--model", str(small_network), "--batch-size", "1"], tmp_path / "store"
    assert make_cam_maps.main([*command, "--output", str(tmp_path / "files")]) == 1
    assert make_cam_maps.main([*command, "--store", str(store), *more]) == int("ray" in more)
    assert f"next: python {os.path.relpath(ROOT / 'show_heatmaps.py')} {store}" in capsys.readouterr().out
    if "--shard" in more:
        assert sorted(path.name for path in store.glob("*-*")) == ["maps-0000002.h5", "predictions-3-of-3.csv"]
        assert len(find_saved(store)) == 1 and make_cam_maps.main([*command, "--store", str(store)]) == 1
        assert "1 of 5 photos are done already" in capsys.readouterr().out
        assert not list(store.glob("*-of-3.csv"))
    assert_same(arrays_of(store), arrays_of(tmp_path / "files"))
    if "ray" in more:
        assert_same_lists(store, tmp_path / "files")


def test_float16_is_off_by_a_2048th_of_the_largest_value_at_most(small_network, photos, tmp_path):
    main, option = MAPS_OF["gradcam_vgg16"]
    words, store = [photos, option, small_network, "--classes", "all"], tmp_path / "half"
    main([str(word) for word in (*words, "--output", tmp_path / "files")])
    main([str(word) for word in (*words, "--store", store, "--store-dtype", "float16")])
    found, expected = arrays_of(store), arrays_of(tmp_path / "files")
    assert found.keys() == expected.keys()
    for key, values in expected.items():
        assert np.abs(found[key] - values).max() <= np.abs(values).max() / 2048
    assert any((found[key] != values).any() for key, values in expected.items())


@pytest.mark.parametrize("size", [1e-30, 1e-12, 1.0, 3e7])
def test_float16_holds_maps_of_any_size(size, tmp_path):
    """1e-12 is far below what float16 holds, 3e7 above."""
    photos, values = noise_photos(tmp_path / "photos", 1), np.random.default_rng(0).normal(size=(5, 7)) * size
    run = open_run(tmp_path / "a", "store", outputs=Outputs(CLASSES, with_probabilities=False), dtype="float16")
    assert do(run, photos, lambda images, count: (np.ones((1, 2)), None, [{"heatmap": {"cat": values}}]), 1) == 0
    ((key, found),) = arrays_of(tmp_path / "a").items()
    assert key == ("000.png", "heatmap", "cat")
    assert np.abs(found - values).max() <= np.abs(values).max() / 2048
    with h5py.File(tmp_path / "a" / "maps-0000000.h5") as file:
        assert file["maps/heatmap"].dtype == np.float16


def test_the_program_of_the_docs_reads_a_store(tmp_path, capsys):
    photos, store = noise_photos(tmp_path / "photos", 4), tmp_path / "store"
    make(photos, store, "store")
    programs = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "usage.md").read_text("utf-8"), re.DOTALL)
    (program,) = (program for program in programs if "import h5py" in program)
    capsys.readouterr()
    exec(program.replace("outputs/mine", str(store)), {})
    expected = [f"{name} {of} {values.mean():.6f}" for (name, _, of), values in arrays_of(store).items()]
    assert capsys.readouterr().out.splitlines() == expected


# ---------------------------------------------------------------- the viewer and the evaluation


def test_the_viewer_shows_a_store_as_it_shows_the_files(small_network, photos, tmp_path, capsys):
    files, store = run_both("make_cam_maps", small_network, photos, tmp_path)
    shown = {}
    for name, place in (("files", files), ("store", store)):
        for option, suffix in (("--save", "png"), ("--sheet", "png"), ("--html", "html")):
            path = tmp_path / f"{name}{option}.{suffix}"
            assert show_heatmaps.main([str(place), option, str(path)]) == 0
            data = path.read_bytes().replace(str(place).encode(), b"place")
            shown.setdefault(option, []).append(data)
    for option, (of_files, of_store) in shown.items():
        assert of_files == of_store, option


def test_without_pictures_the_viewer_shows_the_photos_themselves(small_network, photos, tmp_path):
    store = tmp_path / "store"
    make_cam_maps.main([str(photos), "--model", str(small_network), "--store", str(store), "--no-pictures"])
    with h5py.File(store / "maps-0000001.h5") as file:
        assert len(file["pictures"]) == 0
    saved = {photo.name: photo for photo in find_saved(store)}
    content = read_content(saved["dog/a.png"])
    np.testing.assert_array_equal(content.photo, np.asarray(Image.open(photos / "dog" / "a.png")))
    (photos / "dog" / "a.png").unlink()
    assert str(read_content(saved["dog/a.png"]).photo) == "no such file"


def test_a_store_of_the_old_form_is_refused_in_one_sentence(tmp_path, end_of):
    with h5py.File(tmp_path / "maps.h5", "w") as file:
        file.attrs["format"] = np.bytes_(b"camlib maps 1")
    before = (tmp_path / "maps.h5").read_bytes()
    code, error = end_of(show_heatmaps.main, [tmp_path / "maps.h5", "--sheet", tmp_path / "a.png"])
    expected = "is one file of HDF5; expected a folder: a store, as --store DIR writes it now"
    assert (code, error) == (2, f"error: {tmp_path / 'maps.h5'} {expected}\n")
    code, error = end_of(make_cam_maps.main, ["--store", tmp_path / "maps.h5", "--overwrite"])
    assert code == 2 and "expected a folder, new or of the same run; a store is no single file now" in error
    assert (tmp_path / "maps.h5").read_bytes() == before


@pytest.mark.thorough
def test_saved_maps_are_scored_like_those_made_on_the_spot(small_network, photos, tmp_path, capsys):
    (photos / "cat" / "bad.jpg").unlink()
    main, option = MAPS_OF["gradcam_vgg16"]
    for option_of_place, name in (("--output", "files"), ("--store", "store")):
        words = (photos, option, small_network, "--classes", "all", option_of_place, tmp_path / name)
        assert main([str(word) for word in words]) == 0
    box = {"boxes": [[5, 5, 25, 25]], "width": 40, "height": 30}
    records = [
        box | {"class": path.parent.name, "file": path.relative_to(photos).as_posix()} for path in photos.rglob("*.*")
    ]
    (photos / "annotations.json").write_text(json.dumps(records))
    scores, outputs = {}, {}
    for name, maps in (
        ("small", [f"{small_network}:{method}" for method in ("grad-cam", "guided-backprop", "guided-grad-cam")]),
        ("files", [tmp_path / "files"]),
        ("store", [tmp_path / "store"]),
    ):
        output = tmp_path / f"scores_{name}"
        more = ["--only", "localisation", "network", *(["sanity"] if name == "store" else [])]
        words = ["--annotations", photos, "--maps", *maps, *more, "--output", output]
        assert evaluate_maps.main([str(word) for word in words]) == 0
        lines = [json.loads(line) for line in (output / "results.jsonl").read_text().splitlines()]
        lines = [line for line in lines if line["network"] == name]
        outputs[name] = {line["item"]: line["outputs"] for line in lines}
        scores[name] = {
            (line["item"], kind.partition(" ")[2]): [
                values[score] for score in ("energy", "pointing", "border", "zero", "other_class")
            ]
            for line in lines
            for kind, values in line["maps"].items()
        }
    assert "store: sanity ask the network, which saved maps are without: left out" in capsys.readouterr().out
    assert len(scores["small"]) == 12 and scores["store"] == scores["files"]
    assert scores["store"].keys() == scores["small"].keys()
    for item, expected in outputs["small"].items():
        assert outputs["store"][item] == outputs["files"][item] == pytest.approx(expected, abs=1e-5)
    for key, values in scores["small"].items():
        for found, expected in zip(scores["store"][key], values, strict=True):
            assert found == (expected if expected is None else pytest.approx(expected, rel=1e-3)), key


# ---------------------------------------------------------------- parts


def test_parts_end_at_a_number_of_photos_at_bytes_and_at_seconds(tmp_path, monkeypatch):
    photos = noise_photos(tmp_path / "photos", 12)

    def parts_of(name):
        make(photos, tmp_path / name, "store")
        assert assert_whole(tmp_path / name, photos) == 12
        return sorted(path.name for path in (tmp_path / name).glob("maps-*"))

    assert parts_of("one") == ["maps-0000000.h5"]
    for name, value in (
        ("writers.PART_PHOTOS", 5),  # looked at after each batch of three
        ("writers.PART_BYTES", 1),
        ("folder_run.MOST_SECONDS", -1),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(f"camlib.runs.{name}", value)
            step = 6 if value == 5 else 3
            assert parts_of(name) == [f"maps-{number:07d}.h5" for number in range(0, 12, step)]


def test_a_part_is_never_replaced_while_a_photo_of_it_counts(tmp_path):
    """The first photo of a part is done again, and then again; then the part is lost."""
    photos, store = noise_photos(tmp_path / "photos", 6), tmp_path / "store"
    for attempt in range(3):
        os.utime(photos[0].path, (1e9 + attempt,) * 2)
        make(photos, store, "store")
        assert assert_whole(store, photos) == 6
        assert [row["part"] for row in read_csv(store / "predictions.csv")].count("maps-0000000.h5") == 5 + (
            attempt == 0
        )
    assert len(list(store.glob("maps-*.h5"))) == 2
    (store / "maps-0000000.h5").unlink()
    make(photos, store, "store")
    assert assert_whole(store, photos) == 6


def test_parts_that_no_list_names_are_removed_by_whoever_makes_them(tmp_path):
    """As a kill leaves them between a part and its rows; those of other shards' photos may be in the making."""
    photos, store = noise_photos(tmp_path / "photos", 6), tmp_path / "store"
    run = open_run(store, "store")
    for name in ("maps-0000001.h5", ".maps-0000002.h5.partial", "maps-0000004.h5", "maps-0000000.h5", "mine.h5"):
        (store / name).write_text("x")
    numbers = {photo.name: number for number, photo in enumerate(photos)}
    run.writer.begin(photos[:3], numbers, [["000.png", "dog", "maps-0000000.h5", "0", "1.5"]])
    assert sorted(path.name for path in store.glob("*.h5*")) == ["maps-0000000.h5", "maps-0000004.h5", "mine.h5"]


@pytest.mark.parametrize("current", [0, 1])
def test_of_two_rows_of_a_photo_that_counts_which_knows_the_file_as_it_is(current, tmp_path):
    (photo,), store = noise_photos(tmp_path / "photos", 1), tmp_path / "store"
    store.mkdir()
    (store / "run.json").write_text(json.dumps({"settings": {"photos": [str(photo.path.parent)]}}))
    now = photo.path.stat().st_mtime
    for number in range(2):
        cells = ["000.png", str(number), f"maps-000000{number}.h5", 0, now - 9 * (number != current), 0]
        header = ["path", "predicted", "part", "row", "modified", "number"]
        (store / f"predictions-{number + 1}-of-2.csv").write_text(csv_text([header, cells]))
    (saved,) = find_saved(store)
    assert saved.predicted == str(current)


def test_another_dtype_is_another_setting(small_network, photos, tmp_path, end_of):
    command = [photos, "--model", small_network, "--store", tmp_path / "store"]
    assert make_cam_maps.main([str(word) for word in command]) == 1
    code, error = end_of(make_cam_maps.main, [*command, "--store-dtype", "float16"])
    assert code == 2 and "holds results of other settings (store_dtype); expected" in error


@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]])
def test_what_is_no_store_is_never_replaced(overwrite, small_network, photos, tmp_path, end_of):
    copy, text, folder = tmp_path / "network.h5", tmp_path / "thesis", tmp_path / "folder"
    copy.write_bytes(small_network.read_bytes())
    text.write_text("years of work")
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")
    for place in (copy, text, folder):
        code, error = end_of(make_cam_maps.main, [photos, "--model", small_network, "--store", place, *overwrite])
        assert code == 2 and error.count("\n") == 1 and str(place) in error and "folder" in error
    assert copy.read_bytes() == small_network.read_bytes() and text.read_text() == "years of work"
    assert [path.name for path in folder.iterdir()] == ["thesis.txt"] and not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--store", "maps.h5"], "--store maps.h5: expected a folder, new or of the same run;"),
        (["--store", "a", "--output", "b"], "--store a with --output b; expected one of the two;"),
        (["--store-dtype", "float16"], "--store-dtype float16 without --store; expected --store DIR with it;"),
        (["--store", "a", "--colours", "jet"], "--store with --colours, which is about pictures; expected one of"),
        (["--store", "a", "--photo-in-colour"], "--store with --photo-in-colour, which is about pictures"),
    ],
)
def test_options_that_do_not_fit_are_one_line(words, message, tmp_path, end_of, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, error = end_of(make_cam_maps.main, words)
    assert code == 2 and error.startswith(f"error: {message}") and error.count("\n") == 1, error
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- files of strangers


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A store of six photos with one part."""
    folder = tmp_path_factory.mktemp("sound")
    make(noise_photos(folder / "photos", 6), folder / "store", "store", dtype="float16")
    return folder / "store"


@pytest.fixture
def changed(sound, tmp_path):
    """changed(function of an h5py.File): a copy of the sound store with another part; returns (store, part)."""

    def change(function):
        store = shutil.copytree(sound, tmp_path / "store")
        with h5py.File(store / "maps-0000000.h5", "r+") as file:
            function(file)
        return store, store / "maps-0000000.h5"

    return change


def replaced(name, **made):
    """A function that puts another dataset in the place of one."""

    def change(file):
        del file[name]
        file.create_dataset(name, **made)

    return change


def relinked(name, link):
    def change(file):
        del file[name]
        file[name] = link

    return change


def external(file):
    shape, chunks = file["classes"].shape, [("/etc/passwd", 0, h5py.h5f.UNLIMITED)]
    del file["classes"]
    file.create_dataset("classes", shape, "<i4", external=chunks)


def virtual(file):
    shape = file["classes"].shape
    del file["classes"]
    layout = h5py.VirtualLayout(shape, "<i4")
    layout[:] = h5py.VirtualSource("/tmp/other.h5", "x", shape)
    file.create_virtual_dataset("classes", layout)


HALF = {"dtype": "f2", "shuffle": True, "compression": "gzip"}
HOSTILE = {
    "other format": lambda file: file.attrs.modify("format", np.bytes_(b"camlib maps 9")),
    "no format": lambda file: file.attrs.__delitem__("format"),
    "a text for format": lambda file: file.attrs.create("format", "x" * 99_999),
    "no maps": lambda file: file.__delitem__("maps"),
    "no kind": lambda file: file.__delitem__("maps/heatmap"),
    "a kind of another name": lambda file: file.move("maps/heatmap", "maps/<script>"),
    "no names": lambda file: file.__delitem__("names"),
    "a group for a table": lambda file: (file.__delitem__("classes"), file.create_group("classes")),
    "a link outside": relinked("names", h5py.ExternalLink("/tmp/other.h5", "names")),
    "maps in another file": relinked("maps", h5py.ExternalLink("/tmp/other.h5", "maps")),
    "scales in another file": relinked("scales", h5py.ExternalLink("/tmp/other.h5", "x")),
    "a soft link": relinked("classes", h5py.SoftLink("/picture_ends")),
    "external storage": external,
    "virtual": virtual,
    "a hundred billion photos": replaced("names", shape=(10**11,), dtype="S9", chunks=(9,)),
    "names of a hundred gigabytes": replaced("names", shape=(10**5,), dtype="S1000000", chunks=(1,)),
    "names that nobody wrote": replaced("names", shape=(10**7,), dtype="S9"),
    "references": replaced("classes", shape=(6, 2), dtype=h5py.ref_dtype),
    "texts of any length": replaced("names", shape=(6,), dtype=h5py.string_dtype()),
    "maps too large": replaced("maps/heatmap", shape=(6, 2, 99_999, 99_999), chunks=(1, 1, 9, 9), **HALF),
    "maps of more photos": replaced("maps/heatmap", shape=(7, 2, 12, 15), chunks=(1, 2, 12, 15), **HALF),
    "chunks too large": replaced("maps/heatmap", shape=(6, 2, 12, 15), chunks=(6, 2, 12, 15), **HALF),
    "pictures in chunks": replaced("pictures", shape=(10**9,), dtype="u1", chunks=(10**6,)),
    "other filters": replaced("maps/heatmap", shape=(6, 2, 12, 15), dtype="f2", chunks=(1, 2, 12, 15),
                              compression="lzf"),
    "ends of more pictures": replaced("picture_ends", data=np.zeros(9, "<i8")),
    "scales of more photos": replaced("scales/heatmap", data=np.zeros((9, 2), "<f4")),
    "no classes": replaced("class_names", shape=(0,), dtype="S3"),
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_part_is_one_line_and_takes_no_memory(what, changed, tmp_path, end_of):
    store, part = changed(HOSTILE[what])
    tracemalloc.start()
    code, error = end_of(show_heatmaps.main, [store, "--html", tmp_path / "page.html"])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert code == 2 and error.startswith(f"error: {part} cannot be read (") and error.count("\n") == 1, error
    assert len(error) <= 350 and error.endswith("; expected a part of a store, as --store writes it\n") and peak < 20e6


def test_a_hostile_part_is_one_line_of_the_evaluation(changed, tmp_path, end_of):
    store, part = changed(HOSTILE["a link outside"])
    words = [noise_photos(tmp_path / "photos", 1)[0].path.parent, "--maps", store, "--output", tmp_path / "scores"]
    code, error = end_of(evaluate_maps.main, words)
    assert code == 2 and error.startswith(f"error: {part} cannot be read (") and error.count("\n") == 1, error
    assert not (tmp_path / "scores").exists()


@pytest.mark.parametrize("name", ["../maps-0000000.h5", "/etc/passwd", "maps.h5", "maps-0000000.h5/x", ""])
def test_a_list_leads_to_parts_of_its_own_folder_alone(name, sound, tmp_path, end_of):
    store = shutil.copytree(sound, tmp_path / "store")
    listed = (store / "predictions.csv").read_text()
    (store / "predictions.csv").write_text(listed.replace("maps-0000000.h5", name))
    code, error = end_of(show_heatmaps.main, [store, "--html", tmp_path / "page.html"])
    assert code == 2 and f"cannot be read (a part called {name!r}); expected the list" in error


def test_a_row_of_another_photo_shows_no_maps(sound, tmp_path):
    """A list whose rows do not fit its part, as of two runs that were copied together."""
    store = shutil.copytree(sound, tmp_path / "store")
    listed = (store / "predictions.csv").read_text()
    (store / "predictions.csv").write_text(listed.replace("maps-0000000.h5,1,", "maps-0000000.h5,2,"))
    found = find_saved(store)
    assert not all_maps(found[1]) and all_maps(found[2])
    assert "row 2 of maps-0000000.h5 is not of 001.png" in str(read_content(found[1]).photo)


@pytest.mark.parametrize("share", [0.001, 0.3, 0.9])
def test_a_cut_off_part_is_one_line(share, sound, tmp_path, end_of):
    store = shutil.copytree(sound, tmp_path / "store")
    part = store / "maps-0000000.h5"
    part.write_bytes(part.read_bytes()[: int(part.stat().st_size * share)])
    code, error = end_of(show_heatmaps.main, [store, "--html", tmp_path / "page.html"])
    assert code == 2 and error.startswith("error: ") and error.count("\n") == 1 and len(error) <= 350


def test_a_damaged_map_is_left_out_and_the_others_are_shown(sound, tmp_path, capsys):
    store = shutil.copytree(sound, tmp_path / "store")
    with h5py.File(store / "maps-0000000.h5") as file:
        info = file["maps/heatmap"].id.get_chunk_info_by_coord((1, 0, 0, 0))
    with open(store / "maps-0000000.h5", "r+b") as file:
        file.seek(info.byte_offset + 20)
        file.write(b"\0\1\2\3\4\5\6\7")
    assert show_heatmaps.main([str(store), "--html", str(tmp_path / "page.html")]) == 1
    said = capsys.readouterr().out
    assert (
        "5 photos" in said and "1 photos are left out, the first since 001.png: heatmap_for_dog cannot be read" in said
    )


def test_a_chunk_that_is_larger_than_its_maps_is_not_unpacked(changed):
    """A chunk that says it is small, and is 50 MB when it is unpacked."""

    def bomb(file):
        maps = file["maps/heatmap"]
        maps.id.write_direct_chunk((0, 0, 0, 0), zlib.compress(bytes(50_000_000), 9)[: maps.chunks[1] * 12 * 15 * 4])

    store, _ = changed(bomb)
    first, second = find_saved(store)[:2]
    tracemalloc.start()
    with pytest.raises(Exception, match="heatmap_for_dog cannot be read"):
        read_map(all_maps(first)["heatmap"]["dog"])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5e6 and read_map(all_maps(second)["heatmap"]["dog"]).shape == (12, 15)
