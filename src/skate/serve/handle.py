"""Handles of deployments, and the answers that calls of them give."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from typing import Any, NoReturn

import skate
from skate import exceptions
from skate.serve import context
from skate.serve.board import BEGUN
from skate.serve.context import new_request_id, request_context
from skate.serve.exceptions import RayServeException, RequestCancelledError
from skate.serve.replica import Refused
from skate.serve.router import Router, Target, Told, next_number, router_of
from skate.serve.streams import Group


def _is_lost(error: BaseException) -> bool:
    """Whether it is the replica that failed, and not its code."""
    return isinstance(error, exceptions.RayActorError) and not isinstance(error, exceptions.RayTaskError)


class Request:
    """A request of this process: how it was made, where it is, what came of it."""

    __slots__ = (
        *("_args", "_kwargs", "_method", "_stream", "_upstream", "begun_before", "cancelled", "error", "meta"),
        *("made", "number", "ref", "router", "target", "waiters"),
    )

    def __init__(
        self, router: Router, method: str, meta: tuple[str, ...], args: tuple[Any, ...], kwargs: dict[str, Any],
        stream: bool,
    ) -> None:  # fmt: skip
        self.router = router
        self._method = method
        self.number = next_number()
        self._args = args
        self._kwargs = kwargs
        self._stream = stream
        self._upstream: list[Request] = [
            value.request for value in (*args, *kwargs.values()) if isinstance(value, DeploymentResponse)
        ]
        self.meta = meta
        self.made = time.monotonic() if meta[3] else 0.0
        """When, where that counts: requests wait some time for replicas that hold their model."""
        self.ref: Any = None
        self.target: Target | None = None
        self.begun_before = 0
        self.error: BaseException | None = None
        self.cancelled = False
        self.waiters: list[tuple[Any, Any]] | None = None
        """Loops and futures of those who wait for it to be sent."""

    def is_ready(self) -> bool:
        """Whether the requests that it takes the answers of have been sent."""
        return not self._upstream or all(each.ref is not None or each.error is not None for each in self._upstream)

    def is_over(self) -> bool:
        """Whether it need not be sent any more."""
        return self.error is not None

    def sent_to(self, target: Target) -> None:
        """Call a replica; the router's lock is held."""
        args, kwargs = self._args, self._kwargs
        if self._upstream:
            failed = next((each.error for each in self._upstream if each.error is not None), None)
            if failed is not None:
                self.fail(failed)
                return
            args = tuple(value.request.ref if isinstance(value, DeploymentResponse) else value for value in args)
            kwargs = {
                name: value.request.ref if isinstance(value, DeploymentResponse) else value
                for name, value in kwargs.items()
            }
        self.target = target
        self.begun_before = target.words[target.word + BEGUN]
        call = target.stream if self._stream else target.call
        try:
            self.ref = call.remote(self._method, (bool(self._upstream), self.number, *self.meta), *args, **kwargs)
        except exceptions.RayError as error:
            self.fail(error)
            return
        target.flying[self.number] = self.ref.completed() if self._stream else self.ref
        self._wake()

    def take_back(self) -> None:
        """It was not run, and will be sent anew."""
        self.ref = self.target = None

    def fail(self, error: BaseException) -> None:
        """It will have no answer."""
        self.error = error
        self._wake()

    def _wake(self) -> None:
        waiters, self.waiters = self.waiters, None
        for loop, future in waiters or ():
            if not loop.is_closed():
                loop.call_soon_threadsafe(_settle, future)
        if waiters is None and self.router._pumping:
            self.router.changed.notify_all()

    def wait_until_sent(self, deadline: float | None) -> None:
        """Block until it was sent, or failed. Raises TimeoutError."""
        router = self.router
        with router.changed:
            while self.ref is None and self.error is None:
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    raise TimeoutError("The request was still waiting for a replica when the time was up.")
                router.changed.wait(left)

    async def until_sent(self) -> None:
        """Return when it was sent, or failed."""
        loop = asyncio.get_running_loop()
        while self.ref is None and self.error is None:
            future = loop.create_future()
            with self.router.lock:
                if self.ref is not None or self.error is not None:
                    return
                if self.waiters is None:
                    self.waiters = []
                self.waiters.append((loop, future))
            await future

    def mend(self) -> bool | None:
        """Have those sent anew whose answers this one takes, if they were refused or had not begun on a dead replica.

        None: nothing is wrong with them. False: one of them will have no answer.
        """
        found: bool | None = None
        for each in self._upstream:
            verdict = each.looked_after()
            if verdict is False:
                return False
            found = found or verdict
        return found

    def looked_after(self) -> bool | None:
        """The same of this one."""
        ref = self.ref
        if ref is None:
            return self.error is None
        if skate.wait([ref], timeout=0)[1]:
            return None
        try:
            value = skate.get(ref)
        except exceptions.RayError as error:
            mended = self.mend()
            if mended:
                self.router.again(self, ref, Refused("argument"))
            return mended if mended is not None else _is_lost(error) and self.router.lost(self, ref)
        if type(value) is not Refused:
            return None
        if value.why == "argument" and self.mend() is False:
            return False
        self.router.again(self, ref, value)
        return True

    def send_again(self, ref: Any, error: exceptions.RayError) -> bool:
        """Whether it, which failed, is sent anew: it had not begun, or what failed is one whose answer it takes."""
        if not _is_lost(error):
            return False
        mended = self.mend()
        if mended:
            self.router.again(self, ref, Refused("argument"))
        return mended if mended is not None else self.router.lost(self, ref)

    def was_refused(self, ref: Any, refused: Refused) -> None:
        """It is sent anew."""
        if refused.why == "argument":
            self.mend()
        self.router.again(self, ref, refused)

    def cancel(self) -> None:
        """Have it not run, or no further."""
        self.cancelled = True
        with self.router.lock:
            ref = self.ref
            if ref is None:
                self.fail(RequestCancelledError(self.meta[0]))
                return
        skate.cancel(ref)


