"""How the scripts speak: one-line errors, exit codes, progress on a terminal and in a log."""

import argparse
import contextlib
import difflib
import errno
import heapq
import os
import re
import runpy
import shlex
import signal
import subprocess
import sys
import threading
import time
import traceback
import warnings
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as TerminalProgress
from rich.table import Table
from rich.text import Text

BAR_COLUMNS = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())

EXIT_SOME_FAILED = 1
EXIT_BAD_USAGE = 2
EXIT_OF_SIGNALS = 128  # a shell adds the signal's number: 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP
# What a scheduler, or a terminal that is closed, sends; Windows has no SIGHUP
ENDING_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
SECONDS_TO_STOP = 5  # after Ctrl-C, for what is worth saving
SECONDS_TO_FINISH = 4  # the batch, after SIGTERM; schedulers kill what is there 10 or 30 seconds after it
SHOW_CURSOR = "\x1b[?25h"


LONGEST_REASON = 120  # characters of another library's words in a message of our own
LONGEST_WORD, LONGEST_MESSAGE = 300, 2000  # characters; the longest name of a file has 255
MOST_COMPARED = 100  # names, of which the nearest to a misspelt one are named
# Line breaks, what moves a terminal's cursor, and what turns the direction of letters
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def one_line(text):
    """A message with names of anybody's in it: control characters written out, and the middle of long words cut."""
    plain = UNPRINTABLE.sub(lambda found: repr(found[0])[1:-1], text)
    short = re.sub(rf"\S{{{LONGEST_WORD},}}", lambda found: without_middle(found[0], LONGEST_WORD), plain)
    return without_middle(short, LONGEST_MESSAGE)


def without_middle(text, most):
    return text if len(text) <= most else f"{text[: most // 2]}...{text[-most // 2 :]}"


class OneLineError(Exception):
    """An error whose message is one line, whatever names are in it."""

    def __str__(self):
        return one_line(super().__str__())


class UserError(OneLineError):
    """Something the user can mend; the message says what was found, what was expected and what to do."""


def first_line(error):
    """The innermost reason in an exception's message, as part of a UserError's, which is one line.

    Keras repeats a message at each level that it passes through, behind the whole configuration of a layer; TensorFlow
    puts the lines of code before it that it traced.
    """
    text = str(error).strip() or type(error).__name__
    reason = re.split(r"Exception encountered:|Example error message for object .{0,200}:", text)[-1]
    lines = (reason.strip() or text).splitlines()
    line = lines[-1].strip() if lines[0] == "in user code:" else lines[0]
    return line if len(line) <= LONGEST_REASON else f"{line[: LONGEST_REASON - 3]}..."


def shown_shape(shape):
    """A tensor's shape for a message, with N for the photos of a batch: (N, 224, 224, 3)."""
    return f"(N, {', '.join('any' if side is None else str(side) for side in shape[1:])})"


class ArgumentParser(argparse.ArgumentParser):
    """argparse with the script's own docstring as help, and one-line errors that name what may have been meant."""

    def __init__(self, description):
        super().__init__(description=description, formatter_class=HelpFormatter)

    def parse_args(self, arguments=None, namespace=None):
        try:
            settings, unknown = self.parse_known_args(arguments, namespace)
        except UserError as error:
            self.exit(EXIT_BAD_USAGE, f"error: {error}\n")
        if unknown:
            near = did_you_mean(unknown[0].split("=")[0], self._option_string_actions)
            self.error(f"unrecognized arguments: {' '.join(unknown)}{near}")
        return settings

    def _check_value(self, action, value):  # argparse has no public place for this before Python 3.14
        if action.choices is not None and value not in action.choices:
            near = did_you_mean(str(value), action.choices)
            raise argparse.ArgumentError(
                action, f"invalid choice: {value!r}{near} expected {', '.join(map(str, action.choices))}"
            )

    def error(self, message):
        message = one_line(message if message.endswith((";", "?")) else f"{message};")
        self.exit(EXIT_BAD_USAGE, f"error: {message} see {command(sys.argv[0], '--help')}\n")

    def require(self, settings, **least):
        """End with an error where a number is below its least, for example `batch_size=1`; None was not given."""
        for name, lowest in least.items():
            value = getattr(settings, name)
            if value is not None and value < lowest:
                self.error(f"--{name.replace('_', '-')} {value}: expected {lowest} or more")


def whole_number(least, greatest):
    """Return a parser of whole numbers from `least` to `greatest`."""

    def parse(text):
        if not re.fullmatch(r"[0-9]{1,10}", text) or not least <= int(text) <= greatest:
            expected = f"a whole number from {least} to {greatest}"
            raise argparse.ArgumentTypeError(f"found {text!r}, expected {expected}")
        return int(text)

    return parse


