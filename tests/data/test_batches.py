import itertools
import random

import keras
import models
import numpy as np
import pytest
from backends import HAS_TENSORFLOW, pipelines
from keras import layers
from keras.ops import convert_to_tensor as tensor
from models import SHAPE
from skimage import data

from keras_cam_callbacks.data.batches import fingerprint, make_batch
from keras_cam_callbacks.data.labels import class_labels

X, Y = models.images(10), np.array([0, 0, 0, 0, 1, 1, 2, 0, 1, 2])
ONE_HOT = np.eye(3)[Y]


class Sequence(keras.utils.PyDataset):
    """Three samples a batch; counts how often it is asked."""

    def __init__(self, endless=False):
        super().__init__()
        self.endless, self.asked = endless, []

    @property
    def num_batches(self):
        return None if self.endless else 4

    def __getitem__(self, index):
        self.asked.append(index)
        start = 3 * index % 9
        return X[start : start + 3], Y[start : start + 3]


class Loader:
    """Yields lists of tensors, as a DataLoader of torch does."""

    def __iter__(self):
        for start in range(0, 10, 4):
            yield [tensor(X[start : start + 4]), tensor(Y[start : start + 4])]


def dataset(arrays=(X, Y)):
    return pipelines().data.Dataset.from_tensor_slices(arrays)


def generator():
    for start in range(0, 10, 3):
        yield X[start : start + 3], Y[start : start + 3]


def batches():
    return [(X[:6], Y[:6]), (X[6:], Y[6:])]


KINDS = {
    # data, whether it has labels
    "(x, y)": (lambda: (X, Y), True),
    "[x, y], as fit takes it": (lambda: [X, Y], True),
    "(x, y, weights)": (lambda: (X, Y, np.ones(10)), True),
    "(x,)": (lambda: (X,), False),
    "x": (lambda: X, False),
    "list of images": (lambda: list(X), False),
    "tensor": (lambda: tensor(X), False),
    "(tensor, tensor)": (lambda: (tensor(X), tensor(Y)), True),
    "dataset, batched": (lambda: dataset().batch(4), True),
    "dataset, not batched": (lambda: dataset(), True),
    "dataset, batched, infinite": (lambda: dataset().repeat().batch(4), True),
    "dataset, not batched, infinite": (lambda: dataset().repeat(), True),
    "dataset with weights": (lambda: dataset().map(lambda x, y: (x, y, 1.0)).batch(4), True),
    "dataset without labels": (lambda: dataset().map(lambda x, y: x).batch(4), False),
    "dataset without labels, not batched": (lambda: dataset().map(lambda x, y: x), False),
    "PyDataset": (Sequence, True),
    "PyDataset, infinite": (lambda: Sequence(endless=True), True),
    "generator": (generator, True),
    "infinite generator": (lambda: ((X, Y) for _ in itertools.count()), True),
    "list of batches": (batches, True),
    "list of batches without labels": (lambda: [X[:6], X[6:]], False),
    "loader": (Loader, True),
}


