"""A classifier ready to be explained: a network, what it is made of, what its numbers mean, what may be asked of it."""

from collections import Counter
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from camlib.attribution.heads import Signature, signature_of
from camlib.attribution.inspection import check_axes, check_place, inspect_network, some_of
from camlib.attribution.tracing import trace_calls
from camlib.backend import traced, usual_settings
from camlib.console import UserError, did_you_mean, shown_shape
from camlib.files import MOST_PIXELS
from camlib.networks.checkpoint import load_network
from camlib.photos import as_photos, network_input
from camlib.photos.resizing import Cover
from camlib.precision import own_dtype, same_outputs, set_dtype
from camlib.preprocessing import (
    IMAGENET_GROUPS,
    INTERPOLATIONS,
    ORIGINAL_CLASSES,
    OWN_PREPROCESSING,
    PREPROCESSING,
    InputSpec,
    are_channels,
    fit_share,
    imagenet_names,
    numbered_names,
    parse_preprocessing,
    probabilities_of,
    read_class_names,
    size_name,
)

HEAD_OPTIONS = {"head", "region", "image_input", "other_inputs"}  # of networks with several inputs or outputs
A_FEW_UNITS = 20  # how far from zero pixels that a network has rescaled may lie


@dataclass(frozen=True)
class NetworkOptions:
    """What the user says of a network; None and False leave it to the file.

    Attributes:
        preprocess: str, what becomes of a pixel of 0..255, as after --preprocess.
        interpolation: a key of INTERPOLATIONS, how photos are resized.
        fit: as after --fit, how they are brought to the network's proportions.
        bands: three int, counted from 1, which of more than three channels are shown.
        class_names: list of str, or Path of a text file, one class a line.
        size: (height, width) of the network's input where it is open.
        dtype: one of FLOAT_TYPES, what it computes in.
        architecture: Path of what `model.to_json()` wrote, for a file of weights alone.
        trust: bool, let the file run code.
        largest: float, GB of the file at most.
        head: str, name or index of the output to explain.
        region: Path of a picture, bright where the scores of a segmentation are added up.
        image_input: str, name of the input that takes photos.
        other_inputs: Path of a .npz with the other inputs.
        most_pixels: int, of the region's picture.
        name: str, what the network is called in messages; None for where it comes from.
    """

    preprocess: str | None = None
    interpolation: str | None = None
    fit: str | None = None
    bands: list | None = None
    class_names: Path | list | None = None
    size: tuple | None = None
    dtype: str | None = None
    architecture: Path | None = None
    trust: bool = False
    largest: float | None = None
    head: str | None = None
    region: Path | None = None
    image_input: str | None = None
    other_inputs: Path | None = None
    most_pixels: int = MOST_PIXELS
    name: str | None = None


