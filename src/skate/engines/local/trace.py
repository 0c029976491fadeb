"""The trace of a session: every event that enters the hub, and every command that it gives, as frames of a file.

The hub decides by its events alone, so a fresh one that is fed them decides the same: see `skate.testing.replay`. A
frame is a u32 length (little endian) and a msgpack array whose first item says what it is:

* ``trace``: format, salt of ids, namespace, rules of the memory monitor, labels and resources of the driver's node,
  the most workers, capacity of the arena;
* ``options``: number, kind, bytes. Options are compared by identity, so events name them by number;
* ``event``: time, name, arguments as in `replay.py`;
* what followed from the event: ``send``, ``signal``, ``start``, ``warn``, ``collect``, ``file``, ``raised``.

Recording costs some microseconds for each event, and nothing when it is off.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import msgspec

from skate.core import ids
from skate.core.spec import TaskOptions
from skate.engines.local import tap
from skate.engines.local.link import Link
from skate.engines.local.messages import Leaving, encoder

if TYPE_CHECKING:
    from skate.engines.local.requests import Requests
    from skate.engines.local.rows import Node, Worker

FORMAT = 3
LENGTH = struct.Struct("<I")
PLAIN = (
    *("hold", "release", "hold_view", "lose", "allocate", "read_on", "abandon_stream", "cancel", "kill"),
    *("break_down", "reap", "unprepared", "dismiss", "add_node", "remove_node", "unreserve"),
)
"""Methods of the hub that change it, with arguments that need no packing."""
LATE = ("reap", "doom", "dismiss")
"""What the host's own timers do, which the replay has not: an event of its own, after the tick."""
PUBLIC = (
    *("submit", "call", "spawn", "put", "discard", "read", "promise", "receive", "died", "expel", "doom", "reserve"),
    *("await_group", *PLAIN),
)
"""All that outsiders call to change the hub."""
FILES = (
    *("spill", "reserve_spill", "spilled", "restore", "unspill", "rename_spill", "spill_folder", "why_not_spilled"),
)
"""Ports that are asked for something, and answer."""