def shortened_list(names, most=5):
    """Names for a message: "a, b, c", or the first few and how many more."""
    names = [str(name) for name in names]
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


LONGEST_PATH = 70  # characters of it in a message


def shown_path(path):
    """A path for a message of one line: all of it, or the end of its name."""
    return str(path) if len(str(path)) <= LONGEST_PATH else f".../{Path(path).name[4 - LONGEST_PATH :]}"


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the docstring's line breaks, and appends each default that says something and is not in words already."""

    def _get_help_string(self, action):
        default, words = action.default, action.help or ""
        if default is None or isinstance(default, bool) or default is argparse.SUPPRESS or "default:" in words:
            return words
        text = " ".join(map(str, default)) if isinstance(default, (list, tuple)) else str(default)
        return f"{words}; default: {text.replace('%', '%%')}"


def did_you_mean(text, known):
    """What goes between "is not known" and " expected ...": "; did you mean this or that?", or ";" if nothing is near.

    Args:
        text: str, what the user wrote.
        known: iterable of str, what there is.
    """
    names, matcher = {name.lower(): name for name in known}, difflib.SequenceMatcher(b=text.lower()[:LONGEST_WORD])

    def compared(name, measure):
        matcher.set_seq1(name)
        return measure()

    # a ratio takes the square of the length, and there may be a hundred thousand names
    likely = heapq.nlargest(MOST_COMPARED, names, lambda name: compared(name, matcher.quick_ratio))
    alike = {name: compared(name, matcher.ratio) for name in likely}
    nearest = max(alike.values(), default=0)
    near = sorted((name for name in alike if alike[name] >= max(0.65, nearest - 0.15)), key=alike.get, reverse=True)
    return f"; did you mean {' or '.join(names[name] for name in near[:3])}?" if near else ";"


# ---------------------------------------------------------------- sentences


def counted(count, noun, plural=None):
    """ "1 photo", "2 photos", "1,000 classes"."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def duration(seconds):
    """In words: "about 40 s", "about 50 min", "about 2.5 h"."""
    if seconds < 90:
        return f"about {max(1, seconds):.0f} s"
    return f"about {seconds / 60:.0f} min" if seconds < 90 * 60 else f"about {seconds / 3600:.1f} h"


SHIPPED = Path(__file__).with_name("shipped")  # in an installed package: the scripts, and what they need
ROOT = SHIPPED if SHIPPED.is_dir() else Path(__file__).resolve().parents[1]
CLONE = Path() if ROOT == SHIPPED else ROOT  # has photos and VGG-16, too; installed, the folder that the user is in


def command(script, *arguments):
    """The command line that runs a script of this repository from the folder the user is in, quoted for the shell.

    In an installed package the scripts are commands.

    Args:
        script: str, its name, or a path as in sys.argv.
        arguments: str or Path; one that begins with a dash is a Path or an option's name.
    """
    path = ROOT / script if (ROOT / script).exists() else Path(script)
    with contextlib.suppress(ValueError):  # on another drive of Windows than the user is
        path = os.path.relpath(path)
    words = [os.path.join(".", word) if isinstance(word, Path) and str(word)[0] == "-" else word for word in arguments]
    words = [*([Path(script).stem] if ROOT == SHIPPED else ["python", str(path)]), *map(str, words)]
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)


def run_shipped():
    """What a console command of an installed package does: run the script of its name."""
    runpy.run_path(str(ROOT / f"{Path(sys.argv[0]).stem}.py"), run_name="__main__")


def introduce():
    """What the console command `camlib` does: name the others, and the version."""
    from camlib import __version__

    others = ", ".join(sorted(path.stem for path in ROOT.glob("*.py")))
    parser = ArgumentParser(f"CAM, Grad-CAM and guided backpropagation of Keras networks. Commands: {others}.")
    parser.add_argument("--version", action="version", version=f"camlib {__version__}")
    parser.parse_args()
    parser.print_help()


# ---------------------------------------------------------------- beginning and ending


def run_script(main, go_on="the same command goes on from here"):
    """Run `main()` and turn its outcome into an exit code: its own, 2 for a user's error, 130 for Ctrl-C.

    What ends it in an orderly way, SIGTERM and SIGHUP, makes 143 and 129 of it. An error of the operating system (a
    full disk, a folder that may not be written) and memory that runs out are the user's to mend as well. `go_on` tells
    who stopped it how to continue. Who reads no more of what is printed, as `head`, ends it without a word.
    """
    open_closed_streams()
    sys.stdout.reconfigure(errors="backslashreplace")  # a file's name need not be UTF-8
    warnings.filterwarnings("ignore", module=r"keras\.")  # to whoever built the network
    warnings.formatwarning = lambda message, *_: f"note: {message}\n"
    try:
        with heeding_signals(go_on):
            try:
                check_folder()
                sys.exit(main())
            finally:
                sys.stdout.flush()
    except KeyboardInterrupt:
        stop(go_on)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python flushes it again, and complains
        sys.exit(EXIT_OF_SIGNALS + getattr(signal, "SIGPIPE", 13))  # Windows has none
    except Exception as error:
        if not is_of_user(error):
            raise
        with contextlib.suppress(OSError):  # nobody reads it, or its disk is full
            print(f"error: {one_line(words_of(error, go_on))}", file=sys.stderr)
        sys.exit(EXIT_BAD_USAGE)


def open_closed_streams():
    """Open what cron or a daemon closed, to nowhere: the next file that is opened would get what is printed."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDWR)
            with contextlib.suppress(OSError):
                os.fstat(number)
                number = nowhere  # something else has its number already
            if number != nowhere:
                os.dup2(nowhere, number)
                os.close(nowhere)
            setattr(sys, name, open(number, "r" if number == 0 else "w", encoding="utf-8"))  # noqa: SIM115


