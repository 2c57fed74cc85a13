"""HDF5 files whose writer was killed: read as they are, and told from those that were closed.

By a path, HDF5 opens such a file in its mode for many readers (SWMR) alone, and waits there without end for what a
damaged file lacks, as a reader does whose writer is still at it. Through a file object of Python's it does neither.
"""

import contextlib

import h5py

SIGNATURE, FLAGS = b"\x89HDF\r\n\x1a\n", 11  # and where a superblock of version 2 or 3 says that it was not closed


def was_closed(path):
    """Whether the last process that wrote to a file closed it."""
    with open(path, "rb") as file:
        head = file.read(FLAGS + 1)
    return not (head.startswith(SIGNATURE) and len(head) > FLAGS and head[8] in (2, 3) and head[FLAGS])


@contextlib.contextmanager
def read_as_it_is(path):
    """An h5py.File to be read, whether it was closed or not; no process may be writing to it."""
    with open(path, "rb") as content, h5py.File(content, "r") as file:
        yield file