class Recorder:
    """Writes the trace of a hub that has not seen anything yet."""

    def __init__(self, hub: Requests, path: str) -> None:
        self.hub = hub
        self.file = open(path, "wb")  # noqa: SIM115  open as long as the session
        self.depth = 0
        self.now = 0.0
        self.options: dict[int, tuple[int, Any]] = {}
        """Number and object by identity; kept, so that no other object gets the identity."""
        self.known: set[bytes] = set()
        self.collected: list[tuple[str, int]] | None = None
        self.late: list[tuple[Any, ...]] = []
        settings = hub.settings
        memory = encoder.encode(settings.memory)
        place = settings.labels, hub.scheduler.head.total, settings.max_workers
        self.write("trace", FORMAT, ids.salt(), settings.namespace, memory, *place, hub.arena.capacity)
        for node in hub.scheduler.nodes.values():
            if node is not hub.scheduler.head:
                self.write("event", time.monotonic(), "add_node", node.total, node.labels, node.name, node.key)
        self.ports: Any = hub.ports
        hub.ports = cast("Any", self)
        hub.timers.clock = self.clock
        for name in PUBLIC:
            setattr(hub, name, partial(self._enter, name, getattr(hub, name)))
        for name in FILES:
            setattr(self, name, partial(self._ask, name))
        hub.timers.tick = partial(self._tick, hub.timers.tick)  # type: ignore[method-assign]

    def write(self, *frame: Any) -> None:
        """Append a frame."""
        body = msgspec.msgpack.encode(frame)
        self.file.write(LENGTH.pack(len(body)) + body)

    def clock(self) -> float:
        """The time, which stands still while an event is handled."""
        return self.now if self.depth else time.monotonic()

    # -------------------------------------------------------------------- events

    def _enter(self, name: str, act: Callable[..., Any], *args: Any, **named: Any) -> Any:
        if self.depth:
            if self.collected is not None and name in ("release", "abandon_stream"):
                self.collected.append((name, args[0]))
            if name in LATE:
                self.late.append((name, act, *args))
                return None
            return act(*args, **named)
        pack: Callable[..., tuple[Any, ...]] = _PACK.get(name, _as_it_is)
        packed = pack(self, *args, **named)
        self.now = time.monotonic()
        self.write("event", self.now, name, *packed)
        return self._run(act, *args, **named)

    def _run(self, act: Callable[..., Any], *args: Any, **named: Any) -> Any:
        self.depth += 1
        try:
            return act(*args, **named)
        except Exception as error:
            self.write("raised", type(error).__name__)
            raise
        finally:
            self.depth -= 1

    def _tick(self, tick: Callable[[float], None], now: float) -> None:
        following = self.hub.timers.next()
        if following is None or following > now:
            return
        self.now = now
        self.write("event", now, "tick")
        self._run(tick, now)
        late, self.late = self.late, []
        for name, act, *args in late:
            self._enter(name, act, *args)

    # ------------------------------------------------------- arguments of some events

    def _pack_submit(self, spec: Any, options: Any, owner: Any, parent: int = 0) -> tuple[Any, ...]:
        self._export(spec.function)
        return encoder.encode(spec), self._number(options), parent

    def _pack_call(self, spec: Any, options: Any, owner: Any, parent: int = 0) -> tuple[Any, ...]:
        return encoder.encode(spec), self._number(options), parent

    def _pack_spawn(self, spec: Any, info: Any, namespace: str, owner: Any) -> tuple[Any, ...]:
        self._export(spec.function)
        return encoder.encode(spec), encoder.encode(info), namespace

    def _pack_put(self, key: int, value: Any, refs: tuple[int, ...], holder: Any) -> tuple[Any, ...]:
        return key, encoder.encode(value), refs

    def _pack_discard(self, value: Any) -> tuple[Any, ...]:
        return (encoder.encode(value),)

    def _pack_read(self, key: int, row: Any) -> tuple[Any, ...]:
        return (key,)

    def _pack_promise(self, task: int, key: int, holder: Any) -> tuple[Any, ...]:
        return task, key

    def _pack_receive(self, worker: Worker, messages: list[Any]) -> tuple[Any, ...]:
        tail = list(worker.tail) if any(type(message) is Leaving for message in messages) else []
        return worker.client, encoder.encode(messages), worker.pid, tail

    def _pack_died(self, worker: Worker, how: str) -> tuple[Any, ...]:
        return worker.client, how, worker.pid, list(worker.tail)

    def _pack_expel(self, worker: Worker, why: str) -> tuple[Any, ...]:
        return worker.client, why, worker.pid

    def _pack_reserve(self, key: int, spec: Any, owner: Any) -> tuple[Any, ...]:
        return key, encoder.encode(spec)

    def _pack_await_group(self, promise: int, key: int, value: bytes, holder: Any) -> tuple[Any, ...]:
        return promise, key, value

    def _pack_doom(self, worker: Worker, doom: Any) -> tuple[Any, ...]:
        return worker.client, *doom

    def _export(self, function: bytes) -> None:
        if function not in self.known:
            self.known.add(function)
            export = self.hub.definitions[function]
            self.write("event", time.monotonic(), "export", function, export.blob, export.name)

    def _number(self, options: Any) -> int:
        known = self.options.get(id(options))
        if known is None:
            known = self.options[id(options)] = len(self.options), options
            kind = "task" if isinstance(options, TaskOptions) else "call"
            self.write("options", known[0], kind, encoder.encode(options))
        return known[0]

    # ------------------------------------------------------------------ commands

    def start(self, environment: str, node: Node) -> Worker | None:
        """As the ports do."""
        worker: Worker | None = self.ports.start(environment, node)
        self.write("start", environment, node.key, worker.client if worker is not None else 0)
        if worker is not None:
            tap.watch(worker.link, partial(self._sent, worker.client))
        return worker

    def _sent(self, client: int, _: Link, message: Any) -> None:
        if self.depth:  # what the host says by itself, as Welcome, is no decision
            self.write("send", client, encoder.encode([message]))

    def signal(self, worker: Worker, number: int) -> None:
        """As the ports do."""
        self.write("signal", worker.client, int(number))
        self.ports.signal(worker, number)

    def warn(self, text: str, source: str = "SESSION") -> None:
        """As the ports do."""
        self.write("warn", text)
        self.ports.warn(text, source)

    @property
    def meter(self) -> Any:
        """As the ports do; what it measures concerns the memory monitor alone."""
        return self.ports.meter

    def collect(self) -> None:
        """As the ports do."""
        self.collected = []
        try:
            self.ports.collect()
        finally:
            self.write("collect", self.collected)
            self.collected = None

    def _ask(self, name: str, *args: Any) -> Any:
        answer = getattr(self.ports, name)(*args)
        self.write("file", name, encoder.encode(args), answer)
        return answer

    def close(self) -> None:
        """Write what is left."""
        self.file.close()


def _as_it_is(_: Recorder, *args: Any) -> tuple[Any, ...]:
    return args


_PACK: dict[str, Callable[..., tuple[Any, ...]]] = {
    "submit": Recorder._pack_submit,
    "call": Recorder._pack_call,
    "spawn": Recorder._pack_spawn,
    "put": Recorder._pack_put,
    "discard": Recorder._pack_discard,
    "read": Recorder._pack_read,
    "promise": Recorder._pack_promise,
    "receive": Recorder._pack_receive,
    "died": Recorder._pack_died,
    "expel": Recorder._pack_expel,
    "doom": Recorder._pack_doom,
    "reserve": Recorder._pack_reserve,
    "await_group": Recorder._pack_await_group,
}
