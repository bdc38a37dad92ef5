"""What `fit` and `predict` compute is what is explained."""

import warnings

import keras
import numpy as np
import pytest
from backends import hub_pipelines
from keras import layers

from keras_cam_callbacks import HeatmapLogger, explain

# Keras' own, which `pytest.warns` warns of anew.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")


class Task(keras.Model):
    """Preprocesses in `fit` and `predict` and not in its call, as KerasHub's tasks do."""

    def __init__(self, preprocessor):
        inputs = keras.Input((12, 12, 3))
        x = layers.Conv2D(4, 3, padding="same", activation="relu", name="conv")(inputs)
        super().__init__(inputs, layers.Dense(3, name="classes")(layers.GlobalAveragePooling2D()(x)))
        self.preprocessor = preprocessor

    def preprocess_samples(self, x, y=None, sample_weight=None):
        if self.preprocessor is None:
            return keras.utils.pack_x_y_sample_weight(x, y, sample_weight)
        return self.preprocessor(x, y)

    def fit(self, x, y, **settings):
        x, y, _ = keras.utils.unpack_x_y_sample_weight(self.preprocess_samples(x, y))
        return super().fit(x, y, **settings)

    def predict(self, x, **settings):
        x, _, _ = keras.utils.unpack_x_y_sample_weight(self.preprocess_samples(x))
        return super().predict(x, **settings)


def shrunk(x, y=None):
    """Brings images to 12 x 12 and [0, 1], and labels to one less."""
    x = keras.ops.image.resize(keras.ops.cast(x, "float32") / 255, (12, 12))
    return keras.utils.pack_x_y_sample_weight(x, None if y is None else y - 1)


def raw(count=4):
    return np.random.default_rng(0).integers(0, 256, (count, 18, 24, 3)).astype("uint8"), 1 + np.arange(count) % 3


def test_raw_images_are_preprocessed_as_fit_does():
    keras.utils.set_random_seed(0)
    (x, y), model = raw(), Task(shrunk)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    logger = HeatmapLogger((x, y), tracker="memory", max_samples=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.fit(x, y, epochs=1, verbose=0, callbacks=[logger])
    record = logger.trackers[0].records[-1]
    np.testing.assert_allclose(record.outputs, model.predict(x[:3], verbose=0), rtol=1e-4, atol=1e-5)
    assert [sample.label for sample in record.samples] == [0, 1, 2]
    prepared = np.asarray(shrunk(x))
    found = explain(model, x)
    np.testing.assert_array_equal(found.batch.inputs, prepared)
    assert found.batch.display[0].shape == (12, 12, 3)
    assert found.batch.image_size == (12, 12)
    model.preprocessor = None
    np.testing.assert_allclose(found.heatmaps, explain(model, prepared).heatmaps, rtol=1e-5, atol=1e-7)


def test_raw_images_of_a_stream_and_a_display_of_ones_own():
    (x, y), model = raw(), Task(shrunk)
    found = explain(model, ((x[i : i + 2], y[i : i + 2]) for i in (0, 2)), display=list(x))
    assert len(found.batch) == 4
    np.testing.assert_array_equal(found.batch.labels, y - 1)
    assert found.batch.display[0].shape == (18, 24, 3)


def test_images_that_the_preprocessor_cannot_take_are_refused():
    def fails(x, y=None):
        raise LookupError("no")

    with pytest.raises(ValueError, match=r"which hands it to the model's preprocessor.*LookupError: no"):
        explain(Task(fails), raw()[0])


class Scaling(keras.Model):
    """Scales in `predict_step`."""

    def __init__(self, factor):
        super().__init__(name="scaling")
        self.factor = factor
        self.conv = layers.Conv2D(4, 3, name="conv")
        self.drop = layers.Dropout(0.5)
        self.dense = layers.Dense(2)

    def call(self, x, training=False):
        return self.dense(keras.ops.mean(self.drop(self.conv(x), training=training), (1, 2)))

    def predict_step(self, *arguments):
        *state, data = arguments  # On JAX, the weights are the first argument.
        return super().predict_step(*state, keras.utils.unpack_x_y_sample_weight(data)[0] * self.factor)


class Scaled(Scaling):
    """Scales in `predict`."""

    predict_step = keras.Model.predict_step

    def predict(self, x, **settings):
        return super().predict(x * self.factor, **settings)


@pytest.mark.parametrize("kind", [Scaling, Scaled])
def test_a_predict_that_differs_is_told(kind):
    x = np.random.default_rng(0).random((2, 8, 8, 3), dtype=np.float32)
    model = kind(0.5)
    model(x)
    with pytest.warns(RuntimeWarning, match=r"`predict` of model 'scaling' returns something else.*of its own"):
        explain(model, x)


@pytest.mark.parametrize("kind", [Scaling, Scaled])
def test_a_predict_of_its_own_that_does_the_same_is_not(kind):
    x = np.random.default_rng(0).random((2, 8, 8, 3), dtype=np.float32)
    model = kind(1.0)
    model.predict(x, verbose=0)
    function, weights = model.predict_function, [w.numpy() for w in model.variables]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        explain(model, x, output_kind="classes")
    assert model.predict_function is function
    for before, after in zip(weights, model.variables, strict=True):
        np.testing.assert_array_equal(before, after.numpy())


def set_on_it(name, factor):
    """A model of Keras' own class, whose instance scales in what `predict` runs."""
    inputs = keras.Input((8, 8, 3))
    outputs = layers.Dense(2)(layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(inputs)))
    model = keras.Model(inputs, outputs, name="scaling")
    predict, predict_step = model.predict, model.predict_step

    def step(*arguments):
        *state, data = arguments
        return predict_step(*state, keras.utils.unpack_x_y_sample_weight(data)[0] * factor)

    def run(*arguments):
        *state, batches = arguments
        results = step(*state, next(iter(batches)))
        return (results[0], (state[0][0], results[1])) if state else results

    def make(force=False):
        model.predict_function = run

    if name == "predict":
        model.predict = lambda x, **settings: predict(x * factor, **settings)
    elif name == "predict_function":
        make()
    else:
        setattr(model, name, step if name == "predict_step" else make)
    return model


