"""Writers of a run's maps: into files of each photo, or into the parts of a store."""

import contextlib
import errno
import io
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from camlib.console import first_line
from camlib.files import is_stored, write_whole
from camlib.photos import PhotoError, modified_of, read_photo
from camlib.photos.resizing import Cover
from camlib.plots import colours, is_gradient
from camlib.plots.panels import encoded_jpeg, write_jpeg, write_panel, write_png
from camlib.runs.maps import PHOTO_FILE, dated_file
from camlib.runs.store import PART_NAME, PLACE_COLUMNS, packed_photo, write_part

# What the system says where a photo's folder would have the name of a file of the run's, or a name that is too long
NAMES_NOT_TO_BE_HAD = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EINVAL)
SAME_TIME = 2  # seconds: some file systems know no less
PART_BYTES, PART_PHOTOS = 64 * 10**6, 256  # a part has as many, and the rest of a batch

# ---------------------------------------------------------------- the files of one photo


def write_array(path, array):
    """Save an array of numbers as .npy; through memory, since of a full disk NumPy's own writing does not say so."""
    content = io.BytesIO()
    np.save(content, np.ascontiguousarray(array))
    write_whole(path, lambda file: file.write(content.getbuffer()))


@dataclass(frozen=True)
class Drawing:
    """How the maps of a run are drawn.

    Attributes:
        style: Style; None for arrays alone, without pictures.
        signed: dict of kind -> bool, whether maps of a kind have two signs; the first kind is laid over the photo.
        titles: dict of kind -> str, its title above a panel; empty for runs without panels.
        made: str, how the maps were made, for the heading of a panel.
        overlay: bool, write overlay_for_<class>.png too: what lies over the photo, transparent; needs a style.
        cover: Cover of photos by maps of a layer.
        reduction: one of REDUCTIONS, by which maps of PIXEL_KINDS are shown, or None.
    """

    style: colours.Style | None
    signed: dict
    titles: dict
    made: str | None = None
    overlay: bool = False
    cover: Cover = Cover()
    reduction: str | None = None

    def extent_of(self, kind, photo):
        """The part of a photo (H, W, 3) that maps of a kind cover, see `camlib.plots.colours.over_extent`."""
        return self.cover.of(photo.shape[:2], is_gradient(kind))

    def shown(self, kind, of_classes):
        """What maps of a kind are shown by: (dict of class name -> float (h, w) or (H, W, 3), the Scale they share)."""
        shown = {name: colours.reduced(kind, values, self.reduction) for name, values in of_classes.items()}
        return shown, colours.scale_of(self.signed[kind], shown.values(), is_gradient(kind))

    def over_photo(self, kind, of_classes):
        """What of maps of a kind lies over the photo: (dict of class name -> float (h, w), the Scale they share)."""
        shown = {name: colours.reduced(kind, values, self.reduction) for name, values in of_classes.items()}
        laid = {name: colours.overlaid(kind, values) for name, values in shown.items()}
        return laid, colours.scale_over_photo(kind, self.signed[kind], laid.values())


def write_maps(folder, kind, of_classes, photo, drawing):
    """Write the maps of one kind: <kind>_for_<class>.npy, unscaled, and as .jpg in colours, in the photo's shape.

    Args:
        folder: Path.
        kind: str, a key of SIGNED.
        of_classes: dict of class name -> float (h, w) or (H, W, 3).
        photo: uint8 (H, W, 3), for display.
        drawing: Drawing; without a style it is for the arrays alone.

    Returns:
        what the pictures show, as `Drawing.shown`; None without pictures.
    """
    for name, values in of_classes.items():
        write_array(folder / f"{kind}_for_{name}.npy", values)
    if drawing.style is None:
        return None
    extent, (shown, scale) = drawing.extent_of(kind, photo), drawing.shown(kind, of_classes)
    for name, values in shown.items():
        picture = colours.picture_of(values, scale, *photo.shape[:2], drawing.style, extent)
        write_jpeg(folder / f"{kind}_for_{name}.jpg", picture)
    return shown, scale


