"""What every process of a service sets up ahead of its plugins: configuration, logs, spans, reports of errors."""

from __future__ import annotations

import asyncio

from skate.configuration import Config
from skate.plugin import sentry, settings, telemetry
from skate.plugin.calls import request_id
from skate.plugin.logs import set_up_logging
from skate.plugin.scrub import Scrubber


def set_up(config: Config) -> None:
    """Set this process up. Raises ConfigError, and ImportError for an extra that is missing."""
    scrub = Scrubber(config)
    set_up_logging(config.log, scrub)
    settings.use(config)  # ahead of the plugins' modules, which may ask for their tables
    telemetry.set_up(config, scrub)
    sentry.set_up(config, scrub)


def report(error: BaseException, plugin: str, where: str) -> None:
    """Tell of an error that nobody expected: in the span of the request, and to Sentry."""
    if telemetry.current is not None:
        telemetry.current.failed(error)
    if sentry.current is not None:
        sentry.current.report(error, getattr(error, "skate_plugin", plugin), where, request_id.get())


async def flush() -> None:
    """Send spans and reports that wait."""
    for each in (telemetry.current, sentry.current):
        if each is not None:
            await asyncio.to_thread(each.flush)
