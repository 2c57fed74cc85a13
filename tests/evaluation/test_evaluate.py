"""evaluate_maps.py: its tables against figures computed apart, restarts, baselines, sanity checks, errors."""

import contextlib
import html
import io
import json
import re
from dataclasses import replace

import cv2
import keras
import numpy as np
import pytest
from conftest import ROOT, SHARED, read_csv
from keras import layers, ops
from PIL import Image

import evaluate_maps
from camlib.attribution.gradcam import GradCAM
from camlib.evaluation import metrics, parse_map, scoring
from camlib.evaluation.annotations import Annotation, Item, find_items
from camlib.evaluation.score_tables import APART, LOCALISATION, SANITY, SHARPNESS, cell_text, faithfulness_scores
from camlib.evaluation.scored_networks import ScoredNetwork
from camlib.evaluation.scoring import outlines_of, truth_of
from camlib.networks.checkpoint import load_network, save_network
from camlib.photos import read_network_input, read_photo, resize_photo
from camlib.plots.colours import resize_map
from camlib.preprocessing import InputSpec

pytestmark = pytest.mark.thorough
CLASSES = ["dog", "cat", "horse", "bird"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Eight photos of noise with a bright square, two of them in one photo, with masks; a ninth has only a box."""
    folder = tmp_path_factory.mktemp("photos")
    generator, records = np.random.default_rng(1), []
    for number in range(9):
        image = generator.integers(0, 120, (48, 64, 3)).astype(np.uint8)
        x, y = int(generator.integers(0, 40)), int(generator.integers(0, 28))
        image[y : y + 20, x : x + 24] += 130
        class_name = CLASSES[number % 4]
        name = f"{class_name}/set{number % 2}_{number}.png"
        (folder / class_name).mkdir(exist_ok=True)
        Image.fromarray(image).save(folder / name)
        mask = np.zeros((48, 64), np.uint8)
        mask[y : y + 20, x : x + 24] = 255
        Image.fromarray(mask).save(folder / f"mask{number}.png")
        record = {"file": name, "class": class_name, "boxes": [[x, y, x + 24, y + 20]], "width": 64, "height": 48}
        records.append(record | {"mask": None if number == 8 else f"mask{number}.png"})
    records.append(records[0] | {"class": "bird"})  # a second animal in the first photo
    (folder / "annotations.json").write_text(json.dumps(records))
    return folder


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two networks of random weights, biases included: pooling-free, and like VGG-16 with a hidden layer.

    The classes of the second weigh that layer alike, so that their guided gradients are nearly the same.
    """
    folder = tmp_path_factory.mktemp("networks")
    keras.utils.set_random_seed(3)
    image = keras.Input((32, 32, 3))
    features = layers.Conv2D(8, 3, padding="same", activation="relu")(image)
    x = layers.GlobalAveragePooling2D(name="gap")(layers.Conv2D(12, 3, padding="same", activation="relu")(features))
    gap = keras.Model(image, layers.Dense(4, "softmax", name="class")(x))
    x = image
    for number in (1, 2, 3):
        x = layers.Conv2D(8 * number, 3, padding="same", activation="relu", name=f"conv{number}")(x)
        x = layers.MaxPooling2D()(x) if number < 3 else layers.GlobalAveragePooling2D()(x)
    vgg = keras.Model(image, layers.Dense(4, "softmax", name="class")(layers.Dense(16, "relu", name="hidden")(x)))
    for name, network in (("gap", gap), ("vgg", vgg)):
        generator = np.random.default_rng(0)
        for weight in network.trainable_weights:
            if len(weight.shape) == 1:
                weight.assign(weight + generator.normal(size=weight.shape) * 0.1)
        kernel = network.get_layer("class").kernel
        values = generator.normal(size=kernel.shape) * 3
        kernel.assign(values if name == "gap" else 5 + values)
        save_network(network, folder / f"{name}.h5", InputSpec(CLASSES, 32, 32, 3))
    return folder / "gap.h5", folder / "vgg.h5"


@pytest.fixture(scope="module")
def run(photos, files, tmp_path_factory):
    """(arguments, output folder, what was printed) of a whole run, its networks named from beside them."""
    output, said = tmp_path_factory.mktemp("run") / "evaluation", io.StringIO()
    maps = ("gap.h5:cam", "vgg.h5:grad-cam", "vgg.h5:grad-cam@conv2", "vgg.h5:guided-backprop",
            "vgg.h5:guided-grad-cam", "gap.h5:ablation-cam")  # fmt: skip
    arguments = ["--annotations", str(photos), "--maps", *maps, "--sample", "4", "--steps", "4",
                 "--fill", "blur", "mean", "--output", str(output)]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(files[0].parent)  # for the tests that give the same command again, too
        with contextlib.redirect_stdout(said):
            assert evaluate_maps.main(arguments) == 0
        yield arguments, output, said.getvalue()


def scores(output):
    """scores.csv as dict of (table, map, score) -> (value, low, high, items)."""
    return {
        (row["table"], row["map"], row["score"]): tuple(float(row[name]) for name in ("value", "low", "high", "items"))
        for row in read_csv(output / "scores.csv")
    }


def test_localisation_of_cam(run, photos, files):
    """Against CAM by plain Keras calls, from the files alone."""
    records = [record for record in json.loads((photos / "annotations.json").read_text()) if record["mask"]]
    network, input_spec = load_network(files[0])
    trunk, kernel = (
        keras.Model(network.inputs, network.get_layer("gap").input),
        network.get_layer("class").get_weights()[0],
    )
    images = np.stack([read_network_input(photos / record["file"], input_spec) for record in records])
    hits, energies, ious, precisions = [], [], [], []
    for record, features in zip(records, trunk.predict(input_spec.prepare(images), verbose=0), strict=True):
        inside = np.asarray(Image.open(photos / record["mask"])) > 0
        large = resize_map(features @ kernel[:, CLASSES.index(record["class"])], 48, 64)
        hits.append(inside.ravel()[large.argmax()])
        positive = np.maximum(large, 0)
        energies.append(positive[inside].sum() / positive.sum() if positive.any() else 0.0)
        shares = [positive / max(positive.max(), 1e-30) >= level / 100 - 1e-6 for level in range(101)]
        ious.append([(chosen & inside).sum() / (chosen | inside).sum() for chosen in shares])
        precisions.append([((chosen & inside).sum(), chosen.sum(), inside.sum()) for chosen in shares])
    found = scores(run[1])
    table, name = "Where the maps lie (masks)", "gap cam"
    assert found[table, name, "pointing"][0] == pytest.approx(np.mean(hits))
    assert found[table, name, "energy"][0] == pytest.approx(np.mean(energies), abs=1e-4)
    assert found[table, name, "mask_iou"][0] == pytest.approx(np.mean(ious, axis=0).max(), abs=2e-3)
    hit, chosen, inside = np.sum(precisions, axis=0).T
    expected = -np.sum(hit / np.maximum(chosen, 1) * np.diff(hit / inside[0], append=0))
    assert found[table, name, "pxap"][0] == pytest.approx(expected, abs=2e-3)
    assert found[table, name, "energy"][3] == 9  # of ten objects one has a box alone
    assert found["Where the maps lie (boxes)", name, "energy"][3] == 1
    low, high = found[table, name, "energy"][1:3]
    assert low < np.mean(energies) < high


def test_every_map_and_baseline_has_its_scores(run):
    found = scores(run[1])
    maps = {name for _, name, _ in found}
    assert maps == {
        "gap cam", "gap ablation-cam", "vgg grad-cam", "vgg grad-cam@conv2", "vgg guided-backprop",
        "vgg guided-grad-cam", "whole picture", "centred Gaussian", "random", "Sobel edges",
    }  # fmt: skip
    whole = found["Where the maps lie (masks)", "whole picture", "energy"]
    assert whole[0] == pytest.approx(20 * 24 / (48 * 64), abs=1e-5)
    assert found["Where the maps lie (masks)", "gap ablation-cam", "energy"][3] == 4  # slow maps: of the sample alone
    lines = (run[1] / "results.jsonl").read_text("utf-8").splitlines()
    records = [record for record in map(json.loads, lines) if record["part"] == "sample"]
    for network, name in (("gap", "gap cam"), ("vgg", "vgg guided-backprop"), ("gap", "random")):
        for score in ("deletion_blur", "insertion_mean", "average_drop", "increase", "road"):
            value, *_, count = found[f"Whether {network} uses what the maps show", name, score]
            source = {"average_drop": "drop"}.get(score, score)
            of_photos = [record["maps"][name][source] for record in records if record["network"] == network]
            # of a curve of five points over 0 to 1 the area, of a number itself
            expected = np.mean([np.trapezoid(one, dx=1 / 4) if np.ndim(one) else one for one in of_photos])
            assert count == 4 and value == pytest.approx(expected, abs=1e-6)
    sanity = "Whether the maps depend on the network and the class"
    assert found[sanity, "gap cam", "rank_mean"][3] == found[sanity, "vgg guided-backprop", "rank_mean"][3] == 4
    assert found["How sharp the maps are (masks)", "vgg grad-cam@conv2", "cells"][0] == 16 * 16


def test_slow_maps_are_of_the_photos_own_class(run, photos, files):
    """As the network gives them when it is asked for that class alone."""
    lines = (run[1] / "results.jsonl").read_text("utf-8").splitlines()
    found = [record for record in map(json.loads, lines) if (record["part"], record["network"]) == ("sample", "gap")]
    items = {item.key: item for item in find_items([], photos)}
    scored = ScoredNetwork(files[0], [parse_map(f"{files[0]}:ablation-cam")], steps=2)
    for record in found[:2]:
        item = items[record["item"]]
        pixels = read_network_input(item.path, scored.input_spec)[None]
        label = np.array([[CLASSES.index(item.class_name)]], np.int32)
        (maps,) = scored.slow_maps({"gap ablation-cam": scored.prepare(pixels)}, label).values()
        expected = scoring.localise(maps[0, 0], truth_of(item, (48, 64)))
        assert record["maps"]["gap ablation-cam"]["energy"] == pytest.approx(expected["energy"], abs=1e-4)


def test_networks_table(run, photos, files):
    """Of eight photos; the one with two animals is left out."""
    network, input_spec = load_network(files[1])
    records = json.loads((photos / "annotations.json").read_text())[1:9]
    images = np.stack([read_network_input(photos / record["file"], input_spec) for record in records])
    outputs = network.predict(input_spec.prepare(images), verbose=0)
    labels = np.array([CLASSES.index(record["class"]) for record in records])
    rows = {(row["network"], row["photos"]): row for row in read_csv(run[1] / "networks.csv")}
    row = rows["vgg", "all"]
    assert int(row["number"]) == 8 and float(row["top1"]) == np.mean(outputs.argmax(axis=1) == labels)
    assert float(row["binary_accuracy"]) == pytest.approx(metrics.binary_accuracy(outputs, labels))
    assert float(row["ece"]) == pytest.approx(metrics.calibration(outputs, labels)[0], abs=1e-5)
    assert int(rows["vgg", "class horse"]["number"]) == 2
    assert ("vgg", "smaller collections") not in rows  # of four photos each: all eight once more
    report = (run[1] / "report.md").read_text("utf-8")
    for truth, name in enumerate(CLASSES):
        counts = [int(((labels == truth) & (outputs.argmax(axis=1) == guess)).sum()) for guess in range(4)]
        assert f"| {name} | {' | '.join(map(str, counts))} |" in report.split("## What vgg takes the photos for")[1]


@pytest.mark.any_backend
def test_report_and_page(run):
    _, output, said = run
    assert "9 photos, 10 objects, 6 kinds of map" in said and "gap cam" in said
    assert said.splitlines()[-1] == f"wrote tables, figures and {output / 'report.html'}"
    report = (output / "report.md").read_text("utf-8")
    assert "| vgg guided-backprop |" in report and "## How often the networks are right" in report
    findings = report.split("##")[0].splitlines()
    assert sum(line.startswith("- ") for line in findings) == 5 and all(line[2:] in said for line in findings[2:7])
    page = (output / "report.html").read_text("utf-8")
    assert page.count('<img class="figure"') == len(list(output.glob("*.png"))) == 11
    assert json.loads((output / "run.json").read_text())["settings"]["steps"] == 4
    sharp = report.split("## How sharp the maps are (masks)")[1].split("##")[0]  # counts have no interval
    assert "| vgg grad-cam@conv2 | 256 |" in sharp and "| gap cam | 1,024 |" in sharp
    assert cell_text((49.5, 40.0, 60.0, 8), is_count=True) == "50" and cell_text((49.5, 40.0, 60.0, 8)).count("to") == 1


@pytest.mark.any_backend
def test_report_explains_its_metrics_before_the_photos(run):
    page = (run[1] / "report.html").read_text("utf-8")
    terms = re.findall("<dt>(.*?)</dt><dd>(.*?)</dd>", page)
    scores = (*LOCALISATION, *APART, *SHARPNESS, *SANITY, *faithfulness_scores(["blur", "mean"]))
    of_network = {"top-1", "binary accuracy (Keras)", "ECE"}
    assert {score.title for score in scores} == {html.unescape(name) for name, _ in terms} - of_network
    assert all(len(text.split()) > 3 for _, text in terms)
    sections = set(re.findall("docs/results.md, section (.*?)</p>", page))
    assert sections == {"Localisation", "Sharpness", "Faithfulness", "Sanity", "The networks"}
    documented = (ROOT / "docs" / "results.md").read_text("utf-8")
    assert all(f"\n### {section}\n" in documented for section in sections)
    assert page.index("<nav") < page.index("<table>") < page.index('<div id="photos">')


@pytest.mark.any_backend
def test_photos_show_where_the_truth_is(run, photos):
    """Filled in again, the outlines are the masks and boxes they came from."""
    page = (run[1] / "report.html").read_text("utf-8")
    entries = json.loads(re.search(r'id="entries">(.*?)</script>', page, re.DOTALL)[1])
    records = json.loads((photos / "annotations.json").read_text())
    for record in records:
        (entry,) = [one for one in entries if (one["name"], one["truth"]) == (record["file"], record["class"])]
        assert len(entry["outlines"]) == 1 + (record["mask"] is not None)
        x0, y0, x1, y1 = record["boxes"][0]
        box = np.array(entry["outlines"][0]) * (64, 48)
        np.testing.assert_allclose((*box.min(axis=0), *box.max(axis=0)), (x0, y0, x1, y1), atol=0.01)
        for border in entry["outlines"][1:]:  # through the centres of the outermost pixels
            corners = np.array(border) * (64, 48)
            np.testing.assert_allclose(corners.min(axis=0), (x0, y0), atol=1.1)
            np.testing.assert_allclose(corners.max(axis=0), (x1, y1), atol=1.1)
    twice = [entry["right"] for entry in entries if entry["name"] == records[0]["file"]]
    assert twice == [None, None]  # a photo of two animals
    assert {entry["right"] for entry in entries} <= {True, False, None}
    shown = entries[0]["maps"]
    assert shown["gap cam"]["dog"]["legend"]["bar"] == "signed"
    assert shown["vgg guided-backprop"]["dog"]["legend"]["ends"] == ["", "magnitude of the gradient"]


def test_outlines_of_an_uneven_mask_enclose_it(tmp_path):
    mask = np.zeros((60, 80), np.uint8)
    cv2.circle(mask, (30, 30), 20, 255, -1)
    cv2.circle(mask, (30, 30), 8, 0, -1)  # a hole
    Image.fromarray(mask).save(tmp_path / "mask.png")
    annotation = Annotation(tmp_path / "a.png", "dog", (), tmp_path / "mask.png", 80, 60)
    item = Item(tmp_path / "a.png", "a.png", "dog", annotation)
    box, *borders = outlines_of(item, truth_of(item, (60, 80)))
    assert len(borders) == 2 and np.array(box).min(axis=0) == pytest.approx([10 / 80, 10 / 60], abs=1e-4)
    filled = np.zeros_like(mask)
    cv2.fillPoly(filled, [np.rint(np.array(border) * (80, 60) - 0.5).astype(int) for border in borders], 255)
    overlap = (filled & mask > 0).sum() / ((filled | mask) > 0).sum()
    assert overlap > 0.9
    assert outlines_of(replace(item, annotation=None), None) == []


@pytest.mark.any_backend
def test_a_killed_run_goes_on_and_the_same_command_again_computes_nothing(run, monkeypatch):
    """Three photos of the first network lost, all after the second network's third last line, and of this a part."""
    arguments, output, _ = run
    before, expected = (output / "results.jsonl").read_text("utf-8").splitlines(), scores(output)
    records = [json.loads(line) for line in before]
    items = list(dict.fromkeys(record["item"] for record in records))[:3]
    lost = [record["network"] != "vgg" and record["part"] == "maps" and record["item"] in items for record in records]
    assert sum(lost) == 6  # the baselines' too
    left = [line for line, is_lost in zip(before[:-3], lost, strict=False) if not is_lost]
    (output / "results.jsonl").write_text("\n".join([*left, before[-3][:100]]), encoding="utf-8")
    monkeypatch.setattr("camlib.evaluation.report.extremes_of", lambda entries: {})  # the figure that takes seconds
    assert evaluate_maps.main(arguments) == 0
    assert len((output / "results.jsonl").read_text("utf-8").splitlines()) == len(before)
    found = scores(output)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, atol=2e-3)
    after = (output / "results.jsonl").read_bytes()
    monkeypatch.setattr(ScoredNetwork, "fast_maps", None)
    monkeypatch.setattr(ScoredNetwork, "slow_maps", None)
    assert evaluate_maps.main(arguments) == 0 and (output / "results.jsonl").read_bytes() == after


