"""Compiled graphs between processes: deaths, leaks, idle actors, much at once."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

import skate
from skate.dag import CompiledDAG, DAGContext, InputNode, MultiOutputNode
from skate.exceptions import ActorDiedError, RayActorError, RayChannelError, RayChannelTimeoutError

pytestmark = pytest.mark.slow


class Worker:
    def __init__(self) -> None:
        self.seen: list[Any] = []

    def echo(self, x: Any) -> Any:
        return x

    def pid(self, x: Any) -> int:
        return os.getpid()

    def nap(self, seconds: float) -> float:
        time.sleep(seconds)
        return seconds

    def until(self, path: str) -> str:
        Path(path + ".begun").touch()
        while not os.path.exists(path):
            time.sleep(0.01)
        return "gone on"

    def die(self, x: Any) -> None:
        os._exit(3)

    def leave(self, x: Any) -> None:
        raise SystemExit(0)

    def unpicklable(self, x: Any) -> Any:
        return threading.Lock()

    def add(self, a: Any, b: Any = 0) -> Any:
        return a + b

    def named(self, a: Any, *, b: Any) -> Any:
        return (a, b)

    def actor_id(self, x: Any) -> str | None:
        return skate.get_runtime_context().get_actor_id()

    def nested(self, x: int) -> int:
        return int(skate.get(skate.put(x))) + 1

    def keep(self, x: Any) -> Any:
        self.seen.append(x)
        return x

    def sums(self) -> list[int]:
        return [int(x.sum()) for x in self.seen]

    def open_it(self, refs: list[Any]) -> Any:
        return skate.get(refs[0])

    def descriptors(self) -> int:
        return len(os.listdir("/proc/self/fd"))

    def threads(self) -> int:
        return threading.active_count()


class AsyncWorker:
    async def echo(self, x: Any) -> Any:
        await asyncio.sleep(0)
        return x


def actors(count: int) -> list[Any]:
    made: Any = skate.remote(Worker)
    return [made.options(num_cpus=0).remote() for _ in range(count)]


def chain(*methods: Any, **options: Any) -> CompiledDAG:
    with InputNode() as inp:
        node = inp
        for method in methods:
            node = method.bind(node)
    return node.experimental_compile(**options)


@pytest.fixture
def two(session: None) -> list[Any]:
    return actors(2)


def test_each_actor_works_in_its_own_process(two: list[Any]) -> None:
    a, b = two
    with InputNode() as inp:
        graph = MultiOutputNode([a.pid.bind(inp), b.pid.bind(inp)]).experimental_compile()
    pids = skate.get(graph.execute(1))
    assert len({*pids, os.getpid()}) == 3
    graph.teardown()


def test_methods_know_their_actor_and_may_use_the_session(two: list[Any]) -> None:
    a, b = two
    graph = chain(a.actor_id)
    assert skate.get(graph.execute(1)) == a._actor_id.hex()
    graph.teardown()
    graph = chain(b.nested)
    assert skate.get(graph.execute(1)) == 2
    graph.teardown()


def test_nodes_may_be_keyword_arguments(two: list[Any]) -> None:
    with InputNode() as inp:
        graph = two[0].named.bind(1, b=two[1].echo.bind(inp)).experimental_compile()
    assert skate.get(graph.execute("x")) == (1, "x")
    graph.teardown()


def test_references_travel_in_values(two: list[Any]) -> None:
    graph = chain(two[0].echo, two[1].open_it)
    for number in range(3):
        assert skate.get(graph.execute([skate.put(np.full(100_000, number))]))[0] == number
    graph.teardown()


def test_an_async_actor_takes_part(session: None) -> None:
    actor: Any = skate.remote(AsyncWorker).remote()
    graph = chain(actor.echo)
    assert [skate.get(graph.execute(i)) for i in range(5)] == [0, 1, 2, 3, 4]
    graph.teardown()


def test_a_result_that_cannot_be_pickled_is_an_error_that_names_it(two: list[Any]) -> None:
    graph = chain(two[0].unpicklable)
    with pytest.raises(TypeError, match="lock"):
        skate.get(graph.execute(1))
    graph.teardown()


def test_an_input_that_cannot_be_pickled_is_refused_and_survived(two: list[Any]) -> None:
    graph = chain(two[0].echo)
    with pytest.raises(TypeError, match="lock"):
        graph.execute(threading.Lock())
    assert skate.get(graph.execute(1)) == 1
    graph.teardown()


def test_large_values_go_both_ways_at_once(two: list[Any]) -> None:
    """More is under way than the channels hold: who waits for room must take what comes."""
    a, b = two
    graph = chain(a.echo, b.echo, a.echo, _buffer_size_bytes=1000, _max_inflight_executions=6)
    data = [os.urandom(1_000_000) for _ in range(6)]
    refs = [graph.execute(block) for block in data]
    assert skate.get(refs) == data
    graph.teardown()


def test_arrays_that_are_kept_stay_what_they_were(two: list[Any]) -> None:
    """They are views of the graph's memory, which serves the next runs, and ends with the graph."""
    graph = chain(two[0].keep, two[1].echo)
    results = [skate.get(graph.execute(np.full(20_000, number))) for number in range(30)]
    refs = [graph.execute(np.full(20_000, number)) for number in range(30, 36)]
    results += [skate.get(ref) for ref in refs]
    graph.teardown()
    del graph
    gc.collect()
    assert all((result == number).all() for number, result in enumerate(results))
    assert skate.get(two[0].sums.remote()) == [20_000 * number for number in range(36)]
    graph = chain(two[0].echo)
    assert (skate.get(graph.execute(np.full(20_000, -1))) == -1).all()
    assert skate.get(two[0].sums.remote())[0] == 0
    graph.teardown()


