"""The calls of the explained layers, found in a run: those that were named, or the one that is chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..engine.contract import DifferentiatedRun, Run
from ..network.choosing import is_of_frames, is_tokens, no_layer, preferred
from ..network.head import Head, find_head
from ..network.layers import LayerCall, call_that_made, candidates, prediction_ids
from ..network.repeats import first_ones, repeats
from .ground import Ground
from .settling import NO_GRADIENT
from .taps import single_call


def named_calls(
    run: Run, layers: Sequence[tuple[Any, int | None]], paths: Mapping[int, str], ground: Ground
) -> list[LayerCall]:
    """Returns the one call of each layer, in call order.

    Args:
        run: The run.
        layers: The layers, each with the number of the call that is meant; None for the only one, or the only one on
            the image.
        paths: What they were named, by their `id`.
        ground: Knows the image.

    Raises:
        ValueError: As `single_call`.
    """
    calls = ground.of_image(run, run.calls)
    chosen = []
    for layer, number in layers:
        on_image = number is None and any(call.layer is layer for call in calls)
        path = paths.get(id(layer), layer.name)
        options = calls if on_image else run.calls if number else first_ones(run.calls)
        call = single_call(path, layer, options, axes=ground.axes, number=number)
        chosen.append(repeats(call, run.calls)[0])
    return [call for call in run.calls if call in chosen]


def options(
    run: DifferentiatedRun, ground: Ground, attends: bool, dense: tuple[int, ...] | None = None
) -> list[LayerCall]:
    """Returns the calls of the layers that may be chosen, the best ones first.

    The arguments are those of `chosen_call`. A detector's maps, which `chosen_levels` chooses, are among them.
    """
    # The map of an output is the prediction itself, and so is that of its logits.
    prediction = prediction_ids(run.calls, run.output_ids)
    calls = [call for call in ground.of_image(run, run.calls) if prediction.isdisjoint(call.output_ids)]
    used = [run.used(t) for t in range(len(run.scores))]
    common = None if used[0] is None else set.intersection(*(ids for ids in used if ids is not None))
    attended = ground.attended(run)
    if attended and attends:
        return list(filter(None, [_tokens_of(run, attended[-1])]))
    every = preferred(calls, common, attended, ground.may_be_tokens, dense, ground.axes)
    if ground.space is not None and ground.axes > 2:  # Maps of the frames come before what is left of each.
        frames = ground.space.size[0]
        every.sort(key=lambda call: is_of_frames(call, frames))
    return every


def _tokens_of(run: DifferentiatedRun, source: Any) -> LayerCall | None:
    """Returns the call that put out the tokens of a self-attention: behind a map, the first that reshapes it."""
    made = call_that_made(source, run.calls)
    if made is None or is_tokens(made):
        return made
    behind = run.behind(source) or set()
    return next((call for call in run.calls if is_tokens(call) and not behind.isdisjoint(call.output_ids)), made)


def chosen_call(
    run: DifferentiatedRun,
    model: Any,
    ground: Ground,
    refused: Mapping[str, str],
    attends: bool,
    dense: tuple[int, ...] | None = None,
) -> tuple[LayerCall, bool]:
    """Chooses a layer.

    Args:
        run: The run.
        model: The model.
        ground: Knows the image.
        refused: Paths of layers that turned out to be no picture of the image, with the reason.
        attends: Whether methods need the tokens of the last self-attention.
        dense: The image's size where pixels of a mask are explained, else None; see `preferred`.

    Returns:
        The layer's call; and whether it was among those that are refused, because no layer of the model answers to the
        places of an image that the model itself turns, or the score depends on none, as that of a class of which no
        pixel is predicted.

    Raises:
        ValueError: If there is none.
    """
    every = options(run, ground, attends, dense)
    left = [call for call in every if call.path not in refused]
    left = [call for call in left if ground.is_wanted(run, call)] or left
    if left:
        return left[0], False
    turned = [call for call in every if not is_tokens(call) and ground.moves(run, call)]
    turned += [call for call in every if refused.get(call.path) == NO_GRADIENT]
    if turned:
        return turned[0], True
    raise no_layer(model, run.calls, [call.path for call in every], ground.axis_names)


def head_call(run: Run, model: Any, named: Sequence[tuple[str, Any, int | None]]) -> Head:
    """Returns the GAP + Dense head, which must be fed by the layer that the user named, if any.

    Args:
        run: The run.
        model: The model.
        named: For each named layer its path, a weak reference to it, and which of its calls is meant, if that was said.

    Raises:
        ValueError: As `find_head`, or if another layer was named.
    """
    head = find_head(model, run.calls, run.output_id)
    if not named:
        return head
    for call in run.calls:
        if [held() for _, held, _ in named] == [call.layer] and head.feature_map_id in call.output_ids:
            return Head(call, head.feature_map_id, head.dense)
    names = [path for path, *_ in named]
    raise ValueError(
        "CAM explains the layer that feeds the global average pooling. "
        f"Received: layer_name={names if len(names) > 1 else names[0]!r}; "
        f"here that layer is {head.feature_map.path!r}. "
        "Leave layer_name out, or use Grad-CAM (GradCAMLogger) for other layers."
    )


def without_gradient(run: DifferentiatedRun) -> list[str]:
    """Returns the paths of all layers of tokens at which some score has no gradient; none of an eager run.

    So no run is needed for each of them, as of a detector's queries, of which many are cut off.
    """
    calls = [call for call in run.calls if is_tokens(call)]
    ids = list(dict.fromkeys(call.output_ids[0] for call in calls))
    reached = [run.differentiable(t, ids) for t in range(len(run.scores))]
    common = set.intersection(*(set(ids) if of_score is None else of_score for of_score in reached))
    return [call.path for call in calls if call.output_ids[0] not in common]


def reachable(run: DifferentiatedRun, score: int, axes: int) -> list[str]:
    """Returns the paths of the candidates that a score depends on, for an input whose space has so many axes."""
    used = run.used(score)
    return [
        call.path
        for call in candidates(first_ones(run.calls), axes)
        if used is None or used.intersection(call.output_ids)
    ]
