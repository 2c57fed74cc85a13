"""A run's folder: claimed, resumed, and the records of what was done in it."""

import contextlib
import csv
import json
import os
import platform
import re
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

import numpy as np

from camlib.console import EXIT_SOME_FAILED, Progress, UserError, counted, duration
from camlib.files import open_csv, write_csv, write_json, write_whole
from camlib.maps import PHOTO_FILE, PREDICTIONS_FILE, SIGNED, dated_file, photo_folder
from camlib.photos import DISPLAY_SIDE, RUN_FILE, Photo, network_input, read_batches
from camlib.pictures import write_jpeg

FAILED_FILE = "failed.csv"
NOT_FINITE = (
    "the network's numbers for it are not finite; if for all photos, try another --preprocess or --dtype float32"
)
PACKAGES = ("keras", "tensorflow", "jax", "numpy", "opencv-python", "pillow", "h5py", "matplotlib")


# ---------------------------------------------------------------- the folder and its records


def run_record(settings, conventions):
    """What run.json holds: the command, the settings that decide the files, versions, conventions."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {"command": sys.argv, "settings": settings, "versions": versions, "conventions": conventions}


def claim_folder(output, settings, conventions, overwrite, remove):
    """Make the folder of a run, or go on in the one that the same command made before, and write its run.json.

    Args:
        output: Path.
        settings: dict that decides what the files hold.
        conventions: str.
        overwrite: bool, remove an earlier run's files.
        remove: function of the folder that does so.

    Raises:
        UserError: the folder holds results of other settings, or other files of the user's.
    """
    run_file = output / RUN_FILE
    if run_file.exists():
        earlier = json.loads(run_file.read_text("utf-8", "surrogateescape"))["settings"]
        now = json.loads(json.dumps(settings, default=str))
        changed = sorted(key for key in earlier.keys() | now.keys() if earlier.get(key) != now.get(key))
        if changed and not overwrite:
            raise UserError(
                f"{output} holds results of other settings ({', '.join(changed)}); expected another --output, or "
                "--overwrite to replace them"
            )
    elif output.is_dir() and any(not name.name.startswith((".", "README")) for name in output.iterdir()):
        raise UserError(f"{output} holds files of another kind; expected a new or empty folder for --output")
    if overwrite and output.is_dir():
        remove(output)
    output.mkdir(parents=True, exist_ok=True)
    write_json(run_file, run_record(settings, conventions))


def write_failed(path, failed):
    """Write (path, reason) rows, or remove the list of an earlier run when nothing failed."""
    if not failed:
        path.unlink(missing_ok=True)
        return
    write_csv(path, [("path", "reason"), *failed])


def say_failed(failed, path):
    """Say how many photos failed and where the list is.

    Args:
        failed: list of (path, reason).
        path: Path of the list.
    """
    not_finite = sum(reason == NOT_FINITE for _, reason in failed)
    if not_finite:
        left_out = f"{counted(not_finite, 'photo')} left out"
        print(f"{left_out}: the network's numbers for {'it' if not_finite == 1 else 'them'} are not finite: see {path}")
    if len(failed) > not_finite:
        print(f"{counted(len(failed) - not_finite, 'photo')} could not be read: see {path}")


def remove_maps(output):
    """Remove what a run wrote, by the names it writes, and the folders that this leaves empty; nothing else."""
    (output / PREDICTIONS_FILE).unlink(missing_ok=True)
    kinds = "|".join(["spp", "panel", *SIGNED])
    ours = re.compile(rf"({kinds})_for_.+\.(npy|jpg)|{re.escape(PHOTO_FILE)}")
    for parent, _, files in os.walk(output, topdown=False):
        for name in files:
            if ours.fullmatch(name):
                os.unlink(os.path.join(parent, name))
        if parent != str(output) and not os.listdir(parent):
            os.rmdir(parent)


# ---------------------------------------------------------------- a folder of maps


@contextlib.contextmanager
def writers():
    """Threads that write files; what is not begun when an error or Ctrl-C ends the run is left out."""
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


class MapRun:
    """A folder of maps in the making: which photos are done, and one CSV row for each.

    A row is written after the photo's files, so a photo with a row is done. The same command again goes on; another
    model, other photos or settings need another folder, or `overwrite`.

    Args:
        output: Path.
        settings: dict that decides what is in the files (model's SHA-256, photos' places, size ...).
        conventions: str for run.json.
        class_names: list of str.
        overwrite: bool, replace an earlier run's maps.
        with_probabilities: bool, the network's scores have probabilities.
        groups: list of str, groups of classes whose probability is a column of its own.
        pictures: bool, the run writes pictures beside the arrays, among them photo.jpg.

    Raises:
        UserError: the folder holds another run's maps, or other files of the user's.
    """

    def __init__(self, output, settings, conventions, class_names, overwrite=False, with_probabilities=True, groups=(),
                 pictures=True):  # fmt: skip
        self.output, self.class_names, self.groups, self.pictures = output, class_names, groups, pictures
        numbers = [f"logit_{name}" for name in class_names]
        if with_probabilities:
            numbers += [f"probability_{name}" for name in (*class_names, *groups)]
        self.columns = ["path", "predicted", *numbers]
        settings = settings | {"class_names": class_names}
        claim_folder(output, settings, conventions, overwrite, remove_maps)
        self.rows = {row[0]: row for row in self.read_rows()}

    def read_rows(self):
        """The whole rows of predictions.csv; a last line cut off by a kill is left out."""
        path = self.output / PREDICTIONS_FILE
        if not path.exists():
            return []
        text = path.read_text("utf-8", "surrogateescape")
        rows = list(csv.reader(text[: text.rfind("\n") + 1].splitlines(keepends=True)))
        return [row for row in rows[1:] if len(row) == len(self.columns)]

    def is_done(self, photo):
        """Whether the photo has its row, and has not changed since its maps were written."""
        if photo.name not in self.rows:
            return False
        saved = dated_file(self.output / photo.folder, self.pictures)
        return saved is not None and saved.stat().st_mtime >= photo.path.stat().st_mtime

    def begin(self, photos):
        """Rewrite predictions.csv with the rows of finished photos; returns the photos still to do."""
        left = [photo for photo in photos if not self.is_done(photo)]
        for photo in left:
            self.rows.pop(photo.name, None)
        with open_csv(self.output / PREDICTIONS_FILE, "w") as file:
            csv.writer(file).writerows([self.columns, *self.rows.values()])
        return left

    def add_rows(self, photos, logits, probabilities):
        """Append the rows of finished photos; logits are float (N, C), probabilities, if any, (N, C + groups)."""
        predicted = [self.class_names[index] for index in logits.argmax(axis=1)]
        numbers = (
            logits if probabilities is None else np.concatenate((logits, probabilities), axis=1)
        )  # (N, 2 C + groups)
        with open_csv(self.output / PREDICTIONS_FILE, "a") as file:
            for photo, name, row in zip(photos, predicted, numbers, strict=True):
                csv.writer(file).writerow([photo.name, name, *row])

    def heading(self, photo, name, probabilities, index):
        """What stands above a panel of a photo: its file, the class, and the probability if there is one.

        Args:
            photo: Photo.
            name: str, a class or a group of classes.
            probabilities: float (N, C + groups), or None.
            index: int, which of the N.
        """
        columns = [*self.class_names, *self.groups]
        known = probabilities is not None and name in columns
        return f"{photo.name}: {name}" + (f" {probabilities[index, columns.index(name)]:.3f}" if known else "")

    def announce(self, photos, meaning, explain, batch_size, some, count):
        """Say how long the maps of many classes take and how much they fill, from those of some, before they are made.

        Args:
            photos, meaning, batch_size: as for `make`.
            explain: as for `make`, of some of the classes; its first call compiles.
            some, count: int, how many classes it explains, and how many there are.
        """
        left = sum(not self.is_done(photo) for photo in photos)
        if not left:
            return
        noise = np.random.default_rng(0).integers(0, 256, (1, DISPLAY_SIDE, DISPLAY_SIDE, 3), np.uint8)
        images = np.repeat([network_input(noise[0], meaning)], batch_size, axis=0)
        explain(images, batch_size)
        with tempfile.TemporaryDirectory() as folder:
            begin = time.monotonic()
            _, _, write = explain(images, batch_size)
            asked = time.monotonic()
            write(0, Photo(Path("noise"), "noise", "noise"), Path(folder), noise[0])
            written = time.monotonic()
            size = sum(path.stat().st_size for path in Path(folder).iterdir())
        times = left * count / some
        cost = duration(((asked - begin) / batch_size + written - asked) * times)
        of = f"{counted(count, 'class', 'classes')} of {counted(left, 'photo')}"
        print(f"{of}: {cost}, {size * times / 1e9:,.1f} GB; --classes with fewer takes less", flush=True)

    def make(self, photos, meaning, batch_size, explain, next_command, full_size=False):
        """Explain the photos that are not done yet, batch by batch, and say what was written.

        Args:
            photos: list of Photo.
            meaning: Meaning of the network's input.
            batch_size: int.
            explain: function of (images uint8 (batch_size, H, W, C), how many of them matter) -> (logits,
                probabilities or None, write): float (batch_size, C), NaN where the network's numbers are not finite,
                and a function of (index, Photo, folder, display photo) that writes the files of one photo, called in
                several threads.
            next_command: str, what to run next.
            full_size: bool, the display photos are in their own size.

        Returns:
            int, the exit code.
        """
        left = self.begin(photos)
        if len(left) < len(photos):
            print(f"{len(photos) - len(left):,} of {counted(len(photos), 'photo')} are done already")
        failed = []
        reading = contextlib.closing(read_batches(left, meaning, batch_size, full_size, self.pictures))
        with Progress("photos", len(left)) as progress, reading as batches, writers() as pool:
            for count, of_batch in self.written(batches, explain, pool):
                failed += of_batch
                progress.advance(count)
        write_failed(self.output / FAILED_FILE, failed)
        print(f"wrote the maps of {counted(len(left) - len(failed), 'photo')} to {self.output}")
        if len(failed) < len(photos):  # with nothing to look at there is nothing to do next
            print(f"next: {next_command}")
        if failed:
            say_failed(failed, self.output / FAILED_FILE)
        return EXIT_SOME_FAILED if failed else 0

    def written(self, batches, explain, pool):
        """Explain photos batch by batch, and write the files of each while the network sees the next.

        Args:
            batches: iterable, see `camlib.photos.read_batches`.
            explain: as for `make`.
            pool: Executor of the writing.

        Yields:
            (how many photos of a batch are dealt with, list of (path, reason) of those among them that failed).
        """
        finish = None
        for done, images, unreadable in batches:
            explained = explain(images, len(done)) if done else None
            if finish:
                yield finish()  # so that two batches are in memory at most
            finish = self.write_batch(pool, done, unreadable, explained)
        if finish:
            yield finish()

    def write_batch(self, pool, done, unreadable, explained):
        """Begin to write the files of a batch; returns what waits for them and writes its rows, see `written`."""
        if not done:
            return lambda: (len(unreadable), unreadable)
        logits, probabilities, write = explained
        finite = np.flatnonzero(np.isfinite(logits[: len(done)]).all(axis=1))
        begun = [pool.submit(self.write_photo, write, index, *done[index]) for index in finite]

        def finish():
            for one in begun:
                one.result()  # raises what its writing raised
            some = None if probabilities is None else probabilities[finite]
            self.add_rows([done[index][0] for index in finite], logits[finite], some)
            failed = [(str(photo.path), NOT_FINITE) for index, (photo, _) in enumerate(done) if index not in finite]
            return len(done) + len(unreadable), failed + unreadable

        return finish

    def write_photo(self, write, index, photo, picture):
        """Write the files of one photo of a batch."""
        folder = photo_folder(self.output, photo)
        write(index, photo, folder, picture)
        if self.pictures:
            write_jpeg(folder / PHOTO_FILE, picture)  # last: it marks the photo as done


# ---------------------------------------------------------------- a file of scores


class Results:
    """Scores of photos as they come: one JSON line for each (network, part, photo and class).

    Args:
        path: Path; lines of an earlier run are read, a last one cut off by a kill is left out.
    """

    def __init__(self, path):
        self.path, self.records = path, []
        text = path.read_text("utf-8", "surrogateescape") if path.exists() else ""
        whole = text[: text.rfind("\n") + 1]
        if whole != text:
            write_whole(path, lambda file: file.write(whole.encode("utf-8", "surrogateescape")))
        self.records = [json.loads(line) for line in whole.splitlines()]
        self.done = {(record["network"], record["part"], record["item"]) for record in self.records}

    def left(self, network, part, items):
        """The items that have no such record yet."""
        return [item for item in items if (network, part, item.key) not in self.done]

    def add(self, network, part, item, **values):
        record = {"network": network, "part": part, "item": item.key, "photo": item.name,
                  "class": item.class_name} | rounded(values)  # fmt: skip
        with open(self.path, "a", encoding="utf-8", errors="surrogateescape") as file:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
        self.records.append(record)

    def of(self, network, part):
        return [record for record in self.records if (record["network"], record["part"]) == (network, part)]


def rounded(values):
    """Numbers in nested dicts and lists with six digits, NaN as None."""
    if isinstance(values, dict):
        return {name: rounded(value) for name, value in values.items()}
    if isinstance(values, (list, tuple)):
        return [rounded(value) for value in values]
    if isinstance(values, (float, np.floating)):
        return float(f"{values:.6g}") if np.isfinite(values) else None
    return values.item() if isinstance(values, np.generic) else values
