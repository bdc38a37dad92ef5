"""From whatever people validate on to one fixed batch: arrays, datasets, generators, with labels or without."""

from __future__ import annotations

import hashlib
import sys
import warnings
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from ..checks import check_positive
from ..network.layers import input_tensors
from ..network.preprocessing import expected_range
from ..network.targets import LabelSets
from ..records import Image, Look, Space, ValidationBatch, ValueRange
from .arrays import on_host, taken
from .chosen import Choose
from .feeding import model_inputs, preprocessed, preprocesses
from .labels import class_labels, label_clues, label_sets, labels_of_rows
from .layout import (
    image_inputs,
    input_at,
    input_tensor,
    largest_index,
    largest_input,
    placed_inputs,
    resolve_inputs,
)
from .masks import pixel_labels
from .other_images import with_others
from .range_names import checked_range
from .ranges import display_images
from .recognition import BatchRange
from .regions import aligned_rows, resolve_class_regions, resolve_regions, whom
from .sources import count_samples, is_endless, random_state_kept, read
from .spaces import displayed_space, input_space, pixels_of, shows_slices
from .spacing import spaced


def make_batch(
    data: Any,
    model: Any = None,
    *,
    max_samples: int | None = 16,
    select: str = "first",
    display: Any = None,
    sample_keys: Sequence[str] | None = None,
    regions: Any = None,
    value_range: Any = None,
    spacing: Any = None,
    warns: bool = True,
    image_input: int | str | Sequence[int | str] | None = None,
    choose_input: Callable[[Any], tuple[Sequence[int], str]] | None = None,
    choose: Choose | None = None,
) -> ValidationBatch:
    """Reads as many samples as are needed, once.

    Args:
        data: `(x, y)`, `(x, y, sample_weight)`, or `x` alone, as arrays; a `tf.data.Dataset`, batched or not, finite or
            not; a `keras.utils.PyDataset`; or any iterable of batches. `x` is an array (N, H, W, C) of any number type,
            or a dict or list of arrays for a model with several inputs. `y`: class indices, one-hot or multi-hot
            rows; labels of other kinds are passed over. Of arrays in files, such as those of h5py and zarr, only the
            rows of x are read that are taken.
        model: The model that will be explained, whose input shape the images must have.
        max_samples: How many samples to take; None for all.
        select: "first" takes the first ones; "balanced" takes classes, or labels, in turn, the first samples of each.
        display: What people see where it differs from the model's input: one image for each sample, or a function
            of the samples' images that returns them. uint8, or floats of a recognisable range. Or several of these by
            name, as {"original": photos, "model input": None}, where None stands for the model's input: overlays are
            drawn on the last one, and the others stand beside it in a panel.
        sample_keys: Names for the explained samples, or for all samples of the data; by default "sample_00",
            "sample_01", ....
        regions: Where the objects are, for each explained sample or for each sample of the data: see `Regions`.
        value_range: Which values of the model's input are black and white: two numbers, or one of the names in
            `ValueRange`; None to have it recognised.
        spacing: How far positions along each axis are apart, in the array's order; None for 1 along all.
        warns: Whether what is to be said of the value range is told by a warning when people first see the images.
        image_input: Which of several inputs is the image, by name or index; or several in a list.
        choose_input: Asked for it where several may be and none is named: takes the inputs, and returns which of them,
            flattened, and what is to be said of that. By default the largest.
        choose: Reads the data and returns the chosen samples, in place of `select`.

    Returns:
        The batch. Of several images it is that of the first, which `display` and `regions` concern, with one for each
        of the others in it. `value_range` concerns those of the first one's type and number of channels.

    Raises:
        ValueError: If there are no samples, or images, labels, display or keys do not fit.
        TypeError: If `data` is of no kind that is known, or a name in `display` is no text.
    """
    if max_samples is not None:
        check_positive("max_samples", max_samples)
    most = sys.maxsize if max_samples is None else int(max_samples)
    if max_samples is None and is_endless(data):
        raise ValueError("An endless dataset needs `max_samples`. Received: max_samples=None.")
    if select not in ("first", "balanced"):
        raise ValueError(f"`select` must be 'first' or 'balanced'. Received: {select!r}.")
    _check_display_names(display)
    chosen = checked_range(value_range)
    with random_state_kept():
        if choose is None:
            x, y, origins, total = read(data, model, most, balanced=select == "balanced")
        else:
            x, y, origins, total = choose(data, model, most)
    count = count_samples(x, y)
    labels, several = class_labels(y), label_sets(y)
    rows = np.arange(min(count, most) if choose is None else count)
    if select == "balanced":
        by_row = labels_of_rows(y)
        if by_row is None:
            raise ValueError(
                "select='balanced' needs class labels: integers, one-hot rows, or multi-hot rows of several labels. "
                f"Received: validation data {_labels_text(y)}. select='first' takes any."
            )
        rows = _balanced(by_row, most)

    # What a user gives for each sample counts the samples of the data, of which a stream has kept but some.
    sources, known = (rows, count) if origins is None else (origins[rows], total)
    inputs = model_inputs(model, keras.tree.map_structure(lambda a: taken(a, rows), x))
    labels, clues = None if labels is None else labels[rows], label_clues(y)
    of_pixels = partial(pixel_labels, y, rows)
    several = None if several is None else tuple(several[int(row)] for row in rows)
    if preprocesses(model):
        of_rows = None if y is None else keras.tree.map_structure(lambda a: taken(a, rows), y)
        inputs, y = preprocessed(model, inputs, of_rows)
        labels, several, clues = class_labels(y), label_sets(y), label_clues(y)
        of_pixels = partial(pixel_labels, y, np.arange(len(rows)))
    check_inputs(inputs, model)
    note = ""
    if image_input is not None:
        places: Sequence[int] = resolve_inputs(image_input, inputs, model)
    elif choose_input is not None and len(placed_inputs(inputs)) > 1:
        places, note = choose_input(inputs)
    else:
        places = [largest_index(inputs)]
    images = input_at(inputs, places[0])
    keys = tuple(f"sample_{i:02d}" for i in range(len(rows))) if sample_keys is None else tuple(map(str, sample_keys))
    named = aligned_rows(len(keys), sources, known)
    if named is None or len(set(keys)) != len(keys):
        raise ValueError(
            f"`sample_keys` must hold one name for each of {whom(sources, known)}, all different. "
            f"Received: {len(keys)} names, {len(set(keys))} different ones."
        )
    keys = tuple(keys[i] for i in named)
    space = spaced(input_space(model, images), spacing)
    if regions is not None and space is None:
        raise ValueError(
            "`regions` need images (samples, height, width, channels), signals, volumes or clips. "
            f"Received: inputs of shape {images.shape} of type {images.dtype}. Leave them out."
        )
    pixels = None if space is None else pixels_of(images, space)
    if chosen is not None and pixels is None:
        raise ValueError(
            "`value_range` needs images (samples, height, width, channels). "
            f"Received: inputs of shape {images.shape} of type {images.dtype}. Leave it out."
        )
    image = input_tensor(inputs, places[0], model) if len(image_inputs(inputs)) > 1 else None
    make_range = None if pixels is None else BatchRange(pixels, expected_range(model, image), chosen)
    batch = ValidationBatch(
        inputs=inputs,
        labels=labels,
        label_sets=several,
        label_clues=clues,
        sample_keys=keys,
        make_look=partial(_look, images, space, make_range, display, sources, known, warns),
        regions=() if regions is None or space is None else resolve_regions(regions, sources, known, space.size),
        class_regions=()
        if regions is None or space is None
        else resolve_class_regions(regions, sources, known, space.size),
        space=space,
        rows=tuple(map(int, sources)),
        make_range=make_range,
        image_input=places[0],
        notes=(note,) if note else (),
        read_pixel_labels=of_pixels if space is None else partial(of_pixels, axes=len(space.axes)),
    )
    if chosen is not None:
        batch.pixel_range  # noqa: B018 - what doesn't fit is told at once
    if display is not None or space is None:
        batch.look  # noqa: B018 - what doesn't fit is told at once
    return batch if len(places) == 1 else with_others(batch, places, model, chosen, partial(_look, warns=warns))


