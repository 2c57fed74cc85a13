"""Maps of the photo itself, from its gradients and from many changed photos, against NumPy in float64."""

import dataclasses
import hashlib
import json

import cv2
import keras
import numpy as np
import oracle
import pytest
from conftest import read_csv
from keras import layers, ops
from small_networks import IMAGES, NETWORKS, RELUS, SHAPE, explained, functional, steps, with_weights

from camlib import Classifier, explain
from camlib.attribution import METHODS, MapOptions, sampling
from camlib.attribution.gradcam import GradCAM
from camlib.attribution.inspection import inspect_network
from camlib.attribution.methods import ExplainedScore
from camlib.backend import BACKEND
from camlib.console import Progress, UserError
from camlib.plots import PIXEL_KINDS
from camlib.runs.maps import find_saved

OF_GRADIENTS = ["gradient", "gradient-x-input", "smooth-grad", "integrated-gradients", "expected-gradients"]
LINEAR = [*OF_GRADIENTS, "occlusion", "rise"]  # in the score: a contrast's map is the difference of two
BLACK = np.float32([[[-0.5, 0.1, 0.2]]])
BACKGROUNDS = np.random.default_rng(5).normal(size=(3, *SHAPE)).astype(np.float32)
OPTIONS = {"samples": 6, "noise": 0.2, "seed": 3, "black": BLACK, "backgrounds": BACKGROUNDS}
PHOTOS = np.random.default_rng(1).integers(0, 256, (2, 8, 9, 3)).astype(np.uint8)
COUNT = 4  # classes of the networks


def some_quick(names, *quick):
    """Names as parameters, all but a few of them thorough."""
    return [pytest.param(name, marks=() if name in quick else pytest.mark.thorough) for name in names]


def maps_of(network, method, images=IMAGES, classes=range(COUNT), **options):
    """What a method finds with OPTIONS, changed by those given: Explanation."""
    if METHODS[method].baseline:
        options = {"baseline": METHODS[method].baseline} | options
    if method == "occlusion":
        options = {"samples": 64} | options
    return explained(network, None, images, classes, method=method, with_guided=False,
                     options=MapOptions(**OPTIONS | options))  # fmt: skip


def close(found, expected, share=1e-5):
    np.testing.assert_allclose(found, expected, atol=share * np.abs(expected).max(), rtol=0)


def numpy_gradients(x, rule=False, of=None):
    """dY_c/dx of the oracle's network for each class: float64 (4, H, W, 3)."""
    of = of or steps()
    oracle.run(of, x)
    return np.stack([oracle.gradients(of, row, rule)[0] for row in np.eye(COUNT)])


def numpy_scores(x):
    return oracle.run(steps(), x)[-1]


def drawn(photo, seed=3):
    """The random numbers of a photo, float32, and a seed."""
    digest = hashlib.sha256(np.asarray(photo, np.float32).tobytes()).digest()
    return np.random.default_rng([seed, int.from_bytes(digest, "little")])


# ---------------------------------------------------------------- the equations in NumPy


def smooth_grad(x, moment=lambda gradients: gradients.mean(axis=0)):
    noise = drawn(x).standard_normal((6, *x.shape), np.float32).astype(np.float64)
    return moment(np.stack([numpy_gradients(x + 0.2 * (x.max() - x.min()) * one) for one in noise]))


def integrated_gradients(x):
    baseline = np.broadcast_to(BLACK, x.shape).astype(np.float64)
    along = [numpy_gradients(baseline + (k + 0.5) / 6 * (x - baseline)) for k in range(6)]
    return (x - baseline) * np.mean(along, axis=0)


def expected_gradients(x):
    generator, total = drawn(x), 0
    which, share = generator.integers(3, size=6), generator.random(6)
    for number, a in zip(which, share, strict=True):
        other = BACKGROUNDS[number].astype(np.float64)
        total = total + (x - other) * numpy_gradients(other + a * (x - other)) / 6
    return total


def occlusion(x):
    """Of 7 x 9 pixels and 64 samples: windows of 1 x 2, at every pixel."""
    mean, total, covered = x.mean(axis=(0, 1)), np.zeros((COUNT, *x.shape[:2])), np.zeros(x.shape[:2])
    for top in range(7):
        for left in range(8):
            window = np.s_[top : top + 1, left : left + 2]
            hidden = x.copy()
            hidden[window] = mean
            total[:, *window] += (numpy_scores(x) - numpy_scores(hidden))[:, None, None]
            covered[window] += 1
    return total / covered


