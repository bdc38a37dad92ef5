"""The model as a function of its images, or of a layer's activations, with the explained classes fixed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from typing import Any

import keras
import numpy as np

from .. import engine
from ..data.batches import largest_input
from ..network.biases import parts
from ..network.layers import Tap
from ..network.targets import PREDICTED, confidences, explained_scores, single_output
from ..records import Floats, Ints
from .capture import Capturer

Copies = Iterable[tuple[Floats, int]]
"""Varied images (H, W, C) or activations (h, w, C), each with the row of the sample that it is a copy of."""

FUNCTIONS = (
    *(
        "score",
        "confidence",
        "layer_score",
        "gradient",
        "guided_gradient",
        "activation_gradient",
        "guided_activation_gradient",
    ),
    "full_gradient",
)
"""What methods can ask for. Each takes `Copies` and their number, and yields one result for each, in their order.

- score: the explained score of an image, a number.
- confidence: the probability of the explained class for an image, a number; NaN where there is none.
- layer_score: the score with the given activations in place of the layer's own.
- gradient: d score / d image, (H, W, C).
- activation_gradient: d (sum over the layer's positions of the maximum over its channels) / d image, (H, W, C).
- guided_...: the same, where every ReLU hands back positive gradients only.
- full_gradient: three things. d score / d image, (H, W, C); for every call of a layer that adds a constant to a feature
  map, as a bias is, its part of the score, constant times d score / d sum, (h, w, K); and the sum of all other parts, a
  number: constants without a position, and x d score / dx of other inputs. In a network of ReLUs the image times its
  gradient and all parts sum to the score.
"""


LAYER_FUNCTIONS = ("layer_score", "activation_gradient", "guided_activation_gradient")
"""Those that are functions of a layer."""

_PATIENCE = 3.0  # seconds, before progress is shown


class Probe:
    """Runs varied copies of a capturer's samples, as many at once as the capturer runs samples.

    Copies of different samples share a pass, and no more of them are held than fit into one: 100 noisy copies of 16
    images need the memory of `batch_size` images. Each function is traced once, when the probe is made. In a model
    with several inputs only the images are varied; each copy has the other inputs of its sample.
    """

    def __init__(self, capturer: Capturer, names: Iterable[str], target: int = 0, tap: Tap | None = None) -> None:
        """Traces the functions.

        Args:
            capturer: Knows the model, the batch and the targets.
            names: Those of `FUNCTIONS` that are needed.
            target: Which of the capturer's targets is explained.
            tap: The layer, for functions of a layer.

        Raises:
            ValueError: If the model has no such function: no gradient reaches the images, or no ReLU is there.
        """
        self._capturer, self._target, self._tap = capturer, target, tap
        self._engine = engine.load()
        self._leaves = keras.tree.flatten(capturer.inputs)
        images = largest_input(capturer.inputs)
        self._at = next(i for i, leaf in enumerate(self._leaves) if leaf is images)
        self._dtype = images.dtype
        self._tensors: dict[int, Any] = {}
        self._passes = {name: self._compiled(name) for name in names}

    def functions(self, start: int, targets: Ints | None) -> dict[str, Callable[[Copies, int], Iterator[Any]]]:
        """Returns the functions by name for one chunk of samples.

        Args:
            start: Row of the chunk's first sample in the batch.
            targets: The chunk's explained classes, or None where the score is no class's.
        """
        return {name: partial(self._stream, name, start, targets) for name in self._passes}

    def _stream(self, name: str, start: int, targets: Ints | None, copies: Copies, total: int) -> Iterator[Any]:
        copies, begin, done, shown = iter(copies), time.monotonic(), 0, False
        bar = keras.utils.Progbar(total, interval=1, unit_name="copy")  # It begins to count the time.
        while lot := list(islice(copies, self._capturer.chunk)):
            values = np.stack([value for value, _ in lot]).astype(np.float32, copy=False)
            rows = np.array([row for _, row in lot])
            classes = None if targets is None else targets[rows]
            results = self._run(self._passes[name], values, start + rows, classes)
            found = results["result"]
            if name == "confidence":
                found = confidences(results["outputs"], found, classes, self._capturer.activated)
            done += len(lot)
            if not shown and done < total and time.monotonic() - begin > _PATIENCE:
                shown = True
                if keras.config.is_interactive_logging_enabled():
                    print(f"\n{total} copies of images are run:")  # Keras' own bar may stand in the line.
            if shown:
                bar.update(done)
            yield from (_row(found, i) for i in range(len(lot)))
            del found  # The next ones may be as large.

    def _run(self, function: Callable[..., Any], values: Floats, rows: Ints, targets: Ints | None) -> dict[str, Any]:
        count, size = len(rows), self._capturer.fixed or len(rows)
        if targets is None:
            targets = np.full(count, PREDICTED)
        if count < size:  # A model that takes one number of samples only.
            padded = np.arange(size) % count
            values, rows, targets = values[padded], rows[padded], targets[padded]
        arguments = (values, rows.astype(np.int32)), targets.astype(np.int32)
        found: dict[str, Any] = function(*arguments)
        if any(len(values) != size for values in keras.tree.flatten(found)):
            raise ValueError(
                "Every layer that adds a bias to a feature map must put out one for each sample. "
                f"Received: model {self._capturer.model.name!r}, in which one puts out another number, as "
                "where patches have become samples. Methods of a layer, such as 'gradcam', take it as it is."
            )
        return {name: _row(values, slice(count)) for name, values in found.items()}

    def _compiled(self, name: str) -> Callable[..., Any]:
        """Traces one function, and runs it where faults show only then."""
        capturer = self._capturer
        # Of the tensors, those are held in the graph by reference that a function takes rows from.
        for i, leaf in enumerate(self._leaves):
            if i not in self._tensors and (i != self._at or name == "layer_score"):
                self._tensors[i] = keras.ops.convert_to_tensor(leaf)
        if name == "layer_score":
            assert self._tap is not None
            shape: Any = (1, *self._tap.shape[1:])
            example: Floats = np.zeros(shape, np.float32)
        else:
            example = capturer.as_images(self._leaves[self._at][:1])
        function: Callable[..., Any] = self._engine.compile_pass(
            partial(self._traced, name),
            capturer.model,
            ((example, np.zeros(1, np.int32)), np.zeros(1, np.int32)),
            capturer.fixed,
            traced=name.startswith("guided"),
        )
        eager = getattr(capturer.model, "run_eagerly", False)
        whole = self._dtype.kind in "biu" and name in ("gradient", "full_gradient")
        if eager or whole or name == "full_gradient":
            clean = next(iter(capturer())).captures[self._target][0]
            targets = None if clean.targets is None else clean.targets[:1]
            found = self._run(function, example, np.zeros(1, np.int64), targets)
            if whole and not np.allclose(found["scores"], clean.scores[:1], rtol=1e-2, atol=1e-3):
                raise ValueError(self._no_gradient())
        return function

    def _traced(self, name: str, varied: tuple[Any, Any], class_index: Any) -> dict[str, Any]:
        """What is traced: the model on copies (M, ...) of the samples in the given rows (M,)."""
        values, rows = varied
        model, ops = self._capturer.model, keras.ops
        inputs = [
            ops.take(self._tensors[i], rows, axis=0) if i in self._tensors else None for i in range(len(self._leaves))
        ]

        with self._engine.left_as_found(model):
            if name == "layer_score":
                assert self._tap is not None
                layered = self._to_layout(values, self._tap.layout)
                with self._engine.replaced(self._tap.layer, layered):
                    return {"result": self._score(inputs, class_index)}
            if name in ("score", "confidence"):
                inputs[self._at] = self._to_input(values, whole=True)
                scores, outputs = self._scored(inputs, class_index)
                return {"result": scores, "outputs": outputs} if name == "confidence" else {"result": scores}

            def function(images: Any) -> Any:
                inputs[self._at] = self._to_input(images)
                return self._highest(inputs) if "activation" in name else self._score(inputs, class_index)

            if name == "full_gradient":
                return self._full_gradient(function, values, inputs)
            scores, gradient, relus = self._engine.gradient(function, values, model, name.startswith("guided"))
        if name.startswith("guided") and relus < 1:
            raise ValueError(
                "Guided backpropagation needs a model with ReLUs that can be reached, for it changes their gradient. "
                f"Received: model {model.name!r}, which has "
                + ("none. " if relus == 0 else "some inside a tf.function of its own. ")
                + "Other methods, such as 'saliency' and 'smoothgrad', need none."
            )
        if gradient is None:
            raise ValueError(self._no_gradient())
        return {"result": gradient, "scores": scores}

    def _full_gradient(self, function: Callable[[Any], Any], images: Any, inputs: list[Any]) -> dict[str, Any]:
        """What is traced for "full_gradient"; `inputs` are the model's, with None in place of the images."""
        ops = keras.ops
        others = [x for x in inputs if x is not None and keras.backend.is_float_dtype(x.dtype)]
        if any(x is not None and len(x.shape) > 2 for x in inputs):
            raise ValueError(
                "FullGrad needs a model with one image, in which its biases have their positions. "
                f"Received: model {self._capturer.model.name!r} with inputs of shapes "
                f"{[tuple(leaf.shape) for leaf in self._leaves]}. Other methods, such as 'saliency', take it."
            )
        scores, gradient, outer, places = self._engine.full_gradient(function, images, self._capturer.model, others)
        if gradient is None:
            raise ValueError(self._no_gradient())
        count = ops.shape(images)[0]
        found, rest = parts(places, count)
        for other, slope in zip(others, outer, strict=True):
            if slope is not None:
                rest += ops.sum(ops.reshape(ops.cast(other, "float32") * slope, (count, -1)), axis=1)
        return {"result": (gradient, found, rest), "scores": scores}

    def _no_gradient(self) -> str:
        return (
            "The explained score must depend on the images by operations that have a gradient, for images as floating "
            f"point numbers, too. Received: model {self._capturer.model.name!r} and images of type {self._dtype}, from "
            "which no gradient comes. Let the model take floating point images; methods of a layer, such as "
            "'gradcam', and those that need scores only, take it as it is."
        )

    def _score(self, leaves: list[Any], class_index: Any) -> Any:
        """Runs the model and returns the scores (M,) of the fixed classes, before the final activation."""
        return self._scored(leaves, class_index)[0]

    def _scored(self, leaves: list[Any], class_index: Any) -> tuple[Any, Any]:
        """Runs the model; returns the scores (M,), and what it puts out, (M, K) float32, where it has one output."""
        capturer = self._capturer
        outputs = capturer.model(keras.tree.pack_sequence_as(capturer.inputs, leaves), training=False)
        output = single_output(outputs)
        logits = None if output is None else self._engine.find_logits(output)[0]
        # A rule that names classes named them for the samples themselves; their copies are held to these.
        rule = capturer.targets[self._target].rule if capturer.scores_by_rule[self._target] else None
        scores = explained_scores(outputs, logits, class_index, rule, capturer.expects)[0]
        if output is None or len(output.shape) > 2:
            return scores, None
        return scores, keras.ops.cast(output if len(output.shape) == 2 else output[:, None], "float32")

    def _highest(self, leaves: list[Any]) -> Any:
        """Runs the model and returns (M,): the layer's largest activation at each position, summed."""
        capturer, ops = self._capturer, keras.ops
        tap = self._tap
        assert tap is not None
        inputs = keras.tree.pack_sequence_as(capturer.inputs, leaves)
        with self._engine.tapped_run(capturer.model, inputs, lambda call: call.layer is tap.layer) as run:
            channels = 1 if tap.layout == "channels_first" else -1
            return ops.sum(ops.cast(ops.max(run.watched[0][1], axis=channels), "float32"), axis=(1, 2))

    def _to_input(self, images: Any, whole: bool = False) -> Any:
        """Turns images (M, H, W, C) into what the model takes; whole numbers only where no gradient is needed."""
        ops = keras.ops
        images = self._to_layout(images, self._capturer.image_layout)
        if self._leaves[self._at].ndim == 3:
            images = images[..., 0]
        if self._dtype.kind in "iu" and whole:
            limits = np.iinfo(self._dtype)
            images = ops.clip(ops.round(images), limits.min, limits.max)
        elif self._dtype.kind != "f":
            return ops.cast(ops.round(images), "bool") if whole else images
        return ops.cast(images, self._dtype.name)

    @staticmethod
    def _to_layout(tensor: Any, layout: str) -> Any:
        return keras.ops.transpose(tensor, (0, 3, 1, 2)) if layout == "channels_first" else tensor


def _row(found: Any, index: Any) -> Any:
    """Takes a row, or rows, of an array or of each in a structure of arrays."""
    return keras.tree.map_structure(lambda array: array[index], found)
