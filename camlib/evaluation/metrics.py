"""How good a map is: where it points, whether the network uses what it shows, whether it depends on the network at all.

Everything here is NumPy: maps and truth in, numbers out. A map is float (H, W) at the photo's size, higher where the
class's evidence is, and finite; `inside` is bool (H, W), True on the animal (its mask, or its boxes filled).
"""

import math

import cv2
import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.linalg import spsolve
from scipy.stats import binomtest, spearmanr

LEVELS = 100  # thresholds, in shares of the map's largest value, at which masks are compared
BOX_THRESHOLDS = np.arange(1, 100) / 100  # of the largest value
MOST_TOLERANCE = 15  # pixels, of the pointing game
BORDER = 0.03  # of the photo's longer side: how far the border of an animal reaches, for border_energy
ROAD_SHARES = (0.2, 0.4, 0.6, 0.8)  # of the pixels removed

# ---------------------------------------------------------------- where the map points


def normalised(values):
    """A map cut at zero and divided by its largest value: float32 in 0..1; zero where nothing is positive."""
    values = np.maximum(values, 0).astype(np.float32)
    largest = values.max()
    return values / largest if largest > 0 else values


def pointing(values, inside):
    """The pointing game: whether the largest value is inside (Zhang et al. 2018, section 4.1).

    Of several equal largest values the share that is inside, so that a map without a peak scores what chance does.

    Args:
        values: float (H, W).
        inside: bool (H, W); for the paper's tolerance, what `grown` makes of it.

    Returns:
        float, 0 to 1.
    """
    return float(inside[values == values.max()].mean())


def grown(inside, pixels=MOST_TOLERANCE):
    """`inside` and all pixels at most so many pixels from it: bool (H, W)."""
    return cv2.distanceTransform((~inside).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) <= pixels


def energy(values, inside):
    """The share of a map's positive values that is inside (Wang et al. 2020, energy-based pointing game).

    Returns:
        float, 0 to 1; 0 for a map without positive values.
    """
    values = np.maximum(values, 0, dtype=np.float64)
    total = values.sum()
    return float(values[inside].sum() / total) if total else 0.0


def box_overlaps(values, boxes, thresholds=BOX_THRESHOLDS):
    """Overlap of boxes made from a map with the true ones (Zhou et al. 2016, section 3.2; Choe et al. 2020, MaxBoxAcc).

    For each threshold t the box around the largest connected part of {q >= t}, q the normalised map, is compared with
    each true box by IoU = area of intersection / area of union.

    Args:
        values: float (H, W).
        boxes: list of (x0, y0, x1, y1), pixels, x1 and y1 outside.
        thresholds: float (T,).

    Returns:
        float (T,), the largest IoU among the true boxes; 0 for a map without positive values.
    """
    q = normalised(values)
    if not q.any():
        return np.zeros(len(thresholds))
    found = [box_around(q >= threshold) for threshold in np.float32(thresholds)]  # in float32, as q: ties are kept
    sides = np.array(boxes, np.float64).T  # (4, B)
    return np.array([box_iou(one, sides).max() for one in found])


def box_around(mask):
    """(x0, y0, x1, y1) around the largest connected part (8 neighbours) of a mask with at least one pixel."""
    mask = mask.astype(np.uint8)
    left, top, width, height = cv2.boundingRect(mask)  # what lies beyond has no parts: less to look through
    mask = mask[top : top + height, left : left + width]
    settings = 8, cv2.CV_32S, cv2.CCL_GRANA  # three times as fast as the default
    _, _, found, _ = cv2.connectedComponentsWithStatsWithAlgorithm(mask, *settings)
    x, y, width, height, _ = found[1 + found[1:, cv2.CC_STAT_AREA].argmax()]  # the first is the background
    return left + x, top + y, left + x + width, top + y + height


