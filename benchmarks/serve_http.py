"""HTTP of serve beside the bare server and Ray Serve, in one interleaved run.

    python benchmarks/serve_http.py [--ray PYTHON] [--rounds N] [--seconds S] [--out FILE]

Every contestant runs the same ASGI application with one replica. In each round all are measured one after another;
ratios are of the same round, and their median is shown. Requests come from `wrk` (its path in WRK, or on the PATH).
`--ray` names a Python that has ``ray[serve]``.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
CHUNKS = 100_000
FIRST_ANSWER = """
import http.client, sys, time
import skate
from skate import serve
if sys.argv[1] == "up":
    skate.init(num_cpus=2)
    skate.get(skate.remote(lambda: 1).remote())
@serve.deployment
class Hello:
    async def __call__(self, request):
        return {"hello": "world"}
began = time.perf_counter()
serve.start(http_options={"port": int(sys.argv[2])})
serve.run(Hello.bind())
connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[2]))
connection.request("GET", "/")
assert connection.getresponse().read() == b'{"hello":"world"}'
print(time.perf_counter() - began)
serve.shutdown()
"""


def free_port() -> int:
    """A port that nobody has, of those that no outgoing connection gets either."""
    while True:
        port = random.randrange(20_000, 30_000)
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return port


class Contestant:
    """A server in a process of its own."""

    def __init__(self, name: str, python: str) -> None:
        self.name = name
        self.port = free_port()
        environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
        self.process = subprocess.Popen(
            [python, str(HERE / "serve_http_apps.py"), name, str(self.port)], env=environment, start_new_session=True
        )

    def wait(self) -> None:
        """Return when it answers."""
        deadline = time.monotonic() + 120
        while True:
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
                    connection.sendall(b"GET / HTTP/1.1\r\nHost: b\r\nConnection: close\r\n\r\n")
                    if b" 200 " in connection.recv(1000):
                        return
            except OSError:
                pass
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise RuntimeError(f"{self.name} does not answer")
            time.sleep(0.2)

    def requests(self, wrk: str, connections: int, seconds: float) -> dict[str, float]:
        """Requests per second, and milliseconds at the median and at 99 %."""
        found = subprocess.run(
            [wrk, "-t1", f"-c{connections}", f"-d{seconds:g}s", "--latency", f"http://127.0.0.1:{self.port}/"],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        if "Non-2xx" in found:
            raise RuntimeError(f"{self.name} answered with errors:\n{found}")
        return {
            "rps": float(re.findall(r"Requests/sec: *(\S+)", found)[0]),
            "p50": milliseconds(re.findall(r"50% *(\S+)", found)[0]),
            "p99": milliseconds(re.findall(r"99% *(\S+)", found)[0]),
        }

    def chunks(self) -> dict[str, float]:
        """Chunks per second of one stream, and milliseconds until the first."""
        with socket.create_connection(("127.0.0.1", self.port)) as connection:
            began = time.perf_counter()
            connection.sendall(b"GET /chunks?%d HTTP/1.1\r\nHost: b\r\n\r\n" % CHUNKS)
            tail, first, seen = b"", 0.0, 0
            while not tail.endswith(b"\r\n0\r\n\r\n"):
                data = connection.recv(1 << 20)
                seen += data.count(b"abcdef\r\n")
                if seen and not first:
                    first = time.perf_counter() - began
                tail = (tail + data)[-16:]
            return {"chunks": CHUNKS / (time.perf_counter() - began), "first": first * 1000}

    def stop(self) -> None:
        """End it, with all that it started."""
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def milliseconds(text: str) -> float:
    """What wrk writes, as in ``1.25ms``."""
    number, unit = re.findall(r"([\d.]+)(us|ms|s)", text)[0]
    return float(number) * {"us": 0.001, "ms": 1, "s": 1000}[unit]


def middle(rows: list[dict[str, float]], key: str) -> float:
    """The median."""
    return statistics.median(row[key] for row in rows)


def ratio(rows: dict[str, list[dict[str, float]]], one: str, other: str, key: str) -> float:
    """The median of the ratios in the same round."""
    pairs = zip(rows[one], rows[other], strict=True)
    return statistics.median(mine[key] / theirs[key] for mine, theirs in pairs)


def measure(contestants: list[Contestant], rounds: int, run: Any) -> dict[str, list[dict[str, float]]]:
    """Each contestant in each round."""
    found: dict[str, list[dict[str, float]]] = {one.name: [] for one in contestants}
    for _ in range(rounds):
        for one in contestants:
            found[one.name].append(run(one))
    return found


def first_answers(rounds: int) -> list[str]:
    """How long `serve.run` and a first request take."""
    lines = []
    for what, text in (("up", "session up"), ("down", "with the session's start")):
        took = [
            float(
                subprocess.run(
                    [sys.executable, "-c", FIRST_ANSWER, what, str(free_port())],
                    capture_output=True, text=True, check=True,
                ).stdout
            )
            for _ in range(rounds)
        ]  # fmt: skip
        lines.append(
            f"serve.start and run to the first answer, {text}: {statistics.median(took):.3f} s, at best {min(took):.3f}"
        )
    return lines


def report(found: dict[str, dict[str, list[dict[str, float]]]]) -> list[str]:
    """The figures as lines."""
    lines = [f"{'':24}{'requests/s':>12}{'p50 ms':>9}{'p99 ms':>9}{'of bare':>9}{'p99 to bare':>13}{'to ray':>9}"]
    for case, rows in found.items():
        for name, values in rows.items():
            line = f"{case + ' ' + name:24}"
            if "rps" in values[0]:
                line += f"{middle(values, 'rps'):12,.0f}{middle(values, 'p50'):9.3f}{middle(values, 'p99'):9.2f}"
                line += f"{ratio(rows, name, 'bare', 'rps'):9.2f}{ratio(rows, name, 'bare', 'p99'):13.2f}"
                line += f"{ratio(rows, name, 'ray', 'rps'):9.1f}" if "ray" in rows else ""
            else:
                line += f"{middle(values, 'chunks'):12,.0f} chunks/s, the first after {middle(values, 'first'):.2f} ms"
                line += f", {ratio(rows, name, 'bare', 'chunks'):.2f} of bare"
            lines.append(line)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ray", default="", help="a Python that has ray[serve]")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--out", default="")
    options = parser.parse_args()
    wrk = os.environ.get("WRK") or shutil.which("wrk")
    if not wrk:
        sys.exit("this needs wrk: install it, or name it in WRK")
    contestants = [Contestant("bare", sys.executable), Contestant("skate", sys.executable)]
    if options.ray:
        contestants.append(Contestant("ray", options.ray))
    found = {}
    try:
        for one in contestants:
            one.wait()
            one.requests(wrk, 8, 1)  # warm
        for connections in (1, 64, 512):
            found[f"{connections} connections"] = measure(
                contestants,
                options.rounds,
                lambda one, connections=connections: one.requests(wrk, connections, options.seconds),
            )
        found["stream"] = measure(contestants, options.rounds, Contestant.chunks)
    finally:
        for one in contestants:
            one.stop()
    load = os.getloadavg()[0]
    lines = [
        f"HTTP of serve: medians of {options.rounds} interleaved rounds of {options.seconds:g} s; "
        f"{os.cpu_count()} CPUs shared with wrk, load at the end {load:.1f}",
        *report(found),
        *first_answers(options.rounds),
    ]
    print("\n".join(lines))
    if options.out:
        Path(options.out).write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
