"""The one node: what it has, what runs hold of it, and the environment that code runs in."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from skate.core import ids, nodes
from skate.core.gpus import named, visible
from skate.core.placement import Where, allows, describe
from skate.core.resources import UNIT, as_floats, fits, give, take, to_units
from skate.core.settings import Settings
from skate.core.spec import Resources
from skate.engines.inline.records import Call, current
from skate.engines.inline.surroundings import Surroundings, applied


class Amounts:
    """Resources are counted, not enforced: a task runs at once, so what is free may be less than nothing."""

    def __init__(self, free: dict[str, int], gpus: dict[int | str, int]) -> None:
        self.free = free
        self.gpus = gpus
        """What each GPU has left, by its number."""

    def take(self, need: Resources) -> tuple[int | str, ...]:
        """Count `need` as held; returns the numbers of the GPUs in it."""
        take(need, self.free)
        wanted = dict(need).get("GPU", 0)
        return self._take_gpus(wanted) if wanted else ()

    def give(self, need: Resources, gpus: tuple[int | str, ...]) -> None:
        """Take back what `take` counted."""
        give(need, self.free)
        for number in gpus:
            self.gpus[number] += min(dict(need)["GPU"], UNIT)

    def _take_gpus(self, amount: int) -> tuple[int | str, ...]:
        if amount < UNIT:
            # The fullest one with room left, so that fractions share.
            roomy = [n for n, free in self.gpus.items() if free >= amount]
            chosen = sorted(roomy or self.gpus, key=lambda n: self.gpus[n])[:1]
        else:
            chosen = sorted(self.gpus, key=lambda n: -self.gpus[n])[: amount // UNIT]
        for number in chosen:
            self.gpus[number] -= min(amount, UNIT)
        return tuple(gpu for gpu in self.gpus if gpu in chosen)


class Machine(Amounts):
    """The node, and the process's own environment."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.node = ids.node_hex(1)
        self.labels = {"ray.io/node-id": self.node, **settings.labels}
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        self.store = settings.object_store_memory or int(memory * 0.3)
        cpus = len(os.sched_getaffinity(0)) if settings.num_cpus is None else settings.num_cpus
        amounts = {
            "CPU": float(cpus),
            "GPU": float(settings.num_gpus or 0),
            "memory": float(max(memory - self.store, 0)),
            "object_store_memory": float(self.store),
            "node:127.0.0.1": 1.0,
            "node:__internal_head__": 1.0,
            **settings.resources,
        }
        self.total = {name: to_units(amount, name) for name, amount in amounts.items() if amount}
        super().__init__(dict(self.total), dict.fromkeys(_gpus(int(settings.num_gpus or 0)), UNIT))
        self.signals = Signals()
        self.surroundings = Surroundings(settings.folder)
        job = self.surroundings.setup_of(settings.environment)
        self._path = list(job["path"]) if job else []
        sys.path[:0] = self._path

    def close(self) -> None:
        """Undo what starting did to the process."""
        for entry in self._path:
            with contextlib.suppress(ValueError):  # the program may have removed it itself
                sys.path.remove(entry)

    def why_impossible(self, label: str, need: Resources, where: Where | None) -> str:
        """In words, why `need` and the wish `where` can never be met; empty if they can."""
        if fits(need, self.total) and (where is None or allows(where, self.node, self.labels)):
            return ""
        there = tuple(sorted(self.total.items()))
        wish = f" {describe(where)}".rstrip() if where is not None else ""
        return f"{label} can never run here: it asks for {_amounts(need)}{wish}, and there is {_amounts(there)}."

    def resources(self) -> tuple[dict[str, float], dict[str, float]]:
        """``(total, free)``, by name."""
        free = {name: max(self.free[name], 0) for name in self.total}
        return as_floats(tuple(self.total.items())), as_floats(tuple(free.items()))

    def row(self) -> dict[str, Any]:
        """The node as `nodes()` shows it."""
        return nodes.row(self.node, nodes.address(1), "", self.resources()[0], self.labels)

    @contextlib.contextmanager
    def inside(self, call: Call, own_loop: bool = False) -> Iterator[None]:
        """Run code of `call` in this thread: its context, its environment, and no event loop but its own."""
        token = current.set(call)
        caller = call.thread
        call.thread = threading.get_ident()
        loop = None if own_loop else asyncio._get_running_loop()
        if loop is not None:
            asyncio._set_running_loop(None)  # so that the task may use asyncio.run, as in a process of its own
        try:
            with self.signals, applied(call.setup, call.gpus):
                yield
        finally:
            if loop is not None:
                asyncio._set_running_loop(loop)
            call.thread = caller
            current.reset(token)


class Signals:
    """Tells what a signal handler of the program raises (a Ctrl-C, a test's timeout) from what a task raises.

    While a task runs in the main thread, the handlers are watched for the exceptions that they raise: those go through
    to the program instead of ending as the task's error.
    """

    WATCHED = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)

    def __init__(self) -> None:
        self.raised: BaseException | None = None
        """What a handler raised, until the task that it interrupted has been left."""
        self._depth = 0
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        self._depth += 1
        if self._depth > 1:
            return
        for number in self.WATCHED:
            handler = signal.getsignal(number)
            if callable(handler):
                self._handlers[number] = handler
                signal.signal(number, self._handle)

    def __exit__(self, *error: object) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        self._depth -= 1
        if self._depth > 0:
            return
        for number, handler in self._handlers.items():
            if signal.getsignal(number) == self._handle:  # else the task has set one of its own
                signal.signal(number, handler)
        self._handlers.clear()
        self.raised = None

    def _handle(self, number: int, frame: Any) -> None:
        handler = self._handlers[number]
        try:
            handler(number, frame)
            if _is_of_asyncio(handler):
                # It only cancels the main coroutine, which cannot notice before the task that it runs here has ended.
                raise KeyboardInterrupt
        except BaseException as error:
            self.raised = error
            raise


def _is_of_asyncio(handler: Any) -> bool:
    """Whether `asyncio.run` has set the handler."""
    method = getattr(handler, "func", None)
    return isinstance(getattr(method, "__self__", None), asyncio.Runner)


def _gpus(count: int) -> Sequence[int | str]:
    """The GPUs: those that the program may see, if it was told which."""
    return named(range(count), visible(os.environ))


def _amounts(need: Resources) -> str:
    parts = (f"{name}: {amount:g}" for name, amount in as_floats(need).items())
    return "{" + ", ".join(parts) + "}"
