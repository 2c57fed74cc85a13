"""The networks in models/: what they score on the demo set, and that their card tells the truth."""

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import ROOT, SHARED
from keras import ops

from camlib.attribution.cam import cam_function
from camlib.demo.scenes import demo_folder
from camlib.evaluation.metrics import binary_accuracy
from camlib.files import file_sha256
from camlib.networks.checkpoint import load_network
from camlib.photos import find_photos, read_batches
from camlib.plots.colours import resize_map
from camlib.preprocessing import probabilities_of

CLASSES = ["dog", "cat", "horse", "bird"]
CAM, VGG16 = ROOT / "models" / "cam_4class.h5", ROOT / "models" / "vgg16_4class.h5"
MOST_BYTES = 32 * 2**20

pytestmark = pytest.mark.any_backend


def maps_and_logits(places):
    """{photo's name: (maps (C, H, W), logits (C,))} of the shipped pooling-free network."""
    network, input_spec = load_network(CAM)
    maps_of = cam_function(network)
    found = {}
    for done, images, failed in read_batches(find_photos(places), input_spec, 32):
        assert not failed
        maps, logits, _ = (ops.convert_to_numpy(part) for part in maps_of(input_spec.prepare(images)))
        found |= {photo.name: pair for (photo, _), pair in zip(done, zip(maps, logits, strict=True), strict=False)}
    return found


def is_in_own_mask(values, annotation):
    """Whether the largest value of a map, enlarged to the picture, falls inside the animal."""
    mask = cv2.imread(str(demo_folder() / annotation["mask"]), cv2.IMREAD_GRAYSCALE) > 0
    enlarged = resize_map(values, *mask.shape)
    return mask[np.unravel_index(enlarged.argmax(), mask.shape)]


@pytest.fixture(scope="module")
def demo():
    """The shipped network's maps and logits of the demo's val and both, and the annotations."""
    annotations = json.loads((demo_folder() / "annotations.json").read_text())
    found = maps_and_logits([demo_folder() / "val", demo_folder() / "both"])
    return found, [annotation for annotation in annotations if annotation["file"] in found]


def test_cam_network_tells_the_demo_animals_apart(demo):
    found, annotations = demo
    right = [
        CLASSES[found[annotation["file"]][1].argmax()] == annotation["class"]
        for annotation in annotations
        if annotation["file"].startswith("val/")
    ]
    assert len(right) == 200 and np.mean(right) >= 0.95


def test_cam_of_the_true_class_peaks_inside_the_animal(demo):
    found, annotations = demo
    hits = [
        is_in_own_mask(found[annotation["file"]][0][CLASSES.index(annotation["class"])], annotation)
        for annotation in annotations
        if annotation["file"].startswith("val/")
    ]
    assert len(hits) == 200 and np.mean(hits) >= 0.90


def test_of_two_animals_each_class_peaks_in_its_own(demo):
    found, annotations = demo
    hits = {}
    for annotation in annotations:
        if annotation["file"].startswith("both/"):
            values = found[annotation["file"]][0][CLASSES.index(annotation["class"])]
            hits.setdefault(annotation["file"], []).append(is_in_own_mask(values, annotation))
    assert len(hits) == 50 and all(len(pair) == 2 for pair in hits.values())
    assert np.mean([all(pair) for pair in hits.values()]) >= 0.70


# ---------------------------------------------------------------- the model card


def card_rows():
    """The card's table: {(file, photos): (top-1, binary accuracy)}."""
    text = (ROOT / "models" / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\S+)` \| ([^|]+) \| ([\d.]+) \| ([\d.]+) \|$", text, re.MULTILINE)
    return {(name, photos): (float(top1), float(binary)) for name, photos, top1, binary in rows}


def probabilities_on(path, folder):
    """{photo's path: probabilities (C,)} of a shipped network on a folder of class folders."""
    network, input_spec = load_network(path)
    found = {}
    for done, images, _ in read_batches(find_photos([folder]), input_spec, 32):
        outputs = network.predict(input_spec.prepare(images), verbose=0)
        found |= {str(photo.path): values for (photo, _), values in zip(done, outputs, strict=False)}
    return found


def accuracies(found):
    """(top-1, binary accuracy) of what a network says of photos in class folders."""
    labels = np.array([CLASSES.index(Path(path).parent.name) for path in found])
    values = np.stack(list(found.values()))
    return np.mean(values.argmax(1) == labels), binary_accuracy(values, labels)


@pytest.mark.thorough
@pytest.mark.parametrize("path", [CAM, VGG16], ids=lambda path: path.name)
def test_card_names_the_files_and_their_scores(path, demo):
    card = (ROOT / "models" / "README.md").read_text(encoding="utf-8")
    assert file_sha256(path) in card and path.stat().st_size <= MOST_BYTES
    if path == CAM:
        found = {
            name: probabilities_of(logits[None])[0] for name, (_, logits) in demo[0].items() if name.startswith("val/")
        }
    else:
        found = probabilities_on(path, demo_folder() / "val")
    np.testing.assert_allclose(accuracies(found), card_rows()[path.name, "demo val"], atol=0.006)


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.exists(), reason="development data is not here")
@pytest.mark.parametrize("path", [CAM, VGG16], ids=lambda path: path.name)
def test_card_tells_the_scores_on_photos(path):
    scores = accuracies(probabilities_on(path, SHARED / "photos4" / "val"))
    np.testing.assert_allclose(scores, card_rows()[path.name, "photos val"], atol=0.006)
