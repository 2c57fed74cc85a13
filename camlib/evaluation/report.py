"""The report of an evaluation: tables with intervals, figures, and one page. Imports neither Keras nor TensorFlow."""

import string
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from camlib.console import counted
from camlib.evaluation import metrics
from camlib.evaluation.results import cascades_of, curves_of, entries_of, extremes_of, merged
from camlib.files import write_csv, write_whole
from camlib.plots import figures
from camlib.plots.page import Report, write_page

NO_NETWORK = "no network"  # in place of a network's name, for the baselines
BASELINES = ("whole picture", "centred Gaussian", "random", "Sobel edges")
MOST_CONFUSED = 20  # of a confusion matrix in the tables; the figure has those of any number
OF_NETWORKS, TAKEN_FOR = "How often the networks are right", "What {} takes the photos for"  # titles of tables
SMALL_COLLECTION = 5  # photos; collections with fewer are counted together
SHARES = set("pointing pointing_15px box_15 box_20 box_best ilsvrc_error_20 zero increase".split())  # of items

# ---------------------------------------------------------------- tables


@dataclass(frozen=True)
class Score:
    """A column of a table.

    Attributes:
        name: str, in CSV files.
        title: str, in Markdown and HTML; an arrow says which way is better.
        source: str, the result it is made from; a map without that result has no such score.
        of: function of that result and what is known of the photo (truth, right) -> number or list of numbers.
        statistic: function of means over items (B, ...) -> (B,).
        truth: "masks" if boxes do not do.
        meaning: str, one line about it.
        is_count: bool, it counts something, so that an interval says nothing.
    """

    name: str
    title: str
    source: str
    of: Callable = lambda value, about: value
    statistic: Callable = lambda means: means
    truth: str | None = None
    meaning: str = ""
    is_count: bool = False


def best(means):
    """The largest over thresholds: one threshold for all photos, chosen on them (Choe et al. 2020)."""
    return means.max(axis=1)


def is_right(overlaps, threshold):
    """Whether the box at a threshold overlaps a true one by half or more."""
    return float(overlaps[list(metrics.BOX_THRESHOLDS).index(threshold)] >= 0.5)


def mean_known(values):
    """The mean without None, which stands for a correlation with an even map; NaN if there is nothing else."""
    known = [value for value in values if value is not None]
    return np.mean(known) if known else np.nan


