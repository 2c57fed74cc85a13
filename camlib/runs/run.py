"""A run's folder: claimed, resumed, and the records of what was done in it."""

import contextlib
import errno
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
from typing import NamedTuple

import numpy as np

from camlib.console import EXIT_SOME_FAILED, Progress, UserError, command, counted, duration, first_line
from camlib.files import csv_text, is_stored, open_csv, write_csv, write_json, write_whole
from camlib.photos import (
    DISPLAY_SIDE,
    RUN_FILE,
    Photo,
    PhotoError,
    modified_of,
    network_input,
    read_batches,
    read_photo,
)
from camlib.plots.colours import write_jpeg
from camlib.runs.locks import OnlyWriter
from camlib.runs.maps import PHOTO_FILE, SIGNED, dated_file, photo_folder
from camlib.runs.shards import (
    FAILED_COLUMNS,
    FAILED_FILE,
    NUMBER,
    PREDICTIONS_FILE,
    changed_settings,
    has_foreign_files,
    join_in,
    read_list,
    read_record,
    refuse_shards,
    remove_lists,
)

NOT_FINITE = (
    "the network's numbers for it are not finite; if for all photos, try another --preprocess or --dtype float32"
)
# of a photo whose folder is a file of the run's, such as predictions.csv/a.jpg, or has a name that is too long
NAMES_NOT_TO_BE_HAD = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EINVAL)
SAME_TIME = 2  # seconds: some file systems know no less
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

    Returns:
        OnlyWriter, of the folder.

    Raises:
        UserError: the folder holds results of other settings, or other files of the user's, or another process writes
            to it.
    """
    if output.is_dir() and has_foreign_files(output):
        raise UserError(f"{output} holds files of another kind; expected a new or empty folder for --output")
    right = OnlyWriter(output)
    try:
        record = read_record(output)
        if record and not overwrite:
            refuse_shards(output, record)
            refuse_others(output, record["settings"], settings)
        if overwrite:
            remove(output)
        write_json(output / RUN_FILE, run_record(settings, conventions))
    except BaseException:
        right.close()
        raise
    return right


def refuse_others(output, earlier, settings, option="--output"):
    """Raise UserError where what an earlier run left in a place has settings other than those of now.

    Args:
        output: Path, the place.
        earlier, settings: dict, the former as read from JSON.
        option: str, which names the place.
    """
    changed = changed_settings(earlier, settings)
    if changed:
        raise UserError(
            f"{output} holds results of other settings ({', '.join(changed)}); expected another {option}, or "
            "--overwrite to replace them"
        )


def write_failed(path, failed, columns=FAILED_COLUMNS):
    """Write (path, reason) rows, or remove the list of an earlier run when nothing failed."""
    if failed:
        write_csv(path, [columns, *failed])
    else:
        path.unlink(missing_ok=True)


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


class Finished(NamedTuple):
    """A batch whose files are written.

    Attributes:
        photos: list of Photo, those with maps.
        logits: float (len(photos), C).
        probabilities: float (len(photos), C + groups), or None.
        failed: list of (path, reason), of its other photos.
        notes: dict of a photo's name -> list of str, what is to be said of it.
    """

    photos: list
    logits: np.ndarray | None
    probabilities: np.ndarray | None
    failed: list
    notes: dict


class MapRun:
    """A folder of maps in the making: which photos are done, and one CSV row for each.

    A row is written after the photo's files, so a photo with a row is done. The same command again goes on; another
    model, other photos or settings need another folder, or `overwrite`. One process has the folder, or its part of it,
    until `make` ends.

    Args:
        output: Path.
        settings: dict that decides what is in the files (model's SHA-256, photos' places, size ...).
        conventions: str for run.json.
        class_names: list of str.
        overwrite: bool, replace an earlier run's maps.
        with_probabilities: bool, the network's scores have probabilities.
        groups: list of str, groups of classes whose probability is a column of its own.
        pictures: bool, the run writes pictures beside the arrays, among them photo.jpg.
        part: Part, what this process does of the run, in a folder that it shares with others; None for all of it.
        worker: bool, the folder is claimed already, by the process that this one works for.

    Raises:
        UserError: the folder holds another run's maps, or other files of the user's, or another process writes to it.
    """

    def __init__(self, output, settings, conventions, class_names, overwrite=False, with_probabilities=True, groups=(),
                 pictures=True, part=None, worker=False):  # fmt: skip
        self.output, self.class_names, self.groups, self.pictures = output, class_names, groups, pictures
        self.part, self.list, self.failed_list = part, output / PREDICTIONS_FILE, output / FAILED_FILE
        self.right = None
        self.numbers = {}  # of a shard's photos: each one's place among those of all
        self.notes = {}  # of a photo's name: what is to be said of it
        numbers = [f"logit_{name}" for name in class_names]
        if with_probabilities:
            numbers += [f"probability_{name}" for name in (*class_names, *groups)]
        self.columns = ["path", "predicted", *numbers]
        settings = settings | {"class_names": class_names}
        if worker:
            if read_record(output) is None:
                raise UserError(f"{output} is not to be seen by a worker; expected an --output that all machines share")
        else:
            self.claim(settings, conventions, overwrite)
        try:
            self.rows = {} if worker else {row[0]: row for row in self.read_rows()}
        except BaseException:
            self.close()
            raise

    def claim(self, settings, conventions, overwrite):
        """Take the place of the run, or of its part, see `claim_folder` and `camlib.runs.shards.join_in`."""
        if self.part:
            self.list, self.failed_list = (
                self.output / self.part.list_name(path.name) for path in (self.list, self.failed_list)
            )
            self.columns.append(NUMBER)
            self.numbers = self.part.numbers(lambda photo: photo.name)
            join_in(self.output, run_record(settings, conventions), self.part)
            self.right = OnlyWriter(self.output, Path(self.part.list_name("shard")).stem)
        else:
            self.right = claim_folder(self.output, settings, conventions, overwrite, remove_maps)
            remove_lists(self.output)  # of shards that are replaced, or that were joined when a kill came

    def read_rows(self):
        """The whole rows of predictions.csv; a last line cut off by a kill is left out.

        Raises:
            UserError: it is damaged.
        """
        try:
            rows = read_list(self.list)[1] if self.list.exists() else []
        except ValueError as error:
            raise UserError(
                f"{self.list} is damaged ({error}); expected the list of the run's photos: --overwrite begins anew"
            ) from error
        return [row for row in rows if len(row) == len(self.columns)]

    def is_done(self, photo):
        """Whether the photo has its row, and has not been changed or replaced since it was read."""
        if photo.name not in self.rows:
            return False
        saved, now = dated_file(self.output / photo.folder, self.pictures), modified_of(photo.path)
        if now is None:  # it is gone, or some place of fsspec's does not tell
            return saved is not None and is_stored(photo.path)
        return saved is not None and abs(saved.stat().st_mtime - now) < SAME_TIME

    def begin(self, photos):
        """Rewrite predictions.csv with the rows of finished photos; returns the photos still to do."""
        left = [photo for photo in photos if not self.is_done(photo)]
        for photo in left:
            self.rows.pop(photo.name, None)
        write_csv(self.list, [self.columns, *self.rows.values()])
        if self.numbers:
            self.failed_list.unlink(missing_ok=True)  # else its photos would count as dealt with
        return left

    def add_rows(self, photos, logits, probabilities):
        """Append the rows of finished photos; logits are float (N, C), probabilities, if any, (N, C + groups)."""
        predicted = [self.class_names[index] for index in logits.argmax(axis=1)]
        numbers = (
            logits if probabilities is None else np.concatenate((logits, probabilities), axis=1)
        )  # (N, 2 C + groups)
        places = [[self.numbers[photo.name]] if self.numbers else [] for photo in photos]
        rows = zip(photos, predicted, numbers, places, strict=True)
        with open_csv(self.list, "a") as file:
            file.write(csv_text([photo.name, name, *row, *place] for photo, name, row, place in rows))

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
            photos, meaning, batch_size: as for `explain_all`.
            explain: as for `explain_all`, of some of the classes; its first call compiles.
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

    def make(self, *arguments, **more):
        """As `explain_all`; then others may write to the folder, whatever ended it."""
        try:
            return self.explain_all(*arguments, **more)
        finally:
            self.close()

    def close(self):
        """Let others write to the folder."""
        self.right.close()

    def explain_all(self, photos, meaning, batch_size, explain, next_command, full_size=False, engine=None):
        """Explain the photos that are not done yet, batch by batch, and say what was written.

        Args:
            photos: list of Photo.
            meaning: Meaning of the network's input.
            batch_size: int.
            explain: function of (images uint8 (batch_size, H, W, C), how many of them matter) -> (logits,
                probabilities or None, write): float (batch_size, C), NaN where the network's numbers are not finite,
                and a function of (index, Photo, folder, display photo) that writes the files of one photo, called in
                several threads; it returns what is to be said of the photo, list of str.
            next_command: str, what to run next.
            full_size: bool, the display photos are in their own size.
            engine: function of photos that gives what `finished` does, from other processes; default: this one.

        Returns:
            int, the exit code.
        """
        places = {str(photo.path): number for number, photo in enumerate(photos)}
        if self.part:
            print(self.part.heading())
            photos = self.part.own
        if self.numbers:
            next_command = f"{command('join_shards.py', self.output)}, when all {self.part.shard.count} shards are done"
        left = self.begin(photos)
        if len(left) < len(photos):
            print(f"{len(photos) - len(left):,} of {counted(len(photos), 'photo')} are done already")
        failed = []
        work = engine(left) if engine else self.finished(left, meaning, batch_size, explain, full_size)
        with Progress("photos", len(left)) as progress, contextlib.closing(work) as batches:
            for batch in batches:
                if batch.photos:
                    self.add_rows(batch.photos, batch.logits, batch.probabilities)
                    self.notes |= batch.notes
                failed += batch.failed
                progress.advance(len(batch.photos) + len(batch.failed))
        failed.sort(key=lambda one: places[one[0]])
        if self.numbers:
            rows = [(path, reason, places[path]) for path, reason in failed]
            write_failed(self.failed_list, rows, [*FAILED_COLUMNS, NUMBER])
        else:
            write_failed(self.failed_list, failed)
        print(f"wrote the maps of {counted(len(left) - len(failed), 'photo')} to {self.output}")
        if len(failed) < len(photos) or self.numbers:  # with nothing to look at there is nothing to do next
            print(f"next: {next_command}")
        if failed:
            say_failed(failed, self.failed_list)
        return EXIT_SOME_FAILED if failed else 0

    def finished(self, photos, meaning, batch_size, explain, full_size=False):
        """Explain photos batch by batch, and write the files of each while the network sees the next.

        Args:
            photos, meaning, batch_size, explain, full_size: as for `explain_all`.

        Yields:
            Finished.
        """
        shown = self.pictures and not full_size  # whole photos are read when they are written: of a batch they are many
        reading = contextlib.closing(read_batches(photos, meaning, batch_size, shown))
        finish = None
        with reading as batches, writers() as pool:
            for done, images, unreadable in batches:
                explained = explain(images, len(done)) if done else None
                if finish:
                    yield finish()  # so that two batches are in memory at most
                finish = self.write_batch(pool, done, unreadable, explained)
            if finish:
                yield finish()

    def write_batch(self, pool, done, unreadable, explained):
        """Begin to write the files of a batch; returns what waits for them and gives its Finished."""
        if not done:
            return lambda: Finished([], None, None, unreadable, {})
        logits, probabilities, write = explained
        finite = np.flatnonzero(np.isfinite(logits[: len(done)]).all(axis=1))
        begun = {index: pool.submit(self.write_photo, write, index, *done[index]) for index in finite}

        def finish():
            said = {index: one.result() for index, one in begun.items()}  # raises what its writing raised
            whole = [index for index in said if not isinstance(said[index], PhotoError)]
            failed = [
                (str(photo.path), str(said.get(index, NOT_FINITE)))
                for index, (photo, _) in enumerate(done)
                if index not in whole
            ]
            some = None if probabilities is None else probabilities[whole]
            noted = {done[index][0].name: said[index] for index in whole if said[index]}
            return Finished([done[index][0] for index in whole], logits[whole], some, failed + unreadable, noted)

        return finish

    def displayed(self, photo, picture):
        """A photo as it is shown, uint8 (H, W, 3), read here where it is in its own size; None without pictures.

        Raises:
            PhotoError: it can no longer be read.
        """
        return read_photo(photo.path) if self.pictures and picture is None else picture

    def write_photo(self, write, index, photo, picture):
        """Write the files of one photo of a batch.

        Returns:
            what is to be said of it, list of str or None; a PhotoError where its files' names cannot be had.
        """
        try:
            picture = self.displayed(photo, picture)
            folder = photo_folder(self.output, photo)
            said = write(index, photo, folder, picture)
            if self.pictures:
                write_jpeg(folder / PHOTO_FILE, picture)
        except PhotoError as error:
            return error
        except OSError as error:
            if error.errno not in NAMES_NOT_TO_BE_HAD:
                raise
            return PhotoError(f"its maps cannot be written ({first_line(error)}); expected another name of the photo")
        if photo.modified is not None:
            os.utime(dated_file(folder, self.pictures), (photo.modified, photo.modified))
        return said


class Work(NamedTuple):
    """A run that is ready to be done.

    Attributes:
        run: MapRun.
        photos: list of Photo, all of them; of a worker none.
        meaning, batch_size, explain, full_size: as for `MapRun.explain_all`.
    """

    run: MapRun
    photos: list
    meaning: object
    batch_size: int
    explain: object
    full_size: bool

    def make(self, next_command, engine=None):
        """Do it, see `MapRun.make`."""
        return self.run.make(self.photos, self.meaning, self.batch_size, self.explain, next_command, self.full_size,
                             engine)  # fmt: skip

    def finished(self, photos):
        """Do some photos for another process, see `MapRun.finished`."""
        return self.run.finished(photos, self.meaning, self.batch_size, self.explain, self.full_size)


# ---------------------------------------------------------------- a file of scores


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
        record = {"network": network, "part": part, "item": item.key, "photo": item.name,
                  "class": item.class_name} | rounded(values)  # fmt: skip
        with open(self.path, "a", encoding="utf-8", errors="surrogateescape") as file:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
        self.records.append(record)

    def of(self, network, part):
        return [record for record in self.records if (record["network"], record["part"]) == (network, part)]


def as_scores(record):
    """A line of scores as it was read, if it has the form that `Results.add` gives it, else ValueError."""
    names = isinstance(record, dict) and [record.get(name) for name in ("network", "part", "item", "photo", "class")]
    maps = names and record.get("maps")
    if not (isinstance(maps, dict) and all(isinstance(name, str) for name in names)):
        raise ValueError("a line without scores of maps")
    if not all(isinstance(scores, dict) for scores in maps.values()):
        raise ValueError("scores without names")
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
