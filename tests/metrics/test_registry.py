"""The metrics' rows, and what docstrings say of them; the table of the site is made from them."""

import re

import numpy as np
import pytest

from keras_cam_callbacks import Explanation, HeatmapLogger, metrics
from keras_cam_callbacks.metrics import METRICS, QUESTIONS, REGISTRY, measured, worst


def test_the_callbacks_docstring_names_all_metrics_and_no_other():
    start, end = "of the map:", "Where there is nothing"
    listed = HeatmapLogger.__doc__.split(start)[1].split(end)[0]
    names = set(re.findall(r"`([a-z_]+)`", listed)) - {"regions", "faithfulness_freq", "first_"}
    assert names == {name for name in REGISTRY if not name.startswith("first_")}
    assert {f"first_{name}" for name in METRICS["last"]} == set(METRICS["first"])


def test_the_explanations_docstring_names_what_it_measures():
    names = set(re.findall(r'"([a-z_]+)"', Explanation.metrics.__doc__.split("Returns:")[1].split("Example:")[0]))
    assert names == {*METRICS["map"], *METRICS["regions"]} - {"degenerate"}


def test_every_row_is_whole():
    for name, row in REGISTRY.items():
        assert row.name == name
        assert row.group in QUESTIONS
        assert row.about
        assert row.about[-1] != "."
        low, high = row.limits
        assert low < high
        assert row.function is not None or name in ("confidence", "degenerate")
        assert not row.of or REGISTRY[row.of].group == row.group
        # A number that may be missing has a worse infinity; one of the map alone is there, or is NaN.
        assert np.isnan(worst(name)) if row.group == "map" else worst(f"view_{name}") == -row.better * np.inf
    assert {name for name, row in REGISTRY.items() if row.judged} == {
        "degenerate", *METRICS["regions"], *METRICS["faithfulness"]
    }  # fmt: skip


def test_names_are_those_of_the_functions():
    for name, row in REGISTRY.items():
        if row.group in ("map", "first") or row.of:
            continue
        assert row.function is getattr(metrics, name)


@pytest.mark.parametrize("name", ["energy_ratio", "peak_outside"])
def test_a_number_that_is_computed_from_another_equals_its_function(name):
    rng = np.random.default_rng(0)
    maps, masks = rng.normal(size=(3, 5, 5)).astype(np.float32), rng.random((3, 20, 20)) > 0.7
    np.testing.assert_array_equal(measured(maps, [name], masks=masks)[name], getattr(metrics, name)(maps, masks))
    assert list(measured(maps, [name], masks=masks)) == [name]


def test_values_lie_within_the_limits():
    rng = np.random.default_rng(0)
    maps, last, first = rng.normal(size=(3, 8, 7, 9)).astype(np.float32)
    masks = rng.random((8, 20, 20)) > 0.7
    classes = rng.integers(0, 2, (3, 8))
    by_name = measured(
        maps, REGISTRY, last=last, first=first, masks=masks,
        targets=classes[0], last_targets=classes[1], first_targets=classes[2],
    )  # fmt: skip
    for name, values in by_name.items():
        low, high = REGISTRY[name].limits
        known = values[np.isfinite(values)]
        assert len(known), name
        assert ((known >= low) & (known <= high)).all(), name
