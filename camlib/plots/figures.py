"""Figures of an evaluation, as PNG files. Imports neither Keras nor TensorFlow."""

import base64
import io

import matplotlib
import numpy as np
from cycler import cycler
from matplotlib.figure import Figure
from matplotlib.patches import Polygon
from matplotlib.patheffects import withStroke
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator
from PIL import Image

from camlib.files import write_whole
from camlib.plots.colours import USUAL
from camlib.plots.text import shortened

MOST_BANDS = 6  # intervals of more maps would hide each other; the tables have them all
COUNT_OF_EXTREMES = 5  # best and worst photos of each map
PICTURE_FONT = 9  # points, beside photos
DPI = 110
MOST_FIGURE_PIXELS, LONGEST_SIDE = 40_000_000, 20_000  # of a figure, about: 160 MB while it is drawn
MOST_NUMBERS = 30  # classes of a confusion matrix with numbers; its size does not grow beyond
MOST_NAMES = 120  # classes named beside it
NAME_FONT, LONGEST_LABEL = 10, 300  # points, pixels of one


def save(figure, path):
    """Write a figure, of DPI dots an inch or as many fewer as keep it within MOST_FIGURE_PIXELS, and return its path.

    Names of classes and files stand in it as they are, whatever Matplotlib takes a "$" for.
    """
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    width, height = figure.get_size_inches()
    dpi = min(DPI, LONGEST_SIDE / max(width, height), (MOST_FIGURE_PIXELS / (width * height)) ** 0.5)
    write_whole(path, lambda file: figure.savefig(file, format="png", dpi=dpi))
    return path


