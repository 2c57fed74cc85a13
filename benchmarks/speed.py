"""Time this repository and five other tools at the same maps of the same network, beside its plain forward pass.

    pip install -r requirements-parity.txt
    python benchmarks/speed.py --minutes 9                     # again and again, until nothing is left
    python benchmarks/speed.py --cases cam grad-cam --batches 8 --tools ours-tensorflow xplique --again
    python benchmarks/speed.py --quick                         # does it run? a small network, half a minute
    python benchmarks/speed.py --tools ours-jax                # a GPU under JAX, without TensorFlow

VGG-16 at 224x224 with the shipped weights, and the pooling-free network for CAM, float32, and bfloat16 where the
processor has it. Each tool runs in a process of its own, its networks compiled and its first call made before any is
timed; then they take turns for at least five rounds, so that other programs slow all of them alike, and each round of a
tool times a plain forward pass in its own framework too. A peer's way is the one of its documentation, with enlarging
and scaling of maps left out where it has a switch for that. Writes speed.csv, which the same command goes on from,
speed.md and speed.png, and with --docs the tables into pages; ends with what lies within the limits, and with --check,
if anything lies above, with exit code 1.
"""

import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from importlib import metadata
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.speed_cases import CASES, FAMILY, OURS, TOOLS, Setup, installed
from benchmarks.speed_table import Row, draw, fill, in_ms, limits_of, merged, read_rows, sections, write_rows
from camlib.console import ROOT, ArgumentParser, UserError, counted, run_script
from camlib.files import write_whole

OUTPUT = Path("outputs/speed")
QUICK_SIZE, QUICK_ROUNDS = 32, 2
AGREED = 1e-4  # how far logits may lie apart that stand for the same weights, of the largest; of bfloat16 5 in 100
PACKAGES = ("tensorflow", "keras", "jax", "torch", *(tool.package for tool in TOOLS.values() if tool.package))

# ---------------------------------------------------------------- options


def parse_arguments(arguments=None):
    parser = ArgumentParser(__doc__)
    what = parser.add_argument_group("what is timed")
    what.add_argument(
        "--cases",
        nargs="+",
        default=list(CASES),
        choices=[*CASES, "family"],
        metavar="CASE",
        help=f"{', '.join(CASES)}; family: {', '.join(FAMILY)}; default: all",
    )
    what.add_argument(
        "--tools",
        nargs="+",
        default=list(TOOLS),
        choices=TOOLS,
        metavar="TOOL",
        help=f"{', '.join(TOOLS)}; default: all that are installed",
    )
    what.add_argument(
        "--batches",
        nargs="+",
        type=int,
        metavar="N",
        help="photos at once; default: 1, 8 and 32, of a method of the family 8, of score-cam 1",
    )
    what.add_argument(
        "--dtypes",
        nargs="+",
        choices=("float32", "bfloat16"),
        metavar="float32|bfloat16",
        help="default: float32, and bfloat16 where the processor has it",
    )
    how = parser.add_argument_group("how")
    how.add_argument("--rounds", type=int, default=5, metavar="N", help="of which each tool takes its turn")
    how.add_argument(
        "--minutes", type=float, metavar="M", help="begin nothing new after that; the same command goes on"
    )
    how.add_argument("--again", action="store_true", help="measure anew what is measured already")
    how.add_argument("--quick", action="store_true", help="a small network, batch 1, two rounds; no limits apply")
    out = parser.add_argument_group("output")
    out.add_argument("--output", type=Path, default=OUTPUT, metavar="DIR", help="folder of speed.csv, .md and .png")
    out.add_argument("--docs", nargs="+", type=Path, default=[], metavar="PAGE", help="put the tables there as well")
    out.add_argument("--tables-only", action="store_true", help="measure nothing; make them of speed.csv")
    out.add_argument("--check", action="store_true", help="end with 1 if anything lies above its limit")
    settings = parser.parse_args(arguments)
    parser.require(settings, rounds=1)
    if settings.batches and min(settings.batches) < 1:
        parser.error(f"--batches {min(settings.batches)}: expected 1 or more")
    settings.cases = [case for name in settings.cases for case in (FAMILY if name == "family" else [name])]
    return settings


