"""Async actors, threaded actors, concurrency groups, limits on pending calls."""

import asyncio
import os
import threading
import time

import pytest

from skate.testing.contract import differs_on_ray, needs_processes, not_yet


def test_async_calls_overlap(ray):
    @ray.remote
    class A:
        async def nap(self):
            await asyncio.sleep(0.5)
            return time.time()

    a = A.remote()
    ray.get(a.nap.remote())
    begin = time.time()
    ray.get([a.nap.remote() for _ in range(20)])
    assert time.time() - begin < 9  # one after the other they take 10


def test_async_actor_holds_a_thousand_calls_by_default(ray):
    @ray.remote
    class A:
        def __init__(self):
            self.here = 0
            self.all = asyncio.Event()

        async def join(self, n):
            self.here += 1
            if self.here == n:
                self.all.set()
            await self.all.wait()

    a = A.remote()
    ray.get([a.join.remote(300) for _ in range(300)], timeout=150)


@differs_on_ray("calls made while the actor starts begin in any order")
def test_async_calls_start_in_order(ray):
    @ray.remote
    class A:
        def __init__(self):
            self.seen = []

        async def add(self, i):
            self.seen.append(i)
            await asyncio.sleep(0)

        async def all(self):
            return self.seen

    a = A.remote()
    refs = [a.add.remote(i) for i in range(50)]
    ray.get(refs)
    assert ray.get(a.all.remote()) == list(range(50))


def test_async_method_awaits_a_task(ray):
    @ray.remote
    def f(x):
        return x + 1

    @ray.remote
    class A:
        async def go(self):
            return await f.remote(1) + sum(await asyncio.gather(f.remote(1), f.remote(2)))

    assert ray.get(A.remote().go.remote()) == 7


def test_async_method_awaits_another_actor(ray):
    @ray.remote
    class B:
        async def f(self):
            await asyncio.sleep(0.01)
            return "b"

    @ray.remote
    class A:
        def __init__(self, b):
            self.b = b

        async def go(self):
            return await self.b.f.remote()

    assert ray.get(A.remote(B.remote()).go.remote()) == "b"


def test_async_actor_awaits_its_own_method(ray):
    @ray.remote
    class A:
        async def outer(self):
            me = ray.get_runtime_context().current_actor
            return "outer+" + await me.inner.remote()

        async def inner(self):
            return "inner"

    assert ray.get(A.remote().outer.remote(), timeout=60) == "outer+inner"


def test_error_of_an_async_method(ray):
    @ray.remote
    class A:
        async def f(self):
            await asyncio.sleep(0)
            raise ValueError("async failure")

    with pytest.raises(ValueError, match="async failure"):
        ray.get(A.remote().f.remote())


def test_error_awaited_inside_an_async_method_can_be_handled(ray):
    @ray.remote
    def bad():
        raise KeyError("k")

    @ray.remote
    class A:
        async def f(self):
            try:
                await bad.remote()
            except KeyError:
                return "handled"

    assert ray.get(A.remote().f.remote()) == "handled"


def test_all_async_methods_run_on_one_thread(ray):
    @ray.remote
    class A:
        async def thread(self):
            await asyncio.sleep(0.01)
            return threading.get_ident()

    a = A.remote()
    assert len(set(ray.get([a.thread.remote() for _ in range(10)]))) == 1


def test_background_task_of_an_async_actor_goes_on(ray):
    @ray.remote
    class A:
        def __init__(self):
            self.n = 0

        async def start(self):
            self.task = asyncio.get_running_loop().create_task(self.run())

        async def run(self):
            while True:
                self.n += 1
                await asyncio.sleep(0.01)

        async def get(self):
            return self.n

    a = A.remote()
    ray.get(a.start.remote())
    time.sleep(0.3)
    first = ray.get(a.get.remote())
    time.sleep(0.3)
    assert 0 < first < ray.get(a.get.remote())


def test_async_constructor_parts_see_a_loop_in_methods_only(ray):
    @ray.remote
    class A:
        def __init__(self):
            self.lock = asyncio.Lock()

        async def locked(self):
            async with self.lock:
                return self.lock.locked()

    assert ray.get(A.remote().locked.remote()) is True


def test_threaded_calls_overlap(ray):
    @ray.remote(max_concurrency=3)
    class A:
        def __init__(self):
            self.barrier = threading.Barrier(3)

        def meet(self):
            self.barrier.wait(timeout=60)
            return threading.get_ident()

    a = A.remote()
    assert len(set(ray.get([a.meet.remote() for _ in range(3)]))) == 3


