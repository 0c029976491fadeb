"""Collective communication of actors, on arrays of the CPU."""

import importlib

import pytest

from skate.testing.contract import target
from skate.testing.contract.marks import differs_on_ray, needs_background

np = pytest.importorskip("numpy")

INIT = {"num_cpus": 4}

# Its gloo is PyTorch's, and its members write to each other's files: without PyTorch nothing of this is there.
pytestmark = [differs_on_ray("gloo needs PyTorch there"), needs_background]


@pytest.fixture
def col(ray):
    return importlib.import_module(f"{target.PACKAGE}.util.collective")


@pytest.fixture
def Member(ray, col):
    types = importlib.import_module(f"{target.PACKAGE}.util.collective.types")

    @ray.remote(num_cpus=0)
    class Member:
        def join(self, size, rank, name="default", **options):
            col.init_collective_group(size, rank, "gloo", name, **options)
            return col.get_rank(name), col.get_collective_group_size(name)

        def allreduce(self, array, op="SUM", name="default"):
            array = np.array(array)
            col.allreduce(array, name, types.ReduceOp[op])
            return array

        def reduce(self, array, to):
            array = np.array(array)
            col.reduce(array, to)
            return array

        def broadcast(self, array, source):
            array = np.array(array)
            col.broadcast(array, source)
            return array

        def allgather(self, array, size):
            array = np.array(array)
            given = [np.zeros_like(array) for _ in range(size)]
            col.allgather(given, array)
            return given

        def reducescatter(self, arrays):
            arrays = [np.array(array) for array in arrays]
            mine = np.zeros_like(arrays[0])
            col.reducescatter(mine, arrays)
            return mine

        def exchange(self, rank, size, count):
            to, source = (rank + 1) % size, (rank - 1) % size
            seen = []
            for number in range(count):
                col.send(np.array([rank, number]), to)
                got = np.zeros(2, dtype=int)
                col.recv(got, source)
                seen.append(tuple(int(x) for x in got))
            return seen

        def barrier(self):
            col.barrier()
            return True

        def rank(self, name="default"):
            return col.get_rank(name)

        def leave(self):
            col.destroy_collective_group()

    return Member


@pytest.fixture
def three(ray, Member):
    members = [Member.remote() for _ in range(3)]
    assert ray.get([m.join.remote(3, rank) for rank, m in enumerate(members)]) == [(0, 3), (1, 3), (2, 3)]
    yield members
    ray.get([m.leave.remote() for m in members])


@pytest.mark.parametrize("size", [1, 100_000])
def test_allreduce(ray, three, size):
    arrays = [np.full(size, rank + 1.0) for rank in range(3)]
    for result in ray.get([m.allreduce.remote(a) for m, a in zip(three, arrays, strict=True)]):
        assert (result == 6).all()


def test_allreduce_with_other_operations(ray, three):
    for op, expected in (("PRODUCT", 6), ("MIN", 1), ("MAX", 3)):
        assert ray.get([m.allreduce.remote([rank + 1], op) for rank, m in enumerate(three)]) == [[expected]] * 3


def test_reduce_to_one(ray, three):
    zero, one, two = ray.get([m.reduce.remote([rank + 1], 1) for rank, m in enumerate(three)])
    assert (zero, one, two) == ([1], [6], [3])


def test_broadcast(ray, three):
    assert ray.get([m.broadcast.remote([rank, rank], 2) for rank, m in enumerate(three)]) == [pytest.approx([2, 2])] * 3


def test_allgather(ray, three):
    for given in ray.get([m.allgather.remote([rank], 3) for rank, m in enumerate(three)]):
        assert [int(array[0]) for array in given] == [0, 1, 2]


def test_reducescatter(ray, three):
    calls = [m.reducescatter.remote([[rank], [10 * rank], [100 * rank]]) for rank, m in enumerate(three)]
    assert [int(array[0]) for array in ray.get(calls)] == [3, 30, 300]


def test_send_and_receive_keep_the_order(ray, three):
    seen = ray.get([m.exchange.remote(rank, 3, 4) for rank, m in enumerate(three)])
    assert seen[0] == [(2, 0), (2, 1), (2, 2), (2, 3)]


def test_barrier_waits_for_all(ray, three):
    early = [m.barrier.remote() for m in three[:2]]
    ready, _ = ray.wait(early, timeout=0.3)
    assert ready == []
    assert ray.get([*early, three[2].barrier.remote()]) == [True] * 3


def test_a_missing_member_is_told_of(ray, Member):
    one, two = Member.remote(), Member.remote()
    ray.get([one.join.remote(2, 0, "late", gloo_timeout=300), two.join.remote(2, 1, "late", gloo_timeout=300)])
    with pytest.raises(RuntimeError, match="late"):
        ray.get(one.allreduce.remote([1], "SUM", "late"))


def test_a_group_made_by_the_driver(ray, Member, col):
    members = [Member.remote() for _ in range(2)]
    col.create_collective_group(members, 2, [1, 0], "gloo", "made")
    assert ray.get([m.allreduce.remote([5], "SUM", "made") for m in members]) == [[10], [10]]
    assert ray.get([m.rank.remote("made") for m in members]) == [1, 0]
    with pytest.raises(RuntimeError):
        col.create_collective_group(members, 2, [1, 0], "gloo", "made")


def test_what_is_wrong_is_said_at_once(ray, Member, col):
    member = Member.remote()
    with pytest.raises(RuntimeError):
        ray.get(member.allreduce.remote([1], "SUM", "nowhere"))
    assert ray.get(member.rank.remote("nowhere")) == -1
    with pytest.raises(AssertionError):
        ray.get(member.join.remote(2, 2, "wrong"))
    ray.get(member.join.remote(1, 0, "twice"))
    with pytest.raises(RuntimeError):
        ray.get(member.join.remote(1, 0, "twice"))
    with pytest.raises(RuntimeError, match="driver"):
        col.init_collective_group(1, 0, "gloo")
    with pytest.raises(ValueError):
        col.create_collective_group([member], 1, [0], "pigeon")
    with pytest.raises(RuntimeError):
        col.create_collective_group([member], 1, [0], "nccl")
    with pytest.raises(RuntimeError):
        col.create_collective_group([member], 2, [0], "gloo")


def test_which_backends_there_are(col):
    assert col.gloo_available()
    assert col.is_backend_available("gloo")
    assert not col.nccl_available()
