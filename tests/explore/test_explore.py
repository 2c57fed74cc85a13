"""The app in a real browser: photos, knobs, errors, two people at once, wide and narrow, and nothing from elsewhere."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ENVIRONMENT, ROOT
from PIL import Image
from test_live import small_network

pytest.importorskip("gradio")
pytestmark = [pytest.mark.any_backend, pytest.mark.thorough]
DEADLINE = 120  # seconds for what takes a few
LEFT, ENTER, ESCAPE = "\ue012", "\ue007", "\ue00c"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Photos of one colour but for a bright square, a file that is none, and a network."""
    folder = tmp_path_factory.mktemp("explore")
    for name, colour in (("red.png", (200, 30, 30)), ("blue.png", (30, 30, 200))):
        pixels = np.full((120, 160, 3), colour, np.uint8)
        pixels[20:60, 20:60] = 255
        Image.fromarray(pixels).save(folder / name)
    (folder / "bad.jpg").write_bytes(b"\xff\xd8\xff\xe0 no photo")
    small_network().save(folder / "small.keras")
    return folder


@pytest.fixture(scope="module")
def address(folder):
    """Where the app is served; at its end SIGTERM ends it with one line, and nothing of the photos stays."""
    environment = ENVIRONMENT | {"TMPDIR": str(folder), "HTTP_PROXY": "http://127.0.0.1:9", "PYTHONUNBUFFERED": "1"}
    words = [sys.executable, ROOT / "explore_maps.py", folder / "red.png", "--no-browser"]
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=folder
    )
    lines = [process.stdout.readline(), process.stdout.readline()]
    if not lines[-1].startswith("explore at "):
        raise AssertionError(lines, process.communicate())
    assert len(list(folder.glob("explore_maps_*"))) == 1
    yield lines[-1].split()[2]
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert said == "\nstopped: every file written is whole; the same command opens the page again\n"
    assert process.returncode == 128 + signal.SIGTERM and not list(folder.glob("explore_maps_*"))


def until(condition):
    """What a condition gives, once it is true."""
    deadline = time.monotonic() + DEADLINE
    while not (found := condition()):
        assert time.monotonic() < deadline, condition
        time.sleep(0.1)
    return found


class Page:
    """The app in one browser."""

    def __init__(self, browser, address):
        self.browser = browser
        browser.get(address)
        self.wait_for("cam_4class.h5", "CAM: ")

    def find(self, selector, words=""):
        """The first element of a selector whose label or text has such words."""
        found = self.browser.find_elements("css selector", selector)
        return next(one for one in found if words in f"{one.get_attribute('aria-label')} {one.text}")

    @property
    def text(self):
        maps = self.browser.find_elements("css selector", "#maps .networks")
        return maps[0].text if maps else ""

    def wait_for(self, *words, without="error:"):
        until(lambda: all(word in (text := self.text) for word in words) and without not in text)

    def choose(self, label, words):
        """Choose in a list by its first words."""
        field = self.find("#settings input", label)
        self.browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", field)
        field.click()
        field.send_keys(words)
        until(lambda: self.find("ul[role=listbox] li", words))
        field.send_keys(ENTER, ESCAPE)

    def drop(self, photo):
        self.browser.find_element("css selector", "#photo input[type=file]").send_keys(str(photo))

    def picture(self, words):
        """A picture of the page as it is shown: uint8 (H, W, 3)."""
        image = self.browser.find_element("css selector", f'#maps img[alt*="{words}"]')
        self.browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", image)
        return np.asarray(Image.open(io.BytesIO(image.screenshot_as_png)).convert("RGB")).astype(int)

    def errors(self):
        return [line["message"] for line in self.browser.get_log("browser") if line["level"] == "SEVERE"]

    def foreign(self):
        """The addresses that the page asked, other than of this machine."""
        events = [json.loads(line["message"])["message"] for line in self.browser.get_log("performance")]
        sent = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
        assert sent
        return [url for url in sent if not url.startswith(("http://127.0.0.1:", "data:", "blob:", "chrome:"))]


@pytest.fixture(scope="module")
def page(open_browser, address):
    return Page(open_browser(1400, 900), address)


