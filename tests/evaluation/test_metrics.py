"""Every metric on maps with known answers, and against independent implementations."""

import keras
import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt
from scipy.stats import spearmanr
from skimage.metrics import structural_similarity as reference_ssim
from sklearn.metrics import average_precision_score

from camlib.evaluation import metrics

pytestmark = pytest.mark.any_backend


@pytest.fixture
def generator():
    return np.random.default_rng(7)


@pytest.fixture
def square():
    """A 20x30 photo with the animal in rows 5..14 and columns 10..19."""
    inside = np.zeros((20, 30), bool)
    inside[5:15, 10:20] = True
    return inside


# ---------------------------------------------------------------- localisation


def test_maps_are_cut_at_zero_and_divided_by_their_largest_value():
    for factor in (0.5, 4.0):
        np.testing.assert_array_equal(metrics.normalised(factor * np.array([[-1.0, 0.5, 1.0]])), [[0, 0.5, 1]])
    np.testing.assert_array_equal(metrics.normalised(np.array([[-1.0, 0.0]])), [[0, 0]])


def test_pointing_looks_at_the_largest_value(square):
    values = np.zeros((20, 30))
    assert metrics.pointing(values, square) == pytest.approx(100 / 600)  # of an even map the chance to hit
    values[6, 11], values[0, 0] = 2, 1
    assert metrics.pointing(values, square) == 1.0
    values[0, 0] = 3
    assert metrics.pointing(values, square) == 0.0


def test_tolerance_reaches_fifteen_pixels():
    inside = np.zeros((60, 60), bool)
    inside[20, 20] = True
    y, x = np.mgrid[:60, :60]
    np.testing.assert_array_equal(metrics.grown(inside), np.hypot(y - 20, x - 20) <= 15)
    np.testing.assert_array_equal(metrics.grown(inside, 0), inside)


def test_energy_counts_positive_values_only(square):
    values = np.full((20, 30), -5.0)
    values[5, 10], values[0, 0] = 3, 1
    assert metrics.energy(values, square) == 0.75
    assert metrics.energy(np.full((20, 30), -1.0), square) == 0.0
    assert metrics.energy(np.ones((20, 30)), square) == pytest.approx(100 / 600)


def test_box_iou_by_hand():
    for other, expected in (((2, 2, 6, 6), 4 / 28), ((4, 0, 8, 4), 0.0), ((0, 0, 4, 4), 1.0)):
        assert metrics.box_iou((0, 0, 4, 4), other) == pytest.approx(expected)
    assert metrics.box_iou((1, 2, 6, 5), (3, 1, 7, 9)) == pytest.approx(9 / (15 + 32 - 9))
    assert metrics.box_iou((0, 0, 0.5, 0.5), (0, 0, 0.5, 0.5)) == 1
    assert metrics.box_iou((1, 2, 1, 2), (1, 2, 1, 2)) == 0  # of no area
    corners = np.array([(1, 2, 6, 5), (7, 2, 9, 5), (1, 6, 6, 9)]).T  # itself, one beside it and one below
    np.testing.assert_array_equal(metrics.box_iou((1, 2, 6, 5), corners), [1, 0, 0])


def test_box_is_around_the_largest_part():
    values = np.zeros((20, 30))
    values[2:6, 3:9] = 1.0  # 24 pixels
    values[10:12, 20:24] = 1.0  # 8 pixels
    values[15:19, 1:29] = 0.3  # larger, but below the threshold from 0.35 on
    found = metrics.box_overlaps(values, [(3, 2, 9, 6), (0, 0, 1, 1)])
    assert found.tolist() == [0.0] * 30 + [1.0] * 69  # at 0.01 to 0.99
    assert not metrics.box_overlaps(-values, [(3, 2, 9, 6)]).any()
    assert metrics.box_around(values[::-1, ::-1] == 1) == (21, 14, 27, 18)  # the smaller part comes first
    assert metrics.box_around(np.eye(5, dtype=bool)) == (0, 0, 5, 5)  # diagonal neighbours are connected


