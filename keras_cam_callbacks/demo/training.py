"""The demo's networks, its three runs, and the numbers that tell whether a model looks at the digit."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from ..callbacks import GradCAMLogger
from ..explaining.explain import explain
from .data import COLOURS, Scenes, make_scenes, with_stickers

__all__ = [
    "Collections",
    "Result",
    "Step",
    "build_convnet",
    "fixed_batch",
    "make_collections",
    "measure",
    "run_collection",
    "run_transfer",
    "train_and_log",
]


@dataclass(frozen=True)
class Step:
    """How far a run is.

    Attributes:
        run: "honest", "shortcut" or "transfer".
        fit: What is being trained, where a run has several fits; else "".
        done: Batches that are done, of all the run's fits.
        total: All batches of the run.
        epoch: The epoch that has just ended, from 1 on, counted in its fit; None within an epoch.
        epochs: All epochs of this fit.
        logs: Of an epoch that has ended, what Keras reports, such as "val_accuracy"; else empty.
    """

    run: str
    fit: str
    done: int
    total: int
    epoch: int | None
    epochs: int
    logs: Mapping[str, float]


Progress = Callable[[Step], None]
"""Called with each batch, and once more with each epoch."""

DIGITS = tuple(str(digit) for digit in range(10))
BATCH_SIZE = 32
MEASURED = 200  # validation images whose heatmaps are measured at the end of a run
_FILTERS = (16, 32, 64, 96)
_RATE = 4e-3
_CLEAR = 32  # px from the left or the top where the box of a digit in the fixed batch begins, if any does
_SHOWN = 8  # digits in the fixed batch, each with two stickers


@dataclass(frozen=True, eq=False)
class Collections:
    """The same scenes twice: with stickers of a random colour, and with stickers that give the digit away.

    Attributes:
        honest: To train on, the sticker's colour is random.
        shortcut: To train on, each digit has its own colour of sticker.
        honest_validation: Unseen digits, random stickers.
        shortcut_validation: The same unseen digits at the same places, each with its digit's sticker.
    """

    honest: Scenes
    shortcut: Scenes
    honest_validation: Scenes
    shortcut_validation: Scenes


def make_collections(images: int = 3000, seed: int = 0) -> Collections:
    """Makes both collections.

    Args:
        images: How many images to train on, in each.
        seed: Same seed, same images.

    Returns:
        Four sets of scenes.
    """
    train, validation = make_scenes(images, seed)
    rng = np.random.default_rng([seed, 1])
    return Collections(
        with_stickers(train, rng.integers(len(COLOURS), size=len(train))),
        with_stickers(train, train.labels),
        with_stickers(validation, rng.integers(len(COLOURS), size=len(validation))),
        with_stickers(validation, validation.labels),
    )


def fixed_batch(validation: Scenes) -> tuple[Scenes, tuple[str, ...]]:
    """Chooses the 16 images that are explained at every epoch end, the same pixels in both runs.

    They are the first validation scene of each digit from 0 to 7 that lies off the sticker's corner, twice:
    with the sticker that this digit has in the shortcut collection, and with another digit's. Both occur in
    the honest collection. The first shows a shortcut model right for the wrong reason, as one would meet it;
    the second shows that it is the reason.

    Args:
        validation: Scenes that hold each digit from 0 to 7.

    Returns:
        16 scenes, and their sample keys: "0_own_sticker", "0_other_sticker", "1_own_sticker", ....
    """
    # Heat on a sticker reaches about 30 px far, and should not seem to lie on a digit beside it.
    clear = validation.boxes[:, :2].max(axis=1).clip(max=_CLEAR)
    first = [int(np.where(validation.labels == digit, clear, -1).argmax()) for digit in range(_SHOWN)]
    twice = validation[np.repeat(first, 2)]
    colours = twice.labels.copy()
    colours[1::2] = (colours[1::2] + len(COLOURS) // 2) % len(COLOURS)
    keys = tuple(f"{digit}_{whose}_sticker" for digit in range(_SHOWN) for whose in ("own", "other"))
    return with_stickers(twice, colours), keys


def build_convnet(classes: int = 10, name: str = "convnet", *, halved: bool = False) -> keras.Model:
    """Builds a small network: four blocks of convolution, batch normalisation and ReLU, GAP, softmax.

    Args:
        classes: Number of classes.
        name: The model's name.
        halved: Whether it sees the scenes at half their size, as the demo's runs do: a third of the work.
            Its last convolution is then 1 x 1, so that a place of the heatmap depends on about 30 px, as
            without.

    Returns:
        An uncompiled model of (N, 96, 96, 3) images in [0, 255]; its last feature map "relu_4" is 12 x 12.
    """
    x = inputs = keras.Input((96, 96, 3))
    x = keras.layers.Rescaling(1 / 255)(x)
    if halved:
        x = keras.layers.AveragePooling2D(2, name="halved")(x)
    for block, filters in enumerate(_FILTERS, 1):
        strides = 2 if block < 3 else 1
        size = 1 if halved and block == 4 else 3
        x = keras.layers.Conv2D(filters, size, strides, padding="same", use_bias=False, name=f"conv_{block}")(x)
        # The default momentum of 0.99 would take several epochs of 90 batches to follow.
        x = keras.layers.BatchNormalization(momentum=0.9, name=f"norm_{block}")(x)
        x = keras.layers.ReLU(name=f"relu_{block}")(x)
        if block == 3 and not halved:
            x = keras.layers.MaxPooling2D()(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(classes, activation="softmax")(x), name=name)


def train_and_log(
    model: keras.Model,
    train: Scenes,
    validation: Scenes,
    *,
    epochs: int,
    callbacks: list[keras.callbacks.Callback],
    learning_rate: float = _RATE,
) -> None:
    """Compiles and fits a model: Adam, the learning rate falling to 0 along a cosine.

    Args:
        model: The model.
        train: Scenes to train on; their labels are the model's class indices.
        validation: Scenes to validate on at each epoch end.
        epochs: Number of epochs.
        callbacks: Such as a `GradCAMLogger`.
        learning_rate: Where it starts.
    """
    steps = epochs * -(-len(train) // BATCH_SIZE)
    schedule = keras.optimizers.schedules.CosineDecay(learning_rate, steps)
    model.compile(keras.optimizers.Adam(schedule), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(
        train.images,
        train.labels,
        validation_data=(validation.images, validation.labels),
        batch_size=BATCH_SIZE,
        epochs=epochs,
        callbacks=callbacks,
        verbose=0,
    )


@dataclass(frozen=True)
class Result:
    """How a run ended.

    Attributes:
        name: "honest", "shortcut", or the part of the transfer run.
        directory: Folder of the run's record.
        accuracy: In [0, 1], on the run's own validation images.
        accuracy_random: In [0, 1], on the honest validation images, whose stickers say nothing.
        energy: In [0, 1], mean share of the Grad-CAM heat inside the digit's box.
        peak: In [0, 1], share of the heatmaps whose maximum is inside the digit's box.
        seconds: How long training took, in seconds.
    """

    name: str
    directory: Path
    accuracy: float
    accuracy_random: float
    energy: float
    peak: float
    seconds: float


def measure(model: keras.Model, validation: Scenes) -> tuple[float, float]:
    """Measures where a trained model looks, over the first 200 of the scenes.

    Args:
        model: The model.
        validation: The scenes. To compare runs give both the same ones, with each digit's own sticker: these
            are nothing unusual in either collection.

    Returns:
        Mean energy inside the digit's box, and share of the maxima inside it, both of the Grad-CAM heatmap
        for the predicted class; NaN if all heatmaps are degenerate.
    """
    scenes = validation[:MEASURED]
    found = explain(model, scenes.images, regions=scenes.boxes).metrics()
    energy, peak = found["energy_in_region"], found["pointing"]
    valid = np.isfinite(energy)
    return (float(energy[valid].mean()), float(peak[valid].mean())) if valid.any() else (np.nan, np.nan)


def run_collection(
    name: str, collections: Collections, log_dir: Path, *, epochs: int, seed: int, progress: Progress
) -> Result:
    """Trains a new network on one collection, logging the fixed batch, and measures it.

    Args:
        name: "honest" or "shortcut".
        collections: Both collections.
        log_dir: Where the record goes, in a subfolder "gradcam".
        epochs: Number of epochs.
        seed: Same seed, same first weights and same order of the images, in both runs.
        progress: Called with each batch and each epoch.

    Returns:
        How it ended.
    """
    train: Scenes = getattr(collections, name)
    validation: Scenes = getattr(collections, f"{name}_validation")
    scenes, keys = fixed_batch(collections.honest_validation)
    logger = _logger(scenes, log_dir, class_names=DIGITS, sample_keys=keys)
    keras.utils.set_random_seed(seed)
    model = build_convnet(halved=True)
    start = time.perf_counter()
    ticker = _Ticker(name, epochs * -(-len(train) // BATCH_SIZE), progress)
    train_and_log(model, train, validation, epochs=epochs, callbacks=[logger, ticker])
    seconds = time.perf_counter() - start
    return _result(
        *(name, model, logger, validation, collections.honest_validation, collections.shortcut_validation, seconds)
    )


def run_transfer(
    collections: Collections, log_dir: Path, *, epochs: int, seed: int, progress: Progress
) -> tuple[Result, Result]:
    """Pretrains on the digits 0 to 4 and fine-tunes on 5 to 9, first the head alone: one continuous record.

    The pretrained convolutions are nested, frozen, in a new model; its head is fitted, then the base is
    unfrozen and all is fitted again, at a quarter of the learning rate. One `GradCAMLogger` sees both fits, and
    explains a layer inside the nested base.

    Args:
        collections: Both collections; only the honest one is used.
        log_dir: Where the record goes, in a subfolder "gradcam".
        epochs: The demo's number of epochs: half of it pretrains, a third fits the head, a third fits
            all; at least one each.
        seed: Same seed, same first weights and same order of the images.
        progress: Called with each batch and each epoch.

    Returns:
        How the fit of the head ended, and how the fit of the whole model did.
    """
    old, old_validation = (s[s.labels < 5] for s in (collections.honest, collections.honest_validation))
    new, new_validation = (_relabelled(s[s.labels >= 5]) for s in (collections.honest, collections.honest_validation))
    own = _relabelled(collections.shortcut_validation[collections.shortcut_validation.labels >= 5])
    phases = max(1, epochs // 2), max(1, epochs // 3), max(1, epochs // 3)
    batches = (-(-len(old) // BATCH_SIZE), *[-(-len(new) // BATCH_SIZE)] * 2)
    ticker = _Ticker("transfer", sum(n * size for n, size in zip(phases, batches, strict=True)), progress)

    keras.utils.set_random_seed(seed)
    pretrained = build_convnet(5, name="pretrained", halved=True)
    ticker.fit = "pretraining on 0-4"
    train_and_log(pretrained, old, old_validation, epochs=phases[0], callbacks=[ticker])

    base = keras.Model(pretrained.input, pretrained.get_layer("relu_4").output, name="base")
    base.trainable = False
    inputs = keras.Input((96, 96, 3))
    # training=False: batch normalisation keeps its statistics when the base is unfrozen.
    features = keras.layers.GlobalAveragePooling2D()(base(inputs, training=False))
    outputs = keras.layers.Dense(5, activation="softmax")(features)
    model = keras.Model(inputs, outputs, name="transfer")

    logger = _logger(new_validation[:16], log_dir, class_names=DIGITS[5:])
    results = []
    for name, count, rate in (("head", phases[1], _RATE * 5), ("all", phases[2], _RATE / 4)):
        base.trainable = name == "all"
        ticker.fit = "head, base frozen" if name == "head" else "all layers"
        start = time.perf_counter()
        train_and_log(model, new, new_validation, epochs=count, learning_rate=rate, callbacks=[logger, ticker])
        seconds = time.perf_counter() - start
        results.append(_result(name, model, logger, new_validation, new_validation, own, seconds))
    return results[0], results[1]


def _relabelled(scenes: Scenes) -> Scenes:
    """The scenes of the digits 5 to 9, labelled 0 to 4."""
    return Scenes(scenes.images, scenes.labels - 5, scenes.boxes, scenes.stickers)


def _logger(scenes: Scenes, log_dir: Path, **settings: Any) -> GradCAMLogger:
    return GradCAMLogger(
        (scenes.images, scenes.labels),
        regions=scenes.boxes,
        tracker=["disk", "tensorboard"],
        log_dir=log_dir,
        on_error="raise",
        **settings,
    )


def _result(
    name: str,
    model: keras.Model,
    logger: GradCAMLogger,
    own: Scenes,
    random: Scenes,
    measured: Scenes,
    seconds: float,
) -> Result:
    assert logger.directory is not None
    energy, peak = measure(model, measured)
    return Result(
        name=name,
        directory=logger.directory,
        accuracy=_accuracy(model, own),
        accuracy_random=_accuracy(model, random),
        energy=energy,
        peak=peak,
        seconds=seconds,
    )


def _accuracy(model: keras.Model, scenes: Scenes) -> float:
    figures = model.evaluate(scenes.images, scenes.labels, batch_size=256, verbose=0, return_dict=True)
    return float(figures["accuracy"])


class _Ticker(keras.callbacks.Callback):  # type: ignore[misc]  # keras has no types
    """Counts a run's batches over all of its fits.

    Attributes:
        fit: What is being trained now.
    """

    def __init__(self, name: str, total: int, progress: Progress) -> None:
        super().__init__()
        self.fit = ""
        self._name, self._total, self._progress, self._done = name, total, progress, 0

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._done += 1
        self._tell(None, {})

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._tell(epoch + 1, dict(logs or {}))

    def _tell(self, epoch: int | None, logs: Mapping[str, float]) -> None:
        epochs = self.params["epochs"]
        self._progress(Step(self._name, self.fit, self._done, self._total, epoch, epochs, logs))
