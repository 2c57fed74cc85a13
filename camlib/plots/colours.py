"""What maps look like: colours, superpositions, panels, thumbnails. Imports neither Keras nor TensorFlow."""

import base64
import copy
import functools
import io
from pathlib import Path
from typing import NamedTuple

import cv2
import matplotlib
import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from PIL import Image, ImageDraw, ImageFont

from camlib.console import UserError, did_you_mean
from camlib.files import write_whole
from camlib.options import OWN_COLOURS
from camlib.photos import resize_photo

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
    if gradients and maps:
        return capped_scale_of(signed, maps)
    ends = [(float(values.min()), float(values.max())) for values in maps]
    limit = max((max(-lowest, highest) for lowest, highest in ends), default=0.0)
    return Scale(limit, signed or any(lowest < 0 for lowest, _ in ends))


def capped_scale_of(signed, maps):
    """The Scale of maps whose largest 0.5 % of values are drawn alike."""
    magnitudes = np.concatenate([np.abs(values).ravel() for values in maps])
    largest, limit = float(magnitudes.max()), float(np.percentile(magnitudes, 100 - SHARE_DRAWN_ALIKE))
    signed = signed or any((values < 0).any() for values in maps)
    return Scale(limit, signed, capped=limit < largest) if limit > 0 else Scale(largest, signed)


def superposition_scale_of(signed, maps, capped=False):
    """The Scale of maps (h, w) that are laid over their photo, all classes of one kind.

    Its limit is the largest *positive* value, so that strong evidence against one class does not fade what speaks for
    another; stronger evidence against a class is drawn as the scale's end. Where no value is positive it is the largest
    magnitude. Capped: the largest 0.5 % of values are drawn alike, for maps with single large pixels.
    """
    maps = list(maps)
    whole, highest = scale_of(signed, maps), max((float(values.max()) for values in maps), default=0.0)
    if capped:
        limit = capped_scale_of(signed, [np.maximum(values, 0) for values in maps] if highest > 0 else maps).limit
    else:
        limit = highest if highest > 0 else whole.limit
    return Scale(limit, whole.signed, capped=limit < whole.limit)


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
PALEST = 0.3  # where on the way from black the colours over a photo begin: there the opacity makes them weak
# Those of Matplotlib's colour maps whose middle stands for zero
DIVERGING = {
    name + end
    for name in ("PiYG", "PRGn", "BrBG", "PuOr", "RdGy", "RdBu", "RdYlBu", "RdYlGn", "Spectral", "coolwarm", "bwr",
                 "seismic", "berlin", "managua", "vanimo")
    for end in ("", "_r")
}  # fmt: skip


class Style(NamedTuple):
    """How maps are drawn.

    Attributes:
        colours: str, Matplotlib's name of a colour map; "evidence" for our own.
        in_colour: bool, the photo below a map keeps its colours, else it is grey.
        opacity: float, 0 to 1, of a map's largest value over the photo.
    """

    colours: str = OWN_COLOURS
    in_colour: bool = False
    opacity: float = 0.9  # full would hide the animal below the broad maps of coarse layers

    def colour_map(self, signed):
        """Matplotlib's colour map for values from -1 to 1 if signed, else from 0 to 1.

        Signed maps keep our own colours where the user's have no middle for zero.
        """
        if self.colours == OWN_COLOURS or (signed and self.colours not in DIVERGING):
            return EVIDENCE if signed else FOR
        return matplotlib.colormaps[self.colours]


USUAL = Style()


def style_of(settings, opacity=USUAL.opacity):
    """The Style that the user asked for.

    Raises:
        UserError: Matplotlib has no such colour map.
    """
    names = [OWN_COLOURS, *matplotlib.colormaps]
    if settings.colours not in names:
        near = did_you_mean(settings.colours, names)
        raise UserError(f"--colours {settings.colours}{near} expected a colour map of Matplotlib, or evidence")
    return Style(settings.colours, settings.photo_in_colour, opacity)


