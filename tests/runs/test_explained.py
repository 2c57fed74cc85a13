"""What `explain` returns: drawn and saved as the scripts draw and save; of arrays, files and folders."""

import base64
import io
import pickle
import re
import warnings

import numpy as np
import pytest
from conftest import CLASSES, read_csv
from PIL import Image

from camlib import UserError, explain
from camlib.photos import read_photo
from camlib.plots.colours import superposition_of, superposition_scale_of
from camlib.plots.panels import encoded_jpeg, sheet_of
from camlib.runs.maps import find_saved

pytestmark = pytest.mark.any_backend
NAMES = [f"{'ab'[number % 2]}/{number}.jpg" for number in range(9)]  # more than a batch


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Photos of several sizes, one so large that its file is decoded at half its size."""
    folder, generator = tmp_path_factory.mktemp("explained") / "photos", np.random.default_rng(0)
    for number, name in enumerate(NAMES):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        side = 2100 if number == 4 else 20 + 3 * number
        noise = generator.integers(0, 256, (side // 10 + 1, side // 10 + 2, 3)).astype(np.uint8)
        Image.fromarray(noise).resize((side + 7, side)).save(folder / name)
    return folder


@pytest.fixture(scope="module")
def found(small_network, folder):
    return explain(small_network, folder, classes=["all"], quiet=True)


def in_files(folder):
    """dict of every file's path below a folder -> its bytes."""
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_saved_files_are_those_of_the_script(found, folder, small_network, run_here, tmp_path):
    result = run_here("gradcam_vgg16.py", folder, "--weights", small_network, "--classes", "all", "--output",
                      tmp_path / "script")  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert found.save(tmp_path / "python") == 0
    script, python = in_files(tmp_path / "script"), in_files(tmp_path / "python")
    assert len(script) == 9 * 17 + 2 and script.keys() == python.keys()
    assert [str(name) for name in script if script[name] != python[name] and name.name != "run.json"] == []
    saved = find_saved(tmp_path / "python")
    assert [photo.name for photo in saved] == found.names == sorted(NAMES)
    assert saved[0].title_of("gradcam") == "Grad-CAM" and saved[0].sources[0] == folder / found.names[0]


def test_an_overlay_has_the_pixels_of_the_file(found, tmp_path):
    found.save(tmp_path / "maps")
    for index, name in enumerate(found.names):
        for number, class_name in enumerate(CLASSES):
            file = tmp_path / "maps" / name.removesuffix(".jpg") / f"spp_for_{class_name}.jpg"
            assert encoded_jpeg(found.overlay(index, class_name)).tobytes() == file.read_bytes()
            assert np.array_equal(found.overlay(index, number), found.overlay(index, class_name))
    large = found.names.index("a/4.jpg")
    assert found.overlay(large).shape == found.photos[large].shape == (510, 512, 3)
    np.testing.assert_allclose(found.extent[large], np.array([510, 512, 510, 512]) * [1, 1, 15, 15] / 16)  # unpadded


def test_arrays_are_numbered_and_drawn_over_themselves(small_network, found, tmp_path):
    photos = [np.full((30, 40, 3), 90, np.uint8), np.random.default_rng(1).integers(0, 256, (50, 20, 3), np.uint8)]
    mine = explain(small_network, photos, classes=["cat", "dog"])
    assert mine.names == ["photo_1", "photo_2"] and mine.photos[1].tolist() == photos[1].tolist()
    scale = superposition_scale_of(False, mine.cams[:, 1])
    unpadded = [1 / 16, 1 / 16, 15 / 16, 15 / 16]
    expected = superposition_of(photos[1], mine.cams[1, 1], scale, extent=unpadded)
    assert np.array_equal(mine.overlay(1, "dog"), expected)
    np.testing.assert_allclose(mine.extent[1], np.array([50, 20, 50, 20]) * unpadded)
    mine.save(tmp_path / "mine")
    assert np.array_equal(np.load(tmp_path / "mine" / "photo_2" / "gradcam_for_cat.npy"), mine.cams[0, 1])
    assert [float(row["logit_cat"]) for row in read_csv(tmp_path / "mine" / "predictions.csv")] == [
        pytest.approx(value, rel=1e-6) for value in mine.logits[:, CLASSES.index("cat")]
    ]
    with pytest.raises(UserError, match="mine holds maps already; expected another folder, or overwrite=True"):
        found.save(tmp_path / "mine")
    found.save(tmp_path / "mine", overwrite=True)
    assert not (tmp_path / "mine" / "photo_2").exists() and len(find_saved(tmp_path / "mine")) == 9
    again = pickle.loads(pickle.dumps(mine))
    assert np.array_equal(again.overlay(0), mine.overlay(0)) and len(again) == 9 and again[4] is again.cams


