"""What a network is made of: which layer is mapped, on which axes, from which pixels, and where its logits are."""

from dataclasses import replace

import keras
import numpy as np
import pytest
from keras import layers, ops
from small_networks import ended, with_random_weights

from camlib import explain
from camlib.attribution.classifier import (
    Classifier,
    NetworkOptions,
    check_outputs,
    complete_input_spec,
    input_shape_of,
)
from camlib.attribution.gradcam import GradCAM
from camlib.attribution.inspection import axes_moved, grid_of, inspect_network, reaches_edges, some_of
from camlib.console import UserError
from camlib.preprocessing import PREPROCESSING, InputSpec
from gradcam_vgg16 import main

SHAPE = (24, 32, 3)
PHOTOS = np.random.default_rng(0).integers(0, 256, (2, *SHAPE)).astype(np.uint8)


def conv(filters, name, **settings):
    return layers.Conv2D(filters, 3, padding="same", activation="relu", name=name, **settings)


def network_of(*behind, activation=None, classes=3, start=()):
    """Pixels / 255, a convolution and a pooling, then what is given, pooled if it has more than one axis, and Dense."""
    keras.utils.set_random_seed(1)
    image = x = keras.Input(SHAPE)
    for layer in (*(start or [layers.Rescaling(1 / 255, name="scale")]), conv(6, "first"), layers.MaxPooling2D()):
        x = layer(x)
    x = conv(5, "second")(x)  # (N, 12, 16, 5)
    for layer in behind:
        x = layer(x)
    while len(x.shape) > 2:
        x = ops.mean(x, axis=1)
    return keras.Model(image, layers.Dense(classes, activation=activation, name="class")(x))


# ---------------------------------------------------------------- layers that only rearrange


@pytest.mark.any_backend
@pytest.mark.parametrize(
    "behind",
    [
        (layers.Permute((2, 1, 3), name="odd"), layers.Reshape((16, 60)), layers.LSTM(4)),
        (layers.Reshape((192, 1, 5), name="odd"),),
        (lambda x: ops.flip(ops.transpose(x, (0, 2, 1, 3)), axis=2), lambda x: ops.reshape(x, (-1, 192, 1, 5))),
        (layers.UpSampling2D(2), layers.ZeroPadding2D(1), layers.Cropping2D(2), layers.Resizing(30, 30)),
        (layers.SpatialDropout2D(0.5), layers.Identity(), lambda x: x[:, 2:-2]),
        (lambda x: ops.max_pool(x, (2, 2), (2, 2)), lambda x: ops.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))),
    ],
    ids=["CRNN", "Reshape", "operations", "other sizes", "dropout and slice", "pooling operation"],
)
def test_what_computes_nothing_new_is_no_default(behind):
    plan = inspect_network(network_of(*behind), SHAPE)
    assert plan.target == "second" and "second" not in plan.in_doubt


def squeeze_and_excitation(x):
    """As in EfficientNet: the means of the channels, reshaped to one pixel, weigh them."""
    gate = layers.Reshape((1, 1, x.shape[-1]))(layers.Flatten()(layers.GlobalAveragePooling2D()(x)))
    return layers.Multiply()([x, layers.Dense(x.shape[-1], activation="sigmoid")(gate)])


def test_a_gate_of_the_channels_moves_nothing_about():
    network = network_of(squeeze_and_excitation, conv(4, "behind"))
    assert inspect_network(network, SHAPE).in_doubt == set()
    assert Classifier(network, None, "net").layer_to_map() == "behind"


@pytest.mark.any_backend  # on JAX, which hands the very same array on, it is put to the test
def test_a_reshape_to_the_same_shape_is_known_to_have_moved_nothing():
    network = network_of(layers.Reshape((12, 16, 5)), conv(4, "behind"))
    assert inspect_network(network, SHAPE).in_doubt == set()


