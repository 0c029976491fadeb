"""What a call gives back: its values, its items, or its error, as messages to the hub."""

from __future__ import annotations

import atexit
import contextlib
import inspect
import os
import sys
from collections.abc import Iterable
from functools import partial
from time import perf_counter
from typing import Any, NoReturn

from skate.core import ids
from skate.core.refs import TaskID
from skate.core.serialization import LARGE, pack, unpack
from skate.core.spec import CallOptions
from skate.engines.execution import (
    has_quit,
    is_stream,
    pack_error,
    split_returns,
    task_error,
    user_frames,
    wants_post_mortem,
)
from skate.engines.local import breakpoints
from skate.engines.local.blocks import LostValue
from skate.engines.local.link import PORTION
from skate.engines.local.mailbox import running
from skate.engines.local.messages import (
    Back,
    Done,
    DoneMany,
    Failed,
    Host,
    Item,
    Leaving,
    TaskSpec,
    Value,
)
from skate.engines.local.output import Output
from skate.engines.local.worker_client import ActorExit, WorkerClient
from skate.exceptions import RayError, TaskCancelledError

NONE = pack(None).to_bytes()
LARGEST_ERROR = 512 << 20


class Results:
    """Sends the outcome of calls. A worker is one of these that also runs them."""

    client: WorkerClient
    instance: Any
    """The actor that the worker hosts."""
    hosting: Host | None
    actor_name: str
    outputs: tuple[Output, ...] = ()

    def show_rest(self) -> None:
        """Send what a call printed without ending the line; open again what it closed."""
        for output in self.outputs:
            if output.closed:
                self._reopen()
                return
            if output.loose:
                output.settle()

    def _reopen(self) -> None:
        streams = []
        for fd in (1, 2):
            try:
                streams.append(Output(fd))
            except OSError:  # the descriptor is closed too
                streams.append(Output(os.open(os.devnull, os.O_WRONLY)))
        sys.stdout, sys.stderr = streams
        self.outputs = tuple(streams)

    def label(self, spec: TaskSpec) -> str:
        """``Class.method`` of a call."""
        return f"{self.actor_name}.{spec.method}"

    def refuse(self, spec: TaskSpec) -> None:
        """A call that was cancelled before it began."""
        error = pack(TaskCancelledError(TaskID(ids.task_binary(spec.task)), "It had not begun.")).to_bytes()
        self.client.cancelled.discard(spec.task)
        self.client.finished(Failed(spec.task, error, False, True))

    def refuse_group(self, spec: TaskSpec, known: Iterable[str]) -> None:
        """A call for a concurrency group that the actor does not have."""
        names = ", ".join(repr(name) for name in known if name)
        error = ValueError(f"The actor has no concurrency group {spec.group!r}. Its groups: {names or 'none'}.")
        self.report(spec, error, self.label(spec), CallOptions())

    def expand(self, spec: TaskSpec, value: Any, name: str, ahead: int) -> Any:
        """The values of a call with another number of returns than one; a stream's items go out here.

        With one return, the first item of a generator.
        """
        if spec.returns == 1:
            return next(value)
        if spec.returns >= 0:
            return split_returns(value, spec.returns, name)
        if spec.returns == -2:
            from skate.core.generator import DynamicObjectRefGenerator

            return [DynamicObjectRefGenerator([self.client.put(item) for item in value])]
        if not is_stream(value):
            kind = type(value).__name__
            raise TypeError(f"{name} has num_returns='streaming', but returned a {kind}, not a generator.")
        if inspect.isasyncgen(value):
            from skate.engines.local.async_host import iterate

            value = iterate(value)
        try:
            self._send_items(spec.task, value, ahead)
        finally:
            if hasattr(value, "close"):
                value.close()  # here, rather than when the last reference goes: its `finally` is part of the call
        return [None]

    def _send_items(self, task: int, items: Iterable[Any], ahead: int) -> None:
        """Send a stream's items, at most `ahead` more than its reader has taken (0: any number)."""
        client = self.client
        if ahead > 0:
            client.allowed.setdefault(task, ahead)
        try:
            for number, item in enumerate(items, 1):
                self.send_item(task, item)
                if ahead > 0 and number >= client.allowed[task]:
                    client.until(partial(self._may_go_on, task, number))
                if task in client.cancelled:  # nobody reads on; where a call cannot be interrupted, it ends here
                    raise KeyboardInterrupt
        finally:
            client.allowed.pop(task, None)

    def _may_go_on(self, task: int, number: int) -> bool:
        return self.client.allowed[task] > number or task in self.client.cancelled

    def send_item(self, task: int, item: Any) -> None:
        """One item of a stream."""
        value, inner = self.lay(item, 0)
        self.client.finished(Item(task, value, inner))
        self.client.sent(value)
        self.client.flush()
        self.client.heed_cancel()

    def lay(self, value: Any, key: int, large: int = LARGE) -> tuple[Value, tuple[int, ...]]:
        """Pack a result where it can be fetched, in shared memory from `large` bytes on; list the references inside."""
        packed = pack(value)
        return self.client._lay_down(packed, key, large), packed.refs

    def deliver(self, spec: TaskSpec, value: Any, took: int, now: float) -> None:
        """Send the result of a call that took `took` microseconds and ended `now`, by the monotonic clock."""
        self.show_rest()
        client = self.client
        if client.exiting:
            raise ActorExit
        at = None
        if client.link.out is not client.stamped:
            client.stamped = client.link.out
            at = now
        if spec.returns == 1:
            if value is None:
                client.finished(Done(spec.task, NONE, (), took, at))
                return
            packed = pack(value)
            data: Value
            if packed.size < LARGE:
                data = packed.to_bytes() if packed.buffers else packed.pickled
            else:
                data = client._lay_down(packed, spec.task)
            client.finished(Done(spec.task, data, packed.refs, took, at))
            client.sent(data)
            return
        values: list[Value] = []
        inner, left = [], PORTION
        for i, item in enumerate(value):
            data, keys = self.lay(item, spec.task + i, LARGE if left > 0 else 1)
            if type(data) is bytes:
                left -= len(data)
            values.append(data)
            inner.append(keys)
        client.finished(DoneMany(spec.task, values, inner, took, at))
        for data in values:
            client.sent(data)

    def report(self, spec: TaskSpec, error: BaseException, name: str, options: Any, took: int = 0) -> None:
        """Send a call's error; leave when it says so."""
        self.show_rest()
        client = self.client
        if isinstance(error, LostValue) and (not spec.actor or spec.method):
            client.ask("lose", error.key)
            client.finished(Back([spec.task]))  # it has not begun: it waits until the value was made again
            return
        if isinstance(error, SystemExit) and not isinstance(error, ActorExit):
            self._exit_for(error)
        if isinstance(error, ActorExit) or client.exiting:
            self.leave("it called exit_actor", final=True)
        retry = bool(options.retry_exceptions) and isinstance(error, Exception)
        if retry and options.retry_on:
            retry = isinstance(error, unpack(options.retry_on))
        if wants_post_mortem(error) and not (retry and self._may_try_again(options)):
            error = breakpoints.post_mortem(error, name, user_frames(error))
        retry = retry and isinstance(error, Exception) and not has_quit(error)
        actor_id = ids.actor_binary(spec.actor).hex() if spec.actor else None
        failure: RayError = task_error(error, name, actor=self.actor_name or None, actor_id=actor_id)
        cancelled = False
        if isinstance(failure, TaskCancelledError):
            failure.task_id = TaskID(ids.task_binary(spec.task))
            cancelled = not isinstance(error, Exception)
        packed = pack_error(failure)
        if packed.size > LARGEST_ERROR:
            note = ValueError(f"{type(error).__name__}, of {packed.size:,} bytes: too large an error to be sent")
            packed = pack_error(task_error(note, name, actor=self.actor_name or None, actor_id=actor_id))
        data = packed.to_bytes()
        client.cancelled.discard(spec.task)
        if client.may_block:  # with other calls under way, their blocks are not ours to judge
            client.reclaim()
        client.finished(Failed(spec.task, data, retry, cancelled, took, perf_counter()))

    def _may_try_again(self, options: Any) -> bool:
        most = options.max_retries
        if most is None and self.hosting is not None:
            most = self.hosting.info.options.max_task_retries
        here = running.get() or self.client.current
        return most is None or most < 0 or getattr(here, "attempt", 0) < most

    def _exit_for(self, error: SystemExit) -> NoReturn:
        code = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
        if self.hosting is not None:
            self.leave(f"it called sys.exit({code})", final=code == 0)
        self.client.flush()
        self.end(code)

    def leave(self, reason: str, final: bool) -> NoReturn:
        """End on purpose."""
        self.client.finished(Leaving(reason, final))
        self.client.flush()
        self.end(0)

    def end(self, code: int) -> NoReturn:
        """Run what the user registered for the end, then go."""
        try:
            if self.instance is not None and hasattr(self.instance, "__ray_shutdown__"):
                self.instance.__ray_shutdown__()
            atexit._run_exitfuncs()
        finally:
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(ValueError, OSError):  # closed, or nobody reads
                    stream.flush()
            os._exit(code)