def test_a_photo_is_dropped_and_every_knob_turned(page, folder):
    np.testing.assert_allclose(page.picture("photo red.png")[-5, -5], (200, 30, 30), atol=12)
    page.drop(folder / "blue.png")
    until(lambda: page.browser.find_elements("css selector", '#maps img[alt="photo blue.png"]'))
    np.testing.assert_allclose(page.picture("photo blue.png")[-5, -5], (30, 30, 200), atol=12)
    page.choose("methods", "LayerCAM")
    page.wait_for("CAM: ", "LayerCAM, layer across_columns: ")
    page.choose("classes", "horse")
    page.wait_for("LayerCAM, layer across_columns: horse, ", "CAM: horse, ")
    page.find("#settings input[type=range]", "layer").send_keys(LEFT)
    page.wait_for("LayerCAM, layer across_rows: horse, ", without="across_columns")
    page.find("#settings label", "guided").click()
    page.wait_for("guided LayerCAM", "guided backpropagation")
    assert page.errors() == [] and page.foreign() == []


def test_opacity_threshold_and_a_click(page):
    before = page.picture("CAM: horse")
    grey = np.abs(np.ptp(before, axis=2)) < 12
    assert not grey.all()
    threshold = page.find("#settings input[type=range]", "threshold")
    threshold.send_keys("\ue010")  # End: only the largest value itself
    until(lambda: (np.ptp(page.picture("CAM: horse"), axis=2) > 40).mean() < (np.ptp(before, axis=2) > 40).mean() / 2)
    threshold.send_keys("\ue011")  # Home
    until(lambda: np.array_equal(page.picture("CAM: horse"), before))
    opacity = page.find("#settings input[type=range]", "opacity")
    opacity.send_keys("\ue011")
    until(lambda: (np.ptp(page.picture("CAM: horse"), axis=2) < 12).all())  # the grey photo alone
    opacity.send_keys("\ue010")
    page.browser.find_element("css selector", '#maps img[alt*="CAM: horse"]').click()  # in its middle
    until(lambda: page.browser.find_element("id", "told").text)
    told = page.browser.find_element("id", "told").text
    assert re.fullmatch(
        r"CAM of horse: \S+, 50 % from the left, 50 % from the top: row 4[45] of 88, column 4[45] of 88", told
    )
    mark, image = page.browser.find_element("id", "place").rect, page.find('#maps img[alt*="CAM: horse"]').rect
    assert mark["x"] + mark["width"] / 2 == pytest.approx(image["x"] + image["width"] / 2, abs=3)
    assert page.errors() == []


def test_files_are_offered(page):
    button = page.find("#settings button", "make files")
    page.browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
    button.click()
    links = until(lambda: page.browser.find_elements("css selector", "#settings a[download]"))
    names = {os.path.basename(link.get_attribute("href")) for link in links}
    assert {"1_cam_heatmap_for_horse.npy", "1_cam_overlay_for_horse.png", "2_layer-cam_gradcam_for_horse.npy"} <= names
    commands = page.find("#settings textarea").get_property("value").splitlines()
    assert len(commands) == 2 and "--classes predicted horse" in commands[1]


def test_errors_are_told_in_the_page_which_goes_on(page, folder):
    page.drop(folder / "bad.jpg")
    page.wait_for("error: bad.jpg cannot be read: damaged or cut off", without="CAM: ")
    page.drop(folder / "red.png")
    page.wait_for("CAM: horse")
    field = page.find("#settings input", "network")
    page.browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", field)
    field.click()  # what is typed replaces what stands there
    field.send_keys(str(folder / "bad.jpg"), ENTER)
    page.wait_for("error: ", "bad.jpg is neither an HDF5 nor a .keras file", without="CAM: ")


def test_a_second_network_stands_beside_the_first_for_two_people_at_once(page, folder, open_browser, address):
    narrow = Page(open_browser(390, 844), address)
    wide = Page(open_browser(1400, 900), address)
    for one in (wide, narrow):
        one.find("#settings button", "a second network").click()
        until(lambda one=one: one.find("#settings input", "second network").is_displayed())
        field = one.find("#settings input", "second network")
        one.browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", field)
        field.click()
        field.send_keys(str(folder / "small.keras"), ENTER)  # both wait for one another
    for one in (wide, narrow):
        one.wait_for("cam_4class.h5", "small.keras", "CAM: class")
        first, second = (section.rect for section in one.browser.find_elements("css selector", "#maps section"))
        width = one.browser.execute_script("return innerWidth")
        assert one.browser.execute_script("return document.documentElement.scrollWidth") <= width
        beside = second["x"] > first["x"] + first["width"] - 2 and abs(second["y"] - first["y"]) < 2
        assert beside == (one is wide) and first["width"] > (380 if one is wide else 300)
        assert one.errors() == [] and one.foreign() == []
