"""Which folder a run writes into: a new one, or that of the run which goes on."""

from __future__ import annotations

import os
import re
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, NamedTuple

from keras_cam_callbacks.records import RunConfig

from .manifest import MANIFEST, differing, file_stem, manifest_of
from .reader import Run, find_runs, read_run

_LISTED = 3  # runs that are offered in words
_LABELS = {"labels", "class_names"}


class Place(NamedTuple):
    """Where a run is recorded.

    Attributes:
        directory: Its folder.
        last_step: The step in it of the last epoch before the fit's first; None where there is none.
        run_id: The run's own name; "" for a record that has none.
        offset: What is added to an epoch to get its step.
        said: What is to be said of the choice; "" for nothing.
        is_doubtful: Whether a new record begins although there are runs that the fit may have been meant to go on with.
    """

    directory: Path
    last_step: int | None
    run_id: str
    offset: int = 0
    said: str = ""
    is_doubtful: bool = False


def new_run_id() -> str:
    """Returns a random name for a run, 16 hexadecimal digits."""
    return secrets.token_hex(8)


def choose_directory(
    log_dir: str | Path,
    config: RunConfig,
    first_epoch: int,
    run: str | os.PathLike[str] | None = None,
    held: Sequence[str] = (),
) -> Place:
    """Chooses and makes the folder for the first fit of a process, so that nothing is ever overwritten.

    A fit goes on with the run that `run` names. Else a fit that starts after epoch 0 goes on with one of the stored
    runs of the same prefix, model, layer, method, target, sample keys, fingerprints, labels and regions; in this order:

    1. the run that a tracker's library goes on with;
    2. the run that stopped right before the start: its last epoch is before it, and of those after that, none before
       the start was due. So with `freq=5` a run that has logged epochs 0 and 5 stopped in one of 5 to 9, and fits a
       start from 6 to 10;
    3. the run whose last epoch is the start: it was logged, and the process killed before it was backed up;
    4. the run that lacks one epoch that was due, such as one that was backed up, and the process killed before it was
       logged.

    Any other run is passed over: one that ended long before has not stopped there, and what one that is ahead holds
    would be replaced; and so is one whose labels or class names are others. Then, and where two runs fit as well, a new
    record begins, which harms none, and it is said how the fit can go on with one of them.

    What one of both does not know of labels and class names is no reason for another record. A record that a tracker's
    library has in another run of its own goes on too, as a training is often resumed under a new one: it is said.

    Any other fit gets a folder of its own, the first of log_dir/prefix, log_dir/prefix-2, and so on that is not there
    yet, also where processes start together.

    Args:
        log_dir: The folder of all runs.
        config: The run; its `directory` and `run_id` are not looked at.
        first_epoch: The epoch that the fit starts with.
        run: The run to go on with, as for `find_run`. Where the fit starts with epoch 0, its steps come after the last.
        held: Names of runs, ours and those of trackers' libraries, that the trackers go on with.

    Returns:
        The place. An epoch that was logged but not backed up gets the same step when it runs again, and replaces the
        first.

    Raises:
        ValueError: If the folder can't be made or written to, or `run` names no run that can go on.
    """
    log_dir = Path(log_dir)
    manifest = manifest_of(config)
    try:
        place = None
        if run is not None:
            stored = _checked(find_run(log_dir, run), manifest)
            place = _continued(stored, first_epoch)._replace(said=_learned(stored, manifest))
        elif first_epoch > 0 and log_dir.is_dir():
            place = _choice(log_dir, manifest, first_epoch, config.freq or 1, held)
        if place is None or not place.directory.name:
            log_dir.mkdir(parents=True, exist_ok=True)
            stem = file_stem(config.prefix)
            names = (stem if number == 1 else f"{stem}-{number}" for number in count(1))
            made = next(log_dir / name for name in names if _is_made(log_dir / name))
            place = (place or Place(made, None, new_run_id()))._replace(directory=made)
        # Permissions alone don't tell: disks are mounted read-only, and root may write to any other folder.
        with TemporaryFile(dir=place.directory):
            pass
    except OSError as error:
        raise ValueError(
            f"log_dir must be a folder that can be written to. Received: {str(log_dir)!r} ({error}). "
            'Pass another one, such as log_dir="logs".'
        ) from error
    return place


