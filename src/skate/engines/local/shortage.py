"""Tasks and actors whose workers the memory monitor ends: what becomes of them. A part of the hub."""

from __future__ import annotations

import signal
from functools import partial

from skate.engines.local import errors
from skate.engines.local.messages import TaskSpec
from skate.engines.local.monitor import delay
from skate.engines.local.rows import FAILED, Doom, Row, Shortage, Worker
from skate.engines.local.tasks import Tasks


class Shortages(Tasks):
    """Ends workers for the sake of memory. Ends by shortage have a count of their own, as in Ray."""

    def doom(self, worker: Worker, doom: Doom) -> None:
        """End a worker; `Hub.died` follows. It is given nothing more until then."""
        worker.doom = doom
        if not worker.running and worker.actor is None:
            worker.leaving = ("idle", False)
        self.scheduler.gone(worker)
        self.ports.signal(worker, signal.SIGKILL)

    def ended_for_memory(self, worker: Worker, row: Row, spec: TaskSpec, doom: Doom) -> None:
        """A task's worker was ended by the monitor: try again, later if memory was short, or fail."""
        if not doom.shortage:
            if self._may_retry(row):
                self._again(row, spec, self._told(row, worker, doom), None, worker)
                return
        elif self._may_wait(row, doom):
            pause = delay(self.settings.memory.retry_delay_ms, row.shortage.ended if row.shortage is not None else 1)
            self.history.failed(row, spec, self._told(row, worker, doom), None, worker)
            self.ports.warn(f"{self.label(row)} is tried again in {pause:g} s.", "MEMORY")
            row.attempt += 1
            self.rewind(spec.task)
            self.timers.at(self.timers.clock() + pause, partial(self._after_pause, row, spec))
            return
        self.finish(row, FAILED, self._told(row, worker, doom), (), None, worker)

    def _told(self, row: Row, worker: Worker, doom: Doom) -> bytes:
        return errors.out_of_memory(self.label(row), worker, doom.why, row.attempt)

    def _may_wait(self, row: Row, doom: Doom) -> bool:
        """Whether a task that a shortage ended may be tried again; counts the end if so."""
        most = self.settings.memory.oom_retries
        shortage = row.shortage or Shortage()
        if row.options.max_retries == 0 or 0 <= most <= shortage.ended or (doom.counts and not self._may_retry(row)):
            return False
        shortage.ended += 1
        shortage.pardoned += not doom.counts
        row.shortage = shortage
        return True

    def _after_pause(self, row: Row, spec: TaskSpec) -> None:
        if row.spec is spec:  # not cancelled meanwhile
            self.enqueue(row)
