"""What a run that hangs leaves for its reader: the hub's state, and the stacks of all processes."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
import traceback
from typing import Any, TextIO

MOST = 40
"""Rows of a kind to show."""


def report(engine: Any, folder: str, out: TextIO) -> None:
    """Write everything to `out`; workers write their stacks to files in `folder` when they get SIGUSR2."""
    locked = engine.lock.acquire(timeout=2)
    try:
        if not locked:
            print("(the engine's lock is held: what follows may be half changed)", file=out)
        with contextlib.suppress(RuntimeError):  # changed while we looked
            _hub(engine.hub, out)
    finally:
        if locked:
            engine.lock.release()
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    for ident, frame in sys._current_frames().items():
        print(f"\n--- driver, thread {names.get(ident, ident)}", file=out)
        traceback.print_stack(frame, file=out)
    pids = [worker.pid for worker in list(engine.hub.workers.values()) if worker.pid]
    for pid in pids:
        if os.path.exists(os.path.join(folder, f"stacks-{pid}")):  # others would die of the signal
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGUSR2)
    time.sleep(1)
    for pid in pids:
        with contextlib.suppress(FileNotFoundError), open(os.path.join(folder, f"stacks-{pid}")) as stacks:
            print(f"\n--- worker {pid}\n{stacks.read()}", file=out)
    out.flush()


def _hub(hub: Any, out: TextIO) -> None:
    scheduler = hub.scheduler
    print(f"free {scheduler.free}\nof   {scheduler.total}", file=out)
    for node in scheduler.nodes.values():
        print(f"node {node.key}: starting {node.starting}", file=out)
        for environment, idle in node.idle.items():
            print(f"idle {environment!r}: {[worker.pid for worker in idle]}", file=out)
    for worker in list(hub.workers.values())[:MOST]:
        running = [hub.label(row) if row.spec is not None else "(ended)" for row in worker.running.values()]
        host = worker.actor.info.options.class_name if worker.actor is not None else "tasks"
        print(
            f"worker {worker.client} pid {worker.pid} up {worker.up} {host}, blocked {worker.blocked}, leaving "
            f"{worker.leaving}, granted {len(worker.granted)}, held {len(worker.held)}, unsent "
            f"{len(worker.link.unsent)}+{len(worker.link.out)}, questions {len(worker.questions)}, running "
            f"{running[:5]} of {len(running)}",
            file=out,
        )
    for family in scheduler.families.values():
        waits = family in scheduler.waiting
        print(
            f"family {family.need} {family.environment!r} actors {family.least is not None}: "
            f"{len(family.queue)} queued, waiting {waits}, workers {[worker.pid for worker in family.workers]}",
            file=out,
        )
    for actor in list(hub.actors.values())[:MOST]:
        queues = {(owner.pid if owner else 0): len(queue) for owner, queue in actor.queues.items()}
        print(
            f"actor {actor.key:#x} {actor.info.options.class_name} dead {actor.dead} ending {actor.ending} constructed "
            f"{actor.constructed} worker {actor.worker.pid if actor.worker else None} pending {actor.pending} queues "
            f"{queues} restarts {actor.restarts} of {actor.info.options.max_restarts}",
            file=out,
        )
    pending = [(key, row) for key, row in hub.rows.items() if not row.state]
    print(
        f"{len(hub.rows)} rows, {len(pending)} pending, {len(hub.streams)} streams, {len(hub.timers)} timers", file=out
    )
    for key, row in pending[:MOST]:
        name = hub.label(row) if row.spec is not None else f"(made by {row.maker:#x})"
        where = row.worker.pid if row.worker is not None else None
        print(
            f"row {key:#x} {name} count {row.count} missing {row.missing} attempt {row.attempt} cancelled "
            f"{row.cancelled} worker {where} deps {[hex(dep) for dep in row.spec.deps] if row.spec else []}",
            file=out,
        )
