"""Training batches: weights of classes, mosaics, augmentation, and that seed and epoch decide them."""

import threading
from dataclasses import replace

import numpy as np
import pytest

from camlib.preprocessing import InputSpec
from camlib.training.batches import Batches, PlainBatches, class_weights, draw_view, mosaics, seen
from camlib.training.class_folders import LabelledPhotos
from camlib.training.recipes import RECIPES

pytestmark = pytest.mark.any_backend


def test_class_weights_are_inverse_to_the_counts():
    weights = class_weights(np.array([0, 2, 0, 0, 1, 2]), 2)  # two of none of the classes
    np.testing.assert_allclose(weights, [4 / 6, 2, 1])
    assert weights[[0, 0, 0, 1]].mean() == pytest.approx(1)


@pytest.mark.parametrize(("name", "even"), [("modern", 1 / 4), ("original", 0)])
def test_photos_of_none_of_the_classes_are_answered_evenly(name, even):
    """Beside those of a class, in mosaics and alone; where each class has an output of its own all are silent."""
    labels = np.repeat([0, 1, 2, 3, 4, 4], 4)
    photos = LabelledPhotos(np.zeros((24, 32, 32, 3), np.uint8), labels)
    recipe = replace(RECIPES[name], batch_size=8, size=32)
    batches = Batches(photos, InputSpec(list("abcd"), 32, 32, 3, 1.0), recipe, 5)
    order, sides = labels[np.random.default_rng([5, 0]).permutation(24)], set()
    for number in range(3):
        _, targets, weights = batches[number]
        of_batch = order[8 * number : 8 * number + 8]
        np.testing.assert_allclose(targets.reshape(-1, 4), np.eye(5)[:, :4][of_batch] + even * (of_batch == 4)[:, None])
        np.testing.assert_allclose(weights.ravel(), 1)
        sides.add(targets.shape[1] if targets.ndim == 4 else 0)
    assert sides == ({1, 2} if name == "modern" else {0})


def test_mosaics_are_in_reading_order():
    images = np.arange(4, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 1), np.uint8)
    expected = [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]]
    np.testing.assert_array_equal(mosaics(images)[0, :, :, 0], expected)


@pytest.mark.parametrize(
    ("soft", "shares"),
    [(0.5, [0, 0, 0, 1, 1, 1]), (1, [0, 0, 0.25, 0.75, 1, 1]), (2, [0, 0.125, 0.375, 0.625, 0.875, 1])],
)
def test_cells_of_mosaics_fade_into_each_other(soft, shares):
    """Cells of 3 pixels, with margins of 2 of another value: what lies beside a view is seen across the border."""
    views = np.full((4, 7, 7, 1), 100, np.uint8)
    for view, value in zip(views, (0, 40, 120, 200), strict=True):
        view[2:5, 2:5] = value
    along = np.array(shares)[:, None] * [0, 1] + (1 - np.array(shares))[:, None] * [1, 0]  # (6, 2), of both tiles
    expected = np.zeros((6, 6))
    for row in range(2):
        for column in range(2):
            part = np.full((6, 6), 100.0)
            part[3 * row : 3 * row + 3, 3 * column : 3 * column + 3] = (0, 40, 120, 200)[2 * row + column]
            expected += np.outer(along[:, row], along[:, column]) * part
    found = mosaics(views, 2, soft)
    assert found.shape == (1, 6, 6, 1) and found.dtype == np.uint8
    assert np.abs(found[0, :, :, 0] - expected).max() <= 0.5


def test_a_view_with_a_margin_has_the_view_without_in_its_middle():
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    for smaller in (1.0, 1.5):
        where, *colours = draw_view(64, 64, 32, np.random.default_rng(1), smaller)
        wide, *same = draw_view(64, 64, 32, np.random.default_rng(1), smaller, margin=4)
        assert colours == same
        as_it_is = (1, 1, 0)
        inner = seen(image, 40, wide, *as_it_is)[4:36, 4:36].astype(int)
        assert np.abs(inner - seen(image, 32, where, *as_it_is)).max() <= 1  # OpenCV's fixed point


def test_photos_are_smaller_in_mosaics():
    zooms = []
    for smaller in (1.0, 1.5):
        wheres = [draw_view(64, 64, 32, np.random.default_rng(seed), smaller)[0] for seed in range(300)]
        zooms.append([np.sqrt(np.abs(np.linalg.det(where[:, :2]))) / 2 for where in wheres])  # of the whole photo's
    assert min(zooms[0]) >= 0.6 and 1.2 < max(zooms[0]) <= 1.25
    assert min(zooms[1]) >= 0.6 and 1.8 < max(zooms[1]) <= 1.875


