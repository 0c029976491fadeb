"""Writing log records as a `LoggingConfig` says, each with the ids of where it was written."""

from __future__ import annotations

import json
import logging
from typing import Any

from skate.core import engine as engines
from skate.core import ids
from skate.core.logging_config import OF_PYTHON, LoggingConfig

TEXT_FORMAT = "%(asctime)s\t%(levelname)s %(filename)s:%(lineno)s -- %(message)s"


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


class Structured(logging.Formatter):
    """A line for each record."""

    def __init__(self, config: LoggingConfig) -> None:
        super().__init__(TEXT_FORMAT)
        self.config = config

    def format(self, record: logging.LogRecord) -> str:
        """An object in JSON, or Ray's line of text with what was added at its end."""
        if self.config.encoding == "JSON":
            return json.dumps({**self._standard(record), **self._extras(record)}, default=str)
        said = " ".join(f"{name}={value}" for name, value in self._extras(record).items())
        return f"{super().format(record)} {said}"

    def _standard(self, record: logging.LogRecord) -> dict[str, Any]:
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

    def _extras(self, record: logging.LogRecord) -> dict[str, Any]:
        """What was asked for, what the program added, and the ids."""
        asked = {name: getattr(record, name, None) for name in self.config.additional_log_standard_attrs}
        added = {name: value for name, value in vars(record).items() if name not in OF_PYTHON}
        return {**asked, **added, "timestamp_ns": int(record.created * 1e9)}


def _locate(record: logging.LogRecord) -> bool:
    vars(record).update(surroundings())
    return True


def apply(config: LoggingConfig) -> None:
    """Have this process's log records written so; a later call takes the place of an earlier one."""
    handler = logging.StreamHandler()
    handler.setLevel(config.log_level)
    handler.setFormatter(Structured(config))
    handler.addFilter(_locate)
    handler.set_name("skate-structured")
    for name in (None, "ray", "skate"):
        logger = logging.getLogger(name)
        logger.setLevel(config.log_level)
        for other in logger.handlers[:]:
            if name is not None or other.get_name() == handler.get_name():
                logger.removeHandler(other)
        if name is None:
            logger.addHandler(handler)
