"""Training batches that follow from the seed, the epoch and their number alone: augmentation, mosaics, weights."""

import contextlib
import functools
import os
from concurrent.futures import ThreadPoolExecutor

import cv2
import keras
import numpy as np

from camlib.backend import ALONE
from camlib.console import UserError

SMALLER = 1.5  # the most that photos are seen smaller in mosaics: two animals in one photo are smaller than one
BATCHES_AHEAD = min(8, os.cpu_count() or 1)  # batches that are made meanwhile, each in a thread of its own


def draw_view(height, width, crop, generator, smaller=1.0, margin=0):
    """Draw how a photo is seen: place, scale, rotation, mirror image, and the colours' strength.

    Args:
        height, width: int, of the photo.
        crop: int, side of the view.
        generator: numpy.random.Generator, the only source of chance.
        smaller: float, the most that the photo is seen smaller than usual.
        margin: int, pixels of the photo beside the view, on each side, that are seen too.

    Returns:
        (where float (2, 3), saturation, contrast, brightness), for `seen`.
    """
    whole = height / crop  # source pixels per output pixel at which the whole photo is seen
    zoom = np.exp(generator.uniform(np.log(0.6), np.log(1.25 * smaller))) * whole
    angle = np.deg2rad(generator.uniform(-15, 15))
    mirror = generator.choice((-1, 1))
    room = np.maximum(np.array((width, height)) - zoom * crop, 0.1 * width) / 2
    centre = np.array((width, height)) / 2 + generator.uniform(-room, room)
    rotation = zoom * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * (mirror, 1)
    shift = centre - 0.5 - rotation @ np.full(2, (crop - 1) / 2 + margin)
    where = np.column_stack((rotation, shift))
    return where, generator.uniform(0.5, 1.4), generator.uniform(0.7, 1.4), generator.uniform(-30, 30)


def seen(image, crop, where, saturation, contrast, brightness):
    """A view that was drawn, of a photo: uint8 (H, W, C) -> uint8 (crop, crop, C)."""
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    view = cv2.warpAffine(image, where, (crop, crop), flags=flags, borderMode=cv2.BORDER_REFLECT_101)
    view = view.reshape(crop, crop, image.shape[2]).astype(np.float32)
    grey = view.mean(axis=2, keepdims=True)
    view = grey + (view - grey) * saturation
    view = view.mean() + (view - view.mean()) * contrast + brightness
    return np.clip(view, 0, 255).astype(np.uint8)


def class_weights(labels, class_count):
    """Weights float (C + 1,) inverse to each class's number of photos, one on average over the photos, and for others.

    A photo of none of the classes, whose label is C, weighs one.
    """
    counts = np.bincount(labels, minlength=class_count + 1)[:class_count]
    return np.append(counts.sum() / (class_count * np.maximum(counts, 1)), 1)


def mosaics(images, margin=0, soft=0.5):
    """Lay views out in mosaics of four, in reading order, each fading into the ones beside it.

    Args:
        images: uint8 (4 N, s + 2 m, s + 2 m, C), views with a margin of m pixels; or whole numbers of another dtype.
        margin: int, m.
        soft: float, half the width in pixels over which they fade, at most m; below 1 the border is a line.

    Returns:
        (N, 2 s, 2 s, C) of the same dtype.
    """
    count, side = len(images) // 4, images.shape[1] - 2 * margin
    tiles = images.reshape(count, 2, 2, *images.shape[1:])
    reach = np.arange(side + margin) + 0.5 - side  # pixels behind the border
    fading = np.clip(0.5 - reach / (2 * max(soft, 0.5)), 0, 1).astype(np.float32)
    laid = np.zeros((count, 2 * side, 2 * side, images.shape[3]), np.float32)
    # of the first tile along an axis, and of the second: where it lies, which of its pixels, and how much of them
    parts = (
        (slice(0, side + margin), slice(margin, None), fading),
        (slice(side - margin, None), slice(0, side + margin), fading[::-1]),
    )
    for row, (y, from_row, of_row) in enumerate(parts):
        for column, (x, from_column, of_column) in enumerate(parts):
            laid[:, y, x] += tiles[:, row, column, from_row, from_column] * np.outer(of_row, of_column)[:, :, None]
    return np.rint(laid).astype(images.dtype)


