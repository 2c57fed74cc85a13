"""Colours, overlays, panels and the record of a run, against values worked out by hand."""

import matplotlib
import numpy as np
import pytest
from PIL import Image

from camlib.console import UserError
from camlib.plots.colours import (
    DIVERGING,
    EVIDENCE,
    FOR,
    USUAL,
    Scale,
    Style,
    colours,
    detail_of,
    enlarged_for_display,
    magnitude,
    overlay,
    overlay_colours,
    overlay_of,
    picture_of,
    reduced,
    resize_map,
    scale_of,
    scaled,
    smoothed_magnitude,
    superposition,
    superposition_of,
    superposition_scale_of,
)
from camlib.plots.figures import decoded_picture
from camlib.plots.page import encode_overlay
from camlib.plots.panels import colour_bar, write_jpeg, write_panel
from camlib.runs.claim import remove_maps
from camlib.runs.writers import Drawing, write_photo_maps
from camlib.viewer.album import overlaid

pytestmark = pytest.mark.any_backend
COVERED, DETAIL, MOST_OPAQUE = 0.4, 0.6, 0.8  # as drawn: from which share on, of the detail, in a page


def test_resize_has_half_pixel_centres():
    enlarged = resize_map(np.array([[0.0, 4.0]]), 1, 4)
    np.testing.assert_allclose(enlarged, [[0, 1, 3, 4]])  # corner-aligned geometry would give 0, 4/3, 8/3, 4


EXTENTS = {  # rows and columns of a 4 x 6 picture that a map covers -> in shares
    (0, 4, 0, 6): (0.0, 0.0, 1.0, 1.0),
    (1, 3, 2, 6): (0.25, 1 / 3, 0.75, 1.0),
    (-1, 3, -2, 4): (-0.25, -1 / 3, 0.75, 2 / 3),
    (1, 6, 3, 8): (0.25, 0.5, 1.5, 4 / 3),
    (2, 2, 0, 6): (0.5, 0.0, 0.5, 1.0),  # thinner than a pixel
}


@pytest.mark.parametrize("place", EXTENTS)
@pytest.mark.parametrize("resize", [resize_map, enlarged_for_display])
def test_a_map_of_a_part_lies_there(place, resize):
    """Elsewhere nothing is claimed, and no evidence for the class."""
    for values in (np.random.default_rng(0).uniform(1, 2, (3, 2)), np.random.default_rng(0).uniform(-2, -1, (3, 2))):
        top, bottom, left, right = place
        large = resize(values, max(1, bottom - top), right - left)
        laid = resize(values, 4, 6, EXTENTS[place])
        assert laid.shape == (4, 6) and laid.dtype == np.float32
        for y, x in np.ndindex(4, 6):
            covered = top <= y < max(bottom, top + 1) and left <= x < right
            outside = min(0, values.min()) if resize is resize_map else 0
            assert laid[y, x] == pytest.approx(large[y - top, x - left] if covered else outside)


def test_evidence_has_the_colours_of_hot_without_its_white():
    """From pure black on, one colour after the other."""
    expected = matplotlib.colormaps["hot"](np.linspace(0, 0.85, 256))
    np.testing.assert_allclose(FOR(np.arange(256))[1:], expected[1:], atol=1e-6)
    assert FOR(0) == EVIDENCE(0.5) == (0, 0, 0, 1)  # the middle is neither
    assert overlay_colours(True, USUAL)(0.5) == (0, 0, 0, 0)


def test_map_of_zeros_stays_zero():
    zeros = np.zeros((2, 2), np.float32)
    np.testing.assert_array_equal(scaled(zeros, scale_of(True, [zeros]).limit), zeros)


def test_scale_is_the_largest_magnitude_of_all_maps():
    positive, negative = np.array([[2.0, 3.0]]), np.array([[1.0, -7.0]])
    assert scale_of(False, [positive]) == (3.0, False, False)
    assert scale_of(True, [positive]) == (3.0, True, False)  # a kind with two signs
    assert scale_of(False, [positive, negative]) == (7.0, True, False)  # a method with two signs
    assert scale_of(True, []) == (0.0, True, False)
    assert Scale(7.0, True).lowest == -7.0 and Scale(7.0, False).lowest == 0.0


