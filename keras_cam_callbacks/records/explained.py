"""What is explained: the batch, its images and regions, the space of its maps, and what a model made of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Image = npt.NDArray[np.uint8]
Place = tuple[int, int, int, int]
"""A rectangle in a picture, in px: left, top, right, bottom; the last two are behind its last column and row."""
Label = int | tuple[int, ...]
"""A sample's true class; or, where a sample may have any number of them, all of its classes."""

ABSENT = -1
"""The explained label of a sample that has fewer labels."""

_WIDTH = 60  # characters, of one value in a representation
_SHOWN = 3  # of a container's items


def short_repr(record: Any) -> str:
    """Returns a text for a dataclass with arrays, in place of all their numbers.

    Args:
        record: An instance of a dataclass, whose `__repr__` this may be.

    Returns:
        The name of the class and the fields that are neither empty nor functions: arrays by dtype and shape, all else
        in at most 60 characters each.
    """
    values = {field.name: getattr(record, field.name) for field in fields(record)}
    texts = {name: brief(value) for name, value in values.items() if not callable(value)}
    shown = [f"{name}={text}" for name, text in texts.items() if text not in ("None", "()", "[]", "{}", "''")]
    return f"{type(record).__name__}({', '.join(shown)})"


def brief(value: Any) -> str:
    """Returns a text of at most 60 characters that stands for a value, as `short_repr` has it."""
    if hasattr(value, "dtype") and len(value.shape):
        return f"{getattr(value.dtype, 'name', value.dtype)} {tuple(value.shape)}"
    if not isinstance(value, (Mapping, list, tuple)):
        text = repr(value)
        return text if len(text) <= _WIDTH else f"{text[: _WIDTH - 3]}..."
    if isinstance(value, Mapping):
        texts, ends = [f"{name!r}: {brief(value[name])}" for name in islice(value, _SHOWN)], "{}"
    else:
        texts, ends = [brief(item) for item in value[:_SHOWN]], "()" if isinstance(value, tuple) else "[]"
    left_out = [f"{len(value) - _SHOWN} more"] * (len(value) > _SHOWN)
    text = f"{ends[0]}{', '.join([*texts, *left_out])}{ends[1]}"
    return text if len(text) <= _WIDTH else f"{len(value)} items"


@dataclass(frozen=True)
class Space:
    """What the axes between samples and channels are: time, a plane, a volume or a clip.

    Arrays behind a tap are (N, *space, C), whatever the layer puts out; `layout` says what that was.

    Attributes:
        axes: Names of the axes in the array's order: ("height", "width") of an image.
        sizes: Positions along each of them; None where that is not fixed.
        layout: "channels_last" or "channels_first", as the layer puts its channels.
        tokens: Where they were made of a row of tokens, in words how these lie: grid, order and which are special.
        spacing: How far positions along each axis are apart, in any one unit; empty for 1 along all.
    """

    axes: tuple[str, ...]
    sizes: tuple[int | None, ...]
    layout: str = "channels_last"
    tokens: str = ""
    spacing: tuple[float, ...] = ()

    @property
    def size(self) -> tuple[int, ...]:
        """The sizes, where all are fixed, as those of an input are."""
        assert None not in self.sizes
        return tuple(side for side in self.sizes if side is not None)

    @property
    def image_size(self) -> tuple[int, int] | None:
        """H and W of an image; None of another space."""
        return (self.size[0], self.size[1]) if len(self.axes) == 2 else None


@dataclass(frozen=True, eq=False)
class Region:
    """Where the object is in one image, signal, volume or clip.

    Attributes:
        boxes: (B, 4) float64 in [0, 1]: left, top, right, bottom, as shares of the image's width and height. Of a
            signal (B, 2): first, last; of a volume or clip (B, 6): left, top, first, right, bottom, last.
        mask: (H, W) bool, True on the object, at the image's size, or (*space) of other inputs; None where only boxes
            are known. The object is where the mask is True or any box is.
    """

    boxes: npt.NDArray[np.float64]
    mask: npt.NDArray[np.bool_] | None = None

    __repr__ = short_repr


