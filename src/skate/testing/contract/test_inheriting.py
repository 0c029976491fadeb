"""What a call passes on to the tasks and actors that it starts: its environment, and its end."""

import os

import pytest

from skate.testing.contract.tools import eventually, raised

INIT = {"runtime_env": {"env_vars": {"OF_THE_JOB": "job"}}}


def variables(ray):
    """The calling code's variables: those of its process, and those that its context tells."""
    names = ("OUTER", "INNER", "OF_THE_JOB")
    return {name: os.environ[name] for name in names if name in os.environ}, dict(
        ray.get_runtime_context().runtime_env["env_vars"]
    )


@pytest.fixture
def look(ray):
    @ray.remote(num_cpus=0)
    def look():
        return variables(ray)

    return look


def test_environment_of_a_task_is_that_of_its_children(ray, look):
    @ray.remote(num_cpus=0, runtime_env={"env_vars": {"OUTER": "1"}})
    def parent():
        inner = {"env_vars": {"INNER": "2"}}
        other = {"env_vars": {"OUTER": "3"}}
        return ray.get([f.remote() for f in (look, look.options(runtime_env=inner), look.options(runtime_env=other))])

    for (process, context), expected in zip(
        ray.get(parent.remote()),
        [{"OUTER": "1"}, {"OUTER": "1", "INNER": "2"}, {"OUTER": "3"}],
        strict=True,
    ):
        assert process == context == {"OF_THE_JOB": "job", **expected}


def test_environment_of_a_task_is_that_of_its_actors(ray):
    @ray.remote(num_cpus=0)
    class A:
        def look(self):
            return variables(ray)

    @ray.remote(num_cpus=0, runtime_env={"env_vars": {"OUTER": "1"}})
    def parent():
        plain = A.remote()
        own = A.options(runtime_env={"env_vars": {"INNER": "2"}}).remote()
        return ray.get([plain.look.remote(), own.look.remote()])

    plain, own = ray.get(parent.remote())
    assert plain[0] == plain[1] == {"OF_THE_JOB": "job", "OUTER": "1"}
    assert own[0] == own[1] == {"OF_THE_JOB": "job", "OUTER": "1", "INNER": "2"}


def test_environment_of_an_actor_is_that_of_its_tasks(ray, look):
    @ray.remote(num_cpus=0, runtime_env={"env_vars": {"OUTER": "1"}})
    class A:
        def start(self):
            return ray.get(look.remote())

    process, context = ray.get(A.remote().start.remote())
    assert process == context == {"OF_THE_JOB": "job", "OUTER": "1"}


def test_driver_keeps_its_own_environment(ray, look):
    @ray.remote(num_cpus=0, runtime_env={"env_vars": {"OUTER": "1"}})
    def parent():
        return ray.get(look.remote())

    ray.get(parent.remote())
    assert ray.get(look.remote())[0] == {"OF_THE_JOB": "job"}


def test_child_actor_ends_with_its_parent_whoever_has_its_handle(ray):
    @ray.remote(num_cpus=0)
    class Child:
        def f(self):
            return "alive"

    @ray.remote(num_cpus=0)
    class Parent:
        def make(self):
            return Child.remote()

    parent = Parent.remote()
    child = ray.get(parent.make.remote())
    assert ray.get(child.f.remote()) == "alive"
    ray.kill(parent)
    died = ray.exceptions.ActorDiedError
    assert eventually(lambda: isinstance(raised(lambda: ray.get(child.f.remote(), timeout=60)), died))


def test_child_of_a_task_lives_on_with_its_handle(ray):
    @ray.remote(num_cpus=0)
    class Child:
        def f(self):
            return "alive"

    @ray.remote(num_cpus=0)
    def make():
        return Child.remote()

    child = ray.get(make.remote())
    assert ray.get(child.f.remote()) == "alive"
