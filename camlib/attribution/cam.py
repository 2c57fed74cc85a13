"""Class activation maps (Zhou et al. 2016): where each class's score comes from, read off the last features."""

from collections.abc import Sequence
from os import PathLike

import numpy as np
from keras import activations, layers, ops

from camlib.attribution import ExplainedBatch, Outputs
from camlib.attribution.classifier import Classifier
from camlib.attribution.inspection import both_sides, check_axes, check_place
from camlib.attribution.tracing import trace_calls
from camlib.backend import compiled, traced, widened
from camlib.console import UserError
from camlib.memory import halving

OUTPUT_ACTIVATIONS = (activations.linear, activations.softmax, activations.sigmoid)  # of the Dense layer
ANY_SIDE = 224  # pixels, to look at networks that take every size; nothing is computed then


def class_activation_maps(features, class_weights):
    """Weigh the last features into one signed map per class (Zhou et al. 2016, eq. 2).

    M_c(y, x) = sum_k w_kc f_k(y, x). No ReLU and no scaling: mean(M_c) plus the Dense bias is the class's logit.

    Args:
        features: float (N, H, W, K), the last convolution after its ReLU.
        class_weights: float (K, C), kernel of the Dense layer behind global average pooling.

    Returns:
        float (N, C, H, W), logit units; float32, or float64 as the features.

    Raises:
        ValueError: the two K differ; the message gives both shapes.
    """
    if features.shape[-1] != class_weights.shape[0]:
        raise ValueError(f"features {tuple(features.shape)} and weights {tuple(class_weights.shape)} differ in K")
    features = widened(features)
    class_weights = ops.cast(class_weights, features.dtype)
    return ops.einsum("nhwk,kc->nchw", features, class_weights)


