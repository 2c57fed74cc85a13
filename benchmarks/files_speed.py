"""Measure what the files of a photo cost beside the network: reading the photo, colours, JPEG, .npy, or a store.

    python benchmarks/files_speed.py my_photos --photos 300 --repeats 5     # about a minute
    python benchmarks/files_speed.py my_photos --maps outputs/cam           # with the maps of a network

make_cam_maps.py's own way of reading and writing, with a network of no cost: four maps of 96x96 for each photo. Taking
turns it makes all files, the arrays alone, stores, and reads only, on one core and on all, and prints for each the
median over the repeats: milliseconds a photo times cores, which is what a photo costs of one core; of these those that
the processor worked, which other programs lengthen less; photos a second; kilobytes and files a photo; and the largest
peak of memory so far. Maps of waves are smoother than a network's: their size in a store says little, see --maps.
"""

import argparse
import contextlib
import io
import itertools
import os
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from camlib.attribution import ExplainedBatch, Outputs
from camlib.photos import Photo, find_photos, read_batches
from camlib.plots.colours import USUAL
from camlib.preprocessing import InputSpec
from camlib.runs.folder_run import FolderRun
from camlib.runs.maps import SIGNED, Drawing, all_maps, find_saved, read_map
from camlib.runs.run import explain_photos
from camlib.runs.writers import FolderWriter, StoreWriter

CLASSES = ["dog", "cat", "horse", "bird"]
INPUT_SPEC = InputSpec(CLASSES, 96, 96, 3)
BATCH_SIZE = 32  # make_cam_maps.py's


def smooth_maps():
    """Signed maps of a batch, float32 (N, C, 96, 96), as smooth as a network's."""
    generator = np.random.default_rng(0)
    y, x = np.mgrid[:96, :96] / 96
    shape = (BATCH_SIZE, len(CLASSES), 1, 1)
    phase, wave, height = (generator.uniform(low, high, shape) for low, high in ((0, 6), (3, 12), (0.5, 3)))
    return (height * np.sin(wave * x + phase) * np.cos(wave * y)).astype(np.float32)


MAPS, LOGITS = smooth_maps(), np.zeros((BATCH_SIZE, len(CLASSES)), np.float32)


def maps_of_run(place):
    """The maps of a run's first photos, float32 (N, C, h, w), those of as many photos as a batch has."""
    saved = find_saved(place)[:BATCH_SIZE]
    maps = [[read_map(path) for path in next(iter(all_maps(photo).values())).values()] for photo in saved]
    return np.resize(np.array(maps), (BATCH_SIZE, *np.shape(maps)[1:]))


class MadeUpMaps:
    """An explainer whose maps cost nothing."""

    input_spec = INPUT_SPEC

    def explain(self, images, count):
        maps = [{"heatmap": dict(zip(CLASSES, of_photo, strict=True))} for of_photo in MAPS]
        return ExplainedBatch(LOGITS, LOGITS, maps, [{} for _ in maps])


def write_files(photos, folder, pictures, dtype=None):
    """Make the files of a run, or with a dtype a store, with maps that cost nothing."""
    drawing = Drawing(USUAL if pictures and not dtype else None, SIGNED, {})
    writer = FolderWriter(folder, drawing, pictures)
    if dtype:
        writer = StoreWriter(folder, drawing, pictures, explained=tuple(CLASSES), most=len(CLASSES), dtype=dtype)
    run = FolderRun(folder, {}, "", Outputs(CLASSES), writer=writer)
    with contextlib.redirect_stdout(io.StringIO()), run:
        run.resume(photos)
        for batch in explain_photos(MadeUpMaps(), run.writer, run.pending, BATCH_SIZE):
            run.add(batch)
        run.finish("")


def read_only(photos, folder):
    """Read the photos as a run does."""
    for _ in read_batches(photos, INPUT_SPEC, BATCH_SIZE):
        pass


WORK = {
    "all files": lambda photos, folder: write_files(photos, folder, True),
    "arrays only": lambda photos, folder: write_files(photos, folder, False),
    "store float32": lambda photos, folder: write_files(photos, folder, True, "float32"),
    "store float16": lambda photos, folder: write_files(photos, folder, True, "float16"),
    "store float16 without pictures": lambda photos, folder: write_files(photos, folder, False, "float16"),
    "reading": read_only,
}


def measure(work, photos, folder):
    """(seconds, seconds of the processor, bytes, files) of a piece of WORK, in a new folder."""
    began, began_processor = time.perf_counter(), time.process_time()
    WORK[work](photos, folder)
    seconds = time.perf_counter() - began, time.process_time() - began_processor
    files = [path for path in folder.rglob("*") if path.is_file()]
    return *seconds, sum(path.stat().st_size for path in files), len(files)


def measure_in_turns(photos, works, cores, repeats, place):
    """Do each of `works` on one core and on all, so often: dict of (work, cores) -> list of what `measure` returns.

    Everything is removed at the end, not in between: ext4 takes long to find room for a file after many were removed.
    """
    counts = sorted({1, len(cores)}) if cores else [os.cpu_count()]
    taken = {(work, count): [] for work in works for count in counts}
    with tempfile.TemporaryDirectory(dir=place) as parent:
        for repeat in range(repeats + 1):
            for work, count in taken:
                if cores:
                    os.sched_setaffinity(0, cores[:count])
                some = photos if repeat else photos[:BATCH_SIZE]  # the first warms up
                taken[work, count].append(measure(work, some, Path(parent, f"{work} {count} {repeat}")))
    return {key: measured[1:] for key, measured in taken.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("places", type=Path, nargs="+", metavar="PHOTO_OR_FOLDER")
    parser.add_argument("--photos", type=int, default=300, metavar="N", help="the same again where there are fewer")
    parser.add_argument("--repeats", type=int, default=5, metavar="N")
    parser.add_argument("--only", nargs="+", choices=WORK, default=list(WORK), metavar="WORK", help=", ".join(WORK))
    parser.add_argument("--maps", type=Path, metavar="DIR", help="a run of four classes, whose maps are written")
    parser.add_argument(
        "--place",
        type=Path,
        metavar="DIR",
        help="where the files go, for a while; /dev/shm leaves the disk out; default: the system's temporary folder",
    )
    settings = parser.parse_args()
    found = itertools.islice(itertools.cycle(find_photos(settings.places)), settings.photos)
    photos = [Photo(photo.path, f"{number}.jpg", f"{number}") for number, photo in enumerate(found)]
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if settings.maps:
        MAPS[:] = maps_of_run(settings.maps)
    measured = measure_in_turns(photos, settings.only, cores, settings.repeats, settings.place)
    for (work, count), taken in measured.items():
        wall, processor, size, files = (statistics.median(one) / len(photos) for one in zip(*taken, strict=True))
        print(
            f"{work} on {count}: {1000 * wall * count:.2f} ms a photo and core, processor {1000 * processor:.2f} ms, "
            f"{1 / wall:.0f} photos/s, {size / 1000:.1f} kB in {files:.1f} files"
        )
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


if __name__ == "__main__":
    main()
