"""Draw the demo set: small illustrations of dogs, cats, horses and birds with exact masks.

    python data/draw_demo.py

takes about 20 s on one core and fills data/demo (about 9 MB) with 128x128 pictures: train/ and val/ with
one animal each, both/ with two animals of different classes, masks/ with one PNG per animal (255 where the
animal covers at least half of the pixel, else 0) and annotations.json with one record per animal. Backgrounds
and coat colours come from the same distribution for every class, so that only the animal's shape tells the
class. Each picture depends on its seed, split, class and index alone. The last lines say what was written
where and the next command.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, its own folder alone is searched

from camlib.console import ArgumentParser, command, run_script, whole_number  # noqa: E402
from camlib.demo.scenes import DEMO_FOLDER, draw_demo  # noqa: E402


def parse_arguments(arguments=None):
    parser = ArgumentParser(__doc__)
    some, any_number = whole_number(1, 10000), whole_number(0, 10000)
    parser.add_argument(
        "--output", type=Path, default=DEMO_FOLDER, metavar="DIR", help="folder to write; default: data/demo"
    )
    parser.add_argument("--seed", type=whole_number(0, 2**32 - 1), default=0, metavar="N", help="another set for each")
    parser.add_argument("--train", type=some, default=200, metavar="N", help="training pictures per class")
    parser.add_argument("--val", type=some, default=50, metavar="N", help="validation pictures per class")
    parser.add_argument("--both", type=any_number, default=50, metavar="N", help="pictures with two animals")
    parser.add_argument("--size", type=whole_number(32, 512), default=128, metavar="N", help="side in pixels")
    return parser.parse_args(arguments)


def main(arguments=None):
    settings = parse_arguments(arguments)
    counts = draw_demo(settings.output, settings.seed, settings.train, settings.val, settings.both, settings.size)
    print(
        f"wrote {counts['train']} train, {counts['val']} val and {counts['both']} both pictures, "
        f"{counts['masks']} masks and annotations.json to {settings.output}"
    )
    is_demo = settings.output.resolve() == DEMO_FOLDER.resolve()  # which scripts take where nothing else is named
    own = ["--output", Path("outputs", f"cam_of_{settings.output.name}")]
    places = [] if is_demo else [settings.output / "val", *own]
    print(f"next: {command('make_cam_maps.py', *places)}")
    return 0


if __name__ == "__main__":
    run_script(main)
