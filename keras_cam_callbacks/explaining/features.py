"""Looking into a network: the channels of its layers for a batch, and the patterns that excite its filters.

Called once by `activation_grids` and `filter_patterns`, at every epoch end by the callbacks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from ..checks import check_whole
from ..data.batches import make_batch
from ..data.spaces import AXES
from ..drawing.channels import (
    Bools,
    GridStyle,
    Sheet,
    Tones,
    channel_grid,
    dead_channels,
    deprocess,
    extremes,
    make_sheet,
    pattern_grid,
    tones,
    with_image,
)
from ..drawing.strips import over_strips, richest_slice, shortened, signal_picture, slices_of, strip_sheet
from ..network.legacy import check_keras3
from ..passes import check_backend
from ..passes.ascent import Ascent, AscentSettings, image_shape
from ..passes.channels import LayerActivations
from ..passes.taps import make_variables
from ..records import Floats, Image, Ints, ValidationBatch, class_name, short_repr

_LONGEST = 2048  # px: side of the grid of patterns
_LINE = 320  # px: width of a signal among them


@dataclass(frozen=True, eq=False)
class ActivationGrids:
    """The channels of one layer for a batch.

    Attributes:
        layer_name: Path of the layer.
        map_size: (*space), (h, w) of images, the size of the layer's feature map.
        dead: (C,) bool, True for a channel that is constant over all samples and positions of the batch, or not finite:
            behind a ReLU, one that is nowhere above 0.
        batch: The batch.
        tones: (N, C, height, width) uint8: each channel of each sample centred and scaled, 64 * (a - mean) / deviation
            + 128, at the size of a grid's cell.
        sheet: Where the cells stand.
        style: How they are drawn.
        slices: Of each volume or clip the slice, or the frame, that is drawn, counted from 0; else empty.
    """

    layer_name: str
    map_size: tuple[int, ...]
    dead: Bools
    batch: ValidationBatch
    tones: Tones
    sheet: Sheet
    style: GridStyle
    slices: tuple[int, ...] = ()

    __repr__ = short_repr

    @property
    def dead_share(self) -> float:
        """Share of the channels that are dead, in [0, 1]."""
        return float(self.dead.mean())

    def pictures(self) -> tuple[Image, ...]:
        """Draws one picture for each sample: the image, and beside it the grid of all channels.

        Of a signal each channel is a strip, below the signal. Of a volume or a clip one slice is drawn, the one in
        which the sample itself varies most. The number on the left of a row is that of its first channel; those on top
        are to be added. Dead channels are dark grey with a cross.

        Returns:
            N pictures, uint8 RGB (H, W, 3), of one size.
        """
        drawn = []
        for image, flat, channels in zip(self.batch.display, flat_display(self.batch), self.tones, strict=True):
            cells = channel_grid(channels, self.dead, self.sheet, self.style.colormap)
            signal = len(self.map_size) == 1 and image.ndim == 2
            drawn.append(
                over_strips(np.asarray(image, np.float32), cells, self.sheet, len(self.dead))
                if signal
                else with_image(flat, cells)
            )
        return tuple(drawn)

    def captions(self, class_names: Sequence[str] | None = None) -> tuple[str, ...]:
        """Returns a text for each picture, such as "block1/conv2, 64 channels of 56 x 56, 3 dead, true cat"."""
        size = " x ".join(map(str, self.map_size))
        text = f"{self.layer_name}, {len(self.dead)} channels of {size}, {int(self.dead.sum())} dead"
        texts = [text] * len(self.batch)
        if self.slices and self.batch.space is not None:
            what = "frame" if self.batch.space.axes[0] == "time" else "slice"
            depth = self.batch.space.size[0]
            texts = [f"{text}, {what} {index} of {depth}" for index in self.slices]
        if self.batch.labels is None:
            return tuple(texts)
        labels = zip(texts, self.batch.labels, strict=True)
        return tuple(f"{text}, true {class_name(class_names, label)}" for text, label in labels)


@dataclass(frozen=True, eq=False)
class FilterPatterns:
    """What excites the filters of one layer.

    Attributes:
        layer_name: Path of the layer.
        filters: (F,) int64, the filters.
        patterns: (F, H, W, 3) uint8, what is to be looked at: each image centred, brought to a deviation of 0.15 around
            grey, and cut. Three channels are RGB, any other number is shown as its mean in grey. Of signals their
            lines, of volumes and clips the slice or the frame in the middle.
        images: (F, *space, C) float32, (F, H, W, C) of images, in the model's own range, or beyond it, channels last.
        activations: (F,) float32, the mean activation of each filter for its image.
        seed_activations: (F,) float32, the same for the grey noise that the ascent began with.
        dead: (F,) bool, True for a filter for which no step found a gradient, or that ends in a ReLU and is nowhere
            above 0 for its image.
    """

    layer_name: str
    filters: Ints
    patterns: Image
    images: Floats
    activations: Floats
    seed_activations: Floats
    dead: Bools

    __repr__ = short_repr

    def picture(self, size: int = _LONGEST) -> Image:
        """Draws all patterns in one grid, each over its filter's index; dead filters are dark grey with a cross.

        Args:
            size: Longest side in px.

        Returns:
            uint8 RGB (H', W', 3).

        Raises:
            ValueError: If the size is no whole number of at least 256.
        """
        check_whole("size", size, 256, _LONGEST)
        return pattern_grid(self.patterns, [str(i) for i in self.filters], self.dead, size)

    def caption(self) -> str:
        """Returns a text for the picture, such as "block3/conv1, 16 filters, 2 dead, mean activation 3.1"."""
        mean = float(self.activations.mean())
        return (
            f"{self.layer_name}, {len(self.filters)} filters, {int(self.dead.sum())} dead, mean activation {mean:.3g}"
        )


class ActivationSource:
    """Draws layers of one model for one batch, as often as it is asked."""

    def __init__(self, model: Any, batch: ValidationBatch, layers: Any, style: GridStyle, batch_size: int) -> None:
        """Checks all settings and traces the model, as `activation_grids` describes.

        Raises:
            ValueError: If a setting does not fit the model.
            TypeError: If a setting is of the wrong kind.
        """
        check_whole("batch_size", batch_size, 1, 32)
        check_keras3(model)
        if not model.built:
            make_variables(model, keras.tree.map_structure(lambda a: a[:1], batch.inputs))
        self._batch, self._style = batch, style
        axes = AXES["image"] if batch.space is None else batch.space.axes
        self._layers = LayerActivations(model, batch.inputs, layers, batch_size=batch_size, axes=axes)
        self.layer_names = tuple(tap.path for tap in self._layers.taps)

    def __call__(self) -> dict[str, ActivationGrids]:
        """Returns the layers by path, with the weights that the model has now."""
        count = len(self.layer_names)
        slices = _slices(self._batch)
        drawn: list[list[Tones]] = [[] for _ in range(count)]
        bounds: list[list[tuple[Floats, Floats]]] = [[] for _ in range(count)]
        sheets: dict[int, tuple[tuple[int, ...], Sheet]] = {}
        start = 0
        for chunk in self._layers():
            rows = slice(start, start + len(chunk[0]))
            for i, activations in enumerate(chunk):
                *size, channels = activations.shape[1:]
                if i not in sheets:
                    sheets[i] = tuple(size), self._sheet(channels, size)
                drawn[i].append(tones(self._flat(activations, slices[rows], sheets[i][1]), sheets[i][1]))
                bounds[i].append(extremes(activations))
            start = rows.stop
        found = {}
        for i, name in enumerate(self.layer_names):
            low, high = (np.stack(parts) for parts in zip(*bounds[i], strict=True))
            found[name] = ActivationGrids(
                layer_name=name,
                map_size=sheets[i][0],
                dead=dead_channels(low.min(axis=0), high.max(axis=0)),
                batch=self._batch,
                tones=np.concatenate(drawn[i]),
                sheet=sheets[i][1],
                style=self._style,
                slices=slices,
            )
        return found

    def _sheet(self, channels: int, size: Sequence[int]) -> Sheet:
        """Chooses where the cells of a layer with maps of this size stand."""
        if len(size) == 1:
            return strip_sheet(channels, size[0], self._style.size)
        return make_sheet(channels, size[-2], size[-1], self._style.size)

    def _flat(self, activations: Floats, slices: Sequence[int], sheet: Sheet) -> Floats:
        """Returns what is drawn of activations (N, *space, C), (N, h, w, C): strips of signals, slices of volumes."""
        if activations.ndim == 3:
            return shortened(activations, sheet)
        if activations.ndim == 4 or self._batch.space is None:
            return activations
        return slices_of(activations, slices, self._batch.space.size[0])


def _slices(batch: ValidationBatch) -> tuple[int, ...]:
    """Returns which slice of each volume or clip is drawn, the middle one where its slices aren't shown; else none."""
    if batch.space is None or len(batch.space.axes) != 3:
        return ()
    depth = batch.space.size[0]
    return tuple(
        richest_slice(shown) if len(shown) == depth and shown.ndim == 4 else depth // 2 for shown in batch.display
    )


