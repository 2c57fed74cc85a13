"""Training with a locator: where evidence is told to be, the loss, and trainings that learn from it."""

from dataclasses import replace

import keras
import numpy as np
import pytest
from keras import ops
from small_training import QUICK, VGG16_BLOCKS, assert_same_training, colour_files

from camlib.attribution.gradcam import compiled_map
from camlib.attribution.inspection import inspect_network
from camlib.console import UserError
from camlib.files import file_sha256, read_json
from camlib.networks import architectures
from camlib.networks.checkpoint import load_network, save_network
from camlib.preprocessing import InputSpec
from camlib.training.attention import CELL, EPSILON, INSIDE, Locator, centre_classes, elsewhere, located
from camlib.training.batches import Batches
from camlib.training.class_folders import LabelledPhotos
from camlib.training.distillation import Distillation, label_metrics
from camlib.training.recipes import RECIPES
from train_cam_4class import main

CLASSES = ["dog", "cat", "horse", "bird"]
OTHER_ORDER = ["bird", "cat", "dog", "horse"]
WEIGHTS = np.random.default_rng(1).normal(size=(3, 4))  # of OTHER_ORDER


def locator_file(path, names=OTHER_ORDER, size=32, channels=3, weights=WEIGHTS):
    """A network whose features are the pixels, so that NumPy can tell its maps."""
    image = keras.Input((None, None, channels))
    eye = keras.layers.Conv2D(channels, 1, use_bias=False, activation="relu")
    x = keras.layers.GlobalAveragePooling2D()(eye(image))
    network = keras.Model(image, keras.layers.Dense(len(names), activation="softmax")(x))
    network.set_weights([np.eye(channels)[None, None], weights[:channels, : len(names)], np.zeros(len(names))])
    save_network(network, path, InputSpec(names, size, size, channels))
    return path


@pytest.fixture(scope="module")
def locator(tmp_path_factory):
    return Locator(locator_file(tmp_path_factory.mktemp("locator") / "net.h5"), CLASSES, None, "float32", 6)


@pytest.fixture
def thin(monkeypatch):
    monkeypatch.setattr(architectures, "VGG16_BLOCKS", VGG16_BLOCKS)


def thin_network(for_training=False):
    keras.utils.set_random_seed(2)
    return architectures.vgg16_network(4, for_training=for_training)


# ---------------------------------------------------------------- where


