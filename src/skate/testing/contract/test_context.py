"""The runtime context in the driver, in tasks and in actors; resources given out."""

import os

import pytest

from skate.testing.contract import needs_processes

INIT = {"namespace": "contract-context", "num_gpus": 2}


def test_driver_has_no_task_and_no_actor(ray):
    context = ray.get_runtime_context()
    assert context.get_task_id() is None
    assert context.get_actor_id() is None
    assert context.get_actor_name() is None
    assert context.get_placement_group_id() is None


def test_ids_are_hexadecimal_text(ray):
    context = ray.get_runtime_context()
    for text in (context.get_job_id(), context.get_node_id(), context.get_worker_id()):
        assert isinstance(text, str) and int(text, 16) >= 0


def test_job_and_node_are_the_same_everywhere(ray):
    def where():
        context = ray.get_runtime_context()
        return context.get_job_id(), context.get_node_id(), context.namespace

    @ray.remote
    class A:
        def where(self):
            return where()

    here = where()
    assert here[2] == "contract-context"
    assert ray.get(ray.remote(where).remote()) == here
    assert ray.get(A.remote().where.remote()) == here


def test_each_task_has_an_id_of_its_own(ray):
    @ray.remote
    def me():
        return ray.get_runtime_context().get_task_id()

    refs = [me.remote() for _ in range(3)]
    ids = ray.get(refs)
    assert len(set(ids)) == 3
    assert ids == [r.task_id().hex() for r in refs]


def test_task_has_no_actor(ray):
    @ray.remote
    def look():
        context = ray.get_runtime_context()
        return context.get_actor_id(), context.get_actor_name()

    assert ray.get(look.remote()) == (None, None)


def test_current_actor_outside_an_actor_raises_runtime_error(ray):
    with pytest.raises(RuntimeError):
        ray.get_runtime_context().current_actor  # noqa: B018


@needs_processes
def test_worker_id_stays_for_an_actor_and_differs_from_the_driver(ray):
    @ray.remote
    class A:
        def worker(self):
            return ray.get_runtime_context().get_worker_id()

    a = A.remote()
    first, second = ray.get([a.worker.remote(), a.worker.remote()])
    assert first == second != ray.get_runtime_context().get_worker_id()


def test_actor_id_is_that_of_the_handle(ray):
    @ray.remote
    class A:
        def me(self):
            context = ray.get_runtime_context()
            return context.get_actor_id(), context.current_actor

    a = A.remote()
    actor_id, handle = ray.get(a.me.remote())
    assert handle == a
    assert actor_id == a._actor_id.hex()


def test_actor_calls_have_task_ids(ray):
    @ray.remote
    class A:
        def me(self):
            return ray.get_runtime_context().get_task_id()

    a = A.remote()
    ref = a.me.remote()
    assert ray.get(ref) == ref.task_id().hex()
    assert ray.get(a.me.remote()) != ray.get(ref)


def test_async_actor_calls_see_their_own_task_id(ray):
    import asyncio

    @ray.remote
    class A:
        async def me(self):
            before = ray.get_runtime_context().get_task_id()
            await asyncio.sleep(0.05)
            return before, ray.get_runtime_context().get_task_id()

    a = A.remote()
    refs = [a.me.remote() for _ in range(3)]
    for ref, (before, after) in zip(refs, ray.get(refs), strict=True):
        assert before == after == ref.task_id().hex()


def test_name_of_a_task(ray):
    @ray.remote
    def plain():
        return ray.get_runtime_context().get_task_name()

    assert ray.get(plain.remote()) == "plain" or ray.get(plain.remote()).endswith(".plain")
    assert ray.get(plain.options(name="renamed").remote()) == "renamed"


def test_name_of_an_actor_call(ray):
    @ray.remote
    class Teller:
        def tell(self):
            return ray.get_runtime_context().get_task_name()

    assert ray.get(Teller.remote().tell.remote()) == "Teller.tell"


@pytest.mark.parametrize(
    ("options", "assigned"),
    [
        ({}, {"CPU": 1.0}),
        ({"num_cpus": 2}, {"CPU": 2.0}),
        ({"num_cpus": 0.5}, {"CPU": 0.5}),
        ({"num_cpus": 0}, {}),
        ({"num_gpus": 1}, {"CPU": 1.0, "GPU": 1.0}),
    ],
    ids=str,
)
def test_assigned_resources(ray, options, assigned):
    @ray.remote
    def look():
        return ray.get_runtime_context().get_assigned_resources()

    assert ray.get(look.options(**options).remote()) == assigned


def test_assigned_resources_of_actors(ray):
    @ray.remote
    class A:
        def look(self):
            return ray.get_runtime_context().get_assigned_resources()

    assert ray.get(A.remote().look.remote()) == {}
    assert ray.get(A.options(num_cpus=1).remote().look.remote()) == {"CPU": 1.0}


