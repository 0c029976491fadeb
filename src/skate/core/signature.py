"""Whether arguments fit a function: decided in the caller, before anything is sent."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import inspect

Parameters = tuple[tuple[str, int, bool], ...]
"""Name, `inspect` kind and whether it has a default, of each parameter."""

_POSITIONAL = (0, 1)
_UNLIMITED = 1 << 30
ANYTHING: Parameters = (("args", 2, False), ("kwargs", 4, False))
"""The parameters of a function that takes whatever it is given."""


def parameters_of(function: Callable[..., Any], skip: int = 0) -> Parameters:
    """The parameters of `function` but for the first `skip`; `ANYTHING` if it does not tell."""
    plain = type(function) is FunctionType and not (
        "__wrapped__" in function.__dict__ or "__signature__" in function.__dict__
    )
    found = _of_code(function) if plain else _of_signature(function)
    return found[skip:] if skip and found and found[0][1] in _POSITIONAL else found


def _of_code(function: Any) -> Parameters:
    """What `inspect.signature` would find for a plain function, in a tenth of the time."""
    code = function.__code__
    count, named = code.co_argcount, code.co_kwonlyargcount
    names = code.co_varnames
    first_default = count - len(function.__defaults__ or ())
    found = [(names[i], 0 if i < code.co_posonlyargcount else 1, i >= first_default) for i in range(count)]
    rest = count + named
    if code.co_flags & 0x04:
        found.append((names[rest], 2, False))
        rest += 1
    defaults = function.__kwdefaults__ or {}
    found += [(name, 3, name in defaults) for name in names[count : count + named]]
    if code.co_flags & 0x08:
        found.append((names[rest], 4, False))
    return tuple(found)


def _of_signature(function: Callable[..., Any]) -> Parameters:
    import inspect

    try:
        found = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return ANYTHING
    return tuple((p.name, int(p.kind), p.default is not p.empty) for p in found)


class Arguments:
    """Knows which calls a list of parameters accepts.

    Callers look at `fewest` and `most` themselves: when there are no keyword arguments and the
    number of positional ones lies between the two, the call fits, and nothing else has to run.
    """

    __slots__ = ("_extra", "_names", "_required", "fewest", "most", "name", "parameters")

    def __init__(self, name: str, parameters: Parameters) -> None:
        self.name = name
        self.parameters = parameters
        positional = [p for p in parameters if p[1] in _POSITIONAL]
        self.fewest = sum(not default for _, _, default in positional)
        self.most = len(positional)
        if any(kind == 2 for _, kind, _ in parameters):
            self.most = _UNLIMITED
        if any(kind == 3 and not default for _, kind, default in parameters):
            self.fewest = _UNLIMITED  # a keyword is required: the count never decides
        self._extra = any(kind == 4 for _, kind, _ in parameters)
        self._names: list[frozenset[str]] = []
        self._required: list[frozenset[str]] = []
        named = [p for p in parameters if p[1] == 3]
        for taken in range(len(positional) + 1):
            rest = positional[taken:] + named
            self._names.append(frozenset(n for n, kind, _ in rest if kind != 0))
            self._required.append(frozenset(n for n, _, default in rest if not default))

    def check(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Raise TypeError unless the call fits."""
        count = len(args)
        if count <= self.most and not self._extra:
            at = min(count, len(self._names) - 1)
            given = kwargs.keys()
            if self._required[at] <= given <= self._names[at]:
                return
        try:
            self.signature().bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{error} (calling {self.name}{self._shown()})") from None

    def signature(self) -> inspect.Signature:
        """The parameters as a `Signature`; defaults show as ``...``."""
        import inspect

        return inspect.Signature(
            [
                inspect.Parameter(name, inspect._ParameterKind(kind), default=... if default else inspect._empty)
                for name, kind, default in self.parameters
            ]
        )

    def _shown(self) -> str:
        return str(self.signature()).replace("=Ellipsis", "=...")
