"""A store of maps: the same arrays as files, shards and Ray, kills, a second writer, files of strangers."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
import zlib

import h5py
import keras
import numpy as np
import pytest
from conftest import CLASSES, ENVIRONMENT, ROOT, read_csv
from made_up_maps import DRAWING, MadeUpMaps, make_maps
from PIL import Image

import evaluate_maps
import gradcam_vgg16
import make_cam_maps
import show_heatmaps
from camlib.attribution import Outputs
from camlib.files import csv_text, open_csv
from camlib.networks.checkpoint import save_network
from camlib.photos import find_photos, read_network_input
from camlib.preprocessing import InputSpec
from camlib.runs.folder_run import FolderRun
from camlib.runs.maps import all_maps, find_saved, read_map
from camlib.runs.writers import StoreWriter
from camlib.viewer.album import read_content

pytestmark = pytest.mark.any_backend
MAPS_OF = {"make_cam_maps": (make_cam_maps.main, "--model"), "gradcam_vgg16": (gradcam_vgg16.main, "--weights")}


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A network with one ReLU, global average pooling and two classes."""
    keras.utils.set_random_seed(7)
    image = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(4, 3, activation="relu", name="conv")(image)
    x = keras.layers.GlobalAveragePooling2D(name="gap")(x)
    model = keras.Model(image, keras.layers.Dense(2, activation="softmax", name="class")(x))
    for weight in model.weights:
        weight.assign(np.random.default_rng(len(weight.shape)).normal(size=weight.shape))
    path = tmp_path_factory.mktemp("network") / "net.h5"
    save_network(model, path, InputSpec(CLASSES, 16, 16, 3))
    return path


@pytest.fixture
def photos(photo_folder):
    """Five photos, one of which cannot be read, and two that differ in their suffix alone."""
    folder = photo_folder({"dog/a.png": (200, 90, 50), "dog/b é.png": (50, 90, 200), "cat/c.png": (9, 200, 9)})
    Image.open(folder / "dog" / "a.png").rotate(90).save(folder / "dog" / "a.bmp")
    (folder / "cat" / "bad.jpg").write_bytes(b"\xff\xd8\xff no more")
    return folder


def run_of(output, dtype="float32", outputs=None, writer=StoreWriter):
    """A run into a store, of CLASSES, with pictures."""
    kept = {"explained": tuple(CLASSES), "most": len(CLASSES), "dtype": dtype} if writer is StoreWriter else {}
    return FolderRun(output, {"size": 16}, "", outputs or Outputs(CLASSES), writer=writer(output, DRAWING, **kept))


def arrays_of(place):
    """All maps of a place: dict of (photo, kind, class) -> array."""
    return {
        (saved.name, kind, name): read_map(where)
        for saved in find_saved(place)
        for kind, of_classes in all_maps(saved).items()
        for name, where in of_classes.items()
    }


def assert_same(found, expected):
    assert found.keys() == expected.keys() and found
    for key, values in expected.items():
        np.testing.assert_array_equal(found[key], values, str(key))


def run_both(script, network, photos, tmp_path, *more):
    """Make files and a store with the same settings: (folder, store)."""
    main, option = MAPS_OF[script]
    for place in (["--output", tmp_path / "files"], ["--store", tmp_path / "store"]):
        assert main([str(word) for word in (photos, option, network, *place, *more)]) == 1  # one photo is bad
    return tmp_path / "files", tmp_path / "store"


# ---------------------------------------------------------------- the same as files


