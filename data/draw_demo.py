"""Draw the demo set: small illustrations of dogs, cats, horses and birds with exact masks.

    python data/draw_demo.py

takes about 20 s on one core and fills data/demo (about 9 MB) with 128x128 pictures: train/ and val/ with
one animal each, both/ with two animals of different classes, masks/ with one PNG per animal (255 where the
animal covers at least half of the pixel, else 0) and annotations.json with one record per animal. Backgrounds
and coat colours come from the same distribution for every class, so that only the animal's shape tells the
class. Each picture depends on its seed, split, class and index alone. The last lines say what was written
where and the next command.
"""

import itertools
import json
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, its own folder alone is searched

from camlib.console import ArgumentParser, UserError, run_script, whole_number  # noqa: E402

CLASSES = ("dog", "cat", "horse", "bird")
PAIRS = tuple((first, second) for i, first in enumerate(CLASSES) for second in CLASSES[i + 1 :])
SPLITS = ("train", "val", "both")
SINGLE_SIZES = (0.49, 0.83)  # longer side of the animal's box / side of the picture, one animal
BOTH_SIZES = (0.38, 0.53)  # the same for each of two animals
SUPERSAMPLING = 4  # animals are drawn this much larger and then averaged; backgrounds half of it
JPEG_QUALITY = 95
FILE_PATTERN = re.compile(r"annotations\.json|(masks/)?((train|val)/(dog|cat|horse|bird)|both)/\w+\.(jpg|png)")

COAT, LIGHT, DARK, BLACK, WHITE, IRIS, PINK, HORN, WHISKER = range(1, 10)  # materials; 0 is "no animal"
COAT_COLOURS = np.array(
    [  # RGB, shared by all four classes
        (246, 242, 234),
        (226, 205, 170),
        (205, 160, 104),
        (196, 122, 58),
        (150, 92, 48),
        (108, 66, 40),
        (66, 44, 34),
        (44, 42, 46),
        (96, 96, 104),
        (148, 148, 154),
        (196, 194, 192),
        (172, 150, 128),
    ],
    np.float32,
)
HORN_COLOURS = np.array(
    [  # beaks and birds' legs
        (232, 150, 40),
        (236, 190, 70),
        (90, 80, 74),
        (60, 52, 50),
        (190, 130, 90),
    ],
    np.float32,
)
IRIS_COLOURS = np.array([(200, 200, 60), (120, 190, 80), (230, 170, 50), (120, 170, 210)], np.float32)
TURNS = np.arange(16) * np.pi / 8
UNIT_CIRCLE = np.stack([np.cos(TURNS), np.sin(TURNS)], axis=1)  # (16, 2)


class Part(NamedTuple):
    """One piece of an animal; later parts lie over earlier ones.

    Attributes:
        polygons: list of float (P, 2), closed outlines as (x, y), y upwards, the union of which is the part.
        material: one of COAT ... WHISKER.
        shade: factor on the material's colour.
        rim: whether a thin darker line sets the part off from what lies below.
    """

    polygons: list
    material: int
    shade: float = 1.0
    rim: bool = False


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


# ----------------------------------------------------------------------------------------------------
# Shapes
# ----------------------------------------------------------------------------------------------------


def spline(points, samples=5, closed=False):
    """Run a Catmull-Rom curve through points of any dimension.

    Args:
        points: float (N, D).
        samples: points per segment.
        closed: whether the curve returns to its first point.

    Returns:
        float64 (N * samples, D) when closed, else ((N - 1) * samples + 1, D).
    """
    points = np.asarray(points, np.float64)
    if closed:
        padded = np.concatenate([points[-1:], points, points[:2]])
    else:
        padded = np.concatenate([points[:1], points, points[-1:]])
    before, start, end, after = padded[:-3], padded[1:-2], padded[2:-1], padded[3:]
    t = (np.arange(samples) / samples)[:, None, None]
    curve = 0.5 * (
        2 * start
        + (end - before) * t
        + (2 * before - 5 * start + 4 * end - after) * t**2
        + (3 * start - before - 3 * end + after) * t**3
    )  # (samples, segments, D)
    curve = curve.transpose(1, 0, 2).reshape(-1, points.shape[1])
    return curve if closed else np.concatenate([curve, points[-1:]])


def tube(points, samples=5):
    """Sweep a circle of changing radius along a curve: limbs, necks, tails, and, with one point, discs.

    Args:
        points: (N, 3), x, y and radius.
        samples: circles per segment.

    Returns:
        list of float32 (P, 2), convex polygons whose union is the tube.
    """
    nodes = spline(points, samples) if len(points) > 1 else np.asarray(points, np.float64)
    circles = nodes[:, None, :2] + np.maximum(nodes[:, 2], 0.4)[:, None, None] * UNIT_CIRCLE  # (M, 16, 2)
    circles = circles.astype(np.float32)
    if len(circles) == 1:
        return [circles[0]]
    return [cv2.convexHull(np.concatenate(pair))[:, 0] for pair in itertools.pairwise(circles)]


def disc(x, y, radius):
    """Return a disc as the polygons of one part."""
    return tube([(x, y, radius)])


def polygon(*points):
    """Return one straight-edged polygon as the polygons of one part."""
    return [np.array(points, np.float32)]


def blob(*points):
    """Return the smooth closed curve through the points as the polygons of one part."""
    return [spline(points, closed=True).astype(np.float32)]


def moved(parts, x=0.0, y=0.0, angle=0.0, scale=1.0):
    """Turn parts about the origin by `angle` degrees (counterclockwise), scale them, shift them by (x, y)."""
    cosine, sine = scale * np.cos(np.radians(angle)), scale * np.sin(np.radians(angle))
    matrix = np.array([[cosine, sine], [-sine, cosine]], np.float32)
    shift = np.array([x, y], np.float32)
    return [part._replace(polygons=[outline @ matrix + shift for outline in part.polygons]) for part in parts]


def stretched(parts, factor):
    """Multiply the x of all parts by the factor; -1 mirrors them."""
    factors = np.float32([factor, 1])
    return [part._replace(polygons=[outline * factors for outline in part.polygons]) for part in parts]


def mirrored(parts):
    """Mirror parts about x = 0."""
    return stretched(parts, -1)


def eye(x, y, radius, iris=BLACK, pupil=(0.55, 0.55)):
    """Draw an eye: a disc of the iris material, a black pupil of relative half axes, and a glint."""
    pupil_outline = [(UNIT_CIRCLE * radius * np.array(pupil) + (x, y)).astype(np.float32)]
    return [
        Part(disc(x, y, radius), iris, rim=iris != BLACK),
        Part(pupil_outline, BLACK),
        Part(disc(x + 0.3 * radius, y + 0.35 * radius, 0.3 * radius), WHITE),
    ]


# ----------------------------------------------------------------------------------------------------
# Heads: origin at the centre of the skull; profiles look to the right, faces at the viewer
# ----------------------------------------------------------------------------------------------------


