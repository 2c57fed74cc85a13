"""Measure how long the viewer's window takes from a key to the next photo on the screen, for each kind of map.

    python benchmarks/next_photo.py outputs/gradcam --size 1050x700       # needs a display; about fifteen seconds

Prints for each kind that is laid over the photo the median and the largest of 15 waits in milliseconds, and the median
of the processor's time, which other programs lengthen less.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import matplotlib
from matplotlib.backend_bases import KeyEvent

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from camlib.runs.maps import find_saved
from camlib.viewer.window import Controls, freed_keys

PHOTOS, PAUSE = 15, 0.3  # steps to the next photo, and seconds between them, as of somebody who looks


def step(figure, key):
    """Press a key and wait until what it changes is drawn: (seconds, seconds of the processor)."""
    began, began_processor = time.perf_counter(), time.process_time()
    figure.canvas.callbacks.process("key_press_event", KeyEvent("key_press_event", figure.canvas, key))
    figure.canvas.flush_events()
    return time.perf_counter() - began, time.process_time() - began_processor


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("place", type=Path, metavar="FOLDER", help="saved maps of 16 photos or more")
    parser.add_argument("--size", default="1050x700", metavar="WxH", help="pixels of the figure")
    settings = parser.parse_args()
    matplotlib.rcParams.update(freed_keys())
    import matplotlib.pyplot as plt  # opens the toolkit, with the keys as they are now

    width, height = map(int, settings.size.split("x"))
    figure = plt.figure(figsize=(width / 100, height / 100))
    controls = Controls(figure, find_saved(settings.place))
    plt.show(block=False)
    plt.pause(1)
    for kind in controls.viewer.content.maps:
        step(figure, "home")
        waits = []
        for _ in range(PHOTOS):
            plt.pause(PAUSE)
            waits.append(step(figure, "right"))
        seconds, processor = zip(*waits, strict=True)
        print(
            f"{matplotlib.get_backend()} {settings.size} {kind}: median {1000 * statistics.median(seconds):.0f} ms, "
            f"largest {1000 * max(seconds):.0f}, processor {1000 * statistics.median(processor):.0f}"
        )
        step(figure, "m")


if __name__ == "__main__":
    main()
