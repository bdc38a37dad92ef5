"""What an engine is: the functions by which passes run a model, whatever framework Keras has below it.

An engine is a module, `engine.<backend>`, with the functions of `Engine`. Tensors are the framework's own, for
`keras.ops` to work on; what tells them apart leaves an engine as an id, and a gradient by the number of its score.
`tests/engine/test_contract.py` holds every engine to this.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence, Set
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from ..network.biases import Place
from ..network.layers import LayerCall


@dataclass(frozen=True, eq=False)
class Attention:
    """A self-attention: each token of a sample looks at all tokens that were made of the same ones.

    Attributes:
        weights: A tensor (N, heads, T, T) or with other leading axes, whose rows sum to 1: row i, what token i reads.
        source_id: Id of the layer's output of which queries, keys and values are made.
    """

    weights: Any
    source_id: Hashable


class Run(Protocol):
    """One run of a model in inference mode, with every layer tapped.

    Calls of one layer that certainly compute the same, by the same operations on the same tensors and without drawing
    numbers or keeping a state, are one: the later ones put out the tensors of the first. Of an eager run that isn't
    known.
    """

    @property
    def outputs(self) -> Any:
        """What the model returned, in its own structure."""

    @property
    def calls(self) -> Sequence[LayerCall]:
        """The calls of its layers at any depth, in the order in which they ended."""

    @property
    def tensors(self) -> Mapping[Hashable, Any]:
        """Every output tensor of a layer by its id, which is that of its casts too: the one that was there first."""

    def id_of(self, tensor: Any) -> Hashable:
        """Returns the id of one of the tensors that the run has put out."""

    @property
    def output_ids(self) -> Set[Hashable]:
        """Ids of all outputs of the model."""

    @property
    def output_id(self) -> Hashable | None:
        """Id of the model's output; None where it has several."""

    def find_logits(self, output: Any | None = None) -> tuple[Any | None, bool]:
        """Finds what went into the softmax or sigmoid that ends the model, and made an output.

        Args:
            output: One of the model's outputs; None for its single one.

        Returns:
            The logits, or None where there are none; and whether the output is a probability.
        """

    def ending(self, output: Any) -> str | None:
        """Tells what an output ends in: "softmax", "log_softmax", "sigmoid", "normalized" (rows of length 1), or None.

        Args:
            output: One of the model's outputs.
        """

    def before_relu(self, tensor_id: Hashable) -> Any | None:
        """Returns what went into the ReLU that a tensor comes out of; None where it comes out of none."""

    def read_inputs(self, tensor_id: Hashable) -> set[int] | None:
        """Returns which of the flattened inputs a layer's output depends on by values; None for an eager run."""

    def behind(self, tensor_id: Hashable) -> set[Hashable] | None:
        """Returns the ids of all tensors that depend on a layer's output; None for an eager run."""

    def keeps_places(self, tensor_id: Hashable, leaf: int) -> bool:
        """Tells whether the positions of a layer's output are certainly places of an image, in their order.

        So they are where only convolutions, poolings and operations of single positions lie between. False where that
        isn't known, as of an eager run.

        Args:
            tensor_id: The id of the layer's output.
            leaf: Which of the flattened inputs is the image.
        """

    def fronts(self, tensor_id: Hashable, leaf: int) -> list[tuple[Any, str]] | None:
        """Returns where an image enters the model's first convolutions on the way to a layer's output.

        Args:
            tensor_id: The id of the layer's output.
            leaf: Which of the flattened inputs is the image.

        Returns:
            What goes into each convolution or matrix product that the image reaches without another one; without any,
            the layer's output itself. And what became of the image's pixels: "in place", each is at the same share of
            height and width; "padded", a border was put around them; "moved", anything else. None for an eager run.
        """


