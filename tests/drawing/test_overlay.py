import ast
import io
import json
import re
from dataclasses import FrozenInstanceError, asdict

import cv2
import matplotlib
import numpy as np
import PIL.Image
import pytest
from skimage import data

from keras_cam_callbacks.drawing.files import encode
from keras_cam_callbacks.drawing.grids import grid
from keras_cam_callbacks.drawing.overlay import COLORMAPS, Overlay, colorize

GREY = np.full((160, 160, 3), 100, np.uint8)
# Cold on the left, hot on the right, at display size: no resize blurs what is worked out by hand.
STEP = np.repeat([[0.0, 1.0]], 80, axis=1).repeat(160, axis=0).astype(np.float32)
LEFT, RIGHT = np.s_[:, :80], np.s_[:, 80:]
NAN = float("nan")
DEGENERATE = {
    "zero": np.zeros((4, 4)),
    "negative": -np.eye(4),
    "constant": np.ones((4, 4)),
    "NaN": np.where(np.eye(4), NAN, 1),
    "infinite": np.where(np.eye(4), np.inf, 1),
}


def draw(heatmap, image=GREY, **settings):
    (picture,) = Overlay(**settings).draw([image], np.asarray(heatmap, np.float32)[None])
    return picture


def blended(colour, alpha, base=100):
    return base * (1 - alpha) + np.array(colour, float) * alpha


# Colours


@pytest.mark.parametrize("colormap", ["turbo", "jet"])
def test_cold_is_blue_and_hot_is_red_in_rgb(colormap):
    cold, hot = colorize(np.array([[25, 230]], np.uint8), colormap)[0].astype(int)
    assert cold[2] > cold[0] + 50
    assert hot[0] > hot[2] + 50


def test_colours_are_matplotlibs():
    tones = np.arange(256, dtype=np.uint8)[None]
    for name in ("viridis", "turbo", "inferno", "magma", "cividis", "spring"):
        expected = matplotlib.colormaps[name](tones, bytes=True)[..., :3].astype(int)
        assert np.abs(colorize(tones, name) - expected).max() <= 2, name


def test_every_colormap_of_opencv_is_known():
    assert {"turbo", "viridis", "jet", "spring", "inferno", "magma", "cividis"} <= set(COLORMAPS)
    assert all(draw(STEP, colormap=name).shape == GREY.shape for name in COLORMAPS)


# Blend, threshold, scale


@pytest.mark.parametrize("alpha", [0, 0.25, 0.5, 1])
def test_blend_by_hand(alpha):
    cold, hot = colorize(np.array([[0, 255]], np.uint8))[0]
    picture = draw(STEP, alpha=alpha)
    assert picture.dtype == np.uint8
    np.testing.assert_allclose(picture[LEFT] - blended(cold, alpha), 0, atol=0.51)
    np.testing.assert_allclose(picture[RIGHT] - blended(hot, alpha), 0, atol=0.51)


def test_threshold_leaves_clear_what_is_below_it():
    heatmap = STEP * 3
    heatmap[:, 40:80] = 0.75  # a quarter of the maximum
    for threshold, first in ((0.24, 40), (0.25, 40), (0.26, 80)):
        picture = draw(heatmap, threshold=threshold)
        assert (picture[:, :first] == 100).all()
        assert (picture[:, first:] != 100).any(axis=2).all()


def test_negative_values_are_drawn_as_zero():
    signed = np.where(STEP > 0, STEP, np.float32(-9))
    np.testing.assert_array_equal(draw(signed), draw(STEP))


def test_sample_scale_divides_each_map_by_its_own_maximum():
    first, second = Overlay().draw([GREY] * 2, np.stack([STEP, STEP * 1e-3]))
    np.testing.assert_array_equal(first, second)


