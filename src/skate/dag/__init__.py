"""Graphs of calls: made with ``bind``, run with ``execute``, or compiled to run many times.

>>> with InputNode() as inp:  # doctest: +SKIP
...     graph = add.bind(double.bind(inp), 1)
>>> ray.get(graph.execute(20))  # doctest: +SKIP
41
"""

from skate.dag.class_node import ClassMethodNode, ClassNode
from skate.dag.compiled_dag_node import CompiledDAG
from skate.dag.constants import (
    BIND_INDEX_KEY,
    DAGNODE_TYPE_KEY,
    IS_CLASS_METHOD_OUTPUT_KEY,
    PARENT_CLASS_NODE_KEY,
    PREV_CLASS_METHOD_CALL_KEY,
)
from skate.dag.context import DAGContext
from skate.dag.dag_node import DAGNode
from skate.dag.function_node import FunctionNode
from skate.dag.input_node import DAGInputData, InputAttributeNode, InputNode
from skate.dag.output_node import MultiOutputNode

__all__ = [
    "BIND_INDEX_KEY",
    "DAGNODE_TYPE_KEY",
    "IS_CLASS_METHOD_OUTPUT_KEY",
    "PARENT_CLASS_NODE_KEY",
    "PREV_CLASS_METHOD_CALL_KEY",
    "ClassMethodNode",
    "ClassNode",
    "CompiledDAG",
    "DAGContext",
    "DAGInputData",
    "DAGNode",
    "FunctionNode",
    "InputAttributeNode",
    "InputNode",
    "MultiOutputNode",
]
