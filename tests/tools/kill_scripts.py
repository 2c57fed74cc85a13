"""Kill each command again and again, let it go on, and compare what it leaves with an undisturbed run.

    python tests/tools/kill_scripts.py --kills 20                 # every command, 20 kills each
    python tests/tools/kill_scripts.py training store --kills 3
    python tests/tools/kill_scripts.py --docs docs/reliability.md # nothing is run; the table of what was run

Each kill is SIGKILL, SIGTERM, SIGHUP or SIGINT, in turn, at a random moment of the process's work. After each, every
file under its name has to be whole. A command that ends before its kill begins anew, so that all kills hit. In the end
the files must be those of a run that nothing disturbed, but for the last digits of numbers that depend on which photos
share a batch. The exit code is 1 if something differs.
"""

import contextlib
import csv
import io
import json
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tables import put, rows

from camlib.console import ROOT, ArgumentParser, run_script
from camlib.files import read_json, write_json
from camlib.runs.maps import find_saved, read_map
from camlib.runs.store import PART_NAME, PLACE_COLUMNS

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
ENDED_BY = {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGHUP: 129, signal.SIGINT: 130}
LONGEST = 600  # seconds of a run
PHOTOS = 60
OWN_WAY = {"command", "output", "started", "seconds"}  # what run.json says of the way, not of the result


class Command(NamedTuple):
    """A command to be killed.

    Attributes:
        words: list of str, IN for the folder of inputs and OUT for that of results.
        after: list of list of str, commands that prepare the folder of results before it is begun anew.
    """

    words: list
    after: list = []


MAPS = ["--batch-size", "4", "--model", "IN/net.h5"]
COMMANDS = {
    "maps": Command(["make_cam_maps.py", "IN/photos", *MAPS, "--output", "OUT/maps"]),
    "store": Command(["make_cam_maps.py", "IN/photos", *MAPS, "--store", "OUT/maps"]),
    "shard": Command(["make_cam_maps.py", "IN/photos", *MAPS, "--output", "OUT/maps", "--shard", "1/2"]),
    "after a shard": Command(
        ["make_cam_maps.py", "IN/photos", *MAPS, "--output", "OUT/maps"],
        [["make_cam_maps.py", "IN/photos", *MAPS, "--output", "OUT/maps", "--shard", "1/2"]],
    ),
    "grad-cam": Command(["gradcam_vgg16.py", "IN/photos", "--weights", "IN/net.h5", "--batch-size", "4", "--classes",
                         "all", "--output", "OUT/maps"]),
    "evaluation": Command(["evaluate_maps.py", "IN/photos", "--maps", "IN/net.h5:cam", "IN/net.h5:grad-cam", "--only",
                           "network", "sanity", "--output", "OUT/out"]),
    "training": Command(["train_cam_4class.py", "--data", "IN/photos", "--epochs", "4", "--resume", "--output",
                         "OUT/net.h5", "--watch", "IN/photos/cat/1.png"]),
    "page": Command(["show_heatmaps.py", "IN/maps", "--html", "OUT/page.html"]),
    "demo": Command(["data/draw_demo.py", "--train", "20", "--val", "10", "--both", "5", "--output", "OUT/demo"]),
}  # fmt: skip


def parse_arguments(arguments=None):
    parser = ArgumentParser(__doc__)
    parser.add_argument("commands", nargs="*", metavar="COMMAND", help=f"{', '.join(COMMANDS)}; default: all")
    parser.add_argument("--kills", type=int, default=0, metavar="N", help="of each command; default: 0")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the moments; default: 0")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("outputs/kills"),
        metavar="DIR",
        help="folder of the counts; default: outputs/kills",
    )
    parser.add_argument("--docs", type=Path, metavar="PAGE", help="put the table of all counts there")
    settings = parser.parse_args(arguments)
    parser.require(settings, kills=0)
    if unknown := set(settings.commands) - set(COMMANDS):
        parser.error(f"{unknown.pop()}: expected some of {', '.join(COMMANDS)}")
    settings.commands = settings.commands or list(COMMANDS)
    return settings


