"""The pictures of an epoch: drawn anew from images, heatmaps and captions, or kept where that can't be done.

`drawing` is loaded where a picture is drawn, encoded or decoded, and not before.
"""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_cam_callbacks.records import DrawnFrom, EpochRecord, Floats, Image, Space, short_repr

from .manifest import check_file, space_of

if TYPE_CHECKING:
    from keras_cam_callbacks.drawing.overlay import Overlay

__all__ = ["Pictures", "Recipe", "packed", "read_recipe", "recipe", "sheet"]

_SIDE = 160  # px of an image in a sheet of many: a caption has room under it
_WIDTH = 640  # px of a sheet's images side by side, where they are few enough to be larger
_LONGEST = 2048, 8192  # px of a sheet: of pictures that are shrunk, and of others
_QUALITY = 80  # of a sheet's JPEG
_MOST_PIXELS = 2**27  # of a picture: no honest record has more


@dataclass(frozen=True, eq=False)
class Recipe:
    """What an epoch's pictures are drawn from besides images and heatmaps.

    Attributes:
        captions: N texts.
        titles: N titles by the names of the views; empty for one view without a name.
        title: What the display images are called.
        overlay: The settings of `Overlay`; those that this version doesn't know are passed over.
        sizes: N heights and widths of the pictures.
        space: What the axes of the samples are; None for images.
    """

    captions: tuple[str, ...]
    titles: Mapping[str, tuple[str, ...]]
    title: str
    overlay: Mapping[str, Any]
    sizes: tuple[tuple[int, int], ...]
    space: Space | None = None

    __repr__ = short_repr


@dataclass(frozen=True, eq=False)
class Pictures:
    """The N pictures of an epoch, wherever they come from.

    Attributes:
        image_format: "jpg" or "png", as they were logged.
        recipe: How they are drawn anew; None where they can't be.
        files: N files, one for each picture; empty where there are none.
        archive: One file with all of them, a zip file; or None.
        names: N names in it.
        display: Reads the display images of some rows.
        heatmaps: Reads the heatmaps, one array for each view.
    """

    image_format: str
    recipe: Recipe | None
    files: tuple[Path, ...]
    archive: Path | None
    names: tuple[str, ...]
    display: Callable[[Sequence[int]], tuple[Image, ...]]
    heatmaps: Callable[[], Sequence[Floats]]

    __repr__ = short_repr

    def sizes(self) -> tuple[tuple[int, int], ...]:
        """Returns the N heights and widths in px; raises as `read` does."""
        from keras_cam_callbacks.drawing.files import picture_size, size_in

        if self.recipe is not None:
            return self.recipe.sizes
        if self.archive is None:
            return tuple(map(picture_size, self._single_files()))
        pictures = zip(self._unpacked(range(len(self.names))), self.names, strict=True)
        return tuple(size_in(io.BytesIO(data), f"{name} in {self.archive}") for data, name in pictures)

    def read(self, rows: Sequence[int] | None = None, images: Sequence[Image] | None = None) -> tuple[Image, ...]:
        """Draws or reads pictures.

        Args:
            rows: Which of them; None for all.
            images: Their display images, where they have been read before.

        Returns:
            uint8 RGB (H, W, 3), one for each row. Those that are drawn anew are as they were logged, pixel for pixel,
            as long as OpenCV is the same; others are as a JPEG gives them back.

        Raises:
            ValueError: If a file is damaged, or the epoch has no pictures.
            OSError: If a file is gone.
        """
        from keras_cam_callbacks.drawing.files import decode, read_image

        if self.recipe is not None:
            rows = range(len(self.recipe.captions)) if rows is None else rows
            shown = self.display(rows) if images is None else images
            return _drawn(self.recipe, self.heatmaps(), shown, rows)
        if self.archive is not None:
            rows = range(len(self.names)) if rows is None else rows
            unpacked = zip(rows, self._unpacked(rows), strict=True)
            return tuple(decode(data, f"{self.names[row]} in {self.archive}") for row, data in unpacked)
        files = self._single_files()
        return tuple(read_image(files[row]) for row in (range(len(files)) if rows is None else rows))

    def encoded(self) -> tuple[bytes, ...]:
        """Returns all pictures as the bytes of image files, as they were logged; raises as `read` does."""
        from keras_cam_callbacks.drawing.files import encode

        if self.files:
            for file in self.files:
                check_file(file)
            return tuple(file.read_bytes() for file in self.files)
        if self.archive is not None:
            return self._unpacked(range(len(self.names)))
        return tuple(encode(picture, self.image_format) for picture in self.read())

    def _single_files(self) -> tuple[Path, ...]:
        if not self.files:
            raise ValueError(
                "An epoch must hold its pictures, or what they are drawn from. Received: one that has neither. "
                "Read it with the version of keras_cam_callbacks that wrote it, or a later one."
            )
        return self.files

    def _unpacked(self, rows: Sequence[int]) -> tuple[bytes, ...]:
        assert self.archive is not None
        check_file(self.archive)
        try:
            with open(self.archive, "rb") as file, zipfile.ZipFile(file) as archive:
                parts = [archive.getinfo(self.names[row]) for row in rows]
                # They are stored as they are; what grows is made to fill the memory.
                if any(part.compress_type != zipfile.ZIP_STORED or part.flag_bits & 1 for part in parts):
                    raise ValueError("it is compressed or encrypted")
                if sum(part.file_size for part in parts) > self.archive.stat().st_size:
                    raise ValueError("it holds more than it can")
                return tuple(archive.read(part) for part in parts)
        except (
            *(ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error),
            *(NotImplementedError, RuntimeError, OverflowError),  # of hostile headers
        ) as error:
            raise ValueError(
                f"A picture file must be a zip file of pictures. Received: {self.archive} ({error})."
            ) from error