def _settle(future: Any) -> None:
    if not future.done():
        future.set_result(None)


class _Response:
    """What both kinds of answers have in common."""

    __slots__ = ("request",)

    def __init__(self, request: Request) -> None:
        self.request = request

    @property
    def request_id(self) -> str:
        """The request's id."""
        return self.request.meta[0]

    def cancel(self) -> None:
        """Cancel the request, if it has not ended yet; asking for its answer then raises."""
        self.request.cancel()

    def cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self.request.cancelled

    def __reduce__(self) -> NoReturn:
        raise RayServeException(
            f"A {type(self).__name__} is not serializable: it cannot be sent to another process, unless it is itself "
            f"(not a part of) an argument of a handle's call. Get its value first."
        )


class DeploymentResponse(_Response):
    """The answer of a call: ``await`` it, or ask for its `result`. As an argument of another handle's call it is passed
    on without waiting."""

    __slots__ = ("_done", "_value")

    def __init__(self, request: Request) -> None:
        super().__init__(request)
        self._done = False
        self._value: Any = None

    def result(self, *, timeout_s: float | None = None, _skip_asyncio_check: bool = False) -> Any:
        """The value, waiting until it is there.

        Args:
            timeout_s: seconds to wait; None: as long as it takes.

        Raises:
            TimeoutError: it is not there in time. The request goes on.
            BackPressureError: too many requests wait already.
            RequestCancelledError: it was cancelled.
            RuntimeError: called on an event loop, which it would block: use ``await``.
            RayTaskError, RayActorError: what the replica raised, or that it died.
        """
        if not _skip_asyncio_check and _on_a_loop():
            raise RuntimeError("result() would block the event loop: write `await response` here")
        deadline = None if timeout_s is None or timeout_s < 0 else time.monotonic() + timeout_s
        request = self.request
        while not self._done:
            if request.ref is None and request.error is None:
                request.wait_until_sent(deadline)
            if request.error is not None:
                raise request.error
            ref = request.ref
            if ref is None:
                continue  # it was taken back in this moment
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            try:
                value = skate.get(ref, timeout=left)
            except exceptions.GetTimeoutError as error:
                if left is None or not skate.wait([ref], timeout=0)[1]:
                    raise  # the handler's own
                raise TimeoutError(f"No answer within {timeout_s} s.") from error
            except exceptions.RayError as error:
                self._failed(ref, error)
                continue
            self._answered(ref, value)
        return self._value

    def __await__(self) -> Any:
        while not self._done:
            request = self.request
            if request.ref is None and request.error is None:
                yield from request.until_sent().__await__()
            if request.error is not None:
                raise request.error
            ref = request.ref
            if ref is None:
                continue
            try:
                value = yield from ref.__await__()
            except exceptions.RayError as error:
                self._failed(ref, error)
                continue
            except asyncio.CancelledError:
                request.cancel()
                raise
            self._answered(ref, value)
        return self._value

    def _answered(self, ref: Any, value: Any) -> None:
        if type(value) is Refused:
            self.request.was_refused(ref, value)
            return
        self._value, self._done = value, True
        self.request.router.ended(self.request)

    def _failed(self, ref: Any, error: exceptions.RayError) -> None:
        """Raise what the request failed of, unless it is sent anew."""
        request = self.request
        if request.send_again(ref, error):
            return
        request.router.ended(request)
        if request.cancelled and isinstance(error, exceptions.TaskCancelledError):
            raise RequestCancelledError(request.meta[0]) from None
        raise error

    def _to_object_ref_sync(self, timeout_s: float | None = None) -> Any:
        """The reference of the answer, once the request was sent."""
        self.request.wait_until_sent(None if timeout_s is None else time.monotonic() + timeout_s)
        if self.request.error is not None:
            raise self.request.error
        return self.request.ref

    async def _to_object_ref(self) -> Any:
        """The reference of the answer, once the request was sent."""
        await self.request.until_sent()
        if self.request.error is not None:
            raise self.request.error
        return self.request.ref


