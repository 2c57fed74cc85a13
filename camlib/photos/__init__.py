"""Photos: finding them, decoding them, and bringing them to a network's input in batches.

Every image here is RGB (or one grey channel), uint8, height x width x channels, upright.
"""

import io
import itertools
import math
import os
import warnings
from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps, ImageSequence

from camlib.console import CLONE, UserError, first_line
from camlib.files import MOST_PIXELS, RUN_FILE, is_stored, parse_place
from camlib.photos.decoding import (
    PhotoError,
    beginning,
    deep_colours,
    grey_in_eight_bits,
    has_deep_colours,
    has_dicom_reader,
    is_dicom,
    opened_picture,
    read_bands,
    read_dicom,
    shown_bands,
    unreadable_kind,
)
from camlib.photos.resizing import fitted, resize_photo
from camlib.preprocessing import bands_of_array, fit_share, pixels_of_array, unit_of

warnings.filterwarnings("ignore", module=r"PIL\.")  # what Pillow makes of damaged tags is nothing to be done about
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF")  # JPEG includes MPO, two pictures in a file, as phones write
# A file with one of these suffixes is meant as a photo: what cannot be read is reported, not passed over.
PHOTO_SUFFIXES = set(
    ".jpg .jpeg .jpe .jfif .png .bmp .webp .tif .tiff .gif .heic .heif .hif .avif .jp2 .j2k .jpf .jpx .jxl .ppm .pgm "
    ".pbm .pnm .dcm .dicom .psd .tga .exr .cr2 .cr3 .nef .arw .dng .raf .orf .rw2".split()
)
DISPLAY_SIDE = 512  # pixels of the longer side of saved pictures; more only makes the files larger
SAMPLES_PER_PIXEL, NEW_SUBFILE_TYPE = 277, 254  # tags of TIFF 6.0
RUN_SUFFIXES = (".jpg", ".npy", ".csv", ".json")  # of the files that runs write beside photos' folders, and in them
SHIPPED_PHOTOS = CLONE / "data" / "photos"  # 66, with boxes; what scripts take where nothing else is named
MOST_PAGES = 1000  # of a TIFF, that are looked at
SCAN = b"\xff\xda"
MOST_SCANNED = 20_000_000_000  # pixels times scans of a progressive JPEG: some seconds for scans that change nothing
WEIGHT_OF_COEFFICIENTS = 0.3  # of a pixel of a progressive JPEG, which is kept whole at whatever scale it is decoded
Image.MAX_IMAGE_PIXELS = None  # Pillow's own limit knows nothing of reduced scales; `check_pixels` counts every picture


@dataclass(frozen=True)
class Photo:
    """One photo file.

    Attributes:
        path: Path, or a UPath of fsspec, where to read it.
        name: str, its path below the folder it was found in, with '/' on every system.
        folder: str, where its maps go: `name` without suffix, or with it where two photos would share a folder.
        modified: float, when the file was changed last, in seconds since 1970, before it was read; None until then.
        most_pixels: int, that may be decoded of it.
    """

    path: Path
    name: str
    folder: str
    modified: float | None = None
    most_pixels: int = MOST_PIXELS


# ---------------------------------------------------------------- handed over in Python


