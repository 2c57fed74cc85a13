"""Keras, imported when something of it is first used: for rooms whose tables --help lists, and must not wait for."""

import importlib


class Later:
    """A module that is imported when something of it is first used.

    Args:
        name: str, of the module.
    """

    def __init__(self, name):
        self._name = name

    def __getattr__(self, attribute):
        return getattr(importlib.import_module(self._name), attribute)  # asked each time: `exchanged` changes modules


keras, layers, ops = Later("keras"), Later("keras.layers"), Later("keras.ops")
