"""What several test files use: tiny networks with hand-set weights, small photo folders, the scripts as processes."""

import contextlib
import csv
import importlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from PIL import Image

from camlib import console
from camlib.attribution import Outputs
from camlib.photos import Photo
from camlib.plots.colours import Style
from camlib.preprocessing import InputSpec, probabilities_of
from camlib.runs.folder_run import FolderRun
from camlib.runs.run import Finished
from camlib.runs.writers import Drawing, write_photo_maps

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # the tests run in the background of a shell
    signal.signal(signal.SIGINT, signal.default_int_handler)  # else the processes they start would ignore Ctrl-C
if getattr(signal, "SIGHUP", None) and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # or under nohup
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
ENVIRONMENT = dict(os.environ)  # as the user's; the libraries imported later add to it
ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared"  # development data; tests that need it skip without it


@pytest.fixture
def run_script():
    """Run one of the scripts as its user would: run_script("make_cam_maps.py", folder, "--size", 32).

    `environment` holds variables to set, or to remove where the value is None.
    """

    def run(name, *arguments, cwd=ROOT, environment=None):
        return subprocess.run(
            [sys.executable, str(ROOT / name), *map(str, arguments)],
            capture_output=True,
            text=True,
            cwd=cwd,
            env={name: value for name, value in (ENVIRONMENT | (environment or {})).items() if value is not None},
            timeout=600,
        )

    return run


@pytest.fixture(scope="module")
def open_browser():
    """Open a headless Chromium of a width and height in pixels; its logs tell errors, and what it asks of the net."""
    driver = shutil.which("chromedriver")
    binary = shutil.which("chromium") or shutil.which("chromium-browser")
    if not (driver and binary):
        pytest.skip("needs Debian's chromium and chromium-driver")
    selenium = pytest.importorskip("selenium.webdriver")
    opened = []

    def open_one(width, height):
        options = selenium.ChromeOptions()
        options.binary_location = binary
        flags = "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking"
        for flag in f"{flags} disable-component-update disable-sync window-size={width},{height}".split():
            options.add_argument(f"--{flag}")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        opened.append(selenium.Chrome(options, selenium.ChromeService(driver)))
        return opened[-1]

    yield open_one
    for browser in opened:
        browser.quit()


@pytest.fixture(autouse=True)
def same_weights():
    """Networks of random weights are the same ones each time; of tests without Keras it is not imported."""
    if "keras" in sys.modules:
        sys.modules["keras"].utils.set_random_seed(0)


@pytest.fixture(autouse=True)
def no_outputs(tmp_path, monkeypatch):
    """Without `--output` scripts in this process write below the test's folder; `outputs` may hold anything."""
    for script in ("evaluate_maps", "gradcam_vgg16", "make_cam_maps", "train_cam_4class"):
        main = importlib.import_module(script)
        monkeypatch.setattr(main, "OUTPUT", tmp_path / main.OUTPUT)


@pytest.fixture
def run_here(capsys):
    """As `run_script`, in this process, which has imported Keras already."""

    def run(name, *arguments):
        main = importlib.import_module(Path(name).stem).main
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            console.run_script(lambda: main([str(argument) for argument in arguments]))
        said = capsys.readouterr()
        return SimpleNamespace(returncode=ended.value.code, stdout=said.out, stderr=said.err)

    return run


@pytest.fixture
def end_of(capsys):
    """How a script ends, in this process: end_of(main, ["--size", "0"]) -> (exit code, what it says on stderr)."""

    def end(main, arguments):
        with pytest.raises(SystemExit) as ended:
            console.run_script(lambda: main([str(argument) for argument in arguments]))
        return ended.value.code, capsys.readouterr().err

    return end


@pytest.fixture
def stopped_after_an_epoch(monkeypatch, end_of):
    """How a training ends, as `end_of`, that Ctrl-C meets once its first epoch is saved."""

    def run(main, arguments):
        from camlib.training.state import TrainingState  # with Keras, which few tests need

        save = TrainingState.save

        def stopped(state):
            save(state)
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(TrainingState, "save", stopped)
            patched.setattr("camlib.console.os._exit", sys.exit)  # this process has to go on
            return end_of(main, arguments)

    return run


@pytest.fixture
def photo_folder(tmp_path):
    """Make a folder of photos: photo_folder({"dog/a.jpg": (255, 0, 0)}) with one colour and noise each."""

    def make(photos, size=(40, 30), folder="photos"):
        generator = np.random.default_rng(0)
        for name, colour in photos.items():
            path = tmp_path / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            noise = generator.integers(-20, 20, (size[1], size[0], 3))
            Image.fromarray(np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)).save(path)
        return tmp_path / folder

    return make


