"""The report of an evaluation from hand-set scores: what it says was found, and that it says nothing twice."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from camlib.console import UserError
from camlib.evaluation.annotations import Item
from camlib.evaluation.report import (
    FAILED,
    best_first,
    findings_of,
    grids_of,
    groups_of,
    markdown_of,
    network_table,
    rows_once,
    sanity_sentences,
    write_tables,
)
from camlib.evaluation.results import Results, merged
from camlib.evaluation.score_tables import (
    APART,
    LOCALISATION,
    SANITY,
    SHARPNESS,
    Score,
    Table,
    cell_text,
    faithfulness_scores,
    first_of_both,
    score_cell,
    score_table,
)
from camlib.plots.page import Report, write_page

pytestmark = pytest.mark.any_backend
NAN = float("nan")


def table(names, **rows):
    """A Table of hand-set cells: its scores' names, and map's name (with _ for a space) -> cells."""
    scores = tuple(Score(name, name, name) for name in names)
    return Table("a title", scores, {name.replace("_", " "): cells for name, cells in rows.items()}, "Section")


def test_findings_are_five_sentences_with_their_numbers():
    lie = table(
        ("pointing", "energy"),
        net_cam=[(0.9, 0.8, 0.95, 40), (0.5, 0.4, 0.6, 40)],
        net_guided=[(0.8, NAN, NAN, 40), (0.6, 0.6, 0.6, 40)],
        net_worse=[(0.3, 0.3, 0.3, 40), (0.2, 0.2, 0.2, 40)],
        net_slow=[(1.0, 1.0, 1.0, 8), (1.0, 1.0, 1.0, 8)],  # of the sample alone: not to be compared
        random=[(0.2, 0.1, 0.3, 40), (0.1, 0.1, 0.1, 40)],
        Sobel_edges=[(0.7, 0.6, 0.8, 40), (0.3, 0.3, 0.3, 40)],
    )
    boxes = table(("pointing",), net_guided=[(1.0, 1.0, 1.0, 3)])  # of fewer objects than masks
    faithful = table(("deletion_blur", "insertion_blur", "insertion_mean"),
                     net_cam=[(0.1, 0.1, 0.1, 8), (0.5, 0.4, 0.6, 8), (0.9, 0.9, 0.9, 8)],
                     net_guided=[(0.2, 0.1, 0.3, 8), (0.6, 0.5, 0.7, 8), (0.1, 0.1, 0.1, 8)],
                     random=[(0.2, 0.1, 0.3, 8), (0.8, 0.8, 0.8, 8), (0.1, 0.1, 0.1, 8)])  # fmt: skip
    sane = table(tuple(FAILED), net_cam=[(0.2, 0.1, 0.3, 8), (0.9, 0.4, 1.0, 8)],
                 net_guided=[(0.1, 0.1, 0.1, 8), (0.9, 0.8, 1.0, 8)], net_slow=[(NAN, NAN, NAN, 0)] * 2)  # fmt: skip
    answers = [
        {"network": "net", "photos": "all", "number": 1200, "top1": 0.95, "low": 0.9, "high": 0.98},
        {"network": "net", "photos": "class dog", "number": 6, "top1": 0.5, "low": 0.2, "high": 0.8},
    ]
    assert findings_of([boxes, lie, faithful, sane], answers) == [
        "net is right on 95 % (90 to 98 %) of 1,200 photos.",
        "The largest value of net cam lies on the object in 90 % (80 to 95 %) of 40 cases; next comes net guided with "
        "80 %; the best that knows no network, Sobel edges, has 70 % (60 to 80 %).",
        "60 % of the positive values of net guided lie on the object; next comes net cam with 50 % (40 to 60 %); the "
        "best that knows no network, Sobel edges, has 30 %.",
        "The class's probability rises fastest when the pixels of net guided (insertion 0.600 (0.500 to 0.700)) are "
        "put back first.",
        "1 of 2 kinds of map (net guided) would look much the same with shuffled weights or for another class.",
    ]
    assert best_first(table(("pointing",), net_cam=[(NAN, NAN, NAN, 0)]), "pointing") == []
    sane.rows["net guided"] = [(0.1, 0.1, 0.1, 8)] * 2
    assert findings_of([sane], []) == [
        "None of 2 kinds of map would look much the same with shuffled weights or for another class."
    ]
    of_classes = table(("other_class",), net_guided=[(0.1, 0.1, 0.1, 8)])  # no weights were shuffled
    assert findings_of([of_classes], []) == ["None of 1 kind of map would look much the same for another class."]
    assert findings_of([], []) == []
    surely = table(("rank_mean", "energy"), net_cam=[(0.9, 0.50001, 1.0, 8), (0.9, 0.9, 0.9, 8)],
                   net_guided=[(0.9, 0.5, 1.0, 8)] * 2)  # fmt: skip
    (sentence,) = sanity_sentences(surely)
    assert sentence.startswith("net cam: as its network's weights are randomised the map hardly changes (mean rank")


def test_tables_are_written_cell_by_cell(tmp_path):
    tables = [table(("energy", "zero"), net_cam=[(0.5, 0.4, 0.6, 8), (NAN, NAN, NAN, 0)])]
    rows = [{"network": "net", "photos": name, "number": 4} for name in ("all", "class dog")]
    write_tables(tmp_path, tables, rows)
    assert (tmp_path / "scores.csv").read_text() == (
        "table,map,score,value,low,high,items\na title,net cam,energy,0.5,0.4,0.6,8\n"  # what nothing has is left out
    )
    assert (tmp_path / "networks.csv").read_text() == "network,photos,number\nnet,all,4\nnet,class dog,4\n"
    write_tables(tmp_path, [], [])
    assert (tmp_path / "networks.csv").read_text() == ""


RECORDS = [  # photo, class, label, probabilities; the last photo shows two classes
    ("a_1", "dog", 0, (0.7, 0.2, 0.1)), ("a_2", "dog", 0, (0.4, 0.6, 0.0)), ("b_1", "cat", 1, (0.1, 0.8, 0.1)),
    ("b_2", "cat", 1, (0.0, 0.9, 0.1)), ("both", "dog", 0, (0.1, 0.1, 0.8)), ("both", "cat", 1, (0.1, 0.1, 0.8)),
]  # fmt: skip


def records_of(rows):
    return [
        {
            "photo": photo,
            "class": name,
            "label": label,
            "outputs": list(outputs),
            "right": max(outputs) == outputs[label],
        }
        for photo, name, label, outputs in rows
    ]


def test_how_often_a_network_is_right():
    scored = SimpleNamespace(name="net")
    rows, (outputs, labels) = network_table(scored, records_of(RECORDS))
    assert [(row["photos"], row["number"], row["top1"]) for row in rows] == [
        ("all", 4, 0.75), ("class dog", 2, 0.5), ("class cat", 2, 1.0),
    ]  # fmt: skip
    assert outputs.shape == (4, 3) and labels.tolist() == [0, 0, 1, 1]
    assert rows[0]["binary_accuracy"] == pytest.approx(10 / 12)
    assert rows[0]["ece"] == pytest.approx((0.3 + 0.6 + 0.2 + 0.1) / 4)  # each in a bin of its own
    assert (rows[0]["low"], rows[0]["high"]) == pytest.approx((0.300636, 0.954413), abs=1e-5)  # R's binom.confint
    assert network_table(scored, records_of(RECORDS[4:])) == ([], None)
    of_group = records_of([("a_1", "animal", 3, (0.7, 0.2, 0.1, 0.0))])
    of_group[0]["outputs"] = of_group[0]["outputs"][:3]
    ((row,), answers) = network_table(scored, of_group)
    assert answers is None and np.isnan([row["binary_accuracy"], row["ece"]]).all()
    ((title, header, cells),) = grids_of([], rows[:1], {})
    assert header == ["network", "photos", "number", "top-1", "binary accuracy (Keras)", "ECE"]
    assert cells == [["net", "all", "4", "0.750 (0.301 to 0.954)", "0.833", "0.300"]]


def test_confusions_are_a_table_of_few_classes():
    counts = np.arange(4).reshape(2, 2)
    ((title, header, rows),) = grids_of([], [], {"net": (["dog", "cat"], counts)})
    assert (title, header) == ("What net takes the photos for", ["true class", "dog", "cat"])
    assert rows == [["dog", "0", "1"], ["cat", "2", "3"]]
    for count, tables in ((20, 1), (21, 0)):
        names = [f"class {number}" for number in range(count)]
        assert len(grids_of([], [], {"net": (names, np.eye(count, dtype=int))})) == tables


def test_no_row_stands_twice():
    rows = [["net layer-cam", "0.5", "8"], ["net cam", "0.6", "8"], ["net element-wise", "0.5", "8"], ["x", "0.5", "8"]]
    assert rows_once(rows) == [["net layer-cam, element-wise, x", "0.5", "8"], ["net cam", "0.6", "8"]]
    names = [f"dog_{number}" for number in range(6)] + [f"cat_{number}" for number in range(6)]
    records = [{"photo": name, "class": name[:3]} for name in names]
    assert list(groups_of(records)) == ["all", "class dog", "class cat"]  # the collections are the classes once more
    assert list(groups_of(records[:6])) == ["all"]
    records[0]["photo"] = "other"
    assert list(groups_of(records)) == ["all", "class dog", "class cat", "collection dog", "smaller collections"]


def test_a_cell_of_fewer_objects_says_so():
    sane = table(("rank_mean", "other_class"), net_cam=[(0.2, 0.1, 0.3, 6), (0.5, 0.4, 0.6, 250)],
                 net_slow=[(NAN, NAN, NAN, 0), (0.5, NAN, NAN, 8)])  # fmt: skip
    ((_, header, rows),) = grids_of([sane], [], {})
    assert header == ["map", "rank_mean", "other_class", "items"]
    assert rows == [
        ["net cam", "0.200 (0.100 to 0.300) of 6", "0.500 (0.400 to 0.600)", "250"],
        ["net slow", "-", "0.500", "8"],
    ]


def test_scores_that_need_masks_are_no_columns_of_boxes():
    pairs = {"a": ({"pointing": 1.0}, {"photo": "a", "truth": "boxes"})}
    found = score_table("lie", "Localisation", LOCALISATION, {"net cam": pairs}, "boxes")
    assert [score.name for score in found.scores] == [score.name for score in LOCALISATION if score.truth is None]
    assert len(found.rows["net cam"]) == len(found.scores) == 7
    assert len(score_table("sane", "Sanity", SANITY, {"net cam": pairs}).scores) == len(SANITY)


def overlaps(**at_thresholds):
    """Those of 99 boxes, zero but at some thresholds in percent: t15=0.5."""
    found = np.zeros(99)
    for name, value in at_thresholds.items():
        found[int(name[1:]) - 1] = value
    return found.tolist()


EVEN = {"pointing": 1.0, "pointing_15": 1.0, "energy": 0.5, "border": 1.5, "edge": 0.25, "grid": [4, 6], "zero": 0.0,
        "peaks": [1.0, 0.0], "energies": [0.6, 0.2], "all_peaks": 1.0, "other_class": 0.3, "drop": 0.4, "increase": 0.0,
        "adcc": 0.7, "road": 0.2, "deletion_blur": [1.0, 0.5, 0.0], "insertion_blur": [0.0, 1.0, 1.0]}  # fmt: skip
SCORED = [  # of three photos
    (EVEN | {"boxes": overlaps(t15=0.5, t20=0.6), "rank_correlation": [0.9, None, 0.3], "ssim": [0.5, 0.7, None]},
     True),
    (EVEN | {"boxes": overlaps(t15=0.7, t20=0.2), "rank_correlation": [0.1, 0.1, 0.1], "ssim": [0.2, 0.2, 0.2],
             "pointing": 0.0, "energy": 0.1, "zero": 1.0, "peaks": [0.0, 1.0], "energies": [0.0, 0.6]}, True),
    (EVEN | {"boxes": overlaps(t15=0.4, t20=0.9), "rank_correlation": [0.2, 0.6, 0.8], "ssim": [None] * 3,
             "increase": 1.0, "border": None}, False),
]  # fmt: skip
VALUES = {
    "pointing": 2 / 3, "pointing_15px": 1, "energy": 1.1 / 3, "box_15": 2 / 3, "box_20": 2 / 3, "box_best": 2 / 3,
    "ilsvrc_error_20": 2 / 3,  # the second's box is wrong, the third's class
    "own_peak": 2 / 3, "other_peak": 1 / 3, "all_peaks": 1, "own_energy": 0.4, "other_energy": 1 / 3,
    "told_apart": 1.2 / 2.2, "cells": 24, "border_energy": 1.5, "edge_width": 0.25, "zero": 1 / 3,
    "rank_first": 0.4, "rank_all": 0.4, "rank_mean": (0.6 + 0.1 + 1.6 / 3) / 3, "ssim_mean": 0.4, "other_class": 0.3,
    "deletion_blur": 0.5, "insertion_blur": 0.75, "average_drop": 0.4, "increase": 1 / 3, "adcc": 0.7, "road": 0.2,
}  # fmt: skip


def test_each_score_is_made_from_its_own_result():
    columns = (*LOCALISATION, *APART, *SHARPNESS, *SANITY, *faithfulness_scores(["blur"]))
    pairs = [
        (scores, {"photo": str(number), "truth": "masks", "right": right})
        for number, (scores, right) in enumerate(SCORED)
    ]
    assert [score.name for score in columns if score.is_count] == ["cells"]
    found = {score.name: score_cell(score, pairs) for score in columns}
    assert found.keys() == VALUES.keys() | {"mask_iou", "pxap"}
    for name, value in VALUES.items():
        assert found[name][0] == pytest.approx(value), name
    counts = {"border_energy": 2, "ssim_mean": 2, "mask_iou": 0, "pxap": 0}  # what the others lack
    assert {name: cell[-1] for name, cell in found.items()} == dict.fromkeys(found, 3) | counts
    intervals = {name for name in VALUES if found[name][1] < found[name][2]}  # a share of all has one too
    assert {"pointing_15px", "all_peaks", "energy"} <= intervals and not {"adcc", "cells", "road"} & intervals
    energies = first_of_both(np.array([[1.0, 3.0], [0.0, 0.0]]))
    assert energies[0] == 0.25 and np.isnan(energies[1])


def test_numbers_in_tables():
    assert cell_text((0.5, 0.25, 0.75, 4)) == "0.500 (0.250 to 0.750)" and cell_text((NAN, NAN, NAN, 0)) == "-"
    assert cell_text((100.0, 90.4, 110.6, 4)) == "100 (90 to 111)"
    assert cell_text((99.9, 99.9, 99.9, 4)) == "99.900" and cell_text((0.5, NAN, NAN, 1)) == "0.500"
    assert cell_text((9216.4, 1.0, 2.0, 4), is_count=True) == "9,216"


def test_results_keep_six_digits_and_what_was_whole_when_killed(tmp_path):
    item = Item(tmp_path / "a.png", "a.png", "dog", None)
    other = Item(tmp_path / "b.png", "b.png", "dog", None)
    results = Results(tmp_path / "results.jsonl")
    numbers = {"some": [1 / 3, np.float32(2 / 3), NAN, np.int64(7)], "none": (), "yes": np.True_}
    results.add("net", "maps", item, maps={"net cam": numbers})
    kept = {"some": [0.333333, 0.666667, None, 7], "none": [], "yes": True}
    assert results.records[0]["maps"]["net cam"] == kept
    with open(tmp_path / "results.jsonl", "a") as file:
        file.write('{"network": "net", "part": "sam')
    results = Results(tmp_path / "results.jsonl")
    assert (tmp_path / "results.jsonl").read_text().count("\n") == len(results.records) == 1
    assert results.left("net", "maps", [item, other]) == [other]
    assert results.left("net", "sample", [item]) == results.left("other", "maps", [item]) == [item]
    assert results.of("net", "maps") == results.records and results.of("net", "sample") == []
    assert merged("net", results)["net cam"]["a.png#dog"][0] == kept
    (tmp_path / "results.jsonl").write_text('{"network": "net"}\n')
    with pytest.raises(UserError, match="is damaged .a line without scores of maps.; expected what the script wrote"):
        Results(tmp_path / "results.jsonl")


def test_a_share_of_all_or_none_has_an_interval():
    """Resampling 20 hits gives 20 hits: the interval is Wilson's, by R's binom.confint (of photos, two items each)."""
    pointing = next(score for score in LOCALISATION if score.name == "pointing")
    energy = next(score for score in LOCALISATION if score.name == "energy")
    for value, ends in ((1.0, (1 - 0.1611252, 1.0)), (0.0, (0.0, 0.1611252))):
        pairs = [({"pointing": value, "energy": value}, {"photo": f"{n // 2}"}) for n in range(40)]
        np.testing.assert_allclose(score_cell(pointing, pairs), (value, *ends, 40), atol=1e-6)
        assert score_cell(energy, pairs) == (value, value, value, 40)  # no share of items


def test_findings_stand_first_and_figures_below_their_tables(tmp_path):
    path, figure = tmp_path / "page.html", tmp_path / "some_bars.png"
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(figure)
    grids = [("First", ["map"], [["cam"]]), ("Second", ["map"], [["cam"]])]
    report = Report(["what <was> found."], grids, ["a remark."], [("Second", figure), ("Third", figure)])
    write_page(path, "Title", [], report=report)
    page = path.read_text("utf-8")
    place = -1
    for mark in (
        "what &lt;was&gt; found", "<nav", "First</h2>", "<table>", "Second</h2>", "<table>", "<img class", "Third</h2>",
        "<img class", "a remark", "Photos</h2>",
    ):  # fmt: skip
        place = page.index(mark, place + 1)
    assert re.findall("<li><a href=#part.>(.*?)</a>", page) == ["First", "Second", "Third", "Photos"]
    markdown = markdown_of("Title", grids, ["a remark."], ["found."])
    assert markdown.startswith("# Title\n\n- found.\n\n## First\n") and markdown.endswith("\n\n- a remark.\n")
