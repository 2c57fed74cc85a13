"""The viewer: what it finds, what it draws, its window on a real display, and what it says of bad input."""

import base64
import csv
import importlib.util
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from conftest import ROOT, make_run
from PIL import Image

from camlib.console import UserError
from camlib.plots.colours import Style
from camlib.plots.page import MOST_OPAQUE
from camlib.plots.panels import MARGIN, Row
from camlib.runs.maps import find_saved
from camlib.viewer.gallery import entry_of
from camlib.viewer.sheet import SIDE, columns_of, only_kind, row_of, spread_over
from camlib.viewer.window import OTHER_QT
from show_heatmaps import index_of, main

pytestmark = pytest.mark.any_backend

WITHOUT_DISPLAY = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "WAYLAND_DISPLAY")}
OPAQUE = round(255 * MOST_OPAQUE)


def test_photo_by_name(run_folder):
    saved = find_saved(run_folder)
    assert index_of(saved, "a/y.jpg") == index_of(saved, "a/y") == 1
    with pytest.raises(UserError, match="not among the 3 photos; expected a name like b/x.jpg"):
        index_of(saved, "q")
    with pytest.raises(UserError, match=r"among the 3 photos; did you mean a/y.jpg( or .*)?\? expected"):
        index_of(saved, "a/Y.jpeg")


# ---------------------------------------------------------------- what the page shows of a photo


