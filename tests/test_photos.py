"""Photos: what is found, how it is decoded, what a bad file is told, class folders, and the cache."""

import os
import struct
import time
import zlib
from types import SimpleNamespace

import cv2
import numpy as np
import PIL
import pytest
from PIL import Image

from camlib.console import UserError
from camlib.evaluation.annotations import Annotation
from camlib.photos import (
    PhotoError,
    display_size,
    find_photos,
    in_parallel,
    network_input,
    read_batches,
    read_photo,
    resize_photo,
)

pytestmark = pytest.mark.any_backend

GREY_INPUT = SimpleNamespace(height=4, width=6, channels=1, interpolation="area", fit="whole")
RGB_INPUT = SimpleNamespace(height=8, width=8, channels=3, interpolation="area", fit="whole")


def blocks(height=96, width=64):
    """A picture whose four quarters are red, green, blue and grey: orientation shows, and JPEG hardly changes it."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[: height // 2, : width // 2] = (200, 30, 30)
    picture[: height // 2, width // 2 :] = (30, 200, 30)
    picture[height // 2 :, : width // 2] = (30, 30, 200)
    picture[height // 2 :, width // 2 :] = (120, 120, 120)
    return picture


def quarters(picture):
    """The colours in the middle of the four quarters, in reading order: int (4, 3)."""
    height, width = picture.shape[:2]
    return picture[[height // 4] * 2 + [3 * height // 4] * 2, [width // 4, 3 * width // 4] * 2].astype(int)


def save(path, picture=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = blocks() if picture is None else picture
    picture = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
    picture.save(path, **options)
    return path


# ---------------------------------------------------------------- decoding


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "WEBP", "TIFF", "MPO"])
def test_formats_are_told_apart_by_content(tmp_path, kind):
    path = save(tmp_path / "photo.xyz", format=kind)
    assert len(find_photos([tmp_path])) == 1
    np.testing.assert_allclose(quarters(read_photo(path)), quarters(blocks()), atol=12)
    np.testing.assert_allclose(quarters(read_photo(path.rename(tmp_path / "lies.png"))), quarters(blocks()), atol=12)


# What a viewer does for each EXIF orientation, in terms of NumPy: from the stored to the upright picture
UPRIGHT = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.transpose(1, 0, 2),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: x[::-1, ::-1].transpose(1, 0, 2),
    8: lambda x: np.rot90(x),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation(tmp_path, orientation):
    stored, exif = blocks(320, 192), Image.Exif()
    exif[0x0112] = orientation
    path, expected = save(tmp_path / "a.jpg", stored, exif=exif), UPRIGHT[orientation](stored)
    for image in (read_photo(path), read_photo(path, shorter_side=16)):
        assert (image.shape[0] > image.shape[1]) == (expected.shape[0] > expected.shape[1])
        np.testing.assert_allclose(quarters(image), quarters(expected), atol=12)


def test_jpegs_are_decoded_at_reduced_scale(tmp_path):
    path = save(tmp_path / "a.jpg", blocks(800, 1200))
    assert read_photo(path, 100).shape == (100, 150, 3)
    assert read_photo(path, 101).shape == (200, 300, 3)
    assert read_photo(path).shape == (800, 1200, 3)


MODES = {
    "PNG": ["L", "1", "P", "RGBA", "LA", "I;16", "RGB"],
    "TIFF": ["L", "1", "P", "RGBA", "LA", "CMYK", "I;16", "RGB"],
    "JPEG": ["L", "CMYK", "RGB"],
}


@pytest.mark.parametrize(("kind", "mode"), [(kind, mode) for kind, modes in MODES.items() for mode in modes])
def test_modes_come_out_as_rgb(tmp_path, kind, mode):
    picture = Image.fromarray(blocks())
    if mode == "I;16":
        grey = np.asarray(picture.convert("L")).astype(np.uint16) * 257
        picture, expected = Image.fromarray(grey), np.repeat((grey // 257)[..., None], 3, axis=2)
    else:
        picture = picture.convert(mode)
        expected = np.asarray(picture.convert("L" if mode == "LA" else mode).convert("RGB"))
    image = read_photo(save(tmp_path / "a", picture, format=kind))
    assert image.dtype == np.uint8 and image.shape == (96, 64, 3)
    np.testing.assert_allclose(quarters(image), quarters(expected), atol=12 if kind == "JPEG" else 1)


def test_16_bit_rgb_png(tmp_path):
    values = blocks().astype(np.uint16) * 257
    cv2.imwrite(str(tmp_path / "a.png"), values[..., ::-1])
    np.testing.assert_allclose(read_photo(tmp_path / "a.png"), blocks(), atol=1)


def tiff_of_bands(path, bands, photometric):
    """An uncompressed TIFF 6.0 file of 5x4 pixels; bands that are no colours are unspecified, as GDAL writes them."""
    bits = struct.pack(f"<{bands}H", *[8] * bands)
    extra = bands - {1: 1, 2: 3}[photometric]
    unspecified = struct.pack(f"<{extra}H", *[0] * extra)
    after = 8 + 2 + 12 * 10 + 4  # header, count, ten tags, no further page
    tags = [(256, 3, 1, 5), (257, 3, 1, 4), (258, 3, bands, after), (259, 3, 1, 1), (262, 3, 1, photometric),
            (273, 4, 1, after + len(bits) + 8), (277, 3, 1, bands), (278, 3, 1, 4), (279, 4, 1, 20 * bands),
            (338, 3, extra, after + len(bits) if extra > 2 else int.from_bytes(unspecified, "little"))]  # fmt: skip
    if bands == 2:
        tags[2] = (258, 3, 2, 8 | 8 << 16)
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags)
    path.write_bytes(head + bytes(4) + bits + unspecified.ljust(8, b"\0") + bytes(range(20 * bands)))
    return path


# What Pillow opens, leaving bands out, two of grey from its version 13 on; of the rest it cannot tell what they are
KNOWN = {(4, 2), (5, 2), *([(2, 1)] if int(PIL.__version__.split(".")[0]) >= 13 else [])}


@pytest.mark.parametrize(("bands", "photometric"), [(2, 1), (4, 2), (5, 2), (4, 1), (5, 1)])
def test_tiffs_of_other_bands_are_no_photos(tmp_path, bands, photometric):
    """Satellites' bands are no colours: a picture of the first ones would be a wrong one."""
    found = bands if (bands, photometric) in KNOWN else "bands, bits"
    with pytest.raises(PhotoError, match=f"a TIFF of {found}.*expected grey or RGB"):
        read_photo(tiff_of_bands(tmp_path / "a.tif", bands, photometric))


