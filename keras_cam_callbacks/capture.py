"""Runs the model on a batch: scores, and activations and gradients at a layer, in chunks, as numpy arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

from . import engine
from .batches import largest_input
from .head import Head, class_weights, find_head
from .layers import (
    Candidates,
    LayerCall,
    candidates,
    choose_layer,
    data_format,
    find_layer,
    is_feature_map,
    listing,
)
from .records import Capture, Floats, Ints
from .targets import Target, check_classes, confidences, explained_scores, loss_expects, single_output

# What a method can need that has nothing to do with a layer.
_WITHOUT_LAYER = {"images", "scores", "score", "gradient", "guided_gradient"}


class Capturer:
    """Captures one layer of one model for one target, as often as it is asked; or the outputs alone.

    The model is traced once, when the object is made, and wrong settings are found there; afterwards each pass costs
    one forward pass of the batch, and the way back from the score to the layer.

    Attributes:
        model: The model.
        inputs: The batch.
        target: What is explained.
        layer: The explained layer; None where the method needs none.
        layer_name: Its path, or "".
        layer_shape: (None, h, w, C), as the activations are captured; () without a layer.
        layer_layout: "channels_last" or "channels_first", as the layer puts them out.
        image_layout: The same for the images, as the model takes them.
        classes: How many classes the outputs tell apart; None where they tell none.
        explained: What the explained score is, in words.
        scores_by_rule: Whether a callable target gives the scores themselves, and no classes.
        chunk: Number of samples that run at once.
        fixed: The number of samples where the model takes no other, else None.
        traces: How often the model was traced.
    """

    def __init__(
        self,
        model: Any,
        inputs: Any,
        layer_name: Any = None,
        *,
        target: Target,
        needs: tuple[str, ...] = ("activations", "gradients"),
        batch_size: int = 32,
    ) -> None:
        """Finds or chooses the layer and traces the model.

        Args:
            model: The built model.
            inputs: The batch, N rows in any structure that the model takes.
            layer_name: Path, name or layer; None has it chosen.
            target: What is explained.
            needs: What the method needs: "activations", "gradients" or "kernel" of the layer, "images", and names of
                functions of the model (see `probe`), by which it is known whether there is a layer at all.
            batch_size: Largest number of samples that run at once.

        Raises:
            ValueError: If the layer, target or model does not fit. The message tells what would.
        """
        self.model, self.inputs, self.target, self._needs = model, inputs, target, needs
        self._engine = engine.load()
        self._path: str = ""
        self.layer: Any = None
        self._has_layer = needs_layer(needs)
        if layer_name is not None:
            if not self._has_layer:
                raise ValueError(
                    "This method explains the image itself and knows no layer. "
                    f"Received: layer_name={getattr(layer_name, 'name', layer_name)!r}. Leave it out."
                )
            self._path, self.layer = _found_layer(model, layer_name, inputs)
        self._samples = len(target.class_index)
        self.fixed = _fixed_batch(model)
        self.chunk = self.fixed or batch_size
        self.expects = loss_expects(model)
        self._activated = False
        self._units: int | None = None
        self.traces = 0
        self.layer_name = ""
        self.layer_shape: tuple[int | None, ...] = ()
        self.layer_layout = self.image_layout = "channels_last"
        self.classes: int | None = None
        self.explained = ""
        self.scores_by_rule = False
        self._pass = self._engine.compile_pass(self._traced, model, inputs, self.fixed)
        self._fed = inputs
        if self._samples <= self.chunk and not self.fixed:
            # What fits into one pass is made a tensor once; for more, that would take its memory a second time.
            self._fed = keras.tree.map_structure(keras.ops.convert_to_tensor, inputs)
        if not self.traces:  # An eager model shows its faults only when it runs.
            self._run_chunk(0, 1)

    def __call__(self) -> Iterator[Capture]:
        """Yields what is captured now, with the weights that the model has now, chunk by chunk."""
        for start in range(0, self._samples, self.chunk):
            yield self._run_chunk(start, min(start + self.chunk, self._samples))

    def _run_chunk(self, start: int, stop: int) -> Capture:
        # A slice copies no images; a model of a fixed batch has its last chunk filled up.
        rows: Any = np.resize(np.arange(start, stop), self.chunk) if self.fixed else slice(start, stop)
        index = self.target.class_index[rows].astype(np.int32)
        found = self._pass(keras.tree.map_structure(lambda a: a[rows], self._fed), index)
        found = {name: value[: stop - start] for name, value in found.items()}
        targets, outputs = found.get("targets"), found.get("outputs")
        if self.target.rule is not None and targets is not None:
            self._check_rule(targets)
        return Capture(
            activations=found.get("activations"),
            gradients=found.get("gradients"),
            kernel=found.get("kernel"),
            outputs=outputs,
            scores=found["scores"],
            targets=targets,
            predicted=found.get("predicted"),
            confidences=confidences(outputs, found["scores"], targets, self._activated),
            images=self.as_images(largest_input(self.inputs)[start:stop]) if "images" in self._needs else None,
        )

    def as_images(self, images: Any) -> Floats:
        """Returns images as (N, H, W, C) float32, whatever the model takes."""
        images = images[..., None] if images.ndim == 3 else images
        if self.image_layout == "channels_first":
            images = images.transpose(0, 2, 3, 1)
        return np.ascontiguousarray(images, np.float32)

    def _traced(self, inputs: Any, class_index: Any) -> dict[str, Any]:
        self.traces += 1
        return self._step(inputs, class_index)

    def _step(self, inputs: Any, class_index: Any) -> dict[str, Any]:
        """What is traced: one run of the model, then the way back from the score to the layer."""
        ops = keras.ops
        accept = Candidates()
        named = self.layer
        kernel = "kernel" in self._needs
        watches = self._has_layer and not kernel
        with self._engine.tapped_run(
            self.model,
            inputs,
            lambda call: watches and (accept(call) if named is None else call.layer is named),
        ) as run:
            output = single_output(run.outputs)
            logits, probabilities = (None, False) if output is None else self._engine.find_logits(output)
            scores, targets, predicted = explained_scores(
                run.outputs, logits, class_index, self.target.rule, self.expects
            )
        self._describe_outputs(output, logits, probabilities)
        self.scores_by_rule = self.target.rule is not None and targets is None
        if "images" in self._needs:
            self.image_layout = _image_layout(run.calls, self.inputs)
        found = {"scores": scores}
        if targets is not None:
            found["targets"] = ops.cast(targets, "int64")
        if predicted is not None:
            found["predicted"] = ops.cast(predicted, "int64")
        if self._units is not None:
            found["outputs"] = ops.cast(ops.reshape(output, (-1, self._units)), "float32")
        if not self._has_layer:
            return found

        head = self._find_head(run, output, targets) if kernel else None
        call = self._find_call(run.calls, scores) if head is None else head.feature_map
        layout = data_format([c.layer for c in run.calls], call.layer)
        if not is_feature_map(call.output_shape, layout):
            raise ValueError(
                "The explained layer must put out a feature map (samples, height, width, channels) larger than 1 x 1. "
                f"Received: layer {call.path!r} with output shape {call.output_shape or 'of several tensors'}. "
                f"These would do: {listing([c.path for c in candidates(run.calls)])}."
            )
        if head is not None:
            activations = run.tensors[head.feature_map_id]
        elif run.watched is not None and run.watched[0] is call:
            activations = run.watched[1]
        else:
            # The last candidate is in another branch, or was called once more: run again for the one that was chosen.
            self.layer = call.layer
            return self._step(inputs, class_index)
        self.layer, self.layer_name, self.layer_layout = call.layer, call.path, layout

        def as_float(tensor: Any) -> Any:
            tensor = ops.cast(tensor, "float32")
            return ops.transpose(tensor, (0, 2, 3, 1)) if layout == "channels_first" else tensor

        found["activations"] = as_float(activations)
        self.layer_shape = (None, *found["activations"].shape[1:])
        if head is not None:
            assert self._units is not None
            found["kernel"] = class_weights(head, targets, found["activations"].shape[-1], self._units)
        if "gradients" in self._needs:
            gradients = run.gradients(scores)
            if gradients is None:
                raise ValueError(
                    "The explained score must depend on the explained layer. "
                    f"Received: layer {call.path!r}, from which no gradient reaches target {self.target.text!r}. "
                    f"These would do: {listing(self._reachable(run.calls, scores))}."
                )
            found["gradients"] = as_float(gradients)
        return found

    def _find_call(self, calls: list[LayerCall], scores: Any) -> LayerCall:
        """Returns the one call of the named layer, or the chosen call."""
        if self.layer is None:
            return choose_layer(self.model, calls, self._engine.used_tensors(scores))
        mine = [call for call in calls if call.layer is self.layer]
        if len(mine) != 1:
            raise ValueError(
                "The explained layer must be called once when the model runs. "
                f"Received: layer {self._path!r}, called {len(mine) or 'no'} times"
                + (". " if mine else ", either because the model doesn't use it or because it is quantized. ")
                + f"These would do: {listing([call.path for call in candidates(calls)])}."
            )
        return mine[0]

    def _find_head(self, run: Any, output: Any, targets: Any) -> Head:
        """Returns the GAP + Dense head, which must be fed by the layer that the user named, if any."""
        if targets is None:
            raise ValueError(
                "CAM explains a class of a model with one output of shape (samples, classes). "
                f"Received: model {self.model.name!r} and target {self.target.text!r}, which is no class. "
                "Grad-CAM (GradCAMLogger) explains any score."
            )
        head = find_head(self.model, run.calls, self._engine.tensor_id(output))
        feeding = [call for call in run.calls if head.feature_map_id in call.output_ids]
        if self.layer is None:
            return head
        for call in feeding:
            if call.layer is self.layer:
                return Head(call, head.feature_map_id, head.dense)
        raise ValueError(
            "CAM explains the layer that feeds the global average pooling. "
            f"Received: layer_name={self._path!r}; here that layer is {head.feature_map.path!r}. "
            "Leave layer_name out, or use Grad-CAM (GradCAMLogger) for other layers."
        )

    def _describe_outputs(self, output: Any, logits: Any, probabilities: bool) -> None:
        """Notes the units and classes of the outputs, and checks that the classes of the target exist."""
        self._units = None
        if output is not None and len(output.shape) <= 2:
            self._units = 1 if len(output.shape) == 1 else output.shape[1]
        self._activated = probabilities or (logits is None and self.expects == "probabilities")
        regression = self._units == 1 and logits is None and self.expects is None
        self.classes = None if self._units is None or regression else max(self._units, 2)
        check_classes(self.target, self.classes)
        self.explained = "the target's score"
        if any(name.endswith("activation_gradient") for name in self._needs):
            self.explained = "the layer's largest activations"
        elif self.target.rule is None:
            self.explained = (
                "scores before the final activation"
                if logits is not None
                else "log-probabilities, for no final softmax or sigmoid was found"
                if self.expects == "probabilities"
                else "the outputs themselves, for no final softmax or sigmoid was found"
            )

    def _reachable(self, calls: list[LayerCall], scores: Any) -> list[str]:
        """Returns the paths of the candidates that the scores depend on."""
        used = self._engine.used_tensors(scores)
        found = candidates(calls)
        return [call.path for call in found if used is None or used.intersection(call.output_ids)]

    def _check_rule(self, targets: Ints) -> None:
        """Checks the classes that a user's rule gave, which are known only once the model has run."""
        wrong = sorted({int(c) for c in targets if not 0 <= c < (self.classes or 0)})
        if wrong:
            raise ValueError(
                "A callable `target` that gives class indices must give them between 0 and "
                f"{(self.classes or 0) - 1}. Received: {wrong} from {self.target.text!r}."
            )


