import keras
import numpy as np
import pytest

from keras_cam_callbacks import METHODS, RandomCAM, explain
from keras_cam_callbacks.methods import cams, resolve_method
from keras_cam_callbacks.records import Capture


def gradcam_plus_plus(activations, gradients):
    """With the addend that the library of the reference has and the paper has not."""
    return cams.gradcam_plus_plus(activations, gradients, eps=1e-6)


REFERENCED = ["gradcam", "xgradcam", "hirescam", "layercam", "gradcam_elementwise", "eigencam", "eigen_gradcam"]


@pytest.mark.parametrize("layer", ["relu2", "relu3"])
@pytest.mark.parametrize("method", [*REFERENCED, gradcam_plus_plus], ids=[*REFERENCED, "gradcam_plus_plus"])
def test_reference_through_the_whole_pipe(net, reference, method, layer):
    name = method if isinstance(method, str) else method.__name__
    explanation = explain(net, reference["images"], layer, method=method, target=reference["targets"])
    np.testing.assert_allclose(explanation.outputs, reference["logits"], atol=1e-5)
    expected, found = reference[f"{name}/{layer}/raw"], explanation.heatmaps
    assert found.shape == expected.shape == (4, *((20, 28) if layer == "relu3" else (22, 30)))
    if "eigen" in name:  # The sign of a singular vector is arbitrary.
        signs = np.sign((found * expected).sum((1, 2), keepdims=True))
        assert np.all(signs != 0)
        found = found * signs
    for one, other in zip(found, expected, strict=True):
        assert np.abs(one - other).max() <= 1e-4 * np.abs(other).max()


def test_every_method_of_the_cam_family_has_a_reference_or_a_closed_form():
    closed_form = {"cam", "randomcam"}  # tests/test_head.py, and below
    family = {name for name, method in METHODS.items() if method.function.__module__ == cams.__name__}
    assert family == {*REFERENCED, "gradcam_plus_plus"} | closed_form


A = np.stack([[[1, 2], [3, 4]], [[-1, 1], [1, 0]]], -1)[None].astype(np.float32)
G = np.stack([[[1, -1], [2, 2]], [[-2, 0], [4, 2]]], -1)[None].astype(np.float32)
A0, A1 = A[0, ..., 0], A[0, ..., 1]
BY_HAND = {
    # Mean gradients are 1 and 1.
    "gradcam": (cams.gradcam, (A, G), [[0, 3], [4, 4]]),
    "hirescam": (cams.hirescam, (A, G), [[3, -2], [10, 8]]),
    "layercam": (cams.layercam, (A, G), [[1, 0], [10, 8]]),
    "gradcam_elementwise": (cams.gradcam_elementwise, (A, G), [[3, 0], [10, 8]]),
    # sum(G A) / sum(A) is 13 / 10 and 6 / 1.
    "xgradcam": (cams.xgradcam, (A, G), [[-4.7, 8.6], [9.9, 5.2]]),
    # With sums S of 10 and 1, sum of relu(G) / (2 + G S): 1/12 + 2/22 + 2/22 = 35/132, and 4/6 + 2/4 = 7/6.
    "gradcam_plus_plus": (cams.gradcam_plus_plus, (A, G), 35 / 132 * A0 + 7 / 6 * A1),
    "cam": (cams.cam, (A, np.array([[2, -1]], np.float32)), [[3, 3], [5, 8]]),
    # Channels B and 2 B have the direction (1, 2) / sqrt(5), on which the centred B projects to sqrt(5) B.
    "eigencam": (cams.eigencam, (np.stack([A0, 2 * A0], -1)[None],), np.sqrt(5) * (A0 - 2.5)),
    "eigen_gradcam": (
        cams.eigen_gradcam,
        (np.stack([A0, 2 * A0], -1)[None], -np.ones((1, 2, 2, 2), np.float32)),
        -np.sqrt(5) * (A0 - 2.5),
    ),
}


