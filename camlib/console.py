"""How the scripts speak: one-line errors, exit codes, progress on a terminal and in a log."""

import argparse
import re
import sys
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as TerminalProgress
from rich.table import Table
from rich.text import Text

COLUMNS = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())

EXIT_SOME_FAILED = 1
EXIT_BAD_USAGE = 2
EXIT_INTERRUPTED = 130  # what a shell reports for a program ended by Ctrl-C


class UserError(Exception):
    """Something the user can mend; the message says what was found, what was expected and what to do."""


LONGEST_REASON = 120  # characters of another library's words in a message of our own


def first_line(error):
    """The innermost reason in an exception's message, as part of a UserError's, which is one line.

    Keras repeats a message at each level that it passes through, behind the whole configuration of a layer.
    """
    text = str(error).strip() or type(error).__name__
    reason = re.split(r"Exception encountered:|Example error message for object .*:", text)[-1]
    line = (reason.strip() or text).splitlines()[0]
    return line if len(line) <= LONGEST_REASON else f"{line[: LONGEST_REASON - 3]}..."


class ArgumentParser(argparse.ArgumentParser):
    """argparse with the script's own docstring as help, its defaults shown, and one-line errors."""

    def __init__(self, description):
        super().__init__(description=description, formatter_class=HelpFormatter)

    def error(self, message):
        self.exit(EXIT_BAD_USAGE, f"error: {message}; see python {sys.argv[0]} --help\n")

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


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the docstring's line breaks and appends each default."""


def run_script(main, go_on="the same command goes on from here"):
    """Run `main()` and turn its outcome into an exit code: its own, 2 for a user's error, 130 for Ctrl-C.

    An error of the operating system (a full disk, a folder that may not be written) is the user's to mend as well.
    `go_on` tells who pressed Ctrl-C how to continue.
    """
    sys.stdout.reconfigure(errors="backslashreplace")  # a file's name need not be UTF-8
    try:
        sys.exit(main())
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_BAD_USAGE)
    except KeyboardInterrupt:
        print(f"\nstopped: every file written is whole; {go_on}", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)


LOG_WIDTH = 160  # characters of a table where there is no terminal


def print_table(title, header, rows):
    """Print a table: the first column to the left, numbers to the right, as many columns as fit.

    Args:
        title: str.
        header: list of str.
        rows: list of lists of str.
    """
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
        print(f"({len(header) - fit} more columns do not fit: {', '.join(header[fit:])})")


class Progress:
    """How far a long piece of work is: a bar on a terminal, a line now and then in a log.

        with Progress("photos", total) as progress:
            progress.advance(32)

    Args:
        label: str, what is counted, for example "photos".
        total: int, how many there will be.
        seconds_between_lines: float, how often a log gets a line.
    """

    def __init__(self, label, total, seconds_between_lines=30):
        self.label, self.total, self.seconds_between_lines = label, total, seconds_between_lines
        self.done = 0
        self.bar = TerminalProgress(*COLUMNS) if sys.stdout.isatty() else None

    def __enter__(self):
        self.start = self.last_line = time.monotonic()
        if self.bar:
            self.bar.start()
            self.task = self.bar.add_task(self.label, total=self.total)
        return self

    def __exit__(self, *error):
        if self.bar:
            self.bar.stop()

    def advance(self, count=1):
        """Count `count` more as done."""
        self.done += count
        if self.bar:
            self.bar.advance(self.task, count)
            return
        now = time.monotonic()
        if now - self.last_line >= self.seconds_between_lines and self.done < self.total:
            left = (now - self.start) / self.done * (self.total - self.done)
            print(f"{self.label}: {self.done:,} of {self.total:,}, {left:,.0f} s left", flush=True)
            self.last_line = now
