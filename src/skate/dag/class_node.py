"""Actors in a graph: `ClassNode`, an actor to come, and `ClassMethodNode`, a call of an actor's method."""

from __future__ import annotations

from typing import Any

from skate.actor import ActorClass
from skate.actor_handle import ActorHandle, ActorMethod, handle_of
from skate.api import remote
from skate.core.serialization import unpack
from skate.dag.constants import (
    BIND_INDEX_KEY,
    IS_CLASS_METHOD_OUTPUT_KEY,
    PARENT_CLASS_NODE_KEY,
    PREV_CLASS_METHOD_CALL_KEY,
)
from skate.dag.dag_node import DAGNode, _refuse_bind
from skate.dag.input_node import InputAttributeNode, InputNode

__all__ = ["ClassMethodNode", "ClassNode", "bind_method"]


class ClassNode(DAGNode):
    """An actor that is made when the graph runs, by the ``bind`` of its class; ``node.method.bind(...)`` calls it."""

    def __init__(
        self,
        cls: Any,
        cls_args: Any,
        cls_kwargs: dict[str, Any] | None,
        cls_options: dict[str, Any] | None,
        other_args_to_resolve: dict[str, Any] | None = None,
    ) -> None:
        self._body = cls
        self._remote: Any = None
        """The actor class with these options, made once."""
        self._last_call: ClassMethodNode | None = None
        super().__init__(cls_args, cls_kwargs, cls_options, other_args_to_resolve)
        if any(isinstance(node, InputNode | InputAttributeNode) for node in self._get_all_child_nodes()):
            raise ValueError(
                f"The constructor of {self._label()} takes the graph's input: an InputNode may be an argument of "
                "functions and methods, not of a class, for actors are made before there is input."
            )

    @classmethod
    def of(cls, made: ActorClass[Any], args: Any, kwargs: dict[str, Any]) -> ClassNode:
        """The node for an actor of the class `made`, which has its options."""
        node = cls(made.__ray_actor_class__, args, kwargs, made._default_options)
        node._remote = made
        return node

    def _copy_impl(
        self, new_args: Any, new_kwargs: dict[str, Any], new_options: dict[str, Any], new_other_args: dict[str, Any]
    ) -> ClassNode:
        copy = ClassNode(self._body, new_args, new_kwargs, new_options, new_other_args)
        if new_options == self._bound_options:
            copy._remote = self._class()
        return copy

    def _class(self) -> Any:
        if self._remote is None:
            plain: Any = remote(self._body)
            self._remote = plain.options(**self._bound_options) if self._bound_options else plain
        return self._remote

    def _execute_impl(self, *args: Any, **kwargs: Any) -> Any:
        return self._class().remote(*self._bound_args, **self._bound_kwargs)

    def _label(self) -> str:
        return getattr(self._body, "__name__", repr(self._body))

    def __getattr__(self, name: str) -> Any:
        body = self.__dict__.get("_body")
        if body is None or (name.startswith("__") and name.endswith("__") and not hasattr(body, name)):
            raise AttributeError(name)
        if name == "bind" and not hasattr(body, "bind"):
            _refuse_bind(self)
        getattr(body, name)  # its own error says what is missing
        return _UnboundClassMethodNode(self, name, {})


class _UnboundClassMethodNode:
    """``node.method``, before its ``bind``."""

    def __init__(self, actor: ClassNode, method_name: str, options: dict[str, Any]) -> None:
        self._actor = actor
        self._method_name = method_name
        self._options = options

    def bind(self, *args: Any, **kwargs: Any) -> ClassMethodNode:
        """A call of the method. Calls of one actor run in the order in which they were bound."""
        others = {
            PARENT_CLASS_NODE_KEY: self._actor,
            PREV_CLASS_METHOD_CALL_KEY: self._actor._last_call,
        }
        node = ClassMethodNode(self._method_name, args, kwargs, self._options, others)
        self._actor._last_call = node
        return node

    def options(self, **options: Any) -> _UnboundClassMethodNode:
        """The same method with other options."""
        return _UnboundClassMethodNode(self._actor, self._method_name, options)

    def __getattr__(self, name: str) -> Any:
        if name == "remote":
            raise AttributeError("A method of a ClassNode has no .remote(): use .bind(), and run the graph.")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


