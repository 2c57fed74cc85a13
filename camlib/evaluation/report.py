"""The report of an evaluation: tables with intervals, figures, and one page. Imports neither Keras nor TensorFlow."""

import string
from collections import Counter
from pathlib import Path

import numpy as np

from camlib.console import counted
from camlib.evaluation import metrics
from camlib.evaluation.results import cascades_of, curves_of, entries_of, extremes_of, merged
from camlib.evaluation.score_tables import (
    APART,
    BASELINES,
    LOCALISATION,
    NO_NETWORK,
    SANITY,
    SHARPNESS,
    cell_text,
    faithfulness_scores,
    score_table,
)
from camlib.files import write_csv, write_whole
from camlib.plots import figures
from camlib.plots.page import Report, write_page

MOST_CONFUSED = 20  # of a confusion matrix in the tables; the figure has those of any number
OF_NETWORKS, TAKEN_FOR = "How often the networks are right", "What {} takes the photos for"  # titles of tables
SMALL_COLLECTION = 5  # photos; collections with fewer are counted together

# ---------------------------------------------------------------- tables

NETWORK = (
    ("top-1", "share of photos whose most probable class is the true one"),
    (
        "binary accuracy (Keras)",
        "share of right yes-or-no answers over all classes, each with the threshold 0.5; what "
        "Keras calls accuracy beside a binary cross-entropy",
    ),
    ("ECE", "expected calibration error: how far confidence lies from accuracy, mean over bins of confidence"),
)


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
    header = [list(row) for row in network_rows[:1]]
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
    if "localisation" in parts:
        tables.append(score_table("Which class's objects the maps show", "Localisation", APART, with_baselines))
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
