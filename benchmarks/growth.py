"""Time and memory of make_cam_maps.py against the number of photos, their size and the number of classes, and of what
reads its maps against the number of photos.

    python benchmarks/growth.py                                # about half an hour on two cores
    python benchmarks/growth.py --photos 100 1000              # along this axis alone

Each point is the script in a process of its own, arrays alone (--no-pictures), of JPEG photos of 500x375 that this
makes, in batches of 8: from its start to its end, and its peak memory. The network is the pooling-free one with random
weights. Where they are not what grows, photos are seen at 96x96, many photos at 32x32, and classes are four. The viewer
(a figure of the first photo), the page, the sheet and the evaluation read maps of photos of 100x75, named one by one as
my_photos/*.jpg are. Writes growth.csv, from which the same command goes on; prints the table, and what ten million
photos need.
"""

import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import timing
from camlib.console import ArgumentParser, UserError, counted, run_script, whole_number
from camlib.files import write_json

HEIGHT, WIDTH = 375, 500  # of the photos
SMALL = 75, 100  # of those whose maps are read
USUAL = {"photos": 100, "size": 96, "classes": 4}  # where something else grows
SIZE_OF_MANY, PHOTOS_OF_CLASSES = 32, 20  # but for these
BATCH = 8  # photos at once: 32 of 512x512 would take 10 GB
MANY, CLUSTER = 10_000_000, 3200  # photos, and cores of a cluster, in the text
READERS = ("viewer", "page", "sheet", "evaluation")
AXES = {
    "photos": (100, 1_000, 4_000, 24_000),
    "size": (64, 96, 128, 256, 512),
    "classes": (4, 10, 100, 1_000),
    **dict.fromkeys(READERS, (100, 1_000, 10_000)),
}


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


def write_network(path, classes):
    """A network of so many classes, with random weights."""
    import camlib.backend  # noqa: F401

    # isort: split
    from camlib.networks.architectures import modern_network
    from camlib.networks.checkpoint import save_network
    from camlib.preprocessing import InputSpec

    names = [f"class_{number}" for number in range(classes)]
    save_network(modern_network(classes), path, InputSpec(names, 96, 96, 3))


def make_maps(words):
    """Run the script: the most bytes that its process has held at once."""
    from make_cam_maps import main

    if main(words):
        raise UserError("photos that were just made could not be read; expected all of them")
    return timing.peak_memory()


def read_maps(reader, photos, maps, output):
    """Run a script that reads saved maps: the most bytes that its process has held at once."""
    output.mkdir()
    if reader == "evaluation":
        from evaluate_maps import main

        words = ["--annotations", photos, "--maps", maps, "--output", output]
    else:
        from show_heatmaps import main

        option = {"viewer": "--save", "page": "--html", "sheet": "--sheet"}[reader]
        words = [maps, option, output / ("page.html" if reader == "page" else "picture.jpg")]
    if main([str(word) for word in words]):
        raise UserError("maps that were just made could not be read; expected all of them")
    return timing.peak_memory()


