"""data/prepare.py on small archives with the names and the inner layout of the real ones."""

import contextlib
import gzip
import io
import pickle
import re
import shlex
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, read_csv
from data_sets import DATA_SETS
from PIL import Image

from camlib.training.class_folders import find_labelled_photos
from data import prepare
from data.prepare import main
from train_cam_4class import parse_arguments

pytestmark = pytest.mark.any_backend

GENERATOR = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """The user's folder, where the archives lie and data/ is written."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def jpeg(shade=100, size=(20, 16), kind="JPEG"):
    noise = GENERATOR.integers(-20, 20, (size[1], size[0], 3))
    file = io.BytesIO()
    Image.fromarray(np.clip(shade + noise, 0, 255).astype(np.uint8)).save(file, kind)
    return file.getvalue()


def write_tar(path, members, mode="w:gz"):
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def write_zip(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def pixels_of(path):
    with Image.open(path) as picture:
        return np.asarray(picture)


def files_in(folder):
    return sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file())


def failed_in(folder):
    return {row["path"]: row["reason"] for row in read_csv(Path(folder, "failed.csv"))}


# ---------------------------------------------------------------- the data sets


def cifar10():
    """(members, {batch: [(label, pixels (32, 32, 3))]}): every label once a batch, byte by byte as its page says."""
    members = {"cifar-10-batches-bin/batches.meta.txt": b"airplane\n", "cifar-10-batches-bin/readme.html": b"<html>"}
    pictures = {}
    for name in [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]:
        pictures[name] = [(label, GENERATOR.integers(0, 256, (32, 32, 3), np.uint8)) for label in range(10)]
        members[f"cifar-10-batches-bin/{name}.bin"] = b"".join(
            bytes([label]) + b"".join(pixels[y, x, c].tobytes() for c in range(3) for y in range(32) for x in range(32))
            for label, pixels in pictures[name]
        )
    return members, pictures


@pytest.mark.parametrize(
    ("name", "mode", "output"),
    [("cifar-10-binary.tar.gz", "w:gz", "data/cifar10"), ("unpacked once.tar", "w", "my data/cifar 10")],
)
def test_cifar10(name, mode, output, capsys):
    """The printed command's options are those of the training, and its folder is one that training takes."""
    members, pictures = cifar10()
    write_tar(name, members, mode)
    assert main([name, *(["--output", output] if output != "data/cifar10" else [])]) == 0
    for batch, labelled in pictures.items():
        part = "val" if batch == "test_batch" else "train"
        for label, class_name in ((5, "dog"), (3, "cat"), (7, "horse"), (2, "bird")):
            written = pixels_of(f"{output}/{part}/{class_name}/{batch}_{label:05d}.png")
            np.testing.assert_array_equal(written, labelled[label][1])
    assert len(files_in(output)) == 6 * 4 + 1
    out = capsys.readouterr().out
    assert re.search(r"^dog +5 +1$", out, re.MULTILINE)
    assert f"24 photos of 4 classes are in {output}" in out
    python, script, *arguments = shlex.split(out.splitlines()[-1].removeprefix("next: "))
    assert python == "python" and (ROOT / script).is_file()
    settings = parse_arguments(arguments)
    names, train, val = find_labelled_photos(settings.data)
    assert names == ["dog", "cat", "horse", "bird"] and (len(train), len(val)) == (20, 4)
    assert settings.output == Path("outputs/training", f"{Path(output).name}.h5")


def stl10(counts=(("train", 20), ("test", 30))):
    """(members in the order of the real archive, {part: (labels 1..10, pixels (N, 96, 96, 3))}); columns come first."""
    pictures = {
        part: (np.arange(count) % 10 + 1, GENERATOR.integers(0, 256, (count, 96, 96, 3), np.uint8))
        for part, count in counts
    }
    members = {}
    for part in ("test", "train"):
        labels, pixels = pictures[part]
        members[f"stl10_binary/{part}_X.bin"] = b"".join(
            picture[:, x, c].tobytes() for picture in pixels for c in range(3) for x in range(96)
        )
        members[f"stl10_binary/{part}_y.bin"] = labels.astype(np.uint8).tobytes()
    members["stl10_binary/unlabeled_X.bin"] = bytes(3 * 96 * 96)
    members["stl10_binary/class_names.txt"] = b"airplane\nbird\n"
    return members, pictures