@pytest.mark.parametrize(("function", "arguments", "expected"), BY_HAND.values(), ids=BY_HAND)
def test_by_hand(function, arguments, expected):
    before = [a.copy() for a in arguments]
    found = function(*arguments)
    assert (found.dtype, found.shape) == (np.float32, (1, 2, 2))
    np.testing.assert_allclose(found[0], expected, rtol=1e-5, atol=1e-6)
    for argument, old in zip(arguments, before, strict=True):
        np.testing.assert_array_equal(argument, old)
    # Every sample for itself.
    pair = [np.concatenate([a, 3 * a]) for a in arguments]
    np.testing.assert_allclose(function(*pair)[0], found[0], rtol=1e-6)


def test_plus_plus_by_the_formula_of_the_paper():
    """alpha = G^2 / (2 G^2 + G^3 sum A) position by position, in float64 and without any shortening."""
    rng = np.random.default_rng(5)
    activations, gradients = rng.random((3, 4, 5, 6)), rng.normal(size=(3, 4, 5, 6))
    expected = np.zeros((3, 4, 5))
    for n in range(3):
        for k in range(6):
            weight = 0.0
            for g in gradients[n, ..., k].ravel():
                alpha = g**2 / (2 * g**2 + g**3 * activations[n, ..., k].sum())
                weight += alpha * max(g, 0)
            expected[n] += weight * activations[n, ..., k]
    found = cams.gradcam_plus_plus(activations.astype(np.float32), gradients.astype(np.float32))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_plus_plus_does_not_vanish_with_small_gradients():
    """For G S small against 2 the weights are sum relu(G) / 2, at any scale."""
    tiny = G * np.float32(1e-20)
    expected = 1e-20 * (5 / 2 * A0 + 6 / 2 * A1)
    np.testing.assert_allclose(cams.gradcam_plus_plus(A, tiny)[0], expected, rtol=1e-5)


def test_degenerate_input_gives_zeros_or_nan_and_no_error():
    zero, nan = np.zeros_like(A), np.full_like(A, np.nan)
    for method in [method for method in METHODS.values() if method.function.__module__ == cams.__name__]:
        arguments = {"activations": zero, "gradients": zero, "kernel": zero[:, 0, 0]}
        assert (method.function(*(arguments[name] for name in method.needs)) == 0).all(), method.name
    for function in (cams.gradcam, cams.hirescam, cams.eigen_gradcam):
        assert np.isnan(function(A, nan)).all()
    assert np.isnan(cams.eigencam(nan)).all()
    # A channel whose activations sum to zero has no say in XGrad-CAM.
    balanced = A - A.mean((1, 2), keepdims=True) * [1, 0]
    np.testing.assert_allclose(cams.xgradcam(balanced.astype(np.float32), G)[0], 6 * A1, rtol=1e-5)


@pytest.mark.parametrize("shape", [(4, 5, 3), (2, 2, 7)], ids=["positions > channels", "channels > positions"])
def test_first_component_equals_a_singular_value_decomposition(shape):
    values = np.random.default_rng(2).normal(size=(2, *shape)).astype(np.float32)
    for found, sample in zip(cams.eigencam(values), values, strict=True):
        rows = sample.reshape(-1, shape[-1]).astype(np.float64)
        rows -= rows.mean(0)
        component = rows @ np.linalg.svd(rows)[2][0]
        component *= np.sign(component @ rows.sum(1))
        np.testing.assert_allclose(found.ravel(), component, atol=1e-5)


def weights_of(method, channels):
    """Each channel alone in a position of its own: the map is the mixture."""
    return method(np.eye(channels, dtype=np.float32)[None, None])[0, 0]


