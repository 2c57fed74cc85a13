"""What Keras does not promise: all of it is looked up at the start, and what is gone is named in one line."""

import ast
import re

import keras
import pytest
from conftest import ROOT

from camlib.attribution.private_keras import PRIVATE, missing_names
from camlib.attribution.tracing import OTHER_ACTIVATIONS, SOFTMAXES

pytestmark = pytest.mark.any_backend
SOURCES = [*ROOT.glob("*.py"), *ROOT.glob("camlib/*/*.py"), *ROOT.glob("camlib/*.py")]


def test_this_keras_has_them_all():
    assert missing_names() == []


def test_looking_changes_no_name_that_keras_gives():
    keras.backend.clear_session()
    assert missing_names() == [] and keras.layers.ReLU().name == "re_lu"


def test_every_private_import_is_looked_up():
    known = {f"{module}.{name.split('.')[0]}" for module, names in PRIVATE.items() for name in names} | set(PRIVATE)
    used = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("keras.src"):
                used |= {f"{node.module}.{alias.name}" for alias in node.names}
    assert len(used) > 10 and used <= known, used - known


def test_every_private_attribute_is_looked_up():
    """Of what is not ours: an underscore behind a dot, but for a named tuple's own, `os._exit` and `self`."""
    known = {part.removesuffix("()") for names in PRIVATE.values() for name in names for part in name.split(".")}
    used = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            is_private = isinstance(node, ast.Attribute) and re.match("_[a-z]", node.attr)
            if is_private and not (isinstance(node.value, ast.Name) and node.value.id in ("self", "os")):
                used.add(node.attr)
    used -= {"_replace", "_option_string_actions"}
    assert used <= known, used - known


def test_every_watched_activation_is_looked_up():
    assert {f"nn.{name}" for name in (*OTHER_ACTIVATIONS, *SOFTMAXES)} <= set(PRIVATE["keras.src.backend"])


def test_every_script_that_imports_keras_looks():
    """`camlib.backend` does, when it is imported."""
    for path in ROOT.glob("*.py"):
        text = path.read_text("utf-8")
        if re.search("^(import|from) keras", text, re.MULTILINE):
            assert "from camlib.backend import" in text, path


@pytest.mark.thorough
def test_what_is_gone_is_one_line(run_script, tmp_path):
    """A Keras in which a function has another name, as a release may bring; nothing else of it is changed."""
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.abc, importlib.machinery, sys\n"
        "class Renamed(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name != 'keras.src.saving.saving_lib':\n"
        "            return None\n"
        "        spec = importlib.machinery.PathFinder.find_spec(name, path)\n"
        "        run = spec.loader.exec_module\n"
        "        def exec_module(module):\n"
        "            run(module)\n"
        "            module._save_all = module.__dict__.pop('_save_state')\n"
        "        spec.loader.exec_module = exec_module\n"
        "        return spec\n"
        "sys.meta_path.insert(0, Renamed())\n"
    )
    result = run_script("train_cam_4class.py", environment={"PYTHONPATH": str(tmp_path)})
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr == (
        f"error: Keras {keras.__version__} has no keras.src.saving.saving_lib._save_state, which is used here; "
        "expected one of the versions that pip install -r requirements.txt installs\n"
    )
