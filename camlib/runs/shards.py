"""Shards: a run that several processes do in parts, each by itself, in one folder that they share.

The photos are dealt in whole batches, as one run alone would see them: what a network computes of a photo can depend on
the photo's place in its batch, in the last bits. Imports neither Keras nor TensorFlow.
"""

import contextlib
import csv
import hashlib
import json
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from camlib.console import UserError, counted
from camlib.files import (
    RUN_FILE,
    csv_rows,
    only_writer,
    open_csv,
    read_json,
    refuse_if_held,
    refuse_no_file,
    write_json_once,
)
from camlib.runs.store import PART_NAME

PREDICTIONS_FILE, FAILED_FILE = "predictions.csv", "failed.csv"
FAILED_COLUMNS = ["path", "reason"]
NUMBER = "number"  # a column of shards' lists: the photo's place among all, from 0
LIST_OF_SHARD = re.compile(r"(predictions|failed)-([0-9]+)-of-([0-9]+)\.csv")
MOST_LIST = 2**31  # bytes: that of ten million photos and four classes has half as many
SECONDS_TO_WRITE = 10  # for another process to write a few kilobytes

# ---------------------------------------------------------------- which part is whose


class Shard(NamedTuple):
    """One of `count` parts of a run; `number` is from 1 to `count`."""

    number: int
    count: int


def parse_shard(text):
    """The Shard for what the user wrote after --shard: "3/16", or "slurm" for what Slurm says of this process.

    Raises:
        UserError: it is something else.
    """
    if text == "slurm":
        return shard_of_slurm(os.environ)
    found = re.fullmatch("([0-9]{1,6})/([0-9]{1,6})", text)
    shard = Shard(*map(int, found.groups())) if found else Shard(0, 0)
    if not 1 <= shard.number <= shard.count:
        raise UserError(f"--shard {text}: expected its number, from 1, and how many there are, 3/16, or slurm")
    return shard


def shard_of_slurm(variables):
    """The Shard of a task of a job array, or of a task that srun started.

    Args:
        variables: dict of str, the environment.

    Raises:
        UserError: they do not say which part is this process's, as where an array leaves numbers out.
    """

    def number(name, default=None):
        return int(variables.get(f"SLURM_{name}") or default)

    try:
        if not variables.get("SLURM_ARRAY_TASK_ID"):
            return Shard(number("PROCID") + 1, number("NTASKS"))
        count, step, first = number("ARRAY_TASK_COUNT"), number("ARRAY_TASK_STEP", 1), number("ARRAY_TASK_MIN", 0)
        place, rest = divmod(number("ARRAY_TASK_ID") - first, step)
        last = number("ARRAY_TASK_MAX", first + (count - 1) * step)
        if number("NTASKS", 1) == 1 and not rest and last == first + (count - 1) * step:
            return Shard(place + 1, count)
    except (TypeError, ValueError):
        pass  # one is not set, or no number
    raise UserError(
        "--shard slurm: Slurm's variables do not number the tasks evenly, one process each; expected a job of sbatch "
        "--array=1-16 --ntasks=1, or srun --ntasks=16, or --shard K/N"
    )


