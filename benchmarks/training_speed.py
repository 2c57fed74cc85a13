"""Measure how many photos a second training takes with its input pipeline in place, and how many that makes alone.

    python benchmarks/training_speed.py                                        # a few minutes on two cores
    KERAS_BACKEND=jax python benchmarks/training_speed.py --batches 32 256 1024 --docs docs/speed.md       # a GPU
    python benchmarks/training_speed.py --recipes original --batches 4 --steps 3            # does it run?

Each row is train_cam_4class.py in a process of its own, on photos that this makes and the script decodes, two epochs of
--steps steps with augmentation and mosaics; the second is timed from its first step's end, so that nothing is compiled
in it. Then the batches of another epoch are made alone: where that is not faster than training, the network waits for
photos. Under JAX nothing imports TensorFlow. Writes training_speed.csv.
"""

import csv
import io
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.speed import OUTPUT, hardware, versions
from benchmarks.speed_table import fill, markdown_table
from benchmarks.training_memory import write_photos
from camlib.console import ROOT, ArgumentParser, UserError, run_script
from camlib.files import write_whole

VALIDATED = 10  # photos of each class, which take no part in what is timed
COLUMNS = ("recipe", "numbers", "batch", "photos/s in training", "photos/s of the pipeline alone")
# short epochs, when each step ends, and the batches alone, as the child tells them
CHILD = """
import sys, time
sys.path.insert(0, sys.argv[1])
from camlib.backend import device_name
from camlib.training.batches import Batches
from camlib.training.state import TrainingProgress
from train_cam_4class import main
steps, seen, ends = int(sys.argv[2]), {}, []
def length(self):
    seen["batches"] = self
    return steps
def ended(self, batch, logs=None, usual=TrainingProgress.on_train_batch_end):
    ends.append(time.perf_counter())
    usual(self, batch, logs)
Batches.__len__, TrainingProgress.on_train_batch_end = length, ended
main(sys.argv[3:])
batches = seen["batches"]
batches.epoch, size = 7, batches.recipe.batch_size
batches[0]
began = time.perf_counter()
for number in range(1, steps):
    batches[number]
alone = time.perf_counter() - began
photos = size * (steps - 1)
print("measured", photos / (ends[-1] - ends[steps]), photos / alone, device_name(), sep="\\t")
"""


def parse_arguments(arguments=None):
    parser = ArgumentParser(__doc__)
    parser.add_argument("--recipes", nargs="+", choices=("modern", "original", "vgg16"), default=["modern", "vgg16"])
    parser.add_argument("--batches", nargs="+", type=int, default=[32], metavar="N", help="photos of a step")
    parser.add_argument("--steps", type=int, default=30, metavar="N", help="of each of the two epochs")
    parser.add_argument(
        "--dtypes",
        nargs="+",
        choices=("float32", "bfloat16", "float16"),
        metavar="TYPE",
        help="what is computed in; default: what training chooses here",
    )
    parser.add_argument("--output", type=Path, default=OUTPUT, metavar="DIR", help="folder of training_speed.csv")
    parser.add_argument("--docs", nargs="+", type=Path, default=[], metavar="PAGE", help="put the table there as well")
    settings = parser.parse_args(arguments)
    parser.require(settings, steps=3)
    if min(settings.batches) < 4:
        parser.error(f"--batches {min(settings.batches)}: expected 4 or more, which a mosaic takes")
    return settings


def measure(photos, folder, recipe, batch, steps, dtype):
    """Train in a process of its own: (photos a second, photos a second of the batches alone, device, dtype).

    Raises:
        UserError: it fails.
    """
    output = folder / f"{recipe}_{batch}_{dtype}" / "net.h5"
    words = ["--data", photos, "--output", output, "--recipe", recipe, "--epochs", 2, "--batch-size", batch]
    words += ["--dtype", dtype] if dtype else []
    command = [sys.executable, "-c", CHILD, ROOT, steps, *words]
    result = subprocess.run([str(word) for word in command], capture_output=True, text=True, cwd=ROOT)
    lines = result.stdout.splitlines()
    if result.returncode or not lines[-1].startswith("measured"):
        said = (result.stderr.strip().splitlines() or lines)[-1:]
        raise UserError(f"training ended with exit code {result.returncode}: {''.join(said)[:200]}")
    _, training, alone, device = lines[-1].split("\t")
    numbers = next(line for line in lines if line.startswith("training ")).split(", ")[-1]
    return float(training), float(alone), device, numbers


def main(arguments=None):
    settings = parse_arguments(arguments)
    lines, devices = [], []
    with tempfile.TemporaryDirectory() as folder:
        photos = Path(folder, "photos")
        write_photos(photos, max(400, max(settings.batches) * settings.steps), VALIDATED)
        for recipe in settings.recipes:
            for batch in settings.batches:
                for dtype in settings.dtypes or [None]:
                    training, alone, device, numbers = measure(
                        photos, Path(folder), recipe, batch, settings.steps, dtype
                    )
                    lines.append([recipe, numbers, str(batch), f"{training:,.0f}", f"{alone:,.0f}"])
                    devices.append(device)
                    print(", ".join(lines[-1]), flush=True)
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")  # this process starts none: it would take the GPU's memory
    where = f"{devices[0]} ({hardware()}); {versions([f'ours-{backend}'])}"
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([[*COLUMNS, "measured on"], *([*line, where] for line in lines)])
    settings.output.mkdir(parents=True, exist_ok=True)
    path = settings.output / "training_speed.csv"
    write_whole(path, lambda file: file.write(text.getvalue().encode()))
    for place in settings.docs:
        fill(place, {"training": f"{where}\n\n{markdown_table(list(COLUMNS), lines)}"})
    print(f"wrote {path}")


if __name__ == "__main__":
    run_script(main)
