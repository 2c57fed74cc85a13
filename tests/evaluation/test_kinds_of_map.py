"""The table of all kinds of map, of scores that are known."""

import pytest

from benchmarks.kinds_of_map import LIE, SANITY, table

pytestmark = pytest.mark.any_backend

COLUMNS = ("table", "map", "score", "value", "low", "high", "items")


def test_the_table_has_a_row_for_each_map():
    boxes, masks, faithful = f"{LIE} (boxes)", f"{LIE} (masks)", "Whether vgg16_4class uses what the maps show"
    cam, rise, random = "cam_4class cam", "vgg16_4class rise", "random"
    photos = {
        (boxes, cam, "pointing"): [0.5, 0.251, 0.749],
        (boxes, rise, "pointing"): [1.0, 0.6, 1.0, 8],
        (boxes, random, "pointing"): [0.125, 0.0, 0.25],
        (boxes, cam, "energy"): [0.625, 0.5, 0.7],
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
    found = table(of_sets, {cam: (1.004, 1, 2), rise: (1234.0, 1, 2)})
    assert found == [
        "| map | pointing, photos (boxes) ↑ | pointing, demo (masks) ↑ | energy ↑ | insertion ↑ | ROAD ↑ "
        "| randomised ↓ | other class ↓ | cost |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        "| cam_4class cam | 0.50 (0.25–0.75) | 0.90 (0.80–1.00) | 0.62 | 0.38 | - | 0.10 | - | 1 |",
        "| rise | 1.00 (0.60–1.00) of 8 | - | - | 0.75 | 0.25 | - | -0.50 | 1,234 |",
        "| random | 0.12 (0.00–0.25) | - | - | - | 0.00 | - | - | - |",
    ]
