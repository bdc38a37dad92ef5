"""Graphs of Keras' functional models without the nodes that stay the same: one node in their place hands out the rest.

Keras runs a functional model node by node. A node may be left out if no code but Keras' own runs in it, if none of its
operations must run, and if nobody looks at what happens inside. Nodes that are left out one behind the other are a
group: for the layers in it no line of Python runs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import keras

from ...network.layers import LayerCall, walk
from ..wrapped import exchanged
from .proofs import is_plain

Origin = tuple[int, int]
"""Where a tensor comes from: a step and which of its outputs, or -1 and which of the arguments."""


@dataclass(frozen=True, eq=False)
class Node:
    """What Keras takes for a node of a graph.

    Attributes:
        operation: What is called.
        input_tensors: Keras' symbolic tensors that it takes.
        outputs: Those that it puts out.
        arguments: What makes its arguments of these.
        is_input: Never: of Keras.
    """

    operation: Any
    input_tensors: Sequence[Any]
    outputs: Sequence[Any]
    arguments: Any
    is_input: bool = False


class Watched:
    """An operation of a node, and its arguments, whose call is seen."""

    def __init__(self, node: Any, sources: Sequence[Any], seen: Callable[[Any, list[Any], Callable[[], Any]], Any]):
        """Stands for a node's operation.

        Args:
            node: The node.
            sources: Symbolic tensors whose values are looked up before.
            seen: Takes the node, these values, and a function that calls the operation; returns what is put out.
        """
        self._node, self._sources, self._seen = node, sources, seen
        self._values: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._node.operation, name)

    def fill_in(self, tensors: Mapping[int, Any]) -> Any:
        """Returns the arguments of the call."""
        self._values = [tensors[id(source)] for source in self._sources]
        return self._node.arguments.fill_in(tensors)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the operation."""
        values, self._values = self._values, []
        return self._seen(self._node, values, lambda: self._node.operation(*args, **kwargs))

    @property
    def as_node(self) -> Node:
        """A node with it."""
        return Node(self, self._node.input_tensors, self._node.outputs, self)


@dataclass(frozen=True, eq=False)
class Ran:
    """What was seen of a node.

    Attributes:
        steps: Its first operation and the one behind the last.
        calls: The calls of layers in it.
        sources: Where its inputs come from.
        outputs: Where its outputs come from.
        is_bare: Whether nothing was read of what happens inside, and its outputs are tensors alone, without a mask.
    """

    steps: tuple[int, int]
    calls: Sequence[LayerCall]
    sources: Sequence[Origin | None]
    outputs: Sequence[Origin | None]
    is_bare: bool


@dataclass(frozen=True, eq=False)
class Group:
    """Nodes of a graph, one behind the other, that may be left out.

    Attributes:
        nodes: The nodes.
        steps: Their first operation and the one behind the last.
        sources: The symbolic tensors that they take from before.
        origins: Where these come from.
        outputs: The symbolic tensors that others take.
        handed: Where these come from; a number tells which of the sources it is.
    """

    nodes: Sequence[Any]
    steps: tuple[int, int]
    sources: Sequence[Any]
    origins: Sequence[Origin]
    outputs: Sequence[Any]
    handed: Sequence[Origin | int]


@dataclass(frozen=True, eq=False)
class Shortcuts:
    """The groups of all graphs in a function.

    Attributes:
        graphs: For each graph what holds it, and its groups.
        asleep: Layers that are not called meanwhile.
    """

    graphs: Sequence[tuple[Any, Sequence[Group]]] = ()
    asleep: Mapping[int, Any] = field(default_factory=dict)

    def layers(self) -> Iterator[Any]:
        """Yields the layers and operations in the groups, at any depth."""
        for _, groups in self.graphs:
            for group in groups:
                for node in group.nodes:
                    yield node.operation
                    yield from (layer for _, layer in walk(node.operation))

    def watched(self, seen: Callable[[Group, Any, list[Any], Callable[[], Any]], Any]) -> AbstractContextManager[Any]:
        """Has the nodes of groups be seen when they run."""
        return self._changed(
            lambda group: [
                Watched(
                    node,
                    group.sources if node is group.nodes[0] else (),
                    lambda *call, group=group: seen(group, *call),
                ).as_node
                for node in group.nodes
            ]
        )

    def taken(self, handed_out: Callable[[Group, Sequence[Any]], list[Any]]) -> AbstractContextManager[Any]:
        """Leaves the groups out."""

        def instead(group: Group) -> list[Node]:
            def operation(*values: Any, **settings: Any) -> list[Any]:
                return handed_out(group, values)

            return [Node(operation, group.sources, group.outputs, _Arguments(group.sources))]

        return self._changed(instead)

    @contextmanager
    def _changed(self, instead: Callable[[Group], list[Node]]) -> Iterator[None]:
        with ExitStack() as stack:
            for holder, groups in self.graphs:
                first = {id(group.nodes[0]): group for group in groups}
                inside = {id(node) for group in groups for node in group.nodes}
                nodes: list[Any] = []
                for node in in_order(holder):
                    if id(node) in first:
                        nodes += instead(first[id(node)])
                    elif id(node) not in inside:
                        nodes.append(node)
                stack.enter_context(exchanged(holder, "_nodes_by_depth", {0: nodes}))
            yield


