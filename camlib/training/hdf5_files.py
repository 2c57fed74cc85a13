"""HDF5 files of our own: written whole or not at all on a full disk too, and never believed when they are damaged."""

import hashlib
import io
import json
import os

import h5py
import numpy as np

from camlib.console import UserError
from camlib.files import partial_of

CHECKSUM = "sha256"  # the attribute that holds it


class DamagedFile(UserError):
    """A file does not hold what was written to it."""


class Stream(io.FileIO):
    """A file that says once that it cannot be written, and swallows what comes after that.

    HDF5 writes what is left when it closes a file, and where that fails ends the process with a segmentation fault.

    Attributes:
        failed: bool, something of it is missing.
    """

    failed = False

    def write(self, content):
        rest = memoryview(content).cast("B")
        length = len(rest)
        while rest and not self.failed:
            try:
                rest = rest[super().write(rest) :]
            except OSError:
                self.failed = True
                raise
        return length

    def truncate(self, size=None):
        return size if self.failed else super().truncate(size)


def write_hdf5(path, write, unchecked=()):
    """Write an HDF5 file with a checksum, under its name only when whole and on the disk.

    Args:
        path: Path.
        write: function of an h5py.File that fills it.
        unchecked: names of datasets, at the ends of their paths, that have a check of their own.

    Raises:
        OSError: the disk is full, for example; no part of the file is left then.
    """
    with partial_of(path) as partial, Stream(partial, "w+b") as stream:
        with h5py.File(stream, "w", libver="latest") as file:  # attributes may have more than 64 KB, then
            write(file)
            file.attrs[CHECKSUM] = content_sha256(file, unchecked)
        os.fsync(stream.fileno())


def read_hdf5(path, read, unchecked=()):
    """What `read(file)` makes of an h5py.File that `write_hdf5` wrote.

    Raises:
        DamagedFile: it is not what was written.
        OSError: it is not there, or may not be read.
    """
    try:
        with h5py.File(path, "r") as file:
            if file.attrs[CHECKSUM] != content_sha256(file, unchecked):
                raise ValueError("its checksum is that of another content")
            return read(file)
    except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise DamagedFile(f"{path} is damaged or of an earlier version") from error


def content_sha256(file, unchecked=()):
    """SHA-256 of the names, attributes and values in an h5py.File, but for its checksum."""
    digest = hashlib.sha256()

    def add(name, item):
        for attribute in sorted(item.attrs.keys() - {CHECKSUM}):
            digest.update(json.dumps([name, attribute]).encode())
            digest.update(bytes_of(item.attrs[attribute]))
        if isinstance(item, h5py.Dataset):
            digest.update(json.dumps([name, str(item.dtype), item.shape]).encode())
            if name.rpartition("/")[2] not in unchecked:
                digest.update(bytes_of(item[()]))

    add("/", file)
    file.visititems(add)
    return digest.hexdigest()


def bytes_of(value):
    """The content of an array, a number or a text, as bytes."""
    array = np.asarray(value)
    if array.dtype.kind in "OSU":
        return json.dumps(array.tolist(), default=bytes.decode).encode()
    return np.ascontiguousarray(array).data.cast("B")
