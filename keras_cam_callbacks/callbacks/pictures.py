"""The record of pictures that explain no class."""

from __future__ import annotations

from collections.abc import Sequence

from ..drawing.files import ImageFormat, encode
from ..drawing.text import with_captions
from ..records import EpochRecord, Image, Sample

_FONT = 15  # px, of captions


def picture_sample(
    key: str, digest: str, label: int | None, dead: bool, caption: str, score: float = float("nan")
) -> Sample:
    """A picture that explains no class."""
    return Sample(
        key=key,
        fingerprint=digest,
        label=label,
        predicted=None,
        target=None,
        score=score,
        confidence=None,
        degenerate=dead,
        caption=caption,
    )


def pictures_record(
    drawn: Sequence[Image],
    samples: Sequence[Sample],
    epoch: int,
    step: int,
    scalars: dict[str, float],
    image_format: ImageFormat,
) -> EpochRecord:
    """Puts pictures, which get their samples' captions, into the record that trackers get."""
    pictures = with_captions(drawn, [sample.caption for sample in samples], [_FONT] * len(drawn))
    return EpochRecord(
        epoch=epoch,
        step=step,
        heatmaps=None,
        overlays=pictures,
        encoded=tuple(encode(picture, image_format) for picture in pictures),
        image_format=image_format,
        scalars=scalars,
        samples=tuple(samples),
    )
