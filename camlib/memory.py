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
SMALL_BATCH = 1e9  # bytes of the largest operation of a batch that is not worth tracing a network for once more
# Of a container: its limit, its use, and among other numbers what of this the system gives back when needed, files
# that were read before; in the second version of cgroups and in the first
CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.stat", "inactive_file"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        "/sys/fs/cgroup/memory/memory.stat",
        "total_inactive_file",
    ),
)


def available_memory():
    """Bytes that this process may still take: of the machine, its container and `ulimit -v`, or of the accelerator."""
    of_accelerator = device_memory()
    if of_accelerator is not None:
        return of_accelerator
    found = [psutil.virtual_memory().available]
    for paths in CGROUPS:
        with contextlib.suppress(OSError, ValueError, KeyError):  # no such file, or "max"
            found.append(free_in_container(*paths))
    if sys.platform != "win32":
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        if limit != resource.RLIM_INFINITY:
            found.append(limit - psutil.Process().memory_info().vms)
    return max(0, min(found))


def free_in_container(limit, use, numbers, given_back):
    """Bytes that a container may still take; the arguments as in CGROUPS."""
    counts = dict(line.split() for line in Path(numbers).read_text().splitlines())
    return int(Path(limit).read_text()) - int(Path(use).read_text()) + int(counts[given_back])


def photo_memory(function, shape, with_gradients):
    """Bytes that one photo of a batch takes while a network runs.

    Args:
        function: of a tensor float32 (1, H, W, channels), traced here and not run.
        shape: (H, W, channels).
        with_gradients: bool, the gradient of its result is taken too.
    """
    largest, every = largest_and_all(function, (1, *shape))
    return BACKWARD * every if with_gradients else FORWARD * largest


def largest_and_all(function, shape):
    """What a function of a float32 tensor of that shape takes: traced, not run.

    Returns:
        (largest, every): bytes of the operation with the largest inputs and results, and of the results of all.
    """
    sizes = sizes_in(traced(function, shape))
    return max(before + made for before, made in sizes), sum(made for _, made in sizes)


def check_batch(classifier, batch_size, with_gradients):
    """Refuse a batch with which a Classifier would run out of memory, see `check_memory`."""
    spec, structure = classifier.input_spec, classifier.structure
    if batch_size * structure.largest <= SMALL_BATCH:
        return
    shape = spec.height, spec.width, spec.channels
    run = functools.partial(structure.signature.run, classifier.network)
    check_memory(photo_memory(run, shape, with_gradients), batch_size, max(shape[:2]))


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
    of_photo = photo_memory(functools.partial(network, training=True), shape, with_gradients=True)
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
    portion = None

    def run_in_portions(images, count, *others):
        nonlocal portion
        size = min(portion or len(images), len(images))
        while True:
            try:
                parts = [
                    run(images[start : start + size], min(max(count - start, 1), size), *others)
                    for start in range(0, len(images), size)
                ]
                break
            except Exception as error:
                if size == 1 or not is_out_of_memory(error):
                    raise
            size, before = size // 2, size  # here, where what the error held is free again
            portion = size
            print(f"out of memory with {before} photos at once: going on with {size}", flush=True)
        if len(parts) == 1:
            return parts[0]
        joined = zip(axes, zip(*parts, strict=True), strict=True)
        return tuple(None if part[0] is None else np.concatenate(part, axis) for axis, part in joined)

    return run_in_portions
