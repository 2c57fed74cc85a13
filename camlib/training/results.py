"""What stays of a training: the network first, then what is told of it, whose failing costs a warning; and its maps."""

import contextlib
import importlib.util
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
from PIL import Image

from camlib.attribution.classifier import Classifier
from camlib.attribution.gradcam import GradCAM
from camlib.console import EXIT_SOME_FAILED, command, counted, first_line, print_table
from camlib.evaluation.metrics import binary_accuracy, confusion_matrix
from camlib.files import RUN_FILE, write_csv, write_json, write_whole
from camlib.networks import GAP_NETWORK
from camlib.networks.checkpoint import load_network, save_network
from camlib.photos import read_batches
from camlib.photos.places import places_in
from camlib.plots.figures import draw_confusion_matrix, draw_history
from camlib.plots.panels import encoded_png, sheet_of, write_png
from camlib.precision import kept_precision
from camlib.preprocessing import InputSpec
from camlib.runs.claim import run_record, write_failed
from camlib.runs.explained import Explained, refuse_failed
from camlib.training import sibling, watched_files
from camlib.training.batches import PlainBatches
from camlib.training.class_folders import validation_folders

FEW_PHOTOS = 500  # to train on
BATCH_SIZE = 32  # photos in a batch of those that the finished network is asked about
CLASSES_WATCHED = 6  # at most, else the class predicted alone
OF_AN_EPOCH = re.compile(r"(?:events\.out\.tfevents\.)?epoch_(\d{4,})(?:\.png)?")
MOST_FRAMES, FRAME_MILLISECONDS, LAST_MILLISECONDS = 200, 400, 2000  # of the film


def write_results(network, materials, history, args, fixed):
    """Write all that stays beside the network, and say how good it is and what comes next.

    The training counts as finished, and its state is removed, before anything is drawn: what is drawn is made from the
    network, the photos, and the history in run.json, now or by `write_missing`.

    Args:
        network: keras.Model.
        materials: `camlib.training.fitting.Materials`.
        history: list of dicts, one per epoch.
        args: the user's.
        fixed: dict of what decided the weights.

    Returns:
        int, the exit code of what is missing of the report.
    """
    output, input_spec, failed = args.output, materials.input_spec, materials.failed
    save_network(network, output, input_spec, half=args.half)
    save_network(network, output.with_suffix(".weights.h5"), input_spec, half=args.half)
    record = run_record(vars(args) | fixed, "classes in the order of class_names")
    write_json(sibling(output, "run.json"), record | {"history": history})
    write_failed(sibling(output, "failed.csv"), failed)
    for earlier in filter(Path.is_file, report_files(output)):  # of what was trained before
        earlier.unlink()
    sibling(output, "state.npz").unlink()
    missing = report_training(network, input_spec, materials.photos["val"], output, history)
    also = "" if missing else ", history, curves and confusion matrix"
    print(f"wrote {output}, its weights{also} to {output.parent}")
    if failed:
        print(f"{counted(len(failed), 'photo')} could not be read: see {sibling(output, 'failed.csv')}")
    if helps := what_would_help(args, len(materials.photos["train"].labels)):
        print(helps)
    print(f"next: {next_command(args)}")
    return EXIT_SOME_FAILED if missing else 0


def report_files(output):
    """What is drawn and told of a training, list of Path."""
    return [sibling(output, ending) for ending in ("history.csv", "curves.png", "confusion.png")]


def write_missing(materials, record, args):
    """Make what a finished training lacks of its files, as one that was killed then.

    Args:
        materials: `camlib.training.fitting.Materials`.
        record: dict, of its run.json.
        args: the user's.

    Returns:
        int, the exit code.
    """
    output, weights, missing = args.output, args.output.with_suffix(".weights.h5"), []
    if not all(path.exists() for path in (weights, *report_files(output))):
        network, input_spec = load_network(output)
        save_network(network, weights, input_spec, half=args.half)
        missing = report_training(network, input_spec, materials.photos["val"], output, record.get("history"))
        print(f"{output} was without some of its files, which are made now")
    print(f"{output} is finished; to train it anew use --overwrite")
    return EXIT_SOME_FAILED if missing else 0


