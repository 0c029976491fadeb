"""Waits that could never end raise, and all else goes on: calls in a circle, what is infeasible, owners that died."""

from __future__ import annotations

import os
import signal
import time

import pytest

import skate as ray
from skate.exceptions import DeadlockError, TaskUnschedulableError

pytestmark = [pytest.mark.usefixtures("session"), pytest.mark.timeout(300)]


@ray.remote
class Node:
    """Calls the next one."""

    def link(self, other):
        self.other = other

    def pass_on(self, steps):
        return "end" if steps == 0 else ray.get(self.other.pass_on.remote(steps - 1))

    def wait_on(self, steps):
        ready, _ = ray.wait([self.other.pass_on.remote(steps - 1)])
        return ray.get(ready[0])

    def with_timeout(self, steps):
        return ray.get(self.other.pass_on.remote(steps - 1), timeout=1)

    def through_task(self, steps):
        return ray.get(forward.remote(self.other, steps))

    def try_on(self, steps):
        try:
            return self.pass_on(steps)
        except DeadlockError as error:
            return f"told: {error}"

    def ask(self, box):
        return ray.get(box[0])

    def ping(self):
        return "alive"


@ray.remote
def forward(actor, steps):
    return ray.get(actor.pass_on.remote(steps))


def ring(size):
    nodes = [Node.remote() for _ in range(size)]
    ray.get([node.link.remote(after) for node, after in zip(nodes, nodes[1:] + nodes[:1], strict=True)])
    return nodes


@pytest.mark.parametrize("size", [1, 2, 3, 6])
def test_actors_in_a_circle_are_told_at_once(size):
    nodes = ring(size)
    begin = time.monotonic()
    with pytest.raises(
        DeadlockError, match=r"Node\.pass_on \(pid \d+\) waits for Node\.pass_on.*waits in the queue of"
    ):
        ray.get(nodes[0].pass_on.remote(100))
    assert time.monotonic() - begin < 30
    assert ray.get([node.ping.remote() for node in nodes]) == ["alive"] * size


def test_short_of_a_full_circle_nobody_is_told():
    nodes = ring(6)
    assert ray.get(nodes[0].pass_on.remote(5)) == "end"


def test_a_circle_through_wait_and_through_tasks():
    for method in ("wait_on", "through_task"):
        nodes = ring(2)
        with pytest.raises(DeadlockError):
            ray.get(getattr(nodes[0], method).remote(5))
        assert ray.get([node.ping.remote() for node in nodes]) == ["alive"] * 2


def test_a_timeout_in_the_circle_is_waited_for():
    nodes = ring(2)
    with pytest.raises(ray.exceptions.GetTimeoutError):
        ray.get(nodes[0].with_timeout.remote(5))
    assert ray.get([node.ping.remote() for node in nodes]) == ["alive"] * 2


def test_only_the_last_is_told_and_the_others_get_its_answer():
    first, second = ring(2)
    ray.get(second.link.remote(first))
    answers = ray.get([first.try_on.remote(2), second.try_on.remote(2)])
    assert len([answer for answer in answers if answer.startswith("told")]) >= 1
    assert ray.get([first.ping.remote(), second.ping.remote()]) == ["alive"] * 2


def test_a_task_that_is_given_its_own_reference():
    @ray.remote
    class Post:
        def __init__(self):
            self.box = None

        def leave(self, box):
            self.box = box

        def fetch(self):
            return self.box

    @ray.remote
    def own(post):
        box = None
        while box is None:
            box = ray.get(post.fetch.remote())
        return ray.get(box[0])

    post = Post.remote()
    ref = own.remote(post)
    ray.get(post.leave.remote([ref]))
    with pytest.raises(DeadlockError):
        ray.get(ref)


def test_sync_get_in_an_async_actor_and_in_a_constructor():
    @ray.remote
    class Loop:
        async def wrong(self):
            return ray.get(ray.get_runtime_context().current_actor.right.remote())

        async def right(self):
            return 1

        async def awaits(self):
            return await ray.get_runtime_context().current_actor.right.remote()

    @ray.remote
    class Eager:
        def __init__(self):
            ray.get(ray.get_runtime_context().current_actor.ping.remote())

        def ping(self):
            return 1

    loop = Loop.remote()
    assert ray.get(loop.awaits.remote()) == 1
    with pytest.raises(DeadlockError, match="await the reference"):
        ray.get(loop.wrong.remote())
    assert ray.get(loop.awaits.remote()) == 1
    with pytest.raises(ray.exceptions.ActorDiedError, match="DeadlockError"):
        ray.get(Eager.remote().ping.remote())


def test_threads_and_coroutines_with_room_are_no_circle():
    @ray.remote(max_concurrency=4)
    class Wide:
        def outer(self, n):
            return n if n == 0 else ray.get(ray.get_runtime_context().current_actor.outer.remote(n - 1)) + 1

    assert ray.get(Wide.remote().outer.remote(3)) == 3


def test_a_crowd_of_callers_ends_in_answers_or_errors():
    nodes = ring(4)
    refs = [nodes[i % 4].try_on.remote(i % 7) for i in range(100)]
    answers = ray.get(refs, timeout=150)
    assert all(answer == "end" or answer.startswith("told") for answer in answers)
    assert ray.get([node.ping.remote() for node in nodes]) == ["alive"] * 4


def test_what_depends_on_something_infeasible():
    @ray.remote(resources={"nowhere": 1})
    def never():
        return 1

    @ray.remote
    def use(x):
        return x

    @ray.remote
    def outer(verb):
        ref = use.remote(never.remote())
        return ray.get(ref) if verb == "get" else ray.wait([ref])

    with pytest.raises(TaskUnschedulableError):
        ray.get(use.remote(never.remote()))
    with pytest.raises(TaskUnschedulableError):
        ray.wait([use.remote(never.remote())])
    for verb in ("get", "wait"):
        with pytest.raises(TaskUnschedulableError):
            ray.get(outer.remote(verb))
    good = use.remote(1)
    assert ray.wait([never.remote(), good])[0] == [good]


def test_objects_outlive_the_process_that_made_them():
    @ray.remote
    class Maker:
        def make(self):
            @ray.remote
            def slow():
                time.sleep(0.5)
                return "slow"

            return [ray.put("kept"), slow.remote()], os.getpid()

    maker = Maker.remote()
    (kept, slow), pid = ray.get(maker.make.remote())
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(ray.exceptions.ActorDiedError):
        ray.get(maker.make.remote())
    assert ray.get([kept, slow], timeout=60) == ["kept", "slow"]
