"""Trace a network while Keras runs it: each layer's output, each ReLU, and the logits in front of its last activation.

Nothing here depends on how a network was built. Sequential, functional, subclassed and nested networks all run their
layers through `keras.Operation.__call__` and their activations through a few functions of Keras and its backend. Those
are exchanged for others that take notes, for as long as a network is traced. The network itself is not changed.
"""

import contextlib
import importlib
from typing import NamedTuple

import keras
from keras import layers, ops
from keras.src import backend as keras_backend
from keras.src.activations.activations import ReLU

from camlib.attribution.guided import EXCHANGE_LOCK, KNOWN_ACTIVATION, rectify
from camlib.backend import (
    CannotStart,
    activations_of_backend,
    differentiate,
    exchanged,
    inlined_functions,
    named,
    relus_of_backend,
    widened,
)
from camlib.console import UserError

# ---------------------------------------------------------------- names that Keras does not promise to keep

# Keras's activations other than ReLUs
OTHER_ACTIVATIONS = (
    "celu elu gelu glu hard_shrink hard_sigmoid hard_silu hard_tanh log_sigmoid selu sigmoid silu soft_shrink softplus "
    "softsign sparse_plus sparse_sigmoid squareplus tanh tanh_shrink threshold"
).split()
# No activations: they mix their inputs, and end networks or weigh attention
SOFTMAXES = ("softmax", "log_softmax")
# Module -> names in it, with dots for what is in what; a layer's instance is marked with ().
PRIVATE = {
    "keras": (
        "Operation.__call__",  # exchanged while a network is traced
        "Layer._flatten_layers", "Variable._deferred_initialize", "layers.PReLU.call",
        "layers.ReLU()._inbound_nodes", "layers.ReLU()._trainable_variables", "layers.ReLU()._non_trainable_variables",
    ),
    "keras.src.activations.activations": ("ReLU.static_call",),
    "keras.src.backend": (
        "numpy.tanh",
        *(f"nn.{name}" for name in (*SOFTMAXES, *OTHER_ACTIVATIONS)),
    ),
    "keras.src.backend.common": ("global_state.get_global_attribute", "global_state.set_global_attribute"),
    "keras.src.backend.config": ("keras_home",),
    "keras.src.layers.preprocessing.data_layer": ("DataLayer",),
    "keras.src.legacy.saving.legacy_h5_format": ("load_attributes_from_hdf5_group", "save_model_to_hdf5"),
    "keras.src.models.functional": ("Functional",),
    "keras.src.ops": ("core", "einops", "image", "linalg", "math", "nn", "numpy"),
    "keras.src.saving": ("saving_lib.H5IOStore", "saving_lib._save_state"),
    "keras.src.utils": ("file_utils.get_file",),
}  # fmt: skip


def check_private_names():
    """Refuse to go on with a Keras that lacks one of the names.

    Raises:
        CannotStart: the message names the first.
    """
    if missing := missing_names():
        raise CannotStart(
            f"Keras {keras.__version__} has no {missing[0]}, which is used here; expected one of the versions that "
            "pip install -r requirements.txt installs"
        )


def missing_names():
    """Those that this Keras does not have: list of str, empty of one that the tests have run on."""
    return [f"{module}.{name}" for module, names in PRIVATE.items() for name in names if not is_there(module, name)]


def is_there(module, name):
    """Whether there is such a name, without or with what it lies in."""
    try:
        found = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part.removesuffix("()"))
            found = found(name="looked_at") if part.endswith("()") else found  # a name that Keras need not count up
    except (ImportError, AttributeError):
        return False
    return True


check_private_names()

# Layers whose inner outputs are no pictures although they have four dimensions
ATTENTION = (layers.MultiHeadAttention, layers.GroupQueryAttention, layers.Attention, layers.AdditiveAttention)
FLOAT16_SCALE = 4096.0  # of gradients, which float16 holds down to 6e-8 only

# ---------------------------------------------------------------- what is seen