def test_random_mixture_is_uniform_and_the_same_for_all_images():
    weights = weights_of(RandomCAM(), 2000)
    assert weights.dtype == np.float32
    # Sorted, uniform numbers in [-1, 1] lie on a straight line, to about 2 / sqrt(n).
    assert np.abs(np.sort(weights) - np.linspace(-1, 1, 2000)).max() < 0.05
    assert -1 <= weights.min() < -0.99 < 0.99 < weights.max() <= 1

    values = np.random.default_rng(4).normal(size=(3, 4, 5, 6)).astype(np.float32)
    mixture = weights_of(RandomCAM(), 6)
    np.testing.assert_allclose(RandomCAM()(values), values @ mixture, atol=1e-5)
    np.testing.assert_allclose(RandomCAM()(values[1:2])[0], RandomCAM()(values)[1], atol=1e-5)
    assert np.abs(weights_of(RandomCAM(seed=1), 6) - mixture).max() > 0.1
    # Neighbouring channels and seeds are independent.
    other = weights_of(RandomCAM(seed=1), 2000)
    assert abs(np.corrcoef(weights, other)[0, 1]) < 0.06
    assert abs(np.corrcoef(weights[1:], weights[:-1])[0, 1]) < 0.06


def test_random_mixture_knows_no_score_and_no_gradient(net, reference):
    images = reference["images"]
    state = np.random.get_state()[1].copy()  # noqa: NPY002 - the state that users' code has
    maps = explain(net, images, "relu3", method="randomcam", target=0, batch_size=3).heatmaps
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002
    np.testing.assert_array_equal(explain(net, images, "relu3", method="randomcam", target=4).heatmaps, maps)
    front = keras.Model(net.inputs[0], net.get_layer("relu3").output)
    expected = keras.ops.convert_to_numpy(front(images)) @ weights_of(RandomCAM(), 24)
    assert maps.shape == (4, 20, 28)
    np.testing.assert_allclose(maps, expected, atol=1e-4 * np.abs(maps).max())


@pytest.mark.parametrize("seed", [-1, 0.5, True, None])
def test_impossible_seed(seed):
    with pytest.raises(ValueError, match=r"`seed` must be a whole number of at least 0. Received: seed="):
        RandomCAM(seed)
    assert resolve_method(RandomCAM(seed=3)).text == "randomcam(seed=3)"
    assert METHODS["randomcam"].function == RandomCAM()


def test_resolved_methods():
    assert resolve_method("layercam") is METHODS["layercam"]
    own = resolve_method(gradcam_plus_plus)
    assert (own.name, own.needs) == ("gradcam_plus_plus", ("activations", "gradients"))
    assert sorted(METHODS) == sorted(method.name for method in METHODS.values())


@pytest.mark.parametrize(("name", "close"), [("gradcma", "'gradcam'"), ("Layer-CAM", "layercam"), ("zzz", "eigencam")])
def test_unknown_method(name, close):
    with pytest.raises(ValueError, match=f"must be one of .*Received: '{name}'") as error:
        resolve_method(name)
    assert close in str(error.value)
    assert ("Did you mean" in str(error.value)) == (name != "zzz")


def test_method_of_no_kind():
    with pytest.raises(TypeError, match="Received: 3 of type int"):
        resolve_method(3)


def sideways(activations, gradients):
    return activations * gradients


def test_own_method_must_return_one_map_for_each_sample():
    none = np.zeros(0, np.float32)
    capture = Capture(A, G, None, None, none, None, None, none)
    maps, attributions, told = resolve_method(lambda a, g: (a * g).sum(-1))(capture)
    assert maps.tolist() == [[[3, -2], [10, 8]]]
    assert (attributions, told) == (None, {})
    with pytest.raises(ValueError, match=r"\(1, 2, 2\)\. Received: \(1, 2, 2, 2\) from method 'sideways'"):
        resolve_method(sideways)(capture)


def test_own_method_may_tell_numbers_of_each_sample():
    none = np.zeros(0, np.float32)
    capture = Capture(A, G, None, None, none, None, None, none)
    _, _, told = resolve_method(lambda a, g: ((a * g).sum(-1), {"largest": a.max((1, 2, 3))}))(capture)
    assert {name: (numbers.dtype, numbers.tolist()) for name, numbers in told.items()} == {
        "largest": (np.float32, [A.max()])
    }
    with pytest.raises(ValueError, match=r"one for each sample, here \(1,\)\. Received: 'mean' of shape \(\)"):
        resolve_method(lambda a, g: ((a * g).sum(-1), {"mean": a.mean()}))(capture)
