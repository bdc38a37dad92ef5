"""Figures: which panels, under which titles, with which pixels, and nothing of the user's matplotlib changed."""

from __future__ import annotations

import gc
import re
import subprocess
import sys
import weakref
from io import BytesIO
from pathlib import Path

import keras
import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

import keras_cam_callbacks
from keras_cam_callbacks import METHODS, Explanation, Occlusion, Overlay, SmoothGrad, explain, plot_methods, show
from keras_cam_callbacks.drawing.overlay import colorize
from tests.models import CLASSES, functional, images, labels, sequential

SLOW = ["scorecam", "ablationcam", "occlusion", "rise"]


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(3)
    return functional().model


@pytest.fixture(scope="module")
def several(model):
    return explain(model, (images(4), labels(4)), method=["gradcam", "layercam", "saliency"])


@pytest.fixture(scope="module")
def single(model):
    return explain(model, (images(4), labels(4)), method="layercam")


def panels(figure):
    """Titles, pixels and captions of all panels but the last axes, the colours' key."""
    return [(axes.get_title(), axes.images[0].get_array(), axes.get_xlabel()) for axes in figure.axes[:-1]]


def flat(text):
    return " ".join(text.split())


def methods_in(figure):
    return [flat(title).removesuffix(": no heatmap") for title, _, _ in panels(figure)[1:]]


@pytest.mark.parametrize("overlay", [None, Overlay(colormap="viridis", alpha=1, clip=(10, 90)), Overlay(layout="mask")])
def test_every_sample_has_its_image_and_its_maps_in_the_overlays_pixels(several, overlay):
    shown = panels(show(several, overlay))
    assert [title for title, _, _ in shown] == ["image", "gradcam", "layercam", "saliency"] * 4
    drawn = {name: (overlay or Overlay()).draw(several[name].batch.display, several[name].heatmaps) for name in several}
    assert len({picture.tobytes() for pictures in drawn.values() for picture in pictures}) == 12
    for i in range(4):
        _, *maps = shown[4 * i : 4 * i + 4]
        for name, (_, pixels, _) in zip(several, maps, strict=True):
            np.testing.assert_array_equal(pixels, drawn[name][i])


def test_the_image_is_shown_at_the_size_of_its_maps_with_its_caption(several):
    shown = panels(show(several))
    for i, sample in enumerate(several.samples()):
        _, pixels, caption = shown[4 * i]
        assert flat(caption) == sample.caption
        assert pixels.shape == shown[4 * i + 1][1].shape
        # 12 x 16 enlarged tenfold: the middle of an enlarged pixel stays close to its colour.
        centre = pixels[5::10, 5::10].astype(int)
        assert np.abs(centre - several["gradcam"].batch.display[i]).mean() < 8
    assert [caption for _, _, caption in shown[1:4]] == ["", "", ""]


def test_a_single_view_is_titled_by_its_method(single):
    shown = panels(show(single, Overlay(caption=False)))
    assert [(title, caption) for title, _, caption in shown] == [("image", ""), ("layercam", "")] * 4
    np.testing.assert_array_equal(shown[7][1], single.overlays(Overlay(caption=False))[3])


def test_a_panel_has_heatmap_overlay_and_further_images(model):
    given = np.random.default_rng(1).integers(0, 256, (2, 30, 40, 3), np.uint8)
    display = {"original": given, "model input": None}
    explanation = explain(model, images(2), display=display)
    shown = panels(show(explanation, Overlay(layout="panel")))
    assert [title for title, _, _ in shown[:4]] == ["original", "model input", "gradcam, heatmap", "gradcam, overlay"]
    np.testing.assert_array_equal(shown[4][1], given[1])
    maps, display = explanation.heatmaps, explanation.batch.display
    np.testing.assert_array_equal(shown[6][1], Overlay(alpha=1).draw(display, maps)[1])
    np.testing.assert_array_equal(shown[7][1], Overlay().draw(display, maps)[1])


def test_scores_of_several_targets_stand_in_the_titles(model):
    found = explain(model, (images(2), labels(2)), target="both", class_names=["cat", "dog", "$x_{1$"])
    shown = panels(show(found))
    assert [flat(title) for title, _, _ in shown[3:]] == ["image", *(f"{n}: {found[n].title(1)}" for n in found)]
    assert flat(shown[3][2]) == found["true"].prediction(1)
    show(found).savefig(BytesIO())  # "$" is no formula, or drawing fails.


def test_augmentations_have_rows_of_their_own(model):
    explanation = explain(model, images(2), augmentations=["flip", "cut_out"])
    figure = show(explanation)
    shown = panels(figure)
    assert len(shown) == 2 * 3 * 2
    assert [title for title, _, _ in shown[:6:2]] == ["not augmented", "augmented", "augmented"]
    assert flat(shown[8][2]).startswith("flip: ")
    value = explanation.augmented["flip"].correlation[1]
    assert np.isnan(value) or flat(shown[8][2]).endswith(f"correlation {value:.2f}")
    flipped = explanation.augmented["flip"].explanation
    np.testing.assert_array_equal(shown[9][1], Overlay().draw(flipped.batch.display, flipped.heatmaps)[1])
    assert len({tuple(axes.get_subplotspec().colspan) for axes in figure.axes[:-1]}) == 2