def dog_profile(rng):
    """Draw a dog's head from the side: long snout, black nose, one hanging ear."""
    snout, ear = rng.uniform(22, 31), rng.uniform(17, 25)
    return [
        Part(tube([(10, -10, 6), (snout - 1, -12, 4.5)]), LIGHT, 0.85),
        Part(tube([(0, 0, 16), (8, -2, 13), (snout, -5, 8), (snout + 5, -5, 7)]), COAT),
        Part(tube([(snout + 6, -11, 1.1), (13, -11, 1.1), (9, -8, 1.1)]), BLACK),
        Part(disc(snout + 9, -1, 5), BLACK),
        *eye(10, 5, 3.4),
        Part(tube([(-5, 12, 5), (-12, 2, 8), (-12, -ear, 7)]), DARK, 0.9, rim=True),
    ]


def dog_face(rng):
    """Draw a dog's face: hanging ears on both sides, a light muzzle with a large nose, often a tongue."""
    ear, muzzle = rng.uniform(18, 27), rng.uniform(11, 13.5)
    tongue = [Part(tube([(0, -20, 4), (0, -25, 4.5)]), PINK, rim=True)] if rng.random() < 0.6 else []
    right_ear = [Part(tube([(11, 14, 5), (22, 4, 7.5), (23, -ear, 7)]), DARK, 0.9, rim=True)]
    return [
        Part(tube([(0, 5, 20), (0, -6, 18)]), COAT, rim=True),
        *right_ear,
        *mirrored(right_ear),
        *tongue,
        Part(tube([(-4.5, -11, muzzle - 2), (0, -8, muzzle), (4.5, -11, muzzle - 2)]), LIGHT, rim=True),
        Part(tube([(-2.5, -3, 4.5), (2.5, -3, 4.5)]), BLACK),
        Part(tube([(0, -5, 0.9), (0, -13, 0.9)]), BLACK),
        Part(tube([(-8, -13, 0.9), (-4, -16, 0.9), (0, -13, 0.9), (4, -16, 0.9), (8, -13, 0.9)]), BLACK),
        *eye(-8.5, 8, 3.8),
        *eye(8.5, 8, 3.8),
    ]


def whiskers(x, y, reach, sides=(-1, 1)):
    """Draw three whiskers to each of the sides of a muzzle at (x, y)."""
    return [
        Part(tube([(x + side * 4, y, 0.6), (x + side * reach, y + slope, 0.6)], 1), WHISKER)
        for side in sides
        for slope in (-7, -1, 5)
    ]


def cat_profile(rng):
    """Draw a cat's head from the side: round, flat-nosed, two pointed ears, whiskers."""
    ear = rng.uniform(30, 35)
    return [
        Part(polygon((1, 12), (10, ear - 1), (14, 9)), DARK, 0.75, rim=True),
        Part(tube([(0, 0, 17), (5, -2, 14.5)]), COAT),
        Part(tube([(14, -6, 7), (17, -6, 6)]), LIGHT),
        Part(polygon((-14, 8), (-9, ear), (6, 15)), COAT, rim=True),
        Part(polygon((-10, 12), (-7.5, ear - 7), (1, 15)), PINK, 0.85),
        Part(disc(22, -3, 2.4), PINK, 0.8),
        *eye(11, 3, 4.6, IRIS, (0.3, 0.9)),
        *whiskers(15, -7, 24, sides=(1,)),
    ]


def cat_face(rng):
    """Draw a cat's face: wide and round, two pointed ears, slit pupils, small nose, whiskers."""
    ear, width = rng.uniform(31, 37), rng.uniform(4, 7)
    right_ear = [
        Part(polygon((2, 14), (16 + 0.6 * width, ear), (20, 2)), COAT, rim=True),
        Part(polygon((7, 14), (15.5 + 0.6 * width, ear - 7), (17.5, 6)), PINK, 0.85),
    ]
    return [
        *right_ear,
        *mirrored(right_ear),
        Part(tube([(-width, -1, 17), (0, 0, 18), (width, -1, 17)]), COAT),
        Part(tube([(-4.5, -10, 6), (4.5, -10, 6)]), LIGHT),
        Part(polygon((-3.5, -4), (3.5, -4), (0, -8.5)), PINK, 0.8),
        Part(tube([(-5, -13, 0.5), (-3, -14, 0.5), (0, -11, 0.5), (3, -14, 0.5), (5, -13, 0.5)]), BLACK),
        *eye(-9, 3, 5.2, IRIS, (0.3, 0.9)),
        *eye(9, 3, 5.2, IRIS, (0.3, 0.9)),
        *whiskers(0, -9, 27),
    ]


def horse_profile(rng):
    """Draw a horse's head from the side: long and tapering, pointed ears, forelock, nostril."""
    length = rng.uniform(32, 40)
    skull = [(0, 0, 12.5), (8, -3, 11), (0.6 * length, -6, 8), (length, -9, 7.5), (length + 3, -10, 6)]
    return [
        Part(polygon((-7, 7), (-3, 25), (3, 9)), COAT, 0.8),
        Part(tube(skull), COAT),
        Part(tube([(length, -10, 7), (length + 4, -10.5, 5.5)]), LIGHT, 0.8),
        Part(disc(length + 5, -7, 1.8), BLACK),
        Part(tube([(length + 5, -14, 0.9), (length - 5, -14, 0.9)]), BLACK),
        Part(polygon((-11, 6), (-9, 24), (-1, 9)), COAT, rim=True),
        Part(tube([(-4, 12, 4), (5, 8, 3.5), (12, 3, 1.5)]), DARK, 0.9),
        *eye(9, 2, 3.2),
    ]


def horse_face(rng):
    """Draw a horse's face: a long wedge, ears on top, eyes at the sides, nostrils below, often a blaze."""
    length = rng.uniform(38, 46)
    blaze = [Part(tube([(0, 8, 3.5), (0, -length * 0.6, 3)]), WHITE)] if rng.random() < 0.6 else []
    right_ear = [
        Part(polygon((2, 10), (10, 31), (13, 8)), COAT, rim=True),
        Part(polygon((5, 12), (9.5, 26), (11, 10)), PINK, 0.6),
    ]
    right_details = [*eye(11.5, 1, 3.4), Part(tube([(5, -length, 1.9), (6, 3 - length, 1.5)]), BLACK)]
    return [
        *right_ear,
        *mirrored(right_ear),
        Part(tube([(0, 3, 14), (0, -8, 13), (0, -length * 0.65, 8.5), (0, -length, 10)]), COAT, rim=True),
        *blaze,
        Part(tube([(-3, -length, 8.5), (3, -length, 8.5)]), LIGHT, 0.8),
        *right_details,
        *mirrored(right_details),
        Part(tube([(0, 14, 5), (-3, 7, 4), (2, -3, 1.5)]), DARK, 0.9),
    ]


# ----------------------------------------------------------------------------------------------------
# Four-legged bodies: ground at y = 0, looking to the right
# ----------------------------------------------------------------------------------------------------


class Build(NamedTuple):
    """Proportions of a four-legged body; lengths and radii in the same unit, a body being about 100 long."""

    half_length: float
    rump: float
    belly: float
    chest: float
    leg: float  # height of the belly's lower edge
    thigh: float
    ankle: float
    neck: float  # length
    neck_root: float
    neck_top: float
    hoof: bool


