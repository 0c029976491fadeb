"""Options of remote functions, and how many results a call has."""

import os

import pytest

from skate.testing.contract import differs_on_ray, needs_background, needs_processes
from skate.testing.contract.tools import eventually


def test_zero_results_give_none(ray):
    @ray.remote(num_returns=0)
    def f():
        return None

    assert f.remote() is None


def test_one_result_gives_a_bare_ref(ray):
    @ray.remote(num_returns=1)
    def f():
        return (1, 2)

    assert ray.get(f.remote()) == (1, 2)


def test_too_many_returned_values_raise_value_error(ray):
    @ray.remote(num_returns=2)
    def f():
        return 1, 2, 3

    with pytest.raises(ValueError):
        ray.get(f.remote())


@pytest.mark.parametrize("value", [5, None, iter([1, 2])], ids=["int", "none", "iterator"])
def test_result_that_has_no_length_raises_type_error(ray, value):
    @ray.remote(num_returns=2)
    def f():
        return value

    with pytest.raises(TypeError):
        ray.get(f.remote())


def test_each_of_several_results_stands_alone(ray):
    @ray.remote(num_returns=3)
    def f():
        return "a", "b", "c"

    a, b, c = f.remote()
    assert len({a, b, c}) == 3
    assert (ray.get(c), ray.get(a), ray.get(b)) == ("c", "a", "b")
    assert a.task_id() == b.task_id()


def test_failure_is_the_outcome_of_every_result(ray):
    @ray.remote(num_returns=2)
    def f():
        raise KeyError("both")

    for ref in f.remote():
        with pytest.raises(KeyError):
            ray.get(ref)


def test_num_returns_can_be_overridden_per_call(ray):
    @ray.remote
    def f(n):
        return tuple(range(n)) if n != 1 else 0

    assert ray.get(f.options(num_returns=3).remote(3)) == [0, 1, 2]
    assert ray.get(f.remote(1)) == 0


def test_options_leave_the_original_alone(ray):
    @ray.remote(num_returns=2)
    def f():
        return 1, 2

    one = f.options(num_returns=1)
    assert ray.get(one.remote()) == (1, 2)
    assert len(f.remote()) == 2


def test_option_object_can_be_called_many_times(ray):
    @ray.remote
    def f(x):
        return x

    g = f.options(num_cpus=0)
    assert ray.get([g.remote(i) for i in range(5)]) == list(range(5))


@pytest.mark.parametrize("num_returns", [-1, "lots", 1.5])
def test_bad_num_returns_is_refused(ray, num_returns):
    with pytest.raises((ValueError, TypeError)):

        @ray.remote(num_returns=num_returns)
        def f():
            pass


@pytest.mark.parametrize(
    "options",
    [
        {"num_cpus": -1},
        {"num_gpus": -1},
        {"memory": -1},
        {"resources": {"x": -1}},
        {"resources": {"GPU": 1}},
        {"resources": "x"},
        {"max_retries": -2},
        {"max_calls": -1},
        {"name": 5},
        {"retry_exceptions": "yes"},
        {"no_such_option": 1},
        {"max_restarts": 1},
        {"lifetime": "detached"},
        {"max_concurrency": 2},
    ],
    ids=lambda o: "-".join(f"{k}={v}" for k, v in o.items()),
)
def test_wrong_option_is_refused_at_the_decorator(ray, options):
    with pytest.raises((ValueError, TypeError)):

        @ray.remote(**options)
        def f():
            pass


@pytest.mark.parametrize(
    "options",
    [
        {"num_cpus": 0},
        {"num_cpus": 0.5},
        {"num_cpus": 2},
        {"num_cpus": None},
        {"max_retries": 0},
        {"max_retries": -1},
        {"name": "renamed"},
        {"memory": 1000},
        {"resources": {}},
        {"scheduling_strategy": "SPREAD"},
        {"retry_exceptions": [ValueError]},
        {"runtime_env": {"env_vars": {}}},
        {"enable_task_events": False},
    ],
    ids=lambda o: "-".join(f"{k}={v}" for k, v in o.items()),
)
def test_valid_option_is_accepted_both_ways(ray, options):
    def f():
        return "ran"

    by_decorator = ray.remote(**options)(f)
    by_call = ray.remote(f).options(**options)
    assert ray.get([by_decorator.remote(), by_call.remote()]) == ["ran", "ran"]


def test_max_calls_cannot_be_changed_per_call(ray):
    @ray.remote
    def f():
        pass

    with pytest.raises(ValueError):
        f.options(max_calls=1).remote()


def test_unknown_scheduling_strategy_is_refused_at_the_call(ray):
    @ray.remote
    def f():
        pass

    with pytest.raises((ValueError, TypeError)):
        f.options(scheduling_strategy="NEARBY").remote()


def test_unknown_option_error_names_the_option(ray):
    @ray.remote
    def f():
        pass

    with pytest.raises(ValueError, match="num_cpu"):
        f.options(num_cpu=1)


@needs_processes
def test_max_calls_two_serves_two_calls_per_process(ray):
    @ray.remote(max_calls=2)
    def pid():
        return os.getpid()

    pids = [ray.get(pid.remote()) for _ in range(4)]
    assert len(set(pids)) >= 2


@differs_on_ray("a RemoteFunction has no __name__ there, and its __doc__ is the class's")
def test_name_and_documentation_of_the_function_are_kept(ray):
    @ray.remote
    def add(x, y):
        """Adds two numbers."""
        return x + y

    assert add.__name__ == "add"
    assert add.__doc__ == "Adds two numbers."


def test_environment_variable_of_a_call(ray):
    @ray.remote
    def look():
        return os.environ.get("CONTRACT_SETTING")

    with_it = look.options(runtime_env={"env_vars": {"CONTRACT_SETTING": "on"}})
    assert ray.get(with_it.remote()) == "on"
    assert ray.get(look.remote()) is None


@differs_on_ray("it has no priority=")
@needs_background
def test_tasks_of_a_higher_priority_begin_first(ray, tally, tmp_path):
    path = str(tmp_path / "order")

    @ray.remote(num_cpus=2)
    def block(count):
        eventually(lambda: tally.count() >= count)

    @ray.remote(num_cpus=2)
    def begin(name):
        with open(path, "a") as file:
            file.write(name)

    blocker = block.remote(1)
    refs = [begin.options(priority=priority).remote(str(priority)) for priority in (0, 1, 2) * 3]
    refs += [begin.options(priority=-1).remote("-"), begin.options(priority=7).remote("7")]
    tally.add()
    ray.get([blocker, *refs])
    with open(path) as file:
        assert file.read() == "7222111000-"


@differs_on_ray("it has no priority=")
@needs_background
def test_a_task_of_a_higher_priority_does_not_interrupt_one_that_runs(ray, tally):
    @ray.remote(num_cpus=2)
    def run():
        return eventually(lambda: tally.count() >= 1)

    running = run.remote()
    urgent = run.options(priority=9).remote()
    assert ray.wait([urgent], timeout=0.5)[0] == []
    tally.add()
    assert ray.get([running, urgent]) == [True, True]


@pytest.mark.parametrize("wrong", [1.5, "high", None])
@differs_on_ray("it has no priority=")
def test_a_priority_is_a_whole_number(ray, wrong):
    with pytest.raises((TypeError, ValueError), match="priority"):
        ray.remote(lambda: None).options(priority=wrong)
