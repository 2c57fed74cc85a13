"""Measure what the files of a photo cost beside the network: reading the photo, colours, JPEG, .npy, or a store.

    python make_cam_maps.py my_photos --output outputs/mine --no-pictures
    python benchmarks/files_speed.py my_photos --maps outputs/mine --photos 300 --repeats 5     # about a minute

make_cam_maps.py's own way of reading and writing, with a network of no cost: the maps of a run of four classes, again
and again. Taking turns it makes all files, the arrays alone, stores, and reads only, and prints for each the median
over the repeats: milliseconds a photo; those that the processor worked, all cores together, which other programs
lengthen less; photos a second; kilobytes and files a photo; and the largest peak of memory so far. The files go to the
system's temporary folder, for a while: TMPDIR=/dev/shm leaves the disk out. `taskset -c 0` before the command tells
what one core does.
"""

import contextlib
import io
import itertools
import statistics
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.timing import peak_memory, seconds_of, take_turns
from camlib.attribution import ExplainedBatch, Outputs
from camlib.console import ArgumentParser, run_script, whole_number
from camlib.photos import Photo, find_photos, read_batches
from camlib.plots.colours import USUAL
from camlib.preprocessing import InputSpec
from camlib.runs.folder_run import FolderRun
from camlib.runs.maps import SIGNED, all_maps, find_saved, read_map
from camlib.runs.run import explain_photos
from camlib.runs.writers import Drawing, FolderWriter, StoreWriter

CLASSES = ["dog", "cat", "horse", "bird"]
INPUT_SPEC = InputSpec(CLASSES, 96, 96, 3)
BATCH_SIZE = 32  # make_cam_maps.py's
# what is done: (with pictures, dtype of a store or None); None: only read
WORK = {
    "all files": (True, None),
    "arrays only": (False, None),
    "store float32": (True, "float32"),
    "store float16": (True, "float16"),
    "store float16 without pictures": (False, "float16"),
    "reading": None,
}


def maps_of_run(place):
    """The maps of a run's first photos, float32 (N, C, h, w), those of as many photos as a batch has."""
    saved = find_saved(place)[:BATCH_SIZE]
    maps = [[read_map(path) for path in next(iter(all_maps(photo).values())).values()] for photo in saved]
    return np.resize(np.array(maps), (BATCH_SIZE, *np.shape(maps)[1:]))


class KnownMaps:
    """An explainer whose maps cost nothing."""

    input_spec = INPUT_SPEC

    def __init__(self, maps):
        self.maps = maps

    def explain(self, images, count):
        maps = [{"heatmap": dict(zip(CLASSES, of_photo, strict=True))} for of_photo in self.maps]
        logits = np.zeros((BATCH_SIZE, len(CLASSES)), np.float32)
        return ExplainedBatch(logits, logits, maps, [{} for _ in maps])


def write_files(explainer, photos, folder, pictures, dtype):
    """Make the files of a run, or with a dtype a store."""
    drawing = Drawing(USUAL if pictures and not dtype else None, SIGNED, {})
    writer = FolderWriter(folder, drawing, pictures)
    if dtype:
        writer = StoreWriter(folder, drawing, pictures, explained=tuple(CLASSES), most=len(CLASSES), dtype=dtype)
    run = FolderRun(folder, {}, "", Outputs(CLASSES), writer=writer)
    with contextlib.redirect_stdout(io.StringIO()), run:
        run.resume(photos)
        for batch in explain_photos(explainer, run.writer, run.pending, BATCH_SIZE):
            run.add(batch)
        run.finish("")


def measure(work, explainer, photos, parent):
    """(seconds, seconds of the processor, bytes, files) of a piece of WORK, in a new folder."""
    folder = Path(tempfile.mkdtemp(dir=parent), "out")
    if WORK[work]:
        seconds, busy, _ = seconds_of(lambda: write_files(explainer, photos, folder, *WORK[work]))
    else:
        seconds, busy, _ = seconds_of(lambda: [None for _ in read_batches(photos, INPUT_SPEC, BATCH_SIZE)])
    files = [path for path in folder.rglob("*") if path.is_file()]
    return seconds, busy, sum(path.stat().st_size for path in files), len(files)


def parse_arguments(arguments=None):
    parser = ArgumentParser(__doc__)
    parser.add_argument("places", type=Path, nargs="+", metavar="PHOTO_OR_FOLDER")
    number = whole_number(1, 10**6)
    parser.add_argument("--photos", type=number, default=300, metavar="N", help="the same again where there are fewer")
    parser.add_argument("--repeats", type=number, default=5, metavar="N", help="turns of each piece of work")
    parser.add_argument("--maps", type=Path, required=True, metavar="DIR", help="a run, whose maps are written")
    return parser.parse_args(arguments)


def main(arguments=None):
    settings = parse_arguments(arguments)
    found = itertools.islice(itertools.cycle(find_photos(settings.places)), settings.photos)
    photos = [Photo(photo.path, f"{number}.jpg", f"{number}") for number, photo in enumerate(found)]
    explainer = KnownMaps(maps_of_run(settings.maps))
    # everything is removed at the end: ext4 takes long to find room for a file after many were removed
    with tempfile.TemporaryDirectory() as parent:
        take_turns([partial(measure, work, explainer, photos[:BATCH_SIZE], parent) for work in WORK], 1)  # warms up
        turns = take_turns([partial(measure, work, explainer, photos, parent) for work in WORK], settings.repeats)
    for work, taken in zip(WORK, turns, strict=True):
        wall, busy, size, files = (statistics.median(one) / len(photos) for one in zip(*taken, strict=True))
        print(
            f"{work}: {1000 * wall:.2f} ms a photo, processor {1000 * busy:.2f} ms, {1 / wall:.0f} photos/s, "
            f"{size / 1000:.1f} kB in {files:.1f} files"
        )
    print(f"peak memory {peak_memory() / 1e6:.0f} MB")


if __name__ == "__main__":
    run_script(main)
