"""Memory: what a batch needs, before anything is allocated, what there is, and smaller batches where it runs out."""

import contextlib
import functools
import math
import sys
from pathlib import Path

import numpy as np
import psutil

from camlib.backend import device_memory, sizes_in, traced
from camlib.console import UserError, counted, is_out_of_memory

FORWARD = 1.1  # times the largest moment of a traced forward pass: what the shipped networks take, measured
BACKWARD = 1.0  # times all its values, which a gradient keeps
COPIES = 6  # of the weights in training: with their gradients, two moments, the best and those being saved
# Of a container, in the second version of cgroups and in the first: their folder, the files of its limit and its use,
# and what memory.stat calls what the system gives back when needed, files that were read before
CGROUPS = (
    ("/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def available_memory():
    """Bytes that this process may still take: of the machine, its container and `ulimit -v`, or of the accelerator."""
    of_accelerator = device_memory()
    if of_accelerator is not None:
        return of_accelerator
    found = [psutil.virtual_memory().available]
    for names in CGROUPS:
        with contextlib.suppress(OSError, ValueError, KeyError):  # no such file, or "max"
            found.append(free_in_container(*names))
    if sys.platform != "win32":
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        if limit != resource.RLIM_INFINITY:
            found.append(limit - psutil.Process().memory_info().vms)
    return max(0, min(found))


def free_in_container(folder, limit, use, given_back):
    """Bytes that a container may still take; the arguments as in CGROUPS."""
    limit, use, stat = (Path(folder, name).read_text() for name in (limit, use, "memory.stat"))
    counts = dict(line.split() for line in stat.splitlines())
    return int(limit) - int(use) + int(counts[given_back])


def photo_memory(program, batch_size=1):
    """Bytes that each photo of a batch takes while a program, traced for so many, runs: (forward, with gradients)."""
    sizes = sizes_in(program)
    largest, every = max(map(sum, sizes), default=0), sum(made for _, made in sizes)
    return FORWARD * largest / batch_size, BACKWARD * every / batch_size


def check_batch(classifier, batch_size, with_gradients):
    """Refuse a batch with which a Classifier would run out of memory, see `check_memory`."""
    spec = classifier.input_spec
    check_memory(classifier.structure.memory[with_gradients], batch_size, max(spec.height, spec.width))


def check_training(network, shape, side, batch_size, devices, least):
    """Refuse batches with which training would run out of memory, see `check_memory`.

    Args:
        network: keras.Model, in the form that is trained.
        shape: (H, W, channels), what it is trained on.
        side: int, that the user may ask for, of photos it is cut out of.
        batch_size: int, photos in a step.
        devices: int, which share them.
        least: int, what `batch_size` is a multiple of.
    """
    _, of_photo = photo_memory(traced(functools.partial(network, training=True), (1, *shape)))
    weights = 4 * network.count_params() * COPIES
    check_memory(of_photo / devices, batch_size, side, least, weights)


def check_memory(of_photo, batch_size, side, least=1, fixed=0):
    """Refuse a batch that does not fit into memory, before anything is allocated.

    Args:
        of_photo: float, bytes of each photo.
        batch_size: int.
        side: int, the longer side of the photos in pixels; memory grows with its square.
        least: int, what the size of a batch is a multiple of.
        fixed: float, bytes that do not depend on the batch.

    Raises:
        UserError: with what would fit.
    """
    available, need = available_memory(), fixed + of_photo * batch_size
    if need <= available:
        return
    fits = math.floor((available - fixed) / of_photo / least) * least
    smaller = math.floor(side * math.sqrt(max(0, available - fixed) / (of_photo * least)))
    lower = f"--size {smaller} or less, with --batch-size {least}" if smaller > 0 else "a machine with more memory"
    expected = f"--batch-size {fits} or less" if fits >= least else lower
    raise UserError(
        f"a batch of {counted(batch_size, 'photo')} of {side:,} pixels needs about {gigabytes(need)} of memory, of "
        f"which {gigabytes(available)} are free; expected {expected}"
    )


def gigabytes(count):
    """Bytes in words."""
    return f"{count / 1e9:,.1f} GB"


def halving(run, axes):
    """Let a function of a batch do with smaller ones, from then on, where memory runs out; says so.

    Args:
        run: function of (images (N, ...), how many of them matter, ...) -> tuple of arrays, or None.
        axes: int for each of these arrays, its axis of length N.

    Returns:
        function like `run`.
    """
    portion = math.inf

    def run_in_portions(images, count, *others):
        nonlocal portion
        size = portion
        if len(images) > size:
            starts = range(0, len(images), size)
            counts = [min(max(count - start, 1), size) for start in starts]  # of those that only fill up, one
            parts = [run_in_portions(images[i : i + size], n, *others) for i, n in zip(starts, counts, strict=True)]
            joined = zip(axes, zip(*parts, strict=True), strict=True)
            return tuple(None if part[0] is None else np.concatenate(part, axis) for axis, part in joined)
        try:
            return run(images, count, *others)
        except Exception as error:
            if len(images) == 1 or not is_out_of_memory(error):
                raise
        portion = len(images) // 2  # here, where what the error held is free again
        print(f"out of memory with {len(images)} photos at once: going on with {portion}", flush=True)
        return run_in_portions(images, count, *others)

    return run_in_portions
