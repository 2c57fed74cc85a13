"""The CAM family: one map (N, h, w) from a layer's features A and what is known of the score Y_c.

All methods weigh the features, A_k, and add them up over k; Grad-CAM itself is in gradcam.py. The weights differ: they
are made from the gradients g = dY_c/dA, from how the score rises when the photo is seen through one feature alone
(Score-CAM), or from how it falls without it (Ablation-CAM). `METHODS` of camlib/attribution/__init__.py lists the
methods by the name that --method takes.

Shapes: features and gradients float (N, h, w, K); scores float (N, K); every map (N, h, w) of the features' dtype,
float32 or float64. Y_c is the logit.
"""

import numpy as np
from keras import ops

from camlib.backend import widened

CHANGED_AT_ONCE = 32  # photos per forward pass of Score-CAM and Ablation-CAM
CLASSES_AT_ONCE = 8  # per forward pass: each takes its own part of the compiled program

# ---------------------------------------------------------------- the score


def score_of_targets(logits, targets):
    """The score Y of a class, or of several taken together, and its gradient with respect to the logits.

    Y = log sum over the target's classes of exp(logit_c). Of one class that is its logit. Of several ("dog" for the
    breeds of ImageNet) it is the logit that belongs to the sum of their probabilities.

    Args:
        logits: float32 (..., C).
        targets: bool (..., C), the target's classes.

    Returns:
        (Y (...), dY/dlogits (..., C)), float32.
    """
    logits = ops.where(targets, logits, -np.inf)
    return ops.logsumexp(logits, axis=-1), ops.softmax(logits, axis=-1)


def targets_of(chosen, class_count, groups=()):
    """Which of the C classes are meant by a class, or by a group of classes: int (N,) -> bool (N, C).

    Args:
        chosen: int (N,), groups numbered from C on.
        class_count: int, C.
        groups: list of lists of class indices.
    """
    targets = chosen[:, None] == np.arange(class_count, dtype=np.int32)
    for number, group in enumerate(groups, start=class_count):
        targets = targets | ((chosen[:, None] == number) & np.isin(np.arange(class_count), group))
    return targets


class ExplainedScore:
    """The score Y that is explained: of a class or a group of classes, or for a contrast the difference Y_c - Y_o.

    Args:
        class_count: int, C.
        groups: list of lists of class indices, numbered from C on.
        contrast: int, o, the class or group whose score is subtracted; None for none.
    """

    def __init__(self, class_count, groups=(), contrast=None):
        self.class_count, self.groups, self.contrast = class_count, groups, contrast

    def __call__(self, logits, chosen):
        """(Y float32 (N, ...), dY/dlogits float32 (N, ..., C)) of logits (N, ..., C) for classes c, int (N,)."""
        score, u = self.of_class(logits, chosen)
        if self.contrast is not None:
            other, u_other = self.of_class(logits, np.array([self.contrast], np.int32))
            score, u = score - other, u - u_other
        return score, u

    def of_class(self, logits, chosen):
        """As a call, without the contrast."""
        targets = targets_of(chosen, self.class_count, self.groups)  # (N, C)
        return score_of_targets(logits, ops.reshape(targets, (-1, *[1] * (len(logits.shape) - 2), self.class_count)))


# ---------------------------------------------------------------- from gradients


def weighed(features, weights):
    """sum_k w_k A_k: features (N, h, w, K), weights (N, K) -> (N, h, w)."""
    return ops.einsum("nhwk,nk->nhw", features, weights)


