"""Class activation maps against float64 NumPy, the network's own logits, and the files that users read."""

import io
import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import keras
import numpy as np
import pytest
from conftest import ROOT, read_csv
from keras import layers
from PIL import Image

from camlib.attribution.cam import CAM, cam_function, class_activation_maps, pooled_classifier
from camlib.attribution.gradcam import GradCAM
from camlib.backend import usual_settings
from camlib.console import UserError
from camlib.demo.scenes import demo_folder
from camlib.networks import GAP_NETWORK, VGG_NETWORK
from camlib.networks.architectures import modern_network, original_network
from camlib.networks.checkpoint import load_network, save_network
from camlib.photos import read_network_input, read_photo
from camlib.plots.colours import Style, enlarged_for_display, superposition
from camlib.preprocessing import InputSpec
from make_cam_maps import main

CLASSES = ["dog", "cat", "horse", "bird"]
BIAS = [0.5, -1.0, 2.0, 0.1]


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    """A pooling-free network of 32x32 pixels, with biases that are not zero."""
    keras.utils.set_random_seed(1)
    image = keras.Input((None, None, 3))
    x = layers.Conv2D(6, 3, padding="same", activation="relu", kernel_initializer="normal")(image)
    x = layers.GlobalAveragePooling2D()(x)
    network = keras.Model(image, layers.Dense(4, activation="softmax", name="class")(x))
    kernel = np.random.default_rng(2).normal(size=(6, 4))
    network.get_layer("class").set_weights([kernel, np.array(BIAS)])
    path = tmp_path_factory.mktemp("network") / "model.h5"
    save_network(network, path, InputSpec(CLASSES, 32, 32, 3))
    return path


def make(model, photos, output, *more):
    """Run make_cam_maps.py in this process, without a word on stdout that a test would look at."""
    return main([str(photos), "--model", str(model), "--output", str(output), *map(str, more)])


def test_maps_equal_a_float64_sum_over_channels():
    generator = np.random.default_rng(0)
    features, weights = generator.normal(size=(2, 5, 6, 7)), generator.normal(size=(7, 3))
    expected = np.zeros((2, 3, 5, 6))
    for n, c, y, x in np.ndindex(expected.shape):
        expected[n, c, y, x] = sum(weights[k, c] * features[n, y, x, k] for k in range(7))
    maps = keras.ops.convert_to_numpy(class_activation_maps(features.astype(np.float32), weights.astype(np.float32)))
    assert maps.dtype == np.float32
    np.testing.assert_allclose(maps, expected, rtol=1e-5, atol=1e-5)
    assert (maps < 0).any()  # signed: no ReLU


def of_two_at_most(run):
    """A compiled function that runs out of memory for more than two photos."""

    def scarce(images, *others):
        if len(images) > 2:
            raise MemoryError
        return run(images, *others)

    return scarce


@pytest.mark.parametrize("method", ["cam", "grad-cam", "integrated-gradients"])
def test_a_batch_is_halved_where_memory_runs_out_and_each_photo_keeps_its_maps(model_file, method):
    photos = list(np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3)).astype(np.uint8))
    explain = CAM.load(model_file, {}) if method == "cam" else GradCAM.load(
        model_file, {}, method=method, classes=["dog", "bird", "cat"]
    )  # fmt: skip
    whole = explain(photos)
    explain.run = of_two_at_most(explain.run)
    for found, expected in zip(explain(photos), whole, strict=True):
        assert (found is None) == (expected is None)
        if found is not None:
            np.testing.assert_allclose(found, expected, atol=1e-5 * max(1, np.abs(expected).max()))


def test_maps_name_both_shapes_when_channels_differ():
    with pytest.raises(ValueError, match=r"\(1, 2, 2, 3\) and weights \(4, 2\)"):
        class_activation_maps(np.zeros((1, 2, 2, 3), np.float32), np.zeros((4, 2), np.float32))


