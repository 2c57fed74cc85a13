"""Measure how long the viewer's window takes from a key to the next photo on the screen, for each kind of map.

    python benchmarks/next_photo.py outputs/gradcam --size 1050x700       # needs a display; about fifteen seconds

Prints for each kind that is laid over the photo the median and the largest of 15 waits in milliseconds, and the median
of the processor's time, which other programs lengthen less.
"""

import statistics
import sys
from pathlib import Path

import matplotlib
from matplotlib.backend_bases import KeyEvent

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.timing import seconds_of
from camlib.console import ArgumentParser, run_script
from camlib.runs.maps import find_saved
from camlib.viewer.window import Controls, freed_keys

PHOTOS, PAUSE = 15, 0.3  # steps to the next photo, and seconds between them, as of somebody who looks


def parse_arguments(arguments=None):
    parser = ArgumentParser(__doc__)
    parser.add_argument("place", type=Path, metavar="FOLDER", help="saved maps of 16 photos or more")
    parser.add_argument("--size", default="1050x700", metavar="WxH", help="pixels of the figure")
    return parser.parse_args(arguments)


def press(figure, key):
    """Press a key and wait until what it changes is drawn."""
    figure.canvas.callbacks.process("key_press_event", KeyEvent("key_press_event", figure.canvas, key))
    figure.canvas.flush_events()


def main(arguments=None):
    settings = parse_arguments(arguments)
    matplotlib.rcParams.update(freed_keys())
    import matplotlib.pyplot as plt  # opens the toolkit, with the keys as they are now

    figure = plt.figure(figsize=[int(side) / 100 for side in settings.size.split("x")])
    controls = Controls(figure, find_saved(settings.place))
    plt.show(block=False)
    plt.pause(1)
    for kind in controls.viewer.content.maps:
        press(figure, "home")
        waits = []
        for _ in range(PHOTOS):
            plt.pause(PAUSE)
            waits.append(seconds_of(lambda: press(figure, "right")))
        seconds, busy, _ = ([1000 * one for one in column if one is not None] for column in zip(*waits, strict=True))
        told = f"median {statistics.median(seconds):.0f} ms, largest {max(seconds):.0f}"
        toolkit = matplotlib.get_backend()
        print(f"{toolkit} {settings.size} {kind}: {told}, processor {statistics.median(busy):.0f}")
        press(figure, "m")


if __name__ == "__main__":
    run_script(main)
