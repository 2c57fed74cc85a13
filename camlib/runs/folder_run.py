"""A folder of maps in the making: its files, its list of photos, and how it is resumed."""

import errno
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from camlib.console import EXIT_SOME_FAILED, UserError, command, counted, first_line
from camlib.files import OnlyWriter, csv_text, is_stored, open_csv, write_csv
from camlib.photos import PhotoError, modified_of, read_photo
from camlib.plots.panels import write_jpeg
from camlib.runs.claim import claim_folder, remove_maps, run_record, say_failed, write_failed
from camlib.runs.maps import PHOTO_FILE, SIGNED, Drawing, dated_file, photo_folder, write_photo_maps
from camlib.runs.shards import (
    FAILED_COLUMNS,
    FAILED_FILE,
    NUMBER,
    PREDICTIONS_FILE,
    join_in,
    read_list,
    remove_lists,
)

# What the system says where a photo's folder would have the name of a file of the run's, or a name that is too long
NAMES_NOT_TO_BE_HAD = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EINVAL)
SAME_TIME = 2  # seconds: some file systems know no less


@dataclass(frozen=True)
class FolderWriter:
    """Writes the files of photos into a run's folder; several threads and processes do so at once.

    Attributes:
        output: Path of the folder.
        drawing: Drawing.
        pictures: bool, write photo.jpg too.
        full_size: bool, pictures have the photo's own size.
        columns: list of str, the classes and groups that probabilities are of.
    """

    output: Path
    drawing: Drawing
    pictures: bool = True
    full_size: bool = False
    columns: tuple = ()

    @property
    def shows_small(self):
        """Whether it takes photos at the size of saved pictures; whole ones are read when they are written."""
        return self.pictures and not self.full_size

    def write(self, photo, picture, maps, probabilities=None):
        """Write the files of one photo.

        Args:
            photo: Photo.
            picture: uint8 (H, W, 3), the photo for display, or None where it is read here or not shown.
            maps: dict of kind -> dict of class name -> array.
            probabilities: float (C + groups,), or None.

        Returns:
            None, or a PhotoError where the photo can no longer be read or its files' names cannot be had.
        """
        try:
            picture = self.displayed(photo, picture)
            folder = photo_folder(self.output, photo)
            headings = {name: self.heading(photo, name, probabilities) for name in next(iter(maps.values()))}
            write_photo_maps(folder, picture, maps, self.drawing, headings)
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
        return None

    def displayed(self, photo, picture):
        """A photo as it is shown, uint8 (H, W, 3), read here where it is in its own size; None without pictures.

        Raises:
            PhotoError: it can no longer be read.
        """
        return read_photo(photo.path, most_pixels=photo.most_pixels) if self.pictures and picture is None else picture

    def heading(self, photo, name, probabilities):
        """What stands above a panel of a photo: its file, the class, and the probability if there is one."""
        known = probabilities is not None and name in self.columns
        return f"{photo.name}: {name}" + (f" {probabilities[self.columns.index(name)]:.3f}" if known else "")


