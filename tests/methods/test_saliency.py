import logging
import tracemalloc

import keras
import numpy as np
import pytest
from keras import layers

from keras_cam_callbacks import (
    METHODS,
    GuidedBackprop,
    GuidedGradCAM,
    HeatmapLogger,
    InputXGradient,
    IntegratedGradients,
    MaxActivation,
    MemoryTracker,
    Overlay,
    Saliency,
    SmoothGrad,
    explain,
    read_run,
)
from keras_cam_callbacks.methods import resolve_method, saliency

# captum weights the n positions of the trapezoid rule with sum (n - 1) / n; the rule's own weights sum to 1.
REFERENCED = {
    "saliency": (Saliency(), None, 1),
    "input_x_gradient": (InputXGradient(), None, 1),
    "guided_backprop": (GuidedBackprop(), None, 1),
    "guided_gradcam/relu3": (GuidedGradCAM(), "relu3", 1),
    "integrated_gradients_50_zero_baseline_gausslegendre": (IntegratedGradients(steps=50), None, 1),
    "integrated_gradients_64_zero_baseline_trapezoid": (IntegratedGradients(steps=64, rule="trapezoid"), None, 64 / 63),
}


@pytest.mark.parametrize("name", REFERENCED)
def test_equals_the_reference(net, reference, name):
    method, layer, factor = REFERENCED[name]
    explanation = explain(net, reference["images"], layer, method=method, target=reference["targets"])
    expected = factor * reference[name]
    assert explanation.attributions.shape == expected.shape == (4, 48, 64, 3)
    for one, other in zip(explanation.attributions, expected, strict=True):
        wrong = np.abs(one - other) > 1e-4 * np.abs(other).max()
        # On the way from a baseline a ReLU may be at zero in one of the steps: how the processor rounds then switches
        # it, and with it the pixels that it sees.
        assert wrong.mean() <= (0.005 if name.startswith("integrated") else 0)
        assert np.abs(one - other).max() <= (1e-3 if name.startswith("integrated") else 1e-4) * np.abs(other).max()
    np.testing.assert_allclose(explanation.heatmaps, np.abs(explanation.attributions).sum(-1), rtol=1e-5)
    np.testing.assert_allclose(explanation.outputs, reference["logits"], atol=1e-5)
    assert explanation.layer_name == (layer or "")


def test_saliency_of_a_layers_maximum_equals_differences(net, reference):
    """Central differences of sum_ij max_k A, taken outside the package, in some pixels."""
    front, image = keras.Model(net.inputs[0], net.get_layer("relu2").output), reference["images"][:1]
    found = explain(net, image, "relu2", method="max_activation").attributions[0]
    pixels = [(5, 7, 0), (24, 32, 1), (40, 60, 2), (12, 50, 0)]
    shifted = np.repeat(image, 2 * len(pixels), axis=0)
    for k, pixel in enumerate(pixels):
        shifted[2 * k][pixel] += 1e-3
        shifted[2 * k + 1][pixel] -= 1e-3
    sums = keras.ops.convert_to_numpy(front(shifted)).astype(np.float64).max(-1).sum((1, 2))
    slopes = (sums[::2] - sums[1::2]) / 2e-3
    assert np.abs(slopes).max() > 0.01
    np.testing.assert_allclose([found[pixel] for pixel in pixels], slopes, atol=0.02 * np.abs(slopes).max())
    guided = explain(net, image, "relu2", method=MaxActivation(guided=True)).attributions[0]
    assert np.abs(guided - found).max() > 0.1 * np.abs(found).max()


W = np.random.default_rng(0).normal(size=(3, 4, 5, 2)).astype(np.float32)
"""Weights of linear "models": one for each of three samples."""
X = np.random.default_rng(1).random((3, 4, 5, 2), np.float32)


def linear(copies, total):
    return (W[row] for _, row in copies)


def quadratic(copies, total):
    """Of the score sum(w x^3) / 3."""
    return (W[row] * image**2 for image, row in copies)


def cubic_score(copies, total=None):
    return ((W[row] * image**3).sum() / 3 for image, row in copies)


def test_a_linear_model_has_its_weights_as_saliency():
    np.testing.assert_array_equal(Saliency()(X, linear), W)
    np.testing.assert_allclose(InputXGradient()(X, linear), X * W, rtol=1e-6)
    np.testing.assert_allclose(SmoothGrad(samples=7, sigma=3.0)(X, linear), W, rtol=1e-6)
    np.testing.assert_allclose(SmoothGrad(samples=7, average="absolute")(X, linear), np.abs(W), rtol=1e-6)


