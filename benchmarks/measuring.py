"""What all benchmarks share: times, cases in turn, ratios to a bare forward pass, and tables."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import numpy as np

BARE = "bare forward pass"
BARE_RUNS = 3  # of the bare pass in each round

Case = Callable[[], object]
Seconds = tuple[float, float]  # wall and CPU; the latter of all threads of the process
Times = dict[str, list[Seconds]]  # by case, in each round

_IMPORT = """
import json, sys, time
before = time.perf_counter(), time.process_time()
exec(sys.argv[1])
spent = time.perf_counter() - before[0], time.process_time() - before[1]
print(json.dumps([spent, sorted({name.partition(".")[0] for name in sys.modules})]))
"""


def seconds(case: Case) -> Seconds:
    """Runs a case once; returns wall and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    case()
    return time.perf_counter() - wall, time.process_time() - cpu


def in_turn(cases: Mapping[str, Case], rounds: int, seldom: Mapping[str, int] | None = None) -> Times:
    """Runs all cases round by round, each time in another order, after one round that does not count.

    The bare pass, where it is among the cases, runs at the beginning, in the middle and at the end of each round.

    Args:
        cases: What runs, by name.
        rounds: How often.
        seldom: In how many rounds at most cases run that take most of the time, also not in the one before the first.
    """
    shuffled = Random(0)
    times: Times = {name: [] for name in cases}
    others = [name for name in cases if name != BARE]
    for number in range(-1, rounds):
        # A fixed order would charge what a case leaves running (threads, a tracker's process) to the one behind it.
        order = shuffled.sample(others, len(others))
        if BARE in cases:
            middle = len(order) // 2
            order = [BARE, *order[:middle], BARE, *order[middle:], BARE]
        for name in order:
            if seldom and name in seldom and not 0 <= number < seldom[name]:
                continue
            spent = seconds(cases[name])
            if number >= 0:
                times[name].append(spent)
    return times


def ratios(times: Times, name: str) -> Any:
    """Returns (runs, 2) float64: a case's wall and CPU times, divided by the mean of the same round's bare passes."""
    means = np.array(times[BARE]).reshape(-1, BARE_RUNS, 2).mean(axis=1)
    runs = BARE_RUNS if name == BARE else 1
    # A case that is seldom runs in the first rounds only.
    return np.array(times[name]) / np.repeat(means, runs, axis=0)[: len(times[name])]


def medians(runs: Sequence[Sequence[float]]) -> Seconds:
    """Returns the medians of wall and of CPU seconds."""
    return median(run[0] for run in runs), median(run[1] for run in runs)


def import_time(python: str, statements: str, **environment: str) -> tuple[Seconds, set[str]]:
    """Runs import statements in a fresh process; returns the time, and the top-level modules that it has then."""
    command = [python, "-c", _IMPORT, statements]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, **environment})
    (wall, cpu), modules = json.loads(done.stdout.splitlines()[-1])
    return (wall, cpu), set(modules)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def pair(spent: Sequence[float], digits: int = 2) -> str:
    """Wall and CPU, or two ratios of these, as a cell."""
    return f"{spent[0]:.{digits}f} / {spent[1]:.{digits}f}"


def cell(times: Times, name: str, digits: int = 2) -> str:
    return pair(np.median(ratios(times, name), axis=0), digits)


def spread(times: Times) -> str:
    """The quartiles of the bare passes, which tell how steady the machine was."""
    low, high = np.percentile(ratios(times, BARE), (25, 75), axis=0)
    return f"{low[0]:.2f}–{high[0]:.2f} / {low[1]:.2f}–{high[1]:.2f}"


def milliseconds(times: Times, name: str) -> str:
    return f"{1000 * median(wall for wall, _ in times[name]):.1f}"


def machine(*packages: str) -> str:
    """The machine, its Python and packages, in words."""
    words = [f"{os.cpu_count()} CPU cores", f"Python {platform.python_version()}"]
    return ", ".join([*words, *(f"{package} {metadata.version(package)}" for package in packages)])


@contextmanager
def offline_wandb(folder: Path) -> Iterator[None]:
    """A W&B run that is active meanwhile; its process has ended when the folder is removed."""
    import wandb

    with wandb.init(
        mode="offline", dir=folder, project="benchmarks", settings=wandb.Settings(silent=True, console="off")
    ):
        yield
    wandb.teardown()


def write(text: str, out: Path | None) -> None:
    """Prints results, and writes them into a file if there is one."""
    print(text)
    if out is not None:
        out.write_text(text + "\n", encoding="utf-8")
