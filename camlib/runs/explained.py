"""Explaining photos in one call of Python: what it returns draws itself, and is saved as the scripts save."""

import base64
import contextlib
import html
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import keras
import numpy as np

from camlib.attribution import METHODS, ExplainedBatch, MapOptions, kind_of
from camlib.attribution.classifier import Classifier
from camlib.attribution.gradcam import PHOTO_AXES, Explanation, GradCAM, largest_gaps, maps_of_photo, zero_maps
from camlib.attribution.methods import CLASSES_AT_ONCE
from camlib.console import Progress, UserError, command, counted, did_you_mean
from camlib.files import RUN_FILE
from camlib.photos import Photo, display_size, read_batches, resize_photo, size_within
from camlib.photos.decoding import shown_bands
from camlib.photos.places import files_of, places_in
from camlib.photos.resizing import cover_settings
from camlib.plots.colours import USUAL, superposition_of
from camlib.plots.panels import Row, bar_over_photo, encoded_png, sheet_of
from camlib.plots.text import displayable
from camlib.precision import kept_precision
from camlib.preprocessing import classes_of_photos, listed
from camlib.runs import MOST_SHOWN
from camlib.runs.folder_run import FolderRun
from camlib.runs.run import finished, write_finite
from camlib.runs.writers import Drawing, FolderWriter

USUAL_BATCH = 8  # per forward pass, as of gradcam_vgg16.py
SHOWN_SIDE = 200  # pixels of a picture's longer side in it
NOTEBOOK_SHOWN, NOTEBOOK_SIDE = 6, 120  # the same in a notebook, which keeps what it shows
OVERWRITE = "expected another folder, or overwrite=True to replace them"


