"""`gradcam_vgg16.py --weights FILE`: files of all kinds of networks, what is said about them, what is refused."""

import json
import os
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import read_csv
from keras import layers, ops
from matplotlib.figure import Figure
from PIL import Image

import gradcam_vgg16
import show_heatmaps
from camlib.attribution import classifier, tracing
from camlib.attribution.gradcam import compiled_map
from camlib.attribution.inspection import inspect_network
from camlib.backend import BACKEND
from camlib.console import UserError
from camlib.plots.colours import picture_of, scale_of
from camlib.plots.panels import MARGIN, PANEL_SIDE
from camlib.runs.maps import find_saved
from camlib.viewer.album import Album
from camlib.viewer.figure import Viewer

SHAPE = (24, 32, 3)


def trunk(activation="relu"):
    image = keras.Input(SHAPE)
    x = layers.Conv2D(6, 3, activation=activation, name="first")(image)
    x = layers.MaxPooling2D(name="pool")(x)
    return keras.Model(image, layers.Conv2D(5, 3, activation=activation, name="second")(x), name="trunk")


def nested(outputs=3, activation="softmax", rescale=True, of_trunk="relu"):
    keras.utils.set_random_seed(1)
    image = x = keras.Input(SHAPE)
    x = layers.Rescaling(1 / 255, name="scale")(x) if rescale else x
    x = layers.GlobalAveragePooling2D()(trunk(of_trunk)(x))
    return keras.Model(image, layers.Dense(outputs, activation=activation, name="class")(x))


def sequential():
    keras.utils.set_random_seed(2)
    image, scale = keras.Input(SHAPE), layers.Rescaling(1 / 255)
    return keras.Sequential([image, scale, trunk(), layers.Flatten(), layers.Dense(2, activation="sigmoid")])


def convolutional(shape=(24, 32, 1), rescale=1 / 255):
    """One convolution of a grey photo, or of one of any shape."""
    keras.utils.set_random_seed(1)
    image = keras.Input(shape)
    x = layers.Conv2D(4, 3, activation="relu")(layers.Rescaling(rescale)(image) if rescale else image)
    return keras.Model(image, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))


@pytest.fixture
def explain(photo_folder, tmp_path, capsys):
    """Run the script in this process on two photos: explain(network, "--classes", "all") -> (folder, printed)."""
    photos = photo_folder({"wide.png": (200, 100, 50), "b/tall.png": (50, 100, 200)}, size=(64, 48))

    def run(network, *arguments, kind="keras"):
        path = tmp_path / f"net.{kind}"
        network.save(path)
        output = tmp_path / "out"
        code = gradcam_vgg16.main([str(photos), "--weights", str(path), "--output", str(output), *map(str, arguments)])
        assert code == 0
        return output, capsys.readouterr().out

    return run


@pytest.mark.parametrize(("build", "kind"), [(nested, "keras"), (sequential, "h5")])
def test_files_of_nested_networks(explain, build, kind):
    network = build()
    output, printed = explain(network, "--classes", "0", kind=kind)
    assert "since its layer 'scale' rescales" in printed or "since its layer 'rescaling" in printed
    assert "grad-cam of layer trunk/second, 9x13x5" in printed
    assert "guided backpropagation through 2 ReLU" in printed
    photo = np.asarray(Image.open(output.parent / "photos" / "wide.png")).astype(np.float32)
    images = ops.image.resize(photo[None], SHAPE[:2], antialias=True)
    (row,) = (row for row in read_csv(output / "predictions.csv") if row["path"] == "wide.png")
    expected = ops.convert_to_numpy(network(images))[0]
    assert row["predicted"] == f"class_{expected.argmax()}"
    np.testing.assert_allclose(float(row["probability_class_0"]), expected[0], atol=0.02)  # another resizing
    assert np.load(output / "wide" / "gradcam_for_class_0.npy").shape == (9, 13)
    settings = json.loads((output / "run.json").read_text())["settings"]
    assert settings["layer"] == "trunk/second" and settings["preprocessing"] == "24x32 RGB, pixel * 1 + 0"


@pytest.mark.any_backend
def test_layers_are_named_with_a_slash(explain):
    output, printed = explain(nested(), "--layer", "trunk/first", "--classes", "all")
    assert "grad-cam of layer trunk/first, 22x30x6" in printed
    assert np.load(output / "b" / "tall" / "gradcam_for_class_2.npy").shape == (22, 30)
    with pytest.raises(UserError, match="--layer first is not a layer .* one of scale, trunk/first, trunk/pool, "):
        explain(nested(), "--layer", "first", "--overwrite")


