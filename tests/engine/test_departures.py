"""What a hub without a driver of its own forgets when its drivers go."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from skate.core import env_cache
from skate.engines.local.departures import _forget_definitions
from skate.engines.local.environments import Environments, Ground


class Departed:
    """As much of a job as this needs."""

    def __init__(self, *exports: bytes) -> None:
        self.exports = set(exports)


def test_functions_go_with_the_last_job_that_sent_them_unless_a_call_is_left() -> None:
    gone, also_gone = Departed(b"own", b"shared", b"queued", b"remembered"), Departed(b"own", b"twice")
    alive = Departed(b"shared")
    call, recipe = (SimpleNamespace(spec=SimpleNamespace(function=name)) for name in (b"queued", b"remembered"))
    names = (b"own", b"shared", b"queued", b"remembered", b"twice", b"hubs")
    hub: Any = SimpleNamespace(
        definitions=dict.fromkeys(names),
        rows={1: call, 2: SimpleNamespace(spec=None)},
        recipes={1: recipe},
        scheduler=SimpleNamespace(speed=dict.fromkeys(names[1:], 5.0)),
    )
    jobs: Any = SimpleNamespace(jobs={1: gone, 2: also_gone, 3: alive})
    over: Any = {gone, also_gone}
    _forget_definitions(hub, over, jobs)
    assert set(hub.definitions) == {b"shared", b"queued", b"remembered", b"hubs"}
    assert hub.scheduler.speed.keys() == hub.definitions.keys()
    hub.rows.clear()  # the call has ended, and the last driver goes
    _forget_definitions(hub, over | {alive}, jobs)
    assert set(hub.definitions) == {b"remembered", b"hubs"}


def test_what_no_environment_needs_any_more_may_be_cleared_from_the_cache(tmp_path: Path) -> None:
    """A lock keeps it there: those of environments that are gone are given up, unless an interpreter still runs."""

    def recipe(key: str) -> Any:
        return SimpleNamespace(needs=[SimpleNamespace(key=key)])

    environments = Environments(None)  # type: ignore[arg-type]
    for key in ("asked", "running", "gone"):
        lock = environments.locks[key] = env_cache.Lock(str(tmp_path), key)
        assert lock.take(alone=False, wait=False)
        environments.made[key] = {}
    ground = environments.grounds["x"] = Ground("x")
    ground.recipe = recipe("asked")
    nursery: Any = SimpleNamespace(recipe=recipe("running"))
    environments.nurseries["y"] = nursery
    environments._let_go()
    assert environments.locks.keys() == environments.made.keys() == {"asked", "running"}
    other = env_cache.Lock(str(tmp_path), "gone")
    assert other.take(alone=True, wait=False)
    for lock in (other, *environments.locks.values()):
        lock.close()
