"""From a graph of nodes to a plan: which member runs what in which order, and which channels there are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from skate.dag.base import DAGNodeBase
from skate.dag.class_node import ClassMethodNode, ClassNode
from skate.dag.dag_node import DAGNode
from skate.dag.function_node import FunctionNode
from skate.dag.input_node import InputAttributeNode, InputNode
from skate.dag.memory import head_size
from skate.dag.output_node import MultiOutputNode
from skate.dag.place import Place

DRIVER = 0
"""The member that calls the graph; the actors follow."""

Key = int | str


class Take(NamedTuple):
    """An argument: what was read from a channel or made before, or a part of it."""

    value: int
    """Its number among the values of one run."""
    part: int | None = None


class Const(NamedTuple):
    """An argument that is always the same."""

    value: Any


class Operation(NamedTuple):
    """One call of a method in an actor's loop."""

    method: str
    args: tuple[Take | Const, ...]
    kwargs: tuple[tuple[str, Take | Const], ...]
    reads: tuple[tuple[Place, int], ...]
    """Channels to read first, and the numbers of the values read."""
    keep: int | None
    """The number under which later calls of the same actor find the value."""
    writes: tuple[tuple[Place, int | None], ...]
    """Channels for the value, or for one of the values that the method returns."""
    returns: int


class Feed(NamedTuple):
    """What the driver sends to one actor: the whole input, or parts of it."""

    place: Place
    keys: tuple[Key, ...] | None
    """None: the whole input."""


class Plan(NamedTuple):
    """All that members must know; the actors in the order of their numbers, from 1."""

    actors: tuple[Any, ...]
    operations: tuple[tuple[Operation, ...], ...]
    feeds: tuple[Feed, ...]
    results: tuple[tuple[Place, ...], tuple[int, ...]]
    """Channels that the driver reads, and for each output of the graph which of them."""
    positional: int
    named: frozenset[str]
    several: bool
    """Whether the graph ends in a `MultiOutputNode`."""
    size: int
    """Bytes of shared memory."""


Made = dict[DAGNode, dict[tuple[int, int | None], Place]]
"""The channels that lead from each call, by who reads, and which of the call's values."""