def cells(values):
    """Means (N, h, w) over cells of maps (N, H, W)."""
    count, height, width = values.shape
    return values.reshape(count, height // CELL, CELL, width // CELL, CELL).mean((2, 4))


def test_inside_is_where_the_locators_map_is(locator):
    """Against NumPy, of the true class, in the student's order of classes, and of fewer views than a batch."""
    generator = np.random.default_rng(0)
    views = generator.integers(0, 256, (5, 2, 2, 3)).repeat(CELL, 1).repeat(CELL, 2).astype(np.uint8)
    views = (views * generator.uniform(0.5, 1, (5, 32, 32, 1))).astype(np.uint8)
    labels = np.array([0, 1, 2, 3, 0])
    columns = WEIGHTS[:, [OTHER_ORDER.index(CLASSES[label]) for label in labels]]
    maps = np.maximum(np.einsum("nhwk,kn->nhw", views / 255, columns), 0)
    most = cells(maps).max((1, 2), keepdims=True)
    expected = (cells(maps) > INSIDE * most) | (most == 0)
    found = locator.inside(views, labels)
    assert found.dtype == np.float32 and found.shape == (5, 2, 2, 4)
    np.testing.assert_array_equal(found, expected[..., None] * np.eye(4)[labels][:, None, None])
    assert (most > 0).sum() == 4 and expected[most[:, 0, 0] > 0].mean() < 0.8
    of_none = locator.inside(views[:2], np.array([4, 1]))
    np.testing.assert_array_equal(of_none, [np.zeros((2, 2, 4)), found[1]])


@pytest.mark.any_backend
def test_a_view_without_evidence_is_inside_everywhere(tmp_path):
    locator = Locator(locator_file(tmp_path / "n.h5", weights=-np.ones((3, 4))), CLASSES, None, "float32", 2)
    np.testing.assert_array_equal(
        locator.inside(np.full((2, 48, 32, 3), 9, np.uint8), np.array([0, 1])),
        np.broadcast_to(np.eye(4)[:2, None, None], (2, 3, 2, 4)),
    )


@pytest.mark.any_backend
@pytest.mark.parametrize("channels", [1, 3])
def test_views_are_brought_to_the_locators_size_and_channels(tmp_path, channels):
    file = locator_file(tmp_path / "n.h5", size=96, channels=channels, weights=np.ones((3, 4)))
    locator = Locator(file, CLASSES, 64, "float32", 2)
    views = np.zeros((1, 64, 64, 4 - channels), np.uint8)
    views[:, 16:32, 48:] = 200
    expected = np.zeros((1, 4, 4, 4))
    expected[0, 1, 3, 0] = 1
    np.testing.assert_array_equal(locator.inside(views, np.array([0])), expected)
    assert locator.classifier.input_spec.height == 64


@pytest.mark.any_backend
def test_maps_that_are_no_numbers_are_one_line(tmp_path):
    file = locator_file(tmp_path / "n.h5", weights=np.full((3, 4), np.inf))
    locator = Locator(file, CLASSES, None, "float32", 2)
    with pytest.raises(UserError, match=r"n.h5 maps what is no number; expected --dtype float32, or another file"):
        locator.inside(np.zeros((1, 32, 32, 3), np.uint8), np.array([0]))


# ---------------------------------------------------------------- the loss


def share_outside(evidence, inside):
    """float64 (N,) of evidence (N, h, w), its negative values left out."""
    evidence = np.maximum(evidence, 0).astype(np.float64)
    return (evidence * (1 - inside)).sum((1, 2)) / (evidence.sum((1, 2)) + EPSILON)


def test_elsewhere_against_float64():
    """Of photos of one class, of a mosaic of three, of a class twice, and of no animal."""
    generator = np.random.default_rng(3)
    features, hidden = np.maximum(generator.normal(size=(5, 4, 6, 6)), 0), generator.normal(size=(5, 7))
    first, second = generator.normal(size=(6, 7)), generator.normal(size=(7, 4))
    inside = np.zeros((5, 4, 6, 4))
    inside[0, ..., 2] = generator.integers(0, 2, (4, 6))
    inside[1, ..., 0] = generator.integers(0, 2, (4, 6))
    for row, column, label in ((0, 0, 1), (0, 3, 3), (2, 3, 0)):  # the fourth cell has none
        inside[2, row : row + 2, column : column + 3, label] = [[1, 0, 1], [0, 1, 1]]
    inside[3, :2, :3, 1] = inside[3, 2:, 3:, 1] = 1
    expected = []
    for n in range(5):
        shares = []
        for label in np.flatnonzero(inside[n].any((0, 1))):
            column = (second[:, label] - second.mean(axis=1)) * (hidden[n] > 0)
            evidence = features[n] @ (first @ column)
            shares.append(share_outside(evidence[None], inside[n, ..., label])[0])
        expected.append(np.mean(shares) if shares else 0)
    arguments = [values.astype(np.float32) for values in (features, hidden, first, second, inside)]
    found = ops.convert_to_numpy(elsewhere(*map(ops.convert_to_tensor, arguments)))
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert found.dtype == np.float32 and len(set(found.round(3))) == 5 and found[4] == 0


def test_no_evidence_at_all_is_nowhere_else():
    zeros = [np.zeros(shape, np.float32) for shape in ((1, 2, 2, 3), (1, 5), (3, 5), (5, 4), (1, 2, 2, 4))]
    assert ops.convert_to_numpy(elsewhere(*map(ops.convert_to_tensor, zeros))) == [0]


def test_what_is_unlearnt_is_what_grad_cam_shows_of_the_network_kept(thin):
    """The loss of a network in training against Grad-CAM, by the project's explainer, of the one that is written."""
    generator = np.random.default_rng(0)
    network = thin_network(for_training=True)
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):  # statistics that leave features of a usual size
            layer.set_weights([values + 0.1 * generator.random(values.shape) for values in layer.get_weights()])
    images = generator.random((3, 64, 64, 3)).astype(np.float32)
    inside = generator.integers(0, 2, (3, 4, 4)).astype(np.float32)
    trained = located(network, 64)
    probabilities, features, hidden = trained([images], training=False)
    labels = ops.convert_to_numpy(probabilities)[:, 0, 0].argmax(axis=1)
    kernels = [ops.convert_to_tensor(network.get_layer(name).kernel) for name in ("hidden", "class")]
    own = inside[..., None] * np.eye(4, dtype=np.float32)[labels][:, None, None]
    found = ops.convert_to_numpy(elsewhere(features, hidden, *kernels, own))
    plain = architectures.fold(network, thin_network())
    before = ops.convert_to_numpy(plain(images))
    centre_classes(plain)
    np.testing.assert_allclose(ops.convert_to_numpy(plain(images)), before, atol=1e-6)
    kernel, bias = plain.get_layer("class").get_weights()
    np.testing.assert_allclose(kernel.mean(axis=1), 0, atol=1e-7)
    assert abs(bias.mean()) < 1e-7
    plan = inspect_network(plain, (64, 64, 3))
    assert plan.target == "block5_conv3"
    asked = ops.convert_to_tensor(images), ops.convert_to_tensor(labels[None], "int32")
    cams = ops.convert_to_numpy(compiled_map(plain, plan, plan.target, with_guided=False)(*asked).cams)[0]
    cells = 16  # by whose number Grad-CAM is smaller than the evidence
    np.testing.assert_allclose(found, share_outside(cams * cells, inside), rtol=2e-3)
    assert found.min() > 0.1 and found.max() < 0.9


