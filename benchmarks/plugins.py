"""A light route of a plugin beside plain FastAPI and FrameX, alone and while another plugin works hard.

    python benchmarks/plugins.py [--rounds N] [--seconds S] [--framex PYTHON] [--out FILE]

`--framex` names a Python that has ``framex-kit[ray]``: 0.4.1 with ``fastapi==0.121.3`` and ``protobuf<7``, for
the Ray that it asks for knows no later ones. The same two plugins, written for it, run there on Ray with its defaults.
`--out` names a file for the table.

In each round all are measured one after another, first alone, then while a client asks for heavy work on the event loop
of another plugin without a pause. Ratios are of the same round, and their median is shown. CPU is of the server's
processes, in microseconds for a request, and says most on a busy machine. Requests come from `wrk` (its path in WRK, or
on the PATH).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

import psutil

from serve_http import free_port, milliseconds

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "plugin_service"
PLAIN = """
import sys, uvicorn
from fastapi import FastAPI
app = FastAPI()
@app.get("/api/v1/hello")
async def hello(name: str = "you") -> str:
    return f"hello {name}"
uvicorn.run(app, port=int(sys.argv[1]), log_level="error", access_log=False)
"""
SETTINGS = {
    "load_plugins": '["plugins.story", "plugins.numbers"]',
    "load_builtin_plugins": "[]",
    "log.access": "false",
    "plugins.numbers.most": "2000000",
}
FRAMEX_HEAD = """
from framex.plugin import BasePlugin, PluginMetadata, on_register, on_request
__plugin_meta__ = PluginMetadata(name=__name__, version="1", description="", author="", url="")
"""
FRAMEX = {
    "light": """
@on_register()
class LightPlugin(BasePlugin):
    @on_request("/hello", methods=["GET"])
    async def hello(self, name: str) -> str:
        return f"hello {name}"
""",
    "heavy": """
@on_register()
class HeavyPlugin(BasePlugin):
    @on_request("/primes/busy", methods=["GET"])
    async def busy(self, below: int) -> int:
        sieve = bytearray([1]) * max(below, 2)
        sieve[0:2] = b"\\0\\0"
        for number in range(2, int(below**0.5) + 1):
            if sieve[number]:
                sieve[number * number :: number] = bytes(len(range(number * number, len(sieve), number)))
        return sum(sieve)