@pytest.mark.parametrize(("build", "labelled"), KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("count", [1, 7])
def test_first_samples_of_every_kind_of_data(build, labelled, count):
    batch = make_batch(build(), max_samples=count)
    np.testing.assert_array_equal(batch.inputs, X[:count])
    assert batch.inputs.dtype == np.float32
    assert (batch.labels.tolist() if labelled else batch.labels) == (Y[:count].tolist() if labelled else None)
    assert batch.sample_keys == tuple(f"sample_0{i}" for i in range(count))
    assert len(batch) == len(batch.display) == len(set(batch.fingerprints)) == count
    assert batch.value_range == "[0, 1]"


@pytest.mark.parametrize(("wanted", "read"), [(1, 1), (4, 1), (5, 2), (8, 2)])
def test_no_more_is_read_of_a_stream_than_is_needed_and_once(wanted, read):
    asked = []

    def stream():
        for i in itertools.count():
            asked.append(i)
            yield X[:4], Y[:4]

    assert len(make_batch(stream(), max_samples=wanted)) == wanted
    assert asked == list(range(read))
    asked.clear()
    if HAS_TENSORFLOW:
        tf = pipelines()
        signature = (tf.TensorSpec((4, *SHAPE), tf.float32), tf.TensorSpec((4,), tf.int64))
        from_stream = tf.data.Dataset.from_generator(stream, output_signature=signature)
        assert len(make_batch(from_stream, max_samples=wanted)) == wanted
        assert asked[0] == 0
        assert len(asked) < read + 8  # tf.data itself prefetches a few, and the stream has no end.
    sequence = Sequence()
    make_batch(sequence, max_samples=wanted)
    assert sequence.asked == list(range(-(-wanted // 3)))


INPUTS = {
    "uint8": ((X * 255).astype(np.uint8), np.uint8),
    "float16": (X.astype(np.float16), np.float16),
    "float32": (X, np.float32),
    "float64": (X.astype(np.float64), np.float32),
    "one channel": (X[..., :1], np.float32),
}


@pytest.mark.parametrize(("x", "dtype"), INPUTS.values(), ids=INPUTS)
def test_types_reach_the_model_as_fit_would_pass_them(x, dtype):
    batch = make_batch((x, Y))
    assert batch.inputs.dtype == dtype
    np.testing.assert_array_equal(batch.inputs, x.astype(dtype))
    for shown, image in zip(batch.display, X[..., : x.shape[-1]], strict=True):
        assert (shown.shape, shown.dtype) == ((12, 16, 3), np.uint8)
        assert np.abs(shown.astype(int) - image * 255).max() <= 1


LABELS = {
    "int": (Y, Y),
    "int32": (Y.astype(np.int32), Y),
    "whole floats": (Y.astype(np.float32), Y),
    "(N, 1)": (Y[:, None], Y),
    "bool": (Y > 0, (Y > 0).astype(int)),
    "one-hot": (ONE_HOT, Y),
    "one-hot bool": (ONE_HOT.astype(bool), Y),
    "smoothed": (ONE_HOT * 0.9 + 0.1 / 3, Y),
    "multi-hot": (np.maximum(ONE_HOT, np.roll(ONE_HOT, 1, 1)), None),
    "nothing": (None, None),
    "regression": (Y + 0.5, None),
    "masks": (np.zeros((10, 12, 16)), None),
    "text": (np.array(["cat"] * 10), None),
    "several outputs": ({"kind": Y, "colour": Y}, None),
}


@pytest.mark.parametrize(("y", "expected"), LABELS.values(), ids=LABELS)
def test_labels(y, expected):
    found = make_batch((X, y)).labels
    assert (found is None) == (expected is None)
    if expected is not None:
        assert found.dtype == np.int64
        assert found.tolist() == expected.tolist() == class_labels(y).tolist()


def test_balanced_takes_classes_in_turn():
    # First samples of the classes are 0, 4, 6, the second 1, 5, 9, the third 2 and 8.
    for count, rows in [(3, [0, 4, 6]), (5, [0, 1, 4, 5, 6]), (8, [0, 1, 2, 4, 5, 6, 8, 9]), (99, range(10))]:
        for source in ((X, Y), (X, ONE_HOT), generator(), *([dataset().batch(3)] if HAS_TENSORFLOW else [])):
            batch = make_batch(source, max_samples=count, select="balanced")
            np.testing.assert_array_equal(batch.inputs, X[list(rows)])
            assert batch.labels.tolist() == Y[list(rows)].tolist()
    if HAS_TENSORFLOW:
        assert len(make_batch(dataset().repeat().batch(5), max_samples=3, select="balanced")) == 3
    with pytest.raises(ValueError, match="select='balanced' needs class labels"):
        make_batch(X, select="balanced")


def test_own_keys():
    assert make_batch(X, max_samples=3, sample_keys=["a", "b", 7]).sample_keys == ("a", "b", "7")
    for wrong in (["a", "b"], ["a", "b", "b"]):
        with pytest.raises(ValueError, match=f"each of the 3 .*Received: {len(wrong)} names, 2 different"):
            make_batch(X, max_samples=3, sample_keys=wrong)


def test_fingerprint_is_of_the_photograph_not_of_its_range():
    photo = data.chelsea()[::4, ::4][None]
    found = {
        make_batch(x).fingerprints[0]
        for x in (photo, photo / 255, (photo / 255).astype(np.float32), (photo / 127.5 - 1).astype(np.float32))
    }
    assert found == {fingerprint(photo[0])}
    (digits,) = found
    assert len(digits) == 16
    assert int(digits, 16) >= 0
    changed = photo.copy()
    changed[0, 40, 40, 1] ^= 1
    assert make_batch(changed).fingerprints[0] not in found
    # The same bytes in another shape are another image.
    assert fingerprint(photo[0].reshape(1, -1, 3)) not in found


SHOWN = np.stack([np.full((20, 30, 3), i, np.uint8) for i in range(10)])


@pytest.mark.parametrize(
    "display",
    [SHOWN, SHOWN[:4], list(SHOWN[:4]), SHOWN / 255 * 1.0, lambda x: np.stack([SHOWN[0] + i for i in range(len(x))])],
    ids=["all", "selected", "list", "floats", "callable"],
)
def test_display(display):
    batch = make_batch((X, Y), max_samples=4, display=display)
    assert batch.value_range == "given"
    np.testing.assert_array_equal(np.stack(batch.display), SHOWN[:4])
    assert batch.fingerprints == make_batch((X, Y), max_samples=4).fingerprints


def test_display_of_a_selection():
    batch = make_batch((X, Y), max_samples=3, select="balanced", display=SHOWN)
    assert [image[0, 0, 0] for image in batch.display] == [0, 4, 6]
    with pytest.raises(ValueError, match=r"each of the 3 explained samples, or for all 10 of the data. Received: 4"):
        make_batch((X, Y), max_samples=3, display=SHOWN[:4])
    with pytest.raises(ValueError, match="Received: int"):
        make_batch((X, Y), display=lambda x: 3)


def negative(images):
    return 1 - images


def test_display_by_name():
    """The last one is what overlays are drawn on; the others stand beside it, in order."""
    photos = [np.full((30 + i, 40, 3), i, np.uint8) for i in range(10)]
    settings = {"max_samples": 4, "select": "balanced"}
    plain = make_batch((X, Y), **settings)
    batch = make_batch((X, Y), **settings, display={"original": photos, "model input": None, "negative": negative})
    assert list(batch.beside) == ["original", "model input"]
    assert (batch.display_name, batch.value_range) == ("negative", "given")
    assert [image.shape[0] for image in batch.beside["original"]] == [30, 31, 34, 36]
    np.testing.assert_array_equal(batch.beside["model input"], plain.display)
    np.testing.assert_array_equal(batch.display, make_batch((X, Y), **settings, display=negative).display)
    assert batch.fingerprints == plain.fingerprints
    assert all(isinstance(pictures, tuple) for pictures in batch.beside.values())


def test_display_by_name_may_end_in_the_input():
    plain, batch = make_batch(X), make_batch(X, display={"negative": negative, "model input": None})
    np.testing.assert_array_equal(batch.display, plain.display)
    assert (batch.display_name, batch.value_range) == ("model input", plain.value_range)
    assert batch.fingerprints == plain.fingerprints
    np.testing.assert_array_equal(batch.beside["negative"], make_batch(X, display=negative).display)


def test_display_of_one_has_none_beside():
    for batch, name in (
        (make_batch(X), "image"),
        (make_batch(X, display=negative), "image"),
        (make_batch(X, display={"negative": negative}), "negative"),
    ):
        assert (batch.display_name, dict(batch.beside)) == (name, {})


def test_each_display_has_its_own_range():
    columns = {"bytes": SHOWN, "unit": SHOWN / 255, "tf": SHOWN / 127.5 - 1, "model input": None}
    batch = make_batch(X, display=columns)
    for pictures in batch.beside.values():
        assert np.abs(np.stack(pictures).astype(int) - SHOWN).max() <= 1


DISPLAYS = {
    "empty": ({}, ValueError, r"at least one name. Received: \{\}"),
    "number": ({1: SHOWN}, TypeError, r"names in `display` must be text. Received: \[1\]"),
    "blank": ({"": SHOWN}, TypeError, r"Received: \[''\]"),
    "count": ({"photo": SHOWN[:3], "b": None}, ValueError, r"`display\['photo'\]` must give one .* 10 .* Received: 3"),
    "no images": ({"photo": 3}, ValueError, r"`display\['photo'\]` must give one image .* Received: int"),
    "of no use": ({"photo": lambda x: 3, "b": None}, ValueError, r"`display\['photo'\]` .* Received: int"),
    "vectors": ({"photo": SHOWN[:, 0, 0, 0], "b": None}, ValueError, "must be an array of numbers"),
}


@pytest.mark.parametrize(("display", "kind", "message"), DISPLAYS.values(), ids=DISPLAYS)
def test_faults_of_displays_by_name(display, kind, message):
    with pytest.raises(kind, match=message):
        make_batch(X, display=display)


def test_names_are_checked_before_data_is_read():
    asked = Sequence()
    with pytest.raises(TypeError, match="must be text"):
        make_batch(asked, display={1: SHOWN})
    assert asked.asked == []


def test_several_inputs():
    ages = np.arange(10.0)[:, None]
    image, age = keras.Input(SHAPE, name="image"), keras.Input((1,), name="age")
    flat = layers.Concatenate()([layers.GlobalAveragePooling2D()(image), age])
    by_name, in_order = (keras.Model(i, flat) for i in ({"image": image, "age": age}, [image, age]))
    pairs = ({"image": X, "age": ages}, Y)
    streams = [dataset(pairs).batch(3), dataset(pairs)] if HAS_TENSORFLOW else []
    for source in (pairs, pairs[0], *streams):
        batch = make_batch(source, by_name, max_samples=5)
        np.testing.assert_array_equal(batch.inputs["image"], X[:5])
        assert batch.inputs["age"].tolist() == ages[:5].tolist()
        assert np.abs(batch.display[0] - X[0] * 255).max() <= 0.5
    for source in (([X, ages], Y), [X, ages]):
        batch = make_batch(source, in_order, max_samples=5)
        assert [a.shape for a in batch.inputs] == [(5, *SHAPE), (5, 1)]


def test_random_numbers_drawn_while_reading_leave_no_trace():
    def noisy():
        while True:
            yield X + np.random.random() * random.random(), Y  # noqa: NPY002

    random.seed(3)
    np.random.seed(3)  # noqa: NPY002
    expected = random.random(), np.random.random()  # noqa: NPY002
    random.seed(3)
    np.random.seed(3)  # noqa: NPY002
    make_batch(noisy(), max_samples=30)
    assert (random.random(), np.random.random()) == expected  # noqa: NPY002


SPOILT = X.copy()
SPOILT[3, 2, 1, 0] = np.inf
FAULTS = {
    "no array": (lambda: 3, {}, TypeError, "Received: 3 of type int"),
    "text": (lambda: "folder", {}, TypeError, "Received: 'folder' of type str"),
    "ragged": (lambda: (np.array([X[0], X[0, 1:]], object), Y[:2]), {}, TypeError, "all samples of the same shape"),
    "empty": (lambda: X[:0], {}, ValueError, "at least one sample. Received: arrays of shape"),
    "empty stream": (lambda: iter([]), {}, ValueError, "at least one sample. Received: none"),
    "number of labels": (lambda: (X, Y[:3]), {}, ValueError, r"x of length \[10\] and y of length \[3\]"),
    "number of inputs": (lambda: {"a": X, "b": X[:3]}, {}, ValueError, r"x of length \[3, 10\]"),
    "infinite": (lambda: SPOILT, {}, ValueError, r"NaN or infinite pixels in samples \[3\] of 10"),
    "vectors": (lambda: X[:, 0, 0], {}, ValueError, r"\(samples, height, width, channels\), .* Received: shape"),
    "max_samples": (lambda: X, {"max_samples": 0}, ValueError, "positive integer. Received: 0"),
    "max_samples True": (lambda: X, {"max_samples": True}, ValueError, "positive integer. Received: True"),
    "select": (lambda: X, {"select": "last"}, ValueError, "'first' or 'balanced'. Received: 'last'"),
}


@pytest.mark.parametrize(("build", "settings", "kind", "message"), FAULTS.values(), ids=FAULTS)
def test_faults(build, settings, kind, message):
    with pytest.raises(kind, match=message):
        make_batch(build(), **settings)


def test_bad_samples_beyond_those_explained_do_not_matter():
    np.testing.assert_array_equal(make_batch(SPOILT, max_samples=3).inputs, X[:3])


@pytest.mark.parametrize(
    "build",
    [
        lambda x: x,
        lambda x: dataset(x).batch(4),
        dataset,
        lambda x: dataset(x[..., None]),
    ],
    ids=["array", "batches", "samples", "samples with channel"],
)
def test_grey_images_without_a_channel_axis(build):
    """`fit` takes MNIST's (N, 28, 28) for a model of (28, 28, 1)."""
    x = np.random.default_rng(0).integers(0, 256, (9, 12, 12), np.uint8)
    model = keras.Sequential([keras.Input((12, 12, 1)), layers.Conv2D(2, 3)])
    batch = make_batch(build(x), model, max_samples=6)
    np.testing.assert_array_equal(batch.inputs, x[:6, ..., None])
    assert batch.display[0].shape == (12, 12, 3)


@pytest.mark.parametrize("y", [np.zeros((8, 12, 16, 3), np.float32), np.zeros((8, 3), np.float32)])
def test_a_list_of_two_is_images_and_what_belongs_to_them(y):
    """As in `fit`; masks are as large as images, and are no second batch of them."""
    x = np.random.default_rng(0).random((8, 12, 16, 3), np.float32)
    model = keras.Sequential([keras.Input((12, 16, 3)), layers.Conv2D(3, 1)])
    batch = make_batch([x, y], model)
    np.testing.assert_array_equal(batch.inputs, x)


def test_display_stands_for_inputs_that_are_no_images():
    sounds = np.random.default_rng(0).standard_normal((3, 100)).astype(np.float32)
    model = keras.Sequential([keras.Input((100,)), layers.Reshape((10, 10, 1)), layers.Conv2D(2, 3)])
    spectrograms = np.zeros((3, 10, 10), np.uint8)
    batch = make_batch(sounds, model, display=spectrograms)
    assert len(set(batch.fingerprints)) == 3
    with pytest.raises(ValueError, match="give `display=`"):
        make_batch(sounds, model)
    named = make_batch(sounds, model, display={"spectrogram": spectrograms, "zoom": spectrograms[:, :5]})
    assert named.fingerprints == batch.fingerprints
    for display in ({"sound": None, "spectrogram": spectrograms}, {"spectrogram": spectrograms, "sound": None}):
        with pytest.raises(ValueError, match=r"`display\['sound'\]` can be None only .* Received: .* \(3, 100\)"):
            make_batch(sounds, model, display=display)


def test_text_beside_images():
    inputs = {"image": np.zeros((3, 8, 8, 3), np.uint8), "text": np.array(["a", "b", "c"], object)}
    for source in (inputs, *([dataset(inputs).batch(2)] if HAS_TENSORFLOW else [])):
        batch = make_batch(source, max_samples=2)
        assert [bytes(t) if isinstance(t, bytes) else t.encode() for t in batch.inputs["text"]] == [b"a", b"b"]
        assert batch.display[0].shape == (8, 8, 3)


def test_all_samples_of_an_endless_dataset_are_refused():
    endless = dataset(np.zeros((4, 8, 8, 3), np.uint8)).batch(2).repeat()
    with pytest.raises(ValueError, match="endless dataset needs `max_samples`"):
        make_batch(endless, max_samples=None)
    assert len(make_batch(endless.take(5), max_samples=None)) == 10


def test_balanced_keeps_no_more_of_a_class_than_are_wanted(monkeypatch):
    """A long stream of one class does not fill the memory, and samples of others are still found."""
    joined = []
    concatenate = np.concatenate
    monkeypatch.setattr(np, "concatenate", lambda parts: joined.append(sum(map(len, parts))) or concatenate(parts))
    batches = ((np.full((4, 8, 8, 3), i, np.uint8), np.array([0, 0, 0, i == 39], int)) for i in range(40))
    batch = make_batch(batches, max_samples=4, select="balanced")
    np.testing.assert_array_equal(batch.labels, [0, 0, 0, 1])
    assert max(joined) == 5
