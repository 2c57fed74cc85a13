"""Trace a network while Keras runs it: each layer's output, each ReLU, and the logits in front of its last activation.

Nothing here depends on how a network was built. Sequential, functional, subclassed and nested networks all run their
layers through `keras.Operation.__call__` and their activations through a few functions of Keras and its backend. Those
are exchanged for others that take notes, for as long as a network is traced. The network itself is not changed.
"""

import contextlib
from typing import NamedTuple

import keras
from keras import layers, ops
from keras.src import backend as keras_backend
from keras.src.activations.activations import ReLU

from camlib.attribution.guided import EXCHANGE_LOCK, KNOWN_ACTIVATION, rectify
from camlib.attribution.private_keras import check_private_names
from camlib.backend import (
    activations_of_backend,
    differentiate,
    exchanged,
    inlined_functions,
    named,
    relus_of_backend,
    widened,
)
from camlib.console import UserError

check_private_names()

# Keras's other activations
OTHER_ACTIVATIONS = (
    "celu elu gelu glu hard_shrink hard_sigmoid hard_silu hard_tanh log_sigmoid selu sigmoid silu soft_shrink softplus "
    "softsign sparse_plus sparse_sigmoid squareplus tanh tanh_shrink threshold"
).split()
# No activations: they mix their inputs, and end networks or weigh attention
SOFTMAXES = ("softmax", "log_softmax")
# Layers whose inner outputs are no pictures although they have four dimensions
ATTENTION = (layers.MultiHeadAttention, layers.GroupQueryAttention, layers.Attention, layers.AdditiveAttention)
FLOAT16_SCALE = 4096.0  # of gradients, which float16 holds down to 6e-8 only

# ---------------------------------------------------------------- what is seen


class LayerCall(NamedTuple):
    """One call of a layer, or of a ReLU as a function: then `layer` is None."""

    path: str
    layer: layers.Layer | None
    input: object
    output: object


class ActivationCall(NamedTuple):
    """One call of an activation other than a ReLU, softmax among them; `order` counts the layer calls before it."""

    path: str
    kind: str
    output: object
    input: object
    order: int


class OutputActivation(NamedTuple):
    """The activation that a network ends in.

    Attributes:
        kind: "softmax" or "sigmoid".
        activations: list of ActivationCall, one, or one for each head that is joined in the outputs.
        shapes: list of tuples, of what each made of the outputs, without the batch.
    """

    kind: str
    activations: list
    shapes: list

    @property
    def logits(self):
        """What the activations were applied to, in the outputs' shape (N, ..., C)."""
        parts = [
            activation.input
            if tuple(activation.input.shape[1:]) == shape
            else ops.reshape(activation.input, (-1, *shape))
            for activation, shape in zip(self.activations, self.shapes, strict=True)
        ]
        return parts[0] if len(parts) == 1 else ops.concatenate(parts, axis=-1)


class Trace:
    """What was seen while a network ran.

    A layer is named by its path: the names of the networks it is nested in and its own, joined by slashes. A ReLU that
    is called as a function, in a layer's or a network's own code, is named relu below that.

    Attributes:
        calls: list of LayerCall, in the order in which they ended. Calls inside attention are left out. A call's input
            is the very tensor that another call made, before the layer cast it to its own precision.
        relus: list of (path, kind), one for each ReLU that ran.
        guided: set of indices into relus, of those through which a guided gradient was taken.
        activations: list of ActivationCall.
    """

    def __init__(self):
        self.calls, self.relus, self.guided, self.activations = [], [], set(), []
        self.running = []  # networks and layers, outermost first
        self.casts = {}  # id of a tensor that a layer cast its input to: (it, so that the id stays its own; the input)

    @property
    def path(self):
        """Of the layer that is running; the outermost network has none."""
        return "/".join(layer.name for layer in self.running[1:])

    def uncast(self, tensor):
        """The tensor that a layer cast to its own precision, for the one that it cast it to; or the tensor itself."""
        if isinstance(tensor, (list, tuple)):
            return [self.uncast(part) for part in tensor]
        return self.casts.get(id(tensor), (tensor, tensor))[1]

    def output_activation(self, outputs):
        """The OutputActivation that made `outputs`, or None. Reshaping, casting and joining may lie between.

        Raises:
            UserError: the outputs join heads that end in different ways.
        """
        shape = tuple(outputs.shape[1:])
        while True:
            for activation in self.activations:
                if activation.output is outputs and activation.kind in ("softmax", "sigmoid"):
                    return OutputActivation(activation.kind, [activation], [shape])
            made_by = [call for call in self.calls if call.output is outputs]
            joining = next((call for call in made_by if joins(call)), None)
            if joining:
                return self.joined_activation(joining)
            before = [call.input for call in made_by if passes_on(call.layer)]
            if not before or before[-1] is outputs:
                return None
            outputs = before[-1]

    def maker_of(self, tensor, kind):
        """The LayerCall of a layer of that kind that made a tensor, or None. Reshaping and casting may lie between."""
        while True:
            tensor = self.uncast(tensor)
            calls = [call for call in self.calls if call.output is tensor]
            for call in calls:
                if isinstance(call.layer, kind):
                    return call
            before = [call.input for call in calls if passes_on(call.layer)]
            if not before or before[-1] is tensor:
                return None
            tensor = before[-1]

    def joined_activation(self, call):
        """The OutputActivation of outputs that join several."""
        found = [self.output_activation(part) for part in call.input]
        kinds = {one.kind if one else "neither" for one in found}
        if kinds == {"neither"}:
            return None
        if kinds != {"sigmoid"}:
            raise UserError(
                f"the network joins {len(found)} heads in {call.path!r} that end in {' and '.join(sorted(kinds))}; "
                "expected heads of sigmoids alone, or one of them, cut out with keras.Model(network.input, head)"
            )
        activations = [activation for one in found for activation in one.activations]
        return OutputActivation("sigmoid", activations, [shape for one in found for shape in one.shapes])

    def behind_weights(self, activation):
        """Whether nothing that has weights of its own ran after an activation, so that the outputs are made from it."""
        owners = [
            (index, call.path)
            for index, call in enumerate(self.calls)
            if getattr(call.layer, "weights", None)
            and not any(inner.weights for inner in call.layer._flatten_layers(include_self=False))
        ]
        if not owners:
            return True
        last, path = owners[-1]
        inside = activation.path == path or activation.path.startswith(f"{path}/")
        return activation.order > last or (activation.order == last and inside)