def write_photo_maps(folder, photo, maps, drawing, headings):
    """Write all maps of one photo, superpositions, and panels where the run has them.

    Args:
        folder: Path.
        photo: uint8 (H, W, 3), for display.
        maps: dict of kind -> dict of class name -> float (h, w) or (H, W, 3).
        drawing: Drawing.
        headings: dict of class name -> str, the first line above its panel.
    """
    drawn = {kind: write_maps(folder, kind, of_classes, photo, drawing) for kind, of_classes in maps.items()}
    if (style := drawing.style) is None:
        return
    first = next(iter(maps))
    extent, (laid, whole) = drawing.extent_of(first, photo), drawing.over_photo(first, maps[first])
    for name, values in laid.items():
        write_jpeg(folder / f"spp_for_{name}.jpg", colours.superposition_of(photo, values, whole, style, extent))
        if drawing.overlay:
            write_png(folder / f"overlay_for_{name}.png", colours.overlay_of(photo, values, whole, style, extent))
    for name in laid if drawing.titles else ():
        panels = [
            (drawing.titles[kind], shown[name], scale, drawing.extent_of(kind, photo))
            for kind, (shown, scale) in drawn.items()
        ]
        heading = [headings[name], drawing.made]
        write_panel(folder / f"panel_for_{name}.jpg", heading, photo, panels, style, (laid[name], whole))


# ---------------------------------------------------------------- of a run


@dataclass(frozen=True)
class FolderWriter:
    """Writes the files of photos into a run's folder; several threads and processes do so at once.

    Attributes:
        output: Path of the folder.
        drawing: Drawing.
        pictures: bool, write photo.jpg too.
        full_size: bool, pictures have the photo's own size.
        columns: list of str, the classes and groups that probabilities are of.
    """

    output: Path
    drawing: Drawing
    pictures: bool = True
    full_size: bool = False
    columns: tuple = ()
    place_columns: ClassVar[tuple] = ()  # of the run's list, which say where a photo's maps are

    @property
    def shows_small(self):
        """Whether it takes photos at the size of saved pictures; whole ones are read when they are written."""
        return self.pictures and not self.full_size

    def write(self, photo, picture, maps, probabilities=None):
        """Write the files of one photo.

        Args:
            photo: Photo.
            picture: uint8 (H, W, 3), the photo for display, or None where it is read here or not shown.
            maps: dict of kind -> dict of class name -> array.
            probabilities: float (C + groups,), or None.

        Returns:
            None, or a PhotoError where the photo can no longer be read or its files' names cannot be had.
        """
        try:
            picture = self.displayed(photo, picture)
            folder = Path(self.output, photo.folder)
            folder.mkdir(parents=True, exist_ok=True)
            headings = {name: self.heading(photo, name, probabilities) for name in next(iter(maps.values()))}
            write_photo_maps(folder, picture, maps, self.drawing, headings)
            if self.pictures:
                write_jpeg(folder / PHOTO_FILE, picture)
        except PhotoError as error:
            return error
        except OSError as error:
            if error.errno not in NAMES_NOT_TO_BE_HAD:
                raise
            return PhotoError(f"its maps cannot be written ({first_line(error)}); expected another name of the photo")
        if photo.modified is not None:
            os.utime(dated_file(folder, self.pictures), (photo.modified, photo.modified))
        return None

    def displayed(self, photo, picture):
        """A photo as it is shown, uint8 (H, W, 3), read here where it is in its own size; None without pictures.

        Raises:
            PhotoError: it can no longer be read.
        """
        return read_photo(photo.path, most_pixels=photo.most_pixels) if self.pictures and picture is None else picture

    def heading(self, photo, name, probabilities):
        """What stands above a panel of a photo: its file, the class, and the probability if there is one."""
        known = probabilities is not None and name in self.columns
        return f"{photo.name}: {name}" + (f" {probabilities[self.columns.index(name)]:.3f}" if known else "")

    def begin(self, photos, numbers, rows):
        """The writer for a run that goes on with the rows that are done already; see StoreWriter."""
        return self

    def holds(self, photo, row):
        """Whether the maps of a photo that has a row are there, and it has not been changed or replaced since."""
        saved, now = dated_file(self.output / photo.folder, self.pictures), modified_of(photo.path)
        if now is None:  # it is gone, or some place of fsspec's does not tell
            return saved is not None and is_stored(photo.path)
        return saved is not None and abs(saved.stat().st_mtime - now) < SAME_TIME

    def is_full(self, batches):
        """Whether the maps of so many batches are to be brought to the disk."""
        return True

    def kept(self, batches):
        """The same list of Finished with their `places`, once the maps are on the disk."""
        return [batch._replace(places={}) for batch in batches]