def _pictured(images: Floats) -> Image:
    """Returns patterns (F, *space, C) as pictures, (F, H, W, 3) uint8."""
    if images.ndim == 3:
        return np.stack([signal_picture(signal, _LINE) for signal in images])
    return deprocess(images if images.ndim == 4 else images[:, images.shape[1] // 2])


def flat_display(batch: ValidationBatch) -> tuple[Image, ...]:
    """Returns what people see of each sample as a picture (H, W, 3): of volumes and clips the slice that is drawn."""
    slices = _slices(batch) or (0,) * len(batch)
    return tuple(
        shown[index] if shown.ndim == 4 else signal_picture(np.asarray(shown, np.float32)) if shown.ndim == 2 else shown
        for shown, index in zip(batch.display, slices, strict=True)
    )


class PatternSource:
    """Makes the patterns of one layer's filters, as often as it is asked."""

    def __init__(
        self, model: Any, layer: Any, filters: Any, settings: AscentSettings, size: Any, batch_size: int
    ) -> None:
        """Checks all settings and traces the model, as `filter_patterns` describes.

        Raises:
            ValueError: If a setting does not fit the model.
            TypeError: If a setting is of the wrong kind.
        """
        check_keras3(model)
        shape = image_shape(model, size)
        if not model.built:
            make_variables(model, np.zeros((1, *shape), np.float32))
        self.ascent = Ascent(model, layer, filters, settings, shape=shape, batch_size=batch_size)

    @property
    def seed(self) -> Image:
        """(1, H, W, 3) uint8, what every ascent begins with, as it would be shown."""
        return _pictured(self.ascent.seed_image[None])

    def __call__(self) -> FilterPatterns:
        """Returns the patterns for the weights that the model has now."""
        images, reached, start, dead = self.ascent()
        return FilterPatterns(self.ascent.path, self.ascent.filters, _pictured(images), images, reached, start, dead)


def activation_grids(
    model: Any,
    images: Any,
    layers: Any = None,
    *,
    max_samples: int | None = 4,
    display: Any = None,
    value_range: Any = None,
    colormap: str = "viridis",
    size: int = 1024,
    batch_size: int = 32,
) -> dict[str, ActivationGrids]:
    """Shows every channel of layers of a trained model, for some images.

    Args:
        model: Any Keras 3 model; it is left as it is.
        images: Images as the model takes them, (N, H, W, C), or `(images, labels)`, or any data that `fit` takes.
        layers: A layer's name, a path such as "base/conv5" for a layer of a nested model, the layer itself, or several
            of these in a list. None for all convolutions and poolings at any depth that put out a feature map; of
            more than 12, the last one of each spatial size.
        max_samples: How many samples to take, the first ones; None for all.
        display: What people see where it differs from the model's input, as in `explain`.
        value_range: Which values of the images are black and white, as in `explain`.
        colormap: Colours of the channels' values, one of `COLORMAPS`.
        size: Longest side of a grid in px.
        batch_size: Largest number of samples that run at once.

    Returns:
        By path, in call order: `.pictures()`, `.dead` and `.dead_share`.

    Raises:
        ValueError: If a setting does not fit the model or the images. The message tells what would.
        TypeError: If a setting is of the wrong kind.

    Example:
        >>> grids = activation_grids(model, images, ["conv1", "pool1"])
        >>> pictures = grids["conv1"].pictures()
    """
    check_backend()
    style = GridStyle(colormap, size)
    batch = make_batch(images, model, max_samples=max_samples, display=display, value_range=value_range)
    return ActivationSource(model, batch, layers, style, batch_size)()


def filter_patterns(
    model: Any,
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
    batch_size: int = 16,
) -> FilterPatterns:
    """Makes the patterns that excite filters of a trained model most, by gradient ascent from grey noise.

    Args:
        model: A Keras 3 model with one input, of images, signals, volumes or clips; it is left as it is.
        layer: The layer: its name, a path such as "base/conv5" for a layer of a nested model, or the layer itself.
        filters: How many filters, the first ones (all where the layer has fewer), or a list of their indices.
        steps: Steps of the ascent.
        step_size: Root mean square of each step's change, as a share of the value range.
        seed: Of the noise and the shifts. The model and all global random states are left alone.
        jitter: At each step the image is shifted by up to so many px, around its edges, and back after it; 0 for none.
        blur: Deviation in px of the Gaussian that smooths each gradient; 0 for none, as in the book.
        size: (height, width) of the patterns, by default (128, 128), for a model that takes any; (height,
            width, channels) for one that doesn't say what it takes, such as a subclassed one that has not run yet. Of
            signals (time,), of volumes and clips (depth or time, height, width).
        value_range: Lowest and highest value of the model's input, (0, 255) or (-1, 1) where it takes these.
        batch_size: Largest number of filters that run at once.

    Returns:
        `.patterns` (F, H, W, 3) uint8, `.activations` (F,) and more; `.picture()` draws all of them.

    Raises:
        ValueError: If a setting is impossible or does not fit the model. The message tells what would.
        TypeError: If a setting is of the wrong kind.

    Reference:
        Erhan et al., Visualizing Higher-Layer Features of a Deep Network, University of Montreal 2009. The formula is
        in `ascent.Ascent`.

    Example:
        >>> found = filter_patterns(model, "block3_conv1", filters=[0, 5, 7])
        >>> picture = found.picture()
    """
    check_backend()
    settings = AscentSettings(steps, step_size, seed, jitter, blur, value_range)
    return PatternSource(model, layer, filters, settings, size, batch_size)()
