"""Chaos: much work of many kinds while workers die, and every result has to be right, or its exact error.

::

    python -m skate.testing.chaos --seed 1 --tasks 50000 --actors 200

The seed decides the work and the faults; what meets what is up to the machine. A run ends with status 0 and a summary;
with 1 and what was wrong; with 2 and the state of everything when it did not end in time.
"""

from __future__ import annotations

import contextlib
import gc
import os
import random
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import click
import psutil

import skate
from skate.core import engine as engines
from skate.engines.local.boot import PAGE
from skate.engines.local.messages import Stored
from skate.exceptions import (
    GetTimeoutError,
    NodeDiedError,
    ObjectLostError,
    WorkerCrashedError,
)
from skate.testing import chaos_more as more
from skate.testing import chaos_work as work
from skate.testing.chaos_jobs import Job, jobs
from skate.testing.chaos_state import report
from skate.testing.faults import Fault, FaultPlan, inject

STORE = 80_000_000
"""About the smallest store there may be."""
THREADS = 2
"""Threads of the driver that make calls."""
WINDOW = 150
"""Calls of a thread under way at once."""
CANNOT_BE_REMADE = ("large_once", "puts", "stream", "read_stream", "keep", "keep_check", "find")
"""Kinds of jobs with objects that no task could make again: what was put, what a stream or an actor made."""


class Wrong(AssertionError):
    """Something came out that should not."""