@pytest.mark.parametrize("taught", [False, True])
@pytest.mark.parametrize("side", [1, 2])
def test_the_loss_adds_up(thin, taught, side):
    """Its own loss of each cell, weighed by class, plus the mean share elsewhere; top-1 is that of the labels."""
    generator = np.random.default_rng(1)
    network, weights = thin_network(), generator.uniform(0.5, 2, (4, side, side)).astype(np.float32)
    trained, labels = located(network, 64), np.eye(4, dtype=np.float32)[generator.integers(0, 4, (4, side, side))]
    images = generator.random((4, 64 * side, 64 * side, 3)).astype(np.float32)
    places = generator.integers(0, 2, (4, 4 * side, 4 * side, 1)).astype(np.float32)
    inside = labels.repeat(4, 1).repeat(4, 2) * places
    answers = generator.dirichlet(np.ones(4), (4, side, side)).astype(np.float32)
    targets = np.concatenate((labels, answers), axis=-1) if taught else labels
    loss = Distillation(2.0, 0.3) if taught else "categorical_crossentropy"
    trained.compile("sgd", loss, weighted_metrics=[], metrics=label_metrics(4))
    probabilities, features, hidden = (ops.convert_to_numpy(part) for part in trained([images]))
    assert probabilities.shape == labels.shape and features.shape[:3] == inside.shape[:3]
    own = Distillation(2.0, 0.3).call(targets, probabilities) if taught else -np.log((probabilities * labels).sum(-1))
    kernels = [network.get_layer(name).get_weights()[0] for name in ("hidden", "class")]
    shares = ops.convert_to_numpy(elsewhere(features, hidden, *kernels, inside))
    said = trained.test_on_batch(images, (targets, inside), weights, return_dict=True)
    assert float(said["loss"]) == pytest.approx((ops.convert_to_numpy(own) * weights).mean() + shares.mean(), rel=1e-4)
    assert float(said["top1"]) == pytest.approx((probabilities.argmax(-1) == labels.argmax(-1)).mean())
    assert shares.mean() > 0.2


# ---------------------------------------------------------------- batches and trainings


