"""Weights in HDF5, laid out by layers (.h5 of all versions) or by places in the network (.keras, .weights.h5)."""

import contextlib
import itertools
import re
import shutil
import tempfile
from pathlib import Path

import h5py
import numpy as np

PLACES_ENDING = ".weights.h5"  # by which Keras tells one layout from the other
PLACES_OF_2_13 = "_layer_checkpoint_dependencies"  # what Keras 2.12 to 2.14 called `layers`


def load_weights(network, path):
    """Fill a network with the weights of a file, in whichever layout they are.

    Args:
        network: keras.Model.
        path: Path of an HDF5 file; it is not changed.

    Raises:
        KeyError, OSError, ValueError: the file lacks some of them, or they are of another shape.
    """
    with h5py.File(path, "r") as file:
        group = file.get("model_weights", file)
        if "layer_names" in group.attrs or "layer_names0" in group.attrs:
            load_by_layers(network, group)
            return
    with weights_by_places(path) as place:
        network.load_weights(place)


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
    saved = {name: names_in(group[name], "weight_names") for name in names_in(group, "layer_names")}
    saved = {name: names for name, names in saved.items() if names}
    own = {layer.name: layer for layer in network.layers if layer.weights}
    if len(saved) != len(own):
        raise ValueError(f"weights of {len(saved)} layers were found; expected those of {len(own)}")
    plain = {name.replace("/", "_"): name for name in saved}
    by_name = set(plain) == set(own)
    for (name, layer), in_order in zip(own.items(), saved, strict=True):
        source = plain[name] if by_name else in_order
        for variable, label in paired(layer, saved[source]):
            array = weight_array(group[source], label)
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
        names = [label_parts(label, depth) for label in labels]
        if len(set(names)) == len(names) and set(names) == set(own):
            found = dict(zip(names, labels, strict=True))
            return [(variable, found[name]) for variable, name in zip(variables, own, strict=True)]
    return list(zip(variables, labels, strict=True))


def label_parts(label, depth):
    """(layer, variable) of a label, the layer by the last `depth` parts of its name."""
    *layers, variable = label.split(":")[0].split("/")
    return "_".join(layers[-depth:] if depth else layers), variable


def names_in(group, attribute):
    """A list of names in a group's attributes, cut in parts where it is long."""
    parts = [attribute]
    if attribute not in group.attrs:
        numbered_parts = (f"{attribute}{number}" for number in itertools.count())
        parts = itertools.takewhile(lambda part: part in group.attrs, numbered_parts)
    names = [name for part in parts for name in group.attrs[part]]
    return [name.decode() if isinstance(name, bytes) else str(name) for name in names]


def weight_array(group, label):
    """An array that lies in this file itself; HDF5 can name other files to read instead."""
    dataset = group[label]
    if not isinstance(dataset, h5py.Dataset) or dataset.external or dataset.is_virtual:
        raise ValueError(f"{label} is no array of this file")
    return np.asarray(dataset)


# ---------------------------------------------------------------- by places


@contextlib.contextmanager
def weights_by_places(path):
    """A file of weights whose name and places are those of Keras 3: the file itself, or a copy for a while."""
    with h5py.File(path, "r") as file:
        old = PLACES_OF_2_13 in file or any("\\" in name for name in file)
    if path.name.endswith(PLACES_ENDING) and not old:
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / f"copy{PLACES_ENDING}"
        shutil.copyfile(path, copy)
        with h5py.File(copy, "r+") as file:
            move_to_places(file)
        yield copy


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
