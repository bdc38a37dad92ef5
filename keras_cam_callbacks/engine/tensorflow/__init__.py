"""TensorFlow: one traced function that runs the model once, with a tape that begins at the explained layer.

The model is left alone. While the function is traced, `call` of each of its layers is wrapped on the instance, so
that calls are seen in their order; afterwards the wrappers are gone, and so is every trace of the run in the model.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import keras
import tensorflow as tf

from ...network.biases import Place, adds_bias, adds_constant
from ...network.layers import LayerCall, data_format, walk
from . import graphs as graphs
from .frozen import FrozenPass

FAILURES = (tf.errors.OpError,)
"""What running a model raises beside Python's own errors."""

# Gradients of float16 activations vanish below 6e-8; they are computed this much larger, and divided in float32.
_FLOAT16_SCALE = 1024.0
_GUIDED = {"Relu": "KerasCamGuidedRelu", "Relu6": "KerasCamGuidedRelu6"}


@dataclass
class Run:
    """One run of the model with every layer tapped.

    Attributes:
        outputs: What the model returned.
        calls: The calls of its layers, in the order in which they ended.
        tensors: Every output tensor of a layer by its id.
        watched: The wanted calls that count, and their output tensors.
        tape: Recorded what lies behind the first of these outputs.
    """

    outputs: Any = None
    calls: list[LayerCall] = field(default_factory=list)
    tensors: dict[Any, Any] = field(default_factory=dict)
    watched: list[tuple[LayerCall, Any]] = field(default_factory=list)
    tape: Any = None

    def gradients(self, scores: Any) -> list[Any | None]:
        """Returns d scores / d output for each watched output, float32; None where the scores (N,) do not depend on it.

        May be asked for several scores.
        """
        activations = [output for _, output in self.watched]
        scale = _FLOAT16_SCALE if any(output.dtype == tf.float16 for output in activations) else 1.0
        found = self.tape.gradient(scores, activations, output_gradients=tf.fill(tf.shape(scores), scale))
        return [
            None if gradient is None else tf.cast(tf.convert_to_tensor(gradient), tf.float32) / scale
            for gradient in found
        ]


@contextmanager
def tapped_run(model: Any, inputs: Any, wanted: Callable[[LayerCall], bool], last_only: bool = True) -> Iterator[Run]:
    """Runs the model in inference mode; what is computed inside the context is recorded behind it.

    Args:
        model: The model.
        inputs: Tensors as the model takes them.
        wanted: Takes each call as it ends; True has its output watched.
        last_only: Whether each wanted call starts the tape anew at its output: so one run is enough where the layer is
            known only afterwards, and no more is recorded than lies behind it. Else all wanted outputs are watched.
    """
    run = Run()
    with ExitStack() as recording, left_as_found(model):

        def on_call(path: str, layer: Any, received: Any, output: Any) -> None:
            tensors = [t for t in tf.nest.flatten(output) if tf.is_tensor(t)]
            run.tensors.update((tensor_id(t), t) for t in tensors)
            call = LayerCall(
                path,
                layer,
                (None, *output.shape[1:]) if tf.is_tensor(output) and output.shape.rank else None,
                tuple(tensor_id(t) for t in tf.nest.flatten(received) if tf.is_tensor(t)),
                tuple(tensor_id(t) for t in tensors),
            )
            run.calls.append(call)
            if wanted(call) and tf.is_tensor(output):
                if last_only:
                    recording.close()
                    run.watched.clear()
                if not run.watched:
                    # Persistent, for several scores may be differentiated.
                    run.tape = tf.GradientTape(persistent=True, watch_accessed_variables=False)
                    recording.enter_context(run.tape)
                run.tape.watch(output)
                run.watched.append((call, output))

        with ExitStack() as taps:
            for path, layer in walk(model):
                taps.enter_context(_tap(layer, functools.partial(on_call, path, layer)))
            run.outputs = model(inputs, training=False)
        yield run


