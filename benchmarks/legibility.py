"""How well superpositions show where the evidence is, and whether the legend's colours are seen on dark and white fur.

    python make_cam_maps.py my_photos --output outputs/mine
    python benchmarks/legibility.py outputs/mine

Of each photo the map of the class predicted is drawn over it in several styles and saved as JPEG, as the scripts do.
All colours are compared in CIE Lab (CIE76: the Euclidean distance); a distance of 2 is just seen side by side.

- From the rest: from the mean colour of the region at or above half of the map's maximum to that of the region below a
  tenth of it; the more the better.
- Off the legend: from the mean colour where the map has from a quarter to three quarters of its maximum to the mean of
  the legend's colours of the same values; the less the better. The legend is the style over a mid-grey photo.
- Lightness kept: the correlation of lightness between picture and photo; the photo should stay recognisable.

The tables have the median and the worse tenth over the photos: of all, of the 100 with the darkest and of the 100 with
the whitest animals (of fewer than 300 photos a third). An animal counts as dark or white by the median grey of the
photo's central half.
"""

import io
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import cv2
import numpy as np
from PIL import Image

from camlib.console import ArgumentParser, Progress, UserError, counted, print_table, run_script
from camlib.plots.colours import (
    PALEST,
    Style,
    colours,
    enlarged_for_display,
    scaled,
    superposition,
    superposition_scale_of,
)
from camlib.plots.panels import encoded_jpeg, mid_grey
from camlib.runs.maps import find_maps, find_saved, read_map

HIGH, LOW = 0.5, 0.1  # shares of the map's maximum that bound the two regions
MIDDLING = 0.25, 0.75  # shares of the map's maximum
GROUP = 100  # photos with dark animals, and with white ones


# ---------------------------------------------------------------- the measures


def lab(picture):
    """CIE Lab, float (H, W, 3), of a picture, uint8 (H, W, 3), sRGB."""
    return cv2.cvtColor(picture.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)


def distance(one, other):
    """CIE76 between the mean colours of two sets of pixels, float (N, 3), Lab."""
    return float(np.linalg.norm(one.mean(axis=0) - other.mean(axis=0)))


def colour_difference(picture, values):
    """CIE76 between the mean colours of where a map is high and where it is low.

    Args:
        picture: uint8 (H, W, 3), sRGB.
        values: float (H, W), the map at the picture's size.

    Returns:
        float, or None where the map is nowhere positive, or nowhere low.
    """
    high, low = values >= HIGH * values.max(), values < LOW * values.max()
    if values.max() <= 0 or not low.any():
        return None
    coloured = lab(picture)
    return distance(coloured[high], coloured[low])


def off_the_legend(picture, legend, values):
    """CIE76 between the mean colours of a picture and of its legend, both (H, W, 3), where the map is middling.

    None where the map, float (H, W), is nowhere positive, or nowhere middling.
    """
    middling = (values >= MIDDLING[0] * values.max()) & (values <= MIDDLING[1] * values.max())
    return distance(lab(picture)[middling], lab(legend)[middling]) if values.max() > 0 and middling.any() else None


def kept_lightness(picture, photo):
    """Correlation of the lightness L of a picture and of the photo below; 1 where nothing is hidden."""
    pair = [lab(one)[..., 0].ravel() for one in (picture, photo)]
    return float(np.corrcoef(*pair)[0, 1]) if all(np.ptp(one) for one in pair) else None


def lightness_of_animal(photo):
    """The median grey, 0 to 255, of a photo's central half, which is where the animal is."""
    height, width = photo.shape[:2]
    centre = photo[height // 4 : height - height // 4, width // 4 : width - width // 4]
    return float(np.median(cv2.cvtColor(centre, cv2.COLOR_RGB2GRAY)))


# ---------------------------------------------------------------- the styles compared
# functions of a photo uint8 (H, W, 3), a map float (H, W) of -1..1 or 0..1, and whether it is signed


def in_proportion(photo, values, signed):
    """Our colours over the grey photo, the opacity in proportion to the value: the usual way to let a photo through."""
    away = np.sign(values) * PALEST + (1 - PALEST) * values
    weight = 0.9 * np.abs(np.clip(values, -1, 1))[..., None]
    below = cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)[..., None]
    return np.rint(weight * colours(away, signed) + (1 - weight) * below).astype(np.uint8)


