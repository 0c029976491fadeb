"""The documents of a service: OpenAPI, and a page with its plugins, versions, uptime and configuration."""

from __future__ import annotations

import html
import time
from collections.abc import Mapping
from typing import Any

from skate.configuration import Loaded, shown
from skate.plugin.catalog import UpstreamApi
from skate.plugin.loading import Registry


def overview(registry: Registry, loaded: Loaded, engine: str, started: float, leave: str = "") -> str:
    """The part of the docs page that is this service's own, as HTML. `leave`: where to log out, if anywhere."""
    rows = "".join(
        f"<tr><td>{html.escape(plugin.name)}</td><td>{html.escape(plugin.metadata.version)}</td>"
        f"<td>{html.escape(plugin.metadata.description)}</td><td>{html.escape(plugin.metadata.author)}</td></tr>"
        for plugin in registry.plugins.values()
    )
    broken = "".join(
        f"<tr><td>{html.escape(name)}</td><td colspan=3>does not work; see the log</td></tr>"
        for name in registry.failed
    )
    off = "".join(f"<tr><td>{html.escape(name)}</td><td colspan=3>disabled</td></tr>" for name in registry.disabled)
    settings = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{html.escape(str(value))}</td><td>{html.escape(where)}</td></tr>"
        for name, value, where in shown(loaded)
    )
    out = f' <a href="{html.escape(leave)}">Log out</a>' if leave else ""
    return (
        "<style>.skate{font:14px sans-serif;margin:1em auto;max-width:1400px}.skate td,.skate th{padding:.2em .8em;"
        "text-align:left;border-bottom:1px solid #ddd}</style>"
        f'<div class="skate"><p>Engine {html.escape(engine)}, up for {uptime(time.time() - started)}.{out}</p>'
        f"<table><tr><th>plugin</th><th>version</th><th>description</th><th>author</th></tr>{rows}{broken}{off}</table>"
        "<details><summary>Configuration</summary><table><tr><th>setting</th><th>value</th><th>from</th></tr>"
        f"{settings}</table></details></div>"
    )


def uptime(seconds: float) -> str:
    """A time span as people read it."""
    minutes, left = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (left, "s")]
    while len(parts) > 1 and not parts[0][0]:
        parts.pop(0)
    return " ".join(f"{number} {unit}" for number, unit in parts[:2])


def add_upstream(document: dict[str, Any], apis: list[UpstreamApi], schemas: Mapping[str, Any]) -> dict[str, Any]:
    """The OpenAPI document with the routes of upstream services; a plugin's own go over them."""
    for api in apis:
        document["paths"].setdefault(api.path, {}).setdefault(api.method.lower(), dict(api.operation))
    if schemas:
        document.setdefault("components", {}).setdefault("schemas", {}).update(schemas)
    return document
