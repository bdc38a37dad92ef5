"""`keras-cam layers` and `explain` on saved models: what they say is what Python says, and nothing is run unasked."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
import zipfile

import keras
import models
import numpy as np
import PIL.Image
import pytest
from command import run
from paths import ROOT
from pngs import declared_png

from keras_cam_callbacks import explain, read_run
from keras_cam_callbacks.cli.loading import likely_scale, model_input, scaled
from keras_cam_callbacks.cli.scales import SCALES
from keras_cam_callbacks.data.ranges import display_images
from keras_cam_callbacks.drawing.files import read_image
from keras_cam_callbacks.network.layers import find_layer


def save(model, file):
    with warnings.catch_warnings():
        # Keras reads TensorFlow's variables in a way that NumPy has deprecated.
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
        model.save(file)


def one_error(result):
    """The only message of a command that has failed as it should."""
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    assert result.stdout == ""
    (message,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    return message


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Saved models and images; a test that writes has a folder of its own."""
    folder = tmp_path_factory.mktemp("models")
    save(models.functional().model, folder / "plain.keras")
    save(models.nested_twice().model, folder / "nested.keras")
    doubling = keras.Sequential(
        [
            keras.Input(models.SHAPE),
            keras.layers.Lambda(lambda x: x * 2.0),
            keras.layers.Conv2D(2, 3),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(2),
        ]
    )
    save(doubling, folder / "lambda.keras")
    (folder / "images").mkdir()
    for i, image in enumerate(models.images(3, (24, 32, 3))):
        PIL.Image.fromarray((image * 255).astype(np.uint8)).save(folder / f"images/{'abc'[i]}.png")
    return folder


def test_layers_lists_what_can_be_explained_and_what_is_chosen(folder):
    found = json.loads(run("layers", folder / "nested.keras", "--json").stdout)
    assert found["model"] == "sequential" or found["model"].startswith("sequential_")
    assert found["input"] == "12 x 16 x 3"
    assert [each["path"] for each in found["candidates"]] == ["middle/conv1", "middle/inner/conv2"]
    assert found["candidates"][1] == {
        "path": "middle/inner/conv2",
        "kind": "Conv2D",
        "output_shape": [10, 14, 5],
        "parameters": 3 * 3 * 4 * 5 + 5,
    }
    model = keras.saving.load_model(folder / "nested.keras")
    assert found["chosen"] == explain(model, models.images(1)).layer_name == "middle/inner/conv2"
    assert found["parameters"] == model.count_params()
    for each in found["candidates"]:
        assert find_layer(model, each["path"])[0] == each["path"]

    result = run("layers", folder / "nested.keras")
    assert result.exit_code == 0
    assert "middle/inner/conv2   Conv2D   10 x 14 x 5" in result.stdout
    assert "By default middle/inner/conv2 is explained: the last feature map" in result.stdout
    assert max(map(len, result.stdout.splitlines()[:-1])) <= 80


def test_layers_of_a_model_that_takes_any_size(tmp_path):
    save(models.functional(shape=(None, None, 3)).model, tmp_path / "free.keras")
    found = json.loads(run("layers", tmp_path / "free.keras", "--json").stdout)
    assert found["input"] == "any x any x 3"
    assert found["candidates"][1]["output_shape"] == [None, None, 5]
    assert "any x any x 5" in run("layers", tmp_path / "free.keras").stdout


def test_layers_says_why_none_is_chosen(tmp_path):
    model = keras.Sequential([keras.Input(models.SHAPE), keras.layers.Flatten(), keras.layers.Dense(2)])
    save(model, tmp_path / "flat.keras")
    result = run("layers", tmp_path / "flat.keras")
    assert result.exit_code == 0
    assert (
        "By default no layer can be explained. A heatmap needs a layer whose output is a feature map" in result.stdout
    )


