"""Networks compute what they should: folded, trained at every fourth pixel, started from earlier weights."""

import keras
import numpy as np
import pytest
from keras import layers
from small_networks import with_random_weights

from camlib.console import UserError
from camlib.networks.architectures import depth_to_go_on, fold, modern_network, start_from, vgg16_network

NARROW = ((2, 4), (2, 8), (3, 16), (3, 16), (3, 16))  # VGG-16 with an eighth of its filters or fewer


@pytest.fixture
def narrow(monkeypatch):
    monkeypatch.setattr("camlib.networks.architectures.VGG16_BLOCKS", NARROW)


def with_random_vectors(network, generator):
    """Change what is no kernel: biases, and what a normalisation learns."""
    for weight in network.weights:
        if len(weight.shape) == 1:
            weight.assign(weight + generator.uniform(0, 0.3, weight.shape))
    return network


def tensor_at(network, name, images):
    """What a layer is given, float64."""
    inner = keras.Model(network.inputs[0], network.get_layer(name).input)
    return keras.ops.convert_to_numpy(inner(images)).astype(np.float64)


@pytest.mark.any_backend
def test_folded_vgg16_computes_the_same(narrow):
    network = with_random_weights(vgg16_network(4, for_training=True))
    plain = fold(network, vgg16_network(4))
    assert not any(isinstance(layer, layers.BatchNormalization) for layer in plain.layers)
    images = np.random.default_rng(1).random((2, 40, 64, 3), np.float32)
    expected, result = (tensor_at(one, "gap", images) for one in (network, plain))
    assert expected.max() > 0
    np.testing.assert_allclose(result, expected, atol=1e-4 * expected.max())
    np.testing.assert_allclose(plain.predict(images, verbose=0), network.predict(images, verbose=0), atol=1e-4)


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("height", "width", "first", "depth"),
    [(24, 32, (3, 3), None), (25, 33, (0, 0), 4), (26, 32, (1, 3), 9)],
)
def test_training_form_is_the_plain_network_at_every_fourth_pixel(height, width, first, depth):
    network = with_random_weights(modern_network(4, for_training=True, depth=depth))
    plain = fold(network, modern_network(4, depth=depth))
    images = np.random.default_rng(1).random((2, height, width, 3), np.float32)
    on_grid, everywhere = tensor_at(network, "gap", images), tensor_at(plain, "across_rows", images)
    assert everywhere.shape == (2, height, width, 96)
    sampled = everywhere[:, first[0] :: 4, first[1] :: 4]
    assert sampled.shape == on_grid.shape and np.abs(on_grid).max() > 0.1
    np.testing.assert_allclose(on_grid, sampled, atol=1e-5 * np.abs(on_grid).max())


@pytest.mark.any_backend
def test_depth_is_the_number_of_convolutions():
    for depth in (1, 2, 7, 8, 11):
        network = modern_network(4, depth=depth)
        convolutions = [layer for layer in network.layers if isinstance(layer, layers.Conv2D)]
        dilations = [layer.dilation_rate[0] for layer in convolutions]
        filters = [layer.filters for layer in convolutions]
        assert dilations == [1, 2, 2, 4, 4, 4, 4, 4, 4, 4, 4][:depth]
        assert filters == [32, 48, 64, *[96] * 8][:depth]
        assert sum(isinstance(layer, layers.Add) for layer in network.layers) == max(0, depth - 4)
        assert network.output_shape == (None, 4)
        assert depth_to_go_on(network) == (depth if depth > 7 else None)


@pytest.mark.any_backend
def test_smoothing_across_grids_against_float64_numpy():
    """A mean over four pixels, twice along each axis; nothing is left of a pattern that repeats every four pixels."""
    plain = modern_network(4)
    smooth = keras.Model(plain.get_layer("across_rows").input, plain.get_layer("gap").input)
    features = np.random.default_rng(3).random((1, 20, 24, 96))
    box = sum(
        np.pad(features, ((0, 0), (3, 3), (3, 3), (0, 0)))[:, y : y + 23, x : x + 27]
        for y in range(4)
        for x in range(4)
    )
    expected = sum(box[:, y : y + 20, x : x + 24] for y in range(4) for x in range(4)) / 256
    result = keras.ops.convert_to_numpy(smooth(features.astype(np.float32)))
    np.testing.assert_allclose(result, expected, atol=1e-6)
    tiled = np.tile(np.random.default_rng(4).random((1, 4, 4, 96)), (1, 5, 6, 1)).astype(np.float32)
    even = keras.ops.convert_to_numpy(smooth(tiled))[:, 3:-3, 3:-3]
    np.testing.assert_allclose(
        even, np.broadcast_to(tiled[:, :4, :4].mean((1, 2), keepdims=True), even.shape), atol=1e-6
    )


@pytest.mark.any_backend
def test_folded_head_is_normalisation_and_dense_layer():
    network = with_random_weights(modern_network(4, for_training=True))
    plain = fold(network, modern_network(4))
    pooled = np.random.default_rng(2).random((5, 96)).astype(np.float64)
    gamma, beta, mean, variance = network.get_layer("class_bn").get_weights()
    kernel, bias = network.get_layer("class").get_weights()
    normalised = gamma * (pooled - mean) / np.sqrt(variance + network.get_layer("class_bn").epsilon) + beta
    folded_kernel, folded_bias = plain.get_layer("class").get_weights()
    np.testing.assert_allclose(pooled @ folded_kernel + folded_bias, normalised @ kernel + bias, atol=1e-5)


