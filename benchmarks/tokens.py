"""Vision transformers: what heatmaps of their tokens cost, and how much of the heat is on the object.

The cost is that of an epoch end's heatmaps, 16 images at 224 x 224, as a ratio to one bare forward pass, next to which
it runs in turn (see epoch_end.py); of a ViT-B/16 with weights that are not trained. Where the heat is, is measured on
small transformers that are trained here: scikit-learn's digits on photographs, whose boxes are known.

    python benchmarks/tokens.py --rounds 3 --epochs 30 --out benchmarks/tokens.md
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Before TensorFlow is loaded.

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
from measuring import BARE, Case, cell, in_turn, machine, milliseconds, spread, table, write
from subjects import SAMPLES, bare_pass, photographs

from keras_cam_callbacks import Explainer, explain
from keras_cam_callbacks.data.batches import make_batch
from keras_cam_callbacks.demo.data import make_scenes
from keras_cam_callbacks.metrics import METRICS, measured

METHODS = ("gradcam", "hirescam", "layercam", "attention_rollout", "attention_relevance")


class ClassToken(keras.layers.Layer):
    """Puts a token that is learned before the others."""

    def build(self, shape: Any) -> None:
        """Makes the token."""
        self.token = self.add_weight(shape=(1, 1, shape[-1]), initializer="random_normal", name="token")

    def call(self, x: Any) -> Any:
        """Returns (N, 1 + T, C) of tokens (N, T, C)."""
        token = keras.ops.broadcast_to(self.token, (keras.ops.shape(x)[0], 1, x.shape[-1]))
        return keras.ops.concatenate([token, x], axis=1)


class Positions(keras.layers.Layer):
    """Adds a vector that is learned to each token."""

    def build(self, shape: Any) -> None:
        """Makes the vectors."""
        self.positions = self.add_weight(shape=(1, *shape[1:]), initializer="random_normal", name="positions")

    def call(self, x: Any) -> Any:
        """Returns tokens (N, T, C) with their vectors."""
        return x + self.positions


def transformer(
    side: int, patch: int, width: int, blocks: int, heads: int, classes: int, token: bool = True, dropout: float = 0.0
) -> Any:
    """A vision transformer as in 2010.11929, whose score is read from a class token or from all tokens' mean."""
    layers = keras.layers
    inputs = keras.Input((side, side, 3))
    x = layers.Conv2D(width, patch, patch, name="patches")(inputs)
    x = layers.Reshape(((side // patch) ** 2, width))(x)
    x = Positions()(ClassToken()(x) if token else x)
    for block in range(blocks):
        y = layers.LayerNormalization(epsilon=1e-6, name=f"norm_{block}")(x)
        x = layers.Add()([x, layers.MultiHeadAttention(heads, width // heads, dropout=dropout)(y, y)])
        y = layers.LayerNormalization(epsilon=1e-6)(x)
        y = layers.Dense(width)(layers.Dropout(dropout)(layers.Dense(4 * width, activation="gelu")(y)))
        x = layers.Add()([x, y])
    x = layers.LayerNormalization(epsilon=1e-6)(x)
    x = x[:, 0] if token else layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, layers.Dense(classes)(x), name="vit")


def costs(model: Any, rounds: int) -> list[list[str]]:
    """Returns rows of what each method costs on the model, and the bare pass."""
    images = photographs(model.input_shape[1:])
    batch = make_batch(images, model)
    settings = {"output_kind": "classes", "keeps": True}
    cases: dict[str, Case] = {BARE: bare_pass(model, images)}
    for name in METHODS:
        cases[name] = partial(Explainer(model, batch, method=name, **settings).views, batch)
    times = in_turn(cases, rounds)
    rows = [[f"`{name}`", cell(times, name)] for name in METHODS]
    return [*rows, [f"{BARE} of {len(images)}, {milliseconds(times, BARE)} ms", f"quartiles {spread(times)}"]]


def trained(token: bool, scenes: int, epochs: int) -> tuple[Any, Any, float]:
    """Trains a small transformer; returns it, what it is validated on, and its accuracy there."""
    keras.utils.set_random_seed(0)
    train, validation = make_scenes(scenes)
    model = transformer(96, 8, 64, 4, 4, 10, token=token, dropout=0.1)
    steps = epochs * (scenes // 64)
    rate = keras.optimizers.schedules.CosineDecay(0.0, steps, warmup_target=1e-3, warmup_steps=steps // 10)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.AdamW(rate, weight_decay=0.05), loss, metrics=["accuracy"])
    model.fit(train.images / np.float32(255), train.labels, batch_size=64, epochs=epochs, verbose=0)
    accuracy = model.evaluate(validation.images / np.float32(255), validation.labels, verbose=0)[1]
    return model, validation, float(accuracy)


def quality(model: Any, scenes: Any) -> dict[str, tuple[float, float, int]]:
    """Returns for each method the share of the positive heat on the digit, of peaks on it, and empty maps.

    Args:
        model: The model.
        scenes: What is explained, by the true class.
    """
    images = scenes.images / np.float32(255)
    every = explain(
        model,
        (images, scenes.labels),
        method=list(METHODS),
        target="true",
        regions=[tuple(box) for box in scenes.boxes],
    )
    results = {}
    for name, view in every.items():
        numbers = measured(view.heatmaps, METRICS["regions"], masks=view.masks())
        energy, pointing = (float(np.nanmean(numbers[key])) for key in ("energy_in_region", "pointing"))
        results[name] = energy, pointing, int(view.degenerate.sum())
    return results


def main(arguments: list[str] | None = None) -> None:
    """Measures, prints and writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--scenes", type=int, default=4000)
    parser.add_argument("--blocks", type=int, default=12, help="of the transformer whose cost is measured")
    parser.add_argument("--out", type=Path, help="file for the results, Markdown")
    options = parser.parse_args(arguments)
    parts = ["# Heatmaps of vision transformers"]
    words, columns = [], []
    for token in (True, False):
        model, validation, accuracy = trained(token, options.scenes, options.epochs)
        columns.append(quality(model, validation))
        words.append(f"{'class token' if token else 'mean of all tokens'}: accuracy {accuracy:.2f}")
    share = float(np.mean([(right - left) * (bottom - top) for left, top, right, bottom in validation.boxes]) / 96**2)
    rows = [
        [f"`{name}`", *(f"{e:.2f} / {p:.2f} / {n}" for e, p, n in (column[name] for column in columns))]
        for name in METHODS
    ]
    parts += [
        "## Where the heat is",
        f"Transformers of 4 blocks on 96 x 96 px in patches of 8, trained for {options.epochs} epochs on "
        f"{options.scenes} scenes ({'; '.join(words)}); {len(validation)} others are explained by their true class, at "
        f"the default layer. Share of the positive heat in the digit's box, which covers {share:.2f} of the image / "
        "share of the peaks there / maps without positive heat.",
        table(["method", "read from a class token", "read from the mean"], rows),
    ]
    model = transformer(224, 16, 768, options.blocks, 12, 1000)
    parts += [
        "## What it costs",
        f"ViT-B/16 of {options.blocks} blocks, {SAMPLES} images at 224 x 224, {machine()}, medians of {options.rounds} "
        "rounds. The cost is wall / CPU time as a ratio to one bare compiled forward pass of the same batch.",
        table(["method", "cost in forward passes"], costs(model, options.rounds)),
    ]
    write("\n\n".join(parts), options.out)


if __name__ == "__main__":
    main()
