"""Watch a network while Keras runs it: each layer's output, each ReLU, and the logit behind its last activation.

Nothing here depends on how a network was built. Sequential, functional, subclassed and nested networks all run their
layers through `keras.Operation.__call__` and their activations through a few functions of Keras and its backend. Those
are exchanged for watched ones for as long as a network is watched; of the network itself nothing is changed or copied.
"""

import contextlib
import threading
from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

import keras
from keras import layers, ops
from keras.src import backend as keras_backend
from keras.src.activations.activations import ReLU

from camlib.backend import (
    activation_operations,
    activations_of_backend,
    differentiate,
    inlined_functions,
    named,
    relus_of_backend,
    traced,
    with_gradient,
)
from camlib.console import UserError, first_line

# Keras's other activations
OTHER_ACTIVATIONS = (
    "celu", "elu", "gelu", "glu", "hard_shrink", "hard_sigmoid", "hard_silu", "hard_tanh", "log_sigmoid", "selu",
    "sigmoid", "silu", "soft_shrink", "softplus", "softsign", "sparse_plus", "sparse_sigmoid", "squareplus", "tanh",
    "tanh_shrink", "threshold",
)  # fmt: skip
# No activations: they mix their inputs, and end networks or weigh attention
SOFTMAXES = ("softmax", "log_softmax")
POOLING = (layers.MaxPooling2D, layers.AveragePooling2D)
# Layers whose inner outputs are no pictures although they have four dimensions
ATTENTION = (layers.MultiHeadAttention, layers.GroupQueryAttention, layers.Attention, layers.AdditiveAttention)
WATCHED = "watched_activation"  # scope of the operations that are known

# What Keras and the backend offer is exchanged while a network is watched: one thread at a time
_exchanging = threading.RLock()

# ---------------------------------------------------------------- ReLU, with two gradients

_guided = False  # read when a gradient is taken, not when the network runs: one forward pass serves both gradients


@contextlib.contextmanager
def guided_rule():
    """Gradients taken in this context follow the guided rule at every watched ReLU; elsewhere they are true ones."""
    global _guided
    with _exchanging:
        _guided = True
        try:
            yield
        finally:
            _guided = False


def rectify(x, negative_slope=0.0, max_value=None, threshold=0.0, on_guided=lambda: None):
    """A ReLU of any kind, f, with two gradients.

    f(x) = x above the threshold and negative_slope * (x - threshold) below, but at most max_value. The true gradient
    is f'(x) u; the guided one (Springenberg et al. 2015) f'(x) max(u, 0): the plain ReLU passes a gradient u where x
    and u are positive, ReLU6 where x is below 6 besides, a leaky one passes negative_slope * u where x is negative.

    Args:
        x: tensor.
        negative_slope: float, or tensor where it is learnt.
        max_value: float or None.
        threshold: float.
        on_guided: function, called when a guided gradient is taken.

    Returns:
        tensor like x.
    """
    plain = isinstance(negative_slope, (int, float)) and negative_slope == threshold == 0
    if not isinstance(negative_slope, (int, float)):
        negative_slope = ops.stop_gradient(negative_slope)  # a variable, read here once

    def forward(x):
        with named(WATCHED):
            # a maximum, unlike a comparison, lets NaN through
            y = ops.maximum(x, 0) if plain else ops.where(x > threshold, x, negative_slope * (x - threshold))
            return y if max_value is None else ops.minimum(y, max_value)

    def gradient(x, u):
        if _guided:
            on_guided()
            u = ops.maximum(u, 0)
        passed = ops.where(x > threshold, u, ops.zeros_like(u) if plain else negative_slope * u)
        return passed if max_value is None else ops.where(x < max_value, passed, ops.zeros_like(u))

    return with_gradient(forward, gradient)(ops.convert_to_tensor(x))


# ---------------------------------------------------------------- watching


class Run(NamedTuple):
    """One run of a layer, or of a ReLU that is called as a function: then `layer` is None."""

    path: str
    layer: layers.Layer | None
    input: object
    output: object


class Activation(NamedTuple):
    """One run of an activation that is no ReLU, softmax among them."""

    path: str
    kind: str
    output: object
    input: object


