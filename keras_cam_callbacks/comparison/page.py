"""The page on which runs stand side by side, as a file and as a tab of TensorBoard: one template, scripts and style."""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from typing import Any

import jinja2
import numpy as np

from .. import __version__
from ..store import label
from .compared import Compared, row_of
from .payload import epoch_means
from .tables import of_classes
from .words import sentences

__all__ = ["Safe", "contents", "resource", "scripts", "template"]

_OF_CLASSES = ("energy_in_region", "confidence")  # numbers that are told by class, and the share that is right
_MOST_CLASSES = 8
_SCRIPTS = ("report_maps.js", "report_charts.js", "report.js", "report_start.js")
_LIVE = ("report_runs.js", "report_live.js")


class Safe(str):
    """Text that is safe where it stands, which Jinja2 must leave as it is."""

    def __html__(self) -> str:
        return self


@cache
def template(name: str) -> jinja2.Template:
    """Returns one of the templates of this package. All that is put in is escaped."""
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.FunctionLoader(resource),
    )
    return environment.get_template(name)


@cache
def resource(name: str) -> str:
    """Returns the text of a file that lies beside this one."""
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def scripts(live: bool = False) -> str:
    """Returns all that the page does, as one script.

    Args:
        live: Whether what it shows comes from a server, which has more with time.
    """
    return "".join(map(resource, _SCRIPTS + _LIVE * live))


def contents(comparison: Compared, left: int = 0) -> dict[str, Any]:
    """Returns what the page says in words and tables, by the names of its template.

    Args:
        comparison: The compared runs.
        left: How many epochs are still to be read: what is said of all of them then waits.
    """
    return {
        "title": f"Where {_listed(comparison.names)} look{'s' * (len(comparison.names) == 1)}",
        "names": comparison.names,
        "findings": ["The epochs are still being read."] if left else sentences(comparison),
        "table": [] if left else _table(comparison),
        "classes": [] if left else _classes(comparison),
        "unit": comparison.unit,
        "differences": {name: list(map(_text, values)) for name, values in comparison.differences.items()},
        "runs": _about(comparison),
        "version": __version__,
    }


def _listed(names: tuple[str, ...]) -> str:
    if len(names) > 4:
        return f"{len(names)} runs"
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _text(value: Any) -> str:
    """A setting as people write it; None is one that the run does not have."""
    return "–" if value is None else value if isinstance(value, str) else json.dumps(value, default=str)


def _table(comparison: Compared) -> list[dict[str, Any]]:
    """A row for each number, with its value in the last epoch of each run, and whether that is the best one."""
    last = [int(np.flatnonzero(epochs)[-1]) for epochs in comparison.held()]
    cells = [(str(comparison.epochs[place]), False) for place in last]
    table: list[dict[str, Any]] = [{"name": comparison.unit, "about": "the last one of each run", "cells": cells}]
    for name, means in epoch_means(comparison).items():
        values = means[np.arange(len(last)), last]
        row = row_of(name)
        sign = row.better if row.judged else 0
        known = sign * values[np.isfinite(values)]
        # Where all are as good, none is the best.
        best = known.max() if len(known) > 1 and known.max() > known.min() else np.nan
        direction = {1: "higher is better", -1: "lower is better", 0: ""}[sign]
        table.append(
            {
                "name": name,
                "about": "; ".join(filter(None, (row.about, direction))),
                "cells": [(f"{v:.3g}" if np.isfinite(v) else "–", bool(sign * v == best)) for v in values],
            }
        )
    settled = comparison.settled()
    if (settled >= 0).any():
        about = f"first {comparison.unit} since which drift stays below 0.1"
        cells = [(str(since) if since >= 0 else "–", False) for since in settled]
        table.append({"name": "settled", "about": about, "cells": cells})
    return table


def _classes(comparison: Compared) -> list[dict[str, Any]]:
    """A row for each of a few numbers and each class, in the last epoch of each run; most telling first."""
    last = [int(np.flatnonzero(epochs)[-1]) for epochs in comparison.held()]
    by_run = [{row["label"]: row for row in of_classes(comparison, run, place)} for run, place in enumerate(last)]
    classes = list(dict.fromkeys(one for rows in by_run for one in rows))
    if len(classes) < 2:
        return []
    table: list[dict[str, Any]] = []
    for name in (*_OF_CLASSES, comparison.right_name):
        values = [[rows[one].get(name) if one in rows else None for rows in by_run] for one in classes]
        if not any(value is not None for row in values for value in row):
            continue
        worst_first = sorted(range(len(classes)), key=lambda i: min((v for v in values[i] if v is not None), default=2))
        for i in worst_first[:_MOST_CLASSES]:
            samples = max(rows[classes[i]]["samples"] for rows in by_run if classes[i] in rows)
            cells = [("–" if value is None else f"{value:.3g}", False) for value in values[i]]
            about = f"{samples} image{'s' * (samples != 1)}"
            table.append({"name": f"{name}: {comparison.class_name(classes[i])}", "about": about, "cells": cells})
        if len(classes) > _MOST_CLASSES:
            table[-1]["about"] += f"; {len(classes) - _MOST_CLASSES} classes with higher values are left out"
    return table


def _about(comparison: Compared) -> dict[str, list[str]]:
    """What each run is, where all runs are alike in it too."""
    rows = {
        row: [_text(label(run.manifest, name) or None) for run in comparison.runs]
        for row, name in (("model", "model_name"), ("layer", "layer"))
    }
    rows |= {name: [_text(run.manifest[name] or None) for run in comparison.runs] for name in ("method", "target")}
    rows["folder"] = [run.directory.name for run in comparison.runs]
    rows["epochs"] = [str(len(run.epochs)) for run in comparison.runs]
    return rows
