"""Small networks of every kind that Keras knows, all computing what one oracle network computes."""

import keras
import numpy as np
import oracle
from keras import layers, ops

from camlib.attribution.gradcam import as_arrays, compiled_map
from camlib.attribution.inspection import inspect_network
from camlib.backend import BACKEND

if BACKEND == "tensorflow":
    import tensorflow as tf

    backend_relu, backend_silu, backend_softmax, compile_function = tf.nn.relu, tf.nn.silu, tf.nn.softmax, tf.function
else:
    import jax

    backend_relu, backend_silu, backend_softmax, compile_function = jax.nn.relu, jax.nn.silu, jax.nn.softmax, jax.jit

SHAPE = (7, 9, 3)
GENERATOR = np.random.default_rng(0)
KERNELS = [GENERATOR.normal(size=(3, 3, 3, 6)) * 0.4, GENERATOR.normal(size=(3, 3, 6, 5)) * 0.3]
BIASES = [GENERATOR.normal(size=6) * 0.3, GENERATOR.normal(size=5) * 0.3]
DENSE = [GENERATOR.normal(size=(5, 4)), GENERATOR.normal(size=4)]
IMAGES = GENERATOR.normal(size=(2, *SHAPE)).astype(np.float32)
PRELU = np.linspace(0.1, 0.5, 6)


class CallsOps(layers.Layer):
    def call(self, x):
        return ops.relu(x)


class CallsBackend(layers.Layer):
    """Looks the backend's function up at each call."""

    def call(self, x):
        return (tf.nn if BACKEND == "tensorflow" else jax.nn).relu(x)


class KeepsBackend(layers.Layer):
    """Keeps the backend's function itself."""

    def __init__(self):
        super().__init__()
        self.function = backend_relu

    def call(self, x):
        return self.function(x)


@compile_function
def compiled_relu(x):
    return (tf.nn if BACKEND == "tensorflow" else jax.nn).relu(x)


class CallsCompiled(layers.Layer):
    """Calls a function that the backend has compiled before."""

    def call(self, x):
        return compiled_relu(x)


RELUS = {
    "layers.ReLU": (lambda: layers.ReLU(), {}),
    "Activation": (lambda: layers.Activation("relu"), {}),
    "ReLU6": (lambda: layers.ReLU(6.0), {"cap": 6.0}),
    "capped": (lambda: layers.ReLU(0.8), {"cap": 0.8}),
    "leaky": (lambda: layers.LeakyReLU(0.3), {"slope": 0.3}),
    "ReLU with a slope": (lambda: layers.ReLU(negative_slope=0.2), {"slope": 0.2}),
    "slope, cap, threshold": (lambda: layers.ReLU(0.9, 0.2, 0.1), {"cap": 0.9, "slope": 0.2, "threshold": 0.1}),
    "threshold": (lambda: layers.ReLU(threshold=0.25), {"threshold": 0.25}),
    "PReLU": (lambda: layers.PReLU(shared_axes=[1, 2]), {"slope": PRELU}),
    "ops.relu": (lambda: ops.relu, {}),
    "ops.relu6": (lambda: ops.relu6, {"cap": 6.0}),
    "ops.leaky_relu": (lambda: lambda x: ops.leaky_relu(x, 0.15), {"slope": 0.15}),
    "activations.relu": (lambda: lambda x: keras.activations.relu(x, max_value=1.5), {"cap": 1.5}),
    "custom layer, ops": (CallsOps, {}),
    "custom layer, backend": (CallsBackend, {}),
    "custom layer that keeps the backend's": (KeepsBackend, {}),
    "custom layer, compiled": (CallsCompiled, {}),
}


def convolutions(activations=(None, None)):
    return [
        layers.Conv2D(len(bias), 3, activation=activation, name=f"conv{number}")
        for number, (bias, activation) in enumerate(zip(BIASES, activations, strict=True), start=1)
    ]


def with_weights(network):
    """Fill a network's convolutions and Dense layer, wherever they are nested, with the weights above."""
    network(IMAGES[:1])
    for layer in network._flatten_layers():
        if layer.name in ("conv1", "conv2"):
            number = int(layer.name[-1]) - 1
            layer.set_weights([KERNELS[number], BIASES[number]])
        elif layer.name == "class":
            layer.set_weights(DENSE)
        elif isinstance(layer, layers.PReLU):
            layer.set_weights([PRELU.reshape(1, 1, 6)])
    return network


