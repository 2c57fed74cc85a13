"""Several runs of the same photos next to one another: networks, methods, layers."""

import dataclasses
import functools
import itertools
from pathlib import Path

from camlib.console import UserError, counted
from camlib.files import RUN_FILE
from camlib.runs.maps import SavedPhoto, all_maps, base_kind, find_saved
from camlib.runs.shards import lists_of


@dataclasses.dataclass(frozen=True)
class ComparedPhoto(SavedPhoto):
    """A photo whose maps are those of several runs; the photo itself and the order of classes are the first run's.

    A kind of map of the second run is called "gradcam@1". Its title, signs, scale and probabilities are its own run's.

    Attributes:
        runs: dict of label -> SavedPhoto, see `labels_of`.
        kinds: list of str, those of SIGNED that are shown; empty for all.
        classes: list of str, those shown; empty for all.
    """

    runs: dict = dataclasses.field(default_factory=dict)
    kinds: list = dataclasses.field(default_factory=list)
    classes: list = dataclasses.field(default_factory=list)

    def read_photo(self):
        return next(iter(self.runs.values())).read_photo()

    @property
    def answers(self):
        """As of one run where all answer alike: a network's maps by several methods, or of several layers."""
        first, *others = self.runs.values()
        return self.runs if any(answer_of_run(run) != answer_of_run(first) for run in others) else {"": first}

    @property
    def is_right(self):
        """Whether all runs that know the photo's class predict it."""
        known = [run.is_right for run in self.runs.values() if run.is_right is not None]
        return all(known) if known else None

    @property
    def is_unsure(self):
        """Whether one of the networks is."""
        return any(run.is_unsure for run in self.runs.values())

    def run_of(self, kind):
        return list(self.runs.values())[int(kind.partition("@")[2] or 0)]

    def is_signed(self, kind):
        return self.run_of(kind).is_signed(base_kind(kind))

    def title_of(self, kind):
        """The kind's title, with the run's label where another run has maps of that title."""
        return self.found[1][kind]

    def map_places(self):
        """As a run's; guided backpropagation, which has no layer and no method, once for each network."""
        return self.found[0]

    @functools.cached_property
    def found(self):
        """(what `map_places` gives, dict of kind -> title)."""
        found, titles, guided = {}, {}, {}
        for number, (label, run) in enumerate(self.runs.items()):
            for kind, places in all_maps(run).items():
                places = {name: place for name, place in places.items() if not self.classes or name in self.classes}
                network = run.settings.get("model_sha256", number), answer_of_run(run)
                known = guided.setdefault(network, set()) if kind == "guided_backprop" else set()
                if (self.kinds and kind not in self.kinds) or places.keys() <= known:
                    continue
                known.update(places)
                kind_here = kind + f"@{number}" * (number > 0)
                found[kind_here], titles[kind_here] = places, (run.title_of(kind), label)
        own = [title for title, _ in titles.values()]
        return found, {kind: title + f", {label}" * (own.count(title) > 1) for kind, (title, label) in titles.items()}


def answer_of_run(run):
    """What a network answers to a photo, in three digits: other batches and layers change the last ones."""
    return run.predicted, tuple(f"{name}{share:.3f}" for name, share in run.probabilities.items())


def network_of(run):
    """The name of the network of a SavedPhoto's run: "cam_4class" of --model models/cam_4class.h5; "" if unknown."""
    return Path(run.settings.get("weights") or run.settings.get("model") or "").stem


def labels_of(runs, places):
    """What tells runs apart, in as few words as do: method, network, layer; else the folders' names, else their paths.

    Args:
        runs: list of SavedPhoto, one of each run.
        places: list of Path, of the runs.

    Returns:
        list of str.
    """
    told = [
        (run.title_of(next(iter(all_maps(run)), "gradcam")), network_of(run), run.settings.get("layer", ""))
        for run in runs
    ]
    few = [parts for count in (1, 2, 3) for parts in itertools.combinations(range(3), count)]
    ways = [[", ".join(filter(None, (one[part] for part in parts))) for one in told] for parts in few]
    ways.append([place.resolve().name for place in places])
    labels = next((way for way in ways if len(set(way)) == len(way) and all(way)), None)
    return labels or [str(place) for place in places]


def runs_in(place):
    """The runs of a folder in which several methods or layers have one each, called METHOD@LAYER; else the place."""
    several = place.is_dir() and not lists_of(place)
    return (several and sorted(file.parent for file in place.glob(f"*@*/{RUN_FILE}"))) or [place]


def find_compared(places, most_pixels, kinds=(), classes=()):
    """List the photos that all of several runs have, in the order of the first.

    Args:
        places: list of Path, see `runs_in` and `camlib.runs.maps.find_saved`.
        most_pixels: int, that may be decoded of a photo.
        kinds, classes: lists of str, of the ComparedPhoto.

    Returns:
        (list of SavedPhoto, list of str: what some runs lack).

    Raises:
        UserError: a place has no maps, is given twice, or there is no photo that all have.
    """
    places = [run for place in places for run in runs_in(place)]
    found = [find_saved(place, most_pixels) for place in places]
    if len(places) == 1 and not kinds and not classes:
        return found[0], []
    if len({place.resolve() for place in places}) < len(places):
        raise UserError(f"found {' '.join(map(str, places))}; expected each folder once")
    by_name = [{photo.name: photo for photo in photos} for photos in found]
    names = [name for name in by_name[0] if all(name in known for known in by_name)]
    if not names:
        raise UserError(
            f"no photo is in all of {', '.join(map(str, places))}; expected runs of the same photos, found "
            f"{' and '.join(next(iter(known)) for known in by_name)}"
        )
    everything = dict.fromkeys(name for known in by_name for name in known)
    lacks = [[name for name in everything if name not in known] for known in by_name]
    lacking = [
        f"{place} has no maps of {counted(len(lacked), 'photo')}, the first {lacked[0]}"
        for place, lacked in zip(places, lacks, strict=True)
        if lacked
    ]
    labels = labels_of([known[names[0]] for known in by_name], places)
    shown = []
    for name in names:
        runs = dict(zip(labels, [known[name] for known in by_name], strict=True))
        of_first = {field.name: getattr(runs[labels[0]], field.name) for field in dataclasses.fields(SavedPhoto)}
        shown.append(ComparedPhoto(**of_first, runs=runs, kinds=kinds, classes=classes))
    return shown, lacking
