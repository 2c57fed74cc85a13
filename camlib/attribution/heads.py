"""Networks with several inputs or several outputs (heads), or with a score for each pixel: what is asked of them."""

import zipfile
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import keras
import numpy as np
from keras import ops

from camlib.console import UserError, did_you_mean, first_line, shown_shape
from camlib.files import PACKING_ERRORS, array_in, refuse_no_file
from camlib.photos import PhotoError, read_photo


@dataclass(frozen=True)
class Signature:
    """How a network is called: what it is fed with, and which of its outputs is explained.

    Attributes:
        feed: function of images (N, H, W, channels) -> the network's inputs.
        head: name or index of the output, or None for the only one.
        region: bool (h, w), the pixels of a segmentation whose scores are added up, at the size of its output once
            inspected; or None for those that the network gives to the class.
    """

    feed: Callable = staticmethod(lambda images: images)
    head: str | int | None = None
    region: object = None

    def run(self, network, images):
        """The output asked for."""
        _, output = output_named(network, network(self.feed(images), training=False), self.head)
        return output


def heads_of(network, outputs):
    """A network's outputs by their names: dict; a single one has the name None."""
    if not isinstance(outputs, (dict, list, tuple)):
        return {None: outputs}
    named = isinstance(outputs, dict)
    flat = keras.tree.flatten([*outputs.values()] if named else outputs)
    names = [*map(str, outputs)] if named else getattr(network, "output_names", None) or []
    if len(set(names)) != len(flat):
        names = [f"output_{index}" for index in range(len(flat))]
    return dict(zip(names, flat, strict=True))


def output_named(network, outputs, wanted):
    """(name, tensor) of the output that the user asked for by name or index.

    Raises:
        UserError: the network has several outputs and none was asked for, or there is no such output.
    """
    heads = heads_of(network, outputs)
    if wanted is None and len(heads) == 1:
        return next(iter(heads.items()))
    if None in heads:
        raise UserError(f"--head {wanted}: the network {network.name!r} has one output only")
    known = ", ".join(f"{name} {shown_shape(output.shape)}" for name, output in heads.items())
    if wanted is None:
        raise UserError(f"the network {network.name!r} has {len(heads)} outputs; expected --head with one of {known}")
    if wanted not in heads and str(wanted).isdecimal() and int(wanted) < len(heads):
        wanted = list(heads)[int(wanted)]
    if wanted not in heads:
        near = did_you_mean(str(wanted), heads)
        raise UserError(f"--head {wanted} is no output of the network {network.name!r}{near} expected one of {known}")
    return wanted, heads[wanted]


def region_at(region, network, outputs):
    """A region, bool (H, W), at the size of a segmentation's outputs (N, h, w, C).

    Raises:
        UserError: the network has no score for each pixel, or nothing of the region is left.
    """
    if len(outputs.shape) != 4:
        raise UserError(
            f"--region: the network {network.name!r} has no score for each pixel, so that it has no regions"
        )
    height, width = outputs.shape[1:3]
    found = cv2.resize(region.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST) > 0
    if not found.any():
        raise UserError(f"--region: nothing of it is left at the network's {height}x{width}; expected a larger one")
    return found


def signature_of(network, options):
    """The Signature for what the user asked for.

    Args:
        network: keras.Model.
        options: NetworkOptions.

    Raises:
        UserError: a file cannot be read, or an input is not as the network has it.
    """
    region = None
    if options.region:
        try:
            picture = read_photo(options.region, most_pixels=options.most_pixels)
        except PhotoError as error:
            raise UserError(f"--region {options.region}: {error}; expected a picture, bright on the region") from error
        region = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) > 127
    return Signature(feed_of(network, options.image_input, options.other_inputs), options.head, region)


def feed_of(network, image_input, other_inputs):
    """The function images -> the network's inputs.

    Args:
        network: keras.Model.
        image_input: str, name of the input that takes photos, or None.
        other_inputs: Path of a .npz with the others, or None.

    Raises:
        UserError: the network has several inputs and not all are given, or they do not fit.
    """
    inputs = {tensor.name: tuple(tensor.shape) for tensor in getattr(network, "inputs", None) or []}
    if len(inputs) < 2:
        if image_input or other_inputs:
            raise UserError(f"--image-input and --other-inputs: the network {network.name!r} has one input only")
        return Signature().feed
    known = ", ".join(f"{name} {shown_shape(shape)}" for name, shape in inputs.items())
    if image_input not in inputs:
        found = f"--image-input {image_input} is none of them" if image_input else "one of them takes the photos"
        near = did_you_mean(image_input or "", inputs)
        raise UserError(
            f"the network {network.name!r} has several inputs, {found}{near} expected --image-input with one of {known}"
        )
    others = {name: shape for name, shape in inputs.items() if name != image_input}
    values = read_other_inputs(other_inputs, others)

    def feed(images):
        count = ops.shape(images)[0]
        repeated = {name: ops.broadcast_to(value, (count, *value.shape[1:])) for name, value in values.items()}
        flat = [images if name == image_input else repeated[name] for name in inputs]
        return keras.tree.pack_sequence_as(network.input, flat)

    return feed


def read_other_inputs(path, shapes):
    """Arrays (1, ...) by the names of a network's inputs.

    Args:
        path: Path of a .npz, or None.
        shapes: dict of name -> shape with the batch.

    Raises:
        UserError: the file cannot be read, or lacks an input of that shape.
    """
    wanted = ", ".join(f"{name} {shape[1:]}" for name, shape in shapes.items())
    if path is None:
        raise UserError(
            f"the network takes {wanted} beside the photos; expected --other-inputs FILE.npz with these arrays"
        )
    values, member = {}, ""
    try:
        refuse_no_file(path)
        with zipfile.ZipFile(path) as archive:
            for member in [f"{name}.npy" for name in shapes if f"{name}.npy" in archive.namelist()]:
                with archive.open(member) as file:
                    values[member.removesuffix(".npy")] = array_in(file, archive.getinfo(member).file_size)
    except (OSError, ValueError, EOFError, RuntimeError, *PACKING_ERRORS) as error:
        where = f"{path}, {member}," if member else path
        raise UserError(f"--other-inputs {where} cannot be read ({first_line(error)}); expected a .npz file") from error
    for name, (_, *shape) in shapes.items():
        value = values.get(name)
        if value is not None and value.ndim == len(shape):
            value = value[None]
        if value is None or not fits(value.shape, (1, *shape)):
            found = "nothing" if value is None else f"shape {value.shape[1:]}"
            raise UserError(f"--other-inputs {path} has {found} for {name}; expected {wanted}")
        values[name] = value
    return values


def fits(shape, wanted):
    """Whether a shape is the one that is wanted, where None stands for any number."""
    return len(shape) == len(wanted) and all(b in (None, a) for a, b in zip(shape, wanted, strict=True))