LOCALISATION = (
    Score("pointing", "pointing ↑", "pointing", meaning="share of objects on which the map's largest value lies"),
    Score("pointing_15px", "pointing, 15 px ↑", "pointing_15",
          meaning="the same, at most 15 pixels beside the object being near enough"),
    Score("energy", "energy ↑", "energy", meaning="share of the map's positive values that lies on the object"),
    Score("box_15", "box at 15 % ↑", "boxes", lambda overlaps, about: is_right(overlaps, 0.15),
          meaning="share of objects whose box overlaps by half or more with that around the map's largest part above "
          "15 % of its maximum"),
    Score("box_20", "box at 20 % ↑", "boxes", lambda overlaps, about: is_right(overlaps, 0.20),
          meaning="the same above 20 %"),
    Score("box_best", "best box ↑", "boxes", lambda overlaps, about: np.array(overlaps) >= 0.5, best,
          meaning="the same above the best of 99 thresholds for all photos together: MaxBoxAcc of maps cut at "
          "zero, where the paper's are stretched from their least value"),
    Score("ilsvrc_error_20", "ILSVRC error at 20 % ↓", "boxes",
          lambda overlaps, about: 1 - is_right(overlaps, 0.20) * about.get("right", np.nan),
          meaning="share of objects whose photo is misclassified or whose box at 20 % is wrong"),
    Score("mask_iou", "best mask IoU ↑", "counts",
          lambda counts, about: metrics.mask_iou(np.array(counts)), best, "masks",
          meaning="intersection over union of the object and the map above the threshold that is best for all photos"),
    Score("pxap", "PxAP ↑", "counts", statistic=metrics.pixel_precision, truth="masks",
          meaning="average precision with which the map's values tell the object's pixels, all photos together"),
)  # fmt: skip
SHARPNESS = (
    Score("cells", "cells of the map", "grid", lambda grid, about: np.prod(grid), is_count=True,
          meaning="how many values the map has before it is enlarged"),
    Score("border_energy", "energy at the border ↑", "border", truth="masks",
          meaning="positive values at the object's border, in units of what an even map has there"),
    Score("edge_width", "edge width ↓", "edge",
          meaning="width of the map's steepest edge, in units of the photo's longer side"),
    Score("zero", "all zero ↓", "zero", meaning="share of objects whose map is zero everywhere"),
)  # fmt: skip
SANITY = (
    Score("rank_first", "rank correlation, output randomised", "rank_correlation", lambda found, about: found[0],
          meaning="of the map with that of the network whose last layers' weights are shuffled; 1: the same map"),
    Score("rank_all", "all layers randomised", "rank_correlation", lambda found, about: found[-1],
          meaning="the same with all layers' weights shuffled"),
    Score("rank_mean", "mean of the cascade ↓", "rank_correlation", lambda found, about: mean_known(found),
          meaning="mean of the same while layer after layer is shuffled, from the output down; near 1 the map shows "
          "the photo rather than what was learnt; stages that leave an even map, which has no ranks, are left out"),
    Score("ssim_mean", "SSIM, mean of the cascade ↓", "ssim", lambda found, about: mean_known(found),
          meaning="the same with structural similarity in place of rank correlation"),
    Score("other_class", "rank correlation with another class ↓", "other_class",
          meaning="of the map with that of the next class; near 1 it does not tell where a class is"),
)  # fmt: skip
NETWORK = (
    ("top-1", "share of photos whose most probable class is the true one"),
    (
        "binary accuracy (Keras)",
        "share of right yes-or-no answers over all classes, each with the threshold 0.5; what "
        "Keras calls accuracy beside a binary cross-entropy",
    ),
    ("ECE", "expected calibration error: how far confidence lies from accuracy, mean over bins of confidence"),
)


def faithfulness_scores(fills):
    """The columns of faithfulness: deletion and insertion with each fill, and what needs none."""
    curves = [
        Score(
            f"{curve}_{fill}",
            f"{curve}, {fill} {arrow}",
            f"{curve}_{fill}",
            lambda points, about: metrics.area(points),
            meaning=f"mean probability of the annotated class while the photo's pixels are {what} {fill}, the map's "
            "highest first, in --steps steps; RISE takes the predicted class, 224 steps, grey for deletion and a "
            "narrower blur for insertion",
        )
        for fill in fills
        for curve, arrow, what in (("deletion", "↓", "replaced by its"), ("insertion", "↑", "put back into its"))
    ]
    return (
        *curves,
        Score("average_drop", "average drop ↓", "drop",
              meaning="share of the probability that is lost where pixels are dimmed by how little the map shows them"),
        Score("increase", "increase ↑", "increase", meaning="share of photos whose probability that raises"),
        Score("adcc", "ADCC ↑", "adcc",
              meaning="average drop, coherency (correlation with the map of what it shows, both cut at zero and "
              "enlarged) and complexity (its mean) in one number, of the annotated class"),
        Score("road", "ROAD ↑", "road",
              meaning="half the probability without the map's lowest pixels less that without its highest, filled in "
              "from their surroundings; the paper compares accuracies"),
    )  # fmt: skip


@dataclass(frozen=True)
class Table:
    """A table of scores: rows are maps, each cell (value, low, high, number of items).

    Attributes:
        title: str.
        scores: tuple of Score.
        rows: dict of map's name -> list of cells.
        section: str, of docs/results.md.
    """

    title: str
    scores: tuple
    rows: dict
    section: str

    def cells(self):
        """Yield (map's name, Score, cell), row by row."""
        for name, cells in self.rows.items():
            yield from ((name, score, cell) for score, cell in zip(self.scores, cells, strict=True))


