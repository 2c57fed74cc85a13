"""Networks that stay loaded, and what they have made of the last photos: no map is computed twice."""

from dataclasses import replace
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np

from camlib.attribution import KIND_TITLES, METHODS
from camlib.attribution.cam import CAM
from camlib.attribution.classifier import Classifier
from camlib.attribution.gradcam import GradCAM
from camlib.console import UserError
from camlib.files import MOST_PIXELS
from camlib.memory import check_batch
from camlib.photos import find_photos, modified_of, read_batches
from camlib.plots.colours import USUAL
from camlib.plots.page import likely
from camlib.preprocessing import PREDICTED, chosen_classes
from camlib.runs.claim import NOT_FINITE
from camlib.runs.writers import Drawing

NETWORKS_HELD, MAPS_HELD, PHOTOS_HELD = 3, 64, 16  # in memory: networks; of each the last maps and photos
CAM_METHOD = "cam"  # beside METHODS


class Side(NamedTuple):
    """What is asked of one network.

    Attributes:
        source: str, path of its file, or a name of keras.applications.
        options: tuple of (name, value), as for NetworkOptions.
        methods: tuple of str, keys of METHODS, or "cam".
        layers: tuple of str, paths of the layers that are mapped; empty for the default.
        guided: bool, guided backpropagation and guided Grad-CAM too.
    """

    source: str
    options: tuple
    methods: tuple
    layers: tuple = ()
    guided: bool = False

    def by_kind(self):
        """(the methods that need no layer, CAM first, and those that map one of several), lists of str."""
        of_layer = [method for method in self.methods if method != CAM_METHOD and METHODS[method].of_layer]
        others = [method for method in self.methods if method not in of_layer]
        return sorted(others, key=lambda method: method != CAM_METHOD), of_layer


class LayerMaps(NamedTuple):
    """What one method of one layer shows of a photo.

    Attributes:
        method: str, a key of METHODS, or "cam".
        title: str, the method and its layer in words.
        drawing: Drawing.
        maps: dict of kind -> dict of class name -> float (h, w), or (H, W, channels) for gradients.
    """

    method: str
    title: str
    drawing: Drawing
    maps: dict


class Shown(NamedTuple):
    """What one network shows of a photo.

    Attributes:
        side: Side.
        photo: Photo.
        picture: uint8 (H, W, 3), the photo for display.
        probabilities: dict of class name -> float, the most probable and those explained; empty where there are none.
        layers: list of LayerMaps.
    """

    side: Side
    photo: object
    picture: np.ndarray
    probabilities: dict
    layers: list


class Found:
    """What a method has made of a photo so far: logits float (C,), or None, and maps as of LayerMaps."""

    def __init__(self):
        self.logits, self.maps = None, {}


