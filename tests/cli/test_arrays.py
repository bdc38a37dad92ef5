"""`keras-cam` on models of signals, volumes and clips: what the files become, and which options are refused."""

import json
import warnings

import click
import keras
import numpy as np
import pytest
from command import run
from keras import layers
from models import functional

from keras_cam_callbacks.cli.arrays import as_batch, check_options, read_files, spacing_option
from keras_cam_callbacks.cli.loading import Input, model_input
from keras_cam_callbacks.data.sample_files import Samples

RNG = np.random.default_rng(0)


def sequential(shape, *more, dtype="float32"):
    return keras.Sequential([keras.Input(shape, dtype=dtype), *more])


@pytest.mark.parametrize(
    ("model", "shape", "first", "kind"),
    [
        (lambda: sequential((50, 2), layers.Conv1D(2, 3)), (50, 2), False, "signal"),
        (lambda: sequential((None, 5), layers.LSTM(2)), (None, 5), False, "signal"),
        (lambda: sequential((6, 8, 10, 1), layers.Conv3D(2, 3)), (6, 8, 10, 1), False, "volume"),
        (lambda: sequential((2, 6, 8, 10), layers.Conv3D(2, 3, data_format="channels_first")), (6, 8, 10, 2), True,
         "volume"),
        (lambda: sequential((None, 8, 10, 3), layers.Conv3D(2, 3)), (None, 8, 10, 3), False, "clip"),
    ],
)  # fmt: skip
def test_what_a_model_takes(model, shape, first, kind):
    given = model_input(model())
    assert (given.shape, given.channels_first, given.kind, given.dtype) == (shape, first, kind, "float32")


def test_grey_images_without_an_axis_for_it_are_told_as_before():
    with pytest.raises(ValueError, match="must take images"):
        model_input(sequential((28, 28), layers.Reshape((28, 28, 1)), layers.Conv2D(2, 3)))


VOLUMES = RNG.normal(size=(3, 6, 8, 10, 1)).astype(np.float32)


def volume_model():
    return sequential((6, 8, 10, 1), layers.Conv3D(2, 3))


def test_files_become_one_batch(tmp_path):
    np.save(tmp_path / "one.npy", VOLUMES[0])
    np.savez(tmp_path / "two.npz", x=VOLUMES[1:])
    (tmp_path / "bad.npy").write_text("none")
    model = volume_model()
    given = model_input(model)
    files = {name: tmp_path / f"{name}.{end}" for name, end in (("one", "npy"), ("two", "npz"), ("bad", "npy"))}
    read, bad = read_files(given, files)
    assert list(bad) == ["bad"]
    batch, names, scale, words = as_batch(model, given, read, 3, spacing=(5, 1, 1))
    assert batch.sample_keys == ("one", "two_00", "two_01")
    assert names == {"one": "one", "two_00": "two", "two_01": "two"}
    np.testing.assert_array_equal(batch.inputs, VOLUMES)
    assert (batch.space.axes, batch.space.spacing) == (("depth", "height", "width"), (5, 1, 1))
    assert scale == ""
    assert words.startswith("3 volumes of 6 x 8 x 10 positions, values as they are in the files. Value range: ")
    with pytest.raises(ValueError, match=r"At most 2 volumes .*Received: 3\. --max-images 3"):
        as_batch(model, given, read, 2)
    batch, _, _, words = as_batch(model, given, read, 3, scale="-1,1")
    assert "lie outside of value_range='[-1, 1]'" in words
    shown = batch.display
    np.testing.assert_allclose(shown[0][..., :1], np.clip(VOLUMES[0] * 127.5 + 127.5, 0, 255), atol=0.51)


@pytest.mark.parametrize(
    ("told", "expected", "says"),
    [
        ([(5.0, 0.7, 0.7)] * 2, (5.0, 0.7, 0.7), "5 x 0.7 x 0.7 apart, as the files say"),
        ([(5.0, 0.7, 0.7), (4.0, 0.7, 0.7)], (), "The files differ"),
        ([(5.0, 0.7, 0.7), ()], (), "The files differ"),
        ([(), ()], (), "as they are in the files."),
    ],
)
def test_spacing_is_that_of_all_files(told, expected, says):
    model = volume_model()
    read = {str(i): Samples((VOLUMES[i],), spacing=one) for i, one in enumerate(told)}
    batch, _, _, words = as_batch(model, model_input(model), read, 9)
    assert batch.space.spacing == expected
    assert says in words
    assert as_batch(model, model_input(model), read, 9, spacing=(1, 2, 3))[0].space.spacing == (1, 2, 3)


def test_videos_are_scaled_as_images_are():
    model = sequential((4, 8, 10, 3), layers.Rescaling(1 / 255), layers.Conv3D(2, 3))
    plain = sequential((4, 8, 10, 3), layers.Conv3D(2, 3))
    frames = RNG.integers(0, 256, (4, 8, 10, 3), np.uint8)
    read = {"film": Samples((frames,), is_video=True, note="film is short.")}
    batch, _, scale, words = as_batch(model, model_input(model), read, 9)
    assert scale == "0-255"
    np.testing.assert_array_equal(batch.inputs[0], frames.astype(np.float32))
    assert "1 clip of 4 x 8 x 10 positions, pixel values 0-255 (the model scales its input itself" in words
    assert words.endswith("film is short.")
    batch, _, scale, _ = as_batch(plain, model_input(plain), read, 9)
    assert scale == "0-1"
    np.testing.assert_allclose(batch.inputs[0], frames / 255, atol=1e-6)
    np.testing.assert_array_equal(batch.display[0], frames)
    # Beside an array, which is taken as it is.
    both = read | {"array": Samples((np.ones((4, 8, 10, 3)),))}
    batch, _, _, words = as_batch(plain, model_input(plain), both, 9, scale="-1-1")
    np.testing.assert_allclose(batch.inputs[0], frames / 127.5 - 1, atol=1e-5)
    assert (batch.inputs[1] == 1).all()
    assert "pixel values of the 1 from videos -1-1." in words


