"""Metrics, regions and faithfulness inside `fit`."""

import csv

import keras
import numpy as np
import pytest
from fits import OF_IMAGES, SAMPLES, X, Y, compiled, fit, new_model, tiny_model
from models import CLASSES, SHAPE, functional

from keras_cam_callbacks import GradCAMLogger, HeatmapLogger, MemoryTracker, Regions, explain, metrics, read_run
from keras_cam_callbacks.metrics import METRICS, drift, moved, worst
from keras_cam_callbacks.metrics.faithfulness import STEPS, deletion, insertion

from_keras = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
BOXES = np.tile([4, 3, 12, 9], (SAMPLES, 1))


def heat_at(columns, sigma=1.0):
    """A method whose map in each call is a spot at the next column, of 14."""
    columns = iter(columns)

    def method(activations, gradients):
        spot = np.exp(-((np.arange(14) - next(columns)) ** 2) / (2 * sigma**2)).astype(np.float32)
        return np.tile(spot * np.hanning(10)[:, None].astype(np.float32), (len(activations), 1, 1))

    return method


# ---- Keras' logs -------------------------------------------------------------------------------------------


@from_keras
def test_keras_watches_the_energy_in_the_region(tmp_path):
    """The heat walks into the box, and out again; Keras keeps the epoch in which it was there."""
    logger = HeatmapLogger(
        (X, Y), method=heat_at([0, 3, 7, 11, 13]), prefix="spot", tracker=None, regions=BOXES, metrics="all"
    )
    watched = {"monitor": "spot_energy_in_region", "mode": "max"}
    stopping = keras.callbacks.EarlyStopping(**watched, patience=2)
    saving = keras.callbacks.ModelCheckpoint(
        tmp_path / "{epoch}.weights.h5", **watched, save_best_only=True, save_weights_only=True
    )
    table = keras.callbacks.CSVLogger(tmp_path / "log.csv")
    history = fit(logger, stopping, saving, table, epochs=9)
    assert (stopping.best_epoch, len(history["loss"])) == (2, 5)
    assert sorted(path.name[0] for path in tmp_path.glob("*.h5")) == ["1", "2", "3"]
    with open(tmp_path / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for name in METRICS["regions"]:
        assert [float(row[f"spot_{name}"]) for row in rows] == history[f"spot_{name}"]
    assert history["spot_pointing"] == [0, 1, 1, 0, 0]
    assert history["spot_peak_outside"] == [1, 0, 0, 1, 1]
    # The walk in px of the map; at the border a part of the spot would be cut off.
    np.testing.assert_allclose(history["spot_centre_shift"][2], 4 / np.hypot(10, 14), atol=1e-3)
    np.testing.assert_allclose(history["spot_moved"][2], 4 / np.hypot(10, 14), atol=0.02)


@from_keras
@pytest.mark.parametrize(("name", "mode"), [("energy_in_region", "max"), ("first_spearman", "max"), ("moved", "min")])
def test_a_first_epoch_without_a_number_is_never_the_best(name, mode):
    maps = iter([np.zeros((SAMPLES, 10, 14))] + [np.random.default_rng(i).random((SAMPLES, 10, 14)) for i in range(3)])
    logger = HeatmapLogger(
        (X, Y),
        method=lambda activations, gradients: next(maps),
        target="true",
        prefix="m",
        tracker=None,
        regions=BOXES,
        metrics=[name],
    )
    stopping = keras.callbacks.EarlyStopping(f"m_{name}", mode=mode, patience=9)
    with pytest.warns(RuntimeWarning, match="heatmaps explain nothing in epoch 0"):
        history = fit(logger, stopping, epochs=4)[f"m_{name}"]
    assert history[0] == (-np.inf if mode == "max" else np.inf)
    assert np.isfinite(stopping.best) == np.isfinite(history[1:]).any()


def test_heatmaps_that_explain_nothing_are_told_once_for_each_cause():
    good = np.random.default_rng(0).random((SAMPLES, 10, 14))
    half = good.copy()
    half[::2], half[1] = 0, np.nan
    epochs = iter([good, half, half * 1.0, -good, good * np.nan])
    logger = HeatmapLogger(X, method=lambda activations, gradients: next(epochs), prefix="m", tracker=None)
    with pytest.warns(RuntimeWarning, match="heatmaps explain nothing") as caught:
        fit(logger, epochs=5)
    said = [str(warning.message) for warning in caught if warning.category is RuntimeWarning]
    assert len(said) == 3
    zeros = (SAMPLES + 1) // 2
    assert f"{zeros} of {SAMPLES} heatmaps explain nothing in epoch 1" in said[0]
    assert "zero everywhere" in said[0]
    assert f"1 of {SAMPLES} heatmaps explain nothing in epoch 1" in said[1]
    assert "not finite" in said[1]
    assert f"{SAMPLES} of {SAMPLES} heatmaps explain nothing in epoch 3" in said[2]
    assert "nowhere positive" in said[2]


def test_worst():
    assert worst("layercam_first_top_iou") == -np.inf
    assert worst("true_first_drift") == worst("deletion") == worst("average_drop") == np.inf
    assert np.isnan(worst("area"))
    assert worst("flip_correlation") == worst("layercam_flip_correlation") == -np.inf


def test_metrics_chooses_what_is_logged():
    memory = MemoryTracker()
    chosen = ["first_moved", "area", "pointing"]
    history = fit(GradCAMLogger((X, Y), tracker=memory, metrics=chosen, regions=BOXES), epochs=2)
    assert sorted(name for name in history if "gradcam" in name) == sorted(f"gradcam_{name}" for name in chosen)
    assert list(memory.records[0].scalars) == list(memory.records[0].values) == ["area", "first_moved", "pointing"]
    # As all other settings they are those of the next fit.
    logger, model = GradCAMLogger((X, Y), tracker=None, metrics=["area"]), tiny_model()
    assert "gradcam_area" in fit(logger, model=model, epochs=1)
    logger.metrics = ["entropy"]
    history = fit(logger, model=model, epochs=1)
    assert [name for name in history if "gradcam" in name] == ["gradcam_entropy"]


def test_names_of_views_that_would_meet(tmp_path):
    logger = HeatmapLogger((X, Y), target={"a": 0, "a_first": 1}, log_dir=tmp_path)
    with pytest.raises(ValueError, match="methods and targets: a, a_first, of which two would log a_first_"):
        fit(logger, epochs=1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"metrics": ["area", "energy"]}, ValueError, "Received: 'energy'. Did you mean 'entropy'|energy_"),
        ({"metrics": ["drft"]}, ValueError, "must be some of confidence, area.*'drft'. Did you mean 'drift'"),
        ({"metrics": "drift"}, TypeError, "must be a list of names, 'all' or None. Received: 'drift'"),
        ({"faithfulness_freq": 0}, ValueError, "`faithfulness_freq` must be a positive integer. Received: 0"),
        ({"faithfulness_freq": 3, "freq": 2}, ValueError, "must be a multiple of `freq`.*=3, freq=2"),
        ({"metrics": ["area", "pointing"]}, ValueError, "pointing only with `regions`. Received: regions=None"),
        ({"metrics": ["insertion"]}, ValueError, "insertion only with `faithfulness_freq`.*faithfulness_freq=5 works"),
        ({"faithfulness_freq": 2, "metrics": ["area"]}, ValueError, "at least one of insertion.*Received: area"),
    ],
)
def test_wrong_settings_are_told_at_construction(settings, error, message):
    with pytest.raises(error, match=message):
        GradCAMLogger((X, Y), **settings)


