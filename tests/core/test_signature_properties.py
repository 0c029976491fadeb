"""Calls are accepted exactly when `inspect` would bind them, whatever the parameters."""

from __future__ import annotations

import inspect
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from skate.core.signature import Arguments, parameters_of


@st.composite
def functions(draw: st.DrawFn) -> Any:
    """A function with any legal list of parameters."""
    only, both, named = (draw(st.integers(0, 2)) for _ in range(3))
    defaults_from = draw(st.integers(0, only + both))
    parts, number = [], 0
    for i in range(only + both):
        parts.append(f"p{number}" + ("=0" if i >= defaults_from else ""))
        number += 1
        if i + 1 == only:
            parts.append("/")
    if draw(st.booleans()):
        parts.append("*rest")
    elif named:
        parts.append("*")
    if "*" in "".join(parts):
        for _ in range(named):
            parts.append(f"p{number}" + ("=0" if draw(st.booleans()) else ""))
            number += 1
    if draw(st.booleans()):
        parts.append("**others")
    found: dict[str, Any] = {}
    exec(f"def function({', '.join(parts)}):\n    local = 1\n    return local", found)
    return found["function"]


@given(
    function=functions(), count=st.integers(0, 6), names=st.sets(st.sampled_from([f"p{i}" for i in range(7)] + ["x"]))
)
@settings(max_examples=400)
def test_the_verdict_is_that_of_bind(function, count, names):
    args, kwargs = (0,) * count, dict.fromkeys(names, 0)
    try:
        inspect.signature(function).bind(*args, **kwargs)
        fits = True
    except TypeError:
        fits = False
    arguments = Arguments("function", parameters_of(function))
    try:
        if kwargs or not arguments.fewest <= len(args) <= arguments.most:  # as the callers do
            arguments.check(args, kwargs)
        found = True
    except TypeError:
        found = False
    assert found is fits, f"{inspect.signature(function)} {args} {kwargs}"


@given(functions())
@settings(max_examples=200)
def test_the_parameters_are_those_that_inspect_finds(function):
    expected = inspect.signature(function).parameters.values()
    assert parameters_of(function) == tuple((p.name, int(p.kind), p.default is not p.empty) for p in expected)
    assert str(Arguments("f", parameters_of(function)).signature()) == str(inspect.signature(function)).replace(
        "=0", "=Ellipsis"
    )


@given(functions())
def test_self_is_left_out_of_a_methods_parameters(function):
    whole = parameters_of(function)
    found = parameters_of(function, skip=1)
    assert found == (whole[1:] if whole and whole[0][1] in (0, 1) else whole)
