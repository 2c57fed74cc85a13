"""Matplotlib artists for a window that has to follow a key that is held down: pictures and texts, drawn at once.

Matplotlib resamples every image and renders every letter anew in each frame; of a figure of fifteen maps that takes a
third of a second.
"""

import functools

import numpy as np
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.colors import to_rgb
from matplotlib.image import AxesImage
from matplotlib.text import Text
from PIL import ImageFont

from camlib.plots.text import FONT, LINE_SPACING, displayable


class Picture(AxesImage):
    """An image that is drawn dot for dot where it has the size of its axes, and else as any."""

    def draw(self, renderer):
        if not self.get_visible():  # it may never have had a picture: what it shows is the reason why there is none
            self.stale = False
            return
        box, (left, right), (bottom, top) = self.axes.bbox, self.axes.get_xlim(), self.axes.get_ylim()
        picture, whole = self.get_array(), (left, right, bottom, top) == tuple(self.get_extent())
        if not whole or picture.shape[:2] != (round(box.height), round(box.width)):
            super().draw(renderer)
            return
        opaque = np.dstack((np.asarray(picture), np.full(picture.shape[:2], 255, np.uint8)))
        stamp(renderer, opaque, box.x0, box.y0)
        self.stale = False


class Label(Text):
    """Lines of text in the figures' font, drawn by Pillow; in vector files they are Matplotlib's."""

    def __init__(self, **settings):
        # not clipped to its axes, beside which it stands: nothing of it would be left in vector files
        super().__init__(**({"text": "", "clip_on": False} | settings), parse_math=False, linespacing=LINE_SPACING)

    def draw(self, renderer):
        if not isinstance(renderer, RendererAgg):
            super().draw(renderer)
            return
        if self.get_visible() and self.get_text():
            x, y = self.get_transform().transform(self.get_position())
            size = renderer.points_to_pixels(self.get_fontsize())
            lines, line = self.get_text().split("\n"), size * LINE_SPACING
            shares = {"bottom": 1.0, "center": 0.5, "top": 0.0}
            top = y + shares[self.get_va()] * len(lines) * line
            for number, text in enumerate(lines):
                letters, below = rendered(text, size, self.get_color())
                left = x - {"left": 0.0, "center": 0.5, "right": 1.0}[self.get_ha()] * letters.shape[1]
                stamp(renderer, letters, left, top - number * line - below - letters.shape[0])
        self.stale = False


def stamp(renderer, picture, left, bottom):
    """Put RGBA uint8 (h, w, 4) into a figure."""
    context = renderer.new_gc()
    renderer.draw_image(context, round(left), round(bottom), picture[::-1])
    context.restore()


@functools.lru_cache(maxsize=4096)
def rendered(text, size, colour="black"):
    """A line of letters: (RGBA uint8 (h, w, 4), how far below the line's top it begins)."""
    font = ImageFont.truetype(FONT, size)
    mask, (_, below) = font.getmask2(displayable(text) or " ", "L")
    letters = np.zeros((max(mask.size[1], 1), max(mask.size[0], 1), 4), np.uint8)
    letters[..., :3] = np.rint(255 * np.array(to_rgb(colour)))
    letters[: mask.size[1], : mask.size[0], 3] = np.asarray(mask, np.uint8).reshape(mask.size[::-1])
    return letters, below
