"""An independent oracle: small networks, their gradients and guided gradients, written out in float64 NumPy.

A network is a list of steps; a step knows its output and how a gradient passes back through it. `gradient_of` is for
networks that are too large to write out: the gradient by the backend alone, without anything of ours.
"""

import numpy as np

from camlib.backend import BACKEND


class Convolution:
    """Stride 1, `padding` zeros around: x (H, W, I), kernel (h, w, I, O)."""

    def __init__(self, kernel, bias, padding=0):
        self.kernel, self.bias = np.asarray(kernel, np.float64), np.asarray(bias, np.float64)
        self.padding = padding

    def forward(self, x):
        x = np.pad(x, (*[(self.padding, self.padding)] * 2, (0, 0)))
        self.shape = x.shape
        h, w = self.kernel.shape[:2]
        height, width = x.shape[0] - h + 1, x.shape[1] - w + 1
        y = np.zeros((height, width, self.kernel.shape[3])) + self.bias
        for dy, dx in np.ndindex(h, w):
            y += x[dy : dy + height, dx : dx + width] @ self.kernel[dy, dx]
        return y

    def backward(self, u, guided):
        back = np.zeros(self.shape)
        for dy, dx in np.ndindex(*self.kernel.shape[:2]):
            back[dy : dy + u.shape[0], dx : dx + u.shape[1]] += u @ self.kernel[dy, dx].T
        height, width, _ = self.shape
        return back[self.padding : height - self.padding, self.padding : width - self.padding]


class MaxPooling:
    """The largest of each 2x2 pixels, which are even in number."""

    def forward(self, x):
        blocks = x.reshape(x.shape[0] // 2, 2, x.shape[1] // 2, 2, -1)
        self.largest, self.shape = blocks == blocks.max((1, 3), keepdims=True), x.shape
        return blocks.max((1, 3))

    def backward(self, u, guided):
        return (self.largest * u[:, None, :, None]).reshape(self.shape)


class Rectifier:
    """f(x) = x above the threshold, slope * (x - threshold) below, at most `cap`."""

    def __init__(self, slope=0.0, cap=np.inf, threshold=0.0):
        self.slope, self.cap, self.threshold = slope, cap, threshold

    def forward(self, x):
        above = x > self.threshold
        self.derivative = np.where(above, 1.0, self.slope) * (x < self.cap)
        return np.minimum(np.where(above, x, self.slope * (x - self.threshold)), self.cap)

    def backward(self, u, guided):
        if guided == "deconvnet":
            return np.maximum(u, 0)
        return self.derivative * (np.maximum(u, 0) if guided else u)


class Residual:
    """x + steps(x)."""

    def __init__(self, steps):
        self.steps = steps

    def forward(self, x):
        return x + run(self.steps, x)[-1]

    def backward(self, u, guided):
        return u + gradients(self.steps, u, guided)[0]


class Mean:
    """Global average pooling."""

    def forward(self, x):
        self.shape = x.shape
        return x.mean((0, 1))

    def backward(self, u, guided):
        return np.broadcast_to(u / (self.shape[0] * self.shape[1]), self.shape)


class Dense:
    """x @ kernel + bias of the flattened x."""

    def __init__(self, kernel, bias):
        self.kernel, self.bias = np.asarray(kernel, np.float64), np.asarray(bias, np.float64)

    def forward(self, x):
        self.shape = x.shape
        return x.reshape(-1) @ self.kernel + self.bias

    def backward(self, u, guided):
        return (self.kernel @ u).reshape(self.shape)


def run(steps, x):
    """The input and every step's output, in order."""
    outputs = [np.asarray(x, np.float64)]
    for step in steps:
        outputs.append(step.forward(outputs[-1]))
    return outputs


def gradients(steps, u, guided=False):
    """Gradients with respect to the input and every step's output, after `run`, for the gradient u of the last."""
    found = [u]
    for step in reversed(steps):
        found.append(step.backward(found[-1], guided))
    return found[::-1]


def maps(steps, x, class_index, target):
    """(logits, Grad-CAM of the output of step `target`, guided gradient of the input) of one class."""
    outputs = run(steps, x)
    u = np.eye(len(outputs[-1]))[class_index]
    features, pulled = outputs[target + 1], gradients(steps, u)[target + 1]
    cam = np.maximum(features @ pulled.mean((0, 1)), 0)
    return outputs[-1], cam, gradients(steps, u, guided=True)[0]


def gradient_of(score, x):
    """The gradient of a function of one tensor, by the backend alone: float64."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(x)
            y = score(x)
        return tape.gradient(y, x).numpy().astype(np.float64)
    import jax

    return np.asarray(jax.grad(score)(x), np.float64)


def cam_of(method, a, g):
    """The map (N, h, w) of a method from a layer's output and the gradient of a score, both float64 (N, h, w, K)."""
    return {
        "grad-cam": lambda: np.maximum((a * g.mean(axis=(1, 2), keepdims=True)).sum(axis=-1), 0),
        "hires-cam": lambda: (a * g).sum(axis=-1),
        "layer-cam": lambda: np.maximum((a * np.maximum(g, 0)).sum(axis=-1), 0),
    }[method]()
