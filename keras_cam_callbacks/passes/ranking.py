"""What samples are ranked by where the hardest, the wrong or the confused ones are chosen: one pass of the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from .. import engine
from ..data.feeding import model_inputs, preprocessed, preprocesses
from ..data.labels import class_labels, label_clues
from ..data.sources import as_arrays
from ..network.outputs import Output, clues_of
from ..network.structure import leaves, output_names
from .shapes import flat_shape
from .taps import fixed_batch, make_variables

__all__ = ["RANKINGS", "Ranking"]

RANKINGS: Mapping[str, str] = {
    "hardest": "the highest loss",
    "wrong": "a wrong prediction, the most confident first",
    "confused": "the smallest margin between the two best classes",
}
"""What the chosen samples have, by the name of the choice."""


class Ranking:
    """Values samples by what a model makes of them.

    Attributes:
        rests_on: What the values are, in words.
        right: How many samples were predicted rightly, of those whose class is known.
        labels: How many samples each class has, of those whose class is known.
    """

    def __init__(self, select: str, model: Any, trained: Any, output_kind: Any = None, batch_size: int = 32) -> None:
        """Notes what is asked.

        Args:
            select: One of `RANKINGS`.
            model: The model that is run.
            trained: The model that the fit trains or explains, of which the loss is.
            output_kind: As in `HeatmapLogger`.
            batch_size: How many samples run at once.

        Raises:
            ValueError: If the loss of `trained` does not tell what one sample has.
        """
        self._select, self._model, self._trained, self._kind = select, model, trained, output_kind
        self._engine = engine.load()
        self._fixed = fixed_batch(model)
        self.size = self._fixed or batch_size
        self._pass: Any = None
        self._output: Output | None = None
        self._clues: Any = None
        self._loss = _loss_of(trained) if select == "hardest" else None
        self.rests_on = RANKINGS[select]
        if select == "hardest":
            self.rests_on += f", {_name(_single(trained.loss))}"
        self.right = 0
        self.labels: dict[int, int] = {}

    def __call__(self, x: Any, y: Any) -> npt.NDArray[np.float64]:
        """Returns the values of samples, (n,) float64, the higher the rather chosen; NaN for those that can't be.

        Args:
            x: Samples as arrays, as the data has them.
            y: Their labels, or None.

        Raises:
            ValueError: If the output, the labels or the loss are none that samples can be ranked by.
        """
        if preprocesses(self._trained):
            x, y = preprocessed(self._trained, x, y)
        else:
            x = model_inputs(self._trained, x)
        if y is None and self._select != "confused":
            raise ValueError(self._refusal("validation data without labels", "'confused' needs none"))
        outputs = self._outputs(x, y)
        assert self._output is not None
        probabilities = labels = None
        if self._output.kind == "classes":
            probabilities = _probabilities(outputs.reshape(len(outputs), -1), self._output.activated)
            labels = None if y is None else class_labels(y)
        if probabilities is not None and labels is not None:
            self.right += int((probabilities.argmax(axis=1) == labels).sum())
            for label, count in zip(*np.unique(labels, return_counts=True), strict=True):
                self.labels[int(label)] = self.labels.get(int(label), 0) + int(count)
        if self._select == "hardest":
            return self._losses(y, outputs)
        if probabilities is None:
            kind = f"an output taken for {self._output.kind!r} {self._output.why}".strip()
            raise ValueError(self._refusal(kind, "'hardest' goes by the loss, whatever the output is"))
        if self._select == "confused":
            best = np.sort(probabilities, axis=1)
            return np.asarray(best[:, -2] - best[:, -1], np.float64)
        if labels is None:
            raise ValueError(self._refusal("labels that name no class for each sample", "'hardest' takes any labels"))
        predicted = probabilities.argmax(axis=1)
        return np.where(predicted == labels, np.nan, probabilities.max(axis=1)).astype(np.float64)

    def at_chance(self) -> bool | None:
        """Tells whether predictions are no better than the most frequent class alone; None where that isn't known."""
        return self.right <= max(self.labels.values()) if len(self.labels) > 1 else None

    @property
    def seen(self) -> int:
        """Of how many samples the class is known."""
        return sum(self.labels.values())

    def _refusal(self, received: str, works: str) -> str:
        needs = {
            "hardest": "labels, of which the loss is",
            "wrong": "one output of classes, and the class of each sample",
            "confused": "one output of classes",
        }[self._select]
        return f"select={self._select!r} needs {needs}. Received: {received}. {works}; select='first' takes any data."

    def _outputs(self, inputs: Any, y: Any) -> npt.NDArray[np.float32]:
        count = len(keras.tree.flatten(inputs)[0])
        if self._fixed:
            rows = np.resize(np.arange(count), self._fixed)
            inputs = keras.tree.map_structure(lambda a: a[rows], inputs)
        if self._pass is None:
            self._clues = clues_of(self._trained, self._kind, label_clues(y))
            if not getattr(self._model, "built", True):
                make_variables(self._model, keras.tree.map_structure(lambda a: a[:1], inputs))
            self._pass = self._engine.compile_pass(self._run, self._model, (inputs,), self._fixed)
        return np.asarray(self._pass(inputs)["outputs"][:count], np.float32)

    def _run(self, inputs: Any) -> dict[str, Any]:
        run = self._engine.plain_run(self._model, inputs)
        parts = leaves(run.outputs)
        if len(parts) != 1:
            raise ValueError(
                self._refusal(f"a model with {len(parts)} outputs", "select=read_run(...) takes another run's samples")
            )
        ((path, tensor),) = parts
        self._output = self._clues.output(
            flat_shape(tensor.shape), run.ending(tensor), output_names(self._model, [path])[0], 0
        )
        return {"outputs": keras.ops.cast(tensor, "float32")}

    def _losses(self, y: Any, outputs: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Returns the loss of each sample, (n,) float64, as the compiled loss has it before the mean is taken."""
        assert self._loss is not None
        labels = np.asarray(_single(y))
        if outputs.ndim == labels.ndim + 1 and outputs.shape[-1] == 1:
            labels = labels[..., None]
        try:
            labels = keras.ops.convert_to_tensor(labels, keras.config.floatx())
            of_samples = as_arrays(self._loss(labels, keras.ops.convert_to_tensor(outputs)))
        except Exception as error:  # The loss may be the user's own, and may raise anything.
            raise ValueError(
                self._refusal(f"a loss that fails on them: {type(error).__name__}: {error}", "'confused' needs no loss")
            ) from error
        if of_samples.ndim == 0 or len(of_samples) != len(outputs):
            raise ValueError(
                "select='hardest' needs a loss that returns a number for each sample. Received: "
                f"{_name(_single(self._trained.loss))}, which returns shape {of_samples.shape} for {len(outputs)} "
                "samples. Losses such as 'sparse_categorical_crossentropy' do; select='confused' needs no loss."
            )
        return np.asarray(of_samples.reshape(len(outputs), -1).mean(axis=1), np.float64)


def _single(structure: Any) -> Any:
    """Returns what is under the only name, or alone in a list."""
    while isinstance(structure, (Mapping, list, tuple)) and len(structure) == 1:
        (structure,) = structure.values() if isinstance(structure, Mapping) else structure
    return structure


def _loss_of(model: Any) -> Any:
    """Returns a function of labels and outputs that gives the loss of each sample."""
    loss = _single(getattr(model, "loss", None))
    if isinstance(loss, str):
        try:
            loss = keras.losses.get(loss)
        except ValueError:
            loss = None  # Names that `compile` alone knows.
    if not callable(loss):
        raise ValueError(
            "select='hardest' needs one compiled loss. "
            f"Received: loss={getattr(model, 'loss', None)!r} of model {model.name!r}. "
            "model.compile(loss='sparse_categorical_crossentropy') works; select='confused' needs no loss."
        )
    return loss.call if isinstance(loss, keras.losses.Loss) else loss


def _name(loss: Any) -> str:
    return str(loss if isinstance(loss, str) else getattr(loss, "name", None) or getattr(loss, "__name__", loss))


def _probabilities(outputs: npt.NDArray[np.float32], activated: bool) -> npt.NDArray[np.float64]:
    """Returns the probability of each class, (n, K) float64, K of at least 2, of outputs that may be logits."""
    values = outputs.astype(np.float64)
    if values.shape[1] == 1:
        second = values if activated else 1 / (1 + np.exp(-np.clip(values, -80, 80)))
        return np.concatenate([1 - second, second], axis=1)
    if activated or ((values >= 0).all() and np.allclose(values.sum(axis=1), 1, atol=1e-3)):
        return values
    exponents = np.exp(values - values.max(axis=1, keepdims=True))
    return np.asarray(exponents / exponents.sum(axis=1, keepdims=True))
