"""What deletion and insertion cost beside the forward passes that they need.

    python benchmarks/perturbation_speed.py

Takes turns between deletion + insertion with 50 steps for one photo through the shipped pooling-free network and 100
forward passes in batches of the same size, and prints the ratio of their times: median and range of the rounds.
"""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from camlib.backend import compiled

# isort: split
import numpy as np
from keras import ops

from camlib.attribution.methods import CHANGED_AT_ONCE
from camlib.evaluation.metrics import pixel_order
from camlib.evaluation.perturbation import deletion_insertion_function
from camlib.networks.checkpoint import GAP_NETWORK, load_network

STEPS, ROUNDS = 50, 9


def seconds(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main():
    network, input_spec = load_network(GAP_NETWORK)
    generator = np.random.default_rng(0)
    shape = (input_spec.height, input_spec.width, input_spec.channels)
    image, fill = generator.random((2, *shape), np.float32)
    order, target = pixel_order(generator.random(shape[:2])), np.eye(4, dtype=bool)[0]
    curves = deletion_insertion_function(network, "softmax", STEPS)
    forward = compiled(lambda images: network(images, training=False), network)
    images = ops.convert_to_tensor(generator.random((CHANGED_AT_ONCE, *shape), np.float32))

    def forward_passes():
        for _ in range(2 * STEPS // CHANGED_AT_ONCE):
            ops.convert_to_numpy(forward(images))

    def both_curves():
        curves(image, fill, order, target)

    forward_passes(), both_curves()  # compiles
    pairs = [(seconds(both_curves), seconds(forward_passes)) for _ in range(ROUNDS)]
    ratios = sorted(ours / passes for ours, passes in pairs)
    print(f"deletion and insertion, {STEPS} steps: {np.median([ours for ours, _ in pairs]):.2f} s a photo")
    print(f"{2 * STEPS} forward passes: {np.median([passes for _, passes in pairs]):.2f} s")
    print(f"ratio: {np.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")


if __name__ == "__main__":
    main()