class Classifier:
    """A network ready to be explained.

    Attributes:
        network: keras.Model; it computes in `dtype` from now on.
        structure: `camlib.attribution.inspection.Structure`.
        dtype: one of FLOAT_TYPES.
        input_spec: InputSpec.
        origin: str, who says what becomes of a pixel.
        groups: dict of name -> list of class indices, classes that can be asked for together.
        class_names: list of str, its classes and then its groups.

    Args:
        network: keras.Model, images to logits or probabilities.
        input_spec: InputSpec, what its file says, or None.
        source: where the network comes from, for messages.
        options: as for NetworkOptions.

    Raises:
        UserError: the network does not take photos, nobody says what it makes of a pixel, or what was asked for does
            not fit it.
    """

    def __init__(
        self,
        network: keras.Model,
        input_spec: InputSpec | None = None,
        source: str | PathLike | None = None,
        **options: Any,
    ) -> None:
        chooses = not HEAD_OPTIONS.isdisjoint(options)
        options = NetworkOptions(**options)
        self.network, self.source = network, options.name or source or f"the network {network.name!r}"
        signature = signature_of(network, options) if chooses else None
        self.dtype = options.dtype or own_dtype(network)
        shape = input_shape_of(network, input_spec, options.size, options.image_input)
        with same_outputs(network, signature or Signature(), shape, self.dtype):
            set_dtype(network, self.dtype)
        structure = inspect_network(network, shape, signature)
        names = input_spec.class_names if input_spec else None
        if options.class_names is not None:
            names = read_class_names(options.class_names)
        if structure.units == 1 and structure.output_activation == "linear" and names and len(names) == 2:
            structure = replace(structure, two_sided=True)
        self.structure = structure
        self.input_spec, self.origin = complete_input_spec(input_spec, self.source, options, names, structure, shape)
        self.groups = IMAGENET_GROUPS if self.input_spec.class_names == imagenet_names() else {}
        self.class_names = [*self.input_spec.class_names, *self.groups]

    @classmethod
    def load(cls, source: str | PathLike, **options: Any) -> "Classifier":
        """Load a network from a file, or by a name of keras.applications.

        Args:
            source: Path or str.
            options: as for NetworkOptions.

        Raises:
            UserError: as `camlib.networks.checkpoint.load_network`, and as for the class.
        """
        asked = NetworkOptions(**options)
        network, input_spec = load_network(source, asked.trust, asked.architecture, asked.largest)
        return cls(network, input_spec, source, **options)

    def layer_to_map(self, layer=None):
        """The path of the layer whose output is mapped: the one asked for, or the default.

        Raises:
            UserError: there is no such layer, its output has no rows and columns, these are not the photo's, or the
                part of the photo that it covers is not known.
        """
        check_layer(self.structure, layer)
        chosen = layer or self.structure.target
        check_axes(self.network, self.structure, chosen, self.input_spec, asked=layer is not None)
        check_place(self.network, self.structure, chosen, self.input_spec)
        return chosen

    def cover_of(self, layer):
        """The Cover of a photo by the maps of a layer, a path, or with None by maps of all of the network's input."""
        extent = self.structure.extent_of(layer) if layer else None
        return Cover(extent, self.input_spec.shape[:2], self.input_spec.fit)

    def photos(self, given):
        """N photos, see `as_photos`, as a list of uint8 (H, W, 3).

        Raises:
            UserError: they are no photos, or floats of 0..1 for a network that is said to take pixels as they are.
        """
        spec = self.input_spec
        as_they_are = self.origin.startswith("--preprocess") and (spec.scale, spec.offset) == (1, 0)
        return as_photos(given, spec.channels, as_they_are and not self.structure.rescaling)

    def inputs(self, photos):
        """N photos, see `as_photos`, at the network's size and channels: uint8 (N, height, width, channels).

        Raises:
            UserError: as of `photos`.
        """
        return self.at_size(self.photos(photos))

    def at_size(self, photos):
        """Photos as `photos` returns them, at the network's size and channels: as of `inputs`."""
        return np.stack([network_input(photo, self.input_spec) for photo in photos])

    def prepare(self, images):
        """Turn uint8 (N, H, W, channels), of the network's input size, into its input: float64 if it computes so."""
        return self.input_spec.prepare(images, np.float64 if self.dtype == "float64" else np.float32)

    def checked_logits(self, outputs, logits, *maps):
        """The logits float (N, C) after `check_outputs`; NaN for photos with a number that is not finite.

        The outputs of a segmentation are means over pixels, no function of its scores. They are not compared.

        Args:
            outputs, logits: float (N, C).
            maps: float (R, N, ...) or None, what was made of the photos.
        """
        known = np.isfinite(outputs).all(axis=1) & np.isfinite(logits).all(axis=1)
        for values in maps:
            if values is not None:
                known &= np.isfinite(values).all(axis=tuple(axis for axis in range(values.ndim) if axis != 1))
        if known.any() and not self.structure.segments:
            check_outputs(outputs[known], logits[known], self.structure.output_activation, self.dtype)
        return np.where(known[:, None], logits, np.nan)

    @property
    def description(self):
        """What the network is fed with and which classes it knows, for the user."""
        names, known = self.input_spec.class_names, ""
        if tuple(names) == ORIGINAL_CLASSES:
            known = f"\nit knows {', '.join(names)} only; gradcam_vgg16.py --weights imagenet knows 1,000 classes"
        elif names == numbered_names(len(names)):
            known = f"\nits classes are called {names[0]} to {names[-1]}; --class-names FILE names them"
        return f"network {self.source}: {self.input_spec.preprocessing}, {self.origin}{known}"

    @property
    def has_probabilities(self):
        """Whether a score has a probability: a single linear unit has none, a segmentation one for each pixel."""
        return not self.structure.segments and self.structure.class_count > 1

    def probabilities(self, logits):
        """float (N, C) -> (N, C): what the network makes of its logits, or what is left to us.

        None where there are no probabilities, see `has_probabilities`.
        """
        if not self.has_probabilities:
            return None
        return probabilities_of(logits, "sigmoid" if self.structure.two_sided else self.structure.output_activation)

    def groups_among(self, chosen):
        """The groups among classes that were chosen which have a probability: a sum of sigmoids is none."""
        if not self.has_probabilities or self.structure.output_activation == "sigmoid":
            return []
        count = len(self.input_spec.class_names)
        return [self.class_names[index] for index in chosen if index >= count]

    def with_groups(self, probabilities, names):
        """Append the probability of each of the groups, the sum over its classes: (N, C) -> (N, C + groups)."""
        if probabilities is None or not names:
            return probabilities
        sums = [probabilities[:, self.groups[name]].sum(axis=1) for name in names]
        return np.column_stack((probabilities, *sums))


