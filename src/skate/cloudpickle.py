"""`cloudpickle`, under the name that programs import it by."""

from cloudpickle import *  # noqa: F403
from cloudpickle import CloudPickler, dump, dumps, load, loads

__all__ = ["CloudPickler", "dump", "dumps", "load", "loads"]
