"""What the app's page asks for: each method takes and returns the values of Gradio's components."""

from itertools import count
from pathlib import Path

from camlib.attribution import METHODS
from camlib.console import UserError, is_of_user, words_of
from camlib.explore.cards import commands_of, page_of, value_told, write_files
from camlib.explore.live import CAM_METHOD, Side
from camlib.files import file_sha256
from camlib.photos import SHIPPED_PHOTOS, find_photos
from camlib.plots.colours import USUAL
from camlib.preprocessing import parse_size

TOP = 5  # classes that one choice explains
EMPTY = "<p>Drop, paste or take a photo, or choose one of those below it.</p>"


def options_of(preprocess, size, names):
    """The user's facts about a network, texts, as a Side has them."""
    told = {"preprocess": preprocess, "size": size and parse_size(size), "class_names": names and Path(names)}
    return tuple((name, value) for name, value in told.items() if value)


def class_choices(classifiers):
    """(text, value) of each choice of classes: the most probable, and all names that one of the networks knows."""
    top = min([TOP, *(len(one.input_spec.class_names) for one in classifiers)])
    names = dict.fromkeys(name for one in classifiers for name in [*one.groups, *one.input_spec.class_names])
    first = [("the most probable", "predicted"), (f"the {top} most probable", f"top{top}")]
    return first + [(name, name) for name in names]


class View:
    """What a page shows: `photos`, a list of Shown, or of str where there is none; Gradio tells it by its identity."""

    def __init__(self, photos):
        self.photos = photos


class App:
    """Answers the page.

    Args:
        update: function of Gradio's that changes a component: choices, value, maximum.
        explorer: Explorer.
        folder: Path, where files for download go.
        photo: Path of a photo that the user named, or None.
    """

    def __init__(self, update, explorer, folder, photo=None):
        self.update, self.explorer, self.folder, self.numbers = update, explorer, folder, count()
        self.shipped = [one.path for one in find_photos([SHIPPED_PHOTOS])] if SHIPPED_PHOTOS.is_dir() else []
        # the page hands on copies
        self.known = {file_sha256(path): path for path in [*self.shipped, *([photo] if photo else [])]}

    def network(self, source, *told):
        """The LiveNetwork of what stands in a block of the page: source, preprocess, size and file of names."""
        return self.explorer.network(source, options_of(*told))

    def choose(self, number, classes, *told):
        """A network was chosen, or its facts: what the classes, its layers, the slider and its methods offer now.

        Args:
            number: int, 0 or 1, of its block.
            classes: list of str, chosen before.
            told: source, preprocess, size and file of names of one block, and of the other.
        """
        blocks, update = [told[:4], told[4:]], self.update
        try:
            networks = [self.network(*block) if block[0] else None for block in blocks]
        except Exception as error:
            if not is_of_user(error):
                raise
            networks = [None, None]  # `explain` tells why
        if networks[number] is None:
            return update(), update(choices=[], value=[]), update(), update(value=[])
        structure, known = (
            networks[number].classifier.structure,
            class_choices([one.classifier for one in networks if one]),
        )
        own = dict(class_choices([networks[number].classifier])).values()
        kept = [name for name in classes if name in own] or ["predicted"]  # others it would refuse
        layers = [(f"{path}, {h}×{w}, {k:,} features", path) for path, (h, w, k) in structure.sizes.items()]
        chosen = [structure.target] if structure.target else []
        place = 1 + list(structure.sizes).index(structure.target) if chosen else 1
        return (
            update(choices=known, value=kept),
            update(choices=layers, value=chosen),
            update(maximum=max(2, len(layers)), value=place),
            update(value=[networks[number].default_method]),
        )

    def layer_at(self, place, methods, *told):
        """The layer at a place of the slider, from 1, and methods of which one maps it; `told` as for `network`."""
        try:
            layers = list(self.network(*told).classifier.structure.sizes) if told[0] else []
        except UserError:
            layers = []  # `explain` tells why
        maps_it = any(method != CAM_METHOD and METHODS[method].of_layer for method in methods)
        return layers[place - 1 : place], methods if maps_it else ["grad-cam"]

    def explain(self, photo, classes, guided, opacity, threshold, in_colour, *told):
        """What the networks show of a photo: (View, HTML, commands).

        Args:
            photo: str, path of its file, or None.
            classes: list of str.
            guided: bool, guided maps too.
            opacity, threshold, in_colour: as for Style.
            told: source, preprocess, size, file of names, methods and layers of one block, and of the other.
        """
        photos, commands = [], []
        for source, *facts, methods, layers in (told[:6], told[6:]) if photo else ():
            try:
                if source:
                    path = self.known.get(file_sha256(photo), photo)
                    side = Side(source, options_of(*facts), tuple(methods), tuple(layers), guided)
                    photos.append(self.explorer.show(path, side, classes))
                    commands += commands_of(photos[-1], path, classes, in_colour)
            except Exception as error:
                if not is_of_user(error):
                    raise
                photos.append(words_of(error, "the page goes on"))
        view = View(photos)
        return view, self.draw(view, opacity, threshold, in_colour), "\n".join(commands)

    def draw(self, view, opacity, threshold, in_colour):
        """The HTML of what was explained; no network is asked."""
        style = USUAL._replace(opacity=opacity, threshold=threshold, in_colour=in_colour)
        return page_of(view.photos, style) if view and view.photos else EMPTY

    def tell(self, view, click):
        """What a click on a map says; `click` is a dict, see explore.js."""
        shown = view.photos[click["shown"]]
        return value_told(shown, click["layer"], click["kind"], click["name"], click["across"], click["down"])

    def save(self, view, opacity, threshold, in_colour):
        """Write the files of what is shown, and offer them."""
        style = USUAL._replace(opacity=opacity, threshold=threshold, in_colour=in_colour)
        paths = write_files(self.folder / str(next(self.numbers)), view.photos if view else [], style)
        return self.update(value=paths, visible=True)

    def forget(self):
        """Other maps are shown: what a click told, and the files, were of those before."""
        return "", self.update(value=None, visible=False)