class Record:
    """What was seen while a network ran.

    A layer is named by its path: the names of the networks it is nested in and its own, joined by slashes. A ReLU that
    is called as a function, in a layer's or a network's own code, is named relu below that.

    Attributes:
        runs: list of Run, in the order in which they ended, without what happens inside attention.
        relus: list of (path, kind), one for each ReLU that ran.
        guided: set of indices into relus, of those through which a guided gradient was taken.
        activations: list of Activation.
    """

    def __init__(self):
        self.runs, self.relus, self.guided, self.activations = [], [], set(), []
        self.running = []  # networks and layers, outermost first

    @property
    def path(self):
        """Of the layer that is running; the outermost network has none."""
        return "/".join(layer.name for layer in self.running[1:])

    def ending_of(self, outputs):
        """The softmax or sigmoid that made `outputs`, shape and precision aside, or None."""
        while True:
            for activation in self.activations:
                if activation.output is outputs and activation.kind in ("softmax", "sigmoid"):
                    return activation
            before = [run.input for run in self.runs if run.output is outputs and passes_on(run.layer)]
            if not before or before[-1] is outputs:
                return None
            outputs = before[-1]

    def maker_of(self, tensor, kind):
        """The Run of a layer of that kind that made a tensor, shape and precision aside, or None."""
        while True:
            runs = [run for run in self.runs if run.output is tensor]
            for run in runs:
                if isinstance(run.layer, kind):
                    return run
            before = [run.input for run in runs if passes_on(run.layer)]
            if not before or before[-1] is tensor:
                return None
            tensor = before[-1]

    def logits_of(self, outputs):
        """The input (N, C) of the softmax or sigmoid that made `outputs` (N, C), else themselves."""
        ending = self.ending_of(outputs)
        if ending is None:
            return outputs
        same = tuple(ending.input.shape) == tuple(outputs.shape)
        return ending.input if same else ops.reshape(ending.input, (-1, outputs.shape[-1]))


