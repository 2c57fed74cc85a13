"""The figure of one photo's maps: scales, overlay, keys, damaged maps."""

import itertools
import json
import signal
from pathlib import Path

import numpy as np
import pytest
from conftest import CLASSES, make_run
from matplotlib import pyplot
from matplotlib.backend_bases import KeyEvent, MouseEvent, NavigationToolbar2
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image

from camlib.console import ENDING_SIGNALS
from camlib.plots import CHOSEN, RIGHT, UNSURE, WRONG
from camlib.plots.colours import Style, colours
from camlib.runs.maps import find_saved
from camlib.viewer.album import Album
from camlib.viewer.artists import rendered
from camlib.viewer.figure import Viewer
from camlib.viewer.window import KEYS, Controls, drop_idle_buttons, freed_keys

pytestmark = pytest.mark.any_backend


def viewer_of(place, index=0, **settings):
    return Viewer(Figure(figsize=(10.5, 7)), Album(find_saved(place), index), **settings)


def titles(viewer):
    """The titles of what is shown, each in one line."""
    shown = [axes for axes in viewer.panels if axes.get_visible()]
    return [" ".join(axes.texts[0].get_text().split()) for axes in shown]


def reason(axes):
    return " ".join(axes.texts[1].get_text().split())


def numbers(bar):
    return [text.get_text() for text in bar.texts[:3] if text.get_text()]


def picture(axes):
    return np.asarray(axes.images[0].get_array())


def test_maps_share_one_colour_scale(run_folder):
    viewer = viewer_of(run_folder, 2)  # dog: 2, cat: -3
    photo, overlay, dog, cat = (picture(axes) for axes in viewer.panels)
    assert (dog == colours(np.array([[2 / 3]]), signed=True)[0, 0]).all()
    assert (cat == colours(np.array([[-1.0]]), signed=True)[0, 0]).all()
    assert photo.shape == overlay.shape
    assert titles(viewer) == ["photo", "CAM: dog 0.750", "CAM: dog 0.750", "CAM: cat 0.250"]
    assert numbers(viewer.bars[0]) == ["-3", "0", "3"]
    assert [text.get_position()[0] for text in viewer.bars[0].texts[:3]] == [0, 0.5, 1]
    assert numbers(viewer.overlay_bar) == ["≤ -2", "0", "≥ 2"]  # the largest evidence for a class


def test_an_all_zero_map_is_flagged(run_folder):
    viewer = viewer_of(run_folder, 0)  # dog is 0 everywhere
    assert titles(viewer)[2:] == ["CAM: dog 0.750 (all zero)", "CAM: cat 0.250"]
    np.testing.assert_array_equal(picture(viewer.panels[1]), picture(viewer.panels[0]))


def test_overlay_follows_class_and_opacity(run_folder):
    def overlay(**settings):
        return picture(viewer_of(run_folder, 2, **settings).panels[1]).astype(int)

    photo = picture(viewer_of(run_folder, 2).panels[0]).astype(int)
    np.testing.assert_array_equal(overlay(style=Style(opacity=0.0)), photo)
    red, blue = overlay(class_name="dog") - photo, overlay(class_name="cat") - photo
    assert red[..., 0].min() > red[..., 2].max() and blue[..., 2].min() > blue[..., 0].max()


def controls_of(place, index=0, size=(10.5, 7), **settings):
    """(Controls of a figure, a function that presses a key)."""
    figure = Figure(figsize=size)
    controls = Controls(figure, find_saved(place), index, **settings)

    def press(*keys):
        for key in keys:
            figure.canvas.callbacks.process("key_press_event", KeyEvent("key_press_event", figure.canvas, key))

    return controls, press


