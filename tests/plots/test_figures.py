"""Figures of an evaluation and of training: their size does not grow with the data."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from camlib.plots.figures import MOST_FIGURE_PIXELS, draw_confusion_matrix, draw_history, figure_of_history, save

pytestmark = pytest.mark.any_backend


@pytest.mark.thorough
@pytest.mark.parametrize(("count", "side"), [(4, 528), (400, 2816)])
def test_a_confusion_matrix_of_many_classes(tmp_path, count, side):
    """Its diagonal is dark and the rest white, whichever of the classes are named beside it."""
    names = [f"a $class$ of $ number {number} and a long name {'x' * 60}" for number in range(count)]
    draw_confusion_matrix(tmp_path / "c.png", 7 * np.eye(count, dtype=int), names, "costs 1 $ or $ 2")
    with Image.open(tmp_path / "c.png") as picture:
        assert picture.size == (side, side)
        dark = np.asarray(picture.convert("RGB")).astype(int) @ (-1, 0, 1) > 40  # Matplotlib's blue
    rows, columns = np.nonzero(dark)
    assert 0 < dark.mean() < 0.3 and np.corrcoef(rows, columns)[0, 1] > 0.8


def test_a_figure_of_any_size_stays_within_its_pixels(tmp_path):
    for size in ((4, 3), (3, 900), (300, 300)):
        save(Figure(figsize=size), tmp_path / "f.png")
        with Image.open(tmp_path / "f.png") as picture:
            assert picture.width * picture.height <= 1.001 * MOST_FIGURE_PIXELS
            assert picture.width / picture.height == pytest.approx(size[0] / size[1], rel=0.02)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 40])
def test_epochs_are_whole_numbers_on_the_axis(count):
    names = ("loss", "top1", "binary_accuracy")
    row = dict.fromkeys([*names, *(f"val_{name}" for name in names)], 0.5)
    for panel in figure_of_history([row | {"epoch": epoch} for epoch in range(1, count + 1)]).axes:
        ticks = [tick for tick in panel.get_xticks() if panel.get_xlim()[0] <= tick <= panel.get_xlim()[1]]
        assert 1 <= len(ticks) <= 11 and all(tick == round(tick) for tick in ticks)


def test_curves_of_many_epochs(tmp_path):
    names = ("loss", "top1", "binary_accuracy")
    row = dict.fromkeys([*names, *(f"val_{name}" for name in names)], 0.5)
    for count in (1, 5000):
        draw_history(tmp_path / "h.png", [row | {"epoch": epoch, "loss": np.nan} for epoch in range(count)])
        with Image.open(tmp_path / "h.png") as picture:
            assert picture.size == (1320, 396)
