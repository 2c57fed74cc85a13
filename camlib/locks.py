"""One process at a time writes to a folder, or to the files of a training."""

import contextlib
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


@contextlib.contextmanager
def only_writer(folder, name=""):
    """Be the only process that writes to a folder, or to those files of it that share a name, until the block ends.

    The system lets go of a lock whose process has died, on whatever host, so that nothing has to be cleared by hand.

    Args:
        folder: Path, made if missing.
        name: str, of the files, where others may be written meanwhile: a network's, or a shard's.

    Raises:
        UserError: another process is at it; the message says which, where, and since when.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock, holder = (folder / (f".{name}{hidden}" if name else hidden) for hidden in (LOCK, HOLDER))
    held = filelock.FileLock(lock, timeout=0)
    try:
        held.acquire()
    except filelock.Timeout:
        raise UserError(
            f"{folder / name} is being written by {described(holder)}; expected another --output, or to wait until it "
            "has ended"
        ) from None
    except NotImplementedError:  # what filelock raises where a file system has no locks
        print(f"{folder} is on a file system without locks: nothing keeps a second run from writing to it", flush=True)
    try:
        started = time.strftime("%Y-%m-%d %H:%M:%S")
        write_json(holder, {"host": platform.node(), "process": os.getpid(), "started": started, "command": sys.argv})
        yield
    finally:
        holder.unlink(missing_ok=True)
        held.release()  # the lock's file stays: removed, it could be locked twice


def described(holder):
    """Who holds a lock, in words; what is written there may be half of it, or of an earlier one."""
    try:
        about = json.loads(holder.read_text("utf-8", "surrogateescape"))
        script = Path(about["command"][0]).name
        words = f"{script}, process {about['process']} on {about['host']} since {about['started']}"
        return re.sub(r"[^ -~]", "?", words)[:120]
    except (OSError, ValueError, TypeError, KeyError, IndexError):
        return "another process"
