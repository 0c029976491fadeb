"""A call is checked where it is written: as `inspect.Signature.bind` would, but faster."""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Callable
from typing import Any

import pytest

from skate.core.signature import ANYTHING, Arguments, parameters_of


def with_locals(a, b=2, *rest, c, **others):  # type: ignore[no-untyped-def]
    local = a + b
    return local


@functools.wraps(with_locals)
def wrapping(*args, **kwargs):  # type: ignore[no-untyped-def]
    return with_locals(*args, **kwargs)


FUNCTIONS: list[Callable[..., Any]] = [
    lambda: 0,
    lambda a: 0,
    lambda a, b=1: 0,
    lambda a, /, b, *, c: 0,
    lambda *args, **kwargs: 0,
    lambda a, /, b=2, *rest, c, d=3, **others: 0,
    lambda *, x=1: 0,
    lambda **others: 0,
    lambda a=1, /: 0,
    with_locals,
    wrapping,
]
NAMES = [names for count in range(4) for names in itertools.combinations("abcdxr", count)]


def refusal(call: Callable[[], object]) -> str | None:
    try:
        call()
    except TypeError as error:
        return str(error)
    return None


def check(arguments: Arguments, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    if kwargs or not arguments.fewest <= len(args) <= arguments.most:  # as the callers do
        arguments.check(args, kwargs)


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: str(inspect.signature(f)))
def test_same_verdict_as_bind(function: Callable[..., Any]) -> None:
    arguments = Arguments("f", parameters_of(function))
    signature = inspect.signature(function)
    for count, names in itertools.product(range(5), NAMES):
        args, kwargs = (1,) * count, dict.fromkeys(names, 1)
        expected = refusal(lambda: signature.bind(*args, **kwargs))  # noqa: B023
        found = refusal(lambda: check(arguments, args, kwargs))  # noqa: B023
        assert (expected is None) == (found is None), (args, kwargs)
        assert expected is None or (found is not None and expected in found)


def test_error_shows_the_function() -> None:
    with pytest.raises(TypeError, match=r"missing a required argument: 'a' \(calling f\(a, b=...\)\)"):
        Arguments("f", parameters_of(lambda a, b=1: 0)).check((), {})


def test_function_without_a_signature_takes_anything() -> None:
    assert parameters_of(dict) == ANYTHING
    Arguments("dict", ANYTHING).check((1, 2), {"x": 3})
