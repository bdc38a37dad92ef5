"""A stored run as a film: the overlays of each sample over the epochs, as GIF, WebP or MP4."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from .checks import did_you_mean, is_real
from .drawing.films import FilmFormat, checked_format, fitted, write_film
from .drawing.grids import grid
from .drawing.text import bar_height, clean, text_width, wrap, write
from .opencv import cv2
from .records import Image
from .store import Run, StoredEpoch, file_stem, read_run
from .store.whole import whole_file, whole_folder

__all__ = ["FilmFormat", "write_timelapse"]

_FONT = 14, 28  # px, smallest and largest
_WHITE, _TRACK, _DONE = (255, 255, 255), (225, 225, 225), (31, 119, 180)


def write_timelapse(
    run: Run | str | Path,
    out: str | Path,
    *,
    samples: Sequence[str] | None = None,
    film_format: FilmFormat | None = None,
    fps: float = 2.0,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Path, ...]:
    """Writes the overlays of a stored run as films, one frame for each logged epoch.

    Above each overlay stand the epoch and how far the run has come; where the overlays have no captions of their own,
    the prediction stands there too. GIF and WebP begin anew for ever, and stay at the last epoch for a while. All
    frames of a GIF have one palette, chosen from all epochs, and a dither that stands still, so that what does not
    change does not flicker. Frames are read, drawn and written one by one.

    Args:
        run: The run, or its folder.
        out: A file "all.gif", for one film with the samples side by side; or a new or empty folder, for one film of
            each sample, under its name. They are written whole, or not at all.
        samples: Which sample keys; by default all.
        film_format: "gif", "webp" or "mp4"; by default what the file's suffix says, or "gif" for a folder.
        fps: Frames in a second, 0.1 to 30.
        overwrite: Whether a file may replace another; a folder never does.
        progress: Takes how many frames are done, and of how many.

    Returns:
        The files.

    Raises:
        ValueError: If a setting is impossible, the run has no epoch or no such sample, a picture is damaged, or
            something is in the way.
        OSError: If a picture is gone, or nothing can be written.
        RuntimeError: If this OpenCV can write no MP4.
    """
    run = run if isinstance(run, Run) else read_run(run)
    out = Path(out)
    form = checked_format(out, film_format)
    if not is_real(fps, 0.1, 30):
        raise ValueError(f"`fps` must be a number from 0.1 to 30. Received: {fps!r}. fps=2 works.")
    if not run.epochs:
        raise ValueError(f"A film needs at least one logged epoch. Received: {run.directory}, which has none.")
    keys = _checked_keys(run, samples)
    single = bool(out.suffix)
    groups = [keys] if single else [[key] for key in keys]
    # A GIF is gone through twice, the first time for its colours.
    total = len(groups) * len(run.epochs) * (2 if form == "gif" else 1)
    done = 0

    def count() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    if single:
        with whole_file(out, overwrite=overwrite) as file:
            write_film(_Frames(run, keys, count), file, form, fps)
        return (out,)
    names = [f"{file_stem(str(run.manifest['files'][key]))}.{form}" for key in keys]
    with whole_folder(out) as folder:
        for name, group in zip(names, groups, strict=True):
            write_film(_Frames(run, group, count), folder / name, form, fps)
    return tuple(out / name for name in names)


def _checked_keys(run: Run, samples: Sequence[str] | None) -> list[str]:
    if samples is None:
        return list(run.sample_keys)
    for key in samples:
        if key not in run.sample_keys:
            proposed = did_you_mean(key, run.sample_keys) or f" There are {', '.join(map(repr, run.sample_keys[:12]))}."
            raise ValueError(f"`samples` must be keys of the run's samples. Received: {key!r}.{proposed}")
    if not samples:
        raise ValueError("`samples` must name at least one sample. Received: none. None takes all.")
    return list(dict.fromkeys(samples))


class _Frames:
    """The frames of one film, drawn anew whenever they are iterated over, all of one size.

    Args:
        run: The run.
        keys: The samples that stand side by side.
        count: Called for each frame.
    """

    def __init__(self, run: Run, keys: Sequence[str], count: Callable[[], None]) -> None:
        self._run, self._count = run, count
        self._rows = [run.sample_keys.index(key) for key in keys]
        self._keys = list(keys)
        overlay = run.manifest.get("overlay")
        self._captioned = isinstance(overlay, dict) and bool(overlay.get("caption", True))
        # Captions of more lines make higher pictures in some epochs.
        every = [epoch.pictures.sizes() for epoch in run.epochs]
        sizes = [[of_epoch[row] for row in self._rows] for of_epoch in every]
        self._cells = [(max(s[0] for s in column), max(s[1] for s in column)) for column in zip(*sizes, strict=True)]
        self._images: list[Image] | None = None
        if any(epoch.pictures.recipe for epoch in run.epochs):  # Read once, not for each frame.
            self._images = list(run.display(self._rows))
        self.size = self._drawn(0).shape[:2]

    def __len__(self) -> int:
        return len(self._run.epochs)

    def __iter__(self) -> Iterator[Image]:
        for place in range(len(self)):
            yield self._drawn(place)
            self._count()

    def _drawn(self, place: int) -> Image:
        epoch = self._run.epochs[place]
        cells = []
        pictures = epoch.pictures.read(self._rows, self._images)
        places = zip(self._rows, self._keys, self._cells, pictures, strict=True)
        for row, key, (height, width), picture in places:
            below, right = height - picture.shape[0], width - picture.shape[1]
            shown = np.asarray(cv2.copyMakeBorder(picture, 0, below, 0, right, cv2.BORDER_CONSTANT, value=_WHITE))
            text = "" if self._captioned else epoch.captions[row]
            cells.append(np.vstack([self._bar(epoch, place, (height, width), key, text), shown]))
        frame = cells[0] if len(cells) == 1 else grid(cells)
        return fitted(frame)

    def _bar(self, epoch: StoredEpoch, place: int, size: tuple[int, int], key: str, caption: str) -> Image:
        """Draws what stands above an overlay: the epoch, the sample's name, how far the run has come, a caption."""
        width = size[1]
        font = min(max(_FONT[0], min(size) // 16), _FONT[1])
        room = width - font
        left = f"epoch {epoch.epoch}" + (f" (step {epoch.step})" if epoch.step != epoch.epoch else "")
        left = wrap(clean(left), room, font, 1)[0]
        rest = room - text_width(left, font) - font
        right = wrap(clean(key), rest, font, 1) if rest > 3 * font else []
        bar = np.full((bar_height(1, font) + font // 2, width, 3), 255, np.uint8)
        write(bar, [left], [font // 2], 0, font)
        for text in right:
            write(bar, [text], [width - font // 2 - text_width(text, font)], 0, font)
        track = bar[-font // 3 - 2 : -2]
        track[:] = _TRACK
        track[:, : max(1, round(width * (place + 1) / len(self)))] = _DONE
        if not caption:
            return bar
        lines = wrap(clean(caption), room, font, 2)
        below = np.full((bar_height(2, font), width, 3), 255, np.uint8)
        write(below, lines, [font // 2] * len(lines), 0, font)
        return np.vstack([bar, below])
