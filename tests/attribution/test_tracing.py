"""Grad-CAM and guided backpropagation of every kind of Keras network against the float64 oracle."""

import threading
from dataclasses import replace

import keras
import numpy as np
import oracle
import pytest
from keras import layers, ops
from small_networks import (
    DENSE,
    GENERATOR,
    IMAGES,
    NETWORKS,
    RELUS,
    SHAPE,
    backend_relu,
    backend_silu,
    backend_softmax,
    compiled_relu,
    convolutions,
    ended,
    explained,
    functional,
    head,
    shared_relu,
    steps,
    with_weights,
)

from camlib.attribution.classifier import check_outputs
from camlib.attribution.gradcam import compiled_map
from camlib.attribution.inspection import inspect_network
from camlib.attribution.tracing import trace_calls
from camlib.backend import activations_of_backend, relus_of_backend
from camlib.console import UserError


def check(found, truth, target=3, images=IMAGES):
    """Logits, maps and guided gradients equal the oracle's to 1e-5 of their largest value."""
    for n, c in np.ndindex(len(images), found.logits.shape[1]):
        logits, cam, guided = oracle.maps(truth, images[n], c, target)
        np.testing.assert_allclose(found.logits[n], logits, atol=1e-5 * np.abs(logits).max())
        np.testing.assert_allclose(found.guided[c, n], guided, atol=1e-5 * max(np.abs(guided).max(), 1e-3))
        np.testing.assert_allclose(found.cams[c, n], cam, atol=1e-5 * max(cam.max(), 1e-3))
    assert (found.cams > 0).any() and (found.guided != 0).any()


@pytest.mark.parametrize("name", NETWORKS)
def test_every_kind_of_network(name):
    build, target, ending = NETWORKS[name]
    network = with_weights(build())
    plan = inspect_network(network, SHAPE)
    assert (plan.target, plan.output_activation, len(plan.relus), plan.others) == (target, ending, 2, [])
    found = explained(network, plan)
    check(found, steps())


@pytest.mark.parametrize("name", RELUS)
def test_every_kind_of_relu(name):
    make, parameters = RELUS[name]
    if name == "custom layer, compiled":
        compiled_relu(ops.zeros((2, 5, 7, 6)))  # has its own compiled form already
    network = with_weights(functional(make()))
    plan = inspect_network(network, SHAPE)
    assert len(plan.relus) == 2 and not plan.others
    check(explained(network, plan), steps(parameters))


INNER = GENERATOR.normal(size=(1, 1, 3, 3)), GENERATOR.normal(size=3)
LAST = GENERATOR.normal(size=(3, 4)), GENERATOR.normal(size=4)


def test_a_residual_block_that_is_a_layer():
    """The sum inside a custom layer is no layer of its own: the block's output is the last with a spatial output."""

    class Block(layers.Layer):
        def __init__(self):
            super().__init__(name="block")
            self.inner = layers.Conv2D(3, 1, activation="relu", name="inner")

        def call(self, x):
            return x + self.inner(x)

    network = keras.Sequential([keras.Input(SHAPE), Block(), layers.GlobalAveragePooling2D(), layers.Dense(4)])
    network.layers[0].inner.set_weights(INNER)
    network.layers[-1].set_weights(LAST)
    plan = inspect_network(network, SHAPE)
    assert plan.target == "block" and "block/inner" in plan.sizes
    block = oracle.Residual([oracle.Convolution(*INNER), oracle.Rectifier()])
    check(explained(network, plan), [block, oracle.Mean(), oracle.Dense(*LAST)], target=0)


def test_shared_layer_means_its_last_run():
    network = with_weights(shared_relu())
    plan = inspect_network(network, SHAPE)
    assert plan.calls["shared"] == 2 and plan.sizes["shared"] == (3, 5, 5)
    assert explained(network, plan, layer="shared").features.shape == (2, 3, 5, 5)


def test_grey_and_other_channel_counts_and_open_sizes():
    kernel, bias = GENERATOR.normal(size=(3, 3, 5, 4)) * 0.3, np.zeros(4)
    image = keras.Input((None, None, 5))
    x = layers.Conv2D(4, 3, activation="relu", name="conv")(image)
    network = keras.Model(image, layers.GlobalAveragePooling2D()(x))
    network.get_layer("conv").set_weights([kernel, bias])
    images = GENERATOR.normal(size=(3, 6, 11, 5)).astype(np.float32)
    truth = [oracle.Convolution(kernel, bias), oracle.Rectifier(), oracle.Mean()]
    check(explained(network, None, images), truth, 1, images)


