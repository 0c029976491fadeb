"""What a hub knows of drivers that have gone: it is what it was before they came, but for bounded rings."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from msgspec.structs import replace
from programs import eventually, output_of

from skate.core.folder import SessionFolder
from skate.core.settings import Settings
from skate.engines.local.boot import launch
from skate.engines.local.engine import LocalEngine, start

REMEMBERED = {
    "history.actors",
    "history.calls",
    "history.errors",
    "history.events",
    "history.workers",
    "groups.gone",
    "host.preloaded",
    "jobs.jobs",
    "logbook.sizes",
    "timers._heap",
    "hub.timers",
}
"""What is remembered on purpose, up to a number."""
DRIVERS = """
    from skate.util.placement_group import placement_group, remove_placement_group
    from skate.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    for number in range(int(sys.argv[2]), int(sys.argv[3])):
        ray.init(address=sys.argv[1], namespace=f"n{number}", runtime_env={"env_vars": {"N": str(number)}})

        @ray.remote
        def same(x, number=number): return x, number

        @ray.remote
        def fail(number=number): raise ValueError(number)

        @ray.remote
        def count(n, number=number): yield from range(n)

        @ray.remote
        class Actor:
            number = number
            def same(self, x): return x, self.number

        assert ray.get([same.remote(i) for i in range(20)], timeout=60) == [(i, number) for i in range(20)]
        actor, named = Actor.remote(), Actor.options(name="named", lifetime="detached").remote()
        assert ray.get(actor.same.remote(1), timeout=60) == (1, number)
        large = ray.put(b"x" * 200_000)
        assert ray.get(same.options(num_cpus=0.5, name=f"job {number}").remote(large), timeout=60)[1] == number
        for keep in (True, False):
            group = placement_group([{"CPU": 0.1}])
            inside = same.options(num_cpus=0.1, scheduling_strategy=PlacementGroupSchedulingStrategy(group, 0))
            assert ray.get(inside.remote(2), timeout=60) == (2, number)
            if not keep:
                remove_placement_group(group)
        try:
            ray.get(fail.remote(), timeout=60)
        except ValueError:
            pass
        items = count.options(num_returns="streaming").remote(5)
        assert ray.get(next(items), timeout=60) == 0
        left = [same.remote(i) for i in range(20)]
        ray.kill(named)
        ray.shutdown()
    if number == 3:
        ray.init(address=sys.argv[1])
        unfinished = ray.remote(lambda: time.sleep(100)).remote()
        print("all", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def hub() -> Iterator[LocalEngine]:
    """A hub without a driver of its own, as a standing one, but in this process, where it can be looked into."""
    folder = SessionFolder()
    boot = launch(80_000_000)
    engine = start(
        replace(Settings(), folder=folder.path, alone=True, num_cpus=2, object_store_memory=80_000_000), boot
    )
    ended = threading.Event()

    def run() -> None:
        while not ended.is_set():
            engine.pump.work(None)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield engine
    finally:
        ended.set()
        os.eventfd_write(engine.pump.bell, 1)
        thread.join()
        engine.close()
        folder.remove()


def sizes(engine: LocalEngine) -> dict[str, int]:
    """How many entries each table of the hub has."""
    host, hub = engine.host, engine.hub
    owners: dict[str, Any] = {
        "hub": hub,
        "host": host,
        "scheduler": hub.scheduler,
        "node": hub.scheduler.head,
        "groups": hub.scheduler.groups,
        "history": hub.history,
        "timers": hub.timers,
        "jobs": host.jobs,
        "door": host.door,
        "pump": host.pump,
        "logbook": host.logbook,
        "spills": host.spills,
        "environments": host.environments,
    }
    found = {}
    with engine.lock:
        for owner, thing in owners.items():
            names = vars(thing) if hasattr(thing, "__dict__") else thing.__slots__
            for name in names:
                value = getattr(thing, name)
                if hasattr(value, "__len__") and not isinstance(value, str):
                    found[f"{owner}.{name}"] = len(value)
        found["arena in use"] = engine.arena.used
    return {name: size for name, size in found.items() if name not in REMEMBERED}


def test_nothing_is_left_of_drivers_that_have_gone(hub: LocalEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SKATE_ADDRESS", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    address = f"unix:{hub.folder}"
    before = sizes(hub)
    assert before["hub.definitions"] == before["scheduler.speed"] == before["hub.rows"] == 0
    output_of(DRIVERS, address, "0", "3")
    with pytest.raises(AssertionError, match="status -9\nall"):
        output_of(DRIVERS, address, "3", "4")
    same = eventually(lambda: sizes(hub) == before)
    after = sizes(hub)
    assert same, {name: (before.get(name), size) for name, size in after.items() if size != before.get(name)}
    assert len(hub.host.jobs.jobs) == 5
