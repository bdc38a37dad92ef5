"""Pixels of masks, against gradients by hand and against functions of the outputs that have the pixels as constants."""

import keras
import models
import numpy as np
import pytest
from keras import layers, ops
from models import assert_maps_equal
from tapes import watched

from keras_cam_callbacks import HeatmapLogger, MemoryTracker, Overlay, Segment, explain, read_run

SHAPE = (16, 16, 3)
X = models.images(4, SHAPE)


def unet(channels=3, activation=None, loss=None):
    """A net of three sizes with a way around its bottleneck."""
    inputs = keras.Input(SHAPE)
    wide = layers.Conv2D(4, 3, padding="same", activation="relu", name="wide")(inputs)
    x = layers.Conv2D(6, 3, 2, padding="same", activation="relu", name="half")(wide)
    x = layers.Conv2D(8, 3, 2, padding="same", activation="relu", name="down")(x)
    x = layers.Conv2D(8, 3, padding="same", activation="relu", name="bottleneck")(x)
    x = layers.UpSampling2D(4)(x)
    x = layers.Conv2D(5, 3, padding="same", activation="relu", name="up")(layers.Concatenate()([x, wide]))
    model = keras.Model(inputs, layers.Conv2D(channels, 1, activation=activation, name="mask")(x))
    kernel, bias = model.layers[-1].get_weights()
    model.layers[-1].set_weights([kernel * 4, bias + np.linspace(0.1, -0.1, channels)])  # So that classes vary.
    if loss:
        model.compile("sgd", loss)
    return model


def by_hand(model, score, layer="bottleneck"):
    """Grad-CAM by its formula; `score` takes the logits (N, H, W, K) and returns (N,)."""
    front = keras.Model(model.input, [model.get_layer(name).output for name in (layer, "wide")])
    behind = keras.Model(front.outputs, model.layers[-1].input)
    kernel, bias = map(ops.convert_to_tensor, model.layers[-1].get_weights())

    def scores(watch):
        activations, wide = front(X)
        return score(ops.matmul(behind([watch(activations), wide]), kernel[0, 0]) + bias)

    [activations], [slopes] = watched(scores)
    maps = (slopes.mean(axis=(1, 2), keepdims=True) * activations).sum(axis=-1)
    return maps, ops.convert_to_numpy(scores(lambda tensor: tensor))


def mean_over(pixels, channel, sign=1.0):
    """The mean of a channel over pixels (N, H, W)."""
    share = (sign * pixels / np.maximum(pixels.sum(axis=(1, 2), keepdims=True), 1)).astype(np.float32)
    return lambda logits: ops.sum(ops.multiply(logits[..., channel], share), (1, 2))


def raw(model):
    probe = keras.Model(model.input, model.layers[-1].input)
    kernel, bias = model.layers[-1].get_weights()
    return probe.predict(X, verbose=0) @ kernel[0, 0] + bias


@pytest.mark.parametrize("activation", ["softmax", None])
@pytest.mark.parametrize("target", [1, Segment(1)], ids=["index", "Segment"])
def test_pixels_predicted_as_a_class(activation, target):
    model = unet(activation=activation)
    pixels = raw(model).argmax(axis=-1) == 1
    assert pixels.any(axis=(1, 2)).all()
    found = explain(model, X, target=target)
    maps, scores = by_hand(model, mean_over(pixels, 1))
    assert found.layer_name == "bottleneck"
    assert_maps_equal(found.heatmaps, maps)
    np.testing.assert_allclose(found.scores, scores, rtol=1e-4)
    np.testing.assert_array_equal(found.segments, pixels)
    assert np.isnan(found.confidences).all()
    assert f"{pixels[0].sum()} pixels of 1" in found.samples()[0].caption


MASK = np.zeros((16, 16), bool)
MASK[2:9, 4:12] = True
PLACES = {
    "all": ("all", np.ones((16, 16), bool)),
    "mask": (MASK, MASK),
    "masks": (np.stack([MASK, ~MASK, MASK, MASK]), np.stack([MASK, ~MASK, MASK, MASK])),
    "point": ((3, 5), np.arange(256).reshape(16, 16) == 3 * 16 + 5),
}


