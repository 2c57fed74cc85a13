"""A run's claim on its folder: run.json, what refuses another run, the list of photos that failed."""

import contextlib
import os
import platform
import re
import sys
from importlib import metadata

from camlib.console import counted
from camlib.files import RUN_FILE, only_writer, refuse_if_held, write_csv, write_json
from camlib.runs.maps import PHOTO_FILE, SIGNED
from camlib.runs.shards import (
    FAILED_COLUMNS,
    PREDICTIONS_FILE,
    read_record,
    refuse_changed,
    refuse_foreign_files,
    remove_lists_of_shards,
)
from camlib.runs.store import PART_NAME

NOT_FINITE = (
    "the network's numbers for it are not finite; if for all photos, try another --preprocess or --dtype float32"
)
VERSIONED_PACKAGES = ("keras", "tensorflow", "jax", "numpy", "opencv-python", "pillow", "h5py", "matplotlib")


def run_record(settings, conventions):
    """What run.json holds: the command, the settings that decide the files, versions, conventions."""
    versions = {"python": platform.python_version()}
    for package in VERSIONED_PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return {"command": sys.argv, "settings": settings, "versions": versions, "conventions": conventions}


@contextlib.contextmanager
def claim_folder(output, settings, conventions, overwrite, remove, grows=False):
    """Make the folder of a run, or go on in the one that the same command made before, and write its run.json.

    Until the end of the context this process alone writes there.

    Args:
        output: Path.
        settings: dict that decides what the files hold.
        conventions: str.
        overwrite: bool, remove an earlier run's files.
        remove: function of the folder that does so.
        grows: bool, other photos may go on in it; run.json keeps the earlier ones, to which `FolderRun.resume` adds.

    Raises:
        UserError: the folder holds results of other settings, or other files of the user's, or another process writes
            to it.
    """
    refuse_foreign_files(output)
    with only_writer(output):
        refuse_if_held(output, "shard-*")
        record = read_record(output)
        if record and not overwrite:
            if grows and "photos" in settings and "shards" not in record:
                settings = settings | {"photos": record["settings"].get("photos")}
            refuse_changed(output, record["settings"], settings)
        if overwrite:
            remove(output)
        write_json(output / RUN_FILE, run_record(settings, conventions))
        yield


def write_failed(path, failed, columns=FAILED_COLUMNS):
    """Write (path, reason) rows, or remove the list of an earlier run when nothing failed."""
    if failed:
        write_csv(path, [columns, *failed])
    else:
        path.unlink(missing_ok=True)


def say_failed(failed, path):
    """Say how many photos failed and where the list is.

    Args:
        failed: list of (path, reason).
        path: Path of the list.
    """
    not_finite = sum(reason == NOT_FINITE for _, reason in failed)
    if not_finite:
        left_out = f"{counted(not_finite, 'photo')} left out"
        print(f"{left_out}: the network's numbers for {'it' if not_finite == 1 else 'them'} are not finite: see {path}")
    if len(failed) > not_finite:
        print(f"{counted(len(failed) - not_finite, 'photo')} could not be read: see {path}")


def remove_maps(output):
    """Remove what a run wrote, by the names it writes, and the folders that this leaves empty; nothing else."""
    (output / PREDICTIONS_FILE).unlink(missing_ok=True)
    remove_lists_of_shards(output)
    kinds = "|".join(["spp", "overlay", "panel", *SIGNED])
    ours = re.compile(rf"({kinds})_for_.+\.(npy|jpg|png)|{re.escape(PHOTO_FILE)}|{PART_NAME.pattern}")
    for parent, _, files in os.walk(output, topdown=False):
        for name in files:
            if ours.fullmatch(name):
                os.unlink(os.path.join(parent, name))
        if parent != str(output) and not os.listdir(parent):
            os.rmdir(parent)
