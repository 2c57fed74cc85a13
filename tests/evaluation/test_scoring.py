"""What is scored of one photo, against figures worked out apart in float64 NumPy, and photos that cannot be scored."""

import json

import cv2
import keras
import numpy as np
import pytest
from conftest import read_csv
from keras import layers, ops
from PIL import Image
from scipy.ndimage import distance_transform_edt, gaussian_filter, zoom

import evaluate_maps
from camlib.console import UserError
from camlib.evaluation import metrics, parse_map, scoring
from camlib.evaluation.annotations import Annotation, Item, find_items
from camlib.evaluation.results import Results, merged
from camlib.evaluation.score_tables import APART, score_table
from camlib.evaluation.scored_networks import ScoredNetwork
from camlib.networks.checkpoint import save_network
from camlib.preprocessing import InputSpec
from camlib.runs.claim import NOT_FINITE

pytestmark = pytest.mark.any_backend
NAMES = ["dark", "light"]
STEPS = 4

# ---------------------------------------------------------------- where the truth is


@pytest.mark.parametrize("marked", ["boxes", "mask"])
def test_truth_is_shown_at_the_photos_size(tmp_path, marked):
    """A photo of 1,200 x 600 pixels at 300 x 150: a quarter of everything, the fifteen pixels of tolerance too."""
    whole = np.zeros((600, 1200), bool)
    whole[80:240, 400:1000] = True
    Image.fromarray(np.uint8(255) * whole).save(tmp_path / "mask.png")
    boxes, mask = (((400, 80, 1000, 240),), None) if marked == "boxes" else ((), tmp_path / "mask.png")
    annotation = Annotation(tmp_path / "a.png", "dog", boxes, mask, 1200, 600)
    item = Item(tmp_path / "a.png", "a.png", "dog", annotation)
    inside, near, found, elsewhere, classes = scoring.truth_of(item, (150, 300))
    np.testing.assert_array_equal(inside, whole[::4, ::4])
    np.testing.assert_array_equal(near, distance_transform_edt(~whole[::4, ::4]) <= 15 / 4)
    np.testing.assert_array_equal(found, [(100, 20, 250, 60)])
    assert elsewhere is None and classes == 1
    squeezed, _, found, *_ = scoring.truth_of(item, (300, 300))
    np.testing.assert_array_equal(squeezed, whole[::2, ::4])
    np.testing.assert_array_equal(found, [(100, 40, 250, 120)])


