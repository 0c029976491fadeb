"""What the service logs: a line an event, as text or as JSON, with the request that it belongs to."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any

from skate.configuration import LogConfig
from skate.plugin import telemetry
from skate.plugin.calls import caller, request_id
from skate.plugin.scrub import Scrubber

access = logging.getLogger("skate.plugin.access")
_OWN = "skate.plugin"


class Lines(logging.Formatter):
    """Records as lines of text, or of JSON. `scrub` takes secrets out of them."""

    def __init__(self, as_json: bool, scrub: Scrubber | None = None) -> None:
        super().__init__()
        self.as_json = as_json
        self.scrub = scrub

    def format(self, record: logging.LogRecord) -> str:
        """A record's line."""
        line = self._line(record)
        return line if self.scrub is None else self.scrub.text(line)

    def _line(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = dict(getattr(record, "fields", None) or {})
        for name, value in (
            ("request_id", request_id.get()),
            ("plugin", caller.get()),
            ("trace_id", telemetry.trace_id()),
        ):
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


def set_up_logging(config: LogConfig, scrub: Scrubber | None = None) -> None:
    """Have the service's loggers write to stderr, without secrets.

    Loggers that the program has set up itself are left alone.
    """
    lines = Lines(config.format == "json", scrub)
    logger = logging.getLogger(_OWN)
    logger.setLevel(config.level.upper())
    for handler in logger.handlers:
        if isinstance(handler.formatter, Lines):
            handler.setFormatter(lines)
            return
    if logger.handlers:
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(lines)
    logger.addHandler(handler)