class DeploymentResponseGenerator(_Response):
    """The answer of a call with ``stream=True``: iterate over it with ``for`` or ``async for``."""

    __slots__ = ("_first", "_here")

    def __init__(self, request: Request) -> None:
        super().__init__(request)
        self._first = True
        self._here: deque[Any] = deque()
        """Items that came together with one that was asked for."""

    def result(self, *, timeout_s: float | None = None, _skip_asyncio_check: bool = False) -> NoReturn:
        """Not possible: there are many."""
        raise TypeError("A DeploymentResponseGenerator has no result(): iterate over it, with for or async for")

    def __await__(self) -> NoReturn:
        raise TypeError("A DeploymentResponseGenerator cannot be awaited: write async for")

    def __iter__(self) -> Iterator[Any]:
        return self

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    def __next__(self) -> Any:
        if _on_a_loop():
            raise RuntimeError("This would block the event loop: write `async for` here")
        if self._here:
            return self._here.popleft()
        while True:
            request = self.request
            request.wait_until_sent(None)
            if request.error is not None:
                raise request.error
            ref = request.ref
            if ref is None:
                continue  # it was taken back in this moment
            try:
                value = skate.get(next(ref))
            except StopIteration:
                request.router.ended(request)
                raise
            except exceptions.RayError as error:
                self._failed(ref, error)
                continue
            if type(value) is Refused:
                request.was_refused(ref, value)
                continue
            self._first = False
            if type(value) is Group:
                self._here.extend(value)
                return self._here.popleft()
            return value

    async def __anext__(self) -> Any:
        if self._here:
            return self._here.popleft()
        while True:
            request = self.request
            await request.until_sent()
            if request.error is not None:
                raise request.error
            ref = request.ref
            if ref is None:
                continue
            try:
                value = await (await anext(ref))
            except StopAsyncIteration:
                request.router.ended(request)
                raise
            except exceptions.RayError as error:
                self._failed(ref, error)
                continue
            except asyncio.CancelledError:
                request.cancel()
                raise
            if type(value) is Refused:
                request.was_refused(ref, value)
                continue
            self._first = False
            if type(value) is Group:
                self._here.extend(value)
                return self._here.popleft()
            return value

    def _failed(self, ref: Any, error: exceptions.RayError) -> None:
        request = self.request
        if self._first and request.send_again(ref, error):
            return
        request.router.ended(request)
        if request.cancelled and isinstance(error, exceptions.TaskCancelledError):
            raise RequestCancelledError(request.meta[0]) from None
        raise error


