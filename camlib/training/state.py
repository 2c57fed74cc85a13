"""The state of a training that --resume goes on from, what must be the same for that, and what its user sees."""

import contextlib
import json
import sys
import time

import keras
import numpy as np
from rich.progress import Progress as TerminalProgress
from rich.progress import TextColumn

from camlib.backend import fast_half_precision
from camlib.console import BAR_COLUMNS, STOP, UserError, duration, end_if_asked
from camlib.files import DamagedFile, file_sha256, read_arrays, read_json, write_arrays
from camlib.training import TEACHING
from camlib.training.recipes import ASKED_FOR


class TrainingState(keras.callbacks.Callback):
    """Early stopping, best weights, history, and all of it in one file after each epoch.

    A run that is killed and resumed equals one that was not: the file holds the weights, the optimizer with its step
    count (the schedule follows from it), the epoch, the best weights and how long ago they were; batches follow from
    the seed and the epoch.
    """

    def __init__(self, path, network, batches, validation, patience, settings):
        super().__init__()
        self.path, self.network, self.batches, self.validation = path, network, batches, validation
        self.patience, self.settings = patience, settings
        self.history, self.best_loss, self.best_weights, self.waited = [], np.inf, None, 0

    @property
    def finished(self):
        return self.patience is not None and self.waited >= self.patience

    def on_epoch_begin(self, epoch, logs=None):
        self.batches.epoch = epoch

    def on_epoch_end(self, epoch, logs=None):
        with self.validation.own_errors():
            results = self.network.evaluate(self.validation, verbose=0, return_dict=True)
        results["loss"] *= self.validation.filled_up
        logs |= {f"val_{name}": value for name, value in results.items()}  # in place: the epoch's line shows them too
        self.history.append({"epoch": epoch + 1} | {name: float(value) for name, value in logs.items()})
        for name in ("loss", "val_loss"):
            if not np.isfinite(logs[name]):
                self.diverge(f"{name} is {logs[name]} in epoch {epoch + 1}")
                return
        self.waited += 1
        if logs["val_loss"] < self.best_loss:
            self.best_loss, self.best_weights, self.waited = logs["val_loss"], self.network.get_weights(), 0
        self.model.stop_training = self.finished
        self.save()

    def on_train_batch_end(self, batch, logs=None):
        if not np.isfinite(logs["loss"]):  # the mean of an epoch, which stays so
            self.model.stop_training = True

    def diverge(self, found):
        """End training that has lost its way; the best weights before stay, and the state as it was.

        Raises:
            UserError: there are none.
        """
        lower = "a lower --learning-rate, or --dtype float32"
        if self.best_weights is None:
            raise UserError(f"{found}; expected a number: try {lower}")
        best = min(self.history[:-1], key=lambda row: row["val_loss"])["epoch"]
        print(f"{found}: the weights of epoch {best}, the best before, are kept; {lower}, may go further", flush=True)
        self.model.stop_training = True

    def save(self):
        """Write the state, under its name only when whole; the first host does."""
        if self.batches.share.host:
            return
        about = {"settings": self.settings, "history": self.history, "best_loss": self.best_loss, "waited": self.waited}
        parts = {
            "weights": self.network.get_weights(),
            "best_weights": self.best_weights,
            "optimizer": [keras.ops.convert_to_numpy(variable) for variable in self.model.optimizer.variables],
        }
        arrays = {f"{name}/{number:04d}": one for name, part in parts.items() for number, one in enumerate(part)}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_arrays(self.path, {"about": np.array(json.dumps(about))} | arrays)

    def restore(self, model):
        """Bring model and callback to where the file says; returns the epochs done, 0 without a file."""
        if not self.path.exists():
            return 0
        about, arrays = read_state(self.path)
        parts = {"weights": [], "best_weights": [], "optimizer": []}
        model.optimizer.build(model.trainable_variables)
        with refused_if_damaged(self.path):
            for name in sorted(arrays):
                parts[name.partition("/")[0]].append(arrays[name])
            self.history, self.best_loss, self.waited = (about[name] for name in ("history", "best_loss", "waited"))
            self.best_weights = parts["best_weights"]
            self.network.set_weights(parts["weights"])
            for variable, array in zip(model.optimizer.variables, parts["optimizer"], strict=True):
                variable.assign(array)
        return len(self.history)


# ---------------------------------------------------------------- what the user sees

TRAINING_COLUMNS = (*BAR_COLUMNS, TextColumn("loss {task.fields[loss]:.3f}, top-1 {task.fields[top1]:.3f}"))
SHOWN = {"loss": "loss", "top1": "top-1", "val_loss": "val loss", "val_top1": "val top-1"}
FIRST_STEPS = 4  # of an epoch, in which each shape of a batch is compiled: they tell nothing of the time
TIMED_STEPS = 4


