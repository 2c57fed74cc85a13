"""Whether the rows and columns of what a layer puts out are the photo's."""

import numpy as np
from keras import ops

from camlib.attribution.gradcam import runner
from camlib.backend import compiled
from camlib.console import UserError

LEAST_MOVE = 0.03  # shares of an axis: what moves less is not told from no move


def some_of(names, most=150):
    """The last names of layers, as many as fit into a message."""
    names = list(names)
    while len(", ".join(names)) > most and len(names) > 1:
        names = names[2:] if names[0] == "..." else names[1:]
        names.insert(0, "...")
    return ", ".join(names)


def check_axes(network, plan, layer, meaning, asked):
    """Make sure that the rows and columns of what a layer puts out are the photo's.

    Where nothing but Keras's own layers without rearrangement ran before, they are. Else four photos that differ from a
    fifth in one half are run: what changes at the left of the photo has to change further left in the map than what
    changes at its right, and the same upwards, by more than it moves along the other axis.

    Args:
        network: keras.Model.
        plan: Survey of the network.
        layer: str, its path.
        meaning: Meaning.
        asked: bool, the user named the layer: then it is refused only if the axes are known to be others.

    Raises:
        UserError: the axes are not the photo's, or cannot be known.
    """
    if layer not in plan.in_doubt:
        return
    along, across = axes_moved(network, plan, layer, meaning)
    height, width, _ = plan.sizes[layer]
    if min(height, width) > 1 and (along > np.maximum(LEAST_MOVE, 2 * np.abs(across))).all():
        return
    turned = (along < -LEAST_MOVE) | (np.abs(across) > np.maximum(LEAST_MOVE, 2 * np.abs(along)))
    others = turned.any() or height > meaning.height or width > meaning.width
    if others or not asked:
        found = "are not the photo's" if others else "cannot be told to be the photo's"
        earlier = some_of([name for name in plan.sizes if name != layer])
        raise UserError(
            f"the rows and columns of layer {layer!r} {found}: something before it moves values about; expected "
            f"--layer with one of {earlier}"
        )


def axes_moved(network, plan, layer, meaning):
    """How far what changes in a layer's output moves with what changes in the photo, in shares of each axis.

    Returns:
        (along (2,), across (2,)): from a change of the photo's upper to one of its lower half along the map's rows,
        from left to right along its columns; and along its rows from left to right, its columns from up to down.
    """
    generator = np.random.default_rng(0)
    photos = generator.integers(0, 256, (5, meaning.height, meaning.width, meaning.channels)).astype(np.uint8)
    photos[1:] = photos[0]
    middle_row, middle_column = meaning.height // 2, meaning.width // 2
    halves = (np.s_[:middle_row], np.s_[middle_row:], np.s_[:, :middle_column], np.s_[:, middle_column:])
    for photo, half in zip(photos[1:], halves, strict=True):
        photo[half] = 255 - photo[half]
    values = features_of(network, plan, layer, meaning.prepare(photos)).astype(np.float64)
    changes = np.abs(values[1:] - values[0]).sum(axis=-1)  # (4, h, w)
    total = changes.sum(axis=(1, 2))
    if not (np.isfinite(total).all() and (total > 0).all()):
        return np.zeros(2), np.zeros(2)
    shares = changes / total[:, None, None]
    height, width = shares.shape[1:]
    row = shares.sum(axis=2) @ ((np.arange(height) + 0.5) / height)  # (4,), centres of the changes
    column = shares.sum(axis=1) @ ((np.arange(width) + 0.5) / width)
    return np.array([row[1] - row[0], column[3] - column[2]]), np.array([row[3] - row[2], column[1] - column[0]])


def features_of(network, plan, layer, inputs):
    """What a layer puts out in its last run, as (N, h, w, K): a NumPy array."""
    run = runner(network, plan, [layer])

    def features(inputs):
        kept = {}
        run(inputs, lambda path, output: kept.setdefault(path, output))
        return plan.as_picture(layer, kept[layer])

    # compiled, since what every layer puts out at once would fill the memory
    return ops.convert_to_numpy(compiled(features, network)(ops.convert_to_tensor(inputs)))
