"""Weights & Biases: the overlays of an epoch as one list of images, the numbers, and optionally a table."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_cam_callbacks.records import EpochRecord, RunConfig

from .base import Tracker

if TYPE_CHECKING:
    import wandb

# W&B cuts a list of images at 108 without a word.
_IMAGES_PER_KEY = 100
_COLUMNS = ("epoch", "sample", "true", "predicted", "score", "confidence", "overlay")


class WandbTracker(Tracker):
    """Logs to a Weights & Biases run that you started; never starts or finishes one.

    One row an epoch: `<prefix>/overlays`, a list of images with captions; `<prefix>/<name>` for each number;
    `<prefix>/epoch`, the x axis of all of these; and `<prefix>/step`, which goes on where a second fit counts
    its epochs from 0 again. More than 100 samples go on in `<prefix>/overlays_2`, and so on; overlays of
    different sizes, which W&B can't show as a list, go to `<prefix>/overlays/<sample key>`. The run's config
    gets layer, method and target under `<prefix>`. A disabled run is left alone.

    Args:
        run: The run, or None for the run that is active when a fit starts.
        table: Also log a table `<prefix>_table`, to which each epoch adds one row for each sample. W&B warns
            after 100 additions to a table.
    """

    uses_directory = False

    def __init__(self, run: wandb.Run | None = None, *, table: bool = False):
        self._given = run
        self._with_table = table
        self._run: wandb.Run | None = None
        self._table: wandb.Table | None = None
        self._prefix = ""
        self._class_names: tuple[str, ...] | None = None

    def start(self, config: RunConfig) -> None:
        """Attaches to the run.

        Args:
            config: What stays the same over the run.

        Raises:
            ValueError: If no run was given and none is active, or if the run was finished.
        """
        import wandb

        run = wandb.run if self._given is None else self._given
        if run is None:
            raise ValueError(
                "WandbTracker needs a Weights & Biases run. Received: run=None, and no run is active. Call "
                'wandb.init(...) before fit, or use tracker="disk".'
            )
        self._class_names = config.class_names
        if run.disabled:
            self._run = run
            return
        run_config: Any = run.config
        setting = {"layer": config.layer_name, "method": config.method, "target": config.target}
        try:
            run_config.update({config.prefix: setting}, allow_val_change=True)
            if run is self._run and config.prefix == self._prefix:
                return
            run.define_metric(f"{config.prefix}/*", step_metric=f"{config.prefix}/epoch")
        except wandb.errors.UsageError as error:
            raise ValueError(_finished(run)) from error
        self._run, self._prefix, self._table = run, config.prefix, None

    def log(self, record: EpochRecord) -> None:
        """Logs one epoch as one row.

        Args:
            record: The epoch.

        Raises:
            RuntimeError: If there was no `start`, or the run was finished since.
        """
        run = self._run
        if run is None:
            raise RuntimeError("WandbTracker.start must be called before log. Received: no run.")
        if run.disabled:
            return
        import wandb

        prefix = self._prefix
        scalars = {**record.scalars, "epoch": record.epoch, "step": record.step}
        row: dict[str, Any] = {f"{prefix}/{name}": value for name, value in scalars.items()}
        images = [
            _image(data, record.image_format, sample.caption)
            for data, sample in zip(record.encoded, record.samples, strict=True)
        ]
        if len({picture.shape for picture in record.overlays}) > 1:
            keys = (f"{prefix}/overlays/{sample.key}" for sample in record.samples)
            row |= {key: [image] for key, image in zip(keys, images, strict=True)}
        else:
            for part, first in enumerate(range(0, len(images), _IMAGES_PER_KEY), 1):
                key = f"{prefix}/overlays" if part == 1 else f"{prefix}/overlays_{part}"
                row[key] = images[first : first + _IMAGES_PER_KEY]
        if self._with_table:
            row[f"{prefix.replace('/', '_')}_table"] = self._extended_table(record, images)
        try:
            # Neither step= nor commit=: where another callback logs too, both lose images, or put them into the
            # row of another epoch.
            run.log(row)
        except wandb.errors.UsageError as error:
            raise RuntimeError(_finished(run)) from error
        for image in images:
            # The table holds the images of all epochs.
            image._image = None

    def finish(self) -> None:
        """Leaves the run to you."""

    def _extended_table(self, record: EpochRecord, images: Sequence[wandb.Image]) -> wandb.Table:
        import wandb

        if self._table is None:
            # IMMUTABLE, the default, drops all epochs but the first in silence; MUTABLE sends all of them anew.
            self._table = wandb.Table(columns=list(_COLUMNS), log_mode="INCREMENTAL")
        for sample, image in zip(record.samples, images, strict=True):
            names = (self._name(sample.label), self._name(sample.predicted))
            numbers = (_number(sample.score), _number(sample.confidence))
            self._table.add_data(record.epoch, sample.key, *names, *numbers, image)
        return self._table

    def _name(self, index: int | None) -> str | None:
        if index is None:
            return None
        names = self._class_names or ()
        return names[index] if 0 <= index < len(names) else str(index)


def _image(data: bytes, image_format: str, caption: str) -> wandb.Image:
    import PIL.Image
    import wandb

    picture: Any = PIL.Image.open(io.BytesIO(data))
    # W&B saves the pictures that it is given. It shall save our bytes, and not decode and encode them again; and
    # a file that it saved itself it moves, where one of ours would be copied, or only be linked.
    picture.save = lambda path, **_: Path(path).write_bytes(data)
    image = wandb.Image(picture, caption=caption, file_type=image_format)
    # Put back what W&B has let go of: it would decode the saved file, only to ask for its size.
    image._image = picture
    return image


def _number(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else float(value)


def _finished(run: wandb.Run) -> str:
    return (
        f"A Weights & Biases run must stay active during fit. Received: run {run.id!r}, which was finished. "
        "Call wandb.finish() after fit, and wandb.init(...) before the next one."
    )