def test_a_value_at_the_threshold_belongs_to_the_box():
    for level in range(1, 100):
        values = np.zeros((20, 30), np.float32)
        values[2:6, 3:9], values[2:6, 9:14] = 100, level
        found = metrics.box_overlaps(values, [(3, 2, 14, 6)])
        assert found[level - 1] == 1.0 and (found[level:] < 1).all()


def test_what_is_no_number_stays_none(square):
    values = np.ones((20, 30))
    values[0, 0] = np.nan
    assert np.isnan([metrics.energy(values, square), metrics.border_energy(values, square)]).all()
    assert np.isnan([metrics.coherency(values, values), metrics.coherency(np.ones((2, 2)), values[:2, :2])]).all()
    assert np.isnan([metrics.average_drop(0.5, np.nan), metrics.average_drop(np.nan, 0.5)]).all()
    assert np.isnan(
        [metrics.adcc(np.nan, 1.0, 0.5), metrics.adcc(0.5, np.nan, 0.5), metrics.adcc(0.5, 1, np.nan)]
    ).all()


def test_mask_iou_at_every_threshold(generator, square):
    values = generator.integers(0, 101, (20, 30)) / 100
    values[0, 0] = 1.0
    found = metrics.mask_iou(metrics.pixel_counts(values, square))
    assert len(found) == 101
    counts = metrics.pixel_counts(values, square)
    np.testing.assert_array_equal(metrics.mask_iou(np.stack([counts, 2 * counts])), [found, found])
    for level, iou in enumerate(found):
        chosen = np.rint(values * 100) >= level
        assert iou == pytest.approx((chosen & square).sum() / (chosen | square).sum())


def test_pixel_precision_is_that_of_scikit_learn(generator, square):
    """Pooled over two photos; values on the hundred levels, on which nothing is lost."""
    counts, truth, scores = 0, [], []
    for _ in range(2):
        values = generator.integers(0, 101, (20, 30)) / 100
        values[square] = np.minimum(1, values[square] + 0.2)
        values[0, 0] = 1.0
        counts = counts + metrics.pixel_counts(values, square)
        truth.append(square.ravel())
        scores.append(np.rint(values * 100).ravel())
    expected = average_precision_score(np.concatenate(truth), np.concatenate(scores))
    assert metrics.pixel_precision(counts) == pytest.approx(expected, abs=1e-12)


# ---------------------------------------------------------------- sharpness


def test_border_energy_is_one_for_an_even_map(square):
    assert metrics.border_energy(np.ones((20, 30)), square) == pytest.approx(1.0)
    outline = square.copy()
    outline[6:14, 11:19] = False
    # 3 % of 30 pixels are less than one, so the border is the outermost pixels inside and their neighbours outside
    near = metrics.grown(square, 1) & metrics.grown(~square, 1)
    assert near.sum() == 36 + 40
    assert metrics.border_energy(outline.astype(float), square) == pytest.approx(600 / 76)
    assert np.isnan(metrics.border_energy(np.ones((20, 30)), np.ones((20, 30), bool)))


def test_the_border_reaches_three_percent_of_the_longer_side():
    inside = np.zeros((200, 300), bool)
    inside[40:120, 60:200] = True
    near = np.where(inside, distance_transform_edt(inside), distance_transform_edt(~inside)) <= 9
    values = np.random.default_rng(0).random((200, 300))
    expected = values[near].sum() / values.sum() / near.mean()
    assert metrics.border_energy(values, inside) == pytest.approx(expected, rel=1e-9)
    assert metrics.border_energy(near.astype(float), inside) == pytest.approx(1 / near.mean())


def test_edge_width_of_ramps():
    for width in (1, 4, 10):
        ramp = np.clip((np.arange(40) - 15) / width, 0, 1)[None].repeat(20, axis=0)
        assert metrics.edge_width(ramp) == pytest.approx(width / 40)
        assert metrics.edge_width(-7 * ramp.T) == pytest.approx(width / 40)
    with np.errstate(all="raise"):
        assert np.isnan(metrics.edge_width(np.ones((5, 5))))


