"""What Keras does not promise: all of it is looked up at the start, and what is gone is named in one line."""

import ast
import re

import keras
import pytest
from conftest import ROOT

from camlib.attribution.tracing import PRIVATE, check_private_names, missing_names
from camlib.backend import CannotStart

pytestmark = pytest.mark.any_backend
SOURCES = [*ROOT.glob("*.py"), *ROOT.glob("camlib/*/*.py"), *ROOT.glob("camlib/*.py")]


def test_looking_changes_no_name_that_keras_gives():
    """And this Keras has them all."""
    keras.backend.clear_session()
    assert missing_names() == [] and keras.layers.ReLU().name == "re_lu"


def nodes(kind):
    """All parts of that kind of the sources."""
    return [node for path in SOURCES for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, kind)]


def test_every_private_import_is_looked_up():
    known = {f"{module}.{name.split('.')[0]}" for module, names in PRIVATE.items() for name in names} | set(PRIVATE)
    private = [node for node in nodes(ast.ImportFrom) if (node.module or "").startswith("keras.src")]
    used = {f"{node.module}.{alias.name}" for node in private for alias in node.names}
    assert len(used) > 10 and used <= known, used - known


def test_every_private_attribute_is_looked_up():
    """Of what is not ours: an underscore behind a dot, but for a named tuple's own, `os._exit` and `self`."""
    known = {part.removesuffix("()") for names in PRIVATE.values() for name in names for part in name.split(".")}
    private = [node for node in nodes(ast.Attribute) if re.match("_[a-z]", node.attr)]
    used = {node.attr for node in private if getattr(node.value, "id", None) not in ("self", "os")}
    used -= {"_replace", "_option_string_actions"}
    assert used <= known, used - known


def test_every_script_that_imports_keras_looks():
    """`camlib.backend` does, when it is imported."""
    for path in ROOT.glob("*.py"):
        text = path.read_text("utf-8")
        if re.search("^(import|from) keras", text, re.MULTILINE):
            assert "from camlib.backend import" in text, path


def test_what_is_gone_is_one_line(monkeypatch):
    """A Keras in which a function has another name, as a release may bring."""
    monkeypatch.delattr("keras.src.saving.saving_lib._save_state")
    with pytest.raises(CannotStart) as refused:
        check_private_names()
    assert str(refused.value) == (
        f"Keras {keras.__version__} has no keras.src.saving.saving_lib._save_state, which is used here; "
        "expected one of the versions that pip install -r requirements.txt installs"
    )
