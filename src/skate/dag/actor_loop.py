"""The loop of a compiled graph in one of its actors: read, call, write, over and over, in a thread of its own.

The actor goes on answering ordinary calls. A method that raises gives an error in place of its value; calls that take
it do not run, and hand it on. The thread ends when the graph is closed, or its driver's process is gone.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import select
import threading
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

from skate.dag.channel import ERROR, VALUE, Closed, Member, Receiver, Sender
from skate.dag.memory import CLOSED, Memory, bell, ended, fence
from skate.dag.plan import Const, Operation, Take
from skate.dag.values import Data, Kept, decode, encode
from skate.engines.execution import pack_error, split_returns, task_error


class Share(NamedTuple):
    """What an actor must know to take part in a graph."""

    pid: int
    """The process that made the graph."""
    fd: int
    size: int
    token: int
    member: int
    members: int
    """How many there are, the driver too."""
    operations: tuple[Operation, ...]


class Failure:
    """Stands for a value that could not be made."""

    __slots__ = ("data",)

    def __init__(self, data: Data) -> None:
        self.data = data


_running: threading.Thread | None = None
"""The loop in this process: an actor has one at a time."""


def join_graph(instance: Any, share: Share) -> int:
    """Start the loop in this actor; returns the process's id. Does nothing where driver and actor are one process.

    Raises RuntimeError when the actor is part of another graph, OSError when the memory cannot be reached.
    """
    global _running
    pid = os.getpid()
    if pid == share.pid:
        return pid
    if _running is not None:
        _running.join(1)  # of a graph that has just ended
        if _running.is_alive():
            raise RuntimeError(
                f"{type(instance).__name__} is part of another compiled graph: call its teardown() before."
            )
    memory = Memory.attach(share.pid, share.fd, share.size, share.token)
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        loop = None
    actor_loop = ActorLoop(instance, memory, share, loop)
    _running = threading.Thread(target=actor_loop.run, name="skate-graph", daemon=True)
    _running.start()
    threading.Thread(target=actor_loop.watch, name="skate-graph-watch", daemon=True).start()
    return pid


class ActorLoop:
    """What one actor does for a graph."""

    def __init__(self, instance: Any, memory: Memory, share: Share, loop: asyncio.AbstractEventLoop | None) -> None:
        self.instance = instance
        self.memory = memory
        self.share = share
        self.loop = loop
        """The actor's own event loop, if it has one: coroutines run there."""
        self.member = Member(memory, share.member)
        self.kept = Kept()
        self.driver = os.pidfd_open(share.pid)
        self.over = os.eventfd(0)
        self.values: dict[int, Any] = {}
        self.steps = [self._step(operation) for operation in share.operations]

    def run(self) -> None:
        """Until the graph ends; what has come for later steps is left then."""
        steps, words = self.steps, self.memory.words
        try:
            while True:
                for step in steps:
                    if words[CLOSED]:
                        raise Closed("The compiled graph has ended.")
                    step()
        except Closed:
            pass
        except BaseException:  # noqa: BLE001  a fault of ours, or no memory: the driver must not wait for this actor
            traceback.print_exc()
            self.memory.words[CLOSED] = 1
        finally:
            self.kept.drop()
            words[ended(self.share.member)] = 1
            fence()
            for number in range(self.share.members):
                self.memory.knock(bell(number))
            os.eventfd_write(self.over, 1)

    def watch(self) -> None:
        """Close the graph when the process that made it is gone, for nobody else can; clear up after the loop."""
        looks = select.poll()
        looks.register(self.driver, select.POLLIN)
        looks.register(self.over, select.POLLIN)
        looks.poll()
        self.memory.words[CLOSED] = 1
        fence()
        self.memory.knock(bell(self.share.member))
        os.eventfd_read(self.over)
        os.close(self.driver)
        os.close(self.over)
        self.memory.unmap()

    def _step(self, operation: Operation) -> Callable[[], None]:
        method = getattr(self.instance, operation.method)
        if inspect.iscoroutinefunction(method):
            method = self._awaited(method)
        name = f"{type(self.instance).__name__}.{operation.method}"
        reads = [(Receiver(self.member, place), number) for place, number in operation.reads]
        writes = [(Sender(self.member, place), index) for place, index in operation.writes]
        values, kept = self.values, self.kept
        plain = len(reads) == 1 and operation.args == (Take(reads[0][1]),) and not operation.kwargs
        if plain and operation.keep is None and len(writes) == 1 and writes[0][1] is None:
            return self._simple_step(method, name, reads[0][0], writes[0][0])

        indexes = {index for _, index in writes}

        def step() -> None:
            for receiver, number in reads:
                values[number] = self._read(receiver, name)
            try:
                args = [_value(values, source) for source in operation.args]
                kwargs = {key: _value(values, source) for key, source in operation.kwargs}
                result = method(*args, **kwargs)
                if operation.returns > 1:
                    result = split_returns(result, operation.returns, name)
                packed = {index: encode(result if index is None else result[index], kept) for index in indexes}
                messages = [(VALUE, packed[index]) for _, index in writes]
            except _Failed as failed:
                result = failed.failure
                messages = [(ERROR, result.data)] * len(writes)
            except BaseException as error:  # noqa: BLE001  whatever user code raises is the caller's
                result = Failure(self._error(error, name))
                messages = [(ERROR, result.data)] * len(writes)
            if operation.keep is not None:
                values[operation.keep] = result
            for (sender, _), (kind, data) in zip(writes, messages, strict=True):
                sender.send(kind, data)

        return step

    def _simple_step(
        self, method: Callable[..., Any], name: str, receiver: Receiver, sender: Sender
    ) -> Callable[[], None]:
        """The usual step, one value in and one out, without what others need."""
        receive, send, kept = receiver.receive, sender.send, self.kept

        def step() -> None:
            kind, data = receive()
            answer: Data = data
            if kind == VALUE:
                try:
                    answer = encode(method(decode(data)), kept)
                except BaseException as error:  # noqa: BLE001  whatever user code raises is the caller's
                    kind, answer = ERROR, self._error(error, name)
            send(kind, answer)

        return step

    def _read(self, receiver: Receiver, name: str) -> Any:
        kind, data = receiver.receive()
        if kind == VALUE:
            try:
                return decode(data)
            except BaseException as error:  # noqa: BLE001  the value's class may raise anything here
                data = self._error(error, name)
        return Failure(data)

    def _error(self, error: BaseException, name: str) -> bytes:
        return pack_error(task_error(error, name, actor=type(self.instance).__name__)).to_bytes()

    def _awaited(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            assert self.loop is not None
            return asyncio.run_coroutine_threadsafe(method(*args, **kwargs), self.loop).result()

        return call


class _Failed(Exception):
    """An argument could not be made."""

    def __init__(self, failure: Failure) -> None:
        self.failure = failure


def _value(values: dict[int, Any], source: Take | Const) -> Any:
    if isinstance(source, Const):
        return source.value
    value = values[source.value]
    if type(value) is Failure:
        raise _Failed(value)
    return value if source.part is None else value[source.part]