class DifferentiatedRun(Run, Protocol):
    """A run, the scores of it, and the ways back from each score to the watched layers."""

    @property
    def scores(self) -> Sequence[Any]:
        """The scores that `behind` returned, each (N,) float32, a sample's depending on its own row alone."""

    @property
    def results(self) -> Any:
        """What else `behind` returned."""

    @property
    def watched(self) -> Sequence[tuple[LayerCall, Any]]:
        """The wanted calls that count, in call order, each with its output tensor."""

    def gradients(self, score: int) -> list[Any | None]:
        """Returns d score / d output for each watched output, float32 in its shape.

        None where the score doesn't depend on it. float16 gradients that would vanish are computed larger.

        Args:
            score: Which of `scores`.
        """

    def differentiable(self, score: int, tensor_ids: Sequence[Hashable]) -> set[Hashable] | None:
        """Returns those of some layers' outputs that a score has a gradient at, by one way back; None for an eager run.

        Args:
            score: Which of `scores`.
            tensor_ids: Ids of the outputs, watched or not.
        """

    def used(self, score: int) -> set[Hashable] | None:
        """Returns the ids of all tensors that a score depends on; None where an eager run can't tell."""

    def score_inputs(self, score: int) -> set[int] | None:
        """Returns which of the flattened inputs a score depends on by values; None for an eager run."""

    def attention_gradients(self, score: int) -> list[Any | None]:
        """Returns d score / d weights of each of `attentions`, float32 in its shape; None where there is no way."""

    def attentions(self, score: int) -> list[Attention]:
        """Returns the self-attentions on the way to a score, in the order in which they run; none of an eager run."""


class FrozenPass(Protocol):
    """A traced function of one fixed batch, of which no more is run than can have changed since the last round."""

    @property
    def reuses(self) -> int:
        """How often a lot was run without the frozen part."""

    @property
    def bytes_kept(self) -> float:
        """How many bytes of what the frozen part puts out are kept now."""

    def renew(self) -> None:
        """Lets go of what is kept if anything that it came from has changed by a bit. Called before each round."""

    def beside(self, tensors: Sequence[Any], function: Callable[..., Any]) -> Callable[..., Any] | None:
        """Compiles a function of tensors of the traced one; what led to them isn't traced anew.

        Args:
            tensors: Tensors that were made while the function was traced.
            function: Takes these; returns a dict.

        Returns:
            A function of the pass' arguments that returns what `function` does as numpy arrays; None where there is no
            trace, or one that can't be taken apart.
        """

    def __call__(self, lot: int | None, *arguments: Any) -> Any:
        """Returns what the function returns as numpy arrays, read-only.

        Args:
            lot: Number of the lot, which is called with the same arguments each time; None keeps nothing.
            *arguments: Arrays or tensors.
        """


