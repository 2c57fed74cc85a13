"""Backgrounds of the demo set: surfaces, and things that stand about."""

import cv2
import numpy as np

SUPERSAMPLING = 4  # animals are drawn this much larger and then averaged; backgrounds half of it


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


# ---------------------------------------------------------------- surfaces: RGB float32 or uint8 (side, side, 3)


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


# ------------------------------ things that stand on (x, y) and are about `reach` pixels high


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
