"""A run whose maps go to a store, one file, instead of a folder of files; it resumes by the same rules."""

import contextlib
import re

import h5py

from camlib.console import Progress, UserError, counted
from camlib.files import is_stored
from camlib.photos import PhotoError, modified_of
from camlib.plots.colours import encoded_jpeg
from camlib.runs.locks import OnlyWriter
from camlib.runs.run import MapRun, refuse_others, run_record
from camlib.runs.shards import FAILED_FILE
from camlib.runs.store import Store, StoreWriter, create_store, packed_photo, rescue
from camlib.runs.unclosed import was_closed


def run_of(settings, decisive, conventions, class_names, explained=None, classes_of_photo=None, **about):
    """The run that the user asked for: a folder of files, or with --store a file.

    Args:
        settings: the user's.
        decisive: dict that decides what the maps are.
        conventions, class_names: as for MapRun.
        explained, classes_of_photo: as for StoreRun.
        about: with_probabilities, groups, part and worker, as for MapRun.
    """
    pictures = not settings.no_pictures
    if not settings.store:
        return MapRun(
            settings.output, decisive, conventions, class_names, settings.overwrite, pictures=pictures, **about
        )
    decisive = decisive | {"store_dtype": settings.store_dtype}
    return StoreRun(settings.store, decisive, conventions, class_names, settings.overwrite, pictures=pictures,
                    dtype=settings.store_dtype, explained=explained, classes_of_photo=classes_of_photo,
                    **about)  # fmt: skip


class StoreRun(MapRun):
    """A store in the making: which photos are done, and how others are added.

    The file appears with the first photo's maps. One process has it until `make` ends.

    Args:
        path: Path.
        settings, conventions, class_names, overwrite, about: as for MapRun; with `pictures` the store holds each photo
            as it is shown.
        dtype: "float32" or "float16", of the maps.
        explained: list of str, the classes and groups that there may be maps of; default: the classes.
        classes_of_photo: int, of how many of them a photo has maps, at most; default: all.

    Raises:
        UserError: the file holds another run's maps, or something else, or another process writes to it.
    """

    def __init__(self, path, settings, conventions, class_names, overwrite=False, dtype="float32", explained=None,
                 classes_of_photo=None, **about):  # fmt: skip
        self.dtype, self.writer, self.ready = dtype, None, {}
        self.explained = list(explained or class_names)
        self.classes_of_photo = classes_of_photo or len(self.explained)
        path.parent.mkdir(parents=True, exist_ok=True)
        super().__init__(path, settings, conventions, class_names, overwrite, **about)
        self.failed_list = path.with_name(f"{path.stem}_{FAILED_FILE}")

    def claim(self, settings, conventions, overwrite):
        """Become the only process that writes to the file, and look whether it is this run's."""
        self.header = {
            "run": run_record(settings, conventions),
            "class_names": list(self.class_names),
            "groups": list(self.groups),
            "explained": self.explained,
        }
        self.found_store()  # before a lock is laid beside what is no store
        self.right = OnlyWriter(self.output.parent, self.output.name, "--store")
        try:
            self.take_over(settings, overwrite)
        except BaseException:
            self.right.close()
            raise

    def take_over(self, settings, overwrite):
        """Go on in the store of an earlier run, or remove it with `overwrite`; nothing else is ever removed."""
        found = self.found_store()
        if found is None:
            return
        if not overwrite:
            refuse_others(self.output, found.header["run"]["settings"], settings, "--store")
        if overwrite or not found.rows:
            self.output.unlink()

    def found_store(self):
        """The Store that is there; None where there is no file."""
        if not self.output.exists():
            return None
        if not self.output.is_file() or not h5py.is_hdf5(self.output):
            raise UserError(f"{self.output} is no store of maps; expected a new file, or one that --store wrote")
        return Store(self.output)

    def read_rows(self):
        """(name, when its file had been changed last) of each photo in the store."""
        if not self.output.exists():
            return []
        found = Store(self.output)
        return [(name, found.records["modified"][row]) for name, row in found.rows.items()]

    def is_done(self, photo):
        """Whether the photo is in the store, and has not been changed or replaced since it was read."""
        now = modified_of(photo.path)
        if now is None:  # it is gone, or some place of fsspec's does not tell
            return photo.name in self.rows and is_stored(photo.path)
        return photo.name in self.rows and self.rows[photo.name][1] == now

    def begin(self, photos):
        """The photos still to do."""
        return [photo for photo in photos if not self.is_done(photo)]

    def explain_all(self, *arguments, **more):
        """Explain photos, see MapRun; the store is closed at the end, however that comes."""
        try:
            code = super().explain_all(*arguments, **more)
            if self.writer:
                self.writer.close()
            elif self.output.exists() and not was_closed(self.output):  # killed when all was done
                self.rescue()
            return code
        except BaseException:
            if self.writer:
                with contextlib.suppress(OSError, RuntimeError, ValueError):  # where the disk is full, say
                    self.writer.close()
            raise

    def write_photo(self, write, index, photo, picture):
        """Bring the maps of one photo of a batch into the form of the file; they wait for the others."""
        maps = {}
        try:
            picture = self.displayed(photo, picture)
        except PhotoError as error:
            return error
        said = write(index, photo, maps, picture)
        shown = encoded_jpeg(picture, f"the picture of {photo.name}").tobytes() if self.pictures else b""
        classes = self.classes_of_photo
        self.ready[photo.name] = packed_photo(photo, shown, maps, self.explained, classes, self.dtype)
        return said

    def add_rows(self, photos, logits, probabilities):
        """Add the photos of a batch to the file."""
        packed = [self.ready.pop(photo.name) for photo in photos]
        if not packed:
            return
        try:
            if self.writer is None:
                self.writer = self.opened(packed[0], logits.dtype, probabilities is not None)
            self.writer.add(packed, logits, probabilities)
        except (OSError, RuntimeError, ValueError) as error:  # HDF5 has no class for a full disk
            if self.writer:
                self.writer.abandon()
                self.writer = None
            said = re.search("error message = '([^']*)'", str(error))
            if not said:
                raise
            reason = f"{self.output} cannot be written ({said.group(1)})"
            raise UserError(f"{reason}; what was flushed is whole, and the same command goes on") from error

    def opened(self, first, number_dtype, with_probabilities):
        """The StoreWriter of the file, which is made, or rescued if its last process was killed."""
        if not self.output.exists():
            numbers = "<f8" if number_dtype == "float64" else "<f4"
            create_store(self.output, self.header, first, self.dtype, numbers, with_probabilities)
        elif not was_closed(self.output):
            self.rescue()
        return StoreWriter(self.output)

    def rescue(self):
        """Copy what is whole in the file of a process that was killed, and say so."""
        print(f"{self.output} was not closed: {counted(len(self.rows), 'photo')} whole in it, copied", flush=True)
        with Progress("copied", len(self.rows)) as progress:
            rescue(self.output, progress.advance)