def make_build(rng, kind):
    """Draw the proportions of one dog, cat or horse."""
    vary = rng.uniform(0.9, 1.1, 3)
    if kind == "dog":
        build = Build(33 * vary[0], 18, 15.5 * vary[1], 20, 40 * vary[2], 12, 5.2, 24, 15, 12, False)
    elif kind == "cat":
        build = Build(35 * vary[0], 16, 14.5 * vary[1], 15, 28 * vary[2], 11, 4.6, 15, 12, 11, False)
    else:
        build = Build(36 * vary[0], 21, 19 * vary[1], 20, 60 * vary[2], 15, 4.6, 46, 18, 10, True)
    return build


def leg(build, x, top, front, swing, bend, shade):
    """Draw one leg from (x, top) down to a paw or hoof.

    Args:
        swing: degrees by which the whole leg points forward.
        bend: degrees by which its lower half is folded back.
    """
    degrees = np.array([-8, 4, 0]) if front else np.array([18, -28, 4])
    shares = np.array([0.36, 0.34, 0.30])
    # An unswung leg ends on the ground.
    reach = (top - build.ankle) / (shares * np.cos(np.radians(degrees))).sum()
    radians = np.radians(degrees + swing - np.array([0, bend, 1.4 * bend]))
    steps = reach * shares[:, None] * np.stack([np.sin(radians), -np.cos(radians)], axis=1)  # (3, 2)
    joints = np.concatenate([[(x, top)], (x, top) + np.cumsum(steps, axis=0)])  # (4, 2)
    width = 0.8 if front else 1.0
    radii = (build.thigh * width, build.thigh * width * 0.66, build.ankle * 1.1, build.ankle)
    foot = joints[3]
    tip = np.array([np.cos(radians[2] * 0.7), np.sin(radians[2] * 0.7)])
    parts = [Part(tube([(*joint, radius) for joint, radius in zip(joints, radii, strict=True)]), COAT, shade)]
    if build.hoof:
        parts.append(Part(tube([(*(foot + tip), 5), (*(foot + 3 * tip), 5)]), BLACK, shade))
    else:
        parts.append(Part(tube([(*foot, build.ankle), (*(foot + 6 * tip), build.ankle * 0.95)]), COAT, shade))
    return parts


def gait(rng, pace, hoofed):
    """Choose swing and bend of the far front, far hind, near front and near hind leg.

    Args:
        pace: "stand", "walk" or "run".
    """
    if pace == "stand":
        return [(swing, 0) for swing in rng.uniform(-7, 7, 4)]
    if pace == "walk":
        step = rng.uniform(14, 26) * rng.choice([-1, 1])
        return [(step, 12), (-step, 10), (-step, 4), (step, 6)]
    reach = rng.uniform(32, 46)
    return [(reach + 8, 30 if hoofed else 5), (-reach, 25), (reach - 8, 10), (-reach + 14, 5)]


def tail(rng, kind, x, y):
    """Draw the tail at (x, y): short (dog), long, slender and curved (cat), hanging hair (horse)."""
    if kind == "dog":
        lift = rng.uniform(-4, 32)
        curve = [(0, 0, 6.5), (-13, 0.3 * lift, 6), (-22, lift, 5), (-22, lift + 10, 3)]
    elif kind == "cat" and rng.random() < 0.7:
        hook = rng.uniform(-16, 16)
        curve = [(0, 0, 5), (-18, 8, 4.8), (-24, 34, 4.5), (-16, 54, 4.2), (hook - 16, 66, 3.5)]
    elif kind == "cat":
        curve = [(0, 0, 5), (-18, -10, 4.8), (-36, -16, 4.5), (-52, -4, 4.2), (-52, 10, 3.5)]
    else:
        blow = rng.uniform(2, 22)
        curve = [(4, 2, 5), (-8, 0, 6), (-13 - 0.5 * blow, -20, 8.5), (-12 - blow, -46, 6), (-8 - 1.3 * blow, -60, 2)]
    return moved([Part(tube(curve), DARK if kind == "horse" else COAT)], x, y)


def side_head(rng, kind):
    """Draw the head on a body seen from the side: a profile, or (dog, cat) a face turned to the viewer."""
    if kind == "horse":
        return horse_profile(rng)
    if kind == "dog":
        return dog_profile(rng) if rng.random() < 0.7 else dog_face(rng)
    return cat_profile(rng) if rng.random() < 0.25 else cat_face(rng)


def neck_and_head(rng, kind, build, x, y, low):
    """Draw the neck rising from (x, y) and the head on it, raised or lowered."""
    slopes, pitches = {  # degrees from the horizontal: of the neck, of the head
        ("dog", False): ((40, 70), (-12, 14)),
        ("dog", True): ((0, 15), (-22, 0)),
        ("cat", False): ((35, 65), (-10, 10)),
        ("cat", True): ((5, 20), (-10, 10)),
        ("horse", False): ((42, 64), (-42, -18)),
        ("horse", True): ((-38, -28), (-50, -36)),
    }[kind, low]
    slope, pitch = rng.uniform(*slopes), rng.uniform(*pitches)
    direction = np.array([np.cos(np.radians(slope)), np.sin(np.radians(slope))])
    base, top = np.array([x, y]), np.array([x, y]) + build.neck * direction
    bend = (*(0.5 * (base + top) + (1, 0)), 0.55 * build.neck_root + 0.45 * build.neck_top)
    parts = [Part(tube([(*base, build.neck_root), bend, (*top, build.neck_top)]), COAT)]
    if kind == "horse":
        normal = np.array([-direction[1], direction[0]])  # towards the crest of the neck
        crest = [
            base - 0.25 * (top - base) + 15 * normal,
            base + 0.3 * (top - base) + 15 * normal,
            base + 0.7 * (top - base) + 11 * normal,
            top + 9 * normal + 4 * direction,
        ]
        mane = [(*point, radius) for point, radius in zip(crest, (2, 6.5, 6.5, 5), strict=True)]
        parts.append(Part(tube(mane), DARK))
    size = rng.uniform(0.92, 1.12) * (0.95 if kind == "cat" else 1.0)
    return parts + moved(side_head(rng, kind), *top, angle=pitch, scale=size)


def side_view(rng, kind):
    """Draw a dog, cat or horse from the side, standing, walking or running."""
    build = make_build(rng, kind)
    half, height = build.half_length, build.leg + build.belly
    pace = rng.choice(["stand", "walk", "run"], p=[0.35, 0.4, 0.25])
    low = pace != "run" and rng.random() < 0.2
    far_front, far_hind, near_front, near_hind = gait(rng, pace, build.hoof)
    body = tube(
        [
            (-half, height + 2, build.rump),
            (-0.3 * half, height + 1, build.belly),
            (0.35 * half, height, build.belly + 1),
            (half - 3, height + 1, build.chest),
        ]
    )
    return [
        *tail(rng, kind, -half - 0.75 * build.rump, height + 0.55 * build.rump),
        *leg(build, half - 1, height - 4, True, *far_front, 0.7),
        *leg(build, -half + 6, height - 2, False, *far_hind, 0.7),
        Part(body, COAT),
        *leg(build, half - 6, height - 4, True, *near_front, 1.0),
        *leg(build, -half, height - 2, False, *near_hind, 1.0),
        *neck_and_head(rng, kind, build, half, height + 0.35 * build.chest, low),
    ]