def test_edge_width_looks_for_the_steepest_slope_in_both_directions(generator):
    for values in generator.normal(size=(5, 6, 9)):
        steps = [(values[y + 1, x] - values[y, x], values[y, x + 1] - values[y, x]) for y, x in np.ndindex(5, 8)]
        steepest = max(np.hypot(*step) for step in steps)
        assert metrics.edge_width(values) == pytest.approx((values.max() - values.min()) / steepest / 9)


# ---------------------------------------------------------------- faithfulness


def test_pixels_are_taken_from_the_highest_value_down():
    values = np.array([[0.1, 0.9], [-1.0, 0.5]])
    np.testing.assert_array_equal(metrics.pixel_order(values), [[0.5, 0.0], [0.75, 0.25]])
    even = metrics.pixel_order(np.zeros((10, 10)))
    assert sorted(even.ravel()) == pytest.approx(np.arange(100) / 100)
    assert abs(np.corrcoef(even.ravel(), np.arange(100))[0, 1]) < 0.3  # neither row by row nor any other way
    first = np.random.default_rng(0).permutation(100)  # the same in every run
    assert even.ravel()[first.argmin()] == 0 and even.ravel()[first.argmax()] == np.float32(0.99)


def test_area_below_a_curve():
    assert metrics.area([1, 1, 1]) == 1.0
    assert metrics.area([1, 0.5, 0]) == 0.5
    assert metrics.area([1, 0, 0, 0, 0]) == 0.125


def test_drop_coherency_and_adcc_by_hand():
    assert metrics.average_drop(0.8, 0.6) == pytest.approx(0.25)
    assert metrics.average_drop(0.6, 0.8) == 0.0
    values = np.array([[0.0, 1.0], [2.0, 3.0]])
    assert metrics.coherency(values, 5 * values + 1) == pytest.approx(1.0)
    assert metrics.coherency(values, -values) == pytest.approx(0.0)
    assert metrics.coherency(values, np.ones((2, 2))) == 0.5
    assert metrics.adcc(0.5, 1.0, 0.5) == pytest.approx(3 / (1 / 1.0 + 1 / 0.5 + 1 / 0.5))
    with np.errstate(all="raise"):
        assert metrics.adcc(1.0, 1.0, 0.5) == metrics.adcc(0.5, 0.0, 0.5) == metrics.adcc(0.5, 1.0, 1.0) == 0.0
    assert metrics.average_drop(0.0, 0.5) == 0.0


def dense_imputation(image, missing):
    """The linear system of ROAD, pixel by pixel, solved as a dense one."""
    height, width, channels = image.shape
    unknown = [tuple(place) for place in np.argwhere(missing)]
    matrix, right = np.zeros((len(unknown),) * 2), np.zeros((len(unknown), channels))
    for row, (y, x) in enumerate(unknown):
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                other = (y + dy, x + dx)
                if (dy, dx) == (0, 0) or not (0 <= other[0] < height and 0 <= other[1] < width):
                    continue
                weight = 1 / 6 if dy == 0 or dx == 0 else 1 / 12
                matrix[row, row] += weight
                if missing[other]:
                    matrix[row, unknown.index(other)] -= weight
                else:
                    right[row] += weight * image[other]
    filled = image.copy()
    filled[missing] = np.linalg.solve(matrix, right)
    return filled


def test_imputation_solves_its_equations(generator):
    image, missing = generator.random((9, 11, 3)), generator.random((9, 11)) < 0.6
    found = metrics.noisy_linear_imputation(image, missing, noise=0)
    np.testing.assert_allclose(found, dense_imputation(image, missing), atol=1e-6)
    noisy = metrics.noisy_linear_imputation(image, missing, noise=0.1)
    assert 0.05 < (noisy - found)[missing].std() < 0.2 and (noisy == found)[~missing].all()


