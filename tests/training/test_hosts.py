"""Training on several hosts and devices: what each makes of a batch, and that the losses are those of one process."""

import os
import socket
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from conftest import ENVIRONMENT, ROOT
from PIL import Image
from small_training import assert_same_training

from camlib.backend import Share
from camlib.console import UserError
from camlib.preprocessing import InputSpec
from camlib.training.batches import Batches, PlainBatches
from camlib.training.class_folders import LabelledPhotos, load_labelled_photos
from camlib.training.distillation import Lesson
from camlib.training.recipes import RECIPES
from train_cam_4class import main

CLASSES = ["dog", "cat", "horse", "bird"]


def noise(count):
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (count, 32, 32, 3), np.uint8)
    return LabelledPhotos(images, np.arange(count) % 4), InputSpec(CLASSES, 32, 32, 3, 1 / 255)


# ---------------------------------------------------------------- who makes what of a batch


@pytest.mark.any_backend
@pytest.mark.parametrize(("recipe", "hosts", "devices"), [("modern", 2, 2), ("modern", 2, 4), ("original", 3, 3)])
def test_the_hosts_parts_are_the_whole_batch_bit_for_bit(recipe, hosts, devices):
    """Of mosaics, single photos and a last batch that is smaller; the teacher's answers too."""
    count, size = {"modern": (64 + 8, 32), "original": (30, 12)}[recipe]
    (photos, input_spec), recipe = noise(count), replace(RECIPES[recipe], batch_size=size, size=32)
    table = np.random.default_rng(1).normal(size=(count, 1, 4)).astype(np.float32)
    lesson = Lesson(lambda chosen, _: table[chosen], 2.0, 0.2)
    whole = Batches(photos, input_spec, recipe, 3, lesson)
    parts = [Batches(photos, input_spec, recipe, 3, lesson, Share(host, hosts, devices)) for host in range(hosts)]
    assert {len(part) for part in parts} == {len(whole)} == {3}
    for number in range(2 if devices == 4 else 3):  # two mosaics, the last batch, are not for four devices
        made = [part.make(1, number) for part in parts]
        for joined, expected in zip(zip(*made, strict=True), whole.make(1, number), strict=True):
            np.testing.assert_array_equal(np.concatenate(joined), expected)
    if devices == 4:
        assert [part.make(1, 2)[0].shape[0] for part in parts] == [4, 4]  # as single photos


@pytest.mark.any_backend
def test_a_last_batch_is_shortened_to_the_devices_multiple():
    photos, input_spec = noise(8 + 7)
    recipe = replace(RECIPES["original"], batch_size=8)
    parts = [Batches(photos, input_spec, recipe, 0, share=Share(host, 2, 4)) for host in range(2)]
    assert [len(part.make(0, 1)[0]) for part in parts] == [2, 2]
    seen = np.concatenate([part.make(0, number)[0] for part in parts for number in range(2)])
    assert len(np.unique(seen, axis=0)) == 12  # none twice
    assert len(Batches(*noise(8 + 3), recipe, 0, share=Share(0, 2, 4))) == 1


@pytest.mark.any_backend
def test_photos_to_validate_on_are_filled_up_with_weight_zero():
    photos, input_spec = noise(13)
    parts = [PlainBatches(photos, input_spec, 6, Share(host, 2, 4)) for host in range(2)]
    made = [[part.make(0, number) for part in parts] for number in range(2)]
    images, labels, weights = (
        np.concatenate(rows) for rows in zip(*(part for batch in made for part in batch), strict=True)
    )
    assert len(images) == 16 and parts[0].filled_up == 16 / 13
    np.testing.assert_array_equal(weights, [1] * 13 + [0] * 3)
    np.testing.assert_array_equal(images[:13], input_spec.prepare(photos.images))
    np.testing.assert_array_equal(labels[:13], np.eye(4)[photos.labels])
    assert len(PlainBatches(photos, input_spec, 6)[0]) == 2 and PlainBatches(photos, input_spec, 6).filled_up == 1


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("batch_size", "count", "message"),
    [
        (12, 64, "2 devices cannot share batches of 12 of 64 photos in equal parts; expected --batch-size 16"),
        (32, 1, "2 devices cannot share batches of 32 of 1 photos in equal parts"),
    ],
)
def test_batches_that_cannot_be_shared(batch_size, count, message):
    with pytest.raises(UserError, match=message):
        Batches(*noise(count), replace(RECIPES["modern"], batch_size=batch_size), 0, share=Share(0, 2, 2))


