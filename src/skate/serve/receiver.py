"""Telling, in a wrapper around a function, whether it is called as a method."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def is_receiver(function: Callable[..., Any], args: tuple[Any, ...]) -> bool:
    """Is `function` written in a class, and the first of `args` the object that it is called on?

    The first argument of a static method has no attribute of the function's name, so that it is told apart.
    """
    around = function.__qualname__.rpartition(".")[0]
    if not around or around.endswith("<locals>") or not args:
        return False
    return any(function.__name__ in vars(kind) for kind in type(args[0]).__mro__)
