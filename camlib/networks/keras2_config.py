"""Configurations as earlier versions of Keras wrote them, brought up to date as data before Keras sees them.

A configuration is the JSON that describes a network: an entry names a class and holds its arguments; a network's entry
holds those of its layers, and each of them where its inputs come from, its nodes. A repair is a function of one entry;
REPAIRS lists them with the versions that wrote what they mend. What can have an effect on the numbers is translated or
refused by name, never left out.
"""

import inspect

import keras
from keras import layers
from keras.src.ops import core, image, nn, numpy

from camlib.networks.keras2_operations import Refused, operation_of_tensorflow


def up_to_date(config):
    """A network's configuration in the form of Keras 3, whichever version wrote it.

    Args:
        config: dict, as in a file; it is not changed.

    Raises:
        Refused: something in it has no counterpart in Keras 3; the message says what.
    """
    return repaired(without_training_entries(config))


def repaired(value):
    """Repair an entry and all entries in it, the inner ones first."""
    if isinstance(value, list):
        return [repaired(one) for one in value]
    if not isinstance(value, dict):
        return value
    value = {key: repaired(one) for key, one in value.items()}
    for repair in REPAIRS:
        if isinstance(value, dict) and is_entry(value):
            value = repair(value)
    return value


def is_entry(value):
    """Whether a dict is the entry of a layer, a network or a function; tensors and slices are written alike."""
    return isinstance(value.get("class_name"), str) and "config" in value and not value["class_name"].startswith("__")


def arguments_of(entry):
    return entry["config"] if isinstance(entry.get("config"), dict) else {}


def entry_in_words(entry):
    """A layer for a message."""
    return f"{str(arguments_of(entry).get('name'))[:40]!r} ({entry['class_name'][:30]})"


def without_training_entries(entry):
    """A configuration without initializers, regularizers, constraints and what `compile` was told.

    They matter to training only, and those of TensorFlow 2.0 are what current Keras cannot read.
    """
    if isinstance(entry, dict):
        endings = ("_initializer", "_regularizer", "_constraint", "compile_config")
        return {key: without_training_entries(value) for key, value in entry.items() if not key.endswith(endings)}
    return [without_training_entries(value) for value in entry] if isinstance(entry, list) else entry


# ---------------------------------------------------------------- classes and functions

NETWORKS = {"Functional": "keras.src.models.functional", "Model": "keras.src.models.functional", "Sequential": "keras"}
# Keras's own layers that it does not export
OF_APPLICATIONS = {
    "LayerScale": "keras.src.applications.convnext",
    "StochasticDepth": "keras.src.applications.convnext",
}
KERAS_PACKAGES = {"keras", "tf_keras", "tensorflow"}  # where Keras has lived
RENAMED = {
    "Model": "Functional",
    "BatchNormalizationV1": "BatchNormalization",
    "BatchNormalizationV2": "BatchNormalization",
    "SyncBatchNormalization": "BatchNormalization",  # synchronised in training only
    "ThresholdedReLU": "ReLU",
    "RandomHeight": "Identity",  # random in training only
    "RandomWidth": "Identity",
}
OF_IDENTITY = {"name", "trainable", "dtype", "batch_input_shape"}
RENAMED_ARGUMENTS = {"ThresholdedReLU": {"theta": "threshold"}, "LeakyReLU": {"alpha": "negative_slope"}}
KERAS_1_ARGUMENTS = {"nb_filter", "nb_row", "border_mode", "dim_ordering", "subsample", "init", "output_dim"}


def refuse_keras_1(entry):
    """Keras 1 named layers and arguments otherwise, and laid kernels out otherwise."""
    if len(KERAS_1_ARGUMENTS & set(arguments_of(entry))) > 1:
        raise Refused(
            f"its layer {entry_in_words(entry)} is of Keras 1; expected a file of Keras 2 or 3. Keras 2.2 "
            "(pip install keras==2.2.4) loads and saves it"
        )
    return entry