def test_batch_scale_divides_by_the_maximum_of_all():
    strong, weak, empty = Overlay(scale="batch", alpha=1).draw(
        [GREY] * 3, np.stack([STEP * 4, STEP, np.zeros_like(STEP)])
    )
    assert (strong[RIGHT] == colorize(np.array([[255]], np.uint8))[0, 0]).all()
    assert (weak[RIGHT] == colorize(np.array([[64]], np.uint8))[0, 0]).all()
    assert (empty == 100).all()


def test_fixed_scale_divides_by_the_number_and_clips_above_it():
    half, clipped = Overlay(scale=2.0, alpha=1).draw([GREY] * 2, np.stack([STEP, STEP * 100]))
    assert (half[RIGHT] == colorize(np.array([[128]], np.uint8))[0, 0]).all()
    assert (clipped[RIGHT] == colorize(np.array([[255]], np.uint8))[0, 0]).all()


def test_clip_draws_what_lies_between_the_percentiles_in_full_contrast():
    ramp = np.arange(11, dtype=np.float32).repeat(11).reshape(11, 11)
    spike = ramp.copy()
    spike[0, 0] = 1e6
    image = np.full((11, 11, 3), 100, np.uint8)

    def drawn(heatmap, **settings):
        return Overlay(alpha=1, size=11, **settings).draw([image], heatmap[None])[0]

    np.testing.assert_array_equal(drawn(ramp, clip=(10, 90)), drawn(np.clip(ramp, 1, 9) - 1))
    assert len(np.unique(drawn(spike)[:, 5], axis=0)) == 1  # The spike hides all else.
    np.testing.assert_array_equal(drawn(spike, clip=(10, 90))[1:], drawn(ramp, clip=(10, 90))[1:])


@pytest.mark.parametrize(
    ("factor", "scale"),
    [(3e38, "sample"), (3e38, "batch"), (3e38, 1e-30), (1e-38, "sample"), (1e-44, "batch")],
)
def test_the_ends_of_float32_neither_overflow_nor_vanish(factor, scale):
    np.testing.assert_array_equal(draw(STEP * np.float32(factor), scale=scale), draw(STEP))


@pytest.mark.parametrize("shape", [(7, 7), (2, 5), (40, 90), (1, 3)])
def test_resize_is_bilinear_with_half_pixel_centres(shape):
    # numpy's own interpolation, one axis after the other, with pixel centres at (i + 0.5) / n.
    heatmap = np.random.default_rng(0).uniform(0.1, 1, shape).astype(np.float32)
    heatmap /= heatmap.max()
    image = np.zeros((120, 200, 3), np.uint8)
    expected = heatmap
    for axis in (0, 1):
        new, old = image.shape[axis], shape[axis]
        at = (np.arange(new) + 0.5) / new * old - 0.5
        expected = np.apply_along_axis(lambda v, at=at, old=old: np.interp(at, np.arange(old), v), axis, expected)
    white = np.full_like(image, 255)
    np.testing.assert_allclose(draw(heatmap, white, layout="mask")[..., 0], expected * 255, atol=1.01)


def test_a_heatmap_or_image_larger_than_the_display_is_averaged():
    # One column of four is 1, which sampling between pixels would miss: each displayed pixel holds a quarter.
    stripes = np.zeros((640, 640), np.float32)
    stripes[:, ::4] = 1
    picture = draw(stripes, np.full_like(GREY, 255), layout="mask")
    assert np.abs(picture.astype(int) - 255 / 4).max() <= 1
    image = np.dstack([stripes] * 3).astype(np.uint8) * 200
    assert (draw(STEP, image, size=160, alpha=0) == 50).all()


# Layouts


def test_mask_multiplies_the_image_by_the_map():
    photo = cv2.resize(data.chelsea(), (160, 160))
    heatmap = np.tile(np.linspace(0, 1, 160, dtype=np.float32), (160, 1))
    picture = draw(heatmap, photo, layout="mask")
    np.testing.assert_allclose(picture, photo * heatmap[..., None], atol=1.01)
    half = draw(heatmap, photo, layout="mask", threshold=0.5)
    assert not half[LEFT].any()
    np.testing.assert_array_equal(half[RIGHT], picture[RIGHT])


