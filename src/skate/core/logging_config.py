"""Structured logs: what a job asks for, as it travels to its workers. `structured_logs.py` writes them.

`logging` itself is imported by those who write logs.
"""

from __future__ import annotations

import msgspec

OF_PYTHON = frozenset(
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
        unknown = [name for name in self.additional_log_standard_attrs if name not in OF_PYTHON]
        if unknown:
            raise ValueError(
                f"LoggingConfig(additional_log_standard_attrs=...): log records have no {', '.join(unknown)}. "
                f"Valid: {', '.join(sorted(OF_PYTHON))}."
            )


def packed(config: LoggingConfig) -> str:
    """A configuration as it travels to workers."""
    return msgspec.json.encode(config).decode()


def apply_packed(text: str) -> None:
    """Have this process's log records written as `packed` was told."""
    from skate.core import structured_logs

    structured_logs.apply(msgspec.json.decode(text, type=LoggingConfig))
