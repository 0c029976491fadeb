"""Who carries calls out: this process itself, or deployments in processes of their own."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import skate
from skate.configuration import Config
from skate.plugin import calls, operations, proxied, telemetry, work
from skate.plugin.carried import Returned, begin_tasks, opened, portable, take_head, with_head
from skate.plugin.catalog import Catalog, UpstreamApi
from skate.plugin.errors import ApiNotFoundError, PluginError
from skate.plugin.host import Host
from skate.plugin.limits import Limit
from skate.plugin.model import PluginApi
from skate.plugin.starting import started, stopped
from skate.plugin.upstream import Upstreams

log = logging.getLogger("skate.plugin")
SERVE_APP = "skate-plugin-{}"


@dataclass(frozen=True)
class Part:
    """A plugin's class that is to be started."""

    plugin: str
    deployment: str
    cls: type
    config: Any
    """The plugin's table, checked."""
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """What every process of a service knows."""

    config: Config
    catalog: Catalog


class _Common:
    """What both kinds do alike: upstream services are called from where the caller is."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.catalog = plan.catalog
        self.upstreams = Upstreams(plan.config)

    def items(self, api: PluginApi, kwargs: Mapping[str, Any]) -> Iterator[Any] | None:
        """See `calls.Runtime`."""
        return None

    async def upstream(self, api: UpstreamApi, kwargs: Mapping[str, Any]) -> Any:
        """Call an upstream service."""
        return await self.upstreams.call(api, kwargs)


class Direct(_Common):
    """Everything in this process, on the event loop of the server."""

    def __init__(self, plan: Plan, parts: list[Part]) -> None:
        super().__init__(plan)
        self.parts = parts
        self.hosts: dict[str, Host] = {}
        self.limits = {part.deployment: Limit.read(part.deployment, part.options) for part in parts}

    async def start(self) -> dict[str, BaseException]:
        """Start the plugins; those that fail, with their causes."""
        calls.set_runtime(self)
        failed: dict[str, BaseException] = {}
        for part in self.parts:
            try:
                host = Host(part.plugin, part.cls, part.config)
                self.hosts[part.deployment] = host
                await started(host, self.plan.config.server.start_timeout_s)
            except Exception as error:  # noqa: BLE001  a plugin may fail of anything, the others start
                self.hosts.pop(part.deployment, None)
                failed[part.plugin] = error
        return failed

    async def stop(self) -> None:
        """End the plugins, the last first."""
        for host in reversed(self.hosts.values()):
            await stopped(host)
        self.hosts.clear()
        await self.upstreams.close()
        if calls.has_runtime() and calls.runtime() is self:
            calls.set_runtime(None)

    def _host(self, api: PluginApi) -> Host:
        host = self.hosts.get(api.deployment)
        if host is None:
            raise NotRunningError(f"{api.deployment} does not run: it could not be started, or has ended.")
        return host

    async def call(self, api: PluginApi, kwargs: Mapping[str, Any], *, checked: bool) -> Any:
        """See `calls.Runtime`."""
        host, limit = self._host(api), self.limits[api.deployment]
        if limit.most and getattr(calls.caller.get(), "deployment", "") == api.deployment:
            return await host.call(api.method, kwargs, checked=checked)
        await limit.enter()
        try:
            return await host.call(api.method, kwargs, checked=checked)
        finally:
            limit.leave()

    async def stream(self, api: PluginApi, kwargs: Mapping[str, Any], *, checked: bool) -> AsyncIterator[Any]:
        """See `calls.Runtime`."""
        host, limit = self._host(api), self.limits[api.deployment]
        inner = getattr(calls.caller.get(), "deployment", "") == api.deployment
        if not inner:
            await limit.enter()
        items = host.stream(api.method, kwargs, checked=checked)
        try:
            async for item in items:
                yield item
        finally:
            await items.aclose()  # type: ignore[attr-defined]
            if not inner:
                limit.leave()

    async def work(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """In a thread."""
        return await work.in_thread(function, args, kwargs)

    async def run_function(self, name: str, arguments: dict[str, Any]) -> Any:
        """Run a function that was registered for other services."""
        return await proxied.run_function(name, arguments)


class NotRunningError(PluginError):
    """A plugin is asked for that does not run."""


class Remote(_Common):
    """Calls go to deployments by their handles. In the server's process, and in each of the deployments'."""

    def __init__(self, plan: Plan, session: Any = None) -> None:
        super().__init__(plan)
        self._session = session
        """What is started, a `skate.plugin.session.Session`; None: in a deployment's process, which starts nothing."""
        self._functions: dict[str, str] = {}
        """Functions registered for other services, and the deployments that have them."""
        self._handles: dict[str, Any] = {}
        self._task: Any = None

    async def start(self) -> dict[str, BaseException]:
        """Deploy the plugins; those that fail, with their causes."""
        assert self._session is not None
        failed: dict[str, BaseException]
        failed, self._functions = await asyncio.to_thread(self._session.start, self.plan)
        calls.set_runtime(self)
        return failed

    async def stop(self) -> None:
        """End the deployments, and the session if it was started for them."""
        assert self._session is not None
        self._handles.clear()
        await self.upstreams.close()
        await asyncio.to_thread(self._session.stop)
        if calls.has_runtime() and calls.runtime() is self:
            calls.set_runtime(None)

    async def run_function(self, name: str, arguments: dict[str, Any]) -> Any:
        """Run a function that was registered for other services, where it is."""
        deployment = self._functions.get(name)
        if deployment is None:
            raise ApiNotFoundError(f"No function {name!r} is registered here.")
        try:
            return await self._handle(deployment).run_function.remote(
                name, arguments, calls.request_id.get(), *telemetry.sent()
            )
        except skate.exceptions.RayTaskError as error:
            raise cause_of(error) from None

    def _handle(self, deployment: str) -> Any:
        handle = self._handles.get(deployment)
        if handle is None:
            from skate.serve.handle import DeploymentHandle

            handle = self._handles[deployment] = DeploymentHandle(deployment, SERVE_APP.format(deployment))
        return handle

    async def call(self, api: PluginApi, kwargs: Mapping[str, Any], *, checked: bool) -> Any:
        """See `calls.Runtime`."""
        handle = self._handle(api.deployment)
        try:
            value = await handle.call.remote(
                api.method, await portable(kwargs), checked, calls.request_id.get(), *telemetry.sent()
            )
        except skate.exceptions.RayTaskError as error:
            raise cause_of(error) from None
        return take_head(value, kwargs) if type(value) is Returned else value

    async def stream(self, api: PluginApi, kwargs: Mapping[str, Any], *, checked: bool) -> AsyncIterator[Any]:
        """See `calls.Runtime`."""
        handle = self._handle(api.deployment).stream.options(stream=True)
        items = handle.remote(api.method, await portable(kwargs), checked, calls.request_id.get(), *telemetry.sent())
        ended = False
        try:
            async for item in items:
                yield item
            ended = True
        except skate.exceptions.RayTaskError as error:
            ended = True
            raise cause_of(error) from None
        finally:
            if not ended:
                items.cancel()

    def items(self, api: PluginApi, kwargs: Mapping[str, Any]) -> Iterator[Any] | None:
        """See `calls.Runtime`. An event loop that is blocked would not hear of them."""
        return self._items(api, kwargs)

    def _items(self, api: PluginApi, kwargs: Mapping[str, Any]) -> Iterator[Any]:
        sent = asyncio.run(portable(kwargs))
        handle = self._handle(api.deployment).stream.options(stream=True)
        try:
            yield from handle.remote(api.method, sent, False, calls.request_id.get(), *telemetry.sent())
        except skate.exceptions.RayTaskError as error:
            raise cause_of(error) from None

    async def work(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """As a task of its own."""
        if self._task is None:
            self._task = skate.remote(_run_task)
        name = work.by_name(function)
        try:
            return await self._task.remote(name, None if name else function, args, dict(kwargs), *telemetry.sent())
        except skate.exceptions.RayTaskError as error:
            raise cause_of(error) from None


class Inside(Remote):
    """In the process of a deployment: it calls itself without a detour."""

    own: tuple[str, Replica] | None = None
    """The deployment that this process is."""

    async def start(self) -> dict[str, BaseException]:
        """Start the plugin that is here, if one is; those that fail, with their causes."""
        if self.own is None:
            return {}
        try:
            await self.own[1].start()
        except Exception as error:  # noqa: BLE001  a plugin may fail of anything; whoever deploys it is told
            return {self.own[1].host.plugin: error}
        return {}

    async def stop(self) -> None:
        """What is here ends with its process."""

    async def call(self, api: PluginApi, kwargs: Mapping[str, Any], *, checked: bool) -> Any:
        """See `calls.Runtime`."""
        if self.own is not None and self.own[0] == api.deployment:
            return await self.own[1].host.call(api.method, kwargs, checked=checked)
        return await super().call(api, kwargs, checked=checked)

    def stream(self, api: PluginApi, kwargs: Mapping[str, Any], *, checked: bool) -> AsyncIterator[Any]:
        """See `calls.Runtime`."""
        if self.own is not None and self.own[0] == api.deployment:
            return self.own[1].host.stream(api.method, kwargs, checked=checked)
        return super().stream(api, kwargs, checked=checked)

    def items(self, api: PluginApi, kwargs: Mapping[str, Any]) -> Iterator[Any] | None:
        """See `calls.Runtime`."""
        if self.own is not None and self.own[0] == api.deployment:
            return None  # what is here does not wait for this process's event loop
        return super().items(api, kwargs)


def _run_task(
    name: tuple[str, str] | None,
    function: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    trace: telemetry.Sent | None = None,
) -> Any:
    if trace is not None:
        with telemetry.joined(trace, name[1] if name else function.__qualname__):
            return _run_task(name, function, args, kwargs)
    if name is not None:
        return work.run_named(*name, args, kwargs)
    return work.run_here(function, args, kwargs)


def cause_of(error: Any) -> BaseException:
    """What a plugin raised in its process; the traceback of that process is among its notes."""
    cause = getattr(error, "cause", None)
    if not isinstance(cause, BaseException):
        return error  # type: ignore[no-any-return]
    if not getattr(cause, "__notes__", None):
        cause.add_note(str(error).rstrip())
    return cause


class Replica:
    """The deployment of a plugin's class: what runs in a process of its own."""

    def __init__(self, plan: Plan, plugin: str, deployment: str, pickled: bytes, config: Any) -> None:
        import pickle

        operations.set_up(plan.config)
        self.runtime = Inside(plan)
        calls.set_runtime(self.runtime)
        self.host = Host(plugin, pickle.loads(pickled), config)
        self.runtime.own = (deployment, self)
        self.deployment = deployment
        self.upstreams = self.runtime.upstreams
        self._started: asyncio.Task[None] | None = None

    async def start(self) -> list[str]:
        """Have the plugin start; once, whoever asks first. The functions that it registered for other services."""
        if self._started is None:
            self._started = asyncio.create_task(self.host.start())
        await asyncio.shield(self._started)
        return list(proxied.FUNCTIONS)

    async def run_function(
        self, name: str, arguments: dict[str, Any], request_id: str, trace: telemetry.Sent | None = None
    ) -> Any:
        """Run a function that was registered for other services."""
        if self._started is None or not self._started.done():
            await self.start()
        calls.request_id.set(request_id)
        with self._traced(name, trace):
            return await proxied.run_function(name, arguments)

    async def call(
        self,
        method: str,
        kwargs: Mapping[str, Any],
        checked: bool,
        request_id: str,
        trace: telemetry.Sent | None = None,
    ) -> Any:
        """Call a method of the plugin."""
        if self._started is None or not self._started.done():
            await self.start()
        calls.request_id.set(request_id)
        values = opened(kwargs)
        if trace is None:
            return await with_head(await self.host.call(method, values, checked=checked), values)
        with self._traced(f"{self.deployment}.{method}", trace):
            return await with_head(await self.host.call(method, values, checked=checked), values)

    def _traced(self, name: str, trace: telemetry.Sent | None) -> contextlib.AbstractContextManager[Any]:
        if trace is None or telemetry.current is None:
            return contextlib.nullcontext()
        return telemetry.current.served(trace, name, self.host.plugin)

    async def stream(
        self,
        method: str,
        kwargs: Mapping[str, Any],
        checked: bool,
        request_id: str,
        trace: telemetry.Sent | None = None,
    ) -> AsyncIterator[Any]:
        """Call a method of the plugin that is a generator."""
        if self._started is None or not self._started.done():
            await self.start()
        calls.request_id.set(request_id)
        values = opened(kwargs)
        items = self.host.stream(method, values, checked=checked)
        if trace is not None and telemetry.current is not None:
            items = telemetry.current.served_items(trace, f"{self.deployment}.{method}", self.host.plugin, items)
        try:
            async for item in items:
                yield item
            begin_tasks(values)
        finally:
            await items.aclose()  # type: ignore[attr-defined]

    async def check_health(self) -> None:
        """The plugin's own check: on the event loop if it is a coroutine function, else in a thread."""
        check = getattr(self.host.instance, "check_health", None)
        if check is not None:
            value = await (check() if inspect.iscoroutinefunction(check) else asyncio.to_thread(check))
            if inspect.isawaitable(value):
                await value

    async def __del__(self) -> None:
        await stopped(self.host)
        await self.upstreams.close()
        await operations.flush()