class Explained(Explanation):
    """The Explanation of N photos that `explain` returns: it can also be looked at and saved.

    Attributes:
        names: list of N str; of files as in predictions.csv, of arrays photo_1, photo_2 ...
        photos: list of N uint8 (H, W, 3), in whose pixels `extent` is; of files at the size of saved pictures.
        probabilities: float (N, C + groups), or None where scores have none.
        maps: list of N dicts of kind of map -> class name -> array.
        failed: list of (path, reason), photos of a folder that could not be read.
    """

    photos: list[np.ndarray]
    probabilities: np.ndarray | None
    maps: list[dict[str, dict[str, np.ndarray]]]
    failed: list[tuple[str, str]]

    @classmethod
    def of(cls, found, gradcam, files, photos, places=(), failed=()):
        """Of an Explanation of NumPy arrays.

        Args:
            found: Explanation.
            gradcam: GradCAM that made it.
            files: list of N Photo.
            photos: list of N arrays (H, W, channels).
            places: list of Path, the files and folders that were handed over.
            failed: see the class.
        """
        classifier, spec = gradcam.classifier, gradcam.input_spec
        found = cls(*gradcam.placed(found, photos))
        photos = [shown_bands(photo, spec.bands) if spec.channels > 3 else photo for photo in photos]
        found.files, found.photos, found.failed = list(files), photos, list(failed)
        found.kept, found.least_side = gradcam.outputs, max(spec.height, spec.width)
        found.probabilities = classifier.with_groups(classifier.probabilities(found.logits), gradcam.groups)
        kind, names = kind_of(gradcam.method), classifier.class_names
        found.maps = [maps_of_photo(found, index, names, kind) for index in range(len(photos))]
        found.drawing = Drawing(USUAL, gradcam.kinds, gradcam.titles, gradcam.made, cover=gradcam.cover)
        found.conventions = gradcam.conventions
        found.settings = {
            "script": "explain",
            "weights": str(classifier.source),
            "classes": list(dict.fromkeys(name for maps in found.maps for name in next(iter(maps.values())))),
            "method": gradcam.method,
            "signed": next(iter(gradcam.kinds.values())),
            "counterfactual": gradcam.counterfactual,
            "guided": gradcam.guided,
            "layer": gradcam.layer,
            "preprocessing": spec.preprocessing,
            "dtype": classifier.dtype,
            "photos": [str(place.resolve()) for place in places],
            **cover_settings(gradcam.cover),
            **gradcam.options.settings(gradcam.method),
        }
        return found

    @property
    def names(self) -> list[str]:
        return [photo.name for photo in self.files]

    # ---------------------------------------------------------------- pictures

    def overlay(self, index: int, class_name: str | int | None = None) -> np.ndarray:
        """A photo with a map over it, the very pixels of spp_for_<class>.jpg before they are compressed.

        Args:
            index: int, the photo's.
            class_name: str, of a class that was explained, or its index; default: the first of them.

        Returns:
            uint8 (H, W, 3), RGB.

        Raises:
            UserError: the class was not explained.
        """
        kind, of_classes, scale = self.over_photo(index)
        names = dict(enumerate(self.kept.explained))
        name = next(iter(of_classes)) if class_name is None else names.get(class_name, class_name)
        if name not in of_classes:
            near = did_you_mean(str(name), of_classes)
            raise UserError(f"{name} was not explained for {self.names[index]}{near} expected {', '.join(of_classes)}")
        return self.laid_over(self.picture(index), kind, of_classes[name], scale)

    def picture(self, index):
        """A photo as saved pictures show it: uint8 (H, W, 3)."""
        photo = self.photos[index]
        return resize_photo(photo, *display_size(*photo.shape[:2], self.least_side))

    def laid_over(self, picture, kind, values, scale):
        """A picture of a photo, of any size, with a map of a kind over it: uint8 like the picture."""
        return superposition_of(picture, values, scale, self.drawing.style, self.drawing.extent_of(kind, picture))

    def over_photo(self, index):
        """What lies over a photo: (its kind, dict of class name -> float (h, w), the Scale of all)."""
        kind, of_classes = next(iter(self.maps[index].items()))
        return kind, *self.drawing.over_photo(kind, of_classes)

    def row(self, index, side):
        """The Row of a photo: itself, and the maps of its classes over it."""
        photo, (kind, of_classes, scale) = self.photos[index], self.over_photo(index)
        small = resize_photo(photo, *size_within(side, *photo.shape[:2]))
        laid = {name: self.laid_over(small, kind, values, scale) for name, values in of_classes.items()}
        cells = [("photo", small, None), *((self.title_of(index, name), laid[name], None) for name in laid)]
        bar = bar_over_photo(scale, len(small), self.drawing.style)
        cells[-1] = (*cells[-1][:2], bar)  # one scale, so one bar
        return Row([displayable(self.names[index])], cells)

    def title_of(self, index, name):
        """A class, and its probability where it has one."""
        columns = (*self.kept.class_names, *self.kept.groups)
        known = self.probabilities is not None and name in columns
        return displayable(name) + (f" {self.probabilities[index, columns.index(name)]:.3f}" if known else "")

    def rows(self, most=MOST_SHOWN, side=SHOWN_SIDE):
        """The rows of the first photos: list of Row."""
        return [self.row(index, side) for index in range(min(len(self.photos), most))]

    def show(self) -> None:
        """Show the first photos, with the maps over them, in Matplotlib's window or below the notebook's cell."""
        from matplotlib import pyplot as plt

        sheet = sheet_of(self.rows())
        figure = plt.figure(figsize=(sheet.shape[1] / 100, sheet.shape[0] / 100), dpi=100)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.imshow(sheet)
        axes.axis("off")
        plt.show()

    def _repr_html_(self) -> str:
        """What a notebook shows: a PNG of each of the first photos, with the maps over it."""
        pictures = [
            f'<img alt="{html.escape(name)}" src="data:image/png;base64,'
            f'{base64.b64encode(encoded_png(sheet_of([row]))).decode()}"><br>'
            for name, row in zip(self.names, self.rows(NOTEBOOK_SHOWN, NOTEBOOK_SIDE), strict=False)
        ]
        more = len(self.photos) - len(pictures)
        return html.escape(self.drawing.made) + "<br>" + "".join(pictures) + (f"and {more:,} more" if more else "")

    # ---------------------------------------------------------------- files

    def save(self, folder: str | os.PathLike, overwrite: bool = False) -> int:
        """Write the files that gradcam_vgg16.py writes, under the same names; viewer and evaluation read them.

        Args:
            folder: str or Path.
            overwrite: bool, replace the maps that a folder holds.

        Returns:
            int, 1 where photos failed, which failed.csv lists, else 0.

        Raises:
            UserError: the folder holds other maps or files, or guided gradients are of more than three bands.
        """
        folder = Path(folder)
        if (folder / RUN_FILE).exists() and not overwrite:
            raise UserError(f"{folder} holds maps already; {OVERWRITE}")
        if self.guided is not None and self.guided.shape[-1] > 3:
            raise UserError("guided gradients of more than three bands are no picture; expected guided=False")
        zero = [zero_maps(maps) for maps in self.maps]
        batch = ExplainedBatch(self.logits, self.probabilities, self.maps, zero, largest_gaps(self))
        unreadable = [Photo(Path(path), path, path) for path, _ in self.failed]
        writer = FolderWriter(folder, self.drawing)
        run = FolderRun(folder, self.settings, self.conventions, self.kept, overwrite, writer=writer)
        with run, ThreadPoolExecutor(os.cpu_count()) as pool:
            run.resume([*self.files, *unreadable])
            writing = [
                pool.submit(write_finite, run.writer, batch, number, photo, self.picture(number))
                for number, photo in enumerate(self.files)
            ]
            run.add(finished(batch, self.files, writing, self.failed))
            return run.finish(command("show_heatmaps.py", folder))


# ---------------------------------------------------------------- the call