def score_table(title, section, scores, maps, truth=None):
    """Make a table of the maps that have at least one of the scores.

    Args:
        title, section: str, see Table.
        scores: tuple of Score.
        maps: as `merged` makes them.
        truth: "masks" or "boxes", to take photos with that truth only.
    """
    rows, scores = {}, [score for score in scores if score.truth in (None, truth)]
    for name, items in maps.items():
        chosen = [pair for pair in items.values() if truth is None or pair[1].get("truth") == truth]
        cells = [score_cell(score, chosen) for score in scores]
        if any(count for *_, count in cells):
            rows[name] = cells
    return Table(title, scores, rows, section)


def score_cell(score, pairs):
    """(value, low, high, number of items) of a score, from the items that have it."""
    values, photos = [], []
    for scores, about in pairs:
        if scores.get(score.source) is not None and score.truth in (None, about.get("truth")):
            values.append(np.array(score.of(scores[score.source], about), np.float64))  # None becomes NaN
            photos.append(about["photo"])
    return metrics.bootstrap(values, photos, score.statistic, score.name in SHARES)


def cell_text(cell, is_count=False):
    """'0.915 (0.880 to 0.945)', or a dash; of counts '9,216'."""
    value, low, high, _ = cell
    if np.isnan(value):
        return "-"
    if is_count:
        return f"{value:,.0f}"
    digits = 0 if value >= 100 else 3
    interval = "" if np.isnan(low) or low == high else f" ({low:.{digits}f} to {high:.{digits}f})"
    return f"{value:.{digits}f}{interval}"


def network_table(scored, records):
    """Top-1 and more, for all photos, each class and each collection: list of dicts, and what figures need.

    Photos that hold several classes are left out.
    """
    times = Counter(record["photo"] for record in records)
    records = [record for record in records if times[record["photo"]] == 1]
    if not records:
        return [], None
    plain = max(record["label"] for record in records) < len(records[0]["outputs"])  # no group of classes among them
    rows = []
    for name, chosen in groups_of(records).items():
        hits, (outputs, labels) = sum(record["right"] for record in chosen), answers_of(chosen)
        low, high = metrics.wilson_interval(hits, len(chosen))
        binary = metrics.binary_accuracy(outputs, labels) if plain else float("nan")
        error = metrics.calibration(outputs, labels)[0] if plain else float("nan")
        rows.append({"network": scored.name, "photos": name, "number": len(chosen), "top1": hits / len(chosen),
                     "low": low, "high": high, "binary_accuracy": binary, "ece": error})  # fmt: skip
    return rows, answers_of(records) if plain else None


def answers_of(records):
    """(outputs float (N, C), labels int (N,)) of records."""
    return tuple(np.array([record[name] for record in records]) for name in ("outputs", "label"))


def groups_of(records):
    """Records that are counted together, dict of name -> list: all, each class, and of several collections each large
    one; none twice."""
    groups, once = {"all": records}, {}
    for record in records:
        groups.setdefault(f"class {record['class']}", []).append(record)
    sizes = Counter(collection_of(record["photo"]) for record in records)
    titles = {  # the largest first
        name: f"collection {name}" if count >= SMALL_COLLECTION else "smaller collections"
        for name, count in sizes.most_common()
    }
    for title in dict.fromkeys(titles.values()) if len(sizes) > 1 else ():
        groups[title] = []
    for record in records if len(sizes) > 1 else ():
        groups[titles[collection_of(record["photo"])]].append(record)
    for name, chosen in groups.items():
        once |= {name: chosen} if chosen not in once.values() else {}
    return once


def collection_of(photo):
    """The collection a photo comes from: its file's name without the number at the end."""
    return Path(photo).stem.rstrip(string.digits).rstrip(" _-") or "numbered"


