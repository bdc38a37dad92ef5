"""A method on one layer, its map laid over the image where the layer sees but a part of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ..methods import AUTO, METHODS, Method
from ..network.layers import Tap
from ..passes.capture import Capturer
from ..passes.placement import whole
from ..passes.probe import Probe
from ..records import Capture, Floats
from ..space import laid


def decided(methods: Mapping[str, Method], capturer: Capturer) -> tuple[dict[str, Method], str]:
    """Decides what "auto" is on the layers that are explained, and says what is to be said of methods on tokens.

    Args:
        methods: The methods by name.
        capturer: Knows the layers.

    Returns:
        The methods by name, none of them "auto"; and the words, "" for none.
    """
    averaged = [tap.path for tap in capturer.taps if tap.tokens and tap.path in capturer.ground.mixed]
    better = METHODS["hirescam" if averaged else "gradcam"]
    settled = {name: better if method is AUTO else method for name, method in methods.items()}
    if averaged and AUTO in methods.values():
        return settled, f"method='auto' is 'hirescam' on layer {averaged[0]!r}, which holds tokens."
    only_averages = averaged and {method.name for method in settled.values()} == {"gradcam"}
    return settled, averaging_note(averaged[0]) if only_averages else ""


def averaging_note(path: str) -> str:
    """Returns what is to be said of Grad-CAM on a layer of tokens."""
    return (
        f"Grad-CAM averages gradients over all tokens of layer {path!r}, though each token has its own way to the "
        "score: method='hirescam' or 'layercam', of HeatmapLogger and explain, points better on tokens (0.27 to 0.54 "
        "of the heat is on the object in two small transformers, of Grad-CAM 0.24 to 0.36: benchmarks/tokens.md)."
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
