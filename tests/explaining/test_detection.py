"""Boxes of object detectors, against a plain tape from each level of the pyramid, and boxes compared in NumPy."""

import keras
import models
import numpy as np
import pytest
from keras import layers, ops
from models import assert_maps_equal
from tapes import watched

from keras_cam_callbacks import (
    Detection,
    Explainer,
    GradCAMLogger,
    HeatmapLogger,
    MemoryTracker,
    Overlay,
    explain,
    read_run,
    sanity_check,
)

SHAPE = (32, 32, 3)
X = models.images(6, SHAPE)
CELLS = (8, 4)


def centers():
    """(80, 2) in shares: x and y of the centres of all cells, level by level."""
    return np.concatenate(
        [np.stack(np.meshgrid(*[(np.arange(n) + 0.5) / n] * 2), axis=-1).reshape(-1, 2) for n in CELLS]
    ).astype(np.float32)


class Placed(layers.Layer):
    """Boxes (N, 80, 4) around the centres of cells, as shares of the image: centre, width and height."""

    def call(self, raw):
        sizes = np.repeat([1 / 4, 1 / 2], [64, 16]).astype(np.float32)[:, None]
        centre = keras.ops.add(centers(), 0.05 * keras.ops.tanh(raw[..., :2]))
        return keras.ops.concatenate(
            [centre, keras.ops.multiply(sizes, keras.ops.exp(0.2 * keras.ops.tanh(raw[..., 2:])))], axis=-1
        )


