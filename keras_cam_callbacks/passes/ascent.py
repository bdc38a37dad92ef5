"""What excites a filter: gradient ascent on an image, from grey noise, many filters at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from .. import engine
from ..checks import check, check_whole, is_real, is_whole
from ..data.layout import as_images, in_layout, model_layout, puts_channels_first
from ..data.spaces import AXES, input_space, kind_of
from ..network.layers import input_tensors
from ..records import Floats, Ints, Space
from .channels import SHOWN
from .taps import as_activations, fixed_batch, layer_calls, make_tap, named_layer, single_call

Bools = npt.NDArray[np.bool_]

_OPEN = 8
"""Stands for a side that a model leaves open, where only the number of axes counts."""


@dataclass(frozen=True)
class AscentSettings:
    """How an image is made that excites a filter.

    Attributes:
        steps: How many steps.
        step_size: Root mean square of each step's change, as a share of the value range.
        seed: Of the noise that it begins with, and of the shifts.
        jitter: At each step the image is shifted by up to so many px, around its edges, and back after it: so no
            pattern can rest on the places of strides and poolings.
        blur: Deviation in px of the Gaussian that smooths the gradient; 0 for none, as in the book.
        value_range: Lowest and highest value of the model's input.

    Raises:
        ValueError: If a setting is impossible.
    """

    steps: int = 40
    step_size: float = 0.025
    seed: int = 0
    jitter: int = 4
    blur: float = 1.0
    value_range: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        check_whole("steps", self.steps, 1, 40)
        check_whole("seed", self.seed, 0, 0)
        check_whole("jitter", self.jitter, 0, 4)
        pair = self.value_range if isinstance(self.value_range, (tuple, list)) else ()
        rises = len(pair) == 2 and all(map(is_real, pair)) and pair[0] < pair[1]
        positive = is_real(self.step_size) and self.step_size > 0
        check("step_size", self.step_size, positive, "a positive number", "0.025")
        check("blur", self.blur, is_real(self.blur, 0), "0 or a positive number (px)", "1.0")
        check("value_range", self.value_range, rises, "the lowest and the highest value of the model's input", "(0, 1)")
        object.__setattr__(self, "value_range", tuple(map(float, self.value_range)))


class Ascent:
    """Climbs the mean activation of filters of one layer, as often as it is asked.

    x_0 is grey noise, uniform in the middle fifth of the value range; then x_(t+1) = x_t + s * g / rms(g), where
    g = d mean(A[..., k]) / d x, the mean being over all positions of the layer's output A, and s the step size. The
    root mean square makes a step independent of the image's size; g / rms(g) is sqrt(H W C) times the
    `l2_normalize(g)` of the book. The image is not cut to the value range on its way.

    A layer that ends in a ReLU hands back no gradient from where a filter rests. So in the first quarter of the steps,
    and wherever the filter is nowhere above 0, what goes into the ReLU is climbed instead. A filter is dead if no step
    has found a gradient, or if it ends in a ReLU and is still nowhere above 0 after all steps.

    All steps are traced once, when the object is made, as a loop: the model runs up to the layer, and back to the
    image. The noise and the shifts come from a generator of its own, and are the same for each filter and in each
    ascent, so that patterns differ by what the filters have learnt alone.

    Attributes:
        path: Path of the layer.
        channels: How many filters the layer has.
        filters: (F,) int64, those that are climbed.
        seed_image: (*space, C) float32, (H, W, C) of images, what each ascent begins with.
        traces: How often the model was traced, or would be if it didn't run eagerly.

    Reference:
        Erhan et al., Visualizing Higher-Layer Features of a Deep Network, University of Montreal 2009; Chollet, Deep
        Learning with Python, chapter "Visualizing convnet filters".
    """

    def __init__(
        self,
        model: Any,
        layer: Any,
        filters: int | Sequence[int] = 16,
        settings: AscentSettings | None = None,
        *,
        shape: tuple[int, ...],
        batch_size: int = 16,
    ) -> None:
        """Finds the layer and the filters, and traces all steps.

        Args:
            model: The built model, with one input, of images.
            layer: Name, path, or the layer.
            filters: Indices of filters, or how many of the first ones; all where the layer has fewer.
            settings: How to climb.
            shape: Of one image, as from `image_shape`.
            batch_size: Largest number of filters that are climbed at once.

        Raises:
            ValueError: If the model has no such layer or filters, the layer is not called once or puts out no feature
                map, or no gradient reaches the image.
            TypeError: If the layer is neither text nor a layer.
        """
        settings = settings or AscentSettings()
        check_whole("batch_size", batch_size, 1, 16)
        self._model, self._engine = model, engine.load()
        self._fixed = fixed_batch(model)
        self._chunk = self._fixed or batch_size
        inputs = input_tensors(model)
        self._dtype = str(inputs[0].dtype) if inputs else str(keras.config.floatx())
        example = np.zeros((self._fixed or 1, *shape), np.float32)
        space = input_space(model, example)
        names = AXES["image"] if space is None else space.axes
        axes = len(names)
        self._axes = tuple(range(1, axes + 1))
        self.path, self._layer, number = named_layer(model, layer, example, SHOWN, axes)
        calls = layer_calls(model, example)
        self._layout = model_layout(example, [call.layer for call in calls])
        if space is not None and axes != 2:
            self._layout = space.layout
        call = single_call(self.path, self._layer, calls, SHOWN, axes=axes, number=number)
        self._tap = make_tap(call, calls, SHOWN, names)
        self.channels = self._tap.channels or 0
        self.filters = _checked_filters(filters, self.channels, self.path)
        self._early = math.ceil(settings.steps / 4)
        low, high = settings.value_range
        self._step = settings.step_size * (high - low)
        self._smoothing = _gaussian(settings.blur)
        random = np.random.default_rng(settings.seed)
        self._flat = len(shape) == axes
        size = as_images(example, self._layout, axes).shape[1:]
        self.seed_image: Floats = (low + (high - low) * random.uniform(0.4, 0.6, size)).astype(np.float32)
        self._shifts = random.integers(-settings.jitter, settings.jitter + 1, (settings.steps, axes)).astype(np.int32)
        self.traces = 0
        self._runs_eagerly = False
        start = self.seed_image[None]
        self._pass = self._engine.compile_pass(
            self._traced, model, (start, np.zeros(1, np.int32)), self._fixed, traced=True
        )
        self._runs_eagerly = not self.traces
        self.traces = self.traces or 1

    def __call__(self) -> tuple[Floats, Floats, Floats, Bools]:
        """Climbs with the weights that the model has now.

        Returns:
            (F, *space, C) float32, the images; (F,) float32, the mean activation of each filter for its image; the same
            for the seed image; and (F,) bool, True for a dead filter.
        """
        parts = []
        for begin in range(0, len(self.filters), self._chunk):
            filters = self.filters[begin : begin + self._chunk]
            count = len(filters)
            filters = np.resize(filters, self._fixed or count)
            images = np.repeat(self.seed_image[None], len(filters), axis=0)
            found = self._pass(images, filters.astype(np.int32))
            parts.append([found[name][:count] for name in ("images", "reached", "start", "dead")])
        images, reached, start, dead = (np.concatenate(each) for each in zip(*parts, strict=True))
        return images, reached, start, dead

    def _traced(self, images: Any, filters: Any) -> dict[str, Any]:
        """What is traced: all steps, as a loop whose body is the model up to the layer and back."""
        self.traces += not self._runs_eagerly
        ops = keras.ops
        shifts = ops.convert_to_tensor(self._shifts)
        start, _ = self._activations(images, filters)
        begin = images, ops.zeros_like(start, dtype="bool")

        def step(i: Any, state: tuple[Any, Any]) -> tuple[Any, Any]:
            # What runs eagerly counts by Python's numbers, and takes no others to shift by.
            shift = self._shifts[i].tolist() if isinstance(i, int) else shifts[i]
            return self._stepped(*state, filters, shift, i < self._early)

        images, moved = ops.fori_loop(0, len(self._shifts), step, begin)
        reached, before = self._activations(images, filters)
        dead = ops.logical_not(moved)
        if before is not None:
            dead = ops.logical_or(dead, reached <= 0)
        return {"images": images, "reached": reached, "start": start, "dead": dead}

    def _stepped(self, images: Any, moved: Any, filters: Any, shift: Any, early: Any) -> tuple[Any, Any]:
        """One step: x + step * g / rms(g), where g = d mean activation / d x at the shifted image."""
        ops = keras.ops
        shifted = ops.roll(images, shift, axis=self._axes)
        _, gradient, _ = self._engine.gradient(
            lambda values: self._climbed(values, filters, early), shifted, self._model
        )
        if gradient is None:
            raise ValueError(
                "A filter's activation must depend on the image by operations that have a gradient. "
                f"Received: layer {self.path!r} of model {self._model.name!r}, from which none reaches the image."
            )
        back = [-pixels for pixels in shift] if isinstance(shift, list) else -shift
        gradient = ops.roll(gradient, back, axis=self._axes)
        gradient = self._smoothed(gradient)
        # Of gradients below 1e-19 the squares would vanish in float32.
        largest = ops.max(ops.abs(gradient), axis=(*self._axes, len(self._axes) + 1), keepdims=True)
        moves = ops.logical_and(ops.isfinite(largest), largest > 0)
        gradient = ops.where(moves, gradient / ops.where(moves, largest, 1.0), 0.0)
        size = ops.sqrt(ops.mean(gradient**2, axis=(*self._axes, len(self._axes) + 1), keepdims=True))
        images = images + self._step * gradient / ops.where(moves, size, 1.0)
        return images, ops.logical_or(moved, ops.reshape(moves, (-1,)))

    def _smoothed(self, gradient: Any) -> Any:
        ops = keras.ops
        channels = self.seed_image.shape[-1]
        if self._smoothing is None:
            return gradient
        if len(self._axes) != 2:
            for axis in self._axes:
                gradient = _blurred(gradient, self._smoothing, axis, self.seed_image.shape[axis - 1])
            return gradient
        for axes in ((-1, 1, 1, 1), (1, -1, 1, 1)):
            kernel = np.tile(self._smoothing.reshape(axes), (1, 1, channels, 1))
            gradient = ops.depthwise_conv(gradient, kernel, padding="same", data_format="channels_last")
        return gradient

    def _activations(self, images: Any, filters: Any) -> tuple[Any, Any | None]:
        """Runs the model up to the layer.

        Returns:
            For each image the mean activation of its filter over all positions, (M,) float32; and the same for what
            goes into the layer's ReLU, None where it doesn't end in one.
        """
        run = self._engine.tapped_run(self._model, self._to_input(images))
        call = next(call for call in run.calls if call.makes(self._layer, self._tap.number))
        (output_id,) = call.output_ids
        output, before = run.tensors[output_id], run.before_relu(output_id)
        means = self._means(output, filters, call.steps)
        return means, None if before is None else self._means(before, filters, call.steps)

    def _means(self, tensor: Any, filters: Any, steps: Any) -> Any:
        ops = keras.ops
        means = ops.mean(as_activations(tensor, self._tap, steps), axis=self._axes)
        return ops.take_along_axis(means, filters[:, None], axis=1)[:, 0]

    def _climbed(self, images: Any, filters: Any, early: Any) -> Any:
        """Returns what a step climbs, (M,) float32: a ReLU lets no gradient through where a filter rests."""
        output, before = self._activations(images, filters)
        return output if before is None else keras.ops.where(keras.ops.logical_or(early, output <= 0), before, output)

    def _to_input(self, images: Any) -> Any:
        """Turns images (M, H, W, C) into what the model takes; whole numbers stay floats, for the gradient's sake."""
        ops = keras.ops
        images = in_layout(images, self._layout)
        images = images[..., 0] if self._flat else images
        return ops.cast(images, self._dtype) if "float" in self._dtype else images


