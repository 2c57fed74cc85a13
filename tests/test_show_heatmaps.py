"""The viewer: what it finds, what it draws, its window on a real display, and what it says of bad input."""

import csv
import json
import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT
from matplotlib.backend_bases import KeyEvent
from matplotlib.figure import Figure
from PIL import Image

from camlib.console import UserError
from camlib.maps import find_maps, find_saved, write_map, write_superposition
from camlib.meaning import probabilities_of
from camlib.photos import Photo
from camlib.pictures import Scale
from camlib.runs import MapRun
from camlib.viewer import Controls, Viewer
from show_heatmaps import index_of

pytestmark = pytest.mark.any_backend

CLASSES = ["dog", "cat"]
NO_DISPLAY = {"DISPLAY": None, "WAYLAND_DISPLAY": None}


def make_run(output, names, kind="heatmap", classes=CLASSES):
    """A run folder as the scripts write it; photo i, class c has the map i + c everywhere, negative for odd c."""
    run = MapRun(output, {}, "", classes)
    run.begin([])
    scale = Scale(10.0, signed=True)
    for index, name in enumerate(names):
        photo = Photo(output / name, name, name.rpartition(".")[0])
        folder = output / photo.folder
        folder.mkdir(parents=True, exist_ok=True)
        picture = np.full((30, 40, 3), 20 * index, np.uint8)
        for c, class_name in enumerate(classes):
            values = np.full((6, 8), (index + c) * (-1) ** c, np.float32)
            write_map(folder, kind, class_name, values, picture, scale)
            write_superposition(folder, class_name, values, picture, scale)
        Image.fromarray(picture).save(folder / "photo.jpg")
        logits = np.zeros((1, len(classes)))
        logits[0, index % len(classes)] = np.log(3)  # of two classes: 0.75 and 0.25
        run.add_rows([photo], logits, probabilities_of(logits))
    return output


@pytest.fixture
def run_folder(tmp_path):
    return make_run(tmp_path / "cam", ["b/x.jpg", "a/y.jpg", "a/z z.png"])


def viewer_of(place, index=0, **settings):
    return Viewer(Figure(figsize=(10.5, 7)), find_saved(place), index, **settings)


def test_photos_come_in_the_order_of_predictions(run_folder):
    saved = find_saved(run_folder)
    assert [photo.name for photo in saved] == ["b/x.jpg", "a/y.jpg", "a/z z.png"]
    assert [photo.predicted for photo in saved] == ["dog", "cat", "dog"]
    assert saved[0].probabilities == pytest.approx({"dog": 0.75, "cat": 0.25})
    assert list(find_maps(saved[0])["heatmap"]) == CLASSES
    assert [photo.name for photo in find_saved(run_folder / "a")] == ["a/y.jpg", "a/z z.png"]
    assert [photo.name for photo in find_saved(run_folder / "a" / "y")] == ["a/y.jpg"]


def test_maps_without_a_run_are_found(run_folder):
    os.unlink(run_folder / "predictions.csv")
    assert [photo.name for photo in find_saved(run_folder)] == ["a/y", "a/z z", "b/x"]


def test_photos_that_differ_in_suffix_have_their_own_maps(tmp_path):
    run = make_run(tmp_path / "cam", ["a.jpg.jpg", "a.png.png", "c.jpg"])  # folders a.jpg, a.png, c
    rows = list(csv.reader((run / "predictions.csv").read_text().splitlines()))
    with open(run / "predictions.csv", "w", newline="") as file:
        csv.writer(file).writerows(
            [[row[0].replace(".jpg.jpg", ".jpg").replace(".png.png", ".png"), *row[1:]] for row in rows]
        )
    assert [photo.folder.name for photo in find_saved(run)] == ["a.jpg", "a.png", "c"]


def test_unfinished_last_row_is_left_out(run_folder):
    with open(run_folder / "predictions.csv", "a") as file:
        file.write("a/new.jpg,dog,1.0")
    assert len(find_saved(run_folder)) == 3


def test_maps_share_one_colour_scale(run_folder):
    viewer = viewer_of(run_folder, 2)  # dog: 2, cat: -3
    images = [axes.images[0] for axes in viewer.panels if axes.images]
    photo, overlay, dog, cat = images
    assert (dog.norm.vmin, dog.norm.vmax) == (cat.norm.vmin, cat.norm.vmax) == (-3, 3)
    assert (np.asarray(dog.get_array()) == 2).all() and (np.asarray(cat.get_array()) == -3).all()
    assert np.asarray(photo.get_array()).shape == np.asarray(overlay.get_array()).shape == (30, 40, 3)
    assert [axes.get_title() for axes in viewer.panels] == ["photo", "dog over the photo", "dog  0.750", "cat  0.250"]
    bar = viewer.bars[0]
    assert [label.get_text() for label in bar.get_xticklabels()] == ["-3", "0", "3"]


