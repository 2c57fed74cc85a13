"""Maps as colours: scales, colour maps, superpositions. Does without Keras."""

from functools import lru_cache
from typing import NamedTuple

import cv2
import matplotlib
import numpy as np
from matplotlib.colors import LinearSegmentedColormap, ListedColormap

from camlib.plots import OPACITY, OWN_COLOURS, PIXEL_KINDS, is_gradient

# ---------------------------------------------------------------- scales

SHARE_DRAWN_ALIKE = 0.5  # percent of a gradient's values, its largest


class Scale(NamedTuple):
    """The common colour scale of all maps of one kind of a photo.

    Attributes:
        limit: float, its upper end.
        signed: bool, from -limit, else from 0.
        capped: bool, some values are beyond its ends and are drawn as these.
    """

    limit: float
    signed: bool
    capped: bool = False

    @property
    def lowest(self):
        return -self.limit if self.signed else 0.0

    def ticks(self):
        """list of (value, text) to write beside a colour bar, from the lowest."""
        beyond = ("≤ ", "≥ ") if self.capped else ("", "")
        lowest = (self.lowest, (beyond[0] if self.signed else "") + f"{self.lowest:.3g}")
        middle = [(0.0, "0")] if self.signed and self.limit else []
        return [lowest, *middle, (self.limit, beyond[1] + f"{self.limit:.3g}")] if self.limit else [(0.0, "0")]


def scale_of(signed, maps, gradients=False):
    """The Scale of maps (arrays of any shapes) of one kind: signed if the kind is, or any value is negative.

    Its limit is the largest magnitude. Gradients of pixels are stretched further: single ones are many times larger
    than the rest and would leave nothing else to see, so the largest 0.5 % are drawn alike (Smilkov et al. 2017,
    section 3.1).
    """
    maps = list(maps)
    limit = largest = max((float(np.abs(values).max()) for values in maps), default=0.0)
    if gradients and maps:
        magnitudes = np.concatenate([np.abs(values).ravel() for values in maps])
        limit = float(np.percentile(magnitudes, 100 - SHARE_DRAWN_ALIKE)) or largest
    return Scale(limit, signed or any((values < 0).any() for values in maps), capped=limit < largest)


def superposition_scale_of(signed, maps, capped=False):
    """The Scale of maps (h, w) that are laid over their photo, all classes of one kind.

    Its limit is the largest *positive* value, so that strong evidence against one class does not fade what speaks for
    another; stronger evidence against a class is drawn as the scale's end. Where no value is positive it is the largest
    magnitude. Capped: the largest 0.5 % of values are drawn alike, for maps with single large pixels.
    """
    maps = list(maps)
    whole, positive = scale_of(signed, maps), [np.maximum(values, 0) for values in maps]
    limit = scale_of(signed, positive, capped).limit or scale_of(signed, maps, capped).limit
    return Scale(limit, whole.signed, capped=limit < whole.limit)


def scale_over_photo(kind, signed, laid):
    """The Scale of what `overlaid` makes of one kind's maps: gradients lie over the photo by their magnitude."""
    gradients = is_gradient(kind)
    return superposition_scale_of(signed and not gradients, laid, gradients)


def scaled(values, limit):
    """Divide by the limit for display; a map that is zero everywhere stays zero."""
    return values / limit if limit > 0 else values


# ---------------------------------------------------------------- colours

# Evidence for a class from black over red to yellow, evidence against it from black over blue to cyan
FOR = LinearSegmentedColormap.from_list("for", ["black", *matplotlib.colormaps["hot"](np.linspace(0, 0.85, 256))[1:]])
AGAINST = LinearSegmentedColormap.from_list("against", ["#000000", "#0c2f9e", "#1f6ff0", "#38b0ff", "#8cecff"])
EVIDENCE = LinearSegmentedColormap.from_list(
    "evidence", np.concatenate((AGAINST(np.linspace(1, 0, 255, endpoint=False)), FOR(np.linspace(0, 1, 256)))), N=511
)
EVIDENCE(0.0)  # a colour map fills itself when it is first used: here, before several threads use it
PALEST = 0.3  # where on the way from black the colours over a photo begin: there the opacity makes them weak
COVERED = 0.4  # share of the scale from which a map has its full opacity: its colours are the legend's on any fur
DETAIL, SURROUNDINGS = 0.6, 1 / 8  # share of the photo's detail that a map shows; of the longer side, a square's
SMOOTHED = 0.015  # of a gradient's longer side
STRIP = 64  # rows that are drawn at a time: several times faster than all at once, which needs large arrays
# Those of Matplotlib's colour maps whose middle stands for zero
DIVERGING_NAMES = "PiYG PRGn BrBG PuOr RdGy RdBu RdYlBu RdYlGn Spectral coolwarm bwr seismic berlin managua vanimo"
DIVERGING = {name + end for name in DIVERGING_NAMES.split() for end in ("", "_r")}


