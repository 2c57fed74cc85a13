"""Animals of the demo set: outlines in many poses, made of parts."""

import itertools
from typing import NamedTuple

import cv2
import numpy as np

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


class BodyPart(NamedTuple):
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


# ---------------------------------------------------------------- shapes


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
        BodyPart(disc(x, y, radius), iris, rim=iris != BLACK),
        BodyPart(pupil_outline, BLACK),
        BodyPart(disc(x + 0.3 * radius, y + 0.35 * radius, 0.3 * radius), WHITE),
    ]


# ------------------------------ heads: origin at the skull's centre; profiles look right


def dog_profile(rng):
    """Draw a dog's head from the side: long snout, black nose, one hanging ear."""
    snout, ear = rng.uniform(22, 31), rng.uniform(17, 25)
    return [
        BodyPart(tube([(10, -10, 6), (snout - 1, -12, 4.5)]), LIGHT, 0.85),
        BodyPart(tube([(0, 0, 16), (8, -2, 13), (snout, -5, 8), (snout + 5, -5, 7)]), COAT),
        BodyPart(tube([(snout + 6, -11, 1.1), (13, -11, 1.1), (9, -8, 1.1)]), BLACK),
        BodyPart(disc(snout + 9, -1, 5), BLACK),
        *eye(10, 5, 3.4),
        BodyPart(tube([(-5, 12, 5), (-12, 2, 8), (-12, -ear, 7)]), DARK, 0.9, rim=True),
    ]


def dog_face(rng):
    """Draw a dog's face: hanging ears on both sides, a light muzzle with a large nose, often a tongue."""
    ear, muzzle = rng.uniform(18, 27), rng.uniform(11, 13.5)
    tongue = [BodyPart(tube([(0, -20, 4), (0, -25, 4.5)]), PINK, rim=True)] if rng.random() < 0.6 else []
    right_ear = [BodyPart(tube([(11, 14, 5), (22, 4, 7.5), (23, -ear, 7)]), DARK, 0.9, rim=True)]
    return [
        BodyPart(tube([(0, 5, 20), (0, -6, 18)]), COAT, rim=True),
        *right_ear,
        *mirrored(right_ear),
        *tongue,
        BodyPart(tube([(-4.5, -11, muzzle - 2), (0, -8, muzzle), (4.5, -11, muzzle - 2)]), LIGHT, rim=True),
        BodyPart(tube([(-2.5, -3, 4.5), (2.5, -3, 4.5)]), BLACK),
        BodyPart(tube([(0, -5, 0.9), (0, -13, 0.9)]), BLACK),
        BodyPart(tube([(-8, -13, 0.9), (-4, -16, 0.9), (0, -13, 0.9), (4, -16, 0.9), (8, -13, 0.9)]), BLACK),
        *eye(-8.5, 8, 3.8),
        *eye(8.5, 8, 3.8),
    ]


def whiskers(x, y, reach, sides=(-1, 1)):
    """Draw three whiskers to each of the sides of a muzzle at (x, y)."""
    return [
        BodyPart(tube([(x + side * 4, y, 0.6), (x + side * reach, y + slope, 0.6)], 1), WHISKER)
        for side in sides
        for slope in (-7, -1, 5)
    ]


def cat_profile(rng):
    """Draw a cat's head from the side: round, flat-nosed, two pointed ears, whiskers."""
    ear = rng.uniform(30, 35)
    return [
        BodyPart(polygon((1, 12), (10, ear - 1), (14, 9)), DARK, 0.75, rim=True),
        BodyPart(tube([(0, 0, 17), (5, -2, 14.5)]), COAT),
        BodyPart(tube([(14, -6, 7), (17, -6, 6)]), LIGHT),
        BodyPart(polygon((-14, 8), (-9, ear), (6, 15)), COAT, rim=True),
        BodyPart(polygon((-10, 12), (-7.5, ear - 7), (1, 15)), PINK, 0.85),
        BodyPart(disc(22, -3, 2.4), PINK, 0.8),
        *eye(11, 3, 4.6, IRIS, (0.3, 0.9)),
        *whiskers(15, -7, 24, sides=(1,)),
    ]


