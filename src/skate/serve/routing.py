"""Has a router of the program's own choose replicas: on an event loop in a thread, which all such routers share."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import skate
from skate.serve.context import DeploymentID
from skate.serve.deployment_parts import RequestRouterConfig
from skate.serve.exceptions import RayServeException, ReplicaUnavailableError
from skate.serve.request_router import FIFOMixin, PendingRequest, ReplicaID, RequestMetadata, RunningReplica
from skate.serve.told import Target

if TYPE_CHECKING:
    from skate.serve.request import Request
    from skate.serve.router import Router

END_S = 1.0
"""Seconds for which the end of the loop's thread is waited for."""


class _Loop:
    """The loop and its thread, which are there while somebody uses them."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users = 0
        self.loop: asyncio.AbstractEventLoop | None = None
        self.thread: threading.Thread | None = None

    def join(self) -> asyncio.AbstractEventLoop:
        """The loop, for one user more."""
        with self.lock:
            self.users += 1
            if self.loop is None:
                self.loop = asyncio.new_event_loop()
                self.thread = threading.Thread(target=_run, args=[self.loop], name="skate-serve-routing", daemon=True)
                self.thread.start()
            return self.loop

    def leave(self) -> threading.Thread | None:
        """One user less; the thread, if it ends now."""
        with self.lock:
            self.users -= 1
            if self.users or self.loop is None:
                return None
            loop, thread, self.loop, self.thread = self.loop, self.thread, None, None
        loop.call_soon_threadsafe(loop.stop)
        return thread


def _run(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_forever()
    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    if left:
        loop.run_until_complete(asyncio.wait(left, timeout=END_S))
    loop.close()


_shared = _Loop()


class Routing:
    """One router of the program's own, at work for the requests of a `Router`.

    Args:
        router: has the requests that wait, and sends them.
        config: names the class.
    """

    def __init__(self, router: Router, config: RequestRouterConfig) -> None:
        self.router = router
        self.config = config
        self.deployment = DeploymentID(router.deployment, router.app)
        self.problem = ""
        """Why there is no router."""
        self.policy: Any = None
        self.loop = _shared.join()
        self.known: dict[str, RunningReplica] = {}
        self.routed: set[int] = set()
        """Numbers of requests that are being routed."""
        self.in_turn: asyncio.Queue[Request] | None = None
        """Requests in their order, where that is kept."""
        self.room = asyncio.Event()
        self.tasks: set[asyncio.Task[None]] = set()
        self.closed = False
        self.loop.call_soon_threadsafe(self._make)

    def _make(self) -> None:
        here = skate.get_runtime_context()
        try:
            made = self.config.get_request_router_class()
            self.policy = made(
                deployment_id=self.deployment, self_node_id=here.get_node_id(), self_actor_id=here.get_actor_id()
            )
            self.policy._pending = lambda: len(self.router.queue)
            self.policy.initialize_state(**self.config.request_router_kwargs)
        except Exception as error:  # noqa: BLE001  the program's code: its requests say what is wrong
            self.problem = f"{type(error).__name__}: {error}"
        if isinstance(self.policy, FIFOMixin):
            self.in_turn = asyncio.Queue()
            self._task(self._one_after_another(self.in_turn))

    def _task(self, work: Any) -> None:
        task = self.loop.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def _soon(self, call: Callable[..., None], *args: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended in this moment
            self.loop.call_soon_threadsafe(call, *args)

    # ------------------------------------------------------------------ told by the router, which holds its lock

    def take(self, targets: list[Target]) -> None:
        """These are the replicas now."""
        self._soon(self._take, list(targets))

    def look(self) -> None:
        """Have those requests routed that are ready and not being routed yet."""
        for request in list(self.router.queue):
            if request.is_over():
                self.router.queue.remove(request)
            elif request.pin is not None:
                self._send_pinned(request, request.pin)
            elif request.number not in self.routed and request.is_ready():
                self.routed.add(request.number)
                self._soon(self._begin, request)

    def _send_pinned(self, request: Request, target: Target) -> None:
        if not request.is_ready():
            return
        if target not in self.router.targets:
            self.router.queue.remove(request)
            request.fail(ReplicaUnavailableError(target.name))
        else:
            self.router.send_chosen(request, target)

    def ended(self, request: Request, target: Target) -> None:
        """A request is over: there may be room for another."""
        self._soon(self._ended, ReplicaID(target.name, self.deployment), str(request.number))

    def close(self, *, wait: bool = True) -> None:
        """Route nothing more; with `wait`, which no lock may be held for, return when the thread is gone if it goes."""
        if self.closed:
            return
        self.closed = True
        self.loop.call_soon_threadsafe(self._close)
        thread = _shared.leave()
        if wait and thread is not None and thread is not threading.current_thread():
            thread.join(END_S)

    # ------------------------------------------------------------------ on the loop

    def _take(self, targets: list[Target]) -> None:
        if self.policy is None:
            return
        before = set(self.known)
        self.known = {one.name: self._wrapped(one) for one in targets}
        for name in before - set(self.known):
            self.policy.on_replica_actor_died(ReplicaID(name, self.deployment))
        self.policy.update_replicas(list(self.known.values()))
        self.room.set()

    def _wrapped(self, target: Target) -> RunningReplica:
        found = self.known.get(target.name)
        return found if found is not None and found._target is target else RunningReplica(target, self.deployment)

    def _ended(self, replica: ReplicaID, number: str) -> None:
        if self.policy is not None:
            self.policy.on_request_completed(replica, number)
        self.room.set()

    def _close(self) -> None:
        for task in self.tasks:
            task.cancel()

    def _begin(self, request: Request) -> None:
        if self.in_turn is not None:
            self.in_turn.put_nowait(request)
        else:
            self._task(self._route(request))

    async def _one_after_another(self, requests: asyncio.Queue[Request]) -> None:
        while True:
            await self._route(await requests.get())

    async def _route(self, request: Request) -> None:
        """Find a replica for a request, however long that takes."""
        try:
            await self._choose(request)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001  the program's code: its request says what is wrong
            self._fail(request, f"{type(error).__name__}: {error}", error)
        finally:
            self.routed.discard(request.number)

    async def _choose(self, request: Request) -> None:
        if self.policy is None or self.problem:
            self._fail(request, self.problem, None)
            return
        pending, wait = _pending(request), self.config.initial_backoff_s
        while not self.closed and not request.is_over() and request.ref is None:
            self.room.clear()
            self.router.notice_ended()
            candidates = list(self.policy.curr_replicas.values())
            if candidates:
                for rank in await self.policy.choose_replicas(candidates, pending):
                    chosen = self._sent(request, rank)
                    if chosen is not None:
                        self.policy.on_request_routed(pending, chosen.replica_id, request.ref)
                        return
            room = asyncio.ensure_future(self.room.wait())
            await asyncio.wait([room], timeout=wait)
            room.cancel()
            wait = min(self.config.max_backoff_s, wait * self.config.backoff_multiplier)

    def _sent(self, request: Request, rank: Any) -> RunningReplica | None:
        """The replica of this rank that the request was sent to; None when none has room."""
        for one in sorted(rank, key=lambda each: each.queue_len):
            if self.router.send_chosen(request, one._target):
                found: RunningReplica = one
                return found
        return None

    def _fail(self, request: Request, why: str, error: BaseException | None) -> None:
        problem = RayServeException(f"The request router of {self.deployment} failed: {why}")
        problem.__cause__ = error
        router = self.router
        with router.lock:
            if request in router.queue:
                router.queue.remove(request)
            if request.ref is None and request.error is None:
                request.fail(problem)


def _pending(request: Request) -> PendingRequest:
    request_id, route, app, model = request.meta
    metadata = RequestMetadata(
        request_id, str(request.number), request._method, route, app, model, request.session, request._stream
    )
    return PendingRequest(list(request._args), dict(request._kwargs), metadata)
