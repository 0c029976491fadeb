"""What a hub without a driver of its own forgets when its drivers go."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from skate.engines.local.departures import _forget_definitions


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