# ---------------------------------------------------------------- the machine


def processor():
    """(name of the processor, its flags), as far as Linux tells them."""
    cpu = Path("/proc/cpuinfo")
    text = cpu.read_text() if cpu.exists() else ""
    found = dict(line.split("\t: ", 1) for line in text.splitlines()[::-1] if "\t: " in line.replace("\t\t", "\t"))
    found = {name.strip(): value for name, value in found.items()}
    return found.get("model name") or platform.processor() or platform.machine(), found.get("flags", "").split()


def cores():
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def hardware():
    """The machine in words: processor, what it is fast at, cores, memory."""
    name, flags = processor()
    fast = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30 if hasattr(os, "sysconf") else 0
    extra = f" ({', '.join(fast)})" if fast else ""
    return f"{name}{extra}, {counted(cores(), 'core')}, {memory:.0f} GiB"


def fast_bfloat16():
    """Whether the processor computes in bfloat16, with AVX512-BF16 or AMX; known on Linux only."""
    return bool({"avx512_bf16", "amx_bf16"} & set(processor()[1]))


def versions(tools):
    """What is installed of the packages that tools run on, for example "keras 3.15.1, jax 0.10.2"."""
    wanted = {TOOLS[tool].package for tool in tools} | {TOOLS[tool].backend for tool in tools} | {"keras"}
    found = []
    for package in PACKAGES:
        if package in wanted:
            try:
                found.append(f"{package} {metadata.version(package)}")
            except metadata.PackageNotFoundError:
                continue
    return ", ".join([f"Python {platform.python_version()}", *found])


# ---------------------------------------------------------------- processes


class Lane:
    """A tool's process: it makes one case of one batch in one dtype, whenever it is told to."""

    def __init__(self, setup):
        self.setup, self.refuses, self.answer = setup, "", {}
        environment = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_FORCE_GPU_ALLOW_GROWTH": "true"}
        if TOOLS[setup.tool].backend != "torch":
            environment["KERAS_BACKEND"] = TOOLS[setup.tool].backend
        words = [sys.executable, str(ROOT / "benchmarks" / "speed_lane.py"), json.dumps(setup._asdict())]
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115  until `close`
        self.process = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            cwd=ROOT,
            env=environment,
        )

    def read(self):
        """Its next answer; one that refuses stays so."""
        if not self.refuses:
            line = self.process.stdout.readline()
            self.answer = json.loads(line) if line else {"refuses": self.last_words()}
            self.refuses = self.answer.get("refuses", "")
        return self.answer

    def last_words(self):
        """How a process ended that gives no answer: killed for its memory, say."""
        code = self.process.wait()
        self.errors.seek(0)
        said = self.errors.read().decode("utf-8", "replace").strip().splitlines()
        return f"ended with exit code {code}{f': {said[-1][:120]}' if said else ''}"

    def ask(self, word):
        """Tell it a word, and read its answer."""
        if not self.refuses:
            with contextlib.suppress(BrokenPipeError):  # it has ended, which `read` says
                self.process.stdin.write(f"{word}\n")
                self.process.stdin.flush()
        return self.read()

    def close(self):
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()
        self.errors.close()


def photos(batch, size):
    """Smooth photos that are all different, as networks of pixels of 0..1 take them: float32 (N, size, size, 3)."""
    generator = np.random.default_rng(0)
    coarse = generator.random((batch, 8, 8, 3), np.float32)
    return np.stack([cv2.resize(one, (size, size), interpolation=cv2.INTER_LINEAR) for one in coarse])


