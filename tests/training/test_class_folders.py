"""Class folders: the order of classes, labels, the split, and the cache."""

import os
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from camlib.console import UserError
from camlib.photos import find_photos
from camlib.training.class_folders import (
    LabelledPhotos,
    find_labelled_photos,
    load_labelled_photos,
    load_photos,
    photos_sha256,
    validation_folders,
)

pytestmark = pytest.mark.any_backend

GREY_INPUT = SimpleNamespace(height=4, width=6, channels=1, interpolation="area", fit="whole")
RGB_INPUT = SimpleNamespace(height=8, width=8, channels=3, interpolation="area", fit="whole")


def save(path, picture=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = np.full((8, 8, 3), 90, np.uint8) if picture is None else picture
    Image.fromarray(picture).save(path)


def class_folders(root, counts, suffix=".png"):
    generator = np.random.default_rng(list(root.name.encode()))  # other photos in val than in train
    for name, count in counts.items():
        for number in range(count):
            save(root / name / f"{number:03d}{suffix}", generator.integers(0, 255, (8, 8, 3), np.uint8))
    return root


def test_original_order_of_classes_and_labels_of_the_folder_alone(tmp_path):
    """The original looked for class names in the whole path."""
    class_folders(tmp_path / "cats_and_dogs", {"bird": 2, "cat": 2, "dog": 2, "horse": 2})
    names, train, val = find_labelled_photos([tmp_path / "cats_and_dogs"])
    assert names == ["dog", "cat", "horse", "bird"]
    assert all(photo.path.parent.name == names[label] for photo, label in train + val)
    class_folders(tmp_path / "b", {"dog": 2, "ant": 2})
    assert find_labelled_photos([tmp_path / "b"])[0] == ["ant", "dog"]


def test_seeded_split_is_stratified_and_complete(tmp_path):
    class_folders(tmp_path, {"dog": 20, "cat": 40})
    _, train, val = find_labelled_photos([tmp_path], seed=3)
    assert [[label for _, label in part].count(0) for part in (train, val)] == [34, 6]
    assert [[label for _, label in part].count(1) for part in (train, val)] == [17, 3]
    assert len({photo.path for photo, _ in train + val}) == 60
    assert find_labelled_photos([tmp_path], seed=3)[1:] == (train, val)
    assert find_labelled_photos([tmp_path], seed=4)[2] != val


def test_given_split_is_kept_and_folders_are_joined(tmp_path):
    class_folders(tmp_path / "a" / "train", {"dog": 3, "cat": 3})
    class_folders(tmp_path / "a" / "val", {"dog": 1, "cat": 1})
    class_folders(tmp_path / "b", {"dog": 10, "cat": 10})
    _, train, val = find_labelled_photos([tmp_path / "a", tmp_path / "b"])
    assert (len(train), len(val)) == (6 + 16, 2 + 4)
    assert all("val" in photo.path.parts for photo, _ in val if photo.path.is_relative_to(tmp_path / "a"))


def test_train_alone_beside_both_parts_is_trained_on_and_nothing_more(tmp_path):
    class_folders(tmp_path / "a" / "train", {"dog": 3, "cat": 3, "horse": 2})
    class_folders(tmp_path / "a" / "val", {"dog": 2, "cat": 1, "horse": 1})
    class_folders(tmp_path / "more" / "train", {"dog": 7, "cat": 4})  # no horses
    for data in (["a", "more"], ["more", "a"]):
        names, train, val = find_labelled_photos([tmp_path / name for name in data])
        assert names == ["cat", "dog", "horse"]
        assert [[label for _, label in part].count(1) for part in (train, val)] == [10, 2]
        assert (len(train), len(val)) == (8 + 11, 4)
        assert not any(photo.path.is_relative_to(tmp_path / "more") for photo, _ in val)
    class_folders(tmp_path / "alone", {"dog": 10, "cat": 10, "horse": 10})  # of these a part is set aside
    _, train, val = find_labelled_photos([tmp_path / "alone", tmp_path / "more"])
    assert (len(train), len(val)) == (24 + 11, 6)


def test_a_class_may_be_called_train(tmp_path):
    class_folders(tmp_path, {"train": 10, "bus": 10})
    names, train, val = find_labelled_photos([tmp_path])
    assert names == ["bus", "train"] and (len(train), len(val)) == (16, 4)


@pytest.mark.parametrize(
    ("folders", "data", "message"),
    [
        (["more/train/dog", "more/train/cat"], ["more"], "{0}/more: train/ alone, so that there is nothing to"),
        (["a/val/dog", "a/val/cat"], ["a"], "{0}/a holds val/ without train/, photos to validate on only"),
        (
            ["a/train/dog", "a/train/cat", "a/val/dog", "a/val/cat", "more/train/dog", "more/train/fish"],
            ["a", "more"],
            "{0}/more/train/fish: in one of train/ and val/ only; expected the same class folders in both",
        ),
        (
            ["a/train/dog", "a/train/cat", "a/val/dog", "a/val/cat", "a/val/ant"],
            ["a"],
            "{0}/a/val/ant: in one of train/ and val/ only; expected the same class folders in both",
        ),
        (["a/dog", "a/cat", "b/.hidden/dog"], ["a", "b"], "0 class folders in {0}/b; expected train/ and val/ in it"),
        (["a/train/dog", "a/train/cat", "a/test/dog"], ["a"], "{0}/a holds train/ with folders in it, beside test;"),
        (["a/val/dog", "a/val/cat", "a/training/dog"], ["a"], "{0}/a holds val/ with folders in it, beside training;"),
        (
            ["a/one.png", "a/two.png"],
            ["a"],
            "2 photos and no class folders in {0}/a; expected train/ and val/ in it, or",
        ),
        (
            ["a/dog", "a/cat/one.png"],
            ["a"],
            "{0}/a/cat holds one photo; expected two or more, to train and to validate",
        ),
        (["a/dog"], ["a"], "1 class folder in {0}/a (dog); expected one folder of photos for each of two classes"),
    ],
)
def test_data_folders_that_do_not_fit_together(tmp_path, folders, data, message):
    for name in folders:
        if name.endswith(".png"):
            save(tmp_path / name)
        else:
            class_folders(tmp_path, {name: 2})
    with pytest.raises(UserError) as error:
        find_labelled_photos([tmp_path / name for name in data])
    said = str(error.value)
    assert (
        said.startswith(message.format(tmp_path)) and "\n" not in said and len(said.replace(str(tmp_path), "")) <= 300
    )


def test_a_message_names_a_few_of_many_folders(tmp_path):
    class_folders(tmp_path / "train", {f"class_{number}": 1 for number in range(9)})
    class_folders(tmp_path / "val", {"class_0": 1})
    with pytest.raises(UserError, match="train/class_1, .*train/class_3 and 5 more: in one of train/ and val/ only"):
        find_labelled_photos([tmp_path])


def test_decoded_photos_are_kept_until_something_changes(tmp_path):
    root = class_folders(tmp_path / "data", {"dog": 4, "cat": 4})
    (root / "cat" / "bad.jpg").write_bytes(b"no photo")
    cache = tmp_path / "photos.npy"

    def load(input_spec=RGB_INPUT):
        _, train, val = find_labelled_photos([root])
        parts = {"train": train, "val": val}
        return parts, *load_labelled_photos(parts, input_spec, cache)

    parts, photos, failed, sha256 = load()
    assert failed == [(str(root / "cat" / "bad.jpg"), "not a JPEG, PNG, BMP, WebP or TIFF picture")]
    for part, labelled in parts.items():
        readable = [(photo, label) for photo, label in labelled if photo.path.name != "bad.jpg"]
        np.testing.assert_array_equal(photos[part].labels, [label for _, label in readable])
        np.testing.assert_array_equal(
            photos[part].images, [np.asarray(Image.open(photo.path)) for photo, _ in readable]
        )
    written = cache.stat().st_mtime_ns
    _, again, *same = load()
    assert cache.stat().st_mtime_ns == written and same == [failed, sha256]
    np.testing.assert_array_equal(again["train"].images, photos["train"].images)

    save(root / "dog" / "000.png", np.full((8, 8, 3), 77, np.uint8))
    os.utime(root / "dog" / "000.png", (1, 1))
    _, changed, _, other = load()
    assert any((image == 77).all() for part in changed.values() for image in part.images) and other != sha256
    assert load(GREY_INPUT)[1]["val"].images.shape[1:] == (4, 6, 1)
    for path in (cache, cache.with_suffix(".json")):
        path.unlink()
        assert len(load()[1]["train"].labels) == len(photos["train"].labels)


def test_the_file_of_decoded_photos_is_read_once(tmp_path, monkeypatch):
    """At the start of a training; its hash is that of its pixels and labels, whether it is new or not."""
    _, train, val = find_labelled_photos([class_folders(tmp_path / "data", {"dog": 4, "cat": 4})])
    parts, read = {"train": train, "val": val}, []

    def seen(photos):
        read.append(photos)
        return photos_sha256(photos)

    monkeypatch.setattr("camlib.training.class_folders.photos_sha256", seen)
    for count in (1, 2):
        photos, _, sha256 = load_labelled_photos(parts, RGB_INPUT, tmp_path / "photos.npy")
        assert len(read) == count and sha256 == photos_sha256(photos)


def test_photos_are_neither_kept_in_memory_nor_compressed_in_the_cache(tmp_path):
    """All photos are in memory at no time: those that are decoded ahead are 64."""
    root = class_folders(tmp_path / "data", {"dog": 150, "cat": 150})
    _, train, val = find_labelled_photos([root])
    input_spec = SimpleNamespace(height=128, width=128, channels=3, interpolation="area", fit="whole")
    tracemalloc.start()
    photos, _, sha256 = load_labelled_photos({"train": train, "val": val}, input_spec, tmp_path / "photos.npy")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 0.6 * 300 * 128 * 128 * 3
    images, labels = np.load(tmp_path / "photos.npy"), [len(part.labels) for part in photos.values()]
    assert images.shape == (300, 128, 128, 3) and sum(labels) == 300
    parts = zip(photos, np.split(images, [labels[0]]), strict=True)
    assert sha256 == photos_sha256({part: LabelledPhotos(some, photos[part].labels) for part, some in parts})


def test_folders_without_photos_are_no_classes_and_are_named(tmp_path, capsys):
    class_folders(tmp_path, {"dog": 4, "cat": 4})
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "todo.txt").write_text("more cats")
    names, _, _ = find_labelled_photos([tmp_path])
    assert names == ["cat", "dog"]
    assert capsys.readouterr().out == f"no photos in {tmp_path / 'notes'}: left out\n"


