"""`CompiledDAGRef`: a result of a compiled graph, to come or there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skate.dag.compiled_dag_node import CompiledDAG

__all__ = ["CompiledDAGRef"]


class CompiledDAGRef:
    """What ``execute`` of a compiled graph gives. `get` takes its value, once.

    Unlike an `ObjectRef` it cannot be copied, pickled, passed to a call, or given to `wait`. Dropping it drops the
    result.
    """

    __slots__ = ("__weakref__", "_dag", "_execution_index", "_output", "_taken")

    def __init__(self, dag: CompiledDAG, execution_index: int, output: int) -> None:
        self._dag = dag
        self._execution_index = execution_index
        self._output = output
        self._taken = False

    def get(self, timeout: float | None = None) -> Any:
        """The value; raises the error that a method of the graph raised.

        Args:
            timeout: seconds to wait, 0 not at all, -1 any time; None: what `DAGContext.get_timeout` said.

        Raises:
            ValueError: it was taken before.
            RayChannelTimeoutError: it is not there in time, and may be asked for again.
            RayChannelError, RayActorError: the graph has ended, or an actor of it has died.
        """
        if self._taken:
            raise ValueError("The result of a CompiledDAGRef can be taken once, and it was.")
        self._taken = True
        try:
            return self._dag._result(self._execution_index, self._output, timeout)
        except BaseException:  # an error of the result's own, or one that came before it: late, interrupted
            self._taken = self._dag._has_taken(self._execution_index, self._output)
            raise

    __skate_get__ = get

    def __del__(self) -> None:
        try:
            if not self._taken:
                self._dag._dropped.append((self._execution_index, self._output))
        except AttributeError:
            return  # never finished being made

    def __copy__(self) -> Any:
        raise ValueError("A CompiledDAGRef cannot be copied.")

    def __deepcopy__(self, memo: Any) -> Any:
        raise ValueError("A CompiledDAGRef cannot be copied.")

    def __reduce__(self) -> Any:
        raise ValueError("A CompiledDAGRef cannot be pickled.")

    def __repr__(self) -> str:
        return f"CompiledDAGRef({self._dag.get_id()}, execution_index={self._execution_index}, output={self._output})"