def style_of_run(settings):
    """The Style of a run's pictures, see `style_of`; None with --no-pictures and --store.

    Raises:
        UserError: the user says how pictures look, too.
    """
    without = "--no-pictures" if settings.no_pictures else "--store" if settings.store else None
    if without is None:
        return style_of(settings)
    given = {"--colours": settings.colours != OWN_COLOURS, "--photo-in-colour": settings.photo_in_colour,
             "--full-size": settings.full_size and settings.no_pictures}  # fmt: skip
    if any(given.values()):
        option = next(name for name in given if given[name])
        raise UserError(f"{without} with {option}, which is about pictures; expected one of the two")
    return None


def style_settings(settings):
    """What of the user's settings decides how a run's pictures look, and whether it has any, for run.json."""
    return {"colours": settings.colours, "photo_in_colour": settings.photo_in_colour, "full_size": settings.full_size,
            "no_pictures": settings.no_pictures or None}  # fmt: skip


@functools.cache
def colour_table(name, signed):
    """What `colours` looks up: Matplotlib makes its colours of N positions anew for each picture.

    Args:
        name: str, as `Style.colours`.
        signed: bool.

    Returns:
        (N, uint32 (N + 2,), each the four bytes of RGBA: of the N positions, the last again for a value of exactly 1,
        and black, which Matplotlib draws where there is no number).
    """
    colour_map = copy.copy(Style(name).colour_map(signed))  # which fills itself when first used, in any thread
    positions = np.append(np.arange(colour_map.N), colour_map.N - 1)
    return colour_map.N, np.append(colour_map(positions, bytes=True).view(np.uint32).ravel(), np.uint32(0))


def colours(values, signed, style=USUAL):
    """Colour a scaled map.

    Args:
        values: float (H, W), in -1..1 if signed, else in 0..1; what is beyond is drawn as the ends.
        signed: bool.
        style: Style.

    Returns:
        uint8 (H, W, 3), RGB.
    """
    count, table = colour_table(style.colours, signed)
    position = np.clip((values + 1) / 2 if signed else values, 0, 1)
    position *= count
    position[np.isnan(position)] = -1  # the last of the table
    chosen = table.take(position.astype(np.intp))
    return cv2.cvtColor(chosen.view(np.uint8).reshape(*values.shape, 4), cv2.COLOR_RGBA2RGB)


def overlay(values, signed, style=USUAL):
    """What of a scaled map lies over a photo: the more opaque the larger its magnitude, nothing where it is zero.

    Args:
        values: float (H, W), in -1..1 if signed, else in 0..1; what is beyond is drawn as the ends.
        signed: bool.
        style: Style.

    Returns:
        (colours uint8 (H, W, 3), opacity float (H, W) in 0..1).
    """
    values = np.clip(values, -1 if signed else 0, 1)
    if style.colours == OWN_COLOURS:
        away = np.sign(values) * PALEST + (1 - PALEST) * values
        return colours(away, signed, style), style.opacity * np.abs(values)
    if signed and style.colours not in DIVERGING:
        signed, values = False, np.clip(values, 0, 1)
    return colours(values, signed, style), style.opacity * np.abs(values)


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
    above, weight = overlay(values, signed, style)
    weight = weight.astype(np.float32)  # (H, W)
    through = 1 - weight
    if style.in_colour:
        below = [plane * through for plane in cv2.split(photo)]
    else:
        below = [cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY) * through] * 3
    # plane by plane: NumPy takes several times longer where the last axis has but three numbers
    planes = []
    for under, over in zip(below, cv2.split(above), strict=True):
        laid = over.astype(np.float32)
        laid *= weight
        laid += under
        planes.append(np.rint(laid, out=laid).astype(np.uint8))
    return cv2.merge(planes)  # (H, W, 3)


def superposition_of(photo, values, scale, style=USUAL):
    """Lay a map (h, w), or gradients (H, W, 3) by their `magnitude`, over a photo (H, W, 3): uint8 (H, W, 3)."""
    large = enlarged_for_display(scaled(magnitude(values), scale.limit), *photo.shape[:2])
    return superposition(photo, large, scale.signed and values.shape[2:] != (3,), style)


def magnitude(values):
    """A map (h, w) as it is, (h, w, 1) likewise; of gradients of RGB, (H, W, 3), each pixel's largest magnitude.

    The latter is what Simonyan et al. (2014, section 3.1) call the saliency map.
    """
    values = plane(values)
    return np.abs(values).max(axis=2) if values.ndim == 3 else values