def test_a_convolution_of_swapped_axes_is_refused_and_one_in_place_is_not():
    turned = Classifier(network_of(layers.Permute((2, 1, 3), name="turn"), conv(4, "turned")), None, "net")
    with pytest.raises(UserError, match="layer 'turned' are not the photo's.*--layer with one of .*second"):
        turned.layer_to_map()
    with pytest.raises(UserError, match="'turn' are not the photo's"):
        turned.layer_to_map("turn")
    assert turned.layer_to_map("second") == "second"
    back = network_of(layers.Permute((2, 1, 3)), layers.Permute((2, 1, 3)), conv(4, "back"))
    assert Classifier(back, None, "net").layer_to_map() == "back"


def test_what_a_layer_s_own_code_computes_has_no_place_of_its_own():
    image = keras.Input((12, 12, 3))
    x = ops.multiply(layers.Conv2D(4, 3, activation="relu", name="conv")(image), 2.0)  # has its place in the graph
    x = layers.Conv2D(4, 3, name="last")(layers.ZeroPadding2D(1, name="wider")(x))
    network = with_random_weights(keras.Model(image, layers.Dense(2)(layers.GlobalAveragePooling2D()(x))))
    product = next(one.name for one in network.operations if "multiply" in one.name)
    classifier = Classifier(network, preprocess="none", class_names=["a", "b"])
    assert list(classifier.structure.sizes) == ["conv", product, "wider", "last"]
    for layer in classifier.structure.sizes:  # each can be mapped
        assert GradCAM(classifier, layer, guided=False)(np.zeros((1, 12, 12, 3), np.uint8)).logits.shape == (1, 2)


@pytest.mark.parametrize("moved", [lambda x: ops.flip(x, axis=1), layers.Reshape((192, 1, 5))], ids=["flip", "row"])
def test_what_is_mirrored_or_one_row_is_no_map(moved):
    with pytest.raises(UserError, match="'behind' are not the photo's"):
        Classifier(network_of(moved, conv(4, "behind")), None, "net").layer_to_map()


def test_how_far_changes_move_is_told_by_halves_of_the_photo():
    """Half an axis along a photo that is only enlarged, and across one that is turned; nothing where all is even."""
    image = keras.Input(SHAPE)
    cells = layers.AveragePooling2D(2, name="cells")(image)
    outputs = layers.Permute((2, 1, 3), name="turned")(cells), layers.Rescaling(0.0, name="even")(cells)
    network = keras.Model(image, sum(layers.Dense(3)(layers.GlobalAveragePooling2D()(one)) for one in outputs))
    structure = inspect_network(network, SHAPE)
    input_spec = InputSpec(["a", "b", "c"], *SHAPE, **PREPROCESSING["none"])
    found = {name: axes_moved(network, structure, name, input_spec) for name in ("cells", "turned", "even")}
    np.testing.assert_allclose(found["cells"], ([0.5, 0.5], [0, 0]), atol=0.03)
    np.testing.assert_allclose(found["turned"], ([0, 0], [0.5, 0.5]), atol=0.03)
    np.testing.assert_array_equal(found["even"], np.zeros((2, 2)))


def test_a_map_of_unknown_place_has_to_reach_all_edges_of_the_photo():
    image = keras.Input((32, 48, 3))
    cells = layers.AveragePooling2D(2, name="cells")(image)
    cuts = {"top_left": ((2, 0), (3, 0)), "bottom": ((0, 2), (0, 0)), "right": ((0, 0), (0, 3))}
    cut = [layers.Cropping2D(cropping, name=name)(cells) for name, cropping in cuts.items()]
    scores = sum(layers.Dense(3)(layers.GlobalAveragePooling2D()(one)) for one in (cells, *cut))
    network = keras.Model(image, scores)
    structure = inspect_network(network, (32, 48, 3))
    input_spec = InputSpec(["a", "b", "c"], 32, 48, 3, **PREPROCESSING["none"])
    assert reaches_edges(network, structure, "cells", input_spec)
    assert [name for name in cuts if reaches_edges(network, structure, name, input_spec)] == []