@pytest.mark.parametrize("method", ["gradcam", "scorecam", "saliency", "smoothgrad"])
@pytest.mark.parametrize(("where", "pixels"), PLACES.values(), ids=PLACES)
def test_other_pixels_by_every_way_to_a_map(where, pixels, method):
    model = unet()
    pixels = np.broadcast_to(pixels, (4, 16, 16)).astype(np.float32)
    found = explain(model, X, target=Segment(2, where=where), method=method)

    def mean(outputs):  # A function is asked of copies as of samples, and so can hold one set of pixels alone.
        return keras.ops.sum(keras.ops.multiply(outputs[..., 2], pixels[0]), axis=(1, 2)) / pixels[0].sum()

    expected = explain(model, X, target=mean, method=method)
    rows = [0, 2, 3]
    assert_maps_equal(found.heatmaps[rows], expected.heatmaps[rows])
    np.testing.assert_array_equal(found.segments, pixels > 0)


@pytest.mark.parametrize("method", ["scorecam", "smoothgrad"])
def test_copies_are_held_to_the_pixels_of_their_sample(method):
    """Of a masked or noisy image other pixels are predicted; the score is still of those of the image itself."""
    model = unet()
    pixels = (raw(model).argmax(axis=-1) == 1).astype(np.float32)
    found = explain(model, X[:1], target=Segment(1), method=method)
    constant = pixels[0] / pixels[0].sum()
    expected = explain(
        model,
        X[:1],
        target=lambda z: keras.ops.sum(keras.ops.multiply(z[..., 1], constant), axis=(1, 2)),
        method=method,
    )
    assert_maps_equal(found.heatmaps, expected.heatmaps)


def test_by_default_the_most_frequent_class_that_is_not_0():
    model = unet(activation="softmax", loss="sparse_categorical_crossentropy")
    predicted = raw(model).argmax(axis=-1)
    counts = np.stack([(predicted == k).sum(axis=(1, 2)) for k in range(3)], axis=1)
    with pytest.warns(UserWarning, match="most frequent predicted class that is not 0") as told:
        found = explain(model, X)
    assert len(told) == 1
    np.testing.assert_array_equal(found.targets, 1 + counts[:, 1:].argmax(axis=1))
    np.testing.assert_array_equal(found.segments, predicted == found.targets[:, None, None])


def test_a_sample_without_such_a_pixel_is_nan():
    model = unet()
    kernel, bias = model.layers[-1].get_weights()
    model.layers[-1].set_weights([kernel, np.add(bias, [0, 0, -1e3])])
    found = explain(model, X, target=Segment(2))
    assert found.absent.all()
    assert np.isnan(found.heatmaps).all()
    assert np.isnan(found.scores).all()
    assert not found.degenerate.any()
    assert np.isnan(found.values["energy_in_segment"]).all()
    assert found.samples()[0].caption == "no such pixel"
    model.layers[-1].set_weights([kernel, np.add(bias, [1e3, 0, 0])])
    with pytest.warns(UserWarning, match="takes the output for a mask"):
        assert explain(model, X).absent.all()


@pytest.mark.parametrize("activation", ["sigmoid", None])
@pytest.mark.parametrize("label", [0, 1])
def test_a_mask_of_one_channel(activation, label):
    model = unet(1, activation, keras.losses.BinaryCrossentropy(from_logits=activation is None))
    kernel, bias = model.layers[-1].get_weights()
    model.layers[-1].set_weights([kernel, bias - np.median(raw(model))])  # So that there are pixels of both.
    pixels = (raw(model)[..., 0] > 0) == bool(label)
    assert pixels.any(axis=(1, 2)).all()
    found = explain(model, X, target=Segment(label))
    maps, scores = by_hand(model, mean_over(pixels, 0, 1.0 if label else -1.0))
    assert_maps_equal(found.heatmaps, maps)
    np.testing.assert_allclose(found.scores, scores, rtol=1e-4)
    with pytest.warns(UserWarning, match="takes the output for a mask"):
        default = explain(model, X)
    np.testing.assert_array_equal(default.segments, raw(model)[..., 0] > 0)


def test_a_hidden_sigmoid_is_undone_where_the_loss_takes_probabilities():
    """Else every pixel would be foreground, for a probability is above 0."""
    model = unet(1)
    hide = layers.Lambda(lambda z: 0.5 * (ops.tanh(z / 2) + 1), output_shape=model.output_shape[1:])
    hidden = keras.Model(model.input, hide(model.output))
    hidden.compile("sgd", "binary_crossentropy")
    found = explain(hidden, X, target=Segment(1), layer_name="bottleneck")
    np.testing.assert_array_equal(found.segments, raw(model)[..., 0] > 0)
    np.testing.assert_allclose(found.scores, explain(model, X, target=Segment(1)).scores, rtol=1e-3)


