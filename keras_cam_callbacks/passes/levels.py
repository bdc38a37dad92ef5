"""The layers that are explained of an object detector: all levels of its pyramid of maps."""

from __future__ import annotations

from collections.abc import Container, Hashable, Sequence
from typing import Any

from ..engine.contract import DifferentiatedRun
from ..network.choosing import preferred
from ..network.layers import LayerCall, call_that_made, candidates, data_format, prediction_ids

_JOINED = ("Concatenate", "Reshape", "Flatten", "Permute")
"""What makes one row of the boxes of several maps."""


def chosen_levels(run: DifferentiatedRun, refused: Container[str], scores: Hashable) -> list[LayerCall]:
    """Chooses the maps that a detector finds boxes in, from which the scores of boxes come.

    Where a `Concatenate` joins the scores of several maps, these are for each the last map before. Else they are the
    maps of the last layer that puts out several of different sizes. Else it is the last map before the scores.

    Args:
        run: The run.
        refused: Paths of layers that turned out to be no picture of the image.
        scores: Id of the tensor of the boxes' scores.

    Returns:
        The calls in call order; none where it can't be told, as of a model that runs eagerly.
    """
    ids = {scores}
    prediction = prediction_ids(run.calls, ids)
    joints = [call for call in run.calls if type(call.layer).__name__ == "Concatenate"]
    joint = next((call for call in reversed(joints) if prediction.intersection(call.output_ids)), None)
    prediction |= _rearranged(run.calls, prediction)
    every = candidates(run.calls)
    options = [call for call in preferred(run.calls, None, (), False) if call in every]
    options = [call for call in options if call.path not in refused and prediction.isdisjoint(call.output_ids)]
    levels = [] if joint is None else _before(run, options, joint.input_ids)
    if len(levels) < 2:
        levels = _of_one_layer(run, options, scores) or _before(run, options, [scores])
    return [call for call in run.calls if call in levels]


def _rearranged(calls: Sequence[LayerCall], prediction: Container[Hashable]) -> set[Hashable]:
    """Returns the ids of tensors that are the prediction, in other rows and columns."""
    ids = {tensor for call in calls for tensor in call.output_ids if tensor in prediction}
    for call in reversed(calls):
        if type(call.layer).__name__ in _JOINED and ids.intersection(call.output_ids):
            ids |= prediction_ids(calls, call.input_ids)
            ids.update(call.input_ids)
    return ids


def _before(run: DifferentiatedRun, options: Sequence[LayerCall], ends: Sequence[Hashable]) -> list[LayerCall]:
    """Returns for each tensor the first of the options, the best ones first, that it depends on."""
    levels: dict[Hashable, LayerCall] = {}
    for call in options:
        behind = set() if len(levels) == len(ends) else run.behind(call.output_ids[0]) or set()
        for end in ends:
            if end in behind:
                levels.setdefault(end, call)
    return list(levels.values()) if len(levels) == len(ends) else []


def _of_one_layer(run: DifferentiatedRun, options: Sequence[LayerCall], scores: Hashable) -> list[LayerCall]:
    """Returns the calls that made the maps of one layer that puts out several: of each size the last one.

    Of several such layers it is the one whose maps come last.
    """
    order = {id(call): i for i, call in enumerate(run.calls)}
    layers = [call.layer for call in run.calls]
    best: list[LayerCall] = []
    for call in run.calls:
        makers = [call_that_made(tensor, run.calls) for tensor in call.output_ids]
        maps = sorted((maker for maker in makers if maker in options and maker is not None), key=lambda c: order[id(c)])
        by_size = {_sides(maker, layers): maker for maker in maps}
        if len(by_size) < 2 or (best and order[id(maps[-1])] <= order[id(best[-1])]):
            continue
        if all(scores in (run.behind(maker.output_ids[0]) or ()) for maker in by_size.values()):
            best = sorted(by_size.values(), key=lambda c: order[id(c)])
    return best


def _sides(call: LayerCall, layers: Sequence[Any]) -> tuple[int | None, ...]:
    """Returns the sides of a map."""
    shape = call.output_shape or ()
    return shape[2:] if data_format(layers, call.layer) == "channels_first" else shape[1:-1]
