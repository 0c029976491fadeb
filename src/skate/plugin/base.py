"""What plugins inherit from."""

from __future__ import annotations

from typing import Any, final

from skate.plugin.calls import call_as


class BasePlugin:
    """A plugin's class: an instance runs for as long as the service, and has the methods that are called.

    ``__init__`` is for what is quick; `on_start` for what is slow or asynchronous.
    """

    _skate_plugin: str = ""

    def __init__(self, **kwargs: Any) -> None:
        self.kwargs = kwargs

    async def on_start(self) -> None:
        """Runs ahead of the first request, on the event loop that requests run on."""

    async def on_stop(self) -> None:
        """Runs when the service ends."""

    def check_health(self) -> None:
        """Raise an exception if this instance should be replaced."""

    @final
    async def _call_remote_api(self, api_name: str, **kwargs: Any) -> Any:
        """Call another plugin's API, or that of an upstream service: see `skate.plugin.call_plugin_api`."""
        return self._post_call_remote_api_hook(await call_as(self._skate_plugin or None, api_name, kwargs))

    def _post_call_remote_api_hook(self, data: Any) -> Any:
        """What `_call_remote_api` returns for what came back; override it to change that."""
        return data
