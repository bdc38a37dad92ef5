"""Which pixel values a saved model takes, and from those in files to these.

Without a word of the user's a model that scales its input itself gets what `keras.utils.load_img` reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

SCALES = {
    "0-255": "[0, 255]",
    "0-1": "[0, 1]",
    "-1-1": "[-1, 1]",
    "mean-subtracted": "mean-subtracted",
    "mean-std": "mean/std",
}
"""The names of the ranges that pixel values can be brought to, and what `display` calls them."""


def scale_option(ctx: Any, param: Any, value: str | None) -> str | None:
    """Checks what stands after `--scale`: one of `SCALES`, or two numbers, which come back as "0,4095"."""
    from ..data.range_names import checked_range

    if value is None:
        return None
    try:
        name = checked_range(value)
    except ValueError:
        name = None
    if name is None or name == "min-max":
        raise click.BadParameter(
            f"{value!r} is not one of {', '.join(map(repr, SCALES))}, nor two rising numbers such as 0,4095."
        )
    return scale_text(name)


def scales_itself(model: Any) -> bool:
    """Tells whether the model's graph has what scales the values of files."""
    from ..network.preprocessing import expected_range

    expected = expected_range(model)
    return expected is not None and expected.sure


def whites(images: Sequence[Any], scale: str, as_read: bool, white: float | None) -> list[float | None]:
    """Returns which value of each image is white; None for an image that is handed on as it was read.

    Args:
        images: uint8, or uint16 from files of more than 8 bits.
        scale: As for `scaled`.
        as_read: Whether the model takes what `keras.utils.load_img` reads, as far as is known.
        white: What the user says is white in the files, or None.
    """
    import numpy as np

    from ..data.range_names import limits

    if white is not None:
        return [float(white)] * len(images)
    ends = limits(range_of(scale))
    assert ends is not None
    deep_range = np.size(ends[0]) == 1 and float(ends[1]) - float(ends[0]) > 256
    tops: list[float | None] = []
    for image in images:
        deep = image.dtype == np.uint16
        # load_img cuts deep values off at 255 where it makes colours of them.
        keeps = image.shape[-1] == 1 or deep_range or not deep
        is_as_read = (as_read and keeps and float(np.max(ends[1])) >= 255) or (deep and deep_range)
        tops.append(None if is_as_read else 65535.0 if deep else 255.0)
    return tops


def deep_words(images: Sequence[Any], tops: Sequence[float | None], scale: str, white: float | None) -> str:
    """Says what is made of values of more than 8 bits, or of 8 bits where the model takes more; "" for neither."""
    import numpy as np

    deep = [(int(image.max()), top) for image, top in zip(images, tops, strict=True) if image.dtype == np.uint16]
    if white is not None:
        return ""
    if deep:
        most = max(value for value, _ in deep)
        if any(top is None for _, top in deep):
            return f" 16-bit values, here up to {most}, stay as they are; --white N makes N the white of {scale}."
        return f" 16-bit values, here up to {most}, are taken for 0 to 65535; --white 4095 is for scans of 12 bits."
    if any(top is None for top in tops) and scale != "0-255":
        return " 8-bit values stay 0 to 255, as Keras reads them; --white 255 brings them to the model's range."
    return ""


def scale_text(name: str) -> str:
    """Returns how the name of a range is written on the command line: "0-255", "0,4095"."""
    short = {known: text for text, known in SCALES.items()}
    return short.get(name) or name.strip("[]").replace(" ", "")


def range_of(scale: str) -> str:
    """Returns the name of the range that a scale stands for."""
    return SCALES.get(scale) or "[" + scale.replace(",", ", ") + "]"