class CallsBackendSilu(layers.Layer):
    def call(self, x):
        return backend_silu(x)


@pytest.mark.parametrize(
    ("relu", "kind"),
    [
        (lambda: layers.Activation("gelu", name="smooth"), "gelu"),
        (lambda: layers.Activation("hard_silu", name="smooth"), "hard_silu"),
        (lambda: layers.ELU(name="smooth"), "elu"),
        (lambda: CallsBackendSilu(name="smooth"), None),
    ],
)
def test_activations_that_are_no_relu_are_found(relu, kind):
    path, found = inspect_network(with_weights(functional(relu())), SHAPE).others[0]
    assert "smooth" in path and (kind is None or found == kind)


@pytest.mark.parametrize("tanh", [layers.Activation("tanh", name="smooth"), ops.tanh], ids=["layer", "operation"])
def test_guided_anyway_is_the_true_gradient_there_and_the_guided_one_at_the_relu(tanh):
    network = with_weights(functional(tanh))
    plan = inspect_network(network, SHAPE)
    assert plan.others[0][1].lower() == "tanh"
    truth = steps()
    truth[1] = Smooth()
    check(explained(network, plan), truth)


class Smooth:
    """tanh, with its true gradient whatever the rule."""

    def forward(self, x):
        self.y = np.tanh(x)
        return self.y

    def backward(self, u, guided):
        return u * (1 - self.y**2)


PLACES = [
    (keras.Operation, "__call__"),
    (layers.PReLU, "call"),
    (keras.src.backend.nn, "softmax"),
    *relus_of_backend(None),
    *activations_of_backend(lambda kind, function: None),
]


def state():
    """What is exchanged while a network is watched."""
    return [vars(owner)[name] for owner, name in PLACES]


def test_threads_take_turns():
    """The second to watch waits for the first; in the end all is as it was."""
    before, order = state(), []

    def watch(name, entered, leave):
        with trace_calls():
            order.append(f"{name} in")
            entered.set()
            leave.wait(10)
            order.append(f"{name} out")

    events = [threading.Event() for _ in range(4)]
    first = threading.Thread(target=watch, args=("first", events[0], events[1]))
    second = threading.Thread(target=watch, args=("second", events[2], events[3]))
    first.start()
    events[0].wait(10)
    second.start()
    assert not events[2].wait(0.3)
    events[1].set()
    events[3].set()
    first.join(10)
    second.join(10)
    assert order == ["first in", "first out", "second in", "second out"] and state() == before


# ---------------------------------------------------------------- endings


@pytest.mark.parametrize(
    "network",
    [
        lambda: ended(layers.Softmax(), layers.Flatten()),
        lambda: ended(layers.Reshape((1, 4)), layers.Softmax(), layers.Reshape((4,))),
        lambda: ended(layers.Softmax(), layers.Activation("linear", dtype="float32")),
        lambda: ended(activation=backend_softmax),
    ],
    ids=["flattened", "reshaped", "cast", "backend's"],
)
def test_softmax_is_found_behind_changes_of_shape(network):
    network = with_weights(network())
    plan = inspect_network(network, SHAPE)
    assert plan.output_activation == "softmax" and not plan.others
    check(explained(network, plan), steps())


def test_outputs_that_only_look_like_probabilities():
    """Logits are refused for adding up to one as a softmax does, to its rounding, and for nothing less."""
    sums_to_one = np.array([[0.25, 0.5, 0.125, 0.125]], np.float32)
    by_hand = np.exp(np.float32([[0.3, 1.7, -2.1]]))
    nearly = np.array([[0.2501, 0.5003, 0.1, 0.15]], np.float32)
    for probabilities in (sums_to_one, by_hand / by_hand.sum(), (by_hand / by_hand.sum()).astype(np.float16)):
        with pytest.raises(UserError, match="outputs are probabilities, but no softmax was found"):
            check_outputs(probabilities.astype(np.float32), probabilities.astype(np.float32), "linear")
    half = np.float16([[0.5, 0.512]]).astype(np.float32)  # they miss one by more than their rounding
    for logits in (nearly, np.log(sums_to_one), -sums_to_one, nearly + np.float32([[0.3, -0.2, 0, 0]]), half):
        check_outputs(logits, logits, "linear")


