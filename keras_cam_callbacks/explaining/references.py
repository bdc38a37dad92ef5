"""What is asked of each sample beside a class: reference embeddings, true pixels, the class of a contrast."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..data.batches import make_batch
from ..network.objectives import Segment, Similarity, Value
from ..network.targets import Target, resolve_target
from ..records import Floats, ValidationBatch
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
            like = self._of(target, batch, None) if is_true else embeddings.get(t, target.beside_like())
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
        return target.beside(len(batch), batch.labels, batch.label_sets, batch.pixel_labels, embeddings)
