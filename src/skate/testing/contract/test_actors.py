"""Actors: construction, methods, state, the order of calls, what is refused."""

import abc
import os
import threading
import time

import pytest

from skate.testing.contract import needs_processes


@pytest.fixture
def counter(ray):
    """An actor class that counts."""

    @ray.remote
    class Counter:
        def __init__(self, start=0, *, step=1):
            self.n = start
            self.step = step

        def inc(self, times=1):
            self.n += self.step * times
            return self.n

        def get(self):
            return self.n

    return Counter


def test_state_is_kept_between_calls(ray, counter):
    c = counter.remote()
    assert ray.get([c.inc.remote() for _ in range(5)]) == [1, 2, 3, 4, 5]
    assert ray.get(c.get.remote()) == 5


def test_constructor_takes_arguments_of_all_kinds(ray, counter):
    c = counter.remote(10, step=5)
    assert ray.get(c.inc.remote(times=2)) == 20


def test_constructor_ref_by_keyword(ray, counter):
    assert ray.get(counter.remote(start=ray.put(3)).get.remote()) == 3


@pytest.mark.parametrize(("args", "kwargs"), [((1, 2, 3), {}), ((), {"nope": 1}), ((1,), {"start": 1})])
def test_wrong_constructor_arguments_raise_at_once(ray, counter, args, kwargs):
    with pytest.raises(TypeError):
        counter.remote(*args, **kwargs)


def test_missing_constructor_argument_raises_at_once(ray):
    @ray.remote
    class A:
        def __init__(self, x):
            pass

    with pytest.raises(TypeError):
        A.remote()


@pytest.mark.parametrize(("args", "kwargs"), [((1, 2), {}), ((), {"nope": 1})])
def test_wrong_method_arguments_raise_at_once(ray, counter, args, kwargs):
    c = counter.remote()
    with pytest.raises(TypeError):
        c.inc.remote(*args, **kwargs)
    assert ray.get(c.get.remote()) == 0


def test_class_cannot_be_instantiated_directly(ray, counter):
    with pytest.raises(TypeError, match=r"\.remote"):
        counter()


def test_method_cannot_be_called_directly(ray, counter):
    c = counter.remote()
    with pytest.raises(TypeError, match=r"\.remote"):
        c.inc()


def test_unknown_method_raises_attribute_error(ray, counter):
    c = counter.remote()
    with pytest.raises(AttributeError, match="nope"):
        c.nope.remote()


def test_actor_class_cannot_be_inherited(ray, counter):
    with pytest.raises(TypeError):

        class Child(counter):
            pass


def test_actor_class_cannot_be_made_remote_twice(ray, counter):
    with pytest.raises(TypeError):
        ray.remote(counter)


def test_unpicklable_constructor_argument_raises_at_once(ray, counter):
    with pytest.raises(TypeError):
        counter.remote(threading.Lock())


def test_unpicklable_method_argument_raises_at_once(ray, counter):
    c = counter.remote()
    with pytest.raises(TypeError):
        c.inc.remote(threading.Lock())
    assert ray.get(c.get.remote()) == 0


def test_static_class_and_private_methods(ray):
    @ray.remote
    class A:
        kind = "A"

        @staticmethod
        def static(x):
            return x + 1

        @classmethod
        def of_class(cls, x):
            return cls.kind, x

        def _private(self):
            return "private"

    a = A.remote()
    got = ray.get([a.static.remote(1), a.of_class.remote(2), a._private.remote()])
    assert got == [2, ("A", 2), "private"]


def test_special_methods_are_called_by_name(ray):
    @ray.remote
    class A:
        def __call__(self, x):
            return x * 2

        def __len__(self):
            return 4

    a = A.remote()
    assert ray.get([a.__call__.remote(3), a.__len__.remote()]) == [6, 4]
    with pytest.raises(TypeError):
        len(a)
    with pytest.raises(TypeError):
        a(3)