@contextmanager
def _tap(layer: Any, on_call: Callable[[Any, Any], Any]) -> Iterator[None]:
    """Wraps the layer's `call` for a while; what `on_call` returns, if anything, takes the place of the output."""
    # A `call` that is a tf.function runs in a graph of its own, in which its layers could not be seen.
    original = getattr(layer.call, "python_function", layer.call)

    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        output = original(*args, **kwargs)
        given = on_call((args, kwargs), output)
        return output if given is None else given

    with _exchanged(layer, "call", call):
        yield


@contextmanager
def _exchanged(layer: Any, name: str, value: Any) -> Iterator[None]:
    """Puts a value in the place of a layer's own for a while, past `__setattr__`, with which Keras would track it."""
    own, found = name in vars(layer), getattr(layer, name)
    vars(layer)[name] = value
    try:
        yield
    finally:
        if own:
            vars(layer)[name] = found
        else:
            del vars(layer)[name]


@contextmanager
def left_as_found(model: Any) -> Iterator[None]:
    """Undoes what running a model writes into it: states of seeds and metrics, and losses that layers add.

    Meanwhile each `call` that is a tf.function runs in the graph around it, so that what is inside can be replaced and
    differentiated in another way.
    """
    every = [model, *(layer for _, layer in walk(model))]
    layers = [layer for layer in every if isinstance(layer, keras.layers.Layer)]
    kept = [(layer, list(layer._losses)) for layer in layers]
    try:
        # Assignments to variables stay in this scope.
        with keras.StatelessScope(), ExitStack() as taps:
            for layer in every:
                if hasattr(layer.call, "python_function"):
                    taps.enter_context(_tap(layer, lambda received, output: None))
            yield
    finally:
        for layer, losses in kept:
            layer._losses[:] = losses


@contextmanager
def replaced(layer: Any, activations: Any) -> Iterator[None]:
    """Has the layer put out what is given, (N, ...); in a traced function all that only led to it is left out."""
    with _tap(layer, lambda received, output: tf.cast(activations, output.dtype)):
        yield


def gradient(
    function: Callable[[Any], Any], values: Any, model: Any, guided: bool = False
) -> tuple[Any, Any | None, int]:
    """Differentiates a function that runs the model.

    Args:
        function: From values (M, ...) to scores (M,), each of which depends on its own row alone.
        values: A float tensor.
        model: The model that the function runs.
        guided: Whether every ReLU hands back positive gradients only. That needs a traced function: the gradient of
            the operations is exchanged in its graph, and so nothing outside sees it.

    Returns:
        The scores, d scores / d values in float32, or None where they do not depend on them, and the number of ReLUs
        whose gradient was exchanged; -1 where some lie out of reach, inside a tf.function of the model's own.
    """
    halves = any(getattr(layer, "compute_dtype", None) == "float16" for _, layer in walk(model))
    scale = _FLOAT16_SCALE if halves else 1.0
    count = 0
    if guided:
        graph = tf.compat.v1.get_default_graph()
        with graph.gradient_override_map(_GUIDED):
            scores = function(values)
        relus = [op for op in graph.get_operations() if op.type in _GUIDED]
        inner = [node.op for f in graph.as_graph_def().library.function for node in f.node_def]
        count = -1 if set(inner) & set(_GUIDED) else len(relus)
        found = tf.gradients(scores, values, tf.fill(tf.shape(scores), scale))[0]
    else:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(values)
            scores = function(values)
        found = tape.gradient(scores, values, output_gradients=tf.fill(tf.shape(scores), scale))
    return scores, None if found is None else tf.cast(tf.convert_to_tensor(found), tf.float32) / scale, count


