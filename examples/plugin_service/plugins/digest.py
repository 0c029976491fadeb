"""A plugin that calls others: local ones, a stream, and a service of somebody else. They look the same from here."""

import json

from fastapi import HTTPException
from pydantic import BaseModel

from skate.plugin import BasePlugin, PluginMetadata, UpstreamError, call_plugin_api, on_register, on_request

__plugin_meta__ = PluginMetadata(
    name="digest",
    version="0.3.0",
    description="Puts together what others say",
    author="the example",
    required_remote_apis=["/api/v1/primes", "/api/v1/story", "story.StoryPlugin.title", "/api/v1/stock/{item}"],
)


class Order(BaseModel):
    item: str
    below: int = 100


class Digest(BaseModel):
    title: str
    words: list[str]
    primes: int
    stock: int


@on_register()
class DigestPlugin(BasePlugin):
    @on_request("/digest", methods=["POST"])
    async def digest(self, order: Order) -> Digest:
        """Two plugins and the warehouse, in one answer."""
        if order.item == "nothing":
            raise HTTPException(404, "there is nothing about nothing")
        words = []
        async for event in await call_plugin_api("/api/v1/story", about=order.item):
            if event.startswith("event: message_chunk"):
                words.append(json.loads(event.partition("data: ")[2])["content"])
        try:
            stock = await call_plugin_api("/api/v1/stock/{item}", item=order.item)
        except UpstreamError as error:
            if error.status != 404:
                raise
            raise HTTPException(404, f"the warehouse has no {order.item}") from None
        return Digest(
            title=await call_plugin_api("story.StoryPlugin.title", about=order.item),
            words=words,
            primes=await call_plugin_api("/api/v1/primes", below=order.below),
            stock=stock["amount"],
        )

    @on_request("/digest/secret", methods=["GET"], include_in_schema=False)
    async def undeclared(self) -> str:
        """Calls what it has not declared, which is refused; no document should suggest it."""
        return await call_plugin_api("/api/v1/hello")
