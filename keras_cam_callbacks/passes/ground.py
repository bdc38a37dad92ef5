"""What maps lie on: the image among a model's inputs, and the part of it that each layer sees."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..data.layout import image_size, input_at, largest_index, model_layout
from ..data.spaces import AXES, input_space
from ..engine.contract import DifferentiatedRun, Run
from ..network.layers import LayerCall, Tap, maps_before
from ..network.repeats import first_ones
from .bands import Sight
from .images import explained_image, other_images
from .placement import Box, measured_box, needs_measuring, unknown_place, whole


class Ground:
    """The image that is explained, looked up in each run that is traced.

    Attributes:
        image_input: Which of the flattened inputs it is.
        image_note: What is to be said of its choice.
        space: What its axes are, with its sizes and its layout as the model takes it; None for an input without places.
        notes: What else is to be said.
        boxes: For each explained layer where its map lies on the image; None where that isn't known.
        unsure: Paths of the explained layers of which the graph doesn't tell that they are pictures of the image.
        earlier: For each of these the sizes of the maps that were computed before it.
        sights: Which part of the image each of the unsure layers sees, once that has been measured.
        mixed: Paths of the explained layers behind which self-attention mixes positions.
        others: Which further inputs are images that all scores depend on, so that methods of the image have a map each.
        unseen: Those of them that the explained layers don't see, and others may, or other calls of the named layers.
    """

    def __init__(self, model: Any, like: Any, image_input: int | None, varied: bool) -> None:
        """Notes what is asked for.

        Args:
            model: The model, which is held weakly.
            like: One sample of its inputs.
            image_input: Which of the flattened inputs is the image; None to have it found: what the layers depend on.
            varied: Whether methods vary the image, which must be one then.
        """
        self._model, self._like, self._wanted, self._varied = weakref.ref(model), like, image_input, varied
        self.image_input = largest_index(like) if image_input is None else image_input
        self.image_note = ""
        self.space = input_space(model, input_at(like, self.image_input))
        self.notes: tuple[str, ...] = ()
        self.boxes: dict[str, Box | None] = {}
        self.unsure: set[str] = set()
        self.earlier: dict[str, list[tuple[int | None, ...]]] = {}
        self.mixed: set[str] = set()
        self.sights: Mapping[str, Sight] = {}
        self.others: tuple[int, ...] = ()
        self.unseen: tuple[int, ...] = ()
        self._unmeasured: set[str] = set()

    def look(
        self, run: DifferentiatedRun, calls: Sequence[LayerCall], named: Sequence[tuple[Any, int | None]] = ()
    ) -> None:
        """Looks up which input the image is, its layout, and of which layers it is to be measured where they look.

        Args:
            run: A run of the model.
            calls: The calls of the explained layers; none for a method that explains the image itself.
            named: The layers that the user named, each with the number of the call that is meant, or None.

        Raises:
            ValueError: As `explained_image`, or as `model_layout`.
        """
        model = self._model()
        self.image_input, self.image_note = explained_image(run, calls, self._like, model, self._wanted)
        self.others, self.unseen = other_images(run, calls, self._like, self.image_input, named)
        self.notes, self._unmeasured, self.unsure, self.earlier = (), set(), set(), {}
        images = input_at(self._like, self.image_input)
        self.space = input_space(model, images)
        if self.space is None and self._varied:
            raise ValueError(
                "Methods that vary the image need images (samples, height, width, channels), signals (samples, time, "
                "channels), or volumes and clips with an axis more. "
                f"Received: inputs of shape {images.shape}. Methods of a layer, such as 'gradcam', may do."
            )
        if self.space is not None and images.ndim == 4:
            layout = model_layout(images, [call.layer for call in run.calls])
            self.space = replace(self.space, sizes=image_size(images, layout), layout=layout)
        self.look_at(run, calls)

    def look_at(self, run: Run, calls: Sequence[LayerCall]) -> None:
        """Looks up of further layers whether their maps are pictures of the image, and on which part of it they lie."""
        for call in calls if self.space is not None else ():
            if not run.keeps_places(call.output_ids[0], self.image_input):
                self.unsure.add(call.path)
                self.earlier[call.path] = maps_before(run.calls, call, self.axes)
            if self.moves(run, call):
                self._unmeasured.add(call.path)

    @property
    def axis_names(self) -> tuple[str, ...]:
        """The axes of the image; of an input without places, whose layers may have a map all the same, a picture's."""
        return AXES["image"] if self.space is None else self.space.axes

    @property
    def axes(self) -> int:
        """How many axes that are."""
        return len(self.axis_names)

    @property
    def layout(self) -> str:
        """Whether the model takes the image "channels_last" or "channels_first"."""
        return "channels_last" if self.space is None else self.space.layout

    @property
    def may_be_tokens(self) -> bool:
        """Whether rows of numbers in the model may be tokens of an image, and are no signal's."""
        return self.space is not None and input_at(self._like, self.image_input).ndim > 3

    def of_image(self, run: Run, calls: Sequence[LayerCall]) -> list[LayerCall]:
        """Returns the calls, of layers that are called several times only those on the image, and the same ones once.

        A siamese model's tower is called once for each of its images, or for each pair of them.
        """
        times = Counter(id(call.layer) for call in calls)
        kept = []
        for call in calls:
            reads = None
            if times[id(call.layer)] > 1 and call.output_ids:
                reads = run.read_inputs(call.output_ids[0])
            if reads is None or self.image_input in reads:
                kept.append(call)
        return first_ones(kept)

    def is_wanted(self, run: Run, call: LayerCall) -> bool:
        """Whether a layer depends on the input that the user has named; any does where none was."""
        reads = None if self._wanted is None else run.read_inputs(call.output_ids[0])
        return reads is None or self._wanted in reads

    def moves(self, run: Run, call: LayerCall) -> bool:
        """Whether what lies before the first convolutions moves the image's pixels, so that no map lies as it does."""
        if self.space is None or self.axes != 2:  # Of others bands alone tell which part a layer sees.
            return False
        return needs_measuring(run, call.output_ids[0], self._model(), self.image_input, self.space.size)

    def look_behind(self, run: DifferentiatedRun, calls: Sequence[LayerCall]) -> None:
        """Looks up behind which of the explained layers self-attention mixes positions."""
        sources = set(self.attended(run))
        self.mixed = set()
        for call in calls if sources else ():
            behind = run.behind(call.output_ids[0]) or set()
            if sources & {*behind, *call.output_ids}:
                self.mixed.add(call.path)

    def attended(self, run: DifferentiatedRun) -> list[Any]:
        """Returns ids of the inputs of the self-attentions that every score reads, those that depend on the image."""
        sources: list[Any] = []
        for t in range(len(run.scores)):
            of_score = [attention.source_id for attention in run.attentions(t)]
            sources = of_score if t == 0 else [source for source in sources if source in of_score]
        reads = {source: run.read_inputs(source) for source in sources}
        return [source for source in dict.fromkeys(sources) if self.image_input in (reads[source] or ())]

    def measure(self, taps: Sequence[Tap]) -> None:
        """Fills `boxes`, once the layers are known; what can't be told is noted."""
        for tap in taps:
            box: Box | None = whole(self.axes)
            if tap.path in self._unmeasured:
                box = measured_box(self._model(), self._like, self.image_input, self.layout, tap)
            seen = self.sights.get(tap.path)
            if seen is not None and (seen.turned or (box is not None and not seen.covers(box, self.axis_names))):
                box = None
            self.boxes[tap.path] = box
            if box is None:
                self.notes += (unknown_place(self._model(), tap),)