def test_keys_go_through_photos_and_classes(run_folder):
    controls, press = controls_of(run_folder)
    viewer = controls.viewer

    keys = ("right", "right", "right", "left", "home", "end", "pageup", "pagedown")
    for key, index in zip(keys, (1, 2, 2, 1, 0, 2, 0, 2), strict=True):
        press(key)
        assert controls.album.position == index and controls.photo_slider.val == index + 1
    assert viewer.overlay_class == "dog"  # the class predicted
    press("down")
    assert viewer.overlay_class == "cat" and titles(viewer)[1] == "CAM: cat 0.250"
    press("left")
    assert viewer.overlay_class == "cat"  # the user's choice stays
    press("h")
    assert controls.help.get_visible()
    controls.photo_slider.set_val(1)
    assert controls.album.position == 0 and "b/x.jpg   (1 of 3)" in viewer.heading.get_text()
    controls.opacity_slider.set_val(0.2)
    assert viewer.style.opacity == 0.2


def test_damaged_maps_are_named_and_the_rest_is_shown(run_folder):
    (run_folder / "a/y/heatmap_for_cat.npy").write_bytes(b"\x93NUMPY nonsense")
    (run_folder / "a/y/photo.jpg").write_bytes(b"nonsense")
    viewer = viewer_of(run_folder, 1)
    assert reason(viewer.panels[0]) == "not a JPEG, PNG, BMP, WebP or TIFF picture"
    assert "heatmap_for_cat.npy cannot be read" in reason(viewer.panels[3])
    assert viewer.panels[2].images[0].get_visible() and not reason(viewer.panels[2])
    with open(run_folder / "a/y/heatmap_for_dog.npy", "wb") as file:
        np.save(file, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    assert "cannot be read" in reason(viewer_of(run_folder, 1).panels[2])  # a pickle is not opened


def test_grad_cam_folders_show_every_kind(tmp_path):
    folder = make_run(tmp_path / "run", ["x.jpg"], kind="gradcam") / "x"
    for name in CLASSES:
        gradients = np.full((12, 16, 3), -1.0, np.float32)
        np.save(folder / f"guided_backprop_for_{name}.npy", gradients)
        np.save(folder / f"guided_gradcam_for_{name}.npy", gradients * 2)
    viewer = viewer_of(tmp_path / "run")
    assert viewer.grid == (2, 3) and len(viewer.bars) == 3
    assert picture(viewer.panels[3]).max() == 0  # -1 of a limit of 1: black
    assert titles(viewer)[2:5] == [
        "Grad-CAM: dog 0.750 (all zero)",
        "guided backpropagation: dog 0.750",
        "guided Grad-CAM: dog 0.750",
    ]
    bars = [bar.texts[3].get_text() for bar in viewer.bars]
    assert bars == ["Grad-CAM", "logit per input unit", "logit per input unit × map"]


# ---------------------------------------------------------------- keys, mouse, words


@pytest.fixture
def layer_cam_run(tmp_path):
    """A run of --method layer-cam on photos of class folders, with guided maps and annotations beside the photos."""
    photos = tmp_path / "photos"
    names = ["val/dog/a.jpg", "val/dog/b.jpg", "val/cat/c.jpg"]  # predicted: dog, cat, dog
    settings = {"method": "layer-cam", "photos": [str(photos)], "class_names": CLASSES}
    run = make_run(tmp_path / "run", names, kind="gradcam", settings=settings)
    for index, name in enumerate(names):
        for class_name in CLASSES:
            gradients = np.full((12, 16, 3), (-1.0, 0.5, 0.25), np.float32) * (index + 1)
            np.save(run / name[:-4] / f"guided_backprop_for_{class_name}.npy", gradients)
    records = [{"file": "val/dog/a.jpg", "class": "dog", "boxes": [[10, 20, 50, 40]], "width": 80, "height": 60}]
    (photos / "val/dog").mkdir(parents=True)
    (photos / "annotations.json").write_text(json.dumps(records))
    return run


def test_maps_are_called_by_the_method_of_their_run(layer_cam_run):
    viewer = viewer_of(layer_cam_run, 1)
    assert titles(viewer)[1:4] == ["LayerCAM: cat 0.750", "LayerCAM: dog 0.250", "guided backpropagation: dog 0.250"]
    assert viewer.saved.title_of("guided_gradcam") == "guided LayerCAM"
    assert "predicted: cat 0.750   truth: dog" in viewer.heading.get_text().replace("\n", "   ")


def test_keys_choose_what_lies_over_the_photo(layer_cam_run):
    controls, press = controls_of(layer_cam_run, 1)
    viewer = controls.viewer
    press("m")
    assert titles(viewer)[1] == "guided backpropagation: cat 0.750"
    assert numbers(viewer.overlay_bar) == ["0", "2"]  # the magnitude of (-2, 1, 0.5)
    below = picture(viewer.panels[0])[0, 0].mean()  # a grey photo
    top = colours(np.array([[1.0]]), signed=False)[0, 0]
    np.testing.assert_allclose(picture(viewer.panels[1])[0, 0], 0.9 * top + 0.1 * below, atol=1)
    press("right", "m", "up")
    assert titles(viewer)[1] == "LayerCAM: cat 0.250"
    press("p")
    assert titles(viewer)[1] == "LayerCAM: dog 0.750"
    for cell, axes in zip(viewer.cells, viewer.panels[2:], strict=True):
        canvas, (x, y) = viewer.figure.canvas, axes.transData.transform((20, 15))
        canvas.callbacks.process("button_press_event", MouseEvent("button_press_event", canvas, x, y, 1))
        assert (viewer.overlay_kind, viewer.overlay_class) == cell


def test_keys_filter_and_order(layer_cam_run):
    controls, press = controls_of(layer_cam_run)
    viewer, album = controls.viewer, controls.album
    names = lambda: [album.photos[number].name for number in album.chosen]  # noqa: E731
    press("f")
    assert names() == ["val/dog/b.jpg", "val/cat/c.jpg"] and "wrong ones" in viewer.heading.get_text()
    assert controls.photo_slider.valmax == 2 and viewer.saved.name == "val/dog/b.jpg"
    press("f")  # those predicted as the class over the photo
    assert names() == ["val/dog/b.jpg"] and "predicted as cat" in viewer.heading.get_text()
    press("f", "right")
    assert len(names()) == 3 and viewer.saved.name == "val/cat/c.jpg"
    for share, photo in zip((0.5, 0.9, 0.7), album.photos, strict=True):
        photo.probabilities["dog"] = photo.probabilities["cat"] = share
    press("o")
    assert names() == ["val/dog/b.jpg", "val/cat/c.jpg", "val/dog/a.jpg"] and viewer.saved.name == "val/cat/c.jpg"
    press("o")
    assert names() == ["val/dog/a.jpg", "val/cat/c.jpg", "val/dog/b.jpg"]
    for logits, photo in zip(((1, 5), (2, 9), (3, 0)), album.photos, strict=True):  # of dog and cat
        photo.logits.update(zip(CLASSES, map(float, logits), strict=True))
    press("o")  # the scores of the classes predicted: dog 1, cat 9, dog 3
    assert names() == ["val/dog/b.jpg", "val/cat/c.jpg", "val/dog/a.jpg"]
    assert "highest score first" in viewer.heading.get_text().replace("\n", " ")
    press("down")  # from dog to cat, over the photo that is shown still
    assert viewer.saved.name == "val/cat/c.jpg" and viewer.wanted_class == "cat"
    assert names() == ["val/dog/b.jpg", "val/dog/a.jpg", "val/cat/c.jpg"]
    assert "highest score first for cat" in viewer.heading.get_text().replace("\n", " ")
    press("p")
    assert names() == ["val/dog/b.jpg", "val/cat/c.jpg", "val/dog/a.jpg"]


def test_without_class_folders_nothing_is_wrong(run_folder):
    controls, press = controls_of(run_folder)
    press("f")
    assert controls.album.filter == ("dog",) and len(controls.album) == 2
    press("f")
    assert controls.album.filter == "all" and len(controls.album) == 3


def test_a_class_is_reached_by_typing_its_name(tmp_path):
    classes = [f"c{number:03d}" for number in range(40)] + ["white shark"]
    run = make_run(tmp_path / "run", ["x.jpg", "y.jpg"], classes=classes)
    controls, press = controls_of(run)
    viewer = controls.viewer
    assert "white shark" not in dict(viewer.cells).values()
    press("/", *"Shax")
    assert "no class has such a name" in viewer.heading.get_text().replace("\n", " ")
    press("backspace", "q")  # q is a letter here
    press("backspace", "enter")
    assert viewer.overlay_class == "white shark" and viewer.cells[-1] == ("heatmap", "white shark")
    assert titles(viewer)[1].startswith("CAM: white shark") and "8 of 41 classes" in viewer.heading.get_text()
    press("/", *"c01", "escape")
    assert viewer.overlay_class == "white shark" and controls.typed is None
    press("right")
    assert viewer.saved.name == "y.jpg" and viewer.overlay_class == "white shark"


def test_saving_never_writes_over_a_file(layer_cam_run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    controls, press = controls_of(layer_cam_run, size=(8, 6))
    press("s", "s", "m", "s")
    first, second, third = (Path(name) for name in ("val_dog_a.png", "val_dog_a_2.png", "val_dog_a_3.png"))
    assert Image.open(first).size == (1200, 900) and "/val_dog_a_3.png" in controls.viewer.heading.get_text()
    assert capsys.readouterr().out.splitlines()[2] == f"saved {tmp_path}/val_dog_a_3.png"
    np.testing.assert_array_equal(np.asarray(Image.open(first)), np.asarray(Image.open(second)))
    assert (np.asarray(Image.open(third)) != np.asarray(Image.open(first))).any()
    foot = np.asarray(Image.open(first).convert("L"))[-40:]
    assert (foot[-10:] == 255).all()  # no sliders


def test_values_under_the_cursor(layer_cam_run, run_folder):
    viewer = viewer_of(layer_cam_run, 1)
    assert viewer.panels[0].format_coord(39.5, 29.5).startswith("39, 29: RGB ")
    said = {cell: axes.format_coord(3, 2) for cell, axes in zip(viewer.cells, viewer.panels[2:], strict=True)}
    assert said["gradcam", "dog"] == "3, 2: dog 1" and said["gradcam", "cat"] == "3, 2: cat -2"
    assert said["guided_backprop", "cat"] == "3, 2: cat RGB -2 1 0.5 logit per input unit"
    assert viewer.panels[1].format_coord(3, 2) == "3, 2: cat -2"
    assert viewer_of(run_folder, 1).panels[2].format_coord(0, 29.9) == "0, 29: dog 1 logit units"
    assert viewer.panels[2].format_coord(40, 30) == ""  # beside the photo


def test_the_truth_is_outlined_where_it_is_known(layer_cam_run):
    controls, press = controls_of(layer_cam_run)
    viewer = controls.viewer
    (line,) = viewer.panels[1].lines  # a box of a photo of 80x60, shown at 40x30
    assert set(zip(*line.get_data(), strict=True)) == {(5, 10), (25, 10), (25, 20), (5, 20)}
    assert line.get_linestyle() == "-" and len(viewer.panels[0].lines) == 1
    press("down")
    assert viewer.panels[1].lines[0].get_linestyle() == ":"  # the map is of another class
    press("t")
    assert not len(viewer.panels[1].lines)
    press("t", "right")
    assert not len(viewer.panels[1].lines)  # nothing is annotated there


def test_damaged_annotations_are_said(layer_cam_run):
    photos = Path(json.loads((layer_cam_run / "run.json").read_text())["settings"]["photos"][0])
    (photos / "annotations.json").write_text("[{]")
    controls, press = controls_of(layer_cam_run)
    press("right")
    assert "annotations.json cannot be read" in controls.viewer.heading.get_text().replace("\n", " ")


def test_the_keys_of_the_list_do_what_it_says(run_folder):
    """Each key of the list is taken by the window, and by nothing of Matplotlib's own."""
    listed = {line[:20].strip() for line in KEYS.splitlines() if line[:20].strip()}
    single = {key for entry in listed for key in entry.split(", ") if len(key) == 1}
    assert single == set("/mptfoshq")
    taken = {key for keys in freed_keys().values() for key in keys}
    assert not taken & (single | {"left", "right", "home", "backspace"})


# ---------------------------------------------------------------- seen at once


def test_the_map_that_lies_over_the_photo_is_framed(layer_cam_run):
    controls, press = controls_of(layer_cam_run)
    viewer = controls.viewer
    for keys in ([], ["down"], ["m"], ["right"]):
        press(*keys)
        number = viewer.cells.index((viewer.overlay_kind, viewer.overlay_class))
        picture_box, frame = viewer.panels[2 + number].get_position(), viewer.frames[1]
        assert frame.get_visible() and to_hex(frame.get_edgecolor()) == CHOSEN
        for found, side, pixels in zip(frame.get_bbox().bounds, picture_box.bounds, (1050, 700) * 2, strict=True):
            assert abs(found - side) * pixels <= 3
        blue = [axes.texts[0].get_color() == CHOSEN for axes in viewer.panels[2:]]
        assert blue == [place == number for place in range(len(viewer.cells))]


def test_right_wrong_and_unsure_are_seen_above_the_photo(tmp_path):
    run = make_run(tmp_path / "run", ["dog/a.jpg", "dog/b.jpg", "c.jpg", "d.jpg", "dog/e.jpg"])
    controls, press = controls_of(run)
    controls.album.photos[3].probabilities.update(dog=0.52, cat=0.48)  # taken for a cat
    controls.album.photos[4].probabilities.update(dog=0.52, cat=0.48)
    viewer, seen = controls.viewer, []
    for _ in range(5):
        frame = viewer.frames[0]
        colour = to_hex(frame.get_edgecolor()) if frame.get_visible() else "black"
        assert viewer.panels[0].texts[0].get_color() == colour
        seen.append((viewer.panels[0].texts[0].get_text(), colour))
        press("right")
    assert seen == [
        ("✓ right", RIGHT),
        ("✗ wrong: it is dog", WRONG),
        ("photo", "black"),
        ("photo   ? unsure", UNSURE),
        ("✓ right   ? unsure", RIGHT),
    ]
    assert "predicted: dog 0.520, unsure" in viewer.heading.get_text()


def test_letters_are_drawn_in_their_colour():
    letters, _ = rendered("wrong", 12.0, WRONG)
    assert letters[..., 3].any() and (letters[..., :3] == (197, 34, 31)).all()


def test_where_not_all_classes_fit_the_most_probable_are_shown(tmp_path):
    classes = [f"c{number}" for number in range(8)]
    run = make_run(tmp_path / "run", ["x.jpg"], classes=classes, kind="gradcam")
    for path in (run / "x").glob("gradcam_for_*.npy"):
        np.save(path.with_name(path.name.replace("gradcam", "guided_backprop")), np.ones((8, 8, 3), "f4"))
    photos = find_saved(run)
    photos[0].probabilities.update(zip(classes, (0.01, 0.02, 0.03, 0.3, 0.04, 0.4, 0.05, 0.15), strict=True))
    viewer = Viewer(Figure(figsize=(7, 4)), Album(photos), class_name="c1")
    assert viewer.grid == (2, 2)  # the most probable, and that over the photo
    assert list(dict.fromkeys(name for _, name in viewer.cells)) == ["c1", "c5"]


# ---------------------------------------------------------------- buttons and signals


def test_buttons_that_change_nothing_are_left_out(monkeypatch):
    class Toolbar(NavigationToolbar2):
        toolitems = [*NavigationToolbar2.toolitems, ("Customize", "", "", "")]

    for toolbar in NavigationToolbar2.__subclasses__():
        monkeypatch.setattr(toolbar, "toolitems", toolbar.toolitems)  # is put back
    drop_idle_buttons()
    assert [name for name, *_ in Toolbar.toolitems if name] == ["Home", "Back", "Forward", "Pan", "Zoom", "Save"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_closes_the_window(run_folder, number):
    pyplot.switch_backend("agg")
    before = {one: signal.getsignal(one) for one in (signal.SIGINT, *ENDING_SIGNALS)}
    figure = pyplot.figure()
    controls = Controls(figure, find_saved(run_folder))
    try:
        controls.heed_signals()
        close = controls.timer.callbacks[0][0]
        close()
        assert pyplot.fignum_exists(figure.number)
        signal.raise_signal(number)
        close()
        assert controls.asked == [number] and not pyplot.fignum_exists(figure.number)
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
        pyplot.close(figure)


# ---------------------------------------------------------------- layout


def boxes_of(viewer):
    """(what, left, bottom, right, top) of everything that is drawn, in pixels; texts by Matplotlib's own measure."""
    figure, boxes = viewer.figure, []
    renderer = FigureCanvasAgg(figure).get_renderer()
    axes = [one for one in figure.axes if one.get_visible()]
    for number, one in enumerate(axes):
        boxes.append((f"axes {number}", *one.bbox.extents))
        boxes += [
            (text.get_text(), *text.get_window_extent(renderer).extents)
            for text in one.texts
            if text.get_visible() and text.get_text()
        ]
    return [*boxes, ("heading", *viewer.heading.get_window_extent(renderer).extents)]


@pytest.mark.parametrize("size", [(1050, 700), (2000, 1200), (600, 900)])
def test_panels_stay_where_they_are_from_photo_to_photo(tmp_path, size):
    """Of a portrait, a landscape and a square photo: titles, bars, and each picture at its cell's upper edge."""
    run = make_run(tmp_path / "run", ["a.jpg", "b.jpg", "a long name of a photo.jpg"], classes=["dog", "cat", "bird"])
    for name, shape in (("a", (200, 400)), ("b", (400, 200)), ("a long name of a photo", (300, 300))):
        Image.new("RGB", shape).save(run / name / "photo.jpg")
    controls, press = controls_of(run, size=(size[0] / 100, size[1] / 100))
    viewer, seen = controls.viewer, []
    for _ in range(3):
        places = [axes.get_position() for axes in viewer.panels]
        bars = [bar.get_position().bounds for bar in (*viewer.bars, viewer.overlay_bar)]
        middles = [((place.x0 + place.x1) / 2, place.y1) for place in places]
        seen.append(np.round([*np.ravel(middles), *np.ravel(bars)], 9))
        shape = viewer.content.shape
        for place in places:
            width, height = place.width * size[0], place.height * size[1]
            assert width / height == pytest.approx(shape[1] / shape[0])
        press("right")
    np.testing.assert_array_equal(seen[1], seen[0])
    np.testing.assert_array_equal(seen[2], seen[0])


@pytest.mark.parametrize("shape", [(400, 150), (120, 600)], ids=["portrait", "panorama"])
@pytest.mark.parametrize("kinds", [1, 3])
def test_nothing_overlaps_or_is_cut_off(tmp_path, kinds, shape):
    classes = ["dog", "a class whose name is longer than any title has room for", "n02107908_Appenzeller", "bird"]
    run = make_run(
        tmp_path / "run",
        ["a folder/a photo with a long name for a narrow window 01.jpg"],
        classes=classes,
        kind="gradcam",
        settings={"method": "eigen-grad-cam", "counterfactual": True},
    )
    folder = find_saved(run)[0].folder
    Image.new("RGB", shape[::-1]).save(folder / "photo.jpg")
    for kind in ("guided_backprop", "guided_gradcam")[: kinds - 1]:
        for name in classes:
            np.save(folder / f"{kind}_for_{name}.npy", np.linspace(-1e-4, 1e-4, 192, dtype="f4").reshape(8, 8, 3))
    for width, height in ((500, 350), (500, 900), (1050, 700)):
        viewer = Viewer(Figure(figsize=(width / 100, height / 100)), Album(find_saved(run)), footer=34)
        boxes = boxes_of(viewer)
        for what, left, bottom, right, top in boxes:
            assert left >= -1 and right <= width + 1 and bottom >= 34 and top <= height + 1, (width, what)
        for (one, *a), (other, *b) in itertools.combinations(boxes, 2):
            across, down = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
            assert across <= 2 or down <= 3, (width, height, one, other)  # letters' boxes have some air
        for bar, (kind, _) in zip(viewer.bars, viewer.cells, strict=False):
            above = [axes for axes, cell in zip(viewer.panels[2:], viewer.cells, strict=False) if cell[0] == kind]
            middle = sum(bar.bbox.intervalx) / 2
            left, right = min(axes.bbox.x0 for axes in above), max(axes.bbox.x1 for axes in above)
            assert left - 1 <= middle <= right + 1
