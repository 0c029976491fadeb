"""Compiled graphs: channels between actors, errors, limits, ends."""

import asyncio
import copy
import pickle
import time

import pytest

from skate.testing.contract import target
from skate.testing.contract.marks import differs_on_ray, needs_background
from skate.testing.contract.tools import eventually, raised, until_no_error

dag = pytest.importorskip(f"{target.PACKAGE}.dag")
InputNode, MultiOutputNode = dag.InputNode, dag.MultiOutputNode

INIT = {"num_cpus": 4}


@pytest.fixture
def Worker(ray):
    @ray.remote
    class Worker:
        def __init__(self, k=0):
            self.k = k
            self.calls = 0

        def add(self, x):
            self.calls += 1
            return x + self.k

        def echo(self, x):
            return x

        def both(self, a, b):
            return (a, b)

        def fail(self, x):
            raise ValueError(f"no {x}")

        def fail_odd(self, x):
            if x % 2:
                raise KeyError(x)
            return x

        def nap(self, seconds):
            time.sleep(seconds)
            return seconds

        def count(self):
            return self.calls

        @ray.method(num_returns=2)
        def split(self, pair):
            return pair[0], pair[1]

        def die(self, x):
            import os

            os._exit(1)

    return Worker


@pytest.fixture
def compiled():
    """Compiles, and tears down at the end."""
    made = []

    def compile_it(node, **options):
        graph = node.experimental_compile(**options)
        made.append(graph)
        return graph

    yield compile_it
    for graph in made:
        graph.teardown()


def test_one_actor(ray, Worker, compiled):
    a = Worker.remote(10)
    with InputNode() as inp:
        graph = compiled(a.add.bind(inp))
    assert [ray.get(graph.execute(i)) for i in range(20)] == list(range(10, 30))


def test_a_chain_of_actors(ray, Worker, compiled):
    a, b, c = Worker.remote(1), Worker.remote(10), Worker.remote(100)
    with InputNode() as inp:
        graph = compiled(c.add.bind(b.add.bind(a.add.bind(inp))))
    assert ray.get(graph.execute(0)) == 111


def test_two_methods_of_one_actor(ray, Worker, compiled):
    a = Worker.remote(1)
    with InputNode() as inp:
        graph = compiled(a.add.bind(a.add.bind(inp)))
    assert ray.get(graph.execute(0)) == 2


def test_back_and_forth_between_two_actors(ray, Worker, compiled):
    a, b = Worker.remote(1), Worker.remote(10)
    with InputNode() as inp:
        graph = compiled(a.add.bind(b.add.bind(a.add.bind(inp))))
    assert [ray.get(graph.execute(i)) for i in range(5)] == [12, 13, 14, 15, 16]


def test_parts_of_the_input(ray, Worker, compiled):
    a = Worker.remote()
    with InputNode() as inp:
        graph = compiled(a.both.bind(inp[0], inp.x))
    assert tuple(ray.get(graph.execute(1, x=2))) == (1, 2)


def test_constants_beside_nodes(ray, Worker, compiled):
    a = Worker.remote()
    with InputNode() as inp:
        graph = compiled(a.both.bind(inp, ["fixed"]))
    assert tuple(ray.get(graph.execute(1))) == (1, ["fixed"])


def test_one_node_for_two_readers(ray, Worker, compiled):
    a, b, c = Worker.remote(1), Worker.remote(10), Worker.remote()
    with InputNode() as inp:
        shared = a.add.bind(inp)
        graph = compiled(c.both.bind(b.add.bind(shared), shared))
    assert tuple(ray.get(graph.execute(0))) == (11, 1)


def test_several_outputs(ray, Worker, compiled):
    a, b = Worker.remote(1), Worker.remote(10)
    with InputNode() as inp:
        graph = compiled(MultiOutputNode([a.add.bind(inp), b.add.bind(inp)]))
    refs = graph.execute(5)
    assert len(refs) == 2
    assert ray.get(refs) == [6, 15]
    one, two = graph.execute(6)
    assert (ray.get(two), ray.get(one)) == (16, 7)


def test_values_of_a_method_with_several_returns(ray, Worker, compiled):
    a, b = Worker.remote(), Worker.remote()
    with InputNode() as inp:
        left, right = a.split.bind(inp)
        graph = compiled(b.both.bind(right, left))
    assert tuple(ray.get(graph.execute((1, 2)))) == (2, 1)