def _checked_filters(filters: Any, channels: int, path: str) -> Ints:
    """Returns the indices of the filters."""
    if is_whole(filters, 1):
        return np.arange(min(filters, channels))
    several = np.asarray(filters)
    whole = several.ndim == 1 and several.size and several.dtype.kind in "iu"
    if not whole or several.min() < 0 or several.max() >= channels or len(np.unique(several)) < several.size:
        raise ValueError(
            "`filters` must be a positive number of filters, or a list of indices that differ from each other, of "
            f"the {channels} filters of layer {path!r}. Received: {filters!r}. filters=16 takes the first 16, "
            "filters=[0, 5] those two."
        )
    return several.astype(np.int64)


def _blurred(gradient: Any, kernel: Floats, axis: int, length: int) -> Any:
    """Returns a gradient (M, *space, C) that is smoothed along one axis of so many positions, and 0 beyond its ends."""
    ops = keras.ops
    radius, dimensions = len(kernel) // 2, len(gradient.shape)
    padded = ops.pad(gradient, [(radius, radius) if at == axis else (0, 0) for at in range(dimensions)])
    total = ops.zeros_like(gradient)
    for begin, weight in enumerate(kernel.tolist()):
        place = [slice(None)] * dimensions
        place[axis] = slice(begin, begin + length)
        total += weight * padded[tuple(place)]
    return total


