"""Standing hubs for tests: in a place of their own, and gone at the end with all of their processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from programs import eventually

import skate
from skate import standing
from skate.engines.local.standing import _marked


@contextmanager
def hub_in(place: Path, monkeypatch: pytest.MonkeyPatch, **options: object) -> Iterator[standing.Hub]:
    """A standing hub whose folder is in `place`; nothing of it is left afterwards."""
    monkeypatch.setenv("TMPDIR", str(place))
    for name in ("SKATE_ADDRESS", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    hub = standing.start(**{"num_cpus": 2, **options})
    try:
        yield hub
    finally:
        skate.shutdown()
        standing.stop(hub, force=True)
        assert not _marked(hub.folder)
        assert eventually(lambda: not list(place.glob("skate-*")))


def rows(hub: standing.Hub, kind: str) -> list[dict[str, object]]:
    """A table of a hub's state."""
    from skate.engines.local.visit import Visit

    with Visit(hub.address) as visit:
        found: list[dict[str, object]] = visit.ask("state", kind)
    return found
