"""ObjectRef: identity, text forms, futures, awaiting, travelling, lifetime."""

import asyncio
import concurrent.futures
import copy
import gc
import time

import numpy as np
import pytest

from skate.testing.contract import needs_background
from skate.testing.contract.tools import eventually


def test_equality_is_identity_of_the_object(ray):
    ref = ray.put(1)
    same = ray.get(ray.put([ref]))[0]
    assert same == ref and hash(same) == hash(ref)
    assert not (ref != same)  # noqa: SIM202 the other operator
    assert ref != ray.put(1) and ref != 1 and ref is not None


def test_repr_names_the_type_and_the_id(ray):
    ref = ray.put(1)
    assert repr(ref) == f"ObjectRef({ref.hex()})"
    assert str(ref) == repr(ref)


def test_text_and_binary_forms(ray):
    ref = ray.put(1)
    assert isinstance(ref.hex(), str) and len(ref.hex()) == 2 * len(ref.binary())
    assert ray.ObjectRef(ref.binary()) == ref
    assert not ref.is_nil()
    assert ray.ObjectRef.nil().is_nil()


def test_job_and_task_of_a_ref(ray):
    @ray.remote
    def f():
        pass

    ref = f.remote()
    assert ref.job_id().hex() == ray.get_runtime_context().get_job_id()
    assert not ref.task_id().is_nil()
    assert f.remote().task_id() != ref.task_id()


def test_refs_are_dict_keys(ray):
    refs = [ray.put(i) for i in range(5)]
    names = {r: i for i, r in enumerate(refs)}
    assert [names[r] for r in refs] == list(range(5))


def test_refs_cannot_be_iterated_or_measured(ray):
    ref = ray.put([1, 2])
    with pytest.raises(TypeError):
        iter(ref)
    with pytest.raises(TypeError):
        len(ref)


def test_future_gives_the_value(ray):
    future = ray.put("later").future()
    assert isinstance(future, concurrent.futures.Future)
    assert future.result(timeout=60) == "later"


def test_future_carries_the_error(ray):
    @ray.remote
    def f():
        raise ValueError("in the future")

    with pytest.raises(ValueError, match="in the future"):
        f.remote().future().result(timeout=60)


def test_as_completed_over_futures(ray):
    @ray.remote
    def f(i):
        return i * i

    futures = [f.remote(i).future() for i in range(5)]
    got = {f.result() for f in concurrent.futures.as_completed(futures, timeout=60)}
    assert got == {0, 1, 4, 9, 16}


def test_done_callback_of_a_future_runs(ray):
    seen = []
    ray.put(3).future().add_done_callback(lambda f: seen.append(f.result()))
    assert eventually(lambda: seen == [3])


def test_futures_inside_of_a_task(ray):
    @ray.remote
    def f(i):
        time.sleep(0.01)
        return i

    @ray.remote
    def outer():
        futures = [f.remote(i).future() for i in range(20)]
        # the thread that sees to the futures and the one that waits for a value share one connection
        others = [ray.get(f.remote(i)) for i in range(20)]
        return [future.result(timeout=60) for future in futures], others

    assert ray.get(outer.remote(), timeout=60) == (list(range(20)), list(range(20)))


def test_gather_of_refs(ray):
    @ray.remote
    def f(i):
        return i

    async def main():
        return await asyncio.gather(*[f.remote(i) for i in range(5)])

    assert asyncio.run(main()) == list(range(5))


def test_awaiting_a_failed_ref_raises(ray):
    @ray.remote
    def f():
        raise LookupError("awaited")

    async def main():
        await f.remote()

    with pytest.raises(LookupError):
        asyncio.run(main())


def test_same_ref_awaited_twice(ray):
    ref = ray.put("again")

    async def main():
        return [await ref, await ref]

    assert asyncio.run(main()) == ["again", "again"]


def test_asyncio_wait_over_wrapped_futures(ray):
    @ray.remote
    def f(i):
        return i

    async def main():
        waiting = [asyncio.wrap_future(f.remote(i).future()) for i in range(3)]
        done, pending = await asyncio.wait(waiting, timeout=60)
        return sorted(t.result() for t in done), pending

    assert asyncio.run(main()) == ([0, 1, 2], set())


@needs_background
def test_event_loop_runs_on_while_a_ref_is_awaited(ray):
    @ray.remote
    def slow():
        time.sleep(0.5)
        return "slow"

    async def main():
        ticks = 0
        task = asyncio.ensure_future(_value(slow.remote()))
        while not task.done():
            ticks += 1
            await asyncio.sleep(0.01)
        return await task, ticks

    async def _value(ref):
        return await ref

    value, ticks = asyncio.run(main())
    assert value == "slow" and ticks > 1


