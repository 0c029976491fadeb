"""Actors live in this process; only concurrent ones have threads."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time

import pytest

import skate
from skate.engines.inline import lanes, running
from skate.engines.inline.records import failure
from skate.exceptions import (
    ActorAlreadyExistsError,
    ActorDiedError,
    ActorHandleNotFoundError,
    ActorUnavailableError,
    ActorUnschedulableError,
    DeadlockError,
    GetTimeoutError,
    PendingCallsLimitExceeded,
    RayActorError,
    TaskCancelledError,
)

pytestmark = pytest.mark.usefixtures("engine")


@skate.remote
class Waiting:
    """An async actor."""

    def __init__(self):
        self.event = asyncio.Event()
        self.loop = asyncio.get_running_loop()

    async def wait(self, value=None):
        await self.event.wait()
        return value

    async def fire(self):
        self.event.set()

    def same_loop(self):
        return self.loop is asyncio.get_running_loop()


def skate_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("skate")]


def test_plain_actor_runs_in_the_calling_thread():
    @skate.remote
    class A:
        def __init__(self):
            self.made = threading.get_ident()

        def where(self):
            return self.made, threading.get_ident()

    me = threading.get_ident()
    assert skate.get(A.remote().where.remote()) == (me, me)
    assert not skate_threads()


def test_call_of_an_actor_on_itself_runs_after_the_running_one():
    @skate.remote
    class A:
        def __init__(self):
            self.log = []

        def outer(self):
            me = skate.get_runtime_context().current_actor
            ref = me.inner.remote()
            self.log.append("outer")
            return [ref]

        def inner(self):
            self.log.append("inner")
            return self.log

    (ref,) = skate.get(A.remote().outer.remote())
    assert skate.get(ref) == ["outer", "inner"]


def test_waiting_for_oneself_is_an_error_rather_than_a_deadlock():
    @skate.remote
    class A:
        def wait_for_myself(self):
            me = skate.get_runtime_context().current_actor
            return skate.get(me.other.remote())

        def other(self):
            return 1

    a = A.remote()
    with pytest.raises(DeadlockError, match=r"never end: A\.other"):
        skate.get(a.wait_for_myself.remote())
    assert skate.get(a.other.remote()) == 1


def test_two_actors_that_wait_for_each_other_are_told():
    @skate.remote
    class Sync:
        def call(self, other, me):
            return skate.get(other.back.remote(me))

        def answer(self):
            return 1

    @skate.remote
    class Async:
        async def back(self, caller):
            return skate.get(caller.answer.remote())

    a, b = Sync.remote(), Async.remote()
    with pytest.raises(DeadlockError, match=r"never end: (Sync\.answer|Async\.back)"):
        skate.get(a.call.remote(b, a))


def test_async_actor_blocked_on_its_own_loop_is_told():
    @skate.remote
    class A:
        async def wrong(self):
            return skate.get(skate.get_runtime_context().current_actor.other.remote())

        async def right(self):
            return await skate.get_runtime_context().current_actor.other.remote()

        async def other(self):
            return 1

    a = A.remote()
    with pytest.raises(DeadlockError, match="await the reference"):
        skate.get(a.wrong.remote())
    assert skate.get(a.right.remote()) == 1


def test_task_on_an_unready_argument_runs_in_a_thread_when_it_is_ready():
    @skate.remote
    def use(x):
        return x, threading.current_thread() is threading.main_thread()

    a = Waiting.remote()
    ref = use.remote(a.wait.remote("late"))
    with pytest.raises(GetTimeoutError):
        skate.get(ref, timeout=0.05)
    skate.get(a.fire.remote())
    assert skate.get(ref) == ("late", False)
    assert skate.get(a.same_loop.remote())


def test_argument_that_is_late_holds_up_its_own_caller_only():
    @skate.remote
    class Log:
        def __init__(self):
            self.seen = []

        def add(self, x):
            self.seen.append(x)
            return list(self.seen)

    @skate.remote
    def other(log):
        return skate.get(log.add.remote("other"))

    a, log = Waiting.remote(), Log.remote()
    first = log.add.remote(a.wait.remote("first"))
    second = log.add.remote("second")
    assert skate.get(other.remote(log)) == ["other"]
    skate.get(a.fire.remote())
    assert skate.get([first, second]) == [["other", "first"], ["other", "first", "second"]]


def test_hundred_async_waiters_and_the_limit_of_one():
    many = Waiting.remote()
    refs = [many.wait.remote(i) for i in range(100)]
    skate.get(many.fire.remote())
    assert skate.get(refs) == list(range(100))
    one = Waiting.options(max_concurrency=1).remote()
    stuck = one.wait.remote()
    with pytest.raises(GetTimeoutError):
        skate.get(one.fire.remote(), timeout=0.1)
    skate.cancel(stuck)
    with pytest.raises(TaskCancelledError):
        skate.get(stuck)
    skate.get(one.fire.remote())


def test_cancel_of_async_calls_that_run_and_that_wait_for_their_turn():
    a = Waiting.options(max_concurrency=1).remote()
    running, queued = a.wait.remote(), a.wait.remote()
    skate.cancel(queued)
    skate.cancel(running)
    for ref in (queued, running):
        with pytest.raises(TaskCancelledError):
            skate.get(ref, timeout=60)
    skate.get(a.fire.remote(), timeout=60)


def test_async_calls_have_their_environment_in_each_step():
    @skate.remote(runtime_env={"env_vars": {"SKATE_TRIAL": "async"}})
    class A:
        async def look(self):
            first = os.environ.get("SKATE_TRIAL")
            await asyncio.sleep(0.1)
            return first, os.environ.get("SKATE_TRIAL")

    ref = A.remote().look.remote()
    time.sleep(0.05)
    assert "SKATE_TRIAL" not in os.environ
    assert skate.get(ref) == ("async", "async")


def test_pending_calls_are_limited_where_calls_can_be_pending():
    a = Waiting.options(max_pending_calls=2).remote()
    refs = [a.wait.remote(), a.wait.remote()]
    with pytest.raises(PendingCallsLimitExceeded):
        a.wait.remote()
    del refs


def test_threads_are_started_as_needed_and_end_with_the_actor():
    @skate.remote(max_concurrency=4)
    class A:
        def ident(self):
            return threading.get_ident()

    a = A.remote()
    assert skate.get(a.ident.remote()) != threading.get_ident()
    assert 1 <= len(skate_threads()) <= 2
    skate.kill(a)
    deadline = time.monotonic() + 60
    while skate_threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not skate_threads()


def test_groups_have_threads_of_their_own_and_the_default_keeps_order():
    @skate.remote(concurrency_groups={"io": 2})
    class A:
        def __init__(self):
            self.order, self.event = [], threading.Event()

        def step(self, i):
            self.order.append(i)
            return list(self.order)

        @skate.method(concurrency_group="io")
        def block(self):
            return self.event.wait(10)

        def release(self):
            self.event.set()

    a = A.remote()
    blocked = a.block.remote()
    assert skate.get([a.step.remote(i) for i in range(20)])[-1] == list(range(20))
    skate.get(a.release.remote())
    assert skate.get(blocked) is True


def test_kill_discards_what_runs_in_a_thread(tmp_path):
    @skate.remote(max_concurrency=2)
    class A:
        def nap(self):
            while not (tmp_path / "over").exists():
                time.sleep(0.01)

    a = A.remote()
    ref = a.nap.remote()
    time.sleep(0.05)
    skate.kill(a)
    with pytest.raises(ActorDiedError, match="killed"):
        skate.get(ref, timeout=0.1)
    (tmp_path / "over").touch()


@pytest.mark.parametrize("concurrency", [1, 2])
def test_call_that_begins_just_when_its_actor_is_killed_fails_of_that(concurrency, monkeypatch):
    @skate.remote(max_concurrency=concurrency)
    class A:
        def ping(self):
            return True

    real = running.arguments

    def late(session, call):
        found = real(session, call)
        if call.target == "ping":  # the first half of what a kill by another thread does
            call.actor.instance, call.actor.death = None, failure(ActorDiedError("it was killed"))
        return found

    a = A.remote()
    monkeypatch.setattr(running, "arguments", late)
    monkeypatch.setattr(lanes, "arguments", late)
    with pytest.raises(ActorDiedError, match="it was killed"):
        skate.get(a.ping.remote(), timeout=60)


def test_restart_runs_the_constructor_again():
    @skate.remote(max_restarts=1, max_task_retries=1)
    class A:
        def __init__(self, start):
            self.n = start

        def add(self):
            self.n += 1
            return self.n

        def leave_once(self):
            if not skate.get_runtime_context().was_current_actor_reconstructed:
                sys.exit(1)
            return self.n

        def leave(self):
            sys.exit(1)

    a = A.remote(skate.put(10))
    assert skate.get([a.add.remote(), a.add.remote()]) == [11, 12]
    assert skate.get(a.leave_once.remote()) == 10
    with pytest.raises(ActorDiedError, match=r"sys.exit\(1\)"):
        skate.get(a.leave.remote())
    b = A.options(max_task_retries=0).remote(1)
    with pytest.raises(ActorUnavailableError):
        skate.get(b.leave_once.remote())
    assert skate.get(b.add.remote()) == 2


def test_kill_that_allows_a_restart():
    @skate.remote(max_restarts=1)
    class A:
        def __init__(self):
            self.n = 0

        def add(self):
            self.n += 1
            return self.n

    a = A.remote()
    skate.get(a.add.remote())
    skate.kill(a, no_restart=False)
    assert skate.get(a.add.remote()) == 1
    skate.kill(a, no_restart=False)
    with pytest.raises(ActorDiedError):
        skate.get(a.add.remote())


def test_failed_constructor_shows_its_traceback_and_frees_the_name():
    @skate.remote
    class A:
        def __init__(self, x):
            raise ValueError("no good")

        def f(self):
            return 1

    a = A.options(name="broken").remote(1)
    with pytest.raises(ActorDiedError, match="no good") as info:
        skate.get(a.f.remote())
    assert "test_inline_actors.py" in str(info.value) and info.value.actor_init_failed
    with pytest.raises(ValueError, match="broken"):
        skate.get_actor("broken")

    @skate.remote
    def bad():
        raise KeyError("dependency")

    with pytest.raises(ActorDiedError, match="dependency"):
        skate.get(A.remote(bad.remote()).f.remote())


def test_dropped_actor_says_goodbye_and_names_are_free(engine, tmp_path):
    path = str(tmp_path / "said")

    @skate.remote
    class A:
        def __ray_shutdown__(self):
            with open(path, "a") as out:
                out.write("bye")

    a = A.options(name="mine").remote()
    with pytest.raises(ActorAlreadyExistsError):
        A.options(name="mine").remote()
    found = skate.get_actor("mine")
    assert found == a
    assert engine.state("names") == [{"name": "mine", "namespace": "tests"}]
    del a
    assert engine.state("names") == [] and not engine.session.actors
    assert [row["state"] for row in engine.state("actors")] == ["DEAD"]
    with pytest.raises(ActorDiedError, match="last handle"):
        skate.get(found.__ray_ready__.remote())
    with open(path) as said:
        assert said.read() == "bye"


def test_infeasible_actor_is_told_and_can_be_dropped(engine):
    @skate.remote(num_gpus=8)
    class A:
        def f(self):
            return 1

    a = A.remote()
    ref = a.f.remote()
    with pytest.raises(GetTimeoutError):
        skate.get(ref, timeout=0.01)
    with pytest.raises(ActorUnschedulableError, match="GPU: 8"):
        skate.get(ref)
    assert skate.available_resources()["GPU"] == 2.0
    skate.kill(a)
    with pytest.raises(ActorDiedError):
        skate.get(ref)
    b = A.remote()
    del a, b, ref
    assert {row["state"] for row in engine.state("actors")} == {"DEAD"} and not engine.session.actors


def test_handle_of_a_closed_session():
    a = Waiting.remote()
    skate.shutdown()
    skate.init(engine="inline")
    with pytest.raises(ActorHandleNotFoundError):
        a.fire.remote()


def test_end_of_the_session_ends_waiting_calls_and_threads():
    a = Waiting.remote()
    ref = a.wait.remote()
    seen = []

    def work():
        try:
            skate.get(ref)
        except RayActorError as error:
            seen.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    time.sleep(0.05)
    skate.shutdown()
    thread.join(60)
    assert "session has ended" in str(seen[0])
    assert not skate_threads()


def test_exit_actor_from_async_and_threaded_methods():
    @skate.remote
    class Async:
        async def leave(self):
            await asyncio.sleep(0)
            skate.actor.exit_actor()

    @skate.remote(max_concurrency=2)
    class Threaded:
        def leave(self):
            skate.actor.exit_actor()

    for cls in (Async, Threaded):
        a = cls.remote()
        with pytest.raises(ActorDiedError, match="exit_actor"):
            skate.get(a.leave.remote(), timeout=60)
        with pytest.raises(ActorDiedError):
            skate.get(a.leave.remote(), timeout=60)


def test_await_in_the_callers_own_loop():
    @skate.remote
    class Echo:
        async def say(self, x):
            await asyncio.sleep(0.01)
            return x

    async def main():
        a = Echo.remote()
        refs = [a.say.remote(i) for i in range(10)]
        ticks = 0

        async def tick():
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0.001)

        ticking = asyncio.create_task(tick())
        values = await asyncio.gather(*refs)
        ticking.cancel()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(as_coroutine(Waiting.remote().wait.remote()), 0.05)
        return values, ticks

    async def as_coroutine(ref):
        return await ref

    values, ticks = asyncio.run(main())
    assert values == list(range(10)) and ticks > 1