def detector(shared=True, activation=None, names=("logits", "boxes"), seed=0):
    """A pyramid of 8 x 8 and 4 x 4 cells, with one box for each, and heads of their own or shared."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input(SHAPE)
    c8 = layers.Conv2D(6, 5, 4, padding="same", activation="relu", name="c8")(inputs)
    c4 = layers.Conv2D(6, 3, 2, padding="same", activation="relu", name="c4")(c8)
    p4 = layers.Conv2D(6, 3, padding="same", name="p4")(c4)
    p8 = layers.Conv2D(6, 3, padding="same", name="p8")(layers.Add(name="merged")([c8, layers.UpSampling2D(2)(c4)]))
    scores = [layers.Conv2D(3, 3, padding="same", kernel_initializer="he_normal") for _ in CELLS]
    sides = [layers.Conv2D(4, 3, padding="same", kernel_initializer="he_normal") for _ in CELLS]
    rows = []
    for heads, width in ((scores, 3), (sides, 4)):
        of_levels = []
        for level, head in zip((p8, p4), heads, strict=True):
            made = (heads[0] if shared else head)(level)
            of_levels.append(layers.Reshape((-1, width))(made))
        rows.append(layers.Concatenate(axis=1)(of_levels))
    logits = layers.Activation(activation or "linear", name=names[0])(rows[0])
    model = keras.Model(inputs, {names[0]: logits, names[1]: Placed(name=names[1])(rows[1])})
    model.heads = scores[:1] * 2 if shared else scores
    return model


def corners(boxes):
    """Left, top, right, bottom in px of boxes (..., 4) as the model writes them."""
    x, y, width, height = np.moveaxis(np.asarray(boxes, np.float64), -1, 0)
    return 32 * np.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], axis=-1)


def overlap(one, other):
    sides = [max(0.0, min(one[i + 2], other[i + 2]) - max(one[i], other[i])) for i in (0, 1)]
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return sides[0] * sides[1] / (sum(areas) - sides[0] * sides[1])


def best(logits, boxes, label, asked=None):
    """Which box of one sample is explained; None where there is none."""
    near = [i for i in range(len(boxes)) if asked is None or max(overlap(boxes[i], box) for box in asked) > 0.5]
    return max(near, key=lambda i: logits[i, label], default=None)


def by_hand(model, rows, labels, x=X):
    """Grad-CAM of each level by its formula, for the logit of a class in the box of each sample."""
    pyramid = keras.Model(model.input, [model.get_layer(name).output for name in ("p8", "p4")])

    def score(watch):
        levels = [watch(level) for level in pyramid(x)]
        logits = ops.concatenate(
            [ops.reshape(head(level), (len(x), -1, 3)) for head, level in zip(model.heads, levels, strict=True)], axis=1
        )
        return ops.stack([logits[n, row, label] for n, (row, label) in enumerate(zip(rows, labels, strict=True))])

    maps = [
        (gradient.mean(axis=(1, 2), keepdims=True) * level).sum(axis=-1)
        for level, gradient in zip(*watched(score), strict=True)
    ]
    return maps, ops.convert_to_numpy(score(lambda level: level))


def joined(maps):
    """The mean of the maps that are somewhere positive, each divided by its maximum, at 8 x 8."""
    total, count = np.zeros((len(maps[0]), 8, 8)), np.zeros((len(maps[0]), 1, 1))
    for of_level in maps:
        positive = np.maximum(of_level, 0)
        top = positive.max(axis=(1, 2), keepdims=True)
        share = (positive / np.where(top > 0, top, 1))[..., None]
        total += ops.convert_to_numpy(ops.image.resize(share, (8, 8), data_format="channels_last"))[..., 0]
        count += top > 0
    return total / np.maximum(count, 1)


def outputs_of(model, x=X):
    logits, boxes = (model.predict(x, verbose=0)[name] for name in model.output)
    return logits, corners(boxes)


@pytest.mark.parametrize("shared", [True, False], ids=["shared head", "heads of their own"])
def test_the_best_box_of_a_class(shared):
    model = detector(shared)
    logits, boxes = outputs_of(model)
    rows = [best(logits[n], boxes[n], 1) for n in range(6)]
    found = explain(model, X, target=Detection(1, output_format="rel_center_xywh"))
    maps, scores = by_hand(model, rows, [1] * 6)
    assert found.layer_name == "mean(p8, p4)" or found.layer_name == "mean(p4, p8)"
    assert_maps_equal(found.heatmaps, joined(maps))
    np.testing.assert_allclose(found.scores, scores, rtol=1e-4)
    np.testing.assert_allclose(found.boxes, [boxes[n, row] for n, row in enumerate(rows)], rtol=1e-4)
    np.testing.assert_array_equal(found.targets, [1] * 6)
    assert np.isnan(found.confidences).all()


def test_by_default_the_class_of_the_best_box():
    model = detector()
    logits, _ = outputs_of(model)
    labels = logits.max(axis=1).argmax(axis=1)
    with pytest.warns(UserWarning, match=r"class of its best box.*Detection\(1\)") as said:
        found = explain(model, X)
    assert len(said) == 1
    maps, scores = by_hand(model, logits.max(axis=2).argmax(axis=1), labels)
    assert_maps_equal(found.heatmaps, joined(maps))
    np.testing.assert_allclose(found.scores, scores, rtol=1e-4)
    np.testing.assert_array_equal(found.targets, labels)
    assert found.boxes is None  # How these are written isn't known.
    assert f"box of {labels[0]}, score" in found.samples()[0].caption
    assert_maps_equal(explain(model, X, target=2).heatmaps, explain(model, X, target=Detection(2)).heatmaps)
    views = explain(model, X, target={"cat": Detection("cat"), "0": 0}, class_names=["ball", "cat", "dog"])
    assert_maps_equal(views["cat"].heatmaps, explain(model, X, target=Detection(1)).heatmaps)
    assert "box of cat" in views["cat"].title(0)


SMALL, LARGE = (2, 2, 10, 10), (4, 4, 20, 20)
ANOTHER_BOX = "with the weights that Keras draws on PyTorch, without some channels another box is the best"


BOXES = {
    "one": (LARGE, [[LARGE]] * 6),
    "one each": ([SMALL, LARGE] * 3, [[SMALL], [LARGE]] * 3),
    "several": ([[SMALL, (20, 18, 29, 27)]] * 6, [[SMALL, (20, 18, 29, 27)]] * 6),
}


@pytest.mark.parametrize(("box", "asked"), BOXES.values(), ids=BOXES)
def test_boxes_that_overlap(box, asked):
    model = detector()
    logits, boxes = outputs_of(model)
    rows = [best(logits[n], boxes[n], 1, asked[n]) for n in range(6)]
    found = explain(model, X, target=Detection(1, box=box, output_format="rel_center_xywh"))
    np.testing.assert_allclose(found.boxes, [boxes[n, row] for n, row in enumerate(rows)], rtol=1e-4)
    maps, scores = by_hand(model, rows, [1] * 6)
    np.testing.assert_allclose(found.scores, scores, rtol=1e-4)
    # A level that no gradient reaches doesn't dim the others.
    assert not any(maps[0][n].any() and maps[1][n].any() for n in range(6))
    assert_maps_equal(found.heatmaps, joined(maps))
    if box == LARGE:
        named = explain(model, X, ["p8", "p4"], target=Detection(1, box=box, output_format="rel_center_xywh"))
        assert_maps_equal(named.heatmaps, found.heatmaps)


@pytest.mark.parametrize(
    "method",
    [
        pytest.param("ablationcam", marks=pytest.mark.only_on("tensorflow", "jax", reason=ANOTHER_BOX)),
        *("hirescam", "saliency", "smoothgrad", "scorecam"),
    ],
)
def test_a_box_by_every_way_to_a_map(method):
    """A function that picks the score of that box and class is an independent way, where no other box gets better."""
    model = detector()
    logits, boxes = outputs_of(model)
    at = best(logits[0], boxes[0], 1, [LARGE])
    level = "p8" if at < 64 else "p4"
    near = [n for n in range(80) if overlap(boxes[0, n], LARGE) > 0.5]
    found = explain(model, X[:1], target=Detection(1, box=LARGE, output_format="rel_center_xywh"), method=method)
    layer = None if method in ("saliency", "smoothgrad") else level

    def picked(outputs):  # The boxes near the asked one hardly move.
        return keras.ops.max(keras.ops.take(outputs["logits"][..., 1], np.array(near), axis=1), axis=1)

    expected = explain(model, X[:1], layer, target=picked, method=method).heatmaps
    if layer is not None and method != "scorecam":
        expected = joined([np.repeat(expected, 1, axis=0)])
    if method == "scorecam":  # Activations of the other level have heat, too, but the number is the same.
        np.testing.assert_allclose(found.scores, logits[0, at, 1], rtol=1e-4)
    else:
        assert_maps_equal(found.heatmaps, expected)


def test_the_number_tells_how_much_heat_is_in_the_box():
    found = explain(detector(), X, target=Detection(1, box=LARGE, output_format="rel_center_xywh"), method="saliency")
    positive = np.maximum(found.heatmaps, 0)
    inside = np.zeros((6, 32, 32), bool)
    for n, (left, top, right, bottom) in enumerate(found.boxes):
        at = np.arange(32) + 0.5
        inside[n] = ((at > top) & (at < bottom))[:, None] & ((at > left) & (at < right))
    expected = (positive * inside).sum(axis=(1, 2)) / positive.sum(axis=(1, 2))
    np.testing.assert_allclose(found.values["energy_in_box"], expected, rtol=1e-4)
    np.testing.assert_array_equal(found.outlines, inside)


def test_the_box_is_outlined():
    found = explain(detector(), X, target=Detection(1, box=LARGE, output_format="rel_center_xywh"))
    overlay = Overlay(size=320, caption=False)
    changed = (found.overlays(overlay)[0] != overlay.draw(found.batch.display, found.heatmaps)[0]).any(axis=-1)
    left, top, right, bottom = np.round(found.boxes[0]).astype(int) * 10
    assert changed[top:bottom, left].mean() > 0.9
    assert changed[top, left:right].mean() > 0.9
    assert not changed[(top + bottom) // 2, (left + right) // 2]


def test_true_boxes_are_those_of_the_class_in_regions():
    model = detector()
    regions = [{"cat": SMALL, "dog": LARGE}, SMALL, None, [SMALL, LARGE], {"dog": SMALL}, np.pad(np.ones((8, 8)), 12)]
    target = Detection("cat", box="true", output_format="rel_center_xywh")
    names = ["ball", "cat", "dog"]
    found = explain(model, X, target=target, class_names=names, regions=regions)
    logits, boxes = outputs_of(model)
    asked = [[SMALL], [SMALL], [], [SMALL, LARGE], [], [(12, 12, 20, 20)]]
    for n, of_sample in enumerate(asked):
        row = best(logits[n], boxes[n], 1, of_sample) if of_sample else None
        if row is None:
            assert np.isnan(found.boxes[n]).all()
            assert found.title(n) == "no such box"
        else:
            np.testing.assert_allclose(found.boxes[n], boxes[n, row], rtol=1e-4)
    assert found.metrics()["energy_in_region"].shape == (6,)
    with pytest.raises(ValueError, match="needs `regions`"):
        explain(model, X, target=target, class_names=names)


def test_a_sample_without_such_a_box_is_nan():
    found = explain(detector(), X, target=Detection(1, box=(0, 0, 2, 2), output_format="rel_center_xywh"))
    assert found.absent.all()
    for array in (found.heatmaps, found.scores, found.boxes, found.values["energy_in_box"]):
        assert np.isnan(array).all()
    assert not found.degenerate.any()
    assert found.samples()[0].caption == "no such box"


def test_outputs_that_are_not_finite_are_seen():
    """They are no missing boxes: a net that has diverged is told of."""
    model = detector()
    model.heads[0].bias.assign([np.nan] * 3)
    found = explain(model, X, target=Detection(1, box=LARGE, output_format="rel_center_xywh"))
    assert found.degenerate.all()
    assert not found.absent.any()


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_the_score_is_before_the_activation(activation):
    model, plain = detector(activation=activation), detector()
    found = explain(model, X, target=Detection(1, box=LARGE, output_format="rel_center_xywh"))
    logits, boxes = outputs_of(plain)
    ranked = np.exp(logits - logits.max(axis=2, keepdims=True)) if activation == "softmax" else logits
    ranked /= ranked.sum(axis=2, keepdims=True) if activation == "softmax" else 1
    rows = [best(ranked[n], boxes[n], 1, [LARGE]) for n in range(6)]
    maps, scores = by_hand(plain, rows, [1] * 6)
    np.testing.assert_allclose(found.scores, scores, rtol=1e-4)
    assert_maps_equal(found.heatmaps, joined(maps))


def test_outputs_in_a_pair_and_boxes_of_other_names():
    model = detector(names=("cls", "where"))
    pair = keras.Model(model.input, [model.output["cls"], model.output["where"]])
    expected = explain(model, X, target=Detection(1), output_kind={"where": "boxes"})
    assert_maps_equal(explain(pair, X, target=Detection(1), output_kind="boxes").heatmaps, expected.heatmaps)
    with pytest.raises(ValueError, match=r"say.* output_kind=\{'name': 'boxes'\}.*Received.* works"):
        explain(pair, X, target=Detection(1))


def test_a_single_map_and_one_whose_scores_are_rearranged_operations():
    inputs = keras.Input(SHAPE)
    x = layers.Conv2D(6, 5, 4, padding="same", activation="relu", name="last")(inputs)
    logits = layers.Reshape((64, 3), name="logits")(layers.Conv2D(3, 1)(x))
    boxes = layers.Reshape((64, 4), name="boxes")(layers.Conv2D(4, 1)(x))
    model = keras.Model(inputs, {"logits": logits, "boxes": boxes})
    found = explain(model, X, target=Detection(1))
    assert found.layer_name == "last"  # The logits' own map is the prediction.
    assert_maps_equal(
        found.heatmaps, explain(model, X, "last", target=lambda out: keras.ops.max(out["logits"][..., 1], 1)).heatmaps
    )


def test_one_explainer_for_several_batches_and_boxes():
    model = detector()
    target = Detection(1, box="true", output_format="rel_center_xywh")
    explainer = Explainer(model, X[:1], target=target)
    for count, regions in ((4, [SMALL] * 4), (2, [[SMALL, LARGE]] * 2)):
        expected = explain(model, X[:count], target=target, regions=regions)
        assert_maps_equal(explainer(X[:count], regions=regions).heatmaps, expected.heatmaps)
    assert explainer.capturer.traces <= 2


class ByHand(keras.callbacks.Callback):
    """The maps at each epoch's end, with the weights of that moment."""

    def __init__(self):
        super().__init__()
        self.maps = []

    def on_epoch_end(self, epoch, logs=None):
        logits, boxes = outputs_of(self.model)
        rows = [best(logits[n], boxes[n], 1, [LARGE]) for n in range(6)]
        self.maps.append(joined(by_hand(self.model, rows, [1] * 6)[0]))


