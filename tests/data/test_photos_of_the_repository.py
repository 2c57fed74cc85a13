"""The photographs that come with the repository: small, each with its credit and with a box for each animal."""

import re

import pytest
from PIL import Image

from camlib.evaluation.annotations import read_annotations
from camlib.photos import SHIPPED_PHOTOS, find_photos

pytestmark = pytest.mark.any_backend
FREE = r"Public [Dd]omain|CC0|CC BY(-SA)? \d\.\d|No known copyright restrictions"


def test_every_photo_is_small_and_credited():
    photos = find_photos([SHIPPED_PHOTOS])
    rows = re.findall(r"^\| (\S+\.jpg) \| (.+) \| (.+) \| (.+) \|$", (SHIPPED_PHOTOS / "CREDITS.md").read_text(), re.M)
    assert [name for name, *_ in rows] == sorted(photo.name for photo in photos) and len(photos) == 66
    assert [row for row in rows if not re.match(FREE, row[2]) or not row[1].strip() or not row[3].strip()] == []
    assert sum(photo.path.stat().st_size for photo in photos) < 4e6
    for photo in photos:
        with Image.open(photo.path) as picture:
            assert max(picture.size) <= 480 and not picture.getexif(), photo.name


def test_every_animal_has_a_box_inside_its_photo():
    found = read_annotations(SHIPPED_PHOTOS)
    of_folders = {photo.path: photo.path.parent.name for photo in find_photos([SHIPPED_PHOTOS])}
    assert {one.path for one in found} == set(of_folders)
    assert [one.path for one in found if of_folders[one.path] not in ("two", one.class_name)] == []
    assert {path for path in of_folders if sum(one.path == path for one in found) > 1} == {
        path for path, folder in of_folders.items() if folder == "two"
    }
    for one in found:
        with Image.open(one.path) as picture:
            assert picture.size == (one.width, one.height)
        assert one.boxes and all(
            0 <= x0 < x1 <= one.width and 0 <= y0 < y1 <= one.height for x0, y0, x1, y1 in one.boxes
        )
