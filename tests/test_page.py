"""The HTML page in a real browser: it loads, its pickers and its slider change the picture, names stay text."""

import base64
import io
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from camlib.page import write_page
from camlib.pictures import Scale, encode_overlay, encode_photo

pytestmark = pytest.mark.any_backend

HOSTILE = '</script><script>document.title="owned"</script><b>"&\'.jpg'
RED, BLUE = (255, 0, 0), (0, 0, 255)


def entry(name, colour, own, scores, kinds=("CAM", "Grad-CAM")):
    photo = np.full((30, 60, 3), colour, np.uint8)
    values = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    maps = {
        kind: {class_name: {"picture": encode_overlay(values, Scale(1.0, signed=False), photo.shape[:2]),
                            "scores": {"energy": score}}
               for class_name, score in scores.items()}
        for kind in kinds
    }  # fmt: skip
    return {"name": name, "class": own, "note": "a note", "picture": encode_photo(photo), "maps": maps}


@pytest.fixture
def page(tmp_path):
    path = tmp_path / "page.html"
    entries = [
        entry("a.jpg", RED, "dog", {"dog": 0.2, "cat": 0.9}),
        entry(HOSTILE, BLUE, "cat", {"cat": 0.5}),
        entry("c\udcff.jpg", BLUE, "dog", {"dog": None}, kinds=("CAM",)),
    ]
    grids = [("Scores <1>", ["map", "score ↑"], [["cam & co", "0.5 (0.4 to 0.6)"]])]
    figure = tmp_path / "some_figure.png"
    Image.new("RGB", (20, 10), RED).save(figure)
    write_page(path, "Maps <of> me", entries, grids, ["a sentence & more"], [figure])
    return path


def test_pictures_keep_their_shape_and_colours():
    photo = np.zeros((30, 60, 3), np.uint8)
    photo[:, :30] = RED
    picture = Image.open(io.BytesIO(base64.b64decode(encode_photo(photo).split(",")[1])))
    assert picture.size == (144, 72) and picture.getpixel((20, 30))[0] > 200 > 60 > picture.getpixel((130, 30))[0]
    values = np.array([[-1.0, 0.0, 1.0]], np.float32)
    uri = encode_overlay(values, Scale(1.0, signed=True), (30, 90))
    overlay = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).convert("RGBA")).astype(int)
    left, middle, right = overlay[24, 10], overlay[24, 72], overlay[24, 134]
    assert left[3] > 240 and right[3] > 240 and middle[3] < 40  # blue below zero, clear at zero, red above
    assert left[2] > left[0] + 60 and right[0] > right[2] + 60


def test_page_is_self_contained(page):
    text = page.read_text("utf-8")
    assert not re.findall(r"(?:src|href)=[\"'](?!data:)", text) and "http://" not in text and "https://" not in text
    assert "<td>0.5 (0.4 to 0.6)</td>" in text and "cam &amp; co" in text and "Maps &lt;of&gt; me" in text
    entries = json.loads(re.search(r'id="entries">(.*?)</script>', text, re.DOTALL)[1])
    assert entries[1]["name"] == HOSTILE


@pytest.fixture
def browser():
    driver = shutil.which("chromedriver")
    binary = shutil.which("chromium") or shutil.which("chromium-browser")
    if not (driver and binary):
        pytest.skip("needs Debian's chromium and chromium-driver")
    selenium = pytest.importorskip("selenium.webdriver")
    options = selenium.ChromeOptions()
    options.binary_location = binary
    for flag in (
        "headless",
        "no-sandbox",
        "disable-gpu",
        "disable-quic",
        "no-first-run",
        "disable-background-networking",
        "disable-component-update",
        "disable-sync",
        "window-size=1000,800",
    ):
        options.add_argument(f"--{flag}")  # fmt: skip
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = selenium.Chrome(options, selenium.ChromeService(driver))
    yield browser
    browser.quit()


def cards(browser):
    return [figure.text.replace("\n", " ") for figure in browser.find_elements("css selector", "figure")]


def choose(browser, picker, value):
    browser.execute_script(
        "const s = document.getElementById(arguments[0]); s.value = arguments[1]; s.dispatchEvent(new Event('change'))",
        picker,
        value,
    )


def test_page_in_a_browser(page, browser):
    browser.get(page.as_uri())
    assert browser.get_log("browser") == []  # no error, and nothing that the policy had to stop
    assert browser.title == "Maps <of> me"
    assert cards(browser) == [
        "a.jpg: dog, energy 0.200, a note",
        f"{HOSTILE}: cat, energy 0.500, a note",
        "c\\udcff.jpg: dog, energy -, a note",
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
    np.testing.assert_allclose(middle(), strong, atol=4)

    choose(browser, "class", "cat")
    assert cards(browser) == ["a.jpg: cat, energy 0.900, a note", f"{HOSTILE}: cat, energy 0.500, a note"]
    choose(browser, "order", "+energy")
    assert [card.split(":")[0] for card in cards(browser)] == [HOSTILE, "a.jpg"]
    choose(browser, "class", "")
    choose(browser, "kind", "Grad-CAM")
    assert len(cards(browser)) == 2 and browser.find_element("id", "count").text == "2 of 3"
    browser.find_elements("css selector", "figure")[0].send_keys("\ue014")  # right arrow
    assert browser.switch_to.active_element.text.startswith(HOSTILE)
    assert browser.get_log("browser") == []
