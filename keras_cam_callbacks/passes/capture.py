"""Runs the model on a batch: scores, and activations and gradients at layers, in chunks, as numpy arrays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import keras
import numpy as np

from .. import engine
from ..data.batches import largest_input
from ..network.head import Head, class_weights, find_head
from ..network.layers import (
    Candidates,
    LayerCall,
    Tap,
    candidates,
    choose_layer,
    data_format,
    find_layer,
    input_tensors,
    is_feature_map,
    listing,
)
from ..network.targets import Target, check_classes, confidences, explained_scores, loss_expects, single_output
from ..records import Capture, Chunk, Floats, Ints

# What a method can need that has nothing to do with a layer.
_WITHOUT_LAYER = {"images", "scores", "score", "confidence", "gradient", "guided_gradient", "full_gradient"}

KEPT_BYTES = 128 * 2**20
"""Most memory for what the frozen part of a model puts out."""


def needs_layer(needs: Iterable[str]) -> bool:
    """Tells whether a method that needs these explains a layer."""
    return not _WITHOUT_LAYER.issuperset(needs)


class Capturer:
    """Captures layers of one model for one batch and one or several targets, as often as it is asked.

    The model is traced once, when the object is made, and wrong settings are found there; afterwards each pass costs
    one forward pass of the batch, and for each target the way back from the score to the layers.

    Attributes:
        model: The model.
        inputs: The batch.
        targets: What is explained.
        taps: The explained layers; empty where no method needs one.
        head: The layer that feeds the global average pooling, where CAM asked for it.
        image_layout: "channels_last" or "channels_first", as the model takes its images.
        classes: How many classes the outputs tell apart; None where they tell none.
        explained: What the explained score is, in words.
        activated: Whether the outputs are known to come out of a softmax or sigmoid.
        scores_by_rule: For each target, whether a callable gives the scores themselves, and no classes.
        chunk: Number of samples that run at once.
        fixed: The number of samples where the model takes no other, else None.
        traces: How often the model was traced.
    """

    def __init__(
        self,
        model: Any,
        inputs: Any,
        layer_names: Sequence[Any] = (),
        *,
        targets: Sequence[Target],
        needs: Iterable[tuple[str, ...]] = (("activations", "gradients"),),
        batch_size: int = 32,
        keeps: bool = False,
    ) -> None:
        """Finds or chooses the layers and traces the model.

        Args:
            model: The built model.
            inputs: The batch, N rows in any structure that the model takes.
            layer_names: Paths, names or layers; none has one chosen.
            targets: What is explained.
            needs: For each method what it needs: "activations", "gradients" or "kernel" of the layer, "images", and
                names of functions of the model (see `probe`), by which it is known whether there is a layer at all.
            batch_size: Largest number of samples that run at once.
            keeps: Whether what the frozen part of the model puts out is kept for the next passes, if it takes no more
                than `KEPT_BYTES`.

        Raises:
            ValueError: If a layer, a target or the model does not fit. The message tells what would.
        """
        self.model, self.inputs, self.targets = model, inputs, tuple(targets)
        needs = list(needs)
        self._needs = {name for names in needs for name in names}
        self._engine = engine.load()
        self._watches = any(needs_layer(names) and "kernel" not in names for names in needs)
        if layer_names and not self._watches and "kernel" not in self._needs:
            raise ValueError(
                "This method explains the image itself and knows no layer. "
                f"Received: layer_name={getattr(layer_names[0], 'name', layer_names[0])!r}. Leave it out."
            )
        self._named = [found_layer(model, name, inputs) for name in layer_names]
        if len({id(layer) for _, layer in self._named}) < len(self._named):
            raise ValueError(
                "Fused layers must differ from each other. "
                f"Received: {listing([path for path, _ in self._named])}. Name each once."
            )
        self._samples = len(self.targets[0].class_index)
        self._class_index = np.stack([target.class_index for target in self.targets], axis=1).astype(np.int32)
        self.fixed = fixed_batch(model)
        self.chunk = self.fixed or batch_size
        self.expects = loss_expects(model)
        self.activated = False
        self._units: int | None = None
        self.traces = 0
        self.taps: tuple[Tap, ...] = ()
        self.head: Tap | None = None
        self.image_layout = "channels_last"
        self.classes: int | None = None
        self.explained = ""
        self.scores_by_rule: tuple[bool, ...] = ()
        starts = range(0, self._samples, self.chunk)
        self._pass = self._engine.compile_frozen_pass(
            self._traced,
            model,
            (inputs, self._class_index[:1]),
            self.fixed,
            sizes=[self.fixed or min(self.chunk, self._samples - start) for start in starts],
            most=KEPT_BYTES if keeps else 0,
        )
        self._fed = inputs
        if self._samples <= self.chunk and not self.fixed:
            # What fits into one pass is made a tensor once; for more, that would take its memory a second time.
            self._fed = keras.tree.map_structure(keras.ops.convert_to_tensor, inputs)
        if not self.traces:  # An eager model shows its faults only when it runs.
            self._run_chunk(0, 1)

    def __call__(self) -> Iterator[Chunk]:
        """Yields what is captured now, with the weights that the model has now, chunk by chunk."""
        self._pass.renew()
        for start in range(0, self._samples, self.chunk):
            yield self._run_chunk(start, min(start + self.chunk, self._samples))

    @property
    def reuses(self) -> int:
        """How many chunks were captured without running the frozen part of the model."""
        return int(self._pass.reuses)

    @property
    def bytes_kept(self) -> int:
        """How many bytes of what that part puts out are kept."""
        return int(self._pass.bytes_kept)

    def _run_chunk(self, start: int, stop: int) -> Chunk:
        # A slice copies no images; a model of a fixed batch has its last chunk filled up.
        rows: Any = np.resize(np.arange(start, stop), self.chunk) if self.fixed else slice(start, stop)
        given = self._fed, self._class_index
        if self.fixed or stop - start < self._samples:
            given = keras.tree.map_structure(lambda a: a[rows], given)
        found = self._pass(start, *given)
        found = {name: value[: stop - start] for name, value in found.items()}
        images = self.as_images(largest_input(self.inputs)[start:stop]) if "images" in self._needs else None
        captures, heads = [], []
        for t, target in enumerate(self.targets):
            scores, targets, outputs = found[f"scores {t}"], found.get(f"targets {t}"), found.get("outputs")
            if target.rule is not None and targets is not None:
                self._check_rule(target, targets)
            of_target = Capture(
                activations=None,
                gradients=None,
                kernel=None,
                outputs=outputs,
                scores=scores,
                targets=targets,
                # A rule that names classes names the predicted ones.
                predicted=found.get("predicted") if target.rule is None or targets is None else targets,
                confidences=confidences(outputs, scores, targets, self.activated),
                images=images,
            )
            captures.append(
                tuple(
                    replace(of_target, activations=found[f"activations {i}"], gradients=found.get(f"gradients {t} {i}"))
                    for i in range(len(self.taps))
                )
                or (of_target,)
            )
            if self.head is not None:
                heads.append(replace(of_target, activations=found["head"], kernel=found[f"kernel {t}"]))
        return Chunk(tuple(captures), tuple(heads), stop - start)

    def as_images(self, images: Any) -> Floats:
        """Returns images as (N, H, W, C) float32, whatever the model takes."""
        images = images[..., None] if images.ndim == 3 else images
        if self.image_layout == "channels_first":
            images = images.transpose(0, 2, 3, 1)
        return np.ascontiguousarray(images, np.float32)

    def _traced(self, inputs: Any, class_index: Any) -> dict[str, Any]:
        self.traces += 1
        return self._step(inputs, class_index, [layer for _, layer in self._named])

    def _step(self, inputs: Any, class_index: Any, named: list[Any]) -> dict[str, Any]:
        """What is traced: one run of the model, then the ways back from the scores to the layers."""
        ops = keras.ops
        accept = Candidates()

        def wanted(call: LayerCall) -> bool:
            return self._watches and (any(call.layer is layer for layer in named) if named else accept(call))

        found: dict[str, Any] = {}
        scores, targets = [], []
        with self._engine.tapped_run(self.model, inputs, wanted, last_only=len(named) < 2) as run:
            output = single_output(run.outputs)
            logits, probabilities = (None, False) if output is None else self._engine.find_logits(output)
            for t, target in enumerate(self.targets):
                score, classes, predicted = explained_scores(
                    run.outputs, logits, class_index[:, t], target.rule, self.expects, max(1, target.rank)
                )
                scores.append(score)
                targets.append(classes)
                found[f"scores {t}"] = score
                if classes is not None:
                    found[f"targets {t}"] = ops.cast(classes, "int64")
                if predicted is not None and (target.rule is None or classes is None):
                    found["predicted"] = ops.cast(predicted, "int64")
        self._describe_outputs(output, logits, probabilities)
        self.scores_by_rule = tuple(
            target.rule is not None and classes is None for target, classes in zip(self.targets, targets, strict=True)
        )
        if "images" in self._needs:
            self.image_layout = image_layout(run.calls, self.inputs)
        if self._units is not None:
            found["outputs"] = ops.cast(ops.reshape(output, (-1, self._units)), "float32")
        if "kernel" in self._needs:
            found |= self._captured_head(run, output, targets)
        if not self._watches:
            return found

        calls = self._find_calls(run.calls, scores, named)
        self.taps = tuple(self._tap(call, run.calls) for call in calls)
        if [call for call, _ in run.watched] != calls:
            # The last candidate is in another branch, or was called once more: run again for the one that was chosen.
            return self._step(inputs, class_index, [call.layer for call in calls])
        for i, tap in enumerate(self.taps):
            found[f"activations {i}"] = as_float(run.watched[i][1], tap)
        for t, score in enumerate(scores):
            wants = "gradients" in self._needs
            # Where no gradient is needed, the way to the score is followed in the graph.
            used = None if wants else self._engine.used_tensors(score)
            every = run.gradients(score) if wants else [None] * len(calls)
            for i, (call, gradients) in enumerate(zip(calls, every, strict=True)):
                if gradients is not None:
                    found[f"gradients {t} {i}"] = as_float(gradients, self.taps[i])
                elif wants or (used is not None and used.isdisjoint(call.output_ids)):
                    raise ValueError(
                        "The explained score must depend on the explained layer. Received: layer "
                        f"{call.path!r}, from which no gradient reaches target {self.targets[t].text!r}. "
                        f"These would do: {listing(self._reachable(run.calls, score))}."
                    )
        return found

    def _captured_head(self, run: Any, output: Any, targets: Sequence[Any]) -> dict[str, Any]:
        """Returns what CAM needs: what feeds the pooling, and for each target the dense layer's weights."""
        head = self._find_head(run, output, targets)
        self.head = self._tap(head.feature_map, run.calls)
        activations = as_float(run.tensors[head.feature_map_id], self.head)
        self.head = replace(self.head, shape=(None, *activations.shape[1:]))
        assert self._units is not None
        found = {"head": activations}
        for t, classes in enumerate(targets):
            found[f"kernel {t}"] = class_weights(head, classes, activations.shape[-1], self._units)
        return found

    def _tap(self, call: LayerCall, calls: Sequence[LayerCall]) -> Tap:
        """Describes a layer, after a check that it puts out a feature map."""
        layout = data_format([c.layer for c in calls], call.layer)
        if not is_feature_map(call.output_shape, layout):
            raise ValueError(
                "The explained layer must put out a feature map (samples, height, width, channels) larger than 1 x 1. "
                f"Received: layer {call.path!r} with output shape {call.output_shape or 'of several tensors'}. "
                f"These would do: {listing([c.path for c in candidates(calls)])}."
            )
        assert call.output_shape is not None
        n, a, b, c = call.output_shape
        return Tap(call.path, call.layer, (n, b, c, a) if layout == "channels_first" else (n, a, b, c), layout)

    def _find_calls(self, calls: list[LayerCall], scores: Sequence[Any], named: Sequence[Any]) -> list[LayerCall]:
        """Returns the one call of each named layer in call order, or the chosen call."""
        if not named:
            used = [self._engine.used_tensors(score) for score in scores]
            common = None if used[0] is None else set.intersection(*used)
            return [choose_layer(self.model, calls, common)]
        for layer in named:
            mine = [call for call in calls if call.layer is layer]
            if len(mine) != 1:
                path = next((path for path, known in self._named if known is layer), layer.name)
                raise ValueError(
                    "The explained layer must be called once when the model runs. "
                    f"Received: layer {path!r}, called {len(mine) or 'no'} times"
                    + (". " if mine else ", either because the model doesn't use it or because it is quantized. ")
                    + f"These would do: {listing([call.path for call in candidates(calls)])}."
                )
        return [call for call in calls if any(call.layer is layer for layer in named)]

    def _find_head(self, run: Any, output: Any, targets: Sequence[Any]) -> Head:
        """Returns the GAP + Dense head, which must be fed by the layer that the user named, if any."""
        for target, classes in zip(self.targets, targets, strict=True):
            if classes is None:
                raise ValueError(
                    "CAM explains a class of a model with one output of shape (samples, classes). "
                    f"Received: model {self.model.name!r} and target {target.text!r}, which is no class. "
                    "Grad-CAM (GradCAMLogger) explains any score."
                )
        head = find_head(self.model, run.calls, self._engine.tensor_id(output))
        if not self._named:
            return head
        for call in run.calls:
            if [layer for _, layer in self._named] == [call.layer] and head.feature_map_id in call.output_ids:
                return Head(call, head.feature_map_id, head.dense)
        names = [path for path, _ in self._named]
        raise ValueError(
            "CAM explains the layer that feeds the global average pooling. "
            f"Received: layer_name={names if len(names) > 1 else names[0]!r}; "
            f"here that layer is {head.feature_map.path!r}. "
            "Leave layer_name out, or use Grad-CAM (GradCAMLogger) for other layers."
        )

    def _describe_outputs(self, output: Any, logits: Any, probabilities: bool) -> None:
        """Notes the units and classes of the outputs, and checks that the classes of the targets exist."""
        self._units = None
        if output is not None and len(output.shape) <= 2:
            self._units = 1 if len(output.shape) == 1 else output.shape[1]
        self.activated = probabilities or (logits is None and self.expects == "probabilities")
        regression = self._units == 1 and logits is None and self.expects is None
        self.classes = None if self._units is None or regression else max(self._units, 2)
        for target in self.targets:
            check_classes(target, self.classes)
        self.explained = "the target's score"
        if self._needs and all(name.endswith("activation_gradient") for name in self._needs - {"images", "confidence"}):
            self.explained = "the layer's largest activations"
        elif all(target.rule is None for target in self.targets):
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

    def _check_rule(self, target: Target, targets: Ints) -> None:
        """Checks the classes that a user's rule gave, which are known only once the model has run."""
        wrong = sorted({int(c) for c in targets if not 0 <= c < (self.classes or 0)})
        if wrong:
            raise ValueError(
                "A callable `target` that gives class indices must give them between 0 and "
                f"{(self.classes or 0) - 1}. Received: {wrong} from {target.text!r}."
            )