def plane(values):
    """Gradients of a grey photo, (H, W, 1), as (H, W); others as they are."""
    return values[..., 0] if values.shape[2:] == (1,) else values


def resize_map(values, height, width):
    """Enlarge or shrink a map (h, w) to (height, width): bilinear, half-pixel centres; for computing with it."""
    return cv2.resize(values.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)


def enlarged_for_display(values, height, width):
    """Enlarge a map to be looked at: bicubic, since bilinear leaves diamonds, and never beyond its own values.

    Args:
        values: float (h, w), or (h, w, 3).
        height, width: int.

    Returns:
        float32 (height, width) or (height, width, 3); means of areas where it gets smaller.
    """
    larger = height >= values.shape[0] and width >= values.shape[1]
    method = cv2.INTER_CUBIC if larger else cv2.INTER_AREA
    large = cv2.resize(values.astype(np.float32, copy=False), (width, height), interpolation=method)
    return np.clip(large, values.min(), values.max())


def picture_of(values, scale, height, width, style=USUAL):
    """Draw a map for display.

    Args:
        values: float (h, w) or (h, w, 1), or (h, w, 3) for gradients of RGB, shown as colours around mid-grey.
        scale: Scale.
        height, width: int, of the picture.
        style: Style.

    Returns:
        uint8 (height, width, 3), RGB.
    """
    values = enlarged_for_display(scaled(plane(values), scale.limit), height, width)
    if values.ndim == 3:
        return np.rint(127.5 + 127.5 * np.clip(values, -1, 1)).astype(np.uint8)
    return colours(values, scale.signed, style)


# ---------------------------------------------------------------- panels

PANEL_TITLES = {
    "heatmap": "CAM",
    "gradcam": "Grad-CAM",
    "guided_backprop": "guided backpropagation",
    "guided_gradcam": "guided Grad-CAM",
}
GRADIENTS = ("guided_backprop", "guided_gradcam")  # the kinds of map with a value for each pixel and colour
METHOD_TITLES = {
    "grad-cam": "Grad-CAM",
    "grad-cam++": "Grad-CAM++",
    "hires-cam": "HiResCAM",
    "layer-cam": "LayerCAM",
    "xgrad-cam": "XGrad-CAM",
    "element-wise": "element-wise",
    "eigen-grad-cam": "Eigen-Grad-CAM",
    "eigen-cam": "Eigen-CAM",
    "score-cam": "Score-CAM",
    "ablation-cam": "Ablation-CAM",
}


def titles_of(method, counterfactual=False):
    """The name of each kind of map of a run: dict of kind -> str.

    Args:
        method: str, a key of METHOD_TITLES; another's maps are called Grad-CAM.
        counterfactual: bool, its maps show what speaks against the class.
    """
    title = METHOD_TITLES.get(method, PANEL_TITLES["gradcam"])
    if counterfactual:
        title = f"counterfactual {title}"
    return PANEL_TITLES | {"gradcam": title, "guided_gradcam": f"guided {title}"}


PANEL_SIDE, MARGIN, BAR = 320, 16, 14  # pixels: a picture's longer side, space around it, width of a colour bar
HEADING, TITLE, TICK = 18, 15, 13  # pixels: sizes of letters
LINE = 1.5  # of a letter's size
# Matplotlib's own font has the letters of more scripts than Pillow's
FONT = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")


def colour_bar(scale, height, drawn):
    """A colour bar: (uint8 (height, BAR, 3), list of (text, y) to write beside it).

    Args:
        scale: Scale.
        height: int, pixels.
        drawn: function of values (height, BAR) -> picture.
    """
    values = np.repeat(np.linspace(scale.limit, scale.lowest, height)[:, None], BAR, axis=1)  # (height, BAR)
    extent = (scale.limit - scale.lowest) or 1.0
    ticks = [(text, round((scale.limit - value) / extent * (height - 1))) for value, text in scale.ticks()]
    return drawn(values), ticks


