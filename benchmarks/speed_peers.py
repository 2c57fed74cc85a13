"""What speed.py times: kinds of map, the tools that make them, and how each does, of the same weights everywhere.

A peer is a function of (network, layer, images, Case) that returns `make`: without arguments, it makes the maps, a dict
of "map" float (R, N, h, w) or of the photo's size, "guided" and "product" float (R, N, H, W, 3) for R classes. Each
imports what it needs and nothing more: ours on JAX does without TensorFlow, and this file without either.
"""

import importlib.util
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import NamedTuple

import numpy as np

from camlib.attribution import windows_of
from camlib.console import ROOT

# ---------------------------------------------------------------- what is timed


class Case(NamedTuple):
    """A kind of map, or the forward pass alone.

    Attributes:
        title: str, for the table.
        maps: "forward", "cam", "map", "guided" or "all three"; "map" is of gradients where the method is.
        classes: int, how many classes' maps are made of each photo.
        method: str, a key of METHODS, of "map" and "all three".
        size: int, height and width of the photos; the methods that take hundreds of passes a photo get smaller ones.
        batches: tuple of int, photos at once.
        most: float, the limit of ours beside a plain forward pass, or None.
        samples: int, changed photos that are looked at for each photo; the limit is beside as many passes.
        pooling: bool, of VGG-16, or else of the pooling-free network.
    """

    title: str
    maps: str
    classes: int = 1
    method: str = "grad-cam"
    size: int = 224
    batches: tuple = (1, 8, 32)
    most: float | None = None
    samples: int = 0
    pooling: bool = True


FAMILY = ("grad-cam++", "hires-cam", "layer-cam", "xgrad-cam", "element-wise", "eigen-grad-cam", "eigen-cam")
CHANGING = ("score-cam", "ablation-cam")  # run the network, or its end, again for each feature
GRADIENTS, SCORES = ("smooth-grad", "integrated-gradients", "expected-gradients"), ("occlusion", "rise")
AT_ONCE = 32  # changed photos in a pass
CASES = {
    "forward": Case("plain forward pass", "forward"),
    "cam": Case("CAM, all classes (pooling-free network, 96x96)", "cam", 4, size=96, most=1.05, pooling=False),
    "grad-cam": Case("Grad-CAM, one class", "map", most=1.10),
    "grad-cam-4": Case("Grad-CAM, four classes", "map", 4, most=1.30),
    "guided": Case("guided backpropagation", "guided"),
    "all-three": Case("Grad-CAM, guided backpropagation and guided Grad-CAM", "all three", most=2.4),
    **{name: Case(f"{name}, one class", "map", method=name, batches=(8,)) for name in FAMILY},
    **{name: Case(f"{name}, one class (96x96)", "map", method=name, size=96, batches=(1,)) for name in CHANGING},
    "gradient": Case("gradient (96x96)", "map", method="gradient", size=96, batches=(8,)),
}


def of_samples(method, samples, passes, pooling=True):
    """The Case of a method that looks at many changed photos."""
    network = "" if pooling else ", pooling-free network"
    title = f"{method}{network} (96x96; of {samples} {passes} passes)"
    return Case(title, "map", 1, method, 96, (1,), 1.1, samples, pooling)


CASES |= {name: of_samples(name, 32, "forward and backward") for name in GRADIENTS}
CASES |= {name: of_samples(name, 64, "forward") for name in SCORES}
CASES["smooth-grad-free"] = of_samples("smooth-grad", 32, "forward and backward", pooling=False)
CASES["occlusion-free"] = of_samples("occlusion", 64, "forward", pooling=False)

# ---------------------------------------------------------------- networks: the same weights in every framework

CLASSES, HEAD = 4, ("hidden", "class")  # the layers behind the pooled features


