"""Engines: Ray's workers do what one process does, also when one of them is killed; photos at places of fsspec."""

import importlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

import gradcam_vgg16
import make_cam_maps
from camlib.attribution import Outputs
from camlib.console import UserError
from camlib.files import parse_place
from camlib.photos import Photo, find_photos, read_photo
from camlib.runs import ray as engine
from camlib.runs.folder_run import FolderRun

pytestmark = [pytest.mark.any_backend, pytest.mark.thorough]
SCRIPTS = {"make_cam_maps": (make_cam_maps.main, "--model"), "gradcam_vgg16": (gradcam_vgg16.main, "--weights")}


@pytest.fixture(scope="module")
def given(small_network, tmp_path_factory):
    """(a network's file, a folder of 25 photos, of which one is no picture)."""
    folder, generator = tmp_path_factory.mktemp("ray"), np.random.default_rng(0)
    for number in range(24):
        path = folder / "abc"[number % 3] / f"{number:02d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (200, 300, 3), np.uint8)).save(path)
    (folder / "b" / "10.jpg").write_text("no photo")
    return small_network, folder


def contents(folder):
    """What a run wrote: dict of path -> bytes, without the record of its command."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "run.json"
    }


def run(script, given, output, *more):
    main, option = SCRIPTS[script]
    file, photos = given
    return main([str(photos), option, str(file), "--output", str(output), "--batch-size", "2", *map(str, more)])


# ---------------------------------------------------------------- Ray


@pytest.fixture(scope="module")
def ray():
    return pytest.importorskip("ray", reason="pip install -r requirements-cluster.txt brings Ray")


@pytest.fixture
def marked(monkeypatch):
    """A variable that the processes of this test alone have."""
    mark = f"CAM_TEST_{time.monotonic_ns()}"
    monkeypatch.setenv(mark, "1")
    return mark


def workers_with(mark):
    """The processes of Ray's actors that have the mark: list of int."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit() and b"MapWorker" in (process / "cmdline").read_bytes():
                found += [int(process.name)] * (mark.encode() in (process / "environ").read_bytes())
        except OSError:
            continue  # it has just ended
    return found


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds processes as Linux shows them")
def test_sigterm_ends_a_run_of_ray_as_any_other(ray, given, marked, tmp_path):
    """Ray's own handler would end it with 15, and no worker stays."""
    file, photos = given
    words = [photos, "--model", file, "--output", tmp_path / "o", "--engine", "ray", "--workers", "1"]
    command = [sys.executable, ROOT / "make_cam_maps.py", *words, "--batch-size", "1", "--size", "512"]
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 200
    while not list((tmp_path / "o").rglob("*.npy")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143
    assert said.endswith("stopped: every file written is whole; the same command goes on from here\n")
    deadline = time.monotonic() + 30
    while workers_with(marked) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not workers_with(marked)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds processes as Linux shows them")
def test_a_killed_workers_photos_are_done_again(ray, given, marked, tmp_path, capsys):
    assert run("make_cam_maps", given, tmp_path / "single") == 1
    expected, killed = contents(tmp_path / "single"), []

    def kill():
        """Kill a worker when three photos are done: those it is at are not in any list then."""
        deadline = time.monotonic() + 200
        while time.monotonic() < deadline and not killed:
            done = len(list((tmp_path / "ray").rglob("photo.jpg")))
            if done > 2:
                (process,) = workers_with(marked)
                os.kill(process, signal.SIGKILL)
                killed.extend([process, done])
            time.sleep(0.005)

    thread = threading.Thread(target=kill)
    thread.start()
    code = run("make_cam_maps", given, tmp_path / "ray", "--engine", "ray", "--workers", "1")
    thread.join()
    assert code == 1 and killed and killed[1] < 24
    assert contents(tmp_path / "ray") == expected
    said = capsys.readouterr().out
    assert "Ray: 1 worker, one for each core" in said and "1 photo could not be read: see" in said
    deadline = time.monotonic() + 30
    while workers_with(marked) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not workers_with(marked)  # none is left behind


def test_two_workers_make_what_one_process_does(ray, given, tmp_path, capsys):
    arguments = ("--classes", "all", "--method", "grad-cam")
    assert run("gradcam_vgg16", given, tmp_path / "single", *arguments) == 1
    single = capsys.readouterr().out.splitlines()
    assert run("gradcam_vgg16", given, tmp_path / "ray", *arguments, "--engine", "ray", "--workers", "2") == 1
    by_ray = capsys.readouterr().out.splitlines()
    assert contents(tmp_path / "ray") == contents(tmp_path / "single")
    # maps that are zero everywhere are named by workers too
    assert [line for line in by_ray if "zero everywhere" in line] == [
        line for line in single if "zero everywhere" in line
    ]
    assert run("gradcam_vgg16", given, tmp_path / "ray", *arguments) == 1  # a single run goes on where Ray stopped
    assert "24 of 25 photos are done already" in capsys.readouterr().out


def test_what_a_worker_meets_is_one_line(ray, given, tmp_path, monkeypatch, end_of):
    """The model is gone when the workers look for it, as on a machine that does not share its folder."""
    file, photos = given
    copy = tmp_path / "net.h5"
    copy.write_bytes(file.read_bytes())
    begin = engine.begin_ray

    def lose(address):
        copy.unlink()
        return begin(address)

    monkeypatch.setattr(engine, "begin_ray", lose)
    code, message = end_of(
        make_cam_maps.main, [photos, "--model", copy, "--output", tmp_path / "o", "--engine", "ray", "--workers", "1"]
    )
    assert code == 2 and message.startswith("error: ") and message.count("\n") == 1 and len(message) < 310
    assert "net.h5" in message and "(on " in message


DEADLY = """
import os
from camlib.preprocessing import InputSpec
class Deadly:
    input_spec = InputSpec(["a"], 8, 8, 3)
    def explain(self, images, count):
        with open("attempts.txt", "a") as file:
            file.write("x")
        os._exit(1)
"""


@pytest.mark.slow
def test_photos_that_end_every_worker_end_the_run(ray, tmp_path, monkeypatch):
    """As a decoder would that crashes, or a batch that does not fit in memory."""
    (tmp_path / "deadly.py").write_text(DEADLY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.syspath_prepend(tmp_path)
    deadly = importlib.import_module("deadly")
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(tmp_path / "a.png")
    opened = FolderRun(tmp_path / "out", {}, "", Outputs(["a"]))
    opened.resume([Photo(tmp_path / "a.png", "a.png", "a")])
    with (
        opened,
        pytest.raises(
            UserError, match=r"workers of Ray ended 4 times on the same photos, or as they began \("
        ) as error,
    ):
        list(engine.explain_on_ray(deadly.Deadly, opened, 4, workers=1))
    assert (tmp_path / "attempts.txt").read_text() == "xxxx" and len(str(error.value)) <= 300


def test_no_cluster_at_the_address_is_one_line(ray, given, tmp_path, end_of):
    file, photos = given
    for address in ("127.0.0.1:1", "http://127.0.0.1:1", "nonsense", "127.0.0.1:99999999"):
        code, message = end_of(
            make_cam_maps.main,
            [photos, "--model", file, "--output", tmp_path / "o", "--engine", "ray", "--address", address],
        )
        assert code == 2 and message.startswith(f"error: Ray cannot begin at {address} (") and message.count("\n") == 1
        assert "expected --address of a running cluster" in message


def test_options_that_do_not_fit(end_of, monkeypatch):
    def said(*arguments):
        code, message = end_of(make_cam_maps.main, arguments)
        assert code == 2 and message.count("\n") == 1
        return message

    assert said("--workers", "2").startswith("error: --workers without --engine ray; expected both, or neither;")
    assert said("--address", "a:1").startswith("error: --address without --engine ray; expected both, or neither;")
    assert said("--engine", "ray", "--shard", "1/2").startswith("error: --shard with --engine ray, which deals")
    assert said("--engine", "ray", "--workers", "0").startswith("error: --workers 0: expected 1 or more;")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert said("--engine", "ray").startswith(
        "error: Ray is not installed; expected what pip install -r requirements-cluster.txt installs;"
    )


def test_one_worker_for_each_gpu_or_core():
    assert engine.workers_of({"CPU": 16.0, "GPU": 4.0}) == ("GPU", 4)
    assert engine.workers_of({"CPU": 16.0, "memory": 1e9}) == ("core", 16)
    assert engine.workers_of({"CPU": 16.0, "GPU": 4.0}, 3) == ("GPU", 3)
    with pytest.raises(UserError, match="--workers 5: Ray has 4 GPUs; expected one for each worker"):
        engine.workers_of({"CPU": 16.0, "GPU": 4.0}, 5)
    with pytest.raises(UserError, match="--workers 1: Ray has 0 cores"):
        engine.workers_of({"memory": 1e9})


# ---------------------------------------------------------------- places of fsspec


@pytest.fixture
def stored(given):
    """The photos in the memory of this process, as fsspec stores them there."""
    upath = pytest.importorskip("upath", reason="pip install -r requirements-cluster.txt brings universal-pathlib")
    _, photos = given
    bucket = upath.UPath(f"memory://bucket{time.monotonic_ns()}/photos")
    for path in (*photos.rglob("*.png"), *photos.rglob("*.jpg")):
        place = bucket / path.relative_to(photos).as_posix()
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(path.read_bytes())
    return bucket


def test_photos_of_object_storage_give_the_same_maps(given, stored, tmp_path, capsys):
    """As a shard, and then as a run alone that goes on with what the shard has."""
    file, photos = given
    assert run("make_cam_maps", given, tmp_path / "local") == 1
    arguments = [str(stored), "--model", str(file), "--output", str(tmp_path / "stored"), "--batch-size", "2"]
    assert make_cam_maps.main([*arguments, "--shard", "1/1"]) == 1
    capsys.readouterr()
    assert make_cam_maps.main(arguments) == 1
    assert "24 of 25 photos are done already" in capsys.readouterr().out
    local, ours = contents(tmp_path / "local"), contents(tmp_path / "stored")
    assert ours.pop("failed.csv").decode() == local.pop("failed.csv").decode().replace(str(photos), str(stored))
    assert ours == local


def test_what_is_found_in_object_storage(given, stored):
    (stored / ".hidden.png").write_bytes(b"x"), (stored / "notes.txt").write_bytes(b"x")
    (stored / "maps").mkdir()
    (stored / "maps" / "run.json").write_bytes(b"{}"), (stored / "maps" / "spp_for_a.jpg").write_bytes(b"x")
    _, photos = given
    found, local = find_photos([stored]), find_photos([photos])
    assert [(one.name, one.folder) for one in found] == [(one.name, one.folder) for one in local]
    np.testing.assert_array_equal(read_photo(found[0].path), read_photo(local[0].path))
    (one,) = find_photos([stored / "a" / "00.png"])
    assert one.name == "00.png"


def test_places_that_cannot_be_read_are_one_line(stored, tmp_path, end_of, monkeypatch):
    assert parse_place("a/b") == Path("a/b")
    for place, words, expected in (
        ("none://bucket/photos", "cannot be read (", "expected what pip install -r requirements-cluster.txt installs"),
        ("memory://nowhere/photos", "does not exist", "expected a photo or a folder of photos"),
        ("s3://bucket/photos", "cannot be read (", "expected what pip install -r requirements-cluster.txt installs"),
    ):
        if place.startswith("s3"):
            monkeypatch.setitem(sys.modules, "upath", None)  # as where it is not installed
        code, message = end_of(make_cam_maps.main, [place, "--output", tmp_path / "o"])
        assert code == 2 and message.count("\n") == 1 and message.startswith(f"error: {place} {words}"), message
        assert expected in message


@pytest.mark.slow
def test_workers_of_ray_read_places_of_fsspec(ray, given, stored, tmp_path):
    """A folder by its URL, which each worker opens by itself."""
    file, photos = given
    assert run("make_cam_maps", given, tmp_path / "local", "--no-pictures") == 1
    arguments = [f"file://{photos}", "--model", str(file), "--output", str(tmp_path / "ray"), "--batch-size", "2"]
    assert make_cam_maps.main([*arguments, "--no-pictures", "--engine", "ray", "--workers", "1"]) == 1
    local, by_ray = contents(tmp_path / "local"), contents(tmp_path / "ray")
    assert by_ray.pop("failed.csv").decode().replace("file://", "") == local.pop("failed.csv").decode()
    assert by_ray == local
