"""One process at a time writes to a folder, or to some files of it."""

import contextlib
import errno
import os
import platform
import re
import sys
import time
from pathlib import Path

from camlib.console import UserError
from camlib.files import read_json, write_json

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None
    import msvcrt

LOCK, HOLDER = ".lock", ".writer.json"  # hidden, and gone when the writer is done
PATIENCE = 5  # times that a lock is asked for once more
WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # what a file system without them says


class BeingWritten(UserError):
    """Another process has the right to write."""


class OnlyWriter:
    """The right to write to a folder, or to those files of it that share a name; one process has it at a time.

    The system takes it from a process that has died, so that nothing has to be cleared by hand.

    Args:
        folder: Path, made if missing.
        name: str, of the files, where others may be written meanwhile: a store's, a network's or a shard's.
        option: str, what says where a run writes.

    Raises:
        BeingWritten: another process has it; the message says which, where, and since when.
    """

    def __init__(self, folder, name="", option="--output"):
        self.folder, self.is_new = folder, not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        self.path, self.holder = (folder / (f".{name}{hidden}" if name else hidden) for hidden in (LOCK, HOLDER))
        try:
            self.file = patiently_locked(self.path)
        except BlockingIOError:
            raise BeingWritten(
                f"{folder / name} is being written by {described(self.holder)}; expected another {option}, or to wait "
                "until it has ended"
            ) from None
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


def lock(file, shared=False):
    """Lock a file, by its descriptor; raises OSError where another process has it locked."""
    if fcntl:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    else:
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)


def patiently_locked(path):
    """As `locked`; somebody who only looks whether there is a writer, see `is_held`, is waited for."""
    for _ in range(PATIENCE):
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


def described(holder):
    """Who writes, in words; what is said of it may be half of it, or of an earlier one."""
    try:
        about = read_json(holder)
        script = Path(about["command"][0]).name
        words = f"{script}, process {about['process']} on {about['host']} since {about['started']}"
        return re.sub(r"[^ -~]", "?", words)[:120]
    except (OSError, ValueError, TypeError, KeyError, IndexError):
        return "another process"