@dataclass(frozen=True, eq=False)
class ValueRange:
    """Which values of images are black and white.

    Attributes:
        name: "[0, 1]", "[0, 255]", "[-1, 1]" or other numbers like these; "mean-subtracted" or "mean/std"; "min-max"
            where nothing is recognised, and black and white are nearly the least and largest values of the batch.
        black: One number, or one for each channel, as the model takes them.
        white: Likewise.
        certain: Whether it is known, from the user, the type of the values, the model, or plainly from the values.
        note: What is to be said of it, "" for nothing.
        warns: Whether the note tells of what may be wrong, and not only of what was assumed.
    """

    name: str
    black: float | tuple[float, ...]
    white: float | tuple[float, ...]
    certain: bool
    note: str = ""
    warns: bool = False


@dataclass(frozen=True, eq=False)
class Look:
    """What people see of a batch.

    Attributes:
        fingerprints: N hexadecimal digests of the samples' pixels, as they are displayed without a `display` of the
            user's: so a photograph has the same one under any preprocessing that is recognised.
        display: N images for people, uint8 RGB (H, W, 3); they may differ in size. Of volumes and clips (d, H, W, 3),
            uint8 too; of signals (T, C) float32, the values as the model takes them.
        value_range: How the display images were made: the name of the value range of the model's input, as in
            `ValueRange`, or "given".
        display_name: What the display images are called where others stand beside them.
        beside: By name, in order, what people see beside the display images in a panel: N images each, as in `display`.
    """

    fingerprints: tuple[str, ...]
    display: tuple[Image, ...]
    value_range: str
    display_name: str = "image"
    beside: Mapping[str, tuple[Image, ...]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class ValidationBatch:
    """A batch that is explained, such as the fixed one of a callback.

    Attributes:
        inputs: What the model is called on: an array with N rows, or a dict, list or tuple of such
            arrays. float64 has become Keras' float type, other dtypes are as they were given.
        labels: (N,) int64 class indices, or None where the data holds no class labels.
        sample_keys: N names, the same in every epoch and in every run on the same data.
        make_look: Makes what people see, which costs as much as a small model; it is called when that is first wanted.
        regions: Where the object is in each of the N images, None where that is not known; empty where it is known of
            none.
        space: What the axes of the explained input are, an image's, a signal's, a volume's or a clip's, and how long
            they are, as the model takes it; None where it has no places.
        label_sets: For each sample all labels that it has, where the data holds several labels at once; else None.
        label_clues: What the labels of the whole data tell of each output, see `network.outputs.Clues`.
        class_regions: For each sample where the objects of each class are, by its index or its name; None where that
            was not said by class; empty where it was said of none.
        rows: (N,) which samples of the data these are, counted from 0; empty where that is not known.
        make_range: Makes the value range of the images; None where the inputs are no images.
        image_input: Which of the inputs, flattened, the images are.
        notes: What is to be said, once, of how it was read.
        read_pixel_labels: Reads the true classes of pixels, (N, H, W) int64, or None where the data has none.
        input_name: What the input that the images are is called, where others are explained beside it; else "".
        others: By the names of further inputs that are explained, the same samples with that input as their images.
    """

    inputs: Any
    labels: Ints | None
    sample_keys: tuple[str, ...]
    make_look: Callable[[], Look]
    regions: tuple[Region | None, ...] = ()
    space: Space | None = None
    label_sets: tuple[tuple[int, ...], ...] | None = None
    label_clues: tuple[Any, ...] = ()
    class_regions: tuple[Mapping[int | str, Region] | None, ...] = ()
    rows: tuple[int, ...] = ()
    make_range: Callable[[], ValueRange] | None = None
    image_input: int = 0
    notes: tuple[str, ...] = ()
    read_pixel_labels: Callable[[], Ints | None] | None = None
    input_name: str = ""
    others: Mapping[str, ValidationBatch] = field(default_factory=dict)

    @property
    def image_size(self) -> tuple[int, int] | None:
        """H and W of the images; None where they are none."""
        return None if self.space is None else self.space.image_size

    @cached_property
    def pixel_labels(self) -> Ints | None:
        """The true classes of pixels, (N, H, W) int64, or None."""
        return None if self.read_pixel_labels is None else self.read_pixel_labels()

    @cached_property
    def pixel_range(self) -> ValueRange | None:
        """Which values of its images are black and white; None where it holds none."""
        return None if self.make_range is None else self.make_range()

    @cached_property
    def look(self) -> Look:
        """What people see of it."""
        return self.make_look()

    def shown_as(self, look: Look) -> ValidationBatch:
        """Returns the same batch, of which people see something else."""
        return replace(self, make_look=lambda: look)

    @property
    def fingerprints(self) -> tuple[str, ...]:
        """As in `Look`."""
        return self.look.fingerprints

    @property
    def display(self) -> tuple[Image, ...]:
        """As in `Look`."""
        return self.look.display

    @property
    def value_range(self) -> str:
        """As in `Look`."""
        return self.look.value_range

    @property
    def display_name(self) -> str:
        """As in `Look`."""
        return self.look.display_name

    @property
    def beside(self) -> Mapping[str, tuple[Image, ...]]:
        """As in `Look`."""
        return self.look.beside

    __repr__ = short_repr

    def __len__(self) -> int:
        return len(self.sample_keys)


@dataclass(frozen=True, eq=False)
class Capture:
    """What one chunk of samples looked like to the model, as numpy arrays.

    Attributes:
        activations: (N, h, w, C) float32, the tapped layer's output, channels last; None where no layer was tapped.
        gradients: (N, h, w, C) float32, d score / d activations; None where none were asked for.
        kernel: (N, C) float32, the weights of each sample's explained class in a GAP + Dense head; None likewise.
        outputs: The model's outputs: (N, K) float32, or None where the model has several outputs.
        scores: (N,) float32, the explained score, before the final activation.
        targets: (N,) int64, the explained class; None where a callable gave the score itself.
        predicted: (N,) int64, the predicted class; None where the outputs name no class.
        confidences: (N,) float32 in [0, 1], the probability of the explained class; NaN where there is none.
        images: (N, H, W, C) float32, the images as the model takes them but channels last; None where not asked for.
        attentions: (N, blocks, T, T) float32, self-attention averaged over heads, rows summing to 1; None likewise.
        relevances: (N, blocks, T, T) float32, the mean over heads of max(0, d score / d attention * attention).
        readout: (N, T) float32, which tokens behind the last block the score is read from, summing to 1.
        positions: (h, w) int64, the index of each cell's token.
        beside: (N, ...) what says beside the class what is explained, see `network.targets.Target.beside`, or None.
        absent: (N,) bool, True where there is nothing of a sample to explain; None where that was known before.
    """

    activations: Floats | None
    gradients: Floats | None
    kernel: Floats | None
    outputs: Floats | None
    scores: Floats
    targets: Ints | None
    predicted: Ints | None
    confidences: Floats
    images: Floats | None = None
    attentions: Floats | None = None
    relevances: Floats | None = None
    readout: Floats | None = None
    positions: Ints | None = None
    beside: npt.NDArray[Any] | None = None
    absent: npt.NDArray[np.bool_] | None = None

    __repr__ = short_repr


@dataclass(frozen=True, eq=False)
class Chunk:
    """What one run of the model has captured of some samples.

    Attributes:
        captures: For each target, and in it for each of `Capturer.taps`, what was captured; without taps, one capture
            that has no activations.
        heads: For each target what CAM needs; empty where it was not asked for.
        samples: How many samples there are.
    """

    captures: tuple[tuple[Capture, ...], ...]
    heads: tuple[Capture, ...]
    samples: int

    __repr__ = short_repr
