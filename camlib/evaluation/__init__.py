"""How good a map is: annotations, metrics, report."""
