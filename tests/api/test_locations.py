"""Where objects lie, and what the session is called, on the engines that live here."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

import skate
from skate.experimental import get_local_object_locations, get_object_locations

LARGE = 1 << 20


@pytest.fixture(params=["local", "inline"])
def engine(request: pytest.FixtureRequest) -> Iterator[str]:
    skate.init(engine=request.param, num_cpus=2)
    yield request.param
    skate.shutdown()


def test_locations_of_small_large_and_unborn_objects(engine: str) -> None:
    @skate.remote
    def bytes_of(size: int) -> bytes:
        return bytes(size)

    large, small, made = skate.put(bytes(LARGE)), skate.put(1), bytes_of.remote(LARGE)
    skate.get(made)
    found = get_object_locations([large, small, made])
    assert list(found) == [large, small, made] and found == get_local_object_locations([large, small, made])
    here = [skate.get_runtime_context().get_node_id()] if engine == "local" else []
    for ref in (large, made):
        assert found[ref]["node_ids"] == here and found[ref]["object_size"] >= LARGE
    assert found[small]["node_ids"] == [] and found[small]["did_spill"] is False
    assert found[small]["object_size"] < 100


def test_an_object_that_is_being_made_has_no_size_yet() -> None:
    @skate.remote
    def wait_for(refs: list[skate.ObjectRef[Any]]) -> None:
        skate.get(refs)

    @skate.remote
    class Gate:
        async def wait(self) -> None:
            import asyncio

            await asyncio.sleep(3600)

    skate.init(engine="local", num_cpus=1)
    try:
        gate = Gate.remote()  # type: ignore[attr-defined]
        pending = wait_for.remote([gate.wait.remote()])
        assert get_object_locations([pending]) == {pending: {"node_ids": [], "object_size": None, "did_spill": False}}
    finally:
        skate.shutdown()


def test_copies_on_several_nodes_are_told() -> None:
    skate.init(engine="local", nodes=[{"num_cpus": 1}, {"num_cpus": 1, "resources": {"there": 1}}])

    @skate.remote(resources={"there": 1})
    def large() -> bytes:
        return bytes(LARGE)

    try:
        there = large.remote()
        skate.wait([there], fetch_local=False)
        node = next(row["NodeID"] for row in skate.nodes() if "there" in row["Resources"])
        assert get_object_locations([there])[there]["node_ids"] == [node]
    finally:
        skate.shutdown()


def test_locations_want_references_and_a_session(engine: str) -> None:
    with pytest.raises(TypeError, match="references are wanted, not int"):
        get_object_locations([1])  # type: ignore[list-item]
    assert get_object_locations([]) == {}
    skate.shutdown()
    with pytest.raises(RuntimeError, match="No session"):
        get_object_locations([])
    with pytest.raises(RuntimeError, match="No session"):
        skate.runtime_context.RuntimeContext().get_session_name()


def test_a_session_has_one_name_and_place_in_all_its_processes(engine: str) -> None:
    @skate.remote
    def told() -> tuple[str, str]:
        here = skate.get_runtime_context()
        return here.get_session_name(), here.get_temp_dir()

    here = skate.get_runtime_context()
    name, place = here.get_session_name(), here.get_temp_dir()
    assert skate.get(told.remote()) == (name, place)
    assert name.startswith("skate-") and os.path.isdir(os.path.join(place, name))
