import keras
import numpy as np
import pytest
from keras import layers
from skimage import data

from keras_cam_callbacks import HeatmapLogger, explain
from keras_cam_callbacks.data.batches import make_batch
from keras_cam_callbacks.data.range_names import checked_range
from keras_cam_callbacks.data.ranges import display_images
from keras_cam_callbacks.data.recognition import recognised

PHOTO = data.chelsea()[30:270:2, 80:400:2]  # (120, 160, 3) uint8 RGB, with a black border here and a white one there
PHOTO = np.pad(PHOTO, ((2, 2), (2, 2), (0, 0)))
PHOTO[-2:] = 255


def preprocessed(mode):
    return keras.applications.imagenet_utils.preprocess_input(PHOTO.astype(np.float32), mode=mode)


RANGES = {
    "uint8": (PHOTO, "[0, 255]"),
    "int64": (PHOTO.astype(np.int64), "[0, 255]"),
    "float 255": (PHOTO.astype(np.float32), "[0, 255]"),
    "float 1": ((PHOTO / 255).astype(np.float32), "[0, 1]"),
    "float16 1": ((PHOTO / 255).astype(np.float16), "[0, 1]"),
    "float64 1": (PHOTO / 255, "[0, 1]"),
    "tf": (preprocessed("tf"), "[-1, 1]"),
    "torch": (preprocessed("torch"), "mean/std"),
    "caffe": (preprocessed("caffe"), "mean-subtracted"),
}


@pytest.mark.parametrize(("image", "expected"), RANGES.values(), ids=RANGES)
def test_preprocessing_is_undone(image, expected):
    shown, found = display_images(image[None])
    assert found == expected
    assert recognised([image]).certain
    assert (shown[0].dtype, shown[0].flags["C_CONTIGUOUS"]) == (np.uint8, True)
    assert np.abs(shown[0].astype(int) - PHOTO).max() <= 1


def test_overshoot_of_resizing_is_clipped():
    sharpened = PHOTO * 1.08 - 8
    (shown,), found = display_images(sharpened[None])
    assert found == "[0, 255]"
    assert np.abs(shown - np.clip(sharpened, 0, 255)).max() <= 0.5


def test_a_batch_has_one_range():
    """A dark image of a batch in [0, 255] is not taken for one in [0, 1]."""
    dark = np.zeros_like(PHOTO, np.float32) + 0.5
    shown, found = display_images([PHOTO.astype(np.float32), dark])
    assert found == "[0, 255]"
    assert shown[1].max() <= 1


def test_an_unknown_range_is_stretched_alike_for_the_batch():
    """One image that is brighter than another one stays so."""
    rows = np.arange(4, dtype=np.float32).reshape(2, 2, 1)
    shown, found = display_images([rows * 1e4, rows * -2e3])
    assert found == "min-max"
    assert shown[0][..., 0].tolist() == [[42, 113], [184, 255]]
    assert shown[1][..., 0].tolist() == [[42, 28], [14, 0]]
    constant, found = display_images(np.full((1, 2, 2, 1), 1e6))
    assert (found, constant[0].max()) == ("min-max", 0)


BANDS = np.array([[[0, 100, 200], [40, 60, 80]]], np.uint8)  # (1, 2, 3)
SHAPES = {
    "grey (H, W)": (BANDS[..., 0], [[[0] * 3, [40] * 3]]),
    "grey (H, W, 1)": (BANDS[..., :1], [[[0] * 3, [40] * 3]]),
    "with alpha": (np.concatenate([BANDS, BANDS[..., :1]], -1), BANDS.tolist()),
    "two bands: their mean": (BANDS[..., :2], [[[50] * 3, [50] * 3]]),
    "five bands: their mean": (np.concatenate([BANDS, BANDS[..., :2]], -1), [[[80] * 3, [56] * 3]]),
    "bool": (np.array([[True, False]]), [[[255] * 3, [0] * 3]]),
}


@pytest.mark.parametrize(("image", "expected"), SHAPES.values(), ids=SHAPES)
def test_channels(image, expected):
    # Two rows more, so that no axis of the image is taken for one of channels.
    tall = np.repeat(image, 7, axis=0)
    wide = np.tile(tall, (1, 3, *[1] * (image.ndim - 2)))
    (shown,), _ = display_images([wide])
    assert shown.shape == (7, 6, 3)
    assert shown[:1, :2].tolist() == expected


