"""The benchmarks of speed: arithmetic against NumPy, files, and real runs of a small network. No time is tested."""

import csv
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from conftest import ENVIRONMENT, ROOT
from PIL import Image

from benchmarks import growth, speed, speed_chip, speed_table, training_speed
from benchmarks.speed_cases import CASES, TOOLS, Setup
from benchmarks.speed_table import Row

pytestmark = pytest.mark.any_backend
GENERATOR = np.random.default_rng(0)


def row(tool="ours-tensorflow", case="grad-cam", batch=8, dtype="float32", seconds=None, forward=None, **others):
    """A Row with drawn times of five rounds."""
    times = [GENERATOR.uniform(0.5, 2, 5) if some is None else np.asarray(some) for some in (seconds, forward)]
    known = {"first_call_s": 3.0, "peak_mb": 1234.0, "measured": "once", "hardware": "a machine", "versions": "x 1"}
    return Row(tool, case, dtype, batch, 224, *(tuple(map(float, one)) for one in times), **known | others)


# ---------------------------------------------------------------- arithmetic


def test_times_and_ratios_are_numpys():
    one = row(batch=8)
    seconds, forward = np.array(one.seconds), np.array(one.forward_seconds)
    expected = 1000 * seconds / 8
    np.testing.assert_allclose(one.photo_ms, (np.median(expected), expected.min(), expected.max()))
    quotients = seconds / forward
    np.testing.assert_allclose(one.ratio, (np.median(quotients), quotients.min(), quotients.max()))
    assert abs(one.ratio[0] - np.median(seconds) / np.median(forward)) > 0.01  # of the same rounds, not of the medians


def test_rows_survive_their_file_and_newer_ones_replace_older(tmp_path):
    refused = Row("xplique", "grad-cam", "bfloat16", 8, 224, refuses='TypeError: a "b", c', hardware="a machine")
    rows = speed_table.merged([], [refused, row(agreement=0.5), row("ours-jax", batch=1)])
    path = tmp_path / "speed.csv"
    speed_table.write_rows(path, rows)
    found = speed_table.read_rows(path)
    assert [one.key for one in found] == [one.key for one in rows] and found[-1] == refused
    np.testing.assert_allclose(found[0].seconds, rows[0].seconds, rtol=1e-5)
    newer = row(seconds=[9.0])
    again = speed_table.merged(found, [newer])
    assert len(again) == 3 and newer in again
    with open(path, newline="") as file:
        records = list(csv.DictReader(file))
    assert float(records[0]["of_forward"]) == pytest.approx(rows[0].ratio[0], rel=1e-3)
    assert records[-1]["of_forward"] == "" and records[-1]["refuses"] == 'TypeError: a "b", c'


def test_another_file_is_not_taken_for_a_table(tmp_path, end_of):
    (tmp_path / "speed.csv").write_text("a,b\n1,2\n")
    code, said = end_of(speed.main, ["--output", tmp_path, "--tables-only"])
    assert code == 2 and said.startswith(f"error: {tmp_path / 'speed.csv'} has other columns; expected")


def test_limits_compare_what_was_measured_in_the_same_rounds():
    ones = np.ones(5)
    rows = [
        row(seconds=1.08 * ones, forward=ones),
        row("xplique", seconds=1.07 * ones, forward=ones),
        row("xplique", batch=1, seconds=ones, forward=ones, measured="at another time"),
        row(batch=1, seconds=1.2 * ones, forward=ones),
        row(dtype="bfloat16", seconds=0.54 * ones, forward=ones),
        row("captum", case="all-three", seconds=9 * ones, forward=ones),
    ]
    title = f"ours, TensorFlow, {CASES['grad-cam'].title}, batch"
    assert list(map(str, speed_table.limits_of(rows, True))) == [
        f"{title} 8, of a plain forward pass: 1.08, limit 1.10: within",
        f"{title} 8, of Xplique's time: 1.01, limit 1.00: above",
        f"{title} 1, of a plain forward pass: 1.20, limit 1.10: above",
        f"{title} 8, bfloat16 of float32: 0.50, limit 0.60: within",
    ]
    assert len(speed_table.limits_of(rows, False)) == 3


