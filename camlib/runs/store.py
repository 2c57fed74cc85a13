"""A store: the maps of a run in one HDF5 file, which a kill at any moment leaves readable.

Imports neither Keras nor TensorFlow, and of the rooms of maps nothing: `camlib.runs.maps` reads a store like a folder,
and `camlib.runs.store_run` writes one. What stands where, for who reads it with h5py alone, is said in
docs/many_photos.md.

The file is written in HDF5's mode for a single writer and many readers (SWMR), in which what a pointer leads to is in
the file before the pointer is. A batch is flushed, and only then are the records of its photos written, each with its
mark at the end: what has its mark is whole. Metadata are kept inside the system's pages, as far as they are small
enough, since a kill may cut a longer write at the end of a page.
"""

import contextlib
import json
import math
import os
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import h5py
import numpy as np

from camlib.console import UserError, first_line
from camlib.files import is_held

FORMAT = b"camlib maps 1"  # the file's attribute `format`
RECORD = np.dtype(
    [
        ("name_at", "<u8"),
        ("name_length", "<u4"),
        ("picture_at", "<u8"),
        ("picture_length", "<u4"),
        ("predicted", "<i4"),
        ("modified", "<f8"),
        ("whole", "<u4"),
    ]
)
WHOLE = 0x57484F4C  # the last field of a record: what stands before it, and what it points to, is in the file
MEMORY_PAGE = 4096  # bytes: of the system's memory
COLUMN_CHUNK = 65_536  # bytes of a chunk of records, names or numbers
PICTURE_CHUNK = 262_144
MAP_CHUNK = 2**20  # the maps of a photo are one chunk, or where they are more than this several
MAP_FILTERS = [h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_DEFLATE]
LEVEL = 1  # of DEFLATE: more takes longer and hardly saves

# Most of what a file may claim
MOST_MAP_BYTES = 2**28  # a map of 4,096 x 4,096 with three channels is below
MOST_NAME, MOST_HEADER, MOST_KINDS, MOST_EXPLAINED = 32_768, 2**24, 16, 2**17
STORE_EXPECTED = "expected a store of maps, as --store writes it"
RESCUED_AT_ONCE = 64  # photos
STORE_ERRORS = (OSError, ValueError, KeyError, TypeError, RuntimeError, AttributeError, OverflowError, MemoryError,
          RecursionError, zlib.error)  # fmt: skip


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


class PackedPhoto(NamedTuple):
    """A photo on its way into a store.

    Attributes:
        name: str.
        picture: bytes, a JPEG file; empty without.
        classes: int32 (R,), which class or group each of its maps is of, -1 where there is none.
        shapes: dict of kind -> shape of its maps.
        chunks: dict of kind -> list of bytes.
        scales: dict of kind -> float32 (R,), what float16 maps are to be multiplied by; empty of float32.
        modified: float, when its file had been changed last, in seconds since 1970; NaN where that is not known.
    """

    name: str
    picture: bytes
    classes: np.ndarray
    shapes: dict
    chunks: dict
    scales: dict
    modified: float