def explain(
    network: keras.Model | str | os.PathLike,
    images: str | os.PathLike | Sequence | np.ndarray,
    classes: str | int | Sequence | None = None,
    method: str = "grad-cam",
    layer: str | None = None,
    guided: bool = True,
    quiet: bool = False,
    **options: Any,
) -> Explained:
    """Explain photos with a network, in one call; for many calls with one network make a `GradCAM` once.

    Args:
        network: keras.Model, the path of a model file, or a name of keras.applications.
        images: a folder or a list of folders, searched for photos; or N photos: paths, which are read as the scripts
            read them, or arrays and pictures of Pillow, see `camlib.photos.as_photos`.
        classes: names (str) or indices (int), each explained for every photo; or R rows of N, one class for each photo
            in every row; default: the class predicted.
        method: str, a key of METHODS.
        layer: str, path of the layer whose output is mapped; default: the last with a spatial output, pooling aside.
        guided: bool, do guided backpropagation and guided Grad-CAM too, where the method is one of a layer.
        quiet: bool, show no progress, which of many files is shown.
        options: as for MapOptions: contrast, smooth, samples, seed ...; and what the network's file does not say, as
            for NetworkOptions: preprocess, class_names, size ...

    Returns:
        Explained: the fields of an Explanation, NumPy arrays, with `show`, `save` and `overlay`. Photos of a folder
        that cannot be read are said, left out, and listed in `failed`.

    Raises:
        UserError: the file is no network, a photo named cannot be read, or something of what was asked for does not fit
            the network.
    """
    given, of_maps = isinstance(network, keras.Model), MapOptions.among(options)
    with kept_precision(network) if given else contextlib.nullcontext():  # the network may be in training
        classifier = Classifier(network, **options) if given else Classifier.load(network, **options)
        of_photos = classes is not None and any(isinstance(row, (list, tuple)) for row in listed(classes))
        for_all = "predicted" if classes is None or of_photos else classes
        gradcam = GradCAM(classifier, layer, method, guided, classes=for_all, **of_maps)
        gradcam.check_guided("guided=False leaves it out")
        rows = classes if of_photos else None
        if places := places_in(images):
            return explained_files(gradcam, places, rows, quiet)
        photos = classifier.photos(images)
        names = [f"photo_{number}" for number in range(1, len(photos) + 1)]
        return Explained.of(gradcam(photos, rows), gradcam, [Photo(Path(name), name, name) for name in names], photos)


def photos_at_once(batch_size, count, gradcam):
    """How many of `count` photos go through the network at once: of many classes the maps would fill the memory.

    Methods of samples ask for one photo after the other.
    """
    if METHODS[gradcam.method].samples:
        return 1
    return max(1, min(batch_size, count) // -(-len(gradcam.chosen) // CLASSES_AT_ONCE))


def explained_files(gradcam, places, rows, quiet):
    """The Explained of photos in files, batch by batch as the scripts read and map them.

    Args:
        gradcam: GradCAM.
        places: list of Path.
        rows: R rows of N classes, or None for those of the GradCAM.
        quiet: bool, show no progress.

    Raises:
        UserError: a photo that was named, or all of a folder's, cannot be read.
    """
    files, chosen = files_of(places), None
    size = photos_at_once(USUAL_BATCH, len(files), gradcam)
    if rows is not None:
        names, groups = gradcam.input_spec.class_names, gradcam.classifier.groups
        chosen = classes_of_photos(rows, len(files), names, groups)  # (R, N)
    numbers, parts, done, failed = {photo.name: number for number, photo in enumerate(files)}, [], [], []
    with contextlib.ExitStack() as stack:
        progress = None if quiet or len(files) <= size else stack.enter_context(Progress("photos", len(files)))
        batches = stack.enter_context(contextlib.closing(read_batches(files, gradcam.input_spec, size)))
        for read, images, unreadable in batches:
            if read:
                own = [numbers[photo.name] for photo, _ in read]
                own += own[:1] * (size - len(own))  # the batch is filled up
                found = gradcam.explanation(images, len(read), None if chosen is None else chosen[:, own])
                parts.append(of_first(found, len(read)))
            done, failed = done + read, failed + unreadable
            if progress:
                progress.advance(len(read) + len(unreadable))
    refuse_failed(failed, files, places)
    joined = [
        None if values[0] is None else np.concatenate(values, axis)
        for values, axis in zip(zip(*parts, strict=True), PHOTO_AXES, strict=True)
    ]
    return Explained.of(Explanation(*joined), gradcam, *zip(*done, strict=True), places, failed)


def of_first(found, count):
    """The Explanation of the first photos of a batch."""
    pairs = zip(found, PHOTO_AXES, strict=True)
    return Explanation(*(part if part is None else np.take(part, range(count), axis) for part, axis in pairs))


def refuse_failed(failed, files, places):
    """Say which photos of folders could not be read.

    Raises:
        UserError: one was named, so that a place in the list would be empty, or none is left.
    """
    if not failed:
        return
    named = [one for one in failed if one[0] in set(map(str, places))]
    path, reason = (named or failed)[0]
    if named or len(failed) == len(files):
        number = [str(photo.path) for photo in files].index(path)
        raise UserError(f"photos[{number}]: {path}: {reason}")
    print(f"{counted(len(failed), 'photo')} could not be read, the first since {path}: {reason}", flush=True)