def test_axes_that_cannot_be_told_are_taken_if_they_are_asked_for():
    """Features that a photo does not change tell nothing; the place of what own code made has to be seen, too."""
    network = Turning(False)
    network(PHOTOS.astype(np.float32))
    network.conv.set_weights([weight * 0 for weight in network.conv.get_weights()])
    classifier = Classifier(network, InputSpec(["a", "b", "c"], *SHAPE, **PREPROCESSING["none"]), "net")
    with pytest.raises(UserError, match="'conv' cannot be told to be the photo's"):
        classifier.layer_to_map()
    assert classifier.layer_to_map("conv") == "conv"


@pytest.mark.any_backend
def test_names_in_messages_are_the_last_eight():
    names = [str(number) for number in range(9)]
    assert some_of(names[:8]) == "0, 1, 2, 3, 4, 5, 6, 7" and some_of(names) == "..., 1, 2, 3, 4, 5, 6, 7, 8"


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("count", "grids", "transforms", "grid"),
    [
        (12, [(3, 4), (2, 6)], False, (2, 6)),  # the last that was computed
        (13, [(3, 4), (5, 5)], False, (3, 4)),  # beside a class token
        (14, [(3, 4)], False, None),
        (11, [(3, 4)], True, None),
        (16, [], True, (4, 4)),
        (17, [], True, (4, 4)),
        (16, [], False, None),
        (18, [], True, None),
        (2, [], True, None),  # one cell and a class token are no picture
        (4, [], True, (2, 2)),
    ],
)
def test_patches_of_so_many_tokens(count, grids, transforms, grid):
    assert grid_of(count, grids, transforms) == grid


class Turning(keras.Model):
    """Turns the photo in its own code, where no layer tells."""

    def __init__(self, turns):
        super().__init__()
        self.turns, self.conv, self.classes = turns, conv(6, "conv"), layers.Dense(3)

    def call(self, x):
        x = ops.transpose(x, (0, 2, 1, 3)) if self.turns else x * 1
        return self.classes(ops.mean(self.conv(x / 255), axis=(1, 2)))


def test_a_networks_own_code_is_put_to_the_test():
    turning, straight = Turning(True), Turning(False)
    for network in (turning, straight):
        network(PHOTOS.astype(np.float32))
    input_spec = InputSpec(["a", "b", "c"], *SHAPE, **PREPROCESSING["none"])
    assert Classifier(straight, input_spec, "net").layer_to_map() == "conv"
    with pytest.raises(UserError, match="'conv' are not the photo's"):
        Classifier(turning, input_spec, "net").layer_to_map()


# ---------------------------------------------------------------- what a pixel becomes


def normalisation(mean, variance):
    return layers.Normalization(mean=mean, variance=variance, name="scale")


@pytest.mark.any_backend
@pytest.mark.parametrize(
    "start",
    [
        [layers.Rescaling(2, -1, name="scale")],
        [layers.Rescaling(-1, name="scale")],
        [normalisation([0.5, 0.4, 0.4], [0.08, 0.07, 0.06])],
        [layers.RandomFlip(), layers.Rescaling(1, 0, name="first_scale"), normalisation([0.5] * 3, [0.08] * 3)],
    ],
    ids=["2 x - 1", "-x", "adapted to 0..1", "two layers"],
)
def test_a_network_trained_on_another_range_is_not_taken_to_want_0_to_255(start):
    network = network_of(start=start)
    with pytest.raises(UserError, match="0..255 into .* --preprocess 0.00392157,0 .* --preprocess none"):
        Classifier(network, None, "net")
    assert Classifier(network, None, "net", preprocess="0.00392157,0").input_spec.scale == 0.00392157


@pytest.mark.any_backend
@pytest.mark.parametrize(
    "start",
    [
        [layers.Rescaling(1 / 127.5, -1)],
        [normalisation([120.0, 115, 100], [4000.0, 4100, 4200])],
        [layers.Rescaling(1 / 255), normalisation([0.485, 0.456, 0.406], [0.0524, 0.0502, 0.0506])],
    ],
)
def test_usual_ranges_are_taken_as_they_are(start):
    classifier = Classifier(network_of(start=start), None, "net")
    assert (classifier.input_spec.scale, classifier.input_spec.offset) == (1.0, 0.0)


