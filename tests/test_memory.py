"""Memory that runs out: told before anything is allocated, batches halved; in an address space that is limited."""

import contextlib
import re

import keras
import numpy as np
import psutil
import pytest
from keras import layers

import gradcam_vgg16
import make_cam_maps
import train_cam_4class
from camlib.attribution.inspection import inspect_network
from camlib.backend import traced
from camlib.console import UserError, is_out_of_memory
from camlib.memory import BACKWARD, FORWARD, available_memory, check_memory, halving, photo_memory

resource = pytest.importorskip("resource")  # Windows has no limit of the address space
GB = 10**9


@contextlib.contextmanager
def only(size):
    """Let this process have so many bytes more of address space."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.mark.any_backend
def test_the_limit_of_the_address_space_is_known():
    with only(3 * GB):
        assert 2.5 * GB < available_memory() <= 3 * GB
    assert available_memory() <= psutil.virtual_memory().total


def test_what_a_network_takes_is_counted_by_hand():
    """A convolution of 5 filters on 8x6 RGB, its ReLU, and a Dense layer of 2: float32."""
    inputs = keras.Input((8, 6, 3))
    values = layers.Conv2D(5, 3, padding="same", use_bias=False, activation="relu")(inputs)
    network = keras.Model(inputs, layers.Dense(2, use_bias=False)(layers.Flatten()(values)))
    forward, with_gradients = photo_memory(traced(network, (10, 8, 6, 3)), 10)
    largest, every = 10 * forward / FORWARD, 10 * with_gradients / BACKWARD
    features, kernels = 4 * 10 * 8 * 6 * 5, 4 * (3 * 3 * 3 * 5 + 240 * 2)
    assert 2 * features <= largest <= 2 * features + kernels  # before and after the ReLU
    assert 2 * features + 4 * 10 * 2 <= every <= 2 * features + 4 * 10 * 2 + kernels
    assert photo_memory(traced(network, (1, 8, 6, 3)))[1] == pytest.approx(with_gradients, rel=0.3)
    assert inspect_network(network, (8, 6, 3)).memory == pytest.approx((forward, with_gradients), rel=0.5)


@pytest.mark.any_backend
def test_what_would_fit_is_said():
    with only(2 * GB):
        check_memory(GB, 1, 96)
        with pytest.raises(UserError, match="a batch of 800 photos of 96 pixels needs about 80.0 GB") as refused:
            check_memory(GB / 10, 800, 96, least=4)
        fits = int(re.search(r"--batch-size (\d+) or less", str(refused.value))[1])
        assert fits % 4 == 0 and 12 <= fits <= 20
        check_memory(GB / 10, fits, 96, least=4)
        with pytest.raises(UserError) as refused:
            check_memory(8 * GB, 1, 1000)
        side = int(re.search(r"--size (\d+) or less, with --batch-size 1", str(refused.value))[1])
        assert side == pytest.approx(1000 / 2, rel=0.15)
        check_memory(8 * GB * (side / 1000) ** 2, 1, side)


@pytest.mark.any_backend
def test_batches_are_halved_where_memory_runs_out(capsys):
    """Each photo takes 300 MB of address space, of which nothing is used; two fit."""
    asked = []

    def run(images, count):
        asked.append((len(images), count))
        room = np.empty((len(images), 300_000_000), np.uint8)
        return images + 1, None, np.stack((images, images)), len(room) and images

    halved = halving(run, axes=(0, 0, 1, 0))
    images = np.arange(7)
    with only(8 * GB // 10):
        plus, nothing, twice, _ = halved(images, 6)
    np.testing.assert_array_equal(plus, images + 1)
    np.testing.assert_array_equal(twice, [images, images])
    assert nothing is None and (1, 1) in asked[-7:]
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "out of memory with 7 photos at once: going on with 3" and len(said) == 2
    assert [size for size, _ in asked][-7:] == [1] * 7 and not capsys.readouterr().out
    with only(GB):
        halved(images, 7)
        assert not capsys.readouterr().out  # it knows now
        with pytest.raises(MemoryError), only(GB // 10):
            halved(images, 7)


def test_an_error_of_another_kind_stays_one():
    with pytest.raises(ValueError, match="no such"):
        halving(lambda images, count: int("no such"), axes=())(np.zeros(4), 4)


def test_memory_that_the_backend_lacks_is_known_as_such():
    import tensorflow as tf

    with only(GB), pytest.raises(Exception) as raised:
        tf.zeros((40_000, 40_000)) + tf.zeros((40_000, 40_000))
    assert is_out_of_memory(raised.value)


@pytest.mark.parametrize(
    ("main", "arguments", "expected"),
    [
        (make_cam_maps.main, ["--size", "3000"], r"--batch-size \d or less|--size \d+ or less, with --batch-size 1"),
        (gradcam_vgg16.main, ["--size", "20000"], r"--size \d+ or less, with --batch-size 1"),
        (train_cam_4class.main, ["--data", "DATA", "--size", "1024", "--batch-size", "20000"], "--batch-size [48] or"),
    ],
)
def test_what_does_not_fit_is_refused_at_once(photo_folder, tmp_path, end_of, main, arguments, expected):
    names = [f"{name}/{number}.png" for name in ("dog", "cat") for number in range(20)]
    photos = photo_folder(dict.fromkeys(names, (9, 90, 9)))
    arguments = [photos if argument == "DATA" else argument for argument in arguments]
    arguments += [] if "--data" in arguments else [photos]
    output = tmp_path / "o" / ("n.h5" if main is train_cam_4class.main else "maps")
    with only(4 * GB):
        code, said = end_of(main, [*arguments, "--output", output])
    assert code == 2 and re.search(expected, said) and said.count("\n") == 1 and len(said) < 300
    assert re.search("photos? of", said) and not output.exists() and not list(tmp_path.rglob("*photos.*"))
