"""The networks: the original's, the pooling-free one, VGG-16; how they are folded and started from earlier weights.

Network code uses `keras` only, so that it runs on every backend.
"""

from itertools import pairwise

import keras
import numpy as np
from keras import layers

from camlib.console import UserError

# ---------------------------------------------------------------- architectures


def original_network(class_count, channels=1):
    """The original's five convolutions without pooling (2019): 16 to 256 filters, 3x3, 'same', ReLU.

    Any input size; the last features have the input's size. (N, H, W, channels) -> (N, class_count), softmax.
    """
    image = x = keras.Input((None, None, channels))
    for filters in (16, 32, 64, 128, 256):
        x = layers.Conv2D(filters, 3, padding="same", activation="relu")(x)  # (N, H, W, filters)
    x = layers.GlobalAveragePooling2D(name="gap")(x)  # (N, 256)
    return keras.Model(image, layers.Dense(class_count, activation="softmax", name="class")(x), name="original")


# (filters, dilation) of each 3x3 convolution; of a deeper network the last one repeats. The dilations add up to a view
# of 43 pixels, of eleven convolutions 75: wide enough for a head or a body at 96x96. Trained from random weights, the
# narrow one keeps the evidence where the animal is; the deeper ones went on from there. No dilation is smaller than the
# one before it, which is what training on a grid needs.
MODERN_CONVOLUTIONS = ((32, 1), (48, 2), (64, 2), (96, 4), (96, 4), (96, 4), (96, 4))


def modern_network(class_count, channels=3, for_training=False, depth=None):
    """Pooling-free 3x3 'same' convolutions with dilation, batch normalisation and residual sums.

    Any input size; the last features have the input's size and follow a ReLU.

    Args:
        class_count: int.
        channels: int.
        for_training: bool, build the form that is trained; `fold` copies its weights into the plain one. It differs
            three times. It computes the features at every fourth pixel only, in a sixth of the time: a convolution of
            dilation d reads pixels d apart, so on the grid of every d-th pixel it is a plain convolution with the same
            weights (the a trous algorithm, Holschneider et al. 1989), and the mean over the grid stands for the mean
            over all. And it normalises the pooled features over the batch: the mean of a feature over thousands of
            pixels differs little from photo to photo, and is learnt from many times faster once normalised. And it
            does without `across_grids`, which changes the mean at the photo's border only.
        depth: int, the number of convolutions: the first of `MODERN_CONVOLUTIONS`, or all of them and the last again
            and again. None: all of them, seven.

    Returns:
        keras.Model, (N, H, W, channels) -> (N, class_count), softmax.
    """
    image = x = keras.Input((None, None, channels))
    usual = len(MODERN_CONVOLUTIONS)
    depth = depth or usual
    convolutions = MODERN_CONVOLUTIONS[:depth] + MODERN_CONVOLUTIONS[-1:] * (depth - usual)
    dilations = [dilation for _, dilation in convolutions]
    for (filters, dilation), following in zip(convolutions, [*dilations[1:], dilations[-1]], strict=True):
        steps = {"strides": following // dilation} if for_training else {"dilation_rate": dilation}
        y = layers.Conv2D(filters, 3, padding="same", use_bias=False, **steps)(x)
        y = layers.BatchNormalization(momentum=0.9)(y)
        x = layers.ReLU()(layers.Add()([x, y]) if x.shape[-1] == filters else y)  # (N, H, W, filters)
    x = x if for_training else across_grids(x, dilations[-1])
    x = layers.GlobalAveragePooling2D(keepdims=for_training, name="gap")(x)  # (N, 96), for training (N, 1, 1, 96)
    if for_training:
        x = layers.BatchNormalization(momentum=0.9, name="class_bn")(x)
    x = layers.Dense(class_count, name="class")(x)
    # float32, whatever the rest runs in: a softmax in half precision loses small probabilities
    x = layers.Softmax(dtype="float32", name="probability")(x)
    return keras.Model(image, layers.Flatten()(x) if for_training else x, name="modern")


def across_grids(x, period):
    """Smooth features across the grids that dilated convolutions leave apart (gridding, Yu et al. 2017, figure 4).

    With dilation d a pixel is computed from the pixels d apart alone, so that d x d grids lie in each other and differ
    where they should not. A mean over d pixels, twice along each axis, is zero at the grids' frequencies; it is fixed,
    linear and keeps the size.

    Args:
        x: features (N, H, W, K).
        period: int, d.

    Returns:
        Features (N, H, W, K).
    """
    kernel = np.convolve(np.ones(period), np.ones(period)) / period**2  # a triangle of 2 d - 1 pixels
    for name, shape in (("across_rows", (len(kernel), 1)), ("across_columns", (1, len(kernel)))):
        smooth = layers.DepthwiseConv2D(shape, padding="same", use_bias=False, trainable=False, name=name)
        x = smooth(x)
        smooth.set_weights([np.broadcast_to(kernel.reshape(*shape, 1, 1), smooth.weights[0].shape)])
    return x


VGG16_BLOCKS = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))  # (convolutions, filters) before each 2x2 pooling


