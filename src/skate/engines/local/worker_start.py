"""How a process that was forked becomes a worker of its session."""

from __future__ import annotations

import atexit
import json
import os
import random
import signal
import sys
import traceback
from typing import NoReturn

from skate.core import engine as engines
from skate.core import ids, refs
from skate.engines import setup
from skate.engines.local import breakpoints
from skate.engines.local.arena import Mapping
from skate.engines.local.boot import POKE
from skate.engines.local.link import BlockingLink
from skate.engines.local.messages import Hello, Welcome, to_worker
from skate.engines.local.output import Output
from skate.engines.local.worker import Worker
from skate.engines.local.worker_client import WorkerClient


def _set_up(welcome: Welcome) -> None:
    """Be a process of this session: its path, its folder, its environment."""
    ids.use_salt(welcome.salt)
    if welcome.path:  # else the interpreter of an environment has one of its own
        sys.path[:] = welcome.path
    if welcome.setup:
        setup.enter(json.loads(welcome.setup))
    random.seed()
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:  # inherited; one that is imported from now on seeds itself
        numpy_random.seed()


def main(read_fd: int, write_fd: int, arena_fd: int, capacity: int) -> NoReturn:
    """Be a worker; never returns."""
    atexit._clear()
    link = BlockingLink(read_fd, write_fd, to_worker.decode)
    try:
        messages = link.read()
        while not messages:
            messages = link.read()
        welcome = messages[0]
        if os.path.isdir(welcome.folder):
            os.chdir(welcome.folder)
        sys.stdout, sys.stderr = outputs = (Output(1), Output(2))
        _set_up(welcome)
        client = WorkerClient(link, welcome, lambda: Mapping(arena_fd, capacity))
        worker = Worker(link, client)
        worker.outputs = outputs
        engines.use(client)
        os.register_at_fork(after_in_child=worker.disown)
        breakpoints.install()
        signal.signal(POKE, worker.on_interrupt)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        refs.released.clear()
        client.dispatch(messages[1:])
        problem = setup.run_hook(json.loads(welcome.setup)) if welcome.setup else ""
        link.out.append(Hello(os.getpid(), problem))
        if problem:
            link.flush()
            os._exit(0)
        worker.serve()
    except (EOFError, BrokenPipeError):
        os._exit(0)  # the hub is gone
    except BaseException:  # noqa: BLE001  a fault of ours: its traceback goes with the news of the worker's death
        traceback.print_exc()
        sys.stderr.flush()
    os._exit(70)