class TrainingProgress(keras.callbacks.Callback):
    """Show a bar with loss and top-1 on a terminal, and print a line for each epoch, on a terminal or not.

    How long training takes is told from a few steps of the first epoch, and after that from whole epochs.

    Args:
        epochs: int, the most.
        steps: int, of an epoch.
        patience: int or None, training may end before.
    """

    def __init__(self, epochs, steps, patience=None):
        super().__init__()
        self.epochs, self.steps = epochs, steps
        self.most = "" if patience is None else "at most "
        self.bar, self.times = None, []

    def on_train_begin(self, logs=None):
        STOP.works += 1

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch, self.begun = epoch, time.monotonic()
        if sys.stdout.isatty():
            self.bar = TerminalProgress(*TRAINING_COLUMNS, transient=True)
            self.bar.start()
            self.task = self.bar.add_task(f"epoch {epoch + 1} of {self.epochs}", total=self.steps, loss=0, top1=0)

    def on_train_batch_end(self, batch, logs=None):
        end_if_asked()
        if self.bar:
            self.bar.update(self.task, completed=batch + 1, **{name: logs[name] for name in ("loss", "top1")})
        if batch + 1 == FIRST_STEPS:
            self.timed_from = time.monotonic()
        if batch + 1 == FIRST_STEPS + TIMED_STEPS and not self.times:
            seconds = (time.monotonic() - self.timed_from) / TIMED_STEPS * self.steps
            print(f"training takes {self.most}{duration((self.epochs - self.epoch) * seconds)}", flush=True)

    def on_epoch_end(self, epoch, logs=None):
        self.stop_bar()
        self.times.append(time.monotonic() - self.begun)
        left = (self.epochs - epoch - 1) * min(self.times)  # the first compiles
        left = f", {self.most}{duration(left)} left" if left and not self.model.stop_training else ""
        numbers = [f"{words} {logs[name]:.3f}" for name, words in SHOWN.items()]
        print(f"epoch {epoch + 1} of {self.epochs}: {', '.join(numbers)}{left}", flush=True)

    def on_train_end(self, logs=None):
        STOP.works -= 1
        self.stop_bar()

    def stop_bar(self):
        if self.bar:
            self.bar.stop()
            self.bar = None


# ---------------------------------------------------------------- what must be the same


def read_state(state_path):
    """What a state holds: (dict of settings, history, best_loss and waited; dict of name -> array).

    Raises:
        UserError: it is damaged.
    """
    with refused_if_damaged(state_path):
        arrays = read_arrays(state_path)
        about = json.loads(str(arrays.pop("about")))
        _ = about["settings"].keys(), [row.keys() for row in about["history"]]  # of dicts
        return about, arrays


@contextlib.contextmanager
def refused_if_damaged(state_path):
    """Make one sentence of what a state meets its readers with that another version of Keras or ours wrote."""
    try:
        yield
    except (DamagedFile, KeyError, ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"{state_path} is damaged or of an earlier version; expected the state of a training; --overwrite trains "
            "anew"
        ) from error


def check_same(path, saved, fixed):
    """Refuse to go on from what was trained with other settings than `fixed`."""
    changed = [name for name in fixed if saved.get(name) != fixed[name]]
    if changed:
        raise UserError(
            f"{path} was trained with other settings ({', '.join(changed)}); expected the command it was begun with, "
            "or another --output"
        )


def record_of_finished(record_path, output):
    """The run.json of a finished network: how it was trained, dict with the dict `settings`."""
    try:
        record = read_json(record_path)
        record["settings"].keys()  # of a dict
        return record
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{output} exists without its {record_path.name}, so that nothing says how it was trained; expected "
            "--overwrite to train anew, or another --output"
        ) from error


def decisive_settings(args, materials):
    """What must be the same for training to go on: all that decides the weights, by content and not by place.

    Args:
        args: the user's.
        materials: `camlib.training.fitting.Materials`.
    """
    recipe, teacher, locator = materials.recipe, materials.teacher, materials.locator
    from_file = args.weights not in (None, "imagenet")
    return {
        "recipe": args.recipe,
        "seed": args.seed,
        "dtype": dtype_policy(args.dtype),
        **{name: getattr(recipe, name) for name in ASKED_FOR},
        "half": args.half,
        "start": f"SHA-256 {file_sha256(args.weights)}" if from_file else args.weights,
        "class_names": materials.input_spec.class_names,
        "photos_sha256": materials.photos_sha256,
        "teacher_sha256": teacher and teacher.sha256,
        "teacher_size": teacher and [teacher.input_spec.height, teacher.input_spec.width],
        "teacher_dtype": teacher and teacher.dtype,
        **{name: teacher and getattr(args, name) for name in TEACHING},
        "locator_sha256": locator and locator.sha256,
        "locator_size": locator and [locator.classifier.input_spec.height, locator.classifier.input_spec.width],
    }


def dtype_policy(choice):
    """Keras's dtype policy for --dtype; auto takes half precision where the device is fast at it."""
    dtype = (fast_half_precision() or "float32") if choice == "auto" else choice
    return dtype if dtype == "float32" else f"mixed_{dtype}"
