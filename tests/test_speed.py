"""The benchmarks of speed: arithmetic against NumPy, files, and real runs at small sizes. No time is tested."""

import csv
import re
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import ROOT

from benchmarks import growth, speed, timing, training
from benchmarks.speed import Row
from benchmarks.speed_peers import CASES, TOOLS

pytestmark = pytest.mark.any_backend
GENERATOR = np.random.default_rng(0)


def row(tool="ours-tensorflow", case="grad-cam", batch=8, dtype="float32", seconds=None, forward=None, **others):
    """A Row with drawn times of five rounds."""
    times = [GENERATOR.uniform(0.5, 2, 5) if some is None else np.asarray(some) for some in (seconds, forward)]
    known = {"first_call_s": 3.0, "peak_mb": 1234.0, "measured": "once", "hardware": "a machine", "versions": "x 1"}
    return Row(tool, case, dtype, batch, 224, *(tuple(map(float, one)) for one in times), **known | others)


# ---------------------------------------------------------------- measuring


def test_times_and_ratios_are_numpys():
    one = row(batch=8)
    seconds, forward = np.array(one.seconds), np.array(one.forward_seconds)
    expected = 1000 * seconds / 8
    np.testing.assert_allclose(one.photo_ms, (np.median(expected), expected.min(), expected.max()))
    quotients = seconds / forward
    np.testing.assert_allclose(one.ratio, (np.median(quotients), quotients.min(), quotients.max()))
    assert abs(one.ratio[0] - np.median(seconds) / np.median(forward)) > 0.01  # of the same rounds, not of the medians


def test_correlation_is_the_least_over_photos_and_knows_sizes():
    maps = {"map": GENERATOR.random((2, 3, 6, 6)), "guided": GENERATOR.random((2, 3, 8, 8, 3))}
    assert speed.correlation({kind: 3 * values + 2 for kind, values in maps.items()}, maps) == pytest.approx(1)
    other = {"map": maps["map"].copy()}
    other["map"][0, 1] = 0  # a map that is the same everywhere says nothing
    other["map"][1, 2] = GENERATOR.random((6, 6))
    expected = np.corrcoef(other["map"][1, 2].ravel(), maps["map"][1, 2].ravel())[0, 1]
    assert speed.correlation(other, maps) == pytest.approx(expected)
    y, x = np.mgrid[:12, :12] / 12
    large = {"map": (y + 2 * x)[None, None]}
    assert speed.correlation(large, {"map": large["map"][:, :, 1::4, 1::4]}) > 0.97
    assert speed.correlation({"map": np.zeros((1, 1, 2, 2))}, large) is None


def test_another_networks_times_are_refused():
    """What gives other logits is not the same network, and is not timed beside it."""
    lanes = [SimpleNamespace(dtype="float32", refuses="") for _ in range(3)]
    speed.check_logits(lanes, [[[1.0, 2.0]], [[1.00015, 2.0]], [[1.0003, 2.0]]])
    assert [lane.refuses for lane in lanes] == ["", "", "its network's logits differ by 1.5e-04 of the largest"]


# ---------------------------------------------------------------- files and pages


def test_rows_survive_their_file_and_newer_ones_replace_older(tmp_path):
    refused = Row("xplique", "grad-cam", "bfloat16", 8, 224, refuses='TypeError: a "b", c', hardware="a machine")
    rows = speed.merged([], [refused, row(agreement=0.5), row("ours-jax", batch=1)])
    path = tmp_path / "speed.csv"
    timing.write_rows(path, rows, ["photo_ms", "ratio"])
    found = timing.read_rows(path, Row)
    assert [one.key for one in found] == [one.key for one in rows] and found[-1] == refused
    np.testing.assert_allclose(found[0].seconds, rows[0].seconds, rtol=1e-5)
    newer = row(seconds=[9.0])
    again = speed.merged(found, [newer])
    assert len(again) == 3 and newer in again
    with open(path, newline="") as file:
        records = list(csv.DictReader(file))
    assert list(map(float, records[0]["ratio"].split())) == pytest.approx(rows[0].ratio, rel=1e-3)
    assert records[-1]["ratio"] == "" and records[-1]["refuses"] == 'TypeError: a "b", c'