class CAM:
    """The class activation maps of a classifier, compiled once.

    Attributes:
        classifier: Classifier.
        input_spec: InputSpec of its input.
        cover: Cover of each photo by the maps.

    Args:
        classifier: Classifier whose scores come from one Dense layer right behind global average pooling.

    Raises:
        UserError: it has no such layers, or the axes of its last features are not the photo's.
    """

    kinds = {"heatmap": True}  # kind of map -> whether it has two signs
    titles, made = {}, None  # a run writes no panels
    conventions = (
        "heatmap_for_<class>.npy: float32 (H, W) of the last features, M_c(y, x) = sum_k w_kc f_k(y, x), signed, in "
        "logit units: its mean plus the class's bias is logit_<class>. Pictures: one colour scale per photo, blue "
        "below zero, black at zero, red to yellow above; over the photo its end is the photo's largest positive value."
    )

    def __init__(self, classifier: Classifier) -> None:
        self.classifier, self.input_spec = classifier, classifier.input_spec
        network, structure = classifier.network, classifier.structure
        classifier.layer_to_map()
        _, _, place = pooled_classifier(network)
        check_axes(network, structure, place, self.input_spec, asked=False)
        check_place(network, structure, place, self.input_spec)
        self.cover = classifier.cover_of(place)
        self.run = cam_function(network, structure.two_sided)
        self.run_batch = halving(self.run_portion, axes=(0, 0))

    @classmethod
    def load(cls, source: str | PathLike, options: dict) -> "CAM":
        """The CAM of a network in a file, see `Classifier.load`; options is a dict."""
        return cls(Classifier.load(source, **options))

    def __call__(self, photos: Sequence | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Map where each class's score comes from.

        Args:
            photos: N photos, see `camlib.photos.as_photos`.

        Returns:
            (maps, logits): float32 (N, C, H, W) in logit units, signed, and float32 (N, C). A photo with a number that
            is not finite has NaN for logits. Both are float64 where the network computes so.
        """
        images = self.classifier.inputs(photos)
        return self.run_batch(images, len(images))

    def explain(self, images, count):
        """The maps of a batch, for a run.

        Args:
            images: uint8 (N, H, W, channels), of the network's input size.
            count: int, how many of them matter.

        Returns:
            ExplainedBatch.
        """
        maps, logits = self.run_batch(images, count)
        names = self.input_spec.class_names
        of_photos = [{"heatmap": dict(zip(names, of_classes, strict=True))} for of_classes in maps]
        return ExplainedBatch(logits, self.classifier.probabilities(logits), of_photos, [{} for _ in maps])

    @property
    def outputs(self):
        """The Outputs that a run has of each photo."""
        return Outputs(self.input_spec.class_names, self.classifier.has_probabilities)

    def run_portion(self, images, count):
        """(maps, logits) of uint8 (N, H, W, channels) as NumPy arrays."""
        maps, logits, outputs = map(ops.convert_to_numpy, self.run(self.classifier.prepare(images)))
        return maps, self.classifier.checked_logits(outputs, logits)


# ---------------------------------------------------------------- what the maps are read off


def cam_function(network, two_sided=False):
    """Compile one forward pass that gives every class's map.

    Args:
        network: keras.Model in which `pooled_classifier` finds the layers that CAM needs.
        two_sided: bool, its single unit stands for two classes, as for `both_sides`.

    Returns:
        function of float32 (N, H, W, channels) -> (maps (N, C, H, W), logits (N, C), outputs). The outputs are the
        network's own, to be checked against the logits.
    """

    def maps_of(images):
        outputs, pooling, dense, *_ = pooled_scores(network, images)
        weights, bias = dense.layer.kernel, dense.layer.bias if dense.layer.use_bias else None
        if two_sided:
            weights, bias = both_sides(weights), None if bias is None else both_sides(bias)
        maps = class_activation_maps(pooling.input, weights)
        logits = ops.mean(maps, axis=(2, 3))  # (N, C)
        return maps, logits if bias is None else logits + bias, outputs

    return compiled(maps_of, network)


def pooled_classifier(network):
    """Find the global average pooling and the Dense layer that a network's scores come from.

    Args:
        network: keras.Model.

    Returns:
        (pooling, dense, place): keras layers, and the path of what the first pools; None where no layer made that.

    Raises:
        UserError: there are none, so that CAM does not apply.
    """
    seen = []

    def look(images):
        seen.append(pooled_scores(network, images))
        return seen[-1][0]

    height, width, channels = (*network.input_shape[1:], 1)[:3]  # grey photos may have no axis of channels
    traced(look, (1, height or ANY_SIDE, width or ANY_SIDE, channels))
    _, pooling, dense, before, place = seen[-1]
    if pooling is None:
        where = f"layer {dense.path!r} makes them from {before!r}" if dense else "no Dense layer makes them"
        raise UserError(
            f"the network {network.name!r} has no Dense layer right behind global average pooling that makes its "
            f"scores ({where}), so CAM does not apply; use python gradcam_vgg16.py"
        )
    return pooling.layer, dense.layer, place


def pooled_scores(network, images):
    """Run a network, and see what makes its scores.

    Dropout or Flatten, which compute nothing, may stand between pooling and Dense layer.

    Args:
        network: keras.Model.
        images: float32 (N, H, W, channels).

    Returns:
        (outputs, pooling, dense, before, place): the network's own output (N, C), the LayerCall of the global average
        pooling, that of the Dense layer which makes the scores from its means, the path of the layer in front of the
        Dense layer, and that of the layer in front of the pooling. What is missing is None.
    """
    with trace_calls() as trace:
        outputs = network(images, training=False)
    last = trace.output_activation(outputs)
    # behind Dense(activation="softmax") there is one of the two only
    scores = [last.activations[0].input, outputs] if last and len(last.activations) == 1 else [outputs]
    dense = next(filter(None, (trace.maker_of(tensor, layers.Dense) for tensor in scores)), None)
    if dense is None or dense.layer.activation not in OUTPUT_ACTIVATIONS:
        return outputs, None, None, None, None
    before = next((call.path for call in trace.calls if call.output is dense.input), "the photo")
    pooling = trace.maker_of(dense.input, layers.GlobalAveragePooling2D)
    place = pooling and next((call.path for call in trace.calls if call.output is pooling.input), None)
    return outputs, pooling, dense, before, place