def test_few_photos_to_validate_on_are_named(tmp_path, capsys):
    class_folders(tmp_path / "train", {"dog": 3, "cat": 3, "ant": 1})
    class_folders(tmp_path / "val", {"dog": 9, "cat": 10, "ant": 1})
    names, *found = find_labelled_photos([tmp_path])
    save(tmp_path / "sky.png")
    found[0] += [(photo, 3) for photo in find_photos([tmp_path / "sky.png"])]  # of none of the classes
    input_spec = SimpleNamespace(**vars(RGB_INPUT), class_names=names)
    photos, failed, _ = load_photos(dict(zip(("train", "val"), found, strict=True)), input_spec, tmp_path / "cache.npy")
    assert capsys.readouterr().out.splitlines() == [
        "train: ant 1, cat 3, dog 3, none of them 1",
        "val: ant 1, cat 10, dog 9",
        "fewer than 10 photos to validate on: ant 1, dog 9; their accuracy says little",
    ]
    assert len(photos["val"].labels) == 20 and failed == []


def test_photos_in_two_classes_or_in_train_and_val_are_named(tmp_path, capsys):
    """By their pixels, whatever their names and formats, and whatever could not be read before them."""
    class_folders(tmp_path / "train", {"dog": 12, "cat": 12})
    class_folders(tmp_path / "val", {"dog": 12, "cat": 12})
    (tmp_path / "train" / "dog" / "000.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    once, again = tmp_path / "train" / "dog" / "003.png", tmp_path / "train" / "cat" / "same.png"
    again.write_bytes(once.read_bytes())
    for number in range(4):
        with Image.open(tmp_path / "train" / "cat" / f"00{number}.png") as picture:
            picture.save(tmp_path / "val" / "cat" / f"copy{number}.bmp")
    names, *found = find_labelled_photos([tmp_path])
    parts, input_spec = dict(zip(("train", "val"), found, strict=True)), SimpleNamespace(**vars(RGB_INPUT))
    input_spec.class_names = names
    expected = [
        f"1 photo in two classes: {once} is {again}",
        "4 photos in train and val: "
        + ", ".join(
            f"{tmp_path}/val/cat/copy{number}.bmp is {tmp_path}/train/cat/00{number}.png" for number in range(3)
        )
        + " and 1 more",
    ]
    for _ in range(2):  # the second time from the file of decoded photos
        load_photos(parts, input_spec, tmp_path / "cache.npy")
        assert capsys.readouterr().out.splitlines()[3:] == expected


def test_where_the_photos_to_validate_on_are(tmp_path):
    class_folders(tmp_path / "a" / "train", {"dog": 1}), class_folders(tmp_path / "a" / "val", {"dog": 1})
    class_folders(tmp_path / "b" / "train", {"dog": 1}), class_folders(tmp_path / "b" / "val", {"dog": 1})
    class_folders(tmp_path / "c", {"dog": 2}), class_folders(tmp_path / "more" / "train", {"dog": 2})
    found = validation_folders([tmp_path / name for name in ("a", "b", "c", "more")])
    assert found == [tmp_path / "a" / "val", tmp_path / "c"]  # maps of b/val would lie where those of a/val do