class FolderRun:
    """A folder of maps in the making: which photos are done, and one CSV row for each.

    A row is written after the photo's files, so a photo with a row is done. The same command again goes on; another
    model, other photos or settings need another folder, or `overwrite`. One process has the folder, or its part of it,
    until the run is closed.

    Args:
        output: Path.
        settings: dict that decides what is in the files (model's SHA-256, photos' places, size ...).
        conventions: str for run.json.
        outputs: Outputs, what is kept of each photo beside its maps.
        overwrite: bool, replace an earlier run's maps.
        part: RunPart, what this process does of the run, in a folder that it shares with others; None for all of it.
        writer: FolderWriter; default: one that writes no pictures.

    Raises:
        UserError: the folder holds another run's maps, or other files of the user's, or another process writes to it.
    """

    def __init__(self, output, settings, conventions, outputs, overwrite=False, part=None, writer=None):
        self.output, self.outputs, self.class_names = output, outputs, outputs.class_names
        columns = (*self.class_names, *outputs.groups)
        self.file_writer = writer or FolderWriter(output, Drawing(None, SIGNED, {}), pictures=False)
        self.file_writer = replace(self.file_writer, output=output, columns=columns)
        self.pictures = self.file_writer.pictures
        self.part, self.list, self.failed_list = part, output / PREDICTIONS_FILE, output / FAILED_FILE
        self.right = None
        self.numbers = {}  # of a shard's photos: each one's place among those of all
        self.notes, self.failed, self.photos, self.pending = {}, [], [], []
        numbers = [f"logit_{name}" for name in self.class_names]
        if outputs.with_probabilities:
            numbers += [f"probability_{name}" for name in columns]
        self.columns = ["path", "predicted", *numbers]
        self.claim(settings | {"class_names": self.class_names}, conventions, overwrite)
        try:
            self.rows = {row[0]: row for row in self.read_rows()}
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """Let others write to the folder."""
        self.right.close()

    @property
    def writer(self):
        """What keeps the maps of a photo, see `explain_photos`."""
        return self.file_writer

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

    def left(self, photos):
        """Those of the photos that are still to do."""
        return [photo for photo in photos if not self.is_done(photo)]

    def begin(self, photos):
        """Rewrite predictions.csv with the rows of finished photos; returns the photos still to do."""
        left = self.left(photos)
        for photo in left:
            self.rows.pop(photo.name, None)
        write_csv(self.list, [self.columns, *self.rows.values()])
        if self.numbers:
            self.failed_list.unlink(missing_ok=True)  # else its photos would count as dealt with
        return left

    def resume(self, photos):
        """Find the photos that are still to do, `pending`, and say how many are done.

        Args:
            photos: list of Photo, those of all shards.
        """
        self.places = {str(photo.path): number for number, photo in enumerate(photos)}
        if self.part:
            print(self.part.heading())
            photos = self.part.own
        self.photos, self.pending = photos, self.begin(photos)
        if len(self.pending) < len(photos):
            print(f"{len(photos) - len(self.pending):,} of {counted(len(photos), 'photo')} are done already")

    def add(self, batch):
        """Take a Finished batch into the lists: its photos are done."""
        if batch.photos:
            self.add_rows(batch.photos, batch.logits, batch.probabilities)
            self.notes |= batch.notes
        self.failed += batch.failed

    def add_rows(self, photos, logits, probabilities):
        """Append the rows of finished photos; logits are float (N, C), probabilities, if any, (N, C + groups)."""
        predicted = [self.class_names[index] for index in logits.argmax(axis=1)]
        numbers = logits  # (N, C), with probabilities (N, 2 C + groups)
        if probabilities is not None:
            numbers = np.concatenate((logits, probabilities), axis=1)
        places = [[self.numbers[photo.name]] if self.numbers else [] for photo in photos]
        rows = zip(photos, predicted, numbers, places, strict=True)
        with open_csv(self.list, "a") as file:
            file.write(csv_text([photo.name, name, *row, *place] for photo, name, row, place in rows))

    def finish(self, next_command):
        """Write failed.csv, and say what was written and what to run next.

        Args:
            next_command: str.

        Returns:
            int, the exit code.
        """
        failed = sorted(self.failed, key=lambda one: self.places[one[0]])
        if self.numbers:
            count = self.part.shard.count
            next_command = f"{command('join_shards.py', self.output)}, when all {count} shards are done"
            rows = [(path, reason, self.places[path]) for path, reason in failed]
            write_failed(self.failed_list, rows, [*FAILED_COLUMNS, NUMBER])
        else:
            write_failed(self.failed_list, failed)
        print(f"wrote the maps of {counted(len(self.pending) - len(failed), 'photo')} to {self.output}")
        if len(failed) < len(self.photos) or self.numbers:  # with nothing to look at there is nothing to do next
            print(f"next: {next_command}")
        if failed:
            say_failed(failed, self.failed_list)
        return EXIT_SOME_FAILED if failed else 0
