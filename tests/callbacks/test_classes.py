"""Maps are compared within one class: a prediction that flips has another class's map, which says nothing of change."""

import json
import logging

import keras
import numpy as np
import pytest
from fits import SAMPLES, X, Y, fit, new_model, tiny_model
from keras import layers

from keras_cam_callbacks import (
    GradCAMLogger,
    HeatmapLogger,
    MemoryTracker,
    compare,
    explain,
    metrics,
    read_run,
    sanity_check,
)
from keras_cam_callbacks.callbacks.names import check_names
from keras_cam_callbacks.metrics import METRICS, measured, target_kept

IMAGES = np.random.default_rng(0).random((16, 32, 32, 3), dtype=np.float32)
CHANGE = ("drift", "spearman", "top_iou", "moved", "centre_shift")


def biased(*bias):
    """A model whose maps of each class stay as they are, whatever the bias that decides which class it predicts."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            layers.Conv2D(8, 3, activation="relu", name="conv"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(len(bias), activation="softmax", name="classes"),
        ]
    )
    rebias(model, *bias)
    return model


def rebias(model, *bias):
    dense = model.get_layer("classes")
    dense.set_weights([dense.get_weights()[0], np.array(bias, np.float32)])


def epochs(logger, model, *biases, start=0):
    """The logs of epochs in a loop, with the bias of each."""
    logger.set_model(model)
    found = []
    for epoch, bias in enumerate(biases, start):
        rebias(model, *bias)
        logs = {}
        logger.on_epoch_end(epoch, logs)
        found.append(logs)
    return found


def test_no_drift_is_told_where_only_the_predicted_class_changes():
    """1.2 where no class's map has changed."""
    memory, model = MemoryTracker(), biased(5, 0)
    names = [*CHANGE, "target_kept"]
    logger = GradCAMLogger(IMAGES, tracker=memory, prefix="p", metrics=names)
    first, flipped, stays = epochs(logger, model, (5, 0), (0, 5), (0, 6))
    assert flipped["p_target_kept"] == 0
    assert flipped["p_drift"] == flipped["p_moved"] == np.inf
    assert flipped["p_spearman"] == -np.inf
    assert np.isnan([memory.records[1].values[name] for name in CHANGE]).all()
    assert np.isnan([memory.records[1].scalars[name] for name in CHANGE]).all()
    assert stays["p_target_kept"] == 1
    assert abs(stays["p_drift"]) < 1e-6
    assert first["p_target_kept"] == -np.inf


def test_maps_that_are_of_no_class_are_compared_whatever_it_is():
    logger = HeatmapLogger(IMAGES, method=["eigencam", "gradcam"], tracker=None, metrics=["drift", "target_kept"])
    _, second = epochs(logger, biased(5, 0), (5, 0), (0, 5))
    assert second["heatmaps_eigencam_drift"] == pytest.approx(0, abs=1e-6)
    assert second["heatmaps_eigencam_target_kept"] == second["heatmaps_gradcam_target_kept"] == 0
    assert second["heatmaps_gradcam_drift"] == np.inf


def test_samples_whose_class_stays_are_compared():
    """Three classes, of which a part of the samples changes to the rarest; by hand from the maps."""
    memory, model = MemoryTracker(), biased(0, 0, 0)
    logger = GradCAMLogger(IMAGES, tracker=memory, metrics="all")
    outputs = explain(model, IMAGES).outputs
    logits = np.log(outputs)
    rarest = int(np.bincount(logits.argmax(axis=1), minlength=3).argmin())
    # Half of the samples have a margin below this one, and go over to that class.
    margin = float(np.median(logits.max(axis=1) - logits[:, rarest]))
    epochs(logger, model, (0, 0, 0), tuple(margin * (i == rarest) for i in range(3)))
    before, after = memory.records
    kept = np.array([a.target == b.target for a, b in zip(before.samples, after.samples, strict=True)])
    assert 0 < kept.sum() < len(kept)
    np.testing.assert_array_equal(after.values["target_kept"], kept)
    assert after.scalars["target_kept"] == after.scalars["first_target_kept"] == kept.mean()
    for name in CHANGE:
        assert np.isnan(after.values[name][~kept]).all()
        expected = getattr(metrics, name)(after.heatmaps[kept], before.heatmaps[kept])
        np.testing.assert_array_equal(after.values[name][kept], expected)
        np.testing.assert_array_equal(after.values[f"first_{name}"], after.values[name])