class _Planner:
    """Works out the plan of one graph. What is wrong with the graph raises as `experimental_compile` says."""

    def __init__(self, output: DAGNode, slots: int, room: int) -> None:
        self.output = output
        self.slots, self.room = slots, room
        self.several = isinstance(output, MultiOutputNode)
        self.ends: list[DAGNode] = list(output._bound_args) if self.several else [output]
        self.nodes = _connected(output)
        self.calls = sorted(
            (node for node in self.nodes if isinstance(node, ClassMethodNode) and node.is_class_method_call),
            key=lambda node: node._get_bind_index() or 0,  # an argument is bound before the call that takes it
        )
        self.actors: dict[Any, int] = {}
        self.start = 0

    def plan(self) -> Plan:
        self._check_kinds()
        keys = self._check_input()
        self._check_ends(keys)
        for call in self.calls:
            self.actors.setdefault(call._get_actor_handle(), len(self.actors) + 1)
        self.start = head_size(len(self.actors) + 1)
        feeds = self._feeds()
        made = self._channels()
        operations = [
            tuple(self._operations(member, feeds.get(member), made)) for member in range(1, len(self.actors) + 1)
        ]
        places = [made[_source(end)][DRIVER, _index(end)] for end in self.ends]
        read = tuple(dict.fromkeys(places))
        positional = {key for key in keys or () if isinstance(key, int)}
        return Plan(
            actors=tuple(self.actors),
            operations=tuple(operations),
            feeds=tuple(feeds.values()),
            results=(read, tuple(read.index(place) for place in places)),
            positional=1 if keys is None else max(positional, default=-1) + 1,
            named=frozenset(key for key in keys or () if isinstance(key, str)),
            several=self.several,
            size=self.start,
        )

    # ------------------------------------------------------------------------ checks

    def _check_kinds(self) -> None:
        for node in self.nodes:
            if isinstance(node, FunctionNode):
                raise NotImplementedError(f"Compiled graphs only support actor method nodes, and {node} is a task.")
            if isinstance(node, ClassNode) or (isinstance(node, ClassMethodNode) and node._get_actor_handle() is None):
                raise ValueError(f"{node}: a compiled graph calls actors that live already: start it with .remote().")
            if isinstance(node, MultiOutputNode) and node is not self.output:
                raise ValueError(f"{node} is not the end of the graph.")
            if node.type_hint.requires_accelerator() or node.type_hint.device in ("gpu", "cuda"):
                raise NotImplementedError(f"{node}: tensors travel through shared memory only, not from GPU to GPU.")
            for value in (*node._bound_args, *node._bound_kwargs.values()):
                if not isinstance(value, DAGNodeBase) and _holds_nodes(value):
                    raise ValueError(
                        f"{node} has nodes inside of an argument: in a compiled graph each node is an argument itself."
                    )
        for call in self.calls:
            if call.num_returns < 1:
                raise ValueError(f"{call}: a method with num_returns={call.num_returns} cannot be compiled.")
            if not any(isinstance(value, DAGNode) for value in (*call._bound_args, *call._bound_kwargs.values())):
                raise ValueError(f"{call} takes neither the input nor another node, so nothing would tell it to run.")

    def _check_input(self) -> tuple[Key, ...] | None:
        """The parts of the input that the graph uses; None when it uses the whole."""
        inputs = [node for node in self.nodes if isinstance(node, InputNode)]
        if not inputs:
            raise ValueError("No InputNode found in the DAG: a compiled graph needs one.")
        if len(inputs) > 1:
            raise ValueError("A compiled graph has one InputNode, and this one has two.")
        used = {id(child): child for call in self.calls for child in call._upstream_nodes}
        whole = any(isinstance(node, InputNode) for node in used.values())
        parts = [node.key for node in used.values() if isinstance(node, InputAttributeNode)]
        if whole and parts:
            raise ValueError("All calls take the InputNode itself, or all take parts of it, such as inp[0].")
        unused = [key for key in inputs[0].input_attribute_nodes if key not in parts]
        if unused:
            raise ValueError(f"Parts of the input that no call takes: {', '.join(map(repr, unused))}.")
        return None if whole else tuple(parts)

    def _check_ends(self, keys: tuple[Key, ...] | None) -> None:
        for end in self.ends:
            if not isinstance(end, ClassMethodNode):
                raise ValueError(f"A compiled graph ends in calls of actors' methods, not in {end!r}.")
        wanted = {id(_source(end)) for end in self.ends}
        wanted |= {id(_source(child)) for call in self.calls for child in call._upstream_nodes if _is_call(child)}
        leaves = [call.get_method_name() for call in self.calls if id(call) not in wanted]
        if leaves:
            raise ValueError(
                f"Compiled DAG doesn't support leaf nodes: nothing takes what {leaves} give. Add them to a "
                "MultiOutputNode at the end of the graph."
            )

    # ---------------------------------------------------------------------- channels

    def _place(self, writer: int, reader: int) -> Place:
        place = Place(self.start, self.slots, self.room, writer, reader)
        self.start += place.size
        return place

    def _feeds(self) -> dict[int, Feed]:
        """By member: what the driver sends to it."""
        feeds: dict[int, Feed] = {}
        for handle, member in self.actors.items():
            calls = [call for call in self.calls if call._get_actor_handle() == handle]
            taken = [child for call in calls for child in call._upstream_nodes if not _is_call(child)]
            if taken:
                keys = tuple(dict.fromkeys(node.key for node in taken if isinstance(node, InputAttributeNode)))
                feeds[member] = Feed(self._place(DRIVER, member), keys or None)
        return feeds

    def _channels(self) -> Made:
        made: Made = {call: {} for call in self.calls}
        for call in self.calls:
            reader = self.actors[call._get_actor_handle()]
            for child in call._upstream_nodes:
                if _is_call(child) and self._member(child) != reader:
                    self._lead(made, child, reader)
        for end in self.ends:
            self._lead(made, end, DRIVER)
        return made

    def _lead(self, made: Made, node: DAGNode, reader: int) -> None:
        channels, key = made[_source(node)], (reader, _index(node))
        if key not in channels:
            channels[key] = self._place(self._member(node), reader)

    def _member(self, node: DAGNode) -> int:
        call = _source(node)
        assert isinstance(call, ClassMethodNode)
        return self.actors[call._get_actor_handle()]

    def _operations(self, member: int, feed: Feed | None, made: Made) -> Iterable[Operation]:
        """The calls of one actor, in order."""
        calls = [call for call in self.calls if self._member(call) == member]
        kept = {id(_source(child)) for call in calls for child in call._upstream_nodes if _is_call(child)}
        inputs = _Inputs(self, member, feed, made)
        for call in calls:
            args = tuple(map(inputs.argument, call._bound_args))
            kwargs = tuple((name, inputs.argument(value)) for name, value in call._bound_kwargs.items())
            writes = tuple((place, index) for (_, index), place in made[call].items())
            keep = inputs.number(call) if id(call) in kept else None
            yield Operation(call._method_name, args, kwargs, inputs.taken(), keep, writes, call.num_returns)


