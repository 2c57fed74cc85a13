"""Files: written whole or not at all, whatever their names; what is in one, by its SHA-256."""

import contextlib
import hashlib
import json
import os


def write_whole(path, write):
    """Call `write(file)` on a binary file beside `path`, then give it its name: nobody sees half a file.

    Until then it is hidden, so that a stopped run leaves nothing that would be taken for a photo.
    """
    folder, name = os.path.split(path)
    partial = os.path.join(folder, f".{name}.partial")
    try:
        with open(partial, "wb") as file:
            write(file)
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(partial)
        raise


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
