"""Which of several workers logs: the chief alone."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ..passes import cluster

__all__ = ["Worker", "this_worker"]

# Those that train; "master" is an older name of the chief.
_CHIEFS = ("chief", "master")
_TRAINING = (*_CHIEFS, "worker")


@dataclass(frozen=True)
class Worker:
    """This process among those that train a model together.

    Attributes:
        name: Its task, such as "worker 1"; "" where it is not told.
        is_chief: Whether it is the one that logs: the chief, or worker 0 where there is none. An evaluator, which
            trains nothing, is its own chief, as it is for TensorFlow.
        is_synchronous: Whether the model's strategy has it wait for others.
    """

    name: str = ""
    is_chief: bool = True
    is_synchronous: bool = False


def this_worker(model: Any) -> Worker:
    """Tells which worker this process is, by the strategy of the model, or else by TF_CONFIG.

    Args:
        model: The model that is trained.

    Returns:
        The worker. What can't be read, such as a TF_CONFIG that is no JSON, tells of no other workers.
    """
    # A wrong one must not end a training that can do without.
    with suppress(ValueError, TypeError, AttributeError, KeyError):
        workers = cluster(model)
        if workers is not None:
            return _worker(workers, is_synchronous=True)
        return _worker(json.loads(os.environ.get("TF_CONFIG") or "{}"))
    return Worker()


def _worker(told: Mapping[str, Any], is_synchronous: bool = False) -> Worker:
    """Reads what is written as TF_CONFIG is."""
    cluster, task = told.get("cluster") or {}, told.get("task") or {}
    counts = {job: len(list(cluster[job])) for job in _TRAINING if job in cluster}
    job, index = str(task.get("type") or ""), int(task.get("index") or 0)
    alone = sum(counts.values()) < 2
    first = index == 0 and not counts.keys() & set(_CHIEFS)
    is_chief = job not in ("worker", "ps") or (job == "worker" and (alone or first))
    # A coordinator runs all workers itself, and an evaluator waits for none.
    waits = is_synchronous and job in ("", *_TRAINING) and not alone
    return Worker(f"{job} {index}" if job else "", is_chief, waits)
