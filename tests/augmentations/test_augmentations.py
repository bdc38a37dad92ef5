import math
import random

import numpy as np
import pytest
from scipy import ndimage

from keras_cam_callbacks.augmentations import (
    AUGMENTATIONS,
    Augmentation,
    apply,
    brightness_contrast,
    bring_back,
    compose,
    crop_and_resize,
    cut_out,
    flip,
    resolve_augmentations,
    rotation,
    sun_flare,
)
from keras_cam_callbacks.metrics import correlation

NAN = float("nan")
SIZE = 40, 56
MOVING = {
    **{name: augmentation for name, augmentation in AUGMENTATIONS.items() if augmentation.inverse},
    "flip both": flip(True, True),
    "rotation -100": rotation(-100),
    "crop at a side": crop_and_resize(0.6, (1, 0.2)),
}
BGR_MEAN = np.array([103.939, 116.779, 123.68], np.float32)


def photographs(samples=3, size=SIZE, channels=3, seed=0):
    """Smooth images in [0, 1], each channel with an extent of its own."""
    noise = np.random.default_rng(seed).random((samples, *size, channels))
    smooth = ndimage.gaussian_filter(noise, (0, 3, 3, 0))
    low, high = smooth.min(axis=(1, 2), keepdims=True), smooth.max(axis=(1, 2), keepdims=True)
    ends = np.random.default_rng(seed + 1).uniform(0, 0.3, (2, samples, 1, 1, channels))
    return (ends[0] + (smooth - low) / (high - low) * (1 - ends.sum(axis=0))).astype(np.float32)


def blob(y, x, size=SIZE, width=2.0):
    rows, columns = np.ogrid[: size[0], : size[1]]
    return np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * width**2)).astype(np.float32)[None]


def place(picture):
    """Centre of mass of one picture (H, W), without what is NaN or below half of the maximum."""
    picture = np.where(picture > np.nanmax(picture) / 2, picture, 0)
    return np.array(ndimage.center_of_mass(picture))


def numbers(shape):
    return np.arange(math.prod(shape), dtype=np.float32).reshape(shape)


@pytest.mark.parametrize(("horizontal", "vertical"), [(True, False), (False, True), (True, True)])
def test_flip_and_its_way_back_are_exact(horizontal, vertical):
    images, heatmaps = photographs(), photographs(seed=2)[..., 0]
    down, across = (-1 if vertical else 1), (-1 if horizontal else 1)
    np.testing.assert_array_equal(apply(flip(horizontal, vertical), images), images[:, ::down, ::across])
    np.testing.assert_array_equal(bring_back(flip(horizontal, vertical), heatmaps[:, ::down, ::across], SIZE), heatmaps)


def test_a_quarter_turn_is_exact():
    images = photographs(size=(9, 9))
    for degrees, times in ((90, 1), (-90, 3), (180, 2), (450, 1), (360, 0), (0, 0)):
        turned = apply(rotation(degrees), images)
        np.testing.assert_array_equal(turned, np.rot90(images, times, axes=(1, 2)))
        np.testing.assert_array_equal(bring_back(rotation(degrees), turned[..., 0], (9, 9)), images[..., 0])


def test_a_quarter_turn_of_a_wide_image_by_hand():
    # The middle four columns become rows. The outer two leave the frame, and the image reflected takes their place.
    image = numbers((1, 4, 6, 1))
    turned = apply(rotation(90), image)[0, ..., 0]
    np.testing.assert_array_equal(turned[:, 1:5], np.rot90(image[0, :, 1:5, 0]))
    np.testing.assert_array_equal(turned[:, [0, 5]], turned[:, [2, 3]])
    back = bring_back(rotation(90), turned[None], (4, 6))[0]
    np.testing.assert_array_equal(back[:, 1:5], image[0, :, 1:5, 0])
    assert np.isnan(back[:, [0, 5]]).all()


