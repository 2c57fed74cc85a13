"""One self-contained HTML page: tables, figures, and photos with their maps, which a click enlarges.

The page loads nothing from anywhere: pictures are inside it, and its content security policy forbids the rest. Its
markup, style and script stand in page.html, page.css and page.js beside this file. Does without Keras.
"""

import base64
import hashlib
import html
import io
import json
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from camlib.files import write_whole
from camlib.photos import resize_photo
from camlib.plots.colours import USUAL, Scale, enlarged_for_display, overlay, picture_of, scaled
from camlib.plots.text import displayable

FOLDER = Path(__file__).parent


class Report(NamedTuple):
    """What stands above the photos of a page.

    Attributes:
        findings: list of str, what was found, before all else.
        grids: list of (title, header, rows of str), tables.
        sentences: list of str, below the tables.
        figures: list of (title, Path of a PNG file); those with a table's title stand below it.
        explanations: dict of a table's title -> (where more is said, list of (metric, one line about it)).
    """

    findings: list = []
    grids: list = []
    sentences: list = []
    figures: list = []
    explanations: dict = {}


def write_page(path, title, entries, style=USUAL, report=Report()):  # noqa: B008
    """Write the page: contents, tables, sentences and figures if there are any, then the photos.

    Args:
        path: Path.
        title: str.
        entries: list of dicts, one a photo: name, class (its own, shown first), picture (data: address) and maps: dict
            of kind -> dict of class name -> dict of picture, scores (name -> float or None) and, if known, legend (as
            `legend_of` makes it) and zero (True where the map is zero everywhere). If known also truth and predicted
            (class names), right and unsure (bool), probabilities (dict of class name -> float) and outlines (list of
            polygons, lists of (x, y) in shares of width and height).
            Where several networks were asked, answers: dict of kind -> dict of class, predicted, right, unsure and
            probabilities.
        style: Style.
        report: Report.
    """
    contents = []

    def heading(text):
        contents.append(text)
        return f"<h2 id=part{len(contents)}>{escape(text)}</h2>"

    grids = {name: grid_html(header, rows) for name, header, rows in report.grids}
    sections = [
        heading(name)
        + grids.get(name, "")
        + explanation_html(*report.explanations.get(name, ("", [])))
        + "".join(figure_html(path) for of_title, path in report.figures if of_title == name)
        for name in dict.fromkeys((*grids, *(of_title for of_title, _ in report.figures)))
    ]
    sections.append(list_html(report.sentences))
    of_photos = heading("Photos") if contents else ""
    template, css, script = ((FOLDER / f"page.{kind}").read_text("utf-8") for kind in ("html", "css", "js"))
    page = template.format(
        title=escape(title),
        style=css,
        script=script,
        hash=f"sha256-{checksum(chr(10) + script)}",  # of all that the element holds, its first line break too
        sections="\n".join([list_html(report.findings), contents_html(contents) if contents else "", *sections]),
        heading=of_photos,
        opacity=style.opacity,
        in_colour=" checked" if style.in_colour else "",
        entries=script_json([entry | {"name": displayable(entry["name"])} for entry in entries]),
        bars=script_json(bars_for_page(style)),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda file: file.write(page.encode("utf-8", "backslashreplace")))


def script_json(value):
    """JSON for a script element, which only "<" could end."""
    return json.dumps(value, ensure_ascii=True).replace("<", "\\u003c")


