"""A method on one layer, its map laid over the image where the layer sees but a part of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ..methods import Method
from ..network.layers import Tap
from ..passes.capture import Capturer
from ..passes.placement import whole
from ..passes.probe import Probe
from ..records import Capture, Floats
from ..space import laid


def averaging_note(path: str) -> str:
    """Returns what is to be said of Grad-CAM on a layer of tokens."""
    return (
        f"Grad-CAM averages gradients over all tokens of layer {path!r}, though each token has its own way to the "
        "score: method='hirescam' or 'layercam', of HeatmapLogger and explain, points better on tokens."
    )


def on_image(
    method: Method, capture: Capture, tap: Tap | None, probe: Probe | None, inputs: Any, capturer: Capturer
) -> tuple[Floats, Floats | None, dict[str, Floats]]:
    """Returns what a method makes of a chunk: heatmaps over the whole image, attributions, and numbers of its own.

    Args:
        method: The method.
        capture: What was captured of the chunk.
        tap: The layer; None for a method without.
        probe: Functions of the model that the method needs, or None.
        inputs: The chunk's inputs.
        capturer: Knows where the layer's map lies.
    """
    functions = None if probe is None else probe.functions(inputs, capture.targets, capture.beside)
    box, space = None if tap is None else capturer.ground.boxes[tap.path], capturer.ground.space
    if box is None or space is None or box == whole(len(box)):
        return method(capture, functions)
    size = space.size
    if "images" not in method.needs:
        heatmaps, attributions, numbers = method(capture, functions)
        return laid(heatmaps, box, size), attributions, numbers
    # What looks at the images where the layer is active must find it at its place.
    activations = capture.activations
    assert activations is not None
    over = laid(np.moveaxis(activations, -1, 1).reshape(-1, *activations.shape[1:-1]), box, size)
    placed = np.moveaxis(over.reshape(len(activations), -1, *over.shape[1:]), 1, -1)
    return method(replace(capture, activations=np.ascontiguousarray(placed)), functions)
