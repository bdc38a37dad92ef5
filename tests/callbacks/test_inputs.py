"""Fits with models of several images: each view of a record has its own image, map and numbers."""

import warnings

import keras
import numpy as np
import pytest
from explaining.test_side_by_side import SHAPES, input_gradients, two_views, views

from keras_cam_callbacks import HeatmapLogger, Overlay, compare, explain, read_run, write_timelapse

Y = np.array([0, 1, 2, 0])
BOXES = [(2, 3, 10, 12), (5, 5, 30, 30), None, (0, 0, 8, 8)]


class Gradients(keras.callbacks.Callback):
    """Computes the maps at each epoch end, with the weights of that moment."""

    def __init__(self, x):
        super().__init__()
        self.x, self.maps = x, []

    def on_epoch_end(self, epoch, logs=None):
        gradients = input_gradients(self.model, self.x)
        self.maps.append({name: np.abs(gradient).sum(axis=-1) for name, gradient in gradients.items()})


def compiled(model):
    model.compile(keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def data():
    x = views(4)
    return {"cc": (255 * x["cc"]).astype(np.uint8), "mlo": x["mlo"]}


def fitted(model, x, epochs=2, initial_epoch=0, **settings):
    logger = HeatmapLogger((x, Y), method="saliency", on_error="raise", **settings)
    reference = Gradients(x)
    history = model.fit(
        x, Y, shuffle=False, verbose=0, epochs=epochs, initial_epoch=initial_epoch, callbacks=[logger, reference]
    )
    return logger, reference.maps, history.history


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A run of two epochs on disk, with the maps that it should hold."""
    model, x = compiled(two_views(scaled=True)), data()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        logger, maps, history = fitted(
            model,
            x,
            tracker=["disk", "memory"],
            log_dir=tmp_path_factory.mktemp("logs"),
            input=["mlo", "cc"],
            regions=BOXES,
            faithfulness_freq=1,
            metrics="all",
        )
    return logger, maps, history, model, x


def test_each_view_has_the_map_of_its_image(stored):
    logger, maps, *_ = stored
    run = read_run(logger.directory)
    assert run.epochs[-1].views == ("mlo", "cc")
    for epoch, expected, record in zip(run.epochs, maps, logger.trackers[1].records, strict=True):
        for name, of_image in expected.items():
            np.testing.assert_allclose(epoch.heatmaps(name), of_image, rtol=1e-3, atol=1e-7)
            np.testing.assert_array_equal(record.views[name].heatmaps, epoch.heatmaps(name))


def test_each_view_has_its_picture(stored):
    logger, *_, x = stored
    run = read_run(logger.directory)
    for row in range(4):
        np.testing.assert_array_equal(run.display(view="cc")[row], x["cc"][row])
    assert [shown.shape for shown in run.display([2], view="mlo")] == [(40, 40, 3)]
    np.testing.assert_array_equal(run.display()[1], run.display(view="mlo")[1])
    assert sorted(path.name for path in run.directory.glob("images*")) == ["images", "images-1"]


def test_numbers_are_of_each_views_own_image_and_regions(stored):
    logger, maps, history, *_ = stored
    scalars = read_run(logger.directory).epochs[-1].scalars
    heat = maps[-1]["mlo"].astype(np.float64)
    shares = [
        heat[i, y0:y1, x0:x1].sum() / heat[i].sum()
        for i, (x0, y0, x1, y1) in ((0, BOXES[0]), (1, BOXES[1]), (3, BOXES[3]))
    ]
    np.testing.assert_allclose(scalars["mlo_energy_in_region"], np.mean(shares), rtol=1e-3)
    assert np.isnan(scalars["cc_energy_in_region"])
    for name, of_image in maps[-1].items():
        tops = of_image.max(axis=(1, 2), keepdims=True)
        np.testing.assert_allclose(scalars[f"{name}_area"], (of_image >= tops / 2).mean(), rtol=1e-3)
        assert np.isfinite(scalars[f"{name}_insertion"])
    assert scalars["mlo_insertion"] != scalars["cc_insertion"]
    assert np.isneginf(history["saliency_cc_energy_in_region"]).all()  # Worse than any: no early stopping by it.


def test_pictures_are_read_back_as_they_were_logged(stored):
    logger, *_, model, _x = stored
    run, record = read_run(logger.directory), logger.trackers[1].records[-1]
    drawn = logger.explain(model).overlays(Overlay())
    for read, logged, again in zip(run.epochs[-1].overlays(), record.overlays, drawn, strict=True):
        assert read.shape == logged.shape
        np.testing.assert_array_equal(logged, again)
        assert np.abs(read.astype(int) - logged).mean() < 8  # It became a JPEG.
    # Where regions may be drawn is on the image that they are of.
    for places in record.places:
        assert max(right for *_, right, _ in places) <= 2 * 160 + 4
    (film,) = write_timelapse(run, logger.directory.parent / "film.gif")
    assert film.stat().st_size > 0


def test_a_comparison_shows_the_image_of_its_view(stored, tmp_path):
    pytest.importorskip("jinja2")
    run = read_run(stored[0].directory)
    pages = {}
    for view, shape in (("mlo", (40, 40)), ("cc", (24, 16))):
        compared = compare([run], view=view)
        assert compared.heatmaps(0, 1).shape[1:] == shape
        assert [region is None for region in compared.regions()] == [view == "cc" or box is None for box in BOXES]
        compared.report(tmp_path / f"{view}.html")
        pages[view] = (tmp_path / f"{view}.html").read_text("utf-8")
        compared.figure()
    for view, (height, width) in (("mlo", (40, 40)), ("cc", (24, 16))):
        assert f'"width":{width},"height":{height}' in pages[view]


def test_a_run_goes_on_in_another_process_with_the_same_images_alone(tmp_path):
    x = data()
    directories = []
    for number in range(2):
        keras.backend.clear_session()
        logger, *_ = fitted(compiled(two_views()), x, number + 1, number, tracker="disk", log_dir=tmp_path)
        directories.append(logger.directory)
    assert directories[0] == directories[1]
    assert [epoch.epoch for epoch in read_run(directories[0]).epochs] == [0, 1]
    logger, *_ = fitted(compiled(two_views()), x, 3, 2, tracker="disk", log_dir=tmp_path, input="mlo")
    assert logger.directory != directories[0]


def test_other_methods_show_other_images():
    """What a kept batch is of follows from the method."""
    x = data()
    logger = HeatmapLogger((x, Y), "conv_cc", tracker="memory")
    model = compiled(two_views())
    assert logger.explain(model).batch.image_size == SHAPES["cc"][:2]
    logger.method, logger.layer_name = "saliency", None
    assert list(logger.explain(model)) == ["mlo", "cc"]


def test_what_is_said_when_training_begins(capsys):
    x = data()
    x["mlo"] = x["mlo"] * 7 - 3
    logger = HeatmapLogger((x, Y), method="saliency", tracker="memory", metrics=["drift"])
    compiled(two_views()).fit(x, Y, verbose=2, callbacks=[logger])
    said = capsys.readouterr().out
    assert "explains of 'mlo' the image itself; of 'cc' the image itself" in said
    assert "of range min-max of 'mlo', [0, 255] of 'cc'" in said


def test_one_image_beside_numbers_is_as_ever():
    """No view has a name, and nothing is said."""
    image, meta = keras.Input((16, 16, 3), name="image"), keras.Input((4,), name="meta")
    pooled = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(2, 3)(image))
    model = keras.Model(
        {"image": image, "meta": meta}, keras.layers.Dense(3)(keras.layers.Concatenate()([pooled, meta]))
    )
    x = {"image": np.random.default_rng(0).random((4, 16, 16, 3), np.float32), "meta": np.ones((4, 4), np.float32)}
    logger = HeatmapLogger((x, Y), method=["gradcam", "saliency"], tracker="memory", on_error="raise")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compiled(model).fit(x, Y, verbose=0, callbacks=[logger])
        found = explain(model, x, output_kind="classes")
    assert logger.trackers[0].config.displays == {}
    assert list(logger.trackers[0].records[0].views) == ["gradcam", "saliency"]
    assert found.batch.input_name == ""
