"""A hub without processes: fake ports and links, and workers that do what a script says."""

from __future__ import annotations

import itertools
import os
import zlib
from typing import Any

from skate.core.ids import IdSource
from skate.core.serialization import pack, unpack
from skate.core.settings import Settings
from skate.core.spec import ActorInfo, ActorOptions, CallOptions, MethodInfo, TaskOptions
from skate.engines.local.arena import Arena
from skate.engines.local.boot import PAGE
from skate.engines.local.messages import (
    Done,
    DoneMany,
    Export,
    Failed,
    Hello,
    Stored,
    TaskSpec,
    encoder,
    to_hub,
    to_worker,
)
from skate.engines.local.requests import Requests
from skate.engines.local.rows import READY, Node, Row, Worker

CPU = 10_000
NONE = pack(None).to_bytes()
ERROR = pack(ValueError("as the script says")).to_bytes()
TAKES_LONG = 1_000_000
"""Microseconds."""


class Clock:
    """A clock that a script moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


class FakeLink:
    """Keeps what the hub sends, after a trip through the wire's own encoding."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.begun: set[int] = set()

    def send(self, message: Any) -> None:
        self.sent += to_worker.decode(encoder.encode([message]))

    def frame(self) -> None:
        """Where frames end does not matter here."""

    def of(self, kind: type) -> list[Any]:
        """What was sent of one kind, all in all."""
        return [message for message in self.sent if type(message) is kind]


class ScriptedWorker(Worker):
    """Hashes the same in every run, so that sets of workers have the same order whenever an example is repeated."""

    __slots__ = ()

    def __init__(self, client: int, environment: str, node: Node) -> None:
        super().__init__(client, environment, FakeLink(), node)  # type: ignore[arg-type]

    def __hash__(self) -> int:
        return self.client


def values_in(message: Any) -> list[Stored]:
    """The stored values that a message brings."""
    if isinstance(message, Stored):
        return [message]
    if isinstance(message, list | tuple):
        return [value for part in message for value in values_in(part)]
    fields = getattr(message, "__struct_fields__", ())
    return [value for name in fields for value in values_in(getattr(message, name))]


def under(value: Any, key: int) -> Any:
    """A stored value, laid down for the object `key`."""
    return Stored(key, value.offset, value.size) if isinstance(value, Stored) else value


class Numbers(IdSource):
    """Keys of one client, and the order in which all keys of a session were made."""

    __slots__ = ("born",)

    def __init__(self, client: int, born: dict[int, int]) -> None:
        super().__init__(client)
        self.born = born

    def take(self, count: int = 1) -> int:
        first = super().take(count)
        for key in range(first, first + count):
            self.born[key] = len(self.born)
        return first


