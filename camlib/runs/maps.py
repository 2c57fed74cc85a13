"""What a saved map is: its names, and reading it.

Imports neither Keras nor TensorFlow, so that a viewer starts at once.
"""

import io
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np

from camlib.attribution import METHODS, titles_of
from camlib.console import OneLineError, UserError, counted, first_line
from camlib.files import MOST_PIXELS, RUN_FILE, read_array, read_json
from camlib.photos import PhotoError, modified_of, name_without_suffix, read_photo
from camlib.photos.places import Places
from camlib.photos.resizing import COVER_SETTINGS, cover_in
from camlib.plots import PIXEL_KINDS, REDUCTIONS, colours, is_gradient
from camlib.runs.shards import NUMBER, check_row, lists_of, rows_of
from camlib.runs.store import PART_ERRORS, PLACE_COLUMNS, Part

PHOTO_FILE = "photo.jpg"

# ---------------------------------------------------------------- the files of one photo


# Kinds of map, and whether they always have two signs; whether a gradcam has, its method decides
SIGNED = {"heatmap": True, "gradcam": False, "guided_backprop": True, "guided_gradcam": True}
SIGNED |= dict.fromkeys(PIXEL_KINDS, False)  # by their magnitudes; a reduction may leave them two


def dated_file(folder, pictures=True):
    """The file that has the photo's own time: photo.jpg; without pictures, the first array. None if there is none."""
    if pictures:
        return folder / PHOTO_FILE if (folder / PHOTO_FILE).exists() else None
    return min((path for path in folder.glob("*.npy") if parse_map_name(path.name)), default=None)


# ---------------------------------------------------------------- finding and reading saved maps

# What readers take from a run.json, if it is of the right kind: anybody may have written it
SETTINGS_READ = {
    "method": lambda value: isinstance(value, str) and value in METHODS,
    **dict.fromkeys(("layer", "model", "model_sha256", "weights", "contrast"), lambda value: isinstance(value, str)),
    "reduce": lambda value: value in REDUCTIONS,
    **dict.fromkeys(("counterfactual", "signed", "no_pictures"), lambda value: isinstance(value, bool)),
    **COVER_SETTINGS,
    "photos": lambda value: isinstance(value, list) and all(isinstance(place, str) for place in value),
    "class_names": lambda value: isinstance(value, list) and all(isinstance(name, str) for name in value),
}
CLASSES_SHOWN = 8  # shown at once; of more, the most probable
LONGEST_MAP_SIDE = 2**14  # of a map; the largest photos that a network takes have half as much
UNSURE_BELOW = 0.55  # probability: 2.7 and 4.7 % of the shipped networks' right answers on 1,044 photos have less


class MapError(OneLineError):
    """A map that cannot be shown; the message is the reason."""


