"""Files: written whole or not at all, whatever their names, by one process at a time; told by their SHA-256."""

import contextlib
import csv
import errno
import hashlib
import io
import itertools
import json
import lzma
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
MOST_VALUES = 16_000_000  # lists, dicts and values of JSON, of which the smallest takes twenty times its text
MOST_ARRAY = 2**30  # bytes of an .npy file: a map of 8,192 x 8,192 with three channels has fewer
MOST_PIXELS = 100_000_000  # of a picture: about 1.1 GB while an RGB one of as many is decoded, 2 GB with transparency
LARGEST_MODEL = 4.0  # GB of a model file
HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
PACKING_ERRORS = zipfile.BadZipFile, zlib.error, lzma.LZMAError  # what damaged archives meet their readers with
RUN_FILE = "run.json"  # marks a folder that a script wrote, so that maps are never taken for photos


def parse_place(text):
    """Where photos are: the Path for what the user wrote, or for s3://bucket/photos and the like a UPath of fsspec.

    Raises:
        UserError: what reads such a place is not installed, or it cannot be reached.
    """
    if "://" not in text:
        return Path(text)
    try:
        from upath import UPath

        place = UPath(text)
        place.exists()
        return place
    except Exception as error:  # of a store that cannot be reached, its library's own errors
        raise UserError(
            f"{text} cannot be read ({first_line(error)}); expected what pip install -r requirements-cluster.txt "
            "installs, fsspec's package for such places, as s3fs for s3://, and a place that it reaches"
        ) from None


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
    with contextlib.suppress(FileNotFoundError):
        os.unlink(partial)  # it may be a link to another file, or a pipe that nobody reads
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
        ValueError: it is no file, longer than MOST_JSON, of more than MOST_VALUES, no JSON, or nested deeper than
            Python reads.
    """
    try:
        text = read_text(path, MOST_JSON, errors="surrogateescape")
        if sum(map(text.count, ",[{")) > MOST_VALUES:
            raise ValueError(f"more than {MOST_VALUES:,} values")
        return json.loads(text)
    except RecursionError:
        raise ValueError("lists in lists without end") from None


def read_text(path, most=MOST_TEXT, errors="strict"):
    """The text of a file of somebody's, UTF-8.

    Raises:
        OSError: it is not there, or may not be read.
        ValueError: it is no file, longer than `most` bytes, or no text.
    """
    refuse_no_file(path, most)
    with open(path, encoding="utf-8-sig", errors=errors) as file:
        return file.read()


def refuse_no_file(path, most=math.inf):
    """Raise ValueError for a pipe, a device or a folder, which may have no end, and for more than `most` bytes."""
    about = os.stat(path)
    if not stat.S_ISREG(about.st_mode):
        raise ValueError("no file, but a folder, a pipe or a device")
    if about.st_size > most:
        raise ValueError(f"longer than {most // 2**20:,} MB")


def read_array(path):
    """The numbers in an .npy file, whoever wrote it.

    Raises:
        OSError: it is not there, or may not be read.
        ValueError: as for `array_in`.
    """
    refuse_no_file(path)
    with open(path, "rb") as file:
        return array_in(file, os.path.getsize(path))


def array_in(file, length):
    """The numbers in an open .npy file: of a kind without objects, and as many as it has room for.

    Args:
        file: binary file.
        length: int, its bytes, as its folder or archive says.

    Raises:
        ValueError: it is longer than MOST_ARRAY, holds something else, or is damaged.
    """
    if length > MOST_ARRAY:
        raise ValueError(f"longer than {MOST_ARRAY // 2**20:,} MB")
    try:
        shape, by_columns, dtype = HEADERS[np.lib.format.read_magic(file)](file)
    except Exception as error:  # NumPy meets damaged headers with errors of almost every class
        raise ValueError("no array, or of another version of the format") from error
    size, room = math.prod(shape) * dtype.itemsize, length - file.tell()
    if dtype.kind not in "biuf" or min(shape, default=0) < 0 or size != room:
        raise ValueError(f"{dtype} {shape} in {room:,} bytes")
    numbers = np.frombuffer(file.read(size), dtype)  # of fewer bytes, reshape raises ValueError
    return numbers.reshape(shape, order="F" if by_columns else "C")


def write_json(path, record):
    write_whole(path, lambda file: file.write(json_text(record).encode("utf-8", "surrogateescape")))


def json_text(record):
    """A dict as our JSON files hold it."""
    return json.dumps(record, indent=2, ensure_ascii=False, default=str) + "\n"


LONGEST_LINE = 2**25  # characters of a CSV file: of a hundred thousand classes of 150 letters they are fewer
# A cell that a spreadsheet would take for a formula, or that has been kept from it
FORMULA, KEPT_FROM_FORMULA = re.compile(r"'*[=+\-@\t\r]"), re.compile(r"'+[=+\-@\t\r]")
PLAIN_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)(e[+-]?[0-9]+)?")


def csv_text(rows):
    """Rows as a CSV file has them. Before a text that a spreadsheet would run, as "=1+1.jpg", stands an apostrophe."""
    text = io.StringIO(newline="")
    for row in rows:
        csv.writer(text).writerow(f"'{cell}" if is_formula(cell) else cell for cell in row)
    return text.getvalue()


def is_formula(cell):
    """Whether a spreadsheet would run a cell, or `csv_rows` would take an apostrophe of its own from it."""
    return isinstance(cell, str) and FORMULA.match(cell) and not PLAIN_NUMBER.fullmatch(cell)


def csv_rows(file):
    """The rows of what `csv_text` made, without its apostrophes.

    A last line that is being written is left out, and what comes behind one that is longer than LONGEST_LINE.

    Args:
        file: text file, whose line ends are left as they are.
    """
    lines = itertools.takewhile(lambda line: line[-1] in "\r\n", iter(lambda: file.readline(LONGEST_LINE), ""))
    return [[cell[1:] if KEPT_FROM_FORMULA.match(cell) else cell for cell in row] for row in csv.reader(lines)]


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
        refuse_no_file(path)
        with np.load(path, allow_pickle=False) as file:
            return dict(file.items())
    except (OSError, EOFError, KeyError, ValueError, TypeError, RuntimeError, *PACKING_ERRORS) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise DamagedFile(f"{path} is damaged or of an earlier version") from error


# ---------------------------------------------------------------- one process at a time writes

LOCK, HOLDER = ".lock", ".writer.json"  # hidden, and gone when the writer is done
SECONDS_OF_A_LOOK = 0.1  # whether there is a writer: it is waited for
WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # what a file system without them says


class BeingWritten(UserError):
    """Another process has the right to write."""


@contextlib.contextmanager
def only_writer(folder, name=""):
    """Have the right to write to a folder, or to those files of it that share a name; one process has it at a time.

    The system takes it from a process that has died, so that nothing has to be cleared by hand. A folder that nothing
    was written to is left as it was.

    Args:
        folder: Path, made if missing.
        name: str, of the files, where others may be written meanwhile: a network's or a shard's.

    Raises:
        BeingWritten: another process has it; the message says which, where, and since when.
    """
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / (f".{name}{LOCK}" if name else LOCK)
    file = locked(path)
    started = time.strftime("%Y-%m-%d %H:%M:%S")
    try:
        write_json(
            holder_of(path),
            {"host": platform.node(), "process": os.getpid(), "started": started, "command": sys.argv},
        )
        yield
    finally:
        holder_of(path).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # Windows removes no file that is open
            path.unlink()  # while it is locked still, see `locked`
        file.close()
        if is_new:
            with contextlib.suppress(OSError):  # it is in use
                folder.rmdir()


def refuse_if_held(folder, name=""):
    """Raise BeingWritten where a process has the right to write to a folder, or to files of it of such a name.

    Args:
        folder: Path.
        name: str, of the files; a * stands for anything.
    """
    for path in folder.glob(f".{name}{LOCK}" if name else LOCK):
        with contextlib.suppress(OSError), open(path, "r+b") as file:  # its writer may just have ended
            lock(file, path, shared=True)


def lock(file, path, shared=False):
    """Lock an open file, where the file system has locks.

    Raises:
        BeingWritten: another process has it locked.
    """
    try:
        if fcntl:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        else:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            what = path.parent / path.name.removesuffix(LOCK).removeprefix(".")
            raise BeingWritten(
                f"{what} is being written by {holder_in_words(holder_of(path))}; expected another place, or to wait "
                "until it has ended"
            ) from None
        if not shared:
            print(f"{path.parent} is on a file system without locks: a second run would not be noticed", flush=True)


def locked(path):
    """Lock a file, made if missing, for this process alone, until it is closed; returns it, open.

    Somebody who only looks whether there is a writer, see `refuse_if_held`, is waited for.

    Raises:
        BeingWritten: another process has it locked.
        UserError: it is no file, and a pipe would be waited for.
        OSError: the file cannot be made.
    """
    if path.exists() and not path.is_file():
        raise UserError(f"{path} is no file; expected it to be removed, or another folder")
    deadline = time.monotonic() + SECONDS_OF_A_LOOK
    while True:
        with contextlib.ExitStack() as unless_locked:
            file = unless_locked.enter_context(open(path, "ab"))
            try:
                lock(file, path)
                if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                    unless_locked.pop_all()
                    return file
            except (BeingWritten, FileNotFoundError):  # the latter: who had it removed it before it was ours
                if time.monotonic() > deadline:
                    raise
        time.sleep(0.02)


def holder_of(path):
    """The file beside a lock that says who has it."""
    return path.with_name(path.name.removesuffix(LOCK) + HOLDER)


def holder_in_words(holder):
    """Who writes, in words; what is said of it may be half of it, or of an earlier one."""
    try:
        about = read_json(holder)
        script = Path(about["command"][0]).name
        words = f"{script}, process {about['process']} on {about['host']} since {about['started']}"
        return re.sub(r"[^ -~]", "?", words)[:120]
    except (OSError, ValueError, TypeError, KeyError, IndexError):
        return "another process"
