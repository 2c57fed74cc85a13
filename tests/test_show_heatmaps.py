"""The viewer: what it finds, what it draws, its window on a real display, and what it says of bad input."""

import os
import shutil
import subprocess
import sys
import time

import pytest
from conftest import ROOT
from PIL import Image

from camlib.console import UserError
from camlib.maps import find_saved
from show_heatmaps import index_of

pytestmark = pytest.mark.any_backend

NO_DISPLAY = {"DISPLAY": None, "WAYLAND_DISPLAY": None}


def test_photo_by_name(run_folder):
    saved = find_saved(run_folder)
    assert index_of(saved, "a/y.jpg") == index_of(saved, "a/y") == 1
    with pytest.raises(UserError, match="not among the 3 photos; expected a name like b/x.jpg"):
        index_of(saved, "q")


# ---------------------------------------------------------------- the script


@pytest.mark.parametrize("suffix", ["png", "jpg", "pdf", "svg"])
def test_save_needs_no_display(run_script, run_folder, tmp_path, suffix):
    done = run_script(
        "show_heatmaps.py", run_folder, "--save", tmp_path / f"new/figure.{suffix}", environment=NO_DISPLAY
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, f"wrote {tmp_path}/new/figure.{suffix}\n", "")
    start = (tmp_path / f"new/figure.{suffix}").read_bytes()[:200]
    assert {"png": b"PNG", "jpg": b"JFIF", "pdf": b"%PDF", "svg": b"<?xml"}[suffix] in start


def test_one_map_alone(run_script, run_folder, tmp_path):
    done = run_script("show_heatmaps.py", run_folder / "a/y/heatmap_for_cat.npy", "--save", tmp_path / "one.png")
    assert done.returncode == 0, done.stderr
    assert Image.open(tmp_path / "one.png").size == (1575, 1050)


def test_tensorflow_is_not_imported():
    code = "import sys, show_heatmaps; print([m for m in sys.modules if m in ('tensorflow', 'keras', 'jax', 'torch')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["missing"], "missing does not exist; expected a folder of maps"),
        (["empty"], "no maps in empty"),
        (["cam", "--photo", "q", "--save", "a.png"], "--photo q: not among the 3 photos"),
        (
            ["cam", "--class", "cow", "--save", "a.png"],
            "--class cow: b/x.jpg has no map of it; expected one of dog, cat",
        ),
        (["cam", "--opacity", "2"], "--opacity 2.0: expected a number from 0 to 1"),
        (["cam", "--save", "a.docx"], "expected a name that ends in one of"),
        (["text.npy", "--save", "a.png"], "text.npy cannot be read"),
        (["cam", "--save", "cam/run.json/a.png"], "cam/run.json"),
        (["cam"], "no window can be opened"),
    ],
)
def test_bad_usage_is_one_line(run_script, run_folder, tmp_path, arguments, words):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.npy").write_text("no array")
    done = run_script("show_heatmaps.py", *arguments, cwd=tmp_path, environment=NO_DISPLAY)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and words in done.stderr
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr


@pytest.fixture
def display():
    """A virtual display of its own."""
    if not shutil.which("Xvfb"):
        pytest.skip("needs Xvfb")
    pytest.importorskip("tkinter")
    reader, writer = os.pipe()
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", str(writer), "-screen", "0", "1300x900x24"], pass_fds=[writer], stderr=subprocess.DEVNULL
    )
    number = os.read(reader, 20).decode().strip()
    yield f":{number}"
    server.kill()
    server.wait()


def test_window_on_a_display(run_folder, display):
    """A real window, steered with real keys."""
    if not shutil.which("xdotool"):
        pytest.skip("needs xdotool")
    environment = os.environ | {"DISPLAY": display, "MPLBACKEND": "TkAgg"}
    viewer = subprocess.Popen(
        [sys.executable, ROOT / "show_heatmaps.py", run_folder], env=environment, stdout=subprocess.PIPE, text=True
    )

    def xdotool(*arguments):
        return subprocess.run(["xdotool", *arguments], env=environment, capture_output=True, text=True).stdout.strip()

    try:
        assert viewer.stdout.readline() == f"3 photos in {run_folder}; h lists the keys, q closes the window\n"
        for _ in range(200):
            window = xdotool("search", "--name", "maps in").split("\n")[-1]
            if window:
                break
            time.sleep(0.1)
        assert viewer.poll() is None
        for key in ("Right", "Down", "h", "q"):
            xdotool("mousemove", "300", "100", "key", "--window", window, key)
            time.sleep(0.3)
        assert viewer.wait(20) == 0
    finally:
        viewer.kill()
