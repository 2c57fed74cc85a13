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
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # which python -I and -P leave out

from camlib.console import EXIT_SOME_FAILED, ArgumentParser, run_script, whole_number
from camlib.files import refuse_if_held
from camlib.networks.reader import check_source
from camlib.options import (
    add_host_options,
    add_pixel_option,
    add_teacher_options,
    check_host_options,
    check_teacher_options,
)
from camlib.photos import find_photos
from camlib.training import check_not_lost, sibling, watched_files
from camlib.training.class_folders import find_labelled_photos
from camlib.training.recipes import RECIPES, recipe_of

# ---------------------------------------------------------------- settings

OUTPUT = Path("outputs/training/cam_4class.h5")

# ---------------------------------------------------------------- options


def parse_arguments(arguments=None):
    parser = ArgumentParser(__doc__)
    data = parser.add_argument_group("photos and network")
    data.add_argument("--data", type=Path, nargs="+", metavar="DIR", help="class folders; default: the demo set")
    data.add_argument(
        "--others",
        type=Path,
        nargs="+",
        metavar="DIR",
        help="photos of none of the classes, whose answer shall be even: networks are sure of anything else",
    )
    add_pixel_option(data)
    data.add_argument("--recipe", choices=RECIPES, default="modern", help="network, loss and schedule")
    data.add_argument(
        "--weights",
        metavar="FILE|imagenet",
        help="start from this network's convolutions and, of the same classes, all of it; imagenet, for "
        "--recipe vgg16: Keras's own; default: from random ones",
    )
    data.add_argument("--size", type=int, metavar="PIXELS", help="height and width; default: the recipe's")
    data.add_argument(
        "--depth",
        type=int,
        metavar="N",
        help="convolutions of --recipe modern; default: 7, or those of --weights if more",
    )
    training = parser.add_argument_group("training")
    training.add_argument("--learning-rate", type=float, metavar="RATE", help="at its highest; default: the recipe's")
    training.add_argument("--epochs", type=int, metavar="N", help="the most epochs; default: the recipe's")
    training.add_argument("--batch-size", type=int, metavar="N", help="photos in a step; default: the recipe's")
    training.add_argument(
        "--seed",
        type=whole_number(0, 2**32 - 1),
        default=0,
        metavar="N",
        help="of weights, order, augmentation and split",
    )
    training.add_argument(
        "--dtype",
        choices=("auto", "float32", "bfloat16", "float16"),
        default="auto",
        help="of the arithmetic; auto: half precision where the device is fast at it",
    )
    add_teacher_options(parser.add_argument_group("teacher and locator"))
    add_host_options(parser.add_argument_group("several hosts"))
    output = parser.add_argument_group("output")
    output.add_argument("--output", type=Path, default=OUTPUT, metavar="FILE.h5", help="the network")
    output.add_argument(
        "--watch",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="draw the maps of these photos, or of a folder's, after each epoch, and a film (GIF) of all epochs",
    )
    output.add_argument("--half", action="store_true", help="store the weights as float16, half the size")
    earlier = output.add_mutually_exclusive_group()
    earlier.add_argument("--resume", action="store_true", help="go on from the last whole epoch")
    earlier.add_argument("--overwrite", action="store_true", help="train anew over an earlier result")
    args = parser.parse_args(arguments)
    if args.output.suffix != ".h5" or args.output.name.endswith(".weights.h5"):
        parser.error(f"--output {args.output}: expected a name ending in .h5, not in .weights.h5")
    recipe = RECIPES[args.recipe]
    fewest = 2 if recipe.training_form else 1  # of a single photo, batch normalisation leaves nothing
    parser.require(args, epochs=1, size=recipe.smallest, batch_size=fewest, depth=1)
    if args.depth and not recipe.deepens:
        parser.error(f"--depth {args.depth}: expected --recipe modern, since the others' depth is what they are")
    if recipe.cut and (args.batch_size or recipe.batch_size) % 4:
        parser.error(f"--batch-size {args.batch_size}: expected a multiple of 4, since four photos make a mosaic")
    if args.learning_rate is not None and not 0 < args.learning_rate < 1:
        parser.error(f"--learning-rate {args.learning_rate}: expected a number between 0 and 1")
    check_teacher_options(parser, args, recipe.loss)
    check_host_options(parser, args)
    if args.watch and args.host:
        parser.error("--watch draws in one process; expected no --host")
    return args


