"""Handles: calling, composing, streaming, cancelling, from drivers, tasks, actors and replicas."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import threading
import time
from collections.abc import AsyncIterator, Iterator

import pytest

import skate
from skate import serve
from skate.exceptions import RayActorError, RayTaskError
from skate.serve.exceptions import BackPressureError, RayServeException, RequestCancelledError
from skate.serve.handle import DeploymentHandle, DeploymentResponse

pytestmark = pytest.mark.usefixtures("clean")


@serve.deployment
class Adder:
    def __init__(self, amount: int = 1) -> None:
        self.amount = amount

    async def __call__(self, value: int) -> int:
        return value + self.amount

    def in_thread(self, value: int) -> tuple[int, bool]:
        return value + self.amount, threading.current_thread() is threading.main_thread()

    async def fail(self) -> None:
        raise KeyError("nothing there")

    async def pid(self) -> int:
        return os.getpid()

    async def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


@serve.deployment
class Twice:
    def __init__(self, adder: DeploymentHandle) -> None:
        self.adder = adder

    async def __call__(self, value: int) -> int:
        return await self.adder.remote(self.adder.remote(value))

    async def wide(self, number: int) -> list[int]:
        return await asyncio.gather(*(self.adder.remote(value) for value in range(number)))

    def blocking(self, value: int) -> int:
        return self.adder.remote(value).result(timeout_s=60)

    async def stop_the_loop(self) -> int:
        return self.adder.remote(1).result()


@serve.deployment
def shout(text: str) -> str:
    return text.upper() + "!"


def test_a_function_a_class_and_its_methods() -> None:
    assert serve.run(shout.bind(), name="f", route_prefix=None).remote("hello").result() == "HELLO!"
    handle = serve.run(Adder.bind(10))
    assert handle.remote(1).result() == 11
    assert handle.in_thread.remote(1).result() == (11, False)
    assert handle.options(method_name="in_thread").remote(2).result()[0] == 12


def test_deployments_call_each_other() -> None:
    handle = serve.run(Twice.bind(Adder.bind(5)))
    assert handle.remote(1).result() == 11
    assert handle.wide.remote(100).result() == [value + 5 for value in range(100)]
    assert handle.blocking.remote(1).result() == 6


def test_one_deployment_bound_twice_gets_two_names_and_one_bound_once_is_shared() -> None:
    @serve.deployment
    class Both:
        def __init__(self, first: DeploymentHandle, second: DeploymentHandle, *rest: object) -> None:
            self.handles = [first, second, *rest[0]["there"]]  # type: ignore[index]

        async def __call__(self) -> list[int]:
            return [await handle.remote(0) for handle in self.handles]

    shared = Adder.bind(3)
    handle = serve.run(Both.bind(shared, Adder.bind(4), {"there": (shared,)}))
    assert handle.remote().result() == [3, 4, 3]
    assert set(serve.status().applications["default"].deployments) == {"Both", "Adder", "Adder_1"}


def test_result_on_an_event_loop_says_what_to_do_instead() -> None:
    handle = serve.run(Twice.bind(Adder.bind(5)))
    with pytest.raises(RuntimeError, match="await"):
        handle.stop_the_loop.remote().result()


def test_await_in_a_driver() -> None:
    handle = serve.run(Adder.bind(1))

    async def main() -> list[int]:
        response = handle.remote(1)
        assert await response == 2
        assert await response == 2, "a second time too"
        return await asyncio.gather(*(handle.remote(value) for value in range(50)))

    assert asyncio.run(main()) == list(range(1, 51))


def test_handles_travel_to_tasks_and_actors() -> None:
    handle = serve.run(Adder.bind(1))

    @skate.remote
    def task(handle: DeploymentHandle) -> int:
        return handle.remote(1).result()

    @skate.remote
    class Actor:
        async def ask(self, handle: DeploymentHandle) -> int:
            return await handle.remote(2)

    assert skate.get([task.remote(handle), Actor.remote().ask.remote(handle)]) == [2, 3]
    copy = pickle.loads(pickle.dumps(handle.in_thread))
    assert copy.remote(1).result()[0] == 2


def test_handles_are_found_by_name() -> None:
    serve.run(Twice.bind(Adder.bind(5)), name="app", route_prefix="/app")
    assert serve.get_app_handle("app").remote(0).result() == 10
    assert serve.get_deployment_handle("Adder", "app").remote(0).result() == 5
    with pytest.raises(RayServeException, match="nowhere"):
        serve.get_app_handle("nowhere")
    with pytest.raises(RayServeException, match="Nobody"):
        serve.get_deployment_handle("Nobody", "app")


def test_what_a_handler_raises_reaches_the_caller_as_what_it_is() -> None:
    handle = serve.run(Adder.bind())
    with pytest.raises(KeyError, match="nothing there") as caught:
        handle.fail.remote().result()
    assert isinstance(caught.value, RayTaskError)
    with pytest.raises(AttributeError, match="in_thread"):
        handle.missing.remote().result()
    with pytest.raises(TypeError, match="positional"):
        handle.remote(1, 2, 3).result()


def test_what_upstream_raised_is_what_downstream_gets() -> None:
    handle = serve.run(Adder.bind())
    with pytest.raises(KeyError, match="nothing there"):
        handle.remote(handle.fail.remote()).result()


@serve.deployment(max_ongoing_requests=1)
class Narrow:
    """Takes one request at a time, so that those of several callers are refused and sent again."""

    def __init__(self) -> None:
        self.at_once = self.most = 0

    async def __call__(self, value: int) -> int:
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        await asyncio.sleep(0.001)
        self.at_once -= 1
        return value + 1

    async def seen(self) -> int:
        return self.most


@serve.deployment(num_replicas=3, max_ongoing_requests=100)
class Passing:
    def __init__(self, first: DeploymentHandle, second: DeploymentHandle) -> None:
        self.first, self.second = first, second

    async def __call__(self, value: int) -> int:
        return await self.second.remote(self.first.remote(self.second.remote(value)))


def test_answers_that_are_passed_on_come_through_refusals() -> None:
    handle = serve.run(Passing.bind(Narrow.bind(), Narrow.bind()))
    responses = [handle.remote(value) for value in range(200)]
    assert [response.result(timeout_s=60) for response in responses] == [value + 3 for value in range(200)]
    for name in ("Narrow", "Narrow_1"):
        assert serve.get_deployment_handle(name, "default").seen.remote().result() == 1


def test_answers_that_are_passed_on_come_through_the_death_of_a_replica() -> None:
    pids = serve.run(Adder.options(num_replicas=2, max_ongoing_requests=100).bind(1))
    victim = pids.pid.remote().result()
    os.kill(victim, signal.SIGSTOP)
    try:
        responses = [pids.remote(pids.remote(value)) for value in range(20)]
    finally:
        os.kill(victim, signal.SIGKILL)
    assert [response.result(timeout_s=60) for response in responses] == [value + 2 for value in range(20)]


def test_an_upstream_request_that_died_under_way_is_no_reason_to_wait_for_ever() -> None:
    handle = serve.run(Adder.bind(1))
    with pytest.raises(RayActorError):
        handle.remote(handle.die.remote()).result(timeout_s=60)


def test_responses_do_not_travel_inside_of_values() -> None:
    handle = serve.run(Adder.bind())
    with pytest.raises(RayServeException, match="not serializable"):
        pickle.dumps(handle.remote(1))


@serve.deployment(max_ongoing_requests=100)
class Streamer:
    def __init__(self) -> None:
        self.closed = 0

    async def slowly(self, number: int) -> AsyncIterator[int]:
        try:
            for value in range(number):
                yield value
                await asyncio.sleep(0.01)
        finally:
            self.closed += 1

    def plainly(self, number: int) -> Iterator[int]:
        yield from range(number)

    async def half(self) -> AsyncIterator[int]:
        yield 1
        raise ValueError("half way")

    async def no_stream(self) -> int:
        return 1

    async def how_many_closed(self) -> int:
        return self.closed


def test_streams() -> None:
    handle = serve.run(Streamer.bind())
    stream = handle.options(stream=True)
    assert list(stream.slowly.remote(5)) == list(range(5))
    assert list(stream.plainly.remote(1000)) == list(range(1000))

    async def main() -> list[int]:
        return [item async for item in stream.slowly.remote(3)]

    assert asyncio.run(main()) == [0, 1, 2]
    items = stream.half.remote()
    assert next(items) == 1
    with pytest.raises(ValueError, match="half way"):
        next(items)
    with pytest.raises(TypeError, match="no generator"):
        next(stream.no_stream.remote())
    with pytest.raises(TypeError, match="stream=True"):
        handle.slowly.remote(1).result()
    with pytest.raises(TypeError, match="async for"):
        stream.slowly.remote(1).result()


def test_the_first_item_of_a_stream_comes_at_once() -> None:
    stream = serve.run(Streamer.bind()).options(stream=True)
    began = time.monotonic()
    items = stream.slowly.remote(10_000)
    assert next(items) == 0
    assert time.monotonic() - began < 30  # all of them take minutes
    items.cancel()


def test_a_cancelled_stream_ends_where_it_is_made(eventually) -> None:  # type: ignore[no-untyped-def]
    handle = serve.run(Streamer.bind())
    items = handle.options(stream=True).slowly.remote(10_000)
    next(items)
    items.cancel()
    eventually(lambda: handle.how_many_closed.remote().result() == 1)
    with pytest.raises(RequestCancelledError):
        list(items)


@serve.deployment(max_ongoing_requests=2, max_queued_requests=3, graceful_shutdown_timeout_s=1)
class Gate:
    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.begun: list[int] = []
        self.cancelled = 0
        self.most = self.now = 0

    async def __call__(self, number: int) -> int:
        self.begun.append(number)
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.now -= 1
        return number


def gate_of(handle: DeploymentHandle) -> object:
    """The replica's actor, to reach around the limits."""
    (name,) = (
        row["name"]
        for row in skate.util.list_named_actors(all_namespaces=True)
        if "#Gate#" in row["name"]  # type: ignore[index]
    )
    return skate.get_actor(name, namespace="serve")