@pytest.mark.any_backend
def test_vgg16_is_kerass_vgg16_up_to_its_last_pooling():
    network, reference = vgg16_network(4), keras.applications.VGG16(weights=None, include_top=False)
    for layer in reference.layers:
        if layer.get_weights():
            network.get_layer(layer.name).set_weights(layer.get_weights())
    images = np.random.default_rng(1).random((1, 32, 32, 3), np.float32)
    expected = keras.ops.convert_to_numpy(reference(images))
    np.testing.assert_allclose(tensor_at(network, "gap", images), expected, atol=1e-6)


# ---------------------------------------------------------------- started from earlier weights


@pytest.mark.thorough
def test_a_new_head_is_fit_for_features_of_any_size(narrow):
    """Features a thousand times larger, as ImageNet's are larger than ours, give the same first probabilities."""
    images, found = np.random.default_rng(1).random((8, 32, 32, 3), np.float32), []
    for scale in (1, 1000):
        keras.utils.set_random_seed(1)
        source, network = vgg16_network(3), vgg16_network(4, for_training=True)
        last = source.get_layer("block5_conv3")
        last.set_weights([scale * array for array in last.get_weights()])
        start_from(network, source, images)
        found.append(network.predict(images, verbose=0))
        kernel = network.get_layer("hidden").get_weights()[0]
        size = np.sqrt((tensor_at(network, "hidden", images) ** 2).mean())
        glorot = np.sqrt(2 / sum(kernel.shape))  # of features of size one
        assert kernel.std() * size == pytest.approx(glorot, rel=0.02)
    np.testing.assert_allclose(*found, atol=1e-3)


STARTS = [(vgg16_network, {}), (modern_network, {}), (modern_network, {"depth": 9})]  # all from the usual depth


@pytest.mark.any_backend
@pytest.mark.parametrize(("build", "deep"), STARTS)
def test_a_start_from_earlier_weights_changes_no_feature(narrow, build, deep):
    """Not even where each batch is normalised, for the photos that the statistics are of."""
    keras.utils.set_random_seed(1)
    generator = np.random.default_rng(1)
    network, source = build(4, for_training=True, **deep), with_random_vectors(build(3), generator)
    images = generator.random((8, 32, 32, 3), np.float32)
    start_from(network, source, images)
    truth = tensor_at(source, "across_rows" if build is modern_network else "gap", images)
    truth = truth[:, 3::4, 3::4] if build is modern_network else truth  # which is trained at every fourth pixel
    assert truth.std() > 0.01
    np.testing.assert_allclose(tensor_at(network, "gap", images), truth, atol=1e-4 * truth.max())
    if build is vgg16_network:
        trained = keras.Model(network.inputs[0], network.get_layer("gap").input)
        as_trained = keras.ops.convert_to_numpy(trained(images, training=True))
        np.testing.assert_allclose(as_trained, truth, atol=1e-2 * truth.max())


@pytest.mark.thorough
@pytest.mark.any_backend
@pytest.mark.parametrize(("build", "deep"), STARTS)
def test_a_start_from_the_same_classes_keeps_what_is_said(narrow, build, deep):
    """The very answers of the earlier network, but for the grid that the pooling-free one is trained on."""
    keras.utils.set_random_seed(1)
    generator = np.random.default_rng(1)
    network, other = build(4, for_training=True, **deep), build(4, for_training=True, **deep)
    source = with_random_vectors(build(4), generator)
    images = generator.random((8, 32, 32, 3), np.float32)
    start_from(network, source, images, same_classes=True)
    kernel, bias = source.get_layer("class").get_weights()
    features = tensor_at(source, "across_rows" if build is modern_network else "class", images)
    means = features[:, 3::4, 3::4].mean((1, 2)) if build is modern_network else features
    logits = means @ kernel + bias
    said = keras.ops.convert_to_numpy(keras.Model(network.inputs[0], network.get_layer("class").output)(images))
    np.testing.assert_allclose(said.reshape(logits.shape), logits, atol=1e-3 * np.abs(logits).max())
    assert np.ptp(logits) > 0.1
    start_from(other, source, images)
    assert not np.allclose(other.get_layer("class").get_weights()[0], kernel)


@pytest.mark.any_backend
def test_layers_that_the_start_lacks_can_learn():
    network = modern_network(4, for_training=True, depth=9)
    images = np.random.default_rng(1).random((8, 32, 32, 3), np.float32)
    start_from(network, modern_network(4), images)
    added = [layer for layer in network.layers if isinstance(layer, layers.BatchNormalization)][-3:-1]
    assert not any(np.any(norm.get_weights()[0]) for norm in added)
    network.compile("sgd", "categorical_crossentropy")
    network.fit(images, np.eye(4)[[0, 1, 2, 3] * 2], verbose=0)
    assert all(np.all(norm.get_weights()[0] != 0) for norm in added)


@pytest.mark.any_backend
@pytest.mark.parametrize("depth", [2, 8])
@pytest.mark.parametrize("build", [vgg16_network, modern_network])
def test_a_start_from_other_or_more_convolutions_is_refused(build, depth, narrow, monkeypatch):
    network = build(4, for_training=True)
    monkeypatch.setattr("camlib.networks.architectures.VGG16_BLOCKS", (NARROW * 2)[:depth])
    source = build(4) if build is vgg16_network else build(4, depth=depth)
    with pytest.raises(UserError, match=f"convolutions of another number or shape than '{network.name}'"):
        start_from(network, source, np.zeros((1, 32, 32, 3), np.float32))
