"""The maps of a few photos after each epoch: of the weights as they are then, whole, and a film of all epochs."""

import keras
import numpy as np
import pytest
from conftest import CLASSES
from keras import layers
from PIL import Image
from small_training import QUICK, assert_same_training, colour_files

from camlib import UserError, WatchedMaps, explain
from camlib.plots.panels import sheet_of
from train_cam_4class import main

OPTIONS = {"preprocess": "0.00392156862745098,0", "class_names": CLASSES}


def small_model():
    image = keras.Input((16, 16, 3))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(3, 1, activation="relu", name="conv")(image))
    network = keras.Model(image, layers.Dense(2, activation="softmax")(x))
    for number, weight in enumerate(network.weights):
        weight.assign(np.random.default_rng(number).uniform(0.1, 1, weight.shape))
    return network


@pytest.fixture
def photos(photo_folder):
    return photo_folder({"dog/a.png": (200, 30, 90), "cat/b.png": (10, 220, 60)})


def frames_of(path):
    """The frames of a film: list of uint8 (H, W, 3)."""
    with Image.open(path) as film:
        frames = []
        for number in range(film.n_frames):
            film.seek(number)
            frames.append(np.asarray(film.convert("RGB")))
        return frames


def test_each_picture_is_of_the_weights_after_its_epoch(photos, tmp_path):
    network, weights = small_model(), []
    network.compile(keras.optimizers.SGD(2.0), "categorical_crossentropy")
    noise = np.random.default_rng(0).random((8, 16, 16, 3), np.float32)
    kept = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: weights.append(network.get_weights()))
    watched = WatchedMaps([photos], tmp_path / "watched", **OPTIONS)
    network.fit(noise, np.eye(2, dtype=np.float32)[[0, 1] * 4], epochs=3, verbose=0, callbacks=[kept, watched])
    pictures = [tmp_path / "watched" / f"epoch_000{epoch}.png" for epoch in (1, 2, 3)]
    shown = []
    for epoch, (path, after) in enumerate(zip(pictures, weights, strict=True), 1):
        other = small_model()
        other.set_weights(after)
        rows = explain(other, photos, classes=["all"], guided=False, **OPTIONS).rows()
        assert [row.heading for row in rows] == [["cat/b.png"], ["dog/a.png"]]
        rows[0].heading.insert(0, f"epoch {epoch}")
        shown.append(np.asarray(Image.open(path)))
        differ = (shown[-1].astype(int) != sheet_of(rows)).mean()
        assert differ < 1e-3, epoch  # but for the rounding of single pixels
    assert not np.array_equal(shown[0][60:], shown[1][60:])
    frames = frames_of(tmp_path / "watched" / "film.gif")
    assert len(frames) == 3
    for frame, picture in zip(frames, shown, strict=True):
        height, width = picture.shape[:2]
        assert np.abs(frame[:height, :width].astype(int) - picture).mean() < 8  # of 256 colours


@pytest.mark.thorough
def test_a_training_that_was_stopped_has_all_epochs(run_here, stopped_after_an_epoch, photo_folder, photos, tmp_path):
    """It is stopped between the state of its first epoch and that epoch's picture; the weights know nothing of it."""
    data = photo_folder(colour_files(), folder="data")

    def train(name, *more):
        output = tmp_path / name / "net.h5"
        return ["--data", data, "--output", output, "--recipe", "original", "--epochs", 3, *QUICK, *more]

    watched = tmp_path / "stopped" / "net_watched"
    assert stopped_after_an_epoch(main, train("stopped", "--watch", photos))[0] == 130
    assert not list(watched.glob("*.png"))
    for name in ("epoch_0002.png", "epoch_0007.png"):  # of an earlier training
        watched.mkdir(exist_ok=True)
        Image.new("RGB", (9, 9)).save(watched / name)
    result = run_here("train_cam_4class.py", *train("stopped", "--watch", photos, "--resume"))
    assert result.returncode == 0, result.stderr
    assert sorted(path.name for path in watched.glob("*.[pg]*")) == [
        "epoch_0001.png", "epoch_0002.png", "epoch_0003.png", "film.gif"]  # fmt: skip
    assert len(frames_of(watched / "film.gif")) == 3 and Image.open(watched / "epoch_0002.png").width > 200
    assert run_here("train_cam_4class.py", *train("whole")).returncode == 0
    assert_same_training(tmp_path / "whole", tmp_path / "stopped")
    assert not (tmp_path / "whole" / "net_watched").exists()


@pytest.mark.any_backend
def test_what_cannot_be_watched_is_refused_before_training(photo_folder, end_of, tmp_path):
    many = photo_folder({f"{number}.png": (9, 9, 9) for number in range(13)})
    end = end_of(main, ["--output", tmp_path / "n.h5", "--data", many, "--watch", many])
    assert end == (2, "error: 13 photos to watch; expected at most 12\n")
    code, said = end_of(main, ["--watch", many / "1.png", "--host", "0/2", "--coordinator", "localhost:1234"])
    assert code == 2 and said.startswith("error: --watch draws in one process; expected no --host")
    end = end_of(main, ["--output", tmp_path / "n.h5", "--data", many, "--watch", tmp_path / "no.png"])
    assert end == (2, f"error: {tmp_path / 'no.png'} does not exist; expected a photo or a folder of photos\n")
    (tmp_path / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    watched = WatchedMaps(tmp_path / "cut.png", tmp_path / "watched", **OPTIONS)
    with pytest.raises(UserError, match="cut.png: not a JPEG"):
        watched.prepare(small_model())


@pytest.mark.any_backend
def test_tensorboard_reads_the_event_files(photos, tmp_path):
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")
    watched = WatchedMaps(photos, tmp_path, small_model(), **OPTIONS)
    watched.go_on(2)
    (path,) = tmp_path.glob("events.out.tfevents*")
    (event,) = loader.LegacyEventFileLoader(str(path)).Load()
    (value,) = event.summary.value
    assert event.step == 2 and value.image.encoded_image_string == (tmp_path / "epoch_0002.png").read_bytes()