@dataclass(frozen=True)
class StoreWriter(FolderWriter):
    """Writes the maps of photos into the parts of a store.

    Attributes:
        explained: tuple of str, the classes and groups that there may be maps of.
        most: int, of how many of them a photo has maps at most.
        dtype: "float32" or "float16", of the maps.
        numbers: dict of a photo's name -> its place among all of the run, from 0; parts are named by it.
        taken: set of str, names of parts whose photos are done.
        ready: dict of a photo's name -> PackedPhoto, until its part is written.
    """

    explained: tuple = ()
    most: int = 1
    dtype: str = "float32"
    numbers: dict = field(default_factory=dict)
    taken: frozenset = frozenset()
    ready: dict = field(default_factory=dict)
    place_columns: ClassVar[tuple] = PLACE_COLUMNS

    def write(self, photo, picture, maps, probabilities=None):
        """As FolderWriter does; the maps wait for those of other photos, see `kept`."""
        try:
            picture = self.displayed(photo, picture)
        except PhotoError as error:
            return error
        shown = encoded_jpeg(picture, f"the picture of {photo.name}").tobytes() if self.pictures else b""
        self.ready[photo.name] = packed_photo(photo.name, shown, maps, self.explained, self.most, self.dtype)
        return None

    def begin(self, photos, numbers, rows):
        """The writer for a run that goes on, once the parts are removed that a killed run named in no row.

        Args:
            photos: list of Photo, those that this process makes parts of.
            numbers: dict, see the class.
            rows: list of list of str, of the run's list, which end in PLACE_COLUMNS.
        """
        taken, own = frozenset(row[-len(PLACE_COLUMNS)] for row in rows), {numbers[photo.name] for photo in photos}
        for name in os.listdir(self.output):
            part = PART_NAME.fullmatch(name.removeprefix(".").removesuffix(".partial"))
            if part and name not in taken and int(part[1]) in own:
                with contextlib.suppress(FileNotFoundError):
                    (self.output / name).unlink()
        return replace(self, numbers=numbers, taken=taken)

    def holds(self, photo, row):
        """As FolderWriter does."""
        part, _, modified = row[-len(PLACE_COLUMNS) :]
        if not PART_NAME.fullmatch(part) or not (self.output / part).is_file():
            return False
        now = modified_of(photo.path)
        return is_stored(photo.path) if now is None else modified == str(now)

    def is_full(self, batches):
        waiting = [self.ready[photo.name] for batch in batches if batch.places is None for photo in batch.photos]
        return len(waiting) >= PART_PHOTOS or sum(photo.size for photo in waiting) >= PART_BYTES

    def kept(self, batches):
        photos = [photo for batch in batches if batch.places is None for photo in batch.photos]
        places = self.written(photos) if photos else {}
        return [batch if batch.places is not None else batch._replace(places=places) for batch in batches]

    def written(self, photos):
        """Write the part of some photos: dict of name -> what stands in PLACE_COLUMNS."""
        number, again = self.numbers[photos[0].name], 1
        name = f"maps-{number:07d}.h5"
        while name in self.taken:  # its photo was done again, the others' maps stay
            again += 1
            name = f"maps-{number:07d}-{again}.h5"
        write_part(self.output / name, [self.ready.pop(photo.name) for photo in photos], self.explained, self.dtype)
        return {photo.name: [name, row, photo.modified] for row, photo in enumerate(photos)}
