"""Several images as input: each that the score depends on has its own map, on its own picture."""

import warnings

import keras
import numpy as np
import pytest
from keras import layers, ops
from tapes import watched

from keras_cam_callbacks import Explainer, Explanations, IntegratedGradients, Overlay, explain, show

SHAPES = {"cc": (24, 16, 3), "mlo": (40, 40, 1)}
SAYS_NOTHING = {"output_kind": "classes"}


def views(count=2):
    """A small one in colour, and a larger one in grey."""
    random = np.random.default_rng(0)
    return {name: random.random((count, *shape), dtype=np.float32) for name, shape in SHAPES.items()}


def two_views(scaled=False, dtypes=("float32", "float32"), outputs=3):
    keras.utils.set_random_seed(3)
    inputs = {
        name: keras.Input(shape, name=name, dtype=dtype)
        for (name, shape), dtype in zip(SHAPES.items(), dtypes, strict=True)
    }
    ends = []
    for name, x in inputs.items():
        x = layers.Rescaling(1 / 255)(x) if scaled and name == "cc" else x
        x = layers.Conv2D(4, 3, activation="tanh", name=f"conv_{name}")(x)
        ends.append(layers.GlobalAveragePooling2D(name=f"pool_{name}")(x))
    joined = layers.Dense(8, activation="tanh")(layers.Concatenate()(ends))
    return keras.Model(inputs, layers.Dense(outputs)(joined))


def joined_views():
    """One network of both images."""
    keras.utils.set_random_seed(3)
    before, after = (keras.Input((16, 16, 3), name=name) for name in ("before", "after"))
    x = layers.Conv2D(4, 3, activation="tanh", name="conv")(layers.Concatenate()([before, after]))
    outputs = layers.Dense(2)(layers.GlobalAveragePooling2D()(x))
    random = np.random.default_rng(0)
    x = {name: random.random((2, 16, 16, 3), dtype=np.float32) for name in ("before", "after")}
    return keras.Model({"before": before, "after": after}, outputs), x


def input_gradients(model, x):
    """d (largest output) / d each input."""

    def score(watch):
        tensors = {name: watch(ops.cast(array, "float32")) for name, array in x.items()}
        return ops.max(model(tensors, training=False), axis=1)

    return dict(zip(x, watched(score)[1], strict=True))


def silently(function, *arguments, **settings):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return function(*arguments, **settings)


def test_the_gradient_with_respect_to_each_image():
    model, x = two_views(), views()
    found = silently(explain, model, x, method="saliency", **SAYS_NOTHING)
    assert list(found) == ["mlo", "cc"]  # The largest first.
    for name, gradient in input_gradients(model, x).items():
        np.testing.assert_allclose(found[name].attributions, gradient, rtol=1e-4, atol=1e-8)
        np.testing.assert_allclose(found[name].heatmaps, np.abs(gradient).sum(axis=-1), rtol=1e-4, atol=1e-8)
        assert found[name].batch.image_size == SHAPES[name][:2]
        assert found[name].batch.input_name == name
    np.testing.assert_array_equal(found["cc"].scores, found["mlo"].scores)


