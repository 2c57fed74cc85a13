"""A disk that is full: one line, nothing left behind, and the files that were there are whole still."""

import os

import h5py
import keras
import numpy as np
import pytest
from conftest import full_after
from keras import layers

from camlib.console import UserError
from camlib.files import DamagedFile, read_arrays, write_arrays, write_csv, write_whole
from camlib.networks import reader
from camlib.networks.checkpoint import save_network
from camlib.photos import Photo
from camlib.preprocessing import InputSpec
from camlib.training.batches import PlainBatches
from camlib.training.class_folders import LabelledPhotos, load_labelled_photos
from camlib.training.distillation import read_answers, write_answers
from camlib.training.state import TrainingState
from train_cam_4class import main

pytestmark = pytest.mark.any_backend
INPUT_SPEC = InputSpec(["dog", "cat"], 16, 16, 1)


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(1)
    network = keras.Sequential([keras.Input((16, 16, 1)), layers.Conv2D(64, 3), layers.GlobalAveragePooling2D()])
    network.add(layers.Dense(2))
    network.compile(keras.optimizers.RMSprop(), "binary_crossentropy")
    network.optimizer.build(network.trainable_variables)
    return network


def state_of(path, network):
    """A TrainingState after an epoch, as training keeps it."""
    photos = LabelledPhotos(np.zeros((2, 16, 16, 1), np.uint8), np.arange(2))
    batches = PlainBatches(photos, INPUT_SPEC, 2)
    state = TrainingState(path, network, batches, batches, None, {"seed": 1})
    state.set_model(network)
    state.on_epoch_end(0, {"loss": 1.0})
    return state


WRITERS = {
    "arrays.npz": lambda path, network: write_arrays(path, {f"{n}": np.full(1000, n) for n in range(100)}),
    "network.h5": lambda path, network: save_network(network, path, INPUT_SPEC),
    "network.weights.h5": lambda path, network: save_network(network, path, INPUT_SPEC),
    "state.npz": state_of,
    "answers.npz": lambda path, network: write_answers(path, "k", {str(n): np.ones((6, 2)) for n in range(5000)}),
    "table.csv": lambda path, network: write_csv(path, [[number, "x"] for number in range(50_000)]),
}


@pytest.mark.parametrize("size", [0, 5_000])
@pytest.mark.parametrize("name", WRITERS)
def test_nothing_is_left_and_what_was_there_stays(tmp_path, network, capsys, name, size):  # capsys: prints need no file
    (tmp_path / name).write_bytes(b"from before")
    with full_after(size), pytest.raises(OSError, match="File too large") as refused:
        WRITERS[name](tmp_path / name, network)
    assert refused.value.filename == str(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == b"from before"
    (tmp_path / name).unlink()
    WRITERS[name](tmp_path / name, network)  # when there is room again
    if name.endswith(".h5"):
        with h5py.File(tmp_path / name) as file:
            assert len(file.keys())


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux has this device")
@pytest.mark.parametrize("small", [0, 64 << 20], ids=["its own process", "this process"])
def test_a_full_temporary_folder_is_said_to_be_one(tmp_path, network, monkeypatch, small):
    """What a network's file holds is written there first, by the process that reads it or before that begins."""
    save_network(network, tmp_path / "network.h5", INPUT_SPEC)
    monkeypatch.setattr(reader, "SMALL_FILE", small)
    with monkeypatch.context() as full, pytest.raises(UserError, match=r"holds could not be written to .*TMPDIR="):
        full.setattr(reader.tempfile, "TemporaryFile", lambda: open("/dev/full", "r+b"))  # noqa: SIM115
        reader.read_contents(tmp_path / "network.h5")
    assert reader.read_contents(tmp_path / "network.h5").names


def test_the_file_of_decoded_photos_on_a_full_disk(photo_folder, tmp_path):
    photos = photo_folder({f"{number}.png": (number, 2, 3) for number in range(40)})
    parts = {"train": [(Photo(photos / f"{number}.png", f"{number}.png", f"{number}"), 0) for number in range(40)]}
    cache = tmp_path / "net_photos.npy"
    with full_after(5_000), pytest.raises(OSError, match="File too large"):
        load_labelled_photos(parts, INPUT_SPEC, cache)
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]
    loaded, *_ = load_labelled_photos(parts, INPUT_SPEC, cache)
    assert len(loaded["train"].images) == 40