def vgg16_network(class_count, channels=3, for_training=False):
    """VGG-16's thirteen convolutions (Simonyan and Zisserman 2015), then GAP, a hidden Dense layer and the classes.

    The hidden layer makes the score a nonlinear function of the features: CAM does not apply, Grad-CAM does. Layers
    are named as in Keras, block1_conv1 to block5_pool. Any input size from 32 up.

    Args:
        class_count: int.
        channels: int.
        for_training: bool, build the form that is trained from scratch, with batch normalisation between each
            convolution and its ReLU; `fold` turns it into the plain network.

    Returns:
        keras.Model, (N, H, W, channels) -> (N, class_count), softmax.
    """
    image = x = keras.Input((None, None, channels))
    for block, (count, filters) in enumerate(VGG16_BLOCKS, start=1):
        for number in range(1, count + 1):
            name = f"block{block}_conv{number}"
            if for_training:
                x = layers.Conv2D(filters, 3, padding="same", use_bias=False, name=name)(x)
                x = layers.ReLU(name=f"{name}_relu")(layers.BatchNormalization(momentum=0.9, name=f"{name}_bn")(x))
            else:
                x = layers.Conv2D(filters, 3, padding="same", activation="relu", name=name)(x)
        x = layers.MaxPooling2D(name=f"block{block}_pool")(x)  # (N, H / 2^block, W / 2^block, filters)
    x = layers.GlobalAveragePooling2D(name="gap")(x)  # (N, 512)
    x = layers.Dense(256, activation="relu", name="hidden")(x)
    x = layers.Dense(class_count, name="class")(x)
    return keras.Model(image, layers.Softmax(dtype="float32", name="probability")(x), name="vgg16")


def per_cell(network, cell):
    """The same layers, asked for the class of each cell: (N, g * cell, g * cell, channels) -> (N, g, g, classes)."""
    features = network.get_layer("gap").input
    grid = keras.Model(network.inputs[0], features).compute_output_shape((1, cell, cell, network.input_shape[-1]))
    x = layers.AveragePooling2D(grid[1:3])(features)  # (N, g, g, K)
    for layer in network.layers[network.layers.index(network.get_layer("gap")) + 1 :]:
        x = x if isinstance(layer, layers.Flatten) else layer(x)
    return keras.Model(network.inputs[0], x)


# ---------------------------------------------------------------- from one network's weights to another's


def fold(network, plain):
    """Copy the weights of a network's training form into the plain form, which does without the `<layer>_bn` layers.

    With s = gamma / sqrt(variance + epsilon) and t = beta - mean * s, behind a convolution: kernel' = kernel * s and
    bias' = t; in front of a Dense layer: kernel' = s * kernel and bias' = bias + t kernel.

    Args:
        network: keras.Model built with `for_training=True`.
        plain: keras.Model built without; its weights are overwritten.

    Returns:
        `plain`.
    """
    names = {layer.name for layer in network.layers}
    kinds = (layers.Conv2D, layers.BatchNormalization, layers.Dense)
    sources = [layer for layer in network.layers if isinstance(layer, kinds) and layer.name[-3:] != "_bn"]
    targets = [layer for layer in plain.layers if isinstance(layer, kinds)]
    for source, target in zip(sources, targets, strict=True):
        weights = source.get_weights()
        if f"{source.name}_bn" in names:
            norm = network.get_layer(f"{source.name}_bn")
            gamma, beta, mean, variance = norm.get_weights()
            scale = gamma / np.sqrt(variance + norm.epsilon)
            shift = beta - mean * scale
            if isinstance(source, layers.Dense):
                weights = [scale[:, None] * weights[0], weights[1] + shift @ weights[0]]
            else:
                weights = [weights[0] * scale, shift]
        target.set_weights(weights)
    return plain


def depth_to_go_on(source):
    """How many convolutions a pooling-free network needs that starts from another one; None: no more than usual."""
    depth = sum(isinstance(layer, layers.Conv2D) for layer in source._flatten_layers())
    return depth if depth > len(MODERN_CONVOLUTIONS) else None


