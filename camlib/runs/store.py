"""The parts of a store: the maps of some photos in one HDF5 file.

A store is a folder with a run's list, `predictions.csv`, and parts such as `maps-0000256.h5`, named by the number of
their first photo. The list says for each photo in which part, and in which row of it, its maps are. docs/usage.md
has what stands where, for who reads a part with h5py alone. Imports neither Keras nor TensorFlow.
"""

import contextlib
import io
import math
import os
import re
import sys
import threading
import zlib
from dataclasses import dataclass
from typing import NamedTuple

import h5py
import numpy as np
import psutil

from camlib.console import UserError, first_line
from camlib.files import write_whole

FORMAT = b"camlib maps 2"  # a part's attribute `format`
PART_NAME = re.compile(r"maps-([0-9]{7,})(-[0-9]+)?\.h5")
PLACE_COLUMNS = ("part", "row", "modified")  # of a store's list
MAP_CHUNK = 2**20  # bytes: the maps of a photo are one chunk, or where they are more than this several
MAP_FILTERS = [h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_DEFLATE]
LEVEL = 1  # of DEFLATE: more takes longer and hardly saves

# Most of what a part may claim
MOST_MAP_BYTES = 2**28  # a map of 4,096 x 4,096 with three channels is below
MOST_NAME, MOST_KINDS, MOST_EXPLAINED = 32_768, 16, 2**17
ROOM, LOOKING = 2**29, threading.Lock()  # bytes of memory while a part is looked at, by one thread at a time
PART_EXPECTED = "expected a part of a store, as --store writes it"
PART_ERRORS = (OSError, ValueError, KeyError, TypeError, RuntimeError, AttributeError, OverflowError, MemoryError,
          RecursionError, IndexError, zlib.error)  # fmt: skip


# ---------------------------------------------------------------- a map as bytes


def packed_chunk(values):
    """What HDF5's filters shuffle and DEFLATE make of an array; zlib leaves other threads the processor."""
    one_after_another = np.ascontiguousarray(values).reshape(-1).view(np.uint8).reshape(-1, values.itemsize)
    return zlib.compress(one_after_another.T.tobytes(), LEVEL)


def unpacked_chunk(data, shape, dtype):
    """The array of a chunk, which takes no more memory than its shape says.

    Raises:
        ValueError: it holds more or less than that. zlib.error: it is damaged.
    """
    size = int(np.prod(shape)) * dtype.itemsize
    inflate = zlib.decompressobj()
    found = inflate.decompress(data, size + 1)
    if len(found) != size or not inflate.eof:
        raise ValueError("a chunk holds other numbers than its shape says")
    planes = np.frombuffer(found, np.uint8).reshape(dtype.itemsize, -1)
    return np.ascontiguousarray(planes.T).view(dtype).reshape(shape)


def scales_of(maps):
    """The power of two that each map is divided by so that float16 holds it evenly: float32 (R,); of zeros 1."""
    largest = np.abs(maps.reshape(len(maps), -1)).max(axis=1)
    return np.ldexp(1.0, np.frexp(largest)[1] * (largest > 0)).astype(np.float32)