def test_check_ends_with_one_where_a_limit_is_not_kept(tmp_path, capsys):
    machine = {"hardware": speed.hardware()}
    for ratio, code in ((1.0, 0), (1.5, 1)):
        speed_table.write_rows(tmp_path / "speed.csv", [row(seconds=[ratio] * 5, forward=[1] * 5, **machine)])
        arguments = ["--output", str(tmp_path), "--tables-only"]
        assert speed.main([*arguments, "--check"]) == code and speed.main(arguments) == 0
    assert "1.50, limit 1.10: above" in capsys.readouterr().out


def test_correlation_is_the_least_over_photos_and_knows_sizes():
    maps = {"map": GENERATOR.random((2, 3, 6, 6)), "guided": GENERATOR.random((2, 3, 8, 8, 3))}
    assert speed.correlation({kind: 3 * values + 2 for kind, values in maps.items()}, maps) == pytest.approx(1)
    other = {"map": maps["map"].copy()}
    other["map"][1, 2] = GENERATOR.random((6, 6))
    expected = np.corrcoef(other["map"][1, 2].ravel(), maps["map"][1, 2].ravel())[0, 1]
    assert speed.correlation(other, maps) == pytest.approx(expected)
    other["map"][1, 2] = 0  # a map that is the same everywhere says nothing
    assert speed.correlation(other, maps) == pytest.approx(1)
    y, x = np.mgrid[:12, :12] / 12
    large = {"map": (y + 2 * x)[None, None]}
    assert speed.correlation(large, {"map": large["map"][:, :, 1::4, 1::4]}) > 0.97
    assert speed.correlation({"map": np.zeros((1, 1, 2, 2))}, large) is None


# ---------------------------------------------------------------- pages


def test_tables_go_between_the_marks_of_a_page_and_nowhere_else(tmp_path, end_of):
    page = tmp_path / "page.md"
    page.write_text(
        "before\n<!-- speed: table -->\nold\n<!-- end of table -->\nbetween\n"
        "<!-- speed: growth -->\nkept\n<!-- end of growth -->\nafter\n"
    )
    (tmp_path / "run").mkdir()
    machine = {"hardware": speed.hardware()}
    rows = [
        row(seconds=[9, 10, 11], forward=[9, 9, 8], **machine),
        row("xplique", refuses="ValueError: `no` | never", seconds=(), forward=(), **machine),
    ]
    speed_table.write_rows(tmp_path / "run" / "speed.csv", speed_table.merged([], rows))
    assert speed.main(["--output", str(tmp_path / "run"), "--tables-only", "--docs", str(page)]) == 0
    text = page.read_text()
    assert text.startswith("before\n<!-- speed: table -->\n") and text.endswith("kept\n<!-- end of growth -->\nafter\n")
    median, least, largest = rows[0].ratio
    cell = f"{1000 * np.median(rows[0].seconds) / 8:,.0f} ms ({median:.2f}; {least:.2f}-{largest:.2f})"
    assert f"| Grad-CAM, one class | 8 | float32 | {cell} | refuses |" in text and "old" not in text
    assert "- Xplique refuses Grad-CAM, one class, float32: `ValueError: 'no' | never`" in text
    assert "\n![The same, drawn](speed.png)\n\nAll numbers: [speed.csv](speed.csv)\n<!-- end of table -->" in text
    for name in ("speed.csv", "speed.png"):
        assert (page.parent / name).read_bytes() == (tmp_path / "run" / name).read_bytes()
    (tmp_path / "other.md").write_text("no marks")
    code, said = end_of(speed.main, ["--output", tmp_path / "run", "--tables-only", "--docs", tmp_path / "other.md"])
    assert code == 2 and "other.md has no line <!-- speed: table -->; expected" in said


def test_milliseconds_are_numbers_to_read():
    assert [speed_table.in_ms(value) for value in (0.01234, 3.456, 99.94, 123.4, 19421.0)] == [
        "0.0123",
        "3.46",
        "99.9",
        "123",
        "19,421",
    ]


def test_the_summary_for_readme_has_five_lines_at_most():
    rows = [row(tool, case) for case in CASES for tool in TOOLS if case in TOOLS[tool].cases]
    lines = speed_table.summary(speed_table.merged([], rows)).splitlines()
    assert 1 < len(lines) <= 5 and max(map(len, lines)) <= 120
    assert re.search(r"Grad-CAM \d+\.\d\d and \d+\.\d\d on TensorFlow and JAX", " ".join(lines))
    assert speed_table.summary([row(case="cam")]) is None


