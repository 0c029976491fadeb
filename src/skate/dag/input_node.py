"""The input of a graph: `InputNode`, and `InputAttributeNode` for a part of it."""

from __future__ import annotations

from typing import Any

from skate.dag.dag_node import DAGNode

__all__ = ["DAGInputData", "InputAttributeNode", "InputNode"]

_ENTERED = "__in_context_manager__"


class InputNode(DAGNode):
    """Stands for what ``execute`` is called with; a graph has one.

    ``inp`` is the whole of it, ``inp[0]`` an argument by position (or an item of the only argument), ``inp.x`` and
    ``inp["x"]`` an argument by name (or an attribute, or an item by key, of the only argument).

    >>> with InputNode() as inp:  # doctest: +SKIP
    ...     graph = add.bind(inp[0], inp.y)
    >>> ray.get(graph.execute(1, y=2))  # doctest: +SKIP
    3
    """

    _is_input = True

    def __init__(
        self,
        *args: Any,
        input_type: Any = None,
        _other_args_to_resolve: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if args or kwargs:
            raise ValueError("InputNode takes no arguments: the input comes with execute().")
        self.input_attribute_nodes: dict[int | str, InputAttributeNode] = {}
        self.input_type = input_type
        super().__init__([], {}, {}, _other_args_to_resolve)

    def _copy_impl(
        self, new_args: Any, new_kwargs: dict[str, Any], new_options: dict[str, Any], new_other_args: dict[str, Any]
    ) -> InputNode:
        return InputNode(_other_args_to_resolve=new_other_args)

    def _execute_impl(self, *args: Any, **kwargs: Any) -> Any:
        if not self._in_context_manager():
            raise AssertionError("The InputNode of a graph is made by a with statement: with InputNode() as inp: ...")
        if len(args) == 1 and not kwargs:
            return args[0]
        return DAGInputData(*args, **kwargs)

    def _in_context_manager(self) -> bool:
        return bool(self._bound_other_args_to_resolve.get(_ENTERED))

    def set_context(self, key: str, val: Any) -> None:
        """Keep `val` in the node, where it travels with it."""
        self._bound_other_args_to_resolve[key] = val

    def __enter__(self) -> InputNode:
        self.set_context(_ENTERED, True)
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing ends here: the node is part of the graph."""

    def __getattr__(self, key: str) -> InputAttributeNode:
        if key.startswith("__") or "input_attribute_nodes" not in self.__dict__:
            raise AttributeError(key)
        return self._part(key, "__getattr__")

    def __getitem__(self, key: int | str) -> InputAttributeNode:
        if not isinstance(key, int | str):
            raise AssertionError(f"The input is taken apart by position or by name, not by {key!r}.")
        return self._part(key, "__getitem__")

    def _part(self, key: int | str, accessor: str) -> InputAttributeNode:
        if key not in self.input_attribute_nodes:
            self.input_attribute_nodes[key] = InputAttributeNode(self, key, accessor)
        return self.input_attribute_nodes[key]


class InputAttributeNode(DAGNode):
    """A part of the input: ``inp[0]``, ``inp["x"]``, ``inp.x``."""

    def __init__(
        self, dag_input_node: InputNode, key: int | str, accessor_method: str, input_type: str | None = None
    ) -> None:
        self._dag_input_node: Any = dag_input_node
        self._key = key
        self._accessor_method = accessor_method
        others = {
            "dag_input_node": dag_input_node,
            "key": key,
            "accessor_method": accessor_method,
            "result_type_string": input_type,
        }
        super().__init__([], {}, {}, others)

    def _copy_impl(
        self, new_args: Any, new_kwargs: dict[str, Any], new_options: dict[str, Any], new_other_args: dict[str, Any]
    ) -> InputAttributeNode:
        return InputAttributeNode(
            new_other_args["dag_input_node"],
            new_other_args["key"],
            new_other_args["accessor_method"],
            new_other_args["result_type_string"],
        )

    def _execute_impl(self, *args: Any, **kwargs: Any) -> Any:
        return part_of(self._dag_input_node, self._key, self._accessor_method)

    @property
    def key(self) -> int | str:
        """The position or the name."""
        return self._key

    def _label(self) -> str:
        return repr(self._key)


def part_of(value: Any, key: int | str, accessor: str) -> Any:
    """The part `key` of what a graph was called with."""
    if accessor == "__getattr__" and not isinstance(value, DAGInputData):
        return getattr(value, str(key))
    return value[key]


class DAGInputData:
    """What a graph was called with, if that is not one argument: by position and by name."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._args = list(args)
        self._kwargs = kwargs

    def __getitem__(self, key: int | str) -> Any:
        if isinstance(key, int):
            return self._args[key]
        if isinstance(key, str):
            return self._kwargs[key]
        raise ValueError(f"The input is taken apart by position or by name, not by {key!r}.")
