"""The store of a run's maps: the same arrays as files, kills at any moment, a second writer, files of strangers."""

import csv
import json
import os
import re
import subprocess
import sys
import time
import tracemalloc

import h5py
import keras
import killed_store
import numpy as np
import pytest
from conftest import CLASSES, ENVIRONMENT, ROOT
from made_up_maps import MadeUpMaps, make_maps
from PIL import Image

import evaluate_maps
import gradcam_vgg16
import make_cam_maps
import show_heatmaps
from camlib.attribution import Outputs
from camlib.networks.checkpoint import save_network
from camlib.photos import find_photos, read_network_input
from camlib.preprocessing import InputSpec
from camlib.runs.maps import all_maps, find_saved, read_map
from camlib.runs.store import Store
from camlib.runs.store_run import StoreRun
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
    for place in (["--output", tmp_path / "files"], ["--store", tmp_path / "stores" / "maps.h5"]):
        assert main([str(word) for word in (photos, option, network, *place, *more)]) == 1  # one photo is bad
    return tmp_path / "files", tmp_path / "stores" / "maps.h5"


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
        assert list(ours.probabilities) == list(other.probabilities)
        np.testing.assert_allclose(list(ours.probabilities.values()), list(other.probabilities.values()), rtol=1e-6)
        np.testing.assert_array_equal(ours.read_photo(), other.read_photo())
        assert [ours.title_of(kind) for kind in all_maps(ours)] == [other.title_of(kind) for kind in all_maps(other)]
    assert sorted(path.name for path in store.parent.iterdir()) == ["maps.h5", "maps_failed.csv"]
    assert (store.parent / "maps_failed.csv").read_text() == (files / "failed.csv").read_text()
    with open(files / "predictions.csv", newline="") as listed:
        rows = list(csv.DictReader(listed))
    with h5py.File(store) as file:  # closed, so that any reader of HDF5 opens it
        logits = [[float(row[f"logit_{name}"]) for name in CLASSES] for row in rows]
        np.testing.assert_allclose(file["logits"][()], logits, rtol=1e-6)


def test_shards_have_a_store_each(network, photos, tmp_path, capsys):
    """With batches of one photo: three shards of the five photos, of which the second cannot be read."""
    main, option = MAPS_OF["make_cam_maps"]
    command = [str(photos), option, str(network), "--batch-size", "1"]
    codes = []
    for number in (3, 1, 2):
        place = str(tmp_path / "stores" / f"{number}.h5")
        codes.append(main([*command, "--store", place, "--shard", f"{number}/3"]))
        assert f"next: python show_heatmaps.py {place}" in capsys.readouterr().out
    assert sorted(codes) == [0, 0, 1] and main([*command, "--output", str(tmp_path / "files")]) == 1
    assert_same(arrays_of(tmp_path / "stores"), arrays_of(tmp_path / "files"))
    each = [len(find_saved(tmp_path / "stores" / f"{number}.h5")) for number in (1, 2, 3)]
    assert sum(each) == 4 and min(each) >= 1  # no photo in two
    with open(next((tmp_path / "stores").glob("*_failed.csv")), newline="") as listed:
        assert [row["path"] for row in csv.DictReader(listed)] == [str(photos / "cat" / "bad.jpg")]


def test_float16_is_off_by_a_2048th_of_the_largest_value_at_most(network, photos, tmp_path):
    more = ("--store-dtype", "float16", "--classes", "all")
    main, option = MAPS_OF["gradcam_vgg16"]
    store = tmp_path / "half.h5"
    main([str(word) for word in (photos, option, network, "--classes", "all", "--output", tmp_path / "files")])
    main([str(word) for word in (photos, option, network, "--store", store, *more)])
    found, expected = arrays_of(store), arrays_of(tmp_path / "files")
    assert found.keys() == expected.keys()
    for key, values in expected.items():
        assert np.abs(found[key] - values).max() <= np.abs(values).max() / 2048
    assert any((found[key] != values).any() for key, values in expected.items())
    with h5py.File(store) as file:
        assert {file["maps"][kind].dtype for kind in file["maps"]} == {np.dtype("float16")}


