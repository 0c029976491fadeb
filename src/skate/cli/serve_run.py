"""`skate serve run`: applications in the foreground."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import click

LOOK = 0.5
"""Seconds between two looks at files, and at how applications are."""
IGNORED = frozenset({"__pycache__", "node_modules", "venv"})
WATCHED = (".py", ".yaml", ".yml", ".json", ".toml")
MOST_FILES = 20_000


class Run:
    """One run of the command.

    Args:
        config: what to deploy.
        folder: where modules are imported from.
        address: the hub that it runs in; None: this process's own session.
        rest_port: where to serve the REST interface, if anywhere.
    """

    def __init__(self, config: dict[str, Any], folder: str, address: str | None, rest_port: int | None) -> None:
        self._config = config
        self._folder = os.path.abspath(folder)
        self._address = address
        self._rest_port = rest_port
        self._names = [app.get("name", "default") for app in config["applications"]]
        self._told: dict[str, str] = {}

    def go(self, *, blocking: bool, again: Callable[[], dict[str, Any]] | None) -> int:
        """Deploy, and stay if `blocking`; the exit code. `again` gives the configuration anew, for reloading."""
        import skate
        from skate.exceptions import RayError
        from skate.serve import api

        sys.path.insert(0, self._folder)
        signal.signal(signal.SIGTERM, _interrupt)
        signal.signal(signal.SIGINT, _interrupt)
        stays = False
        try:
            if self._address is None:
                skate.init(namespace="serve")
            else:
                skate.init(address=self._address, namespace="serve")
            failed = self._deploy(self._config)
            if failed and again is None:
                return 1
            stays = not blocking
            if blocking:
                self._stay(again)
            return 0
        except (RayError, ConnectionError, ValueError, TypeError, OSError, ImportError) as error:
            click.echo(f"Error: {error}", err=True)
            return 1
        except KeyboardInterrupt:
            click.echo("Shutting down.", err=True)
            return 0
        finally:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # the end is under way; SIGTERM still is an interrupt
            if skate.is_initialized() and not stays:
                self._end(api)
            skate.shutdown()

    def _deploy(self, config: dict[str, Any]) -> bool:
        """Put a configuration; whether it failed."""
        from skate.serve import admin, rest

        admin.put(config)
        if self._rest_port is not None:
            host, port = rest.start(port=self._rest_port)
            self._rest_port = None
            click.echo(f"The REST interface is at http://{host}:{port}.")
        found = admin.settled(self._names)
        for name, (status, message) in found.items():
            self._told[name] = status
            if status == "RUNNING":
                click.echo(f"Application {name} runs{self._where(name)}.")
            else:
                click.echo(f"Application {name} could not be deployed ({status}):\n{message}", err=True)
        return any(status != "RUNNING" for status, _ in found.values())

    def _where(self, name: str) -> str:
        from skate.serve import admin

        url = admin.url(name)
        return f" at {url}" if url else ""

    def _stay(self, again: Callable[[], dict[str, Any]] | None) -> None:
        """Tell of changes until interrupted; deploy anew when files change, if that is wanted."""
        from skate.serve import api

        seen = stamps(self._folder) if again is not None else {}
        while True:
            time.sleep(LOOK)
            if again is not None and (now := stamps(self._folder)) != seen:
                seen = now
                self._reload(again)
                continue
            for name, app in api.status().applications.items():
                if name in self._told and self._told[name] != app.status:
                    self._told[name] = app.status
                    click.echo(f"Application {name} is {app.status}{f': {app.message}' if app.message else ''}")

    def _reload(self, again: Callable[[], dict[str, Any]]) -> None:
        click.echo("Files have changed.")
        try:
            self._deploy({**again(), "http_options": self._config.get("http_options", {})})
        except (click.ClickException, ValueError) as error:
            click.echo(f"Error: {error}", err=True)

    def _end(self, api: Any) -> None:
        """End what is ours: everything in our own session, else our applications, and Serve with the last one."""
        from skate.serve import rest

        others = set(api.status().applications) - set(self._names) if self._address is not None else set()
        if others:
            for name in self._names:
                api.delete(name)
            return
        api.shutdown()
        rest.stop()


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def stamps(folder: str) -> dict[str, tuple[int, int]]:
    """When each file that counts was changed, and its size."""
    found: dict[str, tuple[int, int]] = {}
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in IGNORED]
        for name in files:
            if name.endswith(WATCHED) and len(found) < MOST_FILES:
                path = os.path.join(place, name)
                try:
                    state = os.stat(path)
                except OSError:  # gone meanwhile
                    continue
                found[path] = state.st_mtime_ns, state.st_size
    return found
