"""One HTML file that shows runs side by side: it opens by double click, and asks no other host for anything."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import __version__
from ..checks import check_whole
from ..store import label
from ..store.whole import whole_file
from .compared import Compared, row_of
from .payload import MAP_SIDE, MAP_SIDES, epoch_means, make_payload, thinned
from .tables import of_classes
from .words import sentences

if TYPE_CHECKING:
    import jinja2

__all__ = ["ReportFile", "write_report"]

_MISSING = "Reports need jinja2 and plotly. Install them: pip install 'keras_cam_callbacks[report]'"
_OF_CLASSES = ("energy_in_region", "confidence")  # numbers that are told by class, and the share that is right
_MOST_CLASSES = 8
_SCRIPTS = ("report_maps.js", "report_charts.js", "report.js", "report_start.js")
# As JSON these mean the same, and no HTML parser sees a tag, a comment or an entity in them.
_DEFUSED = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}


@dataclass(frozen=True)
class ReportFile:
    """A report that was written.

    Attributes:
        path: The file.
        size: Its size in bytes.
        epochs: The epochs whose heatmaps it shows.
        left_out: The epochs of which it has the runs' means alone.
        notes: What else was left out or made smaller, in sentences; the page says the same.
    """

    path: Path
    size: int
    epochs: tuple[int, ...]
    left_out: tuple[int, ...]
    notes: tuple[str, ...]


def write_report(
    comparison: Compared,
    path: str | Path,
    *,
    max_epochs: int | None = 200,
    image_side: int = 224,
    image_quality: int = 80,
    title: str = "",
) -> ReportFile:
    """Writes a report of compared runs, or of one: a self-contained HTML file.

    Rows are samples, columns are runs, and one slider moves all of them through the epochs. The file holds each image
    once, and the heatmaps as bytes: browsers draw the overlays. So 6 runs of 200 epochs on 64 samples fit into about
    10 MB, of which plotly takes 2. Browsers of 2023 or later show it.

    Args:
        comparison: What `compare` returned.
        path: The file, .html or .htm. One that is there is replaced once all is written; missing folders are made.
        max_epochs: Of how many epochs heatmaps and the numbers of each sample are kept: evenly spaced, with the first
            and the last of each run where they fit. None keeps all. The runs' means are kept of every epoch.
        image_side: The longer side in px to which larger images are shrunk.
        image_quality: Of the images as JPEG, 1 to 100.
        title: The page's title; by default the names of the runs.

    Returns:
        What was written, how large it is, and what was left out.

    Raises:
        ImportError: If jinja2 or plotly is missing.
        ValueError: If an argument is not one of the above, or a file of a run is damaged.
        OSError: If a file of a run is gone, or the report can't be written; what was there before then still is.
    """
    path = Path(path)
    if path.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"`path` must be that of an HTML file. Received: {str(path)!r}. 'report.html' works.")
    if max_epochs is not None:
        check_whole("max_epochs", max_epochs, 2, 80)
    check_whole("image_side", image_side, 16, 80, most=4096)
    check_whole("image_quality", image_quality, 1, 80, most=100)
    template, plotly = _template(), _plotly()
    shown = thinned(comparison.held(), max_epochs)
    payload = make_payload(comparison, shown, int(image_side), int(image_quality))
    epochs = tuple(comparison.epochs[place] for place in shown)
    notes = tuple(_notes(comparison, payload, int(image_side)))
    content = {
        "title": title or f"Where {_listed(comparison.names)} look{'s' * (len(comparison.names) == 1)}",
        "names": comparison.names,
        "findings": sentences(comparison),
        "table": _table(comparison),
        "classes": _classes(comparison),
        "differences": {name: list(map(_text, values)) for name, values in comparison.differences.items()},
        "runs": _about(comparison),
        "kind": payload["kind"],
        "unit": comparison.unit,
        "slices": payload["slices"],
        "payload": _Json(json.dumps(payload, separators=(",", ":"), allow_nan=False).translate(_DEFUSED)),
        "notes": notes,
        "version": __version__,
        **plotly,
    }
    size = len(_encoded(template, content, "0.0 MB"))
    data = _encoded(template, content, f"{size / 1e6:.1f} MB")
    with whole_file(path, overwrite=True) as temporary:
        temporary.write_bytes(data)
    return ReportFile(path, len(data), epochs, tuple(e for e in comparison.epochs if e not in set(epochs)), notes)


class _Json(str):
    """JSON that is safe within a script element, which Jinja2 must leave as it is."""

    def __html__(self) -> str:
        return self


def _template() -> jinja2.Template:
    try:
        import jinja2
    except ImportError as error:
        raise ImportError(_MISSING) from error
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(_resource("report.html.jinja"))


def _resource(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


@cache
def _plotly() -> dict[str, str]:
    """The page's scripts and style. The policy names the scripts by their digests, so that no other one can run."""
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise ImportError(_MISSING) from error
    charts = get_plotlyjs()
    script = "".join(map(_resource, _SCRIPTS))
    digests = " ".join(f"'sha256-{_base64(hashlib.sha256(text.encode()).digest())}'" for text in (script, charts))
    return {
        "css": _Json(_resource("report.css")),
        "script": _Json(script),
        # A third of its size, and not parsed before the first chart is looked at.
        "plotly": _base64(gzip.compress(charts.encode(), 9, mtime=0)),
        "policy": _Json(
            "default-src 'none'; base-uri 'none'; form-action 'none'; img-src data: blob:; "
            f"style-src 'unsafe-inline'; script-src {digests}"
        ),
    }


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _encoded(template: jinja2.Template, content: Mapping[str, Any], size: str) -> bytes:
    # Names of files may hold what UTF-8 does not know.
    return template.render(content, size=size).encode("utf-8", "replace")


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


def _notes(comparison: Compared, payload: Mapping[str, Any], image_side: int) -> Iterator[str]:
    """Says what is not in the report as it is in the runs."""
    epochs, shown = len(comparison.epochs), len(payload["epochs"])
    if shown < epochs:
        yield f"Heatmaps of {shown} of {epochs} epochs, evenly spaced; the means over the images are of every epoch."
    for name, run in zip(comparison.names, payload["runs"], strict=True):
        if run["pooled"]:
            whole, part = (" × ".join(map(str, _in_words(run[key]))) for key in ("pooled", "shape"))
            yield f"Heatmaps of {name} have {whole} values; {part} of them are kept, as means."
    if any(max(image["width"], image["height"]) == image_side for image in payload["images"]):
        yield f"Images are shown with at most {image_side} px a side."
    for name, keys in comparison.left_out.items():
        yield f"{len(keys)} samples of {name} are left out, as not all runs have them."
    if payload["slices"] is not None and len(payload["slices"]["numbers"]) < payload["slices"]["count"]:
        axis, count = payload["slices"]["axis"], payload["slices"]["count"]
        yield f"Of {count} slices along {axis} {len(payload['slices']['numbers'])} are shown, evenly spaced."
    axes = len(payload["runs"][0]["shape"])
    most = " × ".join([str(MAP_SIDE if axes == 2 else MAP_SIDES[axes])] * axes)
    yield (
        f"Of each heatmap its positive part is kept, in 256 levels, at most {most}; the run records hold it as it was."
    )


def _in_words(size: Sequence[int]) -> Sequence[int]:
    """Sizes as people say them: of an image its width first."""
    return size[::-1] if len(size) == 2 else size
