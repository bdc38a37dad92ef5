"""Where a model is trained: on which devices, by which processes."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import jax


def scope(model: Any) -> Any:
    """Returns a context that does nothing: Keras itself lays out variables as its distribution says."""
    return nullcontext()


def cluster(model: Any) -> dict[str, Any] | None:
    """Returns the processes that JAX knows of; see `contract.Engine`."""
    count = jax.process_count()
    if count < 2:
        return None
    # JAX tells no addresses.
    workers = [f"process {i}" for i in range(count)]
    return {"cluster": {"worker": workers}, "task": {"type": "worker", "index": jax.process_index()}}
