"""What the filters of a layer look for: the images that excite them most."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ..data.batches import fingerprint
from ..drawing.channels import GridStyle
from ..drawing.files import ImageFormat
from ..explaining.features import FilterPatterns, PatternSource
from ..network.architecture import layer_place
from ..passes.ascent import AscentSettings
from ..records import EpochRecord, Look, RunConfig, ValidationBatch
from .base import EpochLogger, run_config
from .pictures import picture_sample, pictures_record
from .steps import Steps


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
            width, channels) for one that doesn't say what it takes, such as a subclassed one that has not run yet. Of
            signals (time,), of volumes and clips (depth or time, height, width).
        value_range: Lowest and highest value of the model's input, (0, 255) or (-1, 1) where it takes these.
        tracker: Where it goes, as in `HeatmapLogger`.
        log_dir: Folder of all runs, as in `HeatmapLogger`.
        freq: Log every so many epochs, or every so many steps by `Steps`, as in `HeatmapLogger`.
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
        freq: int | Steps = 1,
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
        *sides, _ = ascent.seed_image.shape
        what = "images" if len(sides) == 2 else "signals" if len(sides) == 1 else "volumes"
        return (
            f"shows what excites {len(ascent.filters)} of {ascent.channels} filters of {config.layer_name}, in "
            f"{what} of {' x '.join(map(str, sides))} {'px' if len(sides) == 2 else 'positions'} and range "
            f"{config.value_range}"
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
        sample = picture_sample(key, digest, None, bool(found.dead.all()), found.caption(), scalars["activation"])
        return pictures_record([found.picture()], [sample], epoch, step, scalars, self.style.image_format)


def _text(name: str, settings: AscentSettings) -> str:
    """The settings that are not the defaults, as in "filters(steps=20)"."""
    changed = [
        f"{field.name}={getattr(settings, field.name)!r}"
        for field in dataclasses.fields(settings)
        if getattr(settings, field.name) != field.default
    ]
    return f"{name}({', '.join(changed)})" if changed else name
