"""Several runs of the same photos side by side: what is shown of each, in figure, strip, page and sheet."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from conftest import CLASSES, make_run
from matplotlib.figure import Figure
from PIL import Image

from camlib.plots.colours import Style, picture_of, superposition_of
from camlib.runs.maps import SavedPhoto
from camlib.viewer.album import Album
from camlib.viewer.compare import find_compared, labels_of
from camlib.viewer.figure import Viewer
from camlib.viewer.gallery import entry_of
from camlib.viewer.sheet import columns_of, row_of
from camlib.viewer.strip import SIDE_SHOWN, Strip
from show_heatmaps import main

pytestmark = pytest.mark.any_backend
PIXELS = 10**8


@pytest.fixture
def places(tmp_path):
    """CAM of x and y, and LayerCAM with gradients of y, x and z: x is a dog to one network and a cat to the other."""
    cam = make_run(tmp_path / "cam", ["x.jpg", "y.jpg"], settings={"model": "models/small.h5"})
    settings = {"method": "layer-cam", "weights": "VGG16", "model_sha256": "5e", "layer": "block5"}
    layer_cam = make_run(tmp_path / "layer", ["y.jpg", "x.jpg", "z.jpg"], kind="gradcam", settings=settings)
    for photo in "xyz":
        for name in CLASSES:
            gradients = np.full((12, 16, 3), (-1.0, 0.5, 0.25), np.float32)
            np.save(layer_cam / photo / f"guided_backprop_for_{name}.npy", gradients)
    return [cam, layer_cam]


def another_layer(place, layer, folder):
    """A copy of a run that says that it is of another layer."""
    copy = shutil.copytree(place, place.parent / folder)
    record = json.loads((copy / "run.json").read_text())
    record["settings"]["layer"] = layer
    (copy / "run.json").write_text(json.dumps(record))
    return copy


def titles(viewer):
    return [" ".join(axes.texts[0].get_text().split()) for axes in viewer.panels]


def test_each_map_has_title_sign_scale_and_probability_of_its_own_run(places):
    photos, lacking = find_compared(places, PIXELS)
    assert [photo.name for photo in photos] == ["x.jpg", "y.jpg"]
    assert lacking == [f"{places[0]} has no maps of 1 photo, the first z.jpg"]
    viewer = Viewer(Figure(figsize=(10.5, 7)), Album(photos))
    assert titles(viewer) == [
        "photo", "CAM: dog 0.750",
        "CAM: dog 0.750 (all zero)", "LayerCAM: dog 0.250", "guided backpropagation: dog 0.250",
        "CAM: cat 0.250", "LayerCAM: cat 0.750", "guided backpropagation: cat 0.750",
    ]  # fmt: skip
    assert "predicted: dog 0.750 (CAM); cat 0.750 (LayerCAM)" in viewer.heading.get_text()
    ends = [[text.get_text() for text in bar.texts[:3] if text.get_text()] for bar in viewer.bars]
    assert ends == [["-1", "0", "1"], ["-2", "0", "2"], ["-1", "0", "1"]]
    viewer.choose("guided_backprop@1", "cat")
    assert titles(viewer)[1] == "guided backpropagation: cat 0.750"
    assert [text.get_text() for text in viewer.overlay_bar.texts[:2]] == ["0", "1"]  # gradients by their magnitude


def test_photos_that_a_run_lacks_are_said_once(places, tmp_path, capsys):
    page = tmp_path / "page.html"
    assert main([*map(str, places), "--html", str(page)]) == 0
    said = capsys.readouterr().out
    assert said.count("has no maps of 1 photo, the first z.jpg") == 1 and "2 photos" in said
    assert page.read_text("utf-8").count('"name": "x.jpg"') == 1
    assert "The network knows" not in page.read_text("utf-8")  # they are two


def test_the_page_and_the_sheet_show_the_maps_of_all_runs(places):
    photos, _ = find_compared(places, PIXELS)
    assert list(entry_of(photos[0])["maps"]) == ["CAM", "LayerCAM", "guided backpropagation"]
    assert columns_of(photos) is None  # kinds and runs
    row, damaged = row_of(photos[0], None, None, Style(), with_kinds=True)
    assert len(row.cells) == 4 and damaged == []
    # one calls it a dog, the other a cat: each map is of what its own network answers, and says so
    assert [title for title, *_ in row.cells] == [
        "photo", "CAM: dog 75 %", "LayerCAM: cat 75 %", "guided backpropagation: cat 75 %",
    ]  # fmt: skip
    answers = entry_of(photos[0])["answers"]
    assert [(kind, said["class"], said["predicted"]) for kind, said in answers.items()] == [
        ("CAM", "dog", "dog"), ("LayerCAM", "cat", "cat"), ("guided backpropagation", "cat", "cat"),
    ]  # fmt: skip
    assert answers["LayerCAM"]["probabilities"] == {"dog": 0.25, "cat": 0.75}


@pytest.mark.parametrize(
    ("settings", "labels"),
    [
        ([{"layer": "a"}, {"layer": "b"}, {"layer": "c"}], ["a", "b", "c"]),
        ([{"method": "grad-cam", "layer": "a"}, {"method": "layer-cam", "layer": "b"}], ["Grad-CAM", "LayerCAM"]),
        ([{"weights": "VGG16", "layer": "a"}, {"model": "my/small.h5", "layer": "b"}], ["VGG16", "small"]),
        (
            [{"method": method, "layer": layer} for method in ("grad-cam", "layer-cam") for layer in "ab"],
            ["Grad-CAM, a", "Grad-CAM, b", "LayerCAM, a", "LayerCAM, b"],
        ),
        ([{}, {}], ["first", "second"]),
    ],
)
def test_runs_are_told_apart_in_as_few_words_as_do(tmp_path, settings, labels):
    runs = [SavedPhoto("x.jpg", [tmp_path], settings=one) for one in settings]
    assert labels_of(runs, [tmp_path / name for name in ("first", "second", "third", "fourth")[: len(runs)]]) == labels


def test_runs_without_anything_of_their_own_go_by_their_paths(tmp_path):
    places = [tmp_path / "one/cam", tmp_path / "two/cam"]
    assert labels_of([SavedPhoto("x.jpg", [tmp_path])] * 2, places) == list(map(str, places))


def test_layers_of_a_network_have_labels_and_one_guided_backpropagation(places):
    runs = [places[1], another_layer(places[1], "block4", "other")]
    photo = find_compared(runs, PIXELS)[0][1]
    shown = [photo.title_of(kind) for kind in photo.map_places()]
    assert shown == ["LayerCAM, block5", "guided backpropagation", "LayerCAM, block4"]
    assert list(photo.answers) == [""]  # one network, one answer
    photo.runs["block4"].settings["model_sha256"] = "6f"  # the network was trained further
    photo = dataclasses.replace(photo)
    assert [photo.title_of(kind) for kind in photo.map_places()][1::2] == [
        "guided backpropagation, block5", "guided backpropagation, block4",
    ]  # fmt: skip


def test_methods_and_layers_in_subfolders_of_a_folder_are_found(places):
    folder = places[1].parent / "several"
    for layer in ("block4", "block5"):
        another_layer(places[1], layer, f"several/layer-cam@{layer}")
    photos, _ = find_compared([folder], PIXELS)
    assert list(photos[0].runs) == ["block4", "block5"]


def test_one_wrong_answer_makes_a_photo_wrong(tmp_path):
    right = make_run(tmp_path / "right", ["dog/x.jpg"])
    wrong = make_run(tmp_path / "wrong", ["cat/y.jpg", "dog/x.jpg"], kind="gradcam")  # the second is taken for a cat
    photos, _ = find_compared([right, wrong], PIXELS)
    assert photos[0].is_right is False
    assert find_compared([right], PIXELS)[0][0].is_right is True


def test_kinds_and_classes_are_chosen(places, tmp_path, capsys):
    options = [*map(str, places), "--maps", "gradcam", "--classes", "cat", "--html", str(tmp_path / "page.html")]
    assert main(options) == 0
    page = (tmp_path / "page.html").read_text("utf-8")
    assert '"maps": {"LayerCAM": {"cat": {' in page and '"CAM"' not in page and '"dog": {' not in page


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["cam", "other"], "no photo is in all of cam, other; expected runs of the same photos, found x.jpg and a.jpg"),
        (["cam", "./cam"], "found cam cam; expected each folder once"),
        (["cam", "--classes", "cow"], "--classes cow: x.jpg has no map of it; expected one of dog, cat"),
        (["cam", "--classes", "cat", "--class", "dog"], "--class dog: x.jpg has no map of it; expected one of cat"),
        (["cam", "--maps", "gradcam"], "--maps gradcam: x.jpg has no map of it; expected one of heatmap"),
        (["cam", "--strip", "a.docx"], "--strip a.docx: expected a name that ends in one of"),
    ],
)
def test_what_cannot_be_shown_is_one_line(end_of, places, monkeypatch, arguments, words):
    monkeypatch.chdir(places[0].parent)
    make_run(places[0].parent / "other", ["a.jpg"])
    code, said = end_of(main, arguments)
    assert code == 2 and said.startswith("error: ") and words in said and said.count("\n") == 1


# ---------------------------------------------------------------- the strip


def test_a_strip_has_classes_in_rows_and_kinds_in_columns_over_the_photo(places):
    photos, _ = find_compared(places, PIXELS, classes=["cat", "dog"])
    photos[0].settings["photos"] = photos[1].settings["photos"] = [str(places[0])]
    album = Album(photos, 1)
    records = [{"file": "y.jpg", "class": "dog", "boxes": [[4, 3, 20, 15]], "width": 40, "height": 30}]
    (places[0] / "annotations.json").write_text(json.dumps(records))
    strip = Strip(Figure(figsize=(10, 5)), album)
    kinds = [None, "heatmap", "gradcam@1", "guided_backprop@1"]
    assert strip.cells == [(kind, name) for name in ("dog", "cat") for kind in kinds]
    assert titles(strip)[:4] == [
        "photo", "CAM: dog 0.250", "LayerCAM: dog 0.750 (all zero)", "guided backpropagation: dog 0.750",
    ]  # fmt: skip
    content, picture = album.content(None), lambda cell: np.asarray(strip.panels[cell].images[0].get_array())
    photo, scales = picture(0), content.scales
    expected = superposition_of(photo, content.maps["heatmap"]["cat"], content.over_photo["heatmap"])
    np.testing.assert_array_equal(picture(5), expected)
    gradients = content.maps["guided_backprop@1"]["cat"]
    np.testing.assert_array_equal(picture(7), picture_of(gradients, scales["guided_backprop@1"], *photo.shape[:2]))
    assert [len(axes.lines) for axes in strip.panels] == [1, 0, 0, 0, 0, 0, 0, 0]  # the dog's box beside its maps


def test_a_strip_is_written_as_large_as_it_needs(places, tmp_path, capsys):
    for photo, name in (("x", "a"), ("y", "b")):
        arguments = [
            "--photo",
            f"{photo}.jpg",
            "--strip",
            str(tmp_path / f"{name}.png"),
            "--maps",
            "heatmap",
            "gradcam",
        ]
        assert main([*map(str, places), *arguments]) == 0
    one, other = (Image.open(tmp_path / f"{name}.png") for name in "ab")
    assert one.size == other.size and 3 * 2 * SIDE_SHOWN < one.size[0] < 3 * 2 * SIDE_SHOWN * 1.1
    assert f"wrote {tmp_path}/a.png" in capsys.readouterr().out
