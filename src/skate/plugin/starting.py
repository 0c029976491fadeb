"""Waiting for plugins to start and to end, though not for ever; the log tells for whom."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from concurrent.futures import Future, wait
from typing import Any

from skate.plugin.errors import PluginError
from skate.plugin.host import Host

log = logging.getLogger("skate.plugin")
NOTICE_S = 30.0
"""Seconds after which the log tells who is still starting."""
STOP_S = 10.0
"""Seconds that a plugin may take to end."""
STILL = "plugin %s is still starting after %g s"
TOO_LONG = "it has not started within {:g} s ([server] start_timeout_s)"


async def started(host: Host, most_s: float | None) -> None:
    """Have a plugin start. Raises what it raises; PluginError when it takes too long."""
    task = asyncio.create_task(host.start())
    try:
        for so_far, pause in _waits(most_s):
            done, _ = await asyncio.wait({task}, timeout=pause)
            if done:
                break
            log.warning(STILL, host.deployment, so_far + pause)
        else:
            raise PluginError(TOO_LONG.format(most_s))
    finally:
        task.cancel()
    task.result()


async def stopped(host: Host) -> None:
    """Have a plugin end; what goes wrong, or takes longer than `STOP_S`, is logged, for the others are to end too."""
    try:
        async with asyncio.timeout(STOP_S) as limit:
            await host.stop()
    except Exception:
        if limit.expired():
            log.error("%s has not ended within %g s, and is left", host.deployment, STOP_S)
        else:
            log.exception("%s did not end cleanly", host.deployment)


def _waits(most_s: float | None) -> Iterator[tuple[float, float]]:
    """Seconds waited so far and to wait next, until it is enough."""
    so_far = 0.0
    while most_s is None or so_far < most_s:
        pause = NOTICE_S if most_s is None else min(NOTICE_S, most_s - so_far)
        yield so_far, pause
        so_far += pause


def patiently(done: Future[Any], name: str) -> Any:
    """What a plugin's start gives; the log tells when that takes long."""
    for so_far, pause in _waits(None):
        if wait([done], timeout=pause).done:
            break
        log.warning(STILL, name, so_far + pause)
    return done.result()
