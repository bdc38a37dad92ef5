"""Which functions of outputs may be handed logits: those that only pick a number, or a difference of two."""

import numpy as np
import pytest
from keras import ops

from keras_cam_callbacks.passes.picking import only_picks, reads

OUTPUTS = {
    "kind": np.zeros((2, 3), np.float32),
    "open": np.zeros((2, 1), np.float32),
    "mask": np.zeros((2, 40, 50, 3), np.float32),
}
PICKS = {
    "an index": lambda o: o["kind"][:, 1],
    "the last": lambda o: o["kind"][:, -1],
    "its negative": lambda o: -o["kind"][:, 1],
    "the only one": lambda o: o["open"],
    "a pixel": lambda o: o["mask"][:, 5, 7, 1],
    "a difference": lambda o: o["kind"][:, 2] - o["kind"][:, 0],
    "the largest": lambda o: ops.max(o["kind"], axis=1),
    "of pixels": lambda o: o["mask"][:, 5, 7, 1] - o["mask"][:, 30, 2, 0],
    "by a weight": lambda o: ops.sum(ops.multiply(o["kind"], np.array([0.0, 1, 0], np.float32)), axis=1),
}
OTHERS = {
    "an expectation": lambda o: ops.sum(o["kind"] * np.array([10.0, 40, 70], np.float32), axis=1),
    "a threshold": lambda o: ops.where(o["kind"][:, 1] > 0.5, o["kind"][:, 1], o["kind"][:, 0]),
    "a high threshold": lambda o: ops.where(o["kind"][:, 1] > 0.99, o["kind"][:, 1], o["kind"][:, 0]),
    "a gate of another": lambda o: ops.where(o["open"][:, 0] > 0.5, o["kind"][:, 1], -o["kind"][:, 1]),
    "a product": lambda o: o["kind"][:, 1] * o["open"][:, 0],
    "the complement": lambda o: 1 - o["kind"][:, 1],
    "twice": lambda o: 2 * o["kind"][:, 1],
    "a sum": lambda o: o["kind"][:, 0] + o["kind"][:, 1],
    "of two outputs": lambda o: o["kind"][:, 0] - o["open"][:, 0],
    "the smallest": lambda o: ops.min(o["kind"], axis=1),
    "the largest of two outputs": lambda o: ops.maximum(ops.max(o["kind"], axis=1), o["open"][:, 0]),
    "the largest pixel": lambda o: ops.max(o["mask"], axis=(1, 2, 3)),
    "the margin": lambda o: ops.top_k(o["kind"], 2)[0][:, 0] - ops.top_k(o["kind"], 2)[0][:, 1],
    "a mean": lambda o: ops.mean(o["mask"][..., 1], axis=(1, 2)),
    "clipped": lambda o: ops.clip(o["kind"][:, 1], 0, 1),
    "a logarithm": lambda o: ops.log(o["kind"][:, 1]),
    "another for each sample": lambda o: o["kind"][:, 1] * np.ones(2, np.float32),
}


@pytest.mark.parametrize("rule", PICKS.values(), ids=PICKS)
def test_what_picks(rule):
    assert only_picks(rule, OUTPUTS)


@pytest.mark.parametrize("rule", OTHERS.values(), ids=OTHERS)
def test_what_does_more(rule):
    assert not only_picks(rule, OUTPUTS)


def test_what_is_read():
    replaced = [True, False, False]  # kind, mask, open
    assert reads(OTHERS["a product"], OUTPUTS, replaced)
    assert not reads(lambda o: 2 * o["open"][:, 0], OUTPUTS, replaced)
    assert reads(lambda o: 1 / 0, OUTPUTS, replaced)