def passes_on(layer):
    """Whether a layer's output holds its input's numbers, in another shape or precision at most."""
    if isinstance(layer, layers.Activation):
        return layer.activation is keras.activations.linear
    return isinstance(layer, (layers.Flatten, layers.Reshape, layers.Identity, layers.Dropout))


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
        tap: function of (path, output) -> output, called with each output; what it returns takes its place.

    Yields:
        Record.
    """
    record = Record()
    run_operation = keras.Operation.__call__

    def ended(path, layer, before, output):
        if not path or any(isinstance(outer, ATTENTION) for outer in record.running[:-1]):
            return output
        output = tap(path, output) if tap else output
        record.runs.append(Run(path, layer, before, output))
        return output

    def run_layer(layer, *arguments, **keywords):
        record.running.append(layer)
        # Conv2D(activation=tf.nn.relu) and the like hold the backend's function itself
        held = {
            (layer, name): stand_in
            for name, value in vars(layer).items()
            for place, stand_in in of_backend.items()
            if value is originals[place]
        }
        try:
            with exchanged(held):
                output = run_operation(layer, *arguments, **keywords)
            if record.runs and record.runs[-1].layer is None and record.runs[-1].output is output:
                record.runs.pop()  # the ReLU at a layer's end goes by the layer's name
            return ended(record.path, layer, arguments[0] if arguments else None, output)
        finally:
            record.running.pop()

    def relu(x, negative_slope=0.0, max_value=None, threshold=0.0):
        kind = "ReLU" if isinstance(negative_slope, (int, float)) and negative_slope == 0 else "leaky ReLU"
        index = len(record.relus)
        record.relus.append((record.path, kind if max_value is None else f"{kind} up to {max_value:g}"))
        y = rectify(x, negative_slope, max_value, threshold, lambda: record.guided.add(index))
        return ended(f"{record.path}/relu".lstrip("/"), None, x, y)

    def other(kind, function):
        def run(x, *arguments, **keywords):
            # a hard sigmoid is made of a ReLU6, which is not to be guided
            with exchanged(originals), named(WATCHED):
                output = function(x, *arguments, **keywords)
            record.activations.append(Activation(record.path, kind, output, x))
            return output

        return run

    nn = keras_backend.nn
    of_backend = relus_of_backend(relu) | activations_of_backend(other)
    exchanges = of_backend | {(nn, name): other(name, getattr(nn, name)) for name in (*SOFTMAXES, *OTHER_ACTIVATIONS)}
    originals = {(owner, name): vars(owner)[name] for owner, name in exchanges}
    exchanges |= {
        (keras.Operation, "__call__"): run_layer,
        (ReLU, "static_call"): staticmethod(relu),
        (keras.layers.PReLU, "call"): lambda layer, inputs: relu(inputs, negative_slope=layer.alpha),
    }
    with _exchanging, exchanged(exchanges), inlined_functions():
        yield record


# ---------------------------------------------------------------- what a network is made of


@dataclass(frozen=True)
class Survey:
    """What a network is made of, as far as maps are concerned.

    Attributes:
        spatial: dict of path -> (h, w, K), what has more than one pixel, in the order of the last runs.
        target: path of the last of them that computes anything new, pooling aside: VGG-16's block5_conv3.
        runs: dict of path -> int, how often each of them runs; it is more than 1 for a shared layer.
        rescaling: path of the Rescaling or Normalization layer that the network begins with, or None.
        relus: list of (path, kind).
        others: list of (path, kind), activations through which guided backpropagation is not defined or not to be had;
            the network's last softmax or sigmoid is none of them.
        ending: "softmax", "sigmoid" or "linear".
        units: int, of the output; one unit stands for two classes, see `both_sides`.
    """

    spatial: dict
    target: str | None
    runs: dict
    rescaling: str | None
    relus: list
    others: list
    ending: str
    units: int

    @property
    def class_count(self):
        return max(2, self.units)


def both_sides(logits):
    """Logits (N, C) as they are; of a single unit, z, those of both classes, (-z, z): their sigmoids add up to 1."""
    return ops.concatenate((-logits, logits), axis=-1) if logits.shape[-1] == 1 else logits


def survey(network, shape):
    """Trace a network, without running it.

    Args:
        network: keras.Model.
        shape: (H, W, channels) of its input.

    Raises:
        UserError: the network does not take such photos, has more than one output, or one that is not (N, classes), or
            one from which no logits can be had.
    """
    seen = []  # (Record, outputs) of each trace

    def logits_of(images):
        with watched() as record:
            outputs = network(images, training=False)
        seen.append((record, outputs))
        return record.logits_of(outputs) if is_scores(outputs) else images

    def take_guided_gradient(images):
        logits, _, _, _, pull_to_images = differentiate(lambda x, tap: (logits_of(x), ()), images)
        u = ops.ones_like(logits)
        pull_to_images(u)  # first, as for maps: some operations keep the gradient that was taken first
        with guided_rule():
            return pull_to_images(u)

    try:
        batch = (2, *shape)  # of one photo, loops over photos would be another program
        operations = activation_operations(logits_of, batch, WATCHED)
        if is_scores(seen[-1][1]):
            traced(take_guided_gradient, batch)
    except Exception as error:  # whatever a network's own code, Keras or the backend raises
        size = "x".join(map(str, shape))
        raise UserError(
            f"the network {network.name!r} does not run on photos of {size} ({first_line(error)})"
        ) from error
    record, outputs = seen[-1]
    if not is_scores(outputs):
        raise UserError(
            f"the network {network.name!r} returns {describe(outputs)}; expected scores of shape (N, classes)"
        )
    ending = record.ending_of(outputs)
    refuse_hidden_softmax(network, record, outputs, ending)
    spatial, runs, target = spatial_outputs(network, record)
    others = [
        (activation.path, activation.kind)
        for activation in record.activations
        if activation is not ending and activation.kind not in SOFTMAXES
    ]
    others += operations
    others += [
        (path, f"{kind} whose gradient is out of reach")
        for index, (path, kind) in enumerate(record.relus)
        if index not in record.guided
    ]
    kind = ending.kind if ending else "linear"
    return Survey(spatial, target, runs, rescaling_of(record), record.relus, others, kind, outputs.shape[-1])


def is_scores(outputs):
    return not isinstance(outputs, (dict, list, tuple)) and len(getattr(outputs, "shape", ())) == 2


def refuse_hidden_softmax(network, record, outputs, ending):
    """Raise UserError where the outputs are made from a softmax over the classes, but not by it alone."""
    for activation in record.activations:
        over_classes = len(activation.output.shape) == 2 and activation.output.shape[-1] == outputs.shape[-1]
        if ending is None and activation.kind in SOFTMAXES and over_classes:
            raise UserError(
                f"the network {network.name!r} makes its output from a {activation.kind} in "
                f"{activation.path or 'its own code'}, so that its logits cannot be told; expected a network that ends "
                "in softmax, sigmoid or neither"
            )


def spatial_outputs(network, record):
    """(sizes, numbers of runs, target) for Survey.

    Raises:
        UserError: a layer's output is (N, K, h, w).
    """
    spatial, runs, seen, target = {}, Counter(), set(), None
    for path, layer, _, output in record.runs:
        size = tuple(getattr(output, "shape", ()))[1:]
        if len(size) == 3 and size[0] * size[1] > 1:
            if getattr(layer, "data_format", None) == "channels_first":
                raise UserError(
                    f"layer {path!r} of the network {network.name!r} has its channels first; expected (N, h, w, K)"
                )
            spatial.pop(path, None)
            spatial[path] = size
            runs[path] += 1
            if id(output) not in seen and not isinstance(layer, POOLING):  # a nested network repeats its last layer
                target = path
        seen.add(id(output))
    return spatial, dict(runs), target


def rescaling_of(record):
    """Path of the first layer, augmentation aside, if that rescales pixels; what comes behind weights does not."""
    for path, layer, *_ in record.runs:
        if isinstance(layer, (layers.Rescaling, layers.Normalization)):
            return path
        if getattr(layer, "weights", None):  # an operation of a functional network has none
            return None
    return None


def describe(outputs):
    """The shapes of a network's outputs, for a message."""
    shapes = ", ".join(str(tuple(output.shape)) for output in keras.tree.flatten(outputs))
    kind = type(outputs).__name__
    return f"a {kind} of shapes {shapes}" if isinstance(outputs, (dict, list, tuple)) else f"shape {shapes}"
