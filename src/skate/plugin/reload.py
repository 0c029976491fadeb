"""Live reload for development: the service starts anew when a file changes.

This process imports what is slow (FastAPI, uvicorn, ...) once, holds the listening socket, and forks a child for each
run of the service: a change costs the plugins' own start alone, and who connects meanwhile waits.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from skate.configuration import ConfigError, load_with_origins
from skate.plugin.errors import PluginError
from skate.plugin.service import address, listen, make_service, serve_at

LOOK_S = 0.1
"""Seconds between two looks at the files."""
LEAST_PAUSE = 10
"""Between two looks, that many times as long as one takes."""
END_S = 2.0
"""Seconds that the old service may take to end."""
SKIPPED = frozenset({"__pycache__", "node_modules", "site-packages"})
PR_SET_PDEATHSIG = 1
"""An option of prctl(2)."""
KINDS = (".py", ".toml", ".env")


def watch(flags: Mapping[str, Any], folder: str = ".") -> None:
    """Serve in a child process, and start it anew when a file below `folder` changes. Returns on Ctrl-C or SIGTERM."""
    from skate.plugin import app, backends, builtin  # noqa: F401  what is slow to import, for all children

    flags = {**flags, "engine.name": "inline"}
    server = load_with_origins(flags=flags).config.server
    listener = listen(server.host, server.port)
    print(f"listening at {address(listener)}, starting anew when files change", file=sys.stderr, flush=True)
    reader, writer = os.pipe()
    ending: list[int] = []

    def end(number: int, _: Any) -> None:
        ending.append(number)
        os.write(writer, b"x")

    before = {each: signal.signal(each, end) for each in (signal.SIGINT, signal.SIGTERM)}
    seen, pause = _stamps(folder), LOOK_S
    child = _start(flags, listener, (reader, writer))
    try:
        while not ending:
            select.select([reader], [], [], pause)
            began = time.monotonic()
            now = _stamps(folder)
            pause = max(LOOK_S, LEAST_PAUSE * (time.monotonic() - began))  # a large folder is looked at less often
            if now != seen and not ending:
                changed = sorted(path for path in now.keys() | seen.keys() if now.get(path) != seen.get(path))
                print(f"{changed[0]} has changed: starting anew", file=sys.stderr, flush=True)
                seen = now
                _end(child)
                child = _start(flags, listener, (reader, writer))
    finally:
        _end(child)
        for each, handler in before.items():
            signal.signal(each, handler)
        os.close(reader)
        os.close(writer)
        listener.close()


def _start(flags: Mapping[str, Any], listener: Any, ours: tuple[int, ...]) -> int:
    parent = os.getpid()
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        _end_with(parent)
        for each in ours:
            os.close(each)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C reaches the parent, which ends this
        serve_at(make_service(load_with_origins(flags=flags)), listener)
        code = 0
    except (ConfigError, PluginError, ImportError) as error:
        print(f"Error: {error}", file=sys.stderr, flush=True)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except Exception:  # noqa: BLE001  the parent waits for the next change, whatever this was
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _end_with(parent: int) -> None:
    """Have the kernel end this process when its parent dies, however that dies."""
    import ctypes

    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:  # it is dead already
        os._exit(1)


def _end(child: int) -> None:
    """End a child, by force if it takes too long."""
    try:
        os.kill(child, signal.SIGTERM)
        deadline = time.monotonic() + END_S
        while time.monotonic() < deadline:
            if os.waitpid(child, os.WNOHANG)[0]:
                return
            time.sleep(0.01)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    except ChildProcessError:
        return


def _stamps(folder: str) -> dict[str, tuple[int, int]]:
    """When the files below a folder were changed, and how long they are."""
    return dict(_files(Path(folder)))


def _files(folder: Path) -> Iterator[tuple[str, tuple[int, int]]]:
    try:
        entries = list(os.scandir(folder))
    except OSError:  # it went away meanwhile
        return
    for entry in entries:
        try:
            if entry.is_dir(follow_symlinks=False):
                if entry.name not in SKIPPED and not entry.name.startswith("."):
                    yield from _files(Path(entry.path))
            elif entry.name.endswith(KINDS):
                found = entry.stat()
                yield entry.path, (found.st_mtime_ns, found.st_size)
        except OSError:
            continue
