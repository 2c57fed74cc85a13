"""How each tool of speed.py makes each kind of map, of the same weights in every framework.

A tool is a function of (Setup, images) -> (forward, make, logits): two functions without arguments that run a plain
forward pass of the images, and make their maps, a dict of "map" float (R, N, h, w) or of the photo's size, "guided" and
"product" float (R, N, H, W, 3) for R classes; and one that gives the logits float32 (n, C) of n images. Each imports
what it needs and nothing more: ours on JAX does without TensorFlow.
"""

from copy import deepcopy
from pathlib import Path

import numpy as np

from benchmarks.speed_cases import CASES

ROOT = Path(__file__).resolve().parent.parent

# ---------------------------------------------------------------- networks: the same weights in every framework

SMALL_VGG16, SMALL_MODERN = ((1, 8), (2, 8)), ((8, 1), (8, 2))  # of --quick
HIDDEN, CLASSES = 256, 4


def vgg16_weights(quick):
    """{layer: (kernel, bias)} of VGG-16 in its order, float32, axes as in Keras."""
    if quick:
        return small_weights()
    import h5py

    with h5py.File(ROOT / "models" / "vgg16_4class.h5") as file:
        parts = {name: group[name] for name, group in file["model_weights"].items() if name in group}
        found = {name: tuple(np.float32(part[key]) for key in ("kernel", "bias")) for name, part in parts.items()}
    order = [*sorted(name for name in found if name.startswith("block")), "hidden", "class"]
    return {name: found[name] for name in order}


def small_weights():
    """Weights like `vgg16_weights` of a network of three convolutions, drawn with NumPy."""
    generator, found, channels = np.random.default_rng(0), {}, 3
    for block, (count, filters) in enumerate(SMALL_VGG16, start=1):
        for number in range(1, count + 1):
            found[f"block{block}_conv{number}"] = (3, 3, channels, filters)
            channels = filters
    found |= {"hidden": (channels, HIDDEN), "class": (HIDDEN, CLASSES)}

    def draw(shape):
        scale = np.sqrt(2 / np.prod(shape[:-1]))
        return np.float32(scale * generator.normal(size=shape)), np.float32(0.1 * generator.normal(size=shape[-1]))

    return {name: draw(shape) for name, shape in found.items()}


def keras_network(setup):
    """(keras.Model, InputSpec) of a Setup."""
    import camlib.backend  # noqa: F401  keeps TensorFlow's start-up lines off the screen

    # isort: split
    from camlib.networks import architectures
    from camlib.networks.checkpoint import GAP_NETWORK, VGG_NETWORK, load_network
    from camlib.preprocessing import InputSpec

    pooling_free = CASES[setup.case].maps == "cam"
    if not setup.quick:
        return load_network(GAP_NETWORK if pooling_free else VGG_NETWORK)
    usual = architectures.VGG16_BLOCKS, architectures.MODERN_CONVOLUTIONS
    architectures.VGG16_BLOCKS, architectures.MODERN_CONVOLUTIONS = SMALL_VGG16, SMALL_MODERN
    try:
        network = (architectures.modern_network if pooling_free else architectures.vgg16_network)(CLASSES)
    finally:
        architectures.VGG16_BLOCKS, architectures.MODERN_CONVOLUTIONS = usual
    if pooling_free:
        generator = np.random.default_rng(0)
        network.set_weights([np.abs(generator.normal(0.2, 0.1, weight.shape)) for weight in network.weights])
    else:
        for name, weights in vgg16_weights(True).items():
            network.get_layer(name).set_weights(weights)
    return network, InputSpec(["dog", "cat", "horse", "bird"], 32, 32, 3)


# ---------------------------------------------------------------- this repository


def ours(setup, images):
    network, input_spec = keras_network(setup)

    from keras import ops

    from camlib.attribution.cam import CAM
    from camlib.attribution.classifier import Classifier
    from camlib.attribution.gradcam import CompiledMaps, compiled_map
    from camlib.backend import compiled

    case = CASES[setup.case]
    classifier = Classifier(network, input_spec, setup.tool, size=images.shape[1:3], dtype=setup.dtype)
    classes = np.repeat(np.arange(case.classes, dtype=np.int32)[:, None], len(images), axis=1)  # (R, N)
    forward = compiled(lambda images: network(images, training=False), network)
    logits = compiled(lambda images: classifier.structure.scores(*traced_run(network, images))[0], network)

    def arrays(**tensors):
        return {name: ops.convert_to_numpy(tensor) for name, tensor in tensors.items()}

    if case.maps == "cam":
        maps_of = CAM(classifier).run

        def make():
            return arrays(map=ops.moveaxis(maps_of(ops.convert_to_tensor(images))[0], 1, 0))  # (C, N, H, W)

    elif case.maps == "guided":
        explain = CompiledMaps(network, classifier.structure, [])

        def make():
            return arrays(guided=explain(ops.convert_to_tensor(images), ops.convert_to_tensor(classes)).guided)

    else:
        explain = compiled_map(
            network, classifier.structure, classifier.layer_to_map(), case.method, with_guided=case.maps == "all three"
        )

        def make():
            found = explain(ops.convert_to_tensor(images), ops.convert_to_tensor(classes))
            if case.maps == "map":
                return arrays(map=found.cams)
            return arrays(map=found.cams, guided=found.guided, product=found.products)

    return (
        lambda: ops.convert_to_numpy(forward(ops.convert_to_tensor(images))),
        make,
        lambda some: ops.convert_to_numpy(logits(ops.convert_to_tensor(some))),
    )