def test_maps_of_several_classes_are_told_apart(tmp_path):
    """Photos of 8 x 4 pixels: a dog left, a cat right, a column of both between them; and with a horse above the cat.

    Maps are of the photos' size, so that nothing is enlarged, and every share can be counted by hand.
    """
    boxes = {"dog": [0, 0, 4, 4], "cat": [3, 0, 8, 4], "horse": [5, 0, 8, 1]}
    records = [
        {"file": f"{photo}.png", "class": name, "boxes": [boxes[name]], "mask": None, "width": 8, "height": 4}
        for photo, names in (("a", ("dog", "cat")), ("b", ("dog", "cat", "horse")), ("c", ("dog",)), ("d", boxes))
        for name in names
    ]
    (tmp_path / "annotations.json").write_text(json.dumps(records))
    items = {item.key: item for item in find_items([], tmp_path)}
    of_cat = np.full((4, 8), -7.0, np.float32)
    of_cat[2] = [1, 2, 0, 4, 8, 0, 0, 5]  # largest right of the dog
    of_dog = of_cat[:, ::-1] + 0  # [5, 0, 0, 8, 4, 0, 2, 1]: largest where both are, which is the dog
    above = np.zeros((4, 8), np.float32)
    above[0, 5] = 1  # on the horse and the cat's box
    expected = {  # photo and class -> map, peaks on own and others, shares of positive values on own and others
        "a.png#dog": (of_dog, [1, 0], [13 / 20, 7 / 20]),
        "a.png#cat": (of_cat, [1, 0], [17 / 20, 3 / 20]),
        "b.png#dog": (above, [0, 1], [0, 1]),
        "b.png#cat": (of_cat, [1, 0], [17 / 20, 3 / 20]),
        "b.png#horse": (above, [1, 0], [1, 0]),
        "d.png#dog": (of_dog, [1, 0], [13 / 20, 7 / 20]),
        "d.png#cat": (np.ones((4, 8), np.float32), [20 / 32, 12 / 32], [20 / 32, 12 / 32]),  # knows no place
    }
    results = Results(tmp_path / "results.jsonl")
    for key, (values, peaks, energies) in expected.items():
        found = scoring.localise(values, scoring.truth_of(items[key], (4, 8)))
        assert found["peaks"] == pytest.approx(peaks) and found["energies"] == pytest.approx(energies)
        results.add("net", "maps", items[key], maps={"net cam": found})
    alone = scoring.localise(of_dog, scoring.truth_of(items["c.png#dog"], (4, 8)))
    assert not {"peaks", "energies"} & alone.keys()
    results.add("net", "maps", items["c.png#dog"], maps={"net cam": alone})
    table = score_table("apart", "Localisation", APART, merged("net", Results(tmp_path / "results.jsonl")))
    value = {score.name: cell[0] for _, score, cell in table.cells()}
    number = {score.name: cell[-1] for _, score, cell in table.cells()}
    assert number == dict.fromkeys(value, 7) | {"all_peaks": 2}  # d's horse has no map
    assert value["own_peak"] == pytest.approx((5 + 20 / 32) / 7)
    assert value["other_peak"] == pytest.approx((1 + 12 / 32) / 7)
    assert value["all_peaks"] == 0.5  # of a and b
    own, other = (sum(energies[index] for _, _, energies in expected.values()) for index in (0, 1))
    assert (value["own_energy"], value["other_energy"]) == pytest.approx((own / 7, other / 7), abs=1e-6)
    assert value["told_apart"] == pytest.approx(own / (own + other), abs=1e-6)


def test_outlines_keep_within_a_share_of_the_longer_side_of_the_mask():
    """0.003 of 500 pixels; a box of its own beside a mask, and what has no area left out."""
    mask = np.zeros((400, 500), np.uint8)
    cv2.circle(mask, (200, 197), 85, 1, -1)
    mask[2, 3] = 1
    annotation = Annotation(None, "dog", ((10, 20, 510, 220),), "mask.png", 500, 400)
    item = Item(None, "a.png", "dog", annotation)
    box, border = scoring.outlines_of(item, scoring.Truth(mask > 0, mask > 0, annotation.boxes))
    assert box == [[0.02, 0.05], [1.0, 0.05], [1.0, 0.55], [0.02, 0.55]]  # cut at the photo's edge
    corners = (np.array(border) * (500, 400) - 0.5).astype(np.float32)  # of the pixels' centres
    (circle,) = [one for one in cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)[0] if len(one) > 2]
    away = [abs(cv2.pointPolygonTest(corners, place[0].astype(float).tolist(), True)) for place in circle]
    assert 1.4 < max(away) < 1.51 and len(corners) == 24
    assert scoring.outlines_of(item, None) == []


# ---------------------------------------------------------------- whether the network depends on its layers


def test_layers_are_randomised_in_fifteen_stages_at_most():
    """From the output down; of seventeen layers with weights the first two stages have two each."""
    x = image = keras.Input((4,))
    for number in range(17):
        x = layers.Activation("relu")(layers.Dense(2, name=f"dense{number}")(x))
    names = [[layer.name for layer in stage] for stage in scoring.stages_of(keras.Model(image, x))]
    numbers = [[16, 15], [14, 13], *([number] for number in range(12, -1, -1))]
    assert names == [[f"dense{number}" for number in stage] for stage in numbers]


# ---------------------------------------------------------------- whether the network uses what the map shows