def test_channels_first():
    (shown,), _ = display_images(PHOTO.transpose(2, 0, 1)[None])
    np.testing.assert_array_equal(shown, PHOTO)


def test_sizes_may_differ_in_a_list():
    shown, _ = display_images([PHOTO, PHOTO[:50]])
    assert [image.shape for image in shown] == [PHOTO.shape, (50, *PHOTO.shape[1:])]


def test_faults():
    for wrong in (np.zeros(4), np.zeros((2, 2, 2, 2)), np.zeros((0, 4, 3)), np.array([["a"]])):
        with pytest.raises(ValueError, match=r"\(height, width\) or \(height, width, channels\). Received: shape"):
            display_images([wrong])


def grown(top, shape=(48, 48)):
    """A bright spot on a dark ground, float32 from 0 to `top`."""
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]]
    return (np.exp(-((y - 15) ** 2 + (x - 30) ** 2) / 60) * top).astype(np.float32)[..., None]


SPOT, NOISE = grown(1.0), np.random.default_rng(0).random((48, 48, 3), np.float32)
SCAN = (SPOT * 1800 - 1000).astype(np.int16)
STARS = np.zeros((100, 100, 1), np.float32)
STARS[40:42, 60] = 900
STRETCHED = {
    "z-scored": (SPOT - SPOT.mean()) / SPOT.std(),
    "log": np.log1p(SPOT * 400),
    "decibels": 80 * SPOT - 80,
    "depth in metres": 0.5 + 9 * SPOT,
    "kelvin": 250 + 40 * SPOT,
    "labels 0 to 20": (SPOT * 20).astype(np.int32),
    "counts": np.rint(SPOT * 12),
    "Hounsfield units": SCAN,
    "12 bits": (SPOT * 4000).astype(np.uint16),
    "16 bits": (SPOT * 65535).astype(np.uint16),
    "reflectance": SPOT * 0.05,
    "differences": (SPOT - 0.5) * 0.02,
    "half of it": SPOT - 0.5,
    "a window in three channels": np.repeat(np.linspace(-100, 150, 48 * 48, dtype=np.float32).reshape(48, 48, 1), 3, 2),
    "z-scored in three channels": np.repeat((SPOT - SPOT.mean()) / SPOT.std(), 3, 2) / 3,
    "colours, each image by its own mean and deviation": (NOISE - NOISE.mean()) / NOISE.std(),
    "colours, half of them": NOISE - 0.5,
    "a few stars": STARS,
    "Lab colours": np.concatenate([100 * SPOT, 60 * SPOT - 30, 20 - 50 * SPOT], 2),
}


@pytest.mark.parametrize("image", STRETCHED.values(), ids=STRETCHED)
def test_of_what_is_not_recognised_something_can_be_seen(image):
    (shown,), name = display_images(image[None])
    assert name == "min-max"
    assert shown.min() == 0
    assert shown.max() == 255
    if image.shape[-1] == 1 or (image[..., :1] == image).all():
        assert (shown == shown[..., :1]).all()  # Grey stays grey.
    seen = recognised([image])
    assert not seen.certain
    assert "value_range= takes what they are" in seen.note


def test_an_outlier_does_not_turn_the_rest_black():
    hot = (SPOT * 200 - 400).copy()
    hot[0, 0] = 30000
    (shown,), name = display_images(hot[None])
    assert name == "min-max"
    assert np.median(shown[12:18, 27:33]) > 200


NOT_QUITE = {
    "[0, 1], brighter": (NOISE + np.float32(0.2), "[0, 1]", False),
    "[0, 1], overshooting": (np.clip(NOISE * 1.04 - 0.02, -0.02, 1.02), "[0, 1]", True),
    "[0, 1], one pixel far out": (np.where(SPOT.max() == SPOT, 1.4, SPOT), "[0, 1]", True),
    "[0, 1], float16": (NOISE.astype(np.float16), "[0, 1]", True),
    "0 and 1, uint8": ((SPOT > 0.5).astype(np.uint8), "[0, 1]", True),
    "0 and 1, float": ((SPOT > 0.5).astype(np.float32), "[0, 1]", True),
    "all 0, uint8": (np.zeros((9, 9, 3), np.uint8), "[0, 255]", True),
    "[0, 255], dark": (np.rint(NOISE * 60), "[0, 255]", False),
    "[0, 255], dark bytes": ((NOISE * 40).astype(np.uint8), "[0, 255]", True),
    "[-1, 1], not full": (NOISE * 1.5 - 0.75, "[-1, 1]", False),
    "mean/std, resized": ((NOISE - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225], "mean/std", False),
}