LABELS = np.random.default_rng(0).integers(0, 3, (4, 16, 16))


@pytest.mark.parametrize("y", [LABELS, LABELS[..., None].astype(np.float32), np.eye(3)[LABELS]], ids=["", "1", "hot"])
def test_pixels_that_the_labels_name(y):
    found = explain(unet(), (X, y), target=Segment(2, where="true"))
    np.testing.assert_array_equal(found.segments, LABELS == 2)


def test_the_energy_in_a_segment_is_a_number():
    found = explain(unet(), X, target=Segment(1, where=MASK), method="saliency")
    positive = np.maximum(found.heatmaps, 0)
    expected = positive[:, MASK].sum(axis=1) / positive.sum(axis=(1, 2))
    np.testing.assert_allclose(found.values["energy_in_segment"], expected, rtol=1e-4)


@pytest.mark.only_on("tensorflow", "jax", reason="PyTorch by one thread fails to train this net, callbacks or not")
def test_segments_while_training_and_in_the_record(tmp_path):
    model = unet(activation="softmax", loss="sparse_categorical_crossentropy")
    memory = MemoryTracker()
    settings = {"tracker": [memory, "disk"], "log_dir": tmp_path, "on_error": "raise", "metrics": "all"}
    logger = HeatmapLogger((X, LABELS), target=Segment(1, where="true"), **settings)
    history = model.fit(X, LABELS, epochs=2, verbose=0, callbacks=[logger]).history
    assert memory.config.target == "Segment(1, where=true)"
    assert memory.config.layer_name == "bottleneck"
    assert 0 < history["gradcam_energy_in_segment"][-1] < 1
    stored = read_run(logger.directory).epochs[-1]
    for picture, drawn in zip(stored.overlays(), memory.records[-1].overlays, strict=True):
        assert picture.shape == drawn.shape
        assert np.abs(picture.astype(int) - drawn).mean() < 12  # A JPEG, with the outline in it.


def test_the_outline_is_on_the_picture():
    found = explain(unet(), X, target=Segment(1, where=MASK))
    overlay = Overlay(size=160, caption=False)
    with_line, without = found.overlays(overlay)[0], overlay.draw(found.batch.display, found.heatmaps)[0]
    changed = (with_line != without).any(axis=-1)
    inner = np.kron(MASK, np.ones((10, 10), bool))
    edge = inner & ~np.roll(inner, 1, 0) | inner & ~np.roll(inner, 1, 1)
    assert changed[edge].mean() > 0.95
    assert not changed[60, 80]
    assert not changed[150, 10]
    assert (with_line[changed] == 255).all(axis=-1).any()
    assert (with_line[changed] == 0).all(axis=-1).any()


@pytest.mark.parametrize(
    ("target", "settings", "message"),
    [
        (Segment(3), {}, r"between 0 and 2.*Segment\(2\) works"),
        (5, {}, "between 0 and 2"),
        (Segment(1, where=np.ones((8, 8))), {}, "16 x 16 pixels. Received: a mask of 8 x 8"),
        (Segment(1, where=(3, 16)), {}, r"a point \(row, column\) of the output's 16 x 16"),
        (Segment(1, where=np.ones((3, 16, 16))), {}, "one for each of the 4"),
        (Segment(1, where="true"), {}, "needs labels of pixels"),
        (Segment(1, where=(3, 3)), {"augmentations": ["flip"]}, "isn't known"),
        ("contrast", {}, r"target=Segment\(1\) works"),
        ("top2", {}, r"target=Segment\(1\) works"),
    ],
)
def test_what_a_mask_has_not(target, settings, message):
    with pytest.raises(ValueError, match=message):
        explain(unet(), X, target=target, **settings)


@pytest.mark.parametrize("eager", [False, True])
@pytest.mark.parametrize("method", ["gradcam", "smoothgrad"])
def test_where_a_model_takes_no_other_number_of_samples_or_runs_eagerly(method, eager):
    model = unet()
    expected = explain(model, X, target=Segment(1), method=method)
    inputs = keras.Input(batch_shape=(3, *SHAPE))
    fixed = keras.Model(inputs, model(inputs))
    fixed.compile("sgd", run_eagerly=eager)
    layer = f"{model.name}/bottleneck" if method == "gradcam" else None
    found = explain(fixed, X, layer, target=Segment(1), method=method)
    assert_maps_equal(found.heatmaps, expected.heatmaps)
    np.testing.assert_array_equal(found.segments, expected.segments)


