"""The run record on disk: what was logged, epoch by epoch, for `compare` and for people.

A run is one folder::

    manifest.json                 what is the same for all epochs; maps each sample key to a file name
    images/<file>.png             the display images
    regions/<file>.png            where the object is, for samples of which a mask was given
    heatmaps/<step>.npz           raw heatmaps, scores, classes, outputs: plain arrays
    overlays/<step>/<file>.jpg    the overlays
    metrics.jsonl                 one line an epoch

An epoch's files are written under another name, moved into place, and then committed by their line in
metrics.jsonl. Killed at any moment, a run so holds whole epochs only. numpy and the standard library; `drawing.files`
reads and writes the pictures, and is loaded for that alone.
"""

from .folders import Place, choose_directory, find_run, new_run_id
from .manifest import STABLE, are_stable, check_file, file_stem, label
from .reader import Run, StoredEpoch, find_runs, read_run
from .writer import RunWriter

__all__ = [
    "STABLE",
    "Place",
    "Run",
    "RunWriter",
    "StoredEpoch",
    "are_stable",
    "check_file",
    "choose_directory",
    "file_stem",
    "find_run",
    "find_runs",
    "label",
    "new_run_id",
    "read_run",
]
