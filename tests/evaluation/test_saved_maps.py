"""Maps that were saved, scored without their network: whose they are, what is left out, and what cannot be scored."""

import numpy as np
import pytest
from conftest import CLASSES, make_run

from camlib.console import UserError
from camlib.evaluation.annotations import Item, find_items
from camlib.evaluation.results import Results
from camlib.evaluation.saved_maps import SavedMaps, evaluate_saved, one_value_a_pixel

pytestmark = pytest.mark.any_backend


@pytest.fixture
def photos(photo_folder):
    return photo_folder({"dog/x.png": (200, 60, 60), "cat/y.png": (60, 60, 200), "cat/z.png": (9, 9, 9)})


@pytest.fixture
def run(photos, tmp_path):
    """Maps of all photos but z: of dogs 0 and 1 everywhere, of cats -1 and -2."""
    settings = {"class_names": CLASSES, "photos": [str(photos)]}
    return make_run(tmp_path / "cam", ["dog/x.png", "cat/y.png"], settings=settings)


def test_maps_are_of_the_items_own_class_and_of_the_next(photos, run):
    scored = SavedMaps(run)
    assert scored.class_names == CLASSES
    items = {item.name: item for item in find_items([photos], None)}
    (of_dog, of_cat), (_, _) = (scored.maps_of(items[name])["cam cam"] for name in ("dog/x.png", "cat/y.png"))
    np.testing.assert_array_equal([of_dog, of_cat], [np.zeros((6, 8)), np.full((6, 8), -1)])
    own, following = scored.maps_of(items["cat/y.png"])["cam cam"]  # behind the last class comes the first
    np.testing.assert_array_equal([own, following], [np.full((6, 8), -2), np.full((6, 8), 1)])
    (run / "cat" / "y" / "heatmap_for_dog.npy").unlink()
    assert scored.maps_of(items["cat/y.png"])["cam cam"][1] is None
    assert scored.photo_of(items["cat/z.png"]) is None
    kind = scored.kinds["cam cam"]
    assert (kind.method, kind.is_signed, scored.files) == ("cam", True, {"cam cam": "heatmap"})


def test_gradients_have_one_number_a_pixel():
    values = np.array([[[1.0, -3.0, 2.0]], [[0.5, 0.0, -0.2]]])
    np.testing.assert_array_equal(one_value_a_pixel(values), [[3], [0.5]])
    assert one_value_a_pixel(values[..., 0]).tolist() == [[1], [0.5]]


@pytest.mark.parametrize(
    ("kind", "method", "name", "is_signed"),
    [
        ("gradcam", "layer-cam", "saved layer-cam", False),
        ("gradcam", None, "saved grad-cam", True),
        ("guided_backprop", None, "saved guided-backprop", False),
        ("guided_gradcam", "layer-cam", "saved guided-grad-cam", False),
        ("smooth-grad", "smooth-grad", "saved smooth-grad", False),
    ],
)
def test_kinds_of_map_go_by_their_methods(kind, method, name, is_signed, tmp_path):
    settings = {"class_names": CLASSES, "method": method, "signed": is_signed, "reduce": "sum"}
    settings = {key: value for key, value in settings.items() if value is not None}
    scored = SavedMaps(make_run(tmp_path / "saved", ["dog/x.png"], kind, settings=settings))
    assert {key: value.is_signed for key, value in scored.kinds.items()} == {name: is_signed}


def test_what_has_no_map_is_counted_and_what_cannot_be_read_is_listed(photos, run, tmp_path, capsys):
    """Of three photos one was never mapped, and one has no map of its class."""
    scored, items, failed = SavedMaps(run), find_items([photos], None), {}
    damaged, other = (run / "dog" / "x" / f"heatmap_for_{name}.npy" for name in CLASSES)
    whole = damaged.read_bytes()
    for content, reason in ((whole[:90], "its map "), (whole, None)):
        damaged.write_bytes(content)
        results = Results(tmp_path / "results.jsonl")
        evaluate_saved(scored, items, results, failed, with_baselines=True)
        if reason:
            assert failed.pop(str(photos / "dog" / "x.png")).startswith(reason)
        assert not failed and "cam: 1 object without a saved map of its class left out" in capsys.readouterr().out
        assert [record["item"] for record in results.of("cam", "maps")] == ["cat/y.png#cat", "dog/x.png#dog"][
            : 1 if reason else 2
        ]
    cat, dog = Results(tmp_path / "results.jsonl").records
    assert (cat["outputs"], cat["label"], cat["right"], cat["truth"]) == ([0.25, 0.75], 1, True, None)
    assert (dog["outputs"], dog["label"], dog["right"]) == ([0.75, 0.25], 0, True)
    assert [record["maps"]["cam cam"]["zero"] for record in (cat, dog)] == [0, 1]
    evaluate_saved(scored, items, Results(tmp_path / "results.jsonl"), failed, with_baselines=True)  # all is done
    assert "1 object without a saved map" in capsys.readouterr().out
    (tmp_path / "results.jsonl").unlink()
    (run / "cat" / "y" / "heatmap_for_cat.npy").unlink()
    evaluate_saved(scored, items, Results(tmp_path / "results.jsonl"), failed, with_baselines=True)
    assert "2 objects without a saved map" in capsys.readouterr().out
    assert other.exists() and not failed


def test_a_photo_that_moved_is_known_by_its_name_and_another_of_that_name_is_not(photos, run, tmp_path):
    elsewhere = Item(tmp_path / "elsewhere" / "x.png", "dog/x.png", "dog", None)
    assert SavedMaps(run).photo_of(elsewhere) is None
    (photos / "dog" / "x.png").unlink()
    assert SavedMaps(run).photo_of(elsewhere).name == "dog/x.png"


def test_runs_are_told_apart_by_their_settings(tmp_path):
    settings = {"class_names": CLASSES, "method": "grad-cam"}
    one, same, other = (
        SavedMaps(make_run(tmp_path / name / "cam", ["dog/x.png"], settings=settings | {"method": method})).identity
        for name, method in (("one", "grad-cam"), ("same", "grad-cam"), ("other", "layer-cam"))
    )
    assert one == same != other


@pytest.mark.parametrize("missing", ["run.json", "predictions.csv"])
def test_a_run_without_its_networks_answers_is_refused(run, missing):
    (run / missing).unlink()
    with pytest.raises(UserError, match="says nothing of its network's probabilities"):
        SavedMaps(run)