def cat_face(rng):
    """Draw a cat's face: wide and round, two pointed ears, slit pupils, small nose, whiskers."""
    ear, width = rng.uniform(31, 37), rng.uniform(4, 7)
    right_ear = [
        BodyPart(polygon((2, 14), (16 + 0.6 * width, ear), (20, 2)), COAT, rim=True),
        BodyPart(polygon((7, 14), (15.5 + 0.6 * width, ear - 7), (17.5, 6)), PINK, 0.85),
    ]
    return [
        *right_ear,
        *mirrored(right_ear),
        BodyPart(tube([(-width, -1, 17), (0, 0, 18), (width, -1, 17)]), COAT),
        BodyPart(tube([(-4.5, -10, 6), (4.5, -10, 6)]), LIGHT),
        BodyPart(polygon((-3.5, -4), (3.5, -4), (0, -8.5)), PINK, 0.8),
        BodyPart(tube([(-5, -13, 0.5), (-3, -14, 0.5), (0, -11, 0.5), (3, -14, 0.5), (5, -13, 0.5)]), BLACK),
        *eye(-9, 3, 5.2, IRIS, (0.3, 0.9)),
        *eye(9, 3, 5.2, IRIS, (0.3, 0.9)),
        *whiskers(0, -9, 27),
    ]


def horse_profile(rng):
    """Draw a horse's head from the side: long and tapering, pointed ears, forelock, nostril."""
    length = rng.uniform(32, 40)
    skull = [(0, 0, 12.5), (8, -3, 11), (0.6 * length, -6, 8), (length, -9, 7.5), (length + 3, -10, 6)]
    return [
        BodyPart(polygon((-7, 7), (-3, 25), (3, 9)), COAT, 0.8),
        BodyPart(tube(skull), COAT),
        BodyPart(tube([(length, -10, 7), (length + 4, -10.5, 5.5)]), LIGHT, 0.8),
        BodyPart(disc(length + 5, -7, 1.8), BLACK),
        BodyPart(tube([(length + 5, -14, 0.9), (length - 5, -14, 0.9)]), BLACK),
        BodyPart(polygon((-11, 6), (-9, 24), (-1, 9)), COAT, rim=True),
        BodyPart(tube([(-4, 12, 4), (5, 8, 3.5), (12, 3, 1.5)]), DARK, 0.9),
        *eye(9, 2, 3.2),
    ]


def horse_face(rng):
    """Draw a horse's face: a long wedge, ears on top, eyes at the sides, nostrils below, often a blaze."""
    length = rng.uniform(38, 46)
    blaze = [BodyPart(tube([(0, 8, 3.5), (0, -length * 0.6, 3)]), WHITE)] if rng.random() < 0.6 else []
    right_ear = [
        BodyPart(polygon((2, 10), (10, 31), (13, 8)), COAT, rim=True),
        BodyPart(polygon((5, 12), (9.5, 26), (11, 10)), PINK, 0.6),
    ]
    right_details = [*eye(11.5, 1, 3.4), BodyPart(tube([(5, -length, 1.9), (6, 3 - length, 1.5)]), BLACK)]
    return [
        *right_ear,
        *mirrored(right_ear),
        BodyPart(tube([(0, 3, 14), (0, -8, 13), (0, -length * 0.65, 8.5), (0, -length, 10)]), COAT, rim=True),
        *blaze,
        BodyPart(tube([(-3, -length, 8.5), (3, -length, 8.5)]), LIGHT, 0.8),
        *right_details,
        *mirrored(right_details),
        BodyPart(tube([(0, 14, 5), (-3, 7, 4), (2, -3, 1.5)]), DARK, 0.9),
    ]


