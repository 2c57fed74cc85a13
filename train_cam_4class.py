"""Train the pooling-free network whose class activation maps have the size of the photo.

    python train_cam_4class.py                                # the demo set, about four minutes on two cores
    python train_cam_4class.py --data my_photos --output outputs/training/mine.h5
    python train_cam_4class.py --recipe original --data my_photos --output outputs/training/original.h5
    python train_cam_4class.py --recipe vgg16 --weights imagenet --learning-rate 5e-5 --output outputs/training/vgg.h5
    python train_cam_4class.py --teacher models/vgg16_4class.h5 --output outputs/training/taught.h5

A data folder holds train/ and val/ with one folder per class, or the class folders alone; beside others, train/ alone
is trained on and nothing more. --teacher learns from another network's answers too, --locator from where another one's
maps are. Recipes: `modern`, the default; `original`, the class project of 2019; `vgg16`, that of gradcam_vgg16.py.
Writes the network (.h5), its weights alone (.weights.h5), and beside them history, curves and confusion matrix; ends
with the top-1 accuracy of each class. Stopped at any time, the same command with --resume goes on from the last epoch
and, on a CPU, ends with the very same weights.
"""

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from camlib.console import (
    EXIT_SOME_FAILED,
    ArgumentParser,
    counted,
    run_script,
    whole_number,
)
from camlib.later import keras
from camlib.networks.architectures import modern_network, original_network, vgg16_network
from camlib.options import add_host_options, add_teacher_options, check_host_options, check_teacher_options
from camlib.pixel_budget import PIXELS, add_pixel_option

# ---------------------------------------------------------------- settings

OUTPUT = Path("outputs/training/cam_4class.h5")


def rmsprop(learning_rate, steps):
    """The original's optimizer."""
    return keras.optimizers.RMSprop(learning_rate)


