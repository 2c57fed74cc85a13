"""Turn a data set as downloaded into class folders for train_cam_4class.py.

    python data/prepare.py cifar-10-binary.tar.gz
    python data/prepare.py stl10_binary.tar.gz
    python data/prepare.py images.tar.gz annotations.tar.gz      # the Oxford-IIIT Pet data set
    python data/prepare.py train.zip                             # Kaggle's Dogs vs. Cats
    python data/prepare.py kagglecatsanddogs_5340.zip            # the same photos, from Microsoft
    python data/prepare.py archive.zip                           # Animals-10
    python data/prepare.py stl10_binary.tar.gz --classes all --output data/stl10_all

Nothing is downloaded: bring the archives, under whatever names. Dogs, cats, horses and birds are kept unless --classes
says otherwise. What the data set tests with becomes val/, where it has such a part; others become class folders, of
which training sets 15 % aside. Each photo is decoded once; what is damaged is listed in failed.csv and left out, and
the exit code is 1. The same command again does only what is missing. Ends with the photos of each class and the next
command.
"""

import shlex
import sys
import warnings
from collections import Counter
from pathlib import Path

sys.path[:0] = map(str, Path(__file__).resolve().parents[:2])  # however it is run: what lies beside it, and camlib

from archives import MemberError  # noqa: E402
from data_sets import DATA_SETS, kept_classes, recognise  # noqa: E402
from PIL import Image  # noqa: E402

from camlib.console import EXIT_SOME_FAILED, ArgumentParser, Progress, UserError, print_table, run_script  # noqa: E402
from camlib.files import read_json, write_json, write_whole  # noqa: E402
from camlib.photos import PhotoError, in_parallel, read_photo  # noqa: E402
from camlib.runs.claim import write_failed  # noqa: E402
from camlib.runs.shards import FAILED_FILE  # noqa: E402

RECORD_FILE = "prepared.json"
ENOUGH_SIDE = 32  # pixels at which a JPEG is decoded to see whether it is whole; every byte of it is read all the same
PICTURES_AHEAD = 16  # photos in memory at a time


def claim_output(output, record):
    """Make the output folder, or go on in the one that the same command made before.

    Raises:
        UserError: it holds other files, or another data set or other classes.
    """
    path = output / RECORD_FILE
    if path.is_file():
        try:
            earlier = read_json(path)
            names = ", ".join(earlier["classes"][:5])
            held = f"{earlier['data set']} with {len(earlier['classes'])} classes ({names})"
        except (ValueError, KeyError, TypeError):
            earlier, held = None, f"a {RECORD_FILE} that cannot be read"
        if earlier != record:
            raise UserError(f"{output} holds {held}; expected another --output")
    elif output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"{output} holds other files; expected a new or empty folder for --output")
    output.mkdir(parents=True, exist_ok=True)
    write_json(path, record)


def contents_of(items, output):
    """Yield (SourcePicture, its path, its content), read in the archive's order.

    Args:
        items: iterator as of DataSet.read.
        output: Path.

    Yields:
        The content is bytes of a picture file or pixels uint8 (H, W, 3), None where it is written already, or a
        PhotoError that says why there is none.
    """
    seen = set()
    for item in items:
        path = output / item.part / item.class_name / item.file_name
        try:
            if path in seen:
                raise MemberError(f"the second of the name {item.file_name}")
            content = None if path.is_file() else item.read()
        except MemberError as error:
            content = PhotoError(str(error))
        if item.file_name:
            seen.add(path)
        yield item, path, content


def write_checked_picture(found):
    """Write one picture, under its name only when it is whole and can be decoded.

    Args:
        found: as `contents_of` yields it.

    Raises:
        PhotoError: it cannot be read or decoded.
    """
    _, path, content = found

    def write(file):
        if isinstance(content, bytes):
            file.write(content)
            file.flush()
            read_photo(Path(file.name), ENOUGH_SIDE)
        else:
            Image.fromarray(content).save(file, "PNG")

    if isinstance(content, PhotoError):
        raise content
    if content is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, write)


def write_items(total, items, output):
    """Write what is missing of a data set.

    Args:
        total: int, how many items there are.
        items: iterator as of DataSet.read.
        output: Path.

    Returns:
        (present, failed): Counter of (part, class) and list of (source, reason).
    """
    present, failed = Counter(), []
    with Progress("photos", total) as progress:
        for (item, *_), error in in_parallel(write_checked_picture, contents_of(items, output), PICTURES_AHEAD):
            if isinstance(error, PhotoError):
                failed.append((item.source, str(error)))
            else:
                present[item.part, item.class_name] += 1
            progress.advance()
    return present, failed


def parse_arguments(arguments):
    parser = ArgumentParser(__doc__)
    parser.add_argument("archives", type=Path, nargs="+", metavar="ARCHIVE", help="of one data set, as downloaded")
    parser.add_argument(
        "--classes",
        nargs="+",
        metavar="all|NAME",
        help="which classes to keep; default: those of dog, cat, horse, bird that it has",
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder to write; default: data/<data set>")
    return parser.parse_args(arguments)


def main(arguments=None):
    settings = parse_arguments(arguments)
    key, archives = recognise(settings.archives)
    data_set, output = DATA_SETS[key], settings.output or Path("data", key)
    classes = kept_classes(data_set, settings.classes)
    print(f"{data_set.title}: {', '.join(classes)}, into {output}", flush=True)
    total, items = data_set.read(archives, set(classes))
    claim_output(output, {"data set": data_set.title, "classes": classes})
    with warnings.catch_warnings(action="ignore"):  # Pillow's, of odd metadata in photos that are whole
        present, failed = write_items(total, items, output)
    write_failed(output / FAILED_FILE, failed)
    parts = sorted({part for part, _ in present})
    rows = [[name, *(f"{present[part, name]:,}" for part in parts)] for name in classes]
    print_table("photos", ["class", *(part or "photos" for part in parts)], rows)
    print(f"{present.total():,} photos of {len(classes)} classes are in {output}")
    if failed:
        print(f"{len(failed):,} could not be used: see {output / FAILED_FILE}")
    empty = [name for name in classes if not all(present[part, name] for part in parts)]
    if empty or not parts:
        raise UserError(f"no photo of {', '.join(empty)} in {output}; expected the data set's own archive")
    network = shlex.quote(f"outputs/training/{output.resolve().name}.h5")
    print(f"next: python train_cam_4class.py --data {shlex.quote(output.as_posix())} --output {network}")
    return EXIT_SOME_FAILED if failed else 0


if __name__ == "__main__":
    run_script(main)