def test_stl10():
    members, pictures = stl10()
    write_tar("stl10_binary.tar.gz", members)
    assert main(["stl10_binary.tar.gz", "--classes", "monkey", "horse", "--output", "out"]) == 0
    for part, folder in (("train", "train"), ("test", "val")):
        labels, pixels = pictures[part]
        for label, class_name in ((7, "horse"), (8, "monkey")):
            places = np.flatnonzero(labels == label)
            assert len(places) == len(labels) // 10 == len(files_in(f"out/{folder}/{class_name}"))
            for index in places:
                written = pixels_of(f"out/{folder}/{class_name}/{part}_{index:05d}.png")
                np.testing.assert_array_equal(written, pixels[index])
    assert sorted(path.name for path in Path("out/train").iterdir()) == ["horse", "monkey"]


PET_HEADER = "#Image CLASS-ID SPECIES BREED ID\n#ID: 1:37 Class ids\n#SPECIES: 1:Cat 2:Dog\n"


def pets():
    """(images, annotations): photos with capitals are cats there, but only the lists say so."""
    photos = {name: jpeg() for name in ("Abyssinian_1", "Abyssinian_2", "Bengal_1", "pug_1", "pug_2", "beagle_9")}
    images = {f"images/{name}.jpg": photo for name, photo in photos.items()}
    images |= {"images/Abyssinian_100.mat": b"MATLAB", "images/._pug_1.jpg": b"\0\5\x16\7"}
    annotations = {
        "annotations/list.txt": PET_HEADER.encode(),
        "annotations/trainval.txt": b"Abyssinian_1 1 1 1\nBengal_1 6 1 2\npug_1 27 2 19\n",
        "annotations/test.txt": b"Abyssinian_2 1 1 1\npug_2 27 2 19\n",
        "annotations/trimaps/pug_1.png": b"",
        "annotations/xmls/pug_1.xml": b"<annotation/>",
    }
    return images, annotations, photos


def write_pets(*missing):
    """Write both archives, without some of their photos; returns the photos."""
    images, annotations, photos = pets()
    write_tar("images.tar.gz", {name: content for name, content in images.items() if name not in missing})
    write_tar("annotations.tar.gz", annotations)
    return photos


def test_oxford_pets():
    photos = write_pets("images/Bengal_1.jpg")
    assert main(["annotations.tar.gz", "images.tar.gz"]) == 1
    assert files_in("data/pets") == [
        "failed.csv",
        "prepared.json",
        "train/cat/Abyssinian_1.jpg",
        "train/dog/pug_1.jpg",
        "val/cat/Abyssinian_2.jpg",
        "val/dog/pug_2.jpg",
    ]
    assert failed_in("data/pets") == {"Bengal_1.jpg": "not in images.tar.gz"}
    assert Path("data/pets/val/dog/pug_2.jpg").read_bytes() == photos["pug_2"]  # the file itself, not packed anew


PHOTO_ARCHIVES = {  # key -> ({name in the archive: file written}, other members)
    "dogs_vs_cats": (
        {f"train/{name}.{index}.jpg": f"{name}/{name}.{index}.jpg" for name in ("cat", "dog") for index in (0, 12499)},
        {"train/": b""},
    ),
    "cats_and_dogs": (
        {f"PetImages/{name}/{index}.jpg": f"{name.lower()}/{index}.jpg" for name in ("Cat", "Dog") for index in (0, 1)},
        {"PetImages/Cat/Thumbs.db": b"\xd0\xcf", "readme[1].txt": b"", "MSR-LA - 3467.docx": b"PK"},
    ),
    "animals10": (
        {
            f"raw-img/{italian}/{file}": f"{english}/{file}"
            for italian, english in (("cane", "dog"), ("gatto", "cat"), ("cavallo", "horse"), ("gallina", "bird"))
            for file in ("OIP--2z_zAuTMzgYM_KynUl9CQHaE7.jpeg", "e83cb2092ff7073ed1584d05fb1d4e9fe777ead218ac_640.jpg")
        },
        {"raw-img/ragno/e03.jpg": b"", "translate.py": b"raise SystemExit"},
    ),
}