def grad_cam_plus_plus(features, gradients):
    """Grad-CAM++: ReLU(sum_k w_k A_k), w_k = sum over y, x of a_k ReLU(g_k) (Chattopadhay et al. 2018, eq. 5, 19).

    a_k(y, x) = g_k(y, x)^2 / (2 g_k(y, x)^2 + S_k g_k(y, x)^3), S_k the sum of A_k, and 0 where g_k(y, x) is 0. The
    paper's score is exp(Y_c); the factor exp(Y_c) that this gives every w_k is left out, since it is one number for a
    whole map and overflows for large logits.
    """
    total = ops.sum(features, axis=(1, 2), keepdims=True)  # (N, 1, 1, K)
    denominator = 2 * gradients**2 + total * gradients**3
    safe = ops.where(denominator == 0, ops.ones_like(denominator), denominator)
    a = gradients**2 / safe
    return ops.relu(weighed(features, ops.sum(a * ops.relu(gradients), axis=(1, 2))))


def hires_cam(features, gradients):
    """HiResCAM: sum_k g_k A_k, element by element and signed (Draelos and Carin 2020, eq. 4).

    On a network that ends in convolution, flattening and one Dense layer its sum plus the bias is the logit.
    """
    return ops.sum(features * gradients, axis=-1)


def layer_cam(features, gradients):
    """LayerCAM: ReLU(sum_k ReLU(g_k) A_k), element by element (Jiang et al. 2021, eq. 7 and 8)."""
    return ops.relu(ops.sum(ops.relu(gradients) * features, axis=-1))


def xgrad_cam(features, gradients):
    """XGrad-CAM: ReLU(sum_k w_k A_k), w_k = sum over y, x of (A_k / sum of A_k) g_k (Fu et al. 2020, eq. 8).

    The weight of a feature whose sum is 0 is 0.
    """
    total = ops.sum(features, axis=(1, 2))  # (N, K)
    safe = ops.where(total == 0, ops.ones_like(total), total)
    weights = ops.sum(features * gradients, axis=(1, 2)) / safe
    return ops.relu(weighed(features, ops.where(total == 0, ops.zeros_like(total), weights)))


def element_wise(features, gradients):
    """Element-wise Grad-CAM: sum_k ReLU(g_k A_k), HiResCAM without its negative terms (Gildenblat et al. 2021)."""
    return ops.sum(ops.relu(features * gradients), axis=-1)


def eigen_grad_cam(features, gradients):
    """Eigen-Grad-CAM: the first principal component of g A, element by element (Gildenblat et al. 2021).

    (B - mean B) v, B = g A as (h w, K) matrix, v the first right singular vector of B - mean B, the mean over its rows.
    The vector's sign is arbitrary: the one is taken that agrees with HiResCAM, sum_k g_k A_k.
    """
    products = features * gradients
    cam = first_component(products - ops.mean(products, axis=(1, 2), keepdims=True))
    agreement = ops.sum(cam * ops.sum(products, axis=-1), axis=(1, 2), keepdims=True)
    return ops.where(agreement < 0, -cam, cam)


def gradient_maps(seen, u, images, maps, counterfactual=False):
    """The maps of several layers and methods: the features A of a layer, weighed by the score's gradients; and others.

    The counterfactual map takes the gradients with the other sign (Selvaraju et al. 2017, section 3.3).

    Args:
        seen: ForwardPass.
        u: float32 (N, C), dY/dlogits.
        images: float32 (N, H, W, channels), the network's input.
        maps: list of (layer, Method).
        counterfactual: bool, map what speaks against the class.

    Returns:
        list of maps float32 (N, h, w), or (N, H, W, channels) of gradients with respect to the photo; None for methods
        that look at changed photos.
    """
    gradients = seen.gradients_at_features(u) if any(method.needs == "gradients" for _, method in maps) else {}
    cams = []
    for layer, method in maps:
        if method.needs == "gradients":
            g = -gradients[layer] if counterfactual else gradients[layer]
            cams.append(method.function(seen.features[layer], g))  # (N, h, w)
        elif method.needs == "photo gradients":
            cams.append(method.function(seen, u, images))  # (N, H, W, channels)
        else:
            cams.append(method.function(seen.features[layer]) if method.needs == "nothing" else None)
    return cams


# ---------------------------------------------------------------- from features alone


