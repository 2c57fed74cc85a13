"""Shards: which part is whose, a folder that several processes share, and a run alone that goes on with theirs.

What every run promises, a shard too, is in test_run.py.
"""

import csv
import json
import os
import shutil
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from conftest import ENVIRONMENT, ROOT, make_run
from PIL import Image

import gradcam_vgg16
import make_cam_maps
import show_heatmaps
from camlib.console import UserError
from camlib.photos import Photo
from camlib.runs.maps import find_saved
from camlib.runs.shards import RunPart, Shard, parse_shard, shard_of_slurm

pytestmark = pytest.mark.any_backend
SCRIPTS = {"make_cam_maps.py": (make_cam_maps.main, "--model"), "gradcam_vgg16.py": (gradcam_vgg16.main, "--weights")}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Photos of noise: 11 in three folders, of which two cannot be read."""
    folder, generator = tmp_path_factory.mktemp("shards"), np.random.default_rng(0)
    for name in ("z/a", "z/b", "a/x", "a/y, z", "a/é", "b", "c", "d", "e"):
        path = folder / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (20, 30, 3), np.uint8)).save(path)
    for name in ("a/broken.jpg", "c0.jpg"):
        (folder / name).write_text("no photo")
    return folder


@pytest.fixture
def run_of(small_network, photos, monkeypatch):
    """run_of(output, *more): make_cam_maps.py, or `script`, on the photos, in this process."""

    def run(output, *more, script="make_cam_maps.py"):
        main, option = SCRIPTS[script]
        words = [str(photos), option, str(small_network), "--output", str(output), "--batch-size", "2", *more]
        monkeypatch.setattr(sys, "argv", [script, *words])
        return main(words)

    return run


def contents(folder):
    """What a folder holds: dict of path -> bytes."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def names_in(folder, pattern="predictions*.csv"):
    """The photos in each list of a folder: dict of file name -> list of str."""
    found = {}
    for path in sorted(folder.glob(pattern)):
        with open(path, newline="", encoding="utf-8") as file:
            found[path.name] = [row["path"] for row in csv.DictReader(file)]
    return found


# ---------------------------------------------------------------- which part is whose


def photos_named(count):
    return [Photo(None, f"{number}.png", str(number)) for number in range(count)]


@pytest.mark.parametrize("count", [1, 2, 3, 16])
@pytest.mark.parametrize("of_photos, batch_size", [(1, 1), (7, 2), (100, 8), (64, 32), (33, 32)])
def test_parts_are_the_whole_without_overlap_in_whole_batches(count, of_photos, batch_size):
    photos = photos_named(of_photos)
    parts = [RunPart(Shard(number, count), photos, batch_size).own for number in range(1, count + 1)]
    dealt = [photo for part in parts for photo in part]
    assert sorted(dealt, key=photos.index) == photos and len(set(dealt)) == len(dealt)
    assert max(map(len, parts)) - min(map(len, parts)) <= batch_size
    batches = [photos[first : first + batch_size] for first in range(0, of_photos, batch_size)]
    for part in parts:
        assert [part[first : first + batch_size] for first in range(0, len(part), batch_size)] == [
            batch for batch in batches if batch[0] in part
        ]


def test_what_is_written_after_the_option():
    assert parse_shard("3/16") == (3, 16) and parse_shard("1/1") == (1, 1)
    for text in ("0/4", "5/4", "3", "3/", "/4", "a/b", "-1/4", "1/4/2", "", "1.5/4", "³/4"):
        with pytest.raises(UserError, match=f"--shard {text}: expected its number, from 1"):
            parse_shard(text)


@pytest.mark.parametrize(
    "variables, expected",
    [
        ("ARRAY_TASK_ID=5 ARRAY_TASK_MIN=1 ARRAY_TASK_MAX=16 ARRAY_TASK_COUNT=16", (5, 16)),
        ("ARRAY_TASK_ID=0 ARRAY_TASK_MIN=0 ARRAY_TASK_COUNT=4 PROCID=0 NTASKS=1", (1, 4)),
        ("ARRAY_TASK_ID=8 ARRAY_TASK_MIN=0 ARRAY_TASK_MAX=12 ARRAY_TASK_COUNT=4 ARRAY_TASK_STEP=4", (3, 4)),
        ("PROCID=3 NTASKS=8", (4, 8)),
        ("PROCID=3", None),
        ("", None),
        ("ARRAY_TASK_ID=3", None),
        ("PROCID=x NTASKS=8", None),
        ("ARRAY_TASK_ID=7 ARRAY_TASK_MIN=1 ARRAY_TASK_MAX=7 ARRAY_TASK_COUNT=3", None),
        ("ARRAY_TASK_ID=2 ARRAY_TASK_MIN=1 ARRAY_TASK_COUNT=4 NTASKS=3", None),
    ],
)
def test_what_slurm_says(variables, expected):
    environment = {f"SLURM_{key}": value for key, value in (word.split("=") for word in variables.split())}
    if expected:
        assert shard_of_slurm(environment) == expected
    else:
        with pytest.raises(UserError, match="^--shard slurm: .* do not number the tasks evenly.*; expected a job of"):
            shard_of_slurm(environment)


