"""Samples that are chosen by one pass, of data of any kind."""

import numpy as np
import pytest

from keras_cam_callbacks.data.chosen import best_samples, matching_samples

X = np.random.default_rng(0).random((103, 4, 4, 1), np.float32)
Y = np.arange(103) % 5
VALUES = X.mean(axis=(1, 2, 3)).astype(float)
VALUES[[7, 50]] = np.nan, np.inf  # What is not finite is not chosen.
OF_PIXELS = {image.tobytes(): value for image, value in zip(X, VALUES, strict=True)}
BEST = [row for row in np.argsort(-VALUES, kind="stable") if np.isfinite(VALUES[row])][:9]
KINDS = {
    "arrays": (X, Y),
    "images alone": X,
    "batches": [(X[i : i + 40], Y[i : i + 40]) for i in range(0, 103, 40)],
    "one by one": list(zip(X, Y, strict=True)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_best_of_all_are_kept(kind):
    sizes = []

    def values(x, y):
        sizes.append(len(x))
        return [OF_PIXELS[image.tobytes()] for image in x]

    x, y, rows, total = best_samples(KINDS[kind], None, 9, values, 32)
    assert (rows.tolist(), total) == (BEST, 103)
    assert max(sizes) == 32
    np.testing.assert_array_equal(x, X[BEST])
    assert y is None if kind == "images alone" else y.tolist() == Y[BEST].tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_samples_are_found_wherever_they_are(kind):
    def pixels(x, y):
        return [image.tobytes() for image in x]

    wanted = pixels(X[[90, 3, 50]], None)
    (x, _, rows, total), lacking = matching_samples(KINDS[kind], None, wanted, pixels, 32)
    assert (rows.tolist(), total, lacking) == ([90, 3, 50], 103, ())
    np.testing.assert_array_equal(x, X[[90, 3, 50]])
    _, lacking = matching_samples(KINDS[kind], None, [*wanted, b"other"], pixels, 32)
    assert lacking == (b"other",)


def test_equal_ones_are_those_that_come_first():
    *_, rows, _ = best_samples((X, Y), None, 3, lambda x, y: np.ones(len(x)), 32)
    assert rows.tolist() == [0, 1, 2]
    *_, rows, total = best_samples((X, Y), None, 3, lambda x, y: np.full(len(x), np.nan), 32)
    assert (len(rows), total) == (0, 103)
