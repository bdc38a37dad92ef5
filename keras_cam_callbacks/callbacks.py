"""The Keras callbacks: hooks and wiring. What they do is done by the modules that they call."""

from __future__ import annotations

import dataclasses
import inspect
import logging
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np

from . import __version__
from .batches import make_batch
from .explanation import Explainer, Explanation
from .methods import resolve_method
from .metrics import area, degenerate_cause, drift
from .overlay import Overlay, encode
from .records import EpochRecord, Floats, RunConfig, ValidationBatch
from .trackers import Tracker
from .trackers.run import TrackedRun, versions

logger = logging.getLogger("keras_cam_callbacks")


class HeatmapLogger(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no types
    """Computes heatmaps on one fixed validation batch at epoch ends and sends them to trackers.

    Put it before callbacks that monitor its numbers: they are added to Keras' `logs` as `<prefix>_confidence` (mean
    probability of the explained class), `<prefix>_area` (share of the map above half of its maximum),
    `<prefix>_drift` (1 - Pearson correlation with the last logged epoch; where there is nothing to compare with, as in
    the first, NaN in records and infinite in `logs`) and `<prefix>_degenerate` (number of maps that explain nothing).
    One instance serves several fits. They are one run as long as they explain the same model, layer, method, target
    and samples; where you change one of these, or have built the model anew, another run begins. Several instances in
    one fit need prefixes that differ.

    Outside `fit`, in a training loop of your own: `set_model(model)`, then `on_epoch_end(epoch)`, at last
    `on_train_end()`.

    Args:
        validation_data: What is explained: `(x, y)`, `x`, `(x, y, sample_weight)`, a `tf.data.Dataset`, a
            `keras.utils.PyDataset` or any iterable of batches. It is read once; x as the model takes it.
        layer_name: The layer whose activations are explained: a name, a path such as "base/conv5" for a layer of a
            nested model, the layer itself, or None for the last feature map.
        method: A name (see `METHODS`), a method such as `SmoothGrad(samples=50)`, or a function as for `explain`.
        tracker: Where it goes: "auto", "disk", "tensorboard", "wandb", "memory", a Tracker, a list of these, or None
            for the numbers in `logs` only. "auto" is the record on disk, and W&B if a run is active, else TensorBoard.
        log_dir: Folder for the record on disk and TensorBoard's events; they are in its subfolder `<prefix>`, or
            `<prefix>-2` and so on if that holds another run.
        target: What is explained: "predicted", "true", a class index, one index for each sample, or a function of the
            model's outputs that returns (samples,) class indices (whole numbers) or scores (floating point).
        max_samples: How many samples are explained.
        select: "first" takes the first samples, "balanced" takes classes in turn.
        class_names: Names by class index, for captions.
        sample_keys: Names of the samples; by default "sample_00", "sample_01", .... To compare runs, use the same ones.
        freq: Log every so many epochs; the first and the last one of a fit are always logged.
        display: What people see where it differs from the model's input: images, a function, or some of these by name.
        overlay: How overlays are drawn.
        prefix: First part of every logged name; by default the method's name, which a lambda hasn't got.
        batch_size: Largest number of samples that run at once.
        on_error: "warn": what fails after the first batch warns once and is switched off while training goes on.
            "raise": it is raised.

    Raises:
        ValueError: If a setting is impossible; what depends on the model is raised when training begins, before the
            first batch.
        TypeError: If a setting is of the wrong kind.

    Example:
        >>> logger = HeatmapLogger(validation_data, method="layercam", log_dir="logs/run_1")
        >>> model.fit(x, y, validation_data=validation_data, callbacks=[logger])
    """

    def __init__(
        self,
        validation_data: Any,
        layer_name: Any = None,
        *,
        method: str | Callable[..., Floats] = "gradcam",
        tracker: Any = "auto",
        log_dir: str | Path = "logs",
        target: Any = "predicted",
        max_samples: int = 16,
        select: str = "first",
        class_names: Sequence[str] | None = None,
        sample_keys: Sequence[str] | None = None,
        freq: int = 1,
        display: Any = None,
        overlay: Overlay | None = None,
        prefix: str | None = None,
        batch_size: int = 32,
        on_error: str = "warn",
    ) -> None:
        super().__init__()
        if isinstance(freq, bool) or not isinstance(freq, int) or freq < 1:
            raise ValueError(f"`freq` must be a positive integer. Received: {freq!r}.")
        if on_error not in ("warn", "raise"):
            raise ValueError(f"`on_error` must be 'warn' or 'raise'. Received: {on_error!r}.")
        if overlay is not None and not isinstance(overlay, Overlay):
            raise TypeError(f"`overlay` must be an Overlay, such as Overlay(layout='panel'). Received: {overlay!r}.")
        name = resolve_method(method).name
        if not prefix and not name.isidentifier():
            raise ValueError(
                f"A method without a name needs a `prefix`. Received: method={name}, prefix={prefix!r}. "
                'prefix="my_method" would log my_method_drift.'
            )
        self.validation_data = validation_data
        self.layer_name = layer_name
        self.method = method
        self.tracker = tracker
        self.log_dir = Path(log_dir)
        self.target = target
        self.max_samples = max_samples
        self.select = select
        self.class_names = class_names
        self.sample_keys = sample_keys
        self.freq = freq
        self.display = display
        self.overlay = overlay or Overlay()
        self.prefix = prefix or name
        self.batch_size = batch_size
        self.on_error = on_error

        self._batch: ValidationBatch | None = None
        self._batch_settings: tuple[Any, ...] = ()
        self._forget_fits()

    def _forget_fits(self) -> None:
        self._run = TrackedRun(self._attempt)
        self._run.prepare(self.tracker)  # A wrong name is told at once.
        self._explainer: Explainer | None = None  # None before the first fit, after each, and once it has failed
        self._starts = True
        self._first_epoch = 0
        self._due: tuple[int, int] | None = None  # epoch and step of the last epoch, if it has not been logged
        self._warned_degenerate = False

    def __deepcopy__(self, memo: dict[int, Any]) -> HeatmapLogger:
        """Returns a logger for runs of its own. Data, model and the trackers that you made are shared with it."""
        copied = type(self).__new__(type(self))
        copied.__dict__.update(self.__dict__)
        copied._forget_fits()
        return copied

    @property
    def directory(self) -> Path | None:
        """The folder of the run, from the first epoch on, if a tracker writes into it."""
        return self._run.directory

    @property
    def trackers(self) -> tuple[Tracker, ...]:
        """The trackers in use, also those that `tracker` names."""
        return self._run.trackers

    def explain(self, model: Any = None) -> Explanation:
        """Explains the fixed batch now, without logging.

        Args:
            model: A model, trained or not; by default the one that is or was being trained.

        Raises:
            ValueError: If a setting does not fit the model.
        """
        if model is not None and model is not self.model:
            return self._make_explainer(model)()
        return (self._explainer or self._make_explainer(self.model))()

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Reads the batch, traces the model and checks all settings, before the first batch is trained on."""
        self._explainer, self._starts, self._due = None, True, None
        if logs is not None:  # Keras hands one dict to all callbacks of a fit.
            name = f"{self.prefix}_drift"
            if name in logs:
                raise ValueError(
                    f"Callbacks of one fit must have prefixes that differ. Received: {self.prefix!r} twice. "
                    f"Name them apart, such as prefix='{self.prefix}_2'."
                )
            logs[name] = np.inf
        self._run.prepare(self.tracker)
        self._explainer = self._make_explainer(self.model)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Starts the trackers before a fit's first batch: only now it is known whether a run goes on or begins."""
        if self._starts and self._explainer is not None:
            self._start(epoch, self._explainer)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Logs the epoch if it is due."""
        if self._starts and self._explainer is None:
            self.on_train_begin()
        self.on_epoch_begin(epoch)
        step = self._run.count(epoch)
        last = epoch + 1 == (self.params or {}).get("epochs") or getattr(self.model, "stop_training", False)
        self._due = None
        if epoch % self.freq == 0 or epoch == self._first_epoch or last:
            self._log_guarded(epoch, step, logs)
        else:
            self._due = epoch, step

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Ends the fit for the trackers and lets go of the traced model; another fit may follow."""
        if self._due is not None:  # Another callback has ended the fit between two logged epochs.
            self._log_guarded(*self._due, None)
            self._due = None
        self._run.finish()
        self._explainer = None
        self._starts = True

    def _make_explainer(self, model: Any) -> Explainer:
        if model is None:
            raise ValueError("There must be a model to explain. Received: none. Call set_model(model), or fit.")
        settings = self._settings("max_samples", "select", "display", "sample_keys")
        read = (self.validation_data, *settings.values())
        if self._batch is None or not all(map(_is_same, read, self._batch_settings)):
            self._batch, self._batch_settings = make_batch(self.validation_data, model, **settings), read
        settings = self._settings("method", "target", "class_names", "batch_size")
        return Explainer(model, self._batch, self.layer_name, **settings)

    def _settings(self, *names: str) -> dict[str, Any]:
        return {name: getattr(self, name) for name in names}

    def _start(self, epoch: int, explainer: Explainer) -> None:
        """Starts the run's trackers, and says what is logged where."""
        assert self._batch is not None
        config = self._config(self._batch, explainer)
        self._explainer = None  # If this fails, a training loop that goes on tries all of it again.
        self._run.start(config, self.model, epoch)
        self._explainer, self._starts, self._first_epoch = explainer, False, epoch
        shape = " x ".join(map(str, explainer.capturer.layer_shape[1:]))
        what = f"layer {config.layer_name!r} ({shape})" if shape else "the image itself"
        message = (
            f"{type(self).__name__} explains {what} by {config.method} of {explainer.capturer.explained}, "
            f"{len(self._batch)} images of range {config.value_range}; {self._run.description}"
        )
        logger.info(message)
        if (self.params or {}).get("verbose"):
            print(message)

    def _config(self, batch: ValidationBatch, explainer: Explainer) -> RunConfig:
        return RunConfig(
            directory=Path(self.log_dir),
            prefix=self.prefix,
            method=explainer.method,
            layer_name=explainer.capturer.layer_name,
            target=explainer.target,
            model_name=str(self.model.name),
            class_names=None if self.class_names is None else tuple(map(str, self.class_names)),
            sample_keys=batch.sample_keys,
            fingerprints=batch.fingerprints,
            labels=(None,) * len(batch) if batch.labels is None else tuple(batch.labels.tolist()),
            display=batch.display,
            value_range=batch.value_range,
            overlay=dataclasses.asdict(self.overlay),
            versions={"keras_cam_callbacks": __version__, **versions()},
        )

    def _log_guarded(self, epoch: int, step: int, logs: dict[str, Any] | None) -> None:
        if self._explainer is not None:
            switch_off = partial(setattr, self, "_explainer", None)
            self._attempt("The heatmaps", switch_off, partial(self._log, epoch, step, logs, self._explainer))

    def _log(self, epoch: int, step: int, logs: dict[str, Any] | None, explainer: Explainer) -> None:
        """Explains, measures, draws and sends one epoch."""
        explanation = explainer()
        heatmaps, samples = explanation.heatmaps, explanation.samples()
        self._warn_degenerate(heatmaps, [sample.degenerate for sample in samples], epoch)
        previous = self._run.last_heatmaps
        if previous is None or previous.shape != heatmaps.shape:
            previous = np.full_like(heatmaps, np.nan)
        scalars = {
            "confidence": _mean(explanation.confidences),
            "area": _mean(area(heatmaps)),
            "drift": _mean(drift(heatmaps, previous)),
            "degenerate": float(sum(sample.degenerate for sample in samples)),
        }
        self._run.last_heatmaps = heatmaps
        if logs is not None:
            logs.update({f"{self.prefix}_{name}": value for name, value in scalars.items()})
            if np.isnan(scalars["drift"]):
                # EarlyStopping and ModelCheckpoint would keep a NaN of the first epoch as the best for ever.
                logs[f"{self.prefix}_drift"] = np.inf
        if not self._run.is_tracked:
            return
        overlays = explanation.overlays(self.overlay)
        self._run.log(
            EpochRecord(
                epoch=epoch,
                step=step,
                heatmaps=heatmaps,
                overlays=overlays,
                encoded=tuple(encode(picture, self.overlay.image_format) for picture in overlays),
                image_format=self.overlay.image_format,
                scalars=scalars,
                samples=samples,
                outputs=explanation.outputs,
            )
        )

    def _warn_degenerate(self, heatmaps: Floats, flags: Sequence[bool], epoch: int) -> None:
        if any(flags) and not self._warned_degenerate:
            self._warned_degenerate = True
            warnings.warn(
                f"{self.prefix}: {sum(flags)} of {len(flags)} heatmaps explain nothing in epoch {epoch}; they are "
                f"drawn as the bare image. {degenerate_cause(heatmaps[flags.index(True)])}",
                RuntimeWarning,
                stacklevel=2,
            )

    def _attempt(self, what: str, switch_off: Callable[[], object], action: Callable[[], object]) -> None:
        """Does something that must not end the training; what fails warns once and is switched off."""
        try:
            action()
        except Exception as error:
            if self.on_error == "raise":
                raise
            switch_off()
            warnings.warn(
                f"{self.prefix}: {what} failed and is switched off until the next fit; training goes on. "
                f"{type(error).__name__}: {error}",
                RuntimeWarning,
                stacklevel=2,
            )


def _signature_without(name: str) -> inspect.Signature:
    """Returns the signature of HeatmapLogger less one parameter, for help and completion."""
    signature = inspect.signature(HeatmapLogger)
    return signature.replace(parameters=[p for p in signature.parameters.values() if p.name != name])


class GradCAMLogger(HeatmapLogger):
    """Logs Grad-CAM heatmaps of a fixed validation batch at epoch ends. Works on any model with a feature map.

    Args:
        validation_data: What is explained, as in `HeatmapLogger`.
        layer_name: The layer whose activations are explained; None for the last feature map.
        **settings: All other settings of `HeatmapLogger` but `method`.

    Raises:
        ValueError: As `HeatmapLogger`.
        TypeError: As `HeatmapLogger`.

    Reference:
        Selvaraju et al., Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization, ICCV 2017,
        arXiv 1610.02391.

    Example:
        >>> logger = GradCAMLogger(validation_data, class_names=["cat", "dog"])
        >>> model.fit(x, y, validation_data=validation_data, callbacks=[logger])
    """

    __signature__ = _signature_without("method")

    def __init__(self, validation_data: Any, layer_name: Any = None, **settings: Any) -> None:
        super().__init__(validation_data, layer_name, method="gradcam", **settings)


class CAMLogger(HeatmapLogger):
    """Logs class activation maps of a fixed validation batch at epoch ends, for GAP + Dense and GAP heads.

    CAM needs no gradients, but a model that ends in global average pooling and at most one dense layer, such as
    `build_cam_model` makes. Training tells before the first batch where a model has no such head.

    Args:
        validation_data: What is explained, as in `HeatmapLogger`.
        layer_name: The layer that feeds the pooling; None finds it.
        **settings: All other settings of `HeatmapLogger` but `method`.

    Raises:
        ValueError: As `HeatmapLogger`.
        TypeError: As `HeatmapLogger`.

    Reference:
        Zhou et al., Learning Deep Features for Discriminative Localization, CVPR 2016, arXiv 1512.04150.

    Example:
        >>> model = build_cam_model(keras.applications.VGG16(include_top=False), classes=2)
        >>> model.compile("adam", "sparse_categorical_crossentropy")
        >>> model.fit(x, y, callbacks=[CAMLogger(validation_data)])
    """

    __signature__ = _signature_without("method")

    def __init__(self, validation_data: Any, layer_name: Any = None, **settings: Any) -> None:
        super().__init__(validation_data, layer_name, method="cam", **settings)


def _mean(values: Any) -> float:
    """Returns the mean of what is finite, NaN where nothing is."""
    finite = np.asarray(values, np.float64)
    finite = finite[np.isfinite(finite)]
    return float(finite.mean()) if len(finite) else float("nan")


def _is_same(one: Any, other: Any) -> bool:
    """Tells whether a setting is as it was: data, which may be used up by reading, by identity."""
    return one is other or (isinstance(one, (int, str)) and isinstance(other, (int, str)) and one == other)