def sitting_side(rng, kind):
    """Draw a dog or cat sitting, from the side: upright chest on straight front legs, folded hind leg."""
    width = 1.0 if kind == "dog" else 0.88
    lean = rng.uniform(-3, 6)
    if kind == "dog":
        rise = rng.uniform(0, 16)
        curve = [(-34, 12, 6), (-50, 8 + 0.3 * rise, 5.5), (-62, 8 + rise, 4.5), (-66, 16 + rise, 3)]
    else:
        rise = rng.uniform(0, 40)
        curve = [
            (-32, 10, 5),
            (-50, 6, 4.8),
            (-64, 10 + 0.3 * rise, 4.5),
            (-66, 20 + 0.8 * rise, 4.2),
            (-56, 28 + rise, 3.2),
        ]
    front = [
        (10 + lean, 50, 8.5 * width),
        (13 + lean, 26, 5.8 * width),
        (13 + lean, 6, 5 * width),
        (19 + lean, 5, 4.6 * width),
    ]
    trunk = [(-20, 20, 20 * width), (-6, 42, 19 * width), (9 + lean, 62, 15 * width), (14 + lean, 74, 12)]
    far_front = [(x + 6, y + 1, radius) for x, y, radius in front]
    return [
        Part(tube(curve), COAT, 0.95),
        Part(tube(far_front), COAT, 0.7),
        Part(tube(trunk), COAT),
        Part(tube([(17 + lean, 64, 6), (17 + lean, 46, 5)]), LIGHT),
        Part(tube(front), COAT, 1.0, rim=True),
        Part(tube([(-19, 19, 16 * width), (-8, 15, 11 * width)]), COAT, 1.0, rim=True),
        Part(tube([(-14, 5, 5), (6, 5, 4.6)]), COAT, 1.0, rim=True),
        *moved(side_head(rng, kind), 17 + lean, 86, angle=rng.uniform(-10, 12), scale=rng.uniform(0.95, 1.1)),
    ]


def sitting_front(rng, kind):
    """Draw a dog or cat sitting and facing the viewer."""
    width = 1.0 if kind == "dog" else 0.86
    reach = rng.uniform(0.9, 1.2) * (44 if kind == "dog" else 56)
    rise = rng.uniform(6, 18) if kind == "dog" else rng.uniform(15, 50)
    thick = 5.5 if kind == "dog" else 4.4
    curve = [
        (14, 10, thick),
        (0.75 * reach, 8, thick),
        (reach, 10 + 0.5 * rise, thick - 0.5),
        (reach - 6, 10 + rise, thick - 1.5),
    ]
    foreleg = [(9 * width, 46, 6 * width), (8.5 * width, 20, 5.6 * width), (8.5 * width, 7, 6 * width)]
    right_legs = [
        Part(tube([(18 * width, 19, 15 * width), (20 * width, 12, 12 * width)]), COAT, 0.93, rim=True),
        Part(tube([(19 * width, 6, 6), (24 * width, 6, 6)]), COAT, rim=True),
        Part(tube(foreleg), COAT, rim=True),
    ]
    head = dog_face(rng) if kind == "dog" else cat_face(rng)
    return [
        Part(tube(curve), COAT, 0.9),
        Part(tube([(0, 20, 23 * width), (0, 44, 19 * width), (0, 64, 15 * width)]), COAT),
        *right_legs,
        *mirrored(right_legs),
        Part(tube([(0, 58, 9 * width), (0, 42, 5)]), LIGHT),
        *moved(head, rng.uniform(-4, 4), 80, angle=rng.uniform(-14, 14), scale=rng.uniform(1.0, 1.2)),
    ]


def horse_front(rng):
    """Draw a horse facing the viewer: long face, narrow chest, four long legs."""
    height, turn = rng.uniform(74, 84), rng.uniform(-12, 12)
    right_far_leg = [
        Part(tube([(17, height - 14, 9), (19, 40, 6), (20, 10, 4.8)]), COAT, 0.62),
        Part(tube([(20, 9, 5.2), (20.5, 6, 6)]), BLACK),
    ]
    foreleg = [(14, height - 2, 11), (13, 42, 7), (12.5, 34, 5.6), (12, 7, 5.2)]
    right_leg = [Part(tube(foreleg), COAT, rim=True), Part(tube([(12, 6, 5.4), (12, 3, 6.6)]), BLACK)]
    return [
        Part(tube([(14, height - 10, 4), (22, height - 32, 6), (24, height - 50, 3)]), DARK, 0.8),
        *right_far_leg,
        *mirrored(right_far_leg),
        Part(tube([(-5, height, 22), (5, height, 22), (0, height + 14, 22)]), COAT, 0.9),
        *right_leg,
        *mirrored(right_leg),
        Part(tube([(-8, height + 30, 8), (-10 + turn, height + 48, 6)]), DARK),
        Part(tube([(0, height + 14, 18), (0.6 * turn, height + 34, 14), (turn, height + 50, 12)]), COAT),
        *moved(horse_face(rng), turn, height + 54, angle=rng.uniform(-8, 8), scale=rng.uniform(1.0, 1.15)),
    ]


def horse_portrait(rng):
    """Draw a horse's head and neck from the side."""
    length = rng.uniform(0.9, 1.1)
    neck = np.array(
        [(24, 54), (14, 40), (10, 22), (14, 4), (20, -18), (-48, -18), (-40, 4), (-28, 28), (-12, 52), (2, 68)]
    ) * (1, length)
    mane = [
        (-46, -12 * length, 5),
        (-40, 10 * length, 8),
        (-26, 36 * length, 8),
        (-8, 60 * length, 7),
        (4, 74 * length, 4),
    ]
    return [
        Part(polygon(*neck), COAT),
        Part(tube(mane), DARK),
        *moved(horse_profile(rng), 12, 60 * length, rng.uniform(-40, -20), rng.uniform(1.1, 1.25)),
    ]


# ----------------------------------------------------------------------------------------------------
# Birds
# ----------------------------------------------------------------------------------------------------


def bird_head(rng):
    """Draw a bird's head from the side: small, round, one eye, a beak."""
    beak = rng.uniform(16, 28)
    droop = rng.uniform(-5, 1)
    return [
        Part(polygon((8, 6), (12 + beak, droop), (8, -6)), HORN, rim=True),
        Part(polygon((8, 0), (12 + beak, droop), (8, -6)), HORN, 0.75),
        Part(disc(0, 0, 14), COAT),
        *eye(5, 3, 3.6),
    ]