@pytest.mark.parametrize("rule", ["gausslegendre", "trapezoid"])
def test_integrated_gradients_of_a_polynomial(rule):
    """The integral of w (b + t d)^2 over t is w (b^2 + b d + d^2 / 3)."""
    baseline = np.full((4, 5, 2), 0.25, np.float32)
    scores = np.fromiter(cubic_score(zip(X, range(3), strict=True)), np.float32)
    method = IntegratedGradients(baseline=baseline, steps=400 if rule == "trapezoid" else 2, rule=rule)
    found, told = method(X, scores, quadratic, cubic_score)
    d = X - baseline
    np.testing.assert_allclose(found, d * W * (baseline**2 + baseline * d + d**2 / 3), atol=1e-5)
    np.testing.assert_allclose(
        found, IntegratedGradients(0.25, steps=method.steps, rule=rule)(X, scores, quadratic, cubic_score)[0], rtol=1e-6
    )
    started = np.fromiter(cubic_score((baseline, row) for row in range(3)), np.float32)
    np.testing.assert_allclose(found.sum((1, 2, 3)), scores - started, rtol=1e-3)
    np.testing.assert_array_equal(told["completeness_gap"], saliency.completeness_gap(found, scores, started))
    assert told["completeness_gap"].max() < 1e-3
    np.testing.assert_allclose(saliency.completeness_gap(0.9 * found, scores, started), 0.1, atol=1e-3)


def test_integrated_gradients_are_complete_on_the_net(net, reference, caplog):
    images, targets = reference["images"], reference["targets"]
    rows = np.arange(4)
    for baseline in (0.5, "blurred", images[::-1][0]):
        method = IntegratedGradients(baseline, steps=64, channels="signed")
        with caplog.at_level(logging.INFO, "keras_cam_callbacks"):
            found = explain(net, images, method=method, target=targets)
        assert "largest completeness gap" in caplog.records[-1].message
        start = method._baselines(images)
        difference = (keras.ops.convert_to_numpy(net(images)) - keras.ops.convert_to_numpy(net(start)))[rows, targets]
        tolerance = 0.02 * np.abs(difference).max()
        np.testing.assert_allclose(found.heatmaps.sum((1, 2)), difference, atol=tolerance)
        assert np.abs(difference).max() > 10 * tolerance
        gap = np.abs(found.heatmaps.sum((1, 2)) - difference)
        differ = np.abs(difference) > tolerance  # One of the images is the baseline.
        told = found.values["completeness_gap"][differ]
        np.testing.assert_allclose(told, gap[differ] / np.abs(difference[differ]), atol=1e-3)


def test_too_few_steps_are_said(caplog):
    scores = np.fromiter(cubic_score(zip(X, range(3), strict=True)), np.float32)
    IntegratedGradients(steps=2, rule="trapezoid")(X, scores, quadratic, cubic_score)
    # The trapezoid of t^2 from two points is 1/2 where the integral is 1/3: half as much again.
    assert "gap 0.5 of the score difference. More steps than 2 make it smaller." in caplog.text
    assert caplog.records[-1].levelno == logging.WARNING


def test_the_blurred_baseline_keeps_a_flat_image():
    flat = np.full((1, 20, 30, 1), 0.7, np.float32)
    np.testing.assert_allclose(IntegratedGradients("blurred")._baselines(flat), flat, rtol=1e-5)
    noise = np.random.default_rng(0).random((2, 20, 30, 1), np.float32)
    blurred = IntegratedGradients("blurred")._baselines(noise)
    assert blurred.shape == noise.shape
    assert blurred.std() < 0.2 * noise.std()


def test_smoothgrads_noise_has_the_size_that_was_asked_for_and_is_the_same_for_all_images():
    images = X * np.array([1, 2, 0], np.float32)[:, None, None, None]
    seen = []

    def gradient(copies, total):
        for copy, row in copies:
            seen.append((row, copy - images[row]))
            yield copy

    SmoothGrad(samples=500, sigma=0.2)(images, gradient)
    noise = [np.stack([added for at, added in seen if at == row]) for row in range(3)]
    ranges = np.ptp(images, axis=(1, 2, 3))
    for row in (0, 1):
        assert noise[row].std() == pytest.approx(0.2 * ranges[row], rel=0.02)
        assert abs(noise[row].mean()) < 0.01 * ranges[row]
    np.testing.assert_allclose(noise[1] / ranges[1], noise[0] / ranges[0], atol=1e-5)
    assert not noise[2].any()