def fingerprint(image: npt.NDArray[Any]) -> str:
    """Returns 16 hexadecimal digits that tell an image's shape and pixels apart from others'."""
    return hashlib.sha256(repr(image.shape).encode() + np.ascontiguousarray(image).tobytes()).hexdigest()[:16]


def _balanced(labels: LabelSets, most: int) -> npt.NDArray[np.intp]:
    """Returns the rows of a selection that takes labels in turn, in the order of the data.

    The next sample is the first one of the label of which there are fewest so far; those without any come last.
    """
    waiting: dict[int, deque[int]] = {}
    for row, of_row in enumerate(labels):
        for label in of_row:
            waiting.setdefault(label, deque()).append(row)
    counts = dict.fromkeys(sorted(waiting), 0)
    chosen: set[int] = set()
    while counts and len(chosen) < most:
        label = min(counts, key=counts.__getitem__)
        while waiting[label] and waiting[label][0] in chosen:
            waiting[label].popleft()
        if not waiting[label]:
            del counts[label]
            continue
        row = waiting[label].popleft()
        chosen.add(row)
        for other in counts.keys() & set(labels[row]):
            counts[other] += 1
    bare = [row for row, of_row in enumerate(labels) if not of_row]
    return np.array(sorted([*chosen, *bare[: most - len(chosen)]]), np.intp)