def recipe(record: EpochRecord) -> Recipe | None:
    """Returns how a record's pictures are drawn anew; None where that can't be done, or is said of other ones."""
    drawn = record.drawn_from
    views: list[Floats | None] = [view.heatmaps for view in record.views.values()]
    heatmaps = views or [record.heatmaps]
    if drawn is None or drawn.pictures is not record.overlays or len(drawn.heatmaps) != len(heatmaps):
        return None
    if any(maps is None or maps is not shown for maps, shown in zip(heatmaps, drawn.heatmaps, strict=True)):
        return None
    sizes = tuple(picture.shape[:2] for picture in record.overlays)
    space = drawn.space if drawn.space is None or len(drawn.space.axes) != 2 else None
    return Recipe(drawn.captions, drawn.titles, drawn.title, drawn.overlay, sizes, space)


def read_recipe(entry: Mapping[str, Any], overlay: Any, captions: tuple[str, ...]) -> Recipe:
    """Reads how pictures are drawn anew.

    Args:
        entry: Of a line of the log.
        overlay: The run's settings, for an epoch that has none of its own.
        captions: Those of the samples, likewise.

    Raises:
        LookupError: If something is missing.
        TypeError: If something is of the wrong type.
        ValueError: If numbers of samples differ, or a picture is impossibly large.
    """
    texts = tuple(map(str, entry.get("captions", captions)))
    titles = {str(name): tuple(map(str, of_samples)) for name, of_samples in entry.get("titles", {}).items()}
    sizes = tuple((int(height), int(width)) for height, width in entry["sizes"])
    if {len(captions)} != {len(texts), len(sizes), *map(len, titles.values())}:
        raise ValueError(f"captions, titles or sizes are not those of {len(captions)} samples")
    if not all(min(size) > 0 and size[0] * size[1] <= _MOST_PIXELS for size in sizes):
        raise ValueError(f"no pictures are of {list(sizes)} px")
    settings = dict(entry.get("overlay", overlay))
    return Recipe(texts, titles, str(entry.get("title", "image")), settings, sizes, space_of(entry))


def _overlay(settings: Mapping[str, Any]) -> Overlay:
    from keras_cam_callbacks.drawing.overlay import Overlay

    names = {field.name for field in fields(Overlay)}
    overlay = Overlay(**{name: value for name, value in settings.items() if name in names})
    sides = overlay.size if isinstance(overlay.size, tuple) else (overlay.size or 1,) * 2
    if sides[0] * sides[1] > _MOST_PIXELS:
        raise ValueError(f"no pictures are of {sides} px")
    return overlay


