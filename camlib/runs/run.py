"""The loop that every photo goes through, read, mapped, written, and the one way to open a run."""

import contextlib
import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from camlib.console import counted, duration
from camlib.photos import DISPLAY_SIDE, Photo, network_input, read_batches
from camlib.runs.claim import NOT_FINITE
from camlib.runs.folder_run import FolderRun
from camlib.runs.maps import Drawing
from camlib.runs.shards import RunPart
from camlib.runs.writers import FolderWriter, StoreWriter


def open_run(args, explainer, settings, photos, batch_size, style):
    """Open the run that the user asked for: a folder of files or a store, all of it or a shard.

    Args:
        args: the user's, with the options of `camlib.options.add_map_run_options` and of shards.
        explainer: CAM or GradCAM.
        settings: dict that decides what the maps are.
        photos: list of Photo, those of all shards.
        batch_size: int, photos of one batch.
        style: Style, or None for arrays without pictures.

    Returns:
        FolderRun, a context: it is closed at its end.

    Raises:
        UserError: the place holds something else, or another process writes to it.
    """
    outputs = explainer.outputs
    drawing = Drawing(style, explainer.kinds, explainer.titles, explainer.made)
    place, writer = args.output, FolderWriter(args.output, drawing, not args.no_pictures, args.full_size)
    if args.store:
        place, settings = args.store, settings | {"store_dtype": args.store_dtype}
        explained = tuple(outputs.explained or outputs.class_names)
        kept = {"explained": explained, "most": outputs.most or len(explained), "dtype": args.store_dtype}
        writer = StoreWriter(place, drawing, not args.no_pictures, args.full_size, **kept)
    part = RunPart(args.shard, photos, batch_size) if args.shard else None
    return FolderRun(place, settings, explainer.conventions, outputs, args.overwrite, part, writer)


class Finished(NamedTuple):
    """A batch whose files are written.

    Attributes:
        photos: list of Photo, those with maps.
        logits: float (len(photos), C).
        probabilities: float (len(photos), C + groups), or None.
        failed: list of (path, reason), of its other photos.
        notes: dict of a photo's name -> list of str, what is to be said of it.
        places: dict of a photo's name -> what the list says of where its maps are; None until they are on the disk.
    """

    photos: list
    logits: np.ndarray | None
    probabilities: np.ndarray | None
    failed: list
    notes: dict
    places: dict | None = None

    @property
    def count(self):
        """How many photos are dealt with."""
        return len(self.photos) + len(self.failed)


def explain_photos(explainer, writer, photos, batch_size):
    """Map photos batch by batch, and write the files of each batch while the network sees the next.

    Args:
        explainer: CAM or GradCAM.
        writer: FolderWriter or StoreWriter.
        photos: list of Photo.
        batch_size: int.

    Yields:
        Finished.
    """
    reading = contextlib.closing(read_batches(photos, explainer.input_spec, batch_size, writer.shows_small))
    with reading as batches, writing_threads() as pool:
        before = None
        for done, images, unreadable in batches:
            found = explainer.explain(images, len(done)) if done else None
            if before:
                yield before.finished()  # so that two batches are in memory at most
            before = BatchBeingWritten(pool, writer, done, unreadable, found)
        if before:
            yield before.finished()


@contextlib.contextmanager
def writing_threads():
    """Threads that write files; what is not begun when an error or Ctrl-C ends the run is left out."""
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


class BatchBeingWritten:
    """A batch whose photos are being written in threads.

    Args:
        pool: ThreadPoolExecutor.
        writer: FolderWriter or StoreWriter.
        done: list of (Photo, photo for display or None).
        unreadable: list of (path, reason), photos that could not be read.
        found: ExplainedBatch, or None where nothing could be read.
    """

    def __init__(self, pool, writer, done, unreadable, found):
        self.done, self.unreadable, self.found = done, unreadable, found
        self.writing = {}
        if done:
            finite = np.flatnonzero(np.isfinite(found.logits[: len(done)]).all(axis=1))
            probabilities = found.probabilities
            for index in finite:
                shares = None if probabilities is None else probabilities[index]
                self.writing[index] = pool.submit(writer.write, *done[index], found.maps[index], shares)

    def finished(self):
        """Wait for the files: their Finished. Raises what writing them raised, but for a PhotoError."""
        if not self.done:
            return Finished([], None, None, self.unreadable, {})
        problems = {index: one.result() for index, one in self.writing.items()}
        whole = [index for index, problem in problems.items() if problem is None]
        failed = [
            (str(photo.path), str(problems.get(index, NOT_FINITE)))
            for index, (photo, _) in enumerate(self.done)
            if index not in whole
        ]
        found, photos = self.found, [photo for photo, _ in self.done]
        probabilities = None if found.probabilities is None else found.probabilities[whole]
        notes = {
            photos[index].name: [f"{name} of {photos[index].name}: {why}" for name, why in found.zero[index].items()]
            for index in whole
            if found.zero[index]
        }
        photos = [photos[index] for index in whole]
        return Finished(photos, found.logits[whole], probabilities, failed + self.unreadable, notes)


def announce_cost(gradcam, run, left, batch_size, some):
    """Say how long the maps of many classes take and how much they fill, from those of some, before they are made.

    Args:
        gradcam: GradCAM.
        run: FolderRun.
        left: int, how many photos are to be done.
        batch_size: int.
        some: int, of how many classes the cost is measured; the first call compiles.
    """
    if not left:
        return
    noise = np.random.default_rng(0).integers(0, 256, (1, DISPLAY_SIDE, DISPLAY_SIDE, 3), np.uint8)
    images = np.repeat([network_input(noise[0], gradcam.input_spec)], batch_size, axis=0)
    chosen, count = gradcam.chosen[:some], len(gradcam.chosen)
    gradcam.explain(images, batch_size, chosen)
    with tempfile.TemporaryDirectory() as folder:
        writer = FolderWriter(Path(folder), run.writer.drawing, pictures=False)
        begin = time.monotonic()
        found = gradcam.explain(images, batch_size, chosen)
        asked = time.monotonic()
        writer.write(Photo(Path("noise"), "noise", "."), noise[0], found.maps[0])
        written = time.monotonic()
        size = sum(path.stat().st_size for path in Path(folder).iterdir())
    times = left * count / some
    cost = duration(((asked - begin) / batch_size + written - asked) * times)
    of = f"{counted(count, 'class', 'classes')} of {counted(left, 'photo')}"
    print(f"{of}: {cost}, {size * times / 1e9:,.1f} GB; --classes with fewer takes less", flush=True)