def numpy_mask(cells, corner, height, width):
    """8 x 8 cells enlarged to nine cells' size, bilinearly with half-pixel centres, and cut out: pixel by pixel."""
    sides = int(np.ceil(height / 8)), int(np.ceil(width / 8))
    top, left = int(corner[0] * sides[0]), int(corner[1] * sides[1])
    mask = np.zeros((height, width))
    for y, x in np.ndindex(height, width):
        places = [(one + 0.5) * 8 / (9 * side) - 0.5 for one, side in zip((y + top, x + left), sides, strict=True)]
        (a, b), (c, d) = [(int(np.floor(place)), place - np.floor(place)) for place in places]
        for row, column, share in ((a, c, (1 - b) * (1 - d)), (a + 1, c, b * (1 - d)), (a, c + 1, (1 - b) * d),
                                   (a + 1, c + 1, b * d)):  # fmt: skip
            mask[y, x] += share * cells[min(max(row, 0), 7), min(max(column, 0), 7)]
    return mask


def rise(x):
    generator, baseline = drawn(x), np.broadcast_to(BLACK, x.shape).astype(np.float64)
    cells, corners = generator.random((6, 8, 8)) < 0.5, generator.random((6, 2))
    masks = np.stack([numpy_mask(*one, *x.shape[:2]) for one in zip(cells, corners, strict=True)])
    scores = np.stack([numpy_scores(baseline + mask[..., None] * (x - baseline)) for mask in masks])  # (6, 4)
    return np.einsum("nc,nhw->chw", scores - scores.mean(axis=0), masks) / masks.sum(axis=0)


ORACLES = {
    "gradient": numpy_gradients,
    "gradient-x-input": lambda x: x * numpy_gradients(x),
    "deconvnet": lambda x: numpy_gradients(x, "deconvnet"),
    "smooth-grad": smooth_grad,
    "var-grad": lambda x: smooth_grad(x, lambda gradients: gradients.var(axis=0)),
    "integrated-gradients": integrated_gradients,
    "expected-gradients": expected_gradients,
    "occlusion": occlusion,
    "rise": rise,
}


@pytest.fixture(scope="module")
def network():
    return with_weights(functional())


@pytest.mark.parametrize(
    "method",
    some_quick(ORACLES, "gradient-x-input", "deconvnet", "smooth-grad", "occlusion", "rise"),
)
def test_equation(method, network):
    found = maps_of(network, method)
    expected = np.stack([ORACLES[method](x.astype(np.float64)) for x in IMAGES], axis=1)
    assert found.cams.dtype == np.float32 and found.cams.shape == expected.shape and found.guided is None
    close(found.cams, expected, 1e-5 if METHODS[method].needs == "photo gradients" else 1e-4)
    assert (found.cams < 0).any() == METHODS[method].signed and (method in PIXEL_KINDS) == (expected.ndim == 5)


def test_every_method_of_the_photo_has_an_oracle():
    assert {name for name, method in METHODS.items() if not method.of_layer} == ORACLES.keys()
    assert ORACLES.keys() >= set(PIXEL_KINDS) and ORACLES.keys() - {"occlusion", "rise"} == set(PIXEL_KINDS)


@pytest.mark.thorough
@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "functional"])
def test_networks_of_every_kind(name):
    build, _, _ = NETWORKS[name]
    network, x = with_weights(build()), IMAGES[:1]
    for method in ("deconvnet", "smooth-grad", "integrated-gradients", "occlusion"):
        close(maps_of(network, method, x).cams[:, 0], ORACLES[method](x[0].astype(np.float64)), 1e-4)


# ---------------------------------------------------------------- identities


def test_integrated_gradients_add_up_to_the_score_s_difference(network):
    ends = np.stack([numpy_scores(x.astype(np.float64)) - numpy_scores(0 * x + BLACK) for x in IMAGES], axis=1)
    before = np.inf
    for samples in (4, 32, 128):
        found = maps_of(network, "integrated-gradients", samples=samples)
        gaps = found.cams.sum(axis=(2, 3, 4), dtype=np.float64) - ends
        np.testing.assert_allclose(found.gaps, gaps, atol=2e-5)
        assert np.abs(gaps).max() < before / 2
        before = np.abs(gaps).max()
    assert before < 5e-3 * np.abs(ends).max()


@pytest.mark.thorough
def test_expected_gradients_add_up_to_the_mean_difference(network):
    found = maps_of(network, "expected-gradients", IMAGES[:1], samples=2000).cams.sum(axis=(2, 3, 4))[:, 0]
    others = np.mean([numpy_scores(one.astype(np.float64)) for one in BACKGROUNDS], axis=0)
    expected = numpy_scores(IMAGES[0].astype(np.float64)) - others
    close(found, expected, 0.05)


def test_without_noise_smooth_grad_is_the_gradient(network):
    gradient = maps_of(network, "gradient").cams
    close(maps_of(network, "smooth-grad", noise=0.0).cams, gradient)
    assert maps_of(network, "var-grad", noise=0.0).cams.max() < 1e-6 * np.abs(gradient).max() ** 2


