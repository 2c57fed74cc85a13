"""What a network computes in: its own precision, another for as long as it is explained, and back."""

import contextlib
import math
from collections import Counter

import keras
import numpy as np
from keras import layers, ops

from camlib.backend import has_float64, usual_settings
from camlib.console import UserError
from camlib.preprocessing import FLOAT_TYPES

LEAST_CHANGE = {True: 1e-3, False: 0.3}  # of outputs, as a share of the largest, that rounding does not explain


def own_dtype(network):
    """What most of a network's numbers are kept in, one of FLOAT_TYPES.

    Mixed precision keeps them in float32 and is for training: such a network is computed in float32.
    """
    counts = Counter()
    for weight in network.weights:
        counts[keras.backend.standardize_dtype(weight.dtype)] += math.prod(weight.shape)
    return max(FLOAT_TYPES, key=lambda dtype: counts[dtype])


def set_dtype(network, dtype):
    """Let a network compute in another dtype; its weights stay what they are.

    Args:
        network: keras.Model.
        dtype: one of FLOAT_TYPES.

    Raises:
        UserError: the backend takes float64 for float32.
    """
    if dtype == "float64" and not has_float64():
        raise UserError(
            f"the network {network.name!r} is to be computed in float64, which Keras does on TensorFlow only; expected "
            "KERAS_BACKEND=tensorflow, or --dtype float32"
        )
    for layer in layers_of(network):
        # in half precision a softmax would lose small probabilities; without its policy a quantised layer is another
        if not isinstance(layer, layers.Softmax) and not is_quantised(layer):
            kept = next((keras.backend.standardize_dtype(weight.dtype) for weight in layer.weights), dtype)
            layer.dtype_policy = policy_of(kept, dtype)


@contextlib.contextmanager
def same_outputs(network, signature, shape, dtype):
    """Make sure that a network that is let compute in another dtype puts out what it put out as it was handed in.

    Args:
        network: keras.Model.
        signature: Signature.
        shape: (height, width, channels) of its input.
        dtype: one of FLOAT_TYPES.

    Raises:
        UserError: it puts out something else than rounding explains.
    """
    layers_to_change = [layer for layer in layers_of(network) if not is_quantised(layer)]
    dtypes = {layer.compute_dtype for layer in layers_to_change if not isinstance(layer, layers.Softmax)} | {dtype}
    if len(dtypes) == 1:
        yield
        return
    noise = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)

    @usual_settings()
    def outputs():
        return ops.convert_to_numpy(ops.cast(signature.run(network, ops.convert_to_tensor(noise)), "float64"))

    before = outputs()
    yield
    after, rounding = outputs(), LEAST_CHANGE[dtypes <= {"float32", "float64"}]
    if np.abs(after - before).max() > rounding * np.abs(before).max():
        raise UserError(
            f"the network {network.name!r} puts out {after.flat[0]:.4g} in {dtype} where it puts out "
            f"{before.flat[0]:.4g} as it is: one of its layers depends on the precision; expected --dtype with what it "
            f"was made in ({', '.join(sorted(dtypes - {dtype}))})"
        )


def is_quantised(layer):
    """Whether a layer keeps its weights as whole numbers, or in float8, with a scale."""
    return isinstance(layer.dtype_policy, keras.dtype_policies.QuantizedDTypePolicy)


def policy_of(kept, dtype):
    """The policy of weights that are kept in one dtype and cast to another: where Keras has one, it can be cloned."""
    if kept == dtype:
        return dtype
    return f"mixed_{dtype}" if kept == "float32" and dtype in ("bfloat16", "float16") else ComputedIn(dtype, kept)


class ComputedIn(keras.DTypePolicy):
    """Weights that are kept in one dtype are cast to another for computing."""

    def __init__(self, dtype, kept):
        super().__init__(dtype)
        self.kept = kept

    @property
    def variable_dtype(self):
        return self.kept


@contextlib.contextmanager
def kept_precision(network):
    """Let a network compute at the end in what it computed in before."""
    before = [(layer, layer.dtype_policy) for layer in layers_of(network)]
    try:
        yield
    finally:
        for layer, policy in before:
            layer.dtype_policy = policy


def layers_of(network):
    """A network and all layers and networks in it."""
    return [network, *network._flatten_layers(include_self=False)]