def full_gradient(
    function: Callable[[Any], Any], values: Any, model: Any, others: Sequence[Any] = ()
) -> tuple[Any, Any | None, list[Any | None], list[Place]]:
    """Differentiates a function that runs the model, also where its layers add constants.

    Args:
        function: From values (M, ...) to scores (M,), each of which depends on its own row alone.
        values: A float tensor.
        model: The model that the function runs.
        others: Further float tensors (M, ...) that the scores depend on.

    Returns:
        The scores; d scores / d values and d scores / d each of the others in float32, None where they do not depend
        on it; and every place on the way to the scores where a constant is added. A layer that is called twice has two.

    Raises:
        ValueError: If a place is out of reach.
    """
    every = list(walk(model))
    halves = any(getattr(layer, "compute_dtype", None) == "float16" for _, layer in every)
    scale = _FLOAT16_SCALE if halves else 1.0
    found: list[tuple[str, Any, Any, str]] = []
    called: list[Any] = []
    handed: set[int] = set()
    activations = {id(layer): layer.activation for _, layer in every if adds_bias(layer)}
    missed: list[tuple[str, str]] = []

    with tf.GradientTape(watch_accessed_variables=False) as tape, ExitStack() as taps:

        def on_constant(path: str, layer: Any, tensor: Any) -> None:
            if getattr(tensor, "graph", None) is getattr(values, "graph", None):
                tape.watch(tensor)
                found.append((path, layer, tensor, data_format([*called, layer], layer)))
            else:
                missed.append((path, "which runs in a loop or in another graph of its own"))

        def on_call(path: str, layer: Any, received: Any, output: Any) -> None:
            if adds_constant(layer):
                on_constant(path, layer, output)
            elif adds_bias(layer) and id(layer) not in handed:
                # A class that overrides `call` need not hand anything to the activation.
                on_constant(path, layer, output)
                if activations[id(layer)] not in (None, keras.activations.linear):
                    missed.append((path, "whose own `call` does not use the layer's `activation`"))
            handed.discard(id(layer))
            called.append(layer)

        def activated(path: str, layer: Any) -> Any:
            original = layer.activation

            def activation(tensor: Any, *args: Any, **kwargs: Any) -> Any:
                handed.add(id(layer))
                on_constant(path, layer, tensor)
                return original(tensor, *args, **kwargs)

            return activation

        for path, layer in every:
            inside = [inner for _, inner in walk(layer)] if isinstance(layer, keras.layers.TimeDistributed) else []
            if any(adds_bias(inner) or adds_constant(inner) for inner in inside):
                missed.append((path, "which runs layers in a loop"))
            taps.enter_context(_tap(layer, functools.partial(on_call, path, layer)))
            if activations.get(id(layer)) is not None:
                taps.enter_context(_exchanged(layer, "activation", activated(path, layer)))
        tape.watch([values, *others])
        scores = function(values)
    for path, reason in missed:
        raise ValueError(
            "FullGrad needs the gradient wherever a layer adds its bias. "
            f"Received: layer {path!r}, {reason}. 'saliency' and 'input_x_gradient' need the image's gradient only."
        )
    sources = [values, *others, *(tensor for _, _, tensor, _ in found)]
    gradients = [
        None if g is None else tf.cast(tf.convert_to_tensor(g), tf.float32) / scale
        for g in tape.gradient(scores, sources, output_gradients=tf.fill(tf.shape(scores), scale))
    ]
    outer, inner = gradients[1 : 1 + len(others)], gradients[1 + len(others) :]
    places = [Place(*place, g) for place, g in zip(found, inner, strict=True) if g is not None]
    return scores, gradients[0], outer, places


@tf.RegisterGradient(_GUIDED["Relu"])  # type: ignore[untyped-decorator]
def _guided_relu(op: Any, gradient: Any) -> Any:
    passes = (gradient > 0) & (op.outputs[0] > 0)
    return tf.where(passes, gradient, tf.zeros_like(gradient))


@tf.RegisterGradient(_GUIDED["Relu6"])  # type: ignore[untyped-decorator]
def _guided_relu6(op: Any, gradient: Any) -> Any:
    passes = (gradient > 0) & (op.outputs[0] > 0) & (op.outputs[0] < 6)
    return tf.where(passes, gradient, tf.zeros_like(gradient))


def tensor_id(tensor: Any) -> Any:
    """Returns a hashable that is the same for a tensor and for its casts and identities in the traced graph."""
    if isinstance(tensor, tf.__internal__.EagerTensor) or not hasattr(tensor, "op"):
        return id(tensor)  # Variables, which layers may be given, have no operation either.
    while tensor.op.type in ("Identity", "Cast"):
        tensor = tensor.op.inputs[0]
    return id(tensor.graph), tensor.name