def check_folder():
    """Raise UserError where the folder that the script was started in has been removed since."""
    try:
        os.getcwd()
    except FileNotFoundError as error:
        raise UserError(
            f"the folder {os.environ.get('PWD', 'of this shell')} is not there any more; expected one that is: cd to it"
        ) from error


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) if hasattr(errno, "EDQUOT") else (errno.ENOSPC, errno.EFBIG)


def is_of_user(error):
    """Whether an error is the user's to mend: one sentence says it, and nothing is broken."""
    return isinstance(error, (UserError, OSError)) or is_out_of_memory(error) or is_of_matplotlibs_settings(error)


def words_of(error, go_on):
    """What the user is told of an error that is theirs to mend."""
    if isinstance(error, OSError) and error.errno in FULL:
        where = f"{error.filename} could not be written" if error.filename else "a file could not be written"
        return f"{where} ({error.strerror}); expected room for it: free some, then {go_on}"
    if is_out_of_memory(error):
        return f"out of memory ({first_line(error)}); expected a lower --batch-size or --size; {go_on}"
    if is_of_matplotlibs_settings(error):
        named = f"MPLBACKEND={os.environ.get('MPLBACKEND')} or its matplotlibrc"
        return f"Matplotlib refuses {named} ({first_line(error)}); expected others, or none"
    return str(error)


def is_of_matplotlibs_settings(error):
    """Whether the user's settings let Matplotlib's import fail: an unknown backend, a file that is no text."""
    frames = (frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__))
    return isinstance(error, ValueError) and any(
        code.co_name == "<module>" and code.co_filename.endswith(os.path.join("matplotlib", "__init__.py"))
        for code in frames
    )


def is_out_of_memory(error):
    """Whether memory ran out, the machine's or the device's; TensorFlow, JAX and OpenCV each have their own error."""
    text = str(error)
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "ResourceExhaustedError"
        or "RESOURCE_EXHAUSTED" in text
        or (type(error).__module__ == "cv2" and "Insufficient memory" in text)
    )


class StopRequest:
    """What asked the script to end.

    Attributes:
        signal: int, its number, or None.
        works: int, how many pieces of work are on their way that ask `end_if_asked` after each batch.
    """

    signal, works = None, 0


STOP = StopRequest()


def end_if_asked():
    """Called between two pieces of work: where SIGTERM or SIGHUP came, go no further."""
    if STOP.signal:
        raise KeyboardInterrupt


@contextlib.contextmanager
def heeding_signals(go_on):
    """Let Ctrl-C end the script wherever it is met, and SIGTERM and SIGHUP where the next batch would begin.

    Python raises KeyboardInterrupt in whatever runs just then. In a callback whose exceptions Python prints and ignores
    (JAX has one for each garbage collection), or in a library that catches everything, the script would go on.
    """
    hook, STOP.signal, STOP.works = sys.unraisablehook, None, 0

    def interrupt(*_):
        begin_in_time(SECONDS_TO_STOP, stop, go_on)
        raise KeyboardInterrupt

    def finish(number, _):
        again, STOP.signal = STOP.signal, number
        if again or not STOP.works:  # asked twice, nothing was finished in time, or there are no batches
            interrupt()
        # the main thread may be waiting in what only a signal of its own ends; Windows never comes here
        begin_in_time(SECONDS_TO_FINISH, signal.pthread_kill, threading.main_thread().ident, number)

    def heed(ignored):
        if issubclass(ignored.exc_type, KeyboardInterrupt):
            stop(go_on)
        hook(ignored)

    handlers = {signal.SIGINT: interrupt} | dict.fromkeys(ENDING_SIGNALS, finish)
    before = {number: signal.getsignal(number) for number in handlers}
    # what is ignored stays so, as Ctrl-C in the background of a shell and SIGHUP under nohup
    heeded = [number for number in handlers if before[number] not in (None, signal.SIG_IGN)]
    sys.unraisablehook = heed
    try:
        for number in heeded:
            signal.signal(number, handlers[number])
        yield
    finally:
        sys.unraisablehook = hook
        for number in heeded:
            signal.signal(number, before[number])