def box_iou(a, b):
    """Intersection over union of two boxes (x0, y0, x1, y1), or of one with B others, whose sides are float (B,)."""
    width = np.minimum(a[2], b[2]) - np.maximum(a[0], b[0])
    height = np.minimum(a[3], b[3]) - np.maximum(a[1], b[1])
    intersection = np.maximum(width, 0) * np.maximum(height, 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - intersection
    return intersection / np.where(union > 0, union, np.inf)


def pixel_counts(values, inside):
    """Pixels by whether they are inside and by their value, from which `mask_iou` and `pixel_precision` follow.

    Returns:
        int (2, LEVELS + 1): outside and inside; level i holds i / LEVELS <= q < (i + 1) / LEVELS, q the normalised map.
    """
    level = np.floor(normalised(values) * LEVELS + 1e-4).astype(np.int64)  # 0.29 * 100 is below 29 in floating point
    return np.stack([np.bincount(level[where], minlength=LEVELS + 1) for where in (~inside, inside)])


def at_least(counts):
    """Cumulate counts (..., LEVELS + 1) from the highest level down: how many are at each level or above."""
    return np.cumsum(counts[..., ::-1], axis=-1)[..., ::-1]


def mask_iou(counts):
    """IoU of {q >= t} with the mask at each threshold.

    Args:
        counts: (..., 2, LEVELS + 1) as `pixel_counts` makes them.

    Returns:
        float (..., LEVELS + 1).
    """
    outside, inside = at_least(counts[..., 0, :]), at_least(counts[..., 1, :])
    return inside / np.maximum(counts[..., 1, :].sum(axis=-1, keepdims=True) + outside, 1e-12)


def pixel_precision(counts):
    """Average precision of pixels, PxAP (Choe et al. 2020, section 4.1): sum over thresholds of P_i (R_i - R_(i+1)).

    P_i and R_i are precision and recall of {q >= t_i} among the pixels of all photos together.

    Args:
        counts: (..., 2, LEVELS + 1), of one photo or added up over photos.

    Returns:
        float (...).
    """
    outside, inside = at_least(counts[..., 0, :]), at_least(counts[..., 1, :])
    precision = inside / np.maximum(inside + outside, 1e-12)
    recall = inside / np.maximum(inside[..., :1], 1e-12)
    return -(precision * np.diff(recall, axis=-1, append=0.0)).sum(axis=-1)


# ---------------------------------------------------------------- how sharp the map is


def border_energy(values, inside):
    """How much of a map's positive values lies at the animal's border, in units of what an even map has there.

    The share of the values at most BORDER of the longer side from the border, divided by the share of such pixels.

    Returns:
        float; 1 for an even map, NaN where the animal has no border (it fills the photo, or is not there).
    """
    if inside.all() or not inside.any():
        return float("nan")
    reach = max(1.0, BORDER * max(inside.shape))
    near = grown(inside, reach) & grown(~inside, reach)
    return energy(values, near) / float(near.mean())


def edge_width(values):
    """Width of a map's steepest edge: (largest - smallest value) / largest slope, in units of the longer side.

    A straight ramp of n pixels has the width n, a step between two pixels 1.

    Returns:
        float, 0 to 1 and, for a map less steep than a ramp over the whole photo, more; NaN for an even map.
    """
    values = values.astype(np.float64)
    down, right = np.diff(values, axis=0)[:, :-1], np.diff(values, axis=1)[:-1]
    slope = np.hypot(down, right).max(initial=0.0)
    return float((values.max() - values.min()) / slope / max(values.shape)) if slope > 0 else float("nan")


# ---------------------------------------------------------------- whether the network uses what the map shows


def pixel_order(values):
    """The order in which pixels are taken, the highest value first: float32 (H, W), rank / number of pixels.

    Equal values are taken in random order, the same in every run, so that an even map is random rather than row by
    row.
    """
    noise = np.random.default_rng(0).permutation(values.size)
    order = np.lexsort((noise, -values.ravel()))
    ranks = np.empty(values.size, np.float32)
    ranks[order] = np.arange(values.size, dtype=np.float32) / values.size
    return ranks.reshape(values.shape)


def area(curve):
    """Area below a curve over equal steps from 0 to 1, by the trapezoidal rule (Petsiuk et al. 2018, section 4.1)."""
    curve = np.asarray(curve, np.float64)
    return float((curve[:-1] + curve[1:]).mean() / 2)


def average_drop(probability, masked):
    """max(0, Y - O) / Y for one photo: Y the class's probability, O the same for the photo times its normalised map.

    Chattopadhay et al. 2018, section 4.1. Increase in confidence is O > Y.
    """
    return float(np.maximum(0, probability - masked) / probability) if probability else 0.0


def coherency(values, again):
    """(1 + r) / 2, r the correlation of a map with the map of the photo seen through it; 0.5 if one is even."""
    values, again = values.ravel().astype(np.float64), again.ravel().astype(np.float64)
    values, again = values - values.mean(), again - again.mean()
    norm = np.sqrt((values**2).sum() * (again**2).sum())
    return float(0.5 + 0.5 * (values * again).sum() / norm) if norm else 0.5


def adcc(drop, coherent, complexity):
    """Average drop, coherency and complexity in one (Poppi et al. 2021, eq. 5): 3 / (1/coh + 1/(1-com) + 1/(1-drop)).

    Args:
        drop: float, `average_drop`.
        coherent: float, `coherency`.
        complexity: float, mean of the normalised map.

    Returns:
        float, 0 to 1, the higher the better; 0 where one of the three is at its worst.
    """
    parts = np.array([coherent, 1 - complexity, 1 - drop])
    return 0.0 if (parts <= 0).any() else float(3 / (1 / parts).sum())


# Neighbours and their weights in ROAD's imputation (Rong et al. 2022, section 5)
NEIGHBOURS = {(dy, dx): 1 / 6 if 0 in (dy, dx) else 1 / 12 for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx}


def noisy_linear_imputation(image, missing, noise=0.01):
    """Fill in pixels from their surroundings (Rong et al. 2022, section 5), so that what is missing does not show.

    Each missing pixel is the mean of its neighbours, straight ones (weight 1/6) and diagonal ones (1/12), known or
    missing themselves: a sparse system of linear equations, with the same matrix for all channels. At the photo's
    edges the weights of the neighbours that exist are divided by their sum. Then noise is added.

    Args:
        image: float (H, W, C).
        missing: bool (H, W); at least one pixel must be known.
        noise: float, standard deviation of the noise, in units of the image's values; the same in every run.

    Returns:
        float32 (H, W, C).
    """
    height, width, channels = image.shape
    filled = image.astype(np.float32).copy()
    count = int(missing.sum())
    if not count:
        return filled
    number = np.full((height + 2, width + 2), -2)  # of each missing pixel; -1 of a known one, -2 beyond the edges
    number[1:-1, 1:-1] = -1
    number[1:-1, 1:-1][missing] = np.arange(count)
    y, x = np.nonzero(missing)
    total, known = np.zeros(count), np.zeros((count, channels))
    rows, columns, entries = [np.arange(count)], [np.arange(count)], [total]  # total is filled in below
    for (dy, dx), weight in NEIGHBOURS.items():
        neighbour = number[y + 1 + dy, x + 1 + dx]
        total[neighbour > -2] += weight
        there, unknown = neighbour == -1, neighbour >= 0
        known[there] += weight * image[y[there] + dy, x[there] + dx]
        rows.append(np.nonzero(unknown)[0])
        columns.append(neighbour[unknown])
        entries.append(np.full(len(columns[-1]), -weight))
    matrix = coo_matrix(
        (np.concatenate(entries), (np.concatenate(rows), np.concatenate(columns))), shape=(count, count)
    ).tocsc()
    solved = spsolve(matrix, known).reshape(count, channels)
    filled[missing] = solved + np.random.default_rng(0).normal(0, noise, solved.shape)
    return filled


def road_images(image, order):
    """The photo without its most, then without its least relevant pixels (Rong et al. 2022): float32 (8, H, W, C).

    Args:
        image: float (H, W, C), values of about unit size.
        order: float (H, W), `pixel_order`.
    """
    most = [noisy_linear_imputation(image, order < share) for share in ROAD_SHARES]
    least = [noisy_linear_imputation(image, order >= 1 - share) for share in ROAD_SHARES]
    return np.stack(most + least)


def road(probabilities):
    """ROAD's two orders in one number, -1 to 1: mean over shares of (without the least - without the most) / 2."""
    most, least = np.split(np.asarray(probabilities, np.float64), 2)
    return float((least - most).mean() / 2)


# ---------------------------------------------------------------- whether two maps are alike


def rank_correlation(a, b):
    """Spearman's: the correlation of the ranks of two maps' values; ties share their mean rank. NaN if one is even."""
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(spearmanr(a, b, axis=None).statistic)


def structural_similarity(a, b):
    """Mean SSIM of two maps (Wang et al. 2004, eq. 13), each divided by its largest magnitude first.

    Gaussian windows of 11 pixels (sigma 1.5) that lie in the map as a whole; constants for a range of 1.
    """
    a, b = (values.astype(np.float64) / (np.abs(values).max() or 1.0) for values in (a, b))
    window = cv2.getGaussianKernel(11, 1.5)

    def smooth(values):
        return cv2.sepFilter2D(values, cv2.CV_64F, window, window)[5:-5, 5:-5]

    mean_a, mean_b = smooth(a), smooth(b)
    variance_a, variance_b = smooth(a * a) - mean_a**2, smooth(b * b) - mean_b**2
    covariance = smooth(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    alike = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    return float((alike / ((mean_a**2 + mean_b**2 + c1) * (variance_a + variance_b + c2))).mean())


# ---------------------------------------------------------------- maps to compare with


def baseline_maps(photo, seed=0):
    """Maps that know no network: what a map must beat.

    Args:
        photo: uint8 (H, W, 3).
        seed: int, of the random map.

    Returns:
        dict of name -> float32 (H, W): the whole picture, a centred Gaussian whose sigma is a quarter of each side,
        uniform random values, the length of Sobel's gradient of the grey photo.
    """
    height, width = photo.shape[:2]
    y = (np.arange(height) + 0.5) / height - 0.5
    x = (np.arange(width) + 0.5) / width - 0.5
    grey = cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY).astype(np.float32)
    return {
        "whole picture": np.ones((height, width), np.float32),
        "centred Gaussian": np.exp(-0.5 * ((y[:, None] / 0.25) ** 2 + (x / 0.25) ** 2)).astype(np.float32),
        "random": np.random.default_rng(seed).random((height, width), np.float32),
        "Sobel edges": np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1)),
    }


