"""A stranger's model file opens nothing, takes no memory that it does not fill, and ends in one line."""

import contextlib
import hashlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import h5py
import hostile_files as hostile
import keras
import numpy as np
import pytest
from conftest import ROOT, ended_within, weights_of
from keras import layers

from camlib.attribution.classifier import Classifier
from camlib.console import UserError
from camlib.networks import GAP_NETWORK, plain_data, reader
from camlib.networks.allowlist import ADMITTED, CALL_FUNCTIONS, LAYERS, OPERATIONS, REFUSED_LAYERS, parsed
from camlib.networks.checkpoint import load_network
from camlib.networks.reader import read_contents
from camlib.preprocessing import checked_input_spec

resource = pytest.importorskip("resource", reason="Windows has no limits to watch")
pytestmark = pytest.mark.any_backend
LONGEST = 300  # characters of a refusal
MOST_MEMORY = 300  # MB that a refusal may take
MOST_SECONDS = 10  # of the processor, so that other programs' work does not count
PHOTOS = np.random.default_rng(0).random((2, 8, 8, 3), np.float32)


@contextlib.contextmanager
def little_memory():
    """Four gigabytes more than there are now, so that no fault in the code fills the machine that runs the tests."""
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 0
    before = resource.getrlimit(resource.RLIMIT_AS)
    if pages:
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (4 << 30), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def seconds_taken():
    """Of the processor, by this process and those that it has waited for."""
    return sum(os.times()[:4])


def refused(path, message, **settings):
    """Make sure that a file is refused in one line, soon, and without much memory."""
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, seconds_taken()
    with little_memory(), pytest.raises(UserError, match=message) as error:
        load_network(path, **settings)
    said = str(error.value)
    assert len(said) <= LONGEST and "\n" not in said
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < MOST_MEMORY
    assert seconds_taken() - start < MOST_SECONDS
    return said


def index_of(path):
    """What `camlib.networks.plain_data` makes of a file, in this process."""
    target = io.BytesIO()
    with open(path, "rb") as source:
        plain_data.transcribe(source, target, 1 << 30)
    data = target.getvalue()
    return json.loads(data[-8 - int.from_bytes(data[-8:], "little") : -8])


# ---------------------------------------------------------------- what is plain goes on loading


@pytest.mark.parametrize("write", [hostile.write_h5, hostile.write_keras])
def test_the_network_that_the_attacks_are_made_of_loads(tmp_path, write):
    network, input_spec = load_network(write(tmp_path / "net", hostile.stack()))
    assert (input_spec is not None) == (write is hostile.write_h5)
    arrays = hostile.arrays()
    for layer in ("conv", "class"):
        for found, kind in zip(network.get_layer(layer).get_weights(), ("kernel", "bias"), strict=True):
            np.testing.assert_array_equal(found, arrays[f"{layer}/{kind}"])
    assert network.predict(PHOTOS, verbose=0).shape == (2, 2)


@pytest.mark.parametrize(
    ("kind", "dtype"), [("h5", "float16"), ("h5", "bfloat16"), ("keras", "bfloat16"), ("keras", "float64")]
)
def test_numbers_of_every_precision_are_read(tmp_path, kind, dtype):
    keras.utils.set_random_seed(1)
    image = keras.Input((8, 8, 3))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3, dtype=dtype)(image))
    network = keras.Model(image, layers.Dense(2)(x))
    network.save(tmp_path / f"net.{kind}")
    loaded, _ = load_network(tmp_path / f"net.{kind}")
    for found, expected in zip(loaded.weights, network.weights, strict=True):
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(*(keras.ops.convert_to_numpy(one).astype("float64") for one in (found, expected)))


def test_contents_are_the_files_own(tmp_path):
    path = hostile.write_h5(tmp_path / "net.h5", hostile.stack())
    contents = read_contents(path)
    with contents.as_hdf5() as copy:
        found, expected = weights_of(copy), weights_of(path)
    assert found.keys() == expected.keys() == contents.shapes.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)
    assert json.loads(contents.config) == hostile.stack() and json.loads(contents.input_spec) == hostile.INPUT_SPEC


@pytest.mark.parametrize("write", [hostile.write_h5, hostile.write_keras])
def test_large_files_are_read_where_they_lie(tmp_path, monkeypatch, write):
    path = write(tmp_path / "net", hostile.stack())
    monkeypatch.setattr(reader, "SMALL_FILE", 100)
    assert sorted(read_contents(path).shapes.values()) == sorted(hostile.WEIGHTS.values())


# ---------------------------------------------------------------- what may be named


