"""Colours, overlays, panels and the record of a run, against values worked out by hand."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from camlib.pictures import (
    Scale,
    capped_scale_of,
    colours,
    encode_overlay,
    picture_of,
    resize_map,
    scale_of,
    scaled,
    superposition,
    write_panel,
)

pytestmark = pytest.mark.any_backend


def test_resize_has_half_pixel_centres():
    enlarged = resize_map(np.array([[0.0, 4.0]]), 1, 4)
    np.testing.assert_allclose(enlarged, [[0, 1, 3, 4]])  # corner-aligned geometry would give 0, 4/3, 8/3, 4


def test_map_of_zeros_stays_zero():
    zeros = np.zeros((2, 2), np.float32)
    np.testing.assert_array_equal(scaled(zeros, scale_of(True, [zeros]).limit), zeros)
    assert len(np.unique(colours(zeros, signed=True).reshape(-1, 3), axis=0)) == 1


def test_scale_is_the_largest_magnitude_of_all_maps():
    positive, negative = np.array([[2.0, 3.0]]), np.array([[1.0, -7.0]])
    assert scale_of(False, [positive]) == (3.0, False)
    assert scale_of(True, [positive]) == (3.0, True)  # a kind with two signs
    assert scale_of(False, [positive, negative]) == (7.0, True)  # a method with two signs
    assert Scale(7.0, True).lowest == -7.0 and Scale(7.0, False).lowest == 0.0


def test_a_few_large_gradients_hide_nothing_in_the_page():
    """In the scale of the largest the rest would be drawn at an opacity of 2 of 255."""
    values = np.full((40, 40), 0.5, np.float32)
    values[:2, :4] = 60.0
    assert capped_scale_of(True, values) == (0.5, True)
    uri = encode_overlay(values, capped_scale_of(True, values), values.shape)
    overlay = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).convert("RGBA"))
    assert (overlay[..., 3] == 255).all()  # drawn like the scale's end, never wrapped around
    sparse = np.zeros((40, 40), np.float32)
    sparse[3, 3] = 2.0
    assert capped_scale_of(False, sparse) == (2.0, False)


def test_superposition_keeps_the_photo_where_the_map_is_zero():
    photo = np.full((1, 3, 3), (10, 200, 90), np.uint8)
    laid = superposition(photo, np.array([[-1.0, 0.0, 1.0]]), signed=True, opacity=0.5).astype(int)
    np.testing.assert_array_equal(laid[0, 1], photo[0, 1])
    assert laid[0, 0, 2] > photo[0, 0, 2] and laid[0, 2, 0] > photo[0, 2, 0]  # blue below zero, red above
    end = colours(np.array([[0.8]]), signed=True)[0, 0]
    np.testing.assert_allclose(laid[0, 2], np.rint(0.5 * photo[0, 2] + 0.5 * end), atol=1)


def test_gradients_are_shown_around_mid_grey():
    values = np.zeros((2, 2, 3))
    values[0, 0], values[1, 1] = (2, 0, 0), (0, -2, 0)
    picture = picture_of(values, Scale(2.0, True), 2, 2)
    np.testing.assert_array_equal(picture[0, 0], [255, 128, 128])
    np.testing.assert_array_equal(picture[1, 1], [128, 0, 128])


def test_panel_keeps_red_red_and_the_photos_shape(tmp_path):
    photo = np.full((50, 100, 3), (250, 5, 5), np.uint8)
    cam, gradients = np.zeros((4, 4)), np.ones((8, 8, 3))
    write_panel(
        tmp_path / "p.jpg", photo, [("map", cam, Scale(0.0, False)), ("gradients", gradients, Scale(1.0, True))]
    )
    panel = np.asarray(Image.open(tmp_path / "p.jpg")).astype(int)
    red = (panel[..., 0] > 200) & (panel[..., 1] < 60) & (panel[..., 2] < 60)
    rows, columns = np.nonzero(red)
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    assert abs(width - 256) < 4 and abs(height - 128) < 4


def test_a_panel_of_grey_gradients_is_one_of_a_map(tmp_path):
    """Gradients of a grey photo, (H, W, 1), are drawn in the colours that their bar has."""
    values = np.linspace(-1, 1, 48).reshape(6, 8).astype(np.float32)
    photo, scale = np.zeros((30, 40, 3), np.uint8), Scale(1.0, signed=True)
    for name, shape in (("map", (6, 8)), ("gradients", (6, 8, 1))):
        write_panel(tmp_path / f"{name}.jpg", photo, [("title", values.reshape(shape), scale)])
    assert (tmp_path / "map.jpg").read_bytes() == (tmp_path / "gradients.jpg").read_bytes()
