"""Colours, overlays, panels and the record of a run, against values worked out by hand."""

import matplotlib
import numpy as np
import pytest
from PIL import Image

from camlib.console import UserError
from camlib.plots.colours import (
    DIVERGING,
    Scale,
    Style,
    colours,
    enlarged_for_display,
    overlay,
    picture_of,
    resize_map,
    scale_of,
    scaled,
    superposition,
    superposition_of,
    superposition_scale_of,
)
from camlib.plots.figures import decoded_picture
from camlib.plots.page import encode_overlay
from camlib.plots.panels import write_jpeg, write_panel

pytestmark = pytest.mark.any_backend


def test_resize_has_half_pixel_centres():
    enlarged = resize_map(np.array([[0.0, 4.0]]), 1, 4)
    np.testing.assert_allclose(enlarged, [[0, 1, 3, 4]])  # corner-aligned geometry would give 0, 4/3, 8/3, 4


def test_map_of_zeros_stays_zero():
    zeros = np.zeros((2, 2), np.float32)
    np.testing.assert_array_equal(scaled(zeros, scale_of(True, [zeros]).limit), zeros)


def test_scale_is_the_largest_magnitude_of_all_maps():
    positive, negative = np.array([[2.0, 3.0]]), np.array([[1.0, -7.0]])
    assert scale_of(False, [positive]) == (3.0, False, False)
    assert scale_of(True, [positive]) == (3.0, True, False)  # a kind with two signs
    assert scale_of(False, [positive, negative]) == (7.0, True, False)  # a method with two signs
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
    picture = picture_of(values, scale, 20, 30)
    assert picture[0, 1, 0] == 0 and picture[0, 0, 0] == picture[5, 5, 1] == 255  # ends, never wrapped around
    sparse = np.zeros((40, 40, 3), np.float32)
    sparse[3, 3] = 2.0
    assert scale_of(True, [sparse], gradients=True) == (2.0, True, False)
    assert [text for _, text in Scale(0.25, False).ticks()] == ["0", "0.25"]


def test_a_few_large_values_hide_nothing_in_the_page():
    values = np.full((40, 40), 0.5, np.float32)
    values[:2, :3] = 60.0
    scale = superposition_scale_of(False, [values], capped=True)
    assert scale == (0.5, False, True)
    uri = encode_overlay(values, scale, values.shape)
    over = np.asarray(decoded_picture(uri).convert("RGBA"))
    assert (over[..., 3] == 255).all()


def test_superposition_leaves_the_grey_photo_where_the_map_is_zero():
    photo = np.full((1, 3, 3), (10, 200, 90), np.uint8)
    values = np.array([[-1.0, 0.0, 1.0]])
    against, nothing, evidence = superposition(photo, values, True, Style(opacity=1.0))[0].astype(int)
    luminance = round(0.299 * 10 + 0.587 * 200 + 0.114 * 90)
    np.testing.assert_allclose(nothing, [luminance] * 3, atol=1)
    np.testing.assert_array_equal(evidence, colours(np.array([[1.0]]), signed=True)[0, 0])  # full at the top
    assert evidence[0] == 255 and evidence[1] > 200 and evidence[2] < 130  # yellow
    assert against[2] == 255 and against[0] < 160  # cyan


def test_opacity_grows_with_the_magnitude():
    _, opacity = overlay(np.array([[-2.0, -0.5, 0.0, 0.25, 1.0]]), True, Style(opacity=1.0))
    np.testing.assert_allclose(opacity, [[1, 0.5, 0, 0.25, 1]])
    _, opacity = overlay(np.array([[-0.1, 0.25, 3.0]]), signed=False, style=Style(opacity=0.5))
    np.testing.assert_allclose(opacity, [[0, 0.125, 0.5]])


def test_colour_maps_of_matplotlib():
    values = np.array([[-1.0, 0.0, 0.5, 1.0]])
    above, opacity = overlay(values, True, Style("turbo", opacity=1.0))  # no middle: evidence for a class alone
    np.testing.assert_array_equal(above[0, 1:], matplotlib.colormaps["turbo"]([0.0, 0.5, 1.0], bytes=True)[:, :3])
    np.testing.assert_allclose(opacity, [[0, 0, 0.5, 1]])
    above, opacity = overlay(values, True, Style("RdBu_r", opacity=1.0))
    np.testing.assert_array_equal(above[0], matplotlib.colormaps["RdBu_r"]([0, 0.5, 0.75, 1.0], bytes=True)[:, :3])
    np.testing.assert_allclose(opacity, [[1, 0, 0.5, 1]])
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
    photo = generator.integers(0, 256, (60, 70, 3), np.uint8)
    values = generator.uniform(-1, 1, (60, 70)).astype(np.float32)
    above, weight = overlay(values, True, style)
    luma = np.asarray(Image.fromarray(photo).convert("L"), int)[..., None]
    below = photo if style.in_colour else luma
    expected = below * (1 - weight[..., None].astype(float)) + above * weight[..., None].astype(float)
    off_by = 0.5 + 1e-4 if style.in_colour else 1.5 + 1e-4  # Pillow and OpenCV may round the luma differently
    assert np.abs(superposition(photo, values, True, style) - expected).max() <= off_by


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
    np.testing.assert_array_equal(picture[0, 0], [255, 128, 128])
    np.testing.assert_array_equal(picture[1, 1], [128, 0, 128])


def test_panel_keeps_the_photos_colours_and_shape(tmp_path):
    photo = np.full((50, 100, 3), (250, 5, 5), np.uint8)
    cam, gradients = np.zeros((4, 4)), np.ones((8, 8, 3))
    maps = [("map", cam, Scale(0.0, False)), ("gradients", gradients, Scale(1.0, True))]
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
    maps = [("Grad-CAM", np.ones((3, 1)), scale), ("CAM", np.ones((3, 1)), scale)]
    write_panel(tmp_path / "p.jpg", ["a"], photo, maps)
    width = Image.open(tmp_path / "p.jpg").width
    assert width < 4 * (107 + 70) + 100  # 107 pixels each, a bar and its numbers; the longest title is a little wider


def test_a_panel_of_grey_gradients_is_one_of_a_map(tmp_path):
    """Gradients of a grey photo, (H, W, 1), are drawn in the colours that their bar has."""
    values = np.linspace(-1, 1, 48).reshape(6, 8).astype(np.float32)
    photo, scale = np.zeros((30, 40, 3), np.uint8), Scale(1.0, signed=True)
    for name, shape in (("map", (6, 8)), ("gradients", (6, 8, 1))):
        write_panel(tmp_path / f"{name}.jpg", ["a"], photo, [("title", values.reshape(shape), scale)], whole=scale)
    assert (tmp_path / "map.jpg").read_bytes() == (tmp_path / "gradients.jpg").read_bytes()
