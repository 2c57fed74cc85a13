"""Runs without a network: maps that are made up from photos' pixels, through the same loop as those of the scripts."""

import contextlib

import numpy as np
from PIL import Image

from camlib.attribution import ExplainedBatch, Outputs
from camlib.photos import find_photos, read_network_input
from camlib.plots.colours import Style
from camlib.preprocessing import InputSpec
from camlib.runs.folder_run import FolderRun
from camlib.runs.maps import SIGNED, all_maps, find_saved, read_map
from camlib.runs.run import explain_photos
from camlib.runs.shards import RunPart, Shard
from camlib.runs.writers import Drawing, FolderWriter, StoreWriter

CLASSES = ["dog", "cat"]
INPUT_SPEC = InputSpec(CLASSES, 16, 16, 3)
BATCH_SIZE = 3
FORMS = ["files", "arrays", "store", "shard of files", "shard of a store"]  # what a run may write


def noise_photos(folder, count):
    """Photos of noise, list of Photo: 000.png, 001.png ..."""
    folder.mkdir(exist_ok=True)
    for number in range(count):
        noise = np.random.default_rng(number).integers(0, 256, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{number:03d}.png")
    return find_photos([folder])


def made_up(images, count):
    """Logits, probabilities and maps of photos, made up from their pixels."""
    sums = images.reshape(len(images), -1).mean(axis=1)
    generators = [np.random.default_rng(int(image.astype(np.int64).sum())) for image in images]
    maps = [{"heatmap": {name: one.normal(size=(12, 15)).astype("f4") for name in CLASSES}} for one in generators]
    return np.column_stack((sums, -sums)), np.column_stack((sums, 256 - sums)) / 256, maps


class MadeUpMaps:
    """An explainer whose maps are made up.

    Args:
        explain: function like `made_up`.
    """

    input_spec = INPUT_SPEC

    def __init__(self, explain=made_up):
        self.made_up = explain

    def explain(self, images, count):
        logits, probabilities, maps = self.made_up(images, count)
        return ExplainedBatch(logits, probabilities, maps, [{} for _ in maps])


def open_run(output, form="files", photos=(), settings=None, overwrite=False, outputs=None, dtype="float32"):
    """A FolderRun of one of FORMS, with pictures but for "arrays"; a shard is the only one of its run."""
    drawing = Drawing(None if form == "arrays" else Style(), SIGNED, {})
    writer = FolderWriter(output, drawing, pictures=form != "arrays")
    if "store" in form:
        writer = StoreWriter(output, drawing, explained=tuple(CLASSES), most=len(CLASSES), dtype=dtype)
    part = RunPart(Shard(1, 1), photos, BATCH_SIZE) if "shard" in form else None
    return FolderRun(output, settings or {"size": 16}, "", outputs or Outputs(CLASSES), overwrite, part, writer)


def do(run, photos, explain=made_up, batch_size=BATCH_SIZE):
    """Do a run as the scripts do; returns the exit code."""
    with run:
        run.resume(photos)
        explainer = MadeUpMaps(explain)
        with contextlib.closing(explain_photos(explainer, run.writer, run.pending, batch_size)) as batches:
            for batch in batches:
                run.add(batch)
        return run.finish("")


def make(photos, output, form="files", **more):
    """Make a run, or go on with it."""
    return do(open_run(output, form, photos, **more), photos)


def arrays_of(place):
    """All maps of a place: dict of (photo, kind, class) -> array."""
    return {
        (saved.name, kind, name): read_map(where)
        for saved in find_saved(place)
        for kind, of_classes in all_maps(saved).items()
        for name, where in of_classes.items()
    }


def assert_same(found, expected):
    """Two of what `arrays_of` gives are the same, and not empty."""
    assert found.keys() == expected.keys() and found
    for key, values in expected.items():
        np.testing.assert_array_equal(found[key], values, str(key))


def assert_whole(place, photos):
    """What a place holds is what `made_up` gives, all of each photo; returns how many it holds."""
    found, paths = arrays_of(place), {photo.name: photo.path for photo in photos}
    names = dict.fromkeys(name for name, *_ in found)
    expected = {}
    for name in names:
        (maps,) = made_up(read_network_input(paths[name], INPUT_SPEC)[None], 1)[2]
        expected |= {(name, "heatmap", class_name): values for class_name, values in maps["heatmap"].items()}
    assert_same(found, expected)
    return len(names)
