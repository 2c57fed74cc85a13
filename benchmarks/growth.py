"""Time and memory of make_cam_maps.py against the number of photos, their size and the number of classes: a plot.

    python benchmarks/growth.py                                # about a quarter of an hour on two cores
    python benchmarks/growth.py --axes photos --photos 100 1000
    python benchmarks/growth.py --tables-only --docs docs/speed.md

Each point is the script in a process of its own, arrays alone (--no-pictures), of JPEG photos of 500x375 that this
makes, in batches of 8: from its start to its end, and its peak memory. The network is the pooling-free one with random
weights. Where they are not what grows, photos are seen at 96x96, many photos at 32x32, and classes are four. Writes
growth.csv, from which the same command goes on, growth.png and growth.md, with what ten million photos need.
"""

import csv
import io
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.speed import OUTPUT, cores, hardware, versions
from benchmarks.speed_table import fill, markdown_table
from camlib.console import ROOT, ArgumentParser, UserError, counted, run_script
from camlib.files import open_csv, write_whole

HEIGHT, WIDTH, DIFFERENT = 375, 500, 100  # of the photos, and how many of them are not the same file again
SIZE, CLASSES = 96, 4
SIZE_OF_MANY = 32  # where photos grow: what the run does beside the network counts as much there
OF_SIZES, OF_CLASSES = 100, 20  # photos where something else grows
BATCH = 8  # photos at once: 32 of 512x512 would take 10 GB
MANY = 10_000_000
NODES, CORES = 100, 32  # of the cluster in the text
AXES = {"photos": (100, 1_000, 4_000, 24_000), "size": (64, 96, 128, 256, 512), "classes": (4, 10, 100, 1_000)}
# a network of so many classes, in a process of its own: the memory of this one must not grow
NETWORK = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import camlib.backend
from camlib.preprocessing import InputSpec
from camlib.networks.checkpoint import save_network
from camlib.networks.architectures import modern_network
names = [f"class_{number}" for number in range(int(sys.argv[3]))]
save_network(modern_network(len(names)), Path(sys.argv[2]), InputSpec(names, 96, 96, 3))
"""


class Point(NamedTuple):
    """One run.

    Attributes:
        axis: str, what grows, a key of AXES.
        photos, size, classes: int.
        seconds: float, from the process's start to its end.
        peak_mb: float, the process's peak memory.
        output_mb: float, what it wrote.
        cores: int, of the machine.
        measured_on: str, the machine in words.
    """

    axis: str
    photos: int
    size: int
    classes: int
    seconds: float
    peak_mb: float
    output_mb: float
    cores: int
    measured_on: str


# ---------------------------------------------------------------- measuring


def write_photos(folder, count):
    """`count` JPEG files of smooth noise with grain, of which DIFFERENT are files and the others links to them."""
    generator = np.random.default_rng(0)
    folder.mkdir()
    for number in range(min(count, DIFFERENT)):
        coarse = generator.integers(0, 256, (12, 16, 3), np.uint8)
        grain = generator.integers(0, 24, (HEIGHT, WIDTH, 3), np.uint8)
        cv2.imwrite(str(folder / f"{number:07d}.jpg"), cv2.add(cv2.resize(coarse, (WIDTH, HEIGHT)), grain))
    for number in range(DIFFERENT, count):
        os.link(folder / f"{number % DIFFERENT:07d}.jpg", folder / f"{number:07d}.jpg")


def run_and_watch(command):
    """Run a command: (seconds, peak memory in MB).

    Raises:
        UserError: it fails.
    """
    with tempfile.TemporaryFile() as said:
        began = time.perf_counter()
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, cwd=ROOT)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - began
        if process.returncode:
            said.seek(0)
            what = Path(command[1]).name if command[1] != "-c" else "making a network"
            last = said.read().decode("utf-8", "replace").strip().splitlines()[-1:]
            raise UserError(f"{what} ended with exit code {process.returncode}: {''.join(last)[:200]}")
    return seconds, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def measure(axis, value, where):
    """The Point of a value of an axis."""
    photos = value if axis == "photos" else OF_SIZES if axis == "size" else OF_CLASSES
    size = {"photos": SIZE_OF_MANY, "size": value, "classes": SIZE}[axis]
    classes = value if axis == "classes" else CLASSES
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        write_photos(place / "photos", photos)
        network, output = place / "network.h5", place / "maps"
        run_and_watch([sys.executable, "-c", NETWORK, str(ROOT), str(network), str(classes)])
        words = [place / "photos", "--model", network, "--output", output, "--size", size, "--batch-size", BATCH]
        command = [sys.executable, ROOT / "make_cam_maps.py", *words, "--no-pictures"]
        seconds, peak = run_and_watch([str(word) for word in command])
        written = sum(path.stat().st_size for path in output.rglob("*") if path.is_file()) / 1e6
    return Point(axis, photos, size, classes, seconds, peak, written, cores(), where)


# ---------------------------------------------------------------- the file


def write_points(path, points):
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Point._fields)
    writer.writerows([f"{one:.6g}" if isinstance(one, float) else one for one in point] for point in points)
    write_whole(path, lambda file: file.write(text.getvalue().encode()))


def read_points(path):
    """The Points of a file; none where it does not exist."""
    if not path.exists():
        return []
    with open_csv(path, "r") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames != list(Point._fields):
            raise UserError(f"{path} has other columns; expected a table of benchmarks/growth.py, or no such file")
        kinds = Point.__annotations__
        return [Point(**{name: kinds[name](value) for name, value in record.items()}) for record in reader]


# ---------------------------------------------------------------- what it means


def costs_of(points):
    """(seconds a photo, MB written a photo, MB at the peak) at SIZE, without what a run takes for its start.

    The start is what is left of the fewest photos' time when each photo takes what the most took more than the fewest.
    None where two numbers of photos and SIZE were not measured.
    """
    found = sorted((point for point in points if point.axis == "photos"), key=lambda point: point.photos)
    usual = next((point for point in points if point.axis == "size" and point.size == SIZE), None)
    if len(found) < 2 or found[0].photos == found[-1].photos or usual is None:
        return None
    few, many = found[0], found[-1]
    start = few.seconds - few.photos * (many.seconds - few.seconds) / (many.photos - few.photos)
    return (usual.seconds - start) / usual.photos, usual.output_mb / usual.photos, usual.peak_mb


def paragraph(points):
    """What MANY photos need on a cluster, from what the Points of one machine cost; None where they do not tell."""
    costs = costs_of(points)
    if costs is None:
        return None
    (seconds, written, peak), cores = costs, points[0].cores
    core_hours = seconds * cores * MANY / 3600
    few, *_, many = sorted((point for point in points if point.axis == "photos"), key=lambda point: point.photos)
    hours, processes = core_hours / (NODES * CORES), CORES // cores or 1
    return (
        f"{counted(many.photos, 'photo')} took {many.peak_mb / few.peak_mb:.2f} times the memory of {few.photos:,}. At "
        f"{SIZE}x{SIZE} a photo takes {1000 * seconds:.1f} ms on {counted(cores, 'core')}, "
        f"{1000 * seconds * cores:.1f} ms of one, and {1000 * written:.0f} kB of the disk, the process {peak:,.0f} MB. "
        f"Ten million photos are then {core_hours:,.0f} core hours: {seconds * MANY / 86400:.1f} days on this machine, "
        f"or {hours:.1f} hours on {NODES} nodes of {CORES} such cores, with {written * MANY / 1e6:.1f} TB of arrays in "
        f"{MANY * CLASSES / 1e6:.0f} million files. Only the disk is shared: each process is given its own part of the "
        f"photos and writes a folder of its own; {processes} of them on a node take {processes * peak / 1000:,.0f} GB."
    )


def draw(path, points):
    """Time, on a log scale, and memory against what grows: a panel of each for each axis, on common scales; PNG."""
    axes = [axis for axis in AXES if any(point.axis == axis for point in points)]
    figure = Figure(figsize=(3.2 * len(axes) + 0.6, 5), layout="constrained")
    panels = figure.subplots(2, len(axes), squeeze=False, sharex="col", sharey="row")
    for column, axis in enumerate(axes):
        found = sorted((point for point in points if point.axis == axis), key=lambda point: getattr(point, axis))
        values = [getattr(point, axis) for point in found]
        for panel, name, label in zip(panels[:, column], ("seconds", "peak_mb"), ("seconds", "peak MB"), strict=True):
            panel.plot(values, [getattr(point, name) for point in found], "o-")
            panel.set(xscale="log", ylabel=label if column == 0 else None)
            panel.grid(which="both", linewidth=0.3)
        panels[1, column].set_xticks(values, [f"{value:,}" for value in values], fontsize=8)
        panels[1, column].xaxis.minorticks_off()
        panels[0, column].set_yscale("log")
        panels[0, column].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panels[0, column].yaxis.set_major_formatter("{x:g}")
        panels[0, column].yaxis.set_minor_formatter("")
        panels[1, column].set_ylim(0, 1.1 * max(point.peak_mb for point in points))
        panels[1, column].set_xlabel(axis if axis != "size" else "height and width, pixels")
        usual = f"{CLASSES} classes"
        others = {
            "photos": f"{SIZE_OF_MANY}x{SIZE_OF_MANY}, {usual}",
            "size": f"{OF_SIZES} photos, {usual}",
            "classes": f"{OF_CLASSES} photos, {SIZE}x{SIZE}",
        }
        panels[0, column].set_title(others[axis], fontsize=9)
    write_whole(path, lambda file: figure.savefig(file, dpi=110, format="png"))


def text_of(points):
    """Table and paragraph in Markdown."""
    rows = [
        [
            point.axis,
            f"{point.photos:,}",
            f"{point.size}x{point.size}",
            f"{point.classes:,}",
            f"{point.seconds:.1f}",
            f"{point.peak_mb:,.0f}",
            f"{point.output_mb:,.1f}",
        ]
        for point in points
    ]
    table = markdown_table(["what grows", "photos", "size", "classes", "seconds", "peak MB", "written MB"], rows)
    said = paragraph(points)
    return "\n\n".join([points[0].measured_on, table, *([said] if said else [])])


# ---------------------------------------------------------------- the script


def parse_arguments(arguments=None):
    parser = ArgumentParser(__doc__)
    parser.add_argument("--axes", nargs="+", choices=AXES, default=list(AXES), help="what grows")
    for axis, values in AXES.items():
        parser.add_argument(f"--{axis}", type=int, nargs="+", default=values, metavar="N")
    parser.add_argument("--again", action="store_true", help="measure anew what is measured already")
    parser.add_argument("--output", type=Path, default=OUTPUT, metavar="DIR", help="folder of growth.csv, .md and .png")
    parser.add_argument("--docs", nargs="+", type=Path, default=[], metavar="PAGE", help="put the text there as well")
    parser.add_argument("--tables-only", action="store_true", help="measure nothing; make them of growth.csv")
    settings = parser.parse_args(arguments)
    for axis in AXES:
        if min(getattr(settings, axis)) < 1:
            parser.error(f"--{axis} {min(getattr(settings, axis))}: expected 1 or more")
    return settings


def main(arguments=None):
    settings = parse_arguments(arguments)
    settings.output.mkdir(parents=True, exist_ok=True)
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    path, where = settings.output / "growth.csv", f"{hardware()}; {versions([f'ours-{backend}'])}"
    points = read_points(path)
    for axis in [] if settings.tables_only else settings.axes:
        for value in getattr(settings, axis):
            known = [point for point in points if (point.axis, getattr(point, axis)) == (axis, value)]
            if known and known[0].measured_on == where and not settings.again:
                continue
            point = measure(axis, value, where)
            points = [*(one for one in points if one not in known), point]
            points.sort(key=lambda one: (list(AXES).index(one.axis), one.photos, one.size, one.classes))
            write_points(path, points)
            print(f"{axis} {value:,}: {point.seconds:.1f} s, peak {point.peak_mb:,.0f} MB", flush=True)
    if not points:
        raise UserError(
            f"{path} holds nothing measured; expected python benchmarks/growth.py without --tables-only first"
        )
    text = text_of(points)
    write_whole(path.with_suffix(".md"), lambda file: file.write(f"# Growth\n\n{text}\n".encode()))
    draw(path.with_suffix(".png"), points)
    for place in settings.docs:
        fill(place, {"growth": text}, {"growth": [path.with_suffix(".png"), path]})
    print(f"wrote {path}, growth.md and growth.png")


if __name__ == "__main__":
    run_script(main)
