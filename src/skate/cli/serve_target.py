"""What the commands of `skate serve` talk to: Serve in a standing hub, or a REST interface."""

from __future__ import annotations

import contextlib
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any, Protocol

import click

PAUSE = 0.2
"""Seconds between two looks at applications over REST."""


class Target(Protocol):
    """A Serve."""

    here: bool
    """Is it on this machine, with this file system?"""

    def errors(self) -> contextlib.AbstractContextManager[None]:
        """Errors of the block end the command with their reason; the connection ends with the block."""

    def put(self, config: dict[str, Any]) -> None:
        """Deploy a configuration."""

    def settled(self, names: list[str]) -> dict[str, str]:
        """Wait until the applications are deployed; what went wrong, by application."""

    def details(self) -> dict[str, Any]:
        """As `skate.serve.admin.details`."""

    def start(self, config: dict[str, Any]) -> None:
        """Start it."""

    def shutdown(self) -> None:
        """End it."""

    def rest(self, port: int) -> str:
        """Serve the REST interface; its address."""


def find(address: str | None) -> Target:
    """What `address` names. ConnectionError when nothing is there."""
    if address is not None and address.startswith(("http://", "https://")):
        return RestTarget(address)
    return HubTarget(address)


class HubTarget:
    """Serve in a session that runs on this machine."""

    here = True

    def __init__(self, address: str | None) -> None:
        from skate.serve import admin

        admin.initialized(address)
        self._admin = admin

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        import skate
        from skate.exceptions import RayError

        try:
            yield
        except (RayError, ConnectionError, ValueError, TypeError, OSError, ImportError) as error:
            raise click.ClickException(str(error)) from None
        finally:
            skate.shutdown()

    def put(self, config: dict[str, Any]) -> None:
        self._admin.put(config)

    def settled(self, names: list[str]) -> dict[str, str]:
        found = self._admin.settled(names)
        return {name: message or status for name, (status, message) in found.items() if status != "RUNNING"}

    def details(self) -> dict[str, Any]:
        return self._admin.details()

    def start(self, config: dict[str, Any]) -> None:
        self._admin.start(config)

    def shutdown(self) -> None:
        from skate.serve import api, rest

        api.shutdown()
        rest.stop()

    def rest(self, port: int) -> str:
        from skate.serve import rest

        host, port = rest.start(port=port)
        return f"http://{host}:{port}"


class RestTarget:
    """Serve behind a REST interface, of Skate or of Ray's dashboard."""

    here = False

    def __init__(self, url: str) -> None:
        self._url = f"{url.rstrip('/')}/api/serve/applications/"
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        try:
            yield
        except urllib.error.HTTPError as error:
            text = error.read().decode(errors="replace")
            raise click.ClickException(f"{self._url} answered {error.code}: {text}") from None
        except (OSError, ValueError) as error:
            raise click.ClickException(f"{self._url} cannot be reached: {error}") from None

    def _ask(self, method: str, body: Any = None) -> bytes:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        if token := os.environ.get("SKATE_SERVE_TOKEN"):
            headers["Authorization"] = f"Bearer {token}"
        request = urllib.request.Request(self._url, data, headers, method=method)
        with self._opener.open(request, timeout=60) as answer:
            found: bytes = answer.read()
        return found

    def put(self, config: dict[str, Any]) -> None:
        self._ask("PUT", config)

    def start(self, config: dict[str, Any]) -> None:
        raise click.ClickException("Serve is started where it is to run: name the hub with --address.")

    def rest(self, port: int) -> str:
        raise click.ClickException("The REST interface is started where Serve runs: name the hub with --address.")

    def settled(self, names: list[str]) -> dict[str, str]:
        while True:
            apps = self.details()["applications"]
            states = {name: apps.get(name, {}).get("status", "NOT_STARTED") for name in names}
            if not {"DEPLOYING", "NOT_STARTED"} & set(states.values()):
                break
            time.sleep(PAUSE)
        return {name: apps[name].get("message") or status for name, status in states.items() if status != "RUNNING"}

    def details(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._ask("GET"))
        return found

    def shutdown(self) -> None:
        self._ask("DELETE")
