"""What networks show of a photo, as HTML for the app's page, as files, and as the command that writes these.

Its style and script stand in explore.css and explore.js beside this file.
"""

import base64
import os
from pathlib import Path

import numpy as np

from camlib.attribution.gradcam import WHY_ZERO
from camlib.console import command
from camlib.explore.live import CAM_METHOD
from camlib.plots import is_gradient
from camlib.plots.colours import overlay_of, picture_of, superposition_of
from camlib.plots.page import EVIDENCE_ENDS, escape, legend_of
from camlib.plots.panels import encoded_jpeg, mid_grey, write_png
from camlib.preprocessing import size_name
from camlib.runs.writers import write_array

OUTPUT = Path("outputs/explored")  # of the commands
BAR_LENGTH = 256  # pixels of a colour bar

# ---------------------------------------------------------------- the page


def page_of(photos, style):
    """The HTML of what networks show of a photo.

    Args:
        photos: list of Shown, or of the sentence (str) that says why there is none.
        style: Style.
    """
    parts = [
        f'<p class="problem" role="alert">error: {escape(shown)}</p>'
        if isinstance(shown, str)
        else network_html(shown, number, style)
        for number, shown in enumerate(photos)
    ]
    return f'<div class="networks">{"".join(f"<section>{part}</section>" for part in parts)}</div>'


def network_html(shown, number, style):
    """What one network shows: its answer, and a card for each map."""
    name = f"<h2>{escape(Path(shown.side.source).name)}</h2>"
    cards = [card for place in range(len(shown.layers)) for card in cards_of_layer(shown, (number, place), style)]
    photo = picture_html(shown.picture, f"photo {shown.photo.name}")
    answer = f'<article class="answer">{photo}{bars_html(shown.probabilities)}</article>'
    return f'{name}<div class="cards">{answer}{"".join(cards)}</div>'


def bars_html(probabilities):
    """Probabilities as bars, the most probable first."""
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td><div style="width:{100 * share:.1f}%"></div></td>'
        f"<td>{100 * share:.1f} %</td></tr>"
        for name, share in sorted(probabilities.items(), key=lambda item: -item[1])
    )
    return f"<table><caption>probabilities</caption>{rows}</table>" if rows else "<p>scores without probabilities</p>"


def cards_of_layer(shown, place, style):
    """The cards of one method of one layer, one for each class: list of HTML.

    Args:
        shown: Shown.
        place: (int, int), of Shown and of LayerMaps in it, for clicks.
        style: Style.
    """
    layer = shown.layers[place[1]]
    over, scale = superposed(shown, layer, style)
    alone = {kind: layer.drawing.shown(kind, of_classes) for kind, of_classes in layer.maps.items()}
    return [card_html(shown, place, class_name, (over[class_name], scale), alone, style) for class_name in over]


def card_html(shown, place, class_name, over, alone, style):
    """The maps of one class: large over the photo, its legend, and small each alone.

    Args:
        shown, place, style: as for `cards_of_layer`.
        class_name: str.
        over: (uint8 (H, W, 3), Scale), see `superposed`.
        alone: dict of kind -> (dict of class name -> array, Scale), see `Drawing.shown`.
    """
    layer, photo, (drawn, scale) = shown.layers[place[1]], shown.picture, over
    first, share = next(iter(alone)), shown.probabilities.get(class_name)
    title = f"{layer.title}: {class_name}" + ("" if share is None else f", {100 * share:.1f}\N{NO-BREAK SPACE}%")
    size = "×".join(map(str, layer.maps[first][class_name].shape[:2]))
    ends = ("", "large, whatever its sign") if is_gradient(first) else EVIDENCE_ENDS
    bar = np.linspace(scale.lowest, scale.limit, BAR_LENGTH)[None].repeat(12, axis=0)  # (12, BAR_LENGTH)
    figures = []
    for kind, (by_class, scale_alone) in alone.items():
        values, extent = by_class[class_name], layer.drawing.extent_of(kind, photo)
        words = layer.drawing.titles[kind] + ("" if values.any() else f", zero everywhere: {WHY_ZERO.get(kind, '')}")
        picture = picture_html(
            picture_of(values, scale_alone, *photo.shape[:2], style, extent), words, (*place, kind, class_name)
        )
        figures.append(f"<figure>{picture}<figcaption>{escape(words)}</figcaption></figure>")
    return (
        f'<article><h3>{escape(title)}</h3><p class="size">{size} values</p>'
        f"{picture_html(drawn, f'{title}, over the photo', (*place, first, class_name))}"
        f"{legend_html(scale, superposition_of(mid_grey(bar), bar, scale, style), class_name, ends)}"
        f'<div class="alone">{"".join(figures)}</div></article>'
    )


def legend_html(scale, bar, class_name, ends):
    """A colour bar with what its ends mean, and its numbers."""
    legend = legend_of(scale, ends)
    ends = "".join(f"<span>{escape(end.replace('{class}', class_name))}</span>" for end in legend["ends"])
    ticks = "".join(
        f'<span style="left:{100 * place:.0f}%;transform:translateX(-{100 * place:.0f}%)">{escape(text)}</span>'
        for place, text in legend["ticks"]
    )
    above = f'<div class="ends">{ends}</div>{picture_html(bar, "")}'
    return f'<div class="legend">{above}<div class="ticks">{ticks}</div></div>'


