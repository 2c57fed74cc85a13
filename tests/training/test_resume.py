"""Training that ends early: killed and resumed, asked to stop, without its report, and losing its way."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
from conftest import ENVIRONMENT, ROOT
from small_training import CONVOLUTIONS, QUICK, assert_same_training, colour_files

from camlib.console import UserError
from camlib.files import read_arrays, write_arrays
from camlib.networks.architectures import original_network
from camlib.networks.checkpoint import load_network
from camlib.preprocessing import InputSpec
from camlib.training.batches import PlainBatches
from camlib.training.class_folders import LabelledPhotos
from camlib.training.state import TrainingState, read_state
from train_cam_4class import main


@pytest.fixture
def colour_photos(photo_folder):
    return photo_folder(colour_files())


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr("camlib.networks.architectures.MODERN_CONVOLUTIONS", CONVOLUTIONS)


@pytest.mark.thorough
@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL to send to a process")
def test_killed_and_resumed_training_ends_with_the_same_weights(small, run_here, run_script, colour_photos, tmp_path):
    def train(name, *more):
        output = tmp_path / name / "net.h5"
        return "train_cam_4class.py", "--data", colour_photos, "--output", output, "--epochs", 3, *QUICK, *more

    assert run_here(*train("whole")).returncode == 0
    _, *arguments = train("killed")
    killed = run_script("tests/tools/small_training.py", *arguments, environment={"DIES": "after an epoch"})
    state = tmp_path / "killed" / "net_state.npz"
    assert killed.returncode == -signal.SIGKILL and len(read_state(state)[0]["history"]) == 1
    refused = run_here(*train("killed"))
    assert refused.returncode == 2 and "expected --resume to go on" in refused.stderr
    other = run_here(*train("killed", "--resume", "--seed", 7, "--batch-size", 12))
    assert other.returncode == 2  # the seed splits the photos
    assert "was trained with other settings (seed, batch_size, photos_sha256)" in other.stderr
    for photo in colour_photos.rglob("*.png"):
        os.utime(photo, (0, 0))  # the photos were copied anew since, which changes nothing
    resumed = run_here(*train("killed", "--resume"))
    assert resumed.returncode == 0, resumed.stderr
    assert "epoch 1 of 3" not in resumed.stdout and "epoch 2 of 3" in resumed.stdout
    assert_same_training(tmp_path / "whole", tmp_path / "killed")
    assert not state.exists()
    again = run_here(*train("killed", "--resume"))
    assert again.returncode == 0 and "is finished" in again.stdout
    longer = run_here(*train("killed", "--resume", "--epochs", 5))
    assert longer.returncode == 2 and "was trained with other settings (epochs)" in longer.stderr


@pytest.mark.thorough
@pytest.mark.any_backend
@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals to send to a process")
@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM])
def test_ctrl_c_and_schedulers_end_training_after_a_step(colour_photos, tmp_path, number):
    """While batches are on their way through the backend's threads; it says how training goes on."""
    command = [sys.executable, ROOT / "tests" / "tools" / "small_training.py", "--data", colour_photos, *QUICK,
               "--output", tmp_path / "n.h5", "--epochs", "1000"]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    deadline = time.monotonic() + 300
    while not (tmp_path / "n_state.npz").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    expected = "stopped: every file written is whole; with --resume the same command goes on from the last whole epoch"
    assert (process.returncode, error) == (128 + number, f"\n{expected}\n")
    assert read_state(tmp_path / "n_state.npz")[0]["history"]  # whole
    assert not list(tmp_path.glob(".*"))


@pytest.mark.thorough
@pytest.mark.any_backend
def test_training_is_finished_before_its_report(small, colour_photos, tmp_path, capsys):
    """A figure that cannot be drawn, since a folder has its name, costs a warning."""
    output = tmp_path / "o" / "net.h5"
    (tmp_path / "o" / "net_confusion.png").mkdir(parents=True)
    arguments = ["--data", str(colour_photos), "--output", str(output), *QUICK, "--epochs", "1"]
    assert main(arguments) == 1
    assert re.fullmatch(
        r"warning: .*the confusion matrix could not be made \(.*\); the network is finished .*\n",
        capsys.readouterr().err,
    )
    assert load_network(output)[0].count_params() and (tmp_path / "o" / "net_curves.png").exists()
    assert not (tmp_path / "o" / "net_state.npz").exists()
    assert main([*arguments, "--resume"]) == 0 and "is finished" in capsys.readouterr().out


REPORT = ("net_history.csv", "net_curves.png", "net_confusion.png")