def _gaussian(deviation: float) -> Floats | None:
    """(2 r + 1,) float32 with sum 1, up to three deviations; None for no smoothing."""
    if not deviation:
        return None
    places = np.arange(-math.ceil(3 * deviation), math.ceil(3 * deviation) + 1)
    bell = np.exp(-(places**2) / (2 * deviation**2))
    return np.asarray(bell / bell.sum(), np.float32)


def image_shape(model: Any, size: Any = None) -> tuple[int, ...]:
    """Returns the shape of one image as the model takes it.

    Args:
        model: A model with one input.
        size: (height, width) or (height, width, channels), for what the model leaves open; by default (128, 128, 3).
            Of signals (time,), by default (128,), of volumes and clips (depth or time, height, width), by default
            (16, 64, 64).

    Raises:
        ValueError: If the model has several inputs, takes no images, signals, volumes or clips, or takes others than
            `size`.
    """
    inputs = input_tensors(model)
    config = model.get_build_config() or {} if not inputs else {}
    received: list[Any] = [tuple(tensor.shape) for tensor in inputs] or [config.get("input_shape")]
    only = received[0] or ()
    if len(received) > 1 or "shapes_dict" in config or any(not isinstance(n, (int, type(None))) for n in only):
        raise ValueError(
            "Patterns of filters need a model with one input, of images, signals, volumes or clips. "
            f"Received: model {model.name!r} with {len(received) if len(received) > 1 else 'several'} inputs."
        )
    if only and len(only) in (3, 5):
        space = input_space(model, np.zeros((1, *(n or _OPEN for n in only[1:])), np.float32))
        if space is not None and len(space.axes) != 2:
            return _shape_of(model, only[1:], space, size)
    given = isinstance(size, (tuple, list)) and len(size) in (2, 3)
    if size is not None and not (given and all(isinstance(s, (int, np.integer)) and s > 0 for s in size)):
        raise ValueError(
            "`size` must be (height, width) or (height, width, channels) in px, or None. "
            f"Received: size={size!r}. size=(128, 128) works."
        )
    need: Any = received[0] and received[0][1:]
    if need is None and not (given and len(size) == 3):
        raise ValueError(
            f"A model that has not run yet needs `size` with channels. Received: model {model.name!r}, size={size!r}. "
            "size=(128, 128, 3) works for colour images."
        )
    need = (None,) * 3 if need is None else need
    if len(need) not in (2, 3):
        raise ValueError(
            "Patterns of filters need a model that takes images (samples, height, width, channels), signals (samples, "
            "time, channels), or volumes and clips with an axis more. "
            f"Received: model {model.name!r}, which takes inputs of shape {(None, *need)}."
        )
    first = puts_channels_first(need)
    height, width, *channels = size or (128, 128)
    wanted = (*(channels or [3]), height, width) if first else (height, width, *(channels or [3]))[: len(need)]
    shape = tuple(int(w if n is None else n) for n, w in zip(need, wanted, strict=True))
    spatial = slice(1, 3) if first else slice(0, 2)
    if size is not None and (shape[spatial] != (height, width) or (channels and shape != wanted)):
        raise ValueError(
            f"`size` must be the one that model {model.name!r} takes. Received: size={size!r}; it takes images "
            f"{tuple(need)}. Leave `size` out."
        )
    return shape