def _image_layout(calls: Sequence[LayerCall], inputs: Any) -> str:
    """Tells whether the model takes its images "channels_last" or "channels_first".

    The first layer that knows says so; but a first axis of 1, 3 or 4 where the last one is no such number can't be the
    height, whatever a layer behind a transposition says.
    """
    images = largest_input(inputs)
    if images.ndim not in (3, 4):
        raise ValueError(
            "Methods that vary the image need images (samples, height, width, channels). "
            f"Received: inputs of shape {images.shape}. Methods of a layer, such as 'gradcam', may do."
        )
    if images.ndim == 3:
        return "channels_last"
    said = next((call.layer.data_format for call in calls if getattr(call.layer, "data_format", None)), None)
    few = (1, 3, 4)
    first = images.shape[1] in few and images.shape[3] not in few
    return "channels_first" if first else said or str(keras.config.image_data_format())


def needs_layer(needs: tuple[str, ...]) -> bool:
    """Tells whether a method that needs this explains a layer, or the image itself."""
    return not _WITHOUT_LAYER.issuperset(needs)


def layer_calls(model: Any, inputs: Any) -> list[LayerCall]:
    """Returns the calls of all layers inside the model at any depth, in the order in which they end.

    Args:
        model: The built model.
        inputs: At least one sample, in any structure that the model takes.
    """
    loaded = engine.load()
    calls: list[LayerCall] = []

    def look(inputs: Any, class_index: Any) -> dict[str, Any]:
        with loaded.tapped_run(model, inputs, lambda call: False) as run:
            calls[:] = run.calls
        return {}

    run = loaded.compile_pass(look, model, inputs, _fixed_batch(model))
    if not calls:
        run(keras.tree.map_structure(lambda a: a[:1], inputs), np.zeros(1, np.int32))
    return calls


def _found_layer(model: Any, layer_name: Any, inputs: Any) -> tuple[str, Any]:
    """Finds a named layer; where there is none, the error lists the layers that would do."""
    try:
        return find_layer(model, layer_name)
    except ValueError as error:
        paths = [call.path for call in candidates(layer_calls(model, inputs))]
        raise ValueError(f"{error} These layers would do: {listing(paths)}.") from None


def _fixed_batch(model: Any) -> int | None:
    """Returns the number of samples that the model takes, where it takes no other."""
    inputs = keras.tree.flatten(getattr(model, "inputs", None) or [])
    return inputs[0].shape[0] if inputs else None
