"""Knowledge distillation: a network, the teacher, answers for another one to learn from (Hinton et al. 2015)."""

import hashlib
import json
import math
import time
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
from keras import ops

from camlib.attribution.classifier import Classifier, check_outputs
from camlib.attribution.tracing import tapped_run
from camlib.backend import compiled, share
from camlib.console import Progress, UserError, counted, shortened_list
from camlib.files import MOST_PIXELS, DamagedFile, file_sha256, read_arrays, write_arrays
from camlib.networks.checkpoint import load_known_network
from camlib.photos import PhotoError, in_parallel, network_input, read_photo, side_needed
from camlib.preprocessing import probabilities_of

# What the teacher sees of a photo: (top, left, side, mirrored) of a cut-out, as shares of the photo's height and width
VIEWS = (
    (0.0, 0.0, 1.0, False),
    (0.0, 0.0, 1.0, True),
    (0.0, 0.0, 0.8, False),
    (0.0, 0.2, 0.8, True),
    (0.2, 0.0, 0.8, True),
    (0.2, 0.2, 0.8, False),
)
SECONDS_BETWEEN_SAVES = 60
SMALLEST = 1e-30  # of a probability: its logarithm and the gradient of that are still numbers


# ---------------------------------------------------------------- the teacher


def load_classifier(role, path, class_names, size, dtype):
    """Another network that knows the classes of the photos.

    Args:
        role: "teacher" or "locator", for messages.
        path: Path.
        class_names: list of C str, the classes in the student's order.
        size: int, height and width that the user asked for, or None.
        dtype: "float32", "bfloat16" or "float16".

    Returns:
        (Classifier, order): order is int (C,), the place of each of the student's classes among its own.

    Raises:
        UserError: there is no such network, it has other classes, or another size than was asked for.
    """
    network, input_spec = load_known_network(path)
    if input_spec.channels > 3:
        raise UserError(f"the {role} {path} takes bands; expected a network of RGB or grey photos")
    if set(input_spec.class_names) != set(class_names):
        raise UserError(
            f"the {role} {path} knows {shortened_list(input_spec.class_names)}; expected the classes of the photos, "
            f"{shortened_list(class_names)}"
        )
    if size and any(side not in (None, size) for side in network.input_shape[1:3]):
        height, width = network.input_shape[1:3]
        raise UserError(f"--{role}-size {size}: {path} takes {height}x{width} only")
    order = np.array([input_spec.class_names.index(name) for name in class_names], np.int32)
    return Classifier(network, input_spec, path, size=size and (size, size), dtype=dtype), order


class Teacher:
    """A network whose logits are learnt from, in its own size, preprocessing and order of classes.

    Attributes:
        path: Path of its file.
        sha256: str, of its file.
        input_spec: InputSpec of its input.
        dtype: str, what it computes in.

    Args:
        path, class_names, size, dtype: as for `load_classifier`.

    Raises:
        UserError: as `load_classifier`, or the network has no logits to choose one class by.
    """

    def __init__(self, path, class_names, size=None, dtype="float32"):
        self.classifier, self.order = load_classifier("teacher", path, class_names, size, dtype)
        self.path, self.sha256, self.dtype = path, file_sha256(path), dtype
        self.input_spec, structure = self.classifier.input_spec, self.classifier.structure
        if structure.output_activation == "sigmoid":
            raise UserError(
                f"the teacher {path} ends in a sigmoid of each class, which does not choose one of them; expected a "
                "network that ends in softmax"
            )
        forward = tapped_run(self.classifier.network, structure, [])
        self.run = compiled(
            lambda images: [ops.cast(part, "float32") for part in forward(images, None)], self.classifier.network
        )

    def logits(self, images):
        """Logits float32 (N, C), in the student's order of classes, of uint8 (N, H, W, channels) of its input size.

        Raises:
            UserError: they are no finite numbers, or not those behind the network's outputs.
        """
        inputs = ops.convert_to_tensor(self.input_spec.prepare(images))
        logits, outputs = (ops.convert_to_numpy(part) for part in self.run(inputs))
        if not np.isfinite(logits).all():
            raise UserError(
                f"the teacher {self.path} answers what is no number; expected --dtype float32, or another file"
            )
        check_outputs(outputs, logits, self.classifier.structure.output_activation, self.dtype)
        return logits[:, self.order]


# ---------------------------------------------------------------- its answers, once a photo


def views_of(image, input_spec):
    """What the teacher sees of a photo: the whole, its mirror image, and a cut-out at each corner, two mirrored.

    Args:
        image: uint8 (H, W, 3), RGB.
        input_spec: InputSpec of the teacher.

    Returns:
        uint8 (V, height, width, channels) of the teacher's input.
    """
    height, width = image.shape[:2]
    views = []
    for top, left, side, mirrored in VIEWS:
        y, x = round(top * height), round(left * width)
        cut = image[y : y + max(1, round(side * height)), x : x + max(1, round(side * width))]
        views.append(network_input(np.ascontiguousarray(cut[:, ::-1] if mirrored else cut), input_spec))
    return np.stack(views)