def test_properties_and_class_attributes_are_not_on_the_handle(ray):
    @ray.remote
    class A:
        level = 3

        @property
        def height(self):
            return 5

    a = A.remote()
    for name in ("level", "height"):
        with pytest.raises(AttributeError):
            getattr(a, name)


def test_inherited_overridden_and_mixed_in_methods(ray):
    class Base:
        def who(self):
            return "base"

        def both(self):
            return self.who() + "!"

    class Mixin:
        def extra(self):
            return "mixin"

    @ray.remote
    class Child(Mixin, Base):
        def who(self):
            return "child+" + super().who()

    c = Child.remote()
    assert ray.get([c.who.remote(), c.both.remote(), c.extra.remote()]) == [
        "child+base",
        "child+base!",
        "mixin",
    ]


def test_abstract_base_class_with_concrete_actor(ray):
    class Shape(abc.ABC):
        @abc.abstractmethod
        def area(self): ...

    class Square(Shape):
        def area(self):
            return 4

    assert ray.get(ray.remote(Square).remote().area.remote()) == 4


def test_calls_of_one_caller_run_in_order(ray):
    @ray.remote
    class Log:
        def __init__(self):
            self.seen = []

        def add(self, i):
            self.seen.append(i)

        def all(self):
            return self.seen

    log = Log.remote()
    for i in range(200):
        log.add.remote(i)
    assert ray.get(log.all.remote()) == list(range(200))


def test_argument_that_is_late_holds_back_later_calls(ray):
    @ray.remote
    def late():
        time.sleep(0.5)
        return "late"

    @ray.remote
    class Log:
        def __init__(self):
            self.seen = []

        def add(self, x):
            self.seen.append(x)
            return list(self.seen)

    log = Log.remote()
    log.add.remote(late.remote())
    assert ray.get(log.add.remote("next")) == ["late", "next"]


def test_one_call_at_a_time(ray):
    @ray.remote
    class A:
        def __init__(self):
            self.busy = 0
            self.peak = 0

        def work(self):
            self.busy += 1
            self.peak = max(self.peak, self.busy)
            time.sleep(0.01)
            self.busy -= 1
            return self.peak

    a = A.remote()
    assert max(ray.get([a.work.remote() for _ in range(10)])) == 1


@needs_processes
def test_actor_is_one_process_of_its_own(ray):
    @ray.remote
    class A:
        def pid(self):
            return os.getpid()

    a, b = A.remote(), A.remote()
    pids = ray.get([a.pid.remote(), a.pid.remote(), b.pid.remote()])
    assert pids[0] == pids[1] != pids[2]
    assert os.getpid() not in pids


def test_returned_state_is_a_copy(ray):
    @ray.remote
    class A:
        def __init__(self):
            self.xs = [1]

        def get(self):
            return self.xs

    a = A.remote()
    ray.get(a.get.remote()).append(2)
    assert ray.get(a.get.remote()) == [1]


def test_error_in_a_method_does_not_stop_queued_calls(ray):
    @ray.remote
    class A:
        def f(self, x):
            if x == 1:
                raise ValueError("one")
            return x

    a = A.remote()
    refs = [a.f.remote(i) for i in range(3)]
    assert ray.get([refs[0], refs[2]]) == [0, 2]
    with pytest.raises(ValueError, match="one"):
        ray.get(refs[1])


def test_keyboard_interrupt_in_a_method_leaves_the_actor_alive(ray):
    @ray.remote
    class A:
        def interrupt(self):
            raise KeyboardInterrupt

        def f(self):
            return "alive"

    a = A.remote()
    with pytest.raises(ray.exceptions.TaskCancelledError):
        ray.get(a.interrupt.remote())
    assert ray.get(a.f.remote()) == "alive"


def test_num_returns_of_a_method_per_call(ray):
    @ray.remote
    class A:
        def pair(self):
            return 1, 2

    a = A.remote()
    x, y = a.pair.options(num_returns=2).remote()
    assert (ray.get(y), ray.get(x)) == (2, 1)
    assert a.pair.options(num_returns=0).remote() is None
    assert ray.get(a.pair.remote()) == (1, 2)
