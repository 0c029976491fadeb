"""A recorded session, fed to a fresh hub, makes it decide the same; a trace that was tampered with does not."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

import skate
from skate.engines.local.requests import Requests
from skate.engines.local.rows import Actor, Row, Worker
from skate.engines.local.trace import LENGTH
from skate.testing.faults import FaultPlan, Kill, inject
from skate.testing.replay import Divergence, frames, replay


@skate.remote(max_retries=-1)
def double(i: int) -> int:
    return 2 * i


@skate.remote(max_retries=-1)
def nested(i: int) -> int:
    return skate.get(double.remote(i)) + 1


@skate.remote(max_retries=-1)
def large(i: int) -> bytes:
    return bytes([i]) * 200_000


@skate.remote(num_returns="streaming")
def count(n: int) -> object:
    yield from range(n)


@skate.remote(max_restarts=1, max_task_retries=1)
class Teller:
    def tell(self, i: int) -> int:
        return i

    def die(self) -> None:
        if skate.get_runtime_context().was_current_actor_reconstructed is False:
            os._exit(3)


def work() -> None:
    """Tasks, an actor, a stream, a cancel, and deaths."""
    assert skate.get([double.remote(i) for i in range(40)], timeout=60) == [2 * i for i in range(40)]
    assert skate.get([nested.remote(large.remote(1)) if i > 5 else nested.remote(i) for i in range(6)]) == [
        1,
        3,
        5,
        7,
        9,
        11,
    ]
    assert len(skate.get(large.remote(3), timeout=60)) == 200_000
    assert [skate.get(ref) for ref in count.remote(5)] == list(range(5))
    teller = Teller.remote()
    skate.get([teller.tell.remote(1), teller.die.remote(), teller.tell.remote(2)], timeout=60)
    ref = double.remote(1)
    skate.cancel(ref)
    skate.wait([ref], timeout=60)
    time.sleep(0.1)  # timers


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trace of such a session, in which a worker was killed too."""
    path = tmp_path_factory.mktemp("trace") / "session.trace"
    skate.init(engine="local", num_cpus=2, namespace="tests", log_to_driver=False)
    try:
        with inject(FaultPlan(kills=(Kill(1, 1),)), trace=path) as log:
            work()
    finally:
        skate.shutdown()
    assert [fault.kind for fault in log] == ["kill"]
    return path


def write(path: Path, found: list[list[object]]) -> Path:
    with path.open("wb") as file:
        for frame in found:
            body = msgspec.msgpack.encode(frame)
            file.write(LENGTH.pack(len(body)) + body)
    return path


def test_a_recorded_session_is_replayed_decision_for_decision(trace: Path) -> None:
    done = replay(trace)
    names = {frame[2] for frame in frames(trace) if frame[0] == "event"}
    assert {"submit", "spawn", "call", "receive", "died", "release", "tick", "cancel", "promise"} <= names
    assert done.events > 100 and done.commands > 80
    assert len(done.hub.history.calls) > 50


def test_a_trace_that_lacks_an_event_diverges_and_says_where(trace: Path, tmp_path: Path) -> None:
    found = list(frames(trace))
    at = next(i for i, frame in enumerate(found) if frame[0] == "event" and frame[2] == "died")
    end = next(i for i in range(at + 1, len(found)) if found[i][0] == "event")
    with pytest.raises(Divergence, match=r"At event \d+ \(.+\): .+"):
        replay(write(tmp_path / "lacks", found[:at] + found[end:]))


def test_a_hub_that_decides_otherwise_is_found_out(trace: Path) -> None:
    class Forgetful(Requests):
        def _restart(self, actor: Actor, worker: Worker, running: list[Row], how: str) -> None:
            self.bury(actor, b"it does not come back", running)

    with pytest.raises(Divergence, match="died"):
        replay(trace, Forgetful)


def test_a_trace_cut_short_is_replayed_as_far_as_it_goes(trace: Path, tmp_path: Path) -> None:
    whole = trace.read_bytes()
    cut = tmp_path / "cut"
    cut.write_bytes(whole[: len(whole) * 2 // 3])
    assert 50 < replay(cut).events < replay(trace).events


def test_what_is_no_trace_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(ValueError, match="empty"):
        replay(tmp_path / "empty")
    with pytest.raises(ValueError, match="no trace"):
        replay(write(tmp_path / "other", [["event", 0.0, "tick"]]))


def test_the_variable_records_and_the_module_replays(tmp_path: Path) -> None:
    path = tmp_path / "by-variable"
    program = "import skate; skate.init(num_cpus=1); skate.get(skate.remote(lambda: 1).remote())"
    subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "SKATE_TRACE": str(path)}, timeout=60, check=True
    )
    command = [sys.executable, "-m", "skate.testing.replay", str(path)]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "The same decisions" in said.stdout


def test_a_trace_cannot_begin_in_the_middle(session: None, tmp_path: Path) -> None:
    skate.get(double.remote(1))
    with pytest.raises(RuntimeError, match="right after init"), inject(trace=tmp_path / "late"):
        pass
