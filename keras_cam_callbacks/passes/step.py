"""What is traced of a capture: one run of the model, then the ways back from the scores to the layers."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import keras

from .. import engine
from ..engine.contract import DifferentiatedRun, Run
from ..network.choosing import is_tokens
from ..network.detection import Detection
from ..network.head import class_weights
from ..network.layers import Candidates, LayerCall, listing
from ..network.objectives import Contrast, Segment, Similarity
from ..network.targets import Target
from .attention import NEEDS as OF_ATTENTION
from .attention import captured_attention
from .explained import ExplainedLayers
from .finding import head_call, reachable
from .ground import Ground
from .outputs import ModelOutputs
from .taps import as_activations


class Step:
    """The function that is traced.

    Attributes:
        calls: How often it was called; of what is compiled, how often it was traced.
        run: The last run in which layers were found; what it holds is of that trace.
        explained: What the explained score is, in words.
        scores_by_rule: For each target, whether a callable gives the scores themselves, and no classes.
    """

    def __init__(
        self,
        model: Any,
        ground: Ground,
        outputs: ModelOutputs,
        layers: ExplainedLayers,
        targets: Sequence[Target],
        needs: set[str],
        watches: bool,
    ) -> None:
        """Notes what is captured.

        Args:
            model: The model, which is held weakly.
            ground: Knows the image.
            outputs: Knows what the model's outputs are.
            layers: The explained layers, which are found here.
            targets: What is explained.
            needs: What methods need of the layers and of the model.
            watches: Whether layers are explained.
        """
        self._model, self._engine = weakref.ref(model), engine.load()
        self._ground, self._outputs, self._layers = ground, outputs, layers
        self._targets, self._needs, self._watches = targets, needs, watches
        self.calls = 0
        self.run: Any = None
        self.explained = ""
        self.scores_by_rule: tuple[bool, ...] = ()

    def __call__(self, inputs: Any, asked: Any) -> dict[str, Any]:
        """Returns tensors by name: scores, what they are of, and activations, gradients and what else methods need."""
        self.calls += 1
        return self._traced(inputs, asked, self._layers.wanted())

    def _traced(self, inputs: Any, asked: Any, named: list[tuple[Any, int | None]]) -> dict[str, Any]:
        """What is traced: one run of the model, then the ways back from the scores to the layers."""
        accept = Candidates(self._ground.axes)

        def wanted(call: LayerCall) -> bool:
            if not self._watches or not named:
                return self._watches and accept(call)
            return any(call.makes(layer, number or call.number) for layer, number in named)

        def behind(run: Run) -> tuple[list[Any], tuple[list[Any], dict[str, Any]]]:
            return self._scored(run, asked)

        run = self._engine.differentiated_run(self._model(), inputs, wanted, behind, last_only=len(named) < 2)
        targets, results = run.results
        if "kernel" in self._needs:
            results |= self._captured_head(run, targets)
        if not self._watches:
            if not self._layers.is_decided:
                self._ground.look(run, self._layers.head_calls(run))
            return dict(results)

        if self._needs.intersection(OF_ATTENTION):
            results |= captured_attention(run, self._needs, self._model(), self._ground.image_input)
        calls = [call for call, _ in run.watched]
        if not self._layers.is_decided:
            calls = self._layers.find(run, named)
            if [call for call, _ in run.watched] != calls:
                # The last candidate is in another branch, or was called once more: run again for the chosen one.
                return self._traced(inputs, asked, [(call.layer, call.number) for call in calls])
            self.run = run
            self._layers.look(run, calls)
        for i, tap in enumerate(self._layers.taps):
            results[f"activations {i}"] = as_activations(run.watched[i][1], tap, calls[i].steps)
        for t in range(len(run.scores)):
            wants = "gradients" in self._needs
            # Where no gradient is needed, the way to the score is followed in the graph.
            used = None if wants else run.used(t)
            every = run.gradients(t) if wants else [None] * len(calls)
            for i, (call, gradients) in enumerate(zip(calls, every, strict=True)):
                if gradients is not None:
                    results[f"gradients {t} {i}"] = as_activations(gradients, self._layers.taps[i], call.steps)
                elif wants or (used is not None and used.isdisjoint(call.output_ids)):
                    if not self._layers.is_decided and not self._layers.named and is_tokens(call):
                        # The way to the score is there, but gradients are stopped on it.
                        others = self._layers.find_other(run, call)
                        return self._traced(inputs, asked, [(other.layer, other.number) for other in others])
                    raise ValueError(
                        "The explained score must depend on the explained layer. Received: layer "
                        f"{call.path!r}, from which no gradient reaches target {self._targets[t].text!r}. "
                        f"These would do: {listing(reachable(run, t, self._ground.axes))}."
                    )
        return dict(results)

    def _scored(self, run: Run, asked: Any) -> tuple[list[Any], tuple[list[Any], dict[str, Any]]]:
        """Returns each target's scores; its classes, and what is captured of scores and outputs by name."""
        ops = keras.ops
        logits, _ = run.find_logits()
        scores, targets = [], []
        results: dict[str, Any] = {}
        self._describe_outputs(run, logits)
        class_index, beside = asked if isinstance(asked, tuple) else (asked, {})
        for t, target in enumerate(self._targets):
            score, classes, predicted, held = self._outputs.score(run, t, class_index[:, t], beside.get(str(t)))
            scores.append(score)
            targets.append(classes)
            results[f"scores {t}"] = score
            if classes is not None:
                results[f"targets {t}"] = ops.cast(classes, "int32")
            if held is not None:
                results[f"beside {t}"] = held
            if predicted is not None and (target.rule is None or classes is None):
                results[f"predicted {t}"] = ops.cast(predicted, "int32")
            row = self._outputs.row_of(run, t)
            if row is not None:
                results[f"outputs {t}"] = row
        self.scores_by_rule = tuple(
            target.rule is not None and classes is None for target, classes in zip(self._targets, targets, strict=True)
        )
        return scores, (targets, results)

    def _captured_head(self, run: DifferentiatedRun, targets: Sequence[Any]) -> dict[str, Any]:
        """Returns what CAM needs: what feeds the pooling, and for each target the dense layer's weights."""
        model: Any = self._model()
        for t, (target, classes) in enumerate(zip(self._targets, targets, strict=True)):
            others = Contrast, Segment, Similarity, Detection
            beyond = isinstance(self._outputs.objectives[t], others) or self._outputs.is_part(t)
            if beyond or (classes is None and (target.rule is not None or self._outputs.units != 1)):
                raise ValueError(
                    "CAM explains a class of a model with one output of shape (samples, classes). "
                    f"Received: model {model.name!r} and target {target.text!r}, which is no class. "
                    "Grad-CAM (GradCAMLogger) explains any score."
                )
        head = head_call(run, model, self._layers.named)
        tap = self._layers.tap_of(head.feature_map, run)
        activations = as_activations(run.tensors[head.feature_map_id], tap, head.feature_map.steps)
        _, *sizes, channels = activations.shape
        space = tap.space if tap.tokens is not None else replace(tap.space, sizes=tuple(sizes))
        self._layers.head = replace(tap, space=space, channels=channels)
        assert self._outputs.units is not None
        results = {"head": activations}
        for t, classes in enumerate(targets):
            if classes is None:  # The only number: its own weights, not negated.
                classes = keras.ops.cast(keras.ops.ones_like(run.scores[t]), "int32")
            results[f"kernel {t}"] = class_weights(head, classes, channels, self._outputs.units)
        return results

    def _describe_outputs(self, run: Run, logits: Any) -> None:
        """Notes what the outputs are and what is explained of them, in words."""
        self._outputs.describe(run, self._model(), self._ground.image_input)
        self.explained = "the target's score"
        if self._needs and all(name.endswith("activation_gradient") for name in self._needs - {"images", "confidence"}):
            self.explained = "the layer's largest activations"
        elif all(target.rule is None for target in self._targets):
            self.explained = (
                "scores before the final activation"
                if logits is not None
                else "log-probabilities, for no final softmax or sigmoid was found"
                if self._outputs.output.expects == "probabilities"
                else "the outputs themselves, for no final softmax or sigmoid was found"
            )
