"""Files as earlier versions of Keras wrote them, made from networks of Keras 3: what the real ones looked like.

The forms are those of files that TensorFlow 2.12 and 2.13 and tf_keras 2.21 write, and of the sources of Keras 2.2.4.
"""

import json
import zipfile

import h5py
import keras
import numpy as np

from camlib.networks.keras2_config import parts_of

NESTED = ("Functional", "Sequential")
# The functions of TensorFlow behind operations of Keras 3, and what they call the arguments behind the first
FUNCTIONS = {
    "TrueDivide": ("math.truediv", ["y"]), "Subtract": ("math.subtract", ["y"]), "Multiply": ("math.multiply", ["y"]),
    "Add": ("__operators__.add", ["y"]), "Relu": ("nn.relu", []), "Relu6": ("nn.relu6", []),
    "Sigmoid": ("math.sigmoid", []), "Softmax": ("nn.softmax", []), "Mean": ("math.reduce_mean", []),
    "Concatenate": ("concat", []), "GetItem": ("__operators__.getitem", ["slice_spec"]),
    "Reshape": ("reshape", []), "Resize": ("image.resize", []), "Silu": ("nn.silu", []),
}  # fmt: skip
OPTIONS = {"newshape": "shape", "interpolation": "method"}
OF_KERAS_3 = {"data_format", "crop_to_aspect_ratio", "fill_mode", "fill_value", "pad_to_aspect_ratio"}
GRAPH_OPERATIONS = {"Add": "AddV2", "Multiply": "Mul", "Relu": "Relu"}


def old_config(network, **settings):
    """A network's configuration as Keras 2 wrote it, see `old_entry`."""
    return old_entry(json.loads(json.dumps(keras.saving.serialize_keras_object(network))), **settings)


def old_entry(entry, modules=False, graph_operations=False):
    """An entry of Keras 3 as Keras 2 wrote it.

    Args:
        entry: dict.
        modules: bool, with the modules of Keras 2.13, as in .keras and in .h5 of that time.
        graph_operations: bool, TensorFlow's operations as TensorFlow 2.1 to 2.3 wrote them.
    """
    settings = {"modules": modules, "graph_operations": graph_operations}
    if isinstance(entry, list):
        return [old_entry(part, **settings) for part in entry]
    if not isinstance(entry, dict):
        return entry
    if entry.get("class_name") == "DTypePolicy":
        name = entry["config"]["name"]
        return name if name == "float32" else {"class_name": "Policy", "config": {"name": name}}
    if (entry.get("module") or "").startswith("keras.src.ops"):
        return old_operation(entry, graph_operations)
    old = {key: old_entry(part, **settings) for key, part in entry.items() if key != "inbound_nodes"}
    if "inbound_nodes" in entry:
        old["inbound_nodes"] = [old_node(node) for node in entry["inbound_nodes"]]
    if isinstance(old.get("config"), dict) and "layers" in old["config"]:
        count_from_one(old["config"], entry["config"])
    if isinstance(old.get("config"), dict) and "class_name" in old:
        old_arguments(old["class_name"], old["config"])
    if "module" in old:
        if modules:
            old["module"] = old["module"].replace("keras.src.models", "keras.src.engine")
        else:
            old = {key: part for key, part in old.items() if key not in ("module", "registered_name", "build_config")}
    return old


def old_arguments(kind, config):
    """Change the arguments of a layer or network in place."""
    if "batch_shape" in config:
        config["batch_input_shape"] = config.pop("batch_shape")
    if kind in ("DepthwiseConv2D", "SeparableConv2D", "Conv2DTranspose"):
        config["groups"] = 1
    if kind == "BatchNormalization":
        config["axis"] = [3]
    if kind.startswith("Random"):
        config["rng_type"] = "stateful"
    if kind == "LeakyReLU":
        config["alpha"] = config.pop("negative_slope")
    if kind == "SpatialDropout2D":
        config |= {"trainable": True, "noise_shape": None}
    for name in ("input_layers", "output_layers"):
        if config.get(name) and isinstance(config[name][0], str):
            config[name] = [config[name]]


def old_node(node):
    """The inputs of a call as lists of names; keywords beside each."""
    first, *_ = node["args"]
    tensors = first if isinstance(first, list) else [first]
    return [[*tensor["config"]["keras_history"], dict(node["kwargs"])] for tensor in tensors]


def count_from_one(config, new):
    """Count the calls of nested networks from one, which have an input layer of their own."""
    nested = {
        layer["config"]["name"]
        for layer in new["layers"]
        if layer["class_name"] in NESTED and layer["config"]["layers"][0]["class_name"] == "InputLayer"
    }

    for part in parts_of([layer.get("inbound_nodes") for layer in config["layers"]]):
        if isinstance(part, list) and len(part) > 2 and isinstance(part[0], str) and part[0] in nested:
            part[1] += 1