# ---------------------------------------------------------------- the network itself


def binary_accuracy(probabilities, labels):
    """Keras's BinaryAccuracy of a classifier of C classes: the share of the N C outputs on their label's side of 0.5.

    It flatters: a network of four classes that never exceeds 0.5 scores 0.75.

    Args:
        probabilities: float (N, C).
        labels: int (N,).
    """
    truth = np.arange(probabilities.shape[1]) == np.asarray(labels)[:, None]  # (N, C)
    return float(np.mean((probabilities > 0.5) == truth))


def confusion_matrix(labels, predicted, class_count):
    """Counts, int64 (class_count, class_count): truth in rows, prediction in columns."""
    counts = np.zeros((class_count, class_count), np.int64)
    np.add.at(counts, (labels, predicted), 1)
    return counts


def wilson_interval(hits, count):
    """95 % interval of a share (Wilson 1927): (low, high); NaN of nothing."""
    return tuple(binomtest(hits, count).proportion_ci(method="wilson")) if count else (float("nan"), float("nan"))


def calibration(probabilities, labels, bins=15):
    """Expected calibration error (Naeini et al. 2015; Guo et al. 2017, eq. 3) and its reliability diagram.

    ECE = sum over bins of n_b / N |accuracy_b - confidence_b|, bins of equal width of the largest probability.

    Returns:
        (ECE, confidence (bins,), accuracy (bins,), count (bins,)); NaN in empty bins.
    """
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    # bins hold (low, high], as in the paper
    which = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    count = np.bincount(which, minlength=bins)
    sums = [np.bincount(which, weights=values, minlength=bins) for values in (confidence, right)]
    error = np.abs(sums[0] - sums[1]).sum() / len(labels)
    with np.errstate(invalid="ignore"):
        return float(error), sums[0] / count, sums[1] / count, count


