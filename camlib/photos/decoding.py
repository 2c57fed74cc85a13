"""Pictures of 10 to 16 bits, of floats and DICOM, as a person would see them; and what files are that are no pictures.

Everything else is Pillow's.
"""

import contextlib
import importlib.util
import io
import re
import warnings

import cv2
import numpy as np
from PIL import Image

from camlib.console import OneLineError, first_line
from camlib.files import is_stored
from camlib.preprocessing import eight_bits, unit_of

EXIF_ORIENTATION = 0x0112
MOST_READS = 1_000_000  # of a file: some seconds; a large photo takes thousands
OTHER_KINDS = (  # how a file begins, a regular expression, and what it is
    (rb"GIF8", "a GIF picture"),
    (rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", "a JPEG 2000 picture"),
    (rb"....ftyp(hei|hev|mif|msf)", "a HEIC picture"),
    (rb"....ftypavi", "an AVIF picture"),
    (rb"\xff\x0a|\0\0\0\x0cJXL ", "a JPEG XL picture"),
    (rb"P[1-7]\s", "a PPM picture"),
)


class PhotoError(OneLineError):
    """A photo that cannot be used; the message is the reason."""


class FewReads(io.BufferedReader):
    """A file that is read in MOST_READS pieces at most: Pillow looks at each part of a file in Python, or each byte."""

    reads = 0

    def read(self, size=-1):
        self.reads += 1
        if self.reads > MOST_READS:
            raise PhotoError(f"damaged: it is in more than {MOST_READS:,} pieces")
        return super().read(size)


@contextlib.contextmanager
def opened_picture(source, formats):
    """A picture of Pillow's from a Path or BytesIO, opened and not loaded."""
    raw = io.BytesIO(source.getvalue()) if isinstance(source, io.BytesIO) else io.FileIO(source)
    with FewReads(raw) as file, Image.open(file, formats=formats) as picture:
        yield picture


def beginning(path, count):
    """The first bytes of a file."""
    with path.open("rb") if is_stored(path) else open(path, "rb") as file:
        return file.read(count)


def is_dicom(head):
    """Whether a file of these first bytes is DICOM."""
    return head[128:132] == b"DICM"


def unreadable_kind(path):
    """What a file is that is no picture, as a reason."""
    head = beginning(path, 132)
    if head.startswith(b"\x93NUMPY"):
        return "a NumPy array; expected a picture: save its photo as PNG or TIFF, 8 bits, grey or RGB"
    if head.startswith((b"II*\0", b"MM\0*")):
        return "a TIFF of bands, bits or layout that cannot be read; expected grey or RGB, 8 or 16 bits"
    if is_dicom(head):
        return "a DICOM picture; expected what pip install pydicom installs, or the picture saved as PNG"
    kind = next((kind for start, kind in OTHER_KINDS if re.match(start, head, re.DOTALL)), None)
    return f"{kind}, not a JPEG, PNG, BMP, WebP or TIFF one; expected it saved as PNG" if kind else NO_PICTURE


NO_PICTURE = "not a JPEG, PNG, BMP, WebP or TIFF picture"


# ---------------------------------------------------------------- more than 8 bits


def has_deep_colours(picture):
    """Whether a picture, opened and not loaded, has colours of 16 bits, of which Pillow keeps the upper 8."""
    return not picture.mode.startswith("I") and picture.format in ("PNG", "TIFF") and ";16" in str(picture.tile)


def deep_colours(source, picture):
    """A picture of 16-bit colours, in 8 bits, as a Pillow picture that is turned as its file says.

    Args:
        source: Path, or a BytesIO, that OpenCV decodes.
        picture: PIL.Image.Image of it.

    Raises:
        PhotoError: OpenCV cannot read it.
    """
    content = source.getvalue() if isinstance(source, io.BytesIO) else open(source, "rb").read()  # noqa: SIM115
    values = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.ndim != 3 or values.dtype != np.uint16 or values.shape[2] not in (3, 4):
        raise PhotoError("colours of 16 bits in a layout that cannot be read; expected RGB of 8 bits")
    found = in_eight_bits(values[..., 2::-1])
    if values.shape[2] == 4:
        found = np.dstack((found, eight_bits(values[..., 3])[0]))
    upright = Image.fromarray(found)
    upright.getexif()[EXIF_ORIENTATION] = picture.getexif().get(EXIF_ORIENTATION, 1)
    return upright


def in_eight_bits(values):
    """`eight_bits`, which says once if fewer bits than 16 are used: the largest of these numbers is taken for white."""
    found, bits = eight_bits(values)
    if bits < 16:
        warnings.warn(
            f"pictures of 16 bits with no number above {2**bits - 1:,} are read as {bits} bits: their white is "
            f"{2**bits - 1:,}",
            stacklevel=2,
        )
    return found


def grey_in_eight_bits(values):
    """Grey values of any kind as uint8.

    Args:
        values: int, or float of 0..1 or of 0..255; (H, W).

    Raises:
        PhotoError: they are others.
    """
    if values.dtype.kind != "f":
        if values.min() < 0 or values.max() > 65535:
            raise PhotoError("32-bit grey values; convert it to 8 or 16 bits")
        return in_eight_bits(values)
    try:
        unit = unit_of([values])
    except ValueError as error:
        raise PhotoError(f"floating-point grey values: {error}") from error
    return np.clip(np.rint(values * np.float64(unit)), 0, 255).astype(np.uint8)


# ---------------------------------------------------------------- more than three bands


def read_bands(source, count, most_pixels):
    """A TIFF picture of more than three bands, in the numbers of its file, as tifffile reads it.

    Args:
        source: Path, or BytesIO.
        count: int, of bands.
        most_pixels: int, that may be decoded, of three bands each.

    Returns:
        float32 (H, W, count).

    Raises:
        PhotoError: it is none, of another number of bands, too large, or damaged; or tifffile is not installed.
    """
    if importlib.util.find_spec("tifffile") is None:
        raise PhotoError(f"the network takes {count} bands; expected what pip install tifffile installs")
    import tifffile

    try:
        with tifffile.TiffFile(source) as file:
            (page,) = file.pages
            found, pixels = page.samplesperpixel, page.imagelength * page.imagewidth
            if found == count and pixels * count <= 3 * most_pixels:
                values = page.asarray()
    except Exception as error:  # whatever damaged bytes raise
        raise PhotoError(f"no TIFF picture of one page that can be read ({first_line(error)})") from error
    if found != count:
        raise PhotoError(f"{found} bands; expected a TIFF of the network's {count}")
    if pixels * count > 3 * most_pixels:
        raise PhotoError(f"{pixels:,} pixels of {count} bands; expected --most-pixels {-(-pixels * count // 3)}")
    values = np.moveaxis(values, 0, -1) if values.shape[-1] != count else values
    values = values.astype(np.float32)
    if values.ndim != 3 or not np.isfinite(values).all():
        raise PhotoError(f"numbers of shape {values.shape}, or some that are not finite; expected (H, W, {count})")
    return values


def shown_bands(values, bands):
    """Three bands of float (H, W, K), counted from 1, as uint8 (H, W, 3): each from its 2nd to its 98th percentile."""
    chosen = values[..., np.array(bands) - 1]
    low, high = np.percentile(chosen, (2, 98), axis=(0, 1))
    return np.rint(255 * np.clip((chosen - low) / np.maximum(high - low, 1e-30), 0, 1)).astype(np.uint8)


# ---------------------------------------------------------------- DICOM


def has_dicom_reader():
    return importlib.util.find_spec("pydicom") is not None


def read_dicom(source, most_pixels):
    """A DICOM picture through its window (PS3.3 C.11.2.1.2), or without one from its smallest to its largest value.

    Args:
        source: Path, or BytesIO.
        most_pixels: int, that may be decoded.

    Returns:
        uint8 (H, W, 3).

    Raises:
        PhotoError: it has several frames, a window of another kind, or too many pixels.
    """
    from pydicom import dcmread
    from pydicom.pixels import apply_modality_lut, convert_color_space

    data = dcmread(source)
    count = int(data.Rows) * int(data.Columns)
    if count > most_pixels:
        raise PhotoError(f"{count:,} pixels; expected at most {most_pixels:,}: --most-pixels {count}")
    if int(data.get("NumberOfFrames") or 1) > 1:
        raise PhotoError(f"a DICOM file of {data.NumberOfFrames} frames; expected one picture a file")
    values, kind = data.pixel_array, str(data.PhotometricInterpretation)
    if values.ndim == 3 and values.dtype == np.uint8:
        return convert_color_space(values, kind, "RGB") if kind.startswith("YBR") else values
    if not kind.startswith("MONOCHROME") or values.ndim != 2:
        raise PhotoError(f"a DICOM picture of {kind}; expected grey, RGB or YBR")
    values = np.asarray(apply_modality_lut(values, data), np.float64)
    shares = through_window(values, data)
    shares = 1 - shares if kind == "MONOCHROME1" else shares
    return np.repeat(np.rint(shares * 255).astype(np.uint8)[..., None], 3, axis=2)


def through_window(values, data):
    """Values (H, W) as 0..1 by the first window of a DICOM file."""
    centre, width = (np.atleast_1d(data.get(name, np.nan)).astype(float)[0] for name in ("WindowCenter", "WindowWidth"))
    function = str(data.get("VOILUTFunction") or "LINEAR")
    if function != "LINEAR" or (data.get("VOILUTSequence") and np.isnan(centre)):
        raise PhotoError(f"a DICOM window of the kind {function}, or a table; expected a linear one")
    if np.isnan(centre) or np.isnan(width) or width <= 1:
        spread = values.max() - values.min()
        return (values - values.min()) / spread if spread else np.zeros_like(values)
    return np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)
