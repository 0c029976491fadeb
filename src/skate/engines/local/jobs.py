"""Jobs: the drivers that have attached to a hub, each with what its workers must be told.

Calls of an attached driver carry its job's number in their environment (`skate.core.environment.with_job`), and so do
the calls that these make in turn. Since workers run the calls of one environment only, drivers do not share workers.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from skate.core.environment import job_of, with_job
from skate.core.spec import TaskOptions
from skate.engines.local.messages import Attach, Printed

if TYPE_CHECKING:
    from skate.engines.local.rows import Worker
    from skate.engines.local.submissions import Submissions

MOST_ENDED = 1000
"""Jobs that are remembered after their end, besides those whose detached actors may start workers yet."""
SUBMISSION = "SKATE_JOB_SUBMISSION_ID"
"""Names, in the environment of its processes, the submitted job that a program is part of."""
LOOKERS = 1 << 30
"""Numbers from here on are of those who only look in."""
CONGESTED = 8 << 20
"""Bytes on their way to a driver above which its workers' output waits in their pipes."""


class Job:
    """An attached driver, and what it leaves behind."""

    __slots__ = ("_options", "asked", "drops", "ended", "exports", "number", "peer", "pid", "started", "why")

    def __init__(self, number: int, asked: Attach, pid: int, drops: bool) -> None:
        self.number = number
        self.asked = asked
        self.pid = pid
        self.drops = drops
        """Whether nobody is shown what its workers print when it has gone."""
        self.peer: Worker | None = None
        """Its connection; None: it has gone."""
        self.started = time.time()
        self.ended = 0.0
        self.why = ""
        self.exports: set[bytes] = set()
        """The functions and classes that it and its workers have sent."""
        self._options: dict[TaskOptions, TaskOptions] = {}

    @property
    def namespace(self) -> str:
        """Where the names of its actors live."""
        return self.asked.namespace

    def show(self, text: str, to_stderr: bool) -> bool:
        """Send lines of its workers to the driver; False when it cannot show them any more, and others may."""
        if self.peer is None:
            return self.drops
        self.peer.link.send(Printed(text, to_stderr))
        return True

    def same(self, options: TaskOptions) -> TaskOptions:
        """Equal options as one object: a worker that has been told them once is not told them again."""
        known = self._options.get(options)
        if known is None:
            if len(self._options) > 1024:
                self._options.clear()
            known = self._options[options] = options
        return known

    def forget_options(self) -> None:
        """It will make few calls from now on, if any."""
        self._options.clear()

    def congested(self) -> bool:
        """Whether the driver is slow to take what it is sent."""
        return self.peer is not None and sum(map(len, self.peer.link.unsent)) > CONGESTED

    def row(self) -> dict[str, Any]:
        """As a row of the table ``jobs``."""
        return row_of(self.number, self.pid, self.asked.entrypoint, self.started, self.ended, self.why)


class Jobs:
    """All drivers of a hub. Job 1 is the one that the hub lives in."""

    def __init__(self, alone: bool) -> None:
        self.alone = alone
        """The hub has a process of its own: there is no job 1 in it."""
        self.started = time.time()
        self.last = 0 if alone else 1
        self.lookers = LOOKERS
        self.jobs: dict[int, Job] = {}
        self.submitted: Submissions | None = None
        """The submitted jobs, where there can be some."""
        self._known: dict[str, Job | None] = {"": None}

    def join(self, asked: Attach, pid: int) -> Job:
        """One more."""
        if asked.driver:
            self.last = number = self.last + 1
        else:
            self.lookers = number = self.lookers + 1
        job = self.jobs[number] = Job(number, asked, pid, not self.alone)
        return job

    def leave(self, job: Job, why: str) -> None:
        """A driver has gone."""
        job.peer = None
        job.ended = time.time()
        job.why = why
        job.forget_options()

    def of(self, environment: str) -> Job | None:
        """Whose calls have this environment; None: the hub's own driver's."""
        try:
            return self._known[environment]
        except KeyError:
            if len(self._known) > 4096:
                self._known = {"": None}
        try:
            job = self.jobs.get(job_of(environment))
        except (ValueError, TypeError):  # no environment of ours: whoever starts with it will say so
            job = None
        self._known[environment] = job
        return job

    def forget_old(self, needed: set[int]) -> None:
        """Drop the oldest of those that have ended, but for those whose actors live on."""
        ended = [number for number, job in self.jobs.items() if job.peer is None and number not in needed]
        if self.alone:  # else its functions are not forgotten either
            ended = [number for number in ended if not self.jobs[number].exports]
        drivers = [number for number in ended if number < LOOKERS]
        for number in (*drivers[: max(0, len(drivers) - MOST_ENDED)], *(n for n in ended if n > LOOKERS)):
            del self.jobs[number]
        self._known = {"": None}

    def rows(self) -> list[dict[str, Any]]:
        """The table ``jobs``."""
        own = [] if self.alone else [row_of(1, os.getpid(), entrypoint(), self.started, 0.0, "")]
        drivers = {job: job.row() for job in self.jobs.values() if job.asked.driver}
        submitted = []
        if self.submitted is not None:
            by_name = {job.asked.submission: job for job in reversed(drivers) if job.asked.submission}
            for row in self.submitted.rows():
                driver = by_name.get(row["submission_id"])
                if driver is not None:  # one row for the job and its driver
                    row |= {name: drivers[driver][name] for name in ("job_id", "driver_info")}
                submitted.append(row)
            names = {row["submission_id"] for row in submitted}
            drivers = {job: row for job, row in drivers.items() if job.asked.submission not in names}
        return own + list(drivers.values()) + submitted


def environment_of(job: Job) -> str:
    """What marks the calls of a job."""
    return with_job("", job.number)


def entrypoint() -> str:
    """The command line of this program."""
    import shlex
    import sys

    words = [word for word in sys.orig_argv if "\n" not in word]
    return shlex.join([os.path.basename(words[0]), *words[1:]] if words else [])


def row_of(number: int, pid: int, command: str, started: float, ended: float, why: str) -> dict[str, Any]:
    """One row of the table ``jobs``; times in milliseconds since 1970."""
    return {
        "type": "DRIVER",
        "job_id": number.to_bytes(4, "little").hex(),
        "submission_id": None,
        "status": "SUCCEEDED" if ended else "RUNNING",
        "entrypoint": command,
        "message": why or None,
        "error_type": None,
        "start_time": int(started * 1000),
        "end_time": int(ended * 1000) if ended else None,
        "metadata": {},
        "runtime_env": {},
        "driver_info": {"id": number.to_bytes(4, "little").hex(), "node_ip_address": "127.0.0.1", "pid": pid},
    }
