"""A request of this process, from the handle's call to its end."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import skate
from skate import exceptions
from skate.serve import context
from skate.serve.board import BEGUN
from skate.serve.exceptions import RequestCancelledError
from skate.serve.replica import Refused
from skate.serve.responses import DeploymentResponse, DeploymentResponseGenerator
from skate.serve.router import Router, next_number
from skate.serve.told import Target


def _is_lost(error: BaseException) -> bool:
    """Whether it is the replica that failed, and not its code."""
    return isinstance(error, exceptions.RayActorError) and not isinstance(error, exceptions.RayTaskError)


class Request:
    """A request of this process: how it was made, where it is, what came of it."""

    __slots__ = (
        *(
            "_args",
            "_kwargs",
            "_method",
            "_stream",
            "_upstream",
            "begun_before",
            "cancelled",
            "direct",
            "error",
            "holds",
        ),
        *("made", "may_run_again", "meta", "number", "pin", "ref", "router", "session", "target", "waiters"),
    )

    def __init__(
        self, router: Router, method: str, meta: tuple[str, ...], args: tuple[Any, ...], kwargs: dict[str, Any],
        stream: bool, session: str = "",
    ) -> None:  # fmt: skip
        self.router = router
        self._method = method
        self.number = next_number()
        self._args = args
        self._kwargs = kwargs
        self._stream = stream
        self._upstream = _upstream(args, kwargs)
        self.meta = meta
        self.session = session
        self.pin: Target | None = None
        """The only replica that may have it."""
        self.may_run_again = 0
        """How often it may be sent anew though it had begun."""
        self.holds = False
        """Whether it is not sent yet where it could be, but has room kept for it there."""
        self.made = time.monotonic()
        self.direct = False
        """Whether it was sent by the call that made it, whose cancel then reaches it by itself."""
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
        if self.holds:
            target.kept += 1
            self.ref = HELD
            self._wake()
            return
        self.begun_before = target.words[target.word + BEGUN]
        call = target.stream if self._stream else target.call
        try:
            self.ref = call.remote(self._method, (bool(self._upstream), self.number, *self.meta), *args, **kwargs)
        except exceptions.RayError as error:
            self.fail(error)
            return
        target.flying[self.number] = self.ref.completed() if self._stream else self.ref
        self._wake()

    def pinned(self, target: Target, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Request:
        """A request like this one for `target` alone."""
        made = Request(self.router, self._method, self.meta, args, kwargs, self._stream, self.session)
        made.pin = target
        return made

    def take_back(self) -> None:
        """It was not run, and will be sent anew."""
        self.ref = self.target = None
        self.direct = False

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
        lost = _is_lost(error)
        if not lost and not (self._upstream and isinstance(error, exceptions.RayActorError)):
            return False  # on some engines an argument that is lost is told as an error of the task that needs it
        mended = self.mend()
        if mended:
            self.router.again(self, ref, Refused("argument"))
        if mended is not None:
            return mended
        return lost and self.router.lost(self, ref)

    def was_refused(self, ref: Any, refused: Refused) -> None:
        """It is sent anew."""
        if refused.why == "argument":
            self.mend()
        self.router.again(self, ref, refused)

    def caller_cancelled(self) -> None:
        """Whoever awaits it was cancelled: so is it, unless the call that made it was, which has reached it already.

        A second cancel would come in the middle of what its handler does after the first.
        """
        if self.direct and time.monotonic() - self.made > KNOWN_S and context.is_cancelled():
            self.cancelled = True
        else:
            self.cancel()

    def cancel(self) -> None:
        """Have it not run, or no further."""
        self.cancelled = True
        with self.router.lock:
            ref = self.ref
            if ref is None:
                self.fail(RequestCancelledError(self.meta[0]))
                return
        skate.cancel(ref)


def _upstream(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Request]:
    """The requests whose answers are arguments."""
    found = []
    for value in (*args, *kwargs.values()):
        if isinstance(value, DeploymentResponse):
            found.append(value.request)
        elif isinstance(value, DeploymentResponseGenerator):
            raise RuntimeError(
                "A DeploymentResponseGenerator cannot be an argument of a handle's call: iterate over it first"
            )
    return found


KNOWN_S = 0.25
"""Seconds after which the engine is sure to know of a call."""
HELD: Any = object()
"""Stands for the reference of a request that has room kept for it."""


def _settle(future: Any) -> None:
    if not future.done():
        future.set_result(None)
