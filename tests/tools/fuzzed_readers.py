"""Readers of files that may come from somebody else, as the fuzzer calls them, and small whole files to begin with.

    python tests/tools/fuzzed_readers.py READER CORPUS FINDINGS [options of libFuzzer]    # as fuzz_readers.py does

A reader gets the bytes of a file and an empty folder. It may return, or raise what scripts make one line of (EXPECTED).
As a program it needs Atheris, runs until libFuzzer's limits, and keeps an input for each line of camlib that anything
else came from; crashes and limits are libFuzzer's to report.
"""

import contextlib
import io
import json
import os
import shutil
import struct
import sys
import tempfile
import traceback
import zipfile
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import h5py
import keras
import numpy as np
from PIL import Image

sys.path.append(str(Path(__file__).resolve().parents[2]))

if __name__ == "__main__":
    import atheris

    watched = atheris.instrument_imports(include=["camlib"])
else:
    watched = contextlib.nullcontext()
with watched:
    from camlib.attribution import Outputs
    from camlib.console import UserError
    from camlib.evaluation.annotations import Annotation, find_items, items_sha256, mask_size, read_annotations
    from camlib.evaluation.results import Results, merged
    from camlib.files import csv_text
    from camlib.networks import plain_data
    from camlib.networks.checkpoint import describe_contents, rebuilt
    from camlib.networks.keras2_operations import Refused
    from camlib.photos import PhotoError, read_photo
    from camlib.preprocessing import read_class_names
    from camlib.runs import shards
    from camlib.runs.folder_run import FolderRun
    from camlib.runs.maps import MapError, all_maps, find_saved, read_map
    from camlib.runs.store import packed_photo, write_part
    from camlib.viewer.album import read_content
import hostile_files as hostile

EXPECTED = UserError, Refused, PhotoError, MapError
COUNTER = struct.Struct("<Q")  # executions, in a file that outlives a crash

# ---------------------------------------------------------------- model files


