"""Saving a network: made in memory, then written whole or not at all."""

import io
import json

import h5py
import numpy as np
from keras.src.legacy.saving.legacy_h5_format import save_model_to_hdf5
from keras.src.saving import saving_lib

from camlib.files import write_whole
from camlib.networks.checkpoint import MEANING_ATTRIBUTE


def save_network(network, path, meaning, half=False):
    """Write a network, its weights and its meaning to one .h5 file, under its name only when whole.

    The file is Keras's own HDF5 format; `keras.models.load_model` reads it too. Where a disk is full, Keras's own way
    there ends in a segmentation fault of HDF5.

    Args:
        network: keras.Model.
        path: Path ending in .h5; ending in .weights.h5 it gets Keras's weights-only format.
        meaning: Meaning.
        half: bool, store the weights as float16, half the size.

    Raises:
        OSError: the disk is full, for example; what stood under the name stands there still.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()
    if path.name.endswith(".weights.h5"):
        weights = saving_lib.H5IOStore(content, mode="w")
        saving_lib._save_state(network, weights, assets_store=None, inner_path="", visited_saveables=set())
        weights.close()
        with h5py.File(content, "r+") as file:
            config = {"class_name": type(network).__name__, "config": network.get_config()}
            file.attrs["model_config"] = json.dumps(config)
    else:
        with h5py.File(content, "w", libver="latest") as file:  # attributes may have more than 64 KB, then
            save_model_to_hdf5(network, file, include_optimizer=False)
    with h5py.File(content, "r+") as file:
        file.attrs[MEANING_ATTRIBUTE] = json.dumps(vars(meaning))
    if half:
        content = in_float16(content)
    write_whole(path, lambda file: file.write(content.getbuffer()))


def in_float16(content):
    """An HDF5 file in memory with its float32 arrays as float16; a new one, since HDF5 does not give space back."""
    halved = io.BytesIO()
    with h5py.File(content, "r") as source, h5py.File(halved, "w", libver="latest") as target:
        target.attrs.update(source.attrs)

        def copy(name, item):
            if isinstance(item, h5py.Dataset):
                target[name] = item[()].astype(np.float16) if item.dtype == np.float32 else item[()]
            else:
                target.require_group(name)
            target[name].attrs.update(item.attrs)

        source.visititems(copy)
    return halved
