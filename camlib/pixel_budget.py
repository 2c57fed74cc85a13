"""How many pixels may be decoded: of one picture, and of all that are decoded at a time.

A file of a few kilobytes can unpack to gigabytes, in each of the threads that decode. What counts is what a format has
to unpack: of a JPEG that is decoded at a reduced scale, the few pixels of that scale.
"""

import contextlib
import threading

from PIL import Image

from camlib.console import whole_number

MOST_PIXELS = 100_000_000  # about 1.1 GB while an RGB picture of as many is decoded, 2 GB with transparency
WEIGHT_OF_COLOUR, WEIGHT_OF_OTHERS = 1.0, 2.0  # of a pixel, in the memory that one of an RGB picture takes, 11 bytes
WEIGHT_OF_COEFFICIENTS = 0.3  # a progressive JPEG is kept whole, at whatever scale it is decoded
PLAIN_MODES = ("1", "L", "P", "RGB", "CMYK")

Image.MAX_IMAGE_PIXELS = None  # Pillow's own limit knows nothing of reduced scales; every picture is counted here


def need_of(picture):
    """What decoding a picture takes, in pixels of a plain RGB picture.

    Args:
        picture: PIL.Image.Image, opened and, if at all, reduced by its `draft`, but not loaded.
    """
    width, height = picture.size
    plain = picture.mode in PLAIN_MODES and picture.format != "WEBP" and "transparency" not in picture.info
    need = width * height * (WEIGHT_OF_COLOUR if plain else WEIGHT_OF_OTHERS)
    if "progressive" in picture.info:
        whole_width, whole_height = whole_size(picture)
        need += whole_width * whole_height * WEIGHT_OF_COEFFICIENTS
    return round(need)


def whole_size(picture):
    """(width, height) of a picture before it was reduced."""
    scale = picture.decoderconfig[0] if picture.format in ("JPEG", "MPO") and picture.decoderconfig else 1
    return picture.size[0] * scale, picture.size[1] * scale


class PixelBudget:
    """Pixels that may be decoded at a time, shared by all threads.

    Attributes:
        most: int, of one picture; those decoded at a time need no more together, either.
    """

    def __init__(self, most=MOST_PIXELS):
        self.most, self.taken = most, 0
        self.changed = threading.Condition()

    def check(self, picture):
        """Refuse a picture of too many pixels.

        Raises:
            ValueError: it has; the message is the reason.
        """
        width, height = picture.size
        count, need = width * height, need_of(picture)
        if count > self.most or need > WEIGHT_OF_OTHERS * self.most:
            whole_width, whole_height = whole_size(picture)
            asked = max(count, round(need / WEIGHT_OF_OTHERS))
            raise ValueError(
                f"{whole_width:,} x {whole_height:,} pixels, of which {count:,} would be decoded; expected at most "
                f"{self.most:,}: if it is a photo, --most-pixels {asked}"
            )

    @contextlib.contextmanager
    def spent_on(self, picture):
        """Wait until a picture fits beside those that are being decoded; one larger than all waits to be alone."""
        need = need_of(picture)
        with self.changed:
            self.changed.wait_for(lambda: not self.taken or self.taken + need <= self.most)
            self.taken += need
        try:
            yield
        finally:
            with self.changed:
                self.taken -= need
                self.changed.notify_all()


PIXELS = PixelBudget()


def add_pixel_option(group):
    """Add the option that raises the limit; `PIXELS.most` has to take its value."""
    group.add_argument("--most-pixels", type=whole_number(1, 9_999_999_999), default=MOST_PIXELS, metavar="N",
                       help="pixels to decode of one picture; a large JPEG is decoded smaller")  # fmt: skip
