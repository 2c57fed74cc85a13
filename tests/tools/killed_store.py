"""A store whose process is killed again and again: python killed_store.py PHOTOS STORE KILLS, a process of its own.

Each attempt is forked, so that none imports anything anew, and killed with SIGKILL: at the moments that MOMENTS names,
and then as often as asked for at random ones. Prints a JSON line for each: how it ended, and how many photos had been
flushed as far as it could tell.
"""

import json
import os
import random
import select
import signal
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from made_up_maps import WRITER, MadeUpMaps, make_maps

from camlib.attribution import Outputs
from camlib.photos import find_photos
from camlib.preprocessing import InputSpec
from camlib.runs import store, store_run

CLASSES, AT_END = ["dog", "cat"], "before it is closed"
# Seconds: of each batch, and that an attempt is left alone after its first. Eight attempts leave photos of 150 to do,
# however fast the machine is, so that the last moment of MOMENTS is met too.
PAUSE, LONGEST = 0.05, 0.2


def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)


def die_after(function, times):
    """A function that does what `function` does, so often, and then ends the process."""
    left = [times]

    def instead(*arguments, **more):
        if not left[0]:
            die()
        left[0] -= 1
        return function(*arguments, **more)

    return instead


add, close = store.StoreWriter.add, store.StoreWriter.close


def dies_at_record(self, *arguments, **more):
    """Add photos, but to the store itself only what comes before their records."""
    if not self.path.name.startswith("."):  # the copy of a store that was killed
        self.file.flush = die
    add(self, *arguments, **more)


def dies_at_end(self):
    """Close a copy, but not the store itself."""
    die() if not self.path.name.startswith(".") else close(self)


# what is exchanged in an attempt, so that it dies there
MOMENTS = {
    "before the file has its name": lambda: setattr(store.os, "replace", die),
    "between two photos of a batch": lambda: setattr(store, "write_chunks", die_after(store.write_chunks, 6)),
    "while the last run's photos are copied": lambda: setattr(store.StoreWriter, "add", die),
    "when they are copied": lambda: setattr(store.os, "replace", die),
    "before the records of a batch": lambda: setattr(store.StoreWriter, "add", dies_at_record),
    AT_END: lambda: setattr(store.StoreWriter, "close", dies_at_end),
}


def maps_of(pixels, dtype=np.float32):
    """The maps of a photo, made up from its pixels: dict of class name -> float (h, w)."""
    generator = np.random.default_rng(int(pixels.astype(np.int64).sum()))
    return {name: generator.normal(size=(12, 15)).astype(dtype) for name in CLASSES}


def make(photos, path, flushed=lambda count: None, dtype="float32"):
    """Make a store, or go on in it."""
    settings = {"size": 16, "store_dtype": dtype}
    run = store_run.StoreRun(path, settings, "", Outputs(CLASSES), writer=WRITER)

    def explain(images, count):
        time.sleep(PAUSE)
        sums = images.reshape(len(images), -1).mean(axis=1)
        probabilities = np.column_stack((sums, 256 - sums)) / 256
        return np.column_stack((sums, -sums)), probabilities, [{"heatmap": maps_of(image)} for image in images]

    add_rows = run.add_rows

    def add_and_tell(*arguments):
        add_rows(*arguments)
        flushed(run.store_writer.count)

    run.add_rows = add_and_tell
    return make_maps(run, photos, MadeUpMaps(InputSpec(CLASSES, 16, 16, 3), explain), 3)


def attempt(photos, path, moment, seconds):
    """Fork a process that makes the store; it dies at a moment, or is killed after so long.

    Returns:
        dict of moment, code (its exit code, negative if it was killed) and flushed (what it told last).
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        if moment:
            MOMENTS[moment]()
        os._exit(make(photos, path, lambda count: os.write(writing, b"%d\n" % count)))
    os.close(writing)
    if seconds is not None:
        select.select([reading], [], [], 30)  # its first batch, or its end
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    told = b""
    while part := os.read(reading, 4096):
        told += part
    os.close(reading)
    flushed = int(told.split()[-1]) if told else 0
    return {"moment": moment, "code": os.waitstatus_to_exitcode(status), "flushed": flushed}


def main(folder, path, kills):
    photos, generator = find_photos([Path(folder)]), random.Random(0)
    screen = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    attempts = [(moment, None) for moment in MOMENTS if moment != AT_END]
    attempts += [(None, generator.uniform(0, LONGEST)) for _ in range(kills)]
    for moment, seconds in [*attempts, (AT_END, None), (None, None)]:
        ended = attempt(photos, Path(path), moment, seconds)
        held = len(store.Store(Path(path)).rows) if Path(path).exists() else None
        os.write(screen, json.dumps(ended | {"held": held}).encode() + b"\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