def test_batches_follow_from_seed_and_epoch_alone():
    images = np.random.default_rng(0).integers(0, 256, (70, 64, 64, 3), np.uint8)
    photos = LabelledPhotos(images, np.arange(70) % 4)
    input_spec = InputSpec(["dog", "cat", "horse", "bird"], 64, 64, 3)

    def batches(seed, epoch):
        made = Batches(photos, input_spec, RECIPES["modern"], seed)
        made.epoch = epoch
        return made

    first, again = batches(3, 2), batches(3, 2)
    assert len(first) == 3
    for number in (2, 0, 1):
        for one, other in zip(first[number], again[number], strict=True):
            np.testing.assert_array_equal(one, other)
    crop = RECIPES["modern"].cut
    assert first[0][0].shape == (8, 2 * crop, 2 * crop, 3) and first[0][1].shape == (8, 2, 2, 4)  # mosaics
    assert first[1][0].shape == (32, crop, crop, 3) and first[1][1].shape == (32, 1, 1, 4)
    assert first[2][0].shape == (6, crop, crop, 3)
    assert not np.array_equal(first[0][0], batches(3, 3)[0][0])
    assert not np.array_equal(first[0][0], batches(4, 2)[0][0])


def test_labels_follow_their_photos_into_mosaics():
    """Photos of one grey level each, so that the label can be read off the pixels, augmented or not."""
    levels = np.array([40, 90, 150, 210], np.uint8)
    labels = np.arange(64) % 4
    images = np.broadcast_to(levels[labels][:, None, None, None], (64, 64, 64, 3)).copy()
    input_spec = InputSpec(["dog", "cat", "horse", "bird"], 64, 64, 3)
    batches = Batches(LabelledPhotos(images, labels), input_spec, RECIPES["modern"], 0)
    for number in (0, 1):
        pixels, one_hot, weights = batches[number]
        side = one_hot.shape[1]
        crop = pixels.shape[1] // side
        cells = pixels.reshape(len(pixels), side, crop, side, crop, 3)[:, :, crop // 2, :, crop // 2, 0] * 255
        nearest = np.abs(cells[..., None] - levels).argmin(-1)
        assert (nearest == one_hot.argmax(-1)).mean() > 0.7  # brightness is augmented by up to 30 levels
        np.testing.assert_array_equal(weights, np.ones_like(weights))


@pytest.mark.parametrize("balanced", [True, False])
def test_an_epoch_has_each_photo_once_in_the_order_of_its_seed(balanced):
    """Photos that tell their number, three quarters of them of one class."""
    labels = (np.arange(20) >= 15).astype(int)
    images = np.broadcast_to(np.arange(20, dtype=np.uint8)[:, None, None, None], (20, 8, 8, 1))
    recipe = replace(RECIPES["original"], batch_size=8, balanced=balanced)
    batches = Batches(LabelledPhotos(images, labels), InputSpec(["dog", "cat"], 8, 8, 1), recipe, 3)
    order = np.random.default_rng([3, 0]).permutation(20)  # epoch 0 until somebody counts
    pixels, targets, weights = map(np.concatenate, zip(*(batches[number] for number in range(3)), strict=True))
    np.testing.assert_allclose(pixels * 255, images[order], atol=1e-4)
    np.testing.assert_array_equal(targets, np.eye(2)[labels[order]])
    of_classes = np.array([20 / 30, 20 / 10]) if balanced else np.ones(2)
    np.testing.assert_allclose(weights, of_classes[labels[order]], rtol=1e-6)
    batches.epoch = 1
    first = np.random.default_rng([3, 1]).permutation(20)[:8]
    np.testing.assert_allclose(batches[0][0] * 255, images[first], atol=1e-4)


class Draws:
    """In place of a generator: a zoom, a rotation, a shift, no change of colours, mirrored (-1) or not (1)."""

    def __init__(self, zoom, mirror, angle=0.0, shift=(0, 0)):
        self.numbers, self.mirror, self.ends = iter([np.log(zoom), angle, np.array(shift), 1.0, 1.0, 0.0]), mirror, []

    def uniform(self, *ends):
        self.ends.append(ends)
        return next(self.numbers)

    def choice(self, sides):
        assert set(sides) == {-1, 1}
        return self.mirror


@pytest.mark.parametrize("mirror", [1, -1])
def test_views_have_half_pixel_centres(mirror):
    """Of 64 pixels in 32: at half the size the middle itself, at the whole size the means of 2 x 2 pixels."""
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    middle, whole = (seen(image, 32, *draw_view(64, 64, 32, Draws(zoom, mirror))) for zoom in (0.5, 1.0))
    np.testing.assert_array_equal(middle, image[16:48, 16:48][:, ::mirror])
    means = image.reshape(32, 2, 32, 2, 3).mean((1, 3))[:, ::mirror]
    np.testing.assert_allclose(whole, means, atol=1)
    turned = seen(image, 32, *draw_view(64, 64, 32, Draws(0.5, mirror, 90.0)))
    np.testing.assert_array_equal(turned, np.rot90(image[16:48, 16:48])[:, ::mirror])


@pytest.mark.parametrize(
    ("zoom", "width", "room"),
    [(0.5, 64, (16, 16)), (1.25, 64, (3.2, 3.2)), (0.5, 80, (24, 16)), (1.25, 100, (10, 5))],
)
def test_views_move_within_the_photo_or_a_tenth_of_its_width(zoom, width, room):
    draws = Draws(zoom, 1, shift=(3, -2))
    where, *_ = draw_view(64, width, 32, draws)
    np.testing.assert_allclose(where @ [15.5, 15.5, 1], (width / 2 + 2.5, 29.5))  # the middle, and the photo's moved
    (zooms, angles, places, *rest) = draws.ends
    np.testing.assert_allclose(np.exp(zooms), (0.6, 1.25))
    assert angles == (-15, 15)
    np.testing.assert_allclose(places, [np.negative(room), room])
    assert rest == [(0.5, 1.4), (0.7, 1.4), (-30, 30)]


def test_colours_contrast_and_brightness_are_the_equation_in_float64():
    """Away from 0 and 255: saturation spreads a pixel about its grey, contrast about the view's mean."""
    image = np.random.default_rng(1).integers(90, 160, (8, 8, 3)).astype(np.uint8)
    as_it_is = np.array([[1.0, 0, 0], [0, 1, 0]])
    for saturation, contrast, brightness in ((1.4, 1.0, 0.0), (0.5, 0.7, -30.0), (1.2, 1.3, 20.0)):
        grey = image.astype(np.float64).mean(axis=2, keepdims=True)
        coloured = grey + saturation * (image - grey)
        expected = coloured.mean() + contrast * (coloured - coloured.mean()) + brightness
        view = seen(image, 8, as_it_is, saturation, contrast, brightness)
        np.testing.assert_array_equal(view, np.floor(expected + 1e-3))


def test_the_lightest_and_darkest_stay_so():
    """Beyond 0 and 255 colours end; a cast alone would make white of black."""
    as_it_is = np.array([[1.0, 0, 0], [0, 1, 0]])
    image = np.full((8, 8, 3), 250, np.uint8)
    image[:4] = 5
    for contrast, brightness in ((1.4, 30), (1.4, -30), (1.0, 30), (1.0, -30)):
        view = seen(image, 8, as_it_is, 1.4, contrast, brightness)
        expected = np.clip(127.5 + (image - 127.5) * contrast + brightness, 0, 255)
        np.testing.assert_allclose(view, expected, atol=1)


def test_augmentation_keeps_the_photo_in_view():
    """A bright square in the middle of a dark photo is shown in nearly every view, mirrored in half of them."""
    image = np.full((64, 64, 3), 20, np.uint8)
    image[24:40, 24:32], image[24:40, 32:40] = 250, 130
    generator = np.random.default_rng(0)
    views = np.stack([seen(image, 48, *draw_view(*image.shape[:2], 48, generator)) for _ in range(200)]).astype(int)
    assert views.shape == (200, 48, 48, 3)
    shown = (views.max((1, 2, 3)) - views.min((1, 2, 3))) > 60
    assert shown.mean() > 0.95
    columns = np.arange(48)
    bright = [(view[..., 0] > (view.min() + 0.8 * (view.max() - view.min()))) for view in views[shown]]
    middle = [(view[..., 0] > (view.min() + 0.3 * (view.max() - view.min()))) for view in views[shown]]
    left = [
        (b.sum(0) @ columns) / b.sum() < (m.sum(0) @ columns) / m.sum() for b, m in zip(bright, middle, strict=True)
    ]
    assert 0.35 < np.mean(left) < 0.65


def test_the_next_batches_are_made_meanwhile():
    images = np.zeros((40, 32, 32, 3), np.uint8)
    batches = PlainBatches(LabelledPhotos(images, np.zeros(40, int)), InputSpec(["dog", "cat"], 32, 32, 3), 10)
    made, make = threading.Event(), batches.make

    def seen(epoch, number):
        if (epoch, number) == (0, 1):
            made.set()
        return make(epoch, number)

    batches.make = seen
    batches[0]
    assert made.wait(30)  # nobody has asked for it
