import keras
import models
import numpy as np
import pytest
from backends import through_python
from keras import layers
from models import CLASSES, functional, images

from keras_cam_callbacks import METHODS, RISE, AblationCAM, HeatmapLogger, Occlusion, ScoreCAM, explain
from keras_cam_callbacks.methods import perturbation, resolve_method


def close(found, expected, share=1e-4):
    assert found.shape == expected.shape
    for one, other in zip(found, expected, strict=True):
        assert np.abs(other).max() > 0
        assert np.abs(one - other).max() <= share * np.abs(other).max()


def align_corners(maps, size):
    """Bilinear, with the corners of the map in the corners of the image, as the library of the reference has it."""
    (image,), (height, width) = maps, size
    rows, columns = np.linspace(0, image.shape[0] - 1, height), np.linspace(0, image.shape[1] - 1, width)
    down = np.stack([np.interp(rows, np.arange(image.shape[0]), column) for column in image.T], axis=1)
    return np.stack([np.interp(columns, np.arange(image.shape[1]), row) for row in down]).astype(np.float32)[None]


@pytest.mark.parametrize("layer", ["relu2", "relu3"])
def test_scorecam_equals_the_reference(net, reference, layer, monkeypatch):
    """The reference enlarges a map so that the centres of its outer cells come to the corners of the image.

    Done in the same way, all is the same; OpenCV's resize, which keeps the cells where they are, moves single
    values by up to 11 % of the maximum, since the softmax over logits is steep.
    """
    expected, arguments = reference[f"scorecam/{layer}/raw"], (net, reference["images"], layer)
    own = explain(*arguments, method="scorecam", target=reference["targets"]).heatmaps
    for one, other in zip(own, expected, strict=True):
        assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.99
    monkeypatch.setattr(perturbation, "resize", align_corners)
    close(explain(*arguments, method="scorecam", target=reference["targets"]).heatmaps, expected)


@pytest.mark.parametrize("layer", ["relu2", "relu3"])
def test_ablationcam_equals_the_reference(net, reference, layer):
    explanation = explain(net, reference["images"], layer, method="ablationcam", target=reference["targets"])
    # The reference divides by the score where we divide by its size.
    signs = np.sign(explanation.scores)[:, None, None]
    close(explanation.heatmaps * signs, reference[f"ablationcam/{layer}/raw"])


def test_occlusion_equals_the_reference(net, reference):
    method = Occlusion(window=8, stride=4)
    found = explain(net, reference["images"], method=method, target=reference["targets"]).heatmaps
    expected = reference["occlusion_8x8_stride4_zero"]
    np.testing.assert_array_equal(expected[..., 0], expected[..., 1])
    close(found, expected[..., 0])


X = np.random.default_rng(1).random((2, 5, 7, 2), np.float32)
W = np.random.default_rng(0).normal(size=X.shape).astype(np.float32)
Y = (W * X).sum((1, 2, 3))


def linear(copies, total):
    """The scores w x of a linear model, which counts what it gets."""
    count = 0
    for image, row in copies:
        count += 1
        yield (W[row] * image).sum()
    assert count == total


@pytest.mark.parametrize("fill", [0.0, 0.5])
@pytest.mark.parametrize(("window", "stride"), [(1, 1), (3, 2), (2, 2), ((5, 7), 1), ((2, 4), (1, 3)), (4, 4)])
def test_occlusion_of_a_linear_model_by_hand(window, stride, fill):
    """The score falls by the sum of w (x - fill) in the window; a pixel has the mean over its windows."""
    side = window if isinstance(window, tuple) else (window, window)
    step = stride if isinstance(stride, tuple) else (stride, stride)
    lost = (W * (X - fill)).sum(-1)
    total, count = np.zeros((2, 5, 7)), np.zeros((5, 7))
    top = 0
    while True:
        left = 0
        while True:
            part = np.s_[top : top + side[0], left : left + side[1]]
            total[(slice(None), *part)] += lost[(slice(None), *part)].sum((1, 2))[:, None, None]
            count[part] += 1
            if left + side[1] >= 7:
                break
            left += step[1]
        if top + side[0] >= 5:
            break
        top += step[0]
    assert count.min() >= 1
    found = Occlusion(window, stride, fill)(X, Y, linear)
    np.testing.assert_allclose(found, total / count, atol=1e-5)


