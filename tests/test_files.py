"""Readers of what strangers may have written: JSON, arrays, lists of predictions, annotations; CSV cells."""

import json
import os
import struct
import zipfile

import numpy as np
import pytest
from conftest import make_run

import show_heatmaps
from camlib.console import UserError
from camlib.evaluation.annotations import read_annotations
from camlib.files import csv_rows, csv_text, read_array, read_json
from camlib.runs.maps import MapError, find_saved, read_map

pytestmark = pytest.mark.any_backend
DEEP = "[" * 100_000


def npy(header, numbers=b""):
    """An .npy file with a header of its own."""
    text = header.encode().ljust(118) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + numbers


ARRAYS = {
    "a giant": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000, 1000000), }", bytes(64)),
    "negative sides": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-4, -4), }", bytes(64)),
    "cut off": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (4, 4), }", bytes(60)),
    "with more behind": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (4, 4), }", bytes(68)),
    "objects": npy("{'descr': '|O', 'fortran_order': False, 'shape': (4, 4), }", bytes(128)),
    "records": npy("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (4, 4), }", bytes(64)),
    "texts": npy("{'descr': '<U1', 'fortran_order': False, 'shape': (4, 4), }", bytes(64)),
    "no dtype": npy("{'descr': '<q9', 'fortran_order': False, 'shape': (4, 4), }", bytes(64)),
    "no header": npy("{'descr': __import__('os'), }"),
    "a header in a header": npy("(" * 5000),
    "another version": b"\x93NUMPY\x07\x00" + bytes(100),
    "text": b"no array",
    "nothing": b"",
    "a pickle": b"\x80\x04]\x94.",
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_no_array_of_a_strangers_is_believed(tmp_path, kind):
    (tmp_path / "heatmap_for_dog.npy").write_bytes(ARRAYS[kind])
    with pytest.raises(MapError, match="heatmap_for_dog.npy (cannot be read|holds)") as why:
        read_map(tmp_path / "heatmap_for_dog.npy")
    assert "\n" not in str(why.value) and len(str(why.value)) < 400


def test_archives_pipes_and_folders_are_no_arrays(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npy", "w") as archive:
        archive.writestr("x.npy", npy("{'descr': '<f4', 'fortran_order': False, 'shape': (4, 4), }", bytes(64)))
    os.mkfifo(tmp_path / "b.npy")  # without a writer: opening it would wait for ever
    (tmp_path / "c.npy").mkdir()
    for name in "abc":
        with pytest.raises(MapError, match=f"{name}.npy cannot be read"):
            read_map(tmp_path / f"{name}.npy")


@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<f2", "|u1", "<i8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_are_read_as_numpy_does(tmp_path, dtype, order):
    values = np.asarray(np.arange(12).reshape(3, 4), dtype, order=order)
    np.save(tmp_path / "a.npy", values)
    found = read_array(tmp_path / "a.npy")
    np.testing.assert_array_equal(found, np.load(tmp_path / "a.npy"))
    assert found.dtype == values.dtype


def test_json_of_a_strangers(tmp_path):
    path = tmp_path / "a.json"
    for content in (DEEP, '{"a": ' * 50_000, "", "{", "nonsense"):
        path.write_text(content)
        with pytest.raises(ValueError):
            read_json(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ValueError, match="no file"):
        read_json(path)


RECORDS = {
    "run.json": [DEEP, "[]", "{", '{"settings": 5}', '{"settings": {"method": [], "photos": {}, "class_names": 7}}',
                 '{"settings": {"method": "no such", "signed": "x", "class_names": [1], "photos": [null]}}'],
    "predictions.csv": ["", "path\n", "a,b\n1,2\n", "path,predicted,probability_dog\nx.jpg,dog,much\n",
                        "path,predicted\n../../x.jpg,dog\n", "path,predicted\n/etc/passwd,dog\n",
                        "path,predicted\n,dog\n",
                        "path,predicted,number\nx.jpg,dog,1.5\n", "path,predicted\na\0b.jpg,dog\n"],
}  # fmt: skip


@pytest.mark.parametrize(("name", "content"), [(name, one) for name, some in RECORDS.items() for one in some])
def test_records_of_a_strangers_run_are_one_line_or_do_not_matter(tmp_path, end_of, name, content):
    run = make_run(tmp_path / "run", ["x.jpg"])
    (run / name).write_text(content)
    try:
        code = show_heatmaps.main([str(run), "--save", str(tmp_path / "a.png")])
        assert code == 0 and name == "run.json"
    except UserError as error:
        assert name == "predictions.csv" and "\n" not in str(error) and len(str(error)) <= 300
        assert end_of(show_heatmaps.main, [run, "--html", tmp_path / "a.html"])[0] == 2


ANNOTATIONS = [
    DEEP,
    "5",
    "[5]",
    "{}",
    '["a"]',
    '[{"file": 5, "class": "dog", "width": 4, "height": 4}]',
    '[{"file": "a.jpg", "class": "dog", "width": 0, "height": 4}]',
    '[{"file": "a.jpg", "class": "dog", "width": 1e400, "height": 4}]',
    '[{"file": "a.jpg", "class": "dog", "width": 4, "height": 99999999999}]',
    '[{"file": "a.jpg", "class": "dog", "width": [4], "height": 4}]',
    '[{"file": "a.jpg", "class": "dog", "width": 4, "height": 4, "boxes": [[0, 0, Infinity, 4]]}]',
    '[{"file": "a.jpg", "class": "dog", "width": 4, "height": 4, "boxes": [[0, 0, NaN, 4]]}]',
    '[{"file": "a.jpg", "class": "dog", "width": 4, "height": 4, "boxes": 7}]',
]


@pytest.mark.parametrize("content", ANNOTATIONS)
def test_annotations_of_a_strangers_are_one_line(tmp_path, content):
    (tmp_path / "annotations.json").write_text(content)
    with pytest.raises(UserError, match="annotations.*expected") as why:
        read_annotations(tmp_path)
    assert "\n" not in str(why.value)


def test_sides_may_be_whole_floats(tmp_path):
    (tmp_path / "annotations.json").write_text(
        json.dumps([{"file": "a.jpg", "class": "dog", "width": 8.0, "height": 4}])
    )
    (one,) = read_annotations(tmp_path)
    assert (one.width, one.height) == (8, 4)


def test_cells_are_no_formulas_and_come_back_as_they_were():
    cells = ["-1.25", "+3", "1e5", "=1+1", "'=1", "''@x", "-a.png", "@", "'plain", "-", "=", "-1e3", "'-1", "=5",
             "+1-2", "\tx", "a\rb", "a\nb", "a\u2028b", 'a"b', "a,b", ""]  # fmt: skip
    text = csv_text([cells, [-1.5, 2]])
    assert csv_rows(text) == [cells, ["-1.5", "2"]]
    assert csv_text(csv_rows(text)) == text
    assert csv_rows(text + "half a row,") == [cells, ["-1.5", "2"]]


def test_saved_photos_of_ordinary_runs_are_all_found(tmp_path):
    names = ["a/x.jpg", "b..c.png", "..d.png", "e f.png"]
    assert [photo.name for photo in find_saved(make_run(tmp_path / "run", names))] == names
