"""Maps on disk: a run's folder or store, who writes it, and how it is resumed."""