def _on_a_loop() -> bool:
    return asyncio._get_running_loop() is not None


class DeploymentHandle:
    """Calls a deployment: ``handle.remote(...)``, ``handle.method.remote(...)``.

    Works in drivers, tasks, actors and replicas, on an event loop and off one, and can be sent.
    """

    def __init__(
        self,
        deployment_name: str,
        app_name: str,
        method_name: str = "__call__",
        stream: bool = False,
        multiplexed_model_id: str = "",
    ) -> None:
        self.deployment_name = deployment_name
        self.app_name = app_name
        self._method = method_name
        self._stream = stream
        self._model = multiplexed_model_id
        self._router: Router | None = None

    @property
    def deployment_id(self) -> str:
        """Application and deployment, as in ``app#deployment``."""
        return f"{self.app_name}#{self.deployment_name}"

    @property
    def is_initialized(self) -> bool:
        """Whether this process has heard of the replicas."""
        return self._router is not None and self._router.version >= 0

    def options(
        self,
        *,
        method_name: str | None = None,
        multiplexed_model_id: str | None = None,
        stream: bool | None = None,
        use_new_handle_api: bool | None = None,
        _prefer_local_routing: bool | None = None,
    ) -> DeploymentHandle:
        """The same handle with other options.

        Args:
            method_name: the method that `remote` calls.
            multiplexed_model_id: the model that the request is for; see `serve.multiplexed`.
            stream: whether answers come in parts; the method must be a generator.
        """
        made = DeploymentHandle(
            self.deployment_name,
            self.app_name,
            self._method if method_name is None else method_name,
            self._stream if stream is None else stream,
            self._model if multiplexed_model_id is None else multiplexed_model_id,
        )
        made._router = self._router
        return made

    def __getattr__(self, name: str) -> DeploymentHandle:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        made = self.options(method_name=name)
        self.__dict__[name] = made
        return made

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        """Call the deployment: a `DeploymentResponse`, or with ``stream=True`` a `DeploymentResponseGenerator`, at
        once.
        """
        router = self._router
        if router is None or router.closed:
            router = self._router = router_of(self.app_name, self.deployment_name)
        here = request_context.get()
        meta = (here.request_id or new_request_id(), here.route, self.app_name, self._model)
        request = Request(router, self._method, meta, args, kwargs, self._stream)
        router.submit(request)
        return DeploymentResponseGenerator(request) if self._stream else DeploymentResponse(request)

    def _init(self, told: Told | None = None, **_: Any) -> None:
        """Get to know the replicas now rather than at the first call."""
        self._router = router_of(self.app_name, self.deployment_name, told)

    def __repr__(self) -> str:
        return f"DeploymentHandle(deployment={self.deployment_name!r}, app={self.app_name!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrived, (self.deployment_name, self.app_name, self._method, self._stream, self._model)


def _arrived(deployment: str, app: str, method: str, stream: bool, model: str) -> DeploymentHandle:
    handle = DeploymentHandle(deployment, app, method, stream, model)
    if context.loop is not None:  # in a replica, where it is sure to be used
        handle._init()
    return handle