def test_threads_share_the_state(ray):
    @ray.remote(max_concurrency=4)
    class A:
        def __init__(self):
            self.n = 0
            self.lock = threading.Lock()

        def inc(self):
            with self.lock:
                self.n += 1

        def get(self):
            return self.n

    a = A.remote()
    ray.get([a.inc.remote() for _ in range(100)])
    assert ray.get(a.get.remote()) == 100


def test_threaded_actor_returns_and_puts_large_values(ray):
    @ray.remote(max_concurrency=2)
    class Baker:
        def bake(self, size):
            return b"x" * size

        def store(self, size):
            return [ray.put(b"y" * size)]

    baker = Baker.remote()
    ray.get(baker.__ray_ready__.remote())
    assert len(ray.get(baker.bake.remote(300_000), timeout=60)) == 300_000
    (inner,) = ray.get(baker.store.remote(300_000), timeout=60)
    assert len(ray.get(inner, timeout=60)) == 300_000


def test_threaded_actor_can_be_called_while_it_waits_for_a_task(ray):
    @ray.remote
    def poke(actor):
        ray.get(actor.poke.remote())

    @ray.remote(max_concurrency=2)
    class A:
        def __init__(self):
            self.poked = False

        def wait_for_poke(self):
            ray.get(poke.remote(ray.get_runtime_context().current_actor))
            return self.poked

        def poke(self):
            self.poked = True

    assert ray.get(A.remote().wait_for_poke.remote(), timeout=150) is True


def test_error_in_one_thread_leaves_the_others(ray):
    @ray.remote(max_concurrency=2)
    class A:
        def f(self, i):
            if i % 2:
                raise ValueError(i)
            return i

    a = A.remote()
    refs = [a.f.remote(i) for i in range(6)]
    assert ray.get(refs[::2]) == [0, 2, 4]
    for ref in refs[1::2]:
        with pytest.raises(ValueError):
            ray.get(ref)


def test_groups_run_independently(ray):
    @ray.remote(concurrency_groups={"io": 2, "compute": 1})
    class A:
        def __init__(self):
            self.event = threading.Event()

        @ray.method(concurrency_group="compute")
        def block(self):
            return self.event.wait(timeout=60)

        @ray.method(concurrency_group="io")
        def release(self):
            self.event.set()
            return "released"

        def plain(self):
            return "plain"

    a = A.remote()
    blocked = a.block.remote()
    assert ray.get([a.plain.remote()], timeout=60) == ["plain"]
    assert ray.get(a.release.remote(), timeout=60) == "released"
    assert ray.get(blocked) is True


def test_async_groups_have_limits_of_their_own(ray):
    @ray.remote(concurrency_groups={"narrow": 1})
    class A:
        def __init__(self):
            self.now = self.peak = 0

        @ray.method(concurrency_group="narrow")
        async def work(self):
            self.now += 1
            self.peak = max(self.peak, self.now)
            await asyncio.sleep(0.02)
            self.now -= 1

        async def get_peak(self):
            return self.peak

    a = A.remote()
    ray.get([a.work.remote() for _ in range(5)])
    assert ray.get(a.get_peak.remote()) == 1


def test_unknown_group_is_refused(ray):
    @ray.remote(concurrency_groups={"io": 1})
    class A:
        def f(self):
            return 1

    a = A.remote()
    with pytest.raises(Exception):  # noqa: B017 at the call or at get
        ray.get(a.f.options(concurrency_group="nope").remote(), timeout=60)


@not_yet("inline", reason="calls do not pile up where each runs at once", raises=pytest.fail.Exception)
@pytest.mark.slow
def test_limit_of_pending_calls(ray):
    @ray.remote(max_pending_calls=2)
    class A:
        def nap(self):
            time.sleep(0.3)

        def ready(self):
            return True

    a = A.remote()
    ray.get(a.ready.remote())
    refs = []
    with pytest.raises(ray.exceptions.PendingCallsLimitExceeded):
        for _ in range(10):
            refs.append(a.nap.remote())
    assert 0 < len(refs) < 10
    ray.get(refs)
    assert ray.get(a.ready.remote()) is True


@needs_processes
def test_async_actor_is_a_process_like_any_other(ray):
    @ray.remote
    class A:
        async def pid(self):
            return os.getpid()

        def pid_too(self):
            return os.getpid()

    a = A.remote()
    first, second = ray.get([a.pid.remote(), a.pid_too.remote()])
    assert first == second != os.getpid()


def test_plain_function_returning_a_coroutine_is_no_async_method(ray):
    @ray.remote
    class A:
        def f(self):
            return 5

        async def g(self):
            return self.f()

    a = A.remote()
    assert ray.get([a.f.remote(), a.g.remote()]) == [5, 5]
