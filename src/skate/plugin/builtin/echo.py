"""The plugin `echo`: gives back what it is told; for trying a service out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from pydantic import BaseModel

from skate.plugin.base import BasePlugin
from skate.plugin.consts import VERSION
from skate.plugin.marks import on_register, on_request
from skate.plugin.model import ApiType, PluginMetadata
from skate.plugin.sse import StreamEventType, make_stream_event

__plugin_meta__ = PluginMetadata(
    name="echo",
    version=VERSION,
    description="Gives back what it is told.",
    author="Skate",
)


class EchoModel(BaseModel):
    """Something to be given back."""

    id: int
    name: str = "echo"


@on_register()
class EchoPlugin(BasePlugin):
    """Gives back what it is told."""

    @on_request("/echo", methods=["GET"])
    async def echo(self, message: str) -> str:
        """The message."""
        return message

    @on_request("/echo_model", methods=["POST"])
    async def echo_model(self, message: str, model: EchoModel) -> str:
        """The message and the model's fields."""
        return f"{message},{model.model_dump()}"

    @on_request("/echo_stream", methods=["GET"], stream=True)
    async def echo_stream(self, message: str) -> AsyncGenerator[str, None]:
        """The message, a letter at a time."""
        for letter in message:
            yield make_stream_event(StreamEventType.MESSAGE_CHUNK, letter)
            await asyncio.sleep(0)
        yield make_stream_event(StreamEventType.FINISH)

    @on_request(call_type=ApiType.FUNC)
    async def confess(self, message: str) -> str:
        """For other plugins alone."""
        return f"Got your message: {message}"
