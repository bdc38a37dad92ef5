"""Films: pictures one after another, as GIF, WebP or MP4. uint8 RGB throughout."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, Protocol, get_args

import numpy as np
import PIL.Image

from ..opencv import cv2
from ..records import Image

__all__ = ["FilmFormat", "Frames", "checked_format", "fitted", "write_film"]

FilmFormat = Literal["gif", "webp", "mp4"]

_LONGEST = 4096  # px: browsers play no larger films, and WebP has few more
_PALETTE_PIXELS = 1 << 17  # how many pixels of all frames choose a GIF's colours; more take much longer, for little
_DITHER = 14  # of 256 levels: about as far as the colours of a palette are apart
_HOLD = 3  # how many frames' time the last one stays
_CODEC = "vp09"  # VP9: what OpenCV's wheels can write and browsers can play; they have no H.264


class Frames(Protocol):
    """The frames of a film, which can be gone through more than once.

    Attributes:
        size: Height and width of each in px.
    """

    size: tuple[int, int]

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Image]: ...


def checked_format(out: Path, film_format: str | None) -> FilmFormat:
    """Returns in which format a film is written.

    Args:
        out: A file, or a folder, which has no suffix.
        film_format: What the user says; None for what the suffix says, and "gif" for a folder.

    Raises:
        ValueError: If it is none, or the suffix says another.
    """
    suffix = out.suffix.lower().removeprefix(".")
    for form in get_args(FilmFormat):
        if (film_format or suffix or "gif") == form and suffix in ("", form):
            chosen: FilmFormat = form
            return chosen
    raise ValueError(
        "A film must be GIF, WebP or MP4, and a file's suffix must say so. "
        f"Received: out={str(out)!r}, film_format={film_format!r}. 'timelapse.gif' works, and so does a folder."
    )


def fitted(frame: Image) -> Image:
    """Returns a frame of sides that all films can have: even, and of at most 4096 px."""
    longest = max(frame.shape[:2])
    if longest > _LONGEST:
        scale = _LONGEST / longest
        frame = np.asarray(cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA))
    below, right = frame.shape[0] % 2, frame.shape[1] % 2
    return np.asarray(cv2.copyMakeBorder(frame, 0, below, 0, right, cv2.BORDER_CONSTANT, value=(255,) * 3))


def write_film(frames: Frames, file: Path, form: FilmFormat, fps: float) -> None:
    """Writes a film, frame by frame. GIF and WebP begin anew for ever, and stay at the last frame for a while.

    A GIF has one palette for all frames, for which they are gone through once before, and a dither that stands still,
    so that what does not change does not flicker.

    Args:
        frames: At least one frame, each of `frames.size`, as `fitted` returns them.
        file: The file, which is replaced where it is there.
        form: "gif", "webp" or "mp4".
        fps: Frames in a second.

    Raises:
        OSError: If nothing can be written.
        RuntimeError: If this OpenCV can write no MP4.
    """
    if form == "mp4":
        _write_mp4(frames, file, fps)
        return
    durations = [round(1000 / fps)] * len(frames)
    durations[-1] *= _HOLD
    if form == "gif":
        palette = _palette(frames)
        pictures: Iterator[PIL.Image.Image] = (
            PIL.Image.fromarray(_dithered(frame)).quantize(palette=palette, dither=PIL.Image.Dither.NONE)
            for frame in frames
        )
        settings = {"optimize": False, "disposal": 1}
    else:
        pictures = (PIL.Image.fromarray(frame) for frame in frames)
        settings = {"quality": 90, "method": 4}
    first = next(pictures)
    first.save(file, format=form.upper(), save_all=True, append_images=pictures, duration=durations, loop=0, **settings)


def _dithered(frame: Image) -> Image:
    """Adds a pattern that stays where it is, so that smooth heat shows no false edges where colours are few."""
    pattern = np.array([[0, 8, 2, 10], [12, 4, 14, 6], [3, 11, 1, 9], [15, 7, 13, 5]]) / 16 - 0.5
    tiled = np.tile(pattern, (frame.shape[0] // 4 + 1, frame.shape[1] // 4 + 1))[: frame.shape[0], : frame.shape[1]]
    changed = np.clip(np.rint(frame + _DITHER * tiled[..., None]), 0, 255).astype(np.uint8)
    return np.where((frame >= 250).all(axis=2, keepdims=True), frame, changed)


def _palette(frames: Frames) -> PIL.Image.Image:
    """Returns a palette image of up to 256 colours for all frames, from every n-th pixel of each."""
    step = max(1, -(-len(frames) * frames.size[0] * frames.size[1] // _PALETTE_PIXELS))
    pixels = np.concatenate([frame.reshape(-1, 3)[::step] for frame in frames])
    chosen = PIL.Image.fromarray(pixels[None]).quantize(256, PIL.Image.Quantize.MEDIANCUT, kmeans=1)
    colours = np.array(chosen.getpalette(), np.uint8).reshape(-1, 3)
    colours[(colours >= 250).all(axis=1)] = 255  # Around the pictures it is white, not nearly so.
    chosen.putpalette(colours.tobytes())
    return chosen


def _write_mp4(frames: Frames, file: Path, fps: float) -> None:
    height, width = frames.size
    writer = cv2.VideoWriter(str(file), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*_CODEC), fps, (width, height))
    try:
        if not writer.isOpened():
            raise RuntimeError(
                f"MP4 needs an OpenCV that can write VP9. Received: version {cv2.__version__}, which can't. "
                "GIF and WebP work."
            )
        for frame in frames:
            writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    finally:
        writer.release()