@functools.lru_cache(maxsize=2)  # threads may be in two epochs
def shuffled(seed, epoch, count):
    """The order of the photos in an epoch, int (N,)."""
    return np.random.default_rng([seed, epoch]).permutation(count)


def multiple(count, devices):
    """The least multiple of the number of devices that is not below a count."""
    return -(-count // devices) * devices


class MadeAhead(keras.utils.PyDataset):
    """Batches that are made ahead: the next few in threads while one is worked on, so that a GPU does not wait.

    Which batch is made depends on (epoch, number) alone, and they are handed out in the order they are asked for.

    Attributes:
        epoch: int, from 0; whoever counts epochs sets it before the first batch of each.
    """

    def __init__(self):
        super().__init__()
        self.epoch, self.waiting, self.failure = 0, {}, None
        self.pool = ThreadPoolExecutor(BATCHES_AHEAD)

    def make(self, epoch, number):
        """The batch of that number in an epoch; called in several threads at once."""
        raise NotImplementedError

    def __getitem__(self, number):
        wanted = [(self.epoch, later) for later in range(number, min(number + 1 + BATCHES_AHEAD, len(self)))]
        self.waiting = {key: self.waiting.get(key) or self.pool.submit(self.make, *key) for key in wanted}
        try:
            return self.waiting.pop(wanted[0]).result()
        except UserError as error:
            self.failure = self.failure or error  # TensorFlow asks for a batch more
            raise

    @contextlib.contextmanager
    def own_errors(self):
        """Let a UserError of a batch leave this context as it is: TensorFlow makes another error of it."""
        try:
            yield
        except Exception as error:
            raise (self.failure or error) from None


class PlainBatches(MadeAhead):
    """Photos as they are, in their own order: (images float32 (N, H, W, channels), one-hot labels float32 (N, C)).

    Where several devices share a batch, the last one is filled up to their multiple with photos of weight 0, and
    weights (N,) come third.

    Args:
        photos: LabelledPhotos.
        input_spec: InputSpec.
        batch_size: int.
        share: Share, whose part is made here.
    """

    def __init__(self, photos, input_spec, batch_size, share=ALONE):
        super().__init__()
        self.photos, self.input_spec, self.share = photos, input_spec, share
        self.batch_size = multiple(batch_size, share.devices)
        self.class_count = len(input_spec.class_names)

    def __len__(self):
        return -(-len(self.photos.labels) // self.batch_size)

    @property
    def filled_up(self):
        """The photos in all batches, those of weight 0 included, for each that there is; what a mean loss misses."""
        count = len(self.photos.labels)
        return multiple(count, self.share.devices) / count

    def make(self, epoch, number):
        last = len(self.photos.labels) - 1
        end = min((number + 1) * self.batch_size, multiple(last + 1, self.share.devices))
        rows = self.share.own(np.arange(number * self.batch_size, end))
        chosen = np.minimum(rows, last)
        targets = one_hot(self.photos.labels[chosen], self.class_count)
        batch = self.input_spec.prepare(self.photos.images[chosen]), targets
        return batch if self.share.devices == 1 else (*batch, (rows <= last).astype(np.float32))


def one_hot(labels, class_count):
    """int (N,) -> float32 (N, C); zeros for a label C."""
    return (labels[:, None] == np.arange(class_count)).astype(np.float32)


def answers_wanted(labels, class_count, recipe):
    """What a network should answer: float32 (N, C), one-hot; to a photo of none of the classes, of label C, evenly.

    Outlier exposure (Hendrycks et al. 2019, section 3). Where each class has an output of its own, all are 0.
    """
    targets = one_hot(labels, class_count)
    if recipe.loss == "categorical_crossentropy":
        targets[labels == class_count] = 1 / class_count
    return targets


class Batches(MadeAhead):
    """Training batches that depend on (seed, epoch, number) alone, so that a resumed run sees the same ones.

    Each is (images (N, H, W, channels), one-hot labels, weights), the last two (N, C) and (N,), or (N, g, g, C) and
    (N, g, g) for a recipe with mosaics, g cells a side. With a Lesson the teacher's answers follow
    the labels, (..., 2 C); each cell has the answer of its own photo. With a `camlib.training.attention.Locator` the
    targets are (these, where the animals of each class are, float32 (N, h, w, C)).

    Of a batch that several devices share, a host makes its own part only. The last one of an epoch is shortened to
    their multiple: the photos that are left over differ from epoch to epoch.

    Raises:
        UserError: the devices cannot share the recipe's batches, or there are too few photos.
    """

    def __init__(self, photos, input_spec, recipe, seed, lesson=None, share=ALONE, locator=None):
        super().__init__()
        self.share, self.locator = share, locator
        least = share.devices * (4 if recipe.cut else 1)
        if share.devices > 1 and (recipe.batch_size % least or len(photos.labels) < share.devices):
            raise UserError(
                f"{share.devices} devices cannot share batches of {recipe.batch_size} of {len(photos.labels):,} photos "
                f"in equal parts; expected --batch-size {multiple(recipe.batch_size, least)}, and a photo for each"
            )
        self.photos, self.input_spec, self.recipe, self.seed, self.lesson = photos, input_spec, recipe, seed, lesson
        self.class_count = len(input_spec.class_names)
        weights = class_weights(photos.labels, self.class_count) if recipe.balanced else np.ones(self.class_count + 1)
        self.weights = weights.astype(np.float32)

    def __len__(self):
        whole, rest = divmod(len(self.photos.labels), self.recipe.batch_size)
        return whole + (rest >= self.share.devices)

    def make(self, epoch, number):
        size = self.recipe.batch_size
        chosen = shuffled(self.seed, epoch, len(self.photos.labels))[number * size : (number + 1) * size]
        chosen = chosen[: len(chosen) - len(chosen) % self.share.devices]
        crop = self.recipe.cut
        mosaic = bool(crop) and number % 2 == 0 and len(chosen) % (4 * self.share.devices) == 0
        margin, smaller, views = (crop // 8, SMALLER, []) if mosaic else (0, 1.0, [])
        if crop:  # those of all hosts are drawn, since each draw follows from the one before
            generator = np.random.default_rng([self.seed, epoch, number])
            soft, shape = generator.uniform(0.5, max(margin, 0.5)), self.photos.images.shape[1:3]
            views = self.share.own([draw_view(*shape, crop, generator, smaller, margin) for _ in chosen])
        chosen = self.share.own(chosen)
        images, labels = self.photos.images[chosen], self.photos.labels[chosen]
        alone = images
        if crop:
            wide, inner = crop + 2 * margin, slice(margin, margin + crop)
            images = np.stack([seen(image, wide, *view) for image, view in zip(images, views, strict=True)])
            alone = images[:, inner, inner]
        targets, weights = answers_wanted(labels, self.class_count, self.recipe), self.weights[labels]  # (N, C), (N,)
        if self.lesson:
            targets = np.concatenate((targets, self.lesson.answers(chosen, alone, labels)), axis=1)  # (N, 2 C)
        inside = self.locator and self.locator.inside(alone, labels)  # (N, h, w, C)
        if crop:
            side = 2 if mosaic else 1
            targets = targets.reshape(-1, side, side, targets.shape[1])  # (N, g, g, C or 2 C)
            weights = weights.reshape(-1, side, side)
        if mosaic:
            images = mosaics(images, margin, soft)
            inside = None if inside is None else mosaics(inside)
        return self.input_spec.prepare(images), targets if inside is None else (targets, inside), weights
