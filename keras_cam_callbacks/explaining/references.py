"""What is asked of each sample beside a class: reference embeddings, true pixels, the class of a contrast."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ..checks import did_you_mean
from ..data.batches import make_batch
from ..network.detection import MOST_TRUE, Detection
from ..network.objectives import Segment, Similarity, Value
from ..network.targets import Target, resolve_target
from ..records import Floats, Region, ValidationBatch
from .tracing import Trace, traced


class References:
    """The images that similarities refer to, whose embeddings are computed with the weights that the model then has."""

    def __init__(self, model: Any, targets: Sequence[Target], batch_size: int) -> None:
        """Traces the model where a target refers to images.

        Args:
            model: The model.
            targets: What is explained.
            batch_size: Largest number of samples that run at once.

        Raises:
            ValueError: If the images are not such as the model takes.
        """
        self._targets = targets
        self._traces: dict[int, tuple[Trace, Any]] = {}
        for t, target in enumerate(targets):
            objective = target.objective
            if not isinstance(objective, Similarity) or not objective.of_images:
                continue
            images = objective.reference
            inputs = getattr(model, "inputs", None)
            if inputs is not None and len(inputs) != 1:
                raise ValueError(
                    "Similarity's `reference` can be images only for a model of one input. "
                    f"Received: images of shape {images.shape} for model {model.name!r} of {len(inputs)} inputs. "
                    "An embedding (D,), as model.predict gives it, works."
                )
            if images.ndim == (3 if inputs is None else len(inputs[0].shape) - 1):
                images = images[None]
            reference = make_batch(images, model, max_samples=None).inputs
            number = replace(resolve_target(Value(0)), output=target.output)
            trace = traced(
                model, reference, (), targets=(number,), needs=[("scores",)], batch_size=batch_size, keeps=False
            )
            self._traces[t] = trace, reference

    def embeddings(self) -> dict[int, Floats]:
        """Returns the references by the number of their target, (1 or N, D) float32 each.

        Raises:
            ValueError: If the model gives an embedding of length 0, or of no length.
        """
        references: dict[int, Floats] = {}
        for t, (trace, inputs) in self._traces.items():
            count = len(inputs)
            chunks = list(trace.capturer(inputs, trace.capturer.predicted(count)))
            rows = [row for chunk in chunks if (row := chunk.captures[0][0].outputs) is not None]
            if not rows:
                raise ValueError(
                    "Similarity is of an embedding (samples, numbers). "
                    f"Received: model {trace.capturer.model.name!r}, which puts out something else."
                )
            references[t] = np.concatenate(rows)
        return references

    def beside_like(self, batch: ValidationBatch) -> list[Any]:
        """Returns what `beside` would, of one sample, whatever number of samples what was given is of.

        Raises:
            ValueError: If labels are missing.
        """
        embeddings = self.embeddings()
        rows = []
        for t, target in enumerate(self._targets):
            is_true = isinstance(target.objective, Segment) and target.objective.place == "true"
            like = self._of(target, batch, None) if is_true else embeddings.get(t, target.beside_like(_axes(batch)))
            rows.append(None if like is None else like[:1])
        return rows

    def beside(self, batch: ValidationBatch) -> list[Any]:
        """Returns for each target what is asked of the samples beside a class; see `Target.beside`.

        Raises:
            ValueError: If labels are missing, or what was given is of other samples.
        """
        embeddings = self.embeddings()
        return [self._of(target, batch, embeddings.get(t)) for t, target in enumerate(self._targets)]

    def _of(self, target: Target, batch: ValidationBatch, embeddings: Floats | None) -> Any:
        if isinstance(target.objective, Detection):
            return _asked_boxes(target.objective, batch)
        return target.beside(len(batch), batch.labels, batch.label_sets, batch.pixel_labels, embeddings, _axes(batch))


def _axes(batch: ValidationBatch) -> int:
    """Returns how many axes masks of the samples have; those of what has no places are an image's."""
    return 2 if batch.space is None else len(batch.space.axes)


def with_classes(targets: Mapping[str, Target], class_names: Sequence[str] | None) -> dict[str, Target]:
    """Returns the targets, of which those that name a detector's class by its name have its index.

    Raises:
        ValueError: If there is no such name.
    """
    names = list(map(str, class_names or ()))
    resolved = {}
    for view, target in targets.items():
        label = target.objective.label if isinstance(target.objective, Detection) else 0
        if isinstance(label, str) and label != "predicted":
            if label not in names:
                options = (
                    f"one of {', '.join(map(repr, names))}" if names else "one of `class_names`, which are missing"
                )
                raise ValueError(
                    f"A name as Detection's `label` must be {options}. Received: {label!r}."
                    f"{did_you_mean(label, names)} An index, as Detection(1), works too."
                )
            target = replace(target, rank=0, indices=np.array(names.index(label), np.int64))
        resolved[view] = target
    return resolved


def _asked_boxes(objective: Detection, batch: ValidationBatch) -> Floats:
    """Returns the boxes that a target asks for of each sample, (N, M + 1, 4) float32 px, of zeros where it has fewer.

    Raises:
        ValueError: If they are of another number of samples, or true ones are not there.
    """
    asked = objective.asked
    if len(asked) not in (1, len(batch)):
        raise ValueError(
            f"Detection's `box` must hold one for all samples, or one for each of the {len(batch)} explained ones. "
            f"Received: {len(asked)}. See `max_samples`."
        )
    boxes = np.ascontiguousarray(np.broadcast_to(asked, (len(batch), *asked.shape[1:])))
    if not isinstance(objective.box, str):
        if objective.box is not None and asked.max() <= 1 < max(batch.image_size or (1,)):
            raise ValueError(
                f"Detection's `box` must be in px of the model's input image, {batch.image_size}. "
                f"Received: no value above {asked.max():g}. box=(40, 60, 120, 200) works."
            )
        return boxes
    if not batch.regions or batch.image_size is None:
        raise ValueError(
            "Detection with box='true' needs `regions`, which name the true boxes. Received: none. "
            "regions=[(40, 60, 120, 200), ...] gives one for each sample; without `box` none are needed."
        )
    height, width = batch.image_size
    regions: list[Region | None] = list(batch.regions)
    for i, by_class in enumerate(batch.class_regions):
        if by_class is not None and objective.label != "predicted":
            regions[i] = by_class.get(objective.label or 0)
    for i, region in enumerate(regions):
        if region is None:
            continue
        shares = region.boxes if region.mask is None else np.concatenate([region.boxes, _around(region.mask)])
        if len(shares) > MOST_TRUE:
            raise ValueError(
                f"Detection with box='true' can be asked for {MOST_TRUE} true boxes of a sample at most. "
                f"Received: {len(shares)}. box=... takes as many as are named."
            )
        boxes[i, : len(shares)] = shares * (width, height, width, height)
    return boxes


def _around(mask: npt.NDArray[np.bool_]) -> Floats:
    """Returns the box (1, 4) around a mask (H, W), in shares of its sides."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    height, width = mask.shape
    sides = columns[0] / width, rows[0] / height, (columns[-1] + 1) / width, (rows[-1] + 1) / height
    return np.array([sides], np.float32)