def layers_in_dict(entry):
    """A Sequential's configuration was the list of its layers."""
    if isinstance(entry["config"], list):
        entry["config"] = {"name": entry.get("name", "sequential"), "layers": entry["config"]}
    return entry


def class_by_name(entry):
    """Classes have been renamed, and were named without or with the module that then held them.

    Keras 3 writes operations such as `x / 127.5` to .h5 by their bare names, which layers have as well; an operation
    has neither a dtype nor does it say whether it is trained.
    """
    arguments, module, kind = arguments_of(entry), entry.get("module"), entry["class_name"]
    own = (module or "keras").split(".")[0] in KERAS_PACKAGES and ">" not in (entry.get("registered_name") or "")
    if not own or (module or "").startswith("keras.src.ops"):
        return entry  # somebody's, whatever its name, or an operation of Keras 3
    names = RENAMED_ARGUMENTS.get(kind, {})
    kind = RENAMED.get(kind, kind)
    room = next((room for room in (numpy, nn, image, core) if is_operation(vars(room).get(kind))), None)
    if module is None and room and not {"dtype", "trainable", "layers"} & set(arguments):
        place = room.__name__
    else:
        place = NETWORKS.get(kind) or OF_APPLICATIONS.get(kind) or ("keras.layers" if hasattr(layers, kind) else None)
    if place:
        kept = OF_IDENTITY if kind == "Identity" else set(arguments)
        entry |= {"module": place, "class_name": kind, "registered_name": None}
        entry["config"] = {names.get(name, name): value for name, value in arguments.items() if name in kept}
    return entry


def is_operation(kind):
    return isinstance(kind, type) and issubclass(kind, keras.Operation)


def policy_by_name(entry):
    """A dtype was a policy, written as an entry."""
    return entry["config"]["name"] if entry["class_name"] in ("Policy", "PolicyV1") else entry


# Functions of TensorFlow and Keras that are called activations; keras.ops.gelu is another than Keras's activation
ACTIVATIONS = {
    "elu", "exponential", "gelu", "leaky_relu", "linear", "log_softmax", "mish", "relu", "relu6", "selu", "sigmoid",
    "silu", "softmax", "softplus", "softsign", "swish", "tanh",
}  # fmt: skip


def activation_by_name(entry):
    """An activation was a function, tf.nn.relu or keras.ops.relu, written as an entry; Keras finds them by name."""
    module, name = entry.get("module") or "builtins", entry["config"]
    known = entry["class_name"] == "function" and isinstance(name, str) and name in ACTIVATIONS
    own = module.split(".")[0] in ("builtins", "tensorflow") or module in ("keras.activations", "keras.ops")
    return name if known and own and (module, name) != ("keras.ops", "gelu") else entry


# ---------------------------------------------------------------- arguments

# Arguments that Keras 3 has no more: they make no difference to what a trained network computes, or not with this value
OF_NO_EFFECT = {
    "unroll", "rng_type", "value_range", "noise_shape", "fused", "query_shape", "key_shape", "value_shape", "dynamic",
    "input_dtype", "trainable",
}  # fmt: skip
NEUTRAL = {
    "groups": 1, "time_major": False, "virtual_batch_size": None, "adjustment": None, "softmax_robust_masking": False,
}  # fmt: skip


def without_leftovers(entry):
    """Arguments that a layer takes no more are left out where their value makes no difference.

    Raises:
        Refused: it makes one.
    """
    if entry.get("module") != "keras.layers" or not hasattr(layers, entry["class_name"]):
        return entry
    parameters = inspect.signature(getattr(layers, entry["class_name"]).__init__).parameters
    of_all_layers = {"trainable"} if any(one.kind is one.VAR_KEYWORD for one in parameters.values()) else set()
    for name in (OF_NO_EFFECT | set(NEUTRAL)) & set(entry["config"]) - set(parameters) - of_all_layers:
        value = entry["config"].pop(name)
        if name in NEUTRAL and value != NEUTRAL[name]:
            raise Refused(
                f"its layer {entry_in_words(entry)} has {name}={str(value)[:40]}, which Keras 3 cannot compute; "
                f"expected {NEUTRAL[name]}"
            )
    return entry


