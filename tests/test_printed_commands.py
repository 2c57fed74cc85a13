"""Every command of a script that README, docs or a script's own help print is understood by that script, word for word.

What the commands do is tested with each script; here no option, choice or combination in a page is one that is refused.
"""

import importlib
import re
import shlex
import sys

import pytest
from conftest import ROOT

pytestmark = pytest.mark.any_backend
COMMAND = re.compile(r"(?:python3?|\.venv\S*/bin/python) ((?:[\w.]+/)*\w+\.py)\b((?:[^`\n\\]|\\\n)*)")
ENDS = re.compile(r"\s+(#|&|;|\||>|--depends)|[;)&\"']\s*(?=\W|$)|\s\s+(?=[a-z])")  # what follows is not the command's
# of positional arguments alone, or called by another program
WITHOUT_OPTIONS = "right_gradients.py fuzzed_readers.py killed_store.py plain_data.py".split()
NEEDED = {"--engine ray": "ray", "s3://": "s3fs", "--address": "ray"}  # what a command needs beside requirements.txt
SLURM = {"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_TASK_COUNT": "16", "SLURM_ARRAY_TASK_MIN": "1"}


def printed():
    """{(page, script, words after it)} of all pages and scripts."""
    found = set()
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("models/*.md"), *ROOT.glob("outputs/*.md")]
    folders = (ROOT / folder for folder in (".", "data", "benchmarks", "tests/tools"))
    scripts = [path for folder in folders for path in folder.glob("*.py")]
    for path in [*pages, *scripts]:
        text = path.read_text("utf-8")
        if path.suffix == ".py":
            text = text.split('"""')[1] if text.startswith('"""') else ""
        for script, words in COMMAND.findall(text):
            found.add((path.relative_to(ROOT).as_posix(), script, ENDS.split(words.replace("\\\n", " "))[0].strip()))
    return sorted(found)


def test_commands_are_found():
    scripts = [script for _, script, _ in printed()]
    assert len(scripts) > 80 and {"make_cam_maps.py", "tests/tools/kill_scripts.py"} <= set(scripts)


@pytest.mark.parametrize(("page", "script", "words"), printed(), ids=lambda value: value[:60])
def test_a_printed_command_is_understood(page, script, words, monkeypatch, capsys):
    folders = (ROOT, ROOT / "benchmarks", ROOT / "tests" / "tools")
    path = next((folder / script for folder in folders if (folder / script).is_file()), None)
    assert path, f"{page} names {script}"
    if path.name in WITHOUT_OPTIONS or path.name.startswith("test_") or re.search(r"\.\.\.|\$", words):
        return
    for part, package in NEEDED.items():
        if part in words:
            pytest.importorskip(package)
    monkeypatch.setattr(sys, "path", [str(path.parent), *sys.path])
    monkeypatch.setattr(sys, "argv", [str(path)])
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    try:
        importlib.import_module(path.stem).parse_arguments(shlex.split(words))
    except SystemExit as ended:
        pytest.fail(f"{page}: python {script} {words}: {capsys.readouterr().err or ended}")