def test_wrong_regions_are_told_before_the_first_batch(tmp_path):
    model = tiny_model()
    with pytest.raises(ValueError, match=r"Did you mean Regions\(boxes, 'rel_xyxy'\)"):
        fit(GradCAMLogger((X, Y), regions=BOXES / 20, log_dir=tmp_path), model=model)
    assert int(model.optimizer.iterations) == 0


# ---- Records -----------------------------------------------------------------------------------------------


def test_values_and_regions_are_stored(tmp_path):
    boxes = [None, *BOXES[1:]]
    fit(GradCAMLogger((X, Y), regions=boxes, log_dir=tmp_path, tracker="disk"), epochs=2)
    run = read_run(tmp_path)
    assert run.regions()[0] is None
    np.testing.assert_allclose(run.regions()[1].boxes, [[0.25, 0.25, 0.75, 0.75]])
    epoch = run.epochs[1]
    values = epoch.values()
    assert {*OF_IMAGES, *METRICS["last"], *METRICS["first"], *METRICS["regions"]} - {"degenerate"} == set(values)
    assert {name: len(v) for name, v in values.items()} == dict.fromkeys(values, SAMPLES)
    assert np.isnan(values["energy_in_region"]).tolist() == [True] + [False] * (SAMPLES - 1)
    for name, of_samples in values.items():
        assert epoch.scalars[name] == pytest.approx(np.nanmean(of_samples))
    # The runs's regions can be given to another run.
    batch = explain(tiny_model(), X, regions=run.regions()).batch
    np.testing.assert_allclose(batch.regions[1].boxes, run.regions()[1].boxes)


