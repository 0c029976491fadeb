"""Remote functions: how they are called, what they take and give back."""

import functools
import inspect
import threading

import numpy as np
import pytest


def module_level(x, y=10):
    """Adds y to x."""
    return x + y


def test_plain_call_gives_a_ref_at_once(ray):
    f = ray.remote(module_level)
    ref = f.remote(1)
    assert isinstance(ref, ray.ObjectRef)
    assert ray.get(ref) == 11


def test_module_level_function_stays_callable_after_remote(ray):
    f = ray.remote(module_level)
    assert module_level(2) == 12
    assert ray.get(f.remote(2, y=0)) == 2


def test_lambda_can_be_remote(ray):
    assert ray.get(ray.remote(lambda a, b: a * b).remote(6, 7)) == 42


def test_builtin_function_is_refused_with_type_error(ray):
    with pytest.raises(TypeError):
        ray.remote(len)


def test_partial_is_refused_with_type_error(ray):
    with pytest.raises(TypeError):
        ray.remote(functools.partial(module_level, 1))


@pytest.mark.parametrize("value", ["text", None, 3.5, [len]], ids=["str", "none", "float", "list"])
def test_plain_values_cannot_be_remote(ray, value):
    with pytest.raises((TypeError, AssertionError)):
        ray.remote(value)


def test_remote_with_empty_parentheses_is_refused(ray):
    with pytest.raises(AssertionError):
        ray.remote()


def test_remote_options_must_be_keywords(ray):
    with pytest.raises((TypeError, AssertionError)):
        ray.remote(1, num_cpus=1)


def test_calling_a_remote_function_directly_says_how_to(ray):
    f = ray.remote(module_level)
    with pytest.raises(TypeError, match=r"\.remote"):
        f(1)


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [((), {}), ((1, 2, 3), {}), ((1,), {"z": 1}), ((1,), {"x": 1})],
    ids=["missing", "too many", "unknown keyword", "twice"],
)
def test_wrong_arguments_raise_type_error_at_the_call(ray, args, kwargs):
    f = ray.remote(module_level)
    with pytest.raises(TypeError):
        f.remote(*args, **kwargs)


def test_keyword_only_argument_must_be_given(ray):
    @ray.remote
    def f(*, key):
        return key

    with pytest.raises(TypeError):
        f.remote()
    with pytest.raises(TypeError):
        f.remote("positional")
    assert ray.get(f.remote(key="k")) == "k"


def test_positional_only_arguments(ray):
    @ray.remote
    def f(a, /, b):
        return a, b

    assert ray.get(f.remote(1, b=2)) == (1, 2)


def test_default_value_that_is_mutable_is_not_shared_between_calls_and_driver(ray):
    seen = []

    @ray.remote
    def f(x, into=seen):
        into.append(x)
        return len(into)

    assert ray.get(f.remote(1)) >= 1
    assert seen == []


def test_default_argument_may_be_a_ref(ray):
    default = ray.put("from a default")

    @ray.remote
    def f(ref=default):
        return ray.get(ref)

    assert ray.get(f.remote()) == "from a default"


def test_keyword_argument_ref_arrives_as_value(ray):
    @ray.remote
    def f(*, a, b=0):
        return a, b

    assert ray.get(f.remote(a=ray.put(1), b=ray.put(2))) == (1, 2)


def test_ref_in_star_kwargs_arrives_as_value(ray):
    @ray.remote
    def f(**named):
        return named

    assert ray.get(f.remote(x=ray.put(1), y=2)) == {"x": 1, "y": 2}


def test_same_ref_given_twice_arrives_twice(ray):
    @ray.remote
    def f(a, b, *, c):
        return a + b + c

    ref = ray.put(5)
    assert ray.get(f.remote(ref, ref, c=ref)) == 15


@pytest.mark.parametrize(
    "wrap",
    [lambda r: [r], lambda r: (r,), lambda r: {"k": r}, lambda r: {r}, lambda r: [[(r,)]]],
    ids=["list", "tuple", "dict", "set", "nested"],
)
def test_refs_inside_containers_stay_refs(ray, wrap):
    @ray.remote
    def dig(box):
        while not isinstance(box, ray.ObjectRef):
            box = next(iter(box.values() if isinstance(box, dict) else box))
        return ray.get(box)

    assert ray.get(dig.remote(wrap(ray.put("deep")))) == "deep"


def test_result_ref_of_a_task_is_an_argument_of_the_next(ray):
    @ray.remote
    def inc(x):
        return x + 1

    ref = inc.remote(0)
    for _ in range(20):
        ref = inc.remote(ref)
    assert ray.get(ref) == 21