def read_views(path, input_spec, most_pixels=MOST_PIXELS):
    """Decode a photo, at reduced scale where that does no harm, and cut the teacher's views out of it."""
    smallest = min(side for _, _, side, _ in VIEWS)
    side = side_needed(input_spec)
    return views_of(read_photo(path, side and math.ceil(side / smallest), most_pixels), input_spec)


def photo_logits(teacher, paths, folder, most_pixels=MOST_PIXELS):
    """The teacher's logits for each photo, asked once and kept, so that the next training reads them.

    Photos and teacher count by content. All views of one photo are one batch, so that an answer depends on nothing else
    and a run that was stopped goes on with the same numbers.

    Args:
        teacher: Teacher.
        paths: list of N Path.
        folder: Path, where the answers are kept.
        most_pixels: int, that may be decoded of a photo.

    Returns:
        float32 (N, V, C), one row for each of VIEWS.

    Raises:
        UserError: a photo can no longer be read.
    """
    size, order = [teacher.input_spec.height, teacher.input_spec.width], teacher.order.tolist()
    key = hashlib.sha256(json.dumps([teacher.sha256, *size, teacher.dtype, order, VIEWS]).encode()).hexdigest()
    kept_in = folder / f"{teacher.path.stem}_answers_{key[:8]}.npz"
    with ThreadPoolExecutor() as pool:
        digests = list(pool.map(file_sha256, paths))
    known = read_answers(kept_in, key)
    left = {digest: path for digest, path in zip(digests, paths, strict=True) if digest not in known}
    if left:
        print(f"the teacher answers {counted(len(left), 'photo')} once, {len(VIEWS)} views each", flush=True)
        saved = time.monotonic()
        try:
            for digest, logits in answered(teacher, left, most_pixels):
                known[digest] = logits
                if time.monotonic() - saved > SECONDS_BETWEEN_SAVES:
                    write_answers(kept_in, key, known)
                    saved = time.monotonic()
        finally:  # on Ctrl-C too: an hour's answers are kept
            write_answers(kept_in, key, known)
    print(f"the teacher's answers to {counted(len(paths), 'photo')} are in {kept_in}", flush=True)
    return np.stack([known[digest] for digest in digests])


def answered(teacher, photos, most_pixels):
    """Yield (digest, logits float32 (V, C)) of photos, a dict of digest -> path, and show how far it is."""
    seen = in_parallel(lambda item: read_views(item[1], teacher.input_spec, most_pixels), photos.items())
    with Progress("the teacher's answers", len(photos)) as progress:
        for (digest, path), views in seen:
            if isinstance(views, PhotoError):
                raise UserError(
                    f"{path} cannot be read ({views}); expected the photo that was there when training began"
                )
            yield digest, teacher.logits(views)
            progress.advance()


def read_answers(path, key):
    """dict of a photo's SHA-256 -> logits float32 (V, C), kept under this key; empty without such a file.

    Those of a damaged file are asked for anew, which is said.
    """
    try:
        found = read_arrays(path)
    except FileNotFoundError:
        return {}
    except DamagedFile as error:
        print(f"{error}: its answers are asked for anew", flush=True)
        return {}
    return dict(zip(found["photos"].tolist(), found["logits"], strict=True)) if str(found["key"]) == key else {}


def write_answers(path, key, known):
    """Write the answers to one whole file, together with those that another training has added meanwhile."""
    known = read_answers(path, key) | known
    if known:
        path.parent.mkdir(parents=True, exist_ok=True)
        logits = np.stack(list(known.values()))  # (N, V, C)
        write_arrays(path, {"key": np.array(key), "photos": np.array(list(known)), "logits": logits})


# ---------------------------------------------------------------- its answers, to each view


def view_logits(teacher, views, batch_size):
    """The teacher's logits for the very cut-outs that the student sees, augmentation included (Beyer et al. 2022).

    Args:
        teacher: Teacher.
        views: uint8 (N, h, w, 1 or 3), brought to the teacher's size and channels here.
        batch_size: int, at least N; fewer views are filled up, so that the teacher is compiled once.

    Returns:
        float32 (N, 1, C), one view of each photo.
    """
    return teacher.logits(views_for(teacher.input_spec, views, batch_size))[: len(views), None]


def views_for(input_spec, views, batch_size):
    """A student's cut-outs in the size and channels of another network, filled up to a whole batch.

    Args:
        input_spec: InputSpec of the other network.
        views: uint8 (N, h, w, 1 or 3).
        batch_size: int, at least N.

    Returns:
        uint8 (batch_size, height, width, channels).
    """
    images = np.zeros((batch_size, input_spec.height, input_spec.width, input_spec.channels), np.uint8)
    for image, view in zip(images, views, strict=False):
        image[:] = network_input(np.repeat(view, 3, axis=2) if view.shape[2] == 1 else view, input_spec)
    return images