def steps(first=None, second=None):
    """The oracle's network: convolution, rectifier, convolution, rectifier, mean, Dense."""
    return [
        oracle.Convolution(KERNELS[0], BIASES[0]),
        oracle.Rectifier(**(first or {})),
        oracle.Convolution(KERNELS[1], BIASES[1]),
        oracle.Rectifier(**(second or {})),
        oracle.Mean(),
        oracle.Dense(*DENSE),
    ]


def head(x, **dense):
    return layers.Dense(4, name="class", **dense)(layers.GlobalAveragePooling2D()(x))


def functional(relu=None):
    """Functional; `relu` between the convolutions where it is given, else the activation argument."""
    first, second = convolutions((None if relu else "relu", "relu"))
    image = keras.Input(SHAPE)
    x = first(image)
    return keras.Model(image, head(second(relu(x) if relu else x)))


def sequential(**dense):
    convs = convolutions(("relu", "relu"))
    return keras.Sequential([*convs, layers.GlobalAveragePooling2D(), layers.Dense(4, name="class", **dense)])


def nested(depth=1):
    """The convolutions as a network inside `depth` others."""
    trunk = keras.Sequential([keras.Input(SHAPE), *convolutions(("relu", "relu"))], name="trunk")
    for level in range(1, depth):
        image = keras.Input(SHAPE)
        trunk = keras.Model(image, trunk(image), name=f"level{level}")
    image = keras.Input(SHAPE)
    return keras.Model(image, head(trunk(image)))


def shared_relu():
    """One ReLU layer behind both convolutions."""
    first, second = convolutions()
    relu, image = layers.ReLU(name="shared"), keras.Input(SHAPE)
    return keras.Model(image, head(relu(second(relu(first(image))))))


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.first, self.second = convolutions(("relu", None))
        self.classes = layers.Dense(4, name="class")

    def call(self, x):
        x = ops.relu(self.second(self.first(x)))
        return ops.softmax(self.classes(ops.mean(x, axis=(1, 2))))


def ended(*after, **dense):
    """The two convolutions with something behind the Dense layer."""
    image = keras.Input(SHAPE)
    first, second = convolutions(("relu", "relu"))
    x = head(second(first(image)), **dense)
    for layer in after:
        x = layer(x)
    return keras.Model(image, x)


NETWORKS = {
    "functional": (functional, "conv2", "linear"),
    "Sequential": (sequential, "conv2", "linear"),
    "Sequential, softmax": (lambda: sequential(activation="softmax"), "conv2", "softmax"),
    "Sequential, sigmoid": (lambda: sequential(activation="sigmoid"), "conv2", "sigmoid"),
    "Activation softmax": (lambda: ended(layers.Activation("softmax")), "conv2", "softmax"),
    "Activation sigmoid": (lambda: ended(layers.Activation("sigmoid")), "conv2", "sigmoid"),
    "Softmax layer": (lambda: ended(layers.Softmax()), "conv2", "softmax"),
    "nested": (nested, "trunk/conv2", "linear"),
    "nested three times": (lambda: nested(3), "level2/level1/trunk/conv2", "linear"),
    "shared ReLU": (shared_relu, "shared", "linear"),
    "subclassed": (Subclassed, "relu", "softmax"),
    "activation=backend's relu": (lambda: keras.Sequential(
        [*convolutions((backend_relu, backend_relu)), layers.GlobalAveragePooling2D(), layers.Dense(4, name="class")]
    ), "conv2", "linear"),
}  # fmt: skip


def explained(network, plan=None, images=IMAGES, classes=range(4), **settings):
    """Explanation of classes of images, as NumPy arrays; a class is an index, or one for each image."""
    images = np.asarray(images, np.float32)
    rows = np.array([np.broadcast_to(index, len(images)) for index in classes], np.int32)
    explain = compiled_map(network, plan or inspect_network(network, images.shape[1:]), **settings)
    return as_arrays(explain(ops.convert_to_tensor(images), ops.convert_to_tensor(rows)))


def with_random_weights(network):
    """Random weights everywhere, with positive variances."""
    generator = np.random.default_rng(0)
    for weight in network.weights:
        values = generator.normal(size=weight.shape) * 0.1
        weight.assign(np.abs(values) + 0.5 if "variance" in weight.path else values + weight.numpy())
    return network
