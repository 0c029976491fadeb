"""put and get: which values travel, what comes back, what is refused."""

import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import pathlib
import re
import threading
import time
import uuid

import numpy as np
import pytest

from skate.testing.contract import differs_on_ray


class Colour(enum.Enum):
    RED = 1


class Flags(enum.IntFlag):
    A = 1
    B = 2


@dataclasses.dataclass(frozen=True)
class Pair:
    left: int
    right: list


Named = collections.namedtuple("Named", "x y")


class Slotted:
    __slots__ = ("value",)

    def __init__(self, value):
        self.value = value

    def __eq__(self, other):
        return type(other) is Slotted and other.value == self.value


VALUES = {
    "dataclass": Pair(1, [2]),
    "enum": Colour.RED,
    "flags": Flags.A | Flags.B,
    "namedtuple": Named(1, 2),
    "slots": Slotted(3),
    "datetime": datetime.datetime(2024, 2, 29, 12, tzinfo=datetime.UTC),
    "timedelta": datetime.timedelta(days=1),
    "decimal": decimal.Decimal("1.10"),
    "fraction": fractions.Fraction(1, 3),
    "complex": 1 + 2j,
    "path": pathlib.PurePosixPath("/a/b"),
    "uuid": uuid.UUID(int=5),
    "range": range(3, 9, 2),
    "slice": slice(1, None, 2),
    "frozenset": frozenset({1, 2}),
    "deque": collections.deque([1, 2], maxlen=5),
    "counter": collections.Counter("abca"),
    "ordereddict": collections.OrderedDict([("b", 1), ("a", 2)]),
    "ellipsis": ...,
    "infinity": float("inf"),
    "unicode": "h\u00e9\U0001f600\x00",
    "surrogate": "\ud800",
    "empty bytes": b"",
    "large bytes": b"x" * (1 << 20),
    "large str": "y" * (1 << 20),
    "large list": list(range(100_000)),
    "type": int,
    "builtin": len,
    "exception class": KeyError,
    "regex": re.compile("a+"),
    "int key dict": {1: {2: {3: None}}},
    "tuple of none": (None,),
}


@pytest.mark.parametrize("name", VALUES)
def test_value_comes_back_equal_and_of_its_type(ray, name):
    value = VALUES[name]
    out = ray.get(ray.put(value))
    assert out == value
    assert type(out) is type(value)


@pytest.mark.parametrize("name", ["dataclass", "enum", "namedtuple", "large bytes"])
def test_value_travels_through_a_task(ray, name):
    @ray.remote
    def same(x):
        return x

    assert ray.get(same.remote(VALUES[name])) == VALUES[name]


def test_exception_instance_is_an_ordinary_value(ray):
    out = ray.get(ray.put(ValueError("not raised")))
    assert isinstance(out, ValueError) and out.args == ("not raised",)


def test_task_may_return_an_exception_instance(ray):
    @ray.remote
    def f():
        return KeyError("returned")

    out = ray.get(f.remote())
    assert isinstance(out, KeyError)


def test_shared_references_inside_a_value_stay_shared(ray):
    part = [1]
    a, b = ray.get(ray.put((part, part)))
    assert a is b


def test_cyclic_value_survives(ray):
    loop = []
    loop.append(loop)
    out = ray.get(ray.put(loop))
    assert out[0] is out


def test_local_class_and_instance_round_trip(ray):
    class Local:
        def __init__(self, x):
            self.x = x

    cls, instance = ray.get(ray.put((Local, Local(4))))
    assert isinstance(instance, cls) and instance.x == 4


def test_lambda_and_closure_round_trip(ray):
    k = 5
    assert ray.get(ray.put(lambda x: x + k))(1) == 6


def test_own_reduce_is_respected(ray):
    class Odd:
        def __init__(self, path):
            self.path = path

        def __reduce__(self):
            return (Odd, (self.path + "!",))

    assert ray.get(ray.put(Odd("a"))).path == "a!"


def test_get_state_and_set_state_are_respected(ray):
    class Holder:
        def __init__(self):
            self.lock = threading.Lock()
            self.n = 3

        def __getstate__(self):
            return {"n": self.n}

        def __setstate__(self, state):
            self.__dict__.update(state)
            self.lock = threading.Lock()

    out = ray.get(ray.put(Holder()))
    assert out.n == 3 and out.lock.acquire()


def test_put_copies_so_later_changes_do_not_show(ray):
    value = {"n": 1}
    ref = ray.put(value)
    value["n"] = 2
    assert ray.get(ref) == {"n": 1}


def test_each_get_of_a_plain_value_is_a_new_copy(ray):
    ref = ray.put([1])
    ray.get(ref).append(2)
    assert ray.get(ref) == [1]


def test_array_changed_after_put_does_not_change_the_object(ray):
    a = np.zeros(1 << 18)
    ref = ray.put(a)
    a[:] = 1
    assert ray.get(ref).sum() == 0


def test_each_put_makes_an_object_of_its_own(ray):
    assert ray.put(1) != ray.put(1)


def test_put_of_a_ref_is_refused(ray):
    with pytest.raises(TypeError):
        ray.put(ray.put(1))


def test_put_of_a_container_of_refs_is_fine(ray):
    (inner,) = ray.get(ray.put([ray.put("in")]))
    assert ray.get(inner) == "in"


def test_put_of_an_unpicklable_value_raises_type_error(ray):
    with pytest.raises(TypeError):
        ray.put({"deep": [threading.Lock()]})


def test_get_of_an_empty_list_is_empty(ray):
    assert ray.get([]) == []


@pytest.mark.parametrize("thing", [17, "text", None, {"a": 1}, (1, 2), {1, 2}])
def test_get_of_something_else_raises_value_error(ray, thing):
    with pytest.raises(ValueError):
        ray.get(thing)


@pytest.mark.parametrize("other", [2, None, "text"])
def test_get_of_a_list_with_something_else_raises_type_error(ray, other):
    with pytest.raises(TypeError):
        ray.get([ray.put(1), other])


def test_get_of_a_nested_list_of_refs_is_refused(ray):
    with pytest.raises(TypeError):
        ray.get([[ray.put(1)]])


def test_get_of_a_tuple_of_refs_is_refused(ray):
    with pytest.raises(ValueError):
        ray.get((ray.put(1),))


def test_get_of_an_iterator_of_refs_is_refused(ray):
    with pytest.raises(ValueError):
        ray.get(iter([ray.put(1)]))


def test_get_with_a_timeout_returns_what_is_ready(ray):
    assert ray.get(ray.put(5), timeout=0) == 5
    assert ray.get([ray.put(5), ray.put(6)], timeout=1) == [5, 6]


def test_timeout_of_minus_one_waits_without_limit(ray):
    @ray.remote
    def f():
        time.sleep(0.3)
        return "done"

    assert ray.get(f.remote(), timeout=-1) == "done"


@differs_on_ray("it aborts the process")
def test_other_negative_timeouts_are_refused(ray):
    @ray.remote
    def f():
        time.sleep(1)

    with pytest.raises(ValueError):
        ray.get(f.remote(), timeout=-5)


def test_hundreds_of_refs_at_once(ray):
    assert ray.get([ray.put(i) for i in range(500)]) == list(range(500))