def traced_run(network, images):
    """(trace, outputs) of a run of a network, as its Structure reads them."""
    from camlib.attribution.tracing import trace_calls

    with trace_calls() as trace:
        outputs = network(images, training=False)
    return trace, outputs


# ---------------------------------------------------------------- peers on TensorFlow


def keras_peer(setup, images):
    """(network that ends in its logits, name of the layer to explain, forward pass, logits of some images)."""
    network, _ = keras_network(setup)

    import keras
    from keras import ops

    from camlib.attribution.classifier import set_dtype
    from camlib.backend import compiled

    set_dtype(network, setup.dtype)
    network = keras.Model(network.inputs, network.get_layer("class").output)
    layer = [one.name for one in network.layers if isinstance(one, keras.layers.Conv2D)][-1]
    forward = compiled(lambda images: network(images, training=False), network)

    def logits(some):
        return ops.convert_to_numpy(ops.cast(forward(ops.convert_to_tensor(some)), "float32"))

    return network, layer, lambda: ops.convert_to_numpy(forward(ops.convert_to_tensor(images))), logits


def together(case, map_of, guided_of):
    """What `make` of a peer is that takes one class at a time: a call for each class and kind of map.

    Args:
        case: Case.
        map_of: function of a class -> maps (N, h, w) or (N, h, w, 1).
        guided_of: function of a class -> guided gradients (N, H, W, 3).
    """
    from camlib.plots.colours import resize_map

    def make():
        found = {}
        if case.maps != "guided":
            maps = np.stack([np.asarray(map_of(c), np.float32) for c in range(case.classes)])
            found["map"] = maps.reshape(maps.shape[:4])
        if case.maps != "map":
            found["guided"] = np.stack([np.asarray(guided_of(c), np.float32) for c in range(case.classes)])
        if case.maps == "all three":
            height, width = found["guided"].shape[2:4]
            large = [[resize_map(one, height, width) for one in of_class] for of_class in found["map"]]
            found["product"] = found["guided"] * np.stack(large)[..., None]
        return found

    return make


def tf_keras_vis(setup, images):
    network, layer, forward, logits = keras_peer(setup, images)

    from tf_keras_vis.gradcam import Gradcam
    from tf_keras_vis.gradcam_plus_plus import GradcamPlusPlus
    from tf_keras_vis.layercam import Layercam
    from tf_keras_vis.saliency import Saliency
    from tf_keras_vis.scorecam import Scorecam
    from tf_keras_vis.utils.model_modifiers import GuidedBackpropagation
    from tf_keras_vis.utils.scores import CategoricalScore

    case = CASES[setup.case]
    kinds = {"grad-cam": Gradcam, "grad-cam++": GradcamPlusPlus, "layer-cam": Layercam, "score-cam": Scorecam}
    tool = kinds[case.method](network, clone=True) if case.maps != "guided" else None
    guided = Saliency(network, model_modifier=GuidedBackpropagation(), clone=True) if case.maps != "map" else None
    settings = {
        "penultimate_layer": layer,
        "seek_penultimate_conv_layer": False,
        "expand_cam": False,
        "normalize_cam": False,
    }

    def score(c):
        return CategoricalScore([c] * len(images))

    make = together(
        case,
        lambda c: tool(score(c), images, **settings),
        lambda c: guided(score(c), images, keepdims=True, normalize_map=False, gradient_modifier=None),
    )
    return forward, make, logits


def xplique(setup, images):
    network, layer, forward, logits = keras_peer(setup, images)

    from xplique.attributions import GradCAM, GradCAMPP, GuidedBackprop

    case, settings = CASES[setup.case], {"output_layer": -1, "batch_size": len(images)}
    kinds = {"grad-cam": GradCAM, "grad-cam++": GradCAMPP}
    tool = kinds[case.method](network, conv_layer=layer, **settings) if case.maps != "guided" else None
    guided = GuidedBackprop(network, reducer=None, **settings) if case.maps != "map" else None

    def target(c):
        return np.repeat(np.eye(CLASSES, dtype=np.float32)[None, c], len(images), axis=0)

    make = together(
        case, lambda c: tool.explain(images, target(c)), lambda c: np.asarray(guided.explain(images, target(c)))
    )
    return forward, make, logits


