"""The figure of one photo's maps: scales, overlay, keys, damaged maps."""

import csv
import os

import numpy as np
import pytest
from conftest import CLASSES, make_run
from matplotlib.backend_bases import KeyEvent
from matplotlib.figure import Figure

from camlib.maps import find_maps, find_saved
from camlib.pictures import Style, colours
from camlib.viewer import Viewer
from camlib.window import Controls

pytestmark = pytest.mark.any_backend


def viewer_of(place, index=0, **settings):
    return Viewer(Figure(figsize=(10.5, 7)), find_saved(place), index, **settings)


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
    assert numbers(viewer.overlay_bar) == ["≤ -2", "0", "≥ 2"]  # the largest evidence for a class


def test_an_all_zero_map_is_flagged(run_folder):
    viewer = viewer_of(run_folder, 0)  # dog is 0 everywhere
    assert titles(viewer)[2:] == ["CAM: dog 0.750 (all zero)", "CAM: cat 0.250"]
    np.testing.assert_array_equal(picture(viewer.panels[1]), picture(viewer.panels[0]))


def test_overlay_follows_class_and_opacity(run_folder):
    def overlay(**settings):
        return np.asarray(viewer_of(run_folder, 2, **settings).panels[1].images[0].get_array()).astype(int)

    photo = np.asarray(viewer_of(run_folder, 2).panels[0].images[0].get_array()).astype(int)
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
    assert viewer.overlay_class == "cat" and titles(viewer)[1] == "CAM: cat 0.250"
    press("left")
    assert viewer.overlay_class == "cat"  # the user's choice stays
    press("h")
    assert controls.help.get_visible()
    controls.photo_slider.set_val(1)
    assert viewer.index == 0 and "b/x.jpg   (1 of 3)" in viewer.heading.get_text()
    controls.opacity_slider.set_val(0.2)
    assert viewer.style.opacity == 0.2


def test_damaged_maps_are_named_and_the_rest_is_shown(run_folder):
    (run_folder / "a/y/heatmap_for_cat.npy").write_bytes(b"\x93NUMPY nonsense")
    os.unlink(run_folder / "a/y/photo.jpg")
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
        "Grad-CAM: dog 0.750 (all zero)", "guided backpropagation: dog 0.750", "guided Grad-CAM: dog 0.750"
    ]  # fmt: skip
    bars = [bar.texts[3].get_text() for bar in viewer.bars]
    assert bars == ["Grad-CAM", "logit per input unit", "logit per input unit × map"]


def test_of_many_classes_the_most_probable_are_shown(tmp_path):
    classes = [f"c{number:02d}" for number in range(30)]
    run = make_run(tmp_path / "run", ["x.jpg"], classes=classes)
    rows = list(csv.reader((run / "predictions.csv").read_text().splitlines()))
    rows[1][-30:] = [str(number / 100) for number in range(30)]
    with open(run / "predictions.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    assert list(find_maps(find_saved(run)[0])["heatmap"]) == classes[:-9:-1]