def find_run(log_dir: str | Path, run: str | os.PathLike[str]) -> Run:
    """Finds the run that a user names.

    Args:
        log_dir: The folder of all runs.
        run: Its run id, its folder, or the name of its folder below `log_dir`.

    Raises:
        ValueError: If there is no such run, or several, or its record is damaged.
    """
    text, log_dir = os.fspath(run), Path(log_dir)
    folders = [path for path in (log_dir / text, Path(text)) if text and os.path.isfile(path / MANIFEST)]
    runs = [stored for path in find_runs(log_dir) if (stored := _read_or_none(path))]
    folders += [stored.directory for stored in runs if text and stored.manifest.get("run_id") == text]
    named = list({os.path.realpath(path): path for path in reversed(folders)}.values())
    if len(named) == 1:
        return read_run(named[0])
    received = f"Received: run={text!r}, "
    if named:
        raise ValueError(
            f"`run` must name one run. {received}which is that of {', '.join(map(str, named))}. "
            "Give one of these paths."
        )
    names = [stored.directory.name for stored in sorted(runs, key=_written, reverse=True)]
    raise ValueError(
        f"`run` must name a stored run: its run id, its folder, or the folder's name below {log_dir}. {received}"
        + (f"but there are {_listed(names)}." if names else f"but {log_dir} holds no run. Leave it out to begin one.")
    )


def _checked(run: Run, manifest: Mapping[str, Any]) -> Run:
    if names := differing(run.latest, manifest):
        raise ValueError(
            f"A run can go on only with the same model and settings. Received: run {str(run.directory)!r}, whose "
            f"record differs in {', '.join(names)}. Without `run` another record begins."
        )
    return run


def _choice(log_dir: Path, manifest: Mapping[str, Any], start: int, freq: int, held: Sequence[str]) -> Place | None:
    """Returns where a fit goes on; a place without a folder's name for a new record; None where no run is alike."""
    # One folder may be seen twice, through a link.
    every = {os.path.realpath(path): run for path in find_runs(log_dir) if (run := _read_or_none(path))}
    compared = [(run, set(differing(run.latest, manifest))) for run in every.values() if run.epochs]
    alike = [run for run, names in compared if not names]
    run_ids = [run.manifest.get("run_id") for run in every.values()]
    new = Place(Path(), None, new_run_id())
    if named := [run for run in alike if run.manifest.get("run_id") in held] or [
        run for run in alike if set(run.latest.get("tracked") or ()) & set(held)
    ]:
        alike = named
        if len(named) == 1:
            return _continued(named[0], start)._replace(said=_learned(named[0], manifest))
    elif own := [name for name in held if ":" not in name]:
        # What the library goes on with isn't here: no other run is it.
        alike = [run for run in alike if not run.manifest.get("run_id")]
        new = new._replace(run_id=own[0] if own[0] not in run_ids else new.run_id)
    ranks = [_rank(run, freq, start) for run in alike]
    fits = [rank for rank in ranks if rank is not None]
    best = [run for run, rank in zip(alike, ranks, strict=True) if fits and rank == min(fits)]
    if len(best) > 1 and len({run.manifest.get("run_id") or run.directory for run in best}) == 1:
        # Copies of one record: that under the name that we gave.
        name = re.compile(re.escape(file_stem(manifest["prefix"])) + r"(-\d+)?")
        best = [run for run in best if name.fullmatch(run.directory.name)] or best
    others = [run for run, rank in zip(alike, ranks, strict=True) if rank is not None and run not in best]
    if len(best) == 1:
        said = _learned(best[0], manifest) + _moved_on(best[0], held) + (f"; {_offered(others)}" if others else "")
        return _continued(best[0], start)._replace(said=said)
    if best:
        said = f"; {len(best)} runs fit a start in epoch {start} alike, so that a new record begins; {_offered(best)}"
        return new._replace(said=said, is_doubtful=True)
    relabelled = [(run, names) for run, names in compared if names and names <= _LABELS]
    relabelled = [(run, names) for run, names in relabelled if _rank(run, freq, start) is not None]
    if relabelled:
        differs = ", ".join(sorted(set().union(*(names for _, names in relabelled))))
        said = f"; what stopped right before epoch {start} differs in {differs}, so that a new record begins; with its "
        offered = _offered(run for run, _ in relabelled)
        return new._replace(said=f"{said}{differs}, {offered}", is_doubtful=True)
    if alike:
        said = f"; no run of these settings stopped right before epoch {start}, so that a new record begins; "
        return new._replace(said=said + _offered(alike), is_doubtful=True)
    return new