def test_the_published_numbers_are_read():
    assert len(timing.read_rows(ROOT / "docs" / "speed.csv", Row)) > 50
    assert len(timing.read_rows(ROOT / "docs" / "growth.csv", growth.Point)) > 10


def test_tables_go_between_the_marks_of_a_page_and_nowhere_else(tmp_path, end_of):
    page = tmp_path / "page.md"
    page.write_text(
        "before\n<!-- speed -->\nold\n<!-- end of speed -->\nbetween\n<!-- kills -->\nkept\n<!-- end of kills -->\n"
    )
    (tmp_path / "run").mkdir()
    rows = [
        row(seconds=[9, 10, 11], forward=[9, 9, 8]),
        row(batch=1, seconds=[1, 1, 1], forward=[1, 1, 1]),
        row("xplique", refuses="ValueError", seconds=(), forward=()),
        row("ours-jax", "cam", 8, seconds=[0.02], forward=[0.02]),
        row(seconds=[5], forward=[4], hardware="another"),
    ]
    timing.write_rows(tmp_path / "run" / "speed.csv", speed.merged([], rows))
    speed.main(["--output", str(tmp_path / "run"), "--tables-only", "--docs", str(page)])
    text = page.read_text()
    assert text.startswith("before\n<!-- speed -->\na machine; x 1; batch 8\n\n") and "old" not in text
    assert text.endswith("kept\n<!-- end of kills -->\n") and "\n\nanother; x 1; batch 8\n\n" in text
    median, least, largest = rows[0].ratio
    cell = f"{1000 * np.median(rows[0].seconds) / 8:,.0f} ms ({median:.2f}; {least:.2f}-{largest:.2f})"
    assert f"| Grad-CAM, one class | {cell} |  | refuses | 1.10 |" in text
    assert f"| {CASES['cam'].title} |  | 2.5 ms (1.00; 1.00-1.00) |  | 1.05 |" in text
    assert "\nAll numbers: [speed.csv](speed.csv)\n<!-- end of speed -->" in text
    assert (page.parent / "speed.csv").read_bytes() == (tmp_path / "run" / "speed.csv").read_bytes()
    (tmp_path / "other.md").write_text("no marks")
    code, said = end_of(speed.main, ["--output", tmp_path / "run", "--tables-only", "--docs", tmp_path / "other.md"])
    assert code == 2 and "other.md has no line <!-- speed -->" in said and "; expected" in said


def test_docs_have_one_table_with_the_numbers_of_the_csv_file():
    """And README a summary of it, of five lines at most."""
    text = (ROOT / "docs" / "speed.md").read_text("utf-8")
    assert len(re.findall(r"<!-- speed -->\n(?:.+\n)+?(?s:.*?)<!-- end of speed -->", text)) == 1
    assert "<!-- speed -->\n" in (ROOT / "README.md").read_text("utf-8")
    rows = [row(tool, case) for case in CASES for tool in TOOLS if case in TOOLS[tool].cases]
    lines = speed.summary(speed.merged([], rows)).splitlines()
    assert 1 < len(lines) <= 5 and max(map(len, lines)) <= 120
    assert re.search(r"Grad-CAM, one class ours on TensorFlow \d+\.\d\d, ours on JAX \d+\.\d\d", " ".join(lines))


# ---------------------------------------------------------------- real runs