def opacity_of(uri):
    """The opacity of a picture in a data: address: uint8 (H, W)."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).convert("RGBA"))[..., 3]


def change_settings(run, **settings):
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(record | {"settings": record["settings"] | settings}))


def test_the_page_knows_right_and_wrong_from_class_folders(tmp_path):
    run = make_run(tmp_path / "cam", ["dog/x.jpg", "dog/y.jpg", "val/cat/z.jpg", "loose.jpg", "hotdog/v.jpg"])
    entries = [entry_of(saved) for saved in find_saved(run)]
    assert [entry["truth"] for entry in entries] == ["dog", "dog", "cat", None, None]
    assert [entry["predicted"] for entry in entries] == ["dog", "cat", "dog", "cat", "dog"]
    assert [entry["right"] for entry in entries] == [True, False, False, None, None]
    assert entries[0]["probabilities"] == {"dog": pytest.approx(0.75), "cat": pytest.approx(0.25)}
    change_settings(run, photos=["/photos/cat"])  # the one folder that the run was given
    assert [entry_of(saved)["truth"] for saved in find_saved(run)][3] == "cat"


def with_probabilities(run, **rows):
    """Write other probabilities of dog and cat into a run's list: photo's stem -> (predicted, dog, cat)."""
    lines = list(csv.reader((run / "predictions.csv").read_text("utf-8").splitlines()))
    columns = [lines[0].index(name) for name in ("predicted", "probability_dog", "probability_cat")]
    for line in lines[1:]:
        for column, value in zip(columns, rows.get(Path(line[0]).stem, ()), strict=False):
            line[column] = str(value)
    (run / "predictions.csv").write_text("".join(",".join(line) + "\n" for line in lines), "utf-8")


def test_page_and_sheet_mark_what_the_network_is_unsure_of(tmp_path):
    run = make_run(tmp_path / "cam", ["dog/sure.jpg", "dog/unsure.jpg", "cat/wrong.jpg", "loose.jpg"])
    with_probabilities(run, unsure=("dog", 0.54, 0.46), wrong=("dog", 0.92, 0.08), loose=("cat", 0.48, 0.52))
    photos = find_saved(run)
    assert [entry_of(saved)["unsure"] for saved in photos] == [False, True, False, True]
    rows = [row_of(saved, ["dog", "cat"], None, Style())[0] for saved in photos]
    assert [row.heading for row in rows] == [
        ["dog/sure.jpg   ✓ predicted: dog 75 %"],
        ["dog/unsure.jpg   ✓ predicted: dog 54 %, unsure"],
        ["cat/wrong.jpg   ✗ predicted: dog 92 %, is cat"],
        ["loose.jpg   predicted: cat 52 %, unsure"],
    ]
    corners = [tuple(row.cells[0][1][2, 2]) for row in rows]  # of the plain photo, grey 20 * number without a frame
    assert max(corners[0]) <= 2 and corners[1:] == [(178, 106, 0), (197, 34, 31), (178, 106, 0)]
    assert all((row.cells[0][1][20, 20] == 20 * number).all() for number, row in enumerate(rows))


def test_the_page_has_the_probabilities_of_the_likeliest_and_of_those_with_maps(tmp_path):
    names = [f"c{number:02d}" for number in range(12)]
    run = make_run(tmp_path / "run", ["x.jpg"], classes=names)
    for name in names[:-1]:
        (run / "x" / f"heatmap_for_{name}.npy").unlink()
    assert list(entry_of(find_saved(run)[0])["probabilities"]) == [*names[:8], "c11"]


def test_evidence_against_another_class_fades_nothing_on_the_page(tmp_path):
    """As in the superpositions: the scale ends at the largest positive value."""
    run = make_run(tmp_path / "cam", ["a.jpg"])
    for name, value in (("dog", 2.0), ("cat", -40.0)):
        np.save(run / "a" / f"heatmap_for_{name}.npy", np.full((6, 8), value, np.float32))
    shown = entry_of(find_saved(run)[0])["maps"]["CAM"]
    assert (opacity_of(shown["dog"]["picture"]) == OPAQUE).all()
    legend = shown["dog"]["legend"]
    assert legend["ticks"] == [[0.0, "≤ -2"], [0.5, "0"], [1.0, "≥ 2"]] and legend["bar"] == "signed"
    assert legend["ends"] == ["evidence against {class}", "evidence for {class}, logit units"]


def test_the_page_calls_maps_by_their_methods_name(tmp_path):
    run = make_run(tmp_path / "gradcam", ["a.jpg"], kind="gradcam")
    change_settings(run, method="layer-cam", signed=False)
    for name in ("dog", "cat"):
        np.save(run / "a" / f"gradcam_for_{name}.npy", np.full((6, 8), 0.0 if name == "cat" else 0.5, np.float32))
        np.save(run / "a" / f"guided_backprop_for_{name}.npy", np.ones((6, 8, 3), np.float32))
    maps = entry_of(find_saved(run)[0])["maps"]
    assert list(maps) == ["LayerCAM", "guided backpropagation"]
    assert maps["LayerCAM"]["dog"]["legend"]["ends"] == ["", "evidence for {class}"]
    assert maps["LayerCAM"]["cat"]["zero"] and "zero" not in maps["LayerCAM"]["dog"]
    assert maps["guided backpropagation"]["dog"]["legend"]["bar"] == "gradients"
    change_settings(run, counterfactual=True)
    (counterfactual, _) = entry_of(find_saved(run)[0])["maps"].values()
    assert counterfactual["dog"]["legend"]["ends"] == ["", "evidence against {class}"]


def test_single_large_gradients_of_a_grey_photo_hide_nothing_on_the_page(tmp_path):
    run = make_run(tmp_path / "gradcam", ["a.jpg"], kind="guided_backprop", classes=["dog"])
    values = np.full((40, 40, 1), 0.5, np.float32)
    values[0, :4] = 60.0
    np.save(run / "a" / "guided_backprop_for_dog.npy", values)
    shown = entry_of(find_saved(run)[0])["maps"]["guided backpropagation"]["dog"]
    assert (opacity_of(shown["picture"])[20:] == OPAQUE).all() and shown["legend"]["ticks"][-1] == [1.0, "≥ 0.5"]


def test_html_keeps_the_style_that_was_asked_for(run_folder, tmp_path):
    page = tmp_path / "page.html"
    assert main([str(run_folder), "--html", str(page), "--opacity", "0.4", "--photo-in-colour"]) == 0
    text = page.read_text("utf-8")
    assert text.count('value="0.4"') == 2 and text.count('type="checkbox" checked> photo in colour') == 2
    entries = json.loads(re.search(r'id="entries">(.*?)</script>', text, re.DOTALL)[1])
    assert opacity_of(entries[1]["maps"]["CAM"]["dog"]["picture"]).max() == OPAQUE  # the slider alone makes it weaker
    assert "The network knows dog, cat only: whatever a photo shows, it calls it one of them." in text


# ---------------------------------------------------------------- the script


def without_display(code, *arguments):
    """What a process without a display says that runs Python code."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=WITHOUT_DISPLAY)


def test_a_figure_is_saved_without_a_display_and_without_keras(run_folder, tmp_path):
    code = (
        "import sys, show_heatmaps; print(show_heatmaps.main(sys.argv[1:]), "
        "{'tensorflow', 'keras', 'jax', 'torch'} & set(sys.modules))"
    )
    done = without_display(code, run_folder, "--save", tmp_path / "new/figure.png")
    assert (done.stdout, done.stderr) == (f"wrote {tmp_path}/new/figure.png\n0 set()\n", "")
    assert Image.open(tmp_path / "new/figure.png").size == (1575, 1050)


