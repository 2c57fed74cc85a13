"""Mutation testing: put small faults into the code, one at a time, and count how many of them the tests notice.

    python tests/tools/mutants.py --count 300 --jobs 2 --docs docs/reliability.md    # hours of a processor
    python tests/tools/mutants.py --count 20 --only camlib/evaluation/metrics.py

A fault is another comparison, operation, number or sign, or a condition turned round, drawn by the seed from all that
the code of ROOMS can have. Each is put into a copy of the repository, where those tests of its room that call the
function run, the quickest files first, until one fails. Libraries are imported once, and a process is forked for each
fault (not on Windows), since TensorFlow takes seconds to start: cosmic-ray, a ready-made tool, starts Python anew. The
same command tries again what was not noticed, and goes on; noticed faults count while their module is the same.
"""

import ast
import builtins
import importlib
import json
import math
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from datetime import date
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tables import put, rows

from camlib.console import ROOT, ArgumentParser, UserError, counted, run_script, whole_number
from camlib.files import file_sha256

ROOMS = {  # code -> its tests
    "camlib/attribution": "tests/attribution",
    "camlib/evaluation": "tests/evaluation",
    "camlib/plots/colours.py": "tests/plots",
    "camlib/training/batches.py": "tests/training",
}
LIBRARIES = "keras scipy.stats scipy.sparse.linalg scipy.ndimage skimage.metrics sklearn.metrics matplotlib.pyplot"
OTHERS = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.And: ast.Or, ast.Or: ast.And,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Pow: ast.Mult, ast.Mod: ast.Add, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip
PATIENCE, START = 3, 30  # times the processor time without a fault, and seconds, that tests may take; more is noticed
WAITING = 10  # times that again they may last, for a fault by which they wait for ever
RESULTS = Path("outputs/mutants.jsonl")
CALLS = "calls.json"  # in the copy: which functions each test calls


def parse_arguments(arguments=None):
    parser = ArgumentParser(__doc__)
    parser.add_argument("--count", type=whole_number(1, 100_000), default=300, metavar="N", help="faults to try")
    parser.add_argument("--seed", type=whole_number(0, 1_000_000), default=0, metavar="N", help="of the choice")
    parser.add_argument("--only", nargs="+", default=(), metavar="FILE", help="of these files alone")
    parser.add_argument("--jobs", type=whole_number(1, 100), default=1, metavar="N", help="processes side by side")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FILE", help="the faults noticed so far")
    parser.add_argument("--docs", type=Path, metavar="PAGE", help="put the table there")
    return parser.parse_args(arguments)


# ---------------------------------------------------------------- faults


NO_FAULTS = {"annotation", "returns", "decorator_list"}  # parts of nodes: types, and what changes no result


def places(tree):
    """The nodes of a module that a fault can change, in order: no texts, messages of errors, types or decorators.

    `strict=True` of a zip is left out as `raise` is: an assertion, which no input of the right code meets.
    """
    found, waiting = [], [tree]
    while waiting:
        node = waiting.pop()
        asserts = isinstance(node, ast.keyword) and node.arg == "strict"
        if asserts or isinstance(node, (ast.Raise, ast.JoinedStr, ast.Import, ast.ImportFrom)):
            continue
        number = isinstance(node, ast.Constant) and type(node.value) in (bool, int, float)
        operation = type(getattr(node, "op", None)) in OTHERS or isinstance(
            getattr(node, "op", None), (ast.USub, ast.Not)
        )
        if number or operation or (isinstance(node, ast.Compare) and type(node.ops[0]) in OTHERS):
            found.append(node)
        parts = [part for name, part in ast.iter_fields(node) if name not in NO_FAULTS]
        children = [child for part in parts for child in (part if isinstance(part, list) else [part])]
        waiting += [child for child in reversed(children) if isinstance(child, ast.AST)]
    return found


def changed(node):
    """Change a node of `places`: what it was and what it is, as text."""
    before = ast.unparse(node)
    if isinstance(node, ast.Constant):
        value = node.value
        node.value = (
            not value if isinstance(value, bool) else value + 1 if isinstance(value, int) else value * 1.5 or 1.0
        )
    elif isinstance(node, ast.Compare):
        node.ops[0] = OTHERS[type(node.ops[0])]()
    elif isinstance(node, ast.UnaryOp):  # -x is x, and not x is x
        node.op = ast.UAdd() if isinstance(node.op, ast.USub) else ast.Not()
        node.operand = node.operand if isinstance(node.op, ast.UAdd) else ast.UnaryOp(ast.Not(), node.operand)
    else:
        node.op = OTHERS[type(node.op)]()
    return before, ast.unparse(node)


def first_line(function):
    """Of a function, its decorators included."""
    return min(line.lineno for line in (function, *function.decorator_list))


