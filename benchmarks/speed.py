"""Time this repository and five other tools at the same maps of the same network, beside its plain forward pass.

    pip install -r requirements-parity.txt && pip install --no-deps xplique==2.0.2
    python benchmarks/speed.py --minutes 9                     # again and again, until nothing is left
    python benchmarks/speed.py --cases cam grad-cam --batches 8 --tools ours-tensorflow xplique --again
    python benchmarks/speed.py --quick                         # does it run? small photos, a minute or two
    python benchmarks/speed.py --tools ours-jax --batches 8 64 256 1024 4096         # a GPU under JAX, no TensorFlow

VGG-16 at 224x224 with the shipped weights, and the pooling-free network for CAM. Each tool runs in a process of its
own, its networks compiled and its first call made before any is timed; then they take turns for five rounds, so that
other programs slow all of them alike, and each round of a tool times a plain forward pass in its own framework too. A
peer's way is the one of its documentation, with enlarging and scaling of maps left out where it has a switch for that.
A batch that memory does not hold is refused, as is whatever else a tool does not do. Writes speed.csv, which the same
command goes on from; prints the table of batch 8, beside the limits that were set for ours, which --docs puts into
pages; README.md gets a summary.
"""

import contextlib
import dataclasses
import json
import math
import shutil
import sys
import textwrap
import time
from concurrent.futures.process import BrokenProcessPool
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "tools"))

from tables import put

from benchmarks import speed_peers, timing
from benchmarks.speed_peers import CASES, GRADIENTS, OURS, SCORES, TOOLS, installed
from benchmarks.timing import Worker, ratios, seconds_of, spread, take_turns
from camlib.console import ArgumentParser, UserError, counted, run_script, whole_number
from camlib.networks import GAP_NETWORK, VGG_NETWORK
from camlib.networks.reader import read_contents
from camlib.photos import SHIPPED_PHOTOS, find_photos, read_network_input
from camlib.preprocessing import checked_input_spec

ROUNDS, QUICK_ROUNDS, QUICK_SIZE = 5, 2, 64
AGREED = {"float32": 1e-4, "bfloat16": 0.05}  # how far logits of the same weights may lie apart, of the largest
OF_PHOTO = ("gradient", *GRADIENTS, *SCORES)
SHOWN, SHOWN_BATCH = ("forward", "cam", "grad-cam", "grad-cam-4", "guided", "all-three", *OF_PHOTO), 8  # in the table

# ---------------------------------------------------------------- options


def parse_arguments(arguments=None):
    parser = ArgumentParser(__doc__)
    cases, tools, dtypes = ", ".join(CASES), ", ".join(TOOLS), ", ".join(AGREED)
    several = {"nargs": "+", "metavar": "NAME"}
    parser.add_argument("--cases", default=list(CASES), choices=CASES, help=f"{cases}; default: all", **several)
    parser.add_argument("--tools", default=list(TOOLS), choices=TOOLS, help=f"{tools}; default: installed", **several)
    parser.add_argument("--dtypes", default=["float32"], choices=AGREED, help=dtypes, **several)
    number = whole_number(1, 10**6)
    parser.add_argument("--batches", nargs="+", type=number, metavar="N", help="photos at once; default: the case's")
    parser.add_argument("--minutes", type=float, default=math.inf, metavar="M", help="begin nothing new after that")
    parser.add_argument("--again", action="store_true", help="measure anew what is measured already")
    parser.add_argument("--quick", action="store_true", help="photos of 64x64, one at once, two rounds")
    parser.add_argument("--output", type=Path, default=timing.OUTPUT, metavar="DIR", help="folder of speed.csv")
    parser.add_argument("--docs", nargs="+", type=Path, default=[], metavar="PAGE", help="put the tables there as well")
    parser.add_argument("--tables-only", action="store_true", help="measure nothing; make them of speed.csv")
    return parser.parse_args(arguments)


# ---------------------------------------------------------------- rows


def numbers(text):
    return tuple(map(float, text.split()))


def number(text):
    return float(text) if text else None