@pytest.mark.parametrize("degrees", [15, -33, 120])
def test_rotation_agrees_with_scipy(degrees):
    images = photographs()
    angle, centre = math.radians(degrees), (np.array(SIZE) - 1) / 2
    # Rows point down: counter-clockwise on the screen is clockwise in (row, column).
    matrix = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    expected = [
        ndimage.affine_transform(image[..., c], matrix, centre - matrix @ centre, order=1, mode="mirror")
        for image in images
        for c in range(3)
    ]
    expected = np.moveaxis(np.reshape(expected, (3, 3, *SIZE)), 1, -1)
    # OpenCV 4 rounds coordinates to 1/32 px.
    np.testing.assert_allclose(apply(rotation(degrees), images), expected, atol=0.02)


def test_rotation_knows_what_left_the_frame():
    degrees = 15
    back = bring_back(rotation(degrees), np.ones((1, *SIZE)), SIZE)[0]
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    middle = (SIZE[1] - 1) / 2 + 1j * (SIZE[0] - 1) / 2
    moved = (x + 1j * y - middle) * np.exp(-1j * math.radians(degrees)) + middle
    inside = np.minimum.reduce([moved.real, moved.imag, SIZE[1] - 1 - moved.real, SIZE[0] - 1 - moved.imag])
    assert np.isnan(back[inside < -0.05]).all()
    np.testing.assert_allclose(back[inside > 0.05], 1, atol=1e-3)
    assert 0.1 < np.isnan(back).mean() < 0.3


@pytest.mark.parametrize("degrees", [15, -40, 170])
@pytest.mark.parametrize("at", [(20, 28), (12, 20), (26, 37)])
def test_rotation_brings_a_blob_back(degrees, at):
    turned = apply(rotation(degrees), blob(*at)[..., None])[..., 0]
    # (row, column) about the centre, counter-clockwise as seen.
    centre, angle = (np.array(SIZE) - 1) / 2, math.radians(degrees)
    down, right = np.array(at) - centre
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    expected = centre + turn @ (down, right)
    assert np.abs(place(turned[0]) - expected).max() < 0.2
    assert np.abs(place(bring_back(rotation(degrees), turned, SIZE)[0]) - at).max() < 0.2


def test_crop_by_hand():
    heatmaps = np.random.default_rng(0).random((2, 8, 12), np.float32)
    for position, rows, columns in (
        ((0.5, 0.5), slice(2, 6), slice(3, 9)),
        ((0, 1), slice(0, 4), slice(6, 12)),
        ((1, 0), slice(4, 8), slice(0, 6)),
    ):
        augmentation = crop_and_resize(0.5, position)
        # Twice as large, the values stand a quarter of a pixel beside the old ones; the outermost are repeated.
        ramps = np.stack(np.broadcast_arrays(*np.ogrid[:8.0, :12.0]), axis=-1)[None].astype(np.float32)
        down = np.interp(np.arange(8) / 2 - 0.25, np.arange(4), np.arange(8)[rows])
        across = np.interp(np.arange(12) / 2 - 0.25, np.arange(6), np.arange(12)[columns])
        cropped = apply(augmentation, ramps)[0]
        np.testing.assert_allclose(cropped[..., 0], np.broadcast_to(down[:, None], (8, 12)), atol=1e-5)
        np.testing.assert_allclose(cropped[..., 1], np.broadcast_to(across, (8, 12)), atol=1e-5)
        # And on the way back four pixels become one.
        expected = np.full((2, 8, 12), NAN)
        expected[:, rows, columns] = heatmaps.reshape(2, 4, 2, 6, 2).mean(axis=(2, 4))
        np.testing.assert_allclose(bring_back(augmentation, heatmaps, (8, 12)), expected, rtol=1e-6)


def test_a_small_crop_comes_back_as_the_means_of_its_pixels():
    heatmaps = np.random.default_rng(0).random((1, 8, 12), np.float32)
    back = bring_back(crop_and_resize(0.25), heatmaps, (8, 12))[0, 3:5, 4:7]
    np.testing.assert_allclose(back, heatmaps.reshape(2, 4, 3, 4).mean(axis=(1, 3)), rtol=1e-6)


