"""ray.cancel: pending, queued, running, forced, recursive, on actors and generators."""

import asyncio
import contextlib
import time

import numpy as np
import pytest

from skate.testing.contract import differs_on_ray, needs_background
from skate.testing.contract.tools import Tally, eventually, stands_still


@pytest.fixture
def busy(ray):
    """A task that reports its start in a file and then works for a minute in small steps."""

    @ray.remote
    def busy(tally):
        tally.add()
        for _ in range(1200):
            time.sleep(0.05)

    return busy


@pytest.mark.parametrize("thing", ["text", 5, None, [1]])
def test_something_else_is_refused(ray, thing):
    with pytest.raises(TypeError):
        ray.cancel(thing)


def test_actor_handle_is_refused(ray):
    @ray.remote
    class A:
        pass

    a = A.remote()
    with pytest.raises(TypeError):
        ray.cancel(a)


def test_object_of_put_is_left_alone(ray):
    ref = ray.put(1)
    ray.cancel(ref)
    assert ray.get(ref) == 1


@needs_background
def test_gives_nothing_back(ray, busy, tally):
    ref = busy.remote(tally)
    assert eventually(lambda: tally.count() == 1)
    assert ray.cancel(ref) is None
    with pytest.raises(ray.exceptions.TaskCancelledError):
        ray.get(ref, timeout=60)


@needs_background
def test_running_task_stops_and_its_cpu_is_free(ray, busy, tally):
    refs = [busy.options(num_cpus=2).remote(tally)]
    assert eventually(lambda: tally.count() == 1)
    ray.cancel(refs[0])

    @ray.remote(num_cpus=2)
    def after():
        return "after"

    assert ray.get(after.remote(), timeout=60) == "after"
    with pytest.raises(ray.exceptions.TaskCancelledError):
        ray.get(refs[0], timeout=60)


@needs_background
def test_task_that_waits_for_a_cpu_never_runs(ray, busy, tally, tmp_path):
    first = busy.options(num_cpus=2).remote(tally)
    assert eventually(lambda: tally.count() == 1)
    mark = tmp_path / "ran"

    @ray.remote(num_cpus=2)
    def second(path):
        open(path, "w").close()

    queued = second.remote(str(mark))
    time.sleep(0.3)
    ray.cancel(queued)
    with pytest.raises(ray.exceptions.TaskCancelledError):
        ray.get(queued, timeout=60)
    ray.cancel(first)
    with pytest.raises(ray.exceptions.TaskCancelledError):
        ray.get(first, timeout=60)
    time.sleep(0.2)
    assert not mark.exists()


@needs_background
def test_task_that_waits_for_an_argument(ray, busy, tally):
    @ray.remote
    def use(x):
        return x

    first = busy.remote(tally)
    second = use.remote(first)
    assert eventually(lambda: tally.count() == 1)
    time.sleep(0.5)
    ray.cancel(second)
    with pytest.raises(ray.exceptions.TaskCancelledError):
        ray.get(second, timeout=60)
    ray.cancel(first)
    with pytest.raises(ray.exceptions.TaskCancelledError):
        ray.get(first, timeout=60)


@needs_background
def test_dependant_of_a_cancelled_task_fails_too(ray, busy, tally):
    @ray.remote
    def use(x):
        return x

    first = busy.remote(tally)
    second = use.remote(first)
    assert eventually(lambda: tally.count() == 1)
    time.sleep(0.5)
    ray.cancel(first)
    with pytest.raises(ray.exceptions.RayError) as info:
        ray.get(second, timeout=60)
    assert isinstance(info.value, ray.exceptions.TaskCancelledError) or "ancel" in str(info.value)


def test_infeasible_task(ray):
    @ray.remote(resources={"contract_nothing": 1})
    def f():
        return 1

    ref = f.remote()
    assert ray.wait([ref], timeout=0.5) == ([], [ref])
    ray.cancel(ref)
    with pytest.raises(ray.exceptions.TaskCancelledError):
        ray.get(ref, timeout=60)


