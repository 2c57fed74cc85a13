"""Weights in HDF5, laid out by layers (.h5 of all versions) or by places in the network (.keras, .weights.h5)."""

import re

import h5py
import numpy as np
from keras.src.legacy.saving.legacy_h5_format import load_attributes_from_hdf5_group

PLACES_OF_2_13 = "_layer_checkpoint_dependencies"  # what Keras 2.12 to 2.14 called `layers`


def load_weights(network, path):
    """Fill a network with the weights of a file, in whichever layout they are.

    Args:
        network: keras.Model.
        path: Path of a copy that may be changed, in HDF5; its name ends in .weights.h5, which tells Keras of places.

    Raises:
        KeyError, OSError, ValueError: the file lacks some of them, or they are of another shape.
    """
    with h5py.File(path, "r+") as file:
        group = file.get("model_weights", file)
        if "layer_names" in group.attrs or "layer_names0" in group.attrs:
            load_by_layers(network, group)
            return
        move_to_places(file)
    network.load_weights(path)


# ---------------------------------------------------------------- by layers


def load_by_layers(network, group):
    """Weights in one group for each layer, which for a nested network holds those of all of its layers.

    Layers and weights are told by their names. Where names differ, as do those of other versions for some layers, the
    order tells them; it depends on what was trained when the file was written, and is the same wherever the
    configuration says so.

    Args:
        network: keras.Model.
        group: h5py.Group.
    """
    names_in = load_attributes_from_hdf5_group  # a list of names, which is cut in parts where it is long
    saved = {name: names for name in names_in(group, "layer_names") if (names := names_in(group[name], "weight_names"))}
    own = {layer.name: layer for layer in network.layers if layer.weights}
    if len(saved) != len(own):
        raise ValueError(f"weights of {len(saved)} layers were found; expected those of {len(own)}")
    plain = {name.replace("/", "_"): name for name in saved}
    by_name = set(plain) == set(own)
    for (name, layer), in_order in zip(own.items(), saved, strict=True):
        source = plain[name] if by_name else in_order
        for variable, label in paired(layer, saved[source]):
            array = np.asarray(group[source][label])
            if array.shape != tuple(variable.shape):
                raise ValueError(f"layer {name!r} has {variable.name} {array.shape}; expected {tuple(variable.shape)}")
            variable.assign(array)
    for layer in network._flatten_layers():
        if hasattr(layer, "finalize_state") and layer.weights:  # Normalization computes with what it makes of them
            layer.finalize_state()


def paired(layer, labels):
    """The variables of a layer, each with the label of its weights in a file.

    Args:
        layer: keras.Layer, maybe a network.
        labels: list of str, such as block1/conv/kernel:0.
    """
    variables = layer.trainable_weights + layer.non_trainable_weights  # the order in which Keras writes them
    if len(variables) != len(labels):
        raise ValueError(f"layer {layer.name!r} has {len(labels)} weights; expected {len(variables)}")
    owners = {
        id(variable): part.name
        for part in reversed(layer._flatten_layers())
        for variable in part._trainable_variables + part._non_trainable_variables
    }
    own = [(owners.get(id(variable), layer.name), variable.name) for variable in variables]
    for depth in (None, 1):  # a label names the layer, or all of those that it is nested in
        found = {label_parts(label, depth): label for label in labels}
        if len(found) == len(labels) and found.keys() == set(own):
            return [(variable, found[name]) for variable, name in zip(variables, own, strict=True)]
    return list(zip(variables, labels, strict=True))


def label_parts(label, depth):
    """(layer, variable) of a label, the layer by the last `depth` parts of its name."""
    *layers, variable = label.split(":")[0].split("/")
    return "_".join(layers[-depth:] if depth else layers), variable


# ---------------------------------------------------------------- by places


def move_to_places(file):
    """Move the groups of Keras 2.12 to 2.15 to where Keras 3 looks for them.

    On Windows the parts of a place were joined by backslashes.
    """
    for name in sorted((name for name in file if "\\" in name), key=lambda name: name.count("\\")):
        file.move(name, name.replace("\\", "/"))
    if PLACES_OF_2_13 not in file:
        return
    file.move(PLACES_OF_2_13, "layers")
    layers = file["layers"]
    counts = {}
    for kind, _, name in sorted(numbered_name(name) for name in layers):
        # layers with weights were counted twice: conv2d, conv2d_2, conv2d_4
        count = counts[kind] = counts.get(kind, -1) + 1
        place = f"{kind}_{count}" if count else kind
        if place != name:
            layers.move(name, place)
    for name in layers:
        move_to_places(layers[name])


def numbered_name(name):
    """(kind, number, name) of a place such as conv2d_12."""
    parts = re.fullmatch(r"(.+)_([0-9]+)", name)
    return (parts[1], int(parts[2]), name) if parts else (name, 0, name)