def test_crop_takes_whole_pixels():
    # 0.75 of 7 x 9 are 5 x 7 pixels, from row 1 and column 1; the least that is kept is a pixel.
    shown = ~np.isnan(bring_back(crop_and_resize(0.75), np.ones((1, 7, 9)), (7, 9))[0])
    np.testing.assert_array_equal(np.argwhere(shown)[[0, -1]], [[1, 1], [5, 7]])
    assert shown.sum() == 35
    image = numbers((1, 5, 5, 1))
    np.testing.assert_array_equal(apply(crop_and_resize(0.01), image), np.full_like(image, 12))
    np.testing.assert_array_equal(apply(crop_and_resize(1), image), image)


def test_brightness_and_contrast_by_hand():
    image = np.array([0, 1, 2, 5], np.float32).reshape(1, 2, 2, 1)  # mean 2, black 0, white 5

    def changed(*options, **more):
        return apply(brightness_contrast(*options, **more), image).ravel().tolist()

    assert changed(0, 1) == [0, 1, 2, 5]
    assert changed(0.2, 1) == [1, 2, 3, 5]
    assert changed(-0.2, 1) == [0, 0, 1, 4]
    assert changed(0, 1.5) == [0, 0.5, 2, 5]
    assert changed(0, 0) == [2, 2, 2, 2]
    assert changed(0.2, 0.5) == [2, 2.5, 3, 4.5]
    assert changed(0.2, 1, value_range=(-10, 10)) == [4, 5, 6, 9]
    assert changed(0.2, 1, value_range=(-10, [6])) == pytest.approx([3.2, 4.2, 5.2, 6])


def test_cut_out_by_hand():
    images = photographs()
    augmentation = cut_out(1, 0.25, seed=3)
    cut = apply(augmentation, images)
    removed = np.isnan(bring_back(augmentation, np.ones((1, *SIZE)), SIZE)[0])
    # A quarter of 40 px; where the generator says, among the 31 and 47 places that there are.
    down, across = np.random.default_rng(3).random(2)
    top, left = math.floor(down * 31), math.floor(across * 47)
    expected = np.zeros(SIZE, bool)
    expected[top : top + 10, left : left + 10] = True
    np.testing.assert_array_equal(removed, expected)
    np.testing.assert_array_equal(cut[:, ~removed], images[:, ~removed])
    black = np.broadcast_to(images.min(axis=(1, 2))[:, None], (3, 100, 3))
    np.testing.assert_array_equal(cut[:, removed], black)
    half = apply(cut_out(1, 0.25, 3, 0.5, value_range=(0, (1, 0.5, 2))), images)
    np.testing.assert_allclose(half[:, removed], np.broadcast_to([0.5, 0.25, 1], (3, 100, 3)))


def test_cut_out_has_its_boxes_at_other_places_with_another_seed():
    def shown(seed, size=SIZE, boxes=6):
        return ~np.isnan(bring_back(cut_out(boxes, seed=seed), np.ones((1, *size)), size)[0])

    assert not np.array_equal(shown(1), shown(2))
    assert (~shown(7)).sum() == 6 * 6**2  # By default no two overlap.
    assert np.abs(place(~shown(7, boxes=1)) - place(~shown(7, (80, 112), 1)) / 2).max() < 1


def test_sun_flare_by_hand():
    image = np.zeros((1, 101, 201, 3), np.float32)
    image[0, 0, 0] = 1, 10, 100
    augmentation = sun_flare((0.3, 0.2), radius=0.3, strength=0.8)  # the sun at (30, 40), 30.3 px
    lit = apply(augmentation, image)[0]
    light = lit[..., 0]
    np.testing.assert_allclose(lit[1:], light[1:, :, None] * np.array([1, 10, 100]), rtol=1e-5)
    assert light[30, 40] == pytest.approx(0.8)
    assert light[1:].max() == light[30, 40]
    for distance in (5, 10, 20, 29):
        near = 1 - distance / 30.3
        expected = 0.8 * min(1, 1.6 * near**2)
        assert light[30, 40 - distance] == pytest.approx(expected, rel=1e-5)
        assert light[30 - distance, 40] == pytest.approx(expected, rel=1e-5)
    assert light[30, 9] == light[95, 20] == light[5, 150] == 0
    # Discs on the line from the sun through the centre (50, 100): the fourth is at 1.4, (58, 124), 11.11 px wide.
    assert light[58, 124] == pytest.approx(0.8 * 0.25)
    assert light[58 + 13, 124] == light[58 - 13, 124] == 0
    # The last reaches beyond the centre as far as the sun is away from it: it is at 1.95, (69, 157).
    assert light[69 + 12, 157] == pytest.approx(0.8 * 0.2)
    assert (light > 0).mean() < 0.3


