"""Pictures that are not 8-bit: read as a person would see them, said once; or refused with what they are."""

import sys
import warnings

import cv2
import numpy as np
import pytest
from PIL import Image

import make_cam_maps
from camlib.photos import PhotoError, find_photos, read_photo

pytestmark = pytest.mark.any_backend
RAMP = np.linspace(0, 1, 64)[None] * np.ones((48, 1))  # from black to white
SEEN = np.repeat(np.rint(RAMP * 255)[..., None], 3, axis=2)


def grey_file(path, values):
    Image.fromarray(values).save(path)
    return path


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_bits_kept_in_16_run_from_black_to_white(tmp_path, bits, suffix):
    path = grey_file(tmp_path / f"a.{suffix}", np.rint(RAMP * (2**bits - 1)).astype(np.uint16))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")
        photos = [read_photo(path) for _ in range(3)]
    assert all(np.abs(photo - SEEN).max() <= 1 for photo in photos)
    words = [str(one.message) for one in said]
    top = f"{2**bits - 1:,}"
    expected = f"pictures of 16 bits with no number above {top} are read as {bits} bits: their white is {top}"
    assert words == ([expected] if bits < 16 else [])


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("alpha", [False, True])
def test_colours_of_12_bits_in_16(tmp_path, suffix, alpha):
    """Of which Pillow keeps the upper 8: nearly black."""
    colours = np.stack([RAMP, RAMP[:, ::-1], RAMP * 0], axis=-1)  # RGB
    deep = np.rint(colours * 4095).astype(np.uint16)[..., ::-1]
    clear = np.full((48, 64, 1), 65535, np.uint16)
    clear[:4] = 0  # there the white below shows
    cv2.imwrite(str(tmp_path / f"a.{suffix}"), np.concatenate([deep, clear], axis=2) if alpha else deep)
    with pytest.warns(UserWarning, match="are read as 12 bits"):
        photo = read_photo(tmp_path / f"a.{suffix}")
    assert np.abs(photo[4:] - np.rint(colours * 255)[4:]).max() <= 1
    assert (photo[:4] == 255).all() == alpha


def test_a_dark_picture_of_true_16_bits_stays_dark(tmp_path):
    """8 bits that were doubled to fill 16 are multiples of 257."""
    path = grey_file(tmp_path / "a.png", np.rint(RAMP * 60).astype(np.uint16) * 257)
    assert read_photo(path).max() == 60


@pytest.mark.parametrize("factor", [1, 255])
def test_float_tiff(tmp_path, factor):
    path = grey_file(tmp_path / "a.tif", (RAMP * factor).astype(np.float32))
    assert np.abs(read_photo(path) - SEEN).max() <= 1


@pytest.mark.parametrize(
    ("values", "why"),
    [
        (RAMP * 2 - 1, "floating-point grey values: numbers of -1..1; expected photos of 0..255 or of 0..1"),
        (RAMP * 10_000, "floating-point grey values: numbers of 0..1e.04; expected"),
        (np.where(RAMP > 0.5, np.nan, RAMP), "floating-point grey values: a number that is not finite"),
    ],
)
def test_floats_that_are_no_greys_are_refused(tmp_path, values, why):
    with pytest.raises(PhotoError, match=why):
        read_photo(grey_file(tmp_path / "a.tif", values.astype(np.float32)))


# ---------------------------------------------------------------- pictures that are not read

OTHERS = {
    "a.jp2": (None, "a JPEG 2000 picture, not a JPEG, PNG.*expected it saved as PNG"),
    "b.ppm": (None, "a PPM picture, not a JPEG"),
    "c.gif": (None, "a GIF picture, not a JPEG"),
    "d.avif": (b"\0\0\0\x1cftypavif" + bytes(20), "an AVIF picture"),
    "e.heic": (b"\0\0\0\x18ftypheic" + bytes(20), "a HEIC picture"),
    "f.dcm": (bytes(128) + b"DICM" + bytes(64), "a DICOM picture"),
    "IM0001": (bytes(128) + b"DICM" + bytes(64), "a DICOM picture"),
    "g.jxl": (b"\xff\x0a" + bytes(20), "a JPEG XL picture"),
    "h.psd": (b"8BPS" + bytes(20), "not a JPEG, PNG, BMP, WebP or TIFF picture"),
}