def tf_explain(setup, images):
    network, layer, forward, logits = keras_peer(setup, images)

    import tensorflow as tf
    from tf_explain.core.grad_cam import GradCAM

    def map_of(c):  # before it lays maps over photos; it leaves the ReLU out
        parts = GradCAM.get_gradients_and_filters(network, images, layer, c, use_guided_grads=False)
        return tf.nn.relu(GradCAM.generate_ponderated_output(*parts))

    return forward, together(CASES[setup.case], map_of, None), logits


# ---------------------------------------------------------------- peers on PyTorch


def torch_network(setup):
    """(VGG-16 as torch.nn.Module that ends in its logits, its last convolution's ReLU)."""
    import torch
    from torch import nn

    weights = vgg16_weights(setup.quick)
    steps, names = [], [name for name in weights if name.startswith("block")]

    def loaded(layer, kernel, bias):
        with torch.no_grad():
            layer.weight.copy_(torch.tensor(kernel))
            layer.bias.copy_(torch.tensor(bias))
        return layer

    for name, following in zip(names, [*names[1:], ""], strict=True):
        kernel, bias = weights[name]  # (3, 3, in, out)
        convolution = nn.Conv2d(*kernel.shape[2:], 3, padding=1)
        steps += [loaded(convolution, kernel.transpose(3, 2, 0, 1), bias), nn.ReLU()]
        last, same_block = steps[-1], name[:6] == following[:6]
        steps += [] if same_block else [nn.MaxPool2d(2)]
    dense = {
        name: loaded(nn.Linear(*weights[name][0].shape), weights[name][0].T, weights[name][1])
        for name in ("hidden", "class")
    }
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), dense["hidden"], nn.ReLU(), dense["class"]]
    return nn.Sequential(*steps, *head).eval().to(getattr(torch, setup.dtype)), last


def torch_peer(setup, images):
    """(network, layer to explain, photos as its tensor, forward pass, logits of some images, tensor to NHWC)."""
    import torch

    network, layer = torch_network(setup)

    def tensor(some):
        return torch.tensor(np.ascontiguousarray(some.transpose(0, 3, 1, 2))).to(getattr(torch, setup.dtype))

    def logits(some):
        with torch.no_grad():
            return network(tensor(some)).float().numpy()

    def channels_last(found):
        return found.detach().float().numpy().transpose(0, 2, 3, 1)

    return network, layer, tensor, lambda: logits(images), logits, channels_last


def pytorch_grad_cam(setup, images):
    network, layer, tensor, forward, logits, _ = torch_peer(setup, images)

    import pytorch_grad_cam as tools
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    case = CASES[setup.case]
    kinds = {"grad-cam": "GradCAM", "grad-cam++": "GradCAMPlusPlus", "hires-cam": "HiResCAM", "layer-cam": "LayerCAM",
             "xgrad-cam": "XGradCAM", "element-wise": "GradCAMElementWise", "eigen-grad-cam": "EigenGradCAM",
             "eigen-cam": "EigenCAM", "score-cam": "ScoreCAM", "ablation-cam": "AblationCAM"}  # fmt: skip
    tool = getattr(tools, kinds[case.method])(model=network, target_layers=[layer]) if case.maps != "guided" else None
    # it exchanges the network's ReLUs for new ones, behind the back of the Grad-CAM that watches one of them
    guided = tools.GuidedBackpropReLUModel(model=deepcopy(network), device="cpu") if case.maps != "map" else None

    def guided_of(c):  # it takes one photo at a time
        return np.stack([guided(one[None], target_category=c) for one in tensor(images)])

    make = together(
        case,
        lambda c: tool(input_tensor=tensor(images), targets=[ClassifierOutputTarget(c)] * len(images)),
        guided_of,
    )
    return forward, make, logits


def captum(setup, images):
    network, layer, tensor, forward, logits, channels_last = torch_peer(setup, images)

    from captum.attr import GuidedBackprop, LayerGradCam

    case = CASES[setup.case]
    tool, guided = LayerGradCam(network, layer), GuidedBackprop(network)
    make = together(
        case,
        lambda c: channels_last(tool.attribute(tensor(images), target=c, relu_attributions=True)),
        lambda c: channels_last(guided.attribute(tensor(images).requires_grad_(), target=c)),
    )
    return forward, make, logits


START = {
    "ours-tensorflow": ours,
    "ours-jax": ours,
    "tf-keras-vis": tf_keras_vis,
    "tf-explain": tf_explain,
    "xplique": xplique,
    "pytorch-grad-cam": pytorch_grad_cam,
    "captum": captum,
}