# ---------------------------------------------------------------- what is learnt from them


def softened(logits, temperature):
    """softmax(logits / T): float (..., C) -> float32 (..., C)."""
    flat = logits.reshape(-1, logits.shape[-1]) / np.float32(temperature)
    return probabilities_of(flat).reshape(logits.shape).astype(np.float32)


def corrected(answers, labels):
    """Where a teacher's likeliest class is not the true one, the two change places (Wen et al. 2019).

    A teacher of photos may take a drawing for anything; how sure it is, and what it says of the other classes, stays.

    Args:
        answers: float (N, C).
        labels: int (N,).

    Returns:
        (N, C) of the same dtype.
    """
    rows, answers = np.arange(len(labels)), answers.copy()
    said = answers.argmax(axis=1)
    answers[rows, labels], answers[rows, said] = answers[rows, said], answers[rows, labels]
    return answers


class Distillation(keras.losses.Loss):
    """Learn from a teacher's answers and from the true labels (Hinton et al. 2015).

    L = (1 - share) T^2 sum_c q_c log(q_c / p_c) - share sum_c y_c log(P_c)

    P are the student's probabilities, y the label, q the teacher's softened answer, and p = softmax(log(P) / T). Since
    log(P) are the student's logits up to a constant, p is the softmax of its logits / T. T^2 keeps the first part's
    gradient at the size of the second's, whatever T.

    Args:
        temperature: float, T.
        label_share: float, 0 to 1.
    """

    def __init__(self, temperature, label_share):
        super().__init__(name="distillation")
        self.temperature, self.label_share = temperature, label_share

    def call(self, targets, probabilities):
        """Targets (..., 2 C), labels first, and probabilities (..., C) -> (...)."""
        labels, answers = ops.split(targets, 2, axis=-1)  # (..., C) each
        logs = ops.log(ops.maximum(probabilities, SMALLEST))
        surprise = ops.log(ops.maximum(answers, SMALLEST)) - ops.log_softmax(logs / self.temperature, axis=-1)
        divergence = ops.sum(answers * surprise, axis=-1)
        cross_entropy = -ops.sum(labels * logs, axis=-1)
        return (1 - self.label_share) * self.temperature**2 * divergence + self.label_share * cross_entropy


def label_metrics(class_count):
    """Top-1 and binary accuracy of the true labels, which are the first of targets (..., C) or (..., 2 C)."""
    return [
        keras.metrics.MeanMetricWrapper(
            lambda targets, probabilities, measure=measure: measure(targets[..., :class_count], probabilities), name
        )
        for name, measure in (
            ("top1", keras.metrics.categorical_accuracy),
            ("binary_accuracy", keras.metrics.binary_accuracy),
        )
    ]


class Lesson:
    """What is learnt from a teacher: its softened answers, and the loss.

    Attributes:
        loss: Distillation.

    Args:
        logits_of: function of (chosen, views) -> the teacher's logits float32 (N, V, C), see `answers`.
        temperature, label_share: float, see `Distillation`.
    """

    def __init__(self, logits_of, temperature, label_share):
        self.logits_of, self.loss = logits_of, Distillation(temperature, label_share)

    def answers(self, chosen, views, labels):
        """The mean over views of a photo of the teacher's softened probabilities, corrected by the labels.

        Of a photo of none of the classes, whose label is C, all are the same.

        Args:
            chosen: int (N,), indices of training photos.
            views: uint8 (N, h, w, channels), what the student sees of them.
            labels: int (N,), their true classes.

        Returns:
            float32 (N, C).
        """
        answers = softened(self.logits_of(chosen, views), self.loss.temperature).mean(axis=1)
        known = labels < answers.shape[1]
        answers[known], answers[~known] = corrected(answers[known], labels[known]), 1 / answers.shape[1]
        return answers


def prepare_lesson(args, materials):
    """The Lesson that the user asked for; what is asked once is asked here, which takes time.

    Args:
        args: the user's.
        materials: `camlib.training.fitting.Materials`, with a teacher.
    """
    teacher, recipe = materials.teacher, materials.recipe
    unreadable = {path for path, _ in materials.failed}  # photos that the student does not get to see
    paths = [photo.path for photo, _ in materials.found["train"] if str(photo.path) not in unreadable]
    if args.teacher_sees == "photos":
        kept = photo_logits(teacher, paths, args.output.parent, args.most_pixels)
        return Lesson(lambda chosen, _: kept[chosen], args.temperature, args.label_share)
    size = math.ceil(recipe.batch_size / share().hosts)  # each host asks its own teacher about its part of a batch
    view = np.zeros((1, recipe.cut, recipe.cut, materials.input_spec.channels), np.uint8)
    view_logits(teacher, view, size)  # compiled here and not while the student is, which another thread does meanwhile
    print(f"the teacher answers each of the {counted(len(paths), 'view')} of an epoch", flush=True)
    return Lesson(lambda _, views: view_logits(teacher, views, size), args.temperature, args.label_share)
