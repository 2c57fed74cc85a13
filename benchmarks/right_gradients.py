"""Which tools give the right Grad-CAM and guided backpropagation: a table of relative errors against true values.

    pip install -r requirements-parity.txt
    python benchmarks/right_gradients.py                      # about a minute; prints a Markdown table

Each network computes the same function, written out in float64 NumPy by tests/tools/oracle.py. An error is the largest
difference from it over two images and four classes, divided by the largest true value.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "tools")]

import camlib.backend  # noqa: F401, E402  keeps TensorFlow's start-up lines off the screen

# isort: split
import keras  # noqa: E402
import numpy as np  # noqa: E402
import oracle  # noqa: E402
import tensorflow as tf  # noqa: E402
from keras import layers, ops  # noqa: E402
from small_networks import IMAGES, SHAPE, convolutions, functional, head, nested, sequential, steps, with_weights  # noqa: E402

from camlib.attribution.gradcam import compiled_map  # noqa: E402
from camlib.attribution.inspection import inspect_network  # noqa: E402

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

# ---------------------------------------------------------------- tools: (Grad-CAM (C, N, h, w), guided gradients)


def ours(network, layer):
    classes = np.repeat(np.arange(4, dtype=np.int32)[:, None], len(IMAGES), axis=1)
    found = compiled_map(network, inspect_network(network, SHAPE))(
        ops.convert_to_tensor(SCALE * IMAGES), ops.convert_to_tensor(classes)
    )
    return lambda: ops.convert_to_numpy(found.cams), lambda: ops.convert_to_numpy(found.guided)


def tf_keras_vis(network, layer):
    from tf_keras_vis.gradcam import Gradcam
    from tf_keras_vis.saliency import Saliency
    from tf_keras_vis.utils.model_modifiers import GuidedBackpropagation, ReplaceToLinear
    from tf_keras_vis.utils.scores import CategoricalScore

    def cams():
        tool = Gradcam(network, model_modifier=ReplaceToLinear(), clone=True)
        settings = {"penultimate_layer": layer, "seek_penultimate_conv_layer": False}
        return [
            tool(CategoricalScore([c] * len(IMAGES)), SCALE * IMAGES, expand_cam=False, normalize_cam=False, **settings)
            for c in range(4)
        ]

    def guided():
        tool = Saliency(network, model_modifier=[ReplaceToLinear(), GuidedBackpropagation()], clone=True)
        settings = {"keepdims": True, "normalize_map": False, "gradient_modifier": None}
        return [tool(CategoricalScore([c] * len(IMAGES)), SCALE * IMAGES, **settings) for c in range(4)]

    return cams, guided


def xplique(network, layer):
    from xplique.attributions import GradCAM, GuidedBackprop

    def one_hot(c):
        return np.repeat(np.eye(4, dtype=np.float32)[None, c], len(IMAGES), axis=0)

    def cams():  # its maps before it enlarges them
        tool = GradCAM(network, output_layer=-1, conv_layer=layer)
        found = []
        for c in range(4):
            features, gradients = tool._gradient(tf.constant(SCALE * IMAGES), tf.constant(one_hot(c)))
            found.append(GradCAM._apply_weights(tool._compute_weights(gradients, features), features))
        return found

    def guided():
        tool = GuidedBackprop(network, output_layer=-1, reducer=None)
        return [tool.explain(SCALE * IMAGES, one_hot(c)) for c in range(4)]

    return cams, guided


def tf_explain(network, layer):
    from tf_explain.core.grad_cam import GradCAM

    def cams():
        found = []
        for c in range(4):
            parts = GradCAM.get_gradients_and_filters(network, SCALE * IMAGES, layer, c, use_guided_grads=False)
            found.append(tf.nn.relu(GradCAM.generate_ponderated_output(*parts)))  # it leaves the ReLU out
        return found

    return cams, None  # it has no guided backpropagation of the image


TOOLS = {"tf-keras-vis 0.8.7": tf_keras_vis, "Xplique 2.0.2": xplique, "tf-explain 0.3.1": tf_explain, "ours": ours}

# ---------------------------------------------------------------- the table


def truth(rectifiers):
    """(Grad-CAM (C, N, h, w), guided gradients (C, N, H, W, 3)) in float64."""
    network = steps(rectifiers, rectifiers)
    found = [[oracle.maps(network, SCALE * image, c, target=3)[1:] for image in IMAGES] for c in range(4)]
    return tuple(np.array([[pair[part] for pair in row] for row in found]) for part in range(2))


def error_of(compute, expected):
    """The relative error of what `compute` returns, or why it returns nothing, as text."""
    if compute is None:
        return "none"
    try:
        found = np.stack([np.asarray(values, np.float64) for values in compute()])
    except Exception as error:  # whatever a tool raises is its result here
        return f"fails ({type(error).__name__})"
    if found.shape != expected.shape:
        return f"shape {found.shape[1:]}"
    return f"{np.abs(found - expected).max() / np.abs(expected).max():.1e}"


def table():
    """The rows of the table: list of lists of str, the header first."""
    rows = [["network", "map", *TOOLS]]
    for name, (build, layer, rectifiers) in KINDS.items():
        expected = truth(rectifiers)
        columns = []
        for make in TOOLS.values():
            network = with_weights(build())  # each tool gets its own: some leave their marks on it
            target = layer or next(one.name for one in reversed(network.layers) if isinstance(one, layers.ReLU))
            try:
                pair = make(network, target)
            except Exception as error:
                columns.append([f"fails ({type(error).__name__})"] * 2)
                continue
            columns.append([error_of(compute, values) for compute, values in zip(pair, expected, strict=True)])
        for part, title in enumerate(("Grad-CAM", "guided backpropagation")):
            rows.append([name if part == 0 else "", title, *(column[part] for column in columns)])
    return rows


def main():
    header, *rows = table()
    for row in (header, ["---"] * len(header), *rows):
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