@pytest.mark.any_backend
def test_batches_are_halved_where_memory_runs_out(files, photos, capsys):
    """Three of five photos at once fail; each keeps the maps of its own two classes."""
    kinds = [parse_map(f"{files[1]}:{name}") for name in ("guided-grad-cam", "grad-cam", "hires-cam")]
    scored = ScoredNetwork(files[1], kinds, steps=2)
    paths = sorted(photos.glob("*/*.png"))[:5]
    images = scored.prepare(np.stack([read_network_input(path, scored.input_spec) for path in paths]))
    labels = np.array([[0, 1, 2, 3, 0], [3, 2, 1, 0, 1]], np.int32)
    outputs, maps = scored.fast_maps(images, labels)
    explain_fast = scored.explain_fast

    def explain_two(images, labels):
        if len(images) > 2:
            raise MemoryError
        return explain_fast(images, labels)

    scored.explain_fast = explain_two
    found_outputs, found = scored.fast_maps(images, labels)
    assert capsys.readouterr().out.splitlines() == ["out of memory with 5 photos at once: going on with 2"]
    assert list(found) == list(maps) == [kind.name for kind in kinds]
    np.testing.assert_allclose(found_outputs, outputs, atol=1e-6)
    for name, values in maps.items():
        assert values.shape[:2] == (2, 5)
        np.testing.assert_allclose(found[name], values, atol=1e-5 * np.abs(values).max())


