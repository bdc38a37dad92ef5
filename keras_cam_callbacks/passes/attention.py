"""What attention methods need of a run: every block's self-attention, averaged over its heads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import keras

from ..engine.contract import DifferentiatedRun
from ..network.layers import call_that_made, walk

NEEDS = ("attentions", "relevances", "readout", "positions")
"""What methods can need of attention; see `records.Capture`."""

_WAY_OUT = "method='hirescam' or 'layercam' explains a layer of tokens, whatever comes behind it."
_FLASH = " Of flash attention no weights are seen: build the model after keras.config.disable_flash_attention()."


def captured_attention(run: DifferentiatedRun, needs: Iterable[str], model: Any, image: int) -> dict[str, Any]:
    """Returns the self-attentions on the way to each score, by name and number of the score.

    Args:
        run: The run.
        needs: Names among `NEEDS`.
        model: The model.
        image: Which of its inputs, flattened, is the image; attention on others is left out.

    Returns:
        "attentions" and "relevances", (N, blocks, T, T) float32, those that are needed; "readout", (N, T) float32.

    Raises:
        ValueError: If the model has no self-attention of all tokens with all, the same ones in every block.
    """
    ops = keras.ops
    results = {}
    for t in range(len(run.scores)):
        pairs = [
            (attention, slope)
            for attention, slope in zip(run.attentions(t), run.attention_gradients(t), strict=True)
            if image in (run.read_inputs(attention.source_id) or ())
        ]
        weights, gradients = [attention.weights for attention, _ in pairs], [slope for _, slope in pairs]
        sources = [call_that_made(attention.source_id, run.calls) for attention, _ in pairs]
        _check(weights, [call.output_shape for call in sources if call is not None], model)
        if gradients[-1] is None:
            raise ValueError(
                "The explained score must depend on the attention of the last block. Received: model "
                f"{model.name!r}, from which no gradient reaches it. {_WAY_OUT}"
            )
        if "attentions" in needs:
            means = [ops.mean(ops.cast(of_block, "float32"), axis=1) for of_block in weights]
            results[f"attentions {t}"] = ops.stack(means, axis=1)
        if "relevances" in needs:
            parts = [
                ops.mean(ops.relu(ops.cast(of_block, "float32") * slope), axis=1)
                for of_block, slope in zip(weights, gradients, strict=True)
                if slope is not None
            ]
            results[f"relevances {t}"] = ops.stack(parts, axis=1)
        # From the other tokens behind the last block nothing goes to the score.
        read = ops.cast(ops.sum(ops.abs(gradients[-1]), axis=(1, 3)) > 0, "float32")
        results[f"readout {t}"] = read / ops.maximum(ops.sum(read, axis=1, keepdims=True), 1)
    return results


def _is_fused(named: tuple[str, Any]) -> bool:
    """Tells whether a layer may run its attention as one function, of which no weights are seen."""
    return getattr(named[1], "_flash_attention", False) is not False


def _check(weights: Sequence[Any], sources: Sequence[Any], model: Any) -> None:
    if not weights:
        raise ValueError(
            "Attention methods need a model with self-attention on the way to the score. "
            f"Received: model {model.name!r}, in which none is seen. Methods of a layer, such as 'gradcam', take any."
            f"{_FLASH if any(map(_is_fused, walk(model))) else ''}"
        )
    shapes = [tuple(tensor.shape) for tensor in weights]
    counts = {shape[-2:] for shape in shapes}
    tokens = {shape[1] for shape in sources if shape is not None and len(shape) == 3 and shape[1] is not None}
    sides = {side for pair in counts for side in pair if side is not None}
    if any(len(shape) != 4 for shape in shapes) or len(counts) > 1 or len(sides | tokens) > 1:
        raise ValueError(
            "Attention methods need every token to attend to every other one, the same tokens in all blocks. Received: "
            f"model {model.name!r} with attention of shapes {', '.join(map(str, dict.fromkeys(shapes)))} on "
            f"{', '.join(map(str, sorted(tokens))) or 'other'} tokens, as where it works in windows, or on fewer "
            f"keys. {_WAY_OUT}"
        )
