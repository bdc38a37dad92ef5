"""What maps lie on: the image among a model's inputs, and the part of it that each layer sees."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

from ..data.layout import image_size, input_at, largest_index, model_layout
from ..engine.contract import Run
from ..network.layers import LayerCall, Tap
from .images import explained_image
from .placement import WHOLE, Box, measured_box, needs_measuring, unknown_place


class Ground:
    """The image that is explained, looked up in each run that is traced.

    Attributes:
        image_input: Which of the flattened inputs it is.
        image_note: What is to be said of its choice.
        layout: "channels_last" or "channels_first", as the model takes it.
        notes: What else is to be said.
        boxes: For each explained layer where its map lies on the image; None where that isn't known.
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
        self.image_note, self.layout = "", "channels_last"
        self.notes: tuple[str, ...] = ()
        self.boxes: dict[str, Box | None] = {}
        self._unmeasured: set[str] = set()

    def look(self, run: Run, calls: Sequence[LayerCall]) -> None:
        """Looks up which input the image is, its layout, and of which layers it is to be measured where they look.

        Args:
            run: A run of the model.
            calls: The calls of the explained layers; none for a method that explains the image itself.

        Raises:
            ValueError: As `explained_image`, or as `model_layout`.
        """
        model = self._model()
        self.image_input, self.image_note = explained_image(run, calls, self._like, model, self._wanted)
        self.notes, self._unmeasured = (), set()
        images = input_at(self._like, self.image_input)
        if self._varied or images.ndim == 4:
            self.layout = model_layout(images, [call.layer for call in run.calls])
        for call in calls if images.ndim in (3, 4) else ():
            if needs_measuring(run, call, model, self.image_input, image_size(images, self.layout)):
                self._unmeasured.add(call.path)

    def measure(self, taps: Sequence[Tap]) -> None:
        """Fills `boxes`, once the layers are known; what can't be told is noted."""
        for tap in taps:
            self.boxes[tap.path] = WHOLE
            if tap.path in self._unmeasured:
                self.boxes[tap.path] = measured_box(self._model(), self._like, self.image_input, self.layout, tap)
                if self.boxes[tap.path] is None:
                    self.notes += (unknown_place(self._model(), tap),)