@pytest.mark.parametrize(("suffix", "start"), [("png", b"PNG"), ("jpg", b"JFIF"), ("pdf", b"%PDF"), ("svg", b"<?xml")])
def test_one_map_alone_in_each_format(run_folder, tmp_path, suffix, start):
    figure = tmp_path / f"one.{suffix}"
    assert main([str(run_folder / "a/y/heatmap_for_cat.npy"), "--save", str(figure)]) == 0
    assert start in figure.read_bytes()[:200]


def test_of_a_figure_for_a_paper_text_is_text_and_pictures_are_sharp(run_folder, tmp_path):
    figure = tmp_path / "figure.svg"
    with matplotlib.rc_context({"savefig.dpi": 30}):  # as of a matplotlibrc of the user's
        assert main([str(run_folder), "--save", str(figure)]) == 0
    drawn = figure.read_text("utf-8")
    texts = re.findall(r"<text[^>]*>([^<]+)", drawn)
    assert {"photo", "CAM: dog 0.750", "CAM: cat 0.250", "over the photo", "0"} <= set(texts)
    assert not re.search(r"<g clip-path[^>]*>\s*(<!--.*-->\s*)?<text", drawn)  # clipped, they would not be seen
    pictures = re.findall(r'<image [^>]*base64,([^"]+)"[^>]* width="([0-9.]+)"', drawn)
    assert len(pictures) >= 4
    for data, points in pictures:
        dots = Image.open(io.BytesIO(base64.b64decode(data))).width
        assert dots / float(points) * 72 == pytest.approx(300, rel=0.02)


def test_without_a_display_the_other_ways_are_named(run_folder):
    code = "import sys; from camlib.console import run_script; from show_heatmaps import main; run_script(main)"
    done = without_display(code, run_folder)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: no window can be opened")
    assert "pip install PySide6, or apt install python3-tk; without a window --save FILE" in done.stderr


