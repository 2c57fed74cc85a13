"""benchmarks/original_claims.py: differences of the same photos, what a map follows, and the whole script."""

import json
import sys

import keras
import numpy as np
import pytest
from conftest import ROOT
from keras import layers
from PIL import Image

from camlib import evaluation
from camlib.networks.checkpoint import save_network
from camlib.preprocessing import InputSpec

sys.path.insert(0, str(ROOT / "benchmarks"))

import original_claims
from original_claims import OURS, comparison, looks, verdict

pytestmark = pytest.mark.any_backend
CLASSES = ["dog", "cat", "horse", "bird"]


def items(values):
    """As `camlib.evaluation.results.merged` makes them, of one score's values."""
    return {
        f"photo{number}#dog": (
            {"pointing": value, "energy": value, "border": value, "edge": value, "grid": [4, 6]},
            {"photo": f"photo{number}", "truth": "masks", "right": True},
        )
        for number, value in enumerate(values)
    }


def test_verdict_is_of_the_same_photos():
    """Two maps whose scores vary far more from photo to photo than they differ on each."""
    generator = np.random.default_rng(0)
    of_photo = generator.random(60)
    ours = {str(number): (value, str(number)) for number, value in enumerate(of_photo)}
    lower = {str(number): (value - 0.1, str(number)) for number, value in enumerate(of_photo)}
    assert verdict(ours, lower, 1, "better", "worse") == "0.100 better (0.100 to 0.100)"
    assert verdict(lower, ours, 1, "better", "worse") == "0.100 worse (0.100 to 0.100)"
    assert verdict(ours, lower, -1, "finer", "coarser") == "0.100 coarser (0.100 to 0.100)"
    noise = {key: (value + generator.normal(), photo) for key, (value, photo) in ours.items()}
    assert verdict(ours, noise, 1, "better", "worse").startswith("cannot be told (-0.")


def test_a_single_photo_decides_nothing():
    assert verdict({"a": (0.9, "a")}, {"a": (0.1, "a")}, 1, "better", "worse") == "cannot be told"
    maps = {OURS: items([0.5]), "other": items([0.2])}
    del maps["other"]["photo0#dog"][0]["edge"]  # as of a map without an edge
    _, (_, other) = comparison(maps, "masks")
    assert other[8:10] == ["-", "cannot be told"]


def test_comparison_takes_each_kind_of_truth_alone():
    maps = {OURS: items([0.5, 0.7, 0.9]), "other": items([0.2, 0.4, 0.6])}
    maps["other"]["photo9#dog"] = ({"grid": [4, 6]}, {"photo": "photo9", "truth": "boxes", "right": True})
    header, (ours, other) = comparison(maps, "masks")
    assert header[:4] == ["map", "cells", "pointing ↑", "CAM is"] and len(header) == len(ours) == len(other)
    assert ours[1:4] == ["4x6", "0.700 (0.500 to 0.900)", ""] and other[-1] == "3"
    assert other[3] == "0.300 better (0.300 to 0.300)" and other[9] == "0.300 coarser (0.300 to 0.300)"
    assert "energy at the border ↑" in header


def test_a_boxs_border_is_not_the_animals():
    maps = {OURS: items([0.5, 0.7, 0.9])}
    for _, about in maps[OURS].values():
        about["truth"] = "boxes"
    header, (ours,) = comparison(maps, "boxes")
    assert "energy at the border ↑" not in header and len(header) == len(ours)


def test_what_a_map_follows():
    generator = np.random.default_rng(0)
    picture = generator.integers(0, 256, (32, 40, 3), np.uint8)
    brightness = picture.mean(axis=2).astype(np.float32)
    frame, likeness, _ = looks(brightness, picture)
    assert likeness == pytest.approx(1) and frame == pytest.approx(1, abs=0.1)
    assert looks(-brightness, picture)[1] == pytest.approx(1)  # of either sign
    inner = np.zeros((32, 40), np.float32)
    inner[4:-4, 5:-5] = 1
    assert looks(inner, picture)[0] == 0
    assert looks(1 - inner, picture)[0] == pytest.approx(32 * 40 / (32 * 40 - 24 * 30))  # all of it, over its area


def save_small_network(path, seed):
    """A pooling-free network of random weights, saved as a file of this project."""
    keras.utils.set_random_seed(seed)
    image = keras.Input((32, 32, 3))
    features = layers.Conv2D(8, 3, activation="relu")(layers.Conv2D(8, 3, activation="relu")(image))
    outputs = layers.Dense(4, "softmax")(layers.GlobalAveragePooling2D()(features))
    save_network(keras.Model(image, outputs), path, InputSpec(CLASSES, 32, 32, 3))
    return path


@pytest.mark.slow
def test_the_whole_script(run_here, tmp_path, monkeypatch):
    """With small networks in place of the shipped ones."""
    generator, records = np.random.default_rng(1), []
    (tmp_path / "set").mkdir()
    for number, name in enumerate(CLASSES):
        image = generator.integers(0, 120, (48, 64, 3)).astype(np.uint8)
        image[10:30, 20:44] += 130
        Image.fromarray(image).save(tmp_path / "set" / f"{number}.png")
        records.append({"file": f"{number}.png", "class": name, "boxes": [[20, 10, 44, 30]], "width": 64,
                        "height": 48, "mask": None})  # fmt: skip
    (tmp_path / "set" / "annotations.json").write_text(json.dumps(records))
    names = ("cam_4class", "vgg16_4class", "first")
    gap, vgg, first = (save_small_network(tmp_path / f"{name}.h5", seed) for seed, name in enumerate(names))
    for place, path in ((original_claims, gap), (evaluation, gap), (evaluation, vgg)):
        monkeypatch.setattr(place, "VGG_NETWORK" if path == vgg else "GAP_NETWORK", path)
    words = ("--annotations", tmp_path / "set", "--original", first, "--output", tmp_path / "out")
    result = run_here("original_claims.py", *words)
    assert result.returncode == 0, result.stderr
    text = (tmp_path / "out" / "claims.md").read_text("utf-8")
    for name in ("cam_4class cam", "vgg16_4class guided-grad-cam", "first cam", "centred Gaussian"):
        assert f"| {name} |" in text
    assert text in result.stdout and "Grad-CAM of the pooling-free network is the positive part of its CAM" in text
    error = float(text.split("over H W, to ")[1].split()[0])
    assert error < 1e-4  # float32
    with Image.open(tmp_path / "out" / "set" / "side_by_side.png") as picture:
        assert picture.width > picture.height > 300


def test_sets_of_one_name_are_refused(run_here, tmp_path):
    places = [tmp_path / "a" / "set", tmp_path / "b" / "set"]
    result = run_here("original_claims.py", "--annotations", *places)
    assert result.returncode == 2 and result.stderr.count("\n") == 1 and "names two sets alike" in result.stderr