def adamw(learning_rate, steps):
    """AdamW with a warm-up over the first twentieth of the steps and a cosine down to a thousandth of the peak."""
    warm_up = max(1, steps // 20)
    schedule = keras.optimizers.schedules.CosineDecay(
        learning_rate / 100, max(1, steps - warm_up), alpha=1e-3, warmup_target=learning_rate, warmup_steps=warm_up
    )
    return keras.optimizers.AdamW(schedule, weight_decay=0.05)


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Attributes:
        network: function of (class_count, channels), the network to keep.
        training_form: bool, it is trained in another form, `network(..., for_training=True)`, and folded afterwards.
        size: int, height and width of the photos the network is meant for.
        smallest: int, the least size that may be asked for; its cut-outs have to survive the network's poolings.
        crop: float, height and width of the augmented cut-outs it is trained on, as a share of `size`; a network that
            ends in global average pooling takes both, and trains faster on the smaller. None: whole photos, as they
            are.
        mosaic: bool, lay every other batch out as 2x2 mosaics and ask for the class of each cell, with the same Dense
            layer on the cell's mean: evidence then has to stay where its animal is.
        channels, scale, interpolation: see `camlib.networks.architectures.Meaning`.
        loss: str, a Keras loss of one-hot labels and probabilities.
        optimizer: function of (learning_rate, steps).
        learning_rate: float, at its highest.
        balanced: bool, weigh each class by the inverse of its number of photos.
        batch_size, epochs: int.
        patience: int, training ends after as many epochs without a lower val_loss. None: after the last epoch, which a
            schedule of learning rates needs.
        deepens: bool, the network takes a depth, see `camlib.networks.architectures.modern_network`.
        depth: int, or None for the usual one.
    """

    network: Callable
    training_form: bool
    size: int
    smallest: int
    crop: float | None
    mosaic: bool
    channels: int
    scale: float
    interpolation: str
    loss: str
    optimizer: Callable
    learning_rate: float
    balanced: bool
    batch_size: int
    epochs: int
    patience: int | None
    deepens: bool = False
    depth: int | None = None

    @property
    def cut(self):
        """Height and width of the cut-outs in pixels, in whole steps of the training grids, or None."""
        return 4 * round(self.crop * self.size / 4) if self.crop else None


RECIPES = {
    "modern": Recipe(
        modern_network, training_form=True, size=96, smallest=32, crop=3 / 4,
        mosaic=True, channels=3, scale=1 / 255,
        interpolation="area", loss="categorical_crossentropy", optimizer=adamw, learning_rate=3e-3,
        balanced=True, batch_size=32, epochs=40, patience=None, deepens=True,
    ),
    "original": Recipe(
        original_network, training_form=False, size=64, smallest=32, crop=None,
        mosaic=False, channels=1, scale=1.0,
        interpolation="cubic", loss="binary_crossentropy", optimizer=rmsprop, learning_rate=1e-4,
        balanced=False, batch_size=200, epochs=500, patience=20,
    ),
    "vgg16": Recipe(
        vgg16_network, training_form=True, size=96, smallest=48, crop=2 / 3,
        mosaic=False, channels=3, scale=1 / 255,
        interpolation="area", loss="categorical_crossentropy", optimizer=adamw, learning_rate=1e-3,
        balanced=True, batch_size=32, epochs=40, patience=None,
    ),
}  # fmt: skip

STATISTICS_PHOTOS = 64  # about as many tell the statistics of the features of a network to start from

# ---------------------------------------------------------------- options


def parse_arguments(arguments=None):
    parser = ArgumentParser(__doc__)
    data = parser.add_argument_group("photos and network")
    data.add_argument("--data", type=Path, nargs="+", metavar="DIR", help="class folders; default: the demo set")
    add_pixel_option(data)
    data.add_argument("--recipe", choices=RECIPES, default="modern", help="network, loss and schedule")
    data.add_argument("--weights", metavar="FILE|imagenet",
                      help="start from this network's convolutions and, of the same classes, all of it; imagenet, for "
                      "--recipe vgg16: Keras's own; default: from random ones")  # fmt: skip
    data.add_argument("--size", type=int, metavar="PIXELS", help="height and width; default: the recipe's")
    data.add_argument("--depth", type=int, metavar="N",
                      help="convolutions of --recipe modern; default: 7, or those of --weights if more")  # fmt: skip
    training = parser.add_argument_group("training")
    training.add_argument("--learning-rate", type=float, metavar="RATE", help="at its highest; default: the recipe's")
    training.add_argument("--epochs", type=int, metavar="N", help="the most epochs; default: the recipe's")
    training.add_argument("--batch-size", type=int, metavar="N", help="photos in a step; default: the recipe's")
    training.add_argument("--seed", type=whole_number(0, 2**32 - 1), default=0, metavar="N",
                          help="of weights, order, augmentation and split")  # fmt: skip
    training.add_argument("--dtype", choices=("auto", "float32", "bfloat16", "float16"), default="auto",
                          help="of the arithmetic; auto: half precision where the device is fast at it")  # fmt: skip
    add_teacher_options(parser.add_argument_group("teacher and locator"))
    add_host_options(parser.add_argument_group("several hosts"))
    output = parser.add_argument_group("output")
    output.add_argument("--output", type=Path, default=OUTPUT, metavar="FILE.h5", help="the network")
    output.add_argument("--half", action="store_true", help="store the weights as float16, half the size")
    earlier = output.add_mutually_exclusive_group()
    earlier.add_argument("--resume", action="store_true", help="go on from the last whole epoch")
    earlier.add_argument("--overwrite", action="store_true", help="train anew over an earlier result")
    settings = parser.parse_args(arguments)
    if settings.output.suffix != ".h5" or settings.output.name.endswith(".weights.h5"):
        parser.error(f"--output {settings.output}: expected a name ending in .h5, not in .weights.h5")
    recipe = RECIPES[settings.recipe]
    fewest = 2 if recipe.training_form else 1  # of a single photo, batch normalisation leaves nothing
    parser.require(settings, epochs=1, size=recipe.smallest, batch_size=fewest, depth=1)
    if settings.depth and not recipe.deepens:
        parser.error(f"--depth {settings.depth}: expected --recipe modern, since the others' depth is what they are")
    if recipe.mosaic and (settings.batch_size or recipe.batch_size) % 4:
        parser.error(f"--batch-size {settings.batch_size}: expected a multiple of 4, since four photos make a mosaic")
    if settings.learning_rate is not None and not 0 < settings.learning_rate < 1:
        parser.error(f"--learning-rate {settings.learning_rate}: expected a number between 0 and 1")
    check_teacher_options(parser, settings, recipe.loss)
    check_host_options(parser, settings)
    PIXELS.most = settings.most_pixels
    return settings


if __name__ == "__main__":
    parse_arguments()  # before Keras is imported, which takes seconds

from camlib.backend import ALONE, all_devices, device_name, usual_settings

# isort: split
import numpy as np

from camlib.demo.scenes import demo_folder
from camlib.memory import MODEST, check_training
from camlib.networks.architectures import depth_to_go_on, fold, per_cell, start_from
from camlib.networks.checkpoint import load_known_network
from camlib.preprocessing import Meaning
from camlib.runs.locks import OnlyWriter
from camlib.training.attention import Locator, centre_classes, decisive_for_locating, load_locator, located
from camlib.training.batches import Batches, PlainBatches
from camlib.training.class_folders import find_labelled_photos, load_photos
from camlib.training.distillation import Teacher, decisive_for_teaching, label_metrics, load_teacher, prepare_lesson
from camlib.training.hosts import check_agreement, first_before_others, joined, together
from camlib.training.progress import TrainingProgress
from camlib.training.results import sibling, write_results
from camlib.training.state import (
    TrainingState,
    check_not_lost,
    check_same,
    check_state,
    decisive_settings,
    dtype_policy,
    settings_of_finished,
)

# ---------------------------------------------------------------- training that can be resumed


def build(recipe, class_count, for_training=True):
    """The network, in the form that is trained or in the one to keep."""
    form = {"for_training": for_training} if recipe.training_form else {}
    depth = {"depth": recipe.depth} if recipe.deepens else {}
    return recipe.network(class_count, recipe.channels, **form, **depth)


def to_fit(network, recipe, locator):
    """The same layers as a model that is asked what the batches ask, see `Batches`."""
    if locator:
        return located(network)
    return per_cell(network, recipe.cut) if recipe.mosaic else keras.Model(network.inputs, network.outputs)


def check_fits(recipe, meaning, photo_count, dtype, share):
    """Refuse what would not fit into memory, before a photo is decoded, see `camlib.memory.check_training`."""
    side, batch_size = recipe.cut or recipe.size, min(recipe.batch_size, photo_count)
    if batch_size * side**2 > MODEST:
        keras.config.set_dtype_policy(dtype)
        network = build(recipe, len(meaning.class_names))
        keras.config.set_dtype_policy("float32")
        shape, least = (side, side, recipe.channels), 4 if recipe.mosaic else 1
        check_training(network, shape, recipe.size, batch_size, share.devices, least)


@dataclass(frozen=True)
class Materials:
    """What is trained, and on what.

    Attributes:
        recipe: Recipe, as deep as the network to start from where nothing else was asked.
        meaning: Meaning, of the network to be.
        found: {"train": list of (Photo, label), "val": the same}.
        photos: {"train": LabelledPhotos, "val": LabelledPhotos}, those of `found` that can be read.
        failed: list of (path, reason), those that cannot.
        source: (keras.Model to start from, bool: its outputs mean the same classes), or None.
        teacher: Teacher, or None.
        locator: Locator, or None.
    """

    recipe: Recipe
    meaning: Meaning
    found: dict
    photos: dict
    failed: list
    source: tuple | None
    teacher: Teacher | None
    locator: Locator | None


def train(materials, state_path, settings, resume, lesson=None, share=ALONE):
    """Train one network.

    Args:
        materials: Materials.
        state_path: Path of the file that --resume goes on from.
        settings: dict with seed (of weights, order and augmentation), epochs (the most; the schedule ends there),
            dtype (Keras's policy), and whatever else must be the same when training is resumed.
        resume: bool, go on from `state_path` if it exists.
        lesson: Lesson, of the teacher, or None.
        share: Share, this process's part of the work.

    Returns:
        (network, history): keras.Model in float32 with the weights of the lowest val_loss, and a list of dicts, one
        per epoch.
    """
    recipe, meaning, photos, locator = materials.recipe, materials.meaning, materials.photos, materials.locator
    seed, epochs = settings["seed"], settings["epochs"]
    keras.utils.set_random_seed(seed)
    class_count = len(meaning.class_names)
    batches = Batches(photos["train"], meaning, recipe, seed, lesson, share, locator)
    keras.config.set_dtype_policy(settings["dtype"])
    start = None
    if materials.source:  # on one device, since it is little work
        start, images = build(recipe, class_count), photos["train"].images
        earlier, same_classes = materials.source
        start_from(start, earlier, meaning.prepare(images[:: -(-len(images) // STATISTICS_PHOTOS)]), same_classes)
        keras.utils.set_random_seed(seed)  # so that building it anew takes the same random numbers
    with all_devices():
        network = build(recipe, class_count)
        if start:
            network.set_weights(start.get_weights())
        trained = to_fit(network, recipe, locator)
        network.compile(loss=recipe.loss, weighted_metrics=label_metrics(class_count))
        optimizer = recipe.optimizer(recipe.learning_rate, epochs * len(batches))
        loss = lesson.loss if lesson else recipe.loss
        trained.compile(optimizer, loss, weighted_metrics=[], metrics=label_metrics(class_count))
        validation = PlainBatches(photos["val"], meaning, recipe.batch_size, share)
        state = TrainingState(state_path, network, batches, validation, recipe.patience, settings)
        done = state.restore(trained) if resume else 0
        if done < epochs and not state.finished:
            parameters, steps = counted(network.count_params(), "parameter"), counted(len(batches), "step")
            print(f"{parameters}, {steps} an epoch", flush=True)
            callbacks = [state, TrainingProgress(epochs, len(batches), recipe.patience)]
            with batches.own_errors():
                trained.fit(batches, epochs=epochs, initial_epoch=done, shuffle=False, callbacks=callbacks, verbose=0)
    keras.config.set_dtype_policy("float32")
    best = build(recipe, class_count)
    best.set_weights(state.best_weights)
    if recipe.training_form:
        best = fold(best, build(recipe, class_count, for_training=False))
    if locator:
        centre_classes(best)
    return best, state.history


# ---------------------------------------------------------------- the script


def recipe_of(settings):
    """The recipe with what the user asked to be otherwise."""
    asked = {name: getattr(settings, name) for name in ("size", "depth", "learning_rate", "epochs", "batch_size")}
    return replace(RECIPES[settings.recipe], **{name: value for name, value in asked.items() if value is not None})


def meaning_of(recipe, class_names, earlier):
    """The Meaning of a network to be; the network to start from says what becomes of a pixel, else the recipe does."""
    meaning = Meaning(
        class_names, recipe.size, recipe.size, recipe.channels, recipe.scale, interpolation=recipe.interpolation
    )
    if earlier:
        kept = {name: getattr(earlier, name) for name in ("channels", "scale", "offset", "bgr")}
        meaning = replace(meaning, **kept)
    return meaning


def load_data(settings, recipe, share):
    """The Materials that the user asked for; the first host decodes.

    Args:
        settings: the user's.
        recipe: Recipe.
        share: Share.
    """
    with together(share):
        earlier, earlier_meaning = load_known_network(settings.weights) if settings.weights else (None, None)
        if earlier and recipe.deepens and not recipe.depth:
            recipe = replace(recipe, depth=depth_to_go_on(earlier))
        class_names, *parts = find_labelled_photos(settings.data or [demo_folder()], settings.seed)
        teacher = load_teacher(settings, class_names)
        locator = load_locator(settings, class_names, math.ceil(recipe.batch_size / share.hosts))
        meaning = meaning_of(recipe, class_names, earlier_meaning)
        source = (earlier, earlier_meaning.class_names == class_names) if earlier else None
        found = dict(zip(("train", "val"), parts, strict=True))
        check_fits(recipe, meaning, len(found["train"]), dtype_policy(settings.dtype), share)
    cache = sibling(settings.output, "photos.h5")
    photos, failed = first_before_others(share, lambda first: load_photos(found, meaning, cache, write=first))
    return Materials(recipe, meaning, found, photos, failed, source, teacher, locator)


@usual_settings()
def main(arguments=None):
    settings = parse_arguments(arguments)
    with joined(settings) as share, contextlib.ExitStack() as held:
        with together(share):
            if share.host == 0:
                held.enter_context(OnlyWriter(settings.output.parent, settings.output.name))
        return run(settings, share)


def run(settings, share):
    """Train as the user asked, this process's share of it; returns the exit code."""
    output, state_path = settings.output, sibling(settings.output, "state.h5")
    with together(share):
        check_not_lost(output, state_path, settings)
        goes_on, finished = settings.resume and state_path.exists(), output.exists() and not state_path.exists()
        earlier = settings_of_finished(sibling(output, "run.json"), output) if settings.resume and finished else None
    materials = load_data(settings, recipe_of(settings), share)
    meaning, photos, failed, teacher = materials.meaning, materials.photos, materials.failed, materials.teacher
    fixed = decisive_settings(settings, materials.recipe, meaning, photos)
    fixed |= decisive_for_teaching(settings, teacher) | decisive_for_locating(materials.locator)
    check_agreement(share, fixed | {"what is there to resume": [goes_on, bool(earlier)]})
    if earlier:
        check_same(output, earlier, fixed)
        print(f"{output} is finished; to train it anew use --overwrite")
        return 0
    with together(share):
        if goes_on:
            check_state(state_path, fixed)  # before a teacher is asked for an hour
    print(f"training {settings.recipe} on {device_name()}, {fixed['dtype']}", flush=True)
    lesson = None
    if teacher:  # the others read the answers that the first was given
        asked = settings, teacher, materials.recipe, meaning, materials.found["train"], failed
        lesson = first_before_others(share, lambda _: prepare_lesson(*asked))
    network, history = train(materials, state_path, fixed, settings.resume, lesson, share)
    code = EXIT_SOME_FAILED if failed or not np.isfinite(history[-1]["loss"]) else 0
    with together(share):
        if share.host == 0:
            code = max(code, write_results(network, meaning, photos, failed, history, settings, fixed))
    return code


if __name__ == "__main__":
    run_script(main, go_on="with --resume the same command goes on from the last whole epoch")
