"""Feed the trace of a session to a fresh hub, and see whether it decides the same.

::

    SKATE_TRACE=/tmp/session.trace python program.py
    python -m skate.testing.replay /tmp/session.trace

No process is started and no time passes: a failure that was found once can be looked at again and again, with a
debugger or after a change of the hub.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple, cast

import msgspec

from skate.core import ids
from skate.core.memory_rules import MemoryRules
from skate.core.settings import Settings
from skate.core.spec import ActorInfo, CallOptions, GroupSpec, TaskOptions
from skate.engines.local.arena import Arena
from skate.engines.local.messages import Export, TaskSpec, Value, encoder, to_hub, to_worker
from skate.engines.local.requests import Requests
from skate.engines.local.rows import Doom, Node, Worker
from skate.engines.local.trace import FILES, FORMAT, LENGTH

Frame = list[Any]


class Divergence(AssertionError):
    """The hub decided otherwise than in the trace."""


class Replayed(NamedTuple):
    """What a replay went through."""

    events: int
    commands: int
    hub: Requests
    """As it was at the end of the trace."""


def frames(path: str | os.PathLike[str]) -> Iterator[Frame]:
    """The frames of a trace; one that was cut short by a crash ends with its last whole frame."""
    with open(path, "rb") as file:
        while len(head := file.read(4)) == 4:
            (size,) = LENGTH.unpack(head)
            body = file.read(size)
            if len(body) < size:
                return
            yield msgspec.msgpack.decode(body)


def replay(path: str | os.PathLike[str], hub: type[Requests] = Requests) -> Replayed:
    """Run a trace through a fresh hub. `Divergence` names the first event after which it decided otherwise."""
    stage = None
    pending: Frame | None = None
    commands: list[Frame] = []
    salt = ids.salt()
    try:
        for frame in frames(path):
            if frame[0] == "trace":
                stage = _Stage(frame, hub)
            elif stage is None:
                raise ValueError(f"{path} is no trace of a session: it begins with {frame[0]!r}.")
            elif frame[0] == "options":
                stage.learn(*frame[1:])
            elif frame[0] == "event":
                if pending is not None:
                    stage.act(pending, commands)
                pending, commands = frame, []
            else:
                commands.append(frame)
        if stage is None:
            raise ValueError(f"{path} is empty.")
        if pending is not None and commands:  # the very last may have been cut short
            stage.act(pending, commands, whole=False)
        return Replayed(stage.events, stage.commands, stage.hub)
    finally:
        ids.use_salt(salt)
        if stage is not None:
            stage.arena.close()


class _PaperArena(Arena):
    """Hands out the same blocks, and has no memory."""

    def __init__(self, capacity: int) -> None:
        super().__init__(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC), capacity)

    def _extend(self, target: int) -> bool:
        return True


class _Link:
    """Keeps what is sent."""

    def __init__(self, stage: _Stage, client: int) -> None:
        self.stage = stage
        self.client = client
        self.closed = False

    def send(self, message: Any) -> None:
        """As a link does; what goes to the dead was not recorded."""
        if not self.closed:
            self.stage.said.append(["send", self.client, encoder.encode([message])])

    def frame(self) -> None:
        """Where frames end makes no difference here."""


class _Stage:
    """The hub's ports, which answer as they did in the trace."""

    meter = None
    """What a meter told decided nothing but `doom`, which was recorded."""

    def __init__(self, head: Frame, hub: type[Requests]) -> None:
        form = head[1]
        if form != FORMAT:
            raise ValueError(f"A trace of format {form}: this version of Skate reads format {FORMAT}.")
        _, _, salt, namespace, memory, labels, total, most, capacity = head
        ids.use_salt(salt)
        self.arena = _PaperArena(capacity)
        self.now = 0.0
        rules = msgspec.msgpack.decode(memory, type=MemoryRules)
        settings = Settings(namespace=namespace, memory=rules, labels=labels, max_workers=most)
        self.hub = hub(settings, total, self.arena, cast("Any", self))
        self.hub.timers.clock = lambda: self.now
        for name in FILES:
            setattr(self, name, partial(self._file, name))
        self.options: dict[int, Any] = {}
        self.workers: dict[int, Worker] = {}
        self.said: list[Frame] = []
        self.answers: deque[Frame] = deque()
        self.events = self.commands = 0

    def learn(self, number: int, kind: str, data: bytes) -> None:
        """Options that events name by number."""
        self.options[number] = msgspec.msgpack.decode(data, type=TaskOptions if kind == "task" else CallOptions)

    def act(self, event: Frame, expected: list[Frame], whole: bool = True) -> None:
        """One event, and the comparison of what follows from it."""
        _, self.now, name, *args = event
        self.events += 1
        self.said = []
        self.answers = deque(frame for frame in expected if frame[0] in ("start", "collect", "file"))
        try:
            (getattr(self, f"_do_{name}", None) or getattr(self.hub, name))(*args)
        except Divergence as problem:
            raise Divergence(f"{self._where(event)}: {problem}") from None
        except Exception as error:
            self.said.append(["raised", type(error).__name__])
            if ["raised", type(error).__name__] not in expected:
                raise Divergence(f"{self._where(event)}: the hub raised {type(error).__name__}: {error}") from error
        self.commands += len(self.said)
        for number in range(max(len(self.said), len(expected))):
            said = self.said[number] if number < len(self.said) else None
            wanted = expected[number] if number < len(expected) else None
            if said != wanted and (whole or wanted is not None):
                raise Divergence(
                    f"{self._where(event)}: command {number + 1} differs.\n  recorded: {_shown(wanted)}\n"
                    f"  replayed: {_shown(said)}"
                )

    def _where(self, event: Frame) -> str:
        return f"At event {self.events} ({_shown(event)})"

    # -------------------------------------------------------------------- events

    def _do_submit(self, spec: bytes, options: int, parent: int) -> None:
        self.hub.submit(_decode_spec(spec), self.options[options], None, parent)

    def _do_call(self, spec: bytes, options: int, parent: int) -> None:
        self.hub.call(_decode_spec(spec), self.options[options], None, parent)

    def _do_spawn(self, spec: bytes, info: bytes, namespace: str) -> None:
        self.hub.spawn(_decode_spec(spec), msgspec.msgpack.decode(info, type=ActorInfo), namespace, None)

    def _do_put(self, key: int, value: bytes, refs: list[int]) -> None:
        self.hub.put(key, msgspec.msgpack.decode(value, type=Value), tuple(refs), None)

    def _do_promise(self, task: int, key: int) -> None:
        self.hub.promise(task, key, None)

    def _do_export(self, function: bytes, blob: bytes, name: str) -> None:
        self.hub.definitions.setdefault(function, Export(function, blob, name))

    def _do_tick(self) -> None:
        self.hub.timers.tick(self.now)

    def _do_discard(self, value: bytes) -> None:
        self.hub.discard(msgspec.msgpack.decode(value, type=Value))

    def _do_read(self, key: int) -> None:
        self.hub.read(key, self.hub.rows[key])

    def _do_receive(self, client: int, messages: bytes, pid: int, tail: list[str]) -> None:
        self.hub.receive(self._worker(client, pid, tail), to_hub.decode(messages))

    def _do_died(self, client: int, how: str, pid: int, tail: list[str]) -> None:
        worker: Any = self._worker(client, pid, tail)
        worker.link.closed = True
        self.hub.died(worker, how)

    def _do_expel(self, client: int, why: str, pid: int) -> None:
        self.hub.expel(self._worker(client, pid, []), why)

    def _do_reserve(self, key: int, spec: bytes) -> None:
        self.hub.reserve(key, msgspec.msgpack.decode(spec, type=GroupSpec), None)

    def _do_await_group(self, promise: int, key: int, value: bytes) -> None:
        self.hub.await_group(promise, key, value, None)

    def _do_doom(self, client: int, why: str, shortage: bool, counts: bool) -> None:
        self.hub.doom(self.workers[client], Doom(why, shortage, counts))

    def _worker(self, client: int, pid: int, tail: list[str]) -> Worker:
        worker = self.workers.get(client)
        if worker is None:
            raise Divergence(f"worker {client} was never started in the replay")
        worker.pid = pid
        worker.tail.clear()
        worker.tail.extend(tail)
        return worker

    # ------------------------------------------------------------------ the ports

    def start(self, environment: str, node: Node) -> Worker | None:
        """Start a worker on paper."""
        client = self._answer("start", environment, node.key)[3]
        self.said.append(["start", environment, node.key, client])
        if not client:
            return None
        link: Any = _Link(self, client)
        worker = self.workers[client] = Worker(client, environment, link, node)
        return worker

    def signal(self, worker: Worker, number: int) -> None:
        """Note a signal."""
        self.said.append(["signal", worker.client, int(number)])

    def warn(self, text: str, source: str = "SESSION") -> None:
        """Note a warning."""
        self.said.append(["warn", text])

    def collect(self) -> None:
        """Drop the references that were dropped then."""
        found = next((frame for frame in self.answers if frame[0] == "collect"), None)
        if found is None:
            raise Divergence("the hub has the dropped references counted, and did not then")
        self.answers.remove(found)  # it was written after what followed from it
        dropped = found[1]
        for name, key in dropped:
            getattr(self.hub, name)(key)
        self.said.append(["collect", dropped])

    def _file(self, name: str, *args: Any) -> Any:
        asked = ["file", name, encoder.encode(args)]
        answer = self._answer(*asked)[3]
        self.said.append([*asked, answer])
        return answer

    def _answer(self, *asked: Any) -> Frame:
        if not self.answers or self.answers[0][: len(asked)] != list(asked):
            recorded = _shown(self.answers[0]) if self.answers else "nothing"
            raise Divergence(f"the hub asks for {' '.join(map(repr, asked))}, recorded: {recorded}")
        return self.answers.popleft()


_decode_spec = msgspec.msgpack.Decoder(TaskSpec).decode


def _shown(frame: Frame | None) -> str:
    if frame is None:
        return "nothing"
    shown: list[Any] = list(frame)
    if frame[0] == "file":
        shown[2] = msgspec.msgpack.decode(frame[2])
    elif frame[0] == "send":
        shown[2] = to_worker.decode(frame[2])[0]
    elif frame[0] == "event" and frame[2] == "receive":
        shown[4] = to_hub.decode(frame[4])
    elif frame[0] == "event" and frame[2] in ("submit", "call", "spawn"):
        shown[3] = _decode_spec(frame[3])
    text = " ".join(str(part) for part in shown)
    return text if len(text) < 400 else f"{text[:400]}..."


def main() -> None:
    """``python -m skate.testing.replay FILE``."""
    if len(sys.argv) != 2:
        sys.exit("usage: python -m skate.testing.replay FILE")
    try:
        done = replay(sys.argv[1])
    except Divergence as problem:
        sys.exit(f"The replay diverges. {problem}")
    print(f"The same decisions: {done.events} events, {done.commands} commands.")


if __name__ == "__main__":
    main()