@pytest.mark.parametrize("build", [modern_network, original_network])
def test_mean_of_map_plus_bias_is_the_networks_own_logit(build):
    keras.utils.set_random_seed(3)
    network = build(4, 3)
    _, dense, _ = pooled_classifier(network)
    dense.bias.assign(BIAS)
    images = np.random.default_rng(0).random((2, 12, 16, 3), np.float32)
    maps, logits, probabilities = (keras.ops.convert_to_numpy(part) for part in cam_function(network)(images))
    assert maps.shape == (2, 4, 12, 16)  # pooling-free: the input's size, height and width apart
    own = keras.Model(network.inputs[0], dense.output).predict(images, verbose=0)
    means = maps.mean((2, 3), dtype=np.float64) + BIAS
    np.testing.assert_allclose(logits, means, atol=1e-5)
    if dense.activation is keras.activations.softmax:  # which takes no notice of what is added to all logits
        own, means = np.log(own) - np.log(own).mean(1, keepdims=True), means - means.mean(1, keepdims=True)
    np.testing.assert_allclose(means, own, atol=1e-5)
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)


def test_network_without_pooled_classifier_is_refused():
    image = keras.Input((8, 8, 3))
    network = keras.Model(image, keras.layers.Dense(2)(keras.layers.Flatten()(image)), name="flat")
    with pytest.raises(UserError, match="'flat' has no Dense layer right behind global average pooling"):
        pooled_classifier(network)


# ---------------------------------------------------------------- networks of other kinds, from files


def pooled_inside(**ending):
    """A trunk that pools itself, as keras.applications' with pooling="avg", Dropout, and the classes."""
    keras.utils.set_random_seed(4)
    image = keras.Input((24, 32, 3))
    x = layers.Conv2D(5, 3, strides=2, activation="relu", name="conv")(image)  # (N, 11, 15, 5)
    trunk = keras.Model(image, layers.GlobalAveragePooling2D()(x), name="trunk")
    photo = keras.Input((24, 32, 3))
    x = layers.Dropout(0.5)(trunk(photo))
    return keras.Model(photo, layers.Dense(**({"units": 3, "activation": "softmax"} | ending), name="class")(x))


def sequential_pooling(**ending):
    keras.utils.set_random_seed(4)
    return keras.Sequential(
        [
            keras.Input((24, 32, 3)),
            layers.Conv2D(5, 3, strides=2, activation="relu", name="conv"),
            layers.GlobalAveragePooling2D(keepdims=True),
            layers.Flatten(),
            layers.Dense(**({"units": 3} | ending), name="class"),
            layers.Activation("softmax"),
        ]
    )


def numpy_maps(network, images):
    """M_c of a network with one strided convolution, in float64 NumPy: (N, C, 11, 15)."""
    conv, dense = (next(one for one in network._flatten_layers() if one.name == name) for name in ("conv", "class"))
    (kernel, bias), weights = (part.get_weights() for part in (conv, dense))
    features = np.zeros((len(images), 11, 15, 5)) + bias
    for dy, dx in np.ndindex(3, 3):
        features += images[:, dy : dy + 21 : 2, dx : dx + 29 : 2].astype(np.float64) @ kernel[dy, dx]
    return np.einsum("nhwk,kc->nchw", np.maximum(features, 0), weights[0].astype(np.float64)), weights[1]