@pytest.mark.parametrize(
    ("script", "more"),
    [("make_cam_maps", ()), ("gradcam_vgg16", ("--classes", "predicted", "dog")), ("gradcam_vgg16", ("--no-guided",))],
)
def test_a_store_holds_what_the_files_hold(script, more, network, photos, tmp_path):
    files, store = run_both(script, network, photos, tmp_path, *more)
    assert_same(arrays_of(store), arrays_of(files))
    for ours, other in zip(find_saved(store), find_saved(files), strict=True):
        assert (ours.name, ours.predicted, ours.truth) == (other.name, other.predicted, other.truth)
        assert ours.probabilities == other.probabilities and ours.logits == other.logits
        np.testing.assert_array_equal(ours.read_photo(), other.read_photo())
        assert [ours.title_of(kind) for kind in all_maps(ours)] == [other.title_of(kind) for kind in all_maps(other)]
    names = ["failed.csv", "maps-0000001.h5", "predictions.csv", "run.json"]
    assert sorted(path.name for path in store.iterdir()) == names
    assert (store / "failed.csv").read_text() == (files / "failed.csv").read_text()
    rows, stored = read_csv(files / "predictions.csv"), read_csv(store / "predictions.csv")
    assert [{name: row[name] for name in rows[0]} for row in stored] == rows
    for number, row in enumerate(stored):
        assert (row["part"], row["row"]) == ("maps-0000001.h5", str(number))
        assert float(row["modified"]) == (photos / row["path"]).stat().st_mtime


def test_shards_write_parts_of_one_store_and_a_run_alone_goes_on_with_it(network, photos, tmp_path, capsys):
    """With batches of one photo: two of three shards of the five photos, then the rest by a run that is no shard."""
    main, option = MAPS_OF["make_cam_maps"]
    command, store = [str(photos), option, str(network), "--batch-size", "1"], tmp_path / "store"
    codes = []
    for number in (3, 2):
        codes.append(main([*command, "--store", str(store), "--shard", f"{number}/3"]))
        assert f"next: python show_heatmaps.py {store}" in capsys.readouterr().out
    assert sorted(path.name for path in store.glob("*-*")) == [
        "maps-0000001.h5", "maps-0000002.h5", "predictions-2-of-3.csv", "predictions-3-of-3.csv"
    ]  # fmt: skip
    assert len(find_saved(store)) == 3
    assert codes == [0, 0] and main([*command, "--output", str(tmp_path / "files")]) == 1
    capsys.readouterr()
    assert main([*command, "--store", str(store)]) == 1 and "3 of 5 photos are done already" in capsys.readouterr().out
    assert_same(arrays_of(store), arrays_of(tmp_path / "files"))
    rows, stored = read_csv(tmp_path / "files" / "predictions.csv"), read_csv(store / "predictions.csv")
    stored.sort(key=lambda row: [one["path"] for one in rows].index(row["path"]))  # the last photo was done last
    assert [{name: row[name] for name in rows[0]} for row in stored] == rows
    assert (store / "failed.csv").read_text() == (tmp_path / "files" / "failed.csv").read_text()
    assert not list(store.glob("*-of-3.csv"))


@pytest.mark.thorough
def test_workers_of_ray_write_parts_of_one_store(network, photos, tmp_path):
    pytest.importorskip("ray", reason="pip install -r requirements-cluster.txt brings Ray")
    files, store = tmp_path / "files", tmp_path / "store"
    command = [str(photos), "--model", str(network), "--batch-size", "1"]
    make_cam_maps.main([*command, "--output", str(files)])
    assert make_cam_maps.main([*command, "--store", str(store), "--engine", "ray", "--workers", "2"]) == 1
    assert_same(arrays_of(store), arrays_of(files))
    rows, stored = read_csv(files / "predictions.csv"), read_csv(store / "predictions.csv")
    assert [{name: row[name] for name in rows[0]} for row in stored] == rows
    assert {row["part"] for row in stored} == {path.name for path in store.glob("maps-*")}


def test_float16_is_off_by_a_2048th_of_the_largest_value_at_most(network, photos, tmp_path):
    more = ("--store-dtype", "float16", "--classes", "all")
    main, option = MAPS_OF["gradcam_vgg16"]
    store = tmp_path / "half"
    main([str(word) for word in (photos, option, network, "--classes", "all", "--output", tmp_path / "files")])
    main([str(word) for word in (photos, option, network, "--store", store, *more)])
    found, expected = arrays_of(store), arrays_of(tmp_path / "files")
    assert found.keys() == expected.keys()
    for key, values in expected.items():
        assert np.abs(found[key] - values).max() <= np.abs(values).max() / 2048
    assert any((found[key] != values).any() for key, values in expected.items())
    with h5py.File(store / "maps-0000001.h5") as file:
        assert {file["maps"][kind].dtype for kind in file["maps"]} == {np.dtype("float16")}