def test_over_a_photo_evidence_against_one_class_fades_no_evidence_for_another():
    dog, cat = np.array([[0.5, 2.0]]), np.array([[-40.0, 1.0]])
    assert superposition_scale_of(True, [dog, cat]) == (2.0, True, True)  # -40 is drawn as the scale's end
    assert superposition_scale_of(True, [dog]) == (2.0, True, False)
    assert superposition_scale_of(True, [cat - 2]) == (42.0, True, False)  # nothing speaks for it
    assert superposition_scale_of(False, [np.zeros((2, 2))]) == (0.0, False, False)
    photo = np.full((1, 2, 3), 100, np.uint8)
    shown = [superposition_of(photo, dog, superposition_scale_of(True, maps)) for maps in ([dog], [dog, cat])]
    np.testing.assert_array_equal(*shown)


def test_the_largest_gradients_are_drawn_alike():
    values = np.zeros((20, 30, 3), np.float32)
    values[:10] = 0.5
    values[0, :3, 0] = 60.0, -60.0, 60.0  # 3 of 1800; in the scale of the largest the rest would be grey
    scale = scale_of(True, [values], gradients=True)
    assert scale == (0.5, True, True)
    assert [text for _, text in scale.ticks()] == ["≤ -0.5", "0", "≥ 0.5"]
    assert scale_of(False, [np.arange(1001.0)], gradients=True) == (995.0, False, True)  # 99.5 % are below
    picture = picture_of(values, scale, 20, 30)
    assert picture[0, 1, 0] == 0 and picture[0, 0, 0] == picture[5, 5, 1] == 255  # ends, never wrapped around
    sparse = np.zeros((40, 40, 3), np.float32)
    sparse[3, 3] = 2.0
    assert scale_of(True, [sparse], gradients=True) == (2.0, True, False)
    assert Scale(0.25, False).ticks() == [(0.0, "0"), (0.25, "0.25")]
    assert Scale(0.25, True).ticks() == [(-0.25, "-0.25"), (0.0, "0"), (0.25, "0.25")]
    assert Scale(0.25, False, capped=True).ticks() == [(0.0, "0"), (0.25, "≥ 0.25")]
    assert Scale(0.0, True).ticks() == [(0.0, "0")]


@pytest.mark.parametrize(
    ("scale", "ticks", "ends"),
    [
        (Scale(2.0, True), [("-2", 100), ("0", 50), ("2", 0)], (2, -2)),
        (Scale(2.0, False), [("0", 100), ("2", 0)], (2, 0)),
        (Scale(0.0, True), [("0", 0)], (0, 0)),
    ],
)
def test_ticks_stand_beside_their_colours(scale, ticks, ends):
    values, found = colour_bar(scale, 101, lambda values: values)
    assert sorted(found, key=lambda tick: -tick[1]) == ticks
    assert values.shape == (101, 14) and (values[0, 0], values[-1, 0]) == ends
    for text, y in found:
        assert values[y, 0] == pytest.approx(float(text))


def test_a_few_large_values_hide_nothing_in_the_page():
    values = np.full((40, 40), 0.5, np.float32)
    values[:2, :3] = 60.0
    scale = superposition_scale_of(False, [values], capped=True)
    assert scale == (0.5, False, True)
    uri = encode_overlay(values, scale, values.shape)
    over = np.asarray(decoded_picture(uri).convert("RGBA"))
    assert (over[..., 3] == round(255 * MOST_OPAQUE)).all()


