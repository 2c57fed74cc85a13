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
    def files(self):
        """dict of a photo's name -> list of Path of that name, photos or not."""
        found = {}
        for path in self.paths:
            found.setdefault(path.name, []).append(path)
        return found

    def sources(self, name):
        """list of Path: where a photo may be, see `camlib.photos.find_photos` for its name."""
        under = [place / name for place in self.folders]
        of_several = [place.parent / name for place in self.folders if name.startswith(f"{place.name}/")]
        return self.files.get(name, []) + (of_several + under if len(self) > 1 else under)