def test_a_mask_beside_a_class():
    inputs = keras.Input(SHAPE)
    x = layers.Conv2D(4, 3, 2, padding="same", activation="relu", name="encoder")(inputs)
    mask = layers.Conv2D(4, 3, padding="same", activation="relu")(layers.UpSampling2D(2)(x))
    mask = layers.Conv2D(3, 1, activation="softmax", name="mask")(mask)
    label = layers.Dense(2, activation="softmax", name="label")(layers.GlobalAveragePooling2D()(x))
    both, alone = keras.Model(inputs, {"mask": mask, "label": label}), keras.Model(inputs, mask)
    expected = explain(alone, X, target=Segment(1))
    assert expected.layer_name == "encoder"  # Though most layers lie behind it, no word is said.
    found = explain(both, X, target=Segment(1, output="mask"), class_names=["ground", "cat", "dog"])
    assert_maps_equal(found.heatmaps, expected.heatmaps)
    assert "pixels of cat" in found.title(0)
    views = explain(both, X, "encoder", target={"mask": 1, "label": "predicted"})
    assert_maps_equal(views["mask"].heatmaps, expected.heatmaps)
    assert (views["label"].confidences >= 0.5).all()
    with pytest.raises(ValueError, match=r"target=\{'label': 'predicted'\} works"):
        explain(both, X)


def test_in_mixed_precision():
    model = models.in_mixed_precision(unet)
    found = explain(model, X, target=Segment(1, where="all"))
    logits = model.predict(X, verbose=0).astype(np.float32)
    np.testing.assert_allclose(found.scores, logits[..., 1].mean(axis=(1, 2)), rtol=1e-2)
    assert found.layer_name == "bottleneck"


def test_labels_of_another_size():
    with pytest.raises(ValueError, match="Labels of pixels must be of the output's size, 16 x 16"):
        explain(unet(), (X, LABELS[:, :8, :8]), target=Segment(1, where="true"))
    with pytest.raises(ValueError, match=r"Segment explains pixels.*target='predicted' works"):
        explain(models.functional().model, models.images(), target=Segment(1))


def test_a_pyramid_beside_the_bottleneck_is_not_chosen():
    """A pooled map of 2 x 2 is smaller, but a branch, of which a position stands for half the image."""
    inputs = keras.Input((128, 128, 3))
    x = layers.Conv2D(4, 3, 4, padding="same", activation="relu")(inputs)
    x = layers.Conv2D(4, 3, 2, padding="same", activation="relu", name="encoder")(x)
    pooled = layers.Conv2D(4, 1, name="branch")(layers.AveragePooling2D(8)(x))
    x = layers.Conv2D(4, 3, padding="same", name="mixed")(layers.Concatenate()([x, layers.UpSampling2D(8)(pooled)]))
    model = keras.Model(inputs, layers.Conv2D(3, 1)(layers.UpSampling2D(8)(x)))
    assert explain(model, models.images(2, (128, 128, 3)), target=Segment(1, where="all")).layer_name == "mixed"


# ---- Masks of signals and volumes ----------------------------------------------------------------------------


def of_kind(axes, channels=3):
    """A net of two sizes, whose last layer is linear."""
    shape = ((24,), (), (6, 8, 10))[axes - 1]
    conv, up = (getattr(layers, name.format(axes)) for name in ("Conv{}D", "UpSampling{}D"))
    inputs = keras.Input((*shape, 2))
    x = conv(4, 3, 2, padding="same", activation="relu", name="down")(inputs)
    x = conv(5, 3, padding="same", activation="relu", name="bottleneck")(x)
    model = keras.Model(inputs, conv(channels, 1, name="mask")(up(2)(x)))
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return models.drawn(model), models.images(2, (*shape, 2))


def masked(model, x, pixels_of, channel):
    """Grad-CAM of the mean of a channel over pixels, by a tape over the layers behind the bottleneck."""
    bottleneck = keras.Model(model.input, model.get_layer("bottleneck").output)
    behind = keras.Sequential(model.layers[-2:])
    pixels = np.asarray(pixels_of(ops.convert_to_numpy(behind(bottleneck(x)))), np.float32)
    axes = tuple(range(1, pixels.ndim))
    share = pixels / pixels.sum(axes, keepdims=True)
    [activations], [slopes] = watched(
        lambda watch: ops.sum(ops.multiply(behind(watch(bottleneck(x)))[..., channel], share), axes)
    )
    return (slopes.mean(axes, keepdims=True) * activations).sum(axis=-1), pixels > 0


