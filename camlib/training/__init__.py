"""Training: photos of classes, batches, what is learnt from, state and results."""

from camlib.console import UserError

TEACHING = ("teacher_sees", "temperature", "label_share")  # options that decide what is learnt from a teacher


def sibling(output, ending):
    """The file beside the network that shares its name: mine.h5 -> mine_history.csv."""
    return output.with_name(f"{output.stem}_{ending}")


def check_not_lost(args):
    """Refuse to train over an earlier result that the user did not ask to continue or to replace."""
    earlier = next((path for path in (args.output, sibling(args.output, "state.npz")) if path.exists()), None)
    if earlier and not args.resume and not args.overwrite:
        raise UserError(f"{earlier} exists; expected --resume to go on, --overwrite to train anew, or another --output")
