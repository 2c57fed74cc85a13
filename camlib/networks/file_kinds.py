"""What a file of weights is, by its content; its name says nothing."""

from pathlib import Path

from camlib.console import UserError
from camlib.networks.plain_data import HDF5_SIGNATURE, ZIP_SIGNATURE

EXPECTED = "expected a .keras or .h5 file"
START = 512  # bytes that tell

FOLDERS = (
    ("saved_model.pb", "is a SavedModel, TensorFlow's program without Keras's layers; expected a .keras or .h5 file. "
     "Load it with the Keras that made it and save it as .keras"),
    ("config.json", "is an unpacked .keras file; expected the file. Pack it: cd into it, then python -m zipfile -c "
     "../model.keras *"),
)  # fmt: skip
PICKLES = {bytes((0x80, protocol)) for protocol in range(2, 6)}
# (how the file begins, what it is)
BEGINNINGS = (
    (b"version https://git-lfs", "is a pointer of Git LFS, not the file itself; git lfs pull brings that"),
    (b"\x1f\x8b", f"is packed with gzip; {EXPECTED}. Unpack it first"),
    (b"<", f"is a web page, maybe a download that failed; {EXPECTED}"),
    (b"{", f"is JSON without weights: a history or an architecture; {EXPECTED}. An architecture goes with the weights: "
     "--architecture"),
    (b"[", f"is JSON, without weights; {EXPECTED}"),
)  # fmt: skip
OTHERS = {
    ".pb": f"is a program of TensorFlow; {EXPECTED}. Load it with the Keras that made it and save it as .keras",
    ".index": f"is a checkpoint of TensorFlow; {EXPECTED}. Load it with its network in Python and save that as .keras",
    ".onnx": f"is an ONNX file; {EXPECTED}",
}


def refuse_folder(path):
    """Raise UserError for a path that does not exist, or is a folder, which the message names."""
    if path.is_dir():
        what = next((what for name, what in FOLDERS if (path / name).exists()), f"is a folder; {EXPECTED}")
        raise UserError(f"{shown(path)} {what}")
    if not path.exists():
        raise UserError(f"{shown(path)} does not exist; {EXPECTED}, as train_cam_4class.py writes one")


def check_kind(start, path):
    """Raise UserError unless a file begins as one of the two kinds does that Keras 3 writes.

    Args:
        start: bytes, its first START.
        path: Path, for the message.
    """
    if not start.startswith((HDF5_SIGNATURE, ZIP_SIGNATURE)):
        raise UserError(f"{shown(path)} {what_else(start, path.suffix.lower())}")


def what_else(start, suffix):
    """What a file is that is no network, in words."""
    if not start:
        return f"is empty; {EXPECTED}"
    if start[:2] in PICKLES:
        return f"is a pickle, of a history or of another library's model; {EXPECTED}"
    if start[4:8] == b"TFL3":
        return f"is a TensorFlow Lite file, which has no gradients; {EXPECTED}"
    what = next((what for beginning, what in BEGINNINGS if start.lstrip().startswith(beginning)), OTHERS.get(suffix))
    return what or "is neither an HDF5 nor a .keras file; expected one, as train_cam_4class.py writes it"


LONGEST_PATH = 70  # characters of it in a message


def shown(path):
    """A path for a message of one line: all of it, or the end of its name."""
    return str(path) if len(str(path)) <= LONGEST_PATH else f".../{Path(path).name[4 - LONGEST_PATH :]}"