# ---------------------------------------------------------------- the script


def main(arguments=None):
    args = parse_arguments(arguments)
    # of several hosts, all have to learn of an error before they end, see `together`
    labelled = None if args.host else check_first(args)
    import camlib.backend  # noqa: I001 - first of all: it starts Keras without its start-up lines
    from camlib.files import only_writer
    from camlib.training.hosts import joined_hosts, together

    with camlib.backend.usual_settings(), joined_hosts(args) as share, contextlib.ExitStack() as held:
        with together(share):
            if share.host == 0:
                held.enter_context(only_writer(args.output.parent, args.output.name))
        return run(args, share, labelled)


def check_first(args):
    """Find what is wrong with files and folders before Keras is begun, which takes many seconds.

    Returns:
        what `find_labelled_photos` finds in the user's folders; None of the demo set.

    Raises:
        UserError: there is an earlier result, or another process writes one; a network is none, or the folders hold no
            classes.
    """
    refuse_if_held(args.output.parent, args.output.name)
    check_not_lost(args)
    if args.watch:
        watched_files(args.watch)
    for network in filter(None, (args.weights, args.teacher, args.locator)):
        check_source(network)
    if args.others:
        find_photos(args.others)
    return find_labelled_photos(args.data, args.seed, most_pixels=args.most_pixels) if args.data else None


def run(args, share, labelled):
    """Train as the user asked, this process's share of it; returns the exit code.

    Args:
        args: the user's.
        share: Share.
        labelled: what `check_first` returns.
    """
    import numpy as np

    from camlib.backend import device_name
    from camlib.training.distillation import prepare_lesson
    from camlib.training.fitting import load_data, train
    from camlib.training.hosts import check_hosts_agree, first_before_others, together
    from camlib.training.results import WatchedMaps, write_missing, write_results
    from camlib.training.state import check_same, decisive_settings, read_state, record_of_finished

    output, state_path = args.output, sibling(args.output, "state.npz")
    with together(share):
        check_not_lost(args)
        goes_on, finished = args.resume and state_path.exists(), output.exists() and not state_path.exists()
        earlier = record_of_finished(sibling(output, "run.json"), output) if args.resume and finished else None
    materials = load_data(args, recipe_of(args), share, labelled)
    fixed = decisive_settings(args, materials)
    check_hosts_agree(share, fixed | {"what is there to resume": [goes_on, bool(earlier)]})
    if earlier:
        with together(share):
            check_same(output, earlier["settings"], fixed)
            return 0 if share.host else write_missing(materials, earlier, args)
    with together(share):
        if goes_on:  # before a teacher is asked for an hour
            check_same(state_path, read_state(state_path)[0]["settings"], fixed)
    print(f"training {args.recipe} on {device_name()}, {fixed['dtype']}", flush=True)
    lesson = None
    if materials.teacher:  # the others read the answers that the first was given
        lesson = first_before_others(share, lambda _: prepare_lesson(args, materials))
    watch = partial(WatchedMaps, args.watch, sibling(output, "watched")) if args.watch else None
    network, history = train(materials, state_path, fixed, args.resume, lesson, share, watch)
    code = EXIT_SOME_FAILED if materials.failed or not np.isfinite(history[-1]["loss"]) else 0
    with together(share):
        if share.host == 0:
            code = max(code, write_results(network, materials, history, args, fixed))
    return code


if __name__ == "__main__":
    run_script(main, go_on="with --resume the same command goes on from the last whole epoch")
