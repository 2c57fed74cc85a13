"""Class folders: the order of classes, labels, the split, and the cache."""

import os
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from camlib.class_folders import find_labelled_photos, load_labelled_photos
from camlib.console import UserError

pytestmark = pytest.mark.any_backend

GREY_INPUT = SimpleNamespace(height=4, width=6, channels=1, interpolation="area")
RGB_INPUT = SimpleNamespace(height=8, width=8, channels=3, interpolation="area")


def save(path, picture=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = np.full((8, 8, 3), 90, np.uint8) if picture is None else picture
    Image.fromarray(picture).save(path)


def class_folders(root, counts, suffix=".png"):
    generator = np.random.default_rng(0)
    for name, count in counts.items():
        for number in range(count):
            save(root / name / f"{number:03d}{suffix}", generator.integers(0, 255, (8, 8, 3), np.uint8))
    return root


def test_original_order_of_classes(tmp_path):
    class_folders(tmp_path / "a", {"bird": 2, "cat": 2, "dog": 2, "horse": 2})
    assert find_labelled_photos([tmp_path / "a"])[0] == ["dog", "cat", "horse", "bird"]
    class_folders(tmp_path / "b", {"dog": 2, "ant": 2})
    assert find_labelled_photos([tmp_path / "b"])[0] == ["ant", "dog"]


def test_labels_come_from_the_folder_alone(tmp_path):
    """The original looked for class names in the whole path."""
    class_folders(tmp_path / "cats_and_dogs", {"dog": 3, "cat": 3})
    names, train, val = find_labelled_photos([tmp_path / "cats_and_dogs"])
    for photo, label in train + val:
        assert photo.path.parent.name == names[label]


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


@pytest.mark.parametrize(
    ("folders", "words"),
    [
        ({"only/a.png": 1}, "1 class folder in"),
        ({"a/1.png": 1, "b/1.png": 1}, "holds one photo"),
        ({"train/a/1.png": 1, "train/b/1.png": 1, "val/a/1.png": 1}, "same class folders"),
        ({"train/a/1.png": 1, "train/b/1.png": 1, "val/a/1.png": 1, "val/b/1.png": 1, "val/c/1.png": 1}, "same class"),
        ({}, "0 class folders"),
    ],
)
def test_bad_class_folders(tmp_path, folders, words):
    for name in folders:
        save(tmp_path / name)
    with pytest.raises(UserError, match=words):
        find_labelled_photos([tmp_path])


def test_cache(tmp_path):
    root = class_folders(tmp_path / "data", {"dog": 4, "cat": 4})
    (root / "cat" / "bad.jpg").write_bytes(b"no photo")
    cache = tmp_path / "photos.h5"

    def load(meaning=RGB_INPUT):
        _, train, val = find_labelled_photos([root])
        return load_labelled_photos({"train": train, "val": val}, meaning, cache)

    photos, failed = load()
    assert failed == [(str(root / "cat" / "bad.jpg"), "not a JPEG, PNG, BMP, WebP or TIFF picture")]
    for part in photos.values():
        for image, label, name in zip(part.images, part.labels, part.names, strict=True):
            original = np.asarray(Image.open(root / ("dog" if label else "cat") / name))
            np.testing.assert_array_equal(image, original)
    written = cache.stat().st_mtime_ns
    again, failed_again = load()
    assert cache.stat().st_mtime_ns == written and failed_again == failed
    np.testing.assert_array_equal(again["train"].images, photos["train"].images)
    assert again["train"].names == photos["train"].names

    changed = root / "dog" / "000.png"
    save(changed, np.full((8, 8, 3), 77, np.uint8))
    os.utime(changed, (1, 1))
    assert any((image == 77).all() for part in load()[0].values() for image in part.images)
    assert load(GREY_INPUT)[0]["val"].images.shape[1:] == (4, 6, 1)

    cache.write_bytes(cache.read_bytes()[:3000])  # a disk that was full
    assert len(load()[0]["train"].labels) == len(photos["train"].labels)
    cache.write_bytes(b"not HDF5 at all")
    assert len(load()[0]["train"].labels) == len(photos["train"].labels)