def test_randomised_layers_from_the_output_down(files):
    network, _ = load_network(files[1])
    before = network.get_weights()
    stages = scoring.stages_of(network)
    assert [[layer.name for layer in group] for group in stages[:3]] == [["class"], ["hidden"], ["conv3"]]
    assert sum(map(len, stages)) == 5
    with scoring.kept_weights(network):
        scoring.randomise(stages[0], np.random.default_rng(0))
        now = network.get_weights()
        assert all((one == other).all() for one, other in zip(before[:-2], now[:-2], strict=True))
        assert (now[-2] != before[-2]).any() and (np.sort(now[-2].ravel()) == np.sort(before[-2].ravel())).all()
    assert all((one == other).all() for one, other in zip(before, network.get_weights(), strict=True))


def test_sanity_of_each_photo_is_its_own(run, files, photos):
    """The map of the first photo of the sample, output layer randomised, computed apart."""
    records = [json.loads(line) for line in (run[1] / "results.jsonl").read_text("utf-8").splitlines()]
    found = [record for record in records if record["part"] == "sanity" and record["network"] == "vgg"]
    correlations = [tuple(record["maps"]["vgg guided-backprop"]["rank_correlation"]) for record in found]
    assert len(set(correlations)) == len(found) == 4
    kind = parse_map(f"{files[1]}:grad-cam@conv2")
    scored = ScoredNetwork(files[1], [kind], steps=2)
    for record in found:
        image = scored.input_spec.prepare(read_network_input(photos / record["photo"], scored.input_spec)[None])
        labels = np.array([[CLASSES.index(record["class"])]], np.int32)
        before = scored.fast_maps(image, labels)[1][kind.name][0, 0]
        with scoring.kept_weights(scored.network):
            scoring.randomise(scoring.stages_of(scored.network)[0], np.random.default_rng(0))
            after = scored.fast_maps(image, labels)[1][kind.name][0, 0]
        expected = metrics.rank_correlation(before, after)
        value = record["maps"][kind.name]["rank_correlation"][0]
        assert value is None and np.isnan(expected) or value == pytest.approx(expected, abs=1e-3)