def _shape_of(model: Any, need: Sequence[int | None], space: Space, size: Any) -> tuple[int, ...]:
    """Returns the shape of one signal, volume or clip as the model takes it; arguments as for `image_shape`."""
    axes = len(space.axes)
    sizes: tuple[int, ...] = (128,) if axes == 1 else (16, 64, 64)
    works = f"size={sizes} works."
    if size is not None:
        whole = isinstance(size, (tuple, list)) and len(size) == axes and all(is_whole(side, 1) for side in size)
        if not whole:
            order = ", ".join(space.axes) + "," * (axes == 1)
            raise ValueError(f"`size` must be ({order}) for this model, or None. Received: size={size!r}. {works}")
        sizes = tuple(map(int, size))
    first = space.layout == "channels_first"
    sides = need[1:] if first else need[:axes]
    shape = tuple(one if side is None else int(side) for side, one in zip(sides, sizes, strict=True))
    if size is not None and shape != sizes:
        raise ValueError(
            f"`size` must be the one that model {model.name!r} takes. Received: size={size!r}; it takes "
            f"{kind_of(space)}s {tuple(need)}. Leave `size` out."
        )
    channels = [int(n or 1) for n in (need[:1] if first else need[axes:])]
    return (*channels, *shape) if first else (*shape, *channels)
