"""What the four-class networks say of pictures that hold none of their classes, and whether their confidence tells.

    python benchmarks/negatives.py                                    # the demo set's backgrounds; four minutes
    python benchmarks/negatives.py --negatives my_furniture --positives photos/val
    python benchmarks/negatives.py --outside data/photos my_set --positives photos/val

A softmax over four classes has to name one of them. The table has the share of the negatives that each class is named
for, how sure the network is (the largest probability), and whether that probability tells negatives from positives
(Hendrycks and Gimpel 2017): AUROC, the chance that a positive has more of it than a negative, and FPR95, the share of
the negatives that pass a threshold which 95 % of the positives pass. Negatives by default are the scenes that the demo
set is drawn on, without animals; of annotated photos the largest square that no annotated animal is on, of 48 pixels a
side at least. Positives by default are the demo set's `val`.
"""

import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import camlib.backend  # noqa: F401  keeps TensorFlow's start-up lines off the screen

# isort: split
import numpy as np
from scipy.ndimage import distance_transform_cdt
from scipy.stats import mannwhitneyu

from camlib.console import ArgumentParser, UserError, counted, print_table, run_script, whole_number
from camlib.demo.backgrounds import draw_background
from camlib.demo.scenes import demo_folder
from camlib.evaluation.annotations import find_items
from camlib.evaluation.scoring import truth_of
from camlib.networks import GAP_NETWORK, VGG_NETWORK
from camlib.networks.checkpoint import load_known_network
from camlib.photos import PhotoError, find_photos, in_parallel, network_input, read_network_input, read_photo

SEED, SIDE = 7, 128  # of the backgrounds; no picture of the demo set has this seed
SHIPPED = [GAP_NETWORK, VGG_NETWORK]
BATCH = 32
PASSING = 95  # percent of the positives
LEAST_SQUARE = 48  # pixels


def parse_arguments(arguments=None):
    parser = ArgumentParser(__doc__)
    networks, drawn = "networks of this project; default: the two shipped", "backgrounds drawn in their place"
    parser.add_argument("--networks", type=Path, nargs="+", default=SHIPPED, metavar="FILE", help=networks)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--negatives", type=Path, metavar="DIR", help="photos with none of the classes")
    outside = "annotated sets, see data/README.md: what lies beside their animals"
    source.add_argument("--outside", type=Path, nargs="+", default=[], metavar="PLACE", help=outside)
    parser.add_argument("--positives", type=Path, metavar="DIR", help="photos of the classes; default: data/demo/val")
    parser.add_argument("--count", type=whole_number(2, 100_000), default=400, metavar="N", help=drawn)
    return parser.parse_args(arguments)


def separation(positives, negatives):
    """How well a number tells positives from negatives.

    Args:
        positives, negatives: float (N,), (M,); positives should have more.

    Returns:
        (auroc, fpr95): floats. AUROC counts ties as half; FPR95 is the share of the negatives at or above the largest
        threshold that 95 % of the positives reach.
    """
    auroc = mannwhitneyu(positives, negatives).statistic / (len(positives) * len(negatives))
    threshold = np.sort(positives)[len(positives) * (100 - PASSING) // 100]
    return float(auroc), float((np.asarray(negatives) >= threshold).mean())


def pictures_of(folder, input_spec):
    """A folder's photos as a network's inputs, uint8 (N, height, width, channels)."""
    images = []
    for photo, image in in_parallel(lambda photo: read_network_input(photo.path, input_spec), find_photos([folder])):
        if isinstance(image, PhotoError):
            raise UserError(f"{photo.path} cannot be read ({image}); expected photos alone")
        images.append(image)
    return np.stack(images)


def squares_beside(annotations):
    """The largest square of each annotated photo that no annotated animal is on: list of uint8 (s, s, 3), RGB."""
    photos, squares = {}, []
    for item in find_items([], annotations):
        photos.setdefault(item.path, []).append(item)
    for path, items in photos.items():
        try:
            picture = read_photo(path)
            marked = np.logical_or.reduce([truth_of(item, picture.shape[:2]).inside for item in items])
        except PhotoError as error:
            raise UserError(f"{path} cannot be read ({error}); expected photos and annotations alone") from None
        reach = distance_transform_cdt(~np.pad(marked, 1, constant_values=True), "chessboard")[1:-1, 1:-1]
        y, x = np.unravel_index(reach.argmax(), reach.shape)
        half = reach[y, x] - 1
        if 2 * half + 1 >= LEAST_SQUARE:
            squares.append(picture[y - half : y + half + 1, x - half : x + half + 1])
    return squares


def backgrounds(count, input_spec):
    """As `pictures_of`, of scenes without animals."""
    scenes = (draw_background(np.random.default_rng([SEED, index]), SIDE) for index in range(count))
    return np.stack([network_input(scene, input_spec) for scene in scenes])


def squares_outside(places):
    """The squares of several annotated sets.

    Raises:
        UserError: there are none.
    """
    squares = [square for place in places for square in squares_beside(place)]
    if not squares:
        raise UserError(f"no photo has a square of {LEAST_SQUARE} pixels without an animal; expected larger photos")
    return squares


def told_apart(path, negatives_for, positives):
    """What a network says of pictures of none of its classes, beside pictures of them.

    Args:
        path: Path of the network.
        negatives_for: function of its InputSpec -> uint8 (N, height, width, channels).
        positives: Path of photos of the classes.

    Returns:
        (shares, numbers, negatives, positives): {class: share of the negatives that it is named for}; floats, median of
        the negatives' and of the positives' largest probability, share of the negatives at 0.5 and at 0.9 or more,
        AUROC, FPR95; how many pictures there are of both.
    """
    network, input_spec = load_known_network(path)
    both = negatives_for(input_spec), pictures_of(positives, input_spec)
    negatives, positives = (network.predict(input_spec.prepare(one), BATCH, verbose=0) for one in both)  # (N, C)
    names = input_spec.class_names
    shares = np.bincount(negatives.argmax(axis=1), minlength=len(names)) / len(negatives)
    surest, known = negatives.max(axis=1), positives.max(axis=1)
    sure = (surest >= 0.5).mean(), (surest >= 0.9).mean()
    numbers = np.median(surest), np.median(known), *sure, *separation(known, surest)
    return dict(zip(names, shares, strict=True)), numbers, len(negatives), len(positives)


def as_inputs(squares):
    """The function that makes a network's inputs of squares."""
    return lambda spec: np.stack([network_input(np.ascontiguousarray(square), spec) for square in squares])


def main(arguments=None):
    settings = parse_arguments(arguments)
    if settings.outside:
        negatives_for = as_inputs(squares_outside(settings.outside))
    elif settings.negatives:
        negatives_for = partial(pictures_of, settings.negatives)
    else:
        negatives_for = partial(backgrounds, settings.count)
    told = []
    for path in settings.networks:
        shares, numbers, *counts = told_apart(path, negatives_for, settings.positives or demo_folder() / "val")
        named = "  ".join(f"{one} {share:.3f}" for one, share in shares.items())
        told.append([path.stem, named, *(f"{number:.3f}" for number in numbers)])
    count, other = counted(counts[0], "negative"), counted(counts[1], "positive")
    header = ["network", "taken for", "median, negatives", "positives", "≥ 0.5", "≥ 0.9", "AUROC", "FPR95"]
    print_table(f"largest probability of {count} and {other}", header, told)


if __name__ == "__main__":
    run_script(main)