@pytest.mark.parametrize(("build", "kind"), [(pooled_inside, "keras"), (sequential_pooling, "h5")])
def test_any_file_that_ends_in_pooling_and_dense(photo_folder, tmp_path, capsys, build, kind):
    """Nested, Sequential, with Dropout or Flatten between: maps against float64 NumPy, with what the options say."""
    network = build()
    network.get_layer("class").bias.assign([0.5, -1.0, 2.0])
    network.save(tmp_path / f"net.{kind}")
    (tmp_path / "names.txt").write_text("alpaca\nllama\nvicuña\n", encoding="utf-8")
    photos = photo_folder({"a.png": (200, 100, 50)}, size=(32, 24))
    arguments = [tmp_path / f"net.{kind}", photos, tmp_path / "m"]
    with pytest.raises(UserError, match="nothing says what .* makes of a pixel; expected --preprocess"):
        make(*arguments)
    preprocess = "mean=0.4,0.5,0.6,std=0.2,0.25,0.5"
    assert make(*arguments, "--preprocess", preprocess, "--class-names", tmp_path / "names.txt") == 0
    assert (
        "24x32 RGB, pixel * (0.0196078, 0.0156863, 0.00784314) + (-2, -2, -1.2), --preprocess mean"
        in capsys.readouterr().out
    )
    photo = np.asarray(Image.open(photos / "a.png"))
    expected, bias = numpy_maps(network, (photo[None] / 255 - [0.4, 0.5, 0.6]) / [0.2, 0.25, 0.5])
    (row,) = read_csv(tmp_path / "m" / "predictions.csv")
    for index, name in enumerate(("alpaca", "llama", "vicuña")):
        saved = np.load(tmp_path / "m" / "a" / f"heatmap_for_{name}.npy")
        np.testing.assert_allclose(saved, expected[0, index], atol=1e-5 * np.abs(expected).max())
        assert float(row[f"logit_{name}"]) == pytest.approx(expected[0, index].mean() + bias[index], abs=1e-4)


def pooled_in_two_precisions():
    """As Keras's guide to mixed precision has it: the last layers in float32, behind others in half precision."""
    keras.utils.set_random_seed(4)
    image = keras.Input((24, 32, 3))
    x = layers.Conv2D(5, 3, strides=2, activation="relu", name="conv", dtype="mixed_bfloat16")(image)
    x = layers.GlobalAveragePooling2D(dtype="float32")(x)
    x = layers.Dense(3, name="class", dtype="mixed_bfloat16")(layers.Dropout(0.5, dtype="mixed_bfloat16")(x))
    return keras.Model(image, layers.Activation("softmax", dtype="float32")(x))


def test_a_layer_that_casts_its_input_hides_nothing():
    network = pooled_in_two_precisions()
    pooling, dense, place = pooled_classifier(network)
    assert (pooling.name, dense.name, place) == (network.layers[2].name, "class", "conv")
    images = np.random.default_rng(0).random((2, 24, 32, 3), np.float32)
    expected, _ = numpy_maps(network, images)
    maps = keras.ops.convert_to_numpy(cam_function(network)(images)[0])
    assert maps.dtype == np.float32
    np.testing.assert_allclose(maps, expected, atol=0.02 * np.abs(expected).max())  # bfloat16 has 8 bits


@pytest.mark.slow
def test_the_shipped_network_in_half_precision():
    photos = [read_photo(path) for path in sorted((demo_folder() / "both").glob("*.jpg"))[:3]]
    full, half = (CAM.load(GAP_NETWORK, {"dtype": dtype})(photos)[0] for dtype in ("float32", "bfloat16"))
    assert full.dtype == half.dtype == np.float32 and full.shape == half.shape
    for one, other in zip(full.reshape(12, -1), half.reshape(12, -1), strict=True):
        assert (one != other).any() and np.corrcoef(one, other)[0, 1] > 0.99


@pytest.mark.any_backend
def test_maps_of_a_float64_network_are_float64(photo_folder, tmp_path):
    with usual_settings():
        keras.config.set_floatx("float64")
        keras.config.set_dtype_policy("float64")
        network = pooled_inside()
        network.save(tmp_path / "net.keras")
    photos = photo_folder({"a.png": (200, 100, 50)}, size=(32, 24))
    assert make(tmp_path / "net.keras", photos, tmp_path / "m", "--preprocess", "0.01,-1") == 0
    expected, _ = numpy_maps(network, np.asarray(Image.open(photos / "a.png"))[None] * 0.01 - 1)
    for index in range(3):
        saved = np.load(tmp_path / "m" / "a" / f"heatmap_for_class_{index}.npy")
        assert saved.dtype == np.float64
        np.testing.assert_allclose(saved, expected[0, index], atol=1e-12 * np.abs(expected).max())