def test_the_first_epochs_class_counts_for_the_first_epoch():
    """A class that flips and flips back is again that of the first epoch."""
    memory, model = MemoryTracker(), biased(5, 0)
    epochs(GradCAMLogger(IMAGES, tracker=memory, metrics="all"), model, (5, 0), (0, 5), (5, 0))
    last = memory.records[2].scalars
    assert (last["target_kept"], last["first_target_kept"]) == (0, 1)
    assert np.isnan(last["drift"])
    assert abs(last["first_drift"]) < 1e-6


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({"target": 1}, 1),
        ({"target": lambda outputs: keras.ops.argmin(outputs, axis=1)}, 0),  # a rule that names classes
        ({"target": lambda outputs: outputs[:, 0]}, np.nan),  # one that gives a score, compared as it always was
    ],
    ids=["class", "rule of classes", "rule of scores"],
)
def test_other_targets(settings, kept):
    memory, model = MemoryTracker(), biased(1, 0)
    logger = GradCAMLogger(IMAGES, tracker=memory, prefix="p", metrics="all", **settings)
    epochs(logger, model, (1, 0), (0, 1))
    found = memory.records[1].scalars
    np.testing.assert_equal(found["target_kept"], kept)
    assert np.isfinite(found["drift"]) == (kept != 0)


def test_each_view_has_its_own_class():
    """The predicted class flips; class 0 and the true one stay."""
    memory, model = MemoryTracker(), biased(5, 0)
    logger = HeatmapLogger(
        (IMAGES, np.arange(16) % 2), target={"guess": "predicted", "fixed": 0, "label": "true"}, tracker=memory
    )
    epochs(logger, model, (5, 0), (0, 5))
    found = memory.records[1].scalars
    assert [found[f"{name}_target_kept"] for name in ("guess", "fixed", "label")] == [0, 1, 1]
    assert np.isnan(found["guess_drift"])
    assert np.isfinite([found["fixed_drift"], found["label_drift"]]).all()


def test_a_resumed_run_reads_the_classes_of_all_views(tmp_path):
    """The last and the first epoch's classes are those that the record holds."""

    def logger(tracker="disk"):
        return HeatmapLogger(
            IMAGES, method=["gradcam", "layercam"], target="top2", tracker=tracker, log_dir=tmp_path, metrics="all"
        )

    model, memory = biased(5, 0), MemoryTracker()
    epochs(logger(), model, (5, 0), (0, 5))
    epochs(logger(["disk", memory]), model, (5, 0), start=2)  # As in another process.
    found = memory.records[0].scalars
    for view in ("gradcam_top1", "gradcam_top2", "layercam_top1", "layercam_top2"):
        assert (found[f"{view}_target_kept"], found[f"{view}_first_target_kept"]) == (0, 1)
        assert np.isnan(found[f"{view}_drift"])
        assert abs(found[f"{view}_first_drift"]) < 1e-6
    assert len(read_run(tmp_path).epochs) == 3


def test_flips_of_all_samples_are_told_once(caplog):
    model = biased(5, 0)
    logger = GradCAMLogger(IMAGES, tracker=None)
    with caplog.at_level(logging.INFO, "keras_cam_callbacks"):
        epochs(logger, model, (5, 0), (5, 0), (0, 5), (5, 0))
    told = [text for text in caplog.messages if "compares no heatmap" in text]
    assert len(told) == 1
    assert "of epoch 2 with the last logged epoch" in told[0]
    assert "target='true'" in told[0]


def test_target_kept_by_hand():
    np.testing.assert_array_equal(
        target_kept(np.array([0, 1, -1, 2, -1]), np.array([0, 2, 1, -1, -1])), [1, 0, np.nan, np.nan, np.nan]
    )
    maps = np.random.default_rng(0).random((2, 3, 4, 4)).astype(np.float32)
    classes = np.array([0, 1, -1])
    found = measured(maps[0], METRICS["last"], last=maps[1], targets=classes, last_targets=classes)
    assert np.isfinite(found["drift"]).tolist() == [True, True, False]  # The third explains no class.
    # A class against a score that is no class's is no comparison.
    for one, other in ((classes, None), (None, classes)):
        assert np.isnan(measured(maps[0], ["drift"], last=maps[1], targets=one, last_targets=other)["drift"]).all()


def test_an_augmented_image_of_another_class_is_not_compared():
    """The model tells bright images from dark ones; half as bright, the bright ones are of the other class."""
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            layers.Conv2D(2, 3, activation="relu", kernel_initializer="ones", name="conv"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(1, activation="sigmoid", name="classes"),
        ]
    )
    model.layers[-1].set_weights([np.array([[0.5], [0.5]], np.float32), np.array([-9], np.float32)])
    bright = np.concatenate([IMAGES[:2], IMAGES[2:4] * 2])
    found = explain(model, bright, augmentations={"darker": lambda x: x / 2}).augmented["darker"]
    assert found.unchanged.tolist() == [False, False, True, True]
    assert np.isfinite(found.correlation).tolist() == [False, False, True, True]
    # A class that was named is the same for both.
    fixed = explain(model, bright, target=1, augmentations={"darker": lambda x: x / 2}).augmented["darker"]
    assert np.isfinite(fixed.correlation).all()


