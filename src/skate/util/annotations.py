"""Marks of how stable a name is, for libraries that mark their own; they change nothing."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["AnnotationType", "Deprecated", "DeveloperAPI", "PublicAPI", "RayDeprecationWarning"]

T = TypeVar("T")


class AnnotationType(enum.Enum):
    """The kinds of marks."""

    PUBLIC_API = "PublicAPI"
    DEVELOPER_API = "DeveloperAPI"
    DEPRECATED = "Deprecated"
    UNKNOWN = "Unknown"


class RayDeprecationWarning(DeprecationWarning):
    """What libraries warn with about names of theirs that will go."""


def _mark(*args: Any, **facts: Any) -> Any:
    if len(args) == 1 and callable(args[0]) and not facts:
        return args[0]

    def as_it_is(target: T) -> T:
        return target

    return as_it_is


PublicAPI: Callable[..., Any] = _mark
DeveloperAPI: Callable[..., Any] = _mark
Deprecated: Callable[..., Any] = _mark