def test_the_saved_figure_is_as_tall_as_its_classes_need(tmp_path):
    run = make_run(tmp_path / "run", ["x.jpg"], kind="gradcam", classes=[f"c{number}" for number in range(8)])
    for path in (run / "x").glob("gradcam_for_*.npy"):
        np.save(path.with_name(path.name.replace("gradcam", "guided_backprop")), np.ones((8, 8, 3), "f4"))
    assert main([str(run), "--save", str(tmp_path / "figure.png")]) == 0
    assert Image.open(tmp_path / "figure.png").size[1] > 1050


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["missing"], "missing does not exist; expected a folder of maps"),
        (["empty"], "no maps in empty"),
        (["cam", "--photo", "q", "--save", "a.png"], "--photo q: not among the 3 photos"),
        (["cam", "--class", "cow"], "--class cow: b/x.jpg has no map of it; expected one of dog, cat"),
        (["cam", "--opacity", "2"], "--opacity 2.0: expected a number from 0 to 1"),
        (["cam", "--save", "a.docx"], "expected a name that ends in one of"),
        (["text.npy", "--save", "a.png"], "text.npy cannot be read"),
        (["cam", "--save", "cam/run.json/a.png"], "cam/run.json"),
        (["cam", "--sheet", "a.docx"], "--sheet a.docx: expected a name that ends in one of .png, .jpg, .jpeg, .webp"),
        (["cam", "--sheet", "a.png", "--photos", "0"], "--photos 0: expected 1 or more"),
    ],
)
def test_bad_usage_is_one_line(end_of, run_folder, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("text.npy").write_text("no array")
    code, said = end_of(main, arguments)
    assert code == 2 and said.startswith("error: ") and words in said and said.count("\n") == 1


# ---------------------------------------------------------------- the contact sheet


def test_contact_sheet_has_photos_in_rows_and_classes_in_columns(run_folder, tmp_path, capsys):
    assert main([str(run_folder), "--sheet", str(tmp_path / "new/sheet.png"), "--photos", "2"]) == 0
    assert capsys.readouterr().out == f"wrote {tmp_path}/new/sheet.png: 2 of 3 photos\n"
    sheet = np.asarray(Image.open(tmp_path / "new/sheet.png")).astype(int)
    above, size = Row(["b/x.jpg"], []).above, (150, SIDE)  # of photos of 40x30
    first = Row(["CAM over the photo", "b/x.jpg"], []).above
    tops = [first, first + size[0] + MARGIN // 2 + above]
    photos = [sheet[top : top + size[0], MARGIN : MARGIN + size[1]] for top in tops]
    assert abs(photos[0]).max() <= 2 and abs(photos[1] - 40).max() <= 2  # the first photo and the last: 0 and 2 * 20
    white = (sheet[tops[1] : tops[1] + size[0]] == 255).all(axis=(0, 2))
    coloured = np.ptp(sheet[tops[1] + 140], axis=1) > 60  # below the colour bar
    dog, cat = np.flatnonzero(coloured)[[0, -1]]
    assert sheet[tops[1] + 140, dog][0] > sheet[tops[1] + 140, dog][2]  # dog: 2, the scale's end
    assert sheet[tops[1] + 140, cat][2] > sheet[tops[1] + 140, cat][0]  # cat: -3
    assert white[: MARGIN - 1].all() and not white[MARGIN : MARGIN + SIDE].any()


def titles_of(saved, columns, class_name=None, **more):
    row, _ = row_of(saved, columns, class_name, Style(), **more)
    return [title for title, _, _ in row.cells]


def test_contact_sheet_has_kinds_in_columns_of_one_class(tmp_path):
    run = make_run(tmp_path / "run", ["x.jpg", "y.jpg"], kind="gradcam", settings={"method": "layer-cam"})
    for name in ("x", "y"):
        for class_name in ("dog", "cat"):
            np.save(run / name / f"guided_backprop_for_{class_name}.npy", np.ones((8, 8, 3), "f4"))
    photos = find_saved(run)
    assert columns_of(photos) == ["dog", "cat"] and columns_of(photos, "cat") is None
    assert only_kind(photos, ["dog", "cat"]) == "gradcam" and only_kind(photos, None) is None
    kinds = titles_of(photos[0], None, "cat", with_kinds=True)
    assert kinds == ["photo", "LayerCAM: cat 25 %", "guided backpropagation: cat 25 %"]
    assert titles_of(photos[0], ["dog", "cat"]) == ["photo", "dog 75 %", "cat 25 %"]
    for name in ("x/gradcam_for_cat", "x/guided_backprop_for_cat", "y/gradcam_for_dog", "y/guided_backprop_for_dog"):
        (run / f"{name}.npy").unlink()
    assert columns_of(find_saved(run)) is None  # one class a photo, as with --classes predicted
    assert titles_of(photos[1], None, with_kinds=True)[1] == "LayerCAM"  # of the class predicted, in the heading


def test_contact_sheet_of_many_classes_shows_each_photos_most_probable(tmp_path):
    run = make_run(tmp_path / "run", ["x.jpg", "y.jpg"], classes=[f"c{number:02d}" for number in range(12)])
    assert columns_of(find_saved(run)) == 8
    assert [title.split()[0] for title in titles_of(find_saved(run)[1], 8)[1:3]] == ["c01", "c00"]


def test_contact_sheet_of_a_panorama_has_room_for_its_colour_bar(run_folder, tmp_path):
    Image.new("RGB", (900, 50)).save(run_folder / "b/x/photo.jpg")
    row, _ = row_of(find_saved(run_folder)[0], ["dog", "cat"], None, Style())
    (_, photo, _), *_, (_, _, (bar, _)) = row.cells
    assert len(photo) == 11 and len(bar) == 26 and row.height > row.above + 26


def test_contact_sheet_names_what_it_leaves_out(run_folder, tmp_path, capsys):
    (run_folder / "a/y/heatmap_for_cat.npy").write_bytes(b"nonsense")
    assert main([str(run_folder), "--sheet", str(tmp_path / "sheet.jpg")]) == 1
    said = capsys.readouterr().out
    assert "1 pictures are left out, the first since a/y.jpg: heatmap_for_cat.npy cannot be read" in said
    assert Image.open(tmp_path / "sheet.jpg").format == "JPEG"


def test_photos_of_a_contact_sheet_are_spread_evenly():
    assert spread_over(list(range(100)), 4) == [0, 33, 66, 99]
    assert spread_over(list(range(3)), 12) == [0, 1, 2] and spread_over([5, 6], 1) == [5]


# ---------------------------------------------------------------- windows


@pytest.fixture
def display():
    """A virtual display of its own: on one that a test used before, a window of Qt 5 was closed at once."""
    if not shutil.which("Xvfb") or not shutil.which("xdotool"):
        pytest.skip("needs Xvfb and xdotool")
    reader, writer = os.pipe()
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", str(writer), "-screen", "0", "1300x900x24", "-noreset"],
        pass_fds=[writer],
        stderr=subprocess.DEVNULL,
    )
    number = os.read(reader, 20).decode().strip()
    yield f":{number}"
    server.kill()
    server.wait()


def missing_libraries(toolkit):
    """The libraries of the system's that Qt's part for X displays needs and does not find, by ldd."""
    if toolkit == "tkinter" or sys.platform != "linux":
        return []
    package = Path(importlib.util.find_spec(toolkit).origin).parent
    (plugin,) = package.glob("Qt*/plugins/platforms/libqxcb.so")
    told = subprocess.run(["ldd", plugin], capture_output=True, text=True, check=True).stdout
    return sorted({line.split()[0] for line in told.splitlines() if "not found" in line})


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("backend", "toolkit"), [("TkAgg", "tkinter"), ("QtAgg", "PySide6.QtWidgets"), ("QtAgg", "PyQt5.QtWidgets")]
)
def test_window_on_a_display(run_folder, display, tmp_path, backend, toolkit):
    """A real window, steered with real keys; the pictures that it saves show what it showed."""
    pytest.importorskip(toolkit, exc_type=ImportError)  # without the system's libraries Qt is there, but does not load
    kept = {name: value for name, value in os.environ.items() if name not in OTHER_QT}
    environment = kept | {"DISPLAY": display, "MPLBACKEND": backend, "QT_API": toolkit.split(".")[0]}
    command = [sys.executable, ROOT / "show_heatmaps.py", run_folder]
    settings = {"env": environment, "cwd": tmp_path, "text": True}
    missing = missing_libraries(toolkit)
    if missing:
        result = subprocess.run(command, capture_output=True, **settings)
        assert (result.returncode, result.stdout) == (2, "") and result.stderr.count("\n") == 1
        said = re.search(r"^error: no window can be opened: Qt needs a library .* lacks \((\S+): ", result.stderr)
        assert said and said[1] in missing
        pytest.skip(f"refused as it should be; the window itself needs {' and '.join(missing)}")
    viewer = subprocess.Popen(command, stdout=subprocess.PIPE, **settings)

    def xdotool(*arguments):
        return subprocess.run(["xdotool", *arguments], env=environment, capture_output=True, text=True).stdout.strip()

    def wait_for(found):
        for _ in range(300):
            if found():
                return found()
            assert viewer.poll() is None
            time.sleep(0.1)
        raise AssertionError("nothing happened in half a minute")

    def press(*keys):
        for key in keys:
            xdotool("mousemove", "300", "100", "key", "--window", window, key)
            time.sleep(0.2)

    def has_its_size():
        """Whether the window has ceased to grow or shrink to the size that it was asked for."""
        sizes = [xdotool("getwindowgeometry", window) for _ in range(8) if not time.sleep(0.15)]
        return len(set(sizes)) == 1

    def saved(name):
        wait_for((tmp_path / name).exists)
        return np.asarray(Image.open(tmp_path / name).convert("RGB"))

    try:
        assert viewer.stdout.readline() == f"3 photos in {run_folder}; h lists the keys, q closes the window\n"
        window = wait_for(lambda: xdotool("search", "--name", "maps in").split("\n")[-1])
        wait_for(lambda: press("s") or (tmp_path / "b_x.png").exists())  # until the window takes keys
        wait_for(has_its_size)
        press("Right", "Right", "s")
        dog = saved("a_z z.png")
        press("slash", "c", "a", "t", "Return", "s")
        cat = saved("a_z z_2.png")
        assert dog.shape == cat.shape and (dog != cat).any()  # another class lies over the photo
        xdotool("windowsize", window, "520", "640")
        time.sleep(0.5)
        press("h", "s")
        # 520 pixels at 150 instead of 100 dots an inch, or as many as Tk takes the display to have
        assert abs(saved("a_z z_3.png").shape[1] - 780) < 60
        press("q")
        assert viewer.wait(20) == 0
        for number in (signal.SIGINT, signal.SIGTERM):
            viewer = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **settings)
            viewer.stdout.readline()
            wait_for(lambda: xdotool("search", "--name", "maps in"))
            viewer.send_signal(number)
            assert viewer.communicate(timeout=20) == ("", "") and viewer.returncode == 128 + number
    finally:
        viewer.kill()
