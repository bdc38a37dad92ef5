"""The settings of `HeatmapLogger`, as type checkers and editors read them for the loggers of one method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from ..drawing.overlay import Overlay
from ..methods.fusion import Fusion
from ..store import Run
from .steps import Steps

__all__ = ["HeatmapSettings"]


class HeatmapSettings(TypedDict, total=False):
    """All settings of `HeatmapLogger` but the data, the layer and the method; each has its default there."""

    tracker: Any
    log_dir: str | Path
    target: Any
    max_samples: int
    select: str | Run
    select_model: Any
    class_names: Sequence[str] | None
    output_kind: str | Mapping[str, str] | None
    sample_keys: Sequence[str] | None
    fuse: Fusion | None
    augmentations: Any
    metrics: Sequence[str] | str | None
    regions: Any
    spacing: Sequence[float] | None
    faithfulness_freq: int | None
    freq: int | Steps
    display: Any
    value_range: Any
    overlay: Overlay | None
    prefix: str | None
    batch_size: int
    on_error: str
    model: Any
    run: str | Path | None
    input: Any
    tokens: Any
    report: bool
    alerts: Mapping[str, str] | None