def joins(call):
    """Whether a call joins several outputs along their last axis."""
    if type(call.layer).__name__ != "Concatenate" or not isinstance(call.input, (list, tuple)):
        return False
    return call.layer.axis in (-1, len(call.output.shape) - 1)


def passes_on(layer):
    """Whether a layer's output holds its input's numbers, in another shape or precision at most."""
    if isinstance(layer, layers.Activation):
        return layer.activation is keras.activations.linear
    return isinstance(layer, (layers.Flatten, layers.Reshape, layers.Identity, layers.Dropout))


@contextlib.contextmanager
def trace_calls(tap=None):
    """Trace the networks that run in this context.

    Args:
        tap: function of (path, output) -> output, called with each output; what it returns takes its place.

    Yields:
        Trace.
    """
    trace = Trace()
    run_operation = keras.Operation.__call__
    convert_input = keras.DTypePolicy.convert_input

    def ended(path, layer, before, output):
        if not path or any(isinstance(outer, ATTENTION) for outer in trace.running[:-1]):
            return output
        output = tap(path, output) if tap else output
        trace.calls.append(LayerCall(path, layer, trace.uncast(before), output))
        return output

    def convert(policy, x, *arguments):
        converted = convert_input(policy, x, *arguments)
        if converted is not x:
            trace.casts[id(converted)] = converted, x
        return converted

    def run_layer(layer, *arguments, **keywords):
        trace.running.append(layer)
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
            if trace.calls and trace.calls[-1].layer is None and trace.calls[-1].output is output:
                trace.calls.pop()  # the ReLU at a layer's end goes by the layer's name
            return ended(trace.path, layer, arguments[0] if arguments else None, output)
        finally:
            trace.running.pop()

    def relu(x, negative_slope=0.0, max_value=None, threshold=0.0):
        kind = "ReLU" if isinstance(negative_slope, (int, float)) and negative_slope == 0 else "leaky ReLU"
        index = len(trace.relus)
        trace.relus.append((trace.path, kind if max_value is None else f"{kind} up to {max_value:g}"))
        y = rectify(x, negative_slope, max_value, threshold, lambda: trace.guided.add(index))
        return ended(f"{trace.path}/relu".lstrip("/"), None, x, y)

    def other(kind, function):
        def run(x, *arguments, **keywords):
            # a hard sigmoid is made of a ReLU6, which is not to be guided
            with exchanged(originals), named(KNOWN_ACTIVATION):
                output = function(x, *arguments, **keywords)
            trace.activations.append(ActivationCall(trace.path, kind, output, x, len(trace.calls)))
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
    with EXCHANGE_LOCK, exchanged(exchanges), inlined_functions():
        yield trace


# ---------------------------------------------------------------- one forward pass, and its gradients


def tapped_run(network, structure, layers):
    """The function (images, tap) -> (logits, outputs) of a network.

    `tap(layer, features)` is handed what the last call of each of the layers puts out, and returns what to go on with.
    """

    def run(images, tap):
        calls_left = {layer: structure.calls[layer] for layer in layers}

        def tap_last_call(path, output):
            if path in calls_left:
                calls_left[path] -= 1
                return output if calls_left[path] else tap(path, output)
            return output

        with trace_calls(tap_last_call) as trace:
            outputs = structure.signature.run(network, images)
        return structure.scores(trace, outputs)

    return run


class ForwardPass:
    """What one forward pass shows, and the gradients that can be had of it. All is float32, or float64 as the network.

    Attributes:
        logits: float32 (N, C).
        outputs: float32 (N, C), the network's own.
        features: dict of layer's path -> float32 (N, h, w, K).

    Args:
        run: as `tapped_run` makes it.
        structure: Structure of the network.
        images: float32 (N, H, W, channels).
    """

    def __init__(self, run, structure, images):
        self.structure = structure
        logits, outputs, features, self.pull_to_features, self.pull_to_images = differentiate(run, images)
        self.logits, self.outputs = widened(logits), widened(outputs)
        self.features = self.pictures(features)
        self.dtype = keras.backend.standardize_dtype(logits.dtype)
        # in float16 small gradients would vanish; they are linear in u, so that it may be large
        self.scale = FLOAT16_SCALE if self.dtype == "float16" else 1.0

    def gradients_at_features(self, u):
        """u^T dlogits/dA for u float32 (N, C): dict of layer's path -> float32 (N, h, w, K)."""
        found = self.pull_to_features(ops.cast(u * self.scale, self.dtype))
        return {layer: values / self.scale for layer, values in self.pictures(found).items()}

    def gradients_at_images(self, u):
        """u^T dlogits/dimages for u float32 (N, C): float32 (N, H, W, channels)."""
        return widened(self.pull_to_images(ops.cast(u * self.scale, self.dtype))) / self.scale

    def pictures(self, found):
        """What layers put out, or gradients like it, as (N, h, w, K)."""
        return {layer: self.structure.as_picture(layer, widened(values)) for layer, values in found.items()}
