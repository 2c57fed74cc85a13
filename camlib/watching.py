"""Watch a network while Keras runs it: each layer's output, each ReLU, and the logit behind its last activation.

Nothing here depends on how a network was built. Sequential, functional, subclassed and nested networks all run their
layers through `keras.Operation.__call__` and their activations through a few functions of Keras and its backend. Those
are exchanged for watched ones for as long as a network is watched; of the network itself nothing is changed or copied.
"""

import contextlib
from collections import Counter
from dataclasses import dataclass

import keras
from keras import ops
from keras.src import backend as keras_backend
from keras.src.activations.activations import ReLU

from camlib.backend import activation_operations, inlined_functions, relus_of_backend, with_gradient
from camlib.console import UserError

# Keras's other activations. Softmax is none: it mixes its inputs and ends networks or weighs attention.
OTHER_ACTIVATIONS = (
    "celu", "elu", "gelu", "glu", "hard_shrink", "hard_sigmoid", "hard_silu", "hard_tanh", "log_sigmoid", "selu",
    "sigmoid", "silu", "soft_shrink", "softplus", "softsign", "sparse_plus", "sparse_sigmoid", "squareplus", "tanh",
    "tanh_shrink", "threshold",
)  # fmt: skip

POOLING = (keras.layers.MaxPooling2D, keras.layers.AveragePooling2D)

# ---------------------------------------------------------------- ReLU, with two gradients

_guided = False  # read when a gradient is taken, not when the network runs: one forward pass serves both gradients


@contextlib.contextmanager
def guided_rule():
    """Gradients taken in this context follow the guided rule at every watched ReLU; elsewhere they are true ones."""
    global _guided
    _guided = True
    try:
        yield
    finally:
        _guided = False


def rectify(x, negative_slope=0.0, max_value=None, threshold=0.0):
    """A ReLU of any kind, f, with two gradients.

    f(x) = x above the threshold and negative_slope * (x - threshold) below, but at most max_value. The true gradient
    is f'(x) u; the guided one (Springenberg et al. 2015) f'(x) max(u, 0): the plain ReLU passes a gradient u where x
    and u are positive, ReLU6 where x is below 6 besides, a leaky one passes negative_slope * u where x is negative.

    Args:
        x: tensor.
        negative_slope: float, or tensor where it is learnt.
        max_value: float or None.
        threshold: float.

    Returns:
        tensor like x.
    """
    plain = isinstance(negative_slope, (int, float)) and negative_slope == threshold == 0
    if not isinstance(negative_slope, (int, float)):
        negative_slope = ops.stop_gradient(negative_slope)  # a variable, read here once

    def forward(x):
        # a maximum, unlike a comparison, lets NaN through
        y = ops.maximum(x, 0) if plain else ops.where(x > threshold, x, negative_slope * (x - threshold))
        return y if max_value is None else ops.minimum(y, max_value)

    def gradient(x, u):
        u = ops.maximum(u, 0) if _guided else u
        passed = ops.where(x > threshold, u, ops.zeros_like(u) if plain else negative_slope * u)
        return passed if max_value is None else ops.where(x < max_value, passed, ops.zeros_like(u))

    return with_gradient(forward, gradient)(ops.convert_to_tensor(x))


# ---------------------------------------------------------------- watching


class Record:
    """What was seen while a network ran.

    A layer is named by its path: the names of the networks it is nested in and its own, joined by slashes.

    Attributes:
        runs: list of (path, layer, output), one for each run of a layer, in the order in which they ended.
        relus: list of (path, kind), one for each ReLU that ran.
        activations: list of (path, kind, output, input), the same for other activations, softmax among them.
    """

    def __init__(self):
        self.runs, self.relus, self.activations = [], [], []
        self.names = []  # of the networks and layers that are running, outermost first

    @property
    def path(self):
        """Of the layer that is running; the outermost network has none."""
        return "/".join(self.names[1:])

    def logits_of(self, outputs):
        """(logits, kind): the input of the softmax or sigmoid that made `outputs`, else themselves and "linear"."""
        for _, kind, output, logits in self.activations:
            if output is outputs and kind in ("softmax", "sigmoid"):
                return logits, kind
        return outputs, "linear"


@contextlib.contextmanager
def exchanged(values):
    """Let each (owner, name) have another value in this context, past any __setattr__ of the owner's."""

    def assign(values):
        for (owner, name), value in values.items():
            (type if isinstance(owner, type) else object).__setattr__(owner, name, value)

    before = {(owner, name): vars(owner)[name] for owner, name in values}
    try:
        assign(values)
        yield
    finally:
        assign(before)


