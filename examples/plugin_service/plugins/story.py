"""A plugin that streams: a story, word by word."""

import asyncio
from collections.abc import AsyncIterator

from skate.plugin import (
    ApiType,
    BasePlugin,
    PluginMetadata,
    StreamEventType,
    make_stream_event,
    on_register,
    on_request,
)

__plugin_meta__ = PluginMetadata(name="story", version="1.1.0", description="Tells a story", author="the example")


@on_register()
class StoryPlugin(BasePlugin):
    async def on_start(self) -> None:
        self.told = 0

    @on_request("/hello", methods=["GET"])
    async def hello(self, name: str = "you") -> str:
        """A light route."""
        return f"hello {name}"

    @on_request("/story", methods=["GET"], stream=True)
    async def story(self, about: str) -> AsyncIterator[str]:
        """Server-sent events, one for each word."""
        for word in f"once there was {about}".split():
            yield make_stream_event(StreamEventType.MESSAGE_CHUNK, word)
            await asyncio.sleep(0)
        self.told += 1
        yield make_stream_event(StreamEventType.FINISH)

    @on_request(call_type=ApiType.FUNC)
    async def title(self, about: str) -> str:
        """For other plugins alone."""
        return f"The {about}"
