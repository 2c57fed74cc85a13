"""Files: written whole or not at all, whatever their names; what is in one, by its SHA-256."""

import contextlib
import csv
import hashlib
import io
import json
import os


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


def write_csv(path, rows):
    """Write rows, lists of values, to a CSV file; names that are not UTF-8 survive."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    write_whole(path, lambda file: file.write(text.getvalue().encode("utf-8", "surrogateescape")))


def write_json(path, record):
    text = json.dumps(record, indent=2, ensure_ascii=False, default=str) + "\n"
    write_whole(path, lambda file: file.write(text.encode("utf-8", "surrogateescape")))


def open_csv(path, mode):
    """Open a CSV file for the csv module; names that are not UTF-8 survive."""
    return open(path, mode, newline="", encoding="utf-8", errors="surrogateescape")


def file_sha256(path):
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
