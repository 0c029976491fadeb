"""What workers have written: the files that a session keeps, bounded, in its folder."""

from __future__ import annotations

import fnmatch
import os
import re
import time
from collections.abc import Iterator
from typing import Any

from skate.core import engine as engines
from skate.util.state.api import session
from skate.util.state.common import DEFAULT_RPC_TIMEOUT
from skate.util.state.exception import RayStateApiException
from skate.util.state.rows import table

CHUNK = 1 << 16
FOLLOW_EVERY = 0.2
"""Seconds between two looks at a file that is followed."""
_ANSI = re.compile(rb"\x1b\[[0-?]*[ -/]*[@-~]")


def _folder(engine: engines.Engine) -> str:
    rows = table(engine, "session")
    return os.path.join(rows[0]["folder"], "logs") if rows and rows[0]["folder"] else ""


def _check_node(engine: engines.Engine, node_id: str | None, node_ip: str | None) -> None:
    for row in table(engine, "nodes"):
        if node_id in (None, row["NodeID"]) and node_ip in (None, row.get("NodeManagerAddress", "127.0.0.1")):
            return
    raise RayStateApiException(f"There is no node {node_id or node_ip!r}.")


def list_logs(
    address: str | None = None,
    node_id: str | None = None,
    node_ip: str | None = None,
    glob_filter: str | None = None,
    timeout: int = DEFAULT_RPC_TIMEOUT,
) -> dict[str, list[str]]:
    """Names of the files that can be read with `get_log`, by kind: ``worker_out``, ``worker_err``, ``internal``.

    Args:
        address: of the session; that of this process when None.
        node_id, node_ip: of which node; one of them must be given, as in Ray. Virtual nodes share their files.
        glob_filter: a pattern such as ``"*.err"`` that names must match; all when None.
        timeout: seconds; has no effect.

    Raises AssertionError without a node, RayStateApiException for an unknown one.
    """
    if node_id is None and node_ip is None:
        raise AssertionError("list_logs needs a node_id or a node_ip.")
    with session(address) as engine:
        _check_node(engine, node_id, node_ip)
        folder = _folder(engine)
    found: dict[str, list[str]] = {}
    for name in files(folder, glob_filter or "*"):
        kind = {".out": "worker_out", ".err": "worker_err"}.get(os.path.splitext(name)[1], "internal")
        found.setdefault(kind, []).append(name)
    return found


def files(folder: str, pattern: str = "*") -> list[str]:
    """Names of the log files in a folder; a file's older half is read with it and is not named."""
    if not os.path.isdir(folder):
        return []
    names = [name for name in os.listdir(folder) if not name.endswith(".1")]
    return sorted(name for name in names if fnmatch.fnmatchcase(name, pattern))


