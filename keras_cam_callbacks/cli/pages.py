"""HTML pages of stored runs, for the commands that write one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .console import say

if TYPE_CHECKING:
    from ..comparison import Comparison
    from ..comparison.report import ReportFile

PACKAGES = ("plotly",)
"""What writing a page needs."""


def check_page(out: Path, force: bool) -> None:
    """Checks before any work that a report can be written there."""
    from ..store.whole import check_free

    if out.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--out must be an HTML file. Received: {out}. {out.with_suffix('.html')} works.")
    check_free(out, folder=False, overwrite=force)


def write_page(comparison: Comparison, out: Path, max_epochs: int) -> ReportFile:
    """Writes the page of a comparison, says how large it is and what was left out, and returns the same."""
    from ..comparison.report import write_report

    written = write_report(comparison, out, max_epochs=max_epochs)
    say(f"The report has {written.size / 1e6:.1f} MB and shows {len(written.epochs)} epochs.")
    for note in written.notes:
        say(note)
    return written
