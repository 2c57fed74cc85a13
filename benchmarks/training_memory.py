"""Measure how the memory and the pace of training depend on the number of photos, which it makes itself.

    python benchmarks/training_memory.py                     # 2,000 and 50,000 photos; about three minutes on two cores

Each row is train_cam_4class.py in a process of its own, from decoding all photos to the end of an epoch of 60 steps,
which take photos from everywhere among them, with a network of two small convolutions. Prints photos, megabytes of
their pixels, the process's peak memory in megabytes and how much more that is than for the fewest photos, and photos a
second of the epoch, of which the first steps compile.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
SIDE = 96  # pixels, the modern recipe's
CLASSES = ("bird", "cat", "dog", "horse")
VALIDATED = 40  # photos of each class, whatever the number to train on

STEPS, BATCH_SIZE = 60, 32
# a small network, a short epoch, and when that begins and ends, as the child tells them
CHILD = """
import resource, sys, time
sys.path.insert(0, sys.argv[1])
import camlib.networks.architectures
camlib.networks.architectures.MODERN_CONVOLUTIONS = ((8, 1), (8, 1))
from camlib.training.batches import Batches
from camlib.training.state import TrainingProgress
from train_cam_4class import main
Batches.__len__ = lambda self: int(sys.argv[2])
epoch = []
for name in ("on_epoch_begin", "on_epoch_end"):
    def timed(self, *arguments, usual=getattr(TrainingProgress, name), **named):
        epoch.append(time.monotonic())
        return usual(self, *arguments, **named)
    setattr(TrainingProgress, name, timed)
main(sys.argv[3:])
print("measured", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, epoch[1] - epoch[0])
"""


def write_photos(folder, count, validated=VALIDATED):
    """Class folders of `count` JPEG files to train on and some of each to validate; smooth noise, each its own."""
    generator = np.random.default_rng(0)
    for part, of_each in (("train", count // len(CLASSES)), ("val", validated)):
        for name in CLASSES:
            place = folder / part / name
            place.mkdir(parents=True)
            for number in range(of_each):
                coarse = generator.integers(0, 256, (8, 8, 3), np.uint8)
                cv2.imwrite(str(place / f"{number:06d}.jpg"), cv2.resize(coarse, (SIDE, SIDE)))


def measure(photos, output):
    """Train one epoch in a process of its own; returns (peak memory in bytes, seconds of the epoch)."""
    words = ["--data", photos, "--output", output, "--epochs", "1", "--batch-size", str(BATCH_SIZE)]
    command = [sys.executable, "-c", CHILD, str(ROOT), str(STEPS), *words]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=dict(os.environ))
    if result.returncode:
        raise SystemExit(result.stderr)
    _, memory, seconds = result.stdout.splitlines()[-1].split()
    return int(memory) * (1 if sys.platform == "darwin" else 1024), float(seconds)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, nargs="+", default=[2_000, 50_000], metavar="N", help="to train on")
    settings = parser.parse_args()
    least = None
    print("photos, pixels MB, peak MB, more MB, photos/s", flush=True)
    for count in sorted(settings.photos):
        with tempfile.TemporaryDirectory() as folder:
            began = time.monotonic()
            write_photos(Path(folder) / "photos", count)
            print(f"({count:,} photos written in {time.monotonic() - began:.0f} s)", file=sys.stderr)
            memory, seconds = measure(str(Path(folder) / "photos"), str(Path(folder) / "out" / "net.h5"))
        least = least or memory
        pixels, pace = count * SIDE * SIDE * 3, STEPS * BATCH_SIZE / seconds
        print(
            f"{count:,}, {pixels / 1e6:.0f}, {memory / 1e6:.0f}, {(memory - least) / 1e6:.0f}, {pace:.0f}", flush=True
        )


if __name__ == "__main__":
    main()
