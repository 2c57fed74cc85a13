"""The house: what imports what, and how large a room may be. CONTRIBUTING.md says what each room is for."""

import ast

import pytest
from conftest import ROOT

pytestmark = pytest.mark.any_backend
GROUND = {"console", "files", "photos", "preprocessing", "memory", "precision", "backend"}
# Each may import from the rooms before it, beside its own; options is imported by scripts alone
FLOORS = [{"ground"}, {"demo", "networks", "plots"}, {"attribution"}, {"runs"}, {"evaluation"}, {"training"}]
FLOORS += [{"viewer", "explore"}, {"options"}, {"script"}]
FILES = sorted([*ROOT.glob("*.py"), *ROOT.glob("camlib/**/*.py")])


def room_of(name):
    """The room of a module: "attribution" of "camlib.attribution.cam"."""
    if name == "camlib" or not name.startswith("camlib."):
        return "face" if name == "camlib" else "script"
    part = name.split(".")[1]
    return "ground" if part in GROUND else part


def module_of(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in FILES}
TREES = {path: ast.parse(path.read_text("utf-8")) for path in FILES}


def imports_of(path):
    """The modules of this repository that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {node.module} | inside if inside & MODULES.keys() else {node.module}
    return {name for name in found if name in MODULES and name != "camlib"}


def floor_of(room):
    return next(number for number, rooms in enumerate(FLOORS) if room in rooms)


def test_no_arrow_leads_up():
    """The face of the package hands names on; the demo, which draws the default photos, stands on the ground."""
    up = []
    for name, path in MODULES.items():
        room = room_of(name)
        for other in imports_of(path) if room != "face" else ():
            target = room_of(other)
            beside = target != room and floor_of(target) == floor_of(room) and room != "script"
            if floor_of(target) > floor_of(room) or beside or (room != "script" and target in ("options", "script")):
                up.append(f"{name} imports {other}")
    assert up == []


def test_no_files_import_each_other_in_a_circle():
    arrows = {name: imports_of(path) - {name} for name, path in MODULES.items() if name != "camlib"}
    left = dict(arrows)
    while left:
        free = [name for name, targets in left.items() if not targets & left.keys()]
        assert free, f"circles among {sorted(left)}"
        for name in free:
            del left[name]


def test_rooms_and_files_are_small():
    rooms = sorted({path.parent for path in FILES if path.parent.parent.name == "camlib"})
    assert 7 <= len(rooms) <= 10 and len([path for path in FILES if path.parent.name == "camlib"]) <= 8
    modules = {room.name: [path for path in room.glob("*.py") if path.stem != "__init__"] for room in rooms}
    assert {name: len(of_room) for name, of_room in modules.items() if len(of_room) > 10} == {}
    later = ("store.py", "animals.py")  # drawings; and what becomes a folder of parts
    lengths = {path.name: len(path.read_text("utf-8").splitlines()) for path in FILES}
    assert {name: count for name, count in lengths.items() if count > 500 and name not in later} == {}


def test_every_name_stands_in_one_module():
    """Of the library: functions, classes and constants, but for those that a script defines for itself."""
    where = {}
    for name, path in MODULES.items():
        for node in TREES[path].body if room_of(name) not in ("script", "face") else ():
            names = [node.name] if isinstance(node, (ast.FunctionDef, ast.ClassDef)) else []
            if isinstance(node, ast.Assign) and not all(isinstance(target, ast.Subscript) for target in node.targets):
                names = [part.id for target in node.targets for part in ast.walk(target) if isinstance(part, ast.Name)]
            for one in names:
                where.setdefault(one, []).append(name)
    assert {one: modules for one, modules in where.items() if len(modules) > 1} == {}


def test_no_list_of_arguments_is_longer_than_seven():
    functions = [
        (path.name, node) for path in FILES for node in ast.walk(TREES[path]) if isinstance(node, ast.FunctionDef)
    ]
    lists = {
        f"{file}: {node.name}": [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        for file, node in functions
    }
    assert [name for name, of in lists.items() if len([one for one in of if one.arg not in ("self", "cls")]) > 7] == []
