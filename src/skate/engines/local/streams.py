"""Streams: makers that run ahead of their readers, or are held back. The part of the hub that knows them."""

from __future__ import annotations

from typing import Any

from skate.engines.local.actors import Actors
from skate.engines.local.messages import Item, Resume, TaskSpec
from skate.engines.local.rows import FAILED, READY, Row, Stream, Worker


class Streams(Actors):
    """Items from their makers; where they wait for their readers, and under which keys, is the table's."""

    def block(self, worker: Worker) -> None:
        """A worker's task waits: others may have its CPUs."""
        raise NotImplementedError

    def made(self, worker: Worker, message: Item) -> None:
        """A stream's item arrived."""
        stream = self.streams.get(message.task)
        if stream is None:
            self.discard(message.value)
            return
        if stream.skip:
            stream.skip -= 1
            self.discard(message.value)
        else:
            self.item(stream, FAILED if message.failed else READY, message.value, message.refs)
        if not stream.skip and worker.actor is None:
            self._hold_back(worker, stream, worker.running.get(message.task))

    def _hold_back(self, worker: Worker, stream: Stream, row: Row | None) -> None:
        """A maker that is as far ahead as it may be waits for its reader, and lends its CPUs: he may need them."""
        if row is None or row.options is None or stream.held_back:
            return
        if 0 < row.options.backpressure <= stream.made - stream.read:
            stream.held_back = True
            self.block(worker)

    def _stop_lending(self, stream: Stream, worker: Worker | None) -> None:
        """A maker does not wait for its reader any more."""
        if stream.held_back:
            stream.held_back = False
            if worker is not None:
                self.scheduler.unblock(worker)

    def read_on(self, task: int) -> None:
        """A reader took an item: its maker may go on, if it waits for that."""
        row, stream = self.rows.get(task), self.streams.get(task)
        if row is None or stream is None or row.worker is None or row.options is None:
            return
        if row.options.backpressure > 0 and not row.cancelled:  # it shall not end before its cancel arrives
            row.worker.link.send(Resume(task, stream.read + row.options.backpressure))
            self.urgent.append(row.worker)
            if stream.made - stream.read < row.options.backpressure:
                self._stop_lending(stream, row.worker)

    def let_run_ahead(self, worker: Worker, row: Row, spec: TaskSpec) -> None:
        """A new attempt of a stream with back-pressure may go at once as far as its reader has come."""
        stream = self.streams.get(spec.task)
        if stream is not None and stream.read and row.options.backpressure > 0:
            worker.link.send(Resume(spec.task, stream.read + row.options.backpressure))

    def rewind(self, task: int, worker: Worker | None = None) -> None:
        """A new attempt yields a stream's items from the start: those delivered are skipped."""
        stream = self.streams.get(task)
        if stream is not None:
            stream.skip = stream.made
            self._stop_lending(stream, worker)

    def stream_ended(self, task: int, state: int, value: Any, worker: Worker | None) -> None:
        """A streaming call has ended; what it failed of is its last item."""
        stream = self.streams.get(task)
        if stream is not None:
            self._stop_lending(stream, worker)
            if state == FAILED:
                self.item(stream, FAILED, value, ())
        self.end_stream(task)
