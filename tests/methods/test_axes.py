"""Signals and volumes: every method's map of any number of axes, by hand or as that of an image."""

import numpy as np
import pytest

from keras_cam_callbacks import RISE, FullGrad, IntegratedGradients, Occlusion
from keras_cam_callbacks.methods import METHODS, cams, resolve_method
from keras_cam_callbacks.methods.fusion import fused
from keras_cam_callbacks.records import Capture

RNG = np.random.default_rng(0)
COUNT, DEPTH = 2, 3
ACTIVATIONS, GRADIENTS = (RNG.normal(size=(2, COUNT, 4, 6, 5))).astype(np.float32)
IMAGES, WEIGHTS = RNG.random((COUNT, 8, 12, 2), np.float32), RNG.normal(size=(8, 12, 2)).astype(np.float32)
OF_LAYER = [
    name for name, method in METHODS.items() if method.function.__module__ == cams.__name__ or name == "randomcam"
]
RESIZING = ("guided_gradcam", "scorecam", "fullgrad", "occlusion", "integrated_gradients")


def test_gradcam_of_a_signal_by_hand():
    activations = np.array([[[1, 0], [2, 1], [0, 3]]], np.float32)  # (1, T = 3, C = 2)
    gradients = np.array([[[1, -1], [1, 0], [4, -2]]], np.float32)  # of means 2 and -1
    assert cams.gradcam(activations, gradients).tolist() == [[2, 3, -3]]
    assert cams.hirescam(activations, gradients).tolist() == [[1, 2, -6]]
    assert cams.layercam(activations, gradients).tolist() == [[1, 2, 0]]


@pytest.mark.parametrize("shape", [(24,), (2, 2, 6), (2, 2, 2, 3)], ids=len)
@pytest.mark.parametrize("name", OF_LAYER)
def test_methods_of_a_layer_take_its_positions_in_any_arrangement(name, shape):
    method = METHODS[name]
    arrays = {"activations": ACTIVATIONS, "gradients": GRADIENTS, "kernel": GRADIENTS[:, 0, 0]}
    reshaped = {k: v if k == "kernel" else v.reshape(COUNT, *shape, 5) for k, v in arrays.items()}
    expected = method.function(*(arrays[need] for need in method.needs))
    heatmaps = method.function(*(reshaped[need] for need in method.needs))
    np.testing.assert_allclose(heatmaps, expected.reshape(COUNT, *shape), rtol=1e-5, atol=1e-5)


def deep(array):
    return np.repeat(array[:, None], DEPTH, axis=1)


def functions(images, activations, gradients, weights):
    """A model that is the mean over any depth, so that a volume of equal slices has the score of one."""
    depth = images[0, ..., 0].size / 96

    def score(pairs, total):
        return (float((image * weights).sum() / depth) for image, _ in pairs)

    def gradient(pairs, total):
        return (np.cos(image) * weights for image, _ in pairs)

    def full_gradient(pairs, total):
        return ((np.cos(image) * weights, (activations[row] ** 2, gradients[row]), 0.0) for image, row in pairs)

    def layer_score(pairs, total):
        return (float((of_layer**2).mean()) for of_layer, _ in pairs)

    names = ("gradient", "guided_gradient", "activation_gradient")
    scores = np.fromiter(score(((image, 0) for image in images), COUNT), np.float32)
    arrays = {"images": images, "activations": activations, "gradients": gradients, "scores": scores}
    return arrays | dict.fromkeys(names, gradient) | {
        "score": score, "layer_score": layer_score, "full_gradient": full_gradient
    }  # fmt: skip


@pytest.mark.parametrize(
    "method",
    [
        *(
            name
            for name in METHODS
            if name not in (*OF_LAYER, "occlusion", "rise", "integrated_gradients", "smoothgrad")
            if "readout" not in METHODS[name].needs
        ),
        FullGrad(scale="channel"),
        IntegratedGradients(baseline="blurred", steps=4),
        IntegratedGradients(rule="trapezoid", steps=4),
    ],
    ids=str,
)
def test_a_volume_that_is_the_same_at_each_depth_has_the_map_of_its_slice(method):
    method = resolve_method(method)
    of_plane = functions(IMAGES, ACTIVATIONS, GRADIENTS, WEIGHTS)
    of_volume = functions(deep(IMAGES), deep(ACTIVATIONS), deep(GRADIENTS), WEIGHTS[None])
    planes, volumes = (method.function(*(of[need] for need in method.needs)) for of in (of_plane, of_volume))
    if isinstance(planes, tuple):
        planes, volumes = planes[0], volumes[0]
    largest = np.abs(planes).max()
    assert largest > 0
    np.testing.assert_allclose(volumes, deep(planes), rtol=1e-4, atol=1e-5 * largest)