def as_photos(given, channels=3, as_they_are=False):
    """Photos that are handed over in Python, as RGB.

    Args:
        given: list of photos of any sizes, or an array (N, H, W, channels). A photo is an array (H, W, 3) or (3, H, W),
            for a network of grey photos also (H, W) or with 1 channel; uint8, other whole numbers, or floats of 0..255
            or of 0..1; or a picture of Pillow; or the path of a file.
        channels: int, that the network takes. Of more than three, bands, a photo is an array (H, W, channels) of any
            numbers, or the path of a TIFF file.
        as_they_are: bool, it takes numbers as they are, so that floats of 0..1 may be meant to stay so.

    Returns:
        list of uint8 (H, W, 3), or of float32 (H, W, channels) of bands.

    Raises:
        UserError: they are no photos; the message says what was found.
    """
    single = isinstance(given, (str, bytes, os.PathLike, Image.Image)) or not hasattr(given, "__len__")
    shape = tuple(getattr(given, "shape", (0,) * 4))
    if single or isinstance(given, dict) or len(shape) != 4:
        found = f"an array of shape {shape}" if len(shape) != 4 else f"one {type(given).__name__}"
        raise UserError(f"photos are {found}; expected a list, [photo], or an array (N, H, W, {channels})")
    if not len(given):
        raise UserError("photos is empty; expected one photo or more")
    found = []
    for number, one in enumerate(given):
        try:
            found.append(pixels_of(one, channels))
        except (PhotoError, ValueError) as error:
            raise UserError(f"photos[{number}]: {error}") from error
    if channels > 3:
        return found
    floats = [values for values in found if values.dtype.kind == "f"]
    try:
        unit = unit_of(floats)
    except ValueError as error:
        raise UserError(f"photos hold {error}") from error
    if as_they_are and floats and unit == 255:
        raise UserError(
            "photos hold numbers of 0..1, and nothing becomes of a pixel; expected preprocess='0.00392157,0' if the "
            "network was trained on 0..1, or photos of 0..255 if on those"
        )
    return [
        np.clip(np.rint(values * np.float64(unit)), 0, 255).astype(np.uint8) if values.dtype.kind == "f" else values
        for values in found
    ]


def pixels_of(one, channels):
    """A photo that is handed over, see `as_photos`: uint8 (H, W, 3), or floats whose range is not yet known.

    Raises:
        PhotoError, ValueError: it is no photo; the message says why.
    """
    if isinstance(one, str) or hasattr(one, "read_bytes"):
        path = parse_place(one) if isinstance(one, str) else one
        try:
            return read_bands(path, channels, MOST_PIXELS) if channels > 3 else read_photo(path)
        except PhotoError as error:
            raise PhotoError(f"{one}: {error}") from error
    if channels > 3:
        return bands_of_array(one, channels)
    if isinstance(one, Image.Image):
        return np.asarray(to_rgb(ImageOps.exif_transpose(one)))
    return pixels_of_array(one, channels)


# ---------------------------------------------------------------- finding


def is_photo(path):
    """Tell by its first bytes whether a file is a JPEG, PNG, BMP, WebP, TIFF or DICOM picture; no, if none is read."""
    try:
        head = beginning(path, 132)
    except OSError:
        return False
    return (
        is_dicom(head)
        or head.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"II*\0", b"MM\0*"))
        or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")
        or (head[:2] == b"BM" and head[6:10] == b"\0\0\0\0")
    )


def walk_stored(folder):
    """As `walk_photos`, of a UPath: what is named like a photo; to look into each file would take long."""
    for parent, folders, files in folder.walk():
        folders[:] = [] if RUN_FILE in files else sorted(name for name in folders if not name.startswith("."))
        for name in [] if RUN_FILE in files else sorted(files):
            if not name.startswith(".") and Path(name).suffix.lower() in PHOTO_SUFFIXES:
                yield parent / name


def walk_photos(folder):
    """Yield what is below `folder` and is a photo, or is named like one, in sorted order.

    Links to folders are followed, each real folder once, so that a loop ends. Hidden files, pipes and folders that a
    script wrote its maps to are left out. Links that lead nowhere and folders without permission are yielded, so that
    reading them reports them.

    Raises:
        UserError: `folder` itself cannot be read.
    """
    seen, closed = set(), []
    for parent, folders, files in os.walk(
        folder, followlinks=True, onerror=lambda error: closed.append(error.filename)
    ):
        status = os.stat(parent)
        if (status.st_dev, status.st_ino) in seen or RUN_FILE in files:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = Path(parent, name)
            named = path.suffix.lower() in PHOTO_SUFFIXES
            if not name.startswith(".") and (
                path.is_file() and (named or is_photo(path)) or named and not path.exists()
            ):
                yield path
    if str(folder) in closed:
        raise UserError(f"{folder} may not be read; expected a folder with permission to read")
    yield from map(Path, closed)


