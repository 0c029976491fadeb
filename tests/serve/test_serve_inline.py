"""An application in one process: the engine `inline`."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Iterator

import pytest

import skate
from skate import serve
from skate.serve.exceptions import DeploymentUnavailableError
from skate.serve.handle import DeploymentHandle


@pytest.fixture(autouse=True)
def session() -> Iterator[None]:
    skate.init(engine="inline")
    yield
    serve.shutdown()
    skate.shutdown()


@serve.deployment
class Part:
    def __init__(self, amount: int) -> None:
        self.amount = amount
        self.name_at_first = serve.get_replica_context().deployment

    async def __call__(self, value: int) -> int:
        await asyncio.sleep(0)
        return value + self.amount

    def stop_here(self) -> int:
        breakpoint()
        return os.getpid()

    def who(self) -> tuple[str, str]:
        return serve.get_replica_context().deployment, self.name_at_first

    async def count(self, number: int) -> AsyncIterator[int]:
        for value in range(number):
            yield value

    def fail(self) -> None:
        raise KeyError("here")


@serve.deployment
class Whole:
    def __init__(self, first: DeploymentHandle, second: DeploymentHandle) -> None:
        self.first, self.second = first, second

    async def __call__(self, value: int) -> int:
        return await self.second.remote(self.first.remote(value))

    async def names(self) -> list[tuple[str, str]]:
        return [await self.first.who.remote(), await self.second.who.remote()]


def application() -> serve.Application:
    return Whole.bind(Part.bind(1), Part.options(name="Other").bind(10))


def test_deployments_call_each_other_in_one_process() -> None:
    handle = serve.run(application(), route_prefix=None)
    assert handle.remote(5).result() == 16
    assert asyncio.run(awaited(handle)) == 17


async def awaited(handle: DeploymentHandle) -> int:
    return await handle.remote(6)


def test_each_replica_knows_which_it_is() -> None:
    handle = serve.run(application(), route_prefix=None)
    assert handle.names.remote().result() == [("Part", "Part"), ("Other", "Other")]


def test_a_breakpoint_in_a_handler_stops_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    stopped: list[str] = []

    def hook() -> None:
        stopped.append(sys._getframe(1).f_code.co_name)

    monkeypatch.setattr(sys, "breakpointhook", hook)
    handle = serve.run(Part.bind(1), route_prefix=None)
    assert handle.stop_here.remote().result() == os.getpid()
    assert stopped == ["stop_here"]


def test_streams_and_errors() -> None:
    handle = serve.run(Part.bind(1), route_prefix=None)
    assert list(handle.options(stream=True).count.remote(300)) == list(range(300))
    with pytest.raises(KeyError, match="here"):
        handle.fail.remote().result()


def test_update_delete_and_start_again() -> None:
    handle = serve.run(Part.bind(1), route_prefix=None)
    serve.run(Part.options(num_replicas=3).bind(2), route_prefix=None)
    assert {handle.remote(0).result() for _ in range(20)} == {2}
    serve.delete("default")
    with pytest.raises(DeploymentUnavailableError):
        handle.remote(0).result(timeout_s=60)
    serve.shutdown()
    assert serve.run(Part.bind(3), route_prefix=None).remote(0).result() == 3
