"""Damaged photos by the hundred through each script: every one is done or is a row of failed.csv, none ends a run.

`pytest -m slow tests/test_bad_photos.py` does 5,000 of them through each.
"""

import io

import keras
import numpy as np
import pytest
from conftest import CLASSES, read_csv
from PIL import Image

import evaluate_maps
import gradcam_vgg16
import make_cam_maps
import show_heatmaps
import train_cam_4class
from camlib.networks.checkpoint import save_network
from camlib.photos import find_photos
from camlib.preprocessing import InputSpec

pytestmark = [pytest.mark.any_backend, pytest.mark.thorough]
FEW, MANY = 100, 5_000

# ---------------------------------------------------------------- the corpus

KINDS = [
    ("RGB", "JPEG", {}), ("RGB", "JPEG", {"progressive": True}), ("L", "JPEG", {}), ("CMYK", "JPEG", {}),
    ("RGB", "PNG", {}), ("RGBA", "PNG", {}), ("P", "PNG", {}), ("I;16", "PNG", {}), ("1", "PNG", {}),
    ("RGB", "TIFF", {"compression": "tiff_lzw"}), ("RGB", "TIFF", {"compression": "tiff_deflate"}), ("L", "TIFF", {}),
    ("RGB", "WEBP", {}), ("RGBA", "WEBP", {"lossless": True}), ("RGB", "BMP", {}), ("RGB", "MPO", {}),
]  # fmt: skip


def whole_photos(generator):
    """A file of each of KINDS: list of bytes."""
    picture = Image.fromarray(generator.integers(0, 256, (33, 47, 3), np.uint8)).resize((94, 66))
    files = []
    for mode, kind, options in KINDS:
        grey = Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257)
        content = io.BytesIO()
        (grey if mode == "I;16" else picture.convert(mode)).save(content, kind, **options)
        files.append(content.getvalue())
    return files


def damaged(data, generator):
    """A file with some bytes changed, cut out, put in, or moved; most of it stays."""
    data, place = bytearray(data), int(generator.integers(len(data)))
    length = int(generator.integers(1, 40))
    way = int(generator.integers(7))
    if way == 0:
        del data[place:]
    elif way == 1:
        del data[place : place + length]
    elif way == 2:
        data[place:place] = generator.bytes(length)
    elif way == 3:
        data[place : place + length] = bytes(length)
    elif way == 4:  # in the header, where sides, depths and offsets are
        for one in generator.integers(0, min(64, len(data)), 3):
            data[one] = int(generator.integers(256))
    elif way == 5:
        data[place : place + 4] = b"\xff\xff\xff\x7f"
    else:
        for one in generator.integers(0, len(data), length):
            data[one] ^= 1 << int(generator.integers(8))
    return bytes(data)


def write_corpus(folder, count):
    """Damaged photos in the folders of two classes, and a few whole ones among them."""
    generator = np.random.default_rng(20)
    files = whole_photos(generator)
    for name in CLASSES:
        (folder / name).mkdir(parents=True)
        for number in range(12):
            (folder / name / f"whole_{number}.jpg").write_bytes(files[number])
    for number in range(count):
        data = damaged(files[number % len(files)], generator)
        (folder / CLASSES[number % 2] / f"{number:04d}.jpg").write_bytes(data)
    return folder


@pytest.fixture(scope="module", params=[FEW, pytest.param(MANY, marks=pytest.mark.slow)])
def corpus(request, tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus") / "photos", request.param)


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    keras.utils.set_random_seed(2)
    pixels = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(4, 3, activation="relu")(pixels)
    outputs = keras.layers.Dense(2, activation="softmax")(keras.layers.GlobalAveragePooling2D()(x))
    path = tmp_path_factory.mktemp("network") / "net.h5"
    save_network(keras.Model(pixels, outputs), path, InputSpec(CLASSES, 16, 16, 3))
    return path


def column(path, name):
    return [row[name] for row in read_csv(path)]


# ---------------------------------------------------------------- each script


@pytest.mark.parametrize(("main", "option"), [(make_cam_maps.main, "--model"), (gradcam_vgg16.main, "--weights")])
def test_maps(main, option, corpus, network, tmp_path):
    output = tmp_path / "out"
    assert main([str(corpus), option, str(network), "--output", str(output)]) == 1
    done = {str(corpus / name) for name in column(output / "predictions.csv", "path")}
    failed = column(output / "failed.csv", "path")
    photos = {str(photo.path) for photo in find_photos([corpus])}
    assert done | set(failed) == photos and not done & set(failed) and len(done) + len(failed) == len(photos)
    assert {path for path in photos if "whole" in path} <= done
    assert len(failed) > len(photos) / 4  # the corpus is damaged indeed
    reasons = column(output / "failed.csv", "reason")
    assert all(reason and "\n" not in reason and len(reason) < 300 for reason in reasons)


def test_evaluation(corpus, network, tmp_path):
    words = ["--maps", f"{network}:cam", "--only", "network", "--output", str(tmp_path / "out")]
    assert evaluate_maps.main([str(corpus), *words]) == 1
    assert len(set(column(tmp_path / "out" / "failed.csv", "path"))) > 20
    assert (tmp_path / "out" / "report.html").exists()


def test_training(corpus, tmp_path, capsys):
    output = tmp_path / "net.h5"
    words = "--recipe original --epochs 1".split()
    assert train_cam_4class.main(["--data", str(corpus), *words, "--output", str(output)]) == 1
    failed = column(tmp_path / "net_failed.csv", "path")
    assert len(failed) > 20 and not [path for path in failed if "whole" in path] and output.exists()


def test_viewer(corpus, network, tmp_path):
    """The files that a run wrote, damaged afterwards."""
    output = tmp_path / "out"
    photos = [str(corpus / CLASSES[0] / f"whole_{number}.jpg") for number in range(12)]
    assert make_cam_maps.main([*photos, "--model", str(network), "--output", str(output)]) == 0
    generator = np.random.default_rng(3)
    for path in sorted(output.glob("whole_[3-9]/*")):
        if path.suffix == ".npy" or path.name == "photo.jpg":
            path.write_bytes(damaged(path.read_bytes(), generator))
    assert show_heatmaps.main([str(output), "--html", str(tmp_path / "a.html")]) == 1
    assert show_heatmaps.main([str(output), "--sheet", str(tmp_path / "a.png")]) == 1
    for number in range(12):
        words = ["--photo", f"whole_{number}.jpg", "--save", str(tmp_path / "b.png")]
        assert show_heatmaps.main([str(output), *words]) == 0