def linear_network(bias=0.3):
    """(network of one Dense layer behind flattening, its weights (4, 7, 9, 3))."""
    kernel = np.random.default_rng(2).normal(size=(np.prod(SHAPE), COUNT))
    network = keras.Sequential([keras.Input(SHAPE), layers.Flatten(), layers.Dense(COUNT)])
    network.layers[-1].set_weights([kernel, np.full(COUNT, bias)])
    return network, kernel.T.reshape(COUNT, *SHAPE)


@pytest.mark.thorough
def test_of_a_linear_network_all_is_known():
    """Gradients are the weights; occlusion is the mean of w (x - baseline) over the windows that cover a pixel."""
    network, weights = linear_network()
    x, parts = IMAGES[0], weights * (IMAGES[0] - BLACK)
    for method in ("gradient", "deconvnet", "smooth-grad"):
        close(maps_of(network, method, IMAGES[:1]).cams[:, 0], weights)
    found = maps_of(network, "integrated-gradients", IMAGES[:1], samples=1)
    close(found.cams[:, 0], parts)
    assert np.abs(found.gaps).max() < 1e-4
    found = maps_of(network, "occlusion", IMAGES[:1], baseline="black", samples=6).cams[:, 0]
    of_pixels, expected = parts.sum(axis=-1), np.empty((COUNT, 7, 9))
    for left in (0, 2, 4, 6, 8):
        expected[:, :, left : left + 2] = of_pixels[:, :, left : left + 2].sum(axis=2, keepdims=True)
    close(found, expected)
    close(maps_of(network, "gradient-x-input", IMAGES[:1]).cams[:, 0], weights * x)


@pytest.mark.parametrize(
    ("size", "samples", "rows", "columns"),
    [
        ((224, 224), 196, [(14 * row, min(14 * row + 45, 224)) for row in range(14)], None),
        ((10, 20), 9, [(0, 2), (2, 4), (4, 6), (6, 8), (8, 10)], [(0, 4), (4, 8), (8, 12), (12, 16), (16, 20)]),
        ((2, 7), 1, [(0, 1), (1, 2)], [(start, start + 1) for start in range(7)]),
        ((20, 20), 100, [(2 * start, min(2 * start + 4, 20)) for start in range(9)], None),
    ],
)
def test_windows_of_occlusion_cover_every_pixel(size, samples, rows, columns):
    """A fifth of each side, and about as many as samples; never further apart than they are wide."""
    found = [((a.start, a.stop), (b.start, b.stop)) for a, b in sampling.windows_of(size, samples)]
    assert found == [(row, column) for row in rows for column in columns or rows]


def test_a_constant_score_has_no_evidence_in_rise():
    network, _ = linear_network(bias=1000.0)
    network.layers[-1].set_weights([network.layers[-1].get_weights()[0] * 0, np.full(COUNT, 1000.0)])
    assert not maps_of(network, "rise").cams.any()


def test_masks_of_rise_are_half_seen_on_average_everywhere():
    generator = np.random.default_rng(0)
    cells, corners = generator.random((4000, 8, 8)) < sampling.KEPT, generator.random((4000, 2))
    masks = np.stack([sampling.rise_mask(*one, 20, 27) for one in zip(cells, corners, strict=True)])
    assert masks.shape[1:] == (20, 27) and masks.min() == 0 and masks.max() == 1
    np.testing.assert_allclose(masks.mean(axis=0), 0.5, atol=4.5 * 0.5 / 4000**0.5)
    sides = np.abs(np.diff(masks, axis=2)).max()
    assert 0.2 < sides < 0.5  # smooth over four pixels of a cell


@pytest.mark.parametrize("method", some_quick(LINEAR, "occlusion"))
def test_contrast_is_a_difference_of_scores(method, network):
    plain = maps_of(network, method).cams
    against = maps_of(network, method, classes=[0], contrast=2).cams
    close(against[0], plain[0] - plain[2], 1e-4)
    close(maps_of(network, method, classes=[2], contrast=0).cams, -against, 1e-4)


@pytest.mark.parametrize("method", some_quick(["hires-cam", "ablation-cam", "grad-cam"], "hires-cam"))
def test_contrast_of_the_cam_family(method, network):
    plain = maps_of(network, "hires-cam").cams
    found = maps_of(network, method, classes=[0], contrast=2)
    assert not maps_of(network, method, classes=[2], contrast=2).cams.any()
    if method != "ablation-cam":  # behind global average pooling all of them are one map
        difference = plain[0] - plain[2]
        close(found.cams[0], difference if method == "hires-cam" else np.maximum(difference, 0))
    else:
        a, logits = found.features.astype(np.float64), found.logits.astype(np.float64)
        weights = a.mean(axis=(1, 2)) * (network.layers[-1].get_weights()[0] @ [1, 0, -1, 0])  # of each feature
        fall = weights / np.abs(logits[:, 0] - logits[:, 2])[:, None]
        close(found.cams[0], np.maximum(np.einsum("nhwk,nk->nhw", a, fall), 0), 1e-4)


