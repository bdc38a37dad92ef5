"""The pipe from a model and a batch to heatmaps: called once by `explain`, at every epoch end by the callbacks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from .batches import make_batch
from .captions import with_outputs
from .capture import Capturer
from .methods import resolve_method
from .metrics import degenerate
from .overlay import Overlay, grid
from .probe import FUNCTIONS, Probe
from .records import Capture, Floats, Image, Ints, Sample, ValidationBatch
from .targets import resolve_target


@dataclass(frozen=True, eq=False)
class Explanation:
    """Heatmaps of a batch, and what they explain.

    Attributes:
        heatmaps: (N, h, w) float32, raw: unscaled and signed, at the layer's size, or the image's.
        outputs: (N, K) float32, what the model put out; None where it has several outputs.
        scores: (N,) float32, the explained scores, before the final activation.
        targets: (N,) int64, the explained classes; None where a score is explained that is no class's.
        predicted: (N,) int64, the predicted classes, or None.
        confidences: (N,) float32 in [0, 1], probability of the explained class; NaN where there is none.
        layer_name: Path of the explained layer; "" for a method that explains the image itself.
        method: Name of the method, with its settings where they are not the defaults.
        batch: The explained batch.
        class_names: Names by class index, or None.
        attributions: (N, H, W, C) float32, signed, for each channel of the images, channels last; None for methods that
            make one map only.
    """

    heatmaps: Floats
    outputs: Floats | None
    scores: Floats
    targets: Ints | None
    predicted: Ints | None
    confidences: Floats
    layer_name: str
    method: str
    batch: ValidationBatch
    class_names: tuple[str, ...] | None = None
    attributions: Floats | None = None

    def samples(self) -> tuple[Sample, ...]:
        """Returns what is known of each sample, with its caption."""
        return tuple(self._sample(i, bool(flag)) for i, flag in enumerate(degenerate(self.heatmaps)))

    def overlays(self, overlay: Overlay | None = None) -> tuple[Image, ...]:
        """Draws the heatmaps on the display images.

        Args:
            overlay: How to draw; by default `Overlay()`.

        Returns:
            N pictures, uint8 RGB (H, W, 3).
        """
        overlay = overlay or Overlay()
        outputs = self.outputs if overlay.caption == "outputs" else None
        captions = with_outputs([sample.caption for sample in self.samples()], outputs)
        batch = self.batch
        return overlay.draw(batch.display, self.heatmaps, captions, beside=batch.beside, title=batch.display_name)

    def grid(self, overlay: Overlay | None = None, columns: int | None = None) -> Image:
        """Draws all overlays in one picture.

        Args:
            overlay: How to draw; by default `Overlay()`.
            columns: How many overlays stand in a row; by default about as many as there are rows.

        Returns:
            uint8 RGB (H, W, 3).
        """
        return grid(self.overlays(overlay), columns)

    def _sample(self, i: int, is_degenerate: bool) -> Sample:
        label = None if self.batch.labels is None else int(self.batch.labels[i])
        predicted = None if self.predicted is None else int(self.predicted[i])
        target = None if self.targets is None else int(self.targets[i])
        score, confidence = float(self.scores[i]), float(self.confidences[i])
        value = f"score {score:.3g}" if np.isnan(confidence) else f"{confidence:.2f}"
        parts = [] if label is None else [f"true {self._name(label)}"]
        if predicted is not None and target in (None, predicted):
            parts.append(f"predicted {self._name(predicted)}{' ' if target is not None else ', '}{value}")
        elif predicted is not None:
            parts += [f"predicted {self._name(predicted)}", f"explained {self._name(target)} {value}"]
        else:
            parts.append(value)
        if is_degenerate:
            parts.append("no heatmap")
        return Sample(
            key=self.batch.sample_keys[i],
            fingerprint=self.batch.fingerprints[i],
            label=label,
            predicted=predicted,
            target=target,
            score=score,
            confidence=None if np.isnan(confidence) else confidence,
            degenerate=is_degenerate,
            caption=", ".join(parts),
        )

    def _name(self, index: int | None) -> str:
        named = self.class_names is not None and index is not None and 0 <= index < len(self.class_names)
        return self.class_names[index] if named else str(index)  # type: ignore[index]


class Explainer:
    """Explains one batch by one method, as often as it is asked, with the weights that the model then has.

    Attributes:
        capturer: The tap on the model.
        target: The target as text.
        method: The method as text.
    """

    def __init__(
        self,
        model: Any,
        batch: ValidationBatch,
        layer_name: Any = None,
        *,
        method: str | Callable[..., Any] = "gradcam",
        target: Any = "predicted",
        class_names: Sequence[str] | None = None,
        batch_size: int = 32,
    ) -> None:
        """Checks all settings and traces the model, as `explain` describes.

        Raises:
            ValueError: If a setting does not fit the model or the batch.
            TypeError: If a setting is of the wrong kind.
        """
        if isinstance(batch_size, bool) or not isinstance(batch_size, (int, np.integer)) or batch_size < 1:
            raise ValueError(f"`batch_size` must be a positive integer. Received: {batch_size!r}.")
        self._method = resolve_method(method)
        self._batch = batch
        resolved = resolve_target(target, len(batch), batch.labels)
        if not isinstance(model, keras.Model):
            raise TypeError(f"`model` must be a Keras 3 model. Received: {model!r} of type {type(model).__name__}.")
        if not model.built:
            _build(model, keras.tree.map_structure(lambda a: a[:1], batch.inputs))
        self.capturer = Capturer(
            model,
            batch.inputs,
            layer_name,
            target=resolved,
            needs=self._method.needs,
            batch_size=int(batch_size),
        )
        functions = [name for name in self._method.needs if name in FUNCTIONS]
        self._probe = Probe(self.capturer, functions) if functions else None
        self.target = resolved.text
        self.method = self._method.text
        self._class_names = _checked_names(class_names, self.capturer.classes)

    def __call__(self) -> Explanation:
        """Returns the heatmaps with the weights that the model has now."""
        kept: list[Capture] = []
        maps: list[Floats] = []
        each: list[Floats] = []
        start = 0
        for capture in self.capturer():
            functions = None if self._probe is None else self._probe.functions(start, capture.targets)
            heatmaps, attributions = self._method(capture, functions)
            maps.append(heatmaps)
            if attributions is not None:
                each.append(attributions)
            kept.append(_without_maps(capture))
            start += len(capture.scores)

        def joined(name: str) -> Any:
            parts = [getattr(capture, name) for capture in kept]
            return None if parts[0] is None else np.concatenate(parts)

        return Explanation(
            heatmaps=np.concatenate(maps),
            outputs=joined("outputs"),
            scores=joined("scores"),
            targets=joined("targets"),
            predicted=joined("predicted"),
            confidences=joined("confidences"),
            layer_name=self.capturer.layer_name,
            method=self.method,
            batch=self._batch,
            class_names=self._class_names,
            attributions=np.concatenate(each) if each else None,
        )


def explain(
    model: Any,
    images: Any,
    layer_name: Any = None,
    *,
    method: str | Callable[..., Any] = "gradcam",
    target: Any = "predicted",
    class_names: Sequence[str] | None = None,
    max_samples: int | None = None,
    display: Any = None,
    batch_size: int = 32,
) -> Explanation:
    """Explains images with a trained model.

    Args:
        model: Any Keras 3 model; it is left as it is.
        images: Images as the model takes them, (N, H, W, C), or `(images, labels)`, or any data that `fit` takes.
        layer_name: The layer whose activations are explained: a name, a path such as "base/conv5" for a layer of a
            nested model, the layer itself, or None for the last feature map.
        method: Name of a method (see `METHODS`), a method with settings, as `SmoothGrad(samples=50)`, or a function
            (activations, gradients) -> heatmaps (N, h, w).
        target: "predicted", "true", a class index, one index for each sample, or a function of the model's outputs that
            returns (samples,) class indices (whole numbers) or scores (floating point).
        class_names: Names by class index, for captions.
        max_samples: How many samples to explain, the first ones; None for all, which an endless dataset has not.
        display: What people see where it differs from the model's input: images, a function of the images, or a mapping
            from names to these or None (the model's input): the columns of a panel, of which the last is drawn on.
        batch_size: Largest number of samples that run at once.

    Returns:
        The explanation: `.heatmaps` (N, h, w) float32 raw, and `.overlays()` uint8.

    Raises:
        ValueError: If a setting does not fit the model or the images. The message tells what would.
        TypeError: If a setting is of the wrong kind.

    Example:
        >>> explanation = explain(model, images, method="layercam")
        >>> pictures = explanation.overlays(Overlay(layout="panel"))
    """
    batch = make_batch(images, model, max_samples=max_samples, display=display)
    explainer = Explainer(
        model, batch, layer_name, method=method, target=target, class_names=class_names, batch_size=batch_size
    )
    return explainer()


def _build(model: Any, sample: Any) -> None:
    """Makes the variables of a model that has not run yet."""
    try:
        # What the call itself would change, such as the states of seeds, stays in the scope.
        with keras.StatelessScope():
            model(sample, training=False)
    except ValueError:  # Keras allows no variables of given values there; a model that has them is built by a call.
        model(sample, training=False)


def _without_maps(capture: Capture) -> Capture:
    """Returns the capture without its large arrays, so that one chunk at a time is held."""
    rest = {name: getattr(capture, name) for name in ("outputs", "scores", "targets", "predicted", "confidences")}
    return Capture(activations=None, gradients=None, kernel=None, **rest)


def _checked_names(class_names: Sequence[str] | None, classes: int | None) -> tuple[str, ...] | None:
    """Returns the class names, after a check that there are enough."""
    if class_names is None:
        return None
    names = tuple(map(str, class_names))
    if isinstance(class_names, (str, Mapping)) or (classes is not None and len(names) != classes):
        raise ValueError(
            f"`class_names` must be a list of one name for each of the model's {classes} classes. "
            f"Received: {class_names!r}."
        )
    return names