def find_photos(places, most_pixels=MOST_PIXELS):
    """List the photos in files and folders given by the user.

    Args:
        places: list of Path or UPath; a folder is searched with all its subfolders.
        most_pixels: int, that may be decoded of each.

    Returns:
        list of Photo in the given order, each file once. With several folders each name begins with its folder's.

    Raises:
        UserError: a place does not exist, two folders would write to the same place, or there is no photo at all.
    """
    folders = [place for place in places if place.is_dir()]
    found = {}
    for place in places:
        if not place.is_file() and not place.is_dir():
            raise UserError(f"{place} does not exist; expected a photo or a folder of photos")
        walk = walk_stored if is_stored(place) else walk_photos
        for path in walk(place) if place.is_dir() else [place]:
            root = place if place.is_dir() else place.parent
            name = path.relative_to(root).as_posix()
            if len(folders) > 1 and place.is_dir():
                name = f"{place.resolve().name}/{name}"
            if found.setdefault(name, path) != path:
                raise UserError(f"{found[name]} and {path} would share a name; give the folder that holds both")
    if not found:
        raise UserError(f"no photo in {', '.join(map(str, places))}; expected JPEG, PNG, BMP, WebP or TIFF files")
    pairs = zip(found.items(), folders_of(found), strict=True)
    return [Photo(path, name, folder, most_pixels=most_pixels) for (name, path), folder in pairs]


def folders_of(names):
    """Where each photo's maps go: its name without suffix, or with it where that would be another's place too.

    Case does not tell two folders apart, as on Windows and macOS. predictions.csv.jpg keeps its suffix: its folder must
    not have the name of a file that a run writes.
    """
    stems = Counter(name_without_suffix(name).casefold() for name in names)
    taken = {name.casefold() for name in names}
    unique = {stem for stem, count in stems.items() if count == 1 and not stem.endswith(RUN_SUFFIXES)} - taken
    return [name_without_suffix(name) if name_without_suffix(name).casefold() in unique else name for name in names]


def name_without_suffix(name):
    """'a/b.c.jpg' -> 'a/b.c'."""
    return Path(name).with_suffix("").as_posix()


# ---------------------------------------------------------------- decoding


def read_photo(
    path: str | os.PathLike | io.BytesIO, shorter_side: int | None = None, most_pixels: int = MOST_PIXELS
) -> np.ndarray:
    """Decode a photo to upright RGB.

    EXIF rotation is applied, transparency is laid on white, CMYK, palettes and 10 to 16 bits are converted to RGB of
    8 bits (`camlib.photos.decoding`). With `shorter_side`, a JPEG is decoded at the smallest of 1/8, 1/4, 1/2 that
    still has at least that many pixels on its shorter side, which is several times faster for large photos.

    Args:
        path: Path or UPath of a JPEG, PNG, BMP, WebP, TIFF or DICOM file, of any name; or a BytesIO that holds one.
        shorter_side: int, pixels that will be needed, or None for full size.
        most_pixels: int, that may be decoded.

    Returns:
        uint8 (H, W, 3), RGB.

    Raises:
        PhotoError: the file is missing, cut off, damaged, of another kind or too large; the message is the reason.
    """
    try:
        in_memory = isinstance(path, io.BytesIO)
        source = io.BytesIO(path.read_bytes()) if is_stored(path) and not in_memory else path
        # a device without end has no size either, and must not be read
        if (source.getbuffer().nbytes if isinstance(source, io.BytesIO) else os.path.getsize(source)) == 0:
            raise PhotoError("empty file")
        with opened_picture(source, FORMATS) as picture:
            if shorter_side:
                picture.draft(None, (shorter_side, shorter_side))
            check_pixels(picture, most_pixels)
            deep = has_deep_colours(picture)  # which is no longer told when it is loaded
            picture.load()
            refuse_what_is_left_out(picture)
            picture = deep_colours(source, picture) if deep else picture
            ImageOps.exif_transpose(picture, in_place=True)
            return np.asarray(to_rgb(picture))
    except FileNotFoundError:
        raise PhotoError("no such file") from None
    except PermissionError:
        raise PhotoError("no permission to read it") from None
    except Image.UnidentifiedImageError:
        return read_other_kind(path, source, most_pixels)
    except PhotoError:
        raise
    except Exception as error:  # decoders meet damaged bytes with errors of almost every class
        raise PhotoError(f"damaged or cut off ({str(error) or type(error).__name__})") from error


