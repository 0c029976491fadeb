"""Requests that a caller sends to replicas of its own choice: to all of them, or to one that was kept for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import skate
from skate import exceptions
from skate.serve.context import DeploymentID, ReplicaID
from skate.serve.exceptions import DeploymentUnavailableError
from skate.serve.router import Router, next_number
from skate.serve.told import Target

if TYPE_CHECKING:
    from skate.serve.request import Request


class DeploymentBroadcastResponse:
    """The answers of all replicas to one call; see `DeploymentHandle.broadcast`."""

    def __init__(
        self, router: Router, method: str, meta: tuple[str, ...], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        self._router = router
        self._call = (method, meta, args, kwargs)
        self._refs: list[Any] | None = None
        if router.version >= 0:
            self._send()

    def _send(self) -> None:
        method, meta, args, kwargs = self._call
        router = self._router
        if router.state:
            raise DeploymentUnavailableError(router.deployment, router.app, router.state)
        self._refs = [
            one.actor.order.remote(method, (False, next_number(), *meta), *args, **kwargs)
            for one in list(router.targets)
        ]

    def _sent(self, deadline: float | None) -> list[Any]:
        """References of the answers, when the replicas are known."""
        if self._refs is None:
            self._router.wait_until_known(deadline)
            self._send()
        assert self._refs is not None
        return self._refs

    def results(self, *, timeout_s: float | None = None, return_exceptions: bool = False) -> list[Any]:
        """The answers, in no certain order.

        Args:
            timeout_s: seconds to wait; None: as long as it takes.
            return_exceptions: whether errors are among them; else the first one is raised.

        Raises:
            ValueError: `timeout_s` is below zero.
            TimeoutError: not all are there in time.
            RuntimeError: called on an event loop, which it would block.
        """
        if asyncio._get_running_loop() is not None:
            raise RuntimeError("results() would block the event loop: write `await response.results_async()` here")
        deadline = _deadline(timeout_s)
        found: list[Any] = []
        for ref in self._sent(deadline):
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            try:
                found.append(skate.get(ref, timeout=left))
            except exceptions.GetTimeoutError as error:
                if left is not None and not skate.wait([ref], timeout=0)[0]:
                    raise exceptions.GetTimeoutError(f"Not all replicas answered within {timeout_s} s.") from error
                found.append(_told(error, return_exceptions))
            except exceptions.RayError as error:
                found.append(_told(error, return_exceptions))
        return found

    async def results_async(self, *, timeout_s: float | None = None, return_exceptions: bool = False) -> list[Any]:
        """`results`, on an event loop."""
        deadline = _deadline(timeout_s)
        if self._refs is None:
            await asyncio.to_thread(self._sent, deadline)
        assert self._refs is not None
        try:
            async with asyncio.timeout(None if deadline is None else max(0.0, deadline - time.monotonic())):
                answers = (_awaited(ref) for ref in self._refs)
                return list(await asyncio.gather(*answers, return_exceptions=return_exceptions))
        except TimeoutError as error:
            if isinstance(error, exceptions.RayError):
                raise  # a replica's own
            raise exceptions.GetTimeoutError(f"Not all replicas answered within {timeout_s} s.") from None

    def __repr__(self) -> str:
        return f"DeploymentBroadcastResponse({self._router.deployment})"


async def _awaited(ref: Any) -> Any:
    return await ref


def _told(error: exceptions.RayError, kept: bool) -> exceptions.RayError:
    if not kept:
        raise error
    return error


def _deadline(timeout_s: float | None) -> float | None:
    if timeout_s is None:
        return None
    if timeout_s < 0:
        raise ValueError(f"timeout_s must be at least 0, not {timeout_s}")
    return time.monotonic() + timeout_s


class ReplicaSelection:
    """A replica that was chosen for a request, which has room there until the choice is over."""

    def __init__(self, request: Request, target: Target, deployment_id: DeploymentID) -> None:
        self._request = request
        self._target = target
        self.deployment_id = deployment_id
        self.used = False
        """Whether the request was sent, or the choice is over."""

    @property
    def replica_id(self) -> str:
        """The replica's own id."""
        return self._target.name

    @property
    def node_id(self) -> str:
        """Where it runs."""
        return self._target.node

    def to_dict(self) -> dict[str, Any]:
        """What is known of it, as plain values."""
        full = ReplicaID(self._target.name, self.deployment_id).to_full_id_str()
        return {"replica_id": self.replica_id, "node_id": self.node_id, "actor_name": full, "replica_metadata": {}}

    def take(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Request:
        """The request for it, with its arguments."""
        self.used = True
        self._target.kept -= 1
        return self._request.pinned(self._target, args, kwargs)

    def drop(self) -> None:
        """The room is not needed any more."""
        if not self.used:
            self.used = True
            self._target.kept -= 1


@asynccontextmanager
async def selected(request: Request, deployment_id: DeploymentID) -> AsyncIterator[ReplicaSelection]:
    """Have a replica chosen for `request`, and keep it room there."""
    router = request.router
    request.holds = True
    router.submit(request)
    await request.until_sent()
    if request.error is not None:
        raise request.error
    target = request.target
    assert target is not None
    selection = ReplicaSelection(request, target, deployment_id)
    try:
        yield selection
    finally:
        selection.drop()
        router.ended(request)