class Chaos:
    """One run."""

    def __init__(self, seed: int, tasks: int, actors: int, plan: FaultPlan, limit: float) -> None:
        self.seed = seed
        self.tasks = tasks
        self.actors = actors
        self.plan = plan
        self.deadline = time.monotonic() + limit
        self.ended: Counter[str] = Counter()
        """How many jobs of a kind ended in which way."""
        self.wrong: list[str] = []
        self.crashed: list[tuple[str, int]] = []
        """Kind and key of the tasks without another try that failed by a death."""
        self.log: list[Fault] = []

    def run(self) -> None:
        """All jobs, from several threads."""
        with inject(self.plan) as self.log, ThreadPoolExecutor(THREADS) as threads:
            shares = [threads.submit(self._share, number) for number in range(THREADS)]
            for share in shares:
                share.result()
        for name, namespace in ((row["name"], row["namespace"]) for row in engines.current().state("names")):
            with contextlib.suppress(ValueError):
                skate.kill(skate.get_actor(name, namespace=namespace))
        self._check_counts()

    def _share(self, number: int) -> None:
        """A thread's part of the jobs, a window of them under way at once."""
        waiting: deque[Job] = deque()
        chance = random.Random(f"chaos:{self.seed}:{number}")
        for job in jobs(chance, self.tasks // THREADS, self.actors // THREADS):
            waiting.append(job)
            del job
            if len(waiting) >= WINDOW:
                for _ in range(WINDOW // 3):
                    self.check(waiting.popleft())
        while waiting:
            self.check(waiting.popleft())

    def check(self, job: Job) -> None:
        """Wait for a job's result and compare."""
        try:
            got = self._stream(job) if job.items >= 0 else self._get(job)
            if job.must_fail:
                raise Wrong(f"got {_short(got)}, expected {job.want[0].__name__ if job.want else 'an error'}")
            if got != (job.want if job.items < 0 else job.want[: job.items]):
                raise Wrong(f"got {_short(got)}, expected {_short(job.want)}")
            end = "right"
        except GetTimeoutError:
            raise
        except Wrong as problem:
            self.wrong.append(f"{job.kind}: {problem}")
            end = "wrong"
        except (*job.may, *self._of_nodes(job)) as error:
            end = type(error).__name__
            if type(error) is WorkerCrashedError and job.kind in ("once", "large_once", "stream_once"):
                self.crashed.append((job.kind, _key_of(job.ref)))
        except ObjectLostError as error:
            end = type(error).__name__
            if not (job.put or job.kind.startswith(CANNOT_BE_REMADE) or job.kind.endswith((".large", ".stream"))):
                end = self._judge(job, error)
        except Exception as error:  # noqa: BLE001  which one is right is decided here
            end = self._judge(job, error)
        self.ended[f"{job.kind}: {end}"] += 1

    def _of_nodes(self, job: Job) -> tuple[type[Exception], ...]:
        """How a task that is not tried again may end when nodes go."""
        return (NodeDiedError,) if self.plan.node_every and WorkerCrashedError in job.may else ()

    def _judge(self, job: Job, error: Exception) -> str:
        if job.must_fail and isinstance(error, job.want[0]) and job.want[1] in str(error):
            return "its error"
        self.wrong.append(f"{job.kind}: {type(error).__name__}: {error}")
        return "wrong"

    def _left(self) -> float:
        return max(0.1, self.deadline - time.monotonic())

    def _get(self, job: Job) -> Any:
        if job.kind == "await":
            return more.read_all(job.ref)
        got = skate.get(job.ref, timeout=self._left())
        if job.kind == "dynamic":
            got = list(got)
        if isinstance(got, list) and any(isinstance(item, skate.ObjectRef) for item in got):
            got = skate.get(got, timeout=self._left())
        return got

    def _stream(self, job: Job) -> list[Any]:
        got: list[Any] = []
        if job.items == len(job.want):
            for ref in job.ref:
                self._take(got, ref, job)
        else:
            for _ in range(job.items):
                self._take(got, next(job.ref), job)
        return got

    def _take(self, got: list[Any], ref: Any, job: Job) -> None:
        item = skate.get(ref, timeout=self._left())
        if item != job.want[len(got)]:
            raise Wrong(f"item {len(got)} is {_short(item)}")
        got.append(item)

    def _check_counts(self) -> None:
        """A death ends one task, and that is the one it was meant for, or another if it came at any moment."""
        meant = {fault.task for fault in self.log if fault.kind == "kill"}
        others = [kind for kind, key in self.crashed if key not in meant]
        by_chance = sum(fault.kind == "kill" and "(any)" in fault.what for fault in self.log)
        lost = sum(count for end, count in self.ended.items() if end.endswith("ObjectReconstructionFailedError"))
        if lost and not any(fault.kind in ("drop", "fail_restore", "remove_node") for fault in self.log):
            self.wrong.append(f"{lost} jobs failed by losses, and nothing was lost")
        if len(others) > by_chance:
            self.wrong.append(f"{len(others)} tasks failed by deaths meant for others, of which {by_chance} by chance")


def _key_of(ref: Any) -> int:
    key: int = ref._key if isinstance(ref, skate.ObjectRef) else ref._generator_ref._key
    return key


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 100 else f"{text[:80]}... ({len(text)} characters)"


def leftovers(engine: Any) -> list[str]:
    """What a session still has when nobody refers to anything any more."""
    deadline = time.monotonic() + 30
    while True:
        gc.collect()
        engine.state("objects")  # counts what was dropped
        with engine.lock:
            hub, arena = engine.hub, engine.arena
            granted = sum(-(-size // PAGE) * PAGE for worker in hub.workers.values() for _, size in worker.granted)
            found = []
            if hub.rows:
                found.append(
                    f"{len(hub.rows)} rows: {[(hex(k), r.state, r.count) for k, r in list(hub.rows.items())[:5]]}"
                )
            if hub.streams or hub.actors or hub.names:
                found.append(f"{len(hub.streams)} streams, {len(hub.actors)} actors, {len(hub.names)} names")
            if arena.used != granted:
                found.append(f"{arena.used - granted} bytes of shared memory")
            free, total = hub.scheduler.free, hub.scheduler.total
            if free != total:
                found.append(f"resources: {free} of {total} are free")
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.02)


def survey() -> dict[str, set[str]]:
    """Children and descriptors of this process."""
    descriptors = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            descriptors.add(f"{name} {os.readlink(f'/proc/self/fd/{name}')}")
    children = {f"{child.pid} {child.name()}" for child in psutil.Process().children(recursive=True)}
    return {"process": children, "file descriptor": descriptors}


def run(
    seed: int, tasks: int, actors: int, plan: FaultPlan, limit: float = 600.0, room: int = 0, **session: Any
) -> Chaos:
    """A whole run with a session of its own. AssertionError when anything was wrong or left behind.

    With `room`, all but so many bytes of the store are taken from the start, and what is more goes to disk.

    When it does not end within `limit` seconds, the state of everything goes to standard error and the process ends
    with status 2.
    """
    before = survey()
    folder = tempfile.mkdtemp(prefix="chaos-")
    os.environ[work.STACKS] = folder
    ended = threading.Event()
    skate.init(engine="local", namespace="chaos", log_to_driver=False, **session)
    engine: Any = engines.running()
    guard = threading.Thread(target=_guard, args=(ended, limit + 10, engine, folder), daemon=True)
    guard.start()
    ballast = _take_room(engine, room) if room else None
    chaos = Chaos(seed, tasks, actors, plan, limit)
    try:
        try:
            chaos.run()
        except GetTimeoutError:
            _give_up(engine, folder)
        except BaseException:
            print(*chaos.wrong[:20], sep="\n", file=sys.stderr)  # may tell what came before
            raise
        if ballast is not None:
            with engine.lock:
                engine.hub.discard(ballast)
        left = leftovers(engine)
    finally:
        session_folder = getattr(getattr(engine, "folder", None), "path", "")
        skate.shutdown()
        ended.set()
        guard.join()
        del os.environ[work.STACKS]
        shutil.rmtree(folder)
    del engine
    gc.collect()
    for kind, found in survey().items():
        left += [f"{kind} {what}" for what in sorted(found - before[kind])]
    if session_folder and os.path.exists(session_folder):
        left.append(session_folder)
    problems = _shown(chaos.wrong) + [f"left behind: {what}" for what in left]
    if problems:
        raise AssertionError(f"Chaos with seed {seed}:\n  " + "\n  ".join(problems))
    return chaos


def _shown(wrong: list[str]) -> list[str]:
    """The first 20 of what went wrong."""
    return wrong[:20] + ([f"and {len(wrong) - 20} more"] if len(wrong) > 20 else [])


def _take_room(engine: Any, room: int) -> Stored:
    size = engine.arena.capacity - room
    with engine.lock:
        return Stored(0, engine.hub.allocate(0, size), size)


def _guard(ended: threading.Event, limit: float, engine: Any, folder: str) -> None:
    if not ended.wait(limit):
        _give_up(engine, folder)


def _give_up(engine: Any, folder: str) -> None:
    print("Chaos did not end in time.", file=sys.stderr)
    report(engine, folder, sys.stderr)
    os._exit(2)


def plan_for(seed: int, kill_every: int) -> FaultPlan:
    """The faults of a run: deaths, now and then a spill that fails or a link that stalls."""
    return FaultPlan(
        seed=seed,
        when=("begin", "end") if seed % 2 == 0 else ("begin", "end", "any"),  # without chance, counts are exact
        kill_every=kill_every,
        stall_every=kill_every * 3,
        drop_every=kill_every * 2,
        fail_spill_every=20,
        fail_restore_every=30,
        delay_spill_every=15,
    )


@click.command()
@click.option("--seed", default=1, show_default=True, help="Decides the work and the faults.")
@click.option("--tasks", default=50_000, show_default=True, help="Calls to make, not counting those within others.")
@click.option("--actors", default=200, show_default=True, help="Actors to start, a few at a time.")
@click.option("--kill-every", default=300, show_default=True, help="Calls sent to workers between two deaths.")
@click.option("--limit", default=1800.0, show_default=True, help="Seconds after which the run has failed.")
@click.option("--cpus", default=4, show_default=True)
@click.option("--room", default=6_000_000, show_default=True, help="Bytes of shared memory; what is more is spilled.")
def main(seed: int, tasks: int, actors: int, kill_every: int, limit: float, cpus: int, room: int) -> None:
    """Run chaos and print what came of it."""
    began = time.monotonic()
    try:
        chaos = run(
            seed, tasks, actors, plan_for(seed, kill_every), limit, room, num_cpus=cpus, object_store_memory=STORE
        )
    except AssertionError as problem:
        print(problem, file=sys.stderr)
        sys.exit(1)
    ends: Counter[str] = Counter()
    for end, count in chaos.ended.items():
        ends[end.split(": ")[1]] += count
    kinds = Counter(fault.kind for fault in chaos.log)
    print(f"seed {seed}: {tasks} jobs, {actors} actors, {time.monotonic() - began:.1f} s")
    print("  ends:  ", ", ".join(f"{end} {count}" for end, count in ends.most_common()))
    print("  faults:", ", ".join(f"{kind} {count}" for kind, count in kinds.most_common()))


if __name__ == "__main__":
    main()
