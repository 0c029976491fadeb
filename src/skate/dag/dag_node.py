"""`DAGNode`: a call to come, with its arguments bound; its kinds are in the modules beside this one."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from skate.dag.base import DAGNodeBase
from skate.dag.scan import find_nodes, replace_nodes
from skate.experimental.channel import ChannelOutputType, type_hint_of

if TYPE_CHECKING:
    from skate.dag.compiled_dag_node import CompiledDAG

__all__ = ["DAGNode"]

T = TypeVar("T")
Apply = Callable[["DAGNode"], Any]


class DAGNode(DAGNodeBase):
    """A node of a graph: a kind of call, the arguments bound to it, and options.

    Arguments are values, nodes, and values that hold nodes. Nodes are not changed by what is done with the graph:
    what transforms it works on copies, which keep the node's `get_stable_uuid`.
    """

    _is_input = False
    """Whether it stands for the whole input of its graph."""

    def __init__(
        self,
        args: Any,
        kwargs: dict[str, Any] | None,
        options: dict[str, Any] | None,
        other_args_to_resolve: dict[str, Any] | None,
    ) -> None:
        self._bound_args: Any = args or []
        self._bound_kwargs: dict[str, Any] = kwargs or {}
        self._bound_options: dict[str, Any] = options or {}
        self._bound_other_args_to_resolve: dict[str, Any] = other_args_to_resolve or {}
        self._downstream_nodes: list[DAGNode] = []
        self._upstream_nodes: list[DAGNode] = self._get_all_child_nodes()
        for node in self._upstream_nodes:
            node._downstream_nodes.append(self)
        self._stable_uuid = uuid.uuid4().hex
        self._type_hint = ChannelOutputType()
        self.cache_from_last_execute: dict[str, Any] = {}
        self.is_cgraph_output_node = False

    # ------------------------------------------------------------------ what it holds

    def get_args(self) -> Any:
        """The arguments bound by position."""
        return self._bound_args

    def get_kwargs(self) -> dict[str, Any]:
        """The arguments bound by name; a copy."""
        return dict(self._bound_kwargs)

    def get_options(self) -> dict[str, Any]:
        """The options, as given to ``.options()``; a copy."""
        return dict(self._bound_options)

    def get_other_args_to_resolve(self) -> dict[str, Any]:
        """What the node needs besides arguments, such as the actor of a method; a copy."""
        return dict(self._bound_other_args_to_resolve)

    def get_stable_uuid(self) -> str:
        """Names the node and its copies, here and in other processes."""
        return self._stable_uuid

    def _parts(self) -> list[Any]:
        return [self._bound_args, self._bound_kwargs, self._bound_other_args_to_resolve]

    def _get_all_child_nodes(self) -> list[DAGNode]:
        """The nodes that this one needs, also those inside of values."""
        return find_nodes(self._parts())

    def _get_toplevel_child_nodes(self) -> list[DAGNode]:
        """The nodes that are arguments themselves, not inside of others."""
        held = [*self._bound_args, *self._bound_kwargs.values(), *self._bound_other_args_to_resolve.values()]
        return _unique(value for value in held if isinstance(value, DAGNode))

    # ------------------------------------------------------------------- running it

    def execute(self, *args: Any, _ray_cache_refs: bool = False, **kwargs: Any) -> Any:
        """Run the graph up to this node, as tasks and calls of actors.

        Args:
            args: the graph's input, which its `InputNode` stands for.
            kwargs: the same, by name.
            _ray_cache_refs: keep what each node gave in `cache_from_last_execute`, by uuid.

        Returns what the node's call returns: a reference, an actor's handle for a `ClassNode`, a list for a
        `MultiOutputNode`.

        Raises AssertionError when the graph has two inputs, or one that was not made by ``with InputNode()``.
        """

        def run(node: DAGNode) -> Any:
            return node._execute_impl(*args, **kwargs)

        cache: dict[str, Any] = {}
        result = self._apply(run, cache)
        if _ray_cache_refs:
            self.cache_from_last_execute = cache
        return result

    async def get_object_refs_from_last_execute(self) -> dict[str, Any]:
        """What ``execute(_ray_cache_refs=True)`` kept."""
        return dict(self.cache_from_last_execute)

    def clear_cache(self) -> None:
        """Forget what ``execute(_ray_cache_refs=True)`` kept."""
        self.cache_from_last_execute = {}

    def experimental_compile(
        self,
        _submit_timeout: float | None = None,
        _buffer_size_bytes: int | None = None,
        enable_asyncio: bool = False,
        _max_inflight_executions: int | None = None,
        _max_buffered_results: int | None = None,
        _overlap_gpu_communication: bool | None = None,
        _default_communicator: Any = "create",
    ) -> CompiledDAG:
        """Prepare the graph for running many times: channels of shared memory lead from actor to actor.

        Every call of the graph must be one of a method of an actor that lives. What None stands for is in `DAGContext`.

        Args:
            _submit_timeout: seconds that ``execute`` may wait for room; -1: any time.
            _buffer_size_bytes: a 16th of the largest message, in bytes, that goes through a channel in one piece; a
                buffer grows to what it needs.
            enable_asyncio: run it with ``await graph.execute_async(...)`` in place of ``execute(...)``.
            _max_inflight_executions: how many executions may be under way.
            _max_buffered_results: how many results may be kept that were not asked for yet.
            _overlap_gpu_communication: has no effect: nothing here communicates between GPUs.
            _default_communicator: has no effect, for the same reason.

        Raises:
            ValueError: what the graph holds cannot be compiled; the message says what. Also the second time.
            NotImplementedError: a task in the graph, no input, a transport between GPUs.
        """
        from skate.dag.compiled_dag_node import Settings, compile_graph

        if self.is_cgraph_output_node:
            raise ValueError(
                "This node was compiled before. Use the graph that experimental_compile returned, or bind new nodes."
            )
        settings = Settings.from_arguments(
            _submit_timeout, _buffer_size_bytes, enable_asyncio, _max_inflight_executions, _max_buffered_results
        )
        return compile_graph(self, settings)

    def with_tensor_transport(
        self,
        transport: Any = "auto",
        device: str = "default",
        _static_shape: bool = False,
        _direct_return: bool = False,
    ) -> DAGNode:
        """Say how tensors that this node gives travel in a compiled graph; returns the node.

        Args:
            transport: "auto" and "shm": through shared memory, as all values. "accelerator" and "nccl" need GPUs that
                talk to each other: compiling raises NotImplementedError.
            device: "default" and "cpu"; "gpu" and "cuda" raise NotImplementedError when compiling.
            _static_shape: has no effect.
            _direct_return: has no effect.

        Raises ValueError for any other word.
        """
        self._type_hint = type_hint_of(transport, device)
        return self

    @property
    def type_hint(self) -> ChannelOutputType:
        """What `with_tensor_transport` said."""
        return self._type_hint

    @type_hint.setter
    def type_hint(self, hint: ChannelOutputType) -> None:
        self._type_hint = hint

    # ------------------------------------------------------------- walking the graph

    def apply_recursive(self, fn: Callable[[DAGNode], T]) -> T:
        """Apply `fn` to this node and all below it, each once and after what it needs; returns what it gave here.

        `fn` gets a copy of each node, in which what `fn` gave stands in the place of other nodes.
        """
        cache: dict[str, Any] = {}
        with contextlib.suppress(AttributeError):  # a bound method, say, takes none
            fn.cache = cache  # type: ignore[attr-defined]  # where Ray keeps it, too
        result: T = self._apply(fn, cache)
        return result

    def _apply(self, fn: Apply, cache: dict[str, Any]) -> Any:
        inputs = set()
        for node in self._bottom_up():
            if node._is_input:
                inputs.add(node._stable_uuid)
                if len(inputs) > 1:
                    raise AssertionError("A graph has one InputNode, and this one has two.")
            if node._stable_uuid not in cache:
                copy = node._apply_and_replace_all_child_nodes(lambda child: cache[child._stable_uuid])
                cache[node._stable_uuid] = fn(copy)
        return cache[self._stable_uuid]

    def _bottom_up(self) -> list[DAGNode]:
        """This node and all that it needs, each after what it needs itself; without recursion, for long chains."""
        order: list[DAGNode] = []
        seen: set[str] = set()
        stack: list[tuple[DAGNode, bool]] = [(self, False)]
        while stack:
            node, entered = stack.pop()
            if entered:
                order.append(node)
            elif node._stable_uuid not in seen:
                seen.add(node._stable_uuid)
                stack.append((node, True))
                stack.extend((child, False) for child in reversed(node._get_all_child_nodes()))
        return order

    def _apply_and_replace_all_child_nodes(self, fn: Apply) -> DAGNode:
        """A copy of this node with ``fn(child)`` in the place of each child."""
        args, kwargs, others = replace_nodes(self._parts(), fn)
        return self._copy(args, kwargs, self.get_options(), others)

    def traverse_and_apply(self, fn: Apply) -> None:
        """Apply `fn` once to this node and to every node connected to it, up or down."""
        seen: set[int] = set()
        queue = [self]
        for node in queue:
            if id(node) in seen:
                continue
            seen.add(id(node))
            fn(node)
            queue.extend(other for other in (*node._downstream_nodes, *node._upstream_nodes) if id(other) not in seen)

    def apply_functional(self, source_input_list: Any, predicate_fn: Callable[[DAGNode], bool], apply_fn: Apply) -> Any:
        """`source_input_list` with ``apply_fn(node)`` in the place of each node for which `predicate_fn` is true."""
        table: dict[int, Any] = {}

        def choose(node: DAGNode) -> Any:
            if not predicate_fn(node):
                return node
            if id(node) not in table:
                table[id(node)] = apply_fn(node)
            return table[id(node)]

        return replace_nodes(source_input_list, choose)

    def _find_root(self) -> DAGNode:
        """The `InputNode` that this node needs; ValueError when there is none."""
        for node in self._bottom_up():
            if node._is_input:
                return node
        raise ValueError(f"No InputNode found in the DAG: {self} needs no input.")

    # --------------------------------------------------------------- what kinds define

    def _execute_impl(self, *args: Any, **kwargs: Any) -> Any:
        """Run this node, whose arguments are values by now."""
        raise NotImplementedError

    def _copy_impl(
        self, new_args: Any, new_kwargs: dict[str, Any], new_options: dict[str, Any], new_other_args: dict[str, Any]
    ) -> DAGNode:
        """A node of the same kind with these."""
        raise NotImplementedError

    def _copy(
        self, new_args: Any, new_kwargs: dict[str, Any], new_options: dict[str, Any], new_other_args: dict[str, Any]
    ) -> DAGNode:
        copy = self._copy_impl(new_args, new_kwargs, new_options, new_other_args)
        copy._stable_uuid = self._stable_uuid
        copy._type_hint = self._type_hint
        return copy

    def _label(self) -> str:
        """What the node calls, for texts."""
        return ""

    def __repr__(self) -> str:
        shown = [_shown(value) for value in self._bound_args]
        shown += [f"{name}={_shown(value)}" for name, value in self._bound_kwargs.items()]
        label = self._label()
        return f"{type(self).__name__}({label + ': ' if label else ''}{', '.join(shown)})"

    def __getstate__(self) -> dict[str, Any]:
        return dict(self.__dict__)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def __getattr__(self, name: str) -> Any:
        if name == "remote":
            raise AttributeError(f"A {type(self).__name__} has no .remote(): run the graph with .execute().")
        if name == "bind":
            _refuse_bind(self)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


def _refuse_bind(node: DAGNode) -> NoReturn:
    raise AttributeError(f"A {type(node).__name__} is bound already: .bind() cannot be used again on it.")


def _unique(nodes: Iterable[DAGNode]) -> list[DAGNode]:
    return list({id(node): node for node in nodes}.values())


def _shown(value: Any) -> str:
    if isinstance(value, DAGNode):
        label = value._label()
        return f"{type(value).__name__}({label})" if label else type(value).__name__
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
