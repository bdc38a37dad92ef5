"""From outputs to probabilities; what is explained of outputs is tested with the targets and in captures."""

import numpy as np
import pytest

from keras_cam_callbacks.passes.scores import confidences


def softmax(*z):
    return np.exp(z) / np.exp(z).sum()


CONFIDENCES = {
    # outputs, scores, classes, whether they are activated, probability
    "softmax": ([[0.2, 0.7, 0.1]], [9.0], [1], True, [0.7]),
    "softmax not known as such": ([[0.2, 0.7, 0.1]], [9.0], [2], False, [0.1]),
    "sigmoids": ([[0.9, 0.8, 0.7]], [9.0], [2], True, [0.7]),
    "logits": ([[1.0, 2.0, 3.0]], [2.0], [1], False, [softmax(1, 2, 3)[1]]),
    "large logits": ([[1000.0, 0.0]], [1000.0], [0], False, [1.0]),
    "one sigmoid": ([[0.8], [0.3]], [9.0, 9.0], [1, 0], True, [0.8, 0.7]),
    "one logit": ([[2.0], [-1.0]], [2.0, 1.0], [1, 0], False, [1 / (1 + np.exp(-2)), 1 / (1 + np.exp(-1))]),
    "labels": ([[2.0, -1.0]], [-1.0], [1], "labels", [1 / (1 + np.exp(1))]),
    "labels that sum to one": ([[0.25, 0.75]], [0.75], [1], "labels", [1 / (1 + np.exp(-0.75))]),
    "no class": ([[2.0]], [2.0], None, False, [np.nan]),
    "no outputs": (None, [2.0], [0], False, [np.nan]),
}


@pytest.mark.parametrize(
    ("outputs", "scores", "classes", "activated", "expected"), CONFIDENCES.values(), ids=CONFIDENCES
)
def test_confidences(outputs, scores, classes, activated, expected):
    outputs = None if outputs is None else np.array(outputs, np.float32)
    classes = None if classes is None else np.array(classes)
    known = (False, True) if activated == "labels" else (activated, False)
    found = confidences(outputs, np.array(scores, np.float32), classes, *known)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6)