def start_from(network, source, images, same_classes=False):
    """Copy the convolutions of an earlier network, so that training goes on from what they see.

    Of the same classes, the layers behind the global pooling are copied too, if they have the same shapes. Otherwise
    they start anew, the first of them divided by the size of the features on `images` (Krahenbuhl et al. 2016), where
    no normalisation does that: ImageNet's VGG-16 has features of about 10, on which Glorot's weights would make logits
    so large that the first gradients spoil the convolutions. Where `network` has batch normalisation behind a
    convolution, or in front of the classes, and `source` has none, mean and variance of what it normalises, on
    `images`, become the normalisation's statistics and its gamma and beta: it then changes nothing at first.

    `network` may be deeper, by residual sums at its end: they start with a gamma of 0, with which they add nothing
    (Goyal et al. 2017, section 5.1), so that a pooling-free network of fewer layers can be gone on from.

    Args:
        network: keras.Model to be trained; its weights are overwritten.
        source: keras.Model with the same convolutions in the same order, or the first of them.
        images: float32 (N, H, W, channels), a sample of photos, prepared for `source`.
        same_classes: bool, the outputs of `source` mean the same as those of `network`.

    Raises:
        UserError: the convolutions differ.
    """
    names = {layer.name for layer in network.layers}
    targets, sources = (
        [layer for layer in one._flatten_layers() if isinstance(layer, (layers.Conv2D, layers.BatchNormalization))]
        for one in (network, source)
    )
    targets = [layer for layer in targets if layer.name[-3:] != "_bn"]
    found, expected = ([tuple(layer.weights[0].shape) for layer in one] for one in (sources, targets))
    shared, more = targets[: len(sources)], targets[len(sources) :]
    sums = [norm for layer, norm in pairwise(more) if adds_to_its_input(layer, norm)]
    if found != expected[: len(found)] or 2 * len(sums) != len(more):
        raise UserError(
            f"the network {source.name!r} to start from has convolutions of another number or shape than "
            f"{network.name!r}; expected the same ones"
        )
    for norm in sums:
        norm.gamma.assign(np.zeros(norm.gamma.shape))
    for target, origin in zip(shared, sources, strict=True):
        weights = origin.get_weights()
        target.set_weights(weights[: len(target.weights)])  # without the bias in front of a normalisation
        if f"{target.name}_bn" in names:
            only_add(network, f"{target.name}_bn", images, weights[1])
    heads = [[layer for layer in one._flatten_layers() if isinstance(layer, layers.Dense)] for one in (network, source)]
    shapes = [[tuple(weight.shape) for layer in head for weight in layer.weights] for head in heads]
    if same_classes and shapes[0] == shapes[1]:
        for target, origin in zip(*heads, strict=True):
            target.set_weights(origin.get_weights())
        if "class_bn" in names:
            only_add(network, "class_bn", images, 0)
    elif "class_bn" not in names:
        first = heads[0][0]
        mean, variance = channel_statistics(keras.Model(network.inputs[0], first.input), images)
        size = np.sqrt((mean**2 + variance).mean())
        kernel, bias = first.get_weights()
        first.set_weights([kernel / max(size, np.finfo(kernel.dtype).tiny), bias])


def adds_to_its_input(layer, norm):
    """Whether two layers in a row are a convolution and the normalisation of a residual sum, see `modern_network`."""
    return isinstance(norm, layers.BatchNormalization) and layer.input.shape[-1] == layer.output.shape[-1]


def only_add(network, name, images, bias):
    """Let a layer of batch normalisation, of that name, do nothing to `images` but add a bias, (K,) or a number."""
    norm = network.get_layer(name)
    mean, variance = channel_statistics(keras.Model(network.inputs[0], norm.input), images)
    norm.set_weights([np.sqrt(variance + norm.epsilon), mean + bias, mean, variance])


def channel_statistics(network, images, batch_size=16):
    """Mean and variance (K,) of each channel of a network's output (N, h, w, K) or (N, K)."""
    starts = range(0, len(images), batch_size)
    outputs = (keras.ops.convert_to_numpy(network(images[start : start + batch_size])) for start in starts)
    pixels = (output.astype(np.float64).reshape(len(output), -1, output.shape[-1]) for output in outputs)
    sums = sum(np.stack((values.mean(1), (values**2).mean(1))).sum(1) for values in pixels)
    mean, square = sums / len(images)
    return mean, square - mean**2