def test_road_removes_most_then_least_relevant(generator):
    image, order = generator.random((10, 10, 3)), metrics.pixel_order(generator.random((10, 10)))
    images = metrics.road_images(image, order)
    kept = (images == image.astype(np.float32)).all(axis=-1)
    for index, share in enumerate((0.2, 0.4, 0.6, 0.8)):
        np.testing.assert_array_equal(kept[index], order >= np.float32(share))
        np.testing.assert_array_equal(kept[4 + index], order < np.float32(1 - share))
    noise = metrics.road_images(np.full((10, 10, 3), 0.5), order)[3][order < 0.8] - 0.5  # of the even photo's pixels
    np.testing.assert_allclose(noise, np.random.default_rng(0).normal(0, 0.01, (80, 3)), atol=1e-6)
    assert metrics.road([0.1, 0.1, 0.1, 0.1, 0.9, 0.7, 0.5, 0.3]) == pytest.approx((0.8 + 0.6 + 0.4 + 0.2) / 8)


# ---------------------------------------------------------------- likeness


def test_rank_correlation_is_spearmans(generator):
    a, b = generator.integers(0, 9, (6, 7)), generator.random((6, 7))
    assert metrics.rank_correlation(a, b) == pytest.approx(spearmanr(a.ravel(), b.ravel()).statistic)
    assert metrics.rank_correlation(b, np.exp(5 * b)) == pytest.approx(1.0)
    assert np.isnan(metrics.rank_correlation(b, np.ones((6, 7))))


def test_ssim_is_that_of_scikit_image(generator):
    a = generator.normal(size=(40, 50))
    b = a + generator.normal(scale=0.5, size=a.shape)
    settings = {"data_range": 1, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "win_size": 11}
    expected = reference_ssim(a / np.abs(a).max(), b / np.abs(b).max(), **settings)
    assert metrics.structural_similarity(a, b) == pytest.approx(expected, abs=1e-9)
    assert metrics.structural_similarity(a, 3 * a) == pytest.approx(1.0)


# ---------------------------------------------------------------- baselines


def test_baselines():
    photo = np.zeros((40, 60, 3), np.uint8)
    photo[:, 30:] = 255
    maps = metrics.baseline_maps(photo)
    assert all(values.shape == (40, 60) and values.dtype == np.float32 for values in maps.values())
    assert (maps["whole picture"] == 1).all()
    y, x = np.mgrid[:40, :60] + 0.5
    expected = np.exp(-((y - 20) ** 2) / (2 * 10**2) - (x - 30) ** 2 / (2 * 15**2))
    np.testing.assert_allclose(maps["centred Gaussian"], expected, atol=1e-6)
    across, down = (
        maps["Sobel edges"],
        metrics.baseline_maps(np.ascontiguousarray(photo.transpose(1, 0, 2)))["Sobel edges"],
    )
    np.testing.assert_array_equal(across, down.T)
    ramp = np.repeat(np.arange(60, dtype=np.uint8)[None, :, None] * 2, 3, axis=2).repeat(40, axis=0)
    assert (metrics.baseline_maps(ramp)["Sobel edges"][:, 1:-1] == (1 + 2 + 1) * 2 * 2).all()  # its slope, not its bend
    assert (across[:, 29:31] == (1 + 2 + 1) * 255).all() and not across[:, :29].any() and not across[:, 31:].any()
    assert 0.4 < maps["random"].mean() < 0.6
    assert not np.array_equal(maps["random"], metrics.baseline_maps(photo, 1)["random"])


# ---------------------------------------------------------------- the network


def test_wilson_interval_of_known_counts():
    """Values of the R function binom.confint(method="wilson")."""
    np.testing.assert_allclose(metrics.wilson_interval(8, 10), (0.4901625, 0.9433178), atol=1e-6)
    np.testing.assert_allclose(metrics.wilson_interval(0, 20), (0.0, 0.1611252), atol=1e-6)
    assert np.isnan(metrics.wilson_interval(0, 0)).all()