def begin_in_time(seconds, function, *arguments):
    """Call a function after so many seconds, if the process is there still."""
    timer = threading.Timer(seconds, function, arguments)
    timer.daemon = True
    timer.start()


def stop(go_on):
    """Say that the script was stopped, and end the process here and now.

    Threads of the backend's may be at work still, and would meet a Python that is being taken apart: a segmentation
    fault, now and then.
    """
    with contextlib.suppress(OSError, ValueError):  # nobody reads it any more
        print(f"\nstopped: every file written is whole; {go_on}", file=sys.stderr)
        if sys.stdout.isatty():
            print(SHOW_CURSOR, end="")  # which a progress bar hides
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(EXIT_OF_SIGNALS + (STOP.signal or signal.SIGINT))


LOG_WIDTH = 160  # characters of a table where there is no terminal


def print_table(title, header, rows):
    """Print a table of texts: the first column to the left, numbers to the right, as many columns as fit."""
    width = Console().width if sys.stdout.isatty() else LOG_WIDTH
    widths = [max(map(len, column)) + 2 for column in zip(header, *rows, strict=True)]
    fit = max(1, sum(sum(widths[: count + 1]) <= width for count in range(len(widths))))
    table = Table(box=None, title=title, title_justify="left", title_style="bold", pad_edge=False)
    for number, name in enumerate(header[:fit]):
        table.add_column(Text(name), justify="right" if number else "left", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row[:fit]))
    print()
    Console(width=width).print(table)
    if fit < len(header):
        left = counted(len(header) - fit, "more column")
        print(f"({left} {'does' if len(header) - fit == 1 else 'do'} not fit: {', '.join(header[fit:])})")


class Progress:
    """How far a long piece of work is, within `with`: a bar on a terminal, a line now and then in a log.

    Args:
        label: str, what is counted, for example "photos".
        total: int, how many there will be.
        seconds_between_lines: float, how often a log gets a line.
    """

    current, begun, share = None, 0.0, 1.0  # the one that is shown, and the part of its next count that is being done

    def __init__(self, label, total, seconds_between_lines=30):
        self.label, self.total, self.seconds_between_lines = label, total, seconds_between_lines
        self.done, self.outer = 0, Progress.current
        self.bar = TerminalProgress(*BAR_COLUMNS) if sys.stdout.isatty() else None

    def __enter__(self):
        STOP.works += 1
        Progress.current = self
        self.start = self.last_line = time.monotonic()
        if self.bar:
            self.bar.start()
            self.task = self.bar.add_task(self.label, total=self.total)
        return self

    def __exit__(self, *error):
        STOP.works -= 1
        Progress.current = self.outer
        if self.bar:
            self.bar.stop()

    def advance(self, count=1):
        """Count `count` more as done; where the script was asked to end, it does so here."""
        self.done += count
        end_if_asked()
        self.show(self.done)

    @classmethod
    def within(cls, count):
        """Show that so much, a float, of what will be counted next is done, where something long is being counted."""
        if cls.current:
            cls.current.show(min(cls.current.done + cls.begun + cls.share * count, cls.current.total))

    @classmethod
    @contextlib.contextmanager
    def part(cls, number, count):
        """Let what is done `within` be the part of that number, from 0, of `count` equal ones; parts may have parts."""
        outer = cls.begun, cls.share
        cls.begun, cls.share = cls.begun + number * cls.share / count, cls.share / count
        try:
            yield
        finally:
            cls.begun, cls.share = outer

    def show(self, done):
        """Show how much is done, a float within an item."""
        if self.bar:
            self.bar.update(self.task, completed=done)
            return
        now = time.monotonic()
        if now - self.last_line >= self.seconds_between_lines and 0 < done < self.total:
            left = (now - self.start) / done * (self.total - done)
            shown = f"{done:,}" if isinstance(done, int) else f"{done:,.2f}"
            print(f"{self.label}: {shown} of {self.total:,}, {left:,.0f} s left", flush=True)
            self.last_line = now