def test_rise_of_a_linear_model_by_its_expectation():
    """With a cell for each pixel masks are independent, and M is w x (1 - p) on average."""
    x, p = X[:, :, :5], 0.3
    w = W[:, :, :5]

    def score(copies, total):
        return ((w[row] * image).sum() for image, row in copies)

    found = RISE(masks=20000, cells=5, probability=p)(x, score)
    expected = (w * x).sum(-1) * (1 - p)
    # Of each of n terms the deviation is about that of y times that of m, over p.
    deviation = np.sqrt(((w * x).sum(-1) ** 2).sum((1, 2)) * p * (1 - p)) * np.sqrt((1 - p) / p / 20000)
    assert (np.abs(found - expected).max((1, 2)) < 5 * deviation).all()
    assert (deviation < 0.05 * np.abs(expected).max((1, 2))).all()


def test_rise_shows_nothing_where_the_score_is_the_same():
    assert np.abs(RISE(masks=50)(X, lambda copies, total: (7.0 for _ in copies))).max() < 1e-6


def test_masks_of_rise():
    masks = np.stack(list(RISE(masks=3000, cells=4, probability=0.3).draw(18, 23)))
    assert masks.shape == (3000, 18, 23)
    assert masks.min() == 0
    assert masks.max() == 1
    np.testing.assert_allclose(masks.mean(0), 0.3, atol=0.05)
    # The four cells of 5 x 6 px lie elsewhere in each, so that no row of pixels is an edge more often.
    for axis, others in ((1, (0, 2)), (2, (0, 1))):
        steps = np.abs(np.diff(masks, axis=axis)).mean(others)
        assert steps.max() < 1.1 * steps.min()
    np.testing.assert_array_equal(np.stack(list(RISE(masks=5, cells=4, probability=0.3).draw(18, 23))), masks[:5])
    other = np.stack(list(RISE(masks=5, cells=4, probability=0.3, seed=1).draw(18, 23)))
    assert np.abs(other - masks[:5]).max() == 1


ACTIVATIONS = np.array([[[[1, 0, 4]], [[3, 0, 2]]]], np.float32)


def test_scorecam_by_hand():
    """One column of two positions at the image's size; u of the channels is (0, 1), (0, 0), (1, 0)."""
    image = np.array([[[[10.0]], [[20.0]]]], np.float32)
    seen = []

    def score(copies, total):
        for copy, row in copies:
            assert row == 0
            seen.append(copy.ravel().tolist())
            yield np.log([2.0, 1.0, 5.0])[len(seen) - 1]

    found = ScoreCAM()(image, ACTIVATIONS, score)
    assert seen == [[0, 20], [0, 0], [10, 0]]
    # The softmax of log 2, log 1, log 5 is 2/8, 1/8, 5/8.
    np.testing.assert_allclose(found[0, :, 0], [(2 * 1 + 5 * 4) / 8, (2 * 3 + 5 * 2) / 8], rtol=1e-6)


def test_ablationcam_by_hand():
    falls = {0: 3.0, 1: 4.0, 2: 8.0}  # Scores without channel 0, 1, 2.

    def layer_score(copies, total):
        for copy, _ in copies:
            (gone,) = [k for k in range(3) if not copy[..., k].any() and (k == 1) == (copy == ACTIVATIONS[0]).all()]
            yield falls[gone]

    found = AblationCAM()(ACTIVATIONS, np.array([4.0], np.float32), layer_score)
    # Weights are (4 - 3) / 4, 0 and (4 - 8) / 4.
    np.testing.assert_allclose(found[0, :, 0], [1 / 4 - 4, 3 / 4 - 2], rtol=1e-6)
    negative = AblationCAM()(ACTIVATIONS, np.array([-4.0], np.float32), layer_score)
    np.testing.assert_allclose(negative[0, :, 0], [-7 / 4 * 1 - 3 * 4, -7 / 4 * 3 - 3 * 2], rtol=1e-6)
    assert np.isfinite(AblationCAM()(ACTIVATIONS, np.zeros(1, np.float32), layer_score)).all()


@pytest.mark.parametrize("kind", [ScoreCAM, AblationCAM])
def test_the_strongest_channels_alone(net, reference, kind):
    arguments = {"target": reference["targets"]}
    x = reference["images"]
    whole = explain(net, x, "relu3", method=kind(), **arguments).heatmaps
    close(explain(net, x, "relu3", method=kind(channels=24), **arguments).heatmaps, whole, 1e-6)
    close(explain(net, x, "relu3", method=kind(channels=99), **arguments).heatmaps, whole, 1e-6)
    # All channels but the strongest three have no weight: a map of the other activations' span alone is out of reach.
    activations = keras.ops.convert_to_numpy(keras.Model(net.inputs[0], net.get_layer("relu3").output)(x))
    found = explain(net, x, "relu3", method=kind(channels=3), **arguments).heatmaps
    for one, a in zip(found, activations, strict=True):
        chosen = np.argsort(-a.max((0, 1)), kind="stable")[:3]
        basis = a[..., chosen].reshape(-1, 3).astype(np.float64)
        weights, _, rank, _ = np.linalg.lstsq(basis, one.ravel(), rcond=None)
        assert rank == 3
        np.testing.assert_allclose(basis @ weights, one.ravel(), atol=1e-5 * np.abs(one).max())
        if kind is ScoreCAM:
            assert weights.sum() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("method", [ScoreCAM(), AblationCAM(), Occlusion(16, 8), RISE(masks=40)], ids=lambda m: m.name)
