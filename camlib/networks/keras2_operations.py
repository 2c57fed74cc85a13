"""TensorFlow's operations in configurations of Keras 2, and the operations of Keras 3 that compute the same.

In Keras 2 `tf.nn.relu(x)` or `x / 127.5` became a layer, TFOpLambda, that names a function of TensorFlow. Nothing is
looked up by that name but a line of the table below.
"""

import re
from typing import NamedTuple


class Refused(Exception):
    """Something in a file is unsafe or unknown; the message says what, behind the file's name."""


BUILD_IT = "build it in Python and call explain of camlib"
# Of no effect: what TensorFlow calls an operation, an unchecked promise about shapes
WITHOUT_EFFECT = {"name", "validate_indices"}


class Counterpart(NamedTuple):
    """An operation of Keras 3.

    Attributes:
        module: str, below keras.src.ops.
        class_name: str.
        tensors: tuple of str, TensorFlow's names of the arguments that are tensors or constants, in Keras's order.
        options: dict of TensorFlow's name of an argument -> Keras's.
        defaults: dict of Keras's name -> value, TensorFlow's defaults where Keras has others.
        only: dict of TensorFlow's name -> values that Keras computes likewise without the argument.
    """

    module: str
    class_name: str
    tensors: tuple
    options: dict = {}
    defaults: dict = {}
    only: dict = {}


def over_axes(class_name):
    return Counterpart("numpy", class_name, ("input_tensor",), {"axis": "axis", "keepdims": "keepdims"})


# Functions of one tensor and of two, whose arguments are called x and y
OF_ONE = {
    "math.tanh": "Tanh", "math.negative": "Negative", "math.abs": "Absolute", "math.square": "Square",
    "math.sqrt": "Sqrt", "math.exp": "Exp", "math.log": "Log",
}  # fmt: skip
OF_TWO = {
    "math.add": "Add", "math.subtract": "Subtract", "math.multiply": "Multiply", "math.truediv": "TrueDivide",
    "math.divide": "TrueDivide", "math.maximum": "Maximum", "math.minimum": "Minimum", "math.pow": "Power",
}  # fmt: skip
OF_FEATURES = {
    "nn.relu": "Relu", "nn.relu6": "Relu6", "nn.elu": "Elu", "nn.selu": "Selu", "nn.softplus": "Softplus",
}  # fmt: skip
COUNTERPARTS = {
    **{name: Counterpart("numpy", kind, ("x",)) for name, kind in OF_ONE.items()},
    **{name: Counterpart("numpy", kind, ("x", "y")) for name, kind in OF_TWO.items()},
    **{name: Counterpart("nn", kind, ("features",)) for name, kind in OF_FEATURES.items()},
    "math.sigmoid": Counterpart("nn", "Sigmoid", ("x",)),
    "math.rsqrt": Counterpart("math", "Rsqrt", ("x",)),
    "nn.leaky_relu": Counterpart("nn", "LeakyRelu", ("features",), {"alpha": "negative_slope"}),
    "nn.silu": Counterpart("nn", "Silu", ("features",), only={"beta": (1, 1.0)}),
    "nn.gelu": Counterpart("nn", "Gelu", ("features",), {"approximate": "approximate"}, {"approximate": False}),
    "nn.softmax": Counterpart("nn", "Softmax", ("logits",), {"axis": "axis"}),
    "nn.log_softmax": Counterpart("nn", "LogSoftmax", ("logits",), {"axis": "axis"}),
    "nn.bias_add": Counterpart("numpy", "Add", ("value", "bias"), only={"data_format": (None, "NHWC", "N...C")}),
    "clip_by_value": Counterpart("numpy", "Clip", ("t",), {"clip_value_min": "x_min", "clip_value_max": "x_max"}),
    "linalg.matmul": Counterpart("numpy", "Matmul", ("a", "b")),
    # reductions
    "math.reduce_mean": over_axes("Mean"),
    "math.reduce_sum": over_axes("Sum"),
    "math.reduce_max": over_axes("Max"),
    "math.reduce_min": over_axes("Min"),
    # shapes
    "concat": Counterpart("numpy", "Concatenate", ("values",), {"axis": "axis"}),
    "reshape": Counterpart("numpy", "Reshape", ("tensor",), {"shape": "newshape"}),
    "transpose": Counterpart("numpy", "Transpose", ("a",), {"perm": "axes"}, only={"conjugate": (False,)}),
    "pad": Counterpart(
        "numpy", "Pad", ("tensor",), {"paddings": "pad_width"}, only={"mode": ("CONSTANT",), "constant_values": (0,)}
    ),
    "expand_dims": Counterpart("numpy", "ExpandDims", ("input",), {"axis": "axis"}),
    "squeeze": Counterpart("numpy", "Squeeze", ("input",), {"axis": "axis"}),
    "cast": Counterpart("core", "Cast", ("x",), {"dtype": "dtype"}),
    "stop_gradient": Counterpart("core", "StopGradient", ("input",)),
    "image.resize": Counterpart(
        "image",
        "Resize",
        ("images",),
        {"size": "size", "method": "interpolation", "antialias": "antialias"},
        only={"preserve_aspect_ratio": (False,)},
    ),
    "__operators__.getitem": Counterpart("numpy", "GetItem", ("input", "slice_spec")),
}
# Other names of the same functions; those that math has go also by tf.add, tf.nn.tanh and, as of x + y, operators
ALIASES = {
    "nn.swish": "nn.silu", "matmul": "linalg.matmul", "image.resize_images": "image.resize",
    "compat.v1.transpose": "transpose", "compat.v1.pad": "pad",
}  # fmt: skip
# The operations of a TensorFlow graph, which Keras 2.1 to 2.3 of TensorFlow kept instead of the functions
OF_GRAPH = {kind: name for name, kind in (OF_ONE | OF_TWO | OF_FEATURES).items()} | {
    "AddV2": "math.add", "Sub": "math.subtract", "Mul": "math.multiply", "RealDiv": "math.truediv", "Pow": "math.pow",
    "Neg": "math.negative", "Abs": "math.abs", "Rsqrt": "math.rsqrt", "Sigmoid": "math.sigmoid",
    "BiasAdd": "nn.bias_add",
}  # fmt: skip


