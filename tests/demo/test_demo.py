"""Tests of the drawn demo set, on a few pictures.

    python -m pytest tests/demo/test_demo.py

takes about 5 s.
"""

import functools
import hashlib
import json
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from camlib.console import UserError
from camlib.demo import scenes
from camlib.demo.scenes import CLASSES, PAIRS, draw_demo, draw_scene
from camlib.files import BeingWritten, only_writer

pytestmark = pytest.mark.any_backend

ROOT = Path(__file__).resolve().parents[2]
COUNTS = {"train": 2, "val": 1, "both": 6, "size": 64}


def digests(folder):
    """Return dict of relative path -> SHA-256 of the file, for all files under the folder."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def read_mask(path):
    """Return the mask as uint8 (H, W)."""
    with Image.open(path) as image:
        assert image.mode == "L"
        return np.array(image)


def tight_box(mask):
    """Return [x0, y0, x1, y1] of the nonzero pixels, x1 and y1 exclusive, found without the drawing code."""
    ys, xs = np.nonzero(mask)
    return [int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1]


def run_script(*arguments):
    """Run the script from another folder and return the finished process."""
    command = [sys.executable, ROOT / "data" / "draw_demo.py", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT.parent, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "set"
    assert draw_demo(folder, seed=7, **COUNTS) == {"train": 8, "val": 4, "both": 6, "masks": 24}
    return folder


def test_layout(demo):
    expected = {"annotations.json"}
    for name in CLASSES:
        for split in ("train", "val"):
            for index in range(COUNTS[split]):
                stem = f"{split}/{name}/{name}_{index:03d}"
                expected |= {f"{stem}.jpg", f"masks/{stem}.png"}
    for index, pair in enumerate(PAIRS):  # six pictures, so each pair once
        expected |= {f"both/both_{index:03d}.jpg"}
        expected |= {f"masks/both/both_{index:03d}_{name}.png" for name in pair}
    assert set(digests(demo)) == expected
    assert [path.name for path in demo.parent.iterdir()] == ["set"]  # the temporary folder is gone


def test_seed_decides_every_byte(demo, tmp_path):
    draw_demo(tmp_path / "same", seed=7, **COUNTS)
    assert digests(tmp_path / "same") == digests(demo)
    draw_demo(tmp_path / "other", seed=8, **COUNTS)
    others = digests(tmp_path / "other")
    assert not [name for name, digest in digests(demo).items() if others[name] == digest]


def test_picture_does_not_depend_on_the_counts(demo, tmp_path):
    draw_demo(tmp_path / "fewer", seed=7, train=1, val=1, both=2, size=64)
    fewer, all_files = digests(tmp_path / "fewer"), digests(demo)
    del fewer["annotations.json"]
    assert fewer.items() <= all_files.items()


def test_annotations_are_the_tight_boxes_of_binary_masks(demo):
    records = json.loads((demo / "annotations.json").read_text(encoding="utf-8"))
    assert len(records) == 24
    for record in records:
        assert list(record) == ["file", "class", "boxes", "mask", "width", "height"]
        mask = read_mask(demo / record["mask"])
        with Image.open(demo / record["file"]) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (64, 64))
        assert mask.dtype == np.uint8 and mask.shape == (record["height"], record["width"]) == (64, 64)
        assert set(np.unique(mask)) == {0, 255}
        assert record["boxes"] == [tight_box(mask)]
        assert record["class"] in Path(record["mask"]).stem


@pytest.mark.parametrize("name", CLASSES)
def test_mask_is_where_the_animal_covers_half_a_pixel(name):
    for index in range(6):
        scene = draw_scene(np.random.default_rng([index, CLASSES.index(name)]), (name,), 128)
        mask = scene.masks[name]
        assert list(scene.masks) == [name]
        assert np.array_equal(mask == 255, scene.coverage >= 0.5)
        untouched = scene.coverage == 0
        assert np.array_equal(scene.image[untouched], scene.background[untouched])
        change = np.abs(scene.image.astype(int) - scene.background).max(axis=2)
        assert np.mean(change[mask == 255] > 8) > 0.9
        x0, y0, x1, y1 = tight_box(mask)
        assert 0.45 <= max(x1 - x0, y1 - y0) / 128 <= 0.85


def test_background_does_not_depend_on_the_class():
    scenes = [draw_scene(np.random.default_rng(3), (name,), 64) for name in CLASSES]
    assert all(np.array_equal(scene.background, scenes[0].background) for scene in scenes)


@pytest.mark.parametrize("pair", PAIRS)
def test_two_animals_do_not_overlap(pair):
    for index in range(2):
        scene = draw_scene(np.random.default_rng([index, PAIRS.index(pair)]), pair, 128)
        first, second = (scene.masks[name] for name in pair)
        assert pair[0] != pair[1]
        assert first.any() and second.any() and not np.any((first > 0) & (second > 0))
        for mask in (first, second):
            x0, y0, x1, y1 = tight_box(mask)
            assert 0.35 <= max(x1 - x0, y1 - y0) / 128 <= 0.55


def test_older_set_is_replaced(tmp_path):
    draw_demo(tmp_path / "set", train=2, val=1, both=0, size=32)
    draw_demo(tmp_path / "set", train=1, val=1, both=0, size=32)
    assert not (tmp_path / "set" / "train" / "dog" / "dog_001.jpg").exists()


def test_foreign_folder_is_left_alone(tmp_path):
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("years of work")
    result = run_script("--output", foreign, "--train", 1, "--val", 1, "--both", 0)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr == (
        f"error: {foreign} holds files but no annotations.json, expected a demo set or nothing; "
        "choose another folder with --output or move this one away\n"
    )
    assert (foreign / "thesis.txt").read_text() == "years of work"
    (foreign / "annotations.json").write_text("[]")
    with pytest.raises(UserError, match=r"holds thesis\.txt, which no demo set has"):
        draw_demo(foreign, train=1, val=1, both=0)
    assert (foreign / "thesis.txt").read_text() == "years of work"


def test_bad_count_is_one_line():
    result = run_script("--train", "-3")
    assert result.returncode == 2
    assert re.fullmatch(
        r"error: argument --train: found '-3', expected a whole number from 1 to 10000; "
        r"see python \S*draw_demo.py --help\n",
        result.stderr,
    )


def test_command_line_says_what_was_written(tmp_path):
    result = run_script("--output", tmp_path / "set", "--train", 1, "--val", 1, "--both", 1, "--size", 64)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == [
        f"wrote 4 train, 4 val and 1 both pictures, 10 masks and annotations.json to {tmp_path / 'set'}",
        f"next: python {ROOT.name}/make_cam_maps.py {tmp_path}/set/val --output outputs/cam_of_set",
    ]


def test_demo_folder_draws_only_what_is_missing(tmp_path, monkeypatch, capsys):
    few = functools.partial(draw_demo, train=1, val=1, both=1, size=32)
    monkeypatch.setattr(scenes, "draw_demo", few)
    monkeypatch.setattr(scenes, "DEMO_FOLDER", tmp_path / "demo")
    folder = scenes.demo_folder()
    assert folder == tmp_path / "demo" and (folder / "annotations.json").is_file()
    assert len(capsys.readouterr().out.splitlines()) == 1
    written = digests(folder)
    assert scenes.demo_folder() == folder
    assert capsys.readouterr().out == ""
    (folder / "annotations.json").unlink()
    (folder / "val" / "dog" / "dog_000.jpg").unlink()
    scenes.demo_folder()
    assert digests(folder) == written


def test_what_a_killed_process_left_behind_is_gone(tmp_path):
    left = tmp_path / ".demo.partial" / "new" / "train"
    left.mkdir(parents=True)
    (left / "dog_000.jpg").write_bytes(b"half")
    draw_demo(tmp_path / "demo", train=1, val=1, both=1, size=32)
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]


def test_a_set_is_drawn_by_one_process_at_a_time(tmp_path, monkeypatch, capsys):
    """A second command is told in one line; a script that needs the set waits for it."""
    few = functools.partial(draw_demo, train=1, val=1, both=1, size=32)
    monkeypatch.setattr(scenes, "draw_demo", few)
    monkeypatch.setattr(scenes, "DEMO_FOLDER", tmp_path / "demo")
    with only_writer(tmp_path, "demo"), ThreadPoolExecutor() as pool:
        with pytest.raises(BeingWritten, match="demo is being written by"):
            few(tmp_path / "demo")
        sleep = time.sleep
        monkeypatch.setattr(scenes.time, "sleep", lambda seconds: sleep(seconds / 20))
        waiting = pool.submit(scenes.demo_folder)
        sleep(0.3)
        assert not waiting.done() and not (tmp_path / "demo").exists()
        few.func(tmp_path / "other", train=1, val=1, both=1, size=32)
        (tmp_path / "other").rename(tmp_path / "demo")
    assert waiting.result(timeout=60) == tmp_path / "demo"
    assert capsys.readouterr().out.count("drawing the demo set") == 1  # however often it looked
