"""Lines of text that fit into the room they have: measured, shortened, wrapped. Does without Keras.

Lengths are in pixels of a figure of 100 dots per inch, whatever its own; points of letters are Matplotlib's.
"""

import functools
from bisect import bisect
from pathlib import Path

import matplotlib
from PIL import ImageFont

PER_INCH = 100
LINE_SPACING = 1.3  # of a letter's size
# Matplotlib's own font has the letters of more scripts than Pillow's
FONT = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")


@functools.lru_cache(maxsize=64)
def font_of(points):
    return ImageFont.truetype(FONT, points * PER_INCH / 72)


@functools.lru_cache(maxsize=20000)
def length(text, points):
    """Width of a line of text."""
    return font_of(points).getlength(displayable(text)) * 1.02 + 1  # Matplotlib places letters at whole pixels


def line_height(points):
    return points * PER_INCH / 72 * LINE_SPACING


def shortened(text, points, room, ending=""):
    """A line of text that fits: where it does not, its middle is left out; `ending` is kept."""

    def with_letters(kept):
        return f"{text[: -(-kept // 2)]}…{text[len(text) - kept // 2 :]}{ending}"

    if len(text) < 2 or length(text + ending, points) <= room:
        return text + ending
    counts = range(2, len(text))
    return with_letters(1 + bisect(counts, room, key=lambda kept: length(with_letters(kept), points)))


def wrapped(words, points, room, between=" "):
    """Words in lines that fit, each word shortened where it is too long alone: list of str."""
    lines = []
    for word in words:
        if lines and length(lines[-1] + between + word, points) <= room:
            lines[-1] += between + word
        else:
            lines.append(shortened(word, points, room))
    return lines


def displayable(name):
    """A file's name with those of its bytes that are not UTF-8 written out."""
    return name.encode("utf-8", "backslashreplace").decode()