def test_first_epoch_is_kept_over_fits():
    memory, model = MemoryTracker(), tiny_model()
    logger = GradCAMLogger((X, Y), tracker=memory)
    for _ in range(2):
        fit(logger, model=model, epochs=2)
    maps = [record.heatmaps for record in memory.records]
    for i in (1, 2, 3):
        values = memory.records[i].values
        np.testing.assert_allclose(values["first_drift"], drift(maps[i], maps[0]))
        np.testing.assert_allclose(values["first_moved"], moved(maps[i], maps[0]))
        np.testing.assert_allclose(values["moved"], moved(maps[i], maps[i - 1]))
    assert np.isnan(memory.records[0].values["first_drift"]).all()
    # Another model is another run.
    fit(logger, model=new_model(), epochs=1)
    assert np.isnan(memory.records[-1].values["first_drift"]).all()


def test_other_regions_are_another_run(tmp_path):
    """The stored ones would not be those that the numbers are of."""
    mask = np.zeros(SHAPE[:2], bool)
    mask[3:9] = True
    logger, model = GradCAMLogger((X, Y), log_dir=tmp_path, tracker="disk"), tiny_model()
    folders = []
    for regions in ([BOXES[0]] * 12, BOXES, [mask] * 12, [mask.copy()] * 12, [~mask] * 12, None):
        logger.regions = regions
        fit(logger, model=model, epochs=1)
        folders.append(logger.directory.name)
    assert folders == ["gradcam", "gradcam", "gradcam-2", "gradcam-2", "gradcam-3", "gradcam-4"]


@from_keras
def test_first_epoch_is_kept_by_a_resumed_run(tmp_path):
    fit(GradCAMLogger((X, Y), log_dir=tmp_path, tracker="disk"), model=new_model(), epochs=2)
    # As in another process.
    resumed = GradCAMLogger((X, Y), log_dir=tmp_path, tracker="disk", metrics=["first_drift"])
    history = fit(resumed, model=new_model(), epochs=3, initial_epoch=2)
    epochs = read_run(tmp_path).epochs
    assert [epoch.step for epoch in epochs] == [0, 1, 2]
    expected = np.nanmean(drift(epochs[2].heatmaps(), epochs[0].heatmaps()))
    assert history["gradcam_first_drift"] == pytest.approx([expected])


@from_keras
def test_a_resume_with_other_regions_is_another_run(tmp_path):
    mask = np.zeros(SHAPE[:2], bool)
    mask[3:9] = True
    folders = []
    for i, regions in enumerate((BOXES, BOXES, None, [mask] * 12, [mask] * 12, [~mask] * 12)):
        logger = GradCAMLogger((X, Y), log_dir=tmp_path, tracker="disk", regions=regions)  # As in another process.
        fit(logger, model=new_model(), epochs=i + 1, initial_epoch=i)
        folders.append(logger.directory.name)
    assert folders == ["gradcam", "gradcam", "gradcam-2", "gradcam-3", "gradcam-3", "gradcam-4"]