@pytest.mark.filterwarnings("ignore:.*heatmaps explain nothing")
def test_boxes_while_training_and_in_the_record(tmp_path):
    model = detector()
    model.compile("sgd", {"logits": "mse", "boxes": "mse"})
    memory, by_formula = MemoryTracker(), ByHand()
    y = {"logits": np.ones((6, 80, 3)), "boxes": np.full((6, 80, 4), 0.5)}
    target = Detection(1, box=LARGE, output_format="rel_center_xywh")
    settings = {"tracker": [memory, "disk"], "log_dir": tmp_path, "on_error": "raise", "metrics": "all"}
    logger = GradCAMLogger((X, y), target=target, regions=[LARGE] * 6, **settings)
    history = model.fit(X, y, epochs=3, verbose=0, callbacks=[logger, by_formula]).history
    for record, maps in zip(memory.records, by_formula.maps, strict=True):
        assert_maps_equal(record.heatmaps, maps)
    assert memory.config.target == "Detection(1, box=(4.0, 4.0, 20.0, 20.0), output_format=rel_center_xywh)"
    assert memory.config.layer_name == "mean(p4, p8)"
    assert 0 < history["gradcam_energy_in_box"][-1] < 1
    assert 0 < history["gradcam_energy_in_region"][-1] < 1
    stored = read_run(logger.directory).epochs[-1]
    for picture, drawn in zip(stored.overlays(), memory.records[-1].overlays, strict=True):
        assert picture.shape == drawn.shape


