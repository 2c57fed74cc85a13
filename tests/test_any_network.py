"""Grad-CAM and guided backpropagation of every kind of Keras network against the float64 oracle."""

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
    compiled_relu,
    functional,
    shared_relu,
    steps,
    with_weights,
)

from camlib.console import UserError
from camlib.watching import survey, watched
from gradcam_vgg16 import explainer


def explained(network, plan, **settings):
    """Explanation of all four classes of IMAGES, as NumPy arrays."""
    classes = np.repeat(np.arange(4, dtype=np.int32)[:, None], len(IMAGES), axis=1)
    found = explainer(network, plan, **settings)(ops.convert_to_tensor(IMAGES), ops.convert_to_tensor(classes))
    return found._replace(
        **{name: ops.convert_to_numpy(part) for name, part in found._asdict().items() if part is not None}
    )


def check(found, truth, target=3):
    """Logits, maps and guided gradients equal the oracle's to 1e-5 of their largest value."""
    for n, c in np.ndindex(len(IMAGES), 4):
        logits, cam, guided = oracle.maps(truth, IMAGES[n], c, target)
        np.testing.assert_allclose(found.logits[n], logits, atol=1e-5 * np.abs(logits).max())
        np.testing.assert_allclose(found.guided[c, n], guided, atol=1e-5 * max(np.abs(guided).max(), 1e-3))
        np.testing.assert_allclose(found.cams[c, n], cam, atol=1e-5 * max(cam.max(), 1e-3))
    assert (found.cams > 0).any() and (found.guided != 0).any()


@pytest.mark.parametrize("name", NETWORKS)
def test_every_kind_of_network(name):
    build, target, ending = NETWORKS[name]
    network = with_weights(build())
    plan = survey(network, SHAPE)
    # a subclassed network's ReLU is no layer: its map is of the convolution before it
    assert (plan.target, plan.ending, len(plan.relus), plan.others) == (target, ending, 2, [])
    found = explained(network, plan)
    check(found, steps(), target=2 if name == "subclassed" else 3)


@pytest.mark.parametrize("name", RELUS)
def test_every_kind_of_relu(name):
    make, parameters = RELUS[name]
    if name == "custom layer, compiled":
        compiled_relu(ops.zeros((2, 5, 7, 6)))  # has its own compiled form already
    network = with_weights(functional(make()))
    plan = survey(network, SHAPE)
    assert len(plan.relus) == 2 and not plan.others
    check(explained(network, plan), steps(parameters))


def test_a_residual_block_that_is_a_layer():
    """The sum inside a custom layer is no layer of its own: the block's output is the last with a spatial output."""

    class Block(layers.Layer):
        def __init__(self):
            super().__init__(name="block")
            self.inner = layers.Conv2D(3, 1, activation="relu", name="inner")

        def call(self, x):
            return x + self.inner(x)

    kernel, bias = GENERATOR.normal(size=(1, 1, 3, 3)), GENERATOR.normal(size=3)
    dense = GENERATOR.normal(size=(3, 4)), GENERATOR.normal(size=4)
    network = keras.Sequential([keras.Input(SHAPE), Block(), layers.GlobalAveragePooling2D(), layers.Dense(4)])
    network.layers[0].inner.set_weights([kernel, bias])
    network.layers[-1].set_weights(dense)
    plan = survey(network, SHAPE)
    assert plan.target == "block" and "block/inner" in plan.spatial
    truth = [
        oracle.Residual([oracle.Convolution(kernel, bias), oracle.Rectifier()]),
        oracle.Mean(),
        oracle.Dense(*dense),
    ]
    check(explained(network, plan), truth, target=0)


def test_shared_layer_means_its_last_run():
    network = with_weights(shared_relu())
    plan = survey(network, SHAPE)
    assert plan.runs["shared"] == 2 and plan.spatial["shared"] == (3, 5, 5)
    assert explained(network, plan, layer="shared").features.shape == (2, 3, 5, 5)


