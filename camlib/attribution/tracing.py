"""Watch a network while Keras runs it: each layer's output, each ReLU, and the logit behind its last activation.

Nothing here depends on how a network was built. Sequential, functional, subclassed and nested networks all run their
layers through `keras.Operation.__call__` and their activations through a few functions of Keras and its backend. Those
are exchanged for watched ones for as long as a network is watched; of the network itself nothing is changed or copied.
"""

import contextlib
import threading
from typing import NamedTuple

import keras
from keras import layers, ops
from keras.src import backend as keras_backend
from keras.src.activations.activations import ReLU

from camlib.backend import activations_of_backend, inlined_functions, named, relus_of_backend, with_gradient
from camlib.console import UserError

# Keras's other activations
OTHER_ACTIVATIONS = (
    "celu", "elu", "gelu", "glu", "hard_shrink", "hard_sigmoid", "hard_silu", "hard_tanh", "log_sigmoid", "selu",
    "sigmoid", "silu", "soft_shrink", "softplus", "softsign", "sparse_plus", "sparse_sigmoid", "squareplus", "tanh",
    "tanh_shrink", "threshold",
)  # fmt: skip
# No activations: they mix their inputs, and end networks or weigh attention
SOFTMAXES = ("softmax", "log_softmax")
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
    """One run of an activation that is no ReLU, softmax among them; `order` is the number of runs ended before it."""

    path: str
    kind: str
    output: object
    input: object
    order: int


class Ending(NamedTuple):
    """What a network ends in.

    Attributes:
        kind: "softmax" or "sigmoid".
        activations: list of Activation, one, or one for each head that is joined in the outputs.
        shapes: list of tuples, of what each made of the outputs, without the batch.
    """

    kind: str
    activations: list
    shapes: list

    @property
    def logits(self):
        """What the activations were made of, in the outputs' shape (N, ..., C)."""
        parts = [
            activation.input
            if tuple(activation.input.shape[1:]) == shape
            else ops.reshape(activation.input, (-1, *shape))
            for activation, shape in zip(self.activations, self.shapes, strict=True)
        ]
        return parts[0] if len(parts) == 1 else ops.concatenate(parts, axis=-1)


class Record:
    """What was seen while a network ran.

    A layer is named by its path: the names of the networks it is nested in and its own, joined by slashes. A ReLU that
    is called as a function, in a layer's or a network's own code, is named relu below that.

    Attributes:
        runs: list of Run, in the order in which they ended, without what happens inside attention. A run's input is
            the very tensor that another run made, before the layer cast it to its own precision.
        relus: list of (path, kind), one for each ReLU that ran.
        guided: set of indices into relus, of those through which a guided gradient was taken.
        activations: list of Activation.
    """

    def __init__(self):
        self.runs, self.relus, self.guided, self.activations = [], [], set(), []
        self.running = []  # networks and layers, outermost first
        self.casts = {}  # id of a tensor that a layer cast its input to: (it, so that the id stays its own; the input)

    @property
    def path(self):
        """Of the layer that is running; the outermost network has none."""
        return "/".join(layer.name for layer in self.running[1:])

    def uncast(self, tensor):
        """What a layer that computes in another precision was given, of the tensor that it cast it to; or itself."""
        if isinstance(tensor, (list, tuple)):
            return [self.uncast(part) for part in tensor]
        return self.casts.get(id(tensor), (tensor, tensor))[1]

    def ending_of(self, outputs):
        """The Ending that made `outputs`, shape, precision and joining aside, or None.

        Raises:
            UserError: the outputs join heads that end in different ways.
        """
        shape = tuple(outputs.shape[1:])
        while True:
            for activation in self.activations:
                if activation.output is outputs and activation.kind in ("softmax", "sigmoid"):
                    return Ending(activation.kind, [activation], [shape])
            made_by = [run for run in self.runs if run.output is outputs]
            joined = next((run for run in made_by if is_joining(run)), None)
            if joined:
                return self.joined_ending(joined)
            before = [run.input for run in made_by if passes_on(run.layer)]
            if not before or before[-1] is outputs:
                return None
            outputs = before[-1]

    def maker_of(self, tensor, kind):
        """The Run of a layer of that kind that made a tensor, shape and precision aside, or None."""
        while True:
            tensor = self.uncast(tensor)
            runs = [run for run in self.runs if run.output is tensor]
            for run in runs:
                if isinstance(run.layer, kind):
                    return run
            before = [run.input for run in runs if passes_on(run.layer)]
            if not before or before[-1] is tensor:
                return None
            tensor = before[-1]

    def joined_ending(self, run):
        """The Ending of outputs that join several."""
        endings = [self.ending_of(part) for part in run.input]
        kinds = {ending.kind if ending else "neither" for ending in endings}
        if kinds == {"neither"}:
            return None
        if kinds != {"sigmoid"}:
            raise UserError(
                f"the network joins {len(endings)} heads in {run.path!r} that end in {' and '.join(sorted(kinds))}; "
                "expected heads of sigmoids alone, or one of them, cut out with keras.Model(network.input, head)"
            )
        activations = [activation for ending in endings for activation in ending.activations]
        return Ending("sigmoid", activations, [shape for ending in endings for shape in ending.shapes])

    def behind_weights(self, activation):
        """Whether nothing that has weights of its own ran after an activation, so that the outputs are made from it."""
        owners = [
            (index, run.path)
            for index, run in enumerate(self.runs)
            if getattr(run.layer, "weights", None)
            and not any(inner.weights for inner in run.layer._flatten_layers(include_self=False))
        ]
        if not owners:
            return True
        last, path = owners[-1]
        inside = activation.path == path or activation.path.startswith(f"{path}/")
        return activation.order > last or (activation.order == last and inside)


def is_joining(run):
    """Whether a run joins several outputs along their last axis."""
    if type(run.layer).__name__ != "Concatenate" or not isinstance(run.input, (list, tuple)):
        return False
    return run.layer.axis in (-1, len(run.output.shape) - 1)


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
    convert_input = keras.DTypePolicy.convert_input

    def ended(path, layer, before, output):
        if not path or any(isinstance(outer, ATTENTION) for outer in record.running[:-1]):
            return output
        output = tap(path, output) if tap else output
        record.runs.append(Run(path, layer, record.uncast(before), output))
        return output

    def convert(policy, x, *arguments):
        converted = convert_input(policy, x, *arguments)
        if converted is not x:
            record.casts[id(converted)] = converted, x
        return converted

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
            record.activations.append(Activation(record.path, kind, output, x, len(record.runs)))
            return output

        return run

    nn = keras_backend.nn
    of_backend = relus_of_backend(relu) | activations_of_backend(other)
    exchanges = of_backend | {(nn, name): other(name, getattr(nn, name)) for name in (*SOFTMAXES, *OTHER_ACTIVATIONS)}
    exchanges |= {(keras_backend.numpy, "tanh"): other("tanh", keras_backend.numpy.tanh)}
    originals = {(owner, name): vars(owner)[name] for owner, name in exchanges}
    exchanges |= {
        (keras.Operation, "__call__"): run_layer,
        (keras.DTypePolicy, "convert_input"): convert,
        (ReLU, "static_call"): staticmethod(relu),
        (keras.layers.PReLU, "call"): lambda layer, inputs: relu(inputs, negative_slope=layer.alpha),
    }
    with _exchanging, exchanged(exchanges), inlined_functions():
        yield record
