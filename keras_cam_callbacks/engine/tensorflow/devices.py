"""Where a model is trained: on which devices, by which workers."""

from __future__ import annotations

from typing import Any

import tensorflow as tf


def scope(model: Any) -> Any:
    """Returns the scope of the model's strategy; see `contract.Engine`."""
    return _strategy(model).scope()


def cluster(model: Any) -> dict[str, Any] | None:
    """Returns what the model's strategy tells of its workers; see `contract.Engine`."""
    resolver = _strategy(model).cluster_resolver
    try:
        jobs = resolver.cluster_spec().as_dict() if resolver is not None else None
        return {"cluster": jobs, "task": {"type": resolver.task_type, "index": resolver.task_id}} if jobs else None
    # A resolver may be a user's, or ask a service in the cloud; who can't be asked tells nothing.
    except Exception:
        return None


def _strategy(model: Any) -> Any:
    """Returns the strategy that a model is trained under, which is TensorFlow's default where there is no other."""
    # A model's own is the one in whose scope it was made.
    return getattr(model, "distribute_strategy", None) or tf.distribute.get_strategy()
