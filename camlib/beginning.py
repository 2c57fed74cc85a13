"""Ctrl-C, SIGTERM or SIGHUP before a script has begun, while it imports what it needs: one line, no traceback.

`camlib` imports this before anything else; `camlib.console.run_script` takes over when the script's `main` is called.
"""

import contextlib
import os
import signal
import sys

EXIT_OF_SIGNALS = 128  # a shell adds the signal's number: 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP
# What a scheduler, or a terminal that is closed, sends; Windows has no SIGHUP
ENDING_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
has_begun = False  # set by `camlib.console.run_script`
ROOT = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))


def is_heeded(number):
    """Whether a signal is not ignored, as Ctrl-C is in the background of a shell and SIGHUP under nohup."""
    return signal.getsignal(number) not in (None, signal.SIG_IGN)


def is_script():
    """Whether the process runs a script of this repository, and not a program of the user's own that imports one."""
    path = getattr(sys.modules.get("__main__"), "__file__", None) or ""
    return os.path.dirname(os.path.realpath(path)) in (ROOT, os.path.join(ROOT, "data"))


def end_in_one_line():
    """Until a script begins, end it at once on such a signal."""
    screen = os.dup(2)  # stderr is elsewhere while the backend starts

    def stop(number, _):
        with contextlib.suppress(OSError):  # of a terminal that is gone
            if not has_begun:  # else it is at its end, and has said how that went
                os.write(screen, b"\nstopped before it began\n")
        os._exit(EXIT_OF_SIGNALS + number)

    for number in (signal.SIGINT, *ENDING_SIGNALS):
        if is_heeded(number):
            signal.signal(number, stop)


if is_script():
    end_in_one_line()