def test_many_arguments(ray):
    @ray.remote
    def total(*xs, **named):
        return sum(xs) + sum(named.values())

    refs = [ray.put(1) for _ in range(100)]
    assert ray.get(total.remote(*refs, *range(100), a=1, b=ray.put(2))) == 100 + 4950 + 3


def test_argument_is_copied_when_the_call_is_made(ray):
    @ray.remote
    def f(xs):
        return list(xs)

    mine = [1]
    ref = f.remote(mine)
    mine.append(2)
    assert ray.get(ref) == [1]


def test_result_is_a_copy_of_its_own_at_every_get(ray):
    @ray.remote
    def f():
        return [1]

    ref = f.remote()
    ray.get(ref).append(2)
    assert ray.get(ref) == [1]


def test_array_argument_is_read_only_in_the_task(ray):
    @ray.remote
    def f(a):
        return a.flags.writeable

    assert ray.get(f.remote(np.zeros(1 << 18))) is False
    assert ray.get(f.remote(ray.put(np.zeros(1 << 18)))) is False


def test_writing_to_an_array_argument_raises_value_error(ray):
    @ray.remote
    def f(a):
        a[0] = 1

    with pytest.raises(ValueError, match="read-only"):
        ray.get(f.remote(ray.put(np.zeros(1 << 18))))


def test_task_may_write_to_its_own_copy_of_an_array(ray):
    @ray.remote
    def f(a):
        a = a.copy()
        a[0] = 7
        return a

    assert ray.get(f.remote(ray.put(np.zeros(1 << 16))))[0] == 7


def test_none_is_the_result_of_a_function_without_return(ray):
    @ray.remote
    def f():
        pass

    assert ray.get(f.remote()) is None


def test_task_may_return_a_remote_function(ray):
    @ray.remote
    def make(n):
        @ray.remote
        def add(x):
            return x + n

        return add

    assert ray.get(ray.get(make.remote(3)).remote(4)) == 7


def test_task_may_return_a_plain_function(ray):
    @ray.remote
    def make(n):
        return lambda x: x * n

    assert ray.get(make.remote(3))(5) == 15


def test_task_may_return_an_actor_handle(ray):
    @ray.remote
    class Box:
        def __init__(self, x):
            self.x = x

        def get(self):
            return self.x

    @ray.remote
    def make():
        return Box.remote("in a box")

    assert ray.get(ray.get(make.remote()).get.remote()) == "in a box"


def test_task_may_return_refs_within_refs(ray):
    @ray.remote
    def nest():
        return [ray.put([ray.put("core")])]

    (outer,) = ray.get(nest.remote())
    (inner,) = ray.get(outer)
    assert ray.get(inner) == "core"


def test_task_may_return_its_argument_ref(ray):
    @ray.remote
    def same(box):
        return box[0]

    ref = ray.put(1)
    assert ray.get(same.remote([ref])) == ref


def test_globals_of_the_defining_module_are_visible(ray):
    @ray.remote
    def f(x):
        return module_level(x)

    assert ray.get(f.remote(1)) == 11


def test_closure_is_captured_at_the_first_call(ray):
    state = {"n": 1}

    @ray.remote
    def f():
        return state["n"]

    assert ray.get(f.remote()) == 1
    state["n"] = 2
    assert ray.get(f.remote()) == 1


def test_recursive_function_calls_itself(ray):
    @ray.remote
    def fib(n):
        if n < 2:
            return n
        return sum(ray.get([fib.remote(n - 1), fib.remote(n - 2)]))

    assert ray.get(fib.remote(5)) == 5


def test_remote_function_can_be_put_and_got(ray):
    f = ray.remote(module_level)
    assert ray.get(ray.get(ray.put(f)).remote(1)) == 11


def test_method_of_an_instance_can_be_wrapped_in_a_function(ray):
    class Scale:
        def __init__(self, k):
            self.k = k

        def apply(self, x):
            return self.k * x

    scale = Scale(3)

    @ray.remote
    def f(x):
        return scale.apply(x)

    assert ray.get(f.remote(2)) == 6


def test_coroutine_function_is_refused(ray):
    with pytest.raises(ValueError):

        @ray.remote
        async def f():
            return 1


def test_underlying_function_is_reachable(ray):
    f = ray.remote(module_level)
    assert f._function(1) == 11


def test_source_of_the_function_can_be_read(ray):
    f = ray.remote(module_level)
    assert "x + y" in inspect.getsource(f._function)


def test_thread_of_the_driver_can_call_and_get(ray):
    @ray.remote
    def f(x):
        return x * x

    out = {}

    def work(i):
        out[i] = ray.get(f.remote(i))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert out == {i: i * i for i in range(8)}