def test_a_flare_is_white_where_white_is_known():
    image = np.full((1, 20, 20, 3), 0.1, np.float32)
    image[0, 10:] = 0.2
    sun = np.s_[0, 4, 4]
    own = apply(sun_flare((4 / 19, 4 / 19), strength=1), image)
    known = apply(resolve_augmentations(["sun_flare"], (0, 1))["sun_flare"], image)
    np.testing.assert_allclose(own[sun], 0.2)
    assert 0.85 < known.max() < 0.95  # Its strength is 0.9.
    assert apply(AUGMENTATIONS["sun_flare"], image).max() <= np.float32(0.2)


def test_composition_goes_back_in_reverse_order():
    double = Augmentation(lambda images: images * 2, lambda heatmaps: heatmaps / 2)
    rise = Augmentation(lambda images: images + 1, lambda heatmaps: heatmaps - 1)
    both = compose(double, np.sqrt, rise)
    image = np.full((1, 2, 2, 1), 8, np.float32)
    np.testing.assert_array_equal(apply(both, image), np.full_like(image, 5))
    np.testing.assert_array_equal(bring_back(both, np.full((1, 2, 2), 5), (2, 2)), np.full((1, 2, 2), 2))
    assert compose(sun_flare(), np.sqrt).inverse is None

    images = photographs(size=(9, 9))
    moved = apply(compose(rotation(90), flip()), images)
    np.testing.assert_array_equal(moved, np.rot90(images, axes=(1, 2))[:, :, ::-1])
    np.testing.assert_array_equal(bring_back(compose(rotation(90), flip()), moved[..., 0], (9, 9)), images[..., 0])


def test_nan_moves_with_the_pixels_and_does_not_grow():
    boxes = cut_out(2, 0.2, seed=1)
    hidden = np.isnan(bring_back(boxes, np.ones((1, 40, 40)), (40, 40)))
    back = bring_back(compose(rotation(90), flip(), boxes), np.ones((1, 40, 40)), (40, 40))
    np.testing.assert_array_equal(np.isnan(back), np.rot90(hidden[:, :, ::-1], -1, axes=(1, 2)))
    # Four pixels become one, which is known where all four are.
    boxes = cut_out(1, 0.2, seed=1)
    hidden = np.isnan(bring_back(boxes, np.ones((1, 40, 40)), (40, 40)))
    back = bring_back(compose(crop_and_resize(0.5), boxes), np.ones((1, 40, 40)), (40, 40))
    expected = hidden.reshape(20, 2, 20, 2).any(axis=(1, 3))
    np.testing.assert_array_equal(np.isnan(back[0, 10:30, 10:30]), expected)
    np.testing.assert_array_equal(back[0, 10:30, 10:30][~expected], 1)


@pytest.mark.parametrize("name", MOVING)
@pytest.mark.parametrize("at", [(80, 70), (108, 88), (112, 150)])
def test_a_blob_in_the_image_comes_back_to_its_place(name, at):
    """What a blob changes in the augmented image, taken as the heatmap, comes back to where the blob was.

    The places are such that "all" neither cuts nor turns most of the blob away.
    """
    size = (160, 224)
    augmentation = resolve_augmentations([name], (0, 1))[name] if name in AUGMENTATIONS else MOVING[name]
    with_blob = 0.2 + 0.5 * blob(*at, size, width=6)[..., None]
    heatmaps = apply(augmentation, with_blob) - apply(augmentation, np.full_like(with_blob, 0.2))
    back = bring_back(augmentation, heatmaps[..., 0], size)
    original = np.where(np.isnan(back), 0, blob(*at, size, width=6))
    assert np.abs(place(back[0]) - place(original[0])).max() < 1
    # The flare fades a part of the blob.
    assert correlation(back, original)[0] > (0.98 if name == "all" else 0.999)
    if name != "cut_out":  # Unless it is brought back, the blob is elsewhere.
        assert correlation(heatmaps[..., 0], original)[0] < 0.6


