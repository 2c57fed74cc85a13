"""Scenes of the demo set: animals before backgrounds, with exact masks, and the set on disk."""

import itertools
import json
import os
import re
import shutil
import time
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from camlib.console import CLONE, UserError
from camlib.demo.animals import (
    BLACK,
    COAT,
    COAT_COLOURS,
    DARK,
    HORN,
    HORN_COLOURS,
    IRIS,
    IRIS_COLOURS,
    LIGHT,
    PINK,
    WHISKER,
    WHITE,
    pose_animal,
)
from camlib.demo.backgrounds import SUPERSAMPLING, draw_background, smooth_noise
from camlib.files import BeingWritten, only_writer

CLASSES = ("dog", "cat", "horse", "bird")
PAIRS = tuple((first, second) for i, first in enumerate(CLASSES) for second in CLASSES[i + 1 :])
SPLITS = ("train", "val", "both")
SINGLE_SIZES = (0.49, 0.83)  # longer side of the animal's box / side of the picture, one animal
BOTH_SIZES = (0.38, 0.53)  # the same for each of two animals
DEMO_JPEG_QUALITY = 95
DEMO_FOLDER = CLONE / "data" / "demo"
FILE_PATTERN = re.compile(r"annotations\.json|(masks/)?((train|val)/(dog|cat|horse|bird)|both)/\w+\.(jpg|png)")


class Scene(NamedTuple):
    """What `draw_scene` returns.

    Attributes:
        image: uint8 (size, size, 3), RGB.
        masks: dict of class name -> uint8 (size, size), 255 where the animal covers half a pixel or more.
        background: uint8 (size, size, 3), the same scene without animals; equal to image where coverage is 0.
        coverage: float32 (size, size) in [0, 1], the share of each pixel that animals cover.
    """

    image: np.ndarray
    masks: dict
    background: np.ndarray
    coverage: np.ndarray


# ---------------------------------------------------------------- scenes


def bounds(parts):
    """Return the corners (x0, y0), (x1, y1) of the box round all parts, float (2, 2)."""
    points = np.concatenate([outline for part in parts for outline in part.polygons])
    return np.stack([points.min(axis=0), points.max(axis=0)])


def place_animals(rng, animals, sizes):
    """Choose a size and a place for each animal: boxes inside the picture and apart from each other.

    Args:
        animals: list of lists of Part.
        sizes: least and greatest longer side of a box, as a share of the picture's side.

    Returns:
        list of float (4,), per animal the box (x0, y0, x1, y1) as shares of the picture's side, y downwards.
    """
    margin = 0.01
    while True:
        boxes = []
        for parts in animals:
            extent = np.ptp(bounds(parts), axis=0)
            extent = extent / extent.max() * rng.uniform(*sizes)
            corner = rng.uniform(margin, 1 - margin - extent)
            boxes.append(np.concatenate([corner, corner + extent]))
        first, last = boxes[0], boxes[-1]
        apart = np.any(first[2:] + 2 * margin < last[:2]) or np.any(last[2:] + 2 * margin < first[:2])
        if len(boxes) == 1 or apart:
            return boxes


def rasterise(parts, box, side):
    """Paint parts into a picture of labels.

    Args:
        parts: list of Part.
        box: float (4,), where the animal goes, as from `place_animals`.
        side: side of the canvas in pixels.

    Returns:
        uint8 (side, side): 0 outside, 2 k + 1 in part k, 2 k + 2 on its rim.
    """
    corners = bounds(parts)
    scale = (box[2] - box[0]) / (corners[1, 0] - corners[0, 0]) * side
    labels = np.zeros((side, side), np.uint8)
    rim_width = max(1, round(side / 128 * 1.0))
    for index, part in enumerate(parts):
        outlines = []
        for outline in part.polygons:
            x = (outline[:, 0] - corners[0, 0]) * scale + box[0] * side
            y = (corners[1, 1] - outline[:, 1]) * scale + box[1] * side
            outlines.append(np.rint(np.stack([x, y], axis=1)).astype(np.int32))
        if part.rim:
            cv2.polylines(labels, outlines, True, 2 * index + 2, rim_width)
        for outline in outlines:  # one by one: together, overlaps would cancel out
            cv2.fillPoly(labels, [outline], 2 * index + 1)
    return labels


