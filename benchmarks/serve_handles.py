"""Calls from deployment to deployment, streams and the start of an application: Skate beside Ray Serve, in turns.

    python benchmarks/serve_handles.py [--ray PYTHON] [--rounds N] [--out FILE]

`--ray` names a Python that has ``ray[serve]``. Each contestant is a process that runs the same lines with its own
package, and waits for its turn; ratios are of the same round, and their median is shown. `start` is a new process for
each sample: from an initialised session (for Ray: a started cluster with serve's controller in it, which Skate is not
given) to the first answer.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

CHILD = """
import asyncio, json, os, sys, time
package, what = sys.argv[1:]
if package == "ray":
    import ray
    from ray import serve
else:
    import skate as ray
    from skate import serve
ray.init(num_cpus=4, **({"include_dashboard": False, "log_to_driver": False} if package == "ray" else {}))


@serve.deployment(max_ongoing_requests=200)
class Inner:
    async def __call__(self, value):
        return value

    async def count(self, number):
        for value in range(number):
            yield value


@serve.deployment(max_ongoing_requests=200)
class Outer:
    def __init__(self, inner):
        self.inner = inner

    async def one_by_one(self, seconds):
        began, calls = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            await self.inner.remote(calls)
            calls += 1
        return calls / (time.perf_counter() - began)

    async def hundred(self, seconds):
        began, calls = time.perf_counter(), 0

        async def work():
            nonlocal calls
            while time.perf_counter() - began < seconds:
                await self.inner.remote(calls)
                calls += 1

        await asyncio.gather(*(work() for _ in range(100)))
        return calls / (time.perf_counter() - began)

    async def stream(self, seconds):
        began, items = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            async for _ in self.inner.options(stream=True).count.remote(1000):
                items += 1
        return items / (time.perf_counter() - began)


if what == "start":
    if package == "ray":
        serve.start()
    began = time.perf_counter()
    handle = serve.run(Inner.bind(), route_prefix=None)
    assert handle.remote(1).result() == 1
    print("TOOK", time.perf_counter() - began, flush=True)
    serve.shutdown()
    ray.shutdown()
    sys.exit()

handle = serve.run(Outer.bind(Inner.bind()), route_prefix=None)
inner = serve.get_deployment_handle("Inner", "default")
handle.one_by_one.remote(0.3).result()
print("READY", flush=True)
for line in sys.stdin:
    case, seconds = line.split()
    seconds = float(seconds)
    if case == "driver":
        began, calls = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            inner.remote(calls).result()
            calls += 1
        rate = calls / (time.perf_counter() - began)
    else:
        rate = getattr(handle, case).remote(seconds).result()
    print("RATE", rate, flush=True)
serve.shutdown()
ray.shutdown()
"""
CASES = {
    "one_by_one": "handle call from a deployment to another, one at a time, calls/s",
    "hundred": "the same, 100 in flight, calls/s",
    "driver": "handle call of a driver, one at a time, calls/s",
    "stream": "items of a stream from a deployment to another, items/s",
}


def child(python: str, package: str, what: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
    return subprocess.Popen(
        [python, "-W", "ignore", "-c", CHILD, package, what],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    )


def answer(process: subprocess.Popen[str], word: str) -> float:
    """The number after `word` in what the process prints next."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(word):
            return float(([*line.split(), "0"])[1])
    raise RuntimeError(f"it ended with {process.wait()}")


def calls(pythons: dict[str, str], rounds: int, seconds: float) -> dict[str, dict[str, list[float]]]:
    """Rates by case and package."""
    found: dict[str, dict[str, list[float]]] = {case: {name: [] for name in pythons} for case in CASES}
    running = {name: child(python, name, "calls") for name, python in pythons.items()}
    try:
        for process in running.values():
            answer(process, "READY")
        for _ in range(rounds):
            for case in CASES:
                for name, process in running.items():
                    assert process.stdin is not None
                    process.stdin.write(f"{case} {seconds}\n")
                    process.stdin.flush()
                    found[case][name].append(answer(process, "RATE"))
    finally:
        for process in running.values():
            process.communicate(timeout=60)
    return found


def starts(pythons: dict[str, str], rounds: int) -> dict[str, list[float]]:
    """Seconds to the first answer by package."""
    found: dict[str, list[float]] = {name: [] for name in pythons}
    for _ in range(rounds):
        for name, python in pythons.items():
            process = child(python, name, "start")
            found[name].append(answer(process, "TOOK"))
            process.communicate(timeout=60)
    return found


def ratio(rows: dict[str, list[float]], *, inverse: bool = False) -> str:
    if "ray" not in rows:
        return ""
    pairs = [ours / theirs for ours, theirs in zip(rows["skate"], rows["ray"], strict=True)]
    middle = statistics.median(1 / each if inverse else each for each in pairs)
    return f"{middle:.1f}x"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ray", help="a Python with ray[serve]")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    pythons = {"skate": sys.executable, **({"ray": options.ray} if options.ray else {})}
    load = os.getloadavg()[0]
    rates = calls(pythons, options.rounds, options.seconds)
    took = starts(pythons, options.rounds)
    lines = [f"serve's handles, medians of {options.rounds} rounds; load of the machine before: {load:.1f}", ""]
    for case, text in CASES.items():
        shown = "  ".join(f"{name} {statistics.median(values):>9,.0f}" for name, values in rates[case].items())
        lines.append(f"{text:66} {shown}  {ratio(rates[case])}")
    shown = "  ".join(f"{name} {statistics.median(values):>9.3f}" for name, values in took.items())
    lines.append(f"{'serve.run to the first answer, s':66} {shown}  {ratio(took, inverse=True)}")
    print("\n".join(lines))
    if options.out:
        options.out.with_suffix(".txt").write_text("\n".join(lines) + "\n")
        options.out.with_suffix(".json").write_text(json.dumps({"load": load, "rates": rates, "start": took}, indent=1))


if __name__ == "__main__":
    main()