def test_an_all_zero_map_is_flagged(run_folder):
    viewer = viewer_of(run_folder, 0)  # dog is 0 everywhere
    assert [axes.get_title() for axes in viewer.panels[2:]] == ["dog  0.750 (all zero)", "cat  0.250"]
    overlay = np.asarray(viewer.panels[1].images[0].get_array())
    np.testing.assert_array_equal(overlay, np.asarray(viewer.panels[0].images[0].get_array()))


def test_overlay_follows_class_and_opacity(run_folder):
    def overlay(**settings):
        return np.asarray(viewer_of(run_folder, 2, **settings).panels[1].images[0].get_array()).astype(int)

    photo = np.asarray(viewer_of(run_folder, 2).panels[0].images[0].get_array()).astype(int)
    np.testing.assert_array_equal(overlay(opacity=0.0), photo)
    red, blue = overlay(class_name="dog") - photo, overlay(class_name="cat") - photo
    assert red[..., 0].min() > red[..., 2].max() and blue[..., 2].min() > blue[..., 0].max()


def test_keys_go_through_photos_and_classes(run_folder):
    viewer = viewer_of(run_folder)
    controls = Controls(viewer)

    def press(key):
        canvas = viewer.figure.canvas
        canvas.callbacks.process("key_press_event", KeyEvent("key_press_event", canvas, key))

    for key, index in [
        ("right", 1),
        ("right", 2),
        ("right", 2),
        ("left", 1),
        ("home", 0),
        ("end", 2),
        ("pageup", 0),
        ("pagedown", 2),
    ]:
        press(key)
        assert viewer.index == index and controls.photo_slider.val == index + 1
    assert viewer.overlay_class == "dog"  # the class predicted
    press("down")
    assert viewer.overlay_class == "cat" and viewer.panels[1].get_title() == "cat over the photo"
    press("left")
    assert viewer.overlay_class == "cat"  # the user's choice stays
    press("h")
    assert controls.help.get_visible()
    controls.photo_slider.set_val(1)
    assert viewer.index == 0 and "b/x.jpg   (1 of 3)" in viewer.figure.get_suptitle()
    controls.opacity_slider.set_val(0.2)
    assert viewer.opacity == 0.2


def test_damaged_maps_are_named_and_the_rest_is_shown(run_folder):
    (run_folder / "a/y/heatmap_for_cat.npy").write_bytes(b"\x93NUMPY nonsense")
    os.unlink(run_folder / "a/y/photo.jpg")
    (run_folder / "a/y/photo.jpg").write_bytes(b"nonsense")
    viewer = viewer_of(run_folder, 1)
    texts = [[text.get_text() for text in axes.texts] for axes in viewer.panels]
    assert texts[0] == ["not a JPEG, PNG, BMP, WebP or TIFF picture"]
    assert "heatmap_for_cat.npy cannot be read" in texts[3][0] and viewer.panels[2].images
    with open(run_folder / "a/y/heatmap_for_dog.npy", "wb") as file:
        np.save(file, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    texts = [text.get_text() for text in viewer_of(run_folder, 1).panels[2].texts]
    assert "cannot be read" in texts[0]  # a pickle is not opened


def test_grad_cam_folders_show_every_kind(tmp_path):
    folder = make_run(tmp_path / "run", ["x.jpg"], kind="gradcam") / "x"
    for name in CLASSES:
        gradients = np.full((12, 16, 3), -1.0, np.float32)
        np.save(folder / f"guided_backprop_for_{name}.npy", gradients)
        np.save(folder / f"guided_gradcam_for_{name}.npy", gradients * 2)
    viewer = viewer_of(tmp_path / "run")
    assert viewer.grid == (2, 3) and len(viewer.bars) == 3
    assert np.asarray(viewer.panels[3].images[0].get_array()).max() == 0.0  # -1 of a limit of 1: black
    assert [axes.get_xlabel() for axes in viewer.bars] == ["Grad-CAM", "guided backpropagation", "guided Grad-CAM"]


def test_of_many_classes_the_most_probable_are_shown(tmp_path):
    classes = [f"c{number:02d}" for number in range(30)]
    run = make_run(tmp_path / "run", ["x.jpg"], classes=classes)
    rows = list(csv.reader((run / "predictions.csv").read_text().splitlines()))
    rows[1][-30:] = [str(number / 100) for number in range(30)]
    with open(run / "predictions.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    assert list(find_maps(find_saved(run)[0])["heatmap"]) == classes[:-9:-1]


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


def test_run_json_is_not_needed(run_folder):
    (run_folder / "run.json").write_text(json.dumps({}))
    assert len(find_saved(run_folder)) == 3