def test_score_of_a_group_less_a_class():
    logits = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    score, u = ExplainedScore(4, [[1, 3]], contrast=2)(ops.convert_to_tensor(logits), np.full(3, 4, np.int32))
    powers = np.exp(logits.astype(np.float64))
    np.testing.assert_allclose(score, np.log(powers[:, 1] + powers[:, 3]) - logits[:, 2], atol=1e-6)
    share = powers[:, 1] / (powers[:, 1] + powers[:, 3])
    expected = np.stack([0 * share, share, 0 * share - 1, 1 - share], axis=1)
    np.testing.assert_allclose(u, expected, atol=1e-6)


# ---------------------------------------------------------------- augmentation smoothing


@pytest.mark.thorough
def test_smoothing_leaves_an_equivariant_map_as_it_is():
    """HiResCAM of 1 x 1 convolutions and global average pooling: each cell depends on its pixel alone."""
    image = keras.Input(SHAPE)
    x = layers.Conv2D(5, 1, activation="relu", name="conv")(image)
    network = keras.Model(image, layers.Dense(COUNT)(layers.GlobalAveragePooling2D()(x)))
    plain = maps_of(network, "hires-cam").cams
    close(maps_of(network, "hires-cam", smooth=9).cams, plain)
    plain, smoothed = (
        explained(network, None, method="hires-cam", options=MapOptions(smooth=count, seed=0)) for count in (1, 9)
    )
    for name in ("guided", "products"):
        close(getattr(smoothed, name), getattr(plain, name))


def test_smoothing_is_the_mean_of_maps_laid_back(network):
    """A convolution's valid output: cells are pixels, two from each edge; versions are undone cell by cell."""
    plain, smoothed = (maps_of(network, "grad-cam", smooth=count) for count in (1, 5))
    versions = sampling.Smoothed(None, None, MapOptions(smooth=5, seed=3)).versions(*SHAPE[:2])
    assert versions[0] == (False, 0, 0) and [one[0] for one in versions] == [False, True, False, True, False]
    assert len(set(versions)) > 3 and all(max(map(abs, one[1:])) <= 1 for one in versions)
    height, width = SHAPE[:2]
    total, known = np.zeros(plain.cams.shape), np.zeros(plain.cams.shape)
    for mirrored, down, right in versions:
        changed = np.empty_like(IMAGES)
        for y, x in np.ndindex(height, width):
            column = min(max(x - right, 0), width - 1)
            source = width - 1 - column if mirrored else column
            changed[:, y, x] = IMAGES[:, min(max(y - down, 0), height - 1), source]
        cams = maps_of(network, "grad-cam", changed).cams
        for y, x in np.ndindex(*cams.shape[2:]):
            row, column = y + down, (cams.shape[3] - 1 - x if mirrored else x) + right
            if 0 <= row < cams.shape[2] and 0 <= column < cams.shape[3]:
                total[:, :, y, x] += cams[:, :, row, column]
                known[:, :, y, x] += 1
    assert np.abs(smoothed.cams - plain.cams).max() > 0.01 * plain.cams.max()
    close(smoothed.cams, total / known)
    np.testing.assert_array_equal(smoothed.logits, plain.logits)


def test_smoothing_lays_maps_of_pixels_and_coarse_maps_back():
    """A ramp that was mirrored and moved is the ramp again; a coarse map is moved by parts of a cell."""
    ramp = np.arange(12.0)[None] + 100 * np.arange(8.0)[:, None]
    moved = ramp[np.clip(np.arange(8) - 1, 0, 7)][:, 11 - np.clip(np.arange(12) - 2, 0, 11)]
    maps = np.repeat(moved[None, None, ..., None], 3, axis=-1).astype(np.float32)
    back, known = sampling.laid_back(ops.convert_to_tensor(maps), (True, 1 / 8, 2 / 12), (0.0, 0.0, 1.0, 1.0))
    assert known.shape == (8, 12, 1) and known.sum() == 7 * 10
    np.testing.assert_allclose(ops.convert_to_numpy(back)[0, 0], (ramp * known[..., 0])[..., None].repeat(3, 2))
    coarse = np.arange(4.0, dtype=np.float32)[None, None, None].repeat(2, 2)
    back, _ = sampling.laid_back(ops.convert_to_tensor(coarse), (False, 0.0, 1 / 8), (0.0, 0.0, 1.0, 1.0))
    np.testing.assert_allclose(ops.convert_to_numpy(back)[0, 0, 0], [0.5, 1.5, 2.5, 3.0], atol=1e-6)
    for shift, known in ((-0.15, [0, 1, 1, 1]), (-0.12, [1, 1, 1, 1]), (0.15, [1, 1, 1, 0])):  # more than half a cell
        _, inside = sampling.laid_back(ops.convert_to_tensor(coarse), (False, 0.0, shift), (0.0, 0.0, 1.0, 1.0))
        np.testing.assert_array_equal(inside, [known, known])


