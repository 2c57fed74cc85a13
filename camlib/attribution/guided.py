"""Gradients with respect to the photo: the true one, guided backpropagation, deconvnet, and products with them.

A ReLU has three gradients here, the true one, the guided one and the deconvnet's. Which of them applies is decided when
a gradient is taken, so that one forward pass serves all.
"""

import contextlib
import threading

from keras import ops

from camlib.attribution.methods import covered, enlarged
from camlib.backend import named, with_gradient

KNOWN_ACTIVATION = "watched_activation"  # scope of the operations of activations that tracing knows
# What Keras and the backend offer is exchanged while a network is traced: one thread at a time
EXCHANGE_LOCK = threading.RLock()

_rule = None  # read when a gradient is taken, not when the network runs


@contextlib.contextmanager
def guided_rule(rule="guided"):
    """Gradients taken in this context follow a rule, "guided" or "deconvnet", at every ReLU; elsewhere the true one."""
    global _rule
    with EXCHANGE_LOCK:
        _rule = rule
        try:
            yield
        finally:
            _rule = None


def rectify(x, negative_slope=0.0, max_value=None, threshold=0.0, on_guided=lambda: None):
    """A ReLU of any kind, f, with three gradients.

    f(x) = x above the threshold and negative_slope * (x - threshold) below, but at most max_value. The true gradient
    is f'(x) u; the guided one (Springenberg et al. 2015) f'(x) max(u, 0): the plain ReLU passes a gradient u where x
    and u are positive, ReLU6 where x is below 6 besides, a leaky one passes negative_slope * u where x is negative. The
    deconvnet's (Zeiler and Fergus 2014, section 2.1) is the ReLU of the gradient, max(u, 0), whatever x is.

    Args:
        x: tensor.
        negative_slope: float, or tensor where it is learnt.
        max_value: float or None.
        threshold: float.
        on_guided: function, called when a guided gradient is taken.

    Returns:
        tensor like x.
    """
    plain = isinstance(negative_slope, (int, float)) and negative_slope == threshold == 0
    if not isinstance(negative_slope, (int, float)):
        negative_slope = ops.stop_gradient(negative_slope)  # a variable, read here once

    def forward(x):
        with named(KNOWN_ACTIVATION):
            # a maximum, unlike a comparison, lets NaN through
            y = ops.maximum(x, 0) if plain else ops.where(x > threshold, x, negative_slope * (x - threshold))
            return y if max_value is None else ops.minimum(y, max_value)

    def gradient(x, u):
        if _rule:
            on_guided()
            u = ops.maximum(u, 0)
        if _rule == "deconvnet":
            return u
        passed = ops.where(x > threshold, u, ops.zeros_like(u) if plain else negative_slope * u)
        return passed if max_value is None else ops.where(x < max_value, passed, ops.zeros_like(u))

    return with_gradient(forward, gradient)(ops.convert_to_tensor(x))


def photo_gradient(seen, u, images):
    """dY_c/dx, x the network's input (Simonyan et al. 2014, section 3).

    Args:
        seen: `camlib.attribution.tracing.ForwardPass`.
        u: float32 (N, C), dY/dlogits.
        images: float32 (N, H, W, channels), x.

    Returns:
        float32 (N, H, W, channels), signed.
    """
    return seen.gradients_at_images(u)


def gradient_x_input(seen, u, images):
    """x dY_c/dx, element by element (Shrikumar et al. 2017, section 2); arguments and result as of `photo_gradient`.

    Of a network of convolutions, ReLUs and Dense layers without biases its sum is the score.
    """
    return ops.cast(images, u.dtype) * seen.gradients_at_images(u)


def deconvnet(seen, u, images):
    """The deconvnet (Zeiler and Fergus 2014, section 2.1): backwards, the ReLU is applied to what arrives.

    Maxima are put back in their places, and filters transposed, as a gradient does. Arguments and result as of
    `photo_gradient`.
    """
    with guided_rule("deconvnet"):
        return seen.gradients_at_images(u)


def guided_backpropagation(seen, u):
    """The score's gradient with respect to the photo, by another rule at each ReLU (Springenberg et al. 2015).

    A ReLU passes a gradient where its input and the gradient that arrives are both positive, see `rectify`.

    Args:
        seen: `camlib.attribution.tracing.ForwardPass`.
        u: float32 (N, C), dY/dlogits.

    Returns:
        float32 (N, H, W, channels), signed, with respect to the network's input.
    """
    with guided_rule():
        return seen.gradients_at_images(u)


def guided_grad_cam(guided_gradients, cam, extent=None):
    """Multiply guided gradients (N, H, W, C) by the map (N, h, w), enlarged bilinearly over the part that it covers."""
    size = guided_gradients.shape[1:3]
    products = guided_gradients * enlarged(cam[..., None], *size, extent)
    return products if extent is None else products * ops.cast(covered(extent, *size), products.dtype)
