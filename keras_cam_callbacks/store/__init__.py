"""The run record on disk: what was logged, epoch by epoch, for `compare` and for people.

A run is one folder::

    manifest.json                 what is the same for all epochs; maps each sample key to a file name
    images/<file>.png             the display images; of volumes and clips all slices, row by row
    images/<file>.npy             signals as they are shown, (T, C)
    regions/<file>.png            where the object is, for samples of which a mask was given
    heatmaps/<step>.npz           raw heatmaps, scores, classes, outputs: plain arrays
    sheets/<step>.jpg             all samples in one picture, for people who leaf through the epochs
    pictures/<step>.zip           all pictures as they were logged, where they can't be drawn from the rest
    overlays/<step>/<file>.jpg    each picture in a file of its own, on request
    metrics.jsonl                 one line an epoch, or for something that failed
    lock                          empty; held while an epoch is written

An epoch's files are written under another name, moved into place, and then committed by their line in
metrics.jsonl. Killed at any moment, a run so holds whole epochs only.

A line has epoch, step, wall_time, scalars, captions, heatmaps (a file), views and values (names), and of the pictures:
their format; "drawn", what they are drawn from besides images and heatmaps (captions and overlay where they differ from
the samples' and the run's, titles, title, sizes); "pictures" or "overlays", files, where they are kept; "sheet". A
single picture that can't be drawn is its own sheet. "freq" is there where it differs from the manifest's; "batch" in a
record whose manifest has "steps", of how many training steps one is logged: then steps of lines are training steps,
epochs elsewhere, and "batch" says after how many batches of its epoch something was logged within it. "labels",
"class_names", "training" and "tracked" in the first line of a fit, where they differ from what the record says until
then: they hold for that line and all below it. A line with "event" is no epoch: {"event": "failed", "epoch", "step",
"wall_time", "what", "error"}.

Readers pass over what they don't know: fields of the manifest, of lines and of what is in them, events, arrays.
So later versions add optional fields, and the manifest's schema_version stays 2; a greater one is refused. In the
manifest labels are indices, lists of them, or null; space is null, or has axes, sizes (null where they are not fixed)
and layout of the heatmaps, which have any number of axes behind the samples; display, where samples are no images, has
for each null, or kind ("slices" or "array") and shape; the space that "drawn" may have is that of the input. In schema
1 each line has "overlays" and nothing else of the pictures, labels are single, and there are no events; it stays
readable, and who goes on with such a record writes as it is. numpy, filelock and the standard library; `drawing` draws,
reads and writes the pictures, and is loaded for that alone.
"""

from .events import Event, Missing
from .folders import Place, choose_directory, find_run, new_run_id
from .manifest import STABLE, architectures, are_stable, check_file, file_stem, label, moved_class, same_label
from .reader import Run, StoredEpoch, find_runs, read_run
from .writer import RunWriter

__all__ = [
    "STABLE",
    "Event",
    "Missing",
    "Place",
    "Run",
    "RunWriter",
    "StoredEpoch",
    "architectures",
    "are_stable",
    "check_file",
    "choose_directory",
    "file_stem",
    "find_run",
    "find_runs",
    "label",
    "moved_class",
    "new_run_id",
    "read_run",
    "same_label",
]
