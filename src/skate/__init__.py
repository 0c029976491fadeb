"""Skate: Ray's programming model on an engine that lives inside your program.

import skate as ray

@ray.remote
def square(x: int) -> int:
    return x * x

assert ray.get([square.remote(i) for i in range(4)]) == [0, 1, 4, 9]
"""

from skate import exceptions as exceptions
from skate import runtime_context as runtime_context
from skate import types as types
from skate._version import __version__
from skate.api import available_resources as available_resources
from skate.api import cancel as cancel
from skate.api import cluster_resources as cluster_resources
from skate.api import get as get
from skate.api import get_actor as get_actor
from skate.api import get_gpu_ids as get_gpu_ids
from skate.api import init as init
from skate.api import is_initialized as is_initialized
from skate.api import kill as kill
from skate.api import method as method
from skate.api import nodes as nodes
from skate.api import put as put
from skate.api import remote as remote
from skate.api import shutdown as shutdown
from skate.api import timeline as timeline
from skate.api import wait as wait
from skate.core.generator import DynamicObjectRefGenerator as DynamicObjectRefGenerator
from skate.core.generator import ObjectRefGenerator as ObjectRefGenerator
from skate.core.refs import ActorClassID as ActorClassID
from skate.core.refs import ActorID as ActorID
from skate.core.refs import FunctionID as FunctionID
from skate.core.refs import JobID as JobID
from skate.core.refs import NodeID as NodeID
from skate.core.refs import ObjectRef as ObjectRef
from skate.core.refs import PlacementGroupID as PlacementGroupID
from skate.core.refs import TaskID as TaskID
from skate.core.refs import UniqueID as UniqueID
from skate.core.refs import WorkerID as WorkerID
from skate.runtime_context import get_runtime_context as get_runtime_context

TYPE_CHECKING = False

if TYPE_CHECKING:
    from skate import actor as actor
    from skate import cloudpickle as cloudpickle
    from skate import cluster_utils as cluster_utils
    from skate import dag as dag
    from skate import experimental as experimental
    from skate import remote_function as remote_function
    from skate import runtime_env as runtime_env
    from skate import util as util
    from skate.compat.hook import as_ray as as_ray
    from skate.core.logging_config import LoggingConfig as LoggingConfig

ObjectID = ObjectRef

# Imported when first asked for. The names above are not: a session starts faster when they are there already.
_MODULES = frozenset(
    {
        *("actor", "as_ray", "cloudpickle", "cluster_utils", "dag", "experimental", "remote_function", "runtime_env"),
        "util",
    }
)

__all__ = [
    "ActorClassID",
    "ActorID",
    "DynamicObjectRefGenerator",
    "FunctionID",
    "JobID",
    "LoggingConfig",
    "NodeID",
    "ObjectID",
    "ObjectRef",
    "ObjectRefGenerator",
    "PlacementGroupID",
    "TaskID",
    "UniqueID",
    "WorkerID",
    "__version__",
    "as_ray",
    "available_resources",
    "cancel",
    "cluster_resources",
    "get",
    "get_actor",
    "get_gpu_ids",
    "get_runtime_context",
    "init",
    "is_initialized",
    "kill",
    "method",
    "nodes",
    "put",
    "remote",
    "shutdown",
    "timeline",
    "wait",
]


if not TYPE_CHECKING:  # or checkers would believe in every name

    def __getattr__(name: str) -> object:
        if name in _MODULES:
            from importlib import import_module

            return import_module(f"skate.{name}")
        if name == "LoggingConfig":
            from skate.core.logging_config import LoggingConfig

            return LoggingConfig
        raise AttributeError(f"module 'skate' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES, *__all__})
