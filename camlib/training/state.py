"""What --resume needs: the state of a training, and what must be the same for it to go on."""

import hashlib
import json

import keras
import numpy as np

from camlib.backend import fast_half_precision
from camlib.console import UserError
from camlib.files import file_sha256, read_json
from camlib.training.hdf5_files import DamagedFile, read_hdf5, write_hdf5


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

        def write(file):
            file.attrs["settings"] = json.dumps(self.settings)
            file.attrs["history"] = json.dumps(self.history)
            file.attrs["best_loss"], file.attrs["waited"] = self.best_loss, self.waited
            for name, arrays in (
                ("weights", self.network.get_weights()),
                ("best_weights", self.best_weights),
                ("optimizer", [keras.ops.convert_to_numpy(variable) for variable in self.model.optimizer.variables]),
            ):
                for number, array in enumerate(arrays):
                    file[f"{name}/{number:04d}"] = array

        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_hdf5(self.path, write)

    def restore(self, model):
        """Bring model and callback to where the file says; returns the epochs done, 0 without a file."""
        if not self.path.exists():
            return 0
        check_state(self.path, self.settings)

        def read(file):
            self.history = json.loads(file.attrs["history"])
            self.best_loss, self.waited = float(file.attrs["best_loss"]), int(file.attrs["waited"])
            self.best_weights = [array[()] for array in file["best_weights"].values()]
            self.network.set_weights([array[()] for array in file["weights"].values()])
            model.optimizer.build(model.trainable_variables)
            for variable, array in zip(model.optimizer.variables, file["optimizer"].values(), strict=True):
                variable.assign(array[()])

        read_state(self.path, read)
        return len(self.history)


# ---------------------------------------------------------------- what must be the same


def check_not_lost(output, state_path, settings):
    """Refuse to train over an earlier result that the user did not ask to continue or to replace."""
    earlier = next((path for path in (output, state_path) if path.exists()), None)
    if earlier and not settings.resume and not settings.overwrite:
        raise UserError(f"{earlier} exists; expected --resume to go on, --overwrite to train anew, or another --output")


def check_state(state_path, fixed):
    """Refuse to go on from a state of other settings than `fixed`."""
    saved = read_state(state_path, lambda file: json.loads(file.attrs["settings"]))
    check_same(state_path, saved, fixed)


def read_state(state_path, read):
    """What `read(file)` makes of a state, see `read_hdf5`.

    Raises:
        UserError: it is damaged.
    """
    try:
        return read_hdf5(state_path, read)
    except DamagedFile as error:
        raise UserError(f"{error}; expected the state of a training; --overwrite trains anew") from error


def check_same(path, saved, fixed):
    """Refuse to go on from what was trained with other settings than `fixed`."""
    changed = [name for name in fixed if saved.get(name) != fixed[name]]
    if changed:
        raise UserError(
            f"{path} was trained with other settings ({', '.join(changed)}); expected the command it was begun with, "
            "or another --output"
        )


def settings_of_finished(record_path, output):
    """The settings a finished network was trained with, as its run.json holds them."""
    try:
        settings = read_json(record_path)["settings"]
        settings.keys()  # of a dict
        return settings
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{output} exists without its {record_path.name}, so that nothing says how it was trained; expected "
            "--overwrite to train anew, or another --output"
        ) from error


def photos_sha256(photos):
    """SHA-256 of all pixels and labels: the same photos may be resumed from a fresh copy with new places and times."""
    digest = hashlib.sha256()
    for part in photos.values():
        for start in range(0, len(part.labels), 32):  # a few at a time, since they are in a file
            digest.update(part.images[start : start + 32])
        digest.update(part.labels)
    return digest.hexdigest()


def decisive_settings(settings, recipe, meaning, photos):
    """What must be the same for training to go on: all that decides the weights, by content and not by place."""
    from_file = settings.weights not in (None, "imagenet")
    return {
        "recipe": settings.recipe,
        "seed": settings.seed,
        "dtype": dtype_policy(settings.dtype),
        "size": recipe.size,
        "depth": recipe.depth,
        "learning_rate": recipe.learning_rate,
        "epochs": recipe.epochs,
        "batch_size": recipe.batch_size,
        "half": settings.half,
        "start": f"SHA-256 {file_sha256(settings.weights)}" if from_file else settings.weights,
        "class_names": meaning.class_names,
        "photos_sha256": photos_sha256(photos),
    }


def dtype_policy(choice):
    """Keras's dtype policy for --dtype; auto takes half precision where the device is fast at it."""
    dtype = (fast_half_precision() or "float32") if choice == "auto" else choice
    return dtype if dtype == "float32" else f"mixed_{dtype}"