def test_a_single_unit_stands_for_two_classes(photo_folder, tmp_path):
    network = pooled_inside(units=1, activation="sigmoid")
    network.save(tmp_path / "net.keras")
    photos = photo_folder({"a.png": (200, 100, 50)}, size=(32, 24))
    assert make(tmp_path / "net.keras", photos, tmp_path / "m", "--preprocess", "0.01,-1") == 0
    expected, bias = numpy_maps(network, np.asarray(Image.open(photos / "a.png"))[None] * 0.01 - 1)
    against, speaks_for = (np.load(tmp_path / "m" / "a" / f"heatmap_for_class_{index}.npy") for index in (0, 1))
    np.testing.assert_allclose(speaks_for, expected[0, 0], atol=1e-5 * np.abs(expected).max())
    np.testing.assert_array_equal(against, -speaks_for)
    (row,) = read_csv(tmp_path / "m" / "predictions.csv")
    probability = 1 / (1 + np.exp(-expected.mean() - bias[0]))
    assert float(row["probability_class_1"]) == pytest.approx(probability, abs=1e-5)


@pytest.mark.any_backend
def test_a_hidden_layer_behind_the_pooling_is_sent_to_grad_cam(end_of, tmp_path):
    """The shipped VGG-16."""
    code, said = end_of(main, ["--model", VGG_NETWORK, "--output", tmp_path / "m"])
    assert code == 2 and said.startswith("error: the network 'vgg16' has no Dense layer right behind global average")
    assert "(layer 'class' makes them from 'hidden')" in said and "use python gradcam_vgg16.py" in said
    assert said.count("\n") == 1 and len(said) < 300 and not (tmp_path / "m").exists()


def test_an_activation_of_the_scores_is_no_cam():
    with pytest.raises(UserError, match="has no Dense layer right behind global average pooling"):
        pooled_classifier(pooled_inside(activation="relu"))