def tail_fan(x, y, angle, spread, length, count=4):
    """Draw tail feathers from (x, y) about the direction `angle` (degrees), `spread` degrees to each side."""
    feathers = []
    for turn in np.radians(angle + np.linspace(-spread, spread, count)):
        step_x, step_y = length * np.cos(turn), length * np.sin(turn)
        feather = tube([(x, y, 4), (x + 0.6 * step_x, y + 0.6 * step_y, 5), (x + step_x, y + step_y, 4.5)], 2)
        feathers.append(Part(feather, DARK, 0.95, rim=True))
    return feathers


def open_wing(arm, angles, lengths, shade):
    """Draw a spread wing: feathers fan out from an arm.

    Args:
        arm: (N, 2), from the shoulder to the tip of the hand.
        angles: directions of the first and last feather, degrees.
        lengths: lengths of the first and last feather.
        shade: factor on the colour.
    """
    points = spline(arm, 4)
    parts = []
    for share in np.linspace(0, 1, 9):
        x, y = points[round(share * (len(points) - 1))]
        angle = np.radians(angles[0] + (angles[1] - angles[0]) * share**1.3)
        length = lengths[0] + (lengths[1] - lengths[0]) * share
        step_x, step_y = length * np.cos(angle), length * np.sin(angle)
        feather = tube([(x, y, 5), (x + 0.5 * step_x, y + 0.5 * step_y, 6), (x + step_x, y + step_y, 3.5)], 2)
        parts.append(Part(feather, DARK, shade, rim=True))
    radii = np.linspace(10, 4, len(arm))
    spine = tube([(*point, radius) for point, radius in zip(arm, radii, strict=True)])
    return [*parts, Part(spine, DARK, 1.15 * shade)]


def perched_bird(rng):
    """Draw a bird standing on two thin legs, from the side, with a folded wing."""
    legs, rise, pitch = rng.uniform(18, 40), rng.uniform(0, 12), rng.uniform(-22, 14)
    trunk = [(-30, -2, 8), (-10, 0, 20), (12, 3, 21), (26, 16, 14), (31 + 0.3 * rise, 28 + rise, 12)]
    wing = blob((18, 14), (4, 17), (-22, 8), (-50, -8), (-30, -10), (-4, -9), (14, 0))
    look, size = rng.uniform(-18, 10) - pitch, rng.uniform(0.95, 1.15)
    body = [
        *tail_fan(-26, -2, 188, rng.uniform(6, 16), rng.uniform(28, 44)),
        Part(tube(trunk), COAT),
        Part(tube([(-4, -10, 9), (14, -6, 12), (25, 6, 8)]), LIGHT),
        Part(wing, DARK, 0.95, rim=True),
        Part(tube([(8, 2, 1), (-12, -2, 1), (-34, -6, 1)]), BLACK),
        *moved(bird_head(rng), 32 + 0.3 * rise, 32 + rise, look, size),
    ]
    parts = []
    for x, shade in ((8, 0.75), (-2, 1.0)):
        parts += [
            Part(tube([(x, legs, 2.4), (x + 1, 3, 2.2)]), HORN, shade),
            Part(tube([(x - 6, 1, 2), (x + 1, 3, 2.2), (x + 9, 1, 2)], 2), HORN, shade),
        ]
    return parts + moved(body, 0, legs + 14, angle=pitch)


def flying_bird(rng):
    """Draw a bird flying past, from the side, with its wings up or down."""
    beat = rng.choice([1, 1, -1]) * rng.uniform(0.8, 1.0)
    arm = np.array([(12, 2), (24, 28 * beat), (8, 58 * beat), (-8, 80 * beat)])
    angles = (190, 110) if beat > 0 else (170, 250)
    far_arm = np.array([(18, 4), (44, 24 * beat), (46, 52 * beat), (44, 74 * beat)])
    return [
        *open_wing(far_arm, angles, (34, 26), 0.72),
        *tail_fan(-30, 0, 180 + rng.uniform(-10, 10), rng.uniform(9, 20), rng.uniform(28, 38)),
        Part(tube([(-36, 0, 6), (-10, 0, 15), (14, 2, 16), (34, 9, 12)]), COAT),
        Part(tube([(-12, -7, 6), (14, -7, 8)]), LIGHT),
        *moved(bird_head(rng), 39, 12, angle=rng.uniform(-10, 10)),
        *open_wing(arm, angles, (40, 28), 1.0),
    ]


def soaring_bird(rng):
    """Draw a bird with both wings spread, seen from above or below."""
    lift = rng.uniform(-6, 22)
    arm = np.array([(8, 10), (36, 20 + lift), (62, 16 + lift), (78, 6 + lift)])
    right_wing = open_wing(arm, (-92, -35), (34, 26), 0.95)
    side = rng.choice([-1, 1])
    head = moved(bird_head(rng), 0, 34, angle=rng.uniform(20, 70))
    return [
        *tail_fan(0, -28, -90, rng.uniform(12, 24), rng.uniform(26, 36), 5),
        *right_wing,
        *mirrored(right_wing),
        Part(tube([(0, -32, 7), (0, -6, 15), (0, 16, 14), (0, 32, 10)]), COAT),
        Part(tube([(0, -14, 7), (0, 10, 8)]), LIGHT),
        *(head if side > 0 else mirrored(head)),
    ]


def bird_front(rng):
    """Draw a bird facing the viewer: egg-shaped, wings folded at its sides, two legs, beak below the eyes."""
    legs, width = rng.uniform(12, 24), rng.uniform(0.9, 1.1)
    beak = rng.uniform(9, 13)
    right_side = [
        Part(tube([(9, legs + 4, 2.6), (10, 3, 2.4)]), HORN),
        Part(tube([(3, 1, 2.1), (10, 3, 2.4), (17, 1, 2.1)], 2), HORN),
    ]
    wing = blob((18 * width, legs + 54), (29 * width, legs + 36), (27 * width, legs + 4), (19 * width, legs + 12))
    right_wing = [Part(wing, DARK, 0.95, rim=True)]
    height = legs + 66
    return [
        *tail_fan(0, legs + 8, -90, 14, 16, 3),
        *right_side,
        *mirrored(right_side),
        Part(tube([(0, legs + 22, 23 * width), (0, legs + 44, 20 * width)]), COAT),
        Part(tube([(0, legs + 18, 15 * width), (0, legs + 40, 12 * width)]), LIGHT),
        *right_wing,
        *mirrored(right_wing),
        Part(disc(0, height, 19), COAT, rim=True),
        *eye(-8, height + 4, 5.2, IRIS),
        *eye(8, height + 4, 5.2, IRIS),
        Part(polygon((-5.5, height - 1), (5.5, height - 1), (0, height - 1 - beak)), HORN, rim=True),
    ]


