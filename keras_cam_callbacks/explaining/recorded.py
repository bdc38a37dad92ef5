"""The record of an epoch: what was found in a batch, drawn, with all that it can be drawn from again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from ..drawing.files import encode
from ..drawing.overlay import Overlay
from ..records import DrawnFrom, EpochRecord, Image, View
from .by_image import by_image
from .captions import display_title
from .explanation import Explanation, placed, texts


def epoch_record(
    views: Mapping[str, Explanation],
    overlay: Overlay,
    *,
    epoch: int,
    step: int,
    scalars: Mapping[str, float],
    values: Mapping[str, npt.NDArray[np.floating[Any]]],
) -> EpochRecord:
    """Draws views of one batch, and puts them and what was measured into the record that trackers get.

    Args:
        views: Explanations of one batch by name; a single one may have the name "".
        overlay: How to draw.
        epoch: As in `EpochRecord`, and likewise the others.
        step: Our own count.
        scalars: Numbers about the epoch.
        values: Numbers of each sample.
    """
    drawn = placed(views, overlay)
    first = next(iter(views.values()))
    shown = tuple(each.picture for each in drawn)
    return EpochRecord(
        epoch=epoch,
        step=step,
        heatmaps=first.heatmaps,
        overlays=shown,
        encoded=tuple(encode(picture, overlay.image_format) for picture in shown),
        image_format=overlay.image_format,
        scalars=scalars,
        samples=first.samples(),
        outputs=first.outputs,
        views={name: View(view.heatmaps, view.samples()) for name, view in views.items() if name},
        values=values,
        places=tuple(each.places for each in drawn),
        drawn_from=_drawn_from(views, overlay, shown),
    )


def _drawn_from(views: Mapping[str, Explanation], overlay: Overlay, shown: tuple[Image, ...]) -> DrawnFrom | None:
    """Returns what pictures were drawn from; None where there is more in them, as augmented or several images."""
    first = next(iter(views.values()))
    if any(view.outlines is not None for view in views.values()) or len(by_image(views)) > 1:
        return None
    if first.augmented or (first.batch.beside and overlay.layout == "panel"):
        return None
    captions, titles = texts(views, overlay)
    return DrawnFrom(
        pictures=shown,
        heatmaps=tuple(view.heatmaps for view in views.values()),
        images=first.batch.display,
        captions=tuple(captions),
        titles={} if list(views) == [""] else {name: tuple(of_samples) for name, of_samples in titles.items()},
        title=display_title(first.batch),
        overlay=asdict(overlay),
        space=first.batch.space,
    )