# ---------------------------------------------------------------- batches


@pytest.mark.parametrize("method", some_quick(["smooth-grad", "expected-gradients", "rise"], "smooth-grad"))
def test_a_photo_s_map_depends_on_the_photo_and_the_seed_alone(method, network, monkeypatch):
    together = maps_of(network, method, np.concatenate([IMAGES, IMAGES[:1] + 1])).cams
    close(maps_of(network, method, IMAGES[1:]).cams[:, 0], together[:, 1], 1e-4)
    close(maps_of(network, method, IMAGES[::-1]).cams[:, 1], together[:, 0], 1e-4)
    assert np.abs(maps_of(network, method, seed=4).cams - together[:, :2]).max() > 0.01 * np.abs(together).max()
    at_once = maps_of(network, method, samples=7).cams
    monkeypatch.setattr(sampling, "SAMPLES_AT_ONCE", 4)  # four, and three that are filled up
    close(maps_of(network, method, samples=7).cams, at_once, 1e-4)


def test_as_many_samples_are_asked_for_at_once_as_have_room(network):
    """Here a photo takes next to nothing, and its gradients more than there is."""
    structure = dataclasses.replace(inspect_network(network, SHAPE), memory=(1.0, 1e30))
    sampler = sampling.Sampler(network, structure, ExplainedScore(COUNT), MapOptions(**OPTIONS, baseline="mean"))
    asked = {"gradients": [], "scores": []}
    for name in asked:
        function = getattr(sampler, name)
        setattr(sampler, name, lambda portion, *others, name=name, function=function: (
            asked[name].append(len(portion)), function(portion, *others))[1])  # fmt: skip
    for method in ("smooth-grad", "rise"):
        sampler(METHODS[method], ops.convert_to_tensor(IMAGES), ops.convert_to_tensor(np.zeros((1, 2), np.int32)), 1)
    assert asked == {"gradients": [1] * 6, "scores": [6]}


def test_samples_are_asked_for_in_halves_where_memory_runs_out(network, capsys):
    """Here of more than two photos at once; nothing is asked twice that was answered."""
    structure, images = inspect_network(network, SHAPE), ops.convert_to_tensor(IMAGES)
    sampler = sampling.Sampler(network, structure, ExplainedScore(COUNT), MapOptions(**OPTIONS))
    asked = []

    def scarce(photos, *others):
        asked.append(len(photos))
        if len(photos) > 2:
            raise MemoryError("out of memory")
        return sampler.sums_of(photos, *others)

    sampler.gradients = sampling.halving(sampler.portion_of(scarce), axes=(0,))
    chosen = ops.convert_to_tensor(np.arange(COUNT, dtype=np.int32)[:, None].repeat(2, 1))
    maps, _ = sampler(METHODS["smooth-grad"], images, chosen, 2)
    close(maps, maps_of(network, "smooth-grad").cams)
    assert asked == [6, 3, *[1] * 12]  # of two photos
    assert "going on with" in capsys.readouterr().out


def test_batches_have_few_sizes_whatever_memory_is_free(network, monkeypatch):
    """Powers of two, since each size is compiled once."""
    sampler = sampling.Sampler(network, inspect_network(network, SHAPE), ExplainedScore(COUNT), MapOptions())
    of_photo = sampler.structure.memory[True]
    for free, expected in ((0, 1), (2 * 9 * of_photo, 8), (2 * 31 * of_photo, 16), (float("inf"), 32)):
        monkeypatch.setattr(sampling, "available_memory", lambda free=free: free)
        assert sampler.most_at_once(with_gradients=True) == expected


def test_progress_within_a_photo_only_grows_over_smoothed_maps(monkeypatch, capsys):
    monkeypatch.setattr(sampling, "SAMPLES_AT_ONCE", 4)
    with Progress("photos", 1, seconds_between_lines=0):
        GradCAM(classifier_of(), method="occlusion", samples=16, smooth=4)([np.full((8, 9, 3), 60, np.uint8)])
    shares = [float(line.split()[1]) for line in capsys.readouterr().out.splitlines()]
    assert shares == sorted(shares) and len(shares) > 10 and shares[0] < 0.25 and 0.75 < shares[-1] < 1