def first_component(features):
    """A v (N, h, w), v the first right singular vector of A (N, h, w, K) as (h w, K) matrix; its sign is arbitrary."""
    count, height, width, channels = ops.shape(features)
    matrix = ops.reshape(features, (count, height * width, channels))  # (N, h w, K)
    if height * width < channels:  # A v = sigma u: the smaller of both matrices of products will do
        values, vectors = ops.linalg.eigh(ops.einsum("npk,nqk->npq", matrix, matrix))  # eigenvalues rise
        sigma = ops.sqrt(ops.maximum(values[:, -1:], 0))
        return ops.reshape(sigma * vectors[..., -1], (count, height, width))
    _, vectors = ops.linalg.eigh(ops.einsum("npk,npl->nkl", matrix, matrix))
    return weighed(features, vectors[..., -1])


def eigen_cam(features):
    """Eigen-CAM: A v, v the first right singular vector of A as (h w, K) matrix; no class (Muhammad and Yeasin 2020).

    A singular vector's sign is arbitrary: the one is taken whose map has a positive sum.
    """
    cam = first_component(features)
    return ops.where(ops.sum(cam, axis=(1, 2), keepdims=True) < 0, -cam, cam)


# ---------------------------------------------------------------- from the scores of changed photos or features


def enlarged(maps, height, width, extent=None):
    """Maps (N, h, w, K) as (N, height, width, K): bilinear, half-pixel centres (cv2.INTER_LINEAR), in their own dtype.

    They cover the part `extent` of it, see `Structure.extent_of`; beyond that their border goes on, see `covered`.
    `keras.ops.image.resize` computes in float32, and along axes that the user's settings choose.
    """
    top, left, bottom, right = extent or (0.0, 0.0, 1.0, 1.0)
    for axis, size, begin, end in ((1, height, top, bottom), (2, width, left, right)):
        side = maps.shape[axis]
        places = (np.arange(size) + 0.5 - begin * size) * side / ((end - begin) * size) - 0.5
        places = np.clip(places, 0, side - 1)
        lower = np.floor(places).astype(np.int32)
        before, after = (ops.take(maps, rows, axis=axis) for rows in (lower, np.minimum(lower + 1, side - 1)))
        share = ops.cast((places - lower).reshape((-1, 1, 1) if axis == 1 else (-1, 1)), maps.dtype)
        maps = before + share * (after - before)
    return maps