# ---------------------------------------------------------------- what a network may be asked


def input_shape_of(network, input_spec, size=None, image_input=None):
    """(H, W, channels) of the photos to feed a network.

    Args:
        network: keras.Model.
        input_spec: InputSpec or None.
        size: (height, width) that the user asked for, or None.
        image_input: str, name of the input that takes photos, of a network with several.

    Raises:
        UserError: the network takes no photos, its size is open and nobody names one, or is not the one asked for.
    """
    inputs = {tensor.name: tuple(tensor.shape) for tensor in getattr(network, "inputs", None) or []}
    shape = inputs[image_input] if image_input in inputs else getattr(network, "input_shape", None)
    if shape is None and input_spec:  # a network of its own code does not say what it takes
        shape = (None, input_spec.height, input_spec.width, input_spec.channels)
    if shape is None:
        raise UserError(
            f"the network {network.name!r} does not say what it takes; expected a functional one around it: image = "
            "keras.Input((height, width, 3)); keras.Model(image, network(image))"
        )
    if isinstance(shape, tuple) and len(shape) == 3 and len(inputs) < 2 and is_grey_without_channels(network, shape):
        shape = (*shape, 1)
    if not isinstance(shape, tuple) or len(shape) != 4 or not are_channels(shape[3]):
        found = shown_shape(shape) if isinstance(shape, tuple) else f"{len(inputs)} inputs ({', '.join(inputs)})"
        which = "" if isinstance(shape, tuple) else ": image_input= or --image-input names it"
        expected = f"expected one input of photos, (N, H, W, 1 or 3, or bands){which}"
        raise UserError(f"the network {network.name!r} takes {found}; {expected}")
    own = size or ((input_spec.height, input_spec.width) if input_spec else (None, None))
    height, width = (fixed or wanted for fixed, wanted in zip(shape[1:3], own, strict=True))
    if height is None or width is None:
        raise UserError(
            f"the network {network.name!r} takes photos of any size and its file names none; expected --size N or HxW"
        )
    if size and (height, width) != size:
        raise UserError(f"--size {size_name(*size)}: the network {network.name!r} takes {height}x{width} only")
    return height, width, shape[3]


