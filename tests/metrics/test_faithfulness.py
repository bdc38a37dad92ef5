"""Insertion, deletion, drop and increase, against closed forms of a linear model."""

import cv2
import numpy as np
import pytest
from sklearn.metrics import auc

from keras_cam_callbacks.metrics import average_drop, deletion, increase, insertion, masked_confidence

NAN = float("nan")
SIZE = 8
RAMP = np.arange(SIZE * SIZE, dtype=np.float32).reshape(1, SIZE, SIZE)


def linear(weights, log=None):
    """The confidence is sum(weights * image)."""

    def confidence(copies, total):
        copies = list(copies)
        assert len(copies) == total
        if log is not None:
            log.append(total)
        yield from (float((weights * image[..., 0]).sum()) for image, _ in copies)

    return confidence


def image_of(values):
    return np.asarray(values, np.float32).reshape(1, SIZE, SIZE, 1)


def test_deletion_of_the_only_pixel_that_counts():
    # Of mean 0, so that what is gone is 0: the curve is 1, then 0 from the first step on.
    picture = np.zeros((SIZE, SIZE))
    picture[7, 7], picture[0, 0] = 1, -1
    weights = np.zeros((SIZE, SIZE))
    weights[7, 7] = 1
    for steps in (1, 4, 16):
        log = []
        found = deletion(image_of(picture), RAMP, linear(weights, log), np.ones(1), steps=steps)
        np.testing.assert_allclose(found, 1 / (2 * steps), atol=1e-6)
        assert log == [steps]
    # The other way round it is the last to go.
    found = deletion(image_of(picture), RAMP.max() - RAMP, linear(weights), np.ones(1), steps=16)
    np.testing.assert_allclose(found, 1 - 1 / 32, atol=1e-6)


def test_curves_agree_with_scikit_learn():
    rng = np.random.default_rng(0)
    images = rng.random((3, SIZE, SIZE, 1), np.float32)
    heatmaps = rng.random((3, SIZE, SIZE), np.float32)
    weights = rng.random((SIZE, SIZE)) / SIZE**2
    original = (images[..., 0] * weights).sum(axis=(1, 2))
    expected = {"insertion": [], "deletion": []}
    for image, heatmap in zip(images[..., 0], heatmaps, strict=True):
        order = np.argsort(-heatmap.ravel())
        blurred = cv2.GaussianBlur(image, (0, 0), SIZE / 20, borderType=cv2.BORDER_REFLECT)
        for name, start, end in (("insertion", blurred, image), ("deletion", image, np.full_like(image, image.mean()))):
            curve = []
            for k in range(9):
                mixed = start.ravel().copy()
                mixed[order[: k * 8]] = end.ravel()[order[: k * 8]]
                curve.append((mixed * weights.ravel()).sum())
            expected[name].append(auc(np.linspace(0, 1, 9), curve))
    for name, metric in (("insertion", insertion), ("deletion", deletion)):
        np.testing.assert_allclose(metric(images, heatmaps, linear(weights), original, steps=8), expected[name], 1e-5)


def test_an_additive_model_has_a_closed_form():
    """All weights alike and an image of two values: the curve of deletion is a polygon with two corners."""
    picture = np.where(RAMP[0] >= 32, 3.0, 1.0)  # mean 2; the upper half of the ramp is high
    weights = np.full((SIZE, SIZE), 1 / 256)  # 0.5 for the image, and for its mean
    found = deletion(image_of(picture), RAMP, linear(weights), np.full(1, 0.5), steps=8)
    # It falls to 0.5 - 32 / 256 at the middle, and comes back.
    np.testing.assert_allclose(found, 0.5 - 0.125 / 2, rtol=1e-6)


def test_drop_and_increase_by_hand():
    masked = np.array([0.2, 0.6, 0.9, NAN, 0.5, 0.5])
    original = np.array([0.8, 0.6, 0.6, 0.5, NAN, 0.0])
    np.testing.assert_allclose(average_drop(masked, original), [0.75, 0, 0, NAN, NAN, NAN])
    np.testing.assert_allclose(increase(masked, original), [0, 0, 1, NAN, NAN, 1])


def test_masked_confidence_by_hand():
    # Image less its mean, times map / maximum: a closed form for a linear model.
    rng = np.random.default_rng(1)
    images, heatmaps = rng.random((2, SIZE, SIZE, 1), np.float32), rng.normal(size=(2, SIZE, SIZE)).astype(np.float32)
    weights = rng.random((SIZE, SIZE)) / SIZE**2
    levels = np.maximum(heatmaps, 0) / heatmaps.max(axis=(1, 2), keepdims=True)
    means = images.mean(axis=(1, 2, 3)).reshape(2, 1, 1)
    expected = ((means + levels * (images[..., 0] - means)) * weights).sum(axis=(1, 2))
    np.testing.assert_allclose(masked_confidence(images, heatmaps, linear(weights), np.ones(2)), expected, rtol=1e-5)


def test_what_cannot_be_measured_costs_nothing_and_rows_are_kept():
    heatmaps = np.concatenate([RAMP * 0, RAMP, RAMP])
    seen = []

    def confidence(copies, total):
        for _, row in copies:
            seen.append(row)
            yield 0.5

    found = insertion(np.ones((3, SIZE, SIZE, 2), np.float32), heatmaps, confidence, np.array([1, NAN, 0.5]), steps=4)
    np.testing.assert_allclose(found, [NAN, NAN, 0.5])
    assert seen == [2] * 4


def test_wrong_arguments():
    images = np.ones((1, SIZE, SIZE, 1), np.float32)
    for steps in (0, 1.5, True):
        with pytest.raises(ValueError, match="`steps` must be a positive whole number"):
            deletion(images, RAMP, linear(0), np.ones(1), steps=steps)
    with pytest.raises(ValueError, match="with a heatmap and a probability for each"):
        masked_confidence(images, RAMP.repeat(2, 0), linear(0), np.ones(1))