def test_each_photo_has_its_own_class_whatever_the_batch(small_network, folder):
    paths = [folder / name for name in NAMES]
    rows = [[CLASSES[number % 2] for number in range(9)], [number // 8 for number in range(9)]]
    mine = explain(small_network, paths, classes=rows, guided=False, quiet=True)
    assert mine.chosen.tolist() == [[0, 1] * 4 + [0], [0] * 8 + [1]]
    assert mine.names == [name.split("/")[1] for name in NAMES]
    every = explain(small_network, folder, classes=["all"], guided=False, quiet=True)
    for number, name in enumerate(NAMES):
        expected = every.cams[number % 2, every.names.index(name)]
        np.testing.assert_allclose(mine.cams[0, number], expected, rtol=1e-4, atol=1e-6)
    assert mine.maps[8].keys() == {"gradcam"} and list(mine.maps[8]["gradcam"]) == ["dog", "cat"]
    for other in ("cat", 1, 9):
        with pytest.raises(UserError, match="(cat|9) was not explained for 0.jpg; expected dog"):
            mine.overlay(0, other)


def test_what_cannot_be_read_is_left_out_of_a_folder_and_refused_by_name(small_network, photo_folder, tmp_path, capsys):
    folder = photo_folder({"a.png": (9, 99, 9), "c.png": (99, 9, 9)})
    (folder / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    mine = explain(small_network, str(folder), guided=False)
    assert mine.names == ["a.png", "c.png"] and len(mine.cams[0]) == 2
    assert [path for path, _ in mine.failed] == [str(folder / "b.png")]
    assert capsys.readouterr().out.startswith(
        f"1 photo could not be read, the first since {folder / 'b.png'}: not a JPEG"
    )
    assert mine.save(tmp_path / "maps") == 1
    assert [row["path"] for row in read_csv(tmp_path / "maps" / "failed.csv")] == [str(folder / "b.png")]
    for given, number in (([folder / "a.png", folder / "b.png"], 1), (folder / "b.png", 0), ("nowhere.png", 0)):
        with pytest.raises(UserError, match=rf"photos\[{number}\]: .*(b|nowhere).png: (not a JPEG|no such file)"):
            explain(small_network, given, guided=False)
    twice = explain(small_network, [folder / "a.png", folder / "a.png"], guided=False)
    assert twice.names == ["1/a.png", "2/a.png"] and np.array_equal(twice.cams[:, 0], twice.cams[:, 1])


def test_it_shows_itself_in_notebooks_and_windows(found):
    html = found._repr_html_()
    pictures = [base64.b64decode(data) for data in re.findall(r'src="data:image/png;base64,([^"]+)"', html)]
    assert len(pictures) == 6 and html.endswith("and 3 more") and 'alt="a/0.jpg"' in html
    assert html.startswith("Grad-CAM of layer conv, small.h5<br>") and len(html) < 1e6
    row = found.row(0, 120)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(pictures[0]))), sheet_of([row]))
    titles = [title for title, _, _ in row.cells]
    assert titles[0] == "photo" and titles[1] == f"dog {found.probabilities[0, 0]:.3f}"
    kind, maps, scale = found.over_photo(0)
    assert np.array_equal(row.cells[2][1], found.laid_over(row.cells[0][1], kind, maps["cat"], scale))

    from matplotlib import pyplot

    pyplot.switch_backend("agg")
    with warnings.catch_warnings(action="ignore"):  # that there is no window
        found.show()
    (axes,) = pyplot.gcf().axes
    assert np.array_equal(axes.images[0].get_array(), sheet_of(found.rows()))
    pyplot.close("all")


def test_many_files_show_how_far_they_are(small_network, folder, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    explain(small_network, folder, guided=False)
    assert "photos" in capsys.readouterr().out
    explain(small_network, folder, guided=False, quiet=True)
    explain(small_network, folder / NAMES[0], guided=False)
    assert capsys.readouterr().out == ""


def test_a_photo_read_here_or_there_is_the_same(small_network, folder):
    path = folder / NAMES[1]
    one, other = (explain(small_network, [given], guided=False) for given in (path, read_photo(path)))
    np.testing.assert_array_equal(one.cams, other.cams)