def opened(replica: object) -> None:
    replica.instance.open.set()  # type: ignore[attr-defined]


def seen(replica: object) -> tuple[list[int], int, int]:
    gate = replica.instance  # type: ignore[attr-defined]
    return gate.begun, gate.cancelled, gate.most


def peek(handle: DeploymentHandle) -> tuple[list[int], int, int]:
    return skate.get(gate_of(handle).__ray_call__.remote(seen))  # type: ignore[attr-defined, no-any-return]


def test_no_more_requests_at_once_than_allowed_and_no_more_waiting(eventually) -> None:  # type: ignore[no-untyped-def]
    handle = serve.run(Gate.bind())
    responses = [handle.remote(number) for number in range(5)]
    eventually(lambda: len(peek(handle)[0]) == 2)
    with pytest.raises(BackPressureError, match="max_queued_requests is 3"):
        handle.remote(99).result()
    with pytest.raises(TimeoutError):
        responses[4].result(timeout_s=0.05)
    with pytest.raises(TimeoutError):
        responses[0].result(timeout_s=0.05)
    gate_of(handle).__ray_call__.remote(opened)  # type: ignore[attr-defined]
    assert [response.result(timeout_s=60) for response in responses] == list(range(5))
    begun, _, most = peek(handle)
    assert sorted(begun) == list(range(5)) and most == 2