def test_a_map_that_ignores_the_network_fails_the_sanity_check(run, capsys):
    """Guided backpropagation of one class looks like that of any other; its sentence says so."""
    report = (run[1] / "report.md").read_text("utf-8")
    assert "- vgg guided-backprop: asked for another class it gives nearly the same map" in report
    assert "- gap cam: asked for another class" not in report


@pytest.mark.any_backend
def test_photos_without_annotations(photos, files, tmp_path, capsys):
    arguments = [*(str(photos / name) for name in CLASSES), "--maps", f"{files[0]}:cam", "--only", "network",
                 "localisation", "--output", str(tmp_path / "o")]  # fmt: skip
    assert evaluate_maps.main(arguments) == 0
    assert "no annotations: localisation and sharpness are left out" in capsys.readouterr().out
    assert not scores(tmp_path / "o") and "gap,all,9," in (tmp_path / "o" / "networks.csv").read_text("utf-8")


@pytest.mark.any_backend
def test_slow_maps_alone(photos, files, tmp_path):
    arguments = ["--annotations", str(photos), "--maps", f"{files[0]}:ablation-cam", "--sample", "2", "--only",
                 "localisation", "sanity", "network", "--output", str(tmp_path / "out")]  # fmt: skip
    assert evaluate_maps.main(arguments) == 0
    found = scores(tmp_path / "out")
    assert found["Where the maps lie (masks)", "gap ablation-cam", "energy"][3] >= 2
    assert "gap,all,8," in (tmp_path / "out" / "networks.csv").read_text("utf-8")


