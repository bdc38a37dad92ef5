"""What people have in place of arrays: labels in lists and by name, images of types that numpy lacks."""

import keras
import numpy as np
import pytest
from backends import pipelines
from keras import layers

from keras_cam_callbacks import GradCAMLogger, explain
from keras_cam_callbacks.data.batches import make_batch
from keras_cam_callbacks.data.labels import class_labels

X = np.random.default_rng(0).random((4, 12, 16, 3), np.float32)
LABELS = {
    "numbers": [0, 1, 0, 1],
    "numbers in a tuple": (0, 1, 0, 1),
    "numpy's numbers": [np.int64(0), np.int64(1), np.int64(0), np.int64(1)],
    "true and false": [False, True, False, True],
    "rows": [[1, 0], [0, 1], [1, 0], [0, 1]],
    "by the output's name": {"out": np.array([0, 1, 0, 1])},
    "rows by name": {"out": np.eye(2)[[0, 1, 0, 1]]},
    "alone in a list": [np.array([0, 1, 0, 1])],
}


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
def test_labels(labels):
    assert make_batch((X, labels)).labels.tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize(
    "labels", [{"a": np.zeros(4), "b": np.ones(4)}, ["cat", "dog", "cat", "dog"], [np.zeros(4), np.ones(4)]]
)
def test_what_holds_no_single_class(labels):
    assert make_batch((X, labels)).labels is None


def test_labels_of_a_named_output_in_a_stream():
    data = pipelines().data.Dataset.from_tensor_slices((X, {"out": np.array([0, 1, 1, 0])})).batch(2)
    assert make_batch(data).labels.tolist() == [0, 1, 1, 0]
    assert make_batch(data, max_samples=2, select="balanced").labels.tolist() == [0, 1]
    assert class_labels({}) is None


def model(dtype=None):
    parts = [layers.Conv2D(4, 3, activation="relu"), layers.GlobalAveragePooling2D(), layers.Dense(2)]
    built = keras.Sequential([keras.Input((12, 16, 3), dtype=dtype), *parts])
    built.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
    return built


def test_bfloat16_images():
    short = keras.ops.cast(X, "bfloat16")
    explained, net = explain(model(), short), model()
    assert explained.batch.inputs.dtype == np.float32
    np.testing.assert_array_equal(explained.batch.inputs, keras.ops.convert_to_numpy(keras.ops.cast(short, "float32")))
    logger = GradCAMLogger((short, [0, 1, 0, 1]), tracker="memory", on_error="raise")
    net.fit(short, np.array([0, 1, 0, 1]), batch_size=2, verbose=0, shuffle=False, callbacks=[logger])
    assert [sample.label for sample in logger.trackers[0].records[0].samples] == [0, 1, 0, 1]


def test_names_of_all_samples_of_the_data():
    names, labels = [f"img{i}" for i in range(4)], [0, 0, 0, 1]
    batch = make_batch((X, labels), max_samples=2, select="balanced", sample_keys=names)
    assert batch.sample_keys == ("img0", "img3")
    assert make_batch((X, labels), max_samples=2, sample_keys=names).sample_keys == ("img0", "img1")
    assert make_batch((X, labels), max_samples=2, sample_keys=["a", "b"]).sample_keys == ("a", "b")
    with pytest.raises(ValueError, match=r"the 2 explained samples, or for all 4 of the data.*Received: 3 names"):
        make_batch((X, labels), max_samples=2, sample_keys=names[:3])