def _learned(run: Run, manifest: Mapping[str, Any]) -> str:
    """Says what the record and the fit that goes on with it do not both know, or call otherwise."""
    said = ""
    for name, field in (("labels", "labels"), ("class names", "class_names")):
        old, new = ([one is not None for one in of.get(field) or ()] for of in (run.latest, manifest))
        if any(old) and not any(new):
            said += f"; it keeps the {name} of its record, as this fit has none"
        elif any(new) and not any(old):
            said += f"; its record had no {name} before, and has those of this fit from now on"
        elif field == "labels" and old != new:
            said += "; of samples with a label in its record or in this fit alone, that one is kept"
        elif field == "class_names" and run.latest[field] != manifest[field]:
            said += "; its class names are those of this fit from now on"
    return said


def _moved_on(run: Run, held: Sequence[str]) -> str:
    """Says that a record goes on in another run of a tracker's library than the one that it was sent to."""
    before = run.latest.get("tracked") or ()
    now = [name for name in held if ":" in name]
    if not before or not now:
        return ""
    return (
        f"; what was sent to {', '.join(before)} goes on in {', '.join(now)}, as it stopped right before; another "
        "`log_dir` or `prefix` begins a record of its own"
    )


def _rank(run: Run, freq: int, start: int) -> int | None:
    """Returns how well a run fits a start: 0 best, None for not at all, by the last epoch that it has logged.

    Args:
        run: A run with epochs.
        freq: Of how many epochs one is logged where the record does not say.
        start: The first epoch of the fit.
    """
    last, freq = run.epochs[-1].epoch, run.epochs[-1].freq if run.epochs[-1].knows_freq else freq
    if run.epochs[-1].batch is not None:  # Its epoch has not ended there.
        last -= 1
    due = (last // freq + 1) * freq
    if last < start <= due:
        return 0
    if start == last:
        return 1
    return 1 + start - due if due < start <= due + freq else None


def _continued(run: Run, start: int) -> Place:
    """Returns the place of a fit that goes on with a stored run."""
    run_id = run.manifest.get("run_id") or ""
    if start == 0:
        # As another fit in one process.
        last = run.epochs[-1].step if run.epochs else None
        return Place(run.directory, last, run_id, 0 if last is None else last + (run.steps is None))
    before = [epoch for epoch in run.epochs if epoch.epoch < start]
    if not before:
        return Place(run.directory, None, run_id)
    counted = before[-1].epoch if run.steps is None else 0
    return Place(run.directory, before[-1].step, run_id, before[-1].step - counted)


def _offered(runs: Iterable[Run]) -> str:
    """Says how a fit can go on with one of the runs, the one written last first."""
    lines = [
        f"run={run.directory.name!r} goes on with the one that logged epoch {run.epochs[-1].epoch} last, "
        f"at {time.strftime('%Y-%m-%d %H:%M', time.localtime(_written(run)))}"
        for run in sorted(runs, key=_written, reverse=True)
    ]
    return _listed(lines)


def _listed(texts: Sequence[str]) -> str:
    more = len(texts) - _LISTED
    return ", ".join(texts[:_LISTED]) + (f" and {more} more" if more > 0 else "")


def _written(run: Run) -> float:
    return run.epochs[-1].wall_time if run.epochs else 0.0


def _read_or_none(directory: Path) -> Run | None:
    try:
        return read_run(directory)
    except (ValueError, OSError):
        return None


def _is_made(directory: Path) -> bool:
    # To make it is to claim it: whoever asks whether a folder is free first may get the same answer as others.
    try:
        directory.mkdir()
    except FileExistsError:
        return False
    return True