# ------------------------------ four-legged bodies: ground at y = 0, looking right


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
    parts = [BodyPart(tube([(*joint, radius) for joint, radius in zip(joints, radii, strict=True)]), COAT, shade)]
    if build.hoof:
        parts.append(BodyPart(tube([(*(foot + tip), 5), (*(foot + 3 * tip), 5)]), BLACK, shade))
    else:
        parts.append(BodyPart(tube([(*foot, build.ankle), (*(foot + 6 * tip), build.ankle * 0.95)]), COAT, shade))
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
    return moved([BodyPart(tube(curve), DARK if kind == "horse" else COAT)], x, y)


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
    parts = [BodyPart(tube([(*base, build.neck_root), bend, (*top, build.neck_top)]), COAT)]
    if kind == "horse":
        normal = np.array([-direction[1], direction[0]])  # towards the crest of the neck
        crest = [
            base - 0.25 * (top - base) + 15 * normal,
            base + 0.3 * (top - base) + 15 * normal,
            base + 0.7 * (top - base) + 11 * normal,
            top + 9 * normal + 4 * direction,
        ]
        mane = [(*point, radius) for point, radius in zip(crest, (2, 6.5, 6.5, 5), strict=True)]
        parts.append(BodyPart(tube(mane), DARK))
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
        BodyPart(body, COAT),
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
        BodyPart(tube(curve), COAT, 0.95),
        BodyPart(tube(far_front), COAT, 0.7),
        BodyPart(tube(trunk), COAT),
        BodyPart(tube([(17 + lean, 64, 6), (17 + lean, 46, 5)]), LIGHT),
        BodyPart(tube(front), COAT, 1.0, rim=True),
        BodyPart(tube([(-19, 19, 16 * width), (-8, 15, 11 * width)]), COAT, 1.0, rim=True),
        BodyPart(tube([(-14, 5, 5), (6, 5, 4.6)]), COAT, 1.0, rim=True),
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
        BodyPart(tube([(18 * width, 19, 15 * width), (20 * width, 12, 12 * width)]), COAT, 0.93, rim=True),
        BodyPart(tube([(19 * width, 6, 6), (24 * width, 6, 6)]), COAT, rim=True),
        BodyPart(tube(foreleg), COAT, rim=True),
    ]
    head = dog_face(rng) if kind == "dog" else cat_face(rng)
    return [
        BodyPart(tube(curve), COAT, 0.9),
        BodyPart(tube([(0, 20, 23 * width), (0, 44, 19 * width), (0, 64, 15 * width)]), COAT),
        *right_legs,
        *mirrored(right_legs),
        BodyPart(tube([(0, 58, 9 * width), (0, 42, 5)]), LIGHT),
        *moved(head, rng.uniform(-4, 4), 80, angle=rng.uniform(-14, 14), scale=rng.uniform(1.0, 1.2)),
    ]


def horse_front(rng):
    """Draw a horse facing the viewer: long face, narrow chest, four long legs."""
    height, turn = rng.uniform(74, 84), rng.uniform(-12, 12)
    right_far_leg = [
        BodyPart(tube([(17, height - 14, 9), (19, 40, 6), (20, 10, 4.8)]), COAT, 0.62),
        BodyPart(tube([(20, 9, 5.2), (20.5, 6, 6)]), BLACK),
    ]
    foreleg = [(14, height - 2, 11), (13, 42, 7), (12.5, 34, 5.6), (12, 7, 5.2)]
    right_leg = [BodyPart(tube(foreleg), COAT, rim=True), BodyPart(tube([(12, 6, 5.4), (12, 3, 6.6)]), BLACK)]
    return [
        BodyPart(tube([(14, height - 10, 4), (22, height - 32, 6), (24, height - 50, 3)]), DARK, 0.8),
        *right_far_leg,
        *mirrored(right_far_leg),
        BodyPart(tube([(-5, height, 22), (5, height, 22), (0, height + 14, 22)]), COAT, 0.9),
        *right_leg,
        *mirrored(right_leg),
        BodyPart(tube([(-8, height + 30, 8), (-10 + turn, height + 48, 6)]), DARK),
        BodyPart(tube([(0, height + 14, 18), (0.6 * turn, height + 34, 14), (turn, height + 50, 12)]), COAT),
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
        BodyPart(polygon(*neck), COAT),
        BodyPart(tube(mane), DARK),
        *moved(horse_profile(rng), 12, 60 * length, rng.uniform(-40, -20), rng.uniform(1.1, 1.25)),
    ]


# ---------------------------------------------------------------- birds


def bird_head(rng):
    """Draw a bird's head from the side: small, round, one eye, a beak."""
    beak = rng.uniform(16, 28)
    droop = rng.uniform(-5, 1)
    return [
        BodyPart(polygon((8, 6), (12 + beak, droop), (8, -6)), HORN, rim=True),
        BodyPart(polygon((8, 0), (12 + beak, droop), (8, -6)), HORN, 0.75),
        BodyPart(disc(0, 0, 14), COAT),
        *eye(5, 3, 3.6),
    ]


