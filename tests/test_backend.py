"""The user's settings of Keras: keras.json, KERAS_BACKEND and what code sets; what of them may matter, and what not."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from conftest import ENVIRONMENT, ROOT
from keras import layers

import train_cam_4class
from camlib import explain
from camlib.attribution.cam import CAM
from camlib.backend import usual_settings
from camlib.demo.scenes import demo_folder
from camlib.networks import GAP_NETWORK
from camlib.networks.checkpoint import load_network
from camlib.photos import read_photo
from gradcam_vgg16 import main

SETTINGS = {  # image_data_format, floatx, dtype_policy
    "channels first": ("channels_first", "float32", "float32"),
    "float64": ("channels_last", "float64", "float64"),
    "mixed precision": ("channels_last", "float16", "mixed_float16"),
}


def change_settings(image_data_format, floatx, policy):
    keras.config.set_image_data_format(image_data_format)
    keras.config.set_floatx(floatx)
    keras.config.set_dtype_policy(policy)


@pytest.fixture(params=SETTINGS)
def changed_settings(request):
    with usual_settings():  # which puts back what was there before
        change_settings(*SETTINGS[request.param])
        yield


def rescaled(path):
    """The file of a network whose Rescaling has one number per channel: Keras asks for the layout at each call."""
    keras.utils.set_random_seed(0)
    network = keras.Sequential(
        [
            keras.Input((24, 32, 3)),
            layers.Rescaling([1 / 255, 1 / 127, 1 / 63], [0.0, -0.5, 0.5]),
            layers.Conv2D(6, 3, activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3, activation="softmax"),
        ]
    )
    network.save(path)
    return path


def everything(other_file):
    """Maps of a shipped pooling-free network and of another, by all that resizes, hides or weighs."""
    photo = read_photo(demo_folder() / "both" / "both_000.jpg")
    found = list(CAM.load(GAP_NETWORK, {"size": (32, 40)})([photo]))
    for method in ("grad-cam", "score-cam", "ablation-cam"):
        found += explain(other_file, [photo], [0, 1], method)[3:7]  # features to products
    return [part for part in found if part is not None]


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    path = rescaled(tmp_path_factory.mktemp("network") / "rescaled.keras")
    return path, everything(path)


@pytest.mark.thorough
def test_maps_do_not_depend_on_the_users_settings(usual, changed_settings):
    path, expected = usual
    for ours, theirs in zip(everything(path), expected, strict=True):
        assert ours.dtype == np.float32
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.any_backend
def test_the_users_settings_are_left_as_they_are(changed_settings):
    config = keras.config

    def settings():
        return config.image_data_format(), config.floatx(), config.epsilon(), config.dtype_policy().name

    before = settings()
    load_network(GAP_NETWORK)
    assert settings() == before
    with pytest.raises(ZeroDivisionError), usual_settings():
        assert settings() == ("channels_last", "float32", 1e-7, "float32") != before
        raise ZeroDivisionError
    assert settings() == before


@pytest.mark.thorough
@pytest.mark.any_backend
def test_training_does_not_depend_on_them(photo_folder, tmp_path):
    photos = photo_folder({f"{name}/{number}.png": (80 * number, 90, 90) for name in "ab" for number in range(5)})
    arguments = ["--data", str(photos), "--recipe", "original", "--epochs", "1", "--size", "32"]
    arguments += ["--output", str(tmp_path / "net.h5")]
    with usual_settings():
        change_settings("channels_first", "float64", "float64")
        assert train_cam_4class.main(arguments) == 0
    network, _ = load_network(tmp_path / "net.h5")
    assert network.layers[1].data_format == "channels_last"
    assert {weight.dtype for weight in network.weights} == {"float32"}
    assert all(np.isfinite(values).all() for values in network.get_weights())


@pytest.mark.thorough
@pytest.mark.any_backend
def test_scripts_do_not_depend_on_keras_json(run_script, photo_folder, tmp_path, usual):
    """In a process of its own, as Keras reads keras.json where it is imported."""
    photos = photo_folder({"a.png": (200, 100, 50)})
    (tmp_path / "keras.json").write_text(json.dumps({"image_data_format": "channels_first", "floatx": "float64"}))
    arguments = [str(photos), "--weights", str(usual[0]), "--classes", "0", "--output"]
    result = run_script("gradcam_vgg16.py", *arguments, tmp_path / "one", environment={"KERAS_HOME": str(tmp_path)})
    assert result.returncode == 0, result.stderr
    assert main([*arguments, str(tmp_path / "other")]) == 0
    names = sorted(path.name for path in (tmp_path / "one" / "a").glob("*.npy"))
    assert len(names) == 3
    for name in names:
        np.testing.assert_array_equal(np.load(tmp_path / "one" / "a" / name), np.load(tmp_path / "other" / "a" / name))


# ---------------------------------------------------------------- where Keras does not start


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("script", "settings", "environment", "reason"),
    [
        ("gradcam_vgg16.py", {"backend": "theano"}, None, "Unable to import backend : theano"),
        ("train_cam_4class.py", ["tensorflow"], None, "'list' object has no attribute 'get'"),
        ("make_cam_maps.py", {}, "torch", "torch"),
    ],
)
def test_a_backend_that_does_not_start_is_one_line(run_script, tmp_path, script, settings, environment, reason):
    (tmp_path / "keras.json").write_text(json.dumps(settings))
    variables = {"KERAS_HOME": str(tmp_path), "KERAS_BACKEND": environment}
    result = run_script(script, "--output", tmp_path / "made.h5", environment=variables)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("error: Keras cannot start (") and reason in result.stderr
    assert f"expected the backend tensorflow or jax in KERAS_BACKEND or {tmp_path}/keras.json" in result.stderr
    assert result.stderr.count("\n") == 1 and "Traceback" not in result.stderr


@pytest.mark.thorough
@pytest.mark.any_backend
@pytest.mark.skipif(os.name == "nt", reason="the redirections are those of sh")
def test_a_program_whose_streams_are_closed_imports_the_library():
    """As a daemon's."""
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from camlib import explain"
    command = ["sh", "-c", '"$@" <&- >&- 2>&-', "sh", sys.executable, "-c", program]
    assert subprocess.run(command, env=ENVIRONMENT, timeout=600).returncode == 0


@pytest.mark.thorough
@pytest.mark.any_backend
def test_importing_without_a_backend_is_an_import_error(run_script, tmp_path):
    """Of a program of the user's own, which may catch it."""
    program = tmp_path / "own.py"
    program.write_text(
        f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n"
        "try:\n    from camlib import explain\nexcept ImportError as error:\n    print(error)\n"
    )
    result = run_script(program, environment={"KERAS_BACKEND": "numpy"})
    assert result.returncode == 0 and result.stdout.startswith("Keras cannot start (the backend numpy has no gradients")
