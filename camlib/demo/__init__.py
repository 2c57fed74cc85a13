"""The demo set, drawn: animals, backgrounds, scenes."""