def test_panel_is_image_heatmap_overlay():
    picture = draw(STEP, layout="panel", threshold=0.5)
    assert picture.shape == (160, 3 * 160 + 2 * 4, 3)
    image, heat, over = picture[:, :160], picture[:, 164:324], picture[:, 328:]
    assert (picture[:, 160:164] == 255).all()
    assert (picture[:, 324:328] == 255).all()
    np.testing.assert_array_equal(image, GREY)
    np.testing.assert_array_equal(heat, colorize((STEP * 255).astype(np.uint8)))
    np.testing.assert_array_equal(over, draw(STEP, threshold=0.5))


@pytest.mark.parametrize("scale", ["sample", "batch", 0.5])
@pytest.mark.parametrize("bad", DEGENERATE.values(), ids=DEGENERATE)
def test_degenerate_maps_leave_the_image_bare_and_the_others_alone(bad, scale):
    bump = np.diag([0.1, 0.4, 0.2, 0.0])
    photo = cv2.resize(data.astronaut(), (160, 160))
    batch = np.stack([bad, bump, bump / 2]).astype(np.float32)
    for layout in ("overlay", "mask", "panel"):
        settings = Overlay(layout=layout, scale=scale)
        bare, *others = settings.draw([photo] * 3, batch)
        np.testing.assert_array_equal(others, settings.draw([photo] * 2, batch[1:]))
        assert bare.shape == others[0].shape
        np.testing.assert_array_equal(bare[:, -160:], photo)
    np.testing.assert_array_equal(bare[:, :160], photo)
    assert (bare[:, 164:324] == bare[0, 164]).all()  # one light grey: no colour of a heatmap
    assert bare[0, 164].min() == bare[0, 164].max() > 200


# Sizes


SIZES = """
    (224, 300)  None      (224, 300)
    (32, 32)    None      (160, 160)
    (28, 28)    None      (168, 168)
    (8, 20)     None      (64, 160)
    (159, 10)   None      (318, 20)
    (20, 400)   None      (20, 400)
    (300, 600)  150       (75, 150)
    (600, 300)  150       (150, 75)
    (30, 60)    512       (256, 512)
    (1, 900)    90        (1, 90)
    (30, 60)    (40, 50)  (40, 50)
"""


@pytest.mark.parametrize("row", SIZES.strip().splitlines())
def test_displayed_size(row):
    image, size, expected = map(ast.literal_eval, re.split(r"\s{2,}", row.strip()))
    picture = draw(np.eye(5), np.full((*image, 3), 77, np.uint8), size=size, alpha=0)
    assert picture.shape == (*expected, 3)
    assert (picture == 77).all()


def test_images_of_a_batch_may_differ_in_size():
    images = [np.zeros((height, 200, 3), np.uint8) for height in (170, 180, 190)]
    pictures = Overlay().draw(images, np.stack([np.eye(7, dtype=np.float32)] * 3))
    assert [picture.shape[:2] for picture in pictures] == [(170, 200), (180, 200), (190, 200)]


def test_images_stay_as_they_are_and_pictures_are_new():
    photo = cv2.resize(data.chelsea(), (200, 170))
    photo.flags.writeable = False
    maps = np.stack([np.eye(3), np.zeros((3, 3))]).astype(np.float32)
    for layout in ("overlay", "mask", "panel"):
        for picture in Overlay(layout=layout).draw([photo] * 2, maps):
            assert picture.flags.writeable
            assert not np.shares_memory(picture, photo)
    turned = np.rot90(photo)[..., ::-1]  # neither C-contiguous nor with positive strides
    np.testing.assert_array_equal(draw(np.eye(3), turned), draw(np.eye(3), turned.copy()))


