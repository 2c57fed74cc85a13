"""A run's folder in the making, of files or a store: its list of photos, and how it is resumed."""

import contextlib
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from camlib.console import EXIT_SOME_FAILED, UserError, counted
from camlib.files import RUN_FILE, csv_text, open_csv, write_csv, write_json
from camlib.photos import folders_of
from camlib.photos.places import Places
from camlib.runs.claim import claim_folder, remove_maps, run_record, say_failed, write_failed
from camlib.runs.maps import SIGNED
from camlib.runs.shards import (
    FAILED_COLUMNS,
    FAILED_FILE,
    NUMBER,
    PREDICTIONS_FILE,
    claim_shard,
    lists_of,
    read_list,
    read_record,
    remove_lists_of_shards,
)
from camlib.runs.writers import Drawing, FolderWriter

MOST_SECONDS = 60  # between maps that are on the disk


class FolderRun:
    """A folder of maps in the making: which photos are done, and one CSV row for each.

    A row is written after the photo's maps, so a photo with a row is done. The same command again goes on, and a run
    that is not a shard with what shards have left, too. Other photos are added to those that are there, but not to what
    shards have made. Another model or other settings need another folder, or `overwrite`. One process has the folder,
    or its part of it, until the run is closed.

    Args:
        output: Path.
        settings: dict that decides what is in the files (model's SHA-256, photos' places, size ...).
        conventions: str for run.json.
        outputs: Outputs, what is kept of each photo beside its maps.
        overwrite: bool, replace an earlier run's maps.
        part: RunPart, what this process does of the run, in a folder that it shares with others; None for all of it.
        writer: FolderWriter or StoreWriter; default: one of files without pictures.

    Raises:
        UserError: the folder holds another run's maps, or other files of the user's, or another process writes to it.
    """

    def __init__(self, output, settings, conventions, outputs, overwrite=False, part=None, writer=None):
        self.output, self.part, self.class_names = output, part, outputs.class_names
        names = (*self.class_names, *outputs.groups)
        writer = writer or FolderWriter(output, Drawing(None, SIGNED, {}), pictures=False)
        self.writer = replace(writer, output=output, columns=names)
        self.list, self.failed_list = output / PREDICTIONS_FILE, output / FAILED_FILE
        self.notes, self.failed, self.photos, self.pending, self.gaps = {}, [], [], [], []
        self.waiting, self.kept_at = [], time.monotonic()  # list of Finished whose maps are not all on the disk
        numbers = [f"logit_{name}" for name in self.class_names]
        if outputs.with_probabilities:
            numbers += [f"probability_{name}" for name in names]
        numbers += ["completeness_gap"] * outputs.with_gaps
        self.columns = ["path", "predicted", *numbers, *self.writer.place_columns]
        settings = settings | {"class_names": self.class_names}
        self.given = settings.get("photos", [])
        if part:
            self.list, self.failed_list = (output / part.list_name(path.name) for path in (self.list, self.failed_list))
            claim = claim_shard(output, run_record(settings, conventions), part)
        else:
            claim = claim_folder(output, settings, conventions, overwrite, remove_maps, grows=True)
        with contextlib.ExitStack() as held:
            held.enter_context(claim)
            self.rows = {row[0]: row for row in self.read_rows()}
            self.close = held.pop_all().close  # lets others write to the folder

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            self.keep()
        finally:
            self.close()

    def read_rows(self):
        """The whole rows of the run's list, and of a run that is no shard those of all shards; without their number.

        Raises:
            UserError: a list is damaged.
        """
        found = []
        for path in [self.list] if self.part else lists_of(self.output):
            try:
                header, rows = read_list(path) if path.exists() else ([], [])
            except (OSError, ValueError) as error:
                raise UserError(
                    f"{path} is damaged ({error}); expected the list of the run's photos: --overwrite begins anew"
                ) from error
            if header[: len(self.columns)] == self.columns:
                found += [row[: len(self.columns)] for row in rows if Path(row[0]).name]
        return found

    def resume(self, photos):
        """Find the photos that are still to do, `pending`; write the run's list anew with the rows of the others.

        Args:
            photos: list of Photo, those of all shards.

        Raises:
            UserError: the folder holds maps of another photo of the same name.
        """
        photos = photos if self.part else self.joined(photos)
        self.photos = self.part.own if self.part else photos
        self.places = {str(photo.path): number for number, photo in enumerate(photos)}
        self.numbers = {photo.name: number for number, photo in enumerate(photos)}
        self.pending = [photo for photo in self.photos if not self.is_done(photo)]
        for photo in self.pending:
            self.rows.pop(photo.name, None)
        rows = list(self.rows.values())  # as they were done, so that a run that is killed ends with the same list
        if len(lists_of(self.output)) > 1 and not self.part:  # of shards, in the order of one run
            rows.sort(key=self.number_of)
        write_csv(self.list, [self.columns + [NUMBER] * bool(self.part), *map(self.listed, rows)])
        if self.part:
            print(self.part.heading())
        else:
            remove_lists_of_shards(self.output)
        self.writer = self.writer.begin(self.photos, self.numbers, rows)
        done = len(self.photos) - len(self.pending)
        if done:
            print(f"{done:,} of {counted(len(self.photos), 'photo')} are done already")

    def joined(self, photos):
        """The photos, with folders that are none of the earlier ones'; run.json says of both where they are from.

        Args:
            photos: list of Photo.

        Raises:
            UserError: one of them is not the earlier one of its name.
        """
        record = read_record(self.output)
        earlier = Places.of(record["settings"].get("photos") or [])
        known = set(earlier)
        new = [place for place in self.given if place not in known]
        done = [photo for photo in photos if photo.name in self.rows]
        for photo in done if new or len(earlier) > 1 else ():
            sources = {path.resolve() for path in earlier.sources(photo.name)}
            own = photo.path.resolve()
            if own not in sources or any(path.is_file() for path in sources - {own}):
                raise UserError(
                    f"{self.output} holds maps of another photo called {photo.name} than {photo.path}; expected "
                    "another folder, or another name"
                )
        if new:
            record["settings"]["photos"] = [*earlier, *new]
            write_json(self.output / RUN_FILE, record)
        names = list(dict.fromkeys([*self.rows, *(photo.name for photo in photos)]))
        if len(names) == len(photos):
            return photos
        folders = dict(zip(names, folders_of(names), strict=True))
        for photo in done:  # where its maps are, see `camlib.runs.maps.predicted_photo`
            folders[photo.name] = photo.name if (self.output / photo.name).is_dir() else photo.folder
        return [replace(photo, folder=folders[photo.name]) for photo in photos]

    def is_done(self, photo):
        """Whether a photo has a row, and its maps are there as they were made of it."""
        return photo.name in self.rows and self.writer.holds(photo, self.rows[photo.name])

    def number_of(self, row):
        """A photo's place among those of all shards; last where it is not among them any more."""
        return self.numbers.get(row[0], len(self.numbers))

    def listed(self, row):
        """A row as the run's list has it: that of a shard ends in the photo's number."""
        return [*row, self.number_of(row)] if self.part else row

    def add(self, batch):
        """Take a Finished batch; its photos are done, and in the list, when their maps are on the disk."""
        self.waiting.append(batch)
        if self.writer.is_full(self.waiting) or time.monotonic() > self.kept_at + MOST_SECONDS:
            self.keep()

    def keep(self):
        """Bring the maps that wait to the disk, and then their photos into the list."""
        waiting, self.waiting = self.waiting, []
        for batch in self.writer.kept(waiting):
            if batch.photos:
                self.add_rows(batch)
                self.notes |= batch.notes
            self.failed += batch.failed
        self.kept_at = time.monotonic()

    def add_rows(self, batch):
        """Append the rows of a batch whose maps are on the disk."""
        predicted = [self.class_names[index] for index in batch.logits.argmax(axis=1)]
        numbers = batch.logits  # (N, C), with probabilities (N, 2 C + groups)
        if batch.probabilities is not None:
            numbers = np.concatenate((batch.logits, batch.probabilities), axis=1)
        if batch.gaps is not None:
            numbers = np.column_stack((numbers, batch.gaps))
            self.gaps += batch.gaps.tolist()
        rows = zip(batch.photos, predicted, numbers, strict=True)
        rows = ([photo.name, name, *row, *batch.places.get(photo.name, ())] for photo, name, row in rows)
        with open_csv(self.list, "a") as file:
            file.write(csv_text(map(self.listed, rows)))

    def failed_elsewhere(self):
        """The rows of failed.csv of photos that are there, and none of this run's."""
        header, rows = [], []
        with contextlib.suppress(OSError, ValueError):  # there is none, or it is damaged
            header, rows = read_list(self.failed_list)
        known = header == FAILED_COLUMNS
        return [row for row in rows if known and row[0] not in self.places and os.path.exists(row[0])]

    def finish(self, next_command):
        """Write failed.csv, and say what was written and what to run next.

        Args:
            next_command: str.

        Returns:
            int, the exit code.
        """
        self.keep()
        failed = sorted(self.failed, key=lambda one: self.places[one[0]])
        if self.part:
            rows = [(path, reason, self.places[path]) for path, reason in failed]
            write_failed(self.failed_list, rows, [*FAILED_COLUMNS, NUMBER])
        else:
            write_failed(self.failed_list, [*self.failed_elsewhere(), *failed])
        print(f"wrote the maps of {counted(len(self.pending) - len(failed), 'photo')} to {self.output}")
        if self.gaps:
            mean, most = np.mean(self.gaps), np.max(self.gaps)
            print(f"completeness gap: {mean:.3g} logits a photo on average, {most:.3g} at most: {self.list}")
        if len(failed) < len(self.photos) or self.part:  # with nothing to look at there is nothing to do next
            print(f"next: {next_command}")
        if failed:
            say_failed(failed, self.failed_list)
        return EXIT_SOME_FAILED if failed else 0
