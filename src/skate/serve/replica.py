"""A replica: the actor that holds one instance of a deployment and runs its requests."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections import deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from time import perf_counter
from types import CoroutineType
from typing import Any, NamedTuple

import skate
from skate import exceptions
from skate.serve import board, context, logs, measures, streams
from skate.serve.config import DeploymentConfig
from skate.serve.context import (
    DeploymentID,
    ReplicaContext,
    ReplicaID,
    ReplicaRank,
    RequestContext,
    replica_here,
    request_context,
)
from skate.serve.exceptions import UnknownMethodError
from skate.serve.gang import GangContext
from skate.serve.grpc_replica import MANY, ONE, Calls
from skate.serve.http_loop import FastLoop
from skate.serve.http_relay import METHOD as HTTP
from skate.serve.target import Introduction, Target
from skate.util.metrics_registry import Table

MOST_THREADS = 256
TELL_S, TELL_AGAIN_S = 0.2, 2.0
"""Seconds between two reports of what is in hand, where that must be told; and after which it is told in any case."""


class Refused(NamedTuple):
    """Answer of a replica that does not take a request: nothing of it was run."""

    why: str
    """``full``, ``leaving`` or ``argument`` (an argument of it was refused elsewhere)."""


class Replica:
    """One replica. Its process is up when `placed` answers; `start` makes the instance."""

    def __init__(
        self, name: str, deployment: str, app: str, slot: int, place: board.Place | None, rank: int, world_size: int,
        loop: FastLoop | None = None, gang: GangContext | None = None,
    ) -> None:  # fmt: skip
        self.id = ReplicaID(name, DeploymentID(deployment, app))
        self.tags = (deployment, name, app)
        """Of its metrics."""
        self.logs_requests = False
        self.rank, self.world_size = rank, world_size
        self.gang = gang
        self.shares = place is not None and board.is_known(place)
        """Whether the process holds more than this replica."""
        self.board = board.attach(place, context.session_folder) if place is not None else board.private()
        self.slot = slot
        self.words = self.board.words
        self.word = board.word_of(slot)
        self.words[self.word] = 0  # another replica of this machine may have had it
        self.ongoing = 0
        self.max_ongoing = 1
        self.methods: dict[str, Callable[..., Any]] = {}
        """How to run each method that was called already."""
        self.instance: Any = None
        self.is_function = False
        self.leaving = False
        self.ending: asyncio.Future[None] | None = None
        self.idle: asyncio.Event | None = None
        self.gone = asyncio.Event()
        self.threads: ThreadPoolExecutor | None = None
        self.target: Target | None = None
        self.context: ReplicaContext | None = None
        self.made = asyncio.Event()
        """Set when the constructor has ended."""
        self.problem: BaseException | None = None
        """What it raised."""
        self.waiting: deque[asyncio.Future[None]] = deque()
        """HTTP requests that wait here for their turn."""
        self.http: Any = None
        self.grpc: Calls | None = None
        self.telling: asyncio.Task[None] | None = None
        self.info: dict[str, Any] = {"board": self.board.identity}
        """What callers have to know of this replica."""

    # ------------------------------------------------------------------ the controller's

    async def placed(self) -> dict[str, Any]:
        """That the process is there, and where."""
        return context.whereabouts()

    async def who(self) -> Introduction:
        """For a controller that was restarted."""
        info = self.info if self.made.is_set() and self.problem is None else None
        return Introduction(self.target, self.rank, self.slot, await self.placed(), info, self.gang, self.leaving)

    async def until_made(self) -> dict[str, Any]:
        """What `start` told, or raised."""
        await self.made.wait()
        if self.problem is not None:
            raise self.problem
        return self.info

    async def start(self, code: bytes, target: Target) -> dict[str, Any]:
        """Make the instance; what callers have to know of it."""
        if not self.shares:
            context.replica, context.loop = self, asyncio.get_running_loop()
        context.replica_here.set(self)
        self.target = target
        try:
            await self._make(code, target)
            if target.ingress:
                await self._serve_http(target.config)
        except BaseException as error:
            self.problem = error
            raise
        finally:
            self.made.set()
        if self.board.place is None:
            self.telling = asyncio.get_running_loop().create_task(self._tell_load())
        return self.info

    async def _tell_load(self) -> None:
        """On another machine than the controller's, where it cannot see the board: tell it what is in hand here, and
        write down for the callers of this machine what others have.
        """
        told, when, ask, page = 0, 0.0, None, self.board
        written: set[int] = set()
        while True:
            await asyncio.sleep(TELL_S)
            if self.ongoing == told and perf_counter() - when < TELL_AGAIN_S:
                continue
            told, when = self.ongoing, perf_counter()
            try:
                ask = ask or context.controller()
                others = await ask.has_in_hand.remote(self.id.unique_id, told, page.identity)
            except (exceptions.RayError, RuntimeError):
                ask = None  # it is being restarted
                continue
            for slot in written.union(others):
                page.words[board.word_of(slot)] = others.get(slot, 0)
            written = set(others)

    async def _make(self, code: bytes, target: Target) -> None:
        config = target.config
        made, args, kwargs = skate.cloudpickle.loads(code)
        self.is_function = not isinstance(made, type)
        self.context = here = ReplicaContext(
            self.id, None, config, ReplicaRank(self.rank), self.world_size, self.gang, target.version
        )
        self.max_ongoing = config.max_ongoing_requests
        self.logs_requests = logs.set_up(config.logging_config, self.tags, self.shares)
        if self.is_function:
            self.instance = here.servable_object = made
        else:
            self.instance = here.servable_object = instance = made.__new__(made)
            ended = instance.__init__(*args, **kwargs)
            if inspect.isawaitable(ended):
                await ended
        if config.user_config is not None:
            await self._reconfigure(config.user_config)
        await self.check()

    async def measured(self) -> Table:
        """What was measured in this process, or of it what is this replica's where there are others."""
        replica_here.set(self)
        measures.ongoing(self.ongoing)
        if self.http is not None:
            self.http.tell()
        return measures.table(self.tags, everything=not self.shares)

    async def _serve_http(self, config: DeploymentConfig) -> None:
        from skate.serve.http_side import HTTPSide

        self.http = HTTPSide(self)
        await self.http.begin(config)

    def _grpc_calls(self, name: str) -> Callable[..., Any]:
        """What runs gRPC calls; see `skate.serve.grpc_replica`."""
        if self.grpc is None:
            self.grpc = Calls(self)
        return self.grpc.one if name == ONE else self.grpc.many

    async def grpc_push(self, key: str, message: Any) -> bool:
        """More of what the client of a gRPC call streams; False when it is over."""
        return self.grpc is not None and await self.grpc.push(key, message)

    async def _relayed(self, scope: Any, first: Any, key: str) -> AsyncIterator[Any]:
        """An HTTP request that comes by a handle; see `skate.serve.http_relay`."""
        if self.http is None:  # it was started for an application without a route
            assert self.target is not None
            await self._serve_http(self.target.config)
        async for batch in self.http.relayed.run(scope, first, key):
            yield batch

    async def lives(self) -> None:
        """Answers when the replica ends: whoever waits for it hears of its death at once."""
        await self.gone.wait()

    async def configure(self, target: Target) -> None:
        """Take over options that need no new replica."""
        replica_here.set(self)
        here = self.context
        assert here is not None
        old, config = here.deployment_config, target.config
        here.deployment_config = config
        self.max_ongoing = config.max_ongoing_requests
        if config.logging_config != old.logging_config:
            self.logs_requests = logs.set_up(config.logging_config, self.tags, self.shares)
        if config.user_config != old.user_config:
            await self._reconfigure(config.user_config)
        self.target = target

    def tell_models(self, models: list[str]) -> None:
        """Let routers know which multiplexed models are held here."""
        try:
            tell = context.controller().holds_models.remote
            tell(self.id.app_name, self.id.deployment, self.id.unique_id, tuple(models))
        except (exceptions.RayError, RuntimeError):
            return  # the next change will be told

    async def _reconfigure(self, user_config: Any) -> None:
        method = None if self.is_function else getattr(self.instance, "reconfigure", None)
        if method is None:
            raise ValueError(
                f"user_config is given, but {self.id.deployment} has no method reconfigure that would take it"
            )
        await self._run_own(method, user_config)

    async def _run_own(self, method: Callable[..., Any], *args: Any) -> Any:
        """Run a method that the controller asked for, in a thread if it is not a coroutine."""
        if inspect.iscoroutinefunction(method):
            return await method(*args)
        value = await self.in_thread(method, args, {})
        return await value if inspect.isawaitable(value) else value

    async def check(self) -> None:
        """Raises what the deployment's ``check_health`` raises; RuntimeError when it takes no requests any more."""
        if self.leaving:  # told so by a controller that is gone, after the one that asks had come to know it
            raise RuntimeError("the replica was told to end")
        replica_here.set(self)
        method = None if self.is_function else getattr(self.instance, "check_health", None)
        if method is not None:
            await self._run_own(method)

    async def figures(self, kind: str) -> dict[str, Any] | None:
        """What the deployment's ``record_routing_stats`` or ``record_autoscaling_stats`` gives; None: it has none."""
        replica_here.set(self)
        method = None if self.is_function else getattr(self.instance, f"record_{kind}_stats", None)
        return dict(await self._run_own(method) or {}) if method is not None else None

    async def drain(self, wait_loop_s: float, timeout_s: float) -> None:
        """Take nothing more, finish what runs, say farewell to the instance. Once, however often it is asked for."""
        if self.ending is None:
            self.leaving = True
            self.ending = asyncio.ensure_future(self._end(wait_loop_s, timeout_s))
        await asyncio.shield(self.ending)

    async def _end(self, wait_loop_s: float, timeout_s: float) -> None:
        if self.http is not None:
            await self.http.drain(timeout_s)
        if self.ongoing:
            self.idle = asyncio.Event()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.idle.wait(), timeout_s)
        await asyncio.sleep(wait_loop_s)  # requests of callers who have not heard of it yet are sent back to them
        for farewell in context.farewells:
            await farewell(self)
        if self.http is not None:
            await self.http.end()
        end = None if self.is_function else getattr(type(self.instance), "__del__", None)
        if end is not None:
            instance, self.instance = self.instance, None
            try:
                value = end(instance)
                if inspect.isawaitable(value):
                    await value
            finally:
                type(instance).__del__ = lambda _: None
        if self.shares and self.threads is not None:
            self.threads.shutdown(wait=False)  # the process goes on

    # ------------------------------------------------------------------ requests

    async def call(self, method: str, meta: tuple[Any, ...], /, *args: Any, **kwargs: Any) -> Any:
        """Run a request; its value, or `Refused`."""
        if self.leaving or self.ongoing >= self.max_ongoing:
            return Refused("leaving" if self.leaving else "full")
        if meta[0] and _stale(args, kwargs):
            return Refused("argument")
        run = self.methods.get(method) or self.runner(method)
        words, word = self.words, self.word
        self.ongoing = words[word] = self.ongoing + 1
        board.note(words, word, meta[1])
        request_context.set(RequestContext(*meta[2:]))
        replica_here.set(self)
        began, failed = perf_counter(), True
        try:
            value = run(*args, **kwargs)
            if type(value) is CoroutineType or inspect.isawaitable(value):
                value = await value
            failed = False
            return value
        finally:
            self._note(method, meta[3], perf_counter() - began, failed)
            self.end()

    async def order(self, method: str, meta: tuple[Any, ...], /, *args: Any, **kwargs: Any) -> Any:
        """Run what a caller asks of all replicas; limits are not for that."""
        run = self.methods.get(method) or self.runner(method)
        request_context.set(RequestContext(*meta[2:]))
        replica_here.set(self)
        self.begin()
        try:
            value = run(*args, **kwargs)
            return await value if inspect.isawaitable(value) else value
        finally:
            self.end()

    async def stream(self, method: str, meta: tuple[Any, ...], /, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        """Run a request that answers in parts; `Refused` alone if it is not taken."""
        if self.leaving or self.ongoing >= self.max_ongoing:
            yield Refused("leaving" if self.leaving else "full")
            return
        if meta[0] and _stale(args, kwargs):
            yield Refused("argument")
            return
        words, word = self.words, self.word
        self.ongoing = words[word] = self.ongoing + 1
        board.note(words, word, meta[1])
        request_context.set(RequestContext(*meta[2:]))
        replica_here.set(self)
        began, failed = perf_counter(), True
        try:
            async for group in self.groups(self.plain(method), args, kwargs):
                yield group if len(group) > 1 else group[0]
            failed = False
        finally:
            self._note(method, meta[3], perf_counter() - began, failed)
            self.end()

    def _note(self, method: str, route: str, seconds: float, failed: bool) -> None:
        """A request by a handle is over."""
        measures.request_done(route, seconds, failed)
        if self.logs_requests:
            logs.call(method, failed, seconds)

    def begin(self) -> None:
        """Count a request."""
        self.ongoing = self.words[self.word] = self.ongoing + 1

    def end(self) -> None:
        """A request is over: the next that waits here gets its turn."""
        self.ongoing = self.words[self.word] = self.ongoing - 1
        while self.waiting:
            turn = self.waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        if self.leaving and not self.ongoing and self.idle is not None:
            self.idle.set()

    async def http_push(self, key: str, message: Any) -> bool:
        """More from the client of an HTTP request that came by a handle; False when it is over."""
        return self.http is not None and await self.http.relayed.push(key, message)

    async def groups(self, method: Callable[..., Any], args: Any, kwargs: Any) -> AsyncIterator[list[Any]]:
        """The items of a generator, those together that are there."""
        if inspect.isasyncgenfunction(method):
            value = method(*args, **kwargs)
        else:
            value = await self._run_with(method, args, kwargs)
        if hasattr(value, "__aiter__"):
            groups = streams.grouped(aiter(value))
        elif inspect.isgenerator(value):
            groups = streams.grouped_in_thread(value, self.in_thread)
        else:
            raise TypeError(
                f"{self.id.deployment} was called with stream=True, but the method answers {type(value).__name__} and "
                f"is no generator."
            )
        try:
            async for group in groups:
                yield group
        finally:
            await groups.aclose()
            close = getattr(value, "aclose", None)
            if close is not None:
                await close()

    async def _run_with(self, method: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if inspect.iscoroutinefunction(method) or inspect.isgeneratorfunction(method):
            value = method(*args, **kwargs)
        else:
            value = await self.in_thread(method, args, kwargs)
        return await value if inspect.isawaitable(value) else value

    def plain(self, name: str) -> Callable[..., Any]:
        """The deployment's function, or a method of its instance."""
        if name == HTTP:
            return self._relayed
        if name in (ONE, MANY):
            return self._grpc_calls(name)
        method: Any = self.instance
        if not self.is_function:
            method = getattr(method, name, None)
        elif name != "__call__":
            raise UnknownMethodError(f"{self.id.deployment} is a function and has no method {name!r}")
        if not callable(method):
            if method is not None:
                raise TypeError(f"{name!r} of deployment {self.id.deployment!r} is no method: {method!r}")
            known = ", ".join(entry for entry in dir(type(self.instance)) if not entry.startswith("_"))
            raise UnknownMethodError(
                f"Deployment {self.id.deployment!r} has no method {name!r}; there are: {known or 'none'}"
            )
        # a callable object with `async def __call__` is itself no coroutine function
        made: Callable[..., Any] = method if inspect.isroutine(method) else getattr(method, "__call__")  # noqa: B004, B009  the bound method itself is wanted
        return made

    def runner(self, name: str) -> Callable[..., Any]:
        """How to run a method: coroutine functions here, others in a thread."""
        method = self.plain(name)
        if inspect.isasyncgenfunction(method) or inspect.isgeneratorfunction(method):
            raise TypeError(f"{name} is a generator: call it with handle.options(stream=True)")
        if not inspect.iscoroutinefunction(method):
            plain = method

            def method(*args: Any, **kwargs: Any) -> Any:
                return self.in_thread(plain, args, kwargs)

        self.methods[name] = method
        return method

    def in_thread(self, function: Callable[..., Any], args: Any, kwargs: Any) -> asyncio.Future[Any]:
        """Run a function in a thread, with the context of the request."""
        if self.threads is None:
            self.threads = ThreadPoolExecutor(min(MOST_THREADS, max(self.max_ongoing, 8)), "skate-serve")
        here = copy_context()
        return asyncio.get_running_loop().run_in_executor(
            self.threads, lambda: _keeping_stop(here.run, function, *args, **kwargs)
        )


def _keeping_stop(run: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Futures cannot carry StopIteration."""
    try:
        return run(*args, **kwargs)
    except StopIteration as error:
        raise RuntimeError(f"StopIteration({error.value!r}) was raised") from error


def _stale(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return any(type(value) is Refused for value in (*args, *kwargs.values()))