def test_captions_can_be_switched_off():
    heatmaps = STEP[None]
    (without,) = Overlay(caption=False).draw([GREY], heatmaps, ["cat"])
    np.testing.assert_array_equal(without, draw(STEP))
    (with_caption,) = Overlay().draw([GREY], heatmaps, ["cat"])
    np.testing.assert_array_equal(Overlay(caption="outputs").draw([GREY], heatmaps, ["cat"])[0], with_caption)
    assert len(with_caption) > len(without)
    np.testing.assert_array_equal(with_caption[:160], without)


# Grid


def colours(*values, shape=(10, 20)):
    return [np.full((*shape, 3), value, np.uint8) for value in values]


def test_grid_places_row_by_row():
    sheet = grid(colours(10, 20, 30), columns=2)
    assert sheet.shape == (3 * 8 + 2 * 10, 3 * 8 + 2 * 20, 3)
    expected = np.full_like(sheet, 255)
    for value, top, left in ((10, 8, 8), (20, 8, 36), (30, 26, 8)):
        expected[top : top + 10, left : left + 20] = value
    np.testing.assert_array_equal(sheet, expected)


@pytest.mark.parametrize(
    ("count", "columns", "rows_columns"),
    [
        (1, None, (1, 1)),
        (3, None, (2, 2)),
        (16, None, (4, 4)),
        (5, None, (2, 3)),
        (3, 9, (1, 3)),
        (3, 1, (3, 1)),
    ],
)
def test_grid_shape(count, columns, rows_columns):
    rows, across = rows_columns
    assert grid(colours(*range(count)), columns).shape == (8 + rows * 18, 8 + across * 28, 3)


@pytest.mark.parametrize(("columns", "top", "left"), [(1, 26, 15), (2, 11, 36)])
def test_grid_centres_pictures_of_other_sizes(columns, top, left):
    sheet = grid([*colours(0), *colours(50, shape=(4, 6))], columns)
    expected = np.full({1: (3 * 8 + 10 + 4, 2 * 8 + 20, 3), 2: (2 * 8 + 10, 3 * 8 + 20 + 6, 3)}[columns], 255)
    expected[8:18, 8:28] = 0
    expected[top : top + 4, left : left + 6] = 50
    np.testing.assert_array_equal(sheet, expected)


# Files


def test_png_is_exact_and_jpeg_has_the_right_colours():
    picture = np.zeros((32, 48, 3), np.uint8)
    picture[:, :16, 0], picture[:, 16:32, 1], picture[:, 32:, 2] = 250, 200, 150
    png = PIL.Image.open(io.BytesIO(encode(picture, "png")))
    assert (png.format, png.mode) == ("PNG", "RGB")
    np.testing.assert_array_equal(np.asarray(png), picture)
    jpeg = PIL.Image.open(io.BytesIO(encode(picture)))
    assert (jpeg.format, jpeg.mode) == ("JPEG", "RGB")
    for left in (0, 16, 32):
        middle = np.s_[:, left + 4 : left + 12]
        assert np.abs(np.asarray(jpeg)[middle].astype(int) - picture[middle]).max() <= 6


def test_jpeg_has_quality_90():
    buffer = io.BytesIO()
    PIL.Image.fromarray(data.astronaut()).save(buffer, "JPEG", quality=90)
    expected = PIL.Image.open(buffer).quantization
    assert PIL.Image.open(io.BytesIO(encode(data.astronaut(), "jpg"))).quantization == expected