def _labels_text(y: Any) -> str:
    """Returns in words what labels were given that name no classes."""
    if y is None:
        return "without labels"
    shapes = keras.tree.map_structure(lambda a: (*np.shape(a), str(np.asarray(a).dtype)), y)
    return f"with labels that are no classes, of shape and type {shapes}"


def check_inputs(inputs: Any, model: Any) -> None:
    """Checks that the inputs are finite and have the shapes that the model takes."""
    for array in keras.tree.flatten(inputs):
        if array.dtype.kind == "f":
            bad = np.flatnonzero(~np.isfinite(array).reshape(len(array), -1).all(axis=1))
            if len(bad):
                raise ValueError(
                    "Images must hold finite numbers only. "
                    f"Received: NaN or infinite pixels in samples {bad[:10].tolist()} of {len(array)}."
                )
    images = largest_input(inputs)
    expected = input_tensors(model)
    if not expected and images.ndim not in (3, 4, 5):
        raise ValueError(
            "Images must have the shape (samples, height, width, channels), signals (samples, time, channels), volumes "
            f"and clips an axis more than images. Received: shape {images.shape}."
        )
    given = keras.tree.flatten(inputs)
    if expected and len(given) != len(expected):
        raise ValueError(
            f"The validation data must hold one array for each of the {len(expected)} inputs of model {model.name!r}. "
            f"Received: {len(given)} arrays."
        )
    if len(expected) == 1:
        shape, need = images.shape[1:], tuple(expected[0].shape[1:])
        if len(shape) != len(need) or any(n is not None and n != s for s, n in zip(shape, need, strict=True)):
            raise ValueError(
                f"Images must have the shape {need} that model {model.name!r} takes. Received: {tuple(shape)}."
            )


def _look(
    images: npt.NDArray[Any],
    space: Space | None,
    make_range: Callable[[], ValueRange] | None,
    display: Any = None,
    rows: Any = (),
    count: int | None = None,
    warns: bool = True,
) -> Look:
    """Makes what people see of the images (N, ...), of which the user's `display` may say more."""
    if display is None and images.ndim == 2:
        raise ValueError(
            "Rows of numbers have no places to explain. "
            f"Received: inputs of shape {images.shape} of type {images.dtype}. Where a layer of the model makes "
            "signals (samples, time, channels) of them, as by Reshape or Embedding, the part behind it is explained by "
            "explain(keras.Model(layer.output, model.output), keras.Model(model.inputs, layer.output).predict(rows)). "
            "Where layers make images of them, give `display=`: what people see."
        )
    pixel_range = None if make_range is None else make_range()
    seen = display_images(images, pixel_range) if display is None and space is None else None
    if space is not None:
        seen = displayed_space(images, space, pixel_range)
    columns = _display_columns(display, seen, images, space, rows, count)
    if warns and pixel_range is not None and pixel_range.note and any(column is seen for column in columns.values()):
        warnings.warn(f"Value range: {pixel_range.note}", stacklevel=2)
    display_name, (shown, value_range) = columns.popitem()
    # Of the pixels as people see them, so that a photograph is the same under any preprocessing of known range.
    pixels = tuple(images) if seen is None else seen[0]
    return Look(
        fingerprints=tuple(fingerprint(image) for image in pixels),
        display=shown,
        value_range=value_range,
        display_name=display_name,
        beside={name: pictures for name, (pictures, _) in columns.items()},
    )