def _drawn(made: Recipe, heatmaps: Sequence[Floats], images: Sequence[Image], rows: Sequence[int]) -> tuple[Image, ...]:
    """Draws the pictures of some rows as they were drawn among all."""
    try:
        overlay = _overlay(made.overlay)
        count = len(made.captions)
        if any(not 2 <= maps.ndim <= 4 or len(maps) != count or 0 in maps.shape for maps in heatmaps):
            raise ValueError(f"heatmaps of shapes {[maps.shape for maps in heatmaps]}")
        if made.titles and len(made.titles) != len(heatmaps):
            raise ValueError(f"{len(heatmaps)} heatmaps, titles of {list(made.titles)}")
        several = overlay.scale == "batch" and len(rows) < count
        # One scale for all maps: those that aren't asked for are drawn, too, on any image.
        order = [*rows, *(row for row in range(count) if row not in rows)] if several else list(rows)
        shown = [*images, *[images[0]] * (len(order) - len(rows))] if several else images
        captions = [made.captions[row] for row in order]
        maps = [of_view[order] for of_view in heatmaps]
        if made.titles:
            titles = {name: [of_samples[row] for row in order] for name, of_samples in made.titles.items()}
            named = dict(zip(titles, maps, strict=True))
            drawn = overlay.draw_several(shown, named, captions, titles=titles, title=made.title, space=made.space)
        else:
            drawn = overlay.draw(shown, maps[0], captions, space=made.space)
    except (ValueError, TypeError, AttributeError, IndexError, OverflowError) as error:  # of settings that are no such
        raise ValueError(
            f"An epoch's pictures must be drawn as its record says. Received: {error}. Its heatmaps can still be read."
        ) from error
    # A caption of more lines among all makes more room under each.
    return tuple(_fitted(picture, made.sizes[row]) for picture, row in zip(drawn, rows, strict=False))


def _fitted(picture: Image, size: tuple[int, int]) -> Image:
    """The picture with white below and on the right, or without what is beyond its size."""
    height, width = size
    if picture.shape[:2] == size:
        return picture
    canvas = np.full((height, width, 3), 255, np.uint8)
    part = picture[:height, :width]
    canvas[: part.shape[0], : part.shape[1]] = part
    return canvas


def packed(names: Sequence[str], encoded: Sequence[bytes]) -> bytes:
    """Returns a zip file of pictures, stored as they are."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in zip(names, encoded, strict=True):
            archive.writestr(zipfile.ZipInfo(name), data)
    return buffer.getvalue()


def sheet(record: EpochRecord, drawn: DrawnFrom | None, kept: dict[Any, tuple[Image, ...]]) -> bytes:
    """Returns a JPEG of all pictures of an epoch in a grid, with their captions.

    Args:
        record: The epoch.
        drawn: What the pictures were drawn from: then large images are drawn smaller, so that captions stay legible.
            None shrinks the whole sheet where it is large.
        kept: The display images as they were shrunk for a sheet before; all sheets of a run show the same ones.
    """
    from keras_cam_callbacks.drawing.files import encode
    from keras_cam_callbacks.drawing.grids import grid, shrunk

    pictures, count = record.overlays, len(record.overlays)
    if drawn is not None and all(np.ndim(image) == 3 for image in drawn.images):  # Others are small already.
        side = max(_SIDE, _WIDTH // math.ceil(math.sqrt(count)))
        sides = [max(right - left, bottom - top) for (left, top, right, bottom), *_ in record.places]
        if max(sides, default=0) > side:
            pictures = _smaller(drawn, side, kept)
    height, width = (max(picture.shape[axis] for picture in pictures) for axis in (0, 1))
    columns = None if width <= height else min(count, max(1, round(math.sqrt(count * height / width))))
    return encode(shrunk(grid(pictures, columns), _LONGEST[drawn is not None]), "jpg", _QUALITY)


def _smaller(drawn: DrawnFrom, side: int, kept: dict[Any, tuple[Image, ...]]) -> tuple[Image, ...]:
    from keras_cam_callbacks.drawing.columns import displayed

    overlay = _overlay(drawn.overlay)
    size: int | tuple[int, int] = side
    if isinstance(overlay.size, tuple):
        height, width = (max(1, round(s * side / max(overlay.size))) for s in overlay.size)
        size = height, width
    overlay = replace(overlay, size=size)
    if size not in kept:
        kept[size] = tuple(displayed(image, size) for image in drawn.images)
    if drawn.titles:
        named = dict(zip(drawn.titles, drawn.heatmaps, strict=True))
        return overlay.draw_several(kept[size], named, drawn.captions, titles=drawn.titles, title=drawn.title)
    return overlay.draw(kept[size], drawn.heatmaps[0], drawn.captions)
