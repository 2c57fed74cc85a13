"""A run whose maps go to a store, one file, instead of a folder of files; it resumes by the same rules."""

import contextlib
import re

import h5py

from camlib.console import Progress, UserError, counted
from camlib.files import OnlyWriter, is_stored
from camlib.photos import PhotoError, modified_of
from camlib.plots.panels import encoded_jpeg
from camlib.runs.claim import refuse_others, run_record
from camlib.runs.folder_run import FolderRun
from camlib.runs.shards import FAILED_FILE
from camlib.runs.store import Store, StoreWriter, create_store, packed_photo, rescue, was_closed


class StorePacker:
    """Brings the maps of photos into the form of a store; several threads do so at once.

    Attributes:
        ready: dict of a photo's name -> PackedPhoto, until its batch is added to the file.

    Args:
        writer: FolderWriter, which knows how photos are displayed.
        explained: list of str, the classes and groups that there may be maps of.
        most: int, of how many of them a photo has maps at most.
        dtype: "float32" or "float16", of the maps.
    """

    def __init__(self, writer, explained, most, dtype):
        self.writer, self.explained, self.most, self.dtype, self.ready = writer, explained, most, dtype, {}

    @property
    def shows_small(self):
        return self.writer.shows_small

    def write(self, photo, picture, maps, probabilities=None):
        """As `FolderWriter.write`; the maps wait for those of the other photos of the batch."""
        try:
            picture = self.writer.displayed(photo, picture)
        except PhotoError as error:
            return error
        shown = encoded_jpeg(picture, f"the picture of {photo.name}").tobytes() if self.writer.pictures else b""
        self.ready[photo.name] = packed_photo(photo, shown, maps, self.explained, self.most, self.dtype)
        return None


class StoreRun(FolderRun):
    """A store in the making: which photos are done, and how others are added.

    The file appears with the first photo's maps. One process has it until the run is closed.

    Args:
        output: Path of the file.
        settings: as for FolderRun; `store_dtype` is what maps are kept in.
        conventions, outputs, overwrite, part, writer: as for FolderRun; a writer of pictures means that the store holds
            each photo as it is shown.

    Raises:
        UserError: the file holds another run's maps, or something else, or another process writes to it.
    """

    def __init__(self, output, settings, conventions, outputs, overwrite=False, part=None, writer=None):
        self.store_writer = None
        self.explained = list(outputs.explained or outputs.class_names)
        self.dtype = settings.get("store_dtype", "float32")
        output.parent.mkdir(parents=True, exist_ok=True)
        super().__init__(output, settings, conventions, outputs, overwrite, part, writer)
        self.packer = StorePacker(self.file_writer, self.explained, outputs.most or len(self.explained), self.dtype)
        self.failed_list = output.with_name(f"{output.stem}_{FAILED_FILE}")

    @property
    def writer(self):
        return self.packer

    def claim(self, settings, conventions, overwrite):
        """Become the only process that writes to the file, and look whether it is this run's."""
        self.header = {
            "run": run_record(settings, conventions),
            "class_names": list(self.class_names),
            "groups": list(self.outputs.groups),
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
        return self.left(photos)

    def finish(self, next_command):
        """As for FolderRun; then the file is closed."""
        code = super().finish(next_command)
        if self.store_writer:
            writer, self.store_writer = self.store_writer, None
            writer.close()
        elif self.output.exists() and not was_closed(self.output):  # killed when all was done
            self.rescue()
        return code

    def close(self):
        """Close the file, however the run ended, and let others write to it."""
        if self.store_writer:
            with contextlib.suppress(OSError, RuntimeError, ValueError):  # where the disk is full, say
                self.store_writer.close()
        super().close()

    def add_rows(self, photos, logits, probabilities):
        """Add the photos of a batch to the file."""
        packed = [self.packer.ready.pop(photo.name) for photo in photos]
        if not packed:
            return
        try:
            if self.store_writer is None:
                self.store_writer = self.opened(packed[0], logits.dtype, probabilities is not None)
            self.store_writer.add(packed, logits, probabilities)
        except (OSError, RuntimeError, ValueError) as error:  # HDF5 has no class for a full disk
            if self.store_writer:
                self.store_writer.abandon()
                self.store_writer = None
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
