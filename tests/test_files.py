"""Readers of what strangers may have written: JSON, arrays, lists of predictions, annotations; CSV cells."""

import io
import json
import os
import struct
import zipfile

import numpy as np
import pytest
from conftest import ended_within, make_run

import show_heatmaps
from camlib.console import UserError
from camlib.evaluation.annotations import read_annotations
from camlib.files import DamagedFile, csv_rows, csv_text, read_array, read_arrays, read_json, write_csv
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


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_what_has_the_name_of_a_half_written_file_is_left_alone(tmp_path, kind):
    """A folder of somebody's may hold a link of that name to a file of the user's, or a pipe that nobody reads."""
    mine, partial = tmp_path / "mine", tmp_path / ".a.csv.partial"
    mine.write_text("years of work")
    partial.symlink_to(mine) if kind == "link" else os.mkfifo(partial)
    with ended_within(20):
        write_csv(tmp_path / "a.csv", [["a", "b"]])
    assert mine.read_text() == "years of work" and (tmp_path / "a.csv").read_text() == "a,b\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "mine"]


def test_archives_of_arrays_that_are_none(tmp_path):
    """A pipe, which has no end, and an array whose packing is damaged."""
    os.mkfifo(tmp_path / "pipe.npz")
    with zipfile.ZipFile(tmp_path / "lzma.npz", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a.npy", npy("{'descr': '<f4', 'fortran_order': False, 'shape': (4, 4), }", bytes(64)))
    content = bytearray((tmp_path / "lzma.npz").read_bytes())
    begin = 30 + len("a.npy") + 9  # behind the member's header and the properties of LZMA
    content[begin : begin + 20] = bytes(range(100, 120))
    (tmp_path / "lzma.npz").write_bytes(content)
    for name in ("pipe.npz", "lzma.npz"):
        with ended_within(20), pytest.raises(DamagedFile, match=f"{name} is damaged"):
            read_arrays(tmp_path / name)


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
    path.write_text("[" + "[]," * 16_000_000 + "[]]")  # would take a gigabyte
    with pytest.raises(ValueError, match="more than 16,000,000 values"):
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


def claims_6_gb(run):
    with open(run / "b" / "heatmap_for_dog.npy", "wb") as file:
        file.write(npy("{'descr': '<f4', 'fortran_order': False, 'shape': (40000, 40000), }"))
        file.truncate(file.tell() + 4 * 40_000**2)


def with_map(values):
    return lambda run: np.save(run / "b" / "heatmap_for_dog.npy", values)


def with_pipe(name):
    def make(run):
        (run / name).unlink(missing_ok=True)
        os.mkfifo(run / name)

    return make


def with_row(name="b.jpg", predicted="dog", dog="0.5"):
    """Another photo's row between the others of predictions.csv."""

    def write(run):
        header, first, *rest = (run / "predictions.csv").read_text().splitlines()
        row = [
            {"path": name, "predicted": predicted, "probability_dog": dog}.get(key, "0") for key in header.split(",")
        ]
        (run / "predictions.csv").write_text("\n".join([header, first, ",".join(row), *rest]) + "\n")

    return write


def with_settings(**settings):
    return lambda run: (run / "run.json").write_text(json.dumps({"settings": settings}))


DAMAGED_ENTRIES = {
    "an array that claims 6 GB": (claims_6_gb, "longer than 1,024 MB"),
    "numbers beyond float32": (with_map(np.full((6, 8), 1e300)), "finite numbers of float32"),
    "a map of one line": (with_map(np.ones((1, 200_000))), "H and W up to"),
    "a map that is a pipe": (with_pipe("b/heatmap_for_dog.npy"), "a pipe or a device"),
    "a photo that is a pipe": (with_pipe("b/photo.jpg"), "empty file"),
    "a list that is a pipe": (with_pipe("predictions-1-of-2.csv"), "predictions-1-of-2.csv cannot be read (no file"),
    "a record that is a pipe": (with_pipe("run.json"), ""),
    "a name of 5,000 letters": (with_row("c" * 5000 + ".jpg"), "a photo called 'cc"),
    "a name of 5,000 folders": (with_row("c/" * 5000 + "d.jpg"), "a photo called 'c/c"),
    "a name with NUL": (with_row("c\0.jpg"), "a photo called 'c"),
    "no name": (with_row(""), "a photo called ''"),
    "a name that leads elsewhere": (with_row("../c.jpg"), "a photo called '../c.jpg'"),
    "no number": (with_row("c.jpg", dog="much"), "could not convert"),
    "a class of 100,000 letters": (with_row("b.jpg", "d" * 100_000), ""),
    "a place of 5,000 letters": (with_settings(photos=["/" + "a" * 5000], no_pictures=True), ""),
    "a place with NUL": (with_settings(photos=["/a\0", "/b"]), ""),
    "a layer of 100,000 letters": (with_settings(layer="a" * 100_000, model="b" * 100_000), ""),
}


@pytest.mark.parametrize("name", DAMAGED_ENTRIES)
def test_one_damaged_entry_is_left_out_and_the_rest_is_shown(tmp_path, capsys, name):
    damage, said = DAMAGED_ENTRIES[name]
    run = make_run(tmp_path / "run", ["a.jpg", "b.jpg"])
    damage(run)
    capsys.readouterr()
    with ended_within(20):
        assert show_heatmaps.main([str(run), "--save", str(tmp_path / "a.png"), "--photo", "a.jpg"]) == 0
        assert show_heatmaps.main([str(run), "--sheet", str(tmp_path / "s.png")]) in (0, 1)
        assert show_heatmaps.main([str(run), "--html", str(tmp_path / "a.html")]) in (0, 1)
    assert said in capsys.readouterr().out
    page = (tmp_path / "a.html").read_text()
    assert '"name": "a.jpg"' in page


@pytest.mark.parametrize(
    "settings",
    [{"extent": [-16, -16, 16, 16]}, {"fit": "letterbox", "input_size": [1, 8192]}],
    ids=["extent", "letterbox"],
)
def test_maps_that_would_be_drawn_a_thousand_times_as_large_as_their_photo_are_refused(tmp_path, settings, end_of):
    """A record of somebody's may say so: a map of a gigabyte or more, of which a thousandth is seen."""
    run = make_run(tmp_path / "run", ["a.jpg"])
    with_settings(**settings)(run)
    with ended_within(60):
        code, said = end_of(show_heatmaps.main, [run, "--save", tmp_path / "a.png"])
    assert code == 2 and said.startswith("error: maps cover more than 64 times their photo; expected")
    assert said.count("\n") == 1 and not (tmp_path / "a.png").exists()


def test_thousands_of_class_folders_given_one_by_one_are_not_asked_for_each_photo(tmp_path):
    """As by my_photos/*/: each photo's name begins with that of its folder."""
    places = [tmp_path / "photos" / f"c{number}" for number in range(3000)]
    places[7].mkdir(parents=True)
    (places[7] / "b.jpg").touch()
    names = [f"c{number % 3000}/{number}.jpg" for number in range(10_000)]
    run = tmp_path / "run"
    run.mkdir()
    rows = "".join(f"{name},c1,0.5\n" for name in [*names, "c7/b.jpg"])
    (run / "predictions.csv").write_text(f"path,predicted,probability_c1\n{rows}")
    with_settings(photos=list(map(str, places)), class_names=["c1", "c7"])(run)
    with ended_within(60):
        truths = [photo.truth for photo in find_saved(run)]
    assert truths == [name.split("/")[0] if name.split("/")[0] in ("c1", "c7") else None for name in [*names, "c7/"]]
    assert find_saved(run)[-1].sources == [places[7] / "b.jpg"]


def test_photos_given_one_by_one_take_time_with_their_number(tmp_path):
    """Where each photo may be is asked of all places at once: thousands in seconds, not millions of looks."""
    names = [f"{number}.jpg" for number in range(3000)]
    (tmp_path / "run").mkdir()
    rows = "".join(f"{name},dog,0.5\n" for name in names)
    (tmp_path / "run" / "predictions.csv").write_text(f"path,predicted,probability_dog\n{rows}")
    places = [str(tmp_path / "photos" / name) for name in names]
    (tmp_path / "run" / "run.json").write_text(json.dumps({"settings": {"photos": places, "class_names": ["dog"]}}))
    with ended_within(10):
        found = find_saved(tmp_path / "run")
        sources = [photo.sources for photo in found]
        assert [photo.truth for photo in found] == [None] * 3000
    assert sources == [[tmp_path / "photos" / name] for name in names]


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
    for more in ("", "half a row,", "\0" * 2**26):  # a file may be cut off, or claim gigabytes that it has not
        assert csv_rows(io.StringIO(text + more, newline="")) == [cells, ["-1.5", "2"]]
    assert csv_text(csv_rows(io.StringIO(text, newline=""))) == text


def test_saved_photos_of_ordinary_runs_are_all_found(tmp_path):
    names = ["a/x.jpg", "b..c.png", "..d.png", "e f.png"]
    assert [photo.name for photo in find_saved(make_run(tmp_path / "run", names))] == names
