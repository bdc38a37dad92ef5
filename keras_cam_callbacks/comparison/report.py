"""One HTML file that shows runs side by side: it opens by double click, and asks no other host for anything."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ..checks import check_whole
from ..store.whole import whole_file
from .compared import Compared
from .page import Safe, contents, resource, scripts, template
from .payload import MAP_SIDE, MAP_SIDES, make_payload, thinned

__all__ = ["ReportFile", "write_report"]

_MISSING = "Reports need plotly. Install it: pip install 'keras_cam_callbacks[report]'"
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
        ImportError: If plotly is missing.
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
    plotly = _plotly()
    shown = thinned(comparison.held(), max_epochs)
    payload = make_payload(comparison, shown, int(image_side), int(image_quality))
    epochs = tuple(comparison.epochs[place] for place in shown)
    notes = tuple(_notes(comparison, payload, int(image_side)))
    text = json.dumps(payload, separators=(",", ":"), allow_nan=False).translate(_DEFUSED)
    content = contents(comparison) | {
        "kind": payload["kind"],
        "slices": payload["slices"],
        "payload": Safe(text),
        "live": None,
        "notes": notes,
        **({"title": title} if title else {}),
        **plotly,
    }
    size = len(_encoded(content, "0.0 MB"))
    data = _encoded(content, f"{size / 1e6:.1f} MB")
    with whole_file(path, overwrite=True) as temporary:
        temporary.write_bytes(data)
    return ReportFile(path, len(data), epochs, tuple(e for e in comparison.epochs if e not in set(epochs)), notes)


@cache
def _plotly() -> dict[str, str]:
    """The page's scripts and style. The policy names the scripts by their digests, so that no other one can run."""
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise ImportError(_MISSING) from error
    charts = get_plotlyjs()
    script = scripts()
    digests = " ".join(f"'sha256-{_base64(hashlib.sha256(text.encode()).digest())}'" for text in (script, charts))
    return {
        "css": Safe(resource("report.css")),
        "script": Safe(script),
        # A third of its size, and not parsed before the first chart is looked at.
        "plotly": _base64(gzip.compress(charts.encode(), 9, mtime=0)),
        "policy": Safe(
            "default-src 'none'; base-uri 'none'; form-action 'none'; img-src data: blob:; "
            f"style-src 'unsafe-inline'; script-src {digests}"
        ),
    }


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _encoded(content: Mapping[str, Any], size: str) -> bytes:
    # Names of files may hold what UTF-8 does not know.
    return template("report.html.jinja").render(content, size=size).encode("utf-8", "replace")


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