def picture_html(image, words, data=None):
    """A picture uint8 (H, W, 3) in the page; `data` says of which map a click on it tells the value."""
    encoded = base64.b64encode(encoded_jpeg(image)).decode()
    names = ("shown", "layer", "kind", "class")
    told = "".join(f' data-{name}="{escape(str(value))}"' for name, value in zip(names, data or (), strict=False))
    return f'<img alt="{escape(words)}" src="data:image/jpeg;base64,{encoded}"{told}>'


def superposed(shown, layer, style, draw=superposition_of):
    """(dict of class name -> its map over the photo uint8 (H, W, 3), the Scale that all share).

    With `overlay_of` for draw what lies over the photo alone, uint8 (H, W, 4).
    """
    (kind, of_classes), *_ = layer.maps.items()
    laid, scale = layer.drawing.over_photo(kind, of_classes)
    extent = layer.drawing.extent_of(kind, shown.picture)
    return {name: draw(shown.picture, values, scale, style, extent) for name, values in laid.items()}, scale


# ---------------------------------------------------------------- a click


def value_told(shown, layer, kind, class_name, across, down):
    """What a map says at a place of the photo, in a sentence.

    Args:
        shown: Shown.
        layer: int, number of the LayerMaps in it.
        kind, class_name: str, of the map.
        across, down: float, the place in shares of the photo's width and height.
    """
    layer = shown.layers[layer]
    values = layer.maps[kind][class_name]
    top, left, bottom, right = layer.drawing.extent_of(kind, shown.picture) or (0, 0, 1, 1)
    height, width = values.shape[:2]
    row, column = int((down - top) / (bottom - top) * height // 1), int((across - left) / (right - left) * width // 1)
    words = f"{layer.drawing.titles[kind]} of {class_name}"
    where = f"{100 * across:.0f} % from the left, {100 * down:.0f} % from the top"
    if not (0 <= row < height and 0 <= column < width):
        return f"{words}: nothing is known {where}, where the network did not look"
    cell = values[row, column]
    colours = f" ({', '.join(f'{one:.3g}' for one in cell)} of its channels)" if cell.ndim else ""
    value = float(cell.flat[np.abs(cell).argmax()])
    return f"{words}: {value:.4g}{colours}, {where}: row {row + 1} of {height}, column {column + 1} of {width}"


# ---------------------------------------------------------------- files, and the command


def write_files(folder, photos, style):
    """Write what is shown: for each map its array, and of those over the photo PNG files, whole and transparent.

    Args:
        folder: Path, new.
        photos: list of Shown or str, as for `page_of`.
        style: Style.

    Returns:
        list of str, paths.
    """
    folder.mkdir(parents=True)
    layers = [(shown, layer) for shown in photos if not isinstance(shown, str) for layer in shown.layers]
    for number, (shown, layer) in enumerate(layers, 1):
        before = f"{number}_{layer.method}_" if len(layers) > 1 else ""
        for kind, of_classes in layer.maps.items():
            for class_name, values in of_classes.items():
                write_array(folder / f"{before}{kind}_for_{class_name}.npy", values)
        for name, draw in (("spp", superposition_of), ("overlay", overlay_of)):
            for class_name, picture in superposed(shown, layer, style, draw)[0].items():
                write_png(folder / f"{before}{name}_for_{class_name}.png", picture)
    return sorted(map(str, folder.iterdir()))


def commands_of(shown, photo, classes, in_colour):
    """The commands that write what one network shows: list of str.

    Args:
        shown: Shown.
        photo: Path of its photo.
        classes: list of str, as after --classes.
        in_colour: bool, the photo keeps its colours.
    """
    side, options = shown.side, []
    for name, value in side.options:
        text = size_name(*value) if name == "size" else near(value)  # a Path, or a text that is none
        options += [f"--{name.replace('_', '-')}", text]
    options += ["--photo-in-colour"] * in_colour + ["--overlay", "png", "--overwrite"]
    found, source, stem = [], near(side.source), Path(side.source).stem
    of_photo, of_layer = side.by_kind()
    if CAM_METHOD in of_photo:
        found.append(("make_cam_maps.py", "--model", source, *options, "--output", OUTPUT / f"{stem}_cam"))
        of_photo.remove(CAM_METHOD)
    of_layer_options = [*(["--layer", *side.layers] if side.layers else []), *([] if side.guided else ["--no-guided"])]
    for methods, which, output in ((of_layer, of_layer_options, stem), (of_photo, [], f"{stem}_pixels")):
        if methods:
            which = ["--method", *methods, *which, "--classes", *classes, *options]
            found.append(("gradcam_vgg16.py", "--weights", source, *which, "--output", OUTPUT / output))
    return [command(script, near(photo), *words) for script, *words in found]


def near(path):
    """A file's path as seen from the folder that the user is in, if it lies in that; what is no file stays.

    What the browser handed over goes by its name: no more is known of where the user has it.
    """
    if not Path(path).exists():
        return path
    if (copies := os.environ.get("GRADIO_TEMP_DIR")) and Path(path).is_relative_to(copies):
        return Path(path).name
    relative = Path(os.path.relpath(path))
    return Path(path) if relative.parts[0] == ".." else relative