@pytest.mark.any_backend
def test_rescaling_twice_is_said():
    origin = Classifier(network_of(), None, "net", preprocess="0.0039,0").origin
    assert origin == "--preprocess 0.0039,0, and its layer 'scale' rescales after that: 0..255 becomes 0..0.0039"


# ---------------------------------------------------------------- sizes, classes and answers


def any_size(height=None, width=None, channels=3):
    image = keras.Input((height, width, channels))
    return keras.Model(image, layers.Dense(3)(layers.GlobalAveragePooling2D()(conv(2, "conv")(image))))


@pytest.mark.any_backend
def test_the_size_is_the_networks_the_users_or_the_files():
    spec = InputSpec(["a", "b", "c"], 24, 32, 3)
    for network, input_spec, size, shape in (
        (any_size(24, 32), None, None, (24, 32, 3)),
        (any_size(24, 32), spec, (24, 32), (24, 32, 3)),
        (any_size(), None, (16, 20), (16, 20, 3)),
        (any_size(), spec, None, (24, 32, 3)),
        (any_size(), spec, (16, 20), (16, 20, 3)),
        (any_size(None, 32, 1), None, (16, 32), (16, 32, 1)),
    ):
        assert input_shape_of(network, input_spec, size) == shape
    for network, size, message in (
        (any_size(), None, "takes photos of any size and its file names none; expected --size N or HxW"),
        (any_size(24), None, "takes photos of any size"),
        (any_size(24, 32), (32, 24), "--size 32x24: the network .* takes 24x32 only"),
        (any_size(24, None), (25, 32), "--size 25x32: the network .* takes 24x32 only"),
        (any_size(24, 32, 2), None, r"takes \(N, 24, 32, 2\); expected one input of photos"),
    ):
        with pytest.raises(UserError, match=message):
            input_shape_of(network, None, size)


@pytest.mark.any_backend
def test_what_is_known_of_the_classes_is_said():
    classifier = Classifier(network_of(classes=4), None, "net")
    open_spec = classifier.input_spec
    for names, said in (
        (open_spec.class_names, "its classes are called class_0 to class_3; --class-names FILE names them"),
        (["dog", "cat", "horse", "bird"], "it knows dog, cat, horse, bird only; gradcam_vgg16.py --weights imagenet"),
        (["dog", "cat", "bird", "horse"], ""),
    ):
        classifier.input_spec = replace(open_spec, class_names=names)
        _, _, found = classifier.description.partition("\n")
        assert found.startswith(said) and bool(found) == bool(said)
    for names, options, message in (
        (["dog"], {}, "1 class names for 4 outputs of the network; expected one each"),
        (None, {"interpolation": "aera"}, "--interpolation aera; did you mean area"),
        (None, {"fit": "all"}, "--fit all"),
    ):
        with pytest.raises(UserError, match=message):
            complete_input_spec(None, "net", NetworkOptions(**options), names, classifier.structure, SHAPE)


@pytest.mark.any_backend
@pytest.mark.parametrize("activation", ["softmax", "sigmoid", None])
def test_a_group_has_the_sum_of_its_classes_probabilities(activation):
    """A sum of sigmoids is no probability."""
    classifier = Classifier(network_of(classes=1000, activation=activation), None, "net")
    groups = list(classifier.groups)
    assert classifier.class_names[1000:] == groups and len(classifier.class_names) == 1000 + len(groups) > 1000
    chosen = [groups[0]] if activation != "sigmoid" else []
    assert classifier.groups_among([5, 999, 1000]) == chosen
    logits = np.random.default_rng(0).normal(size=(2, 1000))
    probabilities = classifier.probabilities(logits)
    powers = np.exp(logits)
    expected = powers / (1 + powers) if activation == "sigmoid" else powers / powers.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(probabilities, expected, rtol=1e-5)
    with_groups = classifier.with_groups(probabilities, chosen)
    sums = [expected[:, classifier.groups[name]].sum(axis=1) for name in chosen]
    np.testing.assert_allclose(with_groups, np.column_stack((expected, *sums)), rtol=1e-5)
    assert classifier.with_groups(None, groups) is None