def test_maps_of_the_photo_are_scored_by_one_number_a_pixel(photos, files, tmp_path):
    names = "gradient", "integrated-gradients"
    scored = ScoredNetwork(files[1], [parse_map(f"{files[1]}:{name}") for name in names], 2)
    images = scored.prepare(np.random.default_rng(0).integers(0, 256, (1, *scored.input_spec.shape)).astype(np.uint8))
    labels = np.array([[2], [0]], np.int32)
    fast, slow = (GradCAM(scored, method=name, classes=[2, 0]) for name in names)
    inputs = [ops.convert_to_tensor(one) for one in (images, labels)]
    _, found = scored.fast_maps(images, labels)
    expected = np.abs(ops.convert_to_numpy(fast.run(*inputs).cams)).sum(axis=-1)
    np.testing.assert_allclose(found["vgg gradient"], expected, atol=1e-5 * expected.max())
    expected = np.abs(ops.convert_to_numpy(slow.run(*inputs).cams)).sum(axis=-1)
    (maps,) = scored.slow_maps({"vgg integrated-gradients": images}, labels).values()
    np.testing.assert_allclose(maps, expected, atol=1e-5 * expected.max())
    maps = [f"{files[1]}:{name}" for name in ("occlusion", "gradient")]
    arguments = ["--annotations", str(photos), "--maps", *maps, "--sample", "1", "--only", "localisation",
                 "--output", str(tmp_path / "out")]  # fmt: skip
    assert evaluate_maps.main(arguments) == 0
    found = scores(tmp_path / "out")
    assert {"vgg occlusion", "vgg gradient"} <= {name for _, name, _ in found}


