"""Measure tool calls of MCP with the official client: to a server itself, and through gateway, bridge and serve.

    .venv/bin/python benchmarks/mcp_gateway.py

Servers, gateway and client have processes of their own. The ways to the tool take turns, so that what the machine does
beside the run falls on all of them; what a way adds is the difference of the medians of one run.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from datetime import date
from pathlib import Path

HERE = Path(__file__).resolve().parent
MODES = {"legacy": "with a session (2025-11-25)", "auto": "without (2026-07-28)"}
SERVER = '''
from mcp.server.mcpserver import MCPServer

def make():
    server = MCPServer("calculator", log_level="ERROR")

    @server.tool()
    def add(a: int, b: int) -> int:
        return a + b

    return server

def naive():
    """A gateway as one would write it first: a session with the server for each call."""
    import os
    from mcp import Client

    server = MCPServer("naive", log_level="ERROR")

    @server.tool()
    async def add(a: int, b: int) -> int:
        async with Client(os.environ["UPSTREAM"]) as client:
            return (await client.call_tool("add", {"a": a, "b": b})).structured_content["result"]

    return server

if __name__ == "__main__":
    make().run("stdio")
'''
ON_SERVE = """
import signal, sys
import skate
from skate import serve
from skate.serve import mcp
import calculator

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are born deaf to it
    skate.init(num_cpus=2)
    serve.start(http_options={"port": int(sys.argv[1])})
    serve.run(mcp.deployment("calculator:make"), name="server", route_prefix="/mcp")
    serve.run(
        mcp.deployment(mcp.gateway({"own": mcp.deployment("calculator:make")})), name="gateway", route_prefix="/gateway"
    )
    print(f"MCP at http://127.0.0.1:{sys.argv[1]}/mcp. ", file=sys.stderr, flush=True)
    try:
        signal.pause()
    except KeyboardInterrupt:
        serve.shutdown()
"""
WAYS = {
    "server": "the server itself",
    "gateway": "through the gateway, by HTTP",
    "gateway_stdio": "through the gateway, to a process",
    "bridge": "through the bridge, to a process",
    "serve": "a deployment of serve",
    "serve_gateway": "through a gateway deployment, by handle",
    "naive": "a gateway with a session per call",
}


@contextlib.contextmanager
def started(folder: Path, command: list[str], **variables: str) -> Iterator[str]:
    """A program that serves, and its address."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}
    process = subprocess.Popen(
        [sys.executable, *command], cwd=folder, env={**environment, **variables}, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if found := re.search(r"MCP at (http://\S+?)[.,] ", line):
                yield found[1]
                break
        else:
            raise RuntimeError(f"{command} ended before it served")
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)


async def calls(ways: dict[str, tuple[str, str]], mode: str, count: int) -> dict[str, list[float]]:
    """Seconds of each of `count` calls by each way, in one session each. The ways take turns, call by call."""
    from mcp import Client

    took: dict[str, list[float]] = {way: [] for way in ways}
    async with contextlib.AsyncExitStack() as stack:
        clients = {way: await stack.enter_async_context(Client(url, mode=mode)) for way, (url, _) in ways.items()}
        for turn in range(count + 5):
            for way, client in clients.items():
                begun = time.perf_counter()
                result = await client.call_tool(ways[way][1], {"a": turn, "b": 1})
                took[way].append(time.perf_counter() - begun)
                assert result.structured_content == {"result": turn + 1}, result
    return {way: samples[5:] for way, samples in took.items()}


async def at_once(url: str, tool: str, mode: str, count: int) -> float:
    """Calls a second with 16 under way."""
    from mcp import Client

    async with Client(url, mode=mode) as client:
        gate = asyncio.Semaphore(16)

        async def one(turn: int) -> None:
            async with gate:
                await client.call_tool(tool, {"a": turn, "b": 1})

        await asyncio.gather(*(one(turn) for turn in range(16)))
        begun = time.perf_counter()
        await asyncio.gather(*(one(turn) for turn in range(count)))
        return count / (time.perf_counter() - begun)


async def sessions(url: str, tool: str, mode: str, count: int) -> tuple[float, float]:
    """Seconds of `count` calls over one session, and with a session for each; both with beginning and end."""
    from mcp import Client

    begun = time.perf_counter()
    async with Client(url, mode=mode) as client:
        for turn in range(count):
            await client.call_tool(tool, {"a": turn, "b": 1})
    one = time.perf_counter() - begun
    begun = time.perf_counter()
    for turn in range(count):
        async with Client(url, mode=mode) as client:
            await client.call_tool(tool, {"a": turn, "b": 1})
    return one, time.perf_counter() - begun