# ---------------------------------------------------------------- shards of a run are the run


@pytest.mark.parametrize("script", SCRIPTS)
def test_after_shards_a_run_alone_has_the_single_runs_files_byte_for_byte(run_of, script, tmp_path, capsys):
    output = tmp_path / "out"
    assert run_of(output, script=script) == 1  # two photos cannot be read
    single, names = contents(output), names_in(output)["predictions.csv"]
    shutil.rmtree(output)
    codes = {number: run_of(output, "--shard", f"{number}/3", script=script) for number in (3, 1, 2)}
    lists = names_in(output)
    assert sorted(lists) == [f"predictions-{number}-of-3.csv" for number in (1, 2, 3)]
    assert sorted(name for of_shard in lists.values() for name in of_shard) == sorted(names)
    failed = names_in(output, "failed*.csv")
    assert {f"failed-{number}-of-3.csv" for number, code in codes.items() if code} == set(failed)
    assert sum(map(len, failed.values())) == 2
    assert [photo.name for photo in find_saved(output)] == names
    capsys.readouterr()
    assert run_of(output, script=script) == 1
    assert "9 of 11 photos are done already" in capsys.readouterr().out and contents(output) == single


def test_a_shard_goes_on_and_leaves_the_others_lists_alone(run_of, tmp_path, capsys):
    output = tmp_path / "out"
    run_of(output, "--shard", "1/2"), run_of(output, "--shard", "2/2")
    before = contents(output)
    shutil.rmtree(output / "b")
    capsys.readouterr()
    run_of(output, "--shard", "1/2")
    assert "4 of 6 photos are done already" in capsys.readouterr().out
    again = contents(output)
    assert again.keys() == before.keys()
    changed = {name for name in again if again[name] != before[name]}
    assert changed == {"predictions-1-of-2.csv"}  # the photo that was done again comes last


