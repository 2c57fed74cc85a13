"""The commands whose tables stand in docs/reliability.md: fuzzing, kills, versions."""

import fuzz_readers
import kill_scripts
import numpy as np
import pytest
import try_versions
from conftest import make_run
from fuzzed_readers import READERS, line_of
from tables import put, rows

from camlib.console import UserError

pytestmark = pytest.mark.any_backend


def test_a_table_is_put_between_its_marks(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- kills -->\nold\n<!-- end of kills -->\nafter\n<!-- other -->\n")
    put(page, "kills", rows(["a", "b"], [[1, "x"]]))
    expected = (
        "before\n<!-- kills -->\n| a | b |\n| --- | --- |\n| 1 | x |\n<!-- end of kills -->\nafter\n<!-- other -->\n"
    )
    assert page.read_text() == expected
    for mark in ("versions", "other"):
        with pytest.raises(UserError, match=f"has no line <!-- {mark} -->"):
            put(page, mark, [])
    with pytest.raises(UserError, match="has no line"):
        put(tmp_path / "nowhere.md", "kills", [])
    assert page.read_text() == expected


@pytest.mark.parametrize(
    ("command", "words", "message"),
    [
        (fuzz_readers, ["phot"], "phot: expected some of model-hdf5"),
        (kill_scripts, ["map"], "map: expected some of maps, store"),
        (try_versions, ["3.11"], "3.11: expected PYTHON:RESOLUTION"),
    ],
)
def test_what_is_not_known_is_named(command, words, message, capsys):
    with pytest.raises(SystemExit):
        command.parse_arguments(words)
    assert message in capsys.readouterr().err


def test_all_readers_are_fuzzed_and_counted():
    assert fuzz_readers.parse_arguments([]).readers == list(READERS)
    counts = {"executions": 1000, "seconds": 120, "inputs": 5, "contained": 1, "findings": ["a"], "day": "2026-01-02"}
    pytest.importorskip("atheris", reason="its version stands below the table")
    assert "| photo | 2 | 1,000 | 5 | 1 | 1 |" in fuzz_readers.table({"photo": counts})


def test_the_line_that_an_error_came_from():
    try:
        put(None, "", [])
    except AttributeError as error:
        assert line_of(error) == "elsewhere"
    try:
        kill_scripts.find_saved(kill_scripts.Path("nowhere"))
    except UserError as error:
        assert line_of(error).startswith("maps.py-")


def test_what_differs_is_found(tmp_path):
    """A value, a row, a file too many, one that is left behind; not the last digit of a number, nor the command."""
    one = make_run(tmp_path / "one", ["x.jpg"])
    same, other = (make_run(tmp_path / name, ["x.jpg"]) for name in ("same", "other"))
    kill_scripts.damaged(tmp_path)
    assert kill_scripts.differing(one, same) == []
    maps = sorted(path for path in other.rglob("*.npy"))
    np.save(maps[0], np.load(maps[0]) + 1e-6)
    assert kill_scripts.differing(one, other) == []
    np.save(maps[0], np.load(maps[0]) + 0.1)
    (other / "more.txt").write_text("")
    (other / ".predictions.csv.partial").write_text("")
    found = kill_scripts.differing(one, other)
    assert found == ["more.txt", ".predictions.csv.partial", maps[0].relative_to(other).as_posix()]
    maps[0].write_bytes(maps[0].read_bytes()[:-1])
    with pytest.raises(ValueError, match="."):
        kill_scripts.damaged(other)