def is_grey_without_channels(network, shape):
    """Whether a network's input (N, H, W) becomes (N, H, W, 1) in it: grey photos, from which Keras drops the 1."""
    if None in shape[1:]:
        return False
    seen = []

    def look(images):
        with trace_calls() as trace:
            outputs = network(images, training=False)
        sizes = (tuple(getattr(call.output, "shape", ()))[1:] for call in trace.calls)
        seen.append([size for size in sizes if len(size) == 3])
        return outputs

    traced(look, (1, *shape[1:]))
    return seen[-1][:1] == [(*shape[1:], 1)]


def check_layer(structure, name):
    """Raise UserError, with the names to choose from, unless the layer exists and its output can be mapped."""
    some = some_of(structure.sizes)
    if name is not None and name not in structure.sizes:
        near = did_you_mean(name, structure.sizes)
        raise UserError(f"--layer {name} is not a layer with a spatial output{near} expected one of {some}")
    if not structure.sizes:
        raise UserError("the network has no layer with a spatial output, so it has nothing to map")
    if name is None and structure.target is None:
        raise UserError(
            "no layer of the network computes features with a spatial output, so that none is the default; expected "
            f"--layer with one of {some}"
        )


def check_guided(structure, way_out, method=""):
    """Raise UserError, which ends with `way_out`, where guided backpropagation, or the deconvnet, is not defined.

    The deconvnet is of ReLUs without slope and limit alone.
    """
    others, no_relu, rule = structure.others, "no ReLU that is known as one", "guided backpropagation"
    if method == "deconvnet":
        others, rule = others + [relu for relu in structure.relus if relu[1] != "ReLU"], "the deconvnet"
        no_relu += ", or not a plain one"
    if others:
        path, kind = others[0]
        where = f"layer {path!r}" if path else "the network's own code"
        more = f" and {len(others) - 1} more activations are" if len(others) > 1 else " is"
        raise UserError(f"{where} ({kind}){more} {no_relu}, and {rule} is not defined there; {way_out}")


def announce_guided(structure):
    """Say where guided backpropagation changes the gradient."""
    kinds = Counter(kind for _, kind in structure.relus)
    said = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    print(f"guided backpropagation through {said or 'no ReLU'}")


def complete_input_spec(input_spec, source, options, names, structure, shape):
    """The InputSpec of a network's input and output, and where it has what becomes of a pixel from, in words.

    Args:
        input_spec: InputSpec, what the file says, or None.
        source: where the network comes from, for messages.
        options: NetworkOptions.
        names: list of str, the class names that the user or the file gives, or None.
        structure: Structure of the network.
        shape: (H, W, channels) of its input.

    Raises:
        UserError: nobody says what the network makes of a pixel, or the class names are not as many as its outputs.
    """
    if options.preprocess:
        preprocessing = parse_preprocessing(options.preprocess, shape[2] > 3)
        origin = f"--preprocess {options.preprocess}{rescaled_again(structure, preprocessing)}"
    elif input_spec:
        preprocessing = {name: getattr(input_spec, name) for name in ("scale", "offset", "bgr")}
        origin = "as it was trained"
    elif structure.rescaling:
        check_rescaling(structure)
        preprocessing, origin = PREPROCESSING["none"], f"since its layer {next(iter(structure.rescaling))!r} rescales"
    else:
        raise UserError(
            f"nothing says what {source} makes of a pixel; expected --preprocess as the network was trained "
            f"with: {', '.join(PREPROCESSING)}, {' or '.join(OWN_PREPROCESSING)}"
        )
    for values in (preprocessing["scale"], preprocessing["offset"]):
        if isinstance(values, list) and len(values) != shape[2] or preprocessing["bgr"] and shape[2] != 3:
            raise UserError(f"what becomes of a pixel, {origin}, is for RGB; the network takes {shape[2]} channel(s)")
    count = structure.class_count
    if names is None and count == 1:
        names = ["output"]
    elif names is None:
        names = imagenet_names() if count == 1000 else numbered_names(count)
    if len(names) != count:
        raise UserError(f"{len(names):,} class names for {count:,} outputs of the network; expected one each")
    interpolation = options.interpolation or (input_spec.interpolation if input_spec else "area")
    if interpolation not in INTERPOLATIONS:
        near = did_you_mean(str(interpolation), INTERPOLATIONS)
        raise UserError(f"--interpolation {interpolation}{near} expected one of {', '.join(INTERPOLATIONS)}")
    fit = options.fit or (input_spec.fit if input_spec else "whole")
    try:
        fit_share(fit)
    except ValueError as error:
        raise UserError(f"--{error}") from error
    bands = options.bands or (input_spec.bands if input_spec else [1, 2, 3])
    if options.bands and not max(bands) <= shape[2] > 3:
        raise UserError(f"--bands {' '.join(map(str, bands))}: the network takes {shape[2]} channel(s)")
    return InputSpec(names, *shape, **preprocessing, interpolation=interpolation, fit=fit, bands=bands), origin