def test_a_degenerate_map_is_said_to_be_none(single):
    maps = single.heatmaps.copy()
    maps[1] = 0
    dead = Explanation(**{**vars(single), "heatmaps": maps})
    titles = [title for title, _, _ in panels(show(dead))]
    assert titles[3] == "layercam: no heatmap"
    assert "no heatmap" not in titles[1] + titles[5]


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (None, [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0)]),  # four of six: the next sample doesn't fit
        (2, [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)]),
        (8, [(0, 0), (0, 1), (0, 2), (0, 3), (0, 4)]),
    ],
)
def test_columns(several, columns, expected):
    axes = show(several, columns=columns).axes[:5]
    places = [(spec.rowspan.start, spec.colspan.start) for spec in (each.get_subplotspec() for each in axes)]
    assert places == expected


def test_the_key_has_the_overlays_colours_and_says_what_they_mean(single):
    key = show(single, Overlay(colormap="spring", threshold=0.5)).axes[-1]
    colours = key.images[0].get_array()
    np.testing.assert_array_equal(colours[:, 128:], colorize(np.arange(256, dtype=np.uint8)[None], "spring")[:, 128:])
    assert (colours[:, :128] == 255).all()
    assert key.get_xlabel() == "colour: how much a place counts; the bare image below 0.5 of it"
    for overlay, ends in (
        (Overlay(), ["0 or less", "each heatmap's maximum"]),
        (Overlay(scale="batch"), ["0 or less", "the largest of all images"]),
        (Overlay(scale=2.5), ["0 or less", "2.5 or more"]),
        (Overlay(clip=(10, 90)), ["percentile 10", "percentile 90"]),
    ):
        assert [label.get_text() for label in show(single, overlay).axes[-1].get_xticklabels()] == ends
    key = show(single, Overlay(layout="mask")).axes[-1]
    np.testing.assert_array_equal(key.images[0].get_array()[0], np.stack([np.arange(256)] * 3, 1))
    assert key.get_xlabel().startswith("brightness: ")


def test_nothing_of_the_users_matplotlib_changes(several, model):
    import matplotlib.pyplot as plt

    with matplotlib.rc_context({"image.origin": "lower", "axes.grid": True, "figure.autolayout": True}):
        mine = plt.figure()
        before = dict(matplotlib.rcParams), matplotlib.get_backend(), plt.get_fignums(), plt.gcf()
        figure = show(several)
        other = plot_methods(model, images(1)[0], ["gradcam"])
        assert (dict(matplotlib.rcParams), matplotlib.get_backend(), plt.get_fignums(), plt.gcf()) == before
        plt.close(mine)
    assert isinstance(figure, Figure)
    assert isinstance(other, Figure)
    assert figure.axes[0].images[0].origin == "upper"
    assert not any(line.get_visible() for line in figure.axes[0].get_xgridlines())


def test_a_notebook_shows_the_figure_once_without_pyplot():
    code = """
import sys, numpy as np
from IPython.core.formatters import DisplayFormatter
import keras_cam_callbacks.drawing.notebook as figures
assert "matplotlib.pyplot" not in sys.modules
data, _ = DisplayFormatter().format(figures.NotebookFigure())
print(sorted(data), data["image/png"][:4])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == r"['image/png', 'text/plain'] b'\x89PNG'"


def test_without_matplotlib_the_error_names_the_extra():
    code = """
import sys
sys.modules["matplotlib"] = None
import numpy as np
from keras_cam_callbacks import explain, plot_methods, show
import keras
model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(2, 3), keras.layers.GlobalAveragePooling2D()])
found = explain(model, np.zeros((1, 8, 8, 3), "float32"))
for call in (lambda: show(found), lambda: plot_methods(model, np.zeros((8, 8, 3)))):
    try:
        call()
    except ImportError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (
        done.stdout.splitlines() == ["Figures need matplotlib. Install it: pip install 'keras_cam_callbacks[plot]'"] * 2
    )