def write_panel(path, heading, photo, maps, style=USUAL, whole=None):
    """Write the photo, the first map laid over it, and all maps side by side, each with a colour bar of its values.

    Args:
        path: Path of a JPEG file.
        heading: list of str, the lines above.
        photo: uint8 (H, W, 3), RGB.
        maps: list of (title, values, Scale).
        style: Style.
        whole: Scale of the superposition; default: that of the first map alone.
    """
    factor = PANEL_SIDE / max(photo.shape[:2])
    size = height, width = [max(1, round(side * factor)) for side in photo.shape[:2]]
    photo = resize_photo(photo, height, width)
    title, values, scale = maps[0]
    whole = whole or superposition_scale_of(scale.signed, [magnitude(values)])
    shown = [("photo", photo, None), (f"{title} over the photo", superposition_of(photo, values, whole, style),
             colour_bar(whole, height, lambda bar: superposition_of(mid_grey(bar), bar, whole, style)))]  # fmt: skip
    for title, values, scale in maps:

        def drawn(bar, scale=scale, of_colours=values.shape[2:] == (3,)):
            return picture_of(np.repeat(bar[..., None], 3, axis=2) if of_colours else bar, scale, *bar.shape, style)

        title += "" if values.any() else " (all zero)"
        shown.append((title, picture_of(values, scale, *size, style), colour_bar(scale, height, drawn)))
    write_jpeg(path, sheet_of(heading, shown))


def mid_grey(values):
    """A photo of the shape of a map that is grey everywhere, for the colour bar of a superposition."""
    return np.full((*values.shape, 3), 128, np.uint8)