@pytest.mark.any_backend
def test_layers_are_listed_with_the_size_of_their_maps(explain):
    output, printed = explain(nested(), "--layers")
    rows = [line.split() for line in printed.splitlines() if line.startswith("trunk/")]
    assert ["trunk/first", "22x30", "6"] in rows and ["trunk/second", "9x13", "5", "default"] in rows
    assert sum("default" in row for row in rows) == 1 and not output.exists()


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.*")}


@pytest.mark.any_backend
def test_several_methods_and_layers_are_runs_of_their_own_with_one_loading(explain, monkeypatch):
    """What each subfolder holds is what the same command with one method and one layer writes."""
    loads, load = [], classifier.load_network
    monkeypatch.setattr(classifier, "load_network", lambda *given: loads.append(given) or load(*given))
    network, common = nested(), ["--classes", "top2", "--no-guided"]
    several = ["--method", "grad-cam", "layer-cam", "--layer", "trunk/first", "trunk/second"]
    output, _ = explain(network, *several, *common)
    assert len(loads) == 1
    pairs = [(method, layer) for method in several[1:3] for layer in several[4:]]
    found = {f"{method}@{layer.replace('/', '.')}": (method, layer) for method, layer in pairs}
    assert sorted(path.name for path in output.iterdir()) == sorted(found)
    together = output.rename(output.with_name("together"))
    for name, (method, layer) in found.items():
        alone, _ = explain(network, "--method", method, "--layer", layer, *common)
        files, as_alone = map(contents, (together / name, alone))
        one, other = (json.loads(of.pop(Path("run.json")))["settings"] for of in (files, as_alone))
        assert files == as_alone and one.keys() == other.keys()
        assert [key for key in one if one[key] != other[key]] == ["model_sha256"]  # the file has the time of saving
        assert (one["method"], one["layer"]) == (method, layer)
        for row in read_csv(alone / "predictions.csv"):
            ranked = sorted(range(3), key=lambda index: -float(row[f"probability_class_{index}"]))[:2]
            maps = alone.joinpath(row["path"]).with_suffix("").glob("gradcam_for_*.npy")
            assert sorted(path.stem for path in maps) == sorted(f"gradcam_for_class_{index}" for index in ranked)
        shutil.rmtree(alone)


@pytest.mark.any_backend
def test_a_network_that_nobody_names_the_classes_of_says_how(explain):
    _, printed = explain(nested(), "--classes", "0")
    named = "its classes are called class_0 to class_2; --class-names FILE names them"
    assert printed.splitlines()[1] == named
    with pytest.raises(UserError, match="--classes dog is not a class; .* class_2; --class-names FILE names them$"):
        explain(nested(), "--classes", "dog", "--overwrite")


@pytest.mark.any_backend
def test_what_nobody_says_is_asked_for(explain, tmp_path):
    with pytest.raises(UserError, match="nothing says what .* makes of a pixel; expected --preprocess"):
        explain(nested(rescale=False))
    names = tmp_path / "names.txt"
    names.write_text("Alpaca\nLlama\n\nVicuña\n", encoding="utf-8")
    arguments = ["--preprocess", "caffe", "--class-names", names, "--classes", "Vicuña", "0"]
    output, printed = explain(nested(rescale=False), *arguments)
    assert "24x32 BGR, pixel * 1 + (-103.939, -116.779, -123.68), --preprocess caffe" in printed
    assert (output / "wide" / "gradcam_for_Vicuña.npy").exists() and (output / "wide" / "panel_for_Alpaca.jpg").exists()
    with pytest.raises(UserError, match="3 class names for 4 outputs"):
        explain(nested(4), "--class-names", names, "--overwrite")


def test_gradients_of_a_bgr_network_are_saved_as_rgb(explain):
    """A network that looks at one channel only, blue first: the gradient is in the saved array's last."""
    network = nested(rescale=False)
    network.set_weights([np.abs(weight) for weight in network.get_weights()])  # every ReLU is open
    first = network.get_layer("trunk").get_layer("first")
    kernel, bias = first.get_weights()
    kernel[:, :, 1:] = 0
    first.set_weights([kernel, bias + 1000])
    output, _ = explain(network, "--preprocess", "vgg", "--classes", "all")
    guided = [np.load(output / "wide" / f"guided_backprop_for_class_{index}.npy") for index in range(3)]
    assert any(values[..., 2].any() for values in guided) and not any(values[..., :2].any() for values in guided)


@pytest.mark.any_backend
def test_networks_of_any_size_take_the_one_asked_for(explain):
    network = convolutional((None, None, 3), rescale=None)
    with pytest.raises(UserError, match="takes photos of any size and its file names none; expected --size N or HxW"):
        explain(network, "--preprocess", "tf")
    arguments = ["--preprocess", "tf", "--size", "40x24", "--classes", "0"]
    output, printed = explain(network, *arguments)
    assert "40x24 RGB" in printed and np.load(output / "wide" / "gradcam_for_class_0.npy").shape == (38, 22)
    assert np.load(output / "wide" / "guided_backprop_for_class_0.npy").shape == (40, 24, 3)


