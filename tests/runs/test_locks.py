"""One process at a time writes to a folder: real processes, one of them killed."""

import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT, ended_within

from camlib.console import UserError
from camlib.files import HOLDER, only_writer, refuse_if_held

pytestmark = pytest.mark.any_backend

HOLD = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
sys.argv[0] = "make_cam_maps.py"
from camlib.files import only_writer
with only_writer(Path(sys.argv[2]), sys.argv[3]):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def holding(tmp_path):
    """holding(name) -> a process that writes to tmp_path/run, or to some files of it, until it reads a line."""
    processes = []

    def start(name=""):
        command = [sys.executable, "-c", HOLD, str(ROOT), str(tmp_path / "run"), name]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        processes.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def test_a_second_writer_is_told_who_the_first_is(holding, tmp_path):
    process = holding()
    words = f"being written by make_cam_maps.py, process {process.pid} on .* since 20..-..-.. .*; expected another"
    with pytest.raises(UserError, match=words), only_writer(tmp_path / "run"):
        pass
    assert json.loads((tmp_path / "run" / HOLDER).read_text())["process"] == process.pid  # not ours
    process.communicate("\n")
    with only_writer(tmp_path / "run"):
        pass
    assert not (tmp_path / "run").exists()  # nothing was written there


def test_a_killed_writer_holds_nothing(holding, tmp_path):
    process = holding()
    process.kill()
    process.wait()
    assert (tmp_path / "run" / HOLDER).exists()  # it could not remove it
    with only_writer(tmp_path / "run"):
        assert json.loads((tmp_path / "run" / HOLDER).read_text())["process"] != process.pid


def test_whether_there_is_a_writer_is_seen_without_being_in_the_way(holding, tmp_path):
    run = tmp_path / "run"
    refuse_if_held(run)
    assert not run.exists()
    process = holding("a")
    refuse_if_held(run)
    refuse_if_held(run, "b*")
    with pytest.raises(UserError, match="run/a is being written by"):
        refuse_if_held(run, "a*")
    process.kill()
    process.wait()
    assert (run / ".a.lock").exists()
    refuse_if_held(run, "a*")


def test_files_of_other_names_are_written_meanwhile(holding, tmp_path):
    holding("a")
    with only_writer(tmp_path / "run", "b"):
        pass
    with pytest.raises(UserError, match="run/a is being written by"), only_writer(tmp_path / "run", "a"):
        pass


def test_whatever_is_written_about_the_first_the_line_is_one(holding, tmp_path):
    holding()
    for content in ("", "[]", "{", '{"command": [], "host": 1}', '{"command": ["a\\u001b[31m"]}'):
        (tmp_path / "run" / HOLDER).write_text(content)
        with (
            pytest.raises(UserError, match="being written by another process; expected"),
            only_writer(tmp_path / "run"),
        ):
            pass


def test_a_writer_that_cannot_say_who_it_is_holds_nothing(tmp_path, monkeypatch):
    def full(path, record):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("camlib.files.write_json", full)
        with pytest.raises(OSError, match="No space left"), only_writer(tmp_path / "run"):
            pass
    with only_writer(tmp_path / "run"):
        pass


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no such pipes")
def test_a_lock_that_is_a_pipe_is_not_waited_for(tmp_path):
    (tmp_path / "run").mkdir()
    os.mkfifo(tmp_path / "run" / ".lock")
    with ended_within(20), pytest.raises(UserError, match="lock is no file; expected"), only_writer(tmp_path / "run"):
        pass
