"""Structured logs: how a job's log records are written, in the driver and in its workers.

Each record carries the ids of where it was written. `logging` itself is imported by those who write logs.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec

from skate.core import engine as engines
from skate.core import ids

if TYPE_CHECKING:
    from logging import LogRecord

TEXT_FORMAT = "%(asctime)s\t%(levelname)s %(filename)s:%(lineno)s -- %(message)s"
_OF_PYTHON = frozenset(
    {
        *("args", "asctime", "created", "exc_info", "exc_text", "filename", "funcName", "levelname", "levelno"),
        *("lineno", "message", "module", "msecs", "msg", "name", "pathname", "process", "processName"),
        *("relativeCreated", "stack_info", "thread", "threadName", "taskName"),
    }
)
"""Attributes of every record: https://docs.python.org/3/library/logging.html#logrecord-attributes"""
_ENCODINGS = ("TEXT", "JSON")


class LoggingConfig(msgspec.Struct):
    """How log records of a job are written: ``init(logging_config=LoggingConfig(encoding="JSON"))``.

    It is in force in the driver and in all workers of the job, for the root logger and those named ``ray`` and
    ``skate``. Each record has ``job_id``, ``worker_id`` and ``node_id``, in a task or an actor also ``task_id``,
    ``task_name``, ``task_func_name``, ``actor_id`` and ``actor_name``, and what ``extra=`` gives it.

    Args:
        encoding: ``"TEXT"``, or ``"JSON"`` for an object on each line.
        log_level: the least level that is written, a name or a number of `logging`.
        additional_log_standard_attrs: further attributes of `logging.LogRecord` to write, such as ``"name"``.

    Raises ValueError for an encoding, a level or an attribute that there is not.
    """

    encoding: str = "TEXT"
    log_level: str | int = "INFO"
    additional_log_standard_attrs: list[str] = []

    def __post_init__(self) -> None:
        import logging

        if self.encoding not in _ENCODINGS:
            raise ValueError(f"LoggingConfig(encoding={self.encoding!r}): valid are {', '.join(_ENCODINGS)}.")
        if not isinstance(self.log_level, int) and self.log_level not in logging.getLevelNamesMapping():
            valid = ", ".join(logging.getLevelNamesMapping())
            raise ValueError(f"LoggingConfig(log_level={self.log_level!r}): valid are {valid}, or a number.")
        unknown = [name for name in self.additional_log_standard_attrs if name not in _OF_PYTHON]
        if unknown:
            raise ValueError(
                f"LoggingConfig(additional_log_standard_attrs=...): log records have no {', '.join(unknown)}. "
                f"Valid: {', '.join(sorted(_OF_PYTHON))}."
            )


def surroundings() -> dict[str, str]:
    """Where the calling code runs, as log records tell it; nothing outside of a session."""
    engine = engines.running()
    if engine is None:
        return {}
    here = engine.context()
    found = {
        "job_id": here.job.to_bytes(len(ids.JOB_ID), "little").hex(),
        "worker_id": here.worker,
        "node_id": here.node,
    }
    if here.actor is not None:
        found["actor_id"] = ids.actor_binary(here.actor.actor).hex()
        found["actor_name"] = here.actor.options.name
    if here.task and not here.driver:
        found["task_id"] = ids.task_binary(here.task).hex()
        found["task_name"] = here.task_name or here.function_name
        found["task_func_name"] = here.function_name
    return {name: value for name, value in found.items() if value}


def apply(config: LoggingConfig) -> None:
    """Have this process's log records written so; a later call takes the place of an earlier one."""
    import logging

    class Structured(logging.Formatter):
        """A line for each record."""

        def format(self, record: LogRecord) -> str:
            if config.encoding == "JSON":
                return json.dumps({**self.standard(record), **extras(record)}, default=str)
            said = " ".join(f"{name}={value}" for name, value in extras(record).items())
            return f"{super().format(record)} {said}"

        def standard(self, record: LogRecord) -> dict[str, Any]:
            """What every record says."""
            found: dict[str, Any] = {
                "asctime": self.formatTime(record),
                "levelname": record.levelname,
                "message": record.getMessage(),
                "filename": record.filename,
                "lineno": record.lineno,
                "process": record.process,
            }
            if record.exc_info:
                found["exc_text"] = record.exc_text = record.exc_text or self.formatException(record.exc_info)
            return found

    def extras(record: LogRecord) -> dict[str, Any]:
        """What was asked for, what the program added, and the ids."""
        asked = {name: getattr(record, name, None) for name in config.additional_log_standard_attrs}
        added = {name: value for name, value in vars(record).items() if name not in _OF_PYTHON}
        return {**asked, **added, "timestamp_ns": int(record.created * 1e9)}

    def locate(record: LogRecord) -> bool:
        vars(record).update(surroundings())
        return True

    handler = logging.StreamHandler()
    handler.setLevel(config.log_level)
    handler.setFormatter(Structured(TEXT_FORMAT))
    handler.addFilter(locate)
    handler.set_name("skate-structured")
    for name in (None, "ray", "skate"):
        logger = logging.getLogger(name)
        logger.setLevel(config.log_level)
        for other in logger.handlers[:]:
            if name is not None or other.get_name() == handler.get_name():
                logger.removeHandler(other)
        if name is None:
            logger.addHandler(handler)


def packed(config: LoggingConfig) -> str:
    """A configuration as it travels to workers."""
    return msgspec.json.encode(config).decode()


def apply_packed(text: str) -> None:
    """`apply`, for what `packed` gave."""
    apply(msgspec.json.decode(text, type=LoggingConfig))
