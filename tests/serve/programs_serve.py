"""Applications for tests of configurations: modules as users write them, in a directory."""

from __future__ import annotations

from pathlib import Path

MODULE = """
import os
from dataclasses import dataclass

from skate import serve


@serve.deployment
class Inner:
    def __init__(self, size):
        self.size, self.config = size, None

    def reconfigure(self, config):
        self.config = config

    def __call__(self):
        return {"size": self.size, "config": self.config, "inner": os.getpid()}


@serve.deployment
class Outer:
    def __init__(self, inner):
        self.inner = inner

    async def __call__(self):
        return {**await self.inner.remote(), "outer": os.getpid(), "text": "TEXT", "cwd": os.getcwd(),
                "variable": os.environ.get("SERVE_TEST")}


app = Outer.bind(Inner.bind(1))


@dataclass
class Args:
    size: int
    name: str = "x"


def build(args):
    return Outer.bind(Inner.bind(args.get("size", 0)))


def typed(args: Args):
    return Outer.bind(Inner.bind((args.size, args.name)))


def failing(args):
    raise LookupError("no such model")


def other(args):
    return 3


number = 3
"""


def write_module(folder: Path, name: str, text: str = "one") -> None:
    """A module in `folder`; `text` is what its application says."""
    (folder / f"{name}.py").write_text(MODULE.replace("TEXT", text))