class Engine(Protocol):
    """What `engine.load()` returns."""

    FAILURES: tuple[type[Exception], ...]
    """What running a model raises beside Python's own errors."""

    def plain_run(self, model: Any, inputs: Any) -> Run:
        """Does as `tapped_run`, but sees no calls: for outputs and logits alone."""

    def tapped_run(self, model: Any, inputs: Any) -> Run:
        """Runs the model in inference mode and leaves it as it was: weights, states of seeds, losses, layers."""

    def differentiated_run(
        self,
        model: Any,
        inputs: Any,
        wanted: Callable[[LayerCall], bool],
        behind: Callable[[Run], tuple[Sequence[Any], Any]],
        last_only: bool = True,
    ) -> DifferentiatedRun:
        """Runs the model as `tapped_run` does, and computes scores of which the watched layers' gradients are known.

        No more is recorded than lies behind the first watched output, so that frozen layers before it cost nothing
        and their `trainable` doesn't count.

        Args:
            model: The model.
            inputs: Tensors as the model takes them.
            wanted: Takes each call as it ends, of those that compute the same the first; True has its output watched.
            behind: Takes the run; returns scores, each (N,) float32, and whatever else is to be computed.
            last_only: Whether only the last wanted call is watched: so one run is enough where the layer is known only
                afterwards. Else all of them are.
        """

    def gradient(
        self, function: Callable[[Any], Any], values: Any, model: Any, guided: bool = False
    ) -> tuple[Any, Any | None, int]:
        """Differentiates a function that runs the model.

        Args:
            function: From values (M, ...) to scores (M,) float32, each of which depends on its own row alone.
            values: A float tensor.
            model: The model that the function runs.
            guided: Whether every ReLU hands back positive gradients only (guided backpropagation).

        Returns:
            The scores; d scores / d values in float32, None where they don't depend on them; and the number of ReLUs
            whose gradient was exchanged, -1 where some are out of reach.
        """

    def full_gradient(
        self, function: Callable[[Any], Any], values: Any, model: Any, others: Sequence[Any] = ()
    ) -> tuple[Any, Any | None, list[Any | None], list[Place]]:
        """Differentiates a function that runs the model, also where its layers add constants.

        Args:
            function: As for `gradient`.
            values: A float tensor.
            model: The model that the function runs.
            others: Further float tensors (M, ...) that the scores depend on.

        Returns:
            The scores; d scores / d values and d scores / d each of the others in float32, None where they don't
            depend on it; and every place on the way to the scores where a constant is added.

        Raises:
            ValueError: If a place is out of reach.
        """

    def replaced(self, layer: Any, activations: Any, numbers: Collection[int] = (1,)) -> AbstractContextManager[None]:
        """Has the layer put out what is given while the context lasts.

        Args:
            layer: The layer.
            activations: A tensor (N, ...); or a function that returns one from what the layer puts out of itself.
            numbers: In which of its calls, counted from 1.
        """

    def eagerly(self) -> AbstractContextManager[None]:
        """Leaves the function that is traced, so that operations of keras.ops run at once, while the context lasts."""

    def left_as_found(self, model: Any) -> AbstractContextManager[None]:
        """Undoes what running a model writes into it while the context lasts."""

    def compile_pass(
        self,
        function: Callable[..., Any],
        model: Any,
        example: tuple[Any, ...],
        samples: int | None = None,
        traced: bool = False,
        shared: Collection[int] = (),
    ) -> Callable[..., Any]:
        """Compiles a function of arrays for any number of samples, once or for few numbers that others are brought to.

        Args:
            function: Takes arguments like `example`.
            model: The model that it runs; one that the user runs eagerly is run eagerly.
            example: For each argument, arrays (N, ...) that give its structure, shapes and dtypes.
            samples: The number of samples, where the model takes no other; else it is free.
            traced: Whether a model that the user runs eagerly is compiled all the same.
            shared: Which of the arguments are the same for all samples: their rows are others, of any number.

        Returns:
            A function of arrays that returns numpy arrays, which are read-only. It reads the weights that the model
            has when it is called.
        """

    def compile_frozen_pass(
        self,
        function: Callable[..., Any],
        model: Any,
        example: tuple[Any, ...],
        samples: int | None,
        sizes: Sequence[int],
        most: int,
    ) -> FrozenPass:
        """Compiles a function as `compile_pass` does; what the model's training leaves as it is may be run once.

        Args:
            function: Takes arguments like `example`, and returns a dict.
            model: As for `compile_pass`, and likewise the two that follow.
            example: Likewise.
            samples: Likewise.
            sizes: Number of samples in each lot that it will be called with.
            most: Largest number of bytes that may be kept between calls; 0 for none.
        """

    def scope(self, model: Any) -> AbstractContextManager[Any]:
        """Returns the scope in which variables of the model are made on all devices that it is trained on."""

    def cluster(self, model: Any) -> dict[str, Any] | None:
        """Returns what the model's way of training tells of its workers.

        Returns:
            As in TF_CONFIG: "cluster", the addresses by job; "task", the "type" and "index" of this process. None where
            it knows of no workers.
        """
