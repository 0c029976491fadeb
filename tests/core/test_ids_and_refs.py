"""Ids have Ray's binary forms and come back from them; references compare, hash and travel by what they name."""

from __future__ import annotations

import collections
import pickle
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skate.core import engine as engines
from skate.core import ids, refs
from skate.core.calls import fill_call, pack_call
from skate.core.refs import ActorID, JobID, NodeID, ObjectRef, PlacementGroupID, TaskID, WorkerID, make_ref
from skate.core.serialization import unpack

KEYS = st.integers(1, 2**62)
INDEXES = st.integers(0, 1000)


class Borrower:
    def __init__(self) -> None:
        self.borrowed: list[int] = []

    def borrow(self, key: int) -> None:
        self.borrowed.append(key)


@pytest.fixture(autouse=True)
def borrower(monkeypatch: pytest.MonkeyPatch) -> Iterator[Borrower]:
    made = Borrower()
    monkeypatch.setattr(engines, "_current", made)
    monkeypatch.setattr(refs, "released", collections.deque())
    yield made
    monkeypatch.undo()


# --------------------------------------------------------------------------- ids


@given(task=KEYS, index=INDEXES)
def test_an_object_id_holds_its_task_and_the_number_of_the_return(task, index):
    binary = ids.object_binary(task + index, index)
    assert len(binary) == 28
    assert binary[:24] == ids.task_binary(task)
    assert int.from_bytes(binary[24:], "little") == index + 1
    assert ids.parse_object(binary) == (task + index, index)


@given(KEYS)
def test_an_actor_id_comes_back(actor):
    assert ids.parse_actor(ids.actor_binary(actor)) == actor
    assert len(ids.actor_binary(actor)) == 16


@given(st.binary(max_size=40).filter(lambda b: len(b) not in (16, 28)))
def test_an_id_of_another_length_is_refused(binary):
    with pytest.raises(ValueError, match="28 bytes"):
        ids.parse_object(binary)
    with pytest.raises(ValueError, match="16 bytes"):
        ids.parse_actor(binary)


@given(client=st.integers(1, 2**22), counts=st.lists(st.integers(1, 50), max_size=30))
def test_ids_of_a_client_never_overlap_and_name_the_client(client, counts):
    source = ids.IdSource(client)
    taken: list[int] = []
    for count in counts:
        first = source.take(count)
        taken += range(first, first + count)
    assert len(set(taken)) == len(taken)
    assert all(key >> ids.CLIENT_SHIFT == client for key in taken)


def test_ids_of_one_driver_differ_from_those_of_another():
    before, mine = ids.salt(), ids.object_binary(5, 0)
    try:
        ids.use_salt(bytes(12))
        assert ids.object_binary(5, 0) != mine
    finally:
        ids.use_salt(before)
    assert ids.object_binary(5, 0) == mine


def test_node_and_worker_ids_have_56_digits_and_differ():
    assert {len(ids.node_hex(1)), len(ids.worker_hex(1))} == {56}
    assert len({ids.node_hex(1), ids.node_hex(2), ids.worker_hex(1), ids.worker_hex(2)}) == 4


@pytest.mark.parametrize(
    ("kind", "size"),
    [(TaskID, 24), (ActorID, 16), (JobID, 4), (NodeID, 28), (WorkerID, 28), (PlacementGroupID, 18)],
)
def test_opaque_ids_have_rays_forms(kind, size):
    one = kind(bytes(range(size)))
    assert one.size() == size and len(one.binary()) == size and one.hex() == bytes(range(size)).hex()
    assert kind.from_hex(one.hex()) == one and hash(kind.from_hex(one.hex())) == hash(one)
    assert repr(one) == f"{kind.__name__}({one.hex()})"
    assert pickle.loads(pickle.dumps(one)) == one
    assert one != kind.nil() and kind.nil().is_nil() and not one.is_nil()
    assert kind.nil().hex() == "ff" * size
    with pytest.raises(ValueError, match=str(size)):
        kind(bytes(size + 1))


def test_ids_of_different_kinds_are_never_equal():
    assert NodeID(bytes(28)) != WorkerID(bytes(28))
    assert TaskID(bytes(24)) != bytes(24)


# -------------------------------------------------------------------- references


@given(task=KEYS, index=INDEXES)
def test_a_reference_comes_back_from_its_binary_and_its_hex(task, index):
    ref = make_ref(task + index, index)
    for again in (ObjectRef(ref.binary()), ObjectRef.from_hex(ref.hex())):
        assert again == ref and hash(again) == hash(ref) and not (again != ref)  # noqa: SIM202  both operators
        assert (again.binary(), again.hex()) == (ref.binary(), ref.hex())
    assert repr(ref) == f"ObjectRef({ref.hex()})" and len(ref.hex()) == 56 and ref.size() == 28
    assert ref.task_id().binary() == ref.binary()[:24]
    assert ref.job_id() == JobID(ids.JOB_ID)


