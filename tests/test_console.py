"""How the scripts speak: tables on the terminal, and what they say when they are ended."""

import os
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT

from camlib import console

pytestmark = pytest.mark.any_backend
HEADER, ROWS = ["map", "pointing", "energy"], [["cam", "0.915", "1.5"], ["grad-cam [block3]", "0.7", "10.25"]]


def test_numbers_are_aligned_and_names_are_text(capsys):
    console.print_table("Where [b]maps[/b] lie", HEADER, ROWS)
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert "grad-cam [block3]       0.7   10.25" in lines
    assert "cam                   0.915     1.5" in lines
    assert "map                pointing  energy" in lines


def test_columns_that_do_not_fit_are_named(capsys, monkeypatch):
    monkeypatch.setattr(console, "LOG_WIDTH", 30)
    console.print_table("narrow", HEADER, ROWS)
    out = capsys.readouterr().out
    assert "10.25" not in out and "0.915" in out
    assert out.splitlines()[-1] == "(1 more column does not fit: energy)"


# ---------------------------------------------------------------- ended by a signal

LONG = 600  # seconds that nothing here takes
WORK = """
import sys, time
from pathlib import Path
from camlib import console
from camlib.console import Progress, run_script

console.SECONDS_TO_FINISH = float(sys.argv[3])

def main():
    with Progress("photos", 1000) as progress:
        for number in range(1000):
            Path(sys.argv[1], f"{number}.begun").touch()
            time.sleep(0.2)
            Path(sys.argv[1], f"{number}.done").touch()
            progress.advance()

def wait():
    Path(sys.argv[1], "0.begun").touch()
    for _ in range(6000):  # in short steps, for the reason that test_help.py gives
        time.sleep(0.1)
        if console.STOP.signal:
            Path(sys.argv[1], "asked").touch()

def stuck():
    with Progress("photos", 1):
        wait()

run_script({"main": main, "wait": wait, "stuck": stuck}[sys.argv[2]])
"""
SENTENCE = "\nstopped: every file written is whole; the same command goes on from here\n"
posix = pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals to send to a process")


def begun(folder, what="main", under=(), patience=LONG):
    """A process of WORK, once its first piece of work is under way, which gets so many seconds to finish it."""
    command = [*under, sys.executable, "-c", WORK, str(folder), what, str(patience)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    wait_for(folder / "0.begun", process)
    return process


def wait_for(path, process):
    while not path.exists() and process.poll() is None:
        time.sleep(0.01)


def ended_by(number, folder, what="main", again=False, **settings):
    """(exit code, stderr) of a script that got a signal, and then another, while a piece of work was under way."""
    process = begun(folder, what, **settings)
    process.send_signal(number)
    if again:
        wait_for(folder / "asked", process)
        process.send_signal(number)
    _, said = process.communicate(timeout=60)
    return process.returncode, said


@posix
@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_scheduler_lets_the_batch_be_finished(tmp_path, name, code):
    assert ended_by(getattr(signal, name), tmp_path) == (code, SENTENCE)
    assert len(list(tmp_path.glob("*.begun"))) == len(list(tmp_path.glob("*.done"))) >= 1


@posix
def test_who_asks_twice_or_where_there_are_no_batches_is_not_kept_waiting(tmp_path):
    for folder, what, again in ((tmp_path / "twice", "stuck", True), (tmp_path / "none", "wait", False)):
        folder.mkdir()
        assert ended_by(signal.SIGTERM, folder, what, again) == (143, SENTENCE)


@posix
def test_a_batch_that_takes_too_long_is_not_waited_for(tmp_path):
    start = time.monotonic()
    assert ended_by(signal.SIGTERM, tmp_path, "stuck", patience=1.5) == (143, SENTENCE)
    assert time.monotonic() - start > 1.5


@posix
def test_what_is_ignored_stays_so(tmp_path):
    """As SIGHUP under nohup."""
    process = begun(tmp_path, under=["nohup"])
    process.send_signal(signal.SIGHUP)
    wait_for(tmp_path / "2.done", process)
    assert process.poll() is None
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 143