@dataclass(frozen=True)
class SavedPhoto:
    """A photo whose maps are saved; they are read when it is shown.

    Attributes:
        name: str, the photo's path as in predictions.csv, or its folder.
        folders: list of Path; the first that holds its photo.jpg, or of a run without pictures an array, has its maps.
        predicted: str, class name, or None if unknown.
        probabilities: dict of class name -> float, in the run's order of classes; empty if unknown.
        logits: dict of class name -> float; empty if unknown.
        only: Path of the one .npy to show, or None for all in the folder.
        settings: dict, the run's as in run.json; empty if unknown.
        most_pixels: int, that may be decoded of the photo.
    """

    name: str
    folders: list
    predicted: str | None = None
    probabilities: Mapping = field(default_factory=dict)
    logits: Mapping = field(default_factory=dict)
    only: Path | None = None
    settings: dict = field(default_factory=dict)
    most_pixels: int = MOST_PIXELS
    is_current = True  # its folder has the maps that were made last

    @property
    def is_unsure(self):
        """Whether the network gives the class that it predicts less than UNSURE_BELOW."""
        return self.probabilities.get(self.predicted, 1.0) < UNSURE_BELOW

    @property
    def is_right(self):
        """Whether the class predicted is the photo's; None where either is unknown."""
        return self.predicted == self.truth if self.predicted and self.truth else None

    def is_signed(self, kind):
        """Whether maps of a kind have two signs as they are shown."""
        both = kind == "gradcam" or self.settings.get("reduce") == "sum"
        return SIGNED[kind] or (both and bool(self.settings.get("signed")))

    def cover_of(self, kind):
        """The Cover of the photo by maps of a kind."""
        return cover_in(self.run_of(kind).settings)

    def extent_of(self, kind, shape):
        """The part of the photo, of (height, width), that maps of a kind cover, see `Cover.of`."""
        return self.cover_of(kind).of(shape, is_gradient(kind))

    def title_of(self, kind):
        """What a kind of map is called: that of `--method layer-cam` LayerCAM."""
        return titles_of(*map(self.settings.get, ("method", "counterfactual", "contrast")))[kind]

    def read_map(self, kind, place):
        """A map as it is shown, float32 (H, W), or (H, W, 3) of guided gradients of RGB; raises as `read_map`."""
        return colours.reduced(kind, read_map(place), self.run_of(kind).settings.get("reduce"))

    @property
    def answers(self):
        """What was answered to the photo: dict of a run's label -> SavedPhoto; one run needs none."""
        return {"": self}

    def run_of(self, kind):
        """The SavedPhoto of the run that made a kind of map."""
        return self

    @property
    def folder(self):
        pictures = not self.settings.get("no_pictures")
        return next((folder for folder in self.folders if dated_file(folder, pictures)), self.folders[-1])

    def read_photo(self):
        """The photo to show, uint8 (H, W, 3): the run's photo.jpg, or of a run without pictures the photo itself.

        Raises:
            PhotoError: it cannot be read.
        """
        photo = self.folder / PHOTO_FILE
        if self.settings.get("no_pictures"):
            photo = next(filter(os.path.isfile, self.sources), photo)
        return read_photo(photo, most_pixels=self.most_pixels)

    def map_places(self):
        """Where the photo's maps are: dict of kind -> dict of class name -> Path; see `read_map`."""
        if self.only:
            kind, class_name = parse_map_name(self.only.name) or ("heatmap", self.only.stem)
            return {kind: {class_name: self.only}}
        found = {}
        for path in sorted(self.folder.glob("*.npy")):
            if known := parse_map_name(path.name):
                kind, class_name = known
                found.setdefault(kind, {})[class_name] = path
        return found

    @property
    def places(self):
        """Places: the photos and folders that the run was given; empty if unknown."""
        return Places.of(self.settings.get("photos", ()))

    @property
    def sources(self):
        """list of Path: where the photo itself may be."""
        return self.places.sources(self.name)

    @property
    def truth(self):
        """The photo's class, which the folder it lies in is named for; None where no class has that name."""
        folder = Path(self.name).parent.name
        if not folder:  # of a run that photos of several folders were added to, that of the one that is there
            folder = next((path.parent.name for path in sorted(self.sources, key=os.path.isfile, reverse=True)), "")
        known = self.settings.get("class_names") or self.probabilities
        return folder if folder in known else None


@dataclass(frozen=True)
class StoredPhoto(SavedPhoto):
    """A photo whose maps are in a store.

    Attributes:
        part: Part, or None where its file is missing.
        row: int, its row there.
        modified: str, when its file had been changed last, in seconds since 1970; empty if unknown.
    """

    part: Part | None = None
    row: int = 0
    modified: str = ""

    @property
    def is_current(self):
        """Whether the photo's file has not been changed since its maps were made."""
        return any(str(modified_of(path)) == self.modified for path in self.sources)

    def read_photo(self):
        try:
            picture = self.part.picture(self.name, self.row) if self.part else b""
        except PART_ERRORS as error:
            raise PhotoError(f"damaged or cut off ({first_line(error)})") from error
        source = next(filter(os.path.isfile, self.sources), Path(self.name))
        return read_photo(io.BytesIO(picture) if picture else source, most_pixels=self.most_pixels)

    def map_places(self):
        """dict of kind -> dict of class name -> StoredMap."""
        return self.part.maps_of(self.name, self.row) if self.part else {}


