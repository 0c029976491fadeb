"""get, put, wait, cancel, kill and their friends: what they take and what they refuse."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

import skate
from skate.exceptions import RaySystemError


@skate.remote
def numbers(count: int) -> Iterator[int]:
    yield from range(count)


@skate.remote
class Actor:
    def f(self) -> int:
        return 1


@pytest.mark.parametrize("value", [17, None, (), {1}, {"a": 1}, "x"], ids=repr)
def test_get_of_something_else_is_a_value_error(session: None, value: Any) -> None:
    with pytest.raises(ValueError, match="get takes an ObjectRef or a list"):
        skate.get(value)


def test_get_of_a_tuple_of_refs_is_a_value_error(session: None) -> None:
    with pytest.raises(ValueError):
        skate.get((skate.put(1),))


def test_get_of_a_list_with_something_else_is_a_type_error(session: None) -> None:
    with pytest.raises(TypeError, match="holds 2"):
        skate.get([skate.put(1), 2])  # type: ignore[list-item]


def test_get_of_nothing_and_of_a_generator(session: None) -> None:
    empty: list[skate.ObjectRef[int]] = []
    assert skate.get(empty) == []
    stream = numbers.remote(1)
    assert skate.get(stream) is stream


def test_timeout_of_minus_one_means_none(session: None) -> None:
    assert skate.get(skate.put(1), timeout=-1) == 1
    with pytest.raises(ValueError, match="negative"):
        skate.get(skate.put(1), timeout=-2)


def test_put_refuses_references_and_names_what_cannot_be_pickled(session: None) -> None:
    with pytest.raises(TypeError, match="names a stored value"):
        skate.put(skate.put(1))
    with pytest.raises(TypeError, match=r"\['x'\] -> \[1\] \(a _thread\.lock\)"):
        skate.put({"x": [1, threading.Lock()]})
    inner = skate.get(skate.put([skate.put(1)]))[0]
    assert skate.get(inner) == 1


def test_wait_splits_in_order(session: None) -> None:
    refs = [skate.put(i) for i in range(3)]
    assert skate.wait(refs, num_returns=3) == (refs, [])
    assert skate.wait(refs, num_returns=2)[1] == refs[2:]
    assert skate.wait([], num_returns=5) == ([], [])


def test_wait_refuses(session: None) -> None:
    ref: Any = skate.put(1)
    wrong: Any
    for wrong in (ref, (ref,), {ref}, None, numbers.remote(1)):
        with pytest.raises(TypeError, match="wait takes a list"):
            skate.wait(wrong)
    with pytest.raises(TypeError, match="holds 2"):
        skate.wait([ref, 2])
    with pytest.raises(ValueError, match="duplicates"):
        skate.wait([ref, ref])
    for count in (0, -1, 2):
        with pytest.raises(ValueError, match="num_returns"):
            skate.wait([ref], num_returns=count)
    with pytest.raises(ValueError, match="negative"):
        skate.wait([ref], timeout=-1)


def test_wait_takes_generators_and_gives_them_back(session: None) -> None:
    stream, ref = numbers.remote(2), skate.put(1)
    ready, pending = skate.wait([stream, ref], num_returns=2)
    assert ready[0] is stream and ready[1] == ref and not pending
    with pytest.raises(ValueError, match="duplicates"):
        skate.wait([stream, stream])
    assert [skate.get(item) for item in stream] == [0, 1]
    assert skate.wait([stream])[0] == [stream]


def test_cancel_and_kill_take_their_own_kind(session: None) -> None:
    actor: Any = skate.remote(Actor.__ray_actor_class__).remote()  # type: ignore[attr-defined]
    wrong: Any
    for wrong in ("x", [skate.put(1)], actor):
        with pytest.raises(TypeError, match="cancel takes an ObjectRef"):
            skate.cancel(wrong)
    for wrong in ("x", skate.put(1), Actor):
        with pytest.raises(ValueError, match="kill takes an actor's handle"):
            skate.kill(wrong)
    skate.cancel(skate.put(1))
    skate.cancel(numbers.remote(1))


@pytest.mark.parametrize(
    ("arguments", "error"),
    [(("",), ValueError), ((None,), ValueError), ((5,), TypeError), (("a", ""), ValueError), (("a", 5), TypeError)],
    ids=repr,
)
def test_get_actor_refuses(session: None, arguments: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        skate.get_actor(*arguments)


def test_the_cluster_cannot_be_asked_without_a_session() -> None:
    for ask in (skate.cluster_resources, skate.available_resources, skate.nodes):
        with pytest.raises(RaySystemError, match="init"):
            ask()


def test_the_cluster_tells_what_it_has(session: None) -> None:
    assert skate.cluster_resources()["CPU"] == 4 == skate.available_resources()["CPU"]
    (node,) = skate.nodes()
    assert node["Alive"] and node["alive"] and node["Resources"]["GPU"] == 2
    assert node["NodeID"] == skate.get_runtime_context().get_node_id()
    assert skate.get_gpu_ids() == []
