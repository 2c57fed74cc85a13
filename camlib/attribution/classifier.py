"""A network ready to be asked: what it is made of, what its numbers mean, and what may be asked of it."""

import contextlib
import math
from collections import Counter
from dataclasses import replace

import keras
import numpy as np
from keras import layers, ops

from camlib.attribution.axes import check_axes, some_of
from camlib.attribution.gradcam import PREDICTED, as_arrays
from camlib.attribution.inspection import survey
from camlib.backend import has_float64
from camlib.console import UserError, did_you_mean
from camlib.options import FLOAT_TYPES, size_name
from camlib.preprocessing import (
    IMAGENET_GROUPS,
    OWN_PREPROCESSING,
    PREPROCESSING,
    Meaning,
    imagenet_names,
    parse_preprocessing,
    probabilities_of,
    read_class_names,
)

A_FEW_UNITS = 20  # how far from zero pixels that a network has rescaled may lie


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
        port: Port, how the network is fed and which of its outputs is explained; default: its only ones.
        image_input: str, name of the input that takes photos, of a network with several.

    Raises:
        UserError: the network does not take photos, nobody says what it makes of a pixel, or what was asked for does
            not fit it.
    """

    def __init__(
        self, network, meaning, source, layer=None, preprocess=None, class_names=None, size=None, dtype=None,
        port=None, image_input=None,
    ):  # fmt: skip
        self.network, self.dtype = network, dtype or own_dtype(network)
        set_dtype(network, self.dtype)
        shape = input_shape_of(network, meaning, size, image_input)
        plan = survey(network, shape, port)
        check_layer(plan, layer)
        self.layer = layer or plan.target
        names = read_class_names(class_names) if class_names else meaning.class_names if meaning else None
        if plan.units == 1 and plan.ending == "linear" and names and len(names) == 2:
            plan = replace(plan, two_sided=True)
        self.plan = plan
        self.meaning, self.whose = complete_meaning(meaning, source, preprocess, names, plan, shape)
        check_axes(network, plan, self.layer, self.meaning, asked=layer is not None)
        self.groups = IMAGENET_GROUPS if self.meaning.class_names == imagenet_names() else {}
        self.class_names = [*self.meaning.class_names, *self.groups]

    def chosen_classes(self, wanted):
        """Class indices for names, indices or words as after --classes, see `chosen_classes`."""
        return chosen_classes(wanted, self.meaning.class_names, self.groups)

    def prepare(self, images):
        """Turn uint8 (N, H, W, channels), of the network's input size, into its input: float64 if it computes so."""
        return self.meaning.prepare(images, np.float64 if self.dtype == "float64" else np.float32)

    def checked_logits(self, outputs, logits, *maps):
        """The logits float (N, C) after `check_outputs`; NaN of photos of which any number is not finite.

        The outputs of a segmentation, means over pixels, are no function of its scores and are not compared.

        Args:
            outputs, logits: float (N, C).
            maps: float (R, N, ...) or None, what was made of the photos.
        """
        known = np.isfinite(outputs).all(axis=1) & np.isfinite(logits).all(axis=1)
        for values in maps:
            if values is not None:
                known &= np.isfinite(values).all(axis=tuple(axis for axis in range(values.ndim) if axis != 1))
        if known.any() and not self.plan.segments:
            check_outputs(outputs[known], logits[known], self.plan.ending)
        return np.where(known[:, None], logits, np.nan)

    def ask(self, explain_batch, images, chosen, count=None):
        """Explain photos, and make sure that their logits are the network's, where they are finite numbers.

        Args:
            explain_batch: a compiled explainer of the network.
            images: uint8 (N, H, W, channels), of the network's input size.
            chosen: list of R class indices, as `chosen_classes` makes them.
            count: int, how many of the images matter; default: all.

        Returns:
            Explanation of NumPy arrays, guided gradients in RGB whatever the network's order of channels; the logits
            are NaN of photos of which any number is not finite.
        """
        classes = np.repeat(np.array(chosen, np.int32)[:, None], len(images), axis=1)  # (R, N)
        inputs = ops.convert_to_tensor(self.prepare(images))
        found = as_arrays(explain_batch(inputs, ops.convert_to_tensor(classes), count))
        found = found._replace(logits=self.checked_logits(found.outputs, found.logits, found.cams, found.guided))
        if self.meaning.bgr and found.guided is not None:
            found = found._replace(guided=found.guided[..., ::-1], products=found.products[..., ::-1])
        return found

    def sentences(self, source, method):
        """What is about to be computed of what, for the user: list of str."""
        plan, layer = self.plan, self.layer
        shared = f", the last of its {plan.runs[layer]} runs" if plan.runs[layer] > 1 else ""
        return [
            f"network {source}: {self.meaning.preprocessing}, {self.whose}; the score is {plan.score}",
            f"{method} of layer {layer}, {'x'.join(map(str, plan.sizes[layer]))}{shared}",
        ]

    @property
    def has_probabilities(self):
        """Whether a score has a probability: a single linear unit has none, a segmentation one for each pixel."""
        return not self.plan.segments and self.plan.class_count > 1

    def probabilities_of(self, logits):
        """float (N, C) -> (N, C): what the network makes of its logits, or what is left to us.

        None where there are no probabilities, see `has_probabilities`.
        """
        if not self.has_probabilities:
            return None
        return probabilities_of(logits, "sigmoid" if self.plan.two_sided else self.plan.ending)

    def groups_among(self, chosen):
        """The groups among classes that were chosen which have a probability: a sum of sigmoids is none."""
        if not self.has_probabilities or self.plan.ending == "sigmoid":
            return []
        count = len(self.meaning.class_names)
        return [self.class_names[index] for index in chosen if index >= count]

    def with_groups(self, probabilities, names):
        """Append the probability of each of the groups, the sum over its classes: (N, C) -> (N, C + groups)."""
        if probabilities is None or not names:
            return probabilities
        sums = [probabilities[:, self.groups[name]].sum(axis=1) for name in names]
        return np.column_stack((probabilities, *sums))