@pytest.fixture(scope="module")
def brightness(tmp_path_factory):
    """A network that sees nothing but a photo's mean: p(light) = 1 / (1 + exp(5 - 12 mean))."""
    image = keras.Input((24, 24, 3))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(1, 1, activation="relu", name="grey")(image))
    network = keras.Model(image, layers.Dense(2, activation="softmax", name="class")(x))
    network.get_layer("grey").set_weights([np.full((1, 1, 3, 1), 1 / 3), np.zeros(1)])
    network.get_layer("class").set_weights([np.array([[0.0, 12.0]]), np.array([0.0, -5.0])])
    path = tmp_path_factory.mktemp("brightness") / "net.h5"
    save_network(network, path, InputSpec(NAMES, 24, 24, 3))
    return path


@pytest.fixture(scope="module")
def photo():
    """Dark noise with a bright square, uint8 (24, 24, 3)."""
    pixels = np.random.default_rng(0).integers(0, 80, (24, 24, 3), np.uint8)
    pixels[6:14, 9:20] += 150
    return pixels


def probability(images, label):
    """float64 (N,) of uint8 or float (N, 24, 24, 3) in 0..255."""
    light = 1 / (1 + np.exp(5 - 12 * np.asarray(images, np.float64).mean(axis=(1, 2, 3)) / 255))
    return light if NAMES[label] == "light" else 1 - light


@pytest.fixture(scope="module")
def maps(photo):
    """A map of the photo's brightness, one of its darkness, and a coarse one of both signs."""
    grey = photo.mean(axis=2, dtype=np.float32)
    coarse = np.random.default_rng(1).normal(size=(6, 6)).astype(np.float32)
    return {"net cam": grey, "darkness": 255 - grey, "coarse": coarse}