@pytest.mark.parametrize("size", [1e-30, 1e-12, 1.0, 3e7])
def test_float16_holds_maps_of_any_size(size, photo_folder, tmp_path):
    """1e-12 is far below what float16 holds, 3e7 above."""
    photos = find_photos([photo_folder({"a.png": (1, 2, 3)})])
    values = np.random.default_rng(0).normal(size=(5, 7)) * size
    run = StoreRun(tmp_path / "a.h5", {"store_dtype": "float16"}, "", Outputs(CLASSES, with_probabilities=False))
    made_up = MadeUpMaps(
        InputSpec(CLASSES, 16, 16, 3), lambda images, count: (np.ones((1, 2)), None, [{"heatmap": {"cat": values}}])
    )
    assert make_maps(run, photos, made_up, 1) == 0
    ((key, found),) = arrays_of(tmp_path / "a.h5").items()
    assert key == ("a.png", "heatmap", "cat")
    assert np.abs(found - values).max() <= np.abs(values).max() / 2048


def test_the_program_of_the_docs_reads_a_store(network, photos, tmp_path):
    _, store = run_both("make_cam_maps", network, photos, tmp_path)
    (program,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "many_photos.md").read_text("utf-8"), re.DOTALL)
    result = subprocess.run(
        [sys.executable, "-c", program.replace("outputs/maps.h5", str(store))],
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
    for name, place in (("files", files), ("store", store), ("folder", store.parent)):
        for option, suffix in (("--save", "png"), ("--sheet", "png"), ("--html", "html")):
            path = tmp_path / f"{name}{option}.{suffix}"
            assert show_heatmaps.main([str(place), option, str(path)]) == 0
            data = path.read_bytes().replace(str(place).encode(), b"place")
            shown.setdefault(option, []).append(data)
    for option, (of_files, *of_stores) in shown.items():
        assert [data == of_files for data in of_stores] == [True, True], option


def test_without_pictures_the_viewer_shows_the_photos_themselves(network, photos, tmp_path):
    store = tmp_path / "maps.h5"
    make_cam_maps.main([str(photos), "--model", str(network), "--store", str(store), "--no-pictures"])
    with h5py.File(store) as file:
        assert len(file["pictures"]) == 0
    saved = {photo.name: photo for photo in find_saved(store)}
    content = read_content(saved["dog/a.png"])
    np.testing.assert_array_equal(content.photo, np.asarray(Image.open(photos / "dog" / "a.png")))
    (photos / "dog" / "a.png").unlink()
    assert str(read_content(saved["dog/a.png"]).photo) == "no such file"


def test_a_folder_of_stores_is_one_collection_and_networks_in_it_are_passed_over(network, photos, tmp_path):
    for name in ("cat", "dog"):
        main = ["--model", str(network), "--store", str(tmp_path / "shards" / f"{name}.h5")]
        make_cam_maps.main([str(photos / name), *main])
    (tmp_path / "shards" / "network.h5").write_bytes(network.read_bytes())
    found = arrays_of(tmp_path / "shards")
    assert [name for name, *_ in found][::2] == ["c.png", "a.bmp", "a.png", "b é.png"]
    assert_same(found, arrays_of(tmp_path / "shards" / "cat.h5") | arrays_of(tmp_path / "shards" / "dog.h5"))


def test_saved_maps_are_scored_like_those_made_on_the_spot(network, photos, tmp_path, capsys):
    (photos / "cat" / "bad.jpg").unlink()
    main, option = MAPS_OF["gradcam_vgg16"]
    arguments = [photos, option, network, "--classes", "all"]
    main([str(word) for word in (*arguments, "--output", tmp_path / "files")])
    main([str(word) for word in (*arguments, "--store", tmp_path / "store.h5")])
    records = []
    for path in photos.rglob("*.*"):
        box = {"boxes": [[5, 5, 25, 25]], "width": 40, "height": 30} | {"class": path.parent.name}
        records.append(box | {"file": path.relative_to(photos).as_posix()})
    (photos / "annotations.json").write_text(json.dumps(records))
    scores = {}
    for name, maps in (
        ("net", [f"{network}:grad-cam", f"{network}:guided-backprop", f"{network}:guided-grad-cam"]),
        ("files", [tmp_path / "files"]),
        ("store", [tmp_path / "store.h5"]),
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


def assert_whole(store, photos):
    """Whatever is in a store is what was to be put there."""
    input_spec, paths = InputSpec(CLASSES, 16, 16, 3), {photo.name: photo.path for photo in photos}
    found = arrays_of(store)
    for name in {name for name, *_ in found}:
        for class_name, values in killed_store.maps_of(read_network_input(paths[name], input_spec)).items():
            np.testing.assert_array_equal(found.pop((name, "heatmap", class_name)), values)
    assert not found


@pytest.mark.skipif(os.name == "nt", reason="forks")
def test_a_run_that_is_killed_again_and_again_loses_nothing_and_ends_as_an_undisturbed_one(tmp_path, capsys):
    photos, store = noise_photos(tmp_path / "photos", 150), tmp_path / "killed.h5"
    result = subprocess.run(
        [sys.executable, ROOT / "tests" / "tools" / "killed_store.py", tmp_path / "photos", store, "8"],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    attempts = [json.loads(line) for line in result.stdout.splitlines()]
    assert {one["code"] for one in attempts[:-1] if one["moment"]} == {-9}, attempts
    assert sum(one["code"] == -9 for one in attempts) > len(killed_store.MOMENTS)
    held = 0
    for attempt in attempts:
        assert (attempt["held"] or 0) >= max(held, attempt["flushed"]), attempt
        held = attempt["held"] or 0
    assert attempts[-1] == {"moment": None, "code": 0, "flushed": attempts[-1]["flushed"], "held": 150}
    assert killed_store.make(photos, tmp_path / "undisturbed.h5") == 0
    assert_same(arrays_of(store), arrays_of(tmp_path / "undisturbed.h5"))
    assert_whole(store, photos)
    numbers = ("logits", "probabilities", "classes")
    with h5py.File(store) as one, h5py.File(tmp_path / "undisturbed.h5") as other:
        assert all((one[name][:150] == other[name][:150]).all() for name in numbers)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.skipif(os.name == "nt", reason="forks")
def test_a_killed_store_is_read_as_it_is_and_keeps_when_its_photos_were_changed(tmp_path):
    photos, store = noise_photos(tmp_path / "photos", 12), tmp_path / "maps.h5"
    program = "import sys; sys.path[0] = sys.argv[1]; import killed_store as k; k.MOMENTS[k.AT_END]();"
    program += "from pathlib import Path; k.make(k.find_photos([Path(sys.argv[2])]), Path(sys.argv[3]))"
    words = [sys.executable, "-c", program, ROOT / "tests" / "tools", tmp_path / "photos", store]
    assert subprocess.run(words, env=ENVIRONMENT, timeout=100, stdout=subprocess.DEVNULL).returncode == -9
    with pytest.raises(OSError, match="already open for write"):
        h5py.File(store, "a")
    assert_whole(store, photos)
    modified, inode = Store(store).records["modified"], store.stat().st_ino
    os.utime(photos[3].path, (time.time() + 9,) * 2)
    assert killed_store.make(photos, store) == 0
    found = Store(store)
    assert store.stat().st_ino != inode and len(found.records) == 13
    np.testing.assert_array_equal(found.records["modified"][:12], modified)
    assert_whole(store, photos)
    assert not list(tmp_path.glob(".maps*"))


def test_the_same_command_does_only_the_rest(network, photos, tmp_path, capsys):
    store = tmp_path / "maps.h5"
    command = [str(photos), "--model", str(network), "--store", str(store)]
    make_cam_maps.main(command)
    assert f"next: python {os.path.relpath(ROOT / 'show_heatmaps.py')} {store}" in capsys.readouterr().out
    before, data = arrays_of(store), store.read_bytes()
    make_cam_maps.main(command)
    assert "4 of 5 photos are done already" in capsys.readouterr().out and store.read_bytes() == data
    os.utime(photos / "dog" / "a.png", (time.time() + 9,) * 2)
    Image.new("RGB", (30, 30), "red").save(photos / "dog" / "new.png")
    make_cam_maps.main(command)
    assert "3 of 6 photos are done already" in capsys.readouterr().out
    after = arrays_of(store)
    assert {name for name, *_ in after} - {name for name, *_ in before} == {"dog/new.png"}
    assert_same({key: after[key] for key in before}, before)


def test_other_settings_are_refused_and_replaced_with_overwrite(network, photos, tmp_path, end_of):
    store = tmp_path / "maps.h5"
    command = [str(photos), "--model", str(network), "--store", str(store)]
    make_cam_maps.main(command)
    data = store.read_bytes()
    for more, what in ((["--store-dtype", "float16"], "store_dtype"), (["--no-pictures"], "no_pictures")):
        code, error = end_of(make_cam_maps.main, [*command, *more])
        assert (code, error) == (
            2,
            f"error: {store} holds results of other settings ({what}); expected another "
            "--store, or --overwrite to replace them\n",
        )
    assert store.read_bytes() == data
    assert make_cam_maps.main([*command, "--store-dtype", "float16", "--overwrite"]) == 1
    assert Store(store).dtype == "float16" and len(Store(store).rows) == 4


@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]])
def test_what_is_no_store_is_never_replaced(network, photos, tmp_path, end_of, overwrite):
    copy, text, folder = tmp_path / "network.h5", tmp_path / "thesis.h5", tmp_path / "folder.h5"
    copy.write_bytes(network.read_bytes())
    text.write_text("years of work")
    folder.mkdir()
    for place in (copy, text, folder):
        code, error = end_of(make_cam_maps.main, [photos, "--model", network, "--store", place, *overwrite])
        assert code == 2 and error.count("\n") == 1 and str(place) in error and "store" in error
    assert copy.read_bytes() == network.read_bytes() and text.read_text() == "years of work" and folder.is_dir()
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--store", "maps.npy"], "--store maps.npy: expected a name that ends in .h5;"),
        (["--store", "a.h5", "--output", "b"], "--store a.h5 with --output b; expected one of the two;"),
        (["--store-dtype", "float16"], "--store-dtype float16 without --store; expected --store FILE.h5 with it;"),
        (["--store", "a.h5", "--colours", "jet"], "--store with --colours, which is about pictures; expected one of"),
        (["--store", "a.h5", "--photo-in-colour"], "--store with --photo-in-colour, which is about pictures"),
    ],
)
@pytest.mark.parametrize("script", MAPS_OF)
def test_options_that_do_not_fit_are_one_line(script, words, message, end_of, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, error = end_of(MAPS_OF[script][0], words)
    assert code == 2 and error.startswith(f"error: {message}") and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_second_process_is_refused_and_readers_are_not(network, tmp_path, end_of):
    photos, store = noise_photos(tmp_path / "photos", 6), tmp_path / "maps.h5"
    seen = []

    def flushed(count):
        words = [tmp_path / "photos", "--model", network, "--store", store]
        seen.append((count, len(find_saved(store)), end_of(make_cam_maps.main, words)))
        assert_whole(store, photos)

    assert killed_store.make(photos, store, flushed) == 0
    assert [(count, found, code) for count, found, (code, _) in seen] == [(3, 3, 2), (6, 6, 2)]
    for _, _, (_, line) in seen:
        assert line.startswith(f"error: {store} is being written by ") and line.count("\n") == 1
        assert line.endswith("; expected another --store, or to wait until it has ended\n")
    assert killed_store.make(photos, store) == 0


@pytest.mark.skipif(os.name == "nt", reason="a limit of POSIX")
def test_a_full_disk_is_one_line_and_what_was_flushed_stays(tmp_path):
    photos, store = noise_photos(tmp_path / "photos", 60), tmp_path / "maps.h5"
    program = "import sys; sys.path[0] = sys.argv[1]; import killed_store as k, resource; from pathlib import Path;"
    program += "from camlib.console import run_script; resource.setrlimit(resource.RLIMIT_FSIZE, (MOST,) * 2);"
    program += "run_script(lambda: k.make(k.find_photos([Path(sys.argv[2])]), Path(sys.argv[3])))"
    assert killed_store.make(photos, tmp_path / "undisturbed.h5") == 0
    limit = (tmp_path / "undisturbed.h5").stat().st_size - 40_000  # of about 90,000 that photos take
    words = [
        sys.executable,
        "-c",
        program.replace("MOST", str(limit)),
        ROOT / "tests" / "tools",
        tmp_path / "photos",
        store,
    ]
    result = subprocess.run(words, env=ENVIRONMENT, timeout=100, capture_output=True, text=True)
    expected = "cannot be written (File too large); what was flushed is whole, and the same command goes on"
    assert (result.returncode, result.stderr) == (2, f"error: {store} {expected}\n")
    assert 0 < len(find_saved(store)) < 60
    assert_whole(store, photos)
    assert killed_store.make(photos, store) == 0 and len(find_saved(store)) == 60
    assert_whole(store, photos)


# ---------------------------------------------------------------- files of strangers


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """The bytes of a sound store of six photos."""
    folder = tmp_path_factory.mktemp("sound")
    killed_store.make(noise_photos(folder / "photos", 6), folder / "maps.h5", dtype="float16")
    return (folder / "maps.h5").read_bytes()


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
    shape, chunks = file["logits"].shape, [("/etc/passwd", 0, h5py.h5f.UNLIMITED)]
    del file["logits"]
    file.create_dataset("logits", shape, "f4", external=chunks)


def virtual(file):
    shape = file["logits"].shape
    del file["logits"]
    layout = h5py.VirtualLayout(shape, "f4")
    layout[:] = h5py.VirtualSource("/tmp/other.h5", "x", shape)
    file.create_virtual_dataset("logits", layout)


def header_with(**entries):
    def change(file):
        header = json.loads(file["header"][()].tobytes()) | entries
        del file["header"]
        file["header"] = np.frombuffer(json.dumps(header).encode(), np.uint8)

    return change


def record_with(field, value):
    def change(file):
        records = file["photos"][()]
        records[field][2] = value
        file["photos"][...] = records

    return change


def bomb(file):
    """A chunk that says it is small, and is 200 MB when it is unpacked."""
    import zlib

    maps = file["maps/heatmap"]
    maps.id.write_direct_chunk((0, 0, 0, 0), zlib.compress(bytes(200_000_000), 9)[: maps.chunks[1] * 12 * 15 * 4])


HOSTILE = {
    "other format": lambda file: file.attrs.modify("format", np.bytes_(b"camlib maps 9")),
    "no format": lambda file: file.attrs.__delitem__("format"),
    "a text for format": lambda file: file.attrs.create("format", "x" * 99_999),
    "no maps": lambda file: file.__delitem__("maps"),
    "no kind": lambda file: file.__delitem__("maps/heatmap"),
    "a kind of another name": lambda file: file.move("maps/heatmap", "maps/<script>"),
    "no photos": lambda file: file.__delitem__("photos"),
    "a group for a table": lambda file: (file.__delitem__("logits"), file.create_group("logits")),
    "a link outside": relinked("names", h5py.ExternalLink("/tmp/other.h5", "names")),
    "maps in another file": relinked("maps", h5py.ExternalLink("/tmp/other.h5", "maps")),
    "probabilities in another file": relinked("probabilities", h5py.ExternalLink("/tmp/other.h5", "x")),
    "a soft link": relinked("logits", h5py.SoftLink("/probabilities")),
    "external storage": external,
    "virtual": virtual,
    "a hundred billion photos": lambda file: file["photos"].resize(10**11, axis=0),
    "names of a hundred gigabytes": lambda file: file["names"].resize(10**11, axis=0),
    "references": replaced("logits", shape=(6, 2), dtype=h5py.ref_dtype, maxshape=(None, 2), chunks=(8192, 2)),
    "texts for names": replaced("names", shape=(6,), dtype=h5py.string_dtype(), maxshape=(None,), chunks=(65_536,)),
    "maps too large": replaced("maps/heatmap", shape=(6, 2, 99_999, 99_999), dtype="f2", chunks=(1, 1, 9, 9),
                               maxshape=(None, 2, 99_999, 99_999), shuffle=True, compression="gzip"),
    "chunks too large": replaced("photos", shape=(6,), dtype=killed_store.store.RECORD, maxshape=(None,),
                                 chunks=(50_000_000,)),
    "other filters": replaced("maps/heatmap", shape=(6, 2, 12, 15), dtype="f2", maxshape=(None, 2, 12, 15),
                              chunks=(1, 2, 12, 15), compression="lzf"),
    "a long name": record_with("name_length", 2**32 - 1),
    "a name elsewhere": record_with("name_at", 2**64 - 2),
    "a header of a list": replaced("header", data=np.frombuffer(b"[]", np.uint8)),
    "a header that is no JSON": replaced("header", data=np.frombuffer(b"{", np.uint8)),
    "a deep header": replaced("header", data=np.frombuffer(b"[" * 100_000, np.uint8)),
    "no settings": header_with(run={}),
    "no class names": header_with(class_names=[]),
    "class names of another kind": header_with(class_names={"dog": 1}),
    "more classes": header_with(class_names=["a", "b", "c"]),
    "a name that leads out": lambda file: file["names"].write_direct(np.frombuffer(b"../.png", np.uint8), None,
                                                                      np.s_[:7]),
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_store_is_one_line_and_takes_no_memory(what, sound, tmp_path, end_of):
    store = tmp_path / "maps.h5"
    store.write_bytes(sound)
    with h5py.File(store, "r+", libver=("v110", "v110")) as file:
        HOSTILE[what](file)
    tracemalloc.start()
    code, error = end_of(show_heatmaps.main, [store, "--html", tmp_path / "page.html"])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert code == 2 and error.startswith(f"error: {store} cannot be read (") and error.count("\n") == 1, error
    assert len(error) <= 300 and error.endswith("; expected a store of maps, as --store writes it\n") and peak < 20e6


@pytest.mark.parametrize("what", ["a link outside", "a hundred billion photos"])
def test_a_hostile_store_is_one_line_of_the_evaluation_and_of_a_run(what, sound, tmp_path, end_of):
    photos, store = noise_photos(tmp_path / "photos", 1), tmp_path / "maps.h5"
    store.write_bytes(sound)
    with h5py.File(store, "r+", libver=("v110", "v110")) as file:
        HOSTILE[what](file)
    data = store.read_bytes()
    words = [photos[0].path.parent, "--maps", store, "--output", tmp_path / "scores"]
    for main in (evaluate_maps.main, lambda _: StoreRun(store, {}, "", Outputs(CLASSES), overwrite=True)):
        code, error = end_of(main, words)
        assert code == 2 and error.startswith(f"error: {store} cannot be read (") and error.count("\n") == 1, error
    assert store.read_bytes() == data and not (tmp_path / "scores").exists()


@pytest.mark.parametrize("share", [0.001, 0.3, 0.9])
def test_a_cut_off_store_is_one_line(share, sound, tmp_path, end_of):
    store = tmp_path / "maps.h5"
    store.write_bytes(sound[: int(len(sound) * share)])
    code, error = end_of(show_heatmaps.main, [store, "--html", tmp_path / "page.html"])
    assert code == 2 and error.startswith("error: ") and error.count("\n") == 1 and len(error) <= 300


def test_a_damaged_map_is_left_out_and_the_others_are_shown(sound, tmp_path, capsys):
    store = tmp_path / "maps.h5"
    store.write_bytes(sound)
    with h5py.File(store) as file:
        info = file["maps/heatmap"].id.get_chunk_info_by_coord((1, 0, 0, 0))
    with open(store, "r+b") as file:
        file.seek(info.byte_offset + 20)
        file.write(b"\0\1\2\3\4\5\6\7")
    assert show_heatmaps.main([str(store), "--html", str(tmp_path / "page.html")]) == 1
    said = capsys.readouterr().out
    assert (
        "5 photos" in said and "1 photos are left out, the first since 001.png: heatmap_for_dog cannot be read" in said
    )


def test_a_chunk_that_is_larger_than_its_maps_is_not_unpacked(sound, tmp_path):
    store = tmp_path / "maps.h5"
    store.write_bytes(sound)
    with h5py.File(store, "r+", libver=("v110", "v110")) as file:
        bomb(file)
    first, second = find_saved(store)[:2]
    tracemalloc.start()
    with pytest.raises(Exception, match="heatmap_for_dog cannot be read"):
        read_map(all_maps(first)["heatmap"]["dog"])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5e6 and read_map(all_maps(second)["heatmap"]["dog"]).shape == (12, 15)