@pytest.mark.parametrize("axes", [1, 3])
def test_pixels_of_signals_and_volumes(axes):
    model, x = of_kind(axes)
    point = (3, 4, 5)[:axes] if axes > 1 else (3,)
    channel = int(np.bincount(model.predict(x, verbose=0).argmax(-1).ravel()).argmax())
    labels = np.zeros((2, *x.shape[1:-1]), int)
    labels[(slice(None), *[slice(2, 5)] * axes)] = channel or 1

    def at_point(logits):
        pixels = np.zeros(logits.shape[:-1], bool)
        pixels[(slice(None), *point)] = True
        return pixels

    block = np.zeros((2, *x.shape[1:-1]), bool)
    block[(0, *[slice(1, 4)] * axes)] = block[(1, *[slice(2, 6)] * axes)] = True
    cases = {
        Segment(channel, where=block[0]): (lambda _: np.repeat(block[:1], 2, axis=0), channel),
        Segment(channel, where=block): (lambda _: block, channel),
        Segment(channel): (lambda logits: logits.argmax(-1) == channel, channel),
        Segment(channel, where="all"): (lambda logits: np.ones(logits.shape[:-1], bool), channel),
        Segment(channel, where=point): (at_point, channel),
        Segment(channel or 1, where="true"): (lambda _: labels == (channel or 1), channel or 1),
    }
    for target, (pixels_of, of_class) in cases.items():
        found = explain(model, (x, labels), target=target)
        expected, pixels = masked(model, x, pixels_of, of_class)
        assert found.layer_name == "bottleneck"
        np.testing.assert_array_equal(found.segments, pixels)
        np.testing.assert_allclose(found.heatmaps, expected, rtol=1e-3, atol=1e-6)
        assert found.overlays()[0].dtype == np.uint8


def test_a_signal_of_four_classes_for_each_position_is_no_row_of_boxes():
    model, x = of_kind(1, channels=4)
    found = explain(model, x, target=Segment(2, where="all"))
    assert found.heatmaps.shape == (2, 12)
    with pytest.raises(ValueError, match="must have a number for each of the output's 1 axes"):
        explain(model, x, target=Segment(2, where=(1, 2)))
    every = explain(model, x, target=Segment(2, where=np.ones((2, 24), bool)))
    np.testing.assert_allclose(every.heatmaps, found.heatmaps, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("axes", "shape", "message"),
    [
        (1, (23,), "output's size, 24 positions. Received: a mask of 23"),
        (1, (2, 3, 24), r"must be \(T,\) or \(N, T\) for this model. Received: shape \(2, 3, 24\)"),
        (3, (6, 8, 9), "output's size, 6 x 8 x 10 positions. Received: a mask of 6 x 8 x 9"),
        (3, (8, 10), "output's size, 6 x 8 x 10 positions. Received: a mask of 1 x 8 x 10"),
        (3, (3, 6, 8, 10), "one for each of the 2"),
    ],
)
def test_masks_that_are_no_masks_of_the_kind(axes, shape, message):
    model, x = of_kind(axes)
    with pytest.raises(ValueError, match=message):
        explain(model, x, target=Segment(1, where=np.ones(shape, bool)))


def test_a_mask_of_a_volume_in_fit(tmp_path):
    """The same as a function of the outputs that has the mask as a constant; and the record names the mask."""
    model, x = of_kind(3)
    mask = np.zeros((6, 8, 10), bool)
    mask[1:4, 2:6, 3:8] = True
    memory = MemoryTracker()
    settings = {"tracker": [memory, "disk"], "log_dir": tmp_path, "on_error": "raise"}
    logger = HeatmapLogger(x, target=Segment(1, where=mask), method="saliency", **settings)
    model.fit(x, np.zeros((2, 6, 8, 10)), epochs=1, verbose=0, callbacks=[logger])

    def mean(outputs):
        return ops.sum(ops.multiply(outputs[..., 1], mask.astype(np.float32)), (1, 2, 3)) / mask.sum()

    expected = explain(model, x, target=mean, method="saliency")
    np.testing.assert_allclose(memory.records[0].heatmaps, expected.heatmaps, rtol=1e-3, atol=1e-6)
    assert str(mask.sum()) + " pixels of 1" in memory.records[0].samples[0].caption
    assert read_run(logger.directory).manifest["target"].startswith("Segment(1, where=mask ")
