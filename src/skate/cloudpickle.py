"""`cloudpickle`, under the name that programs import it by."""

from cloudpickle import *  # noqa: F403
from cloudpickle import (
    CloudPickler,
    Pickler,
    dump,
    dumps,
    load,
    loads,
    register_pickle_by_value,
    unregister_pickle_by_value,
)
from cloudpickle.cloudpickle import dynamic_subimport, list_registry_pickle_by_value, subimport

__all__ = [
    "CloudPickler",
    "Pickler",
    "dump",
    "dumps",
    "dynamic_subimport",
    "list_registry_pickle_by_value",
    "load",
    "loads",
    "register_pickle_by_value",
    "subimport",
    "unregister_pickle_by_value",
]
