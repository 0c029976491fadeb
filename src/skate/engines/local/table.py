"""The object table: states, counts, and who waits for what."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from skate.engines.local.messages import Stored, TaskSpec
from skate.engines.local.rows import END, FAILED, PENDING, PUT, READY, Row, Stream, Worker


class Table:
    """Rows by key. Everything that changes a row's state or count goes through here."""

    def __init__(self) -> None:
        self.rows: dict[int, Row] = {}
        self.failures = 0
        """How many objects have failed so far: tells a getter when to look for one among its own."""
        self.streams: dict[int, Stream] = {}
        # Work lists, so that long chains of objects cost no stack: one call drains them, calls inside it only add.
        self._woken: deque[tuple[Callable[[Row], None], Row]] = deque()
        self._waking = False
        self._unheld: list[int] = []
        self._releasing = False

    # ------------------------------------------------------------------- counts

    def hold(self, key: int) -> None:
        """Count one more reference; with ``~key``, a view of the object's memory."""
        row = self.rows.get(key)
        if row is not None:
            row.count += 1
        elif key < 0:
            self.hold_view(~key)

    def hold_known(self, keys: tuple[int, ...]) -> tuple[int, ...]:
        """Count the references inside a value; those that count.

        A key that names nothing yet may name something when the value goes, and that was not counted here.
        """
        rows = self.rows
        known = keys if all(key in rows for key in keys) else tuple(key for key in keys if key in rows)
        for key in known:
            rows[key].count += 1
        return known

    def release(self, key: int) -> None:
        """Count one reference less; the object goes with the last."""
        row = self.rows.get(key)
        if row is None:
            if key < 0:
                self.release_view(~key)
            return
        row.count -= 1
        if row.count <= 0:
            if row.actor is not None:
                self.unreferenced(row.actor)
            elif row.spec is None:
                self._drop(key, row)

    def hold_view(self, key: int) -> None:
        """Count a view of an object's memory, which keeps it where it is."""
        raise NotImplementedError

    def release_view(self, key: int) -> None:
        """A view is gone."""
        raise NotImplementedError

    def unreferenced(self, actor: Any) -> None:
        """The last handle of an actor is gone."""
        raise NotImplementedError

    def _drop(self, key: int, row: Row) -> None:
        """Forget a row that nobody counts on and no call will fill, except as one of several returns."""
        del self.rows[key]
        value = row.value
        if value is not None:
            row.value = None
            if type(value) is Stored:
                self.free(key, row, value)
        if row.refs:
            self._unheld.extend(row.refs)
            if not self._releasing:
                self._release_unheld()

    def _release_unheld(self) -> None:
        self._releasing = True
        try:
            while self._unheld:
                self.release(self._unheld.pop())
        finally:
            self._releasing = False

    def store(self, key: int, row: Row, value: Stored) -> None:
        """A row takes a value that lies in the arena."""
        raise NotImplementedError

    def free(self, key: int, row: Row, value: Stored) -> None:
        """A row has lost its stored value: nobody needs it any more."""
        raise NotImplementedError

    def discard(self, value: Any) -> None:
        """Free a value that came for nobody."""
        raise NotImplementedError

    # ------------------------------------------------------------------- states

    def fill(self, key: int, state: int, value: Any, refs: tuple[int, ...] = ()) -> None:
        """An object is ready, or failed. Values for rows that are gone, or were filled before, are discarded."""
        row = self.rows.get(key)
        if row is None or row.state:
            self.discard(value)
            return
        if refs:
            refs = self.hold_known(refs)
        row.value = value
        if type(value) is Stored:
            self.store(key, row, value)
        row.refs = refs
        row.state = state
        if state == FAILED:
            self.failures += 1
        if row.waiters is not None:
            self._wake(row)
        # Those it woke may have dropped it already.
        if row.count <= 0 and row.spec is None and row.actor is None and self.rows.get(key) is row:
            self._drop(key, row)

    def _wake(self, row: Row) -> None:
        waiters, row.waiters = row.waiters, None
        self._woken.extend((waiter, row) for waiter in waiters or ())
        if self._waking:
            return
        self._waking = True
        try:
            while self._woken:
                waiter, ready = self._woken.popleft()
                waiter(ready)
        finally:
            self._waking = False

    def when_ready(self, row: Row, waiter: Callable[[Row], None]) -> None:
        """Have `waiter` called once the row is no longer pending."""
        if row.state:
            waiter(row)
        elif row.waiters is None:
            row.waiters = [waiter]
        else:
            row.waiters.append(waiter)

    def put(self, key: int, value: Any, refs: tuple[int, ...], holder: Worker | None) -> None:
        """A new object that somebody holds from the start."""
        row = self.rows[key] = Row(READY, 1, value, self.hold_known(refs) if refs else refs, maker=PUT)
        if type(value) is Stored:
            self.store(key, row, value)
        if holder is not None:
            holder.held.add(key)

    # ------------------------------------------------------------- calls' inputs

    def pin(self, row: Row, spec: TaskSpec, ready: Callable[[Row], None]) -> None:
        """Keep a call's inputs alive, and count those it has to wait for."""
        rows = self.rows
        for key in spec.refs:
            self.hold(key)
        for key in spec.deps:
            source = rows.get(key)
            if source is None:
                source = rows[key] = Row(FAILED, 0, self.lost(key))
            source.count += 1
        args = spec.args
        if type(args) is Stored:
            if args.key in rows:
                self.hold(args.key)
            else:
                self.put(args.key, args, (), None)
        if spec.deps:
            self.await_inputs(row, spec, ready)

    def await_inputs(self, row: Row, spec: TaskSpec, ready: Callable[[Row], None]) -> None:
        """Count the inputs that a call has to wait for; `ready` is called when they are there."""
        for key in self.inputs(spec):
            source = self.rows[key]
            if source.state == PENDING:
                row.missing += 1
                self.when_ready(source, partial(self._dependency_ready, row, ready))

    def lost(self, key: int) -> bytes:
        """The packed error of an object that nobody knows."""
        raise NotImplementedError

    def _dependency_ready(self, row: Row, ready: Callable[[Row], None], source: Row) -> None:
        row.missing -= 1
        if row.missing == 0 and row.state == PENDING:
            ready(row)

    def hold_inputs(self, spec: TaskSpec) -> None:
        """Keep a call's inputs for one more `unpin`."""
        for key in (*spec.deps, *spec.refs):
            self.hold(key)
        if type(spec.args) is Stored:
            self.hold(spec.args.key)

    def unpin(self, spec: TaskSpec) -> None:
        """A call has ended: its inputs count one less."""
        for key in spec.deps:
            self.release(key)
        for key in spec.refs:
            self.release(key)
        if type(spec.args) is Stored:
            self.release(spec.args.key)

    def failed_input(self, spec: TaskSpec) -> Row | None:
        """The first input that failed."""
        for key in self.inputs(spec):
            source = self.rows[key]
            if source.state == FAILED:
                return source
        return None

    def inputs(self, spec: TaskSpec) -> tuple[int, ...]:
        """Keys of the objects whose values a call is given; a large list of arguments is one itself."""
        return (*spec.deps, spec.args.key) if type(spec.args) is Stored else spec.deps

    # ------------------------------------------------------------------ streams

    def item(self, stream: Stream, state: int, value: Any, refs: tuple[int, ...]) -> None:
        """A stream's next item: to the reader who waits for it, or kept for the one who will ask."""
        stream.made += 1
        if stream.closed:
            self.discard(value)
            return
        if stream.promised:
            key = stream.promised.popleft()
            self.fill(key, state, value, refs)
            return
        kept = Row(state, 0, value, self.hold_known(refs) if refs else refs)
        if type(value) is Stored:
            self.store(value.key, kept, value)
        stream.items.append(kept)

    def promise(self, task: int, key: int, holder: Worker | None) -> None:
        """Name a stream's next item."""
        row = self.rows[key] = Row(maker=task)
        if holder is not None:
            holder.held.add(key)
        stream = self.streams.get(task)
        if stream is None:
            self.fill(key, END, b"")
            return
        stream.read += 1
        if stream.items:
            kept = stream.items.popleft()
            row.refs, row.value, row.state = kept.refs, kept.value, kept.state
            if type(kept.value) is Stored:
                self.store(key, row, kept.value)
            if row.state == FAILED:
                self.failures += 1
        elif stream.ended:
            self.fill(key, END, b"")
        else:
            stream.promised.append(key)

    def end_stream(self, task: int) -> None:
        """No more items will be made."""
        stream = self.streams.get(task)
        if stream is None:
            return
        stream.ended = True
        promised, stream.promised = list(stream.promised), type(stream.promised)()
        self.fill_all(promised, END, b"")
        if stream.closed:
            del self.streams[task]

    def fill_all(self, keys: Iterable[int], state: int, value: Any) -> None:
        """Give several objects the same end."""
        for key in keys:
            self.fill(key, state, value)

    def close_stream(self, task: int) -> bool:
        """Nobody will read on: drop what was kept; True when the task is still making items."""
        stream = self.streams.get(task)
        if stream is None:
            return False
        stream.closed = True
        while stream.items:
            kept = stream.items.popleft()
            if type(kept.value) is Stored:
                self.free(kept.value.key, kept, kept.value)
            for inner in kept.refs:
                self.release(inner)
        if stream.ended:
            del self.streams[task]
            return False
        return True