@dataclass(frozen=True)
class RunPart:
    """What is one shard's of a run.

    Attributes:
        shard: Shard.
        photos: list of Photo, those of all shards.
        batch_size: int, photos of one batch.
    """

    shard: Shard
    photos: list
    batch_size: int

    @property
    def own(self):
        """list of Photo: every count-th batch."""
        begin, step = (count * self.batch_size for count in (self.shard.number - 1, self.shard.count))
        firsts = range(begin, len(self.photos), step)
        return [photo for first in firsts for photo in self.photos[first : first + self.batch_size]]

    def agreement(self):
        """What all shards have to agree on, for run.json."""
        names = "\0".join(photo.name for photo in self.photos).encode("utf-8", "surrogateescape")
        return {
            "count": self.shard.count,
            "batch_size": self.batch_size,
            "photos": len(self.photos),
            "photos_sha256": hashlib.sha256(names).hexdigest(),
        }

    def list_name(self, name):
        """'predictions.csv' -> 'predictions-3-of-16.csv'."""
        return f"{Path(name).stem}-{self.shard.number}-of-{self.shard.count}.csv"

    def heading(self):
        """What the shard does, for the user."""
        number, count = self.shard
        text = f"shard {number}/{count}: {len(self.own):,} of {counted(len(self.photos), 'photo')}"
        if self.own:
            return text
        batches = counted(-(-len(self.photos) // self.batch_size), "batch", "batches")
        return f"{text}, which are {batches}; a smaller --batch-size gives every shard some"


# ---------------------------------------------------------------- a folder that shards share


def read_record(folder):
    """What a folder's run.json holds, a dict; None if there is none.

    Raises:
        UserError: it is not what a script wrote.
    """
    deadline = time.monotonic() + SECONDS_TO_WRITE
    while True:
        try:
            record = read_json(folder / RUN_FILE)
            are_places = all(isinstance(place, str) for place in record["settings"].get("photos") or ())
            if are_places and isinstance(record["settings"], dict) and isinstance(record.get("shards", {}), dict):
                return record
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, AttributeError):
            pass
        if time.monotonic() > deadline:
            raise UserError(
                f"{folder / RUN_FILE} is damaged; expected what a script wrote; give another folder, or remove "
                "it and the maps beside it"
            )
        time.sleep(0.05)  # another shard may be writing it


def changed_settings(earlier, settings):
    """The names of the settings that differ, in sorted order; a setting counts as it stands in run.json.

    What follows from others is named if it differs alone.
    """
    now = json.loads(json.dumps(settings, default=str))
    changed = {key for key in earlier.keys() | now.keys() if earlier.get(key) != now.get(key)}
    return sorted(changed - {"extent", "input_size"} or changed)


def refuse_foreign_files(folder):
    """Raise UserError where a folder holds something that is neither hidden nor a README, and no run.json.

    What other shards write appears after run.json, which is looked for last.
    """
    foreign = folder.is_dir() and any(not name.startswith((".", "README")) for name in os.listdir(folder))
    if foreign and not (folder / RUN_FILE).exists():
        raise UserError(f"{folder} holds files of another kind; expected a new or empty folder")


def check_output(output, settings):
    """Refuse a folder that holds something else, as far as is known before a network is loaded.

    Args:
        output: Path.
        settings: dict, those of the run that are known; None: any run may be there.

    Raises:
        UserError: it holds other files of the user's, or results of other settings.
    """
    refuse_foreign_files(output)
    record = read_record(output) if settings else None
    if record and "shards" not in record:  # which have a way of their own
        earlier = record["settings"]
        refuse_changed(output, {name: earlier[name] for name in settings.keys() & earlier.keys()}, settings)


def refuse_changed(output, earlier, settings):
    """Raise UserError, with the names of the settings, where a folder holds results of others."""
    if changed := changed_settings(earlier, settings):
        raise UserError(
            f"{output} holds results of other settings ({', '.join(changed)}); expected another folder, or "
            "--overwrite to replace them"
        )


@contextlib.contextmanager
def claim_shard(output, record, part):
    """Make the folder that shards share, or find it made by another, and agree with it on what is done.

    The first shard writes run.json, no other ever changes it. Until the end of the context this process alone writes
    the shard's lists.

    Args:
        output: Path.
        record: dict for run.json, see `camlib.runs.claim.run_record`.
        part: RunPart.

    Raises:
        UserError: the folder holds something else than shards of this run, or another process does the shard.
    """
    output.mkdir(parents=True, exist_ok=True)
    refuse_foreign_files(output)
    refuse_if_held(output)
    ours = record | {"shards": part.agreement()}
    try:
        write_json_once(output / RUN_FILE, ours)
    except FileExistsError:
        check_same_shards(output, read_record(output), ours)
    with only_writer(output, Path(part.list_name("shard")).stem):
        yield


def check_same_shards(output, found, ours):
    """Refuse to do a shard of another run than that in the folder; both are records of run.json."""
    if "shards" not in found:
        raise UserError(f"{output} holds a run that is not in shards; expected another folder, or no --shard")
    changed = [name for of in ("settings", "shards") for name in changed_settings(found[of], ours[of])]
    if changed:
        raise UserError(
            f"{output} holds shards of another run (other {', '.join(changed)}); expected the settings, batch size, "
            "photos and count of shards that the first one had, or another folder"
        )


# ---------------------------------------------------------------- lists


def lists_of(folder, name=PREDICTIONS_FILE):
    """The lists of a run that are there: those of shards in the order of their numbers, and last predictions.csv.

    Args:
        folder: Path.
        name: str, PREDICTIONS_FILE or FAILED_FILE.

    Returns:
        list of Path.
    """
    found = []
    for path in folder.glob(f"{Path(name).stem}-*-of-*.csv"):
        if match := LIST_OF_SHARD.fullmatch(path.name):
            found.append((int(match[2]), path))
    return [path for _, path in sorted(found)] + [folder / name] * (folder / name).exists()


def read_list(path):
    """(header, rows) of a list, lists of str; a last line that is being written is left out.

    Raises:
        OSError: it may not be read.
        ValueError: it is no file, longer than MOST_LIST, or damaged.
    """
    refuse_no_file(path, MOST_LIST)
    with open_csv(path, "r") as file:
        try:
            header, *rows = csv_rows(file) or [[]]
        except csv.Error as error:
            raise ValueError(f"no table: {error}") from error
    return header, [row for row in rows if len(row) == len(header)]


def rows_of(path):
    """The rows of a list of predictions: list of dict of column -> str.

    Raises:
        OSError: it may not be read.
        ValueError: it is damaged, or no such list.
    """
    header, rows = read_list(path)
    if header[:2] != ["path", "predicted"]:
        raise ValueError("columns of another kind")
    return [dict(zip(header, row, strict=True)) for row in rows]


def check_row(run, row):
    """Raise ValueError for a row, see `rows_of`, that leads out of the run's folder, or to what no file can be."""
    name, part = row["path"], row.get("part", "maps-0000000.h5")
    parts = Path(name).parts
    odd = not parts or Path(name).is_absolute() or ".." in parts or "\0" in name
    if odd or max(map(len, map(os.fsencode, parts))) > 255 or len(os.fsencode(run / name)) > 4000:
        raise ValueError(f"a photo called {name[:40]!r}")
    if not PART_NAME.fullmatch(part):
        raise ValueError(f"a part called {part[:40]!r}")


def remove_lists_of_shards(folder):
    """Remove the lists of shards, whose rows are in the run's."""
    for name in (PREDICTIONS_FILE, FAILED_FILE):
        for path in lists_of(folder, name):
            if LIST_OF_SHARD.fullmatch(path.name):
                path.unlink()