def test_results_are_taken_in_any_order(ray, Worker, compiled):
    a = Worker.remote()
    with InputNode() as inp:
        graph = compiled(a.echo.bind(inp))
    refs = [graph.execute(i) for i in range(6)]
    assert [ray.get(ref) for ref in reversed(refs)] == [5, 4, 3, 2, 1, 0]


def test_a_list_of_results(ray, Worker, compiled):
    a = Worker.remote()
    with InputNode() as inp:
        graph = compiled(a.echo.bind(inp))
    assert ray.get([graph.execute(i) for i in range(4)]) == [0, 1, 2, 3]


def test_a_result_is_taken_once(ray, Worker, compiled):
    a = Worker.remote()
    with InputNode() as inp:
        graph = compiled(a.echo.bind(inp))
    ref = graph.execute(1)
    assert ray.get(ref) == 1
    with pytest.raises(ValueError):
        ray.get(ref)


def test_a_result_is_not_copied(ray, Worker, compiled):
    a = Worker.remote()
    with InputNode() as inp:
        graph = compiled(a.echo.bind(inp))
    ref = graph.execute(1)
    for refused in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(ValueError):
            refused(ref)
    with pytest.raises((TypeError, ValueError)):
        ray.wait([ref])
    assert ray.get(ref) == 1


def test_dropped_results_make_room(ray, Worker, compiled):
    a = Worker.remote(1)
    with InputNode() as inp:
        graph = compiled(a.add.bind(inp), _max_inflight_executions=2)
    full = ray.exceptions.RayCgraphCapacityExceeded
    for i in range(5):
        until_no_error(lambda i=i: graph.execute(i), full)
    assert ray.get(until_no_error(lambda: graph.execute(10), full)) == 11
    assert ray.get(a.count.remote()) == 6


def test_an_error_is_raised_and_survived(ray, Worker, compiled):
    a, b = Worker.remote(), Worker.remote(1)
    with InputNode() as inp:
        graph = compiled(b.add.bind(a.fail_odd.bind(inp)))
    for _ in range(3):
        assert ray.get(graph.execute(2)) == 3
        with pytest.raises(KeyError):
            ray.get(graph.execute(1))
    assert ray.get(b.count.remote()) == 3, "a call whose argument failed does not run"


def test_an_error_is_a_task_error_too(ray, Worker, compiled):
    a = Worker.remote()
    with InputNode() as inp:
        graph = compiled(a.fail.bind(inp))
    with pytest.raises(ray.exceptions.RayTaskError) as caught:
        ray.get(graph.execute(7))
    assert "no 7" in str(caught.value)


@differs_on_ray("the error of one output is raised for the others too")
def test_one_of_several_outputs_fails(ray, Worker, compiled):
    a, b = Worker.remote(), Worker.remote(1)
    with InputNode() as inp:
        graph = compiled(MultiOutputNode([a.fail.bind(inp), b.add.bind(inp)]))
    bad, good = graph.execute(1)
    assert ray.get(good) == 2
    with pytest.raises(ValueError):
        ray.get(bad)


def test_arrays_travel(ray, Worker, compiled):
    np = pytest.importorskip("numpy")
    a, b = Worker.remote(), Worker.remote()
    with InputNode() as inp:
        graph = compiled(b.echo.bind(a.echo.bind(inp)))
    for size in (0, 10, 10_000, 300_000):
        array = np.arange(size, dtype="float64")
        result = ray.get(graph.execute(array))
        assert (result == array).all()
        assert result.dtype == array.dtype
        del result  # in Ray it stands where the next result will


