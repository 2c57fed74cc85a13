"""Where the animals are: our JSON, PASCAL VOC's XML files, or a folder of masks."""

import hashlib
import json
import os
import xml.etree.ElementTree as ElementTree
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import numpy as np
from PIL import Image

from camlib.console import UserError, first_line
from camlib.files import MOST_PIXELS, file_sha256, read_json, refuse_no_file
from camlib.photos import FORMATS, PhotoError, check_pixels, find_photos, name_without_suffix
from camlib.photos.decoding import opened_picture
from camlib.preprocessing import is_plain_name

ANNOTATIONS_FILE = "annotations.json"
MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff")  # what keeps a mask's values
LONGEST_PHOTO_SIDE = 1_000_000  # pixels
LONGEST_VOC = 2**22  # bytes: 15,000 objects; an element takes thirty times its text
# What damaged files meet their readers with; LookupError is of keys, and of encodings that nobody knows
DAMAGE = (OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError)
MASK_FORMATS = (*FORMATS, "GIF", "PPM")  # of those that Pillow knows, some start other programs


@dataclass(frozen=True)
class Annotation:
    """One object, or all objects of one class, in a photo.

    Attributes:
        path: Path of the photo.
        class_name: str.
        boxes: tuple of (x0, y0, x1, y1), pixels of the upright photo, x1 and y1 outside; may be empty beside a mask.
        mask: Path of a picture of the photo's shape, above 127 on the object, or None.
        width, height: int, of the photo.
    """

    path: Path
    class_name: str
    boxes: tuple
    mask: Path | None
    width: int
    height: int

    def inside(self, height, width, most_pixels=MOST_PIXELS):
        """The object as bool (height, width), at the size that the photo is looked at.

        Args:
            height, width: int.
            most_pixels: int, that may be decoded of the mask.

        Raises:
            PhotoError: the mask cannot be read.
        """
        if self.mask:
            try:
                refuse_no_file(self.mask)
                with opened_picture(self.mask, MASK_FORMATS) as picture:
                    check_pixels(picture, most_pixels)
                    grey = picture.convert("L").resize((width, height), Image.Resampling.BOX)
            except Exception as error:  # decoders meet damaged bytes with errors of almost every class
                raise PhotoError(f"its mask {self.mask} cannot be read ({error})") from error
            return np.asarray(grey) > 127
        inside = np.zeros((height, width), bool)
        for x0, y0, x1, y1 in self.boxes_in(height, width):
            inside[max(round(y0), 0) : max(round(y1), 0), max(round(x0), 0) : max(round(x1), 0)] = True
        return inside

    def boxes_in(self, height, width):
        """The boxes in a photo of another size."""
        across, down = width / self.width, height / self.height
        return [(x0 * across, y0 * down, x1 * across, y1 * down) for x0, y0, x1, y1 in self.boxes]


def read_annotations(place):
    """Read the objects of a set of photos.

    Args:
        place: Path of an annotations.json or a folder with one: a list of records with file, class, boxes
            [[x0, y0, x1, y1], ...], mask (or null), width and height, paths below its folder; or of a folder with
            PASCAL VOC's XML files (photos beside them, or in a JPEGImages folder beside theirs); or of a folder that
            holds the photos in class folders and for each a mask of the same name under masks/.

    Returns:
        list of Annotation, never empty.

    Raises:
        UserError: there is none, or one cannot be read; the message says which.
    """
    if not place.exists():
        raise UserError(f"--annotations {place} does not exist; expected a JSON file, XML files or a folder of masks")
    records = place / ANNOTATIONS_FILE if place.is_dir() else place
    if records.is_file() and records.suffix.lower() != ".xml":
        found = read_records(records)
    else:
        files = sorted(place.rglob("*.xml")) if place.is_dir() else [place]
        found = [annotation for file in files for annotation in read_voc(file)] or read_masks(place)
    if not found:
        raise UserError(f"no annotations in {place}; expected {ANNOTATIONS_FILE}, PASCAL VOC's XML files, or masks/")
    return found


