"""Class folders: the class of each photo, the split, and the cache of training data."""

import hashlib
import json
import math
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import numpy as np

from camlib.console import Progress, UserError, counted, shortened_list
from camlib.files import MOST_PIXELS, DamagedFile, read_hdf5, write_hdf5
from camlib.photos import PhotoError, find_photos, in_parallel, is_photo, read_network_input, walk_photos
from camlib.preprocessing import ORIGINAL_CLASSES

FEW_TO_VALIDATE = 10  # photos of a class: each is a tenth of its accuracy then


class StoredImages:
    """Decoded photos in a file, each read when it is asked for, so that memory does not grow with their number.

    Indexed by a number, a slice or a list of numbers, as an array is, and from several threads at once.

    Args:
        path: Path of the file; it is kept open, so that another one of its name changes nothing.
        offset: int, bytes in front of the first image; None where there is no image.
        shape: (N, H, W, C), of uint8.
        checks: uint32 (N,), CRC-32 of each image.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, path, offset, shape, checks):
        self.path, self.offset, self.shape, self.checks = path, offset, tuple(shape), checks
        self.file, self.lock = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0)), threading.Lock()

    def __del__(self):
        if hasattr(self, "file"):
            os.close(self.file)

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, chosen):
        every = range(len(self))
        if np.ndim(chosen) == 0 and not isinstance(chosen, slice):
            return self.read(every[chosen])
        numbers = every[chosen] if isinstance(chosen, slice) else [every[number] for number in chosen]
        images = np.empty((len(numbers), *self.shape[1:]), np.uint8)
        for image, number in zip(images, numbers, strict=True):
            image[:] = self.read(number)
        return images

    def __array__(self, dtype=None, copy=None):
        return self[:].astype(dtype or np.uint8, copy=False)

    def read(self, number):
        """One image, uint8 (H, W, C), by its number from 0.

        Raises:
            UserError: the file has become shorter, or other bytes stand in it than were written.
        """
        size = math.prod(self.shape[1:])
        start = self.offset + number * size
        if hasattr(os, "pread"):  # several at once, which a disk far away needs
            content = os.pread(self.file, size, start)
        else:
            with self.lock:
                os.lseek(self.file, start, os.SEEK_SET)
                content = os.read(self.file, size)
        if len(content) < size:
            raise UserError(
                f"{self.path} ends before its photo {number + 1:,}; expected the decoded photos as they were written: "
                "delete it, and give the same command with --resume"
            )
        if crc32(content) != self.checks[number]:
            raise UserError(
                f"{self.path} is damaged at its photo {number + 1:,}; expected the decoded photos as they were "
                "written: delete it, and give the same command with --resume"
            )
        return np.frombuffer(content, np.uint8).reshape(self.shape[1:])


@dataclass(frozen=True)
class LabelledPhotos:
    """Decoded photos.

    Attributes:
        images: uint8 (N, H, W, C), StoredImages or an array.
        labels: int64 (N,), index into the class names.
        names: list of N str.
    """

    images: np.ndarray
    labels: np.ndarray
    names: list


def class_names_of(folders):
    """Order class names: the original's order for exactly its four classes, else sorted."""
    return list(ORIGINAL_CLASSES) if set(folders) == set(ORIGINAL_CLASSES) else sorted(folders)


def subfolders(folder):
    """Names of the visible folders in `folder`, sorted."""
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def parts_in(folder):
    """How a data folder is laid out: ("train", "val"), ("train",), or () for class folders alone.

    train/ and val/ are parts of a split where both are there, or where they hold folders only; a class may have either
    name.

    Raises:
        UserError: there is no such folder, no folder in it, val/ without train/, or train/ beside folders that may be
            classes or another part.
    """
    expected = "expected train/ and val/ in it, or one folder of photos per class"
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; {expected}")
    names = subfolders(folder)
    if not names:
        loose = sum(map(is_photo, filter(Path.is_file, folder.iterdir())))
        found = f"{counted(loose, 'photo')} and no class folders" if loose else "0 class folders"
        raise UserError(f"{found} in {folder}; {expected}")
    if {"train", "val"} <= set(names):
        return "train", "val"
    found = [name for name in names if name in ("train", "val") and holds_folders_only(folder / name)]
    if found and len(names) > 1:
        others = shortened_list(name for name in names if name not in found)
        raise UserError(
            f"{folder} holds {found[0]}/ with folders in it, beside {others}; expected train/ and val/, train/ alone "
            "with photos to train on only, or one folder of photos per class"
        )
    if found == ["val"]:
        raise UserError(f"{folder} holds val/ without train/, photos to validate on only; {expected}")
    return tuple(found)


def holds_folders_only(folder):
    """Whether there are folders in `folder` and no photos beside them."""
    return bool(subfolders(folder)) and not any(is_photo(path) for path in folder.iterdir() if path.is_file())


