"""Who asks for a framework: imported first in a process of its own, this notes it, and lets others find it."""

import sys

FRAMEWORKS = ("tensorflow", "jax", "torch")

asked = []
"""Each framework that was to be imported for the first time, and the module that asked for it."""


class _Finder:
    """Stands first in `sys.meta_path`, where everything that isn't imported yet is asked for."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name in FRAMEWORKS and (module := _asking()) is not None:
            asked.append((name, module))


def _asking():
    """Returns the module that imports; None where it only wants to know whether there is such a package."""
    frame = sys._getframe(2)
    while (module := frame.f_globals.get("__name__", "")).split(".")[0] in ("importlib", "_frozen_importlib"):
        if module == "importlib.util":
            return None
        frame = frame.f_back
    return module


def of_others(backend):
    """Returns what was asked for beside the backend by whomever but Keras, KerasHub and what these have imported.

    Keras imports TensorFlow when a model is saved or loaded, and TensorFlow imports JAX, where they are installed.
    """
    return [
        (name, module)
        for name, module in asked
        if name != backend and module.split(".")[0] not in ("keras", "keras_hub", *FRAMEWORKS)
    ]


sys.meta_path.insert(0, _Finder)