class LayerCall(NamedTuple):
    """One call of a layer, or of a ReLU as a function: then `layer` is None.

    The input is the first of its arguments, before the layer cast it to its own precision.
    """

    path: str
    layer: layers.Layer | None
    input: object
    output: object
    arguments: tuple = ()
    keywords: dict = {}


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
        inputs = [activation.input for activation in self.activations]
        parts = [ops.reshape(x, (-1, *shape)) for x, shape in zip(inputs, self.shapes, strict=True)]
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
        photo: tensor, what the network was called with, and sees_photo: function of a tensor -> bool, whether it was
            made from that; set by who calls the network.
    """

    photo, sees_photo = None, staticmethod(lambda tensor: True)

    def __init__(self, tap=None):
        self.tap = tap
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

    def passed_on(self, tensor):
        """A tensor, and those that it was made from by reshaping and casting alone, the last first."""
        while tensor is not None:
            tensor = self.uncast(tensor)
            yield tensor
            before = [call.input for call in self.calls if call.output is tensor and passes_on(call.layer)]
            tensor = next((one for one in before if one is not tensor), None)

    def maker_of(self, tensor, kind):
        """The LayerCall of a layer of that kind that made a tensor, or None. Reshaping and casting may lie between."""
        calls = (call for one in self.passed_on(tensor) for call in self.calls if call.output is one)
        return next((call for call in calls if isinstance(call.layer, kind)), None)

    def output_activation(self, outputs):
        """The OutputActivation that made `outputs`, or None. Reshaping, casting and joining may lie between.

        Raises:
            UserError: the outputs join heads that end in different ways.
        """
        for tensor in self.passed_on(outputs):
            for activation in self.activations:
                if activation.output is tensor and activation.kind in ("softmax", "sigmoid"):
                    return OutputActivation(activation.kind, [activation], [tuple(outputs.shape[1:])])
            for call in self.calls:
                if call.output is tensor and joins(call):
                    return self.joined_activation(call)
        return None

    def joined_activation(self, call):
        """The OutputActivation of outputs that join several."""
        found = [self.output_activation(part) for part in call.input]
        kinds = {one.kind if one else "no activation" for one in found}
        if kinds == {"no activation"}:
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
        return not any(
            has_own_weights(call.layer) and not f"{activation.path}/".startswith(f"{call.path}/")
            for call in self.calls[activation.order :]
        )

    def ended(self, path, layer, output, arguments, keywords=None):
        """Note a call of a layer, or of a ReLU; returns what to go on with in the place of its output."""
        if not path or any(isinstance(outer, ATTENTION) for outer in self.running[:-1]):
            return output
        output = self.tap(path, output) if self.tap else output
        before = self.uncast(arguments[0]) if arguments else None
        self.calls.append(LayerCall(path, layer, before, output, arguments, keywords or {}))
        return output

    def relu(self, x, negative_slope=0.0, max_value=None, threshold=0.0):
        """Run and note a ReLU."""
        kind = "ReLU" if isinstance(negative_slope, (int, float)) and negative_slope == 0 else "leaky ReLU"
        path, index = self.path, len(self.relus)
        self.relus.append((path, kind if max_value is None else f"{kind} up to {max_value:g}"))
        y = rectify(x, negative_slope, max_value, threshold, lambda: self.guided.add(index))
        return self.ended(f"{path}/relu".lstrip("/"), None, y, (x,))


def has_own_weights(layer):
    """Whether a layer has weights, and none that has any lies in it."""
    if not getattr(layer, "weights", None):
        return False
    return not any(inner.weights for inner in layer._flatten_layers(include_self=False))


def is_of_graph(operation, running):
    """Whether an operation has its place and name in a functional network that runs.

    One in a layer's own code is made when that is called, under a new name each time: pad_2, pad_3 ...
    """
    return bool(running) and any(operation is one for one in getattr(running[-1], "operations", ()))


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
    trace = Trace(tap)
    with EXCHANGE_LOCK, exchanged(stand_ins(trace)), inlined_functions():
        yield trace


def stand_ins(trace):
    """What takes notes in the place of what Keras and the backend offer: dict of (owner, name) -> function."""
    run_operation, convert_input = keras.Operation.__call__, keras.DTypePolicy.convert_input

    def convert(policy, x, *arguments):
        converted = convert_input(policy, x, *arguments)
        if converted is not x:
            trace.casts[id(converted)] = converted, x
        return converted

    def run_layer(layer, *arguments, **keywords):
        if not isinstance(layer, keras.Layer) and not is_of_graph(layer, trace.running):
            return run_operation(layer, *arguments, **keywords)
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
            return trace.ended(trace.path, layer, output, arguments, keywords)
        finally:
            trace.running.pop()

    def other(kind, function):
        def run(x, *arguments, **keywords):
            # a hard sigmoid is made of a ReLU6, which is not to be guided
            with exchanged(originals), named(KNOWN_ACTIVATION):
                output = function(x, *arguments, **keywords)
            trace.activations.append(ActivationCall(trace.path, kind, output, x, len(trace.calls)))
            return output

        return run

    nn, numpy = keras_backend.nn, keras_backend.numpy
    of_backend = relus_of_backend(trace.relu) | activations_of_backend(other)
    activations = {(nn, name): other(name, getattr(nn, name)) for name in (*SOFTMAXES, *OTHER_ACTIVATIONS)}
    activations |= of_backend | {(numpy, "tanh"): other("tanh", numpy.tanh)}
    originals = {(owner, name): vars(owner)[name] for owner, name in activations}
    return activations | {
        (keras.Operation, "__call__"): run_layer,
        (keras.DTypePolicy, "convert_input"): convert,
        (ReLU, "static_call"): staticmethod(trace.relu),
        (keras.layers.PReLU, "call"): lambda layer, inputs: trace.relu(inputs, negative_slope=layer.alpha),
    }


# ---------------------------------------------------------------- one forward pass, and its gradients


def tapped_run(network, structure, layers):
    """The function (images, tap) -> (logits, outputs) of a network.

    `tap(layer, features)` is handed what the mapped run of each of the layers puts out, and returns what to go on with.
    """

    def run(images, tap):
        calls_left = {layer: structure.runs[layer] for layer in layers}

        def tap_mapped_run(path, output):
            if path not in calls_left:
                return output
            calls_left[path] -= 1
            return output if calls_left[path] else tap(path, output)

        with trace_calls(tap_mapped_run) as trace:
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
