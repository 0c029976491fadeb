"""`FunctionNode`: a task to come."""

from __future__ import annotations

from typing import Any

from skate.api import remote
from skate.dag.dag_node import DAGNode
from skate.remote_function import RemoteFunction

__all__ = ["FunctionNode"]


class FunctionNode(DAGNode):
    """A call of a remote function, made by its ``bind``."""

    def __init__(
        self,
        func_body: Any,
        func_args: Any,
        func_kwargs: dict[str, Any] | None,
        func_options: dict[str, Any] | None,
        other_args_to_resolve: dict[str, Any] | None = None,
    ) -> None:
        self._body = func_body
        self._remote: Any = None
        """The remote function with these options, made once."""
        super().__init__(func_args, func_kwargs, func_options, other_args_to_resolve)

    @classmethod
    def of(cls, function: RemoteFunction[..., Any], args: Any, kwargs: dict[str, Any]) -> FunctionNode:
        """The node for a call of `function`, which has its options."""
        node = cls(function._function, args, kwargs, function._default_options)
        node._remote = function
        return node

    def _copy_impl(
        self, new_args: Any, new_kwargs: dict[str, Any], new_options: dict[str, Any], new_other_args: dict[str, Any]
    ) -> FunctionNode:
        copy = FunctionNode(self._body, new_args, new_kwargs, new_options, new_other_args)
        if new_options == self._bound_options:
            copy._remote = self._function()
        return copy

    def _function(self) -> Any:
        if self._remote is None:
            plain: Any = remote(self._body)
            self._remote = plain.options(**self._bound_options) if self._bound_options else plain
        return self._remote

    def _execute_impl(self, *args: Any, **kwargs: Any) -> Any:
        return self._function().remote(*self._bound_args, **self._bound_kwargs)

    def _label(self) -> str:
        return getattr(self._body, "__name__", repr(self._body))