# ---------------------------------------------------------------- what a network may be asked


def input_shape_of(network, meaning, size=None, image_input=None):
    """(H, W, channels) of the photos to feed a network.

    Args:
        network: keras.Model.
        meaning: Meaning or None.
        size: (height, width) that the user asked for, or None.
        image_input: str, name of the input that takes photos, of a network with several.

    Raises:
        UserError: the network takes no photos, its size is open and nobody names one, or is not the one asked for.
    """
    inputs = {tensor.name: tuple(tensor.shape) for tensor in getattr(network, "inputs", None) or []}
    shape = inputs[image_input] if image_input in inputs else getattr(network, "input_shape", None)
    if shape is None and meaning:  # a network of its own code does not say what it takes
        shape = (None, meaning.height, meaning.width, meaning.channels)
    if shape is None:
        raise UserError(
            f"the network {network.name!r} does not say what it takes; expected a functional one around it: image = "
            "keras.Input((height, width, 3)); keras.Model(image, network(image))"
        )
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
            layer.dtype_policy = policy_of(kept, dtype)


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


def check_layer(plan, name):
    """Raise UserError, with the names to choose from, unless the layer exists and its output can be mapped."""
    if name is not None and name not in plan.sizes:
        near = did_you_mean(name, plan.sizes)
        raise UserError(
            f"--layer {name} is not a layer with a spatial output{near} expected one of {some_of(plan.sizes)}"
        )
    if name is None and plan.target is None:
        if not plan.sizes:
            raise UserError("the network has no layer with a spatial output, so it has nothing to map")
        raise UserError(
            "no layer of the network computes features with a spatial output, so that none is the default; expected "
            f"--layer with one of {some_of(plan.sizes)}"
        )


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
            near = did_you_mean(name, ["predicted", "all", *known])
            raise UserError(
                f"--classes {name} is not a class{near} expected predicted, all, an index below {len(class_names)}, or "
                f"one of {some}"
            )
    return list(dict.fromkeys(chosen))


