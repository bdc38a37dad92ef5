"""The model as a function of its images, or of a layer's activations, with the explained classes fixed."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from contextvars import ContextVar
from functools import partial
from itertools import islice
from typing import Any

import keras
import numpy as np

from .. import engine
from ..data.layout import in_layout
from ..network.layers import Tap
from ..network.targets import PREDICTED
from ..network.tokens import Tokens
from ..records import Floats, Ints
from .capture import Capturer, as_traced
from .shares import shares
from .taps import as_activations, as_output

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
_progress: ContextVar[bool] = ContextVar("progress", default=True)


@contextmanager
def silently() -> Iterator[None]:
    """Shows no progress while the context lasts."""
    before = _progress.set(False)
    try:
        yield
    finally:
        _progress.reset(before)


class Probe:
    """Runs varied copies of samples of any batch, as many at once as the capturer runs samples.

    Copies of different samples share a pass, and no more of them are held than fit into one: 100 noisy copies of 16
    images need the memory of `batch_size` images. Each function is traced once, when the probe is made. In a model
    with several inputs only the images are varied; each copy has the other inputs of its sample.
    """

    def __init__(self, capturer: Capturer, names: Iterable[str], target: int = 0, tap: Tap | None = None) -> None:
        """Traces the functions.

        Args:
            capturer: Knows the model, what its batches are like, and the targets.
            names: Those of `FUNCTIONS` that are needed.
            target: Which of the capturer's targets is explained.
            tap: The layer, for functions of a layer.

        Raises:
            ValueError: If the model has no such function: no gradient reaches the images, or no ReLU is there.
        """
        self._capturer, self._target, self._tap = capturer, target, tap
        self._engine = engine.load()
        self._leaves = keras.tree.flatten(capturer.like)
        self._at = capturer.ground.image_input
        self._dtype = self._leaves[self._at].dtype
        self._traces = 0
        self._passes = {name: self._compiled(name) for name in names}

    def functions(
        self, inputs: Any, targets: Ints | None, named: Any = None
    ) -> dict[str, Callable[[Copies, int], Iterator[Any]]]:
        """Returns the functions by name for some samples.

        Args:
            inputs: The samples, in any structure that the model takes.
            targets: Their explained classes, or None where the score is no class's.
            named: What else names what is explained of each of them, as `Capture.beside` has it.
        """
        settings = targets, named
        return {name: partial(self._stream, name, self._beside(name, inputs), settings) for name in self._passes}

    def _beside(self, name: str, inputs: Any) -> tuple[Any, ...]:
        """Returns what copies have of their samples, unchanged, for functions to take rows from."""
        whole = name == "layer_score"  # Then the images are not varied.
        leaves = [leaf for i, leaf in enumerate(keras.tree.flatten(inputs)) if whole or i != self._at]
        # Tensors, which no pass copies, but where each pass must have the rows of its own.
        return tuple(leaves if self._capturer.fixed else map(keras.ops.convert_to_tensor, leaves))

    def _stream(
        self, name: str, beside: tuple[Any, ...], settings: tuple[Ints | None, Any], copies: Copies, total: int
    ) -> Iterator[Any]:
        copies, begin, done, shown = iter(copies), time.monotonic(), 0, False
        bar = keras.utils.Progbar(total, interval=1, unit_name="copy")  # It begins to count the time.
        while lot := list(islice(copies, self._capturer.chunk)):
            values = np.stack([value for value, _ in lot]).astype(np.float32, copy=False)
            rows = np.array([row for _, row in lot])
            classes, named = (None if of_samples is None else of_samples[rows] for of_samples in settings)
            arrays = self._run(self._passes[name], values, rows, classes, named, beside)
            results = arrays["result"]
            if name == "confidence":
                results = self._capturer.outputs.confidences(self._target, arrays["outputs"], results, classes)
            done += len(lot)
            if not shown and done < total and time.monotonic() - begin > _PATIENCE and _progress.get():
                shown = True
                print(f"\n{total} copies of images are run:", file=sys.stderr)  # Keras' own bar may stand in the line.
            if shown:
                with redirect_stdout(sys.stderr):  # What a program prints is its result.
                    bar.update(done)
            yield from (_row(results, i) for i in range(len(lot)))
            del arrays, results  # The next ones may be as large.

    def _run(
        self,
        function: Callable[..., Any],
        values: Floats,
        rows: Ints,
        targets: Ints | None,
        named: Any,
        beside: tuple[Any, ...],
    ) -> dict[str, Any]:
        count, size = len(rows), self._capturer.fixed or len(rows)
        if targets is None:
            targets = np.full(count, PREDICTED)
        if count < size:  # A model that takes one number of samples only.
            padded = np.arange(size) % count
            values, rows, targets = values[padded], rows[padded], targets[padded]
            named = None if named is None else named[padded]
        if self._capturer.fixed:
            beside, rows = tuple(leaf[rows] for leaf in beside), np.arange(size)
        asked = (targets.astype(np.int32), *(() if named is None else (as_traced(named),)))
        arrays: dict[str, Any] = function((values, rows.astype(np.int32)), asked, beside)
        if any(len(values) != size for values in keras.tree.flatten(arrays)):
            raise ValueError(
                "Every layer that adds a bias to a feature map must put out one for each sample. "
                f"Received: model {self._capturer.model.name!r}, in which one puts out another number, as "
                "where patches have become samples. Methods of a layer, such as 'gradcam', take it as it is."
            )
        return {name: _row(values, slice(count)) for name, values in arrays.items()}

    def _compiled(self, name: str) -> Callable[..., Any]:
        """Traces one function, and runs it where faults show only then."""
        capturer = self._capturer
        if name == "layer_score":
            assert self._tap is not None
            shape: Any = (1, *self._tap.shape[1:])
            example: Floats = np.zeros(shape, np.float32)
        else:
            example = capturer.as_images(self._leaves[self._at])
        beside = self._beside(name, capturer.like)
        row = np.zeros(1, np.int32)
        named, before = capturer.named(self._target), self._traces
        function: Callable[..., Any] = self._engine.compile_pass(
            partial(self._traced, name),
            capturer.model,
            ((example, row), (row, *(() if named is None else (as_traced(named),))), beside),
            capturer.fixed,
            traced=name.startswith("guided"),
            shared=() if capturer.fixed else (2,),  # What copies have of their samples.
        )
        eager = self._traces == before
        whole = self._dtype.kind in "biu" and name in ("gradient", "full_gradient")
        if eager or whole or name == "full_gradient":
            clean = capturer.once().captures[self._target][0]
            arrays = self._run(function, example, np.zeros(1, np.int64), clean.targets, clean.beside, beside)
            if whole and not np.allclose(arrays["scores"], clean.scores, rtol=1e-2, atol=1e-3):
                raise ValueError(self._no_gradient())
        return function

    def _traced(self, name: str, varied: tuple[Any, Any], asked: Any, beside: tuple[Any, ...]) -> dict[str, Any]:
        """What is traced: the model on copies (M, ...) of the samples in the given rows (M,)."""
        self._traces += 1
        values, rows = varied
        model = self._capturer.model
        inputs = [keras.ops.take(leaf, rows, axis=0) for leaf in beside]
        if name != "layer_score":
            inputs.insert(self._at, None)

        with self._engine.left_as_found(model):
            if name == "layer_score":
                assert self._tap is not None
                layered = as_output(values, self._tap)
                if self._tap.tokens is not None:
                    layered = partial(_among_special, self._tap.tokens, values)
                numbers = (self._tap.number, *self._tap.again)
                with self._engine.replaced(self._tap.layer, layered, numbers):
                    return {"result": self._score(inputs, asked)}
            if name in ("score", "confidence"):
                inputs[self._at] = self._to_input(values, whole=True)
                scores, outputs = self._scored(inputs, asked)
                return {"result": scores, "outputs": outputs} if name == "confidence" else {"result": scores}

            def function(images: Any) -> Any:
                inputs[self._at] = self._to_input(images)
                return self._highest(inputs) if "activation" in name else self._score(inputs, asked)

            if name == "full_gradient":
                return self._full_gradient(function, values, inputs)
            scores, gradient, relus = self._engine.gradient(function, values, model, name.startswith("guided"))
        if name.startswith("guided") and relus < 1:
            raise ValueError(
                "Guided backpropagation needs a model with ReLUs that can be reached, for it changes their gradient. "
                f"Received: model {model.name!r}, which has "
                + ("none. " if relus == 0 else "some inside a tf.function or a compiled module of its own. ")
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
                f"{[(None, *leaf.shape[1:]) for leaf in self._leaves]}. Other methods, such as 'saliency', take it."
            )
        scores, gradient, outer, places = self._engine.full_gradient(function, images, self._capturer.model, others)
        if gradient is None:
            raise ValueError(self._no_gradient())
        count = ops.shape(images)[0]
        maps, rest = shares(places, count, self._capturer.ground.axes)
        for other, slope in zip(others, outer, strict=True):
            if slope is not None:
                rest += ops.sum(ops.reshape(ops.cast(other, "float32") * slope, (count, -1)), axis=1)
        return {"result": (gradient, maps, rest), "scores": scores}

    def _no_gradient(self) -> str:
        return (
            "The explained score must depend on the images by operations that have a gradient, for images as floating "
            f"point numbers, too. Received: model {self._capturer.model.name!r} and images of type {self._dtype}, from "
            "which no gradient comes. Let the model take floating point images; methods of a layer, such as "
            "'gradcam', and those that need scores only, take it as it is."
        )

    def _score(self, leaves: list[Any], asked: Any) -> Any:
        """Runs the model and returns the scores (M,) of the fixed classes, before the final activation."""
        return self._scored(leaves, asked)[0]

    def _scored(self, leaves: list[Any], asked: Any) -> tuple[Any, Any]:
        """Runs the model; returns the scores (M,), and what it puts out, (M, K) float32, where it has one output."""
        capturer = self._capturer
        run = self._engine.plain_run(capturer.model, keras.tree.pack_sequence_as(capturer.like, leaves))
        class_index, named = (*asked, None)[:2]
        # A rule that names classes named them for the samples themselves; their copies are held to these.
        scored = capturer.outputs.score(
            run, self._target, class_index, named, held=not capturer.scores_by_rule[self._target]
        )
        return scored.scores, capturer.outputs.row_of(run, self._target)

    def _highest(self, leaves: list[Any]) -> Any:
        """Runs the model and returns (M,): the layer's largest activation at each position, summed."""
        capturer, ops = self._capturer, keras.ops
        tap = self._tap
        assert tap is not None
        run = self._engine.tapped_run(capturer.model, keras.tree.pack_sequence_as(capturer.like, leaves))
        call = next(call for call in run.calls if call.makes(tap.layer, tap.number))
        highest = ops.max(as_activations(run.tensors[call.output_ids[0]], tap, call.steps), axis=-1)
        if tap.tokens is not None:
            highest = ops.take(highest, tap.tokens.positions, axis=1)
        return ops.sum(highest, axis=tuple(range(1, len(highest.shape))))

    def _to_input(self, images: Any, whole: bool = False) -> Any:
        """Turns images (M, H, W, C) into what the model takes; whole numbers only where no gradient is needed."""
        ops = keras.ops
        ground = self._capturer.ground
        images = in_layout(images, ground.layout)
        if self._leaves[self._at].ndim == ground.axes + 1:
            images = images[..., 0]
        if self._dtype.kind in "iu" and whole:
            limits = np.iinfo(self._dtype)
            images = ops.clip(ops.round(images), limits.min, limits.max)
        elif self._dtype.kind != "f":
            return ops.cast(ops.round(images), "bool") if whole else images
        return ops.cast(images, self._dtype.name)


def _among_special(tokens: Tokens, grid: Any, output: Any) -> Any:
    """Returns tokens (M, T, C) from a map (M, *grid, C), with the special tokens of a layer's own output put back."""
    ops = keras.ops
    flat = ops.reshape(grid, (-1, tokens.cells, grid.shape[-1]))
    places = tokens.positions
    count = tokens.cells + len(tokens.others)
    if tokens.others:
        flat = ops.concatenate([flat, ops.cast(ops.take(output, tokens.others, axis=1), flat.dtype)], axis=1)
    order = np.argsort([*places, *tokens.others])
    return flat if (order == np.arange(count)).all() else ops.take(flat, order, axis=1)


def _row(found: Any, index: Any) -> Any:
    """Takes a row, or rows, of an array or of each in a structure of arrays."""
    return keras.tree.map_structure(lambda array: array[index], found)
