"""What the app asks of networks, and what it shows, tells and writes of it; without a browser."""

import re
import shlex
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers
from PIL import Image
from small_networks import with_random_weights

import explore_maps
from camlib import explain
from camlib.console import UserError
from camlib.explore.app import App, options_of
from camlib.explore.cards import commands_of, page_of, value_told, write_files
from camlib.explore.live import Explorer, LayerMaps, Shown, Side
from camlib.plots.colours import USUAL
from camlib.runs.writers import Drawing

CLASSES = ["a", "<b>", "c"]
pytestmark = pytest.mark.any_backend


def small_network():
    """Global average pooling behind two convolutions, of photos 16 x 24."""
    image = keras.Input((16, 24, 3))
    x = layers.Conv2D(4, 3, activation="relu", padding="same", name="first")(
        layers.Rescaling(1 / 255, name="pixels")(image)
    )
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(5, 3, activation="relu", padding="same", name="second")(x))
    return with_random_weights(keras.Model(image, layers.Dense(3, activation="softmax")(x)))


@pytest.fixture
def folder(tmp_path):
    """A network, its class names, and two photos in a folder."""
    small_network().save(tmp_path / "small.keras")
    (tmp_path / "names.txt").write_text("\n".join(CLASSES))
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 256, (16, 24, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    return tmp_path


def side(folder, *methods, **settings):
    options = options_of("", "", str(folder / "names.txt"))
    return Side(str(folder / "small.keras"), options, methods, **settings)


def test_maps_are_those_of_explain(folder):
    network, photo = keras.saving.load_model(folder / "small.keras", compile=False), folder / "0.png"
    of_cam, of_first = (
        Explorer().show(photo, side(folder, "cam", "grad-cam", layers=("first",), guided=True), CLASSES).layers
    )
    found = explain(network, [photo], classes=[0, 1, 2], layer="first", class_names=CLASSES)
    for number, name in enumerate(CLASSES):
        for kind, values in {
            "gradcam": found.cams,
            "guided_backprop": found.guided,
            "guided_gradcam": found.products,
        }.items():
            np.testing.assert_allclose(of_first.maps[kind][name], values[number, 0], rtol=1e-4, atol=1e-7)
    dense = network.layers[-1]
    means = np.array([of_cam.maps["heatmap"][name].mean() for name in CLASSES])
    np.testing.assert_allclose(means + dense.bias.numpy(), found.logits[0], rtol=1e-4)
    assert of_first.title == "Grad-CAM, layer first" and of_cam.maps["heatmap"]["a"].shape == (16, 24)


def test_what_was_computed_is_not_asked_of_the_network_again(folder):
    explorer, asked = Explorer(), []
    network = explorer.network(str(folder / "small.keras"), side(folder).options)
    for method in ("cam", "grad-cam"):
        explainer = network.explainer(method, None, False)
        run = explainer.run_batch
        explainer.run_batch = lambda *given, run=run, method=method: asked.append(method) or run(*given)

    def show(number, *classes):
        shown = explorer.show(folder / f"{number}.png", side(folder, "cam", "grad-cam"), classes)
        names, asked_now = list(shown.layers[1].maps["gradcam"]), asked.copy()
        asked.clear()
        return names, asked_now

    (best,), first = show(0, "predicted")
    assert first == ["cam", "grad-cam"]
    assert show(0, "predicted") == ([best], []) and show(0, best) == ([best], [])
    ranked, more = show(0, "top3")  # CAM has them all; Grad-CAM is asked for the other two
    assert more == ["grad-cam"] * 2 and ranked[0] == best and sorted(ranked) == sorted(CLASSES)
    assert show(1, best)[1] == first and show(0, *CLASSES) == (CLASSES, [])
    Image.open(folder / "1.png").rotate(180).save(folder / "0.png")  # another photo of the same name
    assert show(0, best)[1] == first


def test_a_network_is_loaded_once_and_again_when_its_file_changes(folder):
    explorer, path = Explorer(), folder / "small.keras"
    first = explorer.network(str(path))
    assert explorer.network(str(path)) is first
    assert explorer.network(str(path), (("size", (16, 24)),)) is not first
    small_network().save(path)
    assert explorer.network(str(path)) is not first


def layer_maps(maps, signed=True):
    kind = next(iter(maps))
    return LayerMaps("cam", "CAM", Drawing(USUAL, {kind: signed}, {kind: "CAM"}), maps)


def test_a_click_tells_the_value_at_its_place():
    values, colours = np.arange(6, dtype=np.float32).reshape(2, 3) - 2, np.zeros((4, 4, 3), np.float32)
    colours[3, 0] = (0.25, -3, 1)
    layers_shown = [layer_maps({"heatmap": {"cat": values}}), layer_maps({"guided_backprop": {"cat": colours}})]
    shown = Shown(None, None, np.zeros((40, 60, 3), np.uint8), {}, layers_shown)
    told = value_told(shown, 0, "heatmap", "cat", 0.99, 0.51)
    assert told == "CAM of cat: 3, 99 % from the left, 51 % from the top: row 2 of 2, column 3 of 3"
    assert value_told(shown, 0, "heatmap", "cat", 0.0, 0.49).startswith("CAM of cat: -2, ")
    told = value_told(shown, 1, "guided_backprop", "cat", 0.2, 0.8)
    assert told.startswith("CAM of cat: -3 (0.25, -3, 1 of its channels), ") and "row 4 of 4, column 1 of 4" in told


def test_what_of_gradients_lies_over_the_photo_is_what_the_scripts_lay_there(folder):
    wanted = side(folder, "gradient", "gradient-x-input")
    (shown,) = [Explorer().show(folder / "0.png", wanted, ["a", "c"])]
    assert [layer.title for layer in shown.layers] == ["gradient", "gradient × input"]
    html = page_of([shown], USUAL)
    assert html.count("<span>large, whatever its sign</span>") == 4 and "evidence" not in html
    found = explain(folder / "small.keras", [folder / "0.png"], ["a", "c"], "gradient", **dict(wanted.options))
    of_gradient = shown.layers[0].maps["gradient"]
    np.testing.assert_allclose(of_gradient["c"], found.cams[1, 0], rtol=1e-5, atol=1e-9)
    laid, scale = shown.layers[0].drawing.over_photo("gradient", of_gradient)
    assert scale.lowest == 0 and all(values.shape == (16, 24) and values.min() >= 0 for values in laid.values())
    written = {Path(path).name: path for path in write_files(folder / "out", [shown], USUAL)}
    np.testing.assert_array_equal(np.asarray(Image.open(written["1_gradient_spp_for_c.png"])), found.overlay(0, "c"))


def test_the_page_shows_names_as_text_and_hides_what_is_below_the_threshold(folder):
    (shown,) = [Explorer().show(folder / "0.png", side(folder, "cam"), ["<b>"])]
    html = page_of([shown, "<i>bad"], USUAL)
    assert "<b>" not in html and "<i>" not in html and "CAM: &lt;b&gt;, " in html and "error: &lt;i&gt;bad" in html
    assert html.count("<img") == 4 and 'data-class="&lt;b&gt;"' in html  # photo, over it, colour bar, map alone
    grey = USUAL._replace(threshold=1.01)
    over = re.findall(r'<img alt="CAM[^>]*over the photo" src="([^"]*)"', html + page_of([shown], grey))
    nothing = page_of([shown], USUAL._replace(opacity=0.0))
    assert len(set(over)) == 2 and over[1] in nothing


def test_files_are_the_arrays_and_pictures(folder):
    shown = Explorer().show(folder / "0.png", side(folder, "cam", "grad-cam", guided=True), ["a"])
    written = {Path(path).name: path for path in write_files(folder / "out", [shown, "an error"], USUAL)}
    of_first = {f"1_cam_{name}" for name in ("heatmap_for_a.npy", "spp_for_a.png", "overlay_for_a.png")}
    kinds = ("gradcam", "guided_backprop", "guided_gradcam")
    assert written.keys() == of_first | {f"2_grad-cam_{kind}_for_a.npy" for kind in kinds} | {
        "2_grad-cam_spp_for_a.png",
        "2_grad-cam_overlay_for_a.png",
    }
    np.testing.assert_array_equal(np.load(written["1_cam_heatmap_for_a.npy"]), shown.layers[0].maps["heatmap"]["a"])
    over, laid = (np.asarray(Image.open(written[f"1_cam_{name}_for_a.png"])) for name in ("spp", "overlay"))
    assert over.shape == (*laid.shape[:2], 3) and 0 == laid[..., 3].min() < laid[..., 3].max()
    grey = np.asarray(Image.fromarray(shown.picture).convert("L"))
    clear = laid[..., 3] == 0
    np.testing.assert_allclose(over[clear][:, 0].astype(int), grey[clear], atol=1)


@pytest.mark.thorough
@pytest.mark.parametrize("guided", [False, True])
def test_the_commands_write_the_same_arrays(folder, run_here, monkeypatch, guided):
    monkeypatch.chdir(folder)
    of_pixels = () if guided else ("gradient", "occlusion")
    wanted = side(folder, *of_pixels, "cam", "layer-cam", "grad-cam", layers=("first",), guided=guided)
    shown = Explorer().show(folder / "0.png", wanted, ["top2"])
    arrays = {}
    for line in commands_of(shown, folder / "0.png", ["top2"], in_colour=True):
        _, script, *words = shlex.split(line)
        assert words[0] == "0.png" and run_here(Path(script).name, *words).returncode == 0
        arrays |= {path.relative_to(folder / "outputs/explored"): path for path in (folder / "outputs").rglob("*.npy")}
    places = ("small_cam", *(f"small_pixels/{method}@input" for method in of_pixels))
    expected, places = {}, (*places, "small/layer-cam@first", "small/grad-cam@first")
    for layer, place in zip(shown.layers, places, strict=True):
        for kind, of_classes in layer.maps.items():
            expected |= {Path(place, "0", f"{kind}_for_{name}.npy"): values for name, values in of_classes.items()}
    kinds_of_gradcam = 3 if guided else 1
    of_cam = {path for path in arrays if path.name.startswith("heatmap")}
    assert len(of_cam) == 3 and len(arrays) == 3 + 2 * (2 * kinds_of_gradcam + len(of_pixels))  # CAM writes every class
    for path, values in expected.items():
        np.testing.assert_allclose(np.load(arrays[path]), values, rtol=1e-5, atol=1e-8)


def test_commands_name_the_user_s_own_files_and_of_what_the_browser_handed_over_the_name(folder, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(folder / "handed"))
    copies = [folder / "handed" / "1a2b" / name for name in ("0.png", "1.png", "small.keras", "names.txt")]
    copies[0].parent.mkdir(parents=True)
    for path in copies:
        path.write_bytes((folder / path.name).read_bytes())
    app = App(dict, Explorer(), folder / "files", folder / "0.png")  # 0.png was named after the command

    def command(photo, source):
        told = (str(source), "", "", str(copies[3]), ["cam"], [])
        return app.explain(str(photo), ["predicted"], False, 0.9, 0, False, *told, None, *told[1:])[2].split()

    expected = [str(folder / "0.png"), "--model", str(folder / "small.keras")]
    assert command(copies[0], folder / "small.keras")[2:5] == expected
    handed = ["1.png", "--model", "small.keras", "--class-names", "names.txt"]
    assert command(copies[1], copies[2])[2:7] == handed


def refused(app, photo, *told):
    """The sentence in the page for what one network is asked."""
    view, html, _ = app.explain(str(photo), ["predicted"], False, 0.9, 0, False, *told, None, "", "", None, [], [])
    assert view.photos == [view.photos[0]] and view.photos[0] in html.replace("&#x27;", "'").replace("&lt;", "<")
    return view.photos[0]


def test_errors_are_the_scripts_sentences_and_the_app_goes_on(folder):
    app = App(dict, Explorer(most_pixels=10_000), folder / "files")
    source, photo = str(folder / "small.keras"), folder / "0.png"
    facts = ("", "", None, ["cam"], [])
    (folder / "bad.jpg").write_bytes(b"\xff\xd8\xff\xe0 no photo")
    Image.new("RGB", (200, 100)).save(folder / "huge.png")
    (folder / "pickled.h5").write_bytes(b"\x80\x04\x95 cos.system")
    assert refused(app, folder / "bad.jpg", source, *facts).startswith("bad.jpg cannot be read: damaged or cut off")
    assert "20,000 would be decoded; expected at most 10,000" in refused(app, folder / "huge.png", source, *facts)
    assert "pickled.h5 is a pickle" in refused(app, photo, str(folder / "pickled.h5"), *facts)
    assert refused(app, photo, "resnet50v2", *facts).startswith("resnet50v2 does not exist; did you mean ResNet50V2")
    assert refused(app, photo, source, "", "1", *facts[2:]).startswith("--size 1: expected 8 to 99,999 pixels")
    assert refused(app, photo, source, *facts[:3], ["grad-cam"], ["third"]).startswith("--layer third is not a layer")
    assert refused(app, photo, source, *facts[:3], [], []) == "no method is chosen; expected one or more"
    view, html, commands = app.explain(str(photo), ["predicted"], False, 0.9, 0, False, source, *facts, None, *facts)
    assert view.photos[0].probabilities and "<article" in html and commands.startswith("python ")
    assert app.explain(None, ["predicted"], False, 0.9, 0, False, source, *facts, None, *facts)[0].photos == []


def test_a_network_offers_its_layers_methods_and_classes(folder):
    app = App(dict, Explorer(), folder / "files")
    told = (str(folder / "small.keras"), "", "", str(folder / "names.txt"))
    none = (None, "", "", None)
    classes, offered, place, methods = app.choose(0, ["c", "zebra"], *told, *none)
    assert [value for _, value in classes["choices"]] == ["predicted", "top3", *CLASSES] and classes["value"] == ["c"]
    assert offered["choices"][1] == ("first, 16×24, 4 features", "first") and offered["value"] == ["second"]
    assert (place["maximum"], place["value"], methods["value"]) == (3, 3, ["cam"])
    assert app.layer_at(2, ["cam"], *told) == (["first"], ["grad-cam"])
    assert app.layer_at(2, ["cam", "rise"], *told)[1] == ["grad-cam"]  # neither is of a layer
    assert app.layer_at(3, ["cam", "layer-cam"], *told) == (["second"], ["cam", "layer-cam"])
    other = (told[0], "", "", None)  # whose classes are class_1 to class_3
    classes, *_ = app.choose(1, ["c", "top3"], *told, *other)
    assert classes["value"] == ["top3"] and {"c", "<b>"} < {value for _, value in classes["choices"]}
    assert app.choose(1, [], *told, *none)[1] == {"choices": [], "value": []}  # there is no second network


def test_bad_usage_is_one_line(monkeypatch, capsys):
    for words, message in (
        (["--network", "a", "b", "c"], "--network names 3; expected one or two;"),
        (["--port", "0"], "argument --port: found '0', expected a whole number from 1 to 65535;"),
    ):
        with pytest.raises(SystemExit):
            explore_maps.parse_arguments(words)
        assert capsys.readouterr().err.startswith(f"error: {message}")
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(UserError, match="Gradio is not installed; expected what pip install -r requirements-app.txt"):
        explore_maps.main([])
    monkeypatch.setattr(explore_maps.importlib.util, "find_spec", lambda name: name)
    for words, message in (
        (["--network", "nowhere.h5"], "nowhere.h5 does not exist"),
        (["none.jpg"], "none.jpg does"),
        (["tests"], "tests is a"),
    ):
        with pytest.raises(UserError, match=message):
            explore_maps.main(words)