def counterpart_of(function):
    """The Counterpart of a function of TensorFlow by one of its names, or None."""
    function = ALIASES.get(function, function)
    if function in COUNTERPARTS:
        return COUNTERPARTS[function]
    return COUNTERPARTS.get(f"math.{re.sub('^(nn|__operators__)[.]', '', str(function))}")


def operation_of_tensorflow(entry):
    """A layer that calls a function of TensorFlow as Keras 3's operation.

    Args:
        entry: dict, with nodes as Keras 3 writes them.

    Raises:
        Refused: no counterpart is known, of the function or of one of its arguments.
    """
    if entry["class_name"] == "TensorFlowOpLayer":
        entry = with_constants(entry)
    if entry["class_name"] not in ("TFOpLambda", "SlicingOpLambda"):
        return entry
    function = entry["config"].get("function")
    counterpart = counterpart_of(function)
    if counterpart is None:
        raise Refused(
            f"its layer {name_of(entry)} calls TensorFlow's {str(function)[:40]}, for which no operation of Keras 3 is "
            f"known here; {BUILD_IT}"
        )
    nodes = [translated(node, counterpart, function) for node in entry["inbound_nodes"]]
    if any(options != nodes[0][1] for _, options in nodes):
        raise Refused(f"its layer {name_of(entry)} is called in two ways; {BUILD_IT}")
    return {
        "module": f"keras.src.ops.{counterpart.module}",
        "class_name": counterpart.class_name,
        "registered_name": counterpart.class_name,
        "config": {"name": entry["name"], **nodes[0][1]},
        "name": entry["name"],
        "inbound_nodes": [{"args": arguments, "kwargs": {}} for arguments, _ in nodes],
    }


def name_of(entry):
    """A layer's name for a message."""
    return repr(str(entry["config"].get("name"))[:40])


def translated(node, counterpart, function):
    """The arguments of a call of TensorFlow's function, as (arguments of Keras's operation, its options)."""
    rest = {key: value for key, value in node["kwargs"].items() if key not in WITHOUT_EFFECT}
    others = counterpart.tensors[1:]
    tensors = [node["args"][0], *(rest.pop(name, None) for name in others)]
    if any(tensor is None for tensor in tensors):
        raise Refused(f"its call of TensorFlow's {function} lacks {' or '.join(others)}; {BUILD_IT}")
    options = dict(counterpart.defaults)
    for name, value in rest.items():
        allowed = counterpart.only.get(name, ())
        if name in counterpart.options and not has_entries(value):
            options |= {} if value is None else {counterpart.options[name]: value}
        elif not (value is None or value is False or value in allowed):
            raise Refused(f"its call of TensorFlow's {function} has {name}={str(value)[:60]}; {BUILD_IT}")
    if counterpart.class_name == "GetItem":
        return [tensors[0], [slice_of(part) for part in as_list(tensors[1])]], options
    return [constant(tensor) for tensor in tensors], options


def has_entries(value):
    """Whether a tensor, which has an entry of its own, is among the parts of a value."""
    return isinstance(value, dict) or isinstance(value, list) and any(map(has_entries, value))


def as_list(value):
    return value if isinstance(value, list) else [value]


def constant(value):
    """A list of numbers as the array that it stands for; anything else as it is."""
    if isinstance(value, list) and not has_entries(value):
        return {"class_name": "__numpy__", "config": {"value": value, "dtype": "float32"}}
    return value


def slice_of(part):
    """One part of x[...] as Keras 3 writes it."""
    if isinstance(part, dict) and {"start", "stop", "step"} <= set(part):
        return {"class_name": "__slice__", "config": {name: part[name] for name in ("start", "stop", "step")}}
    if isinstance(part, dict) and part.get("class_name") == "__ellipsis__":
        return {"class_name": "__ellipsis__", "config": {}}
    if isinstance(part, int) or part is None:
        return part
    raise Refused(f"its slice {str(part)[:60]} is none of plain numbers; {BUILD_IT}")


def with_constants(entry):
    """An operation of a TensorFlow graph as a call of the function that makes it.

    Args:
        entry: dict; node_def names the operation and its inputs, constants holds those inputs that are no tensors.
    """
    definition, constants = entry["config"].get("node_def"), entry["config"].get("constants") or {}
    kind = definition.get("op") if isinstance(definition, dict) else definition
    function = OF_GRAPH.get(kind) if isinstance(kind, str) else None
    if function is None:
        raise Refused(
            f"its layer {name_of(entry)} is TensorFlow's operation {str(kind)[:40]}, for which none of Keras 3 is "
            f"known here; {BUILD_IT}"
        )
    nodes = []
    for node in entry["inbound_nodes"]:
        tensors = list(as_list(node["args"][0]))
        for index in sorted(constants, key=int):
            tensors.insert(int(index), constants[index])
        names = COUNTERPARTS[function].tensors
        nodes.append({"args": tensors[:1], "kwargs": dict(zip(names[1:], tensors[1:], strict=True))})
    return {
        "class_name": "TFOpLambda",
        "config": {"name": entry["name"], "function": function},
        "name": entry["name"],
        "inbound_nodes": nodes,
    }
