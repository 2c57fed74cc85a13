"""A network ready to be asked: what it is made of, what its numbers mean, and what may be asked of it."""

import contextlib
import math
import re
from collections import Counter
from pathlib import Path

import keras
import numpy as np
from keras import layers, ops

from camlib.backend import has_float64
from camlib.console import UserError
from camlib.explaining import PREDICTED, as_arrays
from camlib.meaning import (
    IMAGENET_GROUPS,
    OWN_PREPROCESSING,
    PREPROCESSING,
    WHAT_PREPROCESSING_MEANS,
    Meaning,
    imagenet_names,
    parse_preprocessing,
    probabilities_of,
    read_class_names,
)
from camlib.watching import survey

FLOAT_TYPES = ("float32", "float64", "bfloat16", "float16")  # what a network may compute in


def add_network_options(parser):
    """Add the options that say what a network's numbers mean and what it computes in."""
    parser.add_argument("--preprocess", metavar="|".join([*PREPROCESSING, *OWN_PREPROCESSING]),
                        help="what a pixel of 0..255 becomes; default: what the file says. "
                        + WHAT_PREPROCESSING_MEANS)  # fmt: skip
    parser.add_argument("--class-names", type=Path, metavar="FILE",
                        help="one class a line; default: what the file says")  # fmt: skip
    parser.add_argument("--size", type=parse_size, metavar="N|HxW",
                        help="the network's input in pixels, N x N or height x width; default: as trained")  # fmt: skip
    parser.add_argument("--dtype", choices=FLOAT_TYPES,
                        help="what the network computes in; default: what its weights are kept in")  # fmt: skip
    parser.add_argument("--trust-model", action="store_true", help="let the model file run code")


LEAST_SIDE = 8  # pixels of a network's input


def parse_size(text):
    """(height, width) for what the user wrote after --size: "64" or "64x96".

    Raises:
        UserError: it is something else, or below LEAST_SIDE.
    """
    sides = [int(side) if re.fullmatch("[0-9]{1,5}", side) else -1 for side in text.lower().split("x")]
    if len(sides) > 2 or min(sides) < LEAST_SIDE:
        raise UserError(f"--size {text}: expected {LEAST_SIDE} or more pixels, N or HEIGHTxWIDTH")
    return sides[0], sides[-1]


def size_name(height, width):
    """A size as after --size."""
    return str(height) if height == width else f"{height}x{width}"


class Subject:
    """A network ready to be asked.

    Attributes:
        network: keras.Model; it computes in `dtype` from now on.
        plan: Survey of the network.
        dtype: one of FLOAT_TYPES.
        layer: str, path of the layer whose output is mapped.
        meaning: Meaning of its input and output.
        whose: str, where `meaning` has it from what becomes of a pixel.
        groups: dict of name -> list of class indices, classes that can be asked for together.
        class_names: list of str, its classes and then its groups.

    Args:
        network: keras.Model, images to logits or probabilities.
        meaning: Meaning, what its file says, or None.
        source: where the network comes from, for messages.
        layer: str or None for the last with a spatial output, pooling aside.
        preprocess: str, as after --preprocess, or None for what the file says.
        class_names: Path of a file of names, or None for what the file says.
        size: (height, width) of the network's input where it is open, or None for what the file says.
        dtype: one of FLOAT_TYPES, or None for what its weights are kept in.

    Raises:
        UserError: the network does not take photos, nobody says what it makes of a pixel, or what was asked for does
            not fit it.
    """

    def __init__(self, network, meaning, source, layer=None, preprocess=None, class_names=None, size=None, dtype=None):
        self.network, self.dtype = network, dtype or own_dtype(network)
        set_dtype(network, self.dtype)
        shape = input_shape_of(network, meaning, size)
        self.plan = survey(network, shape)
        check_layer(self.plan, layer)
        self.layer = layer or self.plan.target
        self.meaning, self.whose = complete_meaning(meaning, source, preprocess, class_names, self.plan, shape)
        self.groups = IMAGENET_GROUPS if self.meaning.class_names == imagenet_names() else {}
        self.class_names = [*self.meaning.class_names, *self.groups]

    def chosen_classes(self, wanted):
        """Class indices for names, indices or words as after --classes, see `chosen_classes`."""
        return chosen_classes(wanted, self.meaning.class_names, self.groups)

    def prepare(self, images):
        """Turn uint8 (N, H, W, channels), of the network's input size, into its input: float64 if it computes so."""
        return self.meaning.prepare(images, np.float64 if self.dtype == "float64" else np.float32)

    def check_outputs(self, outputs, logits):
        """See `check_outputs`."""
        check_outputs(outputs, logits, self.plan.ending)

    def ask(self, explain_batch, images, chosen, count=None):
        """Explain photos, and make sure that their logits are the network's.

        Args:
            explain_batch: a compiled explainer of the network.
            images: uint8 (N, H, W, channels), of the network's input size.
            chosen: list of R class indices, as `chosen_classes` makes them.
            count: int, how many of the images matter; default: all.

        Returns:
            Explanation of NumPy arrays, guided gradients in RGB whatever the network's order of channels.
        """
        classes = np.repeat(np.array(chosen, np.int32)[:, None], len(images), axis=1)  # (R, N)
        inputs = ops.convert_to_tensor(self.prepare(images))
        found = as_arrays(explain_batch(inputs, ops.convert_to_tensor(classes), count))
        self.check_outputs(found.outputs, found.logits)
        if self.meaning.bgr and found.guided is not None:
            found = found._replace(guided=found.guided[..., ::-1], products=found.products[..., ::-1])
        return found

    def probabilities_of(self, logits):
        """float (N, C) -> (N, C): what the network makes of its logits, or what is left to us."""
        return probabilities_of(logits, "sigmoid" if self.plan.units == 1 else self.plan.ending)


