"""Signals, volumes and clips as flat pictures: what is shown, and that the heat lies where the map says."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from keras_cam_callbacks.drawing.overlay import Overlay, colorize
from keras_cam_callbacks.drawing.unfolding import unfold
from keras_cam_callbacks.records import Space

COLD, HOT = (colour.astype(int) for colour in colorize(np.array([[0, 255]], np.uint8), "viridis")[0])
PURE = Overlay(alpha=1, colormap="viridis")
VOLUME = Space(("depth", "height", "width"), (6, 20, 30))
CLIP = Space(("time", "height", "width"), (6, 20, 30))
GREY = np.full((6, 20, 30, 3), 128, np.uint8)


def draw(display, heatmap, overlay=PURE, **settings):
    (picture,) = overlay.draw([display], np.asarray(heatmap, np.float32)[None], **settings)
    assert picture.dtype == np.uint8
    return picture


def near(picture, colour, tolerance=3):
    """(H, W) bool, where the picture has about that colour."""
    return np.abs(picture.astype(int) - colour).max(axis=2) <= tolerance


def is_hot(picture):
    """(H, W) bool, where the picture has more than half of the heat: green rises with it, and white is blue too."""
    return (picture[..., 1] > 145) & (picture[..., 2] < 140)


# Signals


def test_the_heat_of_a_signal_lies_where_the_map_says():
    heat = np.zeros(100)
    heat[60:80] = 1
    picture = draw(np.zeros((100, 1)), heat)
    assert picture.shape[1] == 640
    row = near(picture, HOT)[10]  # Above the line, which is in the middle.
    assert np.flatnonzero(row).min() == pytest.approx(0.6 * 640, abs=4)
    assert np.flatnonzero(row).max() == pytest.approx(0.8 * 640, abs=4)
    assert near(picture, COLD)[10, :380].all()
    assert (picture[-8:, :] > 15).any(), "positions stand below, on white"
    assert near(picture[170:], HOT).sum() == 0


@pytest.mark.parametrize("alpha", [0, 0.5, 1])
def test_the_line_is_as_sharp_under_any_heat(alpha):
    signal = np.sin(np.linspace(0, 9, 200))[:, None]
    picture = draw(signal, np.linspace(0, 1, 50), Overlay(alpha=alpha))
    dark = picture[:160].max(axis=2) < 30
    for column in range(5, 635, 70):
        position = (column + 0.5) / 640 * 200 - 0.5
        value = np.interp(position, np.arange(200), signal[:, 0])
        share = (value - signal.min()) / np.ptp(signal)
        expected = 160 * (0.06 + 0.88 * (1 - share))
        assert np.abs(np.flatnonzero(dark[:, column]).mean() - expected) < 3


def test_channels_stand_one_below_the_other():
    signal = np.zeros((50, 3))
    signal[20:30, 1] = 1
    flat = unfold(signal, [np.ones(5, np.float32)])
    shown = flat.shown[: 160 // 1]
    changes = (shown.max(axis=2) < 60).any(axis=1)
    first, second, third = np.split(changes[:159], 3)
    assert first.sum() < 12
    assert third.sum() < 12
    assert second.sum() > 35, "the one that rises takes its row"


def test_many_channels_and_long_signals_and_missing_values():
    many = draw(np.random.default_rng(0).normal(size=(30, 64)), np.arange(30))
    assert many.shape[:2] == draw(np.zeros((30, 1)), np.arange(30)).shape[:2]
    long = np.zeros((100_000, 1))
    long[50_000] = 1  # One peak in a column of 156 positions.
    assert (draw(long, np.arange(30))[:20, 315:325].max(axis=2) < 60).any()
    gap = np.zeros((64, 1))
    gap[16:32] = np.nan
    gap[40] = np.inf
    dark = draw(gap, np.ones(4), Overlay())[:160].max(axis=2) < 60
    assert not dark[:, 170:310].any()
    assert dark[:, 20:150].any(axis=0).all()
    assert not (draw(np.full((8, 1), np.nan), np.ones(4), Overlay())[:160].max(axis=2) < 60).any()


@pytest.mark.parametrize("length", [1, 2, 7, 187, 5000])
@pytest.mark.parametrize("size", [None, 200, (90, 300)])
def test_signals_of_any_length_and_size(length, size):
    picture = draw(np.arange(length)[:, None], np.arange(3), Overlay(size=size))
    assert picture.shape[1] == {None: 640, 200: 200, (90, 300): 300}[size]
    assert size is None or size == 200 or picture.shape[0] == 90


def test_a_users_picture_of_a_signal_stands_beside_its_colours():
    user = np.full((40, 80, 3), 7, np.uint8)
    picture = draw(user, [0, 1])
    assert (picture[:, :320] == 7).all()
    assert near(picture[:, -100:], HOT).all()
    assert near(picture[:, 330:400], COLD).all()


# Volumes


def test_planes_through_the_peak_have_its_heat_where_they_cross():
    heat = np.zeros((6, 20, 30))
    heat[4, 5, 21] = 1
    picture = draw(GREY, heat)
    hot = is_hot(picture)
    labels, count = ndimage.label(hot)
    assert count == 3
    factor = 6  # 30 positions become 180 px, the first whole factor that makes 160.
    lefts = 0, 180 + 8, 180 + 8 + 180 + 8
    expected = [(5.5, 21.5), (4.5, 21.5), (4.5, 5.5)]
    centres = sorted(ndimage.center_of_mass(hot, labels, (1, 2, 3)), key=lambda centre: centre[1])
    for (y, x), left, centre in zip(expected, lefts, centres, strict=True):
        np.testing.assert_allclose(centre, (y * factor - 0.5, left + x * factor - 0.5), atol=2.5)


def test_a_coarse_map_is_linear_along_all_axes_and_has_one_scale():
    coarse = np.random.default_rng(2).random((3, 4, 5)).astype(np.float32)
    flat = unfold(GREY, [coarse], slices=3)
    level = flat.lay(coarse / coarse.max())[:120, :180]
    grid = np.mgrid[0:120, 0:180]
    depth = np.full((120, 180), (3 + 0.5) * 3 / 6 - 0.5)
    places = np.stack([depth, (grid[0] + 0.5) * 4 / 120 - 0.5, (grid[1] + 0.5) * 5 / 180 - 0.5])
    expected = ndimage.map_coordinates(coarse / coarse.max(), places, order=1, mode="nearest")
    np.testing.assert_allclose(level, expected, atol=1e-5)


def test_slices_with_little_heat_are_cold():
    heat = np.zeros((6, 20, 30))
    heat[:, 10, 10] = [0.1, 0.1, 1, 0.1, 0.1, 0.1]
    picture = draw(GREY, heat, replace(PURE, slices="strip"))
    columns = np.flatnonzero(is_hot(picture).any(axis=0))
    assert 0 < np.ptp(columns) < 30, "one slice of the strip is hot"


@pytest.mark.parametrize(("spacing", "shapes"), [((), (6, 20, 30)), ((5.0, 1.0, 1.0), (30, 20, 30))])
def test_planes_have_the_aspect_of_what_they_show(spacing, shapes):
    display = np.full((6, 20, 30, 3), 9, np.uint8)
    space = Space(("depth", "height", "width"), (6, 20, 30), spacing=spacing)
    heat = np.zeros((6, 20, 30), np.float32)
    heat[3, 10, 15] = 1
    picture = unfold(display, [heat], space=space).picture
    dark = (picture == 9).all(axis=2)
    (ys, xs) = np.flatnonzero(dark.any(axis=1)), np.flatnonzero(dark.any(axis=0))
    runs = np.split(xs, np.flatnonzero(np.diff(xs) > 1) + 1)
    heights = [dark[:, run[len(run) // 2]].sum() for run in runs]
    depth, height, width = (6 * side for side in shapes)
    assert ys[0] == 0
    assert [(h, len(run)) for h, run in zip(heights, runs, strict=True)] == [
        (height, width),
        (depth, width),
        (depth, height),
    ]


def test_slices_show_what_they_are_named_after():
    display = np.zeros((6, 20, 30, 3), np.uint8)
    display[:] = (np.arange(6) * 40)[:, None, None, None]
    heat = np.zeros((6, 20, 30), np.float32)
    heat[:, 3, 3] = [0, 1, 3, 2, 0, 0]
    flat = unfold(display, [heat], slices="strip", space=VOLUME)
    seen = {int(value) for value in np.unique(flat.picture[10, :, 0])} - {255}
    assert seen == {0, 40, 80, 120, 160, 200}


def test_a_degenerate_map_leaves_the_middle_slices_bare():
    picture = draw(GREY, np.zeros((3, 4, 5)))
    assert (picture[40:60, 40:60] == 128).all()
    assert not near(picture, COLD).any()


# Clips


@pytest.mark.parametrize("frames", [1, 3, 8, 20, 64])
def test_a_strip_has_at_most_eight_frames_and_the_one_with_most_heat(frames):
    display = np.zeros((frames, 8, 8, 3), np.uint8)
    display[:] = np.arange(frames)[:, None, None, None]
    hottest = frames * 2 // 3
    heat = np.ones((frames, 8, 8), np.float32) * 0.5
    heat[hottest, 4, 4] = 2
    flat = unfold(display, [heat], space=Space(("time", "height", "width"), (frames, 8, 8)))
    seen = sorted({int(value) for value in np.unique(flat.picture[10, :, 0])} - {255})
    assert len(seen) == min(8, frames)
    assert hottest in seen
    assert frames < 8 or max(np.diff(seen)) <= np.ceil(frames / 7) + frames / 14 + 1


def test_a_map_without_time_lies_on_every_frame():
    heat = np.zeros((1, 4, 6), np.float32)
    heat[0, 1, 2] = 1
    picture = draw(GREY, heat, space=CLIP)
    assert ndimage.label(is_hot(picture))[1] == 6


def test_pictures_of_the_users_show_the_mean_map():
    user = np.full((40, 60, 3), 128, np.uint8)
    maps = np.random.default_rng(1).random((1, 5, 4, 6)).astype(np.float32)
    (picture,) = Overlay().draw([user], maps, space=CLIP)
    (expected,) = Overlay().draw([user], maps.mean(axis=1))
    np.testing.assert_array_equal(picture, expected)


# All layouts


@pytest.mark.parametrize("layout", ["overlay", "panel", "mask"])
@pytest.mark.parametrize(("display", "cells"), [(np.zeros((40, 2)), (10,)), (GREY, (3, 4, 5))])
def test_layouts_and_several_views(layout, display, cells):
    rng = np.random.default_rng(3)
    maps = {name: rng.random((2, *cells)).astype(np.float32) for name in ("a", "b")}
    maps["b"][1] = 0
    overlay = Overlay(layout=layout)
    drawn = overlay.draw_several([display] * 2, maps, ["one", "two"], beside={"original": [display] * 2})
    assert len({picture.shape for picture in drawn}) == 1
    placed = overlay.draw_placed([display] * 2, maps["a"], ["one", "two"])
    for picture, places in placed:
        for left, top, right, bottom in places:
            assert 0 <= left < right <= picture.shape[1]
            assert 0 <= top < bottom <= picture.shape[0]


def test_outlines_lie_on_the_slices():
    mask = np.zeros((6, 20, 30), bool)
    mask[2:5, 5:10, 10:20] = True
    heat = np.zeros((1, 6, 20, 30), np.float32)
    heat[0, 3, 7, 15] = 1
    bare, outlined = (
        Overlay().draw_placed([GREY], heat, outlines=masks)[0].picture.astype(int) for masks in (None, [mask])
    )
    changed = np.abs(bare - outlined).max(axis=2) > 0
    ys, xs = np.nonzero(changed[:, :180])
    assert ys.min() == pytest.approx(5 * 6, abs=3)
    assert ys.max() == pytest.approx(10 * 6, abs=3)
    assert xs.min() == pytest.approx(10 * 6, abs=3)
    assert xs.max() == pytest.approx(20 * 6, abs=3)
    assert changed[:, 188:].any()


def test_slices_are_refused_where_there_are_none():
    image = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(ValueError, match=r"slices of volumes.*slices='planes' for images"):
        Overlay(slices="planes").draw([image], np.ones((1, 2, 2), np.float32))
    with pytest.raises(ValueError, match="for signals"):
        Overlay(slices="strip").draw([np.zeros((8, 1))], np.ones((1, 2), np.float32))
    with pytest.raises(ValueError, match=r"`slices` must be .*'planes'"):
        Overlay(slices="plane")


@pytest.mark.parametrize("display", [np.zeros((6, 20, 30), np.uint8), np.zeros((6, 20, 30, 3)), np.zeros((4, 4))])
def test_displays_that_are_none_are_refused(display):
    with pytest.raises(ValueError, match=r"`images\[0\]` must be"):
        Overlay().draw([display], np.ones((1, 3, 4, 5), np.float32))
