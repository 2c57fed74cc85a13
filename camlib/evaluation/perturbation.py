"""What a network says of changed photos: deletion, insertion, and any other change, in batches."""

from functools import partial

import numpy as np
from keras import ops

from camlib.backend import compiled

PHOTOS_AT_ONCE = 20  # changed photos per forward pass, at most


def probability(network, output_activation, images, targets):
    """The sum of the probabilities of each target's classes: float32 (N,).

    Logits become probabilities by softmax. Of one output the second class's probability is that, or its sigmoid.
    """
    outputs = ops.cast(network(images, training=False), "float32")
    if outputs.shape[-1] == 1:  # one unit stands for two classes
        second = ops.sigmoid(outputs) if output_activation == "linear" else outputs
        outputs = ops.concatenate((1 - second, second), axis=-1)
    elif output_activation == "linear":
        outputs = ops.softmax(outputs, axis=-1)
    return ops.sum(outputs * ops.cast(targets, "float32"), axis=-1)


def filled_chunks(count, size):
    """The numbers below `count` in rows of one size, int (R, size); the last row is filled up with the last."""
    return np.minimum(np.arange(-(-count // size) * size), count - 1).reshape(-1, size)


def probability_function(network, output_activation):
    """Compile the probability of a target among changed photos.

    Args:
        network: keras.Model, images to logits or probabilities.
        output_activation: "softmax", "sigmoid" or "linear", what the network ends in.

    Returns:
        function of (images float32 (N, H, W, channels), targets bool (N, C)) -> float32 (N,): the sum of the
        probabilities of each target's classes. N may be anything; it is filled up to whole chunks.
    """

    of_chunk = compiled(partial(probability, network, output_activation), network)

    def of_all(images, targets):
        found = [
            of_chunk(ops.convert_to_tensor(images[rows]), ops.convert_to_tensor(targets[rows]))
            for rows in filled_chunks(len(images), PHOTOS_AT_ONCE)
        ]
        return np.concatenate([ops.convert_to_numpy(part) for part in found])[: len(images)]

    return of_all


def deletion_insertion_function(network, output_activation, steps):
    """Compile the deletion and insertion curves of a photo (Petsiuk et al. 2018, section 3.2 and algorithm 1).

    Deletion replaces ever more of the photo by the fill, what the map holds for most relevant first; insertion starts
    with the fill and puts the photo's pixels in, in the same order. Pixels are exchanged on the device, 2 steps photos
    for both curves.

    Args:
        network: keras.Model.
        output_activation: as in `probability_function`.
        steps: int, of equal numbers of pixels.

    Returns:
        function of (image float32 (H, W, channels), fill of the same shape, order float32 (H, W) from `pixel_order`,
        target bool (C,)) -> (deletion, insertion), float32 (steps + 1,): the target's probability at each share.
    """
    # what is kept of the photo: pixels whose rank is in [first, last). Deletion's ends are insertion's too.
    shares = np.arange(steps + 1, dtype=np.float32) / steps
    first = np.concatenate((shares, np.zeros(steps - 1, np.float32)))
    last = np.concatenate((np.full(steps + 1, 2, np.float32), shares[1:-1]))
    chosen = filled_chunks(2 * steps, min(PHOTOS_AT_ONCE, 2 * steps))

    def of_kept(image, fill, order, first, last, target):
        kept = (order >= first[:, None, None]) & (order < last[:, None, None])  # (chunk, H, W)
        return probability(network, output_activation, ops.where(kept[..., None], image, fill), target)

    of_kept = compiled(of_kept, network)

    def curves(image, fill, order, target):
        image, fill, order, target = (ops.convert_to_tensor(part) for part in (image, fill, order, target))
        ends = [[ops.convert_to_tensor(bound[rows]) for bound in (first, last)] for rows in chosen]
        parts = [ops.convert_to_numpy(of_kept(image, fill, order, *pair, target)) for pair in ends]
        found = np.concatenate(parts)[: 2 * steps]
        deletion = found[: steps + 1]
        return deletion, np.concatenate((deletion[-1:], found[steps + 1 :], deletion[:1]))

    return curves