@pytest.mark.any_backend
def test_a_batch_carries_where_each_of_its_own_views_has_the_animal(locator):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3)).astype(np.uint8)
    photos, input_spec = LabelledPhotos(pixels, np.arange(6) % 4), InputSpec(CLASSES, 64, 64, 3)
    recipe = replace(RECIPES["vgg16"], size=64, batch_size=6, crop=0.5)
    batches = Batches(photos, input_spec, recipe, 0, locator=locator)
    images, (targets, inside), weights = batches.make(0, 0)
    assert images.shape == (6, 32, 32, 3) and targets.shape == (6, 1, 1, 4) and weights.shape == (6, 1, 1)
    views = np.round(images * 255).astype(np.uint8)
    np.testing.assert_array_equal(inside, locator.inside(views, targets[:, 0, 0].argmax(1)))
    images_alone, targets_alone, _ = Batches(photos, input_spec, recipe, 0).make(0, 0)
    np.testing.assert_array_equal(images, images_alone)
    np.testing.assert_array_equal(targets, targets_alone)


def test_in_a_mosaic_each_animal_is_in_its_own_cell(locator, monkeypatch):
    """The locator sees the views alone, of which the mosaic has the middle where no border is near."""
    asked = []
    monkeypatch.setattr(locator, "inside", lambda *of: asked.append(of) or Locator.inside(locator, *of))
    pixels = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3)).astype(np.uint8)
    photos, input_spec = LabelledPhotos(pixels, np.array([0, 3, 1, 4])), InputSpec(CLASSES, 64, 64, 3)
    recipe = replace(RECIPES["vgg16"], size=64, batch_size=4, crop=0.5)
    images, (targets, inside), _ = Batches(photos, input_spec, recipe, 0, locator=locator).make(0, 0)
    ((views, labels),) = asked
    assert images.shape == (1, 64, 64, 3) and inside.shape == (1, 4, 4, 4) and sorted(labels) == [0, 1, 3, 4]
    np.testing.assert_array_equal(targets.reshape(4, 4) == 1, labels[:, None] == np.arange(4))
    for number, of_view in enumerate(Locator.inside(locator, views, labels)):
        row, column = divmod(number, 2)
        np.testing.assert_array_equal(inside[0, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2], of_view)
        middle = np.round(images[0, 32 * row + 5 : 32 * row + 27, 32 * column + 5 : 32 * column + 27] * 255)
        np.testing.assert_array_equal(middle, views[number, 5:27, 5:27])
    assert inside.any((1, 2))[0].tolist() == [True, True, False, True]


@pytest.fixture
def colour_photos(photo_folder):
    return photo_folder(colour_files())


@pytest.mark.slow
def test_stopped_and_resumed_with_a_locator_ends_with_the_same_weights(
    thin, colour_photos, tmp_path, end_of, stopped_after_an_epoch
):
    """And with a teacher who is asked once a photo; of the very cut-outs see tests/training/test_distillation.py."""
    file = locator_file(tmp_path / "locator.h5")

    def command(name, *more):
        others = ["--teacher", file, "--locator", file, "--output", tmp_path / name / "net.h5", *QUICK, "--size", 48]
        return [str(word) for word in ["--data", colour_photos, "--recipe", "vgg16", "--epochs", 2, *others, *more]]

    assert main(command("whole")) == 0
    assert read_json(tmp_path / "whole" / "net_run.json")["settings"]["locator_sha256"] == file_sha256(file)
    network, _ = load_network(tmp_path / "whole" / "net.h5")
    np.testing.assert_allclose(network.get_layer("class").get_weights()[0].mean(axis=1), 0, atol=1e-6)
    assert stopped_after_an_epoch(main, command("stopped"))[0] == 130
    other = locator_file(tmp_path / "other.h5", weights=-WEIGHTS)
    without = command("stopped", "--resume")
    del without[without.index("--locator") : without.index("--output")]
    for words in (command("stopped", "--resume", "--locator", other, "--locator-size", 40), without):
        code, said = end_of(main, words)
        assert code == 2 and "other settings (locator_sha256, locator_size)" in said
    assert main(command("stopped", "--resume")) == 0
    assert_same_training(tmp_path / "whole", tmp_path / "stopped")


@pytest.mark.any_backend
def test_a_locator_of_other_classes_is_refused(tmp_path):
    other = locator_file(tmp_path / "other.h5", names=["dog", "ant"])
    with pytest.raises(UserError, match="the locator .*other.h5 knows dog, ant; expected the classes of the photos"):
        Locator(other, CLASSES, None, "float32", 2)