def choose_palette(rng, behind):
    """Choose the colours of an animal, the coat being clearly lighter or darker than what lies behind it.

    Args:
        behind: float (3,), mean RGB of the background there.

    Returns:
        float32 (10, 3), the RGB colour of each material, and float32 (3,), the colour of markings.
    """
    distance = np.abs((COAT_COLOURS - behind).mean(axis=1))
    coat = COAT_COLOURS[rng.choice(np.flatnonzero(distance > min(55, distance.max() - 1)))]
    coat = np.clip(coat + rng.uniform(-12, 12, 3), 20, 250)
    marking = COAT_COLOURS[rng.integers(len(COAT_COLOURS))]
    palette = np.zeros((10, 3), np.float32)
    palette[COAT] = coat
    palette[LIGHT] = 0.55 * coat + 0.45 * 245
    palette[DARK] = 0.62 * coat if rng.random() < 0.6 else 0.7 * marking + 0.3 * coat
    palette[BLACK], palette[WHITE], palette[WHISKER] = 28, 250, 235
    palette[IRIS] = IRIS_COLOURS[rng.integers(len(IRIS_COLOURS))]
    palette[PINK] = (222, 140, 140)
    palette[HORN] = HORN_COLOURS[rng.integers(len(HORN_COLOURS))]
    return palette, marking.astype(np.float32)


def marking_share(rng, height, width):
    """Draw the markings of a coat: none, patches, spots, stripes or a pale belly.

    Returns:
        float32 (height, width) in [0, 1], how much of the markings' colour the coat takes.
    """
    kind = rng.choice(["plain", "patches", "spots", "stripes", "belly"], p=[0.3, 0.2, 0.15, 0.2, 0.15])
    if kind == "plain":
        return np.zeros((height, width), np.float32)
    if kind == "belly":
        column = np.linspace(-0.5, 0.7, height, dtype=np.float32).clip(0, 1)[:, None]
        return np.broadcast_to(column, (height, width))
    if kind == "stripes":
        phase = np.linspace(0, rng.uniform(40, 70), width, dtype=np.float32)
        return np.clip(3 * np.sin(phase + 1.2 * smooth_noise(rng, height, width, 6)) - 1, 0, 0.6)
    cells, level = (4, 0.4) if kind == "patches" else (18, 0.9)
    return np.clip(6 * (smooth_noise(rng, height, width, cells) - level), 0, 0.85)


