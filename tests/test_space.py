"""What must know the number of axes: two go through OpenCV bit for bit, one and three are held against closed forms."""

import cv2
import numpy as np
import pytest
from scipy import ndimage

from keras_cam_callbacks.space import blur, components, diagonal, places, resize

RNG = np.random.default_rng(0)
MAPS = RNG.normal(size=(3, 9, 14)).astype(np.float32)
IMAGES = RNG.random((2, 24, 17, 3), np.float32)


def volume(maps, depth=5):
    """Maps of two axes, the same at each depth."""
    return np.repeat(maps[:, None], depth, axis=1)


@pytest.mark.parametrize(
    ("how", "flag", "sizes"),
    [
        ("linear", cv2.INTER_LINEAR, [(9, 14), (31, 50), (4, 20), (1, 1), (2, 3)]),
        ("area", cv2.INTER_AREA, [(9, 14), (3, 7), (9, 5), (4, 14), (1, 1)]),
    ],
)
def test_two_axes_are_resized_by_opencv(how, flag, sizes):
    for size in sizes:
        for maps in (MAPS, MAPS.astype(np.float64)):
            resized = resize(maps, size, how)
            expected = np.stack([cv2.resize(one, size[::-1], interpolation=flag) for one in maps])
            assert resized.dtype == maps.dtype
            np.testing.assert_array_equal(resized, expected.reshape(3, *size))
            # What is the same at each depth stays so, and equals the maps of two axes.
            np.testing.assert_allclose(resize(volume(maps), (5, *size), how), volume(resized), rtol=1e-5, atol=1e-6)
    assert not np.shares_memory(resize(MAPS, (9, 14), how), MAPS)


def test_a_signal_is_interpolated_between_the_middles_of_its_positions():
    signal = RNG.normal(size=(2, 6)).astype(np.float32)
    for length in (3, 6, 25):
        at = (np.arange(length) + 0.5) * 6 / length - 0.5
        expected = [np.interp(at, np.arange(6), one) for one in signal]
        np.testing.assert_allclose(resize(signal, [length]), expected, rtol=1e-5, atol=1e-6)


def test_the_mean_over_areas_of_a_signal_by_hand():
    # Cells of two and a half positions: (1 + 2 + 3 / 2) / 2.5 and (3 / 2 + 4 + 5) / 2.5.
    signal = np.array([[1, 2, 3, 4, 5]], np.float32)
    resized = resize(signal, (2,), "area")
    assert resized.dtype == np.float32
    np.testing.assert_allclose(resized, [[1.8, 4.2]], rtol=1e-6)


def test_no_maps_are_no_error():
    assert resize(np.empty((0, 3, 4), np.float32), (6, 8)).shape == (0, 6, 8)
    assert resize(np.empty((0, 3), np.float32), (6,), "linear").shape == (0, 6)


@pytest.mark.parametrize(
    ("size", "how"), [((4,), "linear"), ((9, 14, 3), "linear"), ((9, 15), "area")], ids=["1", "3", "longer"]
)
def test_sizes_that_do_not_fit(size, how):
    with pytest.raises(ValueError, match=r"Received: a space of \(9, 14\), size="):
        resize(MAPS, size, how)


@pytest.mark.parametrize(("border", "flag"), [("reflect", cv2.BORDER_REFLECT), ("mirror", cv2.BORDER_REFLECT_101)])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_blurred_by_opencv_and_volumes_alike(border, flag, channels):
    images = IMAGES[..., :channels]
    blurred = blur(images, 1.2, border)
    expected = [cv2.GaussianBlur(image, (0, 0), 1.2, borderType=flag).reshape(image.shape) for image in images]
    np.testing.assert_array_equal(blurred, expected)
    deep = blur(volume(images), 1.2, border)
    assert deep.dtype == np.float32
    np.testing.assert_allclose(deep, volume(blurred), rtol=1e-4)


def test_a_blurred_pulse_is_a_gaussian():
    pulse = np.zeros((1, 41, 2), np.float32)
    pulse[0, 20, 1] = 1
    bell = np.exp(-((np.arange(41) - 20) ** 2) / (2 * 2.0**2))
    blurred = blur(pulse, 2.0)
    np.testing.assert_allclose(blurred[0, :, 1], bell / bell.sum(), atol=1e-4)
    assert not blurred[0, :, 0].any()


@pytest.mark.parametrize("shape", [(30,), (20, 24), (5, 20, 24)], ids=len)
def test_each_axis_is_blurred_by_its_own_deviation(shape):
    arrays = np.random.default_rng(0).random((2, *shape, 1), np.float32)
    sigmas = [1.0, 2.5, 0.8][: len(shape)]
    expected = ndimage.gaussian_filter(arrays.astype(float), (0, *sigmas, 0), mode="reflect")
    np.testing.assert_allclose(blur(arrays, sigmas), expected, atol=2e-3)


def test_connected_places_by_hand():
    assert components(np.array([1, 1, 0, 1, 0, 0, 1], bool)) == 3
    plane = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 0], [1, 0, 1]], bool)
    assert components(plane) == 3  # A corner connects.
    corners = np.zeros((3, 3, 3), bool)
    corners[0, 0, 0] = corners[1, 1, 1] = True
    assert components(corners) == 1
    corners[1, 1, 1], corners[0, 0, 2] = False, True
    assert components(corners) == 2
    assert [components(np.zeros((4,) * axes, bool)) for axes in (1, 2, 3)] == [0, 0, 0]


def test_where_cells_are_and_how_far_by_hand():
    # Ten positions in four cells: each is two and a half further.
    assert places((4,), (10,)).tolist() == [[0], [2.5], [5], [7.5]]
    assert places((2, 2), (2, 6)).tolist() == [[0, 0], [0, 3], [1, 0], [1, 3]]
    assert places((2, 1, 3), (2, 5, 6)).shape == (6, 3)
    assert diagonal((3, 4)) == 5
    assert diagonal((2, 3, 6)) == 7
    assert diagonal([[-3], [2]]).tolist() == [3, 2]
