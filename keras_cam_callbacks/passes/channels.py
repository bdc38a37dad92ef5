"""What layers put out for a batch: the activations of several layers from one forward pass, as numpy arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

from .. import engine
from ..data.spaces import AXES
from ..network.layers import LayerCall, Tap, data_format, is_feature_map, listing
from ..records import Floats
from .taps import Purpose, as_activations, fixed_batch, make_tap, named_layer, single_call


def _kinds(names: Sequence[str]) -> tuple[type, ...]:
    return tuple(getattr(keras.layers, name) for name in names)


_FLAT = (
    *("Conv2D", "DepthwiseConv2D", "SeparableConv2D", "Conv2DTranspose"),
    *("MaxPooling2D", "AveragePooling2D"),
)
_SHOWN = {
    1: _kinds(
        (
            *("Conv1D", "DepthwiseConv1D", "SeparableConv1D", "Conv1DTranspose"),
            *("MaxPooling1D", "AveragePooling1D"),
        )
    ),
    2: _kinds(_FLAT),
    # Of clips layers may look at one frame after the other.
    3: _kinds(("Conv3D", "Conv3DTranspose", "MaxPooling3D", "AveragePooling3D", "ConvLSTM2D", *_FLAT)),
}
"""What is shown where no layer is named, by how many axes the input's space has."""

MOST = 12
"""How many layers are shown where none were named; of a deeper model the last of each spatial size."""


class LayerActivations:
    """Captures layers of one model for one batch, as often as it is asked.

    The model is traced once, when the object is made, and wrong settings are found there; afterwards each pass costs
    one forward pass up to the last of the layers.

    Attributes:
        taps: The layers, in call order.
        traces: How often the model was traced, or would be if it didn't run eagerly.
    """

    def __init__(
        self,
        model: Any,
        inputs: Any,
        layers: Any = None,
        *,
        batch_size: int = 32,
        axes: tuple[str, ...] = AXES["image"],
    ) -> None:
        """Finds or chooses the layers and traces the model.

        Args:
            model: The built model.
            inputs: The batch, N rows in any structure that the model takes.
            layers: A name, a path or a layer, or several of these in a list; None for every convolution and pooling
                layer at any depth that puts out a feature map, or, if there are more than 12, the last one of each
                spatial size.
            batch_size: Largest number of samples that run at once.
            axes: Names of the axes of the input's space.

        Raises:
            ValueError: If the model has no such layer, or a layer is not called once or puts out no feature map.
            TypeError: If a layer is neither text nor a layer.
        """
        self._model, self._inputs, self._axes = model, inputs, axes
        self._engine = engine.load()
        self._named = self._named_layers(layers)
        self._samples = len(keras.tree.flatten(inputs)[0])
        self._fixed = fixed_batch(model)
        self._chunk = self._fixed or batch_size
        self.taps: tuple[Tap, ...] = ()
        self.traces = 0
        self._runs_eagerly = False
        self._pass = self._engine.compile_pass(self._traced, model, (inputs,), self._fixed)
        self._runs_eagerly = not self.traces
        if self._runs_eagerly:  # An eager model shows its faults only when it runs.
            self.traces = 1
            self._run_chunk(0, 1)

    def __call__(self) -> Iterator[tuple[Floats, ...]]:
        """Yields, chunk by chunk of samples, each layer's activations (n, *space, C) float32.

        They are those of the present weights.
        """
        for start in range(0, self._samples, self._chunk):
            yield self._run_chunk(start, min(start + self._chunk, self._samples))

    def _run_chunk(self, start: int, stop: int) -> tuple[Floats, ...]:
        rows: Any = np.resize(np.arange(start, stop), self._chunk) if self._fixed else slice(start, stop)
        arrays = self._pass(keras.tree.map_structure(lambda a: a[rows], self._inputs))
        count = len(rows) if self._fixed else stop - start
        for i, tap in enumerate(self.taps):
            if len(arrays[str(i)]) != count:
                raise ValueError(
                    "A layer that is looked into must put out one row for each sample. Received: layer "
                    f"{tap.path!r}, which puts out {len(arrays[str(i)])} rows for {count} samples, as where windows or "
                    "frames are rows of their own. The layer around it, which joins them again, works."
                )
        return tuple(arrays[str(i)][: stop - start] for i in range(len(self.taps)))

    def _traced(self, inputs: Any) -> dict[str, Any]:
        self.traces += not self._runs_eagerly
        run = self._engine.tapped_run(self._model, inputs)
        if self._named is None:
            calls = self._chosen(run.calls)
        else:
            axes = len(self._axes)
            mine = [
                single_call(path, layer, run.calls, SHOWN, axes=axes, number=number)
                for path, layer, number in self._named
            ]
            calls = [call for call in run.calls if call in mine]
        self.taps = tuple(make_tap(call, run.calls, SHOWN, self._axes) for call in calls)
        return {
            str(i): as_activations(run.tensors[call.output_ids[0]], tap, call.steps)
            for i, (call, tap) in enumerate(zip(calls, self.taps, strict=True))
        }

    def _named_layers(self, layers: Any) -> list[tuple[str, Any, int | None]] | None:
        """Finds the named layers; where there is none of a name, the error lists those that would do."""
        if layers is None:
            return None
        names = list(layers) if isinstance(layers, (list, tuple)) else [layers]
        if not names:
            raise ValueError("`layers` must name at least one layer, or be None. Received: an empty list.")
        named = [named_layer(self._model, name, self._inputs, SHOWN, len(self._axes)) for name in names]
        if len({(id(layer), number) for _, layer, number in named}) < len(named):
            paths = [path for path, *_ in named]
            raise ValueError(f"`layers` must differ from each other. Received: {listing(paths)}.")
        return named

    def _chosen(self, calls: Sequence[LayerCall]) -> list[LayerCall]:
        shown = _shown(calls, len(self._axes))
        if not shown:
            maps = _maps(calls, len(self._axes))
            way = (
                f"These layers have feature maps, and work: {listing([call.path for call in maps])}."
                if maps
                else "None has a feature map whose channels could be shown: HeatmapLogger(data, method='saliency') "
                "shows on which part of the input the model's score depends."
            )
            raise ValueError(
                "Without `layers`, the model must have a convolution or pooling layer whose output is a feature map "
                f"(samples, {', '.join(self._axes)}, channels) of more than one position, in one call. "
                f"Received: model {self._model.name!r}, which has none among: "
                f"{listing([call.path for call in calls])}. {way}"
            )
        if len(shown) <= MOST:
            return shown
        last = {make_tap(call, calls, SHOWN, self._axes).space.sizes: call for call in shown}
        return [call for call in shown if call in last.values()]


def _shown(calls: Sequence[LayerCall], axes: int = 2) -> list[LayerCall]:
    """Returns the calls of convolutions and poolings that put out a feature map and are called once."""
    return [call for call in _maps(calls, axes) if isinstance(call.layer, _SHOWN[axes])]


def _maps(calls: Sequence[LayerCall], axes: int) -> list[LayerCall]:
    """Returns the calls that put out a feature map, of layers that are called once."""
    layers = [call.layer for call in calls]
    return [
        call
        for call in calls
        if is_feature_map(call.output_shape, data_format(layers, call.layer), axes)
        and sum(layer is call.layer for layer in layers) == 1
        and not isinstance(call.layer, keras.layers.InputLayer)
    ]


SHOWN = Purpose("A layer that is looked into", _shown)
"""What layers are tapped for whose channels are shown."""