def test_ref_survives_inside_an_object_after_its_name_is_gone(ray):
    outer = ray.put([ray.put(np.full(1 << 17, 4))])
    gc.collect()
    assert ray.get(ray.get(outer)[0])[0] == 4


def test_inner_ref_survives_its_outer_object(ray):
    outer = ray.put([ray.put("inner")])
    (inner,) = ray.get(outer)
    del outer
    gc.collect()
    time.sleep(0.2)
    assert ray.get(inner) == "inner"


def test_actor_keeps_an_object_alive_that_the_driver_dropped(ray):
    @ray.remote
    class Keeper:
        def keep(self, box):
            self.ref = box[0]

        def show(self):
            return int(ray.get(self.ref).sum())

    keeper = Keeper.remote()
    ref = ray.put(np.ones(1 << 17, dtype=int))
    ray.get(keeper.keep.remote([ref]))
    del ref
    gc.collect()
    time.sleep(0.3)
    assert ray.get(keeper.show.remote()) == 1 << 17


def test_object_put_by_a_task_outlives_the_task(ray):
    @ray.remote
    def make():
        return [ray.put(np.full(1 << 17, 2))]

    (ref,) = ray.get(make.remote())
    time.sleep(0.3)
    assert ray.get(ref)[0] == 2


def test_object_put_by_an_actor_is_fetched_by_the_driver(ray):
    @ray.remote
    class Maker:
        def make(self):
            return [ray.put("made by an actor")]

    maker = Maker.remote()
    assert ray.get(ray.get(maker.make.remote())[0]) == "made by an actor"


def test_argument_object_lives_until_the_task_has_run(ray):
    @ray.remote
    def slow():
        time.sleep(0.5)

    @ray.remote
    def use(a, _after):
        return int(a.sum())

    ref = ray.put(np.ones(1 << 17, dtype=int))
    out = use.remote(ref, slow.remote())
    del ref
    gc.collect()
    assert ray.get(out) == 1 << 17


def test_refs_captured_by_a_function_are_usable_in_it(ray):
    ref = ray.put("captured")

    @ray.remote
    def f():
        return ray.get(ref)

    assert ray.get(f.remote()) == "captured"


def test_refs_in_attributes_of_an_instance_travel(ray):
    class Holder:
        def __init__(self, ref):
            self.ref = ref

    @ray.remote
    def f(holder):
        return ray.get(holder.ref)

    assert ray.get(f.remote(Holder(ray.put("held")))) == "held"


def test_copy_of_a_ref_is_the_same_object(ray):
    ref = ray.put("x")
    assert copy.copy([ref]) == [ref]


def test_serializers_of_the_users_own_choice(ray):
    class Handle:
        def __init__(self, n):
            self.n = n
            self.gen = (i for i in range(n))

    ray.util.register_serializer(Handle, serializer=lambda h: h.n, deserializer=lambda n: Handle(n))
    try:
        assert ray.get(ray.put(Handle(3))).n == 3
    finally:
        ray.util.deregister_serializer(Handle)
    with pytest.raises(TypeError):
        ray.put(Handle(3))


def test_refs_and_ids_are_rebuilt_from_their_bytes(ray):
    ref = ray.put("rebuilt")
    same = ray.ObjectRef.from_binary(ref.binary())
    assert same == ref and ray.get(same) == "rebuilt"
    task = ref.task_id()
    assert ray.TaskID.from_binary(task.binary()) == task == ray.TaskID.from_hex(task.hex())
    assert task.job_id() == ref.job_id()


@pytest.mark.parametrize("given", ["text", 5, None], ids=["str", "int", "none"])
def test_ids_are_made_of_bytes_only(ray, given):
    for kind in (ray.ObjectRef, ray.TaskID, ray.ActorID, ray.NodeID):
        with pytest.raises(TypeError):
            kind(given)


def test_ids_have_numbers_random_ones_and_none(ray):
    assert ray.JobID.from_int(3).int() == 3
    assert ray.NodeID.from_random() != ray.NodeID.from_random()
    assert ray.ActorID.nil().is_nil() and not ray.ActorID.from_random().is_nil()


def test_actor_id_knows_its_job(ray):
    @ray.remote
    class A:
        pass

    assert A.remote()._actor_id.job_id == ray.put(1).job_id()


def test_owner_of_a_put_cannot_be_chosen(ray):
    with pytest.raises(ValueError):
        ray.put(1, _owner="somebody")
