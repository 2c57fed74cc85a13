"""The figure of one photo's maps: scales, overlay, keys, damaged maps."""

import csv
import os

import numpy as np
import pytest
from conftest import CLASSES, make_run
from matplotlib.backend_bases import KeyEvent
from matplotlib.figure import Figure

from camlib.maps import find_maps, find_saved
from camlib.pictures import Style
from camlib.viewer import Controls, Viewer

pytestmark = pytest.mark.any_backend


def viewer_of(place, index=0, **settings):
    return Viewer(Figure(figsize=(10.5, 7)), find_saved(place), index, **settings)


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
    np.testing.assert_array_equal(overlay(style=Style(opacity=0.0)), photo)
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
    assert viewer.style.opacity == 0.2


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