def write_tables(output, tables, network_rows):
    """Write scores.csv, a number a line, and networks.csv."""
    scores = [(table.title, name, score.name, *cell) for table in tables for name, score, cell in table.cells()]
    header = ("table", "map", "score", "value", "low", "high", "items")
    write_csv(output / "scores.csv", [header, *(line for line in scores if line[-1])])
    header = [list(network_rows[0])] if network_rows else []
    write_csv(output / "networks.csv", [*header, *(row.values() for row in network_rows)])


def grids_of(tables, network_rows, confusions):
    """The tables as text: list of (title, header, rows), for Markdown and for the page.

    Args:
        tables: list of Table.
        network_rows: as `network_table` makes them.
        confusions: dict of network's name -> (class names, confusion matrix).
    """
    grids = [
        (table.title, ["map", *(score.title for score in table.scores), "items"],
         rows_once([score_row(name, table.scores, cells) for name, cells in table.rows.items()]))
        for table in tables
    ]  # fmt: skip
    if network_rows:
        rows = [
            [row["network"], row["photos"], f"{row['number']:,}",
             cell_text((row["top1"], row["low"], row["high"], row["number"])), f"{row['binary_accuracy']:.3f}",
             f"{row['ece']:.3f}"]
            for row in network_rows
        ]  # fmt: skip
        grids.append((OF_NETWORKS, ["network", "photos", "number", *(name for name, _ in NETWORK)], rows))
    for name, (class_names, counts) in confusions.items():
        if len(class_names) <= MOST_CONFUSED:
            rows = [[truth, *map(str, of_truth)] for truth, of_truth in zip(class_names, counts, strict=True)]
            grids.append((TAKEN_FOR.format(name), ["true class", *class_names], rows))
    return grids


def score_row(name, scores, cells):
    """A map's row: its name, its cells, and how many items they are of; a cell of fewer says so: "0.500 of 6"."""
    most = max(cell[-1] for cell in cells)
    texts = [cell_text(cell, score.is_count) + (f" of {cell[-1]:,}" if 0 < cell[-1] < most else "")
             for score, cell in zip(scores, cells, strict=True)]  # fmt: skip
    return [name, *texts, f"{most:,}"]


def rows_once(rows):
    """Rows of a table, those of the same numbers as one: "vgg layer-cam, element-wise"."""
    names = {}
    for name, *cells in rows:
        names.setdefault(tuple(cells), []).append(name)
    network_of = {cells: first.partition(" ")[0] + " " for cells, (first, *_) in names.items()}
    return [
        [", ".join([first, *(name.removeprefix(network_of[cells]) for name in others)]), *cells]
        for cells, (first, *others) in names.items()
    ]


def explanations_of(tables):
    """One line about each metric, as `write_page` takes them."""
    found = {table.title: (table.section, [(score.title, score.meaning) for score in table.scores]) for table in tables}
    found[OF_NETWORKS] = "The networks", NETWORK
    return {title: (f"docs/results.md, section {section}", about) for title, (section, about) in found.items()}


