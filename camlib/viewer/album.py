"""The photos of a run as they are looked through: which of them, in which order, and read before they are asked for."""

import functools
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np

from camlib.console import UserError
from camlib.evaluation.annotations import ANNOTATIONS_FILE, read_annotations
from camlib.photos import PhotoError, resize_photo, size_within
from camlib.plots import is_gradient
from camlib.plots.colours import overlaid, scale_of, scale_over_photo
from camlib.runs.maps import MapError, all_maps, attempt, base_kind, class_names_in, shown_at_once

SCREEN_SIDE = 1600  # pixels of the longer side; a photo of more is shrunk while nobody waits for it
READ_AHEAD = (1, -1, 2)  # which photos are read once one is shown
PHOTOS_KEPT = 8  # photos in memory
FOLDERS_ABOVE = 2  # an annotations.json lies with the photos, or at most so far above

# ---------------------------------------------------------------- one photo


@dataclass(frozen=True)
class Content:
    """What is shown of a photo.

    Attributes:
        photo: uint8 (H, W, 3) or the error that says why there is none; shrunk where it is larger than any screen.
        shape: (height, width) of the photo, or of the first map where it cannot be read.
        names: list of str, all classes that have a map, see `camlib.runs.maps.all_maps`.
        maps: dict of kind -> dict of class name -> float32 (h, w) or (h, w, 3), or an error; the classes shown at once.
        scales: dict of kind -> Scale, common to these classes.
        over_photo: dict of kind -> Scale of the superpositions.
        outlines: list of (class name, list of float (n, 2) x, y), the closed outlines of what is annotated.
    """

    photo: object
    shape: tuple
    names: list
    maps: dict
    scales: dict
    over_photo: dict
    outlines: list

    def map_of(self, kind, name):
        """The map of a class, or the error that says why there is none."""
        return self.maps[kind].get(name, MapError(f"no {base_kind(kind)}_for_{name}.npy"))


def share_of(saved, name):
    """A class's probability as it stands behind its name: " 0.750", or nothing where it is unknown."""
    return f" {saved.probabilities[name]:.3f}" if name in saved.probabilities else ""


def predictions_of(saved, share_of=share_of):
    """What is predicted: ["predicted: dog 0.412, unsure"], of networks that differ with their labels; or nothing."""
    answers = [
        f"{run.predicted}{share_of(run, run.predicted)}{', unsure' * run.is_unsure}{f' ({label})' * bool(label)}"
        for label, run in saved.answers.items()
        if run.predicted
    ]
    return [f"predicted: {'; '.join(answers)}"] if answers else []


def read_content(saved, chosen=None, annotations=None):
    """Read a photo and its maps from their files.

    Args:
        saved: SavedPhoto.
        chosen: str, a class that is shown whatever its place; None for none.
        annotations: Annotations, or None.

    Returns:
        Content.
    """
    photo, found = attempt(saved.read_photo), all_maps(saved)
    maps = {
        kind: {name: attempt(saved.read_map, kind, path) for name, path in paths.items()}
        for kind, paths in shown_at_once(found, chosen).items()
    }
    readable = {
        kind: [values for values in of_classes.values() if not isinstance(values, Exception)]
        for kind, of_classes in maps.items()
    }
    if isinstance(photo, Exception):
        shape = next((values.shape[:2] for of_kind in readable.values() for values in of_kind), (1, 1))
    else:
        shape = photo.shape[:2]
        if max(shape) > SCREEN_SIDE:
            photo = resize_photo(photo, *size_within(SCREEN_SIDE, *shape))
    return Content(
        photo,
        shape,
        class_names_in(found),
        maps,
        {kind: scale_of(saved.is_signed(kind), of_kind, is_gradient(kind)) for kind, of_kind in readable.items()},
        {
            kind: scale_over_photo(kind, saved.is_signed(kind), [overlaid(kind, one) for one in of_kind])
            for kind, of_kind in readable.items()
        },
        annotations.outlines_in_pixels(saved, *shape) if annotations else [],
    )


# ---------------------------------------------------------------- the truth


class Annotations:
    """The annotations.json that lie with a run's photos; read when first asked for.

    Args:
        places: list of Path, what the run was given.
    """

    def __init__(self, places):
        self.places = places
        self.problem = ""  # why a file cannot be used

    @functools.cached_property
    def of_photos(self):
        """dict of path as str -> list of Annotation."""
        found = {}
        for file in self.files():
            try:
                for one in read_annotations(file):
                    found.setdefault(str(one.path), []).append(one)
            except UserError:
                self.problem = f"{ANNOTATIONS_FILE} cannot be read"  # evaluate_maps.py says more
        return found

    def files(self):
        """The nearest file of each place, in the order of places."""
        near = {}
        for place in self.places:
            files = [folder / ANNOTATIONS_FILE for folder in (place, *list(place.parents)[:FOLDERS_ABOVE])]
            near.update(dict.fromkeys(list(filter(os.path.isfile, files))[:1]))
        return list(near)

    def outlines_in_pixels(self, saved, height, width):
        """(class name, closed outlines) of each object of a photo, as it is shown at (height, width)."""
        found = self.of_photos
        annotated = next((found[str(source)] for source in saved.sources if str(source) in found), [])
        try:
            return [(one.class_name, outlines_in_pixels(one, height, width)) for one in annotated]
        except PhotoError:
            self.problem = "its mask cannot be read"
            return []