@pytest.mark.parametrize("key", PHOTO_ARCHIVES)
def test_archives_of_photos(key, capsys):
    names, others = PHOTO_ARCHIVES[key]
    photos = {name: jpeg() for name in names}
    write_zip("downloaded.zip", photos | others)
    assert main(["downloaded.zip"]) == 0
    assert files_in(f"data/{key}") == sorted(["prepared.json", *names.values()])
    for name, file in names.items():
        assert Path("data", key, file).read_bytes() == photos[name]
    _, train, val = find_labelled_photos([Path("data", key)])
    assert len(train) + len(val) == len(names) and val


def test_examples_in_help_and_readme_run_as_printed(capsys):
    """On archives of the printed names, each with its own output folder."""
    write_pets()
    write_tar("cifar-10-binary.tar.gz", cifar10()[0])
    write_tar("stl10_binary.tar.gz", stl10()[0])
    names = {"dogs_vs_cats": "train.zip", "cats_and_dogs": "kagglecatsanddogs_5340.zip", "animals10": "archive.zip"}
    for key, name in names.items():
        write_zip(name, {photo: jpeg() for photo in PHOTO_ARCHIVES[key][0]})
    readme = (ROOT / "data" / "README.md").read_text("utf-8")
    examples = re.findall(r"^    python data/prepare\.py ([^#\n]+)", prepare.__doc__ + readme, re.MULTILINE)
    assert len(examples) == 8
    for example in examples:
        assert prepare.main(shlex.split(example)) == 0
    for key, data_set in DATA_SETS.items():
        row = next(line for line in readme.splitlines() if f"`data/{key}" in line)
        assert all(f"`{name}`" in row for name in data_set.archives) and Path("data", key).is_dir()
    assert sorted(path.name for path in Path("data/stl10_all/val").iterdir()) == sorted(DATA_SETS["stl10"].classes)


# ---------------------------------------------------------------- again, and what is damaged


def test_the_same_command_does_only_what_is_missing(capsys):
    names, _ = PHOTO_ARCHIVES["dogs_vs_cats"]
    write_zip("train.zip", {name: jpeg() for name in names})
    assert main(["train.zip"]) == 0
    lost, kept = Path("data/dogs_vs_cats/cat/cat.0.jpg"), Path("data/dogs_vs_cats/dog/dog.0.jpg")
    before, time = lost.read_bytes(), kept.stat().st_mtime_ns
    lost.unlink()
    Path("data/dogs_vs_cats/cat/.cat.0.jpg.partial").write_bytes(before[:100])  # as a killed run leaves it
    capsys.readouterr()
    assert main(["train.zip"]) == 0
    assert lost.read_bytes() == before and kept.stat().st_mtime_ns == time
    assert "4 photos of 2 classes" in capsys.readouterr().out
    assert not list(Path("data").rglob("*.partial"))


def test_damaged_photos_are_listed_and_the_rest_is_done(capsys):
    good, cut, packed = jpeg(), jpeg()[:-200], jpeg()
    members = {f"PetImages/{name}/{index}.jpg": good for name in ("Cat", "Dog") for index in (0, 1)}
    members |= {
        "PetImages/Cat/666.jpg": b"",  # as in the real one
        "PetImages/Dog/11702.jpg": cut,
        "PetImages/Dog/7.jpg": b"GIF89a" + bytes(50),
        "PetImages/Dog/8.jpg": packed,
    }
    write_zip("cats.zip", members)
    content = bytearray(Path("cats.zip").read_bytes())
    with zipfile.ZipFile("cats.zip") as archive:
        place = archive.getinfo("PetImages/Dog/8.jpg").header_offset + 30 + len("PetImages/Dog/8.jpg") + 300
    content[place] ^= 0xFF
    Path("cats.zip").write_bytes(content)
    for _ in range(2):  # a second run says so again
        assert main(["cats.zip"]) == 1
        reasons = failed_in("data/cats_and_dogs")
        assert reasons["PetImages/Cat/666.jpg"] == "empty file"
        assert reasons["PetImages/Dog/11702.jpg"].startswith("damaged or cut off")
        assert reasons["PetImages/Dog/7.jpg"].startswith("a GIF picture, not a JPEG, PNG, BMP, WebP or TIFF one")
        assert reasons["PetImages/Dog/8.jpg"].startswith("damaged in the archive") and len(reasons) == 4
        out = capsys.readouterr().out
        assert "4 could not be used: see data/cats_and_dogs/failed.csv\nnext: python" in out
    assert len([name for name in files_in("data/cats_and_dogs") if name.endswith(".jpg")]) == 4
    assert not list(Path("data").rglob("*.partial"))