def find_saved(place, most_pixels=MOST_PIXELS):
    """List the photos with saved maps.

    Args:
        place: Path of a run's folder, of files or a store, of a folder in it, or of one .npy file.
        most_pixels: int, that may be decoded of a photo.

    Returns:
        list of SavedPhoto, never empty, in the order of predictions.csv where there is one, or of the lists of shards.

    Raises:
        UserError: nothing there.
    """
    if place.is_file() and h5py.is_hdf5(place):
        raise UserError(f"{place} is one file of HDF5; expected a folder: a store, as --store DIR writes it now")
    if place.is_file():
        settings = settings_of_run(place.resolve().parent)
        return [SavedPhoto(place.name, [place.parent], only=place, settings=settings, most_pixels=most_pixels)]
    if not place.is_dir():
        raise UserError(f"{place} does not exist; expected a folder of maps: run make_cam_maps.py first")
    here = place.resolve()
    for run in (here, *here.parents):
        if lists_of(run):
            known = read_predictions(run, most_pixels)
            saved = [photo for photo in known if photo.folder.is_relative_to(here)]
            break
    else:
        parents = sorted(parent for parent, _, files in os.walk(place) if any(map(parse_map_name, files)))
        settings = settings_of_run(here)
        saved = [
            SavedPhoto(os.path.relpath(parent, place), [Path(parent)], settings=settings, most_pixels=most_pixels)
            for parent in parents
        ]
    if not saved:
        raise UserError(f"no maps in {place}; expected files like heatmap_for_dog.npy: run make_cam_maps.py")
    return saved


def read_predictions(run, most_pixels=MOST_PIXELS):
    """The photos of all lists of a run, in the order of its photos; see `camlib.runs.shards.lists_of`.

    Of two rows of a photo the later counts, or that which knows the photo as it is now. A list, a row or a part of a
    store that is damaged is left out, and said.

    Raises:
        UserError: nothing is left.
    """
    settings, parts, damaged = settings_of_run(run), {}, []
    found = {}  # of a photo's name: its place, and the photo
    for path in lists_of(run):
        try:
            rows = rows_of(path)
        except (OSError, ValueError) as error:
            damaged.append((path, error))
            continue
        for index, row in enumerate(rows):
            try:
                place = int(row.get(NUMBER, index))
                photo = predicted_photo(run, row, settings, most_pixels, parts)
            except (UserError, ValueError) as error:
                damaged.append((path, error))
            else:
                if photo.name not in found or photo.is_current or not found[photo.name][1].is_current:
                    found[photo.name] = place, photo
    for path, error in damaged[:1]:
        why = f"{path} cannot be read ({first_line(error)}); expected the list of a run's maps"
        why = error if isinstance(error, UserError) else UserError(why)
        if not found:
            raise why
        entries = counted(len(damaged), "entry is", "entries are")
        print(f"{entries} left out of {run}, the first since {why}", flush=True)
    return [saved for _, saved in sorted(found.values(), key=lambda one: one[0])]


def predicted_photo(run, row, settings, most_pixels, parts):
    """The SavedPhoto of a row of predictions.csv.

    Args:
        run: Path.
        row: dict of column -> str.
        settings, most_pixels: of the SavedPhoto.
        parts: dict of file name -> Part, None or the UserError of a damaged one, to which those read are added.

    Raises:
        ValueError: see `check_row`, or a number is none.
        UserError: its part of a store is damaged.
    """
    check_row(run, row)
    name = row["path"]
    numbers = numbers_of(row, "probability_"), numbers_of(row, "logit_")
    if not all(column in row for column in PLACE_COLUMNS):
        # photos that differ in suffix alone have folders with it, see camlib.photos.find_photos
        folders = [run / name, run / name_without_suffix(name)]
        return SavedPhoto(name, folders, row["predicted"], *numbers, settings=settings, most_pixels=most_pixels)
    part, number, modified = (row[column] for column in PLACE_COLUMNS)
    if part not in parts:
        try:
            parts[part] = Part(run / part) if (run / part).is_file() else None
        except UserError as error:
            parts[part] = error
    if isinstance(parts[part], UserError):
        raise parts[part]
    stored = {"part": parts[part], "row": int(number), "modified": modified}
    return StoredPhoto(name, [run], row["predicted"], *numbers, settings=settings, most_pixels=most_pixels, **stored)


