"""`request_router_config`: routers of the program's own, and those that are there to be used."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest

import skate
from skate import serve
from skate.serve.exceptions import DeploymentUnavailableError, RayServeException, ReplicaUnavailableError
from skate.serve.request_router import (
    FIFOMixin,
    LocalityMixin,
    MultiplexMixin,
    PendingRequest,
    RequestRouter,
    RunningReplica,
)

pytestmark = pytest.mark.usefixtures("clean")

Ranks = Sequence[Sequence[RunningReplica]]
Eventually = Callable[..., None]
NOTED: list[tuple[str, str]] = []
"""What the router of this process was told."""


class First(RequestRouter):
    """Always the replica whose name comes first, where it has room; another only with `others`."""

    def initialize_state(self, others: bool = False, wait_s: float = 0.0) -> None:
        self.others, self.wait_s = others, wait_s

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> Ranks:
        assert pending_request is not None
        if self.wait_s:
            await asyncio.sleep(self.wait_s)
        ordered = sorted(candidate_replicas, key=lambda one: one.replica_id.unique_id)
        return [[one] for one in ordered] if self.others else [[ordered[0]]]

    def on_request_routed(self, pending_request: PendingRequest, replica_id: Any, result: Any) -> None:
        NOTED.append(("routed", pending_request.metadata.internal_request_id))

    def on_request_completed(self, replica_id: Any, internal_request_id: str) -> None:
        NOTED.append(("completed", internal_request_id))

    def on_replica_actor_died(self, replica_id: Any) -> None:
        NOTED.append(("died", replica_id.unique_id))


@serve.deployment(num_replicas=3, max_ongoing_requests=2)
class Who:
    def __init__(self) -> None:
        self.me = serve.get_replica_context().replica_id.unique_id

    def __call__(self, _: object = None) -> str:
        return self.me

    async def hold(self, seconds: float) -> str:
        await asyncio.sleep(seconds)
        return self.me

    def die(self) -> None:
        os._exit(1)


def run(deployment: Any, name: str = "default", **config: Any) -> Any:
    return serve.run(deployment.options(request_router_config=config).bind(), name=name, route_prefix=None)


def test_a_router_of_the_programs_own_chooses_and_is_told_what_becomes_of_requests(eventually: Eventually) -> None:
    NOTED.clear()
    handle = run(Who, request_router_class=First)
    names = {handle.remote().result(timeout_s=60) for _ in range(10)}
    assert len(names) == 1
    eventually(lambda: sum(kind == "completed" for kind, _ in NOTED) == 10)
    routed = [number for kind, number in NOTED if kind == "routed"]
    assert sorted(routed) == sorted(number for kind, number in NOTED if kind == "completed")
    assert len(set(routed)) == 10


def test_a_rank_without_room_is_passed_over_and_without_another_the_request_waits() -> None:
    handle = run(Who, request_router_class=First, request_router_kwargs={"others": True})
    busy = [handle.hold.remote(1.0) for _ in range(6)]
    assert sorted(Counter(one.result(timeout_s=60) for one in busy).values()) == [2, 2, 2]
    alone = run(Who, "alone", request_router_class=First)
    assert len({one.result(timeout_s=60) for one in [alone.hold.remote(0.1) for _ in range(5)]}) == 1


def test_a_router_may_wait_and_requests_go_in_streams_responses_and_from_event_loops() -> None:
    handle = run(Who, request_router_class=First, request_router_kwargs={"wait_s": 0.01})

    async def main() -> list[str]:
        return list(await asyncio.gather(*[asyncio.ensure_future(_awaited(handle.remote())) for _ in range(5)]))

    assert len(set(asyncio.run(main()))) == 1
    assert handle.remote(handle.remote()).result(timeout_s=60) == handle.remote().result(timeout_s=60)


async def _awaited(response: Any) -> Any:
    return await response


def test_a_dead_replica_is_gone_for_the_router_and_requests_go_on(eventually: Eventually) -> None:
    NOTED.clear()
    handle = run(Who, request_router_class=First)
    first = handle.remote().result(timeout_s=60)
    with pytest.raises(skate.exceptions.RayActorError):
        handle.die.remote().result(timeout_s=60)
    assert handle.remote().result(timeout_s=60) != first
    eventually(lambda: ("died", first) in NOTED)


class Broken(RequestRouter):
    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> Ranks:
        raise ZeroDivisionError("no idea")


class Unmade(First):
    def initialize_state(self, **_: Any) -> None:
        raise ZeroDivisionError("not made")


@pytest.mark.parametrize(("kind", "why"), [(Broken, "no idea"), (Unmade, "not made")])
def test_a_router_that_raises_fails_its_request_and_says_so(kind: type, why: str) -> None:
    handle = run(Who, request_router_class=kind)
    with pytest.raises(RayServeException, match=why):
        handle.remote().result(timeout_s=60)


def test_a_request_that_is_cancelled_while_it_is_routed_goes_nowhere(eventually: Eventually) -> None:
    handle = run(Who.options(num_replicas=1, max_ongoing_requests=1), request_router_class=First)
    busy = handle.hold.remote(0.5)
    time.sleep(0.1)
    waits = handle.hold.remote(0.0)
    waits.cancel()
    with pytest.raises(serve.exceptions.RequestCancelledError):
        waits.result(timeout_s=60)
    assert busy.result(timeout_s=60)
    assert handle.remote().result(timeout_s=60)


def test_requests_of_a_deployment_that_is_deleted_fail_with_a_router_too() -> None:
    handle = run(Who, request_router_class=First)
    handle.remote().result(timeout_s=60)
    serve.delete("default")
    with pytest.raises(DeploymentUnavailableError):
        handle.remote().result(timeout_s=60)


class InOrder(FIFOMixin, RequestRouter):
    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> Ranks:
        await asyncio.sleep(random.random() * 0.01)
        return [self.select_available_replicas(candidate_replicas)]


@serve.deployment(num_replicas=1, max_ongoing_requests=1)
class Order:
    def __init__(self) -> None:
        self.seen: list[int] = []

    def __call__(self, number: int) -> list[int]:
        self.seen.append(number)
        return self.seen


def test_fifo_routers_keep_the_order() -> None:
    handle = run(Order, request_router_class=InOrder)
    last = [handle.remote(number) for number in range(20)][-1]
    assert last.result(timeout_s=60) == list(range(20))


class Fastest(MultiplexMixin, LocalityMixin, RequestRouter):
    """The replica with the best figure of its own."""

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> Ranks:
        near = self.rank_replicas_via_locality(candidate_replicas)[0]
        assert len(near) == len(candidate_replicas), "all are on this node"
        if pending_request is not None and pending_request.metadata.multiplexed_model_id:
            model = pending_request.metadata.multiplexed_model_id
            return self.rank_replicas_via_multiplex(candidate_replicas, model)
        return [[max(near, key=lambda one: float(one.routing_stats.get("speed", 0)))]]


@serve.deployment(num_replicas=3)
class Measured(Who.func_or_class):  # type: ignore[misc]
    def record_routing_stats(self) -> dict[str, float]:
        return {"speed": float(serve.get_replica_context().rank.rank)}

    def rank(self) -> int:
        return serve.get_replica_context().rank.rank

    @serve.multiplexed(max_num_models_per_replica=1)
    async def load(self, model: str) -> str:
        return model

    async def model(self) -> str:
        await self.load(serve.get_multiplexed_model_id())
        return str(self.me)


def test_routers_see_what_replicas_tell_of_themselves_and_their_models(eventually: Eventually) -> None:
    handle = run(Measured, request_router_class=Fastest, request_routing_stats_period_s=0.1)
    eventually(lambda: [handle.rank.remote().result(timeout_s=60) for _ in range(5)] == [2] * 5)
    mine = handle.options(multiplexed_model_id="a").model
    first = mine.remote().result(timeout_s=60)
    eventually(lambda: [mine.remote().result(timeout_s=60) for _ in range(5)] == [first] * 5)


@pytest.mark.parametrize("root", ["ray", "skate"])
def test_round_robin_takes_all_in_turn(root: str) -> None:
    handle = run(Who, request_router_class=f"{root}.serve.experimental.round_robin_router.RoundRobinRouter")
    names = [handle.remote().result(timeout_s=60) for _ in range(9)]
    assert len(set(names[:3])) == 3
    assert names[:3] == names[3:6] == names[6:]


def test_a_session_stays_with_its_replica() -> None:
    path = "skate.serve.experimental.consistent_hash_router.ConsistentHashRouter"
    handle = run(Who, request_router_class=path, request_router_kwargs={"num_virtual_nodes": 50})
    where = {
        session: {handle.options(session_id=session).remote().result(timeout_s=60) for _ in range(3)}
        for session in map(str, range(20))
    }
    assert all(len(names) == 1 for names in where.values())
    assert len(set().union(*where.values())) > 1
    wrong = run(Who, "wrong", request_router_class=path, request_router_kwargs={"num_virtual_nodes": 0})
    with pytest.raises(RayServeException, match="num_virtual_nodes"):
        wrong.remote().result(timeout_s=60)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"request_router_class": "nowhere.Router"}, "nowhere"),
        ({"request_router_class": "skate.serve.request_router.Nothing"}, "Nothing"),
        ({"request_router_class": 5}, "request_router_class"),
        ({"request_router_kwargs": {"a": object()}}, "request_router_kwargs"),
        ({"max_backoff_s": 0}, "max_backoff_s"),
        ({"backoff": 1}, "backoff"),
    ],
)
def test_a_wrong_router_is_told_of_at_once(config: dict[str, Any], named: str) -> None:
    with pytest.raises((ValueError, ImportError), match=named):
        Who.options(request_router_config=config)


def test_another_router_takes_over_without_new_replicas(eventually: Eventually) -> None:
    base = Who.options(version="1")
    handle = run(base)
    before = {handle.remote().result(timeout_s=60) for _ in range(30)}
    run(base, request_router_class=First)
    eventually(lambda: len({handle.remote().result(timeout_s=60) for _ in range(10)}) == 1)
    assert {handle.remote().result(timeout_s=60)} <= before


# ------------------------------------------------------------------ a caller's own choice


def test_all_replicas_are_called_whatever_they_have_to_do() -> None:
    handle = serve.run(Who.options(max_ongoing_requests=1).bind(), route_prefix=None)
    busy = [handle.hold.remote(1.5) for _ in range(3)]
    assert len(set(handle.broadcast("__call__").results(timeout_s=60))) == 3

    async def main() -> list[Any]:
        with pytest.raises(RuntimeError, match="results_async"):
            handle.broadcast("__call__").results()
        return await handle.broadcast("nothing").results_async(return_exceptions=True)

    assert all(isinstance(error, AttributeError) for error in asyncio.run(main()))
    with pytest.raises(skate.exceptions.GetTimeoutError):
        handle.broadcast("hold", 5).results(timeout_s=0.1)
    assert len({one.result(timeout_s=60) for one in busy}) == 3
    fresh = skate.serve.handle.DeploymentHandle("Who", "default")
    assert len(fresh.broadcast("__call__").results(timeout_s=60)) == 3


def test_a_replica_is_kept_for_a_request_that_comes_later() -> None:
    handle = serve.run(Who.options(max_ongoing_requests=1, num_replicas=2).bind(), route_prefix=None)

    async def main() -> None:
        async with handle.choose_replica() as one, handle.choose_replica() as other:
            assert {one.replica_id, other.replica_id} == {one.replica_id} | {other.replica_id}
            assert one.replica_id != other.replica_id
            waits = handle.remote()
            assert await handle.dispatch(other) == other.replica_id
            assert await handle.dispatch(one) == one.replica_id
            with pytest.raises(RayServeException, match="already"):
                handle.dispatch(one)
            assert await waits
        async with handle.choose_replica():
            pass  # the room is given back
        found = await asyncio.gather(*[_awaited(handle.hold.remote(0.2)) for _ in range(2)])
        assert len(set(found)) == 2

    asyncio.run(main())


def test_a_chosen_replica_that_dies_is_told_of() -> None:
    handle = serve.run(Who.options(num_replicas=2).bind(), route_prefix=None)

    async def main() -> None:
        async with handle.choose_replica() as chosen:
            die = handle.options(method_name="die").dispatch(chosen)
            with contextlib.suppress(skate.exceptions.RayActorError):
                await die
        async with handle.choose_replica() as chosen:
            actor = skate.get_actor(chosen.to_dict()["actor_name"], namespace="serve")
            skate.kill(actor)
            with pytest.raises((ReplicaUnavailableError, skate.exceptions.RayActorError)):
                for _ in range(100):
                    await handle._known_router().targets[0].actor.placed.remote()
                    await asyncio.sleep(0.05)
                    if chosen.replica_id not in {one.name for one in handle._known_router().targets}:
                        break
                await handle.dispatch(chosen)

    asyncio.run(main())
