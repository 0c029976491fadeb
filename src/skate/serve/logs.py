"""What replicas log: lines, or JSON, that say which request and which replica they are of; a line for each request.

The loggers ``skate.serve`` and, for programs written for Ray, ``ray.serve`` get a handler in every replica.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Mapping
from typing import Any

from skate.serve import context

LOGGERS = ("skate.serve", "ray.serve")
LARGEST = 100 << 20
"""Bytes of a file, after which the next one begins."""
KEPT = 5
"""Files kept besides the one that is written."""
MARK = "_skate_serve"
_OWN = frozenset(logging.makeLogRecord({}).__dict__) | {
    *("message", "asctime", "taskName", "request_id", "route", "application", "deployment", "replica"),
}


class Surroundings(logging.Filter):
    """Adds to a record the request and the replica that it is of."""

    def filter(self, record: logging.LogRecord) -> bool:
        """All records pass."""
        request = context.request_context.get()
        replica = context.current_replica()
        record.request_id, record.route = request.request_id, request.route
        names = replica.tags if replica is not None else ("", "", "")
        record.deployment, record.replica, record.application = names
        return True


class Lines(logging.Formatter):
    """``INFO 2026-11-21 12:00:00,000 app_Deployment replica request -- text``."""

    def __init__(self) -> None:
        super().__init__("%(levelname)s %(asctime)s %(application)s_%(deployment)s %(replica)s %(where)s-- %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """One line, and the trace if there is one."""
        request: str = getattr(record, "request_id", "")
        record.where = f"{request} " if request else ""
        return super().format(record)


class JSONLines(logging.Formatter):
    """An object a line, with what `logging` calls ``extra`` among its keys.

    Args:
        attributes: further attributes of records.
    """

    def __init__(self, attributes: list[str]) -> None:
        super().__init__()
        self._attributes = attributes

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        found = {
            "asctime": self.formatTime(record),
            "levelname": record.levelname,
            "message": record.getMessage(),
            "filename": record.filename,
            "lineno": record.lineno,
            "process": record.process,
            "timestamp_ns": int(record.created * 1e9),
            "component_name": "replica",
            "component_id": getattr(record, "replica", ""),
        }
        for name in ("application", "deployment", "replica", "request_id", "route"):
            if value := getattr(record, name, ""):
                found[name] = value
        for name in self._attributes:
            found[name] = getattr(record, name, None)
        for name, value in record.__dict__.items():
            if name not in _OWN:
                found.setdefault(name, value)
        if record.exc_info:
            found["exc_text"] = self.formatException(record.exc_info)
        return json.dumps(found, default=str)


def set_up(config: Mapping[str, Any] | None, replica: tuple[str, str, str], shares: bool = False) -> bool:
    """Have this process log as a deployment's ``logging_config`` says; whether requests are to be logged.

    Without one, records from INFO on are written as lines, and requests are not logged: that would cost more than
    serving them. A process that is not the replica's alone (`shares`) is left as it is then.
    """
    if config is None and shares:
        return False
    given = dict(config or {})
    level = given.get("log_level", "INFO")
    for name in LOGGERS:
        logger = logging.getLogger(name)
        if config is None and logger.handlers and not any(getattr(one, MARK, False) for one in logger.handlers):
            continue  # the program has made its own arrangements
        for handler in [one for one in logger.handlers if getattr(one, MARK, False)]:
            logger.removeHandler(handler)
            handler.close()
        logger.addHandler(_handler(given, replica))
        logger.setLevel(level.upper() if isinstance(level, str) else level)
        logger.propagate = False
    return config is not None and bool(given.get("enable_access_log", True))


def _handler(given: Mapping[str, Any], replica: tuple[str, str, str]) -> logging.Handler:
    folder = given.get("logs_dir")
    handler: logging.Handler = logging.StreamHandler()
    if folder:
        from logging.handlers import RotatingFileHandler  # slow to import, and seldom wanted

        os.makedirs(folder, exist_ok=True)
        deployment, name, app = (re.sub(r"[^\w.-]", "_", part) for part in replica)
        path = os.path.join(folder, f"replica_{app}_{deployment}_{name}.log")
        handler = RotatingFileHandler(path, maxBytes=LARGEST, backupCount=KEPT, delay=True)
    as_json = given.get("encoding") == "JSON"
    handler.setFormatter(JSONLines(given.get("additional_log_standard_attrs") or []) if as_json else Lines())
    handler.addFilter(Surroundings())
    setattr(handler, MARK, True)
    return handler


_log = logging.getLogger("skate.serve")


def http(method: str, route: str, status: int, seconds: float) -> None:
    """A line for a request by HTTP."""
    extra = {"serve_access_log": True, "status": status, "latency_ms": round(seconds * 1000, 3)}
    _log.info("%s %s %s %.1fms", method, route, status, seconds * 1000, extra=extra)


def call(method: str, failed: bool, seconds: float) -> None:
    """A line for a request by a handle."""
    status = "ERROR" if failed else "OK"
    extra = {"serve_access_log": True, "status": status, "latency_ms": round(seconds * 1000, 3)}
    _log.info("CALL %s %s %.1fms", method, status, seconds * 1000, extra=extra)
