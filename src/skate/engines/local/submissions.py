"""Submitted jobs: commands that a hub with a process of its own has run.

Each is run by an actor (`supervisor.py`), so that resources, environments and places are what they are for any actor.
The hub's process is that actor's driver: it asks it two questions, its process and how that ended, and notes the
answers.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from skate import exceptions
from skate.core import refs
from skate.core.capped_log import read_log, remove_log
from skate.core.environment import pack_environment
from skate.core.placement import Where, parse_selector
from skate.core.refs import ObjectRef
from skate.core.resources import from_amounts
from skate.core.spec import ActorOptions, CallOptions, Definition
from skate.engines.local.jobs import SUBMISSION
from skate.engines.local.supervisor import Supervisor

if TYPE_CHECKING:
    from skate.engines.local.engine import LocalEngine

PENDING, RUNNING, STOPPED, SUCCEEDED, FAILED = "PENDING", "RUNNING", "STOPPED", "SUCCEEDED", "FAILED"
MOST_ENDED = 1000
"""Jobs that are remembered after their end, with their logs."""
LOG_LIMIT = 16 << 20
"""Bytes of a job's log after which it begins anew; SKATE_JOB_LOG_LIMIT is another."""
PATIENCE = 3.0
"""Seconds between SIGTERM and SIGKILL when a job is stopped."""
SHOWN = 20_000
"""Characters of its log that the message of a failed job ends with."""
ENVIRONMENT = "SKATE_JOB_ENV"
"""The job's runtime environment, for the drivers in it."""
_SUPERVISOR = Definition(Supervisor, "Supervisor")


class Submission:
    """One submitted job."""

    def __init__(self, asked: dict[str, Any], log: str) -> None:
        self.asked = asked
        self.name: str = asked["submission_id"]
        self.log = log
        self.status = PENDING
        self.message = "It waits for a place to run, or for its runtime environment."
        self.error: str | None = None
        self.started = time.time()
        self.ended = 0.0
        self.code: int | None = None
        self.actor = 0
        self.stopping = False

    @property
    def over(self) -> bool:
        """Whether its status will not change any more."""
        return self.status not in (PENDING, RUNNING)

    def row(self) -> dict[str, Any]:
        """As a row of the table ``jobs``; times in milliseconds since 1970."""
        asked = self.asked
        return {
            "type": "SUBMISSION",
            "job_id": None,
            "submission_id": self.name,
            "status": self.status,
            "entrypoint": asked["entrypoint"],
            "message": self.message,
            "error_type": self.error,
            "start_time": int(self.started * 1000),
            "end_time": int(self.ended * 1000) if self.ended else None,
            "metadata": asked.get("metadata") or {},
            "runtime_env": asked.get("runtime_env") or {},
            "driver_info": None,
            "driver_exit_code": self.code,
            "entrypoint_num_cpus": asked.get("num_cpus"),
            "entrypoint_num_gpus": asked.get("num_gpus"),
            "entrypoint_memory": asked.get("memory"),
            "entrypoint_resources": asked.get("resources"),
            "log": self.log,
        }


