"""Files: written whole or not at all, whatever their names, by one process at a time; told by their SHA-256."""

import contextlib
import csv
import errno
import hashlib
import io
import json
import math
import os
import platform
import re
import stat
import sys
import time
import zipfile
import zlib
from pathlib import Path

import numpy as np

from camlib.console import UserError, first_line

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None
    import msvcrt

MOST_TEXT = 2**26  # bytes: the longest description of a network has 1.2 million
MOST_JSON = 2**28  # bytes: annotations of a million photos have fewer
MOST_PIXELS = 100_000_000  # of a picture: about 1.1 GB while an RGB one of as many is decoded, 2 GB with transparency
LARGEST_MODEL = 4.0  # GB of a model file
HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
RUN_FILE = "run.json"  # marks a folder that a script wrote, so that maps are never taken for photos


def parse_place(text):
    """Where photos are: the Path for what the user wrote, or for s3://bucket/photos and the like a UPath of fsspec.

    Raises:
        UserError: what reads such a place is not installed.
    """
    if "://" not in text:
        return Path(text)
    try:
        from upath import UPath

        place = UPath(text)
        place.exists()
        return place
    except (ImportError, ValueError) as error:
        raise UserError(
            f"{text} cannot be read ({first_line(error)}); expected what pip install -r requirements-cluster.txt "
            "installs, and fsspec's package for such places, as s3fs for s3://"
        ) from None
    except Exception as error:  # a store that cannot be reached: its library's own errors
        raise UserError(f"{text} cannot be reached ({first_line(error)}); expected a place that fsspec reads") from None


def is_stored(place):
    """Whether a place is not a file or folder of this machine's, but a UPath of fsspec."""
    return not isinstance(place, (str, os.PathLike))


@contextlib.contextmanager
def partial_of(path):
    """Yield the name under which a file is written, beside `path`; it gets that name at the end, or is removed.

    Until then it is hidden, so that a stopped run leaves nothing that would be taken for a photo.

    Raises:
        OSError: of the writing, with the file's name in it.
    """
    folder, name = os.path.split(path)
    partial = os.path.join(folder, f".{name}.partial")
    try:
        yield partial
        os.replace(partial, path)
    except BaseException as error:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(partial)
        if isinstance(error, OSError) and error.filename is None:  # a full disk does not say where
            error.filename = os.fspath(path)
        raise


def write_whole(path, write):
    """Call `write(file)` on a binary file beside `path`, then give it its name: nobody sees half a file."""
    with partial_of(path) as partial, open(partial, "wb") as file:
        write(file)


def read_json(path):
    """What a JSON file holds, whoever wrote it.

    Raises:
        OSError: it is not there, or may not be read.
        ValueError: it is no file, longer than MOST_JSON, no JSON, or nested deeper than Python reads.
    """
    refuse_no_file(path)
    if os.path.getsize(path) > MOST_JSON:
        raise ValueError(f"longer than {MOST_JSON // 2**20} MB")
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return json.load(file)
    except RecursionError:
        raise ValueError("lists in lists without end") from None


def read_text(path):
    """The text of a file of somebody's, UTF-8.

    Raises:
        OSError: it is not there, or may not be read.
        ValueError: it is no file, longer than MOST_TEXT, or no text.
    """
    refuse_no_file(path)
    if os.path.getsize(path) > MOST_TEXT:
        raise ValueError(f"longer than {MOST_TEXT // 2**20} MB")
    with open(path, encoding="utf-8-sig") as file:
        return file.read()


