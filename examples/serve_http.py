"""A shop of two applications behind one address: FastAPI, a deployment behind it, an update that no client notices.

While clients keep asking, the second version of the shop replaces the first, and a replica is killed.
"""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter

import httpx
from fastapi import FastAPI, HTTPException

import skate as ray
from skate import serve
from skate.serve.handle import DeploymentHandle

shop = FastAPI()
PRICES = {"tea": 3.5, "coffee": 4.0}


@serve.deployment(num_replicas=2)
class Prices:
    """What things cost."""

    async def of(self, name: str) -> float | None:
        """The price, or None."""
        return PRICES.get(name)


@serve.deployment(num_replicas=2, max_ongoing_requests=32)
@serve.ingress(shop)
class Shop:
    """The shop's pages."""

    def __init__(self, prices: DeploymentHandle, version: int) -> None:
        self.prices = prices
        self.version = version

    @shop.get("/price/{name}")
    async def price(self, name: str) -> dict[str, float]:
        """What something costs."""
        price = await self.prices.of.remote(name)
        if price is None:
            raise HTTPException(404, f"no {name} here")
        return {name: price}

    @shop.get("/version")
    async def about(self) -> dict[str, int]:
        """Which version answers, and from which process."""
        return {"version": self.version, "pid": os.getpid()}


@serve.deployment
def status(request: object) -> str:
    """A second application."""
    return "open"


def ask_all_day(url: str, versions: Counter[int], stop: threading.Event) -> None:
    """A client that keeps its connection, and wants each request answered."""
    with httpx.Client(base_url=url) as client:
        while not stop.is_set():
            versions[client.get("/shop/version").raise_for_status().json()["version"]] += 1


def main() -> None:
    ray.init(num_cpus=4)
    serve.start(http_options={"port": 0})
    serve.run(Shop.bind(Prices.bind(), 1), name="shop", route_prefix="/shop")
    serve.run(status.bind(), name="status", route_prefix="/status")
    url = serve.get_http_address()
    print("tea costs", httpx.get(f"{url}/shop/price/tea").json()["tea"])
    print("milk:", httpx.get(f"{url}/shop/price/milk").json()["detail"])
    print("the shop is", httpx.get(f"{url}/status").text)

    versions: Counter[int] = Counter()
    stop = threading.Event()
    client = threading.Thread(target=ask_all_day, args=(url, versions, stop))
    client.start()
    while versions[1] < 50:
        stop.wait(0.01)
    serve.run(Shop.bind(Prices.bind(), 2), name="shop", route_prefix="/shop")
    while versions[2] < 50:
        stop.wait(0.01)
    stop.set()
    client.join()

    os.kill(httpx.get(f"{url}/shop/version").json()["pid"], signal.SIGKILL)
    assert httpx.get(f"{url}/shop/version").json()["version"] == 2
    serve.shutdown()
    ray.shutdown()
    assert set(versions) == {1, 2}
    print("serve_http: an update and a death, and no request failed")


if __name__ == "__main__":
    main()
