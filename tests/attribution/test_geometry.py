"""Where a layer's map lies in the photo: against what the network itself makes of a spot."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest
from keras import layers, ops
from keras.src.ops import nn

from camlib import explain
from camlib.attribution import geometry
from camlib.attribution.inspection import inspect_network
from camlib.console import UserError

HEIGHT, WIDTH = 48, 64
SPOT = 20, 34  # the middle of the spot


def conv(size=3, **settings):
    return layers.Conv2D(1, size, activation="relu", kernel_initializer="ones", **settings)


# ---------------------------------------------------------------- layer by layer, in NumPy


def test_a_place_in_shares_of_the_photo():
    assert geometry.PIXELS.extent((48, 64), (48, 64)) is None  # all of it
    assert geometry.PIXELS.extent((24, 64), (48, 64)) == (0, 0, 0.5, 1)
    place = geometry.Place(np.array([3.0, -1.0]), np.array([2.0, 4.0]))  # of 5 x 3 cells: rows 2..12, columns -3..9
    assert place.extent((5, 3), (20, 12)) == pytest.approx((0.1, -0.25, 0.6, 0.75))
    assert place.extent((9, 3), (20, 12))[::2] == pytest.approx((0.1, 1.0))
    grids = {(2, 5, 7, 3): (5, 7), (2, 1, 7, 3): (1, 7), (2, 1, 1, 3): None, (2, None, 7, 3): None, (2, 5, 7): None}
    assert all(geometry.grid_of_tensor(np.empty(0) if None in shape else np.empty(shape)) == grid
               for shape, grid in grids.items())  # fmt: skip
    assert geometry.grid_of_tensor(SimpleNamespace(shape=(2, None, 7, 3))) is None
    assert geometry.grid_of_tensor(SimpleNamespace(shape=(2, 5, 7, None))) == (5, 7)


SIDES = 20, 26
WHERE = geometry.Place(np.array([3.0, 5.0]), np.array([2.0, 4.0]))  # of the cells that come in


def seen_by(layer, *others):
    """What a layer makes of cells that hold their number: (its grid, list of (row, column, number)).

    What the border or a fill has a part in, which a plane of ones tells, is left out.
    """
    numbers = np.stack(np.broadcast_arrays(1.0, *np.ogrid[: SIDES[0], : SIDES[1]]))[..., None].astype(np.float32)
    ones, rows, columns = ops.convert_to_numpy(layer.call(ops.convert_to_tensor(numbers), *others))[..., 0]
    inside = np.argwhere(np.isclose(ones, ones.max()))
    return ones.shape, [(y, x, rows[y, x] / ones[y, x], columns[y, x] / ones[y, x]) for y, x in inside]


def ones_in(kind, *arguments, **settings):
    layer = kind(*arguments, use_bias=False, **settings)
    layer.build((3, *SIDES, 1))
    layer.set_weights([np.ones_like(weights) for weights in layer.get_weights()])
    return layer


KERNEL = np.ones((3, 2, 1, 1), np.float32)
LAYERS = {
    "valid": lambda: ones_in(layers.Conv2D, 1, (3, 5)),
    "same": lambda: ones_in(layers.Conv2D, 1, (3, 5), padding="same"),
    "strides": lambda: ones_in(layers.Conv2D, 1, (5, 4), strides=3),
    "strides, same": lambda: ones_in(layers.Conv2D, 1, (5, 4), strides=(3, 3), padding="same"),
    "even, same": lambda: ones_in(layers.Conv2D, 1, 4, padding="same", strides=2),
    "dilated": lambda: ones_in(layers.Conv2D, 1, (3, 4), dilation_rate=(2, 3)),
    "dilated, same": lambda: ones_in(layers.Conv2D, 1, 3, dilation_rate=3, padding="same"),
    "depthwise": lambda: ones_in(layers.DepthwiseConv2D, 3, strides=2, padding="same"),
    "separable": lambda: ones_in(layers.SeparableConv2D, 1, 3, strides=2),
    "pooling": lambda: layers.AveragePooling2D((2, 3)),
    "pooling, strides": lambda: layers.AveragePooling2D(3, 2, padding="valid"),
    "conv of ops": lambda: nn.Conv(2, "valid"),
    "conv of ops, dilated": lambda: nn.Conv(1, "same", dilation_rate=2),
    "pooling of ops": lambda: nn.AveragePool((3, 2), 2, "valid"),
    "UpSampling2D": lambda: layers.UpSampling2D((2, 3), interpolation="bilinear"),
    "Resizing": lambda: layers.Resizing(31, 17),
    "Resizing, cropped": lambda: layers.Resizing(15, 10, crop_to_aspect_ratio=True),
    "Resizing, cropped down": lambda: layers.Resizing(12, 24, crop_to_aspect_ratio=True),
    "Resizing, padded": lambda: layers.Resizing(36, 30, pad_to_aspect_ratio=True),
    "Resizing, padded beside": lambda: layers.Resizing(20, 39, pad_to_aspect_ratio=True),
    "CenterCrop": lambda: layers.CenterCrop(13, 12),
    "CenterCrop of all rows": lambda: layers.CenterCrop(20, 11),
    "CenterCrop, enlarging": lambda: layers.CenterCrop(30, 26),
}


@pytest.mark.any_backend
@pytest.mark.parametrize("name", LAYERS)
def test_cells_lie_in_the_middle_of_what_they_see(name):
    layer = LAYERS[name]()
    others = [KERNEL] if isinstance(layer, nn.Conv) else []
    grid, seen = seen_by(layer, *others)
    call = SimpleNamespace(layer=layer, arguments=(None, *others))
    is_window = geometry.is_one_of(layer, geometry.WINDOWS, geometry.WINDOW_OPERATIONS)
    assert is_window != geometry.is_one_of(layer, (), geometry.RESIZES)
    found = geometry.of_window(WHERE, call, SIDES, grid) if is_window else geometry.of_resize(WHERE, layer, SIDES, grid)
    assert len(seen) > 30
    for y, x, row, column in seen:
        if is_window or (1 < y < grid[0] - 2 and 1 < x < grid[1] - 2):  # resizing repeats the border
            expected = WHERE.first + WHERE.step * (row, column)
            np.testing.assert_allclose(found.first + found.step * (y, x), expected, atol=1e-3)


@pytest.mark.any_backend
@pytest.mark.parametrize(("size", "strides", "padding"), [(3, 2, "same"), (4, 2, "valid"), ((2, 3), (2, 3), "valid")])
def test_what_a_transposed_convolution_spreads_lies_around_its_cell(size, strides, padding):
    layer = ones_in(layers.Conv2DTranspose, 1, size, strides=strides, padding=padding)
    spot = np.zeros((1, *SIDES, 1), np.float32)
    spot[0, 7, 11] = 1
    spread = ops.convert_to_numpy(layer.call(ops.convert_to_tensor(spot)))[0, ..., 0]
    found = geometry.of_window(WHERE, SimpleNamespace(layer=layer), SIDES, spread.shape)
    middle = np.argwhere(spread).mean(axis=0)
    np.testing.assert_allclose(found.first + found.step * middle, WHERE.first + WHERE.step * (7, 11), atol=1e-6)


def place_of(change):
    """The Place that is read off coordinates of (6, 9) cells of two features that were changed."""
    return geometry.of_coordinates(change(geometry.coordinates(WHERE, (6, 9, 2)).astype(np.float64)))


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("change", "first", "step"),
    [
        (lambda x: x, (3, 5), (2, 4)),
        (lambda x: x[:, 2:, 3:-1], (7, 17), (2, 4)),
        (lambda x: x[:, 1::2, ::3], (5, 5), (4, 12)),
        (lambda x: np.pad(x, ((0, 0), (3, 1), (2, 0), (0, 0))), (-3, -3), (2, 4)),
        (lambda x: x.repeat(2, axis=1).repeat(3, axis=2), (2.5, 5 - 4 / 3), (1, 4 / 3)),
        (lambda x: x[:, :1, :1], (3, 5), (1, 1)),
    ],
    ids=["as they were", "cropped", "every other", "padded", "repeated", "one cell"],
)
def test_a_place_is_read_off_coordinates(change, first, step):
    np.testing.assert_allclose(np.array(place_of(change)), (first, step), atol=1e-6)


def with_a_hole(x):
    x = x.copy()
    x[0, 2, 3] = 0.5
    return x


@pytest.mark.any_backend
@pytest.mark.parametrize(
    "change",
    [
        lambda x: x[:, ::-1],
        lambda x: x[:, :, ::-1],
        lambda x: np.swapaxes(x, 1, 2),
        lambda x: np.concatenate((x[:, :2], x[:, 4:]), axis=1),
        lambda x: np.concatenate((x[:, :, :5], x[:, :, 6:]), axis=2),
        lambda x: x[:, [0, 0, 0]],
        lambda x: x[:, [3, 3]],
        lambda x: x + np.array([0, 0.05, 0, 0])[:, None, None, None] * (np.arange(9) % 2)[:, None],
        lambda x: 0 * x,
        lambda x: x - np.array([0.0012, 0, 0, 0])[:, None, None, None],
        lambda x: x[:, :0],
        lambda x: x[..., 0],
        with_a_hole,
    ],
    ids=[
        "mirrored",
        "mirrored beside",
        "turned",
        "gap",
        "gap beside",
        "one row",
        "a row twice",
        "bent",
        "empty",
        "faded",
        "no rows",
        "no features",
        "hole",
    ],
)
def test_what_is_no_rectangle_has_no_place(change):
    assert place_of(change) is None


@pytest.mark.any_backend
def test_what_is_joined_lies_in_the_middle_if_within_a_cell():
    place = geometry.Place(np.array([3.0, 50.0]), np.array([2.0, 4.0]))
    near, far, other = place.moved(np.array([1, 0.5])), place.moved(np.array([0, 1.1])), place.moved(0, 2)
    np.testing.assert_allclose(geometry.agreed([place, near]), ((4, 51), (2, 4)))
    assert geometry.agreed([place, far]) is geometry.agreed([place, other]) is geometry.NOWHERE
    assert geometry.agreed([geometry.UNKNOWN] * 2) is geometry.UNKNOWN
    assert geometry.agreed([place, geometry.UNKNOWN]) is geometry.agreed([geometry.NOWHERE] * 2) is geometry.NOWHERE


# ---------------------------------------------------------------- through networks


class Crop(layers.Layer):
    """Code of its own."""

    def call(self, x, top=6):
        return x[:, top:-10, 12:]


class CropOfTwo(layers.Layer):
    """A crop of two photos alone, so that four planes of coordinates are not what it is made for."""

    def __init__(self, raises):
        super().__init__()
        self.raises = raises

    def call(self, x):
        return ops.reshape(x, (2, HEIGHT, WIDTH, 3))[:, 6:-10] if self.raises else x[:2, 6:-10]


@pytest.mark.parametrize("raises", [True, False])
def test_the_place_of_a_layer_that_does_not_take_coordinates_is_unknown(raises):
    extents = inspect_network(network_of(CropOfTwo(raises)), (HEIGHT, WIDTH, 3)).extents
    assert extents["last"] == geometry.UNKNOWN


class CropsItself(keras.Model):
    """A crop that no layer makes, behind the last layer that has so many rows."""

    def __init__(self):
        super().__init__()
        self.conv, self.classes = conv(padding="same", name="last"), layers.Dense(2)

    def call(self, x):
        return self.classes(ops.mean(self.conv(x[:, 16:, :40]), axis=(1, 2)))


def network_of(*steps):
    """A network of one class for what is bright and one against it; its last map is of layer `last`."""
    image = x = keras.Input((HEIGHT, WIDTH, 3))
    for step in steps:
        x = step(x)
    x = layers.GlobalAveragePooling2D()(conv(padding="same", name="last")(x))
    return keras.Model(image, layers.Dense(2, kernel_initializer=keras.initializers.Constant([[1, -1]]))(x))


def skip(x):
    inner = conv()(conv()(x))
    return ops.concatenate([inner, layers.Cropping2D(2)(x)], axis=-1)


NETWORKS = {
    "nothing": ([], (0, 0, 48, 64)),
    "unpadded": ([conv(5), conv(5)], (4, 4, 44, 60)),
    "strides": ([conv(3, strides=2, padding="same")] * 1, (0.5, 0.5, 48.5, 64.5)),
    "odd strides": ([conv(5, strides=3)], (1, 1, 46, 61)),
    "transposed": ([conv(2, strides=2), layers.Conv2DTranspose(1, 3, 2, "same", kernel_initializer="ones")], None),
    "dilated": ([conv(3, dilation_rate=3)], (3, 3, 45, 61)),
    "pooling": ([layers.MaxPooling2D(3, 2, "same"), layers.AveragePooling2D(3, 1)], (2.5, 2.5, 46.5, 62.5)),
    "Cropping2D": ([layers.Cropping2D(((8, 0), (0, 10)))], (8, 0, 48, 54)),
    "CenterCrop": ([layers.CenterCrop(32, 32)], (8, 16, 40, 48)),
    "CenterCrop, enlarging": ([layers.CenterCrop(96, 64)], (0, 16, 48, 48)),
    "ZeroPadding2D": ([layers.ZeroPadding2D(((0, 30), (20, 0)))], (0, -20, 78, 64)),
    "Resizing": ([layers.Resizing(24, 64)], (0, 0, 48, 64)),
    "Resizing, cropped": ([layers.Resizing(48, 48, crop_to_aspect_ratio=True)], (0, 8, 48, 56)),
    "Resizing, padded": ([layers.Resizing(64, 64, pad_to_aspect_ratio=True)], (-8, 0, 56, 64)),
    "UpSampling2D": ([layers.Cropping2D(4), layers.UpSampling2D(2)], (4, 4, 44, 60)),
    "slice": ([lambda x: x[:, 10:, :-20]], (10, 0, 48, 44)),
    "pad": ([lambda x: ops.pad(x, ((0, 0), (5, 0), (0, 9), (0, 0)), mode="reflect")], (-5, 0, 48, 73)),
    "take": ([lambda x: ops.take(x, np.arange(12, 42), axis=1)], (12, 0, 42, 64)),
    "split": ([lambda x: ops.split(x, 2, axis=2)[1]], (0, 32, 48, 64)),
    "zeros beside": ([lambda x: ops.concatenate([ops.zeros_like(x)[:, :10], x], axis=1)], (-10, 0, 48, 64)),
    "crop_images": ([lambda x: ops.image.crop_images(x, 4, 8, target_height=30, target_width=40)], (4, 8, 34, 48)),
    "pad_images": ([lambda x: ops.image.pad_images(x, 4, 8, target_height=60, target_width=90)], (-4, -8, 56, 82)),
    "features cropped": ([skip], (2, 2, 46, 62)),
    "turned and back": ([layers.Permute((2, 1, 3)), layers.Permute((2, 1, 3)), layers.Cropping2D(4)], (4, 4, 44, 60)),
    "own layer": ([Crop()], (6, 12, 38, 64)),
    "own layer, keyword": ([lambda x: Crop()(x, top=2)], (2, 12, 38, 64)),
    "nested": ([keras.Sequential([conv(5), keras.Sequential([layers.Cropping2D(4)])])], (6, 6, 42, 58)),
}


# What guided backpropagation does not pass; JAX resizes with operations that may be activations
UNGUIDED = {"take"} | ({"CenterCrop, enlarging", "Resizing"} if keras.backend.backend() == "jax" else set())
QUICK = ("odd strides", "CenterCrop", "Resizing, padded", "slice", "own layer, keyword", "nested")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.thorough) for name in NETWORKS]
)
def test_a_map_lies_where_its_network_looks(name):
    """The middle of the evidence, weighed by the map, is the spot's, of a photo of another size than the network's."""
    steps, expected = NETWORKS[name]
    photo = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    photo[SPOT[0] - 3 : SPOT[0] + 3, SPOT[1] - 3 : SPOT[1] + 3] = 255
    twice = photo.repeat(2, axis=0).repeat(3, axis=1)
    found = explain(
        network_of(*steps),
        [photo, twice],
        classes=[0],
        layer="last",
        preprocess="0.00392157,0",
        guided=name not in UNGUIDED,
    )
    if expected:
        np.testing.assert_allclose(found.extent, np.outer([1, 1], expected) * [[1] * 4, [2, 3, 2, 3]], atol=1e-4)
    (top, left, bottom, right), cam = found.extent[0], found.cams[0, 0]
    rows, columns = (np.arange(side) + 0.5 for side in cam.shape)
    middle = (
        top + (bottom - top) * (cam.sum(axis=1) @ rows) / cam.sum() / cam.shape[0],
        left + (right - left) * (cam.sum(axis=0) @ columns) / cam.sum() / cam.shape[1],
    )
    np.testing.assert_allclose(middle, SPOT, atol=1)
    if name in UNGUIDED:
        return
    y, x = np.nonzero(found.products[0, 0].any(axis=-1))
    np.testing.assert_allclose((y.mean() + 0.5, x.mean() + 0.5), SPOT, atol=1.5)


@pytest.mark.parametrize(
    ("step", "why"),
    [
        (lambda x: ops.concatenate([x[:, :24], x[:, 24:]], axis=-1), "is no rectangle"),
        (lambda x: ops.concatenate([x[:, :10], x[:, 20:]], axis=1), "is no rectangle"),
        (lambda x: ops.concatenate([x, ops.roll(x, 20, axis=2)], axis=-1), "are not the photo's|is no rectangle"),
    ],
    ids=["halves", "gap", "shifted"],
)
def test_what_lies_in_no_rectangle_is_refused(step, why):
    image = keras.Input((HEIGHT, WIDTH, 3))
    x = conv(padding="same", name="first")(image)
    x = layers.GlobalAveragePooling2D()(conv(padding="same", name="last")(step(x)))
    network = keras.Model(image, layers.Dense(2)(x))
    with pytest.raises(UserError, match=f"({why}).*--layer with one of .*first"):
        explain(network, [np.zeros((HEIGHT, WIDTH, 3), np.uint8)], preprocess="none", guided=False)


def test_a_grey_photo_that_is_shifted_without_its_channel_lies_where_it_is():
    """It has the shape of the photo from which Keras drops the axis of channels, and is not that."""
    image = keras.Input((HEIGHT, WIDTH, 1))
    shifted = ops.concatenate([image[:, 8:], ops.zeros_like(image)[:, :8]], axis=1)
    x = layers.Reshape((HEIGHT, WIDTH, 1))(shifted[..., 0])
    x = layers.GlobalAveragePooling2D()(conv(padding="same", name="last")(x))
    network = keras.Model(image, layers.Dense(2)(x))
    photo = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    found = explain(network, [photo], preprocess="none", guided=False, layer="last")
    np.testing.assert_allclose(found.extent, [[8, 0, 56, 64]], atol=1e-4)


def test_a_crop_in_a_networks_own_code_is_not_supposed_to_be_the_whole_photo():
    network = CropsItself()
    photo = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    network(photo[None].astype(np.float32))
    image = keras.Input((HEIGHT, WIDTH, 3))
    with pytest.raises(UserError, match="the part of the photo that layer 'crops_itself.*/last' covers is not known"):
        explain(keras.Model(image, network(image)), [photo], preprocess="none", guided=False)


@pytest.mark.parametrize("asked", ["left", "right"])
def test_of_a_shared_encoder_the_run_that_saw_the_photo_is_mapped(asked, tmp_path):
    image = keras.Input((32, 32, 3))
    encoder = keras.Model(image, layers.GlobalAveragePooling2D()(conv(padding="same")(image)), name="encoder")
    inputs = [keras.Input((32, 32, 3), name=name) for name in ("left", "right", "third")]
    both = layers.Add()([encoder(one) for one in inputs])
    network = keras.Model(inputs, layers.Dense(2, kernel_initializer=keras.initializers.Constant([[1, -1]]))(both))
    photo, other = np.zeros((32, 32, 3), np.uint8), np.zeros((1, 32, 32, 3), np.float32)
    photo[4:10, 4:10], other[:, 22:28, 22:28] = 255, 1
    np.savez(tmp_path / "other.npz", **{name: other for name in ("left", "right", "third") if name != asked})
    options = {"image_input": asked, "other_inputs": tmp_path / "other.npz", "preprocess": "0.00392157,0"}
    cam = explain(network, [photo], classes=[0], guided=False, **options).cams[0, 0]
    assert cam.max() > 0
    np.testing.assert_allclose((cam.sum(axis=1) @ (np.arange(32) + 0.5)) / cam.sum(), 7, atol=0.5)
