"""Options of actor classes and of their methods."""

import pytest


@pytest.fixture
def counter(ray):
    @ray.remote
    class Counter:
        def __init__(self):
            self.n = 0

        def inc(self):
            self.n += 1
            return self.n

        def get(self):
            return self.n

    return Counter


@pytest.mark.parametrize("options", [{"colour": 1}, {"num_cpus": 1}, {"max_restarts": 1}])
def test_unknown_method_option_is_refused(ray, counter, options):
    c = counter.remote()
    with pytest.raises((TypeError, ValueError)):
        c.inc.options(**options).remote()


def test_method_decorator_without_arguments(ray):
    @ray.remote
    class A:
        @ray.method
        def f(self):
            return 1

    assert ray.get(A.remote().f.remote()) == 1


def test_method_decorator_refuses_unknown_names(ray):
    with pytest.raises((AssertionError, TypeError, ValueError)):

        class A:
            @ray.method(colour="red")
            def f(self):
                pass


@pytest.mark.parametrize(
    "options",
    [
        {"max_restarts": -2},
        {"max_task_retries": -2},
        {"max_concurrency": -1},
        {"max_pending_calls": -2},
        {"num_cpus": -1},
        {"num_cpus": "one"},
        {"name": 5},
        {"name": ""},
        {"lifetime": "forever"},
        {"namespace": 5},
        {"namespace": ""},
        {"get_if_exists": True},
        {"resources": {"CPU": 1}},
        {"max_retries": 1},
        {"num_returns": 2},
        {"max_calls": 1},
        {"no_such_option": 1},
    ],
    ids=lambda o: "-".join(f"{k}={v}" for k, v in o.items()),
)
def test_wrong_actor_option_is_refused(ray, counter, options):
    with pytest.raises((ValueError, TypeError)):
        counter.options(**options).remote()


@pytest.mark.parametrize(
    "options",
    [
        {"num_cpus": 0.5},
        {"max_restarts": 0},
        {"max_restarts": -1},
        {"max_task_retries": 1},
        {"max_concurrency": 3},
        {"max_pending_calls": -1},
        {"lifetime": "non_detached"},
        {"lifetime": None},
        {"runtime_env": {"env_vars": {"A": "1"}}},
        {"scheduling_strategy": "DEFAULT"},
        {"enable_task_events": False},
        {"memory": 1024},
    ],
    ids=lambda o: "-".join(f"{k}={v}" for k, v in o.items()),
)
def test_valid_actor_option_is_accepted(ray, counter, options):
    c = counter.options(**options).remote()
    assert ray.get(c.inc.remote()) == 1


def test_options_of_a_class_leave_the_original_alone(ray, counter, fresh_name):
    counter.options(name=fresh_name)
    assert ray.get(counter.remote().get.remote()) == 0
    with pytest.raises(ValueError):
        ray.get_actor(fresh_name)