def correlation(maps, reference):
    """The least correlation of maps with others, over classes, photos and kinds; None where there is none.

    Args:
        maps, reference: dict of kind -> float (R, N, h, w) or (R, N, H, W, 3). Where the sizes differ the reference's
            maps are enlarged to those of the others, bilinearly. Maps that are the same everywhere are left out.
    """
    found = []
    for kind in maps.keys() & reference.keys():
        shape = maps[kind].shape[2:]
        for one, other in zip(
            maps[kind].reshape(-1, *shape), reference[kind].reshape(-1, *reference[kind].shape[2:]), strict=True
        ):
            if other.shape != one.shape:
                other = cv2.resize(other, shape[1::-1], interpolation=cv2.INTER_LINEAR)
            if np.ptp(one) > 0 and np.ptp(other) > 0:
                found.append(np.corrcoef(one.ravel().astype(np.float64), other.ravel().astype(np.float64))[0, 1])
    return float(min(found)) if found else None


# ---------------------------------------------------------------- measuring


def take_turns(lanes, rounds):
    """[(seconds, forward_seconds) of each lane], which take turns; the order turns round from one to the next."""
    taken = [([], []) for _ in lanes]
    for number in range(rounds):
        for place in range(len(lanes))[:: 1 if number % 2 == 0 else -1]:
            answer = lanes[place].ask("time")
            if not lanes[place].refuses:
                taken[place][0].append(answer["seconds"])
                taken[place][1].append(answer["forward"])
    return [tuple(map(tuple, times)) for times in taken]


def check_logits(lanes):
    """Let every lane refuse whose network does not give the first one's logits.

    It would time another network.
    """
    reference = next((lane.answer["logits"] for lane in lanes if not lane.refuses), None)
    for lane in lanes:
        if not lane.refuses:
            gap = np.abs(np.subtract(lane.answer["logits"], reference)).max() / np.abs(reference).max()
            if not gap <= (AGREED if lane.setup.dtype == "float32" else 0.05):
                lane.refuses = f"its network's logits differ by {gap:.1e} of the largest"


def measure(case, batch, size, pairs, rounds, quick, machine):
    """Time tools at one case in turns.

    Args:
        case: str, a key of CASES.
        batch, size: int.
        pairs: list of (tool, dtype); the first that does not refuse is what the others' maps are compared with.
        rounds: int.
        quick: bool.
        machine: dict of what a Row says of it.

    Returns:
        list of Row, one for each pair.
    """
    began = f"{datetime.now():%Y-%m-%d %H:%M:%S}"
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder, "images.npy")
        np.save(images, photos(batch, size))
        lanes = [
            Lane(Setup(tool, case, dtype, str(images), str(Path(folder, f"{number}.npz")), quick))
            for number, (tool, dtype) in enumerate(pairs)
        ]
        try:
            for lane in lanes:
                lane.read()
            known = [lane.answer["device"] for lane in lanes if not lane.refuses]
            on = [lane.answer.get("device", *known[:1] or ["CPU"]) for lane in lanes]
            check_logits(lanes)
            firsts = [lane.ask("first").get("first") for lane in lanes]
            times = take_turns(lanes, rounds)
            maps = [dict(np.load(lane.setup.maps)) if Path(lane.setup.maps).exists() else {} for lane in lanes]
        finally:
            for lane in lanes:
                lane.close()
    rows, reference = [], next((found for found, lane in zip(maps, lanes, strict=True) if not lane.refuses), {})
    for lane, device, first, (seconds, forward), found in zip(lanes, on, firsts, times, maps, strict=True):
        key = (lane.setup.tool, case, lane.setup.dtype, batch, size)
        about = {"measured": began, "device": device, **machine, "versions": versions([lane.setup.tool])}
        if lane.refuses:
            rows.append(Row(*key, refuses=lane.refuses, **about))
            continue
        agreement = None if found is reference else correlation(found, reference)
        rows.append(Row(*key, seconds, forward, "", first, lane.answer["peak"] / 1e6, agreement, **about))
    return rows


def measured_already(rows, machine):
    """{(tool, case, dtype, batch, size)} of rows of this machine and of the versions that are installed."""
    known = {tool: versions([tool]) for tool in TOOLS}
    return {
        (row.tool, row.case, row.dtype, row.batch, row.size)
        for row in rows
        if row.hardware == machine["hardware"] and row.versions == known[row.tool]
    }