@pytest.mark.parametrize("how", hostile.vocabularies(""))
def test_layers_that_open_files_are_refused(tmp_path, how):
    canary = tmp_path / "canary"
    canary.write_text("a secret\n")
    path = hostile.write_h5(tmp_path / "net.h5", hostile.stack(hostile.vocabularies(str(canary))[how]))
    said = refused(path, "opens files of this computer; expected Keras's own layers only.*--trust-model")
    assert "secret" not in said


@pytest.mark.parametrize("place", ["/etc/passwd", "../a", "..", "~", "https://a.example", "C:\\a", "a\0b"])
def test_what_names_a_file_or_an_address_is_refused(tmp_path, place):
    layer = hostile.entry("Rescaling", "scale", scale=[place])
    refused(hostile.write_h5(tmp_path / "net.h5", hostile.stack(layer)), "names a file or an address")


def test_every_layer_of_keras_is_listed_or_refused():
    """A layer that a new version of Keras brings has to be judged."""
    own = {name for name, kind in vars(layers).items() if isinstance(kind, type) and issubclass(kind, layers.Layer)}
    assert own == LAYERS | set(REFUSED_LAYERS) and not LAYERS & set(REFUSED_LAYERS)


def test_every_operation_that_only_computes_may_be_named():
    found = {
        (room.__name__, name)
        for room in OPERATIONS
        for name, kind in vars(room).items()
        if isinstance(kind, type) and issubclass(kind, keras.Operation) and kind is not keras.Operation
    }
    left = {name for room, name in found - ADMITTED}
    assert len(found) > 250 and left == CALL_FUNCTIONS


@pytest.mark.parametrize(
    "name",
    ["keras.utils.get_file", "keras.saving.load_model", "keras.src.ops.core.Map", "keras.utils.FeatureSpace",
     "keras.callbacks.CSVLogger", "keras.src.saving.saving_lib.H5IOStore", "keras.layers.__typespec__",
     "keras.__lambda__", "keras.src.legacy.layers.Lambda2", "keras.quantizers.GPTQConfig", "os.system",
     "my_package.layers.Custom", "keras.layers.Unheard"],
)  # fmt: skip
def test_whatever_else_keras_has_is_refused(tmp_path, name):
    module, _, kind = name.rpartition(".")
    path = hostile.write_h5(tmp_path / "net.h5", hostile.stack(hostile.entry(kind, "odd", module)))
    refused(path, f"its layer or function '{kind}'.*none of Keras's own")


def test_a_class_that_somebody_registered_is_refused(tmp_path):
    layer = hostile.entry("ReLU", "own") | {"registered_name": "mine>ReLU"}
    refused(hostile.write_h5(tmp_path / "net.h5", hostile.stack(layer)), "'ReLU' .*none of Keras's own")


# ---------------------------------------------------------------- HDF5 behind something else


def test_hdf5_behind_something_else_is_refused(tmp_path):
    refused(hostile.hdf5_in_user_block(tmp_path / "net.h5"), "is neither an HDF5 nor a .keras file")


# ---------------------------------------------------------------- bombs


BIG_MESSAGES = {
    "ZeroPadding2D": "'pad' puts out 1000000006x1000000006x4 for each photo",
    "UpSampling2D": "'up' puts out 600000x60",
    "Resizing": "'to' puts out 200000x200000x4",
    "input": "puts out 1000000000x1000000000x3",
    "10,000 layers": "calls layers 10,005 times",
    "2 ** 28 calls": "calls layers .* times; expected 4,000 at most",
    "text as numbers": "numbers of the kind 'U500",
    "Full, without a tensor": "its layer 'op' is called on no other's output",
    "Tile of a constant": "its layer 'op' is called on no other's output",
    "Dense": "has 5,000,000,112 numbers",
    "Conv2D": "has 30,000,000,002 numbers",
}


@pytest.mark.parametrize("name", hostile.BIG_NETWORKS)
def test_big_networks_are_refused_before_they_take_memory(tmp_path, name):
    path = hostile.write_h5(tmp_path / "net.h5", hostile.BIG_NETWORKS[name](), None)
    refused(path, BIG_MESSAGES.get(name, "weights (cannot be read|do not fit its network)|cannot rebuild its network"))


@pytest.mark.parametrize(
    "layer",
    [
        hostile.entry("UpSampling2D", "up", size=[3000, 3000]),
        hostile.entry("ZeroPadding2D", "pad", padding=[[0, 800_000], [0, 800_000]]),
    ],
)
def test_networks_that_blow_up_photos_of_any_size_are_refused(tmp_path, layer):
    """The file says which size its open network is meant for; no shape of the network tells what that becomes."""
    path = hostile.write_h5(tmp_path / "net.h5", hostile.stack(layer))
    network, input_spec = load_network(path)
    with little_memory(), pytest.raises(UserError, match="a batch of 1 photo of 8 pixels needs about .* are free"):
        Classifier(network, input_spec, path)


