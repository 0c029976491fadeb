"""An application that a configuration deploys: prices with a discount that can be changed while it runs.

skate serve run examples/serve_config/serve.yaml --app-dir examples/serve_config
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from skate import serve
from skate.serve.handle import DeploymentHandle


@dataclass
class Args:
    """What the builder takes; values of the command line and of files are converted."""

    currency: str = "EUR"
    tax: float = 0.2


@serve.deployment
class Discount:
    """How much is taken off; `user_config` says, and a change reaches the replicas that run."""

    def __init__(self) -> None:
        self.percent = 0.0

    def reconfigure(self, config: dict[str, Any]) -> None:
        """The configuration's `user_config`."""
        self.percent = float(config["percent"])

    async def __call__(self, price: float) -> float:
        """The price with the discount."""
        return price * (1 - self.percent / 100)


@serve.deployment
class Shop:
    """Tells what something costs."""

    def __init__(self, args: Args, discount: DeploymentHandle) -> None:
        self.args = args
        self.discount = discount

    async def __call__(self, price: float) -> str:
        """With discount and tax."""
        reduced: float = await self.discount.remote(price)
        return f"{reduced * (1 + self.args.tax):.2f} {self.args.currency}"


def app(args: Args) -> serve.Application:
    """The application."""
    return Shop.bind(args, Discount.bind())
