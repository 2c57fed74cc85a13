"""Training a network: what it is trained on, how it is built, and the fit that can be resumed."""

import math
from dataclasses import dataclass, replace

import keras

from camlib.backend import ALONE, all_devices
from camlib.console import counted
from camlib.demo.scenes import demo_folder
from camlib.memory import check_training
from camlib.networks.architectures import (
    depth_to_go_on,
    fold,
    modern_network,
    original_network,
    per_cell,
    start_from,
    vgg16_network,
)
from camlib.networks.checkpoint import load_known_network
from camlib.photos import find_photos
from camlib.preprocessing import InputSpec
from camlib.training import sibling
from camlib.training.attention import Locator, centre_classes, located
from camlib.training.batches import Batches, PlainBatches
from camlib.training.class_folders import find_labelled_photos, load_photos
from camlib.training.distillation import Teacher, label_metrics
from camlib.training.hosts import first_before_others, together
from camlib.training.recipes import Recipe
from camlib.training.state import TrainingProgress, TrainingState, dtype_policy

STATISTICS_PHOTOS = 64  # about as many tell the statistics of the features of a network to start from
MODEST_BATCH = 2_000_000  # pixels of a training batch that is not worth building a network for to trace it
ARCHITECTURES = {"modern": modern_network, "original": original_network, "vgg16": vgg16_network}