@pytest.fixture
def folder_for_all():
    """A folder that others may enter and write to; pytest closes its own again whenever another run of it begins."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)


@pytest.fixture
def photos_with_closed_folder(photo_folder, folder_for_all):
    """photos/open/a.png may be read by anybody, photos/closed by nobody."""
    photos = photo_folder({"open/a.png": (1, 2, 3), "closed/b.png": (4, 5, 6)})
    folder = shutil.copytree(photos, folder_for_all / "photos")
    (folder / "closed").chmod(0)
    yield folder
    (folder / "closed").chmod(0o755)


@pytest.fixture
def as_nobody(photos_with_closed_folder):
    """Root may read everything: give the right up for the test."""
    if os.geteuid() == 0:
        metadata.version("numpy")  # imports what an interpreter in root's home would no longer find
        os.seteuid(65534)
        yield
        os.seteuid(0)
    else:
        yield


def read_csv(path):
    """The rows of a CSV file, list of dicts."""
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_weights_file(path, network):
    """Write the weights of a network as Keras 1 and 2 did, and as keras.applications downloads them."""
    import h5py

    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [layer.name.encode() for layer in network.layers]
        for layer in network.layers:
            group = file.create_group(layer.name)
            labels = [f"{layer.name}_{number}:0" for number in range(len(layer.weights))]
            group.attrs["weight_names"] = [label.encode() for label in labels]
            for label, array in zip(labels, layer.get_weights(), strict=True):
                group[label] = array


@pytest.fixture(scope="session")
def imagenet_file(tmp_path_factory):
    """(path, keras.Model): Keras's weights file of VGG-16 in the layout of Keras 1 and 2, with random weights."""
    import keras

    keras.utils.set_random_seed(5)
    reference = keras.applications.VGG16(weights=None)
    path = tmp_path_factory.mktemp("imagenet") / "vgg16_weights_tf_dim_ordering_tf_kernels.h5"
    write_weights_file(path, reference)
    yield path, reference
    path.unlink()  # 553 MB


@pytest.fixture(scope="session")
def small_network(tmp_path_factory):
    """The file of a network with one ReLU, global average pooling and two classes, for photos of 16 x 16 pixels."""
    import keras

    from camlib.networks.checkpoint import save_network

    image = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(4, 3, activation="relu", name="conv")(image)
    x = keras.layers.GlobalAveragePooling2D(name="gap")(x)
    network = keras.Model(image, keras.layers.Dense(2, activation="softmax", name="class")(x))
    for weight in network.weights:
        weight.assign(np.random.default_rng(len(weight.shape)).normal(size=weight.shape))
    path = tmp_path_factory.mktemp("small") / "small.h5"
    save_network(network, path, InputSpec(CLASSES, 16, 16, 3))
    return path


@contextlib.contextmanager
def full_after(size):
    """A disk that takes files of at most so many bytes: the system refuses the rest, as a full one does."""
    resource = pytest.importorskip("resource")  # Windows has no limit of a file's size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextlib.contextmanager
def ended_within(seconds):
    """Let the test fail where something takes longer, which might not end for hours."""

    def end(*_):
        pytest.fail(f"not done within {seconds} s")  # which no "except Exception" catches

    before = signal.signal(signal.SIGALRM, end)  # Windows has none
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


CLASSES = ["dog", "cat"]


def make_run(output, names, kind="heatmap", classes=CLASSES, settings=None):
    """A run folder as the scripts write it; photo i, class c has the map i + c everywhere, negative for odd c."""
    run = FolderRun(output, settings or {}, "", Outputs(classes))
    run.resume([])
    for index, name in enumerate(names):
        photo = Photo(output / name, name, name.rpartition(".")[0])
        folder = output / photo.folder
        folder.mkdir(parents=True, exist_ok=True)
        picture = np.full((30, 40, 3), 20 * index, np.uint8)
        of_classes = {name: np.full((6, 8), (index + c) * (-1) ** c, np.float32) for c, name in enumerate(classes)}
        write_photo_maps(folder, picture, {kind: of_classes}, Drawing(Style(), {kind: True}, {}), {})
        Image.fromarray(picture).save(folder / "photo.jpg")
        logits = np.zeros((1, len(classes)))
        logits[0, index % len(classes)] = np.log(3)  # of two classes: 0.75 and 0.25
        run.add(Finished([photo], logits, probabilities_of(logits), [], {}))
    run.close()
    return output


@pytest.fixture
def run_folder(tmp_path):
    return make_run(tmp_path / "cam", ["b/x.jpg", "a/y.jpg", "a/z z.png"])


def weights_of(path):
    """All arrays of an HDF5 file by their paths in it."""
    arrays = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: arrays.update({name: item[()]} if isinstance(item, h5py.Dataset) else {}))
    return arrays