def colour_animal(rng, labels, parts, behind):
    """Colour a picture of labels: coat and markings, light from above, a dark outline, fur.

    Args:
        labels: uint8 (height, width), as from `rasterise`.
        parts: the list of Part behind the labels.
        behind: float (3,), mean RGB of the background there.

    Returns:
        float32 (height, width, 3), RGB; 0 outside the animal.
    """
    height, width = labels.shape
    palette, marking = choose_palette(rng, behind)
    colours = np.zeros((256, 3), np.float32)
    patterned = np.zeros(256, np.float32)
    for index, part in enumerate(parts):
        colours[2 * index + 1] = palette[part.material] * part.shade
        colours[2 * index + 2] = palette[part.material] * part.shade * 0.5
        patterned[2 * index + 1] = part.material == COAT
    colour = colours[labels]  # (height, width, 3)
    share = (marking_share(rng, height, width) * patterned[labels])[..., None]
    colour += share * (marking - colour)
    mask = (labels > 0).astype(np.uint8)
    spread = height * 0.03 + width * 0.03
    small = cv2.resize(mask.astype(np.float32), (width // 4, height // 4), interpolation=cv2.INTER_AREA)
    soft = cv2.GaussianBlur(small, (0, 0), spread / 4, borderType=cv2.BORDER_CONSTANT)
    step = max(1, round(spread / 4))
    padded = np.pad(soft, ((step, step), (0, 0)))
    light = padded[2 * step :] - padded[: -2 * step]  # positive on upper edges
    light = 1 + 0.38 * cv2.resize(light, (width, height), interpolation=cv2.INTER_LINEAR)
    light += 0.05 * smooth_noise(rng, height, width, 90)
    inside = cv2.erode(mask, np.ones((5, 5), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=0)
    light *= 0.55 + 0.45 * inside
    return np.clip(colour * light[..., None], 0, 255) * mask[..., None]


def draw_scene(rng, classes, size=128):
    """Draw one picture.

    Args:
        rng: numpy.random.Generator; the picture depends on its state alone.
        classes: names of one or two different animals.
        size: side of the picture in pixels.

    Returns:
        Scene, with one mask per name in `classes`.
    """
    background = draw_background(rng, size)
    animals = [pose_animal(rng, name) for name in classes]
    boxes = place_animals(rng, animals, SINGLE_SIZES if len(classes) == 1 else BOTH_SIZES)
    image, total, masks = background.astype(np.float32), np.zeros((size, size), np.float32), {}
    for name, parts, box in zip(classes, animals, boxes, strict=True):
        labels = rasterise(parts, box, size * SUPERSAMPLING)
        coverage = cv2.resize((labels > 0).astype(np.float32), (size, size), interpolation=cv2.INTER_AREA)
        rows, columns = np.flatnonzero(coverage.any(axis=1)), np.flatnonzero(coverage.any(axis=0))
        window = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        fine_window = np.s_[
            SUPERSAMPLING * rows[0] : SUPERSAMPLING * (rows[-1] + 1),
            SUPERSAMPLING * columns[0] : SUPERSAMPLING * (columns[-1] + 1),
        ]
        behind = background[coverage > 0].mean(axis=0)
        fine = colour_animal(rng, labels[fine_window], parts, behind)
        height, width = coverage[window].shape
        animal = cv2.resize(fine, (width, height), interpolation=cv2.INTER_AREA)  # times coverage
        image[window] = image[window] * (1 - coverage[window][..., None]) + animal
        masks[name] = np.where(coverage >= 0.5, 255, 0).astype(np.uint8)
        total += coverage
    return Scene(np.clip(np.rint(image), 0, 255).astype(np.uint8), masks, background, np.minimum(total, 1))


# ---------------------------------------------------------------- the set on disk


def write_scene_picture(folder, name, scene):
    """Write one picture and its masks.

    Args:
        folder: root of the demo set.
        name: path in it without the ending, such as "val/dog/dog_000".
        scene: the Scene.

    Returns:
        list of dict, one annotation per animal.
    """
    height, width = scene.image.shape[:2]
    Image.fromarray(scene.image).save(folder / f"{name}.jpg", quality=DEMO_JPEG_QUALITY)
    records = []
    for animal, mask in scene.masks.items():
        mask_name = f"masks/{name}.png" if len(scene.masks) == 1 else f"masks/{name}_{animal}.png"
        Image.fromarray(mask).save(folder / mask_name)
        left, top, box_width, box_height = cv2.boundingRect(mask)
        box = [left, top, left + box_width, top + box_height]
        records.append(
            {
                "file": f"{name}.jpg",
                "class": animal,
                "boxes": [box],
                "mask": mask_name,
                "width": width,
                "height": height,
            }
        )
    return records


def write_set(folder, seed, counts, size):
    """Write all pictures and masks into an empty folder, and annotations.json last.

    Args:
        folder: where to write.
        seed: non-negative integer.
        counts: dict of split -> pictures, per class for "train" and "val".
        size: side of a picture in pixels.
    """
    annotations = []
    for split, name in enumerate(SPLITS):
        if name == "both":  # pairs take turns within one numbering; classes have one each
            groups = [(name, pair) for pair in PAIRS]
            jobs = [(index % len(PAIRS), index) for index in range(counts[name])]
        else:
            groups = [(f"{name}/{animal}", (animal,)) for animal in CLASSES]
            jobs = itertools.product(range(len(CLASSES)), range(counts[name]))
        for path, _ in groups:
            (folder / path).mkdir(parents=True, exist_ok=True)
            (folder / "masks" / path).mkdir(parents=True, exist_ok=True)
        for group, index in jobs:
            path, classes = groups[group]
            scene = draw_scene(np.random.default_rng([seed, split, group, index]), classes, size)
            annotations += write_scene_picture(folder, f"{path}/{Path(path).name}_{index:03d}", scene)
    lines = ",\n".join(json.dumps(record) for record in annotations)
    (folder / "annotations.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def check_replaceable(folder, complete=True):
    """Make sure that `folder` is missing, empty or a demo set, so that nothing else is ever deleted.

    Args:
        folder: Path to look at.
        complete: whether a demo set must have its annotations.json.

    Raises:
        UserError: it holds something else; the message says what.
    """
    remedy = "expected a demo set or nothing; choose another folder with --output or move this one away"
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise UserError(f"{folder} is a file or a link, {remedy}")
    if not folder.exists() or not any(folder.iterdir()):
        return
    if complete and not (folder / "annotations.json").is_file():
        raise UserError(f"{folder} holds files but no annotations.json, {remedy}")
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not (path.is_dir() or FILE_PATTERN.fullmatch(name)):
            raise UserError(f"{folder} holds {name}, which no demo set has, {remedy}")


def put_in_place(fresh, old, folder):
    """Move the folder `fresh` to `folder`, and what was there to `old`; on failure put that back."""
    if folder.exists():
        os.replace(folder, old)
    try:
        os.replace(fresh, folder)
    except OSError:
        if old.exists() and not folder.exists():
            os.replace(old, folder)
        raise


def draw_demo(folder, seed=0, train=200, val=50, both=50, size=128, only_if_incomplete=False):
    """Draw a whole demo set, in a hidden folder next to its place, and put it there once it is complete.

    One process does so at a time; what one that was killed has left behind is drawn anew.

    Args:
        folder: where the set goes; missing, empty, or an older demo set, which is then replaced.
        seed: non-negative integer.
        train, val: pictures per class.
        both: pictures with two animals.
        size: side of a picture in pixels.
        only_if_incomplete: replace an older set only where it lacks annotations.json; keep a complete one.

    Returns:
        dict of int: pictures drawn for "train", "val" and "both" (over all classes), and "masks".

    Raises:
        UserError: the folder holds something other than a demo set.
        BeingWritten: another process draws it.
    """
    folder = Path(folder).absolute()
    check_replaceable(folder, complete=not only_if_incomplete)
    workshop = folder.with_name(f".{folder.name}.partial")
    with only_writer(folder.parent, folder.name):
        shutil.rmtree(workshop, ignore_errors=True)
        try:
            fresh = workshop / "new"
            fresh.mkdir(parents=True)
            write_set(fresh, seed, {"train": train, "val": val, "both": both}, size)
            check_replaceable(folder, complete=not only_if_incomplete)  # it may have changed in the meantime
            if not (only_if_incomplete and (folder / "annotations.json").is_file()):
                put_in_place(fresh, workshop / "old", folder)
        finally:
            shutil.rmtree(workshop, ignore_errors=True)
    train, val = len(CLASSES) * train, len(CLASSES) * val
    return {"train": train, "val": val, "both": both, "masks": train + val + 2 * both}


def demo_folder():
    """Return the folder of the demo set, data/demo, drawing it first where it is missing.

    Returns:
        Path, holding a complete set.

    Raises:
        UserError: data/demo holds something other than a demo set.
    """
    folder = DEMO_FOLDER
    if not (folder / "annotations.json").is_file():
        print(f"drawing the demo set into {folder} (once, about 20 s)", flush=True)
    while not (folder / "annotations.json").is_file():
        try:
            draw_demo(folder, only_if_incomplete=True)
        except BeingWritten:  # by another script that needs it
            time.sleep(1)
    return folder