class Row(NamedTuple):
    """What was measured of one tool.

    Attributes:
        tool, case, dtype: keys of TOOLS and CASES, and "float32" or "bfloat16".
        batch, size: int, photos at once, their height and width.
        seconds, forward_seconds: tuples of float, each round's time of the tool, and of a plain forward pass of the
            same network in the same framework right beside it; of a Case with samples, of a pass for each, backward
            too where the method takes gradients. Empty where the tool refuses.
        refuses: str, why it makes nothing, or "".
        first_call_s: float, of the first call, which compiles; None where it refuses.
        peak_mb: float, the most memory of the process, or of a GPU for it.
        agreement: float, the least correlation of a map with ours over photos and classes; None of ours itself.
        measured: str, when its rounds began; rows with the same were measured in turns.
        device, hardware, versions: str.
    """

    tool: str
    case: str
    dtype: str
    batch: int
    size: int
    seconds: numbers = ()
    forward_seconds: numbers = ()
    refuses: str = ""
    first_call_s: number = None
    peak_mb: number = None
    agreement: number = None
    measured: str = ""
    device: str = "CPU"
    hardware: str = ""
    versions: str = ""

    @property
    def key(self):
        """What tells it from other rows."""
        return self.tool, self.case, self.dtype, self.batch, self.size, self.device, self.hardware

    @property
    def photo_ms(self):
        """(median, least, largest) milliseconds a photo over the rounds; nothing where the tool refuses."""
        return spread([1000 * seconds / self.batch for seconds in self.seconds]) if self.seconds else ()

    @property
    def ratio(self):
        """(median, least, largest) time beside the plain forward pass of the same round."""
        return ratios(self.seconds, self.forward_seconds) if self.seconds else ()

    def __str__(self):
        """ "260 ms (1.05; 1.01-1.10)": a photo's time, and how it lies to the forward pass, median and spread."""
        if self.refuses:
            return "refuses"
        digits = "{:,.0f}" if self.photo_ms[0] >= 100 else "{:.3g}"
        beside = "" if self.case == "forward" else " ({:.2f}; {:.2f}-{:.2f})".format(*self.ratio)
        return f"{digits.format(self.photo_ms[0])} ms{beside}"


def merged(rows, newer):
    """The rows, each replaced by a newer one of the same key, in the order of cases, batches, dtypes and tools."""
    found = {row.key: row for row in (*rows, *newer)}

    def place(row):
        kind = list(CASES).index(row.case), row.dtype != "float32", row.batch, list(TOOLS).index(row.tool)
        return row.hardware, row.device, *kind

    return sorted(found.values(), key=place)


# ---------------------------------------------------------------- a tool's process

STATE = {}  # of it: functions without arguments that make the maps and run a forward pass


def begin(tool, case, dtype, images):
    """Build the network: (device, logits of the first photo)."""
    make, plain, logits = speed_peers.start(tool, CASES[case], dtype, images)
    STATE.update(make=make, forward=plain)
    if TOOLS[tool].backend == "torch":
        return "CPU", logits(images[:1])

    from camlib.backend import device_name

    return device_name(), logits(images[:1])


def first_call():
    """(seconds of the first call, which compiles, the maps it made)."""
    seconds, _, maps = seconds_of(STATE["make"])
    STATE["forward"]()
    return seconds, maps


def turn():
    """(seconds of the maps, seconds of a plain forward pass); each goes first in every other turn."""
    times = {name: seconds_of(function)[0] for name, function in STATE.items()}
    first = next(iter(STATE))
    STATE[first] = STATE.pop(first)  # to the end
    return times["make"], times["forward"]


class Lane(Worker):
    """A tool at one case, in its process; where that refuses something, it is asked for nothing more."""

    def __init__(self, tool, dtype):
        super().__init__(TOOLS[tool].backend)
        self.tool, self.dtype, self.refuses = tool, dtype, ""

    def ask(self, function, *arguments):
        """What a function returns in the process; None where it refuses."""
        if not self.refuses:
            try:
                return self.call(function, *arguments)
            except (UserError, BrokenProcessPool) as error:
                self.refuses = str(error)
        return None


# ---------------------------------------------------------------- measuring


def photos(case, batch, size):
    """Photos of data/photos, one after another and again, as the case's network takes them: float32 (N, size, size, 3).

    Of noise, or of numbers in another range, the shipped VGG-16 sees nothing: its maps would be zero.
    """
    contents = read_contents(VGG_NETWORK if CASES[case].pooling else GAP_NETWORK)
    input_spec = dataclasses.replace(checked_input_spec(json.loads(contents.input_spec)), height=size, width=size)
    pixels = [read_network_input(photo.path, input_spec) for photo in find_photos([SHIPPED_PHOTOS])[:batch]]
    return input_spec.prepare(np.stack([pixels[number % len(pixels)] for number in range(batch)]))