@pytest.mark.slow
def test_a_quick_run_times_both_backends_and_goes_on_from_its_file(tmp_path, capsys):
    pytest.importorskip("jax")
    arguments = ["--quick", "--cases", "all-three", "--tools", "ours-tensorflow", "ours-jax", "--dtypes", "float32",
                 "--output", str(tmp_path)]  # fmt: skip
    speed.main(arguments)
    told = capsys.readouterr().out
    rows = timing.read_rows(tmp_path / "speed_quick.csv", Row)
    assert [(one.tool, one.batch, one.size, one.refuses) for one in rows] == [
        ("ours-tensorflow", 1, 64, ""),
        ("ours-jax", 1, 64, ""),
    ]
    for one in rows:
        assert len(one.seconds) == len(one.forward_seconds) == speed.QUICK_ROUNDS and min(one.seconds) > 0
        assert one.first_call_s > max(one.seconds)  # it compiles
        assert 100 < one.peak_mb < 20_000 and "keras 3" in one.versions and one.hardware == timing.hardware()
        assert f"{one} a photo" in told and f"| {one} |" in told
    assert rows[0].agreement is None and rows[1].agreement > 0.999
    speed.main(arguments)
    assert " a photo\n" not in capsys.readouterr().out


@pytest.mark.slow
def test_training_is_timed_with_its_pipeline(tmp_path):
    words = ["--recipes", "original", "--batches", "4", "--steps", "3", "--photos", "40", "--output", str(tmp_path)]
    training.main(words)
    with open(tmp_path / "training_speed.csv", newline="") as file:
        (record,) = csv.DictReader(file)
    assert (record["recipe"], record["batch"], record["photos"]) == ("original", "4", "40")
    assert record["numbers"] in ("float32", "bfloat16")
    assert all(float(record[name].replace(",", "")) > 1 for name in training.COLUMNS[4:])


# ---------------------------------------------------------------- growth


@pytest.mark.slow
def test_a_run_of_growth_is_the_scripts_own(tmp_path, capsys):
    words = ["--photos", "5", "--output", str(tmp_path)]
    growth.main(words)
    (point,) = timing.read_rows(tmp_path / "growth.csv", growth.Point)
    assert (point.axis, point.photos, point.size, point.classes) == ("photos", 5, 32, 4)
    arrays = 5 * 4 * (128 + 32 * 32 * 4) / 1e6
    assert arrays < point.output_mb < arrays + 0.05 and point.seconds > 0 and 100 < point.peak_mb < 20_000
    assert "photos 5 done" in capsys.readouterr().out
    growth.main(words)
    assert "photos 5 done" not in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("reader", growth.READERS)
def test_readers_of_maps_are_measured_as_scripts(tmp_path, reader):
    growth.main([f"--{reader}", "5", "--output", str(tmp_path)])
    (point,) = timing.read_rows(tmp_path / "growth.csv", growth.Point)
    assert (point.axis, point.photos) == (reader, 5) and point.seconds > 0 and point.output_mb > 0.001


def point(axis, photos, size, classes, seconds, peak, written):
    return growth.Point(axis, photos, size, classes, seconds, peak, written, 2, "a machine")


def test_ten_million_photos_cost_what_the_slope_says(tmp_path, capsys):
    counts = (100, 1_000, 24_000)
    points = [point("photos", count, 32, 4, 7 + 0.002 * count, 800.0 + 0.001 * count, 0.02 * count) for count in counts]
    assert growth.paragraph(points) is None  # not of the size that is meant
    points += [point("size", 100, 96, 4, 7.6, 900.0, 15.0), point("size", 100, 128, 4, 9.0, 950.0, 20.0)]
    np.testing.assert_allclose(growth.costs_of(points), (0.006, 0.15, 900.0))
    said = growth.paragraph(points)
    hours = 0.006 * 2 * 10_000_000 / 3600
    assert said.startswith("24,000 photos took 1.03 times the memory of 100. At 96x96 a photo takes 6.0 ms on 2 cores")
    assert f"{hours:,.0f} core hours" in said and f"{hours / 3200:.1f} hours on 3,200 such cores" in said
    assert "1.5 TB of arrays" in said
    assert growth.paragraph(points[2:]) is None
    timing.write_rows(tmp_path / "growth.csv", [one._replace(measured_on=timing.machine()) for one in points])
    growth.main(["--photos", "100", "--output", str(tmp_path)])  # which is measured already
    told = capsys.readouterr().out
    assert "| photos | 24,000 | 32x32 | 4 | 55.0 | 824 | 480.0 |" in told and said in told