def written(write):
    """The bytes of what `write(path)` writes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file.h5"
        write(path)
        return path.read_bytes()


def seeds_of_hdf5():
    def packed(path):
        hostile.write_h5(path, hostile.stack())
        with h5py.File(path, "r+") as file:
            values = file["model_weights/conv/conv/kernel"][()]
            del file["model_weights/conv/conv/kernel"]
            file["model_weights/conv"].create_dataset("conv/kernel", data=values, compression="gzip", shuffle=True)

    tricks = ("soft link", "external link", "external storage", "virtual", "plugin", "text")
    writers = [partial(hostile.write_h5, config=hostile.stack()), packed]
    writers += [partial(hostile.linked, how=how, place=Path("/nowhere")) for how in tricks]
    return list(map(written, writers))


def seeds_of_archives():
    kinds = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED
    return [written(partial(hostile.write_keras, config=hostile.stack(), compression=kind)) for kind in kinds]


def read_model(content, folder):
    """What the process of its own does with a model file, in this process."""
    plain_data.transcribe(io.BytesIO(content), io.BytesIO(), 1 << 28)


def seeds_of_descriptions():
    norm, relu = hostile.entry("BatchNormalization", "norm"), hostile.entry("ReLU", "relu")
    networks = [
        hostile.stack(),
        hostile.stack(norm, relu),
        hostile.with_operation("Add", "image", 1.0),
        hostile.called_by_each_other(2),
        hostile.with_outputs([["class", 0, 0]]),
        hostile.stack(hostile.vocabularies("a")["StringLookup"]),
    ]
    return [json.dumps(network).encode() for network in networks]


def contents_with(config=None, input_spec=None, keras_version="3.15.0"):
    return SimpleNamespace(config=config, input_spec=input_spec, keras_version=keras_version)


def read_description(content, folder):
    """A network as JSON: from the text to a network without memory for its weights."""
    description, _ = describe_contents(contents_with(config=content.decode("utf-8", "replace")), Path("model.h5"))
    try:
        if description:
            rebuilt(description, trust=False, open_size=True)
    finally:
        keras.backend.clear_session()  # else the names of layers are counted without end


def seeds_of_meanings():
    return [json.dumps(hostile.INPUT_SPEC | {"scale": [1, 2.5, 1], "offset": 0, "bgr": True}).encode()]


def read_meaning(content, folder):
    describe_contents(contents_with(input_spec=content.decode("utf-8", "replace")), Path("model.h5"))


# ---------------------------------------------------------------- photos, masks, annotations

EXIF = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"  # on its side


def seeds_of_pictures():
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8))
    kinds = [(kind, "RGB") for kind in ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF", "PPM")]
    kinds += [("TIFF", "CMYK"), ("PNG", "L"), ("PNG", "P"), ("PNG", "RGBA"), ("JPEG", "CMYK")]
    found = []
    for kind, mode in kinds:
        content = io.BytesIO()
        picture.convert(mode).save(content, kind, **({"exif": EXIF} if kind == "JPEG" else {}))
        found.append(content.getvalue())
    return found


def read_a_photo(content, folder):
    for name, side in (("a.jpg", None), ("a.png", 8)):
        (folder / name).write_bytes(content)
        read_photo(folder / name, side)


def read_mask(content, folder):
    (folder / "mask.png").write_bytes(content)
    mask_size(folder / "mask.png")
    Annotation(folder / "a.png", "dog", (), folder / "mask.png", 32, 24).inside(12, 16)


RECORDS = [
    {"file": "a.png", "class": "dog", "boxes": [[1, 2, 20, 20.5]], "mask": "masks/a.png", "width": 32, "height": 24},
    {"file": "b.png", "class": "cat", "boxes": [[1, 2, 9, 8]], "mask": None, "width": 32, "height": 24},
]
VOC = b"""<annotation><filename>a.png</filename><size><width>32</width><height>24</height></size><object>
<name>dog</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object></annotation>"""


def read_boxes(content, folder, name):
    (folder / name).write_bytes(content)
    for annotation in read_annotations(folder):
        with contextlib.suppress(*EXPECTED):
            annotation.inside(12, 16)
    items_sha256(find_items([], folder / name))


def read_names(content, folder):
    (folder / "names.txt").write_bytes(content)
    read_class_names(folder / "names.txt")


# ---------------------------------------------------------------- what runs wrote


def seeds_of_maps():
    found = []
    for values in (np.ones((4, 5), "f4"), np.ones((4, 5, 3), "f2"), np.ones((4, 5), ">i4"), np.array({}, object)):
        content = io.BytesIO()
        np.save(content, values)
        found.append(content.getvalue())
    return found


def read_a_map(content, folder):
    (folder / "heatmap_for_dog.npy").write_bytes(content)
    read_map(folder / "heatmap_for_dog.npy")


RUN = {
    "command": ["make_cam_maps.py"],
    "settings": {"photos": ["p"], "class_names": ["dog", "cat"], "size": 8},
    "versions": {},
    "conventions": "",
    "shards": {"count": 2, "batch_size": 1, "photos": 2, "photos_sha256": "0"},
}
HEADER = ["path", "predicted", "logit_dog", "logit_cat", "probability_dog", "probability_cat"]
ROWS = [["a.png", "dog", 1.5, -2.0, 0.97, 0.03], ["=b.png", "cat", 0, 1, 0.27, 0.73]]
RUN_FILES = {
    "run.json": json.dumps(RUN),
    "predictions.csv": csv_text([HEADER, *ROWS]),
    "predictions-1-of-2.csv": csv_text([[*HEADER, "number"], [*ROWS[0], 0]]),
    "failed-1-of-2.csv": csv_text([["path", "reason", "number"], ["b.png", "empty file", 1]]),
}  # of a shard, and of a run that was killed before it had taken over its list


def seeds_of_runs():
    return [bytes([number]) + text.encode() for number, text in enumerate(RUN_FILES.values())]


def read_a_run(content, folder):
    """One of a run's files, which the first byte chooses, in all ways in which it is read."""
    run = folder / "run"
    run.mkdir()
    for name, text in RUN_FILES.items():
        (run / name).write_text(text)
    (run / list(RUN_FILES)[content[0] % len(RUN_FILES) if content else 0]).write_bytes(content[1:])
    shards.SECONDS_TO_WRITE = 0
    for use in (look_through, go_on_alone):
        with contextlib.suppress(*EXPECTED):
            use(run)


def look_through(run):
    for saved in find_saved(run):
        all_maps(saved)
        read_content(saved)
        assert saved.truth is None or isinstance(saved.truth, str)


def go_on_alone(run):
    record = shards.read_record(run) or RUN
    with contextlib.suppress(*EXPECTED):
        shards.check_same_shards(run, record, RUN)
    FolderRun(run, record["settings"], "", Outputs(["dog", "cat"])).close()


def seeds_of_results():
    scores = {"cam": {"pointing": 1, "energy": 0.5, "boxes": [0.1, 0.2], "counts": [[1, 2, 3], [1, 1, 1]]}}
    line = {"network": "net", "part": "maps", "item": "a.png#dog", "photo": "a.png", "class": "dog",
            "right": True, "truth": "boxes", "maps": scores}  # fmt: skip
    return [(json.dumps(line) + "\n").encode() * 2]


