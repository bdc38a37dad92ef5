"""A run and its epochs as trackers get them, made of numbers: every value can be told from its row and step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..drawing.files import encode
from ..records import EpochRecord, Image, RunConfig, Sample


def sample_keys(count: int) -> tuple[str, ...]:
    """Returns the names of so many samples: "sample_00" and so on."""
    return tuple(f"sample_{row:02d}" for row in range(count))


def picture(seed: int, size: tuple[int, int] = (24, 32)) -> Image:
    """Returns uint8 RGB (H, W, 3): a ramp between two colours, which a JPEG keeps."""
    left, right = np.random.default_rng(seed).integers(0, 256, (2, 3))
    ramp = np.linspace(0, 1, size[1])[None, :, None]
    drawn: Image = np.repeat((left + ramp * (right - left)).astype(np.uint8), size[0], axis=0)
    return drawn


def make_config(directory: Path, count: int = 3, *, keys: tuple[str, ...] | None = None, **changes: Any) -> RunConfig:
    """Returns a run of images of the classes "cat" and "dog", of which the first sample has no label.

    Args:
        directory: The run's folder, which need not be there.
        count: How many samples it has.
        keys: Their names, in place of `count`.
        **changes: Fields of `RunConfig` that are to be others.
    """
    keys = keys or sample_keys(count)
    settings: dict[str, Any] = {
        "prefix": "gradcam",
        "method": "gradcam",
        "layer_name": "base/conv",
        "target": "predicted",
        "model_name": "tiny",
        "class_names": ("cat", "dog"),
        "sample_keys": keys,
        "fingerprints": tuple(f"{row:016x}" for row in range(len(keys))),
        "labels": (None, *(row % 2 for row in range(1, len(keys)))),
        "display": tuple(picture(1000 + row) for row in range(len(keys))),
        "value_range": "[0, 1]",
        "overlay": {"alpha": 0.4, "colormap": "turbo", "scale": "image"},
        "versions": {"numpy": np.__version__},
    }
    return RunConfig(directory=directory, **settings | changes)


def make_record(
    step: int,
    count: int = 3,
    *,
    epoch: int | None = None,
    keys: tuple[str, ...] | None = None,
    image_format: str = "jpg",
    size: tuple[int, int] = (24, 32),
    map_size: tuple[int, int] = (4, 5),
    **changes: Any,
) -> EpochRecord:
    """Returns an epoch of the run of `make_config`; its first sample has nothing that may be missing.

    Args:
        step: The step, by which all values differ.
        count: How many samples it has.
        epoch: The epoch; None for the step.
        keys: Names of the samples, in place of `count`.
        image_format: "jpg" or "png".
        size: Height and width of the pictures.
        map_size: Height and width of the heatmaps.
        **changes: Fields of `EpochRecord` that are to be others.
    """
    keys = keys or sample_keys(count)
    overlays = tuple(picture(100 * step + row, size) for row in range(len(keys)))
    samples = tuple(
        Sample(
            key=key,
            fingerprint=f"{row:016x}",
            label=None if row == 0 else row % 2,
            predicted=None if row == 0 else (row + step) % 2,
            target=None if row == 0 else 1,
            score=step + row / 8,
            confidence=None if row == 0 else 1 / (row + 1),
            degenerate=row == 1,
            caption=f"step {step}, sample {row} – ✓",
        )
        for row, key in enumerate(keys)
    )
    rows = np.arange(len(keys), dtype=np.float32)
    settings: dict[str, Any] = {
        "epoch": step if epoch is None else epoch,
        "step": step,
        "heatmaps": np.broadcast_to(rows[:, None, None] - step, (len(keys), *map_size)).astype(np.float32),
        "overlays": overlays,
        "encoded": tuple(encode(overlay, image_format) for overlay in overlays),
        "places": tuple(((0, 0, overlay.shape[1], overlay.shape[0]),) for overlay in overlays),
        "image_format": image_format,
        "scalars": {"drift": step / 4, "area": 0.5},
        "samples": samples,
        "outputs": np.stack([rows, rows - step], axis=1),
    }
    return EpochRecord(**settings | changes)
