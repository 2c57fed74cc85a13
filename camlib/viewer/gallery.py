"""What the HTML page of a run shows of each photo."""

from camlib.console import Progress
from camlib.photos import PhotoError
from camlib.plots import PIXEL_KINDS, is_gradient
from camlib.plots.colours import USUAL, scale_of, superposition_scale_of
from camlib.plots.page import EVIDENCE_ENDS, encode_photo, likely, map_for_page
from camlib.runs.maps import MapError, base_kind, class_names_in, find_maps

FEW_CLASSES = 10  # as many are named in a line


def entries_of_run(photos, style):
    """What the page shows of all photos, and why some are left out.

    Args:
        photos: list of SavedPhoto.
        style: Style.

    Returns:
        (entries, damaged): list of dicts, see `camlib.plots.page.write_page`, and list of str.
    """
    entries, damaged = [], []
    with Progress("photos", len(photos)) as progress:
        for saved in photos:
            try:
                entries.append(entry_of(saved, style._replace(opacity=1.0)))  # the page has a slider for it
            except (MapError, PhotoError) as error:
                damaged.append(f"{saved.name}: {error}")
            progress.advance()
    return entries, damaged


def what_is_known(saved):
    """That a network of few classes calls everything one of them: list of str, empty of many or several networks."""
    names = saved.settings.get("class_names") or []
    if len(saved.answers) > 1 or not 1 < len(names) <= FEW_CLASSES:
        return []
    return [f"The network knows {', '.join(names)} only: whatever a photo shows, it calls it one of them."]


def entry_of(saved, style=USUAL):
    """What the page shows of a photo, see `camlib.plots.page.write_page`.

    Raises:
        MapError, PhotoError: the photo or a map cannot be read.
    """
    photo, kinds, answers = saved.read_photo(), {}, {}
    shape = photo.shape[:2]
    for kind, paths in find_maps(saved).items():
        maps = {name: saved.read_map(kind, path) for name, path in paths.items()}
        scale = scale_on_page(saved, kind, maps.values())
        kinds[saved.title_of(kind)] = {
            name: map_for_page(values, scale, shape, scale_ends(saved, kind), style, saved.extent_of(kind, shape))
            | {"scores": {}}
            for name, values in maps.items()
        }
        if len(saved.answers) > 1:
            answers[saved.title_of(kind)] = answer_on_page(saved.run_of(kind), list(maps))
    return {
        "name": saved.name,
        "picture": encode_photo(photo),
        "maps": kinds,
        "truth": saved.truth,
        "answers": answers,
        **answer_on_page(saved, class_names_in(kinds)),
    }


def answer_on_page(saved, names):
    """What a network answers to a photo: dict, see `camlib.plots.page.write_page`.

    Args:
        saved: SavedPhoto.
        names: list of str, the classes that have maps.
    """
    return {
        "class": saved.predicted if saved.predicted in names else (names or [""])[0],
        "predicted": saved.predicted,
        "right": saved.is_right,
        "unsure": saved.is_unsure,
        "probabilities": likely(saved.probabilities, names),
    }


def scale_on_page(saved, kind, maps):
    """The Scale of a kind's maps of all classes: over the photo, or alone for gradients of RGB, which hide it."""
    maps = list(maps)
    if any(values.ndim == 3 for values in maps):
        return scale_of(saved.is_signed(kind), maps, gradients=True)
    return superposition_scale_of(saved.is_signed(kind), maps, capped=is_gradient(kind))


def scale_ends(saved, kind):
    """What the ends of the colour bar of a kind of map stand for, see `camlib.plots.page.legend_of`."""
    if base_kind(kind) in PIXEL_KINDS and not saved.is_signed(kind):
        return "", "large, whatever its sign"
    if is_gradient(kind) and base_kind(kind) not in PIXEL_KINDS:
        return "darker raises the score of {class}", "brighter raises it"
    if base_kind(kind) == "heatmap":
        return EVIDENCE_ENDS[0], EVIDENCE_ENDS[1] + ", logit units"
    return EVIDENCE_ENDS[::-1] if saved.run_of(kind).settings.get("counterfactual") else EVIDENCE_ENDS