def axis_as_number(entry):
    """An axis was a list of one, as of BatchNormalization."""
    axis = arguments_of(entry).get("axis")
    if isinstance(axis, list) and len(axis) == 1 and entry.get("module") == "keras.layers":
        entry["config"]["axis"] = axis[0]
    return entry


def input_shape_apart(entry):
    """Any layer could say the network's input shape; it stays in the entry for `with_input_layer`."""
    shape = arguments_of(entry).pop("batch_input_shape", None)
    if shape and entry["class_name"] == "InputLayer":
        entry["config"]["batch_shape"] = shape
    elif shape:
        entry["batch_input_shape"] = shape
    return entry


# ---------------------------------------------------------------- graphs

TENSOR, CONSTANT = "__keras_tensor__", "_CONSTANT_VALUE"


def is_reference(value):
    """Whether a list names an output of a layer: name, number of the call, number of the output, keywords or not."""
    return isinstance(value, list) and len(value) in (3, 4) and isinstance(value[0], str) and isinstance(value[1], int)


def nodes_in_dicts(entry):
    """The inputs of a layer's call were lists of names, the keywords beside each of them.

    Keras builds a layer by its calls; the shapes that it was built for are written otherwise now.

    Raises:
        Refused: calls in calls, each of which would be looked through once for every one around it.
    """
    nodes = entry.get("inbound_nodes") or []
    if any(isinstance(part, dict) and "inbound_nodes" in part for part in parts_of(nodes)):
        raise Refused(f"its layer {entry_in_words(entry)} is called on a layer's description; expected its output")
    if any("args" not in node for node in nodes):
        entry["inbound_nodes"] = [node_in_dict(node) for node in nodes]
        entry.pop("build_config", None)
    return entry


def node_in_dict(node):
    keywords = next((reference[3] for reference in references_in(node) if len(reference) == 4), {})
    tensors = with_tensors(node)
    single = isinstance(tensors, list) and len(tensors) == 1
    return {"args": [tensors[0] if single else tensors], "kwargs": with_tensors(keywords)}


def parts_of(value):
    """A value and all lists, dicts and plain values in it, the outer ones first."""
    pending = [value]
    while pending:
        value = pending.pop()
        yield value
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        pending += reversed(inner)


def references_in(value):
    """The lists, in nodes of Keras 2 and where a network begins and ends, that name an output of a layer."""
    return filter(is_reference, parts_of(value))


def tensors_in(value):
    """The lists (name, number of the call, number of the output) of the tensors in nodes of Keras 3."""
    tensors = (part for part in parts_of(value) if isinstance(part, dict) and part.get("class_name") == TENSOR)
    return (tensor["config"]["keras_history"] for tensor in tensors)


def with_tensors(value):
    """The references in a node of Keras 2 as tensors of Keras 3, which may be anywhere in its arguments."""
    if is_reference(value):
        name, node, index = value[:3]
        if name == CONSTANT:
            return index
        config = {"shape": [None], "dtype": "float32", "keras_history": [name, node, index]}
        return {"class_name": TENSOR, "config": config}
    if isinstance(value, dict):
        return {key: with_tensors(part) for key, part in value.items()}
    return [with_tensors(part) for part in value] if isinstance(value, list) else value


def nodes_of(network):
    return [layer.get("inbound_nodes") for layer in network["config"].get("layers", [])]


def output_references(network):
    return [network["config"].get(name) for name in ("input_layers", "output_layers")]


def names_without_slashes(entry):
    """Names may hold no slash any more, as those of DenseNet's and MobileNetV3's layers did."""
    for named in (entry, arguments_of(entry)):
        if isinstance(named.get("name"), str):
            named["name"] = named["name"].replace("/", "_")
    if entry["class_name"] == "Functional":
        for reference in (*tensors_in(nodes_of(entry)), *references_in(output_references(entry))):
            reference[0] = reference[0].replace("/", "_")
    return entry