def half_opaque(photo, values, signed, name):
    """The usual overlay: a colour map over the photo in colour, at half opacity everywhere."""
    return np.rint(0.5 * photo + 0.5 * colours(values, False, Style(name))).astype(np.uint8)


STYLES = {
    "as written: spp_for_<class>.jpg": superposition,
    "the same, --photo-in-colour": partial(superposition, style=Style(in_colour=True)),
    "our colours, opacity in proportion": in_proportion,
    "jet over the photo in colour, half opaque": partial(half_opaque, name="jet"),
    "turbo over the photo in colour, half opaque": partial(half_opaque, name="turbo"),
}


def as_jpeg(picture):
    """The picture as it comes back from a JPEG file as the scripts write it."""
    return np.asarray(Image.open(io.BytesIO(encoded_jpeg(picture))))


# ---------------------------------------------------------------- the script


def measures_of(saved):
    """(lightness of the animal, dict of style -> list of the three measures), or None without a map of its class."""
    kind, places = next(iter(find_maps(saved).items()))
    if saved.predicted not in places:
        return None
    photo, maps = saved.read_photo(), {name: read_map(place) for name, place in places.items()}
    scale, found = superposition_scale_of(saved.is_signed(kind), maps.values()), {}
    values = enlarged_for_display(scaled(maps[saved.predicted], scale.limit), *photo.shape[:2])
    for style, draw in STYLES.items():
        picture, legend = as_jpeg(draw(photo, values, scale.signed)), draw(mid_grey(values), values, scale.signed)
        off = off_the_legend(picture, legend, values)
        found[style] = [colour_difference(picture, values), off, kept_lightness(picture, photo)]
    return lightness_of_animal(photo), found


def row_of(style, photos):
    """A row of a table: the median and the worse tenth of the first two measures, and the median of the third."""
    columns = [[one for one in column if one is not None] for column in zip(*(of[style] for of in photos), strict=True)]
    wanted = zip(columns, ([50, 10], [50, 90], [50]), strict=True)
    numbers = [number for column, shares in wanted for number in np.percentile(column or [np.nan], shares)]
    return [style, *(f"{number:.1f}" for number in numbers[:-1]), f"{numbers[-1]:.2f}"]


def parse_arguments(arguments=None):
    parser = ArgumentParser(__doc__)
    parser.add_argument("place", type=Path, metavar="FOLDER", help="a run of make_cam_maps.py or gradcam_vgg16.py")
    return parser.parse_args(arguments)


def main(arguments=None):
    settings = parse_arguments(arguments)
    saved, measured = find_saved(settings.place), []
    with Progress("photos", len(saved)) as progress:
        for photo in saved:
            measured.append(measures_of(photo))
            progress.advance()
    measured = sorted(filter(None, measured), key=lambda one: one[0])
    if not measured:
        raise UserError(f"no photo of {settings.place} has a map of the class predicted; expected --classes predicted")
    count = max(1, min(GROUP, len(measured) // 3))
    header = ["superposition", "from the rest", "worse tenth", "off the legend", "worse tenth", "lightness kept"]
    for name, group in (("all", measured), ("dark", measured[:count]), ("white", measured[-count:])):
        lightness, found = zip(*group, strict=True)
        title = (
            f"{name}: {counted(len(group), 'photo')}, animals' grey {lightness[0]:.0f} to {lightness[-1]:.0f} of 255"
        )
        print_table(title, header, [row_of(style, found) for style in STYLES])
    return 0


if __name__ == "__main__":
    run_script(main)
