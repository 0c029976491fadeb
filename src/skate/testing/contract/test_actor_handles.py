"""Handles: identity, travelling, sharing; actors that make and call others."""

import time

import pytest


@pytest.fixture
def counter(ray):
    @ray.remote
    class Counter:
        def __init__(self, start=0):
            self.n = start

        def inc(self):
            self.n += 1
            return self.n

        def get(self):
            return self.n

    return Counter


def test_repr_names_the_class(ray, counter):
    c = counter.remote()
    assert repr(c).startswith("Actor(") and "Counter" in repr(c)


def test_equality_and_hash(ray, counter):
    a, b = counter.remote(), counter.remote()
    (same,) = ray.get(ray.put([a]))
    assert same == a and hash(same) == hash(a)
    assert a != b and a != "a"
    assert len({a, b, same}) == 2


def test_methods_of_a_handle_are_listed(ray, counter):
    assert {"inc", "get"} <= set(dir(counter.remote()))


def test_method_object_can_be_kept_and_called_later(ray, counter):
    inc = counter.remote().inc
    assert ray.get([inc.remote(), inc.remote()]) == [1, 2]


def test_handle_inside_containers(ray, counter):
    @ray.remote
    def use(box):
        return ray.get(box["handles"][0].inc.remote())

    c = counter.remote()
    assert ray.get(use.remote({"handles": [c]})) == 1
    assert ray.get(c.get.remote()) == 1


def test_handle_in_a_closure(ray, counter):
    c = counter.remote()

    @ray.remote
    def use():
        return ray.get(c.inc.remote())

    assert ray.get([use.remote(), use.remote()]).count(2) == 1


def test_handle_through_cloudpickle(ray, counter):
    c = counter.remote()
    again = ray.cloudpickle.loads(ray.cloudpickle.dumps(c))
    ray.get(again.inc.remote())
    assert ray.get(c.get.remote()) == 1


def test_many_tasks_share_one_actor(ray, counter):
    @ray.remote
    def add(c, times):
        for _ in range(times):
            ray.get(c.inc.remote())

    c = counter.remote()
    ray.get([add.remote(c, 10) for _ in range(4)])
    assert ray.get(c.get.remote()) == 40


def test_actor_calls_another_actor(ray, counter):
    @ray.remote
    class Boss:
        def __init__(self, worker):
            self.worker = worker

        def work(self):
            return ray.get(self.worker.inc.remote())

    c = counter.remote()
    boss = Boss.remote(c)
    assert ray.get([boss.work.remote() for _ in range(3)]) == [1, 2, 3]


def test_actor_creates_actors(ray, counter):
    @ray.remote
    class Boss:
        def __init__(self, n):
            self.team = [counter.remote(i * 10) for i in range(n)]

        def ask(self):
            return ray.get([c.inc.remote() for c in self.team])

        def team_handles(self):
            return self.team

    boss = Boss.remote(2)
    assert ray.get(boss.ask.remote()) == [1, 11]
    assert ray.get(ray.get(boss.team_handles.remote())[1].get.remote()) == 11


def test_actor_handle_to_itself(ray):
    @ray.remote
    class A:
        def set_self(self, me):
            self.me = me

        def make_call(self):
            return [self.me.echo.remote("to myself")]

        def echo(self, x):
            return x

    a = A.remote()
    ray.get(a.set_self.remote(a))
    assert ray.get(ray.get(a.make_call.remote())[0]) == "to myself"


def test_handle_returned_by_a_method(ray, counter):
    @ray.remote
    class Holder:
        def __init__(self):
            self.c = counter.remote(5)

        def give(self):
            return self.c

    holder = Holder.remote()
    assert ray.get(ray.get(holder.give.remote()).get.remote()) == 5


def test_actor_as_an_argument_of_a_constructor_that_is_still_starting(ray):
    @ray.remote
    class Slow:
        def __init__(self):
            time.sleep(0.5)

        def f(self):
            return "up"

    @ray.remote
    class User:
        def __init__(self, slow):
            self.answer = ray.get(slow.f.remote())

        def get(self):
            return self.answer

    assert ray.get(User.remote(Slow.remote()).get.remote()) == "up"


def test_ring_of_actors(ray):
    @ray.remote(num_cpus=0)
    class Node:
        def connect(self, following):
            self.following = following

        def add(self, x, hops):
            if hops == 0:
                return x
            return [self.following.add.remote(x + 1, hops - 1)]

    nodes = [Node.remote() for _ in range(3)]
    ray.get([n.connect.remote(m) for n, m in zip(nodes, nodes[1:] + nodes[:1], strict=True)])
    out = nodes[0].add.remote(0, 5)
    while not isinstance(out, int):
        out = ray.get(out)
        out = out[0] if isinstance(out, list) else out
    assert out == 5


def test_refs_of_one_actor_feed_another(ray, counter):
    @ray.remote
    class Adder:
        def add(self, a, b):
            return a + b

    c, adder = counter.remote(), Adder.remote()
    assert ray.get(adder.add.remote(c.inc.remote(), c.inc.remote())) == 3


def test_actor_takes_no_cpu_by_default_once_it_runs(ray, counter):
    actors = [counter.remote() for _ in range(4)]  # more than there are CPUs
    assert ray.get([a.inc.remote() for a in actors], timeout=150) == [1] * 4


def test_current_actor_passed_to_a_task(ray):
    @ray.remote
    def call_back(actor):
        return ray.get(actor.echo.remote("back"))

    @ray.remote(max_concurrency=2)
    class A:
        def go(self):
            me = ray.get_runtime_context().current_actor
            return ray.get(call_back.remote(me))

        def echo(self, x):
            return x

    assert ray.get(A.remote().go.remote(), timeout=150) == "back"
