"""Looking into a session of processes: times, deaths, events, logs, lines, stacks, all of it bounded."""

from __future__ import annotations

import itertools
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import skate
from skate.core import engine as engines
from skate.testing.contract.tools import eventually
from skate.util import state
from skate.util.stacks import stacks
from skate.util.state.exception import RayStateApiException, ServerUnavailable


@pytest.fixture
def small() -> Iterator[None]:
    """A session that keeps little."""
    config = {
        "task_events_max_num_task_in_gcs": 100,
        "maximum_gcs_dead_worker_cached_count": 3,
        "events_kept": 5,
        "log_bytes": 2_000,
        "event_file": 1,
    }
    skate.init(engine="local", num_cpus=2, _system_config=config)
    yield
    skate.shutdown()


@pytest.fixture
def sited() -> Iterator[None]:
    """A session that records lines."""
    skate.init(engine="local", num_cpus=2, _system_config={"record_ref_creation_sites": True})
    yield
    skate.shutdown()


def rows(name: str) -> list[state.StateApiClient]:
    return state.list_tasks(filters=[("name", "=", name)], detail=True)  # type: ignore[return-value]


# ------------------------------------------------------------------------------- times


def test_times_are_those_of_the_call(session: None) -> None:
    @skate.remote
    def sleeps(seconds: float) -> float:
        time.sleep(seconds)
        return time.time()

    skate.get(sleeps.remote(0))
    began = time.time()
    ref = sleeps.options(name="timed").remote(0.2)
    sent = time.time()
    ended = skate.get(ref)
    got = time.time()
    (row,) = rows("timed")
    created, start, end = (row[f"{name}_time_ms"] / 1e3 for name in ("creation", "start", "end"))
    exact = 0.02  # seconds between the clocks of two processes
    assert began - exact <= created <= sent + exact and created <= start + exact
    assert ended - exact <= end <= got + exact
    assert 0.195 <= end - start <= got - began + exact


def test_times_are_right_though_the_driver_looks_late(session: None) -> None:
    """The worker keeps the time: the driver holds the interpreter and reads nothing meanwhile."""

    @skate.remote
    def returns_when() -> float:
        return time.time()

    skate.get(returns_when.remote())
    ref = returns_when.options(name="late").remote()
    sum(range(3_000_000))
    time.sleep(1)
    looked = time.time()
    ended = skate.get(ref)
    (row,) = rows("late")
    assert ended - 0.02 <= row["end_time_ms"] / 1e3 < max(ended + 0.02, looked - 0.5)


def test_calls_of_one_worker_do_not_overlap_in_the_timeline(one_cpu: None) -> None:
    @skate.remote
    def short() -> None:
        return None

    skate.get([short.remote() for _ in range(500)])
    spans: dict[int, list[tuple[float, float]]] = {}
    for event in skate.timeline() or []:
        if event["ph"] == "X":
            spans.setdefault(event["tid"], []).append((event["ts"], event["ts"] + event["dur"]))
    assert sum(map(len, spans.values())) == 500
    for calls in spans.values():
        calls.sort()
        assert all(later[0] >= earlier[1] - 1 for earlier, later in itertools.pairwise(calls))


# ------------------------------------------------------------------------------- bounds


def test_history_is_bounded(small: None) -> None:
    @skate.remote
    def one(number: int) -> int:
        return number

    for _ in range(10):
        skate.get([one.remote(number) for number in range(200)])
    assert len(state.list_tasks(limit=10_000)) == 100


def test_dead_workers_and_events_are_bounded(small: None) -> None:
    @skate.remote(max_retries=0)
    def dies() -> None:
        os._exit(3)

    for _ in range(8):
        with pytest.raises(skate.exceptions.WorkerCrashedError):
            skate.get(dies.remote())
    dead = [row for row in state.list_workers(detail=True) if not row.is_alive]
    assert len(dead) == 3 and all(row.exit_type == "SYSTEM_ERROR" for row in dead)
    assert "code 3" in dead[0].exit_detail
    assert len(state.list_cluster_events()) == 5


def test_what_ended_long_ago_still_has_its_pid(small: None) -> None:
    @skate.remote(max_calls=1)
    def pid() -> int:
        return os.getpid()

    pids = skate.get([pid.options(name="once").remote() for _ in range(6)])
    assert sorted(row["worker_pid"] for row in rows("once")) == sorted(pids)


# ------------------------------------------------------------------------------- events


def test_events_tell_of_deaths_restarts_and_what_can_never_run(session: None) -> None:
    @skate.remote(max_restarts=1)
    class Mortal:
        def die(self) -> None:
            os._exit(1)

        def pid(self) -> int:
            return os.getpid()

    @skate.remote(num_cpus=100)
    def never() -> None:
        return None

    actor = Mortal.remote()
    skate.get(actor.pid.remote())
    for _ in range(2):
        with pytest.raises(skate.exceptions.RayActorError):
            skate.get(actor.die.remote())
    ref = never.remote()
    found = state.list_cluster_events(detail=True)
    kinds = {(row.severity, row.source_type) for row in found}
    expected = {("ERROR", "WORKER"), ("WARNING", "ACTOR"), ("ERROR", "ACTOR"), ("WARNING", "SCHEDULER")}
    assert kinds >= expected, found
    assert "can never run" in found[0].message  # the newest first
    assert len({row.event_id for row in found}) == len(found)
    assert state.list_cluster_events(filters=[("severity", "=", "error")], limit=1)[0].severity == "ERROR"
    skate.cancel(ref)