def test_explain_writes_what_explain_finds_as_a_run(folder, tmp_path):
    out = tmp_path / "out"
    arguments = ["explain", folder / "nested.keras", folder / "images", "--out", out, "--class-names", "ant,bee,cat"]
    result = run(*arguments, "--size", "12x16")
    assert result.exit_code == 0, result.output
    assert "3 images, brought to 12 x 16 px, pixel values 0-1 (the model has no Rescaling layer" in result.stderr

    stored = read_run(out)
    assert stored.sample_keys == ("a", "b", "c")
    assert stored.class_names == ("ant", "bee", "cat")
    images = np.stack([read_rgb(folder / f"images/{key}.png") for key in "abc"])
    model = keras.saving.load_model(folder / "nested.keras")
    expected = explain(model, images / np.float32(255), class_names=["ant", "bee", "cat"])
    (epoch,) = stored.epochs
    models.assert_maps_equal(epoch.heatmaps(), expected.heatmaps, 1e-5)
    assert epoch.captions == tuple(sample.caption for sample in expected.samples())
    assert np.allclose(epoch.arrays()["outputs"], expected.outputs, atol=1e-6)
    assert epoch.values()["confidence"] == pytest.approx(expected.confidences, abs=1e-6)
    assert epoch.scalars["confidence"] == pytest.approx(float(expected.confidences.mean()), abs=1e-6)
    assert stored.manifest["layer"] == "middle/inner/conv2"
    # What the file shows is what people see and what samples are told apart by.
    assert stored.manifest["fingerprints"] == list(expected.batch.fingerprints)
    assert all(map(np.array_equal, expected.batch.display, images))
    for file, overlay in zip(epoch.overlay_files, expected.overlays(), strict=True):
        assert np.abs(read_image(file).astype(int) - overlay).mean() < 6
    with PIL.Image.open(out / "grid.jpg") as picture:
        assert picture.size[0] > 320
    for i, row in enumerate(line for line in result.stdout.splitlines() if line.startswith((" a ", " b ", " c "))):
        assert expected.class_names[expected.predicted[i]] in row
        assert f"{expected.confidences[i]:.2f}" in row


def read_rgb(file):
    """The image as the command should read it: shrunk by area to the model's size."""
    with PIL.Image.open(file) as picture:
        return np.asarray(picture.reduce(2))


def test_explain_several_methods_and_targets_as_json(folder, tmp_path):
    out = tmp_path / "out"
    settings = ["--method", "gradcam", "--method", "saliency", "--target", "top2", "--layer", "conv1", "--json"]
    result = run(
        "explain", folder / "plain.keras", folder / "images/b.png", "--out", out, *settings, "--layout", "panel"
    )
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert [row["view"] for row in found["predictions"]] == [
        "gradcam_top1",
        "gradcam_top2",
        "saliency_top1",
        "saliency_top2",
    ]
    first, second = found["predictions"][:2]
    assert first["explained"] == first["predicted"] == int(np.argmax(first["outputs"]))
    assert second["explained"] == int(np.argsort(first["outputs"])[-2])
    assert second["confidence"] == pytest.approx(sorted(first["outputs"])[-2])
    assert (found["scale"], found["size"], found["layer"]) == ("0-1", [12, 16], "conv1")
    stored = read_run(out)
    assert stored.epochs[0].views == tuple(row["view"] for row in found["predictions"])
    assert stored.epochs[0].heatmaps("saliency_top2").shape == (1, 12, 16)
    assert stored.manifest["overlay"]["layout"] == "panel"


def test_a_class_is_explained_by_index_or_name(folder, tmp_path):
    files = folder / "plain.keras", folder / "images/a.png"
    for i, target in enumerate(("2", "cat")):
        settings = ["--target", target, "--class-names", "ant,bee,cat", "--out", tmp_path / target, "--json"]
        found = json.loads(run("explain", *files, *settings).stdout)
        assert found["predictions"][0]["explained"] == "cat", i
        assert found["target"] == "2"