def by_layer(references):
    """References as a dict of the layer's name -> list of them."""
    found = {}
    for reference in references:
        found.setdefault(reference[0], []).append(reference)
    return found


def calls_from_zero(entry):
    """The calls of a network in another were counted from one, since its own graph was the call of number zero.

    Only where a network ends in a functional one does Keras 3 go on counting from one.
    """
    if entry["class_name"] != "Functional":
        return entry
    uses, ends = by_layer(tensors_in(nodes_of(entry))), by_layer(references_in(output_references(entry)))
    for name, inner in {layer.get("name"): layer for layer in entry["config"].get("layers", [])}.items():
        if inner["class_name"] in NETWORKS and "inbound_nodes" in inner:
            inside, at_the_end = uses.get(name, []), ends.get(name, [])
            last = max((one[1] for one in inside + at_the_end), default=0)
            if last >= len(inner["inbound_nodes"]) and all(one[1] for one in inside):
                for one in inside + (at_the_end if inner["class_name"] == "Sequential" else []):
                    one[1] -= 1
    return entry


def single_ends(entry):
    """The one input or output of a network was in a list; Keras 3 would make it a list of one tensor."""
    for name in ("input_layers", "output_layers"):
        ends = arguments_of(entry).get(name)
        if isinstance(ends, list) and len(ends) == 1 and is_reference(ends[0]):
            entry["config"][name] = ends[0][:3]
    return entry


def with_input_layer(entry):
    """A Sequential began with its first layer, which said the shape of the input or was a network that has one."""
    stack = arguments_of(entry).get("layers")
    if entry["class_name"] == "Sequential" and stack and stack[0]["class_name"] != "InputLayer":
        inner = list(network_inputs(stack[0]).values())
        shape = stack[0].get("batch_input_shape") or entry["config"].get("build_input_shape")
        shape = shape or (inner[0] if len(inner) == 1 else None)
        if shape:
            name = f"{arguments_of(stack[0]).get('name', 'image')}_input"
            config = {"batch_shape": shape, "name": name}
            image = {"module": "keras.layers", "class_name": "InputLayer", "registered_name": None, "config": config}
            stack.insert(0, image)
    return entry


def network_inputs(entry):
    """The inputs of a network: dict of name -> shape (N, ...), as a list; empty where the configuration does not say.

    Args:
        entry: dict, of a network in the form of Keras 3.
    """
    stack = arguments_of(entry).get("layers")
    if not stack:
        return {}
    if entry["class_name"] == "Sequential":
        if stack[0]["class_name"] != "InputLayer":
            return network_inputs(stack[0])
        return {stack[0]["config"]["name"]: stack[0]["config"].get("batch_shape")}
    if entry["class_name"] != "Functional":
        return {}
    shapes = {layer["name"]: arguments_of(layer).get("batch_shape") for layer in stack}
    return {one[0]: shapes.get(one[0]) for one in references_in(entry["config"]["input_layers"])}


# ---------------------------------------------------------------- the table


# What mends what the versions beside it wrote, of Keras, or of TensorFlow with its own
REPAIRS = (
    policy_by_name,  # 2.4 to 2.15
    activation_by_name,  # 2.12 to 2.15, and 3
    refuse_keras_1,  # before 2.0
    layers_in_dict,  # before 2.2.3
    nodes_in_dicts,  # before 3.0
    operation_of_tensorflow,  # TensorFlow 2.1 to 2.15
    class_by_name,  # before 3.0, and .h5 of 3
    input_shape_apart,  # before 3.0
    axis_as_number,  # TensorFlow 1.13 to 2.15
    without_leftovers,  # before 3.0
    names_without_slashes,  # before 3.0
    calls_from_zero,  # before 3.0
    single_ends,  # before 3.0
    with_input_layer,  # before 3.0
)