def optimizer_of(recipe, steps):
    """The recipe's optimizer: the original's RMSprop, or AdamW with a schedule.

    The schedule warms up over the first twentieth of the steps and ends, as a cosine, at a thousandth of the peak.
    """
    peak = recipe.learning_rate
    if recipe.optimizer == "rmsprop":
        return keras.optimizers.RMSprop(peak)
    warm_up = max(1, steps // 20)
    schedule = keras.optimizers.schedules.CosineDecay(
        peak / 100, max(1, steps - warm_up), alpha=1e-3, warmup_target=peak, warmup_steps=warm_up
    )
    return keras.optimizers.AdamW(schedule, weight_decay=0.05)


# ---------------------------------------------------------------- what is trained, and on what


@dataclass(frozen=True)
class Materials:
    """What is trained, and on what.

    Attributes:
        recipe: Recipe, as deep as the network to start from where nothing else was asked.
        input_spec: InputSpec, of the network to be.
        found: {"train": list of (Photo, label), "val": the same}; those of no class are labelled as one more.
        photos: {"train": LabelledPhotos, "val": LabelledPhotos}, those of `found` that can be read.
        failed: list of (path, reason), those that cannot.
        photos_sha256: str, of `photos`.
        source: (keras.Model to start from, bool: its outputs mean the same classes), or None.
        teacher: Teacher, or None.
        locator: Locator, or None.
    """

    recipe: Recipe
    input_spec: InputSpec
    found: dict
    photos: dict
    failed: list
    photos_sha256: str
    source: tuple | None
    teacher: Teacher | None
    locator: Locator | None


def input_spec_of(recipe, class_names, earlier):
    """The InputSpec of a network to be. What becomes of a pixel the network to start from says, else the recipe."""
    input_spec = InputSpec(
        class_names, recipe.size, recipe.size, recipe.channels, recipe.scale, interpolation=recipe.interpolation
    )
    if earlier is None:
        return input_spec
    return replace(input_spec, **{name: getattr(earlier, name) for name in ("channels", "scale", "offset", "bgr")})


def load_data(args, recipe, share, labelled=None):
    """The Materials that the user asked for; the first host decodes.

    Args:
        args: the user's.
        recipe: Recipe.
        share: Share.
        labelled: what `find_labelled_photos` returned, where that was called already.
    """
    with together(share):
        earlier, earlier_spec = load_known_network(args.weights) if args.weights else (None, None)
        if earlier and recipe.deepens and not recipe.depth:
            recipe = replace(recipe, depth=depth_to_go_on(earlier))
        if earlier and recipe.normalised:
            recipe = replace(recipe, training_form=False)
        class_names, *parts = labelled or find_labelled_photos(
            args.data or [demo_folder()], args.seed, most_pixels=args.most_pixels
        )
        dtype, teacher, locator = dtype_policy(args.dtype), None, None
        if args.teacher:
            # float32 by default: on a CPU bfloat16 halves VGG-16's time, but doubles that of depthwise convolutions
            of_teacher = "float32" if args.dtype == "auto" else args.dtype
            teacher = Teacher(args.teacher, class_names, args.teacher_size, of_teacher)
        if args.locator:
            size, views = args.locator_size, math.ceil(recipe.batch_size / share.hosts)
            locator = Locator(args.locator, class_names, size, dtype.removeprefix("mixed_"), views)
        input_spec = input_spec_of(recipe, class_names, earlier_spec)
        source = (earlier, earlier_spec.class_names == class_names) if earlier else None
        found = dict(zip(("train", "val"), parts, strict=True))
        others = find_photos(args.others, args.most_pixels) if args.others else []
        found["train"] = found["train"] + [(photo, len(class_names)) for photo in others]
        check_fits(recipe, input_spec, len(found["train"]), dtype, share)
    cache = sibling(args.output, "photos.npy")
    loaded = first_before_others(share, lambda first: load_photos(found, input_spec, cache, write=first))
    return Materials(recipe, input_spec, found, *loaded, source, teacher, locator)


# ---------------------------------------------------------------- the fit


def build(recipe, class_count, for_training=True):
    """The network, in the form that is trained or in the one to keep."""
    form = {"for_training": for_training} if recipe.training_form else {}
    depth = {"depth": recipe.depth} if recipe.deepens else {}
    return ARCHITECTURES[recipe.network](class_count, recipe.channels, **form, **depth)


def check_fits(recipe, input_spec, photo_count, dtype, share):
    """Refuse what would not fit into memory, before a photo is decoded, see `camlib.memory.check_training`."""
    side, batch_size = recipe.cut or recipe.size, min(recipe.batch_size, photo_count)
    if batch_size * side**2 > MODEST_BATCH:
        keras.config.set_dtype_policy(dtype)
        network = build(recipe, len(input_spec.class_names))
        keras.config.set_dtype_policy("float32")
        shape, least = (side, side, recipe.channels), 4 if recipe.cut else 1
        check_training(network, shape, recipe.size, batch_size, share.devices, least)


def train(materials, state_path, fixed, resume, lesson=None, share=ALONE, watch=None):
    """Train one network.

    Args:
        materials: Materials.
        state_path: Path of the file that --resume goes on from.
        fixed: dict with seed (of weights, order and augmentation), epochs (the most; the schedule ends there),
            dtype (Keras's policy), and whatever else must be the same when training is resumed.
        resume: bool, go on from `state_path` if it exists.
        lesson: Lesson, of the teacher, or None.
        share: Share, this process's part of the work.
        watch: function of the network and its InputSpec -> WatchedMaps, or None.

    Returns:
        (network, history): keras.Model in float32 with the weights of the lowest val_loss, and a list of dicts, one
        per epoch.
    """
    recipe, input_spec, photos, locator = materials.recipe, materials.input_spec, materials.photos, materials.locator
    seed, epochs = fixed["seed"], fixed["epochs"]
    keras.utils.set_random_seed(seed)
    class_count = len(input_spec.class_names)
    batches = Batches(photos["train"], input_spec, recipe, seed, lesson, share, locator)
    keras.config.set_dtype_policy(fixed["dtype"])
    start = None
    if materials.source:  # on one device, since it is little work
        start, images = build(recipe, class_count), photos["train"].images
        earlier, same_classes = materials.source
        start_from(start, earlier, input_spec.prepare(images[:: -(-len(images) // STATISTICS_PHOTOS)]), same_classes)
        keras.utils.set_random_seed(seed)  # so that building it anew takes the same random numbers
    with all_devices():
        network = build(recipe, class_count)
        if start:
            network.set_weights(start.get_weights())
        if locator:  # the same layers, asked what the batches ask
            trained = located(network, recipe.cut)
        else:
            trained = per_cell(network, recipe.cut) if recipe.cut else keras.Model(network.inputs, network.outputs)
        network.compile(loss=recipe.loss, weighted_metrics=label_metrics(class_count))
        optimizer = optimizer_of(recipe, epochs * len(batches))
        loss = lesson.loss if lesson else recipe.loss
        trained.compile(optimizer, loss, weighted_metrics=[], metrics=label_metrics(class_count))
        validation = PlainBatches(photos["val"], input_spec, recipe.batch_size, share)
        state = TrainingState(state_path, network, batches, validation, recipe.patience, fixed)
        done = state.restore(trained) if resume else 0
        watched = [watch(network, input_spec)] if watch else []
        for one in watched:
            one.go_on(done)
        if done < epochs and not state.finished:
            parameters, steps = counted(network.count_params(), "parameter"), counted(len(batches), "step")
            print(f"{parameters}, {steps} an epoch", flush=True)
            callbacks = [state, *watched, TrainingProgress(epochs, len(batches), recipe.patience)]
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
