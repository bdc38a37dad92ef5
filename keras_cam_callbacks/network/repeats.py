"""Calls of a layer that compute the same, as of a siamese network's tower that is called twice on one image.

They count as one call, and put out the same tensors: see `engine.contract.Run`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .layers import LayerCall


def repeats(call: LayerCall, calls: Sequence[LayerCall]) -> list[LayerCall]:
    """Returns the calls that compute the same as one, itself among them, in call order."""
    return [other for other in calls if _key(other) == _key(call)]


def first_ones(calls: Sequence[LayerCall]) -> list[LayerCall]:
    """Returns the calls, of those that compute the same the first."""
    firsts: dict[Any, LayerCall] = {}
    for call in calls:
        firsts.setdefault(_key(call), call)
    return list(firsts.values())


def _key(call: LayerCall) -> Any:
    return (id(call.layer), call.output_ids) if call.output_ids else id(call)
