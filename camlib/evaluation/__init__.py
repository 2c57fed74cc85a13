"""How good a map is: annotations, metrics, report. Here stands what does without Keras."""

from dataclasses import dataclass
from pathlib import Path

from camlib.attribution import GUIDED, METHODS, kind_of
from camlib.console import UserError, did_you_mean
from camlib.networks import GAP_NETWORK, VGG_NETWORK
from camlib.photos.resizing import Cover

FILLS = ("blur", "mean")  # what replaces deleted pixels


@dataclass(frozen=True)
class MapKind:
    """A kind of map of a network.

    Attributes:
        name: str, as tables show it.
        method: a key of METHODS, "cam", or one of GUIDED.
        is_signed: bool, it has values below zero.
        network: Path; None of maps that were saved.
        layer: str or None for the network's own target layer.
        cover: Cover of photos by it, once the network is known.
    """

    name: str
    method: str
    is_signed: bool
    network: Path | None = None
    layer: str | None = None
    cover: Cover = Cover()

    @property
    def ends(self):
        """What the ends of its colour bar stand for, see `camlib.plots.page.legend_of`."""
        from camlib.plots.page import EVIDENCE_ENDS  # here, since it draws with Matplotlib

        return ("", "magnitude of the gradient") if self.of_pixels else EVIDENCE_ENDS

    @property
    def of_pixels(self):
        """Whether it has a value for each pixel and colour, of which one number a pixel is scored."""
        return self.method in GUIDED or kind_of(self.method) == self.method

    @property
    def is_slow(self):
        """Whether it runs the network many times."""
        return self.method in METHODS and METHODS[self.method].needs in ("masked scores", "ablated scores", "samples")


def parse_map(text):
    """'FILE:METHOD@LAYER' -> MapKind; without a file it is of a shipped network.

    Raises:
        UserError: the method is unknown.
    """
    file, _, what = text.rpartition(":")
    method, _, layer = what.partition("@")
    known = ("cam", *GUIDED, *METHODS)
    if method not in known:
        raise UserError(
            f"--maps {text}: no method {method!r}{did_you_mean(method, known)} expected [FILE:]METHOD[@LAYER], METHOD "
            f"{', '.join(known)}"
        )
    if layer and (method in ("cam", "guided-backprop") or (method in METHODS and not METHODS[method].of_layer)):
        raise UserError(f"--maps {text}: {method} has no layer to choose")
    network = Path(file) if file else GAP_NETWORK if method == "cam" else VGG_NETWORK
    signed = method == "cam" or (method in METHODS and METHODS[method].signed and kind_of(method) != method)
    return MapKind(f"{network.stem} {what}", method, signed, network, layer or None)


def saved_place(text):
    """The Path of saved maps that the user wrote after --maps; None for a method, or a network's file with one."""
    return Path(text) if text not in ("cam", *GUIDED, *METHODS) and Path(text).is_dir() else None
