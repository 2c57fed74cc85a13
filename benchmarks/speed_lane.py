"""A process of speed.py: one tool, one kind of map, and a plain forward pass of the same network.

    python benchmarks/speed_lane.py SETUP          # speed.py runs it; SETUP is a Setup of speed_cases.py in JSON

It reads a word a line: `first` makes the maps for the first time, which compiles, and keeps them in a file; `time`
makes them again and runs the forward pass, each in its turn before the other. Each answer is a line of JSON.
"""

import json
import os
import re
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.speed_cases import TOOLS, Setup
from benchmarks.speed_tools import START
from camlib.console import first_line


def peak_memory(backend):
    """The most bytes that this process, or a GPU for it, has held at once."""
    if backend == "jax":
        import jax

        if jax.default_backend() != "cpu":
            return jax.local_devices()[0].memory_stats()["peak_bytes_in_use"]
    if backend == "tensorflow":
        import tensorflow as tf

        if tf.config.list_physical_devices("GPU"):
            return tf.config.experimental.get_memory_info("GPU:0")["peak"]
    status = Path("/proc/self/status")
    if status.exists():  # getrusage counts what the parent held when this process was made
        return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1])
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def device(backend):
    """Name of what a framework computes on, "CPU" or the GPU's own; the peers on PyTorch are run on the CPU."""
    if backend == "torch":
        return "CPU"
    from camlib.backend import device_name

    return device_name()


def seconds_of(function):
    began = time.perf_counter()
    found = function()
    return time.perf_counter() - began, found


def serve(setup, commands, answer):
    """Answer commands, one a line, until there are no more; see this file's docstring."""
    backend, images, rounds = TOOLS[setup.tool].backend, np.load(setup.images), 0
    forward, make, logits = START[setup.tool](setup, images)
    if setup.case == "forward":
        make = None
    some = np.asarray(logits(images[:1]), np.float64)
    answer({"ready": True, "device": device(backend), "logits": some.tolist()})
    for command in commands:
        if command.strip() == "first":
            seconds, maps = seconds_of(make or forward)
            if make:
                np.savez(setup.maps, **maps)
                forward()
            answer({"first": seconds, "peak": peak_memory(backend)})
            continue
        rounds += 1
        if make is None:
            times = {"forward": seconds_of(forward)[0]}
        else:  # each goes first in every other round
            order = [("forward", forward), ("seconds", make)]
            times = {name: seconds_of(function)[0] for name, function in order[:: 1 if rounds % 2 else -1]}
        times.setdefault("seconds", times["forward"])
        answer(times | {"peak": peak_memory(backend)})


def main():
    setup = Setup(**json.loads(sys.argv[1]))
    screen = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer

    def answer(record):
        print(json.dumps(record), file=screen, flush=True)

    try:
        serve(setup, sys.stdin, answer)
    except Exception as error:  # whatever a tool raises is its result here
        answer({"refuses": f"{type(error).__name__}: {first_line(error)}"})


if __name__ == "__main__":
    main()