def read_records(path):
    """The objects of our own format."""
    found, records = [], None
    try:
        records = read_json(path)
        for record in records:
            found.append(annotation_of(record, path.parent))  # noqa: PERF401 - what is raised is of the next one
        return found
    except DAMAGE as error:
        where = f"record {len(found) + 1}, " if records else ""
        raise UserError(
            f"{path} cannot be read ({where}{type(error).__name__}: {first_line(error)}); expected a list of records "
            "with file, class, boxes or mask, width and height"
        ) from error


def annotation_of(record, folder):
    """The Annotation of a record of our own format.

    Raises:
        ValueError, and what else DAMAGE lists: it is none.
    """
    mask, boxes = record.get("mask"), tuple(box_of(box) for box in record.get("boxes") or ())
    return Annotation(
        file_below(folder, record["file"]),
        class_called(record["class"]),
        boxes,
        file_below(folder, mask) if mask else None,
        *sides_of(record["width"], record["height"]),
    )


def file_below(folder, name):
    """The Path of a file that somebody names."""
    if b"\0" in os.fsencode(name):
        raise ValueError(f"a file called {name[:40]!r}")
    return folder / name


def class_called(name):
    """A class's name, str."""
    if not isinstance(name, (str, int)) or not is_plain_name(str(name)):
        raise ValueError(f"a class called {str(name)[:40]!r}")
    return str(name)


def box_of(numbers):
    """(x0, y0, x1, y1) as float, of a positive area."""
    x0, y0, x1, y1 = map(float, numbers)
    if not (x0 < x1 and y0 < y1 and max(map(abs, (x0, y0, x1, y1))) < LONGEST_PHOTO_SIDE):
        raise ValueError(f"box {numbers} has no area, or no end")
    return x0, y0, x1, y1


def sides_of(*sides):
    """(width, height) of a photo in pixels, as int."""
    if all(isinstance(side, (int, str)) or (isinstance(side, float) and side.is_integer()) for side in sides):
        width, height = map(int, sides)
        if 0 < width < LONGEST_PHOTO_SIDE and 0 < height < LONGEST_PHOTO_SIDE:
            return width, height
    raise ValueError(f"a photo of {sides[0]} x {sides[1]} pixels")


def read_voc(path):
    """The objects of one PASCAL VOC file: one Annotation a class, with the boxes of all objects of that class."""
    boxes, things, done = {}, [], 0
    try:
        refuse_no_file(path, LONGEST_VOC)
        root = ElementTree.parse(path).getroot()
        if root.tag != "annotation":
            return []
        width, height = sides_of(root.findtext("size/width"), root.findtext("size/height"))
        things = list(root.iter("object"))
        for thing in things:
            # VOC counts pixels from 1 and includes the last one
            x0, y0, x1, y1 = (float(thing.findtext(f"bndbox/{name}")) for name in ("xmin", "ymin", "xmax", "ymax"))
            of_class = boxes.setdefault(class_called(thing.findtext("name")), [])
            of_class.append(box_of((x0 - 1, y0 - 1, x1, y1)))
            done += 1
        name = Path(root.findtext("filename")).name
        beside = (path.parent / name, path.parent.parent / "JPEGImages" / name)
        photo = next((candidate for candidate in beside if candidate.exists()), beside[0])
    except (*DAMAGE, ElementTree.ParseError) as error:
        where = f"object {done + 1}, " if done < len(things) else ""
        raise UserError(
            f"{path} cannot be read ({where}{first_line(error)}); expected a PASCAL VOC annotation"
        ) from error
    return [
        Annotation(photo, class_name, tuple(of_class), None, width, height) for class_name, of_class in boxes.items()
    ]


def read_masks(folder):
    """The objects of a folder of class folders whose masks lie under masks/, with the same names but for the suffix."""
    if not (folder / "masks").is_dir():
        return []
    found = []
    for photo in find_photos([folder]):
        if not photo.name.startswith("masks/"):
            stem = name_without_suffix(photo.name)
            masks = [folder / "masks" / f"{stem}{suffix}" for suffix in MASK_SUFFIXES]
            mask = next((path for path in masks if path.exists()), None)
            if mask:
                found.append(Annotation(photo.path, photo.path.parent.name, (), mask, *mask_size(mask)))
    return found


