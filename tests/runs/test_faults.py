"""Disks that are read-only, or gone in the middle of a run, clocks that jump: one line, and nothing lost."""

import os
import shutil
import subprocess
import time

import pytest
from conftest import read_csv

from camlib.runs import folder_run

pytestmark = pytest.mark.any_backend


@pytest.fixture
def read_only_disk(tmp_path):
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", place], capture_output=True).returncode:
        pytest.skip("no right to mount a file system")
    yield place
    subprocess.run(["umount", place], check=True)


@pytest.mark.parametrize("script", ["make_cam_maps.py", "gradcam_vgg16.py", "evaluate_maps.py", "train_cam_4class.py"])
def test_a_disk_that_is_read_only(run_here, photo_folder, small_network, read_only_disk, script):
    photos = photo_folder({f"{name}/{number}.png": (number, 90, 90) for name in ("dog", "cat") for number in range(3)})
    place = read_only_disk
    words = {
        "make_cam_maps.py": (photos, "--model", small_network, "--output", place / "m"),
        "gradcam_vgg16.py": (photos, "--weights", small_network, "--output", place / "m"),
        "evaluate_maps.py": (photos, "--maps", f"{small_network}:cam", "--only", "network", "--output", place / "m"),
        "train_cam_4class.py": ("--data", photos, "--output", place / "net.h5", "--epochs", 1),
    }[script]
    result = run_here(script, *words)
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert result.stderr.startswith("error: ") and "Read-only file system" in result.stderr
    assert list(place.iterdir()) == []


def test_a_folder_that_is_gone_in_the_middle_of_a_run(run_here, photo_folder, small_network, tmp_path, monkeypatch):
    """As of a network drive that is cut off; nothing is written elsewhere, and the same command begins again."""
    photos = photo_folder({f"{number}.png": (number, 90, 90) for number in range(8)})
    add_rows = folder_run.FolderRun.add_rows

    def add_and_lose(self, *arguments):
        add_rows(self, *arguments)
        shutil.rmtree(tmp_path / "maps")
        (tmp_path / "maps").write_text("")  # no folder any more, nor one that could be made

    command = ("make_cam_maps.py", photos, "--model", small_network, "--output", tmp_path / "maps", "--batch-size", 4)
    with monkeypatch.context() as patched:
        patched.setattr(folder_run.FolderRun, "add_rows", add_and_lose)
        result = run_here(*command)
    assert result.returncode == 2 and result.stderr.count("\n") == 1 and result.stderr.startswith("error: ")
    assert str(tmp_path / "maps") in result.stderr and (tmp_path / "maps").read_text() == ""
    (tmp_path / "maps").unlink()
    assert run_here(*command).returncode == 0
    assert len(read_csv(tmp_path / "maps" / "predictions.csv")) == 8


def test_a_clock_that_jumps_redoes_nothing(run_here, photo_folder, small_network, tmp_path, monkeypatch):
    """Photos dated before 1980, now and in 2100, done while the clock stood a year ahead."""
    photos = photo_folder({f"{number}.png": (number, 90, 90) for number in range(3)})
    for name, moment in (("0.png", 86_400), ("2.png", 4_102_444_800)):
        os.utime(photos / name, (moment, moment))
    command = ("make_cam_maps.py", photos, "--model", small_network, "--output", tmp_path / "maps")
    now = time.time
    with monkeypatch.context() as patched:
        patched.setattr(time, "time", lambda: now() + 365 * 86_400)
        assert run_here(*command).returncode == 0
    assert "3 of 3 photos are done already" in run_here(*command).stdout
