"""A plugin whose work is heavy: it counts primes. Other plugins stay as quick as they are."""

from pydantic import BaseModel

from skate.plugin import BasePlugin, PluginMetadata, get_plugin_config, on_register, on_request, remote


class NumbersConfig(BaseModel):
    most: int = 100_000


__plugin_meta__ = PluginMetadata(
    name="numbers", version="1.0.0", description="Counts primes", author="the example", config_class=NumbersConfig
)
settings = get_plugin_config("numbers", NumbersConfig)


@remote()
def count_primes(below: int) -> int:
    """How many primes there are below a number."""
    sieve = bytearray([1]) * max(below, 2)
    sieve[0:2] = b"\0\0"
    for number in range(2, int(below**0.5) + 1):
        if sieve[number]:
            sieve[number * number :: number] = bytes(len(range(number * number, len(sieve), number)))
    return sum(sieve)


@on_register(max_ongoing_requests=4)
class NumbersPlugin(BasePlugin):
    @on_request("/primes", methods=["GET"], cache={"ttl": 60})
    async def primes(self, below: int) -> int:
        """How many primes there are below a number; the loop stays free meanwhile."""
        return await count_primes.remote(max(0, min(below, settings.most)))

    @on_request("/primes/busy", methods=["GET"])
    async def busy(self, below: int) -> int:
        """The same, and rude: on the event loop."""
        return count_primes(max(0, min(below, settings.most)))