# ---------------------------------------------------------------- what a network may be asked


def input_shape_of(network, meaning, size=None):
    """(H, W, channels) of the photos to feed a network.

    Args:
        network: keras.Model with one input.
        meaning: Meaning or None.
        size: (height, width) that the user asked for, or None.

    Raises:
        UserError: the network takes no photos, its size is open and nobody names one, or is not the one asked for.
    """
    shape = getattr(network, "input_shape", None)
    if not isinstance(shape, tuple) or len(shape) != 4 or shape[3] not in (1, 3):
        raise UserError(f"the network {network.name!r} takes {shape}; expected one input of photos, (N, H, W, 1 or 3)")
    own = size or ((meaning.height, meaning.width) if meaning else (None, None))
    height, width = (fixed or wanted for fixed, wanted in zip(shape[1:3], own, strict=True))
    if height is None or width is None:
        raise UserError(
            f"the network {network.name!r} takes photos of any size and its file names none; expected --size N or HxW"
        )
    if size and (height, width) != size:
        raise UserError(f"--size {size_name(*size)}: the network {network.name!r} takes {height}x{width} only")
    return height, width, shape[3]


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
        if not isinstance(layer, layers.Softmax):  # in half precision it would lose small probabilities
            kept = next((keras.backend.standardize_dtype(weight.dtype) for weight in layer.weights), dtype)
            layer.dtype_policy = dtype if kept == dtype else ComputedIn(dtype, kept)


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


def check_layer(plan, name):
    """Raise UserError, with the names to choose from, unless the layer exists and its output is (N, h, w, K)."""
    if name is not None and name not in plan.spatial:
        names = ", ".join(plan.spatial)
        raise UserError(f"--layer {name} is not a layer with a spatial output; expected one of {names}")
    if name is None and plan.target is None:
        raise UserError("the network has no layer with a spatial output, so it has nothing to map")


def check_guided(plan, way_out):
    """Raise UserError, which ends with `way_out`, where guided backpropagation is not defined."""
    if plan.others:
        path, kind = plan.others[0]
        where = f"layer {path!r}" if path else "the network's own code"
        more = f" and {len(plan.others) - 1} more activations are" if len(plan.others) > 1 else " is"
        raise UserError(
            f"{where} ({kind}){more} no ReLU that is known as one, and guided backpropagation is not defined there; "
            f"{way_out}"
        )


def announce_guided(plan):
    """Say where guided backpropagation changes the gradient."""
    kinds = Counter(kind for _, kind in plan.relus)
    print(
        f"guided backpropagation through {', '.join(f'{count} {kind}' for kind, count in kinds.items()) or 'no ReLU'}"
    )