def test_requests_that_nobody_waits_for_are_run_too(eventually) -> None:  # type: ignore[no-untyped-def]
    handle = serve.run(Gate.options(max_queued_requests=-1).bind())
    gate = gate_of(handle)
    for number in range(10):
        handle.remote(number)
    gate.__ray_call__.remote(opened)  # type: ignore[attr-defined]
    eventually(lambda: len(peek(handle)[0]) == 10)


def test_cancel_before_and_after_it_was_sent(eventually) -> None:  # type: ignore[no-untyped-def]
    handle = serve.run(Gate.bind())
    responses: list[DeploymentResponse] = [handle.remote(number) for number in range(3)]
    eventually(lambda: len(peek(handle)[0]) == 2)
    responses[2].cancel()
    responses[0].cancel()
    assert responses[0].cancelled()
    for number in (2, 0):
        with pytest.raises(RequestCancelledError, match=responses[number].request_id):
            responses[number].result(timeout_s=60)
    eventually(lambda: peek(handle)[1] == 1)
    assert peek(handle)[0] == [0, 1], "what was cancelled while it waited is never run"


def test_a_cancelled_caller_cancels_what_it_called(eventually) -> None:  # type: ignore[no-untyped-def]
    @serve.deployment
    class Caller:
        def __init__(self, gate: DeploymentHandle) -> None:
            self.gate = gate

        async def __call__(self) -> int:
            return await self.gate.remote(1)

    handle = serve.run(Caller.bind(Gate.bind()))
    response = handle.remote()
    eventually(lambda: peek(handle)[0] == [1])
    response.cancel()
    eventually(lambda: peek(handle)[1] == 1)
    with pytest.raises(RequestCancelledError):
        response.result(timeout_s=60)


