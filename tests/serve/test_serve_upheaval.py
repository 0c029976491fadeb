"""Faults in the middle of changes: the controller killed, updates in a row, replicas that die without news of it."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import skate
from skate import serve
from skate.serve import context
from skate.serve.exceptions import DeploymentUnavailableError

Eventually = Callable[..., None]
clean = pytest.mark.usefixtures("clean")


@serve.deployment(num_replicas=2, max_ongoing_requests=10, graceful_shutdown_timeout_s=10)
class Version:
    def __init__(self, number: int) -> None:
        self.number = number

    async def __call__(self) -> int:
        await asyncio.sleep(0.002)
        return self.number

    def where(self) -> int:
        return os.getpid()


@contextmanager
def load(handle: Any, threads: int = 3) -> Iterator[list[BaseException]]:
    """Requests without a pause; the errors that they raised."""
    over, errors, answered = threading.Event(), [], [0]

    def ask() -> None:
        while not over.is_set():
            try:
                handle.remote().result(timeout_s=60)
                answered[0] += 1
            except Exception as error:  # noqa: BLE001  the test shows it
                errors.append(error)

    asking = [threading.Thread(target=ask) for _ in range(threads)]
    for thread in asking:
        thread.start()
    try:
        yield errors
    finally:
        over.set()
        for thread in asking:
            thread.join(40)
    assert answered[0] > 0


def kill_controller() -> None:
    skate.kill(context.controller(), no_restart=False)


def settled(handle: Any, number: int, replicas: int) -> Callable[[], bool]:
    def look() -> bool:
        app = serve.status().applications["default"]
        states = app.deployments["Version"].replica_states
        return app.status == "RUNNING" and states == {"RUNNING": replicas} and handle.remote().result() == number

    return look


@clean
def test_ten_updates_in_a_row_fail_no_request(eventually: Eventually) -> None:
    handle = serve.run(Version.bind(0), route_prefix=None)
    with load(handle) as errors:
        for number in range(1, 11):
            serve.run(Version.bind(number), route_prefix=None, _blocking=False)
            time.sleep(number % 4 * 0.05)
        eventually(settled(handle, 10, 2), 30)
    assert not errors


@clean
@pytest.mark.parametrize("after", [0.0, 0.03, 0.1])
def test_a_controller_killed_in_the_middle_of_an_update_or_of_scaling_goes_on(
    after: float, eventually: Eventually
) -> None:
    handle = serve.run(Version.bind(0), route_prefix=None)
    with load(handle) as errors:
        serve.run(Version.bind(1), route_prefix=None, _blocking=False)
        time.sleep(after)
        kill_controller()
        eventually(settled(handle, 1, 2), 30)
        for replicas in (4, 1):
            serve.run(Version.options(num_replicas=replicas, version="2").bind(2), route_prefix=None, _blocking=False)
            time.sleep(after)
            kill_controller()
            eventually(settled(handle, 2, replicas), 30)
    assert not errors


@clean
@pytest.mark.parametrize("after", [0.0, 0.02, 0.06])
def test_a_controller_killed_in_the_middle_of_a_deploy_deploys(after: float) -> None:
    found: list[Any] = []
    deploying = threading.Thread(target=lambda: found.append(serve.run(Version.bind(3), route_prefix=None)))
    deploying.start()
    time.sleep(after)
    kill_controller()
    deploying.join(30)
    assert found, "serve.run did not come back"
    assert found[0].remote().result(timeout_s=60) == 3


@clean
def test_a_replica_that_dies_while_the_controller_hangs_is_not_sent_to_again(eventually: Eventually) -> None:
    handle = serve.run(Version.bind(0), route_prefix=None)
    pids = set()
    eventually(lambda: pids.add(handle.where.remote().result(timeout_s=60)) or len(pids) == 2)
    pid = skate.get(context.controller().__ray_call__.remote(lambda _: os.getpid()))
    os.kill(pid, signal.SIGSTOP)  # no news of anything
    try:
        os.kill(pids.pop(), signal.SIGKILL)
        (left,) = pids
        answers = []
        for _ in range(20):
            try:
                answers.append(handle.where.remote().result(timeout_s=60))
            except skate.exceptions.RayActorError:
                continue  # it had begun, or nobody knows
        assert set(answers) == {left}
    finally:
        os.kill(pid, signal.SIGCONT)
    eventually(settled(handle, 0, 2))


@clean
def test_with_controller_and_vault_killed_for_good_serve_begins_anew() -> None:
    handle = serve.run(Version.bind(0), route_prefix=None)
    skate.kill(context.controller())
    assert handle.remote().result(timeout_s=60) == 0, "requests do not pass the controller"
    again = serve.run(Version.bind(1), route_prefix=None)
    assert again.remote().result(timeout_s=60) == 1


@clean
def test_all_replicas_dead_and_the_controller_gone_for_good_is_told_of(eventually: Eventually) -> None:
    handle = serve.run(Version.bind(0), route_prefix=None)
    handle.remote().result(timeout_s=60)
    for name in [row["name"] for row in skate.util.list_named_actors(all_namespaces=True)]:
        if name.startswith("SERVE_REPLICA::") or name == context.CONTROLLER:
            skate.kill(skate.get_actor(name, namespace=context.NAMESPACE))
    with pytest.raises((DeploymentUnavailableError, skate.exceptions.RayActorError)):
        for _ in range(3):
            handle.remote().result(timeout_s=60)
    again = serve.run(Version.bind(1), route_prefix=None)
    eventually(lambda: again.remote().result(timeout_s=60) == 1)


@skate.remote(num_cpus=0)
class Runs:
    """Counts how often a handler ran."""

    def __init__(self) -> None:
        self.count = 0

    def more(self) -> int:
        self.count += 1
        return self.count

    def get(self) -> int:
        return self.count


@serve.deployment(num_replicas=2)
class Fragile:
    def __init__(self, runs: Any) -> None:
        self.runs = runs

    async def __call__(self, deaths: int) -> int:
        count = await self.runs.more.remote()
        if count <= deaths:
            os._exit(1)
        return int(count)

    async def stream(self, deaths: int) -> Any:
        yield await self(deaths)
        yield 0


@clean
def test_a_request_that_had_begun_is_sent_anew_only_where_that_was_asked_for() -> None:
    for deaths, idempotent, ran in ((1, False, 1), (1, True, 2), (2, True, 3), (9, True, 3)):
        runs = Runs.remote()
        handle = serve.run(Fragile.bind(runs), route_prefix=None).options(idempotent=idempotent)
        if deaths < ran:
            assert handle.remote(deaths).result(timeout_s=60) == ran
        else:
            with pytest.raises(skate.exceptions.RayActorError):
                handle.remote(deaths).result(timeout_s=60)
        assert skate.get(runs.get.remote()) == ran
    runs = Runs.remote()
    handle = serve.run(Fragile.bind(runs), route_prefix=None)
    assert list(handle.options(stream=True, idempotent=True).stream.remote(1)) == [2, 0]
