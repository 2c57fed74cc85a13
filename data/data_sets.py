"""Known data sets, read from their archives as downloaded: which pictures of which class and part they hold."""

import contextlib
import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from archives import Member, MemberError, members_of

from camlib.console import UserError, shown_path
from camlib.preprocessing import ORIGINAL_CLASSES

PICTURE = r"[^/\\:\x00-\x1f.][^/\\:\x00-\x1f]{0,150}\.(?:jpe?g|png)"  # a plain file name, not hidden
FOLDER_PATTERN = r"(?:\./)?(?:[\w-]+/)*"  # whoever packed an archive anew may have put it into folders


class SourcePicture(NamedTuple):
    """One picture of a data set.

    Attributes:
        part: str, "train" or "val", or "" where the data set has no part to validate on.
        class_name: str.
        file_name: str, of the file to write, in the folder of its part and class; "" where it can only be refused.
        source: str, where it comes from, for a list of what failed.
        read: function () -> bytes of a picture file, or pixels uint8 (H, W, 3), RGB; raises MemberError. To be called
            before the next item is asked for.
    """

    part: str
    class_name: str
    file_name: str
    source: str
    read: Callable


def pixels_as_picture(part, class_name, name, pixels):
    """The SourcePicture of pixels uint8 (H, W, 3), which becomes a PNG."""
    return SourcePicture(part, class_name, f"{name}.png", name, lambda: pixels)


def refused_picture(name, reason):
    """The SourcePicture of what cannot be read for that reason."""
    return SourcePicture("", "", "", name, Member(name, 0, None, reason).read)


class DataSet(NamedTuple):
    """A data set that is known here.

    Attributes:
        title: str, its usual name.
        archives: tuple of str, names of the files to download.
        marks: tuple of str, one for each archive: a regular expression that a member's name matches in that one alone.
        classes: tuple of str.
        read: function of (archives in the order of `archives`, list of Path; set of classes) -> (how many pictures
            there are, iterator of SourcePicture).
    """

    title: str
    archives: tuple
    marks: tuple
    classes: tuple
    read: Callable