def chosen_classes(wanted, class_names, groups=()):
    """Class indices, PREDICTED and groups among them, for what the user wrote after --classes.

    Args:
        wanted: list of str.
        class_names: list of C str.
        groups: names of groups of classes, numbered from C on.
    """
    if wanted == ["all"]:
        return list(range(len(class_names)))
    known = [*class_names, *groups]
    chosen = []
    for name in wanted:
        if name == "predicted":
            chosen.append(PREDICTED)
        elif name in known:
            chosen.append(known.index(name))
        elif name.isdecimal() and int(name) < len(class_names):
            chosen.append(int(name))
        else:
            some = ", ".join([*groups, *class_names][:10]) + (", ..." if len(known) > 10 else "")
            raise UserError(
                f"--classes {name} is not a class; expected predicted, all, an index below {len(class_names)}, or "
                f"one of {some}"
            )
    return list(dict.fromkeys(chosen))


def complete_meaning(meaning, source, preprocess, class_names, plan, shape):
    """The Meaning of a network's input and output, and where it has what becomes of a pixel from, in words.

    Args:
        meaning: Meaning, what the file says, or None.
        source, preprocess, class_names: as for `Subject`.
        plan: Survey of the network.
        shape: (H, W, channels) of its input.

    Raises:
        UserError: nobody says what the network makes of a pixel, or the class names are not as many as its outputs.
    """
    if preprocess:
        preprocessing, whose = parse_preprocessing(preprocess), f"--preprocess {preprocess}"
    elif meaning:
        preprocessing = {name: getattr(meaning, name) for name in ("scale", "offset", "bgr")}
        whose = "as it was trained"
    elif plan.rescaling:
        preprocessing, whose = PREPROCESSING["none"], f"since its layer {plan.rescaling!r} rescales"
    else:
        raise UserError(
            f"nothing says what {source} makes of a pixel; expected --preprocess as the network was trained "
            f"with: {', '.join(PREPROCESSING)}, {' or '.join(OWN_PREPROCESSING)}"
        )
    for values in (preprocessing["scale"], preprocessing["offset"]):
        if isinstance(values, list) and len(values) != shape[2] or preprocessing["bgr"] and shape[2] != 3:
            raise UserError(f"what becomes of a pixel, {whose}, is for RGB; the network takes {shape[2]} channel(s)")
    count = plan.class_count
    if class_names:
        names = read_class_names(class_names)
    elif meaning:
        names = meaning.class_names
    else:
        names = imagenet_names() if count == 1000 else [f"class_{index}" for index in range(count)]
    if len(names) != count:
        raise UserError(f"{len(names):,} class names for {count:,} outputs of the network; expected one each")
    interpolation = meaning.interpolation if meaning else "area"
    return Meaning(names, *shape, **preprocessing, interpolation=interpolation), whose


def check_outputs(outputs, logits, ending):
    """Make sure that the logits found in the network are those behind its outputs.

    Raises:
        UserError: they are not, or the numbers are not finite.
    """
    if not np.isfinite(outputs).all() or not np.isfinite(logits).all():
        raise UserError(
            "the network's outputs are not finite numbers; expected another --preprocess, or --dtype float32 if it was "
            "float16"
        )
    expected = logits if ending == "linear" else probabilities_of(logits, ending)
    # of a single unit the logits are those of both sides
    if not np.allclose(outputs, expected[:, -outputs.shape[1] :], atol=1e-4, rtol=2e-2):  # as half precision keeps it
        raise UserError(
            f"the network's outputs are not the {ending} of the logits found in it; please report this network"
        )
    # Logits add up to one only by chance, which the rounding of a softmax leaves little room for
    in_half = np.array_equal(outputs, outputs.astype(np.float16))
    add_up = (outputs >= 0).all() and np.allclose(outputs.sum(axis=1), 1, atol=1e-2 if in_half else 1e-5)
    if ending == "linear" and outputs.shape[1] > 1 and add_up:
        raise UserError(
            "the network's outputs are probabilities, but no softmax was found that makes them, so that its "
            "logits cannot be told; expected a network that ends in softmax, sigmoid or neither"
        )


def why_zero(method, counterfactual, features):
    """Why a map of a method, and why guided gradients may be zero everywhere: dict of kind -> a sentence's end."""
    if not features.any():
        cut = "the layer's features are zero there"
    elif method.signed or method.needs == "nothing":
        cut = "the class's score does not depend on the layer there"
    else:
        cut = "its weighted features are nowhere positive, and the ReLU cuts what is negative"
        if method.needs == "gradients" and not counterfactual:
            cut += "; --counterfactual shows that"
    return {"gradcam": cut, "guided_backprop": "no positive gradient reaches the photo"}
