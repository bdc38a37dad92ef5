"""What every method must do: one raw map for each sample, which depends on nothing but that sample."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from ..methods import resolve_method
from ..records import Capture, Floats

COUNT = 3
CHANNELS = 5
# The sizes of a layer's maps by the number of their axes; the input is twice as large along each.
SIZES = {1: (6,), 2: (4, 6), 3: (2, 4, 3)}
ARRAYS = ("activations", "gradients", "kernel", "images", "scores")
OF_ATTENTION = ("attentions", "relevances", "readout", "positions")

Pairs = Iterable[tuple[Floats, int]]


class MethodContract:
    """Tests of one method; inherit it under a name that begins with Test, and write `make`.

    Most are made on arrays, with a score that is known in closed form; one on a small Keras model.

    Attributes:
        axes: For how many axes the method makes maps: 1 of signals, 2 of images, 3 of volumes and clips.
        in_a_model: Whether it explains a small convolutional net; methods of attention don't.

    Example:
        >>> class TestMyMethod(MethodContract):
        ...     def make(self):
        ...         return MyMethod(samples=10)
    """

    axes: tuple[int, ...] = (1, 2, 3)
    in_a_model: bool = True

    def make(self) -> Any:
        """Returns what a user gives as `method`: a function, an object or a name."""
        raise NotImplementedError("A subclass of MethodContract must have `make`, which returns a method.")

    def test_explain_takes_it(self) -> None:
        """It has a name for captions and records, and needs what there is."""
        from ..passes.probe import FUNCTIONS  # Which imports Keras.

        method = resolve_method(self.make())
        assert method.name.strip()
        assert "/" not in method.name, f"a name must be without '/', which separates parts of names: {method.name!r}"
        assert " at 0x" not in method.text, f"a record must not say where an object lies in memory: {method.text!r}"
        assert set(method.needs) <= {*ARRAYS, *OF_ATTENTION, *FUNCTIONS}, f"what it needs: {method.needs}"

    def test_one_map_for_each_sample(self) -> None:
        """With a finite number at each place, of signals, images and volumes as far as `axes` has them."""
        method = resolve_method(self.make())
        for axes in self.axes:
            capture = make_capture(axes)
            maps, _, numbers = method(capture, functions_of(capture))
            assert maps.dtype == np.float32
            assert maps.shape in {(COUNT, *SIZES[axes]), (COUNT, *_doubled(axes))}
            assert np.isfinite(maps).all()
            assert all(of_samples.shape == (COUNT,) for of_samples in numbers.values())
            assert np.ptp(maps) > 0, "maps of random numbers must not be constant"

    def test_the_same_each_time(self) -> None:
        """What is drawn at random is drawn from a seed of the method's own, and the user's is left alone."""
        state = np.random.get_state()[1].copy()  # type: ignore[index]  # noqa: NPY002 - what users' code has
        capture = make_capture(self.axes[0])
        first, second = (resolve_method(self.make())(capture, functions_of(capture))[0] for _ in range(2))
        np.testing.assert_array_equal(first, second)
        np.testing.assert_array_equal(np.random.get_state()[1], state)  # type: ignore[index]  # noqa: NPY002

    def test_a_map_depends_on_its_own_sample_alone(self) -> None:
        """Samples run in lots, whose sizes are nobody's business."""
        method, capture = resolve_method(self.make()), make_capture(self.axes[0])
        together = method(capture, functions_of(capture))[0]
        for row in range(COUNT):
            alone = part_of(capture, row)
            np.testing.assert_allclose(
                method(alone, functions_of(alone))[0][0], together[row], rtol=1e-3, atol=1e-4 * np.ptp(together[row])
            )

    def test_nothing_to_see_gives_a_constant_map_or_nan(self) -> None:
        """Where all is 0 no place may stand out, and nothing fails."""
        method, capture = resolve_method(self.make()), make_capture(self.axes[0], scale=0)
        maps = method(capture, functions_of(capture))[0]
        flat = maps.reshape(COUNT, -1)
        assert (np.isnan(flat).all(axis=1) | (np.ptp(flat, axis=1) <= 1e-6)).all()

    def test_numbers_that_are_not_finite_are_not_hidden(self) -> None:
        """NaN in a sample is NaN in its map; those of the others stay."""
        method, capture = resolve_method(self.make()), make_capture(self.axes[0])
        whole = method(capture, functions_of(capture))[0]
        for name in (*ARRAYS, *OF_ATTENTION[:-1]):
            array = getattr(capture, name).copy()
            array[-1] = np.nan
            array.flags.writeable = False
            object.__setattr__(capture, name, array)
        maps = method(capture, functions_of(capture))[0]
        assert np.isnan(maps[-1]).any()
        np.testing.assert_allclose(maps[:-1], whole[:-1], rtol=1e-3, atol=1e-4 * float(np.ptp(whole)))

    def test_in_a_model(self) -> None:
        """Of a small net, in lots of any size, on the backend that Keras has."""
        if not self.in_a_model:
            return
        import keras

        from ..explaining.explain import explain

        random = np.random.default_rng(0)
        layers = keras.layers
        model = keras.Sequential(
            [
                keras.Input((8, 12, 3)),
                layers.Conv2D(4, 3, activation="relu"),
                layers.GlobalAveragePooling2D(),
                layers.Dense(3, activation="softmax"),
            ]
        )
        model.set_weights([random.normal(size=np.shape(weight)) for weight in model.get_weights()])
        images = random.random((COUNT, 8, 12, 3), np.float32)
        explanation = explain(model, images, method=self.make(), target=[2, 0, 1], output_kind="classes", batch_size=2)
        assert len(explanation.heatmaps) == COUNT
        assert np.isfinite(explanation.heatmaps).all()


