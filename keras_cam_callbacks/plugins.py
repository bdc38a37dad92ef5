"""What other packages bring under a name, by entry point; looked for only once a name is none of ours.

A package says so in its metadata, here in its setup.cfg::

    [options.entry_points]
    keras_cam_callbacks.trackers =
        mytracker = mypackage.tracking:MyTracker
    keras_cam_callbacks.methods =
        mymethod = mypackage.maps:my_method
"""

from __future__ import annotations

import functools
import importlib.metadata
import logging
from typing import Any

TRACKERS = "keras_cam_callbacks.trackers"
METHODS = "keras_cam_callbacks.methods"

_NOUNS = {TRACKERS: "tracker", METHODS: "method"}

logger = logging.getLogger("keras_cam_callbacks")


def plugin_names(group: str) -> list[str]:
    """Returns the names that packages have brought, sorted; nothing of them is imported for that.

    Args:
        group: `TRACKERS` or `METHODS`.
    """
    return sorted({point.name for point in _entry_points(group)})


@functools.cache
def load_plugin(group: str, name: str) -> Any:
    """Returns what a package has brought under a name. It is imported the first time; what fails is tried again.

    Args:
        group: `TRACKERS` or `METHODS`.
        name: One of `plugin_names`.

    Raises:
        ImportError: If it can't be imported; the message says which package it is of.
        ValueError: If several packages bring that name.
    """
    points = [point for point in _entry_points(group) if point.name == name]
    packages = [_package(point) for point in points]
    noun = _NOUNS[group]
    if len({point.value for point in points}) > 1:
        raise ValueError(
            f"The name of a {noun} must be of one package. Received: {name!r}, which {' and '.join(packages)} bring. "
            f"Import the {noun} that you mean, and give it in place of its name."
        )
    try:
        return points[0].load()
    except Exception as error:  # Whatever another package does when it is imported.
        raise ImportError(
            f"A {noun} must be importable. Received: {name!r} of {packages[0]}, which failed: "
            f"{type(error).__name__}: {error}. Mend that package, or take another {noun}."
        ) from error


def call_plugin(group: str, name: str, plugin: Any, must: str, works: str) -> Any:
    """Returns what a plugin makes when it is called without arguments.

    Args:
        group: `TRACKERS` or `METHODS`.
        name: The name that it is brought by.
        plugin: What is called.
        must: What it must do or be, for messages.
        works: What would work, a sentence.

    Raises:
        ImportError: If it fails.
    """
    try:
        return plugin()
    except Exception as error:  # Whatever another package does.
        raise ImportError(
            f"What a package brings as the {_NOUNS[group]} {name!r} must {must}. "
            f"Received: {plugin!r}, which failed: {type(error).__name__}: {error}. {works}"
        ) from error


def _entry_points(group: str) -> list[importlib.metadata.EntryPoint]:
    try:
        return list(importlib.metadata.entry_points(group=group))
    except Exception as error:  # One damaged package among all that are installed; it need not be one of these.
        logger.warning("Packages that bring a %s could not be looked for: %r", _NOUNS[group], error)
        return []


def _package(point: importlib.metadata.EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else point.value
