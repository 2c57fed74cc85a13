"""Supervised attention: one network's maps say where the animal is, and another network learns to look there.

A class's evidence at a place is what Grad-CAM adds up there. A network that is right may still have most of it on grass
or sky; what it is taught here, beside its answers, is to have none where the other network, the locator, has none (as
Li et al. 2018 and Selvaraju et al. 2019 do with people's marks).
"""

import cv2
import keras
import numpy as np
from keras import ops

from camlib.attribution.gradcam import CompiledMaps
from camlib.console import UserError
from camlib.files import file_sha256
from camlib.networks.architectures import per_cell
from camlib.photos.resizing import Cover
from camlib.training.distillation import load_classifier, views_for

CELL = 16  # pixels between the features of VGG-16's last convolution
INSIDE = 0.2  # of a map's largest value: where it is above, the animal is
EPSILON = 1e-6  # added to a sum that may be zero


class Locator:
    """A network whose Grad-CAM says where in a view the animal is.

    Attributes:
        sha256: str, of its file.
        classifier: Classifier, the network.

    Args:
        path, class_names, size, dtype: as for `camlib.training.distillation.load_classifier`.
        batch_size: int, the most views at once; fewer are filled up, so that it is compiled once.

    Raises:
        UserError: as `load_classifier`, or the network has no layer with maps.
    """

    def __init__(self, path, class_names, size, dtype, batch_size):
        self.classifier, self.order = load_classifier("locator", path, class_names, size, dtype)
        self.path, self.sha256, self.batch_size = path, file_sha256(path), batch_size
        layer, structure = self.classifier.layer_to_map(), self.classifier.structure
        if self.classifier.cover_of(layer) != Cover(None, self.classifier.input_spec.shape[:2]):
            raise UserError(
                f"the maps of the locator {path} cover another part of a photo than all of it; expected a network that "
                "sees and maps whole photos, or another --locator-size"
            )
        self.explain = CompiledMaps(self.classifier.network, structure, [(layer, "grad-cam")], with_guided=False)

    def inside(self, views, labels):
        """Where the animal is in each view, for the student's cells.

        Args:
            views: uint8 (N, H, W, 1 or 3), brought to the locator's size and channels here.
            labels: int (N,), their true classes.

        Returns:
            float32 (N, H // CELL, W // CELL, C): 1 of the true class where the map's mean over a cell is above INSIDE
            of the largest one, everywhere in a view in which the locator has no evidence for it, and else 0.

        Raises:
            UserError: the maps are no finite numbers.
        """
        images = views_for(self.classifier.input_spec, views, self.batch_size)
        classes = np.zeros((1, self.batch_size), np.int32)
        known = labels < len(self.order)
        classes[0, : len(labels)][known] = self.order[labels[known]]
        found = self.explain(ops.convert_to_tensor(self.classifier.prepare(images)), ops.convert_to_tensor(classes))
        maps = ops.convert_to_numpy(found.cams[0][0])[: len(views)]
        if not np.isfinite(maps).all():
            raise UserError(
                f"the locator {self.path} maps what is no number; expected --dtype float32, or another file"
            )
        grid = views.shape[2] // CELL, views.shape[1] // CELL
        cells = np.stack([cv2.resize(values, grid, interpolation=cv2.INTER_AREA) for values in maps])
        most = cells.max(axis=(1, 2), keepdims=True)
        own = labels[:, None] == np.arange(len(self.order))  # (N, C), none of a view of none of the classes
        return (((cells > INSIDE * most) | (most <= 0))[..., None] & own[:, None, None]).astype(np.float32)


# ---------------------------------------------------------------- what is learnt from it


def elsewhere(features, hidden, hidden_kernel, class_kernel, inside):
    """The share of the evidence for the classes of a picture that is not on an animal of that class.

    e_c(y, x) = ReLU(sum_k w_ck A_k(y, x)),    w_c = V (u * (W - mean over the classes of W))_c,    u_j = [h_j > 0]

    w_c is the gradient of the class's logit, less the mean logit, with respect to the pooled features, so that e_c is
    Grad-CAM but for the factor 1 / (h w). Less the mean, since a softmax does not see what all logits share: without it
    a network could have evidence for no class at all, and still be right.

    Args:
        features: float (N, h, w, K), A, that are pooled for the hidden layer.
        hidden: float (N, J), h, the hidden layer behind its ReLU.
        hidden_kernel, class_kernel: float (K, J), V, and (J, C), W.
        inside: float (N, h, w, C), 1 on the animals of a class, else 0; of several classes in a mosaic.

    Returns:
        float32 (N,), sum of e_c off c's animals / (sum of e_c + EPSILON), the mean over the classes there are, or 0.
    """
    features, hidden = ops.cast(features, "float32"), ops.cast(hidden > 0, "float32")
    class_kernel = class_kernel - ops.mean(class_kernel, axis=1, keepdims=True)
    weights = ops.matmul(hidden[:, None] * ops.transpose(class_kernel), ops.transpose(hidden_kernel))  # (N, C, K)
    evidence = ops.relu(ops.einsum("nyxk,nck->nyxc", features, weights))
    outside = ops.sum(evidence * (1 - inside), axis=(1, 2))  # (N, C)
    shares, there = outside / (ops.sum(evidence, axis=(1, 2)) + EPSILON), ops.max(inside, axis=(1, 2))
    return ops.sum(shares * there, axis=1) / ops.maximum(ops.sum(there, axis=1), 1)


class MeanShare(keras.losses.Loss):
    """The mean of what `elsewhere` returns: a Loss, so that devices that share a batch do not each add a whole mean."""

    def call(self, _, shares):
        return shares


class Located(keras.Model):
    """A VGG-16 in training that also learns where its evidence belongs: its loss plus the mean of `elsewhere`.

    Its targets are (those of its loss, `Locator.inside`).
    """

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        (targets, inside), (probabilities, features, hidden) = y, y_pred
        loss = super().compute_loss(x, targets, probabilities, sample_weight, training)
        kernels = [self.get_layer(name).kernel for name in ("hidden", "class")]
        shares = elsewhere(features, hidden, *kernels, inside)
        return loss + MeanShare()(shares, shares)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        return super().compute_metrics(x, y[0], y_pred[0], sample_weight)


def located(network, cell):
    """The training form of `camlib.networks.architectures.vgg16_network` as a Located, with the same layers.

    Args:
        network: keras.Model.
        cell: int, side of a mosaic's cell, as of `camlib.networks.architectures.per_cell`.
    """
    pool, hidden = (network.get_layer(name) for name in ("block5_pool", "hidden"))
    of_whole = pool.input, hidden.output  # before the layers are called once more, for each cell
    return Located(network.inputs, [per_cell(network, cell).output, *of_whole])


def centre_classes(network):
    """Take out of the last layer what all classes share, in place: probabilities stay, and Grad-CAM shows the rest."""
    layer = network.get_layer("class")
    kernel, bias = layer.get_weights()
    layer.set_weights([kernel - kernel.mean(axis=1, keepdims=True), bias - bias.mean()])