class Style(NamedTuple):
    """How maps are drawn.

    Attributes:
        colours: str, Matplotlib's name of a colour map; "evidence" for our own.
        in_colour: bool, the photo below a map keeps its colours, else it is grey.
        opacity: float, 0 to 1, of a map's largest value over the photo.
        threshold: float, 0 to 1, the share of the scale below which nothing lies over the photo.
    """

    colours: str = OWN_COLOURS
    in_colour: bool = False
    opacity: float = OPACITY
    threshold: float = 0.0

    def colour_map(self, signed):
        """Matplotlib's colour map for values from -1 to 1 if signed, else from 0 to 1."""
        if self.colours == OWN_COLOURS:
            return EVIDENCE if signed else FOR
        return matplotlib.colormaps[self.colours]


USUAL = Style()


def colours(values, signed, style=USUAL):
    """Colour a scaled map.

    Args:
        values: float (H, W), in -1..1 if signed, else in 0..1; what is beyond is drawn as the ends.
        signed: bool.
        style: Style.

    Returns:
        uint8 (H, W, 3), RGB.
    """
    drawn = style.colour_map(signed)((values + 1) / 2 if signed else values, bytes=True)  # (H, W, 4)
    return cv2.cvtColor(drawn, cv2.COLOR_RGBA2RGB)


@lru_cache(maxsize=64)
def overlay_colours(signed, style):
    """Matplotlib's colour map for a scaled map over a photo: colours with opacity, nothing where the map is zero.

    The opacity rises with t = min(|value| / COVERED, 1) as 3 t^2 - 2 t^3.
    """
    values = np.linspace(-1 if signed else 0, 1, 511)
    share = np.minimum(np.abs(values) / COVERED, 1)
    opacity = style.opacity * share**2 * (3 - 2 * share) * (np.abs(values) >= style.threshold)
    if style.colours == OWN_COLOURS:
        values = np.sign(values) * PALEST + (1 - PALEST) * values
    elif signed and style.colours not in DIVERGING:
        signed, opacity = False, opacity * (values > 0)
    drawn = style.colour_map(signed)((values + 1) / 2 if signed else values)  # (511, 4)
    made = ListedColormap(np.column_stack((drawn[:, :3], opacity)))
    made(0.0)
    return made


def overlay(values, signed, style=USUAL, detail=None):
    """What of a scaled map lies over a photo: soon opaque, so that its colours are the legend's on any fur.

    Args:
        values: float (H, W), in -1..1 if signed, else in 0..1; what is beyond is drawn as the ends.
        signed: bool.
        style: Style.
        detail: int16 (H, W), of the photo, see `detail_of`, drawn into the colours; None for those of the legend.

    Returns:
        uint8 (H, W, 4), RGB and opacity.
    """
    drawn = overlay_colours(signed, style)((values + 1) / 2 if signed else values, bytes=True)
    if detail is not None:
        drawn = cv2.add(drawn, cv2.merge([detail] * 3 + [np.zeros_like(detail)]), dtype=cv2.CV_8U)  # within 0..255
    return drawn


def detail_of(photo):
    """The share DETAIL of how much lighter than its surroundings each pixel of a photo (H, W, 3) is: int16 (H, W).

    In a map eyes and edges stay to be seen by it, and whether the fur is dark or white changes no colour.
    """
    grey = cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)
    side = max(1, round(SURROUNDINGS * max(grey.shape)))
    return cv2.addWeighted(grey, DETAIL, cv2.blur(grey, (side, side)), -DETAIL, 0, dtype=cv2.CV_16S)


def superposition(photo, values, signed, style=USUAL):
    """Lay a scaled map over a photo, see `overlay`.

    Args:
        photo: uint8 (H, W, 3), RGB.
        values: float (H, W), in -1..1 if signed, else in 0..1.
        signed: bool.
        style: Style.

    Returns:
        uint8 (H, W, 3), RGB.
    """
    laid, detail = np.empty_like(photo), detail_of(photo)
    for top in range(0, len(photo), STRIP):
        rows = slice(top, top + STRIP)
        above = overlay(values[rows], signed, style, detail[rows])
        weight = cv2.extractChannel(above, 3).astype(np.float32) / 255
        below = photo[rows] if style.in_colour else cv2.merge([cv2.cvtColor(photo[rows], cv2.COLOR_RGB2GRAY)] * 3)
        cv2.blendLinear(cv2.cvtColor(above, cv2.COLOR_RGBA2RGB), below, weight, 1 - weight, laid[rows])
    return laid


def superposition_of(photo, values, scale, style=USUAL, extent=None):
    """Lay a map (h, w), or gradients (H, W, 3) by their `magnitude`, over a photo (H, W, 3): uint8 (H, W, 3)."""
    large = enlarged_for_display(scaled(magnitude(values), scale.limit), *photo.shape[:2], extent)
    return superposition(photo, large, scale.signed and values.shape[2:] != (3,), style)


