"""`skate top`."""

from __future__ import annotations

import time
from typing import Any

import click
import psutil

import skate
from skate.cli.observe_rows import cell
from skate.cli.observe_session import attached
from skate.cli.table import table
from skate.util.state import list_actors, list_cluster_events, list_workers, summarize_objects, summarize_tasks
from skate.util.state.api import tasks_under_way
from skate.util.state.common import RAY_MAX_LIMIT_FROM_API_SERVER, TaskState

HOME, CLEAR_BELOW, HIDE, SHOW = "\x1b[H", "\x1b[J", "\x1b[?25l", "\x1b[?25h"
CLEAR = "\x1b[2J"
EVENTS = 5


def show_top(once: bool, interval: float, address: str | None) -> None:
    """Show the picture, again and again until Ctrl-C."""
    processes: dict[int, psutil.Process] = {}
    with attached(address):
        if once:
            picture(processes)  # the share of the CPU is of the time since the look before
            time.sleep(0.1)
            click.echo(picture(processes))
            return
        click.echo(HIDE + CLEAR, nl=False)
        try:
            while True:
                lines = picture(processes).splitlines()
                click.echo(HOME + "".join(f"{line}\x1b[K\n" for line in lines) + CLEAR_BELOW, nl=False)
                time.sleep(interval)
        except KeyboardInterrupt:
            return
        finally:
            click.echo(SHOW)


def picture(processes: dict[int, psutil.Process]) -> str:
    """The whole of it as text; `processes` are kept between two looks."""
    parts = [_resources(), _counts(), "", _workers(tasks_under_way(), processes)]
    events = list_cluster_events(limit=EVENTS)
    if events:
        parts += ["", *(f"{event.time}  {event.severity.lower():7}  {cell(event.message)}" for event in events)]
    return "\n".join(parts)


def _resources() -> str:
    total, free = skate.cluster_resources(), skate.available_resources()
    used = [
        f"{name} {total[name] - free.get(name, 0):g}/{total[name]:g}"
        for name in sorted(total)
        if not name.startswith("node:") and name not in ("memory", "object_store_memory")
    ]
    objects = summarize_objects()["cluster"]
    store = total.get("object_store_memory", 0) / (1 << 20)
    size = f"objects {objects['total_objects']}, {objects['total_size_mb']:.1f} MB of {store:,.0f} MB"
    alive = sum(bool(node["Alive"]) for node in skate.nodes())
    return f"{time.strftime('%H:%M:%S')}  {alive} node{'s' if alive != 1 else ''}, {', '.join(used)}; {size}"


def _counts() -> str:
    counts: dict[str, int] = {}
    for entry in summarize_tasks()["cluster"]["summary"].values():
        for state, number in entry["state_counts"].items():
            counts[state] = counts.get(state, 0) + number
    actors: dict[str, int] = {}
    for actor in list_actors(limit=RAY_MAX_LIMIT_FROM_API_SERVER):
        actors[actor.state] = actors.get(actor.state, 0) + 1
    return f"tasks  {_in_words(counts)}\nactors {_in_words(actors)}"


def _in_words(counts: dict[str, int]) -> str:
    return ", ".join(f"{state.lower()} {count}" for state, count in sorted(counts.items())) or "none"


def _workers(tasks: list[TaskState], processes: dict[int, psutil.Process]) -> str:
    running: dict[str, list[TaskState]] = {}
    for task in tasks:
        if task.worker_id and task.state.startswith("RUNNING"):
            running.setdefault(task.worker_id, []).append(task)
    lines = []
    now = time.time() * 1e3
    for worker in list_workers(filters=[("is_alive", "=", True)], limit=RAY_MAX_LIMIT_FROM_API_SERVER):
        share, size = _usage(worker.pid, processes)
        mine = running.get(worker.worker_id, [])
        since = min((task.start_time_ms for task in mine if task.start_time_ms), default=None)
        what = mine[0].name if mine else "-"
        more = f" and {len(mine) - 1} more" if len(mine) > 1 else ""
        for_long = f"{(now - since) / 1e3:.1f} s" if since is not None else "-"
        lines.append((worker.worker_type.lower(), str(worker.pid), share, size, for_long, cell(what) + more))
    return table(("process", "pid", "cpu", "memory", "for", "runs"), lines)


def _usage(pid: int, processes: dict[int, psutil.Process]) -> tuple[str, str]:
    try:
        if pid not in processes:
            processes[pid] = psutil.Process(pid)
        process: Any = processes[pid]
        return f"{process.cpu_percent():.0f}%", f"{process.memory_info().rss / (1 << 20):.0f} MB"
    except psutil.Error:
        processes.pop(pid, None)
        return "-", "-"
