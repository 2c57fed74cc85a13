"""Peers on the same weights: equal where their conventions are ours, their fault stated where they differ.

They have requirements of their own, requirements-parity.txt; without them these tests are skipped. The tables of
`benchmarks/right_gradients.py` are made by the same functions.
"""

import hashlib
import warnings
from functools import partial

import keras
import numpy as np
import oracle
import pytest
from small_networks import (
    BIASES,
    DENSE,
    IMAGES,
    KERNELS,
    convolutions,
    explained,
    functional,
    head,
    steps,
    with_weights,
)

from camlib.attribution import MapOptions
from camlib.backend import BACKEND

if BACKEND != "tensorflow":
    pytest.skip("the peers are TensorFlow's", allow_module_level=True)
pytest.importorskip("tf_keras_vis", reason="requirements-parity.txt is not installed")
warnings.filterwarnings("ignore")

from benchmarks import right_gradients, speed, timing  # noqa: E402
from benchmarks.speed_peers import SCORES, TOOLS, Case  # noqa: E402

VIS, XPLIQUE, EXPLAIN, OURS = right_gradients.TOOLS
RIGHT, WRONG = 1e-5, 0.1
ENLARGING = ("xplique",)  # whose maps come in the photo's size, by rules of their own


@pytest.fixture(scope="module")
def errors():
    """{(network, map): {tool: relative error, or text}} of the benchmark's table."""
    return {
        key: {tool: float(cell) if cell[0].isdigit() else cell for tool, cell in found.items()}
        for key, found in right_gradients.errors().items()
    }


CAM, GUIDED = right_gradients.MAPS
ARGUMENT, LAYER = '`activation="relu"`', "`layers.ReLU`"
AGREE, FAULT, FAILS = "agrees", "is at fault", "fails"
PEERS = {  # (tool, network): what becomes of its map and of its guided gradients; None where nothing is said of it
    (VIS, ARGUMENT): (AGREE, AGREE),
    (VIS, LAYER): (None, FAULT),  # misses ReLU layers
    (VIS, "ReLU6"): (None, FAULT),
    (VIS, "nested"): (AGREE, FAULT),  # looks at the outermost network's layers only
    (VIS, "softmax-ended"): (AGREE, AGREE),
    (VIS, "Sequential"): (FAILS, FAILS),
    (XPLIQUE, ARGUMENT): (AGREE, AGREE),
    (XPLIQUE, LAYER): (None, AGREE),
    (XPLIQUE, "ReLU6"): (None, FAULT),  # knows ReLU layers without a cap only
    (XPLIQUE, "nested"): (None, FAULT),
    (XPLIQUE, "Sequential"): (AGREE, AGREE),
    (XPLIQUE, "softmax-ended"): (FAULT, FAULT),  # its gradient methods ignore output_layer: the softmax stays in
    (XPLIQUE, "mixed precision"): (FAILS, None),
    (EXPLAIN, ARGUMENT): (AGREE, None),
    (EXPLAIN, "softmax-ended"): (FAULT, None),  # differentiates what the network ends in
    (EXPLAIN, "Sequential"): (FAILS, None),
}


@pytest.mark.parametrize("network", right_gradients.KINDS)
def test_ours_is_right_everywhere(errors, network):
    for kind in (CAM, GUIDED):
        assert errors[network, kind][OURS] < (0.02 if network == "mixed precision" else RIGHT)


@pytest.mark.parametrize(("tool", "network"), PEERS)
def test_peers_agree_or_are_at_fault(errors, tool, network):
    for kind, what in zip((CAM, GUIDED), PEERS[tool, network], strict=True):
        found = errors[network, kind][tool]
        if what == FAILS:
            assert str(found).startswith("fails")
        elif what:
            assert found < RIGHT if what == AGREE else found > WRONG