def correlation(maps, reference):
    """The least correlation of maps with others, over classes, photos and kinds; None where there is none.

    Args:
        maps, reference: dict of kind -> float (R, N, h, w) or (R, N, H, W, 3). Where the sizes differ the reference's
            maps are enlarged to those of the others, bilinearly. Maps that are the same everywhere are left out.
    """
    found = []
    for kind in maps.keys() & reference.keys():
        pairs = (values[kind].reshape(-1, *values[kind].shape[2:]) for values in (maps, reference))
        for one, other in zip(*pairs, strict=True):
            if other.shape != one.shape:
                other = cv2.resize(other, one.shape[1::-1], interpolation=cv2.INTER_LINEAR)
            if np.ptp(one) > 0 and np.ptp(other) > 0:
                found.append(np.corrcoef(one.ravel().astype(np.float64), other.ravel().astype(np.float64))[0, 1])
    return float(min(found)) if found else None


def check_logits(lanes, logits):
    """Let every lane refuse whose network does not give the first one's logits: it would time another network."""
    reference = next((one for one, lane in zip(logits, lanes, strict=True) if not lane.refuses), None)
    for lane, found in zip(lanes, logits, strict=True):
        if not lane.refuses:
            gap = np.abs(np.subtract(found, reference)).max() / np.abs(reference).max()
            if not gap <= AGREED[lane.dtype]:
                lane.refuses = f"its network's logits differ by {gap:.1e} of the largest"


def measure(case, batch, size, pairs, rounds):
    """Time tools at one case in turns.

    Args:
        case: str, a key of CASES.
        batch, size: int.
        pairs: list of (tool, dtype); the first that does not refuse is what the others' maps are compared with.
        rounds: int.

    Returns:
        list of Row, one for each pair.
    """
    began, images = f"{datetime.now():%Y-%m-%d %H:%M:%S}", photos(case, batch, size)
    with contextlib.ExitStack() as held:
        lanes = [held.enter_context(Lane(*pair)) for pair in pairs]
        begun = [lane.ask(begin, lane.tool, case, lane.dtype, images) or ("CPU", None) for lane in lanes]
        check_logits(lanes, [logits for _, logits in begun])
        firsts = [lane.ask(first_call) for lane in lanes]
        turns = take_turns([partial(lane.ask, turn) for lane in lanes], rounds)
        peaks = [lane.ask(timing.peak_memory) for lane in lanes]
    rows, reference = [], None
    for lane, (device, _), first, times, peak in zip(lanes, begun, firsts, turns, peaks, strict=True):
        key = lane.tool, case, lane.dtype, batch, size
        about = [began, device, timing.hardware(), versions_of(lane.tool)]
        if lane.refuses:
            rows.append(Row(*key, (), (), lane.refuses, None, None, None, *about))
            continue
        agreement, reference = (correlation(first[1], reference), reference) if reference else (None, first[1])
        rows.append(Row(*key, *zip(*times, strict=True), "", first[0], peak / 1e6, agreement, *about))
    return rows


def versions_of(tool):
    return timing.versions(TOOLS[tool].package, TOOLS[tool].backend)


def measured_already(rows):
    """{(tool, case, dtype, batch, size)} of rows of this machine and of the versions that are installed."""
    known, here = {tool: versions_of(tool) for tool in TOOLS}, timing.hardware()
    return {row.key[:5] for row in rows if row.hardware == here and row.versions == known[row.tool]}


def groups_of(settings, done):
    """What is to be measured: list of (case, batch, size, [(tool, dtype)]), each of which takes turns.

    One of ours is among them, since it is what maps are compared with. A group without anything new is left out.

    Args:
        done: set of (tool, case, dtype, batch, size).
    """
    tools = [tool for tool in settings.tools if installed(tool)]
    if not any(tool in OURS for tool in tools):
        tools += [tool for tool in OURS if installed(tool)][:1]
    tools.sort(key=list(TOOLS).index)
    groups = []
    for name in dict.fromkeys(settings.cases):
        size = QUICK_SIZE if settings.quick else CASES[name].size
        for batch in [1] if settings.quick else settings.batches or CASES[name].batches:
            pairs = [(tool, dtype) for dtype in settings.dtypes for tool in tools if name in TOOLS[tool].cases]
            keys = {(tool, name, dtype, batch, size) for tool, dtype in pairs if tool in settings.tools}
            if keys - done:
                groups.append((name, batch, size, pairs))
    return groups


