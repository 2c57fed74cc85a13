"""What Python reaches by `from camlib import ...`."""

import importlib.util
import os
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import ENVIRONMENT, ROOT
from keras import ops

import camlib
from camlib.attribution.cam import class_activation_maps, pooled_classifier
from camlib.networks import GAP_NETWORK
from camlib.networks.checkpoint import load_network

NAMES = ["explain", "Classifier", "CAM", "GradCAM", "METHODS", "read_photo", "UserError", "WatchedMaps"]


@pytest.mark.any_backend
def test_what_needs_no_keras_does_without():
    program = (
        "import sys, camlib; from camlib import METHODS, UserError, read_photo; assert 'grad-cam' in METHODS\n"
        "assert issubclass(UserError, Exception) and callable(read_photo)\n"
        "print(sorted({name.split('.')[0] for name in sys.modules} & {'keras', 'tensorflow', 'jax'}))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, env=ENVIRONMENT)
    assert (result.returncode, result.stdout) == (0, "[]\n"), result.stderr


@pytest.mark.any_backend
def test_all_names_are_there_and_no_others():
    assert sorted(NAMES) == sorted(camlib.__all__) and set(NAMES) <= set(dir(camlib))
    assert all(getattr(camlib, name) for name in NAMES)
    with pytest.raises(AttributeError, match="no attribute 'gradcam'"):
        _ = camlib.gradcam


def test_cam_of_photos_of_any_size_is_the_equation_in_float64():
    """M_c(y, x) = sum_k w_kc f_k(y, x), its mean plus the bias the logit."""
    photos = [np.random.default_rng(0).integers(0, 256, (60, 40, 3), np.uint8), np.full((9, 30, 3), 80, np.uint8)]
    cam = camlib.CAM(camlib.Classifier.load(GAP_NETWORK, size=(24, 32)))
    known = "\nit knows dog, cat, horse, bird only; gradcam_vgg16.py --weights imagenet knows 1,000 classes"
    assert cam.classifier.description.endswith(known)
    maps, logits = cam(photos)
    network, _ = load_network(GAP_NETWORK)
    pooling, dense, _ = pooled_classifier(network)
    inputs = cam.classifier.prepare(cam.classifier.inputs(photos))
    features = np.asarray(ops.convert_to_numpy(type(network)(network.input, pooling.input)(inputs)), np.float64)
    kernel, bias = (np.asarray(weights, np.float64) for weights in dense.get_weights())
    expected = np.einsum("nhwk,kc->nchw", features, kernel)
    assert maps.shape == (2, 4, 24, 32) and maps.dtype == np.float32
    np.testing.assert_allclose(maps, expected, atol=1e-5 * np.abs(expected).max())
    np.testing.assert_allclose(logits, expected.mean(axis=(2, 3)) + bias, atol=1e-4)
    with pytest.raises(ValueError, match="differ in K"):
        class_activation_maps(ops.convert_to_tensor(features), kernel[1:])


@pytest.mark.any_backend
def test_classes_are_named_in_the_call(small_network):
    photo = np.zeros((16, 16, 3), np.uint8)
    found = camlib.explain(small_network, [photo], ["bee", "ant"], guided=False, class_names=["ant", "bee"])
    assert found.chosen.tolist() == [[1], [0]]
    for wrong, why in ((["ant", "Ant"], "class_names repeats 'ant'"), (["ant"], "1 class names for 2 outputs")):
        with pytest.raises(camlib.UserError, match=why):
            camlib.explain(small_network, [photo], class_names=wrong)


@pytest.mark.slow
@pytest.mark.any_backend
def test_a_gradcam_is_asked_again_and_again():
    """One object, photos of several sizes; the same as one call of explain for each."""
    photos = [np.random.default_rng(1).integers(0, 256, size, np.uint8) for size in ((50, 40, 3), (20, 90, 3))]
    gradcam = camlib.GradCAM(camlib.Classifier.load(GAP_NETWORK, size=(16, 16)), guided=False, classes=["dog", "bird"])
    for photo in photos:
        found = gradcam([photo])
        once = camlib.explain(GAP_NETWORK, [photo], classes=["dog", "bird"], guided=False, size=(16, 16))
        np.testing.assert_allclose(found.cams, once.cams, atol=1e-6)
        assert found.cams.shape == (2, 1, 16, 16) and found.guided is None


# ---------------------------------------------------------------- installed

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PHOTO = ROOT / "data" / "photos" / "cat" / "korat.jpg"


def scripts():
    return sorted(path.stem for path in ROOT.glob("*.py"))


@pytest.mark.any_backend
def test_every_room_is_packed_and_every_script_is_a_command():
    rooms = {path.parent.relative_to(ROOT).as_posix().replace("/", ".") for path in ROOT.glob("camlib/**/__init__.py")}
    assert sorted({*rooms, "camlib.shipped"}) == PROJECT["tool"]["setuptools"]["packages"]
    assert sorted(PROJECT["project"]["scripts"]) == sorted(["camlib", *scripts()])


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The bin folder of an environment in which the package is installed, and an empty folder to work in."""
    if not all(map(importlib.util.find_spec, ("pip", "setuptools", "wheel"))):
        pytest.skip("pip, setuptools and wheel are not all installed")
    folder = tmp_path_factory.mktemp("installed")
    source, environment, empty = folder / "source", folder / "environment", folder / "empty"
    shutil.copytree(ROOT / "camlib", source / "camlib")
    needed = ("pyproject.toml", "requirements.txt", "README.md", "LICENSE", "models", "data/imagenet_classes.txt")
    for name in (*needed, *(f"{script}.py" for script in scripts())):
        (source / name).parent.mkdir(exist_ok=True)
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    offline = ["--no-deps", "--no-index"]
    subprocess.run([*pip, "wheel", source, *offline, "--no-build-isolation", "-w", folder], check=True)
    shutil.rmtree(source)
    venv.create(environment, symlinks=os.name != "nt")
    (packages,) = {path.resolve() for path in environment.glob("[Ll]ib*/**/site-packages")}  # lib64 may be lib
    present = [path for path in sys.path if Path(path).name == "site-packages"]
    (packages / "present.pth").write_text("\n".join(present))
    commands = environment / ("Scripts" if os.name == "nt" else "bin")
    (wheel,) = folder.glob("*.whl")
    subprocess.run([*pip, "--python", commands / "python", "install", *offline, wheel], check=True)
    empty.mkdir()
    return commands, empty, wheel


@pytest.fixture
def run_installed(installed):
    """Run a command of the environment, or Python itself, in the empty folder."""
    commands, empty, _ = installed
    environment = {name: value for name, value in ENVIRONMENT.items() if name != "PYTHONPATH"}

    def run(name, *arguments):
        words = [commands / name, *arguments]
        return subprocess.run(words, capture_output=True, text=True, cwd=empty, env=environment, timeout=600)

    return run


@pytest.mark.thorough
@pytest.mark.any_backend
def test_installed_it_explains_a_photo_as_the_clone_does(installed, run_installed, run_here, tmp_path):
    _, empty, _ = installed
    program = (
        "import sys, camlib; from camlib.networks import GAP_NETWORK\n"
        "found = camlib.explain(GAP_NETWORK, sys.argv[1], guided=False)\n"
        "print(camlib.__file__, found.cams.tobytes().hex())"
    )
    result = run_installed("python", "-c", program, PHOTO)
    assert result.returncode == 0, result.stderr
    place, numbers = result.stdout.split()
    assert Path(place).is_relative_to(empty.parent)
    assert numbers == camlib.explain(GAP_NETWORK, PHOTO, guided=False).cams.tobytes().hex()
    result = run_installed("make_cam_maps", PHOTO, "--no-pictures")
    assert result.returncode == 0 and result.stdout.endswith("next: show_heatmaps outputs/cam\n"), result.stderr
    assert run_here("make_cam_maps.py", PHOTO, "--no-pictures", "--output", tmp_path).returncode == 0
    for name in ("dog", "cat", "horse", "bird"):
        file = Path("korat", f"heatmap_for_{name}.npy")
        assert (empty / "outputs" / "cam" / file).read_bytes() == (tmp_path / file).read_bytes()


@pytest.mark.thorough
@pytest.mark.any_backend
def test_installed_it_says_its_version_and_where_vgg16_is(run_installed):
    assert run_installed("camlib", "--version").stdout == f"camlib {camlib.__version__}\n"
    assert all(script in run_installed("camlib").stdout for script in scripts())
    result = run_installed("gradcam_vgg16", PHOTO)
    assert (result.returncode, result.stdout) == (2, "")
    missing = Path("models", "vgg16_4class.h5")
    assert result.stderr.startswith(f"error: {missing} does not exist; expected to run where it is, the clone")
    result = run_installed("show_heatmaps", "--sheet")
    assert result.returncode == 2 and result.stderr.endswith("see show_heatmaps --help\n")


@pytest.mark.thorough
@pytest.mark.any_backend
def test_the_wheel_holds_the_library_and_asks_for_the_requirements(installed):
    with zipfile.ZipFile(installed[2]) as wheel:
        names = set(wheel.namelist())
        (metadata,) = (wheel.read(name).decode() for name in names if name.endswith("METADATA"))
    files = {path.relative_to(ROOT).as_posix() for path in (ROOT / "camlib").rglob("*") if path.is_file()}
    library = {name for name in files if "__pycache__" not in name}
    shipped = {*(f"{script}.py" for script in scripts()), "data/imagenet_classes.txt"}
    shipped |= {"models/SHA256SUMS", "models/cam_4class.h5"}
    assert {name for name in names if "dist-info" not in name} == library | {f"camlib/shipped/{one}" for one in shipped}
    wanted = [line for line in (ROOT / "requirements.txt").read_text("utf-8").splitlines() if line[:1] not in ("#", "")]
    asked = [line.split(": ")[1] for line in metadata.splitlines() if line.startswith("Requires-Dist: ")]
    assert [one.split(">")[0].split("<")[0] for one in asked] == [one.split(">")[0] for one in wanted]
    assert len(asked) >= 10