# ---------------------------------------------------------------- the files of a run


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Photos of one size; two differ in suffix only."""
    folder = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    for name in ("dog/a.jpg", "dog/a.png", "ü [1]/B C.JPG"):
        (folder / name).parent.mkdir(exist_ok=True)
        Image.fromarray(generator.integers(60, 200, (60, 80, 3)).astype(np.uint8)).save(folder / name)
    return folder


@pytest.fixture(scope="module")
def run(model_file, photos, tmp_path_factory):
    """The folder of a run at 24x40 pixels."""
    output = tmp_path_factory.mktemp("run") / "maps"
    assert make(model_file, photos, output, "--size", "24x40") == 0
    return output


FOLDERS = {"dog/a.jpg": "dog/a.jpg", "dog/a.png": "dog/a.png", "ü [1]/B C.JPG": "ü [1]/B C"}


def test_files_of_a_run(run, photos, model_file):
    rows = {row["path"]: row for row in read_csv(run / "predictions.csv")}
    assert list(rows) == list(FOLDERS)
    network, input_spec = load_network(model_file)
    for path, folder in FOLDERS.items():
        image = read_network_input(photos / path, replace(input_spec, height=24, width=40))
        maps, _, predicted = map(keras.ops.convert_to_numpy, cam_function(network)(input_spec.prepare(image[None])))
        for index, name in enumerate(CLASSES):
            saved = np.load(run / folder / f"heatmap_for_{name}.npy")
            assert saved.shape == (24, 40) and saved.dtype == np.float32
            np.testing.assert_allclose(saved, maps[0, index], atol=1e-5)
            assert abs(saved.mean(dtype=np.float64) + BIAS[index] - float(rows[path][f"logit_{name}"])) < 1e-4
            for kind in ("heatmap", "spp"):
                with Image.open(run / folder / f"{kind}_for_{name}.jpg") as picture:
                    assert picture.size == (80, 60)
        written = [float(rows[path][f"probability_{name}"]) for name in CLASSES]
        np.testing.assert_allclose(written, predicted[0], atol=1e-5)
        assert rows[path]["predicted"] == CLASSES[int(np.argmax(written))]
    record = json.loads((run / "run.json").read_text("utf-8"))
    assert record["settings"]["class_names"] == CLASSES
    assert not list(run.rglob("*.partial"))


@pytest.mark.any_backend
def test_superposition_of_dog_is_dogs(run, photos):
    """The original swapped the files of dog and cat. Each picture must be the one drawn from its own map."""
    maps = {name: np.load(run / "dog" / "a.png" / f"heatmap_for_{name}.npy") for name in CLASSES}
    limit = max(values.max() for values in maps.values())  # positive: what speaks for a class is not faded
    assert limit > 0
    photo = np.asarray(Image.open(photos / "dog" / "a.png"))
    for name in CLASSES:
        written = (run / "dog" / "a.png" / f"spp_for_{name}.jpg").read_bytes()
        for other in CLASSES:
            expected = io.BytesIO()
            overlay = superposition(photo, enlarged_for_display(maps[other] / limit, 60, 80), True)
            Image.fromarray(overlay).save(expected, "JPEG", quality=90)
            assert (written == expected.getvalue()) == (other == name)


@pytest.mark.any_backend
def test_pictures_of_the_photos_own_size_in_other_colours(model_file, tmp_path):
    """The maps stay what they are; the photo is large enough to be decoded at reduced scale for the network."""
    (tmp_path / "photos").mkdir()
    photo = np.random.default_rng(3).integers(0, 256, (28, 42, 3)).astype(np.uint8)
    Image.fromarray(photo).resize((840, 560)).save(tmp_path / "photos" / "a.jpg")
    written, alone = {}, ["--overlay", "png"]
    for name, more in (("usual", []), ("other", ["--full-size", "--colours", "turbo", "--photo-in-colour", *alone])):
        assert make(model_file, tmp_path / "photos", tmp_path / name, *more) == 0
        written[name] = tmp_path / name / "a"
    sizes = {name: Image.open(folder / "spp_for_dog.jpg").size for name, folder in written.items()}
    assert sizes == {"usual": (512, 341), "other": (840, 560)}
    assert Image.open(written["other"] / "overlay_for_dog.png").size == (840, 560)
    assert not list(written["usual"].glob("*.png"))
    maps = [[np.load(folder / f"heatmap_for_{name}.npy") for name in CLASSES] for folder in written.values()]
    np.testing.assert_array_equal(*maps)
    limit = max(values.max() for values in maps[0])
    values = enlarged_for_display(maps[0][CLASSES.index("dog")] / limit, 560, 840)
    below = np.asarray(Image.open(tmp_path / "photos" / "a.jpg"))
    expected = superposition(below, values, True, Style("turbo", in_colour=True)).astype(float)
    found = np.asarray(Image.open(written["other"] / "spp_for_dog.jpg")).astype(float)
    assert np.abs(found - expected).mean() < 4  # JPEG
    nothing = values < -0.05  # turbo shows no evidence against a class
    assert nothing.any() and np.abs(found - below)[nothing].mean() < 4
    with pytest.raises(UserError, match=r"results of other settings \(colours, full_size, overlay, photo_in_colour\)"):
        make(model_file, tmp_path / "photos", tmp_path / "other")
    with pytest.raises(UserError, match="--colours turboo; did you mean turbo.* expected a colour map"):
        make(model_file, tmp_path / "photos", tmp_path / "third", "--colours", "turboo")


@pytest.mark.slow
@pytest.mark.any_backend
def test_killed_run_leaves_whole_files_and_goes_on(run_here, photo_folder, model_file, tmp_path):
    photos = photo_folder({f"{number:03d}.jpg": (number, 90, 90) for number in range(120)})
    command = ["make_cam_maps.py", photos, "--model", model_file, "--output", tmp_path / "m", "--batch-size", "4"]
    process = subprocess.Popen(
        [sys.executable, *map(str, command)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    rows = tmp_path / "m" / "predictions.csv"
    for _ in range(6000):
        if rows.exists() and rows.read_text().count("\n") > 8:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    done = rows.read_text().count("\n") - 1
    assert 0 < done < 120
    for path in (tmp_path / "m").rglob("*.npy"):
        assert np.load(path).shape == (32, 32)
    with open(rows, "a", encoding="utf-8") as file:
        file.write("999.jpg,dog,0.1")  # as a kill in the middle of a write leaves it
    result = run_here(*command)
    assert result.returncode == 0 and "of 120 photos are done already" in result.stdout
    assert [row["path"] for row in read_csv(rows)] == [f"{number:03d}.jpg" for number in range(120)]


@pytest.mark.any_backend
def test_bad_photos_are_listed_and_the_rest_is_done(run_here, photo_folder, model_file, tmp_path):
    photos = photo_folder({"good.jpg": (1, 2, 3), "cut.jpg": (4, 5, 6)})
    (photos / "cut.jpg").write_bytes((photos / "cut.jpg").read_bytes()[:-300])
    (photos / "text.jpg").write_text("not a photo")
    (photos / "zero.jpg").touch()
    result = run_here("make_cam_maps.py", photos, "--model", model_file, "--output", tmp_path / "m")
    assert result.returncode == 1
    failed = {row["path"]: row["reason"] for row in read_csv(tmp_path / "m" / "failed.csv")}
    assert set(failed) == {str(photos / name) for name in ("cut.jpg", "text.jpg", "zero.jpg")}
    assert failed[str(photos / "zero.jpg")] == "empty file"
    assert "cut off" in failed[str(photos / "cut.jpg")] and "not a JPEG" in failed[str(photos / "text.jpg")]
    assert [row["path"] for row in read_csv(tmp_path / "m" / "predictions.csv")] == ["good.jpg"]
    assert "3 photos could not be read" in result.stdout.splitlines()[-1]
    for path in ("cut.jpg", "text.jpg", "zero.jpg"):
        (photos / path).unlink()
    assert run_here("make_cam_maps.py", photos, "--model", model_file, "--output", tmp_path / "m").returncode == 0
    assert not (tmp_path / "m" / "failed.csv").exists()


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere does not exist"),
        (["--model", "nowhere.h5"], "nowhere.h5 does not exist"),
        (["--size", "64x7"], "--size 64x7: expected 8 to 99,999 pixels, N or HEIGHTxWIDTH"),
        (["--size", "1x2x3"], "--size 1x2x3: expected 8 to"),
        (["--batch-size", "x"], "invalid int value"),
        (["--model", "README.md"], "README.md is neither an HDF5 nor a .keras file"),
        (["EMPTY"], "no photo in "),
        (["PHOTO", "--output", "PHOTO/maps"], "a.jpg"),
    ],
)
def test_bad_usage_is_one_line_and_exit_2(end_of, photo_folder, model_file, tmp_path, arguments, message):
    (tmp_path / "empty").mkdir()
    photo = photo_folder({"a.jpg": (1, 2, 3)}) / "a.jpg"
    arguments = [one.replace("EMPTY", str(tmp_path / "empty")).replace("PHOTO", str(photo)) for one in arguments]
    code, said = end_of(main, ["--model", model_file, "--output", tmp_path / "m", *arguments])
    assert code == 2 and said.startswith("error: ") and message in said and said.count("\n") == 1
    assert not (tmp_path / "m").exists()


@pytest.fixture
def model_read_before(model_file, folder_for_all):
    """Nobody may not start the interpreter in root's home, which reads files that were not seen before."""
    load_network(model_file)
    return shutil.copy(model_file, folder_for_all)


@pytest.mark.any_backend
def test_closed_folders(photos_with_closed_folder, model_read_before, folder_for_all, as_nobody, end_of):
    """Without permission to read: an error where nothing is left to do, else a row of failed.csv."""
    output, closed_output = folder_for_all / "m", folder_for_all / "closed_output"

    def run(photos, output):
        return end_of(main, [photos, "--model", model_read_before, "--output", output])

    code, message = run(photos_with_closed_folder / "closed", output)
    assert code == 2 and message.startswith("error: ") and "may not be read" in message and message.count("\n") == 1
    closed_output.mkdir(0o555)
    code, message = run(photos_with_closed_folder, closed_output / "m")
    assert code == 2 and "Permission denied" in message and str(closed_output) in message and message.count("\n") == 1
    assert run(photos_with_closed_folder, output) == (1, "")
    assert read_csv(output / "failed.csv") == [
        {"path": str(photos_with_closed_folder / "closed"), "reason": "no permission to read it"}
    ]
    assert [row["path"] for row in read_csv(output / "predictions.csv")] == ["open/a.png"]