def test_a_cancel_comes_once_so_that_handlers_can_put_things_in_order(eventually) -> None:  # type: ignore[no-untyped-def]
    @serve.deployment
    class Leaf:
        def __init__(self) -> None:
            self.seen: list[str] = []

        async def __call__(self) -> None:
            self.seen.append("begun")
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                await asyncio.sleep(0.3)  # a second cancel would come here
                self.seen.append("in order")
                raise

        def get(self) -> list[str]:
            return self.seen

    @serve.deployment
    class Top:
        def __init__(self, leaf: DeploymentHandle) -> None:
            self.leaf = leaf

        async def __call__(self) -> None:
            await self.leaf.remote()

    handle = serve.run(Top.bind(Leaf.bind()))
    leaf = serve.get_deployment_handle("Leaf", "default")
    response = handle.remote()
    eventually(lambda: leaf.get.remote().result() == ["begun"])
    time.sleep(0.5)
    response.cancel()
    eventually(lambda: leaf.get.remote().result() == ["begun", "in order"])


def test_a_cancelled_asyncio_task_cancels_its_request(eventually) -> None:  # type: ignore[no-untyped-def]
    handle = serve.run(Gate.bind())

    async def main() -> None:
        task = asyncio.ensure_future(_ask(handle))
        while not (await asyncio.to_thread(peek, handle))[0]:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    eventually(lambda: peek(handle)[1] == 1)


async def _ask(handle: DeploymentHandle) -> int:
    return await handle.remote(1)


def test_a_request_knows_its_id_and_application_in_every_hop() -> None:
    from skate.serve import context

    @serve.deployment
    class Last:
        def __call__(self) -> tuple[str, ...]:
            return tuple(context.request_context.get())

    @serve.deployment
    class First:
        def __init__(self, last: DeploymentHandle) -> None:
            self.last = last

        async def __call__(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
            later = await self.last.options(multiplexed_model_id="m").remote()
            return tuple(context.request_context.get()), later

    response = serve.run(First.bind(Last.bind()), name="known", route_prefix=None).remote()
    first, last = response.result()
    assert first[0] == last[0] == response.request_id
    assert first[2] == last[2] == "known"
    assert (first[3], last[3]) == ("", "m")


def test_many_threads_share_a_handle() -> None:
    handle = serve.run(Adder.options(num_replicas=2).bind(1))
    wrong: list[object] = []

    def work(base: int) -> None:
        for value in range(base, base + 100):
            if handle.remote(value).result(timeout_s=60) != value + 1:
                wrong.append(value)

    threads = [threading.Thread(target=work, args=(number * 1000,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
