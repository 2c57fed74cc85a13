"""What a saved map is: its files, colours and overlays, and the record of the run that made it.

Imports neither Keras nor TensorFlow, so that a viewer starts at once.
"""

import base64
import csv
import io
import json
import os
import platform
import re
import sys
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import cv2
import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from camlib.console import EXIT_SOME_FAILED, Progress, UserError
from camlib.photos import RUN_FILE, read_batches, resize_photo

PREDICTIONS_FILE = "predictions.csv"
FAILED_FILE = "failed.csv"
PHOTO_FILE = "photo.jpg"
PACKAGES = ("keras", "tensorflow", "jax", "numpy", "opencv-python", "pillow", "h5py", "matplotlib")

# ---------------------------------------------------------------- files, whole or not at all


def write_whole(path, write):
    """Call `write(file)` on a binary file beside `path`, then give it its name: nobody sees half a file."""
    partial = path.with_name(path.name + ".partial")
    with open(partial, "wb") as file:
        write(file)
    os.replace(partial, path)


def write_array(path, array):
    """Save an array as .npy."""
    write_whole(path, lambda file: np.save(file, array))


def write_jpeg(path, image):
    """Save uint8 (H, W, 3), RGB, as JPEG."""
    write_whole(path, lambda file: Image.fromarray(image).save(file, "JPEG", quality=90))


# ---------------------------------------------------------------- colours


class Scale(NamedTuple):
    """The common colour scale of all maps of one kind of a photo.

    Attributes:
        limit: float, its upper end, the largest magnitude where nothing is capped.
        signed: bool, from -limit, else from 0.
    """

    limit: float
    signed: bool

    @property
    def lowest(self):
        return -self.limit if self.signed else 0.0


def scale_of(signed, maps):
    """The Scale of maps (arrays of any shapes): signed if maps of their kind are, or any value is negative."""
    limit = max((float(np.max(np.abs(values))) for values in maps), default=0.0)
    return Scale(limit, signed or any((values < 0).any() for values in maps))


def capped_scale_of(signed, values):
    """The Scale of one map whose largest hundredth is drawn alike (Smilkov et al. 2017, section 3.1).

    Single pixels of a gradient are many times larger than the rest, and would leave nothing else to see.
    """
    scale = scale_of(signed, [values])
    return scale._replace(limit=float(np.percentile(np.abs(values), 99)) or scale.limit)


def scaled(values, limit):
    """Divide by the limit for display; a map that is zero everywhere stays zero."""
    return values / limit if limit > 0 else values


def colour_name(signed):
    """Matplotlib's name of the colours: diverging around zero for signed maps, sequential for the others."""
    return "RdBu_r" if signed else "inferno"


def colours(values, signed):
    """Colour a scaled map.

    Args:
        values: float (H, W), in -1..1 if signed, else in 0..1.
        signed: bool.

    Returns:
        uint8 (H, W, 3), RGB. Signed: blue below zero, white at zero, red above.
    """
    position = (values + 1) / 2 if signed else values
    return matplotlib.colormaps[colour_name(signed)](position, bytes=True)[..., :3]


def resize_map(values, height, width):
    """Enlarge or shrink a map (h, w) to (height, width): bilinear, half-pixel centres."""
    return cv2.resize(values.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)


def superposition(photo, values, signed, opacity=0.7):
    """Lay a scaled map over a photo, the more opaque the larger its magnitude; where it is zero the photo stays.

    Args:
        photo: uint8 (H, W, 3), RGB.
        values: float (H, W), in -1..1 if signed, else in 0..1.
        signed: bool.
        opacity: float, of the largest magnitude.

    Returns:
        uint8 (H, W, 3), RGB.
    """
    weight = opacity * np.abs(values)[..., None]  # (H, W, 1)
    return np.rint(photo * (1 - weight) + overlay_colours(values, signed) * weight).astype(np.uint8)


def overlay_colours(values, signed):
    """The colours, uint8 (H, W, 3), of a scaled map over a photo, where it is the more opaque the larger its magnitude.

    The ends of a diverging scale are dark: their hue alone, at full strength, reads better over a photo.
    """
    return colours(np.sign(values) * 0.8, signed) if signed else colours(values, signed)