def test_docs_have_one_table_with_the_numbers_of_the_csv_file():
    text = (ROOT / "docs" / "speed.md").read_text("utf-8")
    (table,) = re.findall(r"<!-- speed: main -->\n(.*?)<!-- end of main -->", text, re.DOTALL)
    found = {(row.case, row.tool): row for row in speed_table.read_rows(ROOT / "docs" / "speed.csv") if row.batch == 8}
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    titles = {tool.title: name for name, tool in TOOLS.items()}
    cases = ("forward", "cam", "grad-cam", "grad-cam-4", "guided", "all-three")
    assert [line[0] for line in lines[2:]] == [CASES[case].title for case in cases]
    for case, line in zip(cases, lines[2:], strict=True):
        for title, cell in zip(lines[0][1:], line[1:], strict=True):
            row = found.get((case, titles[title]))
            beside = f" ({row.ratio[0]:.2f})" if row and case != "forward" else ""
            assert cell == (f"{speed_table.in_ms(row.photo_ms[0])} ms{beside}" if row else ""), (case, title)
    assert "<!-- speed: summary -->\n" in (ROOT / "README.md").read_text("utf-8")


# ---------------------------------------------------------------- real runs of a small network


def test_a_quick_run_times_both_backends_and_goes_on_from_its_file(tmp_path, capsys):
    pytest.importorskip("jax")
    arguments = ["--quick", "--cases", "all-three", "--tools", "ours-tensorflow", "ours-jax", "--dtypes", "float32",
                 "--output", str(tmp_path)]  # fmt: skip
    assert speed.main(arguments) == 0
    told = capsys.readouterr().out
    rows = speed_table.read_rows(tmp_path / "speed_quick.csv")
    assert [(one.tool, one.batch, one.size, one.refuses) for one in rows] == [
        ("ours-tensorflow", 1, 32, ""),
        ("ours-jax", 1, 32, ""),
    ]
    for one in rows:
        assert len(one.seconds) == len(one.forward_seconds) == speed.QUICK_ROUNDS and min(one.seconds) > 0
        assert one.first_call_s > max(one.seconds)  # it compiles
        assert 100 < one.peak_mb < 20_000 and "keras 3" in one.versions and one.hardware == speed.hardware()
    assert rows[0].agreement is None and rows[1].agreement > 0.999
    page = (tmp_path / "speed_quick.md").read_text()
    assert f"{speed_table.in_ms(rows[1].photo_ms[0])} ms ({rows[1].ratio[0]:.2f}; " in page and speed.hardware() in page
    with Image.open(tmp_path / "speed_quick.png") as chart:
        assert chart.format == "PNG" and len(np.unique(np.asarray(chart.convert("L")))) > 10
    assert "ms a photo" in told
    assert speed.main(arguments) == 0 and "ms a photo" not in capsys.readouterr().out


def test_another_networks_times_are_refused():
    """What gives other logits is not the same network, and is not timed beside it."""
    lanes = []
    for logits in ([[1.0, 2.0]], [[1.00015, 2.0]], [[1.0003, 2.0]]):
        lane = speed.Lane.__new__(speed.Lane)
        lane.setup, lane.refuses, lane.answer = Setup("captum", "grad-cam", "float32", "", "", True), "", {}
        lane.answer["logits"] = logits
        lanes.append(lane)
    speed.check_logits(lanes)
    assert [lane.refuses for lane in lanes] == ["", "", "its network's logits differ by 1.5e-04 of the largest"]


def test_a_tool_that_fails_is_in_the_table_with_its_own_words(tmp_path):
    lane = speed.Lane(Setup("captum", "grad-cam", "float32", str(tmp_path / "missing.npy"), "", True))
    try:
        lane.read()
        assert lane.refuses.startswith("FileNotFoundError: [Errno 2] No such file or directory")
        assert lane.ask("time") == lane.answer  # and stays so
    finally:
        lane.close()


def test_a_tool_whose_process_is_killed_does_not_end_the_others(tmp_path):
    np.save(tmp_path / "images.npy", speed.photos(1, 32))
    lane = speed.Lane(Setup("captum", "grad-cam", "float32", str(tmp_path / "images.npy"), "", True))
    lane.process.kill()
    lane.process.wait()
    try:
        assert speed.take_turns([lane], 2) == [((), ())] and lane.refuses == "ended with exit code -9"
    finally:
        lane.close()


def settings_of(*words):
    return speed.parse_arguments(["--cases", "grad-cam", "--batches", "8", "--dtypes", "float32", *words])


