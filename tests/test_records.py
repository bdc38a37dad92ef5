from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sample_records import make_config, make_record

from keras_cam_callbacks import read_run
from keras_cam_callbacks.records import brief, class_name, short_repr
from keras_cam_callbacks.store import RunWriter


@pytest.mark.parametrize(
    ("names", "index", "name"),
    [
        (("cat", "dog"), 1, "dog"),
        (["cat", "dog"], 0, "cat"),
        (("cat", "dog"), 2, "2"),
        (("cat", "dog"), -1, "-1"),  # no class, and not the last one
        ((), 0, "0"),
        (None, 3, "3"),
    ],
)
def test_class_name(names, index, name):
    assert class_name(names, index) == name


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3, "3"),
        ("ab", "'ab'"),
        (None, "None"),
        (Path("/runs/1"), repr(Path("/runs/1"))),
        ("x" * 80, "'" + "x" * 56 + "..."),
        (np.zeros((2, 3), np.float32), "float32 (2, 3)"),
        (np.float64(2.5), repr(np.float64(2.5))),
        ((), "()"),
        ([1, 2, 3], "[1, 2, 3]"),
        (("a", "b", "c", "d", "e"), "('a', 'b', 'c', 2 more)"),
        ((np.zeros(2),), "(float64 (2,))"),
        ({"a": 1}, "{'a': 1}"),
        (OrderedDict.fromkeys("abcd", 1), "{'a': 1, 'b': 1, 'c': 1, 1 more}"),
        ([np.zeros((8, 8, 3), np.uint8)] * 9, "[uint8 (8, 8, 3), uint8 (8, 8, 3), uint8 (8, 8, 3), 6 more]"),
        ([np.zeros((24, 32, 3), np.uint8)] * 9, "9 items"),
        ({"x" * 70: 1}, "1 items"),
    ],
)
def test_brief(value, text):
    assert brief(value) == text
    assert len(text) <= 60


@dataclass
class Record:
    name: str
    array: Any
    nothing: Any = None
    empty: dict = field(default_factory=dict)

    __repr__ = short_repr


def test_short_repr_leaves_out_what_is_empty():
    assert repr(Record("a", np.arange(6))) == "Record(name='a', array=int64 (6,))"
    assert repr(Record("a", [], 0, {"b": 1})) == "Record(name='a', nothing=0, empty={'b': 1})"


def test_records_print_no_arrays(tmp_path):
    config, record = make_config(tmp_path, 16), make_record(0, 16)
    RunWriter(config).write(record)
    run = read_run(tmp_path)
    for one in (config, record, run, run.epochs[0]):
        assert repr(one).startswith(f"{type(one).__name__}(")
        assert len(repr(one)) < 900
        assert "\n" not in repr(one)
    assert "heatmaps=float32 (16, 4, 5), overlays=" in repr(record)