# ---------------------------------------------------------------- the files of one photo

# Kinds of map, and whether they always have two signs; whether a gradcam has, its method decides
SIGNED = {"heatmap": True, "gradcam": False, "guided_backprop": True, "guided_gradcam": True}


def photo_folder(output, photo):
    """The folder of one photo's maps, made if missing."""
    folder = Path(output, photo.folder)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def picture_of(values, scale, height, width):
    """Draw a map for display.

    Args:
        values: float (h, w), or (h, w, 3) for gradients of RGB, which are shown as colours around mid-grey.
        scale: Scale.
        height, width: int, of the picture.

    Returns:
        uint8 (height, width, 3), RGB.
    """
    values = resize_map(scaled(values, scale.limit), height, width)
    if values.ndim == 3:
        return np.rint(127.5 + 127.5 * values).astype(np.uint8)
    return colours(values, scale.signed)


def write_map(folder, kind, class_name, values, photo, scale):
    """Write a map as <kind>_for_<class>.npy, unscaled, and as .jpg in colours, in the photo's shape."""
    write_array(folder / f"{kind}_for_{class_name}.npy", values)
    write_jpeg(folder / f"{kind}_for_{class_name}.jpg", picture_of(values, scale, *photo.shape[:2]))


def write_superposition(folder, class_name, values, photo, scale):
    """Write spp_for_<class>.jpg: the map (h, w) over the photo (H, W, 3)."""
    values = resize_map(scaled(values, scale.limit), *photo.shape[:2])
    write_jpeg(folder / f"spp_for_{class_name}.jpg", superposition(photo, values, scale.signed))


PANEL_TITLES = {
    "heatmap": "CAM",
    "gradcam": "Grad-CAM",
    "guided_backprop": "guided backpropagation",
    "guided_gradcam": "guided Grad-CAM",
}
PANEL_SIDE, MARGIN, BAR = 256, 28, 12  # pixels: a picture's longer side, space around it, width of a colour bar