def test_cancellation_flag_is_down_in_ordinary_work(ray):
    @ray.remote
    def look():
        return ray.get_runtime_context().is_canceled()

    assert ray.get(look.remote()) is False


def test_context_as_a_dict(ray):
    got = ray.get_runtime_context().get()
    assert {"job_id", "node_id", "namespace"} <= set(got)
    assert got["namespace"] == "contract-context"


def test_ordinary_actor_was_not_reconstructed(ray):
    @ray.remote
    class A:
        def look(self):
            return ray.get_runtime_context().was_current_actor_reconstructed

    assert ray.get(A.remote().look.remote()) is False


def test_driver_has_no_gpus(ray):
    assert ray.get_gpu_ids() == []


def test_gpus_of_a_task(ray):
    @ray.remote(num_gpus=1)
    def look():
        return ray.get_gpu_ids(), os.environ["CUDA_VISIBLE_DEVICES"]

    ids, visible = ray.get(look.remote())
    assert len(ids) == 1 and visible == str(ids[0])


def test_task_without_gpus_sees_none(ray):
    @ray.remote
    def look():
        return ray.get_gpu_ids()

    assert ray.get(look.remote()) == []


def test_two_actors_get_different_gpus(ray):
    @ray.remote(num_gpus=1)
    class A:
        def look(self):
            return ray.get_gpu_ids()

    a, b = A.remote(), A.remote()
    assert sorted(ray.get(a.look.remote()) + ray.get(b.look.remote())) == [0, 1]


def test_halves_of_a_gpu_share_one(ray):
    @ray.remote(num_gpus=0.5)
    def look():
        return ray.get_gpu_ids()

    (ids,) = {tuple(ray.get(look.remote())) for _ in range(1)}
    assert len(ids) == 1


def test_environment_of_the_call_in_the_context(ray):
    @ray.remote(runtime_env={"env_vars": {"CONTRACT_A": "1", "CONTRACT_B": "2"}})
    class A:
        def look(self):
            return ray.get_runtime_context().runtime_env["env_vars"], os.environ["CONTRACT_B"]

    variables, value = ray.get(A.remote().look.remote())
    assert variables == {"CONTRACT_A": "1", "CONTRACT_B": "2"} and value == "2"


def test_resources_of_the_cluster(ray):
    total = ray.cluster_resources()
    assert total["CPU"] == 2 and total["GPU"] == 2
    assert total["memory"] > 0 and total["object_store_memory"] > 0


def test_free_resources_in_a_task_are_less(ray):
    @ray.remote(num_cpus=2)
    def look():
        import time

        for _ in range(50):
            if ray.available_resources().get("CPU", 0) == 0:
                return True
            time.sleep(0.1)
        return False

    assert ray.get(look.remote())


def test_one_node_that_is_alive(ray):
    (node,) = ray.nodes()
    assert node["Alive"] is True
    assert node["Resources"]["CPU"] == 2
    assert node["NodeID"] == ray.get_runtime_context().get_node_id()


class Named:
    def method(self, ray_of):
        return ray_of().get_runtime_context().get_task_function_name()


def test_function_name_has_its_module(ray):
    f = ray.remote(lambda: ray.get_runtime_context().get_task_function_name())
    assert ray.get(f.options(name="other").remote()) == f"{__name__}.<lambda>"

    @ray.remote
    def inner():
        return ray.get_runtime_context().get_task_function_name()

    assert ray.get(inner.remote()) == f"{__name__}.inner"


def test_method_name_has_its_module_and_class(ray):
    name = ray.get(ray.remote(Named).remote().method.remote(lambda: ray))
    assert name == f"{__name__}.Named.method"


def test_environment_in_the_context_is_a_runtime_env(ray):
    @ray.remote(runtime_env={"env_vars": {"KIND": "1"}})
    def f():
        environment = ray.get_runtime_context().runtime_env
        return isinstance(environment, dict), environment.env_vars()

    assert ray.get(f.remote()) == (True, {"KIND": "1"})


def test_variables_of_a_runtime_env_are_checked_where_it_is_made(ray):
    with pytest.raises(TypeError):
        ray.runtime_env.RuntimeEnv(env_vars={"A": 1})


def test_node_labels_have_the_id_of_the_node(ray):
    node = ray.get_runtime_context().get_node_id()
    assert ray.nodes()[0]["Labels"]["ray.io/node-id"] == node
    assert ray.get_runtime_context().get_node_labels()["ray.io/node-id"] == node


def test_gpus_of_one_call_are_not_seen_by_the_next(ray):
    @ray.remote(num_cpus=1)
    def look():
        return os.environ.get("CUDA_VISIBLE_DEVICES")

    before = ray.get(look.remote())
    for _ in range(3):
        assert ray.get(look.options(num_gpus=1).remote()) in ("0", "1")
        assert ray.get(look.remote()) == before


def test_other_accelerators_are_listed_without_numbers(ray):
    found = ray.get_runtime_context().get_accelerator_ids()
    assert found["GPU"] == [] and found["TPU"] == []