@usual_settings()  # some of Keras's layers ask at each call
def pixel_range(structure, preprocessing):
    """(lowest, highest) of what the layers that rescale at a network's beginning make of pixels of 0..255."""
    values = np.array([0.0, 255.0])[:, None, None, None] * preprocessing["scale"] + preprocessing["offset"]
    for layer in structure.rescaling.values():
        values = layer(values)
    values = ops.convert_to_numpy(values).astype(np.float64)
    return values.min(), values.max()


def check_rescaling(structure):
    """Make sure that a network which rescales pixels at its beginning does so from 0..255.

    Raises:
        UserError: pixels of 0..255 come out of its layers far from zero, so that it was trained on another range.
    """
    lowest, highest = pixel_range(structure, PREPROCESSING["none"])
    if max(-lowest, highest) > A_FEW_UNITS:
        raise UserError(
            f"the network's layer {next(iter(structure.rescaling))!r} turns pixels of 0..255 into {lowest:.4g}.."
            f"{highest:.4g}, as if it was trained on others; expected --preprocess 0.00392157,0 if on 0..1, or "
            "--preprocess none if on 0..255"
        )


def rescaled_again(structure, preprocessing):
    """Words for what a network's own layers make of pixels that --preprocess has changed already."""
    if not structure.rescaling:
        return ""
    lowest, highest = pixel_range(structure, preprocessing)
    first = next(iter(structure.rescaling))
    return f", and its layer {first!r} rescales after that: 0..255 becomes {lowest:.4g}..{highest:.4g}"


def check_outputs(outputs, logits, output_activation, dtype="float32"):
    """Make sure that the logits found in the network are those behind its outputs, both finite numbers.

    Args:
        outputs, logits: float (N, C).
        output_activation: "softmax", "sigmoid" or "linear".
        dtype: str, what the network computes in: bfloat16 rounds logits by so much that probabilities feel it.

    Raises:
        UserError: they are not.
    """
    linear = output_activation == "linear"
    expected = logits if linear else probabilities_of(logits, output_activation)
    rounding = 2e-2  # as half precision keeps it
    if dtype == "bfloat16":
        rounding += 2**-7 * np.ptp(logits, axis=1, keepdims=True)
    # of a single unit the logits are those of both sides
    if not np.allclose(outputs, expected[:, -outputs.shape[1] :], atol=1e-4, rtol=rounding):
        raise UserError(
            f"the network's outputs are not the {output_activation} of the logits found in it; please report this "
            "network"
        )
    # Logits add up to one only by chance, which the rounding of a softmax leaves little room for
    in_half = np.array_equal(outputs, outputs.astype(np.float16))
    add_up = (outputs >= 0).all() and np.allclose(outputs.sum(axis=1), 1, atol=1e-2 if in_half else 1e-5)
    if linear and outputs.shape[1] > 1 and add_up:
        raise UserError(
            "the network's outputs are probabilities, but no softmax was found that makes them, so that its "
            "logits cannot be told; expected a network that ends in softmax, sigmoid or neither"
        )