def read_other_kind(path, source, most_pixels):
    """A photo that Pillow does not know: DICOM, where pydicom is installed; the arguments as for `read_photo`.

    Raises:
        PhotoError: it is no DICOM picture, or a damaged one.
    """
    if isinstance(path, io.BytesIO):
        raise PhotoError("damaged")
    if not is_dicom(beginning(path, 132)) or not has_dicom_reader():
        raise PhotoError(unreadable_kind(path))
    try:
        return read_dicom(source, most_pixels)
    except PhotoError:
        raise
    except Exception as error:  # as Pillow's decoders
        raise PhotoError(f"a DICOM picture that cannot be read ({first_line(error)})") from error


def check_pixels(picture, most_pixels):
    """Refuse a picture of more pixels than may be decoded: a file of a few kilobytes can unpack to gigabytes.

    What counts is what a format has to unpack: of a JPEG that is decoded at a reduced scale, the pixels of that scale.

    Args:
        picture: PIL.Image.Image, opened and not loaded.
        most_pixels: int.

    Raises:
        PhotoError: it has more; the message is the reason.
    """
    count = math.prod(picture.size)
    scale = picture.decoderconfig[0] if picture.format in ("JPEG", "MPO") and picture.decoderconfig else 1
    coefficients = WEIGHT_OF_COEFFICIENTS * count * scale**2 if "progressive" in picture.info else 0
    # a picture with transparency takes twice the memory that one of RGB takes, and the limit allows for it
    need = max(count, round((count + coefficients) / 2))
    if need > most_pixels:
        width, height = (side * scale for side in picture.size)
        memory = f", in the memory of {need:,}" if need > count else ""  # a progressive JPEG's coefficients
        raise PhotoError(
            f"{width:,} x {height:,} pixels, of which {count:,} would be decoded{memory}; expected at most "
            f"{most_pixels:,}: if it is a photo, --most-pixels {need}"
        )
    if "progressive" in picture.info and (scans := scans_of(picture.fp)) * count * scale**2 > MOST_SCANNED:
        raise PhotoError(
            f"{scans:,} scans of {count * scale**2:,} pixels, which take longer to decode than a photo does; expected "
            "it saved anew by another program"
        )


def scans_of(file):
    """How often a JPEG file begins to describe its pixels: int. The file stays where it is."""
    before, count, last = file.tell(), 0, b""
    file.seek(0)
    while block := file.read(1 << 20):
        count += (last + block).count(SCAN)
        last = block[-1:]
    file.seek(before)
    return count


def refuse_what_is_left_out(picture):
    """Raise PhotoError for a TIFF file with more than Pillow reads of it: further pages, further bands."""
    if picture.format != "TIFF":
        return
    bands = picture.tag_v2.get(SAMPLES_PER_PIXEL, 1)
    if bands > len(picture.getbands()):
        raise PhotoError(f"a TIFF of {bands} bands; expected grey or RGB, with or without transparency")
    pages = itertools.islice(ImageSequence.Iterator(picture), MOST_PAGES)  # a file may have them without end
    # a smaller copy of another page, as its lowest bit says, is none of its own
    count = sum(not page.tag_v2.get(NEW_SUBFILE_TYPE, 0) & 1 for page in pages)
    picture.seek(0)
    picture.load()
    if count > 1:
        found = f"{count} pages" if count < MOST_PAGES else "very many pages"
        raise PhotoError(f"a TIFF of {found}; expected one picture a file: save the page that is meant alone")


def modified_of(path):
    """When a file was changed last, in seconds since 1970; None if it cannot be told."""
    try:
        return path.stat().st_mtime
    except (OSError, ValueError, AttributeError):  # some stores of objects know no time
        return None