@needs_background
def test_force_ends_a_task_that_ignores_interrupts(ray, tally):
    @ray.remote(max_retries=3)
    def stubborn(tally):
        tally.add()
        end = time.monotonic() + 50
        while time.monotonic() < end:
            with contextlib.suppress(KeyboardInterrupt):
                time.sleep(0.1)

    ref = stubborn.remote(tally)
    assert eventually(lambda: tally.count() == 1)
    ray.cancel(ref, force=True)
    with pytest.raises((ray.exceptions.TaskCancelledError, ray.exceptions.WorkerCrashedError)):
        ray.get(ref, timeout=60)
    time.sleep(0.5)
    assert tally.count() == 1


@needs_background
def test_children_are_cancelled_with_their_parent(ray, busy, tally):
    @ray.remote
    def parent(tally):
        ray.get(busy.options(num_cpus=2).remote(tally))

    ref = parent.options(num_cpus=0).remote(tally)
    assert eventually(lambda: tally.count() == 1)
    ray.cancel(ref)
    with pytest.raises(ray.exceptions.RayError):
        ray.get(ref, timeout=60)

    @ray.remote(num_cpus=2)
    def after():
        return "after"

    assert ray.get(after.remote(), timeout=60) == "after"


@needs_background
def test_children_may_be_spared(ray, tally):
    @ray.remote(num_cpus=0)
    def child(start, done):
        start.add()
        time.sleep(1)
        done.add()

    @ray.remote(num_cpus=0)
    def parent(start, done):
        ray.get(child.remote(start, done))

    start, done = Tally(tally.path + ".start"), tally
    ref = parent.remote(start, done)
    assert eventually(lambda: start.count() == 1)
    ray.cancel(ref, recursive=False)
    with pytest.raises(ray.exceptions.RayError):
        ray.get(ref, timeout=60)
    assert eventually(lambda: tally.count() == 1, timeout=60)


@needs_background
def test_cancel_twice(ray, busy, tally):
    ref = busy.remote(tally)
    assert eventually(lambda: tally.count() == 1)
    ray.cancel(ref)
    ray.cancel(ref)
    with pytest.raises(ray.exceptions.TaskCancelledError):
        ray.get(ref, timeout=60)


@needs_background
def test_cancelled_task_counts_as_ready(ray, busy, tally):
    ref = busy.remote(tally)
    assert eventually(lambda: tally.count() == 1)
    ray.cancel(ref)
    assert ray.wait([ref], timeout=60)[0] == [ref]


@needs_background
def test_finally_runs_in_a_cancelled_task(ray, tally):
    @ray.remote
    def f():
        try:
            tally.add()
            for _ in range(600):
                time.sleep(0.05)
        finally:
            tally.add()

    ref = f.remote()
    assert eventually(lambda: tally.count() == 1)
    ray.cancel(ref)
    with pytest.raises(ray.exceptions.TaskCancelledError):
        ray.get(ref, timeout=60)
    assert eventually(lambda: tally.count() == 2)


@needs_background
def test_error_tells_the_task(ray, busy, tally):
    ref = busy.remote(tally)
    assert eventually(lambda: tally.count() == 1)
    ray.cancel(ref)
    with pytest.raises(ray.exceptions.TaskCancelledError) as info:
        ray.get(ref, timeout=60)
    assert ref.task_id().hex() in str(info.value) or "busy" in str(info.value)


@differs_on_ray("one long sleep is not interrupted")
@needs_background
def test_one_long_sleep_is_interrupted(ray, tally):
    @ray.remote
    def f(tally):
        tally.add()
        time.sleep(30)

    ref = f.remote(tally)
    assert eventually(lambda: tally.count() == 1)
    begin = time.monotonic()
    ray.cancel(ref)
    with pytest.raises(ray.exceptions.TaskCancelledError):
        ray.get(ref, timeout=60)
    assert time.monotonic() - begin < 20