def test_superposition_leaves_the_grey_photo_where_the_map_is_zero():
    photo = np.full((1, 3, 3), (10, 200, 90), np.uint8)
    values = np.array([[-1.0, 0.0, 1.0]])
    against, nothing, evidence = superposition(photo, values, True, Style(opacity=1.0))[0].astype(int)
    luminance = round(0.299 * 10 + 0.587 * 200 + 0.114 * 90)
    np.testing.assert_allclose(nothing, [luminance] * 3, atol=1)
    np.testing.assert_array_equal(evidence, colours(np.array([[1.0]]), signed=True)[0, 0])  # full at the top
    assert evidence[0] == 255 and evidence[1] > 200 and evidence[2] < 130  # yellow
    assert against[2] == 255 and against[0] < 160  # cyan


def test_evidence_goes_from_black_to_cyan_and_to_the_yellow_of_hot():
    against = [(0, 0, 0), (0x0C, 0x2F, 0x9E), (0x1F, 0x6F, 0xF0), (0x38, 0xB0, 0xFF), (0x8C, 0xEC, 0xFF)]
    shares = np.arange(256) / 255
    below = np.stack([np.interp(shares, np.arange(5) / 4, channel) for channel in np.transpose(against)], axis=1)
    above = 255 * matplotlib.colormaps["hot"](0.85 * shares)[:, :3]
    above[0] = 0  # where Matplotlib's begins with a dark red
    for found in (colours(shares[None], signed=True)[0], colours(shares[None], signed=False)[0]):
        np.testing.assert_allclose(found.astype(int), above, atol=5)
        np.testing.assert_array_equal(found[0], (0, 0, 0))
        np.testing.assert_allclose(found[-1], above[-1], atol=1)
    found = colours(-shares[None], signed=True)[0]
    np.testing.assert_allclose(found.astype(int), below, atol=2)
    np.testing.assert_array_equal(found[-1], against[-1])


def test_opacity_grows_with_the_magnitude_and_is_full_from_covered_on():
    values = np.array([[-2.0, -COVERED / 2, 0.0, COVERED / 4, COVERED, 1.0]])
    opacity = overlay(values, True, Style(opacity=1.0))[..., 3] / 255
    np.testing.assert_allclose(opacity, [[1, 0.5, 0, 3 / 16 - 2 / 64, 1, 1]], atol=0.01)
    opacity = overlay(np.array([[-0.1, COVERED / 2, 3.0]]), signed=False, style=Style(opacity=0.5))[..., 3] / 255
    np.testing.assert_allclose(opacity, [[0, 0.25, 0.5]], atol=0.01)
    opacity = overlay(np.array([[0.0, 0.49, 0.5, 1.0]]), False, Style(opacity=1.0, threshold=0.5))[..., 3]
    assert opacity.tolist() == [[0, 0, 255, 255]]  # nothing below the threshold


@pytest.mark.parametrize("value", [-1.0, -0.5, 0.4, 0.6, 1.0])
def test_a_value_has_the_legends_colour_on_white_grey_and_black_fur(value):
    values = np.full((8, 8), value, np.float32)
    furs = [np.full((8, 8, 3), grey, np.uint8) for grey in (255, 128, 0)]
    white, grey, black = (superposition(fur, values, True)[4, 4] for fur in furs)
    assert np.ptp([white, grey, black], axis=0).max() <= 27  # of 255: a tenth; in proportion to 0.5 it would be 140
    legend = colours(np.array([[np.sign(value) * 0.3 + 0.7 * value]]), True)[0, 0]
    np.testing.assert_allclose(grey, 0.9 * legend + 0.1 * 128, atol=1.5)


def test_the_photos_detail_is_seen_in_a_map_but_not_whether_it_is_dark_or_light():
    grey = np.full((160, 240), 60, np.uint8)
    grey[:, 120:] = 180
    grey[74:86, 54:66] = grey[74:86, 174:186] = 120  # a light spot on the dark half, a dark one on the light
    photo = np.repeat(grey[..., None], 3, axis=2)
    detail = detail_of(photo)
    assert detail[20, 60] == detail[20, 180] == 0
    assert not detail_of(photo[76:80, 52:56]).any()  # so small that each pixel is its own surroundings
    spot = 60 * (1 - 144 / 900)  # its surroundings are 30 x 30 pixels
    np.testing.assert_allclose([detail[80, 60], detail[80, 180]], [DETAIL * spot, -DETAIL * spot], atol=0.8)
    laid = superposition(photo, np.full(grey.shape, 0.5, np.float32), False).astype(int)[..., 1]
    np.testing.assert_allclose(laid[80, 60] - laid[20, 60], 0.9 * DETAIL * spot + 0.1 * 60, atol=2)
    assert abs(laid[20, 180] - laid[20, 60]) <= 13  # 120 in the photo