def test_samples_of_one_size_and_of_the_models_type():
    free = sequential((None, 2), layers.Conv1D(2, 3))
    lengths = {str(n): Samples((np.zeros((n, 2)),)) for n in (5, 6)}
    with pytest.raises(ValueError, match=r"Signals .* must be of one size. Received: 5: 5 x 2, 6: 6 x 2"):
        as_batch(free, model_input(free), lengths, 9)
    whole = sequential((5, 2), layers.Rescaling(1.0), layers.Conv1D(2, 3), dtype="uint8")
    batch = as_batch(whole, model_input(whole), {"a": Samples((np.full((5, 2), 7.0),))}, 9)[0]
    assert batch.inputs.dtype == np.uint8
    for wrong in (0.5, 256, -1):
        with pytest.raises(ValueError, match="takes whole numbers from 0 to 255"):
            as_batch(whole, model_input(whole), {"a": Samples((np.full((5, 2), float(wrong)),))}, 9)


def test_options_of_images_are_refused():
    given = {kind: Input((5, 8, 8, 3), False, "float32", kind) for kind in ("signal", "volume", "clip")}
    check_options(given["clip"], "0-1", None, (8, 8), True)
    check_options(given["volume"], "0,4095", None, None, False)
    for kind, settings, name in (
        ("signal", ("0-1", None, None, False), "--scale"),
        ("volume", (None, 4095, None, False), "--white"),
        ("volume", (None, None, (8, 8), True), "--size, --crop"),
        ("clip", (None, 9, None, False), "--white"),
    ):
        with pytest.raises(ValueError, match=f"model of {kind}s.*Received: {name}."):
            check_options(given[kind], *settings)
    with pytest.raises(ValueError, match=r"9x9 for a model of clips of 5 x 8 x 8 x 3. --size 8x8 works"):
        read_files(given["clip"], {}, (9, 9))


def test_spacing_on_the_command_line():
    assert spacing_option(None, None, "5,0.7,0.7") == (5, 0.7, 0.7)
    assert spacing_option(None, None, None) is None
    for wrong in ("", "a", "1,0", "1,,2", "inf"):
        with pytest.raises(click.BadParameter, match="one positive number for each axis"):
            spacing_option(None, None, wrong)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    with warnings.catch_warnings():
        # Keras reads TensorFlow's variables in a way that NumPy has deprecated.
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
        volume_model().save(folder / "volume.keras")
        functional().model.save(folder / "image.keras")
    np.save(folder / "volume.npy", VOLUMES[0])
    np.save(folder / "short.npy", VOLUMES[0, :5])
    return folder


def error_of(*arguments):
    result = run(*arguments)
    assert result.exit_code == 1, result.output
    return result.stderr


def test_layers_of_a_volume(folder):
    found = json.loads(run("layers", folder / "volume.keras", "--json").stdout)
    assert (found["input"], found["kind"]) == ("6 x 8 x 10 x 1", "volume")
    assert [each["output_shape"] for each in found["candidates"]] == [[4, 6, 8, 2]]


def test_errors_of_the_command(folder, tmp_path):
    explain = "explain", folder / "volume.keras"
    out = "--out", tmp_path / "out"
    assert "must be image files" in error_of(*explain, folder / "none", *out)
    stderr = error_of(*explain, folder / "short.npy", folder / "volume.npy", *out)
    assert "IMAGES must be volumes. Received: 1 of 2 that can't be read. --skip-bad does without them." in stderr
    assert "(5, 8, 10, 1), and the model takes samples of 6 x 8 x 10 x 1" in stderr
    assert "Received: --white." in error_of(*explain, folder / "volume.npy", "--white", 9, *out)
    assert "depth, height, width" in error_of(*explain, folder / "volume.npy", "--spacing", "1,2", *out)
    assert "must be image files" in error_of("explain", folder / "image.keras", folder, *out)
    assert not (tmp_path / "out").exists()


def test_a_record_of_images_says_their_spacing_where_it_is_told(folder, tmp_path):
    import PIL.Image

    from keras_cam_callbacks import read_run

    PIL.Image.fromarray(RNG.integers(0, 256, (12, 16, 3), np.uint8)).save(tmp_path / "a.png")
    arguments = "explain", folder / "image.keras", tmp_path / "a.png", "--json", "--out"
    assert json.loads(run(*arguments, tmp_path / "plain").stdout)["spacing"] is None
    assert json.loads(run(*arguments, tmp_path / "apart", "--spacing", "2,1").stdout)["spacing"] == [2, 1]
    assert read_run(tmp_path / "plain").space is None
    assert read_run(tmp_path / "apart").space.spacing == (2, 1)