@pytest.mark.filterwarnings("error")
def test_odd_metadata_of_whole_photos_are_no_news():
    """As in a few photos of the real archives: Pillow would warn of each."""
    exif = Image.Exif()
    exif[0x010E] = "a description" * 5
    file = io.BytesIO()
    Image.new("RGB", (20, 16)).save(file, "JPEG", exif=exif.tobytes()[:30])
    write_zip("train.zip", {f"train/{name}.0.jpg": file.getvalue() for name in ("cat", "dog")})
    assert main(["train.zip"]) == 0


def test_a_download_that_was_cut_off_keeps_what_is_done(end_of):
    images = {f"images/pug_{index}.jpg": jpeg() for index in range(60)}
    lines = "".join(f"pug_{index} 27 2 19\n" for index in range(60)) + "Bengal_1 6 1 2\n"
    images["images/Bengal_1.jpg"] = jpeg()
    write_tar("images.tar.gz", images)
    write_tar("annotations.tar.gz", {"annotations/trainval.txt": lines.encode(), "annotations/test.txt": b""})
    whole = Path("images.tar.gz").read_bytes()
    Path("images.tar.gz").write_bytes(whole[: len(whole) // 2])
    code, message = end_of(main, ["images.tar.gz", "annotations.tar.gz"])
    assert code == 2 and message.startswith("error: images.tar.gz is damaged or cut off")
    assert "data/pets/" not in message and len(message) <= 300 and message.count("\n") == 1
    assert Path("data/pets/train/dog/pug_0.jpg").is_file() and not Path("data/pets/train/dog/pug_59.jpg").exists()
    Path("images.tar.gz").write_bytes(whole)
    assert main(["images.tar.gz", "annotations.tar.gz"]) == 0


@pytest.mark.parametrize("place", [-6, 2000])  # in the check sum, in the pictures
def test_pixels_that_changed_on_the_way_are_noticed(end_of, place):
    """Pixels have no check of their own; the archive's is compared."""
    write_tar("c.tar.gz", cifar10()[0])
    content = bytearray(Path("c.tar.gz").read_bytes())
    content[place] ^= 1
    Path("c.tar.gz").write_bytes(content)
    code, message = end_of(main, ["c.tar.gz"])
    assert code == 2 and message.startswith("error: c.tar.gz") and message.count("\n") == 1


# ---------------------------------------------------------------- archives made to harm


def test_names_that_lead_out_are_refused():
    photo = jpeg()
    evil = ["../../raw-img/cane/a.jpg", "/raw-img/cane/b.jpg", "raw-img/cane/../../../c.jpg", "C:/raw-img/cane/d.jpg"]
    names, _ = PHOTO_ARCHIVES["animals10"]
    write_zip("archive.zip", dict.fromkeys([*names, *evil], photo))
    Path("inside").mkdir()
    assert main(["archive.zip", "--output", "inside/out"]) == 1
    assert failed_in("inside/out") == dict.fromkeys(evil, "its name leads out of the archive")
    assert files_in(".") == sorted(
        ["archive.zip", *(f"inside/out/{name}" for name in ["failed.csv", "prepared.json", *names.values()])]
    )


def test_links_are_refused():
    """A link in the place of a photo, to a file of the user's."""
    images, annotations, _ = pets()
    secret = Path("secret.jpg")
    secret.write_bytes(jpeg())
    del images["images/pug_1.jpg"], images["images/pug_2.jpg"]
    write_tar("images.tar", images, "w")
    with tarfile.open("images.tar", "a") as archive:
        for name, kind in (("pug_1", tarfile.SYMTYPE), ("pug_2", tarfile.LNKTYPE)):
            entry = tarfile.TarInfo(f"images/{name}.jpg")
            entry.type, entry.linkname = kind, str(secret.resolve())
            archive.addfile(entry)
    write_tar("annotations.tar.gz", annotations)
    entry = zipfile.ZipInfo("train/dog.5.jpg")
    entry.external_attr = 0o120777 << 16
    write_zip("train.zip", {name: jpeg() for name in PHOTO_ARCHIVES["dogs_vs_cats"][0]})
    with zipfile.ZipFile("train.zip", "a") as archive:
        archive.writestr(entry, str(secret.resolve()))
    reason = "a link, a device or a sparse file"
    assert main(["train.zip"]) == 1
    assert failed_in("data/dogs_vs_cats") == {"train/dog.5.jpg": reason}
    with pytest.raises(Exception, match="no photo of dog"):
        main(["images.tar", "annotations.tar.gz"])
    assert failed_in("data/pets")["images/pug_1.jpg"] == failed_in("data/pets")["images/pug_2.jpg"] == reason


def test_pickles_are_never_opened(end_of):
    class Trap:
        def __reduce__(self):
            return Path.touch, (Path("trapped"),)

    members = {f"cifar-10-batches-py/{name}": pickle.dumps(Trap()) for name in ("batches.meta", "data_batch_1")}
    write_tar("cifar-10-python.tar.gz", members)
    code, message = end_of(main, ["cifar-10-python.tar.gz"])
    assert code == 2 and "expected the binary version, cifar-10-binary.tar.gz" in message and len(message) <= 300
    assert not Path("trapped").exists()


def test_sizes_are_limited(end_of, monkeypatch):
    monkeypatch.setattr("archives.MOST_BYTES", 4000)
    names, _ = PHOTO_ARCHIVES["dogs_vs_cats"]
    write_zip("train.zip", {name: jpeg() for name in names} | {"train/cat.1.jpg": bytes(10**6)})
    assert main(["train.zip"]) == 1
    assert failed_in("data/dogs_vs_cats") == {"train/cat.1.jpg": "1,000,000 bytes; expected at most 4,000"}
    monkeypatch.setattr("archives.MOST_MEMBERS", 3)
    code, message = end_of(main, ["train.zip", "--output", "other"])
    assert code == 2 and "train.zip has more than 3 members" in message


def test_a_header_that_claims_gigabytes_is_not_read(end_of):
    """tarfile reads a PAX header as a whole, whatever its size; packed with gzip, zeros take no room."""
    entry = tarfile.TarInfo("x")
    entry.type, entry.size = tarfile.XHDTYPE, 2**33
    with gzip.open("images.tar.gz", "wb") as file:
        file.write(entry.tobuf(tarfile.GNU_FORMAT) + bytes(2**20))
    code, message = end_of(main, ["images.tar.gz"])
    assert code == 2 and "a header of 8,589,934,592 bytes" in message and message.count("\n") == 1


# ---------------------------------------------------------------- one line for the user


def labels_beyond(members):
    return {name: b"\x0b" * len(content) if name.endswith("_y.bin") else content for name, content in members.items()}


@pytest.fixture(scope="module")
def faults(tmp_path_factory):
    """A folder with one archive of each fault, by the name used below."""
    folder = tmp_path_factory.mktemp("faults")
    with contextlib.chdir(folder):
        write_faults()
    return folder


def write_faults():
    write_pets()
    write_tar("bad_list.tar.gz", pets()[1] | {"annotations/test.txt": b"pug_2 27 3 19\n"})
    write_zip("train.zip", {"train/cat.0.jpg": jpeg(), "train/dog.0.jpg": jpeg()})
    write_zip("cats_alone.zip", {"train/cat.0.jpg": jpeg()})
    write_zip("dogs-vs-cats.zip", {"sampleSubmission.csv": b"", "test1.zip": b"", "train.zip": b""})
    write_zip("test1.zip", {"test1/1.jpg": jpeg()})
    write_zip("other.zip", {"a/b.jpg": jpeg()})
    members = cifar10()[0]
    write_tar("cut.tar.gz", members | {"cifar-10-batches-bin/data_batch_2.bin": bytes(3000)})
    del members["cifar-10-batches-bin/data_batch_3.bin"]
    write_tar("few.tar.gz", members)
    members, _ = stl10((("train", 2), ("test", 2)))
    write_tar("stl_labels.tar.gz", labels_beyond(members))
    write_tar("stl_size.tar.gz", members | {"stl10_binary/train_X.bin": bytes(100)})
    Path("empty.zip").touch()
    Path("page.zip").write_text("<!DOCTYPE html><html>Sign in</html>")
    Path("text.zip").write_text("nothing of the kind")
    Path("cut.zip").write_bytes(struct.pack("<4sI", b"PK\x03\x04", 0) + bytes(100))
    Path("folder").mkdir()
    Path("mine").mkdir()
    Path("mine/thesis.txt").touch()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("nowhere.zip", "nowhere.zip does not exist"),
        ("folder", "folder is a folder; expected the archive as downloaded"),
        ("empty.zip", "empty.zip is empty"),
        ("page.zip", "page.zip is a web page, maybe a download that failed"),
        ("text.zip", "text.zip is neither a tar nor a zip archive"),
        ("cut.zip", "cut.zip is damaged or cut off"),
        ("other.zip", "other.zip is no data set known here; expected one of cifar-10-binary.tar.gz"),
        ("dogs-vs-cats.zip", "dogs-vs-cats.zip holds another archive, train.zip; expected that one: unpack it first"),
        ("test1.zip", "test1.zip holds photos without classes"),
        ("images.tar.gz", "images.tar.gz is a part of Oxford-IIIT Pet; expected annotations.tar.gz with it"),
        ("annotations.tar.gz", "expected images.tar.gz with it"),
        ("images.tar.gz bad_list.tar.gz", "bad_list.tar.gz: a line 'pug_2 27 3 19'"),
        ("train.zip cut.tar.gz", "archives of CIFAR-10 and Dogs vs. Cats; expected one data set at a time"),
        ("train.zip cats_alone.zip", "are the same archive of a data set"),
        ("cut.tar.gz", "cut.tar.gz: data_batch_2.bin has 3,000 bytes"),
        ("few.tar.gz", "few.tar.gz lacks data_batch_3.bin"),
        ("stl_labels.tar.gz", "has labels beyond 1 to 10"),
        ("stl_size.tar.gz", "train_X.bin has 100 bytes for 2 labels"),
        ("cats_alone.zip", "no photo of dog in"),
        ("train.zip --classes dog cow", "--classes cow is not in Dogs vs. Cats; expected all, or some of dog, cat"),
        ("train.zip --classes dog", "--classes dog: one class; expected two or more"),
        ("train.zip --output mine", "mine holds other files"),
        ("", "the following arguments are required: ARCHIVE"),
    ],
)
def test_bad_usage_is_one_line_and_exit_2(end_of, faults, monkeypatch, arguments, message):
    monkeypatch.chdir(faults)
    code, said = end_of(main, arguments.split())
    assert code == 2 and message in said
    assert said.startswith("error: ") and said.count("\n") == 1 and len(said) <= 301


def test_another_data_set_does_not_mix_into_a_folder(end_of):
    write_zip("train.zip", {"train/cat.0.jpg": jpeg(), "train/dog.0.jpg": jpeg()})
    assert main(["train.zip", "--output", "out"]) == 0
    write_zip("archive.zip", {name: jpeg() for name in PHOTO_ARCHIVES["animals10"][0]})
    code, message = end_of(main, ["archive.zip", "--output", "out"])
    assert code == 2 and "out holds Dogs vs. Cats with 2 classes (dog, cat); expected another --output" in message
    assert main(["archive.zip", "--output", "animals", "--classes", "dog", "cat"]) == 0
    code, message = end_of(main, ["archive.zip", "--output", "animals"])
    assert code == 2 and "animals holds Animals-10 with 2 classes (dog, cat)" in message
    Path("animals/prepared.json").write_text("[]")
    code, message = end_of(main, ["archive.zip", "--output", "animals"])
    assert code == 2 and "animals holds a prepared.json that cannot be read; expected another --output" in message