def find_labelled_photos(data, seed=0, validation_share=0.15, most_pixels=MOST_PIXELS):
    """Find class folders, and split them where the user did not.

    A data folder holds train/ and val/, each with one folder per class; or train/ alone, whose photos are trained on
    and nothing more; or the class folders themselves: then `validation_share` of each class is set aside, drawn with
    `seed`. Folders without photos are no classes; says which.

    Args:
        data: list of Path; classes of the same name are joined.
        seed: int, for the split.
        validation_share: float, used where there is no val/.
        most_pixels: int, that may be decoded of a photo.

    Returns:
        (class_names, train, val): list of str and two lists of (Photo, label).

    Raises:
        UserError: a folder is missing or without classes, there is nothing to validate on, there are fewer than two
            classes, or a class is in one part only.
    """
    folders = {"train": {}, "val": {}}  # part -> class name -> [(folder, whether the user split it)]
    empty = []
    layouts = [parts_in(folder) for folder in data]
    for folder, parts in zip(data, layouts, strict=True):
        for part in parts or folders:
            inside = folder / part if parts else folder
            for name in subfolders(inside):
                if next(walk_photos(inside / name), None):
                    folders[part].setdefault(name, []).append((inside / name, bool(parts)))
                elif inside / name not in empty:
                    empty.append(inside / name)
    if empty:
        print(f"no photos in {shortened_list(empty, 3)}: left out")
    where = shortened_list(data)
    if all(parts == ("train",) for parts in layouts):
        raise UserError(
            f"{where}: train/ alone, so that there is nothing to validate on; expected val/ beside it, or the class "
            "folders without train/, of which a part is set aside"
        )
    class_names = class_names_of(folders["train"])
    if len(class_names) < 2:
        found = f" ({class_names[0]})" if class_names else ""
        raise UserError(
            f"{counted(len(class_names), 'class folder')} in {where}{found}; expected one folder of photos for each of "
            "two classes or more"
        )
    check_both_parts(folders)
    labelled = {"train": [], "val": []}
    for label, name in enumerate(class_names):
        for part, index in (("train", 0), ("val", 1)):
            for folder, split in folders[part][name]:
                photos = find_photos([folder], most_pixels)
                chosen = photos if split else split_photos(photos, seed, validation_share)[index]
                labelled[part] += [(photo, label) for photo in chosen]
    return class_names, labelled["train"], labelled["val"]


def validation_folders(data):
    """Where the photos to validate on are, among the data folders that `find_labelled_photos` was given.

    Folders of one name are left out but the first, since their photos' maps would share a folder.
    """
    found = {}
    for folder in data:
        parts = parts_in(folder)
        if parts != ("train",):
            place = folder / "val" if parts else folder
            found.setdefault(place.resolve().name, place)
    return list(found.values())


def check_both_parts(folders):
    """Raise UserError, with the class folders, unless train and val have the same classes."""
    one_sided = sorted(set(folders["train"]) ^ set(folders["val"]))
    if one_sided:
        places = [folders["train" if name in folders["train"] else "val"][name][0][0] for name in one_sided]
        raise UserError(
            f"{shortened_list(places, 3)}: in one of train/ and val/ only; expected the same class folders in both, in "
            "one data folder or another"
        )


def split_photos(photos, seed, validation_share):
    """Split one class's photos into (train, val), at least one in each, the same for the same seed."""
    if len(photos) < 2:
        raise UserError(f"{photos[0].path.parent} holds one photo; expected two or more, to train and to validate")
    order = np.random.default_rng(seed).permutation(len(photos))
    count = min(max(1, round(validation_share * len(photos))), len(photos) - 1)
    return [photos[i] for i in sorted(order[count:])], [photos[i] for i in sorted(order[:count])]


# ---------------------------------------------------------------- decoded once, read from one file


def load_photos(parts, input_spec, cache, write=True):
    """Decode the photos, or take them from the cache, and say how many there are.

    Args:
        parts: {"train": list of (Photo, label), "val": the same}.
        input_spec: InputSpec of the network to be.
        cache: Path.
        write: bool, make the cache where it is not there; see `load_labelled_photos`.

    Returns:
        (photos, failed): {"train": LabelledPhotos, "val": LabelledPhotos} and a list of (path, reason) of unreadable
        photos.
    """
    photos, failed = load_labelled_photos(parts, input_spec, cache, write)
    for part in parts:
        counts = np.bincount(photos[part].labels, minlength=len(input_spec.class_names))
        if not counts.all():
            reason = f"; the first: {failed[0][0]}: {failed[0][1]}" if failed else ""
            raise UserError(
                f"no photo of {input_spec.class_names[counts.argmin()]} for {part} could be read; expected at least "
                f"one{reason}"
            )
        named = list(zip(input_spec.class_names, counts, strict=True))
        print(f"{part}: " + ", ".join(f"{name} {count:,}" for name, count in named))
    few = [f"{name} {count}" for name, count in named if count < FEW_TO_VALIDATE]  # of val, the last part
    if few:
        print(f"fewer than {FEW_TO_VALIDATE} photos to validate on: {shortened_list(few)}; their accuracy says little")
    if failed:
        print(f"{counted(len(failed), 'photo')} could not be read, the first {failed[0][0]}: {failed[0][1]}")
    return photos, failed


