"""Further images among a model's inputs: for each the same samples, with that input as their images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from ..network.preprocessing import expected_range
from ..records import Look, ValidationBatch
from .layout import input_at, input_tensor, shown_names
from .recognition import BatchRange
from .spaces import input_space, pixels_of


def with_others(
    batch: ValidationBatch,
    places: Sequence[int],
    model: Any,
    value_range: Any,
    make_look: Callable[..., Look],
) -> ValidationBatch:
    """Returns a batch with one for each further image in it.

    Args:
        batch: The batch, whose images are the first ones.
        places: Which of the inputs, flattened, all images are.
        model: The model.
        value_range: Which values are black and white, checked; None to have it recognised. It counts for images of the
            first ones' type and number of channels.
        make_look: Makes what people see, of images, their space and what makes their range.
    """
    names, first = shown_names(batch.inputs, model), input_at(batch.inputs, places[0])
    others = {}
    for at in places[1:]:
        images = input_at(batch.inputs, at)
        space = input_space(model, images)
        if space is None:  # It has no places that a map could lie on.
            continue
        if batch.space is not None and len(space.axes) == len(batch.space.axes):
            space = replace(space, spacing=batch.space.spacing)
        pixels = pixels_of(images, space)
        expected = expected_range(model, input_tensor(batch.inputs, at, model))
        alike = images.dtype == first.dtype and images.shape[-1] == first.shape[-1]
        chosen = value_range if alike else None
        make_range = None if pixels is None else BatchRange(pixels, expected, chosen)
        others[names[at]] = replace(
            batch,
            image_input=at,
            input_name=names[at],
            space=space,
            make_range=make_range,
            make_look=partial(make_look, images, space, make_range),
            # Where the object is in another image nobody has said.
            regions=(None,) * len(batch) if batch.regions else (),
            class_regions=(),
        )
    return replace(batch, input_name=names[places[0]], others=others) if others else batch
