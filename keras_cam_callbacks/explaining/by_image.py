"""Views that lie on different images of each sample, as those of a model of several: how pictures put them together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ..drawing.columns import groups_joined
from ..drawing.places import Drawn
from ..drawing.text import font_size, over_captions
from ..records import Image, ValidationBatch

if TYPE_CHECKING:
    from .explanation import Explanation


def in_columns(batch: ValidationBatch) -> ValidationBatch:
    """Returns a batch with as many columns as its augmented copies have."""
    if batch.beside:
        return batch
    columns = {"original": batch.display}
    return batch.shown_as(replace(batch.look, beside=columns, display_name="not augmented"))


def by_image(views: Mapping[str, Explanation]) -> list[dict[str, Explanation]]:
    """Returns the views that lie on the same image of each sample together, in their order."""
    groups: dict[int, dict[str, Explanation]] = {}
    for name, view in views.items():
        groups.setdefault(view.batch.image_input, {})[name] = view
    return list(groups.values())


def slice_at(at: int | None, shown: Sequence[Sequence[Image]], group: int) -> int | None:
    """Returns which slice of one of several volumes stands beside a slice of the first: that at the same share.

    Args:
        at: The slice of the first; None where no one slice is drawn.
        shown: For each group of views what is displayed of the samples.
        group: Which of them.
    """
    return None if at is None else at * len(shown[group][0]) // len(shown[0][0])


def joined_images(
    groups: Sequence[Sequence[Drawn]], shown: Sequence[Image], captions: Sequence[str] | None
) -> tuple[Drawn, ...]:
    """Puts the pictures of several images of each sample together, over one caption.

    Args:
        groups: For each image the N pictures that show it.
        shown: What is displayed of the first image of the samples.
        captions: N texts, or None for none.
    """
    sides = [(bottom - top, right - left) for (left, top, right, bottom), *_ in (one.places for one in groups[0])]
    # Signals and slices side by side are wide, and stand one below the other.
    down = all(np.ndim(one) != 3 for one in shown) and all(across >= 1.2 * high for high, across in sides)
    whole = groups_joined(groups, down=down)
    return tuple(whole) if captions is None else over_captions(whole, captions, [font_size(min(s)) for s in sides])
