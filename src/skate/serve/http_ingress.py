"""``@serve.ingress``: a deployment whose HTTP side is a FastAPI or other ASGI application.

The decorated class only notes the application. Each replica gets a copy of its own, in which FastAPI routes that were
written as methods are bound to the replica's instance; then the application's lifespan begins, and it ends with the
replica.
"""

from __future__ import annotations

import asyncio
import contextlib
import copyreg
import inspect
import sys
from collections.abc import Callable, Iterator
from types import MethodType
from typing import Any

from skate.serve.exceptions import RayServeException

MARK = "__serve_ingress__"
_CLASS = "_skate_serve_class"
BUILD = "__serve_build_asgi_app__"


def ingress(app: Any = None) -> Callable[..., Any]:
    """Give a deployment class an ASGI application for its HTTP requests.

    Args:
        app: a FastAPI application, whose routes may be methods of the class (with ``self``); any other ASGI
            application; a function without arguments that returns one, called in each replica; or None: the class has
            a method ``__serve_build_asgi_app__`` that returns it, called after the constructor.

    Returns a decorator. Called without a class it makes one: ``serve.deployment(serve.ingress(app)())``.

    Raises ValueError for what is no class, for one that has ``__call__``, or lacks that method.
    """

    def decorate(cls: Any = None) -> Any:
        if cls is None:
            cls = _plain_class()
        if not inspect.isclass(cls):
            raise ValueError("@serve.ingress must be used with a class.")
        if any("__call__" in vars(base) for base in cls.__mro__):
            raise ValueError("Classes passed to @serve.ingress may not have __call__ method.")
        if app is None and not hasattr(cls, BUILD):
            raise ValueError(f"serve.ingress() without an application needs {cls.__name__} to define `{BUILD}`.")
        _make_picklable()
        for route, _, _ in _routes(app):
            if _is_method_of(route.endpoint, cls):
                _mark(route.endpoint, cls)
        docs = getattr(app, "docs_url", None)  # FastAPI's
        noted = {"asgi": True, "docs_path": docs if isinstance(docs, str) else None}
        wrapper = type(cls.__name__, (cls,), {MARK: noted, "__serve_asgi_app__": _Held(app)})
        for name in ("__module__", "__qualname__", "__doc__"):
            setattr(wrapper, name, getattr(cls, name))
        return wrapper

    return decorate


class _Held:
    """Keeps an application as it is in a class's dictionary, where a function would become a method."""

    def __init__(self, app: Any) -> None:
        self.app = app


def _plain_class() -> type:
    class ASGIIngressDeployment:
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self.args = args
            self.kwargs = kwargs

    return ASGIIngressDeployment


def is_ingress(instance: Any) -> bool:
    """Was the class of a replica's instance decorated?"""
    return hasattr(type(instance), MARK)


async def application(instance: Any) -> Any:
    """The ASGI application of a replica's instance, ready but for its lifespan."""
    held: _Held = type(instance).__serve_asgi_app__
    app = held.app
    if app is None:
        app = getattr(instance, BUILD)()
    elif inspect.isfunction(app) and not _is_asgi(app):
        app = app()
    if inspect.isawaitable(app):
        app = await app
    if not callable(app):
        raise RayServeException(f"serve.ingress got {app!r}, which is no ASGI application")
    _bind(app, instance)
    return app


def _is_asgi(function: Any) -> bool:
    """Is a function an application itself, rather than one that makes it?"""
    try:
        inspect.signature(function).bind()
    except TypeError:  # it cannot be called without arguments
        return True
    return False


# ---------------------------------------------------------------------- FastAPI


def _routes(app: Any, prefix: str = "") -> Iterator[tuple[Any, Any, int]]:
    """FastAPI's routes of an application with the list each is in, and where."""
    fastapi = sys.modules.get("fastapi")
    if fastapi is None or not isinstance(app, fastapi.FastAPI | fastapi.APIRouter):
        return
    from fastapi.routing import APIRoute, APIWebSocketRoute

    router = app.router if isinstance(app, fastapi.FastAPI) else app
    for place, route in enumerate(router.routes):
        if isinstance(route, APIRoute | APIWebSocketRoute):
            yield route, router, place
        else:
            inner = getattr(route, "original_router", None)  # how newer versions include a router
            if inner is not None:
                yield from _routes(inner)


def _is_method_of(endpoint: Any, cls: type) -> bool:
    """Was this written as a method of the class, or of one that it inherits from?"""
    written = getattr(endpoint, "__qualname__", "")
    module = getattr(endpoint, "__module__", None)
    return any(
        written.startswith(f"{base.__qualname__}.")
        and "<locals>" not in written[len(base.__qualname__) :]
        and module == base.__module__
        for base in cls.__mro__
        if base is not object
    )


