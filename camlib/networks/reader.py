"""A stranger's model file is read here, once: in a process of its own with little memory and time, as plain data."""

import contextlib
import functools
import hashlib
import importlib.util
import io
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import h5py
import numpy as np

from camlib.console import FULL, ROOT, UserError, first_line, shown_path
from camlib.files import LARGEST_MODEL, refuse_no_file
from camlib.networks import application_named, plain_data, unknown_network
from camlib.networks.plain_data import HDF5_SIGNATURE, ZIP_SIGNATURE

DIGESTS = ROOT / "models" / "SHA256SUMS"  # of the shipped networks
SMALL_FILE = 64 << 20  # bytes; files up to here are known by their SHA-256
MEMORY = 2 << 30  # bytes that reading one may take
SECONDS = 8  # of the processor that reading one may take, and one more for each
BYTES_PER_SECOND = 50 << 20
# Times as long by the clock, where the system ends what takes more of the processor: others may need it too
CLOCK_PATIENCE = 8 if importlib.util.find_spec("resource") else 1
TOO_LONG = -getattr(signal, "SIGXCPU", 24)  # how a process ends that the system ended for that
# Threads take memory; HDF5 would look for plugins to unpack with, which are programs
ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "HDF5_PLUGIN_PRELOAD": "::"}
PROGRAM = (
    "import json, runpy, sys; sys.path += json.loads(sys.argv.pop()); del sys.argv[0]; "
    "runpy.run_path(sys.argv[0], None, '__main__')"
)


