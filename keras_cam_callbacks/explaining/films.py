"""A film through what was explained: of a clip its frames, of a volume its slices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..checks import is_real, is_whole
from ..drawing.films import checked_format, fitted, write_film
from ..drawing.grids import grid
from ..drawing.overlay import Overlay
from ..records import Image
from ..store.whole import whole_file

if TYPE_CHECKING:
    from .explanation import Explanation, Explanations

__all__ = ["film"]


def film(
    explanation: Explanation | Explanations,
    path: str | Path,
    overlay: Overlay | None = None,
    *,
    samples: Sequence[int] | None = None,
    fps: float = 8.0,
    overwrite: bool = False,
) -> Path:
    """Writes a film through clips frame by frame, or through volumes slice by slice, each with its heat.

    All frames have one scale, so that it is seen where the heat is in time or depth; the number of each stands below.

    Args:
        explanation: What `explain` returned; as a method, it is left out.
        path: The file: "clip.mp4", or .gif or .webp, which begin anew for ever.
        overlay: How to draw; by default `Overlay()`. `slices` is left out, as all are shown.
        samples: Rows of the samples that stand side by side; by default all.
        fps: Frames in a second, 0.1 to 60.
        overwrite: Whether the file may replace another.

    Returns:
        The file, which is written whole, or not at all.

    Raises:
        ValueError: If these are no volumes or clips, or are shown as pictures; or a setting is impossible.
        OSError: If nothing can be written.
        RuntimeError: If this OpenCV can write no MP4.

    Example:
        >>> explain(model, clips).film("clips.mp4", samples=[0])
    """
    views = explanation if isinstance(explanation, Mapping) else {"": explanation}
    display = next(iter(views.values())).batch.display
    if not all(np.ndim(shown) == 4 for shown in display):
        kind = {2: "signals"}.get(np.ndim(display[0]), "one picture of each sample")
        raise ValueError(
            "A film shows the frames of clips or the slices of volumes. "
            f"Received: {kind}. overlays() draws what there is in one picture."
        )
    path = Path(path)
    form = checked_format(path, None)
    if not is_real(fps, 0.1, 60):
        raise ValueError(f"`fps` must be a number from 0.1 to 60. Received: {fps!r}. fps=8 works.")
    rows = list(range(len(display))) if samples is None else list(samples)
    if not rows or not all(is_whole(row, 0) and row < len(display) for row in rows):
        raise ValueError(
            f"`samples` must list rows of the {len(display)} samples, counted from 0. Received: {samples!r}. "
            "samples=[0] works."
        )
    frames = _Slices(views, overlay or Overlay(), rows)
    with whole_file(path, overwrite=overwrite) as file:
        write_film(frames, file, form, fps)
    return path


class _Slices:
    """The frames of a film through some samples, drawn anew whenever they are iterated over.

    Args:
        views: Explanations of one batch by name; a single one may have the name "".
        overlay: How to draw.
        rows: Which samples.
    """

    def __init__(self, views: Mapping[str, Explanation], overlay: Overlay, rows: Sequence[int]) -> None:
        self._views, self._overlay, self._rows = views, overlay, rows
        self._count = max(len(shown) for shown in next(iter(views.values())).batch.display)
        self.size = self._drawn(0).shape[:2]

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Image]:
        return map(self._drawn, range(self._count))

    def _drawn(self, at: int) -> Image:
        from .explanation import pictures  # It imports this file.

        every = pictures(self._views, self._overlay, at=at)
        shown = [every[row] for row in self._rows]
        return fitted(shown[0] if len(shown) == 1 else grid(shown))
