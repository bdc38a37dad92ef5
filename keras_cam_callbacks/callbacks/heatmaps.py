"""The loggers of heatmaps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..data.range_names import checked_range
from ..data.spacing import checked_spacing, spacing_of
from ..drawing.overlay import Overlay
from ..drawing.unfolding import check_slices
from ..explaining.explainer import Explainer
from ..explaining.explanation import Explanation, Explanations
from ..explaining.inputs import chooser
from ..explaining.recorded import epoch_record
from ..methods import AUTO, resolve_methods
from ..methods.fusion import Fusion
from ..metrics import METRICS, mean, worst
from ..metrics.registry import IN_LOGS, names_all
from ..network.outputs import said_kinds
from ..network.rules import rules_digest
from ..network.tokens import resolve_tokens
from ..records import Alert, EpochRecord, RunConfig
from ..store import Run
from .alerts import Alerts, alerts_of, check_lines, checked_lines
from .base import EpochLogger, check_overlay, run_config
from .choosing import check_select, chosen_before
from .kept import KeptBatch, batch_words, kept_batch, ranges_text
from .measuring import degenerate_causes, flipped_group, keep, numbers_of_samples
from .names import check_names, checked_metrics
from .reports import missing_packages, remove_run_report, write_run_report
from .steps import Steps, epochs_of


class HeatmapLogger(EpochLogger):
    """Computes heatmaps on one fixed validation batch at epoch ends and sends them to trackers.

    Put it before callbacks that monitor its numbers: they are means over the samples, in records and trackers under the
    names of `keras_cam_callbacks.metrics.METRICS`, and in Keras' `logs` as `<prefix>_<name>`:

    - of the map: `confidence` (probability of the explained class), `area` (share of the map above half of its
      maximum), `entropy`, `centre_x`, `centre_y` (not of signals), `centre_z` (of volumes and clips), `blobs`,
      `magnitude` (mean size of the raw values), and `degenerate` (number of maps that explain nothing);
    - against the last logged epoch: `drift` (1 - Pearson correlation), `spearman`, `top_iou` (overlap of the top
      fifth), `moved` (how far the heat has moved, in diagonals of the image), `centre_shift`, and `target_kept` (share
      of the samples whose explained class is still the same: only these are compared); against the run's first logged
      epoch the same with `first_` before them;
    - with `regions`: `energy_in_region` (share of the heat on the object), `energy_ratio` (to chance), `pointing`
      (share of peaks on the object), `region_iou`, `peak_outside`;
    - with `faithfulness_freq`: `insertion`, `deletion`, `average_drop`, `increase`.

    Where there is nothing to measure or to compare with, as with the last epoch in the first, a number is NaN in
    records. Records and trackers have all of them. Keras' `logs`, which its progress bar prints, have few where
    `metrics` names none: `confidence`, `area`, `entropy` and `degenerate`, and with `regions` `energy_in_region`, of
    the first view alone, each only where it is finite. Name in `metrics` what another callback monitors. What is named
    is in `logs` in every logged epoch, for all views; where it can't be measured, it is infinite in the direction that
    is worse, for all but those of the map alone, because EarlyStopping and ModelCheckpoint would keep a NaN as the best
    for ever. With several methods or targets each has its own: `<prefix>_layercam_drift`, `<prefix>_true_area`,
    `<prefix>_layercam_true_area`.

    One instance serves several fits. They are one run as long as they explain the same model, layer, method, target
    and samples; where you change one of these, or have built the model anew, another run begins. Several instances in
    one fit need prefixes that differ, and each its own Tracker object.

    A fit of another process, or of a model that was built anew, goes on with a stored run where it starts after epoch
    0, as BackupAndRestore and `initial_epoch` have it: the one that `run` names, else that of the W&B or MLflow run
    that goes on, else the one of the same architecture and settings that stopped right before. Where several did, as
    two seeds in one `log_dir`, a new record begins, and you are told which `run=` goes on with which.

    Outside `fit`, in a training loop of your own: `set_model(model)`, then `on_epoch_end(epoch)`, at last
    `on_train_end()`.

    Of several workers (`tf.distribute`'s, or those in TF_CONFIG) the chief logs, or worker 0 where there is none. The
    others read no data, compute nothing and have no numbers in `logs`; a callback that stops the training by them would
    stop the chief alone.

    Args:
        validation_data: What is explained: `(x, y)`, `x`, `(x, y, sample_weight)`, a `tf.data.Dataset`, a
            `keras.utils.PyDataset` or any iterable of batches. It is read once; x as the model takes it.
        layer_name: The layer whose activations are explained: a name, a path such as "base/conv5" for a layer of a
            nested model, the layer itself, or None for the last feature map. The heatmaps of several layers in a list
            are fused into one.
        method: A name (see `METHODS`), "auto" as for `explain`, a method such as `SmoothGrad(samples=50)`, or a
            function as for `explain`; or several of these in a list, or in a dict by names of yours. They share one
            forward pass and one picture.
        tracker: Where it goes: "auto", "disk", "tensorboard", "wandb", "mlflow", "trackio", "memory", a Tracker, a list
            of these, or None for the numbers in `logs` only. "auto" is the record on disk, and W&B, MLflow and Trackio
            where a run is active, else TensorBoard.
        log_dir: Folder for the record on disk and TensorBoard's events; they are in its subfolder `<prefix>`, or
            `<prefix>-2` and so on if that holds another run.
        target: What is explained: "predicted", "true", a class index, one index for each sample, or a function of the
            model's outputs that returns (samples,) class indices (whole numbers) or scores (floating point). Several:
            "both" for predicted and true, "top2" to "top9" for the classes with the highest scores, or a dict by names
            of yours; beyond classes `Contrast`, `Value`, `Present`, `Similarity`, `Segment` and `Detection`. Of
            multi-hot labels "true" explains the first three of each sample, as "true1" to "true3"; what a sample has
            fewer is NaN. Of several outputs, and for what is explained by default, see `explain`.
        max_samples: How many samples are explained.
        select: "first" takes the first samples, "balanced" takes classes, or labels, in turn. Three take one pass over
            all of the data with the model as it is when the first fit begins: "hardest" the highest loss by sample,
            "wrong" wrong predictions, the most confident first, "confused" the smallest margin between the two best
            classes. They are chosen once, and stay. A stored run, `read_run(...)`, gives its samples, known by their
            pixels, under its keys, all of them: so runs stay comparable.
        select_model: The model that chooses the hardest, wrong or confused samples: one that is trained, with inputs
            and outputs like those of the explained one. None for the explained model.
        class_names: Names by class index, for captions; of numbers their names.
        output_kind: What the model's output is, where the loss, the labels and the model don't say it: "classes",
            "labels" (several at once), "numbers", "embedding", "mask" or "boxes"; or a dict by the names of several
            outputs. Of numbers `target` names one by its index.
        sample_keys: Names of the explained samples, or of all samples of the data; by default "sample_00", "sample_01",
            .... To compare runs, use the same ones.
        fuse: How several layers are fused: "mean", the default, "maximum", or "product" (the geometric mean) of their
            scaled maps.
        augmentations: Does attention hold where the images are changed? Names of built-in augmentations in a list (see
            `AUGMENTATIONS`), or a dict of augmentations by names of yours. Pictures get a row for each, and the numbers
            `<prefix>_<name>_correlation` (mean correlation with the map without augmentation, over the pixels that both
            have, of the samples whose explained class stays) and `<prefix>_<name>_unchanged` (share of predictions that
            stay). Each costs one more explanation of the batch.
        metrics: Names of the metrics that are computed and logged, such as ["drift", "energy_in_region"]; "all" for all
            that can be; None for all of them in records and trackers, and few in Keras' `logs`. The numbers of
            augmentations, and those that a method tells of itself, such as integrated gradients' "completeness_gap",
            are logged in any case, and are in `logs` unless `metrics` is None.
        regions: Where the objects are: for each explained sample, or for each of the data, a box (left, top, right,
            bottom) in px of the model's input, several boxes, a mask, several masks, a dict with "boxes" and "masks",
            or None where it is not known; or a dict of these by class, of which the explained one counts. Boxes in
            other formats: `Regions(boxes, "rel_xyxy")`. They concern the images without augmentation. A signal's box is
            (first, last), a volume's or a clip's (left, top, first, right, bottom, last).
        spacing: How far positions of the model's input are apart along each axis, in the array's order, such as
            (5.0, 0.7, 0.7) mm of a scan: `moved` and `centre_shift` go by it. None for 1 along all axes.
        faithfulness_freq: Measure every so many epochs, in the first one and in the last one that the fit was set to,
            whether the model needs what the heatmaps show; a multiple of `freq`. It costs 33 forward passes of the
            batch for each view: 16 steps of insertion into the blurred image, 16 of deletion to its mean colour, and
            one of the masked image. None for never.
        freq: Log every so many epochs; the first and the last one of a fit are always logged. Or `Steps(500)`: every
            500 training steps, and at the end of each epoch. What is logged within an epoch is not in Keras' `logs`;
            numbers of change are against whatever was logged last.
        display: What people see where it differs from the model's input: images, a function, or some of these by name.
        value_range: Which values of the model's input are black and white, for pictures and augmentations: two numbers
            such as (0, 4095), or "[0, 1]", "[0, 255]", "[-1, 1]", "mean-subtracted", "mean/std" or "min-max"
            (stretched). None to have it recognised by type, model and values; what was taken is said when training
            begins, and augmentations that depend on it have no numbers where it is not certain.
        overlay: How overlays are drawn.
        prefix: First part of every logged name; by default the method's name, which a lambda hasn't got, or "heatmaps"
            for several methods.
        batch_size: Largest number of samples that run at once.
        on_error: "warn": what fails after the first batch warns once and is switched off while training goes on.
            "raise": it is raised.
        model: The part of the trained model that is explained, such as a GAN's "discriminator": a model or its name.
        run: The stored run that goes on in another process: its run id, its folder, or the folder's name below
            `log_dir`; of the same model and settings, and with a tracker that writes to disk. None to have it found,
            where a fit starts after epoch 0.
        input: Which image of a model with several the heatmaps lie on, by name or index; or several in a list. By
            default each that the score depends on has a view of its own, named like the input: methods of the image
            explain every one, methods of a layer the last layer, or the layer's call, on each. `display` and `regions`
            concern the first; numbers of regions are NaN for the others. A layer that depends on several images has one
            map, on the largest of them, which is said.
        tokens: How a layer's tokens (N, T, C), as a vision transformer's, lie on the image: a grid such as (14, 14),
            `Tokens(grid=(14, 14), special=[0])`, or a function from tokens to a map. None to have it found.
        report: Whether the end of a fit writes the run's report, `report.html`, beside the record on disk, and hands it
            to trackers that take files: W&B, MLflow. Each fit of a run replaces it; after an interruption there is
            none, and `keras-cam report` makes it. It needs the extra "report".
        alerts: Lines by the names of numbers, such as {"energy_in_region": "< 0.5", "drift": "> 0.6"}. A number that
            crosses its line is said once in a run, as a warning, in the record and by W&B's and Trackio's alerts. It
            is noted in the record again where it had come back by a tenth of the limit.

    Raises:
        ValueError: If a setting is impossible; what depends on the model is raised when training begins, before the
            first batch.
        TypeError: If a setting is of the wrong kind.

    Example:
        >>> logger = HeatmapLogger(validation_data, method="layercam", log_dir="logs/run_1")
        >>> model.fit(x, y, validation_data=validation_data, callbacks=[logger])
    """

    _subject = "The heatmaps"

    def __init__(
        self,
        validation_data: Any,
        layer_name: Any = None,
        *,
        method: Any = "gradcam",
        tracker: Any = "auto",
        log_dir: str | Path = "logs",
        target: Any = "predicted",
        max_samples: int = 16,
        select: str | Run = "first",
        select_model: Any = None,
        class_names: Sequence[str] | None = None,
        output_kind: str | Mapping[str, str] | None = None,
        sample_keys: Sequence[str] | None = None,
        fuse: Fusion | None = None,
        augmentations: Any = None,
        metrics: Sequence[str] | str | None = None,
        regions: Any = None,
        spacing: Sequence[float] | None = None,
        faithfulness_freq: int | None = None,
        freq: int | Steps = 1,
        display: Any = None,
        value_range: Any = None,
        overlay: Overlay | None = None,
        prefix: str | None = None,
        batch_size: int = 32,
        on_error: str = "warn",
        model: Any = None,
        run: str | Path | None = None,
        input: Any = None,
        tokens: Any = None,
        report: bool = True,
        alerts: Mapping[str, str] | None = None,
    ) -> None:
        check_overlay(overlay)
        methods = resolve_methods(method)
        name = "heatmaps" if methods.get("", AUTO) is AUTO else methods[""].name
        if not prefix and not name.isidentifier():
            raise ValueError(
                f"A method without a name needs a `prefix`. Received: method={name}, prefix={prefix!r}. "
                'prefix="my_method" would log my_method_drift.'
            )
        super().__init__(
            tracker=tracker, log_dir=log_dir, freq=freq, prefix=prefix or name, on_error=on_error, model=model, run=run
        )
        self.metrics = metrics
        self.regions = regions
        self.spacing = spacing
        checked_spacing(spacing)
        self.faithfulness_freq = faithfulness_freq
        self._names = checked_metrics(self.metrics, epochs_of(self.freq), self.regions, self.faithfulness_freq)
        self.validation_data = validation_data
        self.layer_name = layer_name
        self.method = method
        self.target = target
        self.max_samples = max_samples
        self.select = select
        self.select_model = select_model
        check_select(select, select_model)
        self.class_names = class_names
        self.output_kind = output_kind
        said_kinds(output_kind)
        self.sample_keys = sample_keys
        self.fuse = fuse
        self.augmentations = augmentations
        self.display = display
        self.value_range = checked_range(value_range)
        self.overlay = overlay or Overlay()
        self.batch_size = batch_size
        self.input = input
        self.tokens = tokens
        resolve_tokens(tokens)
        self.report = report
        self.alerts = alerts
        self._lines = checked_lines(alerts)
        self._kept: KeptBatch | None = None

    def _forget_fits(self) -> None:
        super()._forget_fits()
        self._alerts: Alerts | None = None

    def explain(self, model: Any = None) -> Explanation | Explanations:
        """Explains the fixed batch now, without logging.

        Args:
            model: A model, trained or not; by default the one that is or was being trained.

        Raises:
            ValueError: If a setting does not fit the model.
        """
        if model is None or model is self.explained_model:
            source = self._source or self._checked_source(self.explained_model)
        else:
            source = self._make_source(model)
        assert source.batch is not None
        views = source.views(source.batch)
        return views[""] if list(views) == [""] else Explanations(views)

    def _make_source(self, model: Any) -> Explainer:
        self._kept = kept_batch(
            self._kept,
            self.validation_data,
            model,
            max_samples=self.max_samples,
            select=chosen_before(self.select, self.log_dir, self.run),
            select_model=self.select_model,
            output_kind=self.output_kind,
            batch_size=self.batch_size,
            display=self.display,
            sample_keys=self.sample_keys,
            regions=self.regions,
            spacing=self.spacing,
            value_range=self.value_range,
            image_input=self.input,
            choose_input=chooser(
                model,
                self.layer_name,
                method=self.method,
                target=self.target,
                batch_size=self.batch_size,
                tokens=self.tokens,
            ),
            chosen_by=(self.layer_name, self.method),
        )
        self._names = checked_metrics(
            self.metrics, epochs_of(self.freq), self.regions, self.faithfulness_freq, self._kept.batch.space
        )
        source = Explainer(
            model,
            self._kept.batch,
            self.layer_name,
            method=self.method,
            target=self.target,
            fuse=self.fuse,
            augmentations=self.augmentations,
            class_names=self.class_names,
            output_kind=self.output_kind,
            batch_size=self.batch_size,
            tokens=self.tokens,
            measures_faithfulness=self.faithfulness_freq is not None,
            keeps=True,
        )
        self._numbers = check_names(source.names, self._names, source.augmentations)
        lacking = METRICS["regions"] if self.regions is None else ()
        lacking = (*lacking, *(METRICS["faithfulness"] if self.faithfulness_freq is None else ()))
        check_lines(self._lines, [name for name in self._numbers if not name.endswith(lacking)])
        self._said_flips = False
        self._causes_said: set[str] = set()
        if not names_all(self.metrics) and "confidence" in self._names and not source.has_probability:
            raise ValueError(
                "`metrics` can name 'confidence' only where what is explained has a probability. Received: target "
                f"{source.target!r} of model {model.name!r}, whose score has none. Leave it out, or say by "
                "`output_kind` what the output is."
            )
        for note in filter(None, (source.guess, *source.notes)):
            self._warn(note)
        return source

    def _description(self, source: Explainer, config: RunConfig) -> str:
        assert self._kept is not None
        self._warn_of_choice(self._kept)
        self._warn_of_range(self._kept.batch, source.range_word(self._kept.batch))
        return (
            f"explains {source.description} by {config.method} of {source.capturer.explained}, "
            f"{len(config.sample_keys)} images of range {ranges_text(self._kept.batch)}"
            f"{batch_words(self._kept, self.select)}"
            + (self.metrics is None)
            * (
                f"; adds {', '.join(f'{self.prefix}_{name}' for name in self._names_in_logs(source))} to Keras' logs, "
                "and others where metrics=[...] names them, or 'all'"
            )
        )

    def _names_in_logs(self, source: Explainer) -> list[str]:
        if self.metrics is not None:
            return self._numbers
        lead = f"{source.names[0]}_" if source.names[0] else ""
        return [lead + name for name in IN_LOGS if name not in METRICS["regions"] or self.regions is not None]

    def _for_logs(self, source: Explainer, scalars: dict[str, float]) -> dict[str, float]:
        if self.metrics is None:
            names = self._names_in_logs(source)
            return {name: scalars[name] for name in names if np.isfinite(scalars.get(name, np.nan))}
        return {name: worst(name) if np.isnan(value) else value for name, value in scalars.items()}

    def _config(self, source: Explainer) -> RunConfig:
        assert self._kept is not None
        for batch in (self._kept.batch, *self._kept.batch.others.values()):
            check_slices(self.overlay.slices, batch.display)
        return run_config(
            self,
            self._kept.batch,
            self.class_names,
            self.overlay,
            method=source.method,
            layer_name=source.layer_name,
            target=source.target,
            views=() if source.names == ("",) else source.names,
            augmentations=source.augmentations,
            regions=self._kept.batch.regions,
            rules=rules_digest(self.target, self.method, self.augmentations),
            space=replace(source.space, spacing=spacing_of(self._kept.batch.space)),
            tells_classes=source.capturer.output.tells_classes,
            displays=source.displays(self._kept.batch),
        )

    def _record(self, source: Explainer, epoch: int, step: int) -> tuple[dict[str, float], Callable[[], EpochRecord]]:
        """Explains and measures one epoch; the record draws it."""
        reused = source.capturer.reuses
        assert source.batch is not None
        views = source.views(source.batch)
        if source.capturer.reuses > reused == 0:
            self._say(
                f"runs only what lies behind the frozen part of the model, whose output of "
                f"{source.capturer.bytes_kept / 2**20:.1f} MiB is kept as long as its weights stay as they are"
            )
        values: dict[str, Any] = {}
        scalars: dict[str, float] = {}
        faithful: dict[str, dict[str, Any]] = {}
        if self.faithfulness_freq and self._is_due(epoch, self.faithfulness_freq):
            faithful = source.faithfulness(views, self._names)
        check_names(source.names, self._names, source.augmentations, {name: v.values for name, v in views.items()})
        for name, view in views.items():
            self._warn_degenerate(name, view, epoch)
            of_class = source.is_of_class(name)
            numbers = numbers_of_samples(
                view,
                name,
                self._names,
                self._run,
                faithful=faithful.get(name, {}),
                of_class=of_class,
                has_probability=source.has_probability,
            )
            if of_class:
                self._say_flips(name, view, epoch)
            keep(view, name, self._run)
            lead = f"{name}_" if name else ""
            values |= {lead + metric: of_samples for metric, of_samples in numbers.items()}
            scalars |= {lead + metric: float(mean(of_samples)) for metric, of_samples in numbers.items()}
            if "degenerate" in self._names:
                scalars[lead + "degenerate"] = float(view.degenerate.sum())
        alerts = self._watch(scalars, epoch)
        draw = partial(epoch_record, views, self.overlay, epoch=epoch, step=step, scalars=scalars, values=values)
        return scalars, lambda: replace(draw(), alerts=alerts)

    def _watch(self, scalars: Mapping[str, float], epoch: int) -> tuple[Alert, ...]:
        """Returns which numbers cross their lines, and says those that do for the first time in the run."""
        config = self._run.config
        if config is None or not self._lines:
            return ()
        if self._alerts is None or self._alerts.run_id != config.run_id:
            self._alerts = Alerts(self._lines, config.run_id, alerts_of(self.directory))
        alerts = self._alerts.crossed(scalars, epoch)
        for alert in alerts:
            if alert.is_first:
                self._warn(alert.text)
        return alerts

    def _start(self, epoch: int, source: Explainer) -> None:
        super()._start(epoch, source)
        if self.directory is not None:
            self._attempt("The report", lambda: None, partial(remove_run_report, self.directory))

    def _conclude(self) -> None:
        """Writes the report and hands it to the trackers."""
        if not self.report or self.directory is None or not self._run.is_recorded:
            return
        missing = missing_packages()
        if missing:
            self._say(f"writes no report without {' and '.join(missing)}: pip install 'keras_cam_callbacks[report]'")
            return
        self._attempt("The report", lambda: None, partial(self._report, self.directory))

    def _report(self, directory: Path) -> None:
        path = write_run_report(directory)
        if path is not None:
            self._say(f"wrote {path}")
            self._run.attach(path, "report")

    def _say_flips(self, name: str, view: Explanation, epoch: int) -> None:
        """Says, once in a fit, that all maps are of other classes than before, so that nothing is compared."""
        group = None if self._said_flips else flipped_group(view, name, self._names, self._run)
        if group is not None:
            self._said_flips = True
            self._say(
                f"compares no heatmap{f' of {name}' if name else ''} of epoch {epoch} with the {group} logged "
                "epoch, as the explained class of each sample is another one now. `target_kept` counts those that "
                "stay; target='true', or a class, stays in all epochs"
            )

    def _warn_degenerate(self, name: str, view: Explanation, epoch: int) -> None:
        """Says, once in a fit for each cause, that heatmaps explain nothing."""
        for cause, count in degenerate_causes(view):
            if cause not in self._causes_said:
                self._causes_said.add(cause)
                self._warn(
                    f"{count} of {len(view.heatmaps)} heatmaps {f'of {name} ' if name else ''}explain nothing in "
                    f"epoch {epoch}; they are drawn as the bare image. {cause}"
                )