def pose_animal(rng, name):
    """Draw one animal of a class in a pose chosen at random.

    Returns:
        list of Part in the animal's own coordinates, y upwards.
    """
    if name == "horse":
        poses, shares = ("side", "front", "portrait"), (0.74, 0.16, 0.1)
    elif name == "bird":
        poses, shares = ("perched", "flying", "soaring", "bird front"), (0.5, 0.17, 0.15, 0.18)
    else:
        poses, shares = ("side", "sitting", "sitting front"), (0.55, 0.25, 0.2)
    pose = rng.choice(poses, p=shares)
    if pose == "side":
        view = side_view(rng, name)
    elif pose == "sitting":
        view = sitting_side(rng, name)
    elif pose == "sitting front":
        view = sitting_front(rng, name)
    else:
        draw_pose = {
            "front": horse_front,
            "portrait": horse_portrait,
            "perched": perched_bird,
            "flying": flying_bird,
            "soaring": soaring_bird,
            "bird front": bird_front,
        }[pose]
        view = draw_pose(rng)
    turned = moved(mirrored(view) if rng.random() < 0.5 else view, angle=rng.uniform(-9, 9))
    return stretched(turned, rng.uniform(0.9, 1.12))


# ----------------------------------------------------------------------------------------------------
# Backgrounds: RGB float32 or uint8 (side, side, 3), the same for every class
# ----------------------------------------------------------------------------------------------------


def smooth_noise(rng, height, width, cells):
    """Return float32 (height, width): standard normal values on a square grid, interpolated."""
    grid = rng.standard_normal((cells + 1, cells + 1), dtype=np.float32)
    return cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)


def jitter(rng, colour, amount=18):
    """Return the RGB colour shifted at random, as a tuple of three floats for drawing."""
    shifts = rng.uniform(-amount, amount, 3).tolist()
    return tuple(min(255.0, max(0.0, value + shift)) for value, shift in zip(colour, shifts, strict=True))


def gradient(rng, side, top, bottom):
    """Return float32 (side, side, 3) running from the top to the bottom colour."""
    share = np.linspace(0, 1, side, dtype=np.float32)[:, None, None]
    first, last = np.float32(jitter(rng, top)), np.float32(jitter(rng, bottom))
    column = first * (1 - share) + last * share  # (side, 1, 3)
    return np.ascontiguousarray(np.broadcast_to(column, (side, side, 3)))


def fill_box(canvas, left, top, right, bottom, colour):
    """Fill an upright rectangle given by real coordinates."""
    cv2.rectangle(canvas, (int(left), int(top)), (int(right), int(bottom)), colour, -1)


def fill_disc(canvas, x, y, radius, colour):
    """Fill a disc given by real coordinates, never smaller than a dot."""
    cv2.circle(canvas, (int(x), int(y)), max(1, int(radius)), colour, -1)


def fill_outline(canvas, points, colour):
    """Fill a polygon given by real coordinates."""
    cv2.fillPoly(canvas, [np.array(points).astype(np.int32)], colour)


def shaded(colour, factor):
    """Return the colour times the factor, as a tuple of three floats for drawing."""
    return tuple(min(255.0, factor * value) for value in colour)


def draw_sky(rng, side):
    """Draw a sky: blue, grey or evening."""
    skies = [((110, 165, 225), (205, 225, 240)), ((150, 155, 165), (205, 208, 212)), ((120, 110, 160), (240, 185, 140))]
    return gradient(rng, side, *skies[rng.integers(len(skies))])


def draw_bricks(rng, side):
    """Draw a brick or stone wall."""
    base = [(165, 88, 66), (150, 140, 130), (190, 160, 120)][rng.integers(3)]
    canvas = gradient(rng, side, (185, 178, 168), (165, 158, 150))
    height = rng.uniform(0.05, 0.09) * side
    for row in range(int(side / height) + 1):
        for column in range(-1, int(side / (2.2 * height)) + 2):
            x, y = (column + 0.5 * (row % 2)) * 2.2 * height, row * height
            fill_box(canvas, x, y, x + 2.0 * height, y + 0.85 * height, jitter(rng, base, 14))
    return canvas


def draw_planks(rng, side):
    """Draw upright planks or wallpaper stripes."""
    base = [(150, 110, 75), (120, 130, 140), (200, 190, 165), (110, 140, 120)][rng.integers(4)]
    canvas = gradient(rng, side, base, base)
    width = rng.uniform(0.06, 0.14) * side
    for column in range(int(side / width) + 1):
        x = int(column * width)
        cv2.rectangle(canvas, (x, 0), (int(x + width), side), jitter(rng, base, 12), -1)
        cv2.line(canvas, (x, 0), (x, side), shaded(jitter(rng, base, 5), 0.7), 2)
    return canvas


def draw_leaves(rng, side):
    """Draw a hedge or a carpet of fallen leaves."""
    base = [(70, 120, 55), (105, 130, 60), (165, 110, 55)][rng.integers(3)]
    canvas = gradient(rng, side, base, shaded(base, 0.75))
    for _ in range(220):
        centre = tuple(int(value) for value in rng.uniform(0, side, 2))
        axes = (int(rng.uniform(0.015, 0.04) * side), int(rng.uniform(0.007, 0.018) * side))
        cv2.ellipse(canvas, centre, axes, rng.uniform(0, 180), 0, 360, jitter(rng, base, 26), -1)
    return canvas


def draw_grass(rng, side):
    """Draw a meadow with blades of grass."""
    base = [(95, 145, 60), (130, 150, 75), (160, 155, 90)][rng.integers(3)]
    canvas = gradient(rng, side, shaded(base, 1.1), shaded(base, 0.85))
    for _ in range(200):
        x, y = rng.uniform(0, side, 2)
        end = (int(x + rng.uniform(-0.02, 0.02) * side), int(y - rng.uniform(0.02, 0.06) * side))
        cv2.line(canvas, (int(x), int(y)), end, jitter(rng, base, 28), int(rng.integers(1, 3)))
    return canvas


def draw_water(rng, side):
    """Draw water with waves."""
    base = [(70, 120, 155), (85, 140, 140), (110, 135, 165)][rng.integers(3)]
    canvas = gradient(rng, side, shaded(base, 1.2), base)
    for _ in range(90):
        x, y = rng.uniform(0, side, 2)
        length = rng.uniform(0.03, 0.12) * side
        axes = (int(length), int(0.2 * length))
        cv2.ellipse(canvas, (int(x), int(y)), axes, 0, 200, 340, jitter(rng, base, 34), 2)
    return canvas


def draw_soil(rng, side):
    """Draw sand, soil or snow with pebbles."""
    base = [(205, 180, 135), (130, 100, 75), (225, 230, 236), (150, 148, 142)][rng.integers(4)]
    canvas = gradient(rng, side, base, shaded(base, 0.85))
    for _ in range(70):
        centre = tuple(int(value) for value in rng.uniform(0, side, 2))
        radius = rng.uniform(0.004, 0.014) * side
        axes = (int(1.6 * radius) + 1, int(radius) + 1)
        cv2.ellipse(canvas, centre, axes, 0, 0, 360, jitter(rng, base, 32), -1)
    return canvas


def draw_paving(rng, side):
    """Draw a floor of tiles that grow towards the viewer."""
    base = [(170, 165, 158), (185, 150, 120), (140, 150, 155)][rng.integers(3)]
    canvas = gradient(rng, side, shaded(base, 0.9), base)
    line_colour = shaded(base, 0.75)
    centre = rng.uniform(0.2, 0.8) * side
    for step in np.linspace(-3, 3, 25):
        far, near = int(centre + 0.3 * step * side), int(centre + step * side)
        cv2.line(canvas, (far, 0), (near, side), line_colour, 2)
    for row in np.linspace(0, 1, 14) ** 1.6:
        cv2.line(canvas, (0, int(row * side)), (side, int(row * side)), line_colour, 2)
    return canvas