def test_chunks_do_not_change_the_maps(net, reference, method):
    x = reference["images"]
    layer = "relu3" if method.name.endswith("cam") else None
    whole = explain(net, x, layer, method=method, batch_size=1000)
    for batch_size in (1 if method.name == "rise" else 7, 3):
        close(explain(net, x, layer, method=method, batch_size=batch_size).heatmaps, whole.heatmaps)
    assert whole.attributions is None
    assert whole.heatmaps.shape == (4, *((20, 28) if layer else (48, 64)))


def reference_ablation(split, x):
    """By hand, eagerly: the highest class of each sample, and its score without each channel."""
    tensor, array = keras.ops.convert_to_tensor, keras.ops.convert_to_numpy
    a = array(split.front(tensor(x)))
    scores = array(split.rest(tensor(a)))
    rows, classes = np.arange(len(x)), scores.argmax(1)
    heatmaps = np.zeros(a.shape[:3], np.float32)
    for k in range(a.shape[-1]):
        without = a.copy()
        without[..., k] = 0
        fall = scores[rows, classes] - array(split.rest(tensor(without)))[rows, classes]
        heatmaps += (fall / np.abs(scores[rows, classes]))[:, None, None] * a[..., k]
    return heatmaps


KINDS = {
    "functional": models.functional,
    "nested twice": models.nested_twice,
    "subclass with a way around": models.branched,
    "fixed batch": lambda: functional(batch=4),
}


@pytest.mark.parametrize("build", KINDS.values(), ids=KINDS)
def test_ablationcam_replaces_the_layers_output(build):
    keras.utils.set_random_seed(7)
    split, x = build(), images(8)
    found = explain(split.model, x, split.layer, method="ablationcam", batch_size=4)
    expected = np.concatenate([reference_ablation(split, x[i : i + 4]) for i in (0, 4)])
    close(found.heatmaps, expected, 1e-3)


class Slow(layers.Layer):
    """Counts the rows that really run through it."""

    def call(self, x):
        def count(rows):
            Slow.rows += len(rows)
            return rows

        return through_python(count, x)


@pytest.mark.filterwarnings("ignore:.*lies on the image isn't known:RuntimeWarning")
def test_ablationcam_runs_only_what_lies_behind_the_layer():
    inputs = keras.Input((8, 8, 3))
    a = layers.Conv2D(5, 3, activation="relu", name="conv")(Slow()(inputs))
    model = keras.Model(inputs, layers.Dense(CLASSES)(layers.GlobalAveragePooling2D()(a)))
    logger = HeatmapLogger(images(4, (8, 8, 3)), "conv", method="ablationcam", tracker=None)
    logger.set_model(model)
    logger.on_train_begin()
    Slow.rows = 0
    assert logger.explain().heatmaps.any()
    assert Slow.rows == 4  # The clean pass; 20 ablations don't touch it.
    logger = HeatmapLogger(images(4, (8, 8, 3)), "conv", method="scorecam", tracker=None)
    logger.set_model(model)
    logger.on_train_begin()
    Slow.rows = 0
    logger.explain()
    assert Slow.rows == 4 + 20


def test_channels_first_and_whole_numbers():
    keras.utils.set_random_seed(7)
    split = functional()
    model = models.channels_first(split.model)
    for method in (ScoreCAM(), AblationCAM(), Occlusion(4, 3), RISE(masks=20)):
        expected = explain(split.model, images(), method=method).heatmaps
        close(explain(model, images().transpose(0, 3, 1, 2), method=method).heatmaps, expected)
    whole = (images() * 255).astype(np.uint8)
    inputs = keras.Input((12, 16, 3), dtype="uint8")
    model = keras.Model(inputs, split.model(layers.Rescaling(1 / 255)(inputs)))
    found = explain(model, whole, method=Occlusion(4, 3, fill=51)).heatmaps
    close(found, explain(split.model, (whole / 255).astype(np.float32), method=Occlusion(4, 3, fill=0.2)).heatmaps)


