"""What a GPU does with VGG-16 under JAX: time of a photo, share of the chip's matrix rate, largest batch.

    KERAS_BACKEND=jax python benchmarks/speed_chip.py --docs docs/speed.md      # a few minutes on a GPU; no TensorFlow
    KERAS_BACKEND=jax python benchmarks/speed_chip.py --quick                   # does it run? on any device

The matrix rate is measured: products of two large square matrices. A share is the arithmetic of one forward pass, which
Grad-CAM needs hardly more of, by the time it takes and by that rate. Each is timed twice: with photos that come from
NumPy and maps that go back there, as in the scripts, and with photos that are on the device. The largest batch is the
last of 1, 2, 4, ... that the device's memory holds, of which JAX takes three quarters unless
XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise. Writes speed_chip.csv.
"""

import csv
import io
import math
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.speed import OUTPUT, QUICK_SIZE, hardware, photos, versions
from benchmarks.speed_cases import CASES, Setup
from benchmarks.speed_table import fill, markdown_table
from benchmarks.speed_tools import keras_network, ours
from camlib.backend import BACKEND, device_name
from camlib.console import ArgumentParser, UserError, run_script
from camlib.files import write_whole

KINDS = ("forward", "grad-cam", "all-three")
SIDE, QUICK_SIDE = 8192, 256  # of the matrices
FULL = ("RESOURCE_EXHAUSTED", "out of memory", "OOM")  # how a device says that its memory is full
COLUMNS = (
    "map",
    "numbers",
    "batch",
    "ms a photo",
    "ms, photos on the device",
    "share of the matrix rate",
    "matrix rate, TFLOP/s",
    "largest batch",
)


def parse_arguments(arguments=None):
    parser = ArgumentParser(__doc__)
    parser.add_argument("--batch", type=int, default=64, metavar="N", help="photos at once")
    parser.add_argument("--most", type=int, default=4096, metavar="N", help="the largest batch that is tried")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="of which the median is taken")
    parser.add_argument("--dtypes", nargs="+", choices=("float32", "bfloat16"), default=["bfloat16", "float32"])
    parser.add_argument("--quick", action="store_true", help="a small network, a batch of 1")
    parser.add_argument("--output", type=Path, default=OUTPUT, metavar="DIR", help="folder of speed_chip.csv")
    parser.add_argument("--docs", nargs="+", type=Path, default=[], metavar="PAGE", help="put the table there as well")
    settings = parser.parse_args(arguments)
    parser.require(settings, batch=1, most=1, rounds=1)
    if BACKEND != "jax":
        parser.error("the backend is not JAX; expected KERAS_BACKEND=jax")
    if settings.quick:
        settings.batch, settings.most, settings.rounds = 1, 1, 2
    return settings


def median_seconds(function, rounds):
    """The median of a function's times, after a first call that compiles."""
    function()
    taken = []
    for _ in range(rounds):
        began = time.perf_counter()
        function()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def matrix_rate(side, dtype, rounds):
    """Multiplications and additions a second of products of two matrices (side, side)."""
    import jax

    one, other = (jax.random.normal(jax.random.key(seed), (side, side), dtype) for seed in range(2))
    product = jax.jit(lambda one, other: one @ other)
    return 2 * side**3 / median_seconds(lambda: product(one, other).block_until_ready(), rounds)


def forward_operations(network, size):
    """Multiplications and additions of one photo's forward pass, those of convolutions and Dense layers."""
    from keras import Model, layers

    counted = [layer for layer in network.layers if isinstance(layer, (layers.Conv2D, layers.Dense))]
    shapes = Model(network.inputs, [layer.output for layer in counted]).compute_output_shape((1, size, size, 3))
    return sum(
        2 * math.prod(shape[1:-1]) * math.prod(layer.kernel.shape) for shape, layer in zip(shapes, counted, strict=True)
    )


def largest_that_runs(run, most):
    """The last of 1, 2, 4, ... up to `most` for which run(n) does not fill the device's memory; 0 if none.

    What `run` raises otherwise is raised.
    """
    largest, count = 0, 1
    while count <= most:
        try:
            run(count)
        except Exception as error:  # each backend and version raises a class of its own
            if not isinstance(error, MemoryError) and not any(word in str(error) for word in FULL):
                raise
            break
        largest, count = count, 2 * count
    return largest


def maker(kind, dtype, images, quick):
    """The function that makes one kind of map of images, NumPy's or the device's."""
    forward, make, _ = ours(Setup("ours-jax", kind, dtype, "", "", quick), images)
    return forward if kind == "forward" else make


def measure(settings, dtype):
    """The table's lines of one dtype, list of dict."""
    import jax

    size = QUICK_SIZE if settings.quick else CASES["forward"].size
    network, _ = keras_network(Setup("ours-jax", "forward", dtype, "", "", settings.quick))
    operations = forward_operations(network, size)
    rate = matrix_rate(QUICK_SIDE if settings.quick else SIDE, dtype, settings.rounds)
    lines, images = [], photos(settings.batch, size)
    for kind in KINDS:
        seconds, alone = (
            median_seconds(maker(kind, dtype, source, settings.quick), settings.rounds) / settings.batch
            for source in (images, jax.device_put(images))
        )

        def run(count, kind=kind):
            maker(kind, dtype, photos(count, size), settings.quick)()

        largest = largest_that_runs(run, settings.most)
        share = "" if kind == "all-three" else f"{operations / alone / rate:.2f}"
        more = " or more" if largest and 2 * largest > settings.most else ""
        values = (
            CASES[kind].title,
            dtype,
            str(settings.batch),
            f"{1000 * seconds:.3g}",
            f"{1000 * alone:.3g}",
            share,
            f"{rate / 1e12:.3g}",
            f"{largest:,}{more}",
        )
        lines.append(dict(zip(COLUMNS, values, strict=True)))
        print(", ".join(values), flush=True)
    return lines


def main(arguments=None):
    settings = parse_arguments(arguments)
    for place in settings.docs:
        if not place.exists():
            raise UserError(f"{place} does not exist; expected a page such as docs/speed.md")
    where = f"{device_name()} ({hardware()}); {versions(['ours-jax'])}"
    lines = [line for dtype in settings.dtypes for line in measure(settings, dtype)]
    text = io.StringIO()
    writer = csv.DictWriter(text, [*COLUMNS, "measured on"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(line | {"measured on": where} for line in lines)
    settings.output.mkdir(parents=True, exist_ok=True)
    path = settings.output / ("speed_chip_quick.csv" if settings.quick else "speed_chip.csv")
    write_whole(path, lambda file: file.write(text.getvalue().encode()))
    table = f"{where}\n\n{markdown_table(list(COLUMNS), [list(line.values()) for line in lines])}"
    for place in settings.docs:
        fill(place, {"chip": table})
    print(f"wrote {path}")


if __name__ == "__main__":
    run_script(main)
