"""What the service logs: a line an event, as text or as JSON, with the request that it belongs to."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any

from skate.configuration import LogConfig
from skate.plugin.calls import caller, request_id

access = logging.getLogger("skate.plugin.access")
_OWN = "skate.plugin"


class Lines(logging.Formatter):
    """Records as lines of text, or of JSON."""

    def __init__(self, as_json: bool) -> None:
        super().__init__()
        self.as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        """A record's line."""
        fields: dict[str, Any] = dict(getattr(record, "fields", None) or {})
        for name, value in (("request_id", request_id.get()), ("plugin", caller.get())):
            if value:
                fields.setdefault(name, value)
        message = record.getMessage()
        trace = self.formatException(record.exc_info) if record.exc_info else ""
        if self.as_json:
            when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
            line = {
                "time": when,
                "level": record.levelname.lower(),
                "logger": record.name,
                "message": message,
                **fields,
            }
            if trace:
                line["error"] = trace
            return json.dumps(line, default=str)
        when = time.strftime("%H:%M:%S", time.localtime(record.created))
        rest = "".join(f" {name}={_safe(value)}" for name, value in fields.items())
        return f"{when} {record.levelname.lower()} {_safe(message)}{rest}" + (f"\n{trace}" if trace else "")


def _safe(value: Any) -> str:
    """A value on one line: nobody forges lines by what they ask for."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in str(value))


def set_up_logging(config: LogConfig) -> None:
    """Have the service's loggers write to stderr. Loggers that the program has set up itself are left alone."""
    logger = logging.getLogger(_OWN)
    logger.setLevel(config.level.upper())
    for handler in logger.handlers:
        if isinstance(handler.formatter, Lines):
            handler.setFormatter(Lines(config.format == "json"))
            return
    if logger.handlers:
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Lines(config.format == "json"))
    logger.addHandler(handler)
