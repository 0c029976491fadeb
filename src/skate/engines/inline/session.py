"""The tables of a session: objects and their counts, names, calls under way.

One lock guards them. It is never held while user code runs, and what waits for an object is told outside of it.
"""

from __future__ import annotations

import itertools
import pickle
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from skate.core import ids
from skate.core.placement import Where
from skate.core.refs import ObjectRef, closed_streams, released
from skate.core.serialization import Packed, dump_definition
from skate.core.settings import Settings
from skate.core.spec import Definition
from skate.engines.inline.groups import Groups
from skate.engines.inline.history import History
from skate.engines.inline.machine import Machine
from skate.engines.inline.records import END, FAILED, NOTHING, PENDING, Call, Outcome, Row, failure
from skate.engines.inline.unpacking import load
from skate.exceptions import ObjectLostError, ObjectStoreFullError, TaskCancelledError

if TYPE_CHECKING:
    from skate.engines.inline.actors import Actor
    from skate.engines.inline.streams import Stream

# Far from the client numbers of the other engines: a reference must not name an object of another session.
_clients = itertools.count(1 << 23)


class Session:
    """What all parts of the engine share."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.lock = threading.RLock()
        self.machine = Machine(settings)
        self.groups = Groups(self.machine)
        self.client = next(_clients)
        self.history = History(settings.keeping)
        self.remember: Callable[[Actor], None] = lambda actor: None
        """Told of actors that are dead and that nobody refers to any more."""
        self._ids = ids.IdSource(self.client)
        self.rows: dict[int, Row] = {}
        self.actors: dict[int, Actor] = {}
        self.names: dict[tuple[str, str], Actor] = {}
        self.streams: dict[int, Stream] = {}
        self.live: dict[int, Call] = {}
        """Calls that have not ended, by key."""
        self.blocked: dict[int, tuple[list[Row], int]] = {}
        """What each thread waits for, and how many of them, of those that wait without a timeout."""
        self.used = 0
        self.closed = False
        self.threads: list[threading.Thread] = []
        """Of actors that have ended: to be joined at the end."""
        self._loaded: dict[bytes, Callable[..., Any]] = {}
        self._leaving: list[Actor | Stream] = []

    # ------------------------------------------------------------------- entry

    def enter(self) -> None:
        """At the start of every verb: take note of the references that died."""
        if self.closed:
            raise RuntimeError("This session has ended: call skate.init() to start another one.")
        if released or closed_streams:
            self.tidy()

    def tidy(self) -> None:
        """Free what nobody refers to any more, and end the actors and streams that nobody can reach."""
        while True:
            with self.lock:
                while released:
                    self.drop(released.popleft())
                while closed_streams:
                    stream = self.streams.get(closed_streams.popleft())
                    if stream is not None:
                        stream.discard()
                leaving, self._leaving = self._leaving, []
            if not leaving:
                return
            for thing in leaving:
                thing.unreferenced()

    def take_ids(self, count: int = 1) -> int:
        """Reserve `count` consecutive keys."""
        with self.lock:
            return self._ids.take(count)

    def load(self, definition: Definition) -> Callable[..., Any]:
        """The copy of a function that tasks run: what it closes over is as it was at its first use."""
        key, blob = definition.pickled(dump_definition)
        function = self._loaded.get(key)
        if function is None:
            function = self._loaded[key] = load(blob)
        return function

    # ----------------------------------------------------------------- objects

    def new_row(self, key: int, maker: Call | None = None) -> Row:
        """An object that one reference names."""
        row = self.rows[key] = Row(maker)
        return row

    def row(self, ref: ObjectRef[Any]) -> Row:
        """The object of a reference; ObjectLostError when it is not known."""
        row = self.rows.get(ref._key)
        if row is None:
            raise self._lost(ref._key, ref.hex())
        return row

    def _lost(self, key: int, name: str) -> ObjectLostError:
        here = key >> ids.CLIENT_SHIFT == self.client
        freed = "It was freed: its last counted reference was dropped before this one was made from its id."
        return ObjectLostError(name, message=freed if here else "It belongs to a session that has ended.")

    def hold(self, keys: Iterable[int]) -> None:
        """Count one more reference to each object or actor."""
        for key in keys:
            counted = self.rows.get(key) or self.actors.get(key)
            if counted is not None:
                counted.count += 1

    def drop(self, key: int) -> None:
        """Count one reference less; free what is left without any."""
        keys = [key]
        while keys:
            key = keys.pop()
            row = self.rows.get(key)
            if row is None:
                self._drop_handle(key)
                continue
            row.count -= 1
            if row.count > 0:
                continue
            del self.rows[key]
            self.used -= len(row.data)
            keys.extend(row.refs)
            stream = self.streams.get(key)
            if stream is not None:
                self._leaving.append(stream)

    def drop_all(self, keys: Iterable[int]) -> None:
        """Drop keys, and free what follows from it."""
        with self.lock:
            for key in keys:
                self.drop(key)
        self.tidy()

    def _drop_handle(self, key: int) -> None:
        actor = self.actors.get(key)
        if actor is None:
            return  # of a session that has ended
        actor.count -= 1
        if actor.count <= 0:
            self._leaving.append(actor)

    def check_room(self, packed: Packed) -> None:
        """ObjectStoreFullError when the value is larger than the whole store."""
        if packed.size > self.machine.store:
            raise ObjectStoreFullError(
                f"No room for an object of {packed.size:,} bytes: the store has {self.machine.store:,}. Split it, "
                "or start with a larger object_store_memory."
            )

    def fill(self, key: int, outcome: Outcome) -> list[Callable[[], None]]:
        """Give an object its value; returns whom to tell. With the lock held."""
        row = self.rows.get(key)
        if row is None or row.state != PENDING:
            return []
        row.state, row.data, row.refs = outcome
        row.maker = None
        self.used += len(row.data)
        self.hold(row.refs)
        watchers, row.watchers = row.watchers, []
        return watchers

    def end_row(self, key: int) -> list[Callable[[], None]]:
        """Make an object the end of a stream; returns whom to tell. With the lock held."""
        return self.fill(key, Outcome(END, b""))

    # ------------------------------------------------------------------- calls

    def begin(self, call: Call) -> None:
        """Take up a new call: its results exist from now on, and what it refers to lives until it ends."""
        with self.lock:
            for key in call.keys:
                self.new_row(key, call)
            self.live[call.key] = call
            held = call.packed.dependencies + call.packed.packed.refs
            if call.actor is not None:
                held += (call.actor.key,)
            call.held = held
            self.hold(held)

    def await_arguments(self, call: Call, arrived: Callable[[Call], None], where: Where | None = None) -> bool:
        """Whether the arguments are ready, and the placement group; if not, `arrived` is called when they are."""

        def one_more() -> None:
            with self.lock:
                call.missing -= 1
                ready = call.missing == 0 and not call.ended
            if ready:
                arrived(call)

        with self.lock:
            for key in call.packed.dependencies:
                row = self.rows.get(key)
                if row is not None and row.state == PENDING:
                    call.missing += 1
                    row.watchers.append(one_more)
            group = self.groups.live.get(where.group) if where is not None and where.group else None
            if group is not None and not group.bundles:
                call.missing += 1
                group.waiting.append(one_more)
            return call.missing == 0

    def settle(self, call: Call, outcomes: Sequence[Outcome]) -> bool:
        """End a call, once: its results are there. False when it had ended before."""
        with self.lock:
            if call.ended:
                return False
            call.ended = True
            self.live.pop(call.key, None)
            self.history.ended(call, call.error)
            watchers: list[Callable[[], None]] = []
            for key, outcome in zip(call.keys, outcomes, strict=True):
                watchers += self.fill(key, outcome)
            for key in call.held:
                self.drop(key)
            call.held = ()
        for watcher in watchers:
            watcher()
        if call.actor is not None:
            call.actor.call_ended(call)
        self.tidy()
        return True

    def fail(self, call: Call, error: BaseException | Outcome, raised: bool = False) -> bool:
        """End a call with an error, its own or one that is packed already.

        A generator's own error (`raised`) is its last item, and its own object is None, as in Ray.
        """
        outcome = error if isinstance(error, Outcome) else failure(error)
        if not call.ended:
            call.error = outcome.data
        stream = call.stream
        if stream is not None:
            stream.fail(outcome)
            if raised and not isinstance(error, TaskCancelledError):
                return self.settle(call, [NOTHING])
        return self.settle(call, [outcome] * len(call.keys))

    def failed_argument(self, call: Call) -> Outcome | None:
        """The error of a dependency, if one failed."""
        for key in call.packed.dependencies:
            row = self.rows.get(key)
            if row is None:
                return failure(self._lost(key, ids.object_binary(key, 0).hex()))
            if row.state == FAILED:
                return Outcome(FAILED, row.data, row.refs)
        return None


def unpickled(data: bytes) -> Any:
    """Plain pickled data, as options carry it."""
    return pickle.loads(data)
