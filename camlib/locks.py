"""One process at a time writes to a folder, or to some files of it."""

import json
import os
import platform
import re
import sys
import time
from pathlib import Path

import filelock

from camlib.console import UserError
from camlib.files import write_json

LOCK, HOLDER = ".lock", ".writer.json"  # hidden, so that neither counts among a run's files


class OnlyWriter:
    """The right to write to a folder, or to those files of it that share a name; one process has it at a time.

    The system takes it from a process that has died, so that nothing has to be cleared by hand.

    Args:
        folder: Path, made if missing.
        name: str, of the files, where others may be written meanwhile: a store's, a network's or a shard's.
        option: str, what says where a run writes.

    Raises:
        UserError: another process has it; the message says which, where, and since when.
    """

    def __init__(self, folder, name="", option="--output"):
        folder.mkdir(parents=True, exist_ok=True)
        lock, self.holder = (folder / (f".{name}{hidden}" if name else hidden) for hidden in (LOCK, HOLDER))
        self.lock = filelock.FileLock(lock, timeout=0)
        try:
            self.lock.acquire()
        except filelock.Timeout:
            raise UserError(
                f"{folder / name} is being written by {described(self.holder)}; expected another {option}, or to wait "
                "until it has ended"
            ) from None
        except NotImplementedError:  # what filelock raises where a file system has no locks
            print(f"{folder} is on a file system without locks: nothing keeps a second run from writing to it")
        started = time.strftime("%Y-%m-%d %H:%M:%S")
        about = {"host": platform.node(), "process": os.getpid(), "started": started, "command": sys.argv}
        write_json(self.holder, about)

    def close(self):
        """Let go of it; the lock's file stays, since removed it could be locked twice."""
        self.holder.unlink(missing_ok=True)
        self.lock.release()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def described(holder):
    """Who writes, in words; what is said of it may be half of it, or of an earlier one."""
    try:
        about = json.loads(holder.read_text("utf-8", "surrogateescape"))
        script = Path(about["command"][0]).name
        words = f"{script}, process {about['process']} on {about['host']} since {about['started']}"
        return re.sub(r"[^ -~]", "?", words)[:120]
    except (OSError, ValueError, TypeError, KeyError, IndexError):
        return "another process"