def as_float(tensor: Any, tap: Tap) -> Any:
    """Returns activations or their gradients as float32, channels last."""
    tensor = keras.ops.cast(tensor, "float32")
    return keras.ops.transpose(tensor, (0, 2, 3, 1)) if tap.layout == "channels_first" else tensor


def image_layout(calls: Sequence[LayerCall], inputs: Any) -> str:
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


def layer_calls(model: Any, inputs: Any) -> list[LayerCall]:
    """Returns the calls of all layers inside the model at any depth, in the order in which they end.

    Args:
        model: The built model.
        inputs: At least one sample, in any structure that the model takes.
    """
    loaded = engine.load()
    calls: list[LayerCall] = []

    def look(inputs: Any) -> dict[str, Any]:
        with loaded.tapped_run(model, inputs, lambda call: False) as run:
            calls[:] = run.calls
        return {}

    run = loaded.compile_pass(look, model, (inputs,), fixed_batch(model))
    if not calls:
        run(keras.tree.map_structure(lambda a: a[:1], inputs))
    return calls


def found_layer(model: Any, layer_name: Any, inputs: Any) -> tuple[str, Any]:
    """Finds a named layer; where there is none, the error lists the layers that would do."""
    try:
        return find_layer(model, layer_name)
    except ValueError as error:
        paths = [call.path for call in candidates(layer_calls(model, inputs))]
        raise ValueError(f"{error} These layers would do: {listing(paths)}.") from None


def fixed_batch(model: Any) -> int | None:
    """Returns the number of samples that the model takes, where it takes no other."""
    inputs = input_tensors(model)
    return inputs[0].shape[0] if inputs else None
