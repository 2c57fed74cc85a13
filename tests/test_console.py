"""How the scripts speak: tables on the terminal, and what they say when they are ended."""

import os
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT, ended_within

from camlib import console
from camlib.console import Progress
from camlib.photos import PhotoError
from camlib.runs.maps import MapError

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


@pytest.mark.parametrize("kind", [console.UserError, PhotoError, MapError])
def test_a_message_is_one_line_whatever_names_are_in_it(kind):
    odd = str(kind("a\nb\x1b[2J\u202eg\0\x85 " + "c" * 5000 + " expected d"))
    assert odd.isprintable() and len(odd) < 400 and odd.startswith("a\\nb\\x1b[2J") and odd.endswith(" expected d")
    assert len(str(kind("c " * 50_000))) < 2100
    plain = f"{'d' * 255}/héé ☂.jpg does not exist; expected a photo"
    assert str(kind(plain)) == plain


def test_errors_of_the_system_are_one_line(end_of):
    def raises(_):
        raise OSError(22, "Invalid", "a\nb" * 2000)

    code, said = end_of(raises, [])
    assert code == 2 and said.startswith("error: [Errno 22]") and said.count("\n") == 1 and len(said) < 400


@pytest.mark.parametrize("text", ["Example error message for object ", "Exception encountered:", "a:\n"])
def test_the_reason_in_a_long_message_is_found_soon(text):
    with ended_within(20):
        assert len(console.first_line(ValueError(text * (4_000_000 // len(text))))) <= console.LONGEST_REASON


def test_the_reason_of_traced_code_is_its_last_line():
    text = 'in user code:\n\n    File "/a.py", line 1, in call  *\n        x + y\n\n    ValueError: shapes differ\n'
    assert console.first_line(ValueError(text)) == "ValueError: shapes differ"


# ---------------------------------------------------------------- streams

WRITES = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from camlib.console import UserError, run_script

def main():
    print("a line" * int(sys.argv[2]))
    print("another", file=sys.stderr)
    with open(sys.argv[1], "w") as file:
        print("and more")
        file.write("whole")
    if sys.argv[3:]:
        raise UserError("found; expected")
    return 0

run_script(main)
"""


@pytest.mark.skipif(os.name == "nt", reason="the redirections are those of sh")
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&-", "<&- >&- 2>&-", "<&- 2>&-"])
@pytest.mark.parametrize("code", [0, 2])
def test_closed_streams_change_nothing(tmp_path, closed, code):
    """As under cron, or a daemon; what is printed does not end in the file that is opened next."""
    words = [sys.executable, "-c", WRITES, str(tmp_path / "file"), "1", *["error"] * (code > 0)]
    ended = subprocess.run(["sh", "-c", f'"$@" {closed}', "sh", *words], capture_output=True, text=True, timeout=60)
    assert ended.returncode == code and (tmp_path / "file").read_text() == "whole", ended
    assert ended.stdout == ("" if " >&-" in f" {closed}" else "a line\nand more\n")
    assert ended.stderr == ("" if "2>" in closed else "another\n" + "error: found; expected\n" * (code > 0))


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signal")
@pytest.mark.parametrize("count", [1, 100_000])
def test_a_broken_pipe_ends_the_script_quietly(tmp_path, count):
    words = [sys.executable, "-c", WRITES, str(tmp_path / "file"), str(count)]
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run(words, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(writer)
    assert ended.returncode == 128 + signal.SIGPIPE and ended.stderr in ("", "another\n")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux has this device")
def test_a_full_disk_under_what_is_printed_is_one_line(tmp_path):
    with open("/dev/full", "w") as full:
        words = [sys.executable, "-c", WRITES, str(tmp_path / "file"), "1"]
        ended = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert ended.returncode == 2 and "error: a file could not be written (No space" in ended.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux has this device")
def test_an_error_that_cannot_be_printed_has_its_exit_code_all_the_same(tmp_path):
    fails = "from camlib.console import run_script, UserError\ndef main(): raise UserError('a')\nrun_script(main)"
    with open("/dev/full", "w") as full:
        assert subprocess.run([sys.executable, "-c", fails], stderr=full, cwd=ROOT, timeout=60).returncode == 2


@pytest.mark.parametrize(
    ("name", "words"), [("MPLBACKEND", "Key backend: 'bogus' is not"), ("MATPLOTLIBRC", "'utf-8' codec can't decode")]
)
def test_what_lets_matplotlibs_import_fail_is_one_line(run_script, run_folder, tmp_path, name, words):
    (tmp_path / "matplotlibrc").write_bytes(b"lines.linewidth: \xff\n")
    value = "bogus" if name == "MPLBACKEND" else str(tmp_path / "matplotlibrc")
    ended = run_script("show_heatmaps.py", run_folder, "--html", tmp_path / "a.html", environment={name: value})
    *of_matplotlib, last = ended.stderr.splitlines()
    assert ended.returncode == 2 and last.startswith("error: Matplotlib refuses MPLBACKEND=") and words in last
    assert len(of_matplotlib) == (name == "MATPLOTLIBRC")  # which file it cannot decode


@pytest.mark.parametrize("flag", ["-I", "-P"])
@pytest.mark.parametrize("script", sorted(path.name for path in ROOT.glob("*.py")))
def test_an_isolated_python_finds_what_lies_beside_the_script(script, flag, tmp_path):
    words = [sys.executable, flag, str(ROOT / script), "--help"]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "") and ended.stdout.startswith("usage: ")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such pipes")
def test_settings_of_keras_that_are_a_pipe_are_not_waited_for(run_script, tmp_path):
    os.mkfifo(tmp_path / "keras.json")
    ended = run_script("make_cam_maps.py", "--output", tmp_path / "o", environment={"KERAS_HOME": str(tmp_path)})
    assert ended.returncode == 2 and ended.stderr.startswith("error: Keras cannot start (no file, but a folder, a pipe")


@pytest.mark.skipif(os.name == "nt", reason="Windows removes no folder in use")
def test_a_folder_that_was_removed_is_named(tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    words = [sys.executable, "-c", WRITES, str(tmp_path / "file"), "1"]
    command = 'cd "$1"; rmdir "$1"; shift; "$@"'
    ended = subprocess.run(["sh", "-c", command, "sh", gone, *words], capture_output=True, text=True, timeout=60)
    expected = f"error: the folder {gone} is not there any more; expected one that is: cd to it\n"
    assert (ended.returncode, ended.stderr) == (2, expected)


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


def test_progress_within_a_photo(capsys):
    """A log says how far a long one is, and how long is left; a bar beneath another gives way to it again."""
    Progress.within(0.5)  # of nothing that is counted
    with Progress("photos", 4, seconds_between_lines=0) as progress:
        progress.advance()
        Progress.within(0.25)
        with Progress("parts", 2, seconds_between_lines=0):
            Progress.within(1.5)
        for number in range(2):
            with Progress.part(1, 2), Progress.part(number, 4):
                Progress.within(0.5)
        Progress.within(0.5)
        Progress.within(9.0)
    Progress.within(0.5)
    said = [line.split(",")[0] for line in capsys.readouterr().out.splitlines()]
    parts = [f"photos: {share:.2f} of 4" for share in (1 + 0.5 + 0.125 / 2, 1 + 0.5 + 0.125 * 1.5, 1.5)]
    assert said == ["photos: 1 of 4", "photos: 1.25 of 4", "parts: 1.50 of 2", *parts]


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