def test_sanity_checks_and_faithfulness_keep_the_class():
    model = biased(1, 0, 0)
    check = sanity_check(model, IMAGES, "gradcam", steps=1)
    (original,) = check.originals.values()
    fixed = sanity_check(model, IMAGES, "gradcam", steps=1, target=original.targets[:8])
    np.testing.assert_array_equal(check.correlations["gradcam"], fixed.correlations["gradcam"])


def test_runs_are_compared_within_one_class(tmp_path):
    for name, bias in (("a", (5, 0)), ("b", (0, 5))):
        model = biased(*bias)
        logger = GradCAMLogger(IMAGES, tracker="disk", log_dir=tmp_path / name)
        epochs(logger, model, bias, (5, 0))
    found = compare([tmp_path / "a", tmp_path / "b"])
    assert found.unlike()[0].all(axis=1).tolist() == [True, False]
    assert np.isnan(found.agreement[0, 0]).all()
    np.testing.assert_allclose(found.agreement[0, 1], 1)
    assert (
        "Left out of the agreement, as the maps explain different classes: 16 of 32 pairs of maps; in epoch 1 those of "
        "0 of 16 samples." in found.summary()
    )
    assert [row["explained"] for row in found.table()[::16]] == [0, 0, 1, 0]


def test_classes_that_are_numbered_otherwise_are_refused(tmp_path):
    for name, classes in (("a", ["cat", "dog"]), ("b", ["dog", "cat"]), ("c", ["Katze", "Hund"])):
        logger = GradCAMLogger(IMAGES, tracker="disk", log_dir=tmp_path / name, class_names=classes)
        epochs(logger, biased(1, 0), (1, 0))
    with pytest.raises(ValueError, match=r"same number in all runs\. Received: 'cat', which is 0 in a and 1 in b"):
        compare([tmp_path / "a", tmp_path / "b"])
    assert np.isfinite(compare([tmp_path / "a", tmp_path / "c"]).agreement).all()


# ---- What Keras' logs get ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, ["area", "confidence", "degenerate", "entropy"]),
        ({"regions": [(2, 2, 9, 9)] * SAMPLES}, ["area", "confidence", "degenerate", "energy_in_region", "entropy"]),
        ({"faithfulness_freq": 1, "max_samples": 2}, ["area", "confidence", "degenerate", "entropy"]),
        ({"augmentations": ["flip", "rotation"]}, ["area", "confidence", "degenerate", "entropy"]),
        (
            {"method": ["gradcam", "layercam"], "target": "both"},
            [f"gradcam_predicted_{name}" for name in ("area", "confidence", "degenerate", "entropy")],
        ),
        ({"target": lambda outputs: outputs[:, 0]}, ["area", "degenerate", "entropy"]),
        ({"method": "integrated_gradients"}, ["area", "confidence", "degenerate", "entropy"]),
    ],
    ids=["plain", "regions", "faithfulness", "augmentations", "views", "score", "own number"],
)
def test_few_numbers_by_default_that_are_finite_from_the_first_epoch_on(settings, expected):
    memory = MemoryTracker()
    history = fit(HeatmapLogger((X, Y), prefix="p", tracker=memory, **settings), epochs=2)
    assert sorted(name for name in history if name.startswith("p_")) == [f"p_{name}" for name in expected]
    json.dumps(history, allow_nan=False)
    assert all(len(values) == 2 for values in history.values())
    assert len(memory.records[0].scalars) > len(expected)  # Trackers keep all.


@pytest.mark.parametrize("every", ["all", ["all"]])
def test_all_numbers_on_request(every):
    memory = MemoryTracker()
    history = fit(GradCAMLogger((X, Y), tracker=memory, metrics=every, augmentations=["flip"]), epochs=1)
    assert {name for name in history if "gradcam" in name} == {f"gradcam_{name}" for name in memory.records[0].scalars}
    assert history["gradcam_drift"] == [np.inf]
    assert "gradcam_flip_correlation" in history


def test_it_is_said_which_numbers_are_in_the_logs(caplog, capsys):
    with caplog.at_level(logging.INFO, "keras_cam_callbacks"):
        fit(GradCAMLogger((X, Y), tracker=None), epochs=1)
        fit(GradCAMLogger((X, Y), tracker=None, prefix="named", metrics=["drift"]), epochs=1)
    said, named = caplog.messages
    assert "adds gradcam_confidence, gradcam_area, gradcam_entropy, gradcam_degenerate to Keras' logs" in said
    assert "'all'" in said
    assert "to Keras' logs" not in named