def mask_size(mask):
    """(width, height) of a mask.

    Raises:
        UserError: it cannot be read.
    """
    try:
        refuse_no_file(mask)
        with opened_picture(mask, MASK_FORMATS) as picture:
            return picture.size
    except Exception as error:
        raise UserError(f"{mask} cannot be read ({error}); expected a mask") from error


# ---------------------------------------------------------------- what is evaluated


@dataclass(frozen=True)
class Item:
    """A photo and the class whose map is scored.

    Attributes:
        path: Path of the photo.
        name: str, of the photo.
        class_name: str.
        annotation: Annotation or None.
        most_pixels: int, that may be decoded of the photo or its mask.
        of_photo: tuple of Annotation, of all classes in the photo.
    """

    path: Path
    name: str
    class_name: str
    annotation: Annotation | None
    most_pixels: int = MOST_PIXELS
    of_photo: tuple = ()

    @property
    def key(self):
        return f"{self.name}#{self.class_name}"

    @property
    def seed(self):
        """Of random maps; the same in every run."""
        return crc32(self.key.encode("utf-8", "surrogateescape"))


def spread(items, count):
    """About `count` items, as many of each class, at even distances in their order."""
    classes = {}
    for item in items:
        classes.setdefault(item.class_name, []).append(item)
    share = -(-count // len(classes))
    chosen = {
        of_class[index].key
        for of_class in classes.values()
        for index in np.linspace(0, len(of_class) - 1, min(share, len(of_class))).round().astype(int)
    }
    return [item for item in items if item.key in chosen]


def truth_kind(item):
    """What the item's truth is: "masks", "boxes" or None."""
    return item.annotation and ("masks" if item.annotation.mask else "boxes")


def find_items(places, annotations, most_pixels=MOST_PIXELS):
    """What to evaluate: the annotated photos among those that the user named, or class folders without annotations.

    Args:
        places: list of Path of photos and folders; empty for all that are annotated.
        annotations: Path, see `read_annotations`, or None.
        most_pixels: int, that may be decoded of a photo or a mask.

    Returns:
        list of Item, never empty.

    Raises:
        UserError: there is none.
    """
    if not annotations:
        photos = find_photos(places, most_pixels)
        return [Item(photo.path, photo.name, photo.path.parent.name, None, most_pixels) for photo in photos]
    found = read_annotations(annotations)
    if places:
        wanted = {photo.path.resolve() for photo in find_photos(places)}
        found = [annotation for annotation in found if annotation.path.resolve() in wanted]
    root, of_photos = annotations if annotations.is_dir() else annotations.parent, {}
    for one in found:
        of_photos.setdefault(one.path, []).append(one)
    of_photos = {path: tuple(of_photo) for path, of_photo in of_photos.items()}
    items = [
        Item(one.path, name_below(one.path, root), one.class_name, one, most_pixels, of_photos[one.path])
        for one in found
    ]
    if not items:
        raise UserError(f"none of the photos in {', '.join(map(str, places))} has an annotation in {annotations}")
    return items


def name_below(path, root):
    """A photo's name: its path below the folder of the annotations, or the file's name alone if it lies elsewhere."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name


def items_sha256(items):
    """What tells whether photos or annotations have changed, by content, for a run's settings.

    Args:
        items: list of Item.

    Returns:
        {"photos_sha256": str, "annotations_sha256": str}, the second of masks, boxes, classes and sizes.
    """
    annotations = [one for of_photo in {item.name: item.of_photo for item in items}.values() for one in of_photo]
    masks = [one.mask for one in annotations if one.mask]
    paths = list(dict.fromkeys([*(item.path for item in items), *masks]))
    with ThreadPoolExecutor() as pool:
        contents = dict(zip(paths, pool.map(sha256_if_readable, paths), strict=True))
    photos = [[item.key, contents[item.path]] for item in items]
    marked = [
        [one.path.name, one.class_name, one.boxes, one.width, one.height, contents.get(one.mask)] for one in annotations
    ]
    return {
        f"{name}_sha256": hashlib.sha256(json.dumps(what).encode()).hexdigest()
        for name, what in (("photos", photos), ("annotations", marked))
    }


def sha256_if_readable(path):
    """SHA-256 of a file, None of one that cannot be read, which is listed when it is looked at."""
    try:
        return file_sha256(path)
    except (OSError, UserError):
        return None