def overlay_of(photo, values, scale, style=USUAL, extent=None):
    """What `superposition_of` lays over the grey photo, with the photo's detail, for a map (h, w): uint8 (H, W, 4)."""
    large = enlarged_for_display(scaled(values, scale.limit), *photo.shape[:2], extent)
    return overlay(large, scale.signed, style, detail_of(photo))


def magnitude(values):
    """A map (h, w) as it is, (h, w, 1) likewise; of gradients of RGB, (H, W, 3), each pixel's largest magnitude.

    The latter is what Simonyan et al. (2014, section 3.1) call the saliency map.
    """
    values = plane(values)
    return np.abs(values).max(axis=2) if values.ndim == 3 else values


def reduced(kind, values, how=None):
    """What a map of a kind is shown by: of PIXEL_KINDS, (H, W, channels), one number a pixel; others as they are.

    Args:
        kind: str, of one run or of several.
        values: float, the map.
        how: one of REDUCTIONS: "magnitudes", the default, the sum of the channels' magnitudes; "sum", their sum, which
            has two signs; "largest", the largest magnitude.
    """
    if kind.partition("@")[0] not in PIXEL_KINDS or values.ndim == 2:
        return values
    if how == "sum":
        return values.sum(axis=2)
    return np.abs(values).max(axis=2) if how == "largest" else np.abs(values).sum(axis=2)


def overlaid(kind, values):
    """What of a map lies over the photo: of gradients, of RGB or grey, the smoothed magnitude."""
    return smoothed_magnitude(values) if is_gradient(kind) else magnitude(values)


def smoothed_magnitude(gradients):
    """What of gradients, (H, W), (H, W, 1) or (H, W, 3), lies over a photo: single pixels would be specks.

    Returns:
        float32 (H, W), their `magnitude`, smoothed by a Gaussian whose sigma is SMOOTHED of the longer side.
    """
    values = np.abs(np.asarray(magnitude(gradients), np.float32))
    return cv2.GaussianBlur(values, (0, 0), SMOOTHED * max(values.shape), borderType=cv2.BORDER_REFLECT)


def plane(values):
    """Gradients of a grey photo, (H, W, 1), as (H, W); others as they are."""
    return values[..., 0] if values.shape[2:] == (1,) else values


def over_extent(resize, values, height, width, extent, outside=0.0):
    """Lay a map over the part of a picture that it covers.

    Args:
        resize: function of (values, height, width) -> the map at that size.
        values: float (h, w), or (h, w, 3).
        height, width: int, of the picture.
        extent: (top, left, bottom, right) in shares of the picture, beyond 0 and 1 where its border was padded; None
            for all of it.
        outside: float, what stands where the map covers nothing.

    Returns:
        float32 (height, width) or (height, width, 3).
    """
    if extent is None:
        return resize(values, height, width)
    top, left, bottom, right = np.rint(np.array(extent) * (height, width, height, width)).astype(int).tolist()
    large = resize(values, max(1, bottom - top), max(1, right - left))
    laid = np.full((height, width, *values.shape[2:]), outside, np.float32)
    inside = large[max(-top, 0) : max(height - top, 0), max(-left, 0) : max(width - left, 0)]
    laid[max(top, 0) :, max(left, 0) :][: len(inside), : inside.shape[1]] = inside
    return laid


def resize_map(values, height, width, extent=None):
    """Enlarge or shrink a map (h, w) to (height, width): bilinear, half-pixel centres; for computing with it.

    Where it covers a part of that only, see `over_extent`, the rest has its least value, and none above zero.
    """

    def resize(values, height, width):
        return cv2.resize(values.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)

    return over_extent(resize, values, height, width, extent, min(0.0, float(values.min())))


def enlarged_for_display(values, height, width, extent=None):
    """Enlarge a map to be looked at: bicubic, since bilinear leaves diamonds, and never beyond its own values.

    Args:
        values: float (h, w), or (h, w, 3).
        height, width: int.
        extent: the part that it covers, see `over_extent`.

    Returns:
        float32 (height, width) or (height, width, 3); means of areas where it gets smaller.
    """
    if extent is not None:
        return over_extent(enlarged_for_display, values, height, width, extent)
    larger = height >= values.shape[0] and width >= values.shape[1]
    method = cv2.INTER_CUBIC if larger else cv2.INTER_AREA
    large = cv2.resize(np.asarray(values, np.float32), (width, height), interpolation=method)
    return np.clip(large, values.min(), values.max())


def picture_of(values, scale, height, width, style=USUAL, extent=None):
    """Draw a map for display.

    Args:
        values: float (h, w) or (h, w, 1), or (h, w, 3) for gradients of RGB, shown as colours around mid-grey.
        scale: Scale.
        height, width: int, of the picture.
        style: Style.
        extent: the part of the picture that it covers, see `over_extent`.

    Returns:
        uint8 (height, width, 3), RGB.
    """
    values = enlarged_for_display(scaled(plane(values), scale.limit), height, width, extent)
    if values.ndim == 3:
        return np.rint(127.5 + 127.5 * np.clip(values, -1, 1)).astype(np.uint8)
    return colours(values, scale.signed, style)