@pytest.mark.parametrize(("image", "name", "certain"), NOT_QUITE.values(), ids=NOT_QUITE)
def test_values_by_their_distribution(image, name, certain):
    seen = recognised([image])
    assert (seen.name, seen.certain) == (name, certain)
    assert bool(seen.note) != certain


def net(*front, shape=(48, 48, 3), dtype=None):
    parts = [*front, layers.Conv2D(4, 3, activation="relu"), layers.GlobalAveragePooling2D(), layers.Dense(2)]
    return keras.Sequential([keras.Input(shape, dtype=dtype), *parts])


BY_MODEL = {
    "dark, 0 to 9": (lambda: net(layers.Rescaling(1 / 255)), np.rint(NOISE * 9), "[0, 255]"),
    "12 bits": (lambda: net(layers.Rescaling(1 / 4095), shape=(48, 48, 1)), SPOT * 3000, "[0, 4095]"),
    "millimetres": (lambda: net(layers.Rescaling(1 / 5000), shape=(48, 48, 1)), SPOT * 3000, "[0, 5000]"),
    "a window": (lambda: net(layers.Rescaling(1 / 2000, 0.5), shape=(48, 48, 1)), SPOT * 900, "[-1000, 1000]"),
    "mean and variance behind a scaling": (
        lambda: net(layers.Rescaling(1 / 255), layers.Normalization(mean=[0.4] * 3, variance=[0.06] * 3)),
        NOISE * 30,
        "[0, 255]",
    ),
    "a mean and a deviation, written out, behind a scaling": (
        lambda: net(layers.Rescaling(1 / 255), layers.Rescaling([1 / 0.3, 1 / 0.2, 1 / 0.2], [-1.5, -2.0, -1.0])),
        NOISE * 30,
        "[0, 255]",
    ),
    "ImageNet's mean and deviation": (
        lambda: net(layers.Normalization(mean=[0.485, 0.456, 0.406], variance=[0.0524, 0.0502, 0.0506])),
        NOISE * 0.1,
        "[0, 1]",
    ),
    "those of 0 to 255": (
        lambda: net(layers.Rescaling([1 / 58.395, 1 / 57.12, 1 / 57.375], [-2.1179, -2.0357, -1.8044])),
        NOISE * 30,
        "[0, 255]",
    ),
    "half of [-1, 1]": (lambda: net(layers.Rescaling(2.0)), NOISE * 0.5 - 0.5, "[-0.5, 0.5]"),
    "half of [-1, 1], to 255": (lambda: net(layers.Rescaling(255.0, 127.5)), NOISE - 0.5, "[-0.5, 0.5]"),
    "to 255": (lambda: net(layers.Rescaling(255.0)), NOISE * 0.08, "[0, 1]"),
}


@pytest.mark.parametrize(("build", "image", "name"), BY_MODEL.values(), ids=BY_MODEL)
def test_what_the_model_expects(build, image, name):
    batch = make_batch(image[None].astype(np.float32), build())
    assert (batch.value_range, batch.pixel_range.certain, batch.pixel_range.note) == (name, True, "")


def adapted(images):
    layer = layers.Normalization(axis=-1, name="statistics")
    layer.adapt(images)
    return layer


INK = (NOISE[..., :1] < 0.13).astype(np.float32) * np.linspace(0.4, 1, 48, dtype=np.float32)[:, None, None]
BY_STATISTICS = {
    # What the images tell by themselves is certain; what is left open by them is not.
    "drawings": (INK, INK, "[0, 1]", True),
    "drawings in [0, 255]": (INK * 255, INK * 255, "[0, 255]", True),
    "drawings, white": (1 - INK, 1 - INK, "[0, 1]", True),
    "dark photographs": (NOISE * 255, NOISE * 30, "[0, 255]", False),
    "in [-1, 1]": (NOISE * 2 - 1, NOISE * 2 - 1, "[-1, 1]", True),
    "in [-0.5, 0.5]": (NOISE - 0.5, NOISE - 0.5, "[-0.5, 0.5]", False),
    "scans of 12 bits": (SPOT * 4095, np.rint(SPOT * 4000).astype(np.float32), "[0, 4095]", False),
    "Hounsfield units": (SPOT * 1800 - 1000, SPOT * 1700 - 1000, "min-max", False),
    "a few stars": (STARS / 900, STARS / 900, "[0, 1]", True),
}


