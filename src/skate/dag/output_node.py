"""`MultiOutputNode`: the end of a graph with several results."""

from __future__ import annotations

from typing import Any

from skate.dag.dag_node import DAGNode

__all__ = ["MultiOutputNode"]


class MultiOutputNode(DAGNode):
    """Ends a graph with several results: ``execute`` gives a list of references, one for each node in `args`."""

    def __init__(self, args: Any, other_args_to_resolve: dict[str, Any] | None = None) -> None:
        if not isinstance(args, list | tuple):
            raise ValueError(f"MultiOutputNode takes a list of nodes, not {args!r} ({type(args).__name__}).")
        super().__init__(list(args), {}, {}, other_args_to_resolve)

    def _copy_impl(
        self, new_args: Any, new_kwargs: dict[str, Any], new_options: dict[str, Any], new_other_args: dict[str, Any]
    ) -> MultiOutputNode:
        return MultiOutputNode(new_args, new_other_args)

    def _execute_impl(self, *args: Any, **kwargs: Any) -> Any:
        return self._bound_args