def test_importing_loads_no_matplotlib():
    # Keras loads it, where it is there; the only file of ours that does is loaded when a figure is drawn.
    code = (
        "import sys; from keras_cam_callbacks import show; print('keras_cam_callbacks.drawing.notebook' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    package = Path(keras_cam_callbacks.__file__).parent
    # At its top; others name it for types, or where they draw.
    naming = [
        path.name for path in package.rglob("*.py") if re.search(r"^(import|from) matplotlib", path.read_text(), re.M)
    ]
    assert naming == ["notebook.py"]


@pytest.mark.parametrize("with_samples_axis", [False, True])
def test_named_methods_are_shown_as_explain_finds_them(model, with_samples_axis):
    image = images(1)
    methods = ["gradcam", SmoothGrad(samples=3), Occlusion(window=4, stride=4)]
    figure = plot_methods(model, image if with_samples_axis else image[0], methods, target=2, layer_name="conv1")
    shown = panels(figure)
    expected = explain(model, image, "conv1", method=methods, target=2)
    assert [title for title, _, _ in shown] == ["image", "gradcam", "smoothgrad", "occlusion"]
    for (_, pixels, _), view in zip(shown[1:], expected.values(), strict=True):
        np.testing.assert_array_equal(pixels, Overlay().draw(view.batch.display, view.heatmaps)[0])
    assert "Left out" not in figure.axes[-1].get_xlabel()


def test_by_default_all_methods_but_the_slow_ones_are_shown(model):
    keras.utils.set_random_seed(7)
    expected, weights = np.random.rand(3), model.get_weights()  # noqa: NPY002 - it is the global state that counts
    keras.utils.set_random_seed(7)
    figure = plot_methods(model, images(1)[0])
    np.testing.assert_array_equal(np.random.rand(3), expected)  # noqa: NPY002
    for now, then in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(now, then)
    titles = methods_in(figure)
    assert titles == [name for name, method in METHODS.items() if name not in SLOW and "readout" not in method.needs]
    note = flat(figure.axes[-1].get_xlabel())
    assert f"Left out: {', '.join(SLOW)}. They run the model on hundreds of changed images" in note


def bare_net(last="gelu"):
    """No ReLU, and no head that CAM knows."""
    return keras.Sequential(
        [
            keras.Input((12, 16, 3)),
            keras.layers.Conv2D(4, 3, activation=last, name="conv"),
            keras.layers.Flatten(),
            keras.layers.Dense(CLASSES, activation="softmax"),
        ]
    )


def test_what_does_not_fit_the_model_is_left_out_with_the_reason():
    figure = plot_methods(bare_net(), images(1)[0])
    titles = set(methods_in(figure))
    assert {"gradcam", "saliency", "max_activation"} <= titles
    assert titles.isdisjoint({"cam", "guided_backprop", "guided_gradcam", *SLOW})
    note = flat(figure.axes[-1].get_xlabel())
    assert "Left out: cam. CAM needs a model that ends in GlobalAveragePooling2D" in note
    assert "Left out: guided_backprop, guided_gradcam. Guided backpropagation needs a model with ReLUs" in note


def test_a_model_without_feature_maps_is_explained_by_methods_of_the_image():
    net = keras.Sequential(
        [keras.Input((12, 16, 3)), keras.layers.Flatten(), keras.layers.Dense(8, "relu"), keras.layers.Dense(2)]
    )
    figure = plot_methods(net, images(1)[0])
    titles = set(methods_in(figure))
    assert {"saliency", "guided_backprop", "smoothgrad"} <= titles
    assert titles.isdisjoint({"gradcam", "cam", "eigencam", "guided_gradcam"})


def test_named_methods_that_do_not_fit_raise():
    with pytest.raises(ValueError, match="CAM needs a model that ends in"):
        plot_methods(bare_net(), images(1)[0], ["gradcam", "cam"])
    with pytest.raises(ValueError, match="needs a model with ReLUs"):
        plot_methods(bare_net(), images(1)[0], "guided_backprop")


def test_a_wrong_setting_raises_and_leaves_nothing_out(model):
    with pytest.raises(ValueError, match="'nowhere'"):
        plot_methods(model, images(1)[0], layer_name="nowhere")
    with pytest.raises(ValueError, match="between 0 and 2"):
        plot_methods(model, images(1)[0], target=5)
    with pytest.raises(ValueError, match="Received: 'gradcan'"):
        plot_methods(model, images(1)[0], ["gradcan"])


def test_a_named_layer_leaves_methods_of_the_image_in():
    figure = plot_methods(sequential().model, images(1)[0], layer_name="conv1")
    titles = set(methods_in(figure))
    assert {"gradcam", "saliency"} <= titles
    assert "cam" not in titles
    assert "Left out: cam. CAM explains the layer that feeds" in flat(figure.axes[-1].get_xlabel())


@pytest.mark.parametrize("image", [images(2), images(1)[0, :, :, 0], "photo.jpg", [images(1)]])
def test_more_or_less_than_one_image_is_refused(model, image):
    with pytest.raises(ValueError, match="`image` must be one image"):
        plot_methods(model, image)


def test_bad_settings_are_refused(model, single):
    with pytest.raises(TypeError, match="what explain\\(\\) returns"):
        show(single.heatmaps)
    for call in (lambda **given: show(single, **given), lambda **given: plot_methods(model, images(1)[0], **given)):
        with pytest.raises(TypeError, match="`overlay` must be an Overlay"):
            call(overlay="spring")
        with pytest.raises(ValueError, match="`columns` must be a positive"):
            call(columns=0)


def test_a_figure_holds_nothing_after_it_is_dropped(single):
    figure = weakref.ref(show(single))
    gc.collect()
    assert figure() is None