def numbers_of(row, prefix):
    """The numbers of a row whose columns begin with a prefix: dict of the rest of their names -> float."""
    return {name.removeprefix(prefix): float(cell) for name, cell in row.items() if name.startswith(prefix)}


def settings_of_run(folder):
    """The settings in the run.json of the run that wrote the folder, or one around it; empty if there is none."""
    for run in (folder, *folder.parents):
        if (run / RUN_FILE).is_file():
            try:
                settings = read_json(run / RUN_FILE)["settings"]
                known = {name: settings[name] for name, fits in SETTINGS_READ.items() if fits(settings.get(name))}
                return known | {"photos": Places(known.get("photos", ()))}
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                return {}  # run.json is not needed to look at maps
    return {}


def parse_map_name(name):
    """'heatmap_for_dog.npy' -> ('heatmap', 'dog'); None for other names."""
    kind, _, class_name = name.removesuffix(".npy").partition("_for_")
    return (kind, class_name) if name.endswith(".npy") and kind in SIGNED and class_name else None


def base_kind(kind):
    """The kind of map, a key of SIGNED, that one of several runs has: "gradcam" of "gradcam@1"."""
    return kind.partition("@")[0]


def all_maps(saved):
    """Where a photo's maps are: dict of kind -> dict of class name -> Path or StoredMap, see `read_map`.

    Classes are in the run's order, of many the most probable first; kinds in that of SIGNED.
    """
    found, kinds = saved.map_places(), list(SIGNED)
    order = list(saved.probabilities)
    if len(order) > CLASSES_SHOWN:
        order = sorted(order, key=saved.probabilities.get, reverse=True)
    places = {name: number for number, name in enumerate(order)}
    return {
        kind: dict(sorted(found[kind].items(), key=lambda item: places.get(item[0], -1)))
        for kind in sorted(found, key=lambda kind: kinds.index(base_kind(kind)))
    }


def class_names_in(maps):
    """The classes of a dict of kind -> dict of class name -> anything: list of str in their order."""
    return list(dict.fromkeys(name for of_classes in maps.values() for name in of_classes))


def find_maps(saved):
    """Where the maps are that are shown at once, see `all_maps` and `shown_at_once`."""
    return shown_at_once(all_maps(saved))


def shown_at_once(found, chosen=None):
    """Those of all maps that are shown at once: CLASSES_SHOWN classes, the chosen among them.

    Args:
        found: dict of kind -> dict of class name -> Path, see `all_maps`.
        chosen: str, a class that is shown whatever its place; None for none.
    """
    names = class_names_in(found)
    shown = names[:CLASSES_SHOWN]
    if chosen in names[CLASSES_SHOWN:]:
        shown[-1] = chosen
    return {kind: {name: paths[name] for name in shown if name in paths} for kind, paths in found.items()}


def read_map(path):
    """Read a saved map: float32 (H, W), or (H, W, 3) for gradients of RGB. Those of grey photos, (H, W, 1), are (H, W).

    Args:
        path: Path of an array, or StoredMap.

    Raises:
        MapError: it is missing, damaged, or something else.
    """
    try:
        values = read_array(path) if isinstance(path, Path) else path.read()
    except (OSError, ValueError) as error:
        raise MapError(f"{path.name} cannot be read ({first_line(error)})") from error
    kind, of_maps_shape = values.dtype, values.ndim == 2 or (values.ndim == 3 and values.shape[2] in (1, 3))
    fits = of_maps_shape and min(values.shape) > 0 and max(values.shape) <= LONGEST_MAP_SIDE and kind.kind in "fiu"
    if fits:
        with np.errstate(over="ignore"):
            values = values.astype(np.float32)
    if not fits or not np.isfinite(values).all():
        raise MapError(
            f"{path.name} holds {kind} {values.shape}; expected finite numbers of float32 (H, W), (H, W, 1) or "
            f"(H, W, 3), H and W up to {LONGEST_MAP_SIDE:,}"
        )
    return values[..., 0] if values.shape[2:] == (1,) else values


def attempt(read, *path):
    """What `read(path)` returns, or the error that says why there is nothing to show."""
    try:
        return read(*path)
    except (MapError, PhotoError) as error:
        return error