def test_several_views_have_their_own():
    memory = MemoryTracker()
    logger = HeatmapLogger(
        (X, Y),
        method=["gradcam", "layercam"],
        target="both",
        tracker=memory,
        regions=BOXES,
        faithfulness_freq=1,
        metrics="all",
    )
    history = fit(logger, epochs=1)
    for view in ("gradcam_predicted", "gradcam_true", "layercam_predicted", "layercam_true"):
        for name in (*METRICS["regions"], *METRICS["faithfulness"], *OF_IMAGES):
            assert f"heatmaps_{view}_{name}" in history
    values = memory.records[0].values
    # The confidence is that of the target.
    assert not np.array_equal(values["gradcam_predicted_insertion"], values["gradcam_true_insertion"])
    same = memory.records[0].outputs.argmax(axis=1) == Y
    np.testing.assert_allclose(
        values["gradcam_predicted_deletion"][same], values["gradcam_true_deletion"][same], atol=1e-6
    )


def test_augmented_views_have_no_regions():
    history = fit(GradCAMLogger((X, Y), tracker=None, regions=BOXES, augmentations=["flip"]), epochs=1)
    assert "gradcam_energy_in_region" in history
    found = explain(tiny_model(), X, regions=BOXES, augmentations=["flip"])
    assert set(METRICS["regions"]) <= set(found.metrics())
    assert not set(METRICS["regions"]) & set(found.augmented["flip"].explanation.metrics())


def test_ways_go_by_the_spacing():
    memory = MemoryTracker()
    names = ["moved", "first_moved", "centre_shift"]
    fit(GradCAMLogger((X, Y), tracker=memory, spacing=(9, 1), metrics=names, target="true"))
    assert memory.config.space.spacing == (9.0, 1.0)
    first, second, third = (record.heatmaps for record in memory.records)
    height, width = X.shape[1:3]
    ways = metrics.centre(third) - metrics.centre(second)
    expected = np.hypot(ways[:, 0] * width, ways[:, 1] * height * 9) / np.hypot(width, height * 9)
    np.testing.assert_allclose(memory.records[2].values["centre_shift"], expected, rtol=1e-5)
    extent = (height * 9, width)
    np.testing.assert_array_equal(memory.records[2].values["first_moved"], metrics.moved(third, first, extent))
    assert np.nanmax(np.abs(metrics.moved(third, first, extent) - metrics.moved(third, first))) > 1e-3


def test_numbers_of_axes_that_images_lack_are_refused():
    with pytest.raises(ValueError, match=r"centre_z only where maps have 3 axes. Received: .* height, width"):
        fit(GradCAMLogger((X, Y), tracker=None, metrics=["area", "centre_z"]), epochs=1)


# ---- explain -----------------------------------------------------------------------------------------------


def test_explanation_measures_a_digit_on_a_photograph():
    """By hand: the saliency of a model that is the mean over one box is even in it, and nowhere else."""
    from keras_cam_callbacks.demo.data import SIDE, make_scenes

    _, scenes = make_scenes(20)
    scenes = scenes[:6]
    top, left, bottom, right = scenes.boxes[0]
    weights = np.zeros((SIDE, SIDE, 3, 2), np.float32)
    weights[top:bottom, left:right, :, 1] = 1 / (bottom - top)
    model = keras.Sequential([keras.Input((SIDE, SIDE, 3)), keras.layers.Flatten(), keras.layers.Dense(2)])
    model.layers[-1].set_weights([weights.reshape(-1, 2), np.zeros(2)])
    found = explain(model, scenes.images, method="saliency", target=1, regions=Regions(scenes.boxes, "yxyx")).metrics()
    assert found["energy_in_region"][0] == pytest.approx(1)
    assert found["region_iou"][0] == pytest.approx(1)
    assert found["energy_ratio"][0] == pytest.approx(SIDE**2 / ((bottom - top) * (right - left)))
    assert found["pointing"][0] == 1
    np.testing.assert_allclose(
        [found["centre_x"][0], found["centre_y"][0]], [(left + right) / 2 / SIDE, (top + bottom) / 2 / SIDE]
    )
    for i in range(1, 6):  # The other scenes have their digit elsewhere.
        t, le, b, r = scenes.boxes[i]
        shared = max(0, min(b, bottom) - max(t, top)) * max(0, min(r, right) - max(le, left))
        assert found["energy_in_region"][i] == pytest.approx(shared / ((bottom - top) * (right - left)), abs=1e-6)