def groups_of(settings, rows, machine):
    """What is left to be measured: list of (case, batch, size, [(tool, dtype)]), of which each takes turns.

    Where some of a group's tools are left, one of ours is timed with them, since it is what maps are compared with.
    """
    tools = [tool for tool in settings.tools if installed(tool)]
    if not any(tool in OURS for tool in tools):
        tools = [*[tool for tool in OURS if installed(tool)][:1], *tools]
    tools.sort(key=list(TOOLS).index)
    dtypes = settings.dtypes or ["float32", *(["bfloat16"] if fast_bfloat16() else [])]
    done = measured_already(rows, machine)
    groups = []
    for name in dict.fromkeys(settings.cases):
        case = CASES[name]
        size = QUICK_SIZE if settings.quick else case.size
        for batch in [1] if settings.quick else settings.batches or case.batches:
            pairs = [(tool, dtype) for dtype in dtypes for tool in tools if name in TOOLS[tool].cases]
            asked = [pair for pair in pairs if pair[0] in settings.tools]
            left = [pair for pair in asked if settings.again or (pair[0], name, pair[1], batch, size) not in done]
            if left and left[0] != pairs[0]:
                left = [pairs[0], *left]
            if left:
                groups.append((name, batch, size, left))
    return groups


def measure_all(settings, path, machine):
    """Measure what is left, and keep each group's rows as soon as they are there. Returns all rows."""
    rows = read_rows(path)
    groups, began = groups_of(settings, rows, machine), time.monotonic()
    for number, (case, batch, size, pairs) in enumerate(groups):
        if settings.minutes and time.monotonic() - began > 60 * settings.minutes:
            print(f"{counted(len(groups) - number, 'group')} left; the same command goes on from here")
            break
        rounds = QUICK_ROUNDS if settings.quick else settings.rounds
        started = time.monotonic()
        found = measure(case, batch, size, pairs, rounds, settings.quick, machine)
        if not settings.again:  # what was measured beside others stays beside them
            done = measured_already(rows, machine)
            found = [row for row in found if (row.tool, row.case, row.dtype, row.batch, row.size) not in done]
        rows = merged(rows, found)
        write_rows(path, rows)
        for row in found:
            told = (
                f"refuses: {row.refuses}" if row.refuses else f"{in_ms(row.photo_ms[0])} ms a photo, {row.ratio[0]:.2f}"
            )
            print(f"{CASES[case].title}, batch {batch}, {TOOLS[row.tool].title}, {row.dtype}: {told}", flush=True)
        print(f"({time.monotonic() - started:.0f} s)", flush=True)
    return rows


def main(arguments=None):
    settings = parse_arguments(arguments)
    machine = {"hardware": hardware()}
    settings.output.mkdir(parents=True, exist_ok=True)
    path = settings.output / ("speed_quick.csv" if settings.quick else "speed.csv")
    for tool in settings.tools:
        if not installed(tool) and not settings.tables_only:
            print(f"{TOOLS[tool].title} is not installed and left out")
    if not settings.tables_only and not any(installed(tool) for tool in OURS):
        raise UserError(
            "neither tensorflow nor jax is installed; expected one of them: pip install -r requirements.txt"
        )
    rows = read_rows(path) if settings.tables_only else measure_all(settings, path, machine)
    if not rows:
        raise UserError(
            f"{path} holds nothing measured; expected python benchmarks/speed.py without --tables-only first"
        )
    own = [row for row in rows if row.hardware == machine["hardware"]]
    limits = [] if settings.quick else limits_of(own, fast_bfloat16())
    texts = sections(rows, limits)
    page = path.with_suffix(".md")
    write_whole(page, lambda file: file.write(f"# Speed\n\n{texts['limits']}\n\n{texts['table']}\n".encode()))
    draw(path.with_suffix(".png"), own or rows)
    for place in settings.docs:
        fill(place, texts, {"table": [path.with_suffix(".png"), path]})
    for limit in limits:
        print(limit)
    print(f"wrote {path}, {page.name} and {path.with_suffix('.png').name}")
    return int(settings.check and not all(limit.within for limit in limits))


if __name__ == "__main__":
    run_script(main)