def read_results(content, folder):
    (folder / "results.jsonl").write_bytes(content)
    merged("net", Results(folder / "results.jsonl"))


def write_store(path, dtype):
    """A part of a store, of two photos."""
    generator = np.random.default_rng(0)
    maps = {"heatmap": {name: generator.normal(size=(6, 5)) for name in ("dog", "cat")}}
    classes = ["dog", "cat"]
    write_part(path, [packed_photo(row[0], b"", maps, classes, 2, dtype) for row in ROWS], classes, dtype)


def seeds_of_stores():
    return [written(lambda path, dtype=dtype: write_store(path, dtype)) for dtype in ("float32", "float16")]


def read_a_store(content, folder):
    (folder / "maps-0000000.h5").write_bytes(content)
    rows = [[*row, "maps-0000000.h5", number, 0.5] for number, row in enumerate(ROWS)]
    (folder / "predictions.csv").write_text(csv_text([[*HEADER, "part", "row", "modified"], *rows]))
    for saved in find_saved(folder):
        with contextlib.suppress(*EXPECTED):
            saved.read_photo()
        for places in all_maps(saved).values():
            for place in places.values():
                with contextlib.suppress(*EXPECTED):
                    read_map(place)


# ---------------------------------------------------------------- all of them


class Reader(NamedTuple):
    """A reader, see above.

    Attributes:
        read: function of (bytes, Path).
        seeds: function without arguments that gives a list of bytes.
        longest: int, bytes of an input at most.
    """

    read: object
    seeds: object
    longest: int


READERS = {
    "model-hdf5": Reader(read_model, seeds_of_hdf5, 40_000),
    "model-archive": Reader(read_model, seeds_of_archives, 30_000),
    "description": Reader(read_description, seeds_of_descriptions, 8_000),
    "meaning": Reader(read_meaning, seeds_of_meanings, 1_000),
    "photo": Reader(read_a_photo, seeds_of_pictures, 8_000),
    "mask": Reader(read_mask, seeds_of_pictures, 8_000),
    "annotations": Reader(partial(read_boxes, name="annotations.json"), lambda: [json.dumps(RECORDS).encode()], 2_000),
    "voc": Reader(partial(read_boxes, name="a.xml"), lambda: [VOC], 2_000),
    "class-names": Reader(read_names, lambda: ["dog\ncat\nä b\n".encode()], 500),
    "map": Reader(read_a_map, seeds_of_maps, 1_000),
    "run": Reader(read_a_run, seeds_of_runs, 2_000),
    "results": Reader(read_results, seeds_of_results, 2_000),
    "store": Reader(read_a_store, seeds_of_stores, 60_000),
}


def line_of(error):
    """The line of camlib that an error came from last: "shards.py-263"."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/camlib/" in frame.filename]
    return f"{Path(frames[-1].filename).name}-{frames[-1].lineno}" if frames else "elsewhere"


def fuzz(name, corpus, findings, options):
    """Fuzz a reader until libFuzzer ends the process.

    Args:
        name: str, of READERS.
        corpus: Path of a folder for inputs that reach something new.
        findings: Path of a folder for inputs with which an unexpected error comes from a line of its own.
        options: list of str, libFuzzer's.
    """
    reader, count = READERS[name], findings / "executions"
    folder = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))

    def run(content):
        nonlocal done
        done += 1
        os.pwrite(counter, COUNTER.pack(done), 0)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        try:
            reader.read(content, folder)
        except EXPECTED as error:
            if "\n" in str(error):
                keep(content, findings / f"lines-{line_of(error)}")
        except Exception as error:
            keep(content, findings / f"{type(error).__name__}-{line_of(error)}")

    counter = os.open(count, os.O_RDWR | os.O_CREAT)
    done = int.from_bytes(os.pread(counter, COUNTER.size, 0), "little")
    for number, seed in enumerate(reader.seeds()):
        (corpus / f"seed{number}").write_bytes(seed)
        run(seed)  # the first time libraries are loaded and compiled, which is not the reader's
    atheris.Setup([sys.argv[0], str(corpus), f"-max_len={reader.longest}", *options], run)
    atheris.Fuzz()


def keep(content, path):
    """Keep the shortest of the inputs that end alike."""
    if not path.exists() or path.stat().st_size > len(content):
        path.write_bytes(content)


if __name__ == "__main__":
    name, corpus, findings, *options = sys.argv[1:]
    fuzz(name, Path(corpus), Path(findings), options)
