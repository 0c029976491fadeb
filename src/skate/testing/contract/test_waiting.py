"""ray.wait: how many, how long, in what order, and what it refuses."""

import time

import pytest

from skate.testing.contract import needs_background


@pytest.fixture
def nap(ray):
    @ray.remote(num_cpus=0)
    def nap(seconds):
        time.sleep(seconds)
        return seconds

    ray.get(nap.remote(0))
    return nap


def test_one_by_default(ray):
    refs = [ray.put(i) for i in range(3)]
    ready, rest = ray.wait(refs)
    assert len(ready) == 1 and rest == [r for r in refs if r not in ready]


def test_never_more_than_asked_for(ray):
    refs = [ray.put(i) for i in range(5)]
    ready, rest = ray.wait(refs, num_returns=2)
    assert len(ready) == 2 and len(rest) == 3
    assert set(ready) | set(rest) == set(refs)


def test_all_of_them(ray, nap):
    refs = [nap.remote(0.1), nap.remote(0)]
    assert ray.wait(refs, num_returns=2, timeout=60) == (refs, [])


@needs_background
def test_timeout_returns_what_there_is(ray, nap):
    slow, fast = nap.remote(10), ray.put(0)
    ready, rest = ray.wait([slow, fast], num_returns=2, timeout=0.3)
    assert ready == [fast] and rest == [slow]


@needs_background
def test_zero_timeout_polls(ray, nap):
    begin = time.monotonic()
    slow = nap.remote(10)
    assert ray.wait([slow], timeout=0) == ([], [slow])
    assert time.monotonic() - begin < 9


def test_finished_object_is_ready_at_zero_timeout(ray):
    ref = ray.put(1)
    assert ray.wait([ref], timeout=0) == ([ref], [])


@needs_background
def test_pending_refs_keep_their_order(ray, nap):
    slow = [nap.remote(10) for _ in range(3)]
    done = ray.put(1)
    ready, rest = ray.wait([slow[0], done, slow[1], slow[2]], timeout=1)
    assert ready == [done] and rest == slow


def test_failed_object_is_ready(ray):
    @ray.remote
    def f():
        raise ValueError

    ref = f.remote()
    assert ray.wait([ref], timeout=60)[0] == [ref]


def test_empty_list_with_several_wanted(ray):
    assert ray.wait([], num_returns=1) == ([], [])


@pytest.mark.parametrize("num_returns", [0, -1, 3])
def test_impossible_number_is_refused(ray, num_returns):
    with pytest.raises(ValueError):
        ray.wait([ray.put(1), ray.put(2)], num_returns=num_returns)


def test_number_of_another_type_is_refused(ray):
    with pytest.raises(TypeError):
        ray.wait([ray.put(1), ray.put(2)], num_returns="1")


def test_negative_timeout_is_refused(ray):
    with pytest.raises(ValueError):
        ray.wait([ray.put(1)], timeout=-1)


def test_single_ref_instead_of_a_list_is_refused(ray):
    with pytest.raises(TypeError, match="list"):
        ray.wait(ray.put(1))


@pytest.mark.parametrize("things", [[1], ["a"], [None]])
def test_list_of_other_things_is_refused(ray, things):
    with pytest.raises(TypeError):
        ray.wait(things)


@pytest.mark.parametrize("kind", [tuple, set, iter])
def test_only_lists_are_accepted(ray, kind):
    with pytest.raises(TypeError):
        ray.wait(kind([ray.put(1)]))


def test_loop_until_all_are_done(ray, nap):
    pending = [nap.remote(s) for s in (0.3, 0.0, 0.15)]
    seen = []
    while pending:
        ready, pending = ray.wait(pending, timeout=60)
        seen += ray.get(ready)
    assert sorted(seen) == [0.0, 0.15, 0.3]


def test_several_results_of_one_task(ray):
    @ray.remote(num_returns=3)
    def f():
        return 1, 2, 3

    refs = f.remote()
    assert ray.wait(refs, num_returns=3, timeout=60) == (refs, [])


def test_within_a_task(ray):
    @ray.remote
    def outer(boxes):
        ready, rest = ray.wait(boxes, num_returns=2)
        return len(ready), len(rest), sorted(ray.get(ready))

    assert ray.get(outer.remote([ray.put(1), ray.put(2)])) == (2, 0, [1, 2])


def test_timeout_may_be_a_whole_number_or_none(ray):
    ref = ray.put(1)
    assert ray.wait([ref], timeout=60)[0] == [ref]
    assert ray.wait([ref], timeout=None)[0] == [ref]


def test_does_not_change_the_list_given(ray):
    refs = [ray.put(1), ray.put(2)]
    before = list(refs)
    ray.wait(refs, num_returns=1)
    assert refs == before