@pytest.mark.parametrize("size", [1e-30, 1e-12, 1.0, 3e7])
def test_float16_holds_maps_of_any_size(size, photo_folder, tmp_path):
    """1e-12 is far below what float16 holds, 3e7 above."""
    photos = find_photos([photo_folder({"a.png": (1, 2, 3)})])
    values = np.random.default_rng(0).normal(size=(5, 7)) * size
    run = run_of(tmp_path / "a", "float16", Outputs(CLASSES, with_probabilities=False))
    made_up = MadeUpMaps(
        InputSpec(CLASSES, 16, 16, 3), lambda images, count: (np.ones((1, 2)), None, [{"heatmap": {"cat": values}}])
    )
    assert make_maps(run, photos, made_up, 1) == 0
    ((key, found),) = arrays_of(tmp_path / "a").items()
    assert key == ("a.png", "heatmap", "cat")
    assert np.abs(found - values).max() <= np.abs(values).max() / 2048


def test_the_program_of_the_docs_reads_a_store(network, photos, tmp_path):
    _, store = run_both("make_cam_maps", network, photos, tmp_path)
    programs = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "usage.md").read_text("utf-8"), re.DOTALL)
    (program,) = (program for program in programs if "import h5py" in program)
    result = subprocess.run(
        [sys.executable, "-c", program.replace("outputs/mine", str(store))],
        text=True,
        capture_output=True,
        cwd=tmp_path,
        env=ENVIRONMENT,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    lines = [line.split() for line in result.stdout.splitlines()]
    expected = arrays_of(store)
    assert len(lines) == len(expected) and "None" not in result.stdout
    for line, ((name, _, class_name), values) in zip(lines, expected.items(), strict=True):
        assert " ".join(line[:-2]) == name and line[-2] == class_name
        assert float(line[-1]) == pytest.approx(values.mean(), abs=1e-4)


# ---------------------------------------------------------------- the viewer and the evaluation


def test_the_viewer_shows_a_store_as_it_shows_the_files(network, photos, tmp_path, capsys):
    files, store = run_both("make_cam_maps", network, photos, tmp_path)
    shown = {}
    for name, place in (("files", files), ("store", store)):
        for option, suffix in (("--save", "png"), ("--sheet", "png"), ("--html", "html")):
            path = tmp_path / f"{name}{option}.{suffix}"
            assert show_heatmaps.main([str(place), option, str(path)]) == 0
            data = path.read_bytes().replace(str(place).encode(), b"place")
            shown.setdefault(option, []).append(data)
    for option, (of_files, of_store) in shown.items():
        assert of_files == of_store, option


def test_without_pictures_the_viewer_shows_the_photos_themselves(network, photos, tmp_path):
    store = tmp_path / "store"
    make_cam_maps.main([str(photos), "--model", str(network), "--store", str(store), "--no-pictures"])
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
def test_saved_maps_are_scored_like_those_made_on_the_spot(network, photos, tmp_path, capsys):
    (photos / "cat" / "bad.jpg").unlink()
    main, option = MAPS_OF["gradcam_vgg16"]
    arguments = [photos, option, network, "--classes", "all"]
    main([str(word) for word in (*arguments, "--output", tmp_path / "files")])
    main([str(word) for word in (*arguments, "--store", tmp_path / "store")])
    records = []
    for path in photos.rglob("*.*"):
        box = {"boxes": [[5, 5, 25, 25]], "width": 40, "height": 30} | {"class": path.parent.name}
        records.append(box | {"file": path.relative_to(photos).as_posix()})
    (photos / "annotations.json").write_text(json.dumps(records))
    scores = {}
    for name, maps in (
        ("net", [f"{network}:grad-cam", f"{network}:guided-backprop", f"{network}:guided-grad-cam"]),
        ("files", [tmp_path / "files"]),
        ("store", [tmp_path / "store"]),
    ):
        output = tmp_path / f"scores_{name}"
        more = ["--only", "localisation", "network", *(["sanity"] if name == "store" else [])]
        words = ["--annotations", photos, "--maps", *maps, *more, "--output", output]
        assert evaluate_maps.main([str(word) for word in words]) == 0
        lines = [json.loads(line) for line in (output / "results.jsonl").read_text().splitlines()]
        scores[name] = {
            line["item"]: {kind.partition(" ")[2]: values for kind, values in line["maps"].items()}
            | {"outputs": line["outputs"]}
            for line in lines
            if line["network"] == name
        }
        assert (output / "report.html").stat().st_size > 1000
    assert "store: sanity ask the network, which saved maps are without: left out" in capsys.readouterr().out
    assert len(scores["net"]) == 4 and scores["store"].keys() == scores["files"].keys() == scores["net"].keys()
    for item, expected in scores["net"].items():
        assert scores["store"][item] == scores["files"][item]
        assert scores["store"][item].keys() == expected.keys()
        for kind, values in expected.items():
            found = scores["store"][item][kind]
            if kind == "outputs":
                assert found == pytest.approx(values, abs=1e-5)
                continue
            for score in ("energy", "pointing", "border", "zero", "other_class"):
                expected_score = values[score]
                close = expected_score if expected_score is None else pytest.approx(expected_score, rel=1e-3)
                assert found[score] == close, (item, kind, score)


# ---------------------------------------------------------------- stopped, killed, resumed


def noise_photos(folder, count):
    folder.mkdir()
    for number in range(count):
        noise = np.random.default_rng(number).integers(0, 256, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{number:03d}.png")
    return find_photos([folder])


def made_up_maps(images, count):
    """Logits, probabilities and maps of photos, made up from their pixels."""
    sums = images.reshape(len(images), -1).mean(axis=1)
    generators = [np.random.default_rng(int(image.astype(np.int64).sum())) for image in images]
    maps = [{"heatmap": {name: one.normal(size=(12, 15)).astype("f4") for name in CLASSES}} for one in generators]
    return np.column_stack((sums, -sums)), np.column_stack((sums, 256 - sums)) / 256, maps


def make(photos, store, **more):
    """Make a store of maps that are made up, in batches of three photos, or go on in it."""
    explainer = MadeUpMaps(InputSpec(CLASSES, 16, 16, 3), made_up_maps)
    return make_maps(run_of(store, **more), photos, explainer, 3)


def assert_whole(store, photos):
    """Whatever is in a store is what was to be put there."""
    input_spec, paths = InputSpec(CLASSES, 16, 16, 3), {photo.name: photo.path for photo in photos}
    found = arrays_of(store)
    for name in {name for name, *_ in found}:
        (maps,) = made_up_maps(read_network_input(paths[name], input_spec)[None], 1)[2]
        for class_name, values in maps["heatmap"].items():
            np.testing.assert_array_equal(found.pop((name, "heatmap", class_name)), values)
    assert not found


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def die_after(function, times):
    """A function that does what `function` does, so often, and then ends the process."""
    left = [times]

    def instead(*arguments, **more):
        left[0] -= 1
        return function(*arguments, **more) if left[0] >= 0 else die()

    return instead


# where a process dies, of its second part, or of the row that follows the first
MOMENTS = {
    "before a part has its name": ("camlib.files.os.replace", lambda: die_after(os.replace, 2)),
    "before a part's rows": ("camlib.runs.folder_run.open_csv", lambda: die_after(open_csv, 3)),
    "while the list is begun": ("camlib.runs.folder_run.write_csv", lambda: die),
    "when old parts are removed": ("camlib.runs.writers.os.listdir", lambda: die),
}


@pytest.mark.skipif(os.name == "nt", reason="forks")
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_kill_loses_a_part_and_nothing_else(moment, tmp_path, monkeypatch, capsys):
    photos, store = noise_photos(tmp_path / "photos", 24), tmp_path / "store"
    monkeypatch.setattr("camlib.runs.writers.MOST_PART_PHOTOS", 9)
    held = 0
    for attempt in range(3):
        child = os.fork()
        if child == 0:
            where, made = MOMENTS[moment]
            monkeypatch.setattr(where, made())
            os._exit(make(photos, store))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) in ((-9,) if attempt == 0 else (-9, 0))
        if (store / "predictions.csv").exists() and len(read_csv(store / "predictions.csv")):
            assert_whole(store, photos)
            assert len(find_saved(store)) >= held
            held = len(find_saved(store))
    assert make(photos, store) == 0 and make(photos, tmp_path / "undisturbed") == 0
    assert_same(arrays_of(store), arrays_of(tmp_path / "undisturbed"))
    assert_whole(store, photos)
    rows = read_csv(store / "predictions.csv")
    assert {row["part"] for row in rows} == {path.name for path in store.glob("maps-*.h5")}
    assert sorted(path.name for path in store.glob(".*")) == []


def test_parts_end_at_a_number_of_photos_at_bytes_and_at_seconds(tmp_path, monkeypatch):
    photos = noise_photos(tmp_path / "photos", 12)

    def parts_of(name):
        make(photos, tmp_path / name)
        return [row["part"] for row in read_csv(tmp_path / name / "predictions.csv")]

    def numbered(*counts):
        starts = np.cumsum([0, *counts[:-1]])
        return [f"maps-{start:07d}.h5" for start, count in zip(starts, counts, strict=True) for _ in range(count)]

    assert parts_of("one") == numbered(12)
    with monkeypatch.context() as patched:
        patched.setattr("camlib.runs.writers.MOST_PART_PHOTOS", 5)
        assert parts_of("many") == numbered(5, 1, 5, 1)  # looked at after each batch of three
    with monkeypatch.context() as patched:
        patched.setattr("camlib.runs.writers.MOST_PART_BYTES", 1)
        assert parts_of("bytes") == numbered(*[1] * 12)
    with monkeypatch.context() as patched:
        patched.setattr("camlib.runs.folder_run.MOST_SECONDS", -1)
        assert parts_of("seconds") == numbered(3, 3, 3, 3)
    for name in ("many", "bytes", "seconds"):
        assert_same(arrays_of(tmp_path / name), arrays_of(tmp_path / "one"))


def test_a_stopped_run_keeps_the_maps_that_it_has(tmp_path):
    """Ctrl-C after the second batch of three photos, long before a part is full."""
    photos, store = noise_photos(tmp_path / "photos", 12), tmp_path / "store"
    calls = []

    def explain(images, count):
        calls.append(count)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return made_up_maps(images, count)

    with pytest.raises(KeyboardInterrupt):
        make_maps(run_of(store), photos, MadeUpMaps(InputSpec(CLASSES, 16, 16, 3), explain), 3)
    assert len(find_saved(store)) >= 3
    assert_whole(store, photos)


def test_the_same_command_does_only_the_rest(network, photos, tmp_path, capsys):
    store = tmp_path / "store"
    command = [str(photos), "--model", str(network), "--store", str(store)]
    make_cam_maps.main(command)
    assert f"next: python {os.path.relpath(ROOT / 'show_heatmaps.py')} {store}" in capsys.readouterr().out
    before, data = arrays_of(store), {path.name: path.read_bytes() for path in store.iterdir()}
    make_cam_maps.main(command)
    assert "4 of 5 photos are done already" in capsys.readouterr().out
    assert {path.name: path.read_bytes() for path in store.iterdir()} == data
    os.utime(photos / "dog" / "a.png", (time.time() + 9,) * 2)
    Image.new("RGB", (30, 30), "red").save(photos / "dog" / "new.png")
    make_cam_maps.main(command)
    assert "3 of 6 photos are done already" in capsys.readouterr().out
    after = arrays_of(store)
    assert {name for name, *_ in after} - {name for name, *_ in before} == {"dog/new.png"}
    assert_same({key: after[key] for key in before}, before)
    assert (store / "maps-0000001.h5").read_bytes() == data["maps-0000001.h5"]  # it has other photos' maps too
    (store / "maps-0000001.h5").unlink()
    make_cam_maps.main(command)
    assert "2 of 6 photos are done already" in capsys.readouterr().out
    assert_same(arrays_of(store), after)


def test_a_part_is_never_replaced_while_a_photo_of_it_counts(tmp_path, capsys):
    """The first photo of a part is done again, and then again."""
    photos, store = noise_photos(tmp_path / "photos", 6), tmp_path / "store"
    for attempt in range(3):
        os.utime(photos[0].path, (1e9 + attempt,) * 2)
        make(photos, store)
        assert_whole(store, photos)
        assert [row["part"] for row in read_csv(store / "predictions.csv")].count("maps-0000000.h5") == 5 + (
            attempt == 0
        )
    assert len(list(store.glob("maps-*.h5"))) == 2
    assert "5 of 6 photos are done already" in capsys.readouterr().out


def test_parts_that_no_list_names_are_removed_by_whoever_makes_them(tmp_path):
    """As a kill leaves them between a part and its rows; those of other shards' photos may be in the making."""
    photos, store = noise_photos(tmp_path / "photos", 6), tmp_path / "store"
    store.mkdir()
    (store / "run.json").write_text("{}")
    for name in ("maps-0000001.h5", ".maps-0000002.h5.partial", "maps-0000004.h5", "maps-0000000.h5", "mine.h5"):
        (store / name).write_text("x")
    numbers = {photo.name: number for number, photo in enumerate(photos)}
    rows = [["000.png", "dog", "maps-0000000.h5", "0", "1.5"]]
    StoreWriter(store, DRAWING).begin(photos[:3], numbers, rows)
    assert sorted(path.name for path in store.iterdir()) == [
        "maps-0000000.h5",
        "maps-0000004.h5",
        "mine.h5",
        "run.json",
    ]


def test_of_two_rows_of_a_photo_that_counts_which_knows_the_file_as_it_is(photo_folder, tmp_path):
    photos = photo_folder({"a.png": (1, 2, 3)})
    store = tmp_path / "store"
    store.mkdir()
    (store / "run.json").write_text(json.dumps({"settings": {"photos": [str(photos)]}}))
    now = (photos / "a.png").stat().st_mtime
    header = ["path", "predicted", "part", "row", "modified"]
    for name, first, second in (("current first", now, now - 9), ("current last", now - 9, now)):
        for number, (list_name, modified) in enumerate(
            (("predictions-1-of-2.csv", first), ("predictions-2-of-2.csv", second))
        ):
            cells = ["a.png", str(number), f"maps-000000{number}.h5", 0, modified, 0]
            (store / list_name).write_text(csv_text([[*header, "number"], cells]))
        (saved,) = find_saved(store)
        assert saved.predicted == {"current first": "0", "current last": "1"}[name]


def test_other_settings_are_refused_and_replaced_with_overwrite(network, photos, tmp_path, end_of):
    store = tmp_path / "store"
    command = [str(photos), "--model", str(network), "--store", str(store)]
    make_cam_maps.main(command)
    data = (store / "maps-0000001.h5").read_bytes()
    for more, what in ((["--store-dtype", "float16"], "store_dtype"), (["--no-pictures"], "no_pictures")):
        code, error = end_of(make_cam_maps.main, [*command, *more])
        assert (code, error) == (
            2,
            f"error: {store} holds results of other settings ({what}); expected another "
            "folder, or --overwrite to replace them\n",
        )
    assert (store / "maps-0000001.h5").read_bytes() == data
    assert make_cam_maps.main([*command, "--store-dtype", "float16", "--overwrite"]) == 1
    assert len(find_saved(store)) == 4 and find_saved(store)[0].part.dtype == "float16"
    assert make_cam_maps.main([*command[:-2], "--output", str(store), "--overwrite"]) == 1  # files in its place
    assert not list(store.glob("maps-*")) and len(find_saved(store)) == 4


@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]])
def test_what_is_no_store_is_never_replaced(network, photos, tmp_path, end_of, overwrite):
    copy, text, folder = tmp_path / "network.h5", tmp_path / "thesis", tmp_path / "folder"
    copy.write_bytes(network.read_bytes())
    text.write_text("years of work")
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")
    for place in (copy, text, folder):
        code, error = end_of(make_cam_maps.main, [photos, "--model", network, "--store", place, *overwrite])
        assert code == 2 and error.count("\n") == 1 and str(place) in error and "folder" in error
    assert copy.read_bytes() == network.read_bytes() and text.read_text() == "years of work"
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


