"""Scores of maps as they come, in a file that an evaluation which was stopped goes on with."""

import json

import numpy as np

from camlib.console import UserError, first_line
from camlib.files import write_whole


class Results:
    """Scores of photos as they come: one JSON line for each (network, part, photo and class).

    Args:
        path: Path; lines of an earlier run are read, a last one cut off by a kill is left out.

    Raises:
        UserError: the file is damaged.
    """

    def __init__(self, path):
        self.path, self.records = path, []
        text = path.read_text("utf-8", "surrogateescape") if path.exists() else ""
        whole = text[: text.rfind("\n") + 1]
        if whole != text:
            write_whole(path, lambda file: file.write(whole.encode("utf-8", "surrogateescape")))
        try:
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
