"""Saved maps looked at: a window, a figure, a contact sheet."""