def test_events_go_to_a_file_where_that_is_asked_for(small: None) -> None:
    @skate.remote(max_retries=0)
    def dies() -> None:
        os._exit(3)

    with pytest.raises(skate.exceptions.WorkerCrashedError):
        skate.get(dies.remote())
    (row,) = engines.current().state("session")
    lines = (Path(row["folder"]) / "logs" / "events.jsonl").read_text().splitlines()
    assert [json.loads(line)["source"] for line in lines] == ["WORKER"]


def test_ends_on_purpose_are_no_errors(session: None) -> None:
    @skate.remote
    class Quiet:
        def f(self) -> int:
            return 1

    actor = Quiet.remote()
    skate.get(actor.f.remote())
    skate.kill(actor)
    assert eventually(lambda: any(not row.is_alive for row in state.list_workers()))
    (row,) = [row for row in state.list_workers() if not row.is_alive]
    assert row.exit_type == "INTENDED_SYSTEM_EXIT" and state.list_cluster_events() == []


# --------------------------------------------------------------------------------- logs


@skate.remote
class Talker:
    """Writes what it is told to."""

    def say(self, text: str, end: str = "\n") -> int:
        print(text, end=end)
        return os.getpid()

    def moan(self, text: str) -> None:
        os.write(2, text.encode())


def node() -> str:
    found: str = skate.nodes()[0]["NodeID"]
    return found


def test_output_is_found_by_actor_task_pid_and_name(session: None) -> None:
    actor = Talker.remote()
    ref = actor.say.remote("hello")
    pid = skate.get(ref)
    skate.get(actor.moan.remote("ow\n"))
    ident = actor._actor_id.hex()
    assert eventually(lambda: "".join(state.get_log(actor_id=ident)) == "hello\n")
    assert "".join(state.get_log(task_id=ref.task_id().hex())) == "hello\n"
    assert "".join(state.get_log(pid=pid, node_id=node())) == "hello\n"
    assert "".join(state.get_log(pid=pid, suffix="err")) == "ow\n"
    names = state.list_logs(node_id=node())
    assert len(names["worker_out"]) == len(names["worker_err"]) == 1
    assert "".join(state.get_log(filename=names["worker_out"][0])) == "hello\n"
    assert state.list_logs(node_id=node(), glob_filter="*.err") == {"worker_err": names["worker_err"]}


def test_output_is_bounded_and_its_end_is_kept(small: None) -> None:
    actor = Talker.remote()
    skate.get([actor.say.remote(f"line {number:06}") for number in range(2_000)])
    text = ""

    def whole() -> bool:
        nonlocal text
        text = "".join(state.get_log(actor_id=actor._actor_id.hex()))
        return text.endswith("line 001999\n")

    assert eventually(whole) and len(text) <= 2_000
    tail = "".join(state.get_log(actor_id=actor._actor_id.hex(), tail=3))
    assert tail == "line 001997\nline 001998\nline 001999\n"


def test_output_is_followed_until_the_worker_ends(session: None) -> None:
    actor = Talker.remote()
    skate.get(actor.say.remote("first"))
    ident = actor._actor_id.hex()
    assert eventually(lambda: "".join(state.get_log(actor_id=ident)) == "first\n")
    heard: list[str] = []
    thread = threading.Thread(
        target=lambda: heard.extend(state.get_log(actor_id=ident, follow=True, _interval=0.02)), daemon=True
    )
    thread.start()
    assert eventually(lambda: "".join(heard) == "first\n")
    skate.get(actor.say.remote("second"))
    assert eventually(lambda: "".join(heard) == "first\nsecond\n")
    skate.kill(actor)
    thread.join(90)
    assert not thread.is_alive()


def test_colours_can_be_left_out_and_bytes_be_had(session: None) -> None:
    actor = Talker.remote()
    skate.get(actor.say.remote("\x1b[31mred\x1b[0m \udcff"))
    ident = actor._actor_id.hex()
    assert eventually(lambda: b"red" in b"".join(state.get_log(actor_id=ident, encoding=None)))
    assert "".join(state.get_log(actor_id=ident, filter_ansi_code=True, errors="replace")).startswith("red ")


@pytest.mark.parametrize(
    "arguments",
    [{"actor_id": "00" * 16}, {"task_id": "00" * 24}, {"pid": 1}, {"filename": "nope"}, {"filename": "../lock"}],
)
def test_logs_of_nobody_are_refused(session: None, arguments: dict[str, object]) -> None:
    with pytest.raises(RayStateApiException):
        list(state.get_log(**arguments))  # type: ignore[arg-type]


