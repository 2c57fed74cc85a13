"""The HTML page in a real browser: it loads, its pickers, slider and keys change the picture, names stay text."""

import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from camlib.plots.colours import Scale, Style
from camlib.plots.figures import decoded_picture
from camlib.plots.page import EVIDENCE_ENDS, Report, encode_overlay, encode_photo, map_for_page, write_page

pytestmark = pytest.mark.any_backend

HOSTILE = '</script><script>document.title="owned"</script><b>"&\'.jpg'
RED, BLUE = (255, 0, 0), (0, 0, 255)


def entry(name, colour, own, scores, kinds=("CAM", "Grad-CAM")):
    photo = np.full((30, 60, 3), colour, np.uint8)
    values = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    picture = encode_overlay(values, Scale(1.0, signed=False), photo.shape[:2])
    of_classes = {name: {"picture": picture, "scores": {"energy": score}} for name, score in scores.items()}
    maps = dict.fromkeys(kinds, of_classes)
    return {"name": name, "class": own, "picture": encode_photo(photo), "maps": maps}


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "page.html"
    entries = [
        entry("a.jpg", RED, "dog", {"dog": 0.2, "cat": 0.9}),
        entry(HOSTILE, BLUE, "cat", {"cat": 0.5}),
        entry("c\udcff.jpg", BLUE, "dog", {"dog": None}, kinds=("CAM",)),
    ]
    grids = [("Scores <1>", ["map", "score ↑"], [["cam & co", "0.5 (0.4 to 0.6)"]])]
    figure = path.with_name("some_figure.png")
    Image.new("RGB", (20, 10), RED).save(figure)
    write_page(path, "Maps <of> me", entries, report=Report([], grids, ["a sentence & more"], [("A figure", figure)]))
    return path


def test_pictures_keep_their_shape_and_colours():
    photo = np.zeros((30, 60, 3), np.uint8)
    photo[:, :30] = RED
    picture = decoded_picture(encode_photo(photo))
    assert picture.size == (144, 72) and picture.getpixel((20, 30))[0] > 200 > 60 > picture.getpixel((130, 30))[0]
    values = np.array([[-1.0, 0.0, 1.0]], np.float32)
    uri = encode_overlay(values, Scale(1.0, signed=True), (30, 90))
    overlay = np.asarray(decoded_picture(uri).convert("RGBA")).astype(int)
    left, middle, right = overlay[24, 10], overlay[24, 72], overlay[24, 134]
    assert left[3] > 190 and right[3] > 190 and middle[3] < 40  # blue below zero, clear at zero, red above
    assert left[2] > left[0] + 60 and right[0] > right[2] + 60


def test_page_is_self_contained(page):
    text = page.read_text("utf-8")
    assert not re.findall(r"(?:src|href)=[\"'](?!data:)", text) and "http://" not in text and "https://" not in text
    assert (
        "<td>0.5 <small>(0.4 to 0.6)</small></td>" in text and "cam &amp; co" in text and "Maps &lt;of&gt; me" in text
    )
    entries = json.loads(re.search(r'id="entries">(.*?)</script>', text, re.DOTALL)[1])
    assert entries[1]["name"] == HOSTILE


@pytest.fixture(scope="module")
def browser(open_browser):
    return open_browser(1000, 800)


def cards(browser):
    """name: answer of each photo of the gallery."""
    parts = [
        figure.find_elements("css selector", "figcaption div")
        for figure in browser.find_elements("css selector", "figure")
    ]
    return [f"{name.get_property('title')}: {answer.text}" for name, answer in parts]


def focused(browser):
    """The name of the photo of the gallery that has the focus."""
    return browser.switch_to.active_element.find_element("class name", "name").get_property("title")


def choose(browser, picker, value):
    change = "element.value = arguments[1]; element.dispatchEvent(new Event('change'))"
    browser.execute_script(f"const element = document.getElementById(arguments[0]); {change}", picker, value)