def find_logits(output: Any) -> tuple[Any | None, bool]:
    """Finds what went into the softmax or sigmoid that ends the model.

    Keras keeps it on the output; an activation by TensorFlow's own functions is found in the traced graph.

    Returns:
        The logits, or None where there are none; and whether the outputs are probabilities.
    """
    logits = getattr(output, "_keras_logits", None)
    if logits is not None or isinstance(output, tf.__internal__.EagerTensor):
        return logits, logits is not None
    while output.op.type in ("Identity", "Cast"):
        output = output.op.inputs[0]
    if output.op.type in ("Softmax", "LogSoftmax", "Sigmoid"):
        return output.op.inputs[0], output.op.type != "LogSoftmax"
    return None, False


def before_relu(tensor: Any) -> Any | None:
    """Returns what goes into the ReLU that a tensor of the traced graph comes from; None where it comes from none."""
    while tensor.op.type in ("Identity", "Cast"):
        tensor = tensor.op.inputs[0]
    return tensor.op.inputs[0] if tensor.op.type in _GUIDED else None


def used_tensors(scores: Any) -> set[Any] | None:
    """Returns the ids of all tensors of the traced graph that the scores depend on; None for an eager run."""
    if isinstance(scores, tf.__internal__.EagerTensor):
        return None
    return {(id(op.graph), tensor.name) for op in graphs.ancestors([scores]) for tensor in op.outputs}


def strategy(model: Any) -> Any:
    """Returns the strategy that a model is trained under, which is TensorFlow's default where there is no other."""
    # A model's own is the one in whose scope it was made.
    return getattr(model, "distribute_strategy", None) or tf.distribute.get_strategy()


def cluster(model: Any) -> dict[str, Any] | None:
    """Returns what the strategy that a model is trained under tells of its workers.

    Returns:
        As in TF_CONFIG: "cluster", the addresses by job; "task", the "type" and "index" of this process. None where
        the strategy knows no workers.
    """
    resolver = strategy(model).cluster_resolver
    try:
        jobs = resolver.cluster_spec().as_dict() if resolver is not None else None
        return {"cluster": jobs, "task": {"type": resolver.task_type, "index": resolver.task_id}} if jobs else None
    # A resolver may be a user's, or ask a service in the cloud; who can't be asked tells nothing.
    except Exception:
        return None


def compile_pass(
    function: Callable[..., Any], model: Any, example: tuple[Any, ...], samples: int | None = None, traced: bool = False
) -> Callable[..., Any]:
    """Traces a function of arrays once, for any number of samples.

    Args:
        function: Takes arguments like `example`.
        model: The model; one that the user runs eagerly is not traced but run eagerly.
        example: For each argument, arrays (N, ...) that give its structure, shapes and dtypes.
        samples: The number of samples, where the model takes no other; else it is free.
        traced: Whether a model that the user runs eagerly is traced all the same.

    Returns:
        A function of numpy arrays that returns numpy arrays, which are read-only.
    """
    compiled = function
    if not _runs_eagerly(model) or traced:
        compiled = graphs.traced(function, *_specs(example, samples))
    return functools.partial(graphs.on_arrays, compiled)


def compile_frozen_pass(
    function: Callable[..., Any],
    model: Any,
    example: tuple[Any, ...],
    samples: int | None,
    sizes: Sequence[int],
    most: int,
) -> FrozenPass:
    """Traces a function as `compile_pass` does, and runs what the model's training leaves as it is once.

    Args:
        function: Takes arguments like `example`, and returns a dict.
        model: The model.
        example: As for `compile_pass`.
        samples: As for `compile_pass`.
        sizes: Number of samples in each lot that it will be called with; a lot is the same at each call.
        most: Largest number of bytes that may be kept between calls.
    """
    specs = None if _runs_eagerly(model) else _specs(example, samples)
    return FrozenPass(function, specs, model.trainable_variables, sizes, most)


def _runs_eagerly(model: Any) -> bool:
    return bool(getattr(model, "run_eagerly", False))


def _specs(example: tuple[Any, ...], samples: int | None) -> Any:
    return tf.nest.map_structure(lambda a: tf.TensorSpec((samples, *a.shape[1:]), tf.as_dtype(a.dtype)), example)