@pytest.mark.thorough
@pytest.mark.any_backend
@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL to send to a process")
def test_a_training_killed_before_its_report_makes_it_when_it_is_resumed(
    small, run_here, run_script, colour_photos, tmp_path
):
    """The files are those of a training that was not killed, and not those of an earlier one."""

    def train(name, *more):
        return ["--data", colour_photos, "--output", tmp_path / name / "net.h5", *QUICK, "--epochs", "1", *more]

    def report(name):
        return {file: (tmp_path / name / file).read_bytes() for file in REPORT}

    assert run_here("train_cam_4class.py", *train("whole")).returncode == 0
    assert run_here("train_cam_4class.py", *train("killed", "--learning-rate", "0.5")).returncode == 0
    other = report("killed")
    killed = run_script(
        "tests/tools/small_training.py", *train("killed", "--overwrite"), environment={"DIES": "before its report"}
    )
    assert killed.returncode == -signal.SIGKILL and not (tmp_path / "killed" / "net_state.npz").exists()
    resumed = run_here("train_cam_4class.py", *train("killed", "--resume"))
    assert resumed.returncode == 0 and "was without some of its files" in resumed.stdout, resumed
    assert "top-1 accuracy on the" in resumed.stdout and report("killed") == report("whole") != other
    (tmp_path / "killed" / "net.weights.h5").unlink()
    assert "was without some of its files" in run_here("train_cam_4class.py", *train("killed", "--resume")).stdout
    again = run_here("train_cam_4class.py", *train("killed", "--resume"))
    assert again.stdout.endswith("is finished; to train it anew use --overwrite\n") and "without" not in again.stdout
    assert (tmp_path / "killed" / "net.weights.h5").exists() and report("killed") == report("whole")


@pytest.mark.any_backend
@pytest.mark.parametrize("change", ["no settings", "settings of no dict", "no history", "another optimizer", "a shape"])
def test_a_state_of_another_version_is_one_line(tmp_path, change):
    """Of Keras too, whose optimizers keep other arrays."""
    network = original_network(2)
    network.compile(keras.optimizers.RMSprop(), "binary_crossentropy")
    network.optimizer.build(network.trainable_variables)
    photos = PlainBatches(
        LabelledPhotos(np.zeros((2, 8, 8, 1), np.uint8), np.arange(2)), InputSpec(["dog", "cat"], 8, 8, 1), 2
    )
    state = TrainingState(tmp_path / "state.npz", network, photos, photos, None, {})
    state.set_model(network)
    state.best_weights = network.get_weights()
    state.save()
    arrays = read_arrays(state.path)
    about = json.loads(str(arrays["about"]))
    if change == "another optimizer":
        del arrays[max(name for name in arrays if name.startswith("optimizer"))]
    elif change == "a shape":
        arrays["weights/0000"] = arrays["weights/0000"][..., :1]
    elif change == "settings of no dict":
        about["settings"] = 5
    else:
        del about[change.removeprefix("no ")]
    write_arrays(state.path, arrays | {"about": np.array(json.dumps(about))})
    with pytest.raises(UserError, match="state.npz is damaged or of an earlier version; expected the state"):
        state.restore(network)


@pytest.mark.any_backend
def test_a_loss_that_is_no_number_ends_training(tmp_path):
    """Of the validation photos as well, and in the first epoch, when there are no best weights to save."""
    network = original_network(2)
    network.set_weights([array * np.nan for array in network.get_weights()])
    network.compile(loss="binary_crossentropy")
    photos = LabelledPhotos(np.zeros((2, 8, 8, 1), np.uint8), np.arange(2))
    validation = PlainBatches(photos, InputSpec(["dog", "cat"], 8, 8, 1), 2)
    state = TrainingState(tmp_path / "state.npz", network, None, validation, 5, {})
    with pytest.raises(
        UserError,
        match="val_loss is nan in epoch 1; expected a number: try a lower --learning-rate, or --dtype float32",
    ):
        state.on_epoch_end(0, {"loss": 1.0})
    assert not state.path.exists()


@pytest.mark.any_backend
def test_the_last_good_weights_outlive_a_loss_that_is_no_number(tmp_path, capsys):
    network = original_network(2)
    network.compile(keras.optimizers.RMSprop(), "binary_crossentropy")
    network.optimizer.build(network.trainable_variables)
    photos = LabelledPhotos(np.zeros((2, 8, 8, 1), np.uint8), np.arange(2))
    validation = PlainBatches(photos, InputSpec(["dog", "cat"], 8, 8, 1), 2)
    state = TrainingState(tmp_path / "state.npz", network, validation, validation, None, {})
    state.set_model(network)
    state.on_epoch_end(0, {"loss": 1.0})
    good, before = network.get_weights(), state.path.read_bytes()
    network.set_weights([array * np.nan for array in good])
    network.stop_training = False
    state.on_train_batch_end(0, {"loss": 0.5})
    assert not network.stop_training
    state.on_train_batch_end(1, {"loss": np.nan})
    assert network.stop_training
    state.on_epoch_end(1, {"loss": np.nan})
    for kept, array in zip(state.best_weights, good, strict=True):
        np.testing.assert_array_equal(kept, array)
    assert state.path.read_bytes() == before
    said = "loss is nan in epoch 2: the weights of epoch 1, the best before, are kept; a lower --learning-rate, or"
    assert capsys.readouterr().out.startswith(said)