def test_archives_that_unpack_to_much_are_refused(tmp_path, monkeypatch):
    refused(hostile.zeros_archive(tmp_path / "a.keras", "config.json", 64 << 20), "config.json of more than 33,554,432")
    refused(hostile.lying_archive(tmp_path / "b.keras"), "b.keras")
    monkeypatch.setattr(plain_data, "LARGEST_UNPACKED", 1 << 20)
    path = hostile.zeros_archive(tmp_path / "c.keras", "model.weights.h5", 64 << 20)
    assert "model.weights.h5 of more than" in index_of(path)["weights_refused"]


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (hostile.zeros_array, "would take 1,073,7"),
        (hostile.many_groups, "64 deep"),
        (hostile.circle, "64 deep"),
        (hostile.shared_array, "would take 735,"),
    ],
)
def test_arrays_that_the_file_does_not_hold_are_refused(tmp_path, write, message):
    assert message in index_of(write(tmp_path / "net.h5"))["weights_refused"]
    refused(tmp_path / "net.h5", "weights cannot be read")


def test_hdf5_files_of_other_programs_are_called_so(tmp_path):
    with h5py.File(tmp_path / "table.h5", "w") as file:
        file["names"], file["values"] = ["a", "b"], np.zeros(3, [("x", "f4"), ("y", "i4")])
    refused(tmp_path / "table.h5", "it is no file of Keras's .*; expected a .keras or .h5 file")


@pytest.mark.parametrize("how", ["soft link", "external link", "external storage", "virtual", "plugin", "text"])
def test_arrays_that_lie_elsewhere_are_refused(tmp_path, how):
    (tmp_path / "secret").write_bytes(bytes(8))
    said = index_of(hostile.linked(tmp_path / "net.h5", how, tmp_path / "secret"))["weights_refused"]
    assert "class/bias" in said and ("is no array of this file" in said or "expected" in said)


def test_json_is_measured_before_it_is_read(tmp_path):
    refused(hostile.write_h5(tmp_path / "net.h5", None, text=hostile.deep_json()), "lists in lists, more than 100 deep")
    hostile.write_h5(tmp_path / "alone.h5", None, None, text="null")
    (tmp_path / "deep.json").write_text(hostile.deep_json())
    refused(tmp_path / "alone.h5", "--architecture .*100 deep", architecture=tmp_path / "deep.json")
    assert parsed('{"a": "[[[[\\"[[[", "b": [[], [1]]}') == {"a": '[[[["[[[', "b": [[], [1]]}
    assert parsed("[" * 100 + "]" * 100)
    with pytest.raises(ValueError, match="characters"):
        parsed(" " * (33 << 20))


@pytest.mark.parametrize("name", hostile.LONG_TEXTS)
def test_long_texts_are_refused_in_time_that_grows_with_their_length(tmp_path, name):
    """In the order of a second for each; while a pattern or a loop in a loop runs, Python answers the alarm."""
    (tmp_path / "net.json").write_text(hostile.LONG_TEXTS[name]())
    config = hostile.write_h5(tmp_path / "net.h5", None, None, text="null")
    with ended_within(2 * MOST_SECONDS), pytest.raises(UserError) as error:
        load_network(config, architecture=tmp_path / "net.json")
    assert len(str(error.value)) <= LONGEST and "\n" not in str(error.value)


@pytest.mark.parametrize("name", hostile.MEANINGS)
def test_meanings_that_make_no_sense_are_refused(name):
    with pytest.raises((TypeError, ValueError)):
        checked_input_spec(hostile.INPUT_SPEC | hostile.MEANINGS[name])


@pytest.mark.parametrize(
    ("meaning", "message"),
    [
        (hostile.INPUT_SPEC | {"height": 10**9}, r"cannot be read \(height 1000000000; expected a whole number from 1"),
        (hostile.INPUT_SPEC | {"class_names": ["a"]}, "names 1 classes for 2 outputs"),
        (hostile.INPUT_SPEC | {"class_names": ["a", "../b"]}, "text without slashes"),
        ({"height": 3}, "description of the network cannot be read"),
        ("{", "description of the network cannot be read"),
    ],
)
def test_a_meaning_that_makes_no_sense_is_one_line(tmp_path, meaning, message):
    refused(hostile.write_h5(tmp_path / "net.h5", hostile.stack(), meaning), message)


def test_classes_of_several_outputs_are_refused(tmp_path):
    network = hostile.with_outputs([["class", 0, 0], ["pool", 0, 0]])
    path = hostile.write_h5(tmp_path / "net.h5", network)
    refused(path, "names 2 classes for several outputs; expected one each")