class LiveNetwork:
    """A network that stays loaded, with its compiled methods and the maps of the last photos.

    Attributes:
        classifier: Classifier.
        default_method: str, "cam" where that applies, else "grad-cam".

    Args:
        source: Path of its file, or a name of keras.applications.
        options: as for NetworkOptions.

    Raises:
        UserError: as of `Classifier.load`; or there is too little memory for a photo.
    """

    def __init__(self, source, **options):
        self.classifier = Classifier.load(source, **{"name": Path(source).name} | options)
        check_batch(self.classifier, 1, with_gradients=True)
        self.explainer = lru_cache(MAPS_HELD)(self.compile)
        self.read = lru_cache(PHOTOS_HELD)(self.read_anew)
        self.found = lru_cache(MAPS_HELD)(lambda *_: Found())
        try:
            self.explainer(CAM_METHOD, None, False)
            self.default_method = CAM_METHOD
        except UserError:
            self.default_method = "grad-cam"

    def compile(self, method, layer, guided):
        """The CAM or GradCAM of a method of a layer."""
        if method == CAM_METHOD:
            return CAM(self.classifier)
        gradcam = GradCAM(self.classifier, layer, method, guided)
        gradcam.check_guided("expected the box of guided maps without its tick")
        return gradcam

    def read_anew(self, photo):
        """(the photo for display uint8 (H, W, 3), the network's input (1, H, W, channels)), as the scripts read it."""
        done, images, failed = next(read_batches([photo], self.classifier.input_spec, 1))
        if failed:
            raise UserError(f"{photo.name} cannot be read: {failed[0][1]}")
        return done[0][1], images

    def show(self, photo, side, classes):
        """What the network shows of a photo: Shown.

        Args:
            photo: Photo.
            side: Side.
            classes: list of str, as after --classes.

        Raises:
            UserError: the photo cannot be read, there is no such class or layer, or a method does not apply.
        """
        layers, names = [], []
        of_photo, of_layer = side.by_kind()
        pairs = [(None, method) for method in of_photo] + list(product(side.layers or (None,), of_layer))
        for layer, method in pairs:
            guided = side.guided and method in of_layer
            found = self.found(photo, method, layer, guided)
            names = self.explain(photo, self.explainer(method, layer, guided), found, classes)
            layers.append(self.layer_maps(method, self.explainer(method, layer, guided), found, names))
        if not layers:
            raise UserError("no method is chosen; expected one or more")
        probabilities = self.classifier.probabilities(found.logits[None])
        groups = self.classifier.groups_among(map(self.classifier.class_names.index, names))
        of_names = {}
        if probabilities is not None:
            columns = [*self.classifier.input_spec.class_names, *groups]
            values = self.classifier.with_groups(probabilities, groups)[0].tolist()
            of_names = likely(dict(zip(columns, values, strict=True)), names)
        return Shown(side, photo, self.read(photo)[0], of_names, layers)

    def explain(self, photo, explainer, found, classes):
        """Add what is missing to what was found of a photo; returns the names of the classes asked for."""
        of_cam = isinstance(explainer, CAM)
        groups, names = () if of_cam else self.classifier.groups, {}
        for index in chosen_classes(classes, self.classifier.input_spec.class_names, groups):
            name = self.name_of(index, found.logits)
            if name not in next(iter(found.maps.values()), {}):
                images = self.read(photo)[1]
                # one class at a time: another count of classes would be compiled anew, which takes seconds
                batch = explainer.explain(images, 1) if of_cam else explainer.explain(images, 1, [index])
                if not np.isfinite(batch.logits).all():
                    raise UserError(f"{photo.name}: {NOT_FINITE}")
                found.logits = batch.logits[0]
                for kind, of_classes in batch.maps[0].items():
                    found.maps.setdefault(kind, {}).update(of_classes)
            names[self.name_of(index, found.logits)] = None
        return list(names)

    def name_of(self, index, logits):
        """The name of a class, of which a negative index is its rank; None where that is not known yet."""
        if index < 0 and logits is None:
            return None
        ranked = np.argsort(-logits, kind="stable") if index < 0 else None
        return self.classifier.class_names[index if ranked is None else ranked[PREDICTED - index]]

    def layer_maps(self, method, explainer, found, names):
        """The LayerMaps of the named classes."""
        of_cam = method == CAM_METHOD
        title = KIND_TITLES["heatmap"] if of_cam else METHODS[method].title
        title += f", layer {explainer.layer}" if not of_cam and explainer.layer else ""
        drawing = Drawing(USUAL, explainer.kinds, KIND_TITLES | explainer.titles, explainer.made, cover=explainer.cover)
        maps = {kind: {name: of_classes[name] for name in names} for kind, of_classes in found.maps.items()}
        return LayerMaps(method, title, drawing, maps)


class Explorer:
    """The networks used last, each loaded once, whoever asks.

    Args:
        most_pixels: int, to decode of a photo.
    """

    def __init__(self, most_pixels=MOST_PIXELS):
        self.most_pixels = most_pixels
        self.kept = lru_cache(NETWORKS_HELD)(self.load)

    def load(self, source, options, told):
        """A LiveNetwork; or the UserError that a file gives, which it gives again until the file is changed."""
        try:
            return LiveNetwork(source, **dict(options))
        except UserError as error:
            if told is None:  # a download may fail once
                raise
            return error

    def network(self, source, options=()):
        """The LiveNetwork of a file, or of a name of keras.applications; anew where the file was changed.

        Raises:
            UserError: as of LiveNetwork.
        """
        told = Path(source).stat() if Path(source).is_file() else None
        found = self.kept(source, options, told and (told.st_mtime_ns, told.st_size))
        if isinstance(found, UserError):
            raise found
        return found

    def show(self, path, side, classes):
        """What a network shows of the photo of a file: Shown; the arguments and errors as of `LiveNetwork.show`."""
        (photo,) = find_photos([Path(path)], self.most_pixels)
        photo = replace(photo, modified=modified_of(photo.path))
        return self.network(side.source, side.options).show(photo, side, classes)
