"""A comparison as the last value of a notebook's cell: its sentences, and its figure where matplotlib is there."""

from __future__ import annotations

import base64
import io
from html import escape
from importlib.util import find_spec

from .compared import Compared
from .pictures import draw
from .words import sentences


def html_of(comparison: Compared) -> str:
    """Returns what a notebook shows, as HTML.

    Raises:
        ValueError: If a file of a run is damaged.
        OSError: If a file of a run is gone.
    """
    said = "".join(f"<li>{escape(line)}</li>" for line in sentences(comparison))
    if find_spec("matplotlib") is None:
        return f"<ul>{said}</ul>"
    buffer = io.BytesIO()
    draw(comparison, 4, None, None, None).savefig(buffer, format="png", dpi=72, bbox_inches="tight")
    picture = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f'<ul>{said}</ul><img alt="The samples that differ most" src="data:image/png;base64,{picture}">'
