"""The pipe from a model and a batch to heatmaps: traced once, run as often as wanted."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from ..checks import check_positive, did_you_mean
from ..data.batches import make_batch
from ..data.layout import image_inputs, input_at, largest_index
from ..methods import resolve_methods
from ..methods.fusion import Fusion, check_fusion, fused
from ..metrics.registry import REGISTRY
from ..network.detection import Detection
from ..network.layers import check_runs
from ..network.legacy import check_keras3
from ..network.objectives import Segment, Similarity, Value
from ..network.outputs import clues_of, said_kinds
from ..network.targets import check_classes, resolve_targets, with_labels
from ..network.tokens import resolve_tokens
from ..passes import check_backend
from ..passes.capture import Capturer
from ..passes.feeding import predict_note
from ..records import Capture, Floats, Image, Space, ValidationBatch
from .augmented import augmented_batch, compared, guessed_range, joined_inputs, resolved_for, without_numbers
from .explanation import Explanation, Explanations
from .faithful import NEEDS, confidence_probe, faithfulness
from .inputs import chooser, layer_list
from .objects import check_region_classes
from .placing import decided, on_image
from .references import References, with_classes
from .rows import OF_SCORES, Rows, check_true, cleared, joined, labels_at_most, parts, tiled, without_maps
from .segments import BEST_BOX, MOST_FREQUENT, missing, of_objective
from .side_by_side import of_others, owners
from .tracing import traced
from .views import View, checked_names, is_of_class, make_views, texts


class Explainer:
    """Explains any number of batches with one model, which is traced once.

    All methods and targets share one forward pass. Each call takes the weights that the model then has.

    Attributes:
        model: The model.
        batch: The batch that it was made like, where that was a `ValidationBatch`.
        names: Names of the views; ("",) where there is one.
        augmentations: Names of the augmentations.
        layer_name: The explained layers as text.
        method: The methods as text.
        target: The targets as text.
        notes: What is to be said, once, of what was chosen.

    Example:
        >>> explainer = Explainer(model, like=images[:1], method="layercam")
        >>> for images in batches:
        ...     heatmaps = explainer(images).heatmaps
    """

    def __init__(
        self,
        model: Any,
        like: Any,
        layer_name: Any = None,
        *,
        method: Any = "auto",
        target: Any = "predicted",
        fuse: Fusion | None = None,
        augmentations: Any = None,
        class_names: Sequence[str] | None = None,
        output_kind: str | Mapping[str, str] | None = None,
        batch_size: int = 32,
        input: Any = None,
        tokens: Any = None,
        measures_faithfulness: bool = False,
        keeps: bool = False,
    ) -> None:
        """Checks all settings and traces the model.

        Args:
            model: Any Keras 3 model; it is left as it is.
            like: One batch, or a single array of images, from which structure, shapes and dtypes of the inputs are
                taken: data as for `explain`, or a `ValidationBatch`.
            layer_name: As for `explain`, and likewise all up to `batch_size`.
            method: Likewise.
            target: Likewise.
            fuse: Likewise.
            augmentations: Likewise.
            class_names: Likewise.
            output_kind: Likewise.
            batch_size: Likewise.
            input: Likewise; a `ValidationBatch` has its own.
            tokens: As for `explain`.
            measures_faithfulness: Whether `faithfulness` will be called, for which the model is traced once more.
            keeps: Whether `like` is the `ValidationBatch` that will be explained again and again while the model is
                trained: what the frozen part of the model puts out for it is then kept, and the trace is its own.

        Raises:
            ValueError: If a setting does not fit the model or the batch.
            TypeError: If a setting is of the wrong kind.
        """
        check_backend()
        check_positive("batch_size", batch_size)
        methods = resolve_methods(method)
        layer_names = layer_list(layer_name)
        check_fusion(fuse, len(layer_names))
        self._fuse: Fusion = fuse or "mean"
        targets = with_classes(resolve_targets(target), class_names)
        said_kinds(output_kind)
        check_keras3(model)
        check_runs(model)
        self.model = model
        self._augmentations = augmentations
        self.batch = like if isinstance(like, ValidationBatch) else None
        if keeps and self.batch is None:
            raise TypeError(f"`keeps` needs `like` to be a ValidationBatch. Received: {type(like).__name__}.")
        self._prepared: Rows | None = None
        if self.batch is None:
            choose = chooser(model, layer_name, method=method, target=target, batch_size=batch_size, tokens=tokens)
            batch = make_batch(like, model, max_samples=1, image_input=input, choose_input=choose)
        else:
            batch = self.batch
        sets = batch.label_sets
        # By how many labels there are, rather than by the shown samples, of which others would have other views.
        targets = with_labels(targets, None if sets is None else labels_at_most(batch))
        self._targets, self._several = tuple(targets.values()), sets is not None
        if self.batch is None:
            self.augmentations, inputs = tuple(resolved_for(augmentations, batch)), batch.inputs
        else:
            self._prepared = self._rows(self.batch)  # What doesn't fit is told before the model is traced.
            self.augmentations, inputs = tuple(self._prepared.augmentations), self._prepared.inputs
        self._references = References(model, self._targets, int(batch_size))
        self._image_input = batch.image_input
        self._input_name = batch.input_name
        self._says_input = len(image_inputs(inputs)) > 1 or self._image_input != largest_index(inputs)
        self._images = [batch.image_input, *(other.image_input for other in batch.others.values())]
        self._trace = traced(
            model,
            inputs,
            layer_names,
            image_input=self._image_input if self._says_input else None,
            targets=self._targets,
            needs=[one.needs for one in methods.values()] + [NEEDS] * measures_faithfulness,
            batch_size=int(batch_size),
            keeps=keeps,
            tokens=resolve_tokens(tokens),
            beside=self._references.beside_like(batch),
            clues=clues_of(
                model, output_kind, batch.label_clues, None if class_names is None else len(tuple(class_names))
            ),
        )
        methods, token_note = decided(methods, self.capturer)
        self.capturer.outputs.check(self._targets)  # A trace that is taken again has checked others.
        for one_method in methods.values():
            if "images" in one_method.needs:
                images = input_at(self.capturer.like, self._image_input)
                one_method.check_images(self.capturer.as_images(images).shape[1:-1])
        if self._prepared is not None:
            self._check_classes(self._prepared)
        self._views = make_views(self._trace, methods, targets, self._fuse)
        self._confidence = confidence_probe(self.capturer) if measures_faithfulness else None
        layers = dict.fromkeys(v.layer_name for v in self._views.values() if v.layer_name)
        explain_other = partial(
            Explainer,
            model,
            layer_name=layer_name,
            target=target,
            fuse=fuse,
            augmentations=augmentations,
            class_names=class_names,
            output_kind=output_kind,
            batch_size=batch_size,
            tokens=tokens,
            measures_faithfulness=measures_faithfulness,
            keeps=keeps,
        )
        self._beside = of_others(explain_other, batch, method, methods, self.capturer.ground)
        self._owners = owners(self, tuple(self._views), batch.input_name, self._beside.explainers)
        self.names = tuple(self._owners)
        for other in self._beside.explainers.values():
            layers |= dict.fromkeys(filter(None, other.layer_name.split(", ")))
        self.layer_name: str = ", ".join(layers)
        self.method = texts(methods)
        self.target = texts(targets)
        self._class_names = checked_names(class_names, self.capturer)
        words = predict_note(model, inputs), token_note
        chosen = *self.capturer.ground.notes, *self.capturer.outputs.notes
        self.notes = tuple(dict.fromkeys((*batch.notes, *chosen, *filter(None, words), *self._beside.notes)))
        if not keeps:  # A callback says it itself, once a fit.
            for note in self.notes:
                warnings.warn(note, RuntimeWarning, stacklevel=2)

    def __call__(
        self,
        images: Any,
        *,
        max_samples: int | None = None,
        display: Any = None,
        value_range: Any = None,
        regions: Any = None,
        spacing: Sequence[float] | None = None,
    ) -> Explanation | Explanations:
        """Explains images with the weights that the model has now.

        Args:
            images: Data as for `explain`, with the shapes and dtypes of `like`; a target "true" needs labels.
            max_samples: As for `explain`, and likewise the others.
            display: Likewise.
            value_range: Likewise.
            regions: Likewise.
            spacing: Likewise.

        Returns:
            The explanation; for several methods or targets `Explanations`, which has each by its name.

        Raises:
            ValueError: If the images or their labels do not fit.
        """
        batch = make_batch(
            images,
            self.model,
            max_samples=max_samples,
            display=display,
            value_range=value_range,
            regions=regions,
            spacing=spacing,
            image_input=self._images if self._says_input else None,
        )
        self.warn_of_range(batch)
        views = self.views(batch)
        return views[""] if list(views) == [""] else Explanations(views)

    def range_word(self, batch: ValidationBatch) -> str:
        """Says which augmentations have no numbers for a batch, because its value range is not certain, and why."""
        every = [batch, *(batch.others[name] for name in self._beside.explainers)]
        words = (without_numbers(guessed_range(self._augmentations, one), one) for one in every)
        return " Augmentation ".join(dict.fromkeys(filter(None, words)))

    def warn_of_range(self, batch: ValidationBatch) -> None:
        """Warns of what `range_word` says."""
        word = self.range_word(batch)
        if word:
            warnings.warn(f"Augmentation {word}", stacklevel=3)

    def views(self, batch: ValidationBatch) -> dict[str, Explanation]:
        """Returns the views of a batch by name, with the weights that the model has now; a single one is named ""."""
        of_inputs = {id(self): self._own_views(batch)}
        for name, other in self._beside.explainers.items():
            of_inputs[id(other)] = other.views(batch.others[name])
        return {name: of_inputs[id(owner)][own] for name, (owner, own) in self._owners.items()}

    def _own_views(self, batch: ValidationBatch) -> dict[str, Explanation]:
        """Returns those that lie on the batch's own images, by their names without that of the input."""
        rows = self._prepared if batch is self.batch and self._prepared is not None else self._rows(batch)
        self._check_classes(rows)
        captured: list[list[Capture]] = [[] for _ in self._targets]
        maps: dict[str, list[Floats]] = {name: [] for name in self._views}
        attributed: dict[str, list[Floats]] = {name: [] for name in self._views}
        numbers_of: dict[str, list[dict[str, Floats]]] = {name: [] for name in self._views}
        start = 0
        check_region_classes(batch.class_regions, self._class_names, self.capturer.classes)
        copies = len(rows.batches)
        beside = [tiled(array, copies) for array in self._references.beside(rows.batches[""])]
        for chunk in self.capturer(rows.inputs, rows.class_index, beside):
            inputs = keras.tree.map_structure(lambda a: a[start : start + chunk.samples], rows.inputs)  # noqa: B023
            for name, view in self._views.items():
                t = view.target
                captures = (chunk.heads[t],) if "kernel" in view.method.needs else chunk.captures[t][: len(view.taps)]
                results = [
                    on_image(view.method, capture, tap, probe, inputs, self.capturer)
                    for capture, tap, probe in zip(captures, view.taps, view.probes, strict=True)
                ]
                heatmaps, attributions, numbers = results[0]
                if len(results) > 1:
                    heatmaps, attributions, numbers = self._fused(view, [layer for layer, *_ in results]), None, {}
                maps[name].append(heatmaps)
                numbers_of[name].append(numbers)
                if attributions is not None:
                    attributed[name].append(attributions)
            for t, captures in enumerate(chunk.captures):
                captured[t].append(without_maps(captures[0]))
            start += chunk.samples
        scored = [
            {key: joined([getattr(capture, key) for capture in of_target]) for key in OF_SCORES}
            for of_target in captured
        ]
        explained = {}
        for name, view in self._views.items():
            arrays = {
                "heatmaps": np.concatenate(maps[name]),
                "attributions": np.concatenate(attributed[name]) if attributed[name] else None,
                **scored[view.target],
            }
            numbers = {key: np.concatenate([chunk[key] for chunk in numbers_of[name]]) for key in numbers_of[name][0]}
            absent = rows.absent[:, view.target] | missing(self._targets[view.target], arrays)
            numbers |= of_objective(self.capturer.outputs.objectives[view.target], arrays, batch.image_size)
            arrays, numbers = cleared(arrays, numbers, absent, is_of_class(view))
            explained[name] = self._explanation(view, {**arrays, "without_label": absent}, numbers, rows)
        return explained

    def _fused(self, view: View, heatmaps: list[Floats]) -> Floats:
        of_levels = isinstance(self.capturer.outputs.objectives[view.target], Detection)
        return fused(heatmaps, self._fuse, of_levels)

    def _explanation(
        self, view: View, arrays: Mapping[str, Any], numbers: Mapping[str, Any], rows: Rows
    ) -> Explanation:
        """Returns what a view shows of the batch, with the copies that were augmented."""
        copies = len(rows.batches)
        explanations = [
            Explanation(
                **part,
                values=values,
                batch=batch,
                layer_name=view.layer_name,
                placed=None not in [self.capturer.ground.boxes.get(tap.path) for tap in view.taps if tap is not None],
                method=view.method.text,
                target=self._targets[view.target].text,
                class_names=self._class_names,
                kind=self.capturer.outputs.kind_of(view.target),
            )
            for part, values, batch in zip(
                parts(arrays, copies), parts(numbers, copies), rows.batches.values(), strict=True
            )
        ]
        augmented = {
            name: compared(explanations[0], copy, augmentation, name, name in rows.guessed)
            for (name, augmentation), copy in zip(rows.augmentations.items(), explanations[1:], strict=True)
        }
        return replace(explanations[0], augmented=augmented)

    def faithfulness(
        self, views: Mapping[str, Explanation], names: Sequence[str]
    ) -> dict[str, dict[str, npt.NDArray[np.float64]]]:
        """Measures by view whether the model needs what these heatmaps of its show; see `faithful.faithfulness`."""
        if self._confidence is None:
            raise ValueError(
                "Faithfulness needs an Explainer that was made for it. Received: measures_faithfulness=False. "
                "Explainer(model, like, measures_faithfulness=True) works."
            )
        for name in names:
            if name not in REGISTRY:
                raise ValueError(f"`names` must be of metrics. Received: {name!r}.{did_you_mean(name, REGISTRY)}")
        measured: dict[str, dict[str, npt.NDArray[np.float64]]] = {}
        for owner in (self, *self._beside.explainers.values()):
            own = {name: view for name, view in views.items() if view.batch.image_input == owner._image_input}
            assert owner._confidence is not None
            measured |= faithfulness(owner.capturer, owner._confidence, own, names)
        return measured

    @property
    def capturer(self) -> Capturer:
        """The tap on the model."""
        return self._trace.capturer

    @property
    def has_probability(self) -> bool:
        """Whether any of the targets has a probability."""
        return any(self.capturer.has_probability(t) for t in range(len(self._targets)))

    @property
    def guess(self) -> str:
        """What is to be said of what the model's output was taken for; "" where that is certain or of no matter."""
        outputs, guesses = self.capturer.outputs, []
        for t, target in enumerate(self._targets):
            if target.rule is not None or isinstance(target.objective, (Value, Similarity)):
                continue
            if isinstance(outputs.objectives[t], Segment) and target.objective is None and target.indices is None:
                guesses.append(MOST_FREQUENT)
            if isinstance(outputs.objectives[t], Detection) and target.objective is None and target.indices is None:
                guesses.append(BEST_BOX)
            guesses.append((outputs.explained[t] or self.capturer.output).guess)
        return next(filter(None, guesses), "")

    @property
    def space(self) -> Space:
        """What the axes of the heatmaps are; of tokens with their layout."""
        taps = [tap for view in self._views.values() for tap in view.taps if tap is not None]
        layouts = dict.fromkeys(tap.tokens.text for tap in taps if tap.tokens is not None)
        axes = self.capturer.ground.axis_names
        return Space(axes, (None,) * len(axes), tokens="; ".join(layouts))

    def is_of_class(self, view: str) -> bool:
        """Tells whether the maps of a view depend on the explained class, as Grad-CAM's do and Eigen-CAM's don't."""
        owner, own = self._owners[view]
        return is_of_class(owner._views[own])

    @property
    def description(self) -> str:
        """What is explained, in words."""
        taps = dict.fromkeys(tap for view in self._views.values() for tap in view.taps if tap is not None)
        shown = [f"{tap.path!r} ({' x '.join(map(str, tap.shape[1:]))})" for tap in taps]
        own = f"layer{'s' * (len(shown) > 1)} {', '.join(shown)}" if shown else "the image itself"
        others = self._beside.explainers
        if not others:
            return own
        of_inputs = {self._input_name: own} | {name: other.description for name, other in others.items()}
        return "; ".join(f"of {name!r} {what}" for name, what in of_inputs.items())

    def displays(self, batch: ValidationBatch) -> dict[str, tuple[Image, ...]]:
        """Returns what people see of the samples in those views that lie on a further image, by the views' names."""
        names = {id(other): name for name, other in self._beside.explainers.items()}
        owned = {view: names.get(id(owner)) for view, (owner, _) in self._owners.items()}
        return {view: batch.others[name].display for view, name in owned.items() if name is not None}

    def _rows(self, batch: ValidationBatch) -> Rows:
        """Returns the rows of a batch: the augmented images are further ones, so that all run in one function."""
        augmentations = resolved_for(self._augmentations, batch)
        named = [target.text for target in self._targets if target.names_pixels]
        if augmentations and named:
            raise ValueError(
                "Where augmented images have the pixels that a target names isn't known. "
                f"Received: target={named[0]} with augmentations {', '.join(augmentations)}. Leave them out, or have "
                "the pixels explained that the model itself predicts: where='predicted', or 'all'; of boxes, box=None."
            )
        batches = {"": batch}
        for name, augmentation in augmentations.items():
            batches[name] = augmented_batch(batch, augmentation, name)
        count, sets = len(batch), batch.label_sets
        check_true(self._targets, batch)
        if sets is not None and not self._several and any(target.label is not None for target in self._targets):
            raise ValueError(
                "target='true' must be asked for with labels like those of the batches. Received: several labels for a "
                "sample, but an Explainer that was made like data without. Make it with like=(images, labels)."
            )
        class_index = np.stack([target.class_index(count, batch.labels, sets) for target in self._targets], axis=1)
        absent = np.stack([target.absent(count, sets) for target in self._targets], axis=1)
        copies = len(batches), 1
        return Rows(
            augmentations,
            batches,
            joined_inputs(batches),
            np.tile(class_index, copies),
            np.tile(absent, copies),
            guessed_range(self._augmentations, batch),
        )

    def _check_classes(self, rows: Rows) -> None:
        for t, target in enumerate(self._targets):
            class_index = rows.class_index[~rows.absent[:, t], t]
            output = self.capturer.outputs.explained[t]
            check_classes(target, class_index, self.capturer.outputs.classes_of(t), output)