def test_a_network_of_one_unit(photos, tmp_path):
    """Its two classes are the first and the second name: cat or dog, say."""
    image = keras.Input((32, 32, 3))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(8, 3, activation="relu")(image))
    network = keras.Model(image, layers.Dense(1, activation="sigmoid")(x))
    network.save(tmp_path / "unit.keras")
    names = tmp_path / "names.txt"
    names.write_text("dog\ncat\n", encoding="utf-8")
    maps = [f"{tmp_path / 'unit.keras'}:{method}" for method in ("cam", "grad-cam")]
    arguments = [str(photos / "dog"), str(photos / "cat"), "--annotations", str(photos), "--maps", *maps,
                 "--class-names", str(names), "--preprocess", "tf", "--sample", "2", "--steps", "2",
                 "--output", str(tmp_path / "out")]  # fmt: skip
    assert evaluate_maps.main(arguments) == 0
    row = read_csv(tmp_path / "out" / "networks.csv")[0]
    paths = sorted((*photos.glob("dog/*.png"), *photos.glob("cat/*.png")))
    images = np.stack([resize_photo(read_photo(path), 32, 32) for path in paths])
    second = network.predict(images / np.float32(127.5) - 1, verbose=0)[:, 0] > 0.5
    expected = np.mean(second == [path.parent.name == "cat" for path in paths])
    assert int(row["number"]) == len(paths) and float(row["top1"]) == pytest.approx(expected)


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--maps", "nonsense"], "no method 'nonsense'; expected [FILE:]METHOD[@LAYER]"),
        (["--maps", "cam@block1"], "cam has no layer to choose"),
        (["--maps", "rise@block1"], "rise has no layer to choose"),
        (["--maps", "missing.h5:cam"], "missing.h5 does not exist"),
        (["--maps", "vgg.h5:grad-cam@block9"], "--layer block9 is not a layer with a spatial output"),
        (["--maps", "vgg.h5:cam"], "makes them from 'hidden'), so CAM does not apply; use python gradcam_vgg16.py"),
        (["--maps", "one.keras:grad-cam"], "one.keras gives scores without probabilities"),
        (["--sample", "0"], "--sample 0: expected 1 or more"),
        (["--annotations", "nowhere"], "nowhere does not exist; expected a JSON file"),
        (["cow", "--maps", "gap.h5:cam"], "the photos show cow; the networks know dog, cat, horse, bird"),
    ],
)
def test_bad_usage_is_one_line(photos, files, photo_folder, tmp_path, monkeypatch, end_of, arguments, message):
    monkeypatch.chdir(files[0].parent)
    image = keras.Input((32, 32, 3))
    x = layers.Conv2D(4, 3, activation="relu")(layers.Rescaling(1 / 255)(image))
    keras.Model(image, layers.Dense(1)(layers.GlobalAveragePooling2D()(x))).save("one.keras")
    cow = [photo_folder({"cow/a.png": (1, 2, 3)}) if word == "cow" else word for word in arguments]
    common = [] if {"--annotations", "cow"} & set(arguments) else ["--annotations", photos]
    code, said = end_of(evaluate_maps.main, [*common, *cow, "--output", tmp_path / "out"])
    assert code == 2 and message in said and said.count("\n") == 1 and not (tmp_path / "out").exists()