def test_only_what_is_left_is_measured_beside_ours(monkeypatch):
    monkeypatch.setattr(speed, "installed", lambda tool: True)
    machine = {"hardware": "a machine"}
    known = {"versions": speed.versions(["ours-tensorflow"]), "hardware": "a machine"}
    both = settings_of("--tools", "captum", "ours-tensorflow")
    ours, theirs = ("ours-tensorflow", "float32"), ("captum", "float32")
    assert speed.groups_of(both, [], machine) == [("grad-cam", 8, 224, [ours, theirs])]
    assert speed.groups_of(settings_of("--tools", "captum"), [], machine) == [("grad-cam", 8, 224, [ours, theirs])]
    assert speed.groups_of(settings_of("--tools", "captum", "--cases", "cam"), [], machine) == []  # it makes none
    rows = [row(**known)]
    assert speed.groups_of(both, rows, machine) == [("grad-cam", 8, 224, [ours, theirs])]
    rows += [row("captum", **known | {"versions": speed.versions(["captum"])})]
    assert speed.groups_of(both, rows, machine) == [] and speed.groups_of(both, rows, {"hardware": "another"}) != []
    older = [row(**known | {"versions": "keras 2"}), rows[1]]
    assert speed.groups_of(both, older, machine) == [("grad-cam", 8, 224, [ours])]
    assert speed.groups_of(settings_of("--tools", "captum", "--again"), rows, machine) != []


