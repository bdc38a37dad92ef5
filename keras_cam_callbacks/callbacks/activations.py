"""What the channels of layers show of a fixed batch, and how many are dead."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..data.range_names import checked_range
from ..data.spaces import kind_of
from ..drawing.channels import GridStyle
from ..drawing.files import ImageFormat
from ..explaining.features import ActivationGrids, ActivationSource, flat_display
from ..network.architecture import layer_places
from ..records import EpochRecord, Look, RunConfig, ValidationBatch
from ..store import Run
from .base import EpochLogger, run_config
from .choosing import check_select, chosen_before
from .kept import KeptBatch, batch_words, kept_batch
from .pictures import picture_sample, pictures_record
from .steps import Steps

_MOST_IN_LOGS = 5  # numbers in Keras' logs of layers that nobody named
_OF_ALL = "dead_share"


class ActivationLogger(EpochLogger):
    """Draws every channel of layers for a fixed validation batch at epoch ends, and counts the dead ones.

    One picture for each sample and layer, named "<sample key>/<layer path>": the image, and all channels of the layer
    in a grid, each centred and scaled by itself (64 * (a - mean) / deviation + 128, cut to [0, 255]). The number on the
    left of a row is that of its first channel; those on top are to be added. Dead channels are dark grey with a cross.
    Of a signal each channel is a strip, below the signal itself. Of a volume or a clip one slice is drawn, the one in
    which the sample itself varies most: it is the same in all epochs.

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
        select: Which samples, as in `HeatmapLogger`.
        select_model: The model that chooses them, as in `HeatmapLogger`.
        class_names: Names by class index, for captions.
        sample_keys: Names of the samples, as in `HeatmapLogger`.
        freq: Log every so many epochs, or every so many steps by `Steps`, as in `HeatmapLogger`.
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
        select: str | Run = "first",
        select_model: Any = None,
        class_names: Sequence[str] | None = None,
        sample_keys: Sequence[str] | None = None,
        freq: int | Steps = 1,
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
        self.select_model = select_model
        check_select(select, select_model)
        self.class_names = class_names
        self.sample_keys = sample_keys
        self.display = display
        self.value_range = checked_range(value_range)
        self.style = GridStyle(colormap, size, image_format)
        self.batch_size = batch_size
        self._kept: KeptBatch | None = None

    _places: dict[str, str]  # of each path, what pictures and numbers are called

    def _make_source(self, model: Any) -> ActivationSource:
        self._dead_said: set[str] = set()
        self._kept = kept_batch(
            self._kept,
            self.validation_data,
            model,
            max_samples=self.max_samples,
            select=chosen_before(self.select, self.log_dir, self.run),
            select_model=self.select_model,
            batch_size=self.batch_size,
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
        self._warn_of_choice(self._kept)
        logged = ", ".join(f"{self.prefix}_{name}" for name in self._names_in_logs(source))
        words = batch_words(self._kept, self.select)
        shown = f"the channels of {config.layer_name} for {len(self._kept.batch)} {_plural(self._kept.batch)}{words}"
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
                _each(batch.fingerprints, several), _each(flat_display(batch), several), batch.value_range
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
                    picture_sample(
                        _picture_key(key, self._places[path]), batch.fingerprints[i], label, dead, captions[i]
                    )
                )
        return pictures_record(drawn, samples, epoch, step, scalars, self.style.image_format)

    def _forget_fits(self) -> None:
        super()._forget_fits()
        self._places = {}

    def _warn_dead(self, paths: list[str], epoch: int) -> None:
        """Says, once in a fit for each layer, that it is dead."""
        new = [path for path in paths if path not in self._dead_said]
        if new:
            self._dead_said.update(new)
            self._warn(
                f"All channels of {', '.join(new)} are dead in epoch {epoch}: constant on all samples, or not "
                "finite. A smaller learning rate often helps."
            )


def _plural(batch: ValidationBatch) -> str:
    return "images" if batch.space is None else f"{kind_of(batch.space)}s"


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
