"""Tasks within tasks, chains, fans, and CPUs given back while waiting."""

import time

import numpy as np
import pytest

from skate.testing.contract import differs_on_ray
from skate.testing.contract.target import ENGINE
from skate.testing.contract.tools import eventually

# Ray starts a process for every level, at about a second each.
DEPTH = 6 if ENGINE == "ray" else 30


def test_nesting_deeper_than_the_cpus_does_not_deadlock(ray):
    @ray.remote
    def down(n):
        return 0 if n == 0 else 1 + ray.get(down.remote(n - 1))

    assert ray.get(down.remote(DEPTH)) == DEPTH


def test_wait_gives_the_cpu_back_like_get(ray):
    @ray.remote(num_cpus=2)
    def leaf():
        return "leaf"

    @ray.remote(num_cpus=2)
    def outer():
        ready, pending = ray.wait([leaf.remote()], timeout=60)
        return len(ready), len(pending)

    assert ray.get(outer.remote()) == (1, 0)


def test_every_task_may_wait_for_a_child_of_its_own(ray):
    @ray.remote
    def leaf(i):
        return i

    @ray.remote
    def parent(i):
        return ray.get(leaf.remote(i))

    assert ray.get([parent.remote(i) for i in range(4)]) == list(range(4))


def test_actor_created_in_a_nested_task_serves_it(ray):
    @ray.remote
    class Counter:
        def __init__(self):
            self.n = 0

        def add(self, k):
            self.n += k
            return self.n

    @ray.remote
    def add_to(counter, k):
        return ray.get(counter.add.remote(k))

    @ray.remote
    def main():
        counter = Counter.remote()
        ray.get([add_to.remote(counter, i) for i in range(4)])
        return ray.get(counter.add.remote(0))

    assert ray.get(main.remote()) == 6


def test_thousand_small_tasks(ray):
    @ray.remote
    def f(i):
        return i

    assert ray.get([f.remote(i) for i in range(1000)]) == list(range(1000))


def test_wide_fan_in_of_refs(ray):
    @ray.remote
    def f(i):
        return i

    @ray.remote
    def total(*xs):
        return sum(xs)

    assert ray.get(total.remote(*[f.remote(i) for i in range(200)])) == 19900


def test_long_chain_of_dependencies_submitted_at_once(ray):
    @ray.remote
    def inc(x):
        return x + 1

    ref = ray.put(0)
    for _ in range(100):
        ref = inc.remote(ref)
    assert ray.get(ref) == 100


def test_diamond_of_dependencies(ray):
    @ray.remote
    def source():
        return np.arange(1 << 16)

    @ray.remote
    def half(a, which):
        return int(a[which::2].sum())

    @ray.remote
    def join(*parts):
        return sum(parts)

    root = source.remote()
    got = ray.get(join.remote(half.remote(root, 0), half.remote(root, 1)))
    assert got == int(np.arange(1 << 16).sum())


def test_tree_reduction(ray):
    @ray.remote
    def add(a, b):
        return a + b

    level = [ray.put(i) for i in range(16)]
    while len(level) > 1:
        level = [add.remote(a, b) for a, b in zip(level[::2], level[1::2], strict=True)]
    assert ray.get(level[0]) == 120


def test_large_array_passes_through_many_tasks(ray):
    @ray.remote
    def plus_one(a):
        return a + 1

    ref = ray.put(np.zeros(1 << 17))
    for _ in range(5):
        ref = plus_one.remote(ref)
    out = ray.get(ref)
    assert out.shape == (1 << 17,) and set(np.unique(out)) == {5.0}


def test_one_large_object_feeds_many_tasks(ray):
    @ray.remote
    def pick(a, i):
        return int(a[i])

    ref = ray.put(np.arange(1 << 18))
    assert ray.get([pick.remote(ref, i) for i in range(20)]) == list(range(20))