def maps_in_chunk(rows, shape, dtype):
    """How many of a photo's maps one chunk holds."""
    return max(1, min(rows, MAP_CHUNK // max(1, int(np.prod(shape)) * np.dtype(dtype).itemsize)))


# ---------------------------------------------------------------- writing


class PackedPhoto(NamedTuple):
    """A photo on its way into a part.

    Attributes:
        name: str.
        picture: bytes, a JPEG file; empty without.
        classes: int32 (R,), which class or group each of its maps is of, -1 where there is none.
        shapes: dict of kind -> shape of its maps.
        chunks: dict of kind -> list of bytes.
        scales: dict of kind -> float32 (R,), what float16 maps are to be multiplied by; empty of float32.
    """

    name: str
    picture: bytes
    classes: np.ndarray
    shapes: dict
    chunks: dict
    scales: dict

    @property
    def size(self):
        """Bytes."""
        return len(self.picture) + sum(len(chunk) for chunks in self.chunks.values() for chunk in chunks)


def packed_photo(name, picture, maps, class_names, rows, dtype):
    """Bring a photo's maps into the form of the file; several threads do so at once.

    Args:
        name: str.
        picture: bytes, see PackedPhoto.
        maps: dict of kind -> dict of class name -> float (h, w) or (H, W, channels); all kinds of the same classes.
        class_names: list of str, the classes and groups that there may be maps of.
        rows: int, R, how many classes a photo has at most.
        dtype: "float32" or "float16".
    """
    names = list(next(iter(maps.values())))
    classes = np.full(rows, -1, np.int32)
    classes[: len(names)] = [class_names.index(one) for one in names]
    shapes, chunks, scales = {}, {}, {}
    for kind, of_classes in maps.items():
        values = np.stack(list(of_classes.values()))  # (R, h, w)
        if dtype == "float16":
            scales[kind] = np.ones(rows, np.float32)
            scales[kind][: len(names)] = scales_of(values)
            values = values / scales[kind][: len(names)].reshape(-1, *[1] * (values.ndim - 1))
        shapes[kind] = values.shape[1:]
        of_chunk = maps_in_chunk(rows, shapes[kind], dtype)
        filled = np.zeros((-(-rows // of_chunk) * of_chunk, *shapes[kind]), np.dtype(dtype).newbyteorder("<"))
        filled[: len(names)] = values
        chunks[kind] = [packed_chunk(filled[start : start + of_chunk]) for start in range(0, len(filled), of_chunk)]
    return PackedPhoto(name, picture, classes, shapes, chunks, scales)


def write_part(path, photos, class_names, dtype):
    """Write a part, whole under its name or not at all.

    Args:
        path: Path.
        photos: list of PackedPhoto, whose maps have the same shapes.
        class_names: list of str, what `classes` counts.
        dtype: "float32" or "float16", of the maps.
    """
    content, rows = io.BytesIO(), len(photos[0].classes)
    with h5py.File(content, "w") as file:
        file.attrs["format"] = np.bytes_(FORMAT)
        file["names"] = np.array([photo.name.encode("utf-8", "surrogateescape") for photo in photos])
        file["class_names"] = np.array([name.encode("utf-8", "surrogateescape") for name in class_names])
        file["pictures"] = np.frombuffer(b"".join(photo.picture for photo in photos), np.uint8)
        file["picture_ends"] = np.cumsum([len(photo.picture) for photo in photos], dtype="<i8")
        file["classes"] = np.stack([photo.classes for photo in photos]).astype("<i4")  # (N, R)
        for kind, shape in photos[0].shapes.items():
            maps = file.create_dataset(
                f"maps/{kind}",
                (len(photos), rows, *shape),
                np.dtype(dtype).newbyteorder("<"),
                chunks=(1, maps_in_chunk(rows, shape, dtype), *shape),
                shuffle=True,
                compression="gzip",
                compression_opts=LEVEL,
            )
            for row, photo in enumerate(photos):
                for number, data in enumerate(photo.chunks[kind]):
                    maps.id.write_direct_chunk((row, number * maps.chunks[1], *[0] * len(shape)), data)
            if dtype == "float16":
                file[f"scales/{kind}"] = np.stack([photo.scales[kind] for photo in photos]).astype("<f4")  # (N, R)
    write_whole(path, lambda file: file.write(content.getbuffer()))


# ---------------------------------------------------------------- what a file holds, before it is read


def check(holds, what):
    """Raise ValueError where a file does not hold what it should."""
    if not holds:
        raise ValueError(what)


@contextlib.contextmanager
def little_room():
    """Let HDF5 take no more than ROOM, on Linux: it follows a header that goes on in itself until memory is full."""
    if sys.platform != "linux":
        yield
        return
    import resource

    with LOOKING:
        before, hardest = resource.getrlimit(resource.RLIMIT_AS)
        most = psutil.Process().memory_info().vms + ROOM
        lower = most if before == resource.RLIM_INFINITY else min(most, before)
        resource.setrlimit(resource.RLIMIT_AS, (lower, hardest))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (before, hardest))


def says_so(file):
    """Whether a file says that it is a part; a text of any length is not read."""
    if not h5py.h5a.exists(file.id, b"format"):
        return False
    attribute = h5py.h5a.open(file.id, b"format")
    plain = attribute.dtype.kind == "S" and attribute.dtype.itemsize < 100 and attribute.shape == ()
    return plain and bytes(file.attrs["format"]) == FORMAT


def dataset_of(file, name, filters=()):
    """A dataset, once it is known to be plain numbers or bytes of the file's own.

    Args:
        file: h5py.File.
        name: str, its path.
        filters: HDF5's numbers of filters; no other would be loaded.

    Raises:
        ValueError: it is something else. No link to another file is followed, no data of another file read.
    """
    found = file
    for part in name.split("/"):
        check(isinstance(found, h5py.Group), f"no {name}")
        check(isinstance(found.get(part, getlink=True), h5py.HardLink), f"no {name} of its own")
        found = found[part]
    check(isinstance(found, h5py.Dataset), f"no {name}")
    plan = found.id.get_create_plist()
    check(not found.is_virtual and not plan.get_external_count(), f"{name} lies in another file")
    used = [plan.get_filter(number)[0] for number in range(plan.get_nfilters())]
    check(used == list(filters), f"{name} has other filters")
    return found


def table_of(file, name, dtypes, shape):
    """A dataset that is read at once, after a look at its dtype and shape (None: any length).

    Raises:
        ValueError: it has others, or more bytes than the file.
    """
    found = dataset_of(file, name)
    fits = len(found.shape) == len(shape) and all(
        want in (None, side) for side, want in zip(found.shape, shape, strict=True)
    )
    check(fits and found.dtype in dtypes, f"{name} is {found.dtype} {found.shape}"[:100])
    check(0 <= found.nbytes <= file.id.get_filesize() and not found.chunks, f"{name} has more bytes than the file")
    return found


def texts_of(file, name):
    """The texts of a dataset of bytes, list of str.

    Raises:
        ValueError: it holds something else.
    """
    found = dataset_of(file, name)
    check(found.dtype.kind == "S" and found.dtype.itemsize <= MOST_NAME, f"{name} is {found.dtype}"[:100])
    return [one.decode("utf-8", "surrogateescape") for one in table_of(file, name, (found.dtype,), (None,))[()]]


# ---------------------------------------------------------------- reading


class Part:
    """A part to be read; nothing of it stays open, and a file that has not changed is checked once.

    Args:
        path: Path.

    Attributes:
        names: list of str, the photo of each row.
        class_names: list of str, the classes and groups that there may be maps of.
        shapes: dict of kind of map -> shape of one.
        dtype: "float32" or "float16", of the maps.

    Raises:
        UserError: it is no part of a store, or damaged.
    """

    def __init__(self, path):
        self.path, self.checked = path, None
        try:
            with self.open():
                pass
        except PART_ERRORS as error:
            raise UserError(f"{path} cannot be read ({first_line(error)}); {PART_EXPECTED}") from error

    @contextlib.contextmanager
    def open(self):
        """The h5py.File, once it has been seen to have the form of a part.

        Raises:
            ValueError, OSError and what else PART_ERRORS lists: it is another.
        """
        with open(self.path, "rb") as content:
            about = os.fstat(content.fileno())
            now = about.st_ino, about.st_size, about.st_mtime_ns
            if now != self.checked:
                with little_room(), h5py.File(content, "r") as file:
                    self.look_at(file)
                self.checked = now
            with h5py.File(content, "r") as file:
                yield file

    def look_at(self, file):
        """Check every dataset, before anything else of it is read."""
        check(says_so(file), "an HDF5 file of another kind")
        self.names, self.class_names = texts_of(file, "names"), texts_of(file, "class_names")
        count = len(self.names)
        check(count > 0 and 0 < len(self.class_names) <= MOST_EXPLAINED, "no photos or no classes")
        table_of(file, "pictures", ("u1",), (None,))
        table_of(file, "picture_ends", ("<i8",), (count,))
        classes = table_of(file, "classes", ("<i4",), (count, None))
        check(0 < classes.shape[1] <= MOST_EXPLAINED, "too many maps a photo")
        check(isinstance(file.get("maps", getlink=True), h5py.HardLink), "no maps of its own")
        check(isinstance(file["maps"], h5py.Group) and 0 < len(file["maps"]) <= MOST_KINDS, "no maps")
        self.shapes = {kind: self.look_at_maps(file, kind, *classes.shape) for kind in file["maps"]}

    def look_at_maps(self, file, kind, count, rows):
        """Check the maps of a kind, (count, rows, h, w); returns the shape of one."""
        check(re.fullmatch("[a-z_-]{1,40}", kind), f"maps called {kind[:40]!r}")
        maps = dataset_of(file, f"maps/{kind}", MAP_FILTERS)
        shape, self.dtype = maps.shape[2:], maps.dtype.name
        check(
            maps.dtype in ("<f4", "<f2") and maps.shape[:2] == (count, rows), f"maps/{kind} has the shape {maps.shape}"
        )
        fits = len(shape) in (2, 3) and 0 < math.prod(shape) * maps.dtype.itemsize <= MOST_MAP_BYTES
        check(fits, f"maps/{kind} has the shape {maps.shape}")
        check(maps.chunks == (1, maps_in_chunk(rows, shape, maps.dtype), *shape), f"maps/{kind} has other chunks")
        if maps.dtype == "float16":
            table_of(file, f"scales/{kind}", ("<f4",), (count, rows))
        return shape

    @contextlib.contextmanager
    def open_for(self, photo, row):
        """The h5py.File, once its row is known to be still of that photo; raises as `open` does."""
        with self.open() as file:
            check(self.names[row : row + 1] == [photo], f"row {row} of {self.path.name} is not of {photo[:40]}")
            yield file

    def maps_of(self, photo, row):
        """A photo's maps, which are read later: dict of kind -> dict of class name -> StoredMap; none if damaged."""
        try:
            with self.open_for(photo, row) as file:
                classes = file["classes"][row].tolist()
        except PART_ERRORS:
            return {}
        names = self.class_names
        known = [(number, names[one]) for number, one in enumerate(classes) if 0 <= one < len(names)]
        return {
            kind: {name: StoredMap(self, photo, row, kind, number, name) for number, name in known}
            for kind in self.shapes
        }

    def picture(self, photo, row):
        """The JPEG file of a photo: bytes, empty without.

        Raises:
            ValueError, OSError and what else PART_ERRORS lists: it cannot be read.
        """
        with self.open_for(photo, row) as file:
            begin, end = np.append(0, file["picture_ends"][: row + 1])[-2:].tolist()
            check(0 <= begin <= end <= len(file["pictures"]), "its picture is not where it should be")
            return file["pictures"][begin:end].tobytes()


@dataclass(frozen=True)
class StoredMap:
    """One map in a part.

    Attributes:
        part: Part.
        photo: str, its name.
        row: int, of the photo.
        kind: str, of map.
        number: int, which of the photo's.
        class_name: str.
    """

    part: Part
    photo: str
    row: int
    kind: str
    number: int
    class_name: str

    @property
    def name(self):
        """As that of its file would be."""
        return f"{self.kind}_for_{self.class_name}"

    def read(self):
        """float32 (h, w) or (h, w, channels).

        Raises:
            ValueError: it is damaged.
        """
        try:
            with self.part.open_for(self.photo, self.row) as file:
                dataset, scale = file[f"maps/{self.kind}"], None
                shape, dtype = dataset.chunks[1:], dataset.dtype
                data = self.chunk(dataset, self.number // shape[0])
                if dtype == "float16":
                    scale = file[f"scales/{self.kind}"][self.row, self.number]
            values = unpacked_chunk(data, shape, dtype)[self.number % shape[0]].astype(np.float32)
            return values if scale is None else values * scale
        except PART_ERRORS as error:
            raise ValueError(first_line(error)) from error

    def chunk(self, dataset, number):
        """The bytes of one chunk of the photo's maps.

        Raises:
            ValueError: it is larger than its maps can be.
        """
        place = (self.row, number * dataset.chunks[1], *[0] * (dataset.ndim - 2))
        most = math.prod(dataset.chunks) * dataset.dtype.itemsize
        size = dataset.id.get_chunk_info_by_coord(place).size
        check(0 < size <= most + most // 100 + 1024, "its maps are not where they should be")
        filters, data = dataset.id.read_direct_chunk(place)
        check(filters == 0, "its maps have other filters")
        return data
