"""Maps on disk: a run's folder or store, who writes it, and how it is resumed."""

STORE_TYPES = ("float32", "float16")  # what maps may be kept in
MOST_SHOWN = 12  # photos in one picture, a row each
