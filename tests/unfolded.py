"""Signals, volumes and clips with known heat, and explanations of them, for tests of what is shown."""

from __future__ import annotations

import numpy as np

from keras_cam_callbacks.explaining.explanation import Explanation
from keras_cam_callbacks.records import Look, Space, ValidationBatch

KINDS = ("signal", "volume", "clip")
SPACES = {
    "signal": Space(("time",), (40,)),
    "volume": Space(("depth", "height", "width"), (6, 12, 10), spacing=(2.0, 1.0, 1.0)),
    "clip": Space(("time", "height", "width"), (12, 9, 16)),
}


def display(kind: str, count: int = 3) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(5)
    size = SPACES[kind].size
    if kind == "signal":
        signals = rng.normal(size=(count, *size, 2)).cumsum(axis=1).astype(np.float32)
        signals[0, 7:9, 1] = np.nan
        return tuple(signals)
    return tuple(rng.integers(0, 256, (count, *size, 3), np.uint8))


def heatmaps(kind: str, count: int = 3, seed: int = 0) -> np.ndarray:
    """Coarser than the sample along each axis; of the last sample nothing."""
    cells = {"signal": (10,), "volume": (3, 6, 5), "clip": (6, 3, 4)}[kind]
    maps = np.random.default_rng(seed).normal(size=(count, *cells)).astype(np.float32)
    maps[-1] = 0
    return maps


def explained(kind: str, count: int = 3, seed: int = 0, **changes) -> Explanation:
    """An explanation that no model made."""
    shown = display(kind, count)
    batch = ValidationBatch(
        inputs=np.zeros((count, *SPACES[kind].size, 1), np.float32),
        labels=np.arange(count) % 2,
        sample_keys=tuple(f"sample {i}" for i in range(count)),
        make_look=lambda: Look(tuple(f"{i:016x}" for i in range(count)), shown, "values"),
        space=SPACES[kind],
    )
    settings = {
        "heatmaps": heatmaps(kind, count, seed),
        "outputs": np.full((count, 2), 0.5, np.float32),
        "scores": np.ones(count, np.float32),
        "targets": np.zeros(count, np.int64),
        "predicted": np.zeros(count, np.int64),
        "confidences": np.full(count, 0.5, np.float32),
        "layer_name": "conv",
        "method": "gradcam",
        "target": "predicted",
        "batch": batch,
    }
    return Explanation(**settings | changes)
