"""multiprocessing.Pool on actors."""

import importlib
import itertools
import multiprocessing
import os
import time

import pytest

from skate.testing.contract import target
from skate.testing.contract.marks import differs_on_ray, needs_background, needs_processes
from skate.testing.contract.tools import eventually, raised

INIT = {"num_cpus": 2}

pool_module = importlib.import_module(f"{target.PACKAGE}.util.multiprocessing")


@pytest.fixture
def make(ray):
    """Makes pools, and ends them."""
    made = []

    def make_pool(*args, **kwargs):
        made.append(pool_module.Pool(*args, **kwargs))
        return made[-1]

    yield make_pool
    for pool in made:
        pool.terminate()
        pool.join()


class Odd(Exception):
    def __init__(self, a, b):
        super().__init__(f"{a} {b}")


def test_map_keeps_the_order(make):
    assert make(2).map(lambda x: x * x, range(20)) == [x * x for x in range(20)]


@pytest.mark.parametrize("size", [1, 3, 100])
def test_map_in_chunks(make, size):
    assert make(2).map(str, range(7), chunksize=size) == [str(x) for x in range(7)]


def test_map_of_nothing(make):
    assert make(1).map(str, []) == []


def test_map_takes_iterators(make):
    assert make(1).map(str, iter(range(3))) == ["0", "1", "2"]


def test_starmap_spreads_arguments(make):
    pool = make(2)
    assert pool.starmap(pow, [(2, 3), (3, 2)]) == [8, 9]
    assert pool.starmap_async(pow, [(2, 3)]).get(timeout=60) == [8]


def test_apply_with_arguments(make):
    def show(a, b, c=0):
        return (a, b, c)

    pool = make(1)
    assert pool.apply(show, (1, 2), {"c": 3}) == (1, 2, 3)
    assert pool.apply_async(show, (1, 2)).get(timeout=60) == (1, 2, 0)


def test_imap_in_order(make):
    assert list(make(2).imap(lambda x: -x, range(10))) == [-x for x in range(10)]


def test_imap_unordered_gives_all(make):
    assert sorted(make(2).imap_unordered(lambda x: x + 1, range(10), chunksize=3)) == list(range(1, 11))


def test_imap_of_an_endless_iterator(make):
    results = make(2).imap(lambda x: x, itertools.count())
    assert list(itertools.islice(results, 25)) == list(range(25))


@needs_background
def test_imap_next_times_out(make):
    results = make(1).imap(time.sleep, [5])
    with pytest.raises(multiprocessing.TimeoutError):
        results.next(timeout=0.1)


@differs_on_ray("what a call raised comes as a value among the others")
def test_imap_goes_on_after_an_error(make):
    def bad(x):
        if x == 1:
            raise ValueError(x)
        return x

    results = make(1).imap(bad, range(3))
    assert next(results) == 0
    with pytest.raises(ValueError):
        next(results)
    assert next(results) == 2
    with pytest.raises(StopIteration):
        next(results)


def test_an_error_is_raised_by_get(make):
    def bad(x):
        raise KeyError(x)

    pool = make(1)
    with pytest.raises(KeyError):
        pool.map(bad, [1, 2])
    result = pool.apply_async(bad, (1,))
    with pytest.raises(KeyError):
        result.get(timeout=60)
    assert not result.successful()


@differs_on_ray("an exception that cannot be rebuilt breaks the call")
def test_an_error_that_cannot_be_rebuilt(make):
    def bad():
        raise Odd(1, 2)

    with pytest.raises(RuntimeError, match="1 2"):
        make(1).apply(bad)


@needs_background
def test_results_before_they_are_ready(make):
    result = make(1).apply_async(time.sleep, (30,))
    assert not result.ready()
    with pytest.raises(ValueError):
        result.successful()
    with pytest.raises(multiprocessing.TimeoutError):
        result.get(timeout=0.1)
    began = time.monotonic()
    result.wait(0.1)
    assert time.monotonic() - began < 20


@differs_on_ray("error_callback gets a PoolTaskError around it")
def test_callbacks(make):
    def bad():
        raise ValueError("bad")

    pool, good, wrong = make(1), [], []
    pool.apply_async(lambda: 5, callback=good.append, error_callback=wrong.append).wait(30)
    pool.apply_async(bad, callback=good.append, error_callback=wrong.append).wait(30)
    assert eventually(lambda: good == [5] and len(wrong) == 1)
    assert isinstance(wrong[0], ValueError)


@needs_processes
def test_the_initializer_runs_in_each_process(make):
    def prepare(text):
        os.environ["POOL_TEST"] = text

    pool = make(2, prepare, ("yes",))
    assert pool.map(lambda _: os.environ["POOL_TEST"], range(8), chunksize=1) == ["yes"] * 8
    assert "POOL_TEST" not in os.environ


@needs_processes
def test_processes_are_replaced_after_their_share(make):
    pool = make(1, maxtasksperchild=2)
    pids = [pool.apply(os.getpid) for _ in range(6)]
    assert len(set(pids)) == 3


@needs_processes
def test_both_processes_work(make, tmp_path):
    driver = os.getpid()

    def meet(_):
        (tmp_path / str(os.getpid())).touch()
        return os.getpid() != driver and eventually(lambda: len(list(tmp_path.iterdir())) == 2)

    assert make(2).map(meet, range(8), chunksize=1) == [True] * 8


@needs_background
def test_uneven_work_is_shared_out(make, tally):
    def work(number):
        if number == 0:
            return eventually(lambda: tally.count() >= 3)  # meanwhile: one may have been sent behind this one
        tally.add()
        return True

    assert make(2).map(work, range(5), chunksize=1) == [True] * 5


@differs_on_ray("the pool keeps calling the dead process")
@needs_background
def test_a_dead_process_is_replaced(ray, make):
    pool = make(1)
    with pytest.raises(ray.exceptions.RayActorError):
        pool.apply(os._exit, (1,))
    assert pool.apply(str, (1,)) == "1"


def test_a_closed_pool_finishes_its_work(make):
    pool = make(1)
    result = pool.map_async(lambda x: x, range(5))
    pool.close()
    with pytest.raises(ValueError):
        pool.apply(str)
    pool.join()
    assert result.get(timeout=60) == [0, 1, 2, 3, 4]


def test_join_needs_close(make):
    with pytest.raises(ValueError):
        make(1).join()


@needs_background
def test_terminate_does_not_wait_for_work(make):
    pool = make(1)
    result = pool.apply_async(time.sleep, (60,))
    began = time.monotonic()
    pool.terminate()
    pool.join()
    assert time.monotonic() - began < 20
    assert raised(lambda: result.get(timeout=60)) is not None


def test_as_a_context(ray):
    with pool_module.Pool(1) as pool:
        assert pool.apply(str, (1,)) == "1"
    with pytest.raises(ValueError):
        pool.apply(str, (1,))


def test_more_processes_than_cpus(ray):
    with pytest.raises(ValueError):
        pool_module.Pool(1000)
    with pytest.raises(ValueError):
        pool_module.Pool(0)


def test_as_many_processes_as_cpus(make):
    assert len(make()._actor_pool) == 2


def test_actors_with_options(make):
    pool = make(2, ray_remote_args={"num_cpus": 0.5})
    assert pool.map(str, range(3)) == ["0", "1", "2"]
