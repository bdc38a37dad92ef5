"""Which layers a capture explains: those that were named, or the one that is chosen, measured to be a picture."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..engine.contract import DifferentiatedRun
from ..network.layers import LayerCall, Tap, listing
from ..network.repeats import repeats
from ..network.tokens import Tokens
from .finding import chosen_call, named_calls, options, without_gradient
from .ground import Ground
from .images import early_layer
from .levels import chosen_levels
from .outputs import ModelOutputs
from .seen import Seen
from .settling import NO_GRADIENT, NO_GRID, settle
from .taps import make_tap, named_layer

# A layer and which of its calls is meant, if that was said; the layer is held weakly.
Held = tuple[Any, int | None]


class ExplainedLayers:
    """The explained layers, found in each run that is traced until one that is a picture of the image is chosen.

    Attributes:
        taps: The layers; empty where no method needs one.
        head: The layer that feeds the global average pooling, where CAM asked for it.
        named: For each layer that the user named its path, a weak reference to it, and which of its calls is meant.
        resigned: Whether one was chosen that is refused otherwise, for no other is left.
    """

    def __init__(
        self,
        model: Any,
        names: Sequence[Any],
        ground: Ground,
        outputs: ModelOutputs,
        like: Any,
        *,
        attends: bool,
        tokens: Tokens | Callable[[Any], Any] | None,
    ) -> None:
        """Looks up the layers that were named.

        Args:
            model: The model, which is held weakly.
            names: Paths, names or layers; none has one chosen.
            ground: Knows the image.
            outputs: Knows what the model's outputs are.
            like: One sample of the model's inputs.
            attends: Whether methods need the tokens of the last self-attention.
            tokens: How tokens lie on the image, where the user says it.

        Raises:
            ValueError: As `named_layer`, or if layers don't differ from each other.
        """
        self._model, self._like, self._ground, self._outputs = weakref.ref(model), like, ground, outputs
        self._attends, self._tokens = attends, tokens
        named = [named_layer(model, name, like, axes=ground.axes) for name in names]
        if len({(id(layer), number) for _, layer, number in named}) < len(named):
            raise ValueError(
                "Fused layers must differ from each other. "
                f"Received: {listing([path for path, *_ in named])}. Name each once."
            )
        self.named = [(path, weakref.ref(layer), number) for path, layer, number in named]
        self.taps: tuple[Tap, ...] = ()
        self.head: Tap | None = None
        self.resigned = False
        self._refused: dict[str, str] = {}
        self._laid: dict[str, Tap] = {}
        self._shapes: dict[str, tuple[int | None, ...]] = {}
        self._picked: list[Held] = []
        self._decided: list[Held] | None = None

    @property
    def is_decided(self) -> bool:
        """Whether the choice is made, so that later traces keep to it."""
        return self._decided is not None

    def decide(self) -> None:
        """Has later traces keep to the layers that are explained now."""
        self._decided = [(weakref.ref(tap.layer), tap.number) for tap in self.taps]

    def wanted(self) -> list[tuple[Any, int | None]]:
        """Returns the layers that a run is to watch, each with the number of its call or None; none for candidates."""
        held = self._decided
        if held is None:
            held = [(layer, number) for _, layer, number in self.named] or self._picked
        return [(layer(), number) for layer, number in held]

    def dead(self) -> list[str]:
        """Returns the paths of layers that were chosen although no gradient reaches them, for none has any."""
        return [tap.path for tap in self.taps if self.resigned and self._refused.get(tap.path) == NO_GRADIENT]

    def options(self, run: DifferentiatedRun) -> list[tuple[LayerCall, Tap]]:
        """Returns the calls of all layers that may be chosen, the best ones first, with their descriptions."""
        calls = options(run, self._ground, self._attends, self._dense_size())
        return [(call, self.tap_of(call, run)) for call in calls]

    def find(self, run: DifferentiatedRun, named: Sequence[tuple[Any, int | None]]) -> list[LayerCall]:
        """Returns the one call of each named layer in call order, or the chosen call, and notes which they are."""
        self._shapes = {call.path: call.output_shape for call in run.calls if call.output_shape is not None}
        calls = self._calls(run, named)
        self.taps = tuple(self.tap_of(call, run) for call in calls)
        return calls

    def find_other(self, run: DifferentiatedRun, call: LayerCall) -> list[LayerCall]:
        """Returns the call of the next layer, after one of tokens at which gradients are stopped."""
        self._refused.update(dict.fromkeys([call.path, *without_gradient(run)], "has no gradient"))
        return self._calls(run, [])

    def tap_of(self, call: LayerCall, run: DifferentiatedRun) -> Tap:
        """Describes a layer's call on the input's space."""
        if call.path in self._laid:  # The model was traced before.
            return self._laid[call.path]
        axes = self._ground.axis_names
        tap = make_tap(call, run.calls, axes=axes, attends=len(axes) == 1 and bool(self._ground.attended(run)))
        return replace(tap, again=tuple(other.number for other in repeats(call, run.calls) if other is not call))

    def look(self, run: DifferentiatedRun, calls: Sequence[LayerCall]) -> None:
        """Looks up where the maps of the explained layers lie, and what is to be said of their choice."""
        ground, outputs = self._ground, self._outputs
        ground.look(run, calls, [(held(), number) for _, held, number in self.named])
        if any(number for *_, number in self.named):  # The user has said which image.
            ground.image_note = ""
        ground.look_at(run, self.head_calls(run))
        ground.look_behind(run, calls)
        # A bottleneck, what the last self-attention works on, a detector's maps, and those of a clip's frames have much
        # behind them, and are chosen for that.
        chosen = outputs.is_dense or outputs.detects or calls[0].steps is not None
        chosen = chosen or self._attends or calls[0].output_ids[0] in ground.attended(run)
        if not self.named and not chosen:
            ground.notes += tuple(filter(None, (early_layer(run, calls[0]),)))

    def head_calls(self, run: Any) -> list[LayerCall]:
        """Returns the call of the layer that feeds the pooling, where CAM asked for it."""
        return [call for call in run.calls if self.head and call.path == self.head.path][-1:]

    def settle(self, look: Callable[[Any, int, Mapping[str, Tap]], Mapping[str, Seen]]) -> tuple[bool, tuple[str, ...]]:
        """Measures the layers where that is needed.

        Args:
            look: Takes copies of the sample, their number, and the layers by names; returns what is seen of each.

        Returns:
            Whether the one that was chosen is no picture of the image; and what is to be said.

        Raises:
            ValueError: As `settling.settle`.
        """
        if self.resigned:
            return False, ()
        taps = {f"activations {i}": tap for i, tap in enumerate(self.taps)}
        taps = taps if self.head is None else {**taps, "head": self.head}
        measured = settle(
            self._model(),
            taps,
            lambda copies, count: look(copies, count, taps),
            self._like,
            self._ground.image_input,
            self._ground.space,
            unsure=self._ground.unsure,
            earlier=self._ground.earlier,
            tokens=self._tokens,
            named=bool(self.named),
        )
        self._laid = {tap.path: tap for tap in measured.taps if tap.tokens is not None}
        self.taps = measured.taps[: len(self.taps)]
        if self.head is not None:
            self.head = measured.taps[-1]
        self._ground.sights = measured.sights
        self._refused.update(measured.refused)
        for path, why in measured.refused.items():
            # Each try is a trace: as many tokens, such as a detector's queries, are the same ones in other layers.
            count = self._shapes[path][1] if len(self._shapes[path]) == 3 else None
            if count is not None and why == NO_GRID:
                alike = (other for other, shape in self._shapes.items() if len(shape) == 3 and shape[1] == count)
                self._refused.update(dict.fromkeys(alike, why))
        return bool(measured.refused), measured.notes

    def look_ahead(self, run: DifferentiatedRun, ahead: Mapping[str, Seen]) -> tuple[str, ...]:
        """Refuses the layers that would be chosen one after the other and are no picture; returns what is to be said.

        Args:
            run: The run in which one was chosen that is no picture.
            ahead: What is seen of the layers that may be chosen, by their paths, so that the model isn't traced for
                each.
        """
        said: tuple[str, ...] = ()
        self._laid, self._picked = {}, []
        while True:
            calls = self._calls(run, [])
            if self.resigned or any(call.path not in ahead for call in calls):
                return said
            self.taps = tuple(self.tap_of(call, run) for call in calls)
            self._ground.look(run, calls)
            refused, notes = self.settle(lambda _, __, taps: {name: ahead[tap.path] for name, tap in taps.items()})
            self._laid = {}  # How tokens lie is measured again, in the trace that is kept.
            if not refused:
                self._picked = [(weakref.ref(call.layer), call.number) for call in calls]
                return said
            said += notes

    def _calls(self, run: DifferentiatedRun, named: Sequence[tuple[Any, int | None]]) -> list[LayerCall]:
        if named:
            return named_calls(run, named, {id(held()): path for path, held, _ in self.named}, self._ground)
        if self._outputs.detects and not self._attends:
            levels = chosen_levels(run, self._refused, run.id_of(self._outputs.scores_of(run)))
            if levels:
                return levels
        call, self.resigned = chosen_call(
            run, self._model(), self._ground, self._refused, self._attends, self._dense_size()
        )
        return [call]

    def _dense_size(self) -> tuple[int, ...] | None:
        """Returns the image's size where pixels of a mask are explained, else None."""
        space = self._ground.space
        return space.size if self._outputs.is_dense and space is not None else None