# ---------------------------------------------------------------- inputs


def write_inputs(folder):
    """Photos of noise in two classes, a small pooling-free network, and maps of it."""
    import keras

    from camlib.networks.architectures import modern_network
    from camlib.networks.checkpoint import save_network
    from camlib.preprocessing import InputSpec

    generator = np.random.default_rng(0)
    for number in range(PHOTOS):
        path = folder / "photos" / ("dog", "cat")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (48, 64, 3), np.uint8)).save(path)
    keras.utils.set_random_seed(1)
    save_network(modern_network(2), folder / "net.h5", InputSpec(["dog", "cat"], 32, 32, 3))
    run(["make_cam_maps.py", "IN/photos", *MAPS, "--output", "IN/maps"], folder, folder)


def filled(words, inputs, results):
    places = {"IN": str(inputs), "OUT": str(results)}
    script, *rest = [re.sub("^(IN|OUT)(?=/)", lambda found: places[found[0]], word) for word in words]
    return [sys.executable, str(ROOT / script), *rest]


def run(words, inputs, results):
    """Run a command to its end; what it says if it fails."""
    ended = subprocess.run(filled(words, inputs, results), capture_output=True, text=True, timeout=LONGEST)
    assert ended.returncode == 0, (words, ended.returncode, ended.stderr)


# ---------------------------------------------------------------- killing


def begin_anew(command, inputs, results):
    shutil.rmtree(results, ignore_errors=True)
    results.mkdir()
    for words in command.after:
        run(words, inputs, results)


def survived(command, inputs, kills, seed):
    """Kill a command so often, let it go on, and compare.

    Returns:
        dict of kills (by the signal's name), begun (how often it began anew) and differing (files, list of str).
    """
    undisturbed, results = inputs.parent / "undisturbed", inputs.parent / "killed"
    begin_anew(command, inputs, undisturbed)
    start = time.monotonic()
    run(command.words, inputs, undisturbed)
    whole, generator = time.monotonic() - start, random.Random(seed)
    hit, begun = [], 1
    begin_anew(command, inputs, results)
    while len(hit) < kills:
        number = SIGNALS[len(hit) % len(SIGNALS)]
        process = subprocess.Popen(
            filled(command.words, inputs, results),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=heed,
        )
        start = time.monotonic()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(generator.uniform(0.3, 1) * whole)
            whole = time.monotonic() - start  # it ended by itself: the machine has become faster
        process.send_signal(number)
        _, said = process.communicate(timeout=LONGEST)
        at_its_start = process.returncode == -number  # before it heeds signals; of Ctrl-C Python's own words show
        assert at_its_start or process.returncode in (0, ENDED_BY[number]), (process.returncode, said)
        assert at_its_start or "Traceback" not in said, said
        damaged(results)
        if process.returncode:
            hit.append(number.name)
        else:
            begin_anew(command, inputs, results)
            begun += 1
    run(command.words, inputs, results)
    return {
        "kills": {one.name: hit.count(one.name) for one in SIGNALS},
        "begun": begun,
        "differing": differing(undisturbed, results),
        "day": date.today().isoformat(),
    }


def heed():
    """Let a process heed all signals, as under nohup or in the background of a shell it would not."""
    for number in set(SIGNALS) - {signal.SIGKILL}:
        signal.signal(number, signal.SIG_DFL)


def files_in(folder):
    """dict of path -> Path of what has its name; what is being written is hidden, or in a hidden folder."""
    found = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: path for name, path in found.items() if not any(part.startswith(".") for part in Path(name).parts)}


def damaged(folder):
    """Read every file that has its name; whatever its reader raises ends the test."""
    for path in files_in(folder).values():
        read(path)


