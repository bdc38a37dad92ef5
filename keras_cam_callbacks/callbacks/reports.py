"""The report of a run: it is made anew at the end of each fit, beside the record."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from ..comparison import compare
from ..store import read_run
from ..store.manifest import MANIFEST

_FILE = "report.html"
_PACKAGES = ("jinja2", "plotly")


def missing_packages() -> list[str]:
    """Returns the packages that reports need and that are not installed."""
    return [name for name in _PACKAGES if find_spec(name) is None]


def write_run_report(directory: Path) -> Path | None:
    """Writes the report of a run into its folder, in place of an earlier one.

    Returns:
        The file; None where the folder holds no epoch, as where no tracker writes the record.

    Raises:
        ValueError: If a file of the record is damaged.
        OSError: If the report can't be written.
    """
    run = read_run(directory) if (directory / MANIFEST).exists() else None
    if run is None or not run.epochs:
        return None
    path = directory / _FILE
    compare([run]).report(path)
    return path


def remove_run_report(directory: Path) -> None:
    """Removes the report of earlier fits: after an interruption it would lack what came since."""
    (directory / _FILE).unlink(missing_ok=True)