@pytest.mark.parametrize(("seen", "image", "name", "certain"), BY_STATISTICS.values(), ids=BY_STATISTICS)
def test_a_mean_and_a_deviation_fix_no_range(seen, image, name, certain):
    pixel_range = make_batch(image[None], net(adapted(seen[None]), shape=image.shape)).pixel_range
    assert (pixel_range.name, pixel_range.certain) == (name, certain)
    assert bool(pixel_range.note) != certain
    assert not pixel_range.warns  # Nothing contradicts them.
    if not certain and name != "min-max":
        assert "a mean of " in pixel_range.note
    mean, deviation = float(seen.mean()), float(seen.std())
    written_out = net(layers.Rescaling(1 / deviation, -mean / deviation), shape=image.shape)
    if name != "min-max":  # Those of Hounsfield units are read as a window, which is said.
        assert make_batch(image[None], written_out).pixel_range.name == name


def test_images_that_are_not_what_the_model_expects():
    photos = net(adapted(NOISE[None] * 255))
    with pytest.warns(
        UserWarning, match=r"a mean of 12. and a deviation of 7.*'statistics'\), and the images have .* to 0.99"
    ):
        assert make_batch(NOISE[None], photos).value_range == "[0, 1]"
    batch = make_batch(NOISE[None], net(layers.Rescaling(1 / 255, name="scale")))
    with pytest.warns(UserWarning, match=r"expects values of \[0, 255\] \(layer 'scale'\), and the images have 1.* to"):
        assert batch.value_range == "[0, 1]"
    doubled = make_batch(NOISE[None] * 255, net(layers.Rescaling(2.0, -1.0)))
    with pytest.warns(UserWarning, match=r"expects values of \[0, 1\]"):
        assert doubled.value_range == "[0, 255]"


CHOSEN = {
    "numbers": ((-1000, 1000), "[-1000, 1000]"),
    "numpy's": (np.array([0, 4095.0]), "[0, 4095]"),
    "list": ([0, 1], "[0, 1]"),
    "name": ("mean/std", "mean/std"),
    "as a command line has it": ("-1-1", "[-1, 1]"),
    "two numbers as text": ("0, 4095", "[0, 4095]"),
    "in brackets": ("[-2.5 1e3]", "[-2.5, 1000]"),
}


@pytest.mark.parametrize(("value_range", "name"), CHOSEN.values(), ids=CHOSEN)
def test_names_of_ranges(value_range, name):
    assert checked_range(value_range) == name


@pytest.mark.parametrize(
    "wrong",
    [(1, 0), (1, 1), (0, np.nan), (0, np.inf), (0,), (0, 1, 2), 255, "0-2", "mean-max", (True, 2), ("0", "1"), ""],
)
def test_ranges_that_are_none(wrong):
    with pytest.raises(ValueError, match=r"`value_range` must be \(black, white\).*Received.*=\(0, 255\) works"):
        HeatmapLogger(NOISE[None], value_range=wrong, tracker=None)


def test_the_users_word_wins():
    model = net(layers.Rescaling(1 / 255))
    batch = make_batch(NOISE[None], model, value_range=(0, 1))
    assert batch.value_range == "[0, 1]"
    np.testing.assert_array_equal(batch.display[0], np.rint(NOISE * 255))
    half = make_batch(NOISE[None], model, value_range=(0, 0.5))
    with pytest.warns(UserWarning, match=r"50 % of the values lie outside of value_range='\[0, 0.5\]'"):
        np.testing.assert_array_equal(half.display[0], np.clip(np.rint(NOISE * 510), 0, 255))
    with pytest.raises(ValueError, match="'mean/std' only for images of three channels"):
        make_batch(SPOT[None], value_range="mean/std")
    table = keras.Sequential([keras.Input((5,)), layers.Dense(2)])
    with pytest.raises(ValueError, match="`value_range` needs images"):
        make_batch(np.zeros((3, 5), np.float32), table, value_range=(0, 1))
    explained = explain(model, NOISE[None], value_range="min-max")
    assert explained.batch.value_range == "min-max"
    assert explained.batch.display[0].max() == 255


def test_small_patches_of_many_bands_are_no_channels_first():
    (shown,), _ = display_images(np.random.default_rng(0).random((1, 4, 4, 10), np.float32))
    assert shown.shape == (4, 4, 3)
    (shown,), _ = display_images(np.random.default_rng(0).random((1, 3, 3, 12), np.float32))
    assert shown.shape == (3, 3, 3)