@pytest.mark.thorough
@pytest.mark.any_backend
def test_training_says_so_in_one_line_and_goes_on(photo_folder, tmp_path, end_of):
    names = [f"{name}/{number}.png" for name in ("dog", "cat") for number in range(4)]
    photos, output = photo_folder(dict.fromkeys(names, (9, 90, 9))), tmp_path / "o" / "net.h5"
    arguments = ["--data", photos, "--output", output, "--recipe", "original", "--epochs", "1", "--size", "32"]
    with full_after(1_000_000):  # the decoded photos are there; the state has 4.7 MB
        code, said = end_of(main, arguments)
    assert code == 2 and said.startswith(f"error: {tmp_path}/o/net_state.npz could not be written (File too large); ")
    assert said.count("\n") == 1 and len(said) < 300
    assert sorted(path.name for path in output.parent.iterdir()) == ["net_photos.json", "net_photos.npy"]
    assert main([str(argument) for argument in [*arguments, "--resume"]]) == 0
    assert output.exists() and not list(output.parent.glob(".*"))


# ---------------------------------------------------------------- damaged files


def flip(path, place):
    """Change one byte of a file."""
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.mark.any_backend
def test_a_file_with_another_content_is_not_believed(tmp_path):
    path = tmp_path / "x.npz"
    write_arrays(path, {"numbers": np.arange(1000), "text": np.array("é")})
    found = read_arrays(path)
    np.testing.assert_array_equal(found["numbers"], np.arange(1000))
    assert str(found["text"]) == "é"
    place = path.read_bytes().index(np.arange(500, 510).tobytes())
    flip(path, place)
    with pytest.raises(DamagedFile, match="x.npz is damaged or of an earlier version"):
        read_arrays(path)
    for content in (path.read_bytes()[:600], b"", b"not an archive", b"PK"):
        path.write_bytes(content)
        with pytest.raises(DamagedFile):
            read_arrays(path)
    with pytest.raises(FileNotFoundError):
        read_arrays(tmp_path / "none.npz")


def test_a_damaged_state_is_told(tmp_path, network):
    state = state_of(tmp_path / "state.npz", network)
    assert state.restore(network) == 1
    weight = max(network.get_weights(), key=np.size)
    flip(state.path, state.path.read_bytes().index(weight[2, 2].tobytes()[:64]))
    with pytest.raises(Exception, match="damaged or of an earlier version; expected .* --overwrite trains anew"):
        state.restore(network)


@pytest.mark.any_backend
def test_damaged_answers_are_asked_for_anew(tmp_path, capsys):
    path, logits = tmp_path / "answers.npz", np.arange(12, dtype=np.float32).reshape(6, 2)
    write_answers(path, "key", {"a": logits})
    np.testing.assert_array_equal(read_answers(path, "key")["a"], logits)
    assert read_answers(path, "another") == {} and not capsys.readouterr().out
    flip(path, path.read_bytes().index(logits.tobytes()) + 5)
    assert read_answers(path, "key") == {}
    assert "is damaged or of an earlier version: its answers are asked for anew" in capsys.readouterr().out


@pytest.mark.any_backend
@pytest.mark.parametrize("file", ["net_photos.npy", "net_photos.json"])
def test_damaged_photos_and_labels_are_made_anew(file, photo_folder, tmp_path, capsys):
    photos = photo_folder({f"{number}.png": (number, 2, 3) for number in range(9)})
    parts = {"train": [(Photo(photos / f"{number}.png", f"{number}.png", f"{number}"), number) for number in range(9)]}
    cache = tmp_path / "net_photos.npy"
    before, *_ = load_labelled_photos(parts, INPUT_SPEC, cache)
    images, whole = before["train"].images[:].copy(), {path: path.read_bytes() for path in tmp_path.glob("net*")}
    content = (tmp_path / file).read_bytes()
    for damaged in (content[: len(content) // 2], content[:-900] + b"?" + content[-899:]):
        (tmp_path / file).write_bytes(damaged)
        again, *_ = load_labelled_photos(parts, INPUT_SPEC, cache)
        np.testing.assert_array_equal(again["train"].labels, np.arange(9))
        np.testing.assert_array_equal(again["train"].images, images)
        assert {path: path.read_bytes() for path in tmp_path.glob("net*")} == whole
    assert ("is damaged: its photos are decoded anew" in capsys.readouterr().out) == (file == "net_photos.npy")


def test_a_whole_file_that_may_not_get_its_name(tmp_path):
    (tmp_path / "x").mkdir()
    with pytest.raises(OSError):
        write_whole(tmp_path / "x", lambda file: file.write(b"1"))
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