@contextlib.contextmanager
def watched(tap=None):
    """Watch the networks that run in this context.

    Args:
        tap: function of (path, output) -> output, called with each layer's output; what it returns takes its place.

    Yields:
        Record.
    """
    record = Record()
    run_operation = keras.Operation.__call__

    def run_layer(layer, *arguments, **keywords):
        record.names.append(layer.name)
        # Conv2D(activation=tf.nn.relu) and the like hold the backend's function itself
        held = {
            (layer, name): relu
            for name, value in vars(layer).items()
            for place, relu in backend_relus.items()
            if value is originals[place]
        }
        with exchanged(held):
            output = run_operation(layer, *arguments, **keywords)
        if record.path:
            output = tap(record.path, output) if tap else output
            record.runs.append((record.path, layer, output))
        record.names.pop()
        return output

    def relu(x, negative_slope=0.0, max_value=None, threshold=0.0):
        kind = "ReLU" if isinstance(negative_slope, (int, float)) and negative_slope == 0 else "leaky ReLU"
        record.relus.append((record.path, kind if max_value is None else f"{kind} up to {max_value:g}"))
        return rectify(x, negative_slope, max_value, threshold)

    def other(kind, function):
        def run(x, *arguments, **keywords):
            with exchanged(originals):  # a hard sigmoid is made of a ReLU6, which is not to be guided
                output = function(x, *arguments, **keywords)
            record.activations.append((record.path, kind, output, x))
            return output

        return run

    nn = keras_backend.nn
    backend_relus = relus_of_backend(relu)
    exchanges = backend_relus | {(nn, name): other(name, getattr(nn, name)) for name in ("softmax", *OTHER_ACTIVATIONS)}
    originals = {(owner, name): vars(owner)[name] for owner, name in exchanges}
    exchanges |= {
        (keras.Operation, "__call__"): run_layer,
        (ReLU, "static_call"): staticmethod(relu),
        (keras.layers.PReLU, "call"): lambda layer, inputs: relu(inputs, negative_slope=layer.alpha),
    }
    with exchanged(exchanges), inlined_functions():
        yield record


# ---------------------------------------------------------------- what a network is made of


@dataclass(frozen=True)
class Survey:
    """What a network is made of, as far as maps are concerned.

    Attributes:
        spatial: dict of path -> (h, w, K), layers whose output is more than one pixel, in the order of their last run.
        target: path of the last of them that computes anything new, pooling aside: VGG-16's block5_conv3.
        runs: dict of path -> int, how often each spatial layer runs; it is more than 1 for a shared layer.
        rescaling: path of a Rescaling or Normalization layer, or None.
        relus: list of (path, kind).
        others: list of (path, kind), activations that are no ReLU, the network's last softmax or sigmoid aside.
        ending: "softmax", "sigmoid" or "linear".
        class_count: int.
    """

    spatial: dict
    target: str | None
    runs: dict
    rescaling: str | None
    relus: list
    others: list
    ending: str
    class_count: int


def survey(network, shape):
    """Trace a network once, without running it.

    Args:
        network: keras.Model.
        shape: (H, W, channels) of its input.

    Raises:
        UserError: the network has more than one output, or one that is not (N, classes).
    """
    records = []

    def logits_of(images):
        with watched() as record:
            outputs = network(images, training=False)
        if len(getattr(outputs, "shape", ())) != 2:
            raise UserError(
                f"the network {network.name!r} returns {describe(outputs)}; expected scores of shape (N, classes)"
            )
        logits, ending = record.logits_of(outputs)
        records.append((record, outputs, ending))
        return logits

    operations = activation_operations(logits_of, (1, *shape))
    record, outputs, ending = records[-1]
    spatial, runs, seen, target, rescaling = {}, Counter(), set(), None, None
    for path, layer, output in record.runs:
        size = tuple(getattr(output, "shape", ()))[1:]
        if len(size) == 3 and size[0] * size[1] > 1:
            spatial.pop(path, None)
            spatial[path] = size
            runs[path] += 1
            if id(output) not in seen and not isinstance(layer, POOLING):  # a nested network repeats its last layer
                target = path
        if isinstance(layer, (keras.layers.Rescaling, keras.layers.Normalization)):
            rescaling = rescaling or path
        seen.add(id(output))
    others = [
        (path, kind) for path, kind, output, _ in record.activations if output is not outputs and kind != "softmax"
    ]
    others += [
        (place, kind) for place, kind in operations if not any(path.rsplit("/", 1)[-1] in place for path, _ in others)
    ]
    return Survey(spatial, target, dict(runs), rescaling, record.relus, others, ending, outputs.shape[-1])


def describe(outputs):
    """The shapes of a network's outputs, for a message."""
    shapes = [tuple(output.shape) for output in keras.tree.flatten(outputs)]
    return f"{len(shapes)} outputs of shapes {', '.join(map(str, shapes))}" if len(shapes) > 1 else f"shape {shapes[0]}"
