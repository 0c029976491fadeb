"""An actor whose methods run in threads: ``max_concurrency`` above one, or concurrency groups, without coroutines."""

from __future__ import annotations

import queue
import threading
import time
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

from skate.core.calls import fill_call
from skate.core.spec import ActorOptions, CallOptions
from skate.engines.local.mailbox import Running, running
from skate.engines.local.messages import Calling, TaskSpec, Value

if TYPE_CHECKING:
    from skate.engines.local.worker import Worker

Job = tuple[TaskSpec, list[Value], Calling | None]


class ThreadedHost:
    """Runs each call in a thread of its concurrency group."""

    def __init__(self, worker: Worker, options: ActorOptions) -> None:
        self.worker = worker
        worker.client.may_block = False
        self.queues: dict[str, queue.SimpleQueue[Job | None]] = {}
        self.threads: list[threading.Thread] = []
        for group, size in (("", max(1, options.max_concurrency)), *options.groups):
            line: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
            self.queues[group] = line
            for number in range(size):
                name = f"skate-{group or 'calls'}-{number}"
                thread = threading.Thread(target=self._work, args=(line,), name=name, daemon=True)
                thread.start()
                self.threads.append(thread)

    def accept(self, spec: TaskSpec, feed: list[Value], calling: Calling | None) -> None:
        """Queue a call for its group."""
        if spec.group not in self.queues:
            self.worker.refuse_group(spec, self.queues)
            self.worker.client.flush()
            return
        self.queues[spec.group].put((spec, feed, calling))

    def drain(self) -> bool:
        """Return True when every call accepted has ended."""
        for line in self.queues.values():
            for _ in self.threads:
                line.put(None)
        for thread in self.threads:
            thread.join()
        return True

    def _work(self, line: queue.SimpleQueue[Job | None]) -> None:
        while True:
            job = line.get()
            if job is None:
                return
            copy_context().run(self._run, *job)

    def _run(self, spec: TaskSpec, feed: list[Value], calling: Calling | None) -> None:
        worker, client = self.worker, self.worker.client
        options = calling.options if calling is not None else CallOptions()
        name = worker.label(spec)
        attempt = calling.attempt if calling is not None else 0
        running.set(Running(spec.task, spec.method, options, attempt, worker.gpus))
        if spec.task in client.cancelled:
            worker.refuse(spec)
            client.flush()
            return
        began = time.perf_counter()
        try:
            args, kwargs = fill_call(client.load(spec.args), [client.load(value) for value in feed])
            value: Any = worker.method(spec)(*args, **kwargs)
            if spec.returns != 1:
                value = worker.expand(spec, value, name, options.backpressure)
            now = time.perf_counter()
            worker.deliver(spec, value, int((now - began) * 1e6), now)
        except BaseException as error:  # noqa: BLE001  whatever user code raises is its caller's
            took = int((time.perf_counter() - began) * 1e6)
            worker.report(spec, error, options.name or name, options, took)
        args, kwargs, value = (), {}, None
        client.flush()