def keras_network(case):
    """(keras.Model that ends in its logits, InputSpec): VGG-16, or for CAM the pooling-free network, as shipped."""
    import camlib.backend  # noqa: F401  keeps TensorFlow's start-up lines off the screen

    # isort: split
    import keras

    from camlib.networks import GAP_NETWORK, VGG_NETWORK
    from camlib.networks.checkpoint import load_network

    network, input_spec = load_network(VGG_NETWORK if case.pooling else GAP_NETWORK)
    return keras.Model(network.inputs, network.get_layer("class").output), input_spec


def vgg16_weights():
    """{layer: (kernel, bias)} of VGG-16, float32, axes as in Keras."""
    import h5py

    with h5py.File(ROOT / "models" / "vgg16_4class.h5") as file:
        parts = {name: group[name] for name, group in file["model_weights"].items() if name in group}
        return {name: [np.float32(part[key]) for key in ("kernel", "bias")] for name, part in parts.items()}


def torch_network(dtype):
    """(VGG-16 as torch.nn.Module that ends in its logits, its last convolution's ReLU)."""
    import torch
    from torch import nn

    def loaded(layer, kernel, bias):
        with torch.no_grad():
            layer.weight.copy_(torch.tensor(kernel))
            layer.bias.copy_(torch.tensor(bias))
        return layer

    weights, steps = vgg16_weights(), []
    names = sorted(name for name in weights if name.startswith("block"))
    for name, following in zip(names, [*names[1:], ""], strict=True):
        kernel, bias = weights[name]  # (3, 3, in, out)
        convolution = nn.Conv2d(*kernel.shape[2:], 3, padding=1)
        last = nn.ReLU()
        steps += [loaded(convolution, kernel.transpose(3, 2, 0, 1), bias), last]
        steps += [] if name[:6] == following[:6] else [nn.MaxPool2d(2)]
    hidden, classes = (loaded(nn.Linear(*kernel.shape), kernel.T, bias) for kernel, bias in map(weights.get, HEAD))
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), hidden, nn.ReLU(), classes]
    return nn.Sequential(*steps, *head).eval().to(getattr(torch, dtype)), last


# ---------------------------------------------------------------- one tool


def start(tool, case, dtype, images):
    """Build a tool's network, and what it makes of images.

    Args:
        tool: str, a key of TOOLS.
        case: Case.
        dtype: "float32" or "bfloat16".
        images: float32 (N, H, W, 3), as the network takes them, NumPy's or the device's.

    Returns:
        (make, plain, logits): functions without arguments that make the maps, of the forward pass none, and what they
        are measured by, one plain forward pass or one pass for each sample; and one that gives the logits float32
        (n, C) of n images.
    """
    if TOOLS[tool].backend == "torch":
        network, layer = torch_network(dtype)

        def logits(some):
            import torch

            with torch.no_grad():
                return network(tensor_of(network, some)).float().numpy()

        def gradients(some):
            some = tensor_of(network, some).requires_grad_()
            network(some)[:, 0].sum().backward()
            return some.grad.float().numpy()

    else:
        network, input_spec = keras_network(case)

        from keras import layers, ops

        from camlib.backend import compiled, differentiate
        from camlib.precision import set_dtype

        layer = [one.name for one in network.layers if isinstance(one, layers.Conv2D)][-1]
        set_dtype(network, dtype)
        forward = compiled(partial(network, training=False), network)

        def logits(some):
            return ops.convert_to_numpy(ops.cast(forward(ops.convert_to_tensor(some)), "float32"))

        def backward(some):
            y, *_, pull_to_x = differentiate(lambda x, tap: (network(x, training=False), ()), some)
            return pull_to_x(ops.one_hot(ops.zeros(some.shape[0], "int32"), y.shape[-1], dtype=y.dtype))

        backward = compiled(backward, network)

        def gradients(some):
            return ops.convert_to_numpy(backward(ops.convert_to_tensor(some)))

    def plain():
        run = gradients if case.method in GRADIENTS else logits
        for start in range(0, max(1, case.samples), AT_ONCE):
            run(np.repeat(images, min(AT_ONCE, case.samples - start), axis=0) if case.samples else images)

    if case.maps == "forward":

        def make():
            logits(images)
            return {}

        return make, plain, logits
    return TOOLS[tool].maker(network, input_spec if tool in OURS else layer, images, case), plain, logits