@differs_on_ray("the process may abort")
def test_cancel_right_after_submit_and_right_after_get(ray):
    @ray.remote
    def f(x):
        return x

    for _ in range(20):
        ref = f.remote(1)
        ray.cancel(ref)
        with contextlib.suppress(ray.exceptions.TaskCancelledError):
            assert ray.get(ref, timeout=60) == 1
        done = f.remote(2)
        assert ray.get(done, timeout=60) == 2
        ray.cancel(done)
        assert ray.get(done) == 2


def test_async_actor_call_sees_cancelled_error(ray, tally):
    @ray.remote
    class A:
        async def wait(self):
            try:
                tally.add()
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                tally.add()
                raise

        async def ping(self):
            return "alive"

    a = A.remote()
    ref = a.wait.remote()
    assert eventually(lambda: tally.count() == 1)
    ray.cancel(ref)
    with pytest.raises(ray.exceptions.TaskCancelledError):
        ray.get(ref, timeout=60)
    assert eventually(lambda: tally.count() == 2)
    assert ray.get(a.ping.remote()) == "alive"


def test_force_on_an_actor_call_is_refused(ray):
    @ray.remote
    class A:
        def f(self):
            return 1

    a = A.remote()
    ref = a.f.remote()
    with pytest.raises(ValueError):
        ray.cancel(ref, force=True)
    assert ray.get(ref) == 1


def test_finished_actor_call_keeps_its_value(ray):
    @ray.remote
    class A:
        def f(self):
            return 1

    a = A.remote()
    ref = a.f.remote()
    assert ray.get(ref) == 1
    time.sleep(0.3)
    ray.cancel(ref)
    assert ray.get(ref) == 1 and ray.get(a.f.remote()) == 1


@differs_on_ray("the call fails at the caller but runs nevertheless")
@needs_background
def test_queued_call_of_a_sync_actor_does_not_run(ray, tally):
    over = Tally(tally.path + ".over")

    @ray.remote
    class A:
        def slow(self):
            return eventually(lambda: over.count() == 1)

        def mark(self):
            tally.add()

        def ping(self):
            return "alive"

    a = A.remote()
    ray.get(a.ping.remote())
    slow = a.slow.remote()
    queued = a.mark.remote()
    time.sleep(0.2)
    ray.cancel(queued)
    with pytest.raises(ray.exceptions.TaskCancelledError):
        ray.get(queued, timeout=60)
    over.add()
    assert ray.get([slow, a.ping.remote()], timeout=60) == [True, "alive"]
    assert tally.count() == 0


def test_running_call_of_a_sync_actor_goes_on_to_its_end(ray):
    @ray.remote
    class A:
        def slow(self):
            time.sleep(1)
            return "to the end"

        def ping(self):
            return "alive"

    a = A.remote()
    ray.get(a.ping.remote())
    ref = a.slow.remote()
    time.sleep(0.3)
    ray.cancel(ref)
    assert ray.get(a.ping.remote(), timeout=60) == "alive"


@pytest.mark.parametrize("given", ["by value", "by reference"])
def test_cancelled_call_that_goes_on_keeps_its_argument(ray, given, tally):
    @ray.remote
    class Reader:
        def read(self, array):
            tally.add()
            time.sleep(0.5)
            self.seen = (int(array.min()), int(array.max()))

        def last(self):
            return self.seen

    reader = Reader.remote()
    ray.get(reader.__ray_ready__.remote())
    mine = np.full(1 << 16, 7)
    call = reader.read.remote(mine if given == "by value" else ray.put(mine))
    assert eventually(lambda: tally.count() == 1)
    ray.cancel(call)
    del call
    others = [ray.put(np.full(1 << 16, 9)) for _ in range(4)]
    assert ray.get(reader.last.remote()) == (7, 7)
    assert len(others) == 4


def test_generator_can_be_cancelled(ray, tally):
    @ray.remote
    def g():
        for i in range(1000):
            tally.add()
            yield i
            time.sleep(0.05)

    gen = g.remote()
    assert ray.get(next(gen)) == 0
    ray.cancel(gen)
    with pytest.raises(ray.exceptions.TaskCancelledError):
        for ref in gen:
            ray.get(ref, timeout=60)
    assert eventually(lambda: stands_still(tally)) and tally.count() < 1000
