"""Serve on real Ray, where its controller and replicas are Ray's actors."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator

import pytest

import skate
from skate import serve
from skate.exceptions import RayActorError
from skate.serve.handle import DeploymentHandle

pytest.importorskip("ray", reason="Ray is not installed: `make test-ray` installs it")
pytestmark = pytest.mark.usefixtures("session")


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    yield
    serve.shutdown()


@serve.deployment
class Part:
    def __init__(self, amount: int) -> None:
        self.amount = amount

    async def __call__(self, value: int) -> int:
        return value + self.amount

    def pid(self) -> int:
        return os.getpid()

    async def count(self, number: int) -> AsyncIterator[int]:
        for value in range(number):
            yield value

    async def slow(self) -> None:
        await asyncio.sleep(30)


@serve.deployment
class Whole:
    def __init__(self, part: DeploymentHandle) -> None:
        self.part = part

    async def __call__(self, value: int) -> int:
        return await self.part.remote(self.part.remote(value))


def test_deployments_call_each_other_and_stream() -> None:
    handle = serve.run(Whole.bind(Part.options(num_replicas=2).bind(5)), route_prefix=None)
    assert [handle.remote(value).result() for value in range(10)] == [value + 10 for value in range(10)]
    part = serve.get_deployment_handle("Part", "default")
    assert list(part.options(stream=True).count.remote(100)) == list(range(100))


def test_a_dead_replica_is_replaced_and_an_update_is_made() -> None:
    handle = serve.run(Part.bind(1), route_prefix=None)
    under_way, pid = handle.slow.remote(), handle.pid.remote().result()
    time.sleep(0.5)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(RayActorError):
        under_way.result(timeout_s=30)
    assert handle.remote(1).result(timeout_s=30) == 2
    serve.run(Part.bind(2), route_prefix=None)
    assert handle.remote(1).result(timeout_s=30) == 3


def test_what_a_constructor_raises_is_told() -> None:
    @serve.deployment
    class Broken:
        def __init__(self) -> None:
            raise KeyError("the model is not there")

    with pytest.raises(RuntimeError, match="the model is not there"):
        serve.run(Broken.bind(), route_prefix=None)


def test_a_restarted_controller_finds_its_replicas() -> None:
    from skate.serve import context

    handle = serve.run(Part.options(num_replicas=2).bind(1), route_prefix=None)
    before = {handle.pid.remote().result() for _ in range(40)}
    skate.kill(context.controller(), no_restart=False)
    assert handle.remote(1).result(timeout_s=30) == 2
    deadline = time.monotonic() + 30
    while serve.status().applications["default"].status != "RUNNING":
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert {handle.pid.remote().result() for _ in range(40)} == before