def test_a_monitor_of_a_number_that_is_not_named_is_told_by_keras():
    stopping = keras.callbacks.EarlyStopping("gradcam_drift", mode="min")
    with pytest.warns(UserWarning, match="conditioned on metric `gradcam_drift` which is not available"):
        fit(GradCAMLogger((X, Y), tracker=None), stopping, epochs=1)
    assert len(fit(GradCAMLogger((X, Y), tracker=None, metrics=["drift"]), stopping, epochs=2)["gradcam_drift"]) == 2


# ---- Names that meet ---------------------------------------------------------------------------------------


def own_numbers(**numbers):
    def method(activations, gradients):
        maps = (activations * gradients).sum(axis=-1)
        return maps, {name: np.full(len(maps), value, np.float32) for name, value in numbers.items()}

    return method


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": {"a": "gradcam", "a_flip": "layercam"}, "augmentations": {"flip_x": "flip", "x": "flip"}},
         "a, a_flip; augmentations: flip_x, x, of which two would log a_flip_x_correlation"),
        ({"target": {"a": 0, "a_first": 1}}, "two would log a_first_"),
        ({"method": {"a": "gradcam", "a_b": "layercam"}, "target": {"c": 0, "b_c": 1}},
         "two of which would be called a_b_c"),
    ],
)  # fmt: skip
def test_views_and_augmentations_that_meet_are_refused_before_the_first_batch(settings, message):
    model = tiny_model()
    with pytest.raises(ValueError, match=message):
        fit(HeatmapLogger((X, Y), tracker=None, **settings), model=model)
    assert int(model.optimizer.iterations) == 0


@pytest.mark.parametrize("name", ["area", "first_drift", "accuracy", "epoch", "energy_in_region"])
def test_a_methods_own_number_that_is_called_like_another(name):
    logger = HeatmapLogger(X, method=own_numbers(**{name: 42}), prefix="m", tracker=None, on_error="raise")
    with pytest.raises(ValueError, match=f"must not have the names of metrics.*Received: '{name}'. 'my_{name}' works"):
        fit(logger, epochs=1)
    history = fit(
        HeatmapLogger(X, method=own_numbers(**{f"my_{name}": 42}), prefix="m", tracker=None, metrics="all"), epochs=1
    )
    assert history[f"m_my_{name}"] == [42]


def test_own_numbers_that_meet_those_of_another_view():
    methods = {"a": own_numbers(b_x=1), "a_b": own_numbers(x=2)}
    with pytest.raises(ValueError, match="own numbers: b_x, x, of which two would log a_b_x"):
        fit(HeatmapLogger(X, method=methods, tracker=None, on_error="raise"), epochs=1)


@pytest.mark.parametrize("name", ["a/b", "", " "])
def test_names_of_own_numbers(name):
    method = own_numbers(**{name: 1})
    with pytest.raises(ValueError, match="must be text, not empty and without '/'"):
        explain(tiny_model(), X, method=method)
    assert "b c" in explain(tiny_model(), X, method=own_numbers(**{"b c": 1})).values


def test_two_callbacks_whose_numbers_meet_are_refused_before_the_first_batch():
    model = tiny_model()
    views = HeatmapLogger(X, method={"b": "gradcam", "c": "layercam"}, prefix="a", tracker=None)
    with pytest.raises(ValueError, match=r"name of its own\. Received: a_b_confidence.*prefix='a_b_2'"):
        fit(views, GradCAMLogger(X, prefix="a_b", tracker=None), model=model)
    assert int(model.optimizer.iterations) == 0


def test_a_number_is_not_put_over_one_of_keras():
    """A compiled metric has the name; a dict that a loop uses again has ours."""
    model = new_model()
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=[keras.metrics.MeanMetricWrapper(
        lambda true, predicted: keras.ops.zeros_like(predicted[:, 0]), name="gradcam_area"
    )])  # fmt: skip
    with pytest.raises(ValueError, match="Received: gradcam_area, which is there already"):
        fit(GradCAMLogger(X, tracker=None, on_error="raise"), model=model, epochs=1)
    logger, logs = GradCAMLogger(X, tracker=None, on_error="raise"), {}
    logger.set_model(tiny_model())
    for epoch in range(2):
        logger.on_epoch_end(epoch, logs)
    assert "gradcam_area" in logs


def test_names_are_listed():
    assert check_names([""], ["area"], ["flip"]) == ["area", "flip_correlation", "flip_unchanged"]
    assert check_names(["a", "b"], ["area"]) == ["a_area", "b_area"]
