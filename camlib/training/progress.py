"""Training as its user sees it: a bar on a terminal, a line for each epoch, and how long it will take."""

import sys
import time

import keras
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from camlib.console import ENDING, duration, end_if_asked

COLUMNS = (
    TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
    TextColumn("loss {task.fields[loss]:.3f}, top-1 {task.fields[top1]:.3f}"),
)  # fmt: skip
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
        self.bar, self.told, self.times = None, False, []

    def on_train_begin(self, logs=None):
        ENDING.works += 1

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch, self.begun = epoch, time.monotonic()
        if sys.stdout.isatty():
            self.bar = Progress(*COLUMNS, transient=True)
            self.bar.start()
            self.task = self.bar.add_task(f"epoch {epoch + 1} of {self.epochs}", total=self.steps, loss=0, top1=0)

    def on_train_batch_end(self, batch, logs=None):
        end_if_asked()
        if self.bar:
            self.bar.update(self.task, completed=batch + 1, **{name: logs[name] for name in ("loss", "top1")})
        if batch + 1 == FIRST_STEPS:
            self.timed_from = time.monotonic()
        if batch + 1 == FIRST_STEPS + TIMED_STEPS and not self.told:
            seconds = (time.monotonic() - self.timed_from) / TIMED_STEPS * self.steps
            self.tell((self.epochs - self.epoch) * seconds)

    def tell(self, seconds):
        self.told = True
        print(f"training takes {self.most}{duration(seconds)}", flush=True)

    def on_epoch_end(self, epoch, logs=None):
        self.stop_bar()
        self.times.append(time.monotonic() - self.begun)
        left = (self.epochs - epoch - 1) * min(self.times)  # the first compiles
        left = f", {self.most}{duration(left)} left" if left and not self.model.stop_training else ""
        numbers = [f"{words} {logs[name]:.3f}" for name, words in SHOWN.items()]
        print(f"epoch {epoch + 1} of {self.epochs}: {', '.join(numbers)}{left}", flush=True)

    def on_train_end(self, logs=None):
        ENDING.works -= 1
        self.stop_bar()

    def stop_bar(self):
        if self.bar:
            self.bar.stop()
            self.bar = None
