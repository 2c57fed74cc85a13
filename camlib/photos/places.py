"""Where photos are: files and folders that are handed over, and those of a run, asked for each photo by its name."""

import functools
import os
from collections import Counter
from pathlib import Path

from camlib.files import parse_place
from camlib.photos import PHOTO_SUFFIXES, Photo, find_photos, folders_of


def places_in(images):
    """The list of Path that photos are handed over as, files or folders; None for arrays and pictures."""
    images = [images] if isinstance(images, (str, os.PathLike)) or hasattr(images, "read_bytes") else images
    if not isinstance(images, (list, tuple)):
        return None
    of_files = [isinstance(one, (str, os.PathLike)) or hasattr(one, "read_bytes") for one in images]
    return [parse_place(one) if isinstance(one, str) else one for one in images] if of_files and all(of_files) else None


def files_of(places):
    """The photos in folders as `find_photos` lists them; of files alone each as often as it is named: list of Photo."""
    if any(place.is_dir() for place in places):
        return find_photos(places)
    counts = Counter(place.name for place in places)
    names = [
        place.name if counts[place.name] == 1 else f"{number}/{place.name}" for number, place in enumerate(places, 1)
    ]
    return [Photo(*one) for one in zip(places, names, folders_of(names), strict=True)]


class Places(list):
    """list of str, as run.json has them; thousands of photos may have been given one by one."""

    @classmethod
    def of(cls, given):
        return given if isinstance(given, cls) else cls(given)

    @functools.cached_property
    def paths(self):
        """list of Path; what can be none is left out."""
        return [Path(place) for place in self if "\0" not in place]

    @functools.cached_property
    def folders(self):
        """list of Path, those that may hold photos: what is gone is taken for a photo if it is named like one."""
        return [
            path
            for path in self.paths
            if os.path.isdir(path) or not (os.path.isfile(path) or path.suffix.lower() in PHOTO_SUFFIXES)
        ]

    @functools.cached_property
    def named(self):
        """dict of the name of a file or folder -> list of Path of that name."""
        found = {}
        for path in self.paths:
            found.setdefault(path.name, []).append(path)
        return found

    def sources(self, name):
        """list of Path: where a photo may be, see `camlib.photos.find_photos` for its name."""
        found = self.named.get(name, [])
        if len(self) > 1 and "/" in name:  # of folders that were given together, the first part is the folder's name
            found = found + [place.parent / name for place in self.named.get(name.partition("/")[0], [])]
        # that of each of thousands of folders takes long
        return found if any(map(os.path.isfile, found)) else found + [place / name for place in self.folders]