# ---------------------------------------------------------------- intervals


def bootstrap(values, photos, statistic=lambda means: means, is_share=False):
    """A statistic of the mean over items, with its 95 % interval from a percentile bootstrap of 1,000 draws of photos.

    Args:
        values: float (N, ...), one row an item; rows with NaN are left out.
        photos: list of N str; items of one photo are drawn together.
        statistic: function of means (B, ...) -> (B,): of each of B resamples.
        is_share: bool, it is one of items that have something or not: of all or none, `wilson_interval` of photos.

    Returns:
        (estimate, low, high, number of items); NaN where there are none, and an interval only from two photos on.
    """
    values = np.asarray(values, np.float64)
    shape, values = values.shape[1:], values.reshape(len(values), math.prod(values.shape[1:]))
    kept = np.isfinite(values).all(axis=1)
    values, photos = values[kept], np.asarray(photos, object)[kept]
    nothing = float("nan")
    if not len(values):
        return nothing, nothing, nothing, 0
    _, group = np.unique(photos.astype(str), return_inverse=True)
    count = group.max() + 1
    draws = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=1000)  # (B, photos)
    weights = np.concatenate((np.ones((1, len(values))), draws[:, group]))
    means = weights @ values / weights.sum(axis=1, keepdims=True)
    found = statistic(means.reshape(-1, *shape))
    if count < 2:
        return float(found[0]), nothing, nothing, len(values)
    low, high = np.quantile(found[1:], (0.025, 0.975))
    if is_share and low == high and found[0] in (0, 1):  # resamples are all alike
        low, high = wilson_interval(int(count * found[0]), int(count))
    return float(found[0]), float(low), float(high), len(values)