def measure_reader(reader, count):
    """The Point of a script that reads the maps of so many photos."""
    with tempfile.TemporaryDirectory() as folder:
        photos, network, maps, output = (Path(folder, name) for name in ("photos", "network.h5", "maps", "read"))
        timing.write_photos(photos, count, *SMALL)
        names, (height, width) = sorted(path.name for path in photos.iterdir()), SMALL
        shown = {"class": "class_0", "boxes": [[0, 0, width // 2, height]], "width": width, "height": height}
        write_json(photos / "annotations.json", [{"file": name} | shown for name in names])
        timing.in_new_process(write_network, network, USUAL["classes"])
        words = ["--model", network, "--output", maps, "--size", SIZE_OF_MANY, "--no-pictures"]
        timing.in_new_process(make_maps, [str(word) for word in [*(photos / name for name in names), *words]])
        seconds, _, peak = timing.seconds_of(partial(timing.in_new_process, read_maps, reader, photos, maps, output))
        written = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
    sizes = (SIZE_OF_MANY, USUAL["classes"])
    return Point(reader, count, *sizes, seconds, peak / 1e6, written / 1e6, timing.cores(), timing.machine())


def measure(axis, value):
    """The Point of a value of an axis."""
    if axis in READERS:
        return measure_reader(axis, value)
    special = {"photos": {"size": SIZE_OF_MANY}, "classes": {"photos": PHOTOS_OF_CLASSES}}.get(axis, {})
    point = USUAL | special | {axis: value}
    with tempfile.TemporaryDirectory() as folder:
        photos, network, output = (Path(folder, name) for name in ("photos", "network.h5", "maps"))
        timing.write_photos(photos, point["photos"], HEIGHT, WIDTH)
        timing.in_new_process(write_network, network, point["classes"])
        words = [photos, "--model", network, "--output", output, "--size", point["size"], "--batch-size", BATCH]
        run = partial(timing.in_new_process, make_maps, [*map(str, words), "--no-pictures"])
        seconds, _, peak = timing.seconds_of(run)
        written = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
    return Point(axis, *point.values(), seconds, peak / 1e6, written / 1e6, timing.cores(), timing.machine())


# ---------------------------------------------------------------- what it means


def costs_of(points):
    """(seconds a photo, MB written a photo, MB at the peak) at the usual size, without a run's start.

    The start is what is left of the fewest photos' time when each photo takes what the most took more than the fewest.
    None where two numbers of photos and the usual size were not measured.
    """
    found = sorted((point.photos, point.seconds) for point in points if point.axis == "photos")
    usual = [point for point in points if (point.axis, point.size) == ("size", USUAL["size"])]
    if len(found) < 2 or not usual:
        return None
    (few, least), (many, most) = found[0], found[-1]
    start = least - few * (most - least) / (many - few)
    return (usual[0].seconds - start) / usual[0].photos, usual[0].output_mb / usual[0].photos, usual[0].peak_mb


def paragraph(points):
    """What MANY photos need on a cluster, from what the Points of one machine cost; None where they do not tell."""
    costs = costs_of(points)
    if costs is None:
        return None
    (seconds, written, peak), cores = costs, points[0].cores
    few, *_, many = sorted((point for point in points if point.axis == "photos"), key=lambda point: point.photos)
    core_hours = seconds * cores * MANY / 3600
    return (
        f"{counted(many.photos, 'photo')} took {many.peak_mb / few.peak_mb:.2f} times the memory of {few.photos:,}. At "
        f"{USUAL['size']}x{USUAL['size']} a photo takes {1000 * seconds:.1f} ms on {counted(cores, 'core')} and "
        f"{1000 * written:.0f} kB of the disk, the process {peak:,.0f} MB. Ten million photos are then "
        f"{core_hours:,.0f} core hours, {seconds * MANY / 86400:.1f} days on this machine or "
        f"{core_hours / CLUSTER:.1f} hours on {CLUSTER:,} such cores, and {written * MANY / 1e6:.1f} TB of arrays."
    )


# ---------------------------------------------------------------- the script


def parse_arguments(arguments=None):
    parser = ArgumentParser(__doc__)
    for axis, values in AXES.items():
        told = f"values of this axis; default: {' '.join(map(str, values))}, or none where another is given"
        parser.add_argument(f"--{axis}", type=whole_number(1, MANY), nargs="+", metavar="N", help=told)
    parser.add_argument("--again", action="store_true", help="measure anew what is measured already")
    parser.add_argument("--output", type=Path, default=timing.OUTPUT, metavar="DIR", help="folder of growth.csv")
    return parser.parse_args(arguments)


def main(arguments=None):
    settings = parse_arguments(arguments)
    settings.output.mkdir(parents=True, exist_ok=True)
    path, where = settings.output / "growth.csv", timing.machine()
    points = timing.read_rows(path, Point)
    asked = {axis: getattr(settings, axis) for axis in AXES if getattr(settings, axis)} or AXES
    for axis, value in [(axis, value) for axis, values in asked.items() for value in values]:
        grows = "photos" if axis in READERS else axis
        known = [point for point in points if (point.axis, getattr(point, grows)) == (axis, value)]
        if known and known[0].measured_on == where and not settings.again:
            continue
        points = [*(point for point in points if point not in known), measure(axis, value)]
        points.sort(key=lambda point: (list(AXES).index(point.axis), *point[1:4]))
        timing.write_rows(path, points)
        print(f"{axis} {value:,} done", flush=True)
    told = "{0}|{1:,}|{2}x{2}|{3:,}|{4:.1f}|{5:,.0f}|{6:,.1f}"  # of a Point's fields
    rows = [told.format(*point).split("|") for point in points]
    table = timing.markdown_table(["what grows", "photos", "size", "classes", "seconds", "peak MB", "written MB"], rows)
    print("\n\n".join(filter(None, [points[0].measured_on, table, paragraph(points), f"wrote {path}"])))


if __name__ == "__main__":
    run_script(main)