def packed_photo(photo, picture, maps, class_names, rows, dtype):
    """Bring a photo's maps into the form of the file; several threads do so at once.

    Args:
        photo: Photo.
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
    modified = np.nan if photo.modified is None else photo.modified
    return PackedPhoto(photo.name, picture, classes, shapes, chunks, scales, modified)


def maps_in_chunk(rows, shape, dtype):
    """How many of a photo's maps one chunk holds."""
    return max(1, min(rows, MAP_CHUNK // max(1, int(np.prod(shape)) * np.dtype(dtype).itemsize)))


def rows_in_chunk(columns, itemsize):
    """How many rows of a table one chunk holds."""
    return max(1, COLUMN_CHUNK // max(1, columns * itemsize))


# ---------------------------------------------------------------- writing


def create_store(path, header, first, dtype, number_dtype, with_probabilities):
    """Write a store without photos, whole under its name or not at all.

    Args:
        path: Path.
        header: dict of run (see `camlib.runs.claim.run_record`), class_names, groups and explained.
        first: PackedPhoto, which has the kinds and shapes of all.
        dtype: "float32" or "float16", of the maps.
        number_dtype: of logits and probabilities, float32 or float64.
        with_probabilities: bool, there are probabilities beside the logits.
    """
    rows, count, groups = len(first.classes), len(header["class_names"]), len(header["groups"])
    partial = path.with_name(f".{path.name}.partial")
    text = np.frombuffer(json.dumps(header, default=str).encode(), np.uint8)
    with h5py.File(
        partial, "w", libver=("v110", "v110"), fs_strategy="page", fs_page_size=MEMORY_PAGE, locking=False
    ) as file:
        file.attrs["format"] = np.bytes_(FORMAT)
        file.create_dataset("header", data=text)

        def table(name, columns, of_type):
            chunk = rows_in_chunk(columns, np.dtype(of_type).itemsize)
            file.create_dataset(name, (0, columns), of_type, maxshape=(None, columns), chunks=(chunk, columns))

        chunk = rows_in_chunk(1, RECORD.itemsize)
        file.create_dataset("photos", (0,), RECORD, maxshape=(None,), chunks=(chunk,))
        file.create_dataset("names", (0,), "u1", maxshape=(None,), chunks=(COLUMN_CHUNK,))
        file.create_dataset("pictures", (0,), "u1", maxshape=(None,), chunks=(PICTURE_CHUNK,))
        table("classes", rows, "<i4")
        table("logits", count, number_dtype)
        if with_probabilities:
            table("probabilities", count + groups, number_dtype)
        for kind, shape in first.shapes.items():
            chunk = (1, maps_in_chunk(rows, shape, dtype), *shape)
            file.create_dataset(
                f"maps/{kind}",
                (0, rows, *shape),
                np.dtype(dtype).newbyteorder("<"),
                chunks=chunk,
                maxshape=(None, rows, *shape),
                shuffle=True,
                compression="gzip",
                compression_opts=LEVEL,
            )
            if dtype == "float16":
                table(f"scales/{kind}", rows, "<f4")
    os.replace(partial, path)


class StoreWriter:
    """A store that photos are added to; one process at a time, see `camlib.files.OnlyWriter`.

    Args:
        path: Path of a store that was closed.

    Raises:
        OSError: it was not, since its process was killed, see `rescued`.
    """

    def __init__(self, path):
        self.path, self.count = path, len(Store(path).records)
        access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
        access.set_libver_bounds(h5py.h5f.LIBVER_V110, h5py.h5f.LIBVER_V110)
        access.set_file_locking(False, True)
        # open for writing and for readers in one step: a kill between two would leave a file that no one may read
        flags = h5py.h5f.ACC_RDWR | h5py.h5f.ACC_SWMR_WRITE
        self.file = h5py.File(h5py.h5f.open(os.fsencode(path), flags, fapl=access))

    def add(self, photos, logits, probabilities):
        """Add photos; they are in the file, whatever happens then, when this returns.

        Args:
            photos: list of PackedPhoto.
            logits: float (N, C).
            probabilities: float (N, C + groups), or None.
        """
        begin, end = self.count, self.count + len(photos)
        records = np.zeros(len(photos), RECORD)
        names = [photo.name.encode("utf-8", "surrogateescape") for photo in photos]
        for what, parts in (("name", names), ("picture", [photo.picture for photo in photos])):
            records[f"{what}_length"] = [len(part) for part in parts]
            records[f"{what}_at"] = self.append(f"{what}s", b"".join(parts)) + np.cumsum([0, *map(len, parts)])[:-1]
        records["predicted"], records["whole"] = logits.argmax(axis=1), WHOLE
        records["modified"] = [photo.modified for photo in photos]
        tables = {"classes": [photo.classes for photo in photos], "logits": logits, "probabilities": probabilities}
        tables |= {f"scales/{kind}": [photo.scales[kind] for photo in photos] for kind in photos[0].scales}
        for name, rows in tables.items():
            if rows is not None:
                self.file[name].resize(end, axis=0)
                self.file[name][begin:] = np.asarray(rows)
        for kind in photos[0].chunks:
            dataset = self.file[f"maps/{kind}"]
            dataset.resize(end, axis=0)
            for row, photo in enumerate(photos, start=begin):
                write_chunks(dataset, row, photo.chunks[kind])
        self.file.flush()
        self.file["photos"].resize(end, axis=0)
        self.file["photos"][begin:] = records
        self.file.flush()
        self.count = end

    def append(self, name, data):
        """Append bytes; returns where they begin."""
        dataset = self.file[name]
        begin = len(dataset)
        dataset.resize(begin + len(data), axis=0)
        dataset[begin:] = np.frombuffer(data, np.uint8)
        return begin

    def close(self):
        self.file.close()

    def abandon(self):
        """Leave the file as a kill would: closed after a write that failed, it would claim bytes that it lacks."""
        nowhere = os.open(os.devnull, os.O_RDWR)
        os.dup2(nowhere, self.file.id.get_vfd_handle())
        os.close(nowhere)
        with contextlib.suppress(OSError, RuntimeError, ValueError):
            self.file.close()


def write_chunks(dataset, row, chunks):
    """Write the packed chunks of one photo's maps."""
    for number, data in enumerate(chunks):
        dataset.id.write_direct_chunk((row, number * dataset.chunks[1], *[0] * (dataset.ndim - 2)), data)


def rescue(path, advance=lambda count: None):
    """Bring the photos of a store whose process was killed, one at least, into a new file, which takes its place.

    HDF5 refuses to append to such a file, and with reason: where its free space begins is not written there.

    Args:
        path: Path.
        advance: function that is called with how many more photos are done.
    """
    store, partial = Store(path), path.with_name(f".{path.name}.rescued")
    partial.unlink(missing_ok=True)
    rows = list(store.rows.values())
    with store.open_store() as old:
        with_probabilities, first = has_member(old, "probabilities"), store.packed(old, rows[0])
        create_store(partial, store.header, first, store.dtype, old["logits"].dtype, with_probabilities)
        with contextlib.closing(StoreWriter(partial)) as new:
            for some in (rows[start : start + RESCUED_AT_ONCE] for start in range(0, len(rows), RESCUED_AT_ONCE)):
                probabilities = old["probabilities"][some] if with_probabilities else None
                photos = [store.packed(old, row) for row in some]
                new.add(photos, old["logits"][some], probabilities)
                advance(len(some))
    os.replace(partial, path)


# ---------------------------------------------------------------- what a file holds, before it is read


@contextlib.contextmanager
def open_store(path):
    """A file opened to be read while its writer lives, and after that was killed, too."""
    if not was_closed(path) and is_held(path.parent, path.name):
        with h5py.File(path, "r", libver="latest", swmr=True, locking=False) as file:
            yield file
    else:
        with read_as_it_is(path) as file:
            yield file


def check(holds, what):
    """Raise ValueError where a file does not hold what it should."""
    if not holds:
        raise ValueError(what)


def has_member(group, name):
    """Whether there is something of that name; where a link leads is not looked at."""
    return group.get(name, getlink=True) is not None


def says_so(file):
    """Whether a file says that it is a store; a text of any length is not read."""
    if not h5py.h5a.exists(file.id, b"format"):
        return False
    attribute = h5py.h5a.open(file.id, b"format")
    plain = attribute.dtype.kind == "S" and attribute.dtype.itemsize < 100 and attribute.shape == ()
    return plain and bytes(file.attrs["format"]) == FORMAT


def dataset_of(file, name, dtypes, filters=()):
    """A dataset, once it is known to be plain numbers of the file's own.

    Args:
        file: h5py.File.
        name: str, its path.
        dtypes: the dtypes that it may have: no texts of any length, no references.
        filters: HDF5's numbers of filters; no other would be loaded.

    Raises:
        ValueError: it is something else. No link to another file is followed, no data of another file read.
    """
    found = file
    for part in name.split("/"):
        check(isinstance(found, h5py.Group), f"no {name}")
        check(isinstance(found.get(part, getlink=True), h5py.HardLink), f"no {name} of its own")
        found = found[part]
    check(isinstance(found, h5py.Dataset) and found.dtype in dtypes, f"{name} is of another kind")
    plan = found.id.get_create_plist()
    check(not found.is_virtual and not plan.get_external_count(), f"{name} lies in another file")
    used = [plan.get_filter(number)[0] for number in range(plan.get_nfilters())]
    check(used == list(filters), f"{name} has other filters")
    return found


def check_table(file, name, columns, dtypes):
    """Check a dataset of rows with so many columns."""
    table = dataset_of(file, name, dtypes)
    chunks = rows_in_chunk(columns, table.dtype.itemsize), columns
    check(table.shape[1:] == (columns,) and table.chunks == chunks, f"{name} has the shape {table.shape}")


def whole_records(photos):
    """The records of photos that are whole: RECORD (N,)."""
    records = photos[()]
    marked = records["whole"] == WHOLE
    return records if marked.all() else records[: int(np.argmin(marked))]


def photo_names(names, records):
    """The name of each record, once it is known to be one: list of str."""
    begins, lengths = records["name_at"], records["name_length"]
    check((lengths <= MOST_NAME).all() and (begins <= len(names)).all(), "names are not where they should be")
    check((begins + lengths <= len(names)).all(), "names are not where they should be")
    whole = names[()].tobytes()
    ends = (begins + lengths).tolist()
    found = [whole[a:b].decode("utf-8", "surrogateescape") for a, b in zip(begins.tolist(), ends, strict=True)]
    for name in found:
        check(
            name and not name.startswith("/") and ".." not in name.split("/") and "\0" not in name,
            f"a photo called {name[:40]!r}",
        )
    return found


def checked_header(dataset, size):
    """The header of a file of so many bytes: dict of run, class_names and groups.

    Raises:
        ValueError: it is another.
    """
    check(dataset.ndim == 1 and 0 < len(dataset) <= min(size, MOST_HEADER), "its header is too long")
    header = json.loads(dataset[()].tobytes())
    check(isinstance(header, dict) and isinstance(header.get("run"), dict), "its header is another")
    settings = header["run"].get("settings")
    check(isinstance(settings, dict) and isinstance(settings.get("method") or "", str), "its header has no settings")
    header["run"]["settings"] = settings | {"class_names": header.get("class_names")}
    for part in ("class_names", "groups", "explained"):
        names = header.get(part)
        check(isinstance(names, list) and all(isinstance(name, str) for name in names), f"its header has no {part}")
    check(header["class_names"], "its header has no class_names")
    return header


# ---------------------------------------------------------------- reading


def is_store_name(path):
    """Whether a path is named as a store has to be."""
    return path.suffix.lower() == ".h5"


def stores_in(folder):
    """The stores that lie in a folder, in the order of their names: list of Store; networks are passed over.

    Raises:
        UserError: one is damaged.
    """
    found = []
    for path in sorted(folder.iterdir()):
        if is_store_name(path) and not path.name.startswith(".") and path.is_file() and h5py.is_hdf5(path):
            with contextlib.suppress(*STORE_ERRORS), open_store(path) as file:
                if not says_so(file):
                    continue
            found.append(Store(path))  # which says what is wrong with one that cannot be opened
    return found


class Store:
    """A store to be read, be it finished, in the making, or of a process that was killed.

    Nothing stays open, so that the same process may write to it; a file that has not changed is checked once.

    Args:
        path: Path.

    Attributes:
        header: dict of run (command, settings, versions, conventions), class_names, groups that have probabilities,
            and explained: the classes and groups that there may be maps of.
        shapes: dict of kind of map -> shape of one.
        dtype: "float32" or "float16", of the maps.
        records: RECORD (N,), of the photos that are whole.
        names: list of str, of each record.
        rows: dict of name -> row of the records; of a photo that was done again the last.

    Raises:
        UserError: it is no store, or damaged.
    """

    def __init__(self, path):
        self.path, self.records, self.checked = path, None, None
        try:
            with self.open_store() as file:
                self.records = whole_records(file["photos"])
                self.names = photo_names(file["names"], self.records)
        except STORE_ERRORS as error:
            raise UserError(f"{path} cannot be read ({first_line(error)}); {STORE_EXPECTED}") from error
        self.rows = {}
        for row, name in enumerate(self.names):
            self.rows.pop(name, None)  # so that it stands where it was written last
            self.rows[name] = row

    @contextlib.contextmanager
    def open_store(self):
        """The file, once it has been seen to have the form of a store, and still to be the one that it was.

        Raises:
            ValueError, OSError and what else STORE_ERRORS lists: it is another.
        """
        with open_store(self.path) as file:
            about = os.stat(self.path)
            now = about.st_ino, about.st_size, about.st_mtime_ns
            if now != self.checked:
                self.look_at(file)
                self.checked = now
            yield file

    def look_at(self, file):
        """Check every dataset, before anything of it is read."""
        check(says_so(file), "an HDF5 file of another kind")
        size = os.path.getsize(self.path)
        self.header = checked_header(dataset_of(file, "header", ("u1",)), size)
        numbers, outputs = ("<f4", "<f8"), len(self.header["class_names"])
        for name, dtype, chunk in (
            ("photos", RECORD, rows_in_chunk(1, RECORD.itemsize)),
            ("names", "u1", COLUMN_CHUNK),
            ("pictures", "u1", PICTURE_CHUNK),
        ):
            dataset = dataset_of(file, name, (dtype,))
            check(dataset.chunks == (chunk,), f"{name} has the shape {dataset.shape}")
            check(len(dataset) * dataset.dtype.itemsize <= size, f"more {name} than the file has room for")
        classes = dataset_of(file, "classes", ("<i4",))
        check(classes.ndim == 2 and 0 < classes.shape[1] <= MOST_EXPLAINED, "too many maps a photo")
        check_table(file, "classes", classes.shape[1], ("<i4",))
        check_table(file, "logits", outputs, numbers)
        if has_member(file, "probabilities"):
            check_table(file, "probabilities", outputs + len(self.header["groups"]), numbers)
        check(isinstance(file.get("maps", getlink=True), h5py.HardLink), "no maps of its own")
        check(isinstance(file["maps"], h5py.Group) and 0 < len(file["maps"]) <= MOST_KINDS, "no maps")
        self.shapes = {kind: self.look_at_maps(file, kind, classes.shape[1]) for kind in file["maps"]}
        if self.records is not None and len(self.records):
            last = len(self.records) - 1
            same = last < len(file["photos"]) and file["photos"][last] == self.records[last]
            check(same, "it has been replaced since it was opened")

    def look_at_maps(self, file, kind, rows):
        """Check the maps of a kind; returns the shape of one."""
        check(re.fullmatch("[a-z_]{1,40}", kind), f"maps called {kind[:40]!r}")
        maps = dataset_of(file, f"maps/{kind}", [f"<{one}" for one in ("f4", "f2")], MAP_FILTERS)
        shape, self.dtype = maps.shape[2:], maps.dtype.name
        fits = len(shape) in (2, 3) and 0 < math.prod(shape) * maps.dtype.itemsize <= MOST_MAP_BYTES
        check(fits and maps.shape[1] == rows, f"maps/{kind} has the shape {maps.shape}")
        check(maps.chunks == (1, maps_in_chunk(rows, shape, maps.dtype), *shape), f"maps/{kind} has other chunks")
        if maps.dtype == "float16":
            check_table(file, f"scales/{kind}", rows, ("<f4",))
        return shape

    # ------------------------------------------------------------ of one photo

    def maps_of(self, row):
        """A photo's maps, which are read later: dict of kind -> dict of class name -> StoredMap; none if damaged."""
        try:
            with self.open_store() as file:
                classes = file["classes"][row].tolist()
        except STORE_ERRORS:
            return {}
        names = self.header["explained"]
        known = [(number, names[one]) for number, one in enumerate(classes) if 0 <= one < len(names)]
        return {
            kind: {name: StoredMap(self, row, kind, number, name) for number, name in known} for kind in self.shapes
        }

    def picture(self, row):
        """The JPEG file of a photo: bytes, empty without.

        Raises:
            ValueError, OSError and what else STORE_ERRORS lists: it cannot be read.
        """
        with self.open_store() as file:
            return self.picture_in(file, row)

    def picture_in(self, file, row):
        begin, length = int(self.records["picture_at"][row]), int(self.records["picture_length"][row])
        check(begin + length <= len(file["pictures"]), "its picture is not where it should be")
        return file["pictures"][begin : begin + length].tobytes()

    def predicted(self, row):
        """The class predicted; None where the file says another number."""
        number, names = int(self.records["predicted"][row]), self.header["class_names"]
        return names[number] if 0 <= number < len(names) else None

    def numbers_of(self, table, row):
        """A row of "logits", float (classes,), or "probabilities", float (classes and groups,).

        Empty without them, or where they cannot be read.
        """
        try:
            with self.open_store() as file:
                return file[table][row] if has_member(file, table) else np.zeros(0)
        except STORE_ERRORS:
            return np.zeros(0)

    def chunk(self, file, kind, row, number):
        """The bytes of one chunk of a photo's maps.

        Raises:
            ValueError: there is none, or it is larger than its maps can be.
        """
        dataset = file[f"maps/{kind}"]
        place = (row, number * dataset.chunks[1], *[0] * len(self.shapes[kind]))
        size, most = 0, math.prod(dataset.chunks) * dataset.dtype.itemsize
        if row < len(dataset):
            size = dataset.id.get_chunk_info_by_coord(place).size
        check(0 < size <= most + most // 100 + 1024, "its maps are not where they should be")
        filters, data = dataset.id.read_direct_chunk(place)
        check(filters == 0, "its maps have other filters")
        return data

    def packed(self, file, row):
        """The PackedPhoto of a row, as it stands in the file."""
        classes = file["classes"][row]
        chunks = {}
        for kind in self.shapes:
            count = -(-len(classes) // file[f"maps/{kind}"].chunks[1])
            chunks[kind] = [self.chunk(file, kind, row, number) for number in range(count)]
        scales = {kind: file[f"scales/{kind}"][row] for kind in self.shapes} if self.dtype == "float16" else {}
        picture = self.picture_in(file, row)
        modified = float(self.records["modified"][row])
        return PackedPhoto(self.names[row], picture, classes, self.shapes, chunks, scales, modified)


@dataclass(frozen=True)
class StoredMap:
    """One map in a store.

    Attributes:
        store: Store.
        row: int, of the photo.
        kind: str, of map.
        number: int, which of the photo's.
        class_name: str.
    """

    store: Store
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
            with self.store.open_store() as file:
                dataset, scale = file[f"maps/{self.kind}"], None
                shape, dtype = dataset.chunks[1:], dataset.dtype
                data = self.store.chunk(file, self.kind, self.row, self.number // shape[0])
                if dtype == "float16":
                    scale = file[f"scales/{self.kind}"][self.row, self.number]
            values = unpacked_chunk(data, shape, dtype)[self.number % shape[0]].astype(np.float32)
            return values if scale is None else values * scale
        except STORE_ERRORS as error:
            raise ValueError(first_line(error)) from error


class StoredNumbers(Mapping):
    """A photo's logits or probabilities, read when they are first asked for: class name -> float."""

    def __init__(self, store, table, row):
        self.store, self.table, self.row = store, table, row

    @cached_property
    def known(self):
        header, numbers = self.store.header, self.store.numbers_of(self.table, self.row)
        names = header["class_names"] + header["groups"]
        return dict(zip(names, map(float, map(str, numbers)), strict=False))  # as predictions.csv says them

    def __getitem__(self, name):
        return self.known[name]

    def __iter__(self):
        return iter(self.known)

    def __len__(self):
        return len(self.known)


# ---------------------------------------------------------------- files whose writer was killed

# By a path, HDF5 opens such a file in its mode for many readers (SWMR) alone, and waits there without end for what a
# damaged file lacks, as a reader does whose writer is still at it. Through a file object of Python's it does neither.
SIGNATURE, FLAGS = b"\x89HDF\r\n\x1a\n", 11  # and where a superblock of version 2 or 3 says that it was not closed


def was_closed(path):
    """Whether the last process that wrote to a file closed it."""
    with open(path, "rb") as file:
        head = file.read(FLAGS + 1)
    return not (head.startswith(SIGNATURE) and len(head) > FLAGS and head[8] in (2, 3) and head[FLAGS])


@contextlib.contextmanager
def read_as_it_is(path):
    """An h5py.File to be read, whether it was closed or not; no process may be writing to it."""
    with open(path, "rb") as content, h5py.File(content, "r") as file:
        yield file