def test_smoothgrad_is_reproducible_on_any_chunk_size(net, reference):
    images = reference["images"]

    def maps(x=images, **settings):
        method = SmoothGrad(samples=5, seed=settings.pop("seed", 0))
        return explain(net, x, method=method, target=2, **settings).attributions

    whole = maps(batch_size=1000)
    largest = np.abs(whole).max()
    for batch_size in (1, 3, 7):
        assert np.abs(maps(batch_size=batch_size) - whole).max() <= 1e-5 * largest
    assert np.abs(maps(images[2:3])[0] - whole[2]).max() <= 1e-5 * largest
    assert np.abs(maps(seed=1) - whole).max() > 0.05 * largest
    # By its definition, with the gradients of another method.
    random = np.random.default_rng(0)
    copies = [
        images + 0.1 * np.ptp(images, axis=(1, 2, 3), keepdims=True) * random.standard_normal((48, 64, 3), np.float32)
        for _ in range(5)
    ]
    mean = np.mean([explain(net, copy, method="saliency", target=2).attributions for copy in copies], axis=0)
    assert np.abs(mean - whole).max() <= 1e-5 * largest


def test_channels_become_one_map_by_hand():
    signed = np.array([[[[1, -3, 1]]]], np.float32)
    assert saliency.one_map(signed, "absolute").tolist() == [[[5]]]
    assert saliency.one_map(signed, "maximum").tolist() == [[[3]]]
    assert saliency.one_map(signed, "signed").tolist() == [[[-1]]]


@pytest.mark.parametrize("channels", ["absolute", "maximum", "signed"])
@pytest.mark.parametrize("kind", [Saliency, InputXGradient, SmoothGrad, GuidedBackprop, GuidedGradCAM, MaxActivation])
def test_every_method_reduces_channels_as_asked(net, reference, kind, channels):
    explanation = explain(net, reference["images"][:2], method=kind(channels=channels), target=1)
    np.testing.assert_array_equal(explanation.heatmaps, saliency.one_map(explanation.attributions, channels))
    assert explanation.method == resolve_method(kind(channels=channels)).text
    assert ("channels" in explanation.method) == (channels != "absolute")


def test_methods_are_known_by_name_with_their_defaults():
    for kind in (
        Saliency,
        InputXGradient,
        SmoothGrad,
        IntegratedGradients,
        GuidedBackprop,
        GuidedGradCAM,
        MaxActivation,
    ):
        method = METHODS[kind().name]
        assert isinstance(method.function, kind)
        assert method.needs == kind().needs
        assert method.text == method.name == resolve_method(method.name).name
    assert resolve_method(SmoothGrad(samples=50, seed=3)).text == "smoothgrad(samples=50, seed=3)"
    assert resolve_method(IntegratedGradients(X[0])).text == "integrated_gradients(baseline=array(4, 5, 2))"
    assert resolve_method(MaxActivation(guided=True)).needs == ("images", "guided_activation_gradient")


WRONG = [
    (lambda: Saliency("sum"), "`channels` must be one of absolute, maximum, signed. Received: channels='sum'"),
    (lambda: SmoothGrad(samples=0), "`samples` must be a whole number of at least 1. Received: samples=0"),
    (lambda: SmoothGrad(samples=2.5), "Received: samples=2.5"),
    (lambda: SmoothGrad(sigma=-1), "`sigma` must be a share of the image's range, 0 or more. Received: -1"),
    (lambda: SmoothGrad(seed=-1), "`seed` must be a whole number of at least 0"),
    (lambda: SmoothGrad(average="mean"), "`average` must be one of signed, absolute"),
    (lambda: IntegratedGradients("black"), "`baseline` must be 'blurred', a number or an image"),
    (lambda: IntegratedGradients(steps=1), "`steps` must be a whole number of at least 2"),
    (lambda: IntegratedGradients(rule="simpson"), "`rule` must be one of gausslegendre, trapezoid"),
    (lambda: MaxActivation(guided="yes"), "`guided` must be one of False, True"),
]


@pytest.mark.parametrize(("make", "message"), WRONG, ids=[message[:30] for _, message in WRONG])
def test_impossible_options_are_refused(make, message):
    with pytest.raises(ValueError, match="Received") as error:
        make()
    assert message in str(error.value)


def test_wrong_uses_are_refused(net, reference):
    images = reference["images"][:1]
    with pytest.raises(ValueError, match=r"knows no layer. Received: layer_name='relu3'. Leave it out"):
        explain(net, images, "relu3", method="saliency")
    with pytest.raises(ValueError, match=r"image of shape \(48, 64, 3\). Received: shape \(5, 3\)"):
        explain(net, images, method=IntegratedGradients(np.zeros((5, 3))))
    with pytest.raises(TypeError, match=r"an object, not its class. Received: .*SmoothGrad.*SmoothGrad\(\) works"):
        explain(net, images, method=SmoothGrad)


class OfImage:
    """A user's own method of the image: the gradient of a brighter one."""

    name, needs = "brighter", ("images", "gradient")

    def __call__(self, images, gradient):
        brighter = ((image + 1, row) for row, image in enumerate(images))
        found = [one.sum(-1) for one in gradient(brighter, len(images))]
        return np.stack(found)[: self.rows]

    rows = None


