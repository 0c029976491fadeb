"""Where Ray's classes in C++ live; libraries import references and ids from here."""

from __future__ import annotations

import enum

from skate.core.generator import DynamicObjectRefGenerator, ObjectRefGenerator
from skate.core.refs import (
    ActorClassID,
    ActorID,
    BaseID,
    FunctionID,
    JobID,
    NodeID,
    ObjectRef,
    PlacementGroupID,
    TaskID,
    UniqueID,
    WorkerID,
)

__all__ = [
    "ActorClassID",
    "ActorID",
    "BaseID",
    "ClusterID",
    "DynamicObjectRefGenerator",
    "FunctionID",
    "JobID",
    "Language",
    "NodeID",
    "ObjectID",
    "ObjectRef",
    "ObjectRefGenerator",
    "PlacementGroupID",
    "StreamingObjectRefGenerator",
    "TaskID",
    "UniqueID",
    "WorkerID",
]

ObjectID = ObjectRef
StreamingObjectRefGenerator = ObjectRefGenerator


class ClusterID(UniqueID):
    """Names a cluster; 28 bytes."""


class Language(enum.IntEnum):
    """A language of tasks and actors, numbered as in Ray. Skate runs Python."""

    PYTHON = 0
    JAVA = 1
    CPP = 2
