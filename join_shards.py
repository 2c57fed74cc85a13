"""Make one run of the shards in a folder: what make_cam_maps.py or gradcam_vgg16.py without --shard would have written.

    python make_cam_maps.py my_photos --shard 1/2    # on two machines that share outputs/cam,
    python make_cam_maps.py my_photos --shard 2/2    # or in a job array: --shard slurm
    python join_shards.py outputs/cam

The maps are in place already. The shards' lists become one predictions.csv, and one failed.csv if a photo failed, in
the order of a single run; then the same command without --shard goes on in the folder. Shards that are not finished are
named, and nothing is changed; what is joined already stays as it is. Looking at maps needs no joining, and joining
neither the network nor the photos.
"""

from pathlib import Path

from camlib.console import EXIT_SOME_FAILED, ArgumentParser, command, counted, run_script
from camlib.runs.shards import FAILED_FILE, PREDICTIONS_FILE, join_shards


def parse_arguments(arguments=None):
    parser = ArgumentParser(__doc__)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="where the shards wrote")
    return parser.parse_args(arguments)


def main(arguments=None):
    folder = parse_arguments(arguments).folder
    shards, failed = join_shards(folder)
    if shards is None:
        print(f"{folder} is one run: nothing is left to join")
    else:
        done = counted(shards["photos"] - len(failed), "photo")
        print(f"joined {counted(shards['count'], 'shard')}: {done} in {folder / PREDICTIONS_FILE}")
    print(f"next: {command('show_heatmaps.py', folder)}")
    if failed:
        print(f"{counted(len(failed), 'photo')} left out: see {folder / FAILED_FILE}")
    return EXIT_SOME_FAILED if failed else 0


if __name__ == "__main__":
    run_script(main)