@pytest.mark.any_backend
def test_answers_that_are_not_those_of_the_logits_are_refused():
    """Up to two percent and 0.0001, what half precision makes of them."""
    zero, low = np.zeros((1, 1)), np.full((1, 1), -30.0)
    for outputs, logits, ok in ((0.5095, zero, True), (0.511, zero, False), (9e-5, low, True), (1.2e-4, low, False)):
        if ok:
            check_outputs(np.full((1, 1), outputs), logits, "sigmoid")
        else:
            with pytest.raises(UserError, match="outputs are not the sigmoid of the logits found in it"):
                check_outputs(np.full((1, 1), outputs), logits, "sigmoid")
    check_outputs(np.ones((1, 1)), np.ones((1, 1)), "linear")  # one unit is no probability
    check_outputs(np.full((1, 1), 0.5), np.zeros((1, 2)), "sigmoid")  # of both sides
    for outputs, ok in (([0.5, 0.5001], True), ([0.5, 0.500001], False), ([1.5, -0.5], True), ([0.75, 0.25], False)):
        outputs = np.array([outputs])
        if ok:
            check_outputs(outputs, outputs, "linear")
        else:
            with pytest.raises(UserError, match="outputs are probabilities, but no softmax was found"):
                check_outputs(outputs, outputs, "linear")


# ---------------------------------------------------------------- heads


def joined(activation, scale=None):
    """Three units of their own, joined."""
    keras.utils.set_random_seed(3)
    image = keras.Input(SHAPE)
    x = layers.GlobalAveragePooling2D()(conv(6, "first")(layers.Rescaling(1 / 255)(image)))
    units = [layers.Dense(1, activation=activation, name=f"unit{index}")(x) for index in range(3)]
    x = layers.Concatenate(name="joined")(units)
    return keras.Model(image, x if scale is None else x * scale)


def test_sigmoids_that_are_joined_have_their_logits():
    """Sure answers: of the joined outputs, 1 to rounding, gradients would be zero."""
    network, plain = joined("sigmoid"), joined(None)
    weights = [40 * weight for weight in network.get_weights()]
    network.set_weights(weights)
    plain.set_weights(weights)
    found, expected = (explain(one, PHOTOS, classes=[0, 1, 2], guided=False) for one in (network, plain))
    np.testing.assert_allclose(found.logits, expected.logits, rtol=1e-5)
    np.testing.assert_allclose(found.cams, expected.cams, rtol=1e-4, atol=1e-5)
    assert found.outputs.max() > 0.999 and inspect_network(network, SHAPE).output_activation == "sigmoid"


def two_heads(first, second):
    image = keras.Input(SHAPE)
    x = layers.GlobalAveragePooling2D()(conv(6, "first")(layers.Rescaling(1 / 255)(image)))
    return keras.Model(
        image, layers.Concatenate(name="joined")([layers.Dense(2, first)(x), layers.Dense(2, second)(x)])
    )


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (lambda: joined("tanh"), "makes its output from a tanh in unit., so that its logits cannot be told"),
        (lambda: network_of(activation="tanh"), "from a tanh in class"),
        (lambda: network_of(activation="hard_sigmoid"), "from a hard_sigmoid in class"),
        (lambda: network_of(layers.GlobalAveragePooling2D(), layers.Dense(3, "softmax")), "from a softmax in dense"),
        (lambda: joined("sigmoid", scale=5.0), "from a sigmoid in unit"),
        (lambda: ended(layers.Softmax(), layers.Rescaling(0.5)), "from a softmax in softmax"),
        (lambda: ended(ops.log_softmax), "from a log_softmax in"),
        (lambda: ended(lambda x: ops.clip(ops.softmax(x), 0.01, 0.99)), "from a softmax in"),
        (lambda: ended(lambda x: (ops.softmax(x) + ops.softmax(2 * x)) / 2), "from a softmax in"),
        (lambda: two_heads("softmax", "softmax"), "joins 2 heads in 'joined' that end in softmax; expected"),
        (lambda: two_heads("softmax", "sigmoid"), "joins 2 heads in 'joined' that end in sigmoid and softmax"),
    ],
)
def test_heads_whose_logits_cannot_be_told_are_refused(network, message):
    network = network()
    with pytest.raises(UserError, match=message):
        inspect_network(network, network.input_shape[1:])


