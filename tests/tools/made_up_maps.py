"""Runs without a network: maps that a function makes up, through the same loop as those of the scripts."""

import contextlib

from camlib.attribution import ExplainedBatch
from camlib.plots.colours import Style
from camlib.runs.maps import SIGNED, Drawing
from camlib.runs.run import explain_photos
from camlib.runs.writers import FolderWriter

DRAWING = Drawing(Style(), SIGNED, {})
WRITER = FolderWriter(None, DRAWING)  # of heatmaps with pictures; a run gives it its folder


class MadeUpMaps:
    """An explainer whose maps are made up.

    Args:
        input_spec: InputSpec.
        explain: function of (images uint8 (N, H, W, C), count) -> (logits, probabilities or None, list of dicts of kind
            -> class name -> array).
    """

    def __init__(self, input_spec, explain):
        self.input_spec, self.made_up = input_spec, explain

    def explain(self, images, count):
        logits, probabilities, maps = self.made_up(images, count)
        return ExplainedBatch(logits, probabilities, maps, [{} for _ in maps])


def make_maps(run, photos, explainer, batch_size, next_command=""):
    """Do a run as the scripts do; returns the exit code."""
    with run:
        run.resume(photos)
        with contextlib.closing(explain_photos(explainer, run.writer, run.pending, batch_size)) as batches:
            for batch in batches:
                run.add(batch)
        return run.finish(next_command)