@pytest.mark.parametrize(
    ("target", "settings", "message"),
    [
        (Detection(3), {}, r"between 0 and 2.*Detection\(2\) works"),
        (3, {}, "between 0 and 2"),
        (Detection("cow"), {"class_names": ["cat", "dog", "cows"]}, "Did you mean 'cows'"),
        (Detection("cow"), {}, "`class_names`, which are missing"),
        (Detection(1, box=LARGE), {}, "output_format='xyxy'"),
        (Detection(1, box=[LARGE] * 4, output_format="xyxy"), {}, "one for each of the 6"),
        (Detection(1, box=(0.1, 0.1, 0.5, 0.5), output_format="xyxy"), {}, "must be in px"),
        (Detection(1, box=LARGE, output_format="xyxy"), {"augmentations": ["flip"]}, "isn't known.*box=None"),
        ("contrast", {}, r"target=Detection\(1\) works"),
        ("top2", {}, r"target=Detection\(1\) works"),
    ],
)
def test_what_a_detector_has_not(target, settings, message):
    with pytest.raises(ValueError, match=message):
        explain(detector(), X, target=target, **settings)
    with pytest.raises(ValueError, match=message):
        HeatmapLogger(X, tracker="memory", target=target, on_error="raise", **settings).explain(detector())


