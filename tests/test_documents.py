"""README and docs: their programs run as printed, their links lead somewhere, and they are as short as meant."""

import ast
import pkgutil
import re

import pytest
from conftest import ROOT

pytestmark = pytest.mark.any_backend
PAGES = sorted(
    path for path in (*ROOT.glob("*.md"), *ROOT.glob("*/*.md")) if "venv" not in str(path.relative_to(ROOT).parent)
)


def test_readmes_program_runs_as_printed(monkeypatch, capsys):
    (program,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    monkeypatch.chdir(ROOT)
    capsys.readouterr()
    exec(program, {"__name__": "__main__"})
    shapes, predicted = capsys.readouterr().out.splitlines()
    assert shapes == "(3, 2, 11, 11) (3, 2, 184, 184, 3)" and predicted == "[1 3]"


def test_links_lead_somewhere():
    found = {page: re.findall(r"\]\((?!http)([^)#]+)[^)]*\)", page.read_text("utf-8")) for page in PAGES}
    links = [(page, link) for page, of_page in found.items() for link in of_page]
    assert len(links) > 10
    assert [(page.name, link) for page, link in links if not (page.parent / link).exists()] == []


def test_files_and_names_of_the_library_are_there():
    """What pages, docstrings and the notebook say stands in camlib/...py or is called `camlib....`."""
    places = [*PAGES, *ROOT.glob("*.ipynb"), *ROOT.glob("*.py"), *ROOT.glob("camlib/**/*.py")]
    files, names = set(), set()
    for text in (place.read_text("utf-8") for place in places):
        files.update(re.findall(r"\bcamlib/[\w/]+\.py\b", text))
        names.update(re.findall(r"`(camlib(?:\.\w+)+)`", text))
    assert len(files) > 8 and len(names) > 3
    assert sorted(file for file in files if not (ROOT / file).exists()) == []
    for name in sorted(names):
        pkgutil.resolve_name(name)  # an ImportError or AttributeError that names it, where there is none


def test_pages_meant_to_be_short_are():
    readme, contributing = ((ROOT / name).read_text("utf-8") for name in ("README.md", "CONTRIBUTING.md"))
    first_screen = readme.split("\n## ")[0]
    assert len(first_screen.split()) <= 350 and len(readme.split()) <= 1200 and len(contributing.splitlines()) <= 80


def texts_in_code():
    """Every piece of text in scripts and camlib, f-strings cut at their values."""
    files = [*ROOT.glob("*.py"), *ROOT.glob("data/*.py"), *ROOT.glob("camlib/**/*.py")]
    trees = [ast.parse(path.read_text("utf-8")) for path in files]
    return "\0".join(
        node.value
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


def test_quoted_errors_are_the_codes():
    """Each line `error: ...` in the docs is what a script says, with `...` for what differs."""
    quoted = re.findall("^    error: (.*)", "\n".join(page.read_text("utf-8") for page in PAGES), re.MULTILINE)
    assert len(quoted) > 8
    texts = texts_in_code()
    parts = [part.strip(" .,();") for line in quoted for part in re.split(r"\.\.\.|\btensorflow is\b", line)]
    assert [part for part in parts if len(part) > 5 and part not in texts] == []
