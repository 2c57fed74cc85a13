"""How the scripts speak: tables on the terminal."""

import pytest

from camlib import console

pytestmark = pytest.mark.any_backend
HEADER, ROWS = ["map", "pointing", "energy"], [["cam", "0.915", "1.5"], ["grad-cam [block3]", "0.7", "10.25"]]


def test_numbers_are_aligned_and_names_are_text(capsys):
    console.print_table("Where [b]maps[/b] lie", HEADER, ROWS)
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert "grad-cam [block3]       0.7   10.25" in lines
    assert "cam                   0.915     1.5" in lines
    assert "map                pointing  energy" in lines


def test_columns_that_do_not_fit_are_named(capsys, monkeypatch):
    monkeypatch.setattr(console, "LOG_WIDTH", 30)
    console.print_table("narrow", HEADER, ROWS)
    out = capsys.readouterr().out
    assert "10.25" not in out and "0.915" in out
    assert out.splitlines()[-1] == "(1 more column does not fit: energy)"