def report_training(network, input_spec, photos, output, history):
    """Write history, curves and confusion matrix, and print the accuracies of the network kept.

    Args:
        network, history: as for `write_results`; the latter None where an earlier version did not keep it.
        input_spec: InputSpec of the network.
        photos: LabelledPhotos, those to validate on.
        output: Path of the network.

    Returns:
        list of str, what could not be made.
    """
    missing, class_count = [], len(input_spec.class_names)
    history_file, curves, confusion = report_files(output)
    with warned_of("the history", missing):
        write_csv(history_file, [history[0].keys(), *(row.values() for row in history)])
    with warned_of("the curves", missing):
        draw_history(curves, history)
    with warned_of("the accuracies and the confusion matrix", missing):
        if history:
            best = min(history, key=lambda row: row["val_loss"])
            print(f"kept: the weights after epoch {best['epoch']} of {len(history)}, whose val loss is the least")
        probabilities = network.predict(PlainBatches(photos, input_spec, BATCH_SIZE), verbose=0)  # (N, C)
        counts = confusion_matrix(photos.labels, probabilities.argmax(axis=1), class_count)
        print_accuracies(counts, input_spec.class_names)
        binary = binary_accuracy(probabilities, photos.labels)
        print(f"binary accuracy (what Keras called accuracy in the original): {binary:.3f}")
        draw_confusion_matrix(confusion, counts, input_spec.class_names, "photos of val")
    return missing


@contextlib.contextmanager
def warned_of(what, missing):
    """Make something that a finished network can do without: an error becomes a warning and an entry of a list."""
    try:
        yield
    except Exception as error:  # whatever a full disk, a lack of memory or Matplotlib raises
        missing.append(what)
        reason = first_line(error)
        print(f"warning: {what} could not be made ({reason}); the network is finished and whole", file=sys.stderr)


def print_accuracies(counts, class_names):
    """Print top-1 accuracy and that of each class, from a confusion matrix int (C, C)."""
    print(f"top-1 accuracy on the {counts.sum():,} photos of val: {counts.trace() / counts.sum():.3f}")
    rows = [
        [name, f"{right:,}", f"{row.sum():,}", f"{right / max(row.sum(), 1):.3f}"]
        for name, row, right in zip(class_names, counts, counts.diagonal(), strict=True)
    ]
    print_table("by class", ["class", "right", "of", "share"], rows)


def what_would_help(args, count):
    """A line about what helps a network that so many photos have trained from random weights; "" for enough photos."""
    if args.recipe != "modern" or args.weights or not args.data or count >= FEW_PHOTOS:
        return ""
    return (
        f"{counted(count, 'photo')} are few for random weights: the same command with --weights "
        f"{os.path.relpath(GAP_NETWORK)} --overwrite starts from a trained network (with 240 photos: 0.97 right "
        "instead of 0.25)"
    )


def next_command(args):
    """The command that makes the new network's maps of the photos it was validated on."""
    of_vgg = args.recipe == "vgg16"
    script, option = ("gradcam_vgg16.py", "--weights") if of_vgg else ("make_cam_maps.py", "--model")
    folder = sibling(args.output, "maps")
    anew = ["--overwrite"] if (folder / RUN_FILE).exists() else []  # maps of an earlier network
    photos = validation_folders(args.data) if args.data else []
    return command(script, *photos, option, args.output, "--output", folder, *anew)


# ---------------------------------------------------------------- while it is trained


