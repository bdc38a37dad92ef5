"""Which of a model's inputs is the image that a layer's map lies on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..data.layout import image_inputs, input_at, input_names, largest_index, placed_inputs
from ..engine.contract import DifferentiatedRun, Run
from ..network.layers import LayerCall, layers_behind, listing
from ..network.repeats import first_ones


def explained_image(
    run: DifferentiatedRun, calls: Sequence[LayerCall], inputs: Any, model: Any, wanted: int | None
) -> tuple[int, str]:
    """Returns which of the flattened inputs is the image that the explained layers see, and what is to be said of it.

    Args:
        run: The run of the model.
        calls: The calls of the explained layers; none for a method that explains the image itself.
        inputs: One sample of the model's inputs.
        model: The model.
        wanted: Which input the user has named, flattened; None to have it chosen.

    Raises:
        ValueError: If a layer doesn't depend on the input that was named, or layers have no image in common.
    """
    images, names = image_inputs(inputs), input_names(inputs, model)
    placed = set(placed_inputs(inputs))
    if len(placed) < 2 and wanted is None:
        return largest_index(inputs), ""
    read = {call.path: run.read_inputs(call.output_ids[0]) or set(range(len(names))) for call in calls}
    if len(images) < 2 and wanted is None:
        beside = placed.intersection(*read.values())  # A layer that sees nothing but a signal beside the image.
        other = max(beside, key=lambda i: (_size(inputs, i), -i), default=images[0])
        return images[0] if images[0] in beside else other, ""
    seen = set(images if wanted is None else [*images, wanted])
    common = seen.intersection(*read.values())
    if not calls and wanted is None:
        common = common.intersection(scored_images(run, inputs)) or common
    shown = "; ".join(f"{path!r} sees {_listed(names, seen & of_layer)}" for path, of_layer in read.items())
    if wanted is not None:
        if wanted not in common:
            raise ValueError(
                "`input` must name an image that the explained layer depends on. "
                f"Received: input={names[wanted]!r}; {shown}."
            )
        return wanted, ""
    if not common and len(calls) > 1:
        raise ValueError(
            "Layers whose maps are fused must see the same image. "
            f"Received: {shown}. Explain them one by one, or name a layer behind both."
        )
    if not common:  # A layer behind no image at all, as behind text.
        return largest_index(inputs), ""
    largest = largest_index(inputs)
    at = largest if largest in common else max(common, key=lambda i: (_size(inputs, i), -i))
    if len(common) == 1:
        times = {call.path: sum(o.layer is call.layer for o in first_ones(run.calls)) for call in calls}
        path = max(times, key=times.__getitem__, default="")
        if times.get(path, 0) < 2:
            return at, ""
        return at, (
            f"Heatmaps are of the input {names[at]!r}: layer {path!r} is called {times[path]} times, once "
            f"for each of several images. input={names[min(set(images) - {at})]!r} takes another one, and "
            f"input={names[at]!r} says that it is this one."
        )
    what = f"layer {calls[0].path!r} depends" if len(calls) == 1 else "the explained layers depend"
    what = what if calls else "this method explains the image itself, and the score depends"
    return at, (
        f"Heatmaps are drawn on the input {names[at]!r}, which is one of several images: {what} on "
        f"{_listed(names, common)}. input={names[min(common - {at})]!r} takes another one"
        + f", and input={names[at]!r} says that it is this one."
    )


def scored_images(run: DifferentiatedRun, inputs: Any) -> list[int]:
    """Returns which of the flattened inputs are images that all scores depend on, as far as that can be told."""
    reads = [run.score_inputs(score) for score in range(len(run.scores))]
    return [i for i in image_inputs(inputs) if all(of_score is None or i in of_score for of_score in reads)]


def other_images(
    run: DifferentiatedRun, calls: Sequence[LayerCall], inputs: Any, at: int, named: Sequence[tuple[Any, int | None]]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Returns which further images the scores depend on, and which of these have layers, or calls, of their own.

    Args:
        run: The run of the model.
        calls: The calls of the explained layers.
        inputs: One sample of the model's inputs.
        at: Which of them, flattened, is the image that these see.
        named: The layers that the user named, each with the number of the call that is meant, or None. Then an image
            has its own where each of them is called on it too.
    """
    images = image_inputs(inputs)
    if len(images) < 2:
        return (), ()
    others = [i for i in scored_images(run, inputs) if i != at]
    seen: set[int] = set()
    for call in calls:
        seen.update(images if (read := run.read_inputs(call.output_ids[0])) is None else read)
    unseen = [i for i in others if calls and i not in seen]
    for layer, number in named if unseen else ():
        alike = [call for call in run.calls if call.layer is layer and call.output_ids]
        reads = [run.read_inputs(call.output_ids[0]) or set() for call in alike]
        unseen = [i for i in unseen if number is None and any(i in of_call for of_call in reads)]
    return tuple(others), tuple(unseen)


def early_layer(run: Run, call: LayerCall) -> str:
    """Returns what is to be said of a chosen layer behind which most of the model still works at positions."""
    before, after = layers_behind(run.calls, call, run.behind(call.output_ids[0]))
    if len(after) <= len(before):
        return ""
    every = len(before) + len(after)
    tokens = any(behind.output_shape is not None and len(behind.output_shape) == 3 for behind in after)
    return (
        f"Layer {call.path!r} was chosen, the last feature map; but {len(after)} of the model's {every} layers with "
        f"kernels that work at positions ({len(after) / every:.0%}) lie behind it, and most of what the model has "
        "learned doesn't show in its map. "
        + ("They put out tokens (samples, tokens, channels), which are no maps yet. " if tokens else "")
        + "A later layer that puts out a feature map can be named in `layer_name`; "
        "method='occlusion', 'rise', 'saliency' or 'integrated_gradients' explain the image through all layers; "
        f"layer_name={call.path!r} takes this layer without a word."
    )


def _listed(names: Sequence[str], indices: set[int]) -> str:
    return listing([names[i] for i in sorted(indices)])


def _size(inputs: Any, index: int) -> int:
    return int(input_at(inputs, index).size)
