import ast
import inspect
from pathlib import Path

import pytest
from interpreter import fresh

import keras_cam_callbacks

FRAMEWORKS = ("keras", "tensorflow", "cv2", "wandb", "torch", "jax", "tensorboard")


# What users import. A name that goes breaks somebody's code: it keeps working, with a DeprecationWarning, until 1.0.
PUBLIC = {
    "AUGMENTATIONS",
    "AblationCAM",
    "ActivationGrids",
    "ActivationLogger",
    "Augmentation",
    "CAMLogger",
    "COLORMAPS",
    "Comparison",
    "Contrast",
    "DiskTracker",
    "EpochRecord",
    "Explainer",
    "Explanation",
    "Explanations",
    "FilterLogger",
    "FilterPatterns",
    "FullGrad",
    "FunctionTracker",
    "GradCAMLogger",
    "GuidedBackprop",
    "GuidedGradCAM",
    "HeatmapLogger",
    "InputXGradient",
    "IntegratedGradients",
    "METHODS",
    "MLflowTracker",
    "MaxActivation",
    "MemoryTracker",
    "Present",
    "Detection",
    "Segment",
    "Similarity",
    "Value",
    "Occlusion",
    "Overlay",
    "RISE",
    "Tokens",
    "RandomCAM",
    "Regions",
    "Run",
    "RunConfig",
    "Saliency",
    "Sample",
    "SanityCheck",
    "ScoreCAM",
    "SmoothGrad",
    "Steps",
    "TensorBoardTracker",
    "Tracker",
    "TrackioTracker",
    "WandbTracker",
    "activation_grids",
    "build_cam_model",
    "compare",
    "encode",
    "explain",
    "filter_patterns",
    "grid",
    "plot_methods",
    "read_run",
    "sanity_check",
    "show",
    "write_timelapse",
}


def test_the_public_names_are_those_that_are_promised():
    stub = Path(keras_cam_callbacks.__file__).with_suffix(".pyi").read_text(encoding="utf-8")
    written = [
        alias.asname for node in ast.parse(stub).body if isinstance(node, ast.ImportFrom) for alias in node.names
    ]
    assert sorted(written) == sorted(PUBLIC)  # Each once.
    assert keras_cam_callbacks.__all__ == sorted(PUBLIC)
    assert set(dir(keras_cam_callbacks)) >= PUBLIC


@pytest.mark.parametrize("name", keras_cam_callbacks.__all__)
def test_public_name_loads_and_is_documented(name):
    value = getattr(keras_cam_callbacks, name)
    if not (inspect.isclass(value) or inspect.isfunction(value)):
        assert name in ("AUGMENTATIONS", "COLORMAPS", "METHODS")
        return
    assert value.__module__.startswith("keras_cam_callbacks.")
    assert value.__doc__
    assert not value.__doc__.startswith(f"{name}(")  # What dataclasses write by themselves.
    if inspect.isclass(value):
        own = {key: member for key, member in vars(value).items() if not key.startswith("_")}
        functions = [key for key, member in own.items() if inspect.isfunction(member) or isinstance(member, property)]
        assert [key for key in functions if not inspect.getdoc(own[key])] == []


def test_unknown_name():
    with pytest.raises(AttributeError, match="no attribute 'GradCamLogger'"):
        keras_cam_callbacks.GradCamLogger  # noqa: B018 - the access is what is tested


def test_import_loads_no_framework():
    loaded = fresh(f"import keras_cam_callbacks, sys; print([m for m in {FRAMEWORKS} if m in sys.modules])")
    assert loaded == "[]"
    loaded = fresh(
        "from keras_cam_callbacks import RunConfig, read_run; import sys; "
        f"print([m for m in {FRAMEWORKS} if m in sys.modules])"
    )
    assert loaded == "[]"  # Reading runs needs none either.


def test_import_takes_under_a_fifth_of_a_second():
    code = "import time; start = time.perf_counter(); import keras_cam_callbacks; print(time.perf_counter() - start)"
    assert min(float(fresh(code)) for _ in range(5)) < 0.2


FILES = sorted(Path(keras_cam_callbacks.__file__).parent.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: "/".join(path.parts[-2:]))
def test_everything_public_in_a_module_is_documented(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kinds = ast.FunctionDef | ast.ClassDef
    overload = "overload"  # has no documentation of its own
    public = [
        node
        for node in tree.body
        if isinstance(node, kinds)
        and not node.name.startswith("_")
        and overload not in map(ast.unparse, node.decorator_list)
    ]
    classes = [node for node in public if isinstance(node, ast.ClassDef)]
    public += [node for c in classes for node in c.body if isinstance(node, kinds) and not node.name.startswith("_")]
    assert ast.get_docstring(tree)
    assert [node.name for node in public if not ast.get_docstring(node)] == []