@pytest.mark.any_backend
def test_mean_is_for_as_many_channels_as_there_are(explain):
    grey = convolutional(rescale=None)
    with pytest.raises(UserError, match="--preprocess mean=0,0,0,std=1, is for RGB; the network takes 1 channel"):
        explain(grey, "--preprocess", "mean=0,0,0,std=1")
    _, printed = explain(grey, "--preprocess", "mean=0.5,std=0.25")
    assert "24x32 grey, pixel * 0.0156863 + -2" in printed


@pytest.mark.any_backend
def test_maps_of_grey_photos_are_shown(explain, tmp_path):
    """Their gradients, (H, W, 1), in a figure, on a page, and alone."""
    output, _ = explain(convolutional(), "--classes", "all")
    guided = output / "wide" / "guided_backprop_for_class_0.npy"
    assert np.load(guided).shape == (24, 32, 1)
    viewer = Viewer(Figure(figsize=(10.5, 7)), Album(find_saved(output)))  # with room for whole titles
    values = [np.load(guided.with_name(f"guided_backprop_for_class_{index}.npy")) for index in range(2)]
    index = int(np.argmax([np.abs(of_class).max() for of_class in values]))  # the other's gradients may be all zero
    title = f"guided backpropagation: class_{index}"
    (shown,) = [panel for panel in viewer.panels if " ".join(panel.texts[0].get_text().split()).startswith(title)]
    drawn = np.asarray(shown.images[0].get_array())
    expected = picture_of(values[index], scale_of(True, values, gradients=True), *drawn.shape[:2])
    np.testing.assert_array_equal(drawn[..., :3], expected)
    assert (expected != expected[..., :1]).any(axis=2).mean() > 0.3  # in the colours of a signed map, not grey
    assert show_heatmaps.main([str(output), "--html", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text("utf-8")
    assert page.count('"guided backpropagation"') == page.count('"guided Grad-CAM"') == 2  # of both photos
    assert show_heatmaps.main([str(guided), "--save", str(tmp_path / "one.png")]) == 0


def test_other_activations(explain):
    smooth = nested(activation=None, of_trunk="gelu")
    message = r"layer 'trunk/first' \(gelu\) and 1 more activations are no ReLU.*--no-guided.*--guided-anyway"
    with pytest.raises(UserError, match=message):
        explain(smooth)
    output, printed = explain(smooth, "--no-guided", "--method", "hires-cam", "--classes", "0", "1", "2")
    names = {path.name for path in (output / "wide").iterdir()}
    parts = ("gradcam_for_class_{}.jpg", "gradcam_for_class_{}.npy", "panel_for_class_{}.jpg", "spp_for_class_{}.jpg")
    assert "guided" not in printed
    assert names == {"photo.jpg"} | {part.format(index) for part in parts for index in range(3)}
    maps = [np.load(output / "wide" / f"gradcam_for_class_{index}.npy") for index in range(3)]
    assert min(values.min() for values in maps) < 0  # signed
    output, _ = explain(smooth, "--guided-anyway", "--overwrite", "--classes", "1")
    assert (output / "wide" / "guided_backprop_for_class_1.npy").exists()


@pytest.mark.any_backend
def test_bad_arguments(explain, capsys):
    with pytest.raises(SystemExit):
        explain(nested(), "--method", "eigen-cam", "--counterfactual")
    assert "--counterfactual negates gradients, which eigen-cam does without" in capsys.readouterr().err
    with pytest.raises(UserError, match="--size 64: the network .* takes 24x32 only"):
        explain(nested(), "--size", "64")
    with pytest.raises(UserError, match=r"takes \(N, 24, 32, 2\); expected one input of photos"):
        explain(convolutional((24, 32, 2)))
    with pytest.raises(UserError, match="no layer with a spatial output"):
        image = keras.Input(SHAPE)
        explain(keras.Model(image, layers.Dense(2)(layers.Flatten()(image))), "--preprocess", "none")


@pytest.mark.any_backend
def test_a_thousand_classes_can_be_asked_for_dog(explain):
    output, _ = explain(nested(1000), "--classes", "dog", "sorrel", "--no-guided")
    assert (output / "wide" / "gradcam_for_dog.npy").exists() and (output / "wide" / "gradcam_for_sorrel.npy").exists()


# ---------------------------------------------------------------- honest pictures


def brightness_network():
    """Its one feature is how red a pixel is; class 0 likes red, class 1 dislikes it."""
    image = keras.Input(SHAPE)
    x = layers.Conv2D(1, 1, activation="relu", name="red")(layers.Rescaling(1 / 255)(image))
    network = keras.Model(image, layers.Dense(2, name="class")(layers.GlobalAveragePooling2D()(x)))
    network.get_layer("red").set_weights([np.array([1.0, 0, 0]).reshape(1, 1, 3, 1), np.zeros(1)])
    network.get_layer("class").set_weights([np.array([[1.0, -1.0]]), np.zeros(2)])
    return network


@pytest.mark.any_backend
def test_a_map_of_zeros_is_said_to_be_one(explain):
    """Red speaks against class 1 everywhere: its Grad-CAM is zero, and neither a NaN nor scaled noise."""
    output, printed = explain(brightness_network(), "--classes", "0", "1")
    cam = np.load(output / "wide" / "gradcam_for_class_1.npy")
    np.testing.assert_array_equal(cam, np.zeros((24, 32)))
    zero = "4 maps are zero everywhere, the first gradcam_for_class_1 of wide.png: its weighted features are nowhere"
    zero += " positive (--counterfactual maps what speaks against the class)"
    assert zero in printed
    assert np.asarray(Image.open(output / "wide" / "gradcam_for_class_1.jpg")).std() < 1
    output, printed = explain(brightness_network(), "--classes", "1", "--counterfactual", "--overwrite")
    assert np.load(output / "wide" / "gradcam_for_class_1.npy").min() > 0
    assert "2 maps are zero everywhere, the first guided_backprop_for_class_1 of wide.png: no positive grad" in printed


@pytest.mark.any_backend
def test_upright_red_photos_keep_their_place_colour_and_shape(explain, tmp_path):
    """A tall photo, stored lying with EXIF's rotation, pure red in its upper left corner and black elsewhere."""
    upright = np.zeros((96, 64, 3), np.uint8)
    upright[:32, :24] = (255, 0, 0)
    exif = Image.Exif()
    exif[0x0112] = 6  # stored turned by 90 degrees counter-clockwise
    stored = Image.fromarray(np.ascontiguousarray(np.rot90(upright)))
    (tmp_path / "photos").mkdir(exist_ok=True)
    stored.save(tmp_path / "photos" / "red.png", exif=exif)
    output, _ = explain(brightness_network(), "--classes", "0")
    cam = np.load(output / "red" / "gradcam_for_class_0.npy")  # the network's 24 rows and 32 columns
    assert cam[:7, :11].min() > 0.9 * cam.max() and not cam[9:].any() and not cam[:, 13:].any()
    with Image.open(output / "red" / "gradcam_for_class_0.jpg") as picture:
        assert picture.size == (64, 96)
    photo = np.asarray(Image.open(output / "red" / "photo.jpg")).astype(int)
    assert photo.shape == (96, 64, 3) and photo[8, 8, 0] > 240 and photo[8, 8, 1:].max() < 20
    panel = np.asarray(Image.open(output / "red" / "panel_for_class_0.jpg")).astype(int)
    red = (panel[..., 0] > 220) & (panel[..., 1] < 40) & (panel[..., 2] < 40)
    rows, columns = np.nonzero(red[:, : MARGIN + round(PANEL_SIDE * 64 / 96)])  # the photo, leftmost
    assert abs(np.ptp(rows) + 1 - PANEL_SIDE * 32 / 96) < 5 and abs(np.ptp(columns) + 1 - PANEL_SIDE * 24 / 96) < 5
    guided = np.load(output / "red" / "guided_backprop_for_class_0.npy")
    assert guided[2, 2, 0] > 0 and not guided[..., 1:].any()


def memory():
    """Resident memory of this process in MB."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS")) / 1024


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs Linux's /proc")
def test_hundreds_of_calls_neither_grow_nor_trace_again(monkeypatch):
    network = nested()
    explain = compiled_map(network, inspect_network(network, SHAPE))
    traces, original = [], tracing.differentiate
    monkeypatch.setattr(tracing, "differentiate", lambda *parts: traces.append(1) or original(*parts))
    generator = np.random.default_rng(0)

    def call():
        images = ops.convert_to_tensor(generator.random((2, *SHAPE), np.float32))
        found = explain(images, ops.convert_to_tensor(np.array([[0, 1], [-1, -1]], np.int32)))
        return ops.convert_to_numpy(found.products)

    for _ in range(10):
        call()
    traced, before = len(traces), memory()
    for _ in range(490):
        call()
    assert traced == len(traces) <= (1 if BACKEND == "tensorflow" else 2)
    assert memory() - before < 10