@pytest.mark.parametrize("label", [0, 1])
def test_faithfulness_of_a_network_that_sees_brightness_alone(brightness, photo, maps, label):
    scored = ScoredNetwork(brightness, [parse_map(f"{brightness}:cam")], STEPS)
    found = scoring.faithfulness(scored, photo, maps, label, ["blur", "mean"])
    whole = probability(photo[None], label)[0]
    fills = {"blur": gaussian_filter(photo.astype(np.float64), (2.4, 2.4, 0), mode="mirror"),
             "mean": np.broadcast_to(photo.mean(axis=(0, 1)), photo.shape)}  # fmt: skip
    for name, values in maps.items():
        large = zoom(values, 24 / len(values), order=1, grid_mode=True, mode="nearest")
        order, shown = np.argsort(-large.ravel()), np.maximum(large, 0) / large.max()
        masked = probability([photo * shown[..., None]], label)[0]
        assert found[name]["drop"] == pytest.approx(max(0, whole - masked) / whole, abs=1e-4)
        assert found[name]["increase"] == (masked > whole)
        for fill, pixels in fills.items():
            kept = np.ones((STEPS + 1, 24 * 24, 1), bool)
            for step in range(1, STEPS + 1):
                kept[step, order[: step * 24 * 24 // STEPS]] = False
            kept = kept.reshape(STEPS + 1, 24, 24, 1)
            for curve, keep in (("deletion", kept), ("insertion", ~kept)):
                expected = probability(np.where(keep, photo, pixels), label)
                np.testing.assert_allclose(found[name][f"{curve}_{fill}"], expected, atol=2e-3)
    # ROAD's sign: bright pixels speak for one class, dark ones for the other
    sign = 1 if NAMES[label] == "light" else -1
    assert sign * found["net cam"]["road"] > 0.02 and sign * found["darkness"]["road"] < -0.02


def test_labels_are_filled_up_to_a_batch(brightness):
    scored = ScoredNetwork(brightness, [parse_map(f"{brightness}:cam")], STEPS)
    items = [Item(brightness, name, name, None) for name in ("light", "dark")]
    assert [scored.labels_of(items, count).tolist() for count in (1, 2, 4)] == [[1, 0], [1, 0], [1, 0, 0, 0]]


def test_road_is_half_the_difference_of_probabilities(brightness, photo, maps):
    scored = ScoredNetwork(brightness, [parse_map(f"{brightness}:cam")], STEPS)
    changed = metrics.road_images(photo / 255, metrics.pixel_order(maps["net cam"]))
    p = probability(np.clip(changed, 0, 1) * 255, 1)
    found = scoring.faithfulness(scored, photo, maps, 1, [])
    assert found["net cam"]["road"] == pytest.approx((p[4:] - p[:4]).mean() / 2, abs=2e-3)


@pytest.mark.parametrize("method", ["cam", "integrated-gradients"])
def test_adcc_by_the_convention_of_its_authors(method, brightness, photo):
    """Coherency is of maps cut at zero and as large as the photo; of this network all are the brightness, scaled."""
    scored = ScoredNetwork(brightness, [parse_map(f"{brightness}:{method}")], STEPS)
    (name,) = scored.kinds
    values = np.random.default_rng(2).normal(size=(6, 6)).astype(np.float32)
    found = scoring.faithfulness(scored, photo, {name: values}, 1, [])[name]
    large = np.maximum(zoom(values, 4, order=1, grid_mode=True, mode="nearest"), 0)
    shown = large / large.max()
    again = (photo * shown[..., None]).mean(axis=2)
    coherent = (1 + np.corrcoef(shown.ravel(), again.ravel())[0, 1]) / 2
    expected = 3 / (1 / coherent + 1 / (1 - shown.mean()) + 1 / (1 - found["drop"]))
    assert found["adcc"] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(("height", "width"), [(40, 30), (120, 200)])
def test_the_blur_is_a_tenth_of_the_longer_side(height, width):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    sigma = max(height, width) / 10
    expected = gaussian_filter(pixels.astype(np.float64), (sigma, sigma, 0), mode="mirror")
    np.testing.assert_allclose(scoring.fills_of(pixels, ["blur"])["blur"], expected, atol=0.2)


# ---------------------------------------------------------------- networks and pictures


def test_a_file_that_runs_code_is_refused(tmp_path):
    network = keras.Sequential(
        [keras.Input((8, 8, 3)), layers.Lambda(lambda x: x * 1.0), layers.Flatten(), layers.Dense(2)]
    )
    network.save(tmp_path / "net.keras")
    with pytest.raises(UserError, match="Lambda"):
        ScoredNetwork(tmp_path / "net.keras", [parse_map("grad-cam")], STEPS)


def test_methods_of_relus_are_refused_of_other_activations_and_the_rest_is_not(tmp_path):
    image = keras.Input((8, 8, 3))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(2, 3, activation="silu")(image))
    path = tmp_path / "silu.h5"
    save_network(keras.Model(image, layers.Dense(2, activation="softmax")(x)), path, InputSpec(NAMES, 8, 8, 3))
    assert (
        ScoredNetwork(path, [parse_map(f"{path}:{name}") for name in ("cam", "grad-cam", "gradient")], STEPS).guided
        is False
    )
    for method, said in (("deconvnet", "deconvnet"), ("guided-grad-cam", "guided-backprop and guided-grad-cam")):
        with pytest.raises(UserError, match=f"leave {said} of .*silu.h5 out of --maps"):
            ScoredNetwork(path, [parse_map(f"{path}:{method}")], STEPS)


def test_a_maps_picture_has_the_scale_of_all_but_its_largest_values():
    values, picture = np.full((40, 40), 0.5, np.float32), np.zeros((80, 60, 3), np.uint8)
    values[0, :3] = 60.0
    found = scoring.scores_of_map(values, None, None, picture, parse_map("grad-cam"))
    assert (found["scale"], found["zero"], found["other_class"]) == ([0.5, False, True], 0.0, None)
    ranks = np.random.default_rng(0).random((40, 40))
    found = scoring.scores_of_map(0 * values, ranks, None, picture, parse_map("hires-cam"))
    assert found["zero"] == 1.0 and np.isnan(found["other_class"]) and found["scale"] == [0.0, True, False]
    found = scoring.scores_of_map(ranks, ranks**3, None, picture, parse_map("gradient"))
    assert found["other_class"] == pytest.approx(1) and found["scale"][0] < 1  # smoothed


# ---------------------------------------------------------------- photos that cannot be scored


def test_what_marks_nothing_is_a_row_of_failed(brightness, photo, tmp_path):
    """An empty mask, neither mask nor boxes, a box beside the photo; the photo with a box is scored."""
    Image.fromarray(np.zeros((24, 24), np.uint8)).save(tmp_path / "mask.png")
    places = {"empty": {"mask": "mask.png"}, "none": {}, "beside": {"boxes": [[30, 0, 40, 9]]},
              "good": {"boxes": [[9, 6, 20, 14]]}}  # fmt: skip
    records = []
    for name, place in places.items():
        Image.fromarray(photo).save(tmp_path / f"{name}.png")
        records.append({"file": f"{name}.png", "class": "light", "width": 24, "height": 24} | place)
    (tmp_path / "annotations.json").write_text(json.dumps(records))
    arguments = ["--annotations", str(tmp_path), "--maps", f"{brightness}:cam", "--steps", "2"]
    assert evaluate_maps.main([*arguments, "--output", str(tmp_path / "out")]) == 1
    rows = read_csv(tmp_path / "out" / "failed.csv")
    assert [row["path"] for row in rows] == [str(tmp_path / f"{name}.png") for name in ("empty", "none", "beside")]
    assert all("marks no pixel as light; expected a mask or boxes that do" in row["reason"] for row in rows)
    assert {row["items"] for row in read_csv(tmp_path / "out" / "scores.csv") if "lie" in row["table"]} == {"1"}


@pytest.mark.thorough
@pytest.mark.parametrize(("method", "failed"), [("grad-cam", ["black"]), ("score-cam", ["black", "good"])])
def test_a_map_that_is_no_number_is_a_row_of_failed(photo, tmp_path, method, failed):
    """Their answers are finite. Of a black photo the root's slope is infinite, and a feature times it no number. What
    Score-CAM's mask of a silent feature leaves is black, and standardising divides zero by zero there."""
    x = image = keras.Input((24, 24, 3))
    if method == "score-cam":
        x = layers.LayerNormalization(axis=[1, 2, 3], epsilon=0, center=False, scale=False)(x)
    conv = layers.Conv2D(2, 1, activation="relu", name="conv")
    x = layers.GlobalAveragePooling2D()(conv(x))
    dense = layers.Dense(2, activation="softmax")
    network = keras.Model(image, dense(ops.sqrt(x) if method == "grad-cam" else x))
    dense.set_weights([np.array([[0.0, 1.0], [0.0, 1.0]]), np.zeros(2)])  # so that the good photo's map is above zero
    conv.set_weights([np.full((1, 1, 3, 2), 0.5), np.array([0.0, -1000.0 if method == "score-cam" else 0.0])])
    network.save(tmp_path / "net.keras")
    (tmp_path / "names.txt").write_text("dark\nlight\n", encoding="utf-8")
    for name, pixels in (("black", photo * 0), ("good", photo)):
        (tmp_path / "photos" / "light").mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "photos" / "light" / f"{name}.png")
    arguments = [str(tmp_path / "photos"), "--maps", f"{tmp_path / 'net.keras'}:{method}", "--preprocess", "none"]
    arguments += ["--class-names", str(tmp_path / "names.txt"), "--steps", "2", "--output", str(tmp_path / "out")]
    assert evaluate_maps.main(arguments) == 1
    rows = [(row["path"], row["reason"]) for row in read_csv(tmp_path / "out" / "failed.csv")]
    assert rows == [(str(tmp_path / "photos" / "light" / f"{name}.png"), NOT_FINITE) for name in failed]
    records = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert not {record["photo"] for record in records if record["maps"]} & {f"light/{name}.png" for name in failed}