# Distractors are drawn onto a canvas, stand on (x, y) and are about `reach` pixels high.


def draw_tree(canvas, rng, x, y, reach):
    """Draw a leafy tree or a fir."""
    trunk, leaf = jitter(rng, (105, 75, 50)), jitter(rng, (75, 125, 60), 35)
    fill_box(canvas, x - 0.06 * reach, y - 0.5 * reach, x + 0.06 * reach, y, trunk)
    if rng.random() < 0.4:
        for level in range(3):
            base, half = y - (0.25 + 0.22 * level) * reach, (0.34 - 0.08 * level) * reach
            points = [(x - half, base), (x + half, base), (x, base - 0.42 * reach)]
            fill_outline(canvas, points, shaded(leaf, 0.85 + 0.1 * level))
        return
    for _ in range(7):
        left, top = x + rng.uniform(-0.25, 0.25) * reach, y - rng.uniform(0.5, 0.95) * reach
        fill_disc(canvas, left, top, rng.uniform(0.12, 0.2) * reach, jitter(rng, leaf, 14))


def draw_bush(canvas, rng, x, y, reach):
    """Draw a bush, sometimes with berries."""
    leaf = jitter(rng, (80, 125, 65), 35)
    for _ in range(8):
        left, top = x + rng.uniform(-0.5, 0.5) * reach, y - rng.uniform(0.1, 0.4) * reach
        fill_disc(canvas, left, top, rng.uniform(0.12, 0.22) * reach, jitter(rng, leaf, 14))
    for _ in range(rng.integers(0, 9)):
        left, top = x + rng.uniform(-0.5, 0.5) * reach, y - rng.uniform(0.05, 0.5) * reach
        fill_disc(canvas, left, top, 0.04 * reach, jitter(rng, (200, 60, 60), 40))


def draw_rock(canvas, rng, x, y, reach):
    """Draw a rock with a lit upper side."""
    colour = jitter(rng, (135, 132, 128), 30)
    turns = np.arange(8) * np.pi / 4
    radii = rng.uniform(0.35, 0.5, 8) * reach
    corners = np.stack([1.2 * radii * np.cos(turns), 0.7 * radii * np.sin(turns)], axis=1)  # (8, 2)
    fill_outline(canvas, corners + (x, y - 0.4 * reach), shaded(colour, 0.8))
    fill_outline(canvas, 0.7 * corners + (x, y - 0.47 * reach), colour)