class WatchedMaps(keras.callbacks.Callback):
    """Draw the maps of a few photos after each epoch of a training, and a film of all epochs at its end.

        network.fit(..., callbacks=[WatchedMaps(["a.jpg", "b.jpg"], "outputs/watched", preprocess="tf")])

    Writes epoch_0001.png, one row a photo, and at the end film.gif; where TensorBoard is installed, an event file
    beside each picture, too.

    Args:
        photos: list of paths of photos or folders, at most MOST_SHOWN photos.
        folder: str or Path.
        network: keras.Model to map; default: the one that is trained.
        input_spec: InputSpec of it; default: what `options` say.
        method: str, a key of METHODS.
        options: as for NetworkOptions: preprocess, class_names ...

    Raises:
        UserError: there are more photos, or one cannot be read; and when training begins, the network has no maps.
    """

    def __init__(
        self,
        photos: str | os.PathLike | list,
        folder: str | os.PathLike,
        network: keras.Model | None = None,
        input_spec: InputSpec | None = None,
        method: str = "grad-cam",
        **options: Any,
    ) -> None:
        super().__init__()
        self.places, self.folder, self.method = places_in(photos), Path(folder), method
        self.files = watched_files(self.places)
        self.network, self.input_spec, self.options = network, input_spec, options
        self.gradcam = None

    def prepare(self, network):
        """Read the photos and compile the maps of a network."""
        with kept_precision(network):
            classifier = Classifier(network, self.input_spec, **self.options)
            classes = ["all"] if len(classifier.input_spec.class_names) <= CLASSES_WATCHED else ["predicted"]
            self.network, self.gradcam = network, GradCAM(classifier, None, self.method, guided=False, classes=classes)
        self.read, self.images, failed = next(read_batches(self.files, classifier.input_spec, len(self.files)))
        refuse_failed(failed, self.files, self.places)

    def on_train_begin(self, logs=None):
        if self.gradcam is None:
            self.prepare(self.network or self.model)

    def on_epoch_end(self, epoch, logs=None):
        self.draw(epoch + 1)

    def on_train_end(self, logs=None):
        self.write_film()

    def go_on(self, done):
        """Bring the pictures to where a training that is resumed is: so many epochs are done."""
        self.on_train_begin()
        for path in self.folder.glob("*epoch_*"):
            ours = OF_AN_EPOCH.fullmatch(path.name)
            if ours and int(ours[1]) > done:
                path.unlink()
        if done and not self.picture_of(done).exists():  # it was killed before it was drawn
            self.draw(done)
        self.write_film()

    def picture_of(self, epoch):
        return self.folder / f"epoch_{epoch:04d}.png"

    def draw(self, epoch):
        """Write the picture of an epoch; of a network whose numbers are not finite there is none."""
        with kept_precision(self.network):
            found = self.gradcam.explanation(self.images, len(self.read))
        if not np.isfinite(found.logits).all():
            return
        rows = Explained.of(found, self.gradcam, *zip(*self.read, strict=True), self.places).rows()
        rows[0].heading.insert(0, f"epoch {epoch}")
        sheet = sheet_of(rows)
        self.folder.mkdir(parents=True, exist_ok=True)
        if importlib.util.find_spec("tensorboard"):
            write_event(self.folder / f"events.out.tfevents.epoch_{epoch:04d}", epoch, sheet)
        write_png(self.picture_of(epoch), sheet)

    def write_film(self):
        """Write the pictures of all epochs as one GIF: of more than MOST_FRAMES every second, third ... of them."""
        paths = sorted(self.folder.glob("epoch_*.png"))
        if not paths:
            return
        paths = paths[:: -max(1, -(-len(paths) // MOST_FRAMES))][::-1]
        sizes = [Image.open(path).size for path in paths]
        size = tuple(map(max, zip(*sizes, strict=True)))  # numbers of probabilities are not of one width
        frames = (frame_of(path, size) for path in paths)
        times = [FRAME_MILLISECONDS] * (len(paths) - 1) + [LAST_MILLISECONDS]
        film = {"save_all": True, "duration": times, "loop": 0}
        write_whole(self.folder / "film.gif", lambda file: next(frames).save(file, "GIF", append_images=frames, **film))


def frame_of(path, size):
    """A picture on white of the size (width, height) of a film."""
    frame = Image.new("RGB", size, "white")
    frame.paste(Image.open(path))
    return frame


def write_event(path, step, picture):
    """Write a picture, uint8 (H, W, 3), as the event file of a step that TensorBoard reads. Does without TensorFlow."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.record_writer import RecordWriter

    height, width = picture.shape[:2]
    encoded = encoded_png(picture).tobytes()
    image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=encoded)
    summary = Summary(value=[Summary.Value(tag="maps", image=image)])
    record = Event(wall_time=time.time(), step=step, summary=summary).SerializeToString()
    write_whole(path, lambda file: RecordWriter(file).write(record))
