"""HDF5 files of killed writers: read as they are, and damaged ones told at once."""

import os
import signal
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest

from camlib.runs.store import read_as_it_is, was_closed

pytestmark = pytest.mark.any_backend

WRITE = """
import os, signal, sys, h5py, numpy as np
with h5py.File(sys.argv[1], "w", libver=("v110", "v110")) as file:
    file.create_dataset("a", (0,), "f8", maxshape=(None,), chunks=(64,))
file = h5py.File(sys.argv[1], "a", libver=("v110", "v110"))
file.swmr_mode = True
for number in range(40):
    file["a"].resize((number + 1) * 50, axis=0)
    file["a"][number * 50:] = number
    file.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    path = tmp_path_factory.mktemp("killed") / "a.h5"
    assert subprocess.run([sys.executable, "-c", WRITE, str(path)]).returncode == -signal.SIGKILL
    return path


def test_a_killed_writers_file_is_read_whole(killed):
    assert not was_closed(killed)
    with pytest.raises(OSError, match="already open"):
        h5py.File(killed)
    before = killed.read_bytes()
    with read_as_it_is(killed) as file:
        np.testing.assert_array_equal(file["a"], np.repeat(np.arange(40.0), 50))
    assert killed.read_bytes() == before


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.97])
def test_a_damaged_one_is_an_error_at_once(killed, tmp_path, share):
    """In HDF5's mode for many readers some of these wait for ever."""
    data = killed.read_bytes()
    (tmp_path / "cut.h5").write_bytes(data[: int(len(data) * share)])
    began = time.monotonic()
    try:
        with read_as_it_is(tmp_path / "cut.h5") as file:
            file["a"][()]
    except (OSError, KeyError, RuntimeError):
        pass
    assert time.monotonic() - began < 60  # not that it waits for ever


def test_what_is_no_such_file_was_closed(tmp_path):
    for content in (b"", b"text", b"\x89HDF\r\n\x1a\n", os.urandom(100)):
        (tmp_path / "a").write_bytes(content)
        assert was_closed(tmp_path / "a")
    for version in ("earliest", "v110"):
        with h5py.File(tmp_path / "b", "w", libver=(version, "v110")) as file:
            file["a"] = 1
        assert was_closed(tmp_path / "b")
