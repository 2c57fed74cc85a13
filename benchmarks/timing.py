"""How the benchmarks measure, and how their tables get into files.

Other programs slow whatever runs just then. So what is compared takes turns, round after round, and what is told are
medians over the rounds, or of the quotients within each round. What must not share its memory, its framework or its
start with others runs in a process of its own.
"""

import csv
import multiprocessing
import os
import platform
import re
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from importlib import metadata
from pathlib import Path

import cv2
import numpy as np

from camlib.console import UserError, counted, first_line
from camlib.files import open_csv, write_csv

OUTPUT = Path("outputs/speed")
DIFFERENT = 100  # photos that are made; more are the same files again
BACKEND = os.environ.get("KERAS_BACKEND", "tensorflow")  # the programs' own process starts none
PACKAGES = ("tensorflow", "keras", "jax", "torch", "tf-keras-vis", "tf-explain", "xplique", "grad-cam", "captum")

# ---------------------------------------------------------------- time


def seconds_of(function):
    """(seconds, seconds of the processor, result) of a call."""
    began, began_processor = time.perf_counter(), time.process_time()
    result = function()
    return time.perf_counter() - began, time.process_time() - began_processor, result


def take_turns(functions, rounds):
    """Call functions again and again, each round in the other direction: for each the list of what it returned."""
    results = [[] for _ in functions]
    for number in range(rounds):
        for place in range(len(functions))[:: 1 if number % 2 == 0 else -1]:
            results[place].append(functions[place]())
    return results


def spread(values):
    """(median, least, largest)."""
    return statistics.median(values), min(values), max(values)


def ratios(ours, others):
    """`spread` of the quotients of times that were taken in the same rounds."""
    return spread([one / other for one, other in zip(ours, others, strict=True)])


# ---------------------------------------------------------------- processes


class Worker(ProcessPoolExecutor):
    """A new process that calls functions, one after the other; what it prints is not shown.

    Args:
        backend: str, what Keras runs on there. A GPU's memory is taken as it is needed.
    """

    def __init__(self, backend=BACKEND):
        environment = {"KERAS_BACKEND": backend, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        environment["TF_FORCE_GPU_ALLOW_GROWTH"] = "true"
        super().__init__(1, multiprocessing.get_context("spawn"), begin_quietly, (environment,))

    def call(self, function, *arguments):
        """What the function of a module returns there.

        Raises:
            UserError: of what it raises, in words that need none of its libraries here.
            concurrent.futures.process.BrokenProcessPool: the process was killed.
        """
        return self.submit(in_words, function, *arguments).result()


def in_new_process(function, *arguments):
    """What the function of a module returns in a process that does nothing else."""
    with Worker() as worker:
        return worker.call(function, *arguments)


def begin_quietly(environment):
    os.environ.update(environment)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def in_words(function, *arguments):
    try:
        return function(*arguments)
    except Exception as error:
        raise UserError(f"{type(error).__name__}: {first_line(error)}") from None


def peak_memory():
    """The most bytes that this process, or a GPU for it, has held at once."""
    framework, backend = os.environ.get("KERAS_BACKEND"), sys.modules.get(os.environ.get("KERAS_BACKEND"))
    if framework == "jax" and backend and backend.default_backend() != "cpu":
        return backend.local_devices()[0].memory_stats()["peak_bytes_in_use"]
    if framework == "tensorflow" and backend and backend.config.list_physical_devices("GPU"):
        return backend.config.experimental.get_memory_info("GPU:0")["peak"]
    status = Path("/proc/self/status")
    if status.exists():  # getrusage counts what the parent held when this process was made
        return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1])
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


# ---------------------------------------------------------------- the machine


def cores():
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def hardware():
    """The machine in words: processor, what it is fast at, cores, memory."""
    told = Path("/proc/cpuinfo")
    known = dict(re.findall(r"^(model name|flags)\s*: (.*)$", told.read_text() if told.exists() else "", re.MULTILINE))
    flags = known.get("flags", "").split()
    fast = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30 if hasattr(os, "sysconf") else 0
    extra = f" ({', '.join(fast)})" if fast else ""
    return f"{known.get('model name', platform.machine())}{extra}, {counted(cores(), 'core')}, {memory:.0f} GiB"


def versions(*packages):
    """What is installed of some packages and Keras, for example "Python 3.11.7, keras 3.15.1, jax 0.10.2"."""
    found = [f"Python {platform.python_version()}"]
    for package in PACKAGES:
        if package in (*packages, "keras"):
            try:
                found.append(f"{package} {metadata.version(package)}")
            except metadata.PackageNotFoundError:
                continue
    return ", ".join(found)


def machine():
    """Machine, versions and the backend's, in words."""
    return f"{hardware()}; {versions(BACKEND)}"


# ---------------------------------------------------------------- files


def write_photos(folder, count, height, width):
    """`count` JPEG files of smooth noise with grain, of which DIFFERENT are files and the others links to them."""
    generator = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for number in range(min(count, DIFFERENT)):
        coarse = generator.integers(0, 256, (12, 16, 3), np.uint8)
        grain = generator.integers(0, 24, (height, width, 3), np.uint8)
        cv2.imwrite(str(folder / f"{number:07d}.jpg"), cv2.add(cv2.resize(coarse, (width, height)), grain))
    for number in range(DIFFERENT, count):
        os.link(folder / f"{number % DIFFERENT:07d}.jpg", folder / f"{number:07d}.jpg")


def write_rows(path, rows, derived=()):
    """Write NamedTuples of one kind as CSV; `derived` are properties of theirs, for whoever reads it elsewhere."""
    names = [*rows[0]._fields, *derived]
    write_csv(path, [names, *([cell_of(getattr(row, name)) for name in names] for row in rows)])


def cell_of(value):
    if isinstance(value, tuple):
        return " ".join(map(cell_of, value))
    return f"{value:.6g}" if isinstance(value, float) else "" if value is None else value


def read_rows(path, kind):
    """The rows of a CSV file, each a `kind` of NamedTuple whose annotations make values of texts; [] without the file.

    Raises:
        UserError: it has other columns.
    """
    if not path.exists():
        return []
    with open_csv(path, "r") as file:
        reader = csv.DictReader(file)
        if not set(kind._fields) <= set(reader.fieldnames or ()):
            raise UserError(f"{path} has other columns; expected {', '.join(kind._fields)}, or no such file")
        return [kind(*(read(record[name]) for name, read in kind.__annotations__.items())) for record in reader]


def markdown_table(header, rows):
    """Rows of text as a table of Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