# ---------------------------------------------------------------- pixels: CIFAR-10, STL-10

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR10_FILE = FOLDER_PATTERN + r"cifar-10-batches-bin/((?:data_batch_[1-5]|test_batch)\.bin)"
CIFAR10_FILES = {*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"}
CIFAR10_RECORD = 1 + 3 * 32 * 32  # bytes: the label, then the pixels by channel and row


def read_cifar10(archives, classes):
    """CIFAR-10, binary version (Krizhevsky 2009); as DataSet.read."""
    found = needed_members(archives[0], CIFAR10_FILE, CIFAR10_FILES, to_the_end=True)  # where a check sum is
    batches = {name: np.frombuffer(whole(member, archives[0]), np.uint8) for name, member in found}
    for name, batch in batches.items():
        if len(batch) % CIFAR10_RECORD or (batch[::CIFAR10_RECORD] >= len(CIFAR10_CLASSES)).any():
            raise UserError(
                f"{shown_path(archives[0])}: {name} has {len(batch):,} bytes, labels up to "
                f"{max(batch[::CIFAR10_RECORD], default=0)}; expected pictures of {CIFAR10_RECORD:,} bytes with labels "
                "up to 9"
            )
    chosen = [
        (name.removesuffix(".bin"), index, CIFAR10_CLASSES[record[0]], record)
        for name, batch in batches.items()
        for index, record in enumerate(batch.reshape(-1, CIFAR10_RECORD))
        if CIFAR10_CLASSES[record[0]] in classes
    ]

    def items():
        for batch, index, class_name, record in chosen:
            part, name = "val" if batch == "test_batch" else "train", f"{batch}_{index:05d}"
            pixels = record[1:].reshape(3, 32, 32).transpose(1, 2, 0)  # (H, W, 3)
            yield pixels_as_picture(part, class_name, name, pixels)

    return len(chosen), items()


STL10_CLASSES = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")
STL10_FILE = FOLDER_PATTERN + r"stl10_binary/((?:train|test)_[Xy]\.bin)"
STL10_PARTS = {"train": "train", "test": "val"}
STL10_LABELS, STL10_PIXELS = ({f"{part}_{letter}.bin": part for part in STL10_PARTS} for letter in "yX")
STL10_PICTURE = 3 * 96 * 96  # bytes: by channel, then by column


def read_stl10(archives, classes):
    """STL-10 (Coates et al. 2011), its labelled pictures; as DataSet.read."""
    (path,) = archives
    found = needed_members(path, STL10_FILE, STL10_LABELS)
    labels = {STL10_LABELS[name]: np.frombuffer(whole(member, path), np.uint8) for name, member in found}  # 1..10
    if any(((values < 1) | (values > len(STL10_CLASSES))).any() for values in labels.values()):
        raise UserError(f"{shown_path(path)} has labels beyond 1 to 10; expected the STL-10 archive as downloaded")
    wanted = {part: [STL10_CLASSES[label - 1] in classes for label in values] for part, values in labels.items()}

    def items():
        for file_name, member in needed_members(path, STL10_FILE, STL10_PIXELS):  # 2.7 GB without labels lie behind
            part = STL10_PIXELS[file_name]
            if member.size != STL10_PICTURE * len(labels[part]):
                raise UserError(
                    f"{shown_path(path)}: {file_name} has {member.size:,} bytes for {len(labels[part]):,} labels; "
                    f"expected {STL10_PICTURE:,} bytes for each"
                )
            with needed(member, path):
                for index, record in enumerate(member.records(STL10_PICTURE)):
                    if wanted[part][index]:
                        name, class_name = f"{part}_{index:05d}", STL10_CLASSES[labels[part][index] - 1]
                        pixels = np.frombuffer(record, np.uint8).reshape(3, 96, 96).transpose(2, 1, 0)  # (H, W, 3)
                        yield pixels_as_picture(STL10_PARTS[part], class_name, name, pixels)

    return sum(map(sum, wanted.values())), items()


@contextlib.contextmanager
def needed(member, path):
    """Read in this context a member without which nothing of an archive can be read.

    Raises:
        UserError: it cannot be read.
    """
    try:
        yield
    except MemberError as error:
        raise UserError(
            f"{shown_path(path)}: {member.name}: {error}; expected a whole archive: download it again"
        ) from None


def whole(member, path):
    """All of the content of a member that is `needed`."""
    with needed(member, path):
        return member.read()


def needed_members(path, pattern, names, to_the_end=False):
    """Yield (file name, Member) of the files that are needed of an archive; after the last of them it is left.

    Args:
        path: Path of the archive.
        pattern: str, matches a member's name, with the file name as its first group.
        names: collection of str, the file names.
        to_the_end: bool, read what is behind them too.

    Raises:
        UserError: one of them is not there.
    """
    missing = set(names)
    for member in members_of(path):
        found = re.fullmatch(pattern, member.name)
        if found and found[1] in missing:
            missing.remove(found[1])
            yield found[1], member
        if not missing and not to_the_end:
            return
    if missing:
        names = ", ".join(sorted(missing))
        raise UserError(f"{shown_path(path)} lacks {names}; expected the whole archive: download it again")


# ---------------------------------------------------------------- photos: pets, dogs and cats, animals

PET_SPECIES = {"1": "cat", "2": "dog"}
PET_LISTS = {"trainval.txt": "train", "test.txt": "val"}
PET_LIST = FOLDER_PATTERN + r"annotations/(trainval\.txt|test\.txt)"
PET_PHOTO = FOLDER_PATTERN + r"images/(\w[\w-]*)\.jpg"


def read_pets(archives, classes):
    """The Oxford-IIIT Pet data set (Parkhi et al. 2012); as DataSet.read.

    A line of its lists is a photo's name, its breed, its species (1 cat, 2 dog) and its breed within the species.
    """
    photos, annotations = archives
    lists = {
        PET_LISTS[name]: whole(member, annotations).decode("utf-8", "replace")
        for name, member in needed_members(annotations, PET_LIST, PET_LISTS)
    }
    places = {}  # name -> (part, class)
    for part, text in lists.items():
        for line in text.splitlines():
            fields = line.split()
            if not fields or fields[0].startswith("#"):
                continue
            if len(fields) != 4 or fields[2] not in PET_SPECIES:
                raise UserError(
                    f"{shown_path(annotations)}: a line {line[:60]!r}; expected a name, its breed, 1 (cat) or 2 (dog), "
                    "and its breed in that species"
                )
            if PET_SPECIES[fields[2]] in classes:
                places[fields[0]] = part, PET_SPECIES[fields[2]]

    def items():
        missing = dict(places)
        for member in members_of(photos):
            name = re.fullmatch(PET_PHOTO, member.name)
            if member.refused:
                yield refused_picture(member.name, member.refused)
            elif name and missing.pop(name[1], None):
                yield SourcePicture(*places[name[1]], f"{name[1]}.jpg", member.name, member.read)
        for name in missing:
            yield refused_picture(f"{name}.jpg", f"not in {photos.name}")

    return len(places), items()


def reader_of_folders(pattern, class_names):
    """DataSet.read of an archive of photos whose class is in their names.

    Args:
        pattern: str, matches a photo's name in the archive, with groups `label` and `file`, the name to write.
        class_names: dict of label -> class.
    """

    def read(archives, classes):
        def items():
            for member in members_of(archives[0]):
                found = re.fullmatch(pattern, member.name)
                if member.refused:
                    yield refused_picture(member.name, member.refused)
                elif found and class_names.get(found["label"]) in classes:
                    yield SourcePicture("", class_names[found["label"]], found["file"], member.name, member.read)

        return sum(1 for _ in items()), items()

    return read


DOGS_VS_CATS = FOLDER_PATTERN + r"train/(?P<file>(?P<label>cat|dog)\.\d{1,6}\.jpg)"
CATS_AND_DOGS = FOLDER_PATTERN + r"PetImages/(?P<label>Cat|Dog)/(?P<file>\d{1,6}\.jpg)"
ANIMALS10 = FOLDER_PATTERN + rf"raw-img/(?P<label>[a-z]+)/(?P<file>{PICTURE})"
ITALIAN = {
    "cane": "dog",
    "gatto": "cat",
    "cavallo": "horse",
    "gallina": "bird",
    "elefante": "elephant",
    "farfalla": "butterfly",
    "mucca": "cow",
    "pecora": "sheep",
    "ragno": "spider",
    "scoiattolo": "squirrel",
}

DATA_SETS = {
    "cifar10": DataSet("CIFAR-10", ("cifar-10-binary.tar.gz",), (CIFAR10_FILE,), CIFAR10_CLASSES, read_cifar10),
    "stl10": DataSet("STL-10", ("stl10_binary.tar.gz",), (STL10_FILE,), STL10_CLASSES, read_stl10),
    "pets": DataSet("Oxford-IIIT Pet", ("images.tar.gz", "annotations.tar.gz"), (PET_PHOTO, PET_LIST),
                    ("dog", "cat"), read_pets),
    "dogs_vs_cats": DataSet("Dogs vs. Cats", ("train.zip",), (DOGS_VS_CATS,), ("dog", "cat"),
                            reader_of_folders(DOGS_VS_CATS, {"dog": "dog", "cat": "cat"})),
    "cats_and_dogs": DataSet("Dogs vs. Cats of Microsoft", ("kagglecatsanddogs_5340.zip",), (CATS_AND_DOGS,),
                             ("dog", "cat"), reader_of_folders(CATS_AND_DOGS, {"Dog": "dog", "Cat": "cat"})),
    "animals10": DataSet("Animals-10", ("archive.zip",), (ANIMALS10,), tuple(ITALIAN.values()),
                         reader_of_folders(ANIMALS10, ITALIAN)),
}  # fmt: skip

# What is nearly right: (a member's name, what to bring instead)
OTHER_SETS = (
    (
        FOLDER_PATTERN + r"cifar-10-batches-py/.+",
        "is the Python version of CIFAR-10, pickles, which may run code; expected "
        "the binary version, cifar-10-binary.tar.gz",
    ),
    (r"train\.zip", "holds another archive, train.zip; expected that one: unpack it first"),
    (r"test1?/\d+\.jpg", "holds photos without classes, to be judged by Kaggle; expected train.zip"),
)


def recognise(paths):
    """Tell which data set some archives are, by what they hold, whatever their names.

    Args:
        paths: list of Path.

    Returns:
        (key of DATA_SETS, the archives in the order of its `archives`).

    Raises:
        UserError: they are none of a known data set, of several, or not all of one.
    """
    found = {}  # (key, number of the archive) -> Path
    for path in paths:
        mark = mark_of(path)
        if mark in found:
            raise UserError(
                f"{shown_path(path)} and {shown_path(found[mark])} are the same archive of a data set; expected one"
            )
        found[mark] = path
    keys = {key for key, _ in found}
    if len(keys) > 1:
        titles = " and ".join(sorted(DATA_SETS[key].title for key in keys))
        raise UserError(f"archives of {titles}; expected one data set at a time, each into its own --output")
    (key,) = keys
    missing = [name for number, name in enumerate(DATA_SETS[key].archives) if (key, number) not in found]
    if missing:
        raise UserError(
            f"{shown_path(paths[0])} is a part of {DATA_SETS[key].title}; expected {' and '.join(missing)} with it"
        )
    return key, [found[key, number] for number in range(len(found))]


def mark_of(path):
    """(key of DATA_SETS, number of the archive in it) of an archive, by its first member that tells."""
    others = None
    for member in members_of(path):
        for key, data_set in DATA_SETS.items():
            for number, mark in enumerate(data_set.marks):
                if re.fullmatch(mark, member.name):
                    return key, number
        others = others or next((what for pattern, what in OTHER_SETS if re.fullmatch(pattern, member.name)), None)
    names = ", ".join(name for data_set in DATA_SETS.values() for name in data_set.archives)
    raise UserError(f"{shown_path(path)} {others or f'is no data set known here; expected one of {names}'}")


def kept_classes(data_set, asked):
    """The classes of a data set to keep, in its order: those asked for, or what the project's networks tell apart.

    Raises:
        UserError: one is not in the data set, or fewer than two are left.
    """
    known = data_set.classes
    asked = known if asked == ["all"] else asked or [name for name in known if name in ORIGINAL_CLASSES]
    unknown = [name for name in asked if name not in known]
    if unknown:
        raise UserError(
            f"--classes {unknown[0]} is not in {data_set.title}; expected all, or some of {', '.join(known)}"
        )
    if len(set(asked)) < 2:
        raise UserError(f"--classes {asked[0]}: one class; expected two or more, since a network tells them apart")
    return [name for name in known if name in asked]