def get_log(
    address: str | None = None,
    node_id: str | None = None,
    node_ip: str | None = None,
    filename: str | None = None,
    actor_id: str | None = None,
    task_id: str | None = None,
    pid: int | None = None,
    follow: bool = False,
    tail: int = -1,
    timeout: int = DEFAULT_RPC_TIMEOUT,
    suffix: str = "out",
    encoding: str | None = "utf-8",
    errors: str | None = "strict",
    submission_id: str | None = None,
    attempt_number: int = 0,
    _interval: float | None = None,
    filter_ansi_code: bool = False,
) -> Iterator[Any]:
    """What a worker wrote, in chunks: text, or bytes with ``encoding=None``.

    Args:
        address: of the session; that of this process when None.
        node_id, node_ip: of which node. All nodes share their files, so that neither is needed.
        filename: a name that `list_logs` gave.
        actor_id, task_id, pid: whose output, in place of a name; a task's is all that its worker wrote.
        follow: go on with what is written from now on, until the worker has ended.
        tail: lines from the end to begin with; all that is kept when negative.
        timeout: seconds; has no effect.
        suffix: ``"out"`` or ``"err"``.
        encoding, errors: how bytes become text.
        attempt_number: of the task.
        _interval: seconds between two looks with `follow`.
        filter_ansi_code: leave out colours and the like.

    Raises:
        RayStateApiException: nobody of that id is known, or there is no such file.
        ValueError: neither a name nor an id was given.
    """
    if suffix not in ("out", "err"):
        raise ValueError(f"suffix must be 'out' or 'err', not {suffix!r}.")
    if submission_id is not None:
        raise RayStateApiException("What a submitted job writes is read with skate.job_submission.")
    with session(address) as engine:
        folder = _folder(engine)
        name, worker = _find(engine, filename, actor_id, task_id, pid, suffix, attempt_number)
        path = os.path.join(folder, name)
        if not folder or os.path.basename(name) != name or not (os.path.exists(path) or worker):
            raise RayStateApiException(f"There is no file {name!r}; list_logs names those there are.")
        chunks = _begin(path, tail)
        if follow:
            chunks = _follow(engine, path, tail, worker, _interval or FOLLOW_EVERY)
        for chunk in chunks:
            data = _ANSI.sub(b"", chunk) if filter_ansi_code else chunk
            yield data if encoding is None else data.decode(encoding, errors or "strict")


def _find(
    engine: engines.Engine,
    filename: str | None,
    actor_id: str | None,
    task_id: str | None,
    pid: int | None,
    suffix: str,
    attempt: int,
) -> tuple[str, str]:
    """The name of a file, and the id of the worker that writes it; empty when that is not known."""
    if filename is not None:
        return filename, ""
    workers = table(engine, "workers")
    if actor_id is not None:
        mine = [row for row in workers if row.get("actor_id") == actor_id]
        what = f"actor {actor_id}"
    elif task_id is not None:
        tasks = [row for row in table(engine, "tasks") if row["task_id"] == task_id]
        ran = [row["worker_id"] for row in tasks if row["attempt_number"] == attempt and row["worker_id"]]
        mine = [row for row in workers if row["worker_id"] in ran]
        what = f"task {task_id}, attempt {attempt}"
    elif pid is not None:
        mine = [row for row in workers if row["pid"] == pid and row.get("worker_type") != "DRIVER"]
        what = f"worker with pid {pid}"
    else:
        raise ValueError("get_log needs a filename, an actor_id, a task_id or a pid.")
    if not mine:
        raise RayStateApiException(f"There is no {what}, or it is long ago.")
    row = max(mine, key=lambda row: row.get("start_time_ms") or 0.0)  # of an actor that was restarted, the last
    return f"worker-{row['worker_id']}-{row.get('job_id', '01000000')}-{row['pid']}.{suffix}", row["worker_id"]


def _begin(path: str, tail: int) -> Iterator[bytes]:
    """What is there: the older half, then the newer; or the last lines."""
    halves = [half for half in (f"{path}.1", path) if os.path.exists(half)]
    if tail >= 0:
        data = b"".join(_read(half) for half in halves)
        lines = data.splitlines(keepends=True)
        yield b"".join(lines[len(lines) - tail :] if tail < len(lines) else lines)
        return
    for half in halves:
        with open(half, "rb") as file:
            while chunk := file.read(CHUNK):
                yield chunk


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _follow(engine: engines.Engine, path: str, tail: int, worker: str, interval: float) -> Iterator[bytes]:
    """The same, and what comes after, until its worker has ended."""
    place = os.stat(path).st_size if os.path.exists(path) else 0
    yield from _begin(path, tail)
    while True:
        alive = not worker or any(row["worker_id"] == worker and row["is_alive"] for row in table(engine, "workers"))
        if os.path.exists(path):
            if os.stat(path).st_size < place:
                place = 0  # it has begun anew
            with open(path, "rb") as file:
                file.seek(place)
                while chunk := file.read(CHUNK):
                    place += len(chunk)
                    yield chunk
        if not alive:
            return
        time.sleep(interval)