def test_log_of_nothing_in_particular_is_refused(session: None) -> None:
    with pytest.raises(ValueError, match="filename"):
        list(state.get_log())
    with pytest.raises(AssertionError):
        state.list_logs()
    with pytest.raises(RayStateApiException, match="node"):
        state.list_logs(node_id="00" * 28)


# -------------------------------------------------------------------------------- lines


def test_objects_name_the_lines_that_made_them(sited: None) -> None:
    @skate.remote
    def makes() -> list[skate.ObjectRef[int]]:
        return [skate.put(5)]

    inner = skate.get(makes.remote())
    mine = skate.put(b"here")
    sites = {row.object_id: row.call_site for row in state.list_objects()}
    assert sites[mine.hex()].startswith(f"(put object)  | {__file__}:test_objects_name_the_lines_that_made_them:")
    assert f"{__file__}:makes:" in sites[inner[0].hex()]
    summary = state.summarize_objects()["cluster"]
    assert summary["callsite_enabled"] and summary["total_objects"] == len(sites)


def test_lines_of_objects_that_are_gone_are_dropped(sited: None) -> None:
    for number in range(5_000):
        skate.put(number)
        if not number % 500:
            engines.current().state("names")  # counts what was dropped
    hub = engines.current().hub  # type: ignore[attr-defined]
    assert len(hub.history.sites) < 3_500


def test_who_holds_an_object_is_told_apart(session: None) -> None:
    @skate.remote
    class Keeper:
        def keep(self, refs: list[skate.ObjectRef[bytes]]) -> int:
            self.refs = refs
            return os.getpid()

    keeper = Keeper.remote()
    ref = skate.put(b"x" * 1_000_000)
    pid = skate.get(keeper.keep.remote([ref]))

    key = ref.hex()

    def holders() -> list[tuple[str, int]]:
        return sorted((row.type, row.pid) for row in state.get_objects(key))

    assert eventually(lambda: holders() == [("DRIVER", os.getpid()), ("WORKER", pid)])
    del ref
    assert eventually(lambda: holders() == [("WORKER", pid)])


# ------------------------------------------------------------------------------- stacks


def test_a_worker_that_hangs_shows_where(session: None) -> None:
    @skate.remote
    def hangs_here() -> None:
        threading.Event().wait(30)

    ref = hangs_here.options(name="hangs").remote()
    assert eventually(lambda: [row["state"] for row in rows("hangs")] == ["RUNNING"])
    (row,) = rows("hangs")
    for _ in range(2):  # at first it may be about to begin
        assert eventually(lambda: "hangs_here" in stacks([row["worker_pid"]], py_spy=False)[row["worker_pid"]])
    assert "test_a_worker_that_hangs_shows_where" in stacks()[os.getpid()]
    skate.cancel(ref, force=True)


def test_processes_of_others_are_left_alone(session: None) -> None:
    import subprocess

    with subprocess.Popen(["sleep", "30"]) as other:
        try:
            assert "does not answer" in stacks([other.pid], py_spy=False)[other.pid]
            assert other.poll() is None
        finally:
            other.kill()
    assert stacks([other.pid], py_spy=False) == {other.pid: "It has ended."}


# ------------------------------------------------------------------------------- others


def test_without_a_session_there_is_nobody_to_ask() -> None:
    with pytest.raises(ServerUnavailable):
        state.list_tasks()
    with pytest.raises(RuntimeError, match="init"):
        skate.timeline()


def test_an_error_that_only_workers_can_load_is_told_all_the_same(session: None, tmp_path: Path) -> None:
    (tmp_path / "only_there.py").write_text("class Odd(Exception):\n    pass\n")

    @skate.remote(runtime_env={"env_vars": {"PLACE": str(tmp_path)}})
    def raises() -> None:
        import sys

        sys.path.insert(0, os.environ["PLACE"])
        import only_there  # type: ignore[import-not-found]

        raise only_there.Odd("strange")

    ref = raises.options(name="odd").remote()
    skate.wait([ref])
    (row,) = rows("odd")
    assert row["error_type"] == "TASK_EXECUTION_EXCEPTION" and row["error_message"]


def test_a_generator_that_raises_has_failed(session: None) -> None:
    @skate.remote(num_returns="streaming", max_retries=0)
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("the end")

    stream = items.options(name="stream").remote()
    skate.get(next(stream))
    with pytest.raises(ValueError, match="the end"):
        skate.get(next(stream))
    assert eventually(lambda: [row["state"] for row in rows("stream")] == ["FAILED"])


def test_environments_that_are_ready_are_listed(session: None) -> None:
    def hook() -> None:
        os.environ["HOOKED"] = "1"

    @skate.remote(runtime_env={"worker_process_setup_hook": hook})
    def hooked() -> str:
        return os.environ["HOOKED"]

    assert state.list_runtime_envs() == []
    assert skate.get(hooked.remote()) == "1"
    (row,) = state.list_runtime_envs(detail=True)
    assert row.success and row.ref_cnt == 1 and "worker_process_setup_hook" in row.runtime_env
