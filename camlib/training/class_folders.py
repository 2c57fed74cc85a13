"""Class folders: the class of each photo, the split, and the cache of training data."""

import contextlib
import hashlib
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from camlib.console import Progress, UserError, counted, shortened_list
from camlib.files import MOST_PIXELS, partial_of, read_json, write_json
from camlib.photos import PhotoError, find_photos, in_parallel, is_photo, read_network_input, walk_photos
from camlib.preprocessing import ORIGINAL_CLASSES

FEW_TO_VALIDATE = 10  # photos of a class: each is a tenth of its accuracy then


@dataclass(frozen=True)
class LabelledPhotos:
    """Decoded photos.

    Attributes:
        images: uint8 (N, H, W, C), of a file in the memory that it is mapped to.
        labels: int64 (N,), index into the class names; the number of classes for a photo of none of them.
    """

    images: np.ndarray
    labels: np.ndarray


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
    found, empty = [], []  # (class name, folder, its part of the split or None), and folders without photos
    for folder in data:
        for part in parts_in(folder) or (None,):
            inside = folder / part if part else folder
            for name in subfolders(inside):
                if next(walk_photos(inside / name), None):
                    found.append((name, inside / name, part))
                else:
                    empty.append(inside / name)
    if empty:
        print(f"no photos in {shortened_list(empty, 3)}: left out")
    where = shortened_list(data)
    if found and all(part == "train" for *_, part in found):
        raise UserError(
            f"{where}: train/ alone, so that there is nothing to validate on; expected val/ beside it, or the class "
            "folders without train/, of which a part is set aside"
        )
    trained, validated = ({name for name, _, part in found if part in (None, one)} for one in ("train", "val"))
    class_names = class_names_of(trained)
    if len(class_names) < 2:
        only = f" ({class_names[0]})" if class_names else ""
        raise UserError(
            f"{counted(len(class_names), 'class folder')} in {where}{only}; expected one folder of photos for each of "
            "two classes or more"
        )
    one_sided = [folder for name, folder, _ in found if name in trained ^ validated]
    if one_sided:
        raise UserError(
            f"{shortened_list(one_sided, 3)}: in one of train/ and val/ only; expected the same class folders in both, "
            "in one data folder or another"
        )
    train, val = [], []
    for label, class_name in enumerate(class_names):
        for folder, part in [(folder, part) for name, folder, part in found if name == class_name]:
            photos = find_photos([folder], most_pixels)
            given = {"train": (photos, []), "val": ([], photos)}
            to_train, to_validate = given.get(part) or split_photos(photos, seed, validation_share)
            train += [(photo, label) for photo in to_train]
            val += [(photo, label) for photo in to_validate]
    return class_names, train, val


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
        (photos, failed, sha256), as of `load_labelled_photos`.
    """
    photos, failed, sha256 = load_labelled_photos(parts, input_spec, cache, write)
    for part in parts:
        names = input_spec.class_names
        *counts, others = np.bincount(photos[part].labels, minlength=len(names) + 1)
        if not all(counts):
            reason = f"; the first: {failed[0][0]}: {failed[0][1]}" if failed else ""
            raise UserError(
                f"no photo of {names[counts.index(0)]} for {part} could be read; expected at least one{reason}"
            )
        named = list(zip(names, counts, strict=True))
        none = f", none of them {others:,}" if others else ""
        print(f"{part}: " + ", ".join(f"{name} {count:,}" for name, count in named) + none)
    few = [f"{name} {count}" for name, count in named if count < FEW_TO_VALIDATE]  # of val, the last part
    if few:
        print(f"fewer than {FEW_TO_VALIDATE} photos to validate on: {shortened_list(few)}; their accuracy says little")
    if failed:
        print(f"{counted(len(failed), 'photo')} could not be read, the first {failed[0][0]}: {failed[0][1]}")
    announce_repeated(parts, photos, {path for path, _ in failed})
    return photos, failed, sha256


def announce_repeated(parts, photos, unread):
    """Say which photos are in two classes, or both in train and val: of the same pixels at the network's size.

    Args:
        parts: as for `load_photos`.
        photos: dict of name -> LabelledPhotos.
        unread: set of the paths that could not be read.
    """
    seen, repeated = {}, {"two classes": [], "train and val": []}
    for part, found in photos.items():
        paths = [path for photo, _ in parts[part] if (path := str(photo.path)) not in unread]
        for path, label, image in zip(paths, found.labels, found.images, strict=True):
            first = seen.setdefault(hashlib.blake2b(image, digest_size=16).digest(), (label, part, path))
            for kind, other, own in zip(repeated, first, (label, part), strict=False):
                if other != own:
                    repeated[kind].append(f"{path} is {first[-1]}")
    for kind, pairs in repeated.items():
        if pairs:
            print(f"{counted(len(pairs), 'photo')} in {kind}: {shortened_list(pairs, 3)}")


def load_labelled_photos(parts, input_spec, cache, write=True):
    """Decode the training photos once; the next run reads them from one file.

    Args:
        parts: dict of name -> list of (Photo, label), for example {"train": ..., "val": ...}.
        input_spec: object with height, width, channels, interpolation and fit of the network's input.
        cache: Path of the .npy file; beside it a .json says what it holds. Both are made anew when a photo's path, size
            or time differs, or the input, or what the file holds is not what was written.
        write: bool, may make it; otherwise somebody else has made it.

    Returns:
        (photos, failed, sha256): dict of name -> LabelledPhotos, a list of (path, reason) of unreadable photos, and
        what `photos_sha256` says of the photos.
    """
    key = cache_key(parts, input_spec)
    shape = (sum(map(len, parts.values())), input_spec.height, input_spec.width, input_spec.channels)
    loaded = read_cache(cache, key, shape)
    if loaded is None and write:
        write_cache(cache, key, shape, parts, input_spec)
        loaded = read_cache(cache, key, shape)
    if loaded is None:
        raise UserError(
            f"{cache} is not there or of other photos than those here; expected no other program to write it and, of "
            "several hosts, --data and --output on a file system that all hosts share, under the same paths"
        )
    return loaded


def cache_key(parts, input_spec):
    """SHA-256 of everything the decoded arrays depend on."""
    files = []
    for part, photos in parts.items():
        for photo, label in photos:
            status = os.stat(photo.path, follow_symlinks=photo.path.exists())  # a link may lead nowhere
            files.append([part, label, os.path.abspath(photo.path), status.st_size, status.st_mtime_ns])
    form = [input_spec.height, input_spec.width, input_spec.channels, input_spec.interpolation, input_spec.fit]
    return hashlib.sha256(json.dumps([files, form]).encode()).hexdigest()


def write_cache(cache, key, shape, parts, input_spec):
    """Decode every photo of every part into one .npy file, under its name only when whole; see `read_cache`.

    The photos lie one behind the other, part after part. Those that cannot be read leave as many rows of zeros behind
    the last one.
    """
    labels, failed, digest = {part: [] for part in parts}, [], hashlib.sha256()
    cache.parent.mkdir(parents=True, exist_ok=True)
    with partial_of(cache) as partial, open(partial, "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        size = file.tell() + math.prod(shape)
        for part, photos in parts.items():
            decoded = in_parallel(
                lambda item: read_network_input(item[0].path, input_spec, item[0].most_pixels), photos
            )
            with Progress(f"decoding {part}", len(photos)) as progress:
                for (photo, label), image in decoded:
                    progress.advance()
                    if isinstance(image, PhotoError):
                        failed.append((str(photo.path), str(image)))
                    else:
                        labels[part].append(label)
                        digest.update(image.tobytes())
                        file.write(image.tobytes())
            digest.update(np.array(labels[part], np.int64))
        file.truncate(size)
        os.fsync(file.fileno())
    about = {"key": key, "labels": labels, "failed": failed, "sha256": digest.hexdigest()}
    write_json(cache.with_suffix(".json"), about)


def read_cache(cache, key, shape):
    """What `write_cache` wrote under this key; None if there is no such file, another key's, or a damaged one.

    All of it is read here, once; a batch reads what the system maps into memory.
    """
    try:
        about = read_json(cache.with_suffix(".json"))
        if about["key"] != key or not cache.exists():
            return None
        labels = {part: np.array(values, np.int64) for part, values in about["labels"].items()}
        failed, written = [tuple(entry) for entry in about["failed"]], about["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    with contextlib.suppress(ValueError, OverflowError):  # it is cut off
        behind_header = cache.stat().st_size - math.prod(shape)
        images, photos, begin = np.memmap(cache, np.uint8, "r", behind_header, shape), {}, 0
        for part, values in labels.items():
            photos[part] = LabelledPhotos(images[begin : begin + len(values)], values)
            begin += len(values)
        if photos_sha256(photos) == written:
            return photos, failed, written
    print(f"{cache} is damaged: its photos are decoded anew", flush=True)
    return None


def photos_sha256(photos):
    """SHA-256 of all pixels and labels: the same photos may be resumed from a fresh copy with new places and times."""
    digest = hashlib.sha256()
    for part in photos.values():
        for start in range(0, len(part.labels), 32):  # a few at a time, since they are in a file
            digest.update(np.ascontiguousarray(part.images[start : start + 32]))
        digest.update(part.labels)
    return digest.hexdigest()