def checksum(script):
    """SHA-256 of a script as a content security policy names it."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def contents_html(titles):
    """Links to the parts of the page."""
    links = "".join(f"<li><a href=#part{number}>{escape(title)}</a></li>" for number, title in enumerate(titles, 1))
    return f"<nav aria-label=contents><ol>{links}</ol></nav>"


def explanation_html(place, metrics):
    """One line about each metric of a table, and where more is said."""
    if not metrics:
        return ""
    lines = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in metrics)
    arrows = "↑ more is better, ↓ less; in brackets 95 % intervals."
    return f"<dl>{lines}</dl><p class=docs>{arrows} More: {escape(place)}</p>"


def list_html(sentences):
    return "<ul>" + "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences) + "</ul>" if sentences else ""


def figure_html(path):
    """A PNG file, with its name in words for those who do not see it."""
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<img class="figure" alt="{escape(path.stem.replace("_", " "))}" src="data:image/png;base64,{data}">'


def cell_html(cell):
    """A cell of a table, an interval below its number."""
    return re.sub(r"^(\S+) (\(\S+ to \S+\))$", r"\1 <small>\2</small>", escape(cell))


def grid_html(header, rows):
    """A table."""
    head = "".join(f"<th scope=col>{escape(cell)}</th>" for cell in header)
    body = "".join(
        f"<tr><th scope=row>{escape(row[0])}</th>{''.join(f'<td>{cell_html(cell)}</td>' for cell in row[1:])}</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'


def escape(text):
    """Text for HTML, in elements and in quoted attributes."""
    return html.escape(displayable(text))


# ---------------------------------------------------------------- pictures for a page

MOST_OPAQUE = 0.8  # a map's: the photo shines through, since its detail is not drawn into the map as in files
PAGE_SIDE, LEAST_PAGE_SIDE = 384, 144  # pixels of the longer side, at most and at least: enlarged, and in a gallery
EVIDENCE_ENDS = "evidence against {class}", "evidence for {class}"  # what the ends of most scales stand for
LIKELY = 8  # bars of probabilities, at least; more where more classes have maps
FINER = 2  # times as fine as a map is its picture, since a browser enlarges bilinearly, which leaves diamonds


def page_size(shape, finest):
    """(height, width) on a page of a picture of that shape; no finer than so many pixels of its longer side."""
    factor = min(PAGE_SIDE, max(LEAST_PAGE_SIDE, finest)) / max(shape)
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


def encode_overlay(values, scale, shape, style=USUAL, extent=None):
    """A map to be laid over a photo of that (height, width), as data: address; gradients of RGB hide it.

    Values beyond the scale are drawn as its ends. The page has a slider for the opacity.
    """
    if values.ndim == 3:
        return data_uri(picture_of(values, scale, *page_size(shape, max(values.shape[:2])), style))
    covers = 1.0 if extent is None else max(extent[2] - extent[0], extent[3] - extent[1])
    size = page_size(shape, FINER * max(values.shape) / covers)
    large = enlarged_for_display(scaled(values, scale.limit), *size, extent)
    return data_uri(overlay(large, scale.signed, style._replace(opacity=MOST_OPAQUE)))


def map_for_page(values, scale, shape, ends, style=USUAL, extent=None):
    """What a page needs of a map: dict of picture and legend, and zero if the map is zero everywhere.

    Args:
        values: float (h, w), or (H, W, 3) for gradients of RGB.
        scale: Scale.
        shape: (height, width) of the photo.
        ends: see `legend_of`.
        style: Style.
        extent: the part of the photo that it covers, see `camlib.plots.colours.over_extent`.
    """
    picture = encode_overlay(values, scale, shape, style, extent)
    found = {"picture": picture, "legend": legend_of(scale, ends, values.ndim == 3)}
    return found if values.any() else found | {"zero": True}


def likely(probabilities, names):
    """The probabilities that a page shows of a photo: the LIKELY largest, and those of the classes that are named.

    Args:
        probabilities: dict of class name -> float.
        names: list of class names.
    """
    shown = {*sorted(probabilities, key=probabilities.get, reverse=True)[:LIKELY], *names}
    return {name: share for name, share in probabilities.items() if name in shown}


def bars_for_page(style=USUAL):
    """The colour bars of a page, to be laid over grey: dict of bar's name, see `legend_of`, -> data: address."""
    values, style = np.linspace(-1, 1, 256)[None], style._replace(opacity=MOST_OPAQUE)  # (1, 256)
    grey_ramp = picture_of(np.repeat(values[..., None], 3, axis=2), Scale(1.0, True), *values.shape)
    bars = {
        "signed": overlay(values, True, style),
        "plain": overlay((values + 1) / 2, False, style),
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