def read(path):
    """What a file holds: numbers (list of arrays) and the rest (anything that can be compared)."""
    if path.suffix == ".npy":
        return [np.load(path)], None
    if path.suffix in (".jpg", ".png"):
        with Image.open(path) as picture:
            return [np.asarray(picture, np.float32) / 255], None
    if path.suffix == ".csv":
        if any(PART_NAME.fullmatch(one.name) for one in path.parent.iterdir()):
            return maps_in(path)
        lines = list(csv.reader(io.StringIO(path.read_text("utf-8"))))
        numbers = [[float(cell) for cell in row if is_number(cell)] for row in lines]
        return [np.array(row) for row in numbers], [[cell for cell in row if not is_number(cell)] for row in lines]
    if path.name.endswith("run.json"):
        record = json.loads(path.read_text().replace(str(path.parent), ""))  # where it lies is not what it is
        return [], {name: value for name, value in record.items() if name not in OWN_WAY}
    if path.suffix == ".h5":
        return numbers_in(path)
    return [], len(path.read_bytes()) > 0 and path.suffix in (".html", ".md", ".jsonl") or path.read_bytes()


def numbers_in(path):
    """The arrays of a network, of a training's state, or of a part of a store."""
    arrays = []

    def keep(_, item):
        if isinstance(item, h5py.Dataset):
            arrays.append(np.asarray(item[()]))

    with h5py.File(path) as file:
        file.visititems(keep)
    return [array for array in arrays if array.dtype.kind in "fiu"], None


def maps_in(path):
    """The maps of a store's list, and what it says of each photo but in which part they are, in the order of names."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: row["path"])
    about = [[cell for name, cell in row.items() if name not in PLACE_COLUMNS] for row in rows]
    numbers = [np.array([float(cell) for cell in row if is_number(cell)]) for row in about]
    texts = [[cell for cell in row if not is_number(cell)] for row in about]
    for saved in sorted(find_saved(path.parent), key=lambda one: one.name):
        for of_kind in saved.map_places().values():
            numbers += map(read_map, of_kind.values())
    return numbers, texts


def is_number(cell):
    try:
        float(cell)
    except ValueError:
        return False
    return True


def differing(expected, found):
    """The files in which two folders differ, by more than the last digits of their numbers, and those left behind."""
    ours, theirs = files_in(expected), files_in(found)
    names = [name for name in sorted(ours.keys() ^ theirs.keys()) if not PART_NAME.fullmatch(Path(name).name)]
    names += sorted(path.name for path in found.rglob(".*"))  # left behind
    for name in sorted(ours.keys() & theirs.keys()):
        if PART_NAME.fullmatch(Path(name).name):  # a run that goes on makes other parts; its list leads to their maps
            continue
        (numbers, rest), (other_numbers, other_rest) = read(ours[name]), read(theirs[name])
        close = len(numbers) == len(other_numbers) and all(
            one.shape == other.shape and np.allclose(one, other, rtol=1e-3, atol=1e-2 if "jpg" in name else 1e-4)
            for one, other in zip(numbers, other_numbers, strict=True)
        )
        if not close or rest != other_rest:
            names.append(name)
    return names


# ---------------------------------------------------------------- the table


def table(known):
    """The lines of a table: a row for the commands of the same counts, which are of each command."""
    header = ["each command", *(one.name for one in SIGNALS), "files that differ", "day"]
    alike = {}
    for name, result in known.items():
        counts = *result["kills"].values(), len(result["differing"]), result["day"]
        alike.setdefault(counts, []).append(name)
    cells = [[", ".join(names), *counts] for counts, names in alike.items()]
    return [*rows(header, cells), "", f"{sum(sum(result['kills'].values()) for result in known.values())} kills."]


def main(arguments=None):
    settings = parse_arguments(arguments)
    settings.output.mkdir(parents=True, exist_ok=True)
    known_file, failed = settings.output / "counts.json", False
    known = read_json(known_file) if known_file.exists() else {}
    if settings.kills:
        with tempfile.TemporaryDirectory() as folder:
            write_inputs(Path(folder, "in"))
            for name in settings.commands:
                result = survived(COMMANDS[name], Path(folder, "in"), settings.kills, settings.seed)
                failed |= bool(result["differing"])
                print(name, result, flush=True)
                known[name] = result
                write_json(known_file, {one: known[one] for one in COMMANDS if one in known})
    if settings.docs:
        put(settings.docs, "kills", table(known))
    return 1 if failed else 0


if __name__ == "__main__":
    run_script(main)