def ours(network, input_spec, images, case):
    from keras import ops

    from camlib.attribution import MapOptions
    from camlib.attribution.cam import CAM
    from camlib.attribution.classifier import Classifier
    from camlib.attribution.gradcam import CompiledMaps, compiled_map
    from camlib.attribution.sampling import options_for

    classifier = Classifier(network, input_spec, size=images.shape[1:3])
    classes = np.repeat(np.arange(case.classes, dtype=np.int32)[:, None], len(images), axis=1)  # (R, N)
    settings = network, classifier.structure
    if case.maps == "cam":
        explain = CAM(classifier).run
    elif case.maps == "guided":
        explain = CompiledMaps(*settings, [])
    else:
        options = options_for(MapOptions(samples=case.samples or None), classifier, case.method)
        of_maps = {"with_guided": case.maps == "all three", "options": options}
        explain = compiled_map(*settings, classifier.layer_to_map(), case.method, **of_maps)

    def make():
        if case.maps == "cam":
            found = {"map": ops.moveaxis(explain(ops.convert_to_tensor(images))[0], 1, 0)}  # (C, N, H, W)
        else:
            maps = explain(ops.convert_to_tensor(images), ops.convert_to_tensor(classes))
            found = {"guided": maps.guided} if case.maps != "map" else {}
            found |= {"map": maps.cams} if case.maps != "guided" else {}
            found |= {"product": maps.products} if case.maps == "all three" else {}
        return {name: ops.convert_to_numpy(tensor) for name, tensor in found.items()}

    return make


def together(case, map_of, guided_of):
    """What `make` of a peer is that takes one class at a time: a call for each class and kind of map.

    Args:
        case: Case.
        map_of: function of a class -> maps (N, h, w) or (N, h, w, 1); of gradients (N, H, W, 3).
        guided_of: function of a class -> guided gradients (N, H, W, 3).
    """
    from camlib.plots.colours import resize_map

    def make():
        found = {}
        if case.maps != "guided":
            maps = np.stack([np.asarray(map_of(c), np.float32) for c in range(case.classes)])
            found["map"] = maps[..., 0] if maps.shape[-1] == 1 else maps
        if case.maps != "map":
            found["guided"] = np.stack([np.asarray(guided_of(c), np.float32) for c in range(case.classes)])
        if case.maps == "all three":
            height, width = found["guided"].shape[2:4]
            large = [[resize_map(one, height, width) for one in of_class] for of_class in found["map"]]
            found["product"] = found["guided"] * np.stack(large)[..., None]
        return found

    return make


def tf_keras_vis(network, layer, images, case):
    from tf_keras_vis.gradcam import Gradcam
    from tf_keras_vis.gradcam_plus_plus import GradcamPlusPlus
    from tf_keras_vis.layercam import Layercam
    from tf_keras_vis.saliency import Saliency
    from tf_keras_vis.scorecam import Scorecam
    from tf_keras_vis.utils.model_modifiers import GuidedBackpropagation, ReplaceToLinear
    from tf_keras_vis.utils.scores import CategoricalScore

    kinds = {"grad-cam": Gradcam, "grad-cam++": GradcamPlusPlus, "layer-cam": Layercam, "score-cam": Scorecam}
    kinds |= {"gradient": Saliency, "smooth-grad": Saliency}
    linear, guiding = ReplaceToLinear(), GuidedBackpropagation()
    tool = kinds[case.method](network, model_modifier=linear, clone=True) if case.maps != "guided" else None
    guided = Saliency(network, model_modifier=[linear, guiding], clone=True) if case.maps != "map" else None

    def score(c):
        return CategoricalScore([c] * len(images))

    settings = {"penultimate_layer": layer, "seek_penultimate_conv_layer": False, "expand_cam": False}
    of_gradients = {"keepdims": True, "normalize_map": False, "gradient_modifier": None}
    if kinds.get(case.method) is Saliency:
        noisy = of_gradients | {"smooth_samples": case.samples, "smooth_noise": 0.15}
        return together(case, lambda c: tool(score(c), images, **noisy), None)

    return together(
        case,
        lambda c: tool(score(c), images, normalize_cam=False, **settings),
        lambda c: guided(score(c), images, **of_gradients),
    )