def draw_confusion_matrix(path, counts, class_names, title):
    """The confusion matrix, coloured by each row's shares; of many classes without numbers, and with some names only.

    Args:
        path: Path of the PNG file.
        counts: int (C, C), truth in rows.
        class_names: list of C str.
        title: str.
    """
    side = 1.6 + 0.8 * min(len(class_names), MOST_NUMBERS)  # inches
    figure = Figure(figsize=(side, side), layout="constrained")
    panel = figure.subplots()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    panel.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts) if len(class_names) <= MOST_NUMBERS else ():
        panel.text(column, row, count, ha="center", va="center", color="white" if shares[row, column] > 0.5 else "k")
    places = range(0, len(class_names), -(-len(class_names) // MOST_NAMES))  # as many names as fit
    names = [shortened(class_names[place], NAME_FONT, LONGEST_LABEL) for place in places]
    panel.set_xticks(places, names, rotation=90)
    panel.set_yticks(places, names)
    panel.set(xlabel="predicted", ylabel="true", title=title)
    return save(figure, path)


def draw_reliability(path, title, calibration):
    """Accuracy over confidence in bins (Guo et al. 2017), and how many photos each bin holds.

    Args:
        path: Path of the PNG file.
        title: str.
        calibration: (expected calibration error, confidence, accuracy and number of photos of each bin).
    """
    error, confidence, accuracy, count = calibration
    figure = Figure(figsize=(4.4, 5), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    above.plot((0, 1), (0, 1), color="grey", linewidth=0.8)
    above.plot(confidence, accuracy, "o-")
    above.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1), title=f"{title}: ECE {error:.3f}")
    below.bar((np.arange(len(count)) + 0.5) / len(count), count, 0.9 / len(count))
    below.set(xlabel="confidence", ylabel="photos")
    return save(figure, path)


def draw_curves(path, title, curves, baselines):
    """Mean deletion and insertion curves of each map, with 95 % intervals of the mean as bands where these are few.

    Args:
        curves: dict of curve's name ("deletion, blur") -> dict of map's name -> float (N, steps + 1).
        baselines: names of the maps drawn in grey.
    """
    figure = Figure(figsize=(4.6 * len(curves) + 2.6, 4.2), layout="constrained")
    panels = figure.subplots(1, len(curves), squeeze=False)[0]
    for panel, (name, of_maps) in zip(panels, curves.items(), strict=True):
        panel.set_prop_cycle(LINES_OF_MAPS)
        for map_name, values in of_maps.items():
            shares, mean = np.linspace(0, 1, np.shape(values)[1]), np.mean(values, axis=0)
            if map_name in baselines:
                line = LINES[list(baselines).index(map_name) % len(LINES)]
                panel.plot(shares, mean, label=map_name, color="0.5", linestyle=line, linewidth=1)
                continue
            (line,) = panel.plot(shares, mean, label=map_name)
            if len(values) > 1 and len(of_maps.keys() - set(baselines)) <= MOST_BANDS:
                half = 1.96 * np.std(values, axis=0, ddof=1) / np.sqrt(len(values))
                panel.fill_between(shares, mean - half, mean + half, color=line.get_color(), alpha=0.12, linewidth=0)
        what = "deleted" if name.startswith("deletion") else "inserted"
        panel.set(title=name, xlabel=f"share of the pixels {what}", ylabel="probability of the class", ylim=(0, 1))
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", fontsize=8)
    figure.suptitle(title)
    return save(figure, path)


TAB10 = matplotlib.colormaps["tab10"].colors
COLOURS = (*TAB10[:7], *TAB10[8:])  # without grey, the baselines'
LINES = ("-", "--", ":", "-.")
LINES_OF_MAPS = cycler(linestyle=LINES) * cycler(color=COLOURS)


def draw_cascade(path, title, stages, scores):
    """How alike maps stay while layers are randomised from the output down.

    Args:
        stages: list of S layer names.
        scores: dict of measure's name -> dict of map's name -> float (N, S); NaN where a map became even.
    """
    figure = Figure(figsize=(5.2 * len(scores) + 2.2, 4.6), layout="constrained")
    panels = figure.subplots(1, len(scores), squeeze=False)[0]
    for panel, (name, of_maps) in zip(panels, scores.items(), strict=True):
        panel.set_prop_cycle(LINES_OF_MAPS)
        for map_name, values in of_maps.items():
            mean = np.ma.masked_invalid(values).mean(axis=0).filled(np.nan)
            panel.plot([1, *mean], label=map_name, marker=".")
        panel.set_xticks(range(len(stages) + 1), ["trained", *stages], rotation=90, fontsize=7)
        panel.set(title=name, xlabel="randomised down to", ylim=(-0.4, 1.03))
        panel.axhline(0, color="grey", linewidth=0.5)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", fontsize=8)
    figure.suptitle(title)
    return save(figure, path)


def draw_bars(path, title, rows, baselines):
    """Scores of maps as bars with intervals.

    Args:
        rows: dict of score's title -> dict of map's name -> (value, low, high).
        baselines: names of the maps drawn in grey.
    """
    names = list(next(iter(rows.values())))
    figure = Figure(figsize=(3.2 * len(rows) + 2, 0.3 * len(names) + 1.4), layout="constrained")
    panels = figure.subplots(1, len(rows), sharey=True, squeeze=False)[0]
    colours = ["0.7" if name in baselines else "C0" for name in names]
    for panel, (score, of_maps) in zip(panels, rows.items(), strict=True):
        value, low, high = np.array([of_maps[name] for name in names], np.float64).T
        spread = np.nan_to_num(np.clip([value - low, high - value], 0, None))
        panel.barh(range(len(names)), value, color=colours, xerr=spread, error_kw={"linewidth": 1})
        panel.set(title=score, xlim=(0, 1))
        panel.set_yticks(range(len(names)), names, fontsize=8)
    panels[0].invert_yaxis()
    figure.suptitle(title)
    return save(figure, path)


def draw_extremes(path, title, pictures):
    """The best and the worst photos of each map, the map over the photo.

    Args:
        pictures: dict of map's name -> list of (score, class name, photo, overlay, outlines), the pictures as data:
            addresses, the outlines as `camlib.evaluation.scoring.outlines_of` makes them.
    """
    columns = 2 * COUNT_OF_EXTREMES
    figure = Figure(figsize=(1.35 * columns + 2.4, 1.6 * len(pictures) + 0.8), layout="constrained")
    panels = figure.subplots(len(pictures), columns, squeeze=False)
    for row, (name, found) in zip(panels, pictures.items(), strict=True):
        found = sorted(found, key=lambda one: -one[0])
        half = min(COUNT_OF_EXTREMES, len(found) // 2)
        chosen = found[:half] + [None] * (columns - 2 * half) + found[len(found) - half :]
        for panel, one in zip(row, chosen, strict=True):
            panel.set_axis_off()
            if one:
                score, class_name, photo, overlay, outlines = one
                draw_photo(panel, laid_over(photo, overlay), outlines)
                panel.set_title(f"{class_name} {score:.2f}", fontsize=PICTURE_FONT)
        row[0].text(
            -0.1, 0.5, title_lines(name), transform=row[0].transAxes, ha="right", va="center", fontsize=PICTURE_FONT
        )
    figure.suptitle(title)
    return save(figure, path)


def draw_side_by_side(path, pictures):
    """Photos in rows: each as it is, then under each of its maps.

    Args:
        pictures: list of (photo's title, dict of map's name -> (photo, overlay)), the pictures as data: addresses.
    """
    names = list(pictures[0][1])
    figure = Figure(figsize=(1.8 * (len(names) + 1), 1.9 * len(pictures) + 0.6), layout="constrained")
    panels = figure.subplots(len(pictures), len(names) + 1, squeeze=False)
    for row, (title, of_maps) in zip(panels, pictures, strict=True):
        photo, _ = of_maps[names[0]]
        shown = [decoded_picture(photo), *(laid_over(*of_maps[name]) for name in names)]
        for panel, picture in zip(row, shown, strict=True):
            panel.set_axis_off()
            draw_photo(panel, picture)
        row[0].set_title(title, fontsize=PICTURE_FONT)
    for panel, name in zip(panels[0][1:], names, strict=True):
        panel.set_title(title_lines(name), fontsize=PICTURE_FONT)
    return save(figure, path)


def draw_photo(panel, picture, outlines=()):
    """A photo, and polygons on it in shares of its width and height: white with a black edge, as on the page."""
    panel.imshow(picture)
    for points in outlines:
        edge = withStroke(linewidth=1.8, foreground="black")
        corners = np.array(points) * picture.size - 0.5
        panel.add_patch(Polygon(corners, fill=False, edgecolor="white", linewidth=0.7, path_effects=[edge]))


def title_lines(name):
    """A map's name, network, method and layer each in a line of its own."""
    return name.replace(" ", "\n", 1).replace("@", "\n@")


def decoded_picture(uri):
    """The picture that a data: address holds."""
    return Image.open(io.BytesIO(base64.b64decode(uri.split(",", 1)[1])))


def laid_over(photo, overlay):
    """A map over its photo, which is grey so that the map stands out; both given as data: addresses."""
    photo, overlay = decoded_picture(photo), decoded_picture(overlay)
    below, above = photo.convert("L").convert("RGBA"), overlay.convert("RGBA").resize(photo.size)
    return Image.blend(below, Image.alpha_composite(below, above), USUAL.opacity)


def draw_history(path, history):
    """Write the curves of a training as a PNG, see `figure_of_history`."""
    return save(figure_of_history(history), path)


def figure_of_history(history):
    """Matplotlib's Figure of loss and both accuracies over the epochs, training and validation."""
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    panels = figure.subplots(1, 3)
    epochs = [row["epoch"] for row in history]
    titles = {"loss": "loss", "top1": "top-1 accuracy", "binary_accuracy": "binary accuracy (Keras)"}
    for panel, (name, title) in zip(panels, titles.items(), strict=True):
        panel.plot(epochs, [row[name] for row in history], label="train")
        panel.plot(epochs, [row[f"val_{name}"] for row in history], label="val")
        panel.set(title=title, xlabel="epoch")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        panel.legend()
    return figure