def _check_display_names(display: Any) -> None:
    """Checks that what is given by name has names."""
    if not isinstance(display, Mapping):
        return
    if not all(isinstance(name, str) and name.strip() for name in display):
        raise TypeError(
            f"The names in `display` must be text. Received: {list(display)}. Use names such as 'original'."
        )
    if not display:
        raise ValueError(
            "`display` must hold at least one name. Received: {}. "
            "None shows the model's input, as does {'model input': None}."
        )


def _display_columns(
    display: Any,
    seen: tuple[tuple[Image, ...], str] | None,
    images: npt.NDArray[Any],
    space: Space | None,
    rows: npt.NDArray[np.intp],
    count: int | None,
) -> dict[str, tuple[tuple[Image, ...], str]]:
    """Returns what people see, by name: images, and how they were made. `seen`: the model's input, if it is images."""
    if display is None and seen is not None:
        return {"image": seen}
    if not isinstance(display, Mapping):
        return {"image": (_aligned_display("display", display, images, space, rows, count), "given")}
    columns = {}
    for name, given in display.items():
        label = f"display[{name!r}]"
        if given is not None:
            columns[name] = _aligned_display(label, given, images, space, rows, count), "given"
        elif seen is not None:
            columns[name] = seen
        else:
            raise ValueError(
                f"`{label}` can be None only where the model's input is images. Received: input of shape "
                f"{images.shape} of type {images.dtype}. Images, or a function of the input that returns some, work."
            )
    return columns


def _aligned_display(
    label: str,
    display: Any,
    images: npt.NDArray[Any],
    space: Space | None,
    rows: npt.NDArray[np.intp],
    count: int | None,
) -> tuple[Image, ...]:
    """Returns the user's display images of the selected samples: pictures, or of a volume or a clip all its slices."""
    given: Any = display(images) if callable(display) else display
    chosen = aligned_rows(len(given), rows, count) if hasattr(given, "__len__") else None
    if chosen is None:
        raise ValueError(
            f"`{label}` must give one image for each of {whom(rows, count)}. "
            f"Received: {len(given) if hasattr(given, '__len__') else type(given).__name__}."
        )
    pictures = [on_host(given[int(i)]) for i in chosen]
    if space is None or not all(shows_slices(picture, space) for picture in pictures):
        return display_images(pictures, _range_for_people(pictures))[0]
    slices = [one for picture in pictures for one in picture]
    shown, depth = display_images(slices, _range_for_people(slices))[0], space.size[0]
    return tuple(np.stack(shown[start : start + depth]) for start in range(0, len(shown), depth))


def _range_for_people(pictures: Sequence[npt.NDArray[Any]]) -> str | None:
    """Returns the range of pictures of a user's that are shown as they are, dark ones too; None for all others."""
    if any(picture.dtype.kind not in "iuf" or not picture.size for picture in pictures):
        return None
    least, most = min(float(p.min()) for p in pictures), max(float(p.max()) for p in pictures)
    if least >= 0 and most <= 1 and all(picture.dtype.kind == "f" for picture in pictures):
        return "[0, 1]"
    whole = all(bool((picture == np.rint(picture)).all()) for picture in pictures)
    return "[0, 255]" if least >= 0 and most <= 255 and whole else None