def refuse_no_file(path):
    """Raise ValueError for a pipe, a device or a folder, which may have no end."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError("no file, but a folder, a pipe or a device")


def read_array(path):
    """The numbers in an .npy file, whoever wrote it: of a kind without objects, and as many as the file has room for.

    Raises:
        OSError: it is not there, or may not be read.
        ValueError: it holds something else, or is damaged.
    """
    refuse_no_file(path)
    with open(path, "rb") as file:
        try:
            shape, by_columns, dtype = HEADERS[np.lib.format.read_magic(file)](file)
        except Exception as error:  # NumPy meets damaged headers with errors of almost every class
            raise ValueError("no array, or of another version of the format") from error
        size, room = math.prod(shape) * dtype.itemsize, os.path.getsize(path) - file.tell()
        if dtype.kind not in "biuf" or min(shape, default=0) < 0 or size != room:
            raise ValueError(f"{dtype} {shape} in {room:,} bytes")
        numbers = np.fromfile(file, dtype)
    return numbers.reshape(shape, order="F" if by_columns else "C")


def write_json(path, record):
    write_whole(path, lambda file: file.write(json_text(record).encode("utf-8", "surrogateescape")))


def json_text(record):
    """A dict as our JSON files hold it."""
    return json.dumps(record, indent=2, ensure_ascii=False, default=str) + "\n"


# A cell that a spreadsheet would take for a formula, or that has been kept from it
FORMULA, KEPT_FROM_FORMULA = re.compile(r"'*[=+\-@\t\r]"), re.compile(r"'+[=+\-@\t\r]")
PLAIN_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?")


def csv_text(rows):
    """Rows as a CSV file has them. Before a text that a spreadsheet would run, as "=1+1.jpg", stands an apostrophe."""
    text = io.StringIO(newline="")
    for row in rows:
        csv.writer(text).writerow(f"'{cell}" if is_formula(cell) else cell for cell in row)
    return text.getvalue()


def is_formula(cell):
    """Whether a spreadsheet would run a cell, or `csv_rows` would take an apostrophe of its own from it."""
    return isinstance(cell, str) and FORMULA.match(cell) and not PLAIN_NUMBER.fullmatch(cell)


def csv_rows(text):
    """The rows of what `csv_text` made, without its apostrophes; a last line that is being written is left out."""
    whole = io.StringIO(text[: text.rfind("\n") + 1], newline="")
    return [[cell[1:] if KEPT_FROM_FORMULA.match(cell) else cell for cell in row] for row in csv.reader(whole)]


def write_csv(path, rows):
    """Write a CSV file whole; names that are not UTF-8 survive."""
    write_whole(path, lambda file: file.write(csv_text(rows).encode("utf-8", "surrogateescape")))


def write_json_once(path, record):
    """Write a JSON file that no other process has written; of several that try at one moment one succeeds.

    Raises:
        FileExistsError: it is there, perhaps not whole yet.
    """
    with open(path, "x", encoding="utf-8", errors="surrogateescape") as file:
        file.write(json_text(record))


def open_csv(path, mode):
    """Open a CSV file for the csv module; names that are not UTF-8 survive."""
    return open(path, mode, newline="", encoding="utf-8", errors="surrogateescape")


def file_sha256(path):
    """SHA-256 of a file, in hexadecimal.

    Raises:
        OSError: it is not there, or may not be read.
        UserError: it is no file, and may have no end.
    """
    try:
        refuse_no_file(path)
    except ValueError as error:
        raise UserError(f"{path} cannot be read: {error}; expected a file") from error
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ---------------------------------------------------------------- arrays by name


class DamagedFile(UserError):
    """A file does not hold what was written to it."""


def write_arrays(path, arrays):
    """Write a dict of name -> array of numbers or text as .npz, under its name only when whole and on the disk.

    Raises:
        OSError: the disk is full, for example; no part of the file is left then.
    """

    def write(file):
        np.savez(file, **arrays)
        file.flush()
        os.fsync(file.fileno())

    write_whole(path, write)


def read_arrays(path):
    """What `write_arrays` wrote, a dict; a CRC-32 of each array, which .npz has, is looked at.

    Raises:
        DamagedFile: it is not what was written.
        OSError: it is not there, or may not be read.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file.items())
    except (OSError, EOFError, KeyError, ValueError, TypeError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise DamagedFile(f"{path} is damaged or of an earlier version") from error


# ---------------------------------------------------------------- one process at a time writes

LOCK, HOLDER = ".lock", ".writer.json"  # hidden, and gone when the writer is done
LOCK_ATTEMPTS = 5  # times that a lock is asked for once more
WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # what a file system without them says


class BeingWritten(UserError):
    """Another process has the right to write."""


class OnlyWriter:
    """The right to write to a folder, or to those files of it that share a name; one process has it at a time.

    The system takes it from a process that has died, so that nothing has to be cleared by hand.

    Args:
        folder: Path, made if missing.
        name: str, of the files, where others may be written meanwhile: a store's, a network's or a shard's.

    Raises:
        BeingWritten: another process has it; the message says which, where, and since when.
    """

    def __init__(self, folder, name=""):
        self.folder, self.is_new = folder, not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        self.path, self.holder = (folder / (f".{name}{hidden}" if name else hidden) for hidden in (LOCK, HOLDER))
        try:
            self.file = patiently_locked(self.path)
        except BlockingIOError:
            raise being_written(folder, name) from None
        started = time.strftime("%Y-%m-%d %H:%M:%S")
        about = {"host": platform.node(), "process": os.getpid(), "started": started, "command": sys.argv}
        try:
            write_json(self.holder, about)
        except BaseException:  # of a full disk, for example
            self.close()
            raise

    def close(self):
        """Let go of it, and leave no folder that nothing was written to.

        The lock's file is removed while it is locked still, see `locked`.
        """
        self.holder.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # Windows removes no file that is open
            self.path.unlink()
        os.close(self.file)
        if self.is_new:
            with contextlib.suppress(OSError):  # it is in use
                self.folder.rmdir()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def is_held(folder, name=""):
    """Whether a process has the right to write, see OnlyWriter; not where a file system has no locks."""
    try:
        file = os.open(folder / (f".{name}{LOCK}" if name else LOCK), os.O_RDWR)
    except OSError:
        return False
    try:
        lock(file, shared=True)
    except OSError as error:
        return error.errno not in WITHOUT_LOCKS
    finally:
        os.close(file)
    return False


def refuse_if_held(folder, pattern=""):
    """Raise BeingWritten where a process has the right to write to those files of a folder that share such a name."""
    for path in folder.glob(f".{pattern}{LOCK}" if pattern else LOCK):
        name = path.name.removeprefix(".").removesuffix(LOCK) if pattern else ""
        if is_held(folder, name):
            raise being_written(folder, name)


def being_written(folder, name):
    """The BeingWritten that says who writes to a folder, or to those files of it that share a name."""
    holder = folder / (f".{name}{HOLDER}" if name else HOLDER)
    return BeingWritten(
        f"{folder / name} is being written by {holder_in_words(holder)}; expected another place, or to wait until it "
        "has ended"
    )


def lock(file, shared=False):
    """Lock a file, by its descriptor; raises OSError where another process has it locked."""
    if fcntl:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    else:
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)


def patiently_locked(path):
    """As `locked`; somebody who only looks whether there is a writer, see `is_held`, is waited for."""
    for _ in range(LOCK_ATTEMPTS):
        try:
            return locked(path)
        except BlockingIOError:
            time.sleep(0.02)
    return locked(path)


def locked(path):
    """Lock a file, made if missing, for this process alone; returns its descriptor.

    Raises:
        BlockingIOError: another process has it locked.
        OSError: the file cannot be made.
    """
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            lock(file)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file), os.stat(path)):
                    return file
            os.close(file)  # the process that had it removed it before it was ours
        except OSError as error:
            if error.errno in WITHOUT_LOCKS:
                print(f"{path.parent} is on a file system without locks: a second run would not be noticed", flush=True)
                return file
            os.close(file)
            raise BlockingIOError from error


def holder_in_words(holder):
    """Who writes, in words; what is said of it may be half of it, or of an earlier one."""
    try:
        about = read_json(holder)
        script = Path(about["command"][0]).name
        words = f"{script}, process {about['process']} on {about['host']} since {about['started']}"
        return re.sub(r"[^ -~]", "?", words)[:120]
    except (OSError, ValueError, TypeError, KeyError, IndexError):
        return "another process"