def colour_bar(scale, of_colours, height):
    """A colour bar: (uint8 (height, BAR, 3), list of (text, y) to write beside it); grey for maps of three colours."""
    values = np.repeat(np.linspace(scale.limit, scale.lowest, height)[:, None], BAR, axis=1)  # (height, BAR)
    if of_colours:
        values = np.repeat(values[..., None], 3, axis=2)
    ticks = [(f"{scale.limit:.3g}", 0), (f"{scale.lowest:.3g}", height - 1)]
    return picture_of(values, scale, height, BAR), ticks + ([("0", height // 2)] if scale.signed else [])


def write_panel(path, photo, maps):
    """Write the photo and its maps side by side, each under its name and with a colour bar of its values.

    Args:
        path: Path of a JPEG file.
        photo: uint8 (H, W, 3), RGB.
        maps: list of (title, values, Scale).
    """
    factor = PANEL_SIDE / max(photo.shape[:2])
    height, width = (max(1, round(side * factor)) for side in photo.shape[:2])
    step = max(width, 160) + BAR + 3 * MARGIN
    sheet = Image.new("RGB", (step * (1 + len(maps)), height + 2 * MARGIN), "white")
    pen = ImageDraw.Draw(sheet)
    title_font, tick_font = ImageFont.load_default(14), ImageFont.load_default(11)
    pen.text((MARGIN // 2, MARGIN // 4), "photo", "black", font=title_font)
    sheet.paste(Image.fromarray(photo).resize((width, height)), (MARGIN // 2, MARGIN))
    for number, (title, values, scale) in enumerate(maps, start=1):
        left = number * step + MARGIN // 2
        title += "" if values.any() else " (all zero)"
        pen.text((left, MARGIN // 4), title, "black", font=title_font)
        sheet.paste(Image.fromarray(picture_of(values, scale, height, width)), (left, MARGIN))
        bar, ticks = colour_bar(scale, values.ndim == 3, height)
        sheet.paste(Image.fromarray(bar), (left + width + 6, MARGIN))
        for text, y in ticks:
            pen.text((left + width + 10 + BAR, MARGIN + y), text, "black", font=tick_font, anchor="lm")
    write_jpeg(path, np.asarray(sheet))


# ---------------------------------------------------------------- small pictures for a page

THUMB_SIDE = 144  # pixels of the longer side


def thumb_size(height, width):
    """(height, width) of a small picture."""
    factor = THUMB_SIDE / max(height, width)
    return max(1, round(height * factor)), max(1, round(width * factor))


def data_uri(image):
    """A picture, uint8 (H, W, 3) or with an alpha channel (H, W, 4), as WebP in a data: address."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "WEBP", quality=70)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"


def encode_photo(photo):
    """A small photo as data: address."""
    return data_uri(resize_photo(photo, *thumb_size(*photo.shape[:2])))


def encode_overlay(values, scale, shape):
    """A map to be laid over a photo of that (height, width), as data: address; gradients of RGB hide it.

    Values beyond the scale are drawn as its ends.
    """
    size = thumb_size(*shape)
    if values.ndim == 3:
        return data_uri(picture_of(values, scale, *size))
    values = np.clip(resize_map(scaled(values, scale.limit), *size), -1, 1)
    opacity = np.rint(255 * np.abs(values)).astype(np.uint8)
    return data_uri(np.dstack((overlay_colours(values, scale.signed), opacity)))


# ---------------------------------------------------------------- the record of a run


def write_json(path, record):
    text = json.dumps(record, indent=2, ensure_ascii=False, default=str) + "\n"
    write_whole(path, lambda file: file.write(text.encode("utf-8", "surrogateescape")))


def run_record(settings, conventions):
    """What run.json holds: the command, the settings that decide the files, versions, conventions."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {"command": sys.argv, "settings": settings, "versions": versions, "conventions": conventions}


def claim_folder(output, settings, conventions, overwrite, remove):
    """Make the folder of a run, or go on in the one that the same command made before, and write its run.json.

    Args:
        output: Path.
        settings: dict that decides what the files hold.
        conventions: str.
        overwrite: bool, remove an earlier run's files.
        remove: function of the folder that does so.

    Raises:
        UserError: the folder holds results of other settings, or other files of the user's.
    """
    run_file = output / RUN_FILE
    if run_file.exists():
        earlier = json.loads(run_file.read_text("utf-8", "surrogateescape"))["settings"]
        now = json.loads(json.dumps(settings, default=str))
        changed = sorted(key for key in earlier.keys() | now.keys() if earlier.get(key) != now.get(key))
        if changed and not overwrite:
            raise UserError(
                f"{output} holds results of other settings ({', '.join(changed)}); expected another --output, or "
                "--overwrite to replace them"
            )
    elif output.is_dir() and any(not name.name.startswith((".", "README")) for name in output.iterdir()):
        raise UserError(f"{output} holds files of another kind; expected a new or empty folder for --output")
    if overwrite and output.is_dir():
        remove(output)
    output.mkdir(parents=True, exist_ok=True)
    write_json(run_file, run_record(settings, conventions))


def write_failed(path, failed):
    """Write (path, reason) rows, or remove the list of an earlier run when nothing failed."""
    if not failed:
        path.unlink(missing_ok=True)
        return
    with open_csv(path, "w") as file:
        csv.writer(file).writerows([("path", "reason"), *failed])


def remove_maps(output):
    """Remove what a run wrote, by the names it writes, and the folders that this leaves empty; nothing else."""
    (output / PREDICTIONS_FILE).unlink(missing_ok=True)
    kinds = "|".join(["spp", "panel", *SIGNED])
    ours = re.compile(rf"({kinds})_for_.+\.(npy|jpg)|{re.escape(PHOTO_FILE)}")
    for parent, _, files in os.walk(output, topdown=False):
        for name in files:
            if ours.fullmatch(name):
                os.unlink(os.path.join(parent, name))
        if parent != str(output) and not os.listdir(parent):
            os.rmdir(parent)


def probabilities_of(logits, ending="softmax"):
    """What a network makes of its logits, float (N, C) -> (N, C).

    Args:
        logits: float (N, C).
        ending: "softmax" or "sigmoid"; "linear" where the network leaves it to us: softmax, or sigmoid of one output.
    """
    if ending == "sigmoid" or (ending == "linear" and logits.shape[1] == 1):
        return 1 / (1 + np.exp(-logits.astype(np.float64)))
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


class MapRun:
    """A folder of maps in the making: which photos are done, and one CSV row for each.

    A row is written after the photo's files, so a photo with a row is done. The same command again goes on; another
    model, other photos or settings need another folder, or `overwrite`.

    Args:
        output: Path.
        settings: dict that decides what is in the files (model's SHA-256, photos' places, size ...).
        conventions: str for run.json.
        class_names: list of str.
        overwrite: bool, replace an earlier run's maps.

    Raises:
        UserError: the folder holds another run's maps, or other files of the user's.
    """

    def __init__(self, output, settings, conventions, class_names, overwrite=False):
        self.output, self.class_names = output, class_names
        numbers = [f"{number}_{name}" for number in ("logit", "probability") for name in class_names]
        self.columns = ["path", "predicted", *numbers]
        settings = settings | {"class_names": class_names}
        claim_folder(output, settings, conventions, overwrite, remove_maps)
        self.rows = {row[0]: row for row in self.read_rows()}

    def read_rows(self):
        """The whole rows of predictions.csv; a last line cut off by a kill is left out."""
        path = self.output / PREDICTIONS_FILE
        if not path.exists():
            return []
        text = path.read_text("utf-8", "surrogateescape")
        rows = list(csv.reader(text[: text.rfind("\n") + 1].splitlines(keepends=True)))
        return [row for row in rows[1:] if len(row) == len(self.columns)]

    def is_done(self, photo):
        """Whether the photo has its row, and has not changed since its maps were written."""
        saved = self.output / photo.folder / PHOTO_FILE
        return photo.name in self.rows and saved.exists() and saved.stat().st_mtime >= photo.path.stat().st_mtime

    def begin(self, photos):
        """Rewrite predictions.csv with the rows of finished photos; returns the photos still to do."""
        left = [photo for photo in photos if not self.is_done(photo)]
        for photo in left:
            self.rows.pop(photo.name, None)
        with open_csv(self.output / PREDICTIONS_FILE, "w") as file:
            csv.writer(file).writerows([self.columns, *self.rows.values()])
        return left

    def add_rows(self, photos, logits, probabilities):
        """Append the rows of finished photos; logits and probabilities are float (N, C)."""
        predicted = [self.class_names[index] for index in logits.argmax(axis=1)]
        numbers = np.concatenate((logits, probabilities), axis=1)  # (N, 2 C)
        with open_csv(self.output / PREDICTIONS_FILE, "a") as file:
            for photo, name, row in zip(photos, predicted, numbers, strict=True):
                csv.writer(file).writerow([photo.name, name, *row])

    def make(self, photos, meaning, batch_size, explain, next_command):
        """Explain the photos that are not done yet, batch by batch, and say what was written.

        Args:
            photos: list of Photo.
            meaning: Meaning of the network's input.
            batch_size: int.
            explain: function of (images uint8 (batch_size, H, W, C), list of (Photo, display photo)) that writes each
                photo's files and returns logits and probabilities, float (batch_size, C); the batch may end in filling.
            next_command: str, what to run next.

        Returns:
            int, the exit code.
        """
        left = self.begin(photos)
        if len(left) < len(photos):
            print(f"{len(photos) - len(left):,} of {len(photos):,} photos are done already")
        failed = []
        with Progress("photos", len(left)) as progress:
            for done, images, unreadable in read_batches(left, meaning, batch_size):
                if done:
                    numbers = explain(images, done)
                    for photo, picture in done:  # last: it marks the photo as done
                        write_jpeg(photo_folder(self.output, photo) / PHOTO_FILE, picture)
                    self.add_rows([photo for photo, _ in done], *(part[: len(done)] for part in numbers))
                failed += unreadable
                progress.advance(len(done) + len(unreadable))
        write_failed(self.output / FAILED_FILE, failed)
        print(f"wrote the maps of {len(left) - len(failed):,} photos to {self.output}")
        print(f"next: {next_command}")
        if failed:
            print(f"{len(failed):,} photos could not be read: see {self.output / FAILED_FILE}")
        return EXIT_SOME_FAILED if failed else 0


def open_csv(path, mode):
    """Open a CSV file for the csv module; names that are not UTF-8 survive."""
    return open(path, mode, newline="", encoding="utf-8", errors="surrogateescape")
