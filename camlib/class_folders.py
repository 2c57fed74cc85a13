"""Class folders: which photos are of which class, the split, and the cache of training data."""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from camlib.console import Progress, UserError, counted
from camlib.photos import PhotoError, find_photos, in_parallel, is_photo, read_network_input, walk_photos

FEW_TO_VALIDATE = 10  # photos of a class: each is a tenth of its accuracy then
ORIGINAL_CLASSES = ("dog", "cat", "horse", "bird")  # 0..3, the original's order


@dataclass(frozen=True)
class LabelledPhotos:
    """Decoded photos in memory.

    Attributes:
        images: uint8 (N, H, W, C).
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
        others = shortened(name for name in names if name not in found)
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


def shortened(names, most=5):
    """Names for a message: "a, b, c", or the first few and how many more."""
    names = [str(name) for name in names]
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def find_labelled_photos(data, seed=0, validation_share=0.15):
    """Find class folders, and split them where the user did not.

    A data folder holds train/ and val/, each with one folder per class; or train/ alone, whose photos are trained on
    and nothing more; or the class folders themselves: then `validation_share` of each class is set aside, drawn with
    `seed`. Folders without photos are no classes; says which.

    Args:
        data: list of Path; classes of the same name are joined.
        seed: int, for the split.
        validation_share: float, used where there is no val/.

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
        print(f"no photos in {shortened(empty, 3)}: left out")
    where = shortened(data)
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
                photos = find_photos([folder])
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
            f"{shortened(places, 3)}: in one of train/ and val/ only; expected the same class folders in both, in one "
            "data folder or another"
        )


def split_photos(photos, seed, validation_share):
    """Split one class's photos into (train, val), at least one in each, the same for the same seed."""
    if len(photos) < 2:
        raise UserError(f"{photos[0].path.parent} holds one photo; expected two or more, to train and to validate")
    order = np.random.default_rng(seed).permutation(len(photos))
    count = min(max(1, round(validation_share * len(photos))), len(photos) - 1)
    return [photos[i] for i in sorted(order[count:])], [photos[i] for i in sorted(order[:count])]


# ---------------------------------------------------------------- decoded once, kept in one file


def load_photos(parts, meaning, cache):
    """Decode the photos, or read them from the cache, and say how many there are.

    Args:
        parts: {"train": list of (Photo, label), "val": the same}.
        meaning: Meaning of the network to be.
        cache: Path.

    Returns:
        (photos, failed): {"train": LabelledPhotos, "val": LabelledPhotos} and a list of (path, reason) of unreadable
        photos.
    """
    photos, failed = load_labelled_photos(parts, meaning, cache)
    for part in parts:
        counts = np.bincount(photos[part].labels, minlength=len(meaning.class_names))
        if not counts.all():
            reason = f"; the first: {failed[0][0]}: {failed[0][1]}" if failed else ""
            raise UserError(
                f"no photo of {meaning.class_names[counts.argmin()]} for {part} could be read; expected at least "
                f"one{reason}"
            )
        named = list(zip(meaning.class_names, counts, strict=True))
        print(f"{part}: " + ", ".join(f"{name} {count:,}" for name, count in named))
    few = [f"{name} {count}" for name, count in named if count < FEW_TO_VALIDATE]  # of val, the last part
    if few:
        print(f"fewer than {FEW_TO_VALIDATE} photos to validate on: {shortened(few)}; their accuracy says little")
    if failed:
        print(f"{counted(len(failed), 'photo')} could not be read, the first {failed[0][0]}: {failed[0][1]}")
    return photos, failed


def load_labelled_photos(parts, meaning, cache):
    """Decode the training photos once; the next run reads them from one HDF5 file.

    Args:
        parts: dict of name -> list of (Photo, label), for example {"train": ..., "val": ...}.
        meaning: object with height, width, channels and interpolation of the network's input.
        cache: Path of the HDF5 file. It is made anew when a photo's path, size or time differs, or the input.

    Returns:
        (dict of name -> LabelledPhotos, failed): failed is a list of (path, reason) of unreadable photos.
    """
    key = cache_key(parts, meaning)
    loaded = read_cache(cache, key)
    if loaded is None:
        loaded = decode_parts(parts, meaning)
        write_cache(cache, key, *loaded)
    return loaded


def cache_key(parts, meaning):
    """SHA-256 of everything the decoded arrays depend on."""
    files = []
    for part, photos in parts.items():
        for photo, label in photos:
            status = os.stat(photo.path, follow_symlinks=photo.path.exists())  # a link may lead nowhere
            files.append([part, label, os.path.abspath(photo.path), status.st_size, status.st_mtime_ns])
    form = [meaning.height, meaning.width, meaning.channels, meaning.interpolation]
    return hashlib.sha256(json.dumps([files, form]).encode()).hexdigest()


def decode_parts(parts, meaning):
    """Decode every photo of every part; returns what `load_labelled_photos` does."""
    loaded, failed = {}, []
    for part, photos in parts.items():
        images = np.empty((len(photos), meaning.height, meaning.width, meaning.channels), np.uint8)
        labels, names = [], []
        decoded = in_parallel(lambda item: read_network_input(item[0].path, meaning), photos)
        with Progress(f"decoding {part}", len(photos)) as progress:
            for (photo, label), image in decoded:
                progress.advance()
                if isinstance(image, PhotoError):
                    failed.append((str(photo.path), str(image)))
                else:
                    images[len(labels)] = image
                    labels.append(label)
                    names.append(photo.name)
        loaded[part] = LabelledPhotos(images[: len(labels)], np.array(labels, np.int64), names)
    return loaded, failed


def write_cache(cache, key, loaded, failed):
    """Write decoded photos to one HDF5 file, under its name only when whole."""
    cache.parent.mkdir(parents=True, exist_ok=True)
    partial = cache.with_name(cache.name + ".partial")
    with h5py.File(partial, "w") as file:
        file.attrs["key"] = key
        file["failed"] = json.dumps(failed)
        for part, photos in loaded.items():
            group = file.create_group(part)
            group["images"], group["labels"] = photos.images, photos.labels
            group["names"] = json.dumps(photos.names)
    os.replace(partial, cache)


def read_cache(cache, key):
    """What `write_cache` wrote under this key; None if there is no such file, another key's, or a damaged one."""
    try:
        with h5py.File(cache, "r") as file:
            if file.attrs.get("key") != key:
                return None
            loaded = {
                part: LabelledPhotos(group["images"][:], group["labels"][:], json.loads(group["names"][()]))
                for part, group in file.items()
                if part != "failed"
            }
            return loaded, [tuple(entry) for entry in json.loads(file["failed"][()])]
    except (OSError, KeyError, ValueError):
        return None
