"""walkthrough.ipynb: its cells run one after the other, and the numbers are those that its text claims."""

import json

import matplotlib
import numpy as np
import pytest
from conftest import ROOT

# on one backend: what the cells call is tested on both elsewhere, and compiling VGG-16 takes JAX a minute
pytestmark = pytest.mark.any_backend

NOTEBOOK = ROOT / "walkthrough.ipynb"


def code_cells():
    cells = json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


@pytest.fixture(scope="module")
def names():
    """What the cells leave behind."""
    from matplotlib import pyplot

    backend, found = matplotlib.get_backend(), {"__name__": "__main__"}
    pyplot.switch_backend("agg")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        for number, cell in enumerate(code_cells(), start=1):
            exec(compile("".join(cell["source"]), f"{NOTEBOOK.name}, code cell {number}", "exec"), found)
    pyplot.close("all")
    pyplot.switch_backend(backend)
    return found


@pytest.mark.thorough
def test_logits_and_maps_equal_a_float64_sum(names):
    features = np.asarray(names["features"], np.float64)[0]
    weights, bias = (np.asarray(names[name], np.float64) for name in ("weights", "bias"))
    maps = sum(features[..., k, None] * weights[k] for k in range(len(weights))).transpose(2, 0, 1)  # (C, H, W)
    np.testing.assert_allclose(names["maps"][0], maps, atol=1e-4 * np.abs(maps).max())
    np.testing.assert_allclose(names["logits"][0], maps.mean(axis=(1, 2)) + bias, atol=1e-9)
    np.testing.assert_allclose(names["probabilities"], names["said"], atol=1e-4)
    assert names["classes"][names["logits"].argmax()] == "cat"


@pytest.mark.thorough
def test_the_last_cell_takes_another_photo(names):
    assert names["MY_PHOTO"].endswith("cat/korat.jpg")
    assert names["classes"][names["mine_probabilities"].argmax()] == "cat" and names["mine"].shape[2] == 3
    assert abs(names["mine_probabilities"].sum() - 1) < 1e-6 and names["mine_maps"].shape[0] == len(names["classes"])


@pytest.mark.thorough
def test_grad_cam_is_cam_over_its_area(names):
    maps = names["maps"][0] / np.prod(names["maps"].shape[2:])
    limit = np.abs(maps).max()
    np.testing.assert_allclose(names["before_relu"], maps, atol=1e-4 * limit)
    np.testing.assert_allclose(names["grad_cams"], np.maximum(maps, 0), atol=1e-4 * limit)
    np.testing.assert_allclose(names["found"].cams[:, 0], np.maximum(maps, 0), atol=1e-4 * limit)
    assert (maps < -0.1 * limit).any()  # so that the ReLU does something
    assert names["difference"] < 1e-4 and names["spread"] < 1e-9


@pytest.mark.thorough
def test_guided_maps_of_vgg16(names):
    import cv2

    vgg = names["vgg"]
    assert vgg.cams.shape == (2, 1, 11, 11) and vgg.guided.shape == vgg.products.shape == (2, 1, 184, 184, 3)
    for c in range(2):
        seen = 11 * 16  # pixels behind which no feature of the last convolution has its place
        enlarged = np.zeros((184, 184, 1), np.float32)
        enlarged[:seen, :seen, 0] = cv2.resize(vgg.cams[c, 0], (seen, seen), interpolation=cv2.INTER_LINEAR)
        expected = vgg.guided[c, 0] * enlarged
        np.testing.assert_allclose(vgg.products[c, 0], expected, atol=1e-4 * np.abs(expected).max())
        assert np.abs(expected).max() > 0


def test_notebook_is_small_and_was_run_in_order():
    assert NOTEBOOK.stat().st_size < 500_000
    cells = code_cells()
    assert 9 <= len(cells) <= 12
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert all(output["output_type"] != "error" for cell in cells for output in cell["outputs"])
    pictures = [output for cell in cells for output in cell["outputs"] if "image/jpeg" in output.get("data", {})]
    assert len(pictures) == 3
    assert "/home/" not in NOTEBOOK.read_text("utf-8")
