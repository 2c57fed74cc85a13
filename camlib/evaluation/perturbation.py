"""What a network says of changed photos: deletion, insertion, and any other change, in batches."""

import numpy as np
from keras import ops

from camlib.backend import compiled

PHOTOS_AT_ONCE = 20  # changed photos per forward pass, at most


def probabilities_in(outputs, output_activation):
    """A network's outputs (N, C) as float32 probabilities; if it ends in logits, softmax, or sigmoid of one output."""
    outputs = ops.cast(outputs, "float32")
    if outputs.shape[-1] == 1:  # one unit stands for two classes
        second = ops.sigmoid(outputs) if output_activation == "linear" else outputs
        return ops.concatenate((1 - second, second), axis=-1)
    return ops.softmax(outputs, axis=-1) if output_activation == "linear" else outputs


def probability_function(network, output_activation):
    """Compile the probability of a target among changed photos.

    Args:
        network: keras.Model, images to logits or probabilities.
        output_activation: "softmax", "sigmoid" or "linear", what the network ends in.

    Returns:
        function of (images float32 (N, H, W, channels), targets bool (N, C)) -> float32 (N,): the sum of the
        probabilities of each target's classes. N may be anything; it is filled up to whole chunks.
    """

    def probability(images, targets):
        probabilities = probabilities_in(network(images, training=False), output_activation)
        return ops.sum(probabilities * ops.cast(targets, "float32"), axis=-1)

    probability = compiled(probability, network)

    def of_all(images, targets):
        count = len(images)
        chosen = np.minimum(np.arange(-(-count // PHOTOS_AT_ONCE) * PHOTOS_AT_ONCE), count - 1).reshape(
            -1, PHOTOS_AT_ONCE
        )
        found = [
            probability(ops.convert_to_tensor(images[rows]), ops.convert_to_tensor(targets[rows])) for rows in chosen
        ]
        return np.concatenate([ops.convert_to_numpy(part) for part in found])[:count]

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
    chunk = min(PHOTOS_AT_ONCE, 2 * steps)
    chosen = np.minimum(np.arange(-(-2 * steps // chunk) * chunk), 2 * steps - 1).reshape(-1, chunk)

    def probability(image, fill, order, first, last, target):
        kept = (order >= first[:, None, None]) & (order < last[:, None, None])  # (chunk, H, W)
        images = ops.where(kept[..., None], image, fill)
        probabilities = probabilities_in(network(images, training=False), output_activation)
        return ops.sum(probabilities * ops.cast(target, "float32"), axis=-1)

    probability = compiled(probability, network)

    def curves(image, fill, order, target):
        image, fill, order, target = (ops.convert_to_tensor(part) for part in (image, fill, order, target))
        parts = [
            probability(
                image, fill, order, ops.convert_to_tensor(first[rows]), ops.convert_to_tensor(last[rows]), target
            )
            for rows in chosen
        ]
        found = np.concatenate([ops.convert_to_numpy(part) for part in parts])[: 2 * steps]
        deletion = found[: steps + 1]
        return deletion, np.concatenate((deletion[-1:], found[steps + 1 :], deletion[:1]))

    return curves