def test_a_users_own_method_of_the_image(net, reference):
    images, method = reference["images"], OfImage()
    expected = explain(net, images + 1, method=Saliency("signed"), target=0)
    explanation = explain(net, images, method=method, target=0)
    np.testing.assert_allclose(explanation.heatmaps, expected.heatmaps, atol=1e-6)
    assert (explanation.method, explanation.attributions) == ("brighter", None)
    method.rows = 3
    with pytest.raises(ValueError, match=r"here \(4, h, w\). Received: \(3, 48, 64\) from method 'brighter'"):
        explain(net, images, method=method)


class Weights(keras.callbacks.Callback):
    """What the weights of a linear model are at each epoch end."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append(self.model.layers[-1].kernel.numpy().T.reshape(2, 6, 8, 1))


def test_inside_fit_the_maps_of_a_linear_model_are_its_weights(tmp_path, capsys):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((6, 8, 1)), layers.Flatten(), layers.Dense(2)])
    model.compile(
        keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False
    )
    x, y = np.random.default_rng(0).random((8, 6, 8, 1), np.float32), np.arange(8) % 2
    memory, weights = MemoryTracker(), Weights()
    logger = HeatmapLogger(
        (x, y),
        method=SmoothGrad(samples=3, channels="signed"),
        target="true",
        tracker=[memory, "disk"],
        log_dir=tmp_path,
        overlay=Overlay(clip=(10, 90)),
        on_error="raise",
    )
    model.fit(x, y, epochs=2, verbose=2, callbacks=[logger, weights])
    for record, kernel in zip(memory.records, weights.seen, strict=True):
        np.testing.assert_allclose(record.heatmaps, kernel[y][..., 0], atol=1e-6)
        assert {overlay.shape[1] for overlay in record.overlays} == {160}
    assert np.abs(weights.seen[0] - weights.seen[1]).max() > 1e-3
    assert (memory.config.layer_name, memory.config.prefix) == ("", "smoothgrad")
    assert memory.config.method == "smoothgrad(samples=3, channels='signed')"
    assert "explains the image itself by smoothgrad(samples=3" in capsys.readouterr().out
    assert memory.config.overlay["clip"] == (10.0, 90.0)
    captions = [sample.caption for sample in memory.records[0].samples]
    assert all(caption.startswith("true ") for caption in captions)


def test_the_completeness_gap_is_logged_in_fit(tmp_path):
    """Of a score of cubes, whose slope is a square: two steps of the trapezoid take 1/2 for its integral, 1/3."""
    inputs = keras.Input((6, 8, 1))
    outputs = layers.Dense(2, use_bias=False)(layers.Flatten()(inputs) ** 3)
    model = keras.Model(inputs, outputs)
    model.compile(
        keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False
    )
    x = np.random.default_rng(0).random((4, 6, 8, 1), np.float32)
    rough, fine = IntegratedGradients(steps=2, rule="trapezoid"), IntegratedGradients(steps=2)
    logger = HeatmapLogger(
        x,
        method={"rough": rough, "fine": fine},
        augmentations=["flip"],
        tracker="disk",
        log_dir=tmp_path,
        batch_size=3,
        metrics="all",
    )
    history = model.fit(x, np.arange(4) % 2, epochs=2, verbose=0, callbacks=[logger]).history
    for epoch in read_run(tmp_path).epochs:
        values = epoch.values()
        np.testing.assert_allclose(values["rough_completeness_gap"], 0.5, rtol=1e-3)
        np.testing.assert_allclose(values["fine_completeness_gap"], 0, atol=1e-4)
        assert history["heatmaps_rough_completeness_gap"][epoch.step] == pytest.approx(0.5, rel=1e-3)
    augmented = logger.explain(model)["rough"].augmented["flip"].explanation
    np.testing.assert_allclose(augmented.values["completeness_gap"], 0.5, rtol=1e-3)


def test_copies_are_made_when_they_are_needed():
    images = np.random.default_rng(0).random((2, 64, 64, 4), np.float32)

    def gradient(copies, total):
        return (image for image, _ in copies)

    tracemalloc.start()
    try:
        for method in (SmoothGrad(samples=100), IntegratedGradients(steps=100)):
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            needed = [
                images,
                np.zeros(2, np.float32),
                gradient,
                lambda copies, total: (image.sum() for image, _ in copies),
            ]
            method(*(needed if len(method.needs) == 4 else [images, gradient]))
            peak = tracemalloc.get_traced_memory()[1] - before
            assert images.nbytes < peak < 8 * images.nbytes  # 200 copies are 100 times as much as the images.
    finally:
        tracemalloc.stop()