class ClassMethodNode(DAGNode):
    """A call of a method of an actor, or one of the values of such a call that has several."""

    def __init__(
        self,
        method_name: str,
        method_args: Any,
        method_kwargs: dict[str, Any] | None,
        method_options: dict[str, Any] | None,
        other_args_to_resolve: dict[str, Any],
    ) -> None:
        self._method_name = method_name
        self._parent_class_node: Any = other_args_to_resolve.get(PARENT_CLASS_NODE_KEY)
        self._bind_index: int | None = other_args_to_resolve.get(BIND_INDEX_KEY)
        self._is_class_method_output: bool = other_args_to_resolve.get(IS_CLASS_METHOD_OUTPUT_KEY, False)
        super().__init__(method_args, method_kwargs, method_options, other_args_to_resolve)

    def _copy_impl(
        self, new_args: Any, new_kwargs: dict[str, Any], new_options: dict[str, Any], new_other_args: dict[str, Any]
    ) -> ClassMethodNode:
        return ClassMethodNode(self._method_name, new_args, new_kwargs, new_options, new_other_args)

    def _execute_impl(self, *args: Any, **kwargs: Any) -> Any:
        if self._is_class_method_output:
            results, index = self._bound_args
            return results[index]
        method = getattr(self._parent_class_node, self._method_name)
        if self._bound_options:
            method = method.options(**self._bound_options)
        return method.remote(*self._bound_args, **self._bound_kwargs)

    def get_method_name(self) -> str:
        """The method's name."""
        return self._method_name

    def _get_bind_index(self) -> int | None:
        return self._bind_index

    def _get_actor_handle(self) -> ActorHandle[Any] | None:
        """The actor, if it lives already."""
        parent = self._parent_class_node
        return parent if isinstance(parent, ActorHandle) else None

    @property
    def num_returns(self) -> int:
        """How many values the call has."""
        if self._is_class_method_output:
            call: ClassMethodNode = self._bound_args[0]
            return call.num_returns
        given = self._bound_options.get("num_returns")
        if given is not None:
            return int(given)
        handle = self._get_actor_handle()
        return getattr(handle, self._method_name)._options.returns if handle is not None else 1

    @property
    def is_class_method_call(self) -> bool:
        """Whether this is a call."""
        return not self._is_class_method_output

    @property
    def is_class_method_output(self) -> bool:
        """Whether this is one of the values of a call."""
        return self._is_class_method_output

    @property
    def class_method_call(self) -> ClassMethodNode | None:
        """The call of which this is a value; None if this is a call itself."""
        return self._bound_args[0] if self._is_class_method_output else None

    @property
    def output_idx(self) -> int | None:
        """Which of the call's values this is, from 0; None if this is a call itself."""
        return self._bound_args[1] if self._is_class_method_output else None

    def _label(self) -> str:
        return self._method_name


def bind_method(method: ActorMethod, args: Any, kwargs: dict[str, Any]) -> Any:
    """A call of a method of an actor that lives: a node, or a tuple of nodes if it has several values."""
    handle = handle_of(method._held)
    options = _options_of(method)
    others = {PARENT_CLASS_NODE_KEY: handle, PREV_CLASS_METHOD_CALL_KEY: None, BIND_INDEX_KEY: _next_index()}
    node = ClassMethodNode(method._name, args, kwargs, options, others)
    if method._options.returns <= 1:
        return node
    outputs = {IS_CLASS_METHOD_OUTPUT_KEY: True, PARENT_CLASS_NODE_KEY: handle}
    return tuple(
        ClassMethodNode(f"return_idx_{index}", (node, index), {}, {}, dict(outputs))
        for index in range(method._options.returns)
    )


_bound = 0


def _next_index() -> int:
    global _bound
    _bound += 1
    return _bound


def _options_of(method: ActorMethod) -> dict[str, Any]:
    """The options of `method` that are not the ones that its class gave it, as ``.options()`` takes them."""
    given, usual = method._options, method._held.shape.methods[method._name].options
    if given == usual:
        return {}
    words = {
        "num_returns": "returns",
        "concurrency_group": "group",
        "max_task_retries": "max_retries",
        "name": "name",
        "_generator_backpressure_num_objects": "backpressure",
    }
    options: dict[str, Any] = {
        word: getattr(given, field) for word, field in words.items() if getattr(given, field) != getattr(usual, field)
    }
    if options.get("num_returns") in (-1, -2):
        options["num_returns"] = "streaming" if given.returns == -1 else "dynamic"
    if (given.retry_exceptions, given.retry_on) != (usual.retry_exceptions, usual.retry_on):
        options["retry_exceptions"] = list(unpack(given.retry_on)) if given.retry_on else given.retry_exceptions
    return options