@pytest.fixture(scope="module")
def captum():
    """(torch, captum.attr, the oracle's network in PyTorch)."""
    torch = pytest.importorskip("torch")
    attr = pytest.importorskip("captum.attr")

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = torch.nn.Conv2d(3, 6, 3), torch.nn.Conv2d(6, 5, 3)
            self.relu1, self.relu2, self.classes = torch.nn.ReLU(), torch.nn.ReLU(), torch.nn.Linear(5, 4)

        def forward(self, x):
            return self.classes(self.relu2(self.second(self.relu1(self.first(x)))).mean((2, 3)))

    network = Network().eval()
    with torch.no_grad():
        for layer, kernel, bias in zip((network.first, network.second), KERNELS, BIASES, strict=True):
            layer.weight.copy_(torch.tensor(kernel.transpose(3, 2, 0, 1)))
            layer.bias.copy_(torch.tensor(bias))
        network.classes.weight.copy_(torch.tensor(DENSE[0].T))
        network.classes.bias.copy_(torch.tensor(DENSE[1]))
    return torch, attr, network


def test_captum_on_the_same_weights(captum):
    """Captum's guided backpropagation, of PyTorch, is the oracle's and ours; so is its Grad-CAM, which has no ReLU."""
    torch, attr, network = captum
    cams, guided = right_gradients.ours(with_weights(right_gradients.functional())).values()
    images = torch.tensor(right_gradients.SCALE * IMAGES.transpose(0, 3, 1, 2))
    for c in range(4):
        theirs = attr.LayerGradCam(network, network.relu2).attribute(images, target=c).detach().numpy()[:, 0]
        np.testing.assert_allclose(np.maximum(theirs, 0), cams[c], atol=1e-5 * cams[c].max())
        theirs = attr.GuidedBackprop(network).attribute(images, target=c).detach().numpy().transpose(0, 2, 3, 1)
        np.testing.assert_allclose(theirs, guided[c], atol=1e-5 * np.abs(guided[c]).max())
        expected = oracle.maps(steps(), right_gradients.SCALE * IMAGES[0], c, target=3)[2]
        np.testing.assert_allclose(theirs[0], expected, atol=1e-5 * np.abs(expected).max())


BLACK = np.float32([[[-0.5, 0.1, 0.2]]])


@pytest.mark.parametrize(
    "method",
    "gradient gradient-x-input deconvnet smooth-grad var-grad integrated-gradients occlusion".split(),
)
def test_captum_s_maps_of_the_photo(captum, method, monkeypatch):
    """Equal to 1e-4 with its settings said: signed gradients, the same noise, midpoints, a stride below the window.

    Its own defaults are others: Saliency is |g|; NoiseTunnel's sigma is in the input's units, not a share of its range;
    IntegratedGradients takes Gauss-Legendre points, from zero, which of an input less a mean colour is no black photo.
    """
    torch, attr, network = captum
    options = MapOptions(samples=6, noise=0.2, seed=3, baseline="black", black=BLACK)
    ours = explained(with_weights(functional()), method=method, options=options, with_guided=False)
    images = torch.tensor(IMAGES.transpose(0, 3, 1, 2))
    black = torch.tensor(np.broadcast_to(BLACK, IMAGES.shape).transpose(0, 3, 1, 2).copy())

    def noise(mean, std):
        drawn = []
        for x in IMAGES:
            digest = hashlib.sha256(x.tobytes()).digest()
            generator = np.random.default_rng([3, int.from_bytes(digest, "little")])
            drawn.append(0.2 * np.ptp(x) * generator.standard_normal((6, *x.shape), np.float32))
        return torch.tensor(np.concatenate(drawn).transpose(0, 3, 1, 2))

    def noisy(kind):
        monkeypatch.setattr(torch, "normal", noise)
        tunnel = attr.NoiseTunnel(attr.Saliency(network))
        return lambda **settings: tunnel.attribute(images, nt_type=kind, nt_samples=6, abs=False, **settings)

    theirs_of = {
        "gradient": lambda **c: attr.Saliency(network).attribute(images, abs=False, **c),
        "gradient-x-input": lambda **c: attr.InputXGradient(network).attribute(images, **c),
        "deconvnet": lambda **c: attr.Deconvolution(network).attribute(images, **c),
        "integrated-gradients": lambda **c: attr.IntegratedGradients(network).attribute(
            images, black, n_steps=6, method="riemann_middle", return_convergence_delta=True, **c
        ),
        "occlusion": lambda **c: attr.Occlusion(network).attribute(images, (3, 1, 2), (3, 1, 2), black, **c),
    }
    find = theirs_of[method] if method in theirs_of else noisy(method.replace("-", ""))
    for c in range(4):
        theirs = find(target=c)
        if method == "integrated-gradients":
            theirs, gap = theirs
            np.testing.assert_allclose(gap.detach().numpy(), ours.gaps[c], atol=1e-4)
        theirs = theirs.detach().numpy().transpose(0, 2, 3, 1)
        theirs = theirs[..., 0] if method == "occlusion" else theirs
        np.testing.assert_allclose(theirs, ours.cams[c], atol=1e-4 * np.abs(theirs).max())