def test_unfinished_shards_can_be_looked_at_and_a_run_alone_does_the_rest(run_of, tmp_path, capsys):
    output = tmp_path / "out"
    run_of(output, "--shard", "1/6"), run_of(output, "--shard", "4/6")
    assert [photo.name for photo in find_saved(output)] == ["b.png", "c.png", "a/x.png", "a/y, z.png"]
    assert show_heatmaps.main([str(output), "--html", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text("utf-8")
    assert "b.png" in page and "a/x.png" in page
    capsys.readouterr()
    assert run_of(output) == 1
    assert "4 of 11 photos are done already" in capsys.readouterr().out
    assert len(find_saved(output)) == 9 and list(names_in(output)) == ["predictions.csv"]
    assert len(names_in(output, "failed*.csv")["failed.csv"]) == 2


def test_a_shard_without_photos_says_so(run_of, tmp_path, capsys):
    assert run_of(tmp_path / "out", "--shard", "9/9") == 0
    said = capsys.readouterr().out
    assert "shard 9/9: 0 of 11 photos, which are 6 batches; a smaller --batch-size gives every shard some" in said
    assert f"next: python show_heatmaps.py {tmp_path / 'out'}" in said


# ---------------------------------------------------------------- what shards agree on


def test_shards_of_other_runs_are_refused_in_one_line(run_of, photos, tmp_path, end_of):
    output, later = tmp_path / "out", photos / "later.png"
    run_of(output, "--shard", "1/3")
    before = contents(output)
    try:
        for more, differs in (
            (["--shard", "1/4"], "count"),
            (["--shard", "2/3", "--size", "24"], "size"),
            (["--shard", "2/3", "--batch-size", "3"], "batch_size"),
            (["--shard", "2/3"], "photos, photos_sha256"),
        ):
            if "photos" in differs:
                later.write_bytes((photos / "b.png").read_bytes())
            with pytest.raises(UserError, match=f"out holds shards of another run .other {differs}.; expected") as why:
                run_of(output, *more)
            assert contents(output) == before and len(str(why.value)) < 300
    finally:
        later.unlink(missing_ok=True)
    code, message = end_of(make_cam_maps.main, ["--shard", "1/3", "--overwrite"])
    assert code == 2 and message.startswith("error: --overwrite with --shard would remove what other shards wrote;")


def test_a_run_that_is_not_in_shards_takes_none(run_of, tmp_path):
    make_run(tmp_path / "single", ["a.jpg"])
    with pytest.raises(UserError, match="single holds a run that is not in shards; expected another folder, or no"):
        run_of(tmp_path / "single", "--shard", "1/2")


def test_a_damaged_record_is_said_in_one_line(run_of, tmp_path, monkeypatch):
    monkeypatch.setattr("camlib.runs.shards.SECONDS_TO_WRITE", 0.1)
    (tmp_path / "run.json").write_text('{"command":')
    for more in ((), ("--shard", "1/2")):
        with pytest.raises(UserError, match="run.json is damaged; expected what a script wrote"):
            run_of(tmp_path, *more)


def test_a_record_that_another_shard_is_writing_is_waited_for(run_of, tmp_path):
    run_of(tmp_path / "out", "--shard", "1/2")
    record = tmp_path / "out" / "run.json"
    whole = record.read_bytes()
    record.write_bytes(whole[: len(whole) // 2])
    writing = threading.Timer(0.5, record.write_bytes, [whole])
    writing.start()
    assert run_of(tmp_path / "out", "--shard", "2/2") == 1
    assert not writing.is_alive() and record.read_bytes() == whole


BEGIN = """
import sys, time
from pathlib import Path
from camlib.photos import Photo
from camlib.attribution import Outputs
from camlib.runs.folder_run import FolderRun
from camlib.runs.shards import RunPart, Shard
number, count, output = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
photos = [Photo(Path("none"), f"{n}.png", str(n)) for n in range(9)]
print("ready", flush=True)
start = float(sys.stdin.readline())
for attempt in range(20):  # as many new folders, entered at one moment
    while time.time() < start + attempt / 20:
        pass
    part = RunPart(Shard(number, count), photos, 2)
    run = FolderRun(output / str(attempt), {"size": 3}, "", Outputs(["a"] * 500), part=part)
    run.resume([])
    (run.output / str(number)).mkdir()
    run.close()
print("went well", flush=True)
"""


@pytest.mark.skipif(os.name == "nt", reason="counts on processes that start quickly")
def test_shards_that_begin_at_one_moment_in_a_new_folder_all_do(tmp_path):
    count = 4
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", BEGIN, str(number), str(count), str(tmp_path)],
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=ROOT,
            env=ENVIRONMENT,
        )
        for number in range(1, count + 1)
    ]
    assert [process.stdout.readline() for process in processes] == ["ready\n"] * count
    start = time.time() + 0.2
    for process in processes:
        process.stdin.write(f"{start}\n")
        process.stdin.flush()
    said = [process.communicate(timeout=60) for process in processes]
    assert all(out.endswith("went well\n") for out, _ in said), said
    for attempt in range(20):
        names = {path.name for path in (tmp_path / str(attempt)).iterdir()}
        numbers = range(1, count + 1)
        assert names == {"run.json", *(f"predictions-{n}-of-4.csv" for n in numbers), *map(str, numbers)}
        assert json.loads((tmp_path / str(attempt) / "run.json").read_text())["shards"]["count"] == count


@pytest.mark.slow
def test_two_shards_at_once_as_a_user_starts_them(small_network, photos, tmp_path):
    words = [sys.executable, ROOT / "make_cam_maps.py", photos, "--model", small_network, "--output", tmp_path / "out"]
    second = {"SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_COUNT": "2"}
    processes = [
        subprocess.Popen(
            [*map(str, words), "--batch-size", "2", "--shard", shard],
            stdout=subprocess.PIPE,
            text=True,
            stderr=subprocess.PIPE,
            env=ENVIRONMENT | slurm,
        )
        for shard, slurm in (("1/2", {}), ("slurm", second))
    ]
    said = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [1, 1], said
    assert "shard 1/2: 6 of 11 photos" in said[0][0] and "shard 2/2: 5 of 11 photos" in said[1][0]
    lists = names_in(tmp_path / "out")
    assert sum(map(len, lists.values())) == 9 and len(set().union(*lists.values())) == 9
    assert len(find_saved(tmp_path / "out")) == 9
