"""How good a map is: annotations, metrics, report."""

FILLS = ("blur", "mean")  # what replaces deleted pixels