def draw_ball(canvas, rng, x, y, reach):
    """Draw a ball with a stripe and a glint."""
    radius = max(3, int(0.28 * reach))
    fill_disc(canvas, x, y - radius, radius, tuple(rng.uniform(40, 240, 3).tolist()))
    axes, angle = (radius, radius // 3 + 1), rng.uniform(0, 180)
    cv2.ellipse(canvas, (x, y - radius), axes, angle, 0, 360, jitter(rng, (235, 235, 225)), -1)
    fill_disc(canvas, x - 0.4 * radius, y - 1.4 * radius, radius // 5, (250.0, 250.0, 250.0))


def draw_fence(canvas, rng, x, y, reach):
    """Draw a piece of garden fence."""
    colour = jitter(rng, [(225, 220, 208), (140, 105, 75), (110, 110, 112)][rng.integers(3)])
    post, top = max(3, int(0.1 * reach)), y - 0.6 * reach
    for level in (0.15, 0.39):
        bar = y - level * reach
        fill_box(canvas, x - reach, bar - post / 2, x + reach, bar + post / 2, shaded(colour, 0.85))
    for left in np.arange(x - reach, x + reach, 2.2 * post):
        right, middle = left + post, left + 0.5 * post
        fill_outline(canvas, [(left, y), (right, y), (right, top), (middle, top - post), (left, top)], colour)


def draw_house(canvas, rng, x, y, reach):
    """Draw a house with a roof, a door and windows."""
    half, eaves = 0.5 * reach, y - 0.55 * reach
    fill_box(canvas, x - half, eaves, x + half, y, jitter(rng, (215, 200, 175), 35))
    roof = [(x - 1.2 * half, eaves), (x + 1.2 * half, eaves), (x, y - reach)]
    fill_outline(canvas, roof, jitter(rng, (160, 80, 65), 40))
    fill_box(canvas, x - 0.12 * reach, y - 0.3 * reach, x + 0.06 * reach, y, jitter(rng, (110, 75, 60)))
    for left in (x - 0.4 * reach, x + 0.2 * reach):
        top, width = y - 0.45 * reach, 0.16 * reach
        fill_box(canvas, left, top, left + width, top + width, jitter(rng, (150, 190, 215)))


def draw_flowers(canvas, rng, x, y, reach):
    """Draw a few flowers on stems."""
    petal = tuple(rng.uniform(110, 250, 3).tolist())
    for _ in range(5):
        stem, top = int(x + rng.uniform(-0.5, 0.5) * reach), int(y - rng.uniform(0.25, 0.6) * reach)
        cv2.line(canvas, (stem, y), (stem, top), jitter(rng, (80, 130, 60)), 2)
        for turn in np.arange(5) * 2 * np.pi / 5:
            left, height = stem + 0.07 * reach * np.cos(turn), top + 0.07 * reach * np.sin(turn)
            fill_disc(canvas, left, height, max(2, 0.05 * reach), petal)
        fill_disc(canvas, stem, top, 0.04 * reach, (235.0, 200.0, 70.0))


def draw_box(canvas, rng, x, y, reach):
    """Draw a crate seen from a corner."""
    colour = jitter(rng, (185, 145, 95), 40)
    half, rise = int(0.35 * reach), int(0.15 * reach)
    left, right, top = x - half, x + half, y - 2 * half
    fill_box(canvas, left, top, right, y, colour)
    lid = [(left, top), (left + rise, top - rise), (right + rise, top - rise), (right, top)]
    flank = [(right, top), (right + rise, top - rise), (right + rise, y - rise), (right, y)]
    fill_outline(canvas, lid, shaded(colour, 1.15))
    fill_outline(canvas, flank, shaded(colour, 0.75))
    cv2.line(canvas, (left, y), (right, top), shaded(colour, 0.85), max(2, half // 6))


def draw_bicycle(canvas, rng, x, y, reach):
    """Draw a bicycle."""
    colour = tuple(rng.uniform(30, 220, 3).tolist())
    radius, width = int(0.26 * reach), max(2, int(0.035 * reach))
    hub = y - radius
    left, pedal, right = (int(x - 0.4 * reach), hub), (x, hub), (int(x + 0.4 * reach), hub)
    saddle = (int(x - 0.15 * reach), int(y - 0.6 * reach))
    bar = (int(x + 0.26 * reach), int(y - 0.65 * reach))
    for wheel in (left, right):
        cv2.circle(canvas, wheel, radius, (50.0, 50.0, 52.0), width)
    frame = [left, pedal, saddle, left, saddle, bar, pedal, bar, right]
    cv2.polylines(canvas, [np.array(frame, np.int32)], False, colour, width)
    cv2.ellipse(canvas, saddle, (3 * width, width), 0, 0, 360, (40.0, 40.0, 40.0), -1)


def draw_lamp(canvas, rng, x, y, reach):
    """Draw a street lamp."""
    colour = jitter(rng, (70, 75, 80))
    fill_box(canvas, x - 0.025 * reach, y - 0.9 * reach, x + 0.025 * reach, y, colour)
    fill_disc(canvas, x, y - 0.93 * reach, 0.09 * reach, jitter(rng, (245, 235, 190)))
    fill_box(canvas, x - 0.08 * reach, y - 0.04 * reach, x + 0.08 * reach, y, colour)


def draw_cloud(canvas, rng, x, y, reach):
    """Draw a cloud."""
    colour = jitter(rng, (238, 240, 244), 10)
    for offset in np.linspace(-0.5, 0.5, 5):
        top, radius = y - rng.uniform(0, 0.15) * reach, rng.uniform(0.12, 0.22) * reach
        fill_disc(canvas, x + offset * reach, top, radius, colour)


UPPER_SURFACES = (draw_sky, draw_sky, draw_sky, draw_bricks, draw_planks, draw_leaves)
LOWER_SURFACES = (draw_grass, draw_grass, draw_water, draw_soil, draw_paving, draw_leaves)
DISTRACTORS = (
    draw_tree,
    draw_tree,
    draw_bush,
    draw_rock,
    draw_ball,
    draw_fence,
    draw_house,
    draw_flowers,
    draw_box,
    draw_bicycle,
    draw_lamp,
)


def draw_background(rng, size):
    """Draw a scene without animals: two surfaces that meet at a horizon, things standing about, noise.

    Returns:
        uint8 (size, size, 3), RGB.
    """
    side = size * SUPERSAMPLING // 2
    upper = UPPER_SURFACES[rng.integers(len(UPPER_SURFACES))]
    canvas = upper(rng, side)
    horizon = int(rng.uniform(0.25, 0.75) * side) if rng.random() < 0.8 else int(rng.choice([0, 0.95]) * side)
    if upper is draw_sky:
        for _ in range(rng.integers(0, 4)):
            x, y = rng.uniform(0, side), rng.uniform(0, 0.9 * horizon + 1)
            draw_cloud(canvas, rng, x, y, rng.uniform(0.15, 0.4) * side)
    lower = LOWER_SURFACES[rng.integers(len(LOWER_SURFACES))](rng, side)
    waves = smooth_noise(rng, 1, side, 6)[0] * rng.uniform(0, 0.03) * side + horizon  # (side,)
    canvas = np.where((np.arange(side)[:, None] < waves)[..., None], canvas, lower)
    for y in np.sort(rng.uniform(horizon, 1.1 * side, rng.integers(4, 9))):
        thing = DISTRACTORS[rng.integers(len(DISTRACTORS))]
        thing(canvas, rng, int(rng.uniform(0, side)), int(y), rng.uniform(0.16, 0.45) * side)
    small = cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA)  # (size, size, 3)
    noise = sum(smooth_noise(rng, size, size, cells) * rng.uniform(1, 4) for cells in (4, 10, 24, 60))
    calm = rng.uniform(0.7, 0.95)  # a little less contrast than the animals have
    small = small * calm + (1 - calm) * small.mean(axis=(0, 1)) + noise[..., None]
    return np.clip(np.rint(small), 0, 255).astype(np.uint8)


# ----------------------------------------------------------------------------------------------------
# Scenes
# ----------------------------------------------------------------------------------------------------


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


# ----------------------------------------------------------------------------------------------------
# The set on disk
# ----------------------------------------------------------------------------------------------------


def write_picture(folder, name, scene):
    """Write one picture and its masks.

    Args:
        folder: root of the demo set.
        name: path in it without the ending, such as "val/dog/dog_000".
        scene: the Scene.

    Returns:
        list of dict, one annotation per animal.
    """
    height, width = scene.image.shape[:2]
    Image.fromarray(scene.image).save(folder / f"{name}.jpg", quality=JPEG_QUALITY)
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
            annotations += write_picture(folder, f"{path}/{Path(path).name}_{index:03d}", scene)
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
    """Draw a whole demo set, in a temporary folder next to its place, and put it there once it is complete.

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
    """
    folder = Path(folder).absolute()
    check_replaceable(folder, complete=not only_if_incomplete)
    folder.parent.mkdir(parents=True, exist_ok=True)
    workshop = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        fresh = workshop / "new"
        fresh.mkdir()
        write_set(fresh, seed, {"train": train, "val": val, "both": both}, size)
        check_replaceable(folder, complete=not only_if_incomplete)  # it may have changed in the meantime
        if not (only_if_incomplete and (folder / "annotations.json").is_file()):
            put_in_place(fresh, workshop / "old", folder)
    finally:
        shutil.rmtree(workshop, ignore_errors=True)
    train, val = len(CLASSES) * train, len(CLASSES) * val
    return {"train": train, "val": val, "both": both, "masks": train + val + 2 * both}


def demo_folder():
    """Return the folder of the demo set, data/demo next to this script, drawing it first where it is missing.

    Returns:
        Path, holding a complete set.

    Raises:
        UserError: data/demo holds something other than a demo set.
    """
    folder = Path(__file__).resolve().parent / "demo"
    if not (folder / "annotations.json").is_file():
        print(f"drawing the demo set into {folder} (once, about 20 s)", flush=True)
        draw_demo(folder, only_if_incomplete=True)
    return folder


def parse_arguments(arguments=None):
    parser = ArgumentParser(__doc__)
    default_folder = Path(__file__).resolve().parent / "demo"
    some, any_number = whole_number(1, 10000), whole_number(0, 10000)
    parser.add_argument("--output", type=Path, default=default_folder, metavar="DIR", help="folder to write")
    parser.add_argument("--seed", type=whole_number(0, 2**32 - 1), default=0, metavar="N", help="another set for each")
    parser.add_argument("--train", type=some, default=200, metavar="N", help="training pictures per class")
    parser.add_argument("--val", type=some, default=50, metavar="N", help="validation pictures per class")
    parser.add_argument("--both", type=any_number, default=50, metavar="N", help="pictures with two animals")
    parser.add_argument("--size", type=whole_number(32, 512), default=128, metavar="N", help="side in pixels")
    return parser.parse_args(arguments)


def main(arguments=None):
    settings = parse_arguments(arguments)
    counts = draw_demo(settings.output, settings.seed, settings.train, settings.val, settings.both, settings.size)
    print(
        f"wrote {counts['train']} train, {counts['val']} val and {counts['both']} both pictures, "
        f"{counts['masks']} masks and annotations.json to {settings.output}"
    )
    print("next: python make_cam_maps.py")
    return 0


if __name__ == "__main__":
    run_script(main)