def xplique(network, layer, images, case):
    import xplique.attributions as tools

    settings = {"batch_size": AT_ONCE if case.samples else len(images)}
    settings |= {} if case.method in SCORES else {"output_layer": -1}
    window, stride = window_and_stride(images, case)
    kinds = {
        "grad-cam": partial(tools.GradCAM, conv_layer=layer),
        "grad-cam++": partial(tools.GradCAMPP, conv_layer=layer),
        "gradient": partial(tools.Saliency, reducer=None),
        "smooth-grad": partial(tools.SmoothGrad, reducer=None, nb_samples=case.samples, noise=noise_of(images)),
        "integrated-gradients": partial(tools.IntegratedGradients, reducer=None, steps=case.samples),
        "occlusion": partial(tools.Occlusion, patch_size=window, patch_stride=stride),
        "rise": partial(tools.Rise, nb_samples=case.samples, grid_size=8),
    }
    tool = kinds[case.method](network, **settings) if case.maps != "guided" else None
    guided = tools.GuidedBackprop(network, reducer=None, **settings) if case.maps != "map" else None

    def target(c):
        return np.repeat(np.eye(CLASSES, dtype=np.float32)[None, c], len(images), axis=0)

    return together(case, lambda c: tool.explain(images, target(c)), lambda c: guided.explain(images, target(c)))


def noise_of(images):
    """The noise of SmoothGrad for tools that take it in the network's numbers: our 0.15 of their range."""
    return 0.15 * float(np.ptp(images))


def window_and_stride(images, case):
    """Height of our windows of occlusion of square photos and how far they lie apart, in pixels."""
    windows = windows_of(images.shape[1:3], max(4, case.samples))
    return windows[0][0].stop, sorted({rows.start for rows, _ in windows})[1]


def tf_explain(network, layer, images, case):
    import tensorflow as tf
    from tf_explain.core.grad_cam import GradCAM

    def map_of(c):  # before it lays maps over photos; it leaves the ReLU out
        parts = GradCAM.get_gradients_and_filters(network, images, layer, c, use_guided_grads=False)
        return tf.nn.relu(GradCAM.generate_ponderated_output(*parts))

    return together(case, map_of, None)


def tensor_of(network, images):
    """Images (N, H, W, 3) as a PyTorch network takes them, (N, 3, H, W) in its dtype."""
    import torch

    return torch.tensor(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).to(next(network.parameters()).dtype)


def pytorch_grad_cam(network, layer, images, case):
    import pytorch_grad_cam as tools
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    kinds = {"grad-cam": "GradCAM", "grad-cam++": "GradCAMPlusPlus", "hires-cam": "HiResCAM", "layer-cam": "LayerCAM",
             "xgrad-cam": "XGradCAM", "element-wise": "GradCAMElementWise", "eigen-grad-cam": "EigenGradCAM",
             "eigen-cam": "EigenCAM", "score-cam": "ScoreCAM", "ablation-cam": "AblationCAM"}  # fmt: skip
    tool = getattr(tools, kinds[case.method])(model=network, target_layers=[layer]) if case.maps != "guided" else None
    # it exchanges the network's ReLUs for new ones, behind the back of the Grad-CAM that watches one of them
    guided = tools.GuidedBackpropReLUModel(model=deepcopy(network), device="cpu") if case.maps != "map" else None

    def map_of(c):
        return tool(input_tensor=tensor_of(network, images), targets=[ClassifierOutputTarget(c)] * len(images))

    def guided_of(c):  # it takes one photo at a time
        return np.stack([guided(one[None], target_category=c) for one in tensor_of(network, images)])

    return together(case, map_of, guided_of)