@pytest.fixture(scope="module")
def without_tensorflow(tmp_path_factory):
    """An environment in which importing tensorflow fails in every process, under JAX."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "sitecustomize.py").write_text("import sys\nsys.modules['tensorflow'] = None\n")
    environment = ENVIRONMENT | {"PYTHONPATH": str(folder), "KERAS_BACKEND": "jax"}
    check = [sys.executable, "-c", "import tensorflow"]
    assert b"ModuleNotFoundError" in subprocess.run(check, env=environment, capture_output=True).stderr
    return environment


def test_jax_is_timed_without_tensorflow(tmp_path, without_tensorflow):
    pytest.importorskip("jax")
    words = ["benchmarks/speed.py", "--quick", "--cases", "cam", "--output", tmp_path]
    tools = ["--tools", "ours-tensorflow", "ours-jax", "--dtypes", "float32", "bfloat16"]
    result = subprocess.run(
        [sys.executable, *map(str, words), *tools],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=without_tensorflow,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    rows = speed_table.read_rows(tmp_path / "speed_quick.csv")
    expected = [("ours-jax", "cam", dtype, "") for dtype in ("float32", "bfloat16")]
    assert [(one.tool, one.case, one.dtype, one.refuses) for one in rows] == expected
    assert "ours, TensorFlow is not installed" in result.stdout


@pytest.mark.slow
def test_a_chip_is_measured_without_tensorflow(tmp_path, without_tensorflow):
    pytest.importorskip("jax")
    page = tmp_path / "page.md"
    page.write_text("<!-- speed: chip -->\n<!-- end of chip -->\n")
    words = ["benchmarks/speed_chip.py", "--quick", "--dtypes", "float32", "--output", tmp_path, "--docs", page]
    result = subprocess.run(
        [sys.executable, *map(str, words)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=without_tensorflow,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    with open(tmp_path / "speed_chip_quick.csv", newline="") as file:
        records = list(csv.DictReader(file))
    assert [record["map"] for record in records] == [CASES[kind].title for kind in speed_chip.KINDS]
    assert {record["largest batch"] for record in records} == {"1 or more"}
    assert all(float(record["ms a photo"]) > 0 and float(record["matrix rate, TFLOP/s"]) > 0 for record in records)
    assert 0 < float(records[0]["share of the matrix rate"]) < 2 and records[0]["measured on"].startswith("CPU (")
    assert f"| {records[1]['map']} | float32 | 1 | {records[1]['ms a photo']} |" in page.read_text()


def test_a_chip_is_measured_under_jax_only(end_of):
    code, said = end_of(speed_chip.main, [])
    assert code == 2 and said.startswith("error: the backend is not JAX; expected KERAS_BACKEND=jax")


def test_operations_of_a_forward_pass_are_those_counted_by_hand():
    network, _ = speed_chip.keras_network(Setup("ours-jax", "forward", "float32", "", "", True))
    first, later = 2 * 32 * 32 * (3 * 3 * 3) * 8, 2 * 16 * 16 * (3 * 3 * 8) * 8
    assert speed_chip.forward_operations(network, 32) == first + 2 * later + 2 * 8 * 256 + 2 * 256 * 4


def test_the_largest_batch_is_the_last_that_memory_holds():
    asked = []

    def run(count):
        asked.append(count)
        if count > 5:
            raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes")

    assert speed_chip.largest_that_runs(run, 64) == 4 and asked == [1, 2, 4, 8]
    assert speed_chip.largest_that_runs(lambda count: None, 7) == 4
    assert speed_chip.largest_that_runs(lambda count: np.empty(2**50), 7) == 0
    with pytest.raises(ZeroDivisionError):
        speed_chip.largest_that_runs(lambda count: 1 / 0, 7)


@pytest.mark.slow
def test_training_is_timed_with_its_pipeline(tmp_path):
    words = ["--recipes", "original", "--batches", "4", "--steps", "3", "--output", str(tmp_path)]
    training_speed.main(words)
    with open(tmp_path / "training_speed.csv", newline="") as file:
        (record,) = csv.DictReader(file)
    assert (record["recipe"], record["batch"]) == ("original", "4") and record["numbers"] in ("float32", "bfloat16")
    assert all(float(record[name].replace(",", "")) > 1 for name in training_speed.COLUMNS[3:])


# ---------------------------------------------------------------- growth


@pytest.mark.slow
def test_a_run_of_growth_is_the_scripts_own(tmp_path, capsys):
    words = ["--axes", "photos", "--photos", "5", "--output", str(tmp_path)]
    growth.main(words)
    (point,) = growth.read_points(tmp_path / "growth.csv")
    assert (point.axis, point.photos, point.size, point.classes) == ("photos", 5, 32, 4)
    arrays = 5 * 4 * (128 + 32 * 32 * 4) / 1e6
    assert arrays < point.output_mb < arrays + 0.05 and point.seconds > 0 and 100 < point.peak_mb < 20_000
    assert "photos 5: " in capsys.readouterr().out
    growth.main(words)
    assert "photos 5: " not in capsys.readouterr().out


def point(axis, photos, size, classes, seconds, peak, written):
    return growth.Point(axis, photos, size, classes, seconds, peak, written, 2, "a machine")


def test_ten_million_photos_cost_what_the_slope_says(tmp_path):
    counts = (100, 1_000, 24_000)
    points = [point("photos", count, 32, 4, 7 + 0.002 * count, 800.0 + 0.001 * count, 0.02 * count) for count in counts]
    assert growth.paragraph(points) is None  # not of the size that is meant
    points += [point("size", 100, 96, 4, 7.6, 900.0, 15.0), point("size", 100, 128, 4, 9.0, 950.0, 20.0)]
    np.testing.assert_allclose(growth.costs_of(points), (0.006, 0.15, 900.0))
    said = growth.paragraph(points)
    hours = 0.006 * 2 * 10_000_000 / 3600
    assert said.startswith("24,000 photos took 1.03 times the memory of 100. At 96x96 a photo takes 6.0 ms on 2 cores")
    assert f"{hours:,.0f} core hours" in said and f"{hours / 3200:.1f} hours on 100 nodes of 32 such cores" in said
    assert "1.5 TB of arrays in 40 million files" in said and "16 of them on a node take 14 GB" in said
    assert growth.paragraph(points[2:]) is None
    page = tmp_path / "docs" / "page.md"
    page.parent.mkdir()
    page.write_text("<!-- speed: growth -->\n<!-- end of growth -->\n")
    growth.write_points(tmp_path / "growth.csv", points)
    growth.main(["--tables-only", "--output", str(tmp_path), "--docs", str(page)])
    assert "| photos | 24,000 | 32x32 | 4 | 55.0 | 824 | 480.0 |" in page.read_text() and said in page.read_text()
    with Image.open(tmp_path / "growth.png") as plot:
        assert plot.format == "PNG" and plot.size[0] > 500


def test_photos_that_grow_are_decoded_one_by_one(tmp_path):
    growth.write_photos(tmp_path / "photos", growth.DIFFERENT + 2)
    paths = sorted((tmp_path / "photos").iterdir())
    assert len(paths) == growth.DIFFERENT + 2 and os.path.samefile(paths[0], paths[growth.DIFFERENT])
    with Image.open(paths[-1]) as one:
        assert one.size == (500, 375)
