"""Each method of the CAM family against its paper's equation, written out in float64 NumPy loops."""

import cv2
import keras
import numpy as np
import pytest
from keras import layers, ops
from small_networks import explained

from camlib.attribution import METHODS, MapOptions, titles_of
from camlib.attribution.guided import guided_grad_cam
from camlib.attribution.methods import CHANGED_AT_ONCE, covered, enlarged, score_cam_masks
from camlib.console import UserError

N, H, W, K = 2, 3, 4, 5
GENERATOR = np.random.default_rng(1)
FEATURES = np.maximum(GENERATOR.normal(size=(N, H, W, K)), 0)  # after a ReLU
FEATURES[0, :, :, 2] = 0  # a feature that is silent
GRADIENTS = GENERATOR.normal(size=(N, H, W, K))
GRADIENTS[1, :, :, 3] = 0  # a feature that does not matter
SCORES, SCORE = GENERATOR.normal(size=(N, K)), np.array([1.7, -0.4])


def relu(x):
    return np.maximum(x, 0)


def grad_cam(a, g, *_):
    alpha = [g[..., k].sum() / (H * W) for k in range(K)]
    return relu(sum(alpha[k] * a[..., k] for k in range(K)))


def grad_cam_plus_plus(a, g, *_):
    total = np.zeros((H, W))
    for k in range(K):
        weight = 0.0
        for y, x in np.ndindex(H, W):
            g1 = g[y, x, k]
            below = 2 * g1**2 + a[..., k].sum() * g1**3
            weight += (g1**2 / below if below else 0.0) * max(g1, 0.0)
        total += weight * a[..., k]
    return relu(total)


def hires_cam(a, g, *_):
    return sum(g[..., k] * a[..., k] for k in range(K))


def layer_cam(a, g, *_):
    return relu(sum(relu(g[..., k]) * a[..., k] for k in range(K)))


def xgrad_cam(a, g, *_):
    total = np.zeros((H, W))
    for k in range(K):
        if a[..., k].sum():
            total += sum(a[y, x, k] / a[..., k].sum() * g[y, x, k] for y, x in np.ndindex(H, W)) * a[..., k]
    return relu(total)


def element_wise(a, g, *_):
    return sum(relu(g[..., k] * a[..., k]) for k in range(K))


def eigen_grad_cam(a, g, *_):
    products = (g * a).reshape(-1, a.shape[-1])
    centred = products - products.mean(axis=0)
    projected = centred @ np.linalg.svd(centred)[2][0]
    return (projected * np.sign(projected @ products.sum(axis=1))).reshape(a.shape[:2])


def eigen_cam(a, *_):
    matrix = a.reshape(-1, a.shape[-1])
    projected = (matrix @ np.linalg.svd(matrix)[2][0]).reshape(a.shape[:2])
    return projected * np.sign(projected.sum())


def score_cam(a, g, scores, score):
    weights = np.exp(scores - score) / np.exp(scores - score).sum()
    return relu(sum(weights[k] * a[..., k] for k in range(K)))


def ablation_cam(a, g, scores, score):
    return relu(sum((score - scores[k]) / abs(score) * a[..., k] for k in range(K)))


EQUATIONS = [grad_cam, grad_cam_plus_plus, hires_cam, layer_cam, xgrad_cam, element_wise]
EQUATIONS += [eigen_grad_cam, eigen_cam, score_cam, ablation_cam]
ORACLES = {equation.__name__: equation for equation in EQUATIONS}
FAMILY = [name for name, method in METHODS.items() if method.of_layer]  # test_sampling.py has the others


def tensor(x):
    return ops.convert_to_tensor(np.asarray(x, np.float32))


def map_of(method, features, score):
    """What a method makes of these features; gradients and scores are those above."""
    arguments = {"gradients": (GRADIENTS,), "nothing": ()}.get(method.needs, (SCORES, score))
    return ops.convert_to_numpy(method.function(tensor(features), *map(tensor, arguments)))


@pytest.mark.parametrize("name", FAMILY)
def test_equation(name):
    method = METHODS[name]
    found = map_of(method, FEATURES, SCORE)
    oracle = ORACLES[method.equation.split(".")[1]]
    expected = np.stack([oracle(FEATURES[n], GRADIENTS[n], SCORES[n], SCORE[n]) for n in range(N)])
    assert found.dtype == np.float32 and np.abs(expected).max() > 0.01
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    assert (found < 0).any() == (method.signed and name != "eigen-cam")  # whose signs are the features'


