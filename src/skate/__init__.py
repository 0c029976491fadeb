"""Skate: Ray's programming model on an engine that lives inside your program.

import skate as ray

@ray.remote
def square(x: int) -> int:
    return x * x

assert ray.get([square.remote(i) for i in range(4)]) == [0, 1, 4, 9]
"""

from skate._version import __version__

TYPE_CHECKING = False  # what `typing` would say; importing it is most of what `import skate` costs

if TYPE_CHECKING:
    from skate import actor as actor
    from skate import cloudpickle as cloudpickle
    from skate import exceptions as exceptions
    from skate import remote_function as remote_function
    from skate import runtime_context as runtime_context
    from skate import runtime_env as runtime_env
    from skate import types as types
    from skate import util as util
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
    from skate.api import wait as wait
    from skate.core.generator import DynamicObjectRefGenerator as DynamicObjectRefGenerator
    from skate.core.generator import ObjectRefGenerator as ObjectRefGenerator
    from skate.core.refs import ActorID as ActorID
    from skate.core.refs import JobID as JobID
    from skate.core.refs import NodeID as NodeID
    from skate.core.refs import ObjectRef as ObjectRef
    from skate.core.refs import PlacementGroupID as PlacementGroupID
    from skate.core.refs import TaskID as TaskID
    from skate.core.refs import WorkerID as WorkerID
    from skate.runtime_context import get_runtime_context as get_runtime_context

    ObjectID = ObjectRef

# Where each name lives: it is imported when it is first asked for, so that `import skate` costs
# next to nothing.
_HOMES = {
    "skate.api": (
        "available_resources cancel cluster_resources get get_actor get_gpu_ids init "
        "is_initialized kill method nodes put remote shutdown wait"
    ),
    "skate.core.generator": "DynamicObjectRefGenerator ObjectRefGenerator",
    "skate.core.refs": "ActorID JobID NodeID ObjectID ObjectRef PlacementGroupID TaskID WorkerID",
    "skate.runtime_context": "get_runtime_context",
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}
_MODULES = frozenset(
    {"actor", "cloudpickle", "exceptions", "remote_function", "runtime_context", "runtime_env"} | {"types", "util"}
)

__all__ = ["__version__", *sorted(_HOME_OF)]


if not TYPE_CHECKING:  # or checkers would believe in every name

    def __getattr__(name: str) -> object:
        from importlib import import_module

        if name in _MODULES:
            return import_module(f"skate.{name}")
        home = _HOME_OF.get(name)
        if home is None:
            raise AttributeError(f"module 'skate' has no attribute {name!r}")
        named = "ObjectRef" if name == "ObjectID" else name
        value = globals()[name] = getattr(import_module(home), named)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})
