"""How many photos a second training takes, how many its pipeline makes alone, and how memory grows with their number.

    python benchmarks/training.py                                                     # a few minutes on two cores
    KERAS_BACKEND=jax python benchmarks/training.py --batches 32 256 1024        # a GPU
    python benchmarks/training.py --recipes original --photos 2000 50000                              # memory
    python benchmarks/training.py --recipes original --batches 4 --steps 3            # does it run?

Each row is train_cam_4class.py in a process of its own, on photos that this makes and the script decodes, two epochs of
--steps steps with augmentation and mosaics; the second is timed from its first step's end, so that nothing is compiled
in it. Then the batches of another epoch are made alone: where that is not faster than training, the network waits for
photos. Peak memory is the process's or, of a GPU, the device's. Under JAX nothing imports TensorFlow. Writes
training_speed.csv.
"""

import contextlib
import io
import itertools
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import timing
from camlib.console import ArgumentParser, run_script, whole_number
from camlib.files import write_csv

SIDE, CLASSES, VALIDATED = 96, ("bird", "cat", "dog", "horse"), 40  # pixels; photos of each class to validate on
COLUMNS = ("recipe", "numbers", "batch", "photos", "photos/s in training", "photos/s of the pipeline alone", "peak MB")


def parse_arguments(arguments=None):
    parser = ArgumentParser(__doc__)
    least, steps = whole_number(4, 10**6), whole_number(3, 10**6)  # a mosaic takes 4
    recipes, dtypes = ("modern", "original", "vgg16"), ("float32", "bfloat16", "float16")
    parser.add_argument("--recipes", nargs="+", choices=recipes, default=["modern", "vgg16"])
    parser.add_argument("--batches", nargs="+", type=least, default=[32], metavar="N", help="photos of a step")
    parser.add_argument("--steps", type=steps, default=30, metavar="N", help="of each of the two epochs")
    parser.add_argument("--photos", nargs="+", type=least, metavar="N", help="to train on; default: those of all steps")
    parser.add_argument("--dtypes", nargs="+", choices=dtypes, default=["auto"], help="default: what training chooses")
    parser.add_argument("--output", type=Path, default=timing.OUTPUT, metavar="DIR", help="of training_speed.csv")
    return parser.parse_args(arguments)


def train(words, steps):
    """Train in this process: (device, numbers, [photos a second, of the batches alone, peak MB] as text)."""
    from camlib.backend import device_name
    from camlib.training.batches import Batches
    from camlib.training.state import TrainingProgress
    from train_cam_4class import main

    made, ends, said, usual = [], [], io.StringIO(), TrainingProgress.on_train_batch_end

    def length(batches):
        made.append(batches)
        return steps

    def ended(progress, batch, logs=None):
        ends.append(time.perf_counter())
        usual(progress, batch, logs)

    with (
        contextlib.redirect_stdout(said),
        mock.patch.object(Batches, "__len__", length),
        mock.patch.object(TrainingProgress, "on_train_batch_end", ended),
    ):
        main(words)
    peak, batches = timing.peak_memory(), made[-1]
    batches.epoch, photos = 7, batches.recipe.batch_size * (steps - 1)
    batches[0]
    began = time.perf_counter()
    for number in range(1, steps):
        batches[number]
    alone = time.perf_counter() - began
    numbers = next(line for line in said.getvalue().splitlines() if line.startswith("training ")).split(", ")[-1]
    speeds = photos / (ends[-1] - ends[steps]), photos / alone
    return device_name(), numbers, [f"{found:,.0f}" for found in (*speeds, peak / 1e6)]


def main(arguments=None):
    settings = parse_arguments(arguments)
    lines, choices = [], (settings.recipes, settings.batches, settings.dtypes)
    for count in settings.photos or [max(400, max(settings.batches) * settings.steps)]:
        with tempfile.TemporaryDirectory() as folder:
            for name, part in itertools.product(CLASSES, ("train", "val")):
                of_class = count // len(CLASSES) if part == "train" else VALIDATED
                timing.write_photos(Path(folder, "photos", part, name), of_class, SIDE, SIDE)
            for number, (recipe, batch, dtype) in enumerate(itertools.product(*choices)):
                words = ["--data", Path(folder, "photos"), "--output", Path(folder, str(number), "net.h5")]
                words += ["--recipe", recipe, "--epochs", 2, "--batch-size", batch, "--dtype", dtype]
                device, numbers, told = timing.in_new_process(train, list(map(str, words)), settings.steps)
                lines.append([recipe, numbers, str(batch), f"{count:,}", *told])
                print(", ".join(lines[-1]), flush=True)
    where, path = f"{device} ({timing.machine()})", settings.output / "training_speed.csv"
    settings.output.mkdir(parents=True, exist_ok=True)
    write_csv(path, [[*COLUMNS, "measured on"], *([*line, where] for line in lines)])
    print(f"{where}\n\n{timing.markdown_table(COLUMNS, lines)}\n\nwrote {path}")


if __name__ == "__main__":
    run_script(main)
