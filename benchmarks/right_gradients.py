"""Which tools give the right Grad-CAM and guided backpropagation: a table of relative errors against true values.

    pip install -r requirements-parity.txt && pip install --no-deps xplique==2.0.2
    python benchmarks/right_gradients.py                      # about a minute; prints a Markdown table

Each network computes the same function, written out in float64 NumPy by tests/tools/oracle.py. An error is the largest
difference from it over two images and four classes, divided by the largest true value.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "tools"))

import camlib.backend  # noqa: F401  keeps TensorFlow's start-up lines off the screen

# isort: split
import keras
import numpy as np
import oracle
from keras import layers, ops
from small_networks import IMAGES, SHAPE, convolutions, functional, head, nested, sequential, steps, with_weights

from benchmarks import speed_peers
from benchmarks.timing import markdown_table
from camlib.attribution.gradcam import compiled_map
from camlib.attribution.inspection import inspect_network

# ---------------------------------------------------------------- networks


def with_layers(make):
    """Both convolutions followed by the layer that `make` builds."""
    image = x = keras.Input(SHAPE)
    for convolution in convolutions():
        x = make()(convolution(x))
    return keras.Model(image, head(x))


def softmax_ended():
    image = keras.Input(SHAPE)
    first, second = convolutions(("relu", "relu"))
    return keras.Model(image, head(second(first(image)), activation="softmax"))


def mixed_precision():
    network = functional()
    for layer in network.layers:
        layer.dtype_policy = "mixed_float16"
    return network


CAP = {"cap": 6.0}
# name: (build, layer that a peer is told to explain, the oracle's two rectifiers)
KINDS = {
    '`activation="relu"`': (functional, "conv2", {}),
    "`layers.ReLU`": (lambda: with_layers(layers.ReLU), None, {}),
    "ReLU6": (lambda: with_layers(lambda: layers.ReLU(6.0)), None, CAP),
    "nested": (nested, "trunk", {}),
    "softmax-ended": (softmax_ended, "conv2", {}),
    "Sequential": (sequential, "conv2", {}),
    "mixed precision": (mixed_precision, "conv2", {}),
}
SCALE = 3.0  # images larger than in the tests, so that ReLU6 has something to cut

# ---------------------------------------------------------------- tools
MAPS = {"map": "Grad-CAM", "guided": "guided backpropagation"}
OURS = "ours"
TOOLS = {"tf-keras-vis 0.8.7": "tf-keras-vis", "Xplique 2.0.2": "xplique", "tf-explain 0.3.1": "tf-explain", OURS: None}


def ours(network):
    """{"map": (C, N, h, w), "guided": (C, N, H, W, 3)} of all classes."""
    classes = np.repeat(np.arange(4, dtype=np.int32)[:, None], len(IMAGES), axis=1)
    explain = compiled_map(network, inspect_network(network, SHAPE))
    found = explain(ops.convert_to_tensor(SCALE * IMAGES), ops.convert_to_tensor(classes))
    return {"map": ops.convert_to_numpy(found.cams), "guided": ops.convert_to_numpy(found.guided)}


def xplique_cams(network, layer):
    """Its maps before it enlarges them."""
    import tensorflow as tf
    from xplique.attributions import GradCAM

    tool, found = GradCAM(network, output_layer=-1, conv_layer=layer), []
    for one_hot in np.repeat(np.eye(4, dtype=np.float32)[:, None], len(IMAGES), axis=1):
        features, gradients = tool._gradient(tf.constant(SCALE * IMAGES), tf.constant(one_hot))
        found.append(GradCAM._apply_weights(tool._compute_weights(gradients, features), features))
    return np.stack(found)


def maps_of(tool, network, layer, kind):
    """A tool's maps of a network, one of MAPS."""
    if tool == OURS:
        return ours(network)[kind]
    if (TOOLS[tool], kind) == ("xplique", "map"):
        return xplique_cams(network, layer)
    case = speed_peers.Case("", kind, 4)
    return speed_peers.TOOLS[TOOLS[tool]].maker(network, layer, SCALE * IMAGES, case)()[kind]


# ---------------------------------------------------------------- the table


def truth(rectifiers):
    """{"map": (C, N, h, w), "guided": (C, N, H, W, 3)} in float64."""
    network = steps(rectifiers, rectifiers)
    found = [[oracle.maps(network, SCALE * image, c, target=3)[1:] for image in IMAGES] for c in range(4)]
    return {kind: np.array([[pair[part] for pair in row] for row in found]) for part, kind in enumerate(MAPS)}


def error_of(tool, name, kind):
    """The relative error of a tool's maps of a network, or why it makes none, as text."""
    build, layer, rectifiers = KINDS[name]
    if (TOOLS[tool], kind) == ("tf-explain", "guided"):
        return "none"
    network, expected = with_weights(build()), truth(rectifiers)[kind]  # each its own: some leave their marks on it
    layer = layer or next(one.name for one in reversed(network.layers) if isinstance(one, layers.ReLU))
    try:
        found = np.asarray(maps_of(tool, network, layer, kind), np.float64)
    except Exception as error:  # whatever a tool raises is its result here
        return f"fails ({type(error).__name__})"
    if found.shape != expected.shape:
        return f"shape {found.shape[1:]}"
    return f"{np.abs(found - expected).max() / np.abs(expected).max():.1e}"


def errors():
    """{(network, kind of map): {tool: error as text}}."""
    return {(name, kind): {tool: error_of(tool, name, kind) for tool in TOOLS} for name in KINDS for kind in MAPS}


def main():
    rows = [[name if kind == "map" else "", MAPS[kind], *found.values()] for (name, kind), found in errors().items()]
    print(markdown_table(["network", "map", *TOOLS], rows))


if __name__ == "__main__":
    main()