# ---- Faithfulness ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("freq", "every", "epochs", "expected"),
    [(1, 2, 4, [0, 2, 3]), (2, 4, 6, [0, 4, 5]), (1, 9, 3, [0, 2])],
)
def test_faithfulness_freq_keeps_first_and_last(freq, every, epochs, expected):
    memory = MemoryTracker()
    logger = GradCAMLogger(
        (X, Y), tracker=memory, freq=freq, faithfulness_freq=every, metrics=["deletion", "area"], max_samples=2
    )
    history = fit(logger, epochs=epochs)
    assert [record.epoch for record in memory.records if "deletion" in record.values] == expected
    assert len(history["gradcam_deletion"]) == len(expected)


@pytest.mark.parametrize("batch_size", [5, 32])
def test_faithfulness_is_that_of_the_model(batch_size):
    memory, model = MemoryTracker(), tiny_model()
    logger = GradCAMLogger((X, Y), tracker=memory, faithfulness_freq=1, batch_size=batch_size)
    fit(logger, model=model, epochs=1)
    record = memory.records[0]
    predicted = record.outputs.argmax(axis=1)

    def confidence(copies, total):
        images, rows = zip(*copies, strict=True)
        assert total == len(images)
        yield from model.predict(np.stack(images), verbose=0)[np.arange(total), predicted[list(rows)]]

    original = record.outputs.max(axis=1)
    for name, metric in (("insertion", insertion), ("deletion", deletion)):
        expected = metric(X, record.heatmaps, confidence, original)
        np.testing.assert_allclose(record.values[name], expected, atol=1e-5)
        assert (expected > 0).all()
        assert (expected < 1).all()
    assert set(np.unique(record.values["increase"])) <= {0, 1}


def test_faithfulness_traces_once_and_costs_what_is_said(monkeypatch):
    counted, traced = [], []
    model = new_model()
    whole = type(model).__call__

    def counting(self, *args, **kwargs):
        traced.append(self is model)
        return whole(self, *args, **kwargs)

    monkeypatch.setattr(type(model), "__call__", counting)
    logger = GradCAMLogger((X, Y), tracker=None, faithfulness_freq=1)
    logger.set_model(model)
    logger.on_train_begin()
    probe = logger._source._confidence
    run = probe._run

    def passes(function, values, *others):
        counted.append(len(values))
        return run(function, values, *others)

    monkeypatch.setattr(probe, "_run", passes)
    before = len(traced)
    for epoch in range(3):
        logger.on_epoch_end(epoch, {})
        if epoch == 0 and keras.backend.backend() == "jax":  # It traces for each number of samples, now known.
            before = len(traced)
    if keras.backend.backend() != "torch":  # It is run each time, and traced never.
        assert len(traced) == before
    assert sum(counted) == 3 * (2 * STEPS + 1) * SAMPLES
    assert max(counted) <= 32


@pytest.mark.parametrize(
    ("unit", "settings"),
    [(CLASSES, {"target": lambda outputs: outputs[:, 0] * 2}), (1, {})],
    ids=["score", "regression"],
)
def test_faithfulness_needs_a_probability(unit, settings):
    model = functional(unit, None if unit == 1 else "softmax").model
    model.compile("sgd", "mse", jit_compile=False)
    logger = GradCAMLogger(X, tracker=None, faithfulness_freq=2, **settings)
    with pytest.raises(ValueError, match=r"need the probability of a class. Received: model 'functional'.*Leave out"):
        model.fit(X, np.eye(unit)[Y % unit], verbose=0, callbacks=[logger])
    assert int(model.optimizer.iterations.numpy()) == 0


def test_faithfulness_of_one_unit_and_of_whole_numbers():
    """A sigmoid; and images that are uint8, as is what is taken away from them."""
    model = keras.Sequential(
        [
            keras.Input(SHAPE, dtype="uint8"),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Conv2D(4, 3, activation="relu"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(1, activation="sigmoid"),
        ]
    )
    compiled(model).compile("sgd", "binary_crossentropy", jit_compile=False)
    images = (X * 255).astype(np.uint8)
    memory = MemoryTracker()
    logger = GradCAMLogger((images, Y % 2), tracker=memory, faithfulness_freq=1)
    model.fit(images, Y % 2, verbose=0, callbacks=[logger])
    values = memory.records[0].values
    found = values["insertion"][np.isfinite(values["insertion"])]
    assert len(found)
    assert ((found > 0.2) & (found < 1)).all()  # Near the confidence, which is at least a half.