def _mark(endpoint: Any, cls: type) -> None:
    if not list(inspect.signature(endpoint).parameters):
        raise RayServeException("Methods in FastAPI class-based view must have ``self`` as their first argument.")
    owners = getattr(endpoint, _CLASS, ())
    setattr(endpoint, _CLASS, (*owners, f"{cls.__module__}.{cls.__qualname__}"))
    # FastAPI looks at the annotations again in the replica, where a function has only those globals that its code uses.
    for name, written in list(endpoint.__annotations__.items()):
        if isinstance(written, str):
            with contextlib.suppress(
                NameError, AttributeError
            ):  # FastAPI knows what to do with what has no meaning yet
                endpoint.__annotations__[name] = eval(written, endpoint.__globals__)


def _bind(app: Any, instance: Any) -> None:
    """Bind the routes that are methods to the instance, and drop those of other classes."""
    cls = type(instance)
    name = f"{cls.__module__}.{cls.__qualname__}"
    foreign = []
    for route, router, place in list(_routes(app)):
        owners = getattr(route.endpoint, _CLASS, ())
        if name in owners:
            router.routes[place] = _with_endpoint(route, router, MethodType(route.endpoint, instance))
        elif owners:
            foreign.append((router, route))
    for router, route in foreign:
        router.routes.remove(route)


def _with_endpoint(route: Any, router: Any, endpoint: Any) -> Any:
    """The same route with another endpoint, whose signature is looked at anew."""
    arguments = {
        name: getattr(route, name)
        for name in list(inspect.signature(type(route).__init__).parameters)[1:]
        if hasattr(route, name)
    }
    arguments.setdefault("dependency_overrides_provider", getattr(router, "dependency_overrides_provider", None))
    arguments["endpoint"] = endpoint
    return type(route)(**arguments)


def _make_picklable() -> None:
    """Applications travel to their replicas by pickle, and two of their parts do not do so by themselves.

    Starlette's State looks for its attributes in one that is not there yet; how FastAPI includes a router has a lock.
    """
    datastructures = sys.modules.get("starlette.datastructures")
    if datastructures is not None:
        copyreg.pickle(datastructures.State, _reduce_state)
    included = getattr(sys.modules.get("fastapi.routing"), "_IncludedRouter", None)
    if included is not None:
        copyreg.pickle(included, _reduce_included)


def _reduce_state(state: Any) -> tuple[Any, ...]:
    return _state, (dict(state._state),)


def _state(values: dict[str, Any]) -> Any:
    from starlette.datastructures import State

    return State(values)


def _reduce_included(included: Any) -> tuple[Any, ...]:
    own = {"original_router": included.original_router, "include_context": included.include_context}
    return object.__new__, (type(included),), own, None, None, _fill_included


def _fill_included(included: Any, own: dict[str, Any]) -> None:
    included.__init__(**own)


# ---------------------------------------------------------------------- lifespan


class Lifespan:
    """An application's lifespan, from its replica's start to its end."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.state: dict[str, Any] = {}
        """What the application puts there is in each request's ``scope["state"]``."""
        self._to_app: asyncio.Queue[Any] = asyncio.Queue()
        self._answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._task: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        """Have the application start. Raises RuntimeError when it cannot; one without a lifespan is left alone."""
        self._task = asyncio.create_task(self._run())
        problem = await self._ask("lifespan.startup")
        if problem:
            raise RuntimeError(f"The lifespan of the ASGI application failed at its start: {problem}")

    async def end(self) -> None:
        """Have the application end. Raises RuntimeError when it fails."""
        if self._task is None or self._task.done():
            return
        self._answer = asyncio.get_running_loop().create_future()
        problem = await self._ask("lifespan.shutdown")
        if problem:
            raise RuntimeError(f"The lifespan of the ASGI application failed at its end: {problem}")

    async def _ask(self, what: str) -> str:
        self._to_app.put_nowait({"type": what})
        return await self._answer

    async def _run(self) -> None:
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self.state}
        try:
            await self.app(scope, self._to_app.get, self._send)
        except Exception as error:  # noqa: BLE001  an application that knows no lifespan raises whatever it likes
            begun = getattr(self, "_begun", False)
            self._say(f"{type(error).__name__}: {error}" if begun else "")
        finally:
            self._say("")

    async def _send(self, message: Any) -> None:
        kind = message["type"]
        if kind == "lifespan.startup.complete":
            self._begun = True
        self._say(message.get("message", "") or "it says so" if kind.endswith(".failed") else "")

    def _say(self, problem: str) -> None:
        if not self._answer.done():
            self._answer.set_result(problem)