def test_class_names_from_a_file_and_too_few(folder, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("ant\n\nbee, the \n cat [red]x\n", encoding="utf-8-sig")  # As Windows' editors do.
    files = folder / "plain.keras", folder / "images/a.png"
    found = json.loads(run("explain", *files, "--class-names", names, "--out", tmp_path / "a", "--json").stdout)
    assert found["predictions"][0]["predicted"] in ("ant", "bee, the", "cat [red]x")
    result = run("explain", *files, "--class-names", "ant,bee", "--out", tmp_path / "b")
    assert "`class_names` must be a list of one name for each of the model's 3 classes" in one_error(result)
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("scale", SCALES)
def test_scales_show_what_the_file_shows(scale):
    given = model_input(models.functional().model)
    images = np.random.default_rng(0).integers(0, 256, (2, *models.SHAPE), np.uint8)
    values = scaled(images, scale, given)
    assert values.dtype == np.float32
    shown, _ = display_images(list(values), SCALES[scale])
    assert np.abs(np.stack(shown).astype(int) - images).max() <= 1


def test_scales_agree_with_those_of_keras_applications():
    images = np.random.default_rng(0).integers(0, 256, (2, *models.SHAPE), np.uint8)
    given = model_input(models.functional().model)
    for scale, package in (
        ("mean-subtracted", keras.applications.vgg16),
        ("-1-1", keras.applications.mobilenet_v2),
        ("mean-std", keras.applications.densenet),
        ("0-255", keras.applications.efficientnet),
    ):
        expected = package.preprocess_input(images.astype(np.float32))
        assert np.allclose(scaled(images, scale, given), expected, atol=1e-4), scale


def test_the_likely_scale_and_why():
    plain = models.functional().model
    assert likely_scale(plain) == ("0-1", "the model has no Rescaling layer")
    inner = keras.Sequential(
        [keras.Input(models.SHAPE), keras.layers.Rescaling(1 / 255, name="rescaling")], name="inner"
    )
    own = keras.Sequential([keras.Input(models.SHAPE), inner, plain])
    assert likely_scale(own) == ("0-255", "the model scales its input itself, in layer 'inner/rescaling'")
    for name, scale in (("resnet50", "mean-subtracted"), ("resnet50v2", "-1-1"), ("mobilenetv2_1.00_224", "-1-1")):
        base = keras.Sequential([keras.Input(models.SHAPE), keras.layers.AveragePooling2D(3)], name=name)
        model = keras.Sequential([base, keras.layers.GlobalAveragePooling2D()])
        assert likely_scale(model) == (scale, f"as keras.applications trained {name!r}")


@pytest.mark.slow
def test_preprocessing_in_the_graph_takes_what_is_in_the_files():
    for module in (keras.applications.mobilenet_v2, keras.applications.resnet50, keras.applications.densenet):
        images = keras.Input(models.SHAPE)
        base = keras.Sequential([keras.Input(models.SHAPE), keras.layers.Conv2D(2, 3)], name="resnet50")
        model = keras.Model(images, base(module.preprocess_input(images)))
        scale, why = likely_scale(model)
        assert scale == "0-255"
        assert why.startswith("the model scales its input itself, in the operation '")
    for own, bare in ((keras.applications.MobileNetV3Small, "-1-1"), (keras.applications.EfficientNetV2B0, "mean-std")):
        settings = {"input_shape": (32, 32, 3), "include_top": False, "weights": None}
        assert likely_scale(own(**settings))[0] == "0-255"
        assert likely_scale(own(**settings, include_preprocessing=False))[0] == bare


FRONTS = {
    "0,4095": [keras.layers.Rescaling(1 / 4095)],
    "0,65535": [keras.layers.Rescaling(2 / 65535, -1.0)],
    "0,1000": [keras.layers.Rescaling(1 / 1000)],
    "-1000,1000": [keras.layers.Rescaling(1 / 2000, 0.5)],
    "0-1": [keras.layers.RandomFlip(), keras.layers.Rescaling(2.0, -1.0)],
    "0-255": [keras.layers.Rescaling(1 / 255), keras.layers.Normalization(mean=0.45, variance=0.05)],
}


@pytest.mark.parametrize(("scale", "front"), FRONTS.items(), ids=FRONTS)
def test_other_ranges_that_a_graph_expects(scale, front):
    model = keras.Sequential([keras.Input((12, 16, 1)), *front, keras.layers.Conv2D(2, 3)])
    assert likely_scale(model)[0] == scale


def adapted(images):
    layer = keras.layers.Normalization(axis=-1, name="statistics")
    layer.adapt(images)
    return layer


RNG = np.random.default_rng(3)
FILES = {
    "drawings": (RNG.random((3, 12, 16, 1)) < 0.13) * np.uint8(255),
    "photographs": (RNG.random((3, 12, 16, 3)) ** 2 * 255).astype(np.uint8),
}


@pytest.mark.parametrize(
    ("scale", "bring"),
    {
        "0-1": lambda files: files / 255,
        "0-255": lambda files: files * 1.0,
        "-1-1": lambda files: files / 127.5 - 1,
        "-0.5,0.5": lambda files: files / 255 - 0.5,
        "0,1023": lambda files: files / 255 * 1023,
    }.items(),
)
@pytest.mark.parametrize("files", FILES.values(), ids=FILES)
def test_the_range_that_a_mean_and_a_deviation_fit_best(scale, bring, files):
    parts = [adapted(bring(files)), keras.layers.Conv2D(2, 3)]
    model = keras.Sequential([keras.Input(files.shape[1:]), *parts])
    taken, why = likely_scale(model, list(files))
    assert taken == scale
    assert why.startswith("the model takes values of a mean of ")
    assert "'statistics'" in why
    np.testing.assert_allclose(scaled(list(files), taken, model_input(model)), bring(files), rtol=1e-5, atol=1e-5)


def test_the_command_feeds_what_a_mean_and_a_deviation_fit(tmp_path):
    files = FILES["drawings"]
    head = keras.layers.Dense(2, kernel_initializer=keras.initializers.RandomNormal(stddev=8, seed=1))
    parts = [adapted(files / 255), keras.layers.Conv2D(4, 3, activation="relu")]
    model = keras.Sequential([keras.Input((12, 16, 1)), *parts, keras.layers.GlobalAveragePooling2D(), head])
    save(model, tmp_path / "drawings.keras")
    PIL.Image.fromarray(files[0, ..., 0]).save(tmp_path / "one.png")
    result = run("explain", tmp_path / "drawings.keras", tmp_path / "one.png", "--out", tmp_path / "out", "--json")
    assert "pixel values 0-1 (the model takes values of a mean of " in result.stderr
    (row,) = json.loads(result.stdout)["predictions"]
    np.testing.assert_allclose(row["outputs"], model.predict(files[:1] / 255, verbose=0)[0], rtol=1e-4, atol=1e-4)


def deep_model(folder, *front):
    keras.utils.set_random_seed(2)
    start = keras.initializers.RandomNormal(stddev=3, seed=1)
    parts = [keras.layers.Conv2D(4, 3, activation="relu"), keras.layers.GlobalAveragePooling2D()]
    head = keras.layers.Dense(2, activation="softmax", kernel_initializer=start)
    model = keras.Sequential([keras.Input((40, 40, 1)), *front, *parts, head])
    save(model, folder / "deep.keras")
    y, x = np.mgrid[0:40, 0:40]
    scan = (np.exp(-((y - 15) ** 2 + (x - 25) ** 2) / 60) * 4000 + 90).astype(np.uint16)
    PIL.Image.fromarray(scan).save(folder / "scan.png")
    return model, scan.astype(np.float32)


@pytest.mark.parametrize(
    ("front", "options", "taken", "says"),
    [
        ([keras.layers.Rescaling(1 / 4095)], [], lambda v: v, "16-bit values, here up to 4090, stay as they are"),
        ([], [], lambda v: v / 65535, "are taken for 0 to 65535; --white 4095 is for scans of 12 bits"),
        ([], ["--white", "4095"], lambda v: v / 4095, "pixel values 0-1"),
        ([keras.layers.Rescaling(1 / 255)], ["--scale", "0-255"], lambda v: v / 257, "are taken for 0 to 65535"),
        ([], ["--value-range", "0,4095"], lambda v: v, "stay as they are"),
    ],
)
def test_files_of_more_than_8_bits(tmp_path, front, options, taken, says):
    model, scan = deep_model(tmp_path, *front)
    arguments = "explain", tmp_path / "deep.keras", tmp_path / "scan.png", "--out", tmp_path / "out", "--json"
    result = run(*arguments, *options)
    assert says in result.stderr
    (row,) = json.loads(result.stdout)["predictions"]
    expected = model.predict(taken(scan)[None, ..., None], verbose=0)[0]
    np.testing.assert_allclose(row["outputs"], expected, atol=1e-4)
    assert np.asarray(PIL.Image.open(tmp_path / "out/images/scan.png")).max() > 240


def test_grey_and_channels_first_and_whole_numbers():
    def of(shape, dtype="float32"):
        return model_input(keras.Model(x := keras.Input(shape, dtype=dtype), keras.layers.Flatten()(x)))

    grey = of((12, 16, 1))
    assert (grey.shape, grey.channels_first) == ((12, 16, 1), False)
    images = np.arange(12 * 16, dtype=np.uint8).reshape(1, 12, 16, 1)
    with pytest.raises(ValueError, match="--scale mean-std is of RGB images"):
        scaled(images, "mean-std", grey)
    first = of((3, 12, 16))
    assert (first.shape, first.channels_first) == ((12, 16, 3), True)
    assert scaled(np.zeros((2, 12, 16, 3), np.uint8), "0-1", first).shape == (2, 3, 12, 16)
    whole = of((12, 16, 3), "uint8")
    assert scaled(np.full((1, 12, 16, 3), 7, np.uint8), "0-255", whole).dtype == np.uint8
    with pytest.raises(ValueError, match="This model takes whole numbers"):
        scaled(np.zeros((1, 12, 16, 3), np.uint8), "0-1", whole)
    with pytest.raises(ValueError, match=r"grey or RGB images.*have 5 channels"):
        of((12, 16, 5))
    with pytest.raises(ValueError, match="must take images"):
        of((12,))


def test_models_that_do_not_take_images_alone_are_told_what_does():
    first, second = keras.Input(models.SHAPE), keras.Input(models.SHAPE)
    with pytest.raises(ValueError, match=r"must take images.*In Python, `explain\(model, inputs\)` takes any"):
        model_input(keras.Model([first, second], keras.layers.Add()([first, second])))
    with pytest.raises(ValueError, match="A model must know its input"):
        model_input(keras.Sequential([keras.layers.Conv2D(2, 3)]))


def test_bad_images_are_all_named_before_any_is_explained(folder, tmp_path):
    (tmp_path / "bomb.png").write_bytes(declared_png(60000, 60000))
    (tmp_path / "text.jpg").write_text("no image")
    out = tmp_path / "out"
    arguments = ["explain", folder / "plain.keras", folder / "images", tmp_path / "bomb.png", tmp_path / "text.jpg"]
    result = run(*arguments, "--out", out)
    assert "Received: 2 of 5 that can't be read. --skip-bad does without them." in one_error(result)
    assert f"{tmp_path / 'bomb.png'}: too large" in result.stderr
    assert f"{tmp_path / 'text.jpg'}: no image of a known format" in result.stderr
    assert not out.exists()

    result = run(*arguments, "--out", out, "--skip-bad", "--json")
    assert result.exit_code == 0
    assert "2 of 5 images can't be read, and are left out" in result.stderr
    assert read_run(out).sample_keys == ("a", "b", "c")
    assert set(json.loads(result.stdout)["not_read"]) == {str(tmp_path / "bomb.png"), str(tmp_path / "text.jpg")}
    nothing = run("explain", folder / "plain.keras", tmp_path / "bomb.png", "--out", tmp_path / "none", "--skip-bad")
    assert "Received: 1 of 1 that can't be read." in one_error(nothing)


def test_a_lambda_layer_is_refused_unless_it_is_trusted(folder, tmp_path):
    message = one_error(run("layers", folder / "lambda.keras"))
    assert "which has a Lambda layer: a Python function that is stored in the file and would run here" in message
    assert "--unsafe loads it" in message
    assert "Lambda" in one_error(run("explain", folder / "lambda.keras", folder / "images", "--out", tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    result = run("layers", folder / "lambda.keras", "--unsafe", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["chosen"] == "conv2d" or json.loads(result.stdout)["chosen"].startswith("conv2d_")
    assert "Warning: --unsafe runs Python code" in result.stderr


def test_a_model_that_names_code_runs_none_of_it(folder, tmp_path):
    """A config can name any function by module and name; safe mode must not call it."""
    victim = tmp_path / "victim"
    victim.mkdir()
    with zipfile.ZipFile(folder / "plain.keras") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(parts["config.json"])
    config["config"]["layers"][1] = {
        "module": "shutil",
        "class_name": "rmtree",
        "config": {"path": str(victim)},
        "registered_name": "rmtree",
    }
    parts["config.json"] = json.dumps(config).encode()
    hostile = write_archive(tmp_path / "hostile.keras", parts)
    one_error(run("layers", hostile))
    assert victim.is_dir()


def write_archive(path, parts, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    return path


def test_damaged_models_are_one_message(folder, tmp_path):
    data = (folder / "plain.keras").read_bytes()
    with zipfile.ZipFile(folder / "plain.keras") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    whole = dict(parts)
    cases = {
        "which is none (File is not a zip file)": data[: len(data) // 2],
        "which is none (\"There is no item named 'config.json'": {k: v for k, v in whole.items() if k != "config.json"},
        "with a config of Expecting value": whole | {"config.json": b"nonsense"},
        "which Keras can't load": whole | {"model.weights.h5": whole["model.weights.h5"][:300]},
        "would unpack to 300 MiB": whole | {"model.weights.h5": bytes(300 * 2**20)},
        "maximum recursion depth exceeded": whole | {"config.json": b"[" * 200_000},
    }
    for i, (said, content) in enumerate(cases.items()):
        file = tmp_path / f"{i}.keras"
        if isinstance(content, bytes):
            file.write_bytes(content)
        else:
            write_archive(file, content, zipfile.ZIP_DEFLATED)
        assert said in one_error(run("layers", file)), said
    (tmp_path / "model.h5").write_bytes(data)
    assert "Other formats may run code when they are loaded" in one_error(run("layers", tmp_path / "model.h5"))


def test_a_layer_of_a_class_of_ones_own_is_named(tmp_path):
    class Spline(keras.layers.Layer):
        def call(self, x):
            return x

    model = keras.Sequential([keras.Input(models.SHAPE), Spline(), keras.layers.Conv2D(2, 3)])
    save(model, tmp_path / "spline.keras")
    message = one_error(run("layers", tmp_path / "spline.keras"))
    assert "which needs 'Spline', a class or function of someone's own" in message


def test_a_model_whose_loss_is_unknown_is_loaded_without(folder, tmp_path):
    def ours(true, predicted):
        return keras.ops.mean(keras.ops.square(true - predicted))

    model = models.functional().model
    model.compile("adam", loss=ours)
    save(model, tmp_path / "ours.keras")
    result = run("layers", tmp_path / "ours.keras", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["chosen"] == "conv2"
    assert "is loaded without its loss and optimizer" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--method", "gradcm"], "Did you mean 'gradcam'"),
        (["--scale", "0-2"], "is not one of '0-255'"),
        (["--size", "big"], "is no size of 1 to 4096 px"),
        (["--size", "1x2x3"], "is no size of 1 to 4096 px"),
        (["--colormap", "rainbow2"], "is none of autumn"),
        (["--batch-size", "0"], "is not in the range"),
        (["--layout", "grid"], "is not one of 'overlay'"),
    ],
)
def test_impossible_settings_are_usage_errors(folder, tmp_path, arguments, said):
    result = run("explain", folder / "plain.keras", folder / "images", "--out", tmp_path / "out", *arguments)
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.split())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--layer", "conv9"], "These layers would do: 'conv1', 'conv2'"),
        (["--target", "true"], "needs class labels"),
        (["--target", "7"], "Class indices must lie between 0 and 2"),
        (["--size", "5x5"], "--size must be what the model takes. Received: 5x5"),
        (["--max-images", "2"], "At most 2 images are explained at once"),
        (["--class-names", "a"], "--class-names must be a file"),
    ],
)
def test_settings_that_do_not_fit_leave_nothing_behind(folder, tmp_path, arguments, said):
    result = run("explain", folder / "plain.keras", folder / "images", "--out", tmp_path / "deep/out", *arguments)
    assert said in one_error(result)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_something_is_left_alone(folder, tmp_path):
    (tmp_path / "mine.txt").touch()
    message = one_error(run("explain", folder / "plain.keras", folder / "images", "--out", tmp_path))
    assert f"which holds files. {tmp_path}-2 works." in message
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.slow
def test_ctrl_c_leaves_nothing_behind(folder, tmp_path, tmp_path_factory):
    """In a process of its own, while a slow method runs on so many images that it can't be done by then."""
    many = tmp_path_factory.mktemp("many")
    for i in range(100):
        shutil.copy(folder / "images/a.png", many / f"{i}.png")
    code = "from keras_cam_callbacks.cli import main; main(prog_name='keras-cam')"
    slow = [
        "explain",
        str(folder / "plain.keras"),
        str(many),
        "--method",
        "rise",
        "--batch-size",
        "1",
        "--out",
        "out",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code, *slow], cwd=tmp_path, env=environment, **pipes) as process:
        for line in process.stderr:
            if "pixel values" in line:
                break
        presses = 0
        while presses < 20:
            presses += 1
            time.sleep(0.1)
            process.send_signal(signal.SIGINT)
            try:
                out, errors = process.communicate(timeout=5)
                break
            except subprocess.TimeoutExpired:
                continue  # An interrupt that meets TensorFlow inside its C++ is dropped there: a person presses again.
        else:
            process.kill()
    assert process.returncode == 1
    assert errors.strip().endswith("Aborted!")
    assert presses > 1 or "Traceback" not in errors
    assert out == ""
    assert list(tmp_path.iterdir()) == []