""",
}
HEAVY = "/api/v1/primes/busy?below=2000000"
LIGHT = "/api/v1/hello?name=you"
Row = dict[str, float]


class Server:
    """A server in a process of its own."""

    def __init__(self, name: str, framex: str = "") -> None:
        self.name = name
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.folder = tempfile.TemporaryDirectory()
        python, place, environment = sys.executable, EXAMPLE, dict(os.environ)
        if name == "plain":
            command = ["-c", PLAIN, str(self.port)]
        elif name == "framex":
            python, place = framex, Path(self.folder.name)
            for module, text in FRAMEX.items():
                (place / f"{module}.py").write_text(FRAMEX_HEAD + text)
            loaded = [word for module in FRAMEX for word in ("--load-plugins", module)]
            ports = ["--port", str(self.port), "--dashboard-port", str(free_port())]
            command = ["-c", "from framex.cli import framex; framex()", "run", "--use-ray", *ports, *loaded]
            command += ["--num-cpus", "4"]  # each of its deployments asks for one
            environment |= {"PYTHONPATH": str(place), "RAY_USAGE_STATS_ENABLED": "0"}
        else:
            options = [word for each, value in SETTINGS.items() for word in ("--set", f"{each}={value}")]
            command = ["-m", "skate", "plugin", "run", "--engine", name, "--port", str(self.port), *options]
        log = Path(self.folder.name, "log")
        with log.open("w") as said:
            self.process = subprocess.Popen(
                [python, *command], cwd=place, env=environment, stdout=said, stderr=subprocess.STDOUT
            )
        deadline = time.monotonic() + 240
        while True:
            try:
                urllib.request.urlopen(self.url + LIGHT, timeout=5).read()
                return
            except OSError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    last = log.read_text()[-2000:]
                    self.stop()
                    raise RuntimeError(f"{name} does not answer:\n{last}") from None
                time.sleep(0.2)

    def cpu(self) -> float:
        """Seconds of CPU that its processes have had."""
        top = psutil.Process(self.process.pid)
        times = [each.cpu_times() for each in [top, *top.children(recursive=True)]]
        return sum(each.user + each.system for each in times)

    def measure(self, wrk: str, seconds: float) -> Row:
        """Requests per second, milliseconds at 99 %, microseconds of CPU for each."""
        before = self.cpu()
        command = [wrk, "-t1", "-c8", f"-d{seconds:g}s", "--latency", self.url + LIGHT]
        found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        if "Non-2xx" in found:
            raise RuntimeError(f"{self.name} answered with errors:\n{found}")
        requests = int(re.findall(r"(\d+) requests in", found)[0])
        return {
            "rps": float(re.findall(r"Requests/sec: *(\S+)", found)[0]),
            "p99": milliseconds(re.findall(r"99% *([\d.]+(?:us|ms|s))", found)[0]),
            "cpu": (self.cpu() - before) / requests * 1e6,
        }

    def measure_beside_heavy_work(self, wrk: str, seconds: float) -> Row:
        """The same while another plugin works."""
        over = threading.Event()

        def ask() -> None:
            while not over.is_set():
                urllib.request.urlopen(self.url + HEAVY, timeout=60).read()

        thread = threading.Thread(target=ask)
        thread.start()
        try:
            return self.measure(wrk, seconds)
        finally:
            over.set()
            thread.join()

    def stop(self) -> None:
        """End it."""
        with contextlib.suppress(psutil.NoSuchProcess):
            below = psutil.Process(self.process.pid).children(recursive=True)
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            for each in psutil.wait_procs(below, 10)[1]:  # Ray's daemons
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.kill()
        self.folder.cleanup()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--framex", metavar="PYTHON", help="a Python with framex-kit[ray], to be measured too")
    parser.add_argument("--out", type=Path, help="a file for the table")
    asked = parser.parse_args()
    wrk = os.environ.get("WRK") or shutil.which("wrk")
    if wrk is None:
        parser.error("wrk is needed: put it on the PATH, or its path into WRK")
    names = ("plain", "inline", "local", *(["framex"] if asked.framex else []))
    alone: dict[str, list[Row]] = {name: [] for name in names}
    beside: dict[str, list[Row]] = {name: [] for name in names[1:]}
    servers: list[Server] = []
    try:
        for name in names:
            servers.append(Server(name, asked.framex or ""))
        for _ in range(asked.rounds):
            for each in servers:
                alone[each.name].append(each.measure(wrk, asked.seconds))
            for each in servers[1:]:
                beside[each.name].append(each.measure_beside_heavy_work(wrk, asked.seconds))
    finally:
        for each in servers:
            each.stop()

    lines = table(alone, beside)
    print("\n".join(lines))
    if asked.out:
        asked.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


def ratio(mine: list[Row], theirs: list[Row], key: str) -> float:
    """The median of the rounds' ratios."""
    return statistics.median(one[key] / other[key] for one, other in zip(mine, theirs, strict=True))


def table(alone: dict[str, list[Row]], beside: dict[str, list[Row]]) -> list[str]:
    """A line for each server, after one that says what it has."""
    framex = alone.get("framex")
    titles = f"{'server':8} {'req/s':>8} {'p99 ms':>8} {'cpu us':>8}"
    lines = [f"{titles} {'of plain':>9} {'of FrameX':>11} {'p99 beside heavy work':>22}"]
    for name, rows in alone.items():
        figures = [statistics.median(row[key] for row in rows) for key in ("rps", "p99", "cpu")]
        share = ratio(rows, alone["plain"], "rps")
        times = f"{ratio(rows, framex, 'rps'):.1f} times" if framex else ""
        heavy = f"{ratio(beside[name], rows, 'p99'):.1f} times" if name in beside else ""
        lines.append(
            f"{name:8} {figures[0]:8.0f} {figures[1]:8.2f} {figures[2]:8.1f} {share:9.0%} {times:>11} {heavy:>22}"
        )
    return lines


if __name__ == "__main__":
    main()