def markdown_of(heading, grids, sentences, findings=()):
    """Findings, tables as `grids_of` makes them, and sentences, as Markdown."""
    lines = [f"# {heading}", "", *(f"- {finding}" for finding in findings), *([""] if findings else [])]
    for title, header, rows in grids:
        lines += [f"## {title}", "", f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
        lines += [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
        lines += [""]
    return "\n".join([*lines, *(f"- {sentence}" for sentence in sentences)]) + "\n"


FAILED = {  # what a rank correlation that is surely above a half means, and when a map would hardly change
    "rank_mean": ("as its network's weights are randomised the map hardly changes (mean rank correlation {}): it shows "
                  "the photo rather than what was learnt.", "with shuffled weights"),
    "other_class": ("asked for another class it gives nearly the same map (rank correlation {}): it does not tell "
                    "where a class is.", "for another class"),
}  # fmt: skip


def sanity_sentences(table):
    """What the sanity checks mean, in plain words, for the maps that fail them."""
    return [
        f"{name}: {FAILED[score.name][0].format(cell_text(cell))}"
        for name, score, cell in table.cells()
        if fails(score, cell)
    ]


def fails(score, cell):
    """Whether a rank correlation is surely above a half."""
    return score.name in FAILED and cell[1] > 0.5


# ---------------------------------------------------------------- what was found


PLACES = {
    "pointing": "The largest value of {name} lies on the object in {share} of {count:,} cases",
    "energy": "{share} of the positive values of {name} lie on the object",
}


def findings_of(tables, network_rows):
    """What was found, in at most five sentences: of answers, of place twice, of faithfulness and of sanity.

    Args:
        tables: list of Table that have rows.
        network_rows: as `network_table` makes them.
    """
    answers = [
        f"{row['network']} is right on {percent(row['top1'], row['low'], row['high'])} of {row['number']:,} photos"
        for row in network_rows
        if row["photos"] == "all"
    ]
    places = [place_sentence(tables, name) for name in PLACES]
    first = [ranked for table in tables if (ranked := best_first(table, "insertion_"))]
    fastest = " and ".join(f"{maps[0][0]} (insertion {cell_text(maps[0][1])})" for maps in first)
    faithful = fastest and f"The class's probability rises fastest when the pixels of {fastest} are put back first"
    return [f"{sentence}." for sentence in ("; ".join(answers), *places, faithful, sanity_finding(tables)) if sentence]


def best_first(table, score_name, of_baselines=False):
    """The maps of a table by the first score of such a name, the best first: list of (map's name, cell).

    Those of the sample alone are left out where others have more items.
    """
    cells = {}
    for name, score, cell in table.cells():
        if score.name.startswith(score_name) and (name in BASELINES) == of_baselines and cell[-1]:
            cells.setdefault(name, cell)
    most = max((cell[-1] for cell in cells.values()), default=0)
    whole = [(name, cell) for name, cell in cells.items() if cell[-1] == most]
    return sorted(whole, key=lambda pair: pair[1][0], reverse=True)


def place_sentence(tables, score_name):
    """Which map lies best on the objects, the next one, and the best that knows no network; "" without annotations."""
    of_tables = [(maps, table) for table in tables if (maps := best_first(table, score_name))]
    if not of_tables:
        return ""
    maps, table = max(of_tables, key=lambda pair: pair[0][0][1][-1])  # masks or boxes: of which there are more
    name, cell = maps[0]
    others = [f"; next comes {name} with {percent(*cell[:3])}" for name, cell in maps[1:2]]
    for name_of_baseline, of_baseline in best_first(table, score_name, of_baselines=True)[:1]:
        others.append(f"; the best that knows no network, {name_of_baseline}, has {percent(*of_baseline[:3])}")
    return PLACES[score_name].format(name=name, share=percent(*cell[:3]), count=cell[-1]) + "".join(others)


def sanity_finding(tables):
    """How many kinds of map fail a sanity check; "" where none was made."""
    checks = [(name, score, cell) for table in tables for name, score, cell in table.cells()]
    checks = [
        (name, score.name, fails(score, cell)) for name, score, cell in checks if score.name in FAILED and cell[-1]
    ]
    if not checks:
        return ""
    kinds = dict.fromkeys(name for name, _, _ in checks)
    failed = [name for name in kinds if any(has_failed for other, _, has_failed in checks if other == name)]
    named = f" ({', '.join(failed)})" if failed else ""
    when = " or ".join(FAILED[check][1] for check in dict.fromkeys(check for _, check, _ in checks))
    return f"{len(failed) or 'None'} of {counted(len(kinds), 'kind')} of map{named} would look much the same {when}"


def percent(value, low, high):
    """'95 % (92 to 97 %)'."""
    interval = "" if np.isnan(low) or low == high else f" ({100 * low:.0f} to {100 * high:.0f} %)"
    return f"{100 * value:.0f} %{interval}"


# ---------------------------------------------------------------- the whole report


def write_report(all_scored, args, results):
    """Write tables, figures and the page; returns the tables, as `grids_of` makes them, and what was found in words."""
    output, parts = args.output, args.only
    by_network = {scored.name: merged(scored.name, results) for scored in all_scored}
    maps = {name: scores for found in by_network.values() for name, scores in found.items() if name not in BASELINES}
    tables, network_rows, confusions, drawn, sentences = [], [], {}, [], []
    with_baselines = maps | merged(NO_NETWORK, results)
    for truth in ("masks", "boxes") if "localisation" in parts else ():
        lie = score_table(f"Where the maps lie ({truth})", "Localisation", LOCALISATION, with_baselines, truth)
        sharp = f"How sharp the maps are ({truth})"
        tables += [lie, score_table(sharp, "Sharpness", SHARPNESS, with_baselines, truth)]
        if lie.rows:
            path = figures.draw_bars(output / f"localisation_{truth}.png", lie.title, bars_of(lie), BASELINES)
            drawn.append((lie.title, path))
    for name, found in by_network.items() if "faithfulness" in parts else ():
        scores, title = faithfulness_scores(args.fill), f"Whether {name} uses what the maps show"
        tables.append(score_table(title, "Faithfulness", scores, found))
        if any((curves := curves_of(found, args.fill)).values()):
            drawn.append((title, figures.draw_curves(output / f"curves_{name}.png", name, curves, BASELINES)))
    if "sanity" in parts:
        table = score_table("Whether the maps depend on the network and the class", "Sanity", SANITY, maps)
        tables.append(table)
        sentences = sanity_sentences(table)
        for name in by_network:
            if records := results.of(name, "sanity"):
                stages, scores = records[0]["stages"], cascades_of(records)
                path = figures.draw_cascade(output / f"randomised_{name}.png", name, stages, scores)
                drawn.append((table.title, path))
    for scored in all_scored if "network" in parts else ():
        rows, answers = network_table(scored, results.of(scored.name, "maps"))
        network_rows += rows
        if answers:
            (outputs, labels), names, name = answers, scored.input_spec.class_names, scored.name
            counts = metrics.confusion_matrix(labels, outputs.argmax(axis=1), outputs.shape[1])
            confusions[scored.name] = names, counts
            path = figures.draw_confusion_matrix(output / f"confusion_{name}.png", counts, names, name)
            errors = metrics.calibration(*answers)
            reliability = figures.draw_reliability(output / f"reliability_{name}.png", name, errors)
            drawn += [(TAKEN_FOR.format(name), path), (OF_NETWORKS, reliability)]
    entries = entries_of(maps, results, all_scored)
    if extremes := extremes_of(entries):
        title = "The best (left) and the worst (right) photos, by energy"
        drawn.append((title, figures.draw_extremes(output / "best_and_worst.png", title, extremes)))
    tables = [table for table in tables if table.rows]
    write_tables(output, tables, network_rows)
    grids, title = grids_of(tables, network_rows, confusions), "Evaluation of maps"
    findings = findings_of(tables, network_rows)
    write_whole(output / "report.md", lambda file: file.write(markdown_of(title, grids, sentences, findings).encode()))
    about = Report(findings, grids, sentences, drawn, explanations_of(tables))
    write_page(args.html or output / "report.html", title, entries, report=about)
    return grids, [*findings, *sentences]


def bars_of(table, wanted=("pointing", "energy", "box_best")):
    """Some scores of a table as `draw_bars` takes them."""
    bars = {}
    for name, score, cell in table.cells():
        if score.name in wanted:
            bars.setdefault(score.title, {})[name] = cell[:3]
    return bars
