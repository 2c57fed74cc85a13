"""Trainings of seconds: photos of four colours, and train_cam_4class.py with a network of two small convolutions.

    python tests/tools/small_training.py --data ...

is the script with that network. It is killed after its first epoch where DIES is in the environment, or where that is
"before its report" when the network is finished.
"""

import os
import runpy
import signal
import sys
from pathlib import Path

import h5py
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
COLOURS = {"dog": (200, 60, 60), "cat": (60, 200, 60), "horse": (60, 60, 200), "bird": (200, 200, 60)}
CONVOLUTIONS = ((8, 1), (8, 1))
VGG16_BLOCKS = [(1, 8), (1, 16), (1, 32), (1, 64), (3, 64)]  # of an eighth of its width: little to compile
QUICK = ["--size", "32", "--batch-size", "8", "--dtype", "float32"]


def colour_files(count=7, horses=3):
    """The photos of classes that differ in colour, as for `photo_folder`; of horses there are fewer."""
    counts = dict.fromkeys(COLOURS, count) | {"horse": horses}
    return {f"{name}/{number}.png": COLOURS[name] for name, count in counts.items() for number in range(count)}


def assert_same_training(one, other, atol=0.0):
    """Two folders have a net.h5 of the same weights and history: the very same, or but for the order of sums."""
    histories = [np.loadtxt(folder / "net_history.csv", delimiter=",", skiprows=1) for folder in (one, other)]
    np.testing.assert_allclose(*histories, rtol=atol / 10)
    assert len(histories[0]) > 1
    with h5py.File(one / "net.weights.h5") as whole, h5py.File(other / "net.weights.h5") as resumed:
        names = []
        whole.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
        assert len(names) > 4
        for name in names:
            np.testing.assert_allclose(whole[name][()], resumed[name][()], rtol=0, atol=atol, err_msg=name)


def die_after_an_epoch():
    from camlib.training.state import TrainingState

    save = TrainingState.save

    def save_and_die(state):
        save(state)
        os.kill(os.getpid(), signal.SIGKILL)

    TrainingState.save = save_and_die


def die_before_the_report():
    import camlib.training.results

    camlib.training.results.report_training = lambda *_: os.kill(os.getpid(), signal.SIGKILL)


def main():
    import camlib.backend  # noqa: I001 - first of all: it starts Keras without its start-up lines
    import camlib.networks.architectures

    camlib.networks.architectures.MODERN_CONVOLUTIONS = CONVOLUTIONS
    if "DIES" in os.environ:
        die_before_the_report() if os.environ["DIES"] == "before its report" else die_after_an_epoch()
    runpy.run_path(str(ROOT / "train_cam_4class.py"), run_name="__main__")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