class Contents:
    """What a model file holds, without the file.

    Attributes:
        config, input_spec, keras_version: str or None, JSON and a version as they stand in the file.
        names: list of str, the groups and arrays at the top of its HDF5.
        weights_refused: str or None, why its arrays are not had.
        shapes: dict of path -> tuple of int, of the arrays.
    """

    def __init__(self, data, index):
        self._data, self._arrays, self._groups = data, index["arrays"], index["groups"]
        self.config, self.input_spec, self.keras_version = (
            index[key] for key in ("config", "meaning", "keras_version")
        )
        self.names, self.weights_refused = index["names"], index["weights_refused"]
        self.shapes = {place: tuple(shape) for place, (_, shape, _) in self._arrays.items()}

    def array(self, place):
        """An array of the file, by its path."""
        kind, shape, start = self._arrays[place]
        self._data.seek(start)
        array = np.empty(shape, kind)
        self._data.readinto(array.reshape(-1).view(np.uint8).data)
        return array

    @contextlib.contextmanager
    def as_hdf5(self, name="model.weights.h5"):
        """A new HDF5 file of the same groups, lists of names and arrays for a while, which Keras may read."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            with h5py.File(path, "w") as file:
                for place, lists in self._groups.items():
                    group = file.require_group(place) if place else file
                    for key, names in lists.items():
                        group.attrs[key] = names
                for place in self._arrays:
                    file[place] = self.array(place)
            yield path


def check_source(source, largest=None):
    """Refuse what is no network's name, and no file that begins as a model does; the rest is seen when it is loaded.

    Args:
        source: Path of a file, or a name of keras.applications.
        largest: as for `read_contents`.

    Raises:
        UserError: it is neither.
    """
    if not application_named(str(source)):
        read_contents(Path(source), largest, only_look=True)


def read_contents(path, largest=None, only_look=False):
    """What a model file holds.

    Args:
        path: Path.
        largest: float, GB of file at most, as the user gave it; None: LARGEST_MODEL.
        only_look: bool, go no further than its first bytes.

    Returns:
        Contents; None of a look.

    Raises:
        UserError: it does not exist, is no model file, larger than that, or cannot be read within the limits above.
    """
    if not path.exists():
        raise unknown_network(path)
    refuse_folder(path)
    most = int((largest or LARGEST_MODEL) * 1e9)
    try:
        refuse_no_file(path)
        with open(path, "rb") as file:
            if (size := os.path.getsize(path)) > most:
                raise_it = f"; --largest-model {2 * largest:g} allows more" if largest else ""
                raise ValueError(f"it has {size / 1e9:.3g} GB; expected {most / 1e9:.3g} at most{raise_it}")
            check_kind(file.read(KIND_BYTES), path)
            file.seek(0)
            return None if only_look else transcribed(file, path, size, most)
    except (OSError, ValueError) as error:
        if getattr(error, "errno", None) in FULL:
            raise UserError(
                f"what {shown_path(path)} holds could not be written to {tempfile.gettempdir()} ({error.strerror}); "
                f"expected room for {size / 1e6:,.0f} MB and more there, or TMPDIR=another folder"
            ) from error
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{shown_path(path)} cannot be read ({reason}); {MODEL_EXPECTED}") from error


def transcribed(file, path, size, largest):
    """The Contents of an open file: read in this process if its SHA-256 is known, else in one of its own."""
    data = tempfile.TemporaryFile()  # noqa: SIM115
    if size > SMALL_FILE:
        read_in_a_child(file, data, path, size, largest)
        return contents_of(data, path)
    content = file.read(SMALL_FILE)
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 in known_digests():
        plain_data.transcribe(io.BytesIO(content), data, largest)
        return contents_of(data, path)
    with tempfile.TemporaryFile() as copy:  # what is read is what the SHA-256 is of
        copy.write(content)
        copy.flush()
        read_in_a_child(copy, data, path, size, largest)
    contents = contents_of(data, path)
    known_digests().add(sha256)
    return contents


@functools.cache
def known_digests():
    """The SHA-256 of files that need no process of their own: those shipped, and those that it has read well."""
    return {line.split()[0] for line in DIGESTS.read_text().splitlines()} if DIGESTS.exists() else set()


def read_in_a_child(file, data, path, size, largest):
    """Run `camlib.networks.plain_data` on an open file.

    Raises:
        UserError: it crashed, or took too much.
    """
    seconds = SECONDS + size // BYTES_PER_SECOND
    limits = {"memory": max(MEMORY, largest // 2), "seconds": seconds, "largest": largest}
    arguments = [plain_data.__file__, json.dumps(limits), json.dumps(sys.path)]
    expected = "expected a whole file of Keras"
    try:
        ended = subprocess.run(
            [sys.executable, "-I", "-c", PROGRAM, *arguments],
            stdin=file,
            stdout=data,
            stderr=subprocess.PIPE,
            env=os.environ | ENVIRONMENT,
            timeout=CLOCK_PATIENCE * seconds,
        )
    except OSError as error:
        reason = f"the process that reads it cannot be started: {error.strerror or error}"
        raise UserError(f"{shown_path(path)} cannot be read ({reason}); expected {sys.executable} to run") from error
    except subprocess.TimeoutExpired:
        code = TOO_LONG
    else:
        code = ended.returncode
    if code == TOO_LONG:
        raise UserError(f"{shown_path(path)} cannot be read within {seconds} s; {expected}")
    if code < 0:
        raise UserError(f"{shown_path(path)} crashes what reads it ({signal.strsignal(-code)}); {expected}")
    if code:
        said = ended.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no reason"]
        for number in FULL:
            if f"[Errno {number}]" in said[0]:
                raise OSError(number, os.strerror(number))
        raise UserError(f"{shown_path(path)} cannot be read ({said[0][:120]}); {expected}")


def contents_of(data, path):
    """The Contents in what `camlib.networks.plain_data` wrote.

    Raises:
        UserError: it refused the file, or could not read it.
    """
    end = data.seek(0, os.SEEK_END)
    data.seek(end - 8)
    length = int.from_bytes(data.read(8), "little")
    data.seek(end - 8 - length)
    index = json.loads(data.read(length))
    if index["refused"]:
        raise UserError(f"{shown_path(path)} {index['refused']}")
    if index["damaged"]:
        reason = first_line(index["damaged"])
        if index["is_archive"]:
            raise UserError(f"{shown_path(path)} is an archive without a network ({reason}); {MODEL_EXPECTED}")
        raise UserError(
            f"{shown_path(path)}: its description of the network cannot be read ({reason}); expected a whole file"
        )
    return Contents(data, index)


# ---------------------------------------------------------------- what a file is, by its content

MODEL_EXPECTED = "expected a .keras or .h5 file"
KIND_BYTES = 512  # bytes that tell

OTHER_FOLDERS = {  # what a folder holds -> what it is
    "saved_model.pb": "is a SavedModel, TensorFlow's program, which the Keras that made it may save as .keras",
    "config.json": "is an unpacked .keras file, which python -m zipfile -c ../model.keras * packs, called in it",
}
FILE_BEGINNINGS = (  # how a file begins, a regular expression, and what it is
    (rb"\Z", "is empty"),
    (rb"\x80[\x02-\x05]", "is a pickle, of a history or of another library's model"),
    (rb"....TFL3", "is a TensorFlow Lite file, which has no gradients"),
    (rb"\x1f\x8b", "is packed with gzip, which gunzip undoes"),
    (rb"\s*version https://git-lfs", "is a pointer of Git LFS, which git lfs pull turns into the file itself"),
    (rb"\s*<", "is a web page, maybe a download that failed"),
    (rb"\s*[\[{]", "is JSON without weights: a history, or an architecture, which goes with them as --architecture"),
)
OTHER_SUFFIXES = {
    ".pb": "is a program of TensorFlow, which the Keras that made it, if one did, saves as .keras",
    ".index": "is a checkpoint of TensorFlow, which its network loads in Python and saves as .keras",
    ".onnx": "is an ONNX file",
}


def refuse_folder(path):
    """Raise UserError for a path that is a folder, and say of which kind."""
    if path.is_dir():
        what = next((what for name, what in OTHER_FOLDERS.items() if (path / name).exists()), "is a folder")
        raise UserError(f"{shown_path(path)} {what}; {MODEL_EXPECTED}")


def check_kind(start, path):
    """Raise UserError unless a file begins as one of the two kinds does that Keras 3 writes.

    Args:
        start: bytes, its first KIND_BYTES.
        path: Path, for the message.
    """
    if not start.startswith((HDF5_SIGNATURE, ZIP_SIGNATURE)):
        known = (what for pattern, what in FILE_BEGINNINGS if re.match(pattern, start, re.DOTALL))
        what = next(known, OTHER_SUFFIXES.get(path.suffix.lower(), "is neither an HDF5 nor a .keras file"))
        raise UserError(f"{shown_path(path)} {what}; {MODEL_EXPECTED}")