def captum(network, layer, images, case):
    import captum.attr as tools
    import torch

    shap = {"n_samples": case.samples, "baselines": torch.zeros(8, 3, *images.shape[1:3])}
    along = {"n_steps": case.samples, "internal_batch_size": AT_ONCE}
    noisy = {"nt_samples": case.samples, "nt_samples_batch_size": AT_ONCE, "stdevs": noise_of(images), "abs": False}
    window, stride = ((3, side, side) for side in window_and_stride(images, case))
    kinds = {
        "grad-cam": (tools.LayerGradCam(network, layer), {"relu_attributions": True}),
        "gradient": (tools.Saliency(network), {"abs": False}),
        "smooth-grad": (tools.NoiseTunnel(tools.Saliency(network)), noisy),
        "integrated-gradients": (tools.IntegratedGradients(network), along),
        "expected-gradients": (tools.GradientShap(network), shap),
        "occlusion": (tools.Occlusion(network), {"sliding_window_shapes": window, "strides": stride,
                                                 "perturbations_per_eval": AT_ONCE}),
    }  # fmt: skip
    (tool, settings), guided = kinds[case.method], tools.GuidedBackprop(network)

    def channels_last(found):
        found = found[:, :1] if case.method == "occlusion" else found  # of which it repeats one for each channel
        return found.detach().float().numpy().transpose(0, 2, 3, 1)

    def map_of(c):
        return channels_last(tool.attribute(tensor_of(network, images).requires_grad_(), target=c, **settings))

    def guided_of(c):
        return channels_last(guided.attribute(tensor_of(network, images).requires_grad_(), target=c))

    return together(case, map_of, guided_of)


# ---------------------------------------------------------------- the tools


class Tool(NamedTuple):
    """A tool.

    Attributes:
        title: str, for the table.
        backend: str, what it runs on.
        package, module: str, its distribution's name and what is imported of it.
        maker: function, see this file's docstring; ours takes an InputSpec in place of a layer.
        cases: tuple of str, what it makes.
    """

    title: str
    backend: str
    package: str
    module: str
    maker: Callable
    cases: tuple


BOTH = ("grad-cam", "grad-cam-4", "guided", "all-three")
OF_VIS, OF_TORCH = (*BOTH, "grad-cam++", "layer-cam", "score-cam"), (*BOTH, *FAMILY, *CHANGING)
OF_VIS, OF_CAPTUM = (*OF_VIS, "gradient", "smooth-grad"), (*BOTH, "gradient", *GRADIENTS, "occlusion")
OF_XPLIQUE = (*BOTH, "grad-cam++", "gradient", "smooth-grad", "integrated-gradients", *SCORES)
OURS = ("ours-tensorflow", "ours-jax")
TOOLS = {
    "ours-tensorflow": Tool("ours, TensorFlow", "tensorflow", "keras", "keras", ours, tuple(CASES)),
    "ours-jax": Tool("ours, JAX", "jax", "keras", "keras", ours, tuple(CASES)),
    "tf-keras-vis": Tool("tf-keras-vis", "tensorflow", "tf-keras-vis", "tf_keras_vis", tf_keras_vis, OF_VIS),
    "tf-explain": Tool("tf-explain", "tensorflow", "tf-explain", "tf_explain", tf_explain, BOTH[:2]),
    "xplique": Tool("Xplique", "tensorflow", "xplique", "xplique", xplique, OF_XPLIQUE),
    "pytorch-grad-cam": Tool("pytorch-grad-cam", "torch", "grad-cam", "pytorch_grad_cam", pytorch_grad_cam, OF_TORCH),
    "captum": Tool("Captum", "torch", "captum", "captum", captum, ("forward", *OF_CAPTUM)),
}


def installed(tool):
    """Whether a tool and its framework are installed; nothing is imported."""
    return all(importlib.util.find_spec(name) for name in (TOOLS[tool].module, TOOLS[tool].backend))