def test_page_in_a_browser(page, browser):
    browser.get(page.as_uri())
    assert browser.get_log("browser") == []  # no error, and nothing that the policy had to stop
    assert browser.title == "Maps <of> me"
    for filter_of_truth in ("[id=truth]", "[id=answer]", "[name=outlines]"):  # which this page knows nothing of
        assert not browser.find_element("css selector", filter_of_truth).is_displayed()
    assert cards(browser) == [
        "a.jpg: dog, energy 0.200",
        f"{HOSTILE}: cat, energy 0.500",
        "c\\udcff.jpg: dog, energy -",
    ]
    images = browser.find_elements("css selector", "figure img")
    assert all(image.get_property("naturalWidth") > 0 and image.get_attribute("alt") for image in images)
    assert images[1].get_attribute("alt") == "CAM of dog" and images[0].size == images[1].size

    def middle():
        """The colour in the middle of the first photo's right half, where its map is strong."""
        box = browser.find_element("css selector", ".stack")
        picture = Image.open(io.BytesIO(box.screenshot_as_png)).convert("RGB")
        return np.array(picture.getpixel((picture.width - 8, picture.height // 2)))

    browser.find_element("name", "colour").click()  # else the photo is grey below its map
    strong = middle()
    assert np.abs(strong - RED).max() > 12
    slider = browser.find_element("id", "opacity")
    slider.send_keys("\ue011")  # Home: the slider's own key for its least value
    assert slider.get_property("value") == "0" and np.abs(middle() - RED).max() < 12
    slider.send_keys("\ue010")  # End
    assert slider.get_property("value") == "1"
    assert np.abs(middle() - RED).max() > np.abs(strong - RED).max()

    choose(browser, "class", "cat")
    assert cards(browser) == ["a.jpg: cat, energy 0.900", f"{HOSTILE}: cat, energy 0.500"]
    choose(browser, "order", "+energy")
    assert [card.split(":")[0] for card in cards(browser)] == [HOSTILE, "a.jpg"]
    choose(browser, "class", "")
    choose(browser, "kind", "Grad-CAM")
    assert len(cards(browser)) == 2 and browser.find_element("id", "count").text == "2 of 3"
    browser.find_elements("css selector", "figure")[0].send_keys("\ue014")  # right arrow
    assert focused(browser) == HOSTILE
    assert browser.get_log("browser") == []


# ---------------------------------------------------------------- enlarged, filtered, outlined

GREEN = (40, 200, 80)
GREY = round(0.2126 * 40 + 0.7152 * 200 + 0.0722 * 80)  # as CSS weighs them (Filter Effects 1, section 9.1)
ESCAPE, ENTER, LEFT, UP, RIGHT, DOWN = "\ue00c", "\ue007", "\ue012", "\ue013", "\ue014", "\ue015"


def judged_entry(name, truth, predicted):
    """A green photo whose dog map is -2, 0 and 1 in thirds, of a scale that ends at 1, and whose cat map is zero."""
    shape, scale = (60, 90), Scale(1.0, signed=True, capped=True)
    classes = {"dog": np.repeat([[-2.0, 0.0, 1.0]], 6, axis=1).astype(np.float32), "cat": np.zeros((1, 3), np.float32)}
    shown = {one: map_for_page(values, scale, shape, EVIDENCE_ENDS) | {"scores": {}} for one, values in classes.items()}
    return {"name": name, "class": "dog", "note": "", "picture": encode_photo(np.full((*shape, 3), GREEN, np.uint8)),
            "maps": {"CAM": shown, "Grad-CAM": shown}, "truth": truth, "predicted": predicted,
            "right": truth == predicted, "unsure": name == "c.jpg", "probabilities": {"dog": 0.4, "cat": 0.6},
            "outlines": [[[0.4, 0.25], [0.6, 0.25], [0.6, 0.75], [0.4, 0.75]]]}  # fmt: skip


@pytest.fixture(scope="module")
def judged_page(tmp_path_factory):
    answers = {"a.jpg": ("dog", "dog"), "b.jpg": ("cat", "dog"), "c.jpg": ("cat", "cat")}
    entries = [judged_entry(name, *truth_and_answer) for name, truth_and_answer in answers.items()]
    path = tmp_path_factory.mktemp("page") / "judged.html"
    grids = [("Scores", ["map", "pointing ↑"], [["cam", "0.5"]]), ("Others", ["map"], [["cam"]])]
    explanations = {"Scores": ("docs/results.md, section X", [("pointing ↑", "how often <it> points")])}
    write_page(path, "Judged", entries, report=Report(grids=grids, explanations=explanations))
    return path


def pixels(element):
    """What an element looks like on the screen: uint8 (H, W, 3)."""
    return np.asarray(Image.open(io.BytesIO(element.screenshot_as_png)).convert("RGB")).astype(int)


def names(browser):
    return [text.split(":")[0] for text in cards(browser)]


def enlarged(browser):
    """The title of the enlarged photo; None if none is."""
    dialog = browser.find_element("id", "dialog")
    return dialog.find_element("id", "title").text if dialog.is_displayed() else None


def test_photos_are_filtered_by_class_and_by_answer(judged_page, browser):
    browser.get(judged_page.as_uri())
    assert names(browser) == ["a.jpg", "b.jpg", "c.jpg"]
    choose(browser, "truth", ":cat")
    assert names(browser) == ["b.jpg", "c.jpg"]
    choose(browser, "answer", "wrong")
    assert names(browser) == ["b.jpg"] and browser.find_element("id", "count").text == "1 of 3"
    choose(browser, "answer", "right")
    assert names(browser) == ["c.jpg"]
    choose(browser, "truth", "")
    choose(browser, "answer", "as:dog")
    assert names(browser) == ["a.jpg", "b.jpg"]
    browser.find_elements("css selector", "figure")[1].send_keys(ENTER)
    assert enlarged(browser) == "CAM of dog: b.jpg" and browser.find_element("id", "place").text == "2 of 2"
    assert browser.get_log("browser") == []


def test_a_photo_is_enlarged_by_a_click_and_closed_by_another(judged_page, browser):
    browser.get(judged_page.as_uri())
    first = browser.find_element("css selector", "figure")
    first.click()
    plain, large = browser.find_elements("css selector", "#large .stack")
    assert enlarged(browser) == "CAM of dog: a.jpg" and large.size["width"] > 1.2 * first.size["width"]
    assert plain.size == large.size and plain.rect["y"] == large.rect["y"]  # the photo as it is, beside the map
    np.testing.assert_allclose(pixels(plain)[10, [5, -5]], [GREEN] * 2, atol=12)
    assert large.size["width"] / large.size["height"] == pytest.approx(90 / 60, abs=0.02)
    labels = [button.text for button in browser.find_elements("css selector", "#others button")]
    assert labels == ["dog 40 %", "cat 60 %, all zero", "CAM", "Grad-CAM"]  # its classes and its maps side by side
    large.click()
    assert enlarged(browser) is None and browser.switch_to.active_element == first
    first.click()
    browser.find_element("id", "close").click()
    assert enlarged(browser) is None and browser.get_log("browser") == []


def test_captions_say_what_is_right_wrong_and_unsure_in_words_and_colours(judged_page, browser):
    browser.get(judged_page.as_uri())
    answers = [
        "a.jpg: \u2713 dog 40 %",
        "b.jpg: \u2717 dog 40 %, is cat",
        "c.jpg: \u2713 dog 40 %, predicted cat, unsure",
    ]
    assert cards(browser) == answers
    figures = browser.find_elements("css selector", "figure")
    frames = [figure.find_element("class name", "stack").value_of_css_property("outline-style") for figure in figures]
    assert frames == ["none", "solid", "dashed"]
    right, wrong, unsure = [pixels(figure.find_element("class name", "answer")) for figure in figures]
    assert (wrong[..., 0] - wrong[..., 1]).max() > 120 > 40 > (right[..., 0] - right[..., 1]).max()  # red, and green
    assert (unsure[..., 0] - unsure[..., 2]).max() > 100
    choose(browser, "answer", "unsure")
    assert names(browser) == ["c.jpg"]
    browser.find_element("css selector", "figure").click()
    assert browser.find_element("id", "note").text == answers[2].removeprefix("c.jpg: ")
    assert browser.get_log("browser") == []


def test_each_of_two_networks_maps_stands_by_its_own_answer(tmp_path, browser):
    said = {
        kind: {"class": name, "predicted": name, "right": name == "dog", "unsure": False, "probabilities": shares}
        for kind, name, shares in (
            ("CAM", "dog", {"dog": 0.9, "cat": 0.1}),
            ("Grad-CAM", "cat", {"dog": 0.2, "cat": 0.8}),
        )
    }
    photo = entry("a.jpg", RED, "dog", {"dog": 0.2, "cat": 0.9}) | {"truth": "dog", "answers": said} | said["CAM"]
    write_page(tmp_path / "page.html", "Two", [photo])
    browser.get((tmp_path / "page.html").as_uri())
    assert cards(browser) == ["a.jpg: \u2713 dog 90 %, energy 0.200"]
    choose(browser, "kind", "Grad-CAM")
    assert cards(browser) == ["a.jpg: \u2717 cat 80 %, is dog, energy 0.900"]
    choose(browser, "answer", "wrong")
    browser.find_element("css selector", "figure").click()
    assert browser.find_element("id", "note").get_attribute("class") == "wrong"
    rows = [row.text.split("\n") for row in browser.find_elements("css selector", ".probabilities tr")]
    assert rows == [["cat", "80.0 %"], ["dog", "20.0 %"]] and browser.get_log("browser") == []


def test_bars_of_probabilities_are_as_long_as_they_say(judged_page, browser):
    browser.get(judged_page.as_uri())
    browser.find_element("css selector", "figure").click()
    rows = browser.find_elements("css selector", ".probabilities tr")
    assert [row.text.split("\n") for row in rows] == [["cat", "60.0 %"], ["dog", "40.0 %"]]  # the most probable first
    lengths = [row.find_element("class name", "share").size["width"] for row in rows]
    room = [row.find_elements("tag name", "td")[0] for row in rows]
    inside = [cell.size["width"] - 2 * 0.3 * 12.8 for cell in room]
    np.testing.assert_allclose(np.divide(lengths, inside), [0.6, 0.4], atol=0.03)
    assert rows[1].get_attribute("class") == "truth" and browser.get_log("browser") == []


def test_buttons_and_swipes_go_through_the_photos(judged_page, browser):
    browser.get(judged_page.as_uri())
    browser.find_element("css selector", "figure").click()
    previous, following = browser.find_element("id", "previous"), browser.find_element("id", "next")
    place = following.location
    for button, name in ((previous, "a"), (following, "b"), (following, "c"), (following, "c"), (previous, "b")):
        button.click()
        assert enlarged(browser) == f"CAM of dog: {name}.jpg" and following.location == place
    browser.switch_to.active_element.send_keys(LEFT)  # keys go on from the button
    assert enlarged(browser) == "CAM of dog: a.jpg" and previous.get_attribute("aria-disabled") == "true"

    def swipe(right, down):
        box = browser.find_element("css selector", "#large .stack:last-child").rect
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        for kind, moved in (("touchStart", 0), ("touchMove", 1), ("touchEnd", None)):
            points = [] if moved is None else [{"x": x + moved * right, "y": y + moved * down}]
            browser.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    for (right, down), name in (((-90, 10), "b"), ((-30, 0), "b"), ((-90, 80), "b"), ((90, -10), "a")):
        swipe(right, down)
        assert enlarged(browser) == f"CAM of dog: {name}.jpg"
    assert browser.get_log("browser") == []


def test_nothing_is_wider_than_a_phone_and_long_names_are_cut_in_the_middle(tmp_path, browser):
    path, name = tmp_path / "narrow.html", f"folder/{'n' * 80}_007.jpg"
    write_page(path, "Narrow", [judged_entry(name, "cat", "dog")] * 2)
    size = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        browser.get(path.as_uri())
        width = "return Math.max(document.documentElement.scrollWidth, document.getElementById('dialog').scrollWidth)"
        first, second = browser.find_elements("css selector", "figure")
        assert first.rect["y"] == second.rect["y"] and first.size["width"] > 160  # two side by side
        begin, end = first.find_elements("css selector", ".name span")
        assert end.text == "nnn_007.jpg" and end.rect["x"] + end.size["width"] <= second.rect["x"]
        assert first.find_element("class name", "name").size["height"] < 25  # one line
        first.click()
        assert browser.execute_script(width) <= 390
        plain, large = browser.find_elements("css selector", "#large .stack")
        assert large.rect["y"] > plain.rect["y"] + 150 and large.rect["y"] + large.size["height"] < 844
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert browser.get_log("browser") == []


def test_the_enlarged_photo_is_steered_by_keys(judged_page, browser):
    browser.get(judged_page.as_uri())
    browser.find_element("css selector", "figure").send_keys(ENTER)
    steps = {RIGHT: "CAM of dog: b.jpg", DOWN: "CAM of cat: b.jpg", UP: "CAM of dog: b.jpg", LEFT: "CAM of dog: a.jpg"}
    for key, title in steps.items():
        browser.switch_to.active_element.send_keys(key)
        assert enlarged(browser) == title
    browser.switch_to.active_element.send_keys(RIGHT)
    for button, title in ((1, "CAM of cat: b.jpg"), (3, "Grad-CAM of cat: b.jpg")):
        browser.find_elements("css selector", "#others button")[button].send_keys(ENTER)
        assert enlarged(browser) == title
        assert browser.switch_to.active_element.get_attribute("aria-pressed") == "true"
    browser.switch_to.active_element.send_keys(ESCAPE)
    assert enlarged(browser) is None and focused(browser) == "b.jpg"
    browser.switch_to.active_element.send_keys(LEFT, " ")
    assert enlarged(browser) == "CAM of dog: a.jpg" and browser.get_log("browser") == []


def test_the_legend_says_what_its_ends_stand_for_in_numbers(judged_page, browser):
    browser.get(judged_page.as_uri())
    assert browser.find_element("id", "key").text == "evidence against the class\nevidence for the class"
    browser.find_element("css selector", "figure").click()
    legend = browser.find_element("css selector", "#scale .legend")
    assert legend.text.split("\n") == ["evidence against dog", "evidence for dog", "≤ -1", "0", "≥ 1"]
    places = [tick.rect["x"] for tick in legend.find_elements("css selector", ".ticks span")]
    bar = legend.find_element("css selector", ".bar")
    assert places == sorted(places) and abs(places[1] - bar.rect["x"] - bar.rect["width"] / 2) < 10
    row = pixels(bar)[5]
    against, zero, evidence = row[3], row[len(row) // 2], row[-4]
    assert against[2] > against[0] + 60 and evidence[0] > evidence[2] + 60
    np.testing.assert_allclose(zero, 128, atol=12)  # nothing lies over the grey of a photo


def test_the_photo_below_is_grey_unless_asked(judged_page, browser):
    browser.get(judged_page.as_uri())
    browser.find_element("css selector", "figure").click()

    def thirds():
        picture = pixels(browser.find_element("css selector", "#large .stack:last-child"))
        return [picture[10, int(picture.shape[1] * place)] for place in (0.02, 0.5, 0.98)]

    against, zero, evidence = thirds()
    np.testing.assert_allclose(zero, GREY, atol=14)
    assert against[2] > against[0] + 60 and evidence[0] > evidence[2] + 60  # full at the ends, one of them beyond
    browser.find_elements("name", "colour")[1].click()
    np.testing.assert_allclose(thirds()[1], GREEN, atol=12)
    browser.find_elements("name", "opacity")[1].send_keys("\ue011")  # Home
    np.testing.assert_allclose(thirds(), [GREEN] * 3, atol=12)
    browser.switch_to.active_element.send_keys(ESCAPE)
    assert browser.find_element("id", "opacity").get_property("value") == "0"  # one dial in two places
    assert browser.find_element("name", "colour").is_selected()
    assert browser.get_log("browser") == []


def test_style_decides_how_a_page_begins(tmp_path, browser):
    path = tmp_path / "coloured.html"
    style = Style("jet", in_colour=True, opacity=0.5)
    write_page(path, "Coloured", [judged_entry("a.jpg", "dog", "dog")], style=style)
    browser.get(path.as_uri())
    assert browser.find_element("id", "opacity").get_property("value") == "0.5"
    picture = pixels(browser.find_element("css selector", ".stack"))
    np.testing.assert_allclose(picture[4, picture.shape[1] // 2], GREEN, atol=12)


def test_the_truth_is_outlined_in_white_with_a_black_edge(judged_page, browser):
    browser.get(judged_page.as_uri())
    browser.find_element("css selector", "figure").click()

    def across():
        """Brightness of a row of pixels above the middle, left of 0.45 of the width."""
        picture = pixels(browser.find_element("css selector", "#large .stack:last-child")).mean(axis=2)
        return picture[picture.shape[0] // 2, : int(picture.shape[1] * 0.45)]

    row = across()
    begin = len(row) * 5 // 6  # where the map is zero
    white = begin + int(row[begin:].argmax())
    assert row[white] > 160 and white / len(row) == pytest.approx(0.4 / 0.45, abs=0.02)
    assert max(row[white - 3 : white].min(), row[white + 1 : white + 4].min()) < GREY - 40
    browser.find_elements("name", "outlines")[1].click()
    np.testing.assert_allclose(across()[white - 3 : white + 4], GREY, atol=20)


def test_contents_and_tables_come_before_the_photos(judged_page, browser):
    browser.get(judged_page.as_uri())
    links = browser.find_elements("css selector", "nav a")
    assert [link.text for link in links] == ["Scores", "Others", "Photos"]
    parts = [browser.find_element("css selector", part) for part in ("nav", "table", "dl", "#photos")]
    tops = [part.rect["y"] for part in parts]
    assert tops == sorted(tops)
    assert parts[2].text.split("\n") == ["pointing ↑", "how often <it> points"]
    assert "docs/results.md, section X" in browser.find_element("css selector", "p.docs").text
    assert len(browser.find_elements("css selector", "dl")) == 1  # none where nothing is known
    links[2].click()
    assert browser.current_url.endswith("#part3") and browser.find_element("id", "part3").text == "Photos"
    assert browser.get_log("browser") == []


def test_pictures_are_as_fine_as_their_map_and_no_finer():
    """What makes the page's size: a small map needs no large picture."""
    assert decoded_picture(encode_photo(np.zeros((512, 256, 3), np.uint8))).size == (192, 384)
    for shape, side in (((7, 7), 144), ((96, 96), 192), ((400, 400), 384), ((224, 224, 3), 224)):
        picture = decoded_picture(encode_overlay(np.ones(shape, np.float32), Scale(1.0, False), (512, 512)))
        assert picture.size == (side, side)