def test_one_large_array_at_a_time_takes_the_memory_of_two(two: list[Any]) -> None:
    graph = chain(two[0].echo, two[1].echo, _buffer_size_bytes=2_000_000)
    for number in range(30):
        assert (skate.get(graph.execute(np.full(100_000, number))) == number).all()
    blocks = os.fstat(graph._end.memory.fd).st_blocks * 512
    assert blocks < 3 * 2 * 900_000 + 500_000  # three channels
    graph.teardown()


def test_many_runs_under_way(two: list[Any]) -> None:
    graph = chain(two[0].echo, two[1].echo, _max_inflight_executions=200)
    for _ in range(5):
        refs = [graph.execute(i) for i in range(200)]
        assert skate.get(refs) == list(range(200))
    graph.teardown()


def test_threads_share_a_graph(two: list[Any]) -> None:
    graph = chain(two[0].echo, two[1].echo, _max_inflight_executions=50)
    wrong: list[Any] = []

    def use(start: int) -> None:
        for i in range(start, start + 200):
            if skate.get(graph.execute(i)) != i:
                wrong.append(i)

    threads = [threading.Thread(target=use, args=(1000 * n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    graph.teardown()


@pytest.mark.parametrize("method", ["die", "echo"])
def test_a_death_is_raised_by_get_and_execute_and_ends_teardown(two: list[Any], method: str) -> None:
    a, b = two
    graph = chain(a.echo, getattr(b, method))
    if method == "echo":
        pid = skate.get(b.pid.remote(0))
        assert skate.get(graph.execute(1)) == 1
        os.kill(pid, signal.SIGKILL)
        time.sleep(0.2)
        with pytest.raises(RayActorError):
            skate.get(graph.execute(1), timeout=60)
    else:
        with pytest.raises(ActorDiedError):
            skate.get(graph.execute(1), timeout=60)
    with pytest.raises((RayActorError, RayChannelError)):
        skate.get(graph.execute(2), timeout=60)
    began = time.monotonic()
    graph.teardown()
    assert time.monotonic() - began < 30
    assert skate.get(a.echo.remote(5)) == 5


def test_a_death_ends_all_runs_under_way_also_those_awaited(two: list[Any]) -> None:
    a, b = two
    with InputNode() as inp:
        node = MultiOutputNode([a.echo.bind(inp), b.nap.bind(inp)])
    graph = node.experimental_compile(enable_asyncio=True)

    async def main() -> list[Any]:
        futures = [future for _ in range(5) for future in await graph.execute_async(5.0)]
        os.kill(pid, signal.SIGKILL)
        return await asyncio.wait_for(asyncio.gather(*futures, return_exceptions=True), 60)

    pid = skate.get(b.pid.remote(0))
    results = asyncio.run(main())
    assert all(isinstance(result, ActorDiedError) for result in results[3::2])
    began = time.monotonic()
    graph.teardown()
    assert time.monotonic() - began < 30


def test_teardown_with_many_runs_under_way(two: list[Any]) -> None:
    graph = chain(two[0].nap, two[1].echo)
    refs = [graph.execute(0.8) for _ in range(10)]
    began = time.monotonic()
    graph.teardown()  # the one that runs ends, the others never begin
    assert time.monotonic() - began < 7
    for ref in refs:
        with pytest.raises(RayChannelError):
            skate.get(ref)
    graph = chain(two[0].echo, two[1].echo)
    assert skate.get(graph.execute(1)) == 1
    graph.teardown()


def test_a_thread_submits_while_another_takes_results(two: list[Any]) -> None:
    graph = chain(two[0].echo, two[1].echo, _max_inflight_executions=100)
    count = 2000
    refs: deque[Any] = deque()
    wrong: list[Any] = []

    def submit() -> None:
        try:
            for number in range(count):
                while len(refs) > 50:
                    time.sleep(0)
                refs.append((number, graph.execute(number)))
        except BaseException as error:  # noqa: BLE001  it is the test's
            wrong.append(error)

    thread = threading.Thread(target=submit)
    thread.start()
    taken = 0
    while taken < count and not wrong:
        if refs:
            number, ref = refs.popleft()
            assert skate.get(ref) == number
            taken += 1
    thread.join()
    assert not wrong
    graph.teardown()


def test_exit_within_a_method_does_not_hang(two: list[Any]) -> None:
    graph = chain(two[0].leave)
    with pytest.raises(Exception, match=r"SystemExit|exit"):
        skate.get(graph.execute(1), timeout=60)
    graph.teardown()


def test_an_actor_that_restarts_is_told_of(session: None) -> None:
    made: Any = skate.remote(Worker)
    actor = made.options(max_restarts=1, num_cpus=0).remote()
    graph = chain(actor.die)
    with pytest.raises((RayChannelError, RayActorError)):
        skate.get(graph.execute(1), timeout=60)
    graph.teardown()


def test_one_actor_has_one_graph_at_a_time(two: list[Any]) -> None:
    graph = chain(two[0].echo)
    with pytest.raises(RuntimeError, match="teardown"):
        chain(two[0].echo)
    assert skate.get(graph.execute(1)) == 1
    graph.teardown()


def test_a_dropped_graph_lets_its_actors_go(two: list[Any]) -> None:
    for number in range(3):
        graph = chain(two[0].echo, two[1].echo)
        assert skate.get(graph.execute(number)) == number
        del graph
        gc.collect()


def test_teardown_waits_for_what_runs(two: list[Any], tmp_path: Path) -> None:
    graph = chain(two[0].until)
    go_on = tmp_path / "go on"
    ref = graph.execute(str(go_on))
    wait_for(tmp_path / "go on.begun")
    began = time.monotonic()
    threading.Timer(0.5, go_on.touch).start()
    graph.teardown()
    assert go_on.exists() and time.monotonic() - began < 60
    with pytest.raises(RayChannelError):
        skate.get(ref)


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_teardown_wakes_who_waits(two: list[Any]) -> None:
    graph = chain(two[0].nap)
    ref = graph.execute(1.0)
    raised: list[type[BaseException]] = []

    def wait() -> None:
        try:
            skate.get(ref, timeout=60)
        except RayChannelError as error:
            raised.append(type(error))

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.2)
    graph.teardown()
    thread.join(60)
    assert raised == [RayChannelError]


def test_a_graph_outlives_its_session_without_harm(session: None) -> None:
    graph = chain(actors(1)[0].echo)
    assert skate.get(graph.execute(1)) == 1
    skate.shutdown()
    skate.init(engine="local", num_cpus=1)
    with pytest.raises((RayChannelError, RayActorError)):
        skate.get(graph.execute(2), timeout=60)
    graph.teardown()


def test_nothing_is_left_in_driver_and_actors(two: list[Any]) -> None:
    def survey() -> tuple[int, ...]:
        return (
            len(os.listdir("/proc/self/fd")),
            *skate.get([a.descriptors.remote() for a in two]),
            *skate.get([a.threads.remote() for a in two]),
        )

    chain(two[0].echo, two[1].echo).teardown()
    gc.collect()
    time.sleep(0.5)
    before = survey()

    def more() -> bool:
        return any(now > was for now, was in zip(survey(), before, strict=True))

    for _ in range(5):
        graph = chain(two[0].echo, two[1].echo, enable_asyncio=False)
        assert skate.get(graph.execute(1)) == 1
        graph.teardown()
        del graph
    deadline = time.monotonic() + 60
    while more() and time.monotonic() < deadline:
        time.sleep(0.05)
        gc.collect()
    assert not more(), (before, survey())


def test_an_idle_graph_uses_no_cpu(two: list[Any]) -> None:
    graph = chain(two[0].echo, two[1].echo)
    pids = [os.getpid(), *skate.get([a.pid.remote(0) for a in two])]
    for number in range(100):
        skate.get(graph.execute(number))

    def used() -> float:
        """Seconds of one of them in a second."""
        before = [sum(psutil.Process(pid).cpu_times()[:2]) for pid in pids]
        time.sleep(1.0)
        return max(sum(psutil.Process(pid).cpu_times()[:2]) - was for pid, was in zip(pids, before, strict=True))

    time.sleep(0.1)
    assert any(used() <= 0.02 for _ in range(10))  # other tests may have left something to do
    graph.teardown()


def test_ctrl_c_interrupts_a_get(two: list[Any], tmp_path: Path) -> None:
    graph = chain(two[0].until)
    ref = graph.execute(str(tmp_path / "go on"))
    main = threading.main_thread().ident
    assert main is not None
    with pytest.raises(KeyboardInterrupt):
        threading.Timer(0.3, signal.pthread_kill, (main, signal.SIGINT)).start()
        skate.get(ref, timeout=120)
    (tmp_path / "go on").touch()
    assert skate.get(ref, timeout=60) == "gone on"
    graph.teardown()


def test_the_default_timeout_is_the_context_s(two: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(DAGContext.get_current(), "get_timeout", 0.2)
    graph = chain(two[0].until)
    ref = graph.execute(str(tmp_path / "go on"))
    with pytest.raises(RayChannelTimeoutError):
        skate.get(ref)
    (tmp_path / "go on").touch()
    assert skate.get(ref, timeout=-1) == "gone on"
    graph.teardown()


def test_execute_waits_for_room_no_longer_than_it_may(two: list[Any]) -> None:
    graph = chain(two[0].nap, _submit_timeout=0.3, _max_inflight_executions=40, _buffer_size_bytes=100)
    first = graph.execute(3.0)
    time.sleep(0.2)
    with pytest.raises(RayChannelTimeoutError):
        for _ in range(30):
            graph.execute(0)
    assert skate.get(first) == 3.0
    graph.teardown()


def test_asyncio_is_not_held_up(two: list[Any]) -> None:
    graph = chain(two[0].nap, enable_asyncio=True)

    async def main() -> tuple[float, int]:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.02)
                ticks += 1

        ticking = asyncio.create_task(tick())
        value = await (await graph.execute_async(0.5))
        ticking.cancel()
        return value, ticks

    value, ticks = asyncio.run(main())
    assert value == 0.5
    assert ticks > 2
    graph.teardown()


def test_futures_of_a_torn_down_graph_raise(two: list[Any]) -> None:
    graph = chain(two[0].nap, enable_asyncio=True)

    async def main() -> None:
        future = await graph.execute_async(0.5)
        await asyncio.get_running_loop().run_in_executor(None, graph.teardown)
        with pytest.raises(RayChannelError):
            await future

    asyncio.run(main())


PROGRAM = """
    import os, sys, time
    import skate
    from skate.dag import InputNode

    @skate.remote
    class A:
        def f(self, x):
            return os.getpid()

    skate.init(num_cpus=1)
    a = A.remote()
    with InputNode() as inp:
        graph = a.f.bind(inp).experimental_compile()
    print(skate.get(graph.execute(1)), flush=True)
    {end}
"""


@pytest.mark.parametrize(
    "end", ["pass", "os._exit(1)", "os.kill(os.getpid(), 9)", "raise KeyError", "skate.shutdown()"]
)
def test_a_program_that_forgets_teardown_leaves_nothing(end: str) -> None:
    code = textwrap.dedent(PROGRAM).replace("{end}", end)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    pid = int(done.stdout)
    deadline = time.monotonic() + 60
    while psutil.pid_exists(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not psutil.pid_exists(pid)
    assert "Exception ignored" not in done.stderr


def test_a_task_may_compile_a_graph(two: list[Any]) -> None:
    @skate.remote(num_cpus=1)
    def use(actors: list[Any]) -> list[Any]:
        graph = chain(actors[0].echo, actors[1].echo)
        try:
            return [skate.get(graph.execute(i)) for i in range(3)]
        finally:
            graph.teardown()

    assert skate.get(use.remote(two)) == [0, 1, 2]


def test_a_graph_ends_with_the_worker_that_compiled_it(two: list[Any]) -> None:
    @skate.remote(num_cpus=1, max_retries=0)
    def use_and_die(actors: list[Any]) -> None:
        graph = chain(actors[0].echo, actors[1].echo)
        skate.get(graph.execute(1))
        os._exit(1)

    with pytest.raises(skate.exceptions.WorkerCrashedError):
        skate.get(use_and_die.remote(two))
    graph = chain(two[0].echo, two[1].echo)
    assert skate.get(graph.execute(5)) == 5
    graph.teardown()