def test_integrated_gradients_of_each_image_sum_to_what_it_alone_changes():
    model, x = two_views(), views()
    found = explain(model, x, method=IntegratedGradients(steps=64), target=1, **SAYS_NOTHING)
    whole = ops.convert_to_numpy(model(x))[:, 1]
    for name, view in found.items():
        without = ops.convert_to_numpy(model({**x, name: np.zeros_like(x[name])}))[:, 1]
        np.testing.assert_allclose(view.attributions.sum(axis=(1, 2, 3)), whole - without, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(found["cc"].values["completeness_gap"], 0, atol=1e-3)


def test_occlusion_covers_one_image_at_a_time():
    """An image that alone decides has all the heat: the other one may be covered anywhere."""
    inputs = {name: keras.Input((16, 16, 1), name=name) for name in ("left", "right")}
    ends = [layers.GlobalAveragePooling2D()(x) for x in inputs.values()]
    weigh = layers.Dense(1, use_bias=False)
    model = keras.Model(inputs, weigh(layers.Concatenate()(ends)))
    weigh.set_weights([np.array([[256.0], [0.0]])])
    left = np.zeros((1, 16, 16, 1), np.float32)
    left[:, 4:8, 4:8] = 1
    found = explain(model, {"left": left, "right": left[:, ::-1]}, method="occlusion", output_kind="numbers")
    assert np.unravel_index(found["left"].heatmaps[0].argmax(), (16, 16)) in [
        (y, x) for y in range(8) for x in range(8)
    ]
    assert not found["right"].heatmaps.any()


def test_gradcam_of_each_tower():
    model, x = two_views(), views()
    found = silently(explain, model, x, **SAYS_NOTHING)
    assert {name: view.layer_name for name, view in found.items()} == {name: f"conv_{name}" for name in SHAPES}
    rest = keras.Model(
        [model.get_layer(f"conv_{name}").output for name in SHAPES], model.outputs[0]
    )  # From both maps to the outputs.
    maps = [keras.Model(model.inputs, model.get_layer(f"conv_{name}").output)(x) for name in SHAPES]
    seen, slopes = watched(lambda watch: ops.max(rest([watch(of_tower) for of_tower in maps]), axis=1))
    for name, activations, gradients in zip(SHAPES, seen, slopes, strict=True):
        weights = gradients.mean(axis=(1, 2), keepdims=True)
        np.testing.assert_allclose(found[name].heatmaps, (activations * weights).sum(-1), rtol=1e-3, atol=1e-8)


def test_several_methods_of_several_images():
    found = explain(two_views(), views(), method=["gradcam", "saliency"], target={"a": 0, "b": 1}, **SAYS_NOTHING)
    names = [f"{method}_{target}" for method in ("gradcam", "saliency") for target in "ab"]
    assert list(found) == [f"{name}_{image}" for image in ("cc", "mlo") for name in names] or list(found) == [
        f"{name}_{image}" for image in ("mlo", "cc") for name in names
    ]
    for name, view in found.items():
        assert view.batch.input_name == name.rpartition("_")[2]


def test_an_image_that_the_score_does_not_depend_on_has_no_map():
    """Not even where it is the largest."""
    inputs = {name: keras.Input(shape, name=name) for name, shape in SHAPES.items()}
    pooled = {name: layers.GlobalAveragePooling2D()(layers.Conv2D(2, 3)(x)) for name, x in inputs.items()}
    model = keras.Model(inputs, {name: layers.Dense(2, name=f"of_{name}")(x) for name, x in pooled.items()})
    found = silently(explain, model, views(), method="saliency", target=lambda outputs: outputs["cc"][:, 0])
    assert found.heatmaps.shape == (2, *SHAPES["cc"][:2])
    assert (found.batch.input_name, dict(found.batch.others)) == ("", {})


def test_one_layer_that_sees_both_images_has_one_map():
    model, x = joined_views()
    with pytest.warns(RuntimeWarning, match="drawn on the input '.*', which is one of several images"):
        found = explain(model, x, **SAYS_NOTHING)
    assert not isinstance(found, Explanations)
    with pytest.warns(RuntimeWarning, match="drawn on the input") as said:
        found = explain(model, x, method=["gradcam", "saliency"], **SAYS_NOTHING)
    assert len(said) == 1
    first, other = found["saliency_before"], found["saliency_after"]
    assert {name.partition("_")[0] for name in found} == {"gradcam", "saliency"}
    assert len(found) == 3
    gradients = input_gradients(model, x)
    for name, view in (("before", first), ("after", other)):
        np.testing.assert_allclose(view.attributions, gradients[name], rtol=1e-4, atol=1e-8)


def test_a_named_layer_of_one_tower():
    """Of the other image, methods of the image alone have a map."""
    found = silently(explain, two_views(), views(), "conv_cc", method=["gradcam", "saliency"], **SAYS_NOTHING)
    assert list(found) == ["gradcam_cc", "saliency_cc", "saliency_mlo"]


# Values


def test_each_image_is_read_by_its_own_range():
    model = two_views()
    x = views()
    x["cc"] = (255 * x["cc"]).astype(np.uint8)
    x["mlo"] = x["mlo"] / x["mlo"].max()
    found = explain(model, x, method="saliency", **SAYS_NOTHING)
    assert {name: view.batch.value_range for name, view in found.items()} == {"mlo": "[0, 1]", "cc": "[0, 255]"}
    np.testing.assert_array_equal(found["cc"].batch.display[0], x["cc"][0])
    grey = np.rint(255 * x["mlo"][0]).astype(int)
    assert np.abs(found["mlo"].batch.display[0].astype(int) - grey).max() <= 1


def test_a_scaling_counts_for_the_image_behind_it():
    """Both are floats: what the model does to one says nothing of the other."""
    x = views()
    x["cc"] = np.rint(60 * x["cc"])  # Dark, so that values alone don't tell it.
    found = explain(two_views(scaled=True), x, method="saliency", **SAYS_NOTHING)
    assert {name: view.batch.value_range for name, view in found.items()} == {"mlo": "[0, 1]", "cc": "[0, 255]"}


def test_a_range_that_is_named_counts_for_images_alike():
    x = views()
    x["cc"] = (200 * x["cc"]).astype(np.uint8)
    found = explain(two_views(), x, method="saliency", value_range=(0, 2), **SAYS_NOTHING)
    assert {name: view.batch.value_range for name, view in found.items()} == {"mlo": "[0, 2]", "cc": "[0, 255]"}


def test_regions_are_of_the_first_image():
    model, x = two_views(), views()
    boxes = [(2, 3, 10, 12), None]
    for order in (["cc", "mlo"], ["mlo", "cc"]):
        found = explain(model, x, method="saliency", input=order, regions=boxes, **SAYS_NOTHING)
        assert list(found) == order
        first, other = (found[name] for name in order)
        heat = first.heatmaps[0].astype(np.float64)
        energy = first.metrics()["energy_in_region"]
        np.testing.assert_allclose(energy[0], heat[3:12, 2:10].sum() / heat.sum(), rtol=1e-5)
        assert np.isnan(energy[1])
        assert np.isnan(other.metrics()["energy_in_region"]).all()
        assert np.isfinite(other.metrics()["area"]).all()


def test_augmented_images():
    found = explain(two_views(), views(), method="saliency", augmentations=["flip"], **SAYS_NOTHING)
    for name, view in found.items():
        augmented = view.augmented["flip"].explanation
        shown = view.batch.display[0][:, ::-1]
        np.testing.assert_array_equal(augmented.batch.display[0], shown)
        assert view.augmented["flip"].restored.shape[1:] == SHAPES[name][:2]
    assert (
        found.overlays()[0].shape[0] > 2 * explain(two_views(), views(), method="saliency").overlays()[0].shape[0] - 40
    )


# What can't be explained


def test_an_image_without_a_gradient_is_left_out_and_that_is_said():
    """Keras casts to whole numbers what goes into an input of these."""
    model, x = two_views(scaled=True, dtypes=("uint8", "float32")), views()
    x["cc"] = (255 * x["cc"]).astype(np.uint8)
    with pytest.warns(RuntimeWarning, match="The input 'cc' is an image, too, but has no map: .* operations that have"):
        found = explain(model, x, method="saliency", **SAYS_NOTHING)
    assert found.batch.image_size == SHAPES["mlo"][:2]
    assert list(silently(explain, model, x, method="occlusion", **SAYS_NOTHING)) == ["mlo", "cc"]


def test_an_image_without_a_feature_map_is_left_out_and_that_is_said():
    inputs = {name: keras.Input(shape, name=name) for name, shape in SHAPES.items()}
    ends = [layers.GlobalAveragePooling2D()(layers.Conv2D(2, 3, name="conv")(inputs["cc"]))]
    ends.append(layers.Dense(3)(layers.Flatten()(inputs["mlo"])))
    model = keras.Model(inputs, layers.Dense(2)(layers.Concatenate()(ends)))
    with pytest.warns(RuntimeWarning, match="The input 'mlo' is an image, too, but has no map"):
        found = explain(model, views(), **SAYS_NOTHING)
    assert found.layer_name == "conv"


FAULTS = {
    "twice": ({"input": ["cc", "cc"]}, "must name different images"),
    "none": ({"input": []}, "must name different images"),
    "unknown": ({"input": ["cc", "mol"]}, "Did you mean 'mlo'"),
    "other tower": (
        {"input": ["cc", "mlo"], "layer_name": "conv_cc"},
        "maps of their own. Received: 'mlo' beside 'cc'",
    ),
}


@pytest.mark.parametrize(("settings", "message"), FAULTS.values(), ids=FAULTS)
def test_faults(settings, message):
    with pytest.raises(ValueError, match=message):
        explain(two_views(), views(), **settings, **SAYS_NOTHING)


def test_two_views_of_one_name():
    inputs = {name: keras.Input((12, 12, 3), name=name) for name in ("left", "far_left")}
    ends = [layers.GlobalAveragePooling2D()(layers.Conv2D(2, 3)(x)) for x in inputs.values()]
    model = keras.Model(inputs, layers.Dense(2)(layers.Concatenate()(ends)))
    x = {name: np.ones((1, 12, 12, 3), np.float32) for name in inputs}
    with pytest.raises(ValueError, match="names that can be told apart together"):
        explain(model, x, method={"a": "saliency", "a_far": "occlusion"}, **SAYS_NOTHING)


# Other ways to ask


def test_an_explainer_takes_batch_after_batch():
    model, x = two_views(), views(3)
    explainer = silently(Explainer, model, x, method="saliency", **SAYS_NOTHING)
    assert explainer.names == ("mlo", "cc")
    gradients = input_gradients(model, x)
    for rows in (slice(0, 2), slice(2, 3)):
        found = explainer({name: array[rows] for name, array in x.items()})
        for name, view in found.items():
            np.testing.assert_allclose(view.attributions, gradients[name][rows], rtol=1e-4, atol=1e-8)


def test_inputs_without_names_of_their_own():
    """Keras' own numbers are others in each process."""
    tensors = [keras.Input((12, 12, 3)) for _ in range(2)]
    ends = [layers.GlobalAveragePooling2D()(layers.Conv2D(2, 3)(x)) for x in tensors]
    model = keras.Model(tensors, layers.Dense(2)(layers.Concatenate()(ends)))
    x = [np.random.default_rng(i).random((1, 12, 12, 3), dtype=np.float32) for i in range(2)]
    assert list(explain(model, x, method="saliency", **SAYS_NOTHING)) == ["input_0", "input_1"]
    assert explain(model, (x, None), method="saliency", input=1, **SAYS_NOTHING).batch.image_input == 1


# Pictures


def at(picture, image, left=0):
    """Whether a picture has an image, enlarged by a whole factor, at its top, `left` px from the left; and its end."""
    factor = -(-160 // max(image.shape[:2]))
    height, width = (factor * side for side in image.shape[:2])
    middle = picture[factor // 2 : height : factor, left + factor // 2 : left + width : factor]
    return np.abs(middle.astype(int) - image).mean() < 8, left + width


def test_each_map_lies_on_its_own_image():
    x = views()
    for array in x.values():  # Areas of one colour stay as they are where they are enlarged.
        array[:] = np.linspace(0, 1, array.shape[1])[:, None, None]
    found = explain(two_views(), x, method="saliency", **SAYS_NOTHING)
    picture = found.overlays(Overlay(alpha=0, caption=False))[0]
    left = 0
    for view in found.values():
        for _ in range(2):  # The image, and the map on it, which is not seen.
            same, right = at(picture, view.batch.display[0], left)
            assert same
            left = right + 4
        left += 12
    assert picture.shape[1] == left - 16
    blended = found.overlays(Overlay(alpha=1, caption=False))[0]
    assert np.abs(picture.astype(int) - blended).max() > 100


def test_titles_name_the_input():
    found = explain(two_views(), views(), method="saliency", **SAYS_NOTHING)
    figure = show(found)
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles == ["image mlo", "mlo", "image cc", "cc"] * 2
    assert repr(found["cc"]).endswith("2 heatmaps of 'cc', " + repr(found["cc"]).rpartition("of 'cc', ")[2])
    assert "'cc': 24 x 16" in repr(found)
    assert "<img" in found._repr_html_()


def test_signals_stand_one_below_the_other():
    inputs = {name: keras.Input((64, 1), name=name) for name in ("left", "right")}
    ends = [layers.GlobalAveragePooling1D()(layers.Conv1D(2, 3)(x)) for x in inputs.values()]
    model = keras.Model(inputs, layers.Dense(2)(layers.Concatenate()(ends)))
    x = {name: np.random.default_rng(0).random((1, 64, 1), dtype=np.float32) for name in inputs}
    found = explain(model, x, method="saliency", **SAYS_NOTHING)
    one = explain(model, x, method={"saliency": "saliency"}, input="left", **SAYS_NOTHING)
    assert list(found) == ["left", "right"]
    below, alone = found.overlays(Overlay(caption=False))[0], one.overlays(Overlay(caption=False))[0]
    assert below.shape[0] == 2 * alone.shape[0] + 16
    assert below.shape[1] == alone.shape[1]


def test_a_film_of_volumes_that_differ_in_depth(tmp_path):
    inputs = {name: keras.Input((depth, 12, 12, 1), name=name) for name, depth in (("t1", 8), ("t2", 4))}
    ends = [layers.GlobalAveragePooling3D()(layers.Conv3D(2, 3)(x)) for x in inputs.values()]
    model = keras.Model(inputs, layers.Dense(2)(layers.Concatenate()(ends)))
    x = {
        name: np.random.default_rng(0).random((1, *tensor.shape[1:]), dtype=np.float32)
        for name, tensor in inputs.items()
    }
    found = explain(model, x, method="saliency", spacing=(2.0, 1.0, 1.0), **SAYS_NOTHING)
    assert [view.batch.space.spacing for view in found.values()] == [(2.0, 1.0, 1.0)] * 2
    assert found.film(tmp_path / "both.gif").stat().st_size > 0
