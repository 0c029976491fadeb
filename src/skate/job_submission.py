"""Submitted jobs, with the names of ``ray.job_submission``: commands that a standing hub runs and watches.

There is no server: the client talks to the hub over its socket on this machine. docs/standing.md has examples.
"""

from __future__ import annotations

import asyncio
import enum
import os
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from skate._version import __version__
from skate.core.capped_log import Tail, read_log
from skate.core.environment import pack_environment, unpack_environment
from skate.core.resources import check_custom, to_units
from skate.engines.local.visit import Visit

__all__ = [
    "DriverInfo",
    "JobDetails",
    "JobErrorType",
    "JobInfo",
    "JobStatus",
    "JobSubmissionClient",
    "JobType",
]
LOOK_EVERY = 0.2
"""Seconds between two looks at a log that is followed."""


class JobStatus(enum.StrEnum):
    """How far a job is."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    STOPPED = "STOPPED"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"

    def is_terminal(self) -> bool:
        """Whether it will not change any more."""
        return self in (JobStatus.STOPPED, JobStatus.SUCCEEDED, JobStatus.FAILED)


class JobType(enum.StrEnum):
    """How a job came to be."""

    SUBMISSION = "SUBMISSION"
    """It was submitted."""
    DRIVER = "DRIVER"
    """A program that attached by itself."""


class JobErrorType(enum.StrEnum):
    """Why a job failed."""

    RUNTIME_ENV_SETUP_FAILURE = "RUNTIME_ENV_SETUP_FAILURE"
    JOB_SUPERVISOR_ACTOR_START_TIMEOUT = "JOB_SUPERVISOR_ACTOR_START_TIMEOUT"
    JOB_SUPERVISOR_ACTOR_START_FAILURE = "JOB_SUPERVISOR_ACTOR_START_FAILURE"
    JOB_SUPERVISOR_ACTOR_UNSCHEDULABLE = "JOB_SUPERVISOR_ACTOR_UNSCHEDULABLE"
    JOB_SUPERVISOR_ACTOR_UNKNOWN_FAILURE = "JOB_SUPERVISOR_ACTOR_UNKNOWN_FAILURE"
    JOB_SUPERVISOR_ACTOR_DIED = "JOB_SUPERVISOR_ACTOR_DIED"
    JOB_ENTRYPOINT_COMMAND_START_ERROR = "JOB_ENTRYPOINT_COMMAND_START_ERROR"
    JOB_ENTRYPOINT_COMMAND_ERROR = "JOB_ENTRYPOINT_COMMAND_ERROR"


@dataclass
class DriverInfo:
    """The program of a job that attached to the hub."""

    id: str
    """Its job id, in hexadecimal."""
    node_ip_address: str
    pid: str


@dataclass
class JobInfo:
    """A submitted job and what came of it. Times are milliseconds since 1970."""

    status: JobStatus
    entrypoint: str
    message: str | None = None
    """The status in words; of a job that failed, with the end of its log."""
    error_type: JobErrorType | None = None
    start_time: int | None = None
    end_time: int | None = None
    metadata: dict[str, str] | None = None
    runtime_env: dict[str, Any] | None = None
    entrypoint_num_cpus: int | float | None = None
    entrypoint_num_gpus: int | float | None = None
    entrypoint_memory: int | None = None
    entrypoint_resources: dict[str, float] | None = None
    driver_agent_http_address: str | None = None
    driver_node_id: str | None = None
    driver_exit_code: int | None = None


@dataclass
class JobDetails:
    """A job of any type, as `JobSubmissionClient.list_jobs` and `get_job_info` give it."""

    type: JobType
    status: JobStatus
    entrypoint: str
    job_id: str | None = None
    """Of its driver, in hexadecimal; None as long as none has attached."""
    submission_id: str | None = None
    """None for a driver that nobody submitted."""
    driver_info: DriverInfo | None = None
    message: str | None = None
    error_type: str | None = None
    start_time: int | None = None
    end_time: int | None = None
    metadata: dict[str, str] | None = None
    runtime_env: dict[str, Any] | None = None
    driver_agent_http_address: str | None = None
    driver_node_id: str | None = None
    driver_exit_code: int | None = None


class JobSubmissionClient:
    """Submits jobs to a standing hub of this machine, and looks after them.

    Args:
        address: ``"auto"`` (the newest standing hub), a hub's name, folder or socket. None: what SKATE_ADDRESS or
            RAY_ADDRESS says, or else ``"auto"``.

    The other arguments are Ray's, for a server that is not there; they have no effect.

    Raises ConnectionError when there is no hub, and for an address of HTTP.
    """

    def __init__(
        self,
        address: str | None = None,
        create_cluster_if_needed: bool = False,
        cookies: dict[str, Any] | None = None,
        metadata: dict[str, Any] | None = None,
        headers: dict[str, Any] | None = None,
        verify: str | bool | None = True,
        **kwargs: Any,
    ) -> None:
        if address is not None and not isinstance(address, str):
            raise TypeError(f"address must be a string or None, not {type(address).__name__}: {address!r}")
        self._address = address or os.environ.get("SKATE_ADDRESS") or os.environ.get("RAY_ADDRESS") or "auto"
        self._metadata = metadata or {}
        with Visit(self._address) as visit:  # "auto" must not come to mean another one later
            self._address = f"unix:{visit.folder}"

    def get_address(self) -> str:
        """Where the hub is: ``unix:`` and its session's folder."""
        return self._address

    def get_version(self) -> str:
        """The version of Skate, which is also the hub's."""
        return __version__

    def submit_job(
        self,
        *,
        entrypoint: str,
        job_id: str | None = None,
        runtime_env: Mapping[str, Any] | None = None,
        metadata: dict[str, str] | None = None,
        submission_id: str | None = None,
        entrypoint_num_cpus: int | float | None = None,
        entrypoint_num_gpus: int | float | None = None,
        entrypoint_memory: int | None = None,
        entrypoint_resources: dict[str, float] | None = None,
        entrypoint_label_selector: dict[str, str] | None = None,
    ) -> str:
        """Have a command run, with ``init()`` in it attaching to this hub; its submission id, at once.

        Args:
            entrypoint: a command of the shell, such as ``"python train.py"``.
            job_id: the former name of `submission_id`.
            runtime_env: as for `skate.init`: for the command itself, and for what its drivers start.
            metadata: any texts by name, to be read back.
            submission_id: a name of your own; a new one when None.
            entrypoint_num_cpus, entrypoint_num_gpus, entrypoint_memory, entrypoint_resources: what the command
                holds while it runs, besides what its tasks and actors do; nothing when None. Memory in bytes.
            entrypoint_label_selector: of the node that it may run on.

        Raises RuntimeError when there is such a job already, TypeError or ValueError for a wrong argument.
        """
        name = submission_id or job_id
        for what, given in (("entrypoint", entrypoint), ("submission_id", name)):
            if not isinstance(given, str) and (given is not None or what == "entrypoint"):
                raise TypeError(f"{what} must be a string, not {type(given).__name__}: {given!r}")
        if not entrypoint.strip():
            raise ValueError("entrypoint is empty: give the command that the job is to run")
        amounts = {
            "num_cpus": entrypoint_num_cpus,
            "num_gpus": entrypoint_num_gpus,
            "memory": entrypoint_memory,
        }
        for what, amount in amounts.items():
            if amount is not None:
                to_units(amount, what)
        check_custom(entrypoint_resources or {})
        asked = {
            "entrypoint": entrypoint,
            "submission_id": name,
            "metadata": _texts("metadata", {**self._metadata, **_texts("metadata", metadata)}),
            "runtime_env": unpack_environment(pack_environment(runtime_env, job=True)),
            "resources": entrypoint_resources,
            "label_selector": _texts("entrypoint_label_selector", entrypoint_label_selector),
            **amounts,
        }
        return str(self._ask("submit", asked))

    def get_job_status(self, job_id: str) -> JobStatus:
        """How far a job is. RuntimeError when it is not known."""
        return JobStatus(self._row(job_id)["status"])

    def get_job_info(self, job_id: str) -> JobDetails:
        """What is known of a submitted job. RuntimeError when it is not known."""
        return _details(self._row(job_id))

    def list_jobs(self) -> list[JobDetails]:
        """All jobs: those that were submitted, and drivers that attached by themselves."""
        with Visit(self._address) as visit:
            return [_details(row) for row in visit.ask("state", "jobs")]

    def get_job_logs(self, job_id: str) -> str:
        """What a job has written to its standard output and error: all of it, or the last 16 MiB or more."""
        return read_log(self._row(job_id)["log"])

    async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        """What a job writes, from the beginning and as it comes, until it has ended."""
        tail = Tail(self._row(job_id)["log"])
        try:
            over = False
            while True:
                data = tail.read()
                if data:
                    yield data.decode("utf-8", "replace")
                elif over:
                    return
                else:
                    over = self.get_job_status(job_id).is_terminal()
                    await asyncio.sleep(0 if over else LOOK_EVERY)
        finally:
            tail.close()

    def stop_job(self, job_id: str) -> bool:
        """Have a job ended: SIGTERM for all of its processes, SIGKILL after 3 seconds. False: it was over already."""
        return bool(self._ask("stop", job_id))

    def delete_job(self, job_id: str) -> bool:
        """Forget a job that is over, and delete its log. RuntimeError when it is not over, or not known."""
        return bool(self._ask("delete", job_id))

    def _row(self, job_id: str) -> dict[str, Any]:
        row: dict[str, Any] = self._ask("info", job_id)
        return row

    def _ask(self, what: str, argument: Any) -> Any:
        with Visit(self._address) as visit:
            return visit.ask("job", what, argument)


def _texts(what: str, given: Any) -> dict[str, str]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise TypeError(f"{what} must be a dict of strings, not {type(given).__name__}")
    for name, text in given.items():
        if not isinstance(name, str) or not isinstance(text, str):
            raise TypeError(f"{what} must map strings to strings; {name!r}: {text!r} does not")
    return dict(given)


def _details(row: dict[str, Any]) -> JobDetails:
    driver = row["driver_info"]
    return JobDetails(
        type=JobType(row["type"]),
        status=JobStatus(row["status"]),
        entrypoint=row["entrypoint"],
        job_id=row["job_id"],
        submission_id=row["submission_id"],
        driver_info=DriverInfo(driver["id"], driver["node_ip_address"], str(driver["pid"])) if driver else None,
        message=row["message"],
        error_type=row["error_type"],
        start_time=row["start_time"],
        end_time=row["end_time"],
        metadata=row["metadata"],
        runtime_env=row["runtime_env"],
        driver_exit_code=row.get("driver_exit_code"),
    )
