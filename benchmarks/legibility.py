"""How well superpositions show where the evidence is: the difference in colour that a map makes over its photo.

    python make_cam_maps.py my_photos --output outputs/mine
    python benchmarks/legibility.py outputs/mine

Of each photo the map of the class predicted is drawn over it in several styles and saved as JPEG, as the scripts do. In
CIE Lab the mean colour of the region at or above half of the map's maximum is compared with that of the region below a
tenth of it (CIE76: the Euclidean distance). A distance of 2 is just seen side by side; the table has the median and the
tenth percentile over the photos. Ours is the picture that the run wrote. The photo below should stay recognisable, too:
the second measure is the correlation of lightness between picture and photo over the whole photo.
"""

import io
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import cv2
import numpy as np
from PIL import Image

from camlib.console import ArgumentParser, Progress, UserError, print_table, run_script
from camlib.photos import read_photo
from camlib.plots.colours import (
    Style,
    colours,
    enlarged_for_display,
    superposition,
    superposition_of,
    superposition_scale_of,
)
from camlib.plots.panels import encoded_jpeg
from camlib.runs.maps import find_maps, find_saved, read_map

HIGH, LOW = 0.5, 0.1  # shares of the map's maximum that bound the two regions


# ---------------------------------------------------------------- the measures


def lab(picture):
    """CIE Lab, float (H, W, 3), of a picture, uint8 (H, W, 3), sRGB."""
    return cv2.cvtColor(picture.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)


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
    return float(np.linalg.norm(coloured[high].mean(axis=0) - coloured[low].mean(axis=0)))


def kept_lightness(picture, photo):
    """Correlation of the lightness L of a picture and of the photo below; 1 where nothing is hidden."""
    pair = [lab(one)[..., 0].ravel() for one in (picture, photo)]
    return float(np.corrcoef(*pair)[0, 1]) if all(np.ptp(one) for one in pair) else None


# ---------------------------------------------------------------- the styles compared
# functions of a photo uint8 (H, W, 3) and a map float (H, W) of -1..1


def half_opaque(photo, values, name):
    """The usual overlay: a colour map over the photo in colour, at half opacity everywhere."""
    return np.rint(0.5 * photo + 0.5 * colours(values, False, Style(name))).astype(np.uint8)


def rising(photo, values):
    """Inferno over the grey photo, its opacity rising with the value."""
    return superposition(photo, values, False, Style("inferno", opacity=1.0))


STYLES = {
    "inferno over the grey photo, opacity rising": rising,
    "jet over the photo in colour, half opaque": partial(half_opaque, name="jet"),
    "turbo over the photo in colour, half opaque": partial(half_opaque, name="turbo"),
}


def as_jpeg(picture):
    """The picture as it comes back from a JPEG file as the scripts write it."""
    return np.asarray(Image.open(io.BytesIO(encoded_jpeg(picture))))


# ---------------------------------------------------------------- the script


def pictures_of(saved):
    """Yield (style, picture, photo, the map at its size) of a photo's predicted class."""
    kind, paths = next(iter(find_maps(saved).items()))
    if saved.predicted not in paths:
        return
    photo = saved.read_photo()
    maps = {name: read_map(path) for name, path in paths.items()}
    large = enlarged_for_display(maps[saved.predicted], *photo.shape[:2])
    scale = superposition_scale_of(saved.is_signed(kind), maps.values())
    yield "as written: spp_for_<class>.jpg", read_photo(saved.folder / f"spp_for_{saved.predicted}.jpg"), photo, large
    in_colour = superposition_of(photo, maps[saved.predicted], scale, Style(in_colour=True))
    yield "the same, --photo-in-colour", as_jpeg(in_colour), photo, large
    for name, draw in STYLES.items():
        yield name, as_jpeg(draw(photo, large / max(scale.limit, 1e-30))), photo, large


def parse_arguments(arguments=None):
    parser = ArgumentParser(__doc__)
    parser.add_argument("place", type=Path, metavar="FOLDER", help="a run of make_cam_maps.py or gradcam_vgg16.py")
    return parser.parse_args(arguments)


def main(arguments=None):
    settings = parse_arguments(arguments)
    photos, found = find_saved(settings.place), {}
    with Progress("photos", len(photos)) as progress:
        for saved in photos:
            for style, picture, photo, values in pictures_of(saved):
                found.setdefault(style, []).append((colour_difference(picture, values), kept_lightness(picture, photo)))
            progress.advance()
    if not found:
        raise UserError(f"no photo of {settings.place} has a map of the class predicted; expected --classes predicted")
    rows = []
    for style, pairs in found.items():
        differences, kept = ([one for one in column if one is not None] for column in zip(*pairs, strict=True))
        median, least = np.percentile(differences, [50, 10])
        numbers = f"{median:.1f}", f"{least:.1f}", f"{np.median(kept) if kept else np.nan:.2f}"
        rows.append([style, str(len(differences)), *numbers])
    header = ["superposition", "photos", "median", "tenth percentile", "lightness kept"]
    print_table("difference in colour between evidence and the rest (CIE76)", header, rows)
    return 0


if __name__ == "__main__":
    run_script(main)
