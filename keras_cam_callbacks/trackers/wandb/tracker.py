"""Weights & Biases: the overlays of an epoch as one list of images, the numbers, and optionally a table."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_cam_callbacks.records import EpochRecord, Label, RunConfig, class_name

from ..base import Tracker, numbers, picture, settings
from .record import RecordFiles, put_file
from .regions import Marks

if TYPE_CHECKING:
    import wandb

# W&B cuts a list of images at 108 without a word.
_IMAGES_PER_KEY = 100
_COLUMNS = ("epoch", "sample", "true", "predicted", "score", "confidence", "overlay")


class WandbTracker(Tracker):
    """Logs to a Weights & Biases run that you started; never starts or finishes one.

    One row an epoch: `<prefix>/overlays`, a list of images with captions; `<prefix>/<name>` for each number that is
    finite; `<prefix>/epoch`, the x axis of all of these; and `<prefix>/step`, which goes on where a second fit counts
    its epochs from 0 again. With `freq=Steps(...)` it counts training steps, and is the x axis. More than 100 samples
    go on in `<prefix>/overlays_2`, and so on; overlays of different sizes, which W&B can't show as a list, go to
    `<prefix>/overlays/<sample key>`. The run's config gets layer, method, target and the record's run id under
    `<prefix>`, by which the record is known again where the run is resumed. A disabled run is left alone.

    The run's summary holds the last value of each number. Of those that tell whether the model looks at the objects and
    whether the heatmaps are faithful it holds the best one, too: `run.summary["gradcam/energy_in_region"]` has `last`
    and `max`, others `min`.

    Where the loggers were told the objects' regions, the images have them as boxes and masks in a layer "region",
    which W&B shows or hides; on every column of a picture that shows the image. Other images beside it, and rows of
    augmented ones, have none.

    Args:
        run: The run, or None for the run that is active when a fit starts.
        table: Also log a table `<prefix>_table`, to which each epoch adds one row for each sample, with a column for
            each number that samples have. W&B fixes the columns of a table: numbers that first come later begin a
            second one, `<prefix>_table_2`. W&B warns after 100 additions to a table.
        record: Also put the run record among the run's files, where a tracker before this one writes it to disk, as
            in `tracker=["disk", WandbTracker()]` and "auto". Each epoch adds its heatmaps, and pictures only where
            they can't be drawn from images and heatmaps; a download can be read by `read_run` and compared.
    """

    uses_directory = False
    timeout = 60.0

    @staticmethod
    def has_active_run() -> bool:
        """Tells whether a run is active, other than a disabled one."""
        run = getattr(sys.modules.get("wandb"), "run", None)
        return run is not None and not run.disabled

    def __init__(self, run: wandb.Run | None = None, *, table: bool = False, record: bool = True):
        self._given = run
        self._with_table = table
        self._with_record = record
        self._run: wandb.Run | None = None
        self._config: RunConfig | None = None
        self._marks: Marks | None = None
        self._record: RecordFiles | None = None
        self._table: wandb.Table | None = None
        self._tables = 0
        self._defined: set[str] = set()
        self._prefix = ""

    def held_run(self, prefix: str) -> tuple[str, str]:
        """As in `Tracker`: what the run's config holds, of a run that was resumed or is still active."""
        run = getattr(sys.modules.get("wandb"), "run", None) if self._given is None else self._given
        if run is None or run.disabled:
            return "", ""
        stored = run.config.get(prefix)
        # Configs are copied from one run to another.
        is_own = isinstance(stored, Mapping) and stored.get("wandb_run") == run.id
        return str(stored.get("run", "")) if is_own else "", f"wandb:{run.id}"

    def start(self, config: RunConfig) -> None:
        """Attaches to the run.

        Args:
            config: What stays the same over the run.

        Raises:
            ValueError: If no run was given and none is active, or if the run was finished; or if the prefix has a
                star, which W&B takes for a pattern.
        """
        import wandb

        run = wandb.run if self._given is None else self._given
        if run is None:
            raise ValueError(
                "WandbTracker needs a Weights & Biases run. Received: run=None, and no run is active. Call "
                'wandb.init(...) before fit, or use tracker="disk".'
            )
        if run.disabled:
            self._run, self._record = run, None
            return
        if "*" in config.prefix:
            raise ValueError(
                f"A prefix must have no * for W&B. Received: {config.prefix!r}. "
                f"prefix={config.prefix.replace('*', '') or 'cam'!r} works."
            )
        run_config: Any = run.config
        goes_on = run is self._run and config.prefix == self._prefix
        try:
            held = settings(config) | ({"wandb_run": run.id} if config.run_id else {})
            run_config.update({config.prefix: held}, allow_val_change=True)
            if not goes_on:
                run.define_metric(f"{config.prefix}/*", step_metric=_axis(config))
        except wandb.errors.UsageError as error:
            raise ValueError(_finished(run)) from error
        if not goes_on:
            self._table, self._tables, self._defined = None, 0, set()
        if self._with_record and not (goes_on and self._config and self._config.directory == config.directory):
            self._record = RecordFiles(config.directory, run)
        self._run, self._prefix, self._config, self._marks = run, config.prefix, config, Marks(config)

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

        assert self._marks is not None
        prefix = self._prefix
        scalars = numbers(record) | {"step": record.step}
        row: dict[str, Any] = {f"{prefix}/{name}": value for name, value in scalars.items()}
        images = [
            _image(data, record.image_format, sample.caption, **self._marks.of(i, record))
            for i, (data, sample) in enumerate(zip(record.encoded, record.samples, strict=True))
        ]
        if len({overlay.shape for overlay in record.overlays}) > 1:
            keys = (f"{prefix}/overlays/{sample.key}" for sample in record.samples)
            row |= {key: [image] for key, image in zip(keys, images, strict=True)}
        else:
            for part, first in enumerate(range(0, len(images), _IMAGES_PER_KEY), 1):
                key = f"{prefix}/overlays" if part == 1 else f"{prefix}/overlays_{part}"
                row[key] = images[first : first + _IMAGES_PER_KEY]
        if self._with_table:
            table = self._extended_table(record, images)
            row[f"{prefix.replace('/', '_')}_table" + (f"_{self._tables}" if self._tables > 1 else "")] = table
        try:
            self._define_best(run, scalars)
            # Neither step= nor commit=: where another callback logs too, both lose images, or put them into the
            # row of another epoch.
            run.log(row)
            for alert in record.alerts:
                if alert.is_first:
                    run.alert(f"{prefix}/{alert.name}", alert.text, "WARN")
            self._save_record()
        except wandb.errors.UsageError as error:
            raise RuntimeError(_finished(run)) from error
        self._marks.saved()
        for image in images:
            # The table holds the images of all epochs.
            image._image = None

    def attach(self, path: Path, name: str) -> None:
        """Puts an HTML file among the run's files and shows it as the panel `<prefix>/<name>`.

        Args:
            path: The file.
            name: What it is.

        Raises:
            RuntimeError: If the run was finished since.
        """
        run = self._run
        if run is None or run.disabled:
            return
        import wandb

        try:
            # A row of its own, as that of the last epoch is sent. W&B would add a style sheet of another host.
            run.log({f"{self._prefix}/{name}": wandb.Html(str(path), inject=False)})
            put_file(path, run)
        except wandb.errors.UsageError as error:
            raise RuntimeError(_finished(run)) from error

    def finish(self) -> None:
        """Leaves the run to you, with the whole record also where the disk was written to after it."""
        import wandb

        try:
            self._save_record()
        except wandb.errors.UsageError as error:
            assert self._run is not None
            raise RuntimeError(_finished(self._run)) from error

    def _save_record(self) -> None:
        if self._record is not None:
            self._record.save()

    def _define_best(self, run: wandb.Run, names: Iterable[str]) -> None:
        """Has the summary keep the best value of the numbers that have one, whichever view they are of."""
        from keras_cam_callbacks.metrics import METRICS, worst

        # Of the others, such as drift, more is neither better nor worse.
        judged = tuple(f"_{metric}" for group in ("regions", "faithfulness") for metric in METRICS[group])
        for name in sorted(set(names) - self._defined):
            self._defined.add(name)
            if f"_{name}".endswith(judged):
                best = "max" if worst(name) < 0 else "min"
                assert self._config is not None
                step = _axis(self._config)
                run.define_metric(f"{self._prefix}/{name}", step_metric=step, summary=f"last,{best}")

    def _extended_table(self, record: EpochRecord, images: Sequence[wandb.Image]) -> wandb.Table:
        import wandb

        epoch, *fixed, overlay = _COLUMNS
        counts = {} if self._config is None or self._config.steps is None else {"step": record.step}
        fixed = [epoch, *counts, *fixed]
        columns: list[Any] = [] if self._table is None else self._table.columns
        known = columns[len(fixed) : -1]
        names = [*known, *(name for name in record.values if name not in (*known, *_COLUMNS))]
        if self._table is None or len(names) > len(known):
            # IMMUTABLE, the default, drops all epochs but the first in silence; MUTABLE sends all of them anew.
            self._table = wandb.Table(columns=[*fixed, *names, overlay], log_mode="INCREMENTAL")
            self._tables += 1
        for i, (sample, image) in enumerate(zip(record.samples, images, strict=True)):
            values = [sample.score, sample.confidence]
            values += [float(record.values[name][i]) if name in record.values else None for name in names]
            classes = (self._name(sample.label), self._name(sample.predicted))
            self._table.add_data(record.epoch, *counts.values(), sample.key, *classes, *map(_number, values), image)
        return self._table

    def _name(self, index: Label | None) -> str | None:
        names = self._config.class_names if self._config else None
        return None if index is None else class_name(names, index)


def _axis(config: RunConfig) -> str:
    """Returns the name of the x axis: of what is logged within epochs several points have the same epoch."""
    return f"{config.prefix}/{'epoch' if config.steps is None else 'step'}"


def _image(data: bytes, image_format: str, caption: str, **marks: Any) -> wandb.Image:
    import wandb

    # W&B saves the pictures that it is given. A file that it saved itself it moves, where one of ours would be copied,
    # or only be linked.
    ours = picture(data)
    image = wandb.Image(ours, caption=caption, file_type=image_format, **marks)
    # Put back what W&B has let go of: it would decode the saved file, only to ask for its size.
    image._image = ours
    return image


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def _finished(run: wandb.Run) -> str:
    return (
        f"A Weights & Biases run must stay active during fit. Received: run {run.id!r}, which was finished. "
        "Call wandb.finish() after fit, and wandb.init(...) before the next one."
    )