@pytest.fixture(scope="module")
def network_of_any_size():
    first, second = convolutions(("relu", "relu"))
    image = keras.Input((None, None, 3))
    return with_weights(keras.Model(image, head(second(first(image)))))


@pytest.mark.parametrize(
    "method",
    "gradient gradient-x-input deconvnet smooth-grad var-grad integrated-gradients occlusion rise".split(),
)
def test_xplique_s_maps_of_the_photo(network_of_any_size, method, monkeypatch):
    """Equal to 1e-4 with the same noise and masks, but for what it does otherwise, which is undone here.

    Saliency is |g|; SmoothGrad's sigma is in the input's units, and VarGrad divides by n - 1. IntegratedGradients has
    one baseline value for all channels, so no black photo of an input less a mean colour, and takes the trapezoid
    rule. At fault: Occlusion adds up over windows that overlap, so that the middle is louder than the edge. Rise leaves
    the mean score in, so that a constant added to a logit changes the map, and cuts a batch's masks out at one place.
    """
    import tensorflow as tf

    tools = pytest.importorskip("xplique.attributions")
    x = np.random.default_rng(4).normal(size=(1, 8, 8, 3)).astype(np.float32)
    black = np.full((1, 1, 3), 0.1, np.float32)
    samples = {"occlusion": 49}.get(method, 6)  # windows of 2 x 2, one pixel apart
    options = MapOptions(samples=samples, noise=0.2, seed=3, baseline="black", black=black)
    find = partial(explained, network_of_any_size, with_guided=False, options=options)
    ours = find(images=x, method=method).cams[:, 0]
    generator = np.random.default_rng([3, int.from_bytes(hashlib.sha256(x[0].tobytes()).digest(), "little")])
    if method in ("smooth-grad", "var-grad"):
        noise = 0.2 * np.ptp(x) * generator.standard_normal((6, *x.shape[1:]), np.float32)
        monkeypatch.setattr(tools.SmoothGrad.__base__, "_perturb_samples", lambda inputs, count, sigma: inputs + noise)
    if method == "rise":  # whose masks of 8 x 8 cells have nothing to be moved by in a photo of as many pixels
        cells = generator.random((6, 8, 8, 1)) < 0.5
        monkeypatch.setattr(tools.Rise, "_get_masks", lambda *_: tf.constant(cells))
        monkeypatch.setattr(tf.image, "random_crop", lambda masks, size: masks[:, :8, :8])
        monkeypatch.setattr(tools.Rise, "EPSILON", 1e-12)  # 1e-4 beside how often a pixel is seen, here of six masks
    make, settings = {
        "gradient": (tools.Saliency, {"reducer": None}),
        "gradient-x-input": (tools.GradientInput, {"reducer": None}),
        "deconvnet": (tools.DeconvNet, {"reducer": None}),
        "smooth-grad": (tools.SmoothGrad, {"reducer": None, "nb_samples": 6}),
        "var-grad": (tools.VarGrad, {"reducer": None, "nb_samples": 6}),
        "integrated-gradients": (tools.IntegratedGradients, {"reducer": None, "steps": 7, "baseline_value": 0.1}),
        "occlusion": (tools.Occlusion, {"patch_size": 2, "patch_stride": 1, "occlusion_value": 0.1}),
        "rise": (tools.Rise, {"nb_samples": 6, "mask_value": 0.1}),
    }[method]
    tool = make(network_of_any_size, **settings)
    theirs = np.concatenate([tool.explain(x, one[None]) for one in np.eye(4, dtype=np.float32)])
    if method == "gradient":
        ours = np.abs(ours)
    elif method == "var-grad":
        ours = ours * 6 / 5
    elif method == "integrated-gradients":
        points = black + np.linspace(0, 1, 7, dtype=np.float32)[:, None, None, None] * (x - black)
        gradients = find(images=points, method="gradient").cams
        trapezoids = (x - black) * (gradients[:, 1:] + gradients[:, :-1]).mean(axis=1) / 2
        assert 1e-4 < np.abs(trapezoids - ours).max() / np.abs(ours).max() < 0.2  # two rules for one integral
        ours = trapezoids
    elif method == "occlusion":
        along = np.array([1, *[2] * 6, 1])
        ours, theirs = ours * np.outer(along, along), theirs[..., 0]
    elif method == "rise":
        theirs = theirs[..., 0]
        means = (theirs - ours).mean(axis=(1, 2), keepdims=True)
        assert np.abs(means).min() > 0.01
        theirs = theirs - means
    np.testing.assert_allclose(theirs, ours, atol=1e-4 * np.abs(ours).max())