@pytest.mark.parametrize("name", ["predict", "predict_step", "make_predict_function", "predict_function"])
def test_what_is_set_on_the_model_is_seen(name):
    x = np.random.default_rng(0).random((2, 8, 8, 3), dtype=np.float32)
    with pytest.warns(RuntimeWarning, match=rf"`predict` of model 'scaling' returns.*: it has a `{name}` of its own"):
        explain(set_on_it(name, 0.5), x, output_kind="classes")
    same = set_on_it(name, 1.0)
    function = same.predict_function
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        explain(same, x, output_kind="classes")
    assert same.predict_function is function


def test_a_call_that_is_set_on_the_model_is_what_is_explained():
    x = np.random.default_rng(0).random((2, 8, 8, 3), dtype=np.float32)
    inputs = keras.Input((8, 8, 3))
    outputs = layers.Dense(2)(layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(inputs)))
    model = keras.Model(inputs, outputs)
    plain = model.call
    model.call = lambda inputs, training=False, mask=None: plain(inputs, training=training) * 3 + 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        explained = explain(model, x, output_kind="numbers", target=0)
    np.testing.assert_allclose(explained.outputs, model.predict(x, verbose=0), rtol=1e-5)


class Broken(Scaling):
    """Can't predict."""

    def predict_step(self, *arguments):
        raise NotImplementedError


def test_a_model_that_cannot_predict_is_explained():
    x = np.random.default_rng(0).random((2, 8, 8, 3), dtype=np.float32)
    model = Broken(1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert explain(model, x, output_kind="classes").heatmaps.shape == (2, 6, 6)
    assert all(np.abs(kernel).max() > 0 for kernel in model.get_weights()[::2])


def test_kerashub_computes_what_predict_does():
    models = pytest.importorskip("keras_hub").models
    hub_pipelines()
    from keras_hub.layers import ResNetImageConverter

    backbone = models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[3],
        stackwise_num_filters=[64, 64],
        stackwise_num_blocks=[1, 1],
        stackwise_num_strides=[1, 2],
        block_type="basic_block",
        image_shape=(None, None, 3),
    )
    converter = ResNetImageConverter(image_size=(24, 24), scale=1 / 255.0, crop_to_aspect_ratio=True)
    model = models.ResNetImageClassifier(
        backbone=backbone,
        num_classes=3,
        preprocessor=models.ResNetImageClassifierPreprocessor(image_converter=converter),
    )
    x, y = raw()
    found = explain(model, (x, y))
    np.testing.assert_allclose(found.outputs, model.predict(x, verbose=0), atol=1e-3)
    assert found.batch.display[0].shape == (24, 24, 3)


def test_a_call_that_is_set_on_a_model_is_explained():
    keras.utils.set_random_seed(1)
    x = np.random.default_rng(0).random((3, 12, 12, 3), np.float32)
    conv = layers.Conv2D(4, 3, activation="relu", name="conv")
    parts = [conv, layers.GlobalAveragePooling2D(), layers.Dense(3, activation="softmax")]
    model = keras.Sequential([keras.Input((12, 12, 3)), *parts])
    expected = explain(model, x / 2)
    bare = keras.Model()
    bare.inner = model
    bare.call = own = lambda inputs, training=None: model(inputs / 2, training=training)
    explanation = explain(bare, x)
    np.testing.assert_allclose(explanation.outputs, bare.predict(x, verbose=0), rtol=1e-5)
    np.testing.assert_allclose(explanation.heatmaps, expected.heatmaps, rtol=1e-4, atol=1e-6)
    assert bare.call is own
