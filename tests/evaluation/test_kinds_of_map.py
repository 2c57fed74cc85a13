"""The table of all kinds of map, of scores that are known."""

import json

import pytest

from benchmarks.kinds_of_map import LIE, SANITY, of_sample, table

pytestmark = pytest.mark.any_backend

ABOUT = {"network": "", "photo": "", "class": ""}  # what every line of an evaluation tells
COLUMNS = ("table", "map", "score", "value", "low", "high", "items")


def test_the_table_has_a_row_for_each_map():
    boxes, masks, faithful = f"{LIE} (boxes)", f"{LIE} (masks)", "Whether vgg16_4class uses what the maps show"
    cam, rise, random = "cam_4class cam", "vgg16_4class rise", "random"
    photos = {
        (boxes, cam, "pointing"): [0.5, 0.251, 0.749],
        (boxes, rise, "pointing"): [1.0, 0.6, 1.0, 8],
        (boxes, random, "pointing"): [0.125, 0.0, 0.25],
        (faithful, rise, "insertion_blur"): [0.75, 0.7, 0.8],
        ("Whether cam_4class uses what the maps show", cam, "insertion_blur"): [0.375, 0.3, 0.4],
        (faithful, rise, "road"): [0.25, 0.2, 0.3],
        (faithful, random, "road"): [0.0, -0.1, 0.1],
        (SANITY, cam, "rank_mean"): [0.1, 0.0, 0.2],
        (SANITY, rise, "other_class"): [-0.5, -0.6, -0.4],
    }
    demo = {(masks, cam, "pointing"): [0.9, 0.8, 1.0]}
    of_sets = {
        name: [dict(zip(COLUMNS, (*key, *map(str, [*values, 71][:4])), strict=True)) for key, values in of_set.items()]
        for name, of_set in {"photos": photos, "demo": demo}.items()
    }
    found = table(of_sets, {cam: (0.5, 0.625), random: (0.25, 0.125)}, {cam: (1.004, 1, 2), rise: (1234.0, 1, 2)})
    assert found == [
        "| map | pointing, photos (boxes) ↑ | pointing, demo (masks) ↑ | pointing, sample ↑ | energy, sample ↑ "
        "| insertion ↑ | ROAD ↑ "
        "| randomised ↓ | other class ↓ | cost |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        "| cam_4class cam | 0.50 (0.25–0.75) | 0.90 (0.80–1.00) | 0.50 | 0.62 | 0.38 | - | 0.10 | - | 1 |",
        "| rise | 1.00 (0.60–1.00) of 8 | - | - | - | 0.75 | 0.25 | - | -0.50 | 1,234 |",
        "| random | 0.12 (0.00–0.25) | - | 0.25 | 0.12 | - | 0.00 | - | - | - |",
    ]


def test_the_sample_is_compared_on_its_own_photos(tmp_path):
    """Of maps that were scored on all photos, too."""
    lines = [
        {"part": "maps", "item": "a", "maps": {"cam": {"pointing": 1.0, "energy": 0.5}}},
        {"part": "maps", "item": "b", "maps": {"cam": {"pointing": 0.0, "energy": 0.25}}},
        {"part": "maps", "item": "not in it", "maps": {"cam": {"pointing": 1.0, "energy": 1.0}}},
        {"part": "sample", "item": "a", "maps": {"cam": {"road": 1.0}, "rise": {"pointing": 0.0, "energy": 0.125}}},
        {"part": "sample", "item": "b", "maps": {"rise": {"pointing": 0.5, "energy": 0.375}}},
    ]
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(ABOUT | line) + "\n" for line in lines))
    found = {name: values.tolist() for name, values in of_sample(tmp_path).items()}
    assert found == {"cam": [0.5, 0.375], "rise": [0.25, 0.25]}
