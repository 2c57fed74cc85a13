"""Tables of scores with their intervals: what a column means, and how it is made from the scores of items.

Imports neither Keras nor TensorFlow.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from camlib.evaluation import metrics

NO_NETWORK = "no network"  # in place of a network's name, for the baselines
BASELINES = ("whole picture", "centred Gaussian", "random", "Sobel edges")
SHARES = set(
    "pointing pointing_15px box_15 box_20 box_best ilsvrc_error_20 zero increase own_peak other_peak all_peaks".split()
)  # of items


@dataclass(frozen=True)
class Score:
    """A column of a table.

    Attributes:
        name: str, in CSV files.
        title: str, in Markdown and HTML; an arrow says which way is better.
        source: str, the result it is made from; a map without that result has no such score.
        of: function of that result and what is known of the photo (truth, right) -> number or list of numbers.
        statistic: function of means over items (B, ...) -> (B,).
        truth: "masks" if boxes do not do.
        meaning: str, one line about it.
        is_count: bool, it counts something, so that an interval says nothing.
    """

    name: str
    title: str
    source: str
    of: Callable = lambda value, about: value
    statistic: Callable = lambda means: means
    truth: str | None = None
    meaning: str = ""
    is_count: bool = False


def best(means):
    """The largest over thresholds: one threshold for all photos, chosen on them (Choe et al. 2020)."""
    return means.max(axis=1)


def first_of_both(means):
    """The first of two numbers as a share of both, float (B, 2) -> (B,); NaN where both are 0."""
    total = means.sum(axis=1)
    return np.divide(means[:, 0], total, out=np.full(len(total), np.nan), where=total > 0)


def is_right(overlaps, threshold):
    """Whether the box at a threshold overlaps a true one by half or more."""
    return float(overlaps[list(metrics.BOX_THRESHOLDS).index(threshold)] >= 0.5)


def mean_known(values):
    """The mean without None, which stands for a correlation with an even map; NaN if there is nothing else."""
    known = [value for value in values if value is not None]
    return np.mean(known) if known else np.nan


LOCALISATION = (
    Score("pointing", "pointing ↑", "pointing", meaning="share of objects on which the map's largest value lies"),
    Score("pointing_15px", "pointing, 15 px ↑", "pointing_15",
          meaning="the same, at most 15 pixels beside the object being near enough"),
    Score("energy", "energy ↑", "energy", meaning="share of the map's positive values that lies on the object"),
    Score("box_15", "box at 15 % ↑", "boxes", lambda overlaps, about: is_right(overlaps, 0.15),
          meaning="share of objects whose box overlaps by half or more with that around the map's largest part above "
          "15 % of its maximum"),
    Score("box_20", "box at 20 % ↑", "boxes", lambda overlaps, about: is_right(overlaps, 0.20),
          meaning="the same above 20 %"),
    Score("box_best", "best box ↑", "boxes", lambda overlaps, about: np.array(overlaps) >= 0.5, best,
          meaning="the same above the best of 99 thresholds for all photos together: MaxBoxAcc of maps cut at "
          "zero, where the paper's are stretched from their least value"),
    Score("ilsvrc_error_20", "ILSVRC error at 20 % ↓", "boxes",
          lambda overlaps, about: 1 - is_right(overlaps, 0.20) * about.get("right", np.nan),
          meaning="share of objects whose photo is misclassified or whose box at 20 % is wrong"),
    Score("mask_iou", "best mask IoU ↑", "counts",
          lambda counts, about: metrics.mask_iou(np.array(counts)), best, "masks",
          meaning="intersection over union of the object and the map above the threshold that is best for all photos"),
    Score("pxap", "PxAP ↑", "counts", statistic=metrics.pixel_precision, truth="masks",
          meaning="average precision with which the map's values tell the object's pixels, all photos together"),
)  # fmt: skip
APART = (  # of photos that show several classes
    Score("own_peak", "peak on own class ↑", "peaks", lambda peaks, about: peaks[0],
          meaning="in photos with objects of several classes, share of the classes' maps whose largest value lies on "
          "an object of their class"),
    Score("other_peak", "on another's ↓", "peaks", lambda peaks, about: peaks[1],
          meaning="on an object of another class, and on none of its own"),
    Score("all_peaks", "all of a photo ↑", "all_peaks",
          meaning="share of these photos in which each class's map has its largest value on its own class"),
    Score("own_energy", "energy on own class ↑", "energies", lambda energies, about: energies[0],
          meaning="share of the positive values that lies on the class's own objects"),
    Score("other_energy", "on another's ↓", "energies", lambda energies, about: energies[1],
          meaning="the same on other classes' objects"),
    Score("told_apart", "own of both ↑", "energies", statistic=first_of_both,
          meaning="of the positive values on any of these objects, those on the class's own; the maps that know no "
          "network show what chance is"),
)  # fmt: skip
SHARPNESS = (
    Score("cells", "cells of the map", "grid", lambda grid, about: np.prod(grid), is_count=True,
          meaning="how many values the map has before it is enlarged"),
    Score("border_energy", "energy at the border ↑", "border", truth="masks",
          meaning="positive values at the object's border, in units of what an even map has there"),
    Score("edge_width", "edge width ↓", "edge",
          meaning="width of the map's steepest edge, in units of the photo's longer side"),
    Score("zero", "all zero ↓", "zero", meaning="share of objects whose map is zero everywhere"),
)  # fmt: skip
SANITY = (
    Score("rank_first", "rank correlation, output randomised", "rank_correlation", lambda found, about: found[0],
          meaning="of the map with that of the network whose last layers' weights are shuffled; 1: the same map"),
    Score("rank_all", "all layers randomised", "rank_correlation", lambda found, about: found[-1],
          meaning="the same with all layers' weights shuffled"),
    Score("rank_mean", "mean of the cascade ↓", "rank_correlation", lambda found, about: mean_known(found),
          meaning="mean of the same while layer after layer is shuffled, from the output down; near 1 the map shows "
          "the photo rather than what was learnt; stages that leave an even map, which has no ranks, are left out"),
    Score("ssim_mean", "SSIM, mean of the cascade ↓", "ssim", lambda found, about: mean_known(found),
          meaning="the same with structural similarity in place of rank correlation"),
    Score("other_class", "rank correlation with another class ↓", "other_class",
          meaning="of the map with that of the next class; near 1 it does not tell where a class is"),
)  # fmt: skip


def faithfulness_scores(fills):
    """The columns of faithfulness: deletion and insertion with each fill, and what needs none."""
    curves = [
        Score(
            f"{curve}_{fill}",
            f"{curve}, {fill} {arrow}",
            f"{curve}_{fill}",
            lambda points, about: metrics.area(points),
            meaning=f"mean probability of the annotated class while the photo's pixels are {what} {fill}, the map's "
            "highest first, in --steps steps; RISE takes the predicted class, 224 steps, grey for deletion and a "
            "narrower blur for insertion",
        )
        for fill in fills
        for curve, arrow, what in (("deletion", "↓", "replaced by its"), ("insertion", "↑", "put back into its"))
    ]
    return (
        *curves,
        Score("average_drop", "average drop ↓", "drop",
              meaning="share of the probability that is lost where pixels are dimmed by how little the map shows them"),
        Score("increase", "increase ↑", "increase", meaning="share of photos whose probability that raises"),
        Score("adcc", "ADCC ↑", "adcc",
              meaning="average drop, coherency (correlation with the map of what it shows, both cut at zero and "
              "enlarged) and complexity (its mean) in one number, of the annotated class"),
        Score("road", "ROAD ↑", "road",
              meaning="half the probability without the map's lowest pixels less that without its highest, filled in "
              "from their surroundings; the paper compares accuracies"),
    )  # fmt: skip


@dataclass(frozen=True)
class Table:
    """A table of scores: rows are maps, each cell (value, low, high, number of items).

    Attributes:
        title: str.
        scores: tuple of Score.
        rows: dict of map's name -> list of cells.
        section: str, of docs/results.md.
    """

    title: str
    scores: tuple
    rows: dict
    section: str

    def cells(self):
        """Yield (map's name, Score, cell), row by row."""
        for name, cells in self.rows.items():
            yield from ((name, score, cell) for score, cell in zip(self.scores, cells, strict=True))


def score_table(title, section, scores, maps, truth=None):
    """Make a table of the maps that have at least one of the scores.

    Args:
        title, section: str, see Table.
        scores: tuple of Score.
        maps: as `merged` makes them.
        truth: "masks" or "boxes", to take photos with that truth only.
    """
    rows, scores = {}, [score for score in scores if score.truth in (None, truth)]
    for name, items in maps.items():
        chosen = [pair for pair in items.values() if truth is None or pair[1].get("truth") == truth]
        cells = [score_cell(score, chosen) for score in scores]
        if any(count for *_, count in cells):
            rows[name] = cells
    return Table(title, scores, rows, section)


def score_cell(score, pairs):
    """(value, low, high, number of items) of a score, from the items that have it."""
    values, photos = [], []
    for scores, about in pairs:
        if scores.get(score.source) is not None and score.truth in (None, about.get("truth")):
            values.append(np.array(score.of(scores[score.source], about), np.float64))  # None becomes NaN
            photos.append(about["photo"])
    return metrics.bootstrap(values, photos, score.statistic, score.name in SHARES)


def cell_text(cell, is_count=False):
    """'0.915 (0.880 to 0.945)', or a dash; of counts '9,216'."""
    value, low, high, _ = cell
    if np.isnan(value):
        return "-"
    if is_count:
        return f"{value:,.0f}"
    digits = 0 if value >= 100 else 3
    interval = "" if np.isnan(low) or low == high else f" ({low:.{digits}f} to {high:.{digits}f})"
    return f"{value:.{digits}f}{interval}"