def fault_of(path, number):
    """The fault at a file's place of that number.

    Returns:
        (line, text before, text after, first line of the function it is in or 0, the whole module's text).
    """
    tree = ast.parse(path.read_text("utf-8"))
    node = places(tree)[number]
    around = [
        first_line(function)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef) and function.lineno <= node.lineno <= function.end_lineno
    ]
    return node.lineno, *changed(node), max(around, default=0), ast.unparse(tree)


# ---------------------------------------------------------------- tests


class Calls:
    """A plugin of pytest that writes down which functions each test calls, and the processor time it takes.

    What is called while a fixture is made counts for all tests of the file.

    Args:
        folder: Path of the copy.
    """

    def __init__(self, folder):
        self.folder, self.found = folder, {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item):
        before = sum(os.times()[:4])
        result = yield
        if item.nodeid in self.found:  # one that a fixture skips is not called
            self.found[item.nodeid]["seconds"] = sum(os.times()[:4]) - before
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self, item):
        of_file = self.found.setdefault(item.nodeid.partition("::")[0], {"calls": set()})
        return (yield from self.called(of_file["calls"]))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item):
        self.found[item.nodeid] = {"calls": set()}
        return (yield from self.called(self.found[item.nodeid]["calls"]))

    def called(self, calls):
        builtins.CALLED.clear()
        result = yield
        calls |= builtins.CALLED
        return result

    def pytest_sessionfinish(self):
        (self.folder / CALLS).write_text(json.dumps(self.found, default=sorted))


def noting(tree, name):
    """The text of a module in which each function notes each call, in builtins.CALLED of its process."""
    for function in [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]:
        note = f"__import__('builtins').__dict__.setdefault('CALLED', set()).add('{name}:{first_line(function)}')"
        function.decorator_list = [one for one in function.decorator_list if "lru_cache" not in ast.unparse(one)]
        function.body.insert(ast.get_docstring(function) is not None, ast.parse(note).body[0])
    return ast.unparse(tree)


class Chosen:
    """A plugin of pytest that runs the chosen tests alone, in their order.

    Args:
        names: list of str, their node ids.
    """

    def __init__(self, names):
        self.places = {name: place for place, name in enumerate(names)}

    def pytest_collection_modifyitems(self, items):
        items[:] = sorted(
            (item for item in items if item.nodeid in self.places), key=lambda item: self.places[item.nodeid]
        )


def run_tests(folder, files, plugin, seconds=0):
    """Run tests in a copy of the repository, in a process forked for it, until one fails.

    Args:
        folder: Path of the copy.
        files: list of str, files and folders of tests.
        plugin: Calls or Chosen.
        seconds: int, of processor time that they may take; 0 for any number.

    Returns:
        "passed", "failed" or "too slow".
    """
    child = os.fork()
    if child:
        ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        return "too slow" if -ended in (signal.SIGXCPU, signal.SIGALRM) else "failed" if ended else "passed"
    if seconds:
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 10))
        signal.alarm(WAITING * seconds)
    os.chdir(folder)
    for stream in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    for name in [name for name in sys.modules if name.partition(".")[0] in ("camlib", "tables")]:
        del sys.modules[name]
    sys.path[:] = [str(folder), *(place for place in sys.path if not Path(place or ".").resolve().is_relative_to(ROOT))]
    os._exit(pytest.main(["-x", "-p", "no:cacheprovider", "-m", "not slow", *files], plugins=[plugin]))


def code_of(folder, room):
    """The modules of a room in a copy of the repository: list of Path."""
    return [folder / room] if room.endswith(".py") else sorted((folder / room).glob("*.py"))


def calls_of(folder, room):
    """Which functions each of a room's tests calls without a fault, as `Calls` writes them.

    Raises:
        UserError: a test fails without one, so that it tells nothing.
    """
    code = code_of(folder, room)
    for path in code:
        name = path.relative_to(folder)
        path.write_text(noting(ast.parse((ROOT / name).read_text("utf-8")), name.as_posix()), encoding="utf-8")
    passed = run_tests(folder, [ROOMS[room]], Calls(folder)) == "passed"
    for path in code:
        shutil.copy2(ROOT / path.relative_to(folder), path)
    if not passed:
        raise UserError(f"tests of {room} fail without a fault; expected pytest -m 'not slow' {ROOMS[room]} to pass")
    return json.loads((folder / CALLS).read_text())


