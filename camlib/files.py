"""Files: written whole or not at all, whatever their names; what is in one, by its SHA-256."""

import contextlib
import hashlib
import json
import os

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None
    import msvcrt


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


class OnlyProcess:
    """The right to write to a path, which one process has at a time, and which ends with it, however that ends.

    A hidden file beside the path stands for it; a lock on the path itself would hold readers off, too.

    Args:
        path: Path.

    Raises:
        BlockingIOError: another process has it.
    """

    def __init__(self, path):
        self.path = os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.lock")
        while True:
            self.file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                lock(self.file)
            except OSError as error:
                os.close(self.file)
                raise BlockingIOError(f"another process writes to {path}") from error
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(self.file), os.stat(self.path)):
                    return
            os.close(self.file)  # it was removed before we had it, by the process that did

    def close(self):
        with contextlib.suppress(OSError):  # Windows removes no file that is open
            os.unlink(self.path)
        os.close(self.file)


def lock(file):
    """Lock a file, by its descriptor, for this process alone; raises OSError where another has."""
    if fcntl:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    else:
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