def test_methods_are_known_by_name_with_their_defaults():
    for kind in (ScoreCAM, AblationCAM, Occlusion, RISE):
        assert METHODS[kind().name].function == kind()
        assert resolve_method(kind()).text == kind().name
    assert resolve_method(RISE(masks=9, seed=2)).text == "rise(masks=9, seed=2)"


WRONG = [
    (lambda: ScoreCAM(0), "`channels` must be a whole number of at least 1. Received: channels=0"),
    (lambda: AblationCAM(2.5), "Received: channels=2.5"),
    (lambda: Occlusion(window=0), "`window` must be a whole number of at least 1. Received: window=0"),
    (lambda: Occlusion(window=(8, 8, 8))(X, Y, linear), "such as (height, width). Received: (8, 8, 8) for 2 axes."),
    (lambda: Occlusion(window=4, stride=5), "`stride` must be at most `window`"),
    (lambda: Occlusion(fill=np.nan), "`fill` must be a finite number. Received: nan"),
    (lambda: RISE(masks=1), "`masks` must be a whole number of at least 2"),
    (lambda: RISE(cells=0), "`cells` must be a whole number of at least 1"),
    (lambda: RISE(probability=1), "`probability` must be between 0 and 1. Received: 1"),
    (lambda: RISE(seed=-1), "`seed` must be a whole number of at least 0"),
    (lambda: Occlusion(window=6, stride=1)(X, Y, linear), "`window` must fit into the images, (5, 7)"),
]


@pytest.mark.parametrize(("make", "message"), WRONG, ids=[message[:40] for _, message in WRONG])
def test_impossible_options_are_refused(make, message):
    with pytest.raises(ValueError, match="Received") as error:
        make()
    assert message in str(error.value)


def test_progress_is_shown_when_it_takes_long(monkeypatch, capsys):
    model = keras.Sequential([keras.Input((4, 4, 1)), layers.Flatten(), layers.Dense(2)])
    x = images(2, (4, 4, 1))
    explain(model, x, method=RISE(masks=20, cells=2), batch_size=8)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr("keras_cam_callbacks.passes.probe._PATIENCE", 0.0)
    explain(model, x, method=RISE(masks=20, cells=2), batch_size=8)
    out, err = capsys.readouterr()
    assert "40 copies of images are run:" in err
    assert "40/40" in err
    assert out == ""  # What a program prints there is its result.


def test_a_silent_fit_shows_no_progress(monkeypatch, capsys):
    model, x, y = functional().model, images(), models.labels()
    model.compile("sgd", models.SPARSE, jit_compile=False)
    monkeypatch.setattr("keras_cam_callbacks.passes.probe._PATIENCE", 0.0)
    for verbose in (0, 2):
        logger = HeatmapLogger((x, y), method=Occlusion(6, 6), tracker=None, on_error="raise", batch_size=4)
        model.fit(x, y, verbose=verbose, callbacks=[logger])
        out, err = capsys.readouterr()
        assert ("copies of images are run" in err) is bool(verbose)
        assert bool(out) is bool(verbose)


def test_inside_fit():
    keras.utils.set_random_seed(0)
    x, y = images(), models.labels()
    model = functional().model
    model.compile("sgd", models.SPARSE, jit_compile=False)
    logger = HeatmapLogger((x, y), method=AblationCAM(channels=2), tracker="memory", on_error="raise")
    model.fit(x, y, epochs=2, verbose=0, callbacks=[logger])
    assert logger.explain(model).heatmaps.shape == (6, 10, 14)
    assert logger.explain(model).layer_name == "conv2"


@pytest.mark.parametrize(
    ("window", "message"), [((4, 4, 4), "for 2 axes"), (13, r"must fit into the images, \(12, 16\)")]
)
def test_a_window_that_does_not_fit_is_refused_before_the_first_batch(window, message):
    model, x = functional().model, images()
    model.compile("sgd", models.SPARSE, jit_compile=False)
    begun = []
    before = keras.callbacks.LambdaCallback(on_train_batch_begin=lambda batch, logs: begun.append(batch))
    logger = HeatmapLogger((x, models.labels()), method=Occlusion(window, 1), tracker=None)
    with pytest.raises(ValueError, match=message):
        model.fit(x, models.labels(), verbose=0, callbacks=[logger, before])
    assert begun == []


def test_a_window_of_no_axis():
    with pytest.raises(ValueError, match=r"`window` must be a number, or one for each axis. Received: window=\(\)"):
        Occlusion(window=())
