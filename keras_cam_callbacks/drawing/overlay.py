"""Pictures from raw heatmaps: scale, resize, colour, blend, caption. uint8 RGB throughout."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from ..checks import check, check_choice, is_real, is_whole
from ..metrics import clipped, degenerate
from ..opencv import cv2
from ..records import Floats, Image
from .columns import GAP, Column, by_column, checked_image, displayed, filled, joined, with_titles
from .files import ImageFormat
from .outlines import outlined
from .places import Drawn, whole
from .text import font_size, over_captions

__all__ = ["COLORMAPS", "Overlay", "colorize"]

Layout = Literal["overlay", "panel", "mask"]

COLORMAPS = tuple(sorted(name[9:].lower() for name in dir(cv2) if name.startswith("COLORMAP_")))
"""Names of the colormaps: OpenCV's, in lower case."""

_EMPTY = 225

Mask = npt.NDArray[np.bool_] | None
Masks = npt.NDArray[np.bool_] | Sequence[Mask]


@dataclass(frozen=True)
class Overlay:
    """How heatmaps are drawn on images.

    A map's positive part (the ReLU of the Grad-CAM paper) is divided by the scale, cut to [0, 1], resized
    bilinearly to the displayed image, coloured and blended: image * (1 - alpha) + colour * alpha. A
    degenerate map (see `metrics.degenerate`) leaves the image bare and has no part in the batch's scale.

    Attributes:
        colormap: One of `COLORMAPS`. "turbo" separates most levels; "viridis" and "cividis" rise evenly in
            lightness, and so can be read by colour-blind people and in grey print.
        alpha: In [0, 1], the share of the colour. A mask is not blended: it uses neither alpha nor colormap.
        threshold: In [0, 1). Where the scaled map is below, an overlay shows the bare image, a mask black.
        scale: What is drawn as 1: "sample", each map's own maximum; "batch", the maximum over all maps of the
            call; or a positive number in the maps' own unit, so that epochs and runs can be compared. Values
            above clip.
        clip: Two percentiles, such as (10, 90), or None. The positive part of each map is clipped at them before it
            is scaled, and counted from the lower one: then single bright pixels don't hide the rest.
        layout: "overlay"; "panel": image, heatmap and overlay side by side, the heatmap without threshold and
            plain grey where it is degenerate; "mask": the image times the scaled map, dark where the model
            does not look.
        caption: Whether the captions that are given are drawn. "outputs" is as True, and makes
            `Explanation.overlays` put the model's raw outputs into a line of their own below.
        size: Displayed size of each image: its longer side in px, or (height, width). None keeps an image's
            own size, but enlarges one with both sides below 160 px by the smallest whole factor that brings
            the longer side to 160 or more. Images are enlarged bicubically and shrunk by area.
        image_format: "jpg" or "png", for `encode`. PNG is exact, and many times slower and larger.

    Raises:
        ValueError: If a setting is not one of the above.
    """

    colormap: str = "turbo"
    alpha: float = 0.5
    threshold: float = 0.0
    scale: Literal["sample", "batch"] | float = "sample"
    clip: tuple[float, float] | None = None
    layout: Layout = "overlay"
    caption: bool | Literal["outputs"] = True
    size: int | tuple[int, int] | None = None
    image_format: ImageFormat = "jpg"

    def __post_init__(self) -> None:
        check_choice("colormap", self.colormap, COLORMAPS)
        check_choice("layout", self.layout, get_args(Layout))
        check_choice("image_format", self.image_format, get_args(ImageFormat))
        scaled = self.scale in ("sample", "batch") or (is_real(self.scale) and 1e-37 < self.scale < 1e38)
        sides = self.size if isinstance(self.size, (tuple, list)) else (self.size,) * 2
        sized = len(sides) == 2 and all(is_whole(side, 1) for side in sides)
        clip = (0, 100) if self.clip is None else self.clip
        rises = isinstance(clip, (tuple, list)) and len(clip) == 2 and all(map(is_real, clip)) and clip[0] < clip[1]
        captioned = isinstance(self.caption, bool) or (isinstance(self.caption, str) and self.caption == "outputs")
        for name, valid, must, works in (
            ("alpha", is_real(self.alpha, 0, 1), "a number in [0, 1]", "0.5"),
            ("threshold", is_real(self.threshold, 0) and self.threshold < 1, "a number in [0, 1)", "0.2"),
            ("scale", scaled, "'sample', 'batch' or a positive float32", "'batch'"),
            ("clip", rises and clip[0] >= 0 and clip[1] <= 100, "None or two rising percentiles", "(10, 90)"),
            ("caption", captioned, "True, False or 'outputs'; the texts go to draw()", "True"),
            ("size", self.size is None or sized, "None, a positive int (px) or (height, width)", "512"),
        ):
            check(name, getattr(self, name), valid, must, works)
        # Settings are stored as JSON: what comes back from there, or from numpy, must compare as equal.
        if isinstance(self.size, (tuple, list)):
            object.__setattr__(self, "size", tuple(map(int, self.size)))
        elif self.size is not None:
            object.__setattr__(self, "size", int(self.size))
        object.__setattr__(self, "clip", self.clip and (float(clip[0]), float(clip[1])))
        for name in ("alpha", "threshold", "scale"):
            if not isinstance(getattr(self, name), str):
                object.__setattr__(self, name, float(getattr(self, name)))

    def draw(
        self,
        images: Sequence[Image],
        heatmaps: Floats,
        captions: Sequence[str] | None = None,
        *,
        beside: Mapping[str, Sequence[Image]] | None = None,
        title: str = "image",
    ) -> tuple[Image, ...]:
        """Draws one picture for each sample.

        Captions stand in a white bar under the picture, wrapped at spaces and broken at newlines. The bar has room for
        a line more than the longest caption has of its own, or for as many as that needs: up to four for each line of
        its own, eight in all; what is longer ends in "...". So images of one size give pictures of one size. A picture
        narrower than 160 px gets white margins for its caption. Other control characters become spaces. OpenCV 5 has a
        Unicode font; what it lacks, emoji among others, is "?". OpenCV 4 draws ASCII: accents are dropped, other
        characters are "?".

        Args:
            images: N images, uint8 RGB (H, W, 3); they may differ in size.
            heatmaps: (N, h, w) float32, raw: signed and unscaled.
            captions: N texts, or None for pictures without a bar.
            beside: Further columns of a panel, left of the image in this order: N images of any sizes by title. They
                are shown at the image's height, and columns of one title are of one width where the images are of one
                size. With them every column has its title below, "heatmap" and "overlay" for the last two. None, an
                empty mapping and other layouts have no such columns.
            title: The image's title beside others.

        Returns:
            N pictures, uint8 RGB (H', W', 3), new arrays.

        Raises:
            ValueError: If an image is not uint8 RGB, or the numbers of images, heatmaps, captions and images beside
                them differ.
            TypeError: If `beside` is no mapping by text.
        """
        return tuple(drawn.picture for drawn in self._one(images, heatmaps, captions, beside, title))

    def _one(
        self,
        images: Sequence[Image],
        heatmaps: Floats,
        captions: Sequence[str] | None,
        beside: Mapping[str, Sequence[Image]] | None,
        title: str,
        outline: Masks | None = None,
    ) -> tuple[Drawn, ...]:
        """Does as `draw`, with outlines on the overlays."""
        heatmaps = np.asarray(heatmaps, np.float32)
        dead = degenerate(heatmaps)
        if len(images) != len(heatmaps) or (captions is not None and len(captions) != len(images)):
            raise ValueError(
                "There must be one heatmap and one caption for each image. "
                f"Received: {len(images)} images, {len(heatmaps)} heatmaps, "
                f"{'no' if captions is None else len(captions)} captions."
            )
        shown, columns = self._columns(images, beside, title)
        masks = [None] * len(shown) if outline is None else outline
        drawn = (self._drawn(*row) for row in zip(shown, self._levels(heatmaps, dead), masks, strict=True))
        fonts = [font_size(image.shape[1]) for image in shown]
        if self.layout != "panel":
            pictures = [picture for (picture,) in drawn]
        elif not beside:
            pictures = [joined([whole(image), *pair]) for image, pair in zip(shown, drawn, strict=True)]
        else:
            for row, (heat, blend) in zip(columns, drawn, strict=True):
                row += [Column(heat, "heatmap"), Column(blend, "overlay")]
            fonts = [font_size(min(image.shape[:2])) for image in shown]
            pictures = with_titles(columns, fonts, 1)
        return self._captioned(pictures, captions, fonts)

    def draw_several(
        self,
        images: Sequence[Image],
        heatmaps: Mapping[str, Floats],
        captions: Sequence[str] | None = None,
        *,
        titles: Mapping[str, Sequence[str]] | None = None,
        beside: Mapping[str, Sequence[Image]] | None = None,
        title: str = "image",
    ) -> tuple[Image, ...]:
        """Draws several heatmaps of each sample side by side, such as those of several methods or classes.

        A picture has the image, then for each name its overlay, its mask, or in a panel its heatmap and overlay. Each
        column has its title below, in up to two lines, also with `caption=False`; where a map is degenerate, the title
        says "no heatmap". scale="batch" counts for each name by itself. All else is as in `draw`.

        Args:
            images: N images, uint8 RGB (H, W, 3); they may differ in size.
            heatmaps: (N, h, w) float32 by name, raw; h and w may differ from name to name.
            captions: N texts, or None for pictures without a bar.
            titles: N titles by name, such as "true: cat 0.10"; a name that is not there is its own title.
            beside: Further columns of a panel, as in `draw`.
            title: The image's title.

        Returns:
            N pictures, uint8 RGB (H', W', 3), new arrays.

        Raises:
            ValueError: If there are no heatmaps, `titles` holds another name, an image is not uint8 RGB, or the numbers
                of images, heatmaps, captions, titles and images beside them differ.
            TypeError: If `heatmaps`, `titles` or `beside` is no mapping by text, or a title is no text.
        """
        return tuple(drawn.picture for drawn in self._several(images, heatmaps, captions, titles, beside, title))

    def _several(
        self,
        images: Sequence[Image],
        heatmaps: Mapping[str, Floats],
        captions: Sequence[str] | None,
        titles: Mapping[str, Sequence[str]] | None,
        beside: Mapping[str, Sequence[Image]] | None,
        title: str,
        outlines: Mapping[str, Masks] | None = None,
    ) -> tuple[Drawn, ...]:
        """Does as `draw_several`, with outlines on the overlays."""
        maps = {
            name: np.asarray(each, np.float32) for name, each in by_column("heatmaps", heatmaps, len(images)).items()
        }
        named = by_column("titles", {} if titles is None else titles, len(images))
        if not maps or not named.keys() <= maps.keys():
            raise ValueError(
                "`heatmaps` must hold at least one name, and `titles` no other ones. "
                f"Received: heatmaps of {list(maps)}, titles of {list(named)}."
            )
        if captions is not None and len(captions) != len(images):
            raise ValueError(
                f"There must be one caption for each image. Received: {len(images)} images, {len(captions)} captions."
            )
        shown, columns = self._columns(images, beside, title)
        for name, each in maps.items():
            dead = degenerate(each)
            masks = (outlines or {}).get(name, [None] * len(shown))
            rows = zip(
                *(columns, shown, self._levels(each, dead), named.get(name, [name] * len(shown)), masks), strict=True
            )
            for row, image, level, text, mask in rows:
                picture = joined(self._drawn(image, level, mask))
                row.append(Column(picture, text, "no heatmap" if level is None else ""))
        fonts = [font_size(min(image.shape[:2])) for image in shown]
        # Heatmap and overlay of one name stand closer together than those of two.
        pictures = with_titles(columns, fonts, 2, 3 * GAP if self.layout == "panel" else GAP)
        return self._captioned(pictures, captions, fonts)

    def draw_placed(
        self,
        images: Sequence[Image],
        heatmaps: Floats | Mapping[str, Floats],
        captions: Sequence[str] | None = None,
        *,
        titles: Mapping[str, Sequence[str]] | None = None,
        beside: Mapping[str, Sequence[Image]] | None = None,
        title: str = "image",
        outlines: Masks | Mapping[str, Masks] | None = None,
    ) -> tuple[Drawn, ...]:
        """Draws as `draw` does, or for heatmaps by name as `draw_several`, and tells where the images are.

        Args:
            images: As for these, and likewise all but the last.
            heatmaps: Likewise.
            captions: Likewise.
            titles: Likewise.
            beside: Likewise.
            title: Likewise.
            outlines: For each image a mask (h, w) bool, whose outline is drawn on the overlay, or None; for heatmaps by
                name such by some of these names.

        Returns:
            N pictures, each with the places of its image; of images `beside` it none.

        Raises:
            ValueError: As the two do.
            TypeError: As the two do.
        """
        if isinstance(heatmaps, Mapping):
            by_name = outlines if isinstance(outlines, Mapping) else None
            return self._several(images, heatmaps, captions, titles, beside, title, by_name)
        outline = None if isinstance(outlines, Mapping) else outlines
        return self._one(images, heatmaps, captions, beside, title, outline)

    def _columns(
        self, images: Sequence[Image], beside: Mapping[str, Sequence[Image]] | None, title: str
    ) -> tuple[list[Image], list[list[Column]]]:
        """The images as they are shown, and for each the columns up to it."""
        shown = [displayed(checked_image(image, f"images[{i}]"), self.size) for i, image in enumerate(images)]
        further = by_column("beside", {} if beside is None else beside, len(images))
        columns: list[list[Column]] = [[] for _ in shown]
        for name, pictures in further.items() if self.layout == "panel" else ():
            for row, picture in zip(columns, filled(pictures, shown, name), strict=True):
                row.append(Column(Drawn(picture), name))
        for row, image in zip(columns, shown, strict=True):
            row.append(Column(whole(image), title))
        return shown, columns

    def _levels(self, heatmaps: Floats, dead: npt.NDArray[np.bool_]) -> Iterator[Floats | None]:
        """Yields each map scaled to [0, 1], or None where it is degenerate."""
        heatmaps = heatmaps if self.clip is None else clipped(heatmaps, self.clip)
        for heatmap, top, blank in zip(heatmaps, _tops(heatmaps, dead, self.scale), dead, strict=True):
            # Clipped before the division: a quotient can overflow.
            yield None if blank else np.clip(heatmap, 0, top) / top

    def _drawn(self, image: Image, level: Floats | None, outline: Mask = None) -> list[Drawn]:
        """What is drawn from one map: one picture, or the last two of a panel. `level` is as from `_levels`."""
        *others, last = self._blended(image, level)
        return [*others, last if outline is None else last._replace(picture=outlined(last.picture, outline))]

    def _blended(self, image: Image, level: Floats | None) -> list[Drawn]:
        """Does as `_drawn`, without an outline."""
        height, width = image.shape[:2]
        if level is None:
            heat, drawn = np.full_like(image, _EMPTY), image.copy()
        else:
            smaller = height < level.shape[0] and width < level.shape[1]
            level = cv2.resize(level, (width, height), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)
            tones = cv2.convertScaleAbs(level, alpha=255)
            clear = cv2.compare(level, self.threshold, cv2.CMP_LT)
            if self.layout == "mask":
                tones[clear > 0] = 0
                return [whole(np.asarray(cv2.multiply(image, cv2.merge([tones] * 3), scale=1 / 255)))]
            heat = colorize(tones, self.colormap)
            drawn = cv2.addWeighted(image, 1 - self.alpha, heat, self.alpha, 0)
            drawn = cv2.copyTo(image, clear, drawn)
        return [whole(heat), whole(drawn)] if self.layout == "panel" else [whole(drawn)]

    def _captioned(
        self, drawn: Sequence[Drawn], captions: Sequence[str] | None, fonts: Sequence[int]
    ) -> tuple[Drawn, ...]:
        return over_captions(drawn, captions, fonts) if captions is not None and self.caption else tuple(drawn)


def colorize(tones: npt.NDArray[np.uint8], colormap: str = "turbo") -> Image:
    """Gives each tone its colour.

    Args:
        tones: (H, W) uint8, 0 is the cold end of the colormap, 255 the hot one.
        colormap: One of `COLORMAPS`.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ValueError: If there is no such colormap.
    """
    return np.asarray(cv2.applyColorMap(tones, _palette(colormap)))


def _tops(heatmaps: Floats, dead: npt.NDArray[np.bool_], scale: str | float) -> Floats:
    """(N,) what is drawn as 1; without meaning where a map is degenerate."""
    if not isinstance(scale, str):
        return np.full(len(heatmaps), scale, np.float32)
    tops: Floats = heatmaps.max(axis=(1, 2))
    if scale == "batch" and not dead.all():
        tops[:] = tops[~dead].max()
    return tops


@cache
def _palette(colormap: str) -> Image:
    """(256, 1, 3) uint8 RGB: the colours of the tones, in the shape OpenCV wants for a colormap of ours."""
    check_choice("colormap", colormap, COLORMAPS)
    number = getattr(cv2, f"COLORMAP_{colormap.upper()}")
    bgr = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], number)
    return np.ascontiguousarray(bgr[..., ::-1])