@pytest.mark.parametrize("method", some_quick(["occlusion", "integrated-gradients"], "occlusion"))
def test_progress_within_a_photo_only_grows(method, network, monkeypatch, capsys):
    monkeypatch.setattr(sampling, "SAMPLES_AT_ONCE", 4)
    with Progress("photos", len(IMAGES), seconds_between_lines=0):
        maps_of(network, method, samples=16)
    lines = capsys.readouterr().out.splitlines()
    shares = [float(line.split()[1]) for line in lines]
    assert all(line.startswith("photos: ") and line.endswith(" s left") for line in lines) and shares == sorted(shares)
    assert 0 < shares[0] < 0.5 and any(0.5 < share < 1 for share in shares) and 1.5 < shares[-1] < 2


@pytest.mark.thorough
def test_many_classes_and_photos_that_only_fill_a_batch(network):
    rows = np.arange(11) % COUNT
    found = maps_of(network, "smooth-grad", classes=rows.tolist()).cams
    few = maps_of(network, "smooth-grad").cams
    close(found, few[rows])


# ---------------------------------------------------------------- of a classifier


def classifier_of(relu="relu", head=None, **more):
    image = keras.Input((8, 9, 3))
    x = layers.Conv2D(5, 3, activation=relu if isinstance(relu, str) else None, name="conv")(image)
    x = x if isinstance(relu, str) else relu(x)
    x = layers.Flatten()(x)
    outputs = layers.Dense(3, activation="softmax", name="kind")(x)
    network = keras.Model(image, [layers.Dense(2, name="other")(x), outputs] if head else outputs)
    generator = np.random.default_rng(7)
    for weight in network.weights:
        weight.assign(generator.normal(size=weight.shape) * 0.3)
    return Classifier(network, None, "net", preprocess="caffe", **{"head": head} if head else {}, **more)


@pytest.fixture(scope="module")
def classifier():
    return classifier_of()


def test_maps_are_rgb_whatever_the_network_takes(classifier):
    """caffe: BGR less a mean colour; the maps are of its input, in RGB."""
    x = classifier.prepare(PHOTOS)
    for method in ("gradient", "integrated-gradients", "occlusion"):
        found = GradCAM(classifier, method=method, classes=["all"])(PHOTOS)
        options = sampling.options_for(MapOptions(), classifier, method)
        expected = explained(classifier.network, classifier.structure, x, range(3), method=method, options=options,
                             with_guided=False).cams  # fmt: skip
        close(found.cams, expected if method == "occlusion" else expected[..., ::-1])
        assert found.guided is None and found.features is None and found.extent.tolist() == [[0, 0, 8, 9]] * 2
    np.testing.assert_allclose(options.black, classifier.prepare(np.zeros((1, 1, 1, 3), np.uint8))[0])


def test_what_is_left_open_is_the_methods(classifier):
    found = sampling.options_for(MapOptions(), classifier, "smooth-grad")
    assert (found.samples, found.noise, found.seed, found.baseline, found.contrast) == (25, 0.15, 0, None, None)
    given = sampling.options_for(MapOptions(noise=0.0, seed=4, contrast="1"), classifier, "smooth-grad")
    assert (given.noise, given.seed, given.contrast, given.contrast_name) == (0.0, 4, 1, "class_1")
    many = np.random.default_rng(0).integers(0, 256, (70, 8, 9, 3)).astype(np.uint8)
    found = sampling.options_for(MapOptions(backgrounds=many, seed=4), classifier, "expected-gradients").backgrounds
    chosen = np.sort(np.random.default_rng(4).permutation(70)[:64])
    np.testing.assert_allclose(found, classifier.prepare(many[chosen]))


@pytest.mark.parametrize("baseline", ["black", "white", "mean", "blur"])
def test_baselines(baseline, classifier):
    options = sampling.options_for(MapOptions(baseline=baseline), classifier, "occlusion")
    found = sampling.baseline_of(classifier.prepare(PHOTOS)[0], options)
    pixels = PHOTOS[0].astype(np.float32)
    colours = {
        "black": 0 * pixels,
        "white": 0 * pixels + 255,
        "mean": 0 * pixels + pixels.mean(axis=(0, 1)),
        "blur": cv2.GaussianBlur(pixels, (0, 0), 0.9),
    }
    np.testing.assert_allclose(found, classifier.input_spec.prepare(colours[baseline][None])[0], atol=1e-3)


@pytest.mark.thorough
@pytest.mark.parametrize("method", ["smooth-grad", "integrated-gradients", "rise", "deconvnet"])
def test_a_head_of_several_and_half_precision(method):
    settings = {"method": method, "classes": ["0", "2"]}
    alone = GradCAM(classifier_of(), **settings)(PHOTOS)
    several = classifier_of(head="kind")
    for layer in (several.network.get_layer("conv"), several.network.get_layer("kind")):
        layer.set_weights(classifier_of().network.get_layer(layer.name).get_weights())
    close(GradCAM(several, **settings)(PHOTOS).cams, alone.cams)
    half = GradCAM(classifier_of(dtype="float16"), **settings)(PHOTOS)
    assert half.cams.dtype == np.float32
    close(half.cams, alone.cams, 0.03)