# ---------------------------------------------------------------- what is refused


@pytest.mark.any_backend
def test_several_hosts_need_jax(end_of, tmp_path):
    if os.environ.get("KERAS_BACKEND") == "jax":
        pytest.skip("this is JAX")
    code, said = end_of(main, ["--host", "0/2", "--coordinator", "localhost:1", "--output", tmp_path / "n.h5"])
    expected = "error: --host: found Keras on tensorflow; expected it on JAX, with KERAS_BACKEND=jax on each host\n"
    assert (code, said) == (2, expected)


@pytest.mark.any_backend
def test_a_host_that_does_not_see_the_firsts_file_says_so(tmp_path):
    with pytest.raises(
        UserError, match="photos.npy is not there or of other photos .* file system that all hosts share"
    ):
        load_labelled_photos({"train": []}, noise(1)[1], tmp_path / "photos.npy", write=False)
    assert not any(tmp_path.iterdir())


# ---------------------------------------------------------------- in real processes


@pytest.fixture
def split_photos(tmp_path):
    """48 photos to train on, which two devices share without a rest, and 7 to validate on, which they do not."""
    generator = np.random.default_rng(0)
    for part, counts in (("train", (12, 12, 12, 12)), ("val", (2, 2, 2, 1))):
        for name, count in zip(CLASSES, counts, strict=True):
            (tmp_path / "data" / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 256, (40, 40, 3), np.uint8)
                Image.fromarray(pixels).save(tmp_path / "data" / part / name / f"{number}.png")
    return tmp_path / "data"


def begin(*arguments, **variables):
    """Begin a training on JAX in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "tests/tools/small_training.py", *map(str, arguments)],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT | {"KERAS_BACKEND": "jax"} | variables,
    )


def free_port():
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]


@pytest.mark.slow
@pytest.mark.any_backend
def test_two_hosts_and_two_devices_train_as_one_process_does(split_photos, tmp_path):
    """One process, then one with two devices, then two, refused, killed, resumed, and finished; about two minutes."""
    pytest.importorskip("jax")
    fixed = ["--data", split_photos, "--size", 32, "--batch-size", 8, "--epochs", 2]
    one = begin(*fixed, "--output", tmp_path / "one" / "net.h5")
    assert one.wait(300) == 0, one.stderr.read()
    two = begin(*fixed, "--output", tmp_path / "two" / "net.h5", XLA_FLAGS="--xla_force_host_platform_device_count=2")
    assert two.wait(300) == 0, two.stderr.read()
    assert_same_training(tmp_path / "two", tmp_path / "one", atol=1e-3)  # but for the order of sums

    def begin_hosts(*more):
        address, output = f"localhost:{free_port()}", tmp_path / "hosts" / "net.h5"
        return [
            begin(*fixed, "--output", output, "--host", f"{number}/2", "--coordinator", address, *given)
            for number, given in enumerate(more)
        ]

    def hosts(*more):
        begun = begin_hosts(*more)
        said = [process.communicate(timeout=300) for process in begun]
        return [process.returncode for process in begun], said

    codes, said = hosts([], ["--seed", 1])
    assert codes == [2, 2]
    for _, error in said:
        assert error.splitlines()[-1].startswith("error: the hosts differ in seed; expected the same command")
    killed, state = begin_hosts([], []), tmp_path / "hosts" / "net_state.npz"
    while not state.exists():
        assert [process.poll() for process in killed] == [None, None]
        time.sleep(0.01)
    for process in killed:
        process.kill()
        process.communicate()
    assert not (tmp_path / "hosts" / "net.h5").exists()
    codes, said = hosts(["--resume"], ["--resume"])
    assert codes == [0, 0], said
    assert "top-1 accuracy on the 7 photos of val" in said[0][0]
    lines = [line for line in said[1][0].splitlines() if not line.startswith("[Gloo]")]
    assert lines == []  # what is the same is said once
    assert_same_training(tmp_path / "hosts", tmp_path / "one", atol=1e-3)
    files = {path.name for path in (tmp_path / "one").iterdir()}
    assert {path.name for path in (tmp_path / "hosts").iterdir()} == files  # nothing besides
    codes, said = hosts(["--resume"], ["--resume"])
    assert codes == [0, 0] and "is finished" in said[0][0]