def load_labelled_photos(parts, input_spec, cache, write=True):
    """Decode the training photos once; the next run reads them from one HDF5 file.

    Args:
        parts: dict of name -> list of (Photo, label), for example {"train": ..., "val": ...}.
        input_spec: object with height, width, channels and interpolation of the network's input.
        cache: Path of the HDF5 file. It is made anew when a photo's path, size or time differs, or the input.
        write: bool, may make it; otherwise somebody else has made it.

    Returns:
        (dict of name -> LabelledPhotos, failed): failed is a list of (path, reason) of unreadable photos.
    """
    key = cache_key(parts, input_spec)
    loaded = read_cache(cache, key)
    if loaded is None and not write:
        raise UserError(
            f"{cache} is not there or of other photos than those here; expected --data and --output on a file system "
            "that all hosts share, under the same paths"
        )
    if loaded is None:
        write_cache(cache, key, parts, input_spec)
        loaded = read_cache(cache, key)
    if loaded is None:
        raise UserError(
            f"{cache} is not what was just written; expected no other program to write it: another training, perhaps, "
            "which needs an --output of its own"
        )
    return loaded


def cache_key(parts, input_spec):
    """SHA-256 of everything the decoded arrays depend on."""
    files = []
    for part, photos in parts.items():
        for photo, label in photos:
            status = os.stat(photo.path, follow_symlinks=photo.path.exists())  # a link may lead nowhere
            files.append([part, label, os.path.abspath(photo.path), status.st_size, status.st_mtime_ns])
    form = [input_spec.height, input_spec.width, input_spec.channels, input_spec.interpolation]
    return hashlib.sha256(json.dumps([files, form]).encode()).hexdigest()


def write_cache(cache, key, parts, input_spec):
    """Decode every photo of every part into one HDF5 file, under its name only when whole; see `read_cache`."""

    def write(file):
        file.attrs["key"] = key
        failed = []
        for part, photos in parts.items():
            failed += decode_part(file.create_group(part), photos, input_spec)
        file["failed"] = json.dumps(failed)

    cache.parent.mkdir(parents=True, exist_ok=True)
    write_hdf5(cache, write, unchecked=["images"])


def decode_part(group, photos, input_spec):
    """Decode the photos of a part into its group.

    The images lie one behind the other, neither compressed nor in chunks: a photo is one read at a known place. Those
    that cannot be read leave as many rows without content behind the last one.

    Args:
        group: h5py.Group, named after the part.
        photos: list of (Photo, label).
        input_spec: see `load_labelled_photos`.

    Returns:
        list of (path, reason) of unreadable photos.
    """
    shape = len(photos), input_spec.height, input_spec.width, input_spec.channels
    images, labels, names, checks, failed = group.create_dataset("images", shape, np.uint8), [], [], [], []
    decoded = in_parallel(lambda item: read_network_input(item[0].path, input_spec, item[0].most_pixels), photos)
    with Progress(f"decoding {group.name[1:]}", len(photos)) as progress:
        for (photo, label), image in decoded:
            progress.advance()
            if isinstance(image, PhotoError):
                failed.append((str(photo.path), str(image)))
            else:
                images[len(labels)] = image
                checks.append(crc32(image))
                labels.append(label)
                names.append(photo.name)
    group["labels"], group["names"] = np.array(labels, np.int64), json.dumps(names)
    group["checks"] = np.array(checks, np.uint32)  # of each image, since all of them are too much to read at once
    return failed


def read_cache(cache, key):
    """What `write_cache` wrote under this key; None if there is no such file, another key's, or a damaged one."""

    def read(file):
        if file.attrs["key"] != key:
            return None
        loaded = {part: stored_photos(cache, group) for part, group in file.items() if part != "failed"}
        return loaded, [tuple(entry) for entry in json.loads(file["failed"][()])]

    try:
        return read_hdf5(cache, read, unchecked=["images"])
    except (OSError, DamagedFile):
        return None


def stored_photos(cache, group):
    """The LabelledPhotos that `decode_part` wrote into a group of a cache; ValueError if they are not all there."""
    images, labels, checks = group["images"], group["labels"][:], group["checks"][:]
    names = json.loads(group["names"][()])
    offset = images.id.get_offset()
    if images.dtype != np.uint8 or len(names) != len(labels) or len(labels) and offset is None:
        raise ValueError(f"{cache}: {group.name} is not whole")
    return LabelledPhotos(StoredImages(cache, offset, (len(labels), *images.shape[1:]), checks), labels, names)