@pytest.fixture
def folder(tmp_path):
    for name, (content, _) in OTHERS.items():
        path = tmp_path / "photos" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content) if content else Image.fromarray(SEEN.astype(np.uint8)).save(path)
    (tmp_path / "photos" / "notes.txt").write_text("P3 is no picture")
    grey_file(tmp_path / "photos" / "z.png", SEEN.astype(np.uint8))
    return tmp_path / "photos"


def test_no_picture_of_a_folder_is_passed_over(folder):
    assert [photo.name for photo in find_photos([folder])] == sorted([*OTHERS, "z.png"])
    for name, (_, why) in OTHERS.items():
        with pytest.raises(PhotoError, match=why):
            read_photo(folder / name)


def test_they_are_rows_of_failed_csv(folder, tmp_path):
    arguments = [str(folder), "--size", "16", "--output", str(tmp_path / "out"), "--no-pictures"]
    assert make_cam_maps.main(arguments) == 1
    rows = (tmp_path / "out" / "failed.csv").read_text("utf-8")
    assert all(name in rows for name in OTHERS) and "z.png" not in rows and "saved as PNG" in rows


def test_dicom_names_its_reader_where_that_is_missing(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "pydicom", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(PhotoError, match="a DICOM picture; expected what pip install pydicom installs, or the picture"):
        read_photo(folder / "f.dcm")


def dicom_file(path, values, **tags):
    dataset = pytest.importorskip("pydicom.dataset")
    uid = pytest.importorskip("pydicom.uid")
    data = dataset.Dataset()
    data.file_meta = dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = uid.SecondaryCaptureImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = "1.2.3"
    data.Rows, data.Columns = values.shape[:2]
    data.BitsAllocated = 8 * values.dtype.itemsize
    data.BitsStored, data.HighBit = data.BitsAllocated, data.BitsAllocated - 1
    data.PixelRepresentation, data.SamplesPerPixel = int(values.dtype.kind == "i"), 3 if values.ndim == 3 else 1
    data.PhotometricInterpretation = "RGB" if values.ndim == 3 else "MONOCHROME2"
    if values.ndim == 3:
        data.PlanarConfiguration = 0
    for name, value in tags.items():
        setattr(data, name, value)
    data.PixelData = values.tobytes()
    data.save_as(path, enforce_file_format=True)
    return path


def test_dicom_is_seen_through_its_window(tmp_path):
    """PS3.3 C.11.2.1.2.1, on values that the slope and the intercept make (Hounsfield units)."""
    values = np.rint(RAMP * 2000).astype(np.int16)  # -1000..1000
    window = {"WindowCenter": 40, "WindowWidth": 400, "RescaleSlope": 1, "RescaleIntercept": -1000}
    photo = read_photo(dicom_file(tmp_path / "a", values, **window))
    shares = np.clip((values - 1000 - 39.5) / 399 + 0.5, 0, 1)
    assert np.abs(photo - np.rint(shares * 255)[..., None]).max() <= 1 and photo.shape == (48, 64, 3)
    photo = read_photo(dicom_file(tmp_path / "b.dcm", values, PhotometricInterpretation="MONOCHROME1"))
    assert np.abs(photo - (255 - SEEN)).max() <= 1  # without a window, from the smallest to the largest
    colours = np.stack([RAMP, RAMP[:, ::-1], RAMP * 0], axis=-1) * 255
    assert np.abs(read_photo(dicom_file(tmp_path / "c.dcm", colours.astype(np.uint8))) - colours).max() <= 1
    for tags, why in (({"NumberOfFrames": 3}, "of 3 frames"), ({"VOILUTFunction": "SIGMOID"}, "of the kind SIGMOID")):
        with pytest.raises(PhotoError, match=why):
            read_photo(dicom_file(tmp_path / "d.dcm", values, **tags))
    with pytest.raises(PhotoError, match="3,072 pixels; expected at most 100"):
        read_photo(tmp_path / "b.dcm", most_pixels=100)