@given(one=KEYS, two=KEYS)
def test_references_are_equal_exactly_when_they_name_the_same(one, two):
    assert (make_ref(one) == make_ref(two)) is (one == two)
    assert len({make_ref(one), make_ref(one), make_ref(two)}) == len({one, two})
    assert make_ref(one) != one and make_ref(one) != "x"


def test_a_reference_made_from_its_binary_counts_itself(borrower):
    binary = make_ref(9).binary()
    ref = ObjectRef(binary)
    assert borrower.borrowed == [9] and not ref.is_nil()


def test_the_nil_reference_names_nothing_and_comes_back_as_nil():
    nil = ObjectRef.nil()
    assert nil.is_nil() and nil.hex() == "ff" * 28 and nil == ObjectRef.nil()
    assert nil != make_ref(1) and not make_ref(1).is_nil()
    assert ObjectRef.from_hex(nil.hex()).is_nil()
    assert ObjectRef(nil.binary()) == nil
    assert pickle.loads(pickle.dumps(nil)) == nil


def test_each_reference_that_dies_is_reported_once():
    one, two = make_ref(1), make_ref(1)
    del one
    assert list(refs.released) == [1]
    del two
    assert list(refs.released) == [1, 1]


def test_a_reference_that_could_not_be_made_reports_nothing():
    with pytest.raises(ValueError, match="28 bytes"):
        ObjectRef(b"short")
    assert list(refs.released) == []


def test_pickled_by_others_an_object_stays_and_the_reference_comes_back(borrower):
    ref = make_ref(77, 2)
    data = pickle.dumps(ref)
    assert borrower.borrowed == [77]
    again = pickle.loads(data)
    assert borrower.borrowed == [77, 77] and again == ref and again.binary() == ref.binary()


def test_what_one_thread_packs_is_not_listed_by_another(borrower):
    refs.collector.found = []
    try:
        other = threading.Thread(target=lambda: pickle.dumps(make_ref(5)))
        other.start()
        other.join()
        assert refs.collector.found == [] and borrower.borrowed == [5]
    finally:
        refs.collector.found = None


def test_without_a_session_a_reference_cannot_be_rebuilt_and_the_error_says_so(monkeypatch):
    binary = make_ref(3).binary()
    monkeypatch.setattr(engines, "_current", None)
    monkeypatch.setattr(engines, "_starter", None)
    with pytest.raises(RuntimeError, match=r"skate\.init"):
        ObjectRef(binary)


# ------------------------------------------------------------------------- calls

ARGUMENT = st.integers() | st.text() | st.lists(st.integers(), max_size=3) | KEYS.map(lambda key: ("ref", key))


def with_refs(argument: Any) -> Any:
    return make_ref(argument[1]) if isinstance(argument, tuple) else argument


@given(st.lists(ARGUMENT, max_size=5), st.dictionaries(st.text(min_size=1, max_size=5), ARGUMENT, max_size=4))
def test_a_call_comes_back_with_its_references_replaced_by_values(args, kwargs):
    packed, deps = pack_call(tuple(map(with_refs, args)), {name: with_refs(arg) for name, arg in kwargs.items()})
    expected = [a[1] for a in args if isinstance(a, tuple)] + [a[1] for a in kwargs.values() if isinstance(a, tuple)]
    assert deps == tuple(expected)
    assert packed.refs == (), "a dependency is no reference inside the arguments"
    found = fill_call(unpack(packed.to_bytes()), [f"value of {key}" for key in deps])

    def value(argument: Any) -> Any:
        return f"value of {argument[1]}" if isinstance(argument, tuple) else argument

    assert found == (tuple(map(value, args)), {name: value(arg) for name, arg in kwargs.items()})
    assert list(found[1]) == list(kwargs), "the order of keyword arguments is kept"


def test_references_deeper_inside_an_argument_stay_references():
    inner = make_ref(4)
    packed, deps = pack_call(([inner],), {"d": {"x": inner}})
    assert deps == () and set(packed.refs) == {4}
    args, kwargs = fill_call(unpack(packed.to_bytes()), [])
    assert args == ([inner],) and kwargs == {"d": {"x": inner}}


def test_packing_a_call_changes_neither_its_arguments_nor_later_calls():
    ref = make_ref(4)
    args, kwargs = (ref, 1), {"x": ref}
    for _ in range(2):
        packed, deps = pack_call(args, kwargs)
        assert args == (ref, 1) and kwargs == {"x": ref} and deps == (4, 4)
    data = packed.to_bytes()
    assert fill_call(unpack(data), [1, 2]) == fill_call(unpack(data), [1, 2]) == ((1, 1), {"x": 2})


def test_a_call_without_arguments_is_the_same_few_bytes():
    assert pack_call((), {}) == pack_call((), {})
    assert fill_call(unpack(pack_call((), {}).packed.to_bytes()), []) == ((), {})


def test_the_number_of_values_must_be_that_of_the_slots():
    call = unpack(pack_call((make_ref(1), make_ref(2)), {}).packed.to_bytes())
    with pytest.raises(ValueError, match="zip"):
        fill_call(call, ["one"])