def test_where_boxes_are_none():
    with pytest.raises(ValueError, match=r"Detection explains a model.*target='predicted' works"):
        explain(models.functional().model, models.images(), target=Detection(1))
    with pytest.raises(ValueError, match=r"softmax.*target=Detection\(1\) works"):
        explain(detector(activation="softmax"), X)
    with pytest.raises(ValueError, match="which is no class"):
        explain(detector(), X, target=Detection(1), method="cam")


def test_a_sanity_check_needs_a_named_class():
    with pytest.raises(ValueError, match="Named classes"):
        sanity_check(detector(), X)
    assert sanity_check(detector(), X, target=Detection(1), steps=2).passed


def test_augmented_images_have_boxes_of_their_own():
    found = explain(detector(), X, target=Detection(1, output_format="rel_center_xywh"), augmentations=["flip"])
    logits, boxes = outputs_of(detector(), X[:, :, ::-1])
    expected = [boxes[n, best(logits[n], boxes[n], 1)] for n in range(6)]
    np.testing.assert_allclose(found.augmented["flip"].explanation.boxes, expected, rtol=1e-4)


def test_the_record_says_which_box_is_explained(tmp_path):
    """Also without a box that is asked for; in shares of the image, here of 32 px."""
    model = detector()
    model.compile("sgd", {"logits": "mse", "boxes": "mse"})
    y = {"logits": np.ones((6, 80, 3)), "boxes": np.full((6, 80, 4), 0.5)}
    memory, target = MemoryTracker(), Detection("cat", output_format="rel_center_xywh")
    settings = {"tracker": [memory, "disk"], "log_dir": tmp_path, "on_error": "raise"}
    logger = GradCAMLogger((X, y), target=target, class_names=["ball", "cat", "dog"], **settings)
    model.fit(X, y, epochs=1, verbose=0, callbacks=[logger])
    logits, boxes = outputs_of(model)
    expected = np.array([boxes[n, best(logits[n], boxes[n], 1)] for n in range(6)])
    samples = memory.records[0].samples
    np.testing.assert_allclose([sample.box for sample in samples], expected / 32, rtol=1e-4)
    (stored,) = read_run(logger.directory).epochs
    np.testing.assert_allclose(stored.arrays()["boxes"], expected / 32, rtol=1e-4)
    for sample, box, score in zip(samples, expected, logits[:, :, 1].max(axis=1), strict=True):
        sides = ", ".join(str(round(side)) for side in box.astype(np.float32).astype(float))
        assert sample.caption == f"box of cat at ({sides}), score {score:.3g}"


