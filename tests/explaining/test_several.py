"""Several methods, targets and layers at once: each as if it were alone."""

import cv2
import keras
import models
import numpy as np
import pytest
from backends import through_python
from keras import layers
from models import SHAPE, functional, images

from keras_cam_callbacks import (
    AblationCAM,
    Explanations,
    HeatmapLogger,
    MemoryTracker,
    Occlusion,
    Overlay,
    ScoreCAM,
    SmoothGrad,
    explain,
    read_run,
)

X, Y = images(), models.labels()
METHODS = ["gradcam", "layercam", "cam", "scorecam", "ablationcam", "guided_gradcam", SmoothGrad(samples=3)]


@pytest.fixture(scope="module")
def split():
    keras.utils.set_random_seed(4)
    return functional()


def assert_same(found, expected):
    """One explanation as if it had been asked for alone."""
    largest = np.abs(expected.heatmaps).max()
    assert largest > 0
    np.testing.assert_allclose(found.heatmaps, expected.heatmaps, atol=1e-5 * largest)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-5)
    for name in ("targets", "predicted"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    assert (found.layer_name, found.method, found.target) == (expected.layer_name, expected.method, expected.target)
    assert (found.attributions is None) == (expected.attributions is None)


def test_methods_are_what_each_is_alone(split):
    found = explain(split.model, (X, Y), "conv2", method=[m for m in METHODS if m != "cam"])
    assert isinstance(found, Explanations)
    assert list(found) == ["gradcam", "layercam", "scorecam", "ablationcam", "guided_gradcam", "smoothgrad"]
    for name, method in zip(found, [m for m in METHODS if m != "cam"], strict=True):
        layer = None if name == "smoothgrad" else "conv2"
        assert_same(found[name], explain(split.model, (X, Y), layer, method=method))


def test_cam_has_the_layer_of_its_head_and_others_the_chosen_one():
    keras.utils.set_random_seed(4)
    model = keras.Sequential(
        [
            keras.Input(SHAPE),
            layers.Conv2D(4, 3, activation="relu", name="conv"),
            layers.AveragePooling2D(2, name="pool"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3, activation="softmax"),
        ]
    )
    found = explain(model, X, method=["cam", "gradcam", "saliency"], target="top2")
    names = [f"{method}_top{rank}" for method in ("cam", "gradcam", "saliency") for rank in (1, 2)]
    assert list(found) == names
    assert [found[name].layer_name for name in names] == ["pool", "pool", "conv", "conv", "", ""]
    logits = np.argsort(-model.predict(X, verbose=0), axis=1)
    for name in names:
        rank = int(name[-1])
        np.testing.assert_array_equal(found[name].targets, logits[:, rank - 1])
        alone = explain(model, X, method=name[:-5], target=logits[:, rank - 1])
        np.testing.assert_allclose(found[name].heatmaps, alone.heatmaps, atol=1e-5 * np.abs(alone.heatmaps).max())


def margin(outputs):
    return outputs[:, 0] - outputs[:, 1]


def second(outputs):
    return keras.ops.argsort(outputs, axis=1)[:, -2]


def test_targets_are_what_each_is_alone(split):
    targets = {"predicted": "predicted", "true": "true", "class 2": 2, "margin": margin, "second": second}
    methods = ["gradcam", "saliency", Occlusion(4, 3)]
    found = explain(split.model, (X, Y), method=methods, target=targets)
    assert len(found) == 15
    for name, target in targets.items():
        for key, method in zip(("gradcam", "saliency", "occlusion"), methods, strict=True):
            assert_same(found[f"{key}_{name}"], explain(split.model, (X, Y), method=method, target=target))
    both = explain(split.model, (X, Y), target="both")
    for name in ("predicted", "true"):
        assert_same(both[name], found[f"gradcam_{name}"])


def test_top_classes_of_one_unit_and_of_hidden_logits():
    keras.utils.set_random_seed(1)
    unit = functional(1, "sigmoid").model
    found = explain(unit, X, target="top2")
    predicted = (unit.predict(X, verbose=0)[:, 0] > 0.5).astype(int)
    np.testing.assert_array_equal(found["top1"].targets, predicted)
    np.testing.assert_array_equal(found["top2"].targets, 1 - predicted)
    np.testing.assert_allclose(found["top2"].heatmaps, -found["top1"].heatmaps, atol=1e-7)


@pytest.mark.filterwarnings("ignore:.*lies on the image isn't known:RuntimeWarning")
def test_one_pass_and_one_trace_for_all():
    class Counting(layers.Layer):
        rows = 0

        def call(self, x):
            def count(rows):
                Counting.rows += len(rows)
                return rows

            return through_python(count, x, stateful=True)

    inputs = keras.Input(SHAPE)
    body = functional().model
    model = keras.Model(inputs, body(Counting()(inputs)))
    logger = HeatmapLogger((X, Y), "functional/conv2", method=["gradcam", "layercam"], target="both", tracker=None)
    logger.set_model(model)
    logger.on_train_begin()
    Counting.rows = 0
    explained = logger.explain()
    assert len(explained) == 4
    # Others first prove that they may keep what the layer puts out.
    assert len(X) <= Counting.rows <= (1 if keras.backend.backend() == "tensorflow" else 2) * len(X)
    logger.explain()
    assert logger._source.capturer.traces == 1


FUSED = ["gradcam", "layercam", "scorecam", "ablationcam", "eigencam", "guided_gradcam"]


@pytest.mark.parametrize("fuse", ["mean", "maximum", "product"])
def test_fused_layers_by_hand(fuse):
    keras.utils.set_random_seed(2)
    model = models.nested_twice().model
    paths = ["middle/inner/conv2", "middle/conv1"]
    found = explain(model, X, paths, method=FUSED, fuse=fuse, target=1)
    for name in FUSED:
        levels = []
        size = (16, 12) if name == "guided_gradcam" else (14, 10)  # Guided Grad-CAM has the size of the image.
        for path in reversed(paths):  # In the order of their calls.
            alone = np.maximum(explain(model, X, path, method=name, target=1).heatmaps, 0)
            level = alone / np.maximum(alone.max(axis=(1, 2), keepdims=True), 1e-30)
            levels.append([cv2.resize(each, size, interpolation=cv2.INTER_LINEAR) for each in level])
        expected = {
            "mean": np.mean(levels, axis=0),
            "maximum": np.max(levels, axis=0),
            "product": np.sqrt(levels[0] * np.asarray(levels[1])),
        }[fuse]
        # Near 0 a root is far larger than what is under it.
        np.testing.assert_allclose(found[name].heatmaps, expected, atol=5e-3 if fuse == "product" else 2e-5)
        assert found[name].layer_name == f"{fuse}(middle/conv1, middle/inner/conv2)"


def test_a_product_shows_what_all_layers_show():
    from scipy.stats import gmean

    from keras_cam_callbacks.methods.fusion import fused

    maps = [np.random.default_rng(i).uniform(0.1, 9, (2, 5, 4)).astype(np.float32) for i in range(3)]
    levels = [each / each.max(axis=(1, 2), keepdims=True) for each in maps]
    np.testing.assert_allclose(fused(maps, "product"), gmean(levels, axis=0), rtol=1e-5)
    silent = [*maps[:2], -maps[2]]
    assert not fused(silent, "product").any()
    # Of levels of a pyramid those count in which the object is found.
    np.testing.assert_allclose(fused(silent, "product", of_levels=True), gmean(levels[:2], axis=0), rtol=1e-5)
    assert not fused([-each for each in maps], "product", of_levels=True).any()
    silent[1][0, 0, 0] = np.nan
    for of_levels in (False, True):
        assert np.isnan(fused(silent, "product", of_levels)).reshape(2, -1).all(axis=1).tolist() == [True, False]


def test_nan_in_one_layer_makes_the_fused_map_nan():
    from keras_cam_callbacks.methods.fusion import fused

    one, other = np.ones((2, 2, 2), np.float32), np.ones((2, 3, 3), np.float32)
    other[1, 0, 0] = np.nan
    one[0] = -1
    found = fused([one, other])
    np.testing.assert_array_equal(found[0], np.full((3, 3), 0.5))
    assert np.isnan(found[1]).all()


def test_in_fit_with_the_record_on_disk(split, tmp_path):
    model = functional().model
    model.compile(keras.optimizers.SGD(0.1), models.SPARSE, jit_compile=False)
    memory = MemoryTracker()
    logger = HeatmapLogger(
        (X, Y),
        method={"ours": "layercam", "noisy": SmoothGrad(samples=2)},
        target="both",
        tracker=[memory, "disk"],
        log_dir=tmp_path,
        on_error="raise",
        metrics="all",
    )
    history = model.fit(X, Y, epochs=3, verbose=0, callbacks=[logger]).history
    names = ["ours_predicted", "ours_true", "noisy_predicted", "noisy_true"]
    for name in names:
        for metric in ("confidence", "area", "drift", "degenerate"):
            assert len(history[f"heatmaps_{name}_{metric}"]) == 3
        assert history[f"heatmaps_{name}_drift"][0] == np.inf
        assert 0 < history[f"heatmaps_{name}_drift"][2] < 1
    run = read_run(tmp_path)
    assert run.manifest["views"] == names
    assert run.manifest["method"] == "ours=layercam, noisy=smoothgrad(samples=2)"
    assert run.manifest["target"] == "predicted, true"
    for stored, record in zip(run.epochs, memory.records, strict=True):
        assert stored.views == tuple(names)
        for name in names:
            np.testing.assert_array_equal(stored.heatmaps(name), record.views[name].heatmaps)
        np.testing.assert_array_equal(stored.heatmaps(), record.views["ours_predicted"].heatmaps)
        values = stored.values()
        for name in names:
            np.testing.assert_allclose(values[f"{name}_area"].mean(), stored.scalars[f"{name}_area"])
            assert values[f"{name}_drift"].shape == (len(X),)
        true = stored.arrays()["targets_1"]
        np.testing.assert_array_equal(true, Y)
        with pytest.raises(ValueError, match=r"'ours_predicted'.*Received: 'theirs'"):
            stored.heatmaps("theirs")
        assert {picture.shape for picture in stored.overlays()} == {record.overlays[0].shape}


def test_a_picture_has_the_image_and_a_column_for_each_view(split):
    found = explain(split.model, (X, Y), method=["gradcam", "layercam", "saliency"])
    one = explain(split.model, (X, Y)).overlays(Overlay(caption=False))[0]
    several = found.overlays(Overlay(caption=False))[0]
    assert several.shape[1] > 3.5 * one.shape[1]
    grid = found.grid()
    assert grid.shape[0] > len(X) * one.shape[0]


def test_a_trace_goes_on_where_another_process_stopped(tmp_path):
    """Drift of each view is counted from the stored maps."""
    model = functional().model
    model.compile(keras.optimizers.SGD(0.1), models.SPARSE, jit_compile=False)

    def fit(**settings):
        logger = HeatmapLogger((X, Y), method=["gradcam", "layercam"], tracker="disk", log_dir=tmp_path, metrics="all")
        return model.fit(X, Y, verbose=0, callbacks=[logger], **settings).history

    fit(epochs=1)
    history = fit(epochs=2, initial_epoch=1)
    assert all(np.isfinite(history[f"heatmaps_{name}_drift"][0]) for name in ("gradcam", "layercam"))
    assert len(read_run(tmp_path).epochs) == 2


WRONG = [
    ({"method": []}, ValueError, "`method` as a list or dict must hold methods that differ"),
    ({"method": ["gradcam", "gradcam"]}, ValueError, "methods that differ"),
    ({"method": {"": "gradcam"}}, ValueError, "by names"),
    ({"method": ["gradcam", "gradcamm"]}, ValueError, "Did you mean 'gradcam'"),
    ({"target": {}}, ValueError, "`target` as a dict must hold targets by their names"),
    ({"target": {"a": "b"}}, ValueError, "Received: 'b'"),
    ({"target": "top4"}, ValueError, "target='top4' for a model of 3 classes. target='top3' works"),
    ({"target": "top1"}, ValueError, "'top2' to 'top9'"),
    ({"fuse": "mean"}, ValueError, "for a list of layers as `layer_name`. Received: fuse='mean' and 0 layers"),
    ({"layer_name": ["conv1", "conv2"], "fuse": "sum"}, ValueError, "'mean', 'maximum' or 'product'.*fuse='sum' and 2"),
    ({"layer_name": []}, ValueError, "`layer_name` as a list must name the layers"),
    ({"layer_name": ["conv1", None]}, ValueError, "must name the layers"),
    ({"layer_name": ["conv1", "conv1"]}, ValueError, "Fused layers must differ"),
    ({"layer_name": ["conv1", "conv"]}, ValueError, "Did you mean"),
    ({"layer_name": ["conv1", "classes"]}, ValueError, "must put out a feature map.*'classes'"),
    ({"layer_name": ["conv1", "conv2"], "method": "cam"}, ValueError, "CAM explains the layer that feeds"),
]


@pytest.mark.parametrize(("settings", "kind", "message"), WRONG, ids=[str(row[0]) for row in WRONG])
def test_wrong_settings(split, settings, kind, message):
    with pytest.raises(kind, match=message.replace("(", r"\(")):
        explain(split.model, X, **settings)


def test_true_needs_labels(split):
    with pytest.raises(ValueError, match="target='true' needs class labels"):
        explain(split.model, X, target="both")


def test_two_settings_of_one_method_have_their_texts(split):
    found = explain(split.model, X, method=[ScoreCAM(channels=2), ScoreCAM(channels=3), AblationCAM()])
    assert list(found) == ["scorecam(channels=2)", "scorecam(channels=3)", "ablationcam"]


def test_mixed_precision_and_an_eager_model():
    model = models.in_mixed_precision(functional).model
    found = explain(model, X, ["conv1", "conv2"], method=["gradcam", "layercam"], target="top2")
    assert all(np.isfinite(view.heatmaps).all() for view in found.values())
    eager = functional().model
    expected = explain(eager, X, ["conv1", "conv2"], target="top2")
    eager.compile("sgd", models.SPARSE, run_eagerly=True)
    found = explain(eager, X, ["conv1", "conv2"], target="top2")
    for name in found:
        np.testing.assert_allclose(found[name].heatmaps, expected[name].heatmaps, atol=1e-4)