@contextlib.contextmanager
def everything(folder: Path) -> Iterator[dict[str, tuple[str, str]]]:
    """All that is measured: way -> address and name of the tool."""
    (folder / "calculator.py").write_text(SERVER)
    (folder / "on_serve.py").write_text(ON_SERVE)
    process = [sys.executable, str(folder / "calculator.py")]
    with contextlib.ExitStack() as stack, socket.socket() as free:
        serve = ["-m", "skate", "mcp"]
        server = stack.enter_context(started(folder, [*serve, "run", "calculator:make", "--port", "0"]))
        (folder / "gateway.toml").write_text(
            f'port = 0\n[servers.far]\nurl = "{server}"\n[servers.process]\ncommand = {process!r}\n'
        )
        gateway = stack.enter_context(started(folder, [*serve, "gateway", "gateway.toml"]))
        bridge = stack.enter_context(started(folder, [*serve, "bridge", "--port", "0", "--", *process]))
        naive = stack.enter_context(
            started(folder, [*serve, "run", "calculator:naive", "--port", "0"], UPSTREAM=server)
        )
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        on_serve = stack.enter_context(started(folder, ["on_serve.py", str(port)]))
        yield {
            "server": (server, "add"),
            "gateway": (gateway, "far__add"),
            "gateway_stdio": (gateway, "process__add"),
            "bridge": (bridge, "add"),
            "serve": (on_serve, "add"),
            "serve_gateway": (on_serve.replace("/mcp", "/gateway"), "own__add"),
            "naive": (naive, "add"),
        }


def measure(rounds: int, count: int) -> str:
    """The table."""
    took: dict[tuple[str, str], list[float]] = {}
    rates: dict[tuple[str, str], list[float]] = {}
    apart: dict[tuple[str, str], list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder, everything(Path(folder)) as ways:
        for turn in range(rounds):
            for mode in MODES:
                quick = {way: where for way, where in ways.items() if way != "naive"}
                found = asyncio.run(calls(quick, mode, count))
                found |= asyncio.run(calls({"naive": ways["naive"]}, mode, max(count // 10, 5)))
                for way, samples in found.items():
                    took.setdefault((mode, way), []).extend(samples)
                for way, (url, tool) in quick.items():
                    rates.setdefault((mode, way), []).append(asyncio.run(at_once(url, tool, mode, count)))
                for way in ("server", "gateway") if turn < 3 else ():
                    url, tool = ways[way]
                    apart.setdefault((mode, way), []).append(asyncio.run(sessions(url, tool, mode, 100)))
    return "\n".join([*table(took, rates), "", *goals(took, apart)])


def table(took: dict[tuple[str, str], list[float]], rates: dict[tuple[str, str], list[float]]) -> Iterator[str]:
    for mode, text in MODES.items():
        yield f"{'tool calls ' + text:<46}{'median ms':>10}{'p99 ms':>9}{'adds ms':>9}{'calls/s, 16 at once':>21}"
        base = statistics.median(took[mode, "server"])
        for way, name in WAYS.items():
            samples = sorted(took[mode, way])
            middle = statistics.median(samples)
            rate = f"{statistics.median(rates[mode, way]):.0f}" if (mode, way) in rates else ""
            p99 = samples[int(len(samples) * 0.99)]
            yield f"{name:<46}{middle * 1e3:>10.2f}{p99 * 1e3:>9.2f}{(middle - base) * 1e3:>9.2f}{rate:>21}"
        yield ""


def goals(
    took: dict[tuple[str, str], list[float]], apart: dict[tuple[str, str], list[tuple[float, float]]]
) -> Iterator[str]:
    def verdict(good: bool) -> str:
        return "met" if good else "missed"

    for mode, text in MODES.items():
        for way, base in (("gateway", "server"), ("gateway_stdio", "server"), ("serve_gateway", "serve")):
            adds = (statistics.median(took[mode, way]) - statistics.median(took[mode, base])) * 1e3
            yield f"{WAYS[way]}, {text}: adds {adds:.2f} ms, goal under 3 ms: {verdict(adds < 3)}"
    for (mode, way), pairs in apart.items():
        one = statistics.median(pair[0] for pair in pairs)
        fresh = statistics.median(pair[1] for pair in pairs)
        yield (
            f"100 calls, {WAYS[way]}, {MODES[mode]}: {one * 1e3:.0f} ms over one session, {fresh * 1e3:.0f} ms "
            f"with one each: {fresh / one:.1f}x, goal 10x: {verdict(fresh / one >= 10)}"
        )


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--calls", type=int, default=200, help="in each round, of each way")
    options.add_argument("--out", type=Path, default=HERE / "results" / f"{date.today()}-mcp.txt")
    given = options.parse_args()
    warnings.simplefilter("ignore")
    before = os.getloadavg()[0]
    text = measure(given.rounds, given.calls)
    text += f"\n\n{os.cpu_count()} CPUs; load before and after: {before:.1f}, {os.getloadavg()[0]:.1f}\n"
    print(text)
    given.out.write_text(text)


if __name__ == "__main__":
    main()
