"""Maps that were saved, in files or a store, scored without their network: where they lie, and its answers."""

import hashlib
import json
import os
from functools import partial
from types import SimpleNamespace

import numpy as np

from camlib.attribution.methods import targets_of
from camlib.console import Progress, UserError, counted
from camlib.evaluation import MapKind
from camlib.evaluation.scoring import add_scores, listed_if_unreadable
from camlib.photos import PhotoError, display_size, in_parallel, read_photo, resize_photo
from camlib.plots import is_gradient
from camlib.preprocessing import IMAGENET_GROUPS, imagenet_names
from camlib.runs.maps import MapError, all_maps, find_saved

# of kinds of map as files are called, as of --maps
METHOD_NAMES = {"heatmap": "cam", "guided_backprop": "guided-backprop", "guided_gradcam": "guided-grad-cam"}


class SavedMaps:
    """A folder of maps, or a store, as what is scored.

    Args:
        place: Path.

    Attributes:
        name: str, as tables show it.
        kinds: dict of name -> MapKind.
        files: dict of name -> its kind of map as files are called.
        class_names: list of str, classes and groups of classes.
        identity: str, of the run that made them.

    Raises:
        UserError: there are none, or nobody says what the network's answers were.
    """

    explain_slow = {}  # nothing of it runs

    def __init__(self, place):
        self.path, self.name = place, place.resolve().name
        photos = find_saved(place)
        settings, names = photos[0].settings, list(photos[0].settings.get("class_names") or ())
        if not names or not photos[0].probabilities:
            raise UserError(
                f"{place} says nothing of its network's probabilities, which an evaluation needs; expected a whole run "
                "of a classifier"
            )
        self.input_spec, self.dtype = SimpleNamespace(class_names=names), str(settings.get("store_dtype") or "float32")
        groups = IMAGENET_GROUPS if names == imagenet_names() else {}
        self.class_names = [*names, *groups]
        self.targets_of = partial(targets_of, class_count=len(names), groups=list(groups.values()))
        self.kinds, self.files = {}, {}
        for kind in all_maps(photos[0]):
            method = METHOD_NAMES.get(kind) or settings.get("method") or "grad-cam"
            name, signed = f"{self.name} {method}", photos[0].is_signed(kind) and not is_gradient(kind)
            self.kinds[name], self.files[name] = MapKind(name, method, signed, cover=photos[0].cover_of(kind)), kind
        text = json.dumps([photo.settings for photo in (photos[0], photos[-1])], sort_keys=True, default=str)
        self.identity = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
        self.by_path = {source.resolve(): photo for photo in photos for source in photo.sources}
        # of photos that are no longer where they were, since another set may have photos of the same names
        self.by_name = {photo.name: photo for photo in photos if not any(map(os.path.isfile, photo.sources))}

    def maps_of(self, item):
        """The maps of an item's class, and of the next one, None where there is none: dict of name -> (float, float).

        Raises:
            MapError: one is damaged.
        """
        photo = self.photo_of(item)
        found = all_maps(photo)
        names, own = self.input_spec.class_names, item.class_name
        both = own, names[(self.class_names.index(own) + 1) % len(names)]
        return {
            name: tuple(one_value_a_pixel(photo.read_map(kind, places[one])) if one in places else None for one in both)
            for name, kind in self.files.items()
            if own in (places := found.get(kind, {}))
        }

    def photo_of(self, item):
        """The SavedPhoto of an item; None where its maps were not saved."""
        return self.by_path.get(item.path.resolve()) or self.by_name.get(item.name)


def one_value_a_pixel(values):
    """A map (h, w); of guided gradients of RGB their largest magnitude, see `of_gradients`."""
    return np.abs(values).max(axis=-1) if values.ndim == 3 else values


def evaluate_saved(scored, items, results, failed, with_baselines):
    """Localisation of all saved maps, and the answers of the network that made them.

    Args:
        scored: SavedMaps.
        items: list of Item.
        results: Results.
        failed: dict of path -> reason, to which those that cannot be read are added.
        with_baselines: bool, score maps that know no network, too.
    """
    known = [item for item in results.left(scored.name, "maps", items) if scored.photo_of(item)]

    def read(item):
        photo = read_photo(item.path, most_pixels=item.most_pixels)
        return resize_photo(photo, *display_size(*photo.shape[:2], 0))

    without = 0
    with Progress(f"{scored.name}: saved maps", len(known)) as progress:
        for item, picture in in_parallel(read, known):
            with listed_if_unreadable(item, failed):
                if isinstance(picture, PhotoError):
                    raise picture
                try:
                    maps = scored.maps_of(item)
                except MapError as error:
                    raise PhotoError(f"its map {error}") from error
                without += not maps
                if maps:
                    shares = scored.photo_of(item).probabilities
                    outputs = np.array([shares.get(name, np.nan) for name in scored.input_spec.class_names])
                    add_scores(results, scored, item, picture, outputs, maps, with_baselines)
            progress.advance()
    left_out = without + len(items) - sum(scored.photo_of(item) is not None for item in items)
    if left_out:
        print(f"{scored.name}: {counted(left_out, 'object')} without a saved map of its class left out")