@pytest.mark.parametrize(("name", "equation"), [("eigen-cam", eigen_cam), ("eigen-grad-cam", eigen_grad_cam)])
def test_components_of_more_features_than_cells(name, equation):
    """As of VGG-16: 14 x 14 cells of 512 features."""
    a, g = np.maximum(GENERATOR.normal(size=(2, 2, 3, 20)) / 50, 0), GENERATOR.normal(size=(2, 2, 3, 20))
    method = METHODS[name]
    found = method.function(*map(tensor, (a, g) if method.needs == "gradients" else (a,)))
    expected = np.stack([equation(*pair) for pair in zip(a, g, strict=True)])
    np.testing.assert_allclose(ops.convert_to_numpy(found), expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", FAMILY)
def test_silent_features_give_zero_not_nan(name):
    found = map_of(METHODS[name], FEATURES * 0, SCORE * 0)
    np.testing.assert_array_equal(found, np.zeros((N, H, W)))


def test_grad_cam_plus_plus_where_its_divisor_is_one():
    """g = 1/2 and a sum of 4: 2 g^2 + S g^3 = 1, so that a = 1/4, and the weight is a g for each of the four cells."""
    features = np.float32([[1, 0], [0, 3]])[None, ..., None]
    found = METHODS["grad-cam++"].function(tensor(features), tensor(np.full((1, 2, 2, 1), 0.5)))
    np.testing.assert_allclose(ops.convert_to_numpy(found), features[..., 0] * 4 * 0.25 * 0.5, atol=1e-6)


@pytest.mark.parametrize(("name", "silent"), [("xgrad-cam", 0), ("grad-cam++", 1)])
def test_a_weight_that_would_be_divided_by_zero_is_zero(name, silent):
    """Of a feature whose sum is 0, as it may be without a ReLU; and of one without gradients and without a sum."""
    features, gradients = FEATURES.copy(), GRADIENTS.copy()
    features[..., :2], gradients[..., 1] = 0, 0
    features[:, 0, :2, 0] = 1, -1
    others = [k for k in range(K) if k != silent]
    function = METHODS[name].function
    found, expected = (
        ops.convert_to_numpy(function(tensor(features[..., kept]), tensor(gradients[..., kept])))
        for kept in (range(K), others)
    )
    assert np.abs(expected).max() > 0.01
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_score_cam_masks_span_zero_to_one():
    masks = ops.convert_to_numpy(score_cam_masks(tensor(FEATURES), 9, 7))
    for n, k in np.ndindex(N, K):
        enlarged = cv2.resize(FEATURES[n, ..., k], (7, 9), interpolation=cv2.INTER_LINEAR)
        spread = enlarged.max() - enlarged.min()
        expected = (enlarged - enlarged.min()) / spread if spread else enlarged * 0
        np.testing.assert_allclose(masks[n, ..., k], expected, atol=1e-5)


EXTENT = 1 / 9, 2 / 7, 8 / 9, 1.0  # rows 1 to 7 and columns 2 to 6 of 9 x 7


def test_features_of_a_part_are_enlarged_and_masks_there():
    """What lies beyond is the part's border in what is enlarged, and zero in a mask."""
    part = np.stack([[cv2.resize(a[..., k], (5, 7), interpolation=cv2.INTER_LINEAR) for k in range(K)]
                     for a in FEATURES]).transpose(0, 2, 3, 1)  # fmt: skip
    whole = np.pad(part, ((0, 0), (1, 1), (2, 0), (0, 0)), "edge")
    np.testing.assert_allclose(enlarged(tensor(FEATURES), 9, 7, EXTENT), whole, atol=1e-5)
    low, high = part.min(axis=(1, 2), keepdims=True), part.max(axis=(1, 2), keepdims=True)
    expected = np.pad((part - low) / np.where(high > low, high - low, 1), ((0, 0), (1, 1), (2, 0), (0, 0)))
    np.testing.assert_allclose(score_cam_masks(tensor(FEATURES), 9, 7, EXTENT), expected, atol=1e-5)
    inside = np.zeros((9, 7, 1))
    inside[1:8, 2:] = 1
    np.testing.assert_array_equal(covered(EXTENT, 9, 7), inside)
    np.testing.assert_array_equal(covered((0.25, 0.25, 0.75, 0.75), 2, 2), np.ones((2, 2, 1)))  # middles at the edge


@pytest.mark.parametrize("extent", [None, EXTENT])
def test_guided_grad_cam_is_the_product_with_the_enlarged_map(extent):
    cam, guided = FEATURES[..., 0], GENERATOR.normal(size=(N, 9, 7, 3))
    large = np.zeros((N, 9, 7))
    rows, columns = (slice(None), slice(None)) if extent is None else (slice(1, 8), slice(2, 7))
    size = large[0, rows, columns].shape[::-1]
    large[:, rows, columns] = [cv2.resize(one, size, interpolation=cv2.INTER_LINEAR) for one in cam]
    found = ops.convert_to_numpy(guided_grad_cam(tensor(guided), tensor(cam), extent))
    np.testing.assert_allclose(found, guided * large[..., None], atol=1e-5)


# ---------------------------------------------------------------- in a network


def small_network(features=CHANGED_AT_ONCE + 3):
    """A convolution with more features than fit one chunk, and a head whose score is no linear function of them."""
    keras.utils.set_random_seed(3)
    image = keras.Input((6, 5, 3))
    x = layers.Conv2D(features, 3, padding="same", activation="relu", name="conv")(image)
    x = layers.Dense(8, activation="relu")(layers.GlobalAveragePooling2D(name="gap")(x))
    return keras.Model(image, layers.Dense(3, activation="softmax", name="class")(x))


IMAGES = GENERATOR.normal(size=(2, 6, 5, 3)).astype(np.float32)
CLASSES = [0, 2]
GROUP, OF_GROUP = 3, [0, 2]  # explained after the network's three classes, as the two of them together


def numpy_head(network, features):
    """float64 logits of small_network from its features (h, w, K)."""
    x = features.astype(np.float64).mean((0, 1))
    for layer in network.layers[-2:]:
        kernel, bias = (weight.astype(np.float64) for weight in layer.get_weights())
        x = x @ kernel + bias
        x = relu(x) if layer.name != "class" else x
    return x


def scores_of(logits):
    """The scores Y (..., 3) of both CLASSES and of the group, log sum exp, from logits (..., 3)."""
    return np.stack([logits[..., 0], logits[..., 2], np.log(np.exp(logits[..., OF_GROUP]).sum(axis=-1))], axis=-1)


def test_ablation_cam_sets_one_feature_to_zero_at_a_time():
    network = small_network()
    found = explained(network, None, IMAGES, [*CLASSES, GROUP], method="ablation-cam", groups=[OF_GROUP])
    for n in range(2):
        a = found.features[n].astype(np.float64)
        score = scores_of(numpy_head(network, a))
        changed = (a * (np.arange(a.shape[-1]) != k) for k in range(a.shape[-1]))
        without = scores_of(np.stack([numpy_head(network, features) for features in changed]))
        for row in range(3):
            weights = (score[row] - without[:, row]) / abs(score[row])
            expected = relu(a @ weights)
            np.testing.assert_allclose(found.cams[row, n], expected, atol=1e-4 * expected.max())


def test_score_cam_looks_through_one_feature_at_a_time():
    network = small_network()
    found = explained(network, None, IMAGES, [*CLASSES, GROUP], method="score-cam", groups=[OF_GROUP])
    features_of = keras.Model(network.inputs[0], network.get_layer("conv").output)
    for n in range(2):
        a = found.features[n].astype(np.float64)
        spread = np.ptp(a, axis=(0, 1))
        masks = (a - a.min((0, 1))) / np.where(spread == 0, 1, spread)
        masked = np.stack([IMAGES[n] * masks[..., k, None] for k in range(a.shape[-1])])
        logits = np.stack([numpy_head(network, ops.convert_to_numpy(f)) for f in features_of(tensor(masked))])
        for row, scores in enumerate(scores_of(logits).T):
            weights = np.exp(scores) / np.exp(scores).sum()
            expected = relu(a @ weights)
            np.testing.assert_allclose(found.cams[row, n], expected, atol=1e-4 * expected.max())


def test_counterfactual_negates_the_weights():
    network = small_network()
    plain, against = (
        explained(network, None, IMAGES, CLASSES, method="hires-cam", with_guided=False, counterfactual=negated)
        for negated in (False, True)
    )
    np.testing.assert_allclose(against.cams, -plain.cams, atol=1e-6 * np.abs(plain.cams).max())
    cams, counter = (
        explained(network, None, IMAGES, CLASSES, counterfactual=negated).cams for negated in (False, True)
    )
    assert (counter > 0).any() and not ((cams > 0) & (counter > 0)).any()


def test_group_of_classes_is_explained_by_the_logit_of_its_probability():
    """Of classes 0 and 2 together: Y = log(exp l0 + exp l2), dY/dA = (p0 g0 + p2 g2) / (p0 + p2)."""
    found = explained(small_network(), None, IMAGES, [0, 2, 3], method="hires-cam", groups=[[0, 2]])
    first, second, both = found.cams
    powers = np.exp(found.logits.astype(np.float64))
    share = (powers[:, 0] / (powers[:, 0] + powers[:, 2]))[:, None, None]
    np.testing.assert_allclose(both, share * first + (1 - share) * second, atol=1e-5 * np.abs(both).max())


def test_every_method_has_a_name_in_pictures():
    assert titles_of("layer-cam", counterfactual=True)["guided_gradcam"] == "guided counterfactual LayerCAM"
    assert titles_of("smooth-grad", contrast="cat")["smooth-grad"] == "SmoothGrad against cat"


# ---------------------------------------------------------------- options

OF_METHODS = {  # beside contrast and smooth: what it has, samples, baseline
    "grad-cam": ("", None, None),
    "gradient": ("", None, None),
    "smooth-grad": ("samples noise seed", 25, None),
    "var-grad": ("samples noise seed", 25, None),
    "integrated-gradients": ("samples baseline", 50, "black"),
    "expected-gradients": ("samples seed backgrounds", 100, None),
    "occlusion": ("samples baseline", 196, "mean"),
    "rise": ("samples baseline seed", 1000, "black"),
}


@pytest.mark.parametrize("name", OF_METHODS)
def test_options_of_a_method(name):
    known, samples, baseline = OF_METHODS[name]
    assert MapOptions.apply_to(name) == {"contrast", "smooth", *known.split()}
    assert MapOptions.apply_to(name, smooth=2) == {"contrast", "smooth", "seed", *known.split()}
    assert (METHODS[name].samples, METHODS[name].baseline) == (samples, baseline)
    assert METHODS[name].of_layer == (name == "grad-cam")
    assert MapOptions.apply_to("eigen-cam") == {"smooth"}


@pytest.mark.parametrize(
    ("method", "name", "least", "most"),
    [
        ("grad-cam", "smooth", 1, 1000),
        ("rise", "samples", 1, 1_000_000),
        ("rise", "seed", 0, 2**63),
        ("smooth-grad", "noise", 0, 10),
    ],
)
def test_ends_of_options(method, name, least, most):
    for value in (None, least, most):
        MapOptions(**{name: value} if name != "smooth" or value else {}).check(method)
    for value in (least - 1, most + 1, *(() if name == "noise" else (float(least), True))):
        with pytest.raises(UserError, match=f"--{name} {value}: expected .*from {least} to {most:,}"):
            MapOptions(**{name: value}).check(method)


def test_settings_tell_runs_apart_by_what_decides_their_maps():
    options = MapOptions(samples=5, noise=0.1, baseline="mean", seed=3, contrast="1", contrast_name="cat")
    assert options.settings("grad-cam") == {"contrast": "cat"}
    assert options.settings("smooth-grad") == {"samples": 5, "noise": 0.1, "seed": 3, "contrast": "cat"}
    assert options.words("occlusion") == "of the photo, samples 5, baseline mean"
    assert options.against == " less that of cat" and MapOptions().against == ""
    smoothed = MapOptions(smooth=2, seed=3)
    assert smoothed.settings("grad-cam") == {"seed": 3, "smooth": 2}
    backgrounds = [MapOptions(backgrounds=np.full((1, 2), value)).settings("grad-cam") for value in (0, 0, 1)]
    assert backgrounds[0] == backgrounds[1] != backgrounds[2] and set(backgrounds[0]) == {"backgrounds"}
