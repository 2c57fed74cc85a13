"""The benchmark of pictures that hold none of the classes."""

import json

import keras
import numpy as np
import pytest
from keras import layers
from PIL import Image
from sklearn.metrics import roc_auc_score, roc_curve

from benchmarks.negatives import main, separation, squares_beside
from camlib.networks.checkpoint import save_network
from camlib.preprocessing import InputSpec

pytestmark = pytest.mark.any_backend


@pytest.mark.parametrize("count", [217, 200])  # of a multiple of twenty 95 % is a whole number
def test_separation_is_that_of_the_roc_curve(count):
    generator = np.random.default_rng(0)
    positives = generator.beta(5, 1, count).round(2)  # with ties
    others = generator.beta(2, 2, 143).round(2)
    truth = np.repeat([1, 0], [count, 143])
    scores = np.concatenate((positives, others))
    false_positives, true_positives, _ = roc_curve(truth, scores, drop_intermediate=False)
    auroc, fpr95 = separation(positives, others)
    assert auroc == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)
    assert fpr95 == pytest.approx(false_positives[true_positives >= 0.95].min(), abs=1e-12)
    assert separation(np.arange(1, 21), np.repeat([1.5, 0.5], 10)) == (0.975, 0.0)  # 19 of 20 are at least 2


def test_it_says_what_a_network_takes_pictures_for(tmp_path, photo_folder, capsys):
    pixels = keras.Input((8, 8, 3))
    network = keras.Model(pixels, layers.Dense(2, activation="softmax")(layers.GlobalAveragePooling2D()(pixels)))
    network.layers[-1].set_weights([np.array([[0.0, 4.0], [0.0, 4.0], [0.0, 4.0]]), np.array([0.0, -6.0])])
    input_spec = InputSpec(["dark", "light"], 8, 8, 3)
    save_network(network, tmp_path / "light.h5", input_spec)
    photos = {"a.png": 40, "b.png": 60, "c.png": 230}
    negatives_ = photo_folder({name: (grey,) * 3 for name, grey in photos.items()}, folder="negatives")
    positives = photo_folder({"a.png": (20,) * 3, "b.png": (235,) * 3}, folder="positives")
    main(["--networks", str(tmp_path / "light.h5"), "--negatives", str(negatives_), "--positives", str(positives)])
    printed = capsys.readouterr().out
    assert "dark 0.667  light 0.333" in printed
    known, unknown = (  # a photo's mean tells its logits: 0 and 12 mean - 6
        np.array([max(p, 1 - p) for p in (1 / (1 + np.exp(6 - 12 * mean)) for mean in means_of(folder))])
        for folder in (positives, negatives_)
    )
    numbers = np.median(unknown), np.median(known), (unknown >= 0.5).mean(), (unknown >= 0.9).mean()
    auroc = np.mean([one > other for one in known for other in unknown])
    fpr95 = (unknown >= known.min()).mean()
    expected = [f"{number:.3f}" for number in (*numbers, auroc, fpr95)]
    assert printed.split()[-6:] == expected


def test_a_folder_that_holds_something_else_is_one_line(tmp_path, photo_folder, end_of):
    folder = photo_folder({"a.png": (1, 2, 3)})
    (folder / "b.png").write_bytes(b"nonsense")
    code, said = end_of(main, ["--negatives", folder])
    assert code == 2 and "b.png cannot be read" in said and said.count("\n") == 1


def test_squares_beside_animals_are_the_largest(tmp_path, end_of):
    """The second photo has two animals and no room; of the third, of 60 pixels, the right 55 are free."""
    pictures = np.random.default_rng(0).integers(0, 256, (3, 120, 200, 3), np.uint8)
    boxes = [[(0, 0, 100, 120)], [(0, 0, 120, 120), (160, 30, 200, 90)], [(0, 0, 5, 60)]]
    records = []
    for name, picture, of_photo in zip("abc", (*pictures[:2], pictures[2, :60, :60]), boxes, strict=True):
        Image.fromarray(picture).save(tmp_path / f"{name}.png")
        records += [
            {"file": f"{name}.png", "class": kind, "boxes": [box], "mask": None, "width": picture.shape[1],
             "height": len(picture)}
            for kind, box in zip(("dog", "cat"), of_photo, strict=False)
        ]  # fmt: skip
    (tmp_path / "annotations.json").write_text(json.dumps(records), encoding="utf-8")
    first, last = squares_beside(tmp_path)
    assert first.shape == (99, 99, 3) and last.shape == (55, 55, 3)
    places = np.lib.stride_tricks.sliding_window_view(pictures[0, :, 100:], (99, 99), axis=(0, 1))
    assert (places == first.transpose(2, 0, 1)).all(axis=(2, 3, 4)).any()
    assert any((pictures[2, y : y + 55, 5:60] == last).all() for y in range(6))
    (tmp_path / "annotations.json").write_text(json.dumps(records[1:3]), encoding="utf-8")
    code, said = end_of(main, ["--outside", tmp_path])
    assert code == 2 and "no photo has a square of 48 pixels without an animal" in said
    (tmp_path / "b.png").write_bytes(b"nonsense")
    code, said = end_of(main, ["--outside", tmp_path])
    assert code == 2 and "b.png cannot be read" in said and said.count("\n") == 1


def means_of(folder):
    """The mean of each photo's pixels, as shares of 255."""
    return [np.asarray(Image.open(path)).mean() / 255 for path in sorted(folder.iterdir())]
