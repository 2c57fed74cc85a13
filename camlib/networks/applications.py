"""The networks of keras.applications, with Keras's own weights of ImageNet: by their names, or from Keras's files.

Everything here is asked of Keras itself: which networks there are, what their modules make of a pixel, which size they
take, and which file their weights are in.
"""

import re
import sys
import warnings
from pathlib import Path

import keras
import numpy as np
from keras.src.backend.config import keras_home
from keras.src.utils import file_utils

from camlib.backend import exchanged
from camlib.console import UserError, first_line
from camlib.networks import application_names
from camlib.preprocessing import PREPROCESSING, InputSpec, imagenet_names

APPLICATIONS = {name: getattr(keras.applications, name) for name in application_names()}  # what builds each
OPEN_SIZE = 224  # what those were trained with whose input Keras leaves open, MobileNetV3

# ---------------------------------------------------------------- which network a file is of


def application_of_file(path, layer_names):
    """The name of the network whose weights a file holds, or None.

    Args:
        path: Path. Keras names the files that it downloads after their networks, resnet50v2_weights_..._kernels.h5;
            the smaller and narrower ones of MobileNet are left out, since their size is nowhere in the file.
        layer_names: names of the groups in the file, which tell VGG-16's and VGG-19's under any name.

    Raises:
        UserError: the file holds one of these networks without its classes.
    """
    stem = path.name.lower().removesuffix(".h5")
    words = "weights|_tf_dim_ordering_tf_kernels|_1[._]0_224|_224_1[.]0_float|_tf$|[-_]"
    bare = re.sub("_no_?top$", "", stem)
    name = {known.lower(): known for known in APPLICATIONS}.get(re.sub(words, "", bare))
    if name and bare != stem:
        raise UserError(f"{path} holds {name} without its classes; expected Keras's file without notop in its name")
    if name is None and any("block5_conv3" in layer for layer in layer_names):
        name = "VGG19" if any("block5_conv4" in layer for layer in layer_names) else "VGG16"
    return name


# ---------------------------------------------------------------- the network


def preprocessing_of(name):
    """The key of PREPROCESSING that does what a network's module in Keras does to pixels.

    Raises:
        UserError: none does; Keras has learnt something new.
    """
    pixels = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 3), np.uint8)
    module = sys.modules[APPLICATIONS[name].__module__]
    expected = module.preprocess_input(pixels.astype(np.float32), data_format="channels_last")
    for kind, values in PREPROCESSING.items():
        if np.allclose(InputSpec([], 8, 8, 3, **values).prepare(pixels), expected, atol=1e-3):
            return kind
    raise UserError(f"keras.applications prepares pixels for {name} in a way unknown here; expected Keras 3.15")


def load_application(name, path=None, weights=None):
    """A network of keras.applications with its weights of ImageNet, and its InputSpec.

    Args:
        name: a key of APPLICATIONS.
        path: Path of Keras's file of that network, for messages; default: Keras's own, which it keeps in its folder
            and downloads once.
        weights: Path of an HDF5 file with the same weights, which Keras reads.

    Returns:
        (keras.Model, InputSpec).

    Raises:
        UserError: the file is of another network, or the download failed; the message says how to get it otherwise.
    """
    wanted, get_file = [], file_utils.get_file

    def found_file(file_name, origin, **settings):
        wanted.append((file_name, origin))
        return str(weights) if weights else get_file(file_name, origin, **settings)

    try:
        # Keras builds some networks differently for a file that it has not downloaded itself (EfficientNet's scaling)
        with exchanged({(file_utils, "get_file"): found_file}), warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*Weights for input shape")  # the size is OPEN_SIZE below
            network = APPLICATIONS[name](weights="imagenet")
    except Exception as error:  # a refused connection, a proxy's page, a checksum: urllib and Keras raise various ones
        file_name, origin = wanted[-1] if wanted else ("its file", "its file")
        reason = first_line(str(error).replace(origin, file_name))
        if path:
            raise UserError(f"{path}: its weights do not fit Keras's {name} ({reason})") from error
        raise UserError(
            f"the ImageNet weights could not be had ({reason}); bring that file to "
            f"{Path(keras_home(), 'models')}, where Keras looks for it, or give it as --weights FILE"
        ) from error
    height, width = (side or OPEN_SIZE for side in network.input_shape[1:3])
    return network, InputSpec(imagenet_names(), height, width, 3, **PREPROCESSING[preprocessing_of(name)])