# ---------------------------------------------------------------- the process that reads

LIMITED = (
    "import json, sys; sys.path += json.loads(sys.argv.pop())\nfrom camlib.networks.plain_data import limit_itself\n"
    "limit_itself(**json.loads(sys.argv.pop()))"
)


def test_pipes_and_devices_are_not_waited_for(tmp_path):
    alone = hostile.write_h5(tmp_path / "alone.h5", None, None, text="null")
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path / "pipe", "/dev/zero"):
        refused(Path(place), "a pipe or a device")
        refused(alone, "a pipe or a device", architecture=Path(place))


def test_files_that_crash_or_take_too_much_are_one_line(tmp_path, monkeypatch):
    path = hostile.write_h5(tmp_path / "net.h5", hostile.stack(hostile.entry("ReLU", "unknown")))
    program = reader.PROGRAM
    monkeypatch.setattr(reader, "PROGRAM", "import os; os.abort()")
    refused(path, r"net.h5 crashes what reads it \(Aborted\); expected a whole file")
    with monkeypatch.context() as patched:
        patched.setattr(reader, "SECONDS", 1)
        patched.setattr(reader, "PROGRAM", f"{LIMITED}\nwhile True:\n    pass")
        patched.setattr(reader, "CLOCK_PATIENCE", 60)  # the processor's second is what ends it
        refused(path, "net.h5 cannot be read within 1 s")
        patched.setattr(reader, "PROGRAM", "import time; time.sleep(60)")
        patched.setattr(reader, "CLOCK_PATIENCE", 1)
        refused(path, "net.h5 cannot be read within 1 s")
    monkeypatch.setattr(reader, "PROGRAM", "raise RuntimeError('odd')")
    refused(path, r"net.h5 cannot be read \(RuntimeError: odd\)")
    monkeypatch.setattr(reader, "PROGRAM", program)
    with pytest.raises(UserError, match=r"it has 1.\d+e-05 GB; expected 1e-06 at most; --largest-model 2e-06 allows"):
        read_contents(path, 1e-6)


def test_the_reader_keeps_its_limits(tmp_path):
    """In the process that reads, memory beyond the limit is not to be had."""
    program = (
        f"{LIMITED}\ntry:\n    bytearray(2 << 30)\nexcept MemoryError:\n    print('no memory')\n"
        "try:\n    open('large', 'wb').write(bytes(2 << 20))\nexcept OSError:\n    print('no file')\n"
    )
    limits = json.dumps({"memory": 1 << 30, "seconds": 5, "largest": 1 << 20})
    command = [sys.executable, "-c", program, limits, json.dumps([str(ROOT)])]
    said = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert said.stdout == "no memory\nno file\n", said.stderr


def test_digests_are_those_of_the_shipped_files():
    """After new files in models/: cd models && sha256sum *.h5 > SHA256SUMS."""
    lines = [line.split() for line in (ROOT / "models" / "SHA256SUMS").read_text().splitlines()]
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (ROOT / "models").glob("*.h5")}
    assert {name: digest for digest, name in lines} == found


def test_files_known_by_their_digest_need_no_process(tmp_path, monkeypatch):
    def start(*arguments, **settings):
        raise AssertionError("a process was started")

    own = hostile.write_h5(tmp_path / "net.h5", hostile.stack(hostile.entry("ReLU", "once")))
    once = read_contents(own)
    monkeypatch.setattr(reader.subprocess, "run", start)
    assert read_contents(own).shapes == once.shapes  # the second time
    assert read_contents(GAP_NETWORK).config
    own.write_bytes(own.read_bytes() + b"\0")
    with pytest.raises(AssertionError, match="a process"):
        read_contents(own)


# ---------------------------------------------------------------- damage at random places


@pytest.mark.parametrize(
    "seeds",
    [pytest.param(range(8), marks=pytest.mark.thorough), pytest.param(range(1000, 1400), marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("write", [hostile.write_h5, hostile.write_keras])
def test_files_damaged_at_random_places_end_in_one_line(tmp_path, write, seeds):
    path, refusals = write(tmp_path / "net", hostile.stack()), 0
    content = path.read_bytes()
    for seed in seeds:
        path.write_bytes(hostile.mutated(content, seed, 4 + seed % 9))
        try:
            network, _ = load_network(path)
            assert isinstance(network, keras.Model)
        except UserError as error:
            assert len(str(error)) <= LONGEST and "\n" not in str(error)
            refusals += 1
    assert len(seeds) // 4 <= refusals <= len(seeds) - len(seeds) // 80  # of hundreds, some load nevertheless
