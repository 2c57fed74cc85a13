"""Training: photos of classes, batches, what is learnt from, state and results."""

from camlib.console import UserError
from camlib.photos.places import files_of
from camlib.runs import MOST_SHOWN

TEACHING = ("teacher_sees", "temperature", "label_share")  # options that decide what is learnt from a teacher


def sibling(output, ending):
    """The file beside the network that shares its name: mine.h5 -> mine_history.csv."""
    return output.with_name(f"{output.stem}_{ending}")


def check_not_lost(args):
    """Refuse to train over an earlier result that the user did not ask to continue or to replace."""
    earlier = next((path for path in (args.output, sibling(args.output, "state.npz")) if path.exists()), None)
    if earlier and not args.resume and not args.overwrite:
        raise UserError(f"{earlier} exists; expected --resume to go on, --overwrite to train anew, or another --output")


def watched_files(places):
    """The photos to watch: list of Photo.

    Raises:
        UserError: one is not there, or they are more than a picture shows.
    """
    if not places:
        raise UserError("photos to watch are no files; expected paths of photos or folders")
    if missing := [place for place in places if not place.exists()]:
        raise UserError(f"{missing[0]} does not exist; expected a photo or a folder of photos")
    files = files_of(places)
    if len(files) > MOST_SHOWN:
        raise UserError(f"{len(files):,} photos to watch; expected at most {MOST_SHOWN}")
    return files