@pytest.mark.parametrize("ending", ["sigmoid", None])
def test_one_unit_stands_for_two_classes(ending):
    """Its logit z speaks for the second class, -z for the first; of a linear unit where two classes are named."""
    image = keras.Input(SHAPE)
    first, second = convolutions(("relu", "relu"))
    x = layers.GlobalAveragePooling2D()(second(first(image)))
    network = with_weights(keras.Model(image, layers.Dense(1, activation=ending, name="unit")(x)))
    kernel, bias = DENSE[0][:, :1], DENSE[1][:1]
    network.get_layer("unit").set_weights([kernel, bias])
    plan = inspect_network(network, SHAPE)
    assert (
        plan.units == 1 and plan.two_sided == (ending == "sigmoid") and plan.output_activation == (ending or "linear")
    )
    plan = replace(plan, two_sided=True)
    assert plan.class_count == 2
    both = np.concatenate((-kernel, kernel), axis=1), np.concatenate((-bias, bias))
    check(explained(network, plan, classes=range(2)), [*steps()[:-1], oracle.Dense(*both)])


# ---------------------------------------------------------------- layers


def test_residual_sum_in_a_networks_own_call_is_mapped_behind_its_relu():
    class Residual(keras.Model):
        def __init__(self):
            super().__init__()
            self.inner = layers.Conv2D(3, 1, name="inner")
            self.classes = layers.Dense(4)

        def call(self, x):
            x = ops.relu(self.inner(x) + x)
            return self.classes(ops.mean(x, axis=(1, 2)))

    network = Residual()
    network(IMAGES)
    network.inner.set_weights(INNER)
    network.classes.set_weights(LAST)
    plan = inspect_network(network, SHAPE)
    assert plan.target == "relu" and set(plan.sizes) == {"inner", "relu"}
    block = oracle.Residual([oracle.Convolution(*INNER)])
    check(explained(network, plan), [block, oracle.Rectifier(), oracle.Mean(), oracle.Dense(*LAST)], target=1)


def test_what_happens_inside_attention_is_no_picture():
    image = keras.Input((8, 6, 3))
    x = layers.Conv2D(4, 3, activation="relu", name="conv")(image)
    x = layers.Reshape((24, 4))(x)
    x = layers.GlobalAveragePooling1D()(layers.MultiHeadAttention(2, 4, name="attention")(x, x))
    plan = inspect_network(keras.Model(image, layers.Dense(3)(x)), (8, 6, 3))
    assert plan.target == "conv" and set(plan.sizes) - plan.tokens == {"conv"}


def test_channels_first_is_refused_by_name():
    image = keras.Input((8, 10, 3))
    x = layers.Conv2D(5, 3, data_format="channels_first", padding="same", name="first")(
        layers.Permute((3, 1, 2))(image)
    )
    network = keras.Model(image, layers.Dense(3)(layers.GlobalAveragePooling2D(data_format="channels_first")(x)))
    with pytest.raises(UserError, match="layer 'first' of the network .* has its channels first"):
        inspect_network(network, (8, 10, 3))


def test_only_a_rescaling_of_pixels_is_one():
    image = keras.Input(SHAPE)
    first, second = convolutions(("relu", "relu"))
    inside = keras.Model(image, head(layers.Rescaling(0.1, name="scale")(second(first(image)))))
    assert inspect_network(inside, SHAPE).rescaling == {}
    before = keras.Model(image, head(second(first(layers.Rescaling(0.1, name="scale")(layers.RandomFlip()(image))))))
    assert list(inspect_network(before, SHAPE).rescaling) == ["scale"]


# ---------------------------------------------------------------- ReLUs whose gradient cannot be exchanged