def sheet_of(heading, shown):
    """Pictures side by side under a heading: uint8 (H, W, 3).

    Args:
        heading: list of str, the lines above.
        shown: list of (title, picture uint8 (h, w, 3), None or (colour bar, its ticks)), pictures of one size.
    """
    heading_font, title_font, tick_font = (ImageFont.truetype(FONT, size) for size in (HEADING, TITLE, TICK))
    widths = []
    for title, picture, bar in shown:
        beside = bar and BAR + 10 + max(round(tick_font.getlength(text)) for text, _ in bar[1])
        widths.append(max(picture.shape[1] + (beside or 0), round(title_font.getlength(title))) + MARGIN)
    longest = max(round(heading_font.getlength(line)) for line in heading)
    top = MARGIN + round(LINE * (HEADING * len(heading) + TITLE))  # of the pictures
    height = max(picture.shape[0] for _, picture, _ in shown)
    sheet = Image.new("RGB", (MARGIN + max(sum(widths), longest + MARGIN), top + height + MARGIN), "white")
    pen = ImageDraw.Draw(sheet)
    for number, line in enumerate(heading):
        pen.text((MARGIN, MARGIN // 2 + round(LINE * HEADING * number)), line, "black", font=heading_font)
    left = MARGIN
    for (title, picture, bar), width in zip(shown, widths, strict=True):
        pen.text((left, top - 6), title, "black", font=title_font, anchor="ls")
        sheet.paste(Image.fromarray(picture), (left, top))
        if bar:
            colours_of_bar, ticks = bar
            right = left + picture.shape[1]
            sheet.paste(Image.fromarray(colours_of_bar), (right + 5, top))
            for text, y in ticks:
                inside = min(max(y, TICK // 2), picture.shape[0] - TICK // 2)
                pen.text((right + 10 + BAR, top + inside), text, "black", font=tick_font, anchor="lm")
        left += width
    return np.asarray(sheet)


# ---------------------------------------------------------------- pictures in files

JPEG_QUALITY, JPEG_SIDE = 90, 65_500  # percent; pixels, at most


def write_jpeg(path, image):
    """Save uint8 (H, W, 3), RGB, as JPEG, see `encoded_jpeg`."""
    encoded = encoded_jpeg(image, path)
    write_whole(path, lambda file: file.write(encoded))


def encoded_jpeg(image, what="a picture"):
    """The bytes of a JPEG file of uint8 (H, W, 3), RGB. OpenCV writes the same as Pillow, in half the time.

    Args:
        image: the array.
        what: what it is, for the error.

    Raises:
        UserError: it is larger than a JPEG can be.
    """
    height, width = image.shape[:2]
    if max(height, width) > JPEG_SIDE:
        raise UserError(
            f"{what} would have {width:,} x {height:,} pixels; a JPEG has at most {JPEG_SIDE:,} a side: expected a "
            "smaller photo, or no --full-size"
        )
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1]


# ---------------------------------------------------------------- pictures for a page

PAGE_SIDE, LEAST_SIDE = 384, 144  # pixels of the longer side, at most and at least: enlarged, and in a gallery
EVIDENCE_ENDS = "evidence against {class}", "evidence for {class}"  # what the ends of most scales stand for
FINER = 2  # times as fine as a map is its picture, since a browser enlarges bilinearly, which leaves diamonds


def page_size(shape, finest):
    """(height, width) on a page of a picture of that shape; no finer than so many pixels of its longer side."""
    factor = min(PAGE_SIDE, max(LEAST_SIDE, finest)) / max(shape)
    return max(1, round(shape[0] * factor)), max(1, round(shape[1] * factor))


def data_uri(image):
    """A picture, uint8 (H, W, 3) or with an alpha channel (H, W, 4), as WebP in a data: address."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "WEBP", quality=70)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"


def encode_photo(photo):
    """A photo as data: address."""
    shape = photo.shape[:2]
    return data_uri(resize_photo(photo, *page_size(shape, max(shape))))


def encode_overlay(values, scale, shape, style=USUAL):
    """A map to be laid over a photo of that (height, width), as data: address; gradients of RGB hide it.

    Values beyond the scale are drawn as its ends, the largest fully opaque: the page has a slider for the opacity.
    """
    style = style._replace(opacity=1.0)
    if values.ndim == 3:
        return data_uri(picture_of(values, scale, *page_size(shape, max(values.shape[:2])), style))
    size = page_size(shape, FINER * max(values.shape))
    return data_uri(
        with_opacity(*overlay(enlarged_for_display(scaled(values, scale.limit), *size), scale.signed, style))
    )


def map_for_page(values, scale, shape, ends, style=USUAL):
    """What a page needs of a map: dict of picture and legend, and zero if the map is zero everywhere.

    Args:
        values: float (h, w), or (H, W, 3) for gradients of RGB.
        scale: Scale.
        shape: (height, width) of the photo.
        ends: see `legend_of`.
        style: Style.
    """
    found = {"picture": encode_overlay(values, scale, shape, style), "legend": legend_of(scale, ends, values.ndim == 3)}
    return found if values.any() else found | {"zero": True}


def with_opacity(above, opacity):
    """Colours uint8 (H, W, 3) and opacity float (H, W) in 0..1 as uint8 (H, W, 4)."""
    return np.dstack((above, np.rint(255 * opacity).astype(np.uint8)))


def bars_for_page(style=USUAL):
    """The colour bars of a page, to be laid over grey: dict of bar's name, see `legend_of`, -> data: address."""
    values = np.linspace(-1, 1, 256)[None]  # (1, 256)
    grey_ramp = picture_of(np.repeat(values[..., None], 3, axis=2), Scale(1.0, True), *values.shape)
    bars = {
        "signed": with_opacity(*overlay(values, True, style)),
        "plain": with_opacity(*overlay((values + 1) / 2, False, style)),
        "gradients": grey_ramp,
    }
    return {name: data_uri(bar) for name, bar in bars.items()}


def legend_of(scale, ends, gradients=False):
    """What stands beside the colour bar of a map on a page, as JSON takes it.

    Args:
        scale: Scale.
        ends: (str, str), what the lower and the upper end stand for, with {class} in place of the class.
        gradients: bool, the map is of gradients of RGB.

    Returns:
        dict of bar (a key of `bars_for_page`), ticks (list of (place from 0 to 1, text)) and ends (two str, the lower
        one empty where the scale begins at zero).
    """
    extent = (scale.limit - scale.lowest) or 1.0
    ticks = [[round((value - scale.lowest) / extent, 3), text] for value, text in scale.ticks()]
    bar = "gradients" if gradients else "signed" if scale.signed else "plain"
    return {"bar": bar, "ticks": ticks, "ends": [ends[0] if scale.signed else "", ends[1]]}
