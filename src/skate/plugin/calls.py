"""Calls from plugin to plugin: whoever answers, and wherever it runs, they look the same."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextvars import ContextVar, copy_context
from typing import Any, Protocol

from skate.plugin import telemetry
from skate.plugin.catalog import Callee, Catalog, UpstreamApi
from skate.plugin.encoding import plain
from skate.plugin.errors import PluginError
from skate.plugin.model import PluginApi

log = logging.getLogger("skate.plugin")


class Caller(str):
    """The name of the plugin whose code runs."""

    deployment = ""
    """Its class that runs: what that calls of itself does not wait for a turn, for it has one."""


caller: ContextVar[str | None] = ContextVar("skate_plugin_caller", default=None)
"""The plugin whose code runs; None: the program's own."""
request_id: ContextVar[str] = ContextVar("skate_plugin_request_id", default="")
"""The request that all of this is done for."""


class Runtime(Protocol):
    """Whoever carries calls out in this process."""

    catalog: Catalog

    async def call(self, api: PluginApi, kwargs: Mapping[str, Any], *, checked: bool) -> Any:
        """Call a method; `checked`: its arguments have been validated."""

    def stream(self, api: PluginApi, kwargs: Mapping[str, Any], *, checked: bool) -> AsyncIterator[Any]:
        """Call a method that is a generator."""

    def items(self, api: PluginApi, kwargs: Mapping[str, Any]) -> Iterator[Any] | None:
        """The same for a thread without an event loop; None: only `stream` gives them."""

    async def upstream(self, api: UpstreamApi, kwargs: Mapping[str, Any]) -> Any:
        """Call an upstream service; a stream gives an async iterator."""

    async def work(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Run a function marked with `remote` away from the event loop."""


_runtime: Runtime | None = None


def set_runtime(runtime: Runtime | None) -> None:
    """Have a runtime carry out the calls of this process."""
    global _runtime
    _runtime = runtime


def runtime() -> Runtime:
    """The runtime of this process. Raises PluginError where no service runs."""
    if _runtime is None:
        raise PluginError("No service of plugins runs in this process: skate.plugin.run() starts one.")
    return _runtime


def has_runtime() -> bool:
    """Whether a service runs in this process."""
    return _runtime is not None


async def call_plugin_api(api_name: str, /, **kwargs: Any) -> Any:
    """Call another plugin, wherever it runs, or an upstream service.

    Args:
        api_name: a path as in ``/api/v1/echo``, or a name as in ``echo.EchoPlugin.confess``; the calling plugin's
            ``required_remote_apis`` must have it.
        kwargs: the arguments. Pydantic models can be given as dictionaries.

    Returns:
        What it returned; by its path, models come as dictionaries, as they would over HTTP. Of a stream, a `Stream`.

    Raises:
        ApiNotAllowedError: the plugin did not declare it.
        ArgumentsError: the arguments do not fit.
        UpstreamError: an upstream service failed.
        What the other plugin raised.
    """
    return await call_as(caller.get(), api_name, kwargs)


async def call_as(plugin: str | None, api_name: str, kwargs: Mapping[str, Any]) -> Any:
    """As `call_plugin_api`, for a plugin."""
    here = runtime()
    api = here.catalog.resolve(plugin, api_name)
    tracing = telemetry.current
    if not isinstance(api, UpstreamApi) and api.route.stream:

        def begin() -> AsyncIterator[Any]:
            return here.stream(api, kwargs, checked=False)

        def traced() -> AsyncIterator[Any]:
            return begin() if tracing is None else tracing.items(plugin, api.name, begin)

        return Stream(traced, lambda: here.items(api, kwargs))
    if tracing is None:
        return await _ask(here, api, api_name, kwargs)
    with tracing.call(plugin, api.name):
        return await _ask(here, api, api_name, kwargs)


async def _ask(here: Runtime, api: Callee, api_name: str, kwargs: Mapping[str, Any]) -> Any:
    if isinstance(api, UpstreamApi):
        found = await here.upstream(api, kwargs)
        return Stream(lambda: found) if hasattr(found, "__aiter__") else found
    value = await here.call(api, kwargs, checked=False)
    return _as_sent(value) if api_name.startswith("/") else value


def _as_sent(value: Any) -> Any:
    try:
        return plain(value)
    except ValueError:  # it has no JSON; callers in Python may still use it
        return value


class Stream:
    """The items of another plugin's stream, each as soon as it is there: ``async for item in stream``.

    A plain ``for`` works too, and blocks the event loop meanwhile.
    """

    def __init__(
        self, begin: Callable[[], AsyncIterator[Any]], waiting: Callable[[], Iterator[Any] | None] = lambda: None
    ) -> None:
        self._begin = begin
        self._waiting = waiting
        self._items: AsyncIterator[Any] | None = None

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        if self._items is None:
            self._items = self._begin()
        return await anext(self._items)

    async def aclose(self) -> None:
        """End the stream early."""
        close = getattr(self._items, "aclose", None)
        if close is not None:
            await close()

    def __iter__(self) -> Iterator[Any]:
        log.warning("a stream of another plugin is read with `for`, which blocks the event loop: use `async for`")
        items: queue.SimpleQueue[tuple[bool, Any]] = queue.SimpleQueue()

        async def collect() -> None:
            async for item in self:
                items.put((True, item))

        def run() -> None:
            try:
                plain_items = self._waiting()
                if plain_items is None:
                    asyncio.run(collect())
                for item in plain_items or ():
                    items.put((True, item))
            except BaseException as error:  # noqa: BLE001  it is raised where the stream is read
                items.put((False, error))
            else:
                items.put((False, None))

        threading.Thread(target=copy_context().run, args=(run,), name="skate-stream", daemon=True).start()
        while True:
            more, value = items.get()
            if more:
                yield value
            elif value is not None:
                raise value
            else:
                return
