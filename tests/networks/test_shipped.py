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
from camlib.demo.scenes import demo_folder, draw_demo
from camlib.evaluation.metrics import binary_accuracy
from camlib.files import file_sha256
from camlib.networks import GAP_NETWORK, VGG_NETWORK
from camlib.networks.checkpoint import load_network
from camlib.photos import find_photos, read_batches
from camlib.plots.colours import resize_map

CLASSES = ["dog", "cat", "horse", "bird"]
CARD = (ROOT / "models" / "README.md").read_text("utf-8")
MOST_BYTES = 32 * 2**20
OF_EACH_CLASS, BOTH = 8, 12  # pictures: the first of the demo set's val and both

pytestmark = pytest.mark.any_backend


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """Folder of some pictures of the demo set."""
    folder = tmp_path_factory.mktemp("drawn") / "demo"
    draw_demo(folder, train=0, val=OF_EACH_CLASS, both=BOTH)
    return folder


@pytest.fixture(scope="module")
def mapped(demo):
    """The shipped pooling-free network's opinion: list of (annotation, maps (C, H, W), logits (C,)), one an animal."""
    network, input_spec = load_network(GAP_NETWORK)
    maps_of, found = cam_function(network), {}
    for done, images, failed in read_batches(find_photos([demo / "val", demo / "both"]), input_spec, 16):
        assert not failed
        maps, logits, _ = (ops.convert_to_numpy(part) for part in maps_of(input_spec.prepare(images)))
        found |= {photo.name: pair for (photo, _), pair in zip(done, zip(maps, logits, strict=True), strict=False)}
    annotations = json.loads((demo / "annotations.json").read_text())
    return [(annotation, *found[annotation["file"]]) for annotation in annotations]


def peaks_in_own_mask(demo, annotation, maps):
    """Whether the largest value of the animal's map, enlarged to the picture, falls inside the animal."""
    mask = cv2.imread(str(demo / annotation["mask"]), cv2.IMREAD_GRAYSCALE) > 0
    enlarged = resize_map(maps[CLASSES.index(annotation["class"])], *mask.shape)
    return mask[np.unravel_index(enlarged.argmax(), mask.shape)]


def test_cam_network_tells_the_demo_animals_apart_and_peaks_inside_them(mapped, demo):
    single = [one for one in mapped if one[0]["file"].startswith("val/")]
    assert len(single) == len(CLASSES) * OF_EACH_CLASS
    assert np.mean([CLASSES[logits.argmax()] == annotation["class"] for annotation, _, logits in single]) >= 0.95
    assert np.mean([peaks_in_own_mask(demo, annotation, maps) for annotation, maps, _ in single]) >= 0.90


def test_of_two_animals_each_class_peaks_in_its_own(mapped, demo):
    hits = {}
    for annotation, maps, _ in mapped:
        if annotation["file"].startswith("both/"):
            hits.setdefault(annotation["file"], []).append(peaks_in_own_mask(demo, annotation, maps))
    assert len(hits) == BOTH and all(len(pair) == 2 for pair in hits.values())
    assert np.mean([all(pair) for pair in hits.values()]) >= 0.70


# ---------------------------------------------------------------- the model card


def accuracies(path, folder):
    """(top-1, binary accuracy) of what a shipped network says of photos in class folders."""
    network, input_spec = load_network(path)
    outputs, labels = [], []
    for done, images, _ in read_batches(find_photos([folder]), input_spec, 32):
        outputs += list(network.predict(input_spec.prepare(images), verbose=0))[: len(done)]
        labels += [CLASSES.index(Path(photo.path).parent.name) for photo, _ in done]
    return np.mean(np.argmax(outputs, axis=1) == labels), binary_accuracy(np.stack(outputs), np.array(labels))


@pytest.mark.parametrize("path", [GAP_NETWORK, VGG_NETWORK], ids=lambda path: path.name)
def test_card_names_the_files(path):
    assert file_sha256(path) in CARD and path.stat().st_size <= MOST_BYTES


@pytest.mark.slow
@pytest.mark.parametrize("photos", ["demo val", "photos val"])
@pytest.mark.parametrize("path", [GAP_NETWORK, VGG_NETWORK], ids=lambda path: path.name)
def test_card_tells_the_scores(path, photos):
    if photos == "photos val" and not SHARED.exists():
        pytest.skip("development data is not here")
    folder = demo_folder() if photos == "demo val" else SHARED / "photos4"
    rows = re.findall(r"^\| `(\S+)` \| ([^|]+) \| ([\d.]+) \| ([\d.]+) \|$", CARD, re.MULTILINE)
    ((*_, top1, binary),) = (row for row in rows if row[:2] == (path.name, photos))
    np.testing.assert_allclose(accuracies(path, folder / "val"), (float(top1), float(binary)), atol=0.006)
