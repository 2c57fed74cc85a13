"""Training batches that follow from the seed, the epoch and their number alone: augmentation, mosaics, weights."""

import cv2
import keras
import numpy as np


def augment(image, crop, generator):
    """Cut a random view out of a photo: place, scale, rotation, mirror image, brightness, contrast, saturation.

    Args:
        image: uint8 (H, W, C).
        crop: int, side of the result.
        generator: numpy.random.Generator, the only source of chance.

    Returns:
        uint8 (crop, crop, C).
    """
    height, width, channels = image.shape
    whole = height / crop  # source pixels per output pixel at which the whole photo is seen
    zoom = np.exp(generator.uniform(np.log(0.6), np.log(1.25))) * whole
    angle = np.deg2rad(generator.uniform(-15, 15))
    mirror = generator.choice((-1, 1))
    room = np.maximum(np.array((width, height)) - zoom * crop, 0.1 * width) / 2
    centre = np.array((width, height)) / 2 + generator.uniform(-room, room)
    rotation = zoom * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * (mirror, 1)
    shift = centre - 0.5 - rotation @ np.full(2, (crop - 1) / 2)
    view = cv2.warpAffine(
        image, np.column_stack((rotation, shift)), (crop, crop),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REFLECT_101,
    ).reshape(crop, crop, channels).astype(np.float32)  # fmt: skip
    grey = view.mean(axis=2, keepdims=True)
    view = grey + (view - grey) * generator.uniform(0.5, 1.4)
    view = view.mean() + (view - view.mean()) * generator.uniform(0.7, 1.4) + generator.uniform(-30, 30)
    return np.clip(view, 0, 255).astype(np.uint8)


def class_weights(labels, class_count):
    """Weights float (C,) inverse to each class's number of photos, one on average over the photos."""
    counts = np.bincount(labels, minlength=class_count)
    return len(labels) / (class_count * np.maximum(counts, 1))


def mosaics(images):
    """Lay images (4 N, H, W, C) out in N mosaics (N, 2 H, 2 W, C), in reading order."""
    count, height, width, channels = images.shape
    tiles = images.reshape(count // 4, 2, 2, height, width, channels)
    return tiles.transpose(0, 1, 3, 2, 4, 5).reshape(count // 4, 2 * height, 2 * width, channels)


class Batches(keras.utils.PyDataset):
    """Training batches that depend on (seed, epoch, number) alone, so that a resumed run sees the same ones.

    Each is (images (N, H, W, channels), one-hot labels, weights), the last two (N, C) and (N,), or (N, g, g, C) and
    (N, g, g) for a recipe with mosaics, g cells a side. With a `camlib.teaching.Lesson` the teacher's answers follow
    the labels, (..., 2 C); each cell has the answer of its own photo.
    """

    def __init__(self, photos, meaning, recipe, seed, lesson=None):
        super().__init__()
        self.photos, self.meaning, self.recipe, self.seed, self.lesson = photos, meaning, recipe, seed, lesson
        class_count = len(meaning.class_names)
        self.one_hot = np.eye(class_count, dtype=np.float32)
        weights = class_weights(photos.labels, class_count) if recipe.balanced else np.ones(class_count)
        self.weights = weights.astype(np.float32)
        self.epoch = 0

    def __len__(self):
        return -(-len(self.photos.labels) // self.recipe.batch_size)

    def __getitem__(self, number):
        size = self.recipe.batch_size
        order = np.random.default_rng([self.seed, self.epoch]).permutation(len(self.photos.labels))
        chosen = order[number * size : (number + 1) * size]
        images, labels = self.photos.images[chosen], self.photos.labels[chosen]
        if self.recipe.cut:
            generator = np.random.default_rng([self.seed, self.epoch, number])
            images = np.stack([augment(image, self.recipe.cut, generator) for image in images])
        targets, weights = self.one_hot[labels], self.weights[labels]  # (N, C), (N,)
        if self.lesson:
            targets = np.concatenate((targets, self.lesson.answers(chosen, images)), axis=1)  # (N, 2 C)
        if self.recipe.mosaic:
            side = 2 if number % 2 == 0 and len(chosen) % 4 == 0 else 1
            images = mosaics(images) if side == 2 else images
            targets = targets.reshape(-1, side, side, targets.shape[1])  # (N, g, g, C or 2 C)
            weights = weights.reshape(-1, side, side)
        return self.meaning.prepare(images), targets, weights