def test_tiffs_of_several_pages_are_no_photo(tmp_path):
    pages = [Image.fromarray(blocks()), Image.fromarray(blocks()[::-1].copy())]
    with pytest.raises(PhotoError, match="a TIFF of 3 pages; expected one picture a file"):
        read_photo(save(tmp_path / "a.tif", pages[0], save_all=True, append_images=[pages[1]] * 2))
    thumbnail = pages[1].resize((16, 24))
    thumbnail.encoderinfo = {"tiffinfo": {254: 1}}  # a smaller copy of the first page
    image = read_photo(save(tmp_path / "b.tif", pages[0], save_all=True, append_images=[thumbnail]))
    np.testing.assert_array_equal(image, blocks())


def test_transparency_lies_on_white(tmp_path):
    picture = np.dstack((blocks(), np.full((96, 64), 51, np.uint8)))  # 20 % opaque
    image = read_photo(save(tmp_path / "a.png", picture))
    np.testing.assert_allclose(image, 0.2 * blocks() + 0.8 * 255, atol=1.5)


# ---------------------------------------------------------------- bad files


def bad_files(folder):
    """Write one bad file of each kind; returns {path: words its reason must hold}."""
    whole = save(folder.parent / "whole.jpg", blocks(200, 300)).read_bytes()
    progressive = save(folder.parent / "progressive.jpg", blocks(200, 300), progressive=True).read_bytes()
    noise = np.random.default_rng(0).integers(0, 255, (60, 60, 3), np.uint8)
    png = save(folder.parent / "whole.png", noise).read_bytes()
    folder.mkdir()
    contents = {
        "text.jpg": (b"this is no picture\n", "not a JPEG"),
        "empty.jpg": (b"", "empty"),
        "cut.jpg": (whole[: len(whole) * 2 // 3], "cut off"),
        "cut_progressive.jpg": (progressive[: len(progressive) // 2], "cut off"),
        "no_end.jpg": (whole[:-40], "cut off"),
        "header.jpg": (whole[:30], "cut off"),
        "cut.png": (png[: len(png) // 2], "cut off"),
        "array.jpg": (b"\x93NUMPY" + bytes(20), "a NumPy array; expected a picture: save its photo as PNG or TIFF"),
        "z.gif": (b"GIF89a" + bytes(20), "not a JPEG"),
    }
    for name, (data, _) in contents.items():
        (folder / name).write_bytes(data)
    (folder / "gone.jpg").symlink_to(folder / "nowhere")
    return {folder / name: words for name, (_, words) in contents.items()} | {folder / "gone.jpg": "no such file"}


def test_bad_files_say_why(tmp_path):
    expected = bad_files(tmp_path / "bad")
    assert {photo.path for photo in find_photos([tmp_path / "bad"])} == set(expected)
    for path, words in expected.items():
        with pytest.raises(PhotoError, match=words) as error:
            read_photo(path)
        assert "\n" not in str(error.value)


def with_sides(path, width, height):
    """Write other sides into the header of a PNG: its pixels are then cut off, but what it claims comes first."""
    data = path.read_bytes()
    body = data[12:16] + width.to_bytes(4, "big") + height.to_bytes(4, "big") + data[24:29]
    path.write_bytes(data[:12] + body + zlib.crc32(body).to_bytes(4, "big") + data[33:])


def test_a_picture_too_large_to_be_meant_is_refused(tmp_path):
    save(tmp_path / "a.png", np.zeros((8, 8), np.uint8))
    for side in (13_300, 60_000):
        with_sides(tmp_path / "a.png", side, side)
        words = f"{side:,} x {side:,} pixels.* expected at most 100,000,000: .*--most-pixels {side * side}"
        with pytest.raises(PhotoError, match=words):
            read_photo(tmp_path / "a.png")


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"format": "MPO"}], ids=["baseline", "progressive", "MPO"]
)
def test_what_counts_of_a_large_jpeg_is_the_scale_it_is_decoded_at(tmp_path, options):
    path = save(tmp_path / "a.jpg", blocks(1600, 2400), **options)
    # an eighth of each side has 60,000 pixels, a third of all 1,150,000
    assert read_photo(path, 200, most_pixels=700_000).shape == (200, 300, 3)
    with pytest.raises(PhotoError, match="2,400 x 1,600 pixels, of which 3,840,000 would be decoded"):
        read_photo(path, most_pixels=700_000)
    assert read_photo(path, most_pixels=3_840_000).shape == (1600, 2400, 3)


def test_a_refused_progressive_jpeg_says_what_its_coefficients_take(tmp_path):
    """An eighth of each side, 60,000 pixels, and 0.3 of all 3,840,000: as much memory as half of their sum takes."""
    path = save(tmp_path / "a.jpg", blocks(1600, 2400), progressive=True)
    expected = "60,000 would be decoded, in the memory of 606,000; expected at most 500,000: .*--most-pixels 606000"
    with pytest.raises(PhotoError, match=expected):
        read_photo(path, 200, most_pixels=500_000)
    assert read_photo(path, 200, most_pixels=606_000).shape == (200, 300, 3)


def with_scans(path, count):
    """Repeat a scan that changes nothing in a progressive JPEG file of one grey."""
    data = save(path, np.full((1000, 1000), 128, np.uint8), progressive=True).read_bytes()
    table = data.rindex(b"\xff\xc4", 0, data.index(b"\xff\xda", data.index(b"\xff\xda") + 1))
    end = data.index(b"\xff\xc4", data.index(b"\xff\xda", table))
    path.write_bytes(data[:table] + data[table:end] * count + data[table:])
    return path


def test_a_jpeg_of_very_many_scans_is_refused_before_it_takes_minutes(tmp_path):
    assert (read_photo(with_scans(tmp_path / "some.jpg", 200)) == 128).all()
    path = with_scans(tmp_path / "many.jpg", 40_000)
    assert path.stat().st_size < 2_000_000
    started = time.monotonic()
    with pytest.raises(PhotoError, match="40,006 scans of 1,000,000 pixels"):
        read_photo(path)
    assert time.monotonic() - started < 5


def test_a_picture_in_millions_of_pieces_is_refused_before_it_takes_minutes(tmp_path):
    """Pillow looks at each in Python; a card that failed leaves a photo's beginning and 0xFF."""
    whole, path = save(tmp_path / "a.jpg").read_bytes(), tmp_path / "b.jpg"
    path.write_bytes(whole[:20] + b"\xff" * 3_000_000)
    with pytest.raises(PhotoError, match="in more than 1,000,000 pieces"):
        read_photo(path)
    path.write_bytes(whole[:2] + b"\xff\xfe\0\2" * 1_000_000 + whole[2:])  # comments
    with pytest.raises(PhotoError, match="its mask .* in more than 1,000,000 pieces"):
        Annotation(path, "dog", (), path, 4, 4).inside(4, 4)


def test_a_tiff_without_end_is_no_photo(tmp_path):
    pages = [Image.fromarray(np.full((2, 2), number, np.uint8)) for number in range(3)]
    path = save(tmp_path / "a.tif", pages[0], save_all=True, append_images=pages[1:])
    data = bytearray(path.read_bytes())
    place, offsets = 4, []
    while offset := int.from_bytes(data[place : place + 4], "little"):
        offsets.append(offset)
        place = offset + 2 + 12 * int.from_bytes(data[offset : offset + 2], "little")
    data[place : place + 4] = offsets[1].to_bytes(4, "little")  # the last page's next is the second
    path.write_bytes(data)
    with pytest.raises(PhotoError, match="a TIFF of|damaged"):
        read_photo(path)


def test_batches_go_on_past_bad_files(tmp_path):
    bad = bad_files(tmp_path / "photos")
    for number in range(5):
        save(tmp_path / "photos" / f"good_{number}.png", np.full((9, 9, 3), 40 * number, np.uint8))
    batches = list(read_batches(find_photos([tmp_path / "photos"]), RGB_INPUT, 2))
    assert {path for _, _, failed in batches for path, _ in failed} == set(map(str, bad))
    names = [photo.name for done, _, _ in batches for photo, _ in done]
    assert names == [f"good_{number}.png" for number in range(5)]
    assert [len(done) for done, _, _ in batches] == [0, 0, 0, 2, 2, 1, 0, 0]  # 6 bad files before the good, 4 after
    assert [len(failed) for _, _, failed in batches] == [2, 2, 2, 0, 0, 1, 2, 1]
    done, images, _ = batches[5]
    assert images.shape == (2, 8, 8, 3) and (images[0] == 160).all() and not images[1].any()


# ---------------------------------------------------------------- finding


def names(*places):
    return [photo.name for photo in find_photos(list(places))]


def test_odd_names(tmp_path):
    odd = ["a b.JPG", "é漢字.jpeg", "[1]*?.Png", "dir.jpg/x.jpg", "no_suffix", "-v.jpg", "ü/ö.tif", "two.dots.bmp"]
    for name in odd:
        save(tmp_path / name, format="PNG")
    assert sorted(names(tmp_path)) == sorted(odd)
    for photo in find_photos([tmp_path]):
        assert read_photo(photo.path).shape == (96, 64, 3)


def test_names_that_are_not_utf8(tmp_path):
    path = os.path.join(os.fsencode(tmp_path), b"caf\xe9.jpg")
    with open(path, "wb") as file:
        Image.fromarray(blocks()).save(file, "JPEG")
    (photo,) = find_photos([tmp_path])
    assert os.fsencode(photo.name) == b"caf\xe9.jpg" and read_photo(photo.path).shape == (96, 64, 3)


def test_no_two_photos_share_a_folder(tmp_path):
    for name in ("a.jpg", "a.png", "b.jpg", "x.jpg", "x.png", "x.jpg.png", "Case.jpg", "case.png", "sub/a.jpg"):
        save(tmp_path / name, format="PNG")
    folders = {photo.name: photo.folder for photo in find_photos([tmp_path])}
    assert folders == {name: {"b.jpg": "b", "sub/a.jpg": "sub/a"}.get(name, name) for name in folders}
    assert len(folders) == 9


def test_links_are_followed_once(tmp_path):
    save(tmp_path / "photos" / "a.jpg")
    save(tmp_path / "elsewhere" / "b.jpg")
    (tmp_path / "photos" / "loop").symlink_to(tmp_path / "photos")
    (tmp_path / "photos" / "other").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "photos")
    assert names(tmp_path / "photos") == ["a.jpg", "other/b.jpg"]


def test_what_is_no_photo_is_passed_over(tmp_path):
    for name in ("a.jpg", ".hidden.jpg", ".cache/x.jpg", "maps/a/photo.jpg"):
        save(tmp_path / name)
    (tmp_path / "maps" / "run.json").write_text("{}")
    (tmp_path / "notes.txt").write_text("no photo")
    os.mkfifo(tmp_path / "pipe.jpg")
    os.mkfifo(tmp_path / "pipe")
    assert names(tmp_path) == ["a.jpg"]


def test_files_and_folders_given_together(tmp_path):
    for name in ("one/a.jpg", "two/a.jpg", "c.jpg"):
        save(tmp_path / name)
    assert names(tmp_path / "one", tmp_path / "two", tmp_path / "c.jpg") == ["one/a.jpg", "two/a.jpg", "c.jpg"]
    with pytest.raises(UserError, match="share a name"):
        find_photos([tmp_path / "one" / "a.jpg", tmp_path / "two" / "a.jpg"])


def test_nothing_to_do_is_an_error(tmp_path):
    with pytest.raises(UserError, match="no photo in .*expected JPEG"):
        find_photos([tmp_path])
    with pytest.raises(UserError, match="does not exist"):
        find_photos([tmp_path / "missing"])


def test_folder_without_permission(photos_with_closed_folder, as_nobody):
    folder = photos_with_closed_folder
    photos = find_photos([folder])
    assert [photo.name for photo in photos] == ["open/a.png", "closed"]
    with pytest.raises(PhotoError, match="no permission"):
        read_photo(photos[1].path)
    with pytest.raises(UserError, match="permission"):
        find_photos([folder / "closed"])


# ---------------------------------------------------------------- sizes and channels


def test_area_resizing_is_the_mean():
    image = np.random.default_rng(0).integers(0, 255, (12, 24, 3), np.uint8)
    expected = image.reshape(4, 3, 6, 4, 3).astype(float).mean(axis=(1, 3))
    np.testing.assert_allclose(resize_photo(image, 4, 6), expected, atol=0.51)


def test_whole_photo_reaches_the_network():
    image = network_input(blocks(), GREY_INPUT)
    assert image.shape == (4, 6, 1)
    luma = quarters(blocks()) @ (0.299, 0.587, 0.114)
    np.testing.assert_allclose(quarters(image)[:, 0], luma, atol=1)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((1000, 2000), (256, 512)), ((100, 50), (100, 50)), ((10, 20), (32, 64)), ((1, 5000), (1, 512))],
)
def test_display_size(shape, expected):
    assert display_size(*shape, 64) == expected


def test_decoding_ahead_is_bounded_and_in_order():
    begun = []

    def work(number):
        begun.append(number)
        time.sleep(0.001 * (number % 3))
        if number == 7:
            raise PhotoError("seven")
        return -number

    for count, (number, result) in enumerate(in_parallel(work, range(50), ahead=10)):
        assert number == count and len(begun) <= count + 10
        assert str(result) == ("seven" if number == 7 else str(-number))
    assert count == 49