def test_messages_larger_than_the_buffer(ray, Worker, compiled):
    a, b = Worker.remote(), Worker.remote()
    with InputNode() as inp:
        graph = compiled(b.echo.bind(a.echo.bind(inp)), _buffer_size_bytes=4000)
    for size in (3_000, 5_000, 1_000_000):
        data = bytes(range(256)) * (size // 256)
        assert ray.get(graph.execute(data)) == data


def test_more_executions_than_may_be_under_way(ray, Worker, compiled):
    a = Worker.remote()
    with InputNode() as inp:
        graph = compiled(a.echo.bind(inp), _max_inflight_executions=2)
    refs = [graph.execute(i) for i in range(2)]
    with pytest.raises(ray.exceptions.RayCgraphCapacityExceeded):
        graph.execute(3)
    assert [ray.get(ref) for ref in refs] == [0, 1]
    assert ray.get(graph.execute(4)) == 4


def test_more_results_than_may_be_kept(ray, Worker, compiled):
    a = Worker.remote()
    with InputNode() as inp:
        graph = compiled(a.echo.bind(inp), _max_inflight_executions=10, _max_buffered_results=1)
    refs = [graph.execute(i) for i in range(3)]
    with pytest.raises(ray.exceptions.RayCgraphCapacityExceeded):
        ray.get(refs[2])


@needs_background
def test_a_late_result(ray, Worker, compiled):
    a = Worker.remote()
    with InputNode() as inp:
        graph = compiled(a.nap.bind(inp))
    ref = graph.execute(1)
    with pytest.raises(ray.exceptions.RayChannelTimeoutError):
        ray.get(ref, timeout=0.1)


@differs_on_ray("a result that was late once cannot be asked for again")
@needs_background
def test_a_late_result_can_be_asked_for_again(ray, Worker, compiled):
    a = Worker.remote()
    with InputNode() as inp:
        graph = compiled(a.nap.bind(inp))
    ref = graph.execute(0.5)
    with pytest.raises(TimeoutError):
        ray.get(ref, timeout=0.05)
    assert ray.get(ref) == 0.5


def test_the_number_of_arguments_is_checked(ray, Worker, compiled):
    a = Worker.remote()
    with InputNode() as inp:
        graph = compiled(a.both.bind(inp[0], inp.x))
    with pytest.raises(ValueError):
        graph.execute(1, 2, x=1)
    with pytest.raises(ValueError):
        graph.execute(1)
    assert tuple(ray.get(graph.execute(1, x=2))) == (1, 2)


def test_an_actor_answers_other_calls_meanwhile(ray, Worker, compiled):
    a = Worker.remote(1)
    with InputNode() as inp:
        graph = compiled(a.add.bind(inp))
    assert ray.get(graph.execute(1)) == 2
    assert ray.get(a.count.remote()) == 1
    assert ray.get(graph.execute(2)) == 3


def test_after_teardown_actors_can_be_compiled_again(ray, Worker):
    a = Worker.remote(1)
    for _ in range(3):
        with InputNode() as inp:
            graph = a.add.bind(inp).experimental_compile()
        assert ray.get(graph.execute(1)) == 2
        graph.teardown()
        graph.teardown()
    assert ray.get(a.add.remote(5)) == 6


def test_a_torn_down_graph_refuses(ray, Worker):
    a = Worker.remote(1)
    with InputNode() as inp:
        graph = a.add.bind(inp).experimental_compile()
    graph.teardown()
    with pytest.raises(ray.exceptions.RayChannelError):
        graph.execute(1)


def test_teardown_can_end_the_actors(ray, Worker):
    a = Worker.remote(1)
    with InputNode() as inp:
        graph = a.add.bind(inp).experimental_compile()
    assert ray.get(graph.execute(1)) == 2
    graph.teardown(kill_actors=True)
    assert eventually(lambda: isinstance(raised(lambda: ray.get(a.add.remote(1))), ray.exceptions.RayActorError))


@needs_background
def test_a_dead_actor_ends_the_wait(ray, Worker, compiled):
    a, b = Worker.remote(), Worker.remote()
    with InputNode() as inp:
        graph = compiled(b.echo.bind(a.nap.bind(inp)))
    ref = graph.execute(30)
    ray.kill(a)
    with pytest.raises(ray.exceptions.RayActorError):
        ray.get(ref, timeout=60)
    graph.teardown()
    assert ray.get(b.echo.remote(3)) == 3


@differs_on_ray("teardown hangs when the event loop is closed")
def test_a_graph_within_asyncio(ray, Worker, compiled):
    a, b = Worker.remote(1), Worker.remote(10)
    with InputNode() as inp:
        graph = compiled(b.add.bind(a.add.bind(inp)), enable_asyncio=True)

    async def main():
        futures = [await graph.execute_async(i) for i in range(5)]
        return [await future for future in futures]

    assert asyncio.run(main()) == [11, 12, 13, 14, 15]


@differs_on_ray("teardown hangs when the event loop is closed")
def test_errors_within_asyncio(ray, Worker, compiled):
    a = Worker.remote()
    with InputNode() as inp:
        graph = compiled(a.fail.bind(inp), enable_asyncio=True)

    async def main():
        for _ in range(2):
            with pytest.raises(ValueError):
                await (await graph.execute_async(1))
        future = await graph.execute_async(1)
        with pytest.raises(ValueError, match="no 1"):
            await future
        with pytest.raises(ValueError, match="once"):
            await future

    asyncio.run(main())


@differs_on_ray("teardown hangs when the event loop is closed")
def test_several_outputs_within_asyncio(ray, Worker, compiled):
    a, b = Worker.remote(1), Worker.remote(10)
    with InputNode() as inp:
        graph = compiled(MultiOutputNode([a.add.bind(inp), b.add.bind(inp)]), enable_asyncio=True)

    async def main():
        one, two = await graph.execute_async(0)
        return [await one, await two]

    assert asyncio.run(main()) == [1, 10]


def test_each_way_of_executing_refuses_the_other(ray, Worker, compiled):
    a, b = Worker.remote(), Worker.remote()
    with InputNode() as inp:
        plain = compiled(a.echo.bind(inp))
    with InputNode() as inp:
        asynchronous = compiled(b.echo.bind(inp), enable_asyncio=True)
    with pytest.raises(ValueError):
        asynchronous.execute(1)
    with pytest.raises(ValueError):
        asyncio.run(plain.execute_async(1))


# ------------------------------------------------------------------- what cannot be compiled


def test_tasks_cannot_be_compiled(ray):
    @ray.remote
    def f(x):
        return x

    with InputNode() as inp:
        node = f.bind(inp)
    with pytest.raises(NotImplementedError):
        node.experimental_compile()


def test_actors_must_live(Worker):
    with InputNode() as inp:
        node = Worker.bind().echo.bind(inp)
    with pytest.raises(ValueError):
        node.experimental_compile()


def test_an_input_is_needed(ray, Worker):
    a = Worker.remote()
    with pytest.raises(ValueError):
        a.echo.bind(1).experimental_compile()


def test_every_call_needs_a_node(ray, Worker):
    a, b = Worker.remote(), Worker.remote()
    with InputNode() as inp:
        node = MultiOutputNode([a.echo.bind(inp), b.echo.bind(1)])
    with pytest.raises(ValueError):
        node.experimental_compile()


def test_nodes_inside_of_arguments(ray, Worker):
    a = Worker.remote()
    with InputNode() as inp:
        node = a.echo.bind([inp])
    with pytest.raises(ValueError):
        node.experimental_compile()


def test_leaves_that_lead_nowhere(ray, Worker):
    a, b = Worker.remote(), Worker.remote()
    with InputNode() as inp:
        one = a.echo.bind(inp)
        two = b.echo.bind(inp)
    with pytest.raises(ValueError):
        one.experimental_compile()
    assert two is not None


def test_the_whole_input_and_parts_of_it(ray, Worker):
    a = Worker.remote()
    with InputNode() as inp:
        node = a.both.bind(inp, inp[0])
    with pytest.raises(ValueError):
        node.experimental_compile()


def test_parts_of_the_input_that_nothing_takes(ray, Worker):
    a = Worker.remote()
    with InputNode() as inp:
        inp[1]
        node = a.echo.bind(inp[0])
    with pytest.raises(ValueError):
        node.experimental_compile()


def test_a_graph_is_compiled_once(ray, Worker, compiled):
    a = Worker.remote()
    with InputNode() as inp:
        node = a.echo.bind(inp)
    compiled(node)
    with pytest.raises(ValueError):
        node.experimental_compile()


def test_transports_of_tensors_are_checked(Worker):
    a = Worker.remote()
    with InputNode() as inp:
        node = a.echo.bind(inp)
    with pytest.raises(ValueError):
        node.with_tensor_transport(transport="pigeon")
    with pytest.raises(ValueError):
        node.with_tensor_transport(device="abacus")
    assert node.with_tensor_transport(transport="shm") is node