def covered(extent, height, width):
    """Which pixels of (height, width) have their middle in an extent: float32 (height, width, 1), 1 or 0."""
    top, left, bottom, right = extent
    rows, columns = (np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width
    inside = ((rows >= top) & (rows <= bottom))[:, None] & ((columns >= left) & (columns <= right))
    return inside[..., None].astype(np.float32)


def score_cam_masks(features, height, width, extent=None):
    """Each feature as a mask over the photo: enlarged bilinearly, then from 0 at its least to 1 at its largest value.

    A feature that is the same everywhere gives a mask of zeros; so has each what its layer does not cover.

    Returns:
        float (N, height, width, K).
    """
    masks = enlarged(features, height, width, extent)
    least, largest = ops.min(masks, axis=(1, 2), keepdims=True), ops.max(masks, axis=(1, 2), keepdims=True)
    spread = largest - least
    masks = (masks - least) / ops.where(spread == 0, ops.ones_like(spread), spread)
    return masks if extent is None else masks * ops.cast(covered(extent, height, width), masks.dtype)


def score_cam(features, scores, score):
    """Score-CAM: ReLU(sum_k w_k A_k), w = softmax over k of the scores (Wang et al. 2020, eq. 5 to 7, algorithm 1).

    Args:
        features: float (N, h, w, K).
        scores: float (N, K), Y_c of the photo times `score_cam_masks`' k-th mask.
        score: float (N,), Y_c that is subtracted. The paper takes that of a black photo; the softmax cancels any.
    """
    return ops.relu(weighed(features, ops.softmax(scores - score[:, None], axis=-1)))


def ablation_cam(features, scores, score):
    """Ablation-CAM: ReLU(sum_k w_k A_k), w_k = (Y_c - Y_c without A_k) / Y_c (Ramaswamy et al. 2020, eq. 5 and 6).

    Args:
        features: float (N, h, w, K).
        scores: float (N, K), Y_c when the k-th feature is set to zero.
        score: float (N,), Y_c. The paper takes it as positive. Here its magnitude is the divisor: if the score falls
            without a feature, the feature counts for the class, whatever the score's sign.
    """
    scale = ops.where(score == 0, ops.ones_like(score), ops.abs(score))
    return ops.relu(weighed(features, (score[:, None] - scores) / scale[:, None]))


def score_map(method, features, changed, logits, score_of):
    """Score-CAM and Ablation-CAM: the features weighed by how the score changes with each of them.

    Args:
        method: Method.
        features: float32 (N, h, w, K).
        changed: float32 (N, K, C), the logits of the photo seen through, or without, the k-th feature.
        logits: float32 (N, C), of the photos.
        score_of: function of logits (N, ..., C) -> scores Y (N, ...).

    Returns:
        float32 (N, h, w).
    """
    return method.function(features, score_of(changed), score_of(logits))


# ---------------------------------------------------------------- photos and features that are changed


def ablated_run(run, structure, layer):
    """The function of (images, features, kept) -> logits of a network whose layer puts out these features, some zero.

    Args:
        run: as `tapped_run` makes it.
        structure: Structure.
        layer: str, path of the layer.
    """

    def logits_of(images, features, kept):
        def without(path, a):
            if path != layer:
                return a
            if path in structure.tokens:  # whose class token is no part of the features
                return a * ops.cast(kept[:, 0], a.dtype)
            return ops.cast(features * kept, a.dtype)

        return run(images, without)[0]

    return logits_of


def logits_through_masks(logits_of, image, features, extent=None):
    """The logits of a photo seen through one feature at a time, for Score-CAM.

    Args:
        logits_of: function, (N, H, W, channels) -> (N, C).
        image: float32 (H, W, channels), the network's input; zero is what a mask hides.
        features: float32 (h, w, K).
        extent: the part of the photo that they cover, see `Structure.extent_of`.

    Returns:
        float32 (K, C).
    """
    masks = score_cam_masks(features[None], *image.shape[:2], extent)[0]  # (H, W, K)
    masks = ops.moveaxis(masks, -1, 0)[..., None]  # (K, H, W, 1)
    return in_chunks(lambda chosen: logits_of(image * ops.take(masks, chosen, axis=0)), len(masks))


def logits_without_features(logits_behind, image, features):
    """The logits of a photo with one feature set to zero at a time, for Ablation-CAM.

    Args:
        logits_behind: function of (images (N, H, W, channels), features (1, h, w, K), kept (N, 1, 1, K)) -> (N, C).
        image: float32 (H, W, channels), the network's input.
        features: float32 (h, w, K).

    Returns:
        float32 (K, C).
    """
    channels = features.shape[-1]
    images, features = ops.repeat(image[None], CHANGED_AT_ONCE, axis=0), features[None]

    def logits_without(chosen):
        kept = 1 - ops.one_hot(chosen, channels, dtype=features.dtype)[:, None, None]  # (CHANGED_AT_ONCE, 1, 1, K)
        return logits_behind(images, features, kept)

    return in_chunks(logits_without, channels)


def in_chunks(function, count):
    """Apply function((CHANGED_AT_ONCE,) indices) -> (CHANGED_AT_ONCE, C) to 0 .. count - 1: float32 (count, C)."""
    starts = range(0, count, CHANGED_AT_ONCE)
    chosen = [np.minimum(np.arange(start, start + CHANGED_AT_ONCE), count - 1) for start in starts]
    return widened(ops.concatenate([function(indices) for indices in chosen])[:count])