def test_grey_and_other_channel_counts_and_open_sizes():
    kernel, bias = GENERATOR.normal(size=(3, 3, 5, 4)) * 0.3, np.zeros(4)
    image = keras.Input((None, None, 5))
    x = layers.Conv2D(4, 3, activation="relu", name="conv")(image)
    network = keras.Model(image, layers.GlobalAveragePooling2D()(x))
    network.get_layer("conv").set_weights([kernel, bias])
    plan = survey(network, (6, 11, 5))
    images = GENERATOR.normal(size=(3, 6, 11, 5)).astype(np.float32)
    classes = ops.convert_to_tensor(np.array([[2, 2, 2]], np.int32))
    found = explainer(network, plan)(ops.convert_to_tensor(images), classes)
    for n in range(3):
        _, cam, guided = oracle.maps(
            [oracle.Convolution(kernel, bias), oracle.Rectifier(), oracle.Mean()], images[n], 2, 1
        )
        np.testing.assert_allclose(ops.convert_to_numpy(found.cams)[0, n], cam, atol=1e-6)
        np.testing.assert_allclose(ops.convert_to_numpy(found.guided)[0, n], guided, atol=1e-6)


class CallsBackendSilu(layers.Layer):
    def call(self, x):
        return backend_silu(x)


@pytest.mark.parametrize(
    ("relu", "kind"),
    [
        (lambda: layers.Activation("gelu", name="smooth"), "gelu"),
        (lambda: layers.Activation("silu", name="smooth"), "silu"),
        (lambda: layers.Activation("hard_silu", name="smooth"), "hard_silu"),
        (lambda: layers.Activation("tanh", name="smooth"), "tanh"),
        (lambda: layers.ELU(name="smooth"), "elu"),
        (lambda: CallsBackendSilu(name="smooth"), None),
        (lambda: lambda x: ops.tanh(x), None),
    ],
)
def test_activations_that_are_no_relu_are_found(relu, kind):
    network = with_weights(functional(relu()))
    plan = survey(network, SHAPE)
    path, found = plan.others[0]
    assert "smooth" in path or found.lower() == "tanh"  # an operation of a functional network has no layer to name
    assert kind is None or found.lower() == kind
    if kind in (None, "tanh"):  # guided anyway: the true gradient there, the guided one at the ReLU
        shape = {"tanh": np.tanh}.get(kind)
        if shape:
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


def test_the_network_is_left_as_it_was():
    """Its weights are the ones used, its outputs stay, and what Keras and the backend offer is theirs again."""
    network = with_weights(NETWORKS["activation=backend's relu"][0]())
    before = {place: vars(place[0])[place[1]] for place in ((keras.Operation, "__call__"), (layers.PReLU, "call"))}
    weights = [id(weight) for weight in network.weights]
    outputs = ops.convert_to_numpy(network(IMAGES))
    plan = survey(network, SHAPE)
    first = explained(network, plan)
    assert [id(weight) for weight in network.weights] == weights
    assert network.layers[0].activation is backend_relu
    assert all(vars(owner)[name] is value for (owner, name), value in before.items())
    np.testing.assert_array_equal(ops.convert_to_numpy(network(IMAGES)), outputs)
    explain = explainer(network, plan)
    classes = ops.convert_to_tensor(np.zeros((1, 2), np.int32))
    np.testing.assert_array_equal(
        ops.convert_to_numpy(explain(ops.convert_to_tensor(IMAGES), classes).logits), first.logits
    )
    network.get_layer("class").set_weights([2 * DENSE[0], DENSE[1]])  # seen at the next call: no copy was made
    doubled = ops.convert_to_numpy(explain(ops.convert_to_tensor(IMAGES), classes).logits)
    np.testing.assert_allclose(doubled - DENSE[1], 2 * (first.logits - DENSE[1]), atol=1e-5)


def test_errors_inside_a_network_leave_nothing_exchanged():
    class Fails(layers.Layer):
        def call(self, x):
            raise RuntimeError("no")

    network = keras.Sequential([keras.Input(SHAPE), layers.Conv2D(2, 3, activation=backend_relu, name="c")])
    with pytest.raises(RuntimeError), watched():
        Fails()(ops.ones((1, 2)))
    assert network.layers[0].activation is backend_relu
    assert keras.Operation.__call__.__module__.startswith("keras.")


@pytest.mark.parametrize("count", [2, 1])
def test_other_outputs_are_refused(count):
    image = keras.Input(SHAPE)
    outputs = [layers.Conv2D(2, 3)(image) for _ in range(count)]
    network = keras.Model(image, outputs if count > 1 else outputs[0])
    with pytest.raises(UserError, match=r"returns .*; expected scores of shape \(N, classes\)"):
        survey(network, SHAPE)