@pytest.mark.any_backend
@pytest.mark.parametrize("good", [[], ["dog/set0_0.png"]], ids=["none is readable", "one is"])
def test_unreadable_photos_are_listed(photos, files, tmp_path, good):
    for name in (*good, "cat/b.png"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True)
        (tmp_path / "photos" / name).write_bytes((photos / name).read_bytes() if name in good else b"no picture")
    arguments = [str(tmp_path / "photos"), "--maps", f"{files[0]}:cam", "--only", "network", "sanity",
                 "--output", str(tmp_path / "out")]  # fmt: skip
    assert evaluate_maps.main(arguments) == 1
    assert 'b.png,"not a JPEG' in (tmp_path / "out" / "failed.csv").read_text("utf-8")


@pytest.mark.slow
@pytest.mark.any_backend
@pytest.mark.skipif(not SHARED.exists(), reason="development data is not here")
def test_figures_of_the_original_measured_by_independent_code(tmp_path):
    """On 326 photos: pointing and energy of the original's CAM and of a centred Gaussian."""
    model = SHARED / "seed" / "model_weight.h5"
    arguments = ["--annotations", str(SHARED / "localisation"), "--maps", f"{model}:cam", "--only", "localisation",
                 "--output", str(tmp_path / "out")]  # fmt: skip
    assert evaluate_maps.main(arguments) == 0
    found = scores(tmp_path / "out")
    known = {
        ("masks", "model_weight cam"): (0.780, 0.352),
        ("masks", "centred Gaussian"): (0.957, 0.401),
        ("boxes", "model_weight cam"): (0.907, 0.660),
        ("boxes", "centred Gaussian"): (0.957, 0.708),
    }
    for (truth, name), figures in known.items():
        for score, figure in zip(("pointing", "energy"), figures, strict=True):
            value, _, _, count = found[f"Where the maps lie ({truth})", name, score]
            assert value == pytest.approx(figure, abs=0.01) and count == {"masks": 164, "boxes": 162}[truth]


@pytest.mark.any_backend
def test_results_of_other_annotations_are_not_gone_on_with(run, photos, end_of):
    arguments, output, _ = run
    file = photos / "annotations.json"
    before, results = file.read_text(), (output / "results.jsonl").read_bytes()
    file.write_text(before.replace('"width": 64', '"width": 65', 1))
    code, said = end_of(evaluate_maps.main, arguments)
    file.write_text(before)
    assert code == 2 and "holds results of other settings (annotations_sha256)" in said and said.count("\n") == 1
    assert (output / "results.jsonl").read_bytes() == results