def outlines_in_pixels(annotation, height, width):
    """The closed outlines of an Annotation: of its mask, else of its boxes; list of float (n, 2), x and y."""
    if not annotation.mask:
        return [
            np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0)])
            for x0, y0, x1, y1 in annotation.boxes_in(height, width)
        ]
    inside = annotation.inside(height, width).astype(np.uint8)
    contours, _ = cv2.findContours(inside, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    return [np.concatenate((contour, contour[:1]))[:, 0] + 0.5 for contour in contours]


# ---------------------------------------------------------------- all photos

CONFIDENT, DOUBTFUL, SCORED = "most confident first", "least confident first", "highest score first"
ORDERS = ("name", CONFIDENT, DOUBTFUL, SCORED)


class Album:
    """The photos that are looked through, and the one that is shown.

    Args:
        photos: list of SavedPhoto.
        index: int, the photo to begin with.

    Attributes:
        chosen: list of int, the photos that pass the filter, in their order.
        position: int, the photo shown, in `chosen`.
        filter: "all", "wrong", or the class that photos are predicted as, as (class name,).
        order: one of ORDERS; scores are the logits of the class over the photo.
        annotations: Annotations of the run's photos.
        pool: the thread that reads photos.
        read: function of (photo, class) -> Future of a Content; of the last few the same one again.
    """

    def __init__(self, photos, index=0):
        self.photos, self.chosen, self.position = photos, list(range(len(photos))), index
        self.filter, self.order = "all", ORDERS[0]
        self.annotations = Annotations(photos[0].places.paths)
        self.class_name = None  # that was asked for last
        self.pool = ThreadPoolExecutor(1)
        self.read = functools.lru_cache(PHOTOS_KEPT)(self.begin)

    def __len__(self):
        return len(self.chosen)

    @property
    def saved(self):
        return self.photos[self.chosen[self.position]]

    @property
    def orders(self):
        """Those of ORDERS that the run's numbers allow."""
        confident = (CONFIDENT, DOUBTFUL) if any(photo.probabilities for photo in self.photos) else ()
        return (ORDERS[0], *confident, *([SCORED] if any(photo.logits for photo in self.photos) else []))

    def passing(self, chosen_filter):
        """The photos that pass a filter: list of int."""
        if chosen_filter == "all":
            return list(range(len(self.photos)))
        if chosen_filter == "wrong":
            return [number for number, photo in enumerate(self.photos) if photo.is_right is False]
        return [number for number, photo in enumerate(self.photos) if (photo.predicted,) == chosen_filter]

    def arrange(self, chosen_filter=None, order=None, class_name=None):
        """Filter and order the photos; the one shown stays if it passes. False, and no change, where none would.

        Args:
            chosen_filter, order: as the attributes; None for those there are.
            class_name: str, whose scores order them; None for the class predicted of each photo.
        """
        chosen_filter, order = chosen_filter or self.filter, order or self.order
        shown, chosen = self.chosen[self.position], self.passing(chosen_filter)
        if not chosen:
            return False
        if order != ORDERS[0]:
            chosen.sort(key=lambda number: rank_of(self.photos[number], order, class_name))
        self.filter, self.order, self.chosen = chosen_filter, order, chosen
        self.position = chosen.index(shown) if shown in chosen else 0
        return True

    def content(self, class_name):
        """The Content of the photo shown, with a class that is shown whatever its place."""
        self.class_name = class_name
        return self.read(self.chosen[self.position], class_name).result()

    def read_ahead(self, *_):
        """Begin to read the neighbours of the photo shown; called once that is drawn, so that nobody waits for them."""
        for step in READ_AHEAD:
            if 0 <= self.position + step < len(self.chosen):
                self.read(self.chosen[self.position + step], self.class_name)

    def begin(self, number, class_name):
        """Begin to read a photo, see `read`."""
        return self.pool.submit(read_content, self.photos[number], class_name, self.annotations)


def rank_of(photo, order, class_name=None):
    """What photos are ordered by, the smallest first; see `Album.arrange`."""
    if order == SCORED:
        return -photo.logits.get(class_name or photo.predicted, -np.inf)
    return (-1 if order == CONFIDENT else 1) * max(photo.probabilities.values(), default=0.0)
