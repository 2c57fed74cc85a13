"""Measure how long the app takes from a new photo to its maps in the page, and from a knob to other pictures of them.

    python benchmarks/explore.py                  # the photos of data/photos; a minute

Calls what explore_maps.py calls, without the browser, on one photo after the other, the first of which (loading and
compiling) is left out. Prints for each network median and largest wait in milliseconds, and the median of the
processor's time, which other programs lengthen less: for a new photo, for another opacity, for another class of those
that were computed.
"""

import statistics
import sys
import tempfile
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.timing import machine, seconds_of
from camlib.console import ArgumentParser, run_script
from camlib.networks import GAP_NETWORK, VGG_NETWORK
from camlib.photos import SHIPPED_PHOTOS, find_photos

PHOTOS = 16
ASKED = {"CAM": (GAP_NETWORK, "cam", False), "Grad-CAM and guided maps": (VGG_NETWORK, "grad-cam", True)}
LOOKS = (0.9, 0, False), (0.5, 0.2, True)  # opacity, threshold, photo in colour


def parse_arguments(arguments=None):
    parser = ArgumentParser(__doc__)
    parser.add_argument("place", type=Path, nargs="?", default=SHIPPED_PHOTOS, metavar="FOLDER", help="photos")
    return parser.parse_args(arguments)


def waits_of(app, photos, network, method, guided):
    """What `seconds_of` says of each photo: dict of what was asked -> list."""
    of_network, of_none = (str(network), "", "", None, [method], []), (None, "", "", None, [], [])

    def explain(photo, *classes):
        return app.explain(photo, classes, guided, *LOOKS[0], *of_network, *of_none)

    waits = {"new photo": [], "other opacity": [], "class computed before": []}
    for photo in photos:
        waits["new photo"].append(seconds_of(partial(explain, photo, "predicted")))
        view, *_ = explain(photo, "top2")
        waits["other opacity"].append(seconds_of(partial(app.draw, view, *LOOKS[1])))
        waits["class computed before"].append(seconds_of(partial(explain, photo, "top2")))
    return waits


def main(arguments=None):
    photos = [str(photo.path) for photo in find_photos([parse_arguments(arguments).place])[:PHOTOS]]
    import camlib.backend  # noqa: F401, I001 - first of all: it starts Keras without its start-up lines
    from camlib.explore.app import App
    from camlib.explore.live import Explorer

    print(machine())
    app = App(dict, Explorer(), Path(tempfile.gettempdir()))
    for title, asked in ASKED.items():
        for what, found in waits_of(app, photos, *asked).items():
            seconds, busy = ([1000 * one[place] for one in found[1:]] for place in (0, 1))
            told = f"median {statistics.median(seconds):.0f} ms, largest {max(seconds):.0f}"
            print(f"{title}, {what}: {told}, processor {statistics.median(busy):.0f}")


if __name__ == "__main__":
    run_script(main)