def test_activations_before_the_last_weights_are_no_ending():
    network = network_of(layers.Dense(7, activation="tanh"), layers.Activation("sigmoid"))
    assert inspect_network(network, SHAPE).output_activation == "linear"
    mixed = network_of(layers.GlobalAveragePooling2D(), layers.Dense(5, activation="softmax"))
    assert inspect_network(mixed, SHAPE).output_activation == "linear"  # of no classes


def test_a_single_linear_unit_is_one_score(tmp_path):
    network = network_of(classes=1)
    classifier = Classifier(network, None, "net")
    assert classifier.class_names == ["output"] and not classifier.has_probabilities
    found = explain(network, PHOTOS)
    np.testing.assert_allclose(found.logits, ops.convert_to_numpy(network(PHOTOS.astype(np.float32))), rtol=1e-5)
    (tmp_path / "names.txt").write_text("no\nyes\n")
    named = Classifier(network, None, "net", class_names=tmp_path / "names.txt")
    both = GradCAM(named, classes=["yes", "no"])(PHOTOS)
    np.testing.assert_allclose(both.logits, np.concatenate((-found.logits, found.logits), axis=1), rtol=1e-5)
    np.testing.assert_allclose(both.cams[0], found.cams[0], atol=1e-6)
    np.testing.assert_allclose(named.probabilities(both.logits).sum(axis=1), 1)


# ---------------------------------------------------------------- numbers that are not finite


def test_a_photo_whose_numbers_are_not_finite_is_left_out():
    """Standardising a black photo divides zero by zero; so does the black that fills a batch up."""
    image = keras.Input(SHAPE)
    x = layers.Rescaling(1 / 255)(image)
    spread = ops.std(x, axis=(1, 2, 3), keepdims=True)
    x = conv(6, "first")((x - ops.mean(x, axis=(1, 2, 3), keepdims=True)) / spread)
    network = keras.Model(image, layers.Dense(3, activation="softmax")(layers.GlobalAveragePooling2D()(x)))
    photos = np.concatenate((PHOTOS, np.zeros((1, *SHAPE), np.uint8)))
    found = explain(network, photos, preprocess="none", guided=False)
    assert np.isfinite(found.logits[:2]).all() and np.isnan(found.logits[2]).all()
    np.testing.assert_allclose(
        found.cams[:, :2], explain(network, PHOTOS, preprocess="none", guided=False).cams, atol=1e-5
    )


# ---------------------------------------------------------------- maps of zeros


@pytest.mark.any_backend
def test_a_map_of_zeros_has_its_true_reason(photo_folder, tmp_path, capsys):
    """A layer that the score does not depend on, although its features are positive."""
    keras.utils.set_random_seed(7)
    image = keras.Input(SHAPE)
    x = layers.Rescaling(1 / 255)(image)
    first, side = (layers.GlobalAveragePooling2D()(conv(6, name)(x)) for name in ("first", "side"))
    network = keras.Model(image, layers.Dense(3)(first + 0.0 * side))
    network.save(tmp_path / "net.keras")
    photos = photo_folder({"a.png": (200, 100, 50)}, size=(32, 24))
    arguments = ["--weights", str(tmp_path / "net.keras"), "--layer", "side", "--no-guided"]
    assert main([str(photos), *arguments, "--output", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "1 map is zero everywhere" in said and "or its score does not depend on the layer" in said
