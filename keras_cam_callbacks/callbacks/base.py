"""What all loggers share: when an epoch is logged, where it goes, and that a failure never ends the training."""

from __future__ import annotations

import dataclasses
import logging
import warnings
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np

from ..drawing.overlay import Overlay
from ..network.architecture import digests, layer_place, model_label
from ..network.layers import find_layer
from ..network.legacy import WAY_OUT, check_keras3, is_keras2
from ..passes import check_backend
from ..passes.probe import silently
from ..records import EpochRecord, Image, Region, RunConfig, Space, ValidationBatch
from ..trackers import Tracker
from ..versions import versions
from .kept import KeptBatch
from .run import TrackedRun
from .steps import StepClock, Steps, check_freq, epochs_of, steps_of
from .training import training_settings
from .workers import this_worker

logger = logging.getLogger("keras_cam_callbacks")


class EpochLogger(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no types
    """Logs one record at the end of each epoch that is due; what the record holds is said by the subclass.

    A subclass makes a source when training begins: an object that checks all settings when it is made, and that is then
    asked at every epoch end. It is let go of when the fit ends, or once it has failed.

    Args:
        tracker: Where it goes, as in `HeatmapLogger`.
        log_dir: Folder of all runs, as in `HeatmapLogger`.
        freq: Log every so many epochs, or every so many steps by `Steps`, as in `HeatmapLogger`.
        prefix: First part of every logged name.
        on_error: "warn" or "raise", as in `HeatmapLogger`.
        model: Which part of the trained model is looked into, as in `HeatmapLogger`.
        run: The stored run that goes on, as in `HeatmapLogger`.

    Raises:
        ValueError: If a setting is impossible.
        TypeError: If a setting is of the wrong kind.
    """

    def __init__(
        self,
        *,
        tracker: Any,
        log_dir: str | Path,
        freq: int | Steps,
        prefix: str,
        on_error: str,
        model: Any = None,
        run: str | Path | None = None,
    ) -> None:
        super().__init__()
        check_backend()
        check_freq(freq)
        if run is not None and not isinstance(run, (str, Path)):
            raise TypeError(
                "`run` must be the run id of a stored run, its folder, the folder's name below `log_dir`, or None. "
                f"Received: {run!r} of type {type(run).__name__}. run='gradcam-2' works."
            )
        if on_error not in ("warn", "raise"):
            raise ValueError(f"`on_error` must be 'warn' or 'raise'. Received: {on_error!r}.")
        self.tracker = tracker
        self.log_dir = Path(log_dir)
        self.freq = freq
        self.prefix = prefix
        self.on_error = on_error
        self.part = model
        self.run = run
        self._forget_fits()

    _subject = "The pictures"  # what fails, in messages

    @abstractmethod
    def _make_source(self, model: Any) -> Any:
        """Returns what is asked at each epoch end, after a check of all settings."""

    @abstractmethod
    def _config(self, source: Any) -> RunConfig:
        """Returns what is the same in all epochs."""

    @abstractmethod
    def _description(self, source: Any, config: RunConfig) -> str:
        """Returns in words what is logged."""

    @abstractmethod
    def _record(self, source: Any, epoch: int, step: int) -> tuple[dict[str, float], Callable[[], EpochRecord]]:
        """Returns the epoch's numbers, and what makes the record, which costs nothing where no tracker wants it."""

    def _for_logs(self, source: Any, scalars: dict[str, float]) -> dict[str, float]:
        """Returns which of an epoch's numbers go into Keras' logs, by their names without prefix."""
        # EarlyStopping and ModelCheckpoint would keep a NaN as the best for ever.
        return {name: value for name, value in scalars.items() if np.isfinite(value)}

    def _names_in_logs(self, source: Any) -> Sequence[str]:
        """Returns the names of the numbers that will be in Keras' logs, as far as they can be known before."""
        return ()

    def _conclude(self) -> None:
        """Makes what is made of the whole run, at the end of a fit and before the trackers hear of it."""

    def _forget_fits(self) -> None:
        self._added: set[str] = set()  # names in Keras' logs that are ours
        self._run = TrackedRun(self._attempt)
        self._run.prepare(self.tracker)  # A wrong name is told at once.
        self._source: Any = None  # None before the first fit, after each, and once it has failed
        self._starts = True
        self._first_epoch = 0
        self._raised = 0  # the id of what a failure has raised, which ends the fit
        self._is_last = False  # whether the epoch that is logged is the last of the fit
        self._due: tuple[int, int] | None = None  # epoch and step of the last epoch, if it has not been logged
        self._choice_said: KeptBatch | None = None
        self._clock = StepClock()
        self._epoch = 0  # the one that runs
        self._batch: int | None = None  # how many batches of it were trained, while something is logged within it

    def __deepcopy__(self, memo: dict[int, Any]) -> EpochLogger:
        """Returns a logger for runs of its own. Data, model and the trackers that you made are shared with it."""
        copied = type(self).__new__(type(self))
        copied.__dict__.update(self.__dict__)
        copied._forget_fits()
        return copied

    def __getstate__(self) -> dict[str, Any]:
        """Returns what is pickled: the settings, also after a fit; what comes of it is for runs of its own."""
        state = self.__deepcopy__({}).__dict__
        state |= {name: None for name in ("_kept",) if name in state}  # Data that were read are read again.
        return {name: value for name, value in state.items() if name not in ("_model", "params", "_run")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update({"_model": None, "params": None} | state)
        self._forget_fits()

    @property
    def directory(self) -> Path | None:
        """The folder of the run, from the first epoch on, if a tracker writes into it."""
        return self._run.directory

    @property
    def trackers(self) -> tuple[Tracker, ...]:
        """The trackers in use, also those that `tracker` names."""
        return self._run.trackers

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Traces the model and checks all settings, before the first batch is trained on."""
        self._source, self._starts, self._due, self._raised = None, True, None, 0
        if self._clock.batch is not None:  # A fit that was interrupted in an epoch.
            self._run.count(self._epoch, self._trained(self._epoch))
        self._clock = StepClock()
        self._run.prepare(self.tracker)
        if logs is not None:  # Keras hands one dict to all callbacks of a fit.
            self._claim(logs)
        worker = this_worker(self.model)
        # The chief would make the variables here, and wait for all others to do so, too.
        if worker.is_synchronous and not getattr(self.model, "built", True):
            raise ValueError(
                "A model that several workers train must be built before its callbacks begin. "
                f"Received: model {self.model.name!r}, which has no variables yet. Give it an Input, or call it on "
                "one batch in the strategy's scope."
            )
        if not worker.is_chief:
            self._starts = False
            self._say(f"logs on the chief alone, and does nothing in this process, which is {worker.name}")
            return
        source = self._checked_source(self.explained_model)
        if logs is not None:
            names = [f"{self.prefix}_{name}" for name in self._names_in_logs(source)]
            _check_free([name for name in names if name in logs], self.prefix)
            logs.update(dict.fromkeys(names, np.nan))
        self._source = source

    @property
    def explained_model(self) -> Any:
        """The model that is looked into: the trained one, or the part of it that `model` names."""
        return self.model if self.part is None or self.model is None else part_of(self.model, self.part)

    def _implements_train_batch_hooks(self) -> bool:
        """Is asked for by Keras 2 alone, before the first batch."""
        raise TypeError(
            "Callbacks of this package need a model of Keras 3, `import keras`. Received: a model of Keras 2, as "
            f"`tf_keras` and TF_USE_LEGACY_KERAS=1 give it. {WAY_OUT}."
        )

    def _claim(self, logs: dict[str, Any]) -> None:
        """Checks what only one callback of a fit can have, and leaves a mark of it for those that follow."""
        names = {
            f"{self.prefix}_prefix": f"prefixes that differ. Received: {self.prefix!r} twice. Name them apart, such as "
            f"prefix='{self.prefix}_2'."
        }
        for tracker in self.trackers:  # Each logs one run at a time.
            names[f"tracker_{id(tracker)}"] = (
                f"trackers of their own. Received: one {type(tracker).__name__} for {self.prefix!r} and for another "
                "callback. Make two of them."
            )
        for name, what in names.items():
            if name in logs:
                raise ValueError(f"Callbacks of one fit must have {what}")
            logs[name] = np.nan

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Starts the trackers before a fit's first batch: only now it is known whether a run goes on or begins."""
        self._epoch = epoch
        if self._starts and self._source is not None:
            self._start(epoch, self._source)

    @property
    def on_train_batch_begin(self) -> Callable[..., None]:
        """Keras' own, which does nothing; with `freq=Steps(...)` what logs within epochs.

        It is the begin of a batch because Keras runs on JAX without waiting for each step only where no callback has a
        hook at the end of one.
        """
        keras_own: Callable[..., None] = super().on_train_batch_begin
        return self._before_batch if isinstance(self.freq, Steps) else keras_own

    def _before_batch(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._clock.batch = batch
        if batch >= self._clock.due:
            self._log_within(int(batch))

    def _log_within(self, batch: int) -> None:
        """Logs what the steps before a batch have made of the model, if that is due."""
        if self._starts and self._source is None:
            self.on_train_begin()
            self._clock.batch = batch
        self.on_epoch_begin(self._epoch)
        step = self._run.count(self._epoch, self._clock.trained(batch))
        if not self._clock.asks(batch, step, steps_of(self.freq) or 1) or self._source is None:
            return
        # On JAX the weights are in Keras' hands while an epoch runs.
        getattr(self.model, "jax_state_sync", lambda: None)()
        self._batch = batch
        try:
            self._log_guarded(self._epoch, step, None)
        finally:
            self._batch = None

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Logs the epoch if it is due."""
        if self._starts and self._source is None:
            self.on_train_begin()
        self.on_epoch_begin(epoch)
        step = self._run.count(epoch, self._trained(epoch))
        ends = epoch + 1 == (self.params or {}).get("epochs") or getattr(self.model, "stop_training", False)
        self._is_last, self._due = bool(ends), None
        if self._is_due(epoch, epochs_of(self.freq)):
            self._log_guarded(epoch, step, logs)
        else:
            self._due = epoch, step
        self._epoch = epoch + 1

    def _trained(self, epoch: int) -> int | None:
        """Returns how many steps the fit has trained where an epoch ends; None where epochs are counted."""
        if not isinstance(self.freq, Steps):
            return None
        if self._clock.batch is None and self._source is not None and epoch == self._first_epoch:
            self._warn(
                f"freq={self.freq} logs within epochs only where it is told of batches, and an epoch has ended without "
                f"any. Call on_train_batch_begin(batch) before each; epoch ends are logged in any case"
            )
        return self._clock.end_epoch(self.model, self.params or {})

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Ends the fit for the trackers and lets go of the traced model; another fit may follow."""
        if self._due is not None:  # Another callback has ended the fit between two logged epochs.
            self._is_last = True
            self._log_guarded(*self._due, None)
            self._due = None
        self._conclude()
        self._run.finish()
        self._source = None
        self._starts = True

    def _is_due(self, epoch: int, freq: int) -> bool:
        """Tells whether something that is done every so many epochs is due, as it is in the first and the last one."""
        if self._batch is not None:
            return False
        return epoch % freq == 0 or epoch == self._first_epoch or self._is_last

    def _checked_source(self, model: Any) -> Any:
        if model is None:
            raise ValueError("There must be a model to explain. Received: none. Call set_model(model), or fit.")
        return self._make_source(model)

    def _start(self, epoch: int, source: Any) -> None:
        """Starts the run's trackers, and says what is logged where."""
        config = self._config(source)
        self._source = None  # If this fails, a training loop that goes on tries all of it again.
        self._run.start(config, (self.model, self.explained_model), epoch, self.run)
        self._source, self._starts, self._first_epoch = source, False, epoch
        within = "" if config.steps is None else f"; every {config.steps} steps and at epoch ends"
        self._say(f"{self._description(source, config)}{within}; {self._run.description}")
        if self._run.doubt:
            self._warn(self._run.doubt)

    def _say(self, text: str) -> None:
        """Tells what the callback does in this fit, in its log and below Keras' own lines."""
        message = f"{type(self).__name__} {text}"
        logger.info(message)
        if (self.params or {}).get("verbose"):
            print(message)

    def _log_guarded(self, epoch: int, step: int, logs: dict[str, Any] | None) -> None:
        if self._source is not None:
            switch_off = partial(setattr, self, "_source", None)
            self._attempt(self._subject, switch_off, partial(self._log, epoch, step, logs, self._source))

    def _log(self, epoch: int, step: int, logs: dict[str, Any] | None, source: Any) -> None:
        """Adds one epoch's numbers to Keras' logs, and sends its record."""
        # A loop of the user's own tells nothing of how much it wants to see.
        with silently() if (self.params or {}).get("verbose") == 0 else nullcontext():
            scalars, record = self._record(source, epoch, step)
        if logs is not None:
            added = {f"{self.prefix}_{name}": value for name, value in self._for_logs(source, scalars).items()}
            # A loop of the user's own may hand the same dict to each epoch.
            _check_free([name for name in added if name in logs and name not in self._added], self.prefix)
            self._added |= added.keys()
            logs.update(added)
        if self._run.is_tracked:
            made = record()
            self._run.log(made if self._batch is None else dataclasses.replace(made, batch=self._batch))

    def _warn_of_choice(self, kept: KeptBatch) -> None:
        """Warns, once for a choice of samples, of what makes it say little, or leaves a run of before behind."""
        if kept.warning and kept is not self._choice_said:
            self._warn(kept.warning)
        is_new = self._run.is_new and self._run.directory is not None and self._first_epoch > 0
        if kept.is_ranked and is_new and kept is not self._choice_said:
            self._warn(
                f"a new record begins in epoch {self._first_epoch}, with samples that were chosen by the model as it "
                "is now. run=... goes on with a run and its samples, select=read_run(...) takes the samples alone"
            )
        self._choice_said = kept

    def _warn_of_range(self, batch: ValidationBatch, word: str = "") -> None:
        """Warns of values that may be others than they are taken for, and of numbers that are left out for it."""
        for one in (batch, *batch.others.values()):
            if one.pixel_range is not None and one.pixel_range.warns:
                of_input = f" of {one.input_name!r}" if one.input_name else ""
                self._warn(f"value range{of_input}: {one.pixel_range.note}")
        if word:
            self._warn(f"augmentation {word}")

    def _warn(self, text: str) -> None:
        line = type(self)._warn.__code__.co_firstlineno
        # With a registry of its own, or Python would tell what happens in a second fit once and never again.
        warnings.warn_explicit(f"{self.prefix}: {text}", RuntimeWarning, __file__, line, __name__, {})

    def _attempt(self, what: str, switch_off: Callable[[], object], action: Callable[[], object]) -> None:
        """Does something that must not end the training; what fails warns once and is switched off."""
        try:
            action()
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            if self._raised != id(error):  # It is on its way from a tracker up to what has called it.
                self._run.fail(what, reason)
            if self.on_error == "raise":
                self._raised = id(error)
                raise
            switch_off()
            self._warn(f"{what} failed and is switched off until the next fit; training goes on. {reason}")


def _check_free(taken: Sequence[str], prefix: str) -> None:
    """Raises ValueError for names in Keras' logs that are not ours."""
    if taken:
        raise ValueError(
            "Each number in Keras' logs must have a name of its own. "
            f"Received: {', '.join(taken)}, which is there already, of the model's metrics or of another callback. "
            f"Another prefix works, such as prefix='{prefix}_2'."
        )


def check_overlay(overlay: object) -> None:
    """Raises TypeError for what is no Overlay."""
    if overlay is not None and not isinstance(overlay, Overlay):
        raise TypeError(f"`overlay` must be an Overlay, such as Overlay(layout='panel'). Received: {overlay!r}.")


def run_config(
    logger: EpochLogger,
    batch: ValidationBatch,
    class_names: Sequence[str] | None,
    drawing: Any,
    *,
    method: str,
    layer_name: str,
    target: str,
    views: tuple[str, ...] = (),
    augmentations: tuple[str, ...] = (),
    regions: tuple[Region | None, ...] = (),
    rules: str = "",
    space: Space | None = None,
    tells_classes: bool = True,
    displays: Mapping[str, tuple[Image, ...]] | None = None,
) -> RunConfig:
    """Returns the config of a run on one batch, with what all loggers of images have; `drawing` is a dataclass."""
    labels: Sequence[int | tuple[int, ...] | None] = [None] * len(batch)
    if batch.label_sets is not None and tells_classes:
        labels = batch.label_sets
    elif batch.labels is not None and tells_classes:
        labels = batch.labels.tolist()
    digest, structure = digests(logger.explained_model)
    return RunConfig(
        directory=Path(logger.log_dir),
        prefix=logger.prefix,
        method=method,
        layer_name=layer_name,
        target=target,
        model_name=str(logger.explained_model.name),
        architecture=digest,
        structure=structure,
        model_label=model_label(logger.explained_model),
        layer_place=layer_place(logger.explained_model, layer_name),
        rules=rules,
        freq=epochs_of(logger.freq),
        steps=steps_of(logger.freq),
        select=getattr(getattr(logger, "_kept", None), "choice", ""),
        class_names=None if class_names is None else tuple(map(str, class_names)),
        sample_keys=batch.sample_keys,
        fingerprints=batch.fingerprints,
        labels=tuple(labels),
        display=batch.display,
        value_range=batch.value_range,
        overlay=dataclasses.asdict(drawing),
        versions=versions(),
        training=training_settings(logger.model, logger.params),
        views=views,
        augmentations=augmentations,
        regions=regions,
        space=space,
        displays=displays or {},
    )


def part_of(model: Any, part: Any) -> Any:
    """Returns the part of a model that is looked into.

    Args:
        model: The trained model.
        part: A model, or the name of one: an attribute of the trained model, or a layer's name or path.

    Raises:
        ValueError: If the model has no such part.
        TypeError: If it is no model.
    """
    if isinstance(part, str):
        part = getattr(model, part, None) or find_layer(model, part)[1]
    if is_keras2(part):
        check_keras3(part)
    if not isinstance(part, keras.Model):
        raise TypeError(
            f"`model` must be a Keras model, or name one that is part of the trained one. Received: {part!r}."
        )
    return part
