"""Pictures from raw heatmaps: scale, resize, colour, blend, caption. uint8 RGB throughout."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from ..checks import check, check_choice, is_real, is_whole
from ..metrics import clipped, degenerate
from ..opencv import cv2
from ..records import Floats, Image, Space
from .colours import COLORMAPS, colorize, tops
from .columns import GAP, Column, by_column, filled, joined, with_titles
from .files import ImageFormat
from .ink import inked
from .outlines import outlined
from .places import Drawn, whole
from .text import over_captions
from .unfolding import Slices, Unfolded, as_pictures, check_slices, unfold

__all__ = ["COLORMAPS", "Overlay", "colorize"]

Layout = Literal["overlay", "panel", "mask"]

_EMPTY = 225

Mask = npt.NDArray[np.bool_] | None
Masks = npt.NDArray[np.bool_] | Sequence[Mask]


@dataclass(frozen=True)
class Overlay:
    """How heatmaps are drawn on images, signals, volumes and clips.

    A map's positive part (the ReLU of the Grad-CAM paper) is divided by the scale, cut to [0, 1], resized
    bilinearly to the displayed image, coloured and blended: image * (1 - alpha) + colour * alpha. A
    degenerate map (see `metrics.degenerate`) leaves the image bare and has no part in the batch's scale.

    A signal is drawn as its line over the colours; of a volume or a clip slices stand side by side, under one scale.
    Which slices those are follows from the map, of several from the first that is not degenerate.

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
            the longer side to 160 or more. Images are enlarged bicubically and shrunk by area. Of a signal, and
            of slices with the gaps between them, it is the size of the whole; None is 640 px for a signal, and
            160 to 320 px for the longer side of a plane, 96 to 160 px for that of a slice in a strip.
        image_format: "jpg" or "png", for `encode`. PNG is exact, and many times slower and larger.
        slices: Of a volume or a clip: "planes", the three through the map's peak; "strip", at most eight slices
            along the first axis: of a volume those with most heat, of a clip evenly chosen frames and the one with
            most heat. None is "planes" for a volume and "strip" for a clip. Refused where images or signals are drawn.

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
    slices: Slices | None = None

    def __post_init__(self) -> None:
        check_choice("colormap", self.colormap, COLORMAPS)
        check_choice("layout", self.layout, get_args(Layout))
        check_choice("image_format", self.image_format, get_args(ImageFormat))
        if self.slices is not None:
            check_choice("slices", self.slices, get_args(Slices))
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
        space: Space | None = None,
    ) -> tuple[Image, ...]:
        """Draws one picture for each sample.

        Captions stand in a white bar under the picture, wrapped at spaces and broken at newlines. The bar has room for
        a line more than the longest caption has of its own, or for as many as that needs: up to four for each line of
        its own, eight in all; what is longer ends in "...". So images of one size give pictures of one size. A picture
        narrower than 160 px gets white margins for its caption. Other control characters become spaces. OpenCV 5 has a
        Unicode font; what it lacks, emoji among others, is "?". OpenCV 4 draws ASCII: accents are dropped, other
        characters are "?".

        Args:
            images: N images, uint8 RGB (H, W, 3); they may differ in size. Of volumes and clips (d, H, W, 3), uint8
                too, of signals (T, C) numbers; or a picture (H, W, 3) of each: then the mean of the map along a
                volume's or clip's first axis is drawn on it, and a signal's colours stand beside it.
            heatmaps: (N, *space) float32, raw: signed and unscaled; (N, h, w) of images.
            captions: N texts, or None for pictures without a bar.
            beside: Further columns of a panel, left of the image in this order: N images of any sizes by title. They
                are shown at the image's height, and columns of one title are of one width where the images are of one
                size. With them every column has its title below, "heatmap" and "overlay" for the last two. None, an
                empty mapping and other layouts have no such columns.
            title: The image's title beside others.
            space: What the axes of signals, volumes and clips are, and how far positions are apart along each; None
                for a signal, an image or a volume, by the number of axes, in equal distances.

        Returns:
            N pictures, uint8 RGB (H', W', 3), new arrays.

        Raises:
            ValueError: If an image is not uint8 RGB, there is nothing that `slices` could choose from, or the numbers
                of images, heatmaps, captions and images beside them differ.
            TypeError: If `beside` is no mapping by text.
        """
        return tuple(drawn.picture for drawn in self._one(images, heatmaps, captions, beside, title, space=space))

    def _one(
        self,
        images: Sequence[Image],
        heatmaps: Floats,
        captions: Sequence[str] | None,
        beside: Mapping[str, Sequence[Image]] | None,
        title: str,
        outline: Masks | None = None,
        space: Space | None = None,
        at: int | None = None,
    ) -> tuple[Drawn, ...]:
        """Does as `draw`, with outlines on the overlays; of a volume or a clip the slice `at` alone."""
        heatmaps = as_pictures(images, np.asarray(heatmaps, np.float32))
        if len(images) != len(heatmaps) or (captions is not None and len(captions) != len(images)):
            raise ValueError(
                "There must be one heatmap and one caption for each image. "
                f"Received: {len(images)} images, {len(heatmaps)} heatmaps, "
                f"{'no' if captions is None else len(captions)} captions."
            )
        shown, columns = self._columns(images, [heatmaps], beside, title, space, at)
        drawn = [list(map(whole, pictures)) for pictures in self.drawn_on(shown, heatmaps, outline)]
        fonts = [one.fonts[0] for one in shown]
        down = all(one.is_wide for one in shown)
        if self.layout != "panel":
            pictures = [picture for (picture,) in drawn]
        elif not beside:
            pictures = [joined([whole(one.shown), *pair], down=down) for one, pair in zip(shown, drawn, strict=True)]
        else:
            for row, (heat, blend) in zip(columns, drawn, strict=True):
                row += [Column(heat, "heatmap"), Column(blend, "overlay")]
            fonts = [one.fonts[1] for one in shown]
            pictures = with_titles(columns, fonts, 1, down=down)
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
        space: Space | None = None,
    ) -> tuple[Image, ...]:
        """Draws several heatmaps of each sample side by side, such as those of several methods or classes.

        A picture has the image, then for each name its overlay, its mask, or in a panel its heatmap and overlay. Each
        column has its title below, in up to two lines, also with `caption=False`; where a map is degenerate, the title
        says "no heatmap". scale="batch" counts for each name by itself. All else is as in `draw`.

        Args:
            images: N images, uint8 RGB (H, W, 3); they may differ in size.
            heatmaps: (N, *space) float32 by name, raw; their sizes may differ from name to name.
            captions: N texts, or None for pictures without a bar.
            titles: N titles by name, such as "true: cat 0.10"; a name that is not there is its own title.
            beside: Further columns of a panel, as in `draw`.
            title: The image's title.
            space: As in `draw`.

        Returns:
            N pictures, uint8 RGB (H', W', 3), new arrays.

        Raises:
            ValueError: If there are no heatmaps, `titles` holds another name, an image is not uint8 RGB, or the numbers
                of images, heatmaps, captions, titles and images beside them differ.
            TypeError: If `heatmaps`, `titles` or `beside` is no mapping by text, or a title is no text.
        """
        drawn = self._several(images, heatmaps, captions, titles, beside, title, space=space)
        return tuple(one.picture for one in drawn)

    def _several(
        self,
        images: Sequence[Image],
        heatmaps: Mapping[str, Floats],
        captions: Sequence[str] | None,
        titles: Mapping[str, Sequence[str]] | None,
        beside: Mapping[str, Sequence[Image]] | None,
        title: str,
        outlines: Mapping[str, Masks] | None = None,
        space: Space | None = None,
        at: int | None = None,
    ) -> tuple[Drawn, ...]:
        """Does as `draw_several`, with outlines on the overlays; of a volume or a clip the slice `at` alone."""
        maps = {
            name: as_pictures(images, np.asarray(of_view, np.float32))
            for name, of_view in by_column("heatmaps", heatmaps, len(images)).items()
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
        shown, columns = self._columns(images, [*maps.values()], beside, title, space, at)
        down = all(one.is_wide for one in shown)
        for name, each in maps.items():
            dead = degenerate(each)
            masks = (outlines or {}).get(name, [None] * len(shown))
            rows = zip(
                *(columns, shown, self._levels(each, dead), named.get(name, [name] * len(shown)), masks), strict=True
            )
            for row, one, level, text, mask in rows:
                picture = joined([*map(whole, self._drawn(one, level, mask))], down=down)
                row.append(Column(picture, text, "no heatmap" if level is None else ""))
        fonts = [one.fonts[1] for one in shown]
        # Heatmap and overlay of one name stand closer together than those of two.
        pictures = with_titles(columns, fonts, 2, 3 * GAP if self.layout == "panel" else GAP, down=down)
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
        space: Space | None = None,
        at: int | None = None,
    ) -> tuple[Drawn, ...]:
        """Draws as `draw` does, or for heatmaps by name as `draw_several`, and tells where the images are.

        Args:
            images: As for these, and likewise down to the title.
            heatmaps: Likewise.
            captions: Likewise.
            titles: Likewise.
            beside: Likewise.
            title: Likewise.
            outlines: For each image a mask (*space) bool, whose outline is drawn on the overlay, or None; for heatmaps
                by name such by some of these names.
            space: As for these.
            at: Which slice of volumes or clips is drawn alone, along the first axis; None for those of `slices`.

        Returns:
            N pictures, each with the places of its image; of images `beside` it none.

        Raises:
            ValueError: As the two do.
            TypeError: As the two do.
        """
        if isinstance(heatmaps, Mapping):
            by_name = outlines if isinstance(outlines, Mapping) else None
            return self._several(images, heatmaps, captions, titles, beside, title, by_name, space, at)
        outline = None if isinstance(outlines, Mapping) else outlines
        return self._one(images, heatmaps, captions, beside, title, outline, space, at)

    def unfolded(
        self, images: Sequence[Image], heatmaps: Sequence[Floats], space: Space | None = None, at: int | None = None
    ) -> list[Unfolded]:
        """Returns the images as they are shown under heatmaps, flat.

        Args:
            images: As in `draw`.
            heatmaps: Of each view (N, *space) float32, raw.
            space: As in `draw`.
            at: As in `draw_placed`.

        Raises:
            ValueError: As `draw` does.
        """
        check_slices(self.slices, images)
        of_samples = zip(*(as_pictures(images, of_view) for of_view in heatmaps), strict=True)
        slices = self.slices if at is None else at
        return [
            unfold(image, maps, space=space, slices=slices, size=self.size, name=f"images[{i}]")
            for i, (image, maps) in enumerate(zip(images, of_samples, strict=True))
        ]

    def drawn_on(self, shown: Sequence[Unfolded], heatmaps: Floats, outlines: Masks | None = None) -> list[list[Image]]:
        """Returns what is drawn of heatmaps on what `unfolded` returns for them: one picture each, in a panel two."""
        masks = [None] * len(shown) if outlines is None else outlines
        rows = zip(shown, self._levels(heatmaps, degenerate(heatmaps)), masks, strict=True)
        return [self._drawn(*row) for row in rows]

    def _columns(
        self,
        images: Sequence[Image],
        heatmaps: Sequence[Floats],
        beside: Mapping[str, Sequence[Image]] | None,
        title: str,
        space: Space | None,
        at: int | None,
    ) -> tuple[list[Unfolded], list[list[Column]]]:
        """The images as they are shown, and for each the columns up to it."""
        shown = self.unfolded(images, heatmaps, space, at)
        further = by_column("beside", {} if beside is None else beside, len(images))
        columns: list[list[Column]] = [[] for _ in shown]
        flat = [one.shown for one in shown]
        for name, pictures in further.items() if self.layout == "panel" else ():
            pictures = [one.again(picture) for one, picture in zip(shown, pictures, strict=True)]
            for row, picture in zip(columns, filled(pictures, flat, name), strict=True):
                row.append(Column(Drawn(picture), name))
        for row, picture in zip(columns, flat, strict=True):
            row.append(Column(whole(picture), title))
        return shown, columns

    def _levels(self, heatmaps: Floats, dead: npt.NDArray[np.bool_]) -> Iterator[Floats | None]:
        """Yields each map scaled to [0, 1], or None where it is degenerate."""
        heatmaps = heatmaps if self.clip is None else clipped(heatmaps, self.clip)
        for heatmap, top, blank in zip(heatmaps, tops(heatmaps, dead, self.scale), dead, strict=True):
            # Clipped before the division: a quotient can overflow.
            yield None if blank else np.clip(heatmap, 0, top) / top

    def _drawn(self, one: Unfolded, level: Floats | None, outline: Mask = None) -> list[Image]:
        """What is drawn from one map: one picture, or the last two of a panel. `level` is as from `_levels`."""
        *others, last = self._blended(one.picture, None if level is None else one.lay(level))
        last = last if outline is None else outlined(last, one.lay_mask(np.asarray(outline)))
        return [inked(picture, one.ink) for picture in (*others, last)]

    def _blended(self, image: Image, level: Floats | None) -> list[Image]:
        """Does as `_drawn`, without an outline and ink. `level` is (h, w)."""
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
                return [np.asarray(cv2.multiply(image, cv2.merge([tones] * 3), scale=1 / 255))]
            heat = colorize(tones, self.colormap)
            drawn = cv2.addWeighted(image, 1 - self.alpha, heat, self.alpha, 0)
            drawn = cv2.copyTo(image, clear, drawn)
        return [heat, np.asarray(drawn)] if self.layout == "panel" else [np.asarray(drawn)]

    def _captioned(
        self, drawn: Sequence[Drawn], captions: Sequence[str] | None, fonts: Sequence[int]
    ) -> tuple[Drawn, ...]:
        return over_captions(drawn, captions, fonts) if captions is not None and self.caption else tuple(drawn)
