"""Where a run's photos are: the files and folders that it was given, asked for each photo by its name."""

import functools
import os
from pathlib import Path

from camlib.photos import PHOTO_SUFFIXES


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