def tests_of(calls, name, first_line):
    """The tests that call a function, the quickest first: list of (their file, their names, processor time they take).

    Args:
        calls: as `calls_of` makes them.
        name: Path of the module, in the repository.
        first_line: int, of the function, its decorators included; 0 for what no function holds: all tests.
    """
    key, files = f"{name.as_posix()}:{first_line}", {}
    for test in calls:
        file, _, rest = test.partition("::")
        if rest and (not first_line or key in calls[test]["calls"] or key in calls[file]["calls"]):
            files.setdefault(file, []).append(test)
    seconds = {file: sum(calls[test]["seconds"] for test in tests) for file, tests in files.items()}
    order = sorted(files, key=lambda file: (Path(file).stem != f"test_{name.stem}", seconds[file]))
    return [(file, sorted(files[file], key=lambda test: calls[test]["seconds"]), seconds[file]) for file in order]


def noticed(folder, tests):
    """How the tests, as `tests_of` makes them, end in a copy with a fault: file by file until one fails.

    A file is read only when the ones before have passed, since all of them together take seconds to read.
    """
    for file, names, seconds in tests:
        status = run_tests(folder, [file], Chosen(names), START + math.ceil(PATIENCE * seconds))
        if status != "passed":
            return status
    return "passed"


def copied(folder):
    """Copy the files that git knows, and link the demo set, which tests read."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in names.split("\0")[:-1]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    if (ROOT / "data" / "demo").is_dir():
        (folder / "data" / "demo").symlink_to(ROOT / "data" / "demo")


def key_of(path, number):
    """What tells a fault from others while its module is the same: str."""
    return f"{path.relative_to(ROOT).as_posix()} {number} {file_sha256(path)}"


def known_of(results):
    """The keys of faults that were noticed: set of str."""
    lines = results.read_text("utf-8").splitlines() if results.exists() else []
    return {found["fault"] for found in map(json.loads, lines) if found["status"] != "passed"}


def try_fault(folder, path, number, calls, results):
    """Try one fault in a copy, print how it ended, and add it to the results."""
    name, (line, before, after, first_line, text) = path.relative_to(ROOT), fault_of(path, number)
    tests = tests_of(calls, name, first_line)
    (folder / name).write_text(text, encoding="utf-8")
    status = noticed(folder, tests)
    shutil.copy2(path, folder / name)
    count = counted(sum(len(names) for _, names, _ in tests), "test")
    print(f"{status}: {name}:{line}: {before}  ->  {after}  ({count})", flush=True)
    with results.open("a", encoding="utf-8") as file:  # a line at once, so that several processes may
        file.write(json.dumps({"fault": key_of(path, number), "status": status}) + "\n")


def main(arguments=None):
    args = parse_arguments(arguments)
    files = {
        path: room
        for room in ROOMS
        for path in code_of(ROOT, room)
        if not args.only or str(path.relative_to(ROOT)) in args.only
    }
    faults = [(path, number) for path in files for number in range(len(places(ast.parse(path.read_text("utf-8")))))]
    chosen = random.Random(args.seed).sample(faults, min(args.count, len(faults)))
    sys.dont_write_bytecode = True
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    builtins.CALLED = set()
    for library in LIBRARIES.split():
        importlib.import_module(library)
    args.results.parent.mkdir(parents=True, exist_ok=True)
    known = known_of(args.results)
    left = [fault for fault in chosen if key_of(*fault) not in known]
    with tempfile.TemporaryDirectory() as made:
        folders = [Path(made).resolve() / str(number) for number in range(args.jobs)]
        for folder in (folders[0].parent, *folders):
            folder.mkdir(exist_ok=True)
            folder.chmod(0o755)  # some tests read as another user
        for folder in folders:
            copied(folder)
        calls = {room: calls_of(folders[0], room) for room in dict.fromkeys(files[path] for path, _ in left)}
        workers = []
        for number, folder in enumerate(folders):
            workers.append(os.fork())
            if not workers[-1]:
                try:
                    for path, place in left[number :: args.jobs]:
                        try_fault(folder, path, place, calls[files[path]], args.results)
                    os._exit(0)
                except BaseException:
                    traceback.print_exc()
                    os._exit(1)  # here, since the folders are not this process's to remove
        ended = [os.waitpid(worker, 0)[1] for worker in workers]
        if any(ended):
            raise UserError("a process ended early; expected the same command to go on")
    known = known_of(args.results)
    tried = Counter(files[path] for path, _ in chosen)
    found = Counter(files[path] for path, number in chosen if key_of(path, number) in known)
    print(f"{found.total()} of {counted(tried.total(), 'fault')} noticed")
    if args.docs:
        table = rows(["code", "faults", "noticed"], [[room, tried[room], found[room]] for room in tried])
        summary = (
            f"{found.total()} of {tried.total()} were noticed ({found.total() / tried.total():.0%}); {date.today()}."
        )
        put(args.docs, "mutants", [*table, "", summary])


if __name__ == "__main__":
    run_script(main)