def complete_meaning(meaning, source, preprocess, names, plan, shape):
    """The Meaning of a network's input and output, and where it has what becomes of a pixel from, in words.

    Args:
        meaning: Meaning, what the file says, or None.
        source, preprocess: as for `Subject`.
        names: list of str, the class names that the user or the file gives, or None.
        plan: Survey of the network.
        shape: (H, W, channels) of its input.

    Raises:
        UserError: nobody says what the network makes of a pixel, or the class names are not as many as its outputs.
    """
    if preprocess:
        preprocessing, whose = parse_preprocessing(preprocess), f"--preprocess {preprocess}{rescaled(plan, preprocess)}"
    elif meaning:
        preprocessing = {name: getattr(meaning, name) for name in ("scale", "offset", "bgr")}
        whose = "as it was trained"
    elif plan.rescaling:
        check_rescaling(plan)
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
    if names is None and count == 1:
        names = ["output"]
    elif names is None:
        names = imagenet_names() if count == 1000 else [f"class_{index}" for index in range(count)]
    if len(names) != count:
        raise UserError(f"{len(names):,} class names for {count:,} outputs of the network; expected one each")
    interpolation = meaning.interpolation if meaning else "area"
    return Meaning(names, *shape, **preprocessing, interpolation=interpolation), whose


def pixel_range(plan, preprocessing):
    """(lowest, highest) of what the layers that rescale at a network's beginning make of pixels of 0..255."""
    scale, offset = plan.pixels
    ends = np.multiply.outer([0.0, 255.0], np.asarray(preprocessing["scale"])) + np.asarray(preprocessing["offset"])
    found = np.reshape(ends, (2, -1)) * scale + offset  # (2, C)
    return found.min(), found.max()


def check_rescaling(plan):
    """Make sure that a network which rescales pixels at its beginning does so from 0..255.

    Raises:
        UserError: pixels of 0..255 come out of its layers far from zero, so that it was trained on another range.
    """
    lowest, highest = pixel_range(plan, PREPROCESSING["none"])
    if max(-lowest, highest) > A_FEW_UNITS:
        raise UserError(
            f"the network's layer {plan.rescaling!r} turns pixels of 0..255 into {lowest:.4g}..{highest:.4g}, as if it "
            "was trained on others; expected --preprocess 0.00392157,0 if on 0..1, or --preprocess none if on 0..255"
        )


def rescaled(plan, preprocess):
    """Words for what a network's own layers make of pixels that --preprocess has changed already."""
    if not plan.rescaling:
        return ""
    lowest, highest = pixel_range(plan, parse_preprocessing(preprocess))
    return f", and its layer {plan.rescaling!r} rescales after that: 0..255 becomes {lowest:.4g}..{highest:.4g}"


def check_outputs(outputs, logits, ending):
    """Make sure that the logits found in the network are those behind its outputs, both finite numbers.

    Raises:
        UserError: they are not.
    """
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


def zero_maps_of(photo, maps, found, index, method, counterfactual):
    """Which of a photo's maps are zero everywhere, and why: list of str.

    Args:
        photo: Photo.
        maps: dict of kind -> dict of class name -> array, in the order of the classes explained.
        found: Explanation of its batch, NumPy arrays.
        index: int, of the photo in the batch.
        method: Method.
        counterfactual: bool.
    """
    zero = []
    for kind in ("gradcam", "guided_backprop"):
        for row, (name, values) in enumerate(maps.get(kind, {}).items()):
            if not values.any():
                strength = None if found.strengths is None else found.strengths[row, index]
                why = why_zero(method, counterfactual, found.features[index], strength)[kind]
                zero.append(f"{kind}_for_{name} of {photo.name}: {why}")
    return zero


def why_zero(method, counterfactual, features, strength):
    """Why a map of a method, and why guided gradients may be zero everywhere: dict of kind -> a sentence's end.

    Args:
        method: Method.
        counterfactual: bool.
        features: float32 (h, w, K).
        strength: float, the largest magnitude of the score's gradients there, or None where none were taken.
    """
    if strength == 0:
        cut = "its score's gradients are all zero there: it does not depend on the layer, or an activation is saturated"
    elif not features.any():
        cut = "the layer's features are zero there"
    elif method.signed or method.needs == "nothing":
        cut = "the class's score does not depend on the layer there"
    else:
        cut = "its weighted features are nowhere positive, and the ReLU cuts what is negative"
        if method.needs == "gradients" and not counterfactual:
            cut += "; --counterfactual shows that"
    return {"gradcam": cut, "guided_backprop": "no positive gradient reaches the photo"}
