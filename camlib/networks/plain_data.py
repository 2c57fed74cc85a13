"""What a model file holds, as plain data: the one reader of a stranger's file, and a program of its own.

    python -I camlib/networks/plain_data.py LIMITS < model.h5 > data

`camlib.networks.reader` starts it as a process, since HDF5's library can be crashed by a damaged file, and reads what
it writes: the numbers of all arrays one behind the other, then an index in JSON, then the index's length in 8 bytes. It
imports NumPy and h5py alone. The file is read once, through one handle that is open already; nothing else is opened,
whatever the file names.
"""

import contextlib
import io
import json
import math
import os
import re
import sys
import tempfile
import zipfile

import h5py
import numpy as np

HDF5_SIGNATURE, ZIP_SIGNATURE = b"\x89HDF\r\n\x1a\n", b"PK\x03\x04"
WEIGHTS_MEMBER = "model.weights.h5"
LONGEST_DESCRIPTION = 32 << 20  # bytes of a network's description
MOST_ENTRIES = 10_000  # groups and arrays of an HDF5 file, or members of an archive
DEEPEST_GROUP = 64  # groups in groups
PACKED_TIGHTEST = 100  # times smaller than unpacked; weights are never packed as tight
LARGEST_UNPACKED = 512 << 20  # bytes that may be packed tighter nevertheless, as zeros are
KNOWN_FILTERS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32, h5py.h5z.FILTER_LZF}
OF_OPTIMIZERS = {"optimizer_weights", "optimizer"}  # groups that no network computes with
LISTS_OF_NAMES = re.compile("(layer|weight)_names[0-9]*")
IN_MEMORY = 64 << 20  # bytes of unpacked weights that need no file of their own


class Unreadable(Exception):
    """A file is refused; the message is a part of a UserError's."""


def transcribe(source, target, largest):
    """Write what a model file holds to `target`, in the form of above.

    Args:
        source: binary file that can seek.
        target: binary file.
        largest: int, bytes of arrays at most.
    """
    texts, reasons = ("config", "meaning", "keras_version"), ("refused", "weights_refused", "damaged")
    index = {"arrays": {}, "groups": {}, "names": []} | dict.fromkeys(texts + reasons)
    source.seek(0)  # where a handle from another process stands is not known
    index["is_archive"] = source.read(len(HDF5_SIGNATURE)) != HDF5_SIGNATURE
    with reason_kept(index, "damaged"):
        if not index["is_archive"]:
            transcribe_hdf5(source, target, min(largest, largest_of(source.seek(0, os.SEEK_END))), index)
        else:
            transcribe_archive(source, target, largest, index)
    text = json.dumps(index).encode()
    target.write(text + len(text).to_bytes(8, "little"))


@contextlib.contextmanager
def reason_kept(index, key):
    """Put into the index why what is read in this context cannot be read."""
    try:
        yield
    except Unreadable as error:
        index["refused" if key == "damaged" else key] = str(error)
    except Exception as error:  # zipfile and h5py raise various classes for what is damaged
        index[key] = str(error).strip() or type(error).__name__


# ---------------------------------------------------------------- .keras


def transcribe_archive(source, target, largest, index):
    """A .keras file: its description, and the weights in it; changes `index` in place."""
    source.seek(0)
    with zipfile.ZipFile(source) as archive:
        names = [one.filename for one in archive.infolist()]
        if len(names) > MOST_ENTRIES or len(set(names)) < len(names):
            raise Unreadable(f"is an archive of {len(names):,} members, some of one name; expected a .keras file")
        index["config"] = unpacked(archive, "config.json", LONGEST_DESCRIPTION).decode()
        if "metadata.json" in names:
            about = json.loads(unpacked(archive, "metadata.json", 1 << 16))
            index["keras_version"] = str(about.get("keras_version"))[:100]
        with reason_kept(index, "weights_refused"), tempfile.SpooledTemporaryFile(IN_MEMORY) as weights:
            if any(name.startswith("assets/") for name in names):
                raise Unreadable("they are files of layers of text; expected a network of photos")
            member = archive.getinfo(WEIGHTS_MEMBER)
            unpack(archive, member, weights, min(largest, largest_of(member.compress_size)))
            weights.seek(0)
            with h5py.File(weights, "r") as file:
                transcribe_arrays(file, target, min(largest, largest_of(member.file_size)), index)


def largest_of(size):
    """Bytes that a file or member of `size` bytes may unpack to."""
    return max(LARGEST_UNPACKED, PACKED_TIGHTEST * size)


def unpacked(archive, name, largest):
    """The bytes of a member."""
    content = io.BytesIO()
    unpack(archive, archive.getinfo(name), content, largest)
    return content.getvalue()


def unpack(archive, member, target, largest):
    """Unpack a member into a file, and stop where it turns out larger than it may be, whatever the directory says."""
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise Unreadable(f"holds a {member.filename[:40]} that is packed as Keras packs none; expected a .keras file")
    with archive.open(member) as source:
        left = largest
        while left >= 0 and member.file_size <= largest and (part := source.read(min(1 << 20, left + 1))):
            left -= len(part)
            target.write(part)
    if left < 0 or member.file_size > largest:
        raise Unreadable(f"holds a {member.filename[:40]} of more than {largest:,} bytes; expected a network's")


# ---------------------------------------------------------------- HDF5


