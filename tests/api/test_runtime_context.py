"""`get_runtime_context` in the driver, in tasks and in actors."""

from __future__ import annotations

from typing import Any

import pytest

import skate


def test_driver(session: None) -> None:
    context = skate.get_runtime_context()
    assert int(context.get_job_id(), 16) > 0 and context.namespace == "tests"
    assert len(context.get_node_id()) == 56 and len(context.get_worker_id()) == 56
    assert context.node_id.hex() == context.get_node_id()
    nothing = (
        context.get_task_id(),
        context.get_task_name(),
        context.get_task_function_name(),
        context.get_actor_id(),
        context.get_actor_name(),
        context.get_placement_group_id(),
    )
    assert nothing == (None,) * 6
    assert context.get() == {"job_id": context.job_id, "node_id": context.node_id, "namespace": "tests"}
    assert context.runtime_env == {} and context.get_runtime_env_string() == "{}"
    assert context.current_placement_group_id.is_nil()


def test_driver_is_no_task_and_no_actor(session: None) -> None:
    context: Any = skate.get_runtime_context()
    for name in ("task_id", "actor_id", "was_current_actor_reconstructed"):
        with pytest.raises(AssertionError):
            getattr(context, name)
    with pytest.raises(AssertionError):
        context.get_assigned_resources()
    for ask in (lambda: context.current_actor, context.is_canceled):
        with pytest.raises(RuntimeError):
            ask()


def test_task(session: None) -> None:
    @skate.remote(num_gpus=1, name="named")
    def look() -> dict[str, Any]:
        context = skate.get_runtime_context()
        return {
            "task": context.get_task_id(),
            "name": context.get_task_name(),
            "actor": context.actor_id,
            "resources": context.get_assigned_resources(),
            "same": context.get_accelerator_ids()["GPU"] == [str(i) for i in skate.get_gpu_ids()],
            "gpus": len(skate.get_gpu_ids()),
            "cancelled": context.is_canceled(),
        }

    ref = look.remote()
    assert skate.get(ref) == {
        "task": ref.task_id().hex(),
        "name": "named",
        "actor": None,
        "resources": {"CPU": 1, "GPU": 1},
        "same": True,
        "gpus": 1,
        "cancelled": False,
    }


def test_actor(session: None) -> None:
    class Actor:
        def look(self) -> dict[str, Any]:
            context = skate.get_runtime_context()
            return {
                "id": context.get_actor_id(),
                "name": context.get_actor_name(),
                "me": context.current_actor,
                "restarted": context.was_current_actor_reconstructed,
                "actor": context.actor_id,
            }

    actor: Any = skate.remote(Actor).options(name="it").remote()
    found = skate.get(actor.look.remote())
    assert found == {
        "id": actor._actor_id.hex(),
        "name": "it",
        "me": actor,
        "restarted": False,
        "actor": actor._actor_id,
    }
    nameless: Any = skate.remote(Actor).remote()
    assert skate.get(nameless.look.remote())["name"] == ""
