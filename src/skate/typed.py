"""What type checkers know of `remote` and `method`; nothing here runs.

The result of a call is exact: ``ObjectRef[R]``, or ``ObjectRefGenerator[R]`` for a generator.
Arguments are shown with their types, but not enforced: a reference may stand where its value may.

Methods marked with `method` are exact on what ``Class.remote()`` returns. (mypy ignores what a
decorator makes of a class, so there ``Remote = skate.remote(Class)`` is the way to write it.)
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Annotated, Any, Concatenate, ParamSpec, Protocol, TypeVar, overload

from skate.core.generator import ObjectRefGenerator
from skate.core.refs import ObjectRef
from skate.remote_function import RemoteFunction

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
Q_co = TypeVar("Q_co", covariant=True)
T = TypeVar("T")

ActorProxy = Annotated[T, "a handle: its marked methods have .remote"]


class BoundMethod(Protocol[P, R_co, Q_co]):
    """A marked method of an instance: called plainly inside the class, with ``.remote`` outside."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...

    @overload
    def remote(self, *args: P.args, **kwargs: P.kwargs) -> Q_co: ...
    @overload
    def remote(self, *args: Any, **kwargs: Any) -> Q_co: ...

    def options(self, **options: Any) -> Any:
        """The method with other options, for one call."""


class MarkedMethod(Protocol[P, R_co, Q_co]):
    """What `method` makes of a function, seen from the class."""

    def __get__(self, instance: object, owner: Any = None) -> BoundMethod[P, R_co, Q_co]: ...


class MethodDecorator(Protocol):
    """``@method(concurrency_group="io")``."""

    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, function: Callable[Concatenate[Any, P], AsyncIterator[R]]
    ) -> MarkedMethod[P, AsyncIterator[R], ObjectRefGenerator[R]]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, function: Callable[Concatenate[Any, P], Iterator[R]]
    ) -> MarkedMethod[P, Iterator[R], ObjectRefGenerator[R]]: ...
    @overload
    def __call__(
        self, function: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]]
    ) -> MarkedMethod[P, Coroutine[Any, Any, R], ObjectRef[R]]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[Any, P], R]) -> MarkedMethod[P, R, ObjectRef[R]]: ...


class LooseMethodDecorator(Protocol):
    """``@method(num_returns=2)``: what a call returns depends on the number."""

    def __call__(self, function: Callable[Concatenate[Any, P], R]) -> MarkedMethod[P, R, Any]: ...


class ActorClassLike(Protocol[R_co]):
    """What `remote` makes of a class."""

    def remote(self, *args: Any, **kwargs: Any) -> R_co:
        """Make an actor; its handle, which checkers see as an instance of the class."""

    def options(self, **options: Any) -> ActorClassLike[R_co]:
        """The class with other options."""


class RemoteDecorator(Protocol):
    """``@remote(num_cpus=2)``."""

    @overload
    def __call__(self, target: type[T]) -> ActorClassLike[T]: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, target: Callable[P, AsyncIterator[R]]
    ) -> RemoteFunction[P, ObjectRefGenerator[R]]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, target: Callable[P, Iterator[R]]
    ) -> RemoteFunction[P, ObjectRefGenerator[R]]: ...
    @overload
    def __call__(self, target: Callable[P, R]) -> RemoteFunction[P, ObjectRef[R]]: ...


class LooseRemoteDecorator(Protocol):
    """``@remote(num_returns=2)``: what a call returns depends on the number."""

    def __call__(self, target: Callable[P, Any]) -> RemoteFunction[P, Any]: ...