def test_without_a_box_the_record_has_none(tmp_path):
    model = detector()
    (sample, *_) = explain(model, X, target=Detection(1)).samples()  # How its boxes are written isn't known.
    assert sample.box is None
    assert sample.caption.startswith("box of 1, score")
    lacking = explain(model, X[:1], target=Detection(1, box=(0, 0, 2, 2), output_format="rel_center_xywh")).samples()
    assert [one.box for one in lacking] == [None]


def retinanet():
    """One of KerasHub, whose head puts boxes near their anchors."""
    hub = pytest.importorskip("keras_hub").models
    keras.utils.set_random_seed(0)
    encoder = hub.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[3],
        stackwise_num_filters=[64, 64, 64],
        stackwise_num_blocks=[1, 1, 1],
        stackwise_num_strides=[1, 2, 2],
        block_type="basic_block",
        image_shape=(64, 64, 3),
    )
    backbone = hub.RetinaNetBackbone(
        image_encoder=encoder, min_level=3, max_level=4, use_p5=False, image_shape=(64, 64, 3)
    )
    model = hub.RetinaNetObjectDetector(backbone=backbone, num_classes=3, bounding_box_format="yxyx")
    last = model.box_head.prediction_layer  # Untrained, its boxes are of less than a px.
    kernel, bias = last.get_weights()
    last.set_weights([kernel / 1000, bias * 0])
    return model


BEFORE = {
    "scaled": (64, lambda x: layers.Rescaling(0.5)(x)),
    "cropped": (96, lambda x: layers.CenterCrop(64, 64)(x)),
    "bordered": (48, lambda x: layers.ZeroPadding2D(8)(x)),
    "border behind a change of size": (96, lambda x: layers.ZeroPadding2D(8)(layers.Resizing(48, 48)(x))),
}


@pytest.mark.parametrize(("side", "before"), BEFORE.values(), ids=BEFORE)
def test_boxes_behind_preprocessing(side, before):
    """Boxes of what is cropped or bordered lie elsewhere: none is drawn rather than a wrong one."""
    own = retinanet()
    inputs = keras.Input((side, side, 3))
    model = keras.Model(inputs, own(before(inputs)))
    x = models.images(2, (side, side, 3))
    target = Detection(1)
    if side == 64:
        found, expected = explain(model, x, target=target), explain(own, 0.5 * x, target=target)
        np.testing.assert_allclose(found.boxes, expected.boxes, rtol=1e-4)
        assert found.outlines.any()
        return
    with pytest.warns(RuntimeWarning, match=r"boxes lie on the image isn't known.*No box is drawn"):
        found = explain(model, x, target=target)
    assert found.boxes is None
    assert found.outlines is None
    assert "energy_in_box" not in found.values
    assert np.nanmax(found.heatmaps) > 0
    with pytest.raises(ValueError, match=r"moves pixels before its detector.*without `box` none is needed"):
        explain(model, x, target=Detection(1, box=(8, 8, 40, 40)))