def test_task_starts_only_when_its_arguments_are_ready(ray):
    @ray.remote
    def late():
        time.sleep(0.5)
        return time.time()

    @ray.remote
    def after(t):
        return time.time() - t

    assert ray.get(after.remote(late.remote())) >= 0


@pytest.mark.slow
def test_waiting_dependency_does_not_block_other_tasks(ray, tally):
    if ENGINE == "inline":
        tally.add()  # the call runs to its end where it is made

    @ray.remote(num_cpus=0)
    def slow():
        return int(eventually(lambda: tally.count() == 1))

    @ray.remote
    def use(x):
        return x

    @ray.remote
    def quick():
        return "quick"

    ray.get(quick.remote())
    blocked = [use.remote(slow.remote()) for _ in range(3)]
    assert ray.get(quick.remote(), timeout=60) == "quick"
    assert ray.wait(blocked, num_returns=3, timeout=0)[0] == [] or ENGINE == "inline"
    if ENGINE != "inline":
        tally.add()
    assert ray.get(blocked) == [1, 1, 1]


@pytest.mark.parametrize("cpus", [0.25, 0.5])
def test_fractional_cpus_share_one_cpu(ray, cpus):
    @ray.remote(num_cpus=cpus)
    def f():
        return ray.get_runtime_context().get_assigned_resources()["CPU"]

    assert ray.get(f.remote()) == cpus


def test_task_may_put_and_pass_on_within_its_children(ray):
    @ray.remote
    def child(box):
        return int(ray.get(box["data"]).sum())

    @ray.remote
    def parent():
        data = ray.put(np.ones(1000, dtype=int))
        return sum(ray.get([child.remote({"data": data}) for _ in range(3)]))

    assert ray.get(parent.remote()) == 3000


def test_child_outlives_the_parent_that_did_not_wait(ray):
    @ray.remote
    def child():
        time.sleep(0.3)
        return "grown up"

    @ray.remote
    def parent():
        return [child.remote()]

    (ref,) = ray.get(parent.remote())
    assert ray.get(ref) == "grown up"


@differs_on_ray("it waits for ever")
def test_an_actor_that_waits_for_itself_is_told(ray):
    @ray.remote
    class A:
        def outer(self, me):
            return ray.get(me.inner.remote())

        def inner(self):
            return "inner"

    a = A.remote()
    with pytest.raises(ray.exceptions.DeadlockError):
        ray.get(a.outer.remote(a), timeout=60)
    assert ray.get(a.inner.remote(), timeout=60) == "inner"


@differs_on_ray("it waits for ever")
def test_actors_that_wait_for_each_other_are_told(ray):
    @ray.remote
    class A:
        def outer(self, me, other):
            return ray.get(other.between.remote(me))

        def between(self, other):
            return ray.get(other.inner.remote())

        def inner(self):
            return "inner"

    a, b = A.remote(), A.remote()
    with pytest.raises(ray.exceptions.DeadlockError):
        ray.get(a.outer.remote(a, b), timeout=60)
    assert ray.get([a.inner.remote(), b.inner.remote()], timeout=60) == ["inner"] * 2


@differs_on_ray("it waits for ever")
def test_a_wait_for_what_needs_something_infeasible_is_told(ray):
    @ray.remote(resources={"contract_nowhere": 1})
    def nowhere():
        return 1

    @ray.remote
    def use(x):
        return x

    for wait_for in (ray.get, lambda ref: ray.wait([ref])):
        with pytest.raises(ray.exceptions.TaskUnschedulableError):
            wait_for(use.remote(nowhere.remote()))


def test_a_wait_with_a_timeout_in_a_circle_ends_with_it(ray):
    @ray.remote
    class A:
        def outer(self, me):
            try:
                return ray.get(me.inner.remote(), timeout=0.5)
            except ray.exceptions.GetTimeoutError:
                return "timeout"

        def inner(self):
            return "inner"

    a = A.remote()
    assert ray.get(a.outer.remote(a), timeout=60) == "timeout"