LEAVING = ("noise", "scale")  # The range of the values.


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_any_value_range_gives_the_same_picture_in_it(name):
    images = photographs()
    augmented = apply(AUGMENTATIONS[name], images)
    assert np.abs(augmented - images).max() > (0.1 if name == "noise" else 0.2)
    for scale, shift in ((1, 0), (255, 0), (2, -1), (255, -BGR_MEAN), (1, 5)):
        ranged = (images * scale + shift).astype(np.float32)
        before = ranged.copy()
        found = apply(AUGMENTATIONS[name], ranged)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(ranged, before)
        np.testing.assert_allclose(found, augmented * scale + shift, atol=1e-5 * scale + 1e-5)
        if name in LEAVING:
            continue
        assert (found >= ranged.min(axis=(1, 2), keepdims=True)).all()
        assert (found <= ranged.max(axis=(1, 2), keepdims=True)).all()
    if name in LEAVING:
        return
    known = apply(resolve_augmentations([name], (0, 1))[name], images)
    assert known.min() >= 0
    assert known.max() <= 1


def test_rounding_stays_between_black_and_white():
    rng = np.random.default_rng(0)
    for _ in range(200):
        # Pixels that are black or white: there bilinear weights need only sum to a bit more than 1.
        image = rng.integers(0, 2, (1, *rng.integers(5, 120, 2), 1)) * rng.uniform(0, 3) + rng.normal()
        image = image.astype(np.float32)
        for augmentation in (
            rotation(rng.uniform(-180, 180)),
            crop_and_resize(rng.uniform(0.1, 1)),
            sun_flare(strength=1),
            brightness_contrast(),
        ):
            augmented = apply(augmentation, image)
            assert image.min() <= augmented.min()
            assert augmented.max() <= image.max()


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_what_is_constant_stays_constant(name):
    image = photographs(1)
    image[..., 1] = np.float32(0.1)
    augmented = apply(AUGMENTATIONS[name], image)
    np.testing.assert_array_equal(augmented[..., 1], image[..., 1])
    assert not np.array_equal(augmented[..., 0], image[..., 0])


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_no_sample_depends_on_the_others_or_on_chance(name):
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - the global state is what is tested
    states = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    images, heatmaps = photographs(5), photographs(5, seed=3)[..., 0]
    images[4] *= 255
    together = apply(AUGMENTATIONS[name], images)
    back = bring_back(AUGMENTATIONS[name], heatmaps, SIZE)
    for rows in ([0], [4], [2, 1], [4, 3, 2, 1, 0], [1, 1]):
        np.testing.assert_array_equal(apply(AUGMENTATIONS[name], images[rows]), together[rows])
        np.testing.assert_array_equal(bring_back(AUGMENTATIONS[name], heatmaps[rows], SIZE), back[rows])
    again = resolve_augmentations([name])[name]
    np.testing.assert_array_equal(apply(again, images), together)
    assert states == (random.getstate(), np.random.get_state()[1].tolist())  # noqa: NPY002


@pytest.mark.parametrize("size", [(30, 48), (48, 30), (1, 1), (1, 7), (5, 2)])
@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_any_size_and_number_of_channels(name, size):
    images = photographs(2, size, 7) if min(size) > 5 else numbers((2, *size, 7))
    augmented = apply(AUGMENTATIONS[name], images)
    assert augmented.shape == images.shape
    for channels in (slice(0, 1), slice(0, 3), slice(3, 7)):
        np.testing.assert_array_equal(apply(AUGMENTATIONS[name], images[..., channels]), augmented[..., channels])
    assert bring_back(AUGMENTATIONS[name], images[..., 0], size).shape == (2, *size)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_layout_and_type_of_the_images_do_not_count(name):
    images = np.rint(photographs() * 255).astype(np.uint8)
    expected = apply(AUGMENTATIONS[name], images.astype(np.float32))
    assert expected.dtype == np.float32
    for other in (images, np.asfortranarray(images, np.float32), images.astype(np.float64)):
        other.flags.writeable = False
        np.testing.assert_array_equal(apply(AUGMENTATIONS[name], other), expected)
