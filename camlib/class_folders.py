"""Class folders: which photos are of which class, the split, and the cache of training data."""

import hashlib
import json
import os
from dataclasses import dataclass

import h5py
import numpy as np

from camlib.console import Progress, UserError
from camlib.photos import PhotoError, find_photos, in_parallel, read_network_input

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


def find_labelled_photos(data, seed=0, validation_share=0.15):
    """Find class folders, and split them where the user did not.

    A data folder holds either train/ and val/, each with one folder per class, or the class folders themselves;
    then `validation_share` of each class is set aside, drawn with `seed`.

    Args:
        data: list of Path; classes of the same name are joined.
        seed: int, for the split.
        validation_share: float, used where there is no val/.

    Returns:
        (class_names, train, val): list of str and two lists of (Photo, label).

    Raises:
        UserError: a folder is missing, there are fewer than two classes, or a class has no photo.
    """
    folders = {"train": {}, "val": {}}  # part -> class name -> folders
    for folder in data:
        if not folder.is_dir():
            raise UserError(f"{folder} is not a folder; expected train/ and val/ in it, or one folder per class")
        split = {"train", "val"} <= set(subfolders(folder))
        for part in folders:
            inside = folder / part if split else folder
            for name in subfolders(inside):
                folders[part].setdefault(name, []).append((inside / name, split))
    class_names = class_names_of(folders["train"])
    where = ", ".join(map(str, data))
    if len(class_names) < 2:
        raise UserError(
            f"{len(class_names)} class folder{'s' * (len(class_names) != 1)} in {where}; expected one folder of photos "
            "for each of two classes or more"
        )
    if set(class_names) != set(folders["val"]):
        one_sided = sorted(set(class_names) ^ set(folders["val"]))
        raise UserError(f"{where}: {', '.join(one_sided)} not in both train/ and val/; expected the same class folders")
    labelled = {"train": [], "val": []}
    for label, name in enumerate(class_names):
        for part, index in (("train", 0), ("val", 1)):
            for folder, split in folders[part][name]:
                photos = find_photos([folder])
                chosen = photos if split else split_photos(photos, seed, validation_share)[index]
                labelled[part] += [(photo, label) for photo in chosen]
    return class_names, labelled["train"], labelled["val"]


def split_photos(photos, seed, validation_share):
    """Split one class's photos into (train, val), at least one in each, the same for the same seed."""
    if len(photos) < 2:
        raise UserError(f"{photos[0].path.parent} holds one photo; expected two or more, to train and to validate")
    order = np.random.default_rng(seed).permutation(len(photos))
    count = min(max(1, round(validation_share * len(photos))), len(photos) - 1)
    return [photos[i] for i in sorted(order[count:])], [photos[i] for i in sorted(order[:count])]


# ---------------------------------------------------------------- decoded once, kept in one file


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
