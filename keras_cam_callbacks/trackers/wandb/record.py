"""The run record on disk among the files of a Weights & Biases run."""

from __future__ import annotations

import glob
import json
import os
import shutil
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_cam_callbacks.store import check_file
from keras_cam_callbacks.store.manifest import LOG, MANIFEST
from keras_cam_callbacks.store.reader import inside

if TYPE_CHECKING:
    import wandb

# What a line says of pictures that are drawn anew: their files are not put there.
_PICTURES = ("overlays", "pictures", "sheet")


class RecordFiles:
    """Puts the record that a `DiskTracker` writes into a folder of the run's files, epoch by epoch.

    The folder of files has the record's name, or that and a number where the run has it already. It can be read by
    `read_run` as it is. Pictures that are drawn anew from the rest are left out, for W&B has them already. Files are
    hard links where both folders are on one disk, and copies elsewhere; not W&B's symbolic links, which lead nowhere
    once the folder is moved.

    Args:
        directory: The record's folder, `RunConfig.directory`. What it holds now may be of an earlier run: nothing is
            put anywhere unless its log grows.
        run: The run.
    """

    def __init__(self, directory: Path, run: wandb.Run):
        self._source = directory
        self._run = run
        self._target: Path | None = None
        self._read = _size(directory / LOG)
        self._written = 0

    def save(self) -> None:
        """Puts the epochs there that were written since the last call; with the first of them, all that was before.

        Raises:
            wandb.errors.UsageError: If the run was finished.
            ValueError: If something in the record is no file, or leads out of its folder.
            OSError: If the disk is full.
        """
        if _size(self._source / LOG) <= self._read:
            return
        if self._target is None:
            self._target, self._read = self._chosen_target(), 0
        is_first = self._read == 0
        check_file(self._source / LOG)
        if is_first:
            self._put(MANIFEST)
            for folder in ("images", "regions"):
                self._put(*(f"{folder}/{path.name}" for path in sorted((self._source / folder).glob("*"))))
        with open(self._source / LOG, "rb") as lines:
            lines.seek(self._read)
            data = lines.read()
        whole = data[: data.rfind(b"\n") + 1]
        put: list[bytes] = []
        for line in whole.splitlines():
            try:
                entry = json.loads(line)
            except ValueError:  # The half line of a process that was killed.
                continue
            if "drawn" in entry:
                entry = {name: value for name, value in entry.items() if name not in _PICTURES}
            elif entry.get("sheet") not in entry.get("overlays", ()):
                entry.pop("sheet", None)
            for names in ([entry.get("heatmaps")], [entry.get("pictures")], entry.get("overlays", ())):
                self._put(*filter(None, names))
            put.append(json.dumps(entry, allow_nan=False).encode("utf-8") + b"\n")
        # No link: what is logged once W&B has failed has no files there.
        with open(self._target / LOG, "ab") as copy:
            copy.truncate(self._written)  # Half a line is left where the disk was full.
            self._written += copy.write(b"".join(put))
        self._read += len(whole)
        if is_first:
            self._tell(LOG, policy="live")

    def _chosen_target(self) -> Path:
        folder, name = Path(self._run.dir), self._source.name
        names = (name if number == 1 else f"{name}-{number}" for number in count(1))
        return next(folder / free for free in names if not (folder / free).exists())

    def _put(self, *names: str) -> None:
        """Puts files of one folder of the record there, and tells W&B of them at once."""
        assert self._target is not None
        folder = os.path.realpath(self._source)
        for name in names:
            source = inside(folder, name)
            check_file(source)  # W&B would wait for a pipe without end.
            _link(source, self._target / name)
        if names:
            self._tell(*names)

    def _tell(self, *names: str, policy: Any = "now") -> None:
        """Tells W&B of files of one folder that are there."""
        assert self._target is not None
        folder = self._target / Path(names[0]).parent
        pattern = os.path.join(glob.escape(str(folder)), "*" if len(names) > 1 else glob.escape(Path(names[0]).name))
        self._run.save(pattern, base_path=self._run.dir, policy=policy)


def put_file(path: Path, run: wandb.Run) -> None:
    """Puts a file that stands beside a record among the run's files, in a folder of the record's name.

    Raises:
        wandb.errors.UsageError: If the run was finished.
        OSError: If the disk is full.
    """
    target = Path(run.dir) / path.parent.name / path.name
    target.unlink(missing_ok=True)  # A link to what was attached before.
    _link(path, target)
    run.save(glob.escape(str(target)), base_path=run.dir, policy="now")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _link(source: Path, target: Path) -> None:
    if target.exists() and source.samefile(target):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # On another disk, or a copy of how the file was before.
        shutil.copyfile(source, target)