class Session:
    """The hub, its ports, and helpers that read like a story."""

    meter = None
    """As a port: ``memory=`` is not enforced."""

    def __init__(self, cpus: int = 2, pages: int = 64, **total: int) -> None:
        self.clock = Clock()
        fd = os.memfd_create("scripted", os.MFD_CLOEXEC)
        os.ftruncate(fd, pages * PAGE)
        self.arena = Arena(fd, pages * PAGE)
        amounts = {"CPU": cpus * CPU, **total}
        self.hub = Requests(Settings(namespace="test"), {n: u for n, u in amounts.items() if u}, self.arena, self)
        self.hub.timers.clock = self.clock.monotonic
        self.born: dict[int, int] = {}
        """Every key that was made, with its place in their order."""
        self.ids = Numbers(1, self.born)
        self.clients = itertools.count(2)
        self.requests = itertools.count(1)
        self.loose: dict[int, int] = {}
        """Blocks that `block` made and no message has taken: size by offset."""
        self.own: dict[Worker, Numbers] = {}
        self.newcomers: list[Worker] = []
        self.everyone: list[Worker] = []
        self.checks: dict[int, int] = {}
        """Checksums that the hub was told, of files that others wrote."""
        self.signals: list[tuple[Worker, int]] = []
        self.warnings: list[str] = []
        self.dropped: list[int] = []
        self.disk: dict[int, bytes] = {}
        self.disk_problem = ""
        self._options: dict[TaskOptions, TaskOptions] = {}
        for name in (b"f", b"g", b"h", b"Class"):
            self.hub.definitions[name] = Export(name, b"pickle of " + name, name.decode())

    def close(self) -> None:
        self.arena.close()

    def wait(self, seconds: float) -> None:
        """Time passes, and timers run when they are due."""
        until = self.clock.now + seconds
        while self.clock.now < until:
            following = self.hub.timers.next()
            self.clock.now = until if following is None else min(until, max(self.clock.now, following))
            self.hub.timers.tick(self.clock.now)

    # -------------------------------------------------------------- the hub's ports

    def start(self, environment: str, node: Node) -> Worker:
        worker = ScriptedWorker(next(self.clients), environment, node)
        self.newcomers.append(worker)
        self.everyone.append(worker)
        return worker

    def signal(self, worker: Worker, number: int) -> None:
        self.signals.append((worker, number))

    def warn(self, text: str, source: str = "SESSION") -> None:
        self.warnings.append(text)

    def spill(self, key: int, offset: int, size: int) -> int | None:
        if self.disk_problem:
            return None
        self.disk[key] = bytes(self.arena.map().slice(offset, size))
        return zlib.crc32(self.disk[key])

    def reserve_spill(self, key: int, size: int) -> bool:
        return not self.disk_problem

    def spilled(self, key: int, check: int) -> None:
        self.disk.setdefault(key, b"")
        self.checks[key] = check

    def restore(self, value: Stored, offset: int) -> bool:
        data = self.disk.get(value.key)
        if data is None or zlib.crc32(data) != ~value.offset:
            return False
        self.arena.map().slice(offset, value.size)[:] = data
        return True

    def unspill(self, key: int, size: int) -> None:
        self.disk.pop(key, None)

    def rename_spill(self, key: int, name: int) -> None:
        self.disk[name] = self.disk.pop(key)

    def spill_folder(self) -> str:
        return "nowhere"

    def why_not_spilled(self) -> str:
        return self.disk_problem

    def collect(self) -> None:
        while self.dropped:
            self.hub.release(self.dropped.pop())

    # ------------------------------------------------------------------ the driver

    def options(self, **changes: Any) -> TaskOptions:
        """Options objects are shared by the calls of a function."""
        made = TaskOptions(**changes)
        return self._options.setdefault(made, made)

    def task(
        self,
        function: bytes = b"f",
        deps: tuple[int, ...] = (),
        refs: tuple[int, ...] = (),
        returns: int = 1,
        owner: Worker | None = None,
        args: Any = b"",
        parent: int = 0,
        **options: Any,
    ) -> int:
        task = self.ids.take(max(1, returns))
        spec = TaskSpec(task, function, args, returns, deps, refs)
        self.hub.submit(spec, self.options(returns=returns, **options), owner, parent)
        return task

    def put(self, value: Any = b"value", refs: tuple[int, ...] = (), holder: Worker | None = None) -> int:
        key = self.ids.take()
        self.hub.put(key, value, refs, holder)
        return key

    def put_large(self, size: int = PAGE, refs: tuple[int, ...] = (), holder: Worker | None = None) -> int:
        key = self.ids.take()
        self.hub.put(key, self.block(size, key), refs, holder)
        return key

    def block(self, size: int = PAGE, key: int = 0) -> Stored:
        """A value in the arena, as a worker or the driver laid it down."""
        key = key or self.ids.take()
        offset = self.hub.allocate(key, size)
        if offset < 0:
            return self.file(key, size)
        self.loose[offset] = size
        return Stored(key, offset, size)

    def file(self, key: int, size: int) -> Stored:
        """A value that went to a file at once."""
        self.disk[key] = bytes(size)
        return Stored(key, ~zlib.crc32(self.disk[key]), size)

    def new(self, owner: Worker | None = None, count: int = 1) -> int:
        """Keys for what the driver, or a worker, is about to make."""
        if owner is None:
            return self.ids.take(count)
        return self.own.setdefault(owner, Numbers(owner.client, self.born)).take(count)

    def actor(
        self,
        deps: tuple[int, ...] = (),
        refs: tuple[int, ...] = (),
        owner: Worker | None = None,
        args: Any = b"",
        **options: Any,
    ) -> int:
        actor = self.ids.take()
        spec = TaskSpec(actor, b"Class", args, 1, deps, refs, actor)
        info = ActorInfo(actor, ActorOptions(class_name="Class", **options), (MethodInfo("m"),))
        return self.hub.spawn(spec, info, "test", owner).actor

    def call(
        self,
        actor: int,
        deps: tuple[int, ...] = (),
        refs: tuple[int, ...] = (),
        returns: int = 1,
        owner: Worker | None = None,
        args: bytes | Stored = b"",
        **options: Any,
    ) -> int:
        task = self.ids.take(max(1, returns))
        spec = TaskSpec(task, b"", args, returns, deps, refs, actor, "m")
        self.hub.call(spec, CallOptions(returns=returns, **options), owner)
        return task

    # ------------------------------------------------------------------- workers

    def tell(self, worker: Worker, *messages: Any) -> None:
        """A worker sends messages; the blocks in them are such as it was granted."""
        granted = {offset for offset, _ in worker.granted}
        for value in [value for message in messages for value in values_in(message)]:
            if value.offset in self.loose and value.offset not in granted:
                worker.granted.append((value.offset, self.loose.pop(value.offset)))
        self.hear(worker, encoder.encode(list(messages)))

    def hear(self, worker: Worker, frame: bytes) -> None:
        """Bytes arrive from a worker."""
        self.hub.receive(worker, to_hub.decode(frame))

    def arrive(self, most: int = 1000) -> list[Worker]:
        """Workers that were started come up, and those that are started because of them."""
        arrived = []
        while self.newcomers and len(arrived) < most:
            worker = self.newcomers.pop(0)
            if worker.client in self.hub.workers:
                self.tell(worker, Hello(1000 + worker.client))
                arrived.append(worker)
        return arrived

    def running(self, worker: Worker) -> list[int]:
        """The calls that a worker was sent and has not ended, in order."""
        return list(worker.running)

    def at_work(self) -> dict[int, Worker]:
        """Every call sent and not ended, with its worker."""
        return {task: worker for worker in self.hub.workers.values() for task in worker.running}

    def done(self, task: int, value: Any = NONE, refs: tuple[int, ...] = (), took: int = TAKES_LONG) -> None:
        worker = self.at_work()[task]
        self.tell(worker, Done(task, under(value, task), refs, took))

    def done_many(self, task: int, values: list[Any], refs: list[tuple[int, ...]] | None = None) -> None:
        values = [under(value, task + i) for i, value in enumerate(values)]
        self.tell(self.at_work()[task], DoneMany(task, values, refs or [()] * len(values), TAKES_LONG))

    def fail(self, task: int, error: bytes = ERROR, retry: bool = False) -> None:
        self.tell(self.at_work()[task], Failed(task, error, retry, False, TAKES_LONG))

    def die(self, worker: Worker, how: str = "killed by SIGKILL") -> None:
        self.hub.died(worker, how)

    def up_with(self, task: int) -> Worker:
        """Let workers arrive until `task` is at one; that one."""
        self.arrive()
        return self.at_work()[task]

    # ---------------------------------------------------------------------- looks

    def row(self, key: int) -> Row:
        return self.hub.rows[key]

    def known(self, key: int) -> bool:
        return key in self.hub.rows

    def is_ready(self, key: int) -> bool:
        return self.known(key) and self.row(key).state == READY

    def error(self, key: int) -> Any:
        """The error that a failed object holds."""
        row = self.row(key)
        assert row.state == 2, f"object {key} has not failed: {row.state}"
        return unpack(row.value)

    def release(self, *keys: int) -> None:
        for key in keys:
            self.hub.release(key)

    def check_empty(self) -> None:
        """Nothing is left of anything."""
        hub = self.hub
        assert hub.rows == {}, {key: (row.state, row.count, row.spec) for key, row in hub.rows.items()}
        assert hub.streams == {}
        assert hub.actors == {} and hub.names == {}
        assert hub.children == {}
        granted = sum(-(-size // PAGE) * PAGE for worker in hub.workers.values() for _, size in worker.granted)
        assert self.arena.used == granted