@pytest.mark.parametrize("tool", ["tf-keras-vis", "xplique", "captum"])
def test_ways_of_the_speed_benchmark_at_maps_of_the_photo(captum, tool):
    """Each makes maps of the photo's size by each method that it is timed at; its gradient is ours."""
    network, layer = (captum[2], captum[2].relu2) if tool == "captum" else (with_weights(functional()), "conv2")
    for method in set(speed.OF_PHOTO) & set(TOOLS[tool].cases):
        case = Case("", "map", 2, method, samples=0 if method == "gradient" else 9)
        found = TOOLS[tool].maker(network, layer, IMAGES, case)()["map"]
        assert found.shape == (2, *IMAGES.shape)[: 4 if method in SCORES else 5] and found.any(axis=(2, 3)).all()
        if method == "gradient":
            ours = explained(with_weights(functional()), method=method, classes=[0, 1], with_guided=False).cams
            ours = np.abs(ours) if tool == "xplique" else ours
            np.testing.assert_allclose(found, ours, atol=1e-5 * np.abs(ours).max())


@pytest.mark.parametrize(
    ("case", "tools"),
    [("all-three", ["tf-keras-vis", "xplique", "captum"]), ("grad-cam-4", ["tf-explain", "captum"])],
)
def test_ways_of_the_speed_benchmark(case, tools, tmp_path):
    """Each tool that benchmarks/speed.py times makes our maps there, of a network with our logits."""
    arguments = ["--quick", "--cases", case, "--tools", "ours-tensorflow", *tools, "--dtypes", "float32"]
    speed.main([*arguments, "--output", str(tmp_path)])
    rows = {row.tool: row for row in timing.read_rows(tmp_path / "speed_quick.csv", speed.Row)}
    assert list(rows) == ["ours-tensorflow", *tools]
    for tool in tools:
        least = 0.98 if tool in ENLARGING else 0.99999
        if (case, tool) == (
            "all-three",
            "captum",
        ):  # PyTorch rounds the input of some of VGG-16's ReLUs to another sign
            least = 0.9999
        assert rows[tool].refuses == "" and rows[tool].agreement > least