@pytest.mark.thorough
@pytest.mark.skipif(BACKEND != "tensorflow", reason="Keras computes in float64 on TensorFlow only")
def test_double_precision_is_kept():
    found = GradCAM(classifier_of(dtype="float64"), method="integrated-gradients", samples=2000, classes=["0"])(PHOTOS)
    assert (
        found.cams.dtype == found.gaps.dtype == np.float64
        and (np.abs(found.gaps) < 1e-3 * np.abs(found.logits).max()).all()
    )
    single = GradCAM(classifier_of(), method="integrated-gradients", samples=2000, classes=["0"])(PHOTOS)
    close(single.cams, found.cams, 1e-4)


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "smooth-grad", "layer": "conv"}, "--layer conv: smooth-grad is of the photo; expected no layer"),
        ({"method": "grad-cam", "samples": 5}, "--samples is not of grad-cam; expected another --method"),
        ({"method": "occlusion", "seed": 1}, "--seed is not of occlusion"),
        ({"method": "eigen-cam", "contrast": "0"}, "--contrast is not of eigen-cam"),
        ({"method": "smooth-grad", "samples": 0}, "--samples 0: expected a whole number from 1 to 1,000,000"),
        ({"method": "smooth-grad", "noise": float("nan")}, "--noise nan: expected a share"),
        ({"method": "rise", "baseline": "green"}, "--baseline green: expected black, mean, blur, white"),
        ({"method": "gradient", "smooth": 2.5}, "--smooth 2.5: expected a whole number from 1 to 1,000"),
        ({"contrast": "predicted"}, "--contrast predicted: expected the name or index of one class"),
        ({"contrast": "dgo"}, "is not a class"),
        ({"method": "smooth_grad"}, "method 'smooth_grad' is unknown"),
    ],
)
def test_options_that_do_not_fit(settings, message, classifier):
    with pytest.raises(UserError) as refused:
        GradCAM(classifier, **settings)
    assert message in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("relu", "kind"),
    [
        ("silu", "silu"),
        pytest.param(layers.ReLU(6.0), "ReLU up to 6", marks=pytest.mark.thorough),
        pytest.param(layers.LeakyReLU(0.1), "leaky ReLU", marks=pytest.mark.thorough),
    ],
)
def test_deconvnet_is_of_plain_relus(relu, kind):
    network = classifier_of(relu=relu).network
    with pytest.raises(UserError, match=rf"\({kind}\).*the deconvnet is not defined there; expected another method"):
        explain(network, PHOTOS, method="deconvnet", preprocess="caffe")
    assert explain(network, PHOTOS, method="gradient", preprocess="caffe").cams.any()


@pytest.mark.parametrize("method", some_quick(["integrated-gradients", "smooth-grad", "rise"], "integrated-gradients"))
def test_a_photo_with_numbers_that_are_not_finite_is_left_out(method):
    classifier = classifier_of()
    classifier.network.get_layer("kind").set_weights([np.full((210, 3), 3e38, np.float32), np.zeros(3, np.float32)])
    found = GradCAM(classifier, method=method, classes=["0"])(PHOTOS)
    assert np.isnan(found.logits).all()


# ---------------------------------------------------------------- files