def measure_all(settings, path):
    """Measure what is left, and keep each group's rows as soon as they are there. Returns all rows."""
    rows, began = timing.read_rows(path, Row), time.monotonic()
    done = set() if settings.again else measured_already(rows)
    groups = groups_of(settings, done)
    for number, group in enumerate(groups):
        if time.monotonic() - began > 60 * settings.minutes:
            print(f"{counted(len(groups) - number, 'group')} left; the same command goes on from here")
            break
        found = measure(*group, QUICK_ROUNDS if settings.quick else ROUNDS)
        rows = merged(rows, [row for row in found if row.key[:5] not in done])
        timing.write_rows(path, rows, ["photo_ms", "ratio"])
        for row in found:
            title = f"{CASES[row.case].title}, batch {row.batch}, {TOOLS[row.tool].title}, {row.dtype}"
            print(f"{title}: {row.refuses or f'{row} a photo'}", flush=True)
    return rows


# ---------------------------------------------------------------- what it means


def shown_rows(rows):
    """{case: {tool: Row}} for the table: float32, SHOWN_BATCH photos at once or, where that is missing, the most."""
    shown = {}
    for case in SHOWN:
        whole = [row for row in rows if row.case == case and row.dtype == "float32"]
        batches = {row.batch for row in whole}
        batch = SHOWN_BATCH if SHOWN_BATCH in batches else max(batches, default=0)
        shown[case] = {row.tool: row for row in whole if row.batch == batch}
    return shown


def machine_of(row):
    return row.hardware if row.device == "CPU" else f"{row.device} of {row.hardware}"


def table(rows):
    """Milliseconds a photo of one machine: a line for each kind of map and a column for each tool, in Markdown."""
    shown = {case: found for case, found in shown_rows(rows).items() if found}
    of_cases = [row for found in shown.values() for row in found.values()]
    tools = [tool for tool in TOOLS if any(row.tool == tool for row in of_cases)]
    lines = []
    for case, found in shown.items():
        cells = [str(found.get(tool, "")) for tool in tools]
        lines.append([CASES[case].title, *cells, f"{CASES[case].most:.2f}" if CASES[case].most else ""])
    versions = ", ".join(dict.fromkeys(part for row in of_cases for part in row.versions.split(", ")))
    batch = ", ".join(dict.fromkeys(f"batch {row.batch}" for row in of_cases))
    header = ["ms a photo (of a forward pass)", *(TOOLS[tool].title for tool in tools), "our limit"]
    return f"{machine_of(rows[0])}; {versions}; {batch}\n\n{timing.markdown_table(header, lines)}"


def summary(rows):
    """The most telling numbers in five lines at most, for README: times beside a plain forward pass."""
    parts, shown = [f"On {machine_of(rows[0])}, in plain forward passes of the same network"], shown_rows(rows)
    for case in ("grad-cam", "all-three", "cam"):
        found = [row for row in shown[case].values() if row.seconds]
        told = ", ".join(f"{TOOLS[row.tool].title.replace(', ', ' on ')} {row.ratio[0]:.2f}" for row in found)
        parts += [f"{CASES[case].title} {told}"] if found else []
    return textwrap.fill(f"{'; '.join(parts)}.", 118)


def main(arguments=None):
    settings = parse_arguments(arguments)
    path = settings.output / ("speed_quick.csv" if settings.quick else "speed.csv")
    settings.output.mkdir(parents=True, exist_ok=True)
    for tool in settings.tools:
        if not installed(tool) and not settings.tables_only:
            print(f"{TOOLS[tool].title} is not installed and left out")
    if not settings.tables_only and not any(map(installed, OURS)):
        raise UserError("neither tensorflow nor jax is installed; expected pip install -r requirements.txt")
    rows = timing.read_rows(path, Row) if settings.tables_only else measure_all(settings, path)
    if not rows:
        raise UserError(f"{path} holds nothing measured; expected the same command without --tables-only first")
    machines = dict.fromkeys((row.hardware, row.device) for row in rows)
    of_machines = [[row for row in rows if (row.hardware, row.device) == one] for one in machines]
    tables = "\n\n".join(map(table, of_machines))
    linked = f"{tables}\n\nAll numbers: [{path.name}]({path.name})"
    for page in settings.docs:
        is_readme = page.name == "README.md"
        put(page, "speed", (summary(of_machines[0]) if is_readme else linked).splitlines())
        if not (is_readme or path.parent.samefile(page.parent)):
            shutil.copy(path, page.parent)
    print(f"{tables}\n\nwrote {path}")


if __name__ == "__main__":
    run_script(main)
