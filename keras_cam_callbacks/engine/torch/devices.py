"""Where a model is trained: on which device, by which processes."""

from __future__ import annotations

import contextlib
from typing import Any

import torch


def scope(model: Any) -> Any:
    """Returns a scope that does nothing: each process has its own variables; see `contract.Engine`."""
    return contextlib.nullcontext()


def cluster(model: Any) -> dict[str, Any] | None:
    """Returns what the process group tells of the workers; see `contract.Engine`. Rank 0 is worker 0."""
    group = torch.distributed
    if not (group.is_available() and group.is_initialized()) or group.get_world_size() < 2:
        return None
    addresses = [f"rank {rank}" for rank in range(group.get_world_size())]
    return {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": group.get_rank()}}