def test_colour_maps_of_matplotlib():
    values = np.array([[-1.0, 0.0, 0.5, 1.0]])
    over = overlay(values, True, Style("turbo", opacity=1.0))[0]  # no middle: evidence for a class alone
    expected = matplotlib.colormaps["turbo"]([0.0, 0.5, 1.0], bytes=True)[:, :3].astype(int)
    np.testing.assert_allclose(over[1:, :3], expected, atol=3)  # 511 colours from Matplotlib's 256
    np.testing.assert_array_equal(over[:, 3], [0, 0, 255, 255])
    over = overlay(values, True, Style("RdBu_r", opacity=1.0))[0]
    expected = matplotlib.colormaps["RdBu_r"]([0, 0.5, 0.75, 1.0], bytes=True)[:, :3].astype(int)
    np.testing.assert_allclose(over[:, :3], expected, atol=3)
    np.testing.assert_array_equal(over[:, 3], [255, 0, 255, 255])
    alone = matplotlib.colormaps["turbo"]([0, 0.5, 0.75, 1.0], bytes=True)[:, :3]
    np.testing.assert_array_equal(colours(values, True, Style("turbo"))[0], alone)
    assert not {name for name in DIVERGING if name not in matplotlib.colormaps}


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("name", ["evidence", "turbo", "RdBu_r", "tab10"])
def test_what_is_beyond_a_scale_is_drawn_as_its_ends(name, signed):
    values = np.array([[-3, -1, 0, 1, 5, np.inf, -np.inf, np.nan]], np.float32)
    found = colours(values, signed, Style(name))[0]
    below, above = found[1 if signed else 2], found[3]
    np.testing.assert_array_equal(found, [below, below, found[2], above, above, above, below, (0, 0, 0)])


@pytest.mark.parametrize("style", [Style(), Style("turbo", in_colour=True, opacity=0.37)])
def test_superposition_is_the_weighted_mean_of_photo_and_colours(style):
    generator = np.random.default_rng(0)
    photo = generator.integers(0, 256, (150, 70, 3), np.uint8)  # more rows than are drawn at a time
    values = generator.uniform(-1, 1, (150, 70)).astype(np.float32)
    over = overlay(values, True, style, detail_of(photo)).astype(float)
    weight = over[..., 3:] / 255
    luma = np.asarray(Image.fromarray(photo).convert("L"), int)[..., None]
    expected = (photo if style.in_colour else luma) * (1 - weight) + over[..., :3] * weight
    off_by = 0.51 if style.in_colour else 1.51  # Pillow and OpenCV may round the luma differently
    assert np.abs(superposition(photo, values, True, style) - expected).max() <= off_by