def test_run_of_the_script(run_here, small_network, photo_folder, tmp_path):
    photos = photo_folder({"dog/a.png": (200, 50, 50), "cat/b.png": (20, 50, 200)})
    common = [
        photos,
        "--weights",
        small_network,
        "--samples",
        4,
        "--contrast",
        "cat",
        "--classes",
        "dog",
        "--smooth",
        2,
    ]
    result = run_here("gradcam_vgg16.py", *common, "--method", "integrated-gradients", "--reduce", "sum", "--output",
                      tmp_path / "o")  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "integrated-gradients of the photo, samples 4, baseline black" in result.stdout
    assert "less that of cat" in result.stdout and "completeness gap: " in result.stdout
    folder = tmp_path / "o" / "dog" / "a"
    names = {path.name for path in folder.iterdir()}
    kinds = ("integrated-gradients_for_dog.npy", "integrated-gradients_for_dog.jpg", "spp_for_dog.jpg")
    assert names == {*kinds, "panel_for_dog.jpg", "photo.jpg"}
    values = np.load(folder / kinds[0])
    assert values.shape == (16, 16, 3) and values.dtype == np.float32 and (values < 0).any()
    settings = json.loads((tmp_path / "o" / "run.json").read_text())["settings"]
    assert {name: settings[name] for name in ("samples", "baseline", "contrast", "smooth", "reduce", "layer")} == {
        "samples": 4, "baseline": "black", "contrast": "cat", "smooth": 2, "reduce": "sum", "layer": None,
    }  # fmt: skip
    rows = read_csv(tmp_path / "o" / "predictions.csv")
    assert all(0 <= float(row["completeness_gap"]) < 5 for row in rows) and len(rows) == 2
    saved = next(one for one in find_saved(tmp_path / "o") if one.name == "dog/a.png")
    ((kind, places),) = saved.map_places().items()
    np.testing.assert_allclose(saved.read_map(kind, places["dog"]), values.sum(axis=2), atol=1e-6)
    assert saved.is_signed(kind) and saved.title_of(kind) == "integrated gradients against cat"
    again = run_here("gradcam_vgg16.py", *common, "--method", "integrated-gradients", "--reduce", "sum", "--output",
                     tmp_path / "o")  # fmt: skip
    assert "2 of 2 photos are done already" in again.stdout
    page = run_here("show_heatmaps.py", tmp_path / "o", "--html", tmp_path / "page.html")
    assert page.returncode == 0 and "integrated gradients against cat" in (tmp_path / "page.html").read_text()


@pytest.mark.thorough
def test_shards_and_stores_hold_the_maps_of_one_run(run_here, small_network, photo_folder, tmp_path):
    names = [f"{name}/{number}.png" for name in ("dog", "cat") for number in range(3)]
    photos = photo_folder({name: (40 * index, 90, 9) for index, name in enumerate(names)})
    common = [photos, "--weights", small_network, "--method", "smooth-grad", "--samples", 5, "--seed", 7]
    for output, more in (("whole", []), ("parts", ["--shard", "1/2"]), ("parts", ["--shard", "2/2"])):
        arguments = [*common, "--batch-size", 1 if output == "parts" else 4, "--output", tmp_path / output]
        assert run_here("gradcam_vgg16.py", *arguments, *more).returncode == 0
    assert run_here("gradcam_vgg16.py", *common, "--store", tmp_path / "store").returncode == 0
    runs = [{one.name: one for one in find_saved(tmp_path / place)} for place in ("whole", "parts", "store")]
    assert runs[0].keys() == runs[1].keys() == runs[2].keys() == set(names)
    for name in names:
        maps = [run[name].map_places()["smooth-grad"] for run in runs]
        first, *others = ([one[0].read_map("smooth-grad", place) for place in one[1].values()]
                          for one in zip([run[name] for run in runs], maps, strict=True))  # fmt: skip
        for other in others:
            close(other[0], first[0])


@pytest.mark.thorough
def test_several_methods_have_options_of_their_own(run_here, small_network, photo_folder, tmp_path):
    photos = photo_folder({"a.png": (200, 50, 50)})
    methods = ["--method", "grad-cam", "occlusion", "gradient", "--samples", 4, "--layer", "conv", "gap"]
    arguments = [photos, "--weights", small_network, "--no-pictures", "--output", tmp_path / "o"]
    result = run_here("gradcam_vgg16.py", *arguments, *methods)
    assert result.returncode == 2 and "'gap'" in result.stderr or "--layer gap" in result.stderr
    result = run_here("gradcam_vgg16.py", *arguments, *methods[:-1])
    assert result.returncode == 0, result.stderr
    assert {path.name for path in (tmp_path / "o").iterdir()} == {"grad-cam@conv", "occlusion@input", "gradient@input"}
    assert np.load(next((tmp_path / "o" / "occlusion@input").rglob("gradcam_for_*.npy"))).shape == (16, 16)
    for given, said in (
        (["--method", "grad-cam", "--samples", 4], "--samples is of no --method that is asked for (grad-cam)"),
        (["--method", "occlusion", "--reduce", "sum"], "--reduce is of no --method"),
        (["--method", "smooth-grad", "--noise", -1], "--noise -1.0: expected a share"),
        (["--method", "rise", "--counterfactual"], "--counterfactual negates gradients, which rise does without"),
    ):
        result = run_here("gradcam_vgg16.py", *arguments, *given)
        assert result.returncode == 2 and said in result.stderr and result.stderr.count("\n") == 1, result.stderr


@pytest.mark.thorough
def test_relus_that_deconvnet_takes(network):
    """A ReLU in a network's own code, too: its rule is the oracle's."""
    make, settings = RELUS["custom layer, backend"]
    close(
        maps_of(with_weights(functional(make())), "deconvnet", IMAGES[:1]).cams[:, 0],
        numpy_gradients(IMAGES[0].astype(np.float64), "deconvnet", steps(settings)),
    )