def make_capture(axes: int, scale: float = 1) -> Capture:
    """Returns random numbers in all arrays that a method may need, none of which can be written to.

    Args:
        axes: How many axes the input has, and so the maps.
        scale: What activations, gradients, kernel, images and relevances are multiplied by.
    """
    random = np.random.default_rng(axes)
    size, tokens = SIZES[axes], int(np.prod(SIZES[axes]))

    def normal(*shape: int) -> Floats:
        return (scale * random.normal(size=shape)).astype(np.float32)

    def shares(*shape: int) -> Floats:
        drawn = random.random(shape) if scale else np.ones(shape)
        of_all: Floats = (drawn / drawn.sum(axis=-1, keepdims=True)).astype(np.float32)
        return of_all

    images = (scale * random.random((COUNT, *_doubled(axes), 2))).astype(np.float32)
    arrays: dict[str, Any] = {
        "activations": normal(COUNT, *size, CHANNELS),
        "gradients": normal(COUNT, *size, CHANNELS),
        "kernel": normal(COUNT, CHANNELS),
        "outputs": shares(COUNT, 3),
        "scores": np.array([_score(image) for image in images], np.float32),
        "targets": np.arange(COUNT),
        "predicted": np.arange(COUNT),
        "confidences": shares(COUNT, 3)[:, 0],
        "images": images,
        "attentions": shares(COUNT, 2, tokens, tokens),
        "relevances": np.abs(normal(COUNT, 2, tokens, tokens)),
        "readout": shares(COUNT, tokens),
        "positions": np.arange(tokens).reshape(size),
    }
    for array in arrays.values():
        array.flags.writeable = False
    return Capture(**arrays)


def part_of(capture: Capture, row: int) -> Capture:
    """Returns one sample of `make_capture`'s."""
    names = [name for name in vars(capture) if getattr(capture, name) is not None]
    arrays = {name: getattr(capture, name) for name in names}
    return Capture(**{name: a if name == "positions" else a[row : row + 1] for name, a in arrays.items()})


def functions_of(capture: Capture) -> dict[str, Callable[..., Iterator[Any]]]:
    """Returns the functions of the model that a method may need, see `passes.probe.FUNCTIONS`.

    The score of an image x is sum w sin(x), with weights w that grow from -1 to 1 from the first to the last number of
    the image, and its gradient w cos(x); the score of a layer's activations is the mean of their squares.
    """

    def gradient(pairs: Pairs, total: int) -> Iterator[Floats]:
        return (_weights(image) * np.cos(image) * np.any(image) for image, _ in pairs)

    def guided(pairs: Pairs, total: int) -> Iterator[Floats]:
        return (np.maximum(_weights(image), 0) * np.cos(image) * np.any(image) for image, _ in pairs)

    def full(pairs: Pairs, total: int) -> Iterator[Any]:
        assert capture.gradients is not None
        for image, row in pairs:
            yield _weights(image) * np.cos(image) * np.any(image), (capture.gradients[row],), 0.0

    return {
        "score": lambda pairs, total: (_score(image) for image, _ in pairs),
        "confidence": lambda pairs, total: (1 / (1 + np.exp(-_score(image))) for image, _ in pairs),
        "layer_score": lambda pairs, total: (float((of_layer**2).mean()) for of_layer, _ in pairs),
        "gradient": gradient,
        "activation_gradient": gradient,
        "guided_gradient": guided,
        "guided_activation_gradient": guided,
        "full_gradient": full,
    }


def _doubled(axes: int) -> tuple[int, ...]:
    return tuple(2 * side for side in SIZES[axes])


def _weights(image: Floats) -> Floats:
    return np.linspace(-1, 1, image.size, dtype=np.float32).reshape(image.shape)


def _score(image: Floats) -> float:
    return float((_weights(image) * np.sin(image)).sum())
