"""A framework that Keras doesn't run on is never imported, whether it is installed or not."""

import importlib.util
import json
import os

import keras
import pytest
from command import ROOT, run_python

BACKEND = keras.backend.backend()
HAS_JAX = importlib.util.find_spec("jax") is not None  # Without it Keras' backend of NumPy can't be imported.
OTHERS = sorted({"tensorflow", "jax", "torch"} - {BACKEND})

NET = """
import keras, numpy as np
x, y = np.random.default_rng(0).random((4, 16, 16, 3), np.float32), np.arange(4) % 3
model = keras.Sequential([
    keras.Input((16, 16, 3)), keras.layers.Conv2D(4, 3, activation="relu"),
    keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(3, activation="softmax"),
])
model.compile("sgd", "sparse_categorical_crossentropy")
"""

FIT = f"""
{NET}
from keras_cam_callbacks import GradCAMLogger
logger = GradCAMLogger((x, y), tracker=TRACKER, value_range=(0, 1), regions=[(2, 2, 9, 9)] * 4, on_error="raise")
model.fit(x, y, epochs=2, verbose=0, callbacks=[logger])
assert [type(tracker).__name__ for tracker in logger.trackers] == NAMES
"""

# What users do with a tracker of theirs before and after a fit.
AROUND = {
    "disk": ("", "", ["DiskTracker"]),
    "memory": ("", "", ["MemoryTracker"]),
    "tensorboard": ("", "", ["TensorBoardTracker", "DiskTracker"]),
    "wandb": ("import wandb; wandb.init(project='p')", "wandb.finish()", ["WandbTracker"]),
    "mlflow": ("import mlflow; mlflow.start_run()", "mlflow.end_run()", ["MLflowTracker"]),
    "trackio": ("import trackio; trackio.init(project='p')", "trackio.finish()", ["TrackioTracker"]),
}


def asked_for(code, folder, **environment):
    """Runs code; returns which other frameworks were asked for, and by whom."""
    whole = f"import asking, json\n{code}\nprint(json.dumps(asking.of_others({BACKEND!r})))"
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    done = run_python(f"import os; os.chdir({str(folder)!r})\n{whole}", PYTHONPATH=path, **environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("other", OTHERS)
def test_who_asks_is_noted(other, tmp_path):
    (tmp_path / "asker.py").write_text(
        f"try:\n    import {other}.nn\nexcept ImportError:\n    pass\n", encoding="utf-8"
    )
    code = f"import importlib.util, sys; importlib.util.find_spec({other!r})\nsys.path.insert(0, '.'); import asker"
    assert asked_for(code, tmp_path) == [[other, "asker"]]


def test_all_public_names(tmp_path):
    code = "import keras_cam_callbacks as package\nfor name in package.__all__: getattr(package, name)"
    assert asked_for(code, tmp_path) == []


def test_explaining(tmp_path):
    code = f"""{NET}
from keras_cam_callbacks import activation_grids, explain, filter_patterns, sanity_check
explanations = explain(model, (x, y), method=["gradcam", "saliency"], target="both", value_range=(0, 1))
explanations.grid()
for explanation in explanations.values():
    explanation.metrics()
activation_grids(model, x)
filter_patterns(model, "conv2d", 2, steps=2, size=(16, 16))
sanity_check(model, x, steps=1)
"""
    assert asked_for(code, tmp_path) == []


@pytest.mark.parametrize("tracker", AROUND)
def test_a_fit_with_a_tracker(tracker, tmp_path):
    before, after, names = AROUND[tracker]
    settings = f"TRACKER, NAMES = {tracker!r}, {names!r}"
    assert asked_for(f"{before}\n{settings}\n{FIT}\n{after}", tmp_path) == []


def test_commands(tmp_path):
    code = f"""{NET}
import cv2
from keras_cam_callbacks import GradCAMLogger
from keras_cam_callbacks.cli import main
model.save("model.keras")
for name in "ab":
    cv2.imwrite(f"{{name}}.png", (255 * x[0]).astype(np.uint8))
    logger = GradCAMLogger((x, y), tracker="disk", log_dir=f"logs/{{name}}", value_range=(0, 1))
    model.fit(x, y, epochs=2, verbose=0, callbacks=[logger])
for command in (
    ["explain", "model.keras", "a.png", "b.png", "--scale", "0-1"], ["layers", "model.keras"], ["runs", "logs"],
    ["report", "logs/a/gradcam", "--out", "a.html"], ["compare", "logs/a/gradcam", "logs/b/gradcam"],
    ["timelapse", "logs/a/gradcam", "--out", "a.gif"],
):
    main(command, standalone_mode=False)
"""
    assert asked_for(code, tmp_path) == []


def test_another_backend_is_refused_before_data_are_read():
    code = f"""
import keras
{"" if HAS_JAX else "keras.backend.backend = lambda: 'numpy'"}
{NET.partition("model.compile")[0]}
import keras_cam_callbacks as package
class Data(keras.utils.PyDataset):
    def __getitem__(self, index):
        raise AssertionError("read")
data = Data()
for call in (
    lambda: package.explain(model, data),
    lambda: package.Explainer(model, data),
    lambda: package.sanity_check(model, data),
    lambda: package.activation_grids(model, data),
    lambda: package.filter_patterns(model, "conv2d"),
    lambda: package.HeatmapLogger(data),
    lambda: package.ActivationLogger(data),
    lambda: package.FilterLogger("conv2d"),
):
    try:
        call()
    except ValueError as error:
        print(error)
"""
    done = run_python(code, KERAS_BACKEND="numpy" if HAS_JAX else BACKEND)
    assert done.returncode == 0, done.stderr
    assert (
        done.stdout.splitlines()
        == [
            "Heatmaps need Keras on one of these backends: tensorflow, jax, torch. Received: 'numpy'. "
            "Set the environment variable KERAS_BACKEND to one of them before Keras is imported."
        ]
        * 8
    )


# Where what Keras needs for it isn't installed, Keras itself can't be imported.
@pytest.mark.parametrize("backend", ["numpy", "openvino"])
@pytest.mark.parametrize("command", [["explain", "model.keras", "a.png"], ["demo"]])
def test_a_command_on_another_backend_is_refused(command, backend, tmp_path):
    for name in ("a.png", "model.keras"):
        (tmp_path / name).touch()
    code = f"import os; os.chdir({str(tmp_path)!r})\nfrom keras_cam_callbacks.cli import main; main({command!r})"
    done = run_python(code, KERAS_BACKEND=backend)
    assert done.returncode == 1
    said = done.stderr.splitlines()[-1]
    assert said.startswith(("Error: Heatmaps need Keras on one of these backends: ", "Error: Keras can't be loaded: "))
    assert all(name in said.partition(": ")[2] for name in ("tensorflow", "jax", "torch"))
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size]