class _Inputs:
    """Where the arguments of one actor's calls come from, and what it has read when."""

    def __init__(self, planner: _Planner, member: int, feed: Feed | None, made: Made) -> None:
        self.planner, self.member, self.feed, self.made = planner, member, feed, made
        self._numbers: dict[Any, int] = {}
        self._reads: dict[Place, int] = {}
        self._taken = 0

    def number(self, key: Any) -> int:
        """The number of a value among those of one run."""
        return self._numbers.setdefault(key, len(self._numbers))

    def taken(self) -> tuple[tuple[Place, int], ...]:
        """The channels that have come in since it was last asked."""
        new = list(self._reads.items())[self._taken :]
        self._taken = len(self._reads)
        return tuple(new)

    def argument(self, value: Any) -> Take | Const:
        """What the actor puts in the place of a bound argument."""
        if not isinstance(value, DAGNode):
            return Const(value)
        if _is_call(value):
            if self.planner._member(value) == self.member:
                return Take(self.number(_source(value)), _index(value))
            return Take(self._read(self.made[_source(value)][self.member, _index(value)]))
        assert self.feed is not None
        keys, part = self.feed.keys, None
        if keys is not None and len(keys) > 1:
            part = keys.index(value.key)
        return Take(self._read(self.feed.place), part)

    def _read(self, place: Place) -> int:
        return self._reads.setdefault(place, self.number(place))


def make_plan(output: DAGNode, slots: int, room: int) -> Plan:
    """The plan for the graph that ends in `output`, with so many slots a channel, each for `room` bytes."""
    return _Planner(output, slots, room).plan()


def _connected(output: DAGNode) -> list[DAGNode]:
    """All nodes of the graph; ValueError if it was compiled before."""
    nodes: list[DAGNode] = []
    output._find_root().traverse_and_apply(nodes.append)
    for node in nodes:
        if node.is_cgraph_output_node and node is not output:
            raise ValueError(f"The DAG was compiled more than once: at {node}, and now at {output}.")
    return nodes


def _is_call(node: DAGNode) -> bool:
    return isinstance(node, ClassMethodNode)


def _source(node: DAGNode) -> DAGNode:
    """The call that gives the value `node` stands for."""
    if isinstance(node, ClassMethodNode) and node.class_method_call is not None:
        return node.class_method_call
    return node


def _index(node: DAGNode) -> int | None:
    return node.output_idx if isinstance(node, ClassMethodNode) else None


def _holds_nodes(value: Any) -> bool:
    from skate.dag.scan import find_nodes

    return bool(find_nodes(value))
