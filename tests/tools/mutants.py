"""Mutation testing: put small faults into the code, one at a time, and count how many of them the tests notice.

    python tests/tools/mutants.py --count 300 --docs docs/reliability.md    # minutes for each that is not noticed
    python tests/tools/mutants.py --count 20 --only camlib/evaluation/metrics.py

A fault is another comparison, operation, number or sign, or a condition turned round, drawn by the seed from all that
the code of ROOMS can have. Each is put into a copy of the repository, where the tests of its room run until one fails.
Libraries are imported once, and a process is forked for each fault (not on Windows), since TensorFlow takes seconds to
start: cosmic-ray, a ready-made tool, starts Python anew for each.
"""

import ast
import importlib
import math
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from datetime import date
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tables import put, rows

from camlib.console import ROOT, ArgumentParser, UserError, counted, duration, run_script, whole_number

ROOMS = {  # code -> its tests, those that find most first
    "camlib/attribution": "tests/attribution",
    "camlib/evaluation": "tests/evaluation",
    "camlib/plots/colours.py": "tests/plots",
    "camlib/training/batches.py": "tests/training/test_batches.py tests/training/test_distillation.py",
}
LIBRARIES = "keras scipy.stats scipy.sparse.linalg scipy.ndimage skimage.metrics sklearn.metrics matplotlib.pyplot"
OTHERS = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.And: ast.Or, ast.Or: ast.And,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Pow: ast.Mult, ast.Mod: ast.Add, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip
PATIENCE = 3  # times the processor time without a fault that tests may take; a fault by which they take more is noticed
WAITING = 10  # times that again they may last, for a fault by which they wait for ever


def parse_arguments(arguments=None):
    parser = ArgumentParser(__doc__)
    parser.add_argument("--count", type=whole_number(1, 100_000), default=300, metavar="N", help="faults to try")
    parser.add_argument("--seed", type=whole_number(0, 1_000_000), default=0, metavar="N", help="of the choice")
    parser.add_argument("--only", nargs="+", default=(), metavar="FILE", help="of these files alone")
    parser.add_argument("--docs", type=Path, metavar="PAGE", help="put the table there")
    return parser.parse_args(arguments)


# ---------------------------------------------------------------- faults


def places(tree):
    """The nodes of a module that a fault can change, in order: no texts, messages of errors, types or decorators."""
    found, waiting = [], [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, (ast.Raise, ast.JoinedStr, ast.Import, ast.ImportFrom)):
            continue
        number = isinstance(node, ast.Constant) and type(node.value) in (bool, int, float)
        operation = type(getattr(node, "op", None)) in OTHERS or isinstance(
            getattr(node, "op", None), (ast.USub, ast.Not)
        )
        if number or operation or (isinstance(node, ast.Compare) and type(node.ops[0]) in OTHERS):
            found.append(node)
        waiting += reversed(list(ast.iter_child_nodes(node)))
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


def fault_of(path, number):
    """(line, text before, text after, the whole module's text) of the fault at a file's place of that number."""
    tree = ast.parse(path.read_text("utf-8"))
    node = places(tree)[number]
    return node.lineno, *changed(node), ast.unparse(tree)


# ---------------------------------------------------------------- tests


def run_tests(folder, tests, seconds=0):
    """Run tests in a copy of the repository, in a process forked for it, until one fails.

    Args:
        folder: Path of the copy.
        tests: list of str, files and folders of tests.
        seconds: int, of processor time that they may take; 0 for any number.

    Returns:
        (status, seconds): "passed", "failed" or "too slow", and the processor time that they took.
    """
    child = os.fork()
    if child:
        _, status, used = os.wait4(child, 0)
        ended = os.waitstatus_to_exitcode(status)
        name = "too slow" if -ended in (signal.SIGXCPU, signal.SIGALRM) else "failed" if ended else "passed"
        return name, used.ru_utime + used.ru_stime
    if seconds:
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 10))
        signal.alarm(WAITING * seconds)
    os.chdir(folder)
    for stream in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    for name in [name for name in sys.modules if name.partition(".")[0] in ("camlib", "tables")]:
        del sys.modules[name]
    sys.path[:] = [str(folder), *(place for place in sys.path if not Path(place or ".").resolve().is_relative_to(ROOT))]
    os._exit(pytest.main(["-x", "-p", "no:cacheprovider", "-m", "not slow", *tests]))


def tests_of(name, room):
    """The tests of a file of code: that of its own name first, then those of its room."""
    own = Path(ROOMS[room].split()[0], f"test_{name.stem}.py")
    return [str(own)] * (ROOT / own).is_file() + ROOMS[room].split()


def seconds_of(folder, room):
    """The processor time that a room's tests may take: a number of times what they take without a fault.

    Raises:
        UserError: they fail without one, so that they tell nothing.
    """
    status, seconds = run_tests(folder, ROOMS[room].split())
    if status != "passed":
        raise UserError(f"tests of {room} fail without a fault; expected pytest -m 'not slow' {ROOMS[room]} to pass")
    return math.ceil(PATIENCE * seconds)


def copied(folder):
    """Copy the files that git knows, and link the demo set, which tests read."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in names.split("\0")[:-1]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    if (ROOT / "data" / "demo").is_dir():
        (folder / "data" / "demo").symlink_to(ROOT / "data" / "demo")


def main(arguments=None):
    args = parse_arguments(arguments)
    files = {
        path: room
        for room in ROOMS
        for path in ([ROOT / room] if room.endswith(".py") else sorted((ROOT / room).glob("*.py")))
        if not args.only or str(path.relative_to(ROOT)) in args.only
    }
    faults = [(path, number) for path in files for number in range(len(places(ast.parse(path.read_text("utf-8")))))]
    chosen = random.Random(args.seed).sample(faults, min(args.count, len(faults)))
    sys.dont_write_bytecode = True
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    for library in LIBRARIES.split():
        importlib.import_module(library)
    tried, found = Counter(), Counter()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made).resolve()
        folder.chmod(0o755)  # some tests read as another user
        copied(folder)
        seconds = {room: seconds_of(folder, room) for room in sorted({files[path] for path, _ in chosen})}
        print(
            "; ".join(f"tests of {room} may take {duration(limit)} of a processor" for room, limit in seconds.items()),
            flush=True,
        )
        for path, number in chosen:
            name, (line, before, after, text) = path.relative_to(ROOT), fault_of(path, number)
            (folder / name).write_text(text, encoding="utf-8")
            tests = tests_of(name, files[path])
            tried[files[path]] += 1
            status, _ = run_tests(folder, tests, seconds[files[path]])
            found[files[path]] += status != "passed"
            shutil.copy2(path, folder / name)
            print(f"{status}: {name}:{line}: {before}  ->  {after}", flush=True)
    print(f"{found.total()} of {counted(tried.total(), 'fault')} noticed")
    if args.docs:
        table = rows(["code", "faults", "noticed"], [[room, tried[room], found[room]] for room in tried])
        summary = (
            f"{found.total()} of {tried.total()} were noticed ({found.total() / tried.total():.0%}); {date.today()}."
        )
        put(args.docs, "mutants", [*table, "", summary])


if __name__ == "__main__":
    run_script(main)
