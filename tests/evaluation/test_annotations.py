"""Boxes and masks from our JSON, from PASCAL VOC's XML files and from a folder of masks."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from camlib.console import UserError
from camlib.evaluation.annotations import (
    Annotation,
    Item,
    find_items,
    items_sha256,
    mask_size,
    name_below,
    read_annotations,
    spread,
    truth_kind,
)
from camlib.photos import PhotoError, read_photo

pytestmark = pytest.mark.any_backend

VOC = """<annotation><folder>x</folder><filename>one.jpg</filename>
<size><width>60</width><height>40</height><depth>3</depth></size>
<object><name>dog</name><bndbox><xmin>1</xmin><ymin>11</ymin><xmax>30</xmax><ymax>40</ymax></bndbox></object>
<object><name>cat</name><bndbox><xmin>31</xmin><ymin>1</ymin><xmax>60</xmax><ymax>20</ymax></bndbox></object>
<object><name>dog</name><bndbox><xmin>41</xmin><ymin>31</ymin><xmax>42</xmax><ymax>32</ymax></bndbox></object>
</annotation>"""


def save_mask(path, rows, columns, shape=(40, 60)):
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros(shape, np.uint8)
    mask[rows, columns] = 255
    Image.fromarray(mask).save(path)
    return mask > 0


def test_our_own_format(tmp_path):
    mask = save_mask(tmp_path / "masks" / "a.png", slice(10, 20), slice(5, 50))
    sides = {"width": 60, "height": 40}
    records = [
        {"file": "a.jpg", "class": "dog", "boxes": [[5, 10, 50, 20]], "mask": "masks/a.png", **sides},
        {"file": "sub/b.jpg", "class": "cat", "boxes": [[0, 0, 6, 4], [30, 20, 60, 40]], "mask": None, **sides},
    ]
    (tmp_path / "annotations.json").write_text(json.dumps(records))
    for place in (tmp_path, tmp_path / "annotations.json"):
        one, two = read_annotations(place)
        assert one.path == tmp_path / "a.jpg" and one.class_name == "dog" and two.path == tmp_path / "sub" / "b.jpg"
        np.testing.assert_array_equal(one.inside(40, 60), mask)
        assert two.boxes_in(80, 30) == [(0, 0, 3, 8), (15, 40, 30, 80)]
        inside = two.inside(40, 60)
        assert inside.sum() == 24 + 600 and inside[0, 0] and inside[39, 59] and not inside[10, 10]


def test_boxes_are_filled_to_the_nearest_pixel_within_the_photo():
    annotation = Annotation(None, "dog", ((-3, 1.4, 2.6, 3.6), (5, -9, 6, -8), (7, 5, 20, 20)), None, 8, 6)
    expected = np.zeros((6, 8), bool)
    expected[1:4, :3] = expected[5:, 7:] = True
    np.testing.assert_array_equal(annotation.inside(6, 8), expected)


def test_a_sample_has_as_many_of_each_class_at_even_distances():
    items = [Item(None, str(number), "cat" if number in (1, 4) else "dog", None) for number in range(8)]
    for count, names in ((1, "01"), (2, "01"), (4, "0147"), (5, "01347"), (6, "01347"), (99, "01234567")):
        assert "".join(item.name for item in spread(items, count)) == names, count


@pytest.mark.parametrize(("width", "ok"), [(1, True), (999_999, True), (0, False), (1_000_000, False), (2.5, False)])
def test_sides_of_a_photo_are_whole_numbers_below_a_million(tmp_path, width, ok):
    (tmp_path / "annotations.json").write_text(record(width=width, boxes=[[0, 0, 1, 1]]))
    if ok:
        assert read_annotations(tmp_path)[1].width == width
    else:
        with pytest.raises(UserError, match=f"record 2.*a photo of {width} x 9 pixels"):
            read_annotations(tmp_path)


def test_what_is_evaluated_is_what_was_named(tmp_path, photo_folder):
    folder = photo_folder({"a.png": (1, 2, 3), "b.png": (4, 5, 6)})
    sides = {"boxes": [[0, 0, 9, 9]], "width": 40, "height": 30}
    records = [{"file": name, "class": kind} | sides for name, kind in (("a.png", "dog"), ("b.png", "dog"),
                                                                      ("a.png", "cat"))]  # fmt: skip
    (folder / "annotations.json").write_text(json.dumps(records))
    found = find_items([folder / "a.png"], folder)
    assert [item.key for item in found] == ["a.png#dog", "a.png#cat"]
    assert [one.class_name for one in found[0].of_photo] == ["dog", "cat"] and truth_kind(found[0]) == "boxes"
    other = photo_folder({"c.png": (1, 2, 3)}, folder="other")
    with pytest.raises(UserError, match="none of the photos in .*other has an annotation in .*photos"):
        find_items([other], folder)
    assert [item.annotation for item in find_items([other], None)] == [None]
    assert name_below(tmp_path / "x" / "a.png", tmp_path) == "x/a.png"
    assert name_below(tmp_path / "x" / "a.png", tmp_path / "y") == "a.png"


def test_masks_shrink_with_the_photo(tmp_path):
    save_mask(tmp_path / "m.png", slice(0, 20), slice(0, 30))
    annotation = Annotation(tmp_path / "p.jpg", "dog", (), tmp_path / "m.png", 60, 40)
    inside = annotation.inside(20, 30)
    assert inside[:10, :15].all() and inside.sum() == 150


def test_pascal_voc(tmp_path):
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "JPEGImages").mkdir()
    (tmp_path / "Annotations" / "one.xml").write_text(VOC)
    photo = tmp_path / "JPEGImages" / "one.jpg"
    Image.new("RGB", (60, 40)).save(photo)
    for place in (tmp_path, tmp_path / "Annotations", tmp_path / "Annotations" / "one.xml"):
        dog, cat = read_annotations(place)
        assert dog.path == cat.path == photo and (dog.width, dog.height) == (60, 40)
        assert dog.boxes == ((0, 10, 30, 40), (40, 30, 42, 32))  # VOC counts from 1 and includes the last pixel
        assert cat.class_name == "cat" and cat.boxes == ((30, 0, 60, 20),)


def test_folder_of_masks(tmp_path, photo_folder):
    folder = photo_folder({"dog/a.jpg": (1, 2, 3), "cat/b.jpg": (4, 5, 6)})
    mask = save_mask(folder / "masks" / "dog" / "a.png", slice(3, 9), slice(2, 8), (30, 40))
    (found,) = read_annotations(folder)  # b has no mask
    assert found.path == folder / "dog" / "a.jpg" and found.class_name == "dog"
    assert (found.width, found.height) == (40, 30)
    np.testing.assert_array_equal(found.inside(30, 40), mask)


FLAT = '[{"file": "a.jpg", "class": "dog", "boxes": [[5, 5, 5, 9]], "width": 9, "height": 9}]'


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("annotations.json", "{", r"annotations.json cannot be read \(JSONDecodeError"),
        ("annotations.json", '[{"file": "a.jpg"}]', r"KeyError: .class.\); expected a list of records"),
        ("annotations.json", "[]", "no annotations in"),
        ("annotations.json", FLAT, "has no area"),
        ("one.xml", "<annotation>", "one.xml cannot be read .*; expected a PASCAL VOC annotation"),
        ("one.xml", "<annotation><filename>x</filename></annotation>", "one.xml cannot be read"),
        ("one.xml", "<other/>", "no annotations in"),
        ("x.txt", "", "no annotations in"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        read_annotations(tmp_path)


def record(**changes):
    """annotations.json of a good record and one with changes."""
    good = {"file": "a.jpg", "class": "dog", "boxes": [[1, 1, 5, 9]], "mask": None, "width": 9, "height": 9}
    return json.dumps([good, good | changes])


VOC_FORM = """<annotation><filename>{file}</filename><size><width>9</width><height>9</height></size><object>
<name>dog</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax><ymax>5</ymax></bndbox></object><object>{object}</object>
</annotation>"""
BOX = "<bndbox><xmin>{0}</xmin><ymin>1</ymin><xmax>5</xmax><ymax>5</ymax></bndbox>"
BAD_RECORDS = {
    "NUL": (record(file="a\0.jpg"), "record 2"),
    "half a surrogate": (record(file="\ud800.jpg"), "record 2"),
    "mask of half a surrogate": (record(mask="\udfff.png"), "record 2"),
    "NUL in a mask": (record(mask="\0"), "record 2"),
    "class of no name": (record(**{"class": None}), "record 2"),
    "class of two lines": (record(**{"class": "a\nb"}), "record 2"),
    "class that clears the screen": (record(**{"class": "\x1b[2J"}), "record 2"),
    "class of 5,000 letters": (record(**{"class": "a" * 5000}), "record 2"),
    "class of half a surrogate": (record(**{"class": "\ud800"}), "record 2"),
    "box of 1e308": (record(boxes=[[0, 0, 1e308, 1e308]]), "record 2"),
    "box of 400 digits": (record(boxes=[[0, 0, 10**400, 5]]), "record 2"),
    "side of 400 digits": (record(width=10**400), "record 2"),
    "sides of 1e308": (record(width=1e308), "record 2"),
    "a list": ("[[]]", "record 1"),
    "a number": ("7", "TypeError"),
}
BAD_VOC = {
    "object without a name": (VOC_FORM.format(file="a.jpg", object=BOX.format(1)), "object 2"),
    "object of an empty name": (VOC_FORM.format(file="a.jpg", object="<name/>" + BOX.format(1)), "object 2"),
    "object without a box": (VOC_FORM.format(file="a.jpg", object="<name>cat</name>"), "object 2"),
    "box of 1e308": (VOC_FORM.format(file="a.jpg", object="<name>cat</name>" + BOX.format("-1e308")), "object 2"),
    "file of 5,000 letters": (VOC_FORM.format(file="a" * 5000, object="<name>cat</name>" + BOX.format(1)), "too long"),
    "unknown encoding": ('<?xml version="1.0" encoding="bogus"?><annotation/>', "unknown encoding"),
    "encoding of several bytes": ('<?xml version="1.0" encoding="utf-7"?><annotation/>', "encoding"),
    "NUL": ("<annotation>\0</annotation>", "not well-formed"),
}


@pytest.mark.parametrize("name", [*BAD_RECORDS, *(f"VOC: {name}" for name in BAD_VOC)])
def test_a_bad_record_is_one_line_that_says_which(tmp_path, name):
    text, where = BAD_VOC[name[5:]] if name.startswith("VOC: ") else BAD_RECORDS[name]
    path = tmp_path / ("one.xml" if name.startswith("VOC: ") else "annotations.json")
    path.write_text(text)
    with pytest.raises(UserError) as why:
        find_items([], path)
    said = str(why.value)
    assert where in said and "; expected " in said and said.isprintable() and len(said) < 400 + len(str(path))


def test_a_long_file_of_voc_is_refused_before_it_takes_gigabytes(tmp_path):
    (tmp_path / "a.xml").write_text("<annotation>" + "<a/>" * 2**20 + "</annotation>")
    with pytest.raises(UserError, match="longer than 4 MB"):
        read_annotations(tmp_path)


def test_missing_places_and_masks(tmp_path):
    with pytest.raises(UserError, match="does not exist; expected a JSON file"):
        read_annotations(tmp_path / "nothing")
    with pytest.raises(PhotoError, match="its mask .*m.png cannot be read"):
        Annotation(tmp_path / "p.jpg", "dog", (), tmp_path / "m.png", 4, 4).inside(4, 4)


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n"


@pytest.mark.parametrize("content", [POSTSCRIPT, b"nonsense", b""], ids=["PostScript", "text", "empty"])
def test_a_mask_is_a_picture(tmp_path, content):
    """PostScript would be handed to another program by the library that decodes pictures."""
    (tmp_path / "mask.png").write_bytes(content)
    annotation = Annotation(tmp_path / "a.jpg", "dog", (), tmp_path / "mask.png", 4, 4)
    with pytest.raises(PhotoError, match="its mask .* cannot be read") as why:
        annotation.inside(4, 4)
    assert "identify" in str(why.value)
    with pytest.raises(UserError, match="expected a mask"):
        mask_size(tmp_path / "mask.png")


def test_photos_and_annotations_are_told_by_their_content(photo_folder):
    """Neither by a file's time nor by how the JSON is laid out."""
    folder = photo_folder({"dog/a.png": (200, 60, 60), "cat/b.png": (60, 200, 60)})
    files = {path: path.read_bytes() for path in folder.glob("*/*.png")}

    def found(box, indent=None, **others):
        for path, content in files.items():
            path.write_bytes(others.get(path.stem, content))
        records = [
            {"file": path.relative_to(folder).as_posix(), "class": path.parent.name, "boxes": [box], "mask": None,
             "width": 40, "height": 30}
            for path in files
        ]  # fmt: skip
        (folder / "annotations.json").write_text(json.dumps(records, indent=indent))
        return items_sha256(find_items([], folder))

    first, box, photo = found([5, 5, 25, 25]), found([5, 5, 25, 26]), found([5, 5, 25, 25], a=b"another")
    assert found([5, 5, 25, 25], indent=4) == first
    assert [name for name in first if box[name] != first[name]] == ["annotations_sha256"]
    assert [name for name in first if photo[name] != first[name]] == ["photos_sha256"]


def test_photos_and_masks_without_end_are_not_waited_for(tmp_path):
    """An annotations.json may name what it likes, such as a device or a pipe."""
    os.mkfifo(tmp_path / "pipe")
    records = [
        {"file": place, "class": "dog", "boxes": [], "mask": place, "width": 60, "height": 40}
        for place in ("/dev/zero", "pipe")
    ]
    (tmp_path / "annotations.json").write_text(json.dumps(records))
    items = find_items([], tmp_path / "annotations.json")
    assert len(items_sha256(items)["photos_sha256"]) == 64
    for item in items:
        with pytest.raises(PhotoError, match="empty file"):
            read_photo(item.path)
        with pytest.raises(PhotoError, match="a pipe or a device"):
            item.annotation.inside(4, 6)
