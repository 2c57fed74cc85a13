"""The loop that every photo goes through, read, mapped, written, and the one way to open a run."""

import contextlib
import os
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from camlib.photos import PhotoError, read_batches
from camlib.photos.resizing import cover_settings
from camlib.plots import PIXEL_KINDS
from camlib.runs.claim import NOT_FINITE
from camlib.runs.folder_run import FolderRun
from camlib.runs.shards import RunPart
from camlib.runs.writers import Drawing, FolderWriter, StoreWriter


def open_run(args, explainer, settings, photos, batch_size, style):
    """Open the run that the user asked for: a folder of files or a store, all of it or a shard.

    Args:
        args: the user's, with the options of `camlib.options.add_run_options`.
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
    reduction = settings.get("reduce")
    signed = {kind: both and (kind not in PIXEL_KINDS or reduction == "sum") for kind, both in explainer.kinds.items()}
    of_run = explainer.titles, explainer.made, bool(args.overlay), explainer.cover
    drawing = Drawing(style, signed, *of_run, reduction)
    settings = settings | cover_settings(explainer.cover)  # readers lay the maps there
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
        gaps: float (len(photos),), see ExplainedBatch, or None.
    """

    photos: list
    logits: np.ndarray | None
    probabilities: np.ndarray | None
    failed: list
    notes: dict
    places: dict | None = None
    gaps: np.ndarray | None = None

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
    with contextlib.ExitStack() as stack:
        batches = read_batches(photos, explainer.input_spec, batch_size, writer.shows_small)
        stack.enter_context(contextlib.closing(batches))
        pool = ThreadPoolExecutor(os.cpu_count())
        # what is not begun when an error or Ctrl-C ends the run is left out
        stack.callback(pool.shutdown, cancel_futures=True)
        before = None
        for done, images, unreadable in batches:
            found = explainer.explain(images, len(done)) if done else None
            if before:
                yield finished(*before)  # so that two batches are in memory at most
            writing = [pool.submit(write_finite, writer, found, number, *one) for number, one in enumerate(done)]
            before = found, [photo for photo, _ in done], writing, unreadable
        if before:
            yield finished(*before)


def write_finite(writer, found, number, photo, picture):
    """Write the files of one photo of a batch, if the network's numbers for it are finite.

    Args:
        writer: FolderWriter or StoreWriter.
        found: ExplainedBatch.
        number: int, the photo's place in it.
        photo: Photo.
        picture: uint8 (H, W, 3), the photo for display, or None.

    Returns:
        None, or the PhotoError that says why there are none.
    """
    if not np.isfinite(found.logits[number]).all():
        return PhotoError(NOT_FINITE)
    probabilities = None if found.probabilities is None else found.probabilities[number]
    return writer.write(photo, picture, found.maps[number], probabilities)


def finished(found, photos, writing, unreadable):
    """Wait for the files of a batch: its Finished. Raises what writing them raised, but for a PhotoError.

    Args:
        found: ExplainedBatch, or None where no photo could be read.
        photos: list of Photo.
        writing: list of Future of `write_finite`, one a photo.
        unreadable: list of (path, reason), photos that could not be read.
    """
    if not photos:
        return Finished([], None, None, unreadable, {})
    problems = [one.result() for one in writing]
    failed = [(str(photo.path), str(why)) for photo, why in zip(photos, problems, strict=True) if why]
    whole = [number for number, why in enumerate(problems) if not why]
    notes = {
        photos[number].name: [f"{name} of {photos[number].name}: {why}" for name, why in found.zero[number].items()]
        for number in whole
    }
    probabilities = None if found.probabilities is None else found.probabilities[whole]
    gaps, photos = None if found.gaps is None else found.gaps[whole], [photos[number] for number in whole]
    return Finished(photos, found.logits[whole], probabilities, failed + unreadable, notes, gaps=gaps)