def test_calibration_by_hand():
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.45, 0.55]])
    error, confidence, accuracy, count = metrics.calibration(probabilities, np.array([0, 1, 1, 0]), bins=10)
    # (0.8, 0.9]: two photos, one right; (0.5, 0.6]: two, one right
    assert count.tolist() == [0, 0, 0, 0, 0, 2, 0, 0, 2, 0]
    assert error == pytest.approx(0.5 * abs(0.575 - 0.5) + 0.5 * abs(0.9 - 0.5))
    assert accuracy[[5, 8]].tolist() == [0.5, 0.5] and confidence[8] == pytest.approx(0.9) and np.isnan(confidence[0])
    # the ends are in the first and the last of fifteen bins, what rounding puts beyond 1 too
    ends = np.concatenate((np.full((1, 20), 0.05), np.eye(20)[:2], 1.0000002 * np.eye(20)[:1]))
    assert metrics.calibration(ends, np.zeros(4, int))[3].tolist() == [1, *[0] * 13, 3]


def test_binary_accuracy_is_kerass_and_flatters(generator):
    labels = np.array([0, 1, 2, 3])
    nothing = np.full((4, 4), 0.25)
    assert metrics.binary_accuracy(nothing, labels) == 0.75  # right in no photo, yet 75 %
    assert metrics.binary_accuracy(np.full((1, 4), 0.5), np.zeros(1, int)) == 0.75  # a half is no yes, as Keras has it
    probabilities = generator.dirichlet(np.full(4, 0.3), size=50).astype(np.float32)
    labels = generator.integers(0, 4, 50)
    metric = keras.metrics.BinaryAccuracy()
    metric.update_state(np.eye(4)[labels], probabilities)
    assert metrics.binary_accuracy(probabilities, labels) == pytest.approx(float(metric.result()), abs=1e-6)


def test_confusion_matrix_has_truth_in_rows():
    counts = metrics.confusion_matrix(np.array([0, 0, 2]), np.array([0, 1, 1]), 3)
    assert counts.tolist() == [[1, 1, 0], [0, 0, 0], [0, 1, 0]]


# ---------------------------------------------------------------- intervals


def test_bootstrap_interval_is_that_of_the_mean(generator):
    """Against the normal interval, which holds for the mean of many."""
    values = generator.normal(3, 2, 400)
    value, low, high, count = metrics.bootstrap(values, [str(number) for number in range(400)])
    half = 1.96 * values.std() / 20
    assert (value, count) == (pytest.approx(values.mean()), 400)
    assert low == pytest.approx(value - half, abs=0.1 * half) and high == pytest.approx(value + half, abs=0.1 * half)


def test_bootstrap_draws_items_of_a_photo_together(generator):
    """Two equal items a photo tell no more than one."""
    values = generator.random(100)
    _, low, high, _ = metrics.bootstrap(values, [str(number) for number in range(100)])
    _, low2, high2, count = metrics.bootstrap(np.repeat(values, 2), np.repeat(np.arange(100), 2).tolist())
    assert count == 200 and high2 - low2 == pytest.approx(high - low, rel=0.15)


def test_bootstrap_leaves_nan_out_and_takes_statistics_of_vectors():
    values = np.array([[1.0, 0.0], [0.0, 0.5], [np.nan, 1.0]])
    value, _, _, count = metrics.bootstrap(values, ["a", "b", "c"], lambda means: means.max(axis=1))
    assert (value, count) == (0.5, 2)
    assert metrics.bootstrap(np.full((2, 1), np.nan), ["a", "b"])[3] == 0
    draws = np.random.default_rng(0).multinomial(2, [0.5, 0.5], size=1000)  # how often each photo is drawn
    means = [(of_a * 1.0 + 2 * of_b * 0.2) / (of_a + 2 * of_b) for of_a, of_b in draws]  # b has two items
    found = metrics.bootstrap(np.array([1.0, 0.2, 0.2]), ["a", "b", "b"])
    assert found == pytest.approx((1.4 / 3, *np.quantile(means, (0.025, 0.975)), 3))
    value, low, high, count = metrics.bootstrap(np.array([0.3]), ["a"])
    assert value == 0.3 and np.isnan(low) and np.isnan(high) and count == 1