def to_rgb(picture):
    """Convert a Pillow picture of any mode to mode RGB."""
    if picture.mode.startswith("I") or picture.mode == "F":  # Pillow's own conversion clips instead of scaling
        return Image.fromarray(grey_in_eight_bits(np.asarray(picture))).convert("RGB")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(white, picture).convert("RGB")
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def network_input(image, input_spec):
    """Bring an RGB photo to a network's size and channels.

    Args:
        image: uint8 (H, W, 3), RGB.
        input_spec: object with height, width, interpolation, fit and channels: 3 for RGB, 1 for grey (ITU-R 601 luma).

    Returns:
        uint8 (height, width, channels).
    """
    if input_spec.channels == 1:
        image = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return fitted(image, input_spec).reshape(input_spec.height, input_spec.width, input_spec.channels)


def side_needed(input_spec, shown=0):
    """What a photo's shorter side needs for a network, and to be shown with `shown` pixels; None for all it has."""
    if input_spec.interpolation != "area":
        return None
    return max(math.ceil(max(input_spec.height, input_spec.width) / fit_share(input_spec.fit)), shown)


def read_network_input(path, input_spec, most_pixels=MOST_PIXELS):
    """Decode a photo, at reduced scale where that does no harm, and bring it to a network's input."""
    return network_input(read_photo(path, side_needed(input_spec), most_pixels), input_spec)


def in_parallel(function, items, ahead=64):
    """Yield (item, function(item) or the PhotoError it raised) in order, decoding a little ahead.

    At most `ahead` results wait at a time, so that memory does not grow with the number of photos.
    """

    def attempt(item):
        try:
            return item, function(item)
        except PhotoError as error:
            return item, error

    pool, waiting = ThreadPoolExecutor(max_workers=os.cpu_count()), deque()
    try:
        for item in items:
            waiting.append(pool.submit(attempt, item))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:  # on Ctrl-C nobody waits for what is not yet begun
        pool.shutdown(cancel_futures=True)


def read_batches(photos, input_spec, batch_size, pictures=True):
    """Decode photos in parallel and yield them in batches of one size, the last one filled up with zeros.

    Equal shapes mean that a compiled network is traced once. At most a few batches are in memory at a time. A batch is
    made of batch_size photos that follow one another, less those that cannot be read. So a photo's place in it does not
    depend on other batches, and neither do the last bits of its maps, which may depend on its place.

    Args:
        photos: list of Photo, or of what else has a path and most_pixels.
        input_spec: object with height, width, channels and interpolation of the network's input.
        batch_size: int.
        pictures: bool, give each photo for display too.

    Yields:
        (done, images, failed): done is a list of (Photo, photo for display uint8 (H, W, 3) or None without pictures),
        images is uint8 (batch_size, height, width, channels), float32 of bands, its first len(done) count, failed is
        a list of (path, reason).
    """
    network_side = max(input_spec.height, input_spec.width)
    enough = side_needed(input_spec, DISPLAY_SIDE)

    def read(photo):
        if isinstance(photo, Photo):
            photo = replace(photo, modified=modified_of(photo.path))
        if of_bands:
            values = read_bands(photo.path, input_spec.channels, photo.most_pixels)
            image = shown_bands(values, input_spec.bands)
        else:
            values = image = read_photo(photo.path, enough, photo.most_pixels)  # of one scale, if it is shown or not
        shown = resize_photo(image, *display_size(*image.shape[:2], network_side)) if pictures else None
        return network_input(values, input_spec), (photo, shown)

    of_bands = input_spec.channels > 3
    shape = (batch_size, input_spec.height, input_spec.width, input_spec.channels)
    images = np.zeros(shape, np.float32 if of_bands else np.uint8)
    done, failed = [], []
    for number, (photo, result) in enumerate(in_parallel(read, photos), 1):
        if isinstance(result, PhotoError):
            failed.append((str(photo.path), str(result)))
        else:
            images[len(done)] = result[0]
            done.append(result[1])
        if number % batch_size == 0 or number == len(photos):
            if done:
                images[len(done) :] = 0
            yield done, images, failed
            done, failed = [], []


def display_size(height, width, least):
    """The (height, width) at which a photo is shown: its own shape, longer side at most 512, at least `least`."""
    return size_within(min(max(height, width, least), DISPLAY_SIDE), height, width)


def size_within(side, height, width):
    """The (height, width) of a picture in its own shape whose longer side has so many pixels."""
    factor = side / max(height, width)
    return max(1, round(height * factor)), max(1, round(width * factor))