class Submissions:
    """All of a hub. `ask` and `rows` are called with the hub's lock held, what they put off without it."""

    def __init__(self, engine: LocalEngine, folder: str) -> None:
        self.engine = engine
        self.folder = folder
        self.jobs: dict[str, Submission] = {}
        self.count = 0

    def rows(self) -> list[dict[str, Any]]:
        """Their part of the table ``jobs``."""
        return [job.row() for job in self.jobs.values()]

    def running(self) -> bool:
        """Whether one has not ended."""
        return any(not job.over for job in self.jobs.values())

    def ask(self, what: str, argument: Any) -> Any:
        """``submit`` (its id), ``info`` (its row), ``stop`` or ``delete`` (whether that did something).

        Raises RuntimeError for a job that is not known, or known already, or not over when it is to be deleted.
        """
        if what == "submit":
            return self._submit(argument)
        job = self.jobs.get(argument)
        if job is None:
            raise RuntimeError(f"There is no job {argument!r}.")
        if what == "stop":
            return self._stop(job)
        if what == "delete":
            if not job.over:
                raise RuntimeError(f"Job {job.name!r} is {job.status}: only what has ended can be deleted.")
            self._forget(job)
            return True
        rows = self.engine.host.jobs.rows()
        return next(row for row in rows if row["submission_id"] == job.name)

    def stop_all(self) -> None:
        """The hub ends: what runs shall end. Called without the lock."""
        for job in self.jobs.values():
            self._stop(job)

    # ---------------------------------------------------------------------- its life

    def _submit(self, asked: dict[str, Any]) -> str:
        name = asked["submission_id"] = asked.get("submission_id") or "raysubmit_" + secrets.token_hex(8)
        if name in self.jobs:
            raise RuntimeError(f"A job {name!r} exists already: give another submission_id, or delete that one.")
        os.makedirs(self.folder, 0o700, exist_ok=True)
        self.count += 1
        job = self.jobs[name] = Submission(asked, os.path.join(self.folder, f"{self.count:06}.log"))
        self._later(self._start, job)
        over = [other for other in self.jobs.values() if other.over]
        for other in over[: max(0, len(over) - MOST_ENDED)]:
            self._forget(other)
        return name

    def _later(self, action: Callable[..., None], *arguments: Any) -> None:
        self.engine.pump.calls.append(partial(action, *arguments))

    def _start(self, job: Submission) -> None:
        if job.stopping:
            self._finish(job, STOPPED, "It was stopped before it began.")
            return
        engine, asked = self.engine, job.asked
        try:
            environment = pack_environment(asked.get("runtime_env"), job=True)
            job.actor = engine.spawn(
                _SUPERVISOR, self._arguments(job, environment), {}, _options(asked, environment), ()
            ).actor
        except (TypeError, ValueError, NotImplementedError, exceptions.RayError) as error:
            self._finish(job, FAILED, f"{type(error).__name__}: {error}", _kind(error))
            return
        pid = engine.call(job.actor, "pid", (), {}, CallOptions())
        end = engine.call(job.actor, "watch", (), {}, CallOptions())
        engine.on_ready(pid, partial(self._begun, job, pid))
        engine.on_ready(end, partial(self._ended, job, end))
        if not job.over:
            engine.refuse_hopeless(end)

    def _arguments(self, job: Submission, environment: str) -> tuple[Any, ...]:
        address = f"unix:{self.engine.folder}"
        variables = {"SKATE_ADDRESS": address, "RAY_ADDRESS": address, SUBMISSION: job.name, ENVIRONMENT: environment}
        given = (job.asked.get("runtime_env") or {}).get("env_vars") or {}
        variables |= {name: given[name] for name in ("PATH",) if name in given}
        limit = int(os.environ.get("SKATE_JOB_LOG_LIMIT", "") or LOG_LIMIT)
        return job.asked["entrypoint"], job.log, limit, variables

    def _begun(self, job: Submission, ref: ObjectRef[Any]) -> None:
        if _outcome(self.engine, ref)[1] is None and not job.over:
            job.status = RUNNING
            job.message = "Its command runs."
            job.started = time.time()
            if job.stopping:
                self._end_command(job)

    def _ended(self, job: Submission, ref: ObjectRef[Any]) -> None:
        code, error = _outcome(self.engine, ref)
        refs.released.append(job.actor)  # the only handle there is: the actor goes
        job.code = code
        if job.stopping:
            self._finish(job, STOPPED, "It was stopped.")
        elif error is not None:
            self._finish(job, FAILED, f"What runs it ended or did not come up: {error}", _kind(error))
        elif code == 0:
            self._finish(job, SUCCEEDED, "Its command ended with exit code 0.")
        else:
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            last = read_log(job.log)[-SHOWN:]
            message = f"Its command ended with {how}. The end of its log:\n{last}"
            self._finish(job, FAILED, message, "JOB_ENTRYPOINT_COMMAND_ERROR")

    def _finish(self, job: Submission, status: str, message: str, error: str | None = None) -> None:
        job.status, job.message, job.error, job.ended = status, message, error, time.time()

    def _stop(self, job: Submission) -> bool:
        if job.over:
            return False
        if not job.stopping:
            job.stopping = True
            self._later(self._end_command, job)
        return True

    def _end_command(self, job: Submission) -> None:
        if job.over or not job.actor:
            return
        if job.status == RUNNING:
            self.engine.call(job.actor, "stop", (PATIENCE,), {}, CallOptions())
        else:
            self.engine.kill(job.actor, True)

    def _forget(self, job: Submission) -> None:
        del self.jobs[job.name]
        remove_log(job.log)


def _options(asked: dict[str, Any], environment: str) -> ActorOptions:
    amounts = {"CPU": asked.get("num_cpus"), "GPU": asked.get("num_gpus"), "memory": asked.get("memory")}
    held = from_amounts({name: n for name, n in {**amounts, **(asked.get("resources") or {})}.items() if n})
    labels = asked.get("label_selector")
    return ActorOptions(
        class_name="Supervisor",
        placement=held,
        resources=held,
        max_concurrency=2,
        environment=environment,
        where=Where(selectors=(parse_selector(labels),)) if labels else None,
    )


def _outcome(engine: LocalEngine, ref: ObjectRef[Any]) -> tuple[Any, Exception | None]:
    try:
        return engine.get([ref], 0)[0], None
    except (exceptions.RayError, OSError) as error:
        return None, error


def _kind(error: Exception) -> str:
    """Ray's name for what kept a job from running."""
    if isinstance(error, exceptions.RuntimeEnvSetupError | TypeError | ValueError | NotImplementedError):
        return "RUNTIME_ENV_SETUP_FAILURE"
    if isinstance(error, exceptions.ActorUnschedulableError):
        return "JOB_SUPERVISOR_ACTOR_UNSCHEDULABLE"
    if isinstance(error, exceptions.ActorDiedError):
        return "JOB_SUPERVISOR_ACTOR_DIED"
    return "JOB_SUPERVISOR_ACTOR_UNKNOWN_FAILURE"