def test_a_second_process_is_refused_and_readers_are_not(network, tmp_path, end_of, monkeypatch):
    photos, store, seen = noise_photos(tmp_path / "photos", 6), tmp_path / "store", []
    monkeypatch.setattr("camlib.runs.writers.MOST_PART_PHOTOS", 3)
    add_rows = FolderRun.add_rows

    def add_and_look(self, batch):
        add_rows(self, batch)
        words = [tmp_path / "photos", "--model", network, "--store", store]
        seen.append((len(find_saved(store)), *end_of(make_cam_maps.main, words)))
        seen.append((len(find_saved(store)), *end_of(make_cam_maps.main, [*words, "--shard", "1/2"])))
        assert_whole(store, photos)

    with monkeypatch.context() as patched:
        patched.setattr(FolderRun, "add_rows", add_and_look)
        assert make(photos, store) == 0
    assert [(found, code) for found, code, _ in seen] == [(3, 2), (3, 2), (6, 2), (6, 2)]
    for _, _, line in seen:
        assert line.startswith(f"error: {store} is being written by ") and line.count("\n") == 1
        assert line.endswith("; expected another place, or to wait until it has ended\n")


@pytest.mark.thorough
@pytest.mark.skipif(os.name == "nt", reason="a limit of POSIX")
def test_a_file_that_cannot_grow_is_one_line_and_what_was_written_stays(tmp_path):
    """Parts of three photos that fit, and one of sixty that does not."""
    photos, store = noise_photos(tmp_path / "photos", 60), tmp_path / "store"
    make(photos[:3], store)
    before = arrays_of(store)
    program = """if True:
        import resource, sys
        sys.path[:0] = sys.argv[1:3]
        from pathlib import Path
        import test_store
        from camlib.console import run_script
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000,) * 2)
        run_script(lambda: test_store.make(test_store.find_photos([Path(sys.argv[3])]), Path(sys.argv[4])))"""
    places = [ROOT / "tests" / "runs", ROOT / "tests" / "tools", tmp_path / "photos", store]
    words = [sys.executable, "-c", program, *places]
    environment = ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests")))}
    result = subprocess.run(words, env=environment, timeout=200, capture_output=True, text=True)
    said = result.stderr.splitlines()[-1]
    assert result.returncode == 2 and "Traceback" not in result.stderr, result.stderr
    assert said.startswith(f"error: {store / 'maps-0000003.h5'} could not be written (File too large); expected room")
    assert_same(arrays_of(store), before)
    assert not list(store.glob(".*"))
    assert make(photos, store) == 0 and len(find_saved(store)) == 60
    assert_whole(store, photos)


# ---------------------------------------------------------------- files of strangers


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A store of six photos with one part."""
    folder = tmp_path_factory.mktemp("sound")
    make(noise_photos(folder / "photos", 6), folder / "store", dtype="float16")
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
    (store / "predictions.csv").write_text(listed.replace("maps-0000000.h5", name, 1))
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
    """A chunk that says it is small, and is 200 MB when it is unpacked."""

    def bomb(file):
        maps = file["maps/heatmap"]
        maps.id.write_direct_chunk((0, 0, 0, 0), zlib.compress(bytes(200_000_000), 9)[: maps.chunks[1] * 12 * 15 * 4])

    store, _ = changed(bomb)
    first, second = find_saved(store)[:2]
    tracemalloc.start()
    with pytest.raises(Exception, match="heatmap_for_dog cannot be read"):
        read_map(all_maps(first)["heatmap"]["dog"])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5e6 and read_map(all_maps(second)["heatmap"]["dog"]).shape == (12, 15)
