"""Vision transformers: what heatmaps of their tokens cost, and how much of the heat is on the object.

The cost is that of an epoch end's heatmaps, 16 images at 224 x 224, as a ratio to one bare forward pass, next to which
it runs in turn (see epoch_end.py); of a ViT-B/16 with weights that are not trained. Where the heat is, is measured on
small transformers that are trained here: scikit-learn's digits on a noisy canvas, whose boxes are known.

    python benchmarks/tokens.py --rounds 3 --epochs 12 --out benchmarks/tokens.md

`--only cost` or `--only heat` measures one of the two.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Before TensorFlow is loaded.

import argparse
import warnings
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
from measuring import BARE, Case, cell, in_turn, machine, milliseconds, spread, table, write
from sklearn.datasets import load_digits
from subjects import SAMPLES, bare_pass, photographs

from keras_cam_callbacks import Explainer, Tokens, explain
from keras_cam_callbacks.data.batches import make_batch
from keras_cam_callbacks.metrics import METRICS, measured

OF_LAYERS = ("gradcam", "hirescam", "layercam")
OF_ATTENTION = ("attention_rollout", "attention_relevance")
METHODS = (*OF_LAYERS, *OF_ATTENTION)
LAST = "last_tokens"
SIDE, DIGIT, PATCH = 48, 16, 8  # px, of the images of digits
WIDTH, BLOCKS = 48, 2  # of the transformers that are trained
LAYERS = {
    "norm_0": "The norm before the first self-attention",
    f"norm_{BLOCKS - 1}": "The norm before the last self-attention, which is the default",
    LAST: "The norm before the read-out",
}


class Scenes(NamedTuple):
    """Digits on a canvas: images (N, 48, 48, 3) in [0, 1], labels (N,), and boxes (N, 4)."""

    images: Any
    labels: Any
    boxes: Any


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


def transformer(side: int, patch: int, width: int, blocks: int, heads: int, classes: int, token: bool = True) -> Any:
    """A vision transformer as in 2010.11929, whose score is read from a class token or from all tokens' mean."""
    layers = keras.layers
    inputs = keras.Input((side, side, 3))
    x = layers.Conv2D(width, patch, patch, name="patches")(inputs)
    x = layers.Reshape(((side // patch) ** 2, width))(x)
    x = Positions()(ClassToken()(x) if token else x)
    for block in range(blocks):
        y = layers.LayerNormalization(epsilon=1e-6, name=f"norm_{block}")(x)
        x = layers.Add()([x, layers.MultiHeadAttention(heads, width // heads)(y, y)])
        y = layers.LayerNormalization(epsilon=1e-6)(x)
        y = layers.Dense(width)(layers.Dense(4 * width, activation="gelu")(y))
        x = layers.Add()([x, y])
    x = layers.LayerNormalization(epsilon=1e-6, name=LAST)(x)
    x = x[:, 0] if token else layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, layers.Dense(classes)(x), name="vit")


def costs(model: Any, rounds: int, count: int) -> list[list[str]]:
    """Returns rows of what methods cost on the model for a number of images, and the bare pass."""
    images = photographs(model.input_shape[1:])[:count]
    batch = make_batch(images, model)
    settings = {"output_kind": "classes", "keeps": True}
    cases: dict[str, Case] = {BARE: bare_pass(model, images)}
    names = ("gradcam", *OF_ATTENTION)  # Other methods of a layer take the same pass as Grad-CAM.
    for name in names:
        cases[name] = partial(Explainer(model, batch, method=name, **settings).views, batch)
    times = in_turn(cases, rounds)
    rows = [[f"`{name}`", cell(times, name)] for name in names]
    return [*rows, [f"{BARE} of {len(images)}, {milliseconds(times, BARE)} ms", f"quartiles {spread(times)}"]]


def make_scenes(count: int) -> tuple[Scenes, Scenes]:
    """Returns scenes to train on, and at most 400 others, of digits that are in none of those."""
    digits, rng = load_digits(), np.random.default_rng(0)
    order = rng.permutation(len(digits.target))

    def scenes(rows: Any, count: int) -> Scenes:
        rows = rng.choice(rows, count)
        images = rng.uniform(0, 0.25, (count, SIDE, SIDE, 1)).astype(np.float32)
        left, top = PATCH * rng.integers(0, (SIDE - DIGIT) // PATCH + 1, (2, count))
        for image, row, x, y in zip(images, rows, left, top, strict=True):
            image[y : y + DIGIT, x : x + DIGIT, 0] += 0.75 * np.kron(digits.images[row] / 16, np.ones((2, 2)))
        boxes = np.stack([left, top, left + DIGIT, top + DIGIT], axis=1)
        return Scenes(np.repeat(images, 3, axis=3), digits.target[rows], boxes)

    return scenes(order[400:], count), scenes(order[:400], min(400, count))


def trained(token: bool, scenes: int, epochs: int) -> tuple[Any, Scenes, float]:
    """Trains a small transformer; returns it, what it is validated on, and its accuracy there."""
    keras.utils.set_random_seed(0)
    train, validation = make_scenes(scenes)
    model = transformer(SIDE, PATCH, WIDTH, BLOCKS, 4, 10, token=token)
    steps = epochs * -(-scenes // 32)
    rate = keras.optimizers.schedules.CosineDecay(0.0, steps, warmup_target=3e-3, warmup_steps=max(1, steps // 10))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.AdamW(rate, weight_decay=0.01), loss, metrics=["accuracy"], jit_compile=False)
    model.fit(train.images, train.labels, batch_size=32, epochs=epochs, verbose=0)
    accuracy = model.evaluate(validation.images, validation.labels, verbose=0)[1]
    return model, validation, float(accuracy)


Heat = tuple[float, float, int]


def quality(model: Any, scenes: Scenes) -> dict[tuple[str, str], Heat]:
    """Returns the share of the positive heat on the digit, of peaks on it, and the number of empty maps.

    Args:
        model: The model.
        scenes: What is explained, by the true class.

    Returns:
        By layer and method; methods of attention stand under "".
    """
    data, settings = (scenes.images, scenes.labels), {"target": "true", "regions": [tuple(box) for box in scenes.boxes]}
    cells, count = (SIDE // PATCH,) * 2, model.get_layer("norm_0").output.shape[1]
    tokens = Tokens(cells, special=list(range(count - cells[0] * cells[1])))
    results = {}
    with warnings.catch_warnings():
        # Positions that don't answer to places, maps that are empty: that is what is counted here.
        warnings.simplefilter("ignore", RuntimeWarning)
        for layer in ("", *LAYERS):
            methods = list(OF_LAYERS if layer else OF_ATTENTION)
            views = explain(model, data, layer or None, method=methods, tokens=tokens, **settings)
            for name, view in views.items():
                numbers = measured(view.heatmaps, METRICS["regions"], masks=view.masks())
                energy, pointing = (mean(numbers[key]) for key in ("energy_in_region", "pointing"))
                results[layer, name] = energy, pointing, int(view.degenerate.sum())
    return results


def mean(values: Any) -> float:
    """Returns the mean of those that are no NaN; NaN where none is."""
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else float("nan")


def heat(scenes: int, epochs: int) -> list[str]:
    """Returns the parts of the text on where the heat is."""
    words, columns = [], []
    for token in (True, False):
        model, validation, accuracy = trained(token, scenes, epochs)
        columns.append(quality(model, validation))
        words.append(f"{'class token' if token else 'mean of all tokens'}: accuracy {accuracy:.2f}")
    parts = [
        "## Where the heat is",
        f"Transformers of {BLOCKS} blocks, {WIDTH} wide, on {SIDE} x {SIDE} px in patches of {PATCH}, trained for "
        f"{epochs} epochs on {scenes} scenes ({'; '.join(words)}); {len(validation.labels)} others are explained by "
        f"their true class. Share of the positive heat in the digit's box, which covers {DIGIT**2 / SIDE**2:.2f} of "
        "the image / share of the peaks there / maps without positive heat.",
    ]
    for layer, title in {"": "Attention through all blocks", **LAYERS}.items():
        rows = [
            [f"`{name}`", *(_cell(column[layer, name]) for column in columns)]
            for name in (OF_LAYERS if layer else OF_ATTENTION)
        ]
        parts += [f"## {title}", table(["method", "read from a class token", "read from the mean"], rows)]
    return parts


def _cell(numbers: Heat) -> str:
    energy, pointing, empty = numbers
    return f"– / – / {empty}" if np.isnan(energy) else f"{energy:.2f} / {pointing:.2f} / {empty}"


def cost(blocks: int, rounds: int, count: int) -> list[str]:
    """Returns the parts of the text on the cost."""
    model = transformer(224, 16, 768, blocks, 12, 1000)
    return [
        "## What it costs",
        f"ViT-B/16 of {blocks} blocks, {count} images at 224 x 224, {machine(keras.backend.backend(), 'keras')}, "
        f"medians of {rounds} rounds. The cost is wall / CPU time as a ratio to one bare compiled forward pass of the "
        "same batch.",
        table(["method", "cost in forward passes"], costs(model, rounds, count)),
    ]


def main(arguments: list[str] | None = None) -> None:
    """Measures, prints and writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--scenes", type=int, default=1500)
    parser.add_argument("--blocks", type=int, default=12, help="of the transformer whose cost is measured")
    parser.add_argument("--images", type=int, default=SAMPLES, help="explained at once where the cost is measured")
    parser.add_argument("--only", choices=["heat", "cost"], help="what is measured, instead of both")
    parser.add_argument("--out", type=Path, help="file for the results, Markdown")
    options = parser.parse_args(arguments)
    parts = ["# Heatmaps of vision transformers"]
    if options.only != "cost":
        parts += heat(options.scenes, options.epochs)
    if options.only != "heat":
        parts += cost(options.blocks, options.rounds, options.images)
    write("\n\n".join(parts), options.out)


if __name__ == "__main__":
    main()
