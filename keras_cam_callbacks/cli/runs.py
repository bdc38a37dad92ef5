"""`keras-cam runs`: what was logged. It loads no framework."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from .console import need, number, one_message, plain, print_json, print_table, say

_SHOWN = 4  # how many numbers of the last epoch the table has room for
_FIRST = ("confidence", "energy_in_region", "drift", "area")  # those that tell most, where a run has them

_FOLDERS = ("heatmaps", "images", "overlays", "pictures", "regions", "sheets")  # of a record


@click.command(short_help="List the runs in a folder.")
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path), metavar="DIR")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with all numbers of the last epochs.")
def runs(directory: Path, as_json: bool) -> None:
    """Lists the runs in a folder, at any depth.

    Shows for each run its epochs, samples, method, layer, and numbers of its last epoch; then what failed while it was
    logged, and which epochs are missing and why. A run that can't be read is listed with the reason. Exit code 0 also
    where there is none.
    """
    need("rich")
    with one_message():
        found = [describe_run(path) for path in find_run_folders(directory)]
    if as_json:
        print_json(found)
        return
    if not found:
        say(f"There is no run in {directory}.")
        return
    whole = [run for run in found if run["error"] is None]
    if whole:
        rows = [
            (
                os.path.relpath(run["path"], directory),
                len(run["epochs"]),
                run["samples"],
                run["method"],
                run["layer"] or "-",
                [f"{name} {number(value)}" for name, value in _telling(run["last"])] or "-",
            )
            for run in whole
        ]
        headers = ["run", "epochs", "samples", "method", "layer", "last epoch"]
        print_table(headers, rows, right=["epochs", "samples"])
    for run in whole:
        for text in _lacks(run):
            click.echo(plain(f"{os.path.relpath(run['path'], directory)}: {text}"))
    for run in found:
        if run["error"] is not None:
            click.echo(plain(f"Damaged: {run['path']}: {run['error']}"))


def find_run_folders(directory: Path) -> Iterator[Path]:
    """Yields all folders with a run's manifest, `directory` itself included, in order; links are not followed."""
    for place, folders, files in os.walk(directory):
        folders.sort()
        if "manifest.json" in files and _is_manifest(Path(place, "manifest.json")):
            folders[:] = [name for name in folders if name not in _FOLDERS]
            yield Path(place)


def _is_manifest(path: Path) -> bool:
    """Tells a run's manifest, whole or damaged, from what other programs call so."""
    if not path.is_file():  # A pipe would be waited for without end.
        return False
    try:
        manifest = json.loads(path.read_bytes())
    except (ValueError, RecursionError, OSError):
        return True
    return isinstance(manifest, dict) and not {"schema_version", "sample_keys"}.isdisjoint(manifest)


def _lacks(run: dict[str, Any]) -> Iterator[str]:
    """Yields in words what failed, and which epochs are missing; those that `freq` passed over are counted."""
    passed: Counter[str] = Counter()
    for missing in run["missing"]:
        if missing["freq"] is not None:
            passed[missing["reason"]] += missing["last"] - missing["first"] + 1
        elif not missing["failed"]:
            yield missing["text"]
    for event in run["failures"]:
        yield event["text"]
    for reason, count in passed.items():
        yield f"{count} epoch{'s' * (count > 1)}: {reason}"


def _telling(numbers: dict[str, float]) -> list[tuple[str, float]]:
    """Returns the few numbers of an epoch that are shown."""
    places = {name: place for place, name in enumerate(_FIRST)}
    return sorted(numbers.items(), key=lambda item: places.get(item[0], _SHOWN))[:_SHOWN]


def describe_run(path: Path) -> dict[str, Any]:
    """Returns what a run is, as plain data; the reason under "error" where it can't be read."""
    from ..store import label, read_run

    try:
        run = read_run(path)
        gone = [epoch.step for epoch in run.epochs if not epoch.heatmap_file.is_file()]
        lacking = run.missing()
    except (ValueError, OSError, RecursionError) as error:
        return {"path": str(path), "error": str(error) or type(error).__name__}
    last = run.epochs[-1] if run.epochs else None
    manifest = run.manifest
    return {
        "path": str(path),
        "error": f"The files of steps {gone[:10]} are gone." if gone else None,
        "epochs": [epoch.step for epoch in run.epochs],
        "missing": [vars(missing) | {"text": str(missing)} for missing in lacking],
        "failures": [vars(event) | {"text": str(event)} for event in run.events],
        "samples": len(run.sample_keys),
        "model": label(manifest, "model_name"),
        "method": manifest["method"],
        "target": manifest["target"],
        "layer": label(manifest, "layer"),
        "prefix": manifest["prefix"],
        "views": manifest.get("views") or [],
        "class_names": None if run.class_names is None else list(run.class_names),
        "last": {} if last is None else dict(last.scalars),
        "last_written": None if last is None else _when(last.wall_time),
    }


def _when(seconds: float) -> str | None:
    try:
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
    except (OverflowError, ValueError, OSError):  # Of a damaged record.
        return None
