"""Signals, volumes and clips of `keras-cam explain`: from files to the batch of a model that takes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .loading import FREE_SIDES, Input, likely_scale, scaled
from .scales import range_of

if TYPE_CHECKING:
    import numpy.typing as npt

    from ..data.sample_files import Samples
    from ..records import ValidationBatch


def spacing_option(ctx: Any, param: Any, value: str | None) -> tuple[float, ...] | None:
    """Checks what stands after `--spacing`: positive numbers with commas between them."""
    from ..data.spacing import checked_spacing

    if value is None:
        return None
    try:
        return checked_spacing([float(one) for one in value.split(",")])
    except ValueError as error:
        raise click.BadParameter(
            f"{value!r} is not one positive number for each axis, such as 5,0.7,0.7 for a volume."
        ) from error


def check_options(given: Input, scale: str | None, white: float | None, size: Any, crop: bool) -> None:
    """Refuses options that are of images, where the model takes none.

    Raises:
        ValueError: If one was given that would do nothing.
    """
    of_pixels = {"--white": white is not None, "--size": size is not None, "--crop": crop}
    if given.kind == "clip":
        del of_pixels["--size"], of_pixels["--crop"]
    elif given.kind == "signal":
        of_pixels["--scale"] = scale is not None
    wrong = [name for name, is_given in of_pixels.items() if is_given]
    if wrong:
        raise ValueError(
            f"Options of images must be left out for a model of {given.kind}s, which are taken as they are in the "
            f"files. Received: {', '.join(wrong)}."
        )


def read_files(
    given: Input, files: Mapping[str, Path], size: tuple[int, int] | None = None, *, crop: bool = False
) -> tuple[dict[str, Samples], dict[str, str]]:
    """Reads all samples in some files.

    Args:
        given: What the model takes, of another kind than images.
        files: By their names, as from `find_images`.
        size: Height and width of the frames of videos, where the model takes any.
        crop: Whether these are cut rather than stretched.

    Returns:
        By the names of files what they hold; and why others can't be read.

    Raises:
        ValueError: If the size is none that the model takes.
    """
    from ..data.sample_files import Taken, read_samples

    shape = (given.shape[-1], *given.shape[:-1]) if given.channels_first else given.shape
    taken = Taken(given.kind, shape, given.channels_first)
    sides = _frame_size(given, size) if given.kind == "clip" else None
    read, bad = {}, {}
    for key, file in files.items():
        try:
            read[key] = read_samples(file, taken, sides, crop=crop)
        except (ValueError, OSError) as error:
            bad[key] = str(error)
    return read, bad


def as_batch(
    model: Any,
    given: Input,
    read: Mapping[str, Samples],
    most: int,
    scale: str | None = None,
    spacing: tuple[float, ...] | None = None,
) -> tuple[ValidationBatch, dict[str, str], str, str]:
    """Makes one batch of what was read.

    Args:
        model: The model.
        given: What it takes.
        read: As from `read_files`, of one file at least.
        most: How many samples there may be.
        scale: The range of pixel values that the model takes, as `--scale` has it: videos are brought to it, and people
            see arrays and scans in it. None to have it guessed.
        spacing: How far positions are apart along each axis; None for what scans say, where all say the same.

    Returns:
        The batch; by sample key the name of its file; the range that was taken, "" for none; and what is to be said.

    Raises:
        ValueError: If there are too many samples, they differ in size, or a setting does not fit.
    """
    from ..data.batches import make_batch

    places = {
        (f"{name}_{i:02d}" if len(samples.arrays) > 1 else name): (name, i)
        for name, samples in read.items()
        for i in range(len(samples.arrays))
    }
    if len(places) > most:
        raise ValueError(
            f"At most {most} {given.kind}s are explained at once. Received: {len(places)}. --max-images {len(places)} "
            "takes them all, and the memory for them."
        )
    arrays = {key: read[name].arrays[i] for key, (name, i) in places.items()}
    videos = [key for key, (name, _) in places.items() if read[name].is_video]
    used, why = scale or "", ""
    if videos:
        if not used:
            used, why = likely_scale(model, [frame for key in videos for frame in arrays[key]])
        arrays |= dict(zip(videos, scaled([arrays[key] for key in videos], used, given), strict=True))
    apart, of_scans = _spacing(read.values(), spacing)
    batch = make_batch(
        _stacked(arrays, given),
        model,
        max_samples=None,
        sample_keys=list(arrays),
        value_range=range_of(used) if used else None,
        spacing=apart,
        warns=False,  # It stands in the words.
    )
    notes = [samples.note for samples in read.values() if samples.note]
    if batch.pixel_range is not None and batch.pixel_range.note:
        notes.append(f"Value range: {batch.pixel_range.note}")
    words = " ".join(filter(None, [_words(batch, given, len(videos), used, why), of_scans, *notes]))
    return batch, {key: name for key, (name, _) in places.items()}, used, words


def _frame_size(given: Input, size: tuple[int, int] | None) -> tuple[int, int]:
    """Returns height and width of the frames of a clip."""
    height, width = given.shape[1] or FREE_SIDES["clip"][1], given.shape[2] or FREE_SIDES["clip"][2]
    if size is None:
        return height, width
    if any(need not in (None, one) for need, one in zip(given.shape[1:3], size, strict=True)):
        raise ValueError(
            f"--size must be what the model takes. Received: {size[0]}x{size[1]} for a model of clips of {given}. "
            f"--size {height}x{width} works, and so does none."
        )
    return size


def _stacked(arrays: Mapping[str, npt.NDArray[Any]], given: Input) -> npt.NDArray[Any]:
    """Returns the samples as one array of the model's type."""
    import numpy as np

    shapes = {key: array.shape for key, array in arrays.items()}
    if len(set(shapes.values())) > 1:
        listed = ", ".join(f"{key}: {' x '.join(map(str, shape))}" for key, shape in list(shapes.items())[:8])
        raise ValueError(
            f"{given.kind.capitalize()}s that are explained at once must be of one size. Received: {listed}. Explain "
            "them one by one, or bring them to one size first."
        )
    stacked = np.stack(list(arrays.values()))
    if given.dtype.startswith(("float", "bfloat")):
        return stacked.astype(np.float32)
    whole = np.iinfo(given.dtype)
    if not np.array_equal(stacked, np.rint(stacked)) or stacked.min() < whole.min or stacked.max() > whole.max:
        raise ValueError(
            f"This model takes whole numbers from {whole.min} to {whole.max} ({given.dtype}). Received: values of "
            f"{stacked.min():g} to {stacked.max():g}."
        )
    return stacked.astype(given.dtype)


def _spacing(read: Iterable[Samples], spacing: tuple[float, ...] | None) -> tuple[tuple[float, ...] | None, str]:
    """Returns how far positions are apart, and what is to be said of it."""
    told = list(dict.fromkeys(samples.spacing for samples in read))
    if spacing is not None or told == [()]:
        return spacing, ""
    if len(told) > 1:
        return None, "The files differ in how far positions are apart: all count as 1; --spacing says it for all."
    return told[0], f"Positions are {' x '.join(f'{one:g}' for one in told[0])} apart, as the files say."


def _words(batch: ValidationBatch, given: Input, videos: int, scale: str, why: str) -> str:
    assert batch.space is not None
    count = len(batch)
    text = f"{count} {given.kind}{'s' * (count != 1)} of {' x '.join(map(str, batch.space.size))} positions"
    if not videos:
        return f"{text}, values as they are in the files."
    of_videos = "" if videos == count else f" of the {videos} from videos"
    return f"{text}, pixel values{of_videos} {scale}" + (f" ({why}; --scale takes others)." if why else ".")