def old_operation(entry, graph_operations):
    """An operation of Keras 3 as the layer that Keras 2 made of TensorFlow's function."""
    function, names = FUNCTIONS[entry["class_name"]]
    kind = "SlicingOpLambda" if entry["class_name"] == "GetItem" else "TFOpLambda"
    nodes = []
    for node in entry["inbound_nodes"]:
        keywords = {name: old_value(part) for name, part in zip(names, node["args"][1:], strict=True)}
        options = {OPTIONS.get(key, key): part for key, part in entry["config"].items() if key != "name"}
        options = {key: part for key, part in options.items() if key not in OF_KERAS_3}
        first = old_value(node["args"][0])
        keywords |= options | {"name": None}
        if isinstance(first[0], list):
            nodes.append([[*tensor, keywords] for tensor in first])
        elif graph_operations:
            nodes.append([[*first, {}]])
        else:
            nodes.append([*first, keywords])
    config = {"name": entry["name"], "trainable": True, "dtype": "float32", "function": function}
    if graph_operations:
        kind, constants = "TensorFlowOpLayer", dict(enumerate(map(old_value, entry["inbound_nodes"][0]["args"])))
        constants = {str(index): part for index, part in constants.items() if not isinstance(part, list)}
        operation = GRAPH_OPERATIONS[entry["class_name"]]
        config = {"name": operation, "node_def": {"name": operation, "op": operation}, "constants": constants}
    return {"class_name": kind, "config": config, "name": entry["name"], "inbound_nodes": nodes}


def old_value(value):
    """A tensor as a list of names, slices as dicts; anything else as it is."""
    if isinstance(value, list):
        return [old_value(part) for part in value]
    kind = value.get("class_name") if isinstance(value, dict) else None
    if kind == "__keras_tensor__":
        return list(value["config"]["keras_history"])
    return value["config"] if kind == "__slice__" else {"class_name": kind} if kind else value


# ---------------------------------------------------------------- files


def write_h5(path, network, config, version="2.9.0"):
    """An .h5 file of Keras 2.

    Args:
        path: Path.
        network: keras.Model, whose weights are written.
        config: dict, or None for weights alone.
        version: str, of Keras.
    """
    with h5py.File(path, "w") as file:
        group = file
        if config is not None:
            file.attrs["model_config"], file.attrs["keras_version"] = json.dumps(config), version
            group = file.create_group("model_weights")
        group.attrs["layer_names"] = [layer.name.encode() for layer in network.layers]
        for layer in network.layers:
            part, labels = group.create_group(layer.name), []
            owners = {
                id(variable): inner.name
                for inner in layer._flatten_layers()
                for variable in inner._trainable_variables + inner._non_trainable_variables
            }
            for variable in layer.trainable_weights + layer.non_trainable_weights:
                labels.append(f"{owners[id(variable)]}/{variable.name}:0")
                part[labels[-1]] = keras.ops.convert_to_numpy(variable)
            part.attrs["weight_names"] = [label.encode() for label in labels]


def write_archive(path, network, config, version="2.13.1", places=None):
    """A .keras file of Keras 2.13 to 2.15, written on Windows, where backslashes join the parts of a place.

    Args:
        path: Path.
        network: keras.Model, whose weights are written.
        config: dict.
        version: str, of Keras.
        places: str, what the place of a network's layers is called where it is not `layers`; there each layer with
            weights is counted twice.
    """
    weights = path.with_name("old.weights.h5")
    network.save_weights(weights, overwrite=True)
    with h5py.File(weights, "r+") as file:
        if places:
            rename_places(file, places)
        join_places(file)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": version}))
        archive.writestr("config.json", json.dumps(config))
        archive.write(weights, "model.weights.h5")
    weights.unlink()


def rename_places(file, places):
    """Call `layers` something else, and count its layers with weights twice."""
    if "layers" not in file:
        return
    layers = file["layers"]
    for name in list(layers):
        rename_places(layers[name], places)
    kinds = {}
    for name in layers:
        kind, _, number = name.rpartition("_")
        kind, number = (kind, int(number)) if number.isdecimal() else (name, 0)
        kinds.setdefault(kind, []).append((number, name))
    for kind, numbers in kinds.items():
        step = 2 if len(layers[f"{kind}/vars"]) or "functional" in kind else 1
        for number, name in sorted(numbers, reverse=True):
            if number and step > 1:
                layers.move(name, f"{kind}_{number * step}")
    file.move("layers", places)


def join_places(file):
    """Bring all groups that hold `vars` to the top, under names joined by backslashes."""
    found = []
    file.visit(lambda name: found.append(name.removesuffix("/vars")) if name.endswith("/vars") else None)
    for name in sorted(found, key=len, reverse=True):
        file.move(name, name.replace("/", "\\"))
    for name in [name for name in file if "\\" not in name and name != "vars"]:
        del file[name]


def photos(network, count=2):
    """float32 (N, H, W, C) inputs of a network, between -1 and 1."""
    generator = np.random.default_rng(0)
    return generator.uniform(-1, 1, (count, *network.input_shape[1:])).astype(np.float32)
