"""Scores of maps as they come, in a file that an evaluation which was stopped goes on with."""

import json
import math
from collections import Counter

import numpy as np

from camlib.console import UserError, first_line
from camlib.files import read_text, write_whole
from camlib.plots.colours import Scale
from camlib.plots.page import legend_of, likely
from camlib.runs.maps import UNSURE_BELOW


class Results:
    """Scores of photos as they come: one JSON line for each (network, part, photo and class).

    Args:
        path: Path; lines of an earlier run are read, a last one cut off by a kill is left out.

    Raises:
        UserError: the file is damaged.
    """

    def __init__(self, path):
        self.path, self.records = path, []
        try:
            text = read_text(path, math.inf, "surrogateescape") if path.exists() else ""
            whole = text[: text.rfind("\n") + 1]
            if whole != text:
                write_whole(path, lambda file: file.write(whole.encode("utf-8", "surrogateescape")))
            self.records = [as_scores(json.loads(line)) for line in whole.split("\n")[:-1]]  # U+2028 ends none
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"{path} is damaged ({first_line(error)}); expected what the script wrote; --overwrite begins anew"
            ) from error
        self.done = {(record["network"], record["part"], record["item"]) for record in self.records}

    def left(self, network, part, items):
        """The items that have no such record yet."""
        return [item for item in items if (network, part, item.key) not in self.done]

    def add(self, network, part, item, **values):
        of_item = {"item": item.key, "photo": item.name, "class": item.class_name}
        record = {"network": network, "part": part, **of_item, **rounded(values)}
        with open(self.path, "a", encoding="utf-8", errors="surrogateescape") as file:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
        self.records.append(record)

    def of(self, network, part):
        return [record for record in self.records if (record["network"], record["part"]) == (network, part)]


def as_scores(record):
    """A line of scores as it was read, if it has the form that `Results.add` gives it, else ValueError."""
    names = ("network", "part", "item", "photo", "class")
    known = isinstance(record, dict) and all(isinstance(record.get(name), str) for name in names)
    maps = known and record.get("maps")
    if not (isinstance(maps, dict) and all(isinstance(scores, dict) for scores in maps.values())):
        raise ValueError("a line without scores of maps")
    return record


def rounded(values):
    """Numbers in nested dicts and lists with six digits, NaN as None."""
    if isinstance(values, dict):
        return {name: rounded(value) for name, value in values.items()}
    if isinstance(values, (list, tuple)):
        return [rounded(value) for value in values]
    if isinstance(values, (float, np.floating)):
        return float(f"{values:.6g}") if np.isfinite(values) else None
    return values.item() if isinstance(values, np.generic) else values


# ---------------------------------------------------------------- as tables, figures and the page take them


def merged(network, results):
    """dict of map's name -> dict of item -> (scores of all parts, record)."""
    found, known = {}, {}
    for part in ("maps", "sample", "sanity"):
        for record in results.of(network, part):
            about = known.setdefault(record["item"], {"photo": record["photo"]})
            about |= {name: record[name] for name in ("truth", "right") if name in record}
            for name, scores in record["maps"].items():
                before, _ = found.setdefault(name, {}).get(record["item"], ({}, None))
                found[name][record["item"]] = (before | scores, about)
    for items in found.values():
        add_photos_scores(items)
    return found


def add_photos_scores(items):
    """Add to the first item of each photo whose every class was scored whether all peaks lie on their own class.

    Args:
        items: dict of item -> (scores, what is known of it), of one map.
    """
    of_photos = {}
    for scores, about in items.values():
        if "peaks" in scores:
            of_photos.setdefault(about["photo"], []).append(scores)
    for of_photo in of_photos.values():
        if len(of_photo) == of_photo[0]["classes"]:
            of_photo[0]["all_peaks"] = float(np.prod([scores["peaks"][0] for scores in of_photo]))


def curves_of(maps, fills):
    """The deletion and insertion curves of all maps that have them, as `draw_curves` takes them."""
    curves = {}
    for fill in fills:
        for curve in ("deletion", "insertion"):
            of_maps = {
                name: [scores[f"{curve}_{fill}"] for scores, _ in items.values() if f"{curve}_{fill}" in scores]
                for name, items in maps.items()
            }
            curves[f"{curve}, {fill}"] = {name: values for name, values in of_maps.items() if values}
    return curves


def cascades_of(records):
    """The measures of the cascading randomisation as `draw_cascade` takes them."""
    return {
        title: {
            name: np.array([record["maps"][name][measure] for record in records], np.float64)
            for name in records[0]["maps"]
        }
        for measure, title in (("rank_correlation", "rank correlation"), ("ssim", "SSIM"))
    }


def extremes_of(entries):
    """Pictures and energies of all maps as `draw_extremes` takes them; none without annotations."""
    found = {}
    for entry in entries:
        for name, of_classes in entry["maps"].items():
            for class_name, shown in of_classes.items():
                if "energy" in shown["scores"]:
                    pictures = entry["picture"], shown["picture"], entry["outlines"]
                    found.setdefault(name, []).append((shown["scores"]["energy"], class_name, *pictures))
    return found


def entries_of(maps, results, all_scored):
    """What the page shows of each photo and class: list of dicts, see `camlib.plots.page.write_page`.

    Whether an answer is right is known of photos of one class alone.
    """
    records = results.of(all_scored[0].name, "maps")
    times = Counter(record["photo"] for record in records)
    kinds = {name: kind for scored in all_scored for name, kind in scored.kinds.items()}
    entries = []
    for record in records:
        scores = {name: items[record["item"]][0] for name, items in maps.items() if record["item"] in items}
        of_photo = {name: {record["class"]: shown_map(found, kinds[name])} for name, found in scores.items()
                    if "picture" in found}  # fmt: skip
        names, outputs = all_scored[0].input_spec.class_names, record["outputs"]
        predicted, share = max(zip(names, outputs, strict=True), key=lambda pair: pair[1])
        right = record["right"] if times[record["photo"]] == 1 else None
        entries.append({"name": record["photo"], "class": record["class"], "picture": record["picture"],
                        "maps": of_photo, "truth": record["class"], "predicted": predicted, "right": right,
                        "unsure": share < UNSURE_BELOW,
                        "probabilities": likely(dict(zip(names, outputs, strict=True)), [record["class"]]),
                        "outlines": record["outlines"]})  # fmt: skip
    return entries


def shown_map(scores, kind):
    """What the page shows of one map, from its scores and its MapKind."""
    shown = {name: scores[name] for name in ("pointing", "energy") if name in scores}
    legend = legend_of(Scale(*scores["scale"]), kind.ends)
    shown = {"picture": scores["picture"], "scores": shown, "legend": legend}
    return shown | {"zero": True} if scores["zero"] else shown