def test_occlusion_of_a_signal_and_of_a_volume_by_hand():
    # The score is the last position's value: only windows over it count.
    signal = np.array([[[1], [1], [1], [3]]], np.float32)
    heatmaps = Occlusion(window=2, stride=1)(signal, np.float32([3]), lambda pairs, _: (x[-1, 0] for x, _ in pairs))
    np.testing.assert_allclose(heatmaps, [[0, 0, 1.5, 3]])
    volume = RNG.random((1, 2, 4, 3, 1), np.float32)
    weights = RNG.normal(size=(2, 4, 3)).astype(np.float32)
    scores = (volume[..., 0] * weights).sum(axis=(1, 2, 3))
    heatmaps = Occlusion(window=1, stride=1)(
        volume, scores, lambda pairs, _: ((x[..., 0] * weights).sum() for x, _ in pairs)
    )
    np.testing.assert_allclose(heatmaps, volume[..., 0] * weights, rtol=1e-3, atol=1e-5)
    with pytest.raises(ValueError, match=r"one for each axis.*Received: \(2, 2\) for 1 axis\."):
        Occlusion(window=(2, 2), stride=1)(signal, np.float32([3]), lambda pairs, _: (0 for _ in pairs))


@pytest.mark.parametrize("size", [(30,), (6, 5, 7)], ids=["signal", "volume"])
def test_rise_shows_the_only_position_that_counts(size):
    place = tuple(side // 2 for side in size)
    masks = np.stack(list(RISE(masks=400, cells=3).draw(*size)))
    assert masks.shape == (400, *size)
    assert 0 <= masks.min() < masks.max() <= 1
    assert abs(masks.mean() - 0.5) < 0.05
    images = np.ones((1, *size, 1), np.float32)
    heatmaps = RISE(masks=400, cells=3)(images, lambda pairs, _: (float(x[(*place, 0)]) for x, _ in pairs))
    # n p M is the sum over the masks of (m at the place - its mean) m.
    seen = masks[(slice(None), *place)]
    expected = np.tensordot(seen - seen.mean(), masks, 1) / (400 * 0.5)
    np.testing.assert_allclose(heatmaps[0], expected, atol=1e-5)
    assert np.abs(np.array(np.unravel_index(heatmaps[0].argmax(), size)) - place).max() <= 1


def test_smoothgrad_of_a_signal_has_the_noise_of_each_position():
    images = RNG.random((2, 40, 3), np.float32)
    heatmaps = METHODS["smoothgrad"].function(images, lambda pairs, _: (image for image, _ in pairs))
    assert heatmaps.shape == images.shape
    deviations = 0.1 * np.ptp(images, axis=(1, 2)) / np.sqrt(25)
    np.testing.assert_allclose((heatmaps - images).std(axis=(1, 2)), deviations, rtol=0.2)


def test_layers_of_signals_are_fused():
    short, long = np.array([[0, 2]], np.float32), np.array([[1, 0, 0, 0]], np.float32)
    # Enlarged, 0 and 1 are 0, 1/4, 3/4, 1.
    np.testing.assert_allclose(fused([short, long]), [[0.5, 0.125, 0.375, 0.5]])
    np.testing.assert_allclose(fused([short, long], "maximum"), [[1, 0.25, 0.75, 1]])


def test_levels_without_heat_do_not_dim_the_others():
    short, long = np.array([[0, 2], [0, -1], [0, 0]], np.float32), np.array([[1, 0], [4, 2], [0, 0]], np.float32)
    np.testing.assert_allclose(fused([short, long], of_levels=True), [[0.5, 0.5], [1, 0.5], [0, 0]])
    np.testing.assert_allclose(fused([short, long]), [[0.5, 0.5], [0.5, 0.25], [0, 0]])


def test_a_method_of_the_users_is_checked_by_the_number_of_axes():
    capture = Capture(
        activations=ACTIVATIONS.reshape(COUNT, 24, 5), gradients=None, kernel=None, outputs=None, targets=None,
        predicted=None, scores=np.zeros(COUNT, np.float32), confidences=np.zeros(COUNT, np.float32),
    )  # fmt: skip
    mean = resolve_method(lambda activations: activations.mean(-1))
    object.__setattr__(mean, "needs", ("activations",))
    assert mean(capture)[0].shape == (COUNT, 24)
    wrong = resolve_method(Wrong())
    with pytest.raises(ValueError, match=r"here \(2, 24\)\. Received: \(2, 24, 5\)"):
        wrong(capture)


class Wrong:
    name = "wrong"
    needs = ("activations",)

    def __call__(self, activations):
        return activations