@pytest.mark.parametrize("signed", [True, False])
def test_a_transparent_overlay_over_the_grey_photo_is_the_superposition(tmp_path, signed):
    generator = np.random.default_rng(1)
    grey = generator.integers(0, 256, (80, 120), np.uint8)
    photo, values = np.repeat(grey[..., None], 3, axis=2), generator.uniform(-1 if signed else 0, 1, (8, 12))
    drawing = Drawing(Style(), {"heatmap": signed}, {}, overlay=True)
    write_photo_maps(tmp_path, photo, {"heatmap": {"dog": values, "cat": 0 * values}}, drawing, {})
    assert len(list(tmp_path.glob("overlay_for_*.png"))) == 2
    assert not np.asarray(Image.open(tmp_path / "overlay_for_cat.png"))[..., 3].any()
    over = Image.open(tmp_path / "overlay_for_dog.png")
    laid = Image.alpha_composite(Image.fromarray(photo).convert("RGBA"), over).convert("RGB")
    expected = superposition_of(photo, values, superposition_scale_of(signed, [values]))
    np.testing.assert_allclose(np.asarray(laid).astype(int), expected, atol=2)
    (tmp_path / "overlay.png").touch()  # the user's
    remove_maps(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["overlay.png"]


def test_gradients_lie_over_a_photo_by_their_magnitude():
    generator = np.random.default_rng(2)
    photo, gradients = generator.integers(0, 256, (6, 8, 3), np.uint8), generator.normal(size=(6, 8, 3))
    largest, scale = np.abs(gradients).max(axis=2), Scale(2.0, True)
    np.testing.assert_array_equal(magnitude(gradients), largest)
    np.testing.assert_array_equal(magnitude(gradients[..., :1]), gradients[..., 0])
    found = superposition_of(photo, gradients, scale)
    np.testing.assert_array_equal(found, superposition_of(photo, largest, Scale(2.0, False)))
    signed = superposition_of(photo, gradients[..., 0], scale)
    np.testing.assert_array_equal(signed, superposition_of(photo, gradients[..., :1], scale))
    np.testing.assert_array_equal(signed, superposition(photo, np.clip(gradients[..., 0] / 2, -1, 1), True))
    over, part = overlay_of(photo, gradients[..., 0], scale), (0.0, 0.0, 0.5, 1.0)
    np.testing.assert_array_equal(over, overlay(gradients[..., 0] / 2, True, detail=detail_of(photo)))
    half = overlay_of(photo, gradients[:3, :, 0], scale, extent=part)
    np.testing.assert_array_equal(half[:3], over[:3])
    assert not half[3:, :, 3].any()


def test_one_number_a_pixel_stands_for_a_gradients_channels():
    values = np.float32([[[1, -2, 3]]])
    found = [float(reduced("smooth-grad@1", values, how)[0, 0]) for how in (None, "magnitudes", "sum", "largest")]
    assert found == [6, 6, 2, 3]
    assert reduced("guided_backprop", values) is values and reduced("smooth-grad", values[0]).shape == (1, 3)


def test_jpeg_files_hold_what_pillow_would_write(tmp_path):
    photo = np.random.default_rng(0).integers(0, 256, (37, 51, 3), np.uint8)
    photo[:, 20:] = np.linspace(0, 255, 31)[:, None]
    write_jpeg(tmp_path / "ours.jpg", photo)
    Image.fromarray(photo).save(tmp_path / "pillows.jpg", quality=90)
    ours, pillows = (Image.open(tmp_path / f"{name}.jpg") for name in ("ours", "pillows"))
    assert ours.quantization == pillows.quantization and ours.layer == pillows.layer  # quality and subsampling
    np.testing.assert_array_equal(np.asarray(ours), np.asarray(pillows))


def test_a_picture_larger_than_jpeg_takes_is_refused_in_a_line(tmp_path):
    with pytest.raises(UserError, match=r"long.jpg would have 65,501 x 2 pixels; a JPEG has at most 65,500 a side"):
        write_jpeg(tmp_path / "long.jpg", np.zeros((2, 65_501, 3), np.uint8))
    assert not list(tmp_path.iterdir())


def test_maps_are_enlarged_smoothly_and_within_their_values():
    values = np.zeros((3, 3), np.float32)
    values[1, 1] = 1.0
    large = enlarged_for_display(values, 300, 300)
    assert large.min() == 0 and 0.99 < large.max() <= 1
    assert large[149, 149] - large[149, 139] < 0.04  # round at the top; bilinear falls by 0.1
    ring = [large[150, 200], large[200, 150], large[150 + 35, 150 + 35]]  # bilinear: 0.5, 0.5 and 0.42
    assert np.ptp(ring) < 0.1
    np.testing.assert_allclose(enlarged_for_display(np.arange(16.0).reshape(4, 4), 2, 2), [[2.5, 4.5], [10.5, 12.5]])


def test_gradients_are_shown_around_mid_grey():
    values = np.zeros((2, 2, 3))
    values[0, 0], values[1, 1] = (2, 0, 0), (0, -2, 0)
    picture = picture_of(values, Scale(2.0, True), 2, 2)
    half = picture_of(values / 2, Scale(2.0, True), 2, 2)  # rounded to the even number: 191.25 and 63.75
    np.testing.assert_array_equal([half[0, 0, 0], half[1, 1, 1]], [191, 64])
    np.testing.assert_array_equal(picture[0, 0], [255, 128, 128])
    np.testing.assert_array_equal(picture[1, 1], [128, 0, 128])


def test_gradients_lie_over_a_photo_as_areas_and_not_as_specks():
    values = np.zeros((200, 100, 3), np.float32)
    values[100, 50] = 1, -4, 2
    laid = smoothed_magnitude(values)  # a Gaussian with a sigma of 3 pixels
    np.testing.assert_allclose(laid.sum(), 4, rtol=1e-3)
    np.testing.assert_allclose(laid[100, [50, 53, 56]], 4 / (18 * np.pi) * np.exp([0, -0.5, -2]), rtol=0.02)
    np.testing.assert_array_equal(overlaid("guided_backprop", values), laid)
    np.testing.assert_array_equal(overlaid("guided_gradcam", values[..., 1:2]), smoothed_magnitude(values[..., 1]))
    np.testing.assert_array_equal(overlaid("gradcam", values[..., 1]), values[..., 1])


def test_panel_keeps_the_photos_colours_and_shape(tmp_path):
    photo = np.full((50, 100, 3), (250, 5, 5), np.uint8)
    cam, gradients = np.zeros((4, 4)), np.ones((8, 8, 3))
    maps = [("map", cam, Scale(0.0, False), None), ("gradients", gradients, Scale(1.0, True), None)]
    write_panel(tmp_path / "p.jpg", ["a.jpg: dog 0.921", "map of layer last"], photo, maps)
    panel = np.asarray(Image.open(tmp_path / "p.jpg")).astype(int)
    red = (panel[..., 0] > 200) & (panel[..., 1] < 60) & (panel[..., 2] < 60)
    rows, columns = np.nonzero(red)
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    assert abs(width - 320) < 4 and abs(height - 160) < 4
    beside = panel[rows.min() + 4 : rows.max() - 4, columns.max() + 20 : columns.max() + 330]
    assert np.abs(beside - round(0.299 * 250 + 0.587 * 5 + 0.114 * 5)).max() < 4  # an empty map over the grey photo


def test_panels_of_tall_photos_have_no_gaps(tmp_path):
    photo, scale = np.zeros((90, 30, 3), np.uint8), Scale(1.0, signed=True)
    maps = [("Grad-CAM", np.ones((3, 1)), scale, None), ("CAM", np.ones((3, 1)), scale, None)]
    write_panel(tmp_path / "p.jpg", ["a"], photo, maps)
    width = Image.open(tmp_path / "p.jpg").width
    assert width < 4 * (107 + 70) + 100  # 107 pixels each, a bar and its numbers; the longest title is a little wider


def test_a_panel_of_grey_gradients_is_one_of_a_map(tmp_path):
    """Gradients of a grey photo, (H, W, 1), are drawn in the colours that their bar has."""
    values = np.linspace(-1, 1, 48).reshape(6, 8).astype(np.float32)
    photo, scale = np.zeros((30, 40, 3), np.uint8), Scale(1.0, signed=True)
    for name, shape in (("map", (6, 8)), ("gradients", (6, 8, 1))):
        shown = values.reshape(shape)
        maps = [("title", shown, scale, None)]
        write_panel(tmp_path / f"{name}.jpg", ["a"], photo, maps, over_photo=(shown, scale))
    assert (tmp_path / "map.jpg").read_bytes() == (tmp_path / "gradients.jpg").read_bytes()
