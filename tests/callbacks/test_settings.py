"""What a type checker and an editor know of the settings of the loggers of one method."""

import inspect
import re
from pathlib import Path

import jedi
import pytest

from keras_cam_callbacks import CAMLogger, GradCAMLogger, HeatmapLogger
from keras_cam_callbacks.callbacks.settings import HeatmapSettings

ROOT = Path(__file__).parents[2]

CALLS = """
from keras_cam_callbacks import CAMLogger, GradCAMLogger

GradCAMLogger(1, "conv", class_names=["a"], freq=2, prefix=None)
CAMLogger(1, faithfulness_freq=2)
{call}
"""


def test_the_settings_are_those_of_heatmap_logger():
    parameters = inspect.signature(HeatmapLogger).parameters.values()
    by_keyword = {p.name: p.annotation for p in parameters if p.kind == p.KEYWORD_ONLY and p.name != "method"}
    assert {name: kind.__forward_arg__ for name, kind in HeatmapSettings.__annotations__.items()} == by_keyword


@pytest.mark.parametrize("logger", [GradCAMLogger, CAMLogger])
def test_names_are_completed_in_a_notebook(logger):
    source = f"{logger.__name__}(x, faith"
    completed = jedi.Interpreter(source, [{logger.__name__: logger, "x": 1}]).complete()
    assert [completion.name for completion in completed] == ["faithfulness_freq="]


@pytest.mark.slow
def test_a_type_checker_refuses_wrong_names_and_types(tmp_path):
    checker = pytest.importorskip("mypy.api", reason="one environment that it is installed in is enough")
    calls = {
        "GradCAMLogger(1, faithfulness_frequency=2)": 'keyword argument "faithfulness_frequency" for "GradCAMLogger"',
        'CAMLogger(1, freq="2")': 'Argument "freq" to "CAMLogger" has incompatible type "str"; expected "int | Steps"',
        'GradCAMLogger(1, method="cam")': 'Unexpected keyword argument "method" for "GradCAMLogger"',
    }
    (tmp_path / "calls.py").write_text(CALLS.format(call="\n".join(calls)))

    options = ["--strict", "--python-version=3.10", "--follow-imports=silent", f"--config-file={ROOT / 'setup.cfg'}"]
    told, failure, _ = checker.run([*options, f"--cache-dir={ROOT / '.mypy_cache'}", str(tmp_path / "calls.py")])

    assert failure == ""
    errors = re.findall(r"calls\.py:(\d+): error: (.*)", told)
    assert [int(line) for line, _ in errors] == [6, 7, 8], told
    assert all(text in error for text, (_, error) in zip(calls.values(), errors, strict=True)), told
