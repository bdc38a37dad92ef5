"""The fixed batch of a callback: read once, and again where the data or a setting has changed."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..data.batches import check_inputs, make_batch
from ..data.feeding import preprocesses
from ..data.layout import image_inputs
from ..data.range_names import checked_range
from ..records import ValidationBatch
from .choosing import chooser_of

_ROWS_SAID = 32

ANY = object()
"""Stands for every layer, and every method."""


@dataclass(frozen=True, eq=False)
class KeptBatch:
    """The fixed batch of a callback, and the settings that it was read with.

    Attributes:
        batch: The batch.
        read: Data and settings.
        chosen_by: Layer and method by which images were chosen among several inputs; `ANY` where there was but one.
        choice: What the choice of samples rests on, where it took a pass over the data; else "".
        warning: What is to be warned of it; else "".
        is_ranked: Whether a model has chosen.
    """

    batch: ValidationBatch
    read: tuple[Any, ...]
    chosen_by: tuple[Any, ...] = (ANY, ANY)
    choice: str = ""
    warning: str = ""
    is_ranked: bool = False


def kept_batch(
    kept: KeptBatch | None,
    data: Any,
    model: Any,
    *,
    max_samples: int,
    select: Any,
    display: Any,
    sample_keys: Sequence[str] | None,
    regions: Any = None,
    spacing: Any = None,
    value_range: Any = None,
    image_input: Any = None,
    choose_input: Callable[[Any], tuple[Sequence[int], str]] | None = None,
    chosen_by: tuple[Any, ...] = (None, None),
    select_model: Any = None,
    output_kind: Any = None,
    batch_size: int = 32,
) -> KeptBatch:
    """Returns the batch that is kept, or reads it anew where the data or a setting of `make_batch` has changed.

    Samples that were chosen by a model stay chosen while it is trained.
    """
    value_range = checked_range(value_range)
    fed = weakref.ref(model) if preprocesses(model) else None  # What one model's preprocessor has made is no other's.
    choice = select, select_model, max_samples
    read = (data, *choice, display, sample_keys, regions, spacing, value_range, image_input, fed)
    if kept is not None and all(map(_is_same, (*read, *chosen_by), (*kept.read, *kept.chosen_by))):
        check_inputs(kept.batch.inputs, model)  # It may be another one than it was read for.
        return kept
    chooser = chooser_of(
        select,
        select_model,
        model,
        output_kind=output_kind,
        batch_size=batch_size,
        value_range=value_range,
        image_input=image_input,
        choose_input=choose_input,
    )
    if sample_keys is None and chooser is not None:
        sample_keys = chooser.sample_keys
    batch = make_batch(
        data,
        model,
        max_samples=max_samples,
        select="first" if chooser is not None else select,
        choose=chooser,
        display=display,
        sample_keys=sample_keys,
        regions=regions,
        spacing=spacing,
        value_range=value_range,
        warns=False,  # The logger says it, in each fit.
        image_input=image_input,
        choose_input=choose_input,
    )
    several = len(image_inputs(batch.inputs)) > 1  # Else nothing is chosen, and the batch is good for any layer.
    kept_by = chosen_by if several else (ANY, ANY)
    if chooser is None:
        return KeptBatch(batch, read, kept_by)
    chooser.check(batch)
    if chooser.ranking is not None:
        chooser.warn_untrained(model if select_model is None else select_model)
    return KeptBatch(batch, read, kept_by, chooser.words, chooser.warning, chooser.ranking is not None)


def ranges_text(batch: ValidationBatch) -> str:
    """Returns the value range of a batch's images; of several images each with the name of its input."""
    every = [batch, *batch.others.values()]
    if len(every) == 1:
        return batch.value_range
    return ", ".join(f"{one.value_range} of {one.input_name!r}" for one in every)


def batch_words(kept: KeptBatch, select: Any) -> str:
    """Says of a fixed batch what was assumed of its values, and which samples of the data it holds."""
    batch = kept.batch
    ranges = [one.pixel_range for one in (batch, *batch.others.values())]
    notes = dict.fromkeys(one.note for one in ranges if one is not None and one.note and not one.warns)
    words = "".join(f" ({note})" for note in notes)
    if select != "first" and batch.rows:
        rows = [str(row) for row in batch.rows[:_ROWS_SAID]]
        if batch.labels is not None:
            rows = [f"{row} (class {label})" for row, label in zip(rows, batch.labels.tolist(), strict=False)]
        more = len(batch.rows) - len(rows)
        words += f", {kept.choice}" if kept.choice else ""
        words += f", of the data's rows {', '.join(rows)}{f' and {more} more' if more else ''}"
    return words


def _is_same(one: Any, other: Any) -> bool:
    """Tells whether a setting is as it was: data, which may be used up by reading, by identity."""
    if one is other or other is ANY:
        return True
    return isinstance(one, (int, str)) and isinstance(other, (int, str)) and one == other