@dataclass(frozen=True, eq=False)
class _Arguments:
    sources: Sequence[Any]

    def fill_in(self, tensors: Mapping[int, Any]) -> Any:
        return tuple(tensors[id(source)] for source in self.sources), {}


@contextmanager
def all_watched(model: Any, seen: Callable[..., Any]) -> Iterator[list[Any]]:
    """Has all nodes of all graphs in a model be seen when they run; yields models, and what holds their graphs."""
    holders = list(_holders(model))
    with ExitStack() as stack:
        for _, holder in holders:
            nodes = [Watched(node, node.input_tensors, seen).as_node for node in in_order(holder)]
            stack.enter_context(exchanged(holder, "_nodes_by_depth", {0: nodes}))
        yield holders


def _holders(model: Any) -> Iterator[tuple[Any, Any]]:
    """Yields models that run a graph of nodes by Keras' own code, outer ones first, and what holds the graph."""
    for layer in (model, *(layer for _, layer in walk(model))):
        if not isinstance(layer, keras.Model) or "call" in vars(layer):
            continue
        by = next(kind for kind in type(layer).__mro__ if "call" in vars(kind))
        holder = layer._functional if by is keras.Sequential else layer
        if by.__module__.partition(".")[0] == "keras" and isinstance(getattr(holder, "_nodes_by_depth", None), dict):
            yield layer, holder


def in_order(holder: Any) -> list[Any]:
    """Returns the nodes of a graph in the order in which Keras runs them, without the inputs."""
    by_depth = holder._nodes_by_depth
    nodes = [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth]]
    return [node for node in nodes if node.operation and not node.is_input]


def find_shortcuts(
    holders: Collection[tuple[Any, Any]],
    ran: Mapping[int, Sequence[Ran]],
    calls: Sequence[LayerCall],
    leaves_out: Callable[[tuple[int, int], Collection[Origin | None]], bool],
) -> Shortcuts:
    """Finds the groups of nodes that may be left out.

    Args:
        holders: Models, outer ones first, and what holds their graphs.
        ran: What was seen of each node, by its `id`.
        calls: All calls of layers.
        leaves_out: Tells of some steps, and of the tensors of them that are at hand, whether they may be left out.
    """

    def may_sleep(node: Any) -> bool:
        (seen,) = ran[id(node)]
        layers = [node.operation, *(layer for _, layer in walk(node.operation))]
        sound = seen.is_bare and None not in (*seen.sources, *seen.outputs) and all(map(is_plain, layers))
        return sound and leaves_out(seen.steps, seen.outputs)

    graphs = []
    covered: set[int] = set()
    for model, holder in holders:
        nodes = in_order(holder)
        # What runs several times in a function, or not at all, is left as it is.
        if id(model) in covered or any(len(ran.get(id(node), ())) != 1 for node in nodes):
            continue
        runs: list[list[Any]] = [[]]
        for node in nodes:
            if may_sleep(node):
                runs[-1].append(node)
            elif runs[-1]:
                runs.append([])
        groups = [_group(run, nodes, holder.outputs, ran) for run in runs if run]
        graphs.append((holder, [group for group in groups if group is not None]))
        covered |= {id(layer) for layer in Shortcuts(graphs).layers()}
    graphs = [(holder, groups) for holder, groups in graphs if groups]
    asleep = [node for _, groups in graphs for group in groups for node in group.nodes]
    inside = [call for node in asleep for call in ran[id(node)][0].calls]
    within = set(map(id, inside))
    awake = {id(call.layer) for call in calls if id(call) not in within}
    return Shortcuts(graphs, {id(call.layer): call.layer for call in inside if id(call.layer) not in awake})


def _group(nodes: Sequence[Any], every: Sequence[Any], results: Sequence[Any], ran: Mapping[int, Any]) -> Group | None:
    """Returns a group of nodes; None where something that it puts out is not at hand."""
    within = set(map(id, nodes))
    made: dict[int, Any] = {}
    for node in nodes:
        made |= zip(map(id, node.outputs), ran[id(node)][0].outputs, strict=True)
    sources: dict[int, tuple[Any, Origin]] = {}
    for node in nodes:
        for tensor, origin in zip(node.input_tensors, ran[id(node)][0].sources, strict=True):
            if id(tensor) not in made:
                sources.setdefault(id(tensor), (tensor, origin))
    wanted = {id(tensor) for node in every if id(node) not in within for tensor in node.input_tensors}
    wanted |= set(map(id, results))
    outputs = [tensor for node in nodes for tensor in node.outputs if id(tensor) in wanted]
    origins = [origin for _, origin in sources.values()]
    start, stop = ran[id(nodes[0])][0].steps[0], ran[id(nodes[-1])][0].steps[1]
    handed: list[Origin | int] = []
    for tensor in outputs:
        origin = made[id(tensor)]
        if origin in origins:
            handed.append(origins.index(origin))
        elif start <= origin[0] < stop:
            handed.append(origin)
        else:
            return None
    return Group(nodes, (start, stop), [tensor for tensor, _ in sources.values()], origins, outputs, handed)
