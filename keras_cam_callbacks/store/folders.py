"""Which folder a run writes into: a new one, or that of the run which goes on."""

from __future__ import annotations

import re
from itertools import count
from pathlib import Path
from tempfile import TemporaryFile

from keras_cam_callbacks.records import RunConfig

from .manifest import file_stem, manifest_of, same_run
from .reader import Run, find_runs, read_run


def choose_directory(log_dir: str | Path, config: RunConfig, first_epoch: int) -> tuple[Path, int | None]:
    """Chooses and makes the folder for the first fit of a process, so that nothing is ever overwritten.

    A fit that starts after epoch 0 resumes the latest stored run of the same prefix, model name, layer,
    method, target, sample keys and fingerprints. Any other fit gets a folder of its own, the first of
    log_dir/prefix, log_dir/prefix-2, and so on that is not there yet, also where processes start together.

    Args:
        log_dir: The folder of all runs.
        config: The run; its `directory` is not looked at.
        first_epoch: The epoch that the fit starts with.

    Returns:
        The folder; and the last step in it of an epoch before `first_epoch`, or None where there is none. So
        an epoch that was logged but not backed up gets the same step when it runs again, and replaces the
        first.

    Raises:
        ValueError: If the folder can't be made or written to.
    """
    log_dir = Path(log_dir)
    manifest = manifest_of(config)
    stem = file_stem(config.prefix)
    try:
        directory, step = None, None
        if first_epoch > 0 and log_dir.is_dir():
            numbered = re.compile(re.escape(stem) + r"(-\d+)?")
            runs = [_read_or_none(path) for path in find_runs(log_dir) if numbered.fullmatch(path.name)]
            same = [run for run in runs if run and run.epochs and same_run(run.manifest, manifest)]
            if same:
                run = max(same, key=lambda run: run.epochs[-1].wall_time)
                directory = run.directory
                step = max((e.step for e in run.epochs if e.epoch < first_epoch), default=None)
        if directory is None:
            log_dir.mkdir(parents=True, exist_ok=True)
            names = (stem if number == 1 else f"{stem}-{number}" for number in count(1))
            directory = next(log_dir / name for name in names if _is_made(log_dir / name))
        # Permissions alone don't tell: disks are mounted read-only, and root may write to any other folder.
        with TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise ValueError(
            f"log_dir must be a folder that can be written to. Received: {str(log_dir)!r} ({error}). "
            'Pass another one, such as log_dir="logs".'
        ) from error
    return directory, step


def _read_or_none(directory: Path) -> Run | None:
    try:
        return read_run(directory)
    except ValueError:
        return None


def _is_made(directory: Path) -> bool:
    # To make it is to claim it: whoever asks whether a folder is free first may get the same answer as others.
    try:
        directory.mkdir()
    except FileExistsError:
        return False
    return True
