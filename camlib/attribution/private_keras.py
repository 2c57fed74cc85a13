"""The names that Keras does not promise to keep and that are used here nevertheless: looked up at the start."""

import importlib

import keras

from camlib.backend import CannotStart

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