class Calls(layers.Layer):
    def __init__(self, function):
        super().__init__(name="odd")
        self.function = function

    def call(self, x):
        return self.function(x)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: ops.maximum(x, 0),
        lambda x: ops.clip(x, 0, 1e9),
        lambda x: ops.where(x > 0, x, 0 * x),
        lambda x: -ops.minimum(-x, 0.0),
        lambda x: ops.vectorized_map(ops.relu, x),
        lambda x: ops.map(ops.relu, x),
        keras.remat(ops.relu),
        lambda x: ops.cond(ops.sum(x) > -1e9, lambda: ops.relu(x), lambda: x),
    ],
    ids=["maximum", "clip", "where", "minimum", "vectorized_map", "map", "remat", "cond"],
)
def test_a_relu_is_guided_or_reported(function):
    """Never the true gradient in silence."""
    network = with_weights(functional(Calls(function)))
    try:
        plan = inspect_network(network, SHAPE)
    except UserError as error:
        assert "does not run on photos of" in str(error)
        return
    if not plan.others:
        check(explained(network, plan), steps())
    else:
        assert any("odd" in path for path, _ in plan.others)


def test_a_network_that_cannot_be_traced_is_told_in_one_line():
    image = keras.Input((None, None, 3))
    network = keras.Model(image, head(layers.Conv2D(4, 3)(layers.Conv2D(4, 7)(image))), name="narrow")
    with pytest.raises(UserError, match="the network 'narrow' does not run on photos of 6x6x3") as caught:
        inspect_network(network, (6, 6, 3))
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- many classes, some photos


def test_the_network_is_left_as_it_was():
    """Its weights are the ones used, its outputs stay, and what Keras and the backend offer is theirs again."""
    network = with_weights(NETWORKS["activation=backend's relu"][0]())
    before, weights = state(), [id(weight) for weight in network.weights]
    outputs = ops.convert_to_numpy(network(IMAGES))
    plan = inspect_network(network, SHAPE)
    explain = compiled_map(network, plan)
    asked = ops.convert_to_tensor(IMAGES), ops.convert_to_tensor(np.zeros((1, 2), np.int32))
    logits = ops.convert_to_numpy(explain(*asked).logits)
    assert [id(weight) for weight in network.weights] == weights and state() == before
    assert network.layers[0].activation is backend_relu
    np.testing.assert_array_equal(ops.convert_to_numpy(network(IMAGES)), outputs)
    network.get_layer("class").set_weights([2 * DENSE[0], DENSE[1]])  # seen at the next call: no copy was made
    doubled = ops.convert_to_numpy(explain(*asked).logits)
    np.testing.assert_allclose(doubled - DENSE[1], 2 * (logits - DENSE[1]), atol=1e-5)


def test_errors_inside_a_network_leave_nothing_exchanged():
    class Fails(layers.Layer):
        def call(self, x):
            raise RuntimeError("no")

    conv = layers.Conv2D(2, 3, activation=backend_relu, name="c")
    network = keras.Sequential([keras.Input(SHAPE), conv])
    before = state()
    with pytest.raises(RuntimeError), trace_calls() as record:
        try:
            Fails()(network(IMAGES))
        finally:
            assert state() != before and record.running == []
    assert conv.activation is backend_relu and len(record.relus) == 1
    assert state() == before


@pytest.mark.parametrize("shape", [(-1, 2), (1, 5, 7, 2)])
def test_other_outputs_are_refused(shape):
    image = keras.Input(SHAPE)
    network = keras.Model(image, layers.Reshape(shape)(layers.Conv2D(2, 3)(image)))
    with pytest.raises(UserError, match=r"returns .*; expected scores of shape \(N, classes\), or \(N, h"):
        inspect_network(network, SHAPE)


def test_bfloat16_rounds_logits_before_the_softmax():
    """Numbers of the shipped network and a drawing: the softmax of rounded logits is off by 4 %."""
    outputs = np.array([[0.8769787, 0.06775755, 0.04215387, 0.01310977]], np.float32)
    logits = np.array([[2.8699238, 0.2844471, -0.19126946, -1.3744695]], np.float32)
    check_outputs(outputs, logits, "softmax", "bfloat16")
    with pytest.raises(UserError, match="are not the softmax of the logits"):
        check_outputs(outputs, logits, "softmax")
    with pytest.raises(UserError, match="are not the softmax of the logits"):
        check_outputs(outputs, logits / 1.1, "softmax", "bfloat16")