def tail_fan(x, y, angle, spread, length, count=4):
    """Draw tail feathers from (x, y) about the direction `angle` (degrees), `spread` degrees to each side."""
    feathers = []
    for turn in np.radians(angle + np.linspace(-spread, spread, count)):
        step_x, step_y = length * np.cos(turn), length * np.sin(turn)
        feather = tube([(x, y, 4), (x + 0.6 * step_x, y + 0.6 * step_y, 5), (x + step_x, y + step_y, 4.5)], 2)
        feathers.append(BodyPart(feather, DARK, 0.95, rim=True))
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
        parts.append(BodyPart(feather, DARK, shade, rim=True))
    radii = np.linspace(10, 4, len(arm))
    spine = tube([(*point, radius) for point, radius in zip(arm, radii, strict=True)])
    return [*parts, BodyPart(spine, DARK, 1.15 * shade)]


def perched_bird(rng):
    """Draw a bird standing on two thin legs, from the side, with a folded wing."""
    legs, rise, pitch = rng.uniform(18, 40), rng.uniform(0, 12), rng.uniform(-22, 14)
    trunk = [(-30, -2, 8), (-10, 0, 20), (12, 3, 21), (26, 16, 14), (31 + 0.3 * rise, 28 + rise, 12)]
    wing = blob((18, 14), (4, 17), (-22, 8), (-50, -8), (-30, -10), (-4, -9), (14, 0))
    look, size = rng.uniform(-18, 10) - pitch, rng.uniform(0.95, 1.15)
    body = [
        *tail_fan(-26, -2, 188, rng.uniform(6, 16), rng.uniform(28, 44)),
        BodyPart(tube(trunk), COAT),
        BodyPart(tube([(-4, -10, 9), (14, -6, 12), (25, 6, 8)]), LIGHT),
        BodyPart(wing, DARK, 0.95, rim=True),
        BodyPart(tube([(8, 2, 1), (-12, -2, 1), (-34, -6, 1)]), BLACK),
        *moved(bird_head(rng), 32 + 0.3 * rise, 32 + rise, look, size),
    ]
    parts = []
    for x, shade in ((8, 0.75), (-2, 1.0)):
        parts += [
            BodyPart(tube([(x, legs, 2.4), (x + 1, 3, 2.2)]), HORN, shade),
            BodyPart(tube([(x - 6, 1, 2), (x + 1, 3, 2.2), (x + 9, 1, 2)], 2), HORN, shade),
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
        BodyPart(tube([(-36, 0, 6), (-10, 0, 15), (14, 2, 16), (34, 9, 12)]), COAT),
        BodyPart(tube([(-12, -7, 6), (14, -7, 8)]), LIGHT),
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
        BodyPart(tube([(0, -32, 7), (0, -6, 15), (0, 16, 14), (0, 32, 10)]), COAT),
        BodyPart(tube([(0, -14, 7), (0, 10, 8)]), LIGHT),
        *(head if side > 0 else mirrored(head)),
    ]


def bird_front(rng):
    """Draw a bird facing the viewer: egg-shaped, wings folded at its sides, two legs, beak below the eyes."""
    legs, width = rng.uniform(12, 24), rng.uniform(0.9, 1.1)
    beak = rng.uniform(9, 13)
    right_side = [
        BodyPart(tube([(9, legs + 4, 2.6), (10, 3, 2.4)]), HORN),
        BodyPart(tube([(3, 1, 2.1), (10, 3, 2.4), (17, 1, 2.1)], 2), HORN),
    ]
    wing = blob((18 * width, legs + 54), (29 * width, legs + 36), (27 * width, legs + 4), (19 * width, legs + 12))
    right_wing = [BodyPart(wing, DARK, 0.95, rim=True)]
    height = legs + 66
    return [
        *tail_fan(0, legs + 8, -90, 14, 16, 3),
        *right_side,
        *mirrored(right_side),
        BodyPart(tube([(0, legs + 22, 23 * width), (0, legs + 44, 20 * width)]), COAT),
        BodyPart(tube([(0, legs + 18, 15 * width), (0, legs + 40, 12 * width)]), LIGHT),
        *right_wing,
        *mirrored(right_wing),
        BodyPart(disc(0, height, 19), COAT, rim=True),
        *eye(-8, height + 4, 5.2, IRIS),
        *eye(8, height + 4, 5.2, IRIS),
        BodyPart(polygon((-5.5, height - 1), (5.5, height - 1), (0, height - 1 - beak)), HORN, rim=True),
    ]


def pose_animal(rng, name):
    """Draw one animal of a class in a pose chosen at random.

    Returns:
        list of BodyPart in the animal's own coordinates, y upwards.
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
