"""The loggers that look into the network: channels of layers, and patterns of filters."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..data.batches import fingerprint
from ..data.range_names import checked_range
from ..drawing.channels import GridStyle
from ..drawing.files import ImageFormat, encode
from ..drawing.text import with_captions
from ..explaining.features import ActivationGrids, ActivationSource, FilterPatterns, PatternSource
from ..network.architecture import layer_place, layer_places
from ..passes.ascent import AscentSettings
from ..records import EpochRecord, Image, Look, RunConfig, Sample, ValidationBatch
from .base import EpochLogger, KeptBatch, batch_words, kept_batch, run_config

_FONT = 15  # px, of captions
_MOST_IN_LOGS = 5  # numbers in Keras' logs of layers that nobody named
_OF_ALL = "dead_share"


class ActivationLogger(EpochLogger):
    """Draws every channel of layers for a fixed validation batch at epoch ends, and counts the dead ones.

    One picture for each sample and layer, named "<sample key>/<layer path>": the image, and all channels of the layer
    in a grid, each centred and scaled by itself (64 * (a - mean) / deviation + 128, cut to [0, 255]). The number on the
    left of a row is that of its first channel; those on top are to be added. Dead channels are dark grey with a cross.

    Added to Keras' `logs`, for each layer: `<prefix>_<layer>_dead_share`, in [0, 1], the share of its channels that are
    dead: constant over all samples and positions of the batch, or not finite. Behind a ReLU these are the channels that
    are nowhere above 0. Near 0 is good. A share that jumps up and stays there tells that units have died, most often of
    a learning rate that is too high. In few samples a channel may also rest because none shows what it stands for:
    more of them, by `max_samples`, give a lower and surer share. A convolution without an activation of its own is
    seen before the ReLU that follows; name that ReLU's layer to count what it cuts off. <layer> is the layer's path,
    with all but letters and digits replaced by "_". A layer that Keras has named, such as "conv2d_3", whose number
    tells what was built before, is called by its place: "Conv2D 2", and `<prefix>_Conv2D_2_dead_share`. Of more than 5
    layers that `layers` does not name, `logs` get `<prefix>_dead_share` alone, the share of all their channels; records
    and trackers have each layer's too.

    Fits, runs and prefixes are as in `HeatmapLogger`.

    Args:
        validation_data: What is looked at, as in `HeatmapLogger`.
        layers: A layer's name, a path such as "base/conv5" for a layer of a nested model, the layer itself, or several
            of these in a list. None for every convolution and pooling at any depth that puts out a feature map; of
            more than 12, the last one of each spatial size. The choice is said when training begins.
        tracker: Where it goes, as in `HeatmapLogger`.
        log_dir: Folder of all runs, as in `HeatmapLogger`.
        max_samples: How many samples are looked at.
        select: "first" takes the first samples, "balanced" takes classes in turn.
        class_names: Names by class index, for captions.
        sample_keys: Names of the samples, as in `HeatmapLogger`.
        freq: Log every so many epochs; the first and the last one of a fit are always logged.
        display: What people see where it differs from the model's input: images, or a function.
        value_range: Which values of the model's input are black and white, as in `HeatmapLogger`.
        colormap: Colours of the values, one of `COLORMAPS`.
        size: Longest side of a grid in px, at least 256; the image beside it and the caption below come on top. Cells
            are shrunk to fit, down to 4 px; no channel is left out. 2,048 maps of 7 x 7 are shown at 14 x 14 px.
        image_format: "jpg" or "png".
        prefix: First part of every logged name.
        batch_size: Largest number of samples that run at once.
        on_error: "warn" or "raise", as in `HeatmapLogger`.
        model: Which part of the trained model is looked into, as in `HeatmapLogger`.
        run: The stored run that goes on, as in `HeatmapLogger`.

    Raises:
        ValueError: If a setting is impossible; what depends on the model is raised when training begins, before the
            first batch.
        TypeError: If a setting is of the wrong kind.

    Example:
        >>> logger = ActivationLogger(validation_data, ["conv1", "conv2"], max_samples=2)
        >>> model.fit(x, y, validation_data=validation_data, callbacks=[logger])
    """

    def __init__(
        self,
        validation_data: Any,
        layers: Any = None,
        *,
        tracker: Any = "auto",
        log_dir: str | Path = "logs",
        max_samples: int = 4,
        select: str = "first",
        class_names: Sequence[str] | None = None,
        sample_keys: Sequence[str] | None = None,
        freq: int = 1,
        display: Any = None,
        value_range: Any = None,
        colormap: str = "viridis",
        size: int = 1024,
        image_format: ImageFormat = "jpg",
        prefix: str = "activations",
        batch_size: int = 32,
        on_error: str = "warn",
        model: Any = None,
        run: str | Path | None = None,
    ) -> None:
        super().__init__(
            tracker=tracker, log_dir=log_dir, freq=freq, prefix=prefix, on_error=on_error, model=model, run=run
        )
        if class_names is not None and isinstance(class_names, (str, Mapping)):
            raise ValueError(f"`class_names` must be a list of names. Received: {class_names!r}.")
        self.validation_data = validation_data
        self.layers = layers
        self.max_samples = max_samples
        self.select = select
        self.class_names = class_names
        self.sample_keys = sample_keys
        self.display = display
        self.value_range = checked_range(value_range)
        self.style = GridStyle(colormap, size, image_format)
        self.batch_size = batch_size
        self._kept: KeptBatch | None = None

    _places: dict[str, str]  # of each path, what pictures and numbers are called

    def _make_source(self, model: Any) -> ActivationSource:
        self._kept = kept_batch(
            self._kept,
            self.validation_data,
            model,
            max_samples=self.max_samples,
            select=self.select,
            display=self.display,
            sample_keys=self.sample_keys,
            value_range=self.value_range,
        )
        source = ActivationSource(model, self._kept.batch, self.layers, self.style, self.batch_size)
        places = layer_places(model)
        self._places = {path: places.get(path, path) for path in source.layer_names}
        return source

    def _description(self, source: ActivationSource, config: RunConfig) -> str:
        assert self._kept is not None
        self._warn_of_range(self._kept.batch)
        logged = ", ".join(f"{self.prefix}_{name}" for name in self._names_in_logs(source))
        words = batch_words(self._kept, self.select)
        shown = f"the channels of {config.layer_name} for {len(self._kept.batch)} images{words}"
        return f"shows {shown}; adds {logged} to Keras' logs"

    def _config(self, source: ActivationSource) -> RunConfig:
        assert self._kept is not None
        batch, layers = self._kept.batch, source.layer_names
        several = len(layers)
        pictured = ValidationBatch(
            inputs=None,
            labels=None if batch.labels is None else batch.labels.repeat(several),
            sample_keys=tuple(_picture_key(key, self._places[path]) for key in batch.sample_keys for path in layers),
            make_look=lambda: Look(
                _each(batch.fingerprints, several), _each(batch.display, several), batch.value_range
            ),
        )
        return run_config(
            self,
            pictured,
            self.class_names,
            self.style,
            method="activations",
            layer_name=", ".join(layers),
            target="",
        )

    def _record(
        self, source: ActivationSource, epoch: int, step: int
    ) -> tuple[dict[str, float], Callable[[], EpochRecord]]:
        grids = source()
        self._warn_dead([name for name, grid in grids.items() if grid.dead.all()], epoch)
        names = metric_names(self._places.values())
        scalars = {f"{names[self._places[path]]}_dead_share": grid.dead_share for path, grid in grids.items()}
        if self.layers is None and len(grids) > _MOST_IN_LOGS:
            scalars[_OF_ALL] = float(np.concatenate([grid.dead for grid in grids.values()]).mean())
        return scalars, partial(self._drawn, grids, epoch, step, scalars)

    def _for_logs(self, source: ActivationSource, scalars: dict[str, float]) -> dict[str, float]:
        chosen = {_OF_ALL: scalars[_OF_ALL]} if _OF_ALL in scalars else scalars
        return super()._for_logs(source, chosen)

    def _names_in_logs(self, source: ActivationSource) -> list[str]:
        if self.layers is None and len(source.layer_names) > _MOST_IN_LOGS:
            return [_OF_ALL]
        return [f"{name}_dead_share" for name in metric_names(self._places.values()).values()]

    def _drawn(
        self, grids: dict[str, ActivationGrids], epoch: int, step: int, scalars: dict[str, float]
    ) -> EpochRecord:
        drawn, samples = [], []
        of_layers = [(path, grid, grid.pictures(), grid.captions(self.class_names)) for path, grid in grids.items()]
        batch = of_layers[0][1].batch
        for i, key in enumerate(batch.sample_keys):
            label = None if batch.labels is None else int(batch.labels[i])
            for path, grid, pictures, captions in of_layers:
                drawn.append(pictures[i])
                dead = bool(grid.dead.all())
                samples.append(
                    _sample(_picture_key(key, self._places[path]), batch.fingerprints[i], label, dead, captions[i])
                )
        return _pictures_record(drawn, samples, epoch, step, scalars, self.style.image_format)

    def _forget_fits(self) -> None:
        super()._forget_fits()
        self._warned_dead = False
        self._places = {}

    def _warn_dead(self, paths: list[str], epoch: int) -> None:
        if paths and not self._warned_dead:
            self._warned_dead = True
            self._warn(
                f"All channels of {', '.join(paths)} are dead in epoch {epoch}: constant on all samples, or not "
                "finite. A smaller learning rate often helps."
            )


class FilterLogger(EpochLogger):
    """Draws the patterns that excite a layer's filters at epoch ends: what they have learnt to see.

    One picture, named after the layer, or its place as in `ActivationLogger`: for each filter an image made by gradient
    ascent on the filter's mean activation (see `filter_patterns`), over the filter's index. It needs no data. Each
    ascent begins with the same seeded grey noise, so that epochs and runs can be compared. A filter is dead, drawn dark
    grey with a cross, if no step finds a gradient, or if it ends in a ReLU and is still nowhere above 0 for its
    pattern.

    Added to Keras' `logs`: `<prefix>_activation`, the mean over the filters of the activation that their patterns
    reach, in the layer's own unit, which has no upper bound; and `<prefix>_dead`, the number of dead filters among
    them, where 0 is good.

    An ascent costs about `steps` training steps of the filters as a batch, up to the layer: set `freq` for deep layers.
    What lies behind the layer is not run. Fits, runs and prefixes are as in `HeatmapLogger`.

    Args:
        layer: The layer: its name, a path such as "base/conv5" for a layer of a nested model, or the layer itself.
        filters: How many filters, the first ones (all where the layer has fewer), or a list of their indices.
        steps: Steps of the ascent.
        step_size: Root mean square of each step's change, as a share of the value range.
        seed: Of the noise and the shifts.
        jitter: At each step the image is shifted by up to so many px, around its edges, and back after it; 0 for none.
        blur: Deviation in px of the Gaussian that smooths each gradient; 0 for none, as in the book.
        size: (height, width) of the patterns, by default (128, 128), for a model that takes any; (height,
            width, channels) for one that doesn't say what it takes, such as a subclassed one that has not run yet.
        value_range: Lowest and highest value of the model's input, (0, 255) or (-1, 1) where it takes these.
        tracker: Where it goes, as in `HeatmapLogger`.
        log_dir: Folder of all runs, as in `HeatmapLogger`.
        freq: Log every so many epochs; the first and the last one of a fit are always logged.
        image_format: "jpg" or "png".
        prefix: First part of every logged name.
        batch_size: Largest number of filters that run at once.
        on_error: "warn" or "raise", as in `HeatmapLogger`.
        model: Which part of the trained model is looked into, as in `HeatmapLogger`.
        run: The stored run that goes on, as in `HeatmapLogger`.

    Raises:
        ValueError: If a setting is impossible; what depends on the model is raised when training begins, before the
            first batch.
        TypeError: If a setting is of the wrong kind.

    Example:
        >>> logger = FilterLogger("conv2", filters=32, freq=5)
        >>> model.fit(x, y, callbacks=[logger])
    """

    _subject = "The patterns"

    def __init__(
        self,
        layer: Any,
        filters: int | Sequence[int] = 16,
        *,
        steps: int = 40,
        step_size: float = 0.025,
        seed: int = 0,
        jitter: int = 4,
        blur: float = 1.0,
        size: tuple[int, ...] | None = None,
        value_range: tuple[float, float] = (0, 1),
        tracker: Any = "auto",
        log_dir: str | Path = "logs",
        freq: int = 1,
        image_format: ImageFormat = "jpg",
        prefix: str = "filters",
        batch_size: int = 16,
        on_error: str = "warn",
        model: Any = None,
        run: str | Path | None = None,
    ) -> None:
        super().__init__(
            tracker=tracker, log_dir=log_dir, freq=freq, prefix=prefix, on_error=on_error, model=model, run=run
        )
        self.layer = layer
        self.filters = filters
        self.settings = AscentSettings(steps, step_size, seed, jitter, blur, value_range)
        self.size = size
        self.style = GridStyle(image_format=image_format)
        self.batch_size = batch_size

    def _make_source(self, model: Any) -> PatternSource:
        return PatternSource(model, self.layer, self.filters, self.settings, self.size, self.batch_size)

    def _description(self, source: PatternSource, config: RunConfig) -> str:
        ascent = source.ascent
        height, width = ascent.seed_image.shape[:2]
        return (
            f"shows what excites {len(ascent.filters)} of {ascent.channels} filters of {config.layer_name}, in "
            f"images of {height} x {width} px and range {config.value_range}"
        )

    def _config(self, source: PatternSource) -> RunConfig:
        low, high = self.settings.value_range
        batch = ValidationBatch(
            inputs=None,
            labels=None,
            sample_keys=(self._place(source),),
            make_look=lambda: Look(
                (fingerprint(source.ascent.seed_image),), tuple(source.seed), f"[{low:g}, {high:g}]"
            ),
        )
        return run_config(
            self,
            batch,
            None,
            self.settings,
            method=_text("filters", self.settings),
            layer_name=source.ascent.path,
            target=str(source.ascent.filters.tolist()),
        )

    def _names_in_logs(self, source: PatternSource) -> list[str]:
        return ["activation", "dead"]

    def _record(
        self, source: PatternSource, epoch: int, step: int
    ) -> tuple[dict[str, float], Callable[[], EpochRecord]]:
        found = source()
        scalars = {"activation": float(found.activations.mean()), "dead": float(found.dead.sum())}
        digest = fingerprint(source.ascent.seed_image)
        return scalars, partial(self._drawn, found, self._place(source), digest, epoch, step, scalars)

    def _place(self, source: PatternSource) -> str:
        return layer_place(self.explained_model, source.ascent.path)

    def _drawn(
        self, found: FilterPatterns, key: str, digest: str, epoch: int, step: int, scalars: dict[str, float]
    ) -> EpochRecord:
        sample = _sample(key, digest, None, bool(found.dead.all()), found.caption(), scalars["activation"])
        return _pictures_record([found.picture()], [sample], epoch, step, scalars, self.style.image_format)


def metric_names(paths: Iterable[str]) -> dict[str, str]:
    """Returns for each layer path a name of letters, digits and "_", as metrics have; all differ.

    Args:
        paths: Paths, such as "base/conv5", which becomes "base_conv5"; a second one of that name "base_conv5_2".
    """
    names: dict[str, str] = {}
    for path in paths:
        plain = re.sub(r"[^A-Za-z0-9_]", "_", path)
        number, name = 1, plain
        while name in names.values():
            number += 1
            name = f"{plain}_{number}"
        names[path] = name
    return names


def _picture_key(sample_key: str, layer: str) -> str:
    return f"{sample_key}/{layer}"


def _each(items: tuple[Any, ...], times: int) -> tuple[Any, ...]:
    return tuple(item for item in items for _ in range(times))


def _sample(key: str, digest: str, label: int | None, dead: bool, caption: str, score: float = float("nan")) -> Sample:
    """A picture that explains no class."""
    return Sample(
        key=key,
        fingerprint=digest,
        label=label,
        predicted=None,
        target=None,
        score=score,
        confidence=None,
        degenerate=dead,
        caption=caption,
    )


def _pictures_record(
    drawn: Sequence[Image],
    samples: Sequence[Sample],
    epoch: int,
    step: int,
    scalars: dict[str, float],
    image_format: ImageFormat,
) -> EpochRecord:
    pictures = with_captions(drawn, [sample.caption for sample in samples], [_FONT] * len(drawn))
    return EpochRecord(
        epoch=epoch,
        step=step,
        heatmaps=None,
        overlays=pictures,
        encoded=tuple(encode(picture, image_format) for picture in pictures),
        image_format=image_format,
        scalars=scalars,
        samples=tuple(samples),
    )


def _text(name: str, settings: AscentSettings) -> str:
    """The settings that are not the defaults, as in "filters(steps=20)"."""
    changed = [
        f"{field.name}={getattr(settings, field.name)!r}"
        for field in dataclasses.fields(settings)
        if getattr(settings, field.name) != field.default
    ]
    return f"{name}({', '.join(changed)})" if changed else name