def transcribe_hdf5(source, target, largest, index):
    """An HDF5 file: its description if it has one, and all arrays; changes `index` in place."""
    source.seek(0)
    with h5py.File(source, "r") as file:
        for name in ("model_config", "meaning", "keras_version"):
            if name in file.attrs:
                index[name.removeprefix("model_")] = text_attribute(file, name)
        with reason_kept(index, "weights_refused"):
            transcribe_arrays(file, target, largest, index)


def transcribe_arrays(file, target, largest, index):
    """All arrays of an HDF5 file that a network computes with; changes `index` in place."""
    datasets = members(file, index["groups"])
    index["names"] = list(file)
    total = sum(map(bytes_in, datasets.values()))
    if total > largest:
        raise Unreadable(f"they would take {total:,} bytes; expected {largest:,} at most of a file of this size")
    for place, dataset in datasets.items():
        index["arrays"][place] = written(target, place, dataset)


def bytes_in(array):
    """What an array or an attribute takes, without the texts that it may point to."""
    return math.prod(array.shape or ()) * array.dtype.itemsize


def text_attribute(holder, name):
    """An attribute that is text."""
    if bytes_in(holder.attrs.get_id(name)) > LONGEST_DESCRIPTION:
        raise Unreadable(f"has a {name} of more than {LONGEST_DESCRIPTION:,} bytes; expected a network's")
    value = holder.attrs[name]
    value = value.decode() if isinstance(value, bytes) else value
    if not isinstance(value, str) or len(value) > LONGEST_DESCRIPTION:
        raise Unreadable(f"has a {name} that is no text of at most {LONGEST_DESCRIPTION:,} bytes; expected JSON")
    return value


def members(file, groups):
    """All arrays of a file, dict of path -> h5py.Dataset; lists of names go to `groups`, dict of path -> dict.

    What lies elsewhere (soft and external links) is refused, and so are circles, since they have no end.
    """
    found, pending = {}, [("", file)]
    while pending:
        place, group = pending.pop()
        groups[place] = {name: name_list(group, name) for name in group.attrs if LISTS_OF_NAMES.fullmatch(name)}
        if len(found) + len(groups) + len(group) > MOST_ENTRIES or place.count("/") > DEEPEST_GROUP:
            raise Unreadable(f"they lie in more than {MOST_ENTRIES:,} groups and arrays, or {DEEPEST_GROUP} deep")
        for name in group:
            inner = f"{place}/{name}" if place else name
            if inner in OF_OPTIMIZERS:
                continue
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise Unreadable(f"{inner} is no array of this file")
            item = group[name]
            if isinstance(item, h5py.Group):
                pending.append((inner, item))
            else:
                found[inner] = checked(inner, item)
    return found


def name_list(group, name):
    """A list of names among the attributes of a group."""
    if bytes_in(group.attrs.get_id(name)) > LONGEST_DESCRIPTION:
        raise Unreadable(f"{name} is too long")
    values = np.asarray(group.attrs[name])
    texts = [value.decode() if isinstance(value, bytes) else value for value in values.reshape(-1).tolist()]
    if values.ndim > 1 or not all(isinstance(text, str) for text in texts):
        raise Unreadable(f"{name} is no list of names")
    return texts


def checked(place, item):
    """A dataset of plain numbers that lie in the file itself, packed in a way that h5py alone unpacks."""
    if not isinstance(item, h5py.Dataset) or item.external or item.is_virtual or item.shape is None:
        raise Unreadable(f"{place} is no array of this file")
    if not is_bfloat16(item) and (item.dtype.kind not in "fiub" or item.dtype.itemsize > 8):
        raise Unreadable(f"{place} holds {str(item.dtype)[:40]}; expected numbers")
    plan = item.id.get_create_plist()
    foreign = {plan.get_filter(number)[0] for number in range(plan.get_nfilters())} - KNOWN_FILTERS
    if foreign:
        raise Unreadable(f"{place} is packed with the filter {min(foreign)}; expected gzip or lzf")
    return item


def is_bfloat16(item):
    """Whether a dataset holds bfloat16, which Keras writes as two bytes that HDF5 does not know as a number."""
    return item.dtype.itemsize == 2 and item.dtype.kind == "V" and item.dtype.fields is None


def written(target, place, dataset):
    """Write the numbers of an array; its place in the index: (dtype, shape, where it begins)."""
    array = np.asarray(dataset[()])
    if is_bfloat16(dataset):
        array = (array.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    array = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    start = target.tell()
    target.write(array.reshape(-1).view(np.uint8).data)
    return array.dtype.str, dataset.shape, start


# ---------------------------------------------------------------- as a program


def limit_itself(memory, seconds, largest):
    """Let this process take no more; Windows has no such limits, and the parent's clock ends it there."""
    try:
        import resource
    except ImportError:
        return
    for kind, limit in (("AS", memory), ("CPU", seconds), ("CORE", 0), ("FSIZE", largest)):
        number = getattr(resource, f"RLIMIT_{kind}")
        hardest = resource.getrlimit(number)[1]
        if hardest == resource.RLIM_INFINITY or limit < hardest:
            with contextlib.suppress(OSError, ValueError):  # macOS knows RLIMIT_AS and does not keep it
                # one more, at which the system kills and does not say why
                resource.setrlimit(number, (limit, limit + 1))


if __name__ == "__main__":
    limits = json.loads(sys.argv[1])
    limit_itself(limits["memory"], limits["seconds"], 2 * limits["largest"])
    with open(0, "rb") as given, open(1, "wb") as wanted:
        transcribe(given, wanted, limits["largest"])