# Errors


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"colormap": "virids"}, r"cividis.*Received: colormap='virids'\. Did you mean 'viridis'"),
        ({"colormap": "VIRIDIS"}, "Did you mean 'viridis'"),
        ({"colormap": None}, "Received: colormap=None"),
        ({"layout": "pane"}, "overlay, panel, mask.*Did you mean 'panel'"),
        ({"image_format": "jpeg"}, "jpg, png.*Received: image_format='jpeg'"),
        ({"alpha": 1.1}, r"in \[0, 1\]\. Received: alpha=1.1"),
        ({"alpha": True}, "Received: alpha=True"),
        ({"alpha": NAN}, "Received: alpha=nan"),
        ({"threshold": 1}, r"in \[0, 1\)\. Received: threshold=1"),
        ({"threshold": -0.1}, "Received: threshold=-0.1"),
        ({"scale": "epoch"}, "Received: scale='epoch'"),
        ({"scale": 0}, "Received: scale=0"),
        ({"scale": float("inf")}, "Received: scale=inf"),
        ({"clip": (90, 10)}, r"two rising percentiles. Received: clip=\(90, 10\). clip=\(10, 90\) works"),
        ({"clip": (10, 101)}, "Received: clip="),
        ({"clip": 99}, "Received: clip=99"),
        ({"caption": "cat"}, r"go to draw\(\)\. Received: caption='cat'"),
        ({"caption": "output"}, r"True, False or 'outputs'.* Received: caption='output'"),
        ({"caption": 1}, "Received: caption=1"),
        ({"size": 0}, "Received: size=0"),
        ({"size": 99.5}, "Received: size=99.5"),
        ({"size": (3, 4, 5)}, r"Received: size=\(3, 4, 5\)"),
        ({"size": True}, "Received: size=True"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Overlay(**settings)


@pytest.mark.parametrize(
    "image", [GREY.astype(np.float32), GREY[..., 0], GREY[..., :1], np.dstack([GREY, GREY]), GREY[:0]]
)
def test_images_that_are_not_uint8_rgb_are_refused(image):
    with pytest.raises(ValueError, match=r"`images\[1\]` must be uint8 RGB.*Received: "):
        Overlay().draw([GREY, image], np.stack([STEP, STEP]))
    with pytest.raises(ValueError, match=r"`pictures\[0\]` must be uint8 RGB"):
        grid([image])
    with pytest.raises(ValueError, match="`picture` must be uint8 RGB"):
        encode(image)


def test_counts_must_agree():
    with pytest.raises(ValueError, match="Received: 1 images, 2 heatmaps, no captions"):
        Overlay().draw([GREY], np.stack([STEP, STEP]))
    with pytest.raises(ValueError, match="Received: 1 images, 1 heatmaps, 2 captions"):
        Overlay().draw([GREY], STEP[None], ["a", "b"])
    assert Overlay().draw([], np.empty((0, 7, 7), np.float32), []) == ()


def test_other_calls_name_what_is_wrong():
    with pytest.raises(ValueError, match="at least one picture"):
        grid([])
    with pytest.raises(ValueError, match="Received: columns=0"):
        grid([GREY], columns=0)
    with pytest.raises(ValueError, match="Received: image_format='gif'"):
        encode(GREY, "gif")
    with pytest.raises(ValueError, match="Received: colormap='hott'"):
        colorize(GREY[..., 0], "hott")
    with pytest.raises(ValueError, match=r"at most 65500 px.*Received: shape \(65501, 1, 3\)"):
        encode(np.zeros((65501, 1, 3), np.uint8))


def test_settings_survive_json_and_are_frozen():
    settings = Overlay(alpha=np.float32(0.25), scale=np.float64(2), size=[np.int64(30), 40], threshold=0, clip=[1, 99])
    assert Overlay(**json.loads(json.dumps(asdict(settings)))) == settings
    same = Overlay(alpha=0.25, scale=2.0, size=(30, 40), clip=(1.0, 99.0))
    assert settings == same
    assert Overlay(**json.loads(json.dumps(asdict(Overlay(caption="outputs"))))).caption == "outputs"
    assert hash(settings) == hash(same)
    assert Overlay(**json.loads(json.dumps(asdict(Overlay(size=np.int64(99)))))).size == 99
    with pytest.raises(FrozenInstanceError):
        settings.alpha = 1
