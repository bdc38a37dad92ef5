"""The pipe from a model and a batch to heatmaps: called once by `explain`, at every epoch end by the callbacks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, overload

import keras
import numpy as np
import numpy.typing as npt

from .. import engine
from ..data.batches import make_batch
from ..methods import Method, resolve_methods
from ..methods.fusion import Fusion, check_fusion, fused
from ..network.layers import Tap
from ..network.targets import Target, resolve_targets
from ..passes.capture import Capturer, needs_layer
from ..passes.probe import FUNCTIONS, LAYER_FUNCTIONS, Probe
from ..records import Capture, Floats, ValidationBatch
from .augmented import augmented_batch, compared, joined_inputs, resolved_for
from .explanation import Explanation, Explanations
from .faithful import NEEDS, confidence_probe, faithfulness


@dataclass(frozen=True, eq=False)
class _View:
    """One of the explanations that are asked for.

    Attributes:
        method: The method.
        target: Which of the capturer's targets.
        taps: The layers that the method explains, None for a method without.
        probes: For each of `taps` the functions that the method needs.
        layer_name: The layers in words.
    """

    method: Method
    target: int
    taps: tuple[Tap | None, ...]
    probes: tuple[Probe | None, ...]
    layer_name: str


class Explainer:
    """Explains one batch, as often as it is asked, with the weights that the model then has.

    All methods and targets share one forward pass.

    Attributes:
        capturer: The tap on the model.
        names: Names of the views; ("",) where there is one.
        augmentations: Names of the augmentations.
        layer_name: The explained layers as text.
        method: The methods as text.
        target: The targets as text.
    """

    def __init__(
        self,
        model: Any,
        batch: ValidationBatch,
        layer_name: Any = None,
        *,
        method: Any = "gradcam",
        target: Any = "predicted",
        fuse: Fusion | None = None,
        augmentations: Any = None,
        class_names: Sequence[str] | None = None,
        batch_size: int = 32,
        measures_faithfulness: bool = False,
        keeps: bool = False,
    ) -> None:
        """Checks all settings and traces the model, as `explain` describes, and if so for `faithfulness`, too.

        With `keeps`, what can't have changed since the last call is not run again; see `Capturer`.

        Raises:
            ValueError: If a setting does not fit the model or the batch.
            TypeError: If a setting is of the wrong kind.
        """
        if isinstance(batch_size, bool) or not isinstance(batch_size, (int, np.integer)) or batch_size < 1:
            raise ValueError(f"`batch_size` must be a positive integer. Received: {batch_size!r}.")
        methods = resolve_methods(method)
        layer_names = _layer_names(layer_name)
        check_fusion(fuse, len(layer_names))
        self._fuse: Fusion = fuse or "mean"
        targets = resolve_targets(target, len(batch), batch.labels)
        self._augmentations = resolved_for(augmentations, batch)
        # The augmented images are further rows of the batch, so that all run in one traced function.
        self._batches = {"": batch}
        for name, augmentation in self._augmentations.items():
            self._batches[name] = augmented_batch(batch, augmentation, name)
        copies = len(self._batches)
        if not isinstance(model, keras.Model):
            raise TypeError(f"`model` must be a Keras 3 model. Received: {model!r} of type {type(model).__name__}.")
        if not model.built:
            make_variables(model, keras.tree.map_structure(lambda a: a[:1], batch.inputs))
        self.capturer = Capturer(
            model,
            joined_inputs(self._batches),
            layer_names,
            targets=[replace(each, class_index=np.tile(each.class_index, copies)) for each in targets.values()],
            needs=[each.needs for each in methods.values()] + [NEEDS] * measures_faithfulness,
            batch_size=int(batch_size),
            keeps=keeps,
        )
        self._views = self._make_views(methods, targets)
        self._confidence = confidence_probe(self.capturer) if measures_faithfulness else None
        self.names = tuple(self._views)
        self.augmentations = tuple(self._augmentations)
        self.layer_name = ", ".join(dict.fromkeys(v.layer_name for v in self._views.values() if v.layer_name))
        self.method = _texts(methods)
        self.target = _texts(targets)
        self._class_names = _checked_names(class_names, self.capturer.classes)

    def __call__(self) -> dict[str, Explanation]:
        """Returns the views with the weights that the model has now, by name."""
        kept: list[list[Capture]] = [[] for _ in self.capturer.targets]
        maps: dict[str, list[Floats]] = {name: [] for name in self._views}
        each: dict[str, list[Floats]] = {name: [] for name in self._views}
        told: dict[str, list[dict[str, Floats]]] = {name: [] for name in self._views}
        start = 0
        for chunk in self.capturer():
            for name, view in self._views.items():
                t = view.target
                captures = (chunk.heads[t],) if "kernel" in view.method.needs else chunk.captures[t][: len(view.taps)]
                found = [
                    view.method(capture, None if probe is None else probe.functions(start, capture.targets))
                    for capture, probe in zip(captures, view.probes, strict=True)
                ]
                heatmaps, attributions, numbers = found[0]
                if len(found) > 1:
                    heatmaps, attributions, numbers = fused([layer for layer, *_ in found], self._fuse), None, {}
                maps[name].append(heatmaps)
                told[name].append(numbers)
                if attributions is not None:
                    each[name].append(attributions)
            for t, captures in enumerate(chunk.captures):
                kept[t].append(_without_maps(captures[0]))
            start += chunk.samples
        scored = [
            {key: _joined([getattr(capture, key) for capture in captures]) for key in _OF_SCORES} for captures in kept
        ]
        explained = {}
        for name, view in self._views.items():
            arrays = {
                "heatmaps": np.concatenate(maps[name]),
                "attributions": np.concatenate(each[name]) if each[name] else None,
                **scored[view.target],
            }
            numbers = {key: np.concatenate([chunk[key] for chunk in told[name]]) for key in told[name][0]}
            copies = len(self._batches)
            explanations = [
                Explanation(
                    **part,
                    values=values,
                    batch=batch,
                    layer_name=view.layer_name,
                    method=view.method.text,
                    target=self.capturer.targets[view.target].text,
                    class_names=self._class_names,
                )
                for part, values, batch in zip(
                    _parts(arrays, copies), _parts(numbers, copies), self._batches.values(), strict=True
                )
            ]
            augmented = {
                key: compared(explanations[0], copy, self._augmentations[key], key)
                for key, copy in zip(self._augmentations, explanations[1:], strict=True)
            }
            explained[name] = replace(explanations[0], augmented=augmented)
        return explained

    def faithfulness(
        self, views: Mapping[str, Explanation], names: Sequence[str]
    ) -> dict[str, dict[str, npt.NDArray[np.float64]]]:
        """Measures by view whether the model needs what these heatmaps of its show; see `faithful.faithfulness`."""
        assert self._confidence is not None, "It was made without `faithfulness`."
        return faithfulness(self.capturer, self._confidence, views, names)

    def _make_views(self, methods: Mapping[str, Method], targets: Mapping[str, Target]) -> dict[str, _View]:
        """Returns a view for each method and target, named by what there are several of."""
        capturer = self.capturer
        probes: dict[tuple[Any, ...], Probe] = {}

        def probe(names: Sequence[str], target: int, tap: Tap | None) -> Probe | None:
            """Returns the functions, which are traced again only where they differ."""
            if not names:
                return None
            tap = tap if set(names).intersection(LAYER_FUNCTIONS) else None
            # A class is given to the function; a user's score is part of it.
            key = (tuple(names), target if capturer.scores_by_rule[target] else None, tap)
            if key not in probes:
                probes[key] = Probe(capturer, names, target, tap)
            return probes[key]

        views = {}
        for method_name, method in methods.items():
            taps: tuple[Tap | None, ...] = (None,)
            if "kernel" in method.needs:
                taps = (capturer.head,)
            elif needs_layer(method.needs):
                taps = capturer.taps
            paths = ", ".join(tap.path for tap in taps if tap is not None)
            functions = [name for name in method.needs if name in FUNCTIONS]
            for t, target_name in enumerate(targets):
                name = "_".join(filter(None, (method_name, target_name)))
                views[name] = _View(
                    method,
                    t,
                    taps,
                    tuple(probe(functions, t, tap) for tap in taps),
                    f"{self._fuse}({paths})" if len(taps) > 1 else paths,
                )
        return views

    @property
    def description(self) -> str:
        """What is explained, in words."""
        taps = dict.fromkeys(tap for view in self._views.values() for tap in view.taps if tap is not None)
        shown = [f"{tap.path!r} ({' x '.join(map(str, tap.shape[1:]))})" for tap in taps]
        return f"layer{'s' * (len(shown) > 1)} {', '.join(shown)}" if shown else "the image itself"


_OF_SCORES = ("outputs", "scores", "targets", "predicted", "confidences")

Several = Literal["both", "top2", "top3", "top4", "top5", "top6", "top7", "top8", "top9"]


@overload
def explain(
    model: Any,
    images: Any,
    layer_name: Any = ...,
    *,
    method: list[Any] | tuple[Any, ...] | Mapping[str, Any],
    target: Any = ...,
    fuse: Fusion | None = ...,
    augmentations: Any = ...,
    class_names: Sequence[str] | None = ...,
    max_samples: int | None = ...,
    display: Any = ...,
    regions: Any = ...,
    batch_size: int = ...,
) -> Explanations: ...


@overload
def explain(
    model: Any,
    images: Any,
    layer_name: Any = ...,
    *,
    method: Any = ...,
    target: Several | Mapping[str, Any],
    fuse: Fusion | None = ...,
    augmentations: Any = ...,
    class_names: Sequence[str] | None = ...,
    max_samples: int | None = ...,
    display: Any = ...,
    regions: Any = ...,
    batch_size: int = ...,
) -> Explanations: ...


@overload
def explain(
    model: Any,
    images: Any,
    layer_name: Any = ...,
    *,
    method: str | Callable[..., Any] = ...,
    target: Any = ...,
    fuse: Fusion | None = ...,
    augmentations: Any = ...,
    class_names: Sequence[str] | None = ...,
    max_samples: int | None = ...,
    display: Any = ...,
    regions: Any = ...,
    batch_size: int = ...,
) -> Explanation: ...


def explain(
    model: Any,
    images: Any,
    layer_name: Any = None,
    *,
    method: Any = "gradcam",
    target: Any = "predicted",
    fuse: Fusion | None = None,
    augmentations: Any = None,
    class_names: Sequence[str] | None = None,
    max_samples: int | None = None,
    display: Any = None,
    regions: Any = None,
    batch_size: int = 32,
) -> Explanation | Explanations:
    """Explains images with a trained model.

    Args:
        model: Any Keras 3 model; it is left as it is.
        images: Images as the model takes them, (N, H, W, C), or `(images, labels)`, or any data that `fit` takes.
        layer_name: The layer whose activations are explained: a name, a path such as "base/conv5" for a layer of a
            nested model, the layer itself, or None for the last feature map. The heatmaps of several layers in a list
            are fused into one.
        method: Name of a method (see `METHODS`), a method with settings, as `SmoothGrad(samples=50)`, or a function
            (activations, gradients) -> heatmaps (N, h, w); or a list of these, or a dict by names of yours.
        target: "predicted", "true", a class index, one index for each sample, or a function of the model's outputs that
            returns (samples,) class indices (whole numbers) or scores (floating point). Several at once: "both" for
            predicted and true, "top2" to "top9" for the classes with the highest scores, or a dict by names of yours.
        fuse: How layers are fused: "mean", the default, or "maximum" of their scaled maps.
        augmentations: Names of built-in augmentations in a list (see `AUGMENTATIONS`), or a dict of augmentations by
            names of yours. Each costs one more explanation of the images; see `Explanation.augmented`.
        class_names: Names by class index, for captions.
        max_samples: How many samples to explain, the first ones; None for all, which an endless dataset has not.
        display: What people see where it differs from the model's input: images, a function of the images, or a
            mapping from names to these or None (the model's input): the columns of a panel, of which the last is drawn
            on.
        regions: Where the objects are, a box in px, a mask, several or None for each image (see `Regions`), so that
            `Explanation.metrics` says how much of the heat is there.
        batch_size: Largest number of samples that run at once.

    Returns:
        The explanation: `.heatmaps` (N, h, w) float32 raw, and `.overlays()` uint8. For several methods or targets
        `Explanations`, which has each by its name.

    Raises:
        ValueError: If a setting does not fit the model or the images. The message tells what would.
        TypeError: If a setting is of the wrong kind.

    Example:
        >>> explanation = explain(model, images, method="layercam")
        >>> pictures = explanation.overlays(Overlay(layout="panel"))
    """
    batch = make_batch(images, model, max_samples=max_samples, display=display, regions=regions)
    explainer = Explainer(
        model,
        batch,
        layer_name,
        method=method,
        target=target,
        fuse=fuse,
        augmentations=augmentations,
        class_names=class_names,
        batch_size=batch_size,
    )
    views = explainer()
    return views[""] if list(views) == [""] else Explanations(views)


def _layer_names(layer_name: Any) -> list[Any]:
    """Returns the layers that were named; none where one is to be chosen."""
    if isinstance(layer_name, (list, tuple)):
        if not layer_name or None in layer_name:
            raise ValueError(
                "`layer_name` as a list must name the layers whose heatmaps are fused. "
                f"Received: {layer_name!r}. ['block3', 'block5'] works, or None to have one chosen."
            )
        return list(layer_name)
    return [] if layer_name is None else [layer_name]


def _texts(named: Mapping[str, Method | Target]) -> str:
    """Returns methods or targets as one text; those with names of the user's by these."""
    texts = []
    for name, each in named.items():
        own = name and name not in (each.text, getattr(each, "name", ""))
        texts.append(f"{name}={each.text}" if own else each.text)
    return ", ".join(texts)


def _parts(arrays: Mapping[str, Any], copies: int) -> list[dict[str, Any]]:
    """Splits arrays of (copies * N, ...) rows, or None, by copies."""
    split = {name: [None] * copies if a is None else np.split(a, copies) for name, a in arrays.items()}
    return [{name: each[i] for name, each in split.items()} for i in range(copies)]


def _joined(parts: list[Any]) -> Any:
    return None if parts[0] is None else np.concatenate(parts)


def make_variables(model: Any, sample: Any) -> None:
    """Makes the variables of a model that has not run yet, on all devices that it is trained on."""
    with engine.load().strategy(model).scope():
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
